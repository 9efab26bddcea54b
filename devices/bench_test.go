package devices

import (
	"bytes"
	"cmp"
	"context"
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
	cost    time.Duration // of a query
	each    time.Duration // and of each point in it
	timeout time.Duration
	width   int // queries that may be under way at once

	mu      sync.Mutex // guards what follows; tests change it while the poller runs
	per     int        // points in one query
	dead    map[string]bool
	excepts map[string]bool // answer, but with an exception for each point
	noPort  error
	silent  func(q *fakeQuery) bool // more that get no answer
	apart   bool                    // points of different intervals cannot be planned together
	judge   func(q *fakeQuery)      // called when a query is answered
	carried map[string]bool         // names of points that come along with any query
	asked   []string
	active  int
	closed  bool
	lent    int // how often it was told so
}

func newFakeLine() *fakeLine {
	return &fakeLine{per: 1, width: 1, cost: 10 * ms, timeout: 200 * ms, dead: map[string]bool{}, excepts: map[string]bool{}}
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
	per := 0
	l.set(func() { per = l.per })
	if l.apart && slices.ContainsFunc(points, func(p *Point) bool { return p.Every != points[0].Every }) {
		return nil, errors.New("apart")
	}
	points = slices.SortedFunc(slices.Values(points), func(a, b *Point) int {
		return cmp.Compare(slices.Index(dev.Points, a), slices.Index(dev.Points, b))
	})
	for len(points) > 0 {
		n := min(per, len(points))
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

func (l *fakeLine) Lent() { l.set(func() { l.lent++ }) }

type fakeQuery struct {
	line   *fakeLine
	dev    *Device
	points []*Point
}

func (q *fakeQuery) Points() []*Point { return q.points }
func (q *fakeQuery) String() string   { return q.dev.ID + "." + q.points[0].Name }

func (q *fakeQuery) Cost() time.Duration {
	return q.line.cost + time.Duration(len(q.points))*q.line.each
}

func (q *fakeQuery) Carry(points []*Point) (taken []*Point) {
	for _, p := range points {
		if q.line.carried[p.Name] {
			taken = append(taken, p)
		}
	}
	q.points = slices.Concat(q.points, taken)
	return taken
}

var errException = errors.New("illegal data address")

func (q *fakeQuery) Do(ctx context.Context, b *Batch) error {
	l := q.line
	var cost time.Duration
	var err, fault error
	l.set(func() {
		l.active++
		if l.active > l.width {
			panic(fmt.Sprintf("%d queries at once on one bus", l.active))
		}
		l.asked = append(l.asked, q.String())
		cost = q.Cost()
		switch {
		case l.noPort != nil:
			err, cost = l.noPort, 0
		case l.dead[q.dev.ID] || l.dead[q.String()] || l.silent != nil && l.silent(q):
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
	if l.judge != nil && err == nil {
		l.judge(q)
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

var quiet = slog.New(slog.DiscardHandler)

// runFor runs p for d of the bubble's time and throws away what it reads.
func runFor(t *testing.T, p *Poller, out <-chan *Batch, d time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	for ctx.Err() == nil {
		select {
		case b := <-out:
			b.Release()
		case <-ctx.Done():
		}
	}
	running.Wait()
}
