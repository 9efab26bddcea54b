package devices

import (
	"math"
	"time"
)

// The numbers behind "a dead device costs a bounded share of its bus".
const (
	silentAfter = 3                // queries in a row without an answer
	firstProbe  = 2 * time.Second  // back-off of a silent device, doubling
	lastProbe   = 60 * time.Second //
	probeRest   = 10               // after a probe of cost c no silent device is probed for 10·c: all of them together take less than a tenth of the bus

	firstReopen = 1 * time.Second // back-off of a missing port, doubling
	lastReopen  = 10 * time.Second

	firstSlots = time.Second // all jobs begin within this time
)

const never = Stamp(math.MaxInt64)

// A schedule says which job of a bus is to run next. It is a pure function of
// time: it holds no clock and starts nothing; its owner says what time it is
// and how things went.
//
// A job is one device at one interval. Its slots follow each other at that
// interval from a phase of its own, so that the jobs of a bus do not all fire
// at once. The job whose slot ends first runs first, and the choice is made
// again after each query, so that a long cycle never holds up a short one by
// more than one query. A slot that ends before its job was free again is
// skipped and counted as an overrun: at most one cycle of a job is ever owed.
//
// A device that does not answer three times in a row is silent. Its jobs rest,
// and one query now and then probes it. At its first answer all of its jobs
// are due at once.
type schedule struct {
	jobs  []job
	units []unit
	rest  Stamp // no silent unit is probed before

	// While the port is missing, nothing but one query at reopen is tried.
	missing bool
	reopen  Stamp
	backoff time.Duration
}

type job struct {
	unit     int // index in units
	every    time.Duration
	phase    Stamp  // a slot begins here and every interval after
	due      Stamp  // when its present cycle was to begin, or its next one is
	ran      Stamp  // when its last query ended; breaks ties
	overruns uint64 // slots skipped
}

// A unit is a device as the schedule sees it.
type unit struct {
	misses  int // queries in a row without an answer
	silent  bool
	prober  int           // job that asks for it while silent
	probe   Stamp         // when it may be asked
	backoff time.Duration // until then, from its last miss
}

// newSchedule staggers the jobs: all begin within a second, or within their
// interval if that is shorter, and then settle to slots spread evenly over it.
func newSchedule(now Stamp, jobs []job, units int) *schedule {
	s := &schedule{jobs: jobs, units: make([]unit, units)}
	n := time.Duration(len(jobs))
	for i := range jobs {
		j, k := &jobs[i], time.Duration(i)
		j.due = now + Stamp(min(j.every, firstSlots)/n*k)
		j.phase = now + Stamp(j.every/n*k) - Stamp(j.every)
	}
	for i := len(jobs) - 1; i >= 0; i-- {
		s.units[jobs[i].unit].prober = i
	}
	return s
}

// next returns the job whose next query is to run now, or −1 and how long
// there is nothing to do.
func (s *schedule) next(now Stamp) (int, time.Duration) {
	if len(s.jobs) == 0 {
		return -1, time.Duration(never)
	}
	if s.missing {
		return s.nextReopen(now)
	}
	best, end, soonest := -1, never, never
	for i := range s.jobs {
		from, to := s.slot(i)
		if from > now {
			soonest = min(soonest, from)
		} else if best < 0 || to < end || to == end && s.jobs[i].ran < s.jobs[best].ran {
			best, end = i, to
		}
	}
	if best >= 0 {
		return best, 0
	}
	return -1, soonest.Sub(now)
}

func (s *schedule) nextReopen(now Stamp) (int, time.Duration) {
	if s.reopen > now {
		return -1, s.reopen.Sub(now)
	}
	return 0, 0
}

// slot returns when job i may run and until when it should have. Probes of
// silent units go in the order in which they fell due: they are few, and a
// full bus shall not put them off for ever.
func (s *schedule) slot(i int) (from, to Stamp) {
	j := &s.jobs[i]
	u := &s.units[j.unit]
	switch {
	case !u.silent:
		return j.due, j.due + Stamp(j.every)
	case u.prober == i:
		return max(u.probe, s.rest), u.probe
	default:
		return never, never
	}
}

// ran notes that a query of the job ended.
func (s *schedule) ran(i int, now Stamp) { s.jobs[i].ran = now }

// ended notes that the job's cycle is over and moves it to its next slot: the
// one after the present, or the latest that has begun if whole slots went by.
// A job at rest has no slots: it is due when its unit answers.
func (s *schedule) ended(i int, now Stamp) {
	j := &s.jobs[i]
	if s.missing || s.units[j.unit].silent {
		return
	}
	every := Stamp(j.every)
	next := j.due + every - (j.due-j.phase)%every
	if late := now - next; late >= every {
		j.overruns += uint64(late / every)
		next += late / every * every
	}
	j.due = next
}

// answered notes that unit i is alive. It reports whether it was silent until
// now: then all of its jobs are due at once.
func (s *schedule) answered(i int, now Stamp) (woke bool) {
	u := &s.units[i]
	woke = u.silent
	if woke {
		s.dueNow(i, now)
	}
	*u = unit{prober: u.prober}
	return woke
}

// missed notes that a query to unit i had no answer and took the bus for
// cost. It reports whether the unit is silent from now on and was not before.
func (s *schedule) missed(i int, now Stamp, cost time.Duration) bool {
	u := &s.units[i]
	u.misses++
	if u.misses < silentAfter {
		return false
	}
	fell := !u.silent
	u.silent = true
	u.backoff = min(max(2*u.backoff, firstProbe), lastProbe)
	u.probe = now + Stamp(u.backoff)
	u.prober = s.jobAfter(u.prober, i)
	s.rest = max(s.rest, now+probeRest*Stamp(cost))
	return fell
}

// jobAfter returns the next job of the unit after job i, in a circle.
func (s *schedule) jobAfter(i, unit int) int {
	for range s.jobs {
		i = (i + 1) % len(s.jobs)
		if s.jobs[i].unit == unit {
			break
		}
	}
	return i
}

// unplugged notes that the port is missing, and plugged that it is back: all
// jobs are then due at once, and no unit counts as silent.
func (s *schedule) unplugged(now Stamp) {
	s.missing = true
	s.backoff = min(max(2*s.backoff, firstReopen), lastReopen)
	s.reopen = now + Stamp(s.backoff)
}

func (s *schedule) plugged(now Stamp) {
	s.missing, s.backoff = false, 0
	for i := range s.units {
		s.units[i] = unit{prober: s.units[i].prober}
		s.dueNow(i, now)
	}
}

func (s *schedule) dueNow(unit int, now Stamp) {
	for i := range s.jobs {
		if s.jobs[i].unit == unit {
			s.jobs[i].due = now
		}
	}
}
