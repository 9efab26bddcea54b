package spool_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	. "edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

// scan reads what c is owed after one number up to another, without a trace.
func scan(t testing.TB, c *Consumer, after, until Seq) (got []string) {
	t.Helper()
	r := c.Scan(after, until)
	defer r.Close()
	for {
		rec, err := r.Next(t.Context(), nil)
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(rec.Data))
	}
}

func TestScanLeavesNoTraceAndAckToEndsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := spooltest.NewDisk("run")
		l := mustOpen(t, config(t, d, Interval))
		c := mustConsumer(t, l, "sessions")
		put(t, l, c, 0, 50)
		if err := l.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		put(t, l, c, 50, 50) // these are in memory only
		last := l.Last()
		equal(t, scan(t, c, 0, last), numbers(0, 100))
		equal(t, scan(t, c, last-10, last), numbers(90, 10))
		if b := c.Backlog(); b.Records != 100 {
			t.Errorf("scanning left %d records", b.Records)
		}
		c.AckTo(last - 30)
		equal(t, scan(t, c, 0, last), numbers(70, 30))
		c.AckTo(last)
		if b := c.Backlog(); b.Records != 0 {
			t.Errorf("%d records are left", b.Records)
		}
		synctest.Wait()
		if n := l.Stats().Queued; n != 0 {
			t.Errorf("%d records stay in memory", n)
		}
		l.Close()
		l = mustOpen(t, config(t, d, Interval))
		defer l.Close()
		equal(t, take(t, l, mustConsumer(t, l, "sessions"), true), nil)
	})
}

func TestUrgentRecordIsOnTheMedium(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := spooltest.NewDisk("run")
		cfg := config(t, d, Interval)
		cfg.Sync.Every = time.Hour
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "sessions")
		put(t, l, c, 0, 3)
		done := make(chan error, 1)
		rec := Record{Targets: []Target{{Consumer: c.ID()}}, Data: []byte("3"), Urgent: true}
		if _, err := l.Append(rec, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := <-done; err != nil || time.Since(start) > time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		d.PowerCut(rand.New(rand.NewPCG(1, 2)))
		l.Close()
		d.Start()
		l = mustOpen(t, cfg)
		defer l.Close()
		equal(t, take(t, l, mustConsumer(t, l, "sessions"), false), numbers(0, 4))
	})
}

func TestSilentConsumerHearsOfNoGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := spooltest.NewDisk("run")
		l := mustOpen(t, config(t, d, Interval))
		defer l.Close()
		c := mustConsumer(t, l, "sessions")
		c.Silence()
		l.Drop(Record{Targets: []Target{{Consumer: c.ID()}}})
		put(t, l, c, 0, 2)
		equal(t, take(t, l, c, true), numbers(0, 2))
		if n := l.Stats().Dropped[ReasonQueueFull]; n != 1 {
			t.Errorf("%d counted", n)
		}
	})
}
