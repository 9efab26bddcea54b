package config

import "strings"

// docs/units.md is the list of units for people; a test holds the two
// together. They are spelled as Home Assistant and most dashboards spell them,
// which choose by the spelling.
var knownUnits = strings.Fields(`
	W mW kW MW GW VA kVA MVA var kvar Mvar
	Wh kWh MWh GWh varh kvarh Mvarh VAh kVAh MVAh J kJ MJ GJ kcal
	V mV µV kV A mA µA kA Ah mAh Hz mHz kHz MHz GHz Ω mΩ kΩ MΩ S mS µS µF nF mF H mH µH T mT
	µS/cm mS/cm V/m
	°C °F K Pa hPa kPa MPa mbar bar psi inHg mmHg atm
	% ‰ ppm ppb pH NTU °dH °
	m km cm mm µm in ft yd mi fathom m² ha cm² ft²
	m³ l L ml mL hl gal ft³ Nm³ m³/h m³/min m³/s l/h L/h l/min L/min l/s L/s ml/min mL/min gal/min gal/h ft³/min Nm³/h
	m/s km/h kn mph ft/s ft/min mm/h mm/d mm/s m/s² in/h
	kg g mg t lb oz kg/h t/h kg/s g/s kg/m³ g/m³ mg/m³ µg/m³ g/kg mg/l µg/l Bq/m³
	N kN Nm kNm rpm 1/min 1/s 1/h rad °/s °/h
	lx lm cd cd/m² klx W/m² kW/m² kWh/m² W/m²K
	dB dBm dBA
	s ms µs min h d wk mo a
	B kB MB GB TB KiB MiB GiB bit/s kbit/s Mbit/s Gbit/s
	€ €/kWh EUR EUR/kWh CHF/kWh USD/kWh ct/kWh g/kWh kg/kWh hp PS BTU BTU/h
`)

// unitAliases are other spellings, in lower case: of UCUM, of manuals, of
// keyboards without the sign.
var unitAliases = map[string]string{
	"c": "°C", "degc": "°C", "deg c": "°C", "deg_c": "°C", "celsius": "°C", "ºc": "°C", "cel": "°C", "° c": "°C", "℃": "°C",
	"f": "°F", "degf": "°F", "deg f": "°F", "fahrenheit": "°F", "[degf]": "°F", "ºf": "°F", "℉": "°F", "kelvin": "K",
	"deg": "°", "º": "°", "degree": "°", "degrees": "°", "deg/s": "°/s",
	"ohm": "Ω", "ohms": "Ω", "kohm": "kΩ", "mohm": "MΩ",
	"m2": "m²", "m^2": "m²", "m3": "m³", "m^3": "m³", "cbm": "m³", "qm": "m²", "ft3": "ft³", "ft^3": "ft³", "[cft_i]": "ft³", "sqm": "m²",
	"m3/h": "m³/h", "m^3/h": "m³/h", "cbm/h": "m³/h", "m3/min": "m³/min", "m3/s": "m³/s", "nm3": "Nm³", "nm3/h": "Nm³/h", "cfm": "ft³/min",
	"w/m2": "W/m²", "w/m^2": "W/m²", "kwh/m2": "kWh/m²", "m/s2": "m/s²", "m/s^2": "m/s²",
	"ug/m3": "µg/m³", "µg/m3": "µg/m³", "\u03bcg/m³": "µg/m³", "\u03bcg/m3": "µg/m³", "mg/m3": "mg/m³", "g/m3": "g/m³", "kg/m3": "kg/m³", "bq/m3": "Bq/m³",
	"us/cm": "µS/cm", "\u03bcs/cm": "µS/cm", "us": "µs", "\u03bcs": "µs", "usec": "µs", "uv": "µV", "ua": "µA", "um": "µm", "uf": "µF",
	"percent": "%", "pct": "%", "% rh": "%", "%rh": "%", "rh%": "%", "prozent": "%", "[ppm]": "ppm", "[ppb]": "ppb", "[ph]": "pH", "permille": "‰",
	"knots": "kn", "knot": "kn", "kt": "kn", "kts": "kn", "[kn_i]": "kn", "kmh": "km/h", "kph": "km/h", "mps": "m/s", "[mi_i]/h": "mph", "mi/h": "mph",
	"amp": "A", "amps": "A", "ampere": "A", "volt": "V", "volts": "V", "watt": "W", "watts": "W", "hertz": "Hz",
	"w.h": "Wh", "kw.h": "kWh", "w*h": "Wh", "kw*h": "kWh", "kw h": "kWh", "kw-h": "kWh", "mw.h": "MWh", "a.h": "Ah",
	"v.a": "VA", "kv.a": "kVA", "vars": "var", "kvars": "kvar", "va.h": "VAh", "var.h": "varh", "kvar.h": "kvarh", "vara": "var",
	"ltr": "l", "litre": "l", "liter": "l", "litres": "l", "liters": "l", "l/hr": "l/h", "lpm": "l/min", "l/m": "l/min", "m³/hr": "m³/h", "m3/hr": "m³/h", "gpm": "gal/min",
	"u/min": "rpm", "rev/min": "rpm", "r/min": "rpm", "/min": "1/min", "min-1": "1/min", "min⁻¹": "1/min", "/s": "1/s", "/h": "1/h",
	"sec": "s", "secs": "s", "second": "s", "seconds": "s", "minute": "min", "minutes": "min", "mins": "min", "hr": "h", "hrs": "h", "hour": "h", "hours": "h",
	"day": "d", "days": "d", "week": "wk", "month": "mo", "year": "a", "msec": "ms", "millisecond": "ms",
	"[psi]": "psi", "mm[hg]": "mmHg", "torr": "mmHg", "[in_i'hg]": "inHg", "[in_i]": "in", "inch": "in", "[ft_i]": "ft", "feet": "ft", "foot": "ft", "[lb_av]": "lb", "[mi_i]": "mi",
	"n.m": "Nm", "n·m": "Nm", "lux": "lx", "byte": "B", "bytes": "B", "mbps": "Mbit/s", "kbps": "kbit/s", "bps": "bit/s",
	"euro": "€", "eur/kwh": "EUR/kWh", "[hp_i]": "hp", "[btu]": "BTU", "ton": "t", "tonne": "t", "kilo": "kg", "dezibel": "dB",
}

var unitSpelling = func() map[string]string {
	m := make(map[string]string)
	for _, u := range knownUnits { // of those that differ in case only, the first is likelier
		if l := strings.ToLower(u); m[l] == "" {
			m[l] = u
		}
	}
	for wrong, u := range unitAliases {
		m[wrong] = u
	}
	for _, u := range knownUnits {
		m[u] = u
	}
	return m
}()

// respell returns how unit is usually written; "" and true if it is fine, and
// "" and false if nobody knows it.
func respell(unit string) (right string, known bool) {
	for _, spelling := range []string{unit, strings.ToLower(unit), strings.ToLower(strings.ReplaceAll(unit, " ", ""))} {
		if u, ok := unitSpelling[spelling]; ok {
			if u == unit {
				u = ""
			}
			return u, true
		}
	}
	return "", false
}

// nearestUnit returns the unit of which one letter is wrong, "" if there is
// none or the word is too short to tell.
func nearestUnit(unit string) string {
	for _, u := range knownUnits {
		if len(unit) > 2 && len(u) > 2 && distance(strings.ToLower(unit), strings.ToLower(u)) == 1 {
			return u
		}
	}
	return ""
}
