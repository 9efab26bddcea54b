package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// Devices that answer later than the gateway waits never make it publish a
// value of another register: in the simulator's check mode no two registers
// ever hold the same number, and each published one is looked up.
func TestLateRepliesNeverBecomeAnotherValue(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "rs485")
	points := ""
	for i := range 12 { // apart from each other, so that each has a request of its own, all of the same length
		points += fmt.Sprintf("r%02d = { holding = %d, type = \"u32\" }\n", i, 100*i)
	}
	s := newSite(t, fmt.Sprintf("[bus.rs485]\naddress = %q\nbaud = 115200\ntimeout = \"60ms\"\n", link), map[string]string{
		"meters": "[device.slow]\nbus = \"rs485\"\nunit_id = 1\nevery = \"50ms\"\n[device.slow.points]\n" + points +
			"[device.quick]\nbus = \"rs485\"\nunit_id = 2\nevery = \"50ms\"\n[device.quick.points]\n" + points,
	})
	cfg, report := config.Load(s.config, config.Options{})
	if cfg == nil {
		t.Fatal(report.Err())
	}
	plan, err := simulatorConfig(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	plan.Check, plan.History = true, 1<<20
	plan.Log = slog.New(slog.DiscardHandler)
	sim := runPlant(t, plan)
	s.run()

	book := &ledger{sim: sim, points: map[string]*mapping.Point{}}
	for _, dev := range cfg.Devices {
		for _, p := range dev.Points {
			book.points["plant/"+dev.Name+"/"+p.Name] = p
		}
	}
	conn, err := net.Dial("tcp", "127.0.0.1:"+s.broker)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){book.take}})
	if _, err := client.Connect(t.Context(), &paho.Connect{ClientID: "checker", CleanStart: true, KeepAlive: 30}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "plant/+/+", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}

	// Around and beyond the timeout, and now and then no answer at all.
	const seed = 7
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	rounds := 40
	if long() {
		rounds = 1000
	}
	for range rounds {
		fault := simulator.Fault{Latency: time.Duration(dice.IntN(200)) * time.Millisecond, Silent: dice.IntN(8) == 0}
		if err := sim.SetFault("rs485", 1, fault); err != nil {
			t.Fatal(err)
		}
		good := book.count()
		eventually(t, "the quick device is read", func() bool { return book.count() > good+10 })
	}
	sim.SetFault("rs485", 1, simulator.Fault{})
	eventually(t, "the slow device is read again", func() bool { return book.has("plant/slow/") })

	book.mu.Lock()
	defer book.mu.Unlock()
	if len(book.wrong) > 0 {
		t.Fatalf("%d wrong values, the first: %s", len(book.wrong), book.wrong[0])
	}
	if book.bad == 0 {
		t.Fatal("no reading failed: the test did not reach what it is for")
	}
	t.Logf("%d values right, none wrong; %d readings without a value", book.good, book.bad)
}

// A ledger looks up whether each value that is published was held.
type ledger struct {
	sim    *simulator.Simulator
	points map[string]*mapping.Point // by topic

	mu        sync.Mutex
	good, bad int
	wrong     []string
	latest    map[string]int // good ones by the first letters of the topic
}

func (l *ledger) take(r paho.PublishReceived) (bool, error) {
	topic := r.Packet.Topic
	p := l.points[topic]
	if p == nil {
		return true, nil // a status
	}
	var msg struct{ Value json.RawMessage }
	err := json.Unmarshal(r.Packet.Payload, &msg)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && string(msg.Value) == "null" {
		l.bad++
		return true, nil
	}
	device := strings.Split(topic, "/")[1]
	v, verr := mapping.ParseValue(p, msg.Value)
	raw, eerr := mapping.Encode(nil, p, v)
	if err != nil || verr != nil || eerr != nil || !l.sim.Holds(device, p.Name, raw) {
		l.wrong = append(l.wrong, topic+" "+string(r.Packet.Payload))
		return true, nil
	}
	l.good++
	if l.latest == nil {
		l.latest = map[string]int{}
	}
	l.latest["plant/"+device+"/"]++
	return true, nil
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.good
}

func (l *ledger) has(prefix string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest[prefix] > 0
}
