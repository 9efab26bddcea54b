package devices

import (
	"math"
	"time"
)

// health is how a device does, as its Poller sees it.
type health struct {
	*Device
	index  int // in PollerConfig.Devices, the ledger and the schedule
	stale  time.Duration
	state  State
	since  Stamp // of state
	fresh  Stamp // its last good reading, or when it was last found to answer
	misses int   // since it last answered
	muted  bool  // away for want of its port or its bus: its return is not worth a line
	untold bool  // a batch of it was dropped: its state may be unknown outside
	barred error // why nothing is asked of it: somebody muted it; nil: it is

	first, groups int            // its cycles
	joints        map[set]*joint // of groups that were due together; nil: not to be had
	strays        int            // queries under way whose cycle was broken off
}

// staleAfter is Device.Stale with its default.
func (d *Device) staleAfter() time.Duration {
	if d.Stale > 0 {
		return d.Stale
	}
	var longest time.Duration
	for _, pt := range d.Points {
		longest = max(longest, pt.Every)
	}
	return 3 * longest
}

// attrs name the device in logs.
func (h *health) attrs() []any {
	attrs := []any{"device", h.ID}
	if h.Unit != nil {
		attrs = append(attrs, "unit", h.Unit.String())
	}
	return attrs
}

func (p *Poller) setState(h *health, s State) {
	h.state, h.since = s, p.now()
	p.ledger.setState(h.index, s, h.since)
}

// answered notes an answer that stands in b. Only a good reading ends
// staleness: a device may well answer with nothing but exceptions.
func (p *Poller) answered(h *health, b *Batch) {
	good := anyGood(b.Readings)
	if good || h.state != Online && h.state != Stale {
		h.fresh = p.now()
		p.setOnline(h)
	}
	h.misses = 0
}

func (p *Poller) setOnline(h *health) {
	was, since, muted := h.state, h.since, h.muted
	if was == Online {
		return
	}
	h.muted = false
	p.setState(h, Online)
	if was == Unknown || muted {
		return
	}
	attrs := append(h.attrs(), "dur", p.now().Sub(since))
	if was == Offline {
		attrs = append(attrs, "n", h.misses)
	}
	p.log.Info("device answers again after it was "+was.String(), attrs...)
}

// age finds devices that have become stale and tells of each with a batch
// without readings. It returns how long the others are fresh at least.
func (p *Poller) age(now Stamp) time.Duration {
	soonest := time.Duration(math.MaxInt64)
	for _, h := range p.health {
		if h.state != Online || h.stale <= 0 {
			continue
		}
		if left := h.stale - now.Sub(h.fresh); left > 0 {
			soonest = min(soonest, left)
			continue
		}
		p.setState(h, Stale)
		p.log.Warn("device is stale: no good reading", append(h.attrs(), "dur", h.stale)...)
		p.put(h, NewBatch(h.Device))
	}
	return soonest
}

// An outage is the time during which a port is missing.
type outage struct {
	down  bool
	since Stamp
	n     int // attempts to open it
	err   error
}

// portDown notes that the port is missing and reports whether that is new.
func (p *Poller) portDown(err error) bool {
	p.port.n++
	if p.port.down {
		return false
	}
	p.port = outage{down: true, since: p.now(), n: 1, err: err}
	p.ledger.setPort(err, p.port.since)
	p.log.Warn("port unavailable; retrying", "err", err)
	return true
}

// portUp notes that the port is there and reports whether that is new.
func (p *Poller) portUp() bool {
	if !p.port.down {
		return false
	}
	now := p.now()
	p.log.Info("port is back", "dur", now.Sub(p.port.since), "n", p.port.n)
	p.port = outage{}
	p.ledger.setPort(nil, now)
	return true
}
