package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPollerReadsCyclesIntoOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, c := testDevice("a", time.Second, "x", "y", "z"), testDevice("c", time.Second, "x")
		a.Points[2].Every = 10 * time.Second
		b := newBench(t, newFakeLine(), a, c)
		b.run(30 * time.Second)
		two, three := 0, 0
		for _, g := range b.of("a") {
			if g.state != Online || len(g.bad) > 0 {
				t.Fatalf("batch %+v", g)
			}
			if g.good == 2 {
				two++
			} else {
				three++
			}
		}
		if two < 26 || two > 28 || three < 3 || three > 4 || len(b.of("c")) < 29 {
			t.Errorf("%d batches with what is due each second, %d with what is due each ten, %d of c", two, three, len(b.of("c")))
		}
		s := b.p.Stats()
		if s.Requests != s.OK || s.Timeouts+s.Errors+s.Overruns+s.Dropped != 0 || s.Requests < 90 {
			t.Errorf("stats %+v", s)
		}
		if s.Busy < 0.025 || s.Busy > 0.04 { // 3.1 queries of 10 ms a second
			t.Errorf("busy %.4f", s.Busy)
		}
		if b.logs.Len() > 0 {
			t.Errorf("a healthy bus logs:\n%s", b.logs.String())
		}
		b.stop()
		if b.err != nil || !b.line.closed {
			t.Errorf("Run = %v, line closed: %v", b.err, b.line.closed)
		}
	})
}

// A slow point that comes along with a quick one is read with it, and nowhere
// else.
func TestPollerReadsAlongWhatIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testDevice("a", time.Second, "x", "slow", "slower", "alone")
		a.Points[1].Every, a.Points[2].Every, a.Points[3].Every = 10*time.Second, time.Minute, time.Minute
		line := newFakeLine()
		line.per, line.carried = 3, map[string]bool{"slow": true, "slower": true}
		b := newBench(t, line, a)
		b.run(2 * time.Minute)
		quick, slow := 0, 0
		for _, g := range b.got {
			if g.good == 3 {
				quick++
			} else {
				slow++
			}
		}
		if quick < 118 || slow < 2 || slow > 3 {
			t.Errorf("%d batches with what is free, %d of the slow point", quick, slow)
		}
		for _, q := range line.asked {
			if q != "a.x" && q != "a.alone" {
				t.Fatalf("%s was asked for", q)
			}
		}
	})
}

// Cycles are planned anew, but not often.
func TestPollerPlansAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		b := newBench(t, line, testDevice("a", time.Second, "x", "y", "z"))
		b.run(30 * time.Second)
		b.reset()
		line.set(func() { line.per = 3 })
		b.run(20 * time.Second)
		asked := func() (n int) {
			line.set(func() { n = len(line.asked) })
			return n
		}
		if n := asked(); n < 57 {
			t.Errorf("%d queries in 20 s: planned anew at once", n)
		}
		b.run(time.Minute)
		b.reset()
		b.run(20 * time.Second)
		if n := asked(); n > 21 || n < 19 || b.got[0].good != 3 {
			t.Errorf("%d queries in 20 s after a minute, %+v", n, b.got[0])
		}
	})
}

func TestPollerIsolatesSilentDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		var devs []*Device
		for i := range 20 {
			devs = append(devs, testDevice(fmt.Sprint("d", i), 2*time.Second, "x", "y"))
			line.dead[fmt.Sprint("d", i)] = i < 6
		}
		b := newBench(t, line, devs...)
		b.run(time.Minute)
		for i := range 6 {
			gs := b.of(fmt.Sprint("d", i))
			last := gs[len(gs)-1]
			if len(gs) != 3 || last.state != Offline || len(last.bad) != 2 || !errors.Is(last.bad[0], ErrOffline) {
				t.Errorf("silent d%d: %+v", i, gs)
			}
		}
		before := b.p.Stats()
		b.reset()
		b.run(10 * time.Minute)
		if n := len(b.of("d0")); n != 0 {
			t.Errorf("a silent device sent %d batches", n)
		}
		probes := b.p.Stats().Timeouts - before.Timeouts
		if share := float64(probes) * line.timeout.Seconds() / 600; share > 0.10 || probes == 0 {
			t.Errorf("%d probes took %.1f %% of the bus", probes, 100*share)
		}
		for i := 6; i < 20; i++ {
			if n := len(b.of(fmt.Sprint("d", i))); n < 299 {
				t.Errorf("d%d: %d of 300 cycles", i, n)
			}
		}
		b.wantLogs("does not answer", 6)

		b.reset()
		line.set(func() { line.dead["d3"] = false })
		b.run(2 * time.Minute)
		gs := b.of("d3")
		if len(gs) < 25 || gs[0].state != Online || gs[0].good != 2 {
			t.Fatalf("after recovery: %+v", gs)
		}
		b.wantState("d3", Online)
		b.wantLogs("answers again", 1)
	})
}

// One query that never gets an answer does not keep the others of its device
// from being asked, in whatever place it stands, and soon rests.
func TestPollerAsksPastAQueryWithoutAnswer(t *testing.T) {
	for _, name := range []string{"x", "y", "z"} {
		synctest.Test(t, func(t *testing.T) {
			line := newFakeLine()
			line.dead["a."+name] = true
			b := newBench(t, line, testDevice("a", time.Second, "x", "y", "z"))
			b.run(10 * time.Minute)
			b.wantState("a", Online)
			b.wantLogs("one query gets no answer", 1)
			seen := map[string]int{}
			for _, q := range line.asked {
				seen[q]++
			}
			for _, p := range []string{"x", "y", "z"} {
				if p == name && (seen["a."+p] < 10 || seen["a."+p] > 20) || p != name && seen["a."+p] < 590 {
					t.Errorf("with %s dead %s was asked %d times in 10 min", name, p, seen["a."+p])
				}
			}
			for _, g := range b.got {
				if g.good+len(g.bad) != 3 || slices.ContainsFunc(g.bad, func(err error) bool { return Cause(err) != "timeout" }) {
					t.Fatalf("a batch lacks points or reasons: %+v", g)
				}
			}
			line.set(func() { line.dead["a."+name] = false })
			b.run(time.Minute)
			b.reset()
			b.run(10 * time.Second)
			for _, g := range b.got {
				if g.good != 3 {
					t.Errorf("after it is answered again: %+v", g)
				}
			}
			b.wantLogs("is answered again", 1)
		})
	}
}

// Queries that are never answered take no more of the bus than devices that
// never answer.
func TestPollerBoundsQueriesWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		var devs []*Device
		for i := range 20 {
			id := fmt.Sprint("d", i)
			devs = append(devs, testDevice(id, 2*time.Second, "x", "y"))
			line.dead[id+".y"] = true
		}
		line.timeout = time.Second
		b := newBench(t, line, devs...)
		b.run(10 * time.Minute)
		before := b.p.Stats()
		b.run(10 * time.Minute)
		after := b.p.Stats()
		if share := float64(after.Timeouts-before.Timeouts) / 600; share > 0.1 || share == 0 {
			t.Errorf("unanswered queries took %.1f %% of the bus", 100*share)
		}
	})
}

// What was read before the end is handed over.
func TestPollerHandsOverAnOpenCycleAtItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.cost = time.Second
		b := newBench(t, line, testDevice("a", time.Minute, "x", "y", "z"))
		time.Sleep(2500 * ms)
		b.stop()
		b.take(<-b.out)
		if b.got[0].good != 2 || b.got[0].state != Online {
			t.Errorf("%+v", b.got)
		}
	})
}

func TestPollerTellsStaleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		b := newBench(t, line, testDevice("a", time.Second, "x"))
		b.run(5 * time.Second)
		line.set(func() { line.excepts["a"] = true })
		b.reset()
		b.run(10 * time.Second)
		stale := 0
		for _, g := range b.got {
			if g.state == Stale && g.good+len(g.bad) == 0 {
				stale++
			}
		}
		if stale != 1 {
			t.Errorf("staleness was told %d times: %+v", stale, b.got)
		}
		b.wantState("a", Stale)
		line.set(func() { line.excepts["a"] = false })
		b.run(2 * time.Second)
		b.wantState("a", Online)
		b.wantLogs("is stale", 1)
		b.wantLogs("was stale", 1)
		if s, _ := b.p.Status("a"); !strings.Contains(s.LastError, "illegal data address") {
			t.Errorf("last error %q", s.LastError)
		}
	})
}

func TestPollerWaitsForItsPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.noPort = fmt.Errorf("open /dev/ttyUSB0: %w", ErrPort)
		line.dead["c"] = true
		b := newBench(t, line, testDevice("a", time.Second, "x", "y"), testDevice("c", time.Second, "x"))
		b.run(time.Minute)
		if len(b.got) != 2 || b.got[0].state != Offline || !errors.Is(b.got[0].bad[0], ErrPort) || len(b.got[0].bad) != 2 {
			t.Errorf("while the port was missing: %+v", b.got)
		}
		s := b.p.Stats()
		if !s.PortDown || s.Overruns != 0 || s.Requests < 6 || s.Requests > 10 {
			t.Errorf("while the port was missing: %+v", s)
		}
		line.set(func() { line.noPort = nil })
		b.reset()
		b.run(12 * time.Second)
		b.wantState("a", Online)
		b.wantState("c", Offline)
		if gs := b.of("a"); len(gs) == 0 || gs[0].good != 2 {
			t.Errorf("after it came: %+v", gs)
		}
		if b.p.Stats().PortDown {
			t.Error("the port still counts as missing")
		}
		b.wantLogs("port unavailable; retrying", 1)
		b.wantLogs("port is back", 1)
		b.wantLogs("device=a", 0)
		b.wantLogs("does not answer", 1) // c
	})
}

func TestPollerLosesPortMidCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.cost = 400 * ms
		b := newBench(t, line, testDevice("a", 2*time.Second, "x", "y", "z"), testDevice("c", 2*time.Second, "x"))
		b.run(500 * ms) // x of a was read, y is under way
		line.set(func() { line.noPort = ErrPort })
		b.run(5 * time.Second)
		good, last := 0, b.got[len(b.got)-1]
		for _, g := range b.of("a") {
			good += g.good
		}
		if good == 0 || last.state != Offline {
			t.Errorf("what was read before is lost, or the state: %+v", b.got)
		}
		b.wantState("a", Offline)
		b.wantState("c", Offline)
	})
}

func TestPollerNeverWaitsForItsReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		b := newBench(t, line, testDevice("a", time.Second, "x"), testDevice("c", time.Second, "x"))
		time.Sleep(10 * time.Minute) // nobody takes anything
		synctest.Wait()
		s := b.p.Stats()
		if s.Requests < 1198 {
			t.Errorf("%d requests in 10 min", s.Requests)
		}
		stuck := testNow()
		kept := uint64(cap(b.out) + cap(b.p.outbox.kept) + 1)
		if s.Dropped != s.Requests-kept {
			t.Errorf("dropped %d of %d with room for %d", s.Dropped, s.Requests, kept)
		}
		b.run(30 * time.Second)
		fresh := 0
		for _, g := range b.got {
			if g.at > stuck {
				fresh++
			}
		}
		if fresh < 58 {
			t.Errorf("%d batches in 30 s after the pause", fresh)
		}
		b.wantLogs("dropping the oldest", 1)
		b.wantLogs("in time again", 1)
	})
}

// A receiver that missed that a device is offline hears it again.
func TestPollerTellsOfflineAgainWhenItWasDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		b := newBench(t, line, testDevice("a", time.Second, "x"), testDevice("c", time.Second, "x"))
		b.run(5 * time.Second)
		line.set(func() { line.dead["a"] = true })
		time.Sleep(2 * time.Minute)
		b.reset()
		b.run(3 * time.Minute)
		gs := b.of("a")
		if len(gs) == 0 || gs[len(gs)-1].state != Offline || len(gs) > 12 {
			t.Errorf("of the silent device came %+v", gs)
		}
		b.reset()
		b.run(10 * time.Minute)
		if n := len(b.of("a")); n != 0 {
			t.Errorf("%d more batches of it", n)
		}
	})
}

func TestNewPollerReportsAllPointsThatCannotBeRead(t *testing.T) {
	a, c := testDevice("a", time.Second, "x", "y"), testDevice("c", 0, "z")
	a.Points[1].Source = testSource("unreadable")
	_, err := NewPoller(PollerConfig{Bus: "rs485", Line: newFakeLine(), Devices: []*Device{a, c}})
	for _, want := range []string{"device a: point y: cannot be read", "device c: point z: has no interval"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
	if _, err := NewPoller(PollerConfig{Bus: "rs485"}); err == nil {
		t.Error("a poller with neither line nor listener")
	}
}

func TestBusStatsEncodeAsJSON(t *testing.T) {
	p, err := NewPoller(PollerConfig{Bus: "rs485", Line: newFakeLine(), Devices: []*Device{testDevice("a", time.Second, "x")}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(p.Stats())
	if err != nil || !strings.Contains(string(text), `"device":"a","state":"unknown"`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestLoadShare(t *testing.T) {
	l := load{start: 100 * second}
	l.add(100*second, 100*second+second/2)
	if got := l.share(101 * second); got != 0.5 {
		t.Errorf("half of the first second: %v", got)
	}
	for n := Stamp(101); n < 300; n++ {
		l.add(n*second+second*9/10, n*second+second*11/10) // over the edge of a second
	}
	if got := l.share(300*second + second/5); got < 0.19 || got > 0.21 {
		t.Errorf("a fifth of each second: %v", got)
	}
	if got := l.share(400 * second); got != 0 {
		t.Errorf("after a quiet minute: %v", got)
	}
	l.add(0, 1000*second)
	if got := l.share(1000 * second); got < 0.98 || got > 1 {
		t.Errorf("always busy: %v", got)
	}
}

// Aligned cycles begin at multiples of their interval of wall time, those of all
// devices one after the other; when the clock is set they follow.
func TestPollerAlignsCycles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wall := 1_790_000_000*time.Second + 400*ms // ahead of the bubble's time
		var mu sync.Mutex
		offset := func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return wall
		}
		line := newFakeLine()
		b := startBench(t, PollerConfig{Line: line, Aligned: offset,
			Devices: []*Device{testDevice("a", 5*time.Second, "x"), testDevice("c", 7*time.Second, "x"), testDevice("d", 5*time.Second, "x")}}, line)
		check := func(from Stamp) {
			t.Helper()
			n := 0
			for _, g := range b.got {
				every := map[string]Stamp{"a": 5 * second, "c": 7 * second, "d": 5 * second}[g.dev]
				if off := (g.at + Stamp(offset())) % every; g.at >= from && off > 3*Stamp(line.cost) {
					t.Errorf("%s was read %v after its slot", g.dev, time.Duration(off))
				} else if g.at >= from {
					n++
				}
			}
			if n < 25 {
				t.Errorf("%d batches", n)
			}
		}
		b.run(time.Second)
		if len(b.got) != 3 {
			t.Errorf("%d of 3 devices were read at once", len(b.got))
		}
		begin := testNow()
		b.run(time.Minute)
		check(begin)
		mu.Lock()
		wall += 1234 * time.Hour / 1000
		mu.Unlock()
		b.run(15 * time.Second)
		b.reset()
		begin = testNow()
		b.run(time.Minute)
		check(begin)
	})
}

// With several lanes queries run at once, and asked ones have the bus alone.
func TestPollerRunsQueriesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := &wideLine{newFakeLine()}
		line.width, line.cost = 4, 100*ms
		d := testDevice("a", 100*ms, "p", "q", "r", "s", "t", "u", "v", "w")
		out := make(chan *Batch, 4)
		b := &bench{t: t, line: line.fakeLine, out: out}
		p, err := NewPoller(PollerConfig{Bus: "x", Line: line, Devices: []*Device{d, testDevice("dead", time.Second, "x", "y", "z", "q")}, Out: out, Now: testNow, Log: slog.New(slog.NewTextHandler(&b.logs, nil))})
		if err != nil {
			t.Fatal(err)
		}
		b.p = p
		line.dead["dead"] = true
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { p.Run(ctx) })
		running.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(777 * ms)
				q := soloQuery{&fakeQuery{line.fakeLine, d, d.Points[:1]}}
				if err := p.Do(ctx, q, NewBatch(d)); err != nil && ctx.Err() == nil && !errors.Is(err, ErrPort) {
					t.Error(err)
				}
			}
		})
		b.run(time.Minute)
		good := 0
		for _, g := range b.of("a") {
			good += g.good
			if len(g.bad) > 0 {
				t.Fatalf("%+v", g)
			}
		}
		// four at once of 100 ms each, less the time of those alone and of the dead
		if good < 1700 {
			t.Errorf("%d readings in a minute", good)
		}
		b.wantState("dead", Offline)
		if s, _ := p.Status("dead"); s.Requests > 4+20 {
			t.Errorf("the dead device was asked %d times", s.Requests)
		}
		if s := p.Stats(); s.Busy > 1 || s.Busy < 0.95 || s.Pipeline != 4 {
			t.Errorf("%+v", s)
		}
		line.set(func() { line.noPort = ErrPort })
		b.reset()
		b.run(time.Minute)
		b.wantState("a", Offline)
		if n := len(line.asked); n > 4+10+80 { // those of Do are not held off
			t.Errorf("a missing port was tried %d times in a minute", n)
		}
		line.set(func() { line.noPort = nil })
		b.reset()
		b.run(30 * time.Second)
		b.wantState("a", Online)
		b.wantLogs("port unavailable; retrying", 1)
		b.wantLogs("port is back", 1)
	})
}

type wideLine struct{ *fakeLine }

func (l *wideLine) Pipeline() (int, string) { return l.width, "" }

// A soloQuery bears no other beside it.
type soloQuery struct{ *fakeQuery }

func (q soloQuery) Do(ctx context.Context, b *Batch) error {
	q.line.set(func() {
		if q.line.active > 0 {
			panic("a query of Do beside others")
		}
	})
	return q.fakeQuery.Do(ctx, b)
}
