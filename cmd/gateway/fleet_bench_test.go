package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/internal/config"
)

// fleetTime is how long a fleet is watched, after it has settled.
const fleetTime = 15 * time.Second

// BenchmarkFleet polls so many devices, each on a connection of its own, with 100
// registers each; the simulator is another process. An iteration is a quarter of a
// minute. late-… is how late cycles began: the median of half of the devices, the
// p99 of the median one and of the worst; timer-… is what plain timers at the same
// interval in the same process were late meanwhile, which no program of this kind
// can do better than. cpu-s/min is that of the gateway with its broker.
func BenchmarkFleet(b *testing.B) {
	for _, tt := range []struct {
		devices int
		every   time.Duration
	}{{20, 125 * time.Millisecond}, {10, time.Second}, {100, time.Second}, {1000, time.Second}} {
		b.Run(fmt.Sprintf("devices=%d/every=%v", tt.devices, tt.every), func(b *testing.B) { benchmarkFleet(b, tt.devices, tt.every) })
	}
}

func benchmarkFleet(b *testing.B, n int, every time.Duration) {
	dir, state := b.TempDir(), b.TempDir()
	writeFleet(b, dir, n, every)
	plant := exec.Command(binary, "simulate", "--config", dir)
	plant.Stderr = os.Stderr
	out, err := plant.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := plant.Start(); err != nil {
		b.Fatal(err)
	}
	defer plant.Wait()
	defer plant.Process.Kill()
	awaitLine(b, out, "All buses are where")

	cfg, report := config.Load(dir, config.Options{})
	if cfg == nil {
		b.Fatal(report.Err())
	}
	g, err := newGateway(cfg, places{state: state, runtime: state}, false, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := g.run(ctx, func() {}); err != nil {
			b.Error(err)
		}
		if err := g.close(); err != nil {
			b.Error(err)
		}
	})
	defer running.Wait()
	defer stop()
	var timers lateTimers
	for range 16 {
		running.Go(func() { timers.run(ctx, every) })
	}
	awaitFleet(b, g)
	timers.reset()
	polls := func() (n uint64) {
		for _, bus := range g.works.Load().buses {
			n += bus.poller.Stats().OK
		}
		return n
	}
	from, used, began := polls(), cpu(), time.Now()
	b.ResetTimer()
	for range b.N {
		time.Sleep(fleetTime)
	}
	b.StopTimer()
	took := time.Since(began)
	b.ReportMetric((cpu()-used).Seconds()/took.Minutes(), "cpu-s/min")
	b.ReportMetric(float64(polls()-from)/took.Seconds(), "polls/s")
	b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
	b.ReportMetric(float64(openFiles(b)), "files")
	b.ReportMetric(float64(residentKB(b, os.Getpid()))/1e3, "MB-resident")
	var halves, mosts []float64
	var unanswered uint64
	for _, bus := range g.works.Load().buses {
		s := bus.poller.Stats()
		halves, mosts = append(halves, 1e3*s.LateHalf), append(mosts, 1e3*s.LateMost)
		unanswered += s.Requests - s.OK
	}
	b.ReportMetric(float64(unanswered), "unanswered")
	slices.Sort(halves)
	slices.Sort(mosts)
	b.ReportMetric(halves[len(halves)/2], "late-p50-ms")
	b.ReportMetric(mosts[len(mosts)/2], "late-p99-ms")
	b.ReportMetric(mosts[len(mosts)-1], "late-worst-p99-ms")
	half, most := timers.quantiles()
	b.ReportMetric(half, "timer-p50-ms")
	b.ReportMetric(most, "timer-p99-ms")
}

// writeFleet writes the configuration of n devices.
func writeFleet(b *testing.B, dir string, n int, every time.Duration) {
	b.Helper()
	free, err := freeAddresses(1)
	if err != nil {
		b.Fatal(err)
	}
	var buses, devs, points strings.Builder
	for i := range 100 {
		fmt.Fprintf(&points, "r%03d = { holding = %d, type = \"u16\" }\n", i, i)
	}
	fmt.Fprintf(&buses, "name = \"fleet\"\n[broker]\nlisten = [\"tcp://%s\"]\n[publish.device]\nper = \"device\"\ntopic = \"{name}/{device}\"\n", free[0])
	for i := range n {
		fmt.Fprintf(&buses, "[bus.b%d]\naddress = \"tcp://127.9.%d.%d:15020\"\n", i, i/250, 1+i%250)
		fmt.Fprintf(&devs, "[device.d%d]\nbus = \"b%d\"\nunit_id = 1\nevery = \"%v\"\n[device.d%d.points]\n%s", i, i, every, i, &points)
	}
	for name, text := range map[string]string{"gateway.toml": buses.String(), "devices.d/fleet.toml": devs.String()} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func openFiles(b *testing.B) int {
	b.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		b.Fatal(err)
	}
	return len(list)
}

// lateTimers are plain timers that note how late they fire.
type lateTimers struct {
	mu   sync.Mutex // guards late
	late []time.Duration
}

func (l *lateTimers) run(ctx context.Context, every time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for due := devices.Now(); ; due += devices.Stamp(every) {
		timer.Reset(due.Sub(devices.Now()))
		select {
		case <-timer.C:
			l.mu.Lock()
			l.late = append(l.late, devices.Now().Sub(due))
			l.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

func (l *lateTimers) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = l.late[:0]
}

// quantiles returns half and 99 of 100 in milliseconds.
func (l *lateTimers) quantiles() (half, most float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.late)
	if len(l.late) == 0 {
		return 0, 0
	}
	return l.late[len(l.late)/2].Seconds() * 1e3, l.late[len(l.late)*99/100].Seconds() * 1e3
}

// awaitFleet waits until all devices have answered, and a little more.
func awaitFleet(b *testing.B, g *gateway) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		silent := 0
		for _, bus := range g.works.Load().buses {
			if s, ok := bus.poller.Status(bus.Devices[0].ID); !ok || s.State != devices.Online {
				silent++
			}
		}
		switch {
		case silent == 0:
			time.Sleep(5 * time.Second)
			return
		case time.Now().After(deadline):
			b.Fatalf("%d devices do not answer: this computer has other work", silent)
		}
	}
}

// awaitLine reads out until a line begins so, and goes on reading.
func awaitLine(b *testing.B, out io.Reader, begin string) {
	b.Helper()
	seen := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), begin) {
				seen <- true
			}
		}
		close(seen)
	}()
	if !<-seen {
		b.Fatalf("it ended without %q", begin)
	}
}
