package bridge

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"edgegateway/broker"
)

// An upstream3 is a far broker of MQTT 3.1.1 over net.Pipe. Its hooks run in
// the goroutine of the connection; nil means the usual.
type upstream3 struct {
	connack func(n int) byte // n from 1
	publish func(c *serverConn3, p *packets.PublishPacket)
	suback  []byte // codes; nil: one good one
	deaf    bool   // answers no ping

	mu       sync.Mutex
	connects []*packets.ConnectPacket
	subs     []*packets.SubscribePacket
	got      []string
	gotAll   []*packets.PublishPacket
	acks     []uint16 // for what we sent
	goodbyes int
	pings    int
	conns    []*serverConn3
}

type serverConn3 struct {
	net.Conn
	n   int
	out chan packets.ControlPacket // nil closes
}

func (c *serverConn3) send(p packets.ControlPacket) { c.out <- p }

func (c *serverConn3) ack(id uint16) {
	a := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	a.MessageID = id
	c.send(a)
}

func (u *upstream3) dial(context.Context, *url.URL) (net.Conn, error) {
	near, far := net.Pipe()
	u.mu.Lock()
	c := &serverConn3{far, len(u.conns) + 1, make(chan packets.ControlPacket, 10000)}
	u.conns = append(u.conns, c)
	u.mu.Unlock()
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case p := <-c.out:
				if p == nil {
					c.Close()
					return
				}
				p.Write(c)
			case <-stop:
				return
			}
		}
	}()
	go func() {
		defer close(stop)
		defer c.Close()
		for {
			p, err := packets.ReadPacket(c)
			if err != nil || !u.handle(c, p) {
				return
			}
		}
	}()
	return near, nil
}

func (u *upstream3) handle(c *serverConn3, recv packets.ControlPacket) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch p := recv.(type) {
	case *packets.ConnectPacket:
		u.connects = append(u.connects, p)
		a := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
		if u.connack != nil {
			a.ReturnCode = u.connack(c.n)
		}
		c.send(a)
	case *packets.SubscribePacket:
		u.subs = append(u.subs, p)
		a := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		if a.MessageID, a.ReturnCodes = p.MessageID, u.suback; a.ReturnCodes == nil {
			a.ReturnCodes = []byte{1}
		}
		c.send(a)
	case *packets.PublishPacket:
		u.got, u.gotAll = append(u.got, string(p.Payload)), append(u.gotAll, p)
		if u.publish != nil {
			u.publish(c, p)
		} else if p.Qos == 1 {
			c.ack(p.MessageID)
		}
	case *packets.PubackPacket:
		u.acks = append(u.acks, p.MessageID)
	case *packets.PingreqPacket:
		u.pings++
		if !u.deaf {
			c.send(packets.NewControlPacket(packets.Pingresp))
		}
	case *packets.DisconnectPacket:
		u.goodbyes++
		return false
	}
	return true
}

// newRig3 returns a rig whose far broker is of 3.1.1.
func newRig3(t *testing.T, change func(*Config)) (*rig, *upstream3) {
	r := newRig(t, func(c *Config) {
		c.Version = MQTT311
		if change != nil {
			change(c)
		}
	})
	up := new(upstream3)
	r.dial = up.dial
	return r, up
}

func end3(r *rig, up *upstream3) {
	r.end()
	for _, c := range up.conns {
		c.Close()
	}
	time.Sleep(time.Minute) // a Publish that paho does not end with its connection
}

// CONNECT is of 3.1.1 and no other version, and asks for a lasting session; a
// no is told in words and nothing else is tried.
func TestConnect3(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, up := newRig3(t, func(c *Config) {
			c.Username, c.Password, c.KeepAlive = "u", "secret", 30*time.Second
			c.Status = &Status{"st/gw", []byte("online"), []byte("offline")}
		})
		codes := []byte{1, 2, 3, 4, 5, 200}
		up.connack = func(n int) byte {
			if n <= len(codes) {
				return codes[n-1]
			}
			return 0
		}
		var errs []string
		r.start()
		for range codes {
			synctest.Wait()
			errs = append(errs, r.Stats().LastError)
			time.Sleep(r.backoff(1))
		}
		for i, want := range []string{"this version of MQTT: see version", "see client_id", "it is not available", "see username and password", "not authorised", "no, without a reason"} {
			if !strings.Contains(errs[i], want) || !strings.Contains(errs[i], fmt.Sprintf("(CONNACK return code %d)", codes[i])) {
				t.Errorf("code %d: %q", codes[i], errs[i])
			}
		}
		pass(time.Hour)
		if len(up.connects) != len(codes)+1 || r.Stats().State != Up {
			t.Errorf("%d CONNECTs, %s", len(up.connects), r.Stats().State)
		}
		for _, c := range up.connects {
			if c.ProtocolName != "MQTT" || c.ProtocolVersion != 4 || c.CleanSession || c.ClientIdentifier != "gw" || c.Keepalive != 30 || c.Username != "u" || string(c.Password) != "secret" ||
				c.WillTopic != "st/gw" || string(c.WillMessage) != "offline" || !c.WillRetain || c.WillQos != 1 {
				t.Errorf("CONNECT %v", c)
			}
		}
		end3(r, up)
	})
}

// Messages go in order within the window, whatever order answers come in;
// those of a lost connection come again from the spool and from nowhere else.
func TestSending3(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, up := newRig3(t, func(c *Config) { c.Window = 5 })
		var held []uint16
		most := 0
		up.publish = func(c *serverConn3, p *packets.PublishPacket) {
			if c.n == 1 && len(up.got) > 23 { // it still was on its way
				up.got, up.gotAll = up.got[:23], up.gotAll[:23]
				return
			}
			held = append(held, p.MessageID)
			most = max(most, len(held))
			switch {
			case c.n == 1 && len(up.got) == 23:
				held = nil
				c.send(nil) // the end of this connection
			case len(held) == 5 || len(up.got) > 100:
				slices.Reverse(held)
				for _, id := range held {
					c.ack(id)
				}
				held = nil
			}
		}
		r.tele.fill(0, 100)
		r.start()
		pass(10 * time.Second)
		if most > 5 {
			t.Errorf("%d in flight", most)
		}
		again := len(up.got) - 100
		if !slices.Equal(up.got[:23], numbers(0, 23)) || again < 0 || again > 5 || !slices.Equal(up.got[23+again:], numbers(23, 100)) {
			t.Errorf("arrived %q", up.got)
		}
		for _, p := range up.gotAll {
			if p.Dup || p.TopicName != "dt/p/x" || p.Qos != 1 {
				t.Fatalf("PUBLISH %v", p)
			}
		}
		if s := r.Stats(); r.tele.Acked() != 100 || s.Acked != 100 || s.InFlight != 0 || s.Reconnects != 1 {
			t.Errorf("cursor %d, stats %+v", r.tele.Acked(), s)
		}
		end3(r, up)
	})
}

func TestQoS0Over3(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, up := newRig3(t, func(c *Config) { c.QoS, c.Window = 0, 3 })
		r.tele.fill(0, 50)
		r.start()
		pass(time.Second)
		if !slices.Equal(up.got, numbers(0, 50)) || r.tele.Acked() != 50 || up.gotAll[7].Qos != 0 {
			t.Errorf("arrived %q, cursor %d", up.got, r.tele.Acked())
		}
		end3(r, up)
	})
}

func TestStatusAndPoliteEnd3(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, up := newRig3(t, func(c *Config) { c.Status = &Status{"st/gw", []byte("online"), []byte("offline")} })
		r.tele.fill(0, 30)
		r.start()
		pass(time.Millisecond)
		end3(r, up)
		if want := append(append([]string{"online"}, numbers(0, 30)...), "offline"); !slices.Equal(up.got, want) || up.goodbyes != 1 {
			t.Errorf("arrived %q, %d DISCONNECTs", up.got, up.goodbyes)
		}
		if last := up.gotAll[len(up.gotAll)-1]; !last.Retain || last.TopicName != "st/gw" {
			t.Errorf("last %v", last)
		}
	})
}

// Answers that stop, with or without those to pings, end the connection.
func TestSilentServersAreLeft3(t *testing.T) {
	for name, filled := range map[string]int{"no PINGRESP": 0, "no PUBACK": 3} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, up := newRig3(t, func(c *Config) { c.KeepAlive = 20 * time.Second })
				up.deaf = filled == 0
				up.publish = func(*serverConn3, *packets.PublishPacket) {}
				r.tele.fill(0, filled)
				r.start()
				pass(50 * time.Second)
				if e := r.Stats().LastError; len(up.conns) != 2 || !strings.Contains(e, name) && !strings.Contains(e, "stopped acknowledging") {
					t.Errorf("%d connections, %q", len(up.conns), e)
				}
				end3(r, up)
			})
		})
	}
}

func command3(id uint16, topic string) *packets.PublishPacket {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.MessageID, p.Qos, p.Payload = topic, id, 1, fmt.Append(nil, id)
	return p
}

// Commands are acknowledged when they are safe, and retained ones are none.
func TestReceiving3(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, up := newRig3(t, func(c *Config) { c.Receive = []Rule{{"cmd/gw/+/_set", "p/+/_set"}, {"cmd/gw/+/_get", "p/+/_get"}} })
		r.here.hold = true
		r.start()
		synctest.Wait()
		if len(up.subs) != 2 || len(up.subs[0].Topics) != 1 || up.subs[0].Qoss[0] != 1 {
			t.Fatalf("subscribed %v", up.subs)
		}
		old := command3(1, "cmd/gw/boiler/_set")
		old.Retain = true
		up.conns[0].send(old)
		for id := range uint16(3) {
			up.conns[0].send(command3(id+2, "cmd/gw/boiler/_set"))
		}
		pass(time.Minute)
		if !slices.Equal(up.acks, []uint16{1}) || len(r.here.held) != 3 {
			t.Errorf("acknowledged %d, %d published", up.acks, len(r.here.held))
		}
		if m := r.here.got[0]; m.Topic != "p/boiler/_set" || string(m.Payload) != "2" || m.From != "bridge:cloud" || m.QoS != 1 {
			t.Errorf("published %+v", m)
		}
		for _, done := range r.here.held {
			done(nil)
		}
		synctest.Wait()
		if !slices.Equal(up.acks, []uint16{1, 2, 3, 4}) || r.Stats().Received != 3 || r.Stats().Rejected != 1 {
			t.Errorf("acknowledged %d, stats %+v", up.acks, r.Stats())
		}
		// The local broker refuses: 3.1.1 has no way to hand that on.
		r.here.refuse = broker.ErrRefused
		up.conns[0].send(command3(9, "cmd/gw/boiler/_set"))
		synctest.Wait()
		if !slices.Contains(up.acks, 9) || r.Stats().Rejected != 2 {
			t.Errorf("acknowledged %d, stats %+v", up.acks, r.Stats())
		}
		end3(r, up)
	})
}

// A blockedLocal takes nothing until ctx ends.
type blockedLocal struct{}

func (blockedLocal) PublishFrom(ctx context.Context, _ *broker.Message, _ func(error)) error {
	<-ctx.Done()
	return ctx.Err()
}

// A local broker that takes nothing does not keep acknowledgements from being
// read: paho reads none while a handler waits.
func TestBlockedCommandsDoNotBlockSending3(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, up := newRig3(t, func(c *Config) { c.Receive = []Rule{{"cmd/gw/+/_set", "p/+/_set"}} })
		r.local = blockedLocal{}
		r.start()
		synctest.Wait()
		for id := range uint16(inbox / 2) {
			up.conns[0].send(command3(id+1, "cmd/gw/a/_set"))
		}
		r.tele.fill(0, 1000)
		pass(time.Minute)
		if r.tele.Acked() != 1000 || len(up.conns) != 1 {
			t.Errorf("cursor %d, %d connections", r.tele.Acked(), len(up.conns))
		}
		end3(r, up)
	})
}

// A server that answers for more subscriptions than it was asked for, or sends
// more than it was told to, ends the link and not the gateway.
func TestBrokenServers3(t *testing.T) {
	for _, c := range []struct {
		name   string
		suback []byte
		packet int
		want   string
	}{
		{"many codes", []byte{1, 1, 1}, 0, "answered for several subscriptions"},
		{"too large", nil, maxInbound + 1, "more than the"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, up := newRig3(t, func(c *Config) { c.Receive = []Rule{{"cmd/gw/+/_set", "p/+/_set"}} })
				up.suback = c.suback
				r.start()
				synctest.Wait()
				if c.packet > 0 {
					p := command3(1, "cmd/gw/a/_set")
					p.Payload = make([]byte, c.packet)
					up.conns[0].send(p)
				}
				pass(500 * time.Millisecond)
				if e := r.Stats().LastError; !strings.Contains(e, c.want) {
					t.Errorf("it says %q", e)
				}
				end3(r, up)
			})
		})
	}
}

func TestSubscriptionRefused3(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, up := newRig3(t, func(c *Config) { c.Receive = []Rule{{"cmd/gw/+/_set", "p/+/_set"}} })
		up.suback = []byte{0x80}
		r.tele.fill(0, 5)
		r.start()
		pass(time.Second)
		if r.lines("commands will not arrive") != 1 || r.lines("check what it permits") != 1 || r.tele.Acked() != 5 {
			t.Errorf("log: %s", r.logged)
		}
		end3(r, up)
	})
}

// FuzzInbound3 proves that no bytes of a server of 3.1.1 make paho's decoder
// panic or make room for more than the limit.
func FuzzInbound3(f *testing.F) {
	f.Add([]byte{0x20, 2, 0, 0, 0x90, 3, 0, 1, 0})
	f.Add([]byte{0x90, 5, 0, 1, 0, 0, 0})
	f.Add([]byte{0x32, 6, 0, 1, 't', 0, 1, 'x', 0x40, 2, 0, 1, 0xD0, 0})
	f.Add([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F})
	f.Fuzz(func(t *testing.T, wire []byte) {
		c := &conn3{conn: newConn(wireConn{Reader: bytes.NewReader(wire)}, time.Second, 1000)}
		for {
			p, err := packets.ReadPacket(c)
			if s, ok := p.(*packets.SubackPacket); ok && err == nil && len(s.ReturnCodes) > 1 {
				t.Fatalf("a SUBACK with %d codes passed", len(s.ReturnCodes))
			}
			if c.left > 1000 {
				t.Fatalf("a packet of %d bytes passed", c.left)
			}
			if err != nil {
				_ = c.refused()
				return
			}
		}
	})
}
