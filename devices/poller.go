package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
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
	asks    chan *ask
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

// A cycle is what a job does: its queries one by one into one batch.
type cycle struct {
	*health // of its device
	every   time.Duration
	points  []*Point
	queries []Query
	first   int // with which query it begins
	ran     int // how many have run
	batch   *Batch
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
	return p, p.plan()
}

// plan makes one cycle for each device and interval.
func (p *Poller) plan() error {
	var errs []error
	for _, h := range p.health {
		for _, points := range byInterval(h.Points) {
			queries, err := p.planPoints(h.Device, points)
			if err != nil {
				errs = append(errs, fmt.Errorf("bus %s: device %s: %w", p.cfg.Bus, h.ID, err))
				continue
			}
			p.cycles = append(p.cycles, cycle{health: h, every: points[0].Every, points: points, queries: queries})
		}
	}
	return errors.Join(errs...)
}

func (p *Poller) planPoints(dev *Device, points []*Point) ([]Query, error) {
	if points[0].Every <= 0 {
		return nil, fmt.Errorf("point %s: has no interval: set every", points[0].Name)
	}
	queries, err := p.cfg.Line.Plan(dev, points)
	if err == nil && len(queries) == 0 {
		err = errors.New("no query was planned")
	}
	return queries, err
}

// byInterval splits points by Every, shortest first.
func byInterval(points []*Point) [][]*Point {
	groups := make(map[time.Duration][]*Point)
	for _, pt := range points {
		groups[pt.Every] = append(groups[pt.Every], pt)
	}
	return slices.SortedFunc(func(yield func([]*Point) bool) {
		for _, g := range groups {
			if !yield(g) {
				return
			}
		}
	}, func(a, b []*Point) int { return cmp.Compare(a[0].Every, b[0].Every) })
}

// Run works until ctx is done and then returns nil. Its error is that of a
// listener that gave up.
func (p *Poller) Run(ctx context.Context) error {
	defer close(p.stopped)
	ctx, cancel := context.WithCancel(ctx)
	var sender sync.WaitGroup
	sender.Go(func() { p.outbox.send(ctx) })
	defer sender.Wait()
	defer cancel()
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
	for i := range p.cycles {
		p.cycles[i].drop()
	}
}

func (p *Poller) jobs() []job {
	jobs := make([]job, len(p.cycles))
	for i, c := range p.cycles {
		jobs[i] = job{unit: c.index, every: c.every}
	}
	return jobs
}

// step runs the next query of a job.
func (p *Poller) step(ctx context.Context, i int) {
	c := &p.cycles[i]
	if c.batch == nil {
		c.batch = NewBatch(c.Device)
	}
	q := c.queries[(c.first+c.ran)%len(c.queries)]
	c.ran++
	err := p.exchange(ctx, q, c.batch)
	if ctx.Err() != nil {
		return
	}
	p.sched.ran(i, p.now())
	switch {
	case c.batch == nil: // its device fell silent, or the port is gone
	case err != nil:
		p.cutShort(c, err)
	case c.ran < len(c.queries):
		return
	default:
		p.put(c.health, c.take())
	}
	p.endCycle(i)
}

func (p *Poller) endCycle(i int) {
	before := p.sched.jobs[i].overruns
	p.sched.ended(i, p.now())
	p.ledger.overran(p.sched.jobs[i].overruns - before)
}

// cutShort ends a cycle after a query without an answer: the rest is not
// asked. The next cycle begins with the query after it, so that one that
// never gets an answer does not keep the others from being asked. What a
// silent device does not answer is not told each time.
func (p *Poller) cutShort(c *cycle, err error) {
	c.first = (c.first + c.ran) % len(c.queries)
	if c.state == Offline && !c.untold {
		c.drop()
		return
	}
	b := c.take()
	failRest(b, c.points, fmt.Errorf("not asked after another query had no answer: %w", err), p.now())
	p.put(c.health, b)
}

// exchange runs q into b, enters it into the figures and draws the
// conclusions. A query that ctx cut off says nothing about its device.
func (p *Poller) exchange(ctx context.Context, q Query, b *Batch) error {
	from, n := p.now(), len(b.Readings)
	err := q.Do(ctx, b)
	if err != nil && ctx.Err() != nil {
		return err
	}
	fault := err
	for _, r := range b.Readings[n:] {
		fault = cmp.Or(fault, r.Err)
	}
	now := p.now()
	p.ledger.exchanged(b.Device, from, now, err, fault)
	if errors.Is(err, ErrPort) {
		p.portMissing(err)
		return err
	}
	p.portBack()
	if h := p.byDev[b.Device]; h != nil { // a scan asks for others too
		p.settle(h, b, err, now.Sub(from))
	}
	return err
}

// settle notes whether a device answered a query that took the bus for cost.
func (p *Poller) settle(h *health, b *Batch, err error, cost time.Duration) {
	now := p.now()
	if err == nil {
		p.sched.answered(h.index, now)
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
	p.dropCycles(h)
	p.setState(h, Offline)
	b := NewBatch(h.Device)
	failRest(b, h.Points, err, p.now())
	p.put(h, b)
}

func (p *Poller) dropCycles(h *health) {
	for i := range p.cycles {
		c := &p.cycles[i]
		if c.health != h || c.batch == nil {
			continue
		}
		if anyGood(c.batch.Readings) {
			p.put(h, c.take())
		}
		c.drop()
	}
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
	if h.state == Offline {
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
		s.LastBad = lines.LastBad
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

// take returns the batch of a cycle that ends; the next one begins afresh.
func (c *cycle) take() *Batch {
	b := c.batch
	c.batch, c.ran = nil, 0
	return b
}

func (c *cycle) drop() {
	if b := c.take(); b != nil {
		b.Release()
	}
}

// failRest fails those points that have no reading in b.
func failRest(b *Batch, points []*Point, err error, at Stamp) {
	for _, pt := range points {
		if !slices.ContainsFunc(b.Readings, func(r Reading) bool { return r.Point == pt }) {
			b.Fail(pt, err, at)
		}
	}
}

func anyGood(readings []Reading) bool {
	return slices.ContainsFunc(readings, func(r Reading) bool { return r.Err == nil })
}

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
	a.done <- p.exchange(either, a.query, a.batch)
}
