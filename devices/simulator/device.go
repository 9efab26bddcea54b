package simulator

import (
	"math"
	"slices"

	"edgegateway/mapping"
)

// A device is one device of the plant. Its unit locks it.
type device struct {
	*mapping.Device
	process *process
	points  []*point
}

func newDevice(seed uint64, d *mapping.Device) *device {
	dev := &device{Device: d}
	seed = hash(seed, d.ID)
	count := 1
	for _, p := range d.Points {
		if len(phases(words(p.Name))) > 0 {
			count = 3
		}
		dev.points = append(dev.points, newPoint(seed, d.ID, p))
	}
	for _, p := range dev.points {
		p.factor = slices.ContainsFunc(d.Points, func(q *mapping.Point) bool { return q.ScaleFrom != nil && q.ScaleFrom.Point == p.Point.Point })
	}
	dev.process = newProcess(seed, count)
	if drive := dev.drive(); drive != nil {
		dev.process.on = func() bool { return drive.number != 0 }
	}
	return dev
}

// drive is the point that switches the device: a coil, or another point that
// is on or off, that can be written, and best one whose name says so.
func (d *device) drive() *point {
	var first *point
	for _, p := range d.points {
		if p.Write == nil || p.Type != mapping.Bool {
			continue
		}
		if contains(words(p.Name), "pump fan motor heater compressor enable run start on power") {
			return p
		}
		if first == nil {
			first = p
		}
	}
	return first
}

// setpoint is the point that governs p: one of the same unit that can be
// written, and of several the one whose name is nearest.
func (d *device) setpoint(p *point) *point {
	if p.Write != nil || p.Unit == "" || contains(words(p.Name), "outdoor outside ambient") {
		return nil
	}
	var best *point
	for _, s := range d.points {
		if s.Write == nil || s.Unit != p.Unit || s.Type == mapping.Bool || contains(words(s.Name), "limit min max minimum maximum alarm hysteresis") {
			continue
		}
		if best == nil || shared(words(s.Name), words(p.Name)) > shared(words(best.Name), words(p.Name)) {
			best = s
		}
	}
	return best
}

// follows reports whether p tells of what drive does: `pump_feedback` of
// `pump`.
func follows(p, drive *point) bool {
	name := words(p.Name)
	return p.Type == mapping.Bool && shared(name, words(drive.Name)) > 0 &&
		!contains(name, "alarm fault error trip warning")
}

// law chooses how p moves.
func (d *device) law(p *point) law {
	if drive := d.drive(); drive != nil && follows(p, drive) {
		return flag(p.seed, []string{"running"})
	}
	var target func() float64
	if s := d.setpoint(p); s != nil && p.Kind != mapping.Counter {
		target = func() float64 { return (s.number - s.scale.plus) / s.scale.per }
	}
	return newLaw(p.seed, p.Point, p.scale.quantity, target)
}

// start sets the process to t and gives each point that moves its law.
func (d *device) start(t float64, moves bool) {
	d.process.t = float64(int64(t/grid)-1) * grid // so that there is a first step at once
	for _, p := range d.points {
		if moves && p.owner && p.Write == nil && p.variable() {
			p.law = d.law(p)
		}
	}
}

// variable reports whether p moves at all.
func (p *point) variable() bool {
	return !p.factor && (p.Type == mapping.Bool || p.Type.Integer() || p.Type.Float())
}

// unique reports whether p can hold a marker.
func (p *point) unique() bool {
	return p.variable() || !p.factor && !p.Type.Time() && !p.Type.Address()
}

const (
	grid = 0.2 // length of a step in seconds

	// Who looks at a device after a while sees what went on meanwhile: in at
	// most longest steps, which get longer for that, and at most a day, so
	// that a clock that was set does not fill the counters.
	longest = 2000
	day     = 86400
)

// move brings the process to t and reports whether it went on. Steps end on
// multiples of grid, so that who asks and how often does not change what
// happens. A clock that was set back does not move it.
func (d *device) move(t float64) bool {
	from, to := gridOf(d.process.t), int64(t/grid)
	if to < from {
		d.process.t = float64(to) * grid
	}
	from = max(from, to-day/grid)
	if to <= from {
		return false
	}
	per := (to - from + longest - 1) / longest
	for at := from + per; at <= to; at += per {
		d.step(float64(at)*grid, float64(per)*grid)
	}
	return true
}

// gridOf returns on which multiple of grid t lies.
func gridOf(t float64) int64 { return int64(math.Round(t / grid)) }

func (d *device) step(t, dt float64) {
	d.process.step(t, dt)
	for _, p := range d.points {
		if p.law != nil {
			p.number = p.law.step(d.process)*p.scale.per + p.scale.plus
		}
	}
}
