package bridge

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"golang.org/x/sys/unix"

	"edgegateway/broker"
)

// What CONNECT says: a session that outlives the connection, and a Receive
// Maximum, without which paho makes room for 65535 messages.
func TestConnectPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) {
			c.Username, c.Password = "u", "secret"
			c.KeepAlive = 30 * time.Second
			c.Status = &Status{"st/gw", []byte("online"), []byte("offline")}
		})
		r.start()
		synctest.Wait()
		c := r.up.connects[0]
		if c.ClientID != "gw" || c.CleanStart || c.KeepAlive != 30 || c.Username != "u" || string(c.Password) != "secret" ||
			*c.Properties.SessionExpiryInterval != 86400 || *c.Properties.ReceiveMaximum != inboundWindow || *c.Properties.MaximumPacketSize != maxInbound {
			t.Errorf("CONNECT %v", c)
		}
		if c.WillTopic != "st/gw" || string(c.WillMessage) != "offline" || !c.WillRetain || c.WillQOS != 1 {
			t.Errorf("Will in %v", c)
		}
		r.end()
	})
}

func TestWillIsLoweredToWhatTheServerSupports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Status = &Status{"st/gw", []byte("online"), []byte("offline")} })
		r.up.connack = func(_ int, c *packets.Connect) *packets.Connack {
			ca := &packets.Connack{Properties: &packets.Properties{RetainAvailable: new(byte(0)), MaximumQOS: new(byte(0))}}
			switch {
			case c.WillRetain:
				ca.ReasonCode = packets.ConnackRetainNotSupported
			case c.WillQOS > 0:
				ca.ReasonCode = packets.ConnackQoSNotSupported
			}
			return ca
		}
		r.start()
		pass(time.Minute)
		if p := r.up.payloads(); r.up.attempts() != 3 || !slices.Equal(p, []string{"online"}) {
			t.Errorf("%d attempts, arrived %q", r.up.attempts(), p)
		}
		r.end()
	})
}

func TestStatusAndPoliteEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Status = &Status{"st/gw", []byte("online"), []byte("offline")} })
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			time.Sleep(10 * time.Millisecond)
			c.ack(p, 0)
		}
		r.tele.fill(0, 30)
		r.start()
		pass(time.Millisecond)
		r.end()
		synctest.Wait()
		want := append(append([]string{"online"}, numbers(0, 30)...), "offline")
		if got := r.up.payloads(); !slices.Equal(got, want) {
			t.Errorf("arrived %q", got)
		}
		if last := r.up.got[31]; last.Topic != "st/gw" || !last.Retain || r.tele.Acked() != 30 {
			t.Errorf("last %v, cursor %d", last, r.tele.Acked())
		}
		if len(r.up.goodbyes) != 1 || r.up.goodbyes[0].ReasonCode != 0 {
			t.Errorf("DISCONNECT %v", r.up.goodbyes)
		}
	})
}

func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) {
			c.Window, c.DrainTime = 1, 3*time.Second
			c.Status = &Status{"st/gw", []byte("online"), []byte("offline")}
		})
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			time.Sleep(100 * time.Millisecond)
			c.ack(p, 0)
		}
		r.tele.fill(0, 1000)
		r.start()
		pass(time.Millisecond)
		start := time.Now()
		r.end()
		if d := time.Since(start); d < 3*time.Second || d > 3500*time.Millisecond {
			t.Errorf("ended after %v", d)
		}
		if got := r.up.payloads(); got[len(got)-1] != "offline" || r.tele.Acked() < 25 {
			t.Errorf("last %q, cursor %d", got[len(got)-1], r.tele.Acked())
		}
	})
}

func TestEndsAtOnceWithoutUplink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.dialed = func(int) error { return syscall.ECONNREFUSED }
		r.tele.fill(0, 10)
		r.start()
		pass(10 * time.Second)
		start := time.Now()
		r.end()
		if d := time.Since(start); d != 0 {
			t.Errorf("ended after %v", d)
		}
	})
}

// Failures are spaced by a bound that doubles; the log says so once, and once
// more what waits for a person; then that it is over, and how long it took.
func TestOutageIsLoggedOnceAndSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.random = func() float64 { return 1 }
		r.up.dialed = func(n int) error {
			switch {
			case n == 4:
				return x509.UnknownAuthorityError{}
			case n < 9:
				return &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			return nil
		}
		r.tele.fill(0, 10)
		r.start()
		pass(10 * time.Minute)
		var waits []time.Duration
		for i := range r.up.times[1:] {
			waits = append(waits, r.up.times[i+1].Sub(r.up.times[i])/time.Second)
		}
		if want := []time.Duration{8, 8, 8, 16, 32, 60, 60, 60}; !slices.Equal(waits, want) {
			t.Errorf("waited %d s, want %d", waits, want)
		}
		if r.lines("no uplink") != 2 || r.lines("refused the connection") != 1 || r.lines("authority not trusted") != 1 ||
			r.lines("uplink restored") != 1 || r.lines("dur=4m12s n=10") != 1 {
			t.Errorf("log:\n%s", r.logged)
		}
		if s := r.Stats(); s.LongestOutage != 252*time.Second || s.Reconnects != 0 || s.State != Up {
			t.Errorf("stats %+v", s)
		}
		r.end()
	})
}

func TestURLsAreTriedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.URLs = []string{"tcp://a", "tls://b", "tcp://c:77"} })
		r.up.dialed = func(n int) error {
			if n == 5 {
				return nil
			}
			return syscall.ECONNREFUSED
		}
		r.start()
		pass(time.Minute)
		r.up.conns[0].Close()
		pass(2 * time.Second)
		want := []string{"a:1883", "b:8883", "c:77", "a:1883", "b:8883", "a:1883"}
		if got := r.up.dials[:6]; !slices.Equal(got, want) {
			t.Errorf("tried %q, want %q: after a while of success the first is preferred", got, want)
		}
		r.end()
	})
}

// The servers of a cluster are equals: each client id begins with another one,
// and the next one follows when one is lost. One that ends the login of a client
// that it took before has trouble of its own.
func TestServersOfAClusterAreEquals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := make(map[string]int)
		for n := range 30 {
			r := newRig(t, func(c *Config) {
				c.URLs, c.Alike, c.ClientID = []string{"tcp://a", "tcp://b", "tcp://c"}, true, fmt.Sprint("plant", n)
			})
			r.up.dialed = func(n int) error {
				if n == 2 {
					return io.EOF
				}
				return nil
			}
			r.start()
			pass(time.Minute)
			r.up.conns[0].Close()
			pass(1500 * time.Millisecond)
			if e := r.Stats().LastError; !strings.Contains(e, "no majority of its servers") {
				t.Errorf("it says %s", e)
			}
			pass(time.Minute)
			if d := r.up.dials; len(d) != 3 || d[0] == d[1] || d[1] == d[2] || d[2] == d[0] {
				t.Errorf("tried %q", d)
			}
			first[r.up.dials[0]]++
			r.end()
		}
		if len(first) != 3 {
			t.Errorf("the first ones are %v", first)
		}
	})
}

// Two gateways with one client id would throw each other out at once again
// and again.
func TestShortConnectionsDoNotResetBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.random = func() float64 { return 1 }
		r.up.connack = func(_ int, _ *packets.Connect) *packets.Connack {
			return &packets.Connack{Properties: &packets.Properties{}}
		}
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			c.ack(p, 0)
			c.send(&packets.Disconnect{ReasonCode: packets.DisconnectSessionTakenOver, Properties: &packets.Properties{ReasonString: "kicked"}})
			c.send(nil)
		}
		r.start()
		for i := range 10 {
			r.tele.fill(i, i+1)
			pass(time.Minute)
		}
		if last := r.up.times[5].Sub(r.up.times[4]); last < 32*time.Second {
			t.Errorf("tried again after %v: %v", last, r.up.times)
		}
		if e := r.Stats().LastError; !strings.Contains(e, "same client id") || !strings.Contains(e, "kicked") {
			t.Errorf("last error %q", e)
		}
		r.end()
	})
}

// A far broker that stops answering pings.
func TestSilentServerIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.KeepAlive = 10 * time.Second })
		r.up.deaf = func(n int) bool { return n == 1 }
		r.start()
		pass(35 * time.Second)
		if r.up.attempts() != 2 {
			t.Errorf("%d connections: %s", r.up.attempts(), r.logged)
		}
		r.end()
		time.Sleep(time.Hour) // the deaf one
	})
}

// A server that offers an authentication method must not crash the client.
func TestUnaskedAuthentication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.connack = func(int, *packets.Connect) *packets.Connack {
			return &packets.Connack{Properties: &packets.Properties{AuthMethod: "x"}}
		}
		r.tele.fill(0, 1)
		r.start()
		synctest.Wait()
		if r.tele.Acked() != 1 {
			t.Error("nothing was sent")
		}
		r.end()
	})
}

func remoteAlert(text string) error {
	return &net.OpError{Op: "remote error", Err: errors.New("tls: " + text)}
}

func TestExplain(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{DNSNames: []string{"a.example"}, NotBefore: now.AddDate(0, -2, 0), NotAfter: now.AddDate(0, -1, 0)}
	early := &x509.Certificate{NotBefore: now.AddDate(0, 1, 0), NotAfter: now.AddDate(0, 2, 0)}
	for _, c := range []struct {
		err    error
		want   string
		person bool
	}{
		{&net.DNSError{Name: "h", IsNotFound: true}, `DNS knows no host "h"`, false},
		{&net.DNSError{Name: "h", IsTimeout: true}, "no answer from DNS", false},
		{&net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "up:1 refused the connection", false},
		{syscall.ENETUNREACH, "no route to up:1", false},
		{context.DeadlineExceeded, "no answer from up:1", false},
		{io.EOF, "closed the connection during login", false},
		{&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: cert, Host: "b"}}, `not for "b" but for a.example`, true},
		{&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired}}, "expired", true},
		{x509.CertificateInvalidError{Cert: early, Reason: x509.Expired}, "is this clock right?", false},
		{x509.UnknownAuthorityError{}, "authority not trusted", true},
		{tls.RecordHeaderError{}, "does not speak TLS", true},
		{remoteAlert("certificate required"), "wants a client certificate", true},
		{remoteAlert("unknown certificate authority"), "does not accept our client certificate", true},
		{remoteAlert("expired certificate"), "client certificate has expired", true},
		{remoteAlert("internal error"), "ended TLS: internal error", true},
		{&refusal{"CONNACK", 0x86, ""}, "user or password", true},
		{&refusal{"CONNACK", 0x87, ""}, "not authorised", true},
		{&refusal{"CONNACK", 0x84, ""}, "does not speak this version of MQTT", true},
		{&refusal{"CONNACK", 0x88, "later"}, `"later"`, false},
		{&refusal{"DISCONNECT", 0x8E, ""}, "same client id", true},
		{&refusal{"DISCONNECT", 0x8B, ""}, "shutting down", false},
		{errors.New("other"), "other", false},
	} {
		words, person := explain(fmt.Errorf("connect: %w", c.err), "up:1", true, now)
		if !strings.Contains(words, c.want) || person != c.person {
			t.Errorf("%v: %q, %t; want %q, %t", c.err, words, person, c.want, c.person)
		}
	}
	for code := range 256 {
		if reasonWords(byte(code)) == "" {
			t.Errorf("no words for 0x%02X", code)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	_, err := newBridge(Config{QoS: 2, Window: 5000, URLs: []string{"http://x", "tcp://u:p@h"}, Send: []Rule{{"a", "#"}}, Receive: []Rule{{"a", "b"}}}, nil, nil, nil)
	for _, want := range []string{"no name", "client_id", "qos is 2", "window is 5000", `"http://x"`, "keys of their own", "send: ", "receive: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not tell of %q", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "u:p") {
		t.Errorf("error %q holds a password", err)
	}
}

func TestStatsAreJSON(t *testing.T) {
	r := newRig(t, nil)
	r.tele.fill(0, 3)
	text, err := json.Marshal(r.Stats())
	if err != nil || !bytes.Contains(text, []byte(`"state":"connecting"`)) || !bytes.Contains(text, []byte(`"telemetry":{"records":3`)) {
		t.Errorf("%s, %v", text, err)
	}
}

// A half-open connection must not keep bytes for the many minutes of TCP.
func TestDialSetsUserTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := (&dialer{timeout: 7 * time.Second}).dial(t.Context(), &url.URL{Scheme: "tcp", Host: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if ms, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); ms != 7000 || err != nil {
			t.Errorf("TCP_USER_TIMEOUT is %d ms, %v", ms, err)
		}
	})
}

// TestConnFollowsFraming reads packets in pieces of every size.
func TestConnFollowsFraming(t *testing.T) {
	var wire bytes.Buffer
	want := make([]byte, 300)
	(&packets.Publish{Topic: "t", Payload: want, Properties: &packets.Properties{}}).WriteTo(&wire)
	packets.NewControlPacket(packets.PINGRESP).WriteTo(&wire)
	(&packets.Publish{Topic: "t", Payload: want, Properties: &packets.Properties{}}).WriteTo(&wire)
	for size := 1; size < 400; size += 7 {
		c := newConn(wireConn{Reader: bytes.NewReader(wire.Bytes())}, time.Second, 400)
		var got []byte
		buf := make([]byte, size)
		for {
			n, err := c.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				break
			}
		}
		if !bytes.Equal(got, wire.Bytes()) {
			t.Fatalf("pieces of %d: %d bytes of %d", size, len(got), wire.Len())
		}
	}
}

// wireConn is a connection from which a reader's bytes come.
type wireConn struct {
	net.Conn
	io.Reader
}

func (w wireConn) Read(p []byte) (int, error) { return w.Reader.Read(p) }

// FuzzInbound proves that no bytes of a server make the reader panic or make
// room for more than the limit, and that paho's decoder survives them too.
func FuzzInbound(f *testing.F) {
	f.Add([]byte{0x20, 3, 0, 0, 0})
	f.Add([]byte{0x32, 7, 0, 1, 't', 0, 1, 0, 'x'})
	f.Add([]byte{0x40, 2, 0, 1, 0xD0, 0, 0x90, 4, 0, 1, 0, 0})
	f.Add([]byte{0xE0, 2, 0x8E, 0, 0xF0, 0})
	f.Add([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F})
	f.Fuzz(func(t *testing.T, wire []byte) {
		c := newConn(wireConn{Reader: bytes.NewReader(wire)}, time.Second, 1000)
		s := newSession(make(chan ack, 1))
		inbound := make(chan *packets.Publish, len(wire)+1)
		for {
			p, err := packets.ReadPacket(c)
			if c.left > 1000 {
				t.Fatalf("a packet of %d bytes passed", c.left)
			}
			if err != nil {
				return
			}
			_ = s.PacketReceived(p, inbound)
		}
	})
}

func TestOversizePacketEndsTheLink(t *testing.T) {
	c := newConn(wireConn{Reader: bytes.NewReader([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3})}, time.Second, maxInbound)
	if _, err := packets.ReadPacket(c); err == nil || c.Err() == nil {
		t.Errorf("no error for a packet of 256 MiB: %v, %v", err, c.Err())
	}
}

var _ local = (*broker.Broker)(nil)

// A status that changes is told at once, and the Will and the polite end are by
// it from the next connection on.
func TestStatusChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) {
			c.Status, c.Window = &Status{"st/gw", []byte("online"), []byte("offline")}, 1
		})
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			time.Sleep(10 * time.Millisecond)
			c.ack(p, 0)
		}
		r.start()
		pass(100 * time.Millisecond)
		r.SetStatus([]byte("online 2"), []byte("offline 2"))
		pass(100 * time.Millisecond)
		if got := r.up.payloads(); !slices.Equal(got, []string{"online", "online 2"}) {
			t.Errorf("arrived %q", got)
		}
		r.tele.fill(0, 3) // while the window is full it waits
		pass(time.Millisecond)
		r.SetStatus([]byte("online 3"), []byte("offline 3"))
		pass(time.Second)
		if got := r.up.payloads(); !slices.Contains(got, "online 3") {
			t.Errorf("arrived %q", got)
		}
		r.up.conns[0].Close()
		pass(time.Minute)
		r.end()
		if will := r.up.connects[1].WillMessage; string(will) != "offline 3" {
			t.Errorf("the Will is %q", will)
		}
		if got := r.up.payloads(); got[len(got)-1] != "offline 3" {
			t.Errorf("arrived %q", got)
		}
	})
}
