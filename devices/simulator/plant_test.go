package simulator

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// A clock is a time that only the test moves.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Date(2026, 11, 20, 23, 6, 0, 0, time.UTC)} }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) advance(d time.Duration) { c.at = c.at.Add(d) }

// build makes a device of points that lie one after the other in their table.
type build struct {
	id     string
	unit   byte
	points []*mapping.Point
	next   [modbus.Holding + 1]uint16
}

// add places p behind the points before it.
func (b *build) add(t modbus.Table, name string, p mapping.Point) *mapping.Point {
	if t.Bits() {
		p.Type = mapping.Bool
	} else if p.Type == mapping.Bool {
		p.Length = 2
	}
	count := uint16(p.RawLen() / 2)
	if t.Bits() {
		count = 1
	}
	p.Point = &devices.Point{Name: name, Source: modbus.Register{Table: t, Address: b.next[t], Count: count}}
	b.next[t] += count
	b.points = append(b.points, &p)
	return &p
}

func (b *build) device(bus string) *mapping.Device {
	return newTestDevice(&devices.Device{ID: b.id, Name: b.id, Bus: bus, Unit: modbus.Unit{ID: b.unit}}, b.points)
}

func newTestDevice(d *devices.Device, points []*mapping.Point) *mapping.Device {
	for _, p := range points {
		d.Points = append(d.Points, p.Point)
	}
	return &mapping.Device{Device: d, Points: points}
}

func decimal(t testing.TB, s string) mapping.Decimal {
	d, err := mapping.ParseDecimal(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// boiler is a PLC with all that can be written.
func boiler(t testing.TB, unit byte) *build {
	low, high, step := decimal(t, "30"), decimal(t, "85"), decimal(t, "0.5")
	b := &build{id: "boiler", unit: unit}
	b.add(modbus.Coil, "pump", mapping.Point{Write: &mapping.Write{}})
	b.add(modbus.Coil, "pump_feedback", mapping.Point{})
	b.add(modbus.Discrete, "door", mapping.Point{})
	b.add(modbus.Holding, "mode", mapping.Point{Type: mapping.U16, Enum: map[int64]string{0: "off", 1: "auto", 2: "manual"}, Write: &mapping.Write{}})
	b.add(modbus.Holding, "setpoint", mapping.Point{Type: mapping.I16, Scale: decimal(t, "0.1"), Unit: "°C", Write: &mapping.Write{Min: &low, Max: &high, Step: &step}})
	b.add(modbus.Holding, "status", mapping.Point{Type: mapping.U16, Bits: map[int]string{0: "running", 3: "fault"}})
	b.add(modbus.Holding, "temperature", mapping.Point{Type: mapping.I16, Scale: decimal(t, "0.1"), Unit: "°C"})
	b.add(modbus.Holding, "flow", mapping.Point{Type: mapping.F32, Unit: "m³/h"})
	b.add(modbus.Holding, "limit", mapping.Point{Type: mapping.U32, Order: mapping.CDAB, Write: &mapping.Write{}})
	return b
}

// meter is a three-phase meter.
func meter(unit byte) *build {
	b := &build{id: "meter", unit: unit}
	for _, phase := range []string{"l1", "l2", "l3"} {
		b.add(modbus.Input, "voltage_"+phase, mapping.Point{Type: mapping.F32, Unit: "V"})
		b.add(modbus.Input, "current_"+phase, mapping.Point{Type: mapping.F32, Unit: "A"})
		b.add(modbus.Input, "power_"+phase, mapping.Point{Type: mapping.F32, Unit: "W"})
		b.add(modbus.Input, "pf_"+phase, mapping.Point{Type: mapping.F32})
	}
	b.add(modbus.Input, "voltage_l1_l2", mapping.Point{Type: mapping.F32, Unit: "V"})
	b.add(modbus.Input, "power", mapping.Point{Type: mapping.F32, Unit: "kW"})
	b.add(modbus.Input, "frequency", mapping.Point{Type: mapping.F32, Unit: "Hz"})
	b.add(modbus.Input, "energy", mapping.Point{Type: mapping.F32, Unit: "kWh", Kind: mapping.Counter})
	return b
}

// everyType has a point of each mapping type that lies in registers.
func everyType(t testing.TB, unit byte) *build {
	b := &build{id: "types", unit: unit}
	for typ := mapping.Bool; typ <= mapping.EUI48; typ++ {
		if typ == mapping.Text {
			continue
		}
		for order := mapping.ABCD; order <= mapping.DCBA; order++ {
			p := mapping.Point{Type: typ, Order: order}
			switch typ {
			case mapping.String, mapping.Bytes:
				p.Length = 8
			case mapping.Mod10:
				p.Length = 4
			}
			b.add(modbus.Holding, typ.String()+"_"+order.String(), p)
		}
	}
	b.add(modbus.Holding, "scaled", mapping.Point{Type: mapping.U16, Scale: decimal(t, "0.1"), Offset: decimal(t, "-40"), Unit: "°C", Invalid: []int64{0xffff, 0x8000}})
	for layout := mapping.Packed; layout <= mapping.LowByte; layout++ {
		b.add(modbus.Holding, fmt.Sprint("text", layout), mapping.Point{Type: mapping.String, Length: 8, Layout: layout, Encoding: mapping.Latin1})
	}
	b.add(modbus.Holding, "wide", mapping.Point{Type: mapping.String, Length: 8, Encoding: mapping.UTF16})
	b.add(modbus.Holding, "part", mapping.Point{Type: mapping.I16, Mask: 0x0ff0})
	factor := b.add(modbus.Holding, "factor", mapping.Point{Type: mapping.I16, Invalid: []int64{-0x8000}, Hidden: true})
	b.add(modbus.Holding, "factored", mapping.Point{Type: mapping.I16, ScaleFrom: factor, Unit: "A"})
	b.add(modbus.Coil, "coil", mapping.Point{})
	b.add(modbus.Discrete, "discrete", mapping.Point{})
	return b
}

// mast is a wind sensor.
func mast() *mapping.Device {
	field := func(name string, i int, p mapping.Point) *mapping.Point {
		p.Point = &devices.Point{Name: name, Source: serial.Field{Sentence: "MWV", Index: i}}
		return &p
	}
	return newTestDevice(&devices.Device{ID: "mast", Name: "mast", Bus: "mast"}, []*mapping.Point{
		field("wind_angle", 1, mapping.Point{Type: mapping.F64, FromText: true, Unit: "°"}),
		field("wind_speed", 3, mapping.Point{Type: mapping.F64, FromText: true, Unit: "kn"}),
		field("wind_status", 5, mapping.Point{Type: mapping.Text, EnumText: map[string]string{"A": "valid", "V": "invalid"}}),
	})
}

func newPlant(t testing.TB, c *clock, cfg Config, devices ...*mapping.Device) *Simulator {
	t.Helper()
	if c != nil {
		cfg.Now = c.now
	}
	if cfg.Buses == nil {
		cfg.Buses = []Bus{{Name: "plc", Devices: devices}}
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// number returns what a point holds.
func number(t testing.TB, s *Simulator, device, name string) float64 {
	t.Helper()
	v, ok := s.Value(device, name)
	if !ok {
		t.Fatalf("no point %s of %s", name, device)
	}
	x, ok := v.Float64()
	if !ok {
		t.Fatalf("%s is %v, no number", name, v)
	}
	return x
}

func TestMeterFitsTogether(t *testing.T) {
	c := newClock()
	s := newPlant(t, c, Config{Seed: 7}, meter(1).device("plc"))
	energy, seen := number(t, s, "meter", "energy"), map[float64]bool{}
	for range 600 {
		before := energy
		c.advance(time.Second)
		get := func(name string) float64 { return number(t, s, "meter", name) }
		sum := 0.0
		for _, l := range []string{"l1", "l2", "l3"} {
			v, i, w, pf := get("voltage_"+l), get("current_"+l), get("power_"+l), get("pf_"+l)
			sum += w
			if math.Abs(v-230) > 10 || i <= 0 || i > 40 || pf < 0.9 || pf > 1 {
				t.Fatalf("%s: %g V, %g A, power factor %g", l, v, i, pf)
			}
			if math.Abs(v*i*pf-w) > 0.001*w {
				t.Fatalf("%s: %g V × %g A × %g is not %g W", l, v, i, pf, w)
			}
			seen[v] = true
		}
		if total := get("power"); math.Abs(sum/1000-total) > 0.001*total {
			t.Fatalf("phases have %g W, all of them %g kW", sum, total)
		}
		if f := get("frequency"); math.Abs(f-50) > 0.03 {
			t.Fatalf("frequency %g Hz", f)
		}
		if v := get("voltage_l1_l2"); math.Abs(v-400) > 15 {
			t.Fatalf("between phases %g V", v)
		}
		if energy = get("energy"); energy < before {
			t.Fatalf("energy fell from %g to %g kWh", before, energy)
		}
	}
	if len(seen) < 1000 {
		t.Errorf("only %d different voltages in 1800", len(seen))
	}
}

// TestCounterTellsThePower compares what a counter rose with the power.
func TestCounterTellsThePower(t *testing.T) {
	b := &build{id: "m", unit: 1}
	b.add(modbus.Input, "power", mapping.Point{Type: mapping.F64, Unit: "W"})
	b.add(modbus.Input, "energy", mapping.Point{Type: mapping.F64, Unit: "Wh", Kind: mapping.Counter})
	c := newClock()
	s := newPlant(t, c, Config{}, b.device("plc"))
	start, sum := number(t, s, "m", "energy"), 0.0
	for range 3600 {
		c.advance(time.Second)
		sum += number(t, s, "m", "power") / 3600
	}
	if rose := number(t, s, "m", "energy") - start; math.Abs(rose-sum) > 0.01*sum {
		t.Errorf("energy rose by %g Wh, the power says %g", rose, sum)
	}
}

// TestSamePlantForWhoeverLooks: how often somebody asks changes nothing.
func TestSamePlantForWhoeverLooks(t *testing.T) {
	make := func() (*clock, *Simulator) {
		c := newClock()
		return c, newPlant(t, c, Config{Seed: 3}, meter(1).device("plc"), boiler(t, 2).device("plc"))
	}
	c1, often := make()
	c2, seldom := make()
	for range 300 {
		c1.advance(time.Second)
		often.Value("meter", "power")
		often.Value("boiler", "flow")
	}
	c2.advance(300 * time.Second)
	for _, name := range []string{"power", "energy", "voltage_l2"} {
		a, _ := often.Held("meter", name)
		b, _ := seldom.Held("meter", name)
		if string(a) != string(b) {
			t.Errorf("%s: %x when asked each second, %x when asked once", name, a, b)
		}
	}
	other := newPlant(t, c2, Config{Seed: 4}, meter(1).device("plc"))
	if a, b := number(t, seldom, "meter", "power"), number(t, other, "meter", "power"); a == b {
		t.Errorf("another seed gives the same power, %g", a)
	}
}

// TestEveryTypeHoldsWhatItSays: values of all types stay within their type,
// decode to what is held, and are never a sentinel.
func TestEveryTypeHoldsWhatItSays(t *testing.T) {
	for _, check := range []bool{false, true} {
		c := newClock()
		dev := everyType(t, 1).device("plc")
		s := newPlant(t, c, Config{Check: check}, dev)
		factor := dev.Device.Points[slices.IndexFunc(dev.Points, func(p *mapping.Point) bool { return p.Name == "factor" })]
		for range 200 {
			c.advance(time.Second)
			for _, p := range dev.Points {
				raw, _ := s.Held("types", p.Name)
				exponent, _ := s.Held("types", "factor")
				v, err := mapping.DecodeWith(p, raw, []devices.Reading{{Point: factor, Raw: exponent}})
				if err != nil || v.IsNull() {
					t.Fatalf("check %v: %s holds %x: %v, %v", check, p.Name, raw, v, err)
				}
				if held, _ := s.Value("types", p.Name); !held.Equal(v) {
					t.Fatalf("%s holds %v, says %v", p.Name, v, held)
				}
				if !s.Holds("types", p.Name, raw) {
					t.Fatalf("%s holds %x and denies it", p.Name, raw)
				}
			}
		}
	}
}

func TestNeverASentinel(t *testing.T) {
	b := &build{id: "d", unit: 1}
	var all []int64
	for n := range int64(100) {
		all = append(all, n)
	}
	b.add(modbus.Holding, "x", mapping.Point{Type: mapping.U16, Unit: "%", Invalid: all[20:]})
	b.add(modbus.Holding, "y", mapping.Point{Type: mapping.I16, Invalid: []int64{0x8000}})
	c := newClock()
	s := newPlant(t, c, Config{}, b.device("plc"))
	for range 100 {
		c.advance(10 * time.Second)
		if x := number(t, s, "d", "x"); x >= 20 && x < 100 {
			t.Fatalf("%g means no value", x)
		}
	}
	p := newPoint(0, "d", b.points[1])
	p.count = 1
	for x, want := range map[float64]string{-40000: "8001", -32767: "8001", 0: "0000"} {
		if raw, err := p.encode(x); err != nil || hex.EncodeToString(raw) != want {
			t.Errorf("%g: %x, %v, want %s", x, raw, err, want)
		}
	}
}

func TestSetpointAndSwitch(t *testing.T) {
	c := newClock()
	dev := boiler(t, 1).device("plc")
	s := newPlant(t, c, Config{}, dev)
	write := func(name, text string) {
		t.Helper()
		if reply := writePoint(t, s, dev, name, text); reply[0]&0x80 != 0 {
			t.Fatalf("write %s to %s: exception %d", text, name, reply[1])
		}
	}
	write("setpoint", "70")
	c.advance(5 * time.Minute)
	if x := number(t, s, "boiler", "temperature"); math.Abs(x-70) > 1 {
		t.Errorf("temperature %g with a setpoint of 70", x)
	}
	if x := number(t, s, "boiler", "flow"); x < 1 {
		t.Errorf("flow %g with the pump on", x)
	}
	write("pump", "off")
	c.advance(5 * time.Minute)
	if x := number(t, s, "boiler", "temperature"); math.Abs(x-20) > 1 {
		t.Errorf("temperature %g with the pump off for long", x)
	}
	for _, name := range []string{"flow", "pump_feedback"} {
		if x := number(t, s, "boiler", name); x != 0 {
			t.Errorf("%s is %g with the pump off", name, x)
		}
	}
	if v, _ := s.Value("boiler", "status"); v.String() != `{"running":false,"fault":false}` {
		t.Errorf("status %v with the pump off", v)
	}
	if x := number(t, s, "boiler", "setpoint"); x != 70 {
		t.Errorf("setpoint %g, written was 70", x)
	}
}

// writePoint sends a write as it arrives at a carrier and returns the answer.
func writePoint(t testing.TB, s *Simulator, dev *mapping.Device, name, text string) modbus.PDU {
	t.Helper()
	p, raw := encode(t, dev, name, text)
	return serve(s, dev.Unit.(modbus.Unit).ID, writeRequest(p.Source.(modbus.Register), raw))
}

// encode returns a point and the raw form of text for it.
func encode(t testing.TB, dev *mapping.Device, name, text string) (*mapping.Point, []byte) {
	t.Helper()
	i := slices.IndexFunc(dev.Points, func(p *mapping.Point) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("no point %s", name)
	}
	v, err := mapping.ParseValue(dev.Points[i], []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := mapping.Encode(nil, dev.Points[i], v)
	if err != nil {
		t.Fatal(err)
	}
	return dev.Points[i], raw
}

func serve(s *Simulator, unit byte, req modbus.PDU) modbus.PDU {
	return modbus.Serve(unit, req, &desk{bus: s.buses[0]})
}

func writeRequest(r modbus.Register, raw []byte) modbus.PDU {
	head := []byte{16, byte(r.Address >> 8), byte(r.Address), byte(r.Count >> 8), byte(r.Count), byte(len(raw))}
	if r.Table == modbus.Coil {
		return modbus.PDU{5, head[1], head[2], 0xff * raw[0], 0}
	}
	return append(head, raw...)
}

func readRequest(function byte, addr, count int) modbus.PDU {
	return modbus.PDU{function, byte(addr >> 8), byte(addr), byte(count >> 8), byte(count)}
}

func TestRefusals(t *testing.T) {
	dev := boiler(t, 9).device("plc")
	s := newPlant(t, newClock(), Config{}, dev)
	for _, test := range []struct {
		what string
		unit byte
		req  modbus.PDU
		want byte // exception; 0 for none
	}{
		{"read all holding registers", 9, readRequest(3, 0, 8), 0},
		{"read by the address alone", 255, readRequest(3, 0, 8), 0},
		{"another unit", 8, readRequest(3, 0, 8), 11},
		{"one register too many", 9, readRequest(3, 0, 9), 2},
		{"far outside", 9, readRequest(3, 1000, 1), 2},
		{"a table without points", 9, readRequest(4, 0, 1), 2},
		{"coils", 9, readRequest(1, 0, 2), 0},
		{"discrete inputs", 9, readRequest(2, 0, 1), 0},
		{"nothing", 9, readRequest(3, 0, 0), 3},
		{"too much", 9, readRequest(3, 0, 126), 3},
		{"unknown function", 9, modbus.PDU{0x41, 0}, 1},
		{"write a point that is read only", 9, modbus.PDU{6, 0, 2, 0, 1}, 2},
		{"write across one", 9, writeRequest(modbus.Register{Table: modbus.Holding, Address: 1, Count: 2}, []byte{1, 0xf4, 0, 1}), 2},
		{"write a coil that is read only", 9, modbus.PDU{5, 0, 1, 0xff, 0}, 2},
		{"no such name", 9, modbus.PDU{6, 0, 0, 0, 3}, 3},
		{"name", 9, modbus.PDU{6, 0, 0, 0, 2}, 0},
		{"above the maximum", 9, modbus.PDU{6, 0, 1, 3, 0x53}, 3},
		{"maximum", 9, modbus.PDU{6, 0, 1, 3, 0x52}, 0},
		{"below the minimum", 9, modbus.PDU{6, 0, 1, 1, 0x2b}, 3},
		{"off the steps", 9, modbus.PDU{6, 0, 1, 1, 0x2d}, 3},
		{"two points at once", 9, writeRequest(modbus.Register{Table: modbus.Holding, Address: 0, Count: 2}, []byte{0, 1, 1, 0xf4}), 0},
		{"two points, one of them wrong", 9, writeRequest(modbus.Register{Table: modbus.Holding, Address: 0, Count: 2}, []byte{0, 0, 0, 0}), 3},
		{"half of a point", 9, modbus.PDU{6, 0, 6, 0, 7}, 0},
	} {
		reply := serve(s, test.unit, test.req)
		if test.want == 0 && reply[0] != test.req[0] || test.want != 0 && (reply[0] != test.req[0]|0x80 || reply[1] != test.want) {
			t.Errorf("%s: answer % x, want exception %d", test.what, []byte(reply), test.want)
		}
	}
	if v, _ := s.Value("boiler", "mode"); v.String() != "auto" {
		t.Errorf("mode is %v: a refused write changed it", v)
	}
}

func TestHoles(t *testing.T) {
	b := &build{id: "d", unit: 1}
	b.add(modbus.Holding, "a", mapping.Point{Type: mapping.U16})
	b.next[modbus.Holding] = 600
	b.add(modbus.Holding, "b", mapping.Point{Type: mapping.U16})
	for _, lenient := range []bool{false, true} {
		s := newPlant(t, newClock(), Config{Buses: []Bus{{Name: "plc", Lenient: lenient, Devices: []*mapping.Device{b.device("plc")}}}})
		hole := serve(s, 1, readRequest(3, 590, 11))
		if lenient != (hole[0] == 3) {
			t.Errorf("lenient %v: answer % x", lenient, []byte(hole))
		}
		if beyond := serve(s, 1, readRequest(3, 600, 2)); beyond[0] != 0x83 {
			t.Errorf("lenient %v: read beyond the last register: % x", lenient, []byte(beyond))
		}
	}
}

// TestMarksAreUnique: in check mode no number is ever held by two points, and
// each read gives a new one.
func TestMarksAreUnique(t *testing.T) {
	dev, other := meter(1), meter(2)
	other.id = "other"
	s := newPlant(t, newClock(), Config{Check: true}, dev.device("plc"), other.device("plc"))
	owner := map[float64]string{}
	for round := range 100 {
		for unit, d := range map[byte]*build{1: dev, 2: other} {
			if reply := serve(s, unit, readRequest(4, 0, int(d.next[modbus.Input]))); reply[0] != 4 {
				t.Fatalf("answer % x", []byte(reply))
			}
			for _, p := range d.points {
				x := number(t, s, d.id, p.Name)
				if who, taken := owner[x]; taken {
					t.Fatalf("round %d: %s of %s holds %g, as %s did", round, p.Name, d.id, x, who)
				}
				owner[x] = d.id + " " + p.Name
			}
		}
	}
	raw, _ := s.Held("meter", "power")
	if s.Holds("meter", "energy", raw) || s.Holds("other", "power", raw) || !s.Holds("meter", "power", raw) {
		t.Errorf("%x is the power of one meter, and nothing else", raw)
	}
}

func TestCounterWraps(t *testing.T) {
	b := &build{id: "d", unit: 1}
	p := newPoint(0, "d", b.add(modbus.Holding, "pulses", mapping.Point{Type: mapping.U16, Kind: mapping.Counter}))
	for x, want := range map[float64]string{65535: "ffff", 65536: "0000", 65540: "0004"} {
		if raw, err := p.encode(x); err != nil || hex.EncodeToString(raw) != want {
			t.Errorf("%g: %x, %v, want %s", x, raw, err, want)
		}
	}
}

// TestClockThatSteps: a clock set by years neither fills a counter nor stops
// the plant.
func TestClockThatSteps(t *testing.T) {
	c := newClock()
	s := newPlant(t, c, Config{}, meter(1).device("plc"))
	before := number(t, s, "meter", "energy")
	c.advance(50 * 365 * 24 * time.Hour)
	if rose := number(t, s, "meter", "energy") - before; rose > 24*30 {
		t.Errorf("energy rose by %g kWh when the clock was set", rose)
	}
	c.advance(-100 * 365 * 24 * time.Hour)
	number(t, s, "meter", "energy")
	before = number(t, s, "meter", "voltage_l1")
	c.advance(time.Minute)
	if number(t, s, "meter", "voltage_l1") == before {
		t.Error("the plant stands since the clock was set back")
	}
}
