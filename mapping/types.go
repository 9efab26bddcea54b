package mapping

import (
	"fmt"
	"strconv"
	"strings"
)

// typeInfo is what the configuration calls a type and how much it reads.
type typeInfo struct {
	name      string
	registers int  // 0: by length
	sized     bool // written with a size: string(16)
	bits      int  // width of an integer or float, 0 for others
}

var types = [...]typeInfo{
	Bool:   {name: "bool", registers: 1},
	U16:    {name: "u16", registers: 1, bits: 16},
	I16:    {name: "i16", registers: 1, bits: 16},
	U32:    {name: "u32", registers: 2, bits: 32},
	I32:    {name: "i32", registers: 2, bits: 32},
	U64:    {name: "u64", registers: 4, bits: 64},
	I64:    {name: "i64", registers: 4, bits: 64},
	F16:    {name: "f16", registers: 1, bits: 16},
	F32:    {name: "f32", registers: 2, bits: 32},
	F64:    {name: "f64", registers: 4, bits: 64},
	BCD16:  {name: "bcd16", registers: 1, bits: 16},
	BCD32:  {name: "bcd32", registers: 2, bits: 32},
	String: {name: "string", sized: true},
	Bytes:  {name: "bytes", sized: true},
	Text:   {name: "text"},
	Mod10:  {name: "mod10", sized: true},
}

// typeNames is the order in which an error lists the choices.
const typeNames = "bool u16 i16 u32 i32 u64 i64 f16 f32 f64 bcd16 bcd32 string(n) bytes(n) mod10(n) text"

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
	return t >= U16 && t <= I64 || t == BCD16 || t == BCD32 || t == Mod10
}

func (t Type) signed() bool { return t == I16 || t == I32 || t == I64 }
func (t Type) float() bool  { return t == F16 || t == F32 || t == F64 }

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
	switch {
	case p.FromText || p.Type == Text || p.List:
		return 0
	case p.Type == Bool && p.Length < 2:
		return 1
	}
	return 2 * p.Type.Registers(p.Length)
}
