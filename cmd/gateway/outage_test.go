package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// A wiretap is the network between a gateway and its far broker. It notes each
// PUBLISH, and whether the far broker acknowledged it, before it passes them on.
// So it is known what the gateway is right to forget, whatever becomes of the
// far broker.
type wiretap struct {
	addr string // where the gateway dials
	far  string

	mu    sync.Mutex
	sent  []arrival       // in the order of their first PUBLISH
	seen  map[string]bool // ids
	acked map[string]bool // ids
	last  string          // payload that was acknowledged last
	again int             // PUBLISH of an id that was sent before
}

func newWiretap(t *testing.T, far string) *wiretap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	w := &wiretap{addr: l.Addr().String(), far: far, seen: make(map[string]bool), acked: make(map[string]bool)}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go w.serve(near)
		}
	}()
	return w
}

func (w *wiretap) serve(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", w.far)
	if err != nil {
		return
	}
	defer far.Close()
	var mu sync.Mutex
	flying := make(map[uint16]arrival)
	topics := make(map[uint16]string) // by their aliases
	go func() {
		defer near.Close()
		pass(far, near, func(p *packets.ControlPacket) {
			if ack, ok := p.Content.(*packets.Puback); ok && ack.ReasonCode < 0x80 {
				mu.Lock()
				a := flying[ack.PacketID]
				mu.Unlock()
				w.mu.Lock()
				w.acked[a.id], w.last = true, a.payload
				w.mu.Unlock()
			}
		})
	}()
	pass(near, far, func(p *packets.ControlPacket) {
		m, ok := p.Content.(*packets.Publish)
		if !ok || m.QoS != 1 {
			return
		}
		if alias := m.Properties.TopicAlias; alias != nil && m.Topic != "" {
			topics[*alias] = m.Topic
		} else if alias != nil {
			m.Topic = topics[*alias]
		}
		a := arrival{topic: m.Topic, payload: string(m.Payload)}
		for _, u := range m.Properties.User {
			if u.Key == "mid" {
				a.id = u.Value
			}
		}
		mu.Lock()
		flying[m.PacketID] = a
		mu.Unlock()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.seen[a.id] {
			w.again++
			return
		}
		w.seen[a.id] = true
		w.sent = append(w.sent, a)
	})
}

// pass reads packets from one connection, shows each and writes it to another.
func pass(from io.Reader, to io.Writer, show func(*packets.ControlPacket)) {
	var raw bytes.Buffer
	in := io.TeeReader(bufio.NewReader(from), &raw)
	for {
		p, err := packets.ReadPacket(in)
		if err != nil {
			return
		}
		show(p)
		if _, err := to.Write(raw.Bytes()); err != nil {
			return
		}
		raw.Reset()
	}
}

// arrived returns what the far broker acknowledged, in the order of the first
// PUBLISH of each, and how many came again.
func (w *wiretap) arrived() (list []arrival, again int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.sent {
		if w.acked[a.id] {
			list = append(list, a)
		}
	}
	return list, w.again
}

// progress returns how many messages the far broker acknowledged, and the last
// of them.
func (w *wiretap) progress() (n int, payload string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked), w.last
}

// A stream is a local client that publishes numbered messages of 200 bytes at
// QoS 1 to two topics at a steady rate, without waiting for each one's
// acknowledgement. What was not acknowledged when a connection ended is sent
// again, in order.
type stream struct {
	t      *testing.T
	rate   int // messages a second
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	acked int // so many, for the broker answers in order
}

const streamWindow = 1000 // unacknowledged at most

func newStream(t *testing.T, addr string, rate int) *stream {
	ctx, cancel := context.WithCancel(t.Context())
	s := &stream{t: t, rate: rate, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for begin := time.Now(); ctx.Err() == nil; {
			s.session(ctx, addr, begin)
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { s.stop() })
	return s
}

func streamed(n int) (topic, payload string) {
	return fmt.Sprint("site/log/", n%2), fmt.Sprintf("%08d%s", n, strings.Repeat(".", 192))
}

func (s *stream) session(ctx context.Context, addr string, begin time.Time) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	login := packets.NewControlPacket(packets.CONNECT)
	c := login.Content.(*packets.Connect)
	c.ClientID, c.CleanStart = "stream", true
	if _, err := login.WriteTo(conn); err != nil {
		return
	}
	in := bufio.NewReader(conn)
	if p, err := packets.ReadPacket(in); err != nil || p.Type != packets.CONNACK {
		return
	}
	first := s.count() // the id of message n is n - first + 1, modulo 60,000
	broken := make(chan struct{})
	go func() {
		defer close(broken)
		for n := first; ; n++ {
			p, err := packets.ReadPacket(in)
			if err != nil {
				return
			}
			ack, ok := p.Content.(*packets.Puback)
			if !ok || ack.ReasonCode >= 0x80 || int(ack.PacketID) != (n-first)%60000+1 {
				s.t.Errorf("the local broker answers %v for message %d", p, n)
				return
			}
			s.mu.Lock()
			s.acked = n + 1
			s.mu.Unlock()
		}
	}()
	defer func() { <-broken }()
	defer conn.Close()
	out := bufio.NewWriterSize(conn, 64<<10)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := first; ; {
		for due := int(time.Since(begin).Seconds() * float64(s.rate)); n < due && n < s.count()+streamWindow; n++ {
			topic, payload := streamed(n)
			p := &packets.Publish{Topic: topic, Payload: []byte(payload), QoS: 1, PacketID: uint16((n-first)%60000 + 1), Properties: &packets.Properties{}}
			if _, err := p.WriteTo(out); err != nil {
				return
			}
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-broken:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (s *stream) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// stop ends it and returns how many messages were acknowledged: 0 to n-1.
func (s *stream) stop() int {
	s.cancel()
	<-s.done
	return s.acked
}

// subscribe receives everything at addr in a lasting session until the test
// ends.
func subscribe(t *testing.T, addr string) *watcher {
	w := new(watcher)
	ctx := t.Context()
	go func() {
		for ctx.Err() == nil {
			if conn, err := net.Dial("tcp", addr); err == nil {
				w.receive(ctx, conn, &paho.Connect{ClientID: "watcher", KeepAlive: 30})
				conn.Close()
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return w
}

// An outagePlan says what happens to the far broker and to the gateway.
type outagePlan struct {
	sync      string
	mosquitto bool // upstream, instead of a second gateway
	outage    time.Duration
	kill      time.Duration // after the outage began
	farKill   time.Duration // after it ended: the far broker is killed once more
}

// What a local client was told is safe arrives upstream, in its order, although
// both the gateway and the far broker are killed with SIGKILL. The wiretap
// proves the gateway whatever the far broker is. A second gateway as the far
// broker, which forgets nothing either, proves the whole way to a subscriber;
// mosquitto loses with SIGKILL what it has acknowledged since it last saved.
func TestOutage(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	upTo := func(d time.Duration) time.Duration { return time.Duration(random.Int64N(int64(d))) }
	for _, sync := range []string{"always", "5s"} {
		p := outagePlan{sync: sync, outage: 5 * time.Second}
		runs := 1
		if long() {
			runs = 25
		}
		for i := range runs {
			p.kill, p.farKill, p.mosquitto = upTo(p.outage), upTo(2*time.Second), i%5 == 4
			t.Run(fmt.Sprintf("sync %s %d", sync, i), func(t *testing.T) { p.run(t) })
		}
		if long() {
			p = outagePlan{sync: sync, outage: time.Minute, kill: 30 * time.Second, farKill: time.Second}
			t.Run(fmt.Sprintf("sync %s for a minute", sync), func(t *testing.T) { p.run(t) })
		}
	}
}

const outageRate = 1000 // messages a second

func (plan *outagePlan) run(t *testing.T) {
	port := freePort(t)
	addr := "127.0.0.1:" + port
	startFar := plan.far(t, port)
	far := startFar()
	sub := subscribe(t, addr)
	if !plan.mosquitto {
		eventually(t, "the subscriber has the far gateway's status", func() bool {
			sub.mu.Lock()
			defer sub.mu.Unlock()
			return len(sub.all) > 0
		})
	}
	wire := newWiretap(t, addr)
	s := newSite(t, fmt.Sprintf(`
[spool]
sync = %q
[bridge.cloud]
url     = "tcp://%s"
send    = { "site/#" = "dt/site/#" }
replay  = "strict"
backoff = "100ms"
`, plan.sync, wire.addr), nil)
	s.run()
	begin := time.Now()
	p := newStream(t, "127.0.0.1:"+s.broker, outageRate)
	eventually(t, "messages arrive", func() bool { n, _ := wire.progress(); return n > outageRate })

	far.kill()
	down := time.After(plan.outage)
	<-time.After(plan.kill)
	s.kill()
	s.run()
	<-down
	waiting := p.count()
	far = startFar()
	<-time.After(plan.farKill)
	far.kill()
	startFar()
	some := p.count()
	eventually(t, "more is published", func() bool { return p.count() > some+outageRate })
	acked := p.stop()
	took := time.Since(begin)

	_, payload := streamed(acked - 1)
	eventually(t, "the last message is acknowledged upstream", func() bool {
		n, last := wire.progress()
		return n >= acked && last >= payload
	})
	if n, code := s.command("status", "--json"); code != exitOK || !strings.Contains(n, `"lost": 0`) {
		t.Errorf("status: code %d\n%s", code, n)
	}
	list, again := wire.arrived()
	checkStream(t, "upstream", acked, list)
	// A kill repeats what was acknowledged since the cursor was last written and
	// what was in flight; so does a lost connection, without the former.
	if most := plan.bound(); again > most {
		t.Errorf("%d messages were sent again, the bound is %d", again, most)
	}
	if !plan.mosquitto {
		eventually(t, "the subscriber has the last message", func() bool {
			sub.mu.Lock()
			defer sub.mu.Unlock()
			return contains(sub.all, payload)
		})
		sub.mu.Lock()
		checkStream(t, "to the subscriber", acked, sub.all)
		sub.mu.Unlock()
	}
	t.Logf("sync %s, upstream mosquitto %v: %d messages in %v, about %d of them waiting at the end of an outage of %v with SIGKILL after %v, upstream killed again %v after it: 0 lost, in order, %d sent again",
		plan.sync, plan.mosquitto, acked, took.Round(time.Second/10), waiting, plan.outage, plan.kill.Round(time.Millisecond), plan.farKill.Round(time.Millisecond), again)
}

// far returns what starts the far broker.
func (plan *outagePlan) far(t *testing.T, port string) func() *process {
	if plan.mosquitto {
		conf := t.TempDir() + "/mosquitto.conf"
		writeFile(t, conf, fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n", port))
		return func() *process {
			p := start(t, mosquittoPath(), "-c", conf)
			eventually(t, "mosquitto listens", func() bool {
				c, err := net.Dial("tcp", "127.0.0.1:"+port)
				if err == nil {
					c.Close()
				}
				return err == nil
			})
			return p
		}
	}
	up := newSite(t, "", nil) // nothing acknowledged is lost by a kill under the default; syncing each would only make it slow
	writeFile(t, up.config+"/site.toml", fmt.Sprintf("[broker]\nlisten = [\"tcp://127.0.0.1:%s\"]\n", port))
	return func() *process { up.run(); return up.process }
}

// bound is how many messages may be sent again (docs/buffering.md): what was
// acknowledged in the 5 s before the kill, for which the place of the bridge
// may not be on the medium yet, and the window of 20 for each connection lost.
func (plan *outagePlan) bound() int { return 5*outageRate + 3*20 }

func contains(list []arrival, payload string) bool {
	for i := len(list) - 1; i >= max(0, len(list)-2*streamWindow); i-- {
		if list[i].payload == payload {
			return true
		}
	}
	return false
}

// checkStream proves that the messages 0 to n-1 are in list, those of each
// topic in their order by their first arrival.
func checkStream(t *testing.T, where string, n int, list []arrival) {
	t.Helper()
	next := [2]int{0, 1}
	for _, a := range list {
		if !strings.HasPrefix(a.topic, "dt/") { // the far gateway's own
			continue
		}
		var k int
		if _, err := fmt.Sscanf(a.payload, "%08d.", &k); err != nil || !strings.HasSuffix(a.topic, fmt.Sprint("/log/", k%2)) {
			t.Fatalf("%s: %.20s arrived at %s", where, a.payload, a.topic)
		}
		switch {
		case k == next[k%2]:
			next[k%2] += 2
		case k > next[k%2]:
			t.Fatalf("%s: message %d came where %d was due", where, k, next[k%2])
		}
	}
	if got := min(next[0], next[1]); got < n {
		t.Fatalf("%s: message %d was acknowledged and did not arrive", where, got)
	}
}
