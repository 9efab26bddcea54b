package clock

import (
	"os"
	"path/filepath"
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

// Where the kernel may not be asked, timesyncd's file is believed for some times
// as long as it takes at most to touch it again.
func TestTimesyncdIsBelievedForAWhile(t *testing.T) {
	path, now := filepath.Join(t.TempDir(), "synchronized"), time.Now()
	if hint(path, now).OK {
		t.Error("synchronised without the file")
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for age, want := range map[time.Duration]bool{0: true, time.Hour: true, 4 * time.Hour: false, -time.Hour: false} {
		if err := os.Chtimes(path, time.Time{}, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
		if got := hint(path, now); got.OK != want || got.OK && got.MaxError < 500*time.Millisecond {
			t.Errorf("set %v ago: %+v, want %v", age, got, want)
		}
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
