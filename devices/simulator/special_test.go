package simulator

import (
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// bits is a device whose register 7 is three bits, the second of them written
// only by itself.
func bits(unit byte) *mapping.Device {
	reg := modbus.Register{Table: modbus.Holding, Address: 7, Count: 1}
	d := &devices.Device{ID: string(rune('a' + unit)), Bus: "line", Unit: modbus.Unit{ID: unit}}
	point := func(name string, s devices.Source, p mapping.Point) *mapping.Point {
		p.Point = &devices.Point{Name: name, Source: s, Every: time.Second}
		return &p
	}
	return newTestDevice(d, []*mapping.Point{
		point("b0", modbus.Bit{Register: reg, N: 0}, mapping.Point{Type: mapping.Bool, Write: &mapping.Write{}}),
		point("b1", modbus.Bit{Register: reg, N: 9, Swapped: true}, mapping.Point{Type: mapping.Bool, Write: &mapping.Write{}}),
		point("b15", modbus.Bit{Register: reg, N: 15}, mapping.Point{Type: mapping.Bool}),
		point("whole", reg, mapping.Point{Type: mapping.U16}),
		point("events", modbus.Queue{Address: 200}, mapping.Point{Type: mapping.I16, Scale: mapping.Decimal{Mant: 1, Exp: -1}, List: true}),
	})
}

// everybody is all units of the line.
func everybody() *mapping.Device {
	d := &devices.Device{ID: "all", Bus: "line", Unit: modbus.Unit{}}
	reg := modbus.Register{Table: modbus.Holding, Address: 7, Count: 1}
	return newTestDevice(d, []*mapping.Point{{Point: &devices.Point{Name: "b0", Source: modbus.Bit{Register: reg}, Every: devices.Never}, Type: mapping.Bool, Write: &mapping.Write{}}})
}

// TestBitsQueuesAndBroadcasts on a line of this machine and behind a gateway.
func TestBitsQueuesAndBroadcasts(t *testing.T) {
	for _, bus := range []Bus{{Name: "line", Kind: RTU}, {Name: "line", Kind: TCP, Behind: true}} {
		clock := newClock()
		bus.Devices = []*mapping.Device{bits(1), bits(2), everybody()}
		s := newPlant(t, clock, Config{Buses: []Bus{bus}})
		ask := func(unit byte, req ...byte) modbus.PDU {
			return modbus.Serve(unit, req, &desk{bus: s.buses[0]})
		}
		holds := func(dev, point, want string) {
			t.Helper()
			if v, ok := s.Value(dev, point); !ok || v.String() != want {
				t.Errorf("%v: %s of %s is %v, want %s", bus.Kind, point, dev, v, want)
			}
		}
		holds("b", "b0", "true") // what switches a device is on
		ask(1, 22, 0, 7, 0xFF, 0xFE, 0, 0)
		holds("b", "b0", "false")
		ask(1, 22, 0, 7, 0xFF, 0xFD, 0, 2) // bit 9 of a register with its bytes the other way round
		holds("b", "b1", "true")
		holds("b", "b0", "false")
		holds("c", "b0", "true")
		if got := ask(0, 22, 0, 7, 0xFF, 0xFE, 0, 1); got != nil {
			t.Errorf("a broadcast is answered % x", []byte(got))
		}
		ask(0, 22, 0, 7, 0xFF, 0xFD, 0, 0)
		for _, dev := range []string{"b", "c"} {
			holds(dev, "b0", "true")
			holds(dev, "b1", "false")
		}
		first := ask(1, 24, 0, 200)
		clock.advance(time.Second)
		next := ask(1, 24, 0, 200)
		if len(first) != 5+2*queued || string(first[7:]) != string(next[5:len(next)-2]) {
			t.Errorf("the queue was % x, a second later % x", []byte(first), []byte(next))
		}
		if !s.Holds("b", "events", next[5:]) || !s.Holds("b", "events", first[5:]) {
			t.Error("it does not know what it said")
		}
		if got := ask(1, 24, 0, 201); got[0] != 24|0x80 {
			t.Errorf("a queue that is not there: % x", []byte(got))
		}
	}
}
