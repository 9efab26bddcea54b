package modbus

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// guessedThinking is how long a device is thought to take before it has been
// asked: it only decides which holes are worth reading across.
const guessedThinking = 20 * time.Millisecond

// A span is what one request reads: points of one table, sorted by address.
type span struct {
	reg    Register
	points []placed
	failed error     // the exception of a single point; nil: it can be read
	again  time.Time // when a failed one is tried again
}

// A placed is a point with its register.
type placed struct {
	point *devices.Point
	reg   Register
}

// Plan returns one query for each request that points need: neighbours and
// overlapping points share one, within the unit's limits, and so do points
// with a hole between them where the unit allows it and reading across is
// quicker. No point is ever split.
func (l *Line) Plan(dev *devices.Device, points []*devices.Point) ([]devices.Query, error) {
	u, err := l.unitOf(dev)
	if err != nil {
		return nil, err
	}
	places, err := place(dev, u, points)
	if err != nil {
		return nil, err
	}
	var queries []devices.Query
	for _, s := range l.merge(u, places) {
		q := &readQuery{line: l, unit: u, reg: s.reg, spans: []span{s}}
		for _, p := range s.points {
			q.points = append(q.points, p.point)
		}
		queries = append(queries, q)
	}
	return queries, nil
}

// unitOf returns how dev is reached, if this line can.
func (l *Line) unitOf(dev *devices.Device) (Unit, error) {
	u, ok := dev.Unit.(Unit)
	switch {
	case !ok:
		return u, fmt.Errorf("device %s: it has no unit id, which every Modbus device needs", dev.ID)
	case l.carrier.rtu && (u.ID == 0 || u.ID > 247):
		return u, fmt.Errorf("device %s: unit id %d: on a serial line devices have 1 to 247", dev.ID, u.ID)
	}
	return u, nil
}

// place finds the registers of points and sorts by them.
func place(dev *devices.Device, u Unit, points []*devices.Point) ([]placed, error) {
	places := make([]placed, 0, len(points))
	for _, p := range points {
		reg, err := registerOf(dev, p)
		if err != nil {
			return nil, err
		}
		if n := u.limit(reg.Table); reg.count() > n {
			return nil, fmt.Errorf("device %s, point %s: %v is longer than the %d that one request may read, and a point is never split",
				dev.ID, p.Name, reg, n)
		}
		places = append(places, placed{p, reg})
	}
	slices.SortStableFunc(places, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.reg.Table, b.reg.Table), cmp.Compare(a.reg.Address, b.reg.Address), cmp.Compare(b.reg.end(), a.reg.end()))
	})
	return places, nil
}

func registerOf(dev *devices.Device, p *devices.Point) (Register, error) {
	reg, ok := p.Source.(Register)
	if !ok {
		return reg, fmt.Errorf("device %s, point %s: %v is no Modbus register", dev.ID, p.Name, p.Source)
	}
	if err := reg.check(); err != nil {
		return reg, fmt.Errorf("device %s, point %s: %w", dev.ID, p.Name, err)
	}
	return reg, nil
}

// merge joins places, which are sorted, to spans.
func (l *Line) merge(u Unit, places []placed) []span {
	var spans []span
	for _, p := range places {
		if n := len(spans); n > 0 {
			s := &spans[n-1]
			end := max(s.reg.end(), p.reg.end())
			hole := int(p.reg.Address) - s.reg.end()
			if s.reg.Table == p.reg.Table && end-int(s.reg.Address) <= u.limit(p.reg.Table) && (hole <= 0 || u.Gaps && l.cheap(u, p.reg.Table, hole)) {
				s.points = append(s.points, p)
				s.reg.Count = uint16(end - int(s.reg.Address))
				continue
			}
		}
		spans = append(spans, spanOf([]placed{p}))
	}
	return spans
}

// spanOf returns the span that reads places, which are sorted and not empty.
func spanOf(places []placed) span {
	s := span{reg: places[0].reg, points: places}
	end := 0
	for _, p := range places {
		end = max(end, p.reg.end())
	}
	s.reg.Count = uint16(end - int(s.reg.Address))
	return s
}

// cheap reports whether reading hole entries that nobody wants takes less
// time than another request.
func (l *Line) cheap(u Unit, t Table, hole int) bool {
	thinking := cmp.Or(l.wire.thinking(u.ID), guessedThinking)
	r := readRequest(u.ID, Register{Table: t, Count: 1})
	return time.Duration(t.wireSize(hole))*l.cost.CharTime() < l.wireTime(r)+thinking
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
