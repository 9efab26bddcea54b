package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

// shownBy returns the name in the certificate that a new connection gets.
func shownBy(t *testing.T, c *Certificate) string {
	t.Helper()
	return c.now().Certificates[0].Leaf.Subject.CommonName
}

func TestCertificateIsReadAgain(t *testing.T) {
	files := newServerFiles(newAuthority(t))
	c := files.certificate(func(cfg *CertificateConfig) { cfg.ClientCA.Path = files.path("ca.crt") })
	var log bytes.Buffer
	c.log = slog.New(slog.NewTextHandler(&log, nil))
	look := func(want string, lines int) {
		t.Helper()
		c.checked = time.Time{} // long ago
		if got := shownBy(t, c); got != want {
			t.Errorf("shows %q, want %q", got, want)
		}
		if got := c.Leaf().Subject.CommonName; got != want {
			t.Errorf("says that it shows %q, want %q", got, want)
		}
		if n := strings.Count(log.String(), "\n"); n != lines {
			t.Errorf("%d lines logged, want %d:\n%s", n, lines, log.String())
		}
	}
	look("first", 0)
	files.renew("second", time.Hour)
	look("second", 1)
	look("second", 1)
	_, _, cert, key := files.a.issue("third", time.Hour)
	files.write("broker.crt", cert) // its key comes later
	look("second", 2)
	look("second", 2)
	files.write("broker.key", key)
	look("third", 3)
	files.write("broker.key", []byte("nothing"))
	look("third", 4)
	files.write("broker.key", key)
	look("third", 5)
	files.write("ca.crt", []byte("nothing"))
	look("third", 6)
	for _, want := range []string{"level=ERROR", "the old one stays", "broker.crt", "do not match", "ca.crt holds no certificate", "read again"} {
		if want == "do not match" {
			want = "does not match" // as crypto/tls says it
		}
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, log.String())
		}
	}
}

// A certificate is exchanged under a client that stays connected.
func TestRenewalKeepsConnections(t *testing.T) {
	files := newServerFiles(newAuthority(t))
	c := files.certificate()
	_, addr := start(t, Config{Certificate: c, Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0", TLS: c.Config()}}})
	connect := func(id string) (*peer, string) {
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: files.a.pool()})
		if err != nil {
			t.Fatal(err)
		}
		p := newPeer(t, conn, packet.V5)
		p.connect(id)
		return p, conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: files.a.pool(), MaxVersion: tls.VersionTLS11}); err == nil {
		conn.Close()
		t.Error("TLS 1.1 was taken")
	}
	old, name := connect("old")
	if old.subscribe(qos(1, "t")); name != "first" {
		t.Errorf("shown %q", name)
	}
	files.renew("second", time.Hour)
	c.mu.Lock()
	c.checked = time.Time{}
	c.mu.Unlock()
	p, name := connect("new")
	if name != "second" {
		t.Errorf("shown %q", name)
	}
	p.publish(1, "t", "x")
	old.message("x")
}

// The verified name is to be had from the connection that a client's packets
// come over, for TLS as for WebSocket.
func TestClientCertificates(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	files := newServerFiles(ours)
	for _, web := range []bool{false, true} {
		for _, test := range []struct {
			name     string
			optional bool
			pair     []tls.Certificate
			want     string // the name that the broker knows; "refused"
		}{
			{"require, own", false, []tls.Certificate{ours.pair("meter 1")}, "meter 1"},
			{"require, none", false, nil, "refused"},
			{"require, wrong authority", false, []tls.Certificate{others.pair("meter 1")}, "refused"},
			{"optional, own", true, []tls.Certificate{ours.pair("meter 1")}, "meter 1"},
			{"optional, none", true, nil, ""},
			{"optional, wrong authority", true, []tls.Certificate{others.pair("meter 1")}, "refused"},
		} {
			t.Run(fmt.Sprintf("web=%v %s", web, test.name), func(t *testing.T) {
				c := files.certificate(func(cfg *CertificateConfig) {
					cfg.ClientCA.Path, cfg.Optional = files.path("ca.crt"), test.optional
				})
				b, addr := start(t, Config{Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0", TLS: c.Config(), WebSocket: web}}})
				conn, err := dialSecure(addr, web, &tls.Config{RootCAs: ours.pool(), GetClientCertificate: show(test.pair)})
				got := "refused"
				if err == nil {
					defer conn.Close()
					if p := newPeer(t, conn, packet.V5); p.trySend(&packet.Connect{Version: packet.V5, ClientID: "p", CleanStart: true}) == nil {
						if _, err := p.read(); err == nil {
							got = knownAs(t, b)
						}
					}
				}
				if got != test.want {
					t.Errorf("known as %q, want %q", got, test.want)
				}
			})
		}
	}
}

// show answers with the certificate whatever authority is asked for.
func show(pair []tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if pair == nil {
			return new(tls.Certificate), nil
		}
		return &pair[0], nil
	}
}

func dialSecure(addr string, web bool, cfg *tls.Config) (net.Conn, error) {
	if web {
		return dialWeb("wss://"+addr+"/mqtt", cfg)
	}
	return tls.Dial("tcp", addr, cfg)
}

// knownAs returns the verified name of the only client.
func knownAs(t *testing.T, b *Broker) string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	secure, ok := b.clients["p"].conn.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		t.Fatalf("%T tells nothing of TLS", b.clients["p"].conn)
	}
	if chains := secure.ConnectionState().VerifiedChains; len(chains) > 0 {
		return chains[0][0].Subject.CommonName
	}
	return ""
}

func TestEndOfCertificateIsAnnounced(t *testing.T) {
	files := newServerFiles(newAuthority(t))
	files.renew("broker", 40*24*time.Hour)
	for _, test := range []struct {
		name  string
		ahead time.Duration // of now
		known bool
		want  string
	}{
		{"in time", 0, true, ""},
		{"soon", 28 * 24 * time.Hour, true, "level=WARN msg=\"the broker's certificate expires soon; put a new one in its place, it is used without a restart\""},
		{"expired", 41 * 24 * time.Hour, true, "level=ERROR msg=\"the broker's certificate has expired"},
		{"early", -2 * time.Hour, true, "level=ERROR msg=\"the broker's certificate is not valid yet"},
		{"clock of 1970", -time.Duration(time.Now().UnixNano()), false, "level=WARN msg=\"whether the broker's certificate is good cannot be told, for the clock is not synchronised"},
		{"unsynchronised, but good", 0, false, ""},
	} {
		c := files.certificate()
		var log bytes.Buffer
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		wall := time.Now().Add(test.ahead)
		c.warnLocked(wall, test.known)
		c.warnLocked(wall, test.known) // not twice a day
		_, said, _ := strings.Cut(log.String(), " ")
		if !strings.HasPrefix(said, test.want) || test.want == "" && said != "" {
			t.Errorf("%s: logged %q", test.name, said)
		}
		if test.name == "soon" && !strings.Contains(said, "days=11") {
			t.Errorf("logged %q", said)
		}
		if n := strings.Count(log.String(), "\n"); n > 1 {
			t.Errorf("%s: logged %d times", test.name, n)
		}
	}
}

func TestEndOfCertificateIsAnnouncedDaily(t *testing.T) {
	files := newServerFiles(newAuthority(t))
	c := files.certificate()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		ctx, cancel := context.WithTimeout(t.Context(), 71*time.Hour)
		defer cancel()
		c.watch(ctx, func() (time.Time, bool) { return time.Now().Add(time.Hour * 24 * 365 * 100), true })
		if n := strings.Count(log.String(), "has expired"); n != 3 {
			t.Errorf("%d warnings in three days:\n%s", n, log.String())
		}
	})
}

// A handshake that a client does not finish ends with the time it has for its
// CONNECT, and keeps nobody else waiting.
func TestSlowHandshakes(t *testing.T) {
	files := newServerFiles(newAuthority(t))
	c := files.certificate()
	hello := []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
	half := []byte("GET /mqtt HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nX: ")
	secure := &tls.Config{InsecureSkipVerify: true} // the clock of the bubble is not that of the certificate
	for _, test := range []struct {
		name   string
		listen Listen
		first  []byte // sent at once
		client *tls.Config
	}{
		{"TLS, nothing", Listen{TLS: c.Config()}, nil, nil},
		{"TLS, half a hello", Listen{TLS: c.Config()}, hello, nil},
		{"WebSocket, nothing", Listen{WebSocket: true}, nil, nil},
		{"WebSocket, endless header", Listen{WebSocket: true}, half, nil},
		{"WebSocket, half a CONNECT", Listen{WebSocket: true}, []byte(request), nil},
		{"wss, half a hello", Listen{WebSocket: true, TLS: c.Config()}, hello, nil},
		{"wss, no request", Listen{WebSocket: true, TLS: c.Config()}, nil, secure},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, _ := New(Config{Log: testLog(t)})
				l := &scarce{accepted: make(chan net.Conn)}
				b.run.Go(func() { b.acceptLoop(t.Context(), b.around(l, &test.listen)) })
				near, far := net.Pipe()
				l.accepted <- far
				start := time.Now()
				conn := net.Conn(near)
				if test.client != nil {
					conn = tls.Client(near, test.client)
				}
				var dripping sync.WaitGroup
				dripping.Go(func() { drip(conn, test.first) })
				io.Copy(io.Discard, near)
				if d := time.Since(start); d < connectWait || d > connectWait+5*time.Second {
					t.Errorf("held for %v", d)
				}
				near.Close()
				close(l.accepted)
				dripping.Wait()
				b.run.Wait()
			})
		})
	}
}

// drip sends first, and then a byte a second until conn is closed.
func drip(conn net.Conn, first []byte) {
	if first == nil {
		if secure, ok := conn.(*tls.Conn); ok {
			secure.Handshake()
		}
		return
	}
	_, err := conn.Write(first)
	if err == nil && string(first) == request {
		_, err = conn.Write(slices.Concat(frameHead(final, opBinary, 99), masked([]byte("\x10\x7f")))) // a CONNECT of 127 bytes
	}
	for ; err == nil; _, err = conn.Write([]byte("x")) {
		time.Sleep(time.Second) // of the bubble
	}
}

// A client whose authority is no longer trusted does not come back by resuming
// its session.
func TestTrustIsNotResumed(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	files := newServerFiles(ours)
	c := files.certificate(func(cfg *CertificateConfig) { cfg.ClientCA.Path = files.path("ca.crt") })
	_, addr := start(t, Config{Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0", TLS: c.Config()}}})
	client := &tls.Config{RootCAs: ours.pool(), Certificates: []tls.Certificate{ours.pair("meter 1")}, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	connect := func() error {
		conn, err := tls.Dial("tcp", addr, client)
		if err != nil {
			return err
		}
		p := newPeer(t, conn, packet.V5)
		if err := p.trySend(&packet.Connect{Version: packet.V5, ClientID: "p", CleanStart: true}); err != nil {
			return err
		}
		if _, err := p.read(); err != nil {
			return err
		}
		if conn.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
		return nil
	}
	for range 2 {
		if err := connect(); err != nil {
			t.Fatal(err)
		}
	}
	files.write("ca.crt", others.pem)
	c.mu.Lock()
	c.checked = time.Time{}
	c.mu.Unlock()
	if err := connect(); err == nil {
		t.Error("let in by an authority that is no longer trusted")
	}
}
