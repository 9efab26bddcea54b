package interop

import (
	"bytes"
	"encoding/json"
	"math"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/mapping"
)

// python reads payloads of a kind with testdata/read.py. Debian's python3 has
// jsonschema beside it, which ./test.sh installs.
func python(t *testing.T, kind string, payloads ...[]byte) (read []json.RawMessage) {
	t.Helper()
	var in, out, errs bytes.Buffer
	enc := json.NewEncoder(&in)
	for _, p := range payloads {
		enc.Encode(map[string]string{"kind": kind, "payload": string(p)})
	}
	cmd := exec.Command("/usr/bin/python3", "testdata/read.py", "testdata/senml.schema.json")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	for line := range strings.Lines(out.String()) {
		read = append(read, json.RawMessage(line))
	}
	if len(read) != len(payloads) {
		t.Fatalf("%d payloads, %d read: %s", len(payloads), len(read), &errs)
	}
	return read
}

// A record is one of SenML, resolved.
type record struct{ Name, Unit, Value, Time string }

func TestSenML(t *testing.T) {
	points := []*mapping.Point{
		point("power", mapping.Point{Type: mapping.U16, Scale: decimal("0.001"), Unit: "kW"}),
		point("energy", mapping.Point{Type: mapping.U32, Scale: decimal("0.1"), Unit: "kWh"}),
		point("float", mapping.Point{Type: mapping.F32, Unit: "mA"}),
		point("temperature", mapping.Point{Type: mapping.I16, Scale: decimal("0.1"), Unit: "°C"}),
		point("wind", mapping.Point{Type: mapping.U16, Unit: "kn"}),
		point("big", mapping.Point{Type: mapping.U64}),
		point("on", mapping.Point{Type: mapping.Bool}),
		point("mode", mapping.Point{Type: mapping.U16, Enum: map[int64]string{1: `au"to`}}),
		point("other", mapping.Point{Type: mapping.U16, Enum: map[int64]string{1: "a"}}),
		point("Nem-Sıcaklık", mapping.Point{Type: mapping.Bytes, Length: 3}),
		point("bits", mapping.Point{Type: mapping.U16, Bits: map[int]string{0: "running", 3: "low water"}}),
		point("pf", mapping.Point{Type: mapping.I16}),
	}
	bits, _ := mapping.ParseValue(points[10], []byte("8"))
	mode, _ := mapping.ParseValue(points[7], []byte("1"))
	other, _ := mapping.ParseValue(points[8], []byte("7"))
	values := []*mapping.Value{
		value(mapping.DecimalValue(decimal("1.234"))), value(mapping.DecimalValue(decimal("100000000.1"))), value(mapping.Float32Value(12.5)),
		value(mapping.DecimalValue(decimal("-0.1"))), value(mapping.IntValue(7)), value(mapping.UintValue(math.MaxUint64)), value(mapping.BoolValue(true)),
		&mode, &other, value(mapping.BytesValue([]byte{0xfb, 0xef, 0xff})), &bits, nil,
	}
	const base, at = "plant_a__b/main_meter/", "1795215960.123"
	want := []record{
		{base + "power", "W", "1234", at}, {base + "energy", "J", "360000000360000", at}, {base + "float", "A", "0.0125", at},
		{base + "temperature", "Cel", "-0.1", at}, {base + "wind", "", "7", at}, {base + "big", "", "18446744073709551615", at}, {base + "on", "", "True", at},
		{base + "mode", "", `au"to`, at}, {base + "other", "", "7", at}, {base + "Nem-S_cakl_k", "", "fbefff", at},
		{base + "bits.running", "", "False", at}, {base + "bits.low_water", "", "True", at}, {base + "pf.error", "", "timeout", at},
	}
	pack := publish(t, mapping.Publish{Per: "device", Format: "senml"}, nil, points, values)[0]
	var got []record
	raw := python(t, "senml", pack.Payload)[0]
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("%s: %s", pack.Payload, raw)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	var single [][]byte
	for _, msg := range publish(t, mapping.Publish{Per: "point", Format: "senml"}, nil, points, values) {
		single = append(single, msg.Payload)
	}
	got = nil
	for i, raw := range python(t, "senml", single...) {
		var some []record
		if err := json.Unmarshal(raw, &some); err != nil {
			t.Fatalf("%s: %s", single[i], raw)
		}
		got = append(got, some...)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("one by one: got  %q\nwant %q", got, want)
	}
}

// A clock that was never set tells times that SenML would take as relative, so
// there is none; one that was once set and is not exact says so.
func TestSenMLTimeBeforeTheClockIsSet(t *testing.T) {
	points := []*mapping.Point{point("x", mapping.Point{Type: mapping.U16})}
	msg := publish(t, mapping.Publish{Per: "point", Format: "senml"}, nil, points, []*mapping.Value{value(mapping.IntValue(1))})[0]
	for _, c := range []struct {
		clock broker.Clock
		want  string
	}{
		{broker.Clock{}, `[{"bn":"plant_a__b/main_meter/","clock":"unsynced","n":"x","v":1}]`},
		{broker.Clock{Offset: exact.Offset, Quality: broker.Interpolated, Early: time.Second, Late: time.Second}, `[{"bn":"plant_a__b/main_meter/","bt":1795215960.123,"clock":"interpolated","clock_error":1000,"n":"x","v":1}]`},
		{broker.Clock{Offset: exact.Offset, Quality: broker.Bounded, Early: time.Second, Late: 2 * time.Second}, `[{"bn":"plant_a__b/main_meter/","bt":1795215960.123,"clock":"bounded","clock_error":2000,"clock_from":"2026-11-20T23:05:59.123Z","clock_to":"2026-11-20T23:06:02.124Z","n":"x","v":1}]`},
		{exact, `[{"bn":"plant_a__b/main_meter/","bt":1795215960.123,"n":"x","v":1}]`},
	} {
		msg.Rebase(c.clock)
		if string(msg.Payload) != c.want {
			t.Errorf("got %s, want %s", msg.Payload, c.want)
		}
		if got := python(t, "senml", msg.Payload)[0]; bytes.Contains(got, []byte("error")) {
			t.Errorf("%s: %s", msg.Payload, got)
		}
	}
}

// Python reads our JSON to the digit.
func TestJSON(t *testing.T) {
	points := []*mapping.Point{
		point(`a"\`, mapping.Point{Type: mapping.U16, Scale: decimal("0.1"), Unit: "m³/h"}),
		point("big", mapping.Point{Type: mapping.U64}),
		point("small", mapping.Point{Type: mapping.I64}),
		point("pf", mapping.Point{Type: mapping.I16}),
	}
	values := []*mapping.Value{value(mapping.DecimalValue(decimal("230.1"))), value(mapping.UintValue(1<<53 + 1)), value(mapping.IntValue(math.MinInt64)), nil}
	for _, c := range []struct {
		table mapping.Publish
		want  string
	}{
		{mapping.Publish{}, `{"time": "2026-11-20T23:06:00.123Z", "a\"\\": "230.1", "big": 9007199254740993, "small": -9223372036854775808, "pf": null, "errors": {"pf": "timeout"}}`},
		{mapping.Publish{Time: "unix", Integers: "string"}, `{"time": "1795215960.123", "a\"\\": "230.1", "big": "9007199254740993", "small": "-9223372036854775808", "pf": null, "errors": {"pf": "timeout"}}`},
		{mapping.Publish{Time: "unix_ms", ID: true}, `{"time": 1795215960123, "a\"\\": "230.1", "big": 9007199254740993, "small": -9223372036854775808, "pf": null, "errors": {"pf": "timeout"}}`},
	} {
		c.table.Per, c.table.Format = "device", "json"
		msg := publish(t, c.table, nil, points, values)[0]
		if got := strings.TrimSpace(string(python(t, "json", msg.Payload)[0])); got != c.want {
			t.Errorf("%s\ngot  %s\nwant %s", msg.Payload, got, c.want)
		}
		if !json.Valid(msg.Payload) {
			t.Errorf("%s is no JSON to Go", msg.Payload)
		}
		if msg.Identify("log-7", true); c.table.ID {
			if got := string(python(t, "json", msg.Payload)[0]); !strings.Contains(got, `"id": "log-7", "replayed": true, "a`) {
				t.Errorf("with an id: %s", msg.Payload)
			}
		}
	}
}
