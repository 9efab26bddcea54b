package mapping

import (
	"fmt"
	"math"
	"math/big"
	"time"

	"edgegateway/devices"
)

// A counter that steps back has wrapped, was reset or exchanged, or was read
// wrongly, and one that leaps has been exchanged or was read wrongly. What is
// known of it decides:
//
//   - A step back by no more than what its register can tell apart is the
//     device's rounding.
//   - A wrap goes from near the top of its register (or of Counting.Wrap) to
//     near the bottom: in all by no more than a sixteenth of the span, and by
//     what MaxRate allows in that time. It is taken at once, except that a bare
//     0, which is also what devices answer that have just started, waits for
//     the next reading.
//   - One that begins anew by itself (Resets), as what was counted today, does
//     so where it steps back to near 0: to no more than a sixteenth of what it
//     showed, and to what MaxRate allows in that time. That is taken at once and
//     marked as a reset. A zero that was misread is so, too: with MaxRate the
//     number after it is then doubted.
//   - All else is held back, as no value with a cause, until it is confirmed:
//     by three readings in a row that agree with each other, over at least half
//     a minute, so that the zeros of a device that starts are not taken for a
//     new one's. A reading that goes on where the counter was ends the matter.
//     What was confirmed is taken and marked as a reset.
//
// Without MaxRate any rise is possible.

// Counting says what is known of a counter.
type Counting struct {
	// Wrap is the number that it would reach where it begins anew, in its
	// unit: 1000000 for one that goes from 999999.9 to 0. nil: where its
	// register ends; floats and texts never end.
	Wrap *Decimal
	// MaxRate is the most it can rise in an hour, in its unit; 0: not known.
	MaxRate float64
	// Resets is that it begins anew by itself, each day for instance.
	Resets bool
}

const (
	wrapShare   = 1.0 / 16 // of the span: the longest step that is taken for a wrap; of the last number: how near 0 a reset is
	confirmedBy = 3        // readings in a row, the first included
	confirmedIn = devices.Stamp(30 * time.Second)
)

// A CounterEvent is what consumers who compute differences must know of a
// reading.
type CounterEvent uint8

const (
	Continues CounterEvent = iota
	Wrapped                // it went round: the difference goes over the top
	Reset                  // it began anew, or is another device's: there is no difference
)

// String is how payloads name it.
func (e CounterEvent) String() string { return [...]string{"", "wrap", "reset"}[e] }

// A Tally is what is remembered of a counter from reading to reading. The zero
// Tally knows nothing and takes what comes.
type Tally struct {
	last    number        // the highest value of the present series
	at      devices.Stamp // of the latest reading that was taken; 0: none
	changed devices.Stamp // of the latest that differed

	held   number // what contradicts last and waits to be confirmed
	count  int    // readings of it in a row
	since  devices.Stamp
	heldAt devices.Stamp
}

var (
	errSteppedBack = &Invalid{Reason: "counter stepped back"}
	errJumped      = &Invalid{Reason: "counter jumped"}
)

// follow judges v, read at at, by the readings before it and returns what to
// remember. With an error, an *Invalid, v must not be published.
func (p *Point) follow(t Tally, v Value, at devices.Stamp) (Tally, CounterEvent, error) {
	n, ok := v.decimal()
	if !ok {
		return t, Continues, errScale
	}
	switch {
	case t.at == 0:
		return Tally{last: n, at: at, changed: at}, Continues, nil
	case at < t.at: // overtaken by a newer one, which nothing older changes
		if n.cmp(t.last) <= 0 {
			return t, Continues, nil
		}
		return t, Continues, p.doubt(t.last, n)
	}
	event, ok := p.step(t.last, n, at-t.at)
	if ok && (event != Wrapped || n != number{} || p.MaxRate > 0) {
		return t.take(n, at, event), event, nil
	}
	if t = p.hold(t, n, at); t.count < confirmedBy || at-t.since < confirmedIn {
		return t, Continues, p.doubt(t.last, n)
	}
	// A device may count more slowly than it is read.
	if event, ok = p.step(t.last, n, at-t.changed); !ok {
		event = Reset
	}
	return t.take(n, at, event), event, nil
}

func (t Tally) take(n number, at devices.Stamp, event CounterEvent) Tally {
	next := Tally{last: n, at: at, changed: t.changed}
	if event == Continues && n.cmp(t.last) < 0 {
		next.last = t.last
	}
	if next.last != t.last {
		next.changed = at
	}
	return next
}

// hold notes a reading that contradicts the series.
func (p *Point) hold(t Tally, n number, at devices.Stamp) Tally {
	if t.count > 0 {
		if event, ok := p.step(t.held, n, at-t.heldAt); ok && event == Continues {
			t.count++
			t.held, t.heldAt = n, at
			return t
		}
	}
	t.held, t.count, t.since, t.heldAt = n, 1, at, at
	return t
}

// step says how a counter can have come from one number to another in a time.
func (p *Point) step(from, to number, in devices.Stamp) (CounterEvent, bool) {
	grain := p.grain(from, to)
	most := math.Inf(1)
	if p.MaxRate > 0 {
		most = p.MaxRate*time.Duration(in).Hours() + grain
	}
	const slack = 1 + 1e-9 // of the arithmetic
	rise := to.minus(from)
	if rise >= -grain*slack {
		return Continues, rise <= most*slack
	}
	if anew := to.float(); p.Resets && anew >= 0 && anew <= math.Min(most, math.Max(from.float()*wrapShare, grain))*slack {
		return Reset, true
	}
	over, span, ok := p.overTop(from, to, grain)
	return Wrapped, ok && over <= math.Min(most, span*wrapShare)*slack
}

// grain is the least difference between two values near these that the raw
// form can tell.
func (p *Point) grain(a, b number) float64 {
	scale := math.Abs(p.Scale.orOne().number().float())
	raw := math.Max(math.Abs(a.float()), math.Abs(b.float())) / scale
	switch {
	case p.FromText:
		return number{mant: 1, exp: min(a.exp, b.exp, 0)}.float()
	case p.Type == F16:
		return scale * math.Max(raw/(1<<10), 0x1p-24)
	case p.Type == F32:
		return scale * raw / (1 << 23)
	case p.Type == F64:
		return scale * raw / (1 << 52)
	}
	return scale
}

// grainOf is grain near one value.
func (p *Point) grainOf(x float64) float64 {
	n, _ := FloatValue(x).decimal()
	return p.grain(n, n)
}

// overTop returns how far it is from one number over the top to another, and
// how far all the way round; ok is false where there is no top.
func (p *Point) overTop(from, to number, grain float64) (over, span float64, ok bool) {
	if p.Wrap != nil {
		top := p.Wrap.number()
		return top.minus(from) + to.float(), top.float(), from.cmp(top) < 0 && !to.neg
	}
	if p.FromText || !p.Type.Integer() {
		return 0, 0, false
	}
	low, high := p.limits()
	bottom, ok1 := low.affine(p.Scale, p.Offset)
	top, ok2 := high.affine(p.Scale, p.Offset)
	if p.Scale.Mant < 0 {
		bottom, top = top, bottom
	}
	return top.minus(from) + to.minus(bottom) + grain, top.minus(bottom), ok1 && ok2
}

// Period returns the number at which a counter's register begins anew, scaled;
// ok is false where there is no such number.
func (p *Point) Period() (r *big.Rat, ok bool) {
	if p.FromText || !p.Type.Integer() {
		return nil, false
	}
	_, high := p.limits()
	r = high.rat()
	r.Add(r, big.NewRat(1, 1))
	r.Mul(r, p.Scale.orOne().number().rat())
	return r.Abs(r), true
}

// doubt says what is wrong with a number, which a person may want to see.
func (p *Point) doubt(last, n number) error {
	e, hint := *errSteppedBack, `what may fall is kind = "measurement", and what begins anew by itself has resets = true`
	if n.cmp(last) > 0 {
		e, hint = *errJumped, "its max_rate allows less"
	}
	e.Detail = fmt.Sprintf("it shows %s after %s; waiting whether it stays (%s)", p.withUnit(n), p.withUnit(last), hint)
	return &e
}

func (p *Point) withUnit(n number) string { return withUnitText(string(n.append(nil)), p.Unit) }

// cmp compares two numbers: -1, 0 or 1.
func (n number) cmp(m number) int {
	if n == m {
		return 0
	}
	d := n.minus(m)
	switch {
	case d < 0:
		return -1
	case d > 0:
		return 1
	}
	return 0
}

// minus returns n − m: exact before it is rounded to a float, if both have so
// many digits that 128 bits hold them to the same power of ten.
func (n number) minus(m number) float64 {
	common := min(n.exp, m.exp)
	a, ok1 := raise(wide{lo: n.mant}, int(n.exp)-int(common))
	b, ok2 := raise(wide{lo: m.mant}, int(m.exp)-int(common))
	if ok1 && ok2 {
		if d, ok := sum(n.neg, a, !m.neg, b, int(common)); ok {
			return d.float()
		}
	}
	return n.float() - m.float()
}
