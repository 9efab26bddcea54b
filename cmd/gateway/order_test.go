package main

import (
	"context"
	be "encoding/binary" // binary is the one that is tested
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
)

// A bookkeeper is a device that notes each value that is written to it.
type bookkeeper struct {
	delay time.Duration

	mu     sync.Mutex
	held   map[uint16]uint16
	writes map[uint16]int // by value
}

func (k *bookkeeper) Read(dst []byte, _ byte, _ modbus.Table, address, count uint16) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range count {
		dst = be.BigEndian.AppendUint16(dst, k.held[address+i])
	}
	return dst, nil
}

func (k *bookkeeper) Write(_ byte, _ modbus.Table, address, count uint16, raw []byte) error {
	time.Sleep(k.delay)
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range count {
		v := be.BigEndian.Uint16(raw[2*i:])
		k.held[address+i] = v
		k.writes[v]++
	}
	return nil
}

// serve serves k and returns where.
func (k *bookkeeper) serve(t *testing.T) string {
	t.Helper()
	k.held, k.writes = map[uint16]uint16{}, map[uint16]int{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- modbus.ServeTCP(ctx, ln, k) }()
	t.Cleanup(func() { stop(); <-ended })
	return ln.Addr().String()
}

// A panel is a client that commands, and collects the answers by id.
type panel struct {
	t    *testing.T
	addr string

	mu      sync.Mutex
	client  *paho.Client
	answers map[string][]string // final ones, by id: the status, with ! when it is marked as a repetition
}

func newPanel(t *testing.T, port string) *panel {
	return &panel{t: t, addr: "127.0.0.1:" + port, answers: map[string][]string{}}
}

func (p *panel) take(r paho.PublishReceived) (bool, error) {
	var a struct {
		ID, Status string
		Repeated   bool
	}
	if json.Unmarshal(r.Packet.Payload, &a) != nil || a.ID == "" || a.Status == "accepted" {
		return true, nil
	}
	if a.Repeated {
		a.Status += "!"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[a.ID] = append(p.answers[a.ID], a.Status)
	return true, nil
}

// connect tries until the gateway is there.
func (p *panel) connect() *paho.Client {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			continue
		}
		client := paho.NewClient(paho.ClientConfig{Conn: conn, PacketTimeout: 10 * time.Second, OnPublishReceived: []func(paho.PublishReceived) (bool, error){p.take}})
		if _, err := client.Connect(p.t.Context(), &paho.Connect{ClientID: "panel", CleanStart: true, KeepAlive: 30}); err != nil {
			conn.Close()
			continue
		}
		if _, err := client.Subscribe(p.t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{
			{Topic: "plant/+/+/set/result", QoS: 1}, {Topic: "plant/+/_set/result", QoS: 1},
		}}); err != nil {
			conn.Close()
			continue
		}
		return client
	}
	p.t.Error("the panel cannot connect")
	return nil
}

// send publishes until it is acknowledged, over as many connections as that
// takes.
func (p *panel) send(topic, payload string) {
	for p.t.Context().Err() == nil {
		if p.client == nil {
			if p.client = p.connect(); p.client == nil {
				return
			}
		}
		ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
		gone := p.client.Done()
		go func() {
			select {
			case <-gone:
				cancel()
			case <-ctx.Done():
			}
		}()
		r, err := p.client.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: []byte(payload)})
		cancel()
		if err == nil || r != nil && r.ReasonCode >= 0x80 { // or it may not be published there
			return
		}
		p.client = nil
	}
}

func (p *panel) answered(id string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.answers[id])
}

// TestKilledGatewayNeverRepeatsAWrite kills the gateway at random moments while
// commands are under way. No value is written twice, and each command has one
// answer, which tells the truth.
func TestKilledGatewayNeverRepeatsAWrite(t *testing.T) {
	t.Parallel()
	kills := 5
	if long() {
		kills = 50
	}
	k := &bookkeeper{delay: 3 * time.Millisecond}
	s := newSite(t, "", map[string]string{"plc": fmt.Sprintf(`
[device.plc]
bus = "tcp://%s"
unit_id = 1
every = "100ms"
[device.plc.points]
a = { holding = 0, write = true }
b = { holding = 1, write = { coalesce = false } }
c = { holding = 2, write = { verify = false } }
`, k.serve(t))})
	s.run()
	p := newPanel(t, s.broker)
	p.send("plant/plc/a/set", `{"value":1,"id":"1"}`)

	const seed = 3
	dice := rand.New(rand.NewPCG(seed, 0))
	stop := make(chan struct{})
	sent, asked, checked := 1, 0, 1
	command := func(n int) {
		p.send(fmt.Sprintf("plant/plc/%c/set", 'a'+n%3), fmt.Sprintf(`{"value":%d,"id":"%d"}`, n, n))
	}
	askAgain := func(until int) { // for answers that went to a connection that was gone
		for ; checked <= until; checked++ {
			id := fmt.Sprint(checked)
			for range 500 {
				if len(p.answered(id)) > 0 {
					break
				}
				command(checked)
				asked++
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	var sending sync.WaitGroup
	sending.Go(func() { // values and ids are the same numbers, each used once
		for n := 2; n < 60000; n++ {
			select {
			case <-stop:
				return
			default:
			}
			command(n)
			sent = n
			if n%200 == 0 { // while their ids are remembered
				askAgain(n)
			}
		}
	})
	for range kills {
		time.Sleep(time.Duration(50+dice.IntN(300)) * time.Millisecond)
		s.kill()
		s.run()
	}
	time.Sleep(100 * time.Millisecond)
	close(stop)
	sending.Wait()

	askAgain(sent)
	counts := map[string]int{"asked again": asked}
	k.mu.Lock()
	defer k.mu.Unlock()
	for n := 1; n <= sent; n++ {
		all := p.answered(fmt.Sprint(n))
		if len(all) == 0 {
			t.Errorf("command %d was never answered", n)
			continue
		}
		one := strings.TrimSuffix(all[0], "!")
		for _, a := range all[1:] {
			if strings.TrimSuffix(a, "!") != one {
				t.Errorf("command %d was answered with %q", n, all)
			}
		}
		counts[one]++
		writes := k.writes[uint16(n)]
		switch {
		case writes > 1:
			t.Errorf("command %d was carried out %d times; answers %q", n, writes, all)
		case one == "verified" && writes != 1, one == "written" && writes != 1, one == "rejected" && writes != 0, one == "expired" && writes != 0:
			t.Errorf("command %d is %s and was carried out %d times", n, one, writes)
		}
	}
	if counts["unknown"] == 0 {
		t.Error("no kill hit a command: the test does not reach what it is for")
	}
	t.Logf("%d kills, %d commands: %v", kills, sent, counts)
}

// TestNothingIsWrittenThatIsNotAllowed sends what a client can think of, and
// counts the writes of the simulated device: those that are allowed, and no
// other.
func TestNothingIsWrittenThatIsNotAllowed(t *testing.T) {
	t.Parallel()
	address := "127.0.0.1:" + freePort(t)
	s := newSite(t, "", map[string]string{"plc": fmt.Sprintf(`
[device.plc]
bus = "tcp://%s"
unit_id = 1
[device.plc.points]
temp  = { holding = 0, type = "i16", scale = 0.1, write = { min = 10, max = 50, step = 0.5, coalesce = false } }
mode  = { holding = 1, enum = { 0 = "off", 1 = "auto" }, write = { coalesce = false } }
pump  = { coil = 0, write = { coalesce = false } }
gain  = { holding = 2, type = "f32", write = { max = 9, coalesce = false } }
level = { holding = 4 }
door  = { discrete = 0 }
flow  = { input = 0 }
`, address)})
	cfg, report := config.Load(s.config, config.Options{})
	if cfg == nil {
		t.Fatal(report.Err())
	}
	plan, err := simulatorConfig(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	plan.Log = slog.New(slog.DiscardHandler)
	sim := runPlant(t, plan)
	s.run()
	p := newPanel(t, s.broker)

	good := map[string][]string{"temp": {"10", "49.5", "5e1", "10.500000000000001"}, "mode": {`"off"`, `"auto"`, "1"}, "pump": {"true", `"off"`, "1"}, "gain": {"-1e3", "9", "0.1"}}
	bad := map[string][]string{
		"temp": {"9.5", "50.5", "10.2", "NaN", "1e9", `"10"`, "", "null", "[10]", "{}", "-", "10 50", "0x10"},
		"mode": {"2", `"manual"`, `"Auto"`, "-1", "true", "0.5"}, "pump": {"2", `"onn"`, `{"on":true}`, "-1"}, "gain": {"9.0001", "1e39", "Inf", "-Infinity", "nan"},
		"level": {"1"}, "door": {"1"}, "flow": {"1"}, "none": {"1"}, "_set": {"1"}, "": {"1"},
	}
	right := []string{"%s", " %s\n", `{"value":%s}`, `{"value":%s,"id":"#"}`}
	wrong := []string{
		`{"value":%s,"value":%[1]s}`, `{"valu":%s}`, `{"value":%s,"force":true}`, `{"value":%s`, `{"value":%s,"expires":1}`,
		`{"value":%s,"expires":"yesterday"}`, `{"value":%s,"id":""}`, `[%s]`, "%s;", `{"value":{"value":%s}}`, `{"%s":1}`,
	}
	nowhere := []string{"plant/plc/%s", "plant/plc/%s/set/result", "plant/plx/%s/set", "plant/plc/%s/get", "other/plc/%s/set", "plant/plc/_set/%s", "plant/plc/%s/set/set"}
	const seed = 5
	dice := rand.New(rand.NewPCG(seed, 0))
	pick := func(list []string) string { return list[dice.IntN(len(list))] }
	rounds, allowed, refused := 40, 0, 0
	if long() {
		rounds = 1000
	}
	for round := range rounds {
		for i := range 10 {
			values, frames, topics := good, right, []string{"plant/plc/%s/set"}
			kind := dice.IntN(5)
			switch kind { // one thing is wrong
			case 0:
				values = bad
			case 1:
				frames = wrong
			case 2:
				topics = nowhere
			}
			point := pick(slices.Sorted(maps.Keys(values)))
			text := fmt.Sprintf(pick(frames), pick(values[point]))
			p.send(fmt.Sprintf(pick(topics), point), strings.ReplaceAll(text, "#", fmt.Sprintf("%d-%d", round, i)))
			if kind > 2 {
				allowed++
			} else {
				refused++
			}
		}
		marker := fmt.Sprintf("marker-%d", round)
		p.send("plant/plc/_set", fmt.Sprintf(`{"pump":true,"gain":1,"id":%q}`, marker))
		allowed += 2
		eventually(t, marker, func() bool { return len(p.answered(marker)) > 0 })
		if got := p.answered(marker); got[0] != "verified" {
			t.Fatalf("%s: %q", marker, got)
		}
		if got := sim.Counters()[0].Writes; got != uint64(allowed) {
			t.Fatalf("seed %d, round %d: %d writes, %d are allowed\n%s", seed, round, got, allowed, s.out)
		}
	}
	t.Logf("%d allowed and written, %d not allowed and not written", allowed, refused)
}

// TestAnswersGoWhereTheyAreAwaited asks with a program that was not written
// here.
func TestAnswersGoWhereTheyAreAwaited(t *testing.T) {
	k := new(bookkeeper)
	s := newSite(t, "", map[string]string{"plc": fmt.Sprintf("[device.plc]\nbus = \"tcp://%s\"\nunit_id = 1\n[device.plc.points]\na = { holding = 0, write = true }\n", k.serve(t))})
	s.run()
	out, err := exec.Command("mosquitto_rr", "-V", "5", "-p", s.broker, "-t", "plant/plc/a/set", "-e", "panel/answers", "-m", "7", "-W", "20", "-D", "publish", "correlation-data", "job-1", "-F", "%t %D %p").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "panel/answers job-1 {\"status\":\"verified\"") {
		t.Errorf("mosquitto_rr: %v: %s", err, out)
	}
}

// BenchmarkCommandOnABusyLine writes over MQTT while an RTU line at 9600 baud
// has more to read than it can, and compares the time from publish to the
// verified answer with that of the requests: one write, and one poll that may
// have just begun. The answer also takes the request that reads back.
func BenchmarkCommandOnABusyLine(b *testing.B) {
	dir, state := b.TempDir(), b.TempDir()
	addrs, err := freeAddresses(1)
	if err != nil {
		b.Fatal(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "name = \"plant\"\n[broker]\nlisten = [\"tcp://%s\"]\n[bus.rs485]\naddress = %q\nbaud = 9600\n", addrs[0], filepath.Join(dir, "tty"))
	for unit := 1; unit <= 4; unit++ {
		fmt.Fprintf(&text, "[device.m%d]\nbus = \"rs485\"\nunit_id = %d\nevery = \"100ms\"\n[device.m%[1]d.points]\nsetpoint = { holding = 0, write = true }\n", unit, unit)
		for r := 1; r < 20; r++ {
			fmt.Fprintf(&text, "r%d = { holding = %d }\n", r, r)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "gateway.toml"), []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	cfg, report := config.Load(dir, config.Options{})
	if cfg == nil {
		b.Fatal(report.Err())
	}
	plan, err := simulatorConfig(cfg, nil)
	if err != nil {
		b.Fatal(err)
	}
	sim, err := simulator.New(plan)
	if err != nil {
		b.Fatal(err)
	}
	g, err := newGateway(cfg, places{state: state, runtime: state}, false, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	answers := make(chan time.Time, 1)
	if err := g.broker.Handle("plant/+/+/set/result", func(m *broker.Message) {
		if strings.Contains(string(m.Payload), `"accepted"`) {
			return
		}
		if !strings.Contains(string(m.Payload), `"verified"`) {
			b.Errorf("%s", m.Payload)
		}
		select {
		case answers <- time.Now():
		default: // nobody asked
		}
	}); err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- sim.Run(ctx) }()
	<-sim.Ready()
	up := make(chan struct{})
	go func() { ended <- g.run(ctx, func() { close(up) }) }()
	<-up
	conn, err := net.Dial("tcp", addrs[0])
	if err != nil {
		b.Fatal(err)
	}
	client := paho.NewClient(paho.ClientConfig{Conn: conn})
	if _, err := client.Connect(ctx, &paho.Connect{ClientID: "panel", CleanStart: true, KeepAlive: 30}); err != nil {
		b.Fatal(err)
	}

	// What the requests take by themselves, as plans count it.
	line, err := modbus.NewLine(cfg.Buses[0].Modbus)
	if err != nil {
		b.Fatal(err)
	}
	dev := cfg.Devices[0]
	polls, err := line.Plan(dev.Device, dev.Device.Points)
	if err != nil {
		b.Fatal(err)
	}
	write, err := line.Write(dev.Device, dev.Points[0].Point, []byte{0, 1}, false)
	if err != nil {
		b.Fatal(err)
	}
	cost := func(q devices.Query) time.Duration { return q.(interface{ Cost() time.Duration }).Cost() }
	bound := 2 * (cost(write) + cost(polls[0]))

	once := func(i int) time.Duration {
		time.Sleep(time.Duration(i*37%100) * time.Millisecond) // anywhere in a poll
		began := time.Now()
		if _, err := client.Publish(ctx, &paho.Publish{Topic: fmt.Sprintf("plant/m%d/setpoint/set", 1+i%4), QoS: 1, Payload: fmt.Append(nil, i%1000)}); err != nil {
			b.Fatal(err)
		}
		return (<-answers).Sub(began)
	}
	for i := range 12 { // until all devices are known
		once(i)
	}
	var took []time.Duration
	for i := 0; b.Loop() && !b.Failed(); i++ {
		took = append(took, once(i))
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	b.ReportMetric(float64(p99)/float64(bound), "p99/bound")
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-median")
	b.ReportMetric(float64(p99.Milliseconds()), "ms-p99")
	b.ReportMetric(float64(bound.Milliseconds()), "ms-bound")
	b.ReportMetric(100*g.works.Load().buses[0].poller.Stats().Busy, "%busy")
	conn.Close()
	stop()
	for range 2 {
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
	if err := g.close(); err != nil {
		b.Error(err)
	}
}
