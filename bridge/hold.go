package bridge

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"edgegateway/broker"
)

// While the clock was never set since the computer started, a reading can only
// be sent with a time that may be off by months. Usually the network that the
// bridge came up with sets the clock a moment later, too. So readings wait in
// the spool for it: their stream passes on what has no time, and reads them
// when the waiting is over.

// holding is what a bridge knows of the clock. Any goroutine may use it.
type holding struct {
	set   atomic.Bool  // the clock was; it stays so until the next boot
	until atomic.Int64 // boot time at which waiting ends, ns; 0: there was no connection yet
	held  atomic.Int64 // messages that wait
}

// connected begins the time for which readings may be held. It is the first
// connection that counts, or a link that comes and goes would hold them for
// ever.
func (b *Bridge) connected() {
	b.hold.until.CompareAndSwap(0, b.cfg.Now()+int64(b.cfg.UnsyncedHold))
}

// clockSet reports whether the time of readings is known.
func (b *Bridge) clockSet() bool {
	if b.hold.set.Load() {
		return true
	}
	if b.clock().Quality == broker.Unsynced {
		return false
	}
	b.hold.set.Store(true)
	return true
}

// holds reports whether readings without a known time wait now.
func (b *Bridge) holds() bool {
	return b.cfg.Unsynced != FlagUnsynced && b.cfg.Now() < b.hold.until.Load() && !b.clockSet()
}

// reading reports whether f is a reading with a time in it. What tells of the
// gateway or a device itself is none, and what is critical is worth more early
// than dated.
func (s *stream) reading(f *flight) bool {
	last := f.msg.Topic[strings.LastIndexByte(f.msg.Topic, '/')+1:]
	return s.class != broker.Critical && f.msg.Timed() && !strings.HasPrefix(last, "_")
}

// unsynced reports whether nobody knows the time of f.
func (b *Bridge) unsynced(f *flight) bool {
	return b.cfg.Unsynced != FlagUnsynced && !b.clockSet() && b.clockAt(f.boot, f.msg.Stamp).Quality == broker.Unsynced
}

// errHeld says that a reader stopped because what it passed over may be sent.
var errHeld = errors.New("held readings may be sent")

// hold makes f wait, and has the stream read it again later.
func (s *stream) hold(ctx context.Context, f *flight) {
	if s.heldFrom == 0 {
		s.heldFrom = f.seq
		var over context.CancelCauseFunc
		s.waiting, over = context.WithCancelCause(ctx)
		go s.b.awaitClock(s.waiting, over)
	}
	s.held++
	s.b.hold.held.Add(1)
}

// holdCheck is how often it is looked whether the clock was set.
const holdCheck = time.Second

func (b *Bridge) awaitClock(ctx context.Context, over context.CancelCauseFunc) {
	tick := time.NewTicker(holdCheck)
	defer tick.Stop()
	defer over(errHeld)
	for b.holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// release ends holding, and returns from where on to read again.
func (s *stream) release() {
	s.b.hold.held.Add(-s.held)
	s.heldFrom, s.held, s.waiting = 0, 0, nil
}
