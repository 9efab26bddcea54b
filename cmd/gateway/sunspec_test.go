package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
)

// chainOf is a chain of models with these ids, as long as SunSpec has them.
func chainOf(ids ...uint16) (models []modbus.Model) {
	lengths := map[uint16]uint16{1: 66, 101: 50, 103: 50, 113: 60, 124: 24, 160: 48, 203: 105, 213: 124, 802: 62}
	at := uint16(40002)
	for _, id := range ids {
		models = append(models, modbus.Model{ID: id, Address: at, Length: lengths[id]})
		at += 2 + lengths[id]
	}
	return models
}

// A device is first what its first model says, and with the strings of panels
// that it has.
func TestModelsNameTheProfile(t *testing.T) {
	profiles := config.Profiles(t.TempDir(), config.Options{})
	for _, tt := range []struct {
		ids  []uint16
		want string
	}{
		{[]uint16{1, 103}, "[sunspec/inverter]"},
		{[]uint16{1, 101, 160}, "[sunspec/inverter-mppt sunspec/inverter]"},
		{[]uint16{1, 113, 124, 160}, "[sunspec/inverter-float sunspec/storage]"},
		{[]uint16{1, 103, 1, 203}, "[sunspec/inverter sunspec/meter]"}, // SolarEdge
		{[]uint16{1, 203, 103}, "[sunspec/meter sunspec/inverter]"},
		{[]uint16{1, 213}, "[sunspec/meter-float]"},
		{[]uint16{1, 802}, "[sunspec/battery]"},
		{[]uint16{1, 124}, "[sunspec/storage]"},
		{[]uint16{1}, "[]"},
		{nil, "[]"},
	} {
		var got []string
		for _, f := range (&sunSpec{Models: chainOf(tt.ids...)}).fits(profiles) {
			got = append(got, f.profile)
			if f.profile == "sunspec/inverter-mppt" && !slices.Equal(f.lacks, []string{"power_solar_3", "power_solar_4", "voltage_solar_3", "voltage_solar_4", "current_solar_3", "current_solar_4"}) {
				t.Errorf("models %v: it lacks %v", tt.ids, f.lacks)
			}
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("models %v: %v, want %s", tt.ids, got, tt.want)
		}
	}
}

// From the scan to the values: what scan prints is a configuration, read says
// where the points are, and what was found outlives a restart.
func TestSunSpecFromScanToValues(t *testing.T) {
	strings2 := ""
	for _, what := range []string{"power", "voltage", "current"} {
		strings2 += fmt.Sprintf("points.%s_solar_3 = false\npoints.%s_solar_4 = false\n", what, what)
	}
	roof := "[device.pv]\nprofile = \"sunspec/inverter-mppt\"\nbus = \"roof\"\nunit_id = 71\nsunspec = [50000]\n" + strings2
	s := newSite(t, "[bus.roof]\naddress = \"tcp://192.0.2.1:502\"\n", map[string]string{"roof": roof})
	site := filepath.Join(s.config, "site.toml")
	sim := start(t, binary, s.args("simulate", "--site", site)...)
	eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })

	found, code := s.command("scan", "roof", "--units", "71", "--json")
	var units []foundUnit
	if err := json.Unmarshal([]byte(found), &units); err != nil || code != exitOK || len(units) != 1 {
		t.Fatalf("scan: code %d, %v:\n%s", code, err, found)
	}
	u := units[0]
	if u.Profile != "sunspec/inverter-mppt" || u.SunSpec == nil || u.SunSpec.Address != 50000 || u.SunSpec.ids() != "1, 103, 160" || len(u.Lacks) != 6 || u.Perhaps {
		t.Errorf("found %+v, SunSpec %+v", u, u.SunSpec)
	}
	var out strings.Builder
	u.Devices = nil
	u.print(&out)
	for _, line := range []string{`profile = "sunspec/inverter-mppt"`, "points.power_solar_3 = false # it has none"} {
		if !strings.Contains(out.String(), "\n"+line+"\n") {
			t.Errorf("scan does not say %q:\n%s", line, out.String())
		}
	}

	const place = "holding 50084, factor in 50085 (model 103)"
	for range 2 {
		s.run()
		var results []pointResult
		eventually(t, "the inverter is read", func() bool {
			text, _ := s.command("read", "pv", "--json")
			return json.Unmarshal([]byte(text), &results) == nil && len(results) == 23
		})
		for _, r := range results {
			if r.Error != "" || !strings.Contains(r.Source, "(model ") || r.Point == "power_inverter" && (r.Source != place || len(r.Raw) != 9) {
				t.Errorf("read %+v", r)
			}
		}
		s.stop()
	}
	book := openNotebook(filepath.Join(s.state, "learned.json"), []string{"pv"}, nil)
	if f, _ := book.Facts("pv"); len(f.Models) != 3 || f.Models[1].ID != 103 || f.Models[1].Address != 50070 {
		t.Errorf("kept is %+v", f)
	}
}
