package devices

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestSpreadFindsQuantiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s spread
	if s.quantile(0.99) != 0 {
		t.Error("without anything")
	}
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(1000 * (1 + r.ExpFloat64()*float64(uint64(1)<<r.IntN(20))))
		all = append(all, d)
		s.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
		want := all[max(0, int(q*10_000)-1)]
		if got := s.quantile(q); got < want || got > want*9/8+time.Microsecond {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	for _, d := range []time.Duration{-time.Second, 0, time.Nanosecond, 1 << 62} {
		s.add(d)
	}
}
