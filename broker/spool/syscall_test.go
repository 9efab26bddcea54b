package spool_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "edgegateway/broker/spool"
)

// System calls that fail, one at a time: strace has the n-th write, sync, open,
// rename or removal of a process that uses a log fail, or kills it there. What
// the process said was safe must be in the log when it is opened again.

var faultyCalls = []string{"pwrite64", "fdatasync", "fsync", "openat", "renameat", "unlinkat", "ftruncate"}

var callFaults = []string{"error=EIO", "error=ENOSPC", "error=EROFS", "signal=KILL"}

const mostCalls = 40

func TestFailingSystemCallsLoseNothing(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatalf("%v; ./test.sh installs what the tests need", err)
	}
	if err := exec.Command("strace", "-qq", "-e", "trace=none", "true").Run(); err != nil {
		t.Skipf("NOT TESTED HERE: system calls that fail: strace may not trace: %v", err)
	}
	type fault struct {
		call, what string
		n          int
		mode       SyncMode
	}
	var all []fault
	for _, call := range faultyCalls {
		for _, what := range callFaults {
			for n := 1; n <= mostCalls; n++ {
				all = append(all, fault{call, what, n, []SyncMode{Always, Interval}[n%2]})
			}
		}
	}
	seed := rand.Uint64()
	if os.Getenv("GATEWAY_LONG") == "" {
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:24]
	}
	t.Logf("%d faults, seed %d", len(all), seed)
	var safe, hit atomic.Int64
	t.Run("each", func(t *testing.T) {
		for _, f := range all {
			t.Run(fmt.Sprintf("%s %s %d", f.call, f.what, f.n), func(t *testing.T) {
				t.Parallel() // mostly waits for strace
				dir := memoryDir(t)
				said, injected := faultyRun(t, dir, f.mode, fmt.Sprintf("inject=%s:%s:when=%d", f.call, f.what, f.n))
				got, dropped := allOf(t, dir, f.mode)
				for i, n := range got {
					if i > 0 && n <= got[i-1] {
						t.Errorf("%d after %d", n, got[i-1])
					}
				}
				there := make(map[uint64]bool)
				for _, n := range got {
					there[n] = true
				}
				missing := uint64(0)
				for _, n := range said {
					if !there[n] {
						missing++
					}
				}
				// A full disk costs the oldest records, which is told.
				if missing > dropped || dropped > 0 && f.what != "error=ENOSPC" {
					t.Errorf("%d were safe and are not there, %d were told to be lost", missing, dropped)
				}
				safe.Add(int64(len(said)))
				if injected {
					hit.Add(1)
				}
			})
		}
	})
	t.Logf("%d of them happened; %d records were safe, none is missing that was not told to be dropped", hit.Load(), safe.Load())
	if hit.Load() == 0 {
		t.Error("no fault happened")
	}
}

// faultyRun runs a process that appends records under strace, and returns
// those that it said were safe and whether the fault happened.
func faultyRun(t *testing.T, dir string, mode SyncMode, inject string) (said []uint64, injected bool) {
	t.Helper()
	call, _, _ := strings.Cut(strings.TrimPrefix(inject, "inject="), ":")
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-qq", "-o", dir+"/trace", "-e", "trace="+call, "-e", inject, os.Args[0])
	cmd.Env = append(os.Environ(), "SPOOL_FAULT_DIR="+dir, fmt.Sprint("SPOOL_KILL_MODE=", int(mode)))
	out, _ := cmd.Output() // it may be killed, or not even start
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		if n, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
			said = append(said, n)
		}
	}
	trace, _ := os.ReadFile(dir + "/trace")
	return said, bytes.Contains(trace, []byte("INJECTED")) || bytes.Contains(trace, []byte("SIGKILL"))
}

// faultVictim appends some hundred records, in bursts, over two lives of the
// log, and prints the numbers of those that are safe.
func faultVictim(dir string) {
	mode, _ := strconv.Atoi(os.Getenv("SPOOL_KILL_MODE"))
	cfg := fileConfig(dir, SyncMode(mode))
	cfg.Segment, cfg.Sync.Every = 64<<10, 5*time.Millisecond
	n := uint64(0)
	for range 2 {
		l, err := Open(cfg)
		if err != nil {
			os.Exit(0)
		}
		c, err := l.Consumer("aws")
		if err != nil {
			os.Exit(0)
		}
		for range 150 {
			n++
			i := n
			rec := Record{Targets: []Target{{Consumer: c.ID()}}, Data: binary.BigEndian.AppendUint64(make([]byte, 0, 1000), i)[:1000]}
			l.Append(rec, func(err error) {
				if err == nil {
					fmt.Println(i)
				}
			})
			if n%15 == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		l.Close()
	}
	os.Exit(0)
}

// allOf opens the log and returns the numbers in it, and how many records it
// says were dropped for want of room.
func allOf(t *testing.T, dir string, mode SyncMode) (got []uint64, dropped uint64) {
	t.Helper()
	cfg := fileConfig(dir, mode)
	cfg.Segment = 64 << 10
	l, err := Open(cfg)
	if err != nil {
		t.Fatalf("the log does not open again: %v", err)
	}
	defer l.Close()
	c := mustConsumer(t, l, "aws")
	r := c.Reader(0, l.Last())
	defer r.Close()
	for {
		rec, err := r.Next(t.Context(), nil)
		if errors.Is(err, io.EOF) {
			return got, dropped
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Gap != nil {
			if rec.Gap.Reason != ReasonQuota {
				t.Errorf("a gap for %s", rec.Gap.Reason)
			}
			dropped += rec.Gap.Count
			continue
		}
		got = append(got, binary.BigEndian.Uint64(rec.Data))
	}
}
