package spool

import (
	"errors"
	"fmt"
	"syscall"
)

// A record that no block can hold is written in parts, alone in its commit,
// across as many segments as it takes. The files for it are found before the
// first byte is written, so that nothing else has to be stored in between, and
// readers see nothing of it before the last part is durable.

const (
	maxLarge   = 257 << 20 // of a body: the largest MQTT packet, and what we add
	largePiece = 1 << 20   // about what one write of it takes
)

// errNoRoom: there are not enough files, and not room for more, for a record.
var errNoRoom = errors.New("no room for a record of this size")

// isLarge tells whether a body has to be cut.
func (l *Log) isLarge(size int) bool { return size > l.recordMax }

// partRoom returns how much of a large body a new segment takes at least.
func partRoom(segment int64) int {
	room := int(segment) - pageSize - 2*cursorRoom
	return room - (room/blockTarget+1)*partOverhead
}

// largestBody returns the longest body that a log takes: what fits into half
// of its files, so that no record can drive out all others.
func largestBody(cfg *Config) int {
	files := max(1, cfg.Size/cfg.Segment/2)
	return int(min(files*int64(partRoom(cfg.Segment))-cursorRoom, maxLarge))
}

// SizeFor returns the least Config.Size of a log that takes records of n bytes
// and what belongs to them, with segments of the usual size.
func SizeFor(n int64) int64 {
	if n <= maxRecord/2 {
		return 2 * defaultSegment
	}
	room := int64(partRoom(defaultSegment))
	files := (n + maxRecord/2 + cursorRoom + room - 1) / room
	return 2 * files * defaultSegment
}

// A largeWrite is a record on its way to the medium.
type largeWrite struct {
	l      *Log
	b      *batch
	e      *entry
	off    int // what of its body is written
	after  Seq // what blocks cover so far
	at     timeRef
	tables batch // the cursors as of before it
	room   int   // for those as of after it
	spares []string
	done   []*stretch
	buf    []byte
	zip    []byte
}

// A stretch is what one segment holds of it.
type stretch struct {
	*segment
	f         File
	fresh     bool // the segment was begun for it
	from, end int64
	no, group uint32
	covered   Seq // before it
}

// writeLarge writes a batch of one large record.
func (l *Log) writeLarge(b *batch) (err error) {
	k := &l.card
	w := &largeWrite{l: l, b: b, e: b.entries[0], after: b.after, at: l.timeRef(), buf: k.buf[:0]}
	if w.spares, err = l.holdSpares((len(w.e.body) + cursorRoom + partRoom(l.cfg.Segment) - 1) / partRoom(l.cfg.Segment)); err != nil {
		return err
	}
	defer func() {
		l.releaseSpares(w.spares)
		if k.buf = w.buf[:0]; cap(k.buf) > 2*largePiece {
			k.buf = nil
		}
	}()
	w.takeCursors()
	if k.active != nil {
		err = w.fill(&stretch{segment: k.active, f: k.f, end: k.end, no: k.no, group: k.no})
	}
	for err == nil && w.off < len(w.e.body) {
		err = w.begin()
	}
	if err != nil {
		w.undo()
		return err
	}
	w.publish()
	return nil
}

// holdSpares returns n files to use. What they cost others is paid then.
func (l *Log) holdSpares(n int) (names []string, err error) {
	if !l.affords(n) {
		return nil, fmt.Errorf("%w: %d segment files are needed", errNoRoom, n)
	}
	for range n {
		name, err := l.spare()
		if err != nil {
			l.releaseSpares(names)
			if errors.Is(err, syscall.ENOSPC) && !l.card.failed {
				err = fmt.Errorf("%w: %w", errNoRoom, err)
			}
			return nil, err
		}
		names = append(names, name)
		l.card.held++
	}
	return names, nil
}

func (l *Log) releaseSpares(names []string) {
	l.card.held -= len(names)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spares = append(l.spares, names...)
}

// affords tells whether n files can be had: those that are ready, those that
// may be made, and those of older records.
func (l *Log) affords(n int) bool {
	l.mu.Lock()
	ready, used := len(l.spares), len(l.segs)
	l.mu.Unlock()
	if n <= ready+used-1 {
		return true
	}
	more := l.cfg.Size/l.cfg.Segment - int64(ready+used)
	if free, total, err := l.dir.Free(); err == nil {
		more = min(more, (free-l.reserve(total))/l.cfg.Segment)
	}
	if l.card.active != nil {
		used--
	}
	return int64(n) <= int64(ready+used)+max(more, 0)
}

// takeCursors notes the cursors: making room for the record may have changed
// them.
func (w *largeWrite) takeCursors() {
	l := w.l
	l.mu.Lock()
	w.tables = batch{after: w.b.after, last: w.b.after}
	l.cursorsOf(&w.tables)
	w.b.cursors, w.b.changed = nil, 0
	l.cursorsOf(w.b)
	l.mu.Unlock()
	for i := range w.b.cursors {
		if c := &w.b.cursors[i]; w.b.changed&(1<<c.consumer) != 0 {
			w.room += len(appendCursor(nil, c))
		}
	}
}

// begin goes on in a new segment.
func (w *largeWrite) begin() error {
	l, k := w.l, &w.l.card
	if len(w.spares) == 0 {
		return fmt.Errorf("record %d took more segments than it was given", w.e.seq) // a fault of ours
	}
	spare := w.spares[len(w.spares)-1]
	w.spares = w.spares[:len(w.spares)-1]
	k.held--
	gen := k.nextGen
	k.nextGen++
	h := w.header(gen)
	s := &stretch{segment: &segment{name: segmentName(h.after, gen), gen: gen, logID: l.id, after: h.after, size: l.cfg.Segment}, fresh: true}
	if err := l.dir.Rename(spare, s.name); err != nil {
		return fmt.Errorf("rename spare segment: %w", err)
	}
	f, err := l.dir.Open(s.name)
	if err == nil {
		s.f = f
		p := place{gen: gen, logID: l.id, time: w.at, table: true}
		w.buf, s.no = appendBlocks(appendHeader(w.buf[:0], h), &w.tables, p)
		err = w.fill(s)
	}
	if err == nil {
		err = l.dir.Sync()
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		l.discard(s.name)
		return fmt.Errorf("begin segment %s: %w", s.name, err)
	}
	return nil
}

// header returns that of the next segment.
func (w *largeWrite) header(gen uint32) header {
	l, k := w.l, &w.l.card
	h := header{version: uint16(l.format), logID: l.id, gen: gen, after: w.after, inside: w.off > 0}
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.prev != nil {
		h.prevGen, h.prevEnd, h.prevMask = k.prev.gen, k.prev.end, k.prev.mask
	}
	if n := len(w.done); n > 0 {
		s := w.done[n-1]
		h.prevGen, h.prevEnd, h.prevMask = s.gen, s.end, s.mask|w.b.mask
	}
	return h
}

// fill writes what w.buf holds and then parts to the end of a segment, or of
// the record, and syncs them.
func (w *largeWrite) fill(s *stretch) error {
	l := w.l
	s.from, s.covered = max(s.end, pageSize), w.after
	limit := l.cfg.Segment - cursorRoom // which saveCursors may need
	for {
		n := w.size(limit - s.end - int64(len(w.buf)))
		if n > 0 {
			w.appendPart(s, n)
		}
		if n > 0 && len(w.buf) < largePiece {
			continue
		}
		if len(w.buf) > 0 {
			if _, err := s.f.WriteAt(w.buf, s.end); err != nil {
				return fmt.Errorf("write segment %s at %d: %w", s.name, s.end, err)
			}
			l.count(func(st *Stats) { st.BytesWritten += uint64(len(w.buf)) })
			s.end += int64(len(w.buf))
			w.buf = w.buf[:0]
		}
		if n <= 0 {
			break
		}
	}
	if s.end == s.from && !s.fresh {
		return nil // there is no room
	}
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("sync segment %s: %w", s.name, err)
	}
	l.count(func(st *Stats) { st.Syncs++ })
	w.done = append(w.done, s)
	return nil
}

// size returns how long the next part may be in a segment that has so much
// room left; 0: there is none, or nothing to write. The last part leaves room
// for the cursors.
func (w *largeWrite) size(room int64) int {
	rest := len(w.e.body) - w.off
	n := min(rest, int(min(room, blockTarget))-partOverhead)
	if n == rest && int64(n+partOverhead+w.room) > room {
		n--
	}
	return max(n, 0)
}

func (w *largeWrite) appendPart(s *stretch, n int) {
	bw := blockWriter{dst: w.buf, zip: w.zip, p: place{gen: s.gen, no: s.no, logID: w.l.id, enc: w.l.encoder()}, group: s.group}
	bw.begin(w.after, w.at)
	p := part{stored{w.e.seq, w.e.stamp, w.e.body[w.off : w.off+n]}, len(w.e.body), w.off}
	bw.body = appendPart(nil, &p, bw.blk.first, w.at.at)
	bw.blk.part, bw.blk.mask, bw.blk.records = true, w.b.mask, 1
	w.off += n
	w.after = w.e.seq - 1
	if bw.blk.ends = w.off == len(w.e.body); bw.blk.ends {
		bw.cursors(w.b, w.b.changed)
		w.after = w.b.last
	}
	bw.end(w.after)
	w.buf, w.zip, s.no = bw.dst, bw.zip, bw.p.no
}

// undo gives up what was begun. The active segment, of which readers have seen
// nothing new, is no longer written to.
func (w *largeWrite) undo() {
	for _, s := range w.done {
		if s.fresh {
			s.f.Close()
			w.l.discard(s.name)
		}
	}
}

// publish shows readers what was written.
func (w *largeWrite) publish() {
	l, k := w.l, &w.l.card
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range w.done {
		seg := s.segment
		seg.marks = append(seg.marks, mark{s.covered, s.from})
		seg.end, seg.last, seg.mask = s.end, w.b.last, seg.mask|w.b.mask
		if i+1 < len(w.done) {
			seg.last, seg.parts = w.e.seq-1, w.e.seq
			s.f.Close()
		}
		if s.fresh {
			l.segs = append(l.segs, seg)
		}
	}
	s := w.done[len(w.done)-1]
	if k.f != s.f && k.f != nil && w.done[0].fresh {
		k.f.Close() // of the active segment, which had no room
	}
	k.active, k.prev, k.f, k.end, k.no = s.segment, s.segment, s.f, s.end, s.no
}

// giveUp loses a record for which there is no room.
func (l *Log) giveUp(b *batch, err error) {
	e := b.entries[0]
	l.log.Error("a message is too large for the room that its spool has left, it is lost: make room on the medium, or the spool larger, or max_packet smaller",
		"bytes", len(e.body), "err", err)
	l.mu.Lock()
	l.eachLocked(e.owed, func(c *Consumer) {
		if !c.acked.add(e.seq, e.seq) {
			return
		}
		c.version++
		if c.records > 0 {
			c.records--
			c.bytes = max(0, c.bytes-int64(len(e.body)))
		}
		c.loseLocked(Gap{e.seq, e.seq, 1, ReasonQuota})
		c.changedLocked(e.seq)
	})
	tell := !e.told
	e.told = true
	l.mu.Unlock()
	if tell {
		e.tell(ErrTooLarge)
	}
	l.mu.Lock()
	if tell {
		l.untold--
	}
	l.trimLocked()
	l.mu.Unlock()
	wake(l.frontKick)
}

// An assembly puts the parts of a record together. What does not follow on
// what came before is no record.
type assembly struct {
	seq  Seq // 0: none
	body []byte
}

// add returns the whole body with the last part, nil else.
func (a *assembly) add(p *part) []byte {
	if p.off == 0 {
		a.seq, a.body = p.seq, make([]byte, 0, p.total) // at most maxLarge, and what is not used costs nothing
	}
	if a.seq != p.seq || len(a.body) != p.off {
		*a = assembly{}
		return nil
	}
	a.body = append(a.body, p.body...)
	if len(a.body) < p.total {
		return nil
	}
	body := a.body
	*a = assembly{}
	return body
}
