package spool_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	. "edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

var (
	histories = flag.Int("spool.histories", usual(), "random histories to run in each mode")
	steps     = flag.Int("spool.steps", 150, "operations of each history")
	firstSeed = flag.Uint64("spool.seed", 1, "seed of the first random history")
)

// usual is how many histories a plain run takes, and test.sh --long.
func usual() int {
	if os.Getenv("GATEWAY_LONG") != "" {
		return 500
	}
	return 20
}

// TestHistories runs random lives of a log on a disk that fails: appends,
// acknowledgements in any order, consumers that come and go, kills in the
// middle of any operation, power cuts, failing writes and syncs, a full disk.
// A model keeps what must be true of each record.
func TestHistories(t *testing.T) {
	t.Parallel()
	for _, mode := range []SyncMode{Always, Interval, Off} {
		for _, faults := range []bool{false, true} {
			t.Run(fmt.Sprintf("mode=%d/faults=%t", mode, faults), func(t *testing.T) {
				t.Parallel()
				var sum tally
				for i := range uint64(*histories) {
					synctest.Test(t, func(t *testing.T) {
						h := newHistory(t, *firstSeed+i, mode, faults)
						h.run(*steps)
						sum.add(h.tally)
					})
				}
				t.Logf("%+v", sum)
			})
		}
	}
}

// A tally shows that histories met what they are for.
type tally struct {
	Appended, Refused, Delivered, Again, Gaps, Lost, Kills, Cuts, Closes int
	Large, LargeDelivered                                                int // those in parts
}

func (s *tally) add(o tally) {
	s.Appended += o.Appended
	s.Large += o.Large
	s.LargeDelivered += o.LargeDelivered
	s.Refused += o.Refused
	s.Delivered += o.Delivered
	s.Again += o.Again
	s.Gaps += o.Gaps
	s.Lost += o.Lost
	s.Kills += o.Kills
	s.Cuts += o.Cuts
	s.Closes += o.Closes
}

// A told is what a record's done has said.
type told int

const (
	pending told = iota
	safe
	unsafe
	gone // may be lost: a crash came before it was safe
)

// A modelRecord is one appended record.
type modelRecord struct {
	data    string
	lo, hi  Seq // its number is one of these; the same from when it was seen
	at      time.Time
	told    told
	volatil bool
	owed    map[string]bool // consumers that have not acknowledged it
	acked   map[string]int  // at which operation
	got     map[string]bool
}

// A modelID is what a message is known by upstream: it never names two.
type modelID struct {
	log string
	seq Seq
}

func (h *history) id(n Seq) modelID { return modelID{h.log.ID(), n} }

// A modelConsumer is one consumer and its readers in this life of the log.
type modelConsumer struct {
	name    string
	c       *Consumer
	readers []*modelReader
	opened  int // times that readers were opened since all was acknowledged
	gaps    map[Seq]Gap
}

type modelReader struct {
	*Reader
	last    Seq
	pending []Seq // handed out, not acknowledged
}

type history struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	mode   SyncMode
	faults bool
	disk   *spooltest.Disk
	cfg    Config
	log    *Log
	op     int
	hurt   bool // a fault came in this life: intervals do not hold
	full   bool // the disk is bounded

	mu        sync.Mutex // done is called by others
	records   map[string]*modelRecord
	bySeq     map[modelID]*modelRecord
	n         int
	consumers map[string]*modelConsumer
	tally
}

func newHistory(t *testing.T, seed uint64, mode SyncMode, faults bool) *history {
	h := &history{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, uint64(mode))), mode: mode, faults: faults,
		disk: spooltest.NewDisk("run"), records: make(map[string]*modelRecord),
		bySeq: make(map[modelID]*modelRecord), consumers: make(map[string]*modelConsumer),
	}
	h.cfg = config(t, h.disk, mode)
	h.cfg.Log = slog.New(slog.DiscardHandler)
	h.cfg = WithRingArea(h.cfg, 16<<10)
	h.cfg.Size = int64(2+h.rng.IntN(8)) * h.cfg.Segment
	h.cfg.Compress = h.rng.IntN(2) == 0
	if faults && h.rng.IntN(2) == 0 {
		h.disk.Limit(100<<10 + h.rng.Int64N(400<<10))
		h.hurt, h.full = true, true
	}
	t.Cleanup(func() {
		h.disk.Kill()
		h.log.Close()
	})
	h.open()
	for i := range 1 + h.rng.IntN(3) {
		h.consumer(fmt.Sprint("c", i))
	}
	return h
}

func (h *history) fatalf(format string, args ...any) {
	h.t.Helper()
	h.t.Fatalf("seed %d mode %d op %d: %s", h.seed, h.mode, h.op, fmt.Sprintf(format, args...))
}

func (h *history) open() {
	l, err := Open(h.cfg)
	if err != nil {
		h.fatalf("open: %v", err)
	}
	h.log = l
	for _, c := range h.all() {
		h.consumer(c.name)
	}
}

// trace says what happens, with -v and one history.
func (h *history) trace(format string, args ...any) {
	if *histories == 1 {
		h.t.Logf("op %d: %s", h.op, fmt.Sprintf(format, args...))
	}
}

func (h *history) consumer(name string) {
	c, err := h.log.Consumer(name)
	if err != nil {
		h.fatalf("consumer: %v", err)
	}
	m := h.consumers[name]
	if m == nil {
		m = &modelConsumer{name: name, gaps: make(map[Seq]Gap)}
		h.consumers[name] = m
	}
	m.c, m.readers = c, nil
	h.trace("consumer %s at %x, last %x, %s", name, c.Acked(), h.log.Last(), c.State())
}

func (h *history) run(ops int) {
	for h.op = range ops {
		synctest.Wait()
		if h.disk.Killed() {
			h.crash(false)
		}
		switch n := h.rng.IntN(100); {
		case n < 35:
			h.append(1 + h.rng.IntN(20))
		case n < 65:
			h.read(h.pick(), 1+h.rng.IntN(30))
		case n < 75:
			time.Sleep(time.Duration(h.rng.IntN(8000)) * time.Millisecond)
		case n < 80:
			h.crash(false)
		case n < 83:
			h.crash(true)
		case n < 86:
			h.close()
		case n < 90:
			h.disk.KillAt(1 + h.rng.IntN(30))
		case n < 92:
			h.drop()
		case n < 94 && len(h.consumers) > 1 && !h.faults:
			h.remove(h.pick())
		case n < 96 && len(h.consumers) < 5 && !h.faults:
			h.consumer(fmt.Sprint("x", h.op))
		case n < 98 && h.faults:
			h.fault()
		}
	}
	h.disk.Fail(nil)
	h.disk.Limit(0)
	time.Sleep(3 * time.Minute)
	if h.disk.Killed() {
		h.crash(false)
	}
	h.disk.Start()
	h.check()
	h.log.Close()
}

// all returns the consumers in an order that the seed decides.
func (h *history) all() (list []*modelConsumer) {
	for _, name := range slices.Sorted(maps.Keys(h.consumers)) {
		list = append(list, h.consumers[name])
	}
	return list
}

func (h *history) pick() *modelConsumer { return h.all()[h.rng.IntN(len(h.consumers))] }

func (h *history) append(n int) {
	for range n {
		h.n++
		size := h.rng.IntN(300)
		switch h.rng.IntN(40) {
		case 0, 1:
			size = h.rng.IntN(11000)
		case 2: // more than a block holds, in half of the histories more than a segment
			size = 11000 + h.rng.IntN(50000)
		}
		m := &modelRecord{
			data: fmt.Sprintf("%d:%s", h.n, h.filler(size)), at: time.Now(), volatil: h.rng.IntN(2) == 0,
			owed: make(map[string]bool), acked: make(map[string]int), got: make(map[string]bool),
		}
		rec := Record{Stamp: int64(h.n), Data: []byte(m.data), Volatile: m.volatil}
		for _, c := range h.all() {
			if h.rng.IntN(3) > 0 {
				m.owed[c.name] = true
				rec.Targets = append(rec.Targets, Target{Consumer: c.c.ID(), QoS: 1})
			}
		}
		m.lo = h.log.Last() + 1
		h.mu.Lock()
		h.records[m.data] = m
		h.mu.Unlock()
		large := len(m.data) > 11000
		if _, err := h.log.Append(rec, h.done(m)); err != nil {
			if !errors.Is(err, ErrDegraded) && !(large && (errors.Is(err, ErrFull) || errors.Is(err, ErrTooLarge))) {
				h.fatalf("append: %v", err)
			}
			h.Refused++
			delete(h.records, m.data)
			continue
		}
		h.Appended++
		if large {
			h.Large++
		}
		m.hi = h.log.Last()
		h.trace("append %x to %v", m.hi, slices.Sorted(maps.Keys(m.owed)))
	}
}

// filler returns what a record is filled with: some of it compresses well.
func (h *history) filler(size int) string {
	if h.rng.IntN(2) == 0 {
		return strings.Repeat("x", size)
	}
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(h.rng.Uint32())
	}
	return string(p)
}

func (h *history) done(m *modelRecord) func(error) {
	return func(err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		switch {
		case m.told != pending && m.told != gone:
			h.t.Errorf("seed %d: done called twice", h.seed)
		case m.told == gone:
		case err == nil:
			m.told = safe
		default:
			m.told = unsafe
		}
	}
}

// read reads up to n records with one of the consumer's readers and
// acknowledges some, in any order.
func (h *history) read(c *modelConsumer, n int) {
	switch {
	case len(c.readers) == 0:
		// A backlog pump and a live pump, as bridges do.
		b := h.log.Last()
		if c.opened++; c.c.Acked() == b {
			c.opened = 1
		}
		c.readers = append(c.readers, &modelReader{Reader: c.c.Reader(c.c.Acked(), b)}, &modelReader{Reader: c.c.Reader(b, 0)})
	case h.rng.IntN(10) == 0:
		for _, r := range c.readers {
			r.Close()
		}
		c.readers = nil
		return
	}
	i := h.rng.IntN(len(c.readers))
	for range n {
		ctx, cancel := context.WithTimeout(h.t.Context(), time.Millisecond)
		rec, err := c.readers[i].Next(ctx, nil)
		cancel()
		if errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			h.fatalf("next: %v", err)
		}
		r := c.readers[i]
		h.delivered(c, r, rec)
		r.pending = append(r.pending, rec.Seq)
		for len(r.pending) > 0 && h.rng.IntN(3) > 0 {
			h.ackSome(c, r)
		}
	}
}

// ackSome acknowledges one of the oldest three, so that no more ranges arise
// than a cursor keeps.
func (h *history) ackSome(c *modelConsumer, r *modelReader) {
	i := h.rng.IntN(min(3, len(r.pending)))
	n := r.pending[i]
	r.pending = append(r.pending[:i], r.pending[i+1:]...)
	h.trace("%s acks %x", c.name, n)
	c.c.Ack(n)
	if m := h.bySeq[h.id(n)]; m != nil {
		delete(m.owed, c.name)
		m.acked[c.name] = h.op
	}
}

// delivered checks one record that a reader returned.
func (h *history) delivered(c *modelConsumer, r *modelReader, rec Record) {
	h.trace("%s reader %d-> %x %+v", c.name, slices.Index(c.readers, r), rec.Seq, rec.Gap)
	if rec.Gap != nil {
		h.Gaps++
		c.gaps[rec.Seq] = *rec.Gap
		if h.bySeq[h.id(rec.Seq)] != nil {
			h.fatalf("gap %x has the number of a record", rec.Seq)
		}
		return
	}
	h.mu.Lock()
	m := h.records[string(rec.Data)]
	h.mu.Unlock()
	switch {
	case m == nil:
		h.fatalf("%s got %.20q at %x, which was never appended", c.name, rec.Data, rec.Seq)
	case rec.Seq < m.lo || rec.Seq > m.hi || h.bySeq[h.id(rec.Seq)] != nil && h.bySeq[h.id(rec.Seq)] != m:
		h.fatalf("%.20q comes as %x, was appended as %x to %x", rec.Data, rec.Seq, m.lo, m.hi)
	case rec.Seq <= r.last:
		h.fatalf("%s got %x after %x", c.name, rec.Seq, r.last)
	case len(rec.Targets) != 1 || rec.Targets[0].Consumer != c.c.ID() || fmt.Sprintf("%d:", rec.Stamp) != string(rec.Data[:strings.IndexByte(m.data, ':')+1]):
		h.fatalf("%s got %+v", c.name, rec)
	}
	if op, ok := m.acked[c.name]; ok {
		h.Again++
		if op >= 0 {
			h.fatalf("%s got %x again, which it acknowledged at %d", c.name, rec.Seq, op)
		}
	} else if !m.owed[c.name] {
		h.fatalf("%s got %x, which it is not owed", c.name, rec.Seq)
	}
	h.bySeq[h.id(rec.Seq)] = m
	m.lo, m.hi = rec.Seq, rec.Seq
	r.last = rec.Seq
	m.got[c.name] = true
	h.Delivered++
	if len(rec.Data) > 11000 {
		h.LargeDelivered++
	}
}

// crash ends the process, by a kill or by a power cut, and begins another.
func (h *history) crash(power bool) {
	h.trace("crash power=%t killed=%t", power, h.disk.Killed())
	for _, c := range h.all() {
		h.trace("%s %s", c.name, c.c.State())
	}
	killed := h.disk.Killed() // some operations ago
	if power {
		h.Cuts++
		h.disk.PowerCut(h.rng)
	} else {
		h.Kills++
		h.disk.Kill()
	}
	h.mu.Lock()
	for _, m := range h.records {
		h.crashed(m, power, killed)
	}
	h.mu.Unlock()
	h.log.Close()
	h.reopen()
}

// crashed says what a crash may do to a record.
func (h *history) crashed(m *modelRecord, power, killed bool) {
	old := time.Since(m.at) > h.cfg.Sync.Every+5100*time.Millisecond
	switch {
	case m.told == pending:
		m.told = gone
	case h.mode == Off:
		m.told = gone
	case power && h.mode == Interval && (!old || h.hurt):
		m.told = gone
	}
	for name, op := range m.acked {
		// Readers that end leave holes, and a cursor keeps eight ranges only.
		holes := h.consumers[name] == nil || h.consumers[name].opened > 1
		if power || h.hurt || killed && op >= h.op-2 || h.mode == Off || holes {
			m.acked[name] = -1 // may come again
		}
	}
}

func (h *history) reopen() {
	if h.rng.IntN(8) == 0 {
		h.cfg.Compress = !h.cfg.Compress
	}
	h.hurt = h.disk.Failing() || h.full
	h.disk.Fail(nil)
	h.disk.Start()
	h.open()
}

// close ends the log politely.
func (h *history) close() {
	h.trace("close")
	h.Closes++
	err := h.log.Close()
	h.mu.Lock()
	for _, m := range h.records {
		if m.told == pending || err != nil && h.mode == Off {
			m.told = gone
		}
		for name := range m.acked {
			if err != nil || h.hurt || h.disk.Killed() || h.consumers[name] == nil || h.consumers[name].opened > 1 {
				m.acked[name] = -1
			}
		}
	}
	h.mu.Unlock()
	if err != nil && !h.hurt && !h.disk.Killed() {
		h.fatalf("close: %v", err)
	}
	h.disk.Kill()
	h.reopen()
}

func (h *history) drop() {
	rec := Record{}
	for _, c := range h.all() {
		rec.Targets = append(rec.Targets, Target{Consumer: c.c.ID()})
	}
	h.log.Drop(rec)
}

func (h *history) remove(c *modelConsumer) {
	if err := h.log.Remove(c.name); err != nil && !h.disk.Killed() {
		h.fatalf("remove: %v", err)
	}
	for _, m := range h.records {
		delete(m.owed, c.name)
	}
	delete(h.consumers, c.name)
}

// fault makes some operations fail from now on, or none.
func (h *history) fault() {
	if h.disk.Failing() && h.rng.IntN(2) == 0 {
		h.disk.Fail(nil)
		return
	}
	h.hurt = true
	kinds := []string{"write", "sync", "rename", "syncdir", "create"}
	kind := kinds[h.rng.IntN(len(kinds))]
	every := 1 + h.rng.IntN(6)
	err := []error{syscall.EIO, syscall.EROFS, syscall.ENOSPC}[h.rng.IntN(3)]
	card := h.rng.IntN(4) > 0
	h.trace("fault %s every %d %v card=%t", kind, every, err, card)
	h.disk.Fail(func(op spooltest.Op) error {
		if op.Kind == kind && op.N%every == 0 && (op.Dir == "card") == card {
			return err
		}
		return nil
	})
}

// check reads all that is left and looks for what is missing.
func (h *history) check() {
	for _, c := range h.all() {
		for _, r := range c.readers {
			r.Close()
		}
		r := &modelReader{Reader: c.c.Reader(0, h.log.Last())}
		for {
			rec, err := r.Next(h.t.Context(), nil)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				h.fatalf("next: %v", err)
			}
			h.delivered(c, r, rec)
			c.c.Ack(rec.Seq)
		}
		r.Close()
		h.missing(c)
		if b := c.c.Backlog(); b != (Backlog{}) {
			h.fatalf("%s has backlog %+v after all was read", c.name, b)
		}
	}
}

// missing fails unless all that c was owed and never got is in a gap.
func (h *history) missing(c *modelConsumer) {
	var counted uint64
	for _, g := range c.gaps {
		counted += g.Count
	}
	lost := 0
	for _, m := range h.records {
		if !m.owed[c.name] || m.got[c.name] || m.told != safe {
			continue
		}
		lost++
		covered := false
		for _, g := range c.gaps {
			covered = covered || g.First <= m.hi && m.lo <= g.Last
		}
		if !covered {
			h.fatalf("%s never got %x (%.20q), which was safe", c.name, m.hi, m.data)
		}
	}
	h.Lost += lost
	if uint64(lost) > counted {
		h.fatalf("%s lost %d records, gaps tell of %d", c.name, lost, counted)
	}
}
