package modbus

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Facts are what a line found out about a device by asking: what its map does
// not say, or says wrongly. They belong to the device, whatever its address,
// and hold until it answers otherwise.
type Facts struct {
	// Illegal are points (or blocks) that the device refuses. Each is asked
	// alone and seldom, so that it hides no others.
	Illegal []Range `json:"illegal,omitempty"`
	// Holes are entries between points that the device refuses. No request
	// reads across them.
	Holes []Range `json:"holes,omitempty"`
	// Apart are pairs of neighbours that one request must not read, though
	// it may read either: the request would be too long for the device, or
	// go over an edge of its memory.
	Apart []Range `json:"apart,omitempty"`
	// NoMask is that it does not know function 22, which sets bits.
	NoMask bool `json:"no_mask,omitempty"`
	// Models are the chain of a SunSpec device.
	Models []Model `json:"models,omitempty"`
}

func (f Facts) clone() Facts {
	f.Illegal, f.Holes, f.Apart = slices.Clone(f.Illegal), slices.Clone(f.Holes), slices.Clone(f.Apart)
	f.Models = slices.Clone(f.Models)
	return f
}

// Empty reports whether nothing was found out.
func (f Facts) Empty() bool {
	return len(f.Illegal)+len(f.Holes)+len(f.Apart)+len(f.Models) == 0 && !f.NoMask
}

// A Notebook keeps what a line learns. A line's goroutine calls it, so that it
// must be quick; lines share one.
type Notebook interface {
	// Facts returns what is known of the device with this ID; ok is false if
	// it is none whose facts are kept, as one that somebody just looks for.
	Facts(device string) (f Facts, ok bool)
	// Learned takes the facts of a device after they changed. news says for
	// people what changed, and what to write into the map; "" is what nobody
	// needs to be told.
	Learned(device string, f Facts, news string)
}

// MarshalText is String.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRange.
func (r *Range) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRange(string(text))
	return err
}

// A known is what a line knows of one device.
type known struct {
	device   string
	notebook Notebook // nil: none
	facts    Facts
	version  int // rises with each change of facts
	refusals map[Range]refusal
	longest  [Holding + 1]int // most entries that one request has read, by table
	chain    chainState
}

// A refusal is when an illegal point is asked again, and what it said.
type refusal struct {
	err   error
	again time.Time
}

// knownOf returns what l knows of a device.
func (l *Line) knownOf(device string) *known {
	if k := l.known[device]; k != nil {
		return k
	}
	k := &known{device: device, refusals: map[Range]refusal{}}
	if l.cfg.Notebook != nil {
		f, ok := l.cfg.Notebook.Facts(device)
		if !ok {
			return k
		}
		k.facts, k.notebook = f.clone(), l.cfg.Notebook
		if !checkModels(k.facts.Models) {
			k.facts.Models = nil // they are found anew
		}
	}
	l.known[device] = k
	return k
}

// joins reports whether one request may read all of reg, in which lies more
// than one atom.
func (k *known) joins(reg Register) bool {
	_, illegal := meeting(k.facts.Illegal, reg)
	_, hole := meeting(k.facts.Holes, reg)
	return !illegal && !hole && !slices.ContainsFunc(k.facts.Apart, func(r Range) bool { return r.within(reg) })
}

// within reports whether reg holds all of r.
func (r Range) within(reg Register) bool {
	return (r.Table == 0 || r.Table == reg.Table) && r.First >= reg.Address && int(r.Last) < reg.end()
}

// illegal reports whether s is a point that the device refuses.
func (k *known) illegal(s *span) bool {
	return len(s.atoms) == 1 && slices.Contains(k.facts.Illegal, rangeOf(s.reg))
}

// resting returns why s, if it is an illegal point, is not to be asked now.
func (k *known) resting(s *span) error {
	if len(s.atoms) > 1 {
		return nil
	}
	if r := k.refusals[rangeOf(s.reg)]; time.Now().Before(r.again) {
		return r.err
	}
	return nil
}

// answered notes that s was read.
func (k *known) answered(s *span) {
	k.longest[s.reg.Table] = max(k.longest[s.reg.Table], s.reg.count())
	if len(s.atoms) > 1 || len(k.facts.Illegal)+len(k.facts.Holes) == 0 {
		return
	}
	r := rangeOf(s.reg)
	delete(k.refusals, r)
	illegal, holes := len(k.facts.Illegal), len(k.facts.Holes)
	k.facts.Illegal = slices.DeleteFunc(k.facts.Illegal, func(i Range) bool { return i == r })
	k.facts.Holes = slices.DeleteFunc(k.facts.Holes, func(h Range) bool { return h.within(s.reg) })
	if len(k.facts.Illegal)+len(k.facts.Holes) < illegal+holes {
		k.changed(fmt.Sprintf("the device gives %v now, which it refused", s.reg))
	}
}

// refused notes that the device refuses s, a single atom.
func (k *known) refused(s *span, err error) {
	r := rangeOf(s.reg)
	k.refusals[r] = refusal{err, time.Now().Add(illegalRetry)}
	if slices.Contains(k.facts.Illegal, r) {
		return
	}
	k.facts.Illegal = append(k.facts.Illegal, r)
	var names, drop []string
	for p := range s.points() {
		names = append(names, p.point.Name)
		drop = append(drop, fmt.Sprintf("points.%q = false", p.point.Name))
	}
	k.changed(fmt.Sprintf("the device refuses %v (%s); asking for it alone every %v; if it has no such register, write %s",
		s.reg, strings.Join(names, ", "), illegalRetry, strings.Join(drop, ", ")))
}

// hole notes that the device refuses reg, in which no point lies.
func (k *known) hole(u Unit, reg Register) {
	k.facts.Holes = append(k.facts.Holes, rangeOf(reg))
	var forbid []string
	for _, r := range append(slices.Clone(u.quirks().Forbid), k.facts.Holes...) {
		forbid = append(forbid, fmt.Sprintf("%q", r))
	}
	k.changed(fmt.Sprintf("the device refuses %v, which lies between its points; reading around it; to begin so, write forbid = [%s]",
		reg, strings.Join(forbid, ", ")))
}

// apart notes that the device refuses reg but gives it in two parts, the
// second from border on.
func (k *known) apart(reg Register, border uint16) {
	k.facts.Apart = append(k.facts.Apart, Range{reg.Table, border - 1, border})
	news := fmt.Sprintf("the device refuses %v at once but gives it in two parts; asking for %v and %v apart", reg, border-1, border)
	if n := k.longest[reg.Table]; n < reg.count() {
		if reg.Table.Bits() {
			n = max(1, n/16)
		}
		news += fmt.Sprintf("; if it bears no longer requests, write max_read = %d", n)
	}
	k.changed(news)
}

// noMask notes that the device does not know function 22.
func (k *known) noMask() {
	if k.facts.NoMask {
		return
	}
	k.facts.NoMask = true
	k.changed("the device does not know function 22, which sets one bit; from now on its register is read and written back with that bit changed; to begin so, write function = 6 with the point's write")
}

func (k *known) changed(news string) {
	k.version++
	if k.notebook != nil {
		k.notebook.Learned(k.device, k.facts.clone(), news)
	}
}
