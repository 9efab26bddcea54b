package mapping

import (
	"slices"

	"edgegateway/devices"
)

// A formula is a computed point of one device: its program with its inputs.
type formula struct {
	*evaluator
	inputs    []*pointState
	histories []*history
}

// link finds the inputs of the computed points, which are among those of d.
func (d *deviceState) link() {
	known := make(map[HistoryKey]*history)
	for _, p := range d.points {
		if p.Program == nil {
			continue
		}
		f := &formula{evaluator: newEvaluator(p.Program)}
		for _, name := range p.Program.inputs {
			f.inputs = append(f.inputs, d.byName[name])
		}
		for _, key := range p.Program.history {
			h := known[key]
			if h == nil {
				h = &history{HistoryKey: key, of: d.byName[key.Point], err: errNotYet}
				known[key] = h
				h.of.histories = append(h.of.histories, h)
				d.histories = append(d.histories, h)
			}
			f.histories = append(f.histories, h)
		}
		p.formula = f
		d.computed = append(d.computed, p)
	}
}

// compute computes the points of which an input was read in this batch. Until
// all of them were, there is nothing to compute.
func (m *Mapper) compute(d *deviceState) {
	for _, p := range d.computed {
		at, ready := p.formula.ready(m.batch)
		if !ready {
			continue
		}
		before := p.current.Cause
		p.current = Current{Point: p.Point, At: at}
		v, err := p.within(p.formula.value())
		if err != nil {
			p.current.fail(err)
		} else {
			p.current.Value = v
		}
		m.settle(d, p, before)
	}
}

// ready tells whether there is something new to compute, and of when it is.
func (f *formula) ready(batch uint64) (at devices.Stamp, ready bool) {
	for _, in := range f.inputs {
		if in.current.At == 0 {
			return 0, false
		}
		if in.batch == batch {
			at, ready = max(at, in.current.At), true
		}
	}
	return at, ready
}

// value computes the program on what its inputs have now.
func (f *formula) value() (Value, error) {
	for _, in := range f.inputs {
		if c := &in.current; c.Cause != "" {
			return Value{}, &Invalid{Reason: in.Name + ": " + c.Cause}
		}
		f.set(in.Point, in.current.Value)
	}
	for _, h := range f.histories {
		if h.err != nil {
			return Value{}, &Invalid{Reason: h.String() + ": " + h.err.Error()}
		}
		f.names[h.String()] = h.value
	}
	return f.run()
}

// A Memory is what computed points of a device must keep over a restart.
type Memory struct {
	Past map[string]Past   `json:"past,omitempty"` // by HistoryKey
	On   map[string][]bool `json:"on,omitempty"`   // of each hysteresis, by point
}

// Memories returns what to keep of the devices of m that have something, by
// their IDs.
func (m *Mapper) Memories() map[string]Memory {
	all := make(map[string]Memory)
	for _, d := range m.devices {
		if memory := d.memory(); len(memory.Past)+len(memory.On) > 0 {
			all[d.ID] = memory
		}
	}
	return all
}

func (d *deviceState) memory() (memory Memory) {
	for _, h := range d.histories {
		if h.past.Begin.IsZero() {
			continue
		}
		if memory.Past == nil {
			memory.Past = make(map[string]Past)
		}
		memory.Past[h.String()] = h.past
	}
	for _, p := range d.computed {
		if len(p.formula.on) == 0 {
			continue
		}
		if memory.On == nil {
			memory.On = make(map[string][]bool)
		}
		memory.On[p.Name] = slices.Clone(p.formula.on)
	}
	return memory
}

// Remember gives the points of m what was kept. What is no longer computed, or
// otherwise, is forgotten.
func (m *Mapper) Remember(all map[string]Memory) {
	for _, d := range m.devices {
		memory := all[d.ID]
		for _, h := range d.histories {
			h.past = memory.Past[h.String()]
		}
		for _, p := range d.computed {
			if on := memory.On[p.Name]; len(on) == len(p.formula.on) {
				copy(p.formula.on, on)
			}
		}
	}
}

// Needs returns the points that must be read for points: those themselves,
// what computed ones are computed from, and what holds exponents.
func (d *Device) Needs(points []*Point) []*Point {
	var list []*Point
	var add func(p *Point)
	add = func(p *Point) {
		switch {
		case p == nil || slices.Contains(list, p):
		case p.Program != nil:
			for _, name := range p.Program.inputs {
				add(d.Point(name))
			}
		default:
			list = append(list, p)
			add(p.ScaleFrom)
		}
	}
	for _, p := range points {
		add(p)
	}
	return list
}

// All returns the points that are read and those that are computed.
func (d *Device) All() []*Point { return slices.Concat(d.Points, d.Computed) }

// Point returns the point of that name, read or computed; nil if there is none.
func (d *Device) Point(name string) *Point {
	all := d.All()
	if i := slices.IndexFunc(all, func(p *Point) bool { return p.Name == name }); i >= 0 {
		return all[i]
	}
	return nil
}

// NotFromOneReading is why Device.Now has no value of what needs earlier ones.
const NotFromOneReading = "not from one reading"

// Now returns what p is by readings of one moment. It knows nothing of earlier
// ones, so that what needs these has no value.
func (d *Device) Now(p *Point, all []devices.Reading) Current {
	if p.Program == nil {
		for i := range all {
			if all[i].Point == p.Point {
				return current(p, &all[i], all)
			}
		}
		return Current{Point: p, Cause: errNotYet.Reason}
	}
	c := Current{Point: p}
	e := newEvaluator(p.Program)
	for _, name := range p.Program.inputs {
		in := d.Now(d.Point(name), all)
		c.At = max(c.At, in.At)
		if in.Cause != "" {
			c.Cause = name + ": " + in.Cause
			return c
		}
		e.set(in.Point, in.Value)
	}
	if len(p.Program.history)+p.Program.sites > 0 {
		c.fail(&Invalid{Reason: NotFromOneReading, Detail: "it depends on earlier ones; the running gateway publishes it"})
		return c
	}
	v, err := p.within(e.run())
	if c.Value = v; err != nil {
		c.fail(err)
	}
	return c
}
