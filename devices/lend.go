package devices

import (
	"cmp"
	"context"
	"fmt"
)

// A loan is the wish to have a bus.
type loan struct {
	ctx   context.Context // until when
	to    string
	begun chan error // room for one: nil when the port is closed
}

// Lend lends the bus to whom `to` names, until ctx is done. When it returns
// nil the port is closed, nobody is asked, and who waits in Do or comes
// is answered with ErrLent. The devices are in Maintenance until they are asked
// again, all at once, after the loan. The cause of ctx is logged. An error says
// why the bus is not lent: ErrLent if it is to somebody else. Lent again with the
// same ctx, the bus is called lent to the new `to`.
func (p *Poller) Lend(ctx context.Context, to string) error {
	l := &loan{ctx: ctx, to: to, begun: make(chan error, 1)}
	select {
	case p.loans <- l:
		return <-l.begun
	case <-ctx.Done():
		return fmt.Errorf("bus %s: not lent: %w", p.cfg.Bus, context.Cause(ctx))
	case <-p.stopped:
		return fmt.Errorf("bus %s: not lent: %w", p.cfg.Bus, ErrStopped)
	}
}

// LendFirst is Lend for a bus whose Run is yet to be called: it begins with the
// loan, and asks nobody before.
func (p *Poller) LendFirst(ctx context.Context, to string) {
	p.first = &loan{ctx: ctx, to: to, begun: make(chan error, 1)}
}

// A Lendable is a Line that has to know when its port was in other hands: what
// others asked there may still be answered.
type Lendable interface {
	// Lent tells that, after the line was closed and before it is opened again.
	Lent()
}

// lend lends the bus, after the queries under way have ended, until the loan is
// over or ctx is done.
func (p *Poller) lend(ctx context.Context, l *loan) {
	p.landAll()
	if p.cfg.Line != nil {
		p.cfg.Line.Close() // what it says of the port matters to nobody any more
		p.forgetOutage()
	}
	from, err := p.now(), p.errLent(l)
	p.log.Info("bus lent; its devices are not asked meanwhile", "to", l.to)
	p.ledger.lend(l.to)
	for _, h := range p.health {
		if h.barred == nil {
			h.muted = true
			p.setAway(h, Maintenance, err)
		}
	}
	l.begun <- nil
	p.refuse(ctx, l, err)
	if line, ok := p.cfg.Line.(Lendable); ok {
		line.Lent()
	}
	p.ledger.lend("")
	p.log.Info("bus taken back; its devices are asked again", "from", l.to, "dur", p.now().Sub(from), "reason", cmp.Or(context.Cause(l.ctx), context.Cause(ctx)))
	p.startOver()
	p.reviewMuted()
	p.tellUnasked()
}

func (p *Poller) errLent(l *loan) error {
	return fmt.Errorf("%w: bus %s is lent to %s", ErrLent, p.cfg.Bus, l.to)
}

// rename has a loan be to somebody else, and returns what is said of it now.
func (p *Poller) rename(l *loan, to string) error {
	l.to = to
	p.ledger.lend(to)
	for _, h := range p.health {
		p.put(h, NewBatch(h.Device))
	}
	return p.errLent(l)
}

// refuse answers all who want something of the bus with err until the loan is
// over.
func (p *Poller) refuse(ctx context.Context, l *loan, err error) {
	for {
		select {
		case a := <-p.asks:
			if a.claimed.CompareAndSwap(false, true) {
				a.done <- fmt.Errorf("%s: not run: %w", a.query, err)
			}
		case other := <-p.loans:
			if other.ctx != l.ctx {
				other.begun <- err
				continue
			}
			err = p.rename(l, other.to)
			other.begun <- nil
		case <-p.turns:
		case <-l.ctx.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// forgetOutage forgets that the port is missing: what comes of it after a loan
// is told anew.
func (p *Poller) forgetOutage() {
	if p.port.down {
		p.port = outage{}
		p.ledger.setPort(nil, p.now())
	}
}
