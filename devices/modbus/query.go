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
	// find an illegal register. What is left is found the next time.
	maxExtra = 8
)

// A readQuery reads points that one request can read. If the device refuses
// that (some registers in it may not exist, or it takes no request that
// long), it is halved until what can be read is, and stays so: one illegal
// register never hides its neighbours, and is asked only now and then.
type readQuery struct {
	line   *Line
	unit   Unit
	reg    Register
	points []*devices.Point
	spans  []span
	raw    []byte // of the last answer
}

// Points are those it reads, by rising address.
func (q *readQuery) Points() []*devices.Point { return q.points }

func (q *readQuery) String() string { return fmt.Sprintf("%v: %v", q.unit, q.reg) }

// Cost is how long the query occupies its line, with the unit's thinking as
// far as known. Only the line's owner calls it.
func (q *readQuery) Cost() time.Duration {
	var d time.Duration
	for _, s := range q.spans {
		d += q.line.wireTime(readRequest(q.unit.ID, s.reg)) + q.line.wire.thinking(q.unit.ID)
	}
	return d
}

// Do reads all spans. After an error that is no answer of the unit the rest
// is not asked and carries the same error.
func (q *readQuery) Do(ctx context.Context, b *devices.Batch) error {
	var lost error
	extra := maxExtra
	skip := q.anyReadable() // else each is asked, to know that the device is there
	for i := 0; i < len(q.spans); i++ {
		s := &q.spans[i]
		if lost == nil && skip && s.resting() {
			s.fail(b, s.failed, devices.Now())
			continue
		}
		var a answer
		err := lost
		if err == nil {
			a, err = q.line.ask(ctx, q.unit, readRequest(q.unit.ID, s.reg))
		}
		switch {
		case err == nil:
			s.failed = nil
			q.add(b, s, a)
			continue
		case !fromUnit(err):
			lost = err
		case refused(err) && len(s.atoms) > 1 && extra > 0:
			extra--
			q.halve(i)
			i--
			continue
		case refused(err) && len(s.atoms) == 1:
			s.failed, s.again = err, time.Now().Add(illegalRetry)
		}
		s.fail(b, err, a.at)
	}
	return lost
}

func (q *readQuery) anyReadable() bool {
	return slices.ContainsFunc(q.spans, func(s span) bool { return !s.resting() })
}

// resting reports whether s is illegal and not due to be tried again.
func (s *span) resting() bool { return s.failed != nil && time.Now().Before(s.again) }

// halve puts two spans in the place of the i-th.
func (q *readQuery) halve(i int) {
	a := q.spans[i].atoms
	mid := len(a) / 2
	spans := append([]span(nil), q.spans[:i]...)
	spans = append(spans, spanOf(a[:mid]), spanOf(a[mid:]))
	q.spans = append(spans, q.spans[i+1:]...)
}

// add appends the readings of s from its proven answer.
func (q *readQuery) add(b *devices.Batch, s *span, a answer) {
	r := readRequest(q.unit.ID, s.reg)
	q.raw = r.appendRaw(q.raw[:0], a.pdu)
	for p := range s.points() {
		b.Add(p.point, p.reg.cutFrom(s.reg, q.raw), a.at)
	}
}

// fail appends err for each point. at 0 is now.
func (s *span) fail(b *devices.Batch, err error, at devices.Stamp) {
	at = cmp.Or(at, devices.Now())
	for p := range s.points() {
		b.Fail(p.point, err, at)
	}
}
