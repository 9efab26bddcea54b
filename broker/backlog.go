package broker

import (
	"context"
	"errors"
	"io"
	"math"
	"sync/atomic"

	"edgegateway/broker/spool"
)

// A backlog is the queue of a session that lasts, in the log of sessions. What
// is owed is numbered from 1 in the order of the log; all up to read was taken
// from it, or never had to be, and is in the outbox or done. The outbox' mutex
// guards it.
type backlog struct {
	store *sessionStore
	no    uint32 // of the session, in the log

	pos      spool.Seq // of what read counts, the last
	lastOwed spool.Seq
	read     uint64
	owed     uint64
	readSize int64 // bytes of read
	owedSize int64
	marks    fifo[mark] // of what is not read, in order
	behind   bool       // what comes goes to the log only: see Broker.catchUp
	reading  bool       // catchUp is at work
	dirty    bool       // differs from what the run log has
	drained  bool       // what was on the medium was read since the cursor was last kept
	dropped  uint64     // since the start

	// skip holds what was sent with QoS 2 before the program started, beyond the
	// position that was kept then.
	skip map[spool.Seq]bool
}

// A mark is a place in the log up to which a backlog can be dropped.
type mark struct {
	seq   spool.Seq
	owed  uint64
	size  int64
	stamp int64 // when it was appended
}

// markEvery is how many messages there are from mark to mark, and so how many
// are dropped at once. A small queue has them closer.
func (b *backlog) markEvery() uint64 { return uint64(max(1, min(64, b.store.limits.SessionQueue/16))) }

func (b *backlog) unread() int { return int(b.owed - b.read) }

func (b *backlog) unreadSize() int { return int(b.owedSize - b.readSize) }

// crowded says whether little is left of the bounds.
func (b *backlog) crowded() bool {
	l := b.store.limits
	return b.unread() >= l.SessionQueue-l.SessionQueue/8 || b.unreadSize() >= l.SessionBytes-l.SessionBytes/8
}

// add counts a message that was appended to the log.
func (b *backlog) add(seq spool.Seq, size int, now int64) {
	b.owed++
	b.owedSize += int64(size)
	b.lastOwed = seq
	b.dirty = true
	if b.behind && b.owed%b.markEvery() == 0 {
		b.marks.push(mark{seq, b.owed, b.owedSize, now})
	}
}

// take counts the message seq as read.
func (b *backlog) take(seq spool.Seq, size int) {
	b.read++
	b.readSize += int64(size)
	b.pos = seq
	b.dirty = true
}

// skipTo gives up all that is not read up to m and returns how many that are.
func (b *backlog) skipTo(m mark) int {
	n := m.owed - b.read
	b.read, b.readSize, b.pos = m.owed, m.size, m.seq
	b.dirty = true
	b.dropped += n
	return int(n)
}

// trim drops the oldest messages beyond the bounds and returns how many of
// them were too many, and how many too old.
func (b *backlog) trim(now int64) (many, old int) {
	l := b.store.limits
	for b.marks.len() > 0 {
		m := *b.marks.front()
		over := b.unread() > l.SessionQueue || b.unreadSize() > l.SessionBytes
		aged := now-m.stamp > int64(l.SessionAge)
		switch {
		case m.owed <= b.read:
		case over:
			many += b.skipTo(m)
		case aged:
			old += b.skipTo(m)
		default:
			return many, old
		}
		b.marks.pop()
	}
	return many, old
}

// owe has the session get a message that was appended to the log, from its
// queue if it is connected and took all before, else from the log. It says how
// many others were dropped for it.
func (o *outbox) owe(d delivery, now int64) (many, old int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.backlog
	size := cost(d.msg)
	live := o.state == outboxOpen && !b.behind && !o.crampedLocked()
	b.behind = !live
	b.add(d.seq, size, now)
	if live {
		b.take(d.seq, size)
		o.pushLocked(d)
		return 0, 0
	}
	o.catchUpLocked()
	return b.trim(now)
}

// catchUpLocked has the log read for the connected client, unless it is.
func (o *outbox) catchUpLocked() {
	if c := o.client; o.state == outboxOpen && !o.backlog.reading {
		o.backlog.reading = true
		c.reading.Go(func() { c.b.catchUp(c) })
	}
}

// rewindLocked gives what is queued back to the log, and keeps of the window
// what is needed to send it again. It returns what is not in the log.
func (o *outbox) rewindLocked() (lost []delivery) {
	b := o.backlog
	first := spool.Seq(0)
	for o.queue.len() > 0 {
		switch d := o.queue.pop(); {
		case d.seq == 0:
			lost = append(lost, d)
		case d.again == 0:
			if first == 0 {
				first = d.seq
			}
			b.read--
			b.readSize -= int64(cost(d.msg))
		}
	}
	if first != 0 {
		b.pos = first - 1
	}
	for i := 0; i < o.window.len(); i++ {
		s := o.window.at(i)
		if s.seq == 0 && s.state == sentPublish {
			lost = append(lost, s.delivery)
			o.window.remove(i)
			i--
			continue
		}
		s.msg, s.owed, s.counted = nil, nil, false
	}
	b.behind, b.dirty = true, true
	return lost
}

// posLocked returns the number up to which nothing of the log is needed but
// for what the window tells.
func (o *outbox) posLocked() spool.Seq {
	for i := range o.queue.len() {
		if d := o.queue.at(i); d.seq != 0 && d.again == 0 {
			return d.seq - 1
		}
	}
	return o.backlog.pos
}

// none is beyond all numbers.
const none = spool.Seq(math.MaxUint64)

// lowLocked returns the number up to which the session needs nothing of the
// log, none if it needs nothing at all.
func (o *outbox) lowLocked() spool.Seq {
	low := none
	if pos := o.posLocked(); pos < o.backlog.lastOwed {
		low = pos
	}
	for i := range o.window.len() {
		if s := o.window.at(i); s.seq != 0 && s.state == sentPublish {
			low = min(low, s.seq-1)
		}
	}
	return low
}

// An owedCount counts the sessions that have to get one message of the log.
type owedCount struct {
	left atomic.Int32
	seq  spool.Seq
	st   *sessionStore
}

// got counts one session that got it; a nil one counts nothing. When all have,
// the log may forget it.
func (c *owedCount) got() {
	if c != nil && c.left.Add(-1) == 0 {
		c.st.consumer.Ack(c.seq)
	}
}

// catchUp reads the log for a connected session until it has caught up, or the
// connection ends. It begins with what was sent before and not acknowledged.
func (b *Broker) catchUp(c *client) {
	defer c.recovered()
	o := c.out
	again := o.unacknowledged()
	if again.resend(b, c) != nil {
		return
	}
	for {
		from, until := o.nextPiece()
		if until == 0 {
			return
		}
		if b.readPiece(c, from, until) != nil || o.awaitRoom(c) != nil {
			return
		}
	}
}

// A piece is a part of the log that one session reads.
type piece struct {
	after spool.Seq
	owed  uint64 // up to its end
	size  int64
}

// nextPiece returns what is to be read, or 0 when all was: then what comes
// goes to the queue again.
func (o *outbox) nextPiece() (from piece, until spool.Seq) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.backlog
	switch {
	case o.state != outboxOpen:
		return piece{}, 0
	case b.unread() == 0:
		b.behind, b.reading = false, false
		b.marks = fifo[mark]{}
		for seq := range b.skip {
			b.pos = max(b.pos, seq)
		}
		return piece{}, 0
	}
	return piece{b.pos, b.owed, b.owedSize}, b.lastOwed
}

// readPiece moves records from the log to the queue until that is full or the
// piece is read. What should be there and is not was lost: by damage or the
// quota of the log.
func (b *Broker) readPiece(c *client, p piece, until spool.Seq) error {
	err := b.scan(c.ctx, p.after, until, func(rec *spool.Record) bool {
		d, ok := b.sessionDelivery(c.session, rec)
		return !ok || c.out.takeRead(d)
	})
	switch {
	case errors.Is(err, errEnough):
		return nil
	case err != nil:
		return err
	}
	if n := c.out.endPiece(p, until); n > 0 {
		b.drop(dropDurable, n)
		b.log.Warn("messages for a session were lost with the part of the log that held them", "client", c.id, "n", n)
	}
	return nil
}

// takeRead queues d, which was read, and says whether there is room for more.
func (o *outbox) takeRead(d delivery) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.backlog
	if o.state != outboxOpen {
		return false
	}
	switch {
	case d.seq <= b.pos: // it was dropped meanwhile
	case b.skip[d.seq]:
		b.pos = d.seq
	default:
		b.take(d.seq, cost(d.msg))
		b.drained = true
		o.pushLocked(d)
	}
	return !o.crampedLocked()
}

// endPiece counts p as read and returns how many of it were not there.
func (o *outbox) endPiece(p piece, until spool.Seq) (lost int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.backlog
	if p.owed > b.read {
		lost = b.skipTo(mark{seq: until, owed: p.owed, size: p.size})
	}
	return lost
}

// awaitRoom returns when half of the queue is free.
func (o *outbox) awaitRoom(c *client) error {
	for {
		o.mu.Lock()
		roomy := o.state != outboxOpen || o.queue.len() <= o.limit/2 && o.bytes <= o.maxBytes/2
		var moved <-chan struct{}
		if !roomy {
			moved = o.movedLocked()
		}
		o.mu.Unlock()
		if roomy {
			return nil
		}
		select {
		case <-moved:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// errEnough ends a scan whose receiver wants no more.
var errEnough = errors.New("enough")

// scan gives fn the records of the log of sessions after one number up to
// another, until it returns false. A few scans run at once, for each has a
// buffer.
func (b *Broker) scan(ctx context.Context, after, until spool.Seq, fn func(*spool.Record) bool) error {
	select {
	case b.sessionLog.readers <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-b.sessionLog.readers }()
	r := b.sessionLog.consumer.Scan(after, until)
	defer r.Close()
	for {
		rec, err := r.Next(ctx, nil)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !fn(&rec) {
			return errEnough
		}
	}
}

// A resending is what was sent to a client before and not acknowledged: its
// identifiers by number, and the range of these.
type resending struct {
	ids         map[spool.Seq]uint16
	first, last spool.Seq
}

func (o *outbox) unacknowledged() (r resending) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.window.len() {
		s := o.window.at(i)
		if s.state != sentPublish || s.msg != nil || s.seq == 0 {
			continue
		}
		if r.ids == nil {
			r.ids, r.first = make(map[spool.Seq]uint16), s.seq
		}
		r.ids[s.seq] = s.id
		r.first, r.last = min(r.first, s.seq), max(r.last, s.seq)
	}
	return r
}

// resend queues the messages again, under their identifiers. Those that the
// log has no more are given up.
func (r *resending) resend(b *Broker, c *client) error {
	after := r.first - 1
	for len(r.ids) > 0 {
		err := b.scan(c.ctx, after, r.last, func(rec *spool.Record) bool {
			after = rec.Seq
			id, ours := r.ids[rec.Seq]
			d, ok := b.sessionDelivery(c.session, rec)
			if !ours || !ok {
				return true
			}
			delete(r.ids, rec.Seq)
			d.again = id
			return c.out.pushAgain(d)
		})
		if err == nil {
			break
		}
		if !errors.Is(err, errEnough) {
			return err
		}
		if err := c.out.awaitRoom(c); err != nil {
			return err
		}
	}
	for _, id := range r.ids {
		c.out.forget(id)
		b.drop(dropDurable, 1)
	}
	return nil
}

func (o *outbox) pushAgain(d delivery) (room bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pushLocked(d)
	return !o.crampedLocked()
}
