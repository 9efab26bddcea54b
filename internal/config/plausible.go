package config

import (
	"math"
	"math/big"

	"edgegateway/mapping"
)

// readRange reads range = [-40, 125]; inf and -inf leave a side open.
func (p *pointBuilder) readRange() {
	n := p.raw.Range.at
	switch {
	case n == nil:
		return
	case len(n.items) != 2:
		p.errorAt(n, "a range is two numbers: range = [-40, 125], or [0, inf] with one side open")
		return
	case !p.quantity():
		p.errorKey(n, "a range needs a number; point %q is not one", p.name)
		return
	}
	low, ok1 := p.limit(n.items[0], -1)
	high, ok2 := p.limit(n.items[1], 1)
	switch {
	case !ok1 || !ok2:
		return
	case low == nil && high == nil:
		p.errorAt(n, "this range excludes nothing; leave it out")
		return
	case low != nil && high != nil && compare(*low, *high) > 0:
		p.errorAt(n, "the range begins with %s, above its end, %s", low, high)
		return
	}
	p.point.Range = &mapping.Range{Min: low, Max: high}
	p.checkReachable(n)
}

// limit reads one end of a range, nil for infinity on the side that side says.
func (p *pointBuilder) limit(n *node, side int) (*mapping.Decimal, bool) {
	if f, ok := n.value.(float64); ok && math.IsInf(f, side) {
		return nil, true
	}
	d, ok := p.decimal(n, "a limit of the range")
	return &d, ok
}

// checkReachable reports a range that shuts out what may be written.
func (p *pointBuilder) checkReachable(n *node) {
	w, r := p.point.Write, p.point.Range
	if w == nil {
		return
	}
	if w.Min != nil && r.Min != nil && compare(*w.Min, *r.Min) < 0 {
		p.errorAt(n, "%s may be written, which is below the range", w.Min)
	}
	if w.Max != nil && r.Max != nil && compare(*w.Max, *r.Max) > 0 {
		p.errorAt(n, "%s may be written, which is above the range", w.Max)
	}
}

// quantity reports whether the value is a number that has no name.
func (p *pointBuilder) quantity() bool {
	return p.numeric() && !p.point.List && p.point.Enum == nil && p.point.EnumText == nil && p.point.Bits == nil
}

// readKind reads kind, and wrap, max_rate and resets of a counter.
func (p *pointBuilder) readKind() {
	k := p.raw.Kind
	switch k.V {
	case "", "measurement":
	case "counter":
		p.point.Kind = mapping.Counter
		if !p.quantity() {
			p.errorAt(k.at, "a counter is a number; point %q is not one", p.name)
		}
	default:
		p.errorAt(k.at, `%q is no kind; there is "measurement" and "counter"`, k.V)
	}
	p.readWrap()
	p.readMaxRate()
	p.readResets()
}

func (p *pointBuilder) readResets() {
	switch p.point.Resets = p.raw.Resets.V; {
	case !p.point.Resets:
	case p.point.Kind != mapping.Counter:
		p.errorKey(p.raw.Resets.at, `resets is for counters: add kind = "counter"`)
	case p.point.Wrap != nil:
		p.errorKey(p.raw.Resets.at, "the counter begins anew either by itself (resets) or at a number (wrap); leave one out")
	}
}

// ofCounter reads a number above 0 that only counters have.
func (p *pointBuilder) ofCounter(key string, raw anything) (d mapping.Decimal, ok bool) {
	if !raw.set() {
		return d, false
	}
	if p.point.Kind != mapping.Counter {
		p.errorKey(raw.at, `%s is for counters: add kind = "counter"`, key)
		return d, false
	}
	if d, ok = p.decimal(raw.at, key); ok && d.Mant <= 0 {
		p.errorAt(raw.at, "%s is %s; it must be above 0", key, d)
		return d, false
	}
	return d, ok
}

func (p *pointBuilder) readWrap() {
	d, ok := p.ofCounter("wrap", p.raw.Wrap)
	if !ok {
		return
	}
	if most, finite := p.point.Period(); finite && rational(d).Cmp(most) > 0 {
		p.errorAt(p.raw.Wrap.at, "the counter never gets to %s: its register begins anew at %s; wrap is in the point's unit, after scaling", d, trimmed(most))
		return
	}
	p.point.Wrap = &d
}

// trimmed writes r without needless zeros.
func trimmed(r *big.Rat) string {
	places, _ := r.FloatPrec()
	return r.FloatString(places)
}

func (p *pointBuilder) readMaxRate() {
	if d, ok := p.ofCounter("max_rate", p.raw.MaxRate); ok {
		p.point.MaxRate, _ = mapping.DecimalValue(d).Float64()
	}
}
