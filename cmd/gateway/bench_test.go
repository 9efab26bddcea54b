package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
)

// The figures of the README come from here:
//
//	go test -run '^$' -bench . -benchtime 5s ./cmd/gateway
//
// Plant, gateway and cloud share the machine and its cores.

// A bench is a plant with one TCP device, a cloud without TLS, and the
// configuration of a gateway between them.
type bench struct {
	cfg     *config.Config
	dir     string
	arrived atomic.Uint64 // messages in the cloud
	first   chan struct{} // closed with the first
}

// newBench simulates a device with so many registers, each a point.
func newBench(b *testing.B, registers int) *bench {
	b.Helper()
	x := &bench{dir: b.TempDir(), first: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	cloud, err := broker.New(broker.Config{
		Listen: []broker.Listen{{Network: "tcp", Address: "127.0.0.1:0"}},
		Limits: broker.Limits{Packet: 1 << 20},
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := cloud.Handle("dt/#", func(*broker.Message) {
		if x.arrived.Add(1) == 1 {
			close(x.first)
		}
	}); err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- cloud.Run(ctx) }()
	<-cloud.Ready()

	free, err := freeAddresses(2)
	if err != nil {
		b.Fatal(err)
	}
	x.write(b, free[0], free[1], cloud.Addr(0).String(), registers)
	cfg, report := config.Load(x.dir, config.Options{})
	if cfg == nil {
		b.Fatal(report.Err())
	}
	x.cfg = cfg
	plan, err := simulatorConfig(cfg, nil)
	if err != nil {
		b.Fatal(err)
	}
	sim, err := simulator.New(plan)
	if err != nil {
		b.Fatal(err)
	}
	go func() { done <- sim.Run(ctx) }()
	<-sim.Ready()
	b.Cleanup(func() { cancel(); <-done; <-done })
	return x
}

func (x *bench) write(b *testing.B, plc, local, far string, registers int) {
	b.Helper()
	var points strings.Builder
	for i := range registers {
		fmt.Fprintf(&points, "r%03d = { holding = %d, type = \"u16\" }\n", i, i)
	}
	for name, text := range map[string]string{
		"gateway.toml": fmt.Sprintf(`name = "bench"
[bus.plc]
address = "tcp://%s"
[broker]
listen = ["tcp://%s"]
[publish.device]
per = "device"
topic = "{name}/{device}"
[bridge.far]
url = "tcp://%s"
client_id = "bench"
window = 200
send = { "{name}/+" = "dt/{name}/+" }
`, plc, local, far),
		"devices.d/plc.toml": "[device.plc]\nbus = \"plc\"\nunit_id = 1\nevery = \"10ms\"\n[device.plc.points]\n" + points.String(),
	} {
		path := filepath.Join(x.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

// cpu returns the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPollOneDevice polls 125 registers as fast as they come and
// publishes the values of each poll as one object, which goes through the
// spool and over a bridge.
func BenchmarkPollOneDevice(b *testing.B) {
	x := newBench(b, 125)
	for _, p := range x.cfg.Devices[0].Points {
		p.Every = time.Microsecond // faster than the configuration lets anybody ask
	}
	state := b.TempDir()
	g, err := newGateway(x.cfg, places{state: state, runtime: state}, false, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.run(ctx, func() {}) }()
	<-x.first

	polls := func() uint64 { return g.buses[0].poller.Stats().OK }
	from, arrived, used, began := polls(), x.arrived.Load(), cpu(), time.Now()
	b.ResetTimer()
	for target := from + uint64(b.N); polls() < target; { // one iteration is one poll
		time.Sleep(time.Millisecond)
	}
	n, took := float64(polls()-from), time.Since(began).Seconds()
	b.ReportMetric(n/took, "requests/s")
	b.ReportMetric(125*n/took, "readings/s")
	b.ReportMetric(float64(x.arrived.Load()-arrived)/took, "delivered/s")
	b.ReportMetric(float64((cpu()-used).Microseconds())/n, "cpu-µs/poll")
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	if err := g.close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStart runs the binary until its first value is in the cloud.
func BenchmarkStart(b *testing.B) {
	var resident float64
	for b.Loop() {
		b.StopTimer()
		x := newBench(b, 125)
		state, err := os.MkdirTemp("", "gw-")
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		cmd := exec.Command(binary, "run", "--config", x.dir, "--state", state)
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		<-x.first
		b.StopTimer()
		resident = float64(residentKB(b, cmd.Process.Pid)) / 1e3
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(state)
		b.StartTimer()
	}
	b.ReportMetric(resident, "MB-resident")
	b.ReportMetric(float64(stripped(b))/1e6, "MB-binary")
}

// stripped returns the size of the binary as it is installed.
func stripped(b *testing.B) int64 {
	b.Helper()
	out := filepath.Join(b.TempDir(), "gateway")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, text)
	}
	info, err := os.Stat(out)
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}

func residentKB(b *testing.B, pid int) (kb int) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			fmt.Sscanf(strings.TrimSpace(rest), "%d kB", &kb)
		}
	}
	return kb
}
