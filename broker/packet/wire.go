package packet

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// maxLength is the largest variable byte integer (section 1.5.5).
const maxLength = 268_435_455

// A cursor reads a packet's body. The first error sticks, and everything
// read after it is zero.
type cursor struct {
	b   []byte
	v   Version
	err error
	s   *scratch // nil: what is read gets memory of its own
}

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err, c.b = err, nil
	}
}

// take returns the next n bytes, or nil after an error.
func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.fail(malformed("%d bytes where %d are needed", len(c.b), n))
		return nil
	}
	p := c.b[:n:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) u8() byte {
	if p := c.take(1); len(p) == 1 {
		return p[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if p := c.take(2); len(p) == 2 {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if p := c.take(4); len(p) == 4 {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

// varint reads a variable byte integer, which must be as short as it can be
// (section 1.5.5).
func (c *cursor) varint() uint32 {
	n, k := varint(c.b)
	if k <= 0 {
		c.fail(malformed("bad variable byte integer"))
		return 0
	}
	c.b = c.b[k:]
	return n
}

// varint returns the integer that b begins with and its length: 0 if b is too
// short, -1 if it is none.
func varint(b []byte) (uint32, int) {
	var n uint32
	for i := range 4 {
		if i == len(b) {
			return 0, 0
		}
		n |= uint32(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			if i > 0 && b[i] == 0 {
				return 0, -1
			}
			return n, i + 1
		}
	}
	return 0, -1
}

// data reads binary data (section 1.5.6), which shares the body.
func (c *cursor) data() []byte { return c.take(int(c.u16())) }

// text reads a UTF-8 string (section 1.5.4): well-formed, without NUL.
func (c *cursor) text() string {
	b := c.data()
	if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		c.fail(malformed("string %.40q is not UTF-8 without NUL", b))
		return ""
	}
	return string(b)
}

// name is text that is likely to come again.
func (c *cursor) name() string {
	if c.s == nil {
		return c.text()
	}
	if s, ok := c.s.known(c.b); ok {
		c.b = c.b[2+len(s):]
		return s
	}
	s := c.text()
	c.s.learn(s)
	return s
}

// id reads a packet identifier, which is never 0.
func (c *cursor) id() uint16 {
	id := c.u16()
	if id == 0 {
		c.fail(protocolError("packet identifier 0"))
	}
	return id
}

// An encoder appends to b. The first error sticks.
type encoder struct {
	b   []byte
	v   Version
	err error
}

// open appends the first byte and a place for the length of what follows;
// close fills it.
func (e *encoder) open(first byte) int {
	e.b = append(e.b, first, 0)
	return len(e.b)
}

// close writes the length of what was appended after mark and of the extra
// bytes that will be.
func (e *encoder) close(mark, extra int) {
	n := len(e.b) - mark + extra
	if n > maxLength {
		e.fail("packet", n, maxLength)
		return
	}
	var enc [4]byte
	k := putVarint(&enc, n)
	if k > 1 {
		e.b = append(e.b, enc[1:k]...) // room; the bytes do not matter yet
		copy(e.b[mark+k-1:], e.b[mark:len(e.b)-k+1])
	}
	copy(e.b[mark-1:], enc[:k])
}

func putVarint(dst *[4]byte, n int) int {
	for i := range dst {
		dst[i] = byte(n & 0x7F)
		if n >>= 7; n == 0 {
			return i + 1
		}
		dst[i] |= 0x80
	}
	return len(dst)
}

func (e *encoder) fail(what string, n, limit int) {
	if e.err == nil {
		e.err = &Error{PacketTooLarge, "encode " + what + ": " + tooLong(n, limit)}
	}
}

func (e *encoder) u8(n byte)    { e.b = append(e.b, n) }
func (e *encoder) u16(n uint16) { e.b = binary.BigEndian.AppendUint16(e.b, n) }
func (e *encoder) u32(n uint32) { e.b = binary.BigEndian.AppendUint32(e.b, n) }

// text appends a string with its length.
func (e *encoder) text(s string) {
	if e.short(len(s)) {
		e.b = append(e.b, s...)
	}
}

// data appends binary data with its length.
func (e *encoder) data(s []byte) {
	if e.short(len(s)) {
		e.b = append(e.b, s...)
	}
}

// short appends a length, unless it is more than two bytes can say.
func (e *encoder) short(n int) bool {
	if n > 65535 {
		e.fail("string", n, 65535)
		return false
	}
	e.u16(uint16(n))
	return true
}

// finish returns what was encoded after dst, or dst if that failed.
func (e *encoder) finish(dst []byte) ([]byte, error) {
	if e.err != nil {
		return dst, e.err
	}
	return e.b, nil
}
