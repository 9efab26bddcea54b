package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"edgegateway/broker/packet"
)

// Delays are the times that messages took, in order.
type delays []time.Duration

func (d delays) at(share float64) float64 {
	if len(d) == 0 {
		return 0
	}
	return float64(d[min(len(d)-1, int(share*float64(len(d))))].Microseconds()) / 1000
}

// A pair is one client that publishes at a steady rate to another.
type pair struct {
	pub   *publisher
	sub   *subscriber
	mu    sync.Mutex // guards pub's writer
	times delays     // the subscriber's
}

func (l *load) newPair(s *server, topic string, qos byte) (*pair, error) {
	subs, err := l.subscribers(s, topic, qos, 1)
	if err != nil {
		return nil, err
	}
	pubs, err := l.publishers(s, qos, 1)
	if err != nil {
		return nil, err
	}
	p := &pair{pub: pubs[0], sub: subs[0]}
	p.pub.topic = topic
	p.sub.took = func(sent time.Duration) { p.times = append(p.times, time.Since(start)-sent) }
	return p, nil
}

// run publishes for the given time and returns what each message took, sorted,
// and how many did not arrive.
func (p *pair) run(rate int, d time.Duration) (delays, int, error) {
	var all sync.WaitGroup
	all.Go(p.sub.run)
	all.Go(p.readAcks)
	from := time.Now()
	var err error
	for i := 0; time.Since(from) < d && err == nil; i++ {
		time.Sleep(time.Until(from.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		p.mu.Lock()
		if err = p.pub.publish(); err == nil {
			err = p.pub.w.Flush()
		}
		p.mu.Unlock()
	}
	got := await([]*subscriber{p.sub}, p.pub.sent)
	p.pub.Close()
	p.sub.Close()
	all.Wait()
	slices.Sort(p.times)
	return p.times, p.pub.sent - got, err
}

// readAcks takes the publisher's acknowledgements, which nobody waits for.
func (p *pair) readAcks() {
	for {
		in, _, err := p.pub.r.Read()
		if err != nil {
			return
		}
		if ack, ok := in.(*packet.Ack); ok && ack.Kind == packet.PUBREC {
			p.mu.Lock()
			p.pub.send(&packet.Ack{Kind: packet.PUBREL, ID: ack.ID})
			p.pub.w.Flush()
			p.mu.Unlock()
		}
	}
}

const steady = 1000 // messages/s

func (l *load) latency() error {
	window := max(l.window, 5*time.Second)
	fmt.Printf("\n### Latency: 1→1 at %d messages/s, %v, median of %d × %v\n\n", steady, l.version, l.runs, window)
	t := l.table("QoS")
	t.column("p50", "p50 ms", "%.3f", true)
	t.column("p99", "p99 ms", "%.3f", true)
	t.column("p99.9", "p99.9 ms", "%.3f", true)
	t.column("max", "max ms", "%.2f", false)
	t.column("cpu", "broker CPU µs each", "%.1f", true)
	t.column("lost", "lost", "%.0f", false)
	for _, qos := range l.qos {
		figures, err := l.each(func(s *server) (figure, error) {
			pair, err := l.newPair(s, "bench/0", byte(qos-'0'))
			if err != nil {
				return nil, err
			}
			used := s.cpu()
			times, lost, err := pair.run(steady, window)
			return figure{
				"p50": times.at(0.5), "p99": times.at(0.99), "p99.9": times.at(0.999), "max": times.at(1),
				"cpu": float64((s.cpu() - used).Microseconds()) / float64(len(times)), "lost": float64(lost),
			}, err
		})
		t.row(figures, err, string(qos))
	}
	return nil
}
