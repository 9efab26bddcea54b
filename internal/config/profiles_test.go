package config

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"edgegateway/mapping"
)

func TestLoadProfile(t *testing.T) {
	opts := testOptions(nil)
	opts.Profiles = fstest.MapFS{
		"profiles/acme/all.toml": {Data: []byte(`# Acme A1, made up.
#
# One source: none.

# Not of the comment at the top.
maker = "Acme"
model = "A1"
checked = "two sources"
connect_delay = "1500ms"
factory = { baud = 19200, format = "8e1", unit_id = 7 }
fingerprint = { input = 3, type = "u32", order = 1, is = [5] }
[points]
a = { holding = 1 }
`)},
		"profiles/acme/fine.toml": {Data: []byte(`# Acme A2.
factory = { port = 1502, unit_id = 255 }
fingerprint = { holding = 3, type = "string(4)", is = ["A2", "A2+"] }
connect_delay = "2s"
[points]
a = { holding = 1, unit = "V" }
`)},
		"profiles/acme/line.toml": {Data: []byte("checksum = \"nmea\"\n[line.MWV]\na = { field = 1 }\n")},
	}
	if p, report := LoadProfile("", "acme/all", opts); p != nil || !strings.Contains(report.Err().Error(), `[fingerprint] has no key "order"`) {
		t.Errorf("with a fault: %+v, %v", p, report.Err())
	}
	p, report := LoadProfile("", "acme/fine", opts)
	if p == nil {
		t.Fatal(report.Err())
	}
	if p.Comment != "Acme A2." || p.Factory.Port != 1502 || p.Bus.Protocol != Modbus || p.Bus.Modbus.ConnectDelay.Seconds() != 2 || !p.RegistersOnly() || p.File != "" {
		t.Errorf("got %+v on %+v", p, p.Bus)
	}
	for raw, want := range map[string]bool{"A2  ": true, "A2+\x00": true, "A3  ": false, "\x00\x00\x00\x00": false, "a2  ": false} {
		if says, ok := p.Fingerprint.Matches([]byte(raw)); ok != want {
			t.Errorf("fingerprint of %q: %v, it says %q", raw, ok, says)
		}
	}
	if p, report := LoadProfile("", "acme/line", opts); p == nil || p.RegistersOnly() || p.Bus.Protocol != Lines {
		t.Errorf("one of lines: %+v, %v", p, report.Err())
	}
	if p, report := LoadProfile("", "acme/lime", opts); p != nil || !strings.Contains(report.Err().Error(), `did you mean "acme/line"?`) {
		t.Errorf("one that is not there: %+v, %v", p, report.Err())
	}
	if names := ProfileNames("", opts); !slices.Equal(names, []string{"acme/all", "acme/fine", "acme/line"}) {
		t.Errorf("names %q", names)
	}
	if list := Profiles("", opts); len(list) != 2 {
		t.Errorf("%d without faults, want 2", len(list))
	}
}

func TestFingerprintOfNumbers(t *testing.T) {
	opts := testOptions(nil)
	opts.Profiles = fstest.MapFS{"profiles/a.toml": {Data: []byte("fingerprint = { holding = 3, is = [71, \"1648-1653\", \"0x10\"] }\n[points]\na = { holding = 1 }\n")}}
	p, report := LoadProfile("", "a", opts)
	if p == nil {
		t.Fatal(report.Err())
	}
	for n, want := range map[int64]bool{71: true, 72: false, 1647: false, 1648: true, 1653: true, 1654: false, 16: true} {
		raw, err := mapping.Encode(nil, p.Fingerprint.Point, mapping.IntValue(n))
		if err != nil {
			t.Fatal(err)
		}
		if says, ok := p.Fingerprint.Matches(raw); ok != want {
			t.Errorf("fingerprint of %d: %v, it says %s", n, ok, says)
		}
	}
}

// A profile is whole or has faults, whatever its text.
func FuzzProfile(f *testing.F) {
	f.Add("maker = \"A\"\nchecked = \"hardware\"\npause = \"1s\"\ngaps = true\nblocks = [\"5-9\"]\n[points]\na = { input = 7, type = \"u32\" }\n")
	f.Add("[frame]\nkind = \"binary\"\nstart = \"AA\"\nsize = 5\nchecksum = { kind = \"sum8\" }\n[points]\na = { byte = 1 }\n")
	f.Add("factory = { unit_id = 0, baud = 9, format = 7 }\nfingerprint = { holding = 65535, type = \"u32\", is = [1] }\n")
	f.Add("fingerprint = 3\nfactory = \"x\"\n[line]\n[frame]\n[points.a]\nholding = 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		opts := testOptions(nil)
		opts.Profiles = fstest.MapFS{"profiles/a.toml": {Data: []byte(text)}}
		p, report := LoadProfile(t.TempDir(), "a", opts)
		if (p == nil) != (report.Errors() > 0) {
			t.Fatalf("profile %v with %s", p, report.Summary())
		}
		if p != nil && (p.Device == nil || p.Bus == nil) {
			t.Errorf("half a profile: %+v", p)
		}
	})
}
