package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"edgegateway/bridge"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
)

// systemd restarts a service that does not feed its watchdog. It is fed here
// only while all parts come round, so that one which hangs for good does not go
// unnoticed because the rest of the process is well. What a part does may take
// its time, and a slow device, network or card is no reason to restart:
// each has an allowance that is well beyond the longest of that.

// How long parts may take to come round.
const (
	busAllowance    = 2 * time.Minute // and four times the longest timeout on it
	bridgeAllowance = 2 * time.Minute // connecting takes 30 s at most, a write 20 s
	spoolAllowance  = 5 * time.Minute // a sync of a worn card can take a minute, and a restart does not mend it
	otherAllowance  = time.Minute     // nothing there waits for anything outside
)

// A part is something that has to come round.
type part struct {
	name      string
	allowance time.Duration
	turn      func(context.Context) bool // waits until it does, or ctx is done, and reports whether it did
	leave     context.CancelFunc

	last   atomic.Int64 // when it did, in ns since the start of the watchdog
	warned bool         // that it is late; the watchdog's
	stuck  bool         // that it is beyond its allowance; the watchdog's
}

// A watchdog asks all parts to come round, feeds systemd's watchdog while they
// do, and says which one does not before that bites.
type watchdog struct {
	feed  func() // nil: systemd expects nothing
	every time.Duration
	log   *slog.Logger
	start time.Time

	mu    sync.Mutex
	parts []*part
}

// follow has a part come round from now on, until the function that is returned
// is called or run ends.
func (w *watchdog) follow(name string, allowance time.Duration, turn func(context.Context) bool) (leave func()) {
	p := &part{name: name, allowance: allowance, turn: turn}
	var ctx context.Context
	ctx, p.leave = context.WithCancel(context.Background())
	p.last.Store(int64(time.Since(w.start)))
	w.mu.Lock()
	w.parts = append(w.parts, p)
	w.mu.Unlock()
	go p.follow(ctx, w.start, w.every) // one that hangs cannot be waited for
	return func() {
		p.leave()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.parts = slices.DeleteFunc(w.parts, func(x *part) bool { return x == p })
	}
}

func (w *watchdog) run(ctx context.Context) error {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		if w.look(time.Since(w.start)) && w.feed != nil {
			w.feed()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, p := range w.parts {
				p.leave()
			}
			return nil
		}
	}
}

// late is for how long a part has not come round.
func (p *part) late(now time.Duration) time.Duration { return now - time.Duration(p.last.Load()) }

func (p *part) follow(ctx context.Context, start time.Time, every time.Duration) {
	for p.turn(ctx) {
		p.last.Store(int64(time.Since(start)))
		if !devices.Sleep(ctx, every) {
			return
		}
	}
}

// look reports whether no part is beyond its allowance, and logs what changed.
func (w *watchdog) look(now time.Duration) (well bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	well = true
	for _, p := range w.parts {
		late := p.late(now)
		switch {
		case late > p.allowance:
			well = false
			if !p.stuck {
				w.log.Error("this part hangs: systemd is no longer told that all is well, and restarts the service", "part", p.name, "dur", late.Round(time.Second), "allowed", p.allowance)
			}
			p.stuck, p.warned = true, true
		case late > p.allowance/2:
			if !p.warned {
				w.log.Warn("this part takes long to come round; when it has not by its allowance, the service is restarted", "part", p.name, "dur", late.Round(time.Second), "allowed", p.allowance)
			}
			p.warned = true
		case p.warned:
			w.log.Info("this part comes round again", "part", p.name)
			p.warned, p.stuck = false, false
		}
	}
	return well
}

// trouble names the parts that hang, nil for none.
func (w *watchdog) trouble() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	now := time.Since(w.start)
	for _, p := range w.parts {
		if late := p.late(now); late > p.allowance {
			errs = append(errs, fmt.Errorf("%s has not come round for %s", p.name, late.Round(time.Second)))
		}
	}
	return errors.Join(errs...)
}

// newWatchdog returns a watchdog that follows nothing yet.
func newWatchdog(log *slog.Logger) *watchdog {
	w := &watchdog{every: 10 * time.Second, log: log, start: time.Now()}
	if interval, err := daemon.SdWatchdogEnabled(false); err != nil {
		log.Warn("systemd's watchdog is not fed", "err", err)
	} else if interval > 0 {
		w.every = min(w.every, interval/3)
		w.feed = func() { notify(log, daemon.SdNotifyWatchdog) }
	}
	return w
}

// followRest follows what no reload ends.
func (g *gateway) followRest() {
	for name, l := range g.allLogs() {
		g.dog.follow("spool "+name, spoolAllowance, l.Turn)
	}
	g.dog.follow("broker", otherAllowance, func(context.Context) bool { g.broker.Stats(); return true }) // takes the lock that all routing takes
}

// longestTimeout is what a device of the bus may take to answer at most.
func (b *bus) longestTimeout() time.Duration {
	longest := b.Modbus.Timeout
	for _, dev := range b.Devices {
		if unit, ok := dev.Unit.(modbus.Unit); ok {
			longest = max(longest, unit.Timeout)
		}
	}
	return longest
}

// statusEvery is how often the line of systemctl status is brought up to date.
const statusEvery = 5 * time.Second

// runStatusLine tells systemd how things are whenever that changed.
func (g *gateway) runStatusLine(ctx context.Context) error {
	told := g.statusLine()
	for devices.Sleep(ctx, statusEvery) {
		if line := g.statusLine(); line != told {
			told = line
			notify(g.log, "STATUS="+line)
		}
	}
	return nil
}

// statusLine is what systemctl status shows: "2 buses, 5 devices, aws up, buffer 0".
func (g *gateway) statusLine() string {
	w := g.works.Load()
	if len(w.buses) == 0 {
		return "no devices yet: write them into devices.d, then reload"
	}
	var missing []string
	away, total := 0, 0
	for _, b := range w.buses {
		stats := b.poller.Stats()
		if stats.PortDown {
			missing = append(missing, b.ID)
		}
		for _, d := range stats.Devices {
			total++
			if d.State == devices.Offline {
				away++
			}
		}
	}
	parts := []string{count(len(w.buses), "bus"), count(total, "device")}
	if len(missing) > 0 {
		parts[0] += " (no port: " + strings.Join(missing, " ") + ")"
	}
	if away > 0 {
		parts[1] += fmt.Sprintf(" (%d offline)", away)
	}
	waiting := uint64(0)
	for _, b := range w.bridges {
		s := b.Stats()
		state := "down"
		if s.State == bridge.Up {
			state = "up"
		}
		parts = append(parts, s.Name+" "+state)
		for _, l := range s.Backlog {
			waiting += l.Records
		}
	}
	if len(w.bridges) > 0 {
		parts = append(parts, fmt.Sprintf("buffer %d", waiting))
	}
	return strings.Join(parts, ", ")
}
