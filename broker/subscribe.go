package broker

import (
	"strings"

	"edgegateway/broker/packet"
)

// maxLevels bounds the levels of a filter, and with them what a client can
// make the broker keep.
const maxLevels = 128

// subscribe handles a SUBSCRIBE. Retained messages are queued with each
// filter, but leave after the answer.
func (c *client) subscribe(p *packet.Subscribe) {
	answer := &packet.SubAck{Kind: packet.SUBACK, ID: p.ID}
	subID := p.Props.Num(packet.SubscriptionID, 0)
	c.out.cork(true)
	for i := range p.Filters {
		answer.Reasons = append(answer.Reasons, c.subscribeOne(&p.Filters[i], subID))
	}
	c.out.answer(answer)
	c.out.cork(false)
}

// subscribeOne returns the reason that answers f.
func (c *client) subscribeOne(f *packet.Filter, subID uint32) packet.Reason {
	if c.bridge {
		f.NoLocal, f.RetainAsPublished = true, true
	}
	reason := c.checkFilter(f)
	if !reason.Failed() {
		reason = c.b.addSubscription(c, f, subID)
	}
	if reason.Failed() {
		c.b.log.Info("subscription refused", "client", c.id, "user", c.user, "topic", f.Filter, "err", reason)
		if c.version < packet.V5 {
			reason = packet.Unspecified
		}
	}
	return reason
}

func (c *client) checkFilter(f *packet.Filter) packet.Reason {
	switch {
	case ValidFilter(f.Filter) != nil:
		return packet.FilterInvalid
	case strings.HasPrefix(f.Filter, "$share/"):
		return packet.SharedNotSupported
	case strings.Count(f.Filter, "/") >= maxLevels:
		return packet.QuotaExceeded
	case !c.b.allowed(c.user, c.id, f.Filter, Subscribe):
		return packet.NotAuthorized
	}
	return packet.Success
}

// addSubscription subscribes c and queues what is retained. That may exceed
// the queue: a client that has left very much unread gets no subscription.
func (b *Broker) addSubscription(c *client, f *packet.Filter, subID uint32) packet.Reason {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.clients[c.id] != c {
		return packet.SessionTakenOver
	}
	_, again := c.subs[f.Filter]
	if !again && len(c.subs) >= b.limits.Subscriptions || c.out.len() > b.limits.Queue+2*b.retained.len() {
		return packet.QuotaExceeded
	}
	c.subs[f.Filter] = struct{}{}
	qos := min(1, f.QoS)
	b.subs.add(f.Filter, subscription{c.sub, options{qos, f.NoLocal, f.RetainAsPublished, subID}})
	if f.RetainHandling == 0 || f.RetainHandling == 1 && !again {
		b.sendRetained(c, f, qos, subID)
	}
	return packet.Reason(qos)
}

func (b *Broker) sendRetained(c *client, f *packet.Filter, qos byte, subID uint32) {
	var subIDs []uint32
	if subID != 0 {
		subIDs = []uint32{subID}
	}
	for _, m := range b.retained.matching(f.Filter, b.now()) {
		if f.NoLocal && m.Client == c.id || !b.allowed(c.user, c.id, m.Topic, Read) {
			continue
		}
		c.out.push(delivery{m, min(m.QoS, qos), true, subIDs})
	}
}

func (c *client) unsubscribe(p *packet.Unsubscribe) {
	answer := &packet.SubAck{Kind: packet.UNSUBACK, ID: p.ID}
	for _, f := range p.Filters {
		reason := packet.Success
		if !c.b.removeSubscription(c, f) {
			reason = packet.NoSubscriptionExisted
		}
		answer.Reasons = append(answer.Reasons, reason)
	}
	c.out.answer(answer)
}

func (b *Broker) removeSubscription(c *client, filter string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(c.subs, filter)
	return b.subs.remove(filter, c.sub)
}

// attach makes c the client with its id. What has it now is disconnected and
// has ended, its will sent, when attach returns.
func (b *Broker) attach(c *client) bool {
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		return false
	}
	old := b.clients[c.id]
	if old != nil {
		b.detachLocked(old)
	}
	b.clients[c.id] = c
	b.mu.Unlock()
	if old != nil {
		old.end(errTakenOver)
		<-old.done
	}
	return true
}

// detach ends c's session.
func (b *Broker) detach(c *client) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.detachLocked(c)
}

func (b *Broker) detachLocked(c *client) {
	for f := range c.subs {
		b.subs.remove(f, c.sub)
	}
	clear(c.subs)
	if b.clients[c.id] == c {
		delete(b.clients, c.id)
	}
}

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
