package main

import (
	"log/slog"
	"math"
	"path/filepath"
	"runtime/debug"
	"testing"
)

func TestHeapFollowsTheCgroup(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	for _, c := range []struct {
		name        string
		gomemlimit  int64
		files       map[string]string
		wantCgroup  int64
		wantMemory  int64
		wantSmaller bool
	}{
		{"no cgroup", 140 << 20, nil, math.MaxInt64, 140 << 20, false},
		{"no limit", 140 << 20, map[string]string{"system.slice/gateway.service/memory.max": "max\n"}, math.MaxInt64, 140 << 20, false},
		{"more than GOMEMLIMIT", 140 << 20, map[string]string{"system.slice/gateway.service/memory.max": "268435456\n"}, 256 << 20, 140 << 20, false},
		{"less than GOMEMLIMIT", 140 << 20, map[string]string{"system.slice/gateway.service/memory.max": "67108864\n"}, 64 << 20, 0, true},
		{"high below max", 140 << 20, map[string]string{"system.slice/gateway.service/memory.max": "268435456\n", "system.slice/gateway.service/memory.high": "67108864\n"}, 64 << 20, 0, true},
		{"the slice", 140 << 20, map[string]string{"system.slice/gateway.service/memory.max": "max\n", "system.slice/memory.max": "67108864\n"}, 64 << 20, 0, true},
		{"a container, without GOMEMLIMIT", math.MaxInt64, map[string]string{"memory.max": "67108864\n"}, 64 << 20, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			writeFile(t, filepath.Join(root, "proc/self/cgroup"), "12:pids:/x\n0::/system.slice/gateway.service\n")
			for path, text := range c.files {
				writeFile(t, filepath.Join(root, "sys/fs/cgroup", path), text)
			}
			debug.SetMemoryLimit(c.gomemlimit)
			if got := cgroupMemory(root); got != c.wantCgroup {
				t.Errorf("the cgroup may use %d, want %d", got, c.wantCgroup)
			}
			followMemory(root, slog.New(slog.DiscardHandler))
			want := c.wantMemory
			if c.wantSmaller {
				share := memoryShare
				want = int64(share * (64 << 20))
			}
			if got := debug.SetMemoryLimit(-1); got != want {
				t.Errorf("heap limit %d, want %d", got, want)
			}
		})
	}
}
