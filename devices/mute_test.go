package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A muter says who is muted, and why.
type muter struct {
	*bench
	why   map[string]string
	began Stamp
}

func (m *muter) muted(device string) error {
	if m.why[device] == "" {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMuted, m.why[device])
}

func (m *muter) mute(device, why string) {
	synctest.Wait()
	m.line.set(func() { m.why[device] = why })
	m.p.Review()
}

func newMuter(t *testing.T, line *fakeLine, muted string, devs ...*Device) *muter {
	m := &muter{why: map[string]string{muted: "at the start"}}
	cfg := PollerConfig{Line: line, Devices: devs}
	if line.width > 1 {
		cfg.Line = &wideLine{line}
	}
	cfg.Muted = func(device string) (err error) {
		line.set(func() { err = m.muted(device) })
		return err
	}
	m.bench = startBench(t, cfg, line)
	return m
}

func (b *bench) askedFor(dev string) (n int) {
	b.line.set(func() {
		for _, q := range b.line.asked {
			if strings.HasPrefix(q, dev+".") {
				n++
			}
		}
	})
	return n
}

// A device that is muted is left alone, its bus and the others on it go on as if
// it were not there, and after it all of it is read at once.
func TestPollerLeavesMutedDevicesAlone(t *testing.T) {
	for _, width := range []int{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			line, all := newFakeLine(), testDevice("all", time.Second, "x")
			all.Points[0].Every, line.width = Never, width
			a, c, d := testDevice("a", time.Second, "x", "y"), testDevice("c", time.Second, "x"), testDevice("d", time.Second, "x")
			a.Points[1].Every = time.Hour
			line.dead["c"], line.dead["d"] = true, true
			m := newMuter(t, line, "d", a, c, d, all)
			m.run(time.Minute)
			m.wantState("c", Offline)
			m.wantState("d", Maintenance)
			if n := m.askedFor("d"); n > 0 || m.of("d")[0].state != Maintenance {
				t.Errorf("muted from the start, asked %d times, told %+v", n, m.of("d"))
			}
			for _, dev := range []string{"a", "c", "all"} {
				m.mute(dev, "root until noon")
			}
			m.run(time.Second)
			m.reset()
			before := m.p.Stats()
			m.run(10 * time.Minute)
			if n := len(line.asked); n > 0 {
				t.Errorf("%d queries to devices that are muted", n)
			}
			if len(m.got) > 0 {
				t.Errorf("told of devices that are muted: %+v", m.got)
			}
			m.mute("a", "root until one")
			m.run(time.Second)
			if gs := m.of("a"); len(gs) != 1 || gs[0].state != Maintenance || gs[0].good+len(gs[0].bad) > 0 {
				t.Errorf("for another reason: %+v", gs)
			}
			m.reset()
			m.began = testNow()
			for _, dev := range []string{"a", "c", "d", "all"} {
				m.mute(dev, "")
			}
			m.run(20 * time.Second)
			if gs := m.of("a"); len(gs) < 20 || gs[0].state != Online || gs[0].at.Sub(m.began) > 500*ms {
				t.Errorf("after it: %+v", gs)
			}
			if m.askedFor("a") < 21 || !slices.Contains(m.line.asked[:6], "a.y") {
				t.Errorf("not all was read at once: %v", m.line.asked)
			}
			m.wantState("a", Online)
			m.wantState("c", Offline)
			m.wantState("d", Offline)
			m.wantState("all", Online)
			if s := m.p.Stats(); s.Overruns != before.Overruns {
				t.Errorf("%d overruns for devices that are muted", s.Overruns-before.Overruns)
			}
			m.wantLogs("device muted", 4)
			m.wantLogs("it is asked again", 4)
			m.wantLogs("stale", 0)
			m.wantLogs("answers again", 0)
			m.wantLogs("level=WARN", 3) // c twice, d once: silent
		})
	}
}

// While a device is muted the others have the time that was for it.
func TestMutedDeviceCostsItsBusNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.cost, line.dead["b"] = 40*ms, true
		a, c := testDevice("a", 100*ms, "x"), testDevice("b", 100*ms, "x", "y")
		m := newMuter(t, line, "", a, c)
		m.run(10 * time.Second)
		m.mute("b", "root")
		m.run(time.Second)
		before := m.p.Stats()
		m.reset()
		m.run(time.Minute)
		after := m.p.Stats()
		if n := len(m.of("a")); n < 599 || after.Timeouts != before.Timeouts || after.Overruns != before.Overruns {
			t.Errorf("%d cycles of a in a minute, %d timeouts, %d overruns", n, after.Timeouts-before.Timeouts, after.Overruns-before.Overruns)
		}
		if m.p.Stats().Devices[0].State != Online {
			t.Error("a is not online")
		}
	})
}

// A query that is under way when its device is muted says nothing any more, and
// what a person reads meanwhile neither.
func TestMutedDeviceIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.cost, line.width = 500*ms, 4
		a := testDevice("a", time.Second, "x")
		m := newMuter(t, line, "", a)
		time.Sleep(100 * ms) // a query is under way
		m.mute("a", "root")
		m.run(5 * time.Second)
		m.wantState("a", Maintenance)
		if n := m.askedFor("a"); n != 1 {
			t.Errorf("asked %d times", n)
		}
		batch := NewBatch(a)
		defer batch.Release()
		if err := m.p.Do(t.Context(), &fakeQuery{line, a, a.Points}, batch); err != nil || !anyGood(batch.Readings) {
			t.Errorf("a person reads it: %v, %+v", err, batch.Readings)
		}
		m.run(5 * time.Second)
		m.wantState("a", Maintenance)
		for _, g := range m.of("a") {
			if g.state != Maintenance || g.good > 0 {
				t.Errorf("told %+v", g)
			}
		}
	})
}

// The port goes and comes back while a device is muted; it is not the one by
// which that is found out. A loan does not end its being muted.
func TestMutedDeviceWithoutPortAndLent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		a, c, all := testDevice("a", time.Second, "x"), testDevice("c", time.Second, "x"), testDevice("all", time.Second, "x")
		all.Points[0].Every = Never
		m := newMuter(t, line, "a", a, c, all)
		m.run(10 * time.Second)
		line.set(func() { line.noPort = fmt.Errorf("open /dev/ttyUSB0: %w", ErrPort) })
		m.run(time.Minute)
		m.wantState("a", Maintenance)
		m.wantState("c", Offline)
		m.mute("a", "")
		m.run(time.Second)
		m.wantState("a", Offline)
		m.mute("a", "again")
		m.run(time.Second)
		line.set(func() { line.noPort = nil })
		m.run(20 * time.Second)
		m.wantState("a", Maintenance)
		m.wantState("c", Online)
		ctx, giveBack := context.WithCancel(t.Context())
		if err := m.p.Lend(ctx, "somebody"); err != nil {
			t.Fatal(err)
		}
		m.run(time.Minute)
		if err := m.p.Lend(ctx, "somebody for longer"); err != nil {
			t.Errorf("the same loan: %v", err)
		}
		m.run(time.Second)
		batch := NewBatch(c)
		defer batch.Release()
		if err := m.p.Do(t.Context(), &fakeQuery{line, c, c.Points}, batch); err == nil || !strings.HasSuffix(err.Error(), "bus rs485 is lent to somebody for longer") || m.p.Stats().Lent != "somebody for longer" {
			t.Errorf("told %v", err)
		}
		m.mute("c", "meanwhile")
		m.mute("all", "meanwhile")
		giveBack()
		m.run(20 * time.Second)
		m.wantState("a", Maintenance)
		m.wantState("c", Maintenance)
		if n := m.askedFor("a"); n > 0 {
			t.Errorf("asked %d times", n)
		}
		for _, g := range m.of("a") {
			if len(g.bad) > 0 && errors.Is(g.bad[0], ErrLent) {
				t.Errorf("a is told to be lent while it is muted: %+v", g)
			}
		}
		if gs := m.of("all"); len(gs) < 2 || gs[0].state != Online || gs[len(gs)-1].state != Maintenance || slices.ContainsFunc(gs[1:], func(g got) bool { return g.state == Online }) {
			t.Errorf("all is told %+v", gs)
		}
		gs := m.of("c")
		if last := gs[len(gs)-1]; len(last.bad) != 1 || !errors.Is(last.bad[0], ErrMuted) || Cause(last.bad[0]) != "muted for maintenance" {
			t.Errorf("c is told %+v", last)
		}
	})
}

// A bus can be lent before it asks anybody.
func TestLendFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		ctx, giveBack := context.WithCancel(t.Context())
		p, err := NewPoller(PollerConfig{Bus: "rs485", Line: line, Devices: []*Device{testDevice("a", time.Second, "x")}, Out: make(chan *Batch, 100), Now: testNow, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		p.LendFirst(ctx, "root")
		running, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { p.Run(running); close(ended) }()
		time.Sleep(time.Minute)
		if len(line.asked) > 0 || p.Stats().Lent != "root" {
			t.Errorf("asked %v, lent to %q", line.asked, p.Stats().Lent)
		}
		giveBack()
		time.Sleep(time.Minute)
		if s := p.Stats(); s.OK < 59 || s.Lent != "" {
			t.Errorf("after it: %+v", s)
		}
		stop()
		<-ended
	})
}

// A device that is only written is not told to be there while it is muted, and one
// whose query rested is asked for all once it is not muted any more.
func TestMutedFromTheStartAndAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		all, a := testDevice("all", time.Second, "x"), testDevice("a", time.Second, "x", "y")
		all.Points[0].Every = Never
		line.silent = func(q *fakeQuery) bool { return q.String() == "a.y" }
		m := newMuter(t, line, "all", all, a)
		m.run(5 * time.Minute)
		if gs := m.of("all"); len(gs) != 1 || gs[0].state != Maintenance {
			t.Errorf("muted from the start: %+v", gs)
		}
		m.mute("a", "root")
		m.run(time.Second)
		m.reset()
		m.mute("a", "")
		m.run(2 * time.Second)
		if !slices.Contains(line.asked, "a.y") {
			t.Errorf("asked for %v: what rested before is not asked for", line.asked)
		}
	})
}
