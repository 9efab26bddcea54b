package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

// A screen shows the demo live: on a terminal as a picture that is drawn
// again and again, elsewhere as a line every few seconds.
type screen struct {
	demo  *demo
	out   *os.File
	live  bool
	next  time.Duration // of the next line
	seen  int           // messages delivered at the last drawing
	since time.Duration
	rate  float64
}

func newScreen(d *demo) *screen {
	s := &screen{demo: d, out: os.Stderr}
	s.live = isTerminal(s.out) && os.Getenv("TERM") != "dumb"
	return s
}

func (s *screen) intro() {
	d := s.demo
	_, port, _ := strings.Cut(d.at.broker, ":")
	fmt.Fprintf(s.out, "Configuration: %s\nWatch the site:  mosquitto_sub -p %s -t 'plant-a/#' -v\nWrite a value:   mosquitto_pub -p %[2]s -t plant-a/boiler/setpoint/set -m 55.5\n\n", d.dir, port)
	if s.live {
		fmt.Fprint(s.out, "\x1b[?25l") // hide the cursor
	}
}

func (s *screen) end() {
	if s.live {
		fmt.Fprint(s.out, "\x1b[J\x1b[?25hHanding over what is left …\n") // in place of the picture
	}
}

func (s *screen) draw(t time.Duration) {
	_, delivered, _, _ := s.demo.tally.counts()
	if d := t - s.since; d >= time.Second {
		s.rate = float64(delivered-s.seen) / d.Seconds()
		s.seen, s.since = delivered, t
	}
	if s.live {
		s.redraw(t)
	} else if t >= s.next {
		s.next = t + 2*time.Second
		fmt.Fprintf(s.out, "%3.0f s  uplink %-8s  delivered %6d  waiting %5d  bus rs485 %3.0f %%\n",
			t.Seconds(), s.uplink(), delivered, s.demo.waiting(), 100*s.busy("rs485"))
	}
}

func (s *screen) uplink() string {
	switch {
	case s.demo.outages.now():
		return "CUT"
	case len(s.demo.last.Bridges) > 0 && s.demo.last.Bridges[0].State == "up":
		return "up"
	}
	return "connects"
}

func (s *screen) busy(bus string) float64 {
	for _, b := range s.demo.last.Buses {
		if b.Bus == bus {
			return b.Busy
		}
	}
	return 0
}

func (s *screen) redraw(t time.Duration) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%.0f s   uplink %s\n\n", t.Seconds(), s.uplink())
	s.drawDevices(&b)
	s.drawBuses(&b)
	s.drawBuffer(&b)
	fmt.Fprint(&b, "\nCtrl-C ends it and shows the verdict.\n")

	width := s.width()
	var out bytes.Buffer
	lines := strings.Split(b.String(), "\n")
	for _, line := range lines {
		fmt.Fprintf(&out, "%s\x1b[K\n", clip(line, width))
	}
	fmt.Fprintf(&out, "\x1b[J\x1b[%dA", len(lines)) // back up, so that the next picture covers this one
	s.out.Write(out.Bytes())
}

func (s *screen) drawDevices(w io.Writer) {
	fmt.Fprintf(w, "%-10s %-8s %-8s %s\n", "DEVICE", "BUS", "STATE", "VALUES")
	for _, d := range s.demo.last.Devices {
		var values []string
		for _, p := range d.Points {
			if p.Error == "" && string(p.Value) != "null" {
				values = append(values, strings.TrimSpace(fmt.Sprintf("%s %s %s", p.Name, p.Value, p.Unit)))
			}
		}
		fmt.Fprintf(w, "%-10s %-8s %-8s %s\n", d.ID, d.Bus, d.State, strings.Join(values, "  "))
	}
}

func (s *screen) drawBuses(w io.Writer) {
	fmt.Fprintf(w, "\n%-10s %-28s %5s %9s %9s\n", "BUS", "ADDRESS", "BUSY", "REQUESTS", "TIMEOUTS")
	for _, b := range s.demo.last.Buses {
		fmt.Fprintf(w, "%-10s %-28s %3.0f %% %9d %9d\n", b.Bus, short(b.Address, 28), 100*b.Busy, b.Requests, b.Timeouts)
	}
}

func (s *screen) drawBuffer(w io.Writer) {
	waiting := s.demo.waiting()
	most := max(s.demo.backlog, 1)
	bar := int(30 * waiting / most)
	fmt.Fprintf(w, "\nBUFFER  [%s%s] %d messages waiting, at most %d\n", strings.Repeat("#", bar), strings.Repeat(".", 30-bar), waiting, s.demo.backlog)
	_, delivered, duplicated, disorder := s.demo.tally.counts()
	fmt.Fprintf(w, "CLOUD   %d delivered, %.0f a second, %d duplicates, %d out of order, %d outages\n",
		delivered, s.rate, duplicated, disorder, s.demo.outages.total())
}

func (s *screen) width() int {
	cols, _ := terminalSize(s.out)
	return max(20, cols)
}

// clip cuts a line to the width of the terminal, so that it never wraps.
func clip(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(0, width-1)]) + "…"
}

// short keeps the end of a path, which tells more than its beginning.
func short(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + s[len(s)-n+1:]
}
