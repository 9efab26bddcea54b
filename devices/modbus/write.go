package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"edgegateway/devices"
)

// ErrUnanswered is wrapped by the error of a write that was sent and not
// answered: it may have been carried out. Any other error of a write says
// that it was not.
var ErrUnanswered = errors.New("sent, but not answered: it may have been carried out")

// unanswered marks err of a write that was sent.
func unanswered(r *request, err error) error {
	if !r.write {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnanswered, err)
}

// ErrReadBack is wrapped by the error of a write that was carried out and
// could not be read back.
var ErrReadBack = errors.New("written, but not read back")

var errBroadcast = errors.New("a broadcast is answered by nobody, so that nothing can be read back")

// A writeQuery writes one point.
type writeQuery struct {
	line   *Line
	unit   Unit
	point  *devices.Point
	write  *request
	whole  Register // what is read to read it back
	verify bool
}

// Write returns the query that writes raw to p. A coil or register alone is
// written with function 5 or 6, several with 15 or 16.
//
// If the device refuses, the query's batch holds the exception as p's failure
// and Do returns nil. Carried out, the batch holds what was read back, and
// nothing without verify. Otherwise the error says which of three: not
// written, ErrUnanswered, ErrReadBack.
//
// Unit 0 of a serial line is a broadcast: all devices carry it out and none
// answers. That Do returns nil then says only that it was sent.
func (l *Line) Write(dev *devices.Device, p *devices.Point, raw []byte, verify bool) (devices.Query, error) {
	u, ok := dev.Unit.(Unit)
	if ok = ok && l.broadcast(u.ID); !ok {
		var err error
		if u, err = l.unitOf(dev); err != nil {
			return nil, err
		}
	}
	if ok && verify {
		return nil, fmt.Errorf("device %s, point %s: %w", dev.ID, p.Name, errBroadcast)
	}
	reg, err := registerOf(dev, p)
	if err != nil {
		return nil, err
	}
	whole, err := u.whole(reg)
	if verify && err != nil {
		return nil, fmt.Errorf("device %s, point %s: %v cannot be read back: %w", dev.ID, p.Name, reg, err)
	}
	w, err := writeRequest(u.ID, reg, append([]byte(nil), raw...))
	if err != nil {
		return nil, fmt.Errorf("device %s, point %s: %w", dev.ID, p.Name, err)
	}
	return &writeQuery{line: l, unit: u, point: p, write: w, whole: whole, verify: verify}, nil
}

func (q *writeQuery) Points() []*devices.Point { return []*devices.Point{q.point} }
func (q *writeQuery) String() string           { return q.write.String() }

// Cost is as readQuery's.
func (q *writeQuery) Cost() time.Duration {
	q.line.baton.take()
	defer q.line.baton.give()
	if q.line.broadcast(q.unit.ID) {
		return time.Duration(q.line.size(len(q.write.pdu)))*q.line.cost.CharTime() + turnaround
	}
	d := q.line.wireTime(q.write) + q.line.wire.thinking(q.unit.ID)
	if q.verify {
		d += q.line.wireTime(readRequest(q.unit.ID, q.whole)) + q.line.wire.thinking(q.unit.ID)
	}
	return d
}

func (q *writeQuery) Do(ctx context.Context, b *devices.Batch) error {
	q.line.baton.take()
	defer q.line.baton.give()
	a, err := q.line.ask(ctx, q.unit, q.write)
	if e, ok := errors.AsType[*Exception](err); ok && (e.Code == GatewayTargetSilence || e.Code == Acknowledge) {
		err = unanswered(q.write, err)
	}
	if err == nil && q.verify {
		return q.readBack(ctx, b)
	}
	return q.fail(b, err, a)
}

func (q *writeQuery) readBack(ctx context.Context, b *devices.Batch) error {
	r := readRequest(q.unit.ID, q.whole)
	a, err := q.line.ask(ctx, q.unit, r)
	if err != nil {
		return q.fail(b, fmt.Errorf("%w: %w", ErrReadBack, err), a)
	}
	b.Add(q.point, q.write.reg.cutFrom(q.whole, r.appendRaw(nil, a.pdu)), a.at)
	return nil
}

// fail puts err in the batch and returns it if the device did not answer.
func (q *writeQuery) fail(b *devices.Batch, err error, a answer) error {
	if err == nil {
		return nil
	}
	b.Fail(q.point, err, cmp.Or(a.at, devices.Now()))
	if fromUnit(err) && !errors.Is(err, ErrUnanswered) {
		return nil
	}
	return err
}
