package main

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"edgegateway/broker"
	"edgegateway/internal/clock"
	"edgegateway/internal/config"
)

// machine names this computer, so that a spool can notice that its card was
// copied into another one: the machine-id of the installation together with
// the serial number of the board, which a clone of the card does not carry
// over. It is "" where neither is known.
func machine() string {
	id, _ := os.ReadFile("/etc/machine-id")
	board, _ := os.ReadFile("/proc/device-tree/serial-number")
	if len(board) == 0 {
		board, _ = os.ReadFile("/sys/class/dmi/id/product_uuid")
	}
	both := strings.TrimSpace(string(id)) + "/" + strings.Trim(string(board), "\x00\n ")
	if both == "/" {
		return ""
	}
	sum := sha256.Sum256([]byte("gateway spool " + both))
	return hex.EncodeToString(sum[:8])
}

// openClock follows the system clock with what earlier runs have learned of the
// time.
func openClock(cfg *config.Config, state string, look bool, changed func(broker.Quality), log *slog.Logger) *clock.Source {
	return clock.Open(clock.Config{Trusted: cfg.TrustClock, OnChange: changed, BootID: bootID(), Dir: state, ReadOnly: look, Log: log, Kernel: kernel})
}

// kernel tells the time; nil: that of this computer. The clock of one process
// cannot be set, so that a test of what a step does needs another.
var kernel clock.Kernel

// bootID names this boot of the computer; stamps of another boot cannot be
// compared with today's.
func bootID() (id [16]byte) {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	hex.Decode(id[:], []byte(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "")))
	return id
}

// runtimeDir is where what need not survive a reboot is kept: the unsynced
// tail of the spool and the control socket. systemd names it; without it,
// /run/gateway serves the installed service, and any other state folder keeps
// them beside itself, which costs some wear on a card.
func runtimeDir(state string) string {
	if dir := os.Getenv("RUNTIME_DIRECTORY"); dir != "" {
		return dir
	}
	if state == defaultState && writable("/run/gateway") {
		return "/run/gateway"
	}
	return state
}

// controlPath is where `run` listens and the other commands look.
func controlPath(state string) string {
	const installed = "/run/gateway/control.sock"
	if os.Getenv("RUNTIME_DIRECTORY") == "" && state == defaultState {
		if _, err := os.Stat(installed); err == nil {
			return installed
		}
	}
	return filepath.Join(runtimeDir(state), "control.sock")
}

func writable(dir string) bool {
	f, err := os.CreateTemp(dir, ".probe")
	if err != nil {
		return false
	}
	f.Close()
	os.Remove(f.Name())
	return true
}
