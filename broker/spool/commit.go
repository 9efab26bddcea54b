package spool

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
)

// The committer is the one goroutine that writes segments. It decides under
// Log.mu what to do next, does it without, and takes the outcome over under it
// again.

// A step is what the committer does next.
type step int

const (
	stepWait   step = iota
	stepCommit      // write the front part of the tail, and cursors
	stepSpare       // write a piece of a spare segment
	stepRefuse      // tell those who wait that the medium fails
	stepStop
)

func (l *Log) commitLoop() {
	defer l.card.stopGrowing()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.turns:
		default:
		}
		switch step, wait := l.plan(); step {
		case stepCommit:
			l.commit()
		case stepSpare:
			l.growSpare()
		case stepRefuse:
			l.refuse()
		case stepStop:
			return
		case stepWait:
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-l.kick:
			case <-l.turns:
			}
		}
	}
}

// Turn waits until the committer comes round: between two writes, however much
// there is to do. It reports whether it did before ctx was done, for whoever
// restarts a program that hangs. A log that was closed does not come round.
func (l *Log) Turn(ctx context.Context) bool {
	select {
	case l.turns <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// plan returns what to do now, or how long to wait for it.
func (l *Log) plan() (step, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.syncedLocked()
	now := l.now()
	finishing := l.closing && l.frontDone
	if l.degraded {
		switch {
		case l.untold > 0 || len(l.syncs) > 0:
			return stepRefuse, 0
		case finishing && l.lastTry:
			return stepStop, 0
		case finishing:
			l.lastTry = true
			return stepCommit, 0
		case now >= l.retryAt:
			return stepCommit, 0
		}
		return stepWait, time.Duration(l.retryAt - now)
	}
	due := l.dueLocked()
	switch {
	case due <= now:
		return stepCommit, 0
	case finishing && len(l.tail) == 0 && !l.cursorsLocked():
		return stepStop, 0
	case finishing:
		return stepCommit, 0
	case l.wantSpareLocked():
		return stepSpare, 0
	}
	return stepWait, time.Duration(min(due-now, int64(time.Hour)))
}

const never = int64(1) << 62

// dueLocked returns when the next commit is to be made, by Log.now.
func (l *Log) dueLocked() int64 {
	due := never
	if l.cursorsLocked() {
		due = l.savedAt + int64(cursorInterval)
	}
	if len(l.tail) == 0 || l.tail[0].seq > l.fronted {
		return due
	}
	head := l.tail[0].at
	switch {
	case len(l.syncs) > 0 || l.ringFull:
		return 0
	case l.untold > 0 && l.unacked < unackedBytes:
		due = min(due, head+int64(groupWindow))
	case l.untold > 0:
		return 0
	}
	switch l.cfg.Sync.Mode {
	case Interval:
		if l.unacked >= l.ring.unackedMax() {
			return 0
		}
		due = min(due, head+int64(l.cfg.Sync.Every))
	case Off:
		if len(l.tail) >= queueRecords/2 || l.tailBytes >= queueBytes/2 {
			return 0
		}
	}
	return due
}

// cursorsLocked tells whether the medium holds records that a cursor in
// memory covers and none on the medium does, or a gap is not stored yet.
func (l *Log) cursorsLocked() bool {
	for _, c := range l.consumers {
		if c != nil && c.version != c.saved && (c.gapsNew || c.savedTo < c.written) {
			return true
		}
	}
	return false
}

// A batch is what one commit writes. Its entries share their bytes with the
// tail.
type batch struct {
	entries []*entry          // that someone is owed
	large   bool              // there is one, which no block can hold
	after   Seq               // the blocks cover what is beyond
	last    Seq               // up to here
	mask    uint64            // consumers that entries are owed to
	owed    [maxConsumers]Seq // the last entry of each
	cursors []cursor          // of all consumers
	changed uint64            // consumers whose cursor differs from the one on the medium
}

func (l *Log) takeLocked() batch {
	b := batch{after: l.covered, last: l.covered}
	size, n := 0, 0
	for _, e := range l.tail {
		if e.seq > l.fronted {
			break
		}
		if e.owed != 0 {
			b.large = l.isLarge(len(e.body)) && size == 0
			if size > 0 && size+len(e.body)+recordOverhead > l.groupMax {
				break
			}
			size += len(e.body) + recordOverhead
			b.add(e)
		}
		b.last = e.seq
		n++
		if b.large {
			break
		}
	}
	if n == len(l.tail) { // so that numbers which no record has are covered, too
		b.last = l.last
	}
	l.cursorsOf(&b)
	return b
}

func (b *batch) add(e *entry) {
	b.entries = append(b.entries, e)
	b.mask |= e.owed
	for m := e.owed; m != 0; m &= m - 1 {
		b.owed[bits.TrailingZeros64(m)] = e.seq
	}
}

// cursorsOf gives the batch the present cursors, as of its last number.
func (l *Log) cursorsOf(b *batch) {
	for _, c := range l.consumers {
		if c == nil {
			continue
		}
		b.cursors = append(b.cursors, c.cursorLocked(b.last))
		if c.version != c.saved || b.mask&c.bit() != 0 {
			b.changed |= c.bit()
		}
	}
}

// commit brings the front part of the tail to the medium and pops it. What
// all have acknowledged it only pops.
func (l *Log) commit() {
	l.mu.Lock()
	b := l.takeLocked()
	write := len(b.entries) > 0 || l.cursorsLocked() || l.degraded
	l.mu.Unlock()
	if write {
		err := l.write(&b)
		if errors.Is(err, errNoRoom) {
			l.giveUp(&b, err)
			return
		}
		if err != nil {
			l.degrade(err)
			return
		}
	}
	l.mu.Lock()
	if write {
		l.writtenLocked(&b)
	}
	told := l.popToldLocked(b.last)
	freed := l.freeLocked()
	l.mu.Unlock()

	for _, e := range told {
		e.tell(nil)
	}
	l.reclaim(freed)
	l.mu.Lock()
	l.untold -= len(told)
	l.ringFull = false
	l.mu.Unlock()
	wake(l.frontKick)
}

func (e *entry) tell(err error) {
	if e.done != nil {
		e.done(err)
	}
}

// writtenLocked takes a successful write over.
func (l *Log) writtenLocked(b *batch) {
	l.covered = b.last
	l.savedAt = l.now()
	l.stats.Commits++
	for i := range b.cursors {
		s := &b.cursors[i]
		c := l.consumers[s.consumer]
		if c == nil {
			continue
		}
		c.saved, c.savedTo = s.version, s.acked.upto
		c.gapsNew = c.gapsNew && c.version != s.version
		c.written = max(c.written, b.owed[c.id])
	}
	if l.degraded {
		l.degraded = false
		l.log.Info("storage works again, records are safe", "n", len(b.entries))
	}
}

// popToldLocked takes all up to last off the tail and returns those that are
// to be told.
func (l *Log) popToldLocked(last Seq) (told []*entry) {
	popped := l.tail[:len(l.tail)-len(l.afterLocked(last))]
	for _, e := range popped {
		if !e.told {
			e.told = true
			told = append(told, e)
		}
	}
	l.popLocked(len(popped))
	return told
}

// syncedLocked answers those who wait in Sync.
func (l *Log) syncedLocked() {
	settled := l.settledLocked()
	l.syncs = slices.DeleteFunc(l.syncs, func(w syncWaiter) bool {
		if w.upto <= settled {
			w.done <- nil
		}
		return w.upto <= settled
	})
}

// degrade notes that the medium fails for good: until it works again records
// stay in memory, bounded, and only the gateway's own are taken.
func (l *Log) degrade(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retryAt = l.now() + int64(retryInterval)
	if !l.degraded {
		l.degraded = true
		l.log.Error("storage fails: records stay in memory and external ones are refused until it works again; check the medium and its free space",
			"err", err)
	}
	wake(l.frontKick)
}

// refuse tells all that wait that the medium fails.
func (l *Log) refuse() {
	l.mu.Lock()
	var told []*entry
	for _, e := range l.tail {
		if e.seq <= l.fronted && !e.told {
			e.told = true
			told = append(told, e)
		}
	}
	for _, w := range l.syncs {
		w.done <- ErrDegraded
	}
	l.syncs = nil
	l.mu.Unlock()
	for _, e := range told {
		e.tell(ErrDegraded)
	}
	l.mu.Lock()
	l.untold -= len(told)
	l.trimLocked()
	l.mu.Unlock()
	wake(l.frontKick)
}

// A place is where blocks go: the segment and the state of its end.
type place struct {
	gen     uint32
	no      uint32
	logID   uint64
	table   bool // a new segment: begin with the cursors of all
	time    timeRef
	targets int           // bytes of records in a block
	enc     *zstd.Encoder // packs the records; nil: they stay as they are
}

// appendBlocks appends the blocks of b. The cursors are in the last block, so
// that they are as of its last number; those of a new segment in a block of
// their own before all.
func appendBlocks(dst []byte, b *batch, p place) ([]byte, uint32) {
	w := blockWriter{dst: dst, p: p, group: p.no, after: b.after}
	if p.table {
		w.begin(b.after, p.time)
		w.blk.table = true
		w.cursors(b, ^uint64(0))
		w.end(b.after)
	}
	w.begin(b.after, p.time)
	for _, e := range b.entries {
		at := p.time
		if e.boot != nil {
			at = timeRef{*e.boot, e.boot.At}
		}
		if w.blk.records > 0 && (at != w.blk.time || len(w.body)+len(e.body) > p.targets) {
			w.end(e.seq - 1)
			w.begin(e.seq-1, at)
		}
		w.blk.time = at
		w.body = appendStored(w.body, &e.stored, w.blk.first, at.at)
		w.blk.records++
		if p.enc != nil {
			w.blk.mask |= owedMask(e.body)
		}
	}
	if !p.table {
		w.cursors(b, b.changed)
	}
	w.end(b.last)
	return w.dst, w.p.no
}

// A blockWriter builds the blocks of a commit.
type blockWriter struct {
	dst   []byte
	p     place
	group uint32
	after Seq
	blk   block
	body  []byte // records of the block
	zip   []byte // these, compressed
}

func (w *blockWriter) begin(after Seq, at timeRef) {
	w.blk = block{gen: w.p.gen, no: w.p.no, group: w.group, first: after + 1, time: at}
	w.body = w.body[:0]
}

func (w *blockWriter) cursors(b *batch, mask uint64) {
	for _, c := range b.cursors {
		if mask&(1<<c.consumer) != 0 {
			w.blk.cursors = append(w.blk.cursors, c)
		}
	}
}

func (w *blockWriter) end(last Seq) {
	w.blk.last = last
	body := w.body
	if w.p.enc != nil {
		body = w.packed()
	}
	start := len(w.dst)
	w.dst = beginBlock(w.dst, &w.blk)
	for i := range w.blk.cursors {
		w.dst = appendCursor(w.dst, &w.blk.cursors[i])
	}
	w.dst = append(w.dst, body...)
	w.dst = endBlock(w.dst, start, &w.blk, w.p.logID)
	w.p.no++
}

// packed returns the records compressed if that saves a page, else as they
// are.
func (w *blockWriter) packed() []byte {
	if len(w.body) < pageSize/2 {
		return w.body
	}
	w.zip = w.p.enc.EncodeAll(w.body, w.zip[:0])
	if padded(len(w.zip)+blockHeader2) >= padded(len(w.body)+blockHeader) {
		return w.body
	}
	w.blk.zipped = len(w.body)
	return w.zip
}
