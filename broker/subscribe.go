package broker

import (
	"strings"
	"sync"

	"edgegateway/broker/packet"
)

// subscribe handles a SUBSCRIBE. Retained messages are queued with each
// filter, but leave after the answer; the answer leaves when the subscriptions
// of a session that lasts are stored.
func (c *client) subscribe(p *packet.Subscribe) error {
	answer := &packet.SubAck{Kind: packet.SUBACK, ID: p.ID}
	subID := p.Props.Num(packet.SubscriptionID, 0)
	c.out.cork(true)
	defer c.out.cork(false)
	var stored stateWait
	for i := range p.Filters {
		f := &p.Filters[i]
		if f.NoLocal && strings.HasPrefix(f.Filter, sharePrefix) {
			return &packet.Error{Reason: packet.ProtocolError, What: "SUBSCRIBE: no-local on a shared subscription"}
		}
		reason := c.subscribeOne(f, subID, &stored)
		answer.Reasons = append(answer.Reasons, reason)
	}
	stored.wait()
	c.out.answer(answer)
	return nil
}

// subscribeOne returns the reason that answers f.
func (c *client) subscribeOne(f *packet.Filter, subID uint32, stored *stateWait) packet.Reason {
	if c.bridge {
		f.NoLocal, f.RetainAsPublished = true, true
	}
	reason := c.checkFilter(f)
	if !reason.Failed() {
		reason = c.b.addSubscription(c, f, subID, stored)
	}
	if reason.Failed() {
		c.b.log.Info("subscription refused", "client", c.id, "user", c.user, "topic", f.Filter, "err", reason)
		switch c.version {
		case packet.V31: // it knows no refusal: it hears nothing instead
			reason = packet.Success
		case packet.V311:
			reason = packet.Unspecified
		}
	}
	return reason
}

func (c *client) checkFilter(f *packet.Filter) packet.Reason {
	filter := f.Filter
	if inner, shared := cutShare(filter); shared {
		filter = inner
	}
	switch {
	case ValidFilter(f.Filter) != nil:
		return packet.FilterInvalid
	case c.b.limits.tooDeep(f.Filter):
		return packet.QuotaExceeded
	case !c.b.allowed(c.user, c.id, filter, Subscribe):
		return packet.NotAuthorized
	}
	return packet.Success
}

// addSubscription subscribes c and queues what is retained. That may exceed
// the queue: a client that has left very much unread gets no subscription.
func (b *Broker) addSubscription(c *client, f *packet.Filter, subID uint32, stored *stateWait) packet.Reason {
	b.mu.Lock()
	s := c.session
	if b.clients[c.id] != c {
		b.mu.Unlock()
		return packet.Unspecified // it is being taken over
	}
	_, again := s.subs[f.Filter]
	if !again && len(s.subs) >= b.limits.Subscriptions || c.out.len() > b.limits.Queue+2*b.retained.len() {
		b.mu.Unlock()
		return packet.QuotaExceeded
	}
	o := options{qos: f.QoS, noLocal: f.NoLocal, retainAsPublished: f.RetainAsPublished, subID: subID}
	b.joinLocked(s, f.Filter, o)
	if s.lasts() {
		b.sessionLog.kept.append(subscribedRecord(s.no, f.Filter, o), stored.add())
	}
	var msgs []*Message
	if _, shared := cutShare(f.Filter); !shared && (f.RetainHandling == 0 || f.RetainHandling == 1 && !again) {
		msgs = append(b.retained.matching(f.Filter, b.now()), b.sysMatching(f.Filter)...)
	}
	rest := b.sendRetained(c, f, o, msgs)
	b.mu.Unlock()
	if len(rest) > 0 {
		b.storeRetained(c, o, rest)
	}
	return packet.Reason(f.QoS)
}

// joinLocked subscribes s to filter; its options replace those it had.
func (b *Broker) joinLocked(s *session, filter string, o options) {
	inner, shared := cutShare(filter)
	o.sure = b.sure(s, inner)
	s.subs[strings.Clone(filter)] = o
	if !shared {
		b.subs.add(filter, subscription{s.sub, o})
		return
	}
	g := b.groups[filter]
	if g == nil {
		g = &group{}
		g.sub = &subscriber{group: g}
		b.groups[strings.Clone(filter)] = g
		b.subs.add(inner, subscription{g.sub, options{qos: 2}})
	}
	g.set(s, o)
}

// leaveLocked takes a subscription back and says whether there was one.
func (b *Broker) leaveLocked(s *session, filter string) bool {
	if _, ok := s.subs[filter]; !ok {
		return false
	}
	delete(s.subs, filter)
	inner, shared := cutShare(filter)
	if !shared {
		return b.subs.remove(filter, s.sub)
	}
	if g := b.groups[filter]; g != nil && g.remove(s) {
		b.subs.remove(inner, g.sub)
		delete(b.groups, filter)
	}
	return true
}

// sendRetained queues retained messages for a new subscription. It returns
// those that its session is owed in the log.
func (b *Broker) sendRetained(c *client, f *packet.Filter, o options, msgs []*Message) (rest []*Message) {
	for _, m := range msgs {
		switch {
		case f.NoLocal && m.Client == c.id || !b.allowed(c.user, c.id, m.Topic, Read):
		case c.session.lasts() && min(m.QoS, o.qos) > 0:
			rest = append(rest, m)
		default:
			c.out.push(delivery{msg: m, qos: min(m.QoS, o.qos), retain: true, subIDs: o.subIDs()})
		}
	}
	return rest
}

// storeRetained appends retained messages to the log of sessions, for c's
// alone. One that was replaced meanwhile has been routed already.
func (b *Broker) storeRetained(c *client, o options, msgs []*Message) {
	for i := 0; i < len(msgs); {
		n, full := b.storeSome(c, o, msgs[i:])
		i += n
		if !full {
			continue
		}
		select {
		case <-b.sessionLog.log.Room():
		case <-c.ctx.Done():
			return
		}
	}
}

// storeSome takes some messages, so that others get the broker too, and says
// whether it is to wait for the log.
func (b *Broker) storeSome(c *client, o options, msgs []*Message) (n int, full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n < min(len(msgs), 256) {
		m := msgs[n]
		if b.retained.byTopic[m.Topic] == m {
			d := delivery{msg: m, qos: min(m.QoS, o.qos), retain: true, subIDs: o.subIDs()}
			if b.sessionLog.log.Full(cost(m) + 64) {
				return n, true
			}
			b.storeFor(c.session, d)
		}
		n++
	}
	return n, false
}

// unsubscribe handles an UNSUBSCRIBE; the answer leaves when it is stored.
func (c *client) unsubscribe(p *packet.Unsubscribe) error {
	answer := &packet.SubAck{Kind: packet.UNSUBACK, ID: p.ID}
	var stored stateWait
	for _, f := range p.Filters {
		reason := packet.Success
		if !c.b.removeSubscription(c, f, &stored) {
			reason = packet.NoSubscriptionExisted
		}
		answer.Reasons = append(answer.Reasons, reason)
	}
	stored.wait()
	c.out.answer(answer)
	return nil
}

func (b *Broker) removeSubscription(c *client, filter string, stored *stateWait) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	removed := b.leaveLocked(c.session, filter)
	if removed && c.session.lasts() {
		b.sessionLog.kept.append(leftRecord(c.session.no, filter), stored.add())
	}
	return removed
}

// A stateWait waits for records to be stored.
type stateWait struct{ group sync.WaitGroup }

// add returns what is to be called when one more is. With an error it was
// logged, and the state lasts as long as the gateway runs.
func (w *stateWait) add() func(error) {
	w.group.Add(1)
	return func(error) { w.group.Done() }
}

// wait returns when all are stored.
func (w *stateWait) wait() { w.group.Wait() }

// shutClients ends all connections, and lets no new client in.
func (b *Broker) shutClients() {
	b.mu.Lock()
	b.stopped = true
	clients := make([]*client, 0, len(b.clients))
	for _, c := range b.clients {
		clients = append(clients, c)
	}
	b.mu.Unlock()
	for _, c := range clients {
		c.end(errShutdown)
	}
	b.conns.Lock()
	defer b.conns.Unlock()
	for conn, accepted := range b.open {
		if !accepted {
			conn.Close()
		}
	}
}
