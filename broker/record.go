package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"edgegateway/broker/spool"
)

// recordVersion is the first byte of every encoded message.
//
//	version | flags | class | topic | from | properties? | slots? | payload
//
// Strings have a uvarint length before them; the payload is the rest. The
// stamp is the spool record's own.
//
// Version 2 has slots of kinds that version 1 does not know, and is written for
// messages that have such, so that an older program refuses these and no other.
const (
	recordVersion  = 2
	firstOfVersion = SlotClockField // the kinds of version 2
)

// The flags of an encoded message; its QoS is in the lowest two bits.
const (
	recordRetain = 1 << (iota + 2)
	recordProps
	recordSlots
)

// The bits that say which properties follow.
const (
	propUTF8 = 1 << iota
	propExpiry
	propContentType
	propResponseTopic
	propCorrelation
	propUser
)

var errRecord = errors.New("the bytes are no message")

// appendMessage appends m without its stamp.
func appendMessage(dst []byte, m *Message) []byte {
	flags := m.QoS & 3
	if m.Retain {
		flags |= recordRetain
	}
	if m.Props != nil {
		flags |= recordProps
	}
	if len(m.Slots) > 0 {
		flags |= recordSlots
	}
	version := byte(1)
	if slices.ContainsFunc(m.Slots, func(s Slot) bool { return s.Kind >= firstOfVersion }) {
		version = recordVersion
	}
	dst = append(dst, version, flags, byte(m.Class))
	dst = appendString(dst, m.Topic)
	dst = appendString(dst, m.From)
	if m.Props != nil {
		dst = appendProperties(dst, m.Props)
	}
	if len(m.Slots) > 0 {
		dst = appendSlots(dst, m.Slots)
	}
	return append(dst, m.Payload...)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendProperties(dst []byte, p *Properties) []byte {
	mark := len(dst)
	dst = append(dst, 0)
	if p.PayloadUTF8 {
		dst[mark] |= propUTF8
	}
	if p.Expiry != nil {
		dst[mark] |= propExpiry
		dst = binary.AppendUvarint(dst, uint64(*p.Expiry))
	}
	if p.ContentType != "" {
		dst[mark] |= propContentType
		dst = appendString(dst, p.ContentType)
	}
	if p.ResponseTopic != "" {
		dst[mark] |= propResponseTopic
		dst = appendString(dst, p.ResponseTopic)
	}
	if p.Correlation != nil {
		dst[mark] |= propCorrelation
		dst = append(binary.AppendUvarint(dst, uint64(len(p.Correlation))), p.Correlation...)
	}
	if len(p.User) > 0 {
		dst[mark] |= propUser
		dst = binary.AppendUvarint(dst, uint64(len(p.User)))
		for _, u := range p.User {
			dst = appendString(appendString(dst, u.Key), u.Value)
		}
	}
	return dst
}

func appendSlots(dst []byte, slots []Slot) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(slots)))
	for _, s := range slots {
		dst = append(dst, byte(s.Kind))
		dst = binary.AppendUvarint(dst, uint64(s.At))
		dst = binary.AppendUvarint(dst, uint64(s.Len))
	}
	return dst
}

// DecodeRecord reads into m the message that r holds. m's payload and
// correlation data share r.Data.
func DecodeRecord(r *spool.Record, m *Message) error {
	if err := decodeMessage(r.Data, m); err != nil {
		return fmt.Errorf("decode record %d: %w", r.Seq, err)
	}
	m.Stamp = r.Stamp
	return nil
}

// DecodeOwed is DecodeRecord for the log of sessions, whose records begin with
// the sessions that are owed them.
func DecodeOwed(r *spool.Record, m *Message) error {
	list, ok := parseTargets(r.Data)
	if !ok || len(list.fixed) == 0 {
		return fmt.Errorf("decode record %d: %w", r.Seq, errRecord)
	}
	_, data, ok := list.subIDs(0)
	if !ok {
		return fmt.Errorf("decode record %d: %w", r.Seq, errRecord)
	}
	return DecodeRecord(&spool.Record{Seq: r.Seq, Stamp: r.Stamp, Data: data}, m)
}

func decodeMessage(data []byte, m *Message) error {
	*m = Message{}
	if len(data) < 3 {
		return errRecord
	}
	if data[0] == 0 || data[0] > recordVersion {
		return fmt.Errorf("message version %d is newer than %d, which this program writes: run the newer program", data[0], recordVersion)
	}
	flags := data[1]
	m.QoS, m.Retain, m.Class = flags&3, flags&recordRetain != 0, Class(data[2])
	if flags >= recordSlots<<1 || m.QoS == 3 || m.Class >= NumClasses {
		return errRecord
	}
	c := recordCursor{b: data[3:]}
	m.Topic, m.From = string(c.data()), string(c.data())
	if flags&recordProps != 0 {
		m.Props = c.properties()
	}
	if flags&recordSlots != 0 {
		m.Slots = c.slots()
	}
	m.Payload = c.b
	if c.bad || !validSlots(m.Slots, len(m.Payload)) {
		return errRecord
	}
	return nil
}

// A recordCursor reads an encoded message; after an error all is zero.
type recordCursor struct {
	b   []byte
	bad bool
}

func (c *recordCursor) fail() { c.b, c.bad = nil, true }

func (c *recordCursor) u8() byte {
	if len(c.b) == 0 {
		c.fail()
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *recordCursor) u16() uint16 {
	if p := c.take(2); len(p) == 2 {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (c *recordCursor) u32() uint32 {
	if p := c.take(4); len(p) == 4 {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (c *recordCursor) u64() uint64 {
	if p := c.take(8); len(p) == 8 {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (c *recordCursor) take(n int) []byte {
	if n > len(c.b) {
		c.fail()
		return nil
	}
	p := c.b[:n:n]
	c.b = c.b[n:]
	return p
}

func (c *recordCursor) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > limit {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

// count reads a number of things that take at least one byte each.
func (c *recordCursor) count() int { return int(c.uvarint(uint64(len(c.b)))) }

func (c *recordCursor) data() []byte {
	return c.take(c.count())
}

func (c *recordCursor) properties() *Properties {
	bits := c.u8()
	if bits >= propUser<<1 {
		c.fail()
	}
	p := &Properties{PayloadUTF8: bits&propUTF8 != 0}
	if bits&propExpiry != 0 {
		expiry := uint32(c.uvarint(1<<32 - 1))
		p.Expiry = &expiry
	}
	if bits&propContentType != 0 {
		p.ContentType = string(c.data())
	}
	if bits&propResponseTopic != 0 {
		p.ResponseTopic = string(c.data())
	}
	if bits&propCorrelation != 0 {
		p.Correlation = c.data()
	}
	if bits&propUser != 0 {
		for range c.count() {
			p.User = append(p.User, UserProperty{string(c.data()), string(c.data())})
			if c.bad {
				return nil
			}
		}
	}
	return p
}

func (c *recordCursor) slots() []Slot {
	var slots []Slot
	for range c.count() {
		slots = append(slots, Slot{SlotKind(c.u8()), int(c.uvarint(1 << 31)), int(c.uvarint(1 << 31))})
		if c.bad {
			return nil
		}
	}
	return slots
}
