package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// Profiles returns a device for each Modbus profile there is: those of the
// configuration at path (a folder or a file, which need not exist) and those
// built in. Its Profile says which it is; bus and unit mean nothing. Profiles
// with faults are left out.
func Profiles(path string, opts Options) []*mapping.Device {
	l := newLoader(opts)
	dir := path
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		dir = filepath.Dir(path)
	}
	l.setDir(dir)
	var text strings.Builder
	text.WriteString("name = \"profiles\"\n[bus.x]\naddress = \"tcp://127.0.0.1:502\"\n")
	for i, name := range l.profileNames() {
		fmt.Fprintf(&text, "[device.p%d]\nprofile = %q\nbus = \"x\"\nunit_id = 1\n", i, name)
	}
	root, ok := parse(&source{name: "profiles", data: text.String()}, l.Report)
	if !ok {
		return nil
	}
	l.readGateway(root)
	var list []*mapping.Device
	for _, d := range l.cfg.Devices {
		if registersOnly(d) {
			list = append(list, d)
		}
	}
	return list
}

// registersOnly reports whether d has points, all of them in registers.
func registersOnly(d *mapping.Device) bool {
	for _, p := range d.Points {
		if _, ok := modbus.RegisterOf(p.Source); !ok {
			return false
		}
	}
	return len(d.Points) > 0
}
