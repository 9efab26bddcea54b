package spool_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	. "edgegateway/broker/spool"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("SPOOL_KILL_DIR"); dir != "" {
		victim(dir)
	}
	if dir := os.Getenv("SPOOL_FAULT_DIR"); dir != "" {
		faultVictim(dir)
	}
	os.Exit(m.Run())
}

func fileConfig(dir string, mode SyncMode) Config {
	return Config{Dir: filepath.Join(dir, "card"), RingDir: filepath.Join(dir, "run"), Name: "telemetry",
		Size: 16 << 20, Segment: 1 << 20, Reserve: -1, Sync: Policy{Mode: mode}}
}

// killConfig packs in every other mode.
func killConfig(dir string, mode SyncMode) Config {
	cfg := fileConfig(dir, mode)
	cfg.Size, cfg.Compress = 64<<20, mode == Interval
	return cfg
}

// victim appends numbers from where it is told to on, and prints each when it
// is safe, until it is killed. It acknowledges every third.
func victim(dir string) {
	mode, _ := strconv.Atoi(os.Getenv("SPOOL_KILL_MODE"))
	n, _ := strconv.ParseUint(os.Getenv("SPOOL_KILL_FROM"), 10, 64)
	l, err := Open(killConfig(dir, SyncMode(mode)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	c, _ := l.Consumer("aws")
	for ; ; n++ {
		i := n
		size := 208
		if i%400 == 99 {
			size = 1200 << 10 // more than a segment
		}
		rec := Record{Targets: []Target{{Consumer: c.ID()}}, Data: binary.BigEndian.AppendUint64(make([]byte, 0, size), i)[:size]}
		for {
			_, err := l.Append(rec, func(err error) {
				if err == nil {
					fmt.Println(i)
				}
			})
			if err == nil {
				break
			}
			<-l.Room()
		}
	}
}

// TestKillNine kills a process that appends to a log on real files, again and
// again, and looks for every number that it said was safe.
func TestKillNine(t *testing.T) {
	for _, mode := range []SyncMode{Interval, Always} {
		dir := t.TempDir()
		var safe, read uint64
		for round := range 4 {
			last := killed(t, dir, mode, read, 50+300*round)
			l := mustOpen(t, killConfig(dir, mode))
			c := mustConsumer(t, l, "aws")
			r := c.Reader(c.Acked(), l.Last())
			for {
				rec, err := r.Next(t.Context(), nil)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil || rec.Gap != nil {
					t.Fatalf("%+v %v", rec.Gap, err)
				}
				if n := binary.BigEndian.Uint64(rec.Data); n != read {
					t.Fatalf("mode %d round %d: got %d, want %d", mode, round, n, read)
				}
				read++
				c.Ack(rec.Seq)
			}
			r.Close()
			if read <= last {
				t.Fatalf("mode %d round %d: read up to %d, %d was safe", mode, round, read, last)
			}
			safe = last
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("mode %d: %d were safe, %d read", mode, safe+1, read)
	}
}

// killed runs a victim, kills it after n lines and returns the last it said.
func killed(t *testing.T, dir string, mode SyncMode, from uint64, n int) (last uint64) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "SPOOL_KILL_DIR="+dir, fmt.Sprint("SPOOL_KILL_MODE=", int(mode)), fmt.Sprint("SPOOL_KILL_FROM=", from))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		if v, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
			last = v
		}
		if i == n {
			cmd.Process.Kill()
		}
	}
	cmd.Wait()
	return last
}

// BenchmarkAppendAck is the connected steady state: each record is read and
// acknowledged before it would be written.
func BenchmarkAppendAck(b *testing.B) {
	l := mustOpen(b, fileConfig(b.TempDir(), Interval))
	defer l.Close()
	c := mustConsumer(b, l, "aws")
	r := c.Reader(l.Last(), 0)
	defer r.Close()
	rec := Record{Targets: []Target{{Consumer: c.ID(), QoS: 1}}, Data: make([]byte, 200)}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		for !appended(l, rec, nil) { // the ring is behind
			<-l.Room()
		}
		got, err := r.Next(b.Context(), buf)
		if err != nil {
			b.Fatal(err)
		}
		buf = got.Data
		c.Ack(got.Seq)
	}
	b.ReportMetric(float64(l.Stats().BytesWritten)/float64(200*b.N), "written/payload")
}

// BenchmarkBuffering is the outage: nobody acknowledges.
func BenchmarkBuffering(b *testing.B) {
	l := mustOpen(b, fileConfig(b.TempDir(), Interval))
	defer l.Close()
	c := mustConsumer(b, l, "aws")
	rec := Record{Targets: []Target{{Consumer: c.ID(), QoS: 1}}, Data: make([]byte, 200)}
	b.ReportAllocs()
	var safe atomic.Int64
	for b.Loop() {
		for !appended(l, rec, func(error) { safe.Add(1) }) {
			<-l.Room()
		}
	}
	l.Sync(b.Context())
	b.ReportMetric(float64(l.Stats().BytesWritten)/float64(200*b.N), "written/payload")
	b.ReportMetric(float64(l.Stats().Syncs)*1000/float64(b.N), "syncs/1000")
}

func appended(l *Log, rec Record, done func(error)) bool {
	_, err := l.Append(rec, done)
	return err == nil
}
