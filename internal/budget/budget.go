// Package budget says, before anything runs, what a configuration asks of a
// bus: the requests, how long each takes, how much of the bus's time they
// need together, whether every interval can be met, and if not, what to do.
//
// # The model
//
// A request takes the time of its bytes and of those of its answer on the
// slowest line of its way, the silences of 3.5 characters around them, the
// pause its unit wants, and the device's thinking, which is assumed. A bus
// carries one request at a time. The points of one device and interval are a
// group; its requests are asked one by one, the group whose interval ends first
// before all others, and a request under way is never broken off. Groups of a
// device that fall due together are asked for by the cheapest requests for all
// of them, if those that read points of the quickest one can be done by its time
// beside what else the bus does then, or if the bus is overloaded anyway. That is
// what devices.Poller does. Where several requests may be outstanding (pipeline)
// the bus is taken for one that is so many times as fast.
//
// Together groups only take less time than apart, and are never asked for
// together where that could make an interval late, so that whether all are met
// is asked of the groups apart. For jobs of that kind all intervals are met, however the jobs are shifted
// against each other, if the load is at most 1 and for every span of time L
// what must be done within L fits into it together with one request of any job
// that need not be (the test of Jeffay, Stanat and Martel, 1991, with requests
// for what cannot be broken off).
package budget

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
)

// What is assumed of a device's thinking, from the end of a request to the
// beginning of its answer, until somebody has measured it.
const (
	SerialThinking  = 20 * time.Millisecond
	NetworkThinking = 5 * time.Millisecond
)

// Full is the load from which a bus counts as full: less than a tenth of its
// time is then left for writes, repetitions and the probing of silent units.
const Full = 0.9

// A Budget is what is asked of one bus.
type Budget struct {
	Thinking time.Duration // assumed of each device
	Jobs     []Job         // by interval, shortest first
	Groups   []Job         // as they would be apart: each device's groups alone
	Load     float64       // share of the bus's time that is needed; above 1 it cannot be had
	Late     []Late        // intervals that cannot always be met though the load is below 1
	Remedies []string      // what to do if the bus is full: half sentences

	cfg  modbus.Config
	devs []*devices.Device
}

// A Job is what one device is asked for when groups of it are due.
type Job struct {
	Device   *devices.Device
	Every    time.Duration   // of the quickest of them
	With     []time.Duration // of the others
	Rate     float64         // how often that is, per second: 1/Every less the times when other groups are due too
	Requests []Request
	Load     float64

	time    time.Duration // of all requests
	longest time.Duration // of them
	head    time.Duration // of those that read points of the quickest
}

// A Request is one exchange with the time it takes.
type Request struct {
	modbus.Request
	Time time.Duration // its Wire and the device's thinking
}

// A Late is an interval that is not always met.
type Late struct {
	Job   *Job
	By    time.Duration // at most, as far as was looked
	Other *Job          // whose longest request it may have to wait for; nil: none
}

// Of plans the devices of a bus. thinking 0 assumes what is usual.
func Of(cfg modbus.Config, devs []*devices.Device, thinking time.Duration) (*Budget, error) {
	usual := NetworkThinking
	if cfg.Slowest().Baud > 0 {
		usual = SerialThinking
	}
	cfg.Notebook = modbus.Presumed(devs)
	b := &Budget{Thinking: cmp.Or(thinking, usual), cfg: cfg, devs: devs}
	if err := b.plan(); err != nil {
		return nil, err
	}
	b.findLate()
	if b.Load > Full {
		b.findRemedies()
	}
	return b, nil
}

func (b *Budget) plan() error {
	line, err := modbus.NewLine(b.cfg)
	if err != nil {
		return err
	}
	defer line.Close() // it is never opened
	plans := make([][]devices.Group, len(b.devs))
	for i, dev := range b.devs {
		if plans[i], err = devices.Groups(line, dev); err != nil {
			return err
		}
		for _, g := range plans[i] {
			j := Job{Device: dev, Every: g.Every, Rate: 1 / g.Every.Seconds()}
			b.fill(&j, g.Queries, g)
			b.Groups = append(b.Groups, j)
		}
	}
	apart := total(b.Groups)
	for i, dev := range b.devs {
		for _, m := range meetings(plans[i]) {
			if err := b.together(line, dev, m, apart); err != nil {
				return err
			}
		}
	}
	b.Load = total(b.Jobs)
	for _, jobs := range [][]Job{b.Jobs, b.Groups} {
		slices.SortStableFunc(jobs, func(x, y Job) int { return cmp.Compare(x.Every, y.Every) })
	}
	return nil
}

func total(jobs []Job) (load float64) {
	for _, j := range jobs {
		load += j.Load
	}
	return load
}

// together adds the jobs for groups of dev that are due at once: one for as many
// of the quicker ones as can be asked for together, and one for each of the
// others.
func (b *Budget) together(line devices.Line, dev *devices.Device, m meeting, apart float64) error {
	n := len(m.groups)
	for ; n > 1; n-- {
		j, err := b.joint(line, dev, m, n)
		if err != nil {
			return err
		}
		others := apart
		for _, g := range m.groups[:n] {
			others -= b.group(dev, g.Every).Load
		}
		if apart > 1 || j.head.Seconds()/j.Every.Seconds()/float64(b.Lanes())+others <= 1 {
			b.add(j)
			break
		}
	}
	if n == 1 {
		n = 0
	}
	for _, g := range m.groups[n:] {
		j := *b.group(dev, g.Every)
		j.Rate = m.rate
		b.add(j)
	}
	return nil
}

// group returns the job of a group alone.
func (b *Budget) group(dev *devices.Device, every time.Duration) *Job {
	i := slices.IndexFunc(b.Groups, func(j Job) bool { return j.Device == dev && j.Every == every })
	return &b.Groups[i]
}

// joint returns the job for the first n groups of m.
func (b *Budget) joint(line devices.Line, dev *devices.Device, m meeting, n int) (Job, error) {
	j := Job{Device: dev, Every: m.groups[0].Every, Rate: m.rate}
	var points []*devices.Point
	for i, g := range m.groups[:n] {
		points = append(points, g.Points...)
		if i > 0 {
			j.With = append(j.With, g.Every)
		}
	}
	queries, err := line.Plan(dev, points)
	b.fill(&j, queries, m.groups[0])
	return j, err
}

// fill enters the requests of queries. quickest is the group of which head is.
func (b *Budget) fill(j *Job, queries []devices.Query, quickest devices.Group) {
	for _, q := range queries {
		head := slices.ContainsFunc(q.Points(), func(p *devices.Point) bool { return slices.Contains(quickest.Points, p) })
		for _, r := range modbus.Requests(q) {
			t := r.Wire + b.Thinking
			j.Requests = append(j.Requests, Request{r, t})
			j.time, j.longest = j.time+t, max(j.longest, t)
			if head {
				j.head += t
			}
		}
	}
	j.Load = b.load(j)
}

// add adds j, to the same job at other times if there is one.
func (b *Budget) add(j Job) {
	i := slices.IndexFunc(b.Jobs, func(o Job) bool {
		return o.Device == j.Device && o.Every == j.Every && slices.Equal(o.With, j.With)
	})
	if i < 0 {
		i = len(b.Jobs)
		b.Jobs = append(b.Jobs, j)
		b.Jobs[i].Rate = 0
	}
	b.Jobs[i].Rate += j.Rate
	b.Jobs[i].Load = b.load(&b.Jobs[i])
}

func (b *Budget) load(j *Job) float64 { return j.time.Seconds() * j.Rate / float64(b.Lanes()) }

// Lanes is how many requests may be outstanding at a time.
func (b *Budget) Lanes() int { return max(1, b.cfg.Pipeline) }

// A meeting is groups of a device, by rising interval, and how often just they
// are due together, per second.
type meeting struct {
	groups []devices.Group
	rate   float64
}

// maxSlots bounds how many moments meetings looks at: intervals that have little
// in common all meet very seldom.
const maxSlots = 100_000

// meetings returns which groups fall due together, and how often, where all
// began at once.
func meetings(groups []devices.Group) []meeting {
	if len(groups) == 0 {
		return nil
	}
	counts := make(map[string]int)
	due := make([]time.Duration, len(groups))
	now := time.Duration(0)
	for n := 0; n < maxSlots && (n == 0 || slices.Max(due) > now); n++ {
		var who []byte
		for i, g := range groups {
			if due[i] == now {
				who = append(who, byte(i))
				due[i] += g.Every
			}
		}
		counts[string(who)]++
		now = slices.Min(due)
	}
	var list []meeting
	for _, who := range slices.Sorted(maps.Keys(counts)) {
		m := meeting{rate: float64(counts[who]) / now.Seconds()}
		for _, i := range []byte(who) {
			m.groups = append(m.groups, groups[i])
		}
		list = append(list, m)
	}
	return list
}

// Time is how long one cycle of the job takes on a bus that is free.
func (j *Job) Time() time.Duration { return j.time }

// maxSpans bounds how many spans of time findLate looks at.
const maxSpans = 20_000

// findLate looks for spans of time in which more is to be done than fits. Only
// short ones need looking at: in a span L at most Load·L is to be done by its
// end, so that from longest/(1−Load) on there is room for any request.
func (b *Budget) findLate() {
	if total(b.Groups) >= 1 {
		return
	}
	var longest time.Duration
	for i := range b.Groups {
		longest = max(longest, b.Groups[i].longest)
	}
	end := time.Duration(min(longest.Seconds()/(1-total(b.Groups)), 1e6) * float64(time.Second))
	left := maxSpans
	for i := range b.Groups {
		worst := Late{Job: &b.Groups[i]}
		for span := b.Groups[i].Every; span <= end && left > 0; span += b.Groups[i].Every {
			left--
			if by, other := b.excess(span); by > worst.By {
				worst.By, worst.Other = by, other
			}
		}
		if worst.By > 0 {
			b.Late = append(b.Late, worst)
		}
	}
}

// excess returns by how much the work that must be done within span, together
// with the longest request of the jobs that need not be, exceeds it. other is
// the job with that request.
func (b *Budget) excess(span time.Duration) (by time.Duration, other *Job) {
	var work, blocking time.Duration
	for i := range b.Groups {
		j := &b.Groups[i]
		if j.Every <= span {
			work += time.Duration(span/j.Every) * j.time
		} else if j.longest > blocking {
			blocking, other = j.longest, j
		}
	}
	return work/time.Duration(b.Lanes()) + blocking - span, other
}

// bauds are the speeds that devices have as a rule.
var bauds = []int{9600, 19200, 38400, 57600, 115200}

func (b *Budget) findRemedies() {
	line := b.cfg.Slowest()
	if line.Baud > 0 {
		baud, load := b.fasterLine(line.Baud)
		if baud > 0 {
			b.Remedies = append(b.Remedies, fmt.Sprintf("raise the baud rate to %d, where it needs %s", baud, Percent(load)))
		}
	}
	if s := b.slower(); s != "" {
		b.Remedies = append(b.Remedies, "set "+s)
	}
	if b.cfg.Serial.Baud > 0 && len(b.devs) > 1 {
		b.Remedies = append(b.Remedies, "move devices to another port")
	}
}

// fasterLine returns the lowest baud rate at which the bus is not full, 0 if
// there is none.
func (b *Budget) fasterLine(now int) (baud int, load float64) {
	for _, baud := range bauds {
		if baud <= now {
			continue
		}
		faster := &Budget{Thinking: b.Thinking, cfg: b.cfg, devs: b.devs}
		faster.cfg.Serial.Baud = baud
		if b.cfg.Behind != nil {
			behind := *b.cfg.Behind
			behind.Baud = baud
			faster.cfg.Behind = &behind
		}
		if faster.plan() == nil && faster.Load <= Full {
			return baud, faster.Load
		}
	}
	return 0, 0
}

// intervals are those that people choose.
var intervals = []time.Duration{
	20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	1 * time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	1 * time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
}

// slower says which intervals to lengthen: always all jobs of that one which
// takes the most time, until the bus is not full.
func (b *Budget) slower() string {
	now := make(map[time.Duration]time.Duration) // by what it was
	shares := make(map[time.Duration]float64)
	for _, j := range b.Groups {
		now[j.Every] = j.Every
		shares[j.Every] += j.Load
	}
	for load := total(b.Groups); load > Full; {
		var worst time.Duration
		for every := range now {
			if worst == 0 || shares[every] > shares[worst] || shares[every] == shares[worst] && every < worst {
				worst = every
			}
		}
		next := slices.IndexFunc(intervals, func(d time.Duration) bool { return d > now[worst] })
		if next < 0 {
			return ""
		}
		load -= shares[worst]
		shares[worst] *= now[worst].Seconds() / intervals[next].Seconds()
		load += shares[worst]
		now[worst] = intervals[next]
	}
	var text string
	for _, j := range b.Groups {
		if to, asked := now[j.Every]; asked && to != j.Every {
			text += fmt.Sprintf("%severy = %q in place of %q", map[bool]string{true: ", "}[text != ""], Brief(to), Brief(j.Every))
			delete(now, j.Every)
		}
	}
	return text
}

// Trouble says in one sentence what is wrong with the bus called name, "" if
// nothing is.
func (b *Budget) Trouble(name string) string {
	switch {
	case b.Load > Full:
		text := fmt.Sprintf("bus %s needs %s of its time", name, Percent(b.Load))
		if b.Load <= 1 {
			text += ", which leaves little for writes, repetitions and silent devices"
		} else {
			text += ", so that intervals will be skipped"
		}
		for i, r := range b.Remedies {
			text += map[bool]string{true: ": ", false: ", or "}[i == 0] + r
		}
		return text
	case len(b.Late) > 0:
		l := b.Late[0]
		text := fmt.Sprintf("bus %s cannot always ask %s every %v: it may be %v late", name, l.Job.Device.ID, Brief(l.Job.Every), Brief(l.By))
		if l.Other != nil {
			text += fmt.Sprintf(", when a request to %s is under way, which takes %v; a smaller max_read there makes it shorter", l.Other.Device.ID, Brief(l.Other.longest))
		}
		return text
	}
	return ""
}

// Percent writes a share as people read it; it never rounds an overload away.
func Percent(share float64) string {
	switch p := 100 * share; {
	case p > 0 && p < 0.95:
		return fmt.Sprintf("%.1f %%", p)
	case p > 100:
		return fmt.Sprintf("%.0f %%", math.Ceil(p))
	default:
		return fmt.Sprintf("%.0f %%", p)
	}
}

// Brief writes a duration with no more digits than anybody wants: 63 ms is
// 63ms, 63.4159 ms too, a minute is 1m.
func Brief(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}
