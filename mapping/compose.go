package mapping

import (
	"edgegateway/broker"
	"edgegateway/devices"
)

// A composer writes payloads one after the other into one buffer and notes
// the slots of each. What it returned stays valid until reset, also when the
// buffer moves.
type composer struct {
	clock broker.Clock
	buf   []byte
	slots []broker.Slot
	start int // of the payload being written
	first int // of its slots

	// The readings of one answer share their time, which is dear to write.
	at   devices.Stamp
	wall [len("2006-01-02T15:04:05.000Z")]byte // at, by clock; valid unless at is 0
}

func (o *composer) reset(c broker.Clock) {
	if o.clock != c {
		o.at = 0
	}
	o.clock = c
	o.buf, o.slots = o.buf[:0], o.slots[:0]
	o.start, o.first = 0, 0
}

func (o *composer) text(s string) { o.buf = append(o.buf, s...) }

// str writes s as a JSON string.
func (o *composer) str(s string) { o.buf = appendString(o.buf, s) }

func (o *composer) value(v Value) { o.buf = v.AppendJSON(o.buf) }

// stamp writes `"time":"…"` and, unless the clock is exact, its quality. Both
// become slots.
func (o *composer) stamp(at devices.Stamp) {
	o.text(`"time":"`)
	o.slot(broker.SlotTime, at)
	o.text(`"`)
	o.slot(broker.SlotClock, at)
}

func (o *composer) slot(kind broker.SlotKind, at devices.Stamp) {
	from := len(o.buf)
	switch {
	case kind != broker.SlotTime:
		o.buf = broker.AppendSlot(o.buf, kind, int64(at), o.clock)
	case at != 0 && at == o.at:
		o.buf = append(o.buf, o.wall[:]...)
	default:
		o.buf = broker.AppendSlot(o.buf, kind, int64(at), o.clock)
		if o.at = 0; copy(o.wall[:], o.buf[from:]) == len(o.buf)-from {
			o.at = at
		}
	}
	o.slots = append(o.slots, broker.Slot{Kind: kind, At: from - o.start, Len: len(o.buf) - from})
}

// drop gives up the payload being written.
func (o *composer) drop() {
	o.buf, o.slots = o.buf[:o.start], o.slots[:o.first]
}

// message ends the payload and returns its message.
func (o *composer) message(topic string, at devices.Stamp) broker.Message {
	n, k := len(o.buf), len(o.slots)
	msg := broker.Message{
		Topic:   topic,
		Payload: o.buf[o.start:n:n],
		Slots:   o.slots[o.first:k:k],
		Stamp:   int64(at),
		QoS:     1,
	}
	o.start, o.first = n, k
	return msg
}

// statusMessage says how a device does. Without any reading so far there is
// no time to tell.
func (m *Mapper) statusMessage(d *deviceState) broker.Message {
	o := &m.out
	o.text(`{"status":`)
	o.str(d.state.String())
	for _, part := range [...]struct{ key, text string }{{"by", d.remark.By}, {"note", d.remark.Note}, {"until", d.remark.Until}} {
		if part.text != "" {
			o.text(`,"` + part.key + `":`)
			o.str(part.text)
		}
	}
	if d.latest != 0 {
		o.text(",")
		o.stamp(d.latest)
	}
	o.text("}")
	msg := o.message(d.status, d.latest)
	msg.Retain = true
	return msg
}

// appendTable appends what publish table i makes of the points that are due.
func (m *Mapper) appendTable(dst []broker.Message, d *deviceState, i int, at devices.Stamp) []broker.Message {
	start := len(dst)
	t := m.publish[i]
	if r := &d.routes[i]; r.topic != "" && m.writeObject(t, d, i, at) {
		dst = append(dst, m.out.message(r.topic, at))
	}
	for _, p := range d.points {
		if r := &p.routes[i]; r.topic != "" && p.publishes(m.cycle) && m.writePoint(t, d, p, i) {
			dst = append(dst, m.out.message(r.topic, p.out.At))
		}
	}
	for k := start; k < len(dst); k++ {
		dst[k].QoS, dst[k].Retain, dst[k].Class = t.QoS, t.Retain, t.Class
	}
	return dst
}

// publishes reports whether p is due in a cycle.
func (p *pointState) publishes(cycle uint64) bool { return p.due && p.cycle == cycle }

// tells reports whether p belongs into the object of a cycle: it is due, or
// was read and is bad. What the object says of it is then in p.out.
func (p *pointState) tells(cycle uint64) bool {
	switch {
	case p.cycle != cycle:
		return false
	case p.due:
		return true
	case p.current.Cause != "" && !p.Hidden:
		p.out = output{Current: &p.current}
		return true
	}
	return false
}

// writePoint writes what t makes of a point that is due. It returns false, and
// has written nothing, if there is nothing to say.
func (m *Mapper) writePoint(t *table, d *deviceState, p *pointState, i int) bool {
	switch t.kind {
	case formatValue:
		m.out.buf = p.out.Value.AppendText(m.out.buf)
	case formatTemplate:
		return m.writeTemplate(t, d, p, p.out.At)
	case formatInflux:
		m.out.text(p.routes[i].head)
		m.writeField(t, p, " ")
		m.endLine(p.out.At)
	case formatSenML:
		m.out.text(p.routes[i].head)
		m.baseTime(p.out.At)
		m.writeRecord(p, ",")
		m.out.text("}]")
	default:
		m.writeJSON(t, p)
	}
	return true
}

// writeObject writes what t makes of a cycle of a device, as writePoint.
func (m *Mapper) writeObject(t *table, d *deviceState, i int, at devices.Stamp) bool {
	switch t.kind {
	case formatTemplate:
		return m.writeTemplate(t, d, nil, at)
	case formatInflux:
		m.writeLine(t, d, i, at)
	case formatSenML:
		m.writePack(d, i, at)
	default:
		m.writeJSONObject(t, d, at)
	}
	return true
}

// writeJSON writes {"value":230.1,"unit":"V","time":"…","quality":"good"}, and
// "counter":"reset" where a counter did not simply go on.
func (m *Mapper) writeJSON(t *table, p *pointState) {
	o := &m.out
	o.text(`{"value":`)
	o.member(t, p.out.Value)
	if p.out.Value.kind == KindName {
		o.text(`,"raw":`)
		o.buf = p.out.Value.num.append(o.buf)
	}
	o.text(p.unit)
	o.text(",")
	o.moment(t, p.out.At)
	if p.out.Cause == "" {
		o.text(`,"quality":"good"`)
	} else {
		o.text(`,"quality":"bad","error":`)
		o.str(p.out.Cause)
	}
	if event := p.out.Counter; event != Continues {
		o.text(`,"counter":`)
		o.str(event.String())
	}
	o.count(`,"samples":`, p.out.samples)
	o.count(`,"bad":`, p.out.bad)
	o.text("}")
}

// member writes a value as t wants numbers.
func (o *composer) member(t *table, v Value) {
	if t.quoteBig && v.kind == KindNumber && v.num.exp == 0 && v.num.mant > 1<<53 {
		o.text(`"`)
		o.buf = v.num.append(o.buf)
		o.text(`"`)
		return
	}
	o.value(v)
}

// moment writes the time as t wants it, the quality of the clock unless it is
// exact, and a place for the id if t wants one.
func (o *composer) moment(t *table, at devices.Stamp) {
	if t.slot == broker.SlotTime {
		o.stamp(at)
	} else {
		o.text(`"time":`)
		o.slot(t.slot, at)
		o.slot(broker.SlotClock, at)
	}
	if t.ID {
		o.slot(broker.SlotID, at)
	}
}

// count writes a member unless it is 0.
func (o *composer) count(key string, n int) {
	if n > 0 {
		o.text(key)
		o.buf = number{mant: uint64(n)}.append(o.buf)
	}
}

// writeJSONObject writes {"time":"…","power":230.1,"pf":null,"errors":{"pf":
// "timeout"}}: the points of this cycle that are due, and all bad ones. "counters"
// tells of those that did not simply go on, "bad" of windows with gaps.
func (m *Mapper) writeJSONObject(t *table, d *deviceState, at devices.Stamp) {
	o := &m.out
	o.text("{")
	o.moment(t, at)
	bad, short, events := false, false, false
	for _, p := range d.points {
		if !p.tells(m.cycle) {
			continue
		}
		o.text(",")
		o.text(p.key)
		o.member(t, p.out.Value)
		bad = bad || p.out.Cause != ""
		short = short || p.out.bad > 0
		events = events || p.out.Counter != Continues
	}
	if bad {
		m.writeWords(d, `,"errors":{`, func(o *output) string { return o.Cause })
	}
	if events {
		m.writeWords(d, `,"counters":{`, func(o *output) string { return o.Counter.String() })
	}
	if short {
		m.writeBad(d)
	}
	o.text("}")
}

// writeWords writes an object of the points of this cycle that have a word to
// say.
func (m *Mapper) writeWords(d *deviceState, before string, word func(*output) string) {
	o := &m.out
	for _, p := range d.points {
		if !p.tells(m.cycle) {
			continue
		}
		if w := word(&p.out); w != "" {
			o.text(before)
			o.text(p.key)
			o.str(w)
			before = ","
		}
	}
	o.text("}")
}

// writeBad says how many readings of a window had no value.
func (m *Mapper) writeBad(d *deviceState) {
	o := &m.out
	before := `,"bad":{`
	for _, p := range d.points {
		if p.publishes(m.cycle) && p.out.bad > 0 {
			o.text(before)
			o.text(p.key)
			o.count("", p.out.bad)
			before = ","
		}
	}
	o.text("}")
}
