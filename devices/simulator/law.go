package simulator

import (
	"math"

	"edgegateway/mapping"
)

// A law says how a point moves: step gives its value after each step of its
// process, in the unit of its quantity. Laws keep what they must remember, so
// each belongs to one point.
type law interface{ step(p *process) float64 }

// lawFunc is a law that remembers nothing.
type lawFunc func(p *process) float64

func (f lawFunc) step(p *process) float64 { return f(p) }

// around wanders about a middle value, without ever leaving middle ± swing.
func around(seed uint64, middle, swing, period float64) law {
	slow, quick := newWave(seed, "slow", period), newWave(seed, "quick", period/11)
	return lawFunc(func(p *process) float64 {
		return middle + swing*(0.85*slow.at(p.t)+0.15*quick.at(p.t))
	})
}

// whileRunning is what only happens while the process runs: flow, speed.
func whileRunning(l law) law {
	return lawFunc(func(p *process) float64 { return p.run * l.step(p) })
}

// constant stays as it is.
func constant(x float64) law { return lawFunc(func(*process) float64 { return x }) }

// A total adds up a rate per second: energy, volume, hours of operation. It
// never falls.
type total struct {
	sum  float64
	rate law
}

func (l *total) step(p *process) float64 {
	l.sum += math.Max(0, l.rate.step(p)) * p.dt
	return l.sum
}

// A follower goes where its target is, as water does in a heated tank: by the
// share of 1 − 1/e in each time constant.
type follower struct {
	is       float64
	constant float64 // seconds
	target   func(p *process) float64
	noise    law
}

func (l *follower) step(p *process) float64 {
	l.is += (l.target(p) - l.is) * (1 - math.Exp(-p.dt/l.constant))
	return l.is + l.noise.step(p)
}

// switching is 1 now and then, for the given share of the time, and 0 for
// the rest of it.
func switching(seed uint64, share float64) law {
	w := newWave(seed, "switch", 75)
	edge := 1 - 2*share
	return lawFunc(func(p *process) float64 {
		if w.at(p.t) > edge {
			return 1
		}
		return 0
	})
}

// stepping goes round the keys of an enum, one each two minutes.
func stepping(seed uint64, enum map[int64]string) law {
	keys := sortedKeys(enum)
	phase := 120 * fraction(seed)
	return lawFunc(func(p *process) float64 {
		return float64(keys[int64((p.t+phase)/120)%int64(len(keys))])
	})
}

// flags sets the bits of a status word as their names say.
func flags(seed uint64, bits map[int]string) law {
	laws := make(map[int]law, len(bits))
	for bit, name := range bits {
		laws[bit] = flag(hash(seed, name), words(name))
	}
	return lawFunc(func(p *process) float64 {
		var word uint64
		for bit, l := range laws {
			if l.step(p) != 0 {
				word |= 1 << bit
			}
		}
		return float64(word)
	})
}

// flag is one thing that is so or not.
func flag(seed uint64, name []string) law {
	switch {
	case contains(name, "alarm fault error trip warning leak emergency"):
		return switching(seed, 0.02)
	case contains(name, "running run active on"):
		return lawFunc(func(p *process) float64 { return math.Round(p.run) })
	case contains(name, "ready ok online healthy"):
		return constant(1)
	}
	return switching(seed, 0.4)
}

// newLaw chooses how a numeric point moves that nobody writes. setpoint is
// what it follows, nil for none.
func newLaw(seed uint64, p *mapping.Point, q quantity, setpoint func() float64) law {
	name := words(p.Name)
	switch {
	case len(p.Enum) > 0:
		return stepping(seed, p.Enum)
	case len(p.Bits) > 0:
		return flags(seed, p.Bits)
	case p.Type == mapping.Bool:
		return flag(seed, name)
	case setpoint != nil:
		return follow(seed, q, setpoint)
	case p.Kind == mapping.Counter || q == energy || q == volume || q == duration:
		return counter(seed, name, q)
	}
	return measure(seed, name, q)
}

// measure is the law of a quantity that goes up and down.
func measure(seed uint64, name []string, q quantity) law {
	at := phases(name)
	switch q {
	case voltage:
		return lawFunc(func(p *process) float64 { return p.volts(at) })
	case current:
		return lawFunc(func(p *process) float64 { return p.sum(at, p.amps) })
	case active:
		return lawFunc(func(p *process) float64 { return p.sum(at, p.activePower) })
	case apparent:
		return lawFunc(func(p *process) float64 { return p.sum(at, p.apparentPower) })
	case reactive:
		return lawFunc(func(p *process) float64 { return p.sum(at, p.reactivePower) })
	case frequency:
		return lawFunc(func(p *process) float64 { return p.hertz })
	case factor:
		return lawFunc(func(p *process) float64 { return p.factors(at) })
	case temperature:
		return around(seed, warmth(seed, name), 2.5, 311)
	case share:
		return around(seed, 30+40*fraction(seed), 18, 173)
	case pressure:
		return around(seed, pressureOf(name), 0.02*pressureOf(name), 211)
	case flow:
		return whileRunning(around(seed, 2+6*fraction(seed), 0.4, 29))
	case rotation:
		return whileRunning(around(seed, 1450, 8, 31))
	case speed:
		return around(seed, 6, 5, 41)
	case angle:
		return around(seed, 180, 90, 127)
	case length:
		return around(seed, 1+4*fraction(seed), 0.5, 89)
	case status:
		return constant(statusOf(name))
	}
	return around(seed, 50, 30, 67)
}

// counter is the law of what only rises.
func counter(seed uint64, name []string, q quantity) law {
	at, start := phases(name), fraction(seed)
	rate := constant(0.2)
	switch q {
	case energy:
		start *= 5e6
		rate = lawFunc(func(p *process) float64 { return p.sum(at, p.activePower) / 3600 })
		if contains(name, "export exported returned") {
			rate = constant(0)
		}
	case volume:
		start *= 5e3
		rate = whileRunning(constant((2 + 6*fraction(seed)) / 3600))
	case duration:
		start *= 3e6
		rate = whileRunning(constant(1))
	default:
		start = math.Floor(start * 1000)
	}
	return &total{sum: start, rate: rate}
}

// follow is the law of what a setpoint governs. While the process stands,
// temperatures go back to those of the room and all else to nothing.
func follow(seed uint64, q quantity, setpoint func() float64) law {
	rest := 0.0
	if q == temperature {
		rest = 20
	}
	return &follower{
		is: setpoint(), constant: 20, noise: around(seed, 0, 0.2, 17),
		target: func(p *process) float64 { return rest + (setpoint()-rest)*p.run },
	}
}

// warmth is the usual temperature of what a name tells of, in °C.
func warmth(seed uint64, name []string) float64 {
	switch {
	case contains(name, "outdoor outside ambient"):
		return 11
	case contains(name, "supply flow boiler"):
		return 62
	case contains(name, "return"):
		return 48
	}
	return 19 + 14*fraction(seed)
}

// pressureOf is the usual pressure of what a name tells of, in bar.
func pressureOf(name []string) float64 {
	if contains(name, "air barometric atmospheric barometer baro") {
		return 1.013
	}
	return 2.4
}

// statusOf is the word that a point shows which says whether all is well.
func statusOf(name []string) float64 {
	if contains(name, "alarm alarms fault faults error errors warning") {
		return 0
	}
	return 1
}
