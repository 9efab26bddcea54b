package mapping

import (
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
)

// What depends on earlier readings: rates, and what a counter rose by in a day
// or an hour of the site's time zone.
//
// What a counter rose by between the last reading of a day and the first of
// the next counts for the next, so that the days together are all; also if the
// gateway was off meanwhile, unless it missed a whole day: then the day in
// which it came back begins with its first reading. A wrap is counted through; a
// reset begins anew with the number it shows, as nobody knows what it stood at.
// While the clock was never set, nobody knows which day it is, and there is no
// value.

const rateFunction = "rate"

// historyFunctions are the functions that take the name of a point.
var historyFunctions = []string{rateFunction, "daily", "hourly", "last_day", "last_hour"}

// A HistoryKey is a call of such a function.
type HistoryKey struct{ Function, Point string }

// String is the call as it is written in an expression.
func (k HistoryKey) String() string { return k.Function + "(" + k.Point + ")" }

func (k HistoryKey) hour() bool { return k.Function == "hourly" || k.Function == "last_hour" }
func (k HistoryKey) last() bool { return k.Function == "last_day" || k.Function == "last_hour" }

// A Past is what must be kept of a counter over a restart for what it rose by
// in a day or an hour. The zero Past knows nothing.
type Past struct {
	Begin time.Time `json:"begin"` // of the present day or hour, in UTC
	Sum   float64   `json:"sum"`   // risen in it before Base
	Base  float64   `json:"base"`
	Last  float64   `json:"last"`           // of the readings so far
	Prev  *float64  `json:"prev,omitempty"` // risen in the day or hour before; nil: not known
}

// begins returns the beginning of the day or hour that t lies in.
func begins(t time.Time, hour bool) time.Time {
	if hour {
		return t.Add(-time.Duration(t.Minute())*time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
	}
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, t.Location())
}

// follows reports whether a day or hour that begins at t comes after that of p.
func (p *Past) follows(t time.Time, hour bool) bool {
	if hour {
		return p.Begin.Add(time.Hour).Equal(t)
	}
	begin := p.Begin.In(t.Location())
	return time.Date(begin.Year(), begin.Month(), begin.Day()+1, 0, 0, 0, 0, t.Location()).Equal(t)
}

// count takes a reading of x at t and returns what is to be remembered. over is
// how far it rose if it wrapped.
func (p Past) count(x float64, t time.Time, hour bool, event CounterEvent, over float64) Past {
	begin := begins(t, hour)
	switch {
	case p.Begin.IsZero():
		return Past{Begin: begin.UTC(), Base: x, Last: x}
	case begin.After(p.Begin):
		p = p.next(x, begin, hour)
	}
	switch event {
	case Wrapped:
		p.Sum += p.Last - p.Base + over
		p.Base = x
	case Reset:
		p.Sum += p.Last - p.Base
		p.Base = x
	}
	p.Last = x
	return p
}

// next begins a day or hour with x.
func (p Past) next(x float64, begin time.Time, hour bool) Past {
	if !p.follows(begin, hour) {
		return Past{Begin: begin.UTC(), Base: x, Last: x}
	}
	risen := p.Sum + p.Last - p.Base
	return Past{Begin: begin.UTC(), Base: p.Last, Last: p.Last, Prev: &risen}
}

// risen is by how much the counter rose in the present day or hour.
func (p *Past) risen() float64 { return p.Sum + p.Last - p.Base }

var (
	errNotYet = &Invalid{Reason: "not known yet"}
	errClock  = &Invalid{Reason: "the clock is not set"}
)

// A history is a HistoryKey of one device with what it remembers.
type history struct {
	HistoryKey
	of   *pointState
	past Past

	last  float64 // of rate
	at    devices.Stamp
	value float64
	err   error // there is no value
}

// update takes the reading that h's point has just got.
func (h *history) update(c broker.Clock, zone *time.Location) {
	now := &h.of.current
	if _, ok := now.Value.Float64(); !now.Good() || !ok {
		return // and the program that uses it knows why
	}
	x := now.Value.shown()
	if h.Function == rateFunction {
		h.updateRate(x, now.At)
		return
	}
	if c.Quality == broker.Unsynced {
		h.err = errClock
		return
	}
	event, over := now.Counter, h.of.over
	if event == Continues && x < h.past.Last {
		if h.past.Last-x > h.of.grainOf(h.past.Last) {
			event = Reset // while the gateway was off
		} else {
			x = h.past.Last
		}
	}
	if event == Reset && h.of.Resets { // to 0, from where it has risen to x
		event, over = Wrapped, x
	}
	h.past = h.past.count(x, c.Wall(int64(now.At)).In(zone), h.hour(), event, over)
	h.err = nil
	switch {
	case !h.HistoryKey.last():
		h.value = h.past.risen()
	case h.past.Prev == nil:
		h.err = errNotYet
	default:
		h.value = *h.past.Prev
	}
}

// updateRate computes by how much x changes in a second.
func (h *history) updateRate(x float64, at devices.Stamp) {
	seconds := at.Sub(h.at).Seconds()
	change := x - h.last
	switch {
	case h.at != 0 && seconds <= 0:
		return
	case h.of.current.Counter == Wrapped:
		change = h.of.over
	}
	h.err = nil
	if h.at == 0 || h.of.current.Counter == Reset {
		h.err = errNotYet
	} else {
		h.value = change / seconds
	}
	h.last, h.at = x, at
}
