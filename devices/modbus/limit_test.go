package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix" // nanosleep: a Go timer may be a millisecond late

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/devices/serial/pty"
)

// A bench is a plant of ten units on the wire of a paced pair itself. It
// knows when each character passes, and answers when the request, the silence
// after it and the turn-around are over.
type bench struct {
	cfg  serial.Config
	turn time.Duration
	asks chan asked // as long as it is full the line waits

	mu       sync.Mutex      // guards what follows
	begun    time.Time       // when the first request went out
	last     time.Time       // when the last one did
	free     time.Time       // when the last answer ended
	cost     time.Duration   // of the last one, with the nominal turn-around
	needed   time.Duration   // by all requests but the last
	late     time.Duration   // by which the answers began after their time: this bench, starved by other programs
	gaps     []time.Duration // from an answer to the next request, beyond the silence
	requests []string        // unit and PDU
	cycles   []time.Duration // of thirty requests each
	cycle    time.Time       // when the one under way began
}

// An asked is a request and when its answer is to begin.
type asked struct {
	frame []byte
	at    time.Time
}

// request sees a request when its first bit is on the wire.
func (b *bench) request(frame []byte) []byte {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last = now; b.begun.IsZero() {
		b.begun = now
	} else {
		b.gaps = append(b.gaps, now.Sub(b.free)-b.cfg.Silence35())
	}
	if len(b.requests)%30 == 0 {
		if !b.cycle.IsZero() {
			b.cycles = append(b.cycles, now.Sub(b.cycle))
		}
		b.cycle = now
	}
	b.requests = append(b.requests, string(frame[:6]))
	b.needed += b.cost
	b.cost = WireTime(b.cfg, len(frame), 5+2*int(binary.BigEndian.Uint16(frame[4:]))) + b.turn
	b.asks <- asked{frame, now.Add(time.Duration(len(frame))*b.cfg.CharTime() + b.cfg.Silence35() + b.turn)}
	return frame
}

// answer sees an answer when its first bit is on the wire.
func (b *bench) answer(frame []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.late += time.Since(b.last.Add(b.cost - time.Duration(len(frame))*b.cfg.CharTime() - b.cfg.Silence35()))
	b.free = time.Now().Add(time.Duration(len(frame)) * b.cfg.CharTime())
	return frame
}

// serve writes answers to port until there are no more requests.
func (b *bench) serve(port io.Writer) {
	for a := range b.asks {
		reply := rtuReply(&plant{}, a.frame)
		for wait := time.Until(a.at); wait > 0; wait = time.Until(a.at) {
			if wait -= 100 * time.Microsecond; wait > 0 { // else spin
				ts := unix.NsecToTimespec(int64(wait))
				unix.Nanosleep(&ts, nil)
			}
		}
		port.Write(reply)
	}
}

// newBench returns the bench and a line to it.
func newBench(tb testing.TB, baud int, turn time.Duration) (*bench, *Line) {
	pair, cfg := onPTY(tb, baud)
	far, err := os.OpenFile(pair.B, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	b := &bench{cfg: cfg, turn: turn, asks: make(chan asked, 16)}
	pair.Tap(pty.A, b.request)
	pair.Tap(pty.B, b.answer)
	var serving sync.WaitGroup
	serving.Go(func() { b.serve(far) })
	l, err := NewLine(Config{Serial: cfg, Timeout: time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		pair.Close()
		close(b.asks)
		serving.Wait()
		far.Close()
	})
	return b, l
}

// tenUnits are ten devices with twenty registers in three groups.
func tenUnits() []*devices.Device {
	var devs []*devices.Device
	for unit := byte(1); unit <= 10; unit++ {
		dev := &devices.Device{ID: fmt.Sprint("meter", unit), Unit: Unit{ID: unit}, Stale: time.Hour}
		for _, reg := range []Register{{Input, 0, 8}, {Input, 100, 6}, {Input, 200, 6}} {
			dev.Points = append(dev.Points, &devices.Point{Name: reg.String(), Source: reg, Every: time.Millisecond})
		}
		devs = append(devs, dev)
	}
	return devs
}

// BenchmarkLimit polls ten units of twenty registers in three groups as fast
// as the line can, which is less than they are asked for. wire/taken is the
// time that the very requests sent need (frames, silences, the turn-around)
// as a share of the time taken, where the turn-around is what the device took
// indeed: on a busy machine the bench itself is late. nominal/taken is the
// share with the turn-around as it should be, nominal/median that of the
// middle cycle. early are requests within the silence, uneven those that were
// not the same as thirty before.
func BenchmarkLimit(b *testing.B) {
	for _, tt := range []struct {
		baud int
		turn time.Duration
	}{{9600, 5 * time.Millisecond}, {19200, 5 * time.Millisecond}, {38400, 2 * time.Millisecond}, {115200, 2 * time.Millisecond}} {
		b.Run(fmt.Sprint(tt.baud), func(b *testing.B) {
			bench, l := newBench(b, tt.baud, tt.turn)
			bench.poll(b, l, 30*b.N+1)
			share, early, gap := bench.judge()
			slices.Sort(bench.cycles)
			b.ReportMetric(share, "wire/taken")
			b.ReportMetric(float64(bench.needed)/float64(bench.last.Sub(bench.begun)), "nominal/taken")
			b.ReportMetric(float64(bench.needed)/float64(len(bench.requests)-1)*30/float64(bench.cycles[len(bench.cycles)/2]), "nominal/median")
			b.ReportMetric(float64(early), "early")
			b.ReportMetric(float64(gap.Microseconds()), "gap-µs")
			b.ReportMetric(float64(uneven(bench.requests)), "uneven")
		})
	}
}

// TestLimit runs two cycles of BenchmarkLimit. What it takes depends on what
// else the machine does; that no request comes early does not.
func TestLimit(t *testing.T) {
	bench, l := newBench(t, 115200, 2*time.Millisecond)
	bench.poll(t, l, 61)
	share, early, _ := bench.judge()
	t.Logf("%.3f of the time was needed", share)
	if early > 0 || uneven(bench.requests) > 0 {
		t.Errorf("%d requests within the silence, %d out of turn", early, uneven(bench.requests))
	}
}

// poll lets a Poller work until n requests were sent.
func (b *bench) poll(tb testing.TB, l *Line, n int) {
	out := make(chan *devices.Batch)
	p, err := devices.NewPoller(devices.PollerConfig{Bus: "bench", Line: l, Devices: tenUnits(), Out: out,
		Log: slog.New(slog.NewTextHandler(tb.Output(), nil))})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			tb.Error(err)
		}
		close(out)
	})
	defer running.Wait()
	defer cancel()
	for batch := range out {
		for _, r := range batch.Readings {
			if r.Err != nil {
				tb.Error(r.Err)
			}
		}
		if err := verify(batch); err != nil {
			tb.Error(err)
		}
		batch.Release()
		if b.sent() >= n {
			break
		}
	}
	cancel()
	for batch := range out { // until Run has ended
		batch.Release()
	}
}

func (b *bench) sent() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.requests)
}

// judge returns which share of the time was needed, how many requests came
// within the silence, and how much later than that the middle one came.
func (b *bench) judge() (share float64, early int, gap time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(b.gaps)
	for early < len(b.gaps) && b.gaps[early] < 0 {
		early++
	}
	return float64(b.needed+b.late) / float64(b.last.Sub(b.begun)), early, b.gaps[len(b.gaps)/2]
}

// uneven counts the requests that were not the same as thirty before.
func uneven(requests []string) int {
	n := 0
	for i := 30; i < len(requests); i++ {
		if requests[i] != requests[i-30] {
			n++
		}
	}
	return n
}
