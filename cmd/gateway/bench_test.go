package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/internal/config"
)

// The figures of the README come from here:
//
//	go test -run '^$' -bench . -benchtime 5s ./cmd/gateway
//
// The plant is another process on the same machine.

// A bench is a plant with one TCP device, which `gateway simulate` serves, and
// the configuration of a gateway for it, with or without a bridge to a cloud.
type bench struct {
	cfg     *config.Config
	dir     string
	arrived atomic.Uint64 // messages in the cloud
	first   chan struct{} // closed with the first
}

// newBench simulates a device with so many registers, each a point.
func newBench(b *testing.B, registers int, bridged bool) *bench {
	b.Helper()
	x := &bench{dir: b.TempDir(), first: make(chan struct{})}
	free, err := freeAddresses(2)
	if err != nil {
		b.Fatal(err)
	}
	text := fmt.Sprintf(benchConfig, free[0], free[1])
	if bridged {
		text += fmt.Sprintf(benchBridge, x.startCloud(b))
	}
	var points strings.Builder
	for i := range registers {
		fmt.Fprintf(&points, "r%03d = { holding = %d, type = \"u16\" }\n", i, i)
	}
	for name, text := range map[string]string{
		"gateway.toml":       text,
		"devices.d/plc.toml": benchDevice + points.String(),
	} {
		path := filepath.Join(x.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			b.Fatal(err)
		}
	}
	cfg, report := config.Load(x.dir, config.Options{})
	if cfg == nil {
		b.Fatal(report.Err())
	}
	x.cfg = cfg
	startPlant(b, x.dir, free[0])
	return x
}

const (
	benchConfig = `name = "bench"
[bus.plc]
address = "tcp://%s"
[broker]
listen = ["tcp://%s"]
[publish.device]
per = "device"
topic = "{name}/{device}"
`
	benchBridge = `[bridge.far]
url = "tcp://%s"
client_id = "bench"
window = 200
unsynced = "flag"
send = { "{name}/+" = "dt/{name}/+" }
`
	benchDevice = `[device.plc]
bus = "plc"
unit_id = 1
every = "10ms"
[device.plc.points]
`
)

// startCloud returns the address of a broker without TLS that counts what
// arrives.
func (x *bench) startCloud(b *testing.B) string {
	b.Helper()
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
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cloud.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
	<-cloud.Ready()
	return cloud.Addr(0).String()
}

// startPlant serves the devices of a configuration, whose one bus is at
// address, until the benchmark ends.
func startPlant(b *testing.B, dir, address string) {
	b.Helper()
	runBeside(b, binary, "simulate", "--config", dir)
	for {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// runBeside runs a program until the benchmark ends.
func runBeside(b *testing.B, name string, args ...string) {
	b.Helper()
	cmd := exec.Command(name, args...)
	if err := cmd.Start(); err != nil {
		b.Fatalf("start %s: %v (./test.sh installs what is needed)", name, err)
	}
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
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
// publishes the values of each poll as one object: to a program that subscribes
// to them, or through the spool and over a bridge to a broker in this process.
func BenchmarkPollOneDevice(b *testing.B) {
	b.Run("published", func(b *testing.B) {
		x := newBench(b, 125, false)
		_, port, _ := net.SplitHostPort(x.cfg.Listen[0].Address)
		x.poll(b, func(g *gateway) {
			runBeside(b, "mosquitto_sub", "-h", "127.0.0.1", "-p", port, "-t", "bench/#")
			for g.broker.Stats().Clients == 0 {
				time.Sleep(time.Millisecond)
			}
		})
	})
	b.Run("bridged", func(b *testing.B) {
		x := newBench(b, 125, true)
		x.poll(b, func(*gateway) { <-x.first })
	})
}

// poll runs a gateway as fast as it can from when somebody listens. One
// iteration is one poll.
func (x *bench) poll(b *testing.B, listen func(*gateway)) {
	for _, p := range x.cfg.Devices[0].Points {
		p.Every = time.Microsecond // faster than the configuration lets anybody ask
	}
	state := b.TempDir()
	g, err := newGateway(x.cfg, places{state: state, runtime: state}, false, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- g.run(ctx, func() { close(ready) }) }()
	<-ready
	listen(g)

	polls := func() uint64 { return g.works.Load().buses[0].poller.Stats().OK }
	from, arrived, used, began := polls(), x.arrived.Load(), cpu(), time.Now()
	b.ResetTimer()
	for target := from + uint64(b.N); polls() < target; {
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
		x := newBench(b, 125, true)
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
