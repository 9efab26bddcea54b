package modbus

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"time"

	"edgegateway/devices"
)

// guessedThinking is how long a device is thought to take before it has been
// asked.
const guessedThinking = 20 * time.Millisecond

// An atom is what one request reads whole or not at all.
type atom struct {
	reg    Register
	points []placed
}

// A span is what one request reads: atoms of one table, sorted by address.
type span struct {
	reg   Register
	atoms []atom
}

// points yields the points of s by rising address.
func (s *span) points() iter.Seq[placed] {
	return func(yield func(placed) bool) {
		for _, a := range s.atoms {
			for _, p := range a.points {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// A scope is what a plan for a device has to respect.
type scope struct {
	dev      *devices.Device
	unit     Unit
	known    *known
	declared []Register // of all points of the device, sorted
}

// A planner knows what requests for entries of one table cost.
type planner struct {
	*scope
	line  *Line
	table Table
	times []time.Duration // of a request for so many entries; 0: not computed yet
}

// spans returns the cheapest requests that read atoms, which are sorted by
// table and address.
func (l *Line) spans(sc *scope, atoms []atom) []span {
	var spans []span
	for from := 0; from < len(atoms); {
		t, to := atoms[from].reg.Table, from
		for to < len(atoms) && atoms[to].reg.Table == t {
			to++
		}
		p := &planner{scope: sc, line: l, table: t, times: make([]time.Duration, sc.unit.limit(t)+1)}
		spans = append(spans, p.divide(atoms[from:to])...)
		from = to
	}
	return spans
}

// A cost is what some requests cost: their time on the bus, and where that is
// equal, as it is where bytes are free, their number and length.
type cost struct {
	time    time.Duration
	number  int
	entries int
}

func (c cost) add(o cost) cost {
	return cost{c.time + o.time, c.number + o.number, c.entries + o.entries}
}

func (c cost) compare(o cost) int {
	return cmp.Or(cmp.Compare(c.time, o.time), cmp.Compare(c.number, o.number), cmp.Compare(c.entries, o.entries))
}

// request is the cost of one request for n entries.
func (p *planner) request(n int) cost {
	if p.times[n] == 0 {
		thinking := cmp.Or(p.line.wire.thinking(p.unit.ID), guessedThinking)
		p.times[n] = thinking + p.line.wireTime(readRequest(p.unit.ID, Register{Table: p.table, Count: uint16(n)}))
	}
	return cost{p.times[n], 1, n}
}

// divide cuts atoms, which are sorted by address, into the spans that together
// cost least: the cheapest way to read the first k of them is, over all i < k,
// the cheapest way to read the first i and one request for the rest.
//
// That looks at runs of neighbours only, which loses nothing: of two requests
// that take turns in the order of addresses, one can always give atoms to the
// other without either growing. Of equally cheap ways the one that fills its
// first requests most is taken, so that the plan is always the same.
func (p *planner) divide(atoms []atom) []span {
	type way struct {
		cost cost
		last int // the first atom of its last request
	}
	best := make([]way, len(atoms)+1)
	for k := range atoms {
		best[k+1].cost.time = math.MaxInt64
	}
	for i, first := range atoms {
		reg, ok := first.reg, true
		for k := i; k < len(atoms); k++ {
			if k > i {
				reg, ok = p.extend(reg, atoms[k])
			}
			if !ok {
				break
			}
			c := best[i].cost.add(p.request(reg.count()))
			if c.compare(best[k+1].cost) <= 0 {
				best[k+1] = way{c, i}
			}
		}
	}
	var spans []span
	for k := len(atoms); k > 0; k = best[k].last {
		spans = append(spans, spanOf(atoms[best[k].last:k]))
	}
	slices.Reverse(spans)
	return spans
}

// extend returns reg with a, which begins nowhere before it, and whether one
// request may read that.
func (p *planner) extend(reg Register, a atom) (Register, bool) {
	both := reg.with(a.reg)
	hole := int(a.reg.Address) > reg.end()
	if both.count() > p.unit.limit(p.table) || p.unit.quirks().Single ||
		hole && !p.unit.Gaps && !p.exist(reg.end(), int(a.reg.Address)) {
		return both, false
	}
	_, forbidden := meeting(p.unit.quirks().Forbid, both)
	return both, !forbidden && p.known.joins(both)
}

// exist reports whether points of the device, wanted or not, lie in all entries
// between two addresses: then these are no gap.
func (p *planner) exist(from, to int) bool {
	for _, r := range p.declared {
		if r.Table == p.table && int(r.Address) <= from {
			from = max(from, r.end())
		}
	}
	return from >= to
}

// spanOf returns the span that reads atoms, which are not empty.
func spanOf(atoms []atom) span {
	s := span{reg: atoms[0].reg, atoms: atoms}
	for _, a := range atoms {
		s.reg = s.reg.with(a.reg)
	}
	return s
}
