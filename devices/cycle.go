package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A cycle is what a job does: its queries one by one into one batch.
type cycle struct {
	*health // of its device
	every   time.Duration
	points  []*Point
	queries []planned
	planned Stamp // when
	first   int   // with which query it begins
	ran     int   // how many have run
	batch   *Batch
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
		carried := make(map[*Point]bool)
		groups := byInterval(slices.DeleteFunc(slices.Clone(h.Points), func(pt *Point) bool { return pt.Every == Never }))
		for i, points := range groups {
			points = left(points, carried)
			if len(points) == 0 {
				continue
			}
			queries, err := p.planPoints(h.Device, points)
			if err != nil {
				errs = append(errs, fmt.Errorf("bus %s: device %s: %w", p.cfg.Bus, h.ID, err))
				continue
			}
			c := cycle{health: h, every: points[0].Every, points: points, queries: queries, planned: p.now()}
			c.carry(left(slices.Concat(groups[i+1:]...), carried), carried)
			p.cycles = append(p.cycles, c)
		}
	}
	return errors.Join(errs...)
}

// left returns those of points that are not carried.
func left(points []*Point, carried map[*Point]bool) (rest []*Point) {
	for _, pt := range points {
		if !carried[pt] {
			rest = append(rest, pt)
		}
	}
	return rest
}

// carry lets the cycle's queries read those of slower points that cost nothing.
func (c *cycle) carry(slower []*Point, carried map[*Point]bool) {
	for _, q := range c.queries {
		carrier, ok := q.Query.(Carrier)
		if !ok {
			continue
		}
		taken := carrier.Carry(left(slower, carried))
		for _, pt := range taken {
			carried[pt] = true
		}
		c.points = append(c.points, taken...)
	}
}

// replan plans a cycle anew now and then, since what is best depends on how the
// device answers. While a query rests nothing changes, so that it stays known.
func (p *Poller) replan(c *cycle) {
	if c.batch != nil || p.now().Sub(c.planned) < replanEvery || slices.ContainsFunc(c.queries, func(q planned) bool { return q.backoff > 0 }) {
		return
	}
	c.planned = p.now()
	queries, err := p.planPoints(c.Device, c.points)
	if err == nil && !slices.EqualFunc(queries, c.queries, sameQuery) {
		c.queries, c.first = queries, 0
	}
}

// sameQuery reports whether two queries ask the same for the same points.
func sameQuery(a, b planned) bool {
	return a.String() == b.String() && len(a.Points()) == len(b.Points()) &&
		!slices.ContainsFunc(a.Points(), func(pt *Point) bool { return !slices.Contains(b.Points(), pt) })
}

func (p *Poller) planPoints(dev *Device, points []*Point) ([]planned, error) {
	if points[0].Every <= 0 {
		return nil, fmt.Errorf("point %s: has no interval: set every", points[0].Name)
	}
	queries, err := p.cfg.Line.Plan(dev, points)
	if err == nil && len(queries) == 0 {
		err = errors.New("no query was planned")
	}
	plan := make([]planned, len(queries))
	for i, q := range queries {
		plan[i].Query = q
	}
	return plan, err
}

// byInterval splits points by Every, shortest first.
func byInterval(points []*Point) [][]*Point {
	groups := make(map[time.Duration][]*Point)
	for _, pt := range points {
		groups[pt.Every] = append(groups[pt.Every], pt)
	}
	return slices.SortedFunc(maps.Values(groups), func(a, b []*Point) int { return cmp.Compare(a[0].Every, b[0].Every) })
}

// step runs the next query of a job.
func (p *Poller) step(ctx context.Context, i int) {
	c := &p.cycles[i]
	if c.batch == nil {
		c.batch = NewBatch(c.Device)
	}
	var err error
	if q := p.pick(c); q != nil {
		if err = p.try(ctx, c, q); ctx.Err() != nil {
			return
		}
		p.sched.ran(i, p.now())
	}
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

// pick returns the next query to ask, and nil at the end of the cycle. It
// fails the points of those that rest. A silent device is asked regardless.
func (p *Poller) pick(c *cycle) *planned {
	now := p.now()
	for c.ran < len(c.queries) {
		q := &c.queries[(c.first+c.ran)%len(c.queries)]
		c.ran++
		if q.backoff == 0 || q.again <= now || p.sched.units[c.index].silent {
			return q
		}
		failRest(c.batch, q.Points(), fmt.Errorf("resting: %w", q.err), now)
	}
	return nil
}

// try runs a planned query and draws the conclusions.
func (p *Poller) try(ctx context.Context, c *cycle, q *planned) error {
	cost, err := p.exchange(ctx, q, c.batch)
	if ctx.Err() != nil || errors.Is(err, ErrPort) {
		return err
	}
	p.settle(c.health, c.batch, err, cost)
	if err == nil {
		p.queryAnswered(c, q)
	} else if errors.Is(err, ErrTimeout) && !p.sched.units[c.index].silent {
		p.queryMissed(c, q, err, cost)
	}
	return err
}

// queryMissed puts a query to rest that is never answered by a device that
// answers others. Together those of a bus take a tenth of its time at most.
func (p *Poller) queryMissed(c *cycle, q *planned, err error, cost time.Duration) {
	q.misses++
	if q.misses < silentAfter {
		return
	}
	if q.backoff == 0 {
		p.log.Warn("one query gets no answer; asking it now and then", append(c.attrs(), "n", q.misses, "err", err)...)
	}
	q.err = err
	q.backoff = min(max(2*q.backoff, firstProbe), lastProbe)
	q.again = p.now() + Stamp(max(q.backoff, probeRest*cost*p.resting()))
}

// resting counts the queries at rest.
func (p *Poller) resting() (n time.Duration) {
	for _, c := range p.cycles {
		for _, q := range c.queries {
			if q.backoff > 0 {
				n++
			}
		}
	}
	return n
}

func (p *Poller) queryAnswered(c *cycle, q *planned) {
	if q.backoff > 0 {
		p.log.Info("the query is answered again", append(c.attrs(), "n", q.misses)...)
	}
	*q = planned{Query: q.Query}
}

// wakeQueries lets a device that has come back be asked for everything.
func (p *Poller) wakeQueries(h *health) {
	for _, c := range p.cycles {
		for i := range c.queries {
			if c.health == h {
				c.queries[i] = planned{Query: c.queries[i].Query}
			}
		}
	}
}

func (p *Poller) endCycle(i int) {
	before := p.sched.jobs[i].overruns
	p.sched.ended(i, p.now())
	p.ledger.overran(p.sched.jobs[i].overruns - before)
	p.replan(&p.cycles[i])
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

// closeCycles ends the open cycles of a device before their time, and hands
// over what they read.
func (p *Poller) closeCycles(h *health) {
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
