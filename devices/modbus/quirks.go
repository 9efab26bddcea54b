package modbus

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Quirks are what a device does not bear, besides long requests and gaps. A
// nil *Quirks is a device without any. They are immutable.
type Quirks struct {
	// Forbid are entries that no request may read, not even on the way to
	// others: a device may refuse all of it, or answer the next one wrongly.
	Forbid []Range
	// Blocks are read whole or not at all: read in part, a device may give
	// zeros.
	Blocks []Range
	// Single lets each request read one point, or one block. Points at the
	// same registers share it.
	Single bool
	// FromZero are tables of which each request must read from address 0 on.
	FromZero []Table
}

// A Range is the entries First to Last of one table, or with Table 0 of each.
type Range struct {
	Table       Table
	First, Last uint16
}

// String is what ParseRange reads: "input 200-210", or "11175" for a Range of
// all tables.
func (r Range) String() string {
	s := strconv.Itoa(int(r.First))
	if r.First != r.Last {
		s += "-" + strconv.Itoa(int(r.Last))
	}
	if r.Table != 0 {
		s = r.Table.String() + " " + s
	}
	return s
}

// ParseRange reads "11175", "200-210" or "input 200-210", addresses as they
// travel on the wire.
func ParseRange(s string) (Range, error) {
	var r Range
	addresses := strings.TrimSpace(s)
	if name, rest, ok := strings.Cut(addresses, " "); ok {
		t, err := ParseTable(name)
		if err != nil {
			return r, fmt.Errorf("%q: %w", s, err)
		}
		r.Table, addresses = t, rest
	}
	first, last, isRange := strings.Cut(addresses, "-")
	if !isRange {
		last = first
	}
	a, err := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	b, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if err != nil || err2 != nil || a > b {
		return r, fmt.Errorf(`%q is no range of registers; write "200-210", "11175" or "input 200-210", with addresses from 0 to 65535`, s)
	}
	r.First, r.Last = uint16(a), uint16(b)
	return r, nil
}

// ParseTable reads the name of a table.
func ParseTable(name string) (Table, error) {
	for t := Coil; t <= Holding; t++ {
		if t.String() == name {
			return t, nil
		}
	}
	return 0, fmt.Errorf("%q is no table; the tables are coil, discrete, input and holding", name)
}

// rangeOf returns the entries of reg as a Range.
func rangeOf(reg Register) Range { return Range{reg.Table, reg.Address, uint16(reg.end() - 1)} }

// in returns r as a Register of table t.
func (r Range) in(t Table) Register {
	return Register{Table: t, Address: r.First}.with(Register{Table: t, Address: r.Last})
}

// meets reports whether r and reg have an entry in common.
func (r Range) meets(reg Register) bool {
	return (r.Table == 0 || r.Table == reg.Table) && int(r.First) < reg.end() && r.Last >= reg.Address
}

// otherTable is what to write where r was not meant to hold for t.
func (r Range) otherTable(t Table) string {
	if r.Table != 0 {
		return ""
	}
	if r.Table = Holding; t == Holding {
		r.Table = Input
	}
	return fmt.Sprintf(", or name the table that is meant, such as %q", r)
}

// meeting returns one of ranges that has an entry in common with reg.
func meeting(ranges []Range, reg Register) (Range, bool) {
	i := slices.IndexFunc(ranges, func(r Range) bool { return r.meets(reg) })
	if i < 0 {
		return Range{}, false
	}
	return ranges[i], true
}

// quirks are never nil.
func (u Unit) quirks() *Quirks { return cmp.Or(u.Quirks, &noQuirks) }

var noQuirks Quirks

// fromZero reports whether requests of t begin at address 0.
func (u Unit) fromZero(t Table) bool { return slices.Contains(u.quirks().FromZero, t) }

// whole returns the least that can be read to read reg, and why it cannot.
func (u Unit) whole(reg Register) (Register, error) {
	reg = reg.with(reg) // with a Count
	w, limit := reg, u.limit(reg.Table)
	for again := true; again; { // a block may lead to another
		before := w
		for _, b := range u.quirks().Blocks {
			if b.meets(w) {
				w = w.with(b.in(w.Table))
			}
		}
		again = w != before
	}
	block := w != reg
	if u.fromZero(reg.Table) {
		w = w.with(Register{Table: w.Table})
	}
	switch r, forbidden := meeting(u.quirks().Forbid, w); {
	case reg.count() > limit:
		return w, fmt.Errorf("%v is longer than the %d that one request may read, and a point is never split", reg, limit)
	case w.count() > limit && block:
		return w, fmt.Errorf("%v lies in blocks that are read whole, %v, which is more than the %d that one request may read; change blocks or max_read", reg, w, limit)
	case w.count() > limit:
		return w, fmt.Errorf("%v ends behind the %d that one request may read, which begins at 0; change from_zero or max_read", reg, limit)
	case forbidden && r.meets(reg):
		return w, fmt.Errorf("%v lies in %v, which forbid says must not be read; drop the point%s", reg, r, r.otherTable(reg.Table))
	case forbidden:
		return w, fmt.Errorf("%v is read with all of %v, in which lies %v, which forbid says must not be read; change forbid, blocks or from_zero", reg, w, r)
	}
	return w, nil
}
