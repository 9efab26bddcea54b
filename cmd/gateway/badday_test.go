package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"golang.org/x/sys/unix"

	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// TestBadDay has happen what happens on a bad day, all of it at once and within
// milliseconds: reloads right and wrong, devices and ports that come and go, far
// brokers in every mood, clients that are cut off, steps of the clock, a full
// disk, and people who look at all that and go away in the middle. After it the
// gateway holds no goroutine, no open file and no memory more than before, each
// device is read, and nothing that was acknowledged is lost.
//
// What it held is counted three times when all is calm: after each thing happened
// once, in the middle, and at the end, so that what is kept for good reasons, once,
// is not taken for a leak, and what grows with each event is.
func TestBadDay(t *testing.T) {
	d := newBadDay(t)
	for _, e := range d.events {
		e.happen(d.dice)
	}
	d.first = d.calm()
	events, rounds := 120, 2
	if long() {
		events, rounds = 2500, 8
	}
	counts, files := []*census{d.first}, map[string]bool{}
	for range rounds {
		d.storm(events)
		c := d.calm()
		for what, more := range c.beyond(d.first) {
			t.Errorf("%d more than when it was calm first: %s", more, what)
		}
		counts = append(counts, c)
		if len(counts) == 1+rounds/2 {
			files = d.listFiles()
		}
	}
	d.checkGrowth(counts[rounds/2], counts[rounds], events*(rounds-rounds/2))
	d.checkDelivery()
	d.checkFiles(files)
	d.checkLog()
	d.report(counts)
	if code := d.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if strings.Contains(d.out.String(), "DATA RACE") {
		t.Error("there are data races")
	}
}

// An event is one kind of what can happen. It is over when happen returns.
type event struct {
	name   string
	weight int
	happen func(*rand.Rand)
}

// A badDay is a gateway with all that surrounds it.
type badDay struct {
	*site
	dice     *rand.Rand
	door     *door
	sim      *simulator.Simulator
	far      *farSide
	pub      *publisher
	book     *ledger
	web      string
	plc      string // addresses of the plant
	crane    string
	rs485    string
	mast     string
	disk     string // a small file system with the state; "": there is none
	began    time.Time
	happened map[string]int
	first    *census // when it was calm first

	events    []event
	underWay  sync.WaitGroup
	configure sync.Mutex // one changes the configuration at a time
	clock     sync.Mutex // one knocks at the door at a time
	now       knock
	upstream  sync.Mutex
	filling   sync.Mutex
	troubled  sync.Mutex
}

// A variant is what changes in the configuration.
type variant struct {
	timeout, window                     int
	lift, point, crane, copy, ha, table bool
}

func anyVariant(dice *rand.Rand) variant {
	yes := func() bool { return dice.IntN(2) == 0 }
	return variant{timeout: 200 + dice.IntN(3)*50, window: 20 + dice.IntN(3), lift: yes(), point: yes(), crane: yes(), copy: yes(), ha: yes(), table: yes()}
}

var (
	usual = variant{timeout: 500, window: 50, lift: true, point: true, crane: true, copy: true}
	other = variant{timeout: 400, window: 40} // of which nothing stays when usual comes
)

func (d *badDay) text(v variant) string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	add("name = \"plant\"\n[broker]\nlisten = [\"tcp://127.0.0.1:%s\"]\nmax_session_queue = 100\n[web]\nlisten = \"127.0.0.1:%s\"\n[spool]\nsize = \"64MiB\"\nsync = \"1s\"\n[spool.critical]\nsize = \"16MiB\"\n[spool.sessions]\nsize = \"16MiB\"\nsync = \"1s\"\n[publish.point]\nper = \"point\"\ntopic = \"{name}/{device}/{point}\"\n[publish.device]\nper = \"device\"\ntopic = \"{name}/{device}\"\nclass = \"critical\"\n", d.broker, d.web)
	add("[bus.plc]\naddress = \"tcp://%s\"\ntimeout = \"%dms\"\n", d.plc, v.timeout)
	add("[bus.rs485]\naddress = %q\nbaud = 115200\ntimeout = \"%dms\"\n", d.rs485, v.timeout)
	add("[bus.mast]\naddress = %q\nbaud = 38400\nprotocol = \"lines\"\n", d.mast)
	const device = "[device.%s]\nbus = %q\nunit_id = %d\nevery = \"200ms\"\npoints.a = { holding = 0, type = \"u32\" }\npoints.b = { holding = 10, type = \"u32\" }\n"
	add(device, "meter", "plc", 1)
	if v.point {
		add("points.c = { holding = 20, type = \"u32\" }\n")
	}
	if v.lift {
		add(device, "lift", "plc", 2)
	}
	add(device+"points.set = { holding = 30, type = \"u32\", write = true }\n", "pump", "rs485", 1)
	add(device, "fan", "rs485", 2)
	interval := 5 // s, in which it is stale: only so that the bus changes
	if v.timeout != usual.timeout {
		interval = 6
	}
	add("[device.wind]\nbus = \"mast\"\nstale = \"%ds\"\nline.MWV.speed = { field = 3, type = \"f64\" }\n", interval)
	if v.crane {
		add("[bus.crane]\naddress = \"tcp://%s\"\n"+device, d.crane, "crane", "crane", 1)
	}
	const bridge = "[bridge.%s]\nurl = \"tcp://%s\"\nclient_id = \"{name}-{bridge}\"\nsend = { \"site/#\" = \"%s/site/#\", \"{name}/#\" = \"%[3]s/{name}/#\" }\nreplay = \"strict\"\nunsynced = \"flag\"\nbackoff = \"100ms\"\nwindow = %d\n"
	add(bridge, "cloud", d.far.addr, "dt", v.window)
	if v.copy {
		add(bridge, "copy", d.far.addr, "copy", v.window)
	}
	if v.ha {
		add("[homeassistant]\n")
	}
	if v.table {
		add("[publish.line]\nper = \"device\"\ntopic = \"{name}/{device}/line\"\nformat = \"influx\"\n")
	}
	return b.String()
}

func newBadDay(t *testing.T) *badDay {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d := &badDay{dice: rand.New(rand.NewPCG(seed, 0)), far: newFarSide(t), web: freePort(t), began: time.Now(), happened: make(map[string]int)}
	ports := t.TempDir()
	d.rs485, d.mast = filepath.Join(ports, "usb-FTDI-if00-port0"), filepath.Join(ports, "usb-Mast-if00-port0")
	d.plc, d.crane = "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	d.site = newSite(t, "", nil)
	d.mountDisk()
	d.write(d.text(usual))
	d.startPlant()
	runtime := filepath.Join(d.config, "run")
	if err := os.MkdirAll(runtime, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.config, "door")
	t.Setenv(doorVariable, path)
	t.Setenv("RUNTIME_DIRECTORY", runtime)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := binary
	binary = self
	d.run()
	binary = program
	d.door = openDoor(t, path)
	os.Unsetenv(doorVariable)
	d.listen()
	d.pub = newPublisher(t, "127.0.0.1:"+d.broker)
	d.events = d.kinds()
	d.fillBuffers()
	return d
}

// fillBuffers has each buffer make its first file, without which a full disk would
// leave it no room at all, and it would try again only after a minute.
func (d *badDay) fillBuffers() {
	d.setFar(gone)
	for i := range 10 {
		d.client(fmt.Sprint("session", i), false, d.dice)
	}
	for _, log := range []string{"telemetry", "critical", "sessions"} {
		eventually(d.t, log+" has a file", func() bool {
			files, _ := filepath.Glob(filepath.Join(d.state, "spool", log, "*.seg"))
			return len(files) > 0
		})
	}
	d.setFar(well)
}

// mountDisk makes the state folder a small file system, so that it can be full.
func (d *badDay) mountDisk() {
	if err := unix.Mount("gateway-test", d.state, "tmpfs", 0, "size=160m"); err != nil {
		d.t.Logf("the disk is never full in this run, which takes root: %v", err)
		return
	}
	d.disk = d.state
	d.t.Cleanup(func() { unix.Unmount(d.disk, unix.MNT_DETACH) })
}

// startPlant simulates all devices there ever are, with values that prove
// themselves.
func (d *badDay) startPlant() {
	cfg, report := config.Load(d.config, config.Options{})
	if cfg == nil {
		d.t.Fatal(report.Err())
	}
	plan, err := simulatorConfig(cfg, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	plan.Check, plan.History, plan.Log = true, 1<<16, slog.New(slog.DiscardHandler)
	d.sim = runPlant(d.t, plan)
	d.book = &ledger{sim: d.sim, points: map[string]*mapping.Point{}}
	for _, dev := range cfg.Devices {
		for _, p := range dev.Points {
			d.book.points["plant/"+dev.Name+"/"+p.Name] = p
		}
	}
}

// listen has all published values looked up.
func (d *badDay) listen() {
	conn, err := net.Dial("tcp", "127.0.0.1:"+d.broker)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	client := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
		if len(r.Packet.Payload) == 0 { // it is published no more
			return true, nil
		}
		return d.book.take(r)
	}}})
	if _, err := client.Connect(d.t.Context(), &paho.Connect{ClientID: "checker", CleanStart: true, KeepAlive: 30}); err != nil {
		d.t.Fatal(err)
	}
	if _, err := client.Subscribe(d.t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "plant/+/+", QoS: 1}}}); err != nil {
		d.t.Fatal(err)
	}
}

// write puts a configuration into its place in one step.
func (d *badDay) write(text string) {
	draft := filepath.Join(d.config, "draft")
	if err := errors.Join(os.WriteFile(draft, []byte(text), 0o644), os.Rename(draft, filepath.Join(d.config, "gateway.toml"))); err != nil {
		d.t.Error(err)
	}
}

// dawdle waits up to some time; nothing depends on how long.
func dawdle(dice *rand.Rand, most time.Duration) {
	<-time.After(time.Duration(dice.Int64N(int64(most))))
}

// storm has so many events happen, many of them while others do.
func (d *badDay) storm(n int) {
	var bag []int
	for i, e := range d.events {
		for range e.weight {
			bag = append(bag, i)
		}
	}
	room := make(chan struct{}, 6)
	for range n {
		e := d.events[bag[d.dice.IntN(len(bag))]]
		d.happened[e.name]++
		dice := rand.New(rand.NewPCG(d.dice.Uint64(), 0))
		room <- struct{}{}
		d.underWay.Go(func() {
			e.happen(dice)
			<-room
		})
		if d.dice.IntN(3) > 0 {
			dawdle(d.dice, 5*time.Millisecond)
		}
		select {
		case <-d.done:
			d.t.Fatal("the gateway ended")
		default:
		}
	}
	d.underWay.Wait()
}

// kinds are all that can happen.
func (d *badDay) kinds() []event {
	all := []event{
		{"reload", 6, func(dice *rand.Rand) { d.reload(anyVariant(dice)) }},
		{"reload by signal", 3, func(dice *rand.Rand) {
			d.configure.Lock()
			d.write(d.text(anyVariant(dice)))
			d.configure.Unlock()
			d.cmd.Process.Signal(syscall.SIGHUP)
		}},
		{"many signals", 1, func(dice *rand.Rand) {
			for range 20 {
				d.cmd.Process.Signal(syscall.SIGHUP)
			}
		}},
		{"wrong reload", 3, d.wrongReload},
		{"log level", 1, func(dice *rand.Rand) {
			d.ask("/log", logRequest{Levels: "info,modbus=warn", For: time.Duration(1+dice.IntN(2)) * time.Second}, nil)
		}},
		{"unplug", 6, func(dice *rand.Rand) {
			bus := []string{"plc", "rs485", "mast", "crane"}[dice.IntN(4)]
			d.sim.Unplug(bus)
			dawdle(dice, 20*time.Millisecond)
			d.sim.Replug(bus)
		}},
		{"device in trouble", 3, d.trouble},
		{"outage", 5, func(dice *rand.Rand) {
			d.upstream.Lock()
			defer d.upstream.Unlock()
			d.setFar(mood(dice.IntN(int(numMoods))))
			dawdle(dice, 50*time.Millisecond)
			d.setFar(well)
		}},
		{"clients", 4, d.clients},
		{"sessions", 3, func(dice *rand.Rand) {
			d.client(fmt.Sprint("session", dice.IntN(10)), false, dice)
		}},
		{"step of the clock", 3, func(dice *rand.Rand) {
			d.clock.Lock()
			defer d.clock.Unlock()
			steps := []time.Duration{time.Second, time.Hour, 120 * 24 * time.Hour, -time.Minute, -24 * time.Hour, 0}
			d.now.Step, d.now.Unsynced = steps[dice.IntN(len(steps))], dice.IntN(3) == 0
			d.door.ask(d.now)
		}},
		{"looker", 8, d.looker},
		{"web", 4, func(dice *rand.Rand) {
			path := []string{"/metrics", "/status", "/livez", "/readyz"}[dice.IntN(4)]
			d.cut("tcp", "127.0.0.1:"+d.web, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n", dice)
		}},
		{"pause and mute", 2, d.pauseAndMute},
		{"write", 2, func(dice *rand.Rand) {
			d.ask("/write", writeRequest{Target: "pump.set", Value: fmt.Sprint(dice.IntN(1000))}, nil)
		}},
	}
	if d.disk != "" {
		all = append(all, event{"full disk", 3, func(dice *rand.Rand) {
			d.filling.Lock()
			defer d.filling.Unlock()
			balloon := filepath.Join(d.disk, "balloon")
			fill(balloon)
			dawdle(dice, 30*time.Millisecond)
			os.Remove(balloon)
		}})
	}
	if long() {
		all = append(all, event{"command", 1, d.runCommand})
	}
	return all
}

// ask asks the gateway over its control socket; it may refuse.
func (d *badDay) ask(path string, body, result any) error {
	if result == nil {
		result = new(json.RawMessage)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := ask(ctx, controlPath(d.state), path, body, result)
	if errors.Is(err, context.DeadlineExceeded) {
		d.t.Errorf("%s: no answer within a minute", path)
	}
	return err
}

func (d *badDay) reload(v variant) {
	d.configure.Lock()
	defer d.configure.Unlock()
	d.write(d.text(v))
	var status *ReloadStatus
	if err := d.ask("/reload", struct{}{}, &status); err != nil || !status.OK {
		d.t.Errorf("reload of a good configuration: %+v, %v", status, err)
	}
}

// wrongReload asks for what must be refused, and leaves a good configuration.
func (d *badDay) wrongReload(dice *rand.Rand) {
	d.configure.Lock()
	defer d.configure.Unlock()
	good := d.text(anyVariant(dice))
	bad := []string{good + "[bus.plc", good + "[bus.x]\nadress = \"tcp://127.0.0.1\"\n", strings.Replace(good, `"plant"`, `"palnt"`, 1), ""}
	d.write(bad[dice.IntN(len(bad))])
	var status *ReloadStatus
	if err := d.ask("/reload", struct{}{}, &status); err != nil || status.OK {
		d.t.Errorf("reload of a wrong configuration: %+v, %v", status, err)
	}
	d.write(good)
}

// trouble has the devices of a bus misbehave. They answer in the order in which
// they were asked all the same, as devices do: who was late says nothing until all
// of that is out.
func (d *badDay) trouble(dice *rand.Rand) {
	bus := []string{"plc", "rs485", "crane"}[dice.IntN(3)]
	const late = 100 * time.Millisecond
	f := []simulator.Fault{{Silent: true}, {Latency: late}, {Exception: 6}, {Noise: 5}, {Drop: 2}}[dice.IntN(5)]
	d.troubled.Lock()
	defer d.troubled.Unlock()
	d.sim.SetFault(bus, 0, f)
	dawdle(dice, 60*time.Millisecond)
	if f.Latency > 0 {
		d.sim.SetFault(bus, 0, simulator.Fault{Silent: true})
		<-time.After(2 * late)
	}
	d.sim.SetFault(bus, 0, simulator.Fault{})
}

func (d *badDay) setFar(m mood) {
	for d.far.set(m) != nil { // somebody has its port for a moment
		<-time.After(time.Millisecond)
	}
}

// clients come by the dozen and are cut off at any moment.
func (d *badDay) clients(dice *rand.Rand) {
	var all sync.WaitGroup
	for i := range 12 {
		own := rand.New(rand.NewPCG(dice.Uint64(), 0))
		all.Go(func() { d.client(fmt.Sprint("client", own.IntN(1000), i), true, own) })
	}
	all.Wait()
}

// client connects, subscribes, publishes, and is gone.
func (d *badDay) client(id string, clean bool, dice *rand.Rand) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+d.broker)
	if err != nil {
		d.t.Errorf("the local broker: %v", err)
		return
	}
	defer reset(conn)
	if dice.IntN(4) == 0 {
		conn.Write([]byte{0x10, 200, 0, 4}) // the beginning of a packet
		return
	}
	login := packets.NewControlPacket(packets.CONNECT)
	c := login.Content.(*packets.Connect)
	c.ClientID, c.CleanStart, c.KeepAlive = id, clean, 30
	if !clean {
		expiry := uint32(3600)
		c.Properties.SessionExpiryInterval = &expiry
	}
	login.WriteTo(conn)
	subscribe := packets.NewControlPacket(packets.SUBSCRIBE)
	s := subscribe.Content.(*packets.Subscribe)
	s.PacketID, s.Subscriptions = 1, []packets.SubOptions{{Topic: "site/#", QoS: 1}, {Topic: "plant/#", QoS: 0}}
	subscribe.WriteTo(conn)
	for i := range 3 {
		p := packets.Publish{Topic: fmt.Sprint("site/client/", i), Payload: []byte("x"), QoS: byte(i % 2), PacketID: uint16(2 + i), Properties: &packets.Properties{}}
		p.WriteTo(conn)
	}
	conn.SetReadDeadline(time.Now().Add(time.Duration(dice.IntN(20)) * time.Millisecond))
	io.Copy(io.Discard, conn)
}

// looker asks something of the control socket and goes away in the middle.
func (d *badDay) looker(dice *rand.Rand) {
	post := func(path string, body any) string {
		text, _ := json.Marshal(body)
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n%s", path, len(text), text)
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: gateway\r\n\r\n" }
	bus := []string{"plc", "rs485", "mast", "crane"}[dice.IntN(4)]
	all := []string{
		get("/status"), get("/audit"), get("/buffer"), get("/buffer/messages?consumer=cloud&limit=100000"), get("/buffer/verify"),
		post("/capture", captureRequest{Bus: bus, For: time.Hour, MiB: 10}), post("/capture", captureRequest{Bus: bus, For: time.Hour, MiB: 10}),
		post("/lend", lendRequest{Bus: bus, For: "gateway scan"}), post("/lend", lendRequest{Bus: bus, For: "gateway scan"}),
		post("/pause", pauseRequest{Bus: bus, For: time.Minute}),
		post("/read", readRequest{Target: "meter"}), post("/read", readRequest{Target: "pump.a"}),
		post("/write", writeRequest{Target: "pump.set", Value: "7"}),
	}
	d.cut("unix", controlPath(d.state), all[dice.IntN(len(all))], dice)
}

// cut sends a request, or a part of it, takes a part of the answer, and goes.
func (d *badDay) cut(network, address, request string, dice *rand.Rand) {
	conn, err := net.Dial(network, address)
	if err != nil {
		d.t.Errorf("%s: %v", address, err)
		return
	}
	defer conn.Close()
	if dice.IntN(8) == 0 {
		request = request[:dice.IntN(len(request))]
	}
	io.WriteString(conn, request)
	conn.SetReadDeadline(time.Now().Add(time.Duration(dice.IntN(30)) * time.Millisecond))
	io.CopyN(io.Discard, conn, int64(dice.IntN(20000)))
}

// pauseAndMute does both and takes both back.
func (d *badDay) pauseAndMute(dice *rand.Rand) {
	bus := []string{"plc", "rs485", "mast", "crane"}[dice.IntN(4)]
	device := []string{"meter", "lift", "pump", "wind"}[dice.IntN(4)]
	d.ask("/pause", pauseRequest{Bus: bus, For: time.Hour, Note: "meter's own tool"}, nil)
	d.ask("/mute", muteRequest{Device: device, For: time.Hour}, nil)
	dawdle(dice, 10*time.Millisecond)
	d.endPauseAndMute(bus, device)
}

func (d *badDay) endPauseAndMute(bus, device string) {
	d.ask("/pause", pauseRequest{Bus: bus, End: true}, nil)
	d.ask("/mute", muteRequest{Device: device, End: true}, nil)
}

// runCommand runs what people run, and often ends it before it has.
func (d *badDay) runCommand(dice *rand.Rand) {
	dump := filepath.Join(d.config, fmt.Sprint("dump", dice.Uint64(), ".tar.gz"))
	defer os.Remove(dump)
	all := [][]string{{"status"}, {"doctor"}, {"dump", dump}, {"monitor", "--json"}, {"buffer", "ls"}, {"capture", "plc", "--output", "-"}, {"buffer", "export", "cloud"}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(dice.IntN(1500))*time.Millisecond)
	defer cancel()
	args := all[dice.IntN(len(all))]
	exec.CommandContext(ctx, binary, d.args(args[0], args[1:]...)...).Run() // whatever comes of it
}

// fill writes a file until there is no room, to the last byte.
func fill(path string) {
	f, err := os.Create(path)
	if err != nil {
		return // it is full
	}
	defer f.Close()
	var size int64
	for step := int64(64 << 20); step >= 4096; {
		if unix.Fallocate(int(f.Fd()), 0, size, step) == nil {
			size += step
		} else {
			step /= 2
		}
	}
}

// calm ends all trouble, waits until the gateway does all that it should, and
// counts what it holds.
func (d *badDay) calm() *census {
	d.t.Helper()
	d.underWay.Wait()
	d.setFar(well)
	d.clock.Lock()
	d.now = knock{}
	d.door.ask(d.now)
	d.clock.Unlock()
	for bus, device := range map[string]string{"plc": "meter", "rs485": "lift", "mast": "pump", "crane": "wind"} {
		d.endPauseAndMute(bus, device)
	}
	if !long() { // what begins anew has no back-off that would be waited for
		d.reload(other)
	}
	d.reload(usual)
	d.book.mu.Lock()
	d.book.latest = nil
	d.book.mu.Unlock()
	for _, device := range []string{"meter", "lift", "pump", "fan", "wind", "crane"} {
		eventually(d.t, device+" is read", func() bool { return d.book.has("plant/" + device + "/") })
	}
	published := d.pub.count()
	eventually(d.t, "what was published has arrived", func() bool { return d.far.arrived() >= published })
	eventually(d.t, "all buffers can be written", func() bool {
		text, _ := d.get("/metrics")
		return len(healthySpool.FindAllString(text, -1)) == 3
	})
	for _, path := range []string{"/livez", "/readyz"} {
		eventually(d.t, path+" says ok", func() bool { text, code := d.get(path); return code == http.StatusOK && text == "ok\n" })
	}
	return d.settle()
}

var healthySpool = regexp.MustCompile(`(?m)^gateway_spool_degraded\{log="[a-z]+"\} 0$`)

// settle counts until what is on its way out has gone: until the count is no more
// than the first one was; that one counts when it has been the same for a while.
// What never goes is returned as the least that there was of it.
func (d *badDay) settle() (c *census) {
	const same = 5
	limit := time.After(settling)
	for last, n := d.count(), 0; ; last = c {
		c = d.count()
		more := c.beyond(last)
		if d.first != nil {
			c.least(last)
			more = c.beyond(d.first)
		}
		if n++; len(more) > 0 {
			n = 0
		}
		if n == same || d.first != nil && n > 0 {
			return c
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-limit:
			return c
		}
	}
}

// settling is more than anything may take that ends by itself after the trouble:
// a dial of 10 s, an answer that nobody takes.
const settling = 45 * time.Second

func (d *badDay) get(path string) (string, int) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := client.Get("http://127.0.0.1:" + d.web + path)
	if err != nil {
		return err.Error(), 0
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text), resp.StatusCode
}

func (d *badDay) count() *census {
	d.clock.Lock()
	defer d.clock.Unlock()
	k := d.now
	k.Census = true
	c := d.door.ask(k)
	c.countFiles(d.cmd.Process.Pid)
	c.at = time.Now()
	return c
}

// beyond lists of what there is more than there was: goroutines and open files.
func (c *census) beyond(was *census) map[string]int {
	more := make(map[string]int)
	for kind, counts := range map[string][2]map[string]int{"goroutine ": {c.Goroutines, was.Goroutines}, "open file ": {c.files, was.files}} {
		for what, n := range counts[0] {
			if n > counts[1][what] {
				more[kind+what] = n - counts[1][what]
			}
		}
	}
	return more
}

// least lowers the counts of c to those of another count.
func (c *census) least(other *census) {
	for _, counts := range [][2]map[string]int{{c.Goroutines, other.Goroutines}, {c.files, other.files}} {
		for what, n := range counts[0] {
			counts[0][what] = min(n, counts[1][what])
		}
	}
}

// Each event may leave behind so much: far less than the least that can leak, a
// goroutine (2 KiB), a message or a configuration. What varies without growing,
// buffers and maps that have their size, is of another order than thousands of
// events.
const (
	heapPerEvent = 80        // bytes
	heapVaries   = 256 << 10 // bytes
	rssVaries    = 32 << 20
)

func (d *badDay) checkGrowth(was, is *census, events int) {
	d.t.Helper()
	grown := is.Heap - was.Heap
	if bound := int64(heapVaries + heapPerEvent*events); grown > bound {
		d.t.Errorf("the heap grew by %d bytes in %d events, the bound is %d; the most by", grown, events, bound)
	} else if !testing.Verbose() {
		return
	}
	more := make(map[string]int64)
	for who, n := range is.Memory {
		more[who] = n - was.Memory[who]
	}
	whos := slices.SortedFunc(maps.Keys(more), func(a, b string) int { return int(more[b] - more[a]) })
	for _, who := range whos[:min(8, len(whos))] {
		d.t.Logf("about %d bytes more: %s", more[who], who)
	}
	if grown := is.rss - was.rss; grown > rssVaries+int64(heapPerEvent*events) {
		d.t.Errorf("%d bytes more are resident after %d events", grown, events)
	}
}

// checkDelivery sees that all that was acknowledged has arrived, in order, and
// that no published value was wrong.
func (d *badDay) checkDelivery() {
	d.t.Helper()
	acked := len(d.pub.stop())
	eventually(d.t, "the last message has arrived", func() bool { return d.far.arrived() >= acked })
	d.far.mu.Lock()
	defer d.far.mu.Unlock()
	if len(d.far.wrong) > 0 {
		d.t.Errorf("%d times a message was missing: %s", len(d.far.wrong), d.far.wrong[0])
	}
	for _, gap := range d.far.gaps {
		if gap.Bridge == "cloud" {
			d.t.Errorf("a gap: %+v", gap)
		}
	}
	d.book.mu.Lock()
	defer d.book.mu.Unlock()
	if len(d.book.wrong) > 0 {
		d.t.Errorf("%d wrong values", len(d.book.wrong))
		for _, wrong := range d.book.wrong[:min(10, len(d.book.wrong))] {
			d.t.Logf("%s; held by %q", wrong, d.holders(wrong))
		}
	}
	d.t.Logf("%d messages acknowledged to the local publisher, all arrived in order, %d of them more than once; %d values right, none wrong, %d readings without a value",
		acked, d.far.again, d.book.good, d.book.bad)
}

// holders are the points that held what was published wrongly.
func (d *badDay) holders(wrong string) (topics []string) {
	_, payload, _ := strings.Cut(wrong, " ")
	var msg struct{ Value json.RawMessage }
	if err := json.Unmarshal([]byte(payload), &msg); err != nil {
		return nil
	}
	for topic, p := range d.book.points {
		parts := strings.Split(topic, "/")
		if v, err := mapping.ParseValue(p, msg.Value); err == nil {
			if raw, err := mapping.Encode(nil, p, v); err == nil && d.sim.Holds(parts[1], parts[2], raw) {
				topics = append(topics, topic)
			}
		}
	}
	return topics
}

// listFiles lists what lies in the folders that the gateway writes to.
func (d *badDay) listFiles() map[string]bool {
	all := make(map[string]bool)
	for _, dir := range []string{d.state, filepath.Join(d.config, "run")} {
		filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				all[path] = true
			}
			return nil
		})
	}
	return all
}

// checkFiles sees that nothing is left lying about, such as the draft of a file
// for which there was no room. was is what lay there in the middle.
func (d *badDay) checkFiles(was map[string]bool) {
	d.t.Helper()
	is := d.listFiles()
	for path := range is {
		if strings.HasSuffix(path, ".new") || strings.HasSuffix(path, ".tmp") {
			d.t.Errorf("%s is left", path)
		}
	}
	if len(is) > len(was)+kept {
		d.t.Errorf("there are %d files, in the middle there were %d: %q", len(is), len(was), slices.Sorted(maps.Keys(is)))
	}
}

// kept is how many more files there may be because something happened for the
// first time: a buffer needs another segment, something is muted.
const kept = 8

// checkLog sees that each place said no more than it may.
func (d *badDay) checkLog() {
	lines := strings.Split(d.out.String(), "\n")
	said := make(map[string]int)
	for _, line := range lines {
		_, text, _ := strings.Cut(line, " msg=")
		if quoted, _, ok := strings.Cut(strings.TrimPrefix(text, "\""), "\""); ok && strings.HasPrefix(text, "\"") {
			text = quoted
		} else {
			text, _, _ = strings.Cut(text, " ")
		}
		said[text]++
	}
	bound := logBurst + int(time.Since(d.began)/logEvery) + 1
	for text, n := range said {
		if n > bound {
			d.t.Errorf("the log says %d times %q, at most %d are expected", n, text, bound)
		}
	}
	d.t.Logf("%d lines were logged", len(lines))
}

func (d *badDay) report(counts []*census) {
	for i, c := range counts {
		goroutines, files := 0, 0
		for _, n := range c.Goroutines {
			goroutines += n
		}
		for _, n := range c.files {
			files += n
		}
		d.t.Logf("calm %d at %v: %d goroutines, %d open files, %d KiB of heap, %d KiB resident", i, c.at.Sub(d.began).Round(time.Second/10), goroutines, files, c.Heap>>10, c.rss>>10)
	}
	d.t.Logf("in %v: %v", time.Since(d.began).Round(time.Second), d.happened)
}
