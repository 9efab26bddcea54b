package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"edgegateway/devices/modbus"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// simulatedUnit is an asker whose every unit has the registers of a profile's
// device, with plausible values, and those of extra.
func simulatedUnit(t *testing.T, p *config.Profile, extra map[modbus.Register]string) (*asker, *int) {
	t.Helper()
	unit := p.Device.Unit.(modbus.Unit)
	unit.ID = 1
	dev := *p.Device.Device
	dev.Unit = unit
	sim, err := simulator.New(simulator.Config{Buses: []simulator.Bus{{Name: "x", Devices: []*mapping.Device{{Device: &dev, Points: p.Device.Points}}}}})
	if err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
	words := map[modbus.Register]string{}
	for _, point := range p.Device.Points {
		raw, _ := sim.Held(dev.ID, point.Name)
		r := registerOf(point)
		for i := range int(r.Count) {
			words[modbus.Register{Table: r.Table, Address: r.Address + uint16(i)}] = string(raw[2*i : 2*i+2])
		}
	}
	for r, word := range extra {
		words[r] = word
	}
	requests := new(int)
	return &asker{bus: "x", close: func() {}, read: func(_ context.Context, req readRequest) ([]pointResult, error) {
		*requests++
		regs, _, _, err := parseSource(req.Source, req.Type)
		if err != nil {
			return nil, err
		}
		result := pointResult{}
		for i := range int(max(1, regs[0].Count)) {
			word, ok := words[modbus.Register{Table: regs[0].Table, Address: regs[0].Address + uint16(i)}]
			if !ok {
				e := &modbus.Exception{Function: 3, Code: modbus.IllegalAddress}
				return []pointResult{{Error: e.Cause(), Detail: e.Error()}}, nil
			}
			result.Raw += fmt.Sprintf("%X ", word)
		}
		return []pointResult{result}, nil
	}}, requests
}

// A device is found by its own profile, or by one whose registers are a larger
// or the same map; those without a voltage or frequency of the grid need not.
func TestProfilesKnowTheirDevices(t *testing.T) {
	t.Parallel()
	profiles := config.Profiles(t.TempDir(), config.Options{})
	for _, p := range profiles {
		if !p.RegistersOnly() {
			continue
		}
		a, requests := simulatedUnit(t, p, nil)
		var names []string
		for _, f := range examine(a).fits(t.Context(), profiles) {
			names = append(names, f.profile)
		}
		telling := slices.ContainsFunc(p.Device.Points, func(point *mapping.Point) bool { return rank(point) >= 2 })
		if telling && !slices.Contains(names, p.Name) {
			t.Errorf("%s: fits %q", p.Name, names)
		}
		if *requests > 2*len(profiles) {
			t.Errorf("%s: %d requests to find it among %d profiles", p.Name, *requests, len(profiles))
		}
	}
}

// What a unit says of itself decides between profiles whose registers it has
// both; what it says wrongly only casts doubt.
func TestFingerprintsDecide(t *testing.T) {
	t.Parallel()
	profiles := config.Profiles(t.TempDir(), config.Options{})
	profile := func(name string) *config.Profile {
		i := slices.IndexFunc(profiles, func(p *config.Profile) bool { return p.Name == name })
		if i < 0 {
			t.Fatalf("no profile %s", name)
		}
		return profiles[i]
	}
	code := modbus.Register{Table: modbus.Holding, Address: 11}
	abb := func(text string) map[modbus.Register]string {
		return map[modbus.Register]string{{Table: modbus.Holding, Address: 35168}: text[:2], {Table: modbus.Holding, Address: 35169}: text[2:]}
	}
	for _, c := range []struct {
		device  string
		extra   map[modbus.Register]string
		want    string
		perhaps bool
	}{
		{"carlogavazzi/em340", map[modbus.Register]string{code: "\x01\x54"}, "carlogavazzi/em340", false},
		{"carlogavazzi/em340", map[modbus.Register]string{code: "\x06\x70"}, "carlogavazzi/em24_e1", false},
		{"carlogavazzi/em24", map[modbus.Register]string{code: "\x00\x48"}, "carlogavazzi/em24", false},
		{"carlogavazzi/em112", map[modbus.Register]string{code: "\x00\x6e"}, "carlogavazzi/em112", false},
		{"abb/b23", abb("B24 "), "abb/b23", false},
		{"abb/b23", abb("B21 "), "abb/b21", false},
		{"abb/b23", abb("A43 "), "abb/b23", true},
		{"abb/b23", nil, "abb/b23", false},
	} {
		a, _ := simulatedUnit(t, profile(c.device), c.extra)
		fits := examine(a).fits(t.Context(), profiles)
		if len(fits) == 0 || fits[0].profile != c.want || fits[0].perhaps() != c.perhaps {
			t.Errorf("%s with %q: fits %+v, want %s", c.device, c.extra, fits, c.want)
			continue
		}
		if c.extra != nil && !strings.Contains(fits[0].evidence[0], "holding ") {
			t.Errorf("%s: the evidence does not say what the unit says: %q", c.device, fits[0].evidence)
		}
	}
}

// A SunSpec device whose model has a profile is that; another is offered what
// its common model tells.
func TestSunSpecDevicesMayHaveAProfile(t *testing.T) {
	profiles := config.Profiles(t.TempDir(), config.Options{})
	i := slices.IndexFunc(profiles, func(p *config.Profile) bool { return p.Name == "fronius/inverter-float" })
	for model, want := range map[string][]string{
		"\x00\x71": {"# SunSpec at holding 40000: Acme", "# holding 40069 is 113, which names it", "[device.inverter-float-x-1]", `profile = "fronius/inverter-float"`},
		"\x00\x67": {"# SunSpec at holding 40000: Acme", "[device.sunspec-x-1]", "points.maker = { model = 1, at = 2"},
	} {
		extra := map[modbus.Register]string{{Table: modbus.Holding, Address: 40069}: model}
		for n, word := range strings.Split("Su,nS,\x00\x01,\x00\x41,Ac,me"+strings.Repeat(",\x00\x00", 64), ",") {
			if r := (modbus.Register{Table: modbus.Holding, Address: 40000 + uint16(n)}); r.Address < 40069 {
				extra[r] = word
			}
		}
		a, _ := simulatedUnit(t, profiles[i], extra)
		u := &foundUnit{Bus: "x", Address: "tcp://192.0.2.1:502", Unit: 1, listed: true}
		(&scanner{profiles: profiles}).identify(t.Context(), a, u)
		var out strings.Builder
		u.print(&out)
		for _, line := range want {
			if !strings.Contains(out.String(), line) {
				t.Errorf("model %q: it does not say %q:\n%s", model, line, out.String())
			}
		}
	}
}
