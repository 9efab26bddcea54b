package mapping

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
)

// count reads "SECONDS:NUMBER" one after the other and returns what becomes of
// each: the number, with "wrap" or "reset" behind it, or "!" and the cause.
func count(t *testing.T, p *Point, script string) string {
	t.Helper()
	var tally Tally
	var out []string
	for word := range strings.FieldsSeq(script) {
		second, number, _ := strings.Cut(word, ":")
		d, err := time.ParseDuration(second + "s")
		if err != nil {
			t.Fatal(err)
		}
		n, err := parseNumber([]byte(number))
		if err != nil {
			t.Fatal(err)
		}
		v := numberValue(n)
		if p.Type == F32 {
			v = Float32Value(float32(n.float()))
		}
		next, event, err := p.follow(tally, v, devices.Stamp(1e9+d.Nanoseconds()))
		tally = next
		if err != nil {
			out = append(out, "!"+strings.TrimPrefix(devices.Cause(err), "counter "))
			continue
		}
		out = append(out, v.String()+event.String())
	}
	return strings.Join(out, " ")
}

func TestCounters(t *testing.T) {
	wrap := decimal("1000000")
	u16, u32, u64 := Point{Type: U16}, Point{Type: U32, Scale: decimal("0.01")}, Point{Type: U64}
	rated := Point{Type: U32, Scale: decimal("0.01"), Counting: Counting{MaxRate: 36}} // 0.01 in a second
	today := Point{Type: U32, Scale: decimal("0.01"), Counting: Counting{Resets: true}}
	todayRated := Point{Type: U32, Scale: decimal("0.01"), Counting: Counting{Resets: true, MaxRate: 36}}
	for _, c := range []struct {
		name   string
		point  Point
		script string
		want   string
	}{
		{"rises", u32, "0:5 10:5 20:5.01 30:70", "5 5 5.01 70"},
		{"first of all is taken", u32, "0:0", "0"},
		{"one misread zero", u32, "0:500 10:0 20:500.1", "500 !stepped back 500.1"},
		{"zeros of a device that starts", u32, "0:500 1:0 2:0 3:0 4:0 5:500", "500 !stepped back !stepped back !stepped back !stepped back 500"},
		{"exchanged for a new one", u32, "0:500 10:0 20:0 30:0 40:0.01 50:0.02", "500 !stepped back !stepped back !stepped back 0.01reset 0.02"},
		{"exchanged for an old one", u32, "0:500 60:90 120:90.1 180:90.2 240:90.3", "500 !stepped back !stepped back 90.2reset 90.3"},
		{"two that disagree confirm nothing", u32, "0:500 60:90 120:20 180:90 240:20 300:501", "500 !stepped back !stepped back !stepped back !stepped back 501"},
		{"two devices at one address", u32, "0:500 60:90 120:500 180:90 240:500.1 300:90", "500 !stepped back 500 !stepped back 500.1 !stepped back"},
		{"rounding of the device", u32, "0:500.10 10:500.09 20:500.10 30:500.08", "500.1 500.09 500.1 !stepped back"},
		{"rounding does not add up", u32, "0:500.10 10:500.09 20:500.08", "500.1 500.09 !stepped back"},

		{"wrap of 16 bits", u16, "0:65530 10:3 20:9", "65530 3wrap 9"},
		{"wrap of 16 bits onto zero waits", u16, "0:65530 10:0 20:4", "65530 !stepped back 4wrap"},
		{"idle after a wrap onto zero", u16, "0:65530 20:0 40:0 60:0 80:0", "65530 !stepped back !stepped back 0wrap 0"},
		{"too far for a wrap", u16, "0:65000 10:9000 20:9000 30:9000 40:9001", "65000 !stepped back !stepped back !stepped back 9001reset"},
		{"signed", Point{Type: I16}, "0:32760 10:-32760 20:-32000", "32760 -32760wrap -32000"},
		{"wrap of 32 bits, scaled", u32, "0:42949672.90 10:1.5", "42949672.9 1.5wrap"},
		{"wrap of 32 bits, falling raw numbers", Point{Type: U32, Scale: decimal("-1"), Offset: decimal("4294967295")}, "0:4294967290 10:7", "4294967290 7wrap"},
		{"wrap of 64 bits", u64, "0:18446744073709551610 10:18446744073709551615 20:1", "18446744073709551610 18446744073709551615 1wrap"},
		{"one in 2^64 is seen", u64, "0:9007199254740993 10:9007199254740991", "9007199254740993 !stepped back"},
		{"wrap of decimal digits", Point{Type: BCD16}, "0:9990 10:2", "9990 2wrap"},
		{"declared wrap", Point{Type: U32, Scale: decimal("0.1"), Counting: Counting{Wrap: &wrap}}, "0:999999.9 10:0.3", "999999.9 0.3wrap"},
		{"declared wrap of a float", Point{Type: F32, Counting: Counting{Wrap: &wrap}}, "0:999990 10:3", "999990 3wrap"},
		{"declared wrap of a text", Point{Type: F64, FromText: true, Counting: Counting{Wrap: &wrap}}, "0:999999.987 10:0.012", "999999.987 0.012wrap"},
		{"no wrap beyond the declared one", Point{Type: U32, Counting: Counting{Wrap: &wrap}}, "0:1000001 10:3", "1000001 !stepped back"},
		{"floats have no end", Point{Type: F32}, "0:16777216 10:3", "16777216 !stepped back"},
		{"a wrap that takes longer than the rate allows", Point{Type: U16, Counting: Counting{MaxRate: 3600}}, "0:65530 1:300 60:301", "65530 !stepped back !stepped back"},
		{"a wrap that the rate allows", Point{Type: U16, Counting: Counting{MaxRate: 3600}}, "0:65530 10:0", "65530 0wrap"},

		{"a day's counter at midnight", today, "0:20.5 60:20.6 120:0.01 180:0.02", "20.5 20.6 0.01reset 0.02"},
		{"a day's counter onto zero", today, "0:20.5 60:0 120:0 180:0.5", "20.5 0reset 0 0.5"},
		{"not near zero", today, "0:20.5 10:1.5 20:20.6", "20.5 !stepped back 20.6"},
		{"not near zero, and stays", today, "0:20.5 20:1.5 40:1.5 60:1.5", "20.5 !stepped back !stepped back 1.5reset"},
		{"near zero, but more than the rate allows", todayRated, "0:500 60:20 120:500", "500 !stepped back 500"},
		{"a misread zero and a rate", todayRated, "0:500 60:0 120:500 180:0.5", "500 0reset !jumped 0.5"},
		{"below zero", Point{Type: I32, Counting: Counting{Resets: true}}, "0:500 60:-1 120:501", "500 !stepped back 501"},
		{"a small day", today, "0:0.05 60:0 120:0.01", "0.05 0reset 0.01"},
		{"a float's day", Point{Type: F32, Counting: Counting{Resets: true}}, "0:12.5 60:0.25", "12.5 0.25reset"},

		{"jump", rated, "0:500 10:600 20:500.1", "500 !jumped 500.1"},
		{"what the rate allows", rated, "0:500 10:500.11 20:500.22 3620:536.23", "500 500.11 500.22 536.23"},
		{"jump that stays", rated, "0:500 10:600 20:600.1 40:600.2 50:600.3", "500 !jumped !jumped 600.2reset 600.3"},
		{"counts more slowly than it is read", rated, "0:500 600:500 1200:500 1800:515 1801:515 1831:515 1832:515", "500 500 500 !jumped !jumped 515 515"},

		// From 2^24 on a float that holds Wh knows only every second of them.
		{"a float that has lost its units", Point{Type: F32, Counting: Counting{MaxRate: 3600}}, "0:16777216 1:16777216 2:16777218 3:16777218 4:16777220", "16777216 16777216 16777218 16777218 16777220"},
		{"a float that rounds back", Point{Type: F32}, "0:16777220 1:16777218 2:16777214", "16777220 16777218 !stepped back"},

		{"overtaken by a newer reading", u32, "0:500 20:502 10:501 30:503", "500 502 501 503"},
		{"overtaken and wrong", u32, "0:500 20:502 10:800 30:503", "500 502 !jumped 503"},
	} {
		p := c.point
		if got := count(t, &p, c.script); got != c.want {
			t.Errorf("%s:\n\tgot  %s\n\twant %s", c.name, got, c.want)
		}
	}
}

// Whatever a counter's readings are, what is published rises but for events
// and the rounding of the register, and a reading that stands alone is never
// taken for a reset.
func TestCountersNeverFallUnmarked(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 3))
	for _, p := range []Point{{Type: U16}, {Type: U32, Scale: decimal("0.1")}, {Type: I32, Counting: Counting{MaxRate: 1000}}, {Type: F32}, {Type: BCD32}} {
		var tally Tally
		now, true64, last := devices.Stamp(1), 0.0, math.Inf(-1)
		taken, held := 0, 0
		for range 20000 {
			now += devices.Stamp(rnd.Int64N(20e9))
			true64 += rnd.Float64()
			shown := math.Floor(true64)
			if rnd.IntN(10) == 0 {
				shown = float64(rnd.IntN(60000)) // spoiled
			}
			v := FloatValue(shown)
			next, event, err := p.follow(tally, v, now)
			tally = next
			if err != nil {
				held++
				continue
			}
			taken++
			if event == Continues && shown < last-1 {
				t.Fatalf("%s: %v after %v, unmarked", p.Type, shown, last)
			}
			last = shown
		}
		if taken < 100 || held < 100 {
			t.Errorf("%s: %d taken, %d held back", p.Type, taken, held)
		}
	}
}

// What lies between good readings changes nothing, and the event is told on
// the topic and in the object.
func TestCounterEventsArePublished(t *testing.T) {
	f := newFeed(t, newDevice("d", "d", named("e", Point{Type: U16, Unit: "kWh", Kind: Counter, Policy: Policy{OnChange: true, Deadband: Deadband{Abs: 100}}})))
	f.send(devices.Online, "e=fffa")
	f.want(f.send(devices.Online, "e!timeout")[:1],
		`plant-a/d/e {"value":null,"unit":"kWh","time":"2026-11-20T23:06:00.123Z","quality":"bad","error":"timeout"}`)
	f.want(f.send(devices.Online, "e=0003"),
		`plant-a/d/e {"value":3,"unit":"kWh","time":"2026-11-20T23:06:00.123Z","quality":"good","counter":"wrap"}`,
		`plant-a/d {"time":"2026-11-20T23:06:00.123Z","e":3,"counters":{"e":"wrap"}}`)
	f.want(f.send(devices.Online, "e=0004")) // within the deadband
	if news := f.m.News(); len(news) != 0 {
		t.Errorf("%+v", news)
	}
	f.send(devices.Online, "e=0100")
	f.want(f.send(devices.Online, "e=0001"),
		`plant-a/d/e {"value":null,"unit":"kWh","time":"2026-11-20T23:06:00.123Z","quality":"bad","error":"counter stepped back"}`,
		`plant-a/d {"time":"2026-11-20T23:06:00.123Z","e":null,"errors":{"e":"counter stepped back"}}`)
	if news := f.m.News(); len(news) != 1 || news[0].Text != "counter stepped back: it shows 1 kWh after 256 kWh; waiting whether it stays (what may fall is kind = \"measurement\", and what begins anew by itself has resets = true)" {
		t.Errorf("%+v", news)
	}
	if c := f.m.Snapshot("d")[0]; c.Detail != "it shows 1 kWh after 256 kWh; waiting whether it stays (what may fall is kind = \"measurement\", and what begins anew by itself has resets = true)" {
		t.Errorf("%+v", c)
	}
}

// What begins anew each night says so in the payload, and is no line in the log
// each time.
func TestResetsThatAreExpectedArePublished(t *testing.T) {
	f := newFeed(t, newDevice("d", "d", named("today", Point{Type: U16, Unit: "kWh", Kind: Counter, Counting: Counting{Resets: true}})))
	f.send(devices.Online, "today=0100")
	f.want(f.send(devices.Online, "today=0000"),
		`plant-a/d/today {"value":0,"unit":"kWh","time":"2026-11-20T23:06:00.123Z","quality":"good","counter":"reset"}`,
		`plant-a/d {"time":"2026-11-20T23:06:00.123Z","today":0,"counters":{"today":"reset"}}`)
	if news := f.m.News(); len(news) != 0 {
		t.Errorf("%+v", news)
	}
	f.want(f.send(devices.Online, "today=0001"),
		`plant-a/d/today {"value":1,"unit":"kWh","time":"2026-11-20T23:06:00.123Z","quality":"good"}`,
		`plant-a/d {"time":"2026-11-20T23:06:00.123Z","today":1}`)
}

func TestRange(t *testing.T) {
	low, high := decimal("-40"), decimal("230.1")
	both, below, above := &Range{&low, &high}, &Range{Max: &high}, &Range{Min: &low}
	for _, c := range []struct {
		point Point
		raw   string
		want  string
	}{
		{Point{Type: I16, Scale: decimal("0.1"), Range: both}, "08fd", "230.1"},
		{Point{Type: I16, Scale: decimal("0.1"), Range: both, Unit: "V"}, "08fe", "out of range: 230.2 V is not within [-40, 230.1]"},
		{Point{Type: I16, Scale: decimal("0.1"), Range: both}, "fe70", "-40"},
		{Point{Type: I16, Scale: decimal("0.1"), Range: below}, "fe6f", "-40.1"},
		{Point{Type: I16, Scale: decimal("0.1"), Range: above}, "fe6f", "out of range: -40.1 is not within [-40, inf]"},
		{Point{Type: F32, Range: both}, "4366199a", "230.1"}, // the float nearest to it
		{Point{Type: F32, Range: both}, "4366199b", "out of range: 230.10002 is not within [-40, 230.1]"},
		{Point{Type: F64, Range: below}, "7fefffffffffffff", "out of range: 1.7976931348623157e+308 is not within [-inf, 230.1]"},
		{Point{Type: F64, Range: both}, "7ff8000000000000", "not a number"},
		{Point{Type: U16, Range: both, Enum: map[int64]string{9000: "fault"}}, "2328", "fault"},
		{Point{Type: U64, Range: above}, "ffffffffffffffff", "18446744073709551615"},
	} {
		v, err := Decode(&c.point, unhex(t, c.raw))
		got := v.String()
		if err != nil {
			got = err.Error()
			if cause := devices.Cause(err); strings.ContainsAny(cause, "0123456789") {
				t.Errorf("the cause %q changes with the number", cause)
			}
		}
		if got != c.want {
			t.Errorf("%s %s: %s, want %s", c.point.Type, c.raw, got, c.want)
		}
	}
	p := Point{Type: I16, Range: both, Write: &Write{}, Point: &devices.Point{Name: "x"}}
	if err := p.CheckWrite(IntValue(300)); err == nil || errors.Is(err, errRange) || !strings.Contains(err.Error(), "300 is not within [-40, 230.1]") {
		t.Errorf("a write beyond the range: %v", err)
	}
}

// A value at the edge of its range is told once, and again when it was quiet.
func TestNewsAreFew(t *testing.T) {
	high := decimal("100")
	f := newFeed(t, newDevice("d", "d", named("x", Point{Type: U16, Range: &Range{Max: &high}}), named("y", Point{Type: F32})))
	told := 0
	for i := range 100 {
		f.send(devices.Online, fmt.Sprintf("x=%04x", 100+i%2), "y=7fc00000")
		for _, n := range f.m.News() {
			told++
			if n.Point.Name != "x" || !n.Bad || n.Text != "out of range: 101 is not within [-inf, 100]" {
				t.Errorf("%+v", n)
			}
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

func TestCountersAllocateNothing(t *testing.T) {
	p := Point{Type: U64, Scale: decimal("0.001"), Counting: Counting{MaxRate: 1e6}}
	var tally Tally
	at := devices.Stamp(1)
	v, _ := Decode(&p, make([]byte, 8))
	if n := testing.AllocsPerRun(100, func() {
		at += 1e9
		tally, _, _ = p.follow(tally, v, at)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
