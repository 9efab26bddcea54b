// Package clock says what time it is and how far that can be trusted.
//
// A gateway without a clock battery starts with a wall time that may be
// months off and is set right, by a step, once the network is there. So
// everything inside is stamped on CLOCK_BOOTTIME, which never steps, and wall
// time is computed where it is shown, from the Clock that this package keeps.
//
// The kernel is asked whether it is synchronised, as systemd does it: by the
// estimated maximum error (below 16 s) and not by STA_UNSYNC, which chrony
// leaves set unless it is told rtcsync.
package clock

import (
	"context"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix" // adjtimex and CLOCK_BOOTTIME, which package time does not offer

	"edgegateway/broker"
	"edgegateway/devices"
)

const (
	pollUnsynced = 2 * time.Second
	pollSynced   = time.Minute
	maxError     = 16_000_000 // µs; the kernel's value for "not synchronised"
)

// built is a moment that has certainly passed: a wall time before it is wrong
// whatever the kernel says.
var built = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// A Source follows the system clock. Its methods may be called from any
// goroutine.
type Source struct {
	trusted  bool
	quality  atomic.Uint32
	offset   atomic.Int64 // as last found; see Now
	onChange func(broker.Quality)
}

// New returns a source. With trusted set the system's wall time is taken as
// synchronised whatever the kernel says: for containers and virtual machines
// whose host keeps the time. onChange, if not nil, is called by Run after the
// quality changed.
func New(trusted bool, onChange func(broker.Quality)) *Source {
	s := &Source{trusted: trusted, onChange: onChange}
	s.quality.Store(uint32(s.measure()))
	return s
}

// Now returns the present relation of boot time to wall time. Both clocks run
// at the same rate between steps, so a difference below a millisecond is
// taken for the noise of measuring, and the same stamp gives the same wall
// time, to the digit, at each asking.
func (s *Source) Now() broker.Clock {
	kept := s.offset.Load()
	found, uncertain := offset()
	if noise := int64(time.Millisecond) + uncertain; found-kept > noise || found-kept < -noise {
		s.offset.Store(found)
		kept = found
	}
	return broker.Clock{Offset: kept, Quality: broker.Quality(s.quality.Load())}
}

// Times returns both clocks at one moment and whether wall time is
// synchronised, as the spool notes it with each commit.
func (s *Source) Times() (boot, wall int64, synced bool) {
	c := s.Now()
	boot = int64(devices.Now())
	return boot, boot + c.Offset, c.Quality == broker.Exact
}

// Run follows the quality until ctx is done.
func (s *Source) Run(ctx context.Context) error {
	for {
		wait := pollUnsynced
		if broker.Quality(s.quality.Load()) == broker.Exact {
			wait = pollSynced
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		q := s.measure()
		if broker.Quality(s.quality.Swap(uint32(q))) != q && s.onChange != nil {
			s.onChange(q)
		}
	}
}

func (s *Source) measure() broker.Quality {
	if time.Now().Before(built) {
		return broker.Unsynced
	}
	if s.trusted {
		return broker.Exact
	}
	var tx unix.Timex
	if _, err := unix.Adjtimex(&tx); err != nil {
		return quality(touched(timesyncd+"/synchronized", time.Now()))
	}
	return quality(tx.Maxerror < maxError)
}

// timesyncd is where systemd-timesyncd leaves what a sandbox may see that
// forbids to ask the kernel.
const timesyncd = "/run/systemd/timesync"

// touched reports whether the clock is synchronised by the file that timesyncd
// touches each time it has set the clock: from then on the kernel counts the
// error up by 500 µs each second, and so does this.
func touched(path string, now time.Time) bool {
	const drift = 500 // µs a second
	info, err := os.Stat(path)
	return err == nil && now.Sub(info.ModTime()) < maxError/drift*time.Second
}

// Blind reports whether nobody here can tell if the clock is synchronised: the
// kernel may not be asked, and timesyncd does not run.
func Blind() bool {
	var tx unix.Timex
	if _, err := unix.Adjtimex(&tx); err == nil {
		return false
	}
	_, err := os.Stat(timesyncd)
	return err != nil
}

func quality(synced bool) broker.Quality {
	if synced {
		return broker.Exact
	}
	return broker.Unsynced
}

// offset returns wall time minus boot time and how uncertain that is, both in
// nanoseconds. Wall time is read between two readings of boot time; of five
// tries the tightest counts.
func offset() (off, best int64) {
	best = 1 << 62
	for range 5 {
		before := int64(devices.Now())
		wall := time.Now().UnixNano()
		after := int64(devices.Now())
		if d := after - before; d < best {
			best, off = d, wall-before-d/2
		}
		if best < 2000 {
			break
		}
	}
	return off, best
}
