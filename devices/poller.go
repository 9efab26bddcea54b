package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// PollerConfig is what a Poller needs. Exactly one of Line and Listener is
// set.
type PollerConfig struct {
	Bus      string   // table key, for logs and figures
	Line     Line     // a bus that is asked; closed when Run ends
	Listener Listener // a bus that speaks by itself
	Devices  []*Device

	// Out gets the batches. The poller never waits for it: while it is full
	// the newest are kept, about two for each device, and the oldest are
	// released and counted. A batch may be without readings, when only the
	// state of its device changed. Out is not closed; nothing is sent once
	// Run has returned.
	Out chan<- *Batch

	Log *slog.Logger // nil: slog.Default
	Now func() Stamp // nil: Now
}

// A Poller owns one bus. Run asks its devices by schedule, or hears them; Do
// asks something in between. Do, Stats and Status may be called by anyone at
// any time; Run once.
type Poller struct {
	cfg     PollerConfig
	log     *slog.Logger
	now     func() Stamp
	asks    chan *ask     // those that wait, at most maxAsks
	stopped chan struct{} // closed when Run has returned
	ledger  *ledger
	outbox  *outbox

	// What follows belongs to Run's goroutine.
	sched  *schedule
	cycles []cycle // one for each job of sched
	health []*health
	byDev  map[*Device]*health
	port   outage
	losing bool // the last batch put into the outbox pushed another one out
}

// NewPoller plans all queries. Its error joins those of all points that
// cannot be read; nothing is opened yet.
func NewPoller(cfg PollerConfig) (*Poller, error) {
	if (cfg.Line == nil) == (cfg.Listener == nil) {
		return nil, fmt.Errorf("bus %s: needs either a line or a listener", cfg.Bus)
	}
	p := &Poller{
		cfg:     cfg,
		log:     cmp.Or(cfg.Log, slog.Default()).With("bus", cfg.Bus),
		now:     cfg.Now,
		asks:    make(chan *ask, maxAsks),
		stopped: make(chan struct{}),
		outbox:  newOutbox(8+2*len(cfg.Devices), cfg.Out),
		byDev:   make(map[*Device]*health),
	}
	if p.now == nil {
		p.now = Now
	}
	now := p.now()
	p.ledger = newLedger(cfg.Bus, cfg.Devices, now)
	for i, d := range cfg.Devices {
		h := &health{Device: d, index: i, stale: d.staleAfter(), fresh: now, since: now}
		p.health = append(p.health, h)
		p.byDev[d] = h
	}
	if cfg.Listener != nil {
		return p, nil
	}
	if err := p.plan(); err != nil {
		return nil, err
	}
	return p, nil
}

// Run works until ctx is done and then returns nil. Its error is that of a
// listener that gave up.
func (p *Poller) Run(ctx context.Context) error {
	defer close(p.stopped)
	sending, stop := context.WithCancel(context.WithoutCancel(ctx)) // ends after the last batch was put
	var sender sync.WaitGroup
	sender.Go(func() { p.outbox.send(sending) })
	defer sender.Wait()
	defer stop()
	if p.cfg.Listener != nil {
		return p.listen(ctx)
	}
	defer p.cfg.Line.Close()
	p.poll(ctx)
	return nil
}

// poll alternates between waiting queries and scheduled ones, so that neither
// can starve the other.
func (p *Poller) poll(ctx context.Context) {
	p.tellUnasked()
	p.sched = newSchedule(p.now(), p.jobs(), len(p.health))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case a := <-p.asks:
			p.serve(ctx, a)
		default:
		}
		fresh := p.age(p.now())
		job, wait := p.sched.next(p.now())
		if job >= 0 {
			p.step(ctx, job)
			continue
		}
		timer.Reset(min(wait, fresh))
		select {
		case a := <-p.asks:
			p.serve(ctx, a)
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	for _, h := range p.health {
		p.closeCycles(h)
	}
}

// tellUnasked tells of the devices that are only written that they can be.
func (p *Poller) tellUnasked() {
	for _, h := range p.health {
		if h.WrittenOnly() {
			p.setState(h, Online)
			p.put(h, NewBatch(h.Device))
		}
	}
}

func (p *Poller) jobs() []job {
	jobs := make([]job, len(p.cycles))
	for i, c := range p.cycles {
		jobs[i] = job{unit: c.index, every: c.every}
	}
	return jobs
}

// exchange runs q into b, enters it into the figures and notes whether the
// port is there. cost is how long it took the bus. A query that ctx cut off
// says nothing about anybody.
func (p *Poller) exchange(ctx context.Context, q Query, b *Batch) (cost time.Duration, err error) {
	from, n := p.now(), len(b.Readings)
	err = q.Do(ctx, b)
	now := p.now()
	cost = now.Sub(from)
	if err != nil && ctx.Err() != nil {
		return cost, err
	}
	fault := err
	for _, r := range b.Readings[n:] {
		fault = cmp.Or(fault, r.Err)
	}
	p.ledger.exchanged(b.Device, from, now, err, fault)
	if errors.Is(err, ErrPort) {
		p.portMissing(err)
	} else {
		p.portBack()
	}
	return cost, err
}

// settle notes whether a device answered a query that took the bus for cost.
func (p *Poller) settle(h *health, b *Batch, err error, cost time.Duration) {
	now := p.now()
	if err == nil {
		if p.sched.answered(h.index, now) {
			p.wakeQueries(h)
		}
		p.answered(h, b)
		return
	}
	h.misses++
	if p.sched.missed(h.index, now, cost) {
		p.silent(h, err)
	}
}

// silent tells that a device does not answer any more.
func (p *Poller) silent(h *health, err error) {
	if h.state != Offline || h.muted {
		p.log.Warn("device does not answer; probing it now and then", append(h.attrs(), "n", h.misses, "err", err)...)
	}
	h.muted = false
	if h.state == Offline {
		return
	}
	p.setOffline(h, fmt.Errorf("%w: %d queries in a row without an answer, the last: %v", ErrOffline, h.misses, err))
}

// setOffline hands over what the device's open cycles hold that is good and
// then tells of all of its points why there is no value.
func (p *Poller) setOffline(h *health, err error) {
	p.closeCycles(h)
	p.setState(h, Offline)
	b := NewBatch(h.Device)
	failRest(b, h.Points, err, p.now())
	p.put(h, b)
}

// portMissing tells, the first time, that no device can be reached.
func (p *Poller) portMissing(err error) {
	p.sched.unplugged(p.now())
	if p.portDown(err) {
		for _, h := range p.health {
			p.mute(h, err)
		}
	}
	for i := range p.cycles {
		p.cycles[i].drop()
	}
}

// mute sets a device offline for want of its port, which has been logged.
func (p *Poller) mute(h *health, err error) {
	if h.state == Offline || h.WrittenOnly() {
		return
	}
	h.muted = true
	p.setOffline(h, err)
}

// portBack notes that a query reached the wire.
func (p *Poller) portBack() {
	if !p.portUp() {
		return
	}
	p.sched.plugged(p.now())
	for _, h := range p.health {
		h.misses = 0
	}
}

// put hands b over with the state of its device.
func (p *Poller) put(h *health, b *Batch) {
	b.State = h.state
	h.untold = false
	lost := p.outbox.put(b)
	if lost != nil {
		p.ledger.drop()
		p.byDev[lost].untold = true
	}
	if losing := lost != nil; losing != p.losing && (losing || len(p.outbox.kept) <= 1) {
		p.losing = losing
		p.logLosing()
	}
}

func (p *Poller) logLosing() {
	if p.losing {
		p.log.Warn("readings are taken more slowly than they come; dropping the oldest")
	} else {
		p.log.Info("readings are taken in time again")
	}
}

// Stats returns the figures of the bus.
func (p *Poller) Stats() BusStats {
	s := p.ledger.read(p.now())
	s.Waiting = len(p.asks)
	if c, ok := p.cfg.Listener.(LineCounter); ok {
		lines := c.LineStats()
		s.Requests, s.OK, s.Errors = lines.Good+lines.Bad, lines.Good, lines.Bad
		s.LastBad, s.Port = lines.LastBad, lines.Port
	}
	return s
}

// Status returns the figures of the device with this ID.
func (p *Poller) Status(device string) (DeviceStats, bool) {
	for _, d := range p.Stats().Devices {
		if d.Device == device {
			return d, true
		}
	}
	return DeviceStats{}, false
}
