package main

import (
	"strings"
	"testing"
)

// What cannot be right is told in the log and by `status`, once, with the line
// and the change to make; what is right is not, nor what was right before.
func TestWhatCannotBeRightIsTold(t *testing.T) {
	port := freePort(t)
	bus := "[bus.plc]\naddress = \"tcp://127.0.0.1:" + port + "\"\n"
	head := "[device.plc]\nbus = \"plc\"\nunit_id = 1\nevery = \"100ms\"\n[device.plc.points]\n"
	real := newSite(t, bus, map[string]string{"plc": head + `
low   = { input = 10, type = "f32", unit = "V" }
right = { input = 20, type = "f32", unit = "V" }
order = { input = 30, type = "f32", unit = "V" }
`})
	sim := start(t, binary, real.args("simulate")...)
	eventually(t, "the plant is there", func() bool { return strings.Contains(sim.out.String(), "All buses are where") })
	s := newSite(t, bus, map[string]string{"plc": head + `
low   = { input = 11, type = "f32", unit = "V" }
right = { input = 20, type = "f32", unit = "V" }
order = { input = 30, type = "f32", unit = "V", order = "CDAB" }
`})
	s.run()
	for _, want := range []string{
		"plc.low cannot be right (devices.d/plc.toml:7); one register lower it would be 2",
		"write input = 10, as manuals", "plc.order cannot be right (devices.d/plc.toml:9); in order ABCD it would be 2",
	} {
		eventually(t, "the log says "+want, func() bool { return strings.Contains(s.out.String(), want) })
	}
	if strings.Contains(s.out.String(), "plc.right") {
		t.Error("what is right is doubted")
	}
	if out, _ := s.command("status"); !strings.Contains(out, "cannot be right (devices.d/plc.toml:") || !strings.Contains(out, "and 1 more") {
		t.Errorf("status:\n%s", out)
	}
	if n := strings.Count(s.out.String(), "plc.low cannot be right"); n != 1 {
		t.Errorf("told %d times", n)
	}
	eventually(t, "read says both", func() bool { // half of a number may look like anything for once
		_, talk, _ := s.talk("read", "plc")
		return strings.Count(talk, "cannot be right") == 2
	})
}
