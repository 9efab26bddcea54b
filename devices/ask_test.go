package devices

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

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
