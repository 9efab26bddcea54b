package bridge

import (
	"bufio"
	"cmp"
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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"edgegateway/broker"
)

// An authority signs certificates for one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	a := &authority{dir: t.TempDir(), pool: x509.NewCertPool()}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.pool.AddCert(a.cert)
	a.write(t, "ca.crt", "CERTIFICATE", der)
	return a
}

// issue writes NAME.crt and NAME.key, valid until then.
func (a *authority) issue(t testing.TB, name, host string, until time.Time) tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{host},
		NotBefore: until.Add(-2 * time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pk, _ := x509.MarshalPKCS8PrivateKey(key)
	a.write(t, name+".crt", "CERTIFICATE", der)
	a.write(t, name+".key", "PRIVATE KEY", pk)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) write(t testing.TB, name, kind string, der []byte) {
	if err := os.WriteFile(filepath.Join(a.dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A mosquitto is Debian's broker as the far one: TLS with client certificates
// on one port, an expired certificate on another, both with a password.
type mosquitto struct {
	t       testing.TB
	ca      *authority
	client  tls.Certificate
	port    int // tls
	expired int
	cmd     *exec.Cmd
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// newMosquitto configures one without starting it.
func newMosquitto(t testing.TB, extra string) *mosquitto {
	m := &mosquitto{t: t, ca: newAuthority(t), port: freePort(t), expired: freePort(t)}
	m.ca.issue(t, "server", "localhost", time.Now().Add(time.Hour))
	m.ca.issue(t, "old", "localhost", time.Now().Add(-time.Minute))
	m.client = m.ca.issue(t, "client", "gw", time.Now().Add(time.Hour))
	dir := m.ca.dir
	if out, err := exec.Command("mosquitto_passwd", "-b", "-c", filepath.Join(dir, "passwd"), "gw", "secret").CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
	conf := fmt.Sprintf(`user root
allow_anonymous false
password_file %[1]s/passwd
persistence true
persistence_location %[1]s/
log_dest stderr
max_queued_messages 100000
%[4]s
listener %[2]d 127.0.0.1
cafile %[1]s/ca.crt
certfile %[1]s/server.crt
keyfile %[1]s/server.key
require_certificate true
listener %[3]d 127.0.0.1
certfile %[1]s/old.crt
keyfile %[1]s/old.key
`, dir, m.port, m.expired, extra)
	if err := os.WriteFile(filepath.Join(dir, "mosquitto.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

// start runs it and waits until it listens.
func (m *mosquitto) start() {
	m.t.Helper()
	m.cmd = exec.Command("mosquitto", "-c", filepath.Join(m.ca.dir, "mosquitto.conf"))
	log, err := m.cmd.StderrPipe()
	if err == nil {
		err = m.cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(m.stop)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if strings.HasSuffix(lines.Text(), "running") {
			go io.Copy(io.Discard, log)
			return
		}
		m.t.Log(lines.Text())
	}
	m.t.Fatal("mosquitto did not start")
}

// stop ends it politely, so that it keeps what it has acknowledged.
func (m *mosquitto) stop() {
	if m.cmd != nil {
		m.cmd.Process.Signal(syscall.SIGTERM)
		m.cmd.Wait()
		m.cmd = nil
	}
}

// A watcher is a mosquitto_sub with a lasting session.
type watcher struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	lines []string // payload, space, user properties
}

// watch subscribes to all upstream topics.
func (m *mosquitto) watch() *watcher {
	w := new(watcher)
	m.attach(w)
	return w
}

// session makes the session of a watcher that is attached later.
func (m *mosquitto) session() *watcher {
	w := m.watch()
	w.cmd.Process.Kill()
	<-w.ended
	return w
}

// attach connects w. mosquitto_sub 2.0.11 may end ("Protocol error", "A TLS
// error occurred") or hang when its broker goes in the middle of a packet or a
// handshake, and acknowledges what it has not yet printed, so that it must not
// be killed then: where the broker is stopped, it is attached when that is over.
func (m *mosquitto) attach(w *watcher) {
	dir := m.ca.dir
	cmd := exec.Command("stdbuf", "-oL", "mosquitto_sub", "-V", "5", "-d", "-c", "-x", "3600", "-i", "watcher", "-q", "1", "-t", "#", "-h", "localhost", "-p", fmt.Sprint(m.port),
		"-u", "gw", "-P", "secret", "--cafile", dir+"/ca.crt", "--cert", dir+"/client.crt", "--key", dir+"/client.key", "-F", "MSG %p %P")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan struct{})
	w.cmd, w.ended = cmd, ended
	m.t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	subscribed := make(chan struct{}, 100)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if text, ok := strings.CutPrefix(lines.Text(), "MSG "); ok {
				w.mu.Lock()
				w.lines = append(w.lines, text)
				w.mu.Unlock()
			} else if strings.HasPrefix(text, "Subscribed") {
				select {
				case subscribed <- struct{}{}:
				default: // again after a reconnect
				}
			}
		}
		cmd.Wait()
		close(ended)
	}()
	select {
	case <-subscribed:
	case <-ended:
		m.t.Fatalf("mosquitto_sub ended: %v", cmd.ProcessState)
	}
}

// distinct returns payloads by the first appearance of their mid, or of
// themselves over 3.1.1, and how many came again.
func (w *watcher) distinct() (payloads []string, again int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := make(map[string]bool)
	for _, l := range w.lines {
		payload, props, _ := strings.Cut(l, " ")
		props = cmp.Or(props, payload)
		if seen[props] {
			again++
			continue
		}
		seen[props] = true
		payloads = append(payloads, payload)
	}
	return payloads, again
}

// await polls until cond holds. The limit is for a broken program only.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(2 * time.Minute)
	for !cond() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// bridgeTo returns a rig whose bridge really dials.
func (m *mosquitto) bridgeTo(change func(*Config)) *rig {
	conf := &tls.Config{RootCAs: m.ca.pool, Certificates: []tls.Certificate{m.client}}
	r := newRig(m.t, func(c *Config) {
		c.URLs = []string{fmt.Sprintf("tls://localhost:%d", m.port)}
		c.Username, c.Password, c.TLS = "gw", "secret", conf
		c.MinBackoff, c.MaxBackoff = 20*time.Millisecond, 200*time.Millisecond
		if change != nil {
			change(c)
		}
	})
	r.dial = r.cfg.dialer().dial
	return r
}

// Messages go in order through a far broker that is not there at the start
// and is stopped and started again in mid-stream.
func TestMosquittoOutage(t *testing.T) {
	for _, version := range []Version{MQTT5, MQTT311} {
		t.Run(version.String(), func(t *testing.T) { testOutage(t, version) })
	}
}

func testOutage(t *testing.T, version Version) {
	m := newMosquitto(t, "")
	m.start()
	w := m.session()
	m.stop()
	r := m.bridgeTo(func(c *Config) { c.Version = version })
	wire := r.tap()
	r.tele.fill(0, 500)
	r.start()
	await(t, "the bridge has noticed", func() bool { return r.Stats().State == Down })
	m.start()
	total := 500
	for range 2 {
		r.tele.fill(total, total+1000)
		total += 1000
		await(t, "some have arrived", func() bool { return int(r.tele.Acked()) > total-700 })
		m.stop()
		r.tele.fill(total, total+500)
		total += 500
		await(t, "the bridge has noticed", func() bool { return r.Stats().State == Down })
		m.start()
	}
	await(t, "all are acknowledged", func() bool { return int(r.tele.Acked()) == total })
	// What is on the wire proves the bridge, whatever becomes of the watcher.
	if late := wire.unacknowledged(); len(late) > 0 || !slices.Equal(wire.sent, numbers(0, total)) {
		t.Fatalf("sent %d of %d, in order %v; the cursor passed what mosquitto did not acknowledge: %v", len(wire.sent), total, slices.Equal(wire.sent, numbers(0, len(wire.sent))), late)
	}
	m.attach(w)
	var got []string
	var again int
	await(t, "all have arrived", func() bool { got, again = w.distinct(); return len(got) >= total })
	for i, p := range got {
		if p != fmt.Sprint(i) {
			t.Fatalf("at place %d arrived %s", i, p)
		}
	}
	r.end()
	s := r.Stats()
	t.Logf("%d messages, lost 0, repeated %d, sent %d, reconnects %d, longest outage %v", total, again, s.Sent, s.Reconnects, s.LongestOutage)
	if s.Reconnects != 2 || wire.again > 2*r.cfg.Window { // what mosquitto itself repeats is not ours
		t.Errorf("repeated %d, stats %+v", wire.again, s)
	}
}

func TestMosquittoSaysNo(t *testing.T) {
	m := newMosquitto(t, "")
	m.start()
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"wrong server name", func(c *Config) { c.URLs = []string{fmt.Sprintf("tls://127.0.0.1:%d", m.port)} }, `not for "127.0.0.1" but for localhost`},
		{"expired", func(c *Config) { c.URLs = []string{fmt.Sprintf("tls://localhost:%d", m.expired)} }, "the server's certificate expired at"},
		{"unknown authority", func(c *Config) { c.TLS = &tls.Config{RootCAs: x509.NewCertPool()} }, "authority not trusted"},
		{"no client certificate", func(c *Config) { c.TLS = &tls.Config{RootCAs: m.ca.pool} }, "a client certificate"},
		{"bad password", func(c *Config) { c.Password = "wrong" }, "check user, password"},
		{"no TLS", func(c *Config) { c.URLs = []string{fmt.Sprintf("tcp://localhost:%d", m.port)} }, "closed the connection during login"},
		{"no host", func(c *Config) { c.URLs = []string{"tls://nosuchhost.invalid"} }, "DNS"},
		{"nobody there", func(c *Config) { c.URLs = []string{fmt.Sprintf("tls://localhost:%d", freePort(t))} }, "refused the connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := m.bridgeTo(c.change)
			r.start()
			await(t, "it fails", func() bool { return r.Stats().State == Down })
			if e := r.Stats().LastError; !strings.Contains(e, c.want) {
				t.Errorf("it says %q", e)
			}
			r.end()
		})
	}
}

func TestMosquittoTakesOver(t *testing.T) {
	m := newMosquitto(t, "")
	m.start()
	r, other := m.bridgeTo(nil), m.bridgeTo(nil)
	r.start()
	await(t, "it is up", func() bool { return r.Stats().State == Up })
	other.start()
	await(t, "it is thrown out", func() bool { return r.Stats().LastError != "" })
	if e := r.Stats().LastError; !strings.Contains(e, "same client id") {
		t.Errorf("it says %q", e)
	}
	r.end()
	other.end()
}

// What mosquitto limits is kept, so that it throws nobody out; a topic that
// its ACL forbids and a message that is too large are given up, nothing else.
func TestMosquittoLimits(t *testing.T) {
	acl := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(acl, []byte("user gw\ntopic readwrite dt/p/x\ntopic read #\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMosquitto(t, "max_inflight_messages 3\nmax_packet_size 1000\nacl_file "+acl)
	m.start()
	w := m.watch()
	r := m.bridgeTo(func(c *Config) { c.Window = 50 })
	r.tele.fill(0, 300)
	for range 10 {
		r.tele.add(broker.Message{Topic: "p/denied", Payload: []byte("x")})
	}
	r.tele.add(broker.Message{Topic: "p/x", Payload: make([]byte, 1000)})
	r.tele.fill(300, 600)
	r.start()
	await(t, "all are answered", func() bool { return r.tele.Acked() == 611 })
	await(t, "all have arrived", func() bool { got, _ := w.distinct(); return len(got) == 600 })
	if s := r.Stats(); s.Refused[reasonWords(0x87)] != 10 || s.Refused[reasonWords(codeTooLarge)] != 1 || s.Reconnects != 0 || s.Acked != 600 {
		t.Errorf("stats %+v", s)
	}
	r.end()
}
