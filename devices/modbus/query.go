package modbus

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"edgegateway/devices"
)

const (
	// illegalRetry is how long a point that its device called illegal is not
	// asked again: the device may have been given other firmware or settings.
	illegalRetry = 5 * time.Minute
	// maxExtra is how many requests more than its spans one Do may take to
	// find out what a device refuses. What is left is found the next time.
	maxExtra = 16
)

// A readQuery reads points that one request can read. If the device refuses
// that (some registers in it may not exist, or it takes no request that
// long), it is halved until what can be read is. What was learned from that is
// noted for the device, and the query is planned anew with it: one illegal
// register never hides its neighbours, and is asked only now and then.
type readQuery struct {
	*scope
	line    *Line
	version int      // of known that spans were planned with
	reg     Register // of its first request that is likely answered
	atoms   []atom   // sorted by table and address
	points  []*devices.Point
	spans   []span // to ask for
	next    []span // as the Do under way leaves them
	raw     []byte // of the last answer

	readable bool      // not all spans are illegal points
	modeled  bool      // there are points in models
	lacks    []lacking // points of it that cannot be read
	joined   []byte    // of a point that has its exponent behind it
}

// unplanned is the version of a query that does not know yet where its points
// are.
const unplanned = -1

// readQueries makes one query of each span. Illegal points go with a
// neighbour, so that there is something to ask for while they rest.
func (l *Line) readQueries(sc *scope, spans []span) []*readQuery {
	var queries []*readQuery
	var q *readQuery
	for _, s := range spans {
		if q == nil || !sc.known.illegal(&s) && q.readable {
			q = &readQuery{scope: sc, line: l, version: sc.known.version, reg: s.reg}
			queries = append(queries, q)
		}
		q.add(s)
	}
	return queries
}

// add adds s, which lies behind the others.
func (q *readQuery) add(s span) {
	if !q.readable && !q.known.illegal(&s) {
		q.reg, q.readable = s.reg, true
	}
	q.spans = append(q.spans, s)
	q.atoms = append(q.atoms, s.atoms...)
	for p := range s.points() {
		q.points = append(q.points, p.point)
		q.modeled = q.modeled || p.model.ID != 0
	}
}

// Carry lets the query read those of points that lie in what it reads anyway,
// and returns them. Illegal ones are left where they are.
func (q *readQuery) Carry(points []*devices.Point) (taken []*devices.Point) {
	q.line.baton.take()
	defer q.line.baton.give()
	if !q.readable {
		return nil
	}
	places := q.places()
	for _, p := range points {
		if one, err := q.placeOf(p); err == nil && q.carries(one.whole) && !slices.Contains(q.points, p) {
			places = append(places, one)
			taken = append(taken, p)
			q.modeled = q.modeled || one.model.ID != 0
		}
	}
	if len(taken) > 0 {
		sortPlaces(places)
		q.atoms = atomsOf(places)
		q.points = append(q.points, taken...)
		q.spans = q.line.spans(q.scope, q.atoms)
	}
	return taken
}

// carries reports whether q's request reads whole, and may.
func (q *readQuery) carries(whole Register) bool {
	if _, illegal := meeting(q.known.facts.Illegal, whole); illegal {
		return false
	}
	return rangeOf(whole).within(q.reg) && (!q.unit.quirks().Single || whole == q.reg)
}

// places are its points.
func (q *readQuery) places() (places []placed) {
	for _, a := range q.atoms {
		places = append(places, a.points...)
	}
	return places
}

// Points are those it reads, those that it carries last.
func (q *readQuery) Points() []*devices.Point { return q.points }

func (q *readQuery) String() string {
	if len(q.atoms) == 0 {
		return fmt.Sprintf("%v: SunSpec models", q.unit)
	}
	return fmt.Sprintf("%v: %v", q.unit, q.reg)
}

// Cost is how long the query occupies its line, with the unit's thinking as
// far as known. Only the line's owner calls it.
func (q *readQuery) Cost() time.Duration {
	q.line.baton.take()
	defer q.line.baton.give()
	var d time.Duration
	for _, s := range q.spans {
		d += q.line.wireTime(readRequest(q.unit.ID, s.reg)) + q.line.wire.thinking(q.unit.ID)
	}
	return d
}

// Do reads all spans. After an error that is no answer of the unit the rest
// is not asked and carries the same error.
func (q *readQuery) Do(ctx context.Context, b *devices.Batch) error {
	q.line.baton.take()
	defer q.line.baton.give()
	if q.modeled {
		return q.doModels(ctx, b)
	}
	return q.do(ctx, b)
}

func (q *readQuery) do(ctx context.Context, b *devices.Batch) error {
	if q.version != q.known.version {
		q.version = q.known.version
		q.spans = q.line.spans(q.scope, q.atoms)
	}
	r := &reading{readQuery: q, ctx: ctx, batch: b, extra: maxExtra}
	r.skip = slices.ContainsFunc(q.spans, func(s span) bool { return q.known.resting(&s) == nil })
	q.next = q.next[:0]
	for _, s := range q.spans {
		r.read(s)
	}
	q.spans, q.next = q.next, q.spans
	r.failLacking()
	return r.lost
}

// A reading is one Do of a readQuery.
type reading struct {
	*readQuery
	ctx   context.Context
	batch *devices.Batch
	skip  bool  // illegal points may rest: others show that the device is there
	extra int   // requests left for finding out
	lost  error // why nothing more is asked

	proven []Model // models that were seen in their places after a refusal
}

// read appends the readings of s, in parts if it is refused, and what to ask
// for the next time. It reports whether s was read as a whole.
func (r *reading) read(s span) bool {
	a, err := r.ask(&s)
	if refused(err) && r.known.resting(&s) == nil && !r.inPlace(&s) {
		err = r.lost
	}
	if err == nil && r.take(&s, a) {
		r.known.answered(&s)
		r.next = append(r.next, s)
		return true
	}
	switch {
	case err == nil:
		err = r.lost // its models have moved
	case r.lost != nil:
	case refused(err) && len(s.atoms) > 1 && r.extra > 0:
		r.halve(s)
		return false
	case refused(err) && len(s.atoms) == 1 && r.known.resting(&s) == nil:
		r.known.refused(&s, err)
	}
	at := cmp.Or(a.at, devices.Now())
	for p := range s.points() {
		r.batch.Fail(p.point, err, at)
	}
	r.next = append(r.next, s)
	return false
}

// ask asks for s, unless it is known what would come of it.
func (r *reading) ask(s *span) (answer, error) {
	if r.lost != nil {
		return answer{}, r.lost
	}
	if err := r.known.resting(s); err != nil && r.skip {
		return answer{}, err
	}
	return r.request(s.reg)
}

func (r *reading) request(reg Register) (answer, error) {
	a, err := r.line.ask(r.ctx, r.unit, readRequest(r.unit.ID, reg))
	if err != nil && !fromUnit(err) {
		r.lost = err
	}
	return a, err
}

// halve reads s, which was refused, in two parts. If each can be read as a
// whole, what lies between them must be why.
func (r *reading) halve(s span) {
	r.extra--
	mid := len(s.atoms) / 2
	left, right := spanOf(s.atoms[:mid]), spanOf(s.atoms[mid:])
	first := r.read(left)
	if second := r.read(right); first && second {
		r.blame(s.reg, left.reg.end(), int(right.reg.Address))
	}
}

// blame finds out whether reg was refused for the entries between two
// addresses or, if they are none or legal, as a whole.
func (r *reading) blame(reg Register, from, to int) {
	if from > to || r.extra < 2 {
		return
	}
	r.extra -= 2
	if from < to {
		hole := Register{reg.Table, uint16(from), uint16(to - from)}
		if _, err := r.request(hole); refused(err) {
			r.known.hole(r.unit, hole)
			return
		}
	}
	if r.lost != nil {
		return
	}
	if _, err := r.request(reg); refused(err) {
		r.known.apart(reg, uint16(to))
	}
}

// take appends the readings of s from its proven answer, unless its models are
// not where they were.
func (r *reading) take(s *span, a answer) bool {
	q := r.readQuery
	q.raw = readRequest(q.unit.ID, s.reg).appendRaw(q.raw[:0], a.pdu)
	if !r.headed(s, q.raw) {
		return false
	}
	for p := range s.points() {
		raw := rawOf(p.point, p.reg.cutFrom(s.reg, q.raw))
		if p.factor > 0 {
			q.joined = append(append(q.joined[:0], raw...), Register{p.reg.Table, p.factor, 1}.cutFrom(s.reg, q.raw)...)
			raw = q.joined
		}
		r.batch.Add(p.point, raw, a.at)
	}
	return true
}
