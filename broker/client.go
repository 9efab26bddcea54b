package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"edgegateway/broker/packet"
	"edgegateway/broker/spool"
)

// A disconnect is why the broker ends a connection.
type disconnect struct {
	reason packet.Reason
	what   string
}

func (d *disconnect) Error() string { return d.what }

var (
	errStuck     = &disconnect{packet.QuotaExceeded, "it has not taken its messages for too long"}
	errTakenOver = &disconnect{packet.SessionTakenOver, "another connection came with its client id"}
	errShutdown  = &disconnect{packet.ServerShuttingDown, "the gateway stops"}
	errCrash     = &disconnect{packet.Unspecified, "internal error"}
	errAlive     = &disconnect{packet.KeepAliveTimeout, "nothing came within its keep alive"}
	errReviewed  = &disconnect{packet.AdministrativeAction, "its user or its rights were changed"}
	errTooLate   = &disconnect{packet.ServerBusy, "users were changed while it logged in; it may try again"}
	errNotStored = &disconnect{packet.QuotaExceeded, "its message could not be stored, and before MQTT 5 there is no other way to say so"}

	// errGoodbye is a client's own DISCONNECT, after which its Will is void.
	errGoodbye = errors.New("it disconnected")
)

// A client is one connection that was accepted. Its reader goroutine owns what
// is not said otherwise.
type client struct {
	b          *Broker
	conn       net.Conn
	in         packet.Reader
	buf        *packet.Buffer // of in
	version    packet.Version
	bridge     bool // of a program that says so: no-local, retain-as-published
	id, user   string
	from       string // Message.From of what it publishes
	keepAlive  time.Duration
	maxPacket  int    // that it takes; 0: any
	maxAliases int    // topic aliases that it takes
	expiry     uint32 // of its session, seconds
	will       *Message
	willDelay  time.Duration
	since      time.Time
	stored     chan error // its session is stored; nil: it is already, or need not be

	aliases map[uint16]string // topic aliases that it defined
	told    map[string]uint16 // topic aliases that it was told; the writer's
	warned  bool              // a refusal was logged
	reviews uint64            // Broker.reviews before it logged in

	ctx     context.Context // done: the broker ends the connection; Cause says why
	cancel  context.CancelCauseFunc
	session *session       // never changes once the client is attached
	out     *outbox        // of session
	reading sync.WaitGroup // Broker.catchUp
	held    held
	written chan struct{} // closed when the writer has ended and conn is closed
	done    chan struct{} // closed when all of it has ended
	traffic traffic
}

// held are publishes that came while one before them waits for a subscriber
// or for the spool. A goroutine that exists only then routes them.
type held struct {
	mu      sync.Mutex
	queue   fifo[*publication]
	bytes   int
	active  bool
	changed chan struct{} // one token: there is less
	idle    chan struct{} // closed when the goroutine ended; nil: there was none
}

// enter lets a connection in, and returns nil if it is not.
func (b *Broker) enter(ctx context.Context, conn net.Conn) (c *client) {
	defer func() {
		if r := recover(); r != nil { // a second net, as in client.recovered
			b.log.Error("connection closed for an internal error", "addr", conn.RemoteAddr(), "err", r, "stack", string(debug.Stack()))
			conn.Close()
		}
	}()
	c, err := b.handshake(ctx, conn)
	if err != nil {
		b.log.Info("connection refused", "addr", conn.RemoteAddr(), "err", err)
		conn.Close()
		return nil
	}
	return c
}

// serve runs a connection that was let in to its end.
func (c *client) serve() { c.finish(c.readLoop()) }

// readLoop handles packets until the connection ends.
func (c *client) readLoop() (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.crashed(r)
			err = errCrash
		}
	}()
	for {
		if err := c.pause(); err != nil {
			return err
		}
		if c.keepAlive > 0 && c.buf.Buffered() == 0 {
			c.conn.SetReadDeadline(time.Now().Add(c.keepAlive))
		}
		if c.ctx.Err() != nil { // after the deadline was set: end sets one too
			return context.Cause(c.ctx)
		}
		p, n, err := c.in.Read()
		c.traffic.bytesIn.Add(uint64(n))
		c.traffic.packetsIn.Add(1)
		if err != nil {
			return c.readError(err)
		}
		if err := c.handle(p); err != nil {
			return err
		}
	}
}

// pause waits while the client leaves too many answers unread.
func (c *client) pause() error {
	for {
		moved := c.out.crowded()
		if moved == nil {
			return nil
		}
		select {
		case <-moved:
		case <-c.written:
			return io.ErrClosedPipe
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

func (c *client) readError(err error) error {
	var timeout net.Error
	switch {
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case errors.As(err, &timeout) && timeout.Timeout():
		return errAlive
	}
	return err
}

func (c *client) handle(p packet.Packet) error {
	switch p := p.(type) {
	case *packet.Publish:
		return c.publish(p)
	case *packet.Ack:
		return c.ack(p)
	case *packet.Subscribe:
		return c.subscribe(p)
	case *packet.Unsubscribe:
		return c.unsubscribe(p)
	case packet.Ping:
		if p.Kind == packet.PINGREQ {
			c.out.answer(packet.Ping{Kind: packet.PINGRESP})
			return nil
		}
	case *packet.Disconnect:
		return c.bye(p)
	}
	return &packet.Error{Reason: packet.ProtocolError, What: fmt.Sprintf("a client may not send %v now", p.Type())}
}

// bye handles a DISCONNECT and returns what ends the connection.
func (c *client) bye(p *packet.Disconnect) error {
	if expiry, ok := p.Props.Lookup(packet.SessionExpiry); ok {
		if c.expiry == 0 && expiry != 0 {
			return &packet.Error{Reason: packet.ProtocolError, What: "DISCONNECT: the session was to end with the connection, and is not to now"}
		}
		c.b.setExpiry(c, expiry)
	}
	if p.Reason != packet.Success { // MQTT-3.14.4-3: no other one voids the will
		return fmt.Errorf("it disconnected: %v", p.Reason)
	}
	return errGoodbye
}

// ack handles the acknowledgement of something that either side sent.
func (c *client) ack(p *packet.Ack) error {
	if p.Kind == packet.PUBREL {
		c.release(p.ID)
		return nil
	}
	r := c.out.acknowledge(p.Kind, p.ID, p.Reason.Failed())
	if r.settled {
		r.done.owed.got()
	}
	switch {
	case p.Kind == packet.PUBREC && !r.known:
		rel := &packet.Ack{Kind: packet.PUBREL, ID: p.ID}
		if c.version >= packet.V5 {
			rel.Reason = packet.IDNotFound
		}
		c.out.answer(rel)
	case p.Kind == packet.PUBREC && !p.Reason.Failed():
		id := p.ID // p is used again for the next packet
		c.note(id, sentRelease, r.done.seq, func(error) { c.out.answer(&packet.Ack{Kind: packet.PUBREL, ID: id}) })
	case r.known && r.done.qos == 2:
		c.note(p.ID, stateGone, r.done.seq, nil)
	}
	return nil
}

// note has the state of a QoS 2 message stored, if its session lasts, and then
// calls done. Acknowledgements are only sent for what is stored: else a message
// could come twice, or an identifier be in use for ever, after kill -9.
func (c *client) note(id uint16, state sentState, seq spool.Seq, done func(error)) {
	if seq != 0 {
		c.b.sessionLog.run.append(sentRecord(c.session.no, id, state, seq), done)
	} else if done != nil {
		done(nil)
	}
}

// end makes the broker end the connection for the given reason. It returns at
// once; anyone may call it, and the first call counts.
func (c *client) end(why *disconnect) {
	c.cancel(why)
	state := outboxClosing
	if why == errShutdown {
		state = outboxDraining
	}
	c.out.close(state, c.goodbye(why))
	now := time.Now()
	c.conn.SetReadDeadline(now)
	c.conn.SetWriteDeadline(now.Add(lastWait))
}

// goodbye returns the DISCONNECT that says why; before MQTT 5 a broker has
// none.
func (c *client) goodbye(err error) []byte {
	if c.version < packet.V5 {
		return nil
	}
	p := packet.Disconnect{Reason: packet.Unspecified}
	var d *disconnect
	var e *packet.Error
	switch {
	case errors.As(err, &d):
		p.Reason = d.reason
	case errors.As(err, &e):
		p.Reason = e.Reason
	default:
		return nil // it went by itself
	}
	p.Props = p.Props.AddText(packet.ReasonString, err.Error())
	b, encoded := p.Append(nil, c.version)
	if encoded != nil || c.maxPacket > 0 && len(b) > c.maxPacket {
		p.Props = nil
		b, _ = p.Append(nil, c.version) // a reason always encodes
	}
	return b
}

// finish ends the session: what the client published is routed, then its will,
// then the writer ends.
func (c *client) finish(err error) {
	defer close(c.done)
	c.held.wait()
	if context.Cause(c.ctx) == errShutdown {
		c.awaitWriter()
	}
	c.b.disconnect(c, err == errGoodbye)
	c.out.close(outboxClosing, c.goodbye(err))
	c.conn.SetWriteDeadline(time.Now().Add(lastWait))
	<-c.written
	c.cancel(nil)
	c.reading.Wait()
	c.b.release(c)
	c.logEnd(err)
}

// awaitWriter gives the writer a moment to send what is queued and what is
// not answered yet.
func (c *client) awaitWriter() {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.written:
	case <-timer.C:
	}
}

func (c *client) logEnd(err error) {
	var e *packet.Error
	log := c.b.log.With("client", c.id, "addr", c.conn.RemoteAddr())
	switch {
	case errors.As(err, &e):
		c.b.counts.errors.Add(1)
		log.Warn("client broke the protocol, disconnected", "err", err)
	case err == errGoodbye || errors.Is(err, io.EOF) || err == error(errShutdown):
		log.Info("client gone", "err", err)
	default:
		log.Warn("client lost", "err", err)
	}
}

// recovered ends the connection if its goroutine panicked. It is to be deferred.
func (c *client) recovered() {
	if r := recover(); r != nil {
		c.crashed(r)
	}
}

// crashed ends the connection for a panic: a second net, in case a packet
// finds a mistake of ours.
func (c *client) crashed(r any) {
	c.b.log.Error("client disconnected for an internal error", "client", c.id, "err", r, "stack", string(debug.Stack()))
	c.end(errCrash)
}

func (c *client) stats() ClientStats {
	st := c.session.stats()
	st.Address, st.Version, st.Since = c.conn.RemoteAddr().String(), c.version.String(), c.since
	st.In, st.Out = c.traffic.in.Load(), c.traffic.out.Load()
	return st
}

// newClient returns a client for an accepted CONNECT.
func newClient(b *Broker, conn net.Conn, buf *packet.Buffer, p *packet.Connect) *client {
	c := &client{
		b: b, conn: conn, version: p.Version, bridge: p.Bridge, id: p.ClientID, since: time.Now(),
		keepAlive:  time.Duration(p.KeepAlive) * 1500 * time.Millisecond,
		maxPacket:  maxPacket(p),
		maxAliases: min(int(p.Props.Num(packet.TopicAliasMaximum, 0)), maxAliases),
		written:    make(chan struct{}), done: make(chan struct{}),
	}
	c.in, c.buf = packet.Reader{Src: buf, Version: p.Version, Max: b.limits.Packet, Reuse: true}, buf
	c.held.changed = make(chan struct{}, 1)
	c.expiry = b.sessionExpiry(p)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// window returns how many messages may be sent to a client unacknowledged.
func (l Limits) window(p *packet.Connect) int {
	n := l.Window
	switch {
	case n <= 0 && p.Version >= packet.V5:
		n = 100
	case n <= 0:
		n = 20
	}
	return min(n, int(p.Props.Num(packet.ReceiveMaximum, 65535)))
}
