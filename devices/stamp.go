package devices

import (
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix" // CLOCK_BOOTTIME, which package time does not offer
)

// A Stamp is a moment on CLOCK_BOOTTIME in nanoseconds: it never steps and
// counts through suspend. It means nothing in another boot.
type Stamp int64

// Sub returns s − t.
func (s Stamp) Sub(t Stamp) time.Duration { return time.Duration(s - t) }

// Now returns the present moment. It is asked several times for each reading,
// and package time reads its clocks without a system call, which this one
// would need each time. So what is asked for is how far the clocks of a moment
// are apart, and only when that may have changed: monotonic time stands still
// during a suspend and boot time does not, but wall time goes on too, so that
// its distance from monotonic time gives the suspend away (as it does any step
// or slew of the wall clock, after which asking again does no harm).
func Now() Stamp {
	now := time.Now()
	monotonic := now.Sub(started).Nanoseconds()
	if monotonic < 0 { // in a test with a clock of its own, which begins long ago
		return Stamp(bootTime())
	}
	wall := now.UnixNano() - monotonic
	if o := ahead.Load(); o != nil && o.wall-slack < wall && wall < o.wall+slack {
		return Stamp(monotonic + o.boot)
	}
	return measure(wall)
}

// slack is how far wall time may drift from monotonic time before boot time is
// asked for again: a suspend that is shorter is not noticed.
const slack = int64(100 * time.Microsecond)

var (
	started = time.Now()            // the origin of monotonic time here
	ahead   atomic.Pointer[offsets] // nil: not measured yet
)

// offsets say how far clocks are ahead of monotonic time, in nanoseconds.
type offsets struct{ wall, boot int64 }

// measure finds out how far boot time is ahead, and returns it. Found much as
// it was it stays exactly as it was, so that stamps do not go back by what the
// measurement is off.
func measure(wall int64) Stamp {
	o, width := offsets{wall: wall}, int64(math.MaxInt64)
	for range 5 { // who is kept waiting in between measures badly
		before := time.Since(started).Nanoseconds()
		boot := bootTime()
		after := time.Since(started).Nanoseconds()
		if after-before < width {
			o.boot, width = boot-(before+after)/2, after-before
		}
		if width < slack/2 {
			break
		}
	}
	if last := ahead.Load(); last != nil && abs(o.boot-last.boot) < slack+width {
		o.boot = last.boot
	}
	ahead.Store(&o)
	return Stamp(time.Since(started).Nanoseconds() + o.boot)
}

func bootTime() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return ts.Nano()
}

func abs(n int64) int64 { return max(n, -n) }
