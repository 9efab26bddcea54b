package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

// A caller is a connection that comes from an address of the test's choice.
type caller struct {
	net.Conn
	addr net.Addr
}

func (c *caller) RemoteAddr() net.Addr { return c.addr }

// call connects from addr, "" for a Unix socket, and sends nothing.
func call(t *testing.T, b *Broker, addr string) *peer {
	near, far := net.Pipe()
	c := &caller{far, &net.UnixAddr{Net: "unix"}}
	if addr != "" {
		c.addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1000))
	}
	b.admit(t.Context(), c)
	return newPeer(t, near, packet.V5)
}

// closed says whether the broker has closed p's connection by now.
func (p *peer) closed() bool {
	synctest.Wait()
	p.conn.SetReadDeadline(time.Now())
	defer p.conn.SetReadDeadline(time.Time{})
	_, err := p.conn.Read(make([]byte, 1))
	return !timedOut(err)
}

func TestConnectionsPerAddress(t *testing.T) {
	for _, test := range []struct {
		addr      string
		limit     int
		mayHold   int
		fromOther string
	}{
		{"192.168.1.5", 0, 100, "192.168.1.6"},
		{"192.168.1.5", 7, 7, "192.168.1.6"},
		{"::ffff:192.168.1.5", 7, 7, "192.168.1.6"},
		{"fd00::1", 0, 100, "fd00::2"},
		{"127.0.0.1", 0, 300, "192.168.1.6"},
		{"127.0.0.1", 7, 7, "127.0.0.2"},
		{"::1", 0, 300, "192.168.1.6"},
		{"", 7, 300, "192.168.1.6"},
	} {
		inBubble(t, Config{Limits: Limits{PerAddress: test.limit}, Log: slog.New(slog.DiscardHandler)}, func(t *testing.T, b *Broker) {
			var held []*peer
			for i := range test.mayHold {
				held = append(held, call(t, b, test.addr))
				if held[i].closed() {
					t.Fatalf("%q: connection %d of %d refused", test.addr, i, test.mayHold)
				}
			}
			if test.mayHold == 300 {
				return
			}
			if !call(t, b, test.addr).closed() {
				t.Errorf("%q: connection %d was let in", test.addr, test.mayHold)
			}
			if call(t, b, test.fromOther).closed() {
				t.Errorf("%q kept %q out", test.addr, test.fromOther)
			}
			held[3].conn.Close()
			synctest.Wait()
			if call(t, b, test.addr).closed() {
				t.Errorf("%q: the place of one that left was not given away", test.addr)
			}
		})
	}
}

// Refusals are logged once a minute, however many there are.
func TestRefusalsAreLoggedSeldom(t *testing.T) {
	var log bytes.Buffer
	inBubble(t, Config{Limits: Limits{PerAddress: 1, Connections: 3}, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}, func(t *testing.T, b *Broker) {
		for range 50 {
			held := call(t, b, "192.168.1.5")
			call(t, b, "192.168.1.5")
			held.conn.Close()
			synctest.Wait()
		}
		for i := range 20 {
			call(t, b, fmt.Sprintf("10.0.0.%d", i))
		}
		for _, want := range []string{"max_connections_per_address", "max_connections allows"} {
			if n := strings.Count(log.String(), want); n != 1 {
				t.Errorf("%q was logged %d times:\n%s", want, n, log.String())
			}
		}
	})
}

// An address that fills all places with connections that say nothing makes
// room for others; clients keep their places.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	inBubble(t, Config{Limits: Limits{Connections: 10}, Log: slog.New(slog.DiscardHandler)}, func(t *testing.T, b *Broker) {
		client := call(t, b, "192.168.1.5")
		client.connect("client")
		var silent []*peer
		for range 8 {
			silent = append(silent, call(t, b, "10.0.0.1"))
		}
		shy := call(t, b, "192.168.1.6")
		for i := range 6 {
			p := call(t, b, fmt.Sprintf("192.168.2.%d", i))
			p.connect(fmt.Sprint(i))
			if !silent[i].closed() || silent[i+1].closed() {
				t.Fatalf("newcomer %d: the oldest of the silent ones is not the one that had to go", i)
			}
		}
		if call(t, b, "10.0.0.1").closed() == false {
			t.Error("the silent address took another place")
		}
		call(t, b, "192.168.2.7").connect("7")
		if late := call(t, b, "192.168.2.8"); !late.closed() {
			t.Error("someone had to go who had but one place")
		}
		if shy.closed() || client.closed() {
			t.Error("the wrong one had to go")
		}
		client.conn.SetReadDeadline(time.Time{})
		client.ask()
		if n := len(b.open); n > 10 {
			t.Errorf("%d connections", n)
		}
	})
}

// An address from which nothing but failures come has to wait; a success, or a
// minute, ends that. This machine never waits.
func TestFailuresAreSlowedDown(t *testing.T) {
	inBubble(t, Config{Log: slog.New(slog.DiscardHandler)}, func(t *testing.T, b *Broker) {
		fail := func(addr string, n int) {
			for range n {
				p := call(t, b, addr)
				p.conn.Write([]byte("\xff\xff")) // as many malformed packets would
				p.conn.Close()
				synctest.Wait()
			}
		}
		connect := func(addr, id string) time.Duration {
			start := time.Now()
			p := call(t, b, addr)
			p.connect(id)
			defer func() { p.send(&packet.Disconnect{}); p.gone(); synctest.Wait() }()
			return time.Since(start)
		}
		for _, test := range []struct {
			what, fails, comes string
			n                  int
			want               time.Duration
		}{
			{"few failures", "10.0.0.1", "10.0.0.1", patience - 1, 0},
			{"many failures", "10.0.0.2", "10.0.0.2", patience, strikeWait},
			{"after a success", "", "10.0.0.2", 0, 0},
			{"somebody else's", "10.0.0.3", "10.0.0.4", patience, 0},
			{"this machine", "127.0.0.1", "127.0.0.1", 10 * patience, 0},
			{"a Unix socket", "", "", 10 * patience, 0},
		} {
			fail(test.fails, test.n)
			if got := connect(test.comes, "p"); got != test.want {
				t.Errorf("%s: waited %v, want %v", test.what, got, test.want)
			}
		}
		time.Sleep(strikeAge) // of the bubble
		if got := connect("10.0.0.3", "p"); got != 0 {
			t.Errorf("a minute later it waited %v", got)
		}
	})
}

// What is remembered of addresses is bounded, whoever comes.
func TestSourcesAreForgotten(t *testing.T) {
	var s sources
	now := time.Now()
	enter := func(i uint32) net.Conn {
		conn := &caller{addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, i))), 1))}
		s.enter(conn, s.of(conn), now)
		return conn
	}
	stays := enter(1 << 24)
	for i := range uint32(3 * maxSources) {
		s.leave(enter(2<<24+i), now)
		if len(s.byAddr) > maxSources+2 {
			t.Fatalf("%d addresses are remembered", len(s.byAddr))
		}
	}
	if s.of(stays).open != 1 || len(s.visits) != 1 {
		t.Error("one that is there was forgotten")
	}
	if s.leave(stays, now); len(s.visits) != 0 {
		t.Error("one that left is remembered")
	}
	s.leave(stays, now) // again
	if s.of(stays).open != 0 {
		t.Errorf("%d are open", s.of(stays).open)
	}
}
