package serial

import (
	"bytes"
	"iter"
)

// A cutter cuts a stream of bytes into lines. It holds at most max bytes.
type cutter struct {
	max      int
	strict   bool   // what follows a hole is not trusted before the next line end: it may be the end of a line
	skipping bool   // what comes is part of a line whose beginning is lost
	part     []byte // of a line whose end has not come
	lost     uint64 // lines thrown away, for the caller to read and reset
}

// lines adds data and yields the lines that are complete now, without their
// ends; empty ones are left out. A line is valid until the next one.
func (c *cutter) lines(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for {
			i := bytes.IndexByte(data, '\n')
			if i < 0 {
				c.keep(data)
				return
			}
			c.keep(data[:i])
			data = data[i+1:]
			line := bytes.TrimSuffix(c.part, []byte{'\r'})
			whole := !c.skipping && len(line) > 0
			c.part, c.skipping = c.part[:0], false
			if whole && !yield(line) {
				return
			}
		}
	}
}

// keep appends data to the present line, or gives the line up if it gets too
// long: its end is then waited for. The byte more is for a CR.
func (c *cutter) keep(data []byte) {
	if c.skipping {
		return
	}
	if len(c.part)+len(data) > c.max+1 {
		c.part, c.skipping = c.part[:0], true
		c.lost++
		return
	}
	c.part = append(c.part, data...)
}

// silence says that nothing came for so long that a line begun is given up.
func (c *cutter) silence() {
	if len(c.part) > 0 {
		c.part, c.skipping = c.part[:0], c.strict
		c.lost++
	}
}
