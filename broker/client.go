package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"edgegateway/broker/packet"
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
	errNotStored = &disconnect{packet.QuotaExceeded, "its message could not be stored, and before MQTT 5 there is no other way to say so"}

	// errGoodbye is a client's own DISCONNECT, after which its Will is void.
	errGoodbye = errors.New("it disconnected")
)

// A client is one connection that was accepted, with the session that lasts as
// long. Its reader goroutine owns what is not said otherwise.
type client struct {
	b         *Broker
	conn      net.Conn
	in        packet.Reader
	version   packet.Version
	bridge    bool // of a program that says so: no-local, retain-as-published
	id, user  string
	from      string // Message.From of what it publishes
	keepAlive time.Duration
	maxPacket int // that it takes; 0: any
	will      *Message
	since     time.Time

	aliases  map[uint16]string // topic aliases that it defined
	received map[uint16]bool   // QoS 2 publishes that are not released: whether they are answered; with out.mu
	warned   bool              // a refusal was logged

	ctx     context.Context // done: the broker ends the connection; Cause says why
	cancel  context.CancelCauseFunc
	out     outbox
	held    held
	written chan struct{} // closed when the writer has ended and conn is closed
	done    chan struct{} // closed when all of it has ended
	counts  struct{ in, out atomic.Uint64 }

	// Guarded by Broker.mu.
	subs  map[string]struct{} // by filter
	met   uint64              // Broker.routes when last met
	metAt int                 // its place in Broker.targets then

	sub *subscriber // never changes
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

// serve runs one connection from its first byte to its last.
func (b *Broker) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer func() {
		if r := recover(); r != nil { // a second net, as in client.recovered
			b.log.Error("connection closed for an internal error", "addr", conn.RemoteAddr(), "err", r, "stack", string(debug.Stack()))
		}
	}()
	c, err := b.handshake(ctx, conn)
	if err != nil {
		b.log.Info("connection refused", "addr", conn.RemoteAddr(), "err", err)
		return
	}
	err = c.readLoop()
	c.finish(err)
}

// readLoop handles packets until the connection ends.
func (c *client) readLoop() (err error) {
	defer func() {
		if c.recovered() {
			err = errCrash
		}
	}()
	for {
		if err := c.pause(); err != nil {
			return err
		}
		if c.keepAlive > 0 {
			c.conn.SetReadDeadline(time.Now().Add(c.keepAlive))
		}
		if c.ctx.Err() != nil { // after the deadline was set: end sets one too
			return context.Cause(c.ctx)
		}
		p, n, err := c.in.Read()
		c.b.counts.bytesIn.Add(uint64(n))
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
		c.subscribe(p)
		return nil
	case *packet.Unsubscribe:
		c.unsubscribe(p)
		return nil
	case packet.Ping:
		if p.Kind == packet.PINGREQ {
			c.out.answer(packet.Ping{Kind: packet.PINGRESP})
			return nil
		}
	case *packet.Disconnect:
		if c.version >= packet.V5 && p.Reason == packet.DisconnectWithWill {
			return errors.New("it disconnected and wants its will sent")
		}
		return errGoodbye
	}
	return &packet.Error{Reason: packet.ProtocolError, What: fmt.Sprintf("a client may not send %v now", p.Type())}
}

// ack handles the acknowledgement of something that either side sent.
func (c *client) ack(p *packet.Ack) error {
	switch p.Kind {
	case packet.PUBACK:
		c.out.acked(p.ID)
	case packet.PUBREL:
		reason := packet.Success
		if !c.release(p.ID) && c.version >= packet.V5 {
			reason = packet.IDNotFound
		}
		c.out.answer(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID, Reason: reason})
	default:
		return &packet.Error{Reason: packet.ProtocolError, What: p.Kind.String() + " for a message that was not sent with QoS 2"}
	}
	return nil
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
	b, _ := p.Append(nil, c.version) // a reason always encodes
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
	c.b.detach(c)
	if err != errGoodbye {
		c.sendWill()
	}
	c.out.close(outboxClosing, c.goodbye(err))
	c.conn.SetWriteDeadline(time.Now().Add(lastWait))
	<-c.written
	c.b.drop(dropEnded, c.out.left())
	c.cancel(nil)
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

// recovered ends the connection if its goroutine panicked: a second net, in
// case a packet finds a mistake of ours.
func (c *client) recovered() bool {
	r := recover()
	if r == nil {
		return false
	}
	c.b.log.Error("client disconnected for an internal error", "client", c.id, "err", r, "stack", string(debug.Stack()))
	c.end(errCrash)
	return true
}

func (c *client) stats() ClientStats {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return ClientStats{
		ID: c.id, User: c.user, Address: c.conn.RemoteAddr().String(), Version: c.version.String(), Since: c.since,
		Subscriptions: len(c.subs), Queue: c.out.queue.len(), QueueBytes: c.out.bytes, InFlight: len(c.out.window),
		In: c.counts.in.Load(), Out: c.counts.out.Load(),
	}
}

// newClient returns a client for an accepted CONNECT.
func newClient(b *Broker, conn net.Conn, buf *bufio.Reader, p *packet.Connect) *client {
	c := &client{
		b: b, conn: conn, version: p.Version, bridge: p.Bridge, id: p.ClientID, since: time.Now(),
		keepAlive: time.Duration(p.KeepAlive) * 1500 * time.Millisecond,
		maxPacket: int(p.Props.Num(packet.MaximumPacketSize, 0)),
		aliases:   make(map[uint16]string), received: make(map[uint16]bool), subs: make(map[string]struct{}),
		written: make(chan struct{}), done: make(chan struct{}),
	}
	c.in = packet.Reader{Src: buf, Version: p.Version, Max: b.limits.Packet}
	c.sub = &subscriber{client: c}
	c.held.changed = make(chan struct{}, 1)
	c.out = outbox{
		version: p.Version, limit: b.limits.Queue, maxBytes: b.limits.QueueBytes,
		max: b.limits.window(p), wake: make(chan struct{}, 1),
	}
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
