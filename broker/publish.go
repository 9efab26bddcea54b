package broker

import (
	"errors"
	"fmt"
	"strings"

	"edgegateway/broker/packet"
	"edgegateway/broker/spool"
)

// maxAliases is how many topic aliases a client may define.
const maxAliases = 64

const (
	maxHeld      = 1000    // publishes of one client that wait
	maxHeldBytes = 1 << 20 // bytes of them
)

// publish handles a PUBLISH: alias, permission, route, answer.
func (c *client) publish(p *packet.Publish) error {
	c.traffic.in.Add(1)
	c.traffic.payloadIn.Add(uint64(len(p.Payload)))
	if err := c.resolveAlias(p); err != nil {
		return err
	}
	msg := &Message{
		Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain,
		Props: messageProperties(p.Props), Stamp: c.b.now(), From: c.from, Client: c.id,
	}
	if p.Props.Has(packet.SubscriptionID) {
		return &packet.Error{Reason: packet.ProtocolError, What: "PUBLISH: only a broker sends subscription identifiers"}
	}
	if msg.Props != nil && strings.ContainsAny(msg.Props.ResponseTopic, "+#\x00") {
		return &packet.Error{Reason: packet.ProtocolError, What: "PUBLISH: wildcard in the response topic"}
	}
	if p.QoS == 2 {
		if isNew, err := c.receive(p.ID); !isNew {
			return err
		}
	}
	pub := &publication{msg: msg, patient: true, tellUnheard: c.version >= packet.V5, receipt: newReceipt(c.answerTo(p))}
	if !c.mayPublish(p.Topic) {
		pub.settle(ErrRefused)
		return nil
	}
	c.route(pub)
	return nil
}

// resolveAlias fills in the topic of a publish that has only an alias
// (section 3.3.2.3.4).
func (c *client) resolveAlias(p *packet.Publish) error {
	if !p.Props.Has(packet.TopicAlias) {
		return nil
	}
	alias := p.Props.Num(packet.TopicAlias, 0)
	if alias == 0 || alias > maxAliases {
		return &packet.Error{Reason: packet.TopicAliasInvalid, What: "PUBLISH: topic alias out of range"}
	}
	if p.Topic != "" {
		if c.aliases == nil {
			c.aliases = make(map[uint16]string)
		}
		c.aliases[uint16(alias)] = p.Topic
		return nil
	}
	topic, ok := c.aliases[uint16(alias)]
	if !ok {
		return &packet.Error{Reason: packet.ProtocolError, What: "PUBLISH: topic alias that was not defined"}
	}
	p.Topic = topic
	return nil
}

// Mosquitto's bridges publish below bridgeState whether they are connected, each
// time they connect. It is not taken, and nothing that anybody has to look into.
const bridgeState = sysPrefix + "connection/"

func (c *client) mayPublish(topic string) bool {
	if topic[0] != '$' && !c.b.limits.tooDeep(topic) && c.b.allowed(c.user, c.id, topic, Write) {
		return true
	}
	c.b.drop(dropRefused, 1)
	if !c.warned && !strings.HasPrefix(topic, bridgeState) {
		c.warned = true
		c.b.log.Warn("client may not publish there, message dropped; further ones are only counted", "levels", strings.Count(topic, "/")+1, "client", c.id, "user", c.user, "topic", topic)
	}
	return false
}

// answerTo returns what answers p when it is settled, nil for QoS 0.
func (c *client) answerTo(p *packet.Publish) func(error) {
	if p.QoS == 0 {
		return nil
	}
	kind, id := packet.PUBACK, p.ID
	if p.QoS == 2 {
		kind = packet.PUBREC
	}
	a := c.out.expect(kind, id)
	return func(err error) {
		reason := publishReason(err)
		if c.version < packet.V5 {
			if reason.Failed() && reason != packet.NotAuthorized {
				c.end(errNotStored)
				return
			}
			reason = packet.Success
		}
		if kind == packet.PUBREC {
			c.answered(id, reason)
		}
		why := ""
		if reason.Failed() && reason != packet.NotAuthorized { // which says all there is
			why = err.Error()
		}
		if kind == packet.PUBREC && !reason.Failed() && c.session.lasts() {
			// After the message is safe, not before: what is noted is not taken again.
			c.b.sessionLog.run.append(receivedRecord(c.session.no, id, true), func(error) { c.out.settle(a, reason, why) })
			return
		}
		c.out.settle(a, reason, why)
	}
}

func publishReason(err error) packet.Reason {
	switch {
	case err == nil:
		return packet.Success
	case err == errUnheard:
		return packet.NoMatchingSubscribers
	case errors.Is(err, ErrRefused):
		return packet.NotAuthorized
	case errors.Is(err, ErrQuota), errors.Is(err, spool.ErrFull), errors.Is(err, spool.ErrTooLarge): // "packet too large" is not for acknowledgements
		return packet.QuotaExceeded
	}
	return packet.Unspecified
}

// receive notes a QoS 2 publish and says whether it is new. One that was
// answered is answered again. Nobody may leave more than maxPending of them
// unreleased, which version 5 calls the Receive Maximum.
func (c *client) receive(id uint16) (isNew bool, err error) {
	o := c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	answered, ok := o.received[id]
	switch {
	case ok && answered:
		o.answerLocked(&packet.Ack{Kind: packet.PUBREC, ID: id})
		return false, nil
	case ok:
		return false, nil
	case c.version >= packet.V5 && len(o.received) >= maxPending:
		return false, &packet.Error{Reason: packet.ReceiveMaximumExceeded, What: fmt.Sprintf("PUBLISH: %d of QoS 2 are not released", maxPending)}
	}
	if o.received == nil {
		o.received = make(sentSet)
	}
	o.received[id] = false
	return true, nil
}

// answered notes that a QoS 2 publish is safe, or forgets it if it failed.
func (c *client) answered(id uint16, reason packet.Reason) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if !reason.Failed() {
		c.out.received[id] = true
		return
	}
	delete(c.out.received, id)
	if c.session.lasts() {
		c.b.sessionLog.run.append(receivedRecord(c.session.no, id, false), nil)
	}
}

// release forgets a QoS 2 publish and answers its PUBREL, when that is stored:
// else the next publish with this identifier could be taken for the same.
func (c *client) release(id uint16) {
	c.out.mu.Lock()
	_, ok := c.out.received[id]
	delete(c.out.received, id)
	c.out.mu.Unlock()
	comp := &packet.Ack{Kind: packet.PUBCOMP, ID: id}
	switch {
	case ok && c.session.lasts():
		c.b.sessionLog.run.append(receivedRecord(c.session.no, id, false), func(error) { c.out.answer(comp) })
		return
	case !ok && c.version >= packet.V5:
		comp.Reason = packet.IDNotFound
	}
	c.out.answer(comp)
}

// route routes p, or holds it while it or one before it has to wait.
func (c *client) route(p *publication) {
	h := &c.held
	h.mu.Lock()
	active := h.active
	h.mu.Unlock()
	if !active && c.b.route(p) == nil {
		return
	}
	if !p.owned {
		p.msg, p.owned = p.msg.clone(), true // the reader's buffer goes on
	}
	defer c.out.setUnread(false)
	for !h.hold(c, p) {
		c.out.setUnread(true)
		select {
		case <-h.changed:
		case <-c.ctx.Done():
			c.b.drop(dropEnded, 1)
			return
		}
	}
}

// hold queues p unless there are too many already.
func (h *held) hold(c *client, p *publication) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue.len() >= maxHeld || h.bytes >= maxHeldBytes {
		return false
	}
	h.queue.push(p)
	h.bytes += cost(p.msg)
	if !h.active {
		h.active, h.idle = true, make(chan struct{})
		go c.routeHeld(h.idle)
	}
	return true
}

// routeHeld routes what is held, in order, until nothing is.
func (c *client) routeHeld(idle chan struct{}) {
	defer close(idle)
	defer c.recovered()
	for {
		p := c.held.next()
		if p == nil {
			return
		}
		if c.b.routePatiently(c.ctx, p) != nil {
			c.b.drop(dropEnded, 1)
		}
		c.held.drop(p)
	}
}

// next returns the oldest held publish; with nil the goroutine has to end.
func (h *held) next() *publication {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue.len() == 0 {
		h.active = false
		return nil
	}
	return *h.queue.front()
}

func (h *held) drop(p *publication) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue.pop()
	h.bytes -= cost(p.msg)
	select {
	case h.changed <- struct{}{}:
	default: // the reader will look anyway
	}
}

// wait returns when nothing is held any more. Only the reader calls it.
func (h *held) wait() {
	h.mu.Lock()
	idle := h.idle
	h.mu.Unlock()
	if idle != nil {
		<-idle
	}
}
