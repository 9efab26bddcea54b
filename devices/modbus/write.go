package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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

var errBroadcast = errors.New("a broadcast is answered by nobody, so that nothing can be read")

// A writeQuery writes one point.
type writeQuery struct {
	line   *Line
	unit   Unit
	point  *devices.Point
	reg    Register
	write  *request  // of a bit the one that sets it alone
	bit    *bitWrite // nil: the point is whole registers or coils
	whole  Register  // what is read to read it back, or to change a bit of it
	verify bool
}

// A bitWrite is what more a writeQuery of one bit needs.
type bitWrite struct {
	Bit
	on    bool
	known *known
}

// Write returns the query that writes raw to one point, with the function that
// its source names. Else a coil or register alone is written with function 5
// or 6, several with 15 or 16, and a Bit with 22.
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
	reg, err := registerOf(dev, p)
	if err != nil {
		return nil, err
	}
	q := &writeQuery{line: l, unit: u, point: p, reg: reg, verify: verify}
	reads := q.reads(ok)
	if ok && reads {
		return nil, fmt.Errorf("device %s, point %s: %w", dev.ID, p.Name, errBroadcast)
	}
	if q.whole, err = u.whole(reg); reads && err != nil {
		return nil, fmt.Errorf("device %s, point %s: %v cannot be read, which writing it needs: %w", dev.ID, p.Name, reg, err)
	}
	if err = q.prepare(slices.Clone(raw)); err != nil {
		return nil, fmt.Errorf("device %s, point %s: %w", dev.ID, p.Name, err)
	}
	if q.bit != nil && !ok {
		q.bit.known = l.knownOf(dev.ID)
	}
	q.write.all = ok
	return q, nil
}

// function is the one its source names, 0 for none.
func (q *writeQuery) function() byte {
	switch s := q.point.Source.(type) {
	case Written:
		return s.Function
	case Bit:
		return s.Function
	}
	return 0
}

// reads reports whether the device may be asked for what it holds, in a
// broadcast or not.
func (q *writeQuery) reads(broadcast bool) bool {
	_, bit := q.point.Source.(Bit)
	fn := q.function()
	return q.verify || fn == fnReadWrite || bit && fn != fnMaskWrite && !(broadcast && fn == 0)
}

// prepare makes the request.
func (q *writeQuery) prepare(raw []byte) (err error) {
	fn := q.function()
	if err = CheckFunction(q.point.Source, fn); err != nil {
		return err
	}
	switch bit, ok := q.point.Source.(Bit); {
	case ok && len(raw) != 1:
		return fmt.Errorf("%v: %d bytes are not its size, 1", bit, len(raw))
	case ok:
		q.bit = &bitWrite{Bit: bit, on: raw[0] != 0}
		and, or := q.bit.masks()
		q.write, err = maskRequest(q.unit.ID, q.reg, and, or)
	case fn == fnReadWrite:
		q.write, err = readWriteRequest(q.unit.ID, q.whole, q.reg, raw)
	default:
		q.write, err = writeRequest(q.unit.ID, q.reg, raw, fn)
	}
	return err
}

// masks are those of function 22: the register becomes it AND and, OR or.
func (b *bitWrite) masks() (and, or uint16) {
	if b.on {
		or = b.mask()
	}
	return ^b.mask(), or
}

// byMask reports whether the bit is set by function 22.
func (b *bitWrite) byMask() bool {
	return b.Function == fnMaskWrite || b.Function == 0 && (b.known == nil || !b.known.facts.NoMask)
}

func (q *writeQuery) Points() []*devices.Point { return []*devices.Point{q.point} }

func (q *writeQuery) String() string {
	if q.bit != nil {
		return fmt.Sprintf("%v: write %v", q.unit, q.bit.Bit)
	}
	return q.write.String()
}

// Cost is as readQuery's.
func (q *writeQuery) Cost() time.Duration {
	q.line.baton.take()
	defer q.line.baton.give()
	if q.write.all {
		return time.Duration(q.line.size(len(q.write.pdu)))*q.line.cost.CharTime() + turnaround
	}
	one := func(r *request) time.Duration { return q.line.wireTime(r) + q.line.wire.thinking(q.unit.ID) }
	d := one(q.write)
	if q.verify && q.function() != fnReadWrite {
		d += one(readRequest(q.unit.ID, q.whole))
	}
	if q.bit != nil && !q.bit.byMask() {
		d += one(readRequest(q.unit.ID, q.whole))
	}
	return d
}

func (q *writeQuery) Do(ctx context.Context, b *devices.Batch) error {
	q.line.baton.take()
	defer q.line.baton.give()
	a, err := q.send(ctx)
	if e, ok := errors.AsType[*Exception](err); ok && (e.Code == GatewayTargetSilence || e.Code == Acknowledge) {
		err = unanswered(q.write, err)
		if q.write.all {
			err = nil // a gateway that waited for an answer
		}
	}
	switch {
	case err != nil:
		return q.fail(b, err, a)
	case q.function() == fnReadWrite:
		q.take(b, q.write, a)
	case q.verify:
		return q.readBack(ctx, b)
	}
	return nil
}

// send asks the device to carry the write out.
func (q *writeQuery) send(ctx context.Context) (answer, error) {
	if q.bit != nil && !q.bit.byMask() {
		return q.change(ctx)
	}
	a, err := q.line.ask(ctx, q.unit, q.write)
	e, refused := errors.AsType[*Exception](err)
	if q.bit == nil || q.bit.Function != 0 || q.bit.known == nil || !refused || e.Code != IllegalFunction {
		return a, err
	}
	q.bit.known.noMask()
	return q.change(ctx)
}

// change sets the bit of a device that cannot set bits: it reads the register
// and writes it back right away. Nobody else uses the line in between; what
// the device itself, or another of its masters, changes in that time is lost.
func (q *writeQuery) change(ctx context.Context) (answer, error) {
	read := readRequest(q.unit.ID, q.whole)
	a, err := q.line.ask(ctx, q.unit, read)
	if err != nil {
		return a, fmt.Errorf("read it to change one bit: %w", err)
	}
	raw := q.reg.cutFrom(q.whole, read.appendRaw(nil, a.pdu))
	q.bit.Set(raw, q.bit.on)
	write, err := writeRequest(q.unit.ID, q.reg, raw, q.bit.Function)
	if err != nil {
		return a, err
	}
	return q.line.ask(ctx, q.unit, write)
}

func (q *writeQuery) readBack(ctx context.Context, b *devices.Batch) error {
	r := readRequest(q.unit.ID, q.whole)
	a, err := q.line.ask(ctx, q.unit, r)
	if err != nil {
		return q.fail(b, fmt.Errorf("%w: %w", ErrReadBack, err), a)
	}
	q.take(b, r, a)
	return nil
}

// take puts into the batch what the answer to r, which reads the whole, says
// of the point.
func (q *writeQuery) take(b *devices.Batch, r *request, a answer) {
	b.Add(q.point, rawOf(q.point, q.reg.cutFrom(q.whole, r.appendRaw(nil, a.pdu))), a.at)
}

// fail puts err in the batch and returns it if the device did not answer.
func (q *writeQuery) fail(b *devices.Batch, err error, a answer) error {
	b.Fail(q.point, err, cmp.Or(a.at, devices.Now()))
	if fromUnit(err) && !errors.Is(err, ErrUnanswered) {
		return nil
	}
	return err
}

// rawOf returns the raw form of a point from the registers it lies in.
func rawOf(p *devices.Point, registers []byte) []byte {
	if bit, ok := p.Source.(Bit); ok {
		return bit.Raw(registers)
	}
	return registers
}
