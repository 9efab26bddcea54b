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
	from    *client   // nil: the gateway or a bridge
	patient bool      // its publisher waits for subscribers that are slow
	since   time.Time // when it first found the log's queue full
	renews  *Message  // nil, or what must still be retained for p to be routed
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

// A target is one client that a message goes to.
type target struct {
	client *client
	full   bool // its queue has no room, and p does not wait for it
	stuck  bool // and it has not moved for too long
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
	b.counts.in.Add(1)
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
	b.counts.in.Add(1)
	p := &publication{msg: b.stamped(msg), patient: true, receipt: newReceipt(done)}
	return b.routePatiently(ctx, p)
}

// Resync publishes again, with the times that Config.Clock tells now, what the
// gateway itself has published, is retained, and holds times. It is to be
// called when wall time was synchronised for the first time.
func (b *Broker) Resync() {
	clock := Clock{}
	if b.cfg.Clock != nil {
		clock = b.cfg.Clock()
	}
	for _, old := range b.ownRetained() {
		m := *old
		m.Rebase(clock)
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
	if o := b.obstacleLocked(p); o != nil {
		return nil, o
	}
	keep := p.msg.Retain && len(p.msg.Payload) > 0
	if keep && p.msg.From != "" && !b.retained.room(p.msg, b.limits, b.now()) {
		b.refuse(p, ErrQuota)
		return nil, nil
	}
	if o := b.storeLocked(p, rec); o != nil {
		return nil, o
	}
	if !p.owned && (keep || len(b.targets) > 0) {
		p.msg, p.owned = p.msg.clone(), true
	}
	if p.msg.Retain {
		p.await()
		b.retained.set(p.msg, p.settle)
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

// matchLocked finds whom p goes to: clients in b.targets, each once, with the
// highest QoS of its subscriptions; handlers in b.handlers; and consumers in
// the record returned.
func (b *Broker) matchLocked(p *publication) spool.Record {
	b.routes++
	clear(b.matched) // what it held may be gone
	clear(b.targets)
	clear(b.handlers)
	b.targets, b.handlers = b.targets[:0], b.handlers[:0]
	b.matched = b.subs.match(b.matched[:0], p.msg.Topic)
	var owed []spool.Target
	for i := range b.matched {
		s := &b.matched[i]
		switch {
		case s.client != nil:
			b.addTarget(p, s)
		case s.handle != nil:
			b.handlers = append(b.handlers, s.handle)
		case b.owes(p, s.durable):
			id := s.durable.ids[p.msg.Class]
			owed = append(owed, spool.Target{Consumer: id, QoS: min(p.msg.QoS, s.qos)})
		}
	}
	return spool.Record{Stamp: p.msg.Stamp, Targets: owed, Volatile: p.msg.From == "" || p.msg.QoS == 0}
}

func (b *Broker) addTarget(p *publication, s *subscription) {
	c := s.client
	if s.noLocal && c == p.from {
		return
	}
	if c.met != b.routes {
		if !b.allowed(c.user, c.id, p.msg.Topic, Read) {
			return
		}
		c.met, c.metAt = b.routes, len(b.targets)
		b.targets = append(b.targets, target{client: c})
	}
	d := &b.targets[c.metAt].delivery
	d.qos = max(d.qos, min(p.msg.QoS, s.qos))
	d.retain = d.retain || p.msg.Retain && s.retainAsPublished
	if s.subID != 0 {
		d.subIDs = append(d.subIDs, s.subID)
	}
}

// owes says whether p is to be stored for d, which may be asked for it several
// times.
func (b *Broker) owes(p *publication, d *Durable) bool {
	if d.met == b.routes || b.logs[p.msg.Class] == nil || p.msg.From == d.from {
		return false
	}
	d.met = b.routes
	return true
}

// obstacleLocked marks the full queues among b.targets and returns one that a
// patient publisher has to wait for.
func (b *Broker) obstacleLocked(p *publication) *obstacle {
	for i := range b.targets {
		t := &b.targets[i]
		full, idle, moved := t.client.out.full()
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
	return nil
}

// deliverLocked gives p to its targets. Those whose queue is full do without,
// and are disconnected if that is for being stuck.
func (b *Broker) deliverLocked(p *publication) {
	for i := range b.targets {
		t := &b.targets[i]
		if !t.full {
			t.msg = p.msg
			t.client.out.push(t.delivery)
			continue
		}
		b.drop(dropQueueFull, 1)
		if t.stuck {
			b.detachLocked(t.client)
			t.client.end(errStuck)
		}
	}
}

// storeLocked appends p to its log if someone durable is owed it.
func (b *Broker) storeLocked(p *publication, rec spool.Record) *obstacle {
	if len(rec.Targets) == 0 {
		return nil
	}
	log := b.logs[p.msg.Class]
	b.record = appendMessage(b.record[:0], p.msg)
	rec.Data = b.record
	p.await()
	done := p.settle
	if p.receipt == nil {
		done = b.stored
	}
	err := log.Append(rec, done)
	if err == nil {
		return nil
	}
	if errors.Is(err, spool.ErrFull) && p.patient {
		if p.since.IsZero() {
			p.since = time.Now()
		}
		if left := storeWait - time.Since(p.since); left > 0 {
			p.unawait()
			return &obstacle{log.Room(), left}
		}
	}
	if p.receipt == nil {
		log.Drop(rec)
	}
	done(err)
	return nil
}

// unawait takes back one await.
func (r *receipt) unawait() {
	if r != nil {
		r.left.Add(-1)
	}
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
	c.Topic, c.From = strings.Clone(m.Topic), strings.Clone(m.From)
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
