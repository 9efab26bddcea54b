package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
	"edgegateway/internal/clock"
)

// A computer is one whose clock drifts and was never set; true time is that of
// the test's bubble, some years later.
type computer struct {
	t       *testing.T
	disk    *spooltest.Disk
	boots   byte
	started time.Time

	mu     sync.Mutex
	offset int64 // wall - boot time
	sync   clock.Sync

	source *clock.Source
	broker *broker.Broker
	bridge *Bridge
	logs   [broker.NumClasses]*spool.Log
	up     *upstream
	stop   func()
}

const crystal = 80e-6 // by which its clock runs fast

func trueTime() time.Time { return time.Now().AddDate(27, 2, 9) } // from 10 March 2027 on

func (c *computer) Boot() int64 {
	d := time.Since(c.started) + time.Second
	return int64(d) + int64(float64(d)*crystal)
}

func (c *computer) Wall() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Boot() + c.offset
}

func (c *computer) Sync() clock.Sync {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sync
}

// set sets the clock as a time server does.
func (c *computer) set() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = trueTime().UnixNano() - c.Boot()
	c.sync = clock.Sync{OK: true, MaxError: 5 * time.Millisecond}
}

// boot starts the computer with a clock that is four months behind, and the
// gateway on it.
func (c *computer) boot() {
	c.boots++
	c.started = time.Now()
	c.offset = trueTime().AddDate(0, -4, 0).UnixNano() - c.Boot()
	c.sync = clock.Sync{}
	id := [16]byte{c.boots}
	c.source = clock.Open(clock.Config{BootID: id, Dir: "state", FS: c.disk, Kernel: c})
	for class := range broker.NumClasses {
		log, err := spool.Open(spool.Config{
			Dir: "spool/" + class.String(), Name: class.String(), Size: 8 << 20, Segment: 1 << 20, Reserve: -1, FS: c.disk,
			Sync: spool.Policy{Mode: spool.Always}, Time: c.source.Times, BootID: id,
		})
		if err != nil {
			c.t.Fatal(err)
		}
		c.logs[class] = log
	}
	var err error
	if c.broker, err = broker.New(broker.Config{Logs: c.logs, Now: c.Boot, Clock: c.source.Now, ClockAt: c.source.At}); err != nil {
		c.t.Fatal(err)
	}
	c.bridge, err = New(Config{
		Name: "cloud", URLs: []string{"tcp://up:1883"}, ClientID: "gw", QoS: 1, BootID: id, Now: c.Boot, ClockAt: c.source.At,
		Send: []Rule{{"p/#", "p/#"}}, MaxBackoff: 5 * time.Second, DrainTime: -1,
	}, c.broker, c.source.Now, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.bridge.dial = c.up.dial
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { c.bridge.Run(ctx) })
	parts.Go(func() { c.source.Run(ctx) })
	c.stop = func() {
		stop()
		parts.Wait()
		for _, l := range c.logs {
			l.Close()
		}
	}
}

// reboot ends it, politely or by its plug, and starts it again a while later.
func (c *computer) reboot(off time.Duration, cut bool, rng *rand.Rand) {
	if cut {
		c.disk.PowerCut(rng)
	}
	c.stop()
	c.disk.Start()
	time.Sleep(off)
	c.boot()
}

// run has a meter read for some time. The value of each reading is its true
// time.
func (c *computer) run(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Second) {
		m := timed("p/meter", fmt.Sprint(trueTime().UnixNano()))
		m.QoS, m.Stamp = 1, c.Boot()
		c.broker.Publish(&m)
	}
}

// TestClockFourMonthsOff is the life of a gateway without a battery: it boots
// with a clock that is months off, which is set ten minutes later, and is
// rebooted before that, or after it with its backlog still there.
func TestClockFourMonthsOff(t *testing.T) {
	for _, cut := range []bool{false, true} {
		for _, order := range []string{"rebooted before it is set", "set before it is rebooted", "rebooted twice before it is set"} {
			name := order + ", politely"
			if cut {
				name = order + ", by its plug"
			}
			t.Run(name, func(t *testing.T) {
				seed := rand.Uint64()
				synctest.Test(t, func(t *testing.T) { fourMonthsOff(t, order, cut, rand.New(rand.NewPCG(seed, 1))) })
				t.Logf("seed %d", seed)
			})
		}
	}
}

func fourMonthsOff(t *testing.T, order string, cut bool, rng *rand.Rand) {
	link := make(chan struct{})
	up := &upstream{dialed: func(int) error {
		select {
		case <-link:
			return nil
		default:
			return fmt.Errorf("network is unreachable")
		}
	}}
	c := &computer{t: t, disk: spooltest.NewDisk(), up: up}
	c.boot() // once all is well
	c.set()
	c.run(30 * time.Minute)
	c.reboot(3*24*time.Hour, cut, rng)

	c.run(10 * time.Minute)
	var want map[string]int
	switch order {
	case "rebooted before it is set":
		c.reboot(time.Hour, cut, rng)
		c.run(10 * time.Minute)
		want = map[string]int{"exact": 180 + 60, "bounded": 60}
	case "rebooted twice before it is set":
		c.reboot(time.Hour, cut, rng)
		c.run(10 * time.Minute)
		c.reboot(time.Hour, cut, rng)
		c.run(10 * time.Minute)
		want = map[string]int{"exact": 180 + 60, "bounded": 120}
	default:
		c.set()
		c.run(10 * time.Minute)
		c.reboot(time.Hour, cut, rng)
		c.run(10 * time.Minute)
		want = map[string]int{"exact": 180 + 60 + 60 + 60}
	}
	close(link) // the network is there, and a moment later it sets the clock
	time.Sleep(time.Minute)
	for _, p := range up.payloads() {
		if strings.Contains(p, `"clock":"unsynced"`) {
			t.Fatalf("sent before anybody could know its time: %s", p)
		}
	}
	c.set()
	c.run(10 * time.Minute)
	time.Sleep(time.Minute)
	c.stop()
	want["exact"] += 60

	got, arrived := map[string]int{}, map[int64]bool{}
	for _, p := range up.payloads() {
		quality, truth := honestPayload(t, p)
		if !arrived[truth.UnixNano()] {
			got[quality]++
			arrived[truth.UnixNano()] = true
		}
	}
	t.Logf("arrived: %v", got)
	got["exact"] += got["interpolated"] // right by its error, which was checked
	delete(got, "interpolated")
	for q, n := range want {
		if got[q] != n {
			t.Errorf("%d are %s, want %d (all: %v)", got[q], q, n, got)
		}
	}
	up.mu.Lock()
	for _, c := range up.conns {
		c.Close()
	}
	up.mu.Unlock()
}

// honestPayload checks what a reading says of its time against its value.
func honestPayload(t *testing.T, payload string) (quality string, truth time.Time) {
	t.Helper()
	var p struct {
		Value int64     `json:"value"`
		Time  time.Time `json:"time"`
		Clock string    `json:"clock"`
		Error *int64    `json:"clock_error"`
		From  time.Time `json:"clock_from"`
		To    time.Time `json:"clock_to"`
	}
	if err := json.Unmarshal([]byte(payload), &p); err != nil {
		t.Fatalf("%s: %v", payload, err)
	}
	truth = time.Unix(0, p.Value).UTC()
	off := p.Time.Sub(truth).Abs()
	switch p.Clock {
	case "":
		if p.Clock = "exact"; off > clock.ExactWithin {
			t.Errorf("%s: off by %v", payload, off)
		}
	case "interpolated":
		if most := time.Duration(*p.Error) * time.Millisecond; off > most || most > time.Second {
			t.Errorf("%s: off by %v", payload, off)
		}
	case "bounded":
		if width := p.To.Sub(p.From); width > 3*24*time.Hour+5*time.Hour {
			t.Errorf("%s: bounds %v wide, and it was off for three days", payload, width)
		}
		if truth.Before(p.From) || truth.After(p.To) || off > time.Duration(*p.Error)*time.Millisecond {
			t.Errorf("%s: it was at %v", payload, truth)
		}
	default:
		t.Errorf("%s: nobody knows when", payload)
	}
	return p.Clock, truth
}
