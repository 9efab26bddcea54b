package simulator

import (
	"slices"
	"strings"
	"unicode"

	"edgegateway/mapping"
)

// A quantity is what a point measures, as far as its unit and name tell.
type quantity uint8

const (
	unknown     quantity = iota
	voltage              // V
	current              // A
	active               // W
	apparent             // VA
	reactive             // var
	energy               // Wh, varh and VAh
	frequency            // Hz
	factor               // power factor, 1
	temperature          // °C
	share                // %
	pressure             // bar
	flow                 // m³/h
	volume               // m³
	rotation             // 1/min
	speed                // m/s, of wind or a vessel
	angle                // °
	length               // m, of a level or a depth
	duration             // s
	status               // a word that stays as it is
)

// A scale turns a quantity's own unit into another: x × per + plus.
type scale struct {
	quantity  quantity
	per, plus float64
}

// unitScales knows units by their lower-case spelling; capitals matter only
// in mW and MW, which number tells apart.
var unitScales = map[string]scale{
	"v": {voltage, 1, 0}, "mv": {voltage, 1e3, 0}, "kv": {voltage, 1e-3, 0},
	"a": {current, 1, 0}, "ma": {current, 1e3, 0}, "ka": {current, 1e-3, 0},
	"w": {active, 1, 0}, "kw": {active, 1e-3, 0}, "mw": {active, 1e-6, 0},
	"va": {apparent, 1, 0}, "kva": {apparent, 1e-3, 0}, "mva": {apparent, 1e-6, 0},
	"var": {reactive, 1, 0}, "kvar": {reactive, 1e-3, 0}, "mvar": {reactive, 1e-6, 0},
	"wh": {energy, 1, 0}, "kwh": {energy, 1e-3, 0}, "mwh": {energy, 1e-6, 0},
	"varh": {energy, 1, 0}, "kvarh": {energy, 1e-3, 0}, "vah": {energy, 1, 0}, "kvah": {energy, 1e-3, 0},
	"hz": {frequency, 1, 0}, "mhz": {frequency, 1e3, 0},
	"°c": {temperature, 1, 0}, "c": {temperature, 1, 0}, "degc": {temperature, 1, 0},
	"°f": {temperature, 1.8, 32}, "f": {temperature, 1.8, 32}, "k": {temperature, 1, 273.15},
	"%":   {share, 1, 0},
	"bar": {pressure, 1, 0}, "mbar": {pressure, 1e3, 0}, "kpa": {pressure, 1e2, 0}, "pa": {pressure, 1e5, 0},
	"m³/h": {flow, 1, 0}, "m3/h": {flow, 1, 0}, "l/h": {flow, 1e3, 0}, "l/min": {flow, 1e3 / 60, 0}, "l/s": {flow, 1 / 3.6, 0},
	"m": {length, 1, 0}, "ft": {length, 3.28084, 0}, "fathom": {length, 0.546807, 0}, "cm": {length, 100, 0}, "mm": {length, 1e3, 0},
	"m³": {volume, 1, 0}, "m3": {volume, 1, 0}, "l": {volume, 1e3, 0},
	"rpm": {rotation, 1, 0}, "1/min": {rotation, 1, 0}, "min⁻¹": {rotation, 1, 0},
	"m/s": {speed, 1, 0}, "kn": {speed, 1.943844, 0}, "kt": {speed, 1.943844, 0}, "km/h": {speed, 3.6, 0}, "mph": {speed, 2.236936, 0},
	"°": {angle, 1, 0}, "deg": {angle, 1, 0},
	"s": {duration, 1, 0}, "min": {duration, 1.0 / 60, 0}, "h": {duration, 1.0 / 3600, 0}, "d": {duration, 1.0 / 86400, 0},
}

// nameScales knows quantities by a word of the name, for points without a
// unit; the first that fits counts.
var nameScales = []struct {
	words string
	scale scale
}{
	{"pf powerfactor cos cosphi phi", scale{factor, 1, 0}},
	{"status state alarm alarms fault faults error errors warning code version firmware serial model address id type baud parity", scale{status, 1, 0}},
	{"frequency freq", scale{frequency, 1, 0}},
	{"voltage volt volts", scale{voltage, 1, 0}},
	{"current amps", scale{current, 1, 0}},
	{"energy", scale{energy, 1e-3, 0}},
	{"power", scale{active, 1, 0}},
	{"temperature temp", scale{temperature, 1, 0}},
	{"humidity level percent valve soc", scale{share, 1, 0}},
	{"pressure", scale{pressure, 1, 0}},
	{"flow", scale{flow, 1, 0}},
	{"speed", scale{speed, 1, 0}},
	{"angle direction heading course", scale{angle, 1, 0}},
	{"hours runtime uptime", scale{duration, 1.0 / 3600, 0}},
}

// classify tells what p measures and in which unit.
func classify(p *mapping.Point) scale {
	name := words(p.Name)
	unit := strings.TrimSpace(p.Unit)
	switch {
	case unit == "mW":
		return scale{active, 1e3, 0}
	case unit == "hPa":
		return scale{pressure, 1e3, 0}
	case unit == "" && slices.Contains(name, "power") && slices.Contains(name, "factor"):
		return scale{factor, 1, 0}
	}
	if s, ok := unitScales[strings.ToLower(unit)]; ok {
		return s
	}
	for _, n := range nameScales {
		if contains(name, n.words) {
			return n.scale
		}
	}
	return scale{unknown, 1, 0}
}

// words splits a name where its writer did: `voltage_l1`, `Flow Temp`,
// `l1-voltage`, `pumpRunning`.
func words(name string) []string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		if unicode.IsUpper(r) && lower {
			b.WriteByte(' ')
		}
		lower = unicode.IsLower(r)
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			r = ' '
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.Fields(b.String())
}

// contains reports whether name has one of the words in list.
func contains(name []string, list string) bool {
	return slices.ContainsFunc(strings.Fields(list), func(w string) bool { return slices.Contains(name, w) })
}

// shared counts the words that two names have in common.
func shared(a, b []string) int {
	n := 0
	for _, w := range a {
		if slices.Contains(b, w) {
			n++
		}
	}
	return n
}

// phases returns which of the three phases a name tells of, as indices; none
// means all of them or a device with one.
func phases(name []string) []int {
	var found []int
	for _, w := range name {
		for i, list := range []string{"l1 p1 phase1 u1 i1 v1 l1n", "l2 p2 phase2 u2 i2 v2 l2n", "l3 p3 phase3 u3 i3 v3 l3n"} {
			if slices.Contains(strings.Fields(list), w) {
				found = append(found, i)
			}
		}
		switch w {
		case "l12", "l1l2":
			found = append(found, 0, 1)
		case "l23", "l2l3":
			found = append(found, 1, 2)
		case "l31", "l3l1":
			found = append(found, 2, 0)
		}
	}
	return found
}
