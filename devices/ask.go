package devices

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// maxAsks bounds the queries of Do that wait for the bus.
const maxAsks = 32

var (
	// ErrBusy is what Do returns when too many queries wait already.
	ErrBusy = errors.New("busy")
	// ErrStopped is what Do returns after Run has.
	ErrStopped = errors.New("stopped")
)

// An ask is a query that waits for its turn on the bus.
type ask struct {
	ctx     context.Context
	query   Query
	batch   *Batch
	claimed atomic.Bool // by who gets to use batch: the bus, or a caller who gave up
	done    chan error  // room for one
}

// Do runs q into b between two scheduled queries, after those that wait
// already. Its error is q's, or says why q was not run: ctx is done, ErrBusy
// when 32 queries wait, ErrStopped. A query that was begun is waited for, so
// that b is the caller's alone when Do returns.
func (p *Poller) Do(ctx context.Context, q Query, b *Batch) error {
	if p.cfg.Line == nil {
		return fmt.Errorf("bus %s: %s: this bus speaks by itself and cannot be asked", p.cfg.Bus, q)
	}
	a := &ask{ctx: ctx, query: q, batch: b, done: make(chan error, 1)}
	select {
	case p.asks <- a:
	default:
		return fmt.Errorf("bus %s: %s: %w: %d requests wait already; try again later", p.cfg.Bus, q, ErrBusy, maxAsks)
	}
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		return p.giveUp(a, context.Cause(ctx))
	case <-p.stopped:
		return p.giveUp(a, ErrStopped)
	}
}

// giveUp takes a back if it was not begun, else waits for it.
func (p *Poller) giveUp(a *ask, why error) error {
	if a.claimed.CompareAndSwap(false, true) {
		return fmt.Errorf("bus %s: %s: not run: %w", p.cfg.Bus, a.query, why)
	}
	return <-a.done
}

// serve runs one query of Do. An answer wakes a silent device.
func (p *Poller) serve(ctx context.Context, a *ask) {
	if !a.claimed.CompareAndSwap(false, true) {
		return
	}
	either, cancel := context.WithCancelCause(a.ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(ErrStopped) })()
	from, before := p.now(), len(a.batch.Readings)
	err := a.query.Do(either, a.batch)
	if err == nil || either.Err() == nil {
		p.busy = from
		p.entered(a.batch.Device, a.batch.Readings[before:], from, err)
		if !errors.Is(err, ErrPort) {
			p.settleAsk(a, from, err)
		}
	}
	a.done <- err
}

// settleAsk draws the conclusions from a query of Do. One to a device that is
// silent already does not put its next probe off, nor those of others; one to a
// device that is muted says nothing; and a scan asks for devices that are not of
// this bus.
func (p *Poller) settleAsk(a *ask, from Stamp, err error) {
	h := p.byDev[a.batch.Device]
	if h != nil && !h.WrittenOnly() && h.barred == nil && (err == nil || !p.sched.units[h.index].silent) {
		p.settle(h, a.batch, err, from)
	}
}
