package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// backlog fills the spool of a bridge without a far broker, starts the gateway
// again, and lets it drain to mosquitto.
func (l *load) backlog() error {
	fmt.Printf("\n### Backlog: %d messages of %d bytes at QoS 1, %v\n\n", l.records, l.bytes, l.version)
	dir, err := os.MkdirTemp("", "load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	far, err := freePort()
	if err != nil {
		return err
	}
	ours := l.paths
	ours.config += fmt.Sprintf("[spool]\nsize = \"48GiB\"\n[bridge.far]\nurl = \"tcp://127.0.0.1:%d\"\nclient_id = \"load\"\nsend = { \"bench/#\" = \"bench/#\" }\n", far)
	gateway := peer{"gateway", ours.gatewayCommand}
	s, err := gateway.start(dir)
	if err != nil {
		return err
	}
	defer func() { s.stop() }()
	if err := l.pile(s); err != nil {
		return err
	}
	from := time.Now()
	s.stop()
	fmt.Printf("- stopped in %.2f s, %.1f GB on disk\n", time.Since(from).Seconds(), s.disk()/1024)
	if s, err = gateway.start(dir); err != nil {
		return err
	}
	began := s.began
	time.Sleep(2 * time.Second)
	fmt.Printf("- answered %.2f s after its start, %.1f MB in memory\n", began.Seconds(), s.memory("VmRSS"))
	return l.drain(s, filepath.Join(dir, "far"), far)
}

// pile publishes what the bridge will owe.
func (l *load) pile(s *server) error {
	pubs, err := l.publishers(s, 1, 1)
	if err != nil {
		return err
	}
	pub := pubs[0]
	pub.bytes = l.bytes
	defer pub.Close()
	time.Sleep(time.Second)
	fmt.Printf("- empty: %.1f MB in memory\n", s.memory("VmRSS"))
	from := time.Now()
	for step := 1; step <= 10; step++ {
		for pub.sent < l.records*step/10 {
			if err := pub.publish(); err != nil {
				return err
			}
			if pub.open == pub.window {
				if err := pub.collect(pub.window / 2); err != nil {
					return err
				}
			}
		}
		if err := pub.collect(0); err != nil {
			return err
		}
		fmt.Printf("- %d messages after %.0f s: %.1f MB in memory, at most %.1f\n", pub.sent, time.Since(from).Seconds(), s.memory("VmRSS"), s.memory("VmHWM"))
	}
	return nil
}

// drain has mosquitto take all and says how fast that went.
func (l *load) drain(s *server, dir string, port int) error {
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	far, err := peer{"mosquitto", l.paths.mosquittoCommand}.startAt(dir, port)
	if err != nil {
		return err
	}
	defer far.stop()
	subs, err := l.subscribers(far, "bench/#", 0, 1)
	if err != nil {
		return err
	}
	defer subs[0].Close()
	go subs[0].run()
	for subs[0].got.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	from, used := time.Now(), s.cpu()
	n := await(subs, l.records)
	took := time.Since(from)
	if n < l.records {
		took -= patience
	}
	fmt.Printf("- drained %d of %d to mosquitto at %s in %.0f s: %.0f a second, %.1f µs of CPU each, %d out of order; %.1f MB in memory, at most %.1f\n",
		n, l.records, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), took.Seconds(), float64(n)/took.Seconds(),
		float64((s.cpu()-used).Microseconds())/float64(n), subs[0].again, s.memory("VmRSS"), s.memory("VmHWM"))
	return nil
}
