package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/klauspost/compress/zstd"
)

// A card is the committer's own part of the log: the segment being written
// and the spare being made.
//
// Segments are written with zeros once and then used again and again, under a
// new generation: writing into blocks that the file system has already given
// out costs one flush and no journal, and cannot run out of space.
type card struct {
	active  *segment // nil: the next commit begins a new one
	f       File     // of active
	end     int64    // of what is durable in active
	no      uint32   // number of the next block in active
	prev    *segment // before active: the last one begun
	nextGen uint32
	noGrow  int64 // when to try again to make a file, by Log.now
	failed  bool  // the last write failed for another reason than space
	held    int   // files set aside for a large record
	buf     []byte
	enc     *zstd.Encoder // nil: not needed yet

	growing  File // spare being written with zeros; nil: none
	growName string
	grown    int64
}

const (
	keepSpares = 8
	zeroPiece  = 256 << 10
)

var zeros [zeroPiece]byte

func (k *card) close() {
	if k.f != nil {
		k.f.Close()
		k.f = nil
	}
}

// write brings a batch to the medium: into the active segment, else into
// another one. What failed is never tried again on the same file, nor is the
// file read to prove anything: after an error of a sync the kernel may show
// data that the medium never got.
func (l *Log) write(b *batch) (err error) {
	if l.unlisted {
		return errUnlisted
	}
	for range 3 {
		if err = l.writeOnce(b); err == nil {
			l.card.failed = false
			return nil
		}
		if errors.Is(err, errNoRoom) { // for this record; others may fit
			return err
		}
		l.card.failed = l.card.failed || !errors.Is(err, syscall.ENOSPC)
		l.count(func(s *Stats) { s.IOErrors++ })
		l.card.close()
		l.card.active = nil
	}
	return err
}

func (l *Log) count(fn func(*Stats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn(&l.stats)
}

func (l *Log) writeOnce(b *batch) error {
	k := &l.card
	if l.cfg.Compress || b.large {
		l.raiseFormat()
	}
	if err := l.freshenMeta(); err != nil {
		return err
	}
	if b.large {
		return l.writeLarge(b)
	}
	p := place{logID: l.id, time: l.timeRef(), targets: blockTarget, enc: l.encoder()}
	if s := k.active; s != nil {
		p.gen, p.no = s.gen, k.no
		buf, no := appendBlocks(k.buf[:0], b, p)
		k.buf = buf[:0]
		if k.end+int64(len(buf)) <= l.cfg.Segment-cursorRoom { // which saveCursors may need
			return l.append(b, buf, no)
		}
	}
	return l.begin(b, p)
}

// raiseFormat makes the log one that older programs refuse, before it gets
// what they cannot read: META says so first, and a new segment.
func (l *Log) raiseFormat() {
	if l.format == formatVersion {
		return
	}
	l.mu.Lock()
	l.format = formatVersion
	l.mu.Unlock()
	l.metaStale.Store(true)
	l.card.close()
	l.card.active = nil
}

// append writes blocks at the end of the active segment.
func (l *Log) append(b *batch, buf []byte, no uint32) error {
	k := &l.card
	if err := l.put(k.f, buf, k.end); err != nil {
		return fmt.Errorf("write segment %s at %d: %w", k.active.name, k.end, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.extendLocked(k.active, b, k.end, int64(len(buf)))
	k.end, k.no = k.end+int64(len(buf)), no
	return nil
}

func (l *Log) put(f File, p []byte, off int64) error {
	if _, err := f.WriteAt(p, off); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	l.count(func(s *Stats) { s.Syncs++; s.BytesWritten += uint64(len(p)) })
	return nil
}

// extendLocked shows readers what was written at off.
func (l *Log) extendLocked(s *segment, b *batch, off, n int64) {
	if m := len(s.marks); m == 0 || off-s.marks[m-1].off >= markDistance {
		s.marks = append(s.marks, mark{b.after, off})
	}
	s.end, s.last = off+n, b.last
	s.mask |= b.mask
}

// begin writes the batch as the first of a new segment.
func (l *Log) begin(b *batch, p place) error {
	k := &l.card
	spare, err := l.spare()
	if err != nil {
		return err
	}
	l.mu.Lock()
	b.cursors = b.cursors[:0] // making room may have changed them
	l.cursorsOf(b)
	l.mu.Unlock()
	k.close() // the segment before is complete
	k.active = nil
	gen := k.nextGen
	k.nextGen++
	s := &segment{name: segmentName(b.after, gen), gen: gen, logID: l.id, after: b.after, size: l.cfg.Segment}
	if err := l.dir.Rename(spare, s.name); err != nil {
		return fmt.Errorf("rename spare segment: %w", err)
	}
	h := header{version: uint16(l.format), logID: l.id, gen: gen, after: b.after}
	if k.prev != nil {
		l.mu.Lock()
		h.prevGen, h.prevEnd, h.prevMask = k.prev.gen, k.prev.end, k.prev.mask
		l.mu.Unlock()
	}
	p.gen, p.no, p.table = gen, 0, true
	buf, no := appendBlocks(appendHeader(k.buf[:0], h), b, p)
	k.buf = buf[:0]
	f, err := l.fresh(s, buf)
	if err != nil {
		l.discard(s.name)
		return fmt.Errorf("begin segment %s: %w", s.name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.extendLocked(s, b, pageSize, int64(len(buf))-pageSize)
	l.segs = append(l.segs, s)
	k.active, k.prev, k.f, k.end, k.no = s, s, f, int64(len(buf)), no
	return nil
}

// fresh writes the first bytes of a segment and makes file and name durable.
func (l *Log) fresh(s *segment, buf []byte) (File, error) {
	f, err := l.dir.Open(s.name)
	if err != nil {
		return nil, err
	}
	if err = l.put(f, buf, 0); err == nil {
		err = l.dir.Sync()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// discard removes a file that failed. If that fails, too, the next Open finds
// it without a valid header and uses it as a spare.
func (l *Log) discard(name string) {
	if err := l.dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.count(func(s *Stats) { s.IOErrors++ })
	}
}

// spare returns the name of a file to use: one that is ready, else a new one
// while the quota and the medium allow it, else the oldest segment, whose
// records are lost and counted. A medium that fails must not eat the backlog:
// then a new file may exceed the quota, and nothing is dropped.
func (l *Log) spare() (string, error) {
	for {
		if name := l.takeSpare(); name != "" {
			return name, nil
		}
		var err error
		if l.mayGrow() {
			if err = l.grow(); err == nil {
				continue
			}
		}
		if l.card.failed || err != nil && !errors.Is(err, syscall.ENOSPC) {
			return "", errors.Join(err, errors.New("no spare segment on a failing medium"))
		}
		if err := l.dropOldest(); err != nil {
			return "", err
		}
	}
}

// grow makes a whole spare at once.
func (l *Log) grow() error {
	for {
		if err := l.growStep(); err != nil || l.card.growing == nil {
			return err
		}
	}
}

func (l *Log) takeSpare() (name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.spares); n > 0 {
		name, l.spares = l.spares[n-1], l.spares[:n-1]
	}
	return name
}

// mayGrow tells whether one more segment file fits the quota and leaves the
// reserve free.
func (l *Log) mayGrow() bool {
	l.mu.Lock()
	files := int64(len(l.segs) + len(l.spares) + l.card.held)
	l.mu.Unlock()
	if l.now() < l.card.noGrow {
		return false
	}
	if l.card.growing != nil {
		return true
	}
	if (files+1)*l.cfg.Segment > l.cfg.Size && !l.card.failed {
		return false
	}
	return files == 0 || l.spacious()
}

// spacious tells whether the medium has room for one more file. One that
// cannot tell is taken at its word when writing.
func (l *Log) spacious() bool {
	free, total, err := l.dir.Free()
	return err != nil || l.cfg.Reserve < 0 || free-l.cfg.Segment >= l.reserve(total)
}

// DefaultReserve is what stays free of a medium of total bytes unless a Config
// says otherwise.
func DefaultReserve(total int64) int64 { return max(64<<20, total/20) }

// reserve returns how much of a medium of total bytes is to stay free.
func (l *Log) reserve(total int64) int64 {
	if l.cfg.Reserve == 0 {
		return DefaultReserve(total)
	}
	return max(l.cfg.Reserve, 0)
}

// wantSpareLocked tells whether to make the next segment ready: when the
// active one is three quarters full.
func (l *Log) wantSpareLocked() bool {
	k := &l.card
	if k.active == nil || len(l.spares) > 0 || l.closing || k.end < l.cfg.Segment/4*3 || l.now() < k.noGrow {
		return false
	}
	return k.growing != nil || int64(len(l.segs)+1)*l.cfg.Segment <= l.cfg.Size
}

// growSpare writes one piece of the next spare; commits go between pieces.
func (l *Log) growSpare() {
	if !l.mayGrow() {
		l.card.noGrow = l.now() + int64(retryInterval)
		return
	}
	l.growStep()
}

// growStep begins, continues or completes a spare. On failure, most often for
// want of space, it gives up for a while.
func (l *Log) growStep() error {
	k := &l.card
	err := l.growPiece()
	if err != nil {
		k.stopGrowing()
		l.discard(k.growName)
		if errors.Is(err, syscall.ENOSPC) {
			k.noGrow = l.now() + int64(retryInterval)
		} else {
			l.count(func(s *Stats) { s.IOErrors++ })
		}
		return fmt.Errorf("make segment file %s: %w", k.growName, err)
	}
	if k.grown < l.cfg.Segment {
		return nil
	}
	k.stopGrowing()
	l.mu.Lock()
	l.spares = append(l.spares, k.growName)
	l.mu.Unlock()
	return nil
}

func (l *Log) growPiece() (err error) {
	k := &l.card
	if k.growing == nil {
		k.growName, k.grown = spareName(k.nextGen), 0
		k.nextGen++
		if k.growing, err = l.dir.Create(k.growName); err != nil {
			return err
		}
	}
	n := min(zeroPiece, l.cfg.Segment-k.grown)
	if err := l.put(k.growing, zeros[:n], k.grown); err != nil {
		return err
	}
	k.grown += n
	return nil
}

// stopGrowing closes the spare in the making. Without its full length the next
// Open removes it.
func (k *card) stopGrowing() {
	if k.growing != nil {
		k.growing.Close()
		k.growing = nil
	}
}

// dropOldest turns the oldest segment into a spare and its records into gaps.
// The cursors that say so are durable before the records are gone.
func (l *Log) dropOldest() error {
	l.mu.Lock()
	if len(l.segs) == 0 || len(l.segs) == 1 && l.segs[0] == l.card.active {
		l.mu.Unlock()
		return fmt.Errorf("no segment can be used again: %w", syscall.ENOSPC)
	}
	s := l.segs[0]
	l.mu.Unlock()
	losses := l.losses(s)
	l.mu.Lock()
	for c, loss := range losses {
		if !c.removed {
			c.dropLocked(s.reach(), loss)
		}
	}
	b := batch{after: l.covered, last: l.covered}
	l.cursorsOf(&b)
	l.mu.Unlock()
	if err := l.saveCursors(&b); err != nil {
		return fmt.Errorf("store positions before the oldest records are dropped: %w", err)
	}
	l.mu.Lock()
	l.segs = l.segs[1:]
	s.gone = true
	l.mu.Unlock()
	return l.recycle(s)
}

// saveCursors makes the cursors of b durable: in the room kept for them in the
// active segment, else in the file kept for that.
func (l *Log) saveCursors(b *batch) error {
	k := &l.card
	if s := k.active; s != nil {
		buf, no := appendBlocks(k.buf[:0], b, place{gen: s.gen, no: k.no, logID: l.id, time: l.timeRef(), targets: blockTarget})
		k.buf = buf[:0]
		if k.end+int64(len(buf)) <= l.cfg.Segment {
			return l.append(b, buf, no)
		}
	}
	f, err := l.dir.Open(cursorFile)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, _ := appendBlocks(nil, b, place{logID: l.id, time: l.timeRef(), table: true})
	return l.put(f, buf[:min(len(buf), cursorRoom)], 0)
}

// makeCursorFile gives the file of saveCursors its blocks, so that it can be
// written when the medium is full.
func (l *Log) makeCursorFile() {
	if p, err := readFile(l.dir, cursorFile); err == nil && len(p) >= cursorRoom {
		return
	}
	if err := replace(l.dir, cursorFile, zeros[:cursorRoom]); err != nil {
		l.log.Warn("spool cannot keep room for positions", "err", err)
	}
}

// losses reads the segment that is to be dropped and returns what each
// consumer loses with it. Of a segment that cannot be read all of its consumers
// lose an unknown number.
func (l *Log) losses(s *segment) map[*Consumer]*Gap {
	losses := make(map[*Consumer]*Gap)
	f, err := openSegment(l.dir, s.name)
	if err != nil {
		l.loseAll(losses, s)
		return losses
	}
	defer f.Close()
	sc := l.scanner(s, f, s.end)
	for sc.next() {
		if sc.block.last > s.last {
			continue
		}
		if p, ok := sc.block.piece(); ok && (sc.block.ends || p.seq == s.parts) { // else it was never completed
			l.lose(losses, p.seq, sc.block.mask)
		}
		for rec, ok := sc.block.next(); ok; rec, ok = sc.block.next() {
			l.lose(losses, rec.seq, owedMask(rec.body))
		}
	}
	if sc.failed {
		l.loseAll(losses, s)
	}
	return losses
}

// loseAll has every consumer that s may be for lose what it has not
// acknowledged of it, whatever that is.
func (l *Log) loseAll(losses map[*Consumer]*Gap, s *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.eachLocked(s.mask, func(c *Consumer) {
		if first := max(s.after, c.acked.upto) + 1; first <= s.last {
			losses[c] = &Gap{First: first, Last: s.last, Reason: ReasonQuota}
		}
	})
}

func (l *Log) lose(losses map[*Consumer]*Gap, n Seq, mask uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.eachLocked(mask, func(c *Consumer) {
		g := losses[c]
		if c.acked.contains(n) || g != nil && g.Last == n {
			return
		}
		if g == nil {
			g = &Gap{First: n, Reason: ReasonQuota}
			losses[c] = g
		}
		g.Last = n
		g.Count++
	})
}

// dropLocked moves the cursor beyond last and reports the loss.
func (c *Consumer) dropLocked(last Seq, loss *Gap) {
	c.acked.add(0, last)
	c.loseLocked(*loss)
	if c.idleLocked() || c.records < loss.Count {
		c.records, c.bytes = 0, 0
		return
	}
	if c.records > 0 {
		c.bytes -= c.bytes / int64(c.records) * int64(loss.Count)
		c.records -= loss.Count
	}
}

// recycle makes a segment's file a spare. One that does not fit the
// configuration any more it removes.
func (l *Log) recycle(s *segment) error {
	l.mu.Lock()
	keep := s.size == l.cfg.Segment && int64(len(l.segs)+len(l.spares)+l.card.held+1)*l.cfg.Segment <= l.cfg.Size
	l.mu.Unlock()
	if !keep {
		l.discard(s.name)
		l.card.noGrow = 0
		return nil
	}
	spare := spareName(s.gen)
	if err := l.dir.Rename(s.name, spare); err != nil {
		l.discard(s.name)
		return fmt.Errorf("reuse segment %s: %w", s.name, err)
	}
	l.mu.Lock()
	l.spares = append(l.spares, spare)
	l.mu.Unlock()
	return nil
}

// freeLocked takes the segments off the front that no durable cursor needs.
func (l *Log) freeLocked() (freed []*segment) {
	for len(l.segs) > 0 && l.segs[0] != l.card.active && l.freeableLocked(l.segs[0]) {
		l.segs[0].gone = true
		freed = append(freed, l.segs[0])
		l.segs = l.segs[1:]
	}
	return freed
}

func (l *Log) freeableLocked(s *segment) bool {
	free := true
	l.eachLocked(s.mask, func(c *Consumer) { free = free && c.savedTo >= s.reach() })
	return free
}

// reclaim keeps some files of freed segments as spares and removes the rest.
func (l *Log) reclaim(freed []*segment) {
	for _, s := range freed {
		l.mu.Lock()
		keep := len(l.spares) < keepSpares
		l.mu.Unlock()
		if !keep {
			l.discard(s.name)
		} else if err := l.recycle(s); err != nil {
			l.count(func(s *Stats) { s.IOErrors++ })
		}
	}
}
