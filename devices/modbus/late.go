package modbus

import (
	"cmp"
	"slices"
	"time"
)

// horizon is how long after a request its answer is held possible, at least;
// four times the timeout if that is more.
const horizon = time.Minute

// maxOpen is how many requests to one unit may be open. With so many, only a
// probe goes out.
const maxOpen = 32

// lateReplies are the requests to one unit that were sent and not answered,
// oldest first, and what has been learned of its speed.
//
// An RTU answer does not say what it answers: after a timeout the next answer
// of the same length would be taken for it. Two facts help. A unit answers in
// the order in which it was asked, so that an answer that only a later
// request can have settles all earlier ones. And most late answers are not
// very late. So a request that an open one could be confused with waits first
// until twice the timeout has passed since that one was sent, or until its
// late answer comes; then a probe is sent, a small read with another function
// code, whose answer of any kind, an exception too, settles all before it, or,
// for a unit that keeps silent on those, a read of another length. Only then
// is the request sent. Requests to other units go on: their answers carry
// another id. An open request is forgotten after the horizon.
//
// A line that takes another's place knows what that left open (Unanswered). Where
// another program may have asked just before, nothing is sent to a unit until its
// timeout has passed, and what comes meanwhile is thrown away.
//
// What remains: a unit that answers later than the horizon, or to another program
// later than its timeout, and one that answers out of order.
type lateReplies struct {
	open      []openRequest
	quiet     time.Time     // when a late answer is no longer likely
	raised    time.Duration // timeout learned from late answers; 0: none
	latency   latency
	declared  []Register // what points of the unit need
	nextProbe int        // of tables, and then another length
}

// An openRequest may still be answered.
type openRequest struct {
	r     *request
	sent  time.Time
	until time.Time // forgotten after
	wait  time.Duration
	times int // sent in a row: as many answers may come
}

// wait returns how long to wait for an answer where timeout is configured.
func (l *lateReplies) wait(timeout time.Duration) time.Duration {
	return max(timeout, min(l.raised, 4*timeout))
}

// add notes that r was sent and not answered within timeout. If the unit said
// something, there is no use in waiting for more.
func (l *lateReplies) add(r *request, sent time.Time, timeout time.Duration, spoke bool) {
	l.put(openRequest{r: r, sent: sent, until: sent.Add(max(horizon, 4*timeout)), wait: timeout})
	l.quiet = sent.Add(2 * timeout)
	if spoke {
		l.quiet = time.Time{}
	}
}

func (l *lateReplies) put(o openRequest) {
	if n := len(l.open); n > 0 && l.open[n-1].r.same(o.r) {
		o.times = l.open[n-1].times
		l.open = l.open[:n-1]
	}
	o.times++
	l.open = append(l.open, o)
}

// expire forgets what lies beyond the horizon.
func (l *lateReplies) expire(now time.Time) {
	for len(l.open) > 0 && now.After(l.open[0].until) {
		l.open = l.open[1:]
	}
}

// confuses reports whether a late answer to an open request could be taken
// for one to r. The same question does no harm: its answer is r's too.
func (l *lateReplies) confuses(r *request) bool {
	return len(l.open) >= maxOpen || slices.ContainsFunc(l.open, func(o openRequest) bool {
		return !o.r.same(r) && o.r.alike(r)
	})
}

// settle takes note of pdu, a proven frame of this unit. mine says that it
// answers x, late that it came after its time. Of two requests that it may
// answer the older one is settled, which is right whichever it was; only when
// x is the same question as all of them is it taken for its answer, and then
// another answer may follow.
func (l *lateReplies) settle(x *exchanging, pdu PDU, now time.Time) (mine, late bool) {
	oldest := -1
	mine = x != nil && x.r.fits(pdu)
	for i, o := range l.open {
		if !o.r.fits(pdu) {
			continue
		}
		if oldest < 0 {
			oldest = i
		}
		mine = mine && o.r.same(x.r)
	}
	if oldest < 0 {
		if mine {
			l.open = l.open[:0]
		}
		return mine, false
	}
	o := l.open[oldest]
	l.open = l.open[oldest:]
	if l.open[0].times--; l.open[0].times == 0 {
		l.open = l.open[1:]
	}
	if mine {
		l.put(openRequest{r: x.r, sent: x.sent, until: x.sent.Add(o.until.Sub(o.sent)), wait: o.wait})
		return true, false
	}
	l.raise(now.Sub(o.sent), o.wait)
	return false, true
}

// raise learns that an answer took d where wait was not enough. It at most
// doubles the timeout each time, because a frame found in the port's buffer
// may have come long before.
func (l *lateReplies) raise(d, wait time.Duration) {
	l.raised = max(l.raised, min(d*3/2, 2*wait))
}

// probeTables are asked in turn until one is answered: a device knows their
// functions or answers with an exception, but some keep silent on what they do
// not know.
var probeTables = [...]Table{Input, Holding, Coil, Discrete}

// probe returns a request whose answer settles the open ones before r is sent,
// and that u's quirks allow; nil if there is none, so that only time settles
// them.
func (l *lateReplies) probe(u Unit, r *request) *request {
	tables := l.tables(u, r)
	if i := l.nextProbe % (len(tables) + 1); i < len(tables) {
		return tables[i]
	}
	if p := l.otherLength(u, r); p != nil || len(tables) == 0 {
		return p
	}
	return tables[0]
}

// tables are the probes with a function code that neither r nor any open request
// has: reads of what points of the device declare, which it certainly bears, and
// then of an entry at the beginning of the tables that have none.
func (l *lateReplies) tables(u Unit, r *request) (probes []*request) {
	for _, declared := range []bool{true, false} {
		for _, t := range probeTables {
			i := slices.IndexFunc(l.declared, func(reg Register) bool { return reg.Table == t })
			if declared != (i >= 0) {
				continue
			}
			reg := Register{Table: t}
			if declared {
				reg = l.declared[i]
			}
			whole, err := u.whole(reg)
			if p := readRequest(r.unit, whole); err == nil && p.pdu.function() != r.pdu.function() && !l.asked(p) {
				probes = append(probes, p)
			}
		}
	}
	return probes
}

// asked reports whether an open request other than p has p's function code.
func (l *lateReplies) asked(p *request) bool {
	return slices.ContainsFunc(l.open, func(o openRequest) bool {
		return o.r.pdu.function() == p.pdu.function() && !o.r.same(p)
	})
}

// otherLength returns a read where r reads or writes, or else what a point
// declares, whose answer is as long as that of no open request, nor r's.
func (l *lateReplies) otherLength(u Unit, r *request) *request {
	t := cmp.Or(r.reg.Table, Holding)
	for n := 1; n <= u.limit(t); n++ {
		reg := Register{Table: t, Address: min(r.reg.Address, uint16(1<<16-n)), Count: uint16(n)}
		if p := l.tells(u, r, reg); p != nil {
			return p
		}
	}
	for _, reg := range l.declared {
		if p := l.tells(u, r, reg); p != nil {
			return p
		}
	}
	return nil
}

// tells returns the request that reads reg, if u bears that and its answer is
// like that of no open request, nor r's.
func (l *lateReplies) tells(u Unit, r *request, reg Register) *request {
	whole, err := u.whole(reg)
	p := readRequest(r.unit, whole)
	if err != nil || p.alike(r) || slices.ContainsFunc(l.open, func(o openRequest) bool { return o.r.alike(p) && !o.r.same(p) }) {
		return nil
	}
	return p
}

// A latency is a running mean of how long a unit thinks before it answers.
type latency time.Duration

func (l *latency) add(d time.Duration) {
	d = max(d, 0)
	if *l == 0 {
		*l = latency(d)
		return
	}
	*l += (latency(d) - *l) / 8
}
