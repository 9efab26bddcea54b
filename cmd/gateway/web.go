package main

import (
	"errors"
	"strings"
	"time"

	"edgegateway/broker/spool"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/internal/metrics"
	"edgegateway/internal/web"
)

// newWeb makes what shows metrics and health on this machine; nil if the
// configuration wants none.
func (g *gateway) newWeb() *web.Server {
	if g.cfg.Web == "" {
		return nil
	}
	return web.New(web.Config{
		Listen: g.cfg.Web, Metrics: metrics.Handler(g.figures), Status: func() any { return g.status() },
		Live: g.dog.trouble, Ready: g.ready, Log: g.log,
	})
}

// figures returns what metrics show. It waits for no part at work.
func (g *gateway) figures() *metrics.Figures {
	w := g.works.Load()
	f := &metrics.Figures{
		Version: version(), Clock: g.clock.Now(), Now: devices.Now(), Broker: g.broker.Stats(),
		Spools: map[string]spool.Stats{}, Sync: map[string]spool.Policy{},
		CommandLog: g.writes.Trouble() == nil, Reload: g.reloads.figures(g.started), Certificates: map[string]time.Time{},
	}
	for _, b := range w.buses {
		one := metrics.Bus{BusStats: b.poller.Stats(), Readings: b.pump.readings.Load(), Mute: map[string]bool{}}
		if line, ok := w.plant.buses[b.ID].line.(*modbus.Line); ok {
			stats := line.Stats()
			one.Line = &stats
		}
		for _, dev := range b.Devices {
			one.Mute[dev.ID] = dev.WrittenOnly()
		}
		f.Buses = append(f.Buses, one)
	}
	for _, b := range w.bridges {
		f.Bridges = append(f.Bridges, b.Stats())
	}
	for name, l := range g.allLogs() {
		f.Spools[name], f.Sync[name] = l.Stats(), l.Policy()
	}
	if c := g.cfg.Certificate; c != nil {
		f.Certificates["broker"] = c.Leaf().NotAfter
	}
	for _, b := range w.cfg.Bridges {
		if b.Cert != nil {
			leaf, _ := b.Cert.Leaf()
			f.Certificates[b.String()] = leaf.NotAfter
		}
	}
	return f
}

// figures is nil-safe and may be called at any time. started is when the
// configuration was read that the gateway was started with.
func (r *reloader) figures(started devices.Stamp) metrics.Reload {
	f := metrics.Reload{OK: true, Good: started}
	if r == nil {
		return f
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f.Good = max(f.Good, r.good)
	if r.last != nil {
		f.OK, f.Restart = r.last.OK, r.restart
	}
	return f
}

// ready says what does not listen. Devices and far brokers have no part in it:
// nothing would be better for being taken out of service while they are away.
func (g *gateway) ready() error {
	var missing []string
	for i, l := range g.cfg.Listen {
		if g.broker.Addr(i) == nil {
			missing = append(missing, l.Address)
		}
	}
	if len(missing) > 0 {
		return errors.New("the broker cannot listen at " + strings.Join(missing, ", "))
	}
	return nil
}
