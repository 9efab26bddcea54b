package bridge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
)

// farBroker is our own broker as the far one: MQTT, MQTT over TLS, WebSocket,
// WebSocket over TLS, in this order.
func farBroker(t *testing.T, ca *authority) (addrs []string) {
	ca.issue(t, "server", "localhost", time.Now().Add(time.Hour))
	pem := func(name string) broker.PEM { return broker.PEM{Path: ca.dir + "/" + name} }
	cert, err := broker.NewCertificate(broker.CertificateConfig{Cert: pem("server.crt"), Key: pem("server.key")})
	if err != nil {
		t.Fatal(err)
	}
	listen := func(web bool, conf *tls.Config) broker.Listen {
		return broker.Listen{Network: "tcp", Address: "127.0.0.1:0", WebSocket: web, TLS: conf}
	}
	b, err := broker.New(broker.Config{
		Listen: []broker.Listen{listen(false, nil), listen(false, cert.Config()), listen(true, nil), listen(true, cert.Config())},
		Log:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	<-b.Ready()
	for i := range 4 {
		_, port, _ := net.SplitHostPort(b.Addr(i).String())
		addrs = append(addrs, "localhost:"+port)
	}
	return addrs
}

// A testProxy leads on to wherever it is asked, by HTTP CONNECT or SOCKS5,
// and counts.
type testProxy struct {
	addr   string
	user   string      // "": anybody may
	answer string      // instead of leading on
	asked  chan string // targets
}

func startProxy(t *testing.T, kind string, p *testProxy) *testProxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p.addr, p.asked = l.Addr().String(), make(chan string, 100)
	serve := map[string]func(net.Conn){"http": p.serveHTTP, "socks5": p.serveSOCKS}[kind]
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); serve(c) }()
		}
	}()
	return p
}

func (p *testProxy) serveHTTP(c net.Conn) {
	in := bufio.NewReader(c)
	req, err := http.ReadRequest(in)
	if err != nil || req.Method != "CONNECT" {
		return
	}
	p.asked <- req.Host
	want := ""
	if p.user != "" {
		r := http.Request{Header: http.Header{}}
		user, password, _ := strings.Cut(p.user, ":")
		r.SetBasicAuth(user, password)
		want = r.Header.Get("Authorization")
	}
	switch {
	case p.answer != "":
		io.WriteString(c, p.answer)
	case req.Header.Get("Proxy-Authorization") != want:
		io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
	default:
		p.lead(c, req.Host, "HTTP/1.1 200 Connection established\r\n\r\n")
	}
}

func (p *testProxy) serveSOCKS(c net.Conn) {
	read := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(c, b)
		return b
	}
	method := read(3)[2]
	switch {
	case p.answer != "":
		io.WriteString(c, p.answer)
		return
	case (method == 2) != (p.user != ""):
		c.Write([]byte{5, 255})
		return
	}
	c.Write([]byte{5, method})
	if method == 2 {
		user := read(int(read(2)[1]))
		password := read(int(read(1)[0]))
		if string(user)+":"+string(password) != p.user {
			c.Write([]byte{1, 1})
			return
		}
		c.Write([]byte{1, 0})
	}
	host := string(read(int(read(5)[4])))
	port := read(2)
	target := fmt.Sprintf("%s:%d", host, int(port[0])<<8|int(port[1]))
	p.asked <- target
	p.lead(c, target, "\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
}

// lead answers yes and copies both ways, or with SOCKS5's "refused".
func (p *testProxy) lead(c net.Conn, target, yes string) {
	far, err := net.Dial("tcp", target)
	if err != nil {
		if yes[0] == 5 {
			c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
		} else {
			io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		}
		return
	}
	defer far.Close()
	io.WriteString(c, yes)
	go func() { io.Copy(far, c); far.Close() }()
	io.Copy(c, far)
}

// Messages get through every transport, directly and through each proxy.
func TestTransports(t *testing.T) {
	ca := newAuthority(t)
	addrs := farBroker(t, ca)
	urls := []string{"tcp://" + addrs[0], "tls://" + addrs[1], "ws://" + addrs[2], "wss://" + addrs[3] + "/mqtt"}
	httpProxy := startProxy(t, "http", &testProxy{user: "u:p@ss"})
	socksProxy := startProxy(t, "socks5", &testProxy{user: "u:p@ss"})
	plainSOCKS := startProxy(t, "socks5", &testProxy{})
	for _, via := range []struct {
		name, proxy string
		by          *testProxy
	}{
		{"direct", "", nil},
		{"http", "http://u:p%40ss@" + httpProxy.addr, httpProxy},
		{"socks5", "socks5://u:p%40ss@" + socksProxy.addr, socksProxy},
		{"socks5 without a password", "socks5://" + plainSOCKS.addr, plainSOCKS},
	} {
		for _, u := range urls {
			t.Run(via.name+" "+u[:strings.Index(u, ":")], func(t *testing.T) {
				r := newRig(t, func(c *Config) {
					c.URLs, c.Proxy, c.TLS = []string{u}, via.proxy, &tls.Config{RootCAs: ca.pool}
				})
				r.dial = r.cfg.dialer().dial
				r.tele.fill(0, 100)
				r.start()
				await(t, "all are acknowledged", func() bool { return r.tele.Acked() == 100 })
				r.end()
				if via.by != nil {
					if to := <-via.by.asked; to != r.urls[0].Host {
						t.Errorf("the proxy was asked for %q", to)
					}
				}
			})
		}
	}
}

// What goes wrong on the way is told in words that name the key to look at.
func TestTransportsExplained(t *testing.T) {
	ca := newAuthority(t)
	addrs := farBroker(t, ca)
	trusting := &tls.Config{RootCAs: ca.pool}
	nobody := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	httpProxy := startProxy(t, "http", &testProxy{user: "u:p"}).addr
	socksProxy := startProxy(t, "socks5", &testProxy{user: "u:p"}).addr
	stubborn := startProxy(t, "http", &testProxy{answer: "HTTP/1.1 403 Forbidden\r\n\r\n"}).addr
	odd := startProxy(t, "socks5", &testProxy{answer: "HTTP/1.1 400 What?\r\n\r\n"}).addr
	alpn := trusting.Clone()
	alpn.NextProtos = []string{"x-amzn-mqtt-ca"}
	tls13only, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MaxVersion: tls.VersionTLS12, NextProtos: []string{"mqtt"}, Certificates: []tls.Certificate{ca.issue(t, "old", "localhost", time.Now().Add(time.Hour))}})
	if err != nil {
		t.Fatal(err)
	}
	defer tls13only.Close()
	go func() {
		for {
			c, err := tls13only.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); c.(*tls.Conn).Handshake() }()
		}
	}()
	_, port, _ := net.SplitHostPort(tls13only.Addr().String())
	newest := trusting.Clone()
	newest.MinVersion = tls.VersionTLS13
	for _, c := range []struct {
		name, url, proxy string
		tls              *tls.Config
		want             string
		person           bool
	}{
		{"wrong path", "ws://" + addrs[2] + "/nothing", "", nil, "no WebSocket at /nothing (HTTP 404", true},
		{"MQTT instead", "ws://" + addrs[0], "", nil, "closed the connection during login", false},
		{"unknown authority", "wss://" + addrs[3], "", &tls.Config{RootCAs: newAuthority(t).pool}, "authority not trusted", true},
		{"wrong name", "wss://127.0.0.1" + addrs[3][9:], "", trusting, `not for "127.0.0.1"`, true},
		{"alpn", "tls://localhost:" + port, "", alpn, "see alpn", true},
		{"min_tls", "tls://localhost:" + port, "", newest, "see min_tls", true},
		{"no proxy there", "tcp://" + addrs[0], "http://" + nobody, nil, "the proxy " + nobody + " refused the connection", false},
		{"proxy wants a password", "tcp://" + addrs[0], "http://" + httpProxy, nil, "wants a user and a password", true},
		{"proxy forbids", "tcp://" + addrs[0], "http://" + stubborn, nil, "does not lead to " + addrs[0], true},
		{"proxy finds nobody", "tcp://" + nobody, "http://u:p@" + httpProxy, nil, "did not reach " + nobody, false},
		{"socks wants a password", "tcp://" + addrs[0], "socks5://" + socksProxy, nil, "wants a user and a password", true},
		{"socks wrong password", "tcp://" + addrs[0], "socks5://u:x@" + socksProxy, nil, "user or password are wrong", true},
		{"socks finds nobody", "tcp://" + nobody, "socks5://u:p@" + socksProxy, nil, "the host refused the connection", false},
		{"no socks", "tcp://" + addrs[0], "socks5://" + odd, nil, "no SOCKS5", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := ParseURL(c.url)
			if err != nil {
				t.Fatal(err)
			}
			d := &dialer{tls: c.tls, proxy: c.proxy, timeout: time.Second}
			conn, err := d.dial(t.Context(), u)
			if err == nil {
				conn.Close()
				t.Fatal("it connects")
			}
			if words, person := explain(fmt.Errorf("connect: %w", err), u.Host, true, time.Now()); !strings.Contains(words, c.want) || person != c.person {
				t.Errorf("%q, %t; want %q (%v)", words, person, c.want, err)
			}
		})
	}
}

// A proxy that says nothing does not keep the bridge past its deadline.
func TestSilentProxyIsLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, scheme := range []string{"http", "https", "socks5"} {
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			c, err := l.Accept()
			if err == nil {
				c.Read(make([]byte, 1))
				stop()
				io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		d := &dialer{proxy: scheme + "://" + l.Addr().String(), timeout: time.Second}
		if _, err := d.dial(ctx, &url.URL{Scheme: "tcp", Host: "up.invalid:1"}); err == nil || !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

// No variable of the environment leads a bridge through a proxy unless asked.
func TestEnvironmentHasNoSayUnlessAsked(t *testing.T) {
	p := startProxy(t, "http", &testProxy{answer: "HTTP/1.1 403 no\r\n\r\n"})
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"} {
		t.Setenv(name, "http://"+p.addr)
	}
	addrs := farBroker(t, newAuthority(t))
	for _, u := range []string{"tcp://" + addrs[0], "ws://" + addrs[2]} {
		to, _ := ParseURL(u)
		c, err := (&dialer{timeout: time.Second}).dial(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	// The name is not looked up here: it is the proxy that is asked.
	to, _ := ParseURL("tcp://up.invalid")
	_, err := (&dialer{proxy: ProxyFromEnvironment, timeout: time.Second}).dial(t.Context(), to)
	if words, _ := explain(err, to.Host, true, time.Now()); !strings.Contains(words, "does not lead to up.invalid:1883") {
		t.Errorf("%q", words)
	}
}

func TestParseURLs(t *testing.T) {
	for in, want := range map[string]string{
		"mqtt://h": "tcp://h:1883", "mqtts://h": "tls://h:8883", "ws://h": "ws://h:80/mqtt", "wss://h:9001/$iothub/websocket": "wss://h:9001/$iothub/websocket",
	} {
		if u, err := ParseURL(in); err != nil || u.String() != want {
			t.Errorf("%s is %v, %v", in, u, err)
		}
	}
	for _, in := range []string{"http://h", "tls://h/mqtt", "wss://h/x?token=secret", "wss://u:secret@h/x", "tls://"} {
		if _, err := ParseURL(in); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", in, err)
		}
	}
	for in, want := range map[string]string{"http://h": "http://h:3128", "socks5://u:p@h": "socks5://u:p@h:1080", "https://h:1/": "https://h:1/"} {
		if u, err := ParseProxy(in); err != nil || u.String() != want {
			t.Errorf("%s is %v, %v", in, u, err)
		}
	}
	for _, in := range []string{"h:3128", "ftp://u:secret@h", "http://u:se/cret@h", "http://"} {
		if _, err := ParseProxy(in); err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "cret@") {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// FuzzProxy proves that no bytes of a proxy make the reader panic or read on
// for ever.
func FuzzProxy(f *testing.F) {
	f.Add(false, []byte("HTTP/1.1 200 OK\r\n\r\n\x20\x02"))
	f.Add(true, []byte{5, 0, 5, 0, 0, 3, 1, 'x', 0, 1})
	f.Add(true, []byte{5, 0, 5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, socks bool, wire []byte) {
		via := &url.URL{Scheme: "http", Host: "p:1"}
		if socks {
			via.Scheme = "socks5"
		}
		c := &scripted{in: wire}
		out, err := tunnel(t.Context(), c, via, "h:1")
		if (err == nil) == c.closed {
			t.Errorf("%v, closed %v", err, c.closed)
		}
		if err == nil {
			io.Copy(io.Discard, out)
		}
	})
}

// A scripted connection reads what it is given and forgets what is written.
type scripted struct {
	net.Conn
	in     []byte
	closed bool
}

func (c *scripted) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}
func (c *scripted) Write(p []byte) (int, error) { return len(p), nil }
func (c *scripted) SetDeadline(time.Time) error { return nil }
func (c *scripted) Close() error                { c.closed = true; return nil }

// The end of the client certificate is spoken of in time, and a renewed one
// noticed.
func TestClientCertificateIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := &x509.Certificate{Raw: []byte{1}, NotAfter: time.Now().Add(30*24*time.Hour + 2*time.Hour)}
		renewed := &x509.Certificate{Raw: []byte{2}, NotAfter: time.Now().Add(400 * 24 * time.Hour)}
		var now atomic.Pointer[x509.Certificate]
		now.Store(old)
		r := newRig(t, func(c *Config) {
			c.Certificate = func() (*x509.Certificate, string) { return now.Load(), "gw.crt" }
		})
		var out syncBuffer
		r.log = slog.New(slog.NewTextHandler(&out, nil))
		ctx, stop := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { r.watchCertificate(ctx) })
		pass(time.Hour)
		if out.String() != "" {
			t.Errorf("too early: %s", out.String())
		}
		pass(2 * time.Hour)
		if text := out.String(); strings.Count(text, "client certificate of this bridge expires soon") != 1 || !strings.Contains(text, "cert=gw.crt") {
			t.Errorf("not a word in time: %s", text)
		}
		now.Store(renewed)
		pass(48 * time.Hour)
		if text := out.String(); strings.Count(text, "read again") != 1 || strings.Count(text, "expires soon") != 1 {
			t.Errorf("log: %s", text)
		}
		stop()
		watching.Wait()
	})
}

// A syncBuffer may be written by one goroutine while another reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
