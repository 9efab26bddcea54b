package modbus

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/devices/serial/pty"
)

// An authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, pool: x509.NewCertPool()}
	c := a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// sign completes template.
func (a *authority) sign(template *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = big.NewInt(1), pkix.Name{CommonName: "test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// server is a certificate for a device with a name.
func (a *authority) server(name string) tls.Certificate {
	return a.sign(&x509.Certificate{DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

// client is a certificate with roles.
func (a *authority) client(roles ...string) tls.Certificate {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, r := range roles {
		value, err := asn1.MarshalWithParams(r, "utf8")
		if err != nil {
			a.t.Fatal(err)
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: RoleOID, Value: value})
	}
	return a.sign(template)
}

// config is what a server needs whose clients must show a certificate.
func (a *authority) config(name string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.server(name)}, ClientCAs: a.pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
}

// serving runs serve until the test ends.
func serving(t *testing.T, serve func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := serve(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
}

// listen returns a listener on loopback and its address.
func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln, ln.Addr().String()
}

// listenUDP is listen for datagrams.
func listenUDP(t *testing.T) (net.PacketConn, string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return conn, conn.LocalAddr().String()
}

// serveOne serves one connection of ln with serve.
func serveOne(t *testing.T, ln net.Listener, serve func(context.Context, Port, serial.Config, Store) error) {
	serving(t, func(ctx context.Context) error {
		defer ln.Close()
		defer context.AfterFunc(ctx, func() { ln.Close() })()
		conn, err := ln.Accept()
		if err != nil {
			return nil
		}
		defer conn.Close()
		if err := serve(ctx, conn, serial.Config{}, &plant{}); err != nil && !strings.Contains(err.Error(), "EOF") {
			return err
		}
		return nil
	})
}

// TestPairs reads and writes through each pair of framing and carrier.
func TestPairs(t *testing.T) {
	a := newAuthority(t)
	for name, start := range map[string]func(t *testing.T) Config{
		"tcp": func(t *testing.T) Config {
			ln, addr := listen(t)
			serving(t, func(ctx context.Context) error { return ServeTCP(ctx, ln, &plant{}) })
			return Config{URL: "tcp://" + addr}
		},
		"tls": func(t *testing.T) Config {
			ln, addr := listen(t)
			serving(t, func(ctx context.Context) error {
				return ServeTCP(ctx, tls.NewListener(ln, a.config("meter.example")), &plant{})
			})
			return Config{URL: "tls://" + addr, TLS: &tls.Config{RootCAs: a.pool, ServerName: "meter.example",
				Certificates: []tls.Certificate{a.client("operator")}}}
		},
		"udp": func(t *testing.T) Config {
			conn, addr := listenUDP(t)
			serving(t, func(ctx context.Context) error { return ServeUDP(ctx, conn, &plant{}) })
			return Config{URL: "udp://" + addr}
		},
		"rtu+udp": func(t *testing.T) Config {
			conn, addr := listenUDP(t)
			serving(t, func(ctx context.Context) error { return ServeRTUOverUDP(ctx, conn, &plant{}) })
			return Config{URL: "rtu+udp://" + addr}
		},
		"rtu+tcp": func(t *testing.T) Config {
			ln, addr := listen(t)
			serveOne(t, ln, ServeRTU)
			return Config{URL: "rtu+tcp://" + addr}
		},
		"ascii+tcp": func(t *testing.T) Config {
			ln, addr := listen(t)
			serveOne(t, ln, ServeASCII)
			return Config{URL: "ascii+tcp://" + addr}
		},
		"ascii on a port": func(t *testing.T) Config {
			pair, err := pty.Open(pty.Config{Baud: 115200, Format: "7E1"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { pair.Close() })
			port, err := serial.Open(serial.Config{Path: pair.B, Baud: 115200, Format: "7E1"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { port.Close() })
			serving(t, func(ctx context.Context) error { return ServeASCII(ctx, port, serial.Config{}, &plant{}) })
			return Config{Serial: serial.Config{Path: pair.A, Baud: 115200, Format: "7E1"}, Framing: FramingASCII}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := NewLine(start(t))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			dev := meter(Unit{ID: 3}, Register{Coil, 3, 30}, Register{Discrete, 0, 2000}, Register{Input, 1, 125}, Register{Holding, 100, 2})
			b, err := read(t, l, dev)
			if err != nil || verify(b) != nil {
				t.Errorf("%v, %v", err, verify(b))
			}
			for reg, raw := range map[Register]string{{Holding, 10, 1}: "\x12\x34", {Holding, 20, 2}: "\x00\x01\xFF\xFE", {Coil, 5, 1}: "\x01"} {
				dev := meter(Unit{ID: 3}, reg)
				q, err := l.Write(dev, dev.Points[0], []byte(raw), true)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := run(t, dev, q); err != nil || string(b.Readings[0].Raw) != raw {
					t.Errorf("%v: %v, read back % x", q, err, b.Readings[0].Raw)
				}
			}
		})
	}
}

// TestTLSSaysWhatIsWrong connects to devices whose proof, or for whom ours,
// is not enough.
func TestTLSSaysWhatIsWrong(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	good := &tls.Config{RootCAs: a.pool, ServerName: "meter.example", Certificates: []tls.Certificate{a.client()}}
	but := func(change func(c *tls.Config)) *tls.Config {
		c := good.Clone()
		change(c)
		return c
	}
	for _, tt := range []struct {
		name   string
		client *tls.Config
		want   string
	}{
		{"unknown authority", but(func(c *tls.Config) { c.RootCAs = other.pool }), "name its file with ca"},
		{"another name", but(func(c *tls.Config) { c.ServerName = "" }), "server_name"},
		{"no client certificate", but(func(c *tls.Config) { c.Certificates = nil }), "certificate required"},
		{"client of another authority", but(func(c *tls.Config) { c.Certificates = []tls.Certificate{other.client()} }), "certificate"},
		{"TLS 1.1", but(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), "encrypted connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, addr := listen(t)
			serving(t, func(ctx context.Context) error {
				return ServeTCP(ctx, tls.NewListener(ln, a.config("meter.example")), &plant{})
			})
			l, err := NewLine(Config{URL: "tls://" + addr, TLS: tt.client})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			_, err = read(t, l, meter(Unit{ID: 1}, Register{Input, 0, 1}))
			if !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	t.Run("no TLS there", func(t *testing.T) {
		ln, addr := listen(t)
		serving(t, func(ctx context.Context) error { // says something that is not TLS
			defer context.AfterFunc(ctx, func() { ln.Close() })()
			for {
				conn, err := ln.Accept()
				if err != nil {
					return nil
				}
				conn.Write([]byte("220 mail.example\r\n"))
				conn.Close()
			}
		})
		l, err := NewLine(Config{URL: "tls://" + addr, TLS: good})
		if err != nil {
			t.Fatal(err)
		}
		_, err = read(t, l, meter(Unit{ID: 1}, Register{Input, 0, 1}))
		if !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), "does not speak TLS") {
			t.Error(err)
		}
	})
}

// forbidding refuses all.
type forbidding struct{}

func (forbidding) Read([]byte, byte, Table, uint16, uint16) ([]byte, error) {
	return nil, &Exception{Code: IllegalFunction}
}
func (forbidding) Write(byte, Table, uint16, uint16, []byte) error {
	return &Exception{Code: IllegalFunction}
}

// TestTLSRole: over TLS an illegal function may mean that one's role does not
// suffice, so that the message says which it is.
func TestTLSRole(t *testing.T) {
	a := newAuthority(t)
	for _, tt := range []struct {
		roles []string
		want  string
	}{
		{nil, "carries no role"},
		{[]string{"operator"}, `role is "operator" (extension 1.3.6.1.4.1.50316.802.1)`},
	} {
		ln, addr := listen(t)
		serving(t, func(ctx context.Context) error {
			return ServeTCP(ctx, tls.NewListener(ln, a.config("meter.example")), forbidding{})
		})
		l, err := NewLine(Config{URL: "tls://" + addr, TLS: &tls.Config{RootCAs: a.pool, ServerName: "meter.example",
			Certificates: []tls.Certificate{a.client(tt.roles...)}}})
		if err != nil {
			t.Fatal(err)
		}
		b, err := read(t, l, meter(Unit{ID: 1}, Register{Input, 0, 1}))
		if err != nil {
			t.Fatal(err)
		}
		got := b.Readings[0].Err
		if devices.Cause(got) != "illegal function" || !strings.Contains(got.Error(), tt.want) {
			t.Errorf("%v, want %q", got, tt.want)
		}
		l.Close()
	}
}

// TestUDPDatagrams: each datagram stands for itself, and only the one that
// answers is an answer.
func TestUDPDatagrams(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(good []byte) []piece
		want string
	}{
		{"whole", atOnce, ""},
		{"foreign transaction first", func(g []byte) []piece { return []piece{{0, patched(g, 0, 9, 9)}, {0, g}} }, ""},
		{"twice", func(g []byte) []piece { return []piece{{0, g}, {0, g}} }, ""},
		{"cut short, then whole", func(g []byte) []piece { return []piece{{0, g[:9]}, {0, g}} }, ""},
		{"noise, then whole", func(g []byte) []piece { return []piece{{0, []byte("noise")}, {0, make([]byte, 300)}, {0, g}} }, ""},
		{"in two", func(g []byte) []piece { return []piece{{0, g[:9]}, {0, g[9:]}} }, "timeout"},
		{"with something behind", func(g []byte) []piece { return atOnce(joined(g, []byte{0})) }, "timeout"},
		{"silence", func([]byte) []piece { return nil }, "timeout"},
		{"late", func(g []byte) []piece { return []piece{{150 * time.Millisecond, g}} }, "timeout"},
		{"another function", func(g []byte) []piece { return atOnce(patched(g, 7, 4)) }, "bad reply"},
		{"exception", func(g []byte) []piece { return atOnce(patched(g[:9], 4, 0, 3, 1, 0x83, 2)) }, "illegal data address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := true
				l := scripted(t, Config{URL: "udp://plc"}, func(frame []byte) []piece {
					g := tcpReply(&plant{}, frame)
					if first {
						first = false
						return tt.say(g)
					}
					return atOnce(g)
				})
				dev := meter(Unit{ID: 1}, Register{Holding, 100, 4})
				b, err := read(t, l, dev)
				judge(t, b, err, tt.want)
				time.Sleep(time.Second)
				if b, err = read(t, l, dev); err != nil || verify(b) != nil || l.Stats().Opened != 1 {
					t.Errorf("afterwards: %v, %v, %+v", err, verify(b), l.Stats())
				}
			})
		})
	}
}

// TestUDPNobodyThere: the host says that nothing listens.
func TestUDPNobodyThere(t *testing.T) {
	conn, addr := listenUDP(t)
	conn.Close()
	for _, scheme := range []string{"udp", "rtu+udp"} {
		l, err := NewLine(Config{URL: scheme + "://" + addr})
		if err != nil {
			t.Fatal(err)
		}
		_, err = read(t, l, meter(Unit{ID: 1}, Register{Input, 0, 1}))
		if !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), "nothing listens") {
			t.Error(err)
		}
	}
}

// writePEM puts a certificate and its key into files.
func writePEM(t *testing.T, c tls.Certificate) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
