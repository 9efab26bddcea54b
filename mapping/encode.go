package mapping

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"slices"
	"strings"
)

// Encode appends the raw form of v, in p's unit, to dst: what Decode reads as
// v. Quantities between two raw values go to the nearer one (CheckWrite is
// what refuses them); those out of range are an error that names the limits.
// Bits are given as a whole, by a number or a KindBits value.
func Encode(dst []byte, p *Point, v Value) ([]byte, error) {
	switch {
	case p.ScaleFrom != nil:
		return dst, fmt.Errorf("the scale of %s is in %s and not known here", p.Name, p.ScaleFrom.Source)
	case p.Factored:
		return dst, fmt.Errorf("the scale of %s is in its device and not known here", p.Name)
	case p.List:
		return dst, errListWrite
	case p.FromText || p.Type == Text:
		return encodeText(dst, p, v)
	case p.RawLen() == 0:
		return dst, fmt.Errorf("encode %s: no such type", p.Type)
	case p.Type == Bool:
		return encodeBool(dst, p, v)
	case p.Type == String:
		return p.encodeString(dst, v)
	case p.Type == Bytes:
		return encodeBytes(dst, p, v)
	case p.Type.Time():
		return p.encodeTime(dst, v)
	case p.Type.Address():
		return p.encodeAddress(dst, v)
	case p.Type.Float():
		return encodeFloat(dst, p, v)
	}
	n, err := p.rawNumber(v)
	if err != nil {
		return dst, err
	}
	return p.appendInteger(dst, n), nil
}

func encodeBool(dst []byte, p *Point, v Value) ([]byte, error) {
	n, ok := p.rawOf(v)
	if !ok || n.exp != 0 || n.neg || n.mant > 1 {
		return dst, fmt.Errorf("%s is neither true nor false", v)
	}
	if p.RawLen() == 2 {
		return p.Order.appendPattern(dst, n.mant, 2), nil
	}
	return append(dst, byte(n.mant)), nil
}

// rawOf returns the exact number that v is or, by Enum, stands for.
func (p *Point) rawOf(v Value) (number, bool) {
	if v.kind != KindString {
		return v.decimal()
	}
	for raw, name := range p.Enum {
		if name == v.text {
			return Decimal{Mant: raw}.number(), true
		}
	}
	return number{}, false
}

func encodeBytes(dst []byte, p *Point, v Value) ([]byte, error) {
	if v.kind != KindBytes {
		return dst, fmt.Errorf("%s is no %s", v, p.Type)
	}
	if len(v.text) > p.Length {
		return dst, fmt.Errorf("%d bytes are more than %s(%d) holds", len(v.text), p.Type, p.Length)
	}
	return p.appendOrdered(dst, []byte(v.text)), nil
}

// appendOrdered appends bytes in the order that registers hold them, filled up
// with zeros.
func (p *Point) appendOrdered(dst, text []byte) []byte {
	start := len(dst)
	dst = append(dst, text...)
	dst = append(dst, make([]byte, p.RawLen()-len(text))...)
	if p.Order.swapsBytes() {
		swapPairs(dst[start:])
	}
	return dst
}

// unscale returns (v − Offset) ÷ Scale exactly.
func (p *Point) unscale(v Value) (*big.Rat, error) {
	r, ok := v.rat()
	if !ok {
		return nil, fmt.Errorf("%s is no number", v)
	}
	r.Sub(r, p.Offset.number().rat())
	return r.Quo(r, p.Scale.orOne().number().rat()), nil
}

func encodeFloat(dst []byte, p *Point, v Value) ([]byte, error) {
	r, err := p.unscale(v)
	if err != nil {
		return dst, err
	}
	var pattern uint64
	var over bool
	switch p.Type {
	case F16:
		f, _ := r.Float64()
		half := floatToHalf(f)
		pattern, over = uint64(half), half&0x7c00 == 0x7c00
	case F32:
		f, _ := r.Float32()
		pattern, over = uint64(math.Float32bits(f)), math.IsInf(float64(f), 0)
	default:
		f, _ := r.Float64()
		pattern, over = math.Float64bits(f), math.IsInf(f, 0)
	}
	if over {
		return dst, fmt.Errorf("%s is more than %s holds", v, p.Type)
	}
	return p.Order.appendPattern(dst, pattern, p.RawLen()), nil
}

// rawNumber returns the raw whole number nearest to v.
func (p *Point) rawNumber(v Value) (number, error) {
	n, exact := p.rawOf(v)
	switch {
	case exact && (len(p.Enum) > 0 || len(p.Bits) > 0):
	case v.kind == KindString && len(p.Enum) > 0:
		return number{}, fmt.Errorf("%q is none of %s", v.text, p.names())
	default:
		r, err := p.unscale(v)
		if err != nil {
			return number{}, err
		}
		if n, exact = nearest(r); !exact {
			return number{}, p.rangeError(v)
		}
	}
	if !p.holds(n) {
		return number{}, p.rangeError(v)
	}
	return n, nil
}

// nearest rounds r to a whole number, halves away from zero; ok is false if it
// has more than 64 bits.
func nearest(r *big.Rat) (n number, ok bool) {
	double := new(big.Int).Lsh(new(big.Int).Abs(r.Num()), 1)
	double.Add(double, r.Denom())
	mant := double.Quo(double, new(big.Int).Lsh(r.Denom(), 1))
	if !mant.IsUint64() {
		return number{}, false
	}
	return number{mant: mant.Uint64(), neg: r.Sign() < 0 && mant.Sign() != 0}, true
}

// limits are the lowest and highest raw number of an integer type.
func (p *Point) limits() (low, high number) {
	mask, _ := p.field()
	c := p.Type.info().class
	switch {
	case p.Type == Mod10:
		return low, number{mant: uint64(pow10[min(max(4*p.Type.Registers(p.Length), 0), 16)]) - 1}
	case c == digits:
		return low, number{mant: uint64(pow10[bits.Len64(mask)/4]) - 1}
	case c == signed:
		return number{neg: true, mant: mask>>1 + 1}, number{mant: mask >> 1}
	case c == magnitude:
		return number{neg: true, mant: mask >> 1}, number{mant: mask >> 1}
	}
	return low, number{mant: mask}
}

// Limits returns the least and greatest raw number of an integer, as far as
// floats tell them apart.
func (p *Point) Limits() (low, high float64) {
	l, h := p.limits()
	return l.float(), h.float()
}

// holds reports whether n is a whole number within the limits of p's type.
func (p *Point) holds(n number) bool {
	low, high := p.limits()
	if n.neg {
		return n.exp == 0 && n.mant <= low.mant
	}
	return n.exp == 0 && n.mant <= high.mant
}

func (p *Point) rangeError(v Value) error {
	low, high := p.limits()
	from, ok1 := low.affine(p.Scale, p.Offset)
	to, ok2 := high.affine(p.Scale, p.Offset)
	if !ok1 || !ok2 || len(p.Enum)+len(p.Bits) > 0 {
		from, to = low, high
	}
	if p.Scale.Mant < 0 {
		from, to = to, from
	}
	return fmt.Errorf("%s is out of range: %s holds %s to %s", v, p.Type, numberValue(from), numberValue(to))
}

// appendInteger appends a raw number that p holds; bits that are no part of it
// are 0.
func (p *Point) appendInteger(dst []byte, n number) []byte {
	_, shift := p.field()
	switch p.Type {
	case BCD16, BCD32:
		var pattern uint64
		for at, m := shift, n.mant; m > 0; at, m = at+4, m/10 {
			pattern |= m % 10 << at
		}
		return p.Order.appendPattern(dst, pattern, p.RawLen())
	case Mod10:
		for range p.RawLen() / 2 {
			dst = p.Order.appendPattern(dst, n.mant%10000, 2)
			n.mant /= 10000
		}
		return dst
	}
	return p.Order.appendPattern(dst, p.bitsOf(n)<<shift, p.RawLen())
}

// encodeText is the inverse of decodeText. A quotient without an end gets
// nine places.
func encodeText(dst []byte, p *Point, v Value) ([]byte, error) {
	for text, name := range p.EnumText {
		if v.kind == KindString && v.text == name {
			return append(dst, text...), nil
		}
	}
	switch {
	case p.Type == Text || p.Type == String || p.Type == Bytes || p.Type == Bool:
		return v.AppendText(dst), nil
	case p.Type.Integer():
		n, err := p.rawNumber(v)
		if err != nil {
			return dst, err
		}
		return n.append(dst), nil
	case p.Type.Unix():
		n, err := p.toUnix(v)
		if err != nil {
			return dst, err
		}
		return n.append(dst), nil
	}
	r, err := p.unscale(v)
	if err != nil {
		return dst, err
	}
	places, exact := r.FloatPrec()
	if !exact {
		places = 9
	}
	return append(dst, r.FloatString(min(places, 127))...), nil
}

// names lists what Enum offers, by rising number.
func (p *Point) names() string {
	var raws []int64
	for raw := range p.Enum {
		raws = append(raws, raw)
	}
	slices.Sort(raws)
	var names []string
	for _, raw := range raws {
		names = append(names, p.Enum[raw])
	}
	return strings.Join(names, ", ")
}

// CheckWrite reports why v may not be written to p: p is not declared
// writable, or v is beyond its limits, off its steps, no name of its Enum, or
// between two raw values. The error is fit for the one who asked.
func (p *Point) CheckWrite(v Value) error {
	if p.Write == nil {
		return errors.New("not writable: its point does not say write")
	}
	if _, err := Encode(nil, p, v); err != nil {
		return err
	}
	switch {
	case len(p.Enum) > 0:
		return p.checkName(v)
	case !v.quantity() || len(p.Bits) > 0:
		return nil
	}
	if err := p.Write.check(v, p.Unit); err != nil {
		return err
	}
	if _, err := p.within(v, nil); err != nil {
		return err
	}
	return p.checkExact(v)
}

func (p *Point) checkName(v Value) error {
	n, _ := p.rawOf(v)
	if d, err := n.decimal(); err == nil && d.Exp == 0 {
		if _, ok := p.Enum[d.Mant]; ok {
			return nil
		}
	}
	return fmt.Errorf("%s is none of %s", v, p.names())
}

// check compares a quantity with limits and steps.
func (w *Write) check(v Value, unit string) error {
	r, _ := v.rat()
	base := new(big.Rat)
	if w.Min != nil {
		base = w.Min.number().rat()
		if r.Cmp(base) < 0 {
			return fmt.Errorf("%s is below the minimum of %s", v, withUnit(*w.Min, unit))
		}
	}
	if w.Max != nil && r.Cmp(w.Max.number().rat()) > 0 {
		return fmt.Errorf("%s is above the maximum of %s", v, withUnit(*w.Max, unit))
	}
	if w.Step == nil || w.Step.Mant == 0 {
		return nil
	}
	r.Sub(r, base)
	if !r.Quo(r, w.Step.number().rat()).IsInt() {
		return fmt.Errorf("%s is not in steps of %s", v, withUnit(*w.Step, unit))
	}
	return nil
}

func withUnit(d Decimal, unit string) string { return withUnitText(d.String(), unit) }

func withUnitText(number, unit string) string { return strings.TrimSpace(number + " " + unit) }

// checkExact refuses what an integer register would round.
func (p *Point) checkExact(v Value) error {
	if !p.Type.Integer() {
		return nil
	}
	r, err := p.unscale(v)
	if err != nil || r.IsInt() {
		return err
	}
	n, _ := nearest(r)
	near, ok := n.affine(p.Scale, p.Offset)
	if !ok {
		return fmt.Errorf("%s lies between two values that it can hold", v)
	}
	return fmt.Errorf("%s lies between two values that it can hold; the nearest is %s", v, numberValue(near))
}
