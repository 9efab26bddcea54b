package spool

import (
	"context"
	"fmt"
	"math/bits"
	"time"
)

// A Consumer is one who is owed records: its name, what it has acknowledged
// and what it is to hear about losses. Its methods may be called at once.
type Consumer struct {
	l    *Log
	name string
	id   uint16
	born Seq // no record's number; all before are no business of this consumer

	// Guarded by Log.mu.
	acked    seqSet
	lastOwed Seq // last record it is owed; all beyond counts as acknowledged
	written  Seq // last record it is owed that is on the medium
	records  uint64
	bytes    int64
	gaps     []gap  // to report
	version  uint64 // rises with each change of acked or gaps
	saved    uint64 // version on the medium
	tabled   uint64 // version in the ring
	savedTo  Seq    // acked.upto on the medium
	gapsNew  bool   // gaps differ from those on the medium
	removed  bool
	silent   bool   // see Silence
	oldest   Record // first unacknowledged record as last looked up; Seq 0: unknown
}

// Backlog is what a consumer is owed and has not acknowledged.
type Backlog struct {
	Records     uint64
	Bytes       int64
	OldestStamp int64 // CLOCK_BOOTTIME, ns, in the boot OldestBoot; 0 without records
	OldestBoot  BootRef
}

// Consumer returns the consumer of that name. A new one starts at the tail;
// the same name gets the same id and position again, also after a restart.
// At most 64 exist.
func (l *Log) Consumer(name string) (*Consumer, error) {
	if name == "" || len(name) > maxName {
		return nil, fmt.Errorf("spool consumer %q: the name must have 1 to %d bytes", name, maxName)
	}
	l.meta.Lock()
	defer l.meta.Unlock()
	c, isNew, err := l.addConsumer(name)
	if isNew {
		l.saveMeta()
	}
	return c, err
}

func (l *Log) addConsumer(name string) (c *Consumer, isNew bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	free := -1
	for i, c := range l.consumers {
		switch {
		case c == nil && free < 0:
			free = i
		case c != nil && c.name == name:
			return c, false, nil
		}
	}
	switch {
	case l.looking:
		return nil, false, ErrLookOnly
	case l.closing:
		return nil, false, ErrClosed
	}
	if free < 0 {
		return nil, false, fmt.Errorf("spool consumer %q: there are %d already, remove one", name, maxConsumers)
	}
	l.last++
	c = &Consumer{l: l, name: name, id: uint16(free), born: l.last, lastOwed: l.last}
	c.acked.upto, c.savedTo = l.last, l.last
	l.consumers[free] = c
	if l.orphans != nil {
		c.loseLocked(*l.orphans)
	}
	return c, true, nil
}

// Remove forgets a consumer and what it is owed. Its readers return
// ErrRemoved. A name that does not exist is no error.
func (l *Log) Remove(name string) error {
	if l.looking {
		return ErrLookOnly
	}
	l.meta.Lock()
	defer l.meta.Unlock()
	if l.removeConsumer(name) {
		return l.saveMeta()
	}
	return nil
}

func (l *Log) removeConsumer(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range l.consumers {
		if c == nil || c.name != name {
			continue
		}
		l.consumers[i] = nil
		c.removed = true
		for _, e := range l.tail {
			l.clearLocked(e, c.bit())
		}
		l.trimLocked()
		l.newsLocked()
		wake(l.kick)
		return true
	}
	return false
}

// Name returns the name that Log.Consumer was called with.
func (c *Consumer) Name() string { return c.name }

// ID returns what Target.Consumer names it by. A removed consumer's id is
// given to another one.
func (c *Consumer) ID() uint16 { return c.id }

func (c *Consumer) bit() uint64 { return 1 << c.id }

// Acked returns the number up to which this consumer is owed nothing more.
func (c *Consumer) Acked() Seq {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return c.ackedLocked()
}

func (c *Consumer) ackedLocked() Seq {
	if c.idleLocked() {
		return max(c.acked.upto, c.l.last)
	}
	return c.acked.upto
}

// idleLocked tells whether all that this consumer is owed is acknowledged.
func (c *Consumer) idleLocked() bool { return c.acked.upto >= c.lastOwed }

// oweLocked puts a new record of the tail on the account.
func (c *Consumer) oweLocked(n Seq, size int) {
	if c.idleLocked() {
		c.acked.add(0, n-1)
		c.records, c.bytes = 0, 0
	}
	c.lastOwed = n
	c.records++
	c.bytes += int64(size)
}

// Ack says that record n reached its end, or that the gap reported as n was
// passed on. Any order will do; what was not read or is acknowledged already
// changes nothing.
func (c *Consumer) Ack(n Seq) {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.removed || c.ackGapLocked(n) || n > l.last || !c.acked.add(n, n) {
		return
	}
	c.version++
	if c.records > 0 { // the size of a record on the medium is not known here
		c.bytes -= c.bytes / int64(c.records)
		c.records--
	}
	c.changedLocked(n)
}

// AckTo says that all records up to n reached their end.
func (c *Consumer) AckTo(n Seq) {
	l := c.l
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, l.last)
	before := c.acked.upto
	if c.removed || c.idleLocked() || !c.acked.add(0, n) {
		return
	}
	c.version++
	share := float64(n-before) / float64(max(n, c.lastOwed)-before) // an estimate: the medium is not read for it
	c.records -= uint64(share * float64(c.records))
	c.bytes -= int64(share * float64(c.bytes))
	for _, e := range l.tail {
		if e.seq > n {
			break
		}
		l.clearLocked(e, c.bit())
	}
	l.trimLocked()
	if c.idleLocked() {
		c.records, c.bytes = 0, 0
	}
	wake(l.frontKick)
}

// Silence makes c one that is told of no gaps: what is lost to it is only
// counted. It stands for many who see for themselves what they miss.
func (c *Consumer) Silence() {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.silent, c.gaps = true, nil
}

// changedLocked follows up on a change of acked at n.
func (c *Consumer) changedLocked(n Seq) {
	if c.idleLocked() {
		c.records, c.bytes = 0, 0
	}
	c.l.ackedLocked(n, c.bit())
	wake(c.l.frontKick)
}

// ackGapLocked tells whether n is a gap's number. One that its reader gave back
// may have grown since, so it is reported again.
func (c *Consumer) ackGapLocked(n Seq) bool {
	for i := range c.gaps {
		if c.gaps[i].seq == n && c.gaps[i].by == nil {
			return true
		}
		if c.gaps[i].seq == n {
			c.gaps = append(c.gaps[:i:i], c.gaps[i+1:]...)
			c.version++
			c.gapsNew = true
			wake(c.l.frontKick)
			return true
		}
	}
	return false
}

// passLocked says that a reader found nothing owed from lo to hi.
func (c *Consumer) passLocked(lo, hi Seq) {
	if !c.idleLocked() && c.acked.add(lo, hi) {
		c.version++
		if c.idleLocked() {
			c.records, c.bytes = 0, 0
		}
	}
}

// loseLocked puts a loss on the list of what to report: with the one of the
// same reason that is not reported yet, else under a new number.
func (c *Consumer) loseLocked(g Gap) {
	l := c.l
	if l.stats.Dropped == nil {
		l.stats.Dropped = make(map[string]uint64)
	}
	l.stats.Dropped[g.Reason] += g.Count
	if c.silent {
		return
	}
	c.version++
	c.gapsNew = true
	l.newsLocked()
	for i := range c.gaps {
		if p := &c.gaps[i]; p.by == nil && p.Reason == g.Reason {
			p.First, p.Last = min(p.First, g.First), max(p.Last, g.Last)
			p.Count += g.Count
			return
		}
	}
	l.last++
	c.gaps = append(c.gaps, gap{seq: l.last, Gap: g})
}

// cursorLocked returns the state to store, as of the number asOf: what is
// behind it in the tail does not count.
func (c *Consumer) cursorLocked(asOf Seq) cursor {
	s := cursor{consumer: c.id, born: c.born, version: c.version, acked: c.acked.clone(), records: c.records, bytes: c.bytes}
	if c.idleLocked() {
		s.acked = seqSet{upto: max(c.acked.upto, asOf)}
	}
	s.gaps = append(s.gaps, c.gaps[max(0, len(c.gaps)-maxGaps):]...)
	for _, e := range c.l.afterLocked(asOf) {
		if e.owed&c.bit() != 0 && s.records > 0 {
			s.records--
			s.bytes -= int64(len(e.body))
		}
	}
	return s
}

// restore takes over a stored state.
func (c *Consumer) restore(s *cursor) {
	c.version, c.saved, c.tabled = s.version, s.version, s.version
	c.records, c.bytes = s.records, s.bytes
	c.acked = s.acked.clone()
	c.acked.add(0, c.born)
	c.savedTo = c.acked.upto
	c.gaps = s.gaps
}

// Backlog returns what is owed and not acknowledged. Bytes are an estimate.
// It may read the medium to find the oldest record.
func (c *Consumer) Backlog() Backlog {
	c.l.mu.Lock()
	b := Backlog{Records: c.records, Bytes: c.bytes}
	idle := c.idleLocked()
	known := c.oldest.Seq != 0 && !c.acked.contains(c.oldest.Seq)
	oldest := c.oldest
	c.l.mu.Unlock()
	if idle {
		return Backlog{}
	}
	if !known {
		oldest = c.findOldest()
	}
	b.OldestStamp, b.OldestBoot = oldest.Stamp, oldest.Boot
	return b
}

// findOldest looks the first unacknowledged record up.
func (c *Consumer) findOldest() Record {
	r := c.Scan(c.Acked(), c.l.Last())
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // of a medium that cannot be read
	defer cancel()
	rec, err := r.Next(ctx, nil)
	if err != nil {
		return Record{}
	}
	rec.Data, rec.Targets = nil, nil
	c.l.mu.Lock()
	c.oldest = rec
	c.l.mu.Unlock()
	return rec
}

// eachLocked calls fn for the consumers of a bit set.
func (l *Log) eachLocked(mask uint64, fn func(*Consumer)) {
	for ; mask != 0; mask &= mask - 1 {
		if c := l.consumers[bits.TrailingZeros64(mask)]; c != nil {
			fn(c)
		}
	}
}
