package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"time"
)

// A Listen is one address to listen at.
type Listen struct {
	Network, Address string      // "tcp", "127.0.0.1:1883"; "unix", "/run/gateway/mqtt.sock"
	TLS              *tls.Config // nil: plain
	WebSocket        bool        // MQTT within WebSocket
	Path             string      // of the WebSocket; "": "/" and "/mqtt"
	Mode             fs.FileMode // of a Unix socket; 0: 0660
}

// Scheme is how a URL of the address begins.
func (l *Listen) Scheme() string {
	switch {
	case l.Network == "unix":
		return "unix"
	case l.WebSocket && l.TLS != nil:
		return "wss"
	case l.WebSocket:
		return "ws"
	case l.TLS != nil:
		return "tls"
	}
	return "tcp"
}

// URL returns what to connect to where the broker listens at addr.
func (l *Listen) URL(addr net.Addr) string { return l.Scheme() + "://" + addr.String() + l.Path }

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
			b.log.Error("broker cannot listen, trying again; if another broker has the address, stop it or choose another in [broker] listen",
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

// listen takes the i-th address. What it returns accepts without waiting for
// anything that a client must send: the handshakes of TLS and WebSocket come
// with the first Read, within the time that a client has for its CONNECT.
func (b *Broker) listen(ctx context.Context, i int) (net.Listener, error) {
	l := &b.cfg.Listen[i]
	ln, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	b.conns.Lock()
	b.addrs[i] = ln.Addr()
	b.conns.Unlock()
	return b.around(ln, l), nil
}

// around puts the layers on a listener that l wants.
func (b *Broker) around(ln net.Listener, l *Listen) net.Listener {
	if l.TLS != nil {
		ln = tls.NewListener(ln, l.TLS)
	}
	if l.WebSocket {
		ln = &webListener{ln, l.Scheme(), l.Path, b.cfg.Origins}
	}
	return ln
}

func (l *Listen) open(ctx context.Context) (net.Listener, error) {
	if l.Network == "unix" {
		return listenUnix(ctx, l.Address, l.Mode)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, l.Network, l.Address)
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
	if ctx.Err() != nil {
		conn.Close()
		return
	}
	from := b.sources.of(conn)
	if !b.mayEnter(conn, from) {
		conn.Close()
		return
	}
	wait := b.sources.enter(conn, from, time.Now())
	b.open[conn] = false
	b.run.Go(func() {
		if wait > 0 && !b.holdBack(ctx, wait) {
			conn.Close()
			b.forget(conn)
			return
		}
		c := b.enter(ctx, conn)
		if c == nil {
			b.forget(conn)
			return
		}
		b.run.Go(func() { // on a stack that the handshake has not made large
			defer b.forget(conn)
			c.serve()
		})
	})
}

// mayEnter says whether there is room for one more connection; with b.conns.
// If there is none, one that has not proven itself makes room for it.
func (b *Broker) mayEnter(conn net.Conn, from *source) bool {
	if most := b.limits.perAddress(from.addr); from.open >= most {
		if seldom(&from.told) {
			b.log.Warn("connections refused: there are too many from that address; [broker] max_connections_per_address allows more", "addr", conn.RemoteAddr(), "n", from.open)
		}
		return false
	}
	if len(b.open) < b.limits.Connections {
		return true
	}
	if seldom(&b.told) {
		b.log.Warn("connections refused: there are too many; [broker] max_connections allows more", "addr", conn.RemoteAddr(), "n", len(b.open))
	}
	idle := b.sources.crowd(from)
	if idle == nil {
		return false
	}
	b.sources.leave(idle, time.Now())
	delete(b.open, idle)
	idle.Close()
	return true
}

// seldom says once a minute that it is time to say something again.
func seldom(told *time.Time) bool {
	now := time.Now()
	if !told.IsZero() && now.Sub(*told) < time.Minute {
		return false
	}
	*told = now
	return true
}

func (b *Broker) holdBack(ctx context.Context, wait time.Duration) bool {
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

func (b *Broker) forget(conn net.Conn) {
	b.conns.Lock()
	defer b.conns.Unlock()
	b.sources.leave(conn, time.Now())
	delete(b.open, conn)
}

// accepted notes that conn is a client's, which a stop tells politely.
func (b *Broker) accepted(conn net.Conn) {
	b.conns.Lock()
	defer b.conns.Unlock()
	if _, ok := b.open[conn]; ok {
		b.open[conn] = true
		b.sources.accepted(conn)
	}
}
