package modbus

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// A placed is a point with its register, and what must be read to read that.
type placed struct {
	point  *devices.Point
	reg    Register
	whole  Register
	model  Model  // of a SunSpec device; its ID is 0 for a point at an address of its own
	factor uint16 // where its exponent is; 0: it has none in a model
}

// A lacking is a point that is in no register of its device, and why.
type lacking struct {
	point *devices.Point
	err   error
}

// Plan returns one query for each request that points need: the set of
// requests that takes the bus for the shortest time, by the baud rate, the
// silences between frames and the time that the unit was seen to need for an
// answer. No point is ever split, and no request reads what the device is known
// to refuse together with anything else.
func (l *Line) Plan(dev *devices.Device, points []*devices.Point) ([]devices.Query, error) {
	l.baton.take()
	defer l.baton.give()
	u, err := l.unitOf(dev)
	if err != nil {
		return nil, err
	}
	queues, points := l.queueQueries(u, points)
	if len(points) == 0 {
		return queues, nil
	}
	sc := &scope{dev: dev, unit: u, known: l.knownOf(dev.ID)}
	sc.declare(l)
	pending, points := sc.pending(points)
	places, lacks, err := sc.place(points)
	if err != nil {
		return nil, err
	}
	reads := l.readQueries(sc, l.spans(sc, atomsOf(places)))
	if len(pending) > 0 { // it finds the models first
		reads = append(reads, &readQuery{scope: sc, line: l, version: unplanned, points: pending, modeled: true})
	}
	return append(toQueries(l.withLacking(sc, reads, lacks)), queues...), nil
}

func toQueries(reads []*readQuery) (queries []devices.Query) {
	for _, q := range reads {
		queries = append(queries, q)
	}
	return queries
}

// withLacking lets one of reads tell of points that are in no register. Without
// any there is one that asks whether the device is there.
func (l *Line) withLacking(sc *scope, reads []*readQuery, lacks []lacking) []*readQuery {
	if len(lacks) == 0 {
		return reads
	}
	if len(reads) == 0 {
		reads = []*readQuery{{scope: sc, line: l, version: sc.known.version}}
	}
	reads[0].lacks, reads[0].modeled = lacks, true
	for _, one := range lacks {
		reads[0].points = append(reads[0].points, one.point)
	}
	sc.known.tellLacking(lacks)
	return reads
}

// declare notes the registers of all points of the device, as far as it is
// known where they are.
func (sc *scope) declare(l *Line) {
	sc.declared = sc.declared[:0:0]
	for _, p := range sc.dev.Points {
		if one, err := sc.placeOf(p); err == nil {
			sc.declared = append(sc.declared, one.reg)
		}
	}
	slices.SortFunc(sc.declared, Register.compare)
	l.wire.declare(sc.unit, sc.declared)
}

// unitOf returns how dev is reached, if this line can.
func (l *Line) unitOf(dev *devices.Device) (Unit, error) {
	u, ok := dev.Unit.(Unit)
	switch {
	case !ok:
		return u, fmt.Errorf("device %s: it has no unit id, which every Modbus device needs", dev.ID)
	case l.broadcast(u.ID):
		return u, fmt.Errorf("device %s: unit id 0 is a broadcast to all on the line, which nobody answers: it can be written and not read", dev.ID)
	case l.carrier.rtu && u.ID > 247:
		return u, fmt.Errorf("device %s: unit id %d: on a serial line devices have 1 to 247", dev.ID, u.ID)
	}
	return u, nil
}

// place finds the registers of points and sorts by what must be read. Points
// of models that the device does not have are lacks.
func (sc *scope) place(points []*devices.Point) (places []placed, lacks []lacking, err error) {
	places = make([]placed, 0, len(points))
	for _, p := range points {
		one, err := sc.placeOf(p)
		_, modeled := p.Source.(ModelRegister)
		switch {
		case err != nil && modeled:
			lacks = append(lacks, lacking{p, err})
		case err != nil:
			return nil, nil, err
		default:
			places = append(places, one)
		}
	}
	sortPlaces(places)
	return places, lacks, nil
}

// placeOf finds the registers of a point.
func (sc *scope) placeOf(p *devices.Point) (one placed, err error) {
	one.point = p
	if m, ok := p.Source.(ModelRegister); ok {
		err = one.inModel(sc.unit, m, sc.known.facts.Models)
	} else if one.reg, err = registerOf(sc.dev, p); err != nil {
		return one, err // which says of whom
	} else {
		one.whole, err = sc.unit.whole(one.reg)
	}
	if err != nil {
		err = fmt.Errorf("device %s, point %s: %w", sc.dev.ID, p.Name, err)
	}
	return one, err
}

// inModel finds m. All of its model from id and length on is read with it, which
// prove that the model is still there; only of what is too far behind them for
// one request they are asked for apart.
func (p *placed) inModel(u Unit, m ModelRegister, models []Model) error {
	if err := m.Check(u); err != nil {
		return err
	}
	at, err := m.Place(models)
	if err != nil {
		return err
	}
	p.model, p.reg, p.whole = at.Model, at.At, at.At
	if at.Factor != nil {
		p.factor, p.whole = at.Factor.Address, p.whole.with(*at.Factor)
	}
	if whole, err := u.whole(p.whole.with(at.Model.head())); err == nil {
		p.whole = whole
		return nil
	}
	p.whole, err = u.whole(p.whole)
	return err
}

// pending returns the points in models, if it is not known where these are, and
// the others.
func (sc *scope) pending(points []*devices.Point) (pending, others []*devices.Point) {
	if sc.known.facts.Models != nil {
		return nil, points
	}
	for _, p := range points {
		if _, ok := p.Source.(ModelRegister); ok {
			pending = append(pending, p)
		} else {
			others = append(others, p)
		}
	}
	return pending, others
}

func sortPlaces(places []placed) {
	slices.SortStableFunc(places, func(a, b placed) int {
		return cmp.Or(a.whole.compare(b.whole), a.reg.compare(b.reg))
	})
}

func registerOf(dev *devices.Device, p *devices.Point) (Register, error) {
	reg, ok := RegisterOf(p.Source)
	if !ok {
		return reg, fmt.Errorf("device %s, point %s: %v is no Modbus register", dev.ID, p.Name, p.Source)
	}
	if err := reg.check(); err != nil {
		return reg, fmt.Errorf("device %s, point %s: %w", dev.ID, p.Name, err)
	}
	return reg, nil
}

// atomsOf makes one atom of all points at the same registers, or in the same
// block. places are sorted.
func atomsOf(places []placed) []atom {
	var atoms []atom
	for _, p := range places {
		if n := len(atoms); n > 0 && atoms[n-1].reg == p.whole {
			atoms[n-1].points = append(atoms[n-1].points, p)
			continue
		}
		atoms = append(atoms, atom{reg: p.whole, points: []placed{p}})
	}
	return atoms
}

// WireTime is how long request and reply, of so many bytes with all framing,
// occupy a line set as cfg says, with the silences between them and without
// the device's thinking. Without a baud rate it is 0.
func WireTime(cfg serial.Config, request, reply int) time.Duration {
	return time.Duration(request+reply)*cfg.CharTime() + 2*cfg.Silence35()
}

// wireTime is the WireTime of r on the slowest part of its way.
func (l *Line) wireTime(r *request) time.Duration {
	if l.cost.Baud == 0 {
		return 0
	}
	return WireTime(l.cost, l.size(len(r.pdu)), l.size(r.replyLen()))
}
