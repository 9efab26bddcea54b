package bridge

import (
	"context"
	"errors"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"edgegateway/broker"
)

// receive publishes locally what came from upstream and acknowledges it there
// when it is safe here. Paho calls it, one message after the other, in their
// order; ctx ends with the link.
func (b *Bridge) receive(ctx context.Context, l *link, p *paho.Publish) {
	msg, ok := b.inbound(p)
	if !ok {
		b.count.add(&b.count.Rejected)
		_ = l.client.Ack(p) // nothing to do about it, now or later
		return
	}
	err := b.local.PublishFrom(ctx, msg, func(err error) { b.stored(l, p, err) })
	if err != nil && ctx.Err() == nil {
		code := byte(packets.PubackImplementationSpecificError)
		if errors.Is(err, broker.ErrRefused) {
			code = packets.PubackNotAuthorized
		}
		b.reject(l, p, code, err)
	}
}

// inbound maps a message from upstream to a local one; false if no rule leads
// it anywhere, or it is retained: what was asked at some time is no command.
func (b *Bridge) inbound(p *paho.Publish) (*broker.Message, bool) {
	to, ok := b.recv.lookup(p.Topic)
	if !ok || p.Retain || !isCommand(lastLevel(to)) || broker.ValidTopic(to) != nil {
		return nil, false
	}
	return &broker.Message{
		Topic:   to,
		Payload: p.Payload,
		QoS:     p.QoS,
		Class:   broker.Critical,
		Props:   inboundProperties(p.Properties),
		Stamp:   b.cfg.Now(),
		From:    b.user,
	}, true
}

// inboundProperties returns nil if there are none.
func inboundProperties(in *paho.PublishProperties) *broker.Properties {
	if in == nil {
		return nil
	}
	out := &broker.Properties{
		PayloadUTF8:   in.PayloadFormat != nil && *in.PayloadFormat == 1,
		Expiry:        in.MessageExpiry,
		ContentType:   in.ContentType,
		ResponseTopic: in.ResponseTopic,
		Correlation:   in.CorrelationData,
	}
	for _, u := range in.User {
		out.User = append(out.User, broker.UserProperty{Key: u.Key, Value: u.Value})
	}
	if !out.PayloadUTF8 && out.Expiry == nil && out.ContentType == "" && out.ResponseTopic == "" && out.Correlation == nil && out.User == nil {
		return nil
	}
	return out
}

// stored is called when the local broker has a message safe, or has not.
func (b *Bridge) stored(l *link, p *paho.Publish, err error) {
	if err != nil {
		b.reject(l, p, packets.PubackQuotaExceeded, err)
		return
	}
	b.barred.Store(false)
	b.count.add(&b.count.Received)
	_ = l.client.Ack(p) // after the end of the link it is delivered again
}

// reject acknowledges p with a reason code of refusal. The first of several in
// a row is logged.
func (b *Bridge) reject(l *link, p *paho.Publish, code byte, err error) {
	if !b.barred.Swap(true) {
		b.log.Warn("message from upstream refused", "topic", p.Topic, "err", err)
	}
	b.count.add(&b.count.Rejected)
	if p.QoS > 0 {
		l.sess.refuse(p.PacketID, code)
		_ = l.client.Ack(p)
	}
}
