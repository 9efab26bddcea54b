package spool_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	. "edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

// config returns a small log on d: a folder "card" and a ring on "run".
func config(t testing.TB, d *spooltest.Disk, mode SyncMode) Config {
	return Config{
		Dir: "card", RingDir: "run", Name: "telemetry", FS: d,
		Size: 512 << 10, Segment: 64 << 10, Reserve: -1,
		Sync: Policy{Mode: mode}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		BootID: [16]byte{1},
	}
}

func mustOpen(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustConsumer(t testing.TB, l *Log, name string) *Consumer {
	t.Helper()
	c, err := l.Consumer(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// put appends "0" to "n-1" and waits until all are safe.
func put(t testing.TB, l *Log, c *Consumer, from, n int) {
	t.Helper()
	done := make(chan error, n)
	for i := range n {
		rec := Record{Stamp: int64(from + i), Targets: []Target{{Consumer: c.ID(), QoS: 1, SubIDs: []uint32{7}}}, Data: fmt.Append(nil, from+i)}
		if _, err := l.Append(rec, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// take reads all that is there and returns it.
func take(t testing.TB, l *Log, c *Consumer, ack bool) (got []string) {
	t.Helper()
	r := c.Reader(0, l.Last())
	defer r.Close()
	for {
		rec, err := r.Next(t.Context(), nil)
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Gap != nil {
			got = append(got, fmt.Sprintf("gap %d %s", rec.Gap.Count, rec.Gap.Reason))
		} else {
			got = append(got, string(rec.Data))
		}
		if ack {
			c.Ack(rec.Seq)
		}
	}
}

func numbers(from, n int) (s []string) {
	for i := range n {
		s = append(s, fmt.Sprint(from+i))
	}
	return s
}

func equal(t testing.TB, got, want []string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
}

func TestRecordsComeBackInOrder(t *testing.T) {
	for _, mode := range []SyncMode{Interval, Always, Off} {
		synctest.Test(t, func(t *testing.T) {
			d := spooltest.NewDisk("run")
			l := mustOpen(t, config(t, d, mode))
			c := mustConsumer(t, l, "aws")
			put(t, l, c, 0, 500)
			equal(t, take(t, l, c, false), numbers(0, 500))
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = mustOpen(t, config(t, d, mode))
			c = mustConsumer(t, l, "aws")
			if b := c.Backlog(); b.Records != 500 || b.OldestStamp != 0 || b.Bytes == 0 {
				t.Errorf("backlog %+v", b)
			}
			put(t, l, c, 500, 10)
			equal(t, take(t, l, c, true), numbers(0, 510))
			if b := c.Backlog(); b != (Backlog{}) {
				t.Errorf("backlog %+v", b)
			}
			l.Close()
			l = mustOpen(t, config(t, d, mode))
			c = mustConsumer(t, l, "aws")
			equal(t, take(t, l, c, true), nil)
			l.Close()
		})
	}
}

func TestKillLosesNothing(t *testing.T) {
	for _, mode := range []SyncMode{Interval, Always} {
		synctest.Test(t, func(t *testing.T) {
			d := spooltest.NewDisk("run")
			l := mustOpen(t, config(t, d, mode))
			c := mustConsumer(t, l, "aws")
			put(t, l, c, 0, 30)
			id, last := l.ID(), l.Last()
			d.Kill()
			l.Close()
			l = mustOpen(t, config(t, d, mode))
			c = mustConsumer(t, l, "aws")
			if l.ID() != id || l.Last() <= last {
				t.Errorf("log %s at %x after kill, was %s at %x", l.ID(), l.Last(), id, last)
			}
			equal(t, take(t, l, c, true), numbers(0, 30))
			l.Close()
		})
	}
}

func TestPowerCutUnderAlwaysLosesNothing(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			d := spooltest.NewDisk("run")
			l := mustOpen(t, config(t, d, Always))
			c := mustConsumer(t, l, "aws")
			for i := range 10 {
				put(t, l, c, i*3, 3)
			}
			d.PowerCut(rand.New(rand.NewPCG(seed, 0)))
			l.Close()
			l = mustOpen(t, config(t, d, Always))
			c = mustConsumer(t, l, "aws")
			equal(t, take(t, l, c, true), numbers(0, 30))
			l.Close()
		})
	}
}

func TestConnectedWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := spooltest.NewDisk("run")
		l := mustOpen(t, config(t, d, Interval))
		c := mustConsumer(t, l, "aws")
		r := c.Reader(l.Last(), 0)
		for i := range 5000 {
			put(t, l, c, i, 1)
			rec, err := r.Next(context.Background(), nil)
			if err != nil || string(rec.Data) != fmt.Sprint(i) {
				t.Fatal(string(rec.Data), err)
			}
			c.Ack(rec.Seq)
		}
		r.Close()
		if s := l.Stats(); s.BytesWritten != 0 || s.Elided != 5000 || s.Queued > 1 {
			t.Errorf("%+v", s)
		}
		l.Close()
		if s := l.Stats(); s.BytesWritten != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestQuotaDropsOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := spooltest.NewDisk("run")
		cfg := config(t, d, Interval)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		big := make([]byte, 1000)
		n := 0
		for range 200 {
			for range 10 {
				n++
				if _, err := l.Append(Record{Targets: []Target{{Consumer: c.ID()}}, Data: fmt.Appendf(nil, "%d %s", n, big)}, nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if d.Used() > cfg.Size+64<<10 {
			t.Errorf("%d bytes used of %d", d.Used(), cfg.Size)
		}
		for range 2 {
			b := c.Backlog()
			got := 0
			var lost uint64
			r := c.Reader(0, l.Last())
			for {
				rec, err := r.Next(t.Context(), nil)
				if err != nil {
					break
				}
				if rec.Gap != nil {
					lost += rec.Gap.Count
				} else {
					got++
				}
			}
			r.Close()
			if got+int(lost) != n || b.Records != uint64(got) {
				t.Fatalf("%d read, %d lost of %d, backlog %d", got, lost, n, b.Records)
			}
			l.Close()
			l = mustOpen(t, cfg)
			c = mustConsumer(t, l, "aws")
		}
		l.Close()
	})
}

func TestPositionsAreSavedWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := spooltest.NewDisk("run")
		l := mustOpen(t, config(t, d, Always))
		c := mustConsumer(t, l, "aws")
		put(t, l, c, 0, 100)
		time.Sleep(time.Minute)
		commits := l.Stats().Commits
		equal(t, take(t, l, c, true), numbers(0, 100))
		time.Sleep(6 * time.Second)
		if n := l.Stats().Commits - commits; n < 1 || n > 2 { // one may come in the middle
			t.Errorf("%d commits for the position", n)
		}
		d.PowerCut(rand.New(rand.NewPCG(1, 1)))
		l.Close()
		l = mustOpen(t, config(t, d, Always))
		equal(t, take(t, l, mustConsumer(t, l, "aws"), true), nil)
		time.Sleep(time.Hour)
		if s := l.Stats(); s.Commits != 0 {
			t.Errorf("%d commits while nothing happens", s.Commits)
		}
		l.Close()
	})
}

func TestSyncEndsWhenAllIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := spooltest.NewDisk("run")
		l := mustOpen(t, config(t, d, Interval))
		c := mustConsumer(t, l, "aws")
		for i := range 50 {
			put(t, l, c, i, 1)
			done := make(chan error)
			go func() { done <- l.Sync(t.Context()) }()
			c.Ack(l.Last())
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
	})
}

func TestReserveIsLeftFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := spooltest.NewDisk("run")
		d.Limit(1 << 20)
		cfg := config(t, d, Always)
		cfg.Size, cfg.Reserve = 8<<20, 512<<10
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		for range 300 {
			put(t, l, c, 0, 3)
		}
		if d.Used() > 512<<10 || l.Stats().Dropped[ReasonQuota] == 0 {
			t.Errorf("%d bytes used, %+v", d.Used(), l.Stats())
		}
		l.Close()
	})
}
