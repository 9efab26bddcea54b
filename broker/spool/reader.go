package spool

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"
)

// A Reader hands out, in order, the records that its consumer is owed and has
// not acknowledged. One goroutine uses it; several readers of one consumer may
// be at work at once.
type Reader struct {
	l     *Log
	c     *Consumer
	pos   Seq  // all up to here is done with
	until Seq  // last number of interest; 0: none
	seen  Seq  // up to here the consumer knows what was handed out or passed over
	peek  bool // leave no trace in the consumer

	seg    *segment // being read; nil: none
	file   File
	scan   scanner
	in     bool // scan.block holds records to look at
	large  assembly
	read   uint32 // generation of the last segment read to its end that goes on in the next
	fails  int    // reads in a row
	sub    []uint32
	target [1]Target
}

// Reader returns a reader of the records after one number up to another, both
// included in neither gap nor order of other readers; until 0 means for ever.
// Gaps to report come first, whatever their range, and once among all readers
// until the one that handed them out is closed.
func (c *Consumer) Reader(after, until Seq) *Reader {
	return &Reader{l: c.l, c: c, pos: after, until: until, seen: after}
}

// Scan is Reader for looking only: it hands out no gaps, and the consumer does
// not learn what was read. Damage is passed over.
func (c *Consumer) Scan(after, until Seq) *Reader {
	r := c.Reader(after, until)
	r.peek = true
	return r
}

// buffers lends readers what they read blocks into.
var buffers = sync.Pool{New: func() any { b := make([]byte, blockTarget+2*pageSize); return &b }}

// Next returns the next record, its data appended to dst[:0] unless it is a
// large one, which has its own, and waits for new ones at the end of the log. It returns io.EOF past the reader's last
// number, ErrClosed when the log is closed, and ErrRemoved.
func (r *Reader) Next(ctx context.Context, dst []byte) (Record, error) {
	for {
		rec, wait, err := r.step(dst)
		if err != nil || rec.Seq != 0 {
			return rec, err
		}
		if r.in {
			if rec, ok := r.fromBlock(dst); ok {
				return rec, nil
			}
			continue
		}
		if wait == nil {
			if wait = r.nextBlock(); wait == nil {
				continue
			}
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return Record{}, ctx.Err()
		}
	}
}

// step returns what is at hand in memory: a gap, a record of the tail, the
// end, or what to wait for. None of them means that the medium has more.
func (r *Reader) step(dst []byte) (rec Record, wait <-chan struct{}, err error) {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case r.c.removed:
		return rec, nil, ErrRemoved
	case l.closing:
		return rec, nil, ErrClosed
	}
	if g := r.takeGapLocked(); g != nil {
		return Record{Seq: g.seq, Gap: &Gap{g.First, g.Last, g.Count, g.Reason}}, nil, nil
	}
	if r.in {
		return rec, nil, nil
	}
	if r.pos < l.settledLocked() && !r.endLocked() {
		if r.enterLocked() {
			return rec, nil, nil
		}
		r.pos = l.settledLocked()
	}
	for _, e := range l.afterLocked(r.pos) {
		if r.until != 0 && e.seq > r.until {
			break
		}
		r.pos = e.seq
		if e.owed&r.c.bit() != 0 {
			r.handLocked(e.seq)
			return r.record(e, dst), nil, nil
		}
	}
	r.pos = max(r.pos, l.last)
	r.passLocked(min(r.pos, r.untilOr(r.pos)))
	if r.endLocked() {
		return rec, nil, io.EOF
	}
	if l.news == nil {
		l.news = make(chan struct{})
	}
	return rec, l.news, nil
}

func (r *Reader) untilOr(n Seq) Seq {
	if r.until == 0 {
		return n
	}
	return r.until
}

func (r *Reader) endLocked() bool { return r.until != 0 && r.pos >= r.until }

// passLocked tells the consumer that nothing is owed between what was last
// handed out and n, n included.
func (r *Reader) passLocked(n Seq) {
	if n > r.seen && !r.peek {
		r.c.passLocked(r.seen+1, n)
	}
	r.seen = max(r.seen, n)
}

// handLocked counts n as handed out.
func (r *Reader) handLocked(n Seq) {
	r.passLocked(n - 1)
	r.seen = max(r.seen, n)
}

func (r *Reader) takeGapLocked() *gap {
	if r.peek {
		return nil
	}
	for i := range r.c.gaps {
		if g := &r.c.gaps[i]; g.by == nil {
			g.by = r
			return g
		}
	}
	return nil
}

// record returns an entry of the tail.
func (r *Reader) record(e *entry, dst []byte) Record {
	rec := Record{Seq: e.seq, Stamp: e.stamp}
	if e.boot != nil {
		rec.Boot = *e.boot
	} else {
		rec.Boot = r.l.timeRef().boot
	}
	r.fill(&rec, e.body, dst)
	return rec
}

// fill decodes a body; false when it is none or names others only.
func (r *Reader) fill(rec *Record, body, dst []byte) bool {
	data, ok := r.mine(body)
	if !ok {
		return false
	}
	rec.Targets = r.target[:]
	rec.Data = append(dst[:0], data...)
	return true
}

// mine returns the data of a body, and makes r.target the one of its targets
// that is meant.
func (r *Reader) mine(body []byte) (data []byte, mine bool) {
	data, err := parseBody(body, r.sub, func(t Target) {
		if t.Consumer == r.c.id {
			r.target[0], mine = t, true
			r.target[0].SubIDs = append([]uint32(nil), t.SubIDs...)
		}
	})
	return data, err == nil && mine
}

// enterLocked makes r.seg the segment that holds what comes after r.pos.
// false: the segments have nothing more.
func (r *Reader) enterLocked() bool {
	if r.seg != nil && !r.seg.gone && r.awaitsLocked(r.seg) {
		r.scan.end = r.seg.end
		return true
	}
	r.leave()
	for _, s := range r.l.segs {
		if !r.awaitsLocked(s) {
			continue
		}
		if s.mask&r.c.bit() == 0 {
			r.pos = max(r.pos, s.last)
			continue
		}
		if s.after > r.pos {
			if s.hole {
				r.lostLocked(s.after)
			}
			r.pos = s.after
		}
		r.seg = s
		r.scan = scanner{gen: s.gen, logID: s.logID, off: s.startLocked(r.pos), end: s.end, buf: r.scan.buf, dec: r.l.decoder}
		return true
	}
	return false
}

// awaitsLocked tells whether a segment has something beyond what was read: at
// its end that may be parts of the next record.
func (r *Reader) awaitsLocked(s *segment) bool {
	return r.pos < s.last || r.pos < s.parts && s.gen > r.read
}

// endSegmentLocked moves on from the end of r.seg. What it should have held
// and did not is damage.
func (r *Reader) endSegmentLocked() {
	r.lostLocked(r.seg.last)
	if r.seg.parts != 0 {
		r.read = r.seg.gen
	}
}

const (
	readTries = 3           // before a page that cannot be read counts as damage
	readPause = time.Second // between them
)

// nextBlock reads on in r.seg. It returns what to wait for when reading fails.
func (r *Reader) nextBlock() <-chan struct{} {
	err := r.open()
	found := err == nil && r.scan.next()
	if err == nil {
		err = r.scan.err
	}
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.seg.gone {
		r.pos = max(r.pos, r.seg.last)
		return nil
	}
	if err != nil {
		return r.failLocked(err)
	}
	r.fails = 0
	l.stats.DamagedBytes += uint64(r.scan.skipped)
	b := &r.scan.block
	switch {
	case !found:
		switch {
		case r.scan.end != r.seg.end: // there is more by now
		case r.seg.blind:
			r.pos = r.seg.last
		default:
			r.endSegmentLocked()
		}
	case b.last > r.seg.last: // of a commit that failed and was written again elsewhere
	default:
		r.lostLocked(b.first - 1)
		r.in = true
	}
	return nil
}

// failLocked deals with a segment that cannot be opened or read: it may be for
// a moment only, so what is unreadable is damage after some tries, and a
// segment that is there is never given up.
func (r *Reader) failLocked(err error) <-chan struct{} {
	r.l.stats.IOErrors++
	r.fails++
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.endSegmentLocked()
		return nil
	case r.file != nil && r.fails >= readTries:
		r.fails = 0
		r.scan.skip()
		r.l.stats.DamagedBytes += pageSize
		return nil
	case r.fails == 1:
		r.l.log.Warn("spool segment cannot be read, trying again", "file", r.seg.name, "err", err)
	}
	c := make(chan struct{})
	time.AfterFunc(readPause, func() { close(c) })
	return c
}

// open opens the file of r.seg unless it is.
func (r *Reader) open() error {
	if r.file != nil {
		return nil
	}
	if r.scan.buf == nil {
		r.scan.buf = *buffers.Get().(*[]byte)
	}
	f, err := r.l.dir.Open(r.seg.name)
	if err != nil {
		return err
	}
	r.file, r.scan.f, r.scan.patient = f, f, true
	return nil
}

// lostLocked moves on to n, over damage if that is beyond the next number.
func (r *Reader) lostLocked(n Seq) {
	if n > r.pos {
		r.damagedLocked(r.pos+1, n)
		r.pos = n
	}
}

// damagedLocked makes lo to hi a gap unless the consumer has them all.
func (r *Reader) damagedLocked(lo, hi Seq) {
	hi = min(hi, r.untilOr(hi))
	if r.peek || hi < lo || !r.c.acked.add(lo, hi) {
		return
	}
	g := Gap{First: lo, Last: hi, Reason: ReasonDamage}
	if lo>>counterBits == hi>>counterBits {
		g.Count = uint64(hi-lo) + 1
	}
	r.c.loseLocked(g)
	if r.c.idleLocked() {
		r.c.records, r.c.bytes = 0, 0
	}
	wake(r.l.frontKick)
}

// fromBlock returns the next record of the block at hand that is owed.
func (r *Reader) fromBlock(dst []byte) (Record, bool) {
	b := &r.scan.block
	if b.part {
		r.in = false
		return r.fromPart()
	}
	for {
		s, ok := b.next()
		if !ok || r.until != 0 && s.seq > r.until {
			r.in = false
			r.pos = max(r.pos, min(b.last, r.untilOr(b.last)))
			return Record{}, false
		}
		if s.seq <= r.pos {
			continue
		}
		r.pos = s.seq
		rec := Record{Seq: s.seq, Stamp: s.stamp, Boot: b.time.boot}
		if r.fill(&rec, s.body, dst) && r.owed(s.seq) {
			return rec, true
		}
	}
}

// fromPart takes the part in the block at hand, and returns the record with the
// last one.
func (r *Reader) fromPart() (Record, bool) {
	b := &r.scan.block
	p, ok := b.piece()
	var body []byte
	switch {
	case !ok || b.mask&r.c.bit() == 0 || p.seq <= r.pos || r.until != 0 && p.seq > r.until || p.off == 0 && r.done(p.seq):
		r.large = assembly{}
	default:
		body = r.large.add(&p)
	}
	if b.ends && body == nil && b.mask&r.c.bit() != 0 {
		r.lost(b.last)
	}
	r.pos = max(r.pos, min(b.last, r.untilOr(b.last)))
	if body == nil {
		return Record{}, false
	}
	rec := Record{Seq: p.seq, Stamp: p.stamp, Boot: b.time.boot}
	data, ok := r.mine(body)
	rec.Targets, rec.Data = r.target[:], data
	return rec, ok && r.owed(p.seq)
}

func (r *Reader) done(n Seq) bool {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	return r.c.acked.contains(n)
}

func (r *Reader) lost(n Seq) {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.lostLocked(min(n, r.untilOr(n)))
}

// owed tells whether the consumer still waits for n, and if so counts it as
// handed out.
func (r *Reader) owed(n Seq) bool {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	if r.c.removed || r.c.acked.contains(n) {
		return false
	}
	r.handLocked(n)
	return true
}

// leave gives up the segment being read.
func (r *Reader) leave() {
	if r.file != nil {
		r.file.Close()
	}
	r.file, r.seg, r.in = nil, nil, false
	for _, b := range [][]byte{r.scan.buf, r.scan.raw} {
		if b = b[:cap(b)]; len(b) == blockTarget+2*pageSize {
			buffers.Put(&b)
		}
	}
	r.scan = scanner{}
}

// Close ends the reader. Gaps that it handed out and that were not
// acknowledged are handed out again by others.
func (r *Reader) Close() {
	r.leave()
	r.large = assembly{}
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	for i := range r.c.gaps {
		if r.c.gaps[i].by == r {
			r.c.gaps[i].by = nil
			r.l.newsLocked()
		}
	}
}
