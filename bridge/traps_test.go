package bridge

import (
	"context"
	"go/parser"
	"go/token"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// What paho.golang gets wrong and is not tested elsewhere; docs/testing.md has
// the list of all.

// Its queues, stores and session state lose messages or their order.
func TestOnlyPahosClientIsUsed(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			own := []string{"github.com/eclipse/paho.golang/paho", "github.com/eclipse/paho.golang/packets", "github.com/eclipse/paho.golang/paho/log", "github.com/eclipse/paho.golang/paho/session"}
			if strings.HasPrefix(path, "github.com/eclipse/paho.golang") && !slices.Contains(own, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}

// A server that comes back with a smaller Receive Maximum than messages were in
// flight gets no more than that at once.
func TestSmallerReceiveMaximumAfterReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.connack = func(n int, _ *packets.Connect) *packets.Connack {
			ca := &packets.Connack{Properties: &packets.Properties{}, SessionPresent: n > 1}
			if n > 1 {
				ca.Properties.ReceiveMaximum = new(uint16(2))
			}
			return ca
		}
		open, most := 0, 0
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			if c.n == 1 {
				return
			}
			open++
			most = max(most, open)
			time.AfterFunc(time.Millisecond, func() {
				r.up.mu.Lock()
				defer r.up.mu.Unlock()
				open--
				c.ack(p, 0)
			})
		}
		r.tele.fill(0, 100)
		r.start()
		pass(time.Second)
		if s := r.Stats(); s.InFlight != r.cfg.Window {
			t.Fatalf("%d in flight, want the window of %d", s.InFlight, r.cfg.Window)
		}
		r.up.conns[0].send(nil)
		pass(time.Minute)
		if s := r.Stats(); r.tele.Acked() != 100 || s.Reconnects != 1 || most != 2 {
			t.Errorf("up to %d at once, cursor %d, stats %+v", most, r.tele.Acked(), s)
		}
		r.end()
	})
}

// Answers to what was never sent, answers that come twice and those of QoS 2
// move neither the cursor nor the window.
func TestAnswersToNothingChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Window, c.AckTimeout = 3, time.Hour })
		open, most, hold := 0, 0, true
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			open++
			most = max(most, open)
			for _, id := range []uint16{p.PacketID + 1000, 0, 65535} {
				c.send(&packets.Puback{PacketID: id})
			}
			c.send(&packets.Pubrec{PacketID: p.PacketID})
			c.send(&packets.Pubrec{PacketID: p.PacketID + 1000, ReasonCode: 0x97})
			c.send(&packets.Pubcomp{PacketID: p.PacketID})
			if !hold {
				open--
				c.ack(p, 0)
				c.ack(p, 0)
			}
		}
		r.tele.fill(0, 100)
		r.start()
		pass(time.Minute)
		if s := r.Stats(); r.tele.Acked() != 0 || s.InFlight != 3 || most != 3 || s.State != Up {
			t.Errorf("up to %d at once, cursor %d, stats %+v", most, r.tele.Acked(), s)
		}
		r.up.mu.Lock()
		hold, open = false, 0
		for _, p := range r.up.got {
			r.up.conns[0].ack(p, 0)
		}
		r.up.mu.Unlock()
		pass(time.Minute)
		if s := r.Stats(); r.tele.Acked() != 100 || s.Acked != 100 || s.Sent != 100 || s.InFlight != 0 || s.Reconnects != 0 {
			t.Errorf("cursor %d, stats %+v", r.tele.Acked(), s)
		}
		r.end()
	})
}

// Packet ids come back, whatever became of their messages, and none is given
// out twice at a time.
func TestPacketIDsAreGivenBack(t *testing.T) {
	s := newSession(make(chan ack, 1))
	if err := s.AddToSession(t.Context(), &packets.Publish{}, nil); err == nil {
		t.Fatal("there was no connection yet")
	}
	s.ConAckReceived(io.Discard, nil, nil)
	acks := make(chan ack, 1)
	s.acks = acks
	ctx := context.WithValue(t.Context(), flightKey{}, new(flight))
	kept := make(map[uint16]bool)
	for i := range 200_000 {
		p := new(packets.Publish)
		if err := s.AddToSession(ctx, p, nil); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if p.PacketID == 0 || kept[p.PacketID] {
			t.Fatalf("message %d has the id %d, which is taken", i, p.PacketID)
		}
		if i%10_000 == 0 { // never answered
			kept[p.PacketID] = true
			continue
		}
		s.PacketReceived(&packets.ControlPacket{Content: &packets.Puback{PacketID: p.PacketID, ReasonCode: byte(i % 2 * 0x80)}}, nil)
		<-acks
	}
	if len(s.flights) != len(kept) {
		t.Errorf("%d ids are in use, want %d", len(s.flights), len(kept))
	}
}

// An answer goes out when it is there: paho's manual acknowledgement looks for
// it twenty times a second, for ever.
func TestReceivedIsAcknowledgedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := receiver(t)
		r.start()
		synctest.Wait()
		for id := range uint16(5) {
			r.up.conns[0].send(command(id+1, "cmd/gw/a/_set"))
		}
		synctest.Wait() // no time passes
		r.up.mu.Lock()
		var ids []uint16
		for _, a := range r.up.acks {
			ids = append(ids, a.PacketID)
		}
		r.up.mu.Unlock()
		if !slices.Equal(ids, []uint16{1, 2, 3, 4, 5}) {
			t.Errorf("acknowledged %v", ids)
		}
		r.end()
	})
}
