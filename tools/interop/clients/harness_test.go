// Package clients runs the gateway's broker with MQTT clients that were not
// written here.
//
// Each library is a kind, and what it has to show is written once, in
// suite_test.go, over every transport and version that it speaks. Programs,
// mosquitto's, have tests of their own, and so has a cluster of NATS, to which a
// bridge of the gateway sends. All of it goes to the binary that is
// shipped, with as little configuration as it takes.
package clients

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	binary string // the gateway, built for these tests
	keys   pki
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gateway-clients-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "gateway")
		build := exec.Command("go", "build", "-trimpath", "-o", binary, "./cmd/gateway")
		build.Dir = "../../.." // the product's module
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the gateway: %v\n%s", err, out)
			return 1
		}
		keys = newPKI(dir)
		defer func() { stopNode() }()
		return m.Run()
	}())
}

// eventually waits until cond holds. Nothing is concluded from how long it
// took; the limit only ends a test that would hang.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still waiting: %s", what)
		}
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
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

// start runs a program until the test ends at the latest.
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
			out := p.out.String()
			t.Logf("output of %s:\n%s", filepath.Base(name), out[max(0, len(out)-20_000):])
		}
	})
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop ends the process politely.
func (p *process) stop() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		p.t.Fatalf("%v did not end after SIGTERM:\n%s", p.cmd.Args, p.out)
	}
}

var hosts atomic.Int32

// newHost returns an address of this machine at which no connection begins:
// those to it begin at 127.0.0.1. So nothing takes a port of it while the
// program that listens there is away.
func newHost() string { return host(int(hosts.Add(1)) % maxHosts) }

const maxHosts = 250

func host(n int) string { return fmt.Sprintf("127.0.%d.%d", 1+os.Getpid()%250, 1+n) }

// transports are the schemes of the addresses at which each gateway listens.
var transports = []string{"tcp", "tls", "ws", "wss", "unix"}

// A gateway is one that runs with nothing but its broker.
type gateway struct {
	t        *testing.T
	dir      string
	broker   string            // more of [broker]
	urls     map[string]string // by transport
	*process                   // once it runs
}

// newGateway runs a gateway that listens everywhere; broker is what else its
// [broker] table holds. Its name in topics is "gw".
func newGateway(t *testing.T, broker string) *gateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw-") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &gateway{t: t, dir: dir, broker: broker, urls: make(map[string]string)}
	host := newHost()
	for _, transport := range transports {
		g.urls[transport] = transport + "://" + host + ":0"
	}
	g.urls["unix"] = "unix://" + filepath.Join(dir, "mqtt.sock")
	g.run()
	for _, url := range regexp.MustCompile(`(?m) msg=ready broker="\[(.*?)\]"`).FindStringSubmatch(g.out.String())[1:] {
		for url := range strings.FieldsSeq(url) {
			g.urls[url[:strings.Index(url, ":")]] = url
		}
	}
	return g
}

// run starts the gateway where it listened before and waits until it is ready.
func (g *gateway) run() {
	g.t.Helper()
	var listen []string
	for _, transport := range transports {
		listen = append(listen, fmt.Sprintf("%q", g.urls[transport]))
	}
	writeFile(g.t, filepath.Join(g.dir, "gateway.toml"), fmt.Sprintf("name = \"gw\"\n[broker]\nlisten = [%s]\ncert = %q\nkey = %q\n%s",
		strings.Join(listen, ", "), keys.path("broker.crt"), keys.path("broker.key"), g.broker))
	g.process = start(g.t, binary, "run", "--config", g.dir, "--state", filepath.Join(g.dir, "state"))
	eventually(g.t, "the gateway is ready", func() bool {
		select {
		case <-g.done:
			g.t.Fatalf("the gateway ended:\n%s", g.out)
		default:
		}
		return strings.Contains(g.out.String(), "msg=ready")
	})
}

// passwd gives a user a password, as its owner would.
func passwd(t *testing.T, file, user, password string) {
	t.Helper()
	cmd := exec.Command(binary, "passwd", "--file", file, user)
	cmd.Stdin = strings.NewReader(password + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gateway passwd: %v: %s", err, out)
	}
}

// A pki is an authority and what it signed, in files.
type pki struct {
	dir  string
	pool *x509.CertPool
}

func newPKI(dir string) pki {
	p := pki{dir: dir, pool: x509.NewCertPool()}
	template := func(name string) *x509.Certificate {
		serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
		return &x509.Certificate{
			SerialNumber: serial, Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		}
	}
	authority := template("authority")
	authority.IsCA, authority.KeyUsage = true, x509.KeyUsageCertSign
	broker := template("broker")
	broker.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	for n := range maxHosts {
		broker.IPAddresses = append(broker.IPAddresses, net.ParseIP(host(n)))
	}
	_, authorityKey := p.issue("ca", authority, authority, nil)
	p.issue("broker", broker, authority, authorityKey)
	p.issue("panel", template("panel"), authority, authorityKey)
	p.issue("gw", template("gw"), authority, authorityKey)
	p.pool.AddCert(authority)
	return p
}

// issue writes NAME.crt and NAME.key; without a key the certificate signs
// itself. Nothing of it fails but for want of room.
func (p pki) issue(name string, c, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	if byKey == nil {
		byKey = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, byKey)
	if err != nil {
		panic(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	*c = *signed
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	for file, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(p.path(name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			panic(err)
		}
	}
	return c, key
}

func (p pki) path(name string) string { return filepath.Join(p.dir, name) }

// config trusts the authority, and shows the panel's certificate if it is
// wanted.
func (p pki) config(certificate bool) *tls.Config {
	c := &tls.Config{RootCAs: p.pool}
	if certificate {
		pair, err := tls.LoadX509KeyPair(p.path("panel.crt"), p.path("panel.key"))
		if err != nil {
			panic(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// A relay is a cable between clients and a gateway that can be cut, whatever
// goes through it.
type relay struct {
	net.Listener
	to string

	mu    sync.Mutex
	conns []net.Conn
}

// newRelay returns the address of a relay in place of url's.
func newRelay(t *testing.T, url string) (*relay, string) {
	t.Helper()
	scheme, to, _ := strings.Cut(url, "://")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: ln, to: to}
	go r.serve()
	t.Cleanup(func() { r.Close(); r.cut() })
	return r, scheme + "://" + ln.Addr().String()
}

func (r *relay) serve() {
	for {
		in, err := r.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.to)
		if err != nil {
			in.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, in, out)
		r.mu.Unlock()
		go func() { io.Copy(out, in); out.Close(); in.Close() }()
		go func() { io.Copy(in, out); out.Close(); in.Close() }()
	}
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.Close()
	}
	r.conns = nil
}
