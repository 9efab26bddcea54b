package serial_test

import (
	"errors"
	"os/exec"
	"os/user"
	"slices"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/devices/serial/pty"
)

// Another process that has a port open is named, with its user, whether it
// locked the port or not; who made a pseudo-terminal is not.
func TestHoldersAreNamed(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		command string // with the port as $0
		locked  bool
	}{
		{`exec sleep 60 <>"$0"`, false},
		{`exec flock --no-fork "$0" sleep 60`, true},
	} {
		t.Run(tt.command, func(t *testing.T) {
			pair, err := pty.Open(pty.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer pair.Close()
			if list := serial.Holders(pair.A); len(list) > 0 {
				t.Fatalf("held by %v before anybody has it", list)
			}
			cmd := exec.Command("sh", "-c", tt.command, pair.A)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			mine := func(h serial.Holder) bool {
				return h.PID == cmd.Process.Pid && h.Name == "sleep" && h.User == me.Username
			}
			// sh becomes the program, which then opens the port.
			for range 1000 {
				if slices.ContainsFunc(serial.Holders(pair.A), mine) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if list := serial.Holders(pair.A); !slices.ContainsFunc(list, mine) {
				t.Fatalf("held by %v, want sleep with process %d and user %s", list, cmd.Process.Pid, me.Username)
			}
			if !tt.locked {
				return
			}
			_, err = serial.Open(serial.Config{Path: pair.A, Baud: 9600})
			if err == nil || !strings.Contains(err.Error(), "held by sleep (process ") || !errors.Is(err, devices.ErrPort) {
				t.Fatal(err)
			}
		})
	}
	if list := serial.Holders("/dev/no-such-port"); list != nil {
		t.Errorf("a port that is not there is held by %v", list)
	}
}
