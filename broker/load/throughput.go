package main

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

var shapes = []struct{ pubs, subs int }{{1, 1}, {50, 1}, {1, 50}}

func (l *load) throughput() error {
	fmt.Printf("\n### Throughput: payload %d bytes, %v, median of %d × %v\n\n", payloadSize, l.version, l.runs, l.window)
	t := l.table("QoS", "pubs→subs")
	t.column("rate", "deliveries/s", "%.0f", true)
	t.column("lost", "lost %", "%.1f", false)
	t.column("cpu", "broker CPU µs each", "%.1f", true)
	t.column("peak", "peak MB", "%.0f", true)
	t.column("again", "out of order", "%.0f", false)
	for _, qos := range l.qos {
		for _, shape := range shapes {
			if l.shape != "" && l.shape != fmt.Sprintf("%d-%d", shape.pubs, shape.subs) {
				continue
			}
			figures, err := l.each(func(s *server) (figure, error) {
				return l.flood(s, byte(qos-'0'), shape.pubs, shape.subs)
			})
			t.row(figures, err, string(qos), fmt.Sprintf("%d→%d", shape.pubs, shape.subs))
		}
	}
	return nil
}

// each measures all brokers in turn, as often as the load says.
func (l *load) each(measure func(*server) (figure, error)) ([][]figure, error) {
	figures := make([][]figure, len(l.peers))
	for range l.runs {
		for i, p := range l.peers {
			err := p.with(func(s *server) error {
				f, err := measure(s)
				figures[i] = append(figures[i], f)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return figures, nil
}

// flood publishes and takes as much as there is room for.
func (l *load) flood(s *server, qos byte, pubs, subs int) (figure, error) {
	f := make(figure)
	receivers, err := l.subscribers(s, "bench/#", qos, subs)
	if err != nil {
		return f, err
	}
	var reading sync.WaitGroup
	for _, r := range receivers {
		reading.Go(r.run)
	}
	defer func() {
		for _, r := range receivers {
			r.Close()
		}
		reading.Wait()
	}()
	senders, err := l.publishers(s, qos, pubs)
	if err != nil {
		return f, err
	}
	used, from := s.cpu(), time.Now()
	errs := make([]error, pubs)
	var sending sync.WaitGroup
	for i, p := range senders {
		sending.Go(func() { defer p.Close(); errs[i] = p.flood(from.Add(l.window)) })
	}
	time.Sleep(time.Until(from.Add(l.window)))
	f["rate"] = float64(sum(receivers)) / time.Since(from).Seconds()
	sending.Wait()
	sent := 0
	for _, p := range senders {
		sent += p.sent * subs
	}
	got := await(receivers, sent)
	f["lost"] = 100 * float64(sent-got) / float64(sent)
	f["cpu"] = float64((s.cpu() - used).Microseconds()) / float64(got)
	f["peak"] = s.memory("VmHWM")
	for _, r := range receivers {
		r.Close()
	}
	reading.Wait()
	for _, r := range receivers {
		f["again"] += float64(r.again)
	}
	return f, errors.Join(errs...)
}

func (l *load) subscribers(s *server, filter string, qos byte, n int) ([]*subscriber, error) {
	var list []*subscriber
	for i := range n {
		c, err := dial(s.addr, options{id: fmt.Sprintf("sub%d", i), version: l.version})
		if err != nil {
			return nil, err
		}
		if err := c.subscribe(filter, qos); err != nil {
			return nil, err
		}
		list = append(list, &subscriber{conn: c})
	}
	return list, nil
}

func (l *load) publishers(s *server, qos byte, n int) ([]*publisher, error) {
	window := 100
	if n > 1 {
		window = 20
	}
	var list []*publisher
	for i := range n {
		c, err := dial(s.addr, options{id: fmt.Sprintf("pub%d", i), version: l.version})
		if err != nil {
			return nil, err
		}
		list = append(list, &publisher{conn: c, topic: fmt.Sprintf("bench/%d", i), qos: qos, window: window, index: uint32(i)})
	}
	return list, nil
}

func sum(subs []*subscriber) int {
	n := 0
	for _, s := range subs {
		n += int(s.got.Load())
	}
	return n
}

// await returns how many messages arrived when all have, or none has for as
// long as patience lasts.
func await(subs []*subscriber, all int) int {
	last, moved := sum(subs), time.Now()
	for last < all && time.Since(moved) < patience {
		time.Sleep(5 * time.Millisecond)
		if n := sum(subs); n > last {
			last, moved = n, time.Now()
		}
	}
	return last
}
