package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
)

func TestCompareSaysWhatAReloadDoes(t *testing.T) {
	start := map[string]string{"general": "1", "broker": "1", "users": "1", "publish": "1", "homeassistant": "1", "bus a": "1", "bus b": "1", "bus c": "1", "bridge x": "1", "bridge y": "1"}
	for _, test := range []struct {
		change map[string]string // "": it is gone
		want   string
	}{
		{nil, "begun[] anew[] ended[] restart[] false false"},
		{map[string]string{"bus a": "2", "bus c": "", "bus d": "1"}, "begun[bus d] anew[bus a] ended[bus c] restart[] false true"},
		{map[string]string{"bridge x": "2", "bridge y": ""}, "begun[] anew[bridge x] ended[bridge y] restart[] false false"},
		{map[string]string{"publish": "2"}, "begun[] anew[] ended[] restart[] true true"},
		{map[string]string{"homeassistant": ""}, "begun[] anew[] ended[] restart[] false true"},
		{map[string]string{"broker": "2", "general": "", "spool": "1", "users": "2"}, "begun[] anew[] ended[] restart[broker general spool] false false"},
	} {
		now := maps.Clone(start)
		for part, text := range test.change {
			if now[part] = text; text == "" {
				delete(now, part)
			}
		}
		c := compare(start, start, now)
		if got := fmt.Sprintf("begun%v anew%v ended%v restart%v %v %v", c.begun, c.anew, c.ended, c.restart, c.tables, c.announce); got != test.want {
			t.Errorf("%v: %s, want %s", test.change, got, test.want)
		}
	}
	// What waits for a restart is told again until there was one.
	second := maps.Clone(start)
	second["broker"] = "2"
	if c := compare(start, second, second); fmt.Sprint(c.restart) != "[broker]" {
		t.Errorf("after another reload: %v", c.restart)
	}
}

// A reloadSite is a gateway on two simulated buses with two bridges.
type reloadSite struct {
	*site
	t    *testing.T
	head string // of gateway.toml
	far  *cloud
}

func newReloadSite(t *testing.T) *reloadSite {
	t.Helper()
	c := newCloud(t)
	c.start()
	ports := [2]string{freePort(t), freePort(t)}
	head := fmt.Sprintf("[bus.one]\naddress = \"tcp://127.0.0.1:%s\"\n[bus.two]\naddress = \"tcp://127.0.0.1:%s\"\n", ports[0], ports[1])
	s := newSite(t, head+c.bridge("replay = \"strict\"\nsend = { \"{name}/#\" = \"dt/{name}/#\", \"site/#\" = \"site/#\" }\n"), map[string]string{
		"one": "[device.pump]\nbus = \"one\"\nunit_id = 1\nevery = \"50ms\"\npoints.a = { holding = 0 }\npoints.b = { holding = 1 }\n[device.valve]\nbus = \"one\"\nunit_id = 2\nevery = \"50ms\"\npoints.x = { holding = 0, write = true }\n",
		"two": "[device.meter]\nbus = \"two\"\nunit_id = 1\nevery = \"50ms\"\npoints.a = { holding = 0, write = true }\n",
	})
	cfg, report := config.Load(s.config, config.Options{})
	if cfg == nil {
		t.Fatal(report.Err())
	}
	plan := simulator.Config{}
	for i, b := range cfg.Buses {
		plan.Buses = append(plan.Buses, simulator.Bus{Name: b.ID, Listen: "127.0.0.1:" + ports[i], Devices: b.Devices})
	}
	runPlant(t, plan)
	read, err := os.ReadFile(filepath.Join(s.config, "gateway.toml"))
	if err != nil {
		t.Fatal(err)
	}
	return &reloadSite{site: s, t: t, head: string(read), far: c}
}

// reload has the gateway read its configuration again, and waits for what it
// says of that.
func (s *reloadSite) reload(said string) {
	s.t.Helper()
	n := strings.Count(s.out.String(), said)
	s.cmd.Process.Signal(syscall.SIGHUP)
	eventually(s.t, "the log says "+said, func() bool { return strings.Count(s.out.String(), said) > n })
}

func (s *reloadSite) bus(id string) BusStatus {
	s.t.Helper()
	for _, b := range statusOf(s.t, s.site).Buses {
		if b.Bus == id {
			return b
		}
	}
	s.t.Fatalf("there is no bus %s", id)
	return BusStatus{}
}

// A reload changes what was changed and nothing else: another bus goes on
// counting, clients stay connected, a bridge loses nothing, what is published no
// more is cleared here and upstream.
func TestReloadDisturbsNothingElse(t *testing.T) {
	t.Parallel()
	s := newReloadSite(t)
	w := s.far.watch()
	s.run()
	stays := start(t, "mosquitto_sub", "-h", "127.0.0.1", "-p", s.broker, "-i", "panel", "-t", "plant/#", "-v")
	pub := newPublisher(t, "127.0.0.1:"+s.broker)
	eventually(t, "both buses are read", func() bool {
		out := stays.out.String()
		return strings.Contains(out, "plant/pump/b ") && strings.Contains(out, "plant/meter/a ") && strings.Contains(out, "plant/valve/_status ")
	})
	pub.awaitMore(50)
	before := s.bus("two")

	// Bus one: a point goes, one comes, one moves, a device goes.
	writeFile(t, filepath.Join(s.config, "devices.d", "one.toml"), "[device.pump]\nbus = \"one\"\nunit_id = 1\nevery = \"50ms\"\npoints.a = { holding = 0 }\npoints.c = { holding = 1 }\n")
	diff, code := s.command("check", "--diff")
	for _, want := range []string{"bus one begins anew\n", "  - device.pump.points.b.holding = 1\n  - device.valve.bus = \"one\"\n", "  + device.pump.points.c.holding = 1\n", "All else goes on undisturbed: bridge cloud, bus two.\n"} {
		if !strings.Contains(diff, want) || code != 0 {
			t.Errorf("check --diff does not say %q: %s", want, diff)
		}
	}
	s.reload("msg=reloaded")
	eventually(t, "the new point is published", func() bool { return len(w.on("dt/plant/pump/c")) > 0 })
	for _, topic := range []string{"plant/pump/b", "plant/valve/x", "plant/valve/_status"} {
		eventually(t, topic+" is cleared upstream", func() bool {
			got := w.on("dt/" + topic)
			return len(got) > 0 && got[len(got)-1] == ""
		})
	}
	topics, _ := exec.Command("mosquitto_sub", "-h", "127.0.0.1", "-p", s.broker, "-t", "plant/#", "--retained-only", "-F", "%t", "-W", "1").Output()
	retained := string(topics)
	eventually(t, "upstream it is told by which configuration the gateway goes", func() bool {
		got := w.on("dt/plant/_status")
		return len(got) > 1 && strings.Contains(got[len(got)-1], statusOf(t, s.site).Config) && !strings.Contains(got[0], statusOf(t, s.site).Config)
	})
	for _, topic := range []string{"plant/pump/b", "plant/valve"} {
		if strings.Contains(retained, topic) {
			t.Errorf("%s is still retained:\n%s", topic, retained)
		}
	}
	if !strings.Contains(retained, "plant/meter/a") || !strings.Contains(retained, "plant/pump/c") {
		t.Errorf("retained after the reload:\n%s", retained)
	}
	after := s.bus("two")
	if after.Requests < before.Requests || after.Timeouts != before.Timeouts || after.Errors != before.Errors {
		t.Errorf("bus two was disturbed: %+v, then %+v", before.BusStats, after.BusStats)
	}
	eventually(t, "bus two goes on", func() bool { return s.bus("two").Requests > after.Requests+3 })
	if out, _ := s.command("write", "meter.a", "7"); !strings.Contains(out, "verified") {
		t.Errorf("a write to the bus that stayed: %s", out)
	}

	// A mistake changes nothing.
	writeFile(t, filepath.Join(s.config, "devices.d", "two.toml"), "[device.meter]\nbus = \"two\"\nunit = 1\n")
	s.reload("not reloaded; all goes on as it was")
	if !strings.Contains(s.out.String(), "file=devices.d/two.toml:3:1") {
		t.Error("the log does not say where the mistake is")
	}
	if st := statusOf(t, s.site); st.Reload == nil || st.Reload.OK || !strings.Contains(st.Reload.Error, "gateway check") {
		t.Errorf("status says %+v of it", st.Reload)
	}
	if out, _ := s.command("status"); !strings.Contains(out, "\nreload  failed at ") {
		t.Errorf("status does not tell of it:\n%s", out)
	}
	eventually(t, "bus two goes on", func() bool { return s.bus("two").Requests > after.Requests+6 })

	// A bridge comes, the other stays; what needs a restart is told.
	writeFile(t, filepath.Join(s.config, "devices.d", "two.toml"), "[device.meter]\nbus = \"two\"\nunit_id = 1\nevery = \"50ms\"\npoints.a = { holding = 0, write = true }\n")
	second := strings.NewReplacer("[bridge.cloud]", "[bridge.second]", `"{name}"`, `"{name}-2"`).Replace(s.far.bridge("send = { \"site/#\" = \"copy/#\" }\n"))
	writeFile(t, filepath.Join(s.config, "gateway.toml"), strings.Replace(s.head, "[broker]", "[broker]\nmax_queue = 500", 1)+second)
	s.reload("msg=reloaded")
	if !strings.Contains(s.out.String(), "needs a restart: systemctl restart gateway\" part=broker") {
		t.Error("the log does not say that the broker's change needs a restart")
	}
	if st := statusOf(t, s.site); len(st.Bridges) != 2 || fmt.Sprint(st.Reload.Restart) != "[broker]" || !st.Reload.OK {
		t.Errorf("%d bridges, %+v", len(st.Bridges), st.Reload)
	}
	eventually(t, "the second bridge carries on", func() bool { return len(w.on("copy/log")) > 10 })

	// It goes again, and the name must not change.
	writeFile(t, filepath.Join(s.config, "gateway.toml"), s.head)
	s.reload("msg=reloaded")
	if st := statusOf(t, s.site); len(st.Bridges) != 1 {
		t.Errorf("%d bridges", len(st.Bridges))
	}
	writeFile(t, filepath.Join(s.config, "gateway.toml"), strings.Replace(s.head, `name = "plant"`, `name = "other"`, 1))
	s.reload("not reloaded; all goes on as it was")

	acked := pub.stop()
	eventually(t, "all that was acknowledged has arrived", func() bool { return inOrder(w.on("site/log"), acked) })
	if out := s.out.String(); strings.Contains(out, "client=panel addr") || strings.Count(out, "uplink connected") != 2 {
		t.Errorf("a client was disconnected, or a bridge that did not change")
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// What docs/changing.md shows of check --diff is what that prints.
func TestChangingTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/changing.md")
	if err != nil {
		t.Fatal(err)
	}
	load := func(unit string) (settings []config.Setting) {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "gateway.toml"), `name = "a"
bus.rs485 = { address = "/dev/ttyUSB0", baud = 9600, format = "8N1" }
bus.plc = { address = "tcp://192.0.2.1" }
bridge.aws = { url = "tcp://192.0.2.2", send = { "a/#" = "a/#" } }
device.plc = { bus = "plc", unit_id = 1, points.x = { input = 1 } }
device.main = { bus = "rs485", unit_id = `+unit+`, points.x = { input = 1 } }
`)
		cfg, report := config.Load(dir, config.Options{Settings: &settings})
		if cfg == nil {
			t.Fatal(report.Err())
		}
		return settings
	}
	at := places{runtime: t.TempDir()}
	startApplied(load("1"), at, slog.New(slog.DiscardHandler))
	var out strings.Builder
	if err := printDiff(&out, load("2"), at); err != nil || !strings.Contains(string(read), "```\n"+out.String()+"```") {
		t.Errorf("%v; check --diff says:\n%s", err, &out)
	}
	out.Reset()
	if err := printDiff(&out, load("1"), at); err != nil || !strings.HasPrefix(out.String(), "A reload would change nothing.") {
		t.Errorf("%v; check --diff says:\n%s", err, &out)
	}
}

// A reload that is asked for while the gateway stops keeps nobody waiting.
func TestReloadWhileStopping(t *testing.T) {
	state, err := os.MkdirTemp("", "gw-") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	writeFile(t, filepath.Join(state, "gateway.toml"), "name = \"plant\"\n[broker]\nlisten = [\"tcp://127.0.0.1:"+freePort(t)+"\"]\n")
	cfg, report := config.Load(state, config.Options{})
	if cfg == nil {
		t.Fatal(report.Err())
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	g, err := newGateway(cfg, places{state: state, runtime: state}, false, log)
	if err != nil {
		t.Fatal(err)
	}
	g.reloads = &reloader{path: state, gateway: g, log: log, hangups: make(chan os.Signal)}
	ctx, stop := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- g.run(ctx, func() { close(ready) }) }()
	<-ready
	g.stages.uplinks.run("takes its leave", func(ctx context.Context) error {
		<-ctx.Done()
		g.reloads.hangups <- syscall.SIGHUP // the reloader, which ends later, has taken it
		return nil
	})
	stop()
	select {
	case err := <-ended:
		if err := errors.Join(err, g.close()); err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
}
