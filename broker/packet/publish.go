package packet

import (
	"strings"
	"unicode/utf8"
)

// A Publish carries a message (section 3.3).
type Publish struct {
	Dup     bool
	QoS     byte
	Retain  bool
	Topic   string
	ID      uint16 // 0 exactly with QoS 0
	Props   Properties
	Payload []byte
}

func (p *Publish) Type() Type { return PUBLISH }

// flagDup is the flag of PUBLISH that says that it is sent again; 3.1 sets it
// in PUBREL, SUBSCRIBE and UNSUBSCRIBE too.
const flagDup = 8

func (c *cursor) publish(flags byte) *Publish {
	p := c.newPublish()
	p.Dup, p.QoS, p.Retain = flags&flagDup != 0, flags>>1&3, flags&1 != 0
	if p.QoS == 3 || p.Dup && p.QoS == 0 && c.v > V31 {
		c.fail(malformed("flags %04b", flags))
		return p
	}
	p.Topic = c.name()
	if wildcards(p.Topic) {
		c.fail(&Error{TopicInvalid, "wildcard in topic"})
	}
	if p.QoS > 0 {
		p.ID = c.id()
	}
	p.Props = c.props(1 << PUBLISH)
	if p.Topic == "" && !p.Props.Has(TopicAlias) {
		c.fail(protocolError("neither topic nor alias"))
	}
	p.Payload = c.take(len(c.b))
	return p
}

func (c *cursor) newPublish() *Publish {
	if c.s != nil {
		return &c.s.pub
	}
	return new(Publish)
}

func wildcards(s string) bool {
	return strings.IndexByte(s, '+') >= 0 || strings.IndexByte(s, '#') >= 0
}

// ValidFormat says whether a payload is what its payload format indicator
// says: with 1 it has to be UTF-8 (section 3.3.2.3.2).
func ValidFormat(props Properties, payload []byte) bool {
	return props.Num(PayloadFormat, 0) == 0 || utf8.Valid(payload)
}

func (p *Publish) Append(dst []byte, v Version) ([]byte, error) {
	b, err := p.AppendHead(dst, v)
	if err != nil {
		return dst, err
	}
	return append(b, p.Payload...), nil
}

// AppendHead appends all of the packet but its payload, which has to follow:
// so a large one can be sent from where it is.
func (p *Publish) AppendHead(dst []byte, v Version) ([]byte, error) {
	e := encoder{b: dst, v: v}
	mark := e.open(p.first())
	e.text(p.Topic)
	if p.QoS > 0 {
		e.u16(p.ID)
	}
	e.props(p.Props)
	e.close(mark, len(p.Payload))
	return e.finish(dst)
}

func (p *Publish) first() byte {
	b := byte(PUBLISH)<<4 | p.QoS<<1
	if p.Dup {
		b |= flagDup
	}
	if p.Retain {
		b |= 1
	}
	return b
}

// An Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7).
type Ack struct {
	Kind   Type
	ID     uint16
	Reason Reason
	Props  Properties
}

func (p *Ack) Type() Type { return p.Kind }

func (c *cursor) ack(t Type) *Ack {
	var p *Ack
	if c.s != nil {
		p = &c.s.ack
	} else {
		p = new(Ack)
	}
	p.Kind, p.ID = t, c.id()
	p.Reason, p.Props = c.reasonAndProps(t)
	return p
}

func (p *Ack) Append(dst []byte, v Version) ([]byte, error) {
	e := encoder{b: dst, v: v}
	mark := e.open(byte(p.Kind)<<4 | fixedFlags(p.Kind))
	e.u16(p.ID)
	e.reasonAndProps(p.Reason, p.Props)
	e.close(mark, 0)
	return e.finish(dst)
}
