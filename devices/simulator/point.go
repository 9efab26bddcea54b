package simulator

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// A point is one point of the plant: what the map says of it, where it lies
// and how it moves. Its unit locks it.
type point struct {
	*mapping.Point
	device   string         // id
	raw      *mapping.Point // the same without scale, names and limits: what travels
	factor   bool           // others have their exponents from it
	sentence bool           // it is a field of a sentence, or bytes of a frame, or a queue: it has no registers
	span     bool           // it is bytes of a frame
	fifo     *modbus.Queue  // nil: it is no queue
	bit      *modbus.Bit    // nil: it is no bit of a register

	// Where it lies in its unit's tables; of no meaning in a sentence.
	table       modbus.Table
	addr, count int
	exponent    int  // address of the register that holds its exponent in a model; 0: none
	exp         int8 // that exponent
	owner       bool // it decides what its registers hold; false if another point that lies there does

	mul, off float64 // value = raw × mul + off
	law      law     // nil: it keeps what it holds
	scale    scale
	number   float64 // what it holds, in its unit; 0 if that is no number
	text     []byte  // what it holds, in a sentence or frame
	mark     marker
	past     past
	seed     uint64
}

// simExponent is what all scale factors of the plant hold, but those of powers in
// SunSpec's models, which are 16 bits.
const simExponent = -2

func exponentOf(p *mapping.Point) int8 {
	power := func(unit string) bool { return strings.HasSuffix(p.Unit, unit) }
	if p.Factored && slices.ContainsFunc([]string{"W", "VA", "var"}, power) {
		return 0
	}
	return simExponent
}

func newPoint(seed uint64, device string, p *mapping.Point) *point {
	var exp int8
	raw := *p
	raw.Scale, raw.Offset = mapping.Decimal{}, mapping.Decimal{}
	if p.ScaleFrom != nil || p.Factored { // which holds always the same
		exp = exponentOf(p)
		fixed := *p
		fixed.ScaleFrom, raw.ScaleFrom = nil, nil
		fixed.Factored, raw.Factored = false, false
		if fixed.Scale.Mant == 0 {
			fixed.Scale = mapping.Decimal{Mant: 1}
		}
		fixed.Scale.Exp += exp
		p = &fixed
	}
	raw.Enum, raw.EnumText, raw.Bits, raw.Invalid, raw.Write, raw.Range, raw.List = nil, nil, nil, nil, nil, nil, false
	_, field := p.Source.(serial.Field)
	_, span := p.Source.(serial.Span)
	one := &point{
		Point: p, device: device, raw: &raw, sentence: field || span, span: span, exp: exp,
		scale: classify(p), seed: hash(seed, device, p.Name), mul: unscale(p.Scale), off: toFloat(p.Offset),
	}
	switch s := p.Source.(type) {
	case modbus.Queue:
		one.fifo, one.sentence = &s, true
	case modbus.Bit:
		one.bit = &s
	}
	return one
}

// encode returns the raw bytes nearest to x, which is in p's unit, and never
// one that means "no value" or is out of its range.
func (p *point) encode(x float64) ([]byte, error) {
	x = (p.within(x) - p.off) / p.mul
	low, high := limits(p.raw)
	if top := p.wrapsAt(high); x >= top {
		x = math.Mod(x, top)
	}
	x = math.Max(low, math.Min(high, x))
	switch p.Type {
	case mapping.Bool:
		return p.pack(mapping.BoolValue(x != 0))
	case mapping.F16, mapping.F32:
		return p.pack(mapping.Float32Value(float32(x)))
	case mapping.F64:
		return p.pack(mapping.FloatValue(x))
	}
	return p.pack(intValue(p.meaningful(math.Round(x), low, high)))
}

// wrapsAt is the raw number at which a counter begins anew.
func (p *point) wrapsAt(high float64) float64 {
	switch {
	case p.Kind != mapping.Counter:
		return math.Inf(1)
	case p.Wrap != nil:
		return math.Abs(toFloat(*p.Wrap) / p.mul)
	}
	return high + 1
}

// within returns what is nearest to x in p's range.
func (p *point) within(x float64) float64 {
	if r := p.Range; r != nil && r.Min != nil {
		x = math.Max(x, toFloat(*r.Min))
	}
	if r := p.Range; r != nil && r.Max != nil {
		x = math.Min(x, toFloat(*r.Max))
	}
	return x
}

// meaningful returns n, or the nearest number below it, else above it, that is
// no sentinel.
func (p *point) meaningful(n, low, high float64) float64 {
	for m := n; m >= low; m-- {
		if !p.meansNothing(m) {
			return m
		}
	}
	for n < high && p.meansNothing(n) {
		n++
	}
	return n
}

// pack encodes a raw value.
func (p *point) pack(v mapping.Value) ([]byte, error) {
	raw, err := mapping.Encode(nil, p.raw, v)
	if err != nil {
		return nil, fmt.Errorf("device %s, point %s: %w", p.device, p.Name, err)
	}
	return raw, nil
}

// meansNothing reports whether the map lists n as a sentinel.
func (p *point) meansNothing(n float64) bool {
	unused := 64 - p.Width()
	for _, s := range p.Invalid {
		if uint64(s)<<unused == uint64(int64(n))<<unused {
			return true
		}
	}
	return false
}

// constantRaw is what a point holds that does not move: text, bytes and
// addresses of its own, the time at which the plant was built, an exponent.
func (p *point) constantRaw() ([]byte, error) {
	b := bigEndian(mix(p.seed), 6)
	switch {
	case p.factor:
		return p.pack(mapping.IntValue(simExponent))
	case p.Type == mapping.Bytes:
		b = b[:0]
		for i := range p.Length {
			b = append(b, byte(mix(p.seed+uint64(i))))
		}
		return p.pack(mapping.BytesValue(b))
	case p.Type.Time():
		return p.pack(mapping.StringValue("2026-11-20T23:06:00Z"))
	case p.Type == mapping.IPv4:
		return p.pack(mapping.StringValue(fmt.Sprintf("10.%d.%d.%d", b[0], b[1], b[2])))
	case p.Type == mapping.IPv6:
		return p.pack(mapping.StringValue(fmt.Sprintf("fd00::%x:%x", b[:2], b[2:4])))
	case p.Type.Address():
		return p.pack(mapping.StringValue(strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":")))
	}
	return p.pack(mapping.StringValue(p.device[:min(len(p.device), p.Length)]))
}

// initial is what a point holds that is written: the middle of its limits,
// the lowest name of an enum, a coil that is on.
func (p *point) initial() float64 {
	switch {
	case len(p.Enum) > 0:
		return p.off + p.mul*float64(sortedKeys(p.Enum)[0])
	case p.Type == mapping.Bool:
		return 1
	case p.Write != nil && p.Write.Min != nil && p.Write.Max != nil:
		return middle(p.Write)
	case p.scale.quantity == temperature:
		return 40*p.scale.per + p.scale.plus
	}
	return 0
}

// middle is half way between the limits, on a step if there are steps.
func middle(w *mapping.Write) float64 {
	low, high := toFloat(*w.Min), toFloat(*w.Max)
	half := (high - low) / 2
	if w.Step != nil && toFloat(*w.Step) > 0 {
		step := toFloat(*w.Step)
		half = math.Floor(half/step) * step
	}
	return low + half
}

// accepts reports whether raw is within the limits that the map declares.
func (p *point) accepts(raw []byte) bool {
	v, err := mapping.Decode(p.Point, raw)
	return err == nil && p.CheckWrite(v) == nil
}

// numberOf returns what raw is in p's unit, 0 for what is no number.
func (p *point) numberOf(raw []byte) float64 {
	v, err := mapping.Decode(p.Point, raw)
	if err != nil {
		return 0
	}
	if x, ok := v.Float64(); ok {
		return x
	}
	n, _ := v.Int64()
	return float64(n)
}

// limits are the raw numbers that a type can hold, as far as a float64 tells
// them apart.
func limits(p *mapping.Point) (low, high float64) {
	if s, ok := p.Source.(serial.Span); ok && s.Len == 1 && s.Signed {
		return math.MinInt8, math.MaxInt8
	} else if ok && s.Len == 1 {
		return 0, math.MaxUint8
	}
	switch p.Type {
	case mapping.Bool:
		return 0, 1
	case mapping.F16:
		return -65504, 65504
	case mapping.F32:
		return -math.MaxFloat32, math.MaxFloat32
	}
	if p.Type.Integer() {
		low, high = p.Limits()
		return math.Max(low, -1<<53), math.Min(high, 1<<53)
	}
	return -math.MaxFloat64, math.MaxFloat64
}

// intValue returns n, a whole number, as a value.
func intValue(n float64) mapping.Value {
	if n < 0 {
		return mapping.IntValue(int64(n))
	}
	return mapping.UintValue(uint64(n))
}

func toFloat(d mapping.Decimal) float64 {
	x, _ := strconv.ParseFloat(d.String(), 64)
	return x
}

// unscale returns a scale as a number: none means 1.
func unscale(d mapping.Decimal) float64 {
	if d.Mant == 0 {
		return 1
	}
	return toFloat(d)
}

func sortedKeys(enum map[int64]string) []int64 { return slices.Sorted(maps.Keys(enum)) }

// A past remembers what a point held: hashes, oldest first to be forgotten.
type past struct {
	hashes []uint64
	next   int
}

func (h *past) add(raw []byte, most int) {
	sum := hashBytes(raw)
	switch {
	case len(h.hashes) > 0 && h.hashes[(h.next+len(h.hashes)-1)%len(h.hashes)] == sum:
	case len(h.hashes) < most:
		h.hashes = append(h.hashes, sum)
	default:
		h.hashes[h.next] = sum
		h.next = (h.next + 1) % most
	}
}

func (h *past) has(raw []byte) bool { return slices.Contains(h.hashes, hashBytes(raw)) }

// hashBytes tells raw values apart: exactly up to seven bytes, and longer
// ones but for one chance in 2^64.
func hashBytes(raw []byte) uint64 {
	if len(raw) < 8 {
		var b [8]byte
		copy(b[:], raw)
		b[7] = byte(len(raw))
		return binary.BigEndian.Uint64(b[:])
	}
	return hash(0, string(raw))
}
