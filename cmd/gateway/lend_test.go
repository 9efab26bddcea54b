package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
)

// lentSite is a running gateway whose bus a plant plays, with a point that can
// be written.
func lentSite(t *testing.T) *site {
	s := newSite(t, "[bus.rs485]\naddress = \"/dev/serial/by-id/none\"\nbaud = 38400\n", map[string]string{
		"a": `
[device.tank]
bus = "rs485"
unit_id = 1
every = "200ms"
[device.tank.points]
level = { holding = 10 }
pump  = { coil = 0, write = true }
`})
	sim := start(t, binary, s.args("simulate", "--site", filepath.Join(s.config, "site.toml"))...)
	eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
	s.run()
	eventually(t, "the tank is read", func() bool { return s.deviceIs("tank", devices.Online) })
	return s
}

func (s *site) status() (status Status) {
	s.t.Helper()
	if err := ask(s.t.Context(), controlPath(s.state), "/status", nil, &status); err != nil {
		s.t.Fatal(err)
	}
	return status
}

func (s *site) deviceIs(id string, state devices.State) bool {
	s.t.Helper()
	return slices.ContainsFunc(s.status().Devices, func(d DeviceStatus) bool { return d.ID == id && d.State == state.String() })
}

// A scan at another speed gets the bus of a running gateway, which takes it back
// when the scan ends, and also when it is killed.
func TestScanBorrowsTheBusForOtherSpeeds(t *testing.T) {
	t.Parallel()
	s := lentSite(t)
	loans := 1 // the one that is killed

	eventually(t, "a scan at another speed finds unit 1", func() bool { // which may be late on a busy machine
		loans++
		out, talk, code := s.talk("scan", "rs485", "--units", "1,2", "--speeds", "38400", "--timeout", "250ms", "--json", "--yes")
		if !strings.Contains(talk, "Other speeds stop it for up to 1s, and") {
			t.Fatalf("code %d:\n%s%s", code, out, talk)
		}
		var found []foundUnit
		return json.Unmarshal([]byte(out), &found) == nil && code == exitOK && len(found) == 1 && found[0].Unit == 1
	})
	eventually(t, "the gateway has the bus again", func() bool { return s.deviceIs("tank", devices.Online) })

	long := start(t, binary, s.args("scan", "rs485", "--units", "2-247", "--speeds", "38400,9600", "--timeout", "300ms", "--yes")...)
	eventually(t, "the bus is lent", func() bool { return s.deviceIs("tank", devices.Maintenance) })
	status := s.status()
	for _, d := range status.Devices {
		for _, p := range d.Points {
			if string(p.Value) != "null" || p.Error != devices.ErrLent.Error() {
				t.Errorf("%s of a device in maintenance: %+v", p.Name, p)
			}
		}
	}
	before := status.Buses[0]
	who := fmt.Sprintf("lent to gateway scan of %s (process %d)", peerName(uint32(os.Getuid())), long.cmd.Process.Pid)
	if out, _ := s.command("status"); !strings.Contains(out, who) || !strings.Contains(out, "see bus rs485") || strings.Contains(out, "the port is open in") {
		t.Errorf("status does not say %q:\n%s", who, out)
	}
	for _, args := range [][]string{{"write", "tank.pump", "true"}, {"read", "tank.level"}, {"scan", "rs485", "--speeds", "9600", "--units", "1", "--yes"}} {
		if out, talk, code := s.talk(args[0], args[1:]...); code != exitFailed || !strings.Contains(out+talk, "bus rs485 is "+who) {
			t.Errorf("%v on a bus that is lent: code %d: %s%s", args, code, out, talk)
		}
	}
	if n := s.status().Buses[0]; n.Requests != before.Requests || n.Overruns != before.Overruns {
		t.Errorf("%d requests on a bus that is lent, %d overruns", n.Requests-before.Requests, n.Overruns-before.Overruns)
	}
	long.kill()
	eventually(t, "the gateway takes the bus back", func() bool { return s.deviceIs("tank", devices.Online) })
	if n := strings.Count(s.out.String(), "bus taken back"); n != loans {
		t.Errorf("taken back %d times:\n%s", n, s.out)
	}
	if out, code := s.command("write", "tank.pump", "true"); code != exitOK {
		t.Errorf("after the loan: code %d: %s", code, out)
	}
}

// lendServer is a control socket with one bus, whose loans go to lend.
func lendServer(t *testing.T, limit time.Duration, lend func(context.Context, string) error) string {
	dir, err := os.MkdirTemp("", "gw-") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "control.sock")
	c := &control{path: path, loan: limit, log: slog.New(slog.DiscardHandler), plant: func() *plant { return &plant{buses: map[string]*plantBus{"rs485": {lend: lend}}} }}
	l, err := c.listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.serve(ctx, l)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return path
}

// The gateway ends a loan when its time is over, and tells the borrower; the
// borrower ends it by going; and why there is none is said.
func TestLoansEnd(t *testing.T) {
	loans := make(chan context.Context, 1)
	lend := func(ctx context.Context, _ string) error { loans <- ctx; return nil }
	lent, giveBack, err := borrow(t.Context(), lendServer(t, time.Millisecond, lend), "rs485", "test")
	if err != nil {
		t.Fatal(err)
	}
	defer giveBack()
	<-lent.Done()
	if err := context.Cause(lent); !strings.Contains(err.Error(), "bus rs485: the gateway took it back: its time of 15m is over") {
		t.Error(err)
	}
	<-(<-loans).Done()

	socket := lendServer(t, time.Hour, lend)
	_, giveBack, err = borrow(t.Context(), socket, "rs485", "test")
	if err != nil {
		t.Fatal(err)
	}
	loan := <-loans
	if loan.Err() != nil {
		t.Error("the loan is over while it is wanted")
	}
	giveBack()
	<-loan.Done()
	if err := context.Cause(loan); err != errGivenBack {
		t.Error(err)
	}

	if _, _, err := borrow(t.Context(), socket, "other", "test"); err == nil || !strings.Contains(err.Error(), `no bus "other"`) {
		t.Errorf("a bus that there is not: %v", err)
	}
	refuse := func(context.Context, string) error { return devices.ErrLent }
	if _, _, err := borrow(t.Context(), lendServer(t, time.Hour, refuse), "rs485", "test"); err == nil || err.Error() != devices.ErrLent.Error() {
		t.Errorf("a bus that is lent already: %v", err)
	}
}
