package writelog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"edgegateway/broker/spool/spooltest"
)

// A bench is a disk with a clock beside it.
type bench struct {
	t    testing.TB
	disk *spooltest.Disk
	cfg  Config
	now  Moment
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, disk: spooltest.NewDisk(), now: Moment{Boot: "a", Stamp: 1e9, Wall: time.Date(2026, 11, 20, 23, 6, 0, 0, time.UTC), Exact: true}}
	b.cfg = Config{FS: b.disk, Dir: "writes", Size: 64 << 10, Now: func() Moment { return b.now }}
	return b
}

func (b *bench) open() *Log {
	b.t.Helper()
	l, err := Open(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

func entry(id string, value int) *Entry {
	return &Entry{
		By: "anonymous", ID: id, Scope: "boiler/setpoint", Device: "boiler", Reply: "plant/boiler/setpoint/set/result",
		Writes: []Write{{Point: "setpoint", Value: json.RawMessage(fmt.Sprint(value))}},
	}
}

func finish(l *Log, e *Entry, state string) {
	w := slices.Clone(e.Writes)
	w[0].State = state
	l.Finish(e.Seq, w, state, "")
}

func TestWhatWasTakenIsFound(t *testing.T) {
	b := newBench(t)
	l := b.open()
	first, second, third := entry("1", 20), entry("2", 21), entry("", 22)
	if err := errors.Join(l.Take(first, second), l.Take(third)); err != nil {
		t.Fatal(err)
	}
	finish(l, first, "verified")
	l.Told(first.Seq)
	finish(l, second, "failed")
	l.Flush()
	b.disk.PowerCut(rand.New(rand.NewPCG(1, 1)))
	b.disk.Start()
	l = b.open()
	var got []string
	for _, e := range l.Unanswered() {
		got = append(got, fmt.Sprintf("%d %s %q", e.Seq, e.Writes[0].Value, e.State))
	}
	if want := []string{`2 21 "failed"`, `3 22 ""`}; !slices.Equal(got, want) {
		t.Errorf("unanswered: %q, want %q", got, want)
	}
	if e, ok := l.Seen("boiler/setpoint", "1"); !ok || e.State != "verified" || e.Writes[0].State != "verified" || !e.Told {
		t.Errorf("id 1: %+v, %v", e, ok)
	}
	if _, ok := l.Seen("boiler/pump", "1"); ok {
		t.Error("an id counts as used where it was not")
	}
	if e, ok := l.Latest("boiler", "setpoint"); !ok || e.Seq != 3 {
		t.Errorf("the latest write is %+v, %v", e, ok)
	}
	next := entry("4", 1)
	if err := l.Take(next); err != nil || next.Seq != 4 {
		t.Errorf("the next has number %d, %v", next.Seq, err)
	}
}

func TestIDsAreForgotten(t *testing.T) {
	b := newBench(t)
	b.cfg.Age = time.Hour
	l := b.open()
	old := entry("a", 1)
	if err := l.Take(old); err != nil {
		t.Fatal(err)
	}
	seen := func() bool { _, ok := l.Seen("boiler/setpoint", "a"); return ok }
	b.now.Stamp += int64(2 * time.Hour)
	if !seen() {
		t.Error("one that is not finished is forgotten")
	}
	finish(l, old, "verified")
	if seen() {
		t.Error("it is remembered for longer than the age")
	}
	b.now = Moment{Boot: "b", Stamp: 5e9, Wall: old.At.Wall.Add(30 * time.Minute), Exact: true}
	if !seen() {
		t.Error("it is forgotten with a reboot")
	}
	b.now.Wall = b.now.Wall.Add(time.Hour)
	if seen() {
		t.Error("it is remembered for longer than the age, after a reboot")
	}
	b.now.Exact = false
	if !seen() {
		t.Error("it is forgotten by a clock that nobody set")
	}
}

func TestLogIsBounded(t *testing.T) {
	b := newBench(t)
	b.cfg.Size = 2 << 20
	l := b.open()
	open := entry("open", 0)
	if err := l.Take(open); err != nil {
		t.Fatal(err)
	}
	for i := range Keep + 300 {
		e := entry(fmt.Sprint(i), i)
		if err := l.Take(e); err != nil {
			t.Fatal(err)
		}
		finish(l, e, "verified")
	}
	for range 2 { // also after it was read again
		if n := len(l.Last(0)); n != Keep {
			t.Errorf("%d entries, want %d", n, Keep)
		}
		if list := l.Unanswered(); len(list) != Keep || list[0].ID != "open" {
			t.Errorf("what is open is gone: %d", len(list))
		}
		if used := b.disk.Used(); used != 2*b.cfg.Size {
			t.Errorf("%d bytes on the disk, want %d", used, 2*b.cfg.Size)
		}
		l.Close()
		l = b.open()
	}
	for i := range 60 { // long ones
		e := entry(fmt.Sprint("long", i), i)
		e.Correlation = bytes.Repeat([]byte{1}, 11<<10)
		if err := l.Take(e); err != nil {
			t.Fatal(err)
		}
		finish(l, e, "verified")
	}
	if l.bytes > keepBytes+MaxEntry {
		t.Errorf("%d bytes are kept, the bound is %d", l.bytes, keepBytes)
	}
	long := entry("too long", 0)
	long.Correlation = make([]byte, MaxEntry)
	if err := l.Take(long); !errors.Is(err, ErrTooLong) {
		t.Errorf("too long: %v", err)
	}
}

// TestDiskFull fills the disk after the first start: the log goes on. On one
// that is full from the start nothing is taken until there is room.
func TestDiskFull(t *testing.T) {
	b := newBench(t)
	l := b.open()
	b.disk.Limit(b.disk.Used()) // others have taken the rest
	for i := range 100 {
		e := entry(fmt.Sprint(i), i)
		if err := l.Take(e); err != nil {
			t.Fatalf("write %d on a full disk: %v", i, err)
		}
		finish(l, e, "verified")
	}

	b = newBench(t)
	b.disk.Limit(1000)
	l = b.open()
	if err := l.Take(entry("a", 1)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("without room: %v", err)
	}
	if _, ok := l.Seen("boiler/setpoint", "a"); ok || l.Trouble() == nil {
		t.Error("what could not be logged counts as taken")
	}
	b.disk.Limit(0)
	if err := l.Take(entry("a", 1)); err != nil || l.Trouble() != nil {
		t.Errorf("with room: %v, %v", err, l.Trouble())
	}
}

func TestFailedSyncGoesOnInTheOtherFile(t *testing.T) {
	b := newBench(t)
	l := b.open()
	failed := ""
	b.disk.Fail(func(op spooltest.Op) error {
		if op.Kind == "sync" && (failed == "" || failed == op.File) {
			failed = op.File
			return syscall.EIO
		}
		return nil
	})
	if err := l.Take(entry("a", 1)); err != nil {
		t.Fatal(err)
	}
	b.disk.Fail(nil)
	b.disk.PowerCut(rand.New(rand.NewPCG(2, 2)))
	b.disk.Start()
	if _, ok := b.open().Seen("boiler/setpoint", "a"); !ok {
		t.Error("lost with a power cut after a failed sync")
	}
}

// TestLives kills the process at every operation, with and without a power
// cut: what Take returned nil for is found, nothing else is invented, and what
// counts as finished was.
func TestLives(t *testing.T) {
	cuts, full := 0, 0
	for at := 1; at < 200; at += 4 {
		for seed := range uint64(2) {
			b := newBench(t)
			b.cfg.Size = 24 << 10 // a generation lasts for a few writes
			rng := rand.New(rand.NewPCG(uint64(at), seed))
			b.disk.KillAt(at)
			taken, tried, done := map[string]bool{}, map[string]bool{}, map[string]bool{}
			var last uint64
			l, err := Open(b.cfg)
			for i := 0; err == nil && i < 60 && !b.disk.Killed(); i++ {
				e := entry(fmt.Sprint(i), i)
				tried[e.ID] = true
				if l.Take(e) != nil {
					continue
				}
				taken[e.ID], last = true, e.Seq
				if rng.IntN(2) == 0 {
					done[e.ID] = true
					finish(l, e, "verified")
				}
			}
			flushed := false
			if b.disk.Killed() {
				cuts++
			} else {
				l.Flush()
				flushed = true
			}
			if seed > 0 {
				b.disk.PowerCut(rng)
			} else {
				b.disk.Kill()
			}
			b.disk.Start()
			l = b.open()
			for _, e := range l.Last(0) {
				if !tried[e.ID] {
					t.Fatalf("killed at %d, seed %d: entry %q was invented", at, seed, e.ID)
				}
				if e.State != "" && !done[e.ID] {
					t.Fatalf("killed at %d, seed %d: entry %q is finished and was not", at, seed, e.ID)
				}
				if done[e.ID] && e.State == "" && flushed {
					t.Fatalf("killed at %d, seed %d: the outcome of %q is lost", at, seed, e.ID)
				}
				delete(taken, e.ID)
			}
			if len(taken) > 0 {
				t.Fatalf("killed at %d, seed %d: %d entries lost", at, seed, len(taken))
			}
			next := entry("next", 0)
			if err := l.Take(next); err != nil || next.Seq <= last {
				t.Fatalf("killed at %d, seed %d: the next has number %d after %d, %v", at, seed, next.Seq, last, err)
			}
			if l.card.generation > 3 {
				full++
			}
		}
	}
	if cuts < 25 || full < 25 {
		t.Errorf("%d kills in the middle, %d lives over several generations: the test does not reach what it is for", cuts, full)
	}
}

// TestEveryByte cuts and spoils a file at each byte: never a panic, and what
// lies in whole frames is found.
func TestEveryByte(t *testing.T) {
	first, _ := json.Marshal(record{Version: version, Snapshot: 1})
	var data []byte
	data = append(data, frame(5, 0, first)...)
	for i := range 3 {
		e := entry(fmt.Sprint(i), i)
		e.Seq = uint64(i + 1)
		text, _ := json.Marshal(record{Taken: []*Entry{e}})
		data = append(data, frame(5, uint64(i+1), text)...)
	}
	for n := 0; n < len(data); n += 1 + n%block/256*16 { // each byte of what counts, some of what fills it up
		c, err := decode(data[:n])
		if err != nil || len(c.entries) > n/block {
			t.Fatalf("cut at %d: %d entries, %v", n, len(c.entries), err)
		}
		spoilt := slices.Clone(data)
		spoilt[n] ^= 0x5a
		c, err = decode(spoilt)
		lost, want := 0, 3
		if _, k := cutFrame(spoilt[n/block*block:]); k.generation == 0 {
			lost = 1 // else the byte lies in what fills a frame up
		}
		switch {
		case lost == 1 && n < block:
			want = 0 // the beginning
		case lost == 1:
			want = 2
		}
		if err != nil || len(c.entries) != want {
			t.Fatalf("byte %d spoilt: %d entries, want %d, %v", n, len(c.entries), want, err)
		}
	}
}

func TestNewerFormatIsPutAside(t *testing.T) {
	b := newBench(t)
	b.open().Close()
	dir, _ := b.disk.Dir("writes")
	f, err := dir.Create("writes.0")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(record{Version: version + 1, Snapshot: 1})
	f.WriteAt(frame(99, 0, text), 0)
	l := b.open()
	if err := l.Take(entry("a", 1)); err != nil {
		t.Fatal(err)
	}
	if files := b.disk.Files("writes"); !slices.Contains(files, "writes.0.newer") {
		t.Errorf("files: %s", strings.Join(files, " "))
	}
}

func FuzzDecode(f *testing.F) {
	first, _ := json.Marshal(record{Version: version, Snapshot: 1, Taken: []*Entry{entry("a", 1)}})
	f.Add(frame(1, 0, first))
	f.Add(append(frame(1, 0, first), frame(1, 1, []byte(`{"finished":[{"seq":1,"state":"failed"}],"told":[1]}`))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decode(data)
		if err != nil {
			return
		}
		last := uint64(0)
		for _, e := range c.entries {
			if e.Seq <= last {
				t.Fatalf("entry %d after %d", e.Seq, last)
			}
			last = e.Seq
		}
	})
}

// FuzzFrame has text come back out of its frame.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("{}"), uint64(3), uint64(4))
	f.Fuzz(func(t *testing.T, text []byte, generation, number uint64) {
		var r record
		b := frame(generation, number, text)
		n, k := cutFrame(b)
		if json.Unmarshal(text, &r) != nil {
			if n != 0 {
				t.Fatal("what is no JSON was taken for a frame")
			}
			return
		}
		if n != len(b) || k.generation != generation || k.number != number {
			t.Fatalf("%d of %d bytes, generation %d, number %d", n, len(b), k.generation, k.number)
		}
	})
}

// BenchmarkTake is what logging costs a write on the medium under TMPDIR.
func BenchmarkTake(b *testing.B) {
	for _, noSync := range []bool{false, true} {
		b.Run(map[bool]string{false: "synced", true: "unsynced"}[noSync], func(b *testing.B) {
			l, err := Open(Config{Dir: b.TempDir(), NoSync: noSync, Now: func() Moment { return Moment{} }})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				e := entry("", 1)
				if err := l.Take(e); err != nil {
					b.Fatal(err)
				}
				finish(l, e, "verified")
				l.Told(e.Seq)
			}
		})
	}
}
