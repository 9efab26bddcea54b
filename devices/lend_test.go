package devices

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A bus that is lent is left alone, its devices say so, and after it all goes on
// as if nothing had been: nothing is late, skipped or stale for it.
func TestPollerLendsItsBus(t *testing.T) {
	for _, width := range []int{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			line, all := newFakeLine(), testDevice("all", time.Second, "x")
			all.Points[0].Every, line.width = Never, width
			a, c := testDevice("a", time.Second, "x", "y"), testDevice("c", time.Second, "x")
			line.dead["c"] = true
			var b *bench
			if width > 1 {
				b = startBench(t, PollerConfig{Line: &wideLine{line}, Devices: []*Device{a, c, all}}, line)
			} else {
				b = newBench(t, line, a, c, all)
			}
			b.run(time.Minute)
			b.wantState("c", Offline)
			b.reset()
			before := b.p.Stats()
			ctx, giveBack := context.WithCancelCause(t.Context())
			if err := b.p.Lend(ctx, "a scan"); err != nil {
				t.Fatal(err)
			}
			asked := 0
			line.set(func() { asked = len(line.asked) })
			if !line.closed || line.active != 0 {
				t.Errorf("closed %v with %d queries under way when the bus was lent", line.closed, line.active)
			}
			b.run(10 * time.Minute)
			if len(line.asked) != asked {
				t.Errorf("%d queries on a bus that is lent", len(line.asked)-asked)
			}
			for _, dev := range []*Device{a, c, all} {
				gs := b.of(dev.ID)
				last := gs[len(gs)-1]
				want := len(dev.Points)
				if dev == all {
					want = 0
				}
				if last.state != Maintenance || last.good != 0 || len(last.bad) != want || want > 0 && !errors.Is(last.bad[0], ErrLent) {
					t.Errorf("%s while the bus is lent: %+v", dev.ID, gs)
				}
				b.wantState(dev.ID, Maintenance)
			}
			if s := b.p.Stats(); s.Lent != "a scan" || s.Overruns != before.Overruns || s.PortDown {
				t.Errorf("stats %+v", s)
			}
			b.reset()
			giveBack(errors.New("enough"))
			b.run(20 * time.Second)
			gs := b.of("a")
			if len(gs) < 19 || gs[0].state != Online || gs[0].good != 2 {
				t.Errorf("after the loan: %+v", gs)
			}
			b.wantState("a", Online)
			b.wantState("c", Offline)
			b.wantState("all", Online)
			line.set(func() {
				if line.lent != 1 {
					t.Errorf("the line was told %d times that it was lent", line.lent)
				}
			})
			if s := b.p.Stats(); s.Lent != "" || s.Overruns != before.Overruns {
				t.Errorf("after the loan: %d overruns, before it %d; lent %q", s.Overruns, before.Overruns, s.Lent)
			}
			b.wantLogs("bus lent", 1)
			b.wantLogs("reason=enough", 1)
			b.wantLogs("stale", 0)
			b.wantLogs("answers again", 0)
		})
	}
}

// Who wants something of a bus that is lent is told so at once, be it reading
// or having the bus; and who waited already.
func TestLentBusAnswersWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.cost = 100 * ms
		dev := testDevice("a", time.Second, "x")
		b := newBench(t, line, dev)
		time.Sleep(50 * ms) // a query is under way
		ctx, giveBack := context.WithCancel(t.Context())
		lent, waited := make(chan error, 1), make(chan error, 20)
		for range 10 {
			go func() {
				batch := NewBatch(dev)
				defer batch.Release()
				waited <- b.p.Do(t.Context(), &fakeQuery{line, dev, dev.Points}, batch)
			}()
		}
		go func() { lent <- b.p.Lend(ctx, "mbpoll of uid 7") }()
		b.run(5 * time.Second)
		if err := <-lent; err != nil {
			t.Fatal(err)
		}
		ran := 0
		for range 10 {
			if err := <-waited; err == nil {
				ran++
			} else if !errors.Is(err, ErrLent) {
				t.Error(err)
			}
		}
		if ran == 10 {
			t.Error("all that waited ran: nobody was there to be told")
		}
		batch := NewBatch(dev)
		defer batch.Release()
		start := time.Now()
		err := b.p.Do(t.Context(), &fakeQuery{line, dev, dev.Points}, batch)
		if want := "a.x: not run: bus lent for maintenance: bus rs485 is lent to mbpoll of uid 7"; fmt.Sprint(err) != want || len(batch.Readings) > 0 || Cause(err) != "bus lent for maintenance" {
			t.Errorf("got %v with %d readings, want %s", err, len(batch.Readings), want)
		}
		if err := b.p.Lend(t.Context(), "another"); !errors.Is(err, ErrLent) {
			t.Errorf("lent twice: %v", err)
		}
		if time.Since(start) > 0 {
			t.Errorf("it took %v to refuse", time.Since(start))
		}
		giveBack()
		b.run(time.Second)
		if err := b.p.Do(t.Context(), &fakeQuery{line, dev, dev.Points}, batch); err != nil {
			t.Errorf("after the loan: %v", err)
		}
	})
}

// A port that was missing before a loan is missing anew after it, and a poller
// that stops ends a loan.
func TestLendingABusWithoutPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.noPort = fmt.Errorf("open /dev/ttyUSB0: %w", ErrPort)
		b := newBench(t, line, testDevice("a", time.Second, "x"))
		b.run(time.Minute)
		b.wantState("a", Offline)
		ctx, giveBack := context.WithCancel(t.Context())
		if err := b.p.Lend(ctx, "somebody"); err != nil {
			t.Fatal(err)
		}
		b.run(time.Minute)
		b.wantState("a", Maintenance)
		giveBack()
		b.run(time.Minute)
		b.wantState("a", Offline)
		b.wantLogs("port unavailable; retrying", 2)
		if s := b.p.Stats(); !s.PortDown || s.PortError == "" {
			t.Errorf("stats %+v", s)
		}
		line.set(func() { line.noPort = nil })
		b.run(time.Minute)
		b.wantState("a", Online)

		if err := b.p.Lend(t.Context(), "somebody"); err != nil {
			t.Fatal(err)
		}
		b.stop()
		if err := b.p.Lend(t.Context(), "another"); !errors.Is(err, ErrStopped) {
			t.Errorf("after the end: %v", err)
		}
	})
}
