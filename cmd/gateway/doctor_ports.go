package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"edgegateway/devices/serial"
	"edgegateway/internal/config"
)

const portsArea = "serial ports"

// ports looks at each serial port of the configuration.
func (d *doctor) ports() {
	if d.cfg == nil {
		return
	}
	adapters, n := false, 0
	for _, b := range d.cfg.Buses {
		if !strings.HasPrefix(b.Address, "/") {
			continue
		}
		n++
		if tty, ok := d.port(b); ok {
			adapters = adapters || isAdapter(tty)
		}
	}
	if n == 0 {
		d.say(portsArea, fine, "", "", "the configuration has none")
		return
	}
	for _, name := range d.running("ModemManager", "brltty") {
		if adapters {
			d.say(portsArea, warning, "", "sudo systemctl disable --now "+name+" (or: sudo apt purge "+strings.ToLower(name)+")",
				"%s runs: it takes USB adapters for its own when they are plugged in, and speaks on the line", name)
		}
	}
}

// isAdapter reports whether a tty is on USB.
func isAdapter(tty string) bool {
	return strings.HasPrefix(tty, "ttyUSB") || strings.HasPrefix(tty, "ttyACM")
}

// port looks at one, and reports which tty it is and whether it is there.
func (d *doctor) port(b *config.Bus) (tty string, there bool) {
	about := "bus " + b.ID
	real, err := filepath.EvalSymlinks(d.path(b.Address))
	if err != nil {
		names := "there is none at present"
		if list := serial.PortsUnder(d.root); len(list) > 0 {
			names = "there is " + strings.Join(list[:min(8, len(list))], ", ")
		}
		d.say(portsArea, failure, about, "plug the adapter in (`dmesg -w` shows whether the kernel sees it), or write the name of one that there is", "no port %s; %s", b.Address, names)
		return "", false
	}
	tty = filepath.Base(real)
	before := len(d.findings)
	d.permission(about, b.Address, real)
	d.held(about, b)
	d.console(about, tty)
	d.stableName(about, b.Address, tty)
	d.latency(about, b, tty)
	if len(d.findings) == before {
		d.say(portsArea, fine, about, "", "%s is %s, for the gateway to open, and nobody else has it", b.Address, tty)
	}
	return tty, true
}

// A person is a user with his groups.
type person struct {
	name string
	uid  int
	gids []int
}

// may reports whether p may read and write a file.
func (p *person) may(st *syscall.Stat_t) bool {
	switch {
	case p.uid == 0:
		return true
	case int(st.Uid) == p.uid:
		return st.Mode&0o600 == 0o600
	case slices.Contains(p.gids, int(st.Gid)):
		return st.Mode&0o060 == 0o060
	}
	return st.Mode&0o006 == 0o006
}

// groupsOf lists the groups of /etc/group by number.
func (h *host) groupsOf() (names map[int]string, members map[int][]string) {
	names, members = map[int]string{}, map[int][]string{}
	for line := range strings.Lines(h.read("etc/group")) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 4 {
			gid, _ := strconv.Atoi(f[2])
			names[gid], members[gid] = f[0], strings.Split(f[3], ",")
		}
	}
	return names, members
}

// service returns the user of the service, nil if it is not installed. Its
// unit adds the group dialout.
func (h *host) service() *person {
	names, members := h.groupsOf()
	for line := range strings.Lines(h.read("etc/passwd")) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[0] != "gateway" {
			continue
		}
		p := &person{name: f[0]}
		p.uid, _ = strconv.Atoi(f[2])
		gid, _ := strconv.Atoi(f[3])
		p.gids = []int{gid}
		for gid, name := range names {
			if name == "dialout" || slices.Contains(members[gid], p.name) {
				p.gids = append(p.gids, gid)
			}
		}
		return p
	}
	return nil
}

// permission looks whether the service and who looks may open a port.
func (d *doctor) permission(about, name, real string) {
	info, err := os.Stat(real)
	if err != nil {
		d.say(portsArea, failure, about, "sudo gateway doctor", "%s: %v", name, err)
		return
	}
	st := info.Sys().(*syscall.Stat_t)
	names, _ := d.groupsOf()
	group := names[int(st.Gid)]
	if group == "" {
		group = strconv.Itoa(int(st.Gid))
	}
	remedy := func(user string) string {
		if st.Mode&0o060 != 0o060 {
			return fmt.Sprintf("a rule in /etc/udev/rules.d that gives it back to a group: KERNEL==\"%s\", GROUP=\"dialout\", MODE=\"0660\"; then plug it in anew", path.Base(real))
		}
		return fmt.Sprintf("sudo usermod -aG %s %s", group, user)
	}
	service := d.service()
	if service != nil && !service.may(st) {
		d.say(portsArea, failure, about, remedy("gateway")+"; then sudo systemctl restart gateway", "the service (user gateway) may not open %s: it is of group %s with mode %04o", name, group, st.Mode&0o777)
	}
	me := &person{uid: d.uid, gids: d.gids}
	if service == nil && !me.may(st) {
		d.say(portsArea, failure, about, remedy("$USER")+"; then log in anew", "you may not open %s: it is of group %s with mode %04o", name, group, st.Mode&0o777)
	}
}

// held looks who has a port open.
func (d *doctor) held(about string, b *config.Bus) {
	var names []string
	for _, h := range d.holders(d.path(b.Address)) {
		if d.status == nil || h.PID != d.status.PID {
			names = append(names, h.String())
		}
	}
	if len(names) > 0 {
		d.say(portsArea, failure, about, "stop that; `gateway read`, `gateway write` and `gateway scan` go through the gateway while it runs",
			"%s is open in %s, and two programs on one line spoil each other's answers", b.Address, strings.Join(names, " and "))
	}
}

// console looks whether the kernel or a login uses a port.
func (d *doctor) console(about, tty string) {
	for _, word := range strings.Fields(d.read("proc/cmdline")) {
		name, isConsole := strings.CutPrefix(word, "console=")
		if name, _, _ = strings.Cut(name, ","); !isConsole || name != tty && d.target("dev/"+name) != tty {
			continue
		}
		d.say(portsArea, failure, about, "on a Pi, sudo raspi-config: Interface Options, Serial Port, login shell no, hardware yes; or take "+word+" out of /boot/firmware/cmdline.txt (/boot/cmdline.txt before Debian 12); on a PC, out of /etc/default/grub, and sudo update-grub; then sudo reboot",
			"the kernel writes its messages to %s (%s), in the middle of every answer", tty, word)
	}
	unit := "serial-getty@" + tty + ".service"
	for _, dir := range []string{"etc/systemd/system", "run/systemd/generator"} {
		if _, err := os.Lstat(d.path(path.Join(dir, "getty.target.wants", unit))); err == nil {
			d.say(portsArea, failure, about, "sudo systemctl mask --now "+unit, "a login waits on %s, and answers to what devices say", tty)
			return
		}
	}
}

// target returns the name of the tty that a link leads to.
func (h *host) target(name string) string {
	real, err := filepath.EvalSymlinks(h.path(name))
	if err != nil {
		return ""
	}
	return filepath.Base(real)
}

// linksTo lists the names of a folder of /dev/serial that lead to a tty.
func (h *host) linksTo(folder, tty string) (names []string) {
	entries, _ := os.ReadDir(h.path("dev/serial/" + folder))
	for _, e := range entries {
		if name := "dev/serial/" + folder + "/" + e.Name(); h.target(name) == tty {
			names = append(names, "/"+name)
		}
	}
	return names
}

// usb says what an adapter is by what udev makes its name of: maker, product
// and serial number. "" if that is not known.
func (h *host) usb(tty string) (kind, number string) {
	dir, err := filepath.EvalSymlinks(h.path("sys/class/tty/" + tty + "/device"))
	for ; err == nil && len(dir) > len(filepath.Clean(h.root)); dir = filepath.Dir(dir) {
		vendor, err := os.ReadFile(filepath.Join(dir, "idVendor"))
		if err != nil {
			continue
		}
		product, _ := os.ReadFile(filepath.Join(dir, "idProduct"))
		text, _ := os.ReadFile(filepath.Join(dir, "serial"))
		return strings.TrimSpace(string(vendor)) + ":" + strings.TrimSpace(string(product)), strings.TrimSpace(string(text))
	}
	return "", ""
}

// stableName looks whether the port is found again when it is plugged in anew.
func (d *doctor) stableName(about, address, tty string) {
	if !isAdapter(tty) {
		return
	}
	byPath := strings.Join(d.linksTo("by-path", tty), " or ")
	kind, number := d.usb(tty)
	twins := d.twins(tty)
	byID := strings.HasPrefix(address, "/dev/serial/by-id/")
	switch {
	case byID && len(twins) > 0:
		d.say(portsArea, failure, about, "write where it is plugged in instead: address = \""+byPath+"\"",
			"%s and %s have the same name, as their maker gave them no serial numbers: which of them it leads to is chance", tty, strings.Join(twins, ", "))
	case byID && kind != "" && number == "":
		d.say(portsArea, note, about, "before a second one: address = \""+byPath+"\"", "the adapter has no serial number: a second one like it would take the same name")
	case path.Dir(address) == "/dev" && path.Base(address) == tty:
		better := d.lastingName(tty)
		if better == "" {
			return
		}
		d.say(portsArea, warning, about, "address = \""+better+"\"", "%s is a number in the order of plugging in, and another one some day", address)
	}
}

// twins lists the ttys of other adapters that nothing tells from that of tty but
// where they are plugged in.
func (h *host) twins(tty string) (names []string) {
	kind, number := h.usb(tty)
	if kind == "" {
		return nil
	}
	ttys, _ := os.ReadDir(h.path("sys/class/tty"))
	for _, e := range ttys {
		if k, n := h.usb(e.Name()); e.Name() != tty && k == kind && n == number && !h.sameAdapter(tty, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

// lastingName is the name that a tty has whenever it is plugged in again, "" if
// there is none.
func (h *host) lastingName(tty string) string {
	if ids := h.linksTo("by-id", tty); len(ids) > 0 && len(h.twins(tty)) == 0 {
		return ids[0]
	}
	if paths := h.linksTo("by-path", tty); len(paths) > 0 {
		return paths[0]
	}
	return ""
}

// sameAdapter reports whether two ttys are ports of one adapter.
func (h *host) sameAdapter(a, b string) bool {
	of := func(tty string) string {
		dir, err := filepath.EvalSymlinks(h.path("sys/class/tty/" + tty + "/device"))
		for ; err == nil && len(dir) > len(filepath.Clean(h.root)); dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "idVendor")); err == nil {
				return dir
			}
		}
		return tty
	}
	return of(a) == of(b)
}

// latency looks at how long an adapter holds bytes back. While the gateway has
// the port open it asks the driver not to.
func (d *doctor) latency(about string, b *config.Bus, tty string) {
	ms, err := strconv.Atoi(d.read("sys/class/tty/" + tty + "/device/latency_timer"))
	if err != nil || ms <= 1 {
		return
	}
	if d.status == nil && (b.Modbus.Serial.LowLatency || b.Lines.Serial.LowLatency) {
		d.say(portsArea, note, about, "", "the adapter holds bytes back for %d ms; low_latency has it not do so while the gateway runs", ms)
		return
	}
	d.say(portsArea, warning, about, "low_latency = true in the table of the bus; for all programs, the rule in /usr/share/doc/gateway/examples/gateway.rules",
		"the adapter holds bytes back for %d ms, so that each request takes up to that much longer", ms)
}
