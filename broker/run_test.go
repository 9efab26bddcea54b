package broker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

// start runs a broker on a loopback port and returns it with its address.
func start(t testing.TB, cfg Config) (*Broker, string) {
	t.Helper()
	if cfg.Listen == nil {
		cfg.Listen = []Listen{{Network: "tcp", Address: "127.0.0.1:0"}}
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-b.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	return b, b.Addr(0).String()
}

func dial(t *testing.T, addr string, v packet.Version, id string) *peer {
	t.Helper()
	p := dialRaw(t, addr, v)
	p.connect(id)
	return p
}

// dialRaw connects a peer that has sent nothing yet.
func dialRaw(t *testing.T, addr string, v packet.Version) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return newPeer(t, conn, v)
}

func TestStopSendsWhatIsQueuedAndSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Config{Log: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		go func() { stopped <- b.Run(ctx) }()
		j := withJournal(b, "durable")
		quiet, reader, stuck := pipe(t, b, packet.V5), join(t, b, packet.V5, "reader"), join(t, b, packet.V5, "stuck")
		reader.subscribe(qos(1, "t"))
		stuck.subscribe(qos(1, "t"))
		for i := range 150 {
			b.Publish(&Message{Topic: "t", QoS: 0, Payload: fmt.Append(nil, i)})
		}
		reader.send(&packet.Publish{Topic: "durable", QoS: 1, ID: 9})
		synctest.Wait()
		start := time.Now()
		cancel()
		synctest.Wait()
		for _, done := range j.done {
			done(nil)
		}
		messages, acks := 0, 0
		for {
			pk, err := reader.read()
			if err != nil {
				t.Fatal(err)
			}
			switch pk := pk.(type) {
			case *packet.Publish:
				messages++
				continue
			case *packet.Ack:
				acks++
				continue
			case *packet.Disconnect:
				if pk.Reason != packet.ServerShuttingDown || messages != 150 || acks != 1 {
					t.Errorf("%v after %d messages and %d acknowledgements", pk.Reason, messages, acks)
				}
			}
			break
		}
		quiet.gone()
		if err := <-stopped; err != nil || time.Since(start) > 2*grace {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		b.Publish(&Message{Topic: "durable"}) // late ones hurt nobody
	})
}

func TestNoGoroutineIsLeft(t *testing.T) {
	b, err := New(Config{Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0"}}, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	for i := range 20 {
		p := dial(t, b.Addr(0).String(), versions[i%2], fmt.Sprint(i))
		p.subscribe(qos(1, "#"))
		p.trySend(&packet.Publish{Topic: "t", QoS: 1, ID: 1, Retain: true, Payload: []byte("x")})
	}
	idle, err := net.Dial("tcp", b.Addr(0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "edgegateway/broker.(*client)") || strings.Contains(stack, "edgegateway/broker.(*Broker)") {
			t.Errorf("left over:\n%s", stack)
		}
	}
}

// scarce is a listener without descriptors for a while.
type scarce struct {
	net.Listener
	failures int
	accepted chan net.Conn
}

func (l *scarce) Addr() net.Addr { return &net.TCPAddr{} }

func (l *scarce) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	conn, ok := <-l.accepted
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func TestAcceptSurvivesTheLackOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := New(Config{})
		l := &scarce{failures: 20, accepted: make(chan net.Conn)}
		start := time.Now()
		b.run.Go(func() { b.acceptLoop(t.Context(), l) })
		near, far := net.Pipe()
		l.accepted <- far
		if ack := newPeer(t, near, packet.V5).connect("p"); ack.Reason != packet.Success {
			t.Error(ack.Reason)
		}
		if d := time.Since(start); d < 10*time.Second || d > 20*time.Second {
			t.Errorf("20 failures took %v", d)
		}
		close(l.accepted)
		b.shutClients()
		b.run.Wait()
	})
}

func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	_, addr := start(t, Config{Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0", TLS: server}}})
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	plain.Write([]byte("\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"))
	if raw := make([]byte, 4); true {
		if n, _ := plain.Read(raw); n == 4 && raw[0] == 0x20 {
			t.Error("a plain client got in")
		}
	}
	plain.Close()
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, conn, packet.V5)
	p.connect("p")
	p.subscribe(qos(1, "t"))
	p.send(&packet.Publish{Topic: "t", Payload: []byte("x")})
	p.message("x")
}

func TestStats(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V311, "p")
		p.subscribe(qos(1, "a"), qos(1, "b"))
		p.publish(1, "a", "x")
		m := expect[*packet.Publish](p)
		s, c := b.Stats(), b.ClientStats()
		if s.Clients != 1 || s.Connections != 1 || s.MessagesIn != 1 || s.MessagesOut != 1 || s.Subscriptions != 2 || s.BytesIn == 0 || s.BytesOut == 0 {
			t.Errorf("%+v", s)
		}
		if len(c) != 1 || c[0].ID != "p" || c[0].Version != "3.1.1" || c[0].InFlight != 1 || c[0].In != 1 || c[0].Out != 1 || c[0].Subscriptions != 2 {
			t.Errorf("%+v", c)
		}
		p.acknowledge(m)
		p.send(&packet.Disconnect{})
		p.gone()
		synctest.Wait()
		if s := b.Stats(); s.Clients != 0 || s.Subscriptions != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A port that somebody else holds is taken as soon as it is free; until then
// the rest of the broker works.
func TestBrokerTriesAgainToListen(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := held.Addr().String()
	b, err := New(Config{Listen: []Listen{{Network: "tcp", Address: addr}, {Network: "tcp", Address: "127.0.0.1:0"}}})
	if err != nil {
		t.Fatal(err)
	}
	b.relisten = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if b.Addr(0) != nil {
		t.Fatalf("listens at %v, which is held", b.Addr(0))
	}
	if conn, err := net.Dial("tcp", b.Addr(1).String()); err != nil {
		t.Fatalf("the other address: %v", err)
	} else {
		conn.Close()
	}
	held.Close()
	for b.Addr(0) == nil {
		if t.Context().Err() != nil {
			t.Fatal("did not listen after the port was free")
		}
		runtime.Gosched()
	}
}
