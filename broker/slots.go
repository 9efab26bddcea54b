package broker

import (
	"slices"
	"strconv"
)

// timeFormat is RFC 3339 in UTC with milliseconds: 24 bytes.
const timeFormat = "2006-01-02T15:04:05.000Z"

// AppendSlot appends what a slot of the given kind holds for a message that
// was stamped at stamp, as c tells the time.
func AppendSlot(dst []byte, kind SlotKind, stamp int64, c Clock) []byte {
	wall := stamp + c.Offset
	switch kind {
	case SlotTime:
		return c.Wall(stamp).AppendFormat(dst, timeFormat)
	case SlotClock:
		if c.Quality == Exact {
			return dst
		}
		dst = append(dst, `,"clock":"`...)
		return append(append(dst, c.Quality.String()...), '"')
	case SlotUnixNano:
		return strconv.AppendInt(dst, wall, 10)
	case SlotUnixMilli:
		return strconv.AppendInt(dst, wall/1e6, 10)
	case SlotUnixSec:
		return strconv.AppendFloat(dst, float64(wall/1e6)/1e3, 'f', 3, 64)
	}
	return dst
}

// Rebase rewrites the slots of m for c, in payload and slots of its own: what
// others share stays as it is. A message whose slots do not fit its payload
// is left alone.
func (m *Message) Rebase(c Clock) {
	if len(m.Slots) == 0 || !validSlots(m.Slots, len(m.Payload)) {
		return
	}
	payload := make([]byte, 0, len(m.Payload)+32)
	slots := slices.Clone(m.Slots)
	from := 0
	for i, s := range m.Slots {
		payload = append(payload, m.Payload[from:s.At]...)
		slots[i].At = len(payload)
		payload = AppendSlot(payload, s.Kind, m.Stamp, c)
		slots[i].Len = len(payload) - slots[i].At
		from = s.At + s.Len
	}
	m.Payload, m.Slots = append(payload, m.Payload[from:]...), slots
}

// validSlots says whether slots are of known kinds, in order, and within a
// payload of n bytes.
func validSlots(slots []Slot, n int) bool {
	end := 0
	for _, s := range slots {
		if s.Kind < SlotTime || s.Kind > SlotUnixSec || s.At < end || s.Len < 0 || s.At > n || s.Len > n-s.At {
			return false
		}
		end = s.At + s.Len
	}
	return true
}
