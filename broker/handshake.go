package broker

import (
	"bufio"
	"context"
	"crypto/rand"
	"edgegateway/broker/packet"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

const (
	connectWait = 10 * time.Second // from accept to the end of CONNECT
	connectMax  = 16 << 10         // bytes of a CONNECT
)

// handshake reads the CONNECT, answers it, and starts the client's writer.
func (b *Broker) handshake(ctx context.Context, conn net.Conn) (*client, error) {
	buf := bufio.NewReader(conn)
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
	if !b.attach(c) {
		refuse(conn, p, errShutdown)
		return nil, errShutdown
	}
	b.accepted(conn)
	c.out.answer(b.connack(p, assigned))
	conn.SetDeadline(time.Time{})
	if c.ctx.Err() != nil {
		conn.SetReadDeadline(time.Now())
	}
	go c.writeLoop()
	b.log.Info("client connected", "client", c.id, "user", c.user, "addr", conn.RemoteAddr(), "version", c.version.String())
	return c, nil
}

// readConnect returns the CONNECT. With one that is answered with a refusal
// it returns both it and the error.
func (b *Broker) readConnect(buf *bufio.Reader) (*packet.Connect, error) {
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
	version := packet.V311
	if p != nil {
		version = p.Version
	}
	if version < packet.V5 {
		reason = reason.Old()
	}
	answer, _ := (&packet.Connack{Reason: reason}).Append(nil, version) // it always encodes
	conn.Write(answer)
}

// connack returns the answer to an accepted CONNECT: what this broker does not
// do, and its bounds. Sessions are never present and end with the connection.
func (b *Broker) connack(p *packet.Connect, assigned bool) *packet.Connack {
	answer := &packet.Connack{}
	if p.Version < packet.V5 {
		return answer
	}
	props := packet.Properties(nil).
		AddNum(packet.MaximumPacketSize, uint32(b.limits.Packet)).
		AddNum(packet.TopicAliasMaximum, maxAliases).
		AddNum(packet.SharedAvailable, 0)
	if p.Props.Num(packet.SessionExpiry, 0) != 0 {
		props = props.AddNum(packet.SessionExpiry, 0)
	}
	if assigned {
		props = props.AddText(packet.AssignedClientID, p.ClientID)
	}
	answer.Props = props
	return answer
}
