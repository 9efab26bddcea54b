package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"edgegateway/devices/modbus"
)

func TestParseWishes(t *testing.T) {
	got, err := parseWishes([]string{"voltage_l1=230", "-12.5"})
	if err != nil || len(got) != 2 || got[0] != (wish{"voltage_l1", 230}) || got[1] != (wish{"value", -12.5}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range [][]string{nil, {"power"}, {"power="}, {"power=0"}, {"power=NaN"}} {
		if _, err := parseWishes(bad); err == nil {
			t.Errorf("parseWishes(%q) gave no error", bad)
		}
	}
}

// What is likeliest comes first, for the usual ways in which a map is wrong.
func TestProbeRanksWhatFits(t *testing.T) {
	at := func(table modbus.Table, address uint16) []modbus.Register {
		return []modbus.Register{{Table: table, Address: address}}
	}
	in, hold := modbus.Input, modbus.Holding
	for _, c := range []struct {
		name   string
		table  modbus.Table
		blocks map[int]string
		like   float64
		near   []modbus.Register
		want   string // the beginning of the best line
	}{
		{"as thought", in, map[int]string{0: "4366 199A 4365 0000 0000 0000"}, 230, at(in, 0), `x = { input = 0, type = "f32" }`},
		{"the other table", hold, map[int]string{0: "4366 199A"}, 230, at(in, 0), `x = { holding = 0, type = "f32" }`},
		{"one too high", in, map[int]string{0: "4366 199A 0000 0000"}, 230, at(in, 1), `x = { input = 0, type = "f32" }`},
		{"one too low", hold, map[int]string{100: "FFFF 08FD"}, 230, at(hold, 100), `x = { holding = 101, type = "u16", scale = 0.1 }`},
		{"low word first", hold, map[int]string{7: "0000 C148"}, -12.5, at(hold, 7), `x = { holding = 7, type = "f32", order = "CDAB" }`},
		{"negative", hold, map[int]string{7: "FF83 0000"}, -12.5, at(hold, 7), `x = { holding = 7, type = "i16", scale = 0.1 }`},
		{"large", hold, map[int]string{7: "0001 E240"}, 123456, at(hold, 7), `x = { holding = 7, type = "u32" }`},
		{"double", hold, map[int]string{7: "406C C333 3333 3333"}, 230, at(hold, 7), `x = { holding = 7, type = "f64" }`},
		{"nobody knows where", hold, map[int]string{40: "08FD 0000"}, 230, nil, `x = { holding = 40, type = "u16", scale = 0.1 }`},
		{"the last register", hold, map[int]string{65535: "08FD"}, 230, at(hold, 65535), `x = { holding = 65535, type = "u16", scale = 0.1 }`},
		{"nothing", hold, map[int]string{0: strings.Repeat("0000", 100)}, 230, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _ := fakeUnit(c.table, c.blocks)
			w := wish{"x", c.like}
			p := &probe{unit: 1, wishes: []wish{w}, within: 0.03, places: map[wish][]modbus.Register{w: c.near}}
			found, err := p.search(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if len(found) > 0 {
				got = found[0].line()
			}
			if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Of readings that fit one value by chance, those that fit another in the same
// way come first.
func TestProbeUsesTwoValues(t *testing.T) {
	// Two values with the low word first; the float at 1 in standard order is
	// near the first one by chance.
	a, _ := fakeUnit(modbus.Input, map[int]string{0: "4365 4366 4366 0000 0000 4248"})
	v, f := wish{"voltage", 230}, wish{"frequency", 50}
	p := &probe{unit: 1, wishes: []wish{v, f}, within: 0.03, places: map[wish][]modbus.Register{v: {{Table: modbus.Input}}, f: {{Table: modbus.Input, Address: 4}}}}
	found, err := p.search(t.Context(), a)
	if err != nil || len(found) == 0 || !strings.Contains(found[0].line(), `voltage = { input = 0, type = "f32", order = "CDAB" }`) {
		t.Errorf("%v; best of %d: %+v", err, len(found), found)
	}
}

func TestProbeAndAllTypesOnADevice(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", port)
	s := newSite(t, "", map[string]string{
		"plc": fmt.Sprintf("[device.plc]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\n[device.plc.points]\nvoltage = { holding = 15, type = \"u32\" }\n", port),
	})
	for _, running := range []bool{false, true} {
		if running {
			s.run()
		}
		bus := "tcp://127.0.0.1:" + port
		for _, c := range []struct {
			args []string
			code int
			want string
		}{
			// The configuration says 15, u32; it is 14, f32.
			{[]string{"probe", bus, "--unit", "1", "--like", "voltage=230"}, 0, `voltage = { holding = 14, type = "f32" }`},
			{[]string{"probe", "127.0.0.1:" + port, "--unit", "1", "--like", "-12.5", "--near", "40022"}, 0, `type = "f32", order = "CDAB" }`},
			{[]string{"probe", bus, "--unit", "1", "--like", "777", "--near", "holding:0"}, 1, ""},
			{[]string{"probe", bus, "--like", "777"}, exitUsage, ""},
			{[]string{"probe", "nosuch", "--unit", "1", "--like", "777"}, exitUsage, ""},
			{[]string{"read", bus + "/1", "holding:13-16", "--all-types"}, 0, "230.1"},
			{[]string{"read", bus + "/1", "holding:5000-5003", "--all-types"}, 1, ""},
			{[]string{"read", "plc", "--all-types"}, exitUsage, ""},
			{[]string{"read", bus + "/1", "coil:0-3", "--all-types"}, exitUsage, ""},
		} {
			out, code := s.command(c.args[0], c.args[1:]...)
			if code != c.code || !strings.Contains(out, c.want) {
				t.Errorf("running %v: gateway %v: code %d, want %d with %q:\n%s", running, c.args, code, c.code, c.want, out)
			}
		}
		out, _ := s.command("probe", bus, "--unit", "1", "--like", "voltage=230", "--json")
		var found []guess
		if err := json.Unmarshal([]byte(out), &found); err != nil || len(found) == 0 || found[0].Address != 14 || found[0].Offset != -1 {
			t.Errorf("running %v: probe --json: %v: %+v, want holding 14 first, one below what is configured", running, err, found)
		}
	}
}
