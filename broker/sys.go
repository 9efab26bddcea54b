package broker

import (
	"context"
	"fmt"
	"math"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// sysPrefix begins the topics that tell of the broker, under the names that
// mosquitto has made usual. They are made when somebody is subscribed to them,
// retained nowhere, and have QoS 0, so that no session keeps them.
const sysPrefix = "$SYS/broker/"

// sysState is what $SYS needs to remember. Broker.mu guards it.
type sysState struct {
	start  time.Time
	most   int               // clients at once
	heap   uint64            // most of it in use
	told   map[string]string // the last value of each topic
	rates  map[string]*[3]float64
	before map[string]uint64 // counts at the last tick
}

// sysMinutes are the times that loads are averaged over.
var sysMinutes = [3]float64{1, 5, 15}

func (b *Broker) sysLoop(ctx context.Context) {
	every := b.cfg.Sys
	if every == 0 {
		every = 10 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	b.mu.Lock()
	b.sys.start = time.Now()
	b.mu.Unlock()
	for {
		select {
		case <-tick.C:
			for _, m := range b.sysTick(every) {
				b.route(&publication{msg: m, owned: true})
			}
		case <-ctx.Done():
			return
		}
	}
}

// sysTick brings the averages up to date and returns what has changed, if
// somebody is subscribed to it.
func (b *Broker) sysTick(every time.Duration) (msgs []*Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &b.sys
	s.most = max(s.most, len(b.clients))
	b.sysRates(every)
	if b.subs.root.children["$SYS"] == nil {
		s.told = nil
		return nil
	}
	now := b.sysValues()
	for topic, value := range now {
		if s.told[topic] != value {
			msgs = append(msgs, b.sysMessage(topic, value))
		}
	}
	s.told = now
	return msgs
}

func (b *Broker) sysMessage(topic, value string) *Message {
	return &Message{Topic: topic, Payload: []byte(value), Stamp: b.now()}
}

// sysMatching returns what a new subscription gets at once.
func (b *Broker) sysMatching(filter string) (msgs []*Message) {
	if !strings.HasPrefix(filter, "$SYS") || b.cfg.Sys < 0 {
		return nil
	}
	now := b.sysValues()
	if b.sys.told == nil {
		b.sys.told = now
	}
	for topic, value := range now {
		if Match(filter, topic) {
			msgs = append(msgs, b.sysMessage(topic, value))
		}
	}
	return msgs
}

// sysCounts returns the counts whose rates are told.
func (b *Broker) sysCounts() map[string]uint64 {
	t := b.trafficLocked()
	return map[string]uint64{
		"messages/received":         t.packetsIn.Load(),
		"messages/sent":             t.packetsOut.Load(),
		"publish/messages/received": t.in.Load(),
		"publish/messages/sent":     t.out.Load(),
		"publish/messages/dropped":  b.droppedAll(),
		"publish/bytes/received":    t.payloadIn.Load(),
		"publish/bytes/sent":        t.payloadOut.Load(),
		"bytes/received":            t.bytesIn.Load(),
		"bytes/sent":                t.bytesOut.Load(),
		"connections":               b.counts.connections.Load(),
	}
}

func (b *Broker) droppedAll() (n uint64) {
	for i := range b.counts.dropped {
		n += b.counts.dropped[i].Load()
	}
	return n
}

// sysLoads are the names of rates, by count.
var sysLoads = map[string]string{
	"messages/received": "messages/received", "messages/sent": "messages/sent",
	"publish/messages/received": "publish/received", "publish/messages/sent": "publish/sent", "publish/messages/dropped": "publish/dropped",
	"bytes/received": "bytes/received", "bytes/sent": "bytes/sent", "connections": "connections",
}

// sysRates follows how many there are a minute, as averages that forget the
// past little by little.
func (b *Broker) sysRates(every time.Duration) {
	s := &b.sys
	counts := b.sysCounts()
	if s.rates == nil {
		s.rates = make(map[string]*[3]float64)
	}
	for count, name := range sysLoads {
		r := s.rates[name]
		if r == nil {
			r = new([3]float64)
			s.rates[name] = r
		}
		rate := float64(counts[count]-s.before[count]) / every.Minutes()
		for i, minutes := range sysMinutes {
			r[i] = rate + (r[i]-rate)*math.Exp(-every.Minutes()/minutes)
		}
	}
	s.before = counts
}

// sysValues returns all topics with their present values.
func (b *Broker) sysValues() map[string]string {
	s := &b.sys
	v := make(map[string]string)
	set := func(topic string, value any) { v[sysPrefix+topic] = fmt.Sprint(value) }
	away, stored, storedBytes := 0, 0, 0
	for _, x := range b.sessions {
		if x.client == nil {
			away++
		}
		x.out.mu.Lock()
		stored += x.out.backlog.unread() + x.out.queue.len() + x.out.window.len()
		storedBytes += x.out.backlog.unreadSize() + x.out.bytes
		x.out.mu.Unlock()
	}
	shared := 0
	for _, g := range b.groups {
		shared += len(g.members)
	}
	subscriptions := b.subs.count - len(b.groups) + shared
	set("version", "gateway "+b.cfg.Version)
	set("uptime", strconv.Itoa(int(time.Since(s.start).Seconds()))+" seconds")
	s.most = max(s.most, len(b.clients))
	set("clients/connected", len(b.clients))
	set("clients/active", len(b.clients))
	set("clients/disconnected", away)
	set("clients/inactive", away)
	set("clients/total", len(b.clients)+away)
	set("clients/maximum", s.most)
	set("clients/expired", b.counts.expired.Load())
	set("subscriptions/count", subscriptions)
	set("shared_subscriptions/count", shared)
	set("retained messages/count", b.retained.len())
	set("messages/stored", stored+b.retained.len())
	set("store/messages/count", stored+b.retained.len())
	set("store/messages/bytes", storedBytes+b.retained.bytes)
	for topic, n := range b.sysCounts() {
		if topic != "connections" {
			set(topic, n)
		}
	}
	heap := heapInUse()
	s.heap = max(s.heap, heap)
	set("heap/current", heap)
	set("heap/maximum", s.heap)
	for name, r := range s.rates {
		for i, minutes := range sysMinutes {
			set(fmt.Sprintf("load/%s/%.0fmin", name, minutes), strconv.FormatFloat(r[i], 'f', 2, 64))
		}
	}
	return v
}

func heapInUse() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
