package bridge

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A bridge comes round while it sends, waits for messages and for its far
// broker; but not while it hangs.
func TestBridgeComesRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		turns := func(d time.Duration) bool {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return r.Turn(ctx)
		}
		goOn, hangs := make(chan struct{}), make(chan struct{}, 100)
		r.random = func() float64 { hangs <- struct{}{}; <-goOn; return 1 }
		r.tele.fill(0, 1000)
		r.start()
		for range 10 {
			if !turns(time.Second) {
				t.Fatal("does not come round while it sends")
			}
		}
		pass(time.Minute)
		if !turns(time.Second) {
			t.Error("does not come round while there is nothing to send")
		}
		r.up.mu.Lock()
		for _, c := range r.up.conns {
			c.Close()
		}
		r.up.mu.Unlock()
		<-hangs
		if turns(time.Hour) {
			t.Error("comes round while it hangs")
		}
		close(goOn)
		if !turns(time.Second) {
			t.Error("does not come round while it waits to connect again")
		}
		r.end()
	})
}
