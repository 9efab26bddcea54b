package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// emulated returns a program that runs the gateway for a target on an emulated
// processor. To itself it is that program, too, so that the demo starts its
// gateway in the same way.
func emulated(t *testing.T, goarch, goarm, qemu, cpu string) string {
	t.Helper()
	dir := t.TempDir()
	b := &build{repo: "..", version: "1.0.0"}
	binary, program := filepath.Join(dir, "binary"), filepath.Join(dir, "gateway")
	if err := b.compile(binary, target{goarch: goarch, goarm: goarm}); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath(qemu); err != nil {
		t.Fatalf("%v (apt-get install qemu-user-static)", err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s -cpu %s -0 %s %s \"$@\"\n", qemu, cpu, program, binary)
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return program
}

// What is given out runs on the processors it is meant for, and loses nothing
// there.
func TestDemoOnEmulatedProcessors(t *testing.T) {
	if os.Getenv("GATEWAY_LONG") == "" {
		t.Skip("only in the long run: GATEWAY_LONG=1")
	}
	for _, c := range []struct{ name, goarch, goarm, qemu, cpu string }{
		{"ARMv6", "arm", "6", "qemu-arm-static", "arm1176"}, // of the first Pi and the Zero
		{"arm64", "arm64", "", "qemu-aarch64-static", "cortex-a53"},
	} {
		t.Run(c.name, func(t *testing.T) {
			program := emulated(t, c.goarch, c.goarm, c.qemu, c.cpu)
			begun := time.Now()
			cmd := exec.Command(program, "demo", "--for", "20s", "--json")
			text, err := output(cmd)
			if err != nil {
				t.Fatal(err)
			}
			var s struct{ Readings, Delivered, Lost, OutOfOrder int }
			if err := json.Unmarshal([]byte(text), &s); err != nil {
				t.Fatal(err)
			}
			if s.Lost != 0 || s.OutOfOrder != 0 || s.Delivered < 100 {
				t.Errorf("the demo says %s", text)
			}
			usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			t.Logf("%s in %v; the emulator's processor time with plant and cloud %v, most memory of one process %d MiB (the emulator's own included)",
				text, time.Since(begun).Round(time.Second), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime(), usage.Maxrss>>10)
		})
	}
}

// The emulated processor is exact: what is built for a newer one dies on it.
func TestEmulatedProcessorIsNoNewerOne(t *testing.T) {
	if os.Getenv("GATEWAY_LONG") == "" {
		t.Skip("only in the long run: GATEWAY_LONG=1")
	}
	_, err := output(exec.Command(emulated(t, "arm", "7", "qemu-arm-static", "arm1176"), "version"))
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGILL && !strings.Contains(err.Error(), "llegal instruction") {
		t.Errorf("a program for ARMv7 on a processor of ARMv6: %v", err)
	}
}
