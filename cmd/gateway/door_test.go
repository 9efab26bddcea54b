package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/internal/clock"
)

// The binary of the tests can be the gateway, too: with doorVariable set it does
// what `gateway` does with its arguments, and listens besides at the path named
// there for what a test asks of it that nobody else may: to count what it holds,
// and to have its clock set. So a test sees into a process of its own, which runs
// as the product does, under the race detector if the tests run under it.
const doorVariable = "GATEWAY_TEST_DOOR"

// A knock is what a test asks.
type knock struct {
	Step     time.Duration // by how much wall time is off what this computer says
	Unsynced bool
	Census   bool
}

// A census counts what a process holds once it has collected its garbage.
type census struct {
	Goroutines map[string]int   // by what they were begun to do
	Heap       int64            // bytes in use
	Memory     map[string]int64 // bytes in use by who asked for them, by samples

	files map[string]int // open ones; counted from outside
	rss   int64          // likewise, bytes
	at    time.Time
}

// A setClock is the clock of this computer, set otherwise.
type setClock struct {
	step     atomic.Int64
	unsynced atomic.Bool
}

func (c *setClock) Boot() int64 { return int64(devices.Now()) }
func (c *setClock) Wall() int64 { return time.Now().UnixNano() + c.step.Load() }
func (c *setClock) Sync() clock.Sync {
	return clock.Sync{OK: !c.unsynced.Load(), MaxError: time.Millisecond}
}

func runWithDoor(path string) int {
	l, err := net.Listen("unix", path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitFailed
	}
	runtime.MemProfileRate = 16 << 10
	set := new(setClock)
	kernel = set
	go func() {
		conn, err := l.Accept() // one test, one connection
		for in, out := json.NewDecoder(conn), json.NewEncoder(conn); err == nil; {
			var k knock
			if err = in.Decode(&k); err != nil {
				break
			}
			set.step.Store(int64(k.Step))
			set.unsynced.Store(k.Unsynced)
			var c census
			if k.Census {
				c.take()
			}
			err = out.Encode(c)
		}
	}()
	return run(os.Args[1:])
}

// take counts in this process.
func (c *census) take() {
	for range 3 { // pools keep things over two collections, the profile is one behind
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c.Heap = int64(m.HeapAlloc)
	c.Memory, c.Goroutines = make(map[string]int64), make(map[string]int)
	records := make([]runtime.MemProfileRecord, 20000)
	n, _ := runtime.MemProfile(records, false)
	for _, r := range records[:n] {
		if n := r.InUseObjects(); n > 0 { // of which only samples are known, the more the larger they are
			bytes := float64(r.InUseBytes())
			known := 1 - math.Exp(-bytes/float64(n)/float64(runtime.MemProfileRate))
			c.Memory[strings.Join(namesOf(r.Stack(), 4), " < ")] += int64(bytes / known)
		}
	}
	stacks := make([]runtime.StackRecord, runtime.NumGoroutine()+100)
	n, _ = runtime.GoroutineProfile(stacks)
	for _, s := range stacks[:n] {
		names := namesOf(s.Stack(), 1000)
		c.Goroutines[strings.Join(names[max(0, len(names)-2):], " < ")]++
	}
}

// namesOf names the functions of a stack, innermost first, without those that
// all have in common.
func namesOf(stack []uintptr, most int) (names []string) {
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		if name := f.Function; !strings.HasPrefix(name, "runtime.") && !strings.HasPrefix(name, "sync.") && !strings.HasPrefix(name, "internal/") && !strings.HasPrefix(name, "edgegateway/cmd/gateway.(*stage).run") && len(names) < most {
			names = append(names, strings.TrimPrefix(name, "edgegateway/"))
		}
		if !more {
			return names
		}
	}
}

// A door leads into a gateway that runs with one.
type door struct {
	t    *testing.T
	conn net.Conn
	out  *json.Encoder
	in   *json.Decoder
}

func openDoor(t *testing.T, path string) *door {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &door{t: t, conn: conn, out: json.NewEncoder(conn), in: json.NewDecoder(conn)}
}

// ask is called by one goroutine at a time.
func (d *door) ask(k knock) (c *census) {
	d.conn.SetDeadline(time.Now().Add(time.Minute))
	if err := d.out.Encode(k); err != nil {
		d.t.Errorf("ask the gateway: %v", err)
		return new(census)
	}
	if err := d.in.Decode(&c); err != nil {
		d.t.Errorf("ask the gateway: %v", err)
		return new(census)
	}
	return c
}

var numbered = regexp.MustCompile(`:?\[?[0-9]+\]?`)

// countFiles counts the open files of a process by what they are.
func (c *census) countFiles(pid int) {
	c.files = make(map[string]int)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil && filepath.Ext(to) != ".seg" { // of which a log has one or two at a time, and none before it needs one
			c.files[numbered.ReplaceAllString(to, "")]++
		}
	}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size, pages int64
	fmt.Sscan(string(text), &size, &pages)
	c.rss = pages * int64(os.Getpagesize())
}
