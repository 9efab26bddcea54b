package broker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

// inBubble runs fn with a broker whose clients come over net.Pipe, on a clock
// of its own. A pipe holds nothing: a peer that does not read is stuck.
func inBubble(t *testing.T, cfg Config, fn func(t *testing.T, b *Broker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if cfg.Now == nil {
			cfg.Now = func() int64 { return int64(time.Since(start)) + 1 }
		}
		if cfg.Log == nil {
			cfg.Log = testLog(t)
		}
		b, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		go func() { stopped <- b.Run(ctx) }()
		<-b.Ready()
		defer func() {
			cancel()
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		}()
		fn(t, b)
	})
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// A peer is a client as the tests want it: it sends and expects packets.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    packet.Reader
	v    packet.Version
}

func newPeer(t *testing.T, conn net.Conn, v packet.Version) *peer {
	t.Cleanup(func() { conn.Close() })
	return &peer{t, conn, packet.Reader{Src: bufio.NewReader(conn), Version: v}, v}
}

// pipe connects a peer that has sent nothing yet.
func pipe(t *testing.T, b *Broker, v packet.Version) *peer {
	near, far := net.Pipe()
	b.admit(t.Context(), far)
	return newPeer(t, near, v)
}

// join connects a peer as the client id.
func join(t *testing.T, b *Broker, v packet.Version, id string, change ...func(*packet.Connect)) *peer {
	t.Helper()
	p := pipe(t, b, v)
	ack := p.connect(id, change...)
	if ack.Reason != packet.Success || ack.SessionPresent {
		t.Fatalf("CONNACK of %s: %+v", id, ack)
	}
	return p
}

// rejoin connects a peer whose session is still there.
func rejoin(t *testing.T, b *Broker, v packet.Version, id string, change ...func(*packet.Connect)) *peer {
	t.Helper()
	p := pipe(t, b, v)
	ack := p.connect(id, append([]func(*packet.Connect){keepSession}, change...)...)
	if ack.Reason != packet.Success || !ack.SessionPresent {
		t.Fatalf("CONNACK of %s: %+v", id, ack)
	}
	return p
}

// keepSession asks for a session that outlives the connection.
func keepSession(c *packet.Connect) {
	c.CleanStart = false
	if c.Version >= packet.V5 && !c.Props.Has(packet.SessionExpiry) {
		c.Props = c.Props.AddNum(packet.SessionExpiry, 3600)
	}
}

func (p *peer) connect(id string, change ...func(*packet.Connect)) *packet.Connack {
	p.t.Helper()
	c := &packet.Connect{Version: p.v, ClientID: id, CleanStart: true}
	for _, fn := range change {
		fn(c)
	}
	p.send(c)
	return expect[*packet.Connack](p)
}

func (p *peer) send(pk packet.Packet) {
	p.t.Helper()
	raw, err := pk.Append(nil, p.v)
	if err != nil {
		p.t.Fatal(err)
	}
	p.sendRaw(raw)
}

func (p *peer) sendRaw(raw []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(raw); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

// trySend sends without minding that the broker has closed the connection.
func (p *peer) trySend(pk packet.Packet) error {
	raw, err := pk.Append(nil, p.v)
	if err == nil {
		_, err = p.conn.Write(raw)
	}
	return err
}

func (p *peer) read() (packet.Packet, error) {
	pk, _, err := p.r.Read()
	return pk, err
}

// expect reads the next packet, which must be a T.
func expect[T packet.Packet](p *peer) T {
	p.t.Helper()
	pk, err := p.read()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	got, ok := pk.(T)
	if !ok {
		p.t.Fatalf("got %T %+v", pk, pk)
	}
	return got
}

func (p *peer) subscribe(filters ...packet.Filter) []packet.Reason {
	p.t.Helper()
	p.send(&packet.Subscribe{ID: 1, Filters: filters})
	return expect[*packet.SubAck](p).Reasons
}

// ask sends a ping and returns everything but its answer that the broker
// sends until it has nothing more to send.
func (p *peer) ask() []packet.Packet {
	p.t.Helper()
	p.send(packet.Ping{Kind: packet.PINGREQ})
	p.conn.SetReadDeadline(time.Now().Add(time.Millisecond)) // of the bubble: all others wait
	defer p.conn.SetReadDeadline(time.Time{})
	var got []packet.Packet
	pongs := 0
	for {
		pk, err := p.read()
		if _, ok := pk.(packet.Ping); ok {
			pongs++
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && pongs == 1 {
			return got
		}
		if err != nil {
			p.t.Fatalf("read: %v, with %d answers to a ping", err, pongs)
		}
		got = append(got, pk)
	}
}

// message reads a PUBLISH with the given payload and acknowledges it.
func (p *peer) message(payload string) *packet.Publish {
	p.t.Helper()
	m := expect[*packet.Publish](p)
	if string(m.Payload) != payload {
		p.t.Fatalf("got %q %q, want %q", m.Topic, m.Payload, payload)
	}
	p.acknowledge(m)
	return m
}

func (p *peer) acknowledge(m *packet.Publish) {
	if m.QoS == 1 {
		p.send(&packet.Ack{Kind: packet.PUBACK, ID: m.ID})
	}
}

// publish sends a QoS 1 message and returns the reason of its PUBACK.
func (p *peer) publish(id uint16, topic, payload string) packet.Reason {
	p.t.Helper()
	p.send(&packet.Publish{QoS: 1, ID: id, Topic: topic, Payload: []byte(payload)})
	return p.puback(id)
}

func (p *peer) puback(id uint16) packet.Reason {
	p.t.Helper()
	ack := expect[*packet.Ack](p)
	if ack.Kind != packet.PUBACK || ack.ID != id {
		p.t.Fatalf("got %+v, want PUBACK %d", ack, id)
	}
	if ack.Reason == packet.NoMatchingSubscribers {
		return packet.Success // it is
	}
	return ack.Reason
}

// gone reads to the end of the connection and returns the reason of the
// broker's DISCONNECT, Success if there was none.
func (p *peer) gone() packet.Reason {
	p.t.Helper()
	var reason packet.Reason
	for {
		pk, err := p.read()
		if d, ok := pk.(*packet.Disconnect); ok && err == nil {
			reason = d.Reason
		}
		if err == nil {
			continue
		}
		if err != io.EOF && !errors.Is(err, io.ErrClosedPipe) {
			p.t.Fatalf("read: %v", err)
		}
		return reason
	}
}

func qos(n byte, filter string) packet.Filter { return packet.Filter{Filter: filter, QoS: n} }
