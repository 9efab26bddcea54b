package devices

import (
	"testing"
	"testing/synctest"
	"time"
)

// keepOffsets lets a test play with what is known of the clocks.
func keepOffsets(t *testing.T) {
	t.Helper()
	Now()
	kept := ahead.Load()
	t.Cleanup(func() { ahead.Store(kept) })
}

// within reports whether Now lies between two looks at boot time.
func within(t *testing.T) {
	t.Helper()
	before := bootTime()
	now := int64(Now())
	if after := bootTime(); now < before-2*slack || now > after+2*slack {
		t.Errorf("now is %d, but boot time went from %d to %d", now, before, after)
	}
}

func TestNowIsBootTime(t *testing.T) {
	within(t)
	within(t)
}

func TestNowNeverGoesBack(t *testing.T) {
	last := Now()
	for range 100_000 {
		now := Now()
		if now < last {
			t.Fatalf("%d after %d", now, last)
		}
		last = now
	}
}

// A suspend moves wall and boot time on while monotonic time stands still; to
// what was known before it looks as these do.
func TestNowNoticesSuspend(t *testing.T) {
	keepOffsets(t)
	o := *ahead.Load()
	o.wall -= int64(time.Hour)
	o.boot -= int64(time.Hour)
	ahead.Store(&o)
	within(t)
}

// A wall clock that is set moves no stamp.
func TestNowIgnoresSteps(t *testing.T) {
	keepOffsets(t)
	known := *ahead.Load()
	o := known
	o.wall += int64(365 * 24 * time.Hour)
	ahead.Store(&o)
	within(t)
	if now := ahead.Load(); now.boot != known.boot {
		t.Errorf("boot time moved by %d ns as the wall clock was set", now.boot-known.boot)
	}
}

// A test in a bubble, which has no monotonic time, spoils nothing for others.
func TestNowAfterABubble(t *testing.T) {
	within(t)
	synctest.Test(t, func(t *testing.T) { within(t) })
	within(t)
}

func BenchmarkNow(b *testing.B) {
	for b.Loop() {
		Now()
	}
}

// BenchmarkBootTime is what Now would cost if it asked the system each time.
func BenchmarkBootTime(b *testing.B) {
	for b.Loop() {
		bootTime()
	}
}
