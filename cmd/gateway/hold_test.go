package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

func (d *desk) hold(value string, length time.Duration) writeResult {
	d.t.Helper()
	r, err := d.c.hold(d.t.Context(), holdRequest{writeRequest{Target: "boiler.setpoint", Value: value}, length}, "root")
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

func TestHoldBeatsCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.start()
		defer d.stop()
		if r := d.hold("95", time.Hour); r.State != "rejected" || len(d.c.holds.list()) > 0 {
			t.Errorf("beyond the limits: %+v", r)
		}
		if _, err := d.c.hold(t.Context(), holdRequest{writeRequest{Target: "boiler.setpoint", Value: "5"}, 0}, "root"); err == nil {
			t.Error("held for no time")
		}
		if r := d.hold("55", 2*time.Hour); r.State != "verified" || string(r.Value) != "55" {
			t.Errorf("hold: %+v", r)
		}
		if got := d.said("boiler/_hold"); len(got) != 1 || !strings.Contains(got[0], `"points":{"setpoint":{"by":"root","until":"`) {
			t.Errorf("published: %q", got)
		}
		d.send("setpoint/set", "20")
		d.send("_set", `{"gain":1,"setpoint":20}`)
		d.send("gain/set", "2")
		until := d.clock().Wall(int64(d.now()) + int64(2*time.Hour)).Format(time.RFC3339)
		reason := `"reason":"held at 55 by root until ` + until + "; `gateway release boiler.setpoint` ends that\""
		d.want("boiler/setpoint/set/result", "{"+reason+`,"status":"rejected"}`)
		d.want("boiler/_set/result", "{"+reason+`,"status":"rejected"}`)
		if r, err := d.c.write(t.Context(), writeRequest{Target: "boiler.setpoint", Value: "20"}, "uid 1000"); err != nil || r.State != "rejected" {
			t.Errorf("a local write while it is held: %+v, %v", r, err)
		}
		d.wrote("setpoint=0226", "gain=40000000")
		time.Sleep(2 * time.Hour)
		d.send("setpoint/set", "20")
		d.wrote("setpoint=0226", "gain=40000000", "limit=0006", "setpoint=00c8")
		if got := d.said("boiler/_hold"); got[len(got)-1] != "null" {
			t.Errorf("after the end: %q", got)
		}
		if err := d.c.release("boiler.setpoint", "root"); err == nil || err.Error() != "boiler.setpoint is not held" {
			t.Errorf("release of what is not held: %v", err)
		}
	})
}

// A command that waits when a hold begins is not carried out after it.
func TestHoldOvertakesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.busy = make(chan struct{})
		d.start()
		defer d.stop()
		d.send("gain/set", "1")
		d.send("setpoint/set", "20", expiry(3600))
		synctest.Wait()
		done := make(chan writeResult)
		go func() { done <- d.hold("55", time.Hour) }()
		synctest.Wait()
		close(d.busy)
		if r := <-done; r.State != "verified" {
			t.Errorf("hold: %+v", r)
		}
		d.wrote("gain=3f800000", "setpoint=0226")
	})
}

func TestHoldOutlivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.start()
		d.hold("55", time.Hour)
		time.Sleep(10 * time.Minute)
		d.stop()
		d.crash()
		if list := d.c.holds.list(); len(list) != 1 || list[0].ends.Sub(d.now()) != 50*time.Minute {
			t.Fatalf("after a restart: %+v", list)
		}
		d.start()
		defer d.stop()
		d.send("setpoint/set", "20")
		if got := d.said("boiler/setpoint/set/result"); len(got) != 1 || !strings.Contains(got[0], "held at 55 by root") {
			t.Errorf("after a restart: %q", got)
		}
		if err := d.c.release("boiler.setpoint", "root"); err != nil {
			t.Fatal(err)
		}
		d.crash()
		if list := d.c.holds.list(); len(list) != 0 {
			t.Errorf("released, and after a restart %+v", list)
		}
	})
}

// TestHoldAfterReboot looks at what is left of an hour of which 10 minutes
// went by before a reboot that took 20, by what the clock knows.
func TestHoldAfterReboot(t *testing.T) {
	wall := time.Date(2026, 11, 20, 23, 6, 0, 0, time.UTC)
	for _, c := range []struct {
		name          string
		before, after broker.Quality
		first, later  time.Duration // left at the start, and once the clock is exact
	}{
		{"exact all along", broker.Exact, broker.Exact, 30 * time.Minute, 30 * time.Minute},
		{"set later", broker.Exact, broker.Unsynced, 50 * time.Minute, 30 * time.Minute},
		{"was not set before", broker.Unsynced, broker.Exact, 50 * time.Minute, 50 * time.Minute},
	} {
		clock := broker.Clock{Offset: wall.UnixNano(), Quality: c.before}
		now := devices.Stamp(time.Minute)
		path := holdsPath(t.TempDir())
		open := func() *holds {
			return openHolds(path, &holds{
				clock: func() broker.Clock { return clock }, now: func() devices.Stamp { return now },
				names: func(string) string { return "" },
			})
		}
		h := open()
		if err := h.set("boiler", "setpoint", []byte("55"), "root", time.Hour); err != nil {
			t.Fatal(err)
		}
		now += devices.Stamp(10 * time.Minute)
		h.shelf.review() // saves it

		text, _ := os.ReadFile(path)
		other := strings.ReplaceAll(string(text), thisBoot(), "another boot")
		if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		now = devices.Stamp(5 * time.Second)
		clock = broker.Clock{Offset: wall.Add(31*time.Minute).UnixNano() - int64(now), Quality: c.after}
		h = open()
		left := func() time.Duration {
			list := h.list()
			if len(list) != 1 {
				return 0
			}
			return list[0].ends.Sub(now)
		}
		if got := left(); got != c.first {
			t.Errorf("%s: %v left at the start, want %v", c.name, got, c.first)
		}
		clock.Quality = broker.Exact
		h.shelf.review()
		if got := left(); got != c.later {
			t.Errorf("%s: %v left later, want %v", c.name, got, c.later)
		}
	}
}

func TestUnreadableHoldsArePutAside(t *testing.T) {
	path := holdsPath(t.TempDir())
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		h := openHolds(path, &holds{clock: d.clock, now: d.now, log: d.c.log, names: func(string) string { return "" }})
		if len(h.list()) > 0 {
			t.Error("something is held")
		}
	})
	if _, err := os.Stat(path + ".unreadable"); err != nil {
		t.Error(err)
	}
}

func TestSafeValueWhenNobodyCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.start()
		time.Sleep(29 * time.Second)
		d.wrote()
		for range 5 {
			d.send("limit/set", "16")
			time.Sleep(20 * time.Second)
		}
		d.send("limit/set", "nonsense") // is no sign of life
		time.Sleep(9 * time.Second)
		d.wrote(slices.Repeat([]string{"limit=0010"}, 5)...)
		time.Sleep(2 * time.Second)
		all := append(slices.Repeat([]string{"limit=0010"}, 5), "limit=0006")
		d.wrote(all...)
		got := d.said("boiler/limit/set/result")
		if got[len(got)-1] != `{"by":"on_loss","status":"verified","value":6}` {
			t.Errorf("told: %s", got[len(got)-1])
		}
		time.Sleep(time.Hour) // once
		d.wrote(all...)
		d.stop()

		d.crash()
		d.start()
		time.Sleep(time.Hour) // and not again after a restart
		d.wrote(all...)
		d.send("limit/set", "16")
		synctest.Wait()
		d.stop()

		d.crash()
		d.start()
		time.Sleep(31 * time.Second) // but if the command was the last
		d.wrote(append(all, "limit=0010", "limit=0006")...)
		d.stop()
	})
}

func TestSafeValueNeverFightsAHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.start()
		defer d.stop()
		if _, err := d.c.hold(t.Context(), holdRequest{writeRequest{Target: "boiler.limit", Value: "20"}, time.Hour}, "root"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour + 29*time.Second)
		d.wrote("limit=0014")
		time.Sleep(31 * time.Second)
		d.wrote("limit=0014", "limit=0006")
	})
}

func TestSafeValueIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.refuses = "limit"
		d.start()
		defer d.stop()
		time.Sleep(time.Hour)
		n := len(d.said("boiler/limit/set/result"))
		if n < 5 || n > 20 {
			t.Errorf("%d tries in an hour", n)
		}
		d.set(func() { d.refuses = "" })
		time.Sleep(11 * time.Minute)
		d.wrote("limit=0006")
	})
}

// batch is what a poller hands over.
func (d *desk) batch(state devices.State, at devices.Stamp) *devices.Batch {
	b := devices.NewBatch(d.dev.Device)
	b.State = state
	if state == devices.Online {
		b.Add(d.dev.Points[4].Point, []byte{0, 1}, at)
	}
	return b
}

// believed says what the screen leaves of a reading.
func (d *desk) believed(state devices.State, at devices.Stamp) string {
	b := d.batch(state, at)
	defer b.Release()
	d.c.setup.screen(b)
	if len(b.Readings) == 0 {
		return "none"
	}
	if err := b.Readings[0].Err; err != nil {
		return devices.Cause(err)
	}
	return "good"
}

const setupConfig = `
[device.boiler.setup]
level    = 7
ratio    = { holding = 300, value = 20 }
password = { holding = 400, value = 9, verify = false }
`

func TestSetupComesBeforeValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, setupConfig)
		d.held["level"] = []byte{0, 7} // as it is to be already
		d.start()
		defer d.stop()
		at := d.now()
		if got := d.believed(devices.Online, at); got != "not set up yet" {
			t.Errorf("before the set-up: %s", got)
		}
		d.wrote("ratio=0014", "password=0009")
		if got := d.believed(devices.Online, at-1); got != "not set up yet" {
			t.Errorf("read before, and handed over after it: %s", got)
		}
		time.Sleep(time.Second)
		if got := d.believed(devices.Online, d.now()); got != "good" {
			t.Errorf("after it: %s", got)
		}
		d.believed(devices.Stale, 0)
		d.believed(devices.Online, d.now())
		d.wrote("ratio=0014", "password=0009")

		d.believed(devices.Offline, 0)
		d.set(func() { d.held["ratio"] = []byte{0, 1}; d.refuses = "password" })
		d.believed(devices.Online, d.now())
		d.wrote("ratio=0014", "password=0009", "ratio=0014")
		if got := d.believed(devices.Online, d.now()); got != "not set up: password: device failure" {
			t.Errorf("refused: %s", got)
		}
		if hint := d.c.setup.hint("boiler"); !strings.Contains(hint, "password") {
			t.Errorf("hint %q", hint)
		}
		d.set(func() { d.refuses = "" })
		time.Sleep(6 * time.Second)
		d.wrote("ratio=0014", "password=0009", "ratio=0014", "password=0009")
		if got := d.believed(devices.Online, d.now()); got != "good" || d.c.setup.hint("boiler") != "" {
			t.Errorf("set up at the second try: %s", got)
		}
		if e := d.c.writes.Last(1); len(e) != 1 || e[0].By != setupUser || e[0].State != "verified" && e[0].State != "written" {
			t.Errorf("the log has %+v", e)
		}
	})
}

func TestHoldIsWrittenWhenTheDeviceIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.start()
		defer d.stop()
		d.set(func() { d.fails = fmt.Errorf("%w: %w", modbus.ErrUnanswered, devices.ErrTimeout) })
		if r := d.hold("55", time.Hour); r.State != mapping.Unknown.String() {
			t.Errorf("hold on a silent device: %+v", r)
		}
		d.set(func() { d.fails = nil })
		d.believed(devices.Online, d.now())
		d.wrote("setpoint=0226")
		d.believed(devices.Online, d.now())
		d.wrote("setpoint=0226")
	})
}
