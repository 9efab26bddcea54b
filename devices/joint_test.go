package devices

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// every sets the intervals of a device's points.
func every(d *Device, intervals ...time.Duration) *Device {
	for i, p := range d.Points {
		p.Every = intervals[i]
	}
	return d
}

func TestPollerReadsTogetherWhatIsDueTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.per = 3
		b := newBench(t, line, every(testDevice("a", 0, "x", "y", "z"), time.Second, 2*time.Second, 6*time.Second))
		b.run(60*time.Second + 100*ms)
		sizes := map[int]int{}
		for _, g := range b.got {
			sizes[g.good]++
		}
		// about 30 times x alone, 20 times x and y, and 10 times all three
		if sizes[1] < 29 || sizes[1] > 31 || sizes[2] < 19 || sizes[2] > 21 || sizes[3] < 9 || sizes[3] > 11 || len(b.got) != len(line.asked) {
			t.Errorf("batches by their size: %v, from %d queries", sizes, len(line.asked))
		}
	})
}

// What slow points take is no reason for a quick one to come late, and of each
// point the older reading comes first.
func TestJointCycleGivesWayToTheNextQuickOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.cost = 100 * ms
		d := testDevice("a", 10*time.Second, "x", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12")
		d.Points[0].Every = 500 * ms
		b := newBench(t, line, d)
		b.run(20*time.Second - 100*ms)
		readings := 0
		for i, g := range b.got {
			readings += g.good
			if i > 0 && g.at.Sub(b.got[i-1].at) > 600*ms {
				t.Errorf("batch %d came %v after the one before", i, g.at.Sub(b.got[i-1].at))
			}
		}
		if s := b.p.Stats(); s.Overruns > 0 {
			t.Errorf("%d overruns", s.Overruns)
		}
		asked := map[string]int{}
		for _, q := range line.asked {
			asked[q]++
		}
		if asked["a.x"] < 40 || asked["a.x"] > 41 || asked["a.s1"] != 2 || asked["a.s12"] != 2 || readings != asked["a.x"]+24 {
			t.Errorf("asked %v; %d readings", asked, readings)
		}
	})
}

// A query that rests in a joint plan does not keep quick points from being
// read: they are then asked for apart.
func TestJointPlanIsNotUsedWhileOneOfItsQueriesRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := newFakeLine()
		line.per = 2
		d := every(testDevice("a", 0, "x", "y"), time.Second, 2*time.Second)
		b := newBench(t, line, d)
		// Any query that reads y gets no answer.
		line.set(func() { line.silent = func(q *fakeQuery) bool { return slices.Contains(q.points, d.Points[1]) } })
		b.run(time.Minute)
		b.reset()
		b.run(time.Minute)
		good := 0
		for _, g := range b.got {
			good += g.good
		}
		if good < 57 {
			t.Errorf("x was read %d times in a minute", good)
		}
		b.wantState("a", Online)
	})
}

// No interval is missed because of joint plans that is met without.
func TestJointPlansMakeNothingLate(t *testing.T) {
	joint, free := 0, 0
	for seed := uint64(78); seed < 90; seed++ { // among which are some that miss intervals if joint plans are always used
		apart, _ := missedIntervals(t, seed, true)
		together, n := missedIntervals(t, seed, false)
		if apart == 0 {
			free++
			joint += n
			if together > 0 {
				t.Errorf("seed %d: %d intervals missed with joint plans, none without", seed, together)
			}
		}
	}
	if free < 8 || joint < 500 {
		t.Errorf("only %d of the buses meet all intervals, with %d joint queries: this shows little", free, joint)
	}
}

// missedIntervals runs a bus made from seed, and returns how often a point was
// read later than its interval, and how many queries read points of several.
func missedIntervals(t *testing.T, seed uint64, apart bool) (missed, joint int) {
	r := rand.New(rand.NewPCG(seed, 7))
	line := newFakeLine()
	line.per, line.cost, line.each, line.apart = 1+r.IntN(8), time.Duration(1+r.IntN(20))*ms, time.Duration(1+r.IntN(20))*ms, apart
	var devs []*Device
	for i := range 1 + r.IntN(6) {
		d := testDevice(fmt.Sprint("d", i), 0)
		base := time.Duration(1+r.IntN(8)) * 100 * ms
		for k := range 2 + r.IntN(8) {
			d.Points = append(d.Points, &Point{Name: fmt.Sprint("p", k), Source: testSource(fmt.Sprint(k)), Every: base * time.Duration([]int{1, 2, 5, 10, 20}[r.IntN(5)])})
		}
		devs = append(devs, d)
	}
	synctest.Test(t, func(t *testing.T) {
		var p *Poller
		begin := testNow() + Stamp(5*time.Second) // until the start has settled
		line.judge = func(q *fakeQuery) {
			several := false
			for _, pt := range q.points {
				several = several || pt.Every != q.points[0].Every
				i := slices.IndexFunc(p.cycles, func(c cycle) bool { return slices.Contains(c.points, pt) })
				if j := p.sched.jobs[i]; testNow() > begin && testNow() > j.due+Stamp(j.every) {
					missed++
				}
			}
			if several {
				joint++
			}
		}
		out := make(chan *Batch, 4)
		var err error
		if p, err = NewPoller(PollerConfig{Bus: "x", Line: line, Devices: devs, Out: out, Now: testNow, Log: quiet}); err != nil {
			t.Fatal(err)
		}
		runFor(t, p, out, 30*time.Second)
	})
	return missed, joint
}

func TestTooManyIntervalsAreAnError(t *testing.T) {
	d := testDevice("a", time.Second)
	for i := range 70 {
		d.Points = append(d.Points, &Point{Name: fmt.Sprint(i), Source: testSource("x"), Every: time.Duration(i+1) * time.Second})
	}
	if _, err := NewPoller(PollerConfig{Bus: "b", Line: newFakeLine(), Devices: []*Device{d}}); err == nil {
		t.Error("no error")
	}
}
