package rehearsal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// load writes profiles to a folder and reads them.
func load(t *testing.T, texts map[string]string) []*config.Profile {
	t.Helper()
	dir := t.TempDir()
	var list []*config.Profile
	for name, text := range texts {
		file := filepath.Join(dir, name+".toml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		p, report := config.LoadProfileFile(file, config.Options{})
		if p == nil {
			t.Fatal(report.Err())
		}
		list = append(list, p)
	}
	return list
}

// Every way in which a profile's device can be asked is read right.
func TestRunReadsAllKinds(t *testing.T) {
	texts := map[string]string{
		"types": `[points]
a = { holding = 1, type = "u64", order = "CDAB", scale = 0.001, unit = "kWh" }
b = { input = 1, type = "string(10)" }
c = { coil = 3 }
d = { discrete = 3 }
e = { holding = 100, enum = { 1 = "on", 2 = "off" } }
f = { input = 100, type = "f64", order = "DCBA" }
g = { holding = 101, bits = { 0 = "running", 3 = "fault" } }
h = { holding = 102, type = "i16", scale = -0.1, invalid = [0x8000], unit = "A" }
`,
		"quirks": `gaps = true
max_read = 30
pause = "1m"
connect_delay = "1m"
blocks = ["holding 200-219"]
forbid = ["50"]
from_zero = ["input"]
factory = { unit_id = 255 }
[points]
a = { holding = 200 }
b = { holding = 210 }
c = { holding = 40 }
d = { holding = 60 }
e = { input = 20 }
`,
		"single": "single = true\n[points]\na = { holding = 1 }\nb = { holding = 2 }\n",
		"lines":  "checksum = \"nmea\"\n[line.MWV]\nspeed = { field = 3, type = \"f64\", unit = \"kn\" }\n",
		"frames": "[frame]\nkind = \"binary\"\nstart = \"FF 86\"\nsize = 9\nsend = \"FF 01\"\nchecksum = { kind = \"sum8\" }\n[points]\nco2 = { byte = 2, unit = \"ppm\" }\n",
		"empty":  "maker = \"Acme\"\n",
	}
	results, err := Run(t.Context(), load(t, texts))
	if err != nil {
		t.Fatal(err)
	}
	requests := map[string]int{"types": 6, "quirks": 4, "single": 2}
	for _, r := range results {
		for _, v := range r.Wrong() {
			t.Errorf("%s: %s: % x is %s, held %s: %v", r.Profile.Name, v.Point.Name, v.Raw, v.Read, v.Held, v.Err)
		}
		if len(r.Values) != len(r.Profile.Device.Points) {
			t.Errorf("%s: %d values of %d points", r.Profile.Name, len(r.Values), len(r.Profile.Device.Points))
		}
		if want, known := requests[r.Profile.Name]; known && r.Requests != want {
			t.Errorf("%s: %d requests, want %d", r.Profile.Name, r.Requests, want)
		}
	}
}

// All profiles there are, also those that speak by themselves.
func TestRunReadsEveryProfile(t *testing.T) {
	results, err := Run(t.Context(), config.Profiles(t.TempDir(), config.Options{}))
	if err != nil || len(results) < 60 {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for _, r := range results {
		for _, v := range r.Wrong() {
			t.Errorf("%s: %s: % x is %s, held %s: %v", r.Profile.Name, v.Point.Name, v.Raw, v.Read, v.Held, v.Err)
		}
	}
}

func TestRightKnowsWrong(t *testing.T) {
	p := load(t, map[string]string{"a": "[points]\na = { holding = 1, unit = \"V\" }\n"})
	results, err := Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	v := results[0].Values[0]
	if !v.Right() || len(results[0].Wrong()) != 0 {
		t.Errorf("%s, held %s, %v: not right", v.Read, v.Held, v.Err)
	}
	for name, spoil := range map[string]func(*Value){
		"no value": func(v *Value) { v.Read = mapping.Value{} },
		"another":  func(v *Value) { v.Read = mapping.IntValue(7) },
		"error":    func(v *Value) { v.Err = errors.New("timeout") },
	} {
		r := Result{Values: []Value{v}}
		if spoil(&r.Values[0]); r.Values[0].Right() || len(r.Wrong()) != 1 {
			t.Errorf("%s: right", name)
		}
	}
}

func TestDoubts(t *testing.T) {
	p := load(t, map[string]string{"a": `[points]
power = { holding = 1, scale = 0.01, unit = "W" }
power_l1 = { holding = 2 }
voltage = { holding = 3, scale = 0.1, unit = "V" }
voltage_battery = { holding = 4, scale = 0.001, unit = "V" }
energy = { holding = 5, type = "u32", unit = "kWh" }
heat = { holding = 7, type = "u32", unit = "kWh", kind = "counter" }
t = { holding = 9, offset = -100, unit = "°C" }
f = { holding = 10, type = "f32", unit = "Hz" }
`})[0]
	got := Doubts(p)
	for _, want := range []string{
		"write maker and model", "write checked", "power cannot be more than 655.4 W", "power_l1 has no unit", "energy is an energy but no counter",
	} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("no doubt says %q: %q", want, got)
		}
	}
	if len(got) != 5 {
		t.Errorf("%d doubts, want 5: %q", len(got), got)
	}
}
