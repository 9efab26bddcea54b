package mapping

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"

	"edgegateway/devices"
)

// An Invalid says why bytes that came are no value. It is a quality of the
// reading, not a fault of the line.
type Invalid struct {
	Reason string // the few words of a payload, the same however often it happens
	Detail string // what a person may want to know besides: the number; "" for nothing
}

func (e *Invalid) Error() string {
	if e.Detail == "" {
		return e.Reason
	}
	return e.Reason + ": " + e.Detail
}

// Cause makes devices.Cause say the reason.
func (e *Invalid) Cause() string { return e.Reason }

var (
	errNoValue = &Invalid{Reason: "no value"} // the device says so: a sentinel, or nothing in a field
	errNaN     = &Invalid{Reason: "not a number"}
	errRange   = &Invalid{Reason: "out of range"}
	errBCD     = &Invalid{Reason: "not a decimal digit"}
	errScale   = &Invalid{Reason: "scaled value out of range"}
	errNotBool = &Invalid{Reason: "neither true nor false"}
	errNotHex  = &Invalid{Reason: "not hexadecimal"}
	errASCII   = &Invalid{Reason: "not ASCII"}
	errDate    = &Invalid{Reason: "not a date"}

	errNoFactor = &Invalid{Reason: "no scale factor"}
	errFactor   = &Invalid{Reason: "scale factor out of range"}
)

// Decode reads the value of p from raw, which has the form that
// devices.Reading.Raw has. The error is a quality: an *Invalid. Only texts and
// bytes allocate. A point with ScaleFrom needs DecodeWith.
func Decode(p *Point, raw []byte) (Value, error) {
	if p.ScaleFrom != nil {
		return Value{}, errNoFactor
	}
	if p.List {
		return decodeList(p, raw)
	}
	if p.Factored {
		return p.decodeFactored(raw)
	}
	v, err := p.decode(raw, p.Scale)
	if p.Range == nil { // most have none, and a value is dear to hand through
		return v, err
	}
	return p.within(v, err)
}

// DecodeWith is Decode for a point that may have its exponent from another.
// all are readings from the same moment: without one of that point among them
// there is no value.
func DecodeWith(p *Point, raw []byte, all []devices.Reading) (Value, error) {
	if p.ScaleFrom == nil {
		return Decode(p, raw)
	}
	for i := range all {
		if r := &all[i]; r.Point == p.ScaleFrom.Point && r.Err == nil {
			exponent, err := Decode(p.ScaleFrom, r.Raw)
			if err != nil {
				return Value{}, errNoFactor
			}
			return p.decodeBy(raw, exponent)
		}
	}
	return Value{}, errNoFactor
}

// noFactor is what a register holds in place of an exponent that there is not
// (SunSpec: sunssf).
const noFactor = -1 << 15

func (p *Point) decodeFactored(raw []byte) (Value, error) {
	n := p.RawLen() - 2
	if len(raw) != n+2 {
		return Value{}, &Invalid{Reason: fmt.Sprintf("%d bytes for %s and its exponent, which have %d", len(raw), p.Type, n+2)}
	}
	exponent := int16(binary.BigEndian.Uint16(raw[n:]))
	if exponent == noFactor {
		return Value{}, errNoFactor
	}
	return p.decodeBy(raw[:n], IntValue(int64(exponent)))
}

// decodeBy decodes with the exponent that ScaleFrom holds, or raw itself
// (SunSpec: from -10 to 10).
func (p *Point) decodeBy(raw []byte, exponent Value) (Value, error) {
	e, ok := exponent.Int64()
	if !ok {
		return Value{}, errNoFactor
	}
	scale := p.Scale.orOne()
	if e < -10 || e > 10 || int64(scale.Exp)+e != int64(int8(int64(scale.Exp)+e)) {
		err := *errFactor
		err.Detail = fmt.Sprintf("the scale factor of %s is %d, and exponents are -10 to 10", p.Name, e)
		if p.ScaleFrom != nil {
			err.Detail = fmt.Sprintf("%s holds %d, and exponents are -10 to 10", p.ScaleFrom.Source, e)
		}
		return Value{}, &err
	}
	scale.Exp += int8(e)
	return p.within(p.decode(raw, scale))
}

func (p *Point) decode(raw []byte, scale Decimal) (Value, error) {
	if p.FromText || p.Type == Text {
		return decodeText(p, raw, scale)
	}
	if err := checkLength(p, raw); err != nil {
		return Value{}, err
	}
	switch {
	case p.Type == Bool:
		return p.named(number{mant: truth(raw)}), nil
	case p.Type == Bytes:
		return BytesValue(p.ordered(raw)[:p.Length]), nil
	case p.Type == String:
		return p.decodeString(raw)
	case p.Type.Float():
		return decodeFloat(p, raw, scale)
	case p.Type.Time():
		return p.decodeTime(raw)
	case p.Type.Address():
		return p.decodeAddress(raw)
	}
	n, err := rawInteger(p, raw)
	if err != nil {
		return Value{}, err
	}
	return p.fromRaw(n, scale)
}

func checkLength(p *Point, raw []byte) error {
	want := p.valueLen()
	if len(raw) == want && want > 0 || p.Type == Bool && len(raw) == 2 {
		return nil
	}
	if want == 0 {
		return &Invalid{Reason: "cannot decode " + p.Type.String()}
	}
	return &Invalid{Reason: fmt.Sprintf("%d bytes for %s, which has %d", len(raw), p.Type, want)}
}

func truth(raw []byte) uint64 {
	if slices.ContainsFunc(raw, func(b byte) bool { return b != 0 }) {
		return 1
	}
	return 0
}

// named returns a raw number that needs no scaling: a bool or a name.
func (p *Point) named(n number) Value {
	if len(p.Enum) > 0 {
		if d, err := n.decimal(); err == nil && d.Exp == 0 {
			if name, ok := p.Enum[d.Mant]; ok {
				return Value{kind: KindName, num: n, text: name}
			}
		}
		return numberValue(n)
	}
	return BoolValue(n.mant != 0)
}

// place returns where the i-th most significant of n bytes travels.
func (o Order) place(i, n int) int {
	if o.swapsRegisters() {
		i = n - 2 - i&^1 + i&1
	}
	if o.swapsBytes() {
		i ^= 1
	}
	return i
}

// pattern gathers the bits of up to eight bytes.
func (o Order) pattern(raw []byte) (pattern uint64) {
	for i := range raw {
		pattern = pattern<<8 | uint64(raw[o.place(i, len(raw))])
	}
	return pattern
}

// appendPattern is the inverse of pattern for n bytes.
func (o Order) appendPattern(dst []byte, bits uint64, n int) []byte {
	var raw [8]byte
	for i := n - 1; i >= 0; i-- {
		raw[o.place(i, n)] = byte(bits)
		bits >>= 8
	}
	return append(dst, raw[:n]...)
}

// ordered returns raw with the bytes of each register in their order: all that
// matters to what has no low register.
func (p *Point) ordered(raw []byte) []byte {
	if p.Order.swapsBytes() {
		raw = slices.Clone(raw)
		swapPairs(raw)
	}
	return raw
}

func swapPairs(b []byte) {
	for i := 0; i+1 < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
}

// fromRaw turns a raw whole number into what it means.
func (p *Point) fromRaw(n number, scale Decimal) (Value, error) {
	switch {
	case len(p.Bits) > 0:
		return Value{kind: KindBits, num: number{mant: p.bitsOf(n)}, names: p.Bits}, nil
	case len(p.Enum) > 0:
		return p.named(n), nil
	}
	scaled, ok := n.affine(scale, p.Offset)
	if !ok {
		return Value{}, errScale
	}
	return numberValue(scaled), nil
}

// field returns which bits of the registers, in their order, are a whole
// number: those of mask, after a shift to the right.
func (p *Point) field() (mask uint64, shift int) {
	if p.Mask != 0 {
		shift = bits.TrailingZeros64(p.Mask)
		return p.Mask >> shift, shift
	}
	info := p.Type.info()
	if info.bits == 0 || info.bits >= 64 {
		return math.MaxUint64, 0
	}
	return 1<<info.bits - 1, info.shift
}

// Width returns how many bits an integer has.
func (p *Point) Width() int {
	mask, _ := p.field()
	return min(bits.Len64(mask), 8*p.valueLen())
}

// bitsOf returns the bits of a raw number that p holds.
func (p *Point) bitsOf(n number) uint64 {
	mask, _ := p.field()
	switch {
	case n.neg && p.Type.info().class == magnitude:
		return n.mant | (mask>>1 + 1)
	case n.neg:
		return -n.mant & mask
	}
	return n.mant
}

// rawInteger reads the whole number in raw. Sentinels are looked for in the
// bits, before they are taken for digits.
func rawInteger(p *Point, raw []byte) (number, error) {
	if p.Type == Mod10 {
		return p.mod10(raw)
	}
	mask, shift := p.field()
	pattern := p.Order.pattern(raw) >> shift & mask
	for _, s := range p.Invalid {
		if uint64(s)&mask == pattern {
			return number{}, errNoValue
		}
	}
	switch p.Type.info().class {
	case digits:
		return bcd(pattern)
	case magnitude:
		n := number{mant: pattern &^ (mask>>1 + 1)}
		n.neg = n.mant != pattern && n.mant != 0
		return n, nil
	case signed:
		up := bits.LeadingZeros64(mask)
		return Decimal{Mant: int64(pattern<<up) >> up}.number(), nil
	}
	return number{mant: pattern}, nil
}

func bcd(pattern uint64) (number, error) {
	var n number
	for shift := 28; shift >= 0; shift -= 4 {
		digit := pattern >> shift & 15
		if digit > 9 {
			return number{}, errBCD
		}
		n.mant = n.mant*10 + digit
	}
	return n, nil
}

// mod10 reads registers of four decimal digits each. The first is the least
// significant, whatever Order says of registers.
func (p *Point) mod10(raw []byte) (number, error) {
	var n number
	if len(raw) > 8 {
		return number{}, errRange
	}
	for i := len(raw) - 2; i >= 0; i -= 2 {
		digits := p.Order.pattern(raw[i : i+2])
		if slices.Contains(p.Invalid, int64(digits)) {
			return number{}, errNoValue
		}
		if digits > 9999 {
			return number{}, errBCD
		}
		n.mant = n.mant*10000 + digits
	}
	return n, nil
}

func decodeFloat(p *Point, raw []byte, scale Decimal) (Value, error) {
	v := rawFloat(p.Type, p.Order.pattern(raw))
	if v.IsNull() {
		return Value{}, errNaN
	}
	f := v.float()
	if slices.ContainsFunc(p.Invalid, func(s int64) bool { return float64(s) == f }) {
		return Value{}, errNoValue
	}
	return p.scaleFloat(v, scale)
}

// rawFloat returns the float with these bits, null for NaN and infinity.
func rawFloat(t Type, bits uint64) Value {
	switch t {
	case F16:
		return halfValue(uint16(bits))
	case F32:
		return Float32Value(math.Float32frombits(uint32(bits)))
	}
	return FloatValue(math.Float64frombits(bits))
}

// scaleFloat goes through the shortest decimal form, so that the float 2301
// times 0.1 is 230.1. What has too many digits for that is computed as float.
func (p *Point) scaleFloat(v Value, scale Decimal) (Value, error) {
	if scale.orOne() == (Decimal{Mant: 1}) && p.Offset.Mant == 0 {
		return v, nil
	}
	if n, ok := v.decimal(); ok {
		if scaled, ok := n.affine(scale, p.Offset); ok {
			return numberValue(scaled), nil
		}
	}
	f := FloatValue(v.float()*scale.orOne().number().float() + p.Offset.number().float())
	if f.IsNull() {
		return Value{}, errScale
	}
	return f, nil
}

// halfValue returns an IEEE 754 half with the fewest digits that name it: the
// half nearest to 0.1 is 0.1, not 0.099975586.
func halfValue(h uint16) Value {
	f := halfToFloat(h)
	if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
		return Value{}
	}
	var buf [24]byte
	for digits := range 5 {
		text := strconv.AppendFloat(buf[:0], float64(f), 'e', digits, 32)
		if short, err := strconv.ParseFloat(string(text), 32); err == nil && floatToHalf(short) == h {
			return Float32Value(float32(short))
		}
	}
	return Float32Value(f)
}

// halfToFloat is exact: sign, five bits of exponent, ten of fraction.
func halfToFloat(h uint16) float32 {
	fraction, exp := float64(h&0x3ff), int(h>>10&0x1f)
	var f float64
	switch exp {
	case 0:
		f = math.Ldexp(fraction, -24)
	case 31:
		f = math.Inf(1)
		if fraction != 0 {
			f = math.NaN()
		}
	default:
		f = math.Ldexp(fraction+1024, exp-25)
	}
	if h>>15 != 0 {
		f = -f
	}
	return float32(f)
}

// floatToHalf rounds to the nearest half, ties to even; what is too large
// becomes infinite.
func floatToHalf(f float64) uint16 {
	sign := uint16(0)
	if f < 0 {
		sign, f = 0x8000, -f
	}
	switch {
	case f == 0:
		return sign
	case f >= 65520:
		return sign | 0x7c00
	}
	_, exp := math.Frexp(f)
	exp = max(exp, -13) // below, halves are subnormal and keep this step
	step := exp - 11
	units := uint16(math.RoundToEven(math.Ldexp(f, -step)))
	return sign | uint16(exp+13)<<10 + units // a carry out of units rightly raises the exponent
}

// decodeText reads a field of a line.
func decodeText(p *Point, raw []byte, scale Decimal) (Value, error) {
	text := bytes.TrimSpace(raw)
	if name, ok := p.EnumText[string(text)]; ok {
		return StringValue(name), nil
	}
	switch {
	case p.Type == Text:
		return StringValue(string(raw)), nil
	case p.Type == String:
		return StringValue(string(text)), nil
	case len(text) == 0:
		return Value{}, errNoValue
	case p.Type == Bytes:
		return decodeHex(text)
	case p.Type == Bool:
		return p.boolFromText(text)
	}
	return p.numberFromText(text, scale)
}

func decodeHex(text []byte) (Value, error) {
	b := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(b, text); err != nil {
		return Value{}, errNotHex
	}
	return BytesValue(b), nil
}

func (p *Point) boolFromText(text []byte) (Value, error) {
	b, ok := parseBool(text)
	if !ok {
		return Value{}, errNotBool
	}
	return p.named(BoolValue(b).num), nil
}

func (p *Point) numberFromText(text []byte, scale Decimal) (Value, error) {
	n, err := parseNumber(text)
	if err != nil {
		return Value{}, &Invalid{Reason: err.Error()}
	}
	if slices.ContainsFunc(p.Invalid, func(s int64) bool { return Decimal{Mant: s}.number() == n }) {
		return Value{}, errNoValue
	}
	if p.Type.Integer() {
		if !p.holds(n) {
			return Value{}, errRange
		}
		return p.fromRaw(n, scale)
	}
	if p.Type.Unix() {
		return p.fromUnix(n)
	}
	scaled, ok := n.affine(scale, p.Offset)
	if !ok {
		return Value{}, errScale
	}
	return numberValue(scaled), nil
}

// parseBool knows the words that people and devices use.
func parseBool(text []byte) (b, ok bool) {
	switch string(bytes.ToLower(text)) {
	case "true", "on", "yes", "1":
		return true, true
	case "false", "off", "no", "0":
		return false, true
	}
	return false, false
}
