package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// Two programs on one serial line spoil each other's answers, and most take no
// lock. Who else has a port open is said where it explains what one sees: by
// `status`, by the commands that open the port themselves, and with the
// diagnosis of a bus in trouble.

// othersOn names who besides the process pid has the port of a bus open, "" if
// nobody or if the bus is no port.
func othersOn(address string, pid int) string {
	if !strings.HasPrefix(address, "/") {
		return ""
	}
	var names []string
	for _, h := range serial.Holders(address) {
		if h.PID != pid {
			names = append(names, h.String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "the port is open in " + strings.Join(names, " and ") + ", too, and two programs on one line spoil each other's answers"
}

// throughGateway is what to do about others while the gateway runs.
const throughGateway = ": stop that, and use `gateway read` and `gateway write`, which go through the gateway"

// warnOthers lets the first exchange of a command on a port of its own be
// followed by a word about who else has it open.
func warnOthers(address string, do func(context.Context, devices.Query, *devices.Batch) error) func(context.Context, devices.Query, *devices.Batch) error {
	var once sync.Once
	return func(ctx context.Context, q devices.Query, b *devices.Batch) error {
		err := do(ctx, q, b)
		if !errors.Is(err, devices.ErrPort) { // which says it itself
			once.Do(func() {
				if text := othersOn(address, os.Getpid()); text != "" {
					fmt.Fprintf(os.Stderr, "%s: %s: stop one of them\n", address, text)
				}
			})
		}
		return err
	}
}
