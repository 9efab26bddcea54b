package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"edgegateway/broker/packet"
)

const (
	connectWait = 10 * time.Second // from accept to the end of CONNECT
	connectMax  = 16 << 10         // bytes of a CONNECT
)

// handshake reads the CONNECT, answers it, and starts the client's writer.
func (b *Broker) handshake(ctx context.Context, conn net.Conn) (*client, error) {
	buf := packet.NewBuffer(conn)
	conn.SetDeadline(time.Now().Add(connectWait))
	p, err := b.readConnect(buf)
	if err != nil {
		var e *packet.Error
		if p != nil || errors.As(err, &e) && e.Reason == packet.UnsupportedVersion {
			refuse(conn, p, err)
		}
		return nil, err
	}
	assigned := p.ClientID == ""
	if assigned {
		p.ClientID = "auto-" + strings.ToLower(rand.Text())
	}
	c := newClient(b, conn, buf, p)
	if err := c.authorize(ctx, p); err != nil {
		refuse(conn, p, err)
		return nil, err
	}
	present, err := b.resume(c, p)
	if err != nil {
		refuse(conn, p, err)
		return nil, err
	}
	b.accepted(conn)
	conn.SetDeadline(time.Time{})
	c.welcome(b.connack(c, p, present, assigned))
	if c.ctx.Err() != nil {
		conn.SetReadDeadline(time.Now())
	}
	b.log.Info("client connected", "client", c.id, "user", c.user, "addr", conn.RemoteAddr(), "version", c.version.String())
	return c, nil
}

// welcome has the CONNACK leave, then what was sent of QoS 2 and only waits to
// be released, then messages.
func (c *client) welcome(answer *packet.Connack) {
	c.out.greet(answer)
	for _, id := range c.out.unreleased() {
		c.out.answer(&packet.Ack{Kind: packet.PUBREL, ID: id})
	}
	c.out.cork(false)
}

// readConnect returns the CONNECT. With one that is answered with a refusal
// it returns both it and the error.
func (b *Broker) readConnect(buf *packet.Buffer) (*packet.Connect, error) {
	in := packet.Reader{Src: buf, Max: min(connectMax, b.limits.Packet)}
	first, _, err := in.Read()
	if err != nil {
		return nil, fmt.Errorf("read CONNECT: %w", err)
	}
	p, ok := first.(*packet.Connect)
	if !ok {
		return nil, fmt.Errorf("it began with %v, not CONNECT", first.Type())
	}
	switch {
	case p.ClientID == "" && p.Version < packet.V5 && !p.CleanStart:
		return p, &packet.Error{Reason: packet.ClientIDNotValid, What: "a kept session without a client id"}
	case p.Props.Has(packet.AuthMethod):
		return p, &packet.Error{Reason: packet.BadAuthMethod, What: "extended authentication is not supported"}
	case p.Will != nil && ValidTopic(p.Will.Topic) != nil:
		return p, &packet.Error{Reason: packet.TopicInvalid, What: "invalid will topic"}
	}
	return p, nil
}

// refuse answers a CONNECT that is not accepted; p is nil if it was not
// understood.
func refuse(conn net.Conn, p *packet.Connect, err error) {
	reason := packet.Unspecified
	var e *packet.Error
	var d *disconnect
	if errors.As(err, &e) {
		reason = e.Reason
	} else if errors.As(err, &d) {
		reason = d.reason
	}
	if !reason.In(packet.CONNACK) {
		reason = packet.ServerUnavailable // for the time being, as when it stops
	}
	version := packet.V311
	if p != nil {
		version = p.Version
	}
	answer := packet.Connack{Reason: reason}
	if version < packet.V5 {
		answer.Reason = reason.Old()
	} else {
		text := err.Error()
		if _, secret := errors.AsType[*refusal](err); secret {
			text = reason.String()
		}
		answer.Props = answer.Props.AddText(packet.ReasonString, text)
	}
	raw, failed := answer.Append(nil, version)
	if max := maxPacket(p); failed != nil || max > 0 && len(raw) > max {
		answer.Props = nil
		raw, _ = answer.Append(nil, version) // it always encodes
	}
	conn.Write(raw)
}

// maxPacket returns the largest packet that a client takes, 0 for any.
func maxPacket(p *packet.Connect) int {
	if p == nil {
		return 0
	}
	return int(p.Props.Num(packet.MaximumPacketSize, 0))
}

// connack returns the answer to an accepted CONNECT: what was found of its
// session, and the bounds of this broker.
func (b *Broker) connack(c *client, p *packet.Connect, present, assigned bool) *packet.Connack {
	answer := &packet.Connack{SessionPresent: present && p.Version > packet.V31}
	if p.Version < packet.V5 {
		return answer
	}
	props := packet.Properties(nil).
		AddNum(packet.ReceiveMaximum, maxPending).
		AddNum(packet.MaximumPacketSize, uint32(b.limits.Packet)).
		AddNum(packet.TopicAliasMaximum, maxAliases)
	if asked := p.Props.Num(packet.SessionExpiry, 0); asked != c.expiry {
		props = props.AddNum(packet.SessionExpiry, c.expiry)
	}
	if d := b.limits.KeepAlive; d > 0 && (p.KeepAlive == 0 || time.Duration(p.KeepAlive)*time.Second > d) {
		c.keepAlive = d * 3 / 2
		props = props.AddNum(packet.ServerKeepAlive, uint32(d/time.Second))
	}
	if p.Props.Num(packet.RequestResponse, 0) == 1 {
		props = props.AddText(packet.ResponseInfo, "response/"+c.id)
	}
	if assigned {
		props = props.AddText(packet.AssignedClientID, p.ClientID)
	}
	answer.Props = props
	return answer
}

// sessionExpiry returns how long the session of a client is to last without a
// connection, in seconds. Before MQTT 5 a client says only that it is to.
func (b *Broker) sessionExpiry(p *packet.Connect) uint32 {
	if b.sessionLog == nil {
		return 0
	}
	asked := uint32(never)
	switch {
	case p.Version >= packet.V5:
		asked = p.Props.Num(packet.SessionExpiry, 0)
	case p.CleanStart:
		asked = 0
	}
	return min(asked, b.limits.sessionExpiry())
}

func (l *Limits) sessionExpiry() uint32 {
	return uint32(min(int64(l.SessionExpiry/time.Second), never))
}
