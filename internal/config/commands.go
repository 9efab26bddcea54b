package config

import (
	"encoding/json"
	"slices"
	"time"

	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

const (
	defaultMaxAge   = time.Minute
	defaultRemember = 24 * time.Hour
	leastAge        = time.Second
	leastLoss       = time.Second
)

func (l *loader) readCommands(raw *rawCommands) {
	c := Commands{MaxAge: defaultMaxAge, Remember: defaultRemember, Retained: raw.Retained.V}
	raw.MaxAge.atLeast(l.binder, leastAge, "max_age")
	raw.Remember.atLeast(l.binder, leastAge, "remember")
	if raw.MaxAge.set() {
		c.MaxAge = raw.MaxAge.V
	}
	if raw.Remember.set() {
		c.Remember = raw.Remember.V
	}
	c.NoSync = l.choice(raw.Sync, "always", "always", "off") == "off"
	l.cfg.Commands = c
}

// readOnLoss reads `on_loss = { after = "30s", value = 0 }`.
func (p *pointBuilder) readOnLoss() {
	raw := &p.raw.OnLoss
	switch {
	case !raw.set():
		return
	case p.point.Write == nil:
		p.errorKey(raw.at, "on_loss needs a point that can be written; give it write = true, or limits")
		return
	case raw.After.at == nil && raw.at.child("after") == nil:
		p.errorKey(raw.at, `on_loss needs after = "30s", how long no command may have come`)
		return
	case raw.Value.at == nil:
		p.errorKey(raw.at, "on_loss needs value, what is written then")
		return
	}
	raw.After.atLeast(p.binder, leastLoss, "after")
	if set, ok := p.setOf(p.point, raw.Value.at); ok {
		p.point.Write.OnLoss = &mapping.OnLoss{After: raw.After.V, Set: set}
	}
}

// setOf returns the write of a value that stands in the configuration.
func (b *binder) setOf(p *mapping.Point, n *node) (mapping.Set, bool) {
	var text []byte
	switch v := n.value.(type) {
	case int64, float64:
		text = []byte(n.written())
	case string, bool:
		text, _ = json.Marshal(v)
	default:
		b.errorAt(n, "this is %s; it must be a number, a text, true or false", n.kind())
		return mapping.Set{}, false
	}
	v, err := mapping.ParseValue(p, text)
	var set mapping.Set
	if err == nil {
		set, err = mapping.NewSet(p, v)
	}
	if err != nil {
		b.errorAt(n, "%v", err)
	}
	return set, err == nil
}

// readSetup reads the values that the device gets at each connection.
func (d *deviceBuilder) readSetup() {
	if d.raw.Setup.set() && (d.framing != nil || d.raw.Frame.set()) {
		d.errorKey(d.raw.Setup.at, "device %q speaks by itself; it cannot be set up", d.key)
		return
	}
	for _, e := range d.raw.Setup.V {
		raw := e.value
		if raw.at == nil {
			continue // reported
		}
		if set, ok := d.setupOf(e.key, raw); ok {
			d.dev.Setup = append(d.dev.Setup, set)
		}
	}
}

func (d *deviceBuilder) setupOf(name string, raw *rawSetup) (set mapping.Set, ok bool) {
	if raw.Value.at == nil {
		d.errorKey(raw.at, "set-up %q needs value, what is to be written", name)
		return set, false
	}
	if raw.at.isTable() && raw.at.hasAny(placeKeys) {
		p := &pointBuilder{deviceBuilder: d, point: new(mapping.Point), name: name, raw: &rawPoint{
			here: raw.here, rawDefaults: rawDefaults{Type: raw.Type, Order: raw.Order},
			Coil: raw.Coil, Holding: raw.Holding, Ref: raw.Ref, Scale: raw.Scale, Offset: raw.Offset,
		}}
		point := p.build()
		if point == nil {
			return set, false
		}
		return d.setupPoint(point, raw)
	}
	i := slices.IndexFunc(d.dev.Points, func(p *mapping.Point) bool { return p.Name == name })
	switch {
	case i >= 0:
		return d.setupPoint(d.dev.Points[i], raw)
	case raw.Value.at.value == false:
		return set, false // one of the profile that is not wanted
	}
	d.errorKey(raw.at, "device %q has no point %q; a value of a register without one is { holding = N, value = … }", d.key, name)
	return set, false
}

// setupPoint lets the configuration write what commands may not.
func (d *deviceBuilder) setupPoint(p *mapping.Point, raw *rawSetup) (mapping.Set, bool) {
	r, _ := p.Source.(modbus.Register)
	if wrong := tableWrong(r.Table); wrong != "" {
		d.errorKey(raw.at, "%s", wrong)
		return mapping.Set{}, false
	}
	c := *p
	c.Write = &mapping.Write{NoVerify: raw.Verify.set() && !raw.Verify.V}
	if _, known := d.at[c.Point]; !known {
		d.at[c.Point] = raw.at
	}
	return d.setOf(&c, raw.Value.at)
}
