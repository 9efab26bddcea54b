package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"edgegateway/devices/modbus"
)

// A nameplate is a device whose unit 1 says who it is; unit 2 does not know
// how to.
type nameplate struct{}

func (nameplate) Read(dst []byte, unit byte, t modbus.Table, address, count uint16) ([]byte, error) {
	if unit > 2 {
		return nil, modbus.ErrSilent
	}
	for range count {
		dst = append(dst, 0, byte(address))
	}
	return dst, nil
}

func (nameplate) Write(unit byte, t modbus.Table, address, count uint16, raw []byte) error {
	return &modbus.Exception{Function: 16, Code: modbus.IllegalAddress}
}

func (nameplate) Identity(unit byte) (map[byte]string, error) {
	if unit != 1 {
		return nil, &modbus.Exception{Function: 43, Code: modbus.IllegalFunction}
	}
	return map[byte]string{modbus.VendorName: "Acme", modbus.ProductCode: "PM-1", modbus.Revision: "2.3"}, nil
}

func TestUnitsSayWhoTheyAre(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- modbus.ServeTCP(ctx, l, nameplate{}) }()
	t.Cleanup(func() { cancel(); <-ended })

	addr := l.Addr().String()
	s := newSite(t, fmt.Sprintf("[bus.plc]\naddress = \"tcp://%s\"\n", addr), map[string]string{
		"plc": "[device.plc]\nbus = \"plc\"\nunit_id = 1\n[device.plc.points]\nlevel = { holding = 7 }\n",
	})
	for _, running := range []bool{false, true} {
		if running {
			s.run()
		}
		out, code := s.command("read", "plc/1", "identity")
		if code != exitOK || !strings.Contains(out, "VendorName") || !strings.Contains(out, `"PM-1"`) {
			t.Errorf("running %v: code %d:\n%s", running, code, out)
		}
		if out, code := s.command("read", "plc/2", "identity"); code != exitFailed || !strings.Contains(out, "illegal function") {
			t.Errorf("running %v, a unit without identity: code %d:\n%s", running, code, out)
		}
		out, code = s.command("scan", "plc", "--units", "1-2")
		if code != exitOK || strings.Count(out, "It calls itself Acme PM-1 2.3.") != 1 {
			t.Errorf("running %v: scan: code %d:\n%s", running, code, out)
		}
	}
}
