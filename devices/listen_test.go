package devices

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeListener emits what the test says.
type fakeListener chan func(emit func(*Batch)) error

func (l fakeListener) Listen(ctx context.Context, emit func(*Batch)) error {
	for {
		select {
		case f := <-l:
			if err := f(emit); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (l fakeListener) LineStats() LineStats {
	return LineStats{Good: 7, Bad: 2, Timeouts: 4, LastBad: "cut off", Port: &PortStats{Frame: 3}}
}

func (l fakeListener) hear(dev *Device, err error) {
	l <- func(emit func(*Batch)) error {
		b := NewBatch(dev)
		for _, p := range dev.Points {
			if err != nil {
				b.Fail(p, err, testNow())
			} else {
				b.Add(p, []byte(dev.ID+"."+p.Name), testNow())
			}
		}
		emit(b)
		return nil
	}
}

func TestListeningPollerNotesSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mast, gps := testDevice("mast", 0, "speed", "angle"), testDevice("gps", 0, "lat")
		l := make(fakeListener)
		b := startBench(t, PollerConfig{Listener: l, Devices: []*Device{mast, gps}}, newFakeLine())
		for range 20 {
			l.hear(mast, nil)
			b.run(time.Second)
		}
		b.wantState("mast", Online)
		b.wantState("gps", Unknown)
		if len(b.of("mast")) != 20 {
			t.Errorf("%d of 20 batches", len(b.of("mast")))
		}
		b.run(9500 * ms)
		b.wantState("mast", Stale)
		b.run(21 * time.Second)
		b.wantState("mast", Offline)
		b.wantState("gps", Offline)
		gs := b.of("mast")
		if last := gs[len(gs)-1]; len(gs) != 22 || last.state != Offline || len(last.bad) != 2 || !errors.Is(last.bad[0], ErrTimeout) {
			t.Errorf("after silence: %+v", gs[20:])
		}
		b.run(time.Hour)
		if len(b.of("mast")) != 22 {
			t.Error("silence is told again and again")
		}
		l.hear(mast, nil)
		b.run(time.Second)
		b.wantState("mast", Online)
		if s := b.p.Stats(); s.Requests != 13 || s.OK != 7 || s.Errors != 2 || s.Timeouts != 4 || s.LastBad != "cut off" {
			t.Errorf("stats %+v", s)
		}
		b.wantLogs("nothing heard", 2)
		b.wantLogs("answers again", 1)
		if err := b.p.Do(t.Context(), &fakeQuery{nil, mast, mast.Points}, nil); err == nil {
			t.Error("a bus that speaks by itself can be asked")
		}
	})
}

// A device that is asked and says nothing, or nothing that can be proven, is not
// taken for well.
func TestListeningPollerDoubtsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mast := testDevice("mast", 0, "speed")
		l := make(fakeListener)
		b := startBench(t, PollerConfig{Listener: l, Devices: []*Device{mast}}, newFakeLine())
		for _, cause := range []error{ErrTimeout, ErrReply} {
			for range 40 {
				l.hear(mast, cause)
				b.run(time.Second)
			}
			b.wantState("mast", Offline)
		}
		l.hear(mast, nil)
		b.run(time.Second)
		b.wantState("mast", Online)
	})
}

func TestListeningPollerTellsPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mast := testDevice("mast", 0, "speed")
		l := make(fakeListener)
		b := startBench(t, PollerConfig{Listener: l, Devices: []*Device{mast}}, newFakeLine())
		l.hear(mast, fmt.Errorf("open /dev/serial0: %w", ErrPort))
		b.run(time.Minute)
		if s := b.p.Stats(); !s.PortDown || s.Devices[0].State != Offline || len(b.got) != 1 {
			t.Errorf("%+v, %d batches", s, len(b.got))
		}
		l <- func(emit func(*Batch)) error { emit(NewBatch(mast)); return nil } // open again
		b.run(time.Second)
		if b.p.Stats().PortDown || len(b.got) != 1 {
			t.Errorf("port down: %v, %d batches", b.p.Stats().PortDown, len(b.got))
		}
		b.wantState("mast", Offline)
		l.hear(mast, nil)
		b.run(time.Second)
		b.wantState("mast", Online)
		b.wantLogs("port unavailable; retrying", 1)
		b.wantLogs("port is back", 1)
		b.wantLogs("device=", 0)
	})
}

func TestListeningPollerEndsWithItsListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := make(fakeListener)
		b := startBench(t, PollerConfig{Listener: l}, newFakeLine())
		gone := errors.New("gone")
		l <- func(func(*Batch)) error { return gone }
		synctest.Wait()
		b.stop()
		if !errors.Is(b.err, gone) {
			t.Errorf("Run = %v", b.err)
		}
	})
}

// A bus that is listened to can be lent, too: its port is closed meanwhile, its
// devices are in maintenance, and after it they have their time to be heard.
func TestListeningPollerLendsItsBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mast := testDevice("mast", 0, "speed")
		l := make(fakeListener)
		b := startBench(t, PollerConfig{Listener: l, Devices: []*Device{mast}}, newFakeLine())
		l.hear(mast, nil)
		b.run(time.Second)
		ctx, giveBack := context.WithCancel(t.Context())
		if err := b.p.Lend(ctx, "root"); err != nil {
			t.Fatal(err)
		}
		b.run(time.Hour)
		b.wantState("mast", Maintenance)
		select {
		case l <- nil:
			t.Error("somebody listens on a bus that is lent")
		default:
		}
		if gs := b.of("mast"); len(gs) != 2 || !errors.Is(gs[1].bad[0], ErrLent) || b.p.Stats().Lent != "root" {
			t.Errorf("told %+v, lent to %q", gs, b.p.Stats().Lent)
		}
		giveBack()
		b.run(20 * time.Second)
		b.wantState("mast", Maintenance)
		l.hear(mast, nil)
		b.run(time.Second)
		b.wantState("mast", Online)
		b.run(time.Minute)
		b.wantState("mast", Offline)
	})
}

// A device that is muted on such a bus is not heard.
func TestMutedDeviceIsNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mast, gps, line := testDevice("mast", 0, "speed"), testDevice("gps", 0, "lat"), newFakeLine()
		l, muted := make(fakeListener), true
		b := startBench(t, PollerConfig{Listener: l, Devices: []*Device{mast, gps}, Muted: func(device string) (err error) {
			line.set(func() {
				if muted && device == "mast" {
					err = ErrMuted
				}
			})
			return err
		}}, line)
		hear := func(err error) {
			for range 60 {
				l.hear(mast, err)
				l.hear(gps, err)
				b.run(time.Second)
			}
		}
		hear(nil)
		b.wantState("mast", Maintenance)
		b.wantState("gps", Online)
		if gs := b.of("mast"); len(gs) != 1 || gs[0].state != Maintenance {
			t.Errorf("told %+v", gs)
		}
		hear(fmt.Errorf("%w: gone", ErrPort))
		b.wantState("mast", Maintenance)
		b.wantState("gps", Offline)
		line.set(func() { muted = false })
		b.p.Review()
		b.run(time.Second)
		b.wantState("mast", Offline)
		hear(nil)
		b.wantState("mast", Online)
		b.wantState("gps", Online)
	})
}
