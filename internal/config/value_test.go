package config

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"500ms": 500 * time.Millisecond, "5s": 5 * time.Second, "1m30s": 90 * time.Second, "1.5h": 90 * time.Minute,
		"14d": 14 * 24 * time.Hour, "2w": 14 * 24 * time.Hour, "1d12h": 36 * time.Hour, "0s": 0, "7µs": 7 * time.Microsecond,
	} {
		if got, err := parseDuration(s); got != want || err != nil {
			t.Errorf("%q is %v (%v), want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "5", "s", "5 s", "-5s", "5y", "1e3s", "5s5", "..s", "999999w", "1.2.3s", "5sm"} {
		if got, err := parseDuration(s); err == nil {
			t.Errorf("%q passes as %v", s, got)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"512MiB": 512 << 20, "2GB": 2e9, "1.5 KiB": 1536, "10b": 10, "1gib": 1 << 30, "0B": 0,
	} {
		if got, err := parseSize(s); got != want || err != nil {
			t.Errorf("%q is %d (%v), want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "5", "MiB", "-1MiB", "1XB", "99999999TiB", "1..5MB"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q passes as %d", s, got)
		}
	}
}

func TestParseUnitIDs(t *testing.T) {
	got, err := ParseUnitIDs("11-13, 30,2")
	if want := []int{11, 12, 13, 30, 2}; !reflect.DeepEqual(got, want) || err != nil {
		t.Errorf("%v (%v), want %v", got, err, want)
	}
	for _, s := range []string{"", "5-1", "1,", "a", "1-300", "-1", "3,1-4", "1-2-3"} {
		if got, err := ParseUnitIDs(s); err == nil {
			t.Errorf("%q passes as %v", s, got)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"address", "baud", "every", "format", "holding", "input", "name", "timeout", "url", "urls"}
	for word, want := range map[string]string{
		"holdng": "holding", "hodling": "holding", "Name": "name", "nme": "name", "time_out": "timeout", "baudrate": "baud",
		"interval": "every", "port": "address", "ulrs": "urls", "parity": "format", "x": "", "abc": "", "colour": "", "": "",
	} {
		if got := nearest(word, known); got != want {
			t.Errorf("%q is near %q, want %q", word, got, want)
		}
	}
}

func TestFill(t *testing.T) {
	vars := map[string]string{"name": "plant-a", "bridge": "aws"}
	for s, want := range map[string]string{
		"dt/{name}/+": "dt/plant-a/+", "{name}{bridge}": "plant-aaws", "plain": "plain", "": "", "a}": "a}",
	} {
		if got, wrong := fill(s, vars); got != want || wrong != "" {
			t.Errorf("%q is %q (%s), want %q", s, got, wrong, want)
		}
	}
	for _, s := range []string{"{nmae}", "{name", "{}", "{{name}}"} {
		if got, wrong := fill(s, vars); wrong == "" {
			t.Errorf("%q passes as %q", s, got)
		}
	}
}

func TestRespell(t *testing.T) {
	for unit, want := range map[string]string{
		"kWh": "", "kwh": "kWh", "KWH": "kWh", "mW": "", "MW": "", "hz": "Hz", "C": "°C", "degC": "°C", "widgets": "", "": "", "var": "", "VAR": "var", "Cel": "°C", "kW.h": "kWh", "kW h": "kWh",
		"m3": "m³", "ug/m3": "µg/m³", "\u2126": "Ω", "k\u2126": "kΩ", "L/min": "", "lpm": "l/min", "/min": "1/min", "[psi]": "psi", "S": "", "s": "", "PA": "Pa",
	} {
		if got, _ := respell(unit); got != want {
			t.Errorf("%q becomes %q, want %q", unit, got, want)
		}
	}
}

func TestReportAsJSON(t *testing.T) {
	dir, _ := unpack(t, "-- gateway.toml --\nnmae = \"x\"\n")
	_, report := Load(dir, testOptions(nil))
	got, err := json.Marshal(report)
	want := `{"errors":1,"warnings":0,"issues":[{"severity":"error","file":"gateway.toml","line":1,"column":1,` +
		`"message":"gateway.toml has no key \"nmae\"; did you mean \"name\"?","source":"nmae = \"x\""}]}`
	if string(got) != want || err != nil {
		t.Errorf("got %s (%v)\nwant %s", got, err, want)
	}
	if got, err := json.Marshal(new(Report)); string(got) != `{"errors":0,"warnings":0,"issues":[]}` || err != nil {
		t.Errorf("an empty report is %s (%v)", got, err)
	}
}

func TestMaskHidesPasswordsAndMovesMarks(t *testing.T) {
	for _, c := range []struct {
		line, want string
		marked     string // in line, and then in what is shown
		shown      string
	}{
		{`password = "hunter2"`, `password = •••`, `"hunter2"`, `•••`},
		{`x = { password = "a \" b", qos = 2 }`, `x = { password = •••, qos = 2 }`, `2`, `2`},
		{`password = "hunter2`, `password = •••`, `password`, `password`},
		{`password = 'it' # no`, `password = ••• # no`, `# no`, `# no`},
		{`password = "${cred:x}"`, `password = "${cred:x}"`, `cred`, `cred`},
		{`url = "tls://me:hunter2@host"`, `url = "tls://me:•••@host"`, `host`, `host`},
		{`url = "tls://host:8883"`, `url = "tls://host:8883"`, `8883`, `8883`},
	} {
		start := strings.Index(c.line, c.marked)
		got, from, to := mask(c.line, start, start+len(c.marked))
		if got != c.want || got[from:to] != c.shown {
			t.Errorf("%s: %s marked %q, want %s marked %q", c.line, got, got[from:to], c.want, c.shown)
		}
	}
}

// FuzzConfiguration reads whatever decodes as a gateway.toml: it never
// panics, and there is a reason whenever there is no configuration.
func FuzzConfiguration(f *testing.F) {
	for part := range strings.SplitSeq(plant, "-- ") {
		if _, body, ok := strings.Cut(part, " --\n"); ok {
			f.Add(body)
		}
	}
	f.Add("\x7fERT\n") // the decoder places this fault before the file
	f.Add("[devices.a]\nprofile = \"acme/meter\"\nbus = \"tcp://[::1]\"\nunit_ids = \"1-3\"\ndevice.2 = { points.power = false }\n")
	f.Add("[device.a]\nbus = \"tcp://h\"\nunit_id = 1\npoints.a = { holding = 1, bits = { 3 = \"x\" }, write = { min = 1e400 } }\n")
	f.Fuzz(func(t *testing.T, doc string) {
		opts := testOptions(nil)
		l := newLoader(opts)
		l.setDir("/nonexistent")
		root, ok := parse(&source{name: "gateway.toml", data: doc}, l.Report)
		if !ok {
			if l.Errors() == 0 {
				t.Fatal("no configuration and no reason")
			}
			return
		}
		l.readGateway(root)
		l.sort()
		for _, i := range l.Issues {
			if i.Message == "" || i.String() == "" {
				t.Fatalf("an issue without words: %+v", i)
			}
		}
		if l.Errors() == 0 && len(l.cfg.Hash()) != 12 {
			t.Fatal("a configuration without a hash")
		}
	})
}

// What docs/units.md lists is what is known, neither more nor less.
func TestUnitsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/units.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "\n- ")
	listed := map[string]bool{}
	for i, u := range strings.Split(list, "`") {
		if i%2 == 1 {
			listed[u] = true
		}
	}
	for _, u := range knownUnits {
		if !listed[u] {
			t.Errorf("docs/units.md does not list %s", u)
		}
		if right, known := respell(u); right != "" || !known {
			t.Errorf("%s is to be written %q", u, right)
		}
		delete(listed, u)
	}
	for u := range listed {
		t.Errorf("docs/units.md lists %s, which is not known", u)
	}
	for alias, u := range unitAliases {
		if _, known := respell(u); !known || alias != strings.ToLower(alias) {
			t.Errorf("alias %q of %q", alias, u)
		}
	}
}
