package simulator

import (
	"fmt"
	"strings"
	"testing"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// modeled is a device with points in models, named after where they are.
func modeled(id string, unit modbus.Unit, points ...mapping.Point) *mapping.Device {
	d := &mapping.Device{Device: &devices.Device{ID: id, Name: id, Unit: unit}}
	for _, p := range points {
		d.Points, d.Device.Points = append(d.Points, &p), append(d.Device.Points, p.Point)
	}
	return d
}

func inModel(m modbus.ModelRegister, typ mapping.Type, unit string) mapping.Point {
	m.Count = uint16(typ.Registers(0))
	return mapping.Point{Point: &devices.Point{Name: m.String(), Source: m}, Type: typ, Unit: unit, Factored: m.Factor > 0}
}

// All maps of one unit make one chain, in which a walk finds what they name, and
// a reading of it means what the plant holds. A model has no holes.
func TestModelsOfAUnitMakeOneChain(t *testing.T) {
	power := inModel(modbus.ModelRegister{Models: modbus.Either{101, 103}, At: 14, Factor: 15}, mapping.I16, "W")
	volts := inModel(modbus.ModelRegister{Models: modbus.Either{203}, At: 8, Factor: 15}, mapping.I16, "V")
	unit := modbus.Unit{ID: 1, SunSpec: &modbus.SunSpec{Bases: []uint16{50000}}}
	sim, err := New(Config{Buses: []Bus{{Name: "x", Devices: []*mapping.Device{modeled("a", unit, power), modeled("b", modbus.Unit{ID: 1}, volts)}}}})
	if err != nil {
		t.Fatal(err)
	}
	u := sim.buses[0].units[0]
	ask := func(r modbus.Register) ([]byte, error) {
		raw, err := u.read(nil, r.Table, int(r.Address), max(1, int(r.Count)))
		if err != nil {
			return nil, nil
		}
		return raw, nil
	}
	models, err := modbus.WalkModels(modbus.SunSpecBases, ask)
	if want := "[{1 50002 66} {103 50070 14} {203 50086 14}]"; err != nil || fmt.Sprint(models) != want {
		t.Fatalf("a walk finds %v, %v, want %s", models, err, want)
	}
	if all, _ := ask(modbus.Register{Table: modbus.Holding, Address: 50000, Count: 104}); len(all) != 208 {
		t.Error("there are holes")
	}
	for dev, p := range map[string]*mapping.Point{"a": &power, "b": &volts} {
		at, err := p.Source.(modbus.ModelRegister).Place(models)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := ask(at.At)
		factor, _ := ask(*at.Factor)
		got, err := mapping.Decode(p, append(raw, factor...))
		held, _ := sim.Value(dev, p.Name)
		if whole, _ := sim.Held(dev, p.Name); err != nil || !got.Equal(held) || held.IsNull() || !sim.Holds(dev, p.Name, whole) {
			t.Errorf("%s: read %s, %v, held %s", p.Name, got, err, held)
		}
	}
	far := modeled("a", modbus.Unit{ID: 1, SunSpec: &modbus.SunSpec{Bases: []uint16{65500}}}, power)
	if _, err := New(Config{Buses: []Bus{{Name: "x", Devices: []*mapping.Device{far}}}}); err == nil || !strings.Contains(err.Error(), "does not fit behind address 65500") {
		t.Errorf("a chain without room: %v", err)
	}
}
