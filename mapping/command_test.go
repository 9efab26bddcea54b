package mapping

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
)

func limit(s string) *Decimal {
	d := decimal(s)
	return &d
}

func boiler() *Device {
	return newDevice("boiler", "Kessel 1",
		named("pump", Point{Type: Bool, Write: &Write{}}),
		named("mode", Point{Type: U16, Enum: map[int64]string{0: "off", 1: "auto", 2: "manual"}, Write: &Write{}}),
		named("setpoint", Point{Type: I16, Scale: decimal("0.1"), Unit: "°C",
			Write: &Write{Min: limit("30"), Max: limit("85"), Step: limit("0.5")}}),
		named("flags", Point{Type: U16, Bits: map[int]string{0: "run", 3: "night"}, Write: &Write{}}),
		named("label", Point{Type: String, Length: 8, Write: &Write{}}),
		named("key", Point{Type: Bytes, Length: 2, Write: &Write{}}),
		named("gain", Point{Type: F32, Order: CDAB, Write: &Write{Max: limit("10")}}),
		named("valve", Point{Type: Bool, Enum: map[int64]string{0: "shut", 1: "open"}, Write: &Write{}}),
		named("big", Point{Type: U64, Write: &Write{}}),
		named("offset", Point{Type: I16, Scale: decimal("0.1"), Write: &Write{}}),
		named("limit", Point{Type: I16, Invalid: []int64{-32768}, Write: &Write{}}),
		named("flow", Point{Type: I16}),
	)
}

func commander(t testing.TB) *Mapper {
	t.Helper()
	m, err := New(Config{Gateway: "plant-a", Devices: []*Device{boiler()}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sets writes down a command's writes.
func sets(c *Command) string {
	var parts []string
	for _, s := range c.Sets {
		parts = append(parts, fmt.Sprintf("%s=%s(%x)", s.Point.Name, s.Value, s.Raw))
	}
	return strings.Join(parts, " ")
}

func TestCommand(t *testing.T) {
	m := commander(t)
	const k = "plant-a/Kessel 1/"
	for _, c := range []struct {
		topic, payload string
		want           string // writes, or "!" and the reason
	}{
		{k + "setpoint/set", "60.5", "setpoint=60.5(025d)"},
		{k + "setpoint/set", " 60 ", "setpoint=60(0258)"},
		{k + "setpoint/set", "6e1", "setpoint=60(0258)"},
		{k + "setpoint/set", `{"value":60,"id":"a"}`, "setpoint=60(0258)"},
		{k + "setpoint/set", "29.5", "!29.5 is below the minimum of 30 °C"},
		{k + "setpoint/set", "85.5", "!85.5 is above the maximum of 85 °C"},
		{k + "setpoint/set", "60.3", "!60.3 is not in steps of 0.5 °C"},
		{k + "setpoint/set", "4000", "!4000 is out of range: i16 holds -3276.8 to 3276.7"},
		{k + "setpoint/set", "warm", `!"warm": not a number`},
		{k + "setpoint/set", `"60"`, `!"60" is text; i16 wants a number`},
		{k + "setpoint/set", "", "!empty"},
		{k + "setpoint/set", "null", "!null cannot be written"},
		{k + "setpoint/set", "NaN", `!"NaN": not a number`},
		{k + "setpoint/set", "[60]", "!want one value, not a list or an object"},
		{k + "setpoint/set", `{"value":{"a":1}}`, "!want one value, not a list or an object"},
		{k + "setpoint/set", `{"id":"a"}`, `!without "value"`},
		{k + "setpoint/set", `{"value":60,"expire":1}`, `!"expire" is not known: one of value, id, expires`},
		{k + "setpoint/set", `{"value":60,"value":70}`, `!"value" is given twice`},
		{k + "setpoint/set", `{"value":60}{}`, "!more after the JSON object"},
		{k + "setpoint/set", `{"value":60`, "!JSON: it ends too early"},
		{k + "setpoint/set", `{"value":60,"expires":1795215960000}`, "!expires: want RFC 3339 (2026-11-20T23:06:00Z) or Unix seconds"},
		{k + "setpoint/set", `{"value":60,"id":""}`, "!id: want a string of 1 to 128 bytes"},
		{k + "setpoint/set", "60.500000000000007", "setpoint=60.5(025d)"},
		{k + "setpoint/set", "60.50000001", "!60.50000001 is not in steps of 0.5 °C"},
		{k + "offset/set", "0.30000000000000004", "offset=0.3(0003)"},
		{k + "offset/set", "-21.700000000000003", "offset=-21.7(ff27)"},
		{k + "limit/set", "-32768", `!-32768 means "no value" to this point`},
		{k + "offset/set", "Infinity", `!"Infinity": not a number`},
		{k + "gain/set", "-Inf", `!"-Inf": not a number`},
		{k + "gain/set", "1e999", `!"1e999": exponent out of range: 10^-127 to 10^127`},
		{k + "gain/set", "9.7000000000000011", "gain=9.7000000000000011(3333411b)"},
		{k + "offset/set", "2.53", "!2.53 lies between two values that it can hold; the nearest is 2.5"},
		{k + "pump/set", "on", "pump=true(01)"},
		{k + "pump/set", "false", "pump=false(00)"},
		{k + "pump/set", `{"value":true}`, "pump=true(01)"},
		{k + "pump/set", "2", `!"2" is neither true nor false`},
		{k + "valve/set", "open", "valve=open(01)"},
		{k + "valve/set", "true", "valve=open(01)"},
		{k + "valve/set", "0", "valve=shut(00)"},
		{k + "valve/set", "ajar", `!"ajar" is none of shut, open`},
		{k + "mode/set", "auto", "mode=auto(0001)"},
		{k + "mode/set", `"manual"`, "mode=manual(0002)"},
		{k + "mode/set", "2", "mode=manual(0002)"},
		{k + "mode/set", "3", "!3 is none of off, auto, manual"},
		{k + "mode/set", "Auto", `!"Auto" is none of off, auto, manual`},
		{k + "flags/set", `{"run":true,"night":false}`, `flags={"run":true,"night":false}(0001)`},
		{k + "flags/set", `{"value":{"run":true,"night":true}}`, `flags={"run":true,"night":true}(0009)`},
		{k + "flags/set", "9", `flags={"run":true,"night":true}(0009)`},
		{k + "flags/set", `{"run":true}`, `!bit "night" is missing: all are written at once`},
		{k + "flags/set", `{"run":true,"night":true,"day":true}`, `!no bit is called "day"`},
		{k + "label/set", "Halle 3", "label=Halle 3(48616c6c65203300)"},
		{k + "label/set", `"Ä"`, "label=Ä(c384000000000000)"},
		{k + "label/set", "Halle 300", "!9 bytes are more than string(8) holds"},
		{k + "key/set", "0AFF", "key=0aff(0aff)"},
		{k + "key/set", "xx", `!"xx" is not hexadecimal`},
		{k + "gain/set", "1.5", "gain=1.5(00003fc0)"},
		{k + "gain/set", "3.14159265358979323846", "gain=3.141592653589793(0fdb4049)"},
		{k + "gain/set", "1e300", "!1e+300 is more than f32 holds"},
		{k + "big/set", "9007199254740993", "big=9007199254740993(0020000000000001)"},
		{k + "big/set", "18446744073709551616", `!"18446744073709551616": more than 19 digits`},
		{k + "flow/set", "1", "!not writable: its point does not say write"},
		{k + "nope/set", "1", `!device Kessel 1 has no point "nope"`},
		{"plant-a/Kessel 2/flow/set", "1", `!no such device: "Kessel 2"`},
		{k + "_set", `{"setpoint":60,"mode":"auto","pump":true}`, "setpoint=60(0258) mode=auto(0001) pump=true(01)"},
		{k + "_set", `{"setpoint":90,"mode":"auto","x":1}`, `!setpoint: 90 is above the maximum of 85 °C; device Kessel 1 has no point "x"`},
		{k + "_set", `{"id":"x"}`, "!names no point"},
		{k + "_set", `{"pump":true,"pump":false}`, `!"pump" is given twice`},
		{k + "_set", "5", "!want a JSON object"},
		{k + "_get", "", ""},
		{k + "_get", `{"points":["flow"]}`, ""},
		{k + "_get", `{"points":["nope"]}`, `!device Kessel 1 has no point "nope"`},
		{k + "_get", `{"point":"flow"}`, `!"point" is not known: one of points, id, expires`},
	} {
		cmd, err := m.Command(&broker.Message{Topic: c.topic, Payload: []byte(c.payload)})
		got := sets(&cmd)
		if err != nil {
			got = "!" + err.Error()
		}
		if got != c.want {
			t.Errorf("%s %s: %s, want %s", c.topic, c.payload, got, c.want)
		}
		if cmd.Reply.Topic != c.topic+"/result" {
			t.Errorf("%s: answer on %s", c.topic, cmd.Reply.Topic)
		}
	}
}

func TestOtherTopicsAreNoCommands(t *testing.T) {
	m := commander(t)
	for _, topic := range []string{"", "plant-a", "plant-a/x", "plant-a/x/y", "plant-a/x/y/z/set", "plant-a/x/y/get",
		"plant-b/Kessel 1/pump/set", "plant-a/Kessel 1/pump/set/result", "plant-a/Kessel 1/_status", "plant-a/set"} {
		if _, err := m.Command(&broker.Message{Topic: topic, Payload: []byte("1")}); !errors.Is(err, ErrNoCommand) {
			t.Errorf("%q: %v", topic, err)
		}
	}
}

func TestCommandEnvelope(t *testing.T) {
	m := commander(t)
	expiry := uint32(5)
	msg := &broker.Message{
		Topic:   "plant-a/Kessel 1/pump/set",
		Payload: []byte(`{"value":true,"id":"a-1","expires":"2026-11-20T23:06:10Z"}`),
		Stamp:   int64(boot),
		From:    "alice",
		Props:   &broker.Properties{Expiry: &expiry, ResponseTopic: "app/7", Correlation: []byte{1, 2}},
	}
	c, err := m.Command(msg)
	if err != nil || c.ID != "a-1" || c.From != "alice" || c.Deadline != boot+5e9 || c.Device.ID != "boiler" ||
		!c.Expires.Equal(time.Date(2026, 11, 20, 23, 6, 10, 0, time.UTC)) ||
		c.Reply.Topic != "app/7" || string(c.Reply.Correlation) != "\x01\x02" {
		t.Errorf("%+v, %v", c, err)
	}
	msg.Payload = []byte(`{"value":true,"id":17,"expires":1795215960.5}`)
	if c, err = m.Command(msg); err != nil || c.ID != "17" || c.Expires.UnixMilli() != 1795215960500 {
		t.Errorf("%+v, %v", c, err)
	}
	msg.Retain = true
	if c, err = m.Command(msg); err == nil || !strings.HasPrefix(err.Error(), "retained") || c.Reply.Topic != "app/7" {
		t.Errorf("%+v, %v", c, err)
	}
	msg.Retain, msg.Payload = false, make([]byte, maxCommand+1)
	if _, err = m.Command(msg); err == nil {
		t.Error("a payload beyond all bounds was read")
	}
}

// No one gets the gateway to publish on its own topics, or the broker's.
func TestResponseTopicsAreNotTheGatewaysOwn(t *testing.T) {
	m := commander(t)
	for _, topic := range []string{"plant-a/Kessel 1/flow", "plant-a", "$SYS/x", "a/+", "", "a\x00"} {
		msg := &broker.Message{Topic: "plant-a/Kessel 1/_get", Props: &broker.Properties{ResponseTopic: topic}}
		if c, _ := m.Command(msg); c.Reply.Topic != "plant-a/Kessel 1/_get/result" {
			t.Errorf("%q: answer on %q", topic, c.Reply.Topic)
		}
	}
}

func TestGetNamesPointsOnce(t *testing.T) {
	c, err := commander(t).Command(&broker.Message{Topic: "plant-a/Kessel 1/_get", Payload: []byte(`{"points":["flow","pump","flow"],"id":"x"}`)})
	if err != nil || !c.Get || len(c.Points) != 2 || c.ID != "x" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestWriteByNameAndID(t *testing.T) {
	m := commander(t)
	for _, name := range []string{"boiler", "Kessel 1"} {
		if c, err := m.Write(name, "pump", []byte("on")); err != nil || sets(&c) != "pump=true(01)" {
			t.Errorf("%s: %s, %v", name, sets(&c), err)
		}
	}
	if _, err := m.Write("x", "pump", []byte("on")); !errors.Is(err, ErrNoDevice) {
		t.Error(err)
	}
}

// Commands come from other goroutines than the one that owns the Mapper.
func TestCommandsBesideMessages(t *testing.T) {
	f := newFeed(t, boiler())
	b := f.batch(devices.Online, "flow=0001", "pump=01")
	var others sync.WaitGroup
	others.Go(func() {
		for range 100 {
			if _, err := f.m.Write("boiler", "pump", []byte("on")); err != nil {
				t.Error(err)
			}
			f.m.Command(&broker.Message{Topic: "plant-a/Kessel 1/_get"})
			f.m.AppendCurrent(nil, b)
		}
	})
	var dst []broker.Message
	for range 100 {
		dst = f.m.AppendMessages(dst[:0], b, exact)
	}
	others.Wait()
}

func TestLive(t *testing.T) {
	wall := exact.Wall(int64(boot))
	for _, c := range []struct {
		cmd   Command
		clock broker.Clock
		want  string // "" alive
	}{
		{Command{}, broker.Clock{}, ""},
		{Command{Deadline: boot + 1}, broker.Clock{}, ""},
		{Command{Deadline: boot}, exact, "expired"},
		{Command{Expires: wall.Add(1)}, exact, ""},
		{Command{Expires: wall}, exact, "expired"},
		{Command{Expires: wall.Add(time.Hour)}, broker.Clock{}, "the clock is not synchronised"},
		{Command{Expires: wall.Add(time.Hour)}, broker.Clock{Offset: exact.Offset, Quality: broker.Bounded}, "the clock is not synchronised"},
		{Command{Expires: wall.Add(time.Second)}, broker.Clock{Offset: exact.Offset, Quality: broker.Interpolated, Late: time.Second - 1}, ""},
		{Command{Expires: wall.Add(time.Second)}, broker.Clock{Offset: exact.Offset, Quality: broker.Interpolated, Late: time.Second}, "expired"},
		{Command{Expires: wall.Add(time.Hour), Deadline: boot}, broker.Clock{}, "expired"},
	} {
		err := c.cmd.Live(boot, c.clock)
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.cmd, err, c.want)
		}
	}
}

func TestAppendResult(t *testing.T) {
	f := newFeed(t, boiler())
	pump, mode := f.dev.Points[0], f.dev.Points[1]
	single := Result{
		Reply: Reply{Topic: "plant-a/Kessel 1/pump/set/result", Correlation: []byte{9}},
		ID:    `a"1`, State: Verified, Old: BoolValue(false), New: BoolValue(true), Stamp: boot,
	}
	several := Result{
		Reply: Reply{Topic: "r"}, State: Failed, Reason: "timeout", Stamp: boot,
		Points: []PointResult{
			{Point: pump, State: Written, New: BoolValue(true)},
			{Point: mode, State: Unknown, Reason: "timeout", Old: StringValue("off")},
		},
	}
	msgs := AppendResult(AppendResult(nil, &single, exact), &several, exact)
	f.want(f.lines(msgs),
		`plant-a/Kessel 1/pump/set/result {"status":"verified","id":"a\"1","old":false,"value":true,"time":"2026-11-20T23:06:00.123Z"}`,
		`r {"status":"failed","reason":"timeout","points":{"pump":{"status":"written","value":true},"mode":{"status":"unknown","reason":"timeout","old":"off"}},"time":"2026-11-20T23:06:00.123Z"}`)
	for _, msg := range msgs {
		if msg.Class != broker.Critical || msg.QoS != 1 || msg.Retain || msg.Stamp != int64(boot) {
			t.Errorf("%+v", msg)
		}
	}
	if string(msgs[0].Props.Correlation) != "\x09" || msgs[1].Props != nil {
		t.Error("correlation data")
	}
}

func TestResultStates(t *testing.T) {
	var all []string
	for s := Accepted; s <= Unknown; s++ {
		all = append(all, s.String())
	}
	if got := strings.Join(all, " "); got != "accepted written verified rejected failed expired unknown" {
		t.Error(got)
	}
}

// Whatever is asked, what comes out is within its limits and reads back as
// the value it was made from.
func FuzzCommand(f *testing.F) {
	const k = "plant-a/Kessel 1/"
	for _, s := range [][2]string{
		{k + "setpoint/set", "60.5"}, {k + "mode/set", `{"value":"auto","id":"a","expires":1795215960}`},
		{k + "_set", `{"pump":true,"flags":{"run":true,"night":false}}`}, {k + "_get", `{"points":["flow"]}`},
		{k + "gain/set", "1e-50"}, {k + "label/set", "\xff\"\x00"}, {k + "big/set", "18446744073709551615"},
	} {
		f.Add(s[0], []byte(s[1]))
	}
	m := commander(f)
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		c, err := m.Command(&broker.Message{Topic: topic, Payload: payload})
		if err != nil {
			return
		}
		for _, s := range c.Sets {
			if s.Point.Write == nil {
				t.Fatalf("%s %q writes %s", topic, payload, s.Point.Name)
			}
			back, err := Decode(s.Point, s.Raw)
			exact := s.Point.Type.Integer() || s.Point.Type == Bool
			if err != nil || exact && !back.Equal(s.Value) {
				t.Fatalf("%s %q: %s → %x → %s, %v", topic, payload, s.Value, s.Raw, back, err)
			}
		}
	})
}

func FuzzParseValue(f *testing.F) {
	for _, s := range []string{"230.1", `"auto"`, "on", "0aff", `{"a":true,"b":false}`, "1e400", "-0", "[", "\"\\ud800\""} {
		f.Add(byte(0), []byte(s))
	}
	points := fixed()
	f.Fuzz(func(t *testing.T, i byte, text []byte) {
		p := &points[int(i)%len(points)]
		v, err := ParseValue(p, text)
		if err != nil {
			return
		}
		raw, err := Encode(nil, p, v)
		if err != nil {
			return
		}
		if len(raw) != p.RawLen() {
			t.Fatalf("%s of %q: %d bytes", p.Type, text, len(raw))
		}
		if back, err := Decode(p, raw); err != nil && p.Type.Integer() {
			t.Fatalf("%s: %q → %x → %s, %v", p.Type, text, raw, back, err)
		}
	})
}
