package devices

import (
	"errors"
	"fmt"
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

// What becomes of each exchange is counted once, and so is its time.
func TestLedgerTellsResultsApart(t *testing.T) {
	dev := &Device{ID: "a"}
	l := newLedger("line", []*Device{dev}, 0)
	ms := Stamp(time.Millisecond)
	for i, e := range []struct {
		took       Stamp
		err, fault error
	}{
		{2 * ms, nil, nil},
		{3 * ms, nil, errors.New("register 7: illegal data address")},
		{1000 * ms, ErrTimeout, ErrTimeout},
		{20 * ms, fmt.Errorf("checksum: %w", ErrReply), ErrReply},
		{6000 * ms, ErrReply, ErrReply},
		{500 * ms, ErrPort, ErrPort},
	} {
		at := Stamp(i+1) * 10_000 * ms
		l.exchanged(dev, at-e.took, at-ms, at, e.err, e.fault)
	}
	s := l.read(100_000 * ms)
	got := [...]uint64{s.Requests, s.OK, s.Refused, s.Timeouts, s.Errors, s.NoPort, s.Devices[0].OK}
	if want := [...]uint64{6, 2, 1, 1, 3, 1, 2}; got != want {
		t.Errorf("requests, ok, refused, timeouts, errors, no port, ok of the device: %v, want %v", got, want)
	}
	if s.BusyTime != 6*time.Millisecond {
		t.Errorf("the bus was taken for %v", s.BusyTime)
	}
	want := Spans{Sum: 7025 * time.Millisecond} // without the one that had no port
	for _, i := range []int{1, 2, 9, 4, 12} {
		want.Counts[i]++
	}
	if s.Taken != want {
		t.Errorf("taken %v, want %v", s.Taken, want)
	}
	if e := s.Devices[0].Exceptions; len(e) != 1 || e[Cause(errors.New("x"))] != 1 {
		t.Errorf("exceptions %v", e)
	}
}

// A device that refuses with anything there is fills no memory, and what was
// read before does not change.
func TestExceptionsAreBounded(t *testing.T) {
	var d DeviceStats
	for i := range 1000 {
		d.refused(fmt.Sprint(i % 100))
	}
	before := d.Exceptions
	if len(before) != mostCauses+1 || before["3"] != 10 || before["other"] != 1000-10*mostCauses {
		t.Errorf("%v", before)
	}
	d.refused("3")
	if before["3"] != 10 || d.Exceptions["3"] != 11 {
		t.Errorf("before %v, now %v", before, d.Exceptions)
	}
}
