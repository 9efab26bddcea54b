package mapping

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
)

// A told is one publication of a point.
type told struct {
	at           devices.Stamp // its own time
	when         devices.Stamp // when it was published
	value        string
	cause        string
	samples, bad int
}

func (x told) String() string {
	return fmt.Sprintf("%s %s%s (%d samples, %d bad) published at %s", time.Duration(x.at-boot), x.value, x.cause, x.samples, x.bad, time.Duration(x.when-boot))
}

// A reading is one event of a history.
type reading struct {
	at    devices.Stamp
	value float64
	cause string
}

func (r reading) String() string {
	return fmt.Sprintf("%s %v%s", time.Duration(r.at-boot), r.value, r.cause)
}

// play plays a history to a Mapper with one point, its timer being exact, and
// returns what is published of it.
func play(t *testing.T, policy Policy, every time.Duration, history []reading) []told {
	t.Helper()
	p := named("x", Point{Type: I32, Scale: decimal("0.1"), Policy: policy})
	p.Every = every
	dev := newDevice("d", "d", p)
	m, err := New(Config{Gateway: "g", Devices: []*Device{dev}, Publish: DefaultPublish()[:1]})
	if err != nil {
		t.Fatal(err)
	}
	var all []told
	note := func(msgs []broker.Message, when devices.Stamp) {
		for i := range msgs {
			if msgs[i].Topic != "g/d/x" {
				continue
			}
			s := string(msgs[i].Payload)
			x := told{at: devices.Stamp(msgs[i].Stamp), when: when, value: memberOf(s, "value"), cause: memberOf(s, "error")}
			fmt.Sscan(memberOf(s, "samples"), &x.samples)
			fmt.Sscan(memberOf(s, "bad"), &x.bad)
			if x.value == "null" {
				x.value = ""
			}
			all = append(all, x)
		}
	}
	for _, r := range history {
		for due := m.NextDue(); due != 0 && due <= r.at; due = m.NextDue() {
			note(m.AppendDue(nil, due, exact), due)
		}
		b := devices.NewBatch(dev.Device)
		b.State = devices.Online
		if r.cause != "" {
			b.Fail(dev.Device.Points[0], cause2err[r.cause], r.at)
		} else {
			raw, err := Encode(nil, p, DecimalValue(decimal(fmt.Sprintf("%.1f", r.value))))
			if err != nil {
				t.Fatal(err)
			}
			b.Add(dev.Device.Points[0], raw, r.at)
		}
		note(m.AppendMessages(nil, b, exact), r.at)
		b.Release()
	}
	last := history[len(history)-1].at
	note(m.AppendHeld(nil, last, exact), last)
	if m.NextDue() != 0 {
		t.Error("something waits after the end")
	}
	return all
}

// memberOf returns what stands behind a name in flat JSON.
func memberOf(s, name string) string {
	_, rest, ok := strings.Cut(s, `"`+name+`":`)
	if !ok {
		return ""
	}
	return strings.Trim(rest[:strings.IndexAny(rest, ",}")], `"`)
}

// model says the same in another way: it looks at the whole history and asks
// of each moment what the rules say.
func model(policy Policy, every time.Duration, history []reading) []told {
	var all []told
	var sent reading
	var moment devices.Stamp // of the last publication
	publish := func(x told, r reading) {
		all, sent, moment = append(all, x), r, x.when
	}
	plain := func(r reading, when devices.Stamp) told {
		x := told{at: r.at, when: when, cause: r.cause}
		if r.cause == "" {
			x.value = text(r.value)
		}
		return x
	}
	changed := func(r reading) bool { return len(all) == 0 || r.cause != sent.cause }
	moved := func(v float64) bool {
		switch d := math.Abs(v-sent.value) * (1 + 1e-9); {
		case policy.Deadband != (Deadband{}):
			return v != sent.value && d >= max(policy.Deadband.Abs, math.Abs(sent.value)*policy.Deadband.Percent/100)
		case policy.OnChange:
			return v != sent.value
		}
		return true
	}
	old := func(at devices.Stamp, next time.Duration) bool {
		return policy.MaxAge > 0 && (at.Sub(moment)+next > policy.MaxAge || at.Sub(moment) >= policy.MaxAge)
	}
	// window publishes what is in a window that ends at end.
	window := func(in []reading, bad int, end, when devices.Stamp) {
		if len(in) == 0 {
			return
		}
		v := aggregate(policy.Aggregate, in)
		if sent.cause != "" || moved(v) || old(end, policy.Window) {
			publish(told{at: end, when: when, value: text(v), samples: len(in), bad: bad}, reading{end, v, ""})
		}
	}
	var waits *reading // of a least interval
	var in []reading   // of a window
	var bad int
	var end devices.Stamp
	for i, r := range history {
		if waits != nil && (r.at >= moment+devices.Stamp(policy.MinInterval) || changed(r)) {
			publish(plain(*waits, min(r.at, moment+devices.Stamp(policy.MinInterval))), *waits)
			waits = nil
		}
		if policy.Window > 0 {
			if end != 0 && r.at >= end {
				window(in, bad, end, end)
				in, bad, end = nil, 0, 0
			} else if len(in) > 0 && changed(r) {
				window(in, bad, in[len(in)-1].at, in[len(in)-1].at)
				all[len(all)-1].when = max(all[len(all)-1].when, all[len(all)-1].at)
				in, bad, end = nil, 0, 0
			}
			if end == 0 {
				wall := int64(r.at) + exact.Offset
				end = devices.Stamp((wall/int64(policy.Window)+1)*int64(policy.Window) - exact.Offset)
			}
			if r.cause == "" {
				in = append(in, r)
			} else {
				bad++
			}
			if changed(r) || r.cause != "" && old(r.at, every) {
				x := plain(r, r.at)
				if r.cause == "" {
					x.samples = 1
				}
				publish(x, r)
			}
			continue
		}
		switch {
		case changed(r):
			publish(plain(r, r.at), r)
		case old(r.at, every) || r.cause == "" && moved(r.value):
			if r.at.Sub(moment) >= policy.MinInterval {
				publish(plain(r, r.at), r)
			} else {
				waits = &history[i]
			}
		case r.cause == "":
			waits = nil
		}
	}
	last := history[len(history)-1].at
	if waits != nil {
		publish(plain(*waits, last), *waits)
	}
	if len(in) > 0 {
		window(in, bad, in[len(in)-1].at, last)
	}
	return all
}

func text(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.12f", v), "0"), ".")
}

func aggregate(a Aggregate, in []reading) float64 {
	values := make([]float64, len(in))
	sum := 0
	for i, r := range in {
		values[i] = r.value
		sum += int(math.Round(r.value * 10))
	}
	switch a {
	case Min:
		return slices.Min(values)
	case Max:
		return slices.Max(values)
	case Mean:
		mean := float64(sum) / 10 / float64(len(in))
		if slices.Min(values) == slices.Max(values) {
			return values[0]
		}
		return mean
	}
	return values[len(values)-1]
}

// TestPolicyIsItsModel compares random policies on random histories with the
// model, and looks at what is promised of each.
func TestPolicyIsItsModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...time.Duration) time.Duration { return list[random.IntN(len(list))] }
	for range 1500 {
		every := pick(100*time.Millisecond, time.Second, 7*time.Second)
		policy := Policy{OnChange: random.IntN(2) == 0}
		if random.IntN(2) == 0 {
			policy.Deadband = Deadband{Abs: float64(random.IntN(3)) / 2, Percent: float64(random.IntN(3))}
		}
		switch random.IntN(3) {
		case 0:
			policy.MinInterval = pick(time.Second, 1500*time.Millisecond, 10*time.Second)
		case 1:
			policy.Window, policy.Aggregate = pick(time.Second, 5*time.Second, time.Minute), Aggregate(random.IntN(4))
		}
		if random.IntN(2) == 0 {
			policy.MaxAge = max(policy.Window, policy.MinInterval, every) + pick(0, 3*time.Second, time.Minute)
		}
		history := randomHistory(random, every)
		got, want := play(t, policy, every, history), model(policy, every, history)
		if policy.Window > 0 { // when a window that is cut short was told is not told by its time
			for i := range got {
				got[i].when = 0
			}
			for i := range want {
				want[i].when = 0
			}
		}
		if !slices.EqualFunc(got, want, sameTold) {
			t.Fatalf("policy %+v, every %s\nhistory:\n%s\ngot:\n%s\nwant:\n%s", policy, every, lines(history), lines(got), lines(want))
		}
		checkPromises(t, policy, every, history, got)
	}
}

// sameTold compares means by their amount: the model divides plainly.
func sameTold(a, b told) bool {
	var x, y float64
	fmt.Sscan(a.value, &x)
	fmt.Sscan(b.value, &y)
	near := math.Abs(x-y) < 1e-9
	a.value, b.value = "", ""
	return a == b && near
}

func lines[T any](list []T) string {
	var b strings.Builder
	for _, x := range list {
		fmt.Fprintln(&b, "\t", x)
	}
	return b.String()
}

func randomHistory(random *rand.Rand, every time.Duration) []reading {
	var history []reading
	at, value, cause := boot+devices.Stamp(random.Int64N(1e10)), 100.0, ""
	for range 1 + random.IntN(60) {
		at += devices.Stamp(every) + devices.Stamp(random.Int64N(int64(every)/4)) - devices.Stamp(every)/8
		if random.IntN(20) == 0 {
			at += devices.Stamp(random.Int64N(int64(20 * time.Second)))
		}
		switch random.IntN(8) {
		case 0:
			cause = []string{"", "timeout", "offline"}[random.IntN(3)]
		case 1, 2, 3:
			value = math.Round(10*(value+random.Float64()*4-2)) / 10
		}
		history = append(history, reading{at, value, cause})
	}
	return history
}

// checkPromises looks at what the documentation of Policy promises.
func checkPromises(t *testing.T, policy Policy, every time.Duration, history []reading, got []told) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf(format+"\npolicy %+v, every %s\nhistory:\n%s\ngot:\n%s", append(args, policy, every, lines(history), lines(got))...)
	}
	// Each change of quality is published with the time of its reading.
	was := "none"
	for _, r := range history {
		if r.cause != was && !slices.ContainsFunc(got, func(x told) bool { return x.at == r.at && x.cause == r.cause }) {
			fail("the change to %q at %s is not told", r.cause, time.Duration(r.at-boot))
		}
		was = r.cause
	}
	for i, x := range got[1:] {
		before := got[i]
		if x.at < before.at || x.when < before.when {
			fail("%s comes after %s", x, before)
		}
		last := x.when >= history[len(history)-1].at
		if x.cause == before.cause && policy.MinInterval > 0 && x.when-before.when < devices.Stamp(policy.MinInterval) && !last &&
			!slices.ContainsFunc(history, func(r reading) bool {
				return r.at >= x.when && r.at < before.when+devices.Stamp(policy.MinInterval) && r.cause != x.cause
			}) {
			fail("%s comes too soon after %s", x, before)
		}
	}
	// What was published last is not further from the truth than a deadband.
	end := history[len(history)-1]
	final := got[len(got)-1]
	if final.cause != end.cause {
		fail("the end is %q, published is %q", end.cause, final.cause)
	}
	if policy.Window == 0 && end.cause == "" {
		var v float64
		fmt.Sscan(final.value, &v)
		if v != end.value && policy.moves(FloatValue(v), FloatValue(end.value)) {
			fail("the end is %v, published is %v", end.value, v)
		}
	}
	// No reading of a window is lost: they are counted in the one or the other.
	if policy.Window > 0 && !policy.OnChange && policy.Deadband == (Deadband{}) {
		good, counted := 0, 0
		for _, r := range history {
			if r.cause == "" {
				good++
			}
		}
		changes, was := 0, "none"
		for _, r := range history {
			if r.cause == "" && r.cause != was {
				changes++ // told alone, and once more in its window
			}
			was = r.cause
		}
		for _, x := range got {
			counted += x.samples
		}
		if counted != good+changes {
			fail("%d good readings, %d samples told, %d of them twice", good, counted, changes)
		}
	}
}

func TestMeanHasTheDigitsOfItsReadings(t *testing.T) {
	var w window
	for range 3 {
		w.add(&Current{Value: DecimalValue(decimal("230.1")), At: 1})
	}
	w.add(&Current{Value: DecimalValue(decimal("230.3")), At: 1})
	w.add(&Current{Cause: "timeout", At: 1})
	if got := w.value(Mean).String(); got != "230.15" || w.n != 4 || w.bad != 1 {
		t.Errorf("mean %s of %d, %d bad", got, w.n, w.bad)
	}
	w = window{}
	for _, f := range []float32{230.1, 230.2, 230.3} {
		w.add(&Current{Value: Float32Value(f), At: 1})
	}
	if got := w.value(Mean).String(); got != "230.2" {
		t.Errorf("mean of floats with 32 bits: %s", got)
	}
	w = window{}
	for _, s := range []string{"a", "b"} {
		w.add(&Current{Value: StringValue(s), At: 1})
	}
	if got := w.value(Mean).String(); got != "b" {
		t.Errorf("mean of words: %s, want the last", got)
	}
}

func TestWindowSaysHowItWasMade(t *testing.T) {
	p := named("power", Point{Type: U16, Unit: "W", Policy: Policy{Window: time.Minute, Aggregate: Mean}})
	f := newFeed(t, newDevice("d", "d", p))
	at := func(s int) devices.Stamp {
		return boot - devices.Stamp(exact.Wall(int64(boot)).Second()*1e9) - 123e6 + devices.Stamp(s*1e9)
	}
	var got []string
	for i, r := range []string{"power=0064", "power=0066", "power!timeout", "power=0068", "power=0068", "power=006c"} {
		b := f.batch(devices.Online, r)
		b.Readings[0].At = at(10 * (i + 1))
		got = append(got, f.lines(f.m.AppendMessages(nil, b, exact))...)
	}
	got = append(got, f.lines(f.m.AppendDue(nil, at(119), exact))...)
	if due := f.m.NextDue(); due != at(120) {
		t.Errorf("due at %d, want %d", due, at(120))
	}
	got = append(got, f.lines(f.m.AppendDue(nil, at(120), exact))...)
	f.want(got[1:],
		`plant-a/d/power {"value":100,"unit":"W","time":"2026-11-20T23:06:10.000Z","quality":"good","samples":1}`,
		`plant-a/d {"time":"2026-11-20T23:06:10.000Z","power":100}`,
		`plant-a/d/power {"value":101,"unit":"W","time":"2026-11-20T23:06:20.000Z","quality":"good","samples":2}`,
		`plant-a/d {"time":"2026-11-20T23:06:20.000Z","power":101}`,
		`plant-a/d/power {"value":null,"unit":"W","time":"2026-11-20T23:06:30.000Z","quality":"bad","error":"timeout"}`,
		`plant-a/d {"time":"2026-11-20T23:06:30.000Z","power":null,"errors":{"power":"timeout"}}`,
		`plant-a/d/power {"value":104,"unit":"W","time":"2026-11-20T23:06:40.000Z","quality":"good","samples":1}`,
		`plant-a/d {"time":"2026-11-20T23:06:40.000Z","power":104}`,
		`plant-a/d/power {"value":104,"unit":"W","time":"2026-11-20T23:07:00.000Z","quality":"good","samples":2,"bad":1}`,
		`plant-a/d {"time":"2026-11-20T23:07:00.000Z","power":104,"bad":{"power":1}}`,
		`plant-a/d/power {"value":108,"unit":"W","time":"2026-11-20T23:08:00.000Z","quality":"good","samples":1}`,
		`plant-a/d {"time":"2026-11-20T23:08:00.000Z","power":108}`)
}

func TestPolicyFaults(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		want   string
	}{
		{Policy{Window: time.Minute, MinInterval: time.Second}, "the window is the interval"},
		{Policy{Window: time.Minute, MaxAge: time.Second}, "shorter than the 1m0s"},
	} {
		_, err := New(Config{Gateway: "a", Devices: []*Device{newDevice("d", "n", named("p", Point{Type: U16, Policy: c.policy}))}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.policy, err)
		}
	}
}

// Each format, and each policy, publishes without allocating once its buffers
// have grown. Templates are another matter.
func TestPublishingAllocatesNothing(t *testing.T) {
	for _, policy := range []Policy{{}, {OnChange: true, MaxAge: time.Second}, {MinInterval: 3 * time.Second}, {Window: 3 * time.Second, Aggregate: Mean}} {
		for _, format := range []string{"json", "value", "influx", "senml"} {
			for _, per := range []string{"point", "device"} {
				if format == "value" && per == "device" {
					continue
				}
				dev := meter()
				for _, p := range dev.Points {
					p.Policy = policy
				}
				topic := map[string]string{"point": "{name}/{device}/{point}", "device": "{name}/{device}"}[per]
				f := newFeed(t, dev, Publish{Name: "t", Per: per, Topic: topic, Format: format, Integers: "string"})
				b := f.batch(devices.Online, "voltage_l1=08fd", "power=43661999", "pf!timeout", "mode=0001", "status=0008")
				var dst []broker.Message
				sent := 0
				cycle := func() {
					for i := range b.Readings {
						b.Readings[i].At += 1e9
					}
					b.Readings[0].Raw[1]++
					dst = f.m.AppendMessages(dst[:0], b, exact)
					sent += len(dst)
					dst = f.m.AppendDue(dst[:0], b.Readings[0].At, exact)
					sent += len(dst)
				}
				for range 20 {
					cycle()
				}
				sent = 0
				if n := testing.AllocsPerRun(100, cycle); n > 0 || sent < 30 {
					t.Errorf("%s per %s, %+v: %v allocations for %d messages", format, per, policy, n, sent)
				}
			}
		}
	}
}
