package simulator

import "math"

// A process is what the points of one device have in common, so that they
// fit together: the electricity it takes and whether it runs. Its points'
// laws read it; the device's unit locks it.
type process struct {
	t, dt float64 // seconds since the Unix epoch, and since the step before

	phases int // 1 or 3
	volt   [3]float64
	amp    [3]float64
	factor [3]float64 // power factor
	hertz  float64

	on  func() bool // whether it is switched on; nil: nothing switches it
	run float64     // how far it has run up: 0 stands, 1 runs fully

	voltage, load, lag [3]wave
	grid               wave
	rated              float64 // amperes in each phase at full load
}

// rampTime is how long a pump or fan takes from standstill to full speed, in
// seconds.
const rampTime = 5

func newProcess(seed uint64, phases int) *process {
	p := &process{phases: phases, grid: newWave(seed, "grid", 37), rated: 4 + 28*fraction(seed), run: 1}
	for i := range 3 {
		name := string(rune('1' + i))
		p.voltage[i] = newWave(seed, "voltage"+name, 23)
		p.load[i] = newWave(seed, "load"+name, 61)
		p.lag[i] = newWave(seed, "lag"+name, 97)
	}
	return p
}

// step moves the process on to t.
func (p *process) step(t, dt float64) {
	p.t, p.dt = t, dt
	p.ramp()
	p.hertz = 50 + 0.02*p.grid.at(t)
	for i := range p.phases {
		load := (0.55 + 0.4*p.load[i].at(t)) * (0.1 + 0.9*p.run)
		p.factor[i] = 0.95 + 0.05*p.lag[i].at(t)
		p.amp[i] = p.rated * load
		p.volt[i] = 230 + 2.5*p.voltage[i].at(t) - 0.05*p.amp[i]
	}
}

// ramp lets the process run up or down as it is switched.
func (p *process) ramp() {
	want := 1.0
	if p.on != nil && !p.on() {
		want = 0
	}
	most := p.dt / rampTime
	p.run += math.Max(-most, math.Min(most, want-p.run))
}

// sum adds f over the phases that are asked for; none means all.
func (p *process) sum(phases []int, f func(i int) float64) float64 {
	if p.phases == 1 {
		return f(0)
	}
	if len(phases) == 0 {
		phases = []int{0, 1, 2}
	}
	total := 0.0
	for _, i := range phases {
		total += f(i)
	}
	return total
}

func (p *process) activePower(i int) float64   { return p.apparentPower(i) * p.factor[i] }
func (p *process) apparentPower(i int) float64 { return p.volt[i] * p.amp[i] }
func (p *process) reactivePower(i int) float64 {
	return p.apparentPower(i) * math.Sqrt(math.Max(0, 1-p.factor[i]*p.factor[i]))
}
func (p *process) amps(i int) float64 { return p.amp[i] }

// volts is the voltage of a phase against neutral, between two phases, or
// the mean of all.
func (p *process) volts(phases []int) float64 {
	switch {
	case p.phases == 1:
		return p.volt[0]
	case len(phases) == 2:
		return math.Sqrt(3) * (p.volt[phases[0]] + p.volt[phases[1]]) / 2
	}
	return p.sum(phases, func(i int) float64 { return p.volt[i] }) / float64(count(phases))
}

// factors is the power factor of the phases together.
func (p *process) factors(phases []int) float64 {
	return p.sum(phases, p.activePower) / p.sum(phases, p.apparentPower)
}

func count(phases []int) int {
	if len(phases) == 0 {
		return 3
	}
	return len(phases)
}
