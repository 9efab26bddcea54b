package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

func TestHostsOf(t *testing.T) {
	for _, c := range []struct{ target, want, err string }{
		{"192.0.2.5", "[192.0.2.5:502]", ""},
		{"plc.example.com:1502", "[plc.example.com:1502]", ""},
		{"2001:db8::1", "[[2001:db8::1]:502]", ""},
		{"[2001:db8::1]:1502", "[[2001:db8::1]:1502]", ""},
		{"2001:db8::4/127", "[[2001:db8::4]:502 [2001:db8::5]:502]", ""},
		{"255.255.255.255/32", "[255.255.255.255:502]", ""},
		{"[2001:db8::1", "", "missing"},
		{"192.0.2.4/30", "[192.0.2.5:502 192.0.2.6:502]", ""},
		{"192.0.2.9/32:1502", "[192.0.2.9:1502]", ""},
		{"192.0.2.8/31", "[192.0.2.8:502 192.0.2.9:502]", ""},
		{"10.0.0.0/8", "", "too much"},
		{"192.0.2.0/33", "", "prefix"},
		{"192.0.2.1:99999", "", "no port number"},
		{"rs486", "", "looks like"},
		{"", "", "looks like"},
	} {
		got, err := hostsOf(c.target)
		if c.err == "" && (err != nil || fmt.Sprint(got) != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("hostsOf(%q) = %v, %v; want %s %s", c.target, got, err, c.want, c.err)
		}
	}
	if got, err := hostsOf("192.0.2.0/24"); len(got) != 254 || err != nil {
		t.Errorf("a /24 has %d hosts (%v), want 254", len(got), err)
	}
}

func FuzzHostsOf(f *testing.F) {
	for _, seed := range []string{"192.0.2.0/24:502", "[::1]:502", "::ffff:192.0.2.0/120", "a.b:1", "0.0.0.0/22"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		hosts, err := hostsOf(target)
		if (err == nil) != (len(hosts) > 0) || len(hosts) > maxHosts {
			t.Errorf("hostsOf(%q) = %d hosts, %v", target, len(hosts), err)
		}
	})
}

func TestParseSpeeds(t *testing.T) {
	got, err := parseSpeeds("9600, 19200/8e1")
	if err != nil || len(got) != 2 || got[0].Baud != 9600 || got[0].Format != "8N1" || got[1].Baud != 19200 || got[1].Format != "8E1" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := parseSpeeds("all"); err != nil || len(got) != 10 {
		t.Errorf("all: %v, %v", got, err)
	}
	for _, bad := range []string{"fast", "9600,", "9600/9N1", "7"} {
		if _, err := parseSpeeds(bad); err == nil {
			t.Errorf("parseSpeeds(%q) gave no error", bad)
		}
	}
}

// fakeUnit is an asker whose every unit has these registers and no others.
func fakeUnit(table modbus.Table, blocks map[int]string) (*asker, *int) {
	words, requests := map[int]string{}, new(int)
	for at, text := range blocks {
		text = strings.ReplaceAll(text, " ", "")
		for i := 0; i < len(text); i += 4 {
			words[at+i/4] = text[i : i+4]
		}
	}
	return &asker{bus: "x", close: func() {}, read: func(_ context.Context, req readRequest) ([]pointResult, error) {
		*requests++
		regs, _, _, err := parseSource(req.Source, req.Type)
		if err != nil {
			return nil, err
		}
		r, result := regs[0], pointResult{}
		for i := range int(r.Count) {
			word, ok := words[int(r.Address)+i]
			if !ok || r.Table != table {
				e := &modbus.Exception{Function: 3, Code: modbus.IllegalAddress}
				return []pointResult{{Error: e.Cause(), Detail: e.Error()}}, nil
			}
			result.Raw += word + " "
		}
		return []pointResult{result}, nil
	}}, requests
}

func examine(a *asker) *examiner {
	return &examiner{asker: a, unit: 1, seen: map[modbus.Register]answerOf{}}
}

func TestSunSpecSaysWhatItIs(t *testing.T) {
	text := func(s string) string { return fmt.Sprintf("%-64s", hex.EncodeToString([]byte(s))) }
	pad := func(s string) string { return strings.ReplaceAll(text(s), " ", "0") }
	a, _ := fakeUnit(modbus.Holding, map[int]string{50000: "53756E53 0001 0042" + pad("Acme\x1b[31m") + pad("Sun 5000")})
	got := examine(a).sunSpec(t.Context())
	if got == nil || fmt.Sprint(*got) != "{50000 Acme[31m Sun 5000 [{1 50002 66}] }" {
		t.Errorf("got %+v, want Acme[31m Sun 5000 at 50000, without the escape character", got)
	}
	a, _ = fakeUnit(modbus.Holding, map[int]string{40000: "53756E54"})
	if got := examine(a).sunSpec(t.Context()); got != nil {
		t.Errorf("without the marker: got %+v", got)
	}
}

// Registers that are all 0, or full of numbers that mean something else, are
// no known device.
func TestNoProfileFitsStrangers(t *testing.T) {
	t.Parallel()
	profiles := config.Profiles(t.TempDir(), config.Options{})
	if len(profiles) < 10 {
		t.Fatalf("%d profiles", len(profiles))
	}
	for name, word := range map[string]string{"zeros": "0000", "ones": "FFFF", "small": "0003", "large": "7A10"} {
		for _, table := range []modbus.Table{modbus.Input, modbus.Holding} {
			a, requests := fakeUnit(table, map[int]string{0: strings.Repeat(word, 1000), 0x5000: strings.Repeat(word, 0x1000)})
			if fits := examine(a).fits(t.Context(), profiles); len(fits) > 0 {
				t.Errorf("%s as %v registers: fits %+v, want none", name, table, fits)
			}
			if *requests > 5*len(profiles) {
				t.Errorf("%s as %v registers: %d requests for %d profiles", name, table, *requests, len(profiles))
			}
		}
	}
}

// meterSite has three kinds of meters on one serial line and one on TCP.
func meterSite(t *testing.T) *site {
	s := newSite(t, "[bus.rs485]\naddress = \"/dev/serial/by-id/none\"\nbaud = 38400\n", map[string]string{
		"meters": `
[device.main]
profile = "eastron/sdm630"
bus = "rs485"
unit_id = 1
[device.shop]
profile = "abb/b23"
bus = "rs485"
unit_id = 3
[device.dead]
bus = "rs485"
unit_id = 4
[device.dead.points]
a = { holding = 5000 }
[device.tcp]
profile = "orno/we516"
bus = "tcp://192.0.2.1:502"
unit_id = 1
`})
	sim := start(t, binary, s.args("simulate", "--site", filepath.Join(s.config, "site.toml"))...)
	eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
	return s
}

func TestScanFindsAndNamesUnits(t *testing.T) {
	t.Parallel()
	s := meterSite(t)
	// On a busy machine an answer may be late: then it is scanned again.
	scanned := func(unit string, want ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("a scan of %s finds %q", unit, want), func() bool {
			out, code := s.command("scan", "rs485", "--units", unit, "--json", "--timeout", "500ms")
			var found []foundUnit
			if code == exitFailed { // nobody answers
				return false
			}
			if err := json.Unmarshal([]byte(out), &found); err != nil || code != exitOK {
				t.Fatalf("scan: code %d, %v:\n%s", code, err, out)
			}
			var got []string
			for _, u := range found {
				got = append(got, fmt.Sprintf("%d %v %s", u.Unit, u.Devices, u.Profile))
			}
			return slices.Equal(got, want)
		})
	}
	for _, running := range []bool{false, true} {
		if running {
			s.run()
			for want, args := range map[string][]string{
				"in use by the running gateway. Other speeds stop it for up to 4s, and some seconds more for each unit that is found: its devices (main, shop, dead)": {"--units", "1-10", "--speeds", "9600,2400", "--timeout", "200ms"},
				"--yes": {"--speeds", "9600"},
			} {
				if out, talk, code := s.talk("scan", append(args, "rs485")...); code != exitUsage || out != "" || !strings.Contains(talk, want) {
					t.Errorf("other speeds on a bus in use: code %d, %s%s", code, out, talk)
				}
			}
			if _, talk, code := s.talk("scan", "rs485", "--speeds", "all", "--timeout", "2s", "--yes"); code != exitFailed || !strings.Contains(talk, "lends it for 15m") {
				t.Errorf("a scan that takes hours: code %d, %s", code, talk)
			}
		}
		scanned("1-5", "1 [main] eastron/sdm630", "3 [shop] abb/b23", "4 [dead] ")
	}
	// The running gateway knows its buses though the files cannot be read any more.
	writeFile(t, filepath.Join(s.config, "gateway.toml"), "this is no configuration")
	scanned("1", "1 [] eastron/sdm630")
}

func TestScanOfAnAddressNeedsNoConfiguration(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", port)
	s := newSite(t, "this is no configuration", nil)
	out, code := s.command("scan", "127.0.0.1/32:"+port)
	for _, want := range []string{"# unit 1 at tcp://127.0.0.1:" + port, `bus     = "tcp://127.0.0.1:` + port + `"`, "unit_id = 1", "gateway probe"} {
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("code %d; it does not say %q:\n%s", code, want, out)
		}
	}
	// What it prints is a device of a configuration.
	writeFile(t, filepath.Join(s.config, "gateway.toml"), "name = \"plant\"\n")
	writeFile(t, filepath.Join(s.config, "devices.d", "found.toml"), out)
	if out, code := s.command("check"); code != exitOK || !strings.Contains(out, "0 errors") {
		t.Errorf("check of what scan printed: code %d:\n%s", code, out)
	}
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"127.0.0.1:" + freePort(t)}, exitFailed}, {[]string{"nosuch"}, exitUsage}, {[]string{"10.0.0.0/8"}, exitUsage},
		{[]string{"127.0.0.1", "--units", "7-3"}, exitUsage}, {[]string{"127.0.0.1", "--speeds", "9600"}, exitUsage},
	} {
		if out, code := s.command("scan", c.args...); code != c.code || out != "" {
			t.Errorf("scan %v: code %d, want %d:\n%s", c.args, code, c.code, out)
		}
	}
}

// A port that is not configured is scanned at the speeds that are named; the
// bus is printed, too.
func TestScanTriesSpeedsOfAPort(t *testing.T) {
	t.Parallel()
	s := meterSite(t)
	cfg, report := config.Load(s.config, config.Options{})
	if cfg == nil {
		t.Fatal(report.Err())
	}
	empty := newSite(t, "", nil)
	var out string
	eventually(t, "the scan prints the bus and the meter", func() bool { // which may be late on a busy machine
		var code int
		out, code = empty.command("scan", cfg.Buses[0].Address, "--units", "1,2", "--speeds", "38400", "--timeout", "500ms")
		for _, want := range []string{"[bus.rs485]", "baud    = 38400", `format  = "8N1"`, `profile = "eastron/sdm630"`} {
			if !strings.Contains(out, want) {
				return false
			}
		}
		return code == exitOK
	})
	writeFile(t, filepath.Join(empty.config, "devices.d", "found.toml"), out)
	if out, code := empty.command("check"); code != exitOK || !strings.Contains(out, "0 errors") {
		t.Errorf("check of what scan printed: code %d:\n%s", code, out)
	}
}

func TestHints(t *testing.T) {
	dev := &mapping.Device{Device: &devices.Device{ID: "main"}}
	const right, halves, low = "4366199A", "199A4366", "0000199A" // 230.1 V; its halves in the other order; a low half alone
	for _, c := range []struct {
		name     string
		typ      mapping.Type
		ord      mapping.Order
		unit     string
		raw      string
		down, up string // what is one register lower and higher
		want     string
	}{
		{"right", mapping.F32, mapping.ABCD, "V", right, "", "", ""},
		{"low word first", mapping.F32, mapping.ABCD, "V", halves, "", "", `in order CDAB it would be 230.1 V: write order = "CDAB"`},
		{"high word first", mapping.F32, mapping.CDAB, "Hz", "42480000", "", "", "in order ABCD it would be 50 Hz"},
		{"bytes swapped", mapping.F32, mapping.ABCD, "V", "66439A19", "", "", "in order BADC it would be 230.1 V"},
		{"integer", mapping.U32, mapping.ABCD, "V", "00E60000", "", "", "in order CDAB it would be 230 V"},
		{"zero", mapping.F32, mapping.ABCD, "V", "00000000", right, "", ""},
		{"no quantity", mapping.F32, mapping.ABCD, "", halves, right, "", ""},
		{"absurd in all", mapping.F32, mapping.ABCD, "V", "7E7E7E7E", "7E7E7E7E", "", ""},
		{"one register lower", mapping.F32, mapping.ABCD, "V", "199A0000", right, "00000000", "one register lower it would be 230.1 V: write input = 11, as"},
		{"one register higher", mapping.F32, mapping.ABCD, "V", low, "", right, "one register higher it would be 230.1 V: write input = 13, as"},
		{"on both sides", mapping.F32, mapping.ABCD, "V", low, right, right, ""},
		{"order or place", mapping.F32, mapping.ABCD, "V", halves, right, "", `write order = "CDAB" for the device or the point if the other points of two registers are wrong, too, and input = 11 if they are right`},
		{"order, as half of the neighbour is empty", mapping.F32, mapping.CDAB, "V", right, "00004366", "", `it would be 230.1 V: write order = "ABCD"`},
		{"right, whatever the neighbours are", mapping.F32, mapping.ABCD, "V", right, right, right, ""},
		{"one register, beyond anything", mapping.U16, mapping.ABCD, "Hz", "FFFE", "0032", "", "one register lower it would be 50 Hz"},
		{"one register that says no value", mapping.U16, mapping.ABCD, "Hz", "FFFF", "0032", "", ""},
		{"another way to say no value", mapping.I16, mapping.ABCD, "Hz", "8000", "0032", "", ""},
		{"two registers that say no value", mapping.U32, mapping.ABCD, "V", "7FFFFFFF", "000000E6", "", ""},
		{"24 V of a supply", mapping.F32, mapping.ABCD, "V", "41C00000", right, "", ""},
		{"20 kV of a transformer", mapping.F32, mapping.ABCD, "V", "469C4000", right, "", ""},
		{"one register of a battery", mapping.U16, mapping.ABCD, "V", "000C", "00E6", "", ""},
	} {
		bytesOf := func(text string) []byte {
			raw, _ := hex.DecodeString(text)
			return raw
		}
		neighbours := map[int][]byte{}
		for by, text := range map[int]string{-1: c.down, 1: c.up} {
			if text != "" {
				neighbours[by] = bytesOf(text)
			}
		}
		raw := bytesOf(c.raw)
		source := modbus.Register{Table: modbus.Input, Address: 12, Count: uint16(len(raw) / 2)}
		p := &mapping.Point{Point: &devices.Point{Name: "x", Source: source}, Type: c.typ, Order: c.ord, Unit: c.unit}
		got := hintOf(dev, p, raw, neighbours, "devices.d/a.toml:7")
		if !strings.Contains(got, c.want) || (c.want == "") != (got == "") || got != "" && !strings.Contains(got, "devices.d/a.toml:7") {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestHintOfARefusedPoint(t *testing.T) {
	dev := &mapping.Device{Device: &devices.Device{ID: "main"}, Profile: "acme/meter"}
	p := &mapping.Point{Point: &devices.Point{Name: "hz", Source: modbus.Register{Table: modbus.Holding, Address: 29, Count: 2}}, Type: mapping.F32, Unit: "Hz"}
	fifty, nothing := []byte{0x42, 0x48, 0, 0}, []byte{0, 0, 0, 0}
	if got := hintOfRefused(dev, p, map[int][]byte{1: fifty, -1: nothing}, "x.toml:3"); got != "main.hz is refused (x.toml:3); one register higher it would be 50 Hz: write points.hz.holding = 30 for device main, as manuals count from 0 or from 1" {
		t.Error(got)
	}
	for _, neighbours := range []map[int][]byte{nil, {1: nothing}, {1: fifty, -1: fifty}} {
		if got := hintOfRefused(dev, p, neighbours, ""); got != "" {
			t.Error(got)
		}
	}
}

// What a scan prints of units that are not as they are configured, and of the
// other names of a host.
func TestScanTellsWhatDiffers(t *testing.T) {
	for _, tt := range []struct {
		unit foundUnit
		want string // "" for nothing
	}{
		{foundUnit{listed: true, Bus: "rs485", Line: "9600 8E1", usual: "19200 8N1", speed: serial.Config{Baud: 9600, Format: "8E1"}}, `is configured with 19200 8N1: write baud = 9600, format = "8E1"`},
		{foundUnit{listed: true, Bus: "rs485", Line: "9600 8N1", usual: "9600 8N1"}, ""},
		{foundUnit{Bus: "rs485", Line: "9600 8N1", usual: "19200 8N1"}, ""},
	} {
		var out bytes.Buffer
		tt.unit.print(&out)
		if got := strings.Contains(out.String(), "is configured with"); got != (tt.want != "") || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%+v: %s", tt.unit, &out)
		}
	}
	host := modbus.Config{URL: "tcp://10.0.0.5:502"}
	unit := func(id byte, answer string, devices ...string) foundUnit {
		return foundUnit{Unit: id, Answer: answer, Devices: devices}
	}
	for _, tt := range []struct {
		cfg   modbus.Config
		found []foundUnit
		want  int
	}{
		{host, []foundUnit{unit(1, "a"), unit(255, "a"), unit(0, "a")}, 1},
		{host, []foundUnit{unit(255, "a"), unit(0, "a")}, 1},
		{host, []foundUnit{unit(1, "a"), unit(255, "b"), unit(2, "a")}, 3},
		{host, []foundUnit{unit(1, "a"), unit(255, "a", "configured")}, 2},
		{modbus.Config{URL: "/dev/ttyS0"}, []foundUnit{unit(1, "a"), unit(255, "a")}, 2},
		{host, nil, 0},
	} {
		before := len(tt.found)
		if got := joinAliases(tt.found, tt.cfg); len(got) != tt.want || len(got) > 0 && len(got[0].Aliases) != before-tt.want {
			t.Errorf("%d of %d units stay, want %d", len(got), before, tt.want)
		}
	}
}

// A bus is asked for at the running gateway only where that has it, not where a
// reload is yet to come.
func TestBusIsFoundWhereItIs(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), "name = \"a\"\n[bus.plc]\naddress = \"tcp://10.0.0.5\"\n")
	cfg, report := config.Load(dir, config.Options{})
	if cfg == nil {
		t.Fatal(report.Summary())
	}
	for address, want := range map[string]string{"tcp://10.0.0.5:502": "s", "tcp://10.0.0.6:502": ""} {
		f := &busFinder{cfg: cfg, socket: "s", running: map[string]BusStatus{"plc": {Address: address}}}
		if got := f.find("plc"); got == nil || got.socket != want {
			t.Errorf("the running gateway has it at %s: %+v", address, got)
		}
	}
}
