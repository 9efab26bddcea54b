package homeassistant

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"edgegateway/mapping"
)

// A class is a device class of sensors: the units that Home Assistant takes
// with it, and how its values behave over time. See
// https://developers.home-assistant.io/docs/core/entity/sensor
type class struct {
	units []string // "" stands for none
	state string   // state class of a measurement; of a total: total
}

const (
	measurement = "measurement"
	total       = "total"
	increasing  = "total_increasing"
	angle       = "measurement_angle"
)

var classes = func() map[string]class {
	m := map[string]class{}
	add := func(name, state, units string) {
		c := class{state: state}
		for u := range strings.SplitSeq(units, ",") {
			c.units = append(c.units, strings.TrimSpace(u))
		}
		m[name] = c
	}
	add("apparent_power", measurement, "mVA, VA, kVA")
	add("atmospheric_pressure", measurement, "cbar, bar, hPa, inHg, kPa, mbar, Pa, psi, mmHg")
	add("battery", measurement, "%")
	add("carbon_dioxide", measurement, "ppm")
	add("carbon_monoxide", measurement, "ppm, mg/m³, μg/m³")
	add("conductivity", measurement, "S/cm, mS/cm, μS/cm")
	add("current", measurement, "μA, mA, A")
	add("distance", measurement, "km, m, cm, mm, mi, nmi, yd, in")
	add("duration", measurement, "d, h, min, s, ms, μs")
	add("energy", total, "J, kJ, MJ, GJ, mWh, Wh, kWh, MWh, GWh, TWh, cal, kcal, Mcal, Gcal")
	add("energy_storage", measurement, "J, kJ, MJ, GJ, mWh, Wh, kWh, MWh, GWh, TWh, cal, kcal, Mcal, Gcal")
	add("frequency", measurement, "mHz, Hz, kHz, MHz, GHz")
	add("gas", total, "L, m³, ft³, CCF, MCF")
	add("humidity", measurement, "%")
	add("illuminance", measurement, "lx")
	add("irradiance", measurement, "W/m², BTU/(h⋅ft²)")
	add("moisture", measurement, "%")
	add("ph", measurement, "")
	add("pm1", measurement, "μg/m³")
	add("pm10", measurement, "μg/m³")
	add("pm25", measurement, "μg/m³")
	add("power", measurement, "mW, W, kW, MW, GW, TW")
	add("power_factor", measurement, "%, ")
	add("precipitation", total, "cm, in, mm")
	add("precipitation_intensity", measurement, "in/d, in/h, mm/d, mm/h")
	add("pressure", measurement, "mPa, Pa, hPa, kPa, bar, cbar, mbar, mmHg, inHg, inH₂O, psi")
	add("reactive_energy", total, "varh, kvarh")
	add("reactive_power", measurement, "mvar, var, kvar")
	add("signal_strength", measurement, "dB, dBm")
	add("sound_pressure", measurement, "dB, dBA")
	add("speed", measurement, "ft/s, in/d, in/h, in/s, km/h, kn, m/s, mph, mm/d, mm/s")
	add("temperature", measurement, "°C, °F, K")
	add("volatile_organic_compounds", measurement, "μg/m³, mg/m³")
	add("voltage", measurement, "μV, mV, V, kV, MV")
	add("volume", total, "L, mL, gal, fl. oz., m³, ft³, CCF, MCF")
	add("volume_flow_rate", measurement, "m³/h, m³/min, m³/s, ft³/min, L/h, L/min, L/s, mL/s, gal/min, gal/h, gal/d")
	add("volume_storage", measurement, "L, mL, gal, fl. oz., m³, ft³, CCF, MCF")
	add("water", total, "L, gal, m³, ft³, CCF, MCF")
	add("weight", measurement, "kg, g, mg, μg, oz, lb, st")
	add("wind_direction", angle, "°")
	add("wind_speed", measurement, "Beaufort, ft/s, km/h, kn, m/s, mph")
	return m
}()

// binaryClasses are the device classes of binary sensors.
var binaryClasses = strings.Fields(`battery battery_charging carbon_monoxide cold connectivity door garage_door gas heat light lock moisture
	motion moving occupancy opening plug power presence problem running safety smoke sound tamper update vibration window`)

// spelling is how Home Assistant writes units that people write otherwise.
var spelling = map[string]string{
	"l": "L", "l/min": "L/min", "l/h": "L/h", "l/s": "L/s", "ml": "mL", "µV": "μV", "µA": "μA", "µs": "μs", "µg": "μg", "µg/m³": "μg/m³", "µS/cm": "μS/cm",
}

func spelled(unit string) string {
	if u, ok := spelling[unit]; ok {
		return u
	}
	return unit
}

// A guess is the class that a unit means if one of the words is in the
// point's name; without words it always is.
type guess struct {
	class string
	words []string
}

// guesses are tried in their order. A unit that is not here has the one class
// that takes it, if there is only one.
var guesses = map[string][]guess{
	"%": {
		{"power_factor", []string{"pf", "cos", "power_factor"}},
		{"humidity", []string{"humidity", "rh"}},
		{"battery", []string{"battery", "soc"}},
		{"moisture", []string{"moisture"}},
	},
	"":     {{"power_factor", []string{"pf", "cos", "power_factor"}}, {"ph", []string{"ph"}}},
	"°":    {{"wind_direction", []string{"wind_direction", "wind_angle"}}},
	"m³":   {{"gas", []string{"gas"}}, {"water", []string{"water"}}, {"volume", nil}},
	"L":    {{"water", []string{"water"}}, {"volume", nil}},
	"m/s":  {{"wind_speed", []string{"wind"}}, {"speed", nil}},
	"km/h": {{"wind_speed", []string{"wind"}}, {"speed", nil}},
	"kn":   {{"wind_speed", []string{"wind"}}, {"speed", nil}},
	"mm":   {{"precipitation", []string{"rain", "precipitation"}}, {"distance", nil}},
	"cm":   {{"precipitation", []string{"rain", "precipitation"}}, {"distance", nil}},
	"ppm":  {{"carbon_dioxide", []string{"co2"}}, {"carbon_monoxide", []string{"co"}}},
	"dB":   {{"signal_strength", []string{"rssi", "signal"}}, {"sound_pressure", []string{"sound", "noise"}}},
	"μg/m³": {
		{"pm1", []string{"pm1", "pm1_0"}}, {"pm25", []string{"pm25", "pm2_5"}}, {"pm10", []string{"pm10"}},
		{"volatile_organic_compounds", []string{"voc", "tvoc"}},
	},
	"mg/m³": {{"volatile_organic_compounds", []string{"voc", "tvoc"}}},
	"hPa":   {{"atmospheric_pressure", []string{"air", "atmospheric", "barometer"}}, {"pressure", nil}},
	"mbar":  {{"atmospheric_pressure", []string{"air", "atmospheric", "barometer"}}, {"pressure", nil}},
	"g":     {{"weight", nil}}, "kg": {{"weight", nil}},
	"Pa": {{"pressure", nil}}, "kPa": {{"pressure", nil}}, "bar": {{"pressure", nil}},
	"Wh": {{"energy", nil}}, "kWh": {{"energy", nil}}, "MWh": {{"energy", nil}}, "GWh": {{"energy", nil}}, "J": {{"energy", nil}}, "kJ": {{"energy", nil}}, "MJ": {{"energy", nil}}, "GJ": {{"energy", nil}},
}

// binaryGuesses are the classes of booleans by the words of their names.
var binaryGuesses = []guess{
	{"problem", []string{"fault", "alarm", "error", "trip", "tripped", "failure", "warning", "low_water", "problem"}},
	{"running", []string{"running", "run"}},
	{"door", []string{"door"}},
	{"window", []string{"window"}},
	{"moisture", []string{"leak"}},
	{"smoke", []string{"smoke"}},
	{"motion", []string{"motion", "pir"}},
	{"occupancy", []string{"occupied", "occupancy"}},
	{"presence", []string{"presence"}},
	{"connectivity", []string{"connected", "online"}},
	{"tamper", []string{"tamper"}},
}

// within reports whether one of the words (or "two_words" in a row) is among
// those of name.
func within(name string, words []string) bool {
	name = "_" + strings.Join(strings.FieldsFunc(strings.ToLower(name), notWord), "_") + "_"
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(name, "_"+w+"_") })
}

func notWord(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }

// classOf returns the device class of a number and its unit as Home Assistant
// takes it with that class; the class is "" for none.
func classOf(p *mapping.Point) (name, unit string) {
	unit = spelled(p.Unit)
	for _, g := range guesses[unit] {
		if g.words == nil || within(p.Name, g.words) {
			return stored(g.class, p), unit
		}
	}
	if len(guesses[unit]) > 0 || unit == "" {
		return "", unit
	}
	var only []string
	for name, c := range classes {
		if slices.Contains(c.units, unit) {
			only = append(only, name)
		}
	}
	if len(only) == 1 {
		return only[0], unit
	}
	return "", unit
}

// stored tells what is there from what has passed: litres that are no counter
// are a content.
func stored(name string, p *mapping.Point) string {
	if name == "volume" && p.Kind != mapping.Counter {
		return "volume_storage"
	}
	return name
}

// stateClass says how a number behaves over time. What was counted in this day or
// hour begins anew, which is no consumption; of what was in one that is over Home
// Assistant shall make no sum.
func stateClass(class string, p *mapping.Point) string {
	amount := class == "" || classes[class].state == total
	switch {
	case p.Kind == mapping.Counter, amount && calls(p, "daily", "hourly"):
		return increasing
	case amount && calls(p, "last_day", "last_hour"):
		return ""
	case class == "":
		return measurement
	}
	return classes[class].state
}

// calls reports whether p is computed with one of these functions.
func calls(p *mapping.Point, functions ...string) bool {
	return p.Program != nil && p.Program.Calls(functions...)
}

func binaryClass(name string) string {
	for _, g := range binaryGuesses {
		if within(name, g.words) {
			return g.class
		}
	}
	return ""
}

// CheckClass says what keeps a point from having a device class, nil if
// nothing.
func CheckClass(p *mapping.Point, name string) error {
	switch {
	case len(p.Bits) > 0 || len(p.Enum) > 0 || p.Type != mapping.Bool && !number(p):
		return fmt.Errorf("only numbers, and what is on or off, have a class of their own")
	case p.Type == mapping.Bool:
		if !slices.Contains(binaryClasses, name) {
			return fmt.Errorf("there is no class %q of on and off; there is %s", name, strings.Join(binaryClasses, ", "))
		}
		return nil
	}
	c, ok := classes[name]
	if !ok {
		return fmt.Errorf("there is no class %q; there is %s", name, strings.Join(slices.Sorted(maps.Keys(classes)), ", "))
	}
	if !slices.Contains(c.units, spelled(p.Unit)) {
		return fmt.Errorf("class %q goes with the units %s in Home Assistant, not with %q", name, strings.Join(c.units, ", "), p.Unit)
	}
	return nil
}
