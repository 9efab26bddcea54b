package packet

import (
	"encoding/binary"
	"hash/maphash"
)

// A scratch is what a Reader uses again for each PUBLISH and acknowledgement.
type scratch struct {
	pub   Publish
	ack   Ack
	props Properties
	names *[32][2]string // that came lately, by their hash; nil: none yet
}

const (
	longName  = 128 // bytes of a string that is remembered
	keepProps = 32  // properties that are kept room for
)

var seed = maphash.MakeSeed()

// reset lets go of what the last packet had.
func (s *scratch) reset() {
	if cap(s.props) > keepProps {
		s.props = nil
	}
	clear(s.props[:cap(s.props)])
	s.pub, s.ack = Publish{}, Ack{}
}

// known returns the string that b begins with, behind its length, if it came
// lately and so needs no check and no memory.
func (s *scratch) known(b []byte) (string, bool) {
	if s.names == nil || len(b) < 2 {
		return "", false
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n == 0 || n > longName || n > len(b) {
		return "", false
	}
	set := &s.names[maphash.Bytes(seed, b[:n])%uint64(len(s.names))]
	for _, name := range set {
		if name == string(b[:n]) {
			return name, true
		}
	}
	return "", false
}

func (s *scratch) learn(name string) {
	if len(name) > longName {
		return
	}
	if s.names == nil {
		s.names = new([32][2]string)
	}
	set := &s.names[maphash.String(seed, name)%uint64(len(s.names))]
	set[0], set[1] = name, set[0]
}
