package config

import (
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/internal/budget"
)

// checkPlans lets each bus's protocol plan the queries of its devices, without
// opening anything, so that what cannot be asked is known before it is tried.
func (l *loader) checkPlans() {
	if l.Errors() > 0 {
		return // buses and points are not whole
	}
	for _, b := range l.buses {
		if b.pub.Protocol != Modbus {
			continue
		}
		cfg := b.pub.Modbus
		cfg.Notebook = modbus.Presumed(b.devices())
		line, err := modbus.NewLine(cfg)
		if err != nil {
			l.errorKey(b.place(), "bus %q: %v", b.key, err)
			continue
		}
		for _, d := range b.users {
			l.checkPlan(line, d)
		}
		_ = line.Close() // it was never opened
		l.checkLoad(b)
	}
}

// devices are those on the bus.
func (b *bus) devices() (devs []*devices.Device) {
	for _, d := range b.users {
		devs = append(devs, d.dev.Device)
	}
	return devs
}

// checkLoad warns of a bus that has more to do than it can.
func (l *loader) checkLoad(b *bus) {
	if l.Errors() > 0 {
		return
	}
	plan, err := budget.Of(b.pub.Modbus, b.devices(), 0)
	if err != nil {
		return // reported by checkPlan
	}
	if trouble := plan.Trouble(b.key); trouble != "" {
		l.warnKey(b.place(), "%s; see `gateway plan`", trouble)
	}
}

func (l *loader) checkPlan(line devices.Line, d *deviceBuilder) {
	before := l.Errors()
	if d.all {
		return // it is never asked
	}
	for _, p := range d.dev.Device.Points {
		if _, err := line.Plan(d.dev.Device, []*devices.Point{p}); err != nil {
			l.errorKey(l.at[p], "%v", err)
		}
	}
	for _, s := range d.dev.Setup {
		if _, err := line.Write(d.dev.Device, s.Point.Point, s.Raw, !s.Point.Write.NoVerify); err != nil {
			l.errorKey(l.at[s.Point.Point], "%v", err)
		}
	}
	if l.Errors() > before {
		return
	}
	if _, err := line.Plan(d.dev.Device, d.dev.Device.Points); err != nil {
		l.errorKey(d.raw.at, "device %q: %v", d.key, err)
		return
	}
	if _, err := devices.Groups(line, d.dev.Device); err != nil {
		l.errorKey(d.raw.at, "device %q: %v", d.key, err)
	}
}
