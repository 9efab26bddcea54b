package spool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	. "edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

// The committer comes round while there is nothing to do and after a commit, but
// not while what it called hangs.
func TestCommitterComesRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, config(t, spooltest.NewDisk("run"), Always))
		defer l.Close()
		turns := func(d time.Duration) bool {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return l.Turn(ctx)
		}
		c := mustConsumer(t, l, "x")
		if !turns(time.Second) {
			t.Error("does not come round while there is nothing to do")
		}
		put(t, l, c, 0, 100)
		if !turns(time.Second) {
			t.Error("does not come round after a commit")
		}
		goOn := make(chan struct{})
		rec := Record{Stamp: 1, Targets: []Target{{Consumer: c.ID(), QoS: 1}}, Data: []byte("x")}
		if _, err := l.Append(rec, func(error) { <-goOn }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if turns(time.Hour) {
			t.Error("comes round while it hangs")
		}
		close(goOn)
		if !turns(time.Second) {
			t.Error("does not come round after it")
		}
	})
}
