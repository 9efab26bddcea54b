package broker

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
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

// listenLoop serves the i-th address until ctx is done, trying again while it
// cannot be had: a port that somebody else holds costs the site its broker,
// not its polling and bridges. tried is called after the first attempt.
func (b *Broker) listenLoop(ctx context.Context, i int, tried func()) {
	for first := true; ctx.Err() == nil; first = false {
		ln, err := b.listen(ctx, i)
		if err == nil && !first {
			b.log.Info("broker listens after all", "addr", b.cfg.Listen[i].Address)
		}
		if first && err != nil {
			b.log.Error("broker cannot listen, trying again; if another broker has the port, stop it or choose another in [broker] listen",
				"addr", b.cfg.Listen[i].Address, "err", err)
		}
		if first {
			tried()
		}
		if err == nil {
			stop := context.AfterFunc(ctx, func() { ln.Close() })
			b.acceptLoop(ctx, ln)
			stop()
			return
		}
		select {
		case <-time.After(b.relisten):
		case <-ctx.Done():
		}
	}
}

func (b *Broker) listen(ctx context.Context, i int) (net.Listener, error) {
	l := b.cfg.Listen[i]
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, l.Network, l.Address)
	if err != nil {
		return nil, err
	}
	b.conns.Lock()
	b.addrs[i] = ln.Addr()
	b.conns.Unlock()
	if l.TLS != nil {
		ln = tls.NewListener(ln, l.TLS)
	}
	return ln, nil
}

// acceptLoop accepts until the listener is closed. Without descriptors or
// memory it tries again, less and less often.
func (b *Broker) acceptLoop(ctx context.Context, l net.Listener) {
	const least, most = 5 * time.Millisecond, time.Second
	wait := least
	for {
		conn, err := l.Accept()
		if err == nil {
			if wait > least {
				b.log.Info("broker accepts connections again", "addr", l.Addr())
			}
			wait = least
			b.admit(ctx, conn)
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if wait == least {
			b.log.Error("broker cannot accept connections, trying again", "addr", l.Addr(), "err", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, most)
	}
}

// admit serves conn on a goroutine of its own, or closes it if there are too
// many.
func (b *Broker) admit(ctx context.Context, conn net.Conn) {
	b.counts.connections.Add(1)
	b.conns.Lock()
	defer b.conns.Unlock()
	full := len(b.open) >= b.limits.Connections
	if ctx.Err() != nil {
		conn.Close()
		return
	}
	if full && !b.full {
		b.log.Warn("connections refused: there are too many", "addr", conn.RemoteAddr(), "n", len(b.open))
	}
	if b.full = full; full {
		conn.Close()
		return
	}
	b.open[conn] = false
	b.run.Go(func() {
		defer b.forget(conn)
		b.serve(ctx, conn)
	})
}

func (b *Broker) forget(conn net.Conn) {
	b.conns.Lock()
	defer b.conns.Unlock()
	delete(b.open, conn)
}

// accepted notes that conn is a client's, which a stop tells politely.
func (b *Broker) accepted(conn net.Conn) {
	b.conns.Lock()
	defer b.conns.Unlock()
	if _, ok := b.open[conn]; ok {
		b.open[conn] = true
	}
}

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

// authorize proves who the client is and that it may leave its will.
func (c *client) authorize(ctx context.Context, p *packet.Connect) error {
	if c.b.cfg.Authenticate != nil {
		select {
		case c.b.auth <- struct{}{}:
		case <-ctx.Done():
			return errShutdown
		}
		ok := c.b.cfg.Authenticate(p.User, p.Password, p.ClientID)
		<-c.b.auth
		if !ok || strings.HasPrefix(p.User, bridgeUser) {
			return &packet.Error{Reason: packet.BadUserOrPassword, What: fmt.Sprintf("bad user name or password for %q", p.User)}
		}
		c.user = p.User
	}
	if c.from = c.user; c.from == "" {
		c.from = anonymous
	}
	if w := p.Will; w != nil {
		c.will = (&Message{
			Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain,
			Props: messageProperties(w.Props), From: c.from, Client: c.id,
		}).clone()
		// Mosquitto's bridges leave their state under $SYS; that will is let in,
		// and dropped when it is due.
		if w.Topic[0] != '$' && !c.mayPublish(w.Topic) {
			return &packet.Error{Reason: packet.NotAuthorized, What: fmt.Sprintf("not allowed to leave a will at %q", w.Topic)}
		}
	}
	return nil
}

// anonymous is Message.From of clients without a user.
const anonymous = "anonymous"

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
