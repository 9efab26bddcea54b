package devices

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A device that is only written is never asked, and counts as online whatever
// comes of its port, of what is written to it, and of the others.
func TestPollerNeverAsksWhoIsOnlyWritten(t *testing.T) {
	for _, alone := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			line, all := newFakeLine(), testDevice("all", time.Second, "x", "y")
			all.Points[0].Every, all.Points[1].Every = Never, Never
			devs := []*Device{all, testDevice("a", time.Second, "x")}
			if alone {
				devs = devs[:1]
			}
			b := newBench(t, line, devs...)
			b.run(time.Minute)
			for range 5 {
				batch := NewBatch(all)
				line.set(func() { line.dead["all"] = true })
				b.p.Do(t.Context(), &fakeQuery{line, all, all.Points[:1]}, batch)
			}
			line.set(func() { line.noPort = fmt.Errorf("open /dev/ttyUSB0: %w", ErrPort) })
			b.run(time.Minute)
			line.set(func() { line.noPort = nil })
			b.run(time.Minute)
			if gs := b.of("all"); len(gs) != 1 || gs[0].state != Online || gs[0].good+len(gs[0].bad) > 0 {
				t.Errorf("alone %v: %+v", alone, gs)
			}
			b.wantState("all", Online)
			asked := map[string]int{}
			for _, q := range line.asked {
				asked[q]++
			}
			if asked["all.x"] != 5 || asked["all.y"] != 0 || !alone && asked["a.x"] < 120 {
				t.Errorf("alone %v: %v", alone, asked)
			}
		})
	}
}
