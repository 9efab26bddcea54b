package packet

import "strings"

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

func (c *cursor) publish(flags byte) *Publish {
	p := &Publish{Dup: flags&8 != 0, QoS: flags >> 1 & 3, Retain: flags&1 != 0}
	if p.QoS == 3 || p.Dup && p.QoS == 0 {
		c.fail(malformed("flags %04b", flags))
		return p
	}
	p.Topic = c.text()
	if strings.ContainsAny(p.Topic, "+#") {
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

func (p *Publish) Append(dst []byte, v Version) ([]byte, error) {
	e := encoder{b: dst, v: v}
	mark := e.open(p.first())
	e.text(p.Topic)
	if p.QoS > 0 {
		e.u16(p.ID)
	}
	e.props(p.Props)
	e.close(mark, len(p.Payload))
	e.b = append(e.b, p.Payload...)
	return e.finish(dst)
}

func (p *Publish) first() byte {
	b := byte(PUBLISH)<<4 | p.QoS<<1
	if p.Dup {
		b |= 8
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
	p := &Ack{Kind: t, ID: c.id()}
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
