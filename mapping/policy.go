package mapping

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"edgegateway/devices"
)

// A Policy says which readings of a point are published. The zero Policy
// publishes each of them. Whatever it says, the first reading and each change
// of quality (from good to bad, from one cause to another, and back) are
// published at once, and first of all what still waits for its time.
type Policy struct {
	// OnChange leaves out readings that are what was published last. A
	// Deadband implies it.
	OnChange bool
	Deadband Deadband
	// MaxAge publishes a reading although it has not changed, so that two
	// publications are never further apart as long as readings come: the last
	// reading within it is taken. 0: never.
	MaxAge time.Duration
	// MinInterval is the least time between two publications. What comes
	// earlier waits, the last of it is published with its own time when the
	// interval ends, unless the value is back within the deadband by then.
	MinInterval time.Duration
	// Window publishes one value for all readings of each window, as
	// Aggregate makes it; its time is the window's end. Windows end at whole
	// multiples of their length in UTC, as the clock is when they begin. One
	// that a change of quality or the end of the program cuts short bears the
	// time of its last reading. It goes with no MinInterval.
	Window    time.Duration
	Aggregate Aggregate
}

// A Deadband is the least change worth publishing. Of two thresholds the
// greater holds, so that Abs is a floor for Percent near zero. Values that are
// no quantity are published when they differ.
type Deadband struct {
	Abs     float64 // in the point's unit, after scaling
	Percent float64 // of the value last published
}

// An Aggregate says what becomes of the good readings of a window.
type Aggregate uint8

const (
	Last Aggregate = iota
	Min
	Max
	Mean // to 15 significant digits, to 7 of floats with 32 bits
)

var aggregates = [...]string{"last", "min", "max", "mean"}

func (a Aggregate) String() string { return aggregates[a] }

// ParseAggregate reads an aggregate by its name.
func ParseAggregate(s string) (Aggregate, error) {
	for i, name := range aggregates {
		if s == name {
			return Aggregate(i), nil
		}
	}
	return 0, fmt.Errorf("unknown aggregate %q: one of min, max, mean, last", s)
}

// check says what is wrong with p for a point, nil if nothing.
func (p *Policy) check() error {
	switch {
	case p.Window > 0 && p.MinInterval > 0:
		return fmt.Errorf("a window of %s and a least interval of %s: the window is the interval", p.Window, p.MinInterval)
	case p.MaxAge > 0 && p.MaxAge < max(p.Window, p.MinInterval):
		return fmt.Errorf("max_age of %s is shorter than the %s between two publications", p.MaxAge, max(p.Window, p.MinInterval))
	}
	return nil
}

// moves tells whether now is worth publishing after last, both good.
func (p *Policy) moves(last, now Value) bool {
	switch {
	case p.Deadband != (Deadband{}):
		return p.Deadband.passes(last, now)
	case p.OnChange:
		return !last.Equal(now)
	}
	return true
}

// passes compares the change with the greater of the two thresholds.
func (d Deadband) passes(last, now Value) bool {
	a, aok := last.Float64()
	b, bok := now.Float64()
	if !aok || !bok {
		return !last.Equal(now)
	}
	const slack = 1 + 1e-9 // so that 230.1 to 230.6 is a change of 0.5
	change := math.Abs(b - a)
	return change > 0 && change*slack >= max(d.Abs, math.Abs(a)*d.Percent/100)
}

// An output is what is published of a point: a reading, or what a window made
// of several.
type output struct {
	*Current     // pointState.current or pace.held
	samples  int // good readings in it; 0: it is one reading, and no window
	bad      int // readings of the window that had no value
}

// A pace is where a point stands between its publications.
type pace struct {
	sent      Value         // last published
	cause     string        // likewise, "" for a good value
	published bool          // anything was
	sentAt    devices.Stamp // when that was, which may be later than its own time
	until     devices.Stamp // when held or the window is to be published; 0: nothing waits
	windowed  bool          // until is the end of window
	*waiting                // nil: its policy lets nothing wait
}

// waiting is what a least interval or a window holds back.
type waiting struct {
	held   Current // what waits for MinInterval to end, or what its window made
	window window
}

// A window gathers the readings since the last publication.
type window struct {
	n, bad    int // good readings, and those without a value
	first     Value
	last      Current
	low, high Value
	sum, rest float64 // Neumaier's sum
	single    bool    // all of them were floats of 32 bits
}

func (w *window) add(c *Current) {
	if c.Cause != "" {
		w.bad++
		return
	}
	f, ok := c.Value.Float64()
	if w.n == 0 {
		w.first, w.low, w.high, w.single = c.Value, c.Value, c.Value, true
	} else if ok {
		if low, _ := w.low.Float64(); f < low {
			w.low = c.Value
		}
		if high, _ := w.high.Float64(); f > high {
			w.high = c.Value
		}
	}
	w.n, w.last = w.n+1, *c
	w.single = w.single && c.Value.kind == KindFloat32
	sum := w.sum + f
	if math.Abs(w.sum) >= math.Abs(f) {
		w.rest += w.sum - sum + f
	} else {
		w.rest += f - sum + w.sum
	}
	w.sum = sum
}

// value returns what a makes of the window's good readings, of which there
// is at least one.
func (w *window) value(a Aggregate) Value {
	switch a {
	case Min:
		return w.low
	case Max:
		return w.high
	case Mean:
		if _, ok := w.first.Float64(); ok {
			return w.mean()
		}
	}
	return w.last.Value
}

// mean rounds to the digits that the readings bear, so that the mean of three
// times 230.1 is 230.1.
func (w *window) mean() Value {
	if w.n == 1 || w.low.Equal(w.high) {
		return w.last.Value
	}
	digits := 15
	if w.single {
		digits = 7
	}
	var buf [32]byte
	text := strconv.AppendFloat(buf[:0], (w.sum+w.rest)/float64(w.n), 'e', digits-1, 64)
	if n, err := parseNumber(text); err == nil {
		return numberValue(n)
	}
	return FloatValue((w.sum + w.rest) / float64(w.n)) // beyond 10^127
}

// dueBefore reports whether what waits has to be published before c is taken:
// its time has come, or c changes the quality. A window that holds nothing but
// bad readings goes on through such a change, for they belong to what follows.
func (p *pointState) dueBefore(c *Current) bool {
	switch {
	case p.until == 0:
		return false
	case c.At >= p.until:
		return true
	}
	return p.news(c) && (!p.windowed || p.window.n > 0)
}

// news tells whether c is published whatever the policy: the first reading, each
// change of quality, and what consumers of a counter must know.
func (p *pointState) news(c *Current) bool {
	return !p.published || c.Cause != p.cause || c.Counter != Continues
}

// flush ends what waits, at the time it was to be published or, if that is
// later than now, before it, and reports whether p.out is to be published.
func (p *pointState) flush(now devices.Stamp) bool {
	at := p.until
	p.until = 0
	if !p.windowed {
		return p.publish(output{Current: &p.held}, min(at, now))
	}
	w := p.window
	p.window = window{}
	if w.n == 0 {
		return false // its bad readings have been told
	}
	p.held = w.last
	p.held.Value = w.value(p.Policy.Aggregate)
	p.held.Counter = Continues // anything else has been told
	if now >= at {
		p.held.At = at
	}
	if p.cause == "" && !p.Policy.moves(p.sent, p.held.Value) && !p.aged(p.held.At, p.Policy.Window) {
		return false
	}
	return p.publish(output{&p.held, w.n, w.bad}, p.held.At)
}

// take decides about the current reading, before which nothing waits that had to be
// published, and reports whether p.out is to be published now.
func (p *pointState) take(offset int64) bool {
	c := &p.current
	news := p.news(c)
	if p.Policy.Window > 0 {
		return p.gather(offset, news)
	}
	switch {
	case news:
	case p.aged(c.At, p.Every):
	case c.Cause != "":
		return false
	case !p.Policy.moves(p.sent, c.Value):
		p.until = 0 // what waited is past
		return false
	}
	rest := p.Policy.MinInterval
	if news || rest == 0 || c.At.Sub(p.sentAt) >= rest {
		return p.publish(output{Current: c}, c.At)
	}
	p.held, p.until = *c, p.sentAt+devices.Stamp(rest)
	return false
}

// gather is take of a point with a window.
func (p *pointState) gather(offset int64, news bool) bool {
	c := &p.current
	p.open(c.At, offset)
	p.window.add(c)
	out := output{Current: c}
	if c.Cause == "" {
		out.samples = 1
	}
	if news || c.Cause != "" && p.aged(c.At, p.Every) {
		return p.publish(out, c.At)
	}
	return false
}

// open begins a window with a reading at at, unless one is open. offset is
// wall time minus boot time.
func (p *pointState) open(at devices.Stamp, offset int64) {
	if p.until != 0 {
		return
	}
	length := int64(p.Policy.Window)
	wall := int64(at) + offset
	past := wall % length
	if past < 0 {
		past += length
	}
	p.windowed, p.until = true, at+devices.Stamp(length-past)
}

// aged tells whether the last publication would be older than MaxAge at the
// next chance to publish, which comes every so often.
func (p *pointState) aged(at devices.Stamp, every time.Duration) bool {
	m := p.Policy.MaxAge
	return m > 0 && (at.Sub(p.sentAt) >= m || at.Sub(p.sentAt)+every > m)
}

// publish makes o what is published of p, at the moment at.
func (p *pointState) publish(o output, at devices.Stamp) bool {
	p.out, p.sent, p.cause, p.published, p.sentAt = o, o.Value, o.Cause, true, at
	if !p.windowed {
		p.until = 0
	}
	return true
}
