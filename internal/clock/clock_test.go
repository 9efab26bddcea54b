package clock

import (
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
)

func TestNowRelatesBootTimeToWallTime(t *testing.T) {
	s := New(true)
	c := s.Now()
	if c.Quality != broker.Exact {
		t.Fatalf("quality of a trusted clock = %v, want exact", c.Quality)
	}
	before := time.Now()
	wall := c.Wall(int64(devices.Now()))
	after := time.Now()
	const slack = 50 * time.Millisecond // a step or slew between the readings
	if wall.Before(before.Add(-slack)) || wall.After(after.Add(slack)) {
		t.Fatalf("wall time %v is not between %v and %v", wall, before, after)
	}
}

func TestTimesAgree(t *testing.T) {
	boot, wall, synced := New(true).Times()
	if !synced {
		t.Fatal("a trusted clock must count as synchronised")
	}
	if d := time.Since(time.Unix(0, wall)); d < -time.Second || d > time.Minute {
		t.Fatalf("wall time is %v off at boot time %d", d, boot)
	}
}
