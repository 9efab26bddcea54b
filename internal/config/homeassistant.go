package config

import (
	"cmp"
	"path"
	"strings"
	"time"

	"edgegateway/broker"
	"edgegateway/internal/homeassistant"
	"edgegateway/mapping"
)

// readHint reads `homeassistant = false` or a table of a point.
func (p *pointBuilder) readHint() {
	n := p.raw.HA.at
	if n == nil {
		return
	}
	if v, ok := n.value.(bool); ok {
		p.hints[p.point] = homeassistant.Hint{Hide: !v}
		return
	}
	var raw rawHint
	if !p.table(n, &raw, "homeassistant") {
		return
	}
	h := homeassistant.Hint{Name: raw.Name.V, Class: raw.Class.V, Icon: raw.Icon.V, Disabled: raw.Enabled.set() && !raw.Enabled.V}
	h.Category = p.choice(raw.Category, "", "config", "diagnostic")
	if raw.Icon.set() && !strings.HasPrefix(h.Icon, "mdi:") {
		p.errorAt(raw.Icon.at, `%q is no icon; they are called like "mdi:pump"`, h.Icon)
	}
	if raw.Class.set() {
		if err := homeassistant.CheckClass(p.point, h.Class); err != nil {
			p.errorAt(raw.Class.at, "point %q: %v", p.name, err)
		}
	}
	p.hints[p.point] = h
}

// commandLife is how long a command over a bridge is valid, unless the
// configuration says otherwise.
const commandLife = 30 * time.Second

// readHomeAssistant reads the [homeassistant] table. Without one nothing is
// announced.
func (l *loader) readHomeAssistant(raw *rawHomeAssistant) {
	if raw.at == nil || raw.Enabled.set() && !raw.Enabled.V {
		return
	}
	s := &homeassistant.Settings{
		Prefix: cmp.Or(raw.Prefix.V, "homeassistant"), Node: raw.Node.V,
		DeviceName: l.placeIn(raw.DeviceName, "device"), Area: l.placeIn(raw.Area, "device"), Hints: l.hints,
	}
	s.Birth = cmp.Or(raw.Birth.V, s.Prefix+"/status")
	for _, t := range []text{raw.Prefix, raw.Birth} {
		if t.set() && broker.ValidTopic(t.V) != nil {
			l.errorAt(t.at, "%q is no topic: %v", t.V, broker.ValidTopic(t.V))
		}
	}
	if raw.Prefix.set() && (s.Prefix == l.cfg.Name || strings.HasPrefix(s.Prefix, l.cfg.Name+"/")) {
		l.errorAt(raw.Prefix.at, "the prefix %q lies among the gateway's own topics; it is that of Home Assistant's MQTT integration, homeassistant unless you changed it there", s.Prefix)
	}
	for _, t := range raw.Devices.V {
		s.Devices = append(s.Devices, t.V)
		l.checkPattern(t)
	}
	raw.Expires.atLeast(l.binder, time.Second, "expires")
	switch {
	case raw.Expires.set():
		s.Expires = raw.Expires.V
	case l.commandsOverBridges():
		s.Expires = commandLife
	}
	l.cfg.HomeAssistant = s
	l.checkDiscovery(raw.at)
}

// commandsOverBridges reports whether a bridge brings commands, which have to
// say until when they are valid.
func (l *loader) commandsOverBridges() bool {
	for _, b := range l.cfg.Bridges {
		for _, to := range b.Receive {
			if path.Base(to.To) == "set" {
				return true
			}
		}
	}
	return false
}

// checkDiscovery says what Home Assistant would not see.
func (l *loader) checkDiscovery(at *node) {
	if l.Errors() > 0 {
		return // there may be no mapper
	}
	m, err := mapping.New(l.cfg.Mapping())
	if err != nil {
		return // reported with the publish tables
	}
	list, problems := homeassistant.Discover(l.cfg.HomeAssistant, l.cfg.Plant("", m))
	for _, p := range problems {
		l.warnKey(at, "%s", p.Text)
	}
	if len(list) == 1 && len(problems) > 0 {
		l.errorKey(at, `Home Assistant would see no device at all: the publish tables say nothing that it can read; add [publish.point] with per = "point" and format = "json"`)
	}
}

// Plant returns what discovery has to know of the configuration, whose devices m
// maps.
func (c *Config) Plant(version string, m *mapping.Mapper) *homeassistant.Plant {
	p := &homeassistant.Plant{Gateway: c.Name, Version: version, Devices: c.Devices, Mapper: m}
	for _, b := range c.Buses {
		if len(b.Devices) > 0 {
			p.Buses = append(p.Buses, b.ID)
		}
	}
	for _, b := range c.Bridges {
		p.Bridges = append(p.Bridges, b.Name)
	}
	return p
}
