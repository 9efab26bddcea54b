package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
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
