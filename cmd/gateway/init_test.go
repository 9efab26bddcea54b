package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/devices/serial/pty"
	"edgegateway/internal/config"
)

// initPlant plays two meters of different kinds, and one that no profile fits, at
// one address.
func initPlant(t *testing.T, scheme string) (address string) {
	t.Helper()
	address = scheme + "://127.0.0.1:" + freePort(t)
	file := filepath.Join(t.TempDir(), "plant.toml")
	writeFile(t, file, fmt.Sprintf(`name = "there"
[bus.x]
address = %q
[device.one]
profile = "eastron/sdm630"
bus = "x"
unit_id = 1
[device.two]
profile = "abb/b23"
bus = "x"
unit_id = 3
[device.tank]
bus = "x"
unit_id = 7
points.level = { holding = 10 }
`, address))
	cfg, report := config.Load(file, config.Options{})
	if cfg == nil {
		t.Fatal(report.Err())
	}
	plan, err := simulatorConfig(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	runPlant(t, plan)
	return address
}

// filesOf are the files of a folder with what they hold.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[name] = string(text)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

// packaged is gateway.toml as the package installs it.
func packaged(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../packaging/gateway.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What init makes of what it finds, where nobody is asked. All that is there
// before is there after it, and what is not written is said.
func TestInitUnattended(t *testing.T) {
	plant, line := initPlant(t, "tcp"), initPlant(t, "rtu+tcp")
	var lines [3]*pty.Pair // one for each that opens one: they run at once
	for i := range lines {
		pair, err := pty.Open(pty.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pair.Close() })
		lines[i] = pair
	}
	silent, kept, busy := lines[0], lines[1], lines[2]
	start(t, "flock", "--no-fork", busy.A, "sleep", "600")
	eventually(t, "the port is held", func() bool { return len(serial.Holders(busy.A)) > 0 })

	package_ := packaged(t)
	named := strings.Replace(package_, "#name = \"plant-a\"\n", "#name = \"plant-a\"\nname = \"plant\"\n", 1)
	used := "name = \"old\"\n[device.tank]\nbus = \"" + plant + "\"\nunit_id = 7\npoints.level = { holding = 10 }\n"
	unit := func(key, profile string, id int) string {
		return fmt.Sprintf("[device.%s]\nprofile = %q\nbus     = %q\nunit_id = %d\n", key, profile, plant, id)
	}
	fileOf := func(address string) string {
		_, host, _ := strings.Cut(address, "://")
		return "devices.d/" + strings.NewReplacer(":", "-", ".", "-").Replace(host) + ".toml"
	}
	file := fileOf(plant)
	there := strings.NewReplacer("devices.d/", "", ".toml", "").Replace(file) // in the name that scan gives a device

	for _, c := range []struct {
		name   string
		before map[string]string
		args   []string
		code   int
		said   []string
		writes map[string]string // by file: all of gateway.toml, a part of others
	}{
		{"flags only", map[string]string{"gateway.toml": package_}, []string{"--name", "plant", "--bus", plant, "--yes"}, exitOK,
			[]string{"no devices yet", "unit 1: eastron/sdm630", "0 errors, 0 warnings", "36 of 36 points", "gateway run --config", "gateway monitor", "mosquitto_sub -t 'plant/#' -v", "voltage_l1  2"},
			map[string]string{"gateway.toml": named, file: unit("sdm630-"+there+"-1", "eastron/sdm630", 1)}},
		{"two meters, nothing there before", nil, []string{"--name", "plant", "--bus", plant, "--units", "1,3"}, exitOK,
			[]string{"no configuration", "unit 3: abb/b23", "sdm630-" + there + "-1: 36 of", "b23-" + there + "-3: 24 of"},
			map[string]string{"gateway.toml": withName(bareGateway, "name = \"plant\"\n"), file: unit("b23-"+there+"-3", "abb/b23", 3)}},
		{"a device that is there, and one beside", map[string]string{"gateway.toml": used, file: ""}, []string{"--bus", plant, "--units", "3,7", "--device", "shop"}, exitOK,
			[]string{"has 1 device, which stay", "bus " + plant + ": tank", "unit 7: is tank of the configuration", "shop: 24 of 24"},
			map[string]string{"gateway.toml": used, file: "", strings.Replace(file, ".toml", "-2.toml", 1): unit("shop", "abb/b23", 3)}},
		{"nothing new", map[string]string{"gateway.toml": used}, []string{"--bus", plant, "--units", "7"}, exitOK,
			[]string{"None of them is new"}, map[string]string{"gateway.toml": used}},
		{"no profile fits", map[string]string{"gateway.toml": package_}, []string{"--name", "plant", "--bus", plant, "--units", "7"}, exitOK,
			[]string{"unit 7: no shipped profile fits", "has no points yet", "gateway probe " + plant + " --unit 7 --like"},
			map[string]string{"gateway.toml": named, file: "unit_id = 7\n"}},
		{"a point by hand", map[string]string{"gateway.toml": package_}, []string{"--name", "plant", "--bus", plant, "--units", "7", "--point", "level = { holding = 10 }", "--point", `odd = { holding = 10, scale = 1000000, unit = "Hz" }`}, exitOK,
			[]string{"1 of 2 points read", "Hz  (cannot be right)\n  level "}, map[string]string{"gateway.toml": named, file: "unit_id = 7\npoints.level = { holding = 10 }\n"}},
		{"a profile by hand, which is wrong", map[string]string{"gateway.toml": package_}, []string{"--name", "plant", "--bus", plant, "--units", "7", "--profile", "abb/b23"}, exitFailed,
			[]string{"0 of 24 points read"}, map[string]string{"gateway.toml": named, file: "profile = \"abb/b23\"\n"}},
		{"a line behind a converter", map[string]string{"gateway.toml": package_}, []string{"--name", "plant", "--bus", line, "--units", "3", "--device", "shop"}, exitOK,
			[]string{"unit 3: abb/b23", "24 of 24"}, map[string]string{"gateway.toml": named, fileOf(line): "[device.shop]\nprofile = \"abb/b23\"\nbus     = \"" + line + "\"\n"}},
		{"a dry run", map[string]string{"gateway.toml": package_}, []string{"--name", "plant", "--bus", plant, "--dry-run"}, exitOK,
			[]string{"name = \"plant\"\n", unit("sdm630-"+there+"-1", "eastron/sdm630", 1), "Nothing was written"}, map[string]string{"gateway.toml": package_}},
		{"one file", map[string]string{"one.toml": used + "\n\n"}, []string{"--config", "one.toml", "--bus", plant, "--units", "3", "--device", "a b"}, exitOK,
			[]string{"24 of 24"}, map[string]string{"one.toml": used + "\n# unit 3 at " + plant}},
		{"no name", map[string]string{"gateway.toml": package_}, []string{"--name", "a/b", "--bus", plant}, exitUsage, []string{"--name", "holds /"}, map[string]string{"gateway.toml": package_}},
		{"another name", map[string]string{"gateway.toml": used}, []string{"--name", "new", "--bus", plant}, exitUsage, []string{"has a name, \"old\""}, map[string]string{"gateway.toml": used}},
		{"no such profile", nil, []string{"--profile", "no/such"}, exitUsage, []string{"--profile", "profiles search"}, nil},
		{"no such point", nil, []string{"--point", "x = { holdin = 1 }"}, exitUsage, []string{"--point", "did you mean \"holding\""}, nil},
		{"a name for two", nil, []string{"--name", "plant", "--bus", plant, "--units", "1,3", "--device", "x"}, exitUsage, []string{"--device names one"}, nil},
		{"a name that is taken", map[string]string{"gateway.toml": used}, []string{"--bus", plant, "--units", "3", "--device", "tank"}, exitUsage, []string{"already"}, map[string]string{"gateway.toml": used}},
		{"no such port", nil, []string{"--name", "plant", "--bus", "/dev/nosuch"}, exitUsage, []string{"--bus", "no such file"}, nil},
		{"no address", nil, []string{"--name", "plant", "--bus", "rs485"}, exitUsage, []string{"--bus", "/dev/ttyUSB0"}, nil},
		{"nobody at the address", nil, []string{"--name", "plant", "--bus", "127.0.0.1:" + freePort(t)}, exitFailed, []string{"refused", "nothing was written"}, nil},
		{"nobody on the line", nil, []string{"--name", "plant", "--bus", silent.A, "--units", "1", "--speeds", "9600", "--timeout", "20ms"}, exitFailed,
			[]string{"1. A and B are swapped", "3. the line is not terminated", "4. another speed or parity: tried was 9600\n", "5. another unit id", "nobody answers on " + silent.A + "; nothing was written"}, nil},
		{"the line is kept all the same", map[string]string{"gateway.toml": used}, []string{"--bus", kept.A, "--units", "1", "--speeds", "19200/8E1", "--timeout", "20ms", "--keep-bus"}, exitFailed,
			[]string{"Written."}, map[string]string{"gateway.toml": used, "devices.d/rs485.toml": fmt.Sprintf("[bus.rs485]\naddress = %q\nbaud    = 19200\nformat  = \"8E1\"\n", kept.A)}},
		{"the port is in use", nil, []string{"--name", "plant", "--bus", busy.A, "--units", "1"}, exitFailed, []string{"held by sleep (process ", "nothing was written"}, nil},
		{"errors in what is there", map[string]string{"gateway.toml": "name = 7\n"}, []string{"--bus", plant}, exitConfig, []string{"gateway.toml:1:8", "1 error"}, map[string]string{"gateway.toml": "name = 7\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "config")
			for name, text := range c.before {
				writeFile(t, filepath.Join(dir, name), text)
			}
			args := slices.Concat([]string{"init", "--config", dir, "--state", dir + "-state"}, c.args)
			if i := slices.Index(c.args, "--config"); i >= 0 {
				args = slices.Concat([]string{"init", "--config", filepath.Join(dir, c.args[i+1]), "--state", dir + "-state"}, c.args[i+2:])
			}
			cmd := exec.Command(binary, args...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("code %d, want %d:\n%s", code, c.code, out)
			}
			for _, said := range c.said {
				if !strings.Contains(string(out), said) {
					t.Errorf("it does not say %q:\n%s", said, out)
				}
			}
			files := filesOf(t, dir)
			if got, want := slices.Sorted(maps.Keys(files)), slices.Sorted(maps.Keys(c.writes)); !slices.Equal(got, want) {
				t.Errorf("there are %q, want %q:\n%s", got, want, out)
			}
			for name, want := range c.writes {
				if got := files[name]; got != want && (name == "gateway.toml" || !strings.Contains(got, want)) {
					t.Errorf("%s holds\n%s\nwant\n%s", name, got, want)
				}
			}
		})
	}
}

// The speed of a line is found, and what came at other speeds is not told of.
func TestInitFindsTheSpeed(t *testing.T) {
	line, err := pty.Open(pty.Config{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { line.Close() })
	if out, err := exec.Command("stty", "-F", line.B, "19200", "raw", "-echo").CombinedOutput(); err != nil {
		t.Fatalf("stty: %v: %s", err, out)
	}
	far, err := net.Dial("tcp", strings.TrimPrefix(initPlant(t, "rtu+tcp"), "rtu+tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	end, err := os.OpenFile(line.B, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end.Close() })
	go io.Copy(far, end)
	go io.Copy(end, far)
	dir := t.TempDir()
	cmd := exec.Command(binary, "init", "--config", dir, "--state", dir, "--name", "plant", "--bus", line.A, "--units", "7", "--timeout", "1500ms", "--point", "level = { holding = 10 }")
	out, err := cmd.CombinedOutput()
	text := filesOf(t, dir)["devices.d/rs485.toml"]
	if err != nil || !strings.HasPrefix(text, fmt.Sprintf("[bus.rs485]\naddress = %q\nbaud    = 19200\nformat  = \"8N1\"\n\n# unit 7 ", line.A)) || strings.Contains(text, "Something is there") {
		t.Errorf("%v:\n%s\n%s", err, out, text)
	}
	for _, said := range []string{"unit 7: no shipped profile fits (19200 8N1)", "1 of 1 point read"} {
		if !strings.Contains(string(out), said) {
			t.Errorf("it does not say %q:\n%s", said, out)
		}
	}
}

// A folder that is not to be written in is told of before anything is asked.
func TestInitWithoutTheRight(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), packaged(t))
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	args := []string{binary, "init", "--config", dir, "--name", "x", "--bus", "127.0.0.1:1"}
	if os.Geteuid() == 0 { // who may write everywhere
		args = slices.Concat([]string{"setpriv", "--bounding-set=-dac_override"}, args)
	}
	cmd := exec.Command(args[0], args[1:]...)
	out, _ := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(string(out), dir+": permission denied; as root it can: sudo gateway init") {
		t.Errorf("code %d: %s", cmd.ProcessState.ExitCode(), out)
	}
}

// typing is an initer in whose terminal somebody types lines.
func typing(t *testing.T, dir string, h *host, lines ...string) (x *initer, said *bytes.Buffer) {
	said = new(bytes.Buffer)
	x = &initer{opts: &options{config: dir, state: t.TempDir()}, host: h, data: said, reload: true}
	x.in, x.out, x.scan.timeout = bufio.NewReader(strings.NewReader(strings.Join(lines, ""))), said, 300*time.Millisecond
	return x, said
}

// What is typed is asked for again until it can be, and until a yes nothing is
// written, whatever ends it.
func TestInitAsks(t *testing.T) {
	plant := initPlant(t, "tcp")
	whole := []string{"a/b\n", "plant\n", "nosuch\n", plant + "\n", "3,5\n", "1,7\n", "no/such\n", "eastron/sdm630\n", "x/y\n", "main\n",
		"Growatt\n", "zzz\n", "x = { holdin = 1 }\n", "level = { holding = 10 }\n", "\n", "main\n", "tank\n", "perhaps\n"}
	for _, c := range []struct {
		name  string
		lines []string
		want  string // of the error, "" for none
		files int
	}{
		{"yes", append(slices.Clone(whole), "y\n"), "", 2},
		{"no", append(slices.Clone(whole), "n\n"), "", 0},
		{"the input ends before the name", nil, "the input ended at this question, which --name answers, too; nothing was written", 0},
		{"the input ends in the middle", whole[:4], "the input ended at this question, which --units answers, too; nothing was written", 0},
		{"the input ends before the yes", whole, "the input ended at this question, which --yes answers, too; nothing was written", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			x, said := typing(t, dir, newPatient(t).doctor.host, c.lines...)
			x.scan.units = []int{1, 3, 7}
			err := x.run(t.Context())
			if got := fmt.Sprint(err); got != c.want && !(err == nil && c.want == "") {
				t.Errorf("error %q, want %q:\n%s", got, c.want, said)
			}
			files := filesOf(t, dir)
			if len(files) != c.files {
				t.Errorf("files %q, want %d:\n%s", slices.Sorted(maps.Keys(files)), c.files, said)
			}
			if c.files == 0 {
				return
			}
			for _, words := range []string{`the name "a/b" holds /`, `"nosuch" is neither`, "unit 5 is none of those", `no profile "no/such"`, "growatt/", `No profile says "zzz"`, `did you mean "holding"`, `a device "main" already`} {
				if !strings.Contains(said.String(), words) {
					t.Errorf("it does not say %q:\n%s", words, said)
				}
			}
			var all string
			for _, text := range files {
				all += text
			}
			for _, words := range []string{`name = "plant"`, "[device.main]\nprofile = \"eastron/sdm630\"", "[device.tank]\n", "points.level = { holding = 10 }"} {
				if !strings.Contains(all, words) {
					t.Errorf("the files do not hold %q:\n%s", words, all)
				}
			}
		})
	}
}

// The ports are shown by their lasting names, with who has them; where there is
// none, what to check.
func TestInitListsPorts(t *testing.T) {
	p := newPatient(t)
	p.doctor.holders = func(port string) []serial.Holder {
		if strings.HasSuffix(port, "ttyUSB0") || strings.Contains(port, "FT4ABCDE") {
			return []serial.Holder{{Name: "mbpoll", PID: 12, User: "pi"}}
		}
		return nil
	}
	for tty, place := range map[string]string{"ttyUSB1": "1-1.4", "ttyUSB2": "1-1.5"} { // two that only their places tell apart
		p.write("dev/"+tty, "")
		p.usb(tty, place, "")
		p.link("dev/serial/by-path/"+place, "../../"+tty)
	}
	p.link("dev/serial/by-id/usb-1a86_USB_Serial-if00-port0", "../../ttyUSB2")
	x, said := typing(t, t.TempDir(), p.doctor.host)
	x.finder = &busFinder{}
	names := x.listPorts()
	slices.Sort(names)
	if want := []string{"/dev/serial/by-id/usb-FTDI_FT4ABCDE-if00-port0", "/dev/serial/by-path/1-1.4", "/dev/serial/by-path/1-1.5"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	for _, words := range []string{"ttyUSB0, USB 0403:6001, open in mbpoll (process 12, user pi)", "ttyUSB1, USB 0403:6001, nobody has it open"} {
		if !strings.Contains(said.String(), words) {
			t.Errorf("it does not say %q:\n%s", words, said)
		}
	}
	for line := range strings.Lines(said.String()) {
		if len(line) > 80 {
			t.Errorf("too long: %q", line)
		}
	}

	none := newPatient(t)
	none.unplug()
	x, said = typing(t, t.TempDir(), none.doctor.host)
	x.in, x.name = nil, "plant"
	err := x.run(t.Context())
	exit, _ := errors.AsType[*exitError](err)
	if exit == nil || exit.code != exitUsage || !strings.Contains(err.Error(), "--bus") || !strings.Contains(said.String(), "There is no serial port.") || !strings.Contains(said.String(), "dmesg -w") {
		t.Errorf("%v:\n%s", err, said)
	}
}

func TestWithName(t *testing.T) {
	const line = "name = \"p\"\n"
	for text, want := range map[string]string{
		"":                                 line + "\n",
		"# one\n":                          line + "\n# one\n",
		"# one\n#name = \"x\"\n[broker]\n": "# one\n#name = \"x\"\n" + line + "[broker]\n",
		"[broker]\n#name = \"x\"\n":        line + "\n[broker]\n#name = \"x\"\n",
		"#name = \"x\"":                    line + "\n#name = \"x\"",
	} {
		if got := withName(text, line); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// While the gateway runs, it is asked for what is on its bus, takes the new
// devices, and reads them. A new name takes a restart.
func TestInitBesideARunningGateway(t *testing.T) {
	plant := initPlant(t, "tcp")
	s := newSite(t, "", map[string]string{"old": fmt.Sprintf("[bus.hall]\naddress = %q\n[device.tank]\nbus = \"hall\"\nunit_id = 7\nevery = \"100ms\"\npoints.level = { holding = 10 }\n", plant)})
	toml := filepath.Join(s.config, "gateway.toml")
	text, err := os.ReadFile(toml)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, toml, strings.Replace(string(text), "name = \"plant\"\n", "", 1))
	s.run()
	if out, talk, code := s.talk("init", "--bus", "hall", "--units", "1,7", "--device", "main", "--reload=false", "--dry-run"); code != exitOK || !strings.Contains(out, "bus     = \"hall\"\n") {
		t.Errorf("a dry run: code %d, %s%s", code, out, talk)
	}
	out, talk, code := s.talk("init", "--bus", plant, "--units", "1,7", "--device", "main")
	for _, said := range []string{"unit 7: is tank", "The running gateway has taken it.", "main: 36 of 36", "mosquitto_sub -p " + s.broker} {
		if code != exitOK || !strings.Contains(talk, said) {
			t.Errorf("code %d; it does not say %q:\n%s%s", code, said, out, talk)
		}
	}
	if !strings.Contains(out, "voltage_l1") || !s.deviceIs("main", devices.Online) {
		t.Errorf("the device is not read:\n%s", out)
	}

	// A gateway that is not the service of systemd is not restarted.
	out, talk, code = s.talk("init", "--bus", "hall", "--units", "3", "--device", "shop", "--name", "plant")
	if code != exitOK || !strings.Contains(talk, "goes by it after a restart") || !strings.Contains(talk, "does not know the new devices yet") {
		t.Errorf("another name: code %d, %s%s", code, out, talk)
	}
	if len(s.status().Devices) != 2 {
		t.Errorf("it was reloaded: %+v", s.status().Devices)
	}

	// The service is.
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "pid"), fmt.Sprint(s.cmd.Process.Pid))
	writeFile(t, filepath.Join(dir, "systemctl"), fmt.Sprintf(`#!/bin/sh
case $1 in
show) cat %[1]s/pid ;;
restart) : >%[1]s/asked; while ! [ -e %[1]s/done ]; do sleep 0.02; done ;;
esac
`, dir))
	if err := os.Chmod(filepath.Join(dir, "systemctl"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	writeFile(t, filepath.Join(s.config, "devices.d", "hall-2.toml"), "") // shop is to be found once more
	again := start(t, binary, s.args("init", "--bus", "hall", "--units", "3", "--device", "shop")...)
	eventually(t, "systemctl is asked", func() bool { _, err := os.Stat(filepath.Join(dir, "asked")); return err == nil })
	s.stop()
	s.run()
	writeFile(t, filepath.Join(dir, "done"), "")
	<-again.done
	for _, said := range []string{"The running gateway has taken it.", "shop: 24 of 24", "-t 'plant/#'"} {
		if code := again.cmd.ProcessState.ExitCode(); code != exitOK || !strings.Contains(again.out.String(), said) {
			t.Errorf("code %d; it does not say %q:\n%s", code, said, again.out)
		}
	}
}

// On a real terminal Ctrl-C and the end of the input end it, and change nothing.
func TestInitEndsAtAQuestion(t *testing.T) {
	for key, said := range map[string]string{"\x03": "asked to stop by interrupt; nothing was written", "\x04": "which --bus answers, too; nothing was written"} {
		dir := t.TempDir()
		y := startInTTY(t, 80, 24, nil, "init", "--config", dir, "--state", dir, "--name", "plant")
		eventually(t, "it asks for the port", func() bool { return strings.Contains(y.seen.String(), "Port, or an address") })
		y.master.WriteString(key)
		<-y.done
		eventually(t, "it says so", func() bool { return strings.Contains(y.seen.String(), said) })
		if code := y.cmd.ProcessState.ExitCode(); code != exitFailed || len(filesOf(t, dir)) > 0 {
			t.Errorf("%q: code %d, files %v", key, code, filesOf(t, dir))
		}
	}
}

// Where the context ends while a question waits, that is what is said.
func TestDialogueEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	d := dialogue{in: bufio.NewReader(r), out: new(bytes.Buffer)}
	if _, err := d.ask(ctx, question{text: "Name", flag: "name"}); !errors.Is(err, why) {
		t.Error(err)
	}
}
