package serial

import (
	"fmt"
	"slices"
	"strings"
)

// A Sum is a checksum over bytes.
type Sum struct {
	Kind   string // "sum8", "sum16", "xor", "crc8" or "crc16"
	Negate bool   // the two's complement of it: with it all bytes add up to 0

	// Of crc8 and crc16, as catalogues of CRCs give them; Poly is not reflected.
	Poly, Init, XorOut uint16
	RefIn, RefOut      bool
}

// SumKinds lists the kinds of checksums.
var SumKinds = []string{"sum8", "sum16", "xor", "crc8", "crc16"}

// Check finds what is wrong with the checksum itself.
func (s Sum) Check() error {
	switch {
	case !slices.Contains(SumKinds, s.Kind):
		return fmt.Errorf("there is no checksum %q; there is %s", s.Kind, strings.Join(SumKinds, ", "))
	case s.Kind == "crc16" && s.Poly == 0:
		return fmt.Errorf("a crc16 needs its poly, such as 0x8005 or 0x1021")
	case s.Kind == "crc8" && s.Poly == 0:
		return fmt.Errorf("a crc8 needs its poly, such as 0x31 or 0x07")
	case s.Kind == "crc8" && max(s.Poly, s.Init, s.XorOut) > 0xff:
		return fmt.Errorf("poly, init and xorout of a crc8 have eight bits")
	case !s.isCRC() && s != Sum{Kind: s.Kind, Negate: s.Negate}:
		return fmt.Errorf("poly, init, refin, refout and xorout are of a crc8 or crc16, not of %s", s.Kind)
	}
	return nil
}

func (s Sum) isCRC() bool { return s.Kind == "crc8" || s.Kind == "crc16" }

// size is how many bytes it has.
func (s Sum) size() int {
	if s.Kind == "sum16" || s.Kind == "crc16" {
		return 2
	}
	return 1
}

// Of returns the checksum of b, in its low byte or two.
func (s Sum) Of(b []byte) uint16 {
	var sum uint16
	switch s.Kind {
	case "crc8", "crc16":
		sum = s.crc(b)
	case "xor":
		for _, c := range b {
			sum ^= uint16(c)
		}
	default:
		for _, c := range b {
			sum += uint16(c)
		}
	}
	if s.Negate {
		sum = -sum
	}
	if s.size() == 1 {
		sum &= 0xff
	}
	return sum
}

// Append appends the checksum of b, low byte first if little.
func (s Sum) Append(dst, b []byte, little bool) []byte {
	sum := s.Of(b)
	switch {
	case s.size() == 1:
		return append(dst, byte(sum))
	case little:
		return append(dst, byte(sum), byte(sum>>8))
	}
	return append(dst, byte(sum>>8), byte(sum))
}

// crc goes bit by bit: frames are short and few. A crc8 is computed in the high
// byte.
func (s Sum) crc(b []byte) uint16 {
	width := 8 * s.size()
	crc, poly := s.Init<<(16-width), s.Poly<<(16-width)
	for _, c := range b {
		if s.RefIn {
			c = byte(reflect(uint16(c), 8))
		}
		crc ^= uint16(c) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= poly
			}
		}
	}
	crc >>= 16 - width
	if s.RefOut {
		crc = reflect(crc, width)
	}
	return crc ^ s.XorOut
}

// reflect turns the order of the low n bits around.
func reflect(v uint16, n int) (r uint16) {
	for range n {
		r = r<<1 | v&1
		v >>= 1
	}
	return r
}
