package config

import (
	"strconv"
	"strings"
	"time"

	"edgegateway/mapping"
)

const (
	leastPace  = 10 * time.Millisecond
	mostWindow = 24 * time.Hour
)

// rawPolicy says which readings of a point are published. Each of its three
// parts (what is worth it, how often, how old) is taken from the nearest table
// that says something of it: the point, its group, its device.
type rawPolicy struct {
	Publish     text     `toml:"publish"`
	Deadband    anything `toml:"deadband"`
	MinInterval duration `toml:"min_interval"`
	Window      duration `toml:"window"`
	Aggregate   text     `toml:"aggregate"`
	MaxAge      duration `toml:"max_age"`
}

// checkPolicy looks at a table's policy, whether or not a point takes it.
func (b *binder) checkPolicy(r *rawPolicy) {
	b.worth(r)
	b.aggregate(r)
	for _, x := range []struct {
		d    duration
		what string
	}{{r.MinInterval, "min_interval"}, {r.Window, "the window"}, {r.MaxAge, "max_age"}} {
		if x.d.V != 0 { // "0s" takes back what is inherited
			x.d.atLeast(b, leastPace, x.what)
		}
	}
	if r.Window.V > mostWindow {
		b.errorAt(r.Window.at, "the window is %s; the longest is 24h", r.Window.at.value)
	}
	if r.Window.V > 0 && r.MinInterval.V > 0 {
		b.errorKey(r.MinInterval.at, "both window and min_interval say how often; keep one: a window publishes once at its end")
	}
}

// worth reads which changes a table wants published; ok is false if it says
// nothing, or nothing right.
func (b *binder) worth(r *rawPolicy) (p mapping.Policy, ok bool) {
	words := b.choice(r.Publish, "", "every", "change")
	switch {
	case r.Deadband.set():
		p.Deadband, ok = b.deadband(r.Deadband.at)
		p.OnChange = true
		if words == "every" {
			b.errorAt(r.Publish.at, `publish = "every" and a deadband contradict each other; keep one`)
		}
	case words != "":
		p.OnChange, ok = words == "change", true
	}
	return p, ok
}

func (b *binder) aggregate(r *rawPolicy) mapping.Aggregate {
	if !r.Aggregate.set() {
		return mapping.Last
	}
	a, err := mapping.ParseAggregate(r.Aggregate.V)
	if err != nil {
		b.errorAt(r.Aggregate.at, "%v%s", err, didYouMean(nearest(r.Aggregate.V, []string{"min", "max", "mean", "last"})))
	}
	return a
}

// readPolicy puts the point's policy together.
func (p *pointBuilder) readPolicy() {
	own := &p.raw.rawPolicy
	var paced, aged, aggregated bool
	var worth, pace, aggregate, age *rawPolicy // where each part was found
	for _, d := range p.defaults() {
		r := &d.rawPolicy
		if worth == nil && (r.Publish.set() || r.Deadband.set()) {
			worth = r
		}
		if !paced && (r.MinInterval.set() || r.Window.set()) {
			pace, paced = r, true
		}
		if !aggregated && r.Aggregate.set() {
			aggregate, aggregated = r, true
		}
		if !aged && r.MaxAge.set() {
			age, aged = r, true
		}
	}
	to := &p.point.Policy
	if worth != nil {
		*to, _ = p.worth(worth)
		if own.Deadband.set() && !p.quantity() {
			p.errorKey(own.Deadband.at, `a deadband needs a number; point %q is not one: publish = "change" publishes it when it changes`, p.name)
		}
	}
	if paced {
		to.MinInterval, to.Window = pace.MinInterval.V, pace.Window.V
	}
	if aged {
		to.MaxAge = age.MaxAge.V
	}
	p.readAggregate(own, aggregate)
	switch least := max(to.Window, to.MinInterval); {
	case to.MaxAge > 0 && to.MaxAge < least && age != nil:
		p.errorAt(age.MaxAge.at, "max_age is %s, and point %q is published every %s at most; make max_age longer", age.MaxAge.at.value, p.name, least)
	case own.Aggregate.set() && to.Window == 0:
		p.errorKey(own.Aggregate.at, `aggregate needs a window: window = "1m"`)
	}
}

// readAggregate sets what a window makes of its readings: the mean of numbers,
// the last of all else and of counters, unless the point itself wants another.
func (p *pointBuilder) readAggregate(own, from *rawPolicy) {
	to := &p.point.Policy
	if to.Window == 0 {
		return
	}
	averaged := p.quantity() && p.point.Kind != mapping.Counter
	switch {
	case from == nil && averaged:
		to.Aggregate = mapping.Mean
	case from == nil:
	case averaged || from == own:
		to.Aggregate = p.aggregate(from)
	}
	if from == own && !p.quantity() && to.Aggregate != mapping.Last {
		p.errorAt(own.Aggregate.at, `%s needs numbers; point %q is not one, and takes aggregate = "last"`, to.Aggregate, p.name)
	}
}

func (b *binder) deadband(n *node) (db mapping.Deadband, ok bool) {
	switch v := n.value.(type) {
	case int64:
		db.Abs = float64(v)
	case float64:
		db.Abs = v
	case string:
		number, percent := strings.CutSuffix(strings.TrimSpace(v), "%")
		f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !percent {
			b.errorAt(n, `%q is no deadband; write 0.5 in the point's unit, or "1%%" of its value`, v)
			return db, false
		}
		db.Percent = f
	default:
		b.errorAt(n, `a deadband is a number or "1%%", not %s`, n.kind())
		return db, false
	}
	if most := db.Abs + db.Percent; !(most >= 0 && most < 1e300) {
		b.errorAt(n, "a deadband is 0 or more")
		return mapping.Deadband{}, false
	}
	return db, true
}
