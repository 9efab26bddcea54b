package devices

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"sync"
	"time"
)

// BusStats are the figures of one bus. Counts run from the start of its
// Poller.
type BusStats struct {
	Bus      string        `json:"bus"`
	Requests uint64        `json:"requests"` // exchanges, or lines heard, or missed when asked for, on a bus that speaks by itself
	OK       uint64        `json:"ok"`       // of these: answered, be it with an exception
	Timeouts uint64        `json:"timeouts"` // no answer in time
	Errors   uint64        `json:"errors"`   // anything else: bad replies, no port
	NoPort   uint64        `json:"no_port"`  // of the errors: the port or connection was not there
	Refused  uint64        `json:"refused"`  // of those answered: with an exception, as all or some of it may not be read or written
	Busy     float64       `json:"busy"`     // share of the last minute in which the bus was taken, 0 to 1
	BusyTime time.Duration `json:"busy_ns"`  // in which it was taken, since the start
	Overruns uint64        `json:"overruns"` // slots that passed before their device could be asked
	Taken    Spans         `json:"-"`        // how long exchanges took for which there was a port; none on a bus that speaks by itself
	Dropped  uint64        `json:"dropped"`  // batches thrown away because their receiver was late
	Waiting  int           `json:"waiting"`  // queries of Poller.Do not begun yet

	// How late cycles began, from their slot to when their first request
	// left, in seconds, since the start: half of them, and 99 of 100, were not
	// later.
	LateHalf float64 `json:"late_p50"`
	LateMost float64 `json:"late_p99"`

	Pipeline int    `json:"pipeline,omitempty"` // requests that may be outstanding now; 0: one, as nothing else is wanted
	Narrowed string `json:"narrowed,omitempty"` // why these are fewer than configured

	LastBad string `json:"last_bad,omitempty"` // why the last line heard was thrown away, or did not come

	Port *PortStats `json:"port,omitempty"` // of a bus that speaks by itself; nil where nothing is counted

	PortDown  bool   `json:"port_down"`
	PortSince Stamp  `json:"port_since"` // when PortDown last changed
	PortError string `json:"port_error,omitempty"`

	Lent string `json:"lent,omitempty"` // to whom the bus is lent; "": to nobody

	Devices []DeviceStats `json:"devices"` // in the order of the configuration
}

// DeviceStats are the figures of one device. Stamps are boot time in
// nanoseconds, 0 for not yet.
type DeviceStats struct {
	Device      string `json:"device"` // Device.ID
	State       State  `json:"state"`
	Since       Stamp  `json:"since"` // of State
	Requests    uint64 `json:"requests"`
	OK          uint64 `json:"ok"`
	LastAnswer  Stamp  `json:"last_answer"`
	LastError   string `json:"last_error,omitempty"` // kept after the device is well again
	LastErrorAt Stamp  `json:"last_error_at"`

	// Exceptions are queries that the device answered with a refusal, by what
	// it said; there is no map while there was none.
	Exceptions map[string]uint64 `json:"exceptions,omitempty"`
}

// mostCauses bounds Exceptions against devices that answer with random codes:
// what is beyond counts as "other".
const mostCauses = 16

// refused counts an answer that refused. The map may have been handed out, so
// that it is never changed.
func (d *DeviceStats) refused(cause string) {
	if _, ok := d.Exceptions[cause]; !ok && len(d.Exceptions) >= mostCauses {
		cause = "other"
	}
	counts := make(map[string]uint64, len(d.Exceptions)+1)
	maps.Copy(counts, d.Exceptions)
	counts[cause]++
	d.Exceptions = counts
}

// SpanBounds are the upper bounds of the classes of Spans: from a fast TCP
// device to a slow line that retries.
var SpanBounds = [...]time.Duration{
	1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
}

// Spans are durations: how many there were up to each of SpanBounds and not
// up to the one before, the rest last, and all together.
type Spans struct {
	Counts [len(SpanBounds) + 1]uint64
	Sum    time.Duration
}

func (s *Spans) add(d time.Duration) {
	i := 0
	for i < len(SpanBounds) && d > SpanBounds[i] {
		i++
	}
	s.Counts[i]++
	s.Sum += d
}

// MarshalText makes a State its name in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) error {
	for state := Unknown; state <= Maintenance; state++ {
		if state.String() == string(text) {
			*s = state
			return nil
		}
	}
	return fmt.Errorf("%q is no state of a device", text)
}

// A ledger keeps the figures of a bus. Its Poller writes, anyone reads.
type ledger struct {
	mu    sync.Mutex
	stats BusStats
	load  load
	late  spread
	index map[*Device]int // in stats.Devices; never changed
}

func newLedger(bus string, devs []*Device, now Stamp) *ledger {
	l := &ledger{index: make(map[*Device]int), load: load{start: now}}
	l.stats = BusStats{Bus: bus, PortSince: now, Devices: make([]DeviceStats, len(devs))}
	for i, d := range devs {
		l.index[d] = i
		l.stats.Devices[i] = DeviceStats{Device: d.ID, Since: now}
	}
	return l
}

// exchanged enters one exchange with dev, which may be no device of the bus. It
// was begun then; of the bus it took the time from from on. fault is what to
// remember as its last error, nil for none.
func (l *ledger) exchanged(dev *Device, begun, from, to Stamp, err, fault error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load.add(from, to)
	l.stats.Requests++
	if !errors.Is(err, ErrPort) { // nothing was asked
		l.stats.Taken.add(to.Sub(begun))
	}
	switch {
	case err == nil:
		l.stats.OK++
		if fault != nil {
			l.stats.Refused++
		}
	case errors.Is(err, ErrTimeout):
		l.stats.Timeouts++
	default:
		l.stats.Errors++
		if errors.Is(err, ErrPort) {
			l.stats.NoPort++
		}
	}
	if i, ok := l.index[dev]; ok {
		l.stats.Devices[i].exchanged(to, err, fault)
	}
}

func (d *DeviceStats) exchanged(at Stamp, err, fault error) {
	d.Requests++
	if err == nil {
		d.OK++
		d.LastAnswer = at
	}
	if fault != nil {
		d.LastError, d.LastErrorAt = fault.Error(), at
		if err == nil {
			d.refused(Cause(fault))
		}
	}
}

func (l *ledger) setState(i int, s State, at Stamp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Devices[i].State, l.stats.Devices[i].Since = s, at
}

// setPort notes that the port is missing for the reason err, or with nil that
// it is there.
func (l *ledger) setPort(err error, at Stamp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.PortDown, l.stats.PortSince = err != nil, at
	if err != nil {
		l.stats.PortError = err.Error()
	}
}

// lend enters to whom the bus is lent, or with "" that it is back.
func (l *ledger) lend(to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Lent = to
}

func (l *ledger) overran(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Overruns += n
}

// began enters that a cycle began so much later than it was due.
func (l *ledger) began(late time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late.add(late)
}

func (l *ledger) pipelined(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Pipeline = n
}

// narrowed enters why fewer requests may be outstanding, and reports whether
// that is new.
func (l *ledger) narrowed(n int, why string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := l.stats.Narrowed == ""
	l.stats.Pipeline, l.stats.Narrowed = n, why
	return fresh
}

func (l *ledger) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Dropped++
}

// read returns a copy for the caller to keep.
func (l *ledger) read(now Stamp) BusStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Devices = slices.Clone(s.Devices)
	s.Busy, s.BusyTime = l.load.share(now), l.load.total
	s.LateHalf, s.LateMost = l.late.quantile(0.5).Seconds(), l.late.quantile(0.99).Seconds()
	return s
}

// A load adds up how long a bus was taken, in all and in each of the last 60
// seconds.
type load struct {
	start Stamp
	total time.Duration
	slots [60]struct {
		second int64 // which one of boot time it holds
		busy   time.Duration
	}
}

const second = Stamp(time.Second)

// add enters that the bus was taken from one moment to another.
func (l *load) add(from, to Stamp) {
	l.total += max(0, to.Sub(from))
	from = max(from, to-Stamp(len(l.slots))*second)
	for from < to {
		n := int64(from / second)
		end := min(to, Stamp(n+1)*second)
		slot := &l.slots[n%int64(len(l.slots))]
		if slot.second != n {
			slot.second, slot.busy = n, 0
		}
		slot.busy += end.Sub(from)
		from = end
	}
}

// share returns the part of the last minute, or of the time since the start,
// in which the bus was taken.
func (l *load) share(now Stamp) float64 {
	oldest := int64(now/second) - int64(len(l.slots)) + 1
	var busy time.Duration
	for _, slot := range l.slots {
		if slot.second >= oldest {
			busy += slot.busy
		}
	}
	span := now.Sub(max(l.start, Stamp(oldest)*second))
	if span <= 0 {
		return 0
	}
	return min(1, busy.Seconds()/span.Seconds())
}

// heard enters a batch that the i-th device sent by itself.
func (l *ledger) heard(i int, b *Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := &l.stats.Devices[i]
	for _, r := range b.Readings {
		if r.Err != nil {
			d.LastError, d.LastErrorAt = r.Err.Error(), r.At
		} else {
			d.LastAnswer = r.At
		}
	}
	d.Requests++
	if anyGood(b.Readings) {
		d.OK++
	}
}

// A spread counts durations by size, in steps of an eighth: from a microsecond,
// which less counts as, to half an hour.
type spread struct {
	counts [32 * 8]uint32
	n      uint32
}

func (s *spread) add(d time.Duration) {
	s.counts[spreadIndex(d)]++
	s.n++
}

// spreadIndex is eight times the binary logarithm of d in microseconds, by its
// first four digits.
func spreadIndex(d time.Duration) int {
	us := uint64(max(d/time.Microsecond, 1))
	exp := bits.Len64(us) - 1
	return min(8*exp+int(us<<3>>exp&7), 32*8-1)
}

// quantile returns a duration that the share q of all do not exceed, rounded up.
func (s *spread) quantile(q float64) time.Duration {
	want := uint32(math.Ceil(q * float64(s.n)))
	for i, sum := 0, uint32(0); i < len(s.counts) && want > 0; i++ {
		if sum += s.counts[i]; sum >= want {
			return time.Duration(float64(uint64(8+i%8+1)<<(i/8)) / 8 * float64(time.Microsecond))
		}
	}
	return 0
}
