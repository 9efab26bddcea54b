package mapping

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
)

// inputs are points that expressions of the tests read.
func inputs() []*Point {
	wrap := decimal("65536")
	return []*Point{
		named("p1", Point{Type: F64, FromText: true, Unit: "W"}), named("p2", Point{Type: F64, FromText: true}), named("Flow temp", Point{Type: F64, FromText: true}),
		named("on", Point{Type: Bool, FromText: true}), named("mode", Point{Type: U16, FromText: true, Enum: map[int64]string{0: "off", 1: "auto"}}),
		named("status", Point{Type: U16, Bits: map[int]string{0: "running", 3: "fault"}}), named("label", Point{Type: Text}),
		named("energy", Point{Type: F64, FromText: true, Kind: Counter, Unit: "kWh", Counting: Counting{Wrap: &wrap}}), named("meter", Point{Type: U16, Kind: Counter}),
		named("day", Point{Type: F64, FromText: true, Kind: Counter, Counting: Counting{Resets: true}}),
	}
}

// computing returns a feed of a device that computes name = expression.
func computing(t *testing.T, formulas ...string) *feed {
	t.Helper()
	dev := newDevice("d", "d", inputs()...)
	all := dev.Points
	for _, f := range formulas {
		name, text, _ := strings.Cut(f, " = ")
		p, err := Compile(text, all)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		c := NewComputed(name, p)
		c.Kind = map[bool]PointKind{true: Counter}[strings.HasPrefix(name, "total")]
		dev.Computed, all = append(dev.Computed, c), append(all[:len(all):len(all)], c)
	}
	m, err := New(Config{Gateway: "g", Devices: []*Device{dev}, Zone: berlin})
	if err != nil {
		t.Fatal(err)
	}
	return &feed{t, m, dev, late}
}

// late is exact 100 days later, so that there can be readings before.
var late = broker.Clock{Offset: exact.Offset - int64(head), Quality: broker.Exact}

const head = 100 * 24 * time.Hour

// read takes "name=text" readings at a time after boot and returns what name
// is then.
func (f *feed) read(at time.Duration, name string, readings ...string) string {
	f.t.Helper()
	at += head
	b := devices.NewBatch(f.dev.Device)
	defer b.Release()
	b.State = devices.Online
	for _, r := range readings {
		point, text, good := strings.Cut(r, "=")
		point, cause, _ := strings.Cut(point, "!")
		for _, p := range f.dev.Device.Points {
			switch {
			case p.Name != point:
			case good && point == "status":
				b.Add(p, unhex(f.t, text), boot+devices.Stamp(at))
			case good:
				b.Add(p, []byte(text), boot+devices.Stamp(at))
			default:
				b.Fail(p, cause2err[cause], boot+devices.Stamp(at))
			}
		}
	}
	f.lines(f.m.AppendMessages(nil, b, f.clock))
	for _, c := range f.m.Snapshot("d") {
		if c.Point.Name == name {
			switch {
			case c.At == 0:
				return "nothing"
			case c.Cause != "":
				return "!" + c.Cause
			}
			return c.Value.String()
		}
	}
	return "no such point"
}

func TestExpressions(t *testing.T) {
	good := []string{"p1=0.1", "p2=0.2", "Flow temp=55.5", "on=1", "mode=1", "status=0008", "label=north", "energy=7"}
	for _, c := range []struct{ text, want string }{
		{"p1 + p2", "0.3"},
		{"p1 - p2", "-0.1"},
		{"(p1 + p2) * 3 / 2", "0.45"},
		{"p1 ** 2", "0.01"},
		{"1 / 3 * p2 * 15", "1"},
		{"p1 / (p2 - 0.2)", "!not a number"},
		{"-p1 / (p2 - 0.2) + 1", "!not a number"},
		{"p1 * 1e308 * 1e308", "!not a number"},
		{"min(p1, p2, 3) + max(p1, 7)", "7.1"},
		{"abs(-p2)", "0.2"},
		{"round(p1 * 12.3456)", "1"},
		{"round(p1 * 12.3456, 2)", "1.23"},
		{"floor(p1) + ceil(p2)", "1"},
		{"sqrt(p1 * p1 * 25)", "0.5"},
		{"p1 > 0.05 ? p1 : 0", "0.1"},
		{"p1 > 0.5 ? p1 : 0", "0"},
		{"p1 > 0.05 and not on", "false"},
		{"p1 > 0.05 && on", "true"},
		{"on ? 1 : 2", "1"},
		{`mode == "auto" ? p1 : p2`, "0.1"},
		{`mode in ["off", "auto"]`, "true"},
		{"status.fault and not status.running", "true"},
		{`label + "-" + "1"`, "north-1"},
		{`$env["Flow temp"] * 2`, "111"},
		{strings.Repeat("label + ", 230) + "label", "!longer than 1024 bytes"},
		{"energy * 3600", "25200"},
		{"hysteresis(p1, 0.05, 0.1)", "true"},
		{"hysteresis(p1, 0.5, 0.1)", "!hysteresis: it falls above where it rises"},
	} {
		f := computing(t, "x = "+c.text)
		if got := f.read(0, "x", good...); got != c.want {
			t.Errorf("%s = %s, want %s", c.text, got, c.want)
		}
	}
}

func TestExpressionErrors(t *testing.T) {
	for _, c := range []struct{ text, at, want string }{
		{"p1 + p3", "p3", `there is no point "p3" on this device`},
		{"ä1 + p1", "ä1", `there is no point "ä1" on this device`},
		{`label == "ä" ? p3 : p1`, "p3", `there is no point "p3" on this device`},
		{"p1 +", "", "it ends too early"},
		{"p1 + on", "+", "invalid operation: + (mismatched types number and bool)"},
		{"status.broken", "broken", ""},
		{"status", "status", "neither a number nor a truth nor a text"},
		{"[p1, p2]", "[p1, p2]", "neither a number"},
		{"1 + 2", "1 + 2", "names no point"},
		{"1..5", "..", "ranges are no part"},
		{"p1 in 1..1000000000", "..", "ranges are no part"},
		{"map([1], # + p1)", "", ""},
		{"filter([1], p1 > 1)", "", ""},
		{"let x = label + label; let y = x + x; y + y", "", "let is no part"},
		{`{"a": p1}`, "", "objects are no part"},
		{"now()", "now", ""},
		{`repeat("a", 1000000000)`, "repeat", ""},
		{"daily(p1)", "p1", `daily is of counters: add kind = "counter" to point "p1"`},
		{"daily(energy + 1)", "+", "takes the name of a point of this device, and no expression"},
		{"daily(energy, p1)", "daily", "takes the name of one point"},
		{"rate(label)", "label", `point "label" is no number`},
		{"hysteresis(p1, 2)", "hysteresis", "takes a number and where it falls and rises"},
		{`$env["p9"]`, "", `there is no point "p9"`},
		{`$env[label]`, "", "takes a name in quotes"},
		{strings.Repeat("p1+", 600) + "p1", "", "exceeds"},
		{strings.Repeat(" ", 4001), "", "longer than 4000 bytes"},
		{"", "", ""},
	} {
		_, err := Compile(c.text, inputs())
		e, ok := errors.AsType[*ExpressionError](err)
		if !ok {
			t.Errorf("%.40s: %v", c.text, err)
			continue
		}
		if e.At < 0 || e.At > e.End || e.End > max(len(c.text), 1) && len(c.text) > 0 || !strings.Contains(e.Message, c.want) || c.at != "" && !strings.HasPrefix(c.text[e.At:], c.at) {
			t.Errorf("%.40s: %d to %d: %s; want %s at %q", c.text, e.At, e.End, e.Message, c.want, c.at)
		}
	}
}

// A result is as good as its worst input, and of the time of its latest.
func TestComputedQuality(t *testing.T) {
	f := computing(t, "sum = p1 + p2", "half = sum / 2")
	if got := f.read(0, "sum", "p1=1"); got != "nothing" {
		t.Errorf("with one of two inputs: %s", got)
	}
	for i, c := range []struct{ reading, sum, half string }{
		{"p2=2", "3", "1.5"},
		{"p1!timeout", "!p1: timeout", "!sum: p1: timeout"},
		{"p2=4", "!p1: timeout", "!sum: p1: timeout"},
		{"p1=3", "7", "3.5"},
		{"p2=NaN", "!p2: not a number", "!sum: p2: not a number"},
	} {
		sum := f.read(time.Duration(i+1)*time.Second, "sum", c.reading)
		half := f.read(time.Duration(i+1)*time.Second, "half", "on=1")
		if sum != c.sum || half != c.half {
			t.Errorf("%s: sum %s, half %s; want %s, %s", c.reading, sum, half, c.sum, c.half)
		}
	}
	b := f.batch(devices.Online)
	b.Add(f.dev.Device.Points[0], []byte("8"), boot+devices.Stamp(head)+9e9)
	b.Add(f.dev.Device.Points[1], []byte("1"), boot+devices.Stamp(head)+8e9)
	f.want(f.lines(f.m.AppendMessages(nil, b, f.clock)),
		`g/d/p1 {"value":8,"unit":"W","time":"2026-11-20T23:06:09.123Z","quality":"good"}`,
		`g/d/p2 {"value":1,"time":"2026-11-20T23:06:08.123Z","quality":"good"}`,
		`g/d/sum {"value":9,"time":"2026-11-20T23:06:09.123Z","quality":"good"}`,
		`g/d/half {"value":4.5,"time":"2026-11-20T23:06:09.123Z","quality":"good"}`,
		`g/d {"time":"2026-11-20T23:06:09.123Z","p1":8,"p2":1,"sum":9,"half":4.5}`)
}

func TestHysteresisRemembers(t *testing.T) {
	f := computing(t, "heat = not hysteresis(p1, 60, 65)")
	for i, c := range []struct{ temperature, want string }{
		{"62", "true"}, {"64.9", "true"}, {"65", "false"}, {"62", "false"}, {"60.1", "false"}, {"60", "true"}, {"62", "true"}, {"70", "false"},
	} {
		if got := f.read(time.Duration(i)*time.Second, "heat", "p1="+c.temperature); got != c.want {
			t.Errorf("%d: at %s: %s, want %s", i, c.temperature, got, c.want)
		}
	}
	after := computing(t, "heat = not hysteresis(p1, 60, 65)")
	after.m.Remember(f.m.Memories())
	if got := after.read(0, "heat", "p1=62"); got != "false" {
		t.Errorf("after a restart at 62: %s", got)
	}
}

func TestRate(t *testing.T) {
	f := computing(t, "speed = rate(p1)", "power = rate(energy) * 3600")
	for i, c := range []struct{ p1, energy, speed, power string }{
		{"10", "65534", "!rate(p1): not known yet", "!rate(energy): not known yet"},
		{"12.5", "65535", "0.25", "360"},
		{"12.5", "2", "0", "1080"}, // it wrapped
		{"2.5", "2", "-1", "0"},
	} {
		at := time.Duration(i) * 10 * time.Second
		speed, power := f.read(at, "speed", "p1="+c.p1), f.read(at, "power", "energy="+c.energy)
		if speed != c.speed || power != c.power {
			t.Errorf("%d: %s, %s; want %s, %s", i, speed, power, c.speed, c.power)
		}
	}
	if got := f.read(30*time.Second, "speed", "p1=99"); got != "-1" {
		t.Errorf("a second reading of the same moment: %s", got)
	}
}

// on20 is when it is so late on 20 November in Berlin; boot is at 00:06 on the
// 21st there.
func on20(hour, minute int) time.Duration {
	return time.Date(2026, 11, 20, hour, minute, 0, 0, berlin).Sub(exact.Wall(int64(boot)))
}

func TestDailyEnergy(t *testing.T) {
	const day = 24 * time.Hour
	f := computing(t, "today = daily(energy)", "yesterday = last_day(energy)", "hour = hourly(energy)", "hour_before = last_hour(energy)")
	for _, c := range []struct {
		at                                 time.Duration
		energy                             string
		today, yesterday, hour, hourBefore string
	}{
		{on20(10, 0), "1000", "0", "!last_day(energy): not known yet", "0", "!last_hour(energy): not known yet"},
		{on20(10, 30), "1010", "10", "!last_day(energy): not known yet", "10", "!last_hour(energy): not known yet"},
		{on20(11, 5), "1020", "20", "!last_day(energy): not known yet", "10", "10"},
		{on20(23, 59), "1100", "100", "!last_day(energy): not known yet", "0", "!last_hour(energy): not known yet"},
		{on20(0, 1) + day, "1102", "2", "100", "2", "0"},
		{on20(0, 30) + day, "!timeout", "!energy: timeout", "!energy: timeout", "!energy: timeout", "!energy: timeout"},
		{on20(9, 0) + day, "1150", "50", "100", "0", "!last_hour(energy): not known yet"},
		// Off for a night: what flowed meanwhile counts for the day that came.
		{on20(8, 0) + 2*day, "1200", "50", "50", "0", "!last_hour(energy): not known yet"},
		// Off for longer: nobody knows whose it is.
		{on20(8, 0) + 5*day, "1500", "0", "!last_day(energy): not known yet", "0", "!last_hour(energy): not known yet"},
		{on20(8, 1) + 5*day, "1501", "1", "!last_day(energy): not known yet", "1", "!last_hour(energy): not known yet"},
	} {
		reading := "energy=" + c.energy
		if strings.HasPrefix(c.energy, "!") {
			reading = "energy" + c.energy
		}
		got := []string{f.read(c.at, "today", reading)}
		for _, name := range []string{"yesterday", "hour", "hour_before"} {
			got = append(got, f.read(c.at, name, "on=1"))
		}
		if want := []string{c.today, c.yesterday, c.hour, c.hourBefore}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s at %v: %q, want %q", c.energy, c.at, got, want)
		}
	}
}

func TestDailyEnergyThroughEvents(t *testing.T) {
	f := computing(t, "today = daily(energy)")
	at := on20(9, 0)
	read := func(text string) string {
		at += 20 * time.Second
		return f.read(at, "today", "energy="+text)
	}
	for i, c := range []struct{ energy, want string }{
		{"65000", "0"}, {"65500", "500"}, {"10", "546"}, // wrapped
		{"5000", "5536"}, {"30", "!energy: counter stepped back"}, {"5000", "5536"}, // misread
		{"30", "!energy: counter stepped back"}, {"30", "!energy: counter stepped back"}, {"31", "5536"}, {"40", "5545"}, // exchanged
	} {
		if got := read(c.energy); got != c.want {
			t.Errorf("%d: %s: %s, want %s", i, c.energy, got, c.want)
		}
	}
	// A restart forgets nothing, whether the counter went on or was reset.
	for energy, want := range map[string]string{"50": "5555", "5": "5545"} {
		after := computing(t, "today = daily(energy)")
		after.m.Remember(f.m.Memories())
		if got := after.read(on20(12, 0), "today", "energy="+energy); got != want {
			t.Errorf("after a restart at %s: %s, want %s", energy, got, want)
		}
	}
}

// What rose since a counter began anew by itself counts from 0.
func TestHourlyEnergyOfACounterThatResets(t *testing.T) {
	f := computing(t, "hour = hourly(day)")
	at := on20(9, 0)
	for i, c := range []struct{ day, want string }{{"500", "0"}, {"520", "20"}, {"3", "23"}, {"5", "25"}} {
		at += time.Minute
		if got := f.read(at, "hour", "day="+c.day); got != c.want {
			t.Errorf("%d: %s: %s, want %s", i, c.day, got, c.want)
		}
	}
}

// On the last Sunday of October the day has 25 hours, and two of them have the
// same name.
func TestDaysOfTheSiteInAutumn(t *testing.T) {
	f := computing(t, "today = daily(energy)", "hour = hourly(energy)", "before = last_hour(energy)")
	start := time.Date(2026, 10, 24, 22, 0, 0, 0, time.UTC).Sub(exact.Wall(int64(boot))) // midnight in Berlin
	for h := range 26 {
		at := start + time.Duration(h)*time.Hour + time.Minute
		today, hour, before := f.read(at, "today", fmt.Sprintf("energy=%d", 100+10*h)), f.read(at, "hour", "on=1"), f.read(at, "before", "on=1")
		wantToday, wantHour, wantBefore := fmt.Sprint(10*h), "10", "0"
		switch h {
		case 0:
			wantHour, wantBefore = "0", "!last_hour(energy): not known yet"
		case 1:
		case 25:
			wantToday, wantBefore = "10", "10"
		default:
			wantBefore = "10"
		}
		if today != wantToday || hour != wantHour || before != wantBefore {
			t.Errorf("hour %d: %s, %s, %s; want %s, %s, %s", h, today, hour, before, wantToday, wantHour, wantBefore)
		}
	}
}

// Before the clock was set nobody knows what day it is; what was known stays.
func TestDailyEnergyWaitsForTheClock(t *testing.T) {
	f := computing(t, "today = daily(energy)", "total = energy + p1", "total_today = daily(total)")
	f.read(on20(9, 0), "today", "energy=100", "p1=1")
	f.clock = broker.Clock{}
	if got := f.read(on20(9, 1), "today", "energy=150"); got != "!daily(energy): the clock is not set" {
		t.Errorf("unsynced: %s", got)
	}
	f.clock = late
	if got := f.read(on20(9, 2), "today", "energy=160"); got != "60" {
		t.Errorf("synced again: %s", got)
	}
	if got := f.read(on20(9, 3), "total_today", "energy=161"); got != "61" {
		t.Errorf("of a computed counter: %s", got)
	}
}

// No expression, however made, panics or runs away.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"p1 + p2", `$env["Flow temp"] ?? 3`, "hysteresis(rate(p1), 1, daily(energy))", "status?.fault", `label matches "^a.*"`, "p1 | abs()", "let x = p1; x ** x"} {
		f.Add(s)
	}
	points := inputs()
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Compile(text, points)
		if err != nil {
			if e, ok := errors.AsType[*ExpressionError](err); !ok || e.At < 0 || e.At > e.End {
				t.Fatalf("%q: %+v", text, err)
			}
			return
		}
		e := newEvaluator(p)
		for _, in := range points {
			v := FloatValue(2.5)
			switch {
			case len(in.Bits) > 0:
				v = Value{kind: KindBits, names: in.Bits}
			case in.Type == Bool:
				v = BoolValue(true)
			case in.Type == Text || len(in.Enum) > 0:
				v = StringValue("auto")
			}
			e.set(in, v)
		}
		for _, key := range p.history {
			e.names[key.String()] = 1.5
		}
		v, err := e.run()
		if x, ok := v.Float64(); err == nil && ok && (math.IsNaN(x) || math.IsInf(x, 0)) {
			t.Fatalf("%q = %v", text, v)
		}
	})
}

func BenchmarkComputed(b *testing.B) {
	dev := newDevice("d", "d", inputs()...)
	p, err := Compile("p1 + p2 + $env[\"Flow temp\"]", dev.Points)
	if err != nil {
		b.Fatal(err)
	}
	e := newEvaluator(p)
	b.ReportAllocs()
	for b.Loop() {
		for _, in := range dev.Points[:3] {
			e.set(in, FloatValue(230.1))
		}
		if _, err := e.run(); err != nil {
			b.Fatal(err)
		}
	}
}

// Floats of 32 bits are taken as they are shown.
func TestSumsOfSinglesAreThoseOfWhatIsShown(t *testing.T) {
	for _, c := range []struct {
		a, b float32
		want string
	}{{0.1, 0.2, "0.3"}, {647.6326, 784.3667, "1431.9993"}, {-1e-3, 1e-3, "0"}, {16777216, 1, "16777217"}} {
		single := Point{Type: F32}
		dev := newDevice("d", "d", named("a", single), named("b", single))
		p, err := Compile("a + b", dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		dev.Computed = []*Point{NewComputed("x", p)}
		b := devices.NewBatch(dev.Device)
		for i, f := range []float32{c.a, c.b} {
			b.Add(dev.Device.Points[i], binary.BigEndian.AppendUint32(nil, math.Float32bits(f)), boot)
		}
		if got := dev.Now(dev.Computed[0], b.Readings); got.Value.String() != c.want {
			t.Errorf("%v + %v = %v, want %s", c.a, c.b, got.Value, c.want)
		}
		b.Release()
	}
}
