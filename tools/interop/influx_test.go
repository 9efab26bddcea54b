// Package interop reads what the gateway writes with parsers that were not
// written here.
package interop

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/line-protocol/v2/lineprotocol"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/mapping"
)

type register string

func (r register) String() string { return string(r) }

// exact puts boot-time stamp 1000 s at a wall time with nanoseconds.
var exact = broker.Clock{
	Offset:  time.Date(2026, 11, 20, 23, 6, 0, 123456789, time.UTC).UnixNano() - 1000e9,
	Quality: broker.Exact,
}

// publish returns the payloads of one cycle in which each value was read; nil
// is a timeout.
func publish(t *testing.T, table mapping.Publish, tags map[string]string, points []*mapping.Point, values []*mapping.Value) []broker.Message {
	t.Helper()
	dev := &mapping.Device{Device: &devices.Device{ID: "d", Name: "main meter", Bus: "rs485"}, Points: points, Tags: tags}
	for _, p := range points {
		dev.Device.Points = append(dev.Device.Points, p.Point)
	}
	table.Name, table.Topic = "t", "x/{point}"
	if table.Per == "device" {
		table.Topic = "x"
	}
	m, err := mapping.New(mapping.Config{Gateway: "plant=a, b", Devices: []*mapping.Device{dev}, Publish: []mapping.Publish{table}})
	if err != nil {
		t.Fatal(err)
	}
	b := devices.NewBatch(dev.Device)
	b.State = devices.Online
	for i, p := range points {
		if values[i] == nil {
			b.Fail(p.Point, devices.ErrTimeout, 1000e9)
			continue
		}
		raw, err := mapping.Encode(nil, p, *values[i])
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		b.Add(p.Point, raw, 1000e9)
	}
	return m.AppendMessages(nil, b, exact)[1:] // the first is the device's status
}

func point(name string, p mapping.Point) *mapping.Point {
	p.Point = &devices.Point{Name: name, Source: register("holding 0")}
	return &p
}

func decimal(s string) mapping.Decimal {
	d, err := mapping.ParseDecimal(s)
	if err != nil {
		panic(err)
	}
	return d
}

func value(v mapping.Value) *mapping.Value { return &v }

// A line is one line as the decoder of InfluxData reads it.
type line struct {
	measurement string
	tags        map[string]string
	fields      map[string]any
	at          time.Time
}

func decode(t *testing.T, payload []byte) (lines []line) {
	t.Helper()
	dec := lineprotocol.NewDecoderWithBytes(payload)
	for dec.Next() {
		l := line{tags: map[string]string{}, fields: map[string]any{}}
		m, err := dec.Measurement()
		l.measurement = string(m)
		for err == nil {
			var key, val []byte
			if key, val, err = dec.NextTag(); key == nil {
				break
			}
			l.tags[string(key)] = string(val)
		}
		for err == nil {
			var key []byte
			var val lineprotocol.Value
			if key, val, err = dec.NextField(); key == nil {
				break
			}
			l.fields[string(key)] = val.Interface()
		}
		if err == nil {
			l.at, err = dec.Time(lineprotocol.Nanosecond, time.Time{})
		}
		if err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
		lines = append(lines, l)
	}
	return lines
}

func TestInfluxLines(t *testing.T) {
	points := []*mapping.Point{
		point("power", mapping.Point{Type: mapping.U16, Scale: decimal("0.1"), Unit: "W"}),
		point("whole, scaled=1", mapping.Point{Type: mapping.U16, Scale: decimal("0.1")}),
		point("count", mapping.Point{Type: mapping.I64}),
		point("big", mapping.Point{Type: mapping.U64}),
		point("float", mapping.Point{Type: mapping.F64}),
		point("on", mapping.Point{Type: mapping.Bool}),
		point("mode", mapping.Point{Type: mapping.U16, Enum: map[int64]string{1: `au"to\`}}),
		point("other", mapping.Point{Type: mapping.U16, Enum: map[int64]string{1: "a"}}),
		point("text", mapping.Point{Type: mapping.String, Length: 16}),
		point("bytes", mapping.Point{Type: mapping.Bytes, Length: 2}),
		point("bits", mapping.Point{Type: mapping.U16, Bits: map[int]string{0: "running", 3: "low water"}}),
		point(`pf\`, mapping.Point{Type: mapping.I16}),
	}
	bits, err := mapping.ParseValue(points[10], []byte("8"))
	if err != nil {
		t.Fatal(err)
	}
	mode, err := mapping.ParseValue(points[6], []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := mapping.ParseValue(points[7], []byte("7"))
	if err != nil {
		t.Fatal(err)
	}
	values := []*mapping.Value{
		value(mapping.DecimalValue(decimal("230.1"))), value(mapping.IntValue(230)), value(mapping.IntValue(math.MinInt64)),
		value(mapping.UintValue(math.MaxUint64)), value(mapping.FloatValue(1.5e-300)), value(mapping.BoolValue(true)),
		&mode, &other, value(mapping.StringValue("a \"b\", c=\\")), value(mapping.BytesValue([]byte{0xab, 1})), &bits, nil,
	}
	want := map[string]any{
		"power": 230.1, "whole, scaled=1": 230.0, "count": int64(math.MinInt64), "big": uint64(math.MaxUint64), "float": 1.5e-300, "on": true,
		"mode": `au"to\`, "other": "7", "text": "a \"b\", c=\\", "bytes": "ab01", "bits.running": false, "bits.low water": true, "pf .error": "timeout",
	}
	msgs := publish(t, mapping.Publish{Per: "device", Format: "influx"}, map[string]string{"hall, 1": "north = süd"}, points, values)
	lines := decode(t, msgs[0].Payload)
	if len(lines) != 1 {
		t.Fatalf("%d lines: %s", len(lines), msgs[0].Payload)
	}
	l := lines[0]
	if l.measurement != "plant=a, b" || l.tags["device"] != "main meter" || l.tags["hall, 1"] != "north = süd" || len(l.tags) != 2 {
		t.Errorf("measurement %q, tags %q", l.measurement, l.tags)
	}
	if l.at.UnixNano() != 1000e9+exact.Offset {
		t.Errorf("time %v", l.at)
	}
	if len(l.fields) != len(want) {
		t.Errorf("%d fields: %v", len(l.fields), l.fields)
	}
	for name, v := range want {
		if l.fields[name] != v {
			t.Errorf("%s: %T %v, want %T %v", name, l.fields[name], l.fields[name], v, v)
		}
	}
	single := publish(t, mapping.Publish{Per: "point", Format: "influx", Integers: "float", Measurement: "{unit}", Tags: map[string]string{"point": "{point}", "none": "{unit}"}},
		nil, points[2:3], values[2:3])
	if l := decode(t, append([]byte("x"), single[0].Payload...))[0]; l.fields["count"] != float64(math.MinInt64) || l.tags["none"] != "" || l.tags["point"] != "count" {
		t.Errorf("%s: %v", single[0].Payload, l)
	}
}

// A line that was written before the clock was set says so, and is right once
// it is rebased.
func TestInfluxLineIsRebased(t *testing.T) {
	points := []*mapping.Point{point("x", mapping.Point{Type: mapping.U16})}
	msg := publish(t, mapping.Publish{Per: "point", Format: "influx"}, nil, points, []*mapping.Value{value(mapping.IntValue(1))})[0]
	msg.Rebase(broker.Clock{Offset: 5})
	if l := decode(t, msg.Payload)[0]; l.fields["clock"] != "unsynced" || l.at.UnixNano() != 1000e9+5 {
		t.Errorf("%s", msg.Payload)
	}
	msg.Rebase(exact)
	if l := decode(t, msg.Payload)[0]; len(l.fields) != 1 || l.at.UnixNano() != 1000e9+exact.Offset {
		t.Errorf("%s", msg.Payload)
	}
}

// Whatever names and texts hold, the decoder reads one line with the same
// number of tags and fields, and the same texts.
func TestInfluxEscapesAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	alphabet := []rune("ab=, \\\"'#_.\n\t\rğ°\x7f\x01{}")
	word := func() string {
		var b strings.Builder
		for range 1 + random.IntN(6) {
			b.WriteRune(alphabet[random.IntN(len(alphabet))])
		}
		return b.String()
	}
	tried := 0
	for range 3000 {
		name, tag, text := word(), word(), word()
		p := point(name, mapping.Point{Type: mapping.String, Length: 30})
		dev := &mapping.Device{Device: &devices.Device{ID: "d", Name: "d", Points: []*devices.Point{p.Point}}, Points: []*mapping.Point{p}, Tags: map[string]string{"tag": tag}}
		m, err := mapping.New(mapping.Config{Gateway: "g", Devices: []*mapping.Device{dev}, Publish: []mapping.Publish{
			{Name: "t", Per: "device", Topic: "x", Format: "influx", Measurement: "m{tag}"}}})
		if err != nil {
			continue // names that topics cannot hold
		}
		raw, err := mapping.Encode(nil, p, mapping.StringValue(text))
		if err != nil {
			t.Fatal(err)
		}
		b := devices.NewBatch(dev.Device)
		b.Add(p.Point, raw, 1000e9)
		msg := m.AppendMessages(nil, b, exact)[1]
		lines := decode(t, msg.Payload)
		if len(lines) != 1 || len(lines[0].tags) != 2 && strings.Trim(tag, " ") != "" || len(lines[0].fields) != 1 {
			t.Fatalf("name %q, tag %q: %q → %+v", name, tag, msg.Payload, lines)
		}
		got := ""
		for _, v := range lines[0].fields {
			got = fmt.Sprint(v)
		}
		if want, _ := mapping.Decode(p, raw); got != want.String() {
			t.Fatalf("text %q: %q, read %q", text, msg.Payload, got)
		}
		tried++
	}
	if tried < 1000 {
		t.Error(errors.New("too few names were allowed"), tried)
	}
}
