package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A LineCounter is a Listener that counts its lines. Anyone may call it at
// any time.
type LineCounter interface{ LineStats() LineStats }

// LineStats are the lines that a Listener heard.
type LineStats struct {
	Good, Bad uint64 // Bad ones did not prove themselves and were thrown away
	Timeouts  uint64 // questions without an answer
	LastBad   string // why the last bad one was thrown away, or the last answer did not come
	Port      *PortStats
}

// PortStats are what the driver of a serial port counted since it was opened.
// Frame and parity errors come of a wrong speed or format, or a bad line;
// overruns of a computer that is too slow.
type PortStats struct {
	Frame   uint64 `json:"frame_errors"`
	Parity  uint64 `json:"parity_errors"`
	Overrun uint64 `json:"overruns"`
	Break   uint64 `json:"breaks"`
	Latency int    `json:"latency_ms"` // how long a USB adapter holds bytes back; 0: not, or not known
}

// Devices that speak by themselves are stale when nothing good was heard for
// Device.Stale, by default three times the longest interval wanted but at
// least this; and offline after three times as long.
const (
	leastQuiet   = 10 * time.Second
	offlineAfter = 3
)

// listen passes on what the listener hears and notes which devices fell
// silent. A listener tells that its port is missing by a batch that fails
// with ErrPort for each device, and that it is there again, before anything
// was heard, by one without readings.
func (p *Poller) listen(ctx context.Context) error {
	for _, h := range p.health {
		if h.Stale == 0 {
			h.stale = max(h.stale, leastQuiet)
		}
	}
	p.reviewMuted()
	if p.first != nil && p.first.ctx.Err() == nil {
		p.lend(ctx, p.first)
	}
	heard, ended := make(chan *Batch), make(chan error, 1)
	stop := p.beginListening(ctx, heard, ended)
	defer func() { stop() }()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := p.now()
		timer.Reset(min(p.age(now), p.quiet(now)))
		select {
		case b := <-heard:
			p.hear(b)
		case err := <-ended:
			return p.listenerEnded(ctx, err)
		case <-p.turns:
		case l := <-p.loans:
			stop()
			p.lend(ctx, l)
			ended = make(chan error, 1)
			stop = p.beginListening(ctx, heard, ended)
		case <-p.reviews:
			p.reviewMuted()
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// beginListening has the listener listen until stop is called, which waits for it.
func (p *Poller) beginListening(ctx context.Context, heard chan<- *Batch, ended chan<- error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var listener sync.WaitGroup
	listener.Go(func() { ended <- p.cfg.Listener.Listen(ctx, emitTo(ctx, heard)) })
	return func() { cancel(); listener.Wait() }
}

func emitTo(ctx context.Context, heard chan<- *Batch) func(*Batch) {
	return func(b *Batch) {
		select {
		case heard <- b:
		case <-ctx.Done():
			b.Release()
		}
	}
}

func (p *Poller) listenerEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("listen on bus %s: %w", p.cfg.Bus, err)
}

// hear takes over one batch of the listener.
func (p *Poller) hear(b *Batch) {
	h := p.byDev[b.Device]
	if h == nil {
		b.Release()
		return
	}
	err := portError(b)
	if err != nil {
		p.portDown(err)
	} else {
		p.portUp()
	}
	switch {
	case h.barred != nil || err == nil && len(b.Readings) == 0:
		b.Release()
		return
	case err != nil && h.state != Offline:
		h.muted = true
		p.setState(h, Offline)
	case err != nil:
	case unproven(b):
		h.misses++
	default:
		p.answered(h, b)
	}
	p.ledger.heard(h.index, b)
	p.put(h, b)
}

// unproven reports whether a batch tells of a device that was asked and did not
// answer, or with nothing that could be proven: whether it is well is not known.
func unproven(b *Batch) bool {
	return !anyGood(b.Readings) && slices.ContainsFunc(b.Readings, func(r Reading) bool {
		return errors.Is(r.Err, ErrTimeout) || errors.Is(r.Err, ErrReply)
	})
}

func portError(b *Batch) error {
	i := slices.IndexFunc(b.Readings, func(r Reading) bool { return errors.Is(r.Err, ErrPort) })
	if i < 0 {
		return nil
	}
	return b.Readings[i].Err
}

// quiet finds devices of which nothing was heard for so long that they count
// as offline, and returns how long that is away for the others at least.
func (p *Poller) quiet(now Stamp) time.Duration {
	soonest := time.Hour
	for _, h := range p.health {
		if h.state == Offline || h.barred != nil {
			continue
		}
		silence := now.Sub(h.fresh)
		if left := offlineAfter*h.stale - silence; left > 0 {
			soonest = min(soonest, left)
			continue
		}
		p.log.Warn("nothing heard from device", append(h.attrs(), "dur", silence)...)
		p.setAway(h, Offline, fmt.Errorf("%w: nothing good heard for %v", ErrTimeout, silence))
	}
	return soonest
}
