package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/eclipse/paho.golang/packets"
)

// A mood is how a far broker treats a gateway.
type mood uint8

const (
	well    mood = iota
	gone         // it refuses connections
	hung         // it takes them, and answers nothing
	deaf         // it acknowledges no message
	rude         // it ends each connection at once
	refuses      // it refuses each login
	numMoods
)

// A farSide is a far broker in all its moods, at one address. It notes what it
// has acknowledged.
type farSide struct {
	addr string

	mu    sync.Mutex
	l     net.Listener // nil while it is gone
	mood  mood
	conns map[net.Conn]bool
	next  int      // number of the message that is due
	again int      // messages that came more than once
	wrong []string // what came out of order
	gaps  []gapMessage
}

func newFarSide(t *testing.T) *farSide {
	f := &farSide{addr: "127.0.0.1:" + freePort(t), conns: make(map[net.Conn]bool), next: 1}
	if err := f.set(well); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.set(gone) })
	return f
}

// set changes the mood, which ends all connections with a reset.
func (f *farSide) set(m mood) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mood = m
	for c := range f.conns {
		reset(c)
	}
	clear(f.conns)
	switch {
	case m == gone && f.l != nil:
		f.l.Close()
		f.l = nil
	case m != gone && f.l == nil:
		if f.l, err = net.Listen("tcp", f.addr); err == nil {
			go f.listen(f.l)
		}
	}
	return err
}

// reset ends a connection as a broken network does.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

func (f *farSide) listen(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		m := f.mood
		if m == rude || m == gone {
			c.Close()
		} else {
			f.conns[c] = true
			go f.serve(c, m)
		}
		f.mu.Unlock()
	}
}

func (f *farSide) serve(c net.Conn, m mood) {
	defer func() {
		c.Close()
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.conns, c)
	}()
	in := bufio.NewReader(c)
	for {
		p, err := packets.ReadPacket(in)
		if err != nil {
			return
		}
		if m == hung {
			continue
		}
		var answer *packets.ControlPacket
		switch q := p.Content.(type) {
		case *packets.Connect:
			answer = packets.NewControlPacket(packets.CONNACK)
			if m == refuses {
				answer.Content.(*packets.Connack).ReasonCode = packets.ConnackServerUnavailable
			}
		case *packets.Publish:
			if m == deaf || q.QoS == 0 {
				continue
			}
			f.take(q)
			answer = packets.NewControlPacket(packets.PUBACK)
			answer.Content.(*packets.Puback).PacketID = q.PacketID
		case *packets.Subscribe:
			answer = packets.NewControlPacket(packets.SUBACK)
			ack := answer.Content.(*packets.Suback)
			ack.PacketID, ack.Reasons = q.PacketID, make([]byte, len(q.Subscriptions))
		case *packets.Pingreq:
			answer = packets.NewControlPacket(packets.PINGRESP)
		default:
			return
		}
		if _, err := answer.WriteTo(c); err != nil || m == refuses {
			return
		}
	}
}

// take notes a message before it is acknowledged.
func (f *farSide) take(p *packets.Publish) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var n int
	switch p.Topic {
	case "dt/plant/_gap":
		var gap gapMessage
		json.Unmarshal(p.Payload, &gap)
		f.gaps = append(f.gaps, gap)
	case "dt/site/log":
		switch _, err := fmt.Sscanf(string(p.Payload), "message %d", &n); {
		case err != nil || n > f.next:
			f.wrong = append(f.wrong, fmt.Sprintf("%s came where message %d was due", p.Payload, f.next))
			f.next = n + 1
		case n == f.next:
			f.next++
		default:
			f.again++
		}
	}
}

// arrived returns how many messages did.
func (f *farSide) arrived() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next - 1
}
