package main

import (
	"context"
	"io"
	"net"
	"sync"
)

// A link is the demo's uplink: it carries bytes from a fixed local address to
// the cloud broker, and can be cut and restored. Cut, it refuses connections
// and resets those that were open, as a modem that lost its network does.
type link struct {
	addr string // where the gateway connects
	far  string // where the cloud listens

	mu    sync.Mutex
	l     net.Listener // nil while cut
	conns map[net.Conn]struct{}
}

// newLink listens on a free loopback port; it starts restored.
func newLink(ctx context.Context, far string) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &link{addr: l.Addr().String(), far: far, conns: map[net.Conn]struct{}{}}
	k.serve(l)
	context.AfterFunc(ctx, k.cut)
	return k, nil
}

// cut ends the connection; it may be called in any state.
func (k *link) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.l != nil {
		k.l.Close()
		k.l = nil
	}
	for c := range k.conns {
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0) // a reset, not a polite end
		}
		c.Close()
	}
	clear(k.conns)
}

// restore listens again on the same address.
func (k *link) restore() error {
	l, err := net.Listen("tcp", k.addr)
	if err != nil {
		return err
	}
	k.serve(l)
	return nil
}

func (k *link) serve(l net.Listener) {
	k.mu.Lock()
	k.l = l
	k.mu.Unlock()
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // cut
			}
			go k.carry(near)
		}
	}()
}

// carry copies both ways until either end closes.
func (k *link) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", k.far)
	if err != nil {
		return
	}
	defer far.Close()
	if !k.track(near, far) {
		return
	}
	defer k.untrack(near, far)
	go func() {
		io.Copy(far, near)
		far.Close()
	}()
	io.Copy(near, far)
}

// track notes the connection's ends, unless the link was cut meanwhile.
func (k *link) track(conns ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		k.conns[c] = struct{}{}
	}
	return k.l != nil
}

func (k *link) untrack(conns ...net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		delete(k.conns, c)
	}
}
