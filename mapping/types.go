package mapping

import (
	"fmt"
	"strconv"
	"strings"
)

// A class says what a type is made of.
type class uint8

const (
	other     class = iota
	unsigned        // whole numbers
	signed          // in two's complement
	magnitude       // with a bit for the sign
	digits          // decimal digits
	floating
	moment // a time
	address
)

// typeInfo is what the configuration calls a type and how much it reads.
type typeInfo struct {
	name      string
	registers int  // 0: by length
	sized     bool // written with a size: string(16)
	class     class
	bits      int // width of an integer or float, 0 for others
	shift     int // how many bits lie below it
}

var types = [...]typeInfo{
	Bool:   {name: "bool", registers: 1},
	U16:    {name: "u16", registers: 1, class: unsigned, bits: 16},
	I16:    {name: "i16", registers: 1, class: signed, bits: 16},
	U32:    {name: "u32", registers: 2, class: unsigned, bits: 32},
	I32:    {name: "i32", registers: 2, class: signed, bits: 32},
	U64:    {name: "u64", registers: 4, class: unsigned, bits: 64},
	I64:    {name: "i64", registers: 4, class: signed, bits: 64},
	F16:    {name: "f16", registers: 1, class: floating, bits: 16},
	F32:    {name: "f32", registers: 2, class: floating, bits: 32},
	F64:    {name: "f64", registers: 4, class: floating, bits: 64},
	BCD16:  {name: "bcd16", registers: 1, class: digits, bits: 16},
	BCD32:  {name: "bcd32", registers: 2, class: digits, bits: 32},
	String: {name: "string", sized: true},
	Bytes:  {name: "bytes", sized: true},
	Text:   {name: "text"},
	Mod10:  {name: "mod10", sized: true, class: digits},
	U8H:    {name: "u8h", registers: 1, class: unsigned, bits: 8, shift: 8},
	U8L:    {name: "u8l", registers: 1, class: unsigned, bits: 8},
	I8H:    {name: "i8h", registers: 1, class: signed, bits: 8, shift: 8},
	I8L:    {name: "i8l", registers: 1, class: signed, bits: 8},
	U24:    {name: "u24", registers: 2, class: unsigned, bits: 24},
	I24:    {name: "i24", registers: 2, class: signed, bits: 24},
	U48:    {name: "u48", registers: 3, class: unsigned, bits: 48},
	I48:    {name: "i48", registers: 3, class: signed, bits: 48},
	SM16:   {name: "sm16", registers: 1, class: magnitude, bits: 16},
	SM32:   {name: "sm32", registers: 2, class: magnitude, bits: 32},

	Unix32:        {name: "unix32", registers: 2, class: moment, bits: 32},
	Unix64:        {name: "unix64", registers: 4, class: moment, bits: 64},
	Unix64ms:      {name: "unix64ms", registers: 4, class: moment, bits: 64},
	YMDHMS:        {name: "ymdhms", registers: 6, class: moment},
	SchneiderTime: {name: "schneider_time", registers: 4, class: moment, bits: 64},
	IPv4:          {name: "ipv4", registers: 2, class: address},
	IPv6:          {name: "ipv6", registers: 8, class: address},
	MAC:           {name: "mac", registers: 3, class: address},
	EUI48:         {name: "eui48", registers: 4, class: address},
}

// typeNames is the order in which an error lists the choices.
const typeNames = "bool u16 i16 u32 i32 u64 i64 f16 f32 f64 bcd16 bcd32 string(n) bytes(n) mod10(n) text " +
	"u8h u8l i8h i8l u24 i24 u48 i48 sm16 sm32 unix32 unix64 unix64ms ymdhms schneider_time ipv4 ipv6 mac eui48"

// maxBytes is what one read can bring: 125 registers (Modbus application
// protocol V1.1b3, section 6.3).
const maxBytes = 250

func (t Type) info() typeInfo {
	if int(t) < len(types) {
		return types[t]
	}
	return typeInfo{}
}

// String returns the type's name in the configuration, without a size.
func (t Type) String() string {
	if name := t.info().name; name != "" {
		return name
	}
	return "type " + strconv.Itoa(int(t))
}

// Registers returns how many registers a value takes; length counts the bytes
// of String, Bytes and Mod10. It is 0 for Text, which lies in none.
func (t Type) Registers(length int) int {
	if t.info().sized {
		return (length + 1) / 2
	}
	return t.info().registers
}

// Integer reports whether the raw value is a whole number, so that Enum, Bits
// and bit patterns make sense.
func (t Type) Integer() bool {
	c := t.info().class
	return c >= unsigned && c <= digits
}

// Float reports whether the raw value is a float.
func (t Type) Float() bool { return t.info().class == floating }

// Time reports whether the value is a time.
func (t Type) Time() bool { return t.info().class == moment }

// Unix reports whether the value is a time that travels as a whole number.
func (t Type) Unix() bool { return t >= Unix32 && t <= Unix64ms }

// Address reports whether the value is an address of a network.
func (t Type) Address() bool { return t.info().class == address }

// Part reports whether the value takes only a part of its registers, so that
// it cannot be in a frame or in a text.
func (t Type) Part() bool { return t >= U8H && t <= I24 }

// ParseType reads a type as the configuration writes it: u16, string(16). The
// size is of bytes for string and bytes and of registers for mod10; length is
// in bytes for all, 0 for types without a size.
func ParseType(s string) (t Type, length int, err error) {
	name, size, sized := strings.Cut(strings.ToLower(strings.TrimSpace(s)), "(")
	for i, info := range types {
		if info.name == "" || info.name != strings.TrimSpace(name) {
			continue
		}
		if sized != info.sized {
			return 0, 0, sizeError(info)
		}
		if info.sized {
			length, err = parseSize(Type(i), size)
		}
		return Type(i), length, err
	}
	return 0, 0, fmt.Errorf("unknown type %q: one of %s", s, typeNames)
}

func sizeError(info typeInfo) error {
	if info.sized {
		return fmt.Errorf("type %s needs a size: %s(4)", info.name, info.name)
	}
	return fmt.Errorf("type %s has no size", info.name)
}

func parseSize(t Type, size string) (int, error) {
	digits, ok := strings.CutSuffix(size, ")")
	n, err := strconv.Atoi(strings.TrimSpace(digits))
	if !ok || err != nil {
		return 0, fmt.Errorf("type %s(%s: want a number and a closing parenthesis: %s(4)", t, size, t)
	}
	low, high, what := 1, maxBytes, "bytes"
	if t == Mod10 {
		low, high, what = 2, 4, "registers"
	}
	if n < low || n > high {
		return 0, fmt.Errorf("type %s(%d): the size is from %d to %d %s", t, n, low, high, what)
	}
	if t == Mod10 {
		n *= 2
	}
	return n, nil
}

var orders = map[string]Order{
	"ABCD": ABCD, "CDAB": CDAB, "BADC": BADC, "DCBA": DCBA,
	"ABCDEFGH": ABCD, "GHEFCDAB": CDAB, "BADCFEHG": BADC, "HGFEDCBA": DCBA,
}

// ParseOrder reads an order; the 64-bit forms are the same four orders.
func ParseOrder(s string) (Order, error) {
	if o, ok := orders[strings.ToUpper(strings.TrimSpace(s))]; ok {
		return o, nil
	}
	return 0, fmt.Errorf("unknown order %q: one of ABCD (big endian), CDAB (low register first), "+
		"BADC (bytes swapped), DCBA (little endian), or the same with eight letters", s)
}

func (o Order) String() string {
	if int(o) < 4 {
		return [...]string{"ABCD", "CDAB", "BADC", "DCBA"}[o]
	}
	return "order " + strconv.Itoa(int(o))
}

// swapsBytes and swapsRegisters are the two things an order can do; DCBA does
// both.
func (o Order) swapsBytes() bool     { return o == BADC || o == DCBA }
func (o Order) swapsRegisters() bool { return o == CDAB || o == DCBA }

// RawLen returns how many bytes of a reading p needs, and 0 when any number
// will do: a field of a line, a list.
func (p *Point) RawLen() int {
	n := p.valueLen()
	if p.Factored {
		n += 2
	}
	return n
}

// valueLen is RawLen without the exponent.
func (p *Point) valueLen() int {
	switch {
	case p.FromText || p.Type == Text || p.List:
		return 0
	case p.Type == Bool && p.Length < 2:
		return 1
	case p.Type == String && (p.Layout != Packed || p.Encoding == UTF16):
		return 2 * p.Length
	}
	return 2 * p.Type.Registers(p.Length)
}
