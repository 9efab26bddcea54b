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
	point *devices.Point
	reg   Register
	whole Register
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
	places, err := place(dev, u, points)
	if err != nil {
		return nil, err
	}
	sc := &scope{unit: u, known: l.knownOf(dev.ID), declared: declared(dev)}
	l.wire.declare(u, sc.declared)
	return append(l.readQueries(sc, l.spans(sc, atomsOf(places))), queues...), nil
}

// declared returns the registers of all points of dev.
func declared(dev *devices.Device) (regs []Register) {
	for _, p := range dev.Points {
		if reg, err := registerOf(dev, p); err == nil {
			regs = append(regs, reg)
		}
	}
	slices.SortFunc(regs, Register.compare)
	return regs
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

// place finds the registers of points and sorts by what must be read.
func place(dev *devices.Device, u Unit, points []*devices.Point) ([]placed, error) {
	places := make([]placed, 0, len(points))
	for _, p := range points {
		reg, err := registerOf(dev, p)
		if err != nil {
			return nil, err
		}
		whole, err := u.whole(reg)
		if err != nil {
			return nil, fmt.Errorf("device %s, point %s: %w", dev.ID, p.Name, err)
		}
		places = append(places, placed{p, reg, whole})
	}
	sortPlaces(places)
	return places, nil
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
