package main

import (
	"fmt"
	"os"
	"time"
)

const (
	retainedTopics = 100_000
	sessions       = 1000
	queued         = 10_000
)

func (l *load) state() error {
	for _, m := range []struct {
		name string
		run  func(*load, peer) error
	}{{fmt.Sprintf("%d retained topics", retainedTopics), (*load).keepRetained}, {fmt.Sprintf("%d sessions with %d messages each", sessions, queued), (*load).keepSessions}} {
		fmt.Printf("\n### State: %s, payload %d bytes, %v\n\n", m.name, payloadSize, l.version)
		for _, p := range l.peers {
			if err := m.run(l, p); err != nil {
				fmt.Printf("- %s: %v\n", p.name, err)
			}
		}
	}
	return nil
}

// restarted fills a broker, starts it again from what it kept, and looks.
func (p peer) restarted(fill, look func(*server) error) error {
	dir, err := os.MkdirTemp("", "load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := p.start(dir)
	if err != nil {
		return err
	}
	from := time.Now()
	if err = fill(s); err != nil {
		s.stop()
		return err
	}
	took := time.Since(from)
	time.Sleep(time.Second)
	memory := s.memory("VmRSS")
	from = time.Now()
	s.stop()
	stopped := time.Since(from)
	disk := s.disk()
	if s, err = p.start(dir); err != nil {
		return err
	}
	defer s.stop()
	fmt.Printf("- %s: filled in %.1f s, %.0f MB in memory; stopped in %.1f s, %.0f MB on disk; started in %.2f s with %.0f MB",
		p.name, took.Seconds(), memory, stopped.Seconds(), disk, s.began.Seconds(), s.memory("VmRSS"))
	defer fmt.Println()
	return look(s)
}

func (l *load) keepRetained(p peer) error {
	fill := func(s *server) error {
		pubs, err := l.publishers(s, 1, 1)
		if err != nil {
			return err
		}
		pub := pubs[0]
		defer pub.Close()
		pub.retain = true
		for i := range retainedTopics {
			if err := pub.publish(); err != nil {
				return err
			}
			pub.msg.Topic = fmt.Sprintf("site/%d/device/%d/value", i/100, i)
			if pub.open == pub.window {
				if err := pub.collect(pub.window / 2); err != nil {
					return err
				}
			}
		}
		return pub.collect(0)
	}
	look := func(s *server) error {
		subs, err := l.subscribers(s, "#", 1, 1)
		if err != nil {
			return err
		}
		defer subs[0].Close()
		from := time.Now()
		go subs[0].run()
		n := await(subs, retainedTopics)
		fmt.Printf("; %d of them sent to a subscriber within %.1f s", n, time.Since(from).Seconds())
		return nil
	}
	return p.restarted(fill, look)
}

func (l *load) keepSessions(p peer) error {
	id := func(i int) string { return fmt.Sprintf("kept%d", i) }
	fill := func(s *server) error {
		for i := range sessions {
			c, err := dial(s.addr, options{id: id(i), version: l.version, keep: true})
			if err != nil {
				return err
			}
			if err := c.subscribe("bench/#", 1); err != nil {
				return err
			}
			c.disconnect()
		}
		pubs, err := l.publishers(s, 1, 1)
		if err != nil {
			return err
		}
		defer pubs[0].Close()
		for pubs[0].sent < queued {
			if err := pubs[0].publish(); err != nil {
				return err
			}
			if pubs[0].open == pubs[0].window {
				if err := pubs[0].collect(pubs[0].window / 2); err != nil {
					return err
				}
			}
		}
		return pubs[0].collect(0)
	}
	look := func(s *server) error {
		from := time.Now()
		whole, present := 0, 0
		for i := 0; i < sessions; i += sessions / 10 {
			c, err := dial(s.addr, options{id: id(i), version: l.version, keep: true})
			if err != nil {
				return err
			}
			if c.present {
				present++
			}
			sub := &subscriber{conn: c}
			done := make(chan struct{})
			go func() { defer close(done); sub.run() }()
			n := await([]*subscriber{sub}, queued)
			c.Close()
			if <-done; n == queued && sub.again == 0 {
				whole++
			}
		}
		fmt.Printf("; of 10 sessions %d were present and %d got all messages in order, in %.1f s", present, whole, time.Since(from).Seconds())
		return nil
	}
	return p.restarted(fill, look)
}
