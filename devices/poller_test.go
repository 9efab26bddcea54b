package devices

import (
	"bytes"
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

// A fakeLine is a bus of devices that answer after some time, or do not. Its
// readings say which query they are of.
type fakeLine struct {
	per     int // points in one query
	cost    time.Duration
	timeout time.Duration

	mu      sync.Mutex // guards what follows; tests change it while the poller runs
	dead    map[string]bool
	excepts map[string]bool // answer, but with an exception for each point
	noPort  error
	asked   []string
	active  int
	closed  bool
}

func newFakeLine() *fakeLine {
	return &fakeLine{per: 1, cost: 10 * ms, timeout: 200 * ms, dead: map[string]bool{}, excepts: map[string]bool{}}
}

func (l *fakeLine) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

type testSource string

func (s testSource) String() string { return string(s) }

func (l *fakeLine) Plan(dev *Device, points []*Point) ([]Query, error) {
	var queries []Query
	for len(points) > 0 {
		n := min(l.per, len(points))
		for _, p := range points[:n] {
			if p.Source == testSource("unreadable") {
				return nil, fmt.Errorf("point %s: cannot be read", p.Name)
			}
		}
		queries = append(queries, &fakeQuery{l, dev, points[:n]})
		points = points[n:]
	}
	return queries, nil
}

func (l *fakeLine) Write(*Device, *Point, []byte, bool) (Query, error) { return nil, errors.New("no") }

func (l *fakeLine) Close() error {
	l.set(func() { l.closed = true })
	return nil
}

type fakeQuery struct {
	line   *fakeLine
	dev    *Device
	points []*Point
}

func (q *fakeQuery) Points() []*Point { return q.points }
func (q *fakeQuery) String() string   { return q.dev.ID + "." + q.points[0].Name }

var errException = errors.New("illegal data address")

func (q *fakeQuery) Do(ctx context.Context, b *Batch) error {
	l := q.line
	var cost time.Duration
	var err, fault error
	l.set(func() {
		l.active++
		if l.active > 1 {
			panic("two queries at once on one bus")
		}
		l.asked = append(l.asked, q.String())
		cost = l.cost
		switch {
		case l.noPort != nil:
			err, cost = l.noPort, 0
		case l.dead[q.dev.ID] || l.dead[q.String()]:
			err, cost = fmt.Errorf("%s: %w", q, ErrTimeout), l.timeout
		case l.excepts[q.dev.ID]:
			fault = errException
		}
	})
	defer l.set(func() { l.active-- })
	select {
	case <-time.After(cost):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, p := range q.points {
		if e := errors.Join(err, fault); e != nil {
			b.Fail(p, e, testNow())
		} else {
			b.Add(p, []byte(q.dev.ID+"."+p.Name), testNow())
		}
	}
	return err
}

func testNow() Stamp { return Stamp(time.Now().UnixNano()) }

func testDevice(id string, every time.Duration, points ...string) *Device {
	d := &Device{ID: id, Name: id, Bus: "rs485", Unit: testSource("unit " + id)}
	for _, name := range points {
		d.Points = append(d.Points, &Point{Name: name, Source: testSource(name), Every: every})
	}
	return d
}

// A got is a batch as a test remembers it.
type got struct {
	dev   string
	state State
	good  int
	bad   []error
	at    Stamp
}

// A bench runs a poller in a synctest bubble and collects its batches.
type bench struct {
	t    *testing.T
	p    *Poller
	line *fakeLine
	out  chan *Batch
	logs bytes.Buffer
	got  []got
	err  error
	stop func()
}

func newBench(t *testing.T, line *fakeLine, devs ...*Device) *bench {
	return startBench(t, PollerConfig{Line: line, Devices: devs}, line)
}

func startBench(t *testing.T, cfg PollerConfig, line *fakeLine) *bench {
	b := &bench{t: t, line: line, out: make(chan *Batch, 4)}
	cfg.Bus, cfg.Out, cfg.Now = "rs485", b.out, testNow
	cfg.Log = slog.New(slog.NewTextHandler(&b.logs, nil))
	p, err := NewPoller(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.p = p
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { b.err = p.Run(ctx) })
	b.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(b.stop)
	return b
}

// run takes batches for d.
func (b *bench) run(d time.Duration) {
	end := time.After(d)
	for {
		select {
		case batch := <-b.out:
			b.take(batch)
		case <-end:
			synctest.Wait()
			return
		}
	}
}

func (b *bench) take(batch *Batch) {
	g := got{dev: batch.Device.ID, state: batch.State, at: testNow()}
	for _, r := range batch.Readings {
		switch want := batch.Device.ID + "." + r.Point.Name; {
		case (r.Raw == nil) == (r.Err == nil):
			b.t.Errorf("%s: raw %q and error %v", want, r.Raw, r.Err)
		case r.Err != nil:
			g.bad = append(g.bad, r.Err)
		case string(r.Raw) != want:
			b.t.Errorf("%s holds %q", want, r.Raw)
		default:
			g.good++
		}
	}
	b.got = append(b.got, g)
	batch.Release()
}

func (b *bench) of(dev string) (gs []got) {
	for _, g := range b.got {
		if g.dev == dev {
			gs = append(gs, g)
		}
	}
	return gs
}

func (b *bench) reset() { b.got = nil; b.line.set(func() { b.line.asked = nil }) }

func (b *bench) wantState(dev string, want State) {
	b.t.Helper()
	if s, ok := b.p.Status(dev); !ok || s.State != want {
		b.t.Errorf("%s is %v, want %v", dev, s.State, want)
	}
}

func (b *bench) wantLogs(words string, n int) {
	b.t.Helper()
	if got := strings.Count(b.logs.String(), words); got != n {
		b.t.Errorf("%q was logged %d times, want %d:\n%s", words, got, n, b.logs.String())
	}
}

func TestPollerReadsCyclesIntoOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, c := testDevice("a", time.Second, "x", "y", "z"), testDevice("c", time.Second, "x")
		a.Points[2].Every = 10 * time.Second
		b := newBench(t, newFakeLine(), a, c)
		b.run(30 * time.Second)
		two, one := 0, 0
		for _, g := range b.of("a") {
			if g.state != Online || len(g.bad) > 0 {
				t.Fatalf("batch %+v", g)
			}
			if g.good == 2 {
				two++
			} else {
				one++
			}
		}
		if two < 29 || two > 31 || one < 3 || one > 4 || len(b.of("c")) < 29 {
			t.Errorf("%d batches at 1 s, %d at 10 s, %d of c", two, one, len(b.of("c")))
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

// Commands to a silent device fail but do not put its probes off.
func TestDoToASilentDeviceLeavesItsProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.dead["a"], line.dead["c"] = true, true
		a := testDevice("a", time.Second, "x")
		b := newBench(t, line, a, testDevice("c", time.Second, "x"))
		b.run(5 * time.Minute)
		b.reset()
		for range 120 {
			batch := NewBatch(a)
			if err := b.p.Do(t.Context(), &fakeQuery{line, a, []*Point{{Name: "W"}}}, batch); !errors.Is(err, ErrTimeout) {
				t.Error(err)
			}
			batch.Release()
			time.Sleep(time.Second)
		}
		if n := strings.Count(fmt.Sprint(line.asked), "c.x"); n < 2 {
			t.Errorf("the other silent device was probed %d times in 2 min", n)
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

func TestDoRunsBetweenScheduledQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.cost = 100 * ms
		dev := testDevice("a", time.Hour, "p", "q", "r", "s", "t")
		b := newBench(t, line, dev)
		time.Sleep(50 * ms) // the first of five queries is under way
		write := &fakeQuery{line, dev, []*Point{{Name: "W"}}}
		batch := NewBatch(dev)
		var order []string
		if err := b.p.Do(t.Context(), write, batch); err != nil {
			t.Fatal(err)
		}
		line.set(func() { order = append(order, line.asked...) })
		if want := "[a.p a.W]"; fmt.Sprint(order) != want && fmt.Sprint(order) != "[a.p a.W a.q]" {
			t.Errorf("asked %v, want %v", order, want)
		}
		if len(batch.Readings) != 1 || string(batch.Readings[0].Raw) != "a.W" {
			t.Errorf("got %+v", batch.Readings)
		}
		batch.Release()
		b.run(time.Second)
		if len(b.got) != 1 || b.got[0].good != 5 {
			t.Errorf("the cycle that Do interrupted: %+v", b.got)
		}
	})
}

func TestDoNeverStarvesTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		dev := testDevice("a", 20*ms, "x")
		b := newBench(t, line, dev)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 200 {
					batch := NewBatch(dev)
					if err := b.p.Do(t.Context(), &fakeQuery{line, dev, []*Point{{Name: "W"}}}, batch); err != nil {
						t.Error(err)
					}
					batch.Release()
				}
			})
		}
		go func() {
			for batch := range b.out {
				batch.Release()
			}
		}()
		wg.Wait()
		b.stop()
		close(b.out)
		n := 0
		for _, q := range line.asked {
			if q == "a.x" {
				n++
			}
		}
		if n < 590 {
			t.Errorf("%d scheduled queries between 600 others", n)
		}
	})
}

func TestDoWakesASilentDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.dead["a"] = true
		dev := testDevice("a", time.Second, "x")
		b := newBench(t, line, dev)
		b.run(5 * time.Minute)
		b.wantState("a", Offline)
		line.set(func() { line.dead["a"] = false })
		b.reset()
		batch := NewBatch(dev)
		if err := b.p.Do(t.Context(), &fakeQuery{line, dev, dev.Points}, batch); err != nil {
			t.Fatal(err)
		}
		batch.Release()
		b.run(50 * ms)
		if len(b.got) != 1 || b.got[0].good != 1 || b.got[0].state != Online {
			t.Errorf("right after the answer: %+v", b.got)
		}
	})
}

func TestDoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.cost = time.Second
		dev := testDevice("a", time.Hour, "x", "y")
		b := newBench(t, line, dev)
		time.Sleep(ms)
		write := &fakeQuery{line, dev, []*Point{{Name: "W"}}}
		ctx, cancel := context.WithTimeout(t.Context(), 100*ms)
		defer cancel()
		batch := NewBatch(dev)
		if err := b.p.Do(ctx, write, batch); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting: %v", err)
		}
		if len(batch.Readings) != 0 {
			t.Error("a query given up has run")
		}

		var wg sync.WaitGroup
		var busy, stopped int
		var mu sync.Mutex
		for range maxAsks + 8 {
			wg.Go(func() {
				batch := NewBatch(dev)
				defer batch.Release()
				err := b.p.Do(t.Context(), write, batch)
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, ErrBusy) {
					busy++
				} else if errors.Is(err, ErrStopped) || errors.Is(err, context.Canceled) {
					stopped++
				}
			})
		}
		synctest.Wait()
		if n := b.p.Stats().Waiting; n != maxAsks {
			t.Errorf("%d waiting", n)
		}
		b.stop()
		wg.Wait()
		if busy != 9 || stopped != maxAsks-1 { // the one given up still takes a place
			t.Errorf("%d refused, %d stopped", busy, stopped)
		}
		if err := b.p.Do(t.Context(), write, batch); !errors.Is(err, ErrBusy) && !errors.Is(err, ErrStopped) {
			t.Errorf("after Run: %v", err)
		}
	})
}

func TestDoCanAskWhoIsNotOnTheBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		b := newBench(t, line)
		for range 5 {
			dev := testDevice("scan", time.Second, "x")
			batch := NewBatch(dev)
			if err := b.p.Do(t.Context(), &fakeQuery{line, dev, dev.Points}, batch); err != nil || len(batch.Readings) != 1 {
				t.Errorf("%v, %d readings", err, len(batch.Readings))
			}
			batch.Release()
		}
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
