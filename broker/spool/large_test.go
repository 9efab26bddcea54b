package spool_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	. "edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

// large returns a record body of so many bytes that no other has, and of which
// no part is like another.
func large(n uint64, size int) []byte {
	rng := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	p := make([]byte, size)
	rng.Read(p)
	return p
}

// roomy is a log whose records may have up to two megabytes, in segments of
// 256 KiB.
func roomy(t testing.TB, d *spooltest.Disk, mode SyncMode) Config {
	cfg := config(t, d, mode)
	cfg.Size, cfg.Segment = 5<<20, 256<<10
	return cfg
}

// mustPut appends data and waits until it is safe.
func mustPut(t testing.TB, l *Log, c *Consumer, data []byte) {
	t.Helper()
	done := make(chan error, 1)
	for {
		_, err := l.Append(Record{Targets: []Target{{Consumer: c.ID(), QoS: 1}}, Data: data}, func(err error) { done <- err })
		if errors.Is(err, ErrFull) {
			<-l.Room()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func segments(d *spooltest.Disk) (names []string) {
	for _, name := range d.Files("card") {
		if strings.HasSuffix(name, ".seg") && !strings.HasPrefix(name, "spare") {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(a[17:], b[17:]) }) // by generation
	return names
}

func TestLargeRecordsComeBackWhole(t *testing.T) {
	for _, mode := range []SyncMode{Interval, Always, Off} {
		for _, compress := range []bool{false, true} {
			lives(t, func(t *testing.T, d *spooltest.Disk) {
				cfg := roomy(t, d, mode)
				cfg.Compress = compress
				l := mustOpen(t, cfg)
				c := mustConsumer(t, l, "aws")
				var want []string
				for i, size := range []int{10, 300 << 10, 90 << 10, 700 << 10, 5, 180_000, 200 << 10} {
					data := large(uint64(i), size)
					want = append(want, string(data))
					mustPut(t, l, c, data)
				}
				check := func(what string, ack bool) {
					if got := take(t, l, c, ack); !slices.Equal(got, want) {
						t.Fatalf("mode %d compress %t %s: %s, want %s", mode, compress, what, sizes(got), sizes(want))
					}
				}
				check("at once", false)
				if mode != Off {
					d.Kill()
				}
				l.Close()
				l = mustOpen(t, cfg)
				c = mustConsumer(t, l, "aws")
				check("after a restart", true)
				l.Close()
				l = mustOpen(t, cfg)
				c = mustConsumer(t, l, "aws")
				want = nil
				check("after all was acknowledged", true)
				mustPut(t, l, c, []byte("x")) // a commit frees what it can
				if n := l.Stats().Segments; n > 1 {
					t.Errorf("%d segments are kept for nobody", n)
				}
				l.Close()
			})
		}
	}
}

func sizes(list []string) string {
	var s []string
	for _, r := range list {
		if len(r) > 30 {
			r = fmt.Sprint(len(r), " bytes")
		}
		s = append(s, r)
	}
	return strings.Join(s, ", ")
}

// A process may die, or the power go, at each operation of the commit of a
// large record: then that is there as a whole or not at all, and what was safe
// before stays.
func TestLargeRecordIsWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	for _, power := range []bool{false, true} {
		whole, torn := 0, 0
		for at := 1; ; at++ {
			finished := false
			lives(t, func(t *testing.T, d *spooltest.Disk) {
				cfg := roomy(t, d, Always)
				l := mustOpen(t, cfg)
				c := mustConsumer(t, l, "aws")
				mustPut(t, l, c, []byte("before"))
				d.KillAt(at)
				told := make(chan error, 1)
				data := large(1, 600<<10)
				if _, err := l.Append(Record{Targets: []Target{{Consumer: c.ID()}}, Data: data}, func(err error) { told <- err }); err != nil {
					t.Fatal(err)
				}
				err := <-told
				finished = !d.Killed()
				if power {
					d.PowerCut(rand.New(rand.NewPCG(uint64(at), 0)))
				} else {
					d.Kill()
				}
				l.Close()
				d.Start()
				for range 2 {
					l = mustOpen(t, cfg)
					c = mustConsumer(t, l, "aws")
					got := take(t, l, c, false)
					switch {
					case slices.Equal(got, []string{"before", string(data)}):
						whole++
					case slices.Equal(got, []string{"before"}) && err != nil:
						torn++
					default:
						t.Fatalf("killed at %d, power %t, told %v: got %s", at, power, err, sizes(got))
					}
					l.Close()
				}
				// The log goes on.
				l = mustOpen(t, cfg)
				c = mustConsumer(t, l, "aws")
				mustPut(t, l, c, large(2, 300<<10))
				mustPut(t, l, c, []byte("after"))
				if got := take(t, l, c, true); got[0] != "before" || got[len(got)-1] != "after" || len(got[len(got)-2]) != 300<<10 || len(got) > 4 {
					t.Fatalf("killed at %d: %s", at, sizes(got))
				}
				l.Close()
			})
			if finished {
				break
			}
		}
		if whole == 0 || torn == 0 {
			t.Errorf("power %t: %d whole, %d torn", power, whole, torn)
		}
	}
}

// Damage to any page of a large record costs that record and no other.
func TestDamagedLargeRecordIsLostWhole(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := roomy(t, d, Always)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		mustPut(t, l, c, []byte("before"))
		data := large(1, 600<<10)
		mustPut(t, l, c, data)
		mustPut(t, l, c, []byte("after"))
		l.Close()
		segs := segments(d)
		if len(segs) < 3 {
			t.Fatalf("segments %v", segs)
		}
		for _, seg := range segs {
			for _, off := range []int64{4096 * 3, 4096 * 5, 4096 * 20, 4096 * 40} {
				d.Flip("card", seg, off+200)
				l := mustOpen(t, cfg)
				got := scan(t, mustConsumer(t, l, "aws"), 0, l.Last())
				l.Close()
				d.Flip("card", seg, off+200) // it is well again
				if len(got) == 3 && got[1] == string(data) {
					continue // nothing was there
				}
				equal(t, got, []string{"before", "after"})
			}
			if len(d.Bytes("card", seg)) != 256<<10 {
				t.Errorf("segment of %d bytes", len(d.Bytes("card", seg)))
			}
		}
		d.Flip("card", segs[1], 4096*20)
		l = mustOpen(t, cfg)
		got := take(t, l, mustConsumer(t, l, "aws"), true)
		if !slices.Contains(got, "gap 1 damage") || len(got) != 3 {
			t.Errorf("got %s", sizes(got))
		}
		l.Close()
	})
}

// The quota takes the oldest segment, and with it all of a record that begins
// there, once.
func TestQuotaDropsLargeRecordsWhole(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		lives(t, func(t *testing.T, d *spooltest.Disk) {
			cfg := roomy(t, d, Interval)
			l := mustOpen(t, cfg)
			c := mustConsumer(t, l, "aws")
			const n = 40
			for i := range n {
				mustPut(t, l, c, large(uint64(i), 300<<10+i*5000))
				mustPut(t, l, c, fmt.Append(nil, i))
				if reopen && i%7 == 3 {
					d.Kill()
					l.Close()
					l = mustOpen(t, cfg)
					c = mustConsumer(t, l, "aws")
				}
			}
			if used := d.Used(); used > cfg.Size+128<<10 {
				t.Errorf("%d bytes used of %d", used, cfg.Size)
			}
			b := c.Backlog()
			var lost, got uint64
			next := 0
			r := c.Reader(0, l.Last())
			for {
				rec, err := r.Next(t.Context(), nil)
				if err != nil {
					break
				}
				if rec.Gap != nil {
					lost += rec.Gap.Count
					next = int(rec.Gap.Count)
					continue
				}
				got++
				if i := next / 2; next%2 == 0 && string(rec.Data) != string(large(uint64(i), 300<<10+i*5000)) || next%2 == 1 && string(rec.Data) != fmt.Sprint(i) {
					t.Errorf("record %d is of %d bytes", next, len(rec.Data))
				}
				next++
			}
			r.Close()
			if got+lost != 2*n || lost == 0 || got < 10 || b.Records != got {
				t.Errorf("%d read, %d lost of %d, backlog %d", got, lost, 2*n, b.Records)
			}
			l.Close()
		})
	}
}

// A large record is taken beside a full queue, but only one at a time.
func TestOneLargeRecordBesideTheQueue(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := roomy(t, d, Interval)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		rec := Record{Targets: []Target{{Consumer: c.ID()}}, Data: large(1, 1<<20)}
		done := make(chan error, 2)
		if _, err := l.Append(rec, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(rec, nil); !errors.Is(err, ErrFull) || !l.Full(len(rec.Data)) {
			t.Fatal(err)
		}
		if _, err := l.Append(Record{Targets: rec.Targets, Data: []byte("small")}, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		<-l.Room()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Fatal(err)
		}
		if l.Full(len(rec.Data)) {
			t.Error("no room after it was committed")
		}
		if _, err := l.Append(Record{Targets: rec.Targets, Data: make([]byte, 3<<20)}, nil); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
		l.Close()
	})
}

// A record for which the medium has no room is lost alone and counted; the log
// takes others, and nothing was dropped for it.
func TestLargeRecordWithoutRoomIsRefused(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := roomy(t, d, Always)
		d.Limit(800 << 10)
		cfg.Reserve = 100 << 10
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		mustPut(t, l, c, []byte("before"))
		done := make(chan error, 1)
		if _, err := l.Append(Record{Targets: []Target{{Consumer: c.ID()}}, Data: large(1, 2<<20)}, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, ErrTooLarge) {
			t.Fatal(err)
		}
		mustPut(t, l, c, []byte("after"))
		equal(t, take(t, l, c, true), []string{"gap 1 quota", "before", "after"})
		if s := l.Stats(); s.State != "ok" || s.Queued != 0 {
			t.Errorf("%+v", s)
		}
		l.Close()
	})
}

// While the medium fails a large record waits in memory as others do.
func TestLargeRecordWaitsForTheMedium(t *testing.T) {
	lives(t, func(t *testing.T, d *spooltest.Disk) {
		cfg := roomy(t, d, Always)
		l := mustOpen(t, cfg)
		c := mustConsumer(t, l, "aws")
		mustPut(t, l, c, []byte("before"))
		d.Fail(func(op spooltest.Op) error {
			if op.Kind == "sync" {
				return syscall.EIO
			}
			return nil
		})
		done := make(chan error, 1)
		data := large(1, 700<<10)
		if _, err := l.Append(Record{Targets: []Target{{Consumer: c.ID()}}, Data: data, Volatile: true}, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, ErrDegraded) {
			t.Fatal(err)
		}
		d.Fail(nil)
		if err := l.Sync(t.Context()); err == nil {
			t.Error("sync of a failing medium")
		}
		for l.Stats().State != "ok" {
			<-l.Room()
		}
		l.Close()
		l = mustOpen(t, cfg)
		if got := take(t, l, mustConsumer(t, l, "aws"), true); len(got) != 2 || got[1] != string(data) {
			t.Errorf("got %s", sizes(got))
		}
		l.Close()
	})
}

// A log that never needed format 2 can be taken over by an older program; one
// that did is refused by it.
func TestFormatRisesWhenNeeded(t *testing.T) {
	for name, test := range map[string]struct {
		compress bool
		data     []byte
		format   string
	}{
		"small":      {false, []byte("x"), `"format":1,`},
		"large":      {false, large(1, 400<<10), `"format":2,`},
		"compressed": {true, make([]byte, 20000), `"format":2,`},
	} {
		lives(t, func(t *testing.T, d *spooltest.Disk) {
			cfg := roomy(t, d, Always)
			l := mustOpen(t, cfg)
			c := mustConsumer(t, l, "aws")
			mustPut(t, l, c, []byte("old"))
			l.Close()
			cfg.Compress = test.compress
			l = mustOpen(t, cfg)
			c = mustConsumer(t, l, "aws")
			mustPut(t, l, c, test.data)
			l.Close()
			for _, file := range []string{"META", "META.bak"} {
				if meta := string(d.Bytes("card", file)); !strings.Contains(meta, test.format) {
					t.Errorf("%s: %s says %s", name, file, meta)
				}
			}
			segs := segments(d)
			if v := d.Bytes("card", segs[len(segs)-1])[12]; fmt.Sprintf(`"format":%d,`, v) != test.format {
				t.Errorf("%s: segment of version %d", name, v)
			}
			l = mustOpen(t, cfg)
			if got := take(t, l, mustConsumer(t, l, "aws"), true); len(got) != 2 || got[0] != "old" || got[1] != string(test.data) {
				t.Errorf("%s: got %s", name, sizes(got))
			}
			l.Close()
		})
	}
}
