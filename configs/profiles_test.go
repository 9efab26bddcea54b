package configs_test

import (
	"cmp"
	"encoding/binary"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/big"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml" // the decoder of all configuration

	"edgegateway/configs"
	"edgegateway/devices"
	"edgegateway/internal/budget"
	"edgegateway/internal/config"
	"edgegateway/internal/rehearsal"
	"edgegateway/mapping"
)

var update = flag.Bool("update", false, "write the plans of the profiles into testdata")

// profile is what a profile may say; a key that is not here is an error.
type profile struct {
	Maker, Model, Checked, Type, Order, Every string
	Timeout, Pause                            string
	ConnectDelay                              string `toml:"connect_delay"`
	MaxRead                                   int    `toml:"max_read"`
	Gaps                                      bool
	Forbid                                    []string
	Factory, Fingerprint                      map[string]any
	Groups                                    map[string]struct{ Every string }
	Points                                    map[string]point
	Frame                                     *struct {
		Kind, Start, End, Send string
		Size                   int
		Checksum               map[string]any
	}

	header string
}

type point struct {
	Input, Holding, Coil, Discrete *int
	Byte                           *int
	Model                          any
	At                             int
	ScaleFactor                    int `toml:"scale_factor"`
	Field                          string
	Offset                         float64
	Type, Order, Unit, Group, Kind string
	Scale                          *float64
	Deadband                       any
	Invalid                        []int64
	Enum, Bits                     map[string]string
}

func (p *point) place() (table string, address int) {
	for table, a := range map[string]*int{"input": p.Input, "holding": p.Holding, "coil": p.Coil, "discrete": p.Discrete} {
		if a != nil {
			return table, *a
		}
	}
	if p.Byte != nil {
		return "byte", *p.Byte
	}
	if p.Model != nil {
		return fmt.Sprintf("model %v", p.Model), p.At
	}
	return "", 0
}

// readProfiles reads all profiles as a stranger would.
func readProfiles(t *testing.T) map[string]*profile {
	t.Helper()
	all := make(map[string]*profile)
	err := fs.WalkDir(configs.Profiles, "profiles", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(configs.Profiles, name)
		if err != nil || path.Ext(name) != ".toml" {
			t.Fatalf("%s: %v", name, err)
		}
		p := new(profile)
		md, err := toml.Decode(string(text), p)
		if err != nil || len(md.Undecoded()) > 0 {
			t.Errorf("%s: %v, unknown keys %v", name, err, md.Undecoded())
		}
		p.header, _, _ = strings.Cut(string(text), "\nmaker")
		all[strings.TrimSuffix(strings.TrimPrefix(name, "profiles/"), ".toml")] = p
		return nil
	})
	if err != nil || len(all) < 60 {
		t.Fatalf("%d profiles, want at least 60: %v", len(all), err)
	}
	return all
}

func eachProfile(t *testing.T, check func(t *testing.T, p *profile)) {
	all := readProfiles(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) { check(t, all[name]) })
	}
}

func TestProfilesSayWhatTheyAre(t *testing.T) {
	lasting := regexp.MustCompile(`[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+ at [0-9a-f]{7}|gavinying/modpoll|OpenEMS|groupsky/ya-modbus|openHAB at|esphome at|huawei-solar library|IEC \d+-\d+`)
	eachProfile(t, func(t *testing.T, p *profile) {
		if p.Maker == "" || p.Model == "" || len(p.Points) == 0 {
			t.Error("maker, model or points are missing")
		}
		says := map[string]string{"one source": "One source", "two sources": "Two sources", "hardware": "Hardware"}[p.Checked]
		if says == "" || !strings.Contains(p.header, "\n# "+says) {
			t.Errorf("checked = %q, but its comment does not say so at the beginning of a line", p.Checked)
		}
		found := lasting.FindAllString(strings.ReplaceAll(p.header, "\n# ", " "), -1)
		if len(found) < 1 || p.Checked == "two sources" && len(found) < 2 {
			t.Errorf("checked = %q, but its comment names %q", p.Checked, found)
		}
		if _, err := time.ParseDuration(p.Every); err != nil {
			t.Error(err)
		}
		for name, g := range p.Groups {
			if _, err := time.ParseDuration(g.Every); err != nil {
				t.Errorf("group %s: %v", name, err)
			}
		}
	})
}

// readVocabulary returns the unit of each word that docs/profiles.md defines:
// the rows of its tables whose first cell names words, with their endings.
func readVocabulary(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	words := make(map[string]string)
	code := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		unit := ""
		if m := code.FindStringSubmatch(cells[3]); m != nil {
			unit = m[1]
		}
		stem := ""
		for _, m := range code.FindAllStringSubmatch(cells[1], -1) {
			word := m[1]
			if strings.HasPrefix(word, "_") {
				word = stem + word
			} else {
				stem = word
			}
			if _, twice := words[word]; twice {
				t.Errorf("docs/profiles.md defines %s twice", word)
			}
			words[word] = unit
		}
	}
	return words
}

func TestProfilesShareOneVocabulary(t *testing.T) {
	words := readVocabulary(t)
	if len(words) < 50 {
		t.Fatalf("%d words in docs/profiles.md", len(words))
	}
	used := make(map[string]bool)
	eachProfile(t, func(t *testing.T, p *profile) {
		for name, pt := range p.Points {
			used[name] = true
			unit, known := words[name]
			switch {
			case !known:
				t.Errorf("%s is no word of docs/profiles.md", name)
			case pt.Unit != unit:
				t.Errorf("%s is in %q, not %q", name, pt.Unit, unit)
			}
			if strings.Contains(name, "energy") != (pt.Kind == "counter") {
				t.Errorf("%s: kind %q", name, pt.Kind)
			}
			if _, known := p.Groups[pt.Group]; pt.Group != "" && !known {
				t.Errorf("%s: no group %q", name, pt.Group)
			}
			if pt.Unit != "" && pt.Kind != "counter" && pt.Deadband == nil && p.Frame == nil {
				t.Errorf("%s has no deadband", name)
			}
		}
	})
	for word := range words {
		if !used[word] {
			t.Errorf("docs/profiles.md defines %s, which no profile uses", word)
		}
	}
}

// A span is the registers of one point.
type span struct {
	name, table string
	from, to    int // without to
}

func spans(t *testing.T, p *profile) (all []span) {
	for name, pt := range p.Points {
		if pt.Field != "" {
			continue // found by name
		}
		table, from := pt.place()
		if pt.Type == "u8" {
			all = append(all, span{name, table, from, from + 1})
			continue
		}
		typ, length, err := mapping.ParseType(cmp.Or(pt.Type, p.Type, "u16"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		size := typ.Registers(length)
		if table == "byte" {
			size *= 2
		}
		all = append(all, span{name, table, from, from + size})
	}
	slices.SortFunc(all, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.from, b.from))
	})
	return all
}

// Overlapping registers are the usual slip of a copied line or a wrong type.
func TestProfileRegistersDoNotOverlap(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		all := spans(t, p)
		for i, s := range all {
			if s.table == "" || s.from < 0 || s.to > 1<<16 {
				t.Errorf("%s lies nowhere: %+v", s.name, s)
			}
			if i > 0 && all[i-1].table == s.table && all[i-1].to > s.from {
				t.Errorf("%+v and %+v overlap", all[i-1], s)
			}
		}
	})
}

// modbusProfiles are those of Modbus devices, as the gateway reads them. Those
// that speak by themselves are tried with frames made by hand, in
// internal/config.
func modbusProfiles(t *testing.T) []*config.Profile {
	t.Helper()
	all := config.Profiles(t.TempDir(), config.Options{})
	if len(all) < 60 {
		t.Fatalf("the gateway reads %d profiles", len(all))
	}
	return slices.DeleteFunc(all, func(p *config.Profile) bool { return p.Bus.Protocol != config.Modbus })
}

// Each profile's device, simulated, is read over the wire as the gateway would,
// and what comes out is what these bytes mean to one who has only read the
// profile.
func TestProfilesReadBack(t *testing.T) {
	files := readProfiles(t)
	results, err := rehearsal.Run(t.Context(), modbusProfiles(t))
	if err != nil {
		t.Fatal(err)
	}
	values := 0
	for _, r := range results {
		file := files[r.Profile.Name]
		if len(r.Values) != len(file.Points) {
			t.Errorf("%s: %d values of %d points", r.Profile.Name, len(r.Values), len(file.Points))
		}
		for _, v := range r.Values {
			values++
			if !v.Right() {
				t.Errorf("%s: %s: read %s, held %s: %v", r.Profile.Name, v.Point.Name, v.Read, v.Held, v.Err)
				continue
			}
			if v.Point.Type == mapping.String {
				if want := strings.TrimRight(string(v.Raw), "\x00 "); v.Read.String() != want || want == "" {
					t.Errorf("%s: %s: %q is %s to the gateway", r.Profile.Name, v.Point.Name, v.Raw, v.Read)
				}
				continue
			}
			want := file.meaning(t, v.Point.Name, v.Raw)
			if word := file.Points[v.Point.Name].Enum[want.RatString()]; word != "" && word == v.Read.String() {
				continue
			}
			if !near(want, v.Read) {
				t.Errorf("%s: %s: % x is %s to the gateway, and %s to the reader of the profile", r.Profile.Name, v.Point.Name, v.Raw, v.Read, want.FloatString(6))
			}
		}
		for _, doubt := range rehearsal.Doubts(r.Profile) {
			t.Errorf("%s: %s", r.Profile.Name, doubt)
		}
	}
	t.Logf("%d profiles, %d values", len(results), values)
}

// meaning decodes raw without any of the gateway's code.
func (p *profile) meaning(t *testing.T, name string, raw []byte) *big.Rat {
	t.Helper()
	pt := p.Points[name]
	typ, order := cmp.Or(pt.Type, p.Type, "u16"), cmp.Or(pt.Order, p.Order, "ABCD")
	b, exponent := slices.Clone(raw), 0
	if pt.ScaleFactor > 0 { // the register that holds it lies behind the value
		exponent = int(int16(binary.BigEndian.Uint16(b[len(b)-2:])))
		b = b[:len(b)-2]
	}
	if len(b) > 2 && (order == "CDAB" || order == "DCBA") {
		for i := range len(b) / 4 {
			lo, hi := b[2*i:2*i+2], b[len(b)-2*i-2:len(b)-2*i]
			lo[0], lo[1], hi[0], hi[1] = hi[0], hi[1], lo[0], lo[1]
		}
	}
	if order == "BADC" || order == "DCBA" {
		t.Fatalf("%s: no order %s so far", name, order)
	}
	var bits uint64
	for _, c := range b {
		bits = bits<<8 | uint64(c)
	}
	n := new(big.Rat)
	switch typ {
	case "u16", "u32", "u64":
		n.SetInt(new(big.Int).SetUint64(bits))
	case "i16":
		n.SetInt64(int64(int16(bits)))
	case "i32":
		n.SetInt64(int64(int32(bits)))
	case "i64":
		n.SetInt64(int64(bits))
	case "f32":
		n.SetFloat64(float64(math.Float32frombits(binary.BigEndian.Uint32(b))))
	case "f64":
		n.SetFloat64(math.Float64frombits(bits))
	default:
		t.Fatalf("%s: no type %s so far", name, typ)
	}
	if exponent != 0 {
		n.Mul(n, decimal(math.Pow10(exponent)))
	}
	for scale := pt.Scale; scale != nil; scale = nil {
		n.Mul(n, decimal(*scale))
	}
	return n.Add(n, decimal(pt.Offset))
}

// decimal is the number as it was written.
func decimal(f float64) *big.Rat {
	r, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
	return r
}

// near allows for floats of 24 bits.
func near(want *big.Rat, got mapping.Value) bool {
	g, ok := got.Float64()
	w, _ := want.Float64()
	return ok && math.Abs(g-w) <= 1e-6*math.Abs(w)
}

// The plan of each profile at its factory's speed (9600 8N1 where that is not
// known) is kept in a file, so that a change of a profile or of the planner
// shows what it costs on the wire.
func TestProfilePlans(t *testing.T) {
	var b strings.Builder
	b.WriteString("# What one device of each profile asks of its bus; written by go test ./configs -update\n")
	for _, p := range modbusProfiles(t) {
		of, err := budget.Of(p.Bus.Modbus, []*devices.Device{p.Device.Device}, 0)
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		line := "network"
		if s := p.Bus.Modbus.Slowest(); s.Baud > 0 {
			line = fmt.Sprintf("%d %s", s.Baud, s.Format)
		}
		fmt.Fprintf(&b, "%s, %s: load %s\n", p.Name, line, budget.Percent(of.Load))
		for _, j := range of.Jobs {
			var registers []string
			for _, r := range j.Requests {
				registers = append(registers, r.Register.String())
			}
			every := budget.Brief(j.Every)
			for _, with := range j.With {
				every += " and " + budget.Brief(with)
			}
			fmt.Fprintf(&b, "  every %s, %d requests in %s: %s\n", every, len(j.Requests), budget.Brief(j.Time()), strings.Join(registers, ", "))
		}
		if of.Load > budget.Full {
			t.Errorf("%s alone fills its bus: %s", p.Name, of.Trouble("x"))
		}
	}
	const golden = "testdata/plans.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != b.String() {
		t.Errorf("the plans are others than those in %s (%v); if that is meant, go test ./configs -update\n%s", golden, err, firstDifference(string(want), b.String()))
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d\nwas %s\nis  %s", i+1, w[i], g[i])
		}
	}
	return "one of them is longer"
}
