package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"edgegateway/broker/spool"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/internal/metrics"
	"edgegateway/internal/web"
	"edgegateway/mapping"
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

// figures returns what metrics show. It waits for no part at work, but for the
// pumps if values are to be shown.
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
		if g.cfg.WebValues {
			one.Values = b.values(one.BusStats)
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

// values returns what the points hold of devices that answer, as far as these
// are numbers.
func (b *bus) values(stats devices.BusStats) (list []metrics.Value) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	b.pump.call(ctx, func(m *mapping.Mapper) {
		for i, dev := range b.Devices {
			if stats.Devices[i].State != devices.Online {
				continue
			}
			for _, c := range m.Snapshot(dev.ID) {
				if v, ok := c.Value.Float64(); ok && c.Cause == "" {
					list = append(list, metrics.Value{Device: dev.ID, Point: c.Point.Name, Unit: c.Point.Unit, V: v})
				}
			}
		}
	})
	return list
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
