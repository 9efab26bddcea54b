package bridge

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

// A gateway is a real broker on real spools with a real bridge.
type gateway struct {
	t      *testing.T
	broker *broker.Broker
	bridge *Bridge
	logs   [broker.NumClasses]*spool.Log
	stop   context.CancelFunc
	ended  chan struct{}
}

func startGateway(t *testing.T, m *mosquitto, dir string, replay Replay) *gateway {
	g := &gateway{t: t, ended: make(chan struct{})}
	times := func() (int64, int64, bool) { return broker.BootTime(), time.Now().UnixNano(), true }
	for c := range broker.NumClasses {
		log, err := spool.Open(spool.Config{Dir: filepath.Join(dir, c.String()), Name: c.String(), Size: 64 << 20, Time: times, BootID: [16]byte{1}, Reserve: -1})
		if err != nil {
			t.Fatal(err)
		}
		g.logs[c] = log
	}
	clock := func() broker.Clock {
		return broker.Clock{Offset: time.Now().UnixNano() - broker.BootTime(), Quality: broker.Exact}
	}
	var err error
	if g.broker, err = broker.New(broker.Config{Logs: g.logs, Clock: clock}); err != nil {
		t.Fatal(err)
	}
	g.bridge, err = New(Config{
		Name: "cloud", URLs: []string{fmt.Sprintf("tls://localhost:%d", m.port)}, ClientID: "gw", Username: "gw", Password: "secret",
		TLS: &tls.Config{RootCAs: m.ca.pool, Certificates: []tls.Certificate{m.client}},
		QoS: 1, Replay: replay, BootID: [16]byte{1}, MinBackoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond,
		Send: []Rule{{"p/#", "dt/p/#"}}, Receive: []Rule{{"cmd/+/_set", "p/+/_set"}},
	}, g.broker, clock, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	g.stop = stop
	go func() {
		defer close(g.ended)
		g.bridge.Run(ctx)
	}()
	return g
}

// publish publishes payloads from..to-1 and waits until all are acknowledged.
func (g *gateway) publish(from, to int) {
	var left sync.WaitGroup
	for i := from; i < to; i++ {
		left.Add(1)
		msg := broker.Message{Topic: "p/x", Payload: fmt.Append(nil, i), QoS: 1, From: "meter"}
		if err := g.broker.PublishFrom(g.t.Context(), &msg, func(err error) {
			if err != nil {
				g.t.Error(err)
			}
			left.Done()
		}); err != nil {
			g.t.Fatal(err)
		}
	}
	left.Wait()
}

func (g *gateway) end() {
	g.stop()
	<-g.ended
	for _, l := range g.logs {
		if err := l.Close(); err != nil {
			g.t.Error(err)
		}
	}
}

// What was acknowledged locally arrives in order: before, during and after an
// outage in which the gateway is restarted, too. Replay under live-first has
// two streams, each in its own order.
func TestWholePathAcrossOutageAndRestart(t *testing.T) {
	for _, replay := range []Replay{Strict, LiveFirst} {
		t.Run(replay.String(), func(t *testing.T) {
			m := newMosquitto(t, "")
			m.start()
			w := m.session()
			dir := t.TempDir()
			g := startGateway(t, m, dir, replay)
			g.publish(0, 1000)
			await(t, "it has arrived", func() bool { return g.bridge.backlogRecords() == 0 })
			m.stop()
			g.publish(1000, 2000)
			g.end()
			g = startGateway(t, m, dir, replay)
			g.publish(2000, 3000)
			m.start()
			g.publish(3000, 4000)
			await(t, "all is acknowledged", func() bool { return g.bridge.backlogRecords() == 0 })
			m.attach(w)
			var got []string
			var again int
			await(t, "all have arrived", func() bool { got, again = w.distinct(); return len(got) >= 4000 })
			checkStreams(t, w, replay)
			s := g.bridge.Stats()
			t.Logf("4000 messages, lost 0, repeated %d; after the restart: sent %d, acked %d, longest outage %v", again, s.Sent, s.Acked, s.LongestOutage)
			g.end()
		})
	}
}

// checkStreams checks that each stream is in order.
func checkStreams(t *testing.T, w *watcher, replay Replay) {
	t.Helper()
	last := map[bool]int{}
	seen := map[string]bool{}
	for _, l := range w.lines {
		payload, props, _ := strings.Cut(l, " ")
		id, _, _ := strings.Cut(props, " ") // mid:… comes first
		if seen[id] {
			continue
		}
		seen[id] = true
		replayed := strings.Contains(props, propReplayed)
		if replayed && replay == Strict {
			t.Fatalf("%q is marked under strict replay", l)
		}
		var n int
		fmt.Sscan(payload, &n)
		if n < last[replayed] {
			t.Fatalf("%d came after %d (replayed: %t)", n, last[replayed], replayed)
		}
		last[replayed] = n
	}
}

// Commands arrive from a client of the far broker at the local one's handler.
func TestWholePathOfACommand(t *testing.T) {
	m := newMosquitto(t, "")
	m.start()
	g := startGateway(t, m, t.TempDir(), Strict)
	got := make(chan broker.Message, 10)
	if err := g.broker.Handle("p/+/_set", func(msg *broker.Message) {
		c := *msg
		c.Payload = append([]byte(nil), msg.Payload...)
		select {
		case got <- c:
		default: // one is enough
		}
	}); err != nil {
		t.Fatal(err)
	}
	other := m.bridgeTo(func(c *Config) { c.ClientID, c.Send = "app", []Rule{{"cmd/boiler/_set", "cmd/boiler/_set"}} })
	other.start()
	await(t, "one of many arrives", func() bool { // the first ones come before the gateway has subscribed
		other.tele.add(broker.Message{Topic: "cmd/boiler/_set", Payload: []byte("on"), Props: &broker.Properties{ResponseTopic: "answer"}})
		return len(got) > 0
	})
	msg := <-got
	if msg.Topic != "p/boiler/_set" || string(msg.Payload) != "on" || msg.From != "bridge:cloud" || msg.Props.ResponseTopic != "answer" {
		t.Errorf("received %+v", msg)
	}
	await(t, "it is counted", func() bool { return g.bridge.Stats().Received > 0 })
	other.end()
	g.end()
}

// A slowConn delivers what is written after half a round trip.
type slowConn struct {
	net.Conn
	out  chan parcel
	once sync.Once
	stop chan struct{}
}

type parcel struct {
	due  time.Time
	data []byte
}

const roundTrip = 20 * time.Millisecond

func newSlowConn(c net.Conn) *slowConn {
	s := &slowConn{Conn: c, out: make(chan parcel, 10000), stop: make(chan struct{})}
	go func() {
		for {
			select {
			case p := <-s.out:
				select {
				case <-time.After(time.Until(p.due)):
				case <-s.stop:
					return
				}
				if _, err := s.Conn.Write(p.data); err != nil {
					return
				}
			case <-s.stop:
				return
			}
		}
	}()
	return s
}

func (s *slowConn) Write(p []byte) (int, error) {
	s.out <- parcel{time.Now().Add(roundTrip / 2), append([]byte(nil), p...)}
	return len(p), nil
}

func (s *slowConn) Close() error {
	s.once.Do(func() { close(s.stop) })
	return s.Conn.Close()
}

// slow puts half the round trip into each direction.
func (r *rig) slow() {
	usual := r.dial
	r.dial = func(ctx context.Context, u *url.URL) (net.Conn, error) {
		c, err := usual(ctx, u)
		if err != nil {
			return nil, err
		}
		return newSlowConn(c), nil
	}
	r.up.publish = func(c *serverConn, p *packets.Publish) {
		time.AfterFunc(roundTrip/2, func() { c.ack(p, 0) })
	}
}

// A window of 20 over a round trip of 20 ms lets 1000 messages pass in a
// second; all of it is used.
func TestThroughputIsWindowByRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.slow()
		r.tele.fill(0, 2000)
		start := time.Now()
		r.start()
		for r.tele.Acked() < 2000 {
			pass(time.Millisecond)
		}
		ideal := 2000 / r.cfg.Window * int(roundTrip)
		if ratio := float64(ideal) / float64(time.Since(start)); ratio < 0.95 {
			t.Errorf("%.2f of window/RTT", ratio)
		}
		r.end()
	})
}

// BenchmarkWindow20RTT20ms reports real throughput as a share of window/RTT.
func BenchmarkWindow20RTT20ms(b *testing.B) {
	r := newRig(b, nil)
	r.slow()
	r.tele.fill(0, 3000)
	b.ResetTimer()
	start := time.Now()
	r.start()
	for r.Stats().Acked < 3000 {
		<-time.After(time.Millisecond)
	}
	rate := 3000 / time.Since(start).Seconds()
	b.ReportMetric(rate, "msg/s")
	b.ReportMetric(rate/(20/roundTrip.Seconds()), "of-ideal")
	r.end()
}
