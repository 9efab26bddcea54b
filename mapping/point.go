// Package mapping knows what raw registers mean and what the world calls
// them: it turns batches of readings into messages, and commands into writes.
// It is pure, both ways: no I/O, no clock, no goroutine. What it must know of
// time and state comes in and goes out as values.
//
// # Decisions
//
// Numbers are exact from the register to the payload. Integers keep all 64
// bits, scaled ones become an integer with a power of ten, and floats are
// scaled by way of their shortest decimal form, so that 2301 × 0.1 is 230.1
// and never 230.10000000000002. What does not fit, NaN, and what the point's
// range excludes is a quality and never a number; so is what a counter shows
// against all that it showed before, until it is confirmed (counter.go).
//
// Encode is the inverse of Decode for every type, so that the simulator and
// writes need no table of their own; tests hold the two together.
//
// Which readings are published is decided once for each point, by its Policy,
// and not for each publish table: a value is worth telling, or it is not. A
// device's object holds the points of one cycle that are published, and all
// bad ones. What has to wait for its time is published by AppendDue, which the
// owner of the Mapper calls when NextDue has come: there is no clock here.
//
// A value whose scale is in another register is decoded with what that held in
// the same cycle, else when it was read last. Computed points (compute.go) are
// worked out whenever one of their inputs was read, and are of its time.
//
// Payloads carry slots where they depend on wall time (broker.Slot): what was
// rendered before the clock was set is rendered again by whoever sends it. That
// holds for all formats; a template leaves its slots by functions that it can
// do nothing else with. What is decided of a format stands at its head:
// compose.go (JSON), influx.go, senml.go, template.go. All but templates publish
// without allocating.
//
// A command is checked as a whole before anything is written, against what
// its points declare; a refusal says why, on the topic where it is awaited.
package mapping

import (
	"time"

	"edgegateway/devices"
)

// A Type is how the bytes of a point are to be read.
type Type uint8

const (
	Bool Type = iota + 1 // a coil, a discrete input, or a register that is not 0
	U16                  // one register, unsigned
	I16                  // one register, two's complement
	U32                  // two registers
	I32
	U64 // four registers
	I64
	F16 // IEEE 754 half, single and double precision
	F32
	F64
	BCD16 // four decimal digits in one register; a nibble above 9 is an error
	BCD32
	String // Length bytes of text, two in each register, high byte first, NUL and space trimmed; see Chars
	Bytes  // Length bytes, hexadecimal in JSON
	Text   // the text of a field of a line, as it came
	Mod10  // two to four registers of four decimal digits each, the first least significant (Schneider)
	U8H    // the high byte of a register
	U8L    // the low byte
	I8H
	I8L
	U24 // the low three bytes of two registers
	I24
	U48 // three registers
	I48
	SM16 // sign and magnitude: the highest bit says that the rest is negative
	SM32

	// What follows is text in JSON: times as RFC 3339 has them, in UTC.

	Unix32        // seconds since 1970 in two registers
	Unix64        // in four
	Unix64ms      // milliseconds
	YMDHMS        // year, month, day, hour, minute and second in a register each
	SchneiderTime // the DATETIME of Schneider's meters, four registers (the date of IEC 60870-5-4)
	IPv4          // two registers
	IPv6          // eight
	MAC           // three: an EUI-48
	EUI48         // the same in the last three of four registers (SunSpec)
)

// An Order says in which order the bytes of a value travel; A is the most
// significant byte. It holds for values of more than one register; in
// one-register values, text and Mod10 only BADC and DCBA matter, which swap
// the two bytes of each register.
type Order uint8

const (
	ABCD Order = iota // big endian (the Modbus standard); ABCDEFGH
	CDAB              // low register first; GHEFCDAB
	BADC              // bytes swapped in each register; BADCFEHG
	DCBA              // little endian; HGFEDCBA
)

// A Layout says which bytes of its registers hold a String.
type Layout uint8

const (
	Packed   Layout = iota // both, the high one first
	HighByte               // one character in each register, in its high byte
	LowByte
)

// An Encoding says which characters the bytes of a String are.
type Encoding uint8

const (
	UTF8   Encoding = iota
	ASCII           // bytes from 0x80 on are an error
	Latin1          // ISO 8859-1
	UTF16           // a register is a unit; surrogate pairs take two
)

// A Decimal is an exact number: Mant × 10^Exp.
type Decimal struct {
	Mant int64
	Exp  int8
}

// A PointKind says how a value behaves over time.
type PointKind uint8

const (
	Measurement PointKind = iota
	Counter               // only rises, but for wraps and resets
)

// A Point is what a value is called and how it is read from raw bytes. It is
// immutable.
type Point struct {
	*devices.Point
	Type     Type
	Length   int      // bytes, of String, Bytes and Mod10; of Bool 2 where it lies in a register, else it is one bit
	Layout   Layout   // of String; unless Packed, Length counts registers
	Encoding Encoding // of String; with UTF16 Length counts registers, too
	Mask     uint64   // the bits of an integer that are the value, one run of them; 0: all
	FromText bool     // raw is the text of a field of a line and Type says how to read it: "012.5" as f64 is 12.5
	List     bool     // raw is any number of values, one after the other, and the value is the list of them
	Order    Order    // of registers and bytes
	Scale    Decimal  // value = raw × Scale + Offset; the zero Decimal means 1
	Offset   Decimal
	Unit     string // engineering unit, "" for none
	// ScaleFrom is the point of the same device that holds an exponent: the
	// value is × 10 to the power of it, besides Scale. See DecodeWith.
	ScaleFrom *Point
	// Factored says that raw ends with a register that holds such an exponent
	// (SunSpec's models).
	Factored bool
	// Zone is where the clock of a device runs that tells local time; nil: it
	// tells UTC.
	Zone *time.Location

	// Enum gives raw numbers names, and the value is its name; a number that
	// has none stays a number. EnumText does the same for FromText fields:
	// "A" is "valid".
	Enum     map[int64]string
	EnumText map[string]string
	// Bits gives bits names, 0 the least significant: the value is an object
	// of bools. Bits without a name are left out.
	Bits map[int]string
	// Invalid lists raw values that mean "no value", after Order and before
	// Scale. Integers are compared as bit patterns of the type's width, so
	// that both 0x8000 and -32768 name the i16, and -1 all ones of any width;
	// floats are compared as numbers, and NaN never is a value.
	Invalid []int64
	// ZeroIsNone says that texts and addresses of zero bytes are no value
	// (SunSpec).
	ZeroIsNone bool
	// Range is what the value can be, after scaling; what is outside is no
	// value. nil: anything.
	Range    *Range
	Kind     PointKind
	Counting // of a Counter

	Policy  Policy // which readings are published
	Group   string
	Hidden  bool     // it is not published: only others need it
	Program *Program // computes it from others; nil: it is read
	Write   *Write   // nil: read only
}

// Write says what may be written to a point.
type Write struct {
	Min, Max *Decimal // nil: what the type can hold
	Step     *Decimal // counted from Min, or from 0 without Min; nil: any
	NoVerify bool     // do not read back (a register that cannot be read)
	Each     bool     // a later value does not take the place of one that waits: each is written
	OnLoss   *OnLoss  // nil: nothing happens when nobody writes any more
}

// An OnLoss is what is written when no command for the point came for a while.
type OnLoss struct {
	After time.Duration
	Set   Set
}

// A Device is a device with what its points mean. It is immutable.
type Device struct {
	*devices.Device
	Points   []*Point          // that are read, in the order of the embedded device's points: Points[i].Point == Device.Points[i]
	Computed []*Point          // from those, and from each other: each behind what it uses
	Tags     map[string]string // for topic templates
	Setup    []Set             // what is written at each connection, in order; nobody else reads or writes their points
	Profile  string

	Maker, Model string // "": not known
}
