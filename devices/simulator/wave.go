package simulator

import (
	"hash/fnv"
	"math"
)

// A wave is smooth noise between −1 and 1: a pure function of time, so that
// the same seed and the same moment always give the same value. It is value
// noise: a random number at each multiple of the period, eased between.
type wave struct {
	seed   uint64
	period float64 // seconds
}

// newWave returns the wave that belongs to seed and a name.
func newWave(seed uint64, name string, period float64) wave {
	return wave{seed: hash(seed, name), period: period}
}

// at returns the value at t seconds.
func (w wave) at(t float64) float64 {
	k, x := math.Modf(t / w.period)
	if x < 0 {
		k, x = k-1, x+1
	}
	a, b := w.node(int64(k)), w.node(int64(k)+1)
	ease := x * x * (3 - 2*x)
	return a + (b-a)*ease
}

func (w wave) node(k int64) float64 {
	return 2*fraction(mix(w.seed+uint64(k)*0x9e3779b97f4a7c15)) - 1
}

// hash makes a seed from a seed and names.
func hash(seed uint64, names ...string) uint64 {
	h := fnv.New64a()
	for _, name := range names {
		h.Write([]byte(name))
		h.Write([]byte{0})
	}
	return mix(h.Sum64() ^ mix(seed))
}

// mix is the finaliser of SplitMix64: neighbouring inputs give unrelated
// outputs.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fraction maps x evenly to 0 ≤ f < 1.
func fraction(x uint64) float64 { return float64(x>>11) / (1 << 53) }
