package serial

import (
	"bytes"
	"cmp"
	"iter"
)

// A cutter cuts a stream of bytes into lines. It holds at most max bytes.
type cutter struct {
	end      string // of each line; "": LF or CRLF
	max      int
	strict   bool   // what follows a hole is not trusted before the next line end: it may be the end of a line
	skipping bool   // what comes is part of a line whose beginning is lost
	part     []byte // of a line whose end has not come; while skipping what may be part of its end
	lost     uint64 // lines thrown away, for the caller to read and reset
}

// lines adds data and yields the lines that are complete now, without their
// ends; empty ones are left out. A line is valid until the next one.
func (c *cutter) lines(data []byte) iter.Seq[[]byte] {
	end := cmp.Or(c.end, "\n")
	last := end[len(end)-1]
	return func(yield func([]byte) bool) {
		for {
			i := bytes.IndexByte(data, last)
			if i < 0 {
				c.keep(data, len(end))
				return
			}
			c.keep(data[:i+1], len(end))
			data = data[i+1:]
			if !bytes.HasSuffix(c.part, []byte(end)) {
				continue
			}
			line := c.part[:len(c.part)-len(end)]
			if c.end == "" {
				line = bytes.TrimSuffix(line, []byte{'\r'})
			}
			whole := !c.skipping && len(line) > 0
			c.part, c.skipping = c.part[:0], false
			if whole && !yield(line) {
				return
			}
		}
	}
}

// keep appends data to the present line, or gives the line up if it gets too
// long: its end, of so many bytes, is then waited for. The byte more is for a CR.
func (c *cutter) keep(data []byte, end int) {
	if !c.skipping && len(c.part)+len(data) > c.max+1+end {
		c.skipping = true
		c.lost++
	}
	c.part = append(c.part, data...)
	if c.skipping && len(c.part) > end {
		c.part = append(c.part[:0], c.part[len(c.part)-end:]...)
	}
}

// silence says that nothing came for so long that a line begun is given up.
func (c *cutter) silence() {
	if len(c.part) > 0 && !c.skipping {
		c.skipping = c.strict
		c.lost++
	}
	c.part = c.part[:0]
}
