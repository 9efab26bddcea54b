package simulator

import (
	"context"
	"sync"
)

// A plug is whether a bus is connected.
type plug struct {
	mu      sync.Mutex
	out     bool
	changed chan struct{}      // closed, and made anew, at each change
	cancel  context.CancelFunc // of the session under way
}

func (p *plug) init() { p.changed, p.cancel = make(chan struct{}), func() {} }

// set connects or disconnects; disconnecting ends the session.
func (p *plug) set(out bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out = out; out {
		p.cancel()
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// state returns whether it is out, and a channel that is closed when that
// changes.
func (p *plug) state() (out bool, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out, p.changed
}

// session waits until the bus is plugged in and returns a context that ends
// when it is unplugged or ctx is done; nil if ctx is done.
func (p *plug) session(ctx context.Context) context.Context {
	for ctx.Err() == nil {
		if session := p.begin(ctx); session != nil {
			return session
		}
		if out, changed := p.state(); out {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// begin starts a session unless the bus is unplugged.
func (p *plug) begin(ctx context.Context) (session context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.out {
		session, p.cancel = context.WithCancel(ctx)
	}
	return session
}
