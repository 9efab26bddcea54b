package packet

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A Subscribe asks for messages (section 3.8).
type Subscribe struct {
	ID      uint16
	Props   Properties
	Filters []Filter // at least one
}

// A Filter is one topic filter with its options (section 3.8.3.1). Before
// MQTT 5 it has only its QoS.
type Filter struct {
	Filter            string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0: send retained, 1: if new, 2: do not
}

func (p *Subscribe) Type() Type { return SUBSCRIBE }

func (c *cursor) subscribe() *Subscribe {
	p := &Subscribe{ID: c.id(), Props: c.props(1 << SUBSCRIBE)}
	p.Filters = make([]Filter, 0, c.count(1))
	for c.err == nil && len(c.b) > 0 {
		p.Filters = append(p.Filters, c.filter())
	}
	if len(p.Filters) == 0 {
		c.fail(protocolError("no filter"))
	}
	return p
}

// count returns how many strings the body still has, each with extra bytes
// behind it.
func (c *cursor) count(extra int) int {
	n, b := 0, c.b
	for len(b) >= 2 {
		n++
		b = b[min(len(b), 2+int(binary.BigEndian.Uint16(b))+extra):]
	}
	if n > maxFilters {
		c.fail(&Error{QuotaExceeded, fmt.Sprintf("%d filters are more than %d", n, maxFilters)})
		return 0
	}
	return n
}

// maxFilters bounds what one packet can make its reader allocate.
const maxFilters = 1 << 16

func (c *cursor) filter() Filter {
	name, o := c.text(), c.u8()
	f := Filter{name, o & 3, o&4 != 0, o&8 != 0, o >> 4 & 3}
	reserved := byte(0xC0)
	if c.v < V5 {
		reserved = 0xFC
	}
	switch {
	case o&reserved != 0 || f.QoS == 3 && c.v < V5:
		c.fail(malformed("subscription options %08b", o))
	case f.QoS == 3 || f.RetainHandling == 3:
		c.fail(protocolError("subscription options %08b", o))
	case f.NoLocal && strings.HasPrefix(name, "$share/"):
		c.fail(protocolError("no local with a shared subscription"))
	}
	return f
}

func (p *Subscribe) Append(dst []byte, v Version) ([]byte, error) {
	e := encoder{b: dst, v: v}
	mark := e.open(byte(SUBSCRIBE)<<4 | 2)
	e.u16(p.ID)
	e.props(p.Props)
	for i := range p.Filters {
		e.text(p.Filters[i].Filter)
		e.u8(p.Filters[i].options(v))
	}
	e.close(mark, 0)
	return e.finish(dst)
}

func (f *Filter) options(v Version) byte {
	o := f.QoS
	if v < V5 {
		return o
	}
	if f.NoLocal {
		o |= 4
	}
	if f.RetainAsPublished {
		o |= 8
	}
	return o | f.RetainHandling<<4
}

// A SubAck is a SUBACK or UNSUBACK (sections 3.9 and 3.11): one reason for
// each filter; an UNSUBACK has none before MQTT 5.
type SubAck struct {
	Kind    Type
	ID      uint16
	Props   Properties
	Reasons []Reason
}

func (p *SubAck) Type() Type { return p.Kind }

func (c *cursor) subAck(t Type) *SubAck {
	p := &SubAck{Kind: t, ID: c.id(), Props: c.props(1 << t)}
	if t == UNSUBACK && c.v < V5 {
		return p
	}
	p.Reasons = make([]Reason, 0, len(c.b))
	for c.err == nil && len(c.b) > 0 {
		p.Reasons = append(p.Reasons, c.reason(t))
	}
	if len(p.Reasons) == 0 {
		c.fail(protocolError("no reason code"))
	}
	return p
}

func (p *SubAck) Append(dst []byte, v Version) ([]byte, error) {
	e := encoder{b: dst, v: v}
	mark := e.open(byte(p.Kind) << 4)
	e.u16(p.ID)
	e.props(p.Props)
	if p.Kind == SUBACK || v >= V5 {
		for _, r := range p.Reasons {
			e.u8(byte(r))
		}
	}
	e.close(mark, 0)
	return e.finish(dst)
}

// An Unsubscribe takes subscriptions back (section 3.10).
type Unsubscribe struct {
	ID      uint16
	Props   Properties
	Filters []string // at least one
}

func (p *Unsubscribe) Type() Type { return UNSUBSCRIBE }

func (c *cursor) unsubscribe() *Unsubscribe {
	p := &Unsubscribe{ID: c.id(), Props: c.props(1 << UNSUBSCRIBE)}
	p.Filters = make([]string, 0, c.count(0))
	for c.err == nil && len(c.b) > 0 {
		p.Filters = append(p.Filters, c.text())
	}
	if len(p.Filters) == 0 {
		c.fail(protocolError("no filter"))
	}
	return p
}

func (p *Unsubscribe) Append(dst []byte, v Version) ([]byte, error) {
	e := encoder{b: dst, v: v}
	mark := e.open(byte(UNSUBSCRIBE)<<4 | 2)
	e.u16(p.ID)
	e.props(p.Props)
	for _, f := range p.Filters {
		e.text(f)
	}
	e.close(mark, 0)
	return e.finish(dst)
}
