package mapping

import (
	"encoding/hex"
	"math"
	"math/big"
	"strconv"
)

// A Kind says what a Value is.
type Kind uint8

const (
	KindNull    Kind = iota // nothing
	KindNumber              // an exact number: an integer of 64 bits or a decimal
	KindFloat32             // a float as the device sent it, unscaled
	KindFloat64
	KindBool
	KindName // a raw number that has a name (Point.Enum)
	KindBits // raw bits of which some have names (Point.Bits)
	KindString
	KindBytes
	KindList // several values (Point.List)
)

// A Value is what a point holds, in the point's unit. It is a small value
// without shared state: copy it freely. The zero Value is null.
type Value struct {
	kind  Kind
	num   number // of KindNumber, KindName and KindBits; float bits in mant; 0 or 1 of KindBool
	text  string // of KindString, KindBytes and KindName; JSON of KindList
	names map[int]string
}

// IntValue returns the value i.
func IntValue(i int64) Value { return numberValue(Decimal{Mant: i}.number()) }

// UintValue returns the value u.
func UintValue(u uint64) Value { return numberValue(number{mant: u}) }

// DecimalValue returns the value d.
func DecimalValue(d Decimal) Value {
	n := d.number()
	if short, ok := normal(n.neg, wide{lo: n.mant}, int(n.exp)); ok {
		n = short
	}
	return numberValue(n)
}

// FloatValue returns the value f, and null if f is no number (NaN, infinite).
func FloatValue(f float64) Value {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return Value{}
	}
	if f == 0 {
		f = 0 // not -0, which readers of JSON disagree on
	}
	return Value{kind: KindFloat64, num: number{mant: math.Float64bits(f)}}
}

// Float32Value is FloatValue for a float that has no more than 32 bits: its
// shortest form is that of 32 bits.
func Float32Value(f float32) Value {
	v := FloatValue(float64(f))
	if v.kind == KindNull {
		return v
	}
	return Value{kind: KindFloat32, num: number{mant: uint64(math.Float32bits(float32(v.float())))}}
}

// BoolValue returns the value b.
func BoolValue(b bool) Value {
	if b {
		return Value{kind: KindBool, num: number{mant: 1}}
	}
	return Value{kind: KindBool}
}

// StringValue returns the value s.
func StringValue(s string) Value { return Value{kind: KindString, text: s} }

// BytesValue returns the value b, which it copies.
func BytesValue(b []byte) Value { return Value{kind: KindBytes, text: string(b)} }

func numberValue(n number) Value { return Value{kind: KindNumber, num: n} }

// Kind says what v is.
func (v Value) Kind() Kind { return v.kind }

// IsNull reports whether v is nothing.
func (v Value) IsNull() bool { return v.kind == KindNull }

// Int64 returns v as an integer; ok is false if it is none or too large.
func (v Value) Int64() (i int64, ok bool) {
	switch v.kind {
	case KindNumber, KindName, KindBits:
		d, err := v.num.decimal()
		return d.Mant, err == nil && d.Exp == 0
	}
	return 0, false
}

// Float64 returns the float nearest to v; ok is false if v is no quantity:
// names and bits are none.
func (v Value) Float64() (f float64, ok bool) {
	switch v.kind {
	case KindNumber:
		return v.num.float(), true
	case KindFloat32, KindFloat64:
		return v.float(), true
	case KindBool:
		return float64(v.num.mant), true
	}
	return 0, false
}

// shown returns the float nearest to the number that payloads show of v, a
// quantity: of a float of 32 bits that is its shortest form, so that 0.1 + 0.2 is
// computed of just these and not of 0.100000001490116 and 0.200000002980232.
func (v Value) shown() float64 {
	if n, ok := v.decimal(); ok && v.kind == KindFloat32 {
		return n.float()
	}
	f, _ := v.Float64()
	return f
}

// Bool returns v as a truth; ok is false if it is none.
func (v Value) Bool() (b, ok bool) { return v.num.mant == 1, v.kind == KindBool }

// float returns the float of KindFloat32 and KindFloat64.
func (v Value) float() float64 {
	if v.kind == KindFloat32 {
		return float64(math.Float32frombits(uint32(v.num.mant)))
	}
	return math.Float64frombits(v.num.mant)
}

func (v Value) floatBits() int {
	if v.kind == KindFloat32 {
		return 32
	}
	return 64
}

// decimal returns a quantity as an exact number, floats by way of their
// shortest form; ok is false if v is none or does not fit.
func (v Value) decimal() (number, bool) {
	switch v.kind {
	case KindNumber, KindName, KindBits, KindBool:
		return v.num, true
	case KindFloat32, KindFloat64:
		var buf [32]byte
		n, err := parseNumber(strconv.AppendFloat(buf[:0], v.float(), 'e', -1, v.floatBits()))
		return n, err == nil
	}
	return number{}, false
}

// rat is decimal for all floats, however large or small.
func (v Value) rat() (*big.Rat, bool) {
	if n, ok := v.decimal(); ok {
		return n.rat(), true
	}
	if v.kind == KindFloat32 || v.kind == KindFloat64 {
		return new(big.Rat).SetString(strconv.FormatFloat(v.float(), 'e', -1, v.floatBits()))
	}
	return nil, false
}

// Equal reports whether v and w are the same. Quantities are compared by what
// they amount to, however they came.
func (v Value) Equal(w Value) bool {
	if v.kind == w.kind {
		return v.num == w.num && v.text == w.text
	}
	if !v.quantity() || !w.quantity() {
		return false
	}
	a, aok := v.decimal()
	b, bok := w.decimal()
	return aok && bok && a == b
}

func (v Value) quantity() bool { return v.kind >= KindNumber && v.kind <= KindFloat64 }

// AppendText appends v as people write it, without quotes: 230.1, true, auto,
// 0a1b. Bits are the JSON object, lists the array, null is nothing.
func (v Value) AppendText(dst []byte) []byte {
	switch v.kind {
	case KindNull:
		return dst
	case KindString, KindName:
		return append(dst, v.text...)
	case KindBytes:
		return v.appendHex(dst)
	}
	return v.AppendJSON(dst)
}

// String is AppendText, with null for null.
func (v Value) String() string {
	if v.IsNull() {
		return "null"
	}
	return string(v.AppendText(nil))
}

// AppendJSON appends v as JSON. Numbers have all their digits, also beyond
// 2^53.
func (v Value) AppendJSON(dst []byte) []byte {
	switch v.kind {
	case KindNumber:
		return v.num.append(dst)
	case KindFloat32, KindFloat64:
		return appendFloat(dst, v.float(), v.floatBits())
	case KindBool:
		return strconv.AppendBool(dst, v.num.mant != 0)
	case KindString, KindName:
		return appendString(dst, v.text)
	case KindBytes:
		dst = append(dst, '"')
		return append(v.appendHex(dst), '"')
	case KindBits:
		return v.appendBits(dst)
	case KindList:
		return append(dst, v.text...)
	}
	return append(dst, "null"...)
}

// appendFloat writes f in its shortest form, as encoding/json does: with an
// exponent only where the zeros would be many.
func appendFloat(dst []byte, f float64, bits int) []byte {
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, bits)
}

func (v Value) appendHex(dst []byte) []byte {
	for i := range len(v.text) {
		b := [1]byte{v.text[i]}
		dst = hex.AppendEncode(dst, b[:])
	}
	return dst
}

// appendBits writes the named bits in the order of their numbers.
func (v Value) appendBits(dst []byte) []byte {
	dst = append(dst, '{')
	first := true
	for bit := range 64 {
		name, ok := v.names[bit]
		if !ok {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(appendString(dst, name), ':')
		dst = strconv.AppendBool(dst, v.num.mant>>bit&1 != 0)
	}
	return append(dst, '}')
}
