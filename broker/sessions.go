package broker

import (
	"context"
	"fmt"
	"time"

	"edgegateway/broker/spool"
)

// loadSessions makes the sessions that were stored again, and counts what the
// log holds for them.
func (b *Broker) loadSessions() error {
	st, saved, err := openSessions(&b.cfg, &b.limits, b.log)
	if err != nil || st == nil {
		return err
	}
	b.sessionLog = st
	st.withSnapshots(b.sessionBodies)
	byNo := make(map[uint32]*session)
	for _, old := range saved.byNo {
		if other := b.sessions[old.id]; other != nil && other.no > old.no {
			continue // it ended, and its end was lost
		} else if other != nil {
			b.forgetLocked(other)
			delete(byNo, other.no)
		}
		byNo[old.no] = b.restore(old)
	}
	if err := b.countBacklogs(byNo); err != nil {
		return fmt.Errorf("read the log of sessions: %w", err)
	}
	return nil
}

func (b *Broker) forgetLocked(s *session) {
	b.unsubscribeAllLocked(s)
	delete(b.sessions, s.id)
}

func (b *Broker) restore(old *savedSession) *session {
	s := b.newSession(old.id)
	s.no, s.user, s.expiry, s.seen = old.no, old.user, old.expiry, 1
	s.since, s.will, s.willDelay = b.now(), old.will, old.willDelay
	if !old.present && old.boot == b.sessionLog.boot {
		s.since = old.since
	}
	o := s.out
	o.lastID, o.serial = old.lastID, maxWindow
	o.received = old.received
	for _, w := range old.window {
		o.window.push(w)
		old.done[w.seq] = true
	}
	o.backlog = &backlog{store: b.sessionLog, no: old.no, pos: old.pos, lastOwed: old.pos, behind: true, skip: old.done}
	b.sessions[s.id] = s
	for filter, opts := range old.subs {
		b.joinLocked(s, filter, opts)
	}
	return s
}

// countBacklogs counts what of the log the sessions have not got.
func (b *Broker) countBacklogs(byNo map[uint32]*session) error {
	low := none
	for _, s := range byNo {
		low = min(low, s.out.backlog.pos)
	}
	last := b.sessionLog.log.Last()
	if low >= last {
		return nil
	}
	now := b.now()
	return b.scan(context.Background(), low, last, func(rec *spool.Record) bool {
		list, ok := parseTargets(rec.Data)
		size := -1
		for i := range list.len() {
			s := byNo[list.no(i)]
			if !ok || s == nil || rec.Seq <= s.out.backlog.pos || s.out.backlog.skip[rec.Seq] {
				continue
			}
			if size < 0 {
				d, _ := b.sessionDelivery(s, rec)
				if d.msg == nil {
					return true
				}
				size = cost(d.msg)
			}
			s.out.backlog.add(rec.Seq, size, now)
			s.out.backlog.trim(now)
		}
		return true
	})
}

// startKeeping has sessions without a connection end in time, and their
// positions kept. It returns what ends that.
func (b *Broker) startKeeping() (stop func()) {
	b.mu.Lock()
	for _, s := range b.sessions {
		if s.client == nil {
			left := time.Duration(s.expiry)*time.Second - time.Duration(b.now()-s.since)
			b.startTimersLocked(s, max(left, 0))
		}
	}
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.keepLoop(ctx)
	}()
	return func() {
		cancel()
		<-done
		b.keepAll()
	}
}

const (
	keepEvery = 200 * time.Millisecond // what was delivered since then comes again after kill -9, at QoS 1
	// keepMedium is how many times as seldom positions are kept on the medium,
	// while a backlog is read from it, and always where there is nothing else.
	keepMedium = 25
)

func (b *Broker) keepLoop(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
			if medium := n%keepMedium == 0; medium || b.sessionLog.run != b.sessionLog.kept {
				b.keepPositions(medium)
			}
		case <-ctx.Done():
			return
		}
	}
}

// keepPositions keeps the positions that changed, lets the log forget what all
// have got, and drops what waits for too long.
func (b *Broker) keepPositions(medium bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st, now := b.sessionLog, b.now()
	low := st.log.Last()
	for _, s := range b.sessions {
		o := s.out
		o.mu.Lock()
		if o.backlog.dirty {
			o.backlog.dirty = false
			st.run.append(o.cursorRecordLocked(), nil)
		}
		if medium && o.backlog.drained && st.run != st.kept {
			o.backlog.drained = false
			st.kept.append(o.cursorRecordLocked(), nil)
		}
		_, old := o.backlog.trim(now)
		b.drop(dropAged, old)
		low = min(low, o.lowLocked())
		o.mu.Unlock()
	}
	st.consumer.AckTo(low)
}

// keepAll writes the positions of all sessions to the medium: the program ends,
// and the machine may too.
func (b *Broker) keepAll() {
	b.keepPositions(false)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sessionLog.run == b.sessionLog.kept {
		return
	}
	for _, s := range b.sessions {
		for _, body := range b.often(s) {
			b.sessionLog.kept.append(body, nil)
		}
	}
}

// sessionBodies returns the records that make the present state: with seldom,
// also what changes seldom.
func (b *Broker) sessionBodies(seldom bool) [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	bodies := [][]byte{b.sessionLog.numbersRecord()}
	for _, s := range b.sessions {
		if seldom {
			bodies = append(bodies, createdRecord(s))
			for filter, o := range s.subs {
				bodies = append(bodies, subscribedRecord(s.no, filter, o))
			}
		}
		bodies = append(bodies, b.often(s)...)
	}
	return bodies
}

// often returns the records of what changes with every message.
func (b *Broker) often(s *session) [][]byte {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	bodies := [][]byte{s.out.cursorRecordLocked(), b.sessionLog.presenceRecord(s, s.client != nil, s.since)}
	for id, answered := range s.out.received {
		if answered {
			bodies = append(bodies, receivedRecord(s.no, id, true))
		}
	}
	return bodies
}

// setExpiry changes how long the session of c lasts without a connection.
func (b *Broker) setExpiry(c *client, expiry uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.expiry = min(expiry, b.limits.sessionExpiry())
	if s := c.session; s.lasts() {
		s.expiry = c.expiry
		b.sessionLog.kept.append(createdRecord(s), nil)
	}
}
