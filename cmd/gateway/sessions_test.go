package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"edgegateway/broker/packet"
)

// TestKilledBrokerLosesNothingForItsSessions kills the gateway at random moments
// while clients publish to sessions that come and go: whatever was acknowledged
// arrives, in order, at each of them, and what is retained stays.
func TestKilledBrokerLosesNothingForItsSessions(t *testing.T) {
	t.Parallel()
	rounds := 5
	if long() {
		rounds = 50
	}
	// Whoever is away while others publish as fast as they can would lose its oldest.
	s := newSite(t, "max_session_queue = 1_000_000\nmax_session_bytes = \"512MiB\"\n", nil)
	s.run()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	addr := "127.0.0.1:" + s.broker
	var subs []*sessionClient
	for i, v := range []packet.Version{packet.V311, packet.V5, packet.V5} {
		c := newSessionClient(addr, fmt.Sprint("sub", i), v, byte(1+i%2))
		c.comesAndGoes = i == 2
		subs = append(subs, c)
	}
	var pubs []*sessionClient
	for i := range 4 {
		pubs = append(pubs, newSessionClient(addr, fmt.Sprint("pub", i), packet.V5, byte(1+i%2)))
	}
	var running sync.WaitGroup
	for _, c := range subs {
		running.Go(func() { c.run(ctx, func(c *sessionClient) { c.subscribe("k/#") }, nil) })
	}
	for _, c := range subs {
		eventually(t, c.id+" is subscribed", func() bool { return c.count(&c.ready) > 0 })
	}
	publishing, stopPublishing := context.WithCancel(ctx)
	var published sync.WaitGroup
	for _, c := range pubs {
		published.Go(func() { c.run(ctx, nil, publishing) })
	}
	for round := range rounds {
		before := pubs[0].count(&pubs[0].acked)
		eventually(t, "more is acknowledged", func() bool { return pubs[0].count(&pubs[0].acked) > before+20 })
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		s.kill()
		s.run()
		t.Logf("killed %d times, %d acknowledged", round+1, pubs[0].count(&pubs[0].acked))
	}
	stopPublishing()
	published.Wait()
	for _, sub := range subs {
		sub.stay()
		for _, pub := range pubs {
			topic := "k/" + pub.id
			last := pub.count(&pub.acked)
			eventually(t, fmt.Sprintf("%s has all %d of %s, and has %d", sub.id, last, topic, sub.seen(topic)), func() bool { return sub.seen(topic) >= last })
		}
	}
	cancel()
	running.Wait()
	for _, sub := range subs {
		sub.check(t, pubs)
	}
	for _, pub := range pubs {
		last, err := retainedAt(s.broker, "k/"+pub.id)
		if err != nil || last != fmt.Sprint(pub.acked) {
			t.Errorf("retained of %s is %q, %v; %d was acknowledged", pub.id, last, err, pub.acked)
		}
	}
}

// retainedAt returns what is retained at a topic.
func retainedAt(port, topic string) (string, error) {
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	c := sessionClient{v: packet.V311, conn: conn, in: packet.Reader{Src: bufio.NewReader(conn), Version: packet.V311}}
	c.send(&packet.Connect{Version: packet.V311, CleanStart: true})
	c.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Filter: topic, QoS: 1}}})
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		p, _, err := c.in.Read()
		if err != nil {
			return "", err
		}
		if m, ok := p.(*packet.Publish); ok {
			return string(m.Payload), nil
		}
	}
}

// A sessionClient is a client whose session outlives its connections. As a
// publisher it numbers what it says in k/ID, retained, and sends again what was
// not acknowledged.
type sessionClient struct {
	addr, id string
	v        packet.Version
	qos      byte
	conn     net.Conn
	in       packet.Reader

	mu           sync.Mutex
	ready        int // times connected and subscribed
	comesAndGoes bool
	acked        int                        // all up to here
	open         map[uint16]*packet.Publish // published, not complete
	released     map[uint16]bool            // of QoS 2, PUBREC came
	got          map[string][]int           // by topic, what came first
	times        map[string]int             // by topic and number
	twice        int                        // of QoS 2, those that came again
	begun        map[uint16]bool            // QoS 2 that came and is not released
	complete     map[int]bool
}

func newSessionClient(addr, id string, v packet.Version, qos byte) *sessionClient {
	return &sessionClient{addr: addr, id: id, v: v, qos: qos, open: make(map[uint16]*packet.Publish), released: make(map[uint16]bool),
		got: make(map[string][]int), times: make(map[string]int), begun: make(map[uint16]bool), complete: make(map[int]bool)}
}

func (c *sessionClient) count(n *int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *n
}

func (c *sessionClient) seen(topic string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.got[topic])
}

// stay ends its coming and going.
func (c *sessionClient) stay() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.comesAndGoes = false
}

func (c *sessionClient) send(p packet.Packet) {
	raw, err := p.Append(nil, c.v)
	if err != nil {
		panic(err)
	}
	c.conn.Write(raw) // an error ends the reading, too
}

func (c *sessionClient) subscribe(filter string) {
	c.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Filter: filter, QoS: c.qos}}})
}

// run connects again and again until ctx is done. A publisher publishes until
// publishing is done and then ends when all is acknowledged.
func (c *sessionClient) run(ctx context.Context, first func(*sessionClient), publishing context.Context) {
	for ctx.Err() == nil {
		c.session(ctx, first, publishing)
		if publishing != nil && publishing.Err() != nil && c.idle() {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (c *sessionClient) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) == 0
}

func (c *sessionClient) session(ctx context.Context, first func(*sessionClient), publishing context.Context) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c.conn, c.in = conn, packet.Reader{Src: bufio.NewReader(conn), Version: c.v}
	connect := &packet.Connect{Version: c.v, ClientID: c.id}
	if c.v >= packet.V5 {
		connect.Props = packet.Properties(nil).AddNum(packet.SessionExpiry, 3600)
	}
	c.send(connect)
	p, _, err := c.in.Read()
	ack, ok := p.(*packet.Connack)
	if err != nil || !ok || ack.Reason != packet.Success {
		return
	}
	if first != nil && !ack.SessionPresent {
		first(c)
	}
	if publishing != nil {
		c.resend()
		c.more(publishing)
	}
	for {
		p, _, err := c.in.Read()
		if err != nil {
			return
		}
		c.handle(p)
		if publishing != nil {
			c.more(publishing)
			if publishing.Err() != nil && c.idle() {
				return
			}
		}
		c.mu.Lock()
		goes := c.comesAndGoes && rand.IntN(100) == 0
		c.mu.Unlock()
		if goes {
			return
		}
	}
}

func (c *sessionClient) resend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 1; n <= 65535; n++ {
		id := uint16(n)
		if c.released[id] {
			c.send(&packet.Ack{Kind: packet.PUBREL, ID: id})
		} else if p := c.open[id]; p != nil {
			p.Dup = true
			c.send(p)
		}
	}
}

// more keeps 20 publishes under way. The number is the packet identifier too.
func (c *sessionClient) more(publishing context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.open) < 20 && publishing.Err() == nil {
		n := c.acked + 1
		for c.open[uint16(n)] != nil || c.complete[n] {
			n++
		}
		if n > 65535 {
			return // enough
		}
		p := &packet.Publish{Topic: "k/" + c.id, QoS: c.qos, Retain: true, ID: uint16(n), Payload: fmt.Append(nil, n)}
		c.open[p.ID] = p
		c.send(p)
	}
}

func (c *sessionClient) handle(p packet.Packet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch p := p.(type) {
	case *packet.SubAck:
		c.ready++
	case *packet.Publish:
		c.arrive(p)
	case *packet.Ack:
		switch p.Kind {
		case packet.PUBREC:
			c.released[p.ID] = true
			c.send(&packet.Ack{Kind: packet.PUBREL, ID: p.ID})
		case packet.PUBREL:
			delete(c.begun, p.ID)
			c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
		case packet.PUBACK, packet.PUBCOMP:
			delete(c.open, p.ID)
			delete(c.released, p.ID)
			c.complete[int(p.ID)] = true
			for c.complete[c.acked+1] {
				c.acked++
			}
		}
	}
}

func (c *sessionClient) arrive(p *packet.Publish) {
	n := 0
	fmt.Sscan(string(p.Payload), &n)
	if p.QoS < 2 || !c.begun[p.ID] {
		key := fmt.Sprint(p.Topic, " ", n)
		switch c.times[key]++; {
		case c.times[key] == 1:
			topic := strings.Clone(p.Topic)
			c.got[topic] = append(c.got[topic], n)
		case p.QoS == 2:
			c.twice++
		}
	}
	switch p.QoS {
	case 1:
		c.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID})
	case 2:
		c.begun[p.ID] = true
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
	}
}

// check fails for what is missing or out of order.
func (c *sessionClient) check(t *testing.T, pubs []*sessionClient) {
	again := 0
	for _, n := range c.times {
		again += n - 1
	}
	again -= c.twice
	for _, pub := range pubs {
		got := c.got["k/"+pub.id]
		for i, n := range got {
			if n != i+1 {
				t.Errorf("%s: number %d of %s is %d", c.id, i+1, pub.id, n)
				break
			}
		}
		if len(got) < pub.acked {
			t.Errorf("%s has %d of %d of %s", c.id, len(got), pub.acked, pub.id)
		}
	}
	t.Logf("%s: at QoS 1 %d came again, at QoS 2 %d", c.id, again, c.twice)
}
