package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A cycle is what a job does: its queries one by one, into the batch of its
// round.
type cycle struct {
	*health
	group  int // of its device, by rising interval
	every  time.Duration
	points []*Point // of its group, and slower ones that its queries read anyway
	alone  *joint   // of its group only

	// While it is under way:
	round  *round // nil: it is not
	part   *part  // what it asks
	ran    int    // how many of its queries were asked
	flying int    // how many of these have no answer yet
	broke  error  // why no more are asked
}

// A round is what a device is asked for at one moment: the groups that fell due
// together, in one batch.
type round struct {
	*joint
	batch *Batch
	mixed bool  // its batch can hold points that a round which begins before it is over reads too
	open  int   // cycles that are not over
	lead  int   // the quickest of its cycles
	along []int // cycles that are over with the lead: it reads for them
}

// A planned query knows how it did. One that three times in a row had no
// answer, while its device answers others, rests like a silent device does:
// some devices say nothing where they should say "illegal data address".
type planned struct {
	Query
	misses  int
	backoff time.Duration // 0: asked in each cycle
	again   Stamp         // when it is tried again, if backoff is set
	err     error         // of its last try, if backoff is set
}

// replanEvery is how often a cycle may be planned anew, as the protocol gets to
// know its device.
const replanEvery = time.Minute

// plan makes one cycle for each device and interval, the shortest first. What
// their queries read along of slower points is read by them, and not again.
func (p *Poller) plan() error {
	var errs []error
	for _, h := range p.health {
		if err := p.planDevice(h); err != nil {
			errs = append(errs, fmt.Errorf("bus %s: device %s: %w", p.cfg.Bus, h.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (p *Poller) planDevice(h *health) error {
	groups, err := Groups(p.cfg.Line, h.Device)
	if err != nil {
		return err
	}
	h.first, h.groups, h.joints = len(p.cycles), len(groups), make(map[set]*joint)
	for i, g := range groups {
		alone := &joint{groups: 1 << i, parts: make([]part, i+1), planned: p.now()}
		for _, q := range g.Queries {
			alone.parts[i].queries = append(alone.parts[i].queries, planned{Query: q})
		}
		p.cycles = append(p.cycles, cycle{health: h, group: i, every: g.Every, points: g.Points, alone: alone})
	}
	return nil
}

// cyclesOf returns the cycles of a device, by group.
func (p *Poller) cyclesOf(h *health) []cycle { return p.cycles[h.first : h.first+h.groups] }

// sameQuery reports whether two queries ask the same for the same points.
func sameQuery(a, b planned) bool {
	return a.String() == b.String() && len(a.Points()) == len(b.Points()) &&
		!slices.ContainsFunc(a.Points(), func(pt *Point) bool { return !slices.Contains(b.Points(), pt) })
}

// step asks the next query of a job.
func (p *Poller) step(ctx context.Context, i int) {
	c := &p.cycles[i]
	if c.round == nil {
		p.begin(i)
	}
	if p.sched.jobs[i].held {
		return // a quicker cycle reads for it
	}
	if q := p.pick(c); q != nil {
		p.fly(ctx, i, q)
	} else {
		p.proceed(i)
	}
}

// begin begins a round with all groups of the job's device that are due, or
// with its own alone.
func (p *Poller) begin(i int) {
	now, h := p.now(), p.cycles[i].health
	groups, plan := set(1)<<p.cycles[i].group, (*joint)(nil)
	if !p.sched.units[h.index].silent {
		for g, c := range p.cyclesOf(h) {
			if c.round == nil && p.sched.due(h.first+g, now) {
				groups |= 1 << g
			}
		}
		plan = p.choose(h, groups, now)
	}
	if plan == nil || !plan.groups.has(p.cycles[i].group) {
		plan = p.cycles[i].alone
	}
	p.handOverEarly(h, plan)
	r := &round{joint: plan, batch: NewBatch(h.Device), mixed: plan.extra || plan.groups.several(), lead: -1}
	for g := range p.cyclesOf(h) {
		if plan.groups.has(g) {
			p.join(r, h.first+g, now)
		}
	}
}

// join lets a cycle begin as a part of a round.
func (p *Poller) join(r *round, i int, now Stamp) {
	c := &p.cycles[i]
	c.round, c.part, c.ran, c.flying, c.broke = r, &r.parts[c.group], 0, 0, nil
	r.open++
	if j := &p.sched.jobs[i]; !j.asap && !p.sched.missing && !p.sched.units[c.index].silent {
		p.ledger.began(now.Sub(j.due))
	}
	switch {
	case r.lead < 0:
		r.lead = i
	case len(c.part.queries) == 0:
		r.along = append(r.along, i)
		p.sched.jobs[i].held = true
	}
}

// handOverEarly hands over what a device's rounds under way have read, if it
// can be of points that a round which begins now reads too: of each point the
// older reading shall come first.
func (p *Poller) handOverEarly(h *health, next *joint) {
	for _, c := range p.cyclesOf(h) {
		if r := c.round; r != nil && (next.extra || r.mixed) {
			p.handOverRead(h, r)
		}
	}
}

// handOverRead hands over what a round has read; the rest will be a batch of its
// own.
func (p *Poller) handOverRead(h *health, r *round) {
	r.mixed = r.extra || r.open > 1
	if anyGood(r.batch.Readings) {
		p.put(h, r.batch)
		r.batch = NewBatch(h.Device)
	}
}

// outlasts reports whether what is left of a round goes on until its quickest
// cycle, which is over, begins again: then there is no use in waiting for it.
func (p *Poller) outlasts(r *round) bool {
	end := p.now()
	for _, c := range p.cyclesOf(p.cycles[r.lead].health) {
		if c.round == r {
			left, _ := c.part.cost()
			end += Stamp(left)
		}
	}
	return end > p.sched.jobs[r.lead].due
}

// pick returns the next query to ask, and nil at the end of the cycle. It
// fails the points of those that rest. A silent device is asked regardless.
func (p *Poller) pick(c *cycle) *planned {
	now := p.now()
	for c.broke == nil && c.ran < len(c.part.queries) {
		q := c.query(c.ran)
		c.ran++
		if q.backoff == 0 || q.again <= now || p.sched.units[c.index].silent {
			return q
		}
		failRest(c.round.batch, q.Points(), fmt.Errorf("resting: %w", q.err), now)
	}
	return nil
}

// query returns the n-th query in the order in which they are asked.
func (c *cycle) query(n int) *planned {
	return &c.part.queries[(c.part.first+n)%len(c.part.queries)]
}

// conclude draws the conclusions from a planned query that ended. One that was
// under way when the port was lost, or its device muted, allows none.
func (p *Poller) conclude(f *flight) {
	if errors.Is(f.err, ErrPort) || f.from < p.lost || f.barred != nil {
		return
	}
	h := f.health
	counts := p.settle(h, f.batch, f.err, f.from)
	if f.err == nil {
		p.queryAnswered(h, f.query)
	} else if counts && errors.Is(f.err, ErrTimeout) && !p.sched.units[h.index].silent {
		p.queryMissed(h, f.query, f.err, f.to.Sub(f.from))
	}
}

// queryMissed puts a query to rest that is never answered by a device that
// answers others. Together those of a bus take a tenth of its time at most.
func (p *Poller) queryMissed(h *health, q *planned, err error, cost time.Duration) {
	q.misses++
	if q.misses < silentAfter {
		return
	}
	if q.backoff == 0 {
		p.log.Warn("one query gets no answer; asking it now and then", append(h.attrs(), "n", q.misses, "err", err)...)
	}
	q.err = err
	q.backoff = min(max(2*q.backoff, firstProbe), lastProbe)
	q.again = p.now() + Stamp(max(q.backoff, probeRest*cost*p.resting()))
}

// resting counts the queries at rest.
func (p *Poller) resting() (n time.Duration) {
	for _, h := range p.health {
		p.queriesOf(h, func(q *planned) {
			if q.backoff > 0 && h.barred == nil {
				n++
			}
		})
	}
	return n
}

// queriesOf calls f with each query of a device, in whatever plan.
func (p *Poller) queriesOf(h *health, f func(*planned)) {
	visit := func(j *joint) {
		if j == nil {
			return
		}
		for g := range j.parts {
			for i := range j.parts[g].queries {
				f(&j.parts[g].queries[i])
			}
		}
	}
	for _, c := range p.cyclesOf(h) {
		visit(c.alone)
	}
	for _, j := range h.joints {
		visit(j)
	}
}

func (p *Poller) queryAnswered(h *health, q *planned) {
	if q.backoff > 0 {
		p.log.Info("the query is answered again", append(h.attrs(), "n", q.misses)...)
	}
	*q = planned{Query: q.Query}
}

// wakeQueries lets a device that has come back be asked for everything.
func (p *Poller) wakeQueries(h *health) {
	p.queriesOf(h, func(q *planned) { *q = planned{Query: q.Query} })
}

// proceed lets a cycle go on, or ends it when nothing of it is left.
func (p *Poller) proceed(i int) {
	c := &p.cycles[i]
	switch {
	case c.round == nil: // its device fell silent, or the port is gone
		p.sched.ended(i, p.now())
	case c.flying > 0:
	case c.broke != nil:
		p.cutShort(c)
		p.endCycle(i)
	case c.ran == len(c.part.queries):
		p.endCycle(i)
	}
	p.sched.jobs[i].held = c.flying > 0 && (c.broke != nil || c.ran == len(c.part.queries) || p.sched.missing || p.sched.units[c.index].silent)
}

// cutShort gives up what a cycle has not asked after a query without an answer.
// The next one begins with the query after it, so that one that never gets an
// answer does not keep the others from being asked.
func (p *Poller) cutShort(c *cycle) {
	err := fmt.Errorf("not asked after another query had no answer: %w", c.broke)
	for n := c.ran; n < len(c.part.queries); n++ {
		failRest(c.round.batch, c.query(n).Points(), err, p.now())
	}
	c.part.first = (c.part.first + c.ran) % len(c.part.queries)
}

// endCycle ends a cycle, with it those that it read for, and with the last of
// its round that.
func (p *Poller) endCycle(i int) {
	r := p.cycles[i].round
	if i == r.lead {
		for _, k := range r.along {
			p.endJob(k)
		}
	}
	p.endJob(i)
	if r.open > 0 {
		if i == r.lead && p.outlasts(r) {
			p.handOverRead(p.cycles[i].health, r)
		}
		return
	}
	p.handOver(p.cycles[i].health, r)
	p.replan(p.cycles[i].health, r.joint)
}

func (p *Poller) endJob(i int) {
	c, now := &p.cycles[i], p.now()
	c.round.open--
	c.round = nil
	before := p.sched.jobs[i].overruns
	p.sched.ended(i, now)
	p.ledger.overran(p.sched.jobs[i].overruns - before)
}

// handOver hands over the batch of a round that is over. What a silent device
// does not answer is not told each time.
func (p *Poller) handOver(h *health, r *round) {
	if len(r.batch.Readings) == 0 || h.state == Offline && !h.untold {
		r.batch.Release()
		return
	}
	p.put(h, r.batch)
}

// closeCycles ends the open cycles of a device before their time, and hands
// over what they read.
func (p *Poller) closeCycles(h *health) {
	for i := range p.cyclesOf(h) {
		c := &p.cycles[h.first+i]
		r := c.round
		if r == nil {
			continue
		}
		h.strays += c.flying
		c.round, c.flying = nil, 0
		p.sched.jobs[h.first+i].held = false
		if r.open--; r.open > 0 {
			continue
		}
		if anyGood(r.batch.Readings) {
			p.put(h, r.batch)
		} else {
			r.batch.Release()
		}
	}
	if h.strays > 0 {
		p.sched.units[h.index].held = true // until they have ended
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
