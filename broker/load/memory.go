package main

import (
	"fmt"
	"sync"
	"time"
)

func (l *load) memory() error {
	fmt.Printf("\n### Memory: connections with one subscription each, %v, median of %d\n\n", l.version, l.runs)
	t := l.table("connections")
	t.column("idle", "idle MB", "%.1f", true)
	t.column("rss", "with them MB", "%.1f", true)
	t.column("each", "kB each", "%.1f", true)
	t.column("took", "connected in s", "%.2f", true)
	t.column("cpu", "CPU ms/s then", "%.1f", false)
	for _, n := range []int{1000, 10_000} {
		figures, err := l.each(func(s *server) (figure, error) { return l.hold(s, n) })
		t.row(figures, err, fmt.Sprint(n))
	}
	return nil
}

// hold opens n connections and looks at the broker while they say nothing.
func (l *load) hold(s *server, n int) (figure, error) {
	time.Sleep(time.Second)
	f := figure{"idle": s.memory("VmRSS")}
	conns := make([]*conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	from := time.Now()
	if err := l.connectAll(s, conns); err != nil {
		return f, err
	}
	f["took"] = time.Since(from).Seconds()
	time.Sleep(time.Second)
	used := s.cpu()
	time.Sleep(2 * time.Second)
	f["cpu"] = float64((s.cpu() - used).Milliseconds()) / 2
	f["rss"] = s.memory("VmRSS")
	f["each"] = (f["rss"] - f["idle"]) * 1024 / float64(n)
	return f, nil
}

// connectAll fills conns, some at once. More than a port range holds come from
// several addresses of loopback.
func (l *load) connectAll(s *server, conns []*conn) error {
	const atOnce = 20
	errs := make([]error, atOnce)
	var all sync.WaitGroup
	for w := range atOnce {
		all.Go(func() {
			for i := w; i < len(conns) && errs[w] == nil; i += atOnce {
				o := options{id: fmt.Sprintf("idle%d", i), version: l.version, source: fmt.Sprintf("127.0.0.%d", 2+i/10_000)}
				if conns[i], errs[w] = dial(s.addr, o); errs[w] == nil {
					errs[w] = conns[i].subscribe(fmt.Sprintf("idle/%d/set", i), 1)
				}
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
