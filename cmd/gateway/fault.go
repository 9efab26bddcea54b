package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
)

// A simFault is one --fault flag: what is wrong with a unit, a device, or all
// units of a bus.
type simFault struct {
	text   string
	bus    string
	unit   byte // 0: all of the bus
	fault  simulator.Fault
	unplug bool          // the bus is away
	away   time.Duration // it comes and goes, after this each time; 0: it stays away
}

const faultHelp = `WHERE:WHAT[,WHAT…]; may be given several times. WHERE is BUS, BUS/UNIT or a device. WHAT is
silent, unplug (a BUS only; unplug=10s comes and goes), latency=300ms, exception=2, wrong=unit (function,
count, transaction), noise=3, drop=1 (bytes), flip=1 (bits);
max_read=20 hits only requests for more registers, which are refused (exception 3)
unless something else is said; every=10 spoils each
tenth answer only, count=5 the first five`

// parseFaults reads --fault flags against a configuration.
func parseFaults(cfg *config.Config, texts []string) (list []simFault, err error) {
	for _, text := range texts {
		f, err := parseFault(cfg, text)
		if err != nil {
			return nil, usageError("--fault %q: %w", text, err)
		}
		if slices.ContainsFunc(list, func(o simFault) bool { return o.bus == f.bus && o.unit == f.unit && o.unplug == f.unplug }) {
			return nil, usageError("--fault %q: there is another one for the same place; write them as one, WHERE:WHAT,WHAT", text)
		}
		list = append(list, f)
	}
	return list, nil
}

func parseFault(cfg *config.Config, text string) (simFault, error) {
	cut := strings.LastIndexByte(text, ':') // names of buses may be URLs
	if cut < 0 || text[cut+1:] == "" {
		return simFault{}, errors.New("it is WHERE:WHAT, such as rs485/7:silent")
	}
	f, err := findFaulty(cfg, text[:cut])
	if err != nil {
		return f, err
	}
	f.text = text
	for what := range strings.SplitSeq(text[cut+1:], ",") {
		if err := f.add(strings.TrimSpace(what)); err != nil {
			return f, err
		}
	}
	switch {
	case f.unplug && (f.unit != 0 || f.fault != simulator.Fault{}):
		return f, errors.New("unplug takes a whole bus away: write it as BUS:unplug, without a unit and with nothing else")
	case !f.unplug && f.fault == simulator.Fault{Every: f.fault.Every, Count: f.fault.Count}:
		return f, errors.New("every and count say how often; add what is wrong, such as silent")
	}
	return f, nil
}

// findFaulty finds BUS, BUS/UNIT or a device.
func findFaulty(cfg *config.Config, where string) (f simFault, err error) {
	var known []string
	for _, b := range cfg.Buses {
		if b.ID == where {
			return simFault{bus: b.ID}, nil
		}
		if id, ok := strings.CutPrefix(where, b.ID+"/"); ok {
			n, err := strconv.ParseUint(id, 10, 8)
			if err != nil || n == 0 {
				return f, fmt.Errorf("%q: the unit id is a number from 1 to 255", where)
			}
			if b.Protocol == config.Modbus && !slices.ContainsFunc(unitsOf(b), func(unit byte) bool { return unit == byte(n) }) {
				return f, fmt.Errorf("bus %s has no unit %d; it has %v", b.ID, n, unitsOf(b))
			}
			return simFault{bus: b.ID, unit: byte(n)}, nil
		}
		for i, dev := range b.Devices {
			if dev.ID == where || dev.Name == where {
				unit := byte(i + 1) // as the simulator counts on a bus of lines
				if u, ok := dev.Unit.(modbus.Unit); ok {
					unit = u.ID
				}
				return simFault{bus: b.ID, unit: unit}, nil
			}
		}
		known = append(known, b.ID)
	}
	return f, fmt.Errorf("there is no bus or device %q; the buses are: %s", where, strings.Join(known, ", "))
}

func unitsOf(b *config.Bus) (units []byte) {
	for _, dev := range b.Devices {
		if u, ok := dev.Unit.(modbus.Unit); ok {
			units = append(units, u.ID)
		}
	}
	return units
}

// wrongs are the ways in which an answer can belong to another question.
var wrongs = map[string]simulator.Wrong{
	"unit": simulator.WrongUnit, "function": simulator.WrongFunction, "count": simulator.WrongCount, "transaction": simulator.WrongTransaction,
}

// add reads one WHAT.
func (f *simFault) add(what string) error {
	key, value, _ := strings.Cut(what, "=")
	number := func(dst *int, least, most int) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%s: it needs a number from %d to %d, such as %s=%d", what, least, most, key, max(least, min(3, most)))
		}
		*dst = n
		return nil
	}
	span := func(dst *time.Duration, such string) (err error) {
		if *dst, err = time.ParseDuration(value); err != nil || *dst <= 0 {
			return fmt.Errorf("%s: it needs a time, such as %s", what, such)
		}
		return nil
	}
	bare := func() error {
		if value != "" {
			return fmt.Errorf("%s: %s takes no value", what, key)
		}
		return nil
	}
	switch key {
	case "silent":
		f.fault.Silent = true
		return bare()
	case "unplug":
		if f.unplug = true; value == "" {
			return nil
		}
		return span(&f.away, "unplug=10s")
	case "latency":
		return span(&f.fault.Latency, "latency=300ms")
	case "exception":
		var code int
		err := number(&code, 1, 255)
		f.fault.Exception = byte(code)
		return err
	case "wrong":
		f.fault.Wrong = wrongs[value]
		if f.fault.Wrong == simulator.Right {
			return fmt.Errorf("%s: an answer can have the wrong unit, function, count or transaction: wrong=unit", what)
		}
		return nil
	case "noise":
		return number(&f.fault.Noise, 1, 1000)
	case "drop":
		return number(&f.fault.Drop, 1, 256)
	case "flip":
		return number(&f.fault.Flip, 1, 1000)
	case "max_read":
		return number(&f.fault.MaxRead, 1, 124)
	case "every":
		return number(&f.fault.Every, 1, 1_000_000)
	case "count":
		return number(&f.fault.Count, 1, 1_000_000)
	}
	return fmt.Errorf("%q is no fault; there are silent, unplug, latency, exception, wrong, noise, drop, flip, max_read, and every and count with them", cmp.Or(key, what))
}

// setFaults lets the plant misbehave until ctx is done.
func setFaults(ctx context.Context, sim *simulator.Simulator, faults []simFault) error {
	for _, f := range faults {
		err := sim.SetFault(f.bus, f.unit, f.fault)
		switch {
		case f.away > 0:
			go comeAndGo(ctx, sim, f)
		case f.unplug:
			err = sim.Unplug(f.bus)
		}
		if err != nil {
			return usageError("--fault %q: %w", f.text, err)
		}
	}
	return nil
}

// comeAndGo unplugs a bus and plugs it in again. It ends with ctx; nobody waits
// for it, since all it holds is the simulator.
func comeAndGo(ctx context.Context, sim *simulator.Simulator, f simFault) {
	for out := true; devices.Sleep(ctx, f.away); out = !out {
		change, what := sim.Replug, "plugged in again"
		if out {
			change, what = sim.Unplug, "unplugged"
		}
		if change(f.bus) == nil {
			fmt.Printf("%s bus %s: %s\n", time.Now().Format(time.TimeOnly), f.bus, what)
		}
	}
}
