package spool_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	. "edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

// lives runs fn in a bubble with a disk.
func lives(t *testing.T, fn func(t *testing.T, d *spooltest.Disk)) {
	synctest.Test(t, func(t *testing.T) { fn(t, spooltest.NewDisk("run")) })
}

func TestSecondProcessIsRefused(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Interval)
		l := mustOpen(t, cfg)
		if _, err := Open(cfg); !errors.Is(err, ErrLocked) {
			t.Error(err)
		}
		l.Close()
		mustOpen(t, cfg).Close()
	})
}

func TestNewerFormatIsRefusedAndKept(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Always)
		l := mustOpen(t, cfg)
		put(t, l, mustConsumer(t, l, "aws"), 0, 3)
		l.Close()
		dir, _ := d.Dir("card")
		f, _ := dir.Open("META")
		f.WriteAt(NewerMeta(d.Bytes("card", "META")), 0)
		before := fmt.Sprint(d.Files("card"))
		_, err := Open(cfg)
		if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "install the version") {
			t.Error(err)
		}
		if after := fmt.Sprint(d.Files("card")); after != before {
			t.Errorf("files %s, were %s", after, before)
		}
	})
}

func TestClonedCardGetsNewID(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Interval)
		cfg.Machine = "one"
		l := mustOpen(t, cfg)
		put(t, l, mustConsumer(t, l, "aws"), 0, 3)
		id := l.ID()
		l.Close()
		cfg.Machine = "" // unknown is no other machine
		l = mustOpen(t, cfg)
		if l.ID() != id || len(id) != 13 {
			t.Errorf("id %s, was %s", l.ID(), id)
		}
		l.Close()
		for _, machine := range []string{"two", "two"} {
			cfg.Machine = machine
			l = mustOpen(t, cfg)
			if l.ID() == id {
				t.Error("the clone keeps the id")
			}
			c := mustConsumer(t, l, "aws")
			equal(t, take(t, l, c, false), numbers(0, 3))
			l.Close()
		}
	})
}

func TestDamageCostsWhatItHit(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Always)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		for i := range 20 { // a block each
			put(t, l, c, i, 1)
		}
		l.Close()
		seg := ""
		for _, name := range d.Files("card") {
			if strings.Contains(name, "-") && !strings.HasPrefix(name, "spare") && seg == "" {
				seg = name
			}
		}
		d.Flip("card", seg, 4096*6+100) // header, table, block 0: this is block 4
		for _, ack := range []bool{false, true, true} {
			l = mustOpen(t, cfg)
			c = mustConsumer(t, l, "aws")
			got := take(t, l, c, ack)
			l.Close()
			if len(got) > 0 {
				want := append(append(numbers(0, 4), "gap 1 damage"), numbers(5, 15)...)
				if got[0] == "gap 1 damage" { // known from the run before
					want = append([]string{"gap 1 damage"}, append(numbers(0, 4), numbers(5, 15)...)...)
				}
				equal(t, got, want)
			}
		}
		if s := l.Stats(); s.Consumers[0].Records != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestLostMetaBeginsAnew(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Always)
		l := mustOpen(t, cfg)
		put(t, l, mustConsumer(t, l, "aws"), 0, 3)
		id := l.ID()
		l.Close()
		d.Flip("card", "META", 5)
		l = mustOpen(t, cfg)
		if l.ID() != id { // the copy serves
			t.Errorf("id %s, was %s", l.ID(), id)
		}
		equal(t, take(t, l, mustConsumer(t, l, "aws"), false), numbers(0, 3))
		l.Close()
		d.Flip("card", "META", 5)
		d.Flip("card", "META.bak", 5)
		l = mustOpen(t, cfg)
		if l.ID() == id {
			t.Error("id kept without knowing what was given under it")
		}
		equal(t, take(t, l, mustConsumer(t, l, "aws"), false), []string{"gap 0 damage"})
		l.Close()
	})
}

func TestFailingMediumKeepsOwnRecordsOnly(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Always)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		put(t, l, c, 0, 3)
		d.Fail(func(op spooltest.Op) error {
			if op.Dir == "card" && op.Kind == "sync" {
				return syscall.EIO
			}
			return nil
		})
		done := make(chan error, 2)
		rec := func(i int) Record {
			return Record{Targets: []Target{{Consumer: c.ID()}}, Data: fmt.Append(nil, i), Volatile: i >= 5}
		}
		tell := func(err error) { done <- err }
		if _, err := l.Append(rec(3), tell); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, ErrDegraded) {
			t.Error(err)
		}
		if _, err := l.Append(rec(4), tell); !errors.Is(err, ErrDegraded) || l.Stats().State != "degraded" {
			t.Error(err, l.Stats().State)
		}
		if _, err := l.Append(rec(5), nil); err != nil {
			t.Error(err)
		}
		if err := l.Sync(t.Context()); !errors.Is(err, ErrDegraded) {
			t.Error(err)
		}
		d.Fail(nil)
		time.Sleep(2 * time.Minute)
		if s := l.Stats(); s.State != "ok" || s.IOErrors == 0 {
			t.Errorf("%+v", s)
		}
		d.Kill()
		l.Close()
		l = mustOpen(t, cfg)
		c = mustConsumer(t, l, "aws")
		equal(t, take(t, l, c, true), []string{"0", "1", "2", "3", "5"})
		l.Close()
	})
}

func TestFailingMediumDoesNotEatTheBacklog(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Always)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		for range 200 {
			put(t, l, c, 0, 10)
		}
		before := c.Backlog().Records
		d.Fail(func(op spooltest.Op) error {
			if op.Dir == "card" && (op.Kind == "write" || op.Kind == "create") {
				return syscall.EIO
			}
			return nil
		})
		l.Append(Record{Targets: []Target{{Consumer: c.ID()}}, Volatile: true}, nil)
		time.Sleep(time.Hour)
		if got := c.Backlog().Records; got != before+1 {
			t.Errorf("backlog %d after an hour, was %d", got, before)
		}
		d.Fail(nil)
		l.Close()
	})
}

func TestRingThatFailsMeansCommits(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Interval)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		put(t, l, c, 0, 3)
		d.Fail(func(op spooltest.Op) error {
			if op.Dir == "run" && op.Kind == "write" {
				return syscall.ENOSPC
			}
			return nil
		})
		put(t, l, c, 3, 3)
		s := l.Stats()
		if !s.RingFailed || s.Durable != s.Last || s.Commits == 0 {
			t.Errorf("%+v", s)
		}
		d.Fail(nil)
		time.Sleep(10 * time.Second)
		put(t, l, c, 6, 3)
		if s := l.Stats(); s.RingFailed || s.Durable == s.Last {
			t.Errorf("%+v", s)
		}
		d.Kill()
		l.Close()
		l = mustOpen(t, cfg)
		equal(t, take(t, l, mustConsumer(t, l, "aws"), true), numbers(0, 9))
		l.Close()
	})
}

func TestFullQueue(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Interval)
		cfg.Size, cfg.Segment = 16<<20, 1<<20
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		d.Fail(func(op spooltest.Op) error {
			if op.Kind == "sync" || op.Kind == "create" {
				return syscall.EIO
			}
			return nil
		})
		rec := Record{Targets: []Target{{Consumer: c.ID()}}, Data: make([]byte, 10000), Volatile: true}
		n := 0
		var err error
		for ; err == nil; n++ {
			_, err = l.Append(rec, nil)
		}
		if !errors.Is(err, ErrFull) || n < 500 {
			t.Fatal(n, err)
		}
		for range 3 {
			l.Drop(rec)
		}
		room := l.Room()
		select {
		case <-room:
			t.Error("room in a full queue")
		default:
		}
		d.Fail(nil)
		<-room // after the next try on the medium
		if _, err := l.Append(rec, nil); err != nil {
			t.Error(err)
		}
		got := take(t, l, c, true)
		if len(got) != n+1 || got[0] != "gap 3 queue full" {
			t.Errorf("%d records of %d, first %.20q", len(got), n, got[0])
		}
		if s := l.Stats(); s.Dropped[ReasonQueueFull] != 3 {
			t.Errorf("%+v", s)
		}
		if _, err := l.Append(Record{Data: make([]byte, 8<<20)}, nil); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
		l.Close()
	})
}

func TestRemovedConsumerPinsNothing(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Always)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		put(t, l, c, 0, 3)
		r := c.Reader(0, 0)
		if err := l.Remove("aws"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(t.Context(), nil); !errors.Is(err, ErrRemoved) {
			t.Error(err)
		}
		r.Close()
		other := mustConsumer(t, l, "azure")
		if other.ID() != c.ID() {
			t.Errorf("id %d, free was %d", other.ID(), c.ID())
		}
		equal(t, take(t, l, other, true), nil)
		l.Close()
		l = mustOpen(t, cfg)
		equal(t, take(t, l, mustConsumer(t, l, "azure"), true), nil)
		l.Close()
	})
}

func TestRecordsKeepTheirBoot(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Interval)
		offset, synced := int64(1000), false
		cfg.Time = func() (int64, int64, bool) { return 50, 50 + offset, synced }
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		put(t, l, c, 0, 1)
		l.Sync(t.Context())
		offset, synced = 7000, true // the clock is set
		put(t, l, c, 1, 1)
		d.Kill() // and the second record is in the ring only
		l.Close()
		cfg.BootID[0], offset = 2, 9000
		l = mustOpen(t, cfg)
		c = mustConsumer(t, l, "aws")
		put(t, l, c, 2, 1)
		r := c.Reader(0, l.Last())
		want := []BootRef{{[16]byte{1}, 1000, false, 50}, {[16]byte{1}, 1000, false, 50}, {[16]byte{2}, 9000, true, 50}}
		for i := range want {
			rec, err := r.Next(t.Context(), nil)
			if err != nil || rec.Boot != want[i] || rec.Stamp != int64(i) {
				t.Errorf("record %d: %+v, %v; want %+v", i, rec, err, want[i])
			}
		}
		r.Close()
		l.Close()
	})
}

func TestReaderWaitsForMore(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		l := mustOpen(t, config(t, d, Interval))
		c := mustConsumer(t, l, "aws")
		got := make(chan string)
		go func() {
			r := c.Reader(c.Acked(), 0)
			defer r.Close()
			for {
				rec, err := r.Next(t.Context(), nil)
				if err != nil {
					got <- err.Error()
					return
				}
				got <- string(rec.Data)
			}
		}()
		synctest.Wait()
		put(t, l, c, 0, 2)
		for _, want := range numbers(0, 2) {
			if s := <-got; s != want {
				t.Errorf("got %s, want %s", s, want)
			}
		}
		l.Close()
		if s := <-got; s != ErrClosed.Error() {
			t.Error(s)
		}
	})
}

// FuzzRecover opens a log whose segment holds anything: it opens, reads to an
// end, and invents no record.
func FuzzRecover(f *testing.F) {
	f.Add(uint32(4096), []byte("GWB1"))
	f.Add(uint32(0), []byte{})
	f.Add(uint32(4100), []byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, off uint32, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			d := spooltest.NewDisk("run")
			cfg := config(t, d, Always)
			l := mustOpen(t, cfg)
			c := mustConsumer(t, l, "aws")
			put(t, l, c, 0, 3)
			put(t, l, c, 3, 3)
			l.Close()
			dir, _ := d.Dir("card")
			for _, name := range d.Files("card") {
				if strings.HasSuffix(name, ".seg") {
					file, _ := dir.Open(name)
					file.WriteAt(data, int64(off%(40<<10)))
				}
			}
			l = mustOpen(t, cfg)
			for _, s := range take(t, l, mustConsumer(t, l, "aws"), true) {
				if !strings.HasPrefix(s, "gap") && !strings.Contains("012345", s) {
					t.Errorf("invented %q", s)
				}
			}
			l.Close()
		})
	})
}

// A segment that cannot be read while the log is opened, for want of
// descriptors perhaps, is not empty: what it holds comes when it can be read.
func TestSegmentThatCannotBeReadAtOpenIsKept(t *testing.T) {
	for from := range 4 { // what fails from that operation on
		lives(t, func(t *testing.T, d *spooltest.Disk) {
			cfg := config(t, d, Always)
			l := mustOpen(t, cfg)
			c := mustConsumer(t, l, "aws")
			put(t, l, c, 0, 30)
			l.Close()
			n := 0
			d.Fail(func(op spooltest.Op) error {
				if (op.Kind == "open" || op.Kind == "read") && strings.HasSuffix(op.File, ".seg") && !strings.HasPrefix(op.File, "spare") {
					if n++; n > from {
						return syscall.EMFILE
					}
				}
				return nil
			})
			l = mustOpen(t, cfg)
			d.Fail(nil)
			c = mustConsumer(t, l, "aws")
			put(t, l, c, 30, 30)
			equal(t, take(t, l, c, false), numbers(0, 60))
			l.Close()
			l = mustOpen(t, cfg)
			defer l.Close()
			equal(t, take(t, l, mustConsumer(t, l, "aws"), true), numbers(0, 60))
		})
	}
}

// A folder that cannot be listed when the log is opened is left alone, to the
// byte: the gateway's own records go on in memory, others are refused, and what
// lies there is delivered once it can be read. A listing that fails for a moment
// is no trouble at all.
func TestFolderThatCannotBeListedIsLeftAlone(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := config(t, d, Interval)
		l := mustOpen(t, cfg)
		put(t, l, mustConsumer(t, l, "aws"), 0, 20)
		id := l.ID()
		l.Close()
		contents := func() (all []string) {
			for _, dir := range []string{cfg.Dir, cfg.RingDir} {
				for _, name := range d.Files(dir) {
					all = append(all, fmt.Sprintf("%s/%s %x", dir, name, d.Bytes(dir, name)))
				}
			}
			return all
		}
		before := fmt.Sprint(contents())

		failing := 1 << 30
		d.Fail(func(op spooltest.Op) error {
			if op.Kind == "list" && failing > 0 {
				failing--
				return syscall.EIO
			}
			return nil
		})
		l = mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		other := mustConsumer(t, l, "new")
		if s := l.Stats(); s.State != "degraded" || l.ID() == id {
			t.Errorf("state %s, id %s", s.State, l.ID())
		}
		rec := Record{Targets: []Target{{Consumer: c.ID()}, {Consumer: other.ID()}}, Data: []byte("own")}
		if _, err := l.Append(rec, nil); !errors.Is(err, ErrDegraded) {
			t.Errorf("an external record: %v", err)
		}
		rec.Volatile = true
		if _, err := l.Append(rec, nil); err != nil {
			t.Errorf("one of the gateway's own: %v", err)
		}
		r := c.Reader(0, 0)
		if got, err := r.Next(t.Context(), nil); err != nil || string(got.Data) != "own" {
			t.Errorf("delivered %q, %v", got.Data, err)
		} else {
			c.Ack(got.Seq)
		}
		r.Close()
		time.Sleep(10 * time.Minute)
		l.Close()
		if after := fmt.Sprint(contents()); after != before {
			t.Error("files in the folder were changed")
		}

		failing = 2
		l = mustOpen(t, cfg)
		if s := l.Stats(); s.State != "ok" || l.ID() != id {
			t.Errorf("state %s, id %s, was %s", s.State, l.ID(), id)
		}
		equal(t, take(t, l, mustConsumer(t, l, "aws"), false), numbers(0, 20))
		l.Close()
	})
}

// What is dropped and cannot be read any more is told all the same, as a gap of
// an unknown number; a file that cannot be opened for a moment is counted.
func TestDropOfWhatCannotBeReadIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		failures int
		unknown  bool
	}{"for a moment": {2, false}, "for good": {1 << 30, true}} {
		t.Run(name, func(t *testing.T) {
			lives(t, func(t *testing.T, d *spooltest.Disk) {
				cfg := config(t, d, Always)
				l := mustOpen(t, cfg)
				c := mustConsumer(t, l, "aws")
				const size, n = 4 << 10, 300
				first, failures := "", test.failures
				d.Fail(func(op spooltest.Op) error {
					if op.Kind == "open" && op.File == first && failures > 0 {
						failures--
						return syscall.EIO
					}
					return nil
				})
				for i := range n {
					done := make(chan error, 1)
					data := append(fmt.Appendf(nil, "%03d", i), make([]byte, size)...)
					if _, err := l.Append(Record{Targets: []Target{{Consumer: c.ID()}}, Data: data}, func(err error) { done <- err }); err != nil {
						t.Fatal(err)
					}
					if err := <-done; err != nil {
						t.Fatal(err)
					}
					if i == 0 {
						for _, f := range d.Files("card") {
							if strings.HasSuffix(f, ".seg") && !strings.HasPrefix(f, "spare") {
								first = f
							}
						}
					}
				}
				got, told := 0, uint64(0)
				var firstGap Gap
				r := c.Reader(0, l.Last())
				for {
					rec, err := r.Next(t.Context(), nil)
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if rec.Gap != nil {
						if rec.Gap.Reason != ReasonQuota {
							t.Errorf("gap %+v", *rec.Gap)
						}
						if told == 0 {
							firstGap = *rec.Gap
						}
						told += rec.Gap.Count
						continue
					}
					got++
				}
				r.Close()
				missing := uint64(n - got)
				if missing == 0 || firstGap.Last == 0 || test.unknown != (told < missing) || told > missing {
					t.Errorf("%d of %d are there, %d are told to be lost, first gap %+v", got, n, told, firstGap)
				}
				l.Close()
			})
		})
	}
}
