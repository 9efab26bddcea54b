package simulator

import (
	"math"
	"strconv"

	"edgegateway/mapping"
)

// A marker is what a point holds in check mode: numbers that no other point
// of the plant ever holds, and that rise by one with each read that covers
// the whole point. So a value that was taken for another point's, or put
// together from two, shows, and so does a gap. Points with room for less than
// their share (a coil, an enum, a half float in a plant of thousands) go
// round what they have, and what can be written keeps what was written.
type marker struct {
	first, size float64 // its numbers: first ≤ n < first + size
	serial      uint64  // reads so far
}

// newMarker gives the index-th of count points its numbers.
func newMarker(p *mapping.Point, index, count int) marker {
	room := markable(p)
	size := math.Max(2, math.Floor(room/float64(count)))
	shares := max(1, int(room/size))
	return marker{first: float64(index%shares) * size, size: math.Min(size, room)}
}

// markable is how many whole numbers, from 0 on, travel exactly in p.
func markable(p *mapping.Point) float64 {
	switch p.Type {
	case mapping.F16:
		return 1 << 11
	case mapping.F32:
		return 1 << 24
	case mapping.F64, mapping.Text:
		return 1 << 53
	case mapping.String:
		return math.Pow10(min(p.Length, 15))
	case mapping.Bytes:
		return float64(uint64(1) << (8 * min(p.Length, 6)))
	}
	_, high := limits(p)
	return high // so never all ones, a common sentinel
}

// current is the number of this moment.
func (m *marker) current() float64 { return m.first + math.Mod(float64(m.serial), m.size) }

// advance moves p's marker on to the next number that means something.
func (p *point) advance() {
	p.mark.serial++
	for range p.Invalid {
		if p.meansNothing(p.mark.current()) {
			p.mark.serial++
		}
	}
}

// marked returns what p holds in check mode.
func (p *point) marked() ([]byte, error) {
	n := p.mark.current()
	digits := strconv.FormatFloat(n, 'f', 0, 64)
	switch {
	case p.sentence && !p.span:
		return []byte(digits), nil
	case p.Type == mapping.Bool:
		return p.pack(mapping.BoolValue(p.mark.serial%2 == 1))
	case len(p.Enum) > 0:
		keys := sortedKeys(p.Enum)
		return p.pack(mapping.IntValue(keys[p.mark.serial%uint64(len(keys))]))
	case p.Type == mapping.String:
		return p.pack(mapping.StringValue(digits))
	case p.Type == mapping.Bytes:
		return p.pack(mapping.BytesValue(bigEndian(uint64(n), p.Length)))
	case p.Type == mapping.F16 || p.Type == mapping.F32:
		return p.pack(mapping.Float32Value(float32(n)))
	case p.Type == mapping.F64:
		return p.pack(mapping.FloatValue(n))
	}
	return p.pack(intValue(n))
}

// bigEndian returns the last size bytes of n, the highest first.
func bigEndian(n uint64, size int) []byte {
	b := make([]byte, size)
	for i := size - 1; i >= 0; i-- {
		b[i], n = byte(n), n>>8
	}
	return b
}
