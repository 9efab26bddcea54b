package simulator

import (
	"context"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

var (
	dustFrame = serial.Frames{Start: []byte{0xaa, 0xc0}, End: []byte{0xab}, Size: 10, Sum: serial.Sum{Kind: "sum8"}, SumFrom: 2}
	longFrame = serial.Frames{Start: []byte("BM"), Length: &serial.LengthField{At: 2, Size: 2, Plus: 4}, Sum: serial.Sum{Kind: "sum16"}}
	co2Frame  = serial.Frames{Start: []byte{0xff, 0x86}, Size: 9, Sum: serial.Sum{Kind: "sum8", Negate: true}, SumFrom: 1}
	meterSum  = serial.Sum{Kind: "crc16", Poly: 0x8005, RefIn: true, RefOut: true}
)

// A playedPoint is where a point is and what it is.
type playedPoint struct {
	source devices.Source
	point  mapping.Point
}

// framings are plants of one device each.
var framings = map[string]struct {
	framing serial.Framing
	polls   []serial.Poll
	points  map[string]playedPoint
}{
	"sds011": {framing: dustFrame, points: map[string]playedPoint{
		"pm2_5": {serial.Span{At: 2, Len: 2}, mapping.Point{Type: mapping.U16, Order: mapping.DCBA, Scale: mapping.Decimal{Mant: 1, Exp: -1}, Unit: "µg/m³"}},
		"pm10":  {serial.Span{At: 4, Len: 2}, mapping.Point{Type: mapping.U16, Order: mapping.DCBA, Scale: mapping.Decimal{Mant: 1, Exp: -1}, Unit: "µg/m³"}},
	}},
	"pmsx003": {framing: longFrame, points: map[string]playedPoint{
		"pm1":  {serial.Span{At: 10, Len: 2}, mapping.Point{Type: mapping.U16, Unit: "µg/m³"}},
		"name": {serial.Span{At: 20, Len: 5, Tail: 1}, mapping.Point{Type: mapping.String, Length: 5}},
	}},
	"mh-z19": {framing: co2Frame, polls: []serial.Poll{{Send: []byte{0xff, 1, 0x86, 0, 0, 0, 0, 0, 0x79}, Every: 50 * time.Millisecond}}, points: map[string]playedPoint{
		"co2":         {serial.Span{At: 2, Len: 2}, mapping.Point{Type: mapping.U16, Unit: "ppm"}},
		"temperature": {serial.Span{At: 4, Len: 1, Pad: 1}, mapping.Point{Type: mapping.U16, Offset: mapping.Decimal{Mant: -40}, Unit: "°C"}},
		"cold":        {serial.Span{At: 5, Len: 1, Pad: 1, Signed: true}, mapping.Point{Type: mapping.I16, Unit: "°C"}},
	}},
	"dsmr": {framing: serial.Blocks{Start: "/", End: "!", Sum: &meterSum}, points: map[string]playedPoint{
		"energy": {serial.Field{Key: "1-0:1.8.1*kWh"}, mapping.Point{Type: mapping.F64, FromText: true, Unit: "kWh", Kind: mapping.Counter}},
		"power":  {serial.Field{Key: "1-0:1.7.0*kW"}, mapping.Point{Type: mapping.F64, FromText: true, Unit: "W", Scale: mapping.Decimal{Mant: 1, Exp: 3}}},
		"tariff": {serial.Field{Key: "0-0:96.14.0"}, mapping.Point{Type: mapping.U16, FromText: true}},
	}},
	"ve.direct": {framing: serial.VEDirect{}, points: map[string]playedPoint{
		"voltage": {serial.Field{Key: "V"}, mapping.Point{Type: mapping.I32, FromText: true, Unit: "V", Scale: mapping.Decimal{Mant: 1, Exp: -3}}},
		"state":   {serial.Field{Key: "CS"}, mapping.Point{Type: mapping.Text, FromText: true, EnumText: map[string]string{"3": "bulk", "5": "float"}}},
	}},
	"csv": {framing: serial.Lines{Parse: serial.ParseCSV, Separator: " "}, points: map[string]playedPoint{
		"t": {serial.Field{Index: 3}, mapping.Point{Type: mapping.F64, FromText: true, Unit: "°C"}},
	}},
	"keyvalue": {framing: serial.Lines{Parse: serial.ParseKeys}, points: map[string]playedPoint{
		"t": {serial.Field{Key: "t"}, mapping.Point{Type: mapping.F64, FromText: true, Unit: "°C"}},
		"h": {serial.Field{Key: "h"}, mapping.Point{Type: mapping.F64, FromText: true, Unit: "%"}},
	}},
	"sum and end": {framing: serial.Lines{Delimiter: "\r", Sum: &serial.LineSum{Sum: meterSum, From: 2, Behind: "*", Little: true}}, points: map[string]playedPoint{
		"t": {serial.Field{Index: 1}, mapping.Point{Type: mapping.F64, FromText: true, Unit: "°C"}},
	}},
	"asked": {framing: serial.Lines{}, polls: []serial.Poll{{Send: []byte("D?\r\n"), Every: 50 * time.Millisecond}}, points: map[string]playedPoint{
		"t": {serial.Field{Index: 2}, mapping.Point{Type: mapping.F64, FromText: true, Unit: "°C"}},
	}},
	"json": {framing: serial.Lines{Parse: serial.ParseJSON}, points: map[string]playedPoint{
		"t": {serial.Field{Key: "a.t"}, mapping.Point{Type: mapping.F64, FromText: true, Unit: "°C"}},
		"n": {serial.Field{Key: "n"}, mapping.Point{Type: mapping.U16, FromText: true}},
	}},
}

// Each framing is played so that the gateway's own reader hears what the plant
// holds, plausible values and unique ones.
func TestFramingsArePlayed(t *testing.T) {
	for name, c := range framings {
		for _, check := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " check"}[check], func(t *testing.T) {
				var points []*mapping.Point
				for name, p := range c.points {
					point := p.point
					point.Point = &devices.Point{Name: name, Source: p.source, Every: 50 * time.Millisecond}
					points = append(points, &point)
				}
				dev := newTestDevice(&devices.Device{ID: "d", Name: "d", Bus: "b"}, points)
				s := newPlant(t, nil, Config{Check: check, Buses: []Bus{{Name: "b", Kind: Lines, Baud: 115200, Framing: c.framing, Polls: c.polls, Devices: []*mapping.Device{dev}}}})
				run(t, s)
				hearPlant(t, s, dev, c.framing, c.polls)
			})
		}
	}
}

// hearPlant reads three messages from a line.
func hearPlant(t *testing.T, s *Simulator, dev *mapping.Device, framing serial.Framing, polls []serial.Poll) {
	t.Helper()
	hear(t, s, dev, serial.ReaderConfig{Framing: framing, Polls: polls, Open: func() (serial.Stream, error) {
		return serial.Open(serial.Config{Path: s.Addresses()["b"], Baud: 115200})
	}}, 3)
}

// hear reads some messages of dev.
func hear(t *testing.T, s *Simulator, dev *mapping.Device, cfg serial.ReaderConfig, messages int) {
	t.Helper()
	cfg.Bus, cfg.Devices = "b", []*devices.Device{dev.Device}
	r, err := serial.NewReader(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	heard := 0
	if err := r.Listen(ctx, func(b *devices.Batch) {
		defer b.Release()
		if len(b.Readings) != len(dev.Points) {
			t.Errorf("%d readings of %d points", len(b.Readings), len(dev.Points))
		}
		for i, reading := range b.Readings {
			if reading.Err != nil || !s.Holds("d", reading.Point.Name, reading.Raw) {
				t.Errorf("%s: heard %q, %v", reading.Point.Name, reading.Raw, reading.Err)
			}
			if v, err := mapping.Decode(dev.Points[i], reading.Raw); err != nil || v.IsNull() {
				t.Errorf("%s: %q is %v, %v", reading.Point.Name, reading.Raw, v, err)
			}
		}
		if heard++; heard == messages {
			cancel()
		}
	}); err != nil || heard < messages {
		t.Errorf("heard %d messages, %v", heard, err)
	}
}

// A meter is called at one speed and sends at another, which both ends change to
// and back from; through a converter it stays at the first. What a head cannot
// carry is not chosen.
func TestMetersAreCalled(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, c := range map[string]struct {
		meter   serial.Meter
		carrier Carrier
	}{
		"on a port":      {serial.Meter{}, Line},
		"a slow head":    {serial.Meter{MaxBaud: 4800, Address: "123"}, Line},
		"no faster":      {serial.Meter{MaxBaud: 300}, Line},
		"asleep":         {serial.Meter{Wake: true}, Line},
		"by a converter": {serial.Meter{}, Socket},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var points []*mapping.Point
			for key, p := range map[string]mapping.Point{"1.8.0*kWh": {Type: mapping.F64, Unit: "kWh", Kind: mapping.Counter}, "0.0.0": {Type: mapping.Text}} {
				p.Point, p.FromText = &devices.Point{Name: key, Source: serial.Field{Key: key}, Every: time.Second}, true
				points = append(points, &p)
			}
			dev := newTestDevice(&devices.Device{ID: "d", Name: "d", Bus: "b"}, points)
			const baud = 2400 // not as slow as a real one
			s := newPlant(t, nil, Config{Buses: []Bus{{Name: "b", Kind: Lines, Carrier: c.carrier, Baud: baud, Format: "7E1", Framing: c.meter, Devices: []*mapping.Device{dev}}}})
			run(t, s)
			hear(t, s, dev, serial.ReaderConfig{Framing: c.meter, Polls: []serial.Poll{{Every: time.Second, Retries: 5}}, Open: func() (serial.Stream, error) {
				if c.carrier == Socket {
					return net.Dial("tcp", strings.TrimPrefix(s.Addresses()["b"], "tcp://"))
				}
				return serial.Open(serial.Config{Path: s.Addresses()["b"], Baud: baud, Format: "7E1"})
			}}, 2)
		})
	}
}

func TestWhatCannotBePlayed(t *testing.T) {
	dev := newTestDevice(&devices.Device{ID: "d", Bus: "b"}, []*mapping.Point{{Point: &devices.Point{Name: "x", Source: serial.Field{Key: "x"}}}})
	for _, f := range []serial.Framing{serial.Lines{Parse: serial.ParseRegexp, Pattern: regexp.MustCompile("(?P<x>.*)")}, serial.Frames{}, dustFrame} {
		if _, err := New(Config{Buses: []Bus{{Name: "b", Kind: Lines, Framing: f, Devices: []*mapping.Device{dev}}}}); err == nil {
			t.Errorf("%+v was taken", f)
		}
	}
}
