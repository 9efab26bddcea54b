package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix" // a terminal to run in

	"edgegateway/bridge"
	"edgegateway/broker/spool"
	"edgegateway/devices"
)

// seenPlant is a status with everything that can be wrong.
func seenPlant() *Status {
	at := time.Date(2026, 11, 20, 23, 6, 0, 0, time.UTC)
	age := func(s float64) *float64 { return &s }
	point := func(name, value, unit, err string, s float64) PointStatus {
		return PointStatus{Name: name, Value: json.RawMessage(value), Unit: unit, Error: err, Age: age(s)}
	}
	return &Status{
		Name: "plant-a", Clock: "exact", Uptime: 11520,
		Buses: []BusStatus{
			{Address: "/dev/serial/by-id/usb-FTDI_USB-RS485_Cable_FT4ABCDE-if00-port0", BusStats: devices.BusStats{Bus: "rs485", Busy: 0.453, Requests: 81234, Timeouts: 12, Errors: 1}},
			{Address: "tcp://192.168.10.5:502", Paused: true, BusStats: devices.BusStats{Bus: "plc", Lent: "root until 2026-11-20T23:21:00Z (set up, Anna); `gateway pause plc --end` takes it back"}},
			{Address: "/dev/ttyUSB1", BusStats: devices.BusStats{Bus: "mast", PortDown: true, PortError: "open /dev/ttyUSB1: no such file or directory: port unavailable"}},
		},
		Devices: []DeviceStatus{
			{ID: "main", Bus: "rs485", State: "online", LastAnswer: age(0.31), Points: []PointStatus{
				point("power", "230.1", "W", "", 0.31), point("mode", `"au\u001bto"`, "", "", 12), point("pf", "null", "", "timeout", 3),
				point("status", `{"running":true,"fault":false,"door_open":false}`, "", "", 310),
			}},
			{ID: "fan", Bus: "rs485", State: "maintenance", LastAnswer: age(7500), Muted: "muted by root until 2026-11-21T01:06:00Z (is replaced); `gateway mute fan --end` ends that", Points: []PointStatus{point("speed", "null", "", "muted for maintenance", 60)}},
			{ID: "old", Bus: "rs485", State: "offline", LastAnswer: nil, Hint: "it is silent while others on the bus answer, so port, speed and adapter are right: check its power, its unit id, and A and B at its terminals", Points: []PointStatus{point("x", "null", "", "offline", 5)}},
			{ID: "slow", Bus: "rs485", State: "stale", LastAnswer: age(40), LastError: "timeout", Points: []PointStatus{point("y", "7", "", "", 40)}},
			{ID: "boiler", Bus: "plc", State: "maintenance", LastAnswer: age(61), Points: []PointStatus{point("flow", "null", "°C", "bus lent for maintenance", 61)}},
		},
		Bridges: []bridge.Stats{
			{Name: "aws", State: bridge.Up, Since: at.Add(-time.Hour), URL: "a1b2c3-ats.iot.eu-central-1.amazonaws.com:8883", Acked: 123456},
			{Name: "site", State: bridge.Down, Since: at.Add(-90 * time.Second), URL: "10.0.0.9:1883", LastError: "10.0.0.9:1883 refused the connection", Backlog: map[string]bridge.Backlog{"telemetry": {Records: 4711}}},
		},
		Spools: map[string]spool.Stats{"telemetry": {State: "ok", Bytes: 12 << 20, Size: 512 << 20}, "critical": {State: "degraded", Bytes: 1 << 20, Size: 64 << 20, Dropped: map[string]uint64{"quota": 3}}},
	}
}

func seenView(width, height int) *monitorView {
	return &monitorView{status: seenPlant(), at: time.Date(2026, 11, 20, 23, 6, 0, 0, time.UTC), width: width, height: height}
}

// text is all that a view shows, without what steers the terminal.
func (v *monitorView) text() string {
	var all []string
	for _, l := range append([]monitorLine{v.title()}, v.lines()...) {
		all = append(all, l.show(v.width, v.color))
	}
	return strings.Join(all, "\n") + "\n"
}

const seenAt80 = `
plant-a  23:06:00  up 3h12m0s  clock exact
5 devices: 1 online, 1 stale, 1 offline, 2 maintenance

BUS            STATE    BUSY REQUESTS TIMEOUTS ERRORS  ADDRESS
rs485          ok       45 %    81234       12      1  …able_FT4ABCDE-if00-port0
plc            paused    0 %        0        0      0  tcp://192.168.10.5:502
    paused: lent to root until 2026-11-20T23:21:00Z (set up, Anna); ` + "`gateway\n    pause plc --end`" + ` takes it back
mast           no port   0 %        0        0      0  /dev/ttyUSB1
    open /dev/ttyUSB1: no such file or directory: port unavailable

BRIDGE         STATE           FOR  WAITING  DELIVERED  TO
aws            up           1h0m0s        0     123456  a1b2c3-ats.iot.eu-centr…
site           down          1m30s     4711          0  10.0.0.9:1883
    10.0.0.9:1883 refused the connection

BUFFER         STATE         ON DISK       OF   DROPPED
critical       degraded      1.0 MiB   64 MiB         3
telemetry      ok           12.0 MiB  512 MiB         0

DEVICE.POINT                VALUE     AGE  STATE
main                                0.3 s  online
  power                   230.1 W   0.3 s
  mode                      au?to    12 s
  pf                            -   3.0 s  timeout
  status     {"running":true,"fa…   5m10s
fan                                2h5m0s  maintenance
    muted by root until 2026-11-21T01:06:00Z (is replaced); ` + "`gateway mute fan\n    --end`" + ` ends that
  speed                         -    1m0s  muted for maintenance
old                                 never  offline
    it is silent while others on the bus answer, so port, speed and adapter are
    right: check its power, its unit id, and A and B at its terminals
  x                             -   5.0 s  offline
slow                                 40 s  stale
    timeout
  y                             7    40 s  stale
boiler                               1m1s  maintenance
  flow                          -    1m1s  bus lent for maintenance
`

func TestMonitorAt80Columns(t *testing.T) {
	want := strings.TrimPrefix(seenAt80, "\n")
	if got := seenView(80, 24).text(); got != want {
		t.Errorf("it shows\n%s\nwant\n%s", got, want)
	}
}

// On a narrow terminal the words that say how a device does are seen still.
func TestMonitorAt40Columns(t *testing.T) {
	const want = `
DEVICE.POINT      VALUE  STATE
main                     online
  power         230.1 W
  mode            au?to
  pf                  -  timeout
  status     {"running…
fan                      maintenance
    muted by root until
    2026-11-21T01:06:00Z (is replaced);
    ` + "`gateway mute fan --end`" + ` ends that
  speed               -  muted for main…
old                      offline
`
	if got := seenView(40, 24).text(); !strings.Contains(got, want) {
		t.Errorf("it shows\n%s\nwant in it\n%s", got, want)
	}
}

// At no width is a line longer than the terminal, and words tell what colours
// do; what steers a terminal does not come from a device.
func TestMonitorAtAnyWidth(t *testing.T) {
	sgr := regexp.MustCompile("\x1b\\[[0-9]*m")
	for width := 1; width <= 200; width++ {
		v := seenView(width, 24)
		text := v.text()
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
				t.Fatalf("%d columns at a width of %d: %q", n, width, line)
			}
		}
		if strings.Contains(text, "\x1b") {
			t.Fatalf("without colours: %q", text)
		}
		v.color = true
		if colored := v.text(); sgr.ReplaceAllString(colored, "") != text || !strings.Contains(colored, "\x1b[31m") {
			t.Fatalf("colours change the words at %d columns", width)
		}
	}
}

// A frame has as many lines as the terminal, and keys move what is seen within
// what there is.
func TestMonitorScrolls(t *testing.T) {
	v := seenView(80, 10)
	seen := func() []string {
		frame := regexp.MustCompile("\x1b\\[[0-9;?]*[a-zA-Z]").ReplaceAllString(v.frame(), "")
		return strings.Split(frame, "\r\n")
	}
	all := strings.Split(strings.TrimSuffix(v.text(), "\n"), "\n")[1:]
	first := seen()
	if len(first) != 10 || !slices.Equal(first[1:9], all[:8]) || first[9] != fmt.Sprintf("q quits  arrows scroll  lines 1-8 of %d", len(all)) {
		t.Errorf("%q", first)
	}
	for _, c := range []struct {
		keys string
		top  int
	}{{"\x1b[A", 0}, {"\x1b[B\x1b[B", 2}, {"\x1bOB", 3}, {"k", 2}, {" ", 9}, {"\x1b[5~", 2}, {"G", len(all) - 8}, {"\x1b[6~", len(all) - 8}, {"\x1b[1~", 0}, {"\x1b", 0}} {
		for _, key := range splitKeys(c.keys) {
			if v.press(key) {
				t.Errorf("%q quits", key)
			}
		}
		if got := seen(); v.top != c.top || !slices.Equal(got[1:9], all[c.top:c.top+8]) {
			t.Errorf("after %q the first line is %d, want %d: %q", c.keys, v.top, c.top, got)
		}
	}
	for height := range 5 {
		v.height = height
		if got := seen(); len(got) != max(1, height) {
			t.Errorf("%d lines on a terminal of %d", len(got), height)
		}
	}
	if v.height, v.width = 100, 80; len(seen()) != 100 || !strings.HasSuffix(v.frame(), "q quits\x1b[K\x1b[J") {
		t.Errorf("on a tall terminal: %q", seen())
	}
	if !v.press("q") || !v.press("Q") {
		t.Error("q does not quit")
	}
	v.take(nil, errors.New("no gateway is running"))
	failed := v.failed
	v.take(nil, errors.New("gone"))
	if title := v.title().text; title != "plant-a  NO ANSWER since "+failed.Format(time.TimeOnly)+": gone" || v.failed != failed {
		t.Errorf("%q", title)
	}
	if v.take(seenPlant(), nil); strings.Contains(v.title().text, "NO ANSWER") {
		t.Errorf("%q", v.title().text)
	}
}

func TestMonitorFilters(t *testing.T) {
	for _, c := range []struct{ filter, want string }{
		{"", "main(power mode pf status) fan(speed) old(x) slow(y) boiler(flow)"},
		{"MAIN", "main(power mode pf status)"},
		{"plc", "boiler(flow)"},
		{"p", "main(power pf) fan(speed) boiler(flow)"},
		{"*.p*", "main(power pf)"},
		{"?a*", "main(power mode pf status) fan(speed)"},
		{"nothing", ""},
	} {
		f, err := parseMonitorFilter(c.filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range f.pick(seenPlant().Devices) {
			var names []string
			for _, p := range d.Points {
				names = append(names, p.Name)
			}
			got = append(got, d.ID+"("+strings.Join(names, " ")+")")
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q selects %v, want %s", c.filter, got, c.want)
		}
	}
	if _, err := parseMonitorFilter("[a"); err == nil {
		t.Error("[a is a pattern")
	}
}

// A tty is a terminal that a program runs in.
type tty struct {
	*process
	t      *testing.T
	master *os.File
	slave  *os.File
	seen   *buffer
}

func startInTTY(t *testing.T, cols, rows uint16, env []string, args ...string) *tty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	y := &tty{t: t, master: master, slave: slave, seen: new(buffer)}
	y.resize(cols, rows)
	go func() { // until the last holder of the slave has closed it
		buf := make([]byte, 64<<10)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			y.seen.Write(buf[:n])
		}
	}()
	p := &process{t: t, cmd: exec.Command(binary, args...), out: y.seen, done: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.Env = append(os.Environ(), append([]string{"TERM=xterm"}, env...)...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() { p.kill(); slave.Close(); master.Close() })
	y.process = p
	return y
}

func (y *tty) resize(cols, rows uint16) {
	y.t.Helper()
	if err := unix.IoctlSetWinsize(int(y.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: cols, Row: rows}); err != nil {
		y.t.Fatal(err)
	}
}

func (y *tty) mode() unix.Termios {
	y.t.Helper()
	m, err := unix.IoctlGetTermios(int(y.slave.Fd()), unix.TCGETS)
	if err != nil {
		y.t.Fatal(err)
	}
	return *m
}

// last returns the lines of the last whole frame.
func (y *tty) last() []string {
	frames := strings.Split(y.seen.String(), "\x1b[H")
	for i := len(frames) - 1; i > 0; i-- {
		if whole, _, ok := strings.Cut(frames[i], "\x1b[J"); ok {
			return strings.Split(strings.NewReplacer("\x1b[K", "", "\r\r\n", "\r\n").Replace(whole), "\r\n")
		}
	}
	return nil
}

// The real program on a real terminal: it draws, follows the terminal's size,
// says when the gateway is gone, and leaves the terminal as it was however it ends.
func TestMonitorOnATerminal(t *testing.T) {
	s := lentSite(t)
	y := startInTTY(t, 80, 24, []string{"NO_COLOR=1"}, s.args("monitor", "--every", "100ms")...)
	before := y.mode()
	shows := func(what string, lines int, words ...string) {
		t.Helper()
		eventually(t, what, func() bool {
			last := y.last()
			text := strings.Join(last, "\n")
			return len(last) == lines && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
		})
	}
	shows("the first picture", 24, "plant  ", "rs485", "tank", "level", "online", "q quits")
	if m := y.mode(); m.Lflag&(unix.ICANON|unix.ECHO) != 0 || !strings.Contains(y.seen.String(), "\x1b[?1049h") {
		t.Errorf("the terminal is not taken: %+v", m)
	}
	if strings.Contains(y.seen.String(), "\x1b[1m") {
		t.Error("it has colours in spite of NO_COLOR")
	}
	y.resize(40, 12)
	shows("a smaller picture", 12, "q quits")
	for _, line := range y.last() {
		if utf8.RuneCountInString(line) > 40 {
			t.Errorf("too long: %q", line)
		}
	}
	y.master.WriteString("\x1b[F")
	shows("its end", 12, "pump")
	y.resize(100, 30)
	if out, code := s.command("mute", "tank", "--for", "1h", "--note", "pump is out"); code != exitOK {
		t.Fatal(out)
	}
	shows("the mute", 30, "maintenance", "pump is out", "muted for maintenance")
	s.process.kill()
	shows("that nobody answers", 30, "NO ANSWER since", "no gateway is running")
	s.run()
	shows("the gateway again", 30, "plant  ", "maintenance")
	y.master.WriteString("q")
	<-y.done
	back := func() bool { return strings.HasSuffix(y.seen.String(), "\x1b[?7h\x1b[?25h\x1b[?1049l") }
	eventually(t, "the first screen", back)
	if m := y.mode(); m != before || y.cmd.ProcessState.ExitCode() != exitOK {
		t.Errorf("not as it was: code %d, %+v, before %+v", y.cmd.ProcessState.ExitCode(), m, before)
	}

	for _, end := range []func(y *tty){
		func(y *tty) { y.master.WriteString("\x03") }, // Ctrl-C
		func(y *tty) { y.cmd.Process.Signal(syscall.SIGTERM) },
	} {
		y = startInTTY(t, 80, 24, []string{"NO_COLOR="}, s.args("monitor")...)
		before := y.mode()
		eventually(t, "a picture in colours", func() bool { return len(y.last()) == 24 && strings.Contains(y.seen.String(), "\x1b[36m") })
		end(y)
		<-y.done
		eventually(t, "the first screen", back)
		if m := y.mode(); m != before || y.cmd.ProcessState.ExitCode() != exitOK {
			t.Errorf("not as it was: code %d, %+v, before %+v", y.cmd.ProcessState.ExitCode(), m, before)
		}
	}
}

// A program that reads it gets one object a line; who wants it once gets a table.
func TestMonitorForPrograms(t *testing.T) {
	s := lentSite(t)
	cmd := exec.Command(binary, s.args("monitor", "level", "--every", "100ms")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var last time.Time
	for n := 0; n < 3 && lines.Scan(); n++ {
		var sample monitorSample
		if err := json.Unmarshal(lines.Bytes(), &sample); err != nil || !sample.Time.After(last) || len(sample.Devices) != 1 || len(sample.Devices[0].Points) != 1 || sample.Devices[0].Points[0].Name != "level" || len(sample.Buses) != 1 {
			t.Errorf("line %d: %v: %s", n, err, lines.Text())
		}
		last = sample.Time
	}
	s.process.kill()
	for lines.Scan() {
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != exitFailed || last.IsZero() {
		t.Errorf("code %d when the gateway is gone, last line at %v", cmd.ProcessState.ExitCode(), last)
	}
	if _, talk, code := s.talk("monitor", "--once"); code != exitFailed || !strings.Contains(talk, "no gateway is running") {
		t.Errorf("code %d: %s", code, talk)
	}
	s.run()
	eventually(t, "the tank is read", func() bool { return s.deviceIs("tank", devices.Online) })
	if out, code := s.command("monitor", "--once"); code != exitOK || !strings.Contains(out, "\n  level ") || strings.Contains(out, "\x1b") {
		t.Errorf("code %d:\n%s", code, out)
	}
	if out, code := s.command("monitor", "--once", "--json", "tank.pump"); code != exitOK || strings.Count(out, "\n") != 1 || !strings.Contains(out, `"pump"`) || strings.Contains(out, `"level"`) {
		t.Errorf("code %d:\n%s", code, out)
	}
	if _, talk, code := s.talk("monitor", "[x"); code != exitUsage || !strings.Contains(talk, "no pattern") {
		t.Errorf("code %d: %s", code, talk)
	}
}
