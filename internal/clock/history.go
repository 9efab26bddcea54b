package clock

import (
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

const (
	// drift is the divisor for what a clock that nobody corrects may gain or
	// lose: 100 ppm.
	drift = 10_000
	// ExactWithin is how far a time that is called exact may be off.
	ExactWithin = time.Second
	// exactLimit is the error up to which the clock counts as exact, so that a
	// stamp near such a moment is still within ExactWithin.
	exactLimit = 900 * time.Millisecond
	// nearby is how far from a reference a stamp still has its quality: a little
	// more than the time between two looks at the kernel.
	nearby = 90 * time.Second
	// notedError is how far a time may be off that was called exact when it was
	// noted, a while after the kernel was asked.
	notedError = exactLimit + nearby/drift
	// sameOffset is a difference of offsets that is no step.
	sameOffset = 10 * time.Millisecond

	maxBoots   = 64 // in a history
	maxRefs    = 32 // of the present boot
	maxOldRefs = 6  // of each other: so that all fit into a slot of the file
)

const unknown = math.MaxInt64

// A ref is a moment at which wall time was known. All numbers are nanoseconds.
type ref struct {
	At     int64 `json:"at"`             // boot time
	Offset int64 `json:"offset"`         // wall time - boot time
	Error  int64 `json:"error"`          // wall time is at most so far off
	Slew   int64 `json:"slew,omitempty"` // by so much the clock was, at most, turned until the next one
	Held   bool  `json:"held,omitempty"` // it was exact all the time since the one before
}

// A bootID is the kernel's id of a boot.
type bootID [16]byte

func (b bootID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b[:]), nil }

func (b *bootID) UnmarshalText(text []byte) error {
	if n, err := hex.Decode(b[:], text[:min(len(text), 32)]); err != nil || n != len(b) {
		return errors.New("no boot id")
	}
	return nil
}

// A boot is what is known of the time from one start of the computer to its
// end.
type boot struct {
	ID     bootID `json:"id"`
	Offset int64  `json:"offset"` // wall - boot time as the computer had it when it knew no better
	Seen   int64  `json:"seen"`   // boot time at which it was still up
	Refs   []ref  `json:"refs,omitempty"`

	knots []knot
	low   int64 // wall time at which it began, at the earliest
	next  int64 // wall time at which it had ended, at the latest; unknown
}

// A knot is a ref with what those around it say of it.
type knot struct {
	ref
	lo, hi int64 // bounds of the offset
	cut    bool  // it contradicts the one before: one of them is wrong
}

// A history is what is known of this boot and earlier ones, in their order.
type history struct {
	Version int     `json:"version"`
	Floor   int64   `json:"floor"` // wall time before the first boot
	Boots   []*boot `json:"boots"`

	strangers map[bootID]*boot // that are not in it
}

// add makes a boot the present one, and forgets what is too old.
func (h *history) add(b *boot) {
	h.Boots = append(h.Boots, b)
	h.derive()
	for len(h.Boots) > maxBoots {
		h.Floor = max(h.Floor, h.Boots[0].endLow())
		h.Boots = h.Boots[1:]
	}
	for _, old := range h.Boots[:len(h.Boots)-1] {
		old.Refs = thin(old.Refs, maxOldRefs)
	}
	h.derive()
}

func (h *history) find(id bootID) *boot {
	for _, b := range slices.Backward(h.Boots) {
		if b.ID == id {
			return b
		}
	}
	return nil
}

// thin drops refs that tell least until n are left: first of those between
// which the clock was exact, then where they are densest.
func thin(refs []ref, n int) []ref {
	for len(refs) > n {
		best, least := 1, int64(unknown)
		for i := 1; i < len(refs)-1; i++ {
			before, r, after := refs[i-1], refs[i], refs[i+1]
			cost := after.At - before.At
			if !r.Held || !after.Held || !same(before.Offset, r.Offset) || !same(r.Offset, after.Offset) {
				cost += unknown / 2
			}
			if cost < least {
				best, least = i, cost
			}
		}
		refs[best-1].Slew += refs[best].Slew
		refs[best+1].Held = refs[best+1].Held && refs[best].Held
		refs = slices.Delete(refs, best, best+1)
	}
	return refs
}

func same(x, y int64) bool { return x-y <= int64(sameOffset) && y-x <= int64(sameOffset) }

// derive computes what follows from the refs.
func (h *history) derive() {
	for _, b := range h.Boots {
		b.derive()
	}
	h.bounds()
}

// bounds computes between what each boot must have been.
func (h *history) bounds() {
	low := max(h.Floor, begun.UnixNano())
	for _, b := range h.Boots {
		b.low = low
		low = b.endLow()
	}
	next := int64(unknown)
	for _, b := range slices.Backward(h.Boots) {
		b.next = next
		next = b.startHigh()
	}
}

// derive lets each ref say what it can of its neighbours: between two refs the
// clock has drifted by no more than it can.
func (b *boot) derive() {
	b.knots = b.knots[:0]
	for i, r := range b.Refs {
		k := knot{ref: r, lo: r.Offset - r.Error, hi: r.Offset + r.Error}
		if i > 0 {
			k.cut = !k.narrow(&b.knots[i-1], b.between(i-1))
		}
		b.knots = append(b.knots, k)
	}
	for i := len(b.knots) - 2; i >= 0; i-- {
		if !b.knots[i+1].cut {
			b.knots[i].narrow(&b.knots[i+1], b.between(i))
		}
	}
}

// between returns by how much the clock may have changed from ref i to the
// next.
func (b *boot) between(i int) int64 {
	return (b.Refs[i+1].At-b.Refs[i].At)/drift + b.Refs[i].Slew
}

// narrow narrows the bounds of k to what o allows; false: nothing is left.
func (k *knot) narrow(o *knot, change int64) bool {
	lo, hi := max(k.lo, o.lo-change), min(k.hi, o.hi+change)
	if lo > hi {
		return false
	}
	k.lo, k.hi = lo, hi
	return true
}

// endLow returns a wall time at which b was certainly still up.
func (b *boot) endLow() int64 {
	if len(b.knots) > 0 {
		return b.estimate(b.Seen).lo
	}
	return b.low + b.Seen - b.Seen/drift
}

// startHigh returns a wall time by which b certainly had begun.
func (b *boot) startHigh() int64 {
	switch {
	case len(b.knots) > 0:
		return b.estimate(0).hi
	case b.next == unknown:
		return unknown
	}
	return b.next - b.Seen + b.Seen/drift
}

// An estimate is a wall time with its bounds, in Unix nanoseconds.
type estimate struct {
	wall, lo, hi int64
	near         bool // the clock was synchronised then
	torn         bool // the references around contradict each other
}

// estimate returns the wall time of a stamp from b's references. They are
// taken all together, so that it rises with the stamp: the bounds do, and so
// does the line through the references between them.
func (b *boot) estimate(stamp int64) (e estimate) {
	n, found := slices.BinarySearchFunc(b.knots, stamp, func(k knot, t int64) int {
		switch {
		case k.At < t:
			return -1
		case k.At > t:
			return 1
		}
		return 0
	})
	if found {
		n++
	}
	var before, after *knot // n is the first one after stamp
	if n > 0 {
		before = &b.knots[n-1]
	}
	if n < len(b.knots) {
		after = &b.knots[n]
	}
	switch {
	case after == nil:
		d := stamp - before.At
		change := d/drift + before.Slew
		e = estimate{before.Offset, before.lo - change, before.hi + change, d <= int64(nearby), false}
	case before == nil:
		d := after.At - stamp
		e = estimate{after.Offset, after.lo - d/drift, after.hi + d/drift, d <= int64(nearby), false}
	default:
		e = betweenKnots(before, after, stamp)
	}
	e.wall = stamp + min(max(e.wall, e.lo), e.hi)
	e.lo, e.hi = stamp+e.lo, stamp+e.hi
	return e
}

// betweenKnots is estimate between two; its times are offsets.
func betweenKnots(before, after *knot, stamp int64) (e estimate) {
	past, left := stamp-before.At, after.At-stamp
	share := float64(past) / float64(past+left)
	e.wall = before.Offset + int64(share*float64(after.Offset-before.Offset))
	change, back := past/drift+before.Slew, left/drift+before.Slew
	e.near = after.Held || past <= int64(nearby) || left <= int64(nearby)
	if after.cut {
		e.lo, e.hi, e.torn = min(before.lo-change, after.lo-back), max(before.hi+change, after.hi+back), true
		return e
	}
	e.lo, e.hi = max(before.lo-change, after.lo-back), min(before.hi+change, after.hi+back)
	if after.Held { // and so it was within these at each moment
		within := int64(notedError) + max(after.Offset-before.Offset, before.Offset-after.Offset)
		lo, hi := max(e.lo, e.wall-within), min(e.hi, e.wall+within)
		if lo <= hi {
			e.lo, e.hi = lo, hi
		}
	}
	return e
}

// at returns how a stamp of a boot relates to wall time. found is what the
// record says of its boot.
func (h *history) at(found spool.BootRef, stamp int64) broker.Clock {
	b, known := h.find(found.ID), true
	if b == nil {
		b, known = h.stranger(found), false
	}
	if len(b.knots) == 0 {
		h.learn(b, found, stamp)
	}
	synced := beside(found, stamp)
	switch {
	case len(b.knots) > 0:
		e := b.estimate(stamp)
		e.near = e.near || synced != nil && synced.near
		return e.clock(stamp)
	case synced != nil:
		return synced.clock(stamp)
	}
	low, hi := begun.UnixNano(), int64(unknown)
	if known {
		low = b.low
		if hi = b.next; hi != unknown {
			rest := max(0, b.Seen-stamp)
			hi -= rest - rest/drift
		}
	} else if n := len(h.Boots); n > 0 { // it was before this one; nobody knows how long
		hi = h.Boots[n-1].startHigh()
	}
	return bounded(stamp, stamp+b.Offset, low+stamp-stamp/drift, hi)
}

// learn takes what a record tells of its boot for a reference, if it is one
// and there is no better: that was lost with the file, or the power failed
// before it was written.
func (h *history) learn(b *boot, found spool.BootRef, stamp int64) {
	if !found.Synced {
		return
	}
	r := ref{At: found.At, Offset: found.Offset, Error: int64(notedError)}
	if r.At == 0 { // of an older program: some time before
		r.At, r.Error = stamp, r.Error+stamp/drift
	}
	b.Refs = append(b.Refs[:0], r)
	b.Seen = max(b.Seen, r.At)
	b.derive()
	h.bounds()
}

// bounded is the clock of a boot without references.
func bounded(stamp, wall, lo, hi int64) broker.Clock {
	if hi == unknown {
		wall = max(wall, lo)
		return broker.Clock{Offset: wall - stamp, Quality: broker.Unsynced, Early: time.Duration(wall - lo), Late: unknown}
	}
	if lo > hi { // an earlier boot had a wrong time
		lo, hi = hi, lo
	}
	wall = min(max(wall, lo), hi)
	return broker.Clock{Offset: wall - stamp, Quality: broker.Bounded, Early: time.Duration(wall - lo), Late: time.Duration(hi - wall)}
}

// beside returns what a record that was committed with a synchronised clock
// says of a stamp; nil: it was not.
func beside(found spool.BootRef, stamp int64) *estimate {
	if !found.Synced {
		return nil
	}
	d := max(stamp-found.At, found.At-stamp)
	within := int64(notedError) + d/drift
	wall := stamp + found.Offset
	return &estimate{wall: wall, lo: wall - within, hi: wall + within, near: found.At != 0 && d <= int64(nearby)}
}

// maxStrangers bounds how many boots are followed that are not in the history.
const maxStrangers = 64

// stranger returns a boot that is not in the history, and of which only its
// records tell. It is the same for all of them, so that they keep their order.
func (h *history) stranger(found spool.BootRef) *boot {
	b := h.strangers[found.ID]
	if b == nil {
		if h.strangers == nil || len(h.strangers) >= maxStrangers {
			h.strangers = map[bootID]*boot{}
		}
		b = &boot{ID: found.ID, Offset: found.Offset}
		h.strangers[found.ID] = b
	}
	return b
}

func (e *estimate) clock(stamp int64) broker.Clock {
	c := broker.Clock{Offset: e.wall - stamp, Early: time.Duration(e.wall - e.lo), Late: time.Duration(e.hi - e.wall)}
	switch {
	case e.torn:
		c.Quality = broker.Bounded
	case e.near && c.Error() <= ExactWithin:
		return broker.Clock{Offset: c.Offset, Quality: broker.Exact}
	default:
		c.Quality = broker.Interpolated
	}
	return c
}
