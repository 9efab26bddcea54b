package mapping

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
)

// register is a Source for tests.
type register string

func (r register) String() string { return string(r) }

type unit int

func (u unit) String() string { return fmt.Sprintf("unit %d", int(u)) }

// newDevice returns a device with these points; their names come with them.
func newDevice(id, name string, points ...*Point) *Device {
	dev := &Device{Device: &devices.Device{ID: id, Name: name, Bus: "rs485", Unit: unit(7)}, Points: points}
	for _, p := range points {
		dev.Device.Points = append(dev.Device.Points, p.Point)
	}
	return dev
}

func named(name string, p Point) *Point {
	p.Point = &devices.Point{Name: name, Source: register("holding 0")}
	return &p
}

func meter() *Device {
	return newDevice("main", "main meter",
		named("voltage_l1", Point{Type: U16, Scale: decimal("0.1"), Unit: "V", Policy: Policy{Deadband: Deadband{Abs: 0.5}}}),
		named("power", Point{Type: F32, Unit: "W", Policy: Policy{Deadband: Deadband{Percent: 10}}}),
		named("pf", Point{Type: I16, Scale: decimal("0.001")}),
		named("mode", Point{Type: U16, Enum: map[int64]string{0: "off", 1: "auto"}}),
		named("status", Point{Type: U16, Bits: map[int]string{0: "running", 3: "fault"}}),
	)
}

// exact puts boot, 1000 s after the start, at 2026-11-20T23:06:00.123Z.
var exact = broker.Clock{
	Offset:  time.Date(2026, 11, 20, 23, 6, 0, 123e6, time.UTC).UnixNano() - 1000e9,
	Quality: broker.Exact,
}

const boot = devices.Stamp(1000e9)

// A feed gives one device's batches to a Mapper.
type feed struct {
	t     *testing.T
	m     *Mapper
	dev   *Device
	clock broker.Clock
}

func newFeed(t *testing.T, dev *Device, publish ...Publish) *feed {
	t.Helper()
	m, err := New(Config{Gateway: "plant-a", Devices: []*Device{dev}, Publish: publish})
	if err != nil {
		t.Fatal(err)
	}
	return &feed{t, m, dev, exact}
}

// batch reads "name=hex" and "name!cause" at 1000 s, 1001 s, ….
func (f *feed) batch(state devices.State, readings ...string) *devices.Batch {
	f.t.Helper()
	b := devices.NewBatch(f.dev.Device)
	b.State = state
	for i, r := range readings {
		at := boot + devices.Stamp(i)*1e9
		name, raw, good := strings.Cut(r, "=")
		name, cause, _ := strings.Cut(name, "!")
		k := slices.IndexFunc(f.dev.Points, func(p *Point) bool { return p.Name == name })
		if good {
			b.Add(f.dev.Device.Points[k], unhex(f.t, raw), at)
		} else {
			b.Fail(f.dev.Device.Points[k], cause2err[cause], at)
		}
	}
	return b
}

var cause2err = map[string]error{
	"timeout": fmt.Errorf("unit 7: %w", devices.ErrTimeout),
	"offline": devices.ErrOffline,
}

// send returns what the readings become as "topic payload" lines, each object
// read again as JSON and each slot checked.
func (f *feed) send(state devices.State, readings ...string) []string {
	f.t.Helper()
	b := f.batch(state, readings...)
	defer b.Release()
	return f.lines(f.m.AppendMessages(nil, b, f.clock))
}

func (f *feed) lines(msgs []broker.Message) (lines []string) {
	f.t.Helper()
	for i := range msgs {
		msg := &msgs[i]
		if bytes.HasPrefix(msg.Payload, []byte("{")) {
			dec := json.NewDecoder(bytes.NewReader(msg.Payload))
			dec.UseNumber()
			var any map[string]any
			if err := dec.Decode(&any); err != nil {
				f.t.Errorf("%s: %s: %v", msg.Topic, msg.Payload, err)
			}
		}
		f.checkSlots(msg)
		lines = append(lines, msg.Topic+" "+string(msg.Payload))
	}
	return lines
}

// checkSlots splices another clock in and compares with the first rendering
// under that clock.
func (f *feed) checkSlots(msg *broker.Message) {
	f.t.Helper()
	for _, s := range msg.Slots {
		want := broker.AppendSlot(nil, s.Kind, msg.Stamp, f.clock)
		if got := msg.Payload[s.At : s.At+s.Len]; !bytes.Equal(got, want) {
			f.t.Errorf("%s: slot %d holds %q, want %q", msg.Topic, s.Kind, got, want)
		}
	}
}

func (f *feed) want(got []string, want ...string) {
	f.t.Helper()
	if !slices.Equal(got, want) {
		f.t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestMessages(t *testing.T) {
	f := newFeed(t, meter())
	f.want(f.send(devices.Online, "voltage_l1=08fd", "pf!timeout", "mode=0001", "status=0008", "power=43661980"),
		`plant-a/main meter/_status {"status":"online","time":"2026-11-20T23:06:04.123Z"}`,
		`plant-a/main meter/voltage_l1 {"value":230.1,"unit":"V","time":"2026-11-20T23:06:00.123Z","quality":"good"}`,
		`plant-a/main meter/power {"value":230.09961,"unit":"W","time":"2026-11-20T23:06:04.123Z","quality":"good"}`,
		`plant-a/main meter/pf {"value":null,"time":"2026-11-20T23:06:01.123Z","quality":"bad","error":"timeout"}`,
		`plant-a/main meter/mode {"value":"auto","raw":1,"time":"2026-11-20T23:06:02.123Z","quality":"good"}`,
		`plant-a/main meter/status {"value":{"running":false,"fault":true},"time":"2026-11-20T23:06:03.123Z","quality":"good"}`,
		`plant-a/main meter {"time":"2026-11-20T23:06:04.123Z","voltage_l1":230.1,"power":230.09961,"pf":null,"mode":"auto","status":{"running":false,"fault":true},"errors":{"pf":"timeout"}}`,
	)
}

func TestMessageHeaders(t *testing.T) {
	f := newFeed(t, meter())
	b := f.batch(devices.Online, "pf=0001", "mode=0000")
	for _, msg := range f.m.AppendMessages(nil, b, exact) {
		retain := msg.Topic != "plant-a/main meter"
		if msg.QoS != 1 || msg.Retain != retain || msg.Class != broker.Telemetry || msg.From != "" || msg.Props != nil {
			t.Errorf("%+v", msg)
		}
		if len(msg.Slots) != 2 || msg.Slots[0].Kind != broker.SlotTime || msg.Slots[0].Len != 24 || msg.Slots[1].Len != 0 {
			t.Errorf("%s: slots %v", msg.Topic, msg.Slots)
		}
	}
}

func TestClockThatIsNotExactIsTold(t *testing.T) {
	f := newFeed(t, meter())
	f.clock = broker.Clock{Quality: broker.Unsynced}
	f.want(f.send(devices.Online, "pf=0001"),
		`plant-a/main meter/_status {"status":"online","time":"1970-01-01T00:16:40.000Z","clock":"unsynced"}`,
		`plant-a/main meter/pf {"value":0.001,"time":"1970-01-01T00:16:40.000Z","clock":"unsynced","quality":"good"}`,
		`plant-a/main meter {"time":"1970-01-01T00:16:40.000Z","clock":"unsynced","pf":0.001}`)
}

// A message that was rendered before the first synchronisation and rebased
// after it is the one that would have been rendered after.
func TestRebasedMessageIsTheLaterRendering(t *testing.T) {
	clocks := []broker.Clock{{}, {Offset: 5e9, Quality: broker.Bounded}, exact}
	for _, before := range clocks {
		for _, after := range clocks {
			f := newFeed(t, meter())
			b := f.batch(devices.Online, "pf=0001", "mode!timeout")
			var got []string
			for _, msg := range f.m.AppendMessages(nil, b, before) {
				msg.Rebase(after)
				got = append(got, msg.Topic+" "+string(msg.Payload))
			}
			g := newFeed(t, meter())
			g.clock = after
			g.want(got, g.send(devices.Online, "pf=0001", "mode!timeout")...)
		}
	}
}

func TestDeadbands(t *testing.T) {
	f := newFeed(t, meter())
	f.send(devices.Online, "voltage_l1=08fd", "power=42c80000") // 230.1 V, 100 W
	f.want(f.send(devices.Online, "voltage_l1=0901", "power=42d80000"))
	f.want(f.send(devices.Online, "voltage_l1=0902", "power=42da0000"), // 230.6 V, 109 W
		`plant-a/main meter/voltage_l1 {"value":230.6,"unit":"V","time":"2026-11-20T23:06:00.123Z","quality":"good"}`,
		`plant-a/main meter {"time":"2026-11-20T23:06:01.123Z","voltage_l1":230.6}`)
	f.want(f.send(devices.Online, "power=42dc0000"), // 110 W, measured against the 100 W published
		`plant-a/main meter/power {"value":110,"unit":"W","time":"2026-11-20T23:06:00.123Z","quality":"good"}`,
		`plant-a/main meter {"time":"2026-11-20T23:06:00.123Z","power":110}`)
}

func TestDeadbandPasses(t *testing.T) {
	for _, c := range []struct {
		band      Deadband
		last, now Value
		want      bool
	}{
		{Deadband{Abs: 1}, IntValue(1), IntValue(1), false},
		{Deadband{Abs: 1}, IntValue(1), IntValue(2), true},
		{Deadband{Percent: 1}, IntValue(0), IntValue(0), false},
		{Deadband{Percent: 1}, IntValue(0), DecimalValue(decimal("0.001")), true},
		{Deadband{Abs: 5, Percent: 10}, IntValue(10), IntValue(13), false},
		{Deadband{Abs: 5, Percent: 10}, IntValue(1000), IntValue(1050), false},
		{Deadband{Abs: 5, Percent: 10}, IntValue(-1000), IntValue(-1100), true},
		{Deadband{Abs: 5}, BoolValue(true), BoolValue(false), false},
		{Deadband{Abs: 5}, StringValue("a"), StringValue("a"), false},
		{Deadband{Abs: 5}, StringValue("a"), StringValue("b"), true},
	} {
		if got := c.band.passes(c.last, c.now); got != c.want {
			t.Errorf("%+v, %s → %s: %v", c.band, c.last, c.now, got)
		}
	}
}

func TestQualityChangesAlwaysPass(t *testing.T) {
	f := newFeed(t, meter())
	f.send(devices.Online, "voltage_l1=08fd", "pf=0001")
	f.want(f.send(devices.Online, "voltage_l1!timeout", "pf!timeout"),
		`plant-a/main meter/voltage_l1 {"value":null,"unit":"V","time":"2026-11-20T23:06:00.123Z","quality":"bad","error":"timeout"}`,
		`plant-a/main meter/pf {"value":null,"time":"2026-11-20T23:06:01.123Z","quality":"bad","error":"timeout"}`,
		`plant-a/main meter {"time":"2026-11-20T23:06:01.123Z","voltage_l1":null,"pf":null,"errors":{"voltage_l1":"timeout","pf":"timeout"}}`)
	f.want(f.send(devices.Online, "voltage_l1!timeout", "pf!timeout"))
	f.want(f.send(devices.Online, "voltage_l1!timeout", "pf=0002"), // still bad: told in the object, not repeated on its topic
		`plant-a/main meter/pf {"value":0.002,"time":"2026-11-20T23:06:01.123Z","quality":"good"}`,
		`plant-a/main meter {"time":"2026-11-20T23:06:01.123Z","voltage_l1":null,"pf":0.002,"errors":{"voltage_l1":"timeout"}}`)
	f.want(f.send(devices.Offline, "voltage_l1!offline"),
		`plant-a/main meter/_status {"status":"offline","time":"2026-11-20T23:06:01.123Z"}`,
		`plant-a/main meter/voltage_l1 {"value":null,"unit":"V","time":"2026-11-20T23:06:00.123Z","quality":"bad","error":"offline"}`,
		`plant-a/main meter {"time":"2026-11-20T23:06:00.123Z","voltage_l1":null,"errors":{"voltage_l1":"offline"}}`)
	f.want(f.send(devices.Online, "voltage_l1=08fd")[1:2],
		`plant-a/main meter/voltage_l1 {"value":230.1,"unit":"V","time":"2026-11-20T23:06:00.123Z","quality":"good"}`)
}

func TestRawThatIsNoValueIsBad(t *testing.T) {
	f := newFeed(t, newDevice("d", "d", named("x", Point{Type: F32})))
	f.want(f.send(devices.Online, "x=7fc00000")[1:],
		`plant-a/d/x {"value":null,"time":"2026-11-20T23:06:00.123Z","quality":"bad","error":"not a number"}`,
		`plant-a/d {"time":"2026-11-20T23:06:00.123Z","x":null,"errors":{"x":"not a number"}}`)
}

func TestStatusWithoutReadings(t *testing.T) {
	f := newFeed(t, meter())
	f.want(f.send(devices.Offline), `plant-a/main meter/_status {"status":"offline"}`)
	f.want(f.send(devices.Offline))
}

func TestPublishTables(t *testing.T) {
	dev := meter()
	dev.Tags = map[string]string{"hall": "north"}
	f := newFeed(t, dev,
		Publish{Name: "a", Per: "point", Topic: "v/{hall}/{bus}/{unit_id}/{point}/{unit}", Format: "value", Retain: true, Class: broker.Critical},
		Publish{Name: "b", Per: "device", Topic: "o/{name}/{device}", Format: "json", QoS: 1, Devices: []string{"main*"}},
		Publish{Name: "c", Per: "point", Topic: "none/{point}", Format: "json", Devices: []string{"other"}})
	b := f.batch(devices.Online, "voltage_l1=08fd", "mode=0001", "pf!timeout")
	msgs := f.m.AppendMessages(nil, b, exact)
	f.want(f.lines(msgs)[1:],
		"v/north/rs485/7/voltage_l1/V 230.1",
		"v/north/rs485/7/pf/ ",
		"v/north/rs485/7/mode/ auto",
		`o/plant-a/main meter {"time":"2026-11-20T23:06:02.123Z","voltage_l1":230.1,"pf":null,"mode":"auto","errors":{"pf":"timeout"}}`)
	if v := msgs[1]; v.QoS != 0 || !v.Retain || v.Class != broker.Critical || len(v.Slots) != 0 || v.Stamp != int64(boot) {
		t.Errorf("%+v", v)
	}
}

func TestNewErrors(t *testing.T) {
	x := func(name string) *Point { return named(name, Point{Type: U16}) }
	writable := named("expires", Point{Type: U16, Write: &Write{}})
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "gateway: empty name"},
		{Config{Gateway: "a/b"}, "holds / + # or NUL"},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "_d")}}, "device d: the name \"_d\" begins with _"},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "n"), newDevice("e", "n")}}, "devices d and e both have the name \"n\""},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", x("time"))}}, "device d, point time: the device's object has a member"},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", x("errors"))}}, "point errors"},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", x("p"), x("p"))}}, "point p: the name is given twice"},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", x("a/b"))}}, "point a/b: the name"},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", writable)}}, `point expires: "expires" has a meaning of its own`},
		{Config{Gateway: "a", Publish: []Publish{{Name: "t", Per: "all"}}}, "one of point, device"},
		{Config{Gateway: "a", Publish: []Publish{{Name: "t", Per: "point", Format: "xml"}}}, "one of json, value"},
		{Config{Gateway: "a", Publish: []Publish{{Name: "t", Per: "device", Format: "value"}}}, `say per = "point"`},
		{Config{Gateway: "a", Publish: []Publish{{Name: "t", Per: "point", Format: "json", QoS: 2}}}, "qos = 2"},
		{Config{Gateway: "a", Publish: []Publish{{Name: "t", Per: "point", Format: "json", Devices: []string{"["}}}}, "syntax error in pattern"},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", x("p"))}, Publish: []Publish{{Name: "t", Per: "point", Format: "json", Topic: "{nme}"}}}, "{nme} is not known here: one of {bus} {device}"},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", x("p"))}, Publish: []Publish{{Name: "t", Per: "point", Format: "json", Topic: "a/#"}}}, "holds + # or NUL"},
		{Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", x("p"), x("q"))}, Publish: []Publish{{Name: "t", Per: "point", Format: "json", Topic: "a/{device}"}}}, `topic "a/n" is both for device d, point p and for device d, point q`},
	} {
		_, err := New(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %s", err, c.want)
		}
	}
}

// Without an object there is no member to collide with.
func TestPointMayBeCalledTimeWithoutObjects(t *testing.T) {
	_, err := New(Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", named("time", Point{Type: U16}))}, Publish: DefaultPublish()[:1]})
	if err != nil {
		t.Error(err)
	}
}

func TestSnapshotAndCurrent(t *testing.T) {
	f := newFeed(t, meter())
	b := f.batch(devices.Online, "voltage_l1=08fd", "pf!timeout")
	if now := f.m.AppendCurrent(nil, b); len(now) != 2 || !now[0].Good() || now[1].Cause != "timeout" {
		t.Errorf("AppendCurrent: %+v", now)
	}
	if all := f.m.Snapshot("main"); len(all) != 5 || all[0].At != 0 {
		t.Errorf("AppendCurrent changed what is known: %+v", all)
	}
	f.m.AppendMessages(nil, b, exact)
	all := f.m.Snapshot("main")
	if all[0].Value.String() != "230.1" || !all[0].Good() || all[2].Cause != "timeout" || all[1].Good() {
		t.Errorf("%+v", all)
	}
	if f.m.Snapshot("main meter") != nil || f.m.State("main") != devices.Online || f.m.State("x") != devices.Unknown {
		t.Error("wrong device")
	}
}

func TestUnknownDeviceIsNothing(t *testing.T) {
	f := newFeed(t, meter())
	other := devices.NewBatch(newDevice("main", "main meter").Device)
	if msgs := f.m.AppendMessages(nil, other, exact); len(msgs) != 0 {
		t.Errorf("%v", msgs)
	}
}

func TestNamesAreEscapedInJSON(t *testing.T) {
	dev := newDevice("d", "Gerät 1", named(`a"b\`, Point{Type: U16, Unit: "m³/h\t\x01"}))
	f := newFeed(t, dev)
	f.want(f.send(devices.Online, `a"b\=0001`)[1:],
		`plant-a/Gerät 1/a"b\ {"value":1,"unit":"m³/h\t\u0001","time":"2026-11-20T23:06:00.123Z","quality":"good"}`,
		`plant-a/Gerät 1 {"time":"2026-11-20T23:06:00.123Z","a\"b\\":1}`)
}

func FuzzAppendString(f *testing.F) {
	f.Add("a\"b\\c\n\t\x00\xff\u2028é")
	f.Fuzz(func(t *testing.T, s string) {
		want, _ := json.Marshal(s) // escapes more, means the same
		var a, b string
		if err := json.Unmarshal(appendString(nil, s), &a); err != nil {
			t.Fatalf("%q: %s: %v", s, appendString(nil, s), err)
		}
		if json.Unmarshal(want, &b); a != b {
			t.Fatalf("%q → %q, want %q", s, a, b)
		}
	})
}

func TestAppendMessagesAllocatesNothing(t *testing.T) {
	dev := meter()
	for _, p := range dev.Points {
		p.Policy = Policy{}
	}
	f := newFeed(t, dev)
	b := f.batch(devices.Online, "voltage_l1=08fd", "power=43661999", "pf=0001", "mode=0001", "status=0008")
	dst := f.m.AppendMessages(nil, b, exact)
	sent := 0
	if n := testing.AllocsPerRun(100, func() {
		dst = f.m.AppendMessages(dst[:0], b, exact)
		sent = len(dst)
	}); n > 0 || sent != 6 {
		t.Errorf("%v allocations for %d messages", n, sent)
	}
}

func BenchmarkAppendMessages(b *testing.B) {
	var points []*Point
	for i := range 50 {
		points = append(points, named(fmt.Sprintf("p%d", i), Point{Type: F32, Unit: "W", Scale: decimal("0.1")}))
	}
	dev := newDevice("d", "d", points...)
	m, err := New(Config{Gateway: "g", Devices: []*Device{dev}})
	if err != nil {
		b.Fatal(err)
	}
	batch := devices.NewBatch(dev.Device)
	for _, p := range dev.Device.Points {
		batch.Add(p, []byte{0x43, 0x66, 0x19, 0x9a}, boot)
	}
	var dst []broker.Message
	b.ReportAllocs()
	for b.Loop() {
		dst = m.AppendMessages(dst[:0], batch, exact)
	}
	b.ReportMetric(float64(50*b.N)/b.Elapsed().Seconds(), "readings/s")
}
