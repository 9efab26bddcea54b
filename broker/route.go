package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"edgegateway/broker/spool"
)

var (
	// ErrRefused: the publisher may not publish to that topic.
	ErrRefused = errors.New("not allowed to publish to this topic")
	// ErrQuota: there is no room to keep the message.
	ErrQuota = errors.New("no room to keep the message")

	// errUnheard tells a client that asked that nobody is subscribed.
	errUnheard = errors.New("nobody is subscribed")
)

// lossy is how long a full queue may stand still before its QoS 0 messages
// are dropped instead of waited for.
const lossy = 2 * time.Second

// storeWait is how long a publish waits for room in the queue of a log.
const storeWait = 10 * time.Second

// A publication is a message on its way through route.
type publication struct {
	msg     *Message
	owned   bool      // msg and its slices are nobody else's
	patient bool      // its publisher waits for subscribers that are slow
	since   time.Time // when it first found the log's queue full
	renews  *Message  // nil, or what must still be retained for p to be routed
	only    *group    // nil, or whom it is for
	not     *session  // nil, or who does not get it of them

	tellUnheard bool // its publisher wants to know if nobody is subscribed
	*receipt
}

// A receipt counts what a publication waits for until it is safe, and then
// tells its publisher. A nil one tells nobody.
type receipt struct {
	left atomic.Int32
	err  atomic.Pointer[error] // the first failure
	done func(error)
}

func newReceipt(done func(error)) *receipt {
	if done == nil {
		return nil
	}
	r := &receipt{done: done}
	r.left.Store(1) // route itself
	return r
}

// await makes r wait for one call more of settle.
func (r *receipt) await() {
	if r != nil {
		r.left.Add(1)
	}
}

func (r *receipt) settle(err error) {
	if r == nil {
		return
	}
	if err != nil {
		r.err.CompareAndSwap(nil, &err)
	}
	if r.left.Add(-1) > 0 {
		return
	}
	if p := r.err.Load(); p != nil {
		r.done(*p)
	} else {
		r.done(nil)
	}
}

// A target is one session that a message goes to.
type target struct {
	session *session
	full    bool // its queue has no room, and p does not wait for it
	stuck   bool // and it has not moved for too long
	delivery
}

// An obstacle is why a publication has to wait: until ready, or for at most
// the time given; then route is to be tried again.
type obstacle struct {
	ready <-chan struct{}
	wait  time.Duration
}

// Publish publishes a message of the gateway itself. It never waits: where a
// subscriber's queue or the spool's is full, the message is dropped for that
// one and counted. Publish keeps copies only.
func (b *Broker) Publish(msg *Message) {
	if err := ValidTopic(msg.Topic); err != nil {
		b.drop(dropInvalid, 1)
		b.log.Error("own message dropped", "topic", msg.Topic, "err", err)
		return
	}
	b.past.in.Add(1)
	b.route(&publication{msg: b.stamped(msg)})
}

// PublishFrom publishes a message of msg.From, a bridge. It waits for
// subscribers that are slow and for the spool, until ctx is done. With a nil
// error, done, if not nil, is called when the message is safe for everyone
// durable, or cannot be made so. The message may be changed when PublishFrom
// has returned.
func (b *Broker) PublishFrom(ctx context.Context, msg *Message, done func(error)) error {
	if err := ValidTopic(msg.Topic); err != nil {
		return fmt.Errorf("publish for %s: %w", msg.From, err)
	}
	if !b.allowed(msg.From, "", msg.Topic, Write) || strings.HasPrefix(msg.Topic, "$") {
		b.drop(dropRefused, 1)
		return fmt.Errorf("publish %q for %s: %w", msg.Topic, msg.From, ErrRefused)
	}
	b.past.in.Add(1)
	p := &publication{msg: b.stamped(msg), patient: true, receipt: newReceipt(done)}
	return b.routePatiently(ctx, p)
}

// Resync publishes again, with the times that Config.Clock tells now, what the
// gateway itself has published, is retained, and holds times. It is to be
// called when wall time was synchronised for the first time.
func (b *Broker) Resync() {
	for _, old := range b.ownRetained() {
		m := *old
		m.Rebase(b.clockAt(spool.BootRef{ID: b.boot}, m.Stamp))
		b.route(&publication{msg: &m, renews: old})
	}
}

func (b *Broker) ownRetained() []*Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	var msgs []*Message
	for _, m := range b.retained.byTopic {
		if m.From == "" && len(m.Slots) > 0 {
			msgs = append(msgs, m)
		}
	}
	return msgs
}

func (b *Broker) allowed(user, clientID, topic string, access Access) bool {
	return b.cfg.Allow == nil || b.cfg.Allow(user, clientID, topic, access)
}

// stamped returns msg, or a copy with the present time if it has none.
func (b *Broker) stamped(msg *Message) *Message {
	if msg.Stamp != 0 {
		return msg
	}
	m := *msg
	m.Stamp = b.now()
	return &m
}

// routePatiently routes p, waiting as long as it has to, or until ctx is done:
// then p's receipt is never settled and the error says so.
func (b *Broker) routePatiently(ctx context.Context, p *publication) error {
	for {
		o := b.route(p)
		if o == nil {
			return nil
		}
		timer := time.NewTimer(o.wait)
		select {
		case <-o.ready:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// route gives p to everyone whom it concerns, in one step, or to nobody and
// returns what has to be waited for first. Only patient ones get an obstacle.
func (b *Broker) route(p *publication) *obstacle {
	handlers, o := b.routeLocked(p)
	if o != nil {
		return o
	}
	for _, fn := range handlers {
		p.await()
		fn(p.msg, p.settle)
	}
	p.settle(nil)
	return nil
}

func (b *Broker) routeLocked(p *publication) ([]func(*Message, func(error)), *obstacle) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.renews != nil && b.retained.byTopic[p.msg.Topic] != p.renews {
		return nil, nil
	}
	rec := b.matchLocked(p)
	if o := b.obstacleLocked(p, rec); o != nil {
		return nil, o
	}
	retain := p.msg.Retain && p.only == nil
	keep := retain && len(p.msg.Payload) > 0
	if keep && p.msg.From != "" && !b.retained.room(p.msg, b.limits, b.now()) {
		b.refuse(p, ErrQuota)
		return nil, nil
	}
	if len(rec.Targets) > 0 {
		b.record = appendMessage(b.record[:0], p.msg)
		b.storeLocked(p, b.logs[p.msg.Class], rec)
	}
	if !p.owned && (keep || len(b.targets) > 0) {
		p.msg, p.owned = p.msg.clone(), true
	}
	if retain {
		p.await()
		b.retained.set(p.msg, p.settle)
	}
	if p.tellUnheard && !keep && len(b.targets)+len(b.handlers)+len(rec.Targets) == 0 {
		p.await()
		p.settle(errUnheard)
	}
	b.deliverLocked(p)
	return slices.Clone(b.handlers), nil
}

// refuse has p's publisher told err; route settles once more.
func (b *Broker) refuse(p *publication, err error) {
	if p.receipt == nil {
		b.drop(dropDurable, 1)
	}
	p.await()
	p.settle(err)
}

// matchLocked finds whom p goes to: sessions in b.targets, each once but for
// shared subscriptions, with the highest QoS of its subscriptions; handlers in
// b.handlers; and consumers in the record returned.
func (b *Broker) matchLocked(p *publication) spool.Record {
	b.routes++
	clear(b.matched) // what it held may be gone
	clear(b.targets)
	clear(b.handlers)
	b.targets, b.handlers = b.targets[:0], b.handlers[:0]
	if p.only != nil {
		b.matched = append(b.matched[:0], subscription{subscriber: p.only.sub})
	} else {
		b.matched = b.subs.match(b.matched[:0], p.msg.Topic)
	}
	var owed []spool.Target
	for i := range b.matched {
		s := &b.matched[i]
		switch {
		case s.session != nil:
			b.addTarget(p, s)
		case s.group != nil:
			b.addMember(p, s.group)
		case s.handle != nil:
			b.handlers = append(b.handlers, s.handle)
		case b.owes(p, s.durable):
			id := s.durable.ids[p.msg.Class]
			owed = append(owed, spool.Target{Consumer: id, QoS: min(p.msg.QoS, s.qos)})
		}
	}
	return spool.Record{Stamp: p.msg.Stamp, Targets: owed, Volatile: p.msg.From == "" || p.msg.QoS == 0}
}

func (b *Broker) addTarget(p *publication, sub *subscription) {
	s := sub.session
	if sub.noLocal && p.msg.Client == s.id {
		return
	}
	if s.met != b.routes {
		if !sub.sure && !b.allowed(s.user, s.id, p.msg.Topic, Read) {
			return
		}
		s.met, s.metAt = b.routes, len(b.targets)
		b.targets = append(b.targets, target{session: s})
	}
	b.targets[s.metAt].subscribed(p, &sub.options)
}

// addMember adds one member of a shared subscription, besides what it gets for
// its other subscriptions.
func (b *Broker) addMember(p *publication, g *group) {
	if m := b.pick(g, p); m != nil {
		t := target{session: m.session, delivery: delivery{group: g}}
		t.subscribed(p, &m.options)
		b.targets = append(b.targets, t)
	}
}

// subscribed adds what one subscription wants of p.
func (d *delivery) subscribed(p *publication, o *options) {
	d.qos = max(d.qos, min(p.msg.QoS, o.qos))
	d.retain = d.retain || p.msg.Retain && o.retainAsPublished
	if o.subID != 0 {
		d.subIDs = append(d.subIDs, o.subID)
	}
}

// owes says whether p is to be stored for d, which may be asked for it several
// times.
func (b *Broker) owes(p *publication, d *Durable) bool {
	if d.met == b.routes || b.logs[p.msg.Class] == nil || p.msg.From == d.from || p.msg.Local {
		return false
	}
	d.met = b.routes
	return true
}

// obstacleLocked marks the full queues among b.targets and returns what a
// patient publisher has to wait for: one of them, or room in a log.
func (b *Broker) obstacleLocked(p *publication, rec spool.Record) *obstacle {
	lasting := 0
	for i := range b.targets {
		t := &b.targets[i]
		if t.lasts() {
			lasting++
		}
		full, idle, moved := t.session.out.full(t.qos)
		if !full {
			continue
		}
		patience := lossy
		if t.qos > 0 {
			patience = b.limits.Stuck
		}
		if p.patient && idle < patience {
			return &obstacle{moved, patience - idle}
		}
		t.full, t.stuck = true, t.qos > 0 && idle >= patience
	}
	if !p.patient {
		return nil
	}
	size := cost(p.msg) + 64
	if len(rec.Targets) > 0 && b.logs[p.msg.Class].Full(size) {
		return p.waitFor(b.logs[p.msg.Class])
	}
	if lasting > 0 && b.sessionLog.log.Full(size+targetSize*lasting) {
		return p.waitFor(b.sessionLog.log)
	}
	return nil
}

// waitFor returns what to wait for while a log is full, nil when that took too
// long: then it will refuse the message.
func (p *publication) waitFor(log journal) *obstacle {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	if left := storeWait - time.Since(p.since); left > 0 {
		return &obstacle{log.Room(), left}
	}
	return nil
}

// lasts says whether t is to be stored for its session.
func (t *target) lasts() bool { return t.qos > 0 && t.session.lasts() }

// deliverLocked gives p to its targets. Those whose queue is full do without,
// and are disconnected if that is for being stuck; a session that lasts has it
// in its log.
func (b *Broker) deliverLocked(p *publication) {
	seq, count := b.storeForSessions(p)
	for i := range b.targets {
		t := &b.targets[i]
		t.msg = p.msg
		switch {
		case t.lasts() && seq != 0:
			t.seq, t.owed = seq, count
			b.owe(t.session, t.delivery)
		case !t.full:
			t.session.out.push(t.delivery)
		default:
			b.drop(dropQueueFull, 1)
		}
		if c := t.session.client; t.stuck && c != nil {
			if !t.session.lasts() {
				b.unsubscribeAllLocked(t.session)
			}
			c.end(errStuck)
		}
	}
}

// owe has a session be owed d, and counts what it loses for that.
func (b *Broker) owe(s *session, d delivery) {
	many, old := s.out.owe(d, b.now())
	if many+old == 0 {
		return
	}
	b.drop(dropSession, many)
	b.drop(dropAged, old)
	if !s.trimmed {
		s.trimmed = true
		b.log.Warn("session gets more than it may keep, its oldest messages are dropped; further ones are only counted",
			"client", s.id, "user", s.user, "n", many+old)
	}
}

// storeForSessions appends p to the log of sessions if one that lasts is owed
// it. It returns the number it got there, 0 if none.
func (b *Broker) storeForSessions(p *publication) (spool.Seq, *owedCount) {
	b.lasting = b.lasting[:0]
	for i := range b.targets {
		if t := &b.targets[i]; t.lasts() {
			b.lasting = append(b.lasting, sessionTarget{t.session.no, t.qos, t.retain, t.subIDs})
		}
	}
	if len(b.lasting) == 0 {
		return 0, nil
	}
	rec := b.sessionRecord(p.msg)
	seq := b.storeLocked(p, b.sessionLog.log, rec)
	if seq == 0 {
		return 0, nil
	}
	count := &owedCount{seq: seq, st: b.sessionLog}
	count.left.Store(int32(len(b.lasting)))
	return seq, count
}

// sessionRecord returns the record for b.lasting.
func (b *Broker) sessionRecord(m *Message) spool.Record {
	b.record = appendMessage(appendTargets(b.record[:0], b.lasting), m)
	return spool.Record{
		Stamp: m.Stamp, Targets: []spool.Target{{Consumer: b.sessionLog.consumer.ID(), QoS: 1}},
		Volatile: m.From == "", Urgent: b.urgent[m.Class],
	}
}

// storeFor appends d to the log of sessions for one session.
func (b *Broker) storeFor(s *session, d delivery) {
	b.lasting = append(b.lasting[:0], sessionTarget{s.no, d.qos, d.retain, d.subIDs})
	rec := b.sessionRecord(d.msg)
	rec.Data, rec.Volatile = b.record, true // what is retained was accepted already
	if seq, err := b.sessionLog.log.Append(rec, nil); err == nil {
		d.seq = seq
		d.owed = &owedCount{seq: seq, st: b.sessionLog}
		d.owed.left.Store(1)
		b.owe(s, d)
		return
	}
	s.out.push(d)
}

// recordKept bounds the buffer that messages are encoded into: a large one is
// not kept for the small ones that follow.
const recordKept = 1 << 20

// storeLocked appends b.record to a log and returns its number, 0 if the log
// did not take it.
func (b *Broker) storeLocked(p *publication, log journal, rec spool.Record) spool.Seq {
	rec.Data = b.record
	p.await()
	done := p.settle
	if p.receipt == nil {
		done = b.stored
	}
	seq, err := log.Append(rec, done)
	if cap(b.record) > recordKept {
		b.record = nil
	}
	if err == nil {
		return seq
	}
	if p.receipt == nil {
		log.Drop(rec)
	}
	done(err)
	return 0
}

// stored counts messages nobody waits for that could not be stored.
func (b *Broker) stored(err error) {
	if err != nil {
		b.drop(dropDurable, 1)
	}
}

// clone returns a copy that shares nothing that can change.
func (m *Message) clone() *Message {
	c := *m
	c.Payload, c.Slots = slices.Clone(m.Payload), slices.Clone(m.Slots)
	if m.Props != nil {
		props := *m.Props
		props.Correlation = slices.Clone(props.Correlation)
		props.User = slices.Clone(props.User)
		if props.Expiry != nil {
			expiry := *props.Expiry
			props.Expiry = &expiry
		}
		c.Props = &props
	}
	return &c
}
