package bridge

import (
	"maps"
	"sync"
	"time"

	"edgegateway/broker/spool"
)

// A State says how a bridge does.
type State string

const (
	Connecting State = "connecting" // not connected yet since the start
	Up         State = "up"
	Down       State = "down" // tries again and again
)

// Stats are counts since the start, and what there is now.
type Stats struct {
	Name      string    `json:"name"`
	State     State     `json:"state"`
	Since     time.Time `json:"since"`                // by the wall clock of now
	URL       string    `json:"url"`                  // host and port connected to or tried last
	LastError string    `json:"last_error,omitempty"` // in words; kept while up

	Sent      uint64            `json:"sent"`                  // PUBLISH packets, repetitions included
	Acked     uint64            `json:"acked"`                 // messages the far broker has
	Refused   map[string]uint64 `json:"refused,omitempty"`     // given up, by what the far broker said
	Postponed uint64            `json:"postponed,omitempty"`   // refused for lack of quota and tried again
	Skipped   map[string]uint64 `json:"skipped,omitempty"`     // not sent, by reason
	DayBytes  int64             `json:"day_bytes,omitempty"`   // over the link today, where that is bounded
	DayLimit  int64             `json:"day_limit,omitempty"`   // its bound
	Held      int64             `json:"held,omitempty"`        // readings that wait for the clock to be set
	HeldFor   time.Duration     `json:"held_for_ns,omitempty"` // at most so much longer
	Gaps      uint64            `json:"gaps"`                  // holes reported
	Lost      uint64            `json:"lost"`                  // records in them, as far as known
	LostBy    map[string]uint64 `json:"lost_by,omitempty"`     // these by reason
	Received  uint64            `json:"received"`              // published locally
	Rejected  uint64            `json:"rejected,omitempty"`    // received, but not published

	Timed   uint64        `json:"timed"`       // acknowledged messages whose PUBACK was waited for
	AckTime time.Duration `json:"ack_time_ns"` // from their PUBLISH to that, all together
	AckMean time.Duration `json:"ack_mean_ns"` // the same for one, of late

	Reconnects    uint64             `json:"reconnects"` // connections after the first
	InFlight      int                `json:"in_flight"`
	Backlog       map[string]Backlog `json:"backlog"`    // by class
	DrainRate     float64            `json:"drain_rate"` // acknowledged in a second, of late
	LongestOutage time.Duration      `json:"longest_outage_ns"`
}

// A Backlog is what the far broker has not acknowledged yet.
type Backlog struct {
	Records uint64        `json:"records"`
	Bytes   int64         `json:"bytes"`
	Oldest  time.Duration `json:"oldest_ns"` // age of the oldest record; 0: none, or not known
}

// counters hold what Stats shows. Any goroutine may use them.
type counters struct {
	mu sync.Mutex
	Stats
	changed  int64 // CLOCK_BOOTTIME of the last change of State
	outage   int64 // since when it is not up
	connects uint64

	rateFrom  int64 // DrainRate is counted from here
	rateAcked uint64
	rateTimed uint64
	rateTime  time.Duration
}

func (c *counters) skip(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Skipped[why]++
}

func (c *counters) add(n *uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

// rateWindow is how long acknowledgements are counted for DrainRate, in ns.
const rateWindow = 5e9

// ackedOne counts one acknowledged message at now, sent at sent if that had to
// be answered (ns).
func (c *counters) ackedOne(now, sent int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Acked++
	if sent > 0 {
		c.Timed++
		c.AckTime += time.Duration(now - sent)
	}
	c.rate(now)
}

// rate begins a new window if the present one is over.
func (c *counters) rate(now int64) {
	if d := now - c.rateFrom; d >= rateWindow {
		c.DrainRate = float64(c.Acked-c.rateAcked) * 1e9 / float64(d)
		c.AckMean = 0
		if n := c.Timed - c.rateTimed; n > 0 {
			c.AckMean = (c.AckTime - c.rateTime) / time.Duration(n)
		}
		c.rateFrom, c.rateAcked, c.rateTimed, c.rateTime = now, c.Acked, c.Timed, c.AckTime
	}
}

// trying notes where to.
func (c *counters) trying(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.URL = host
}

// up notes a connection and returns how long there was none, and whether it is
// the first.
func (c *counters) up(now int64) (outage time.Duration, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	outage = time.Duration(now - c.outage)
	c.LongestOutage = max(c.LongestOutage, outage)
	c.State, c.changed = Up, now
	c.connects++
	c.Reconnects = c.connects - 1
	return outage, c.connects == 1
}

// known reports whether there ever was a connection.
func (c *counters) known() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connects > 0
}

// down notes that there is no connection, and why.
func (c *counters) down(now int64, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.State == Up {
		c.outage = now
	}
	if c.State != Down {
		c.State, c.changed = Down, now
	}
	c.LastError, c.InFlight = why, 0
}

// Stats returns counts and state. It may be called at any time.
func (b *Bridge) Stats() Stats {
	now := b.cfg.Now()
	b.count.mu.Lock()
	b.count.rate(now)
	s := b.count.Stats
	s.Refused, s.Skipped, s.LostBy = maps.Clone(s.Refused), maps.Clone(s.Skipped), maps.Clone(s.LostBy)
	s.Since = time.Now().Add(-time.Duration(now - b.count.changed)).UTC()
	if s.State != Up {
		s.LongestOutage = max(s.LongestOutage, time.Duration(now-b.count.outage))
	}
	b.count.mu.Unlock()

	if s.Held = b.hold.held.Load(); s.Held > 0 {
		s.HeldFor = max(0, time.Duration(b.hold.until.Load()-now))
	}
	s.DayBytes, _ = b.pace.day.used()
	s.DayLimit = b.cfg.DailyBytes
	s.Backlog = make(map[string]Backlog)
	for _, src := range b.sources {
		s.Backlog[src.class.String()] = b.backlogOf(src.consumer.Backlog(), now)
	}
	return s
}

func (b *Bridge) backlogOf(l spool.Backlog, now int64) Backlog {
	out := Backlog{Records: l.Records, Bytes: l.Bytes}
	if l.Records > 0 {
		f := flight{boot: l.OldestBoot}
		f.msg.Stamp = l.OldestStamp
		age, _ := b.age(&f)
		out.Oldest = max(age, 0)
	}
	return out
}
