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
func (b *Bridge) receive(ctx context.Context, in inbound) {
	msg, ok := b.inbound(in.Publish)
	if !ok {
		b.count.add(&b.count.Rejected)
		in.answer(0) // nothing to do about it, now or later
		return
	}
	err := b.local.PublishFrom(ctx, msg, func(err error) { b.stored(in, err) })
	if err != nil && ctx.Err() == nil {
		code := byte(packets.PubackImplementationSpecificError)
		if errors.Is(err, broker.ErrRefused) {
			code = packets.PubackNotAuthorized
		}
		b.reject(in, code, err)
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
func (b *Bridge) stored(in inbound, err error) {
	if err != nil {
		b.reject(in, packets.PubackQuotaExceeded, err)
		return
	}
	b.barred.Store(false)
	b.count.add(&b.count.Received)
	in.answer(0)
}

// reject answers with a reason code of refusal. The first of several in a row
// is logged.
func (b *Bridge) reject(in inbound, code byte, err error) {
	if !b.barred.Swap(true) {
		b.log.Warn("message from upstream refused", "topic", in.Topic, "err", err)
	}
	b.count.add(&b.count.Rejected)
	in.answer(code)
}
