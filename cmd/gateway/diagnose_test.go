package main

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
)

func figures(states ...devices.State) (s devices.BusStats) {
	for i, state := range states {
		s.Devices = append(s.Devices, devices.DeviceStats{Device: string(rune('a' + i)), State: state})
	}
	return s
}

func TestDiagnose(t *testing.T) {
	const on, off, unknown = devices.Online, devices.Offline, devices.Unknown
	for _, c := range []struct {
		name        string
		tty, behind bool
		line        modbus.Stats
		states      devices.BusStats
		bus, b      string // what is said of the bus and of device b
	}{
		{"all well", true, false, modbus.Stats{Received: 9}, figures(on, on), "", ""},
		{"not asked yet", true, false, modbus.Stats{}, figures(off, unknown), "", ""},
		{"one silent", true, false, modbus.Stats{Received: 9}, figures(on, off), "", "port, speed and adapter are right"},
		{"one silent, another answers nothing but exceptions", true, false, modbus.Stats{Received: 9}, figures(devices.Stale, off), "", "port, speed and adapter are right"},
		{"one silent on the network", false, false, modbus.Stats{Received: 9}, figures(on, off), "", "check its unit id"},
		{"not a byte", true, false, modbus.Stats{}, figures(off, off), "not a byte comes", ""},
		{"not a byte, while one is muted", true, false, modbus.Stats{}, figures(off, devices.Maintenance), "not a byte comes", ""},
		{"echo", true, false, modbus.Stats{Received: 80}, figures(off), "echo", ""},
		{"broken", true, false, modbus.Stats{Received: 80, CRCErrors: 2}, figures(off, off), "scan x --speeds all", ""},
		{"wrong speed", true, false, modbus.Stats{Received: 80, CRCErrors: 2, Port: &devices.PortStats{Frame: 9, Parity: 2}}, figures(off, off), "framing errors, so the speed is another one", ""},
		{"wrong speed, too broken for an answer", true, false, modbus.Stats{Received: 80, Port: &devices.PortStats{Frame: 9}}, figures(off), "scan x --speeds all", ""},
		{"wrong parity", true, false, modbus.Stats{Received: 80, CRCErrors: 2, Port: &devices.PortStats{Frame: 1, Parity: 70}}, figures(off), "parity (format) is another one", ""},
		{"the driver counts nothing wrong", true, false, modbus.Stats{Received: 80, CRCErrors: 2, Port: &devices.PortStats{}}, figures(off), "no whole answer from anybody", ""},
		{"broken on the network", false, false, modbus.Stats{Received: 80, BadReplies: 2}, figures(off), "is it Modbus", ""},
		{"gateway without a line", false, true, modbus.Stats{Received: 80, Exceptions: 2}, figures(off), "serial settings", ""},
		{"deaf gateway", false, true, modbus.Stats{}, figures(off), "nothing comes back", ""},
		{"deaf host", false, false, modbus.Stats{}, figures(off), "unit ids", ""},
	} {
		got := diagnose(symptoms{name: "x", tty: c.tty, behind: c.behind, line: c.line, figures: c.states})
		if !strings.Contains(got.bus, c.bus) || (c.bus == "") != (got.bus == "") || !strings.Contains(got.devices["b"], c.b) || (c.b == "") != (len(got.devices) == 0) {
			t.Errorf("%s: got %+v, want %q of the bus and %q of b", c.name, got, c.bus, c.b)
		}
	}
	broken := figures(on, off)
	broken.Devices[1].LastError = "the answer's checksum is wrong: " + devices.ErrReply.Error()
	if got := diagnose(symptoms{tty: true, figures: broken}); !strings.Contains(got.devices["b"], "two devices share its unit id") {
		t.Errorf("one broken: got %+v", got)
	}
	missing := figures(off)
	missing.PortDown = true
	if got := diagnose(symptoms{tty: true, figures: missing}); got.bus != "" {
		t.Errorf("without a port: got %+v, want nothing", got)
	}
}

// What is wrong is logged when it is found and not again while it lasts, and
// nothing is concluded from too little.
func TestDiagnosisIsLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	d := &diagnoser{bus: &config.Bus{ID: "rs485", Address: "/dev/ttyX"}, log: slog.New(slog.NewTextHandler(&out, nil)), told: map[string]telling{}, then: new(snapshot)}
	at := func(seconds int, requests uint64, states devices.BusStats) {
		d.look(&snapshot{at: devices.Stamp(time.Duration(seconds) * time.Second), figures: states, line: modbus.Stats{Requests: requests}})
	}
	lines := func() int { return strings.Count(out.String(), "\n") }
	off, on := figures(devices.Offline), figures(devices.Online)
	d.found.Store(new(diagnosis))
	for i, step := range []struct {
		seconds  int
		requests uint64
		states   devices.BusStats
		lines    int
		hint     bool
	}{
		{5, 2, off, 0, false},     // too little to conclude
		{10, 8, off, 1, true},     // nobody answers
		{15, 20, off, 1, true},    // still
		{20, 40, on, 1, false},    // back
		{25, 60, off, 1, true},    // comes and goes
		{200, 61, off, 1, true},   // hardly asked, but long ago
		{220, 90, on, 1, false},   //
		{2000, 120, off, 2, true}, // another day
	} {
		at(step.seconds, step.requests, step.states)
		if hint := d.hint("") != ""; lines() != step.lines || hint != step.hint {
			t.Errorf("step %d: %d lines logged, want %d; hint %v, want %v:\n%s", i, lines(), step.lines, hint, step.hint, &out)
		}
	}
}

// What happened while devices were still being asked counts when the last of
// them has been: after that hardly anything happens.
func TestDiagnosisCountsFromTheFirstRequest(t *testing.T) {
	d := &diagnoser{bus: &config.Bus{ID: "rs485", Address: "/dev/ttyX"}, log: slog.New(slog.DiscardHandler), told: map[string]telling{}, then: new(snapshot)}
	d.found.Store(new(diagnosis))
	for i, states := range []devices.BusStats{figures(devices.Unknown, devices.Unknown), figures(devices.Offline, devices.Unknown), figures(devices.Offline, devices.Offline)} {
		d.look(&snapshot{at: devices.Stamp(10 * time.Second), figures: states, line: modbus.Stats{Requests: uint64(5 + i)}})
		if hint := d.hint("") != ""; hint != (i == 2) {
			t.Errorf("step %d: hint %v", i, hint)
		}
	}
}

// Of what the driver has counted only what came since is judged, and all of it
// where the port was opened anew.
func TestDiagnosisJudgesWhatThePortCountedSince(t *testing.T) {
	counted := func(opened, frame, parity uint64) *snapshot {
		return &snapshot{figures: figures(devices.Offline), line: modbus.Stats{Opened: opened, CRCErrors: 5, Port: &devices.PortStats{Frame: frame, Parity: parity}}}
	}
	for _, c := range []struct {
		then, now *snapshot
		want      string
	}{
		{counted(1, 50, 0), counted(1, 50, 7), "parity errors"},
		{counted(1, 50, 0), counted(1, 51, 0), "framing errors"},
		{counted(1, 50, 50), counted(1, 50, 50), ""},
		{counted(1, 50, 50), counted(2, 3, 0), "framing errors"},
		{new(snapshot), counted(1, 0, 4), "parity errors"},
		{counted(1, 50, 50), &snapshot{figures: figures(devices.Offline)}, ""},
	} {
		got := diagnose(c.now.since(c.then, &config.Bus{ID: "x", Address: "/dev/ttyX"})).bus
		if !strings.Contains(got, c.want) || c.want == "" && strings.Contains(got, "the port counts") {
			t.Errorf("%+v after %+v: %q, want %q", c.now.line.Port, c.then.line.Port, got, c.want)
		}
	}
}

func TestStatusTellsTheSilentFromTheBroken(t *testing.T) {
	t.Parallel()
	s := newSite(t, "[bus.rs485]\naddress = \"/dev/serial/by-id/none\"\nbaud = 38400\ntimeout = \"250ms\"\n[bus.dead]\naddress = \"/dev/serial/by-id/nor\"\nbaud = 38400\ntimeout = \"250ms\"\n", map[string]string{
		"a": `
[devices.m]
bus = "rs485"
unit_ids = "1-3"
every = "200ms"
points.a = { holding = 0 }
[device.alone]
bus = "dead"
unit_id = 1
every = "200ms"
points.a = { holding = 0 }
`})
	sim := start(t, binary, s.args("simulate", "--site", filepath.Join(s.config, "site.toml"), "--fault", "m-2:silent", "--fault", "m-3:drop=1", "--fault", "dead:silent")...)
	eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
	s.run()
	for _, want := range []string{
		`device=m-2 unit="unit 2"`, "port, speed and adapter are right", `device=m-3 unit="unit 3"`, "two devices share its unit id", "bus=dead", "not a byte comes",
	} {
		eventually(t, "the log says "+want, func() bool { return strings.Contains(s.out.String(), want) })
	}
	for _, want := range []string{"port, speed and adapter are right", "two devices share its unit id", "not a byte comes"} {
		eventually(t, "status says "+want, func() bool {
			out, _ := s.command("status")
			return strings.Contains(out, want)
		})
	}
	if regexp.MustCompile(`trouble with.* device=m-1 `).MatchString(s.out.String()) { // it may be late on a busy machine
		t.Error("there is trouble with the one that is well")
	}
}

// A sensor of which nothing good comes has the reason beside it.
func TestStatusSaysWhatIsHeard(t *testing.T) {
	t.Parallel()
	mast := refusing(t, func(c net.Conn) {
		io.WriteString(c, "$WIMWV,214.8,R,12.6,N,A*00\r\n")
		io.Copy(io.Discard, c)
	})
	s := newSite(t, "[bus.mast]\naddress = \"tcp://"+mast+"\"\nprotocol = \"lines\"\n", map[string]string{"a": `
[device.wind]
bus = "mast"
checksum = "nmea"
line.MWV.speed = { field = 3, type = "f64" }
`})
	s.run()
	eventually(t, "status says why nothing comes of it", func() bool {
		out, _ := s.command("status")
		return strings.Contains(out, "nothing good is heard; the last time: checksum of")
	})
}
