package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"edgegateway/devices"
)

// A newcomer is somebody with a meter on an adapter, before a gateway as the
// package installs it, in a terminal of 80 columns.
type newcomer struct {
	*site
	port string // of the adapter
}

// install makes a configuration folder as the package does; only the port of the
// broker is another one.
func (n *newcomer) install(t *testing.T) {
	t.Helper()
	n.site = newSite(t, "", nil)
	text := strings.Replace(packaged(t), "127.0.0.1:1883", "127.0.0.1:"+n.broker, 1)
	writeFile(t, filepath.Join(n.config, "gateway.toml"), text)
	readme, err := os.ReadFile("../../packaging/devices.d.README")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(n.config, "devices.d", "README"), string(readme))
	if err := os.Mkdir(filepath.Join(n.config, "credentials"), 0o750); err != nil {
		t.Fatal(err)
	}
}

// in runs a command in a terminal and types an answer to each question.
func (n *newcomer) in(t *testing.T, command string, answers [][2]string, more ...string) *tty {
	t.Helper()
	y := startInTTY(t, 80, 24, []string{"NO_COLOR=1"}, n.args(command, more...)...)
	seen := 0
	for _, a := range answers {
		eventually(t, "it asks: "+a[0], func() bool {
			select {
			case <-y.done:
				t.Fatalf("it ended before it asked %q:\n%s", a[0], y.seen)
			default:
			}
			text := y.seen.String()
			at := strings.Index(text[seen:], a[0])
			if at < 0 || !strings.HasSuffix(text, ": ") {
				return false
			}
			seen += at + len(a[0])
			return true
		})
		y.master.WriteString(a[1] + "\n")
	}
	return y
}

// hup does what `systemctl reload gateway` does: check, and then a signal. It
// reports whether the signal was sent.
func (n *newcomer) hup(t *testing.T, said string) bool {
	t.Helper()
	if _, code := n.command("check", "--quiet"); code != exitOK {
		return false
	}
	before := strings.Count(n.out.String(), said)
	n.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the log says "+said, func() bool { return strings.Count(n.out.String(), said) > before })
	return true
}

// A newcomer's first day: install, init, and then once more by hand, as the
// documentation has it: scan, save, check, plan, run, monitor, a mistake in the
// map, its error, the reload that is refused, and the one that is not.
func TestNewcomer(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there")
	n := newcomer{port: filepath.Join(t.TempDir(), "ttyUSB0")}
	writeFile(t, there+".toml", fmt.Sprintf("name = \"there\"\n[bus.line]\naddress = %q\nbaud = 38400\n[device.meter]\nprofile = \"eastron/sdm630\"\nbus = \"line\"\nunit_id = 2\n", n.port))
	sim := start(t, binary, "simulate", "--config", there+".toml")
	eventually(t, "the meter is on the line", func() bool { return strings.Contains(sim.out.String(), "All buses are where") })

	// The short way.
	n.install(t)
	y := n.in(t, "init", [][2]string{
		{"Name of this gateway", "plant"}, {"Port, or an address", n.port}, {"Unit ids to ask", "1-3"},
		{"Profile of unit 2", ""}, {"Name of unit 2", "main"}, {"Write this? [Y/n]", ""},
	}, "--speeds", "38400")
	<-y.done
	eventually(t, "init tells where the values are", func() bool { return strings.Contains(y.seen.String(), "mosquitto_sub -p "+n.broker+" -t 'plant/#' -v") })
	for _, said := range []string{"unit 2: eastron/sdm630 (38400 8N1)", "0 errors, 0 warnings", "main: 36 of 36 points read", "gateway run --config " + n.config} {
		if code := y.cmd.ProcessState.ExitCode(); code != exitOK || !strings.Contains(y.seen.String(), said) {
			t.Errorf("code %d; it does not say %q:\n%s", code, said, y.seen)
		}
	}
	if value := regexp.MustCompile(`voltage_l1 +2[0-9]{2}\.[0-9]+ V`); !value.MatchString(y.seen.String()) {
		t.Errorf("no first value:\n%s", y.seen)
	}
	n.run()
	eventually(t, "what init wrote is polled", func() bool { return n.deviceIs("main", devices.Online) })
	if code := n.stop(); code != exitOK {
		t.Errorf("code %d", code)
	}

	// The long way, in another root.
	n.install(t)
	found, code := n.command("scan", n.port, "--units", "1-3", "--speeds", "38400")
	if code != exitOK || !strings.Contains(found, "[bus.rs485]") {
		t.Fatalf("scan: code %d:\n%s", code, found)
	}
	gateway := filepath.Join(n.config, "gateway.toml")
	text, err := os.ReadFile(gateway)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, gateway, strings.Replace(string(text), "#name = \"plant-a\"", "name = \"plant\"", 1))
	file := filepath.Join(n.config, "devices.d", "meters.toml")
	device := regexp.MustCompile(`\[device\.\S+\]`).FindString(found)
	saved := strings.Replace(found, device, "[device.main]\npoints.heat = { input = 52, type = \"f32\", unit = \"W\", every = \"200ms\" }", 1)
	writeFile(t, file, saved)
	if out, code := n.command("check"); code != exitOK || !strings.Contains(out, "0 errors, 0 warnings") {
		t.Fatalf("check: code %d:\n%s", code, out)
	}
	if out, code := n.command("plan"); code != exitOK || !strings.Contains(out, "rs485") {
		t.Errorf("plan: code %d:\n%s", code, out)
	}
	n.run()
	values := n.subscribe("plant/main/+")
	y = n.in(t, "monitor", nil, "heat", "--every", "100ms")
	shows := regexp.MustCompile(`(?m)^  heat +[0-9.]+ W `)
	eventually(t, "the monitor shows the value", func() bool {
		last := y.last()
		return len(last) == 24 && shows.MatchString(strings.Join(last, "\n"))
	})
	y.master.WriteString("q")
	<-y.done

	// A mistake: refused, and all goes on as it was.
	writeFile(t, file, strings.Replace(saved, "input = 52", "inputt = 52", 1))
	line := 1 + strings.Count(saved[:strings.Index(saved, "input = 52")], "\n")
	out, code := n.command("check")
	if want := fmt.Sprintf("devices.d/meters.toml:%d:17: error: ", line); code != exitConfig || !strings.Contains(out, want) || !strings.Contains(out, `did you mean "input"?`) || !strings.Contains(out, "inputt = 52") {
		t.Errorf("check of a typo: code %d, want %q in\n%s", code, want, out)
	}
	if n.hup(t, "reloaded") {
		t.Error("a configuration with an error is not held back")
	}
	n.cmd.Process.Signal(syscall.SIGHUP) // by hand, past the check
	eventually(t, "the gateway refuses it", func() bool { return strings.Contains(n.out.String(), "not reloaded; all goes on as it was") })
	before := len(values.on("plant/main/heat"))
	eventually(t, "values go on", func() bool { return len(values.on("plant/main/heat")) > before+2 })
	if out, _ := n.command("status"); !strings.Contains(out, "reload  failed") {
		t.Errorf("status does not tell of it:\n%s", out)
	}

	// Corrected, with one point more.
	writeFile(t, file, saved+"\npoints.warm = { input = 52, type = \"f32\", unit = \"W\", every = \"200ms\" }\n")
	if !n.hup(t, "msg=reloaded") {
		t.Fatal("the corrected configuration is held back")
	}
	eventually(t, "the new value comes", func() bool {
		return slices.ContainsFunc(values.on("plant/main/warm"), func(p string) bool { return strings.Contains(p, `"quality":"good"`) })
	})
	before = len(values.on("plant/main/heat"))
	eventually(t, "the value is back", func() bool { return len(values.on("plant/main/heat")) > before })
}
