package main

import (
	"bytes"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
)

// memoryShare is what part of a cgroup's limit the heap may take: the rest is
// for what Go does not count, the page cache of the buffer and the kernel.
const memoryShare = 0.65

// followMemory keeps the heap below what the cgroup of this process may use,
// where that is less than GOMEMLIMIT allows: who gives the service or the
// container less memory wants it to work with less, not to be killed. A
// GOMEMLIMIT within the cgroup's limit is left as it is. root is where proc and
// sys are.
func followMemory(root string, log *slog.Logger) {
	had, may := debug.SetMemoryLimit(-1), cgroupMemory(root)
	if may >= had {
		return
	}
	limit := int64(memoryShare * float64(may))
	debug.SetMemoryLimit(limit)
	log.Info("the cgroup may use less memory than GOMEMLIMIT says: working with that", "cgroup", may>>20, "heap", limit>>20, "unit", "MiB")
}

// cgroupMemory returns the least of the memory limits of this process's cgroup
// and those it lies in, math.MaxInt64 if there is none.
func cgroupMemory(root string) int64 { return cgroupMemoryOf(root, "self") }

// cgroupMemoryOf is that of another process.
func cgroupMemoryOf(root, pid string) int64 {
	least := int64(math.MaxInt64)
	text, _ := os.ReadFile(filepath.Join(root, "proc", pid, "cgroup"))
	for line := range bytes.Lines(text) {
		path, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")) // cgroup 2
		if !ok {
			continue
		}
		for dir := filepath.Clean("/" + string(path)); ; dir = filepath.Dir(dir) {
			for _, file := range []string{"memory.high", "memory.max"} {
				value, _ := os.ReadFile(filepath.Join(root, "sys/fs/cgroup", dir, file))
				if n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64); err == nil { // else "max", or there is none
					least = min(least, n)
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}
