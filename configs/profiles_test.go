package configs

import (
	"cmp"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml" // the decoder of all configuration

	"edgegateway/mapping"
)

// profile is what a profile may say; a key that is not here is an error.
type profile struct {
	Maker, Model, Type, Order, Every string
	MaxRead                          int `toml:"max_read"`
	Groups                           map[string]struct{ Every string }
	Points                           map[string]point
	Frame                            *struct {
		Kind, Start, End, Send string
		Size                   int
		Checksum               map[string]any
	}
}

type point struct {
	Input, Holding, Coil, Discrete *int
	Byte                           *int
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
	return "", 0
}

func eachProfile(t *testing.T, check func(t *testing.T, p *profile)) {
	n := 0
	err := fs.WalkDir(Profiles, "profiles", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		t.Run(strings.TrimSuffix(strings.TrimPrefix(name, "profiles/"), ".toml"), func(t *testing.T) {
			text, err := fs.ReadFile(Profiles, name)
			if err != nil || path.Ext(name) != ".toml" {
				t.Fatalf("%s: %v", name, err)
			}
			var p profile
			md, err := toml.Decode(string(text), &p)
			if err != nil || len(md.Undecoded()) > 0 {
				t.Fatalf("%v, unknown keys %v", err, md.Undecoded())
			}
			if header, _, _ := strings.Cut(string(text), "\nmaker"); !regexp.MustCompile(`(?i)(one source|two sources)`).MatchString(header) {
				t.Error("the header does not say how many sources it rests on")
			}
			check(t, &p)
		})
		return nil
	})
	if err != nil || n < 10 {
		t.Errorf("%d profiles, %v", n, err)
	}
}

func TestProfilesSayWhatTheyAre(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		if p.Maker == "" || p.Model == "" || len(p.Points) == 0 {
			t.Error("maker, model or points are missing")
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

// vocabulary is what points of profiles are called.
var vocabulary = regexp.MustCompile(`^((voltage|current|power|apparent_power|reactive_power|pf|` +
	`energy|energy_import|energy_export|reactive_energy|reactive_energy_import|reactive_energy_export)(_l[123]|_t[1-4])?|` +
	`voltage_solar|power_solar|power_import|power_export|tariff|state|pm1|pm2_5|pm10|co2|frequency|phase_angle|thd|temperature|humidity|alarm)$`)

// units are those that a quantity has in every profile, so that what reads
// one meter reads the next.
var units = []struct{ prefix, unit string }{
	{"voltage", "V"}, {"current", "A"}, {"power", "W"}, {"apparent_power", "VA"}, {"reactive_power", "var"}, {"pf", ""},
	{"energy", "kWh"}, {"reactive_energy", "kvarh"}, {"frequency", "Hz"}, {"phase_angle", "°"}, {"thd", "%"},
	{"temperature", "°C"}, {"humidity", "%"}, {"alarm", ""},
	{"pm", "µg/m³"}, {"co2", "ppm"},
}

func TestProfilesShareOneVocabulary(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		for name, pt := range p.Points {
			if !vocabulary.MatchString(name) {
				t.Errorf("%s is no word of the vocabulary", name)
			}
			for _, u := range units {
				if strings.HasPrefix(name, u.prefix) && pt.Unit != u.unit {
					t.Errorf("%s is in %q, not %q", name, pt.Unit, u.unit)
				}
			}
			if strings.Contains(name, "energy") != (pt.Kind == "counter") {
				t.Errorf("%s: kind %q", name, pt.Kind)
			}
			if _, known := p.Groups[pt.Group]; pt.Group != "" && !known {
				t.Errorf("%s: no group %q", name, pt.Group)
			}
		}
	})
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
		if order := cmp.Or(pt.Order, p.Order); order != "" {
			if _, err := mapping.ParseOrder(order); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if pt.Scale != nil {
			if _, err := mapping.ParseDecimal(strconv.FormatFloat(*pt.Scale, 'g', -1, 64)); err != nil {
				t.Errorf("%s: scale: %v", name, err)
			}
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
