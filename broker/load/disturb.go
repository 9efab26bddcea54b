package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"edgegateway/broker/packet"
)

// A disturbance is something that goes on while a pair exchanges messages.
type disturbance struct {
	name string
	run  func(ctx context.Context, l *load, s *server) error // until ctx is done
}

var disturbances = []disturbance{
	{"nothing", func(ctx context.Context, _ *load, _ *server) error { <-ctx.Done(); return nil }},
	{"a subscriber stuck at another topic that is flooded", func(ctx context.Context, l *load, s *server) error {
		return l.lame(ctx, s, "other/#", 0)
	}},
	{"a subscriber stuck at everything", func(ctx context.Context, l *load, s *server) error {
		return l.lame(ctx, s, "#", 0)
	}},
	{"one that reads a byte a second of another topic that is flooded", func(ctx context.Context, l *load, s *server) error {
		return l.lame(ctx, s, "other/#", time.Second)
	}},
	{"one that reads a byte a second of everything", func(ctx context.Context, l *load, s *server) error {
		return l.lame(ctx, s, "#", time.Second)
	}},
	{"100 clients that reconnect every second", func(ctx context.Context, l *load, s *server) error {
		return l.crowd(ctx, s, 100, func(i int) string { return fmt.Sprintf("again%d", i) }, time.Second)
	}},
	{"100 clients that reconnect every 100 ms", func(ctx context.Context, l *load, s *server) error {
		return l.crowd(ctx, s, 100, func(i int) string { return fmt.Sprintf("again%d", i) }, 100*time.Millisecond)
	}},
	{"two clients that fight for one id", func(ctx context.Context, l *load, s *server) error {
		return l.crowd(ctx, s, 2, func(int) string { return "one" }, 10*time.Millisecond)
	}},
	{"5,000 malformed packets", func(ctx context.Context, l *load, s *server) error {
		return l.malformed(ctx, s, 5000)
	}},
}

const quiet = 200 // messages/s of the pair

func (l *load) disturb() error {
	window := max(l.window, 5*time.Second)
	fmt.Printf("\n### A pair at %d messages/s, QoS 1, %v, median of %d × %v, while there is\n\n", quiet, l.version, l.runs, window)
	t := l.table("what")
	t.column("p50", "p50 ms", "%.3f", false)
	t.column("p99", "p99 ms", "%.3f", false)
	t.column("ratio", "p99 × idle", "%.2f", false)
	t.column("max", "max ms", "%.2f", false)
	t.column("lost", "lost", "%.0f", false)
	idle := make(map[string]float64)
	for _, d := range disturbances {
		figures, err := l.each(func(s *server) (figure, error) { return l.disturbed(s, d, window) })
		for i, p := range l.peers {
			if err != nil {
				break
			}
			if _, ok := idle[p.name]; !ok {
				idle[p.name] = median(figures[i], "p99")
			}
			for _, f := range figures[i] {
				f["ratio"] = f["p99"] / idle[p.name]
			}
		}
		t.row(figures, err, d.name)
	}
	return nil
}

func (l *load) disturbed(s *server, d disturbance, window time.Duration) (figure, error) {
	pair, err := l.newPair(s, "bench/0", 1)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var other sync.WaitGroup
	var failed error
	other.Go(func() { failed = d.run(ctx, l, s) })
	times, lost, err := pair.run(quiet, window)
	cancel()
	other.Wait()
	if err == nil {
		err = failed
	}
	return figure{"p50": times.at(0.5), "p99": times.at(0.99), "max": times.at(1), "lost": float64(lost)}, err
}

// lame subscribes and reads nothing, or one byte every so often, while another
// client publishes at 1,000 messages/s what only it gets.
func (l *load) lame(ctx context.Context, s *server, filter string, every time.Duration) error {
	c, err := dial(s.addr, options{id: "lame", version: l.version})
	if err != nil {
		return err
	}
	defer c.Close()
	c.Conn.(*net.TCPConn).SetReadBuffer(4096)
	if err := c.subscribe(filter, 1); err != nil {
		return err
	}
	flood, err := dial(s.addr, options{id: "flood", version: l.version})
	if err != nil {
		return err
	}
	p := &publisher{conn: flood, topic: "other/t", qos: 0}
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil && p.publish() == nil && p.w.Flush() == nil {
			time.Sleep(time.Millisecond)
		}
	})
	for one := make([]byte, 1); every > 0 && ctx.Err() == nil; {
		c.Conn.Read(one)
		select {
		case <-time.After(every):
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	flood.Close() // it may be held back
	all.Wait()
	return nil
}

// crowd connects n clients, which subscribe, drop their connection and come
// again after a pause, or when they lose it.
func (l *load) crowd(ctx context.Context, s *server, n int, id func(int) string, pause time.Duration) error {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for ctx.Err() == nil {
				c, err := dial(s.addr, options{id: id(i), version: l.version})
				if err == nil {
					c.subscribe("crowd/#", 0)
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
				if err == nil {
					c.Close()
				}
			}
		})
	}
	all.Wait()
	return nil
}

// broken are packets that no client may send after its CONNECT.
var broken = [][]byte{
	{0x82, 6, 0, 1, 0, 1, 'a', 7},                 // SUBSCRIBE with options that do not exist
	{0x82, 2, 0, 1},                               // without filters
	{0x36, 5, 0, 1, 'a', 0, 1},                    // PUBLISH with QoS 3
	{0x30, 3, 0, 1, '#'},                          // with a wildcard
	{0x30, 4, 0, 2, 0xC0, 0x80},                   // with an overlong NUL
	{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1},             // with a length that is none
	{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1},          // with the largest length, and nothing then
	{0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0}, // a second CONNECT, cut
	{0xF0, 0}, {0x00, 0}, {0x60, 2, 0, 1}, {0x40, 2, 0, 0}, {0xC0, 1, 0},
}

// malformed sends n broken packets, each on a connection of its own, and
// waits until the broker ends it.
func (l *load) malformed(ctx context.Context, s *server, n int) error {
	for i := 0; i < n && ctx.Err() == nil; i++ {
		c, err := dial(s.addr, options{id: fmt.Sprintf("bad%d", i), version: packet.V311})
		if err != nil {
			return err
		}
		c.Conn.Write(broken[i%len(broken)])
		c.Conn.(*net.TCPConn).CloseWrite()
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		io.Copy(io.Discard, c.Conn)
		c.Close()
	}
	<-ctx.Done()
	return nil
}
