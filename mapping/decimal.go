package mapping

import (
	"errors"
	"math"
	"math/big"
	"math/bits"
	"strconv"
)

// A number is exact: mant × 10^exp, negative if neg. Its sign is apart so
// that all of u64 and all of i64 fit. In normal form, which normal makes,
// equal numbers are equal structs: whole numbers that fit into mant have exp 0,
// all others do not end in zero, and zero is the zero number.
type number struct {
	neg  bool
	exp  int8
	mant uint64
}

var (
	errNotNumber = errors.New("not a number")
	errDigits    = errors.New("more than 19 digits")
	errExponent  = errors.New("exponent out of range: 10^-127 to 10^127")
)

// ParseDecimal reads a decimal number such as 0.1, -5, 1e-3 exactly.
func ParseDecimal(s string) (Decimal, error) {
	n, err := parseNumber([]byte(s))
	if err != nil {
		return Decimal{}, err
	}
	return n.decimal()
}

// decimal returns n as a Decimal, whose integer has 63 bits.
func (n number) decimal() (Decimal, error) {
	if n.mant > math.MaxInt64 {
		return Decimal{}, errDigits
	}
	d := Decimal{Mant: int64(n.mant), Exp: n.exp}
	if n.neg {
		d.Mant = -d.Mant
	}
	return d, nil
}

func (d Decimal) number() number {
	if d.Mant >= 0 {
		return number{mant: uint64(d.Mant), exp: d.Exp}
	}
	return number{neg: true, mant: -uint64(d.Mant), exp: d.Exp}
}

// String returns d in its shortest form.
func (d Decimal) String() string {
	n, ok := normal(false, wide{lo: d.number().mant}, int(d.Exp))
	if !ok {
		n = d.number()
	}
	n.neg = d.Mant < 0
	return string(n.append(nil))
}

// orOne returns d, or 1 for the zero Decimal, which a Scale means by it.
func (d Decimal) orOne() Decimal {
	if d.Mant == 0 {
		return Decimal{Mant: 1}
	}
	return d
}

// parseNumber reads sign, digits with an optional point, and exponent. It
// takes what JSON takes and also a plus sign, leading zeros and a bare point
// on one side (".5", "12."), which devices send.
func parseNumber(s []byte) (number, error) {
	neg, s := cutSign(s)
	var acc accumulator
	s = acc.digits(s, false)
	if len(s) > 0 && s[0] == '.' {
		s = acc.digits(s[1:], true)
	}
	if !acc.any {
		return number{}, errNotNumber
	}
	e, ok := parseExponent(s)
	switch {
	case !ok:
		return number{}, errNotNumber
	case acc.over:
		return number{}, errDigits
	}
	n, ok := normal(neg, wide{lo: acc.mant}, acc.exp+acc.zeros+e)
	if !ok {
		return number{}, errExponent
	}
	return n, nil
}

func cutSign(s []byte) (neg bool, rest []byte) {
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		return s[0] == '-', s[1:]
	}
	return false, s
}

// parseExponent reads e-3 or nothing. What is far out of range stays so.
func parseExponent(s []byte) (e int, ok bool) {
	if len(s) == 0 {
		return 0, true
	}
	if s[0] != 'e' && s[0] != 'E' {
		return 0, false
	}
	neg, s := cutSign(s[1:])
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		e = min(e*10+int(c-'0'), 1e6)
	}
	if neg {
		e = -e
	}
	return e, len(s) > 0
}

// An accumulator gathers digits. Zeros wait in zeros until another digit
// follows, so that any number of them may end a number.
type accumulator struct {
	mant  uint64
	exp   int
	zeros int
	any   bool
	over  bool // more digits than mant holds
}

func (a *accumulator) digits(s []byte, fraction bool) (rest []byte) {
	for len(s) > 0 && s[0] >= '0' && s[0] <= '9' {
		a.any = true
		if fraction {
			a.exp--
		}
		a.add(s[0] - '0')
		s = s[1:]
	}
	return s
}

func (a *accumulator) add(digit byte) {
	if digit == 0 {
		if a.mant != 0 {
			a.zeros++
		}
		return
	}
	for ; a.zeros >= 0; a.zeros-- {
		if a.mant > math.MaxUint64/10 {
			a.over = true
			break
		}
		a.mant *= 10
	}
	a.zeros = 0
	sum, carry := bits.Add64(a.mant, uint64(digit), 0)
	a.mant, a.over = sum, a.over || carry != 0
}

// append writes n as JSON would have it, in its shortest usual form.
func (n number) append(dst []byte) []byte {
	if n.neg {
		dst = append(dst, '-')
	}
	start := len(dst)
	dst = strconv.AppendUint(dst, n.mant, 10)
	switch places := -int(n.exp); {
	case places > 0 && places <= len(zeros)-1:
		return insertPoint(dst, start, places)
	case places <= 0 && len(dst)-start-places <= 21: // as floats: 1e+21 is the first with an exponent
		return append(dst, zeros[:-places]...)
	}
	return strconv.AppendInt(append(dst, 'e'), int64(n.exp), 10)
}

const zeros = "00000000000000000000000000"

// insertPoint puts a point before the last places digits of dst[start:], with
// as many zeros before them as it needs.
func insertPoint(dst []byte, start, places int) []byte {
	digits := len(dst) - start
	if pad := places + 1 - digits; pad > 0 {
		dst = append(dst, zeros[:pad]...)
		copy(dst[start+pad:], dst[start:start+digits])
		copy(dst[start:], zeros[:pad])
	}
	dst = append(dst, 0)
	at := len(dst) - 1 - places
	copy(dst[at+1:], dst[at:])
	dst[at] = '.'
	return dst
}

// float returns the float64 nearest to n.
func (n number) float() float64 {
	f := float64(n.mant)
	switch e := int(n.exp); {
	case e == 0:
	case e < 0 && e >= -22 && n.mant < 1<<53: // both exact, so the quotient is the nearest
		f /= pow10[-e]
	default:
		f, _ = strconv.ParseFloat(string(number{mant: n.mant, exp: n.exp}.append(nil)), 64)
	}
	if n.neg {
		return -f
	}
	return f
}

var pow10 = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// rat returns n as a fraction.
func (n number) rat() *big.Rat {
	r := new(big.Rat).SetInt(new(big.Int).SetUint64(n.mant))
	power := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(n.exp, -n.exp))), nil)
	if n.exp < 0 {
		r.Quo(r, new(big.Rat).SetInt(power))
	} else {
		r.Mul(r, new(big.Rat).SetInt(power))
	}
	if n.neg {
		r.Neg(r)
	}
	return r
}

// A wide is an unsigned integer of 128 bits, which holds any product of two
// mantissas.
type wide struct{ hi, lo uint64 }

func (w wide) times10() (wide, bool) {
	over, hi := bits.Mul64(w.hi, 10)
	carry, lo := bits.Mul64(w.lo, 10)
	hi, c := bits.Add64(hi, carry, 0)
	return wide{hi, lo}, over == 0 && c == 0
}

func (w wide) over10() (quotient wide, remainder uint64) {
	quotient.hi = w.hi / 10
	quotient.lo, remainder = bits.Div64(w.hi%10, w.lo, 10)
	return quotient, remainder
}

func (w wide) less(v wide) bool { return w.hi < v.hi || w.hi == v.hi && w.lo < v.lo }

func (w wide) sub(v wide) wide {
	lo, borrow := bits.Sub64(w.lo, v.lo, 0)
	return wide{w.hi - v.hi - borrow, lo}
}

func (w wide) add(v wide) (wide, bool) {
	lo, carry := bits.Add64(w.lo, v.lo, 0)
	hi, carry := bits.Add64(w.hi, v.hi, carry)
	return wide{hi, lo}, carry == 0
}

// normal returns w × 10^exp in normal form; ok is false if it does not fit.
func normal(neg bool, w wide, exp int) (n number, ok bool) {
	switch {
	case w == (wide{}):
		return number{}, true
	case w.hi != 0 || exp != 0:
		w, exp = strip(w, exp)
	}
	if whole, ok := raise(w, exp); ok && exp > 0 && whole.hi == 0 {
		w, exp = whole, 0
	}
	fits := w.hi == 0 && exp >= -127 && exp <= 127
	return number{neg: neg, exp: int8(exp), mant: w.lo}, fits
}

// strip moves the zeros that w, which is not 0, ends in to the exponent.
func strip(w wide, exp int) (wide, int) {
	for {
		q, r := w.over10()
		if r != 0 {
			return w, exp
		}
		w, exp = q, exp+1
	}
}

// raise returns w × 10^k.
func raise(w wide, k int) (_ wide, ok bool) {
	for ok = true; ok && k > 0 && w != (wide{}); k-- {
		w, ok = w.times10()
	}
	return w, ok
}

// affine returns n × scale + offset exactly; ok is false if the result does
// not fit.
func (n number) affine(scale, offset Decimal) (result number, ok bool) {
	s := scale.orOne().number()
	var w wide
	w.hi, w.lo = bits.Mul64(n.mant, s.mant)
	neg, exp := n.neg != s.neg, int(n.exp)+int(s.exp)
	if offset.Mant == 0 {
		return normal(neg, w, exp)
	}
	o := offset.number()
	v, common := wide{lo: o.mant}, min(exp, int(o.exp))
	if w, ok = raise(w, exp-common); !ok {
		return number{}, false
	}
	if v, ok = raise(v, int(o.exp)-common); !ok {
		return number{}, false
	}
	return sum(neg, w, o.neg, v, common)
}

// sum adds two signed integers and gives the total the exponent exp.
func sum(wneg bool, w wide, vneg bool, v wide, exp int) (number, bool) {
	switch {
	case wneg == vneg:
		t, ok := w.add(v)
		if !ok {
			return number{}, false
		}
		return normal(wneg, t, exp)
	case w.less(v):
		return normal(vneg, v.sub(w), exp)
	default:
		return normal(wneg, w.sub(v), exp)
	}
}
