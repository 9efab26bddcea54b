package modbus

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/devices/serial/pty"
)

// pacedLine returns a line to a server on the other end of a paced pair.
func pacedLine(t testing.TB, baud int, s Store) (*pty.Pair, *Line) {
	t.Helper()
	pair, cfg := onPTY(t, baud)
	port, err := serial.Open(serial.Config{Path: pair.B, Baud: baud})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- ServeRTU(ctx, port, cfg, s) }()
	l, err := NewLine(Config{Serial: cfg, Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-done
		port.Close()
		l.Close()
	})
	return pair, l
}

// TestSpoiledLine: on a real tty with characters lost, inverted and added, or
// echoed and late, no value is wrong, and most are there.
func TestSpoiledLine(t *testing.T) {
	for _, tt := range []struct {
		name             string
		request, answer  pty.Faults
		rounds, leastOff int
	}{
		{"clean", pty.Faults{}, pty.Faults{}, 20, 20},
		{"echo", pty.Faults{Echo: true}, pty.Faults{}, 20, 20},
		{"spoiled", pty.Faults{}, pty.Faults{Drop: 0.004, Flip: 0.004, Insert: 0.004}, 60, 10},
		{"echoed and spoiled", pty.Faults{Echo: true, Flip: 0.004}, pty.Faults{Insert: 0.01}, 40, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pair, l := pacedLine(t, 115200, &plant{})
			pair.SetFaults(pty.A, tt.request)
			pair.SetFaults(pty.B, tt.answer)
			good := 0
			for i := range tt.rounds {
				b, err := read(t, l, meter(Unit{ID: 1}, Register{Input, uint16(10 * i), 10}))
				if err == nil {
					good++
				}
				if err := verify(b); err != nil {
					t.Fatalf("round %d: wrong value: %v", i, err)
				}
			}
			if good < tt.leastOff {
				t.Errorf("%d good of %d, %+v", good, tt.rounds, l.Stats())
			}
			if s := l.Stats(); s.Opened != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestUnplugInTheAnswer unplugs the adapter while the answer is coming in, and
// plugs it in again.
func TestUnplugInTheAnswer(t *testing.T) {
	pair, l := pacedLine(t, 9600, &plant{})
	dev := meter(Unit{ID: 1}, Register{Input, 0, 60})
	pair.Tap(pty.B, func(b []byte) []byte {
		go pair.HangUp(pty.A)
		return b
	})
	if _, err := read(t, l, dev); !errors.Is(err, devices.ErrPort) {
		t.Errorf("unplugged: %v", err)
	}
	if _, err := read(t, l, dev); !errors.Is(err, devices.ErrPort) {
		t.Errorf("still unplugged: %v", err)
	}
	pair.Tap(pty.B, nil)
	if err := pair.Replug(pty.A); err != nil {
		t.Fatal(err)
	}
	b, err := read(t, l, dev)
	if err != nil || verify(b) != nil {
		t.Errorf("plugged in again: %v, %v", err, verify(b))
	}
}

// BenchmarkRTU reads 125 registers over a paced line and reports which share
// of the time the wire needed.
func BenchmarkRTU(b *testing.B) {
	for name, baud := range map[string]int{"9600": 9600, "115200": 115200} {
		b.Run(name, func(b *testing.B) {
			_, l := pacedLine(b, baud, &plant{})
			benchmarkRead(b, l)
			wire := WireTime(l.cfg.Serial, 8, 255)
			b.ReportMetric(float64(wire)*float64(b.N)/float64(b.Elapsed()), "wire/taken")
		})
	}
}

// BenchmarkTCP reads 125 registers over loopback.
func BenchmarkTCP(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go ServeTCP(b.Context(), ln, &plant{})
	l, err := NewLine(Config{URL: "tcp://" + ln.Addr().String()})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	benchmarkRead(b, l)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

func benchmarkRead(b *testing.B, l *Line) {
	dev := meter(Unit{ID: 1}, Register{Input, 0, 125})
	qs, err := l.Plan(dev, dev.Points)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		batch := devices.NewBatch(dev)
		if err := qs[0].Do(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
		batch.Release()
	}
}
