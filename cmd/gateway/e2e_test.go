package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"edgegateway/devices/serial/pty"
)

// The tests of this file run the binary as a user would, between programs
// that were not written here: pymodbus as the devices and mosquitto as the
// cloud. A program that is missing fails them.

func TestFirstLight(t *testing.T) {
	t.Parallel()
	far := newCloud(t)
	far.start()
	w := far.watch()

	plcPort := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	line, err := pty.Open(pty.Config{Baud: 19200, Format: "8N1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { line.Close() })
	pymodbus(t, "rtu", line.B, "19200")

	s := newSite(t, fmt.Sprintf(`
[bus.rs485]
address = %q
baud    = 19200
`, line.A)+far.bridge(`
send   = { "{name}/+" = "dt/{name}/+", "{name}/+/+" = "dt/{name}/+/+", "site/#" = "dt/site/#" }
replay = "strict"`), map[string]string{
		"plc": fmt.Sprintf(`
[device.plc]
bus     = "tcp://127.0.0.1:%s"
unit_id = 1
every   = "500ms"
[device.plc.points]
count = { holding = 100, type = "u32", every = "50ms" }
%s`, plcPort, plcPoints),
		"meter": `
[device.meter]
bus     = "rs485"
unit_id = 1
every   = "1s"
timeout = "2s"
[device.meter.points]
` + plcPoints,
	})
	if out, code := s.command("check"); code != exitOK {
		t.Fatalf("check: code %d\n%s", code, out)
	}
	s.run()
	expectValues(t, w, "plc")
	expectValues(t, w, "meter")

	// An outage with a kill -9 in its middle, while a local client publishes.
	p := newPublisher(t, "127.0.0.1:"+s.broker)
	p.awaitMore(50)
	far.stop()
	p.awaitMore(150)
	for range kills() {
		s.kill()
		s.run()
		p.awaitMore(150)
	}
	before := len(w.on("dt/site/log"))
	far.start()
	p.awaitMore(50)
	acked := p.stop()
	eventually(t, "the last acknowledged message arrives", func() bool {
		got := w.on("dt/site/log")
		return len(got) > before && slices.Contains(got, acked[len(acked)-1])
	})
	if code := s.stop(); code != exitOK {
		t.Fatalf("exit code %d after SIGTERM:\n%s", code, s.out)
	}
	checkPublished(t, acked, w.on("dt/site/log"))
	for _, payload := range w.on("dt/plant/_status") { // the bridge's own; the site's has a time, which would be past
		if strings.Contains(payload, `"time"`) {
			t.Errorf("a status from the buffer arrived: %s", payload)
		}
	}
	checkCounts(t, w.on("dt/plant/plc/count"))
}

// checkPublished proves that what was acknowledged arrived, in its order. A
// message that was sent again for want of an acknowledgement may come twice.
func checkPublished(t *testing.T, acked, got []string) {
	t.Helper()
	next := 0
	for _, payload := range got {
		if next < len(acked) && payload == acked[next] {
			next++
		} else if !slices.Contains(acked[:next], payload) && slices.Contains(acked, payload) {
			t.Fatalf("%s came before %s", payload, acked[next])
		}
	}
	if next < len(acked) {
		t.Fatalf("%s was acknowledged and did not arrive (%d of %d did)", acked[next], next, len(acked))
	}
	t.Logf("%d messages acknowledged, all arrived in order; %d arrived", len(acked), len(got))
}

// checkCounts proves that no reading is missing: each of them raised the
// number in the device by one. Each kill may have hit one between the bus and
// the spool.
func checkCounts(t *testing.T, payloads []string) {
	t.Helper()
	var last uint64
	jumps := 0
	for i, payload := range payloads {
		var n uint64
		if _, err := fmt.Sscanf(payload, `{"value":%d,`, &n); err != nil {
			t.Fatalf("payload %q: %v", payload, err)
		}
		switch {
		case i == 0 || n == last+1:
		case n <= last:
			t.Fatalf("%d came after %d", n, last)
		default:
			jumps++
			if n > last+3 {
				t.Fatalf("%d came after %d: readings are missing", n, last)
			}
		}
		last = n
	}
	if jumps > kills() {
		t.Fatalf("%d holes in %d readings, one for each of %d kills is allowed", jumps, len(payloads), kills())
	}
	t.Logf("%d readings in order, %d holes at %d kills", len(payloads), jumps, kills())
}

func TestStartsWithoutItsNeighbours(t *testing.T) {
	t.Parallel()
	far := newCloud(t)
	plcPort := freePort(t)
	s := newSite(t, far.bridge(`send = { "{name}/+/+" = "dt/{name}/+/+" }`), map[string]string{
		"plc": fmt.Sprintf("[device.plc]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\nevery = \"200ms\"\n[device.plc.points]\n%s", plcPort, plcPoints),
	})
	s.run()
	eventually(t, "the log tells of both", func() bool {
		log := s.out.String()
		return strings.Contains(log, "bus=") && strings.Contains(log, "bridge=cloud")
	})
	out, code := s.command("status")
	if code != exitOK || !strings.Contains(out, "offline") {
		t.Fatalf("status: code %d\n%s", code, out)
	}
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	far.start()
	expectValues(t, far.watch(), "plc")
	for _, attr := range []string{"bus=", "bridge="} {
		if n := countLines(s.out.String(), "level=WARN", attr); n != 1 {
			t.Errorf("%d warnings with %s, want the trouble to be told once:\n%s", n, attr, s.out)
		}
	}
}

func countLines(text string, parts ...string) (n int) {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			n++
		}
	}
	return n
}

func TestReadAndWriteWithAndWithoutTheService(t *testing.T) {
	plcPort := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	s := newSite(t, "", map[string]string{
		"plc": fmt.Sprintf("[device.plc]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\n[device.plc.points]\n%s", plcPort, plcPoints),
	})
	for _, running := range []bool{false, true} {
		if running {
			s.run()
		}
		for _, c := range []struct {
			args []string
			code int
			want string
		}{
			{[]string{"read", "plc.f32"}, 0, "4366 199A"},
			{[]string{"read", "plc.u64"}, 0, "9007199254740993"},
			{[]string{"read", "plc.nan"}, 1, "–"},
			{[]string{"read", "tcp://127.0.0.1:" + plcPort + "/1", "holding:14", "f32"}, 0, "230.1"},
			{[]string{"read", "tcp://127.0.0.1:" + plcPort + "/1", "40015", "f32"}, 0, "230.1"},
			{[]string{"read", "plc.nosuch"}, exitUsage, ""},
			{[]string{"write", "plc.setpoint", "21.5"}, 0, "verified: 21.5 °C"},
			{[]string{"read", "plc.setpoint"}, 0, "21.5 °C"},
			{[]string{"write", "plc.setpoint", "60"}, 1, "rejected"},
			{[]string{"write", "plc.f32", "1"}, 1, "rejected"},
			{[]string{"write", "plc.pump", "true"}, 0, "verified: true"},
		} {
			out, code := s.command(c.args[0], c.args[1:]...)
			if code != c.code || !strings.Contains(out, c.want) {
				t.Errorf("running %v: gateway %v: code %d, want %d with %q:\n%s", running, c.args, code, c.code, c.want, out)
			}
		}
	}
}

func TestCommandsAreAnswered(t *testing.T) {
	plcPort := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	s := newSite(t, "", map[string]string{
		"plc": fmt.Sprintf("[device.plc]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\n[device.plc.points]\n%s", plcPort, plcPoints),
	})
	s.run()
	sub := start(t, "mosquitto_sub", "-p", s.broker, "-v", "-q", "1", "-t", "plant/+/+/set/result", "-t", "plant/+/_set/result", "-t", "plant/plc/setpoint")
	eventually(t, "the subscriber gets the retained value", func() bool { return strings.Contains(sub.out.String(), "plant/plc/setpoint {") })
	for _, c := range []struct{ topic, payload, want string }{
		{"plant/plc/setpoint/set", `{"value":33.5,"id":"job-7"}`, `"status":"verified","id":"job-7"`},
		{"plant/plc/setpoint/set", "99", `"status":"rejected"`},
		{"plant/plc/f32/set", "1", `"status":"rejected"`},
		{"plant/plc/_set", `{"setpoint":12,"pump":false}`, `plant/plc/_set/result {"status":"verified"`},
	} {
		if out, err := exec.Command("mosquitto_pub", "-p", s.broker, "-q", "1", "-t", c.topic, "-m", c.payload).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_pub: %v: %s", err, out)
		}
		eventually(t, c.topic+" "+c.payload+" is answered with "+c.want, func() bool { return strings.Contains(sub.out.String(), c.want) })
	}
	eventually(t, "the written value is published", func() bool { return strings.Contains(sub.out.String(), `plant/plc/setpoint {"value":12,`) })

	// Values are the gateway's alone.
	exec.Command("mosquitto_pub", "-p", s.broker, "-q", "1", "-V", "5", "-t", "plant/plc/setpoint", "-m", "forged").Run()
	exec.Command("mosquitto_pub", "-p", s.broker, "-q", "1", "-V", "5", "-t", "plant/plc/setpoint/set", "-m", "14").Run()
	eventually(t, "the next value", func() bool { return strings.Contains(sub.out.String(), `plant/plc/setpoint {"value":14,`) })
	if strings.Contains(sub.out.String(), "forged") {
		t.Error("a client published on a value topic")
	}
}

func TestCheckNamesEveryMistake(t *testing.T) {
	s := newSite(t, "[brige.aws]\nurl = \"tls://x\"\n", map[string]string{
		"boiler": "[device.boiler]\nbus = \"plx\"\nunit_id = 1\n[device.boiler.points]\nmode = { holdng = 100, type = \"u16\" }\n",
		"broken": "[device.x\n",
	})
	out, code := s.command("check")
	if code != exitConfig {
		t.Errorf("code %d, want %d", code, exitConfig)
	}
	for _, want := range []string{
		`gateway.toml:4:2: error: `, `did you mean "bridge"?`,
		`devices.d/boiler.toml:5:10: error: `, `did you mean "holding"?`, "^",
		`devices.d/broken.toml:1:`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %q:\n%s", want, out)
		}
	}
	if out, code := s.command("run"); code != exitConfig {
		t.Errorf("run with a wrong configuration: code %d, want %d\n%s", code, exitConfig, out)
	}
}

func TestDemoLosesNothing(t *testing.T) {
	t.Parallel()
	length := "12s"
	if long() {
		length = "3m"
	}
	cmd := exec.Command(binary, "demo", "--for", length, "--json")
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		t.Fatalf("demo: %v\n%s%s", err, &talk, &out)
	}
	var s Summary
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatalf("summary %q: %v", &out, err)
	}
	if s.Lost != 0 || s.OutOfOrder != 0 || s.Delivered == 0 || s.Outages != 1 || s.MaxBacklog == 0 {
		t.Errorf("summary %+v: want messages delivered over one outage, none lost, all in order", s)
	}
	t.Logf("%s", &out)
}

func TestSimulateServesAConfiguration(t *testing.T) {
	s := newSite(t, "[bus.rs485]\naddress = \"/dev/serial/by-id/none\"\nbaud = 19200\n", map[string]string{
		"meter": "[device.main]\nprofile = \"eastron/sdm630\"\nbus = \"rs485\"\nunit_id = 1\n",
		"plc":   "[device.plc]\nbus = \"tcp://192.0.2.1:502\"\nunit_id = 1\n[device.plc.points]\nlevel = { holding = 7, type = \"u16\" }\n",
	})
	overlay := filepath.Join(s.config, "site.toml")
	sim := start(t, binary, s.args("simulate", "--site", overlay)...)
	eventually(t, "the addresses are written", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
	for _, target := range []string{"main.voltage_l1", "plc.level"} {
		if out, code := s.command("read", target); code != exitOK {
			t.Errorf("read %s from the simulated plant: code %d\n%s", target, code, out)
		}
	}
	// A program not written here reads it, too.
	text, err := os.ReadFile(overlay)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "tcp://127.0.0.1:")
	port, _, _ := strings.Cut(rest, `"`)
	if out, err := exec.Command("mbpoll", "-1", "-0", "-a", "1", "-r", "7", "-c", "1", "-t", "4", "-p", port, "127.0.0.1").CombinedOutput(); err != nil || !strings.Contains(string(out), "[7]:") {
		t.Errorf("mbpoll: %v\n%s", err, out)
	}
	if code := sim.stop(); code != exitOK {
		t.Errorf("simulate ended with code %d", code)
	}
	if _, err := os.Stat(overlay); err == nil {
		t.Error("simulate left its site.toml behind")
	}
}

// A full spool drops its oldest and says so, and the rest arrives in order.
func TestFullSpoolTellsWhatItDropped(t *testing.T) {
	t.Parallel()
	far := newCloud(t)
	buffers := t.TempDir()
	s := newSite(t, fmt.Sprintf("[spool]\nsize = \"8MiB\"\ndir = %q\n", buffers)+far.bridge("send = { \"site/#\" = \"dt/site/#\", \"{name}/_gap\" = \"dt/{name}/_gap\" }\nreplay = \"strict\""), nil)
	s.run()

	const count, size = 200, 100_000 // 20 MB into 8 MiB
	conn, err := net.Dial("tcp", "127.0.0.1:"+s.broker)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := paho.NewClient(paho.ClientConfig{Conn: conn, PacketTimeout: time.Minute})
	if _, err := client.Connect(t.Context(), &paho.Connect{ClientID: "filler", CleanStart: true, KeepAlive: 60}); err != nil {
		t.Fatal(err)
	}
	filler := strings.Repeat("x", size)
	for i := range count {
		if _, err := client.Publish(t.Context(), &paho.Publish{Topic: "site/log", QoS: 1, Payload: fmt.Appendf(nil, "%d %s", i, filler)}); err != nil {
			t.Fatalf("publish %d: %v", i, err)
		}
	}
	if used := folderSize(t, filepath.Join(buffers, "telemetry")); used > 9<<20 {
		t.Errorf("the spool takes %d bytes, its size is 8 MiB", used)
	}

	far.start()
	w := far.watch()
	eventually(t, "the last message arrives", func() bool {
		got := w.on("dt/site/log")
		return len(got) > 0 && strings.HasPrefix(got[len(got)-1], fmt.Sprint(count-1, " "))
	})
	eventually(t, "the gap is told", func() bool { return len(w.on("dt/plant/_gap")) > 0 })
	var gap gapMessage
	if err := json.Unmarshal([]byte(w.on("dt/plant/_gap")[0]), &gap); err != nil {
		t.Fatal(err)
	}
	got := w.on("dt/site/log")
	if int(gap.Count)+len(got) != count || gap.Reason != "quota" || gap.Bridge != "cloud" {
		t.Errorf("gap %+v and %d messages: together they must be the %d that were published", gap, len(got), count)
	}
	for i, payload := range got {
		if want := fmt.Sprint(count-len(got)+i, " "); !strings.HasPrefix(payload, want) {
			t.Fatalf("message %d of the rest begins %.10q, want %q", i, payload, want)
		}
	}
}

func folderSize(t *testing.T, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
	}
	return total
}

// A command from the cloud is carried out if it says until when it is valid,
// and answered there.
func TestCommandFromTheCloud(t *testing.T) {
	far := newCloud(t)
	far.start()
	w := far.watch()
	plcPort := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	s := newSite(t, far.bridge(`
send    = { "{name}/+/+" = "dt/{name}/+/+", "{name}/+/+/set/result" = "dt/{name}/+/+/set/result" }
receive = { "cmd/{name}/+/+/set" = "{name}/+/+/set" }`), map[string]string{
		"plc": fmt.Sprintf("[device.plc]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\nevery = \"1s\"\n[device.plc.points]\n%s", plcPort, plcPoints),
	})
	s.run()
	expectValues(t, w, "plc")
	const result = "dt/plant/plc/setpoint/set/result"
	answered := func(want string) func() bool {
		return func() bool {
			return slices.ContainsFunc(w.on(result), func(p string) bool { return strings.Contains(p, want) })
		}
	}
	far.publish("cmd/plant/plc/setpoint/set", "17")
	eventually(t, "a command without expiry is refused", answered(`"status":"rejected"`))
	far.publish("cmd/plant/plc/setpoint/set", "17", "-D", "publish", "message-expiry-interval", "60")
	eventually(t, "a command with expiry is carried out", answered(`"status":"verified"`))
	eventually(t, "the new value arrives", func() bool {
		got := w.on("dt/plant/plc/setpoint")
		return strings.HasPrefix(got[len(got)-1], `{"value":17,`)
	})
}

// Whoever reads a value or plays the plant has not got the bridge's secrets:
// systemd gives them to the service alone.
func TestOnlyTheServiceNeedsSecrets(t *testing.T) {
	plcPort := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	s := newSite(t, "[bridge.cloud]\nurl = \"tls://cloud.example\"\npassword = \"${cred:nobody-has-it}\"\nsend = { \"{name}/#\" = \"dt/{name}/#\" }\n", map[string]string{
		"plc": fmt.Sprintf("[device.plc]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\n[device.plc.points]\n%s", plcPort, plcPoints),
	})
	for command, code := range map[string]int{"read plc.f32": exitOK, "plan": exitOK, "check": exitOK, "run": exitConfig} {
		args := strings.Fields(command)
		if out, got := s.command(args[0], args[1:]...); got != code {
			t.Errorf("%s: code %d, want %d:\n%s", command, got, code, out)
		}
	}
}
