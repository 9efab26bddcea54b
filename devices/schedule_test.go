package devices

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const ms = time.Millisecond

// A simJob is one device at one interval on a simulated bus.
type simJob struct {
	unit    int
	every   time.Duration
	queries int
	cost    time.Duration // of each query
}

// A sim runs a schedule against simulated time.
type sim struct {
	s       *schedule
	jobs    []simJob
	left    []int // queries to go in the present cycle
	now     Stamp
	timeout time.Duration
	dead    func(unit int, now Stamp) bool

	cycles  []int
	starts  [][]Stamp
	busy    time.Duration
	silence time.Duration // bus time spent on dead units
	order   []int         // job of each query
}

func newSim(jobs ...simJob) *sim {
	m := &sim{jobs: jobs, timeout: 300 * ms, dead: func(int, Stamp) bool { return false }}
	m.left, m.cycles, m.starts = make([]int, len(jobs)), make([]int, len(jobs)), make([][]Stamp, len(jobs))
	plan, units := make([]job, len(jobs)), 0
	for i, j := range jobs {
		plan[i] = job{unit: j.unit, every: j.every}
		units = max(units, j.unit+1)
	}
	m.now = Stamp(time.Hour)
	m.s = newSchedule(m.now, plan, units, 0)
	return m
}

func (m *sim) run(d time.Duration) {
	for end := m.now + Stamp(d); m.now < end; {
		i, wait := m.s.next(m.now)
		if i < 0 {
			m.now += Stamp(wait)
			continue
		}
		m.query(i)
	}
}

func (m *sim) query(i int) {
	j := m.jobs[i]
	if m.left[i] == 0 {
		m.left[i] = j.queries
		m.starts[i] = append(m.starts[i], m.now)
	}
	m.order = append(m.order, i)
	if m.dead(j.unit, m.now) {
		m.now += Stamp(m.timeout)
		m.busy += m.timeout
		m.silence += m.timeout
		m.left[i] = 0
		m.s.ran(i, m.now)
		m.s.missed(j.unit, m.now, m.timeout)
		m.s.ended(i, m.now)
		return
	}
	m.now += Stamp(j.cost)
	m.busy += j.cost
	m.s.ran(i, m.now)
	m.s.answered(j.unit, m.now)
	if m.left[i]--; m.left[i] == 0 {
		m.cycles[i]++
		m.s.ended(i, m.now)
	}
}

func (m *sim) overruns() (n uint64) {
	for _, j := range m.s.jobs {
		n += j.overruns
	}
	return n
}

func TestScheduleKeepsIntervals(t *testing.T) {
	m := newSim(simJob{0, time.Second, 2, 20 * ms}, simJob{1, 500 * ms, 1, 20 * ms}, simJob{2, time.Minute, 10, 30 * ms})
	m.run(10 * time.Minute)
	for i, want := range []int{600, 1200, 10} {
		if got := m.cycles[i]; got < want-1 || got > want+1 {
			t.Errorf("job %d ran %d cycles, want %d", i, got, want)
		}
	}
	if n := m.overruns(); n != 0 {
		t.Errorf("%d overruns on a bus with room", n)
	}
}

func TestScheduleStaggersJobs(t *testing.T) {
	var jobs []simJob
	for u := range 10 {
		jobs = append(jobs, simJob{u, 10 * time.Second, 1, ms})
	}
	m := newSim(jobs...)
	begin := m.now
	m.run(time.Minute)
	for i, starts := range m.starts {
		if starts[0].Sub(begin) > firstSlots {
			t.Errorf("job %d began %v after the start", i, starts[0].Sub(begin))
		}
		if got := (starts[3] - starts[2]); got != Stamp(10*time.Second) {
			t.Errorf("job %d: interval %v", i, time.Duration(got))
		}
		if phase := starts[3].Sub(begin) % (10 * time.Second); phase != time.Duration(i)*time.Second {
			t.Errorf("job %d has phase %v, want %d s", i, phase, i)
		}
	}
}

func TestScheduleRunsEarliestDeadlineFirstBetweenQueries(t *testing.T) {
	m := newSim(simJob{0, time.Minute, 20, 100 * ms}, simJob{1, 300 * ms, 1, 10 * ms})
	m.run(3 * time.Second)
	longest, run := 0, 0
	for _, i := range m.order[:15] {
		if run++; i == 1 {
			run = 0
		}
		longest = max(longest, run)
	}
	if longest > 3 || m.cycles[1] < 9 {
		t.Errorf("the short job ran %d times and waited for %d queries of the long cycle: %v", m.cycles[1], longest, m.order)
	}
}

func TestScheduleSkipsMissedSlotsAndKeepsPhase(t *testing.T) {
	s := newSchedule(0, []job{{unit: 0, every: time.Second}}, 1, 0)
	for _, step := range []struct{ ended, due, overruns int }{ // ms
		{100, 1000, 0},
		{1900, 2000, 0},
		{3400, 3000, 0}, // the slot from 3 s has begun: late, not lost
		{7200, 7000, 3}, // 4, 5 and 6 s went by
		{7900, 8000, 3},
		{9000, 9000, 3},
	} {
		s.ended(0, Stamp(step.ended)*Stamp(ms))
		j := s.jobs[0]
		if j.due != Stamp(step.due)*Stamp(ms) || j.overruns != uint64(step.overruns) {
			t.Errorf("after a cycle that ended at %d ms: due %v, %d overruns, want %d ms, %d",
				step.ended, time.Duration(j.due), j.overruns, step.due, step.overruns)
		}
	}
}

// An overloaded bus runs all the time, owes nobody more than one cycle, and
// gives each job its turn.
func TestScheduleSharesAnOverloadedBus(t *testing.T) {
	jobs := []simJob{{0, time.Second, 1, 400 * ms}, {1, time.Second, 1, 400 * ms}, {2, 10 * time.Second, 4, 400 * ms}, {3, 100 * ms, 1, 50 * ms}}
	m := newSim(jobs...)
	m.run(10 * time.Minute)
	if share := m.busy.Seconds() / 600; share < 0.999 {
		t.Errorf("an overloaded bus was busy %.3f of the time", share)
	}
	if m.overruns() == 0 {
		t.Error("no overruns were counted")
	}
	for i, j := range m.s.jobs {
		if want := int(10 * time.Minute / j.every); m.cycles[i]*10 < want*3 {
			t.Errorf("job %d ran %d of %d cycles: starved", i, m.cycles[i], want)
		}
		if got := m.cycles[i] + int(j.overruns); got < int(10*time.Minute/j.every)-5 || got > int(10*time.Minute/j.every)+5 {
			t.Errorf("job %d: %d cycles and %d overruns do not add up to its slots", i, m.cycles[i], j.overruns)
		}
	}
}

func TestScheduleBoundsSilentUnits(t *testing.T) {
	for _, c := range []struct {
		name    string
		dead    int
		timeout time.Duration
	}{
		{"one", 1, 300 * ms},
		{"five", 5, 300 * ms},
		{"fifteen", 15, 300 * ms},
		{"slow timeout", 5, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			var jobs []simJob
			for u := range 20 {
				jobs = append(jobs, simJob{u, 5 * time.Second, 2, 40 * ms})
			}
			m := newSim(jobs...)
			m.timeout = c.timeout
			m.dead = func(u int, _ Stamp) bool { return u < c.dead }
			m.run(3 * time.Minute) // until all are found silent
			m.silence, m.cycles = 0, make([]int, 20)
			for _, j := range m.s.jobs {
				m.s.jobs[j.unit].overruns = 0
			}
			m.run(time.Hour)
			if share := m.silence.Hours(); share > 0.10 {
				t.Errorf("silent units took %.1f %% of the bus", 100*share)
			}
			if m.silence == 0 {
				t.Error("silent units were not probed")
			}
			for u := c.dead; u < 20; u++ {
				if m.cycles[u] < 719 {
					t.Errorf("unit %d: %d cycles of 720", u, m.cycles[u])
				}
			}
			for u := range c.dead {
				if m.s.jobs[u].overruns != 0 {
					t.Errorf("the slots of silent unit %d count as overruns", u)
				}
			}
		})
	}
}

func TestScheduleProbesWithBackoffAndRecoversAtOnce(t *testing.T) {
	m := newSim(simJob{0, time.Second, 1, 10 * ms}, simJob{0, 10 * time.Second, 3, 10 * ms})
	m.timeout = 100 * ms
	alive := m.now + Stamp(5*time.Minute)
	m.dead = func(_ int, now Stamp) bool { return now < alive }
	m.run(5 * time.Minute)
	if n := len(m.order); n < 3+5 || n > 3+5+6 { // 2+4+8+16+32+60…
		t.Errorf("%d queries to a dead device in 5 min", n)
	}
	m.order = nil
	for m.s.units[0].silent {
		m.run(ms)
	}
	m.run(50 * ms)
	seen := map[int]int{}
	for _, i := range m.order {
		seen[i]++
	}
	if seen[0] < 1 || seen[1] != 3 {
		t.Errorf("after the first answer: %v, want both full cycles at once", m.order)
	}
}

func TestScheduleReopensPortWithBackoff(t *testing.T) {
	s := newSchedule(0, []job{{unit: 0, every: time.Second}, {unit: 1, every: time.Second}}, 2, 0)
	var at []time.Duration
	now := Stamp(0)
	for range 6 {
		i, wait := s.next(now)
		for i < 0 {
			now += Stamp(wait)
			i, wait = s.next(now)
		}
		at = append(at, time.Duration(now))
		s.unplugged(now)
		s.ended(i, now)
	}
	for k, want := range []time.Duration{0, 1, 3, 7, 15, 25} {
		if at[k] != want*time.Second {
			t.Errorf("attempt %d at %v, want %v", k, at[k], want*time.Second)
		}
	}
	s.plugged(now)
	for i := range s.jobs {
		if s.jobs[i].due != now || s.jobs[i].overruns != 0 {
			t.Errorf("job %d after the port came back: %+v", i, s.jobs[i])
		}
	}
}

// Whatever the jobs and however devices come and go: next always makes
// progress, no job is owed more than one cycle, dead units stay within their
// share over any long time.
func TestScheduleProperties(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		var jobs []simJob
		for u := range 1 + r.IntN(12) {
			for range 1 + r.IntN(2) {
				jobs = append(jobs, simJob{u, time.Duration(50+r.IntN(20000)) * ms, 1 + r.IntN(4), time.Duration(1+r.IntN(60)) * ms})
			}
		}
		m := newSim(jobs...)
		outage := Stamp(time.Duration(1+r.IntN(20)) * time.Minute)
		m.dead = func(u int, now Stamp) bool { return (int64(now/outage)+int64(u))%3 == 0 }
		for range 60 {
			before := m.now
			m.run(time.Minute)
			if m.now.Sub(before) < time.Minute {
				t.Fatalf("seed %d: time stands still", seed)
			}
			for i, j := range m.s.jobs {
				if j.due < j.phase || j.due > m.now+2*Stamp(j.every) {
					t.Fatalf("seed %d: job %d is due at %v, now is %v", seed, i, j.due, m.now)
				}
			}
		}
	}
}

func TestScheduleWithoutJobsWaits(t *testing.T) {
	if i, wait := newSchedule(0, nil, 0, 0).next(5); i != -1 || wait < time.Hour {
		t.Errorf("next = %d, %v", i, wait)
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	m := newSim(simJob{0, time.Second, 1, ms}, simJob{1, time.Second, 1, ms})
	if n := testing.AllocsPerRun(100, func() { m.s.next(m.now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Jobs of one unit begin together whenever their intervals end together; the
// units are spread over each interval.
func TestScheduleSharesPhasesWithinAUnit(t *testing.T) {
	var jobs []simJob
	intervals := []time.Duration{time.Second, 10 * time.Second, 60 * time.Second}
	for u := range 20 {
		for _, every := range intervals {
			jobs = append(jobs, simJob{u, every, 1, ms})
		}
	}
	m := newSim(jobs...)
	m.run(10 * time.Minute)
	for k, every := range intervals {
		var phases []Stamp
		for i := k; i < len(jobs); i += len(intervals) {
			j := m.s.jobs[i]
			if (j.phase-m.s.jobs[i-k].phase)%Stamp(time.Second) != 0 {
				t.Errorf("job %d has phase %v, the quickest of its unit %v", i, j.phase, m.s.jobs[i-k].phase)
			}
			phases = append(phases, (j.phase%Stamp(every)+Stamp(every))%Stamp(every))
		}
		for _, from := range phases {
			n := 0
			for _, p := range phases {
				if d := (p - from + Stamp(every)) % Stamp(every); d < Stamp(every/5) {
					n++
				}
			}
			if n > 7 { // 4 would be even
				t.Errorf("at %v %d of 20 units begin within a fifth of it", every, n)
			}
		}
	}
}

// Buses that are alike begin at once, and then at different times.
func TestScheduleSpreadsBuses(t *testing.T) {
	var phases []Stamp
	for i := range 1000 {
		p := &Poller{cfg: PollerConfig{Bus: fmt.Sprint("b", i)}}
		s := newSchedule(Stamp(time.Hour), []job{{every: time.Second}}, 1, p.offset())
		if s.jobs[0].due != Stamp(time.Hour) {
			t.Fatalf("due at %v", s.jobs[0].due)
		}
		phases = append(phases, s.jobs[0].phase%second)
	}
	var tenths [10]int
	for _, p := range phases {
		tenths[(p+second)%second/(second/10)]++
	}
	for i, n := range tenths {
		if n < 60 || n > 140 {
			t.Errorf("%d of 1000 buses begin in the tenth of a second %d", n, i)
		}
	}
}

// Aligned slots begin at multiples of the interval of wall time; when that is
// set, they move there without a burst and without a hole.
func TestScheduleAlignsToWallTime(t *testing.T) {
	for _, every := range []time.Duration{5 * time.Second, 7 * time.Second, 15 * time.Minute, 11 * time.Minute, 24 * time.Hour} {
		for _, step := range []time.Duration{0, ms, -ms, every / 100, -every / 100, every / 3, -every / 3, every / 2, 40*every + every/7, -9*every - every/5} {
			m := newSim(simJob{0, every, 1, ms}, simJob{1, every, 1, ms})
			wall := 1_790_000_000*time.Second + 123*ms
			m.s.align(wall, m.now+second)
			m.run(3*every + every/3)
			wall += step
			m.s.align(wall, m.now)
			stepped := m.now
			m.run(5 * every)
			for i, starts := range m.starts {
				short := 0
				for k := 1; k < len(starts); k++ {
					gap := starts[k].Sub(starts[k-1])
					if gap > every+every/nearby+2*ms {
						t.Errorf("every %v, step %v: job %d was not asked for %v", every, step, i, gap)
					}
					if gap < every-every/nearby-2*ms && k > 1 { // the first slot comes when it likes
						short++
					}
					if off := time.Duration(starts[k]+Stamp(wall)) % every; starts[k] > stepped+Stamp(2*every) && off > 2*ms {
						t.Errorf("every %v, step %v: job %d begins %v after its slot", every, step, i, off)
					}
				}
				if short > 1+1 {
					t.Errorf("every %v, step %v: job %d was asked too soon %d times: %v", every, step, i, short, starts)
				}
			}
		}
	}
}

// A clock that is slewed all the time neither doubles nor loses a slot.
func TestScheduleFollowsASlewedClock(t *testing.T) {
	for _, slew := range []time.Duration{ms, -ms} {
		m := newSim(simJob{0, 5 * time.Second, 1, ms})
		wall, begin := 1_790_000_000*time.Second, m.now
		m.s.align(wall, m.now+second)
		for range 1000 {
			m.run(10 * time.Second)
			wall += slew
			m.s.align(wall, m.now)
		}
		if want := int(m.now.Sub(begin) / (5 * time.Second)); m.cycles[0] < want-2 || m.cycles[0] > want+2 {
			t.Errorf("%d cycles of %d with a slew of %v", m.cycles[0], want, slew)
		}
	}
}
