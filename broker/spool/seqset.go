package spool

import (
	"slices"
)

// A seqSet is a set of sequence numbers: all up to upto, and ranges beyond in
// rising order that neither touch each other nor upto.
type seqSet struct {
	upto   Seq
	ranges []span
}

// A span is the numbers lo to hi, both included.
type span struct{ lo, hi Seq }

func (s *seqSet) contains(n Seq) bool {
	if n <= s.upto {
		return true
	}
	_, found := slices.BinarySearchFunc(s.ranges, n, func(r span, n Seq) int {
		switch {
		case r.hi < n:
			return -1
		case r.lo > n:
			return 1
		}
		return 0
	})
	return found
}

// covers tells whether all of lo to hi are in the set.
func (s *seqSet) covers(lo, hi Seq) bool {
	if hi <= s.upto {
		return true
	}
	lo = max(lo, s.upto+1)
	for _, r := range s.ranges {
		if r.lo <= lo && hi <= r.hi {
			return true
		}
	}
	return false
}

// add puts lo to hi into the set and tells whether that changed it.
func (s *seqSet) add(lo, hi Seq) bool {
	if hi < lo || s.covers(lo, hi) {
		return false
	}
	if lo <= s.upto+1 {
		s.upto = hi
		s.absorb()
		return true
	}
	i := 0
	for i < len(s.ranges) && s.ranges[i].hi+1 < lo {
		i++
	}
	j := i
	for j < len(s.ranges) && s.ranges[j].lo <= hi+1 {
		lo, hi = min(lo, s.ranges[j].lo), max(hi, s.ranges[j].hi)
		j++
	}
	s.ranges = slices.Replace(s.ranges, i, j, span{lo, hi})
	return true
}

// absorb takes up the ranges that upto has reached.
func (s *seqSet) absorb() {
	n := 0
	for n < len(s.ranges) && s.ranges[n].lo <= s.upto+1 {
		s.upto = max(s.upto, s.ranges[n].hi)
		n++
	}
	s.ranges = slices.Delete(s.ranges, 0, n)
}

func (s *seqSet) clone() seqSet { return seqSet{s.upto, slices.Clone(s.ranges)} }

// widest returns the n ranges that hold most numbers, in rising order.
// Forgetting the others only makes records come again.
func (s *seqSet) widest(n int) []span {
	if len(s.ranges) <= n {
		return s.ranges
	}
	r := slices.Clone(s.ranges)
	slices.SortStableFunc(r, func(a, b span) int {
		switch x, y := a.hi-a.lo, b.hi-b.lo; {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	r = r[:n]
	slices.SortFunc(r, func(a, b span) int {
		if a.lo < b.lo {
			return -1
		}
		return 1
	})
	return r
}
