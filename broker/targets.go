package broker

import (
	"cmp"
	"encoding/binary"
	"slices"

	"edgegateway/broker/spool"
)

// A sessionTarget is one session that a record is owed to.
type sessionTarget struct {
	no     uint32
	qos    byte
	retain bool // the flag that it gets the message with
	subIDs []uint32
}

// Data of a record in the log of sessions:
//
//	n uvarint | n × (session number u32, flags 1 byte), by number |
//	for each with flag 8: count uvarint, subscription ids uvarint | message
//
// Flags: QoS in the lowest two bits, 4 retain, 8 it has subscription ids.
const (
	targetRetain = 4
	targetSubIDs = 8
	targetSize   = 5
)

func appendTargets(dst []byte, targets []sessionTarget) []byte {
	slices.SortFunc(targets, func(x, y sessionTarget) int { return cmp.Compare(x.no, y.no) })
	dst = binary.AppendUvarint(dst, uint64(len(targets)))
	for _, t := range targets {
		flags := t.qos
		if t.retain {
			flags |= targetRetain
		}
		if len(t.subIDs) > 0 {
			flags |= targetSubIDs
		}
		dst = append(binary.LittleEndian.AppendUint32(dst, t.no), flags)
	}
	for _, t := range targets {
		if len(t.subIDs) == 0 {
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(t.subIDs)))
		for _, id := range t.subIDs {
			dst = binary.AppendUvarint(dst, uint64(id))
		}
	}
	return dst
}

// A targetList is the first part of a record's data.
type targetList struct {
	fixed []byte
	rest  []byte
}

func parseTargets(data []byte) (l targetList, ok bool) {
	c := recordCursor{b: data}
	n := c.count()
	if n > len(c.b)/targetSize {
		return l, false
	}
	l.fixed = c.take(n * targetSize)
	l.rest = c.b
	return l, !c.bad
}

func (l *targetList) len() int { return len(l.fixed) / targetSize }

func (l *targetList) no(i int) uint32 { return binary.LittleEndian.Uint32(l.fixed[i*targetSize:]) }

func (l *targetList) flags(i int) byte { return l.fixed[i*targetSize+4] }

// find returns the place of a session, below 0 if it is not there.
func (l *targetList) find(no uint32) int {
	lo, hi := 0, l.len()
	for lo < hi {
		if mid := (lo + hi) / 2; l.no(mid) < no {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < l.len() && l.no(lo) == no {
		return lo
	}
	return -1
}

// subIDs returns the subscription ids of the i-th and what follows all.
func (l *targetList) subIDs(i int) (ids []uint32, message []byte, ok bool) {
	c := recordCursor{b: l.rest}
	for j := range l.len() {
		if l.flags(j)&targetSubIDs == 0 {
			continue
		}
		for range c.count() {
			if id := uint32(c.uvarint(1 << 28)); j == i {
				ids = append(ids, id)
			}
		}
	}
	return ids, c.b, !c.bad
}

// sessionDelivery returns what a record of the log of sessions brings s; false
// if it is not for it, or is none.
func (b *Broker) sessionDelivery(s *session, rec *spool.Record) (delivery, bool) {
	list, ok := parseTargets(rec.Data)
	if !ok {
		return delivery{}, false
	}
	i := list.find(s.no)
	if i < 0 {
		return delivery{}, false
	}
	ids, data, ok := list.subIDs(i)
	m := new(Message)
	if !ok || decodeMessage(data, m) != nil {
		return delivery{}, false
	}
	m.Stamp = rec.Stamp
	b.retime(m, &rec.Boot)
	flags := list.flags(i)
	return delivery{msg: m, qos: flags & 3, retain: flags&targetRetain != 0, subIDs: ids, seq: rec.Seq}, true
}

// retime gives a message out of the log the times as they are known now. One
// of another boot counts as new for its expiry, for nobody knows how long the
// gateway was off.
func (b *Broker) retime(m *Message, boot *spool.BootRef) {
	if len(m.Slots) > 0 {
		m.Rebase(b.clockAt(*boot, m.Stamp))
	}
	if boot.ID != b.sessionLog.boot {
		m.Stamp, m.Slots = b.now(), nil
	}
}
