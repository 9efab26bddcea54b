package broker

import (
	"fmt"
	"math"
	"time"

	"edgegateway/broker/packet"
)

// never is a session expiry interval that does not end.
const never = math.MaxUint32

// A session is what the broker keeps of a client: its subscriptions, what it
// is owed, and what of QoS 2 is under way. It ends with the connection, or
// lasts and is stored.
type session struct {
	id   string
	out  *outbox
	sub  *subscriber
	no   uint32 // in the log of sessions, 0: it ends with its connection
	seen uint64 // connections so far

	// Guarded by Broker.mu.
	user      string
	expiry    uint32 // seconds that it lasts without a connection
	subs      map[string]options
	client    *client // nil: nobody is connected
	since     int64   // boot time of the last connection or its end
	will      *Message
	willDelay time.Duration
	timers    struct{ end, will *time.Timer }
	trimmed   bool   // it was logged that its queue overran
	met       uint64 // Broker.routes when last met
	metAt     int    // its place in Broker.targets then
}

func (s *session) lasts() bool { return s.no != 0 }

func (b *Broker) newSession(id string) *session {
	s := &session{id: id, subs: make(map[string]options)}
	s.sub = &subscriber{session: s}
	s.out = &outbox{limit: b.limits.Queue, maxBytes: b.limits.QueueBytes}
	return s
}

// makeLasting makes s one that outlives its connection; with b.mu.
func (b *Broker) makeLasting(s *session) {
	st := b.sessionLog
	s.no = st.next
	st.next++
	s.out.mu.Lock()
	last := st.log.Last()
	s.out.backlog = &backlog{store: st, no: s.no, pos: last, lastOwed: last}
	s.out.mu.Unlock()
}

// resume makes c the client of its session, which it finds or makes, and says
// whether it found one. What is connected under its id is disconnected and has
// ended, its will sent, when resume returns.
func (b *Broker) resume(c *client, p *packet.Connect) (present bool, err error) {
	for {
		b.mu.Lock()
		old := b.clients[c.id]
		if old == nil || b.stopped {
			break
		}
		err := sameUser(old.user, c)
		b.mu.Unlock()
		if err != nil {
			return false, err
		}
		old.end(errTakenOver)
		<-old.done
	}
	present, err = b.resumeLocked(c, p)
	b.mu.Unlock()
	if err != nil || c.stored == nil {
		return present, err
	}
	select {
	case <-c.stored: // an error was logged: the session lasts as long as the gateway
	case <-b.stopping.Done():
	}
	return present, nil
}

// sameUser keeps users off each other's client ids.
func sameUser(owner string, c *client) error {
	if owner == "" || owner == c.user {
		return nil
	}
	return &refusal{&packet.Error{Reason: packet.NotAuthorized, What: fmt.Sprintf("the session under this client id belongs to user %q", owner)}}
}

func (b *Broker) resumeLocked(c *client, p *packet.Connect) (present bool, err error) {
	switch {
	case b.stopped:
		return false, errShutdown
	case b.cfg.Authenticate != nil && c.reviews != b.reviews:
		return false, errTooLate
	}
	s := b.sessions[c.id]
	if s != nil {
		if err := sameUser(s.user, c); err != nil {
			return false, err
		}
	}
	if s != nil && p.CleanStart {
		b.endSessionLocked(s)
		s = nil
	}
	if present = s != nil; !present {
		if s, err = b.startSessionLocked(c); err != nil {
			return false, err
		}
	}
	b.connectLocked(s, c, p)
	return present, nil
}

func (b *Broker) startSessionLocked(c *client) (*session, error) {
	s := b.newSession(c.id)
	if c.expiry == 0 {
		return s, nil
	}
	if len(b.sessions) >= b.limits.Sessions {
		return nil, &packet.Error{Reason: packet.QuotaExceeded, What: "there are as many sessions as [broker] max_sessions allows"}
	}
	b.makeLasting(s)
	b.sessions[c.id] = s
	return s, nil
}

// connectLocked attaches c to its session.
func (b *Broker) connectLocked(s *session, c *client, p *packet.Connect) {
	s.stopTimers()
	s.client, s.since = c, b.now()
	s.will, s.willDelay = c.will, c.willDelay
	c.session, c.out = s, s.out
	s.out.open(c, p, b.limits.window(p))
	b.clients[c.id] = c
	other := s.user != c.user
	if s.user = c.user; other {
		b.reviewLocked(s) // it was nobody's
	}
	if !s.lasts() {
		return
	}
	if other || s.expiry != c.expiry || s.seen == 0 {
		s.expiry = c.expiry
		c.stored = make(chan error, 1)
		b.sessionLog.kept.append(createdRecord(s), func(err error) { c.stored <- err })
	}
	s.seen++
	b.sessionLog.run.append(b.sessionLog.presenceRecord(s, true, s.since), nil)
}

// disconnect notes that c's connection ends; gone says that the client went
// with a word, so that its will is void. A session that does not last gets no
// more messages.
func (b *Broker) disconnect(c *client, gone bool) {
	s := c.session
	b.mu.Lock()
	defer b.mu.Unlock()
	if gone {
		s.will = nil
	}
	if !s.lasts() {
		b.unsubscribeAllLocked(s)
	}
}

// release leaves the session of a connection whose goroutines have ended: it
// ends, or waits for the next one. Its will is sent now, or when it is due.
func (b *Broker) release(c *client) {
	b.redistribute(c.session, c.session.out.leave())
	if will := b.dueWill(c); will != nil {
		b.sendWill(c.id, c.user, will)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := c.session
	s.client, s.since = nil, b.now()
	switch {
	case s.lasts() && s.expiry == 0:
		b.endSessionLocked(s)
	case s.lasts():
		b.sessionLog.run.append(b.sessionLog.presenceRecord(s, false, s.since), nil)
		b.startTimersLocked(s, time.Duration(s.expiry)*time.Second)
	}
	delete(b.clients, c.id)
	b.past.add(&c.traffic)
}

// dueWill takes the will of a connection that ends, if it is due at once: it
// has no delay, or its session ends.
func (b *Broker) dueWill(c *client) *Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := c.session
	will := s.will
	if s.lasts() && s.expiry > 0 && s.willDelay > 0 {
		return nil
	}
	s.will = nil
	return will
}

// startTimersLocked has a session without a connection end when it has lasted
// long enough, and its will sent when that is due; left is what it has to
// last.
func (b *Broker) startTimersLocked(s *session, left time.Duration) {
	if s.expiry != never {
		s.timers.end = time.AfterFunc(left, func() { b.expire(s) })
	}
	if s.will != nil {
		s.timers.will = time.AfterFunc(s.willDelay, func() { b.willDue(s) })
	}
}

func (s *session) stopTimers() {
	for _, t := range []*time.Timer{s.timers.end, s.timers.will} {
		if t != nil {
			t.Stop()
		}
	}
	s.timers.end, s.timers.will = nil, nil
}

// expire ends a session that has waited long enough for its client.
func (b *Broker) expire(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped || s.client != nil || b.sessions[s.id] != s {
		return
	}
	b.counts.expired.Add(1)
	b.endSessionLocked(s)
	b.log.Info("session expired", "client", s.id, "user", s.user)
}

// willDue sends the will of a client that has not come back in time.
func (b *Broker) willDue(s *session) {
	b.mu.Lock()
	will := s.will
	if b.stopped || s.client != nil || b.sessions[s.id] != s {
		will = nil
	} else {
		s.will = nil
		b.sessionLog.run.append(b.sessionLog.presenceRecord(s, false, s.since), nil)
	}
	user := s.user
	b.mu.Unlock()
	if will != nil {
		b.sendWill(s.id, user, will)
	}
}

// endSessionLocked forgets a session that lasts. A will that was waiting is
// sent.
func (b *Broker) endSessionLocked(s *session) {
	b.unsubscribeAllLocked(s)
	s.stopTimers()
	delete(b.sessions, s.id)
	b.sessionLog.kept.append(sessionRecord(kindEnded, s.no), nil)
	s.out.mu.Lock()
	b.drop(dropEnded, s.out.backlog.unread()+s.out.window.len())
	s.out.mu.Unlock()
	if will := s.will; will != nil {
		s.will = nil
		go b.sendWill(s.id, s.user, will)
	}
}

func (b *Broker) unsubscribeAllLocked(s *session) {
	for f := range s.subs {
		b.leaveLocked(s, f)
	}
}

// sendWill publishes a will, if its user still may.
func (b *Broker) sendWill(id, user string, will *Message) {
	if will.Topic[0] == '$' || !b.allowed(user, id, will.Topic, Write) {
		b.drop(dropRefused, 1)
		return
	}
	m := *will
	m.Stamp = b.now()
	b.past.in.Add(1)
	b.routePatiently(b.stopping, &publication{msg: &m, owned: true, patient: true})
}
