package devices

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// BusStats are the figures of one bus. Counts run from the start of its
// Poller.
type BusStats struct {
	Bus      string  `json:"bus"`
	Requests uint64  `json:"requests"` // exchanges, or lines heard on a bus that speaks by itself
	OK       uint64  `json:"ok"`       // of these: answered, be it with an exception
	Timeouts uint64  `json:"timeouts"` // no answer in time
	Errors   uint64  `json:"errors"`   // anything else: bad replies, no port
	Busy     float64 `json:"busy"`     // share of the last minute in which the bus was taken, 0 to 1
	Overruns uint64  `json:"overruns"` // slots that passed before their device could be asked
	Dropped  uint64  `json:"dropped"`  // batches thrown away because their receiver was late
	Waiting  int     `json:"waiting"`  // queries of Poller.Do not begun yet

	LastBad string `json:"last_bad,omitempty"` // why the last line heard was thrown away

	Port *PortStats `json:"port,omitempty"` // of a bus that speaks by itself; nil where nothing is counted

	PortDown  bool   `json:"port_down"`
	PortSince Stamp  `json:"port_since"` // when PortDown last changed
	PortError string `json:"port_error,omitempty"`

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
}

// MarshalText makes a State its name in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) error {
	for state := Unknown; state <= Offline; state++ {
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

// exchanged enters one exchange with dev, which may be no device of the bus.
// fault is what to remember as its last error, nil for none.
func (l *ledger) exchanged(dev *Device, from, to Stamp, err, fault error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load.add(from, to)
	l.stats.Requests++
	switch {
	case err == nil:
		l.stats.OK++
	case errors.Is(err, ErrTimeout):
		l.stats.Timeouts++
	default:
		l.stats.Errors++
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

func (l *ledger) overran(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Overruns += n
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
	s.Busy = l.load.share(now)
	return s
}

// A load adds up how long a bus was taken in each of the last 60 seconds.
type load struct {
	start Stamp
	slots [60]struct {
		second int64 // which one of boot time it holds
		busy   time.Duration
	}
}

const second = Stamp(time.Second)

// add enters that the bus was taken from one moment to another.
func (l *load) add(from, to Stamp) {
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
