package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// A reloader reads the configuration again on SIGHUP. One with an error changes
// nothing.
type reloader struct {
	path    string // of the configuration
	gateway *gateway
	log     *slog.Logger
	hangups chan os.Signal // one waits; more of them ask for the same
	asked   chan chan *ReloadStatus

	mu      sync.Mutex
	last    *ReloadStatus // nil: there was none
	good    devices.Stamp // when a configuration was last taken by a reload; 0: never
	restart bool          // some of that waits for a restart
}

// A ReloadStatus is what became of the last reload.
type ReloadStatus struct {
	Time    time.Time `json:"time"`
	OK      bool      `json:"ok"`
	Error   string    `json:"error,omitempty"`
	Restart []string  `json:"restart,omitempty"` // parts that are as they were until the gateway is started again
}

// print tells of what a person has to do after a reload.
func (r *ReloadStatus) print(out io.Writer) {
	switch {
	case r == nil:
	case !r.OK:
		fmt.Fprintf(out, "reload  failed at %s, all is as before: %s\n", r.Time.Local().Format(time.DateTime), r.Error)
	case len(r.Restart) > 0:
		fmt.Fprintf(out, "reload  at %s; changed, but as before until a restart: %s\n", r.Time.Local().Format(time.DateTime), strings.Join(r.Restart, ", "))
	}
}

// catchHangups returns a channel of SIGHUPs, which end the process no more.
func catchHangups() (hangups chan os.Signal, stop func()) {
	hangups = make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	return hangups, func() { signal.Stop(hangups) }
}

func (r *reloader) run(ctx context.Context) error {
	for {
		select {
		case <-r.hangups:
			r.reload(ctx)
		case tell := <-r.asked:
			tell <- r.reload(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// ask reloads and returns what became of it.
func (r *reloader) ask(ctx context.Context) (*ReloadStatus, error) {
	tell := make(chan *ReloadStatus, 1)
	select {
	case r.asked <- tell:
		return <-tell, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// status is nil-safe and may be called at any time.
func (r *reloader) status() *ReloadStatus {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

func (r *reloader) reload(ctx context.Context) *ReloadStatus {
	notify(r.log, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
	defer func() { notify(r.log, daemon.SdNotifyReady+"\nSTATUS="+r.gateway.statusLine()) }()
	now := r.gateway.clock.Now().Wall(int64(devices.Now()))
	c, err := r.read(ctx)
	status := &ReloadStatus{Time: now, OK: err == nil}
	if err != nil {
		status.Error = err.Error()
		r.log.Error("not reloaded; all goes on as it was", "err", err)
	} else {
		status.Restart = c.restart
		r.log.Info("reloaded", "config", r.gateway.works.Load().cfg.Hash(), "begun", strings.Join(c.begun, ", "), "anew", strings.Join(c.anew, ", "),
			"ended", strings.Join(c.ended, ", "), "kept", len(c.kept), "disconnected", c.disconnected)
		for _, part := range c.restart {
			r.log.Warn("this part of the configuration was changed, too, and needs a restart: systemctl restart gateway", "part", part)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last = status; status.OK {
		r.good, r.restart = devices.Now(), len(status.Restart) > 0
	}
	return status
}

// read reads the configuration and has the gateway work by it.
func (r *reloader) read(ctx context.Context) (*changes, error) {
	var settings []config.Setting
	cfg, report := config.Load(r.path, config.Options{Settings: &settings})
	for _, i := range report.Issues {
		level := slog.LevelWarn
		if i.Severity == config.Error {
			level = slog.LevelError
		}
		r.log.Log(ctx, level, i.Message, "file", fmt.Sprintf("%s:%d:%d", i.File, i.Line, i.Column))
	}
	if cfg == nil {
		return nil, fmt.Errorf("the configuration has %s; `gateway check` shows them with their lines", count(report.Errors(), "error"))
	}
	c, err := r.gateway.reload(ctx, cfg)
	if err == nil {
		saveApplied(settings, r.gateway.at, r.log)
	}
	return c, err
}

// Changes are what a reload does to the parts of a configuration.
type changes struct {
	begun, anew, ended, kept []string // buses and bridges
	restart                  []string // what cannot be changed while it runs
	disconnected             int      // clients that may not be there any more
	tables                   bool     // [publish]: what is published of all devices
	announce                 bool     // what Home Assistant is told
}

// compare says what becomes of each part. start is the configuration that the
// gateway was started with, by which those parts go that need a restart.
func compare(start, old, now map[string]string) *changes {
	c := new(changes)
	differs := func(before map[string]string, part string) bool { return before[part] != now[part] }
	parts := slices.Concat(slices.Collect(maps.Keys(old)), slices.Collect(maps.Keys(now)), slices.Collect(maps.Keys(start)))
	slices.Sort(parts)
	for _, part := range slices.Compact(parts) {
		kind, _, named := strings.Cut(part, " ")
		switch {
		case named && old[part] == "" && now[part] == "": // it came and went
		case named && old[part] == "":
			c.begun = append(c.begun, part)
		case named && now[part] == "":
			c.ended = append(c.ended, part)
		case named && differs(old, part):
			c.anew = append(c.anew, part)
		case named:
			c.kept = append(c.kept, part)
		case part == "publish":
			c.tables = differs(old, part)
		case part == "homeassistant":
			c.announce = c.announce || differs(old, part)
		case !config.TakesReload(part) && differs(start, part): // the users are always read again: they name files
			c.restart = append(c.restart, part)
		}
		if kind == "bus" && differs(old, part) {
			c.announce = true
		}
	}
	c.announce = c.announce || c.tables
	return c
}

func (c *changes) keeps(part string) bool { return slices.Contains(c.kept, part) }

var errEnding = errors.New("the gateway is stopping")

// reload has the gateway work by cfg. What did not change goes on as it is: its
// schedule, its connections. An error says that nothing was changed.
func (g *gateway) reload(ctx context.Context, cfg *config.Config) (*changes, error) {
	select {
	case g.changing <- struct{}{}:
		defer func() { <-g.changing }()
	case <-ctx.Done():
		return nil, errEnding
	}
	if cfg.Name != g.cfg.Name {
		return nil, fmt.Errorf("the name is %q now and was %q: all topics and sessions go by it, so that the gateway has to be started again: systemctl restart gateway", cfg.Name, g.cfg.Name)
	}
	old := g.works.Load()
	c := compare(g.cfg.Parts(), old.cfg.Parts(), cfg.Parts())
	cfg.Timezone, cfg.TrustClock, cfg.Commands = g.cfg.Timezone, g.cfg.TrustClock, g.cfg.Commands
	cfg.Keep(old.cfg, func(bus string) bool { return c.keeps(config.BusPart(bus)) })
	w, err := g.newWorks(cfg, old)
	if err != nil {
		return nil, err
	}
	w.ha = old.ha
	if c.announce {
		w.ha = g.newAnnouncer(w)
	}
	mappers, err := newMappers(c, old, w)
	if err != nil {
		return nil, err
	}

	uplinks := g.changeUplinks(c, old, w)
	changed := g.command.change(ctx, func() {
		g.endBuses(old, w)
		g.learned.adopt(deviceIDs(cfg.Devices))
		g.works.Store(w)
		g.command.adopt()
	})
	if !changed {
		return nil, errEnding
	}
	begun := w.without(old)
	g.pauses.keep(begun)
	for _, b := range begun {
		g.diary.give(b)
		b.pump.screen = g.command.screen
		g.beginBus(b)
	}
	for b, m := range mappers {
		b.pump.remap(ctx, m)
	}
	for _, u := range uplinks {
		g.beginUplink(u)
	}
	g.forget(old, w)
	if w.ha != old.ha {
		old.ha.stop()
		g.beginAnnouncer(w)
		if err := g.listenForBirths(w); err != nil {
			g.log.Error("nobody hears when Home Assistant comes online: restart the gateway", "err", err)
		}
	}
	c.disconnected = g.broker.Review(g.access.Set(cfg.Access))
	g.publishStatus("online")
	for _, u := range w.bridges {
		u.SetStatus(g.statusPayload("online"), g.statusPayload("offline"))
	}
	return c, nil
}

// without returns the buses of w that are not in other.
func (w *works) without(other *works) []*bus {
	return slices.DeleteFunc(slices.Clone(w.buses), func(b *bus) bool { return slices.Contains(other.buses, b) })
}

// newMappers makes mappers for the buses that stay while what is published of
// their devices changes.
func newMappers(c *changes, old, w *works) (map[*bus]*mapping.Mapper, error) {
	all := make(map[*bus]*mapping.Mapper)
	for _, b := range w.buses {
		if !c.tables || !slices.Contains(old.buses, b) {
			continue
		}
		m, err := mapperOf(w.cfg, b.Bus)
		if err != nil {
			return nil, err
		}
		all[b] = m
	}
	return all, nil
}

// endBuses ends those of old that are not in w.
func (g *gateway) endBuses(old, w *works) {
	gone := old.without(w)
	var ids []string
	for _, b := range gone {
		ids = append(ids, b.ID)
	}
	g.command.leave(ids)
	var ending sync.WaitGroup
	for _, b := range gone {
		ending.Go(b.stop)
	}
	ending.Wait()
	g.diary.finish(gone...)
}

// changeUplinks ends the bridges that are gone or changed and puts all there
// are now into w. It returns those that are to be begun.
func (g *gateway) changeUplinks(c *changes, old, w *works) (begin []*uplink) {
	var ending sync.WaitGroup
	kept := make(map[string]*uplink)
	for _, u := range old.bridges {
		if c.keeps(config.BridgePart(u.name)) {
			kept[u.name] = u
			continue
		}
		ending.Go(u.stop)
	}
	ending.Wait()
	for _, u := range old.bridges {
		if !slices.Contains(c.ended, config.BridgePart(u.name)) {
			continue
		}
		// Its backlog stays until it is purged.
		if _, err := g.broker.Durable(u.name, nil, 0); err != nil {
			g.log.Error("what is published is still kept for a bridge that is gone", "bridge", u.name, "err", err)
		}
	}
	for _, settings := range w.cfg.Bridges {
		u := kept[settings.Name]
		if u == nil {
			var err error
			if u, err = g.newUplink(settings); err != nil {
				g.log.Error("bridge not begun", "bridge", settings.Name, "err", err)
				continue
			}
			begin = append(begin, u)
		}
		w.bridges = append(w.bridges, u)
	}
	return begin
}

// forget clears the retained messages of what is published no more, here and,
// as bridges carry it on, upstream.
func (g *gateway) forget(old, w *works) {
	gone := make(map[string]bool)
	for _, d := range old.cfg.Devices {
		gone[g.cfg.Name+"/"+d.Name+"/_status"] = true
	}
	for _, d := range w.cfg.Devices {
		delete(gone, g.cfg.Name+"/"+d.Name+"/_status")
	}
	for _, topic := range g.broker.Own() {
		if gone[topic] || old.mapper.Publishes(topic) && !w.mapper.Publishes(topic) {
			g.broker.Publish(&broker.Message{Topic: topic, QoS: 1, Retain: true, Stamp: int64(devices.Now())})
		}
	}
}
