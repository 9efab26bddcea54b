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
}

func (o *composer) reset(c broker.Clock) {
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
	o.buf = broker.AppendSlot(o.buf, kind, int64(at), o.clock)
	o.slots = append(o.slots, broker.Slot{Kind: kind, At: from - o.start, Len: len(o.buf) - from})
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
	if d.topics[i] != "" {
		dst = append(dst, m.objectMessage(d, i, at))
	}
	for _, p := range d.points {
		if p.cycle == m.cycle && p.due && p.topics[i] != "" {
			dst = append(dst, m.pointMessage(p, i))
		}
	}
	t := &m.publish[i]
	for k := start; k < len(dst); k++ {
		dst[k].QoS, dst[k].Retain, dst[k].Class = t.QoS, t.Retain, t.Class
	}
	return dst
}

func (m *Mapper) pointMessage(p *pointState, i int) broker.Message {
	if m.publish[i].Format == "value" {
		m.out.buf = p.current.Value.AppendText(m.out.buf)
	} else {
		m.writePoint(p)
	}
	return m.out.message(p.topics[i], p.current.At)
}

// writePoint writes {"value":230.1,"unit":"V","time":"…","quality":"good"}, and
// "counter":"reset" where a counter did not simply go on.
func (m *Mapper) writePoint(p *pointState) {
	o := &m.out
	o.text(`{"value":`)
	o.value(p.current.Value)
	if p.current.Value.kind == KindName {
		o.text(`,"raw":`)
		o.buf = p.current.Value.num.append(o.buf)
	}
	o.text(p.unit)
	o.text(",")
	o.stamp(p.current.At)
	if p.current.Cause == "" {
		o.text(`,"quality":"good"`)
		if event := p.current.Counter; event != Continues {
			o.text(`,"counter":`)
			o.str(event.String())
		}
		o.text("}")
		return
	}
	o.text(`,"quality":"bad","error":`)
	o.str(p.current.Cause)
	o.text("}")
}

// objectMessage writes {"time":"…","power":230.1,"pf":null,"errors":{"pf":
// "timeout"}}: the points of this cycle that are due, and all bad ones. "counters"
// tells of those that did not simply go on.
func (m *Mapper) objectMessage(d *deviceState, i int, at devices.Stamp) broker.Message {
	o := &m.out
	o.text("{")
	o.stamp(at)
	bad, events := 0, 0
	for _, p := range d.points {
		if p.cycle != m.cycle || p.Hidden || !p.due && p.current.Cause == "" {
			continue
		}
		o.text(",")
		o.text(p.key)
		o.value(p.current.Value)
		if p.current.Cause != "" {
			bad++
		}
		if p.current.Counter != Continues {
			events++
		}
	}
	if bad > 0 {
		m.writeWords(d, `,"errors":{`, func(c *Current) string { return c.Cause })
	}
	if events > 0 {
		m.writeWords(d, `,"counters":{`, func(c *Current) string { return c.Counter.String() })
	}
	o.text("}")
	return o.message(d.topics[i], at)
}

// writeWords writes an object of the points of this cycle that have a word to
// say.
func (m *Mapper) writeWords(d *deviceState, before string, word func(*Current) string) {
	o := &m.out
	for _, p := range d.points {
		if w := word(&p.current); p.cycle == m.cycle && !p.Hidden && w != "" {
			o.text(before)
			o.text(p.key)
			o.str(w)
			before = ","
		}
	}
	o.text("}")
}
