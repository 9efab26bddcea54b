package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"edgegateway/devices/simulator"
)

// What the end-to-end tests run the binary between: programs that were not
// written here. A program that is missing fails them.

var binary string // the gateway, built for these tests

func TestMain(m *testing.M) {
	if door := os.Getenv(doorVariable); door != "" {
		os.Exit(runWithDoor(door))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gateway-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "gateway")
		build := exec.Command("go", "build", "-o", binary, ".")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the gateway:", err)
			return 1
		}
		return m.Run()
	}())
}

// eventually waits until cond holds. Nothing is concluded from how long it
// took; the limit only ends a test that would hang.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still waiting: %s", what)
		}
	}
}

// ports are below those that the kernel gives to connections, so that none is
// taken while the program that listens there is started again.
var ports = struct {
	sync.Mutex
	next int
}{next: 10_000 + os.Getpid()%2000*10}

// freePort returns a port that no test beside this one gets.
func freePort(t *testing.T) string {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range 1000 {
		ports.next = 10_000 + (ports.next+1)%20_000
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", ports.next)); err == nil {
			l.Close()
			return fmt.Sprint(ports.next)
		}
	}
	t.Fatal("no port is free")
	return ""
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A process is a program that a test started and will stop.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *buffer
	done chan struct{}
}

// buffer collects output that is read while it grows.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), out: new(buffer), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v (./test.sh installs what the tests need)", name, err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("output of %s %v:\n%s", filepath.Base(name), args, p.out)
		}
	})
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop ends the process politely and returns its exit code.
func (p *process) stop() int {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		p.t.Fatalf("%v did not end after SIGTERM:\n%s", p.cmd.Args, p.out)
	}
	return p.cmd.ProcessState.ExitCode()
}

// A cloud is Debian's mosquitto, over TLS with client certificates and
// passwords, keeping its state over restarts.
type cloud struct {
	t    *testing.T
	dir  string
	port string
	*process
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{t: t, dir: t.TempDir(), port: freePort(t)}
	if err := writeDemoKeys(c.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "password"), []byte("secret-of-the-gateway"), 0o600); err != nil {
		t.Fatal(err)
	}
	passwords := filepath.Join(c.dir, "passwords")
	writeFile(t, passwords, "gateway:secret-of-the-gateway\nwatcher:secret-of-the-watcher\n")
	if out, err := exec.Command("mosquitto_passwd", "-U", passwords).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
	writeFile(t, filepath.Join(c.dir, "mosquitto.conf"), fmt.Sprintf(`
user root
listener %s 127.0.0.1
cafile %[2]s/credentials/ca.crt
certfile %[2]s/credentials/cloud.crt
keyfile %[2]s/credentials/cloud.key
require_certificate true
allow_anonymous false
password_file %[2]s/passwords
persistence true
persistence_location %[2]s/
max_queued_messages 0
set_tcp_nodelay true
`, c.port, c.dir))
	return c
}

func (c *cloud) start() {
	c.t.Helper()
	c.process = start(c.t, mosquittoPath(), "-c", filepath.Join(c.dir, "mosquitto.conf"))
	eventually(c.t, "mosquitto listens", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+c.port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func mosquittoPath() string {
	if path, err := exec.LookPath("mosquitto"); err == nil {
		return path
	}
	return "/usr/sbin/mosquitto" // not in everybody's PATH
}

func (c *cloud) tls() *tls.Config {
	c.t.Helper()
	at := func(name string) string { return filepath.Join(c.dir, "credentials", name) }
	cert, err := tls.LoadX509KeyPair(at("gateway.crt"), at("gateway.key"))
	if err != nil {
		c.t.Fatal(err)
	}
	ca, err := os.ReadFile(at("ca.crt"))
	if err != nil {
		c.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: "localhost"}
}

// bridge is the [bridge.cloud] table that leads a gateway to c.
func (c *cloud) bridge(rest string) string {
	return fmt.Sprintf(`
[bridge.cloud]
url       = "tls://localhost:%s"
client_id = "{name}"
username  = "gateway"
password  = "${file:%[2]s/password}"
ca        = "${file:%[2]s/credentials/ca.crt}"
cert      = "${file:%[2]s/credentials/gateway.crt}"
key       = "${file:%[2]s/credentials/gateway.key}"
unsynced  = "flag" # nobody sets the clock where tests run
%[3]s
`, c.port, c.dir, rest)
}

// An arrival is one message that the watcher got.
type arrival struct{ topic, payload, id string }

// A watcher is a subscriber with a session of its own, so that it misses
// nothing while the broker is away.
type watcher struct {
	mu  sync.Mutex
	all []arrival
}

func (w *watcher) add(p *paho.Publish) {
	a := arrival{topic: p.Topic, payload: string(p.Payload)}
	if p.Properties != nil {
		a.id = p.Properties.User.Get("mid")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, a)
}

// on returns the payloads of a topic in the order of arrival, repetitions of
// the same id left out.
func (w *watcher) on(topic string) (payloads []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]bool{}
	for _, a := range w.all {
		if a.topic == topic && !seen[a.id] {
			seen[a.id] = a.id != ""
			payloads = append(payloads, a.payload)
		}
	}
	return payloads
}

// watch subscribes to everything at c for as long as the test runs.
func (c *cloud) watch() *watcher {
	w := new(watcher)
	config := c.tls()
	ctx := c.t.Context()
	go func() {
		for ctx.Err() == nil {
			w.session(ctx, "127.0.0.1:"+c.port, config)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return w
}

func (w *watcher) session(ctx context.Context, addr string, config *tls.Config) {
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	w.receive(ctx, conn, &paho.Connect{
		ClientID: "watcher", KeepAlive: 30, Username: "watcher", UsernameFlag: true,
		Password: []byte("secret-of-the-watcher"), PasswordFlag: true,
	})
}

// receive subscribes to everything in a session that lasts, until conn ends.
func (w *watcher) receive(ctx context.Context, conn net.Conn, connect *paho.Connect) {
	client := paho.NewClient(paho.ClientConfig{
		Conn: conn,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(r paho.PublishReceived) (bool, error) { w.add(r.Packet); return true, nil },
		},
	})
	expiry := uint32(3600)
	connect.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry}
	if _, err := client.Connect(ctx, connect); err != nil {
		return
	}
	if _, err := client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "#", QoS: 1}}}); err != nil {
		return
	}
	select {
	case <-client.Done():
	case <-ctx.Done():
	}
}

// pymodbus starts a device made with pymodbus.
func pymodbus(t *testing.T, args ...string) *process {
	t.Helper()
	p := start(t, "/usr/bin/python3", append([]string{"testdata/pymodbus_device.py"}, args...)...)
	if args[0] == "tcp" {
		eventually(t, "pymodbus listens", func() bool {
			conn, err := net.Dial("tcp", net.JoinHostPort(args[1], args[2]))
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return p
}

// A site is a gateway's configuration and state.
type site struct {
	t        *testing.T
	config   string
	state    string
	broker   string // port of the local broker
	*process        // once it runs
}

func newSite(t *testing.T, gateway string, devices map[string]string) *site {
	t.Helper()
	s := &site{t: t, config: t.TempDir(), broker: freePort(t)}
	var err error
	if s.state, err = os.MkdirTemp("", "gw-"); err != nil { // short: it holds a socket
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.state) })
	writeFile(t, filepath.Join(s.config, "gateway.toml"), fmt.Sprintf("name = \"plant\"\n[broker]\nlisten = [\"tcp://127.0.0.1:%s\"]\n%s", s.broker, gateway))
	for name, text := range devices {
		writeFile(t, filepath.Join(s.config, "devices.d", name+".toml"), text)
	}
	return s
}

func (s *site) args(command string, more ...string) []string {
	return append([]string{command, "--config", s.config, "--state", s.state}, more...)
}

// run starts the gateway and waits until it is ready.
func (s *site) run() {
	s.t.Helper()
	s.process = start(s.t, binary, s.args("run")...)
	eventually(s.t, "the gateway is ready", func() bool {
		select {
		case <-s.done:
			s.t.Fatalf("the gateway ended:\n%s", s.out)
		default:
		}
		return strings.Contains(s.out.String(), "msg=ready")
	})
}

// command runs another command of the gateway and returns its output.
func (s *site) command(name string, more ...string) (stdout string, code int) {
	s.t.Helper()
	stdout, talk, code := s.talk(name, more...)
	if talk != "" {
		s.t.Logf("gateway %s %v: %s", name, more, talk)
	}
	return stdout, code
}

// talk is command with what was said on standard error.
func (s *site) talk(name string, more ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := exec.Command(binary, s.args(name, more...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// plcPoints reads every common type from the pymodbus device.
const plcPoints = `
u16     = { holding = 0, type = "u16", scale = 0.1, unit = "V" }
i16     = { holding = 1, type = "i16" }
u32     = { holding = 2, type = "u32" }
i32     = { holding = 4, type = "i32" }
u64     = { holding = 6, type = "u64" }
i64     = { holding = 10, type = "i64" }
f32     = { holding = 14, type = "f32", unit = "V" }
f64     = { holding = 16, type = "f64" }
swapped = { holding = 20, type = "f32", order = "CDAB" }
text    = { holding = 22, type = "string(8)" }
bcd     = { holding = 26, type = "bcd16" }
flags   = { holding = 27, type = "u16", bits = { 0 = "running", 3 = "fault" } }
half    = { holding = 28, type = "f16" }
mode    = { holding = 29, type = "u16", enum = { 0 = "off", 2 = "manual" } }
none    = { holding = 30, type = "u16", invalid = [65535] }
nan     = { holding = 31, type = "f32" }
input   = { input = 2, type = "u32" }
coil    = { coil = 3 }
discrete = { discrete = 2 }
setpoint = { holding = 200, type = "i16", scale = 0.5, unit = "°C", write = { min = 0, max = 50, step = 0.5 } }
pump     = { coil = 5, write = true }
`

// wantValues are the values of plcPoints as the registers of the device hold
// them, in the words of the payload.
var wantValues = map[string]string{
	"u16": `"value":230.1,"unit":"V"`, "i16": `"value":-1234,`, "u32": `"value":3000000000,`, "i32": `"value":-2000000000,`,
	"u64": `"value":9007199254740993,`, "i64": `"value":-9223372036854775808,`,
	"f32": `"value":230.1,`, "f64": `"value":0.1,`, "swapped": `"value":-12.5,`, "text": `"value":"METER-7",`,
	"bcd": `"value":1234,`, "flags": `"value":{"running":true,"fault":true},`, "half": `"value":0.5,`, "mode": `"value":"manual",`,
	"none": `"value":null,`, "nan": `"value":null,`,
	"input": `"value":3000000000,`, "coil": `"value":true,`, "discrete": `"value":false,`,
}

// expectValues waits until all points of a device have arrived as they are. A
// device that is not there yet has no values; it never has others.
func expectValues(t *testing.T, w *watcher, device string) {
	t.Helper()
	for point, want := range wantValues {
		topic := "dt/plant/" + device + "/" + point
		eventually(t, topic+" with "+want, func() bool {
			return slices.ContainsFunc(w.on(topic), func(payload string) bool { return strings.Contains(payload, want) })
		})
		for _, payload := range w.on(topic) {
			if !strings.Contains(payload, want) && !strings.Contains(payload, `"value":null,`) {
				t.Errorf("%s: got %s, want it to hold %s", topic, payload, want)
				break
			}
		}
	}
}

// kills is how often the gateway is killed in the middle of an outage.
func kills() int {
	if long() {
		return 50
	}
	return 2
}

// long tells whether the long forms of the tests are wanted: test.sh --long.
func long() bool { return os.Getenv("GATEWAY_LONG") != "" }

// A publisher is a local client that numbers what it publishes with QoS 1 and
// sends again what was not acknowledged.
type publisher struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	acked  []string
}

func newPublisher(t *testing.T, addr string) *publisher {
	ctx, cancel := context.WithCancel(t.Context())
	p := &publisher{t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for n := 1; ctx.Err() == nil; {
			p.session(ctx, addr, &n)
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *publisher) session(ctx context.Context, addr string, n *int) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	client := paho.NewClient(paho.ClientConfig{Conn: conn})
	if _, err := client.Connect(ctx, &paho.Connect{ClientID: "publisher", CleanStart: true, KeepAlive: 30}); err != nil {
		return
	}
	for ctx.Err() == nil {
		payload := fmt.Sprintf("message %d", *n)
		r, err := client.Publish(ctx, &paho.Publish{Topic: "site/log", QoS: 1, Payload: []byte(payload)})
		if err != nil || r.ReasonCode >= 0x80 {
			return
		}
		*n++
		p.mu.Lock()
		p.acked = append(p.acked, payload)
		p.mu.Unlock()
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (p *publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

func (p *publisher) awaitMore(n int) {
	p.t.Helper()
	want := p.count() + n
	eventually(p.t, "acknowledgements of the local broker", func() bool { return p.count() >= want })
}

func (p *publisher) stop() []string {
	p.cancel()
	<-p.done
	return p.acked
}

// publish sends a message to the cloud broker, as another of its clients.
func (c *cloud) publish(topic, payload string, more ...string) {
	c.t.Helper()
	at := func(name string) string { return filepath.Join(c.dir, "credentials", name) }
	args := append([]string{
		"-V", "5", "-h", "localhost", "-p", c.port, "-u", "watcher", "-P", "secret-of-the-watcher", "-q", "1",
		"--cafile", at("ca.crt"), "--cert", at("gateway.crt"), "--key", at("gateway.key"), "-t", topic, "-m", payload,
	}, more...)
	if out, err := exec.Command("mosquitto_pub", args...).CombinedOutput(); err != nil {
		c.t.Fatalf("mosquitto_pub: %v: %s", err, out)
	}
}

// mosquittoPub publishes to the local broker on a port.
func mosquittoPub(port, topic, payload string, more ...string) ([]byte, error) {
	args := append([]string{"-h", "127.0.0.1", "-p", port, "-q", "1", "-t", topic, "-m", payload}, more...)
	return exec.Command("mosquitto_pub", args...).CombinedOutput()
}

// runPlant runs a simulated plant in this process until the test ends.
func runPlant(t *testing.T, plan simulator.Config) *simulator.Simulator {
	t.Helper()
	sim, err := simulator.New(plan)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sim.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	<-sim.Ready()
	return sim
}
