package simulator

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// The trouble of the isolation test, by bus.
const (
	silentBus = iota
	lateBus
	noisyBus
	pulledBus // unplugged after a third of the readings, back after two thirds
	firstGood
	allBuses = 20
)

// TestTroubleStaysWithItsDevice reads twenty devices at once, four of them in
// trouble: all readings are values that their points held, the sixteen others
// have a reading in each cycle, and the one that was pulled out comes back. How
// late readings are is told (with -v), beside how late this computer's timers
// are. With GATEWAY_LONG it reads a million, at an interval as in the field.
func TestTroubleStaysWithItsDevice(t *testing.T) {
	want, every := 50_000, 25*time.Millisecond
	if os.Getenv("GATEWAY_LONG") != "" {
		want, every = 1_000_000, 125*time.Millisecond
	}
	plan := Config{Check: true, History: 1 << 14}
	for i := range allBuses {
		b := &build{id: fmt.Sprintf("d%02d", i), unit: 1}
		for k := range 60 {
			b.add(modbus.Input, fmt.Sprintf("p%02d", k), mapping.Point{Type: mapping.U32}).Every = every
		}
		plan.Buses = append(plan.Buses, Bus{Name: fmt.Sprint("bus", i), Devices: []*mapping.Device{b.device(fmt.Sprint("bus", i))}})
	}
	plan.Buses[silentBus].Faults = map[byte]Fault{1: {Silent: true}}
	plan.Buses[lateBus].Faults = map[byte]Fault{1: {Latency: 90 * time.Millisecond, Every: 3}}
	plan.Buses[noisyBus].Faults = map[byte]Fault{1: {Noise: 5, Every: 3}}
	s, err := New(plan)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)

	var w watch
	w.read(t, s, every, want)
	for i := range allBuses {
		d := &w.devices[i]
		if d.wrong > 0 {
			t.Errorf("d%02d: %d wrong values", i, d.wrong)
		}
		if i >= firstGood && (d.failed > 0 || len(d.gaps) == 0) {
			t.Errorf("d%02d, which is well: %d readings failed", i, d.failed)
		}
	}
	for bus, ok := range map[int]bool{
		silentBus: w.devices[silentBus].good == 0,
		lateBus:   w.devices[lateBus].good > 0 && w.devices[lateBus].failed > 0,
		noisyBus:  w.devices[noisyBus].good > 0 && w.devices[noisyBus].failed > 0,
		pulledBus: w.devices[pulledBus].good > 0 && w.devices[pulledBus].failed > 0,
	} {
		if !ok {
			t.Errorf("d%02d: %d good readings and %d failed: its trouble did not come about", bus, w.devices[bus].good, w.devices[bus].failed)
		}
	}
	w.report(t, every)
	t.Logf("%d answers whose corruption kept a right checksum, which none has on TCP", undetectables(s))
}

// A watch judges all readings.
type watch struct {
	devices [allBuses]watched
	timers  []time.Duration // how far a timer at the same interval was off
}

// A watched is how one device did; its poller's receiver owns it.
type watched struct {
	good, failed, wrong int
	last                devices.Stamp
	gaps                []time.Duration // between cycles
}

// read runs a poller for each bus until there are so many good readings, and
// the device that was pulled out is read again.
func (w *watch) read(t *testing.T, s *Simulator, every time.Duration, want int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { w.timers = tick(ctx, every) })
	judged := make(chan int, allBuses) // good readings of a batch, negative from the pulled one
	for i := range allBuses {
		timeout := 60 * time.Millisecond // shorter than the late one takes
		if i >= firstGood {
			timeout = 10 * time.Second // on a busy computer these may be late too, but not silent
		}
		l, err := modbus.NewLine(modbus.Config{URL: s.Addresses()[fmt.Sprint("bus", i)], Timeout: timeout})
		if err != nil {
			t.Fatal(err)
		}
		dev := s.buses[i].Devices[0]
		out := make(chan *devices.Batch, 4)
		p, err := devices.NewPoller(devices.PollerConfig{
			Bus: fmt.Sprint("bus", i), Line: l, Devices: []*devices.Device{dev.Device}, Out: out,
			Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { p.Run(ctx) })
		running.Go(func() { w.devices[i].take(ctx, s, out, judged, i == pulledBus) })
	}
	pullAndPlug(t, s, judged, want)
}

// tick returns how far from each other ticks at an interval are, less that.
func tick(ctx context.Context, every time.Duration) (off []time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for last := time.Now(); ; {
		select {
		case <-ticker.C:
			gap := time.Since(last)
			last = last.Add(gap)
			off = append(off, max(gap-every, every-gap))
		case <-ctx.Done():
			return off
		}
	}
}

// pullAndPlug pulls the plug out and puts it in again at its times, and returns when
// there are enough good readings.
func pullAndPlug(t *testing.T, s *Simulator, judged <-chan int, want int) {
	t.Helper()
	pulled := fmt.Sprint("bus", pulledBus)
	out, in, back := false, false, false
	for got := 0; got < want || !back; {
		n := <-judged
		if n < 0 {
			back = in
			n = -n
		}
		got += n
		var err error
		switch {
		case !out && got > want/3:
			out, err = true, s.Unplug(pulled)
		case !in && got > 2*want/3:
			in, err = true, s.Replug(pulled)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// take judges the batches of one device until ctx is done.
func (d *watched) take(ctx context.Context, s *Simulator, out <-chan *devices.Batch, judged chan<- int, pulled bool) {
	for {
		select {
		case <-ctx.Done():
			return
		case b := <-out:
			good := d.judge(s, b)
			b.Release()
			if pulled {
				good = -good
			}
			select {
			case judged <- good:
			case <-ctx.Done():
				return
			}
		}
	}
}

// judge returns how many readings of b are good.
func (d *watched) judge(s *Simulator, b *devices.Batch) (good int) {
	for _, r := range b.Readings {
		switch {
		case r.Err != nil:
			d.failed++
		case s.Holds(b.Device.ID, r.Point.Name, r.Raw):
			good++
		default:
			d.wrong++
		}
	}
	if good > 0 {
		at := b.Readings[0].At
		if d.last != 0 {
			d.gaps = append(d.gaps, at.Sub(d.last))
		}
		d.last = at
	}
	d.good += good
	return good
}

// report tells how late the devices are that are well: how far the time between
// two readings is from their interval.
func (w *watch) report(t *testing.T, every time.Duration) {
	t.Helper()
	var late []time.Duration
	good := 0
	for i := range w.devices {
		good += w.devices[i].good
		if i < firstGood {
			t.Logf("d%02d: %d good readings, %d failed, %d wrong", i, w.devices[i].good, w.devices[i].failed, w.devices[i].wrong)
			continue
		}
		for _, g := range w.devices[i].gaps {
			late = append(late, max(g-every, every-g))
		}
	}
	if len(late) == 0 || len(w.timers) == 0 {
		return // which has been told
	}
	slices.Sort(late)
	slices.Sort(w.timers)
	p99, timer := late[len(late)*99/100], w.timers[len(w.timers)*99/100]
	t.Logf("%d good readings; of the devices that are well each %v ± %v (p50), %v (p99), %v (max); a timer ± %v (p50), %v (p99)",
		good, every, late[len(late)/2], p99, late[len(late)-1], w.timers[len(w.timers)/2], timer)
}
