package devices

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// turns reports whether the poller comes round within d.
func turns(t *testing.T, p *Poller, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return p.Turn(ctx)
}

// A poller comes round when it has much to do, nothing to do, and nothing that
// it may do; but not when a query hangs.
func TestPollerComesRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line, dev := newFakeLine(), testDevice("a", 100*ms, "x", "y", "z")
		line.cost = 50 * ms // more than there is time for
		var hang atomic.Bool
		goOn := make(chan struct{})
		line.judge = func(*fakeQuery) {
			if hang.Load() {
				<-goOn
			}
		}
		b := newBench(t, line, dev)
		for range 100 {
			if !turns(t, b.p, time.Second) {
				t.Fatal("does not come round while the bus is busy")
			}
		}
		ctx, giveBack := context.WithCancel(t.Context())
		if err := b.p.Lend(ctx, "a scan"); err != nil {
			t.Fatal(err)
		}
		if !turns(t, b.p, time.Second) {
			t.Error("does not come round while the bus is lent")
		}
		giveBack()
		b.run(time.Second)
		hang.Store(true)
		b.run(time.Second)
		if turns(t, b.p, time.Hour) {
			t.Error("comes round while a query hangs")
		}
		hang.Store(false)
		close(goOn)
		if !turns(t, b.p, time.Second) {
			t.Error("does not come round after it")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFakeLine(), testDevice("a", time.Hour, "x"))
		b.run(time.Minute)
		if !turns(t, b.p, time.Second) {
			t.Error("does not come round while there is nothing to do")
		}
	})
}
