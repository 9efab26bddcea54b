package bridge

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

// timed is a reading that was stamped now, or a message with its slots.
func timed(topic, value string) broker.Message {
	payload := `{"value":` + value + `,"time":"`
	at := len(payload)
	payload += "1970-01-01T00:00:00.000Z" + `"`
	return broker.Message{
		Topic: topic, Payload: []byte(payload + "}"),
		Slots: []broker.Slot{{Kind: broker.SlotTime, At: at, Len: 24}, {Kind: broker.SlotClock, At: len(payload)}},
	}
}

// A dial is a clock that a test sets.
type dial struct{ atomic.Pointer[broker.Clock] }

func newDial(c broker.Clock) *dial {
	d := new(dial)
	d.Store(&c)
	return d
}

func (d *dial) now() broker.Clock                        { return *d.Load() }
func (d *dial) at(_ spool.BootRef, _ int64) broker.Clock { return *d.Load() }

func (d *dial) rig(t *testing.T, change func(*Config)) *rig {
	r := newRig(t, func(c *Config) {
		c.ClockAt = d.at
		if change != nil {
			change(c)
		}
	})
	r.clock = d.now
	return r
}

// values returns what arrived: the values of readings, with ! when flagged, and
// what else there was.
func (r *rig) values() (list []string) {
	for _, p := range r.up.payloads() {
		value, ok := strings.CutPrefix(p, `{"value":`)
		if !ok {
			list = append(list, p)
			continue
		}
		value, rest, _ := strings.Cut(value, ",")
		if strings.Contains(rest, `"clock":"unsynced"`) {
			value += "!"
		}
		list = append(list, value)
	}
	return list
}

func (r *rig) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := r.values(); !slices.Equal(got, want) {
		t.Errorf("%s: arrived %q, want %q", when, got, want)
	}
}

// Readings of an unknown time wait for the clock, and then go in their order;
// what has no time, tells of the gateway or is critical goes at once.
func TestReadingsWaitForTheClock(t *testing.T) {
	for _, replay := range []Replay{Strict, LiveFirst} {
		t.Run(replay.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDial(broker.Clock{Quality: broker.Unsynced})
				r := d.rig(t, func(c *Config) { c.Replay = replay })
				r.tele.add(timed("p/a", "1"))
				r.tele.add(broker.Message{Topic: "p/log", Payload: []byte("external")})
				r.tele.add(timed("p/a", "2"))
				r.tele.add(timed("p/a/_status", "3"))
				r.crit.add(timed("p/alarm", "4"))
				r.start()
				pass(10 * time.Minute)
				r.tele.add(broker.Message{Topic: "p/log", Payload: []byte("more")})
				r.tele.add(timed("p/a", "5"))
				synctest.Wait()
				got := r.values()
				slices.Sort(got) // the critical one has a stream of its own
				if want := []string{"3!", "4!", "external", "more"}; !slices.Equal(got, want) {
					t.Errorf("while waiting: %q, want %q", got, want)
				}
				if s := r.Stats(); s.Held != 3 || s.HeldFor < 4*time.Minute || s.HeldFor > 5*time.Minute {
					t.Errorf("held %d, for %v", s.Held, s.HeldFor)
				}
				d.Store(&broker.Clock{Quality: broker.Exact})
				r.tele.add(timed("p/a", "6")) // behind those that wait
				pass(2 * time.Second)
				r.tele.add(timed("p/a", "7"))
				synctest.Wait()
				streams := [][]string{{"1", "2", "5", "6", "7"}}
				if replay == LiveFirst { // what was there before the connection has a stream of its own
					streams = [][]string{{"1", "2"}, {"5", "6", "7"}}
				}
				for _, want := range streams {
					if !subsequence(r.values(), want) || len(r.values()) != 9 {
						t.Errorf("arrived %q, want %q behind the others", r.values(), want)
					}
				}
				if s := r.Stats(); s.Held != 0 || s.HeldFor != 0 || r.tele.Acked() != 8 {
					t.Errorf("held %d, cursor %d", s.Held, r.tele.Acked())
				}
				r.end()
			})
		})
	}
}

func subsequence(list, want []string) bool {
	for _, s := range list {
		if len(want) > 0 && s == want[0] {
			want = want[1:]
		}
	}
	return len(want) == 0
}

// The waiting has an end, which a link that comes and goes does not move; then
// readings go flagged, or become a gap where that is asked for.
func TestWaitingForTheClockEnds(t *testing.T) {
	for _, policy := range []Unsynced{HoldUnsynced, FlagUnsynced, DropUnsynced} {
		t.Run(policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gaps []Gap
				d := newDial(broker.Clock{Quality: broker.Unsynced})
				r := d.rig(t, func(c *Config) {
					c.Unsynced, c.UnsyncedHold = policy, 10*time.Minute
					c.OnGap = func(g Gap) { gaps = append(gaps, g) }
				})
				for i := range 3 {
					r.tele.add(timed("p/a", fmt.Sprint(i)))
				}
				r.start()
				synctest.Wait()
				if policy == FlagUnsynced {
					r.expect(t, "at once", "0!", "1!", "2!")
					r.end()
					return
				}
				for range 9 {
					pass(time.Minute)
					r.expect(t, "while waiting")
					r.up.conns[len(r.up.conns)-1].Close()
				}
				pass(65 * time.Second)
				r.tele.add(timed("p/a", "3"))
				if policy == HoldUnsynced {
					r.expect(t, "in the end", "0!", "1!", "2!", "3!")
				} else {
					r.expect(t, "in the end")
				}
				d.Store(&broker.Clock{Quality: broker.Exact})
				r.tele.add(timed("p/a", "4"))
				synctest.Wait()
				got := r.values()
				if len(got) == 0 || got[len(got)-1] != "4" || r.tele.Acked() != 5 {
					t.Errorf("with the clock set: %q, cursor %d", got, r.tele.Acked())
				}
				s := r.Stats()
				if policy == DropUnsynced && (s.Skipped[ReasonUnsynced] != 4 || s.Lost != 4 || len(gaps) == 0 || gaps[0].Reason != ReasonUnsynced || gaps[0].First != 1) {
					t.Errorf("skipped %v, lost %d, gaps %+v", s.Skipped, s.Lost, gaps)
				}
				if policy == HoldUnsynced && (len(s.Skipped) > 0 || s.Lost > 0) {
					t.Errorf("skipped %v, lost %d", s.Skipped, s.Lost)
				}
				r.end()
			})
		})
	}
}

// A polite end does not wait for a clock that nobody sets.
func TestEndDoesNotWaitForTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDial(broker.Clock{Quality: broker.Unsynced})
		r := d.rig(t, nil)
		r.tele.add(timed("p/a", "1"))
		r.start()
		pass(time.Minute)
		before := time.Now()
		r.end()
		if took := time.Since(before); took > time.Second {
			t.Errorf("it took %v", took)
		}
		if r.tele.Acked() != 0 {
			t.Error("what waits was given up")
		}
	})
}

// Ages are those that are certain: the latest time at which it can have been
// read to the earliest that it can be now.
func TestAgeIsTheLeast(t *testing.T) {
	d := newDial(broker.Clock{Quality: broker.Exact, Offset: int64(100 * time.Hour)})
	then := broker.Clock{Quality: broker.Bounded, Offset: int64(80 * time.Hour), Early: 50 * time.Hour, Late: 5 * time.Hour}
	r := newRig(t, func(c *Config) {
		c.BootID, c.MaxAge = [16]byte{1}, 16*time.Hour
		c.Now = func() int64 { return int64(time.Hour) }
		c.ClockAt = func(spool.BootRef, int64) broker.Clock { return then }
	})
	r.clock = d.now
	f := &flight{msg: broker.Message{Topic: "p/a", Stamp: int64(30 * time.Minute)}}
	if age, known := r.age(f); !known || age != 15*time.Hour+30*time.Minute {
		t.Errorf("age %v, %t", age, known)
	}
	if why := r.route(f); why != "" {
		t.Errorf("given up as %s, though it may be young enough", why)
	}
	then.Late = 4 * time.Hour
	if why := r.route(f); why != skipMaxAge {
		t.Errorf("%q, though it is too old in any case", why)
	}
	d.Store(&broker.Clock{Quality: broker.Interpolated, Offset: int64(100 * time.Hour), Early: time.Hour})
	if why := r.route(f); why != "" {
		t.Errorf("given up as %s, though it may be earlier", why)
	}
	d.Store(&broker.Clock{})
	if _, known := r.age(f); known {
		t.Error("an age by a clock that was never set")
	}
}

// The day's bytes are those of a day, whatever the clock is set to in it.
func TestDailyBytesWithoutAClock(t *testing.T) {
	d := newDial(broker.Clock{Quality: broker.Unsynced})
	now := int64(time.Hour)
	r := newRig(t, func(c *Config) {
		c.DailyBytes, c.Zone = 1000, time.UTC
		c.Now = func() int64 { return now }
	})
	r.clock = d.now
	used := func(when string, want int64) {
		t.Helper()
		if got, _ := r.pace.day.used(); got != want {
			t.Errorf("%s: %d bytes are spent, want %d", when, got, want)
		}
	}
	r.pace.day.add(500 - overhead)
	used("at once", 500)
	d.Store(&broker.Clock{Offset: int64(3000 * time.Hour)})
	used("with a clock that somebody moves", 500)
	d.Store(&broker.Clock{Quality: broker.Exact, Offset: int64(5000 * time.Hour)})
	used("once it is set", 500)
	now += int64(24 * time.Hour)
	used("a day later", 0)
}
