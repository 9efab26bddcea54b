package broker

import (
	"slices"
	"strconv"
	"time"
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
		return appendClock(dst, stamp, c)
	case SlotUnixNano:
		return strconv.AppendInt(dst, wall, 10)
	case SlotUnixMilli:
		return strconv.AppendInt(dst, wall/1e6, 10)
	case SlotUnixSec:
		return appendSeconds(dst, wall)
	case SlotClockField:
		return appendClockFields(dst, wall, c)
	case SlotBaseTime:
		if wall < 1<<28*1e9 {
			return dst
		}
		return appendSeconds(append(dst, `,"bt":`...), wall)
	}
	return dst
}

// appendClock appends the members that say how far a time can be trusted.
func appendClock(dst []byte, stamp int64, c Clock) []byte {
	if c.Quality == Exact {
		return dst
	}
	dst = append(append(append(dst, `,"clock":"`...), c.Quality.String()...), '"')
	if c.Quality == Unsynced {
		return dst
	}
	dst = strconv.AppendInt(append(dst, `,"clock_error":`...), c.millis(), 10)
	if c.Quality == Bounded {
		from, to := c.bounds(stamp)
		dst = from.AppendFormat(append(dst, `,"clock_from":"`...), timeFormat)
		dst = to.AppendFormat(append(dst, `","clock_to":"`...), timeFormat)
		dst = append(dst, '"')
	}
	return dst
}

// appendClockFields is appendClock for InfluxDB lines.
func appendClockFields(dst []byte, wall int64, c Clock) []byte {
	if c.Quality == Exact {
		return dst
	}
	dst = append(append(append(dst, `,clock="`...), c.Quality.String()...), '"')
	if c.Quality == Unsynced {
		return dst
	}
	field := func(name string, n int64) {
		dst = append(strconv.AppendInt(append(append(append(dst, ','), name...), '='), n, 10), 'i')
	}
	field("clock_error", c.millis())
	if c.Quality == Bounded {
		field("clock_from", wall-int64(c.Early))
		field("clock_to", wall+int64(c.Late))
	}
	return dst
}

// millis returns the error in milliseconds, rounded up.
func (c Clock) millis() int64 {
	return int64((c.Error() + time.Millisecond - 1) / time.Millisecond)
}

// bounds returns between what the true time of a stamp lies, rounded outwards
// to milliseconds.
func (c Clock) bounds(stamp int64) (from, to time.Time) {
	wall := c.Wall(stamp)
	return wall.Add(-c.Early).Truncate(time.Millisecond), wall.Add(c.Late + time.Millisecond - 1).Truncate(time.Millisecond)
}

// A ClockNote says in a JSON object how far its time can be trusted, in the
// words of SlotClock; it is to be embedded.
type ClockNote struct {
	Clock string `json:"clock,omitempty"`
	Error *int64 `json:"clock_error,omitempty"`
	From  string `json:"clock_from,omitempty"`
	To    string `json:"clock_to,omitempty"`
}

// Note returns the note for the time of a stamp; an exact one has none.
func (c Clock) Note(stamp int64) (n ClockNote) {
	if c.Quality == Exact {
		return n
	}
	n.Clock = c.Quality.String()
	if c.Quality != Unsynced {
		n.Error = new(c.millis())
	}
	if c.Quality == Bounded {
		from, to := c.bounds(stamp)
		n.From, n.To = from.Format(timeFormat), to.Format(timeFormat)
	}
	return n
}

func appendSeconds(dst []byte, wall int64) []byte {
	return strconv.AppendFloat(dst, float64(wall/1e6)/1e3, 'f', 3, 64)
}

// Identify writes id, and whether m comes from a backlog, into the places that
// m has for that, in a payload of its own.
func (m *Message) Identify(id string, replayed bool) {
	if !m.has(SlotID) {
		return
	}
	m.rewrite(func(dst []byte, s Slot) []byte {
		if s.Kind != SlotID {
			return append(dst, m.Payload[s.At:s.At+s.Len]...)
		}
		dst = append(append(append(dst, `,"id":"`...), id...), '"')
		if replayed {
			dst = append(dst, `,"replayed":true`...)
		}
		return dst
	})
}

// Rebase rewrites the slots of m for c, in payload and slots of its own: what
// others share stays as it is. A message whose slots do not fit its payload
// is left alone.
func (m *Message) Rebase(c Clock) {
	m.rewrite(func(dst []byte, s Slot) []byte { return AppendSlot(dst, s.Kind, m.Stamp, c) })
}

// rewrite gives m a payload in which fill wrote the slots.
func (m *Message) rewrite(fill func(dst []byte, s Slot) []byte) {
	if len(m.Slots) == 0 || !validSlots(m.Slots, len(m.Payload)) {
		return
	}
	payload := make([]byte, 0, len(m.Payload)+64)
	slots := slices.Clone(m.Slots)
	from := 0
	for i, s := range m.Slots {
		payload = append(payload, m.Payload[from:s.At]...)
		slots[i].At = len(payload)
		payload = fill(payload, s)
		slots[i].Len = len(payload) - slots[i].At
		from = s.At + s.Len
	}
	m.Payload, m.Slots = append(payload, m.Payload[from:]...), slots
}

// Timed reports whether the payload of m holds a time.
func (m *Message) Timed() bool {
	return slices.ContainsFunc(m.Slots, func(s Slot) bool {
		switch s.Kind {
		case SlotTime, SlotUnixNano, SlotUnixMilli, SlotUnixSec, SlotBaseTime:
			return true
		}
		return false
	})
}

// has reports whether m has a slot of a kind.
func (m *Message) has(kind SlotKind) bool {
	return slices.ContainsFunc(m.Slots, func(s Slot) bool { return s.Kind == kind })
}

// validSlots says whether slots are of known kinds, in order, and within a
// payload of n bytes.
func validSlots(slots []Slot, n int) bool {
	end := 0
	for _, s := range slots {
		if s.Kind < SlotTime || s.Kind >= endOfSlotKinds || s.At < end || s.Len < 0 || s.At > n || s.Len > n-s.At {
			return false
		}
		end = s.At + s.Len
	}
	return true
}
