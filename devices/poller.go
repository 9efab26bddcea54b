package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/bits"
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

	// Aligned, if set, is wall time minus boot time. Cycles then begin at
	// multiples of their interval of wall time; else they are staggered.
	Aligned func() time.Duration

	// Muted, if set, says why a device is not to be asked, with an error that
	// wraps ErrMuted; nil: it is. It is called at the start and after each
	// Review, by Run's goroutine.
	Muted func(device string) error

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
	loans   chan *loan    // without room: who wants the bus waits until it is to be had
	turns   chan struct{} // without room: taken each time the loop comes round
	first   *loan         // that begins with Run; nil: none does
	reviews chan struct{} // room for one: it is to be looked who is muted
	stopped chan struct{} // closed when Run has returned
	ledger  *ledger
	outbox  *outbox

	// What follows belongs to Run's goroutine.
	sched  *schedule
	cycles []cycle // one for each job of sched
	health []*health
	byDev  map[*Device]*health
	port   outage
	wall   time.Duration // that slots are aligned by
	flying int           // queries under way
	busy   Stamp         // since when the bus has been taken without having been entered in the ledger
	lost   Stamp         // when the port was last found to be missing
	solo   flight        // the one under way, where there is one at a time
	landed chan *flight  // those that ended, where several can be under way
	losing bool          // the last batch put into the outbox pushed another one out
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
		loans:   make(chan *loan),
		turns:   make(chan struct{}),
		reviews: make(chan struct{}, 1),
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
	if l, ok := cfg.Line.(Pipeliner); ok {
		if n, _ := l.Pipeline(); n > 1 {
			p.landed = make(chan *flight, n)
			p.ledger.pipelined(n)
		}
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
// can starve the other. A waiting one has the bus to itself.
func (p *Poller) poll(ctx context.Context) {
	p.sched = newSchedule(p.now(), p.jobs(), len(p.health), p.offset())
	p.reviewMuted()
	p.tellUnasked()
	for _, h := range p.health {
		p.estimate(h)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	if p.cfg.Aligned != nil {
		p.wall = p.cfg.Aligned()
		p.sched.align(p.wall, p.now()+Stamp(firstSlots)) // all are read at once first
	}
	if p.first != nil && p.first.ctx.Err() == nil {
		p.lend(ctx, p.first)
	}
	for ctx.Err() == nil {
		asks := p.asks
		if p.flying > 0 {
			asks = nil
		}
		select {
		case a := <-asks:
			p.serve(ctx, a)
		case l := <-p.loans:
			p.lend(ctx, l)
		case <-p.turns:
		case <-p.reviews:
			p.reviewMuted()
		default:
		}
		fresh := min(p.age(p.now()), p.align(p.now()))
		job, wait := p.nextJob()
		if job >= 0 {
			p.step(ctx, job)
			continue
		}
		timer.Reset(min(wait, fresh))
		select {
		case a := <-asks:
			p.serve(ctx, a)
		case l := <-p.loans:
			p.lend(ctx, l)
		case <-p.reviews:
			p.reviewMuted()
		case f := <-p.landed:
			p.land(f)
		case <-p.turns:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	p.landAll()
	for _, h := range p.health {
		p.closeCycles(h)
	}
}

// Turn waits until the loop of Run comes round: between two queries, however
// much there is to do, and while the bus is lent. It reports whether it did
// before ctx was done, for whoever restarts a program that hangs.
func (p *Poller) Turn(ctx context.Context) bool {
	select {
	case p.turns <- struct{}{}:
		return true
	case <-p.stopped:
		return true
	case <-ctx.Done():
		return false
	}
}

// landAll waits for all queries under way.
func (p *Poller) landAll() {
	for p.flying > 0 {
		p.land(<-p.landed)
	}
}

// nextJob returns the job whose next query is to run now, or −1 and how long
// there is nothing to do, or until a query under way has ended.
func (p *Poller) nextJob() (int, time.Duration) {
	if p.flying > 0 && (len(p.asks) > 0 || p.flying >= p.lanes()) {
		return -1, time.Duration(never)
	}
	return p.sched.next(p.now())
}

// realign is how often slots are compared with wall time.
const realign = 10 * time.Second

// align moves the slots if wall time has been set. It returns when that is to
// be looked at again.
func (p *Poller) align(now Stamp) time.Duration {
	if p.cfg.Aligned == nil {
		return time.Duration(never)
	}
	if wall := p.cfg.Aligned(); wall != p.wall {
		p.wall = wall
		p.sched.align(wall, now)
	}
	return realign
}

// tellUnasked tells of the devices that are only written that they can be.
func (p *Poller) tellUnasked() {
	for _, h := range p.health {
		if h.WrittenOnly() && h.barred == nil {
			p.setState(h, Online)
			p.put(h, NewBatch(h.Device))
		}
	}
}

// offset is the bus's own part of the time between two devices.
func (p *Poller) offset() float64 {
	h := fnv.New32a()
	io.WriteString(h, p.cfg.Bus)
	return float64(bits.Reverse32(h.Sum32())) / (1 << 32) // names that end alike differ in the low bits
}

func (p *Poller) jobs() []job {
	jobs := make([]job, len(p.cycles))
	for i, c := range p.cycles {
		jobs[i] = job{unit: c.index, every: c.every}
	}
	return jobs
}

// A flight is a planned query under way.
type flight struct {
	*health
	job      int
	round    *round
	query    *planned
	batch    *Batch // that of the round, where only one query can be under way
	before   int    // readings that were in it
	from, to Stamp
	err      error
	cut      bool // its context ended: it says nothing about anybody
}

// lanes returns how many queries may be under way at a time.
func (p *Poller) lanes() int {
	if p.landed == nil || p.port.down {
		return 1
	}
	n, why := p.cfg.Line.(Pipeliner).Pipeline()
	if why != "" && p.ledger.narrowed(n, why) {
		p.log.Warn("the bus is asked one request at a time: " + why)
	}
	return n
}

// fly asks q, here or, where several can be under way, beside.
func (p *Poller) fly(ctx context.Context, job int, q *planned) {
	c := &p.cycles[job]
	f := &p.solo
	if p.landed != nil {
		f = new(flight)
	}
	*f = flight{health: c.health, job: job, round: c.round, query: q, batch: c.round.batch, before: len(c.round.batch.Readings), from: p.now()}
	c.flying++
	if p.flying++; p.flying == 1 {
		p.busy = f.from
	}
	if p.landed == nil {
		f.do(ctx, p.now)
		p.land(f)
		return
	}
	f.batch, f.before = NewBatch(c.Device), 0
	p.proceed(job)
	go func() {
		f.do(ctx, p.now)
		p.landed <- f // has room for all
	}()
}

func (f *flight) do(ctx context.Context, now func() Stamp) {
	f.err = f.query.Do(ctx, f.batch)
	f.cut = f.err != nil && ctx.Err() != nil
	f.to = now()
}

// land takes a query that ended: into the figures, what is thought of its
// device, and the batch of its round.
func (p *Poller) land(f *flight) {
	c := &p.cycles[f.job]
	p.flying--
	if c.round == f.round {
		c.flying--
	} else {
		f.strays--
		p.sched.units[f.index].held = f.strays > 0
	}
	if !f.cut {
		p.entered(f.batch.Device, f.batch.Readings[f.before:], f.from, f.err)
		p.conclude(f)
		p.sched.ran(f.job, f.to)
	}
	switch { // the round may have been broken off before or just now
	case c.round == f.round:
		if f.cut {
			clear(f.batch.Readings[f.before:])
			f.batch.Readings = f.batch.Readings[:f.before]
		}
		if f.batch != f.round.batch {
			f.round.batch.take(f.batch)
		}
		if f.cut {
			return
		}
		if c.broke == nil {
			c.broke = f.err
		}
		p.proceed(f.job)
	case p.landed != nil:
		f.batch.Release()
	}
}

// entered enters a query into the figures, with what it yielded, and notes
// whether the port is there. A query that was under way when the port was lost
// says nothing about it.
func (p *Poller) entered(dev *Device, readings []Reading, from Stamp, err error) {
	now, fault := p.now(), err
	for _, r := range readings {
		fault = cmp.Or(fault, r.Err)
	}
	p.ledger.exchanged(dev, from, p.busy, now, err, fault)
	p.busy = now
	switch {
	case from < p.lost:
	case errors.Is(err, ErrPort):
		p.portMissing(err)
	default:
		p.portBack()
	}
}

// settle notes whether a device answered a query that was begun then. Of
// queries under way at once that have no answer one counts: it reports whether
// this one did.
func (p *Poller) settle(h *health, b *Batch, err error, from Stamp) (counts bool) {
	now := p.now()
	if err == nil {
		if p.sched.answered(h.index, now) {
			p.wakeQueries(h)
		}
		p.answered(h, b)
		return true
	}
	if from < p.sched.units[h.index].missed {
		return false
	}
	h.misses++
	if p.sched.missed(h.index, now, now.Sub(from)) {
		p.silent(h, err)
	}
	return true
}

// silent tells that a device does not answer any more.
func (p *Poller) silent(h *health, err error) {
	if h.state != Offline || h.muted {
		p.log.Warn("device does not answer; probing it now and then", append(h.attrs(), "n", h.misses, "err", err)...)
	}
	h.muted = false
	p.queriesOf(h, func(q *planned) {
		if q.backoff == 0 {
			q.misses = 0 // it was not the query
		}
	})
	if h.state == Offline {
		return
	}
	p.setAway(h, Offline, fmt.Errorf("%w: %d queries in a row without an answer, the last: %v", ErrOffline, h.misses, err))
}

// setAway hands over what the device's open cycles hold that is good and
// then tells of all of its points why there is no value.
func (p *Poller) setAway(h *health, s State, err error) {
	p.closeCycles(h)
	p.setState(h, s)
	b := NewBatch(h.Device)
	if !h.WrittenOnly() {
		failRest(b, h.Points, err, p.now())
	}
	p.put(h, b)
}

// portMissing tells, the first time, that no device can be reached.
func (p *Poller) portMissing(err error) {
	p.lost = p.now()
	p.sched.unplugged(p.lost)
	if p.portDown(err) {
		for _, h := range p.health {
			p.mute(h, err)
		}
	}
	for _, h := range p.health {
		p.closeCycles(h)
	}
}

// mute sets a device offline for want of its port, which has been logged.
func (p *Poller) mute(h *health, err error) {
	if h.state == Offline || h.WrittenOnly() || h.barred != nil {
		return
	}
	h.muted = true
	p.setAway(h, Offline, err)
}

// portBack notes that a query reached the wire.
func (p *Poller) portBack() {
	if !p.portUp() {
		return
	}
	p.startOver()
}

// startOver lets all devices be asked at once, whatever is thought of them.
func (p *Poller) startOver() {
	now := p.now()
	if p.sched != nil {
		p.sched.plugged(now)
	}
	for _, h := range p.health {
		h.misses = 0
		if p.cfg.Listener != nil {
			h.fresh = now // it is heard from now on
		}
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
		s.Requests, s.OK = lines.Good+lines.Bad+lines.Timeouts, lines.Good
		s.Timeouts, s.Errors = lines.Timeouts, lines.Bad
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
