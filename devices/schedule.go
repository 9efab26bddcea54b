package devices

import (
	"math"
	"slices"
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
	nearby     = 8           // slots that are no farther than an eighth of the interval from their new place move there
)

const never = Stamp(math.MaxInt64)

// A schedule says which job of a bus is to run next. It is a pure function of
// time: it holds no clock and starts nothing; its owner says what time it is
// and how things went.
//
// A job is one device at one interval. Its slots follow each other at that
// interval from a phase that the device's other jobs share, so that those whose
// intervals are multiples of each other begin together and can be asked for
// together; those of different devices do not all fire at once. Aligned, all
// slots begin at multiples of their interval of wall time instead. The job
// whose slot ends first runs first, and the choice is made again after each
// query, so that a long cycle never holds up a short one by more than one
// query. A slot that ends before its job was free again is skipped and counted
// as an overrun: at most one cycle of a job is ever owed.
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
	phase    Stamp         // a slot begins here and every interval after
	due      Stamp         // when its present cycle was to begin, or its next one is
	asap     bool          // due is no slot, but when it was found that all is to be read
	ran      Stamp         // when its last query ended; breaks ties
	overruns uint64        // slots skipped
	held     bool          // nothing of it may begin: all its queries are under way, or another job of its unit reads for it
	cost     time.Duration // of a cycle of it alone, as far as known
}

// A unit is a device as the schedule sees it.
type unit struct {
	misses  int   // queries in a row without an answer
	missed  Stamp // when the last of them was found to have none
	held    bool  // nothing may be asked of it: what it was asked before its cycle was broken off is under way
	out     bool  // nothing is asked of it, and nothing kept free for it
	silent  bool
	prober  int           // job that asks for it while silent
	probe   Stamp         // when it may be asked
	backoff time.Duration // until then, from its last miss
}

// newSchedule staggers the units: all begin within a second, or within their
// shortest interval if that is less, and then settle to slots spread evenly
// over each interval. offset, from 0 to 1, is by which part of the time between two
// units that is shifted, so that many buses do not all fire at once.
func newSchedule(now Stamp, jobs []job, units int, offset float64) *schedule {
	s := &schedule{jobs: jobs, units: make([]unit, units)}
	intervals := make([][]time.Duration, units)
	for i := len(jobs) - 1; i >= 0; i-- {
		u := jobs[i].unit
		s.units[u].prober = i
		intervals[u] = append(intervals[u], jobs[i].every)
	}
	for u := range intervals {
		slices.Sort(intervals[u])
	}
	for i := range jobs {
		j := &jobs[i]
		n, u := time.Duration(units), time.Duration(j.unit)
		j.asap = true
		j.due = now + Stamp(min(intervals[u][0], firstSlots)/n*u)
		shift := time.Duration(offset * float64(intervals[u][0]/n))
		j.phase = now + Stamp((phase(intervals[u], u, n)+shift)%j.every-j.every)
	}
	return s
}

// phase returns the phase, from some common moment, of the u-th of n units with
// these intervals, shortest first. By the shortest interval the units are 1/n of
// it apart; by the others, about as evenly, by whole multiples of the shorter
// ones, which change nothing for those. Units that are near each other by one
// interval are not so by the next.
func phase(intervals []time.Duration, u, n time.Duration) time.Duration {
	d := intervals[0] / n * u
	step, stride := intervals[0], max(1, n*5/8)
	for gcd(stride, n) > 1 {
		stride++
	}
	for _, every := range intervals[1:] {
		u = u * stride % n
		d += every / step * u / n * step
		if step *= every / gcd(step, every); step > intervals[len(intervals)-1] {
			break
		}
	}
	return d
}

func gcd(a, b time.Duration) time.Duration {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// align lets slots begin at multiples of their interval of wall time, which is
// ahead of boot time by wall. Called again after wall has changed, a slot that
// is near its new place moves there, as it does when the clock is slewed;
// another stays, if none of the new ones comes before it, and the next one
// begins in its new place. So no time between two slots is much longer than
// the interval, and none is made up for.
func (s *schedule) align(wall time.Duration, now Stamp) {
	for i := range s.jobs {
		j := &s.jobs[i]
		every := Stamp(j.every)
		j.phase = -(Stamp(wall) % every)
		if j.due <= now {
			continue
		}
		before := (j.due - j.phase) % every // how far it is behind the new slot before it
		switch slot := j.due - before; {
		case before <= every/nearby && slot > now:
			j.due = slot
		case every-before <= every/nearby:
			j.due = slot + every
		default:
			j.due = min(j.due, now+every-(now-j.phase)%every)
		}
	}
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
	i := slices.IndexFunc(s.jobs, func(j job) bool { return !s.units[j.unit].out })
	switch {
	case i < 0 || s.jobs[i].held || s.units[s.jobs[i].unit].held:
		return -1, time.Duration(never)
	case s.reopen > now:
		return -1, s.reopen.Sub(now)
	}
	return i, 0
}

// slot returns when job i may run and until when it should have. Probes of
// silent units go in the order in which they fell due: they are few, and a
// full bus shall not put them off for ever.
func (s *schedule) slot(i int) (from, to Stamp) {
	j := &s.jobs[i]
	u := &s.units[j.unit]
	switch {
	case j.held || u.held || u.out:
		return never, never
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
	j.held = false
	if s.missing || s.units[j.unit].silent {
		return
	}
	every := Stamp(j.every)
	next := j.due + every - (j.due-j.phase)%every
	if next-j.due < every/nearby { // it began just before its slot
		next += every
	}
	if late := now - next; late >= every {
		j.overruns += uint64(late / every)
		next += late / every * every
	}
	j.due, j.asap = next, false
}

// answered notes that unit i is alive. It reports whether it was silent until
// now: then all of its jobs are due at once.
func (s *schedule) answered(i int, now Stamp) (woke bool) {
	u := &s.units[i]
	woke = u.silent
	if woke {
		s.dueNow(i, now)
	}
	*u = unit{prober: u.prober, held: u.held}
	return woke
}

// missed notes that a query to unit i had no answer and took the bus for
// cost. It reports whether the unit is silent from now on and was not before.
func (s *schedule) missed(i int, now Stamp, cost time.Duration) bool {
	u := &s.units[i]
	u.missed = now
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
		s.units[i] = unit{prober: s.units[i].prober, held: s.units[i].held, out: s.units[i].out}
		s.dueNow(i, now)
	}
}

// leave lets a unit be as if it were not there, and enter has it back, with all
// of its jobs due at once and without a past.
func (s *schedule) leave(i int) { s.units[i].out = true }

func (s *schedule) enter(i int, now Stamp) {
	s.units[i] = unit{prober: s.units[i].prober, held: s.units[i].held}
	s.dueNow(i, now)
}

func (s *schedule) dueNow(unit int, now Stamp) {
	for i := range s.jobs {
		if s.jobs[i].unit == unit {
			s.jobs[i].due, s.jobs[i].asap = now, true
		}
	}
}

// due reports whether a cycle of job i may begin.
func (s *schedule) due(i int, now Stamp) bool {
	j := &s.jobs[i]
	return j.due <= now && !j.held && !s.units[j.unit].held && !s.units[j.unit].silent && !s.units[j.unit].out
}

// bears reports whether jobs of one unit that are due may be asked for
// together, the first of them, which is the quickest, at its own deadline with
// queries that take head in all, where alone it takes its cost. longest is the
// longest of all joint queries, before that of those in whose place they are.
//
// No interval may be missed for it that would be met otherwise. That holds if
// everything that begins before the quickest one's slot ends can be done by
// then: whatever is left of the bus's work at that time are queries of the
// slower ones, which are no more than without. Queries that are longer must
// leave jobs with a shorter interval their time. And where even alone the
// quickest one comes too late nothing is lost, but the bus gains.
func (s *schedule) bears(jobs []int, head, longest, before time.Duration, now Stamp) bool {
	first := &s.jobs[jobs[0]]
	end := first.due + Stamp(first.every)
	begun, ended := now+Stamp(head), now+Stamp(first.cost) // by when all is done that begins by end, and that must end by then
	for i := range s.jobs {
		j, from := &s.jobs[i], s.jobs[i].due
		if s.units[j.unit].silent || s.units[j.unit].out {
			continue
		}
		if slices.Contains(jobs, i) {
			from += Stamp(j.every)
		}
		if from < end {
			begun += ((end-1-from)/Stamp(j.every) + 1) * Stamp(j.cost)
			ended += (end - from) / Stamp(j.every) * Stamp(j.cost)
		}
	}
	return begun <= end && (longest <= before || s.leaves(longest, first.every)) || ended > end
}

// leaves reports whether a query that takes so long leaves the jobs with
// intervals shorter than every their time.
func (s *schedule) leaves(longest, every time.Duration) bool {
	for i := range s.jobs {
		span := s.jobs[i].every
		if span >= every || s.units[s.jobs[i].unit].out {
			continue
		}
		need := longest
		for k := range s.jobs {
			if !s.units[s.jobs[k].unit].out {
				need += span / s.jobs[k].every * s.jobs[k].cost
			}
		}
		if need > span {
			return false
		}
	}
	return true
}
