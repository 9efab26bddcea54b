package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

func TestParseFaults(t *testing.T) {
	dev := func(id string, unit byte) *mapping.Device {
		return &mapping.Device{Device: &devices.Device{ID: id, Name: id, Unit: modbus.Unit{ID: unit}}}
	}
	cfg := &config.Config{Buses: []*config.Bus{
		{ID: "rs485", Protocol: config.Modbus, Devices: []*mapping.Device{dev("main", 1), dev("shop", 7)}},
		{ID: "tcp://127.0.0.1:502", Protocol: config.Modbus, Devices: []*mapping.Device{dev("plc", 1)}},
		{ID: "mast", Protocol: config.Lines, Devices: []*mapping.Device{{Device: &devices.Device{ID: "wind", Name: "wind"}}}},
	}}
	type fault = simulator.Fault
	for _, c := range []struct {
		text string
		want simFault
	}{
		{"rs485/7:silent", simFault{bus: "rs485", unit: 7, fault: fault{Silent: true}}},
		{"shop:latency=300ms,every=10", simFault{bus: "rs485", unit: 7, fault: fault{Latency: 300 * time.Millisecond, Every: 10}}},
		{"rs485:exception=2", simFault{bus: "rs485", fault: fault{Exception: 2}}},
		{"rs485/1:noise=3, drop=1,flip=2,count=5", simFault{bus: "rs485", unit: 1, fault: fault{Noise: 3, Drop: 1, Flip: 2, Count: 5}}},
		{"tcp://127.0.0.1:502/1:wrong=transaction", simFault{bus: "tcp://127.0.0.1:502", unit: 1, fault: fault{Wrong: simulator.WrongTransaction}}},
		{"rs485/7:max_read=20,silent", simFault{bus: "rs485", unit: 7, fault: fault{MaxRead: 20, Silent: true}}},
		{"tcp://127.0.0.1:502:unplug", simFault{bus: "tcp://127.0.0.1:502", unplug: true}},
		{"rs485:unplug=10s", simFault{bus: "rs485", unplug: true, away: 10 * time.Second}},
		{"wind:silent", simFault{bus: "mast", unit: 1, fault: fault{Silent: true}}},
	} {
		got, err := parseFaults(cfg, []string{c.text})
		c.want.text = c.text
		if err != nil || len(got) != 1 || got[0] != c.want {
			t.Errorf("%s: got %+v, %v; want %+v", c.text, got, err, c.want)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"rs485", "WHERE:WHAT"}, {"rs485:", "WHERE:WHAT"}, {"rs486:silent", "the buses are: rs485, "}, {"rs485/8:silent", "it has [1 7]"},
		{"rs485/x:silent", "from 1 to 255"}, {"rs485/0:silent", "from 1 to 255"}, {"rs485/7:slow", "there are silent"}, {"rs485:,", "there are silent"},
		{"rs485/7:silent=1", "no value"}, {"rs485/7:latency=3", "latency=300ms"}, {"rs485/7:exception=300", "from 1 to 255"}, {"rs485/7:drop", "from 1 to 256"},
		{"rs485/7:max_read=125", "from 1 to 124"}, {"rs485/7:wrong", "wrong=unit"}, {"rs485/7:wrong=right", "wrong=unit"}, {"rs485/7:every=3", "add what is wrong"}, {"rs485/7:unplug", "whole bus"}, {"rs485:unplug=3", "unplug=10s"}, {"rs485:unplug,silent", "whole bus"},
	} {
		_, err := parseFaults(cfg, []string{c.text})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "--fault ") {
			t.Errorf("%s: error %v, want one with %q", c.text, err, c.want)
		}
	}
	if _, err := parseFaults(cfg, []string{"rs485/7:silent", "shop:drop=1"}); err == nil || !strings.Contains(err.Error(), "as one") {
		t.Errorf("two faults for one unit: %v", err)
	}
}

func TestSimulatedFaultsAreSeenForWhatTheyAre(t *testing.T) {
	t.Parallel()
	s := newSite(t, "[bus.rs485]\naddress = \"/dev/serial/by-id/none\"\nbaud = 38400\ntimeout = \"250ms\"\n[bus.away]\naddress = \"/dev/serial/by-id/nor\"\nbaud = 9600\n", map[string]string{
		"a": `
[devices.m]
bus = "rs485"
unit_ids = "1-6"
points.a = { holding = 0 }
[device.far]
bus = "away"
unit_id = 1
points.a = { holding = 0 }
`})
	sim := start(t, binary, s.args("simulate", "--site", filepath.Join(s.config, "site.toml"),
		"--fault", "rs485/2:silent", "--fault", "m-3:exception=4", "--fault", "rs485/4:drop=1", "--fault", "rs485/5:noise=3", "--fault", "rs485/6:wrong=unit", "--fault", "away:unplug")...)
	eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
	for device, want := range map[string]string{
		"m-1": `"error":""`, "m-2": `"error":"timeout"`, "m-3": `"error":"device failure"`, "m-4": `"error":"bad reply"`, "m-5": `"error":""`,
		"m-6": `"error":"bad reply"`, "far": `"error":"port unavailable"`,
	} {
		// On a busy machine an answer may be late.
		eventually(t, device+" is read with "+want, func() bool {
			out, code := s.command("read", device, "--json")
			good := want == `"error":""`
			return good == (code == exitOK) && good != strings.Contains(out, `"error":`) && (good || strings.Contains(out, want))
		})
	}
	// A scan tells those apart that are there but broken.
	eventually(t, "a scan names the units 1 and 4 and what is wrong with 4", func() bool {
		out, code := s.command("scan", "rs485", "--units", "1,2,4", "--timeout", "250ms")
		if strings.Contains(out, "# unit 2") {
			t.Fatalf("the silent unit is found:\n%s", out)
		}
		for _, want := range []string{"# unit 1 at ", "unit_id = 1", "# unit 4 at ", "probably two devices share this unit id"} {
			if !strings.Contains(out, want) {
				return false
			}
		}
		return code == exitOK
	})
	for _, c := range []struct{ args, want string }{{"2", "not a byte came"}, {"4", "bytes came, but no whole answer"}} {
		eventually(t, "a scan of unit "+c.args+" says "+c.want, func() bool {
			_, talk, code := s.talk("scan", "rs485", "--units", c.args, "--timeout", "250ms")
			return code == exitFailed && strings.Contains(talk, c.want)
		})
	}
}

// A device that refuses long requests is read in parts, and the log says what
// to write so that it is so from the start, which then is right.
func TestRefusedLengthIsToldWithWhatToWrite(t *testing.T) {
	for _, what := range []string{"max_read=20", "max_read=20,exception=2"} {
		var points strings.Builder
		for i := range 40 {
			fmt.Fprintf(&points, "p%02d = { holding = %d }\n", i, i)
		}
		device := "[device.m]\nbus = \"tcp://192.0.2.1:502\"\nunit_id = 1\nevery = \"100ms\"\n[device.m.points]\n" + points.String()
		s := newSite(t, "", map[string]string{"a": device})
		sim := start(t, binary, s.args("simulate", "--site", filepath.Join(s.config, "site.toml"), "--fault", "m:"+what)...)
		eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
		s.run()
		told := regexp.MustCompile(`the device refuses holding \d+-\d+ at once but gives it in two parts.*if it bears no longer requests, write max_read = (\d+)"`)
		eventually(t, "it is told what to write", func() bool { return told.MatchString(s.out.String()) })
		number, _ := strconv.Atoi(told.FindStringSubmatch(s.out.String())[1])
		if number < 10 || number > 20 {
			t.Errorf("%s: to write max_read = %d:\n%s", what, number, s.out)
		}
		whole := func() bool {
			status := s.status()
			return len(status.Devices) == 1 && !slices.ContainsFunc(status.Devices[0].Points, func(p PointStatus) bool { return p.Error != "" || p.Age == nil })
		}
		eventually(t, "all points have values", whole)
		s.stop()

		writeFile(t, filepath.Join(s.config, "devices.d", "a.toml"), strings.Replace(device, "unit_id = 1", fmt.Sprintf("unit_id = 1\nmax_read = %d", number), 1))
		if err := os.Remove(filepath.Join(s.state, "learned.json")); err != nil {
			t.Fatal(err)
		}
		s.run()
		eventually(t, "all points have values", whole)
		if told.MatchString(s.out.String()) {
			t.Errorf("%s: after it was done:\n%s", what, s.out)
		}
		s.stop()
	}
}

// A device that is silent where it should refuse looks as if it were off; that
// it is not is found out, once, and told with what to write.
func TestSilenceToLongRequestsIsToldWithWhatToWrite(t *testing.T) {
	t.Parallel()
	var points strings.Builder
	for i := range 30 {
		fmt.Fprintf(&points, "p%02d = { holding = %d, type = \"u32\" }\n", i, 2*i)
	}
	s := newSite(t, "[bus.rs485]\naddress = \"/dev/serial/by-id/none\"\nbaud = 115200\ntimeout = \"500ms\"\n", map[string]string{
		"a": "[devices.m]\nbus = \"rs485\"\nunit_ids = \"1-2\"\nevery = \"200ms\"\n[devices.m.points]\n" + points.String(),
	})
	sim := start(t, binary, s.args("simulate", "--site", filepath.Join(s.config, "site.toml"), "--fault", "m-1:max_read=21,silent", "--fault", "m-2:silent")...)
	eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
	const told = "device m-1 stays silent when it is asked for more than 21 registers at once, and answers for that many: write max_read = 21 for it"
	eventually(t, "read tells what to write", func() bool { // an answer may be late on a busy machine
		_, talk, code := s.talk("read", "m-1")
		return code == exitFailed && strings.Contains(talk, told)
	})
	if _, talk, _ := s.talk("read", "m-2"); strings.Contains(talk, "max_read") {
		t.Errorf("read of a device that is off: %s", talk)
	}
	s.run()
	eventually(t, "it is told what to write", func() bool { return strings.Contains(s.out.String(), told) })
	eventually(t, "status says it", func() bool {
		out, _ := s.command("status")
		return strings.Contains(out, told)
	})
	if n := strings.Count(s.out.String(), "max_read"); n != 1 || strings.Contains(s.out.String(), "trouble on the bus") {
		t.Errorf("told %d times, or trouble on a bus on which somebody answers:\n%s", n, s.out)
	}
}

func TestLengthsOfRequests(t *testing.T) {
	at := func(table modbus.Table, address, count uint16) *devices.Point {
		return &devices.Point{Source: modbus.Register{Table: table, Address: address, Count: count}}
	}
	never := at(modbus.Holding, 0, 1)
	never.Every = devices.Never
	for _, c := range []struct {
		name        string
		unit        modbus.Unit
		points      []*devices.Point
		least, most modbus.Register
	}{
		{"none", modbus.Unit{}, nil, modbus.Register{}, modbus.Register{}},
		{"one", modbus.Unit{}, []*devices.Point{at(modbus.Holding, 7, 2)}, modbus.Register{Table: modbus.Holding, Address: 7, Count: 2}, modbus.Register{Table: modbus.Holding, Address: 7, Count: 2}},
		{"several", modbus.Unit{}, []*devices.Point{never, at(modbus.Coil, 0, 1), at(modbus.Input, 30, 2), at(modbus.Input, 10, 0), at(modbus.Holding, 2, 1)},
			modbus.Register{Table: modbus.Input, Address: 10, Count: 1}, modbus.Register{Table: modbus.Input, Address: 10, Count: 22}},
		{"far apart", modbus.Unit{}, []*devices.Point{at(modbus.Input, 65535, 1), at(modbus.Input, 0, 1)}, modbus.Register{Table: modbus.Input, Count: 1}, modbus.Register{Table: modbus.Input, Count: 125}},
		{"limited", modbus.Unit{MaxRead: 20}, []*devices.Point{at(modbus.Input, 500, 1), at(modbus.Input, 0, 1)}, modbus.Register{Table: modbus.Input, Count: 1}, modbus.Register{Table: modbus.Input, Count: 20}},
	} {
		dev := &mapping.Device{Device: &devices.Device{Unit: c.unit, Points: c.points}}
		if least, most := lengths(dev); least != c.least || most != c.most {
			t.Errorf("%s: %+v to %+v, want %+v to %+v", c.name, least, most, c.least, c.most)
		}
	}
}
