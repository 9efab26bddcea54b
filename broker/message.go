package broker

import (
	"math"
	"time"

	"edgegateway/broker/spool"
)

// A Class says which spool log holds a message that someone durable is owed.
type Class uint8

const (
	Telemetry Class = iota
	Critical        // command results, audit, gaps
	NumClasses
)

func (c Class) String() string { return [...]string{"telemetry", "critical"}[c] }

// A Message is one application message. Whoever receives one may use its
// slices only during the call, unless a method says otherwise.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	Class   Class
	Local   bool        // not for bridges, whatever their filters are; not stored
	Props   *Properties // nil: none

	// Stamp is CLOCK_BOOTTIME in nanoseconds at which what it tells happened:
	// for readings when their bytes arrived, for external messages when the
	// broker got them.
	Stamp int64
	// Slots are the places in Payload that depend on wall time, in rising
	// order of At. Only the gateway's own messages have any.
	Slots []Slot

	// From is the user that published it, "anonymous" for a client without
	// one, "" for the gateway itself and "bridge:NAME" for what a bridge
	// received.
	From string

	Client string // id of the client that published it, "" for others; not stored
}

// Properties are the MQTT 5 properties that travel with a message end to end.
// A nil pointer or zero field means that the property is absent.
type Properties struct {
	PayloadUTF8   bool    // Payload Format Indicator 1
	Expiry        *uint32 // Message Expiry Interval, seconds, counted from Stamp
	ContentType   string
	ResponseTopic string
	Correlation   []byte
	User          []UserProperty // order kept
}

// A UserProperty is one name and value pair; names may repeat.
type UserProperty struct{ Key, Value string }

// A SlotKind says what stands at a place in a payload.
type SlotKind uint8

const (
	// SlotTime holds the wall time of Stamp as RFC 3339 in UTC with
	// milliseconds, always 24 bytes: 2026-11-20T23:06:00.123Z.
	SlotTime SlotKind = iota + 1
	// SlotClock is empty while the clock is exact. When it is not, it holds
	// `,"clock":"unsynced"`; `,"clock":"interpolated","clock_error":58` with
	// the error in milliseconds; or `,"clock":"bounded"` with the error and
	// `,"clock_from":"…","clock_to":"…"`, the bounds as SlotTime has times.
	SlotClock
	// SlotUnixNano, SlotUnixMilli and SlotUnixSec hold decimal digits, as
	// InfluxDB lines (ns) and SenML (s with three decimals) want them.
	SlotUnixNano
	SlotUnixMilli
	SlotUnixSec
	// SlotClockField is SlotClock as fields of an InfluxDB line:
	// `,clock="bounded",clock_error=58i,clock_from=…i,clock_to=…i`, the bounds
	// in nanoseconds.
	SlotClockField
	// SlotBaseTime holds `,"bt":1795215960.123`, the base time of SenML, and
	// is empty for times that are below 2^28 s, which would be relative there
	// (RFC 8428, section 4.5.3): those of a clock that was never set.
	SlotBaseTime
	// SlotID is empty but on a bridge, which writes `,"id":"…"` and, for what
	// comes from the backlog, `,"replayed":true`: see Message.Identify.
	SlotID
	endOfSlotKinds
)

// A Slot is a place in a payload that depends on wall time.
type Slot struct {
	Kind SlotKind
	At   int // offset in Payload
	Len  int // present length there
}

// A Clock relates CLOCK_BOOTTIME to wall time at one moment. It is a value:
// mapping and sending take it as an argument and stay free of clocks.
type Clock struct {
	Offset  int64 // wall time in Unix nanoseconds = stamp + Offset
	Quality Quality

	// The true time is at most Early before and Late behind the wall time, but
	// for an exact one, of which both are 0. Of one that is unsynced Late is the
	// largest number: nobody knows.
	Early, Late time.Duration
}

// Quality says how far wall time can be trusted.
type Quality uint8

const (
	Unsynced     Quality = iota // never set since boot: may be off by months
	Bounded                     // between two known times
	Interpolated                // computed from moments before or after at which it was known
	Exact                       // synchronised, and off by a second at the very most
)

func (q Quality) String() string {
	return [...]string{"unsynced", "bounded", "interpolated", "exact"}[q]
}

// Wall returns the wall time of a boot-time stamp, in UTC.
func (c Clock) Wall(stamp int64) time.Time { return time.Unix(0, stamp+c.Offset).UTC() }

// Error returns how far the wall time is off at the very most.
func (c Clock) Error() time.Duration { return max(c.Early, c.Late) }

// A ClockAt returns the best relation to wall time that is known by now for a
// stamp of a boot. It may be called from any goroutine.
type ClockAt func(boot spool.BootRef, stamp int64) Clock

// ClockAs returns a ClockAt that knows only the present boot, and of others
// what their records tell.
func ClockAs(present [16]byte, now func() Clock) ClockAt {
	return func(boot spool.BootRef, _ int64) Clock {
		switch {
		case boot.ID == present && now != nil:
			return now()
		case boot.Synced:
			return Clock{Offset: boot.Offset, Quality: Exact}
		}
		return Clock{Offset: boot.Offset, Quality: Unsynced, Late: math.MaxInt64}
	}
}
