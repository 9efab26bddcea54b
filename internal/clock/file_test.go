package clock

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

// synchronised returns a world whose clock is right.
func synchronised() *world {
	w := &world{truth: begun.AddDate(0, 3, 0).UnixNano()}
	w.start(0, 0)
	w.sync = Sync{OK: true}
	return w
}

// A clock that somebody sets is not believed, at once and though nobody has
// looked at the kernel yet.
func TestClockSetByHandIsNotExact(t *testing.T) {
	w := synchronised()
	s := Open(Config{BootID: id(0), Kernel: w})
	w.pass(30 * time.Second)
	if c := s.Now(); c.Quality != broker.Exact {
		t.Fatalf("synchronised: %+v", c)
	}
	w.pass(time.Hour)
	w.offset += int64(100 * time.Hour)
	w.sync = Sync{}
	if c := s.Now(); c.Quality != broker.Interpolated || c.Wall(w.boot).Sub(time.Unix(0, w.truth)).Abs() > c.Error() {
		t.Errorf("set by hand: %+v", c)
	}
}

// A computer that slept is asked again before it is believed.
func TestSleepIsNoticed(t *testing.T) {
	w := synchronised()
	s := Open(Config{BootID: id(0), Kernel: w})
	w.pass(10 * time.Hour)
	w.sync = Sync{} // as the kernel's estimate has run out
	if c := s.Now(); c.Quality != broker.Interpolated || c.Error() < 3600*time.Millisecond {
		t.Errorf("after a sleep: %+v, error %v", c, c.Error())
	}
}

// What is wrong with the file is told, and no reason not to start; it is
// written anew, and what was in the other slot is still there.
func TestDamagedHistory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	w := synchronised()
	disk := spooltest.NewDisk()
	Open(Config{BootID: id(0), Dir: "state", FS: disk, Kernel: w}) // into one slot
	w.pass(time.Minute)
	w.start(0, 0)
	w.sync = Sync{OK: true}
	Open(Config{BootID: id(1), Dir: "state", FS: disk, Kernel: w}) // and the other
	whole := disk.Bytes("state", fileName)
	for range 2000 {
		data := bytes.Clone(whole)
		for range 1 + rng.IntN(3) {
			data[rng.IntN(2)*slotSize+rng.IntN(600)] ^= byte(1 + rng.IntN(255))
		}
		for i := range 2 {
			h, _, err := parseSlot(data[i*slotSize:])
			if err == nil {
				h.derive()
				h.at(spool.BootRef{ID: id(0)}, 1e9)
			}
		}
	}
	disk.Flip("state", fileName, 40)
	disk.Flip("state", fileName, slotSize+40)
	var log strings.Builder
	s := Open(Config{BootID: id(2), Dir: "state", FS: disk, Kernel: w, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if s.Quality() != broker.Exact || !strings.Contains(log.String(), "is damaged") || len(s.history.Boots) != 1 {
		t.Errorf("%v, %d boots, said %q", s.Quality(), len(s.history.Boots), log.String())
	}
	log.Reset()
	s = Open(Config{BootID: id(3), Dir: "state", FS: disk, Kernel: w, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if len(s.history.Boots) != 2 || log.Len() > 0 {
		t.Errorf("afterwards: %d boots, said %q", len(s.history.Boots), log.String())
	}
}

// A medium that fails is told once, and the time is kept in memory.
func TestHistoryOnAFailingMedium(t *testing.T) {
	w := synchronised()
	disk := spooltest.NewDisk()
	disk.Fail(func(spooltest.Op) error { return errors.New("input/output error") })
	var log strings.Builder
	s := Open(Config{BootID: id(0), Dir: "state", FS: disk, Kernel: w, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 3 {
		w.pass(time.Hour)
		s.poll()
		s.save()
	}
	if n := strings.Count(log.String(), "cannot be kept"); s.Quality() == broker.Unsynced || n != 1 {
		t.Errorf("%v, told %d times: %s", s.Quality(), n, log.String())
	}
	disk.Fail(nil)
	w.pass(2 * time.Hour)
	s.poll()
	s.save()
	if !strings.Contains(log.String(), "kept again") || len(disk.Bytes("state", fileName)) != 2*slotSize {
		t.Errorf("when it works again: %s", log.String())
	}
}

func TestNewerHistoryIsLeftAlone(t *testing.T) {
	w := synchronised()
	disk := spooltest.NewDisk()
	slot, err := appendSlot(nil, &history{Version: fileVersion + 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	f := &file{fs: disk, dir: "state"}
	if err := f.save(slot); err != nil {
		t.Fatal(err)
	}
	before := disk.Bytes("state", fileName)
	var log strings.Builder
	s := Open(Config{BootID: id(0), Dir: "state", FS: disk, Kernel: w, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if s.Quality() != broker.Exact || !strings.Contains(log.String(), "newer version") || !bytes.Equal(before, disk.Bytes("state", fileName)) {
		t.Errorf("%v, said %s", s.Quality(), log.String())
	}
}

// The longest history fits into a slot, however long its numbers are.
func TestHistoryFitsIntoItsSlot(t *testing.T) {
	h := &history{Version: fileVersion}
	for n := range 3 * maxBoots {
		b := &boot{ID: id(n), Offset: -1 << 60, Seen: 1 << 60}
		for i := range maxRefs {
			b.Refs = append(b.Refs, ref{At: 1<<59 + int64(i), Offset: -1 << 60, Error: 1 << 60, Slew: 1 << 54, Held: true})
		}
		h.add(b)
	}
	slot, err := appendSlot(nil, h, 1<<63)
	if err != nil || len(h.Boots) != maxBoots {
		t.Fatalf("%d boots, %v", len(h.Boots), err)
	}
	again, _, err := parseSlot(slot)
	if err != nil || len(again.Boots) != maxBoots || len(again.Boots[0].Refs) != maxOldRefs {
		t.Errorf("%d bytes: %v", len(slot), err)
	}
}

// Connected for a day the file is written each hour, a page each time.
func TestHistoryHardlyWears(t *testing.T) {
	w := synchronised()
	disk := spooltest.NewDisk()
	s := Open(Config{BootID: id(0), Dir: "state", FS: disk, Kernel: w})
	writes := s.file.number
	for range 24 * 60 {
		w.pass(time.Minute)
		if w.boot%int64(20*time.Minute) < int64(time.Minute) {
			w.sync = Sync{OK: true}
		}
		s.poll()
		s.save()
	}
	if n := s.file.number - writes; n < 20 || n > 24 {
		t.Errorf("%d writes in a day", n)
	}
	if n := len(s.here.Refs); n > maxRefs || s.Quality() != broker.Exact {
		t.Errorf("%d references, %v", n, s.Quality())
	}
	slot, _ := appendSlot(nil, s.history, 1)
	t.Logf("%d writes in a day, the last one of %d bytes", s.file.number-writes, len(slot))
}
