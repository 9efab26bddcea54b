package devices

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"
)

// A set is groups of one device: bit i is the group with its i-th shortest
// interval.
type set uint64

const maxGroups = 64

func (s set) has(group int) bool { return s>>group&1 == 1 }
func (s set) several() bool      { return s&(s-1) != 0 }

// A joint is how groups of a device that fall due together are asked for: the
// cheapest queries for all of their points at once.
type joint struct {
	groups  set
	parts   []part // by group, up to the slowest of groups; those that quicker ones read for are empty
	planned Stamp  // when
	extra   bool   // it reads along what is not due
}

// A part is the queries of a joint that belong to one group: those that read
// points of it and of no quicker one.
type part struct {
	queries []planned
	first   int // with which query it begins
}

// A Coster is a Query that knows about how long it takes its bus.
type Coster interface {
	Query
	Cost() time.Duration
}

// cost returns how long the part takes, and the longest of its queries; 0 where
// that is not known.
func (pt *part) cost() (all, longest time.Duration) {
	for _, q := range pt.queries {
		if c, ok := q.Query.(Coster); ok {
			d := c.Cost()
			all, longest = all+d, max(longest, d)
		}
	}
	return all, longest
}

// resting reports whether a query of it rests.
func (j *joint) resting() bool {
	return slices.ContainsFunc(j.parts, func(pt part) bool {
		return slices.ContainsFunc(pt.queries, func(q planned) bool { return q.backoff > 0 })
	})
}

// same reports whether two joints ask the same for the same points.
func (j *joint) same(o *joint) bool {
	return slices.EqualFunc(j.parts, o.parts, func(a, b part) bool { return slices.EqualFunc(a.queries, b.queries, sameQuery) })
}

// planGroups plans groups of a device. What the queries read anyway of the
// points of other groups comes along.
func (p *Poller) planGroups(h *health, groups set) (*joint, error) {
	var points []*Point
	for i, c := range p.cyclesOf(h) {
		if groups.has(i) {
			points = append(points, c.points...)
		}
	}
	queries, err := p.cfg.Line.Plan(h.Device, points)
	if err != nil {
		return nil, err
	}
	j := &joint{groups: groups, parts: make([]part, bits.Len64(uint64(groups))), planned: p.now()}
	for _, q := range queries {
		g := p.groupOf(h, q)
		j.parts[g].queries = append(j.parts[g].queries, planned{Query: q})
	}
	if groups.several() {
		j.carry(left(h.Points, pointSet(points)))
	}
	return j, nil
}

// groupOf returns the quickest group that q reads points of.
func (p *Poller) groupOf(h *health, q Query) int {
	return slices.IndexFunc(p.cyclesOf(h), func(c cycle) bool {
		return slices.ContainsFunc(q.Points(), func(pt *Point) bool { return slices.Contains(c.points, pt) })
	})
}

// carry lets the joint's queries read those of points that cost nothing.
func (j *joint) carry(points []*Point) {
	for _, pt := range j.parts {
		for _, q := range pt.queries {
			if taken := carry(q.Query, points); len(taken) > 0 {
				points = left(points, pointSet(taken))
				j.extra = true
			}
		}
	}
}

func pointSet(points []*Point) map[*Point]bool {
	m := make(map[*Point]bool, len(points))
	for _, pt := range points {
		m[pt] = true
	}
	return m
}

// left returns those of points that are not taken.
func left(points []*Point, taken map[*Point]bool) (rest []*Point) {
	for _, pt := range points {
		if !taken[pt] {
			rest = append(rest, pt)
		}
	}
	return rest
}

// jointOf returns the plan for groups that are due together, which are planned
// when they first are.
func (p *Poller) jointOf(h *health, groups set) *joint {
	if j := h.joints[groups]; j != nil {
		return j
	}
	j, err := p.planGroups(h, groups)
	if err != nil { // each alone could be planned
		p.log.Warn("groups that are due together are asked for apart", append(h.attrs(), "err", err)...)
		j = nil
	}
	if len(h.joints) >= maxJoints {
		clear(h.joints)
	}
	h.joints[groups] = j
	return j
}

// maxJoints bounds the plans kept for a device: many intervals that are no
// multiples of each other meet in many ways.
const maxJoints = 64

// choose returns the plan for as many of groups, which are due, as it is right
// to ask for together, quicker ones first.
func (p *Poller) choose(h *health, groups set, now Stamp) *joint {
	for groups.several() {
		if j := p.jointOf(h, groups); j != nil && !j.resting() && p.bears(h, j, now) {
			return j
		}
		groups &^= 1 << (bits.Len64(uint64(groups)) - 1)
	}
	return p.cyclesOf(h)[bits.TrailingZeros64(uint64(groups))].alone
}

// bears reports whether no interval is missed because of j.
func (p *Poller) bears(h *health, j *joint, now Stamp) bool {
	var jobs []int
	var head, longest, before time.Duration
	for g, c := range p.cyclesOf(h) {
		if !j.groups.has(g) {
			continue
		}
		all, one := j.parts[g].cost()
		if len(jobs) == 0 {
			head = all
		}
		_, alone := c.alone.parts[g].cost()
		longest, before = max(longest, one), max(before, alone)
		jobs = append(jobs, h.first+g)
	}
	return p.sched.bears(jobs, head, longest, before, now)
}

// replan plans a joint anew now and then, since what is best depends on how the
// device answers. While a query rests nothing changes, so that it stays known.
func (p *Poller) replan(h *health, j *joint) {
	if p.now().Sub(j.planned) < replanEvery || j.resting() {
		return
	}
	j.planned = p.now()
	again, err := p.planGroups(h, j.groups)
	if err != nil || again.same(j) {
		return
	}
	*j = *again
	p.estimate(h)
}

// estimate tells the schedule how long the cycles of a device take.
func (p *Poller) estimate(h *health) {
	for g, c := range p.cyclesOf(h) {
		p.sched.jobs[h.first+g].cost, _ = c.alone.parts[g].cost()
	}
}

// A Group is the points of a device with one interval, as they are asked for
// alone.
type Group struct {
	Every   time.Duration
	Points  []*Point // of this interval, and slower ones that Queries read anyway
	Queries []Query
}

// Groups plans the points of a device by interval, the shortest first. What
// queries read anyway of slower points is read by them, and not again; a group
// of which nothing is left is not there.
func Groups(line Line, dev *Device) ([]Group, error) {
	var groups []Group
	var errs []error
	carried := make(map[*Point]bool)
	for _, points := range byInterval(dev.Points) {
		points = left(points, carried)
		if len(points) == 0 {
			continue
		}
		g := Group{Every: points[0].Every, Points: points}
		if err := g.plan(line, dev); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, q := range g.Queries {
			taken := carry(q, left(slower(dev.Points, g.Every), carried))
			g.Points = append(g.Points, taken...)
			for _, pt := range taken {
				carried[pt] = true
			}
		}
		groups = append(groups, g)
	}
	if len(groups) > maxGroups {
		errs = append(errs, fmt.Errorf("its points have %d different intervals, and %d are the most; give some the same every", len(groups), maxGroups))
	}
	return groups, errors.Join(errs...)
}

func (g *Group) plan(line Line, dev *Device) (err error) {
	if g.Every <= 0 {
		return fmt.Errorf("point %s: has no interval: set every", g.Points[0].Name)
	}
	if g.Queries, err = line.Plan(dev, g.Points); err == nil && len(g.Queries) == 0 {
		err = errors.New("no query was planned")
	}
	return err
}

// carry lets q read those of points that cost nothing.
func carry(q Query, points []*Point) []*Point {
	if c, ok := q.(Carrier); ok {
		return c.Carry(points)
	}
	return nil
}

// byInterval splits the points that are read by Every, shortest first.
func byInterval(points []*Point) [][]*Point {
	groups := make(map[time.Duration][]*Point)
	for _, pt := range points {
		if pt.Every != Never {
			groups[pt.Every] = append(groups[pt.Every], pt)
		}
	}
	return slices.SortedFunc(maps.Values(groups), func(a, b []*Point) int { return cmp.Compare(a[0].Every, b[0].Every) })
}

// slower returns those of points that have a longer interval.
func slower(points []*Point, every time.Duration) []*Point {
	return slices.DeleteFunc(slices.Clone(points), func(pt *Point) bool { return pt.Every <= every })
}
