package mapping

import (
	"encoding/base64"
	"fmt"
	"strings"

	"edgegateway/broker"
	"edgegateway/devices"
)

// SenML (RFC 8428), as JSON:
//
//	[{"bn":"plant-a/main/","bt":1795215960.123,"n":"power","u":"W","v":230.1},{"n":"pf.error","vs":"timeout"}]
//
// Units are those of the registry (section 12.1), and values are converted to
// them exactly: 1.5 kW is 1500 W. A unit that has none there is left out. Names
// hold letters, digits and - : . / _ only; what else a name has becomes _. A
// record without a value has no form, so a bad value is a record NAME.error;
// bits are a record each, NAME.BIT. Other members that a reader does not know
// (clock, bad) it has to pass over (section 4.4).

// A senmlUnit is a unit of the registry and the factor to it.
type senmlUnit struct {
	name   string
	factor Decimal // zero: 1
}

var senmlUnits = func() map[string]senmlUnit {
	units := map[string]senmlUnit{}
	add := func(unit, name, factor string) {
		d, err := ParseDecimal(factor)
		if err != nil {
			panic(err)
		}
		if factor == "1" {
			d = Decimal{}
		}
		units[unit] = senmlUnit{name, d}
	}
	for _, line := range strings.Split(`W W 1, mW W 1e-3, kW W 1e3, MW W 1e6, GW W 1e9,
		Wh J 3600, kWh J 36e5, MWh J 36e8, GWh J 36e11, J J 1, kJ J 1e3, MJ J 1e6,
		V V 1, mV V 1e-3, kV V 1e3, A A 1, mA A 1e-3, kA A 1e3, Ah C 3600,
		Hz Hz 1, kHz Hz 1e3, MHz Hz 1e6, VA VA 1, kVA VA 1e3, MVA VA 1e6, VAh VAs 3600, kVAh VAs 36e5,
		var var 1, kvar var 1e3, Mvar var 1e6, varh vars 3600, kvarh vars 36e5, Mvarh vars 36e8,
		°C Cel 1, K K 1, Pa Pa 1, hPa Pa 100, kPa Pa 1e3, MPa Pa 1e6, bar Pa 1e5, mbar Pa 100,
		% % 1, ppm / 1e-6, m³ m3 1, l m3 1e-3, L m3 1e-3, m³/s m3/s 1, l/s m3/s 1e-3, L/s m3/s 1e-3, m/s m/s 1,
		Ω Ohm 1, kΩ Ohm 1e3, MΩ Ohm 1e6, lx lx 1, dB dB 1, s s 1, ms s 1e-3, min s 60, h s 3600, d s 86400,
		kg kg 1, g kg 1e-3, t kg 1e3, m m 1, mm m 1e-3, cm m 1e-2, km m 1e3, ° deg 1, rpm 1/min 1,
		m/s² m/s2 1, W/m² W/m2 1, µg/m³ kg/m3 1e-9, μg/m³ kg/m3 1e-9, mg/m³ kg/m3 1e-6, µS/cm S/m 1e-4, mS/cm S/m 1e-1, pH pH 1, N N 1`, ",") {
		f := strings.Fields(line)
		add(f[0], f[1], f[2])
	}
	return units
}()

// senmlName returns s with nothing but what names may hold (section 4.5.1).
func senmlName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-:./_", r):
			return r
		}
		return '_'
	}, s)
}

// senmlHead returns the beginning of the first record, up to the base name.
func (t *table) senmlHead(gateway string, dev *Device, point *Point) (head, base string, err error) {
	template := t.BaseName
	if template == "" {
		template = "{name}/{device}/"
	}
	base, err = expand(template, placeholders(gateway, dev, point))
	if err != nil {
		return "", "", err
	}
	if base = senmlName(base); base == "" || strings.IndexByte("-:./_", base[0]) >= 0 {
		return "", "", fmt.Errorf("the SenML base name %q must begin with a letter or digit (RFC 8428, 4.5.1): set base_name", base)
	}
	return `[{"bn":"` + base + `"`, base, nil
}

// baseTime writes the base time and, unless the clock is exact, its quality.
func (m *Mapper) baseTime(at devices.Stamp) {
	m.out.slot(broker.SlotBaseTime, at)
	m.out.slot(broker.SlotClock, at)
}

// writePack writes the records of a cycle of a device.
func (m *Mapper) writePack(d *deviceState, i int, at devices.Stamp) {
	m.out.text(d.routes[i].head)
	m.baseTime(at)
	before := ","
	for _, p := range d.points {
		if p.tells(m.cycle) {
			m.writeRecord(p, before)
			before = "},{"
		}
	}
	m.out.text("}]")
}

// writeRecord writes the record of a point without its braces, or several.
func (m *Mapper) writeRecord(p *pointState, before string) {
	o := &m.out
	name := func(suffix string) {
		o.text(before)
		o.text(`"n":"`)
		o.text(p.senml)
		o.text(suffix)
	}
	v := p.out.Value
	switch {
	case p.out.Cause != "":
		name(`.error","vs":`)
		o.str(p.out.Cause)
		return
	case v.kind == KindBits:
		m.writeBitRecords(p, before)
		return
	}
	name(`"`)
	o.text(p.senmlUnit)
	switch v.kind {
	case KindBool:
		o.text(`,"vb":`)
		o.value(v)
	case KindBytes:
		o.text(`,"vd":"`)
		o.buf = base64.RawURLEncoding.AppendEncode(o.buf, []byte(v.text))
		o.text(`"`)
	case KindNumber, KindFloat32, KindFloat64:
		if len(p.Enum) > 0 { // names are strings, and so is what has none
			o.text(`,"vs":"`)
			o.value(v)
			o.text(`"`)
			break
		}
		o.text(`,"v":`)
		o.value(v.times(p.senmlScale))
	default:
		o.text(`,"vs":`)
		o.str(v.text)
	}
	o.count(`,"bad":`, p.out.bad)
}

// writeBitRecords writes a record for each named bit.
func (m *Mapper) writeBitRecords(p *pointState, before string) {
	o := &m.out
	for bit := range 64 {
		name, ok := p.out.Value.names[bit]
		if !ok {
			continue
		}
		o.text(before)
		o.text(`"n":"`)
		o.text(p.senml)
		o.text(".")
		o.text(senmlName(name))
		o.text(`","vb":`)
		o.value(BoolValue(p.out.Value.num.mant>>bit&1 != 0))
		before = "},{"
	}
}

// times returns v × factor, exactly where that fits into a number.
func (v Value) times(factor Decimal) Value {
	if factor == (Decimal{}) {
		return v
	}
	if n, ok := v.decimal(); ok {
		if n, ok = n.affine(factor, Decimal{}); ok {
			return numberValue(n)
		}
	}
	f, _ := v.Float64()
	return FloatValue(f * factor.number().float())
}
