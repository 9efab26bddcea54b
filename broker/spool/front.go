package spool

import (
	"errors"
	"slices"
	"time"
)

// The front is the one goroutine that writes the tail ring. It brings each
// record into the ring and tells its publisher; where the policy or the ring
// does not allow that, it leaves the record to the committer. So under an
// interval policy nobody waits for the medium.

func (l *Log) frontLoop() {
	for {
		l.saveTable()
		entries, closing := l.unfronted()
		switch {
		case len(entries) > 0 && l.frontEntries(entries):
			continue
		case len(entries) == 0 && closing:
			l.mu.Lock()
			l.frontDone = true
			l.mu.Unlock()
			wake(l.kick)
			return
		}
		<-l.frontKick
		wake(l.kick) // acknowledgements concern both
	}
}

// frontPiece bounds the records that one write brings into the ring.
const frontPiece = 256

func (l *Log) unfronted() (entries []*entry, closing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.afterLocked(l.fronted)
	size := int64(0)
	for i, e := range rest {
		size += ringEntry + int64(len(e.body))
		if i == frontPiece || i > 0 && size > l.ring.area/4 {
			return append(entries, rest[:i]...), l.closing
		}
	}
	return append(entries, rest...), l.closing
}

// frontEntries takes entries on and tells whether it could; if not, a commit
// is to make room first.
func (l *Log) frontEntries(entries []*entry) bool {
	if i := slices.IndexFunc(entries, func(e *entry) bool { return e.urgent }); i > 0 {
		entries = entries[:i]
	}
	last := entries[len(entries)-1].seq
	if entries[0].urgent || l.direct() {
		l.leave(last, len(entries))
		return true
	}
	if l.cfg.Sync.Mode == Interval {
		switch err := l.toRing(entries); {
		case errors.Is(err, errRingFull):
			if l.waitForCommit() {
				return false
			}
			l.leave(last, len(entries))
			return true
		case err != nil:
			l.breakRing(err)
			l.leave(last, len(entries))
			return true
		}
	}
	l.mu.Lock()
	l.fronted = last
	for _, e := range entries {
		e.told = true
	}
	l.mu.Unlock()
	for _, e := range entries {
		e.tell(nil)
	}
	l.mu.Lock()
	l.trimLocked()
	l.mu.Unlock()
	wake(l.kick)
	return true
}

// direct tells whether records are the committer's to tell: always under
// Always, and while it still has earlier ones to tell, so that the order
// stays.
func (l *Log) direct() bool {
	if l.cfg.Sync.Mode == Always {
		return true
	}
	l.mu.Lock()
	untold := l.untold
	l.mu.Unlock()
	if untold > 0 {
		return true
	}
	return l.cfg.Sync.Mode == Interval && l.ring.broken && (l.now() < l.ring.retry || !l.mendRing())
}

// leave leaves entries up to last to the committer.
func (l *Log) leave(last Seq, n int) {
	l.mu.Lock()
	l.fronted = last
	l.untold += n
	l.mu.Unlock()
	wake(l.kick)
}

// toRing writes entries into the ring, if need be into its other area.
func (l *Log) toRing(entries []*entry) error {
	err := l.ring.append(entries)
	if !errors.Is(err, errRingFull) {
		return err
	}
	if err := l.changeArea(); err != nil {
		return err
	}
	return l.ring.append(entries)
}

// changeArea begins the ring's other area with what is still needed of the
// one in use.
func (l *Log) changeArea() error {
	l.mu.Lock()
	var live []*entry
	for _, e := range l.tail {
		if e.seq <= l.fronted && e.owed != 0 && !l.isLarge(len(e.body)) {
			live = append(live, e)
		}
	}
	l.mu.Unlock()
	return l.ring.change(live, l.epoch, l.timeRef().boot)
}

// waitForCommit asks for a commit that empties the ring. false means that
// there is nothing to hope for: the medium fails, or the records are larger
// than the ring.
func (l *Log) waitForCommit() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.degraded || len(l.tail) == 0 || l.tail[0].seq > l.fronted {
		return false
	}
	l.ringFull = true
	wake(l.kick)
	return true
}

const ringRetry = 5 * time.Second

// breakRing notes that the ring cannot be written.
func (l *Log) breakRing(err error) {
	l.ring.retry = l.now() + int64(ringRetry)
	if !l.ring.broken {
		l.ring.broken = true
		l.log.Warn("tail ring cannot be written: each record is committed at once until it can; check the space in the runtime folder", "err", err)
	}
	l.count(func(s *Stats) { s.RingFailed = true })
}

// mendRing tries to use the ring again.
func (l *Log) mendRing() bool {
	if l.ring.f == nil {
		return false
	}
	if err := l.changeArea(); err != nil {
		l.ring.retry = l.now() + int64(ringRetry)
		return false
	}
	l.ring.broken = false
	l.count(func(s *Stats) { s.RingFailed = false })
	l.log.Info("tail ring works again")
	return true
}

// saveTable brings cursors that changed into the ring.
func (l *Log) saveTable() {
	if l.ring.f == nil || l.ring.broken {
		return
	}
	l.mu.Lock()
	dirty := false
	var cursors []cursor
	asOf := l.fronted
	for _, c := range l.consumers {
		if c != nil {
			dirty = dirty || c.tabled != c.version
			c.tabled = c.version
			cursors = append(cursors, c.cursorLocked(asOf))
		}
	}
	l.mu.Unlock()
	if !dirty {
		return
	}
	if err := l.ring.saveTable(cursors, asOf); err != nil {
		l.breakRing(err)
	}
}
