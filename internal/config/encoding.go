package config

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// readText reads where in its registers a text lies, and in which encoding.
func (p *pointBuilder) readText() {
	chars, encoding := p.raw.Chars, p.raw.Encoding
	for _, t := range []text{chars, encoding} {
		if t.set() && (p.point.Type != mapping.String || p.sentence != "") {
			p.errorKey(t.at, "%s is for texts in registers; point %q is %s", t.at.keyText(), p.name, p.point.Type)
			return
		}
	}
	p.point.Layout = map[string]mapping.Layout{"high": mapping.HighByte, "low": mapping.LowByte}[p.choice(chars, "both", "both", "high", "low")]
	p.point.Encoding = map[string]mapping.Encoding{
		"ascii": mapping.ASCII, "latin1": mapping.Latin1, "utf-16": mapping.UTF16,
	}[p.choice(encoding, "utf-8", "utf-8", "ascii", "latin1", "utf-16")]
	if p.point.Encoding == mapping.UTF16 && p.point.Layout != mapping.Packed {
		p.errorAt(chars.at, "a character of UTF-16 fills its register; leave chars out")
	}
	if registers := p.point.RawLen() / 2; p.point.Type == mapping.String && registers > 125 {
		p.errorKey(p.raw.at, "point %q takes %d registers; one request brings 125", p.name, registers)
	}
}

// readZone reads the zone of a device's clock.
func (p *pointBuilder) readZone() {
	z := p.raw.Zone
	if !z.set() {
		return
	}
	if !p.point.Type.Time() {
		p.errorKey(z.at, "zone is for times; point %q is %s", p.name, p.point.Type)
		return
	}
	switch z.V {
	case "UTC":
	case "local":
		p.point.Zone = p.cfg.Timezone
	default:
		zone, err := time.LoadLocation(z.V)
		if err != nil {
			p.errorAt(z.at, `there is no time zone %q; zones are called like "Europe/Berlin", and "local" is the gateway's`, z.V)
			return
		}
		p.point.Zone = zone
	}
}

// readMask reads which bits of an integer are the value.
func (p *pointBuilder) readMask() {
	if t := p.point.Type; t >= mapping.U8H && t <= mapping.I8L && p.point.Write != nil {
		p.errorKey(p.raw.Write.at, "one byte of a register cannot be written")
	}
	m := p.raw.Mask
	if !m.set() {
		return
	}
	mask, width := uint64(m.V), p.point.Width()
	_, run, _ := strings.Cut(fmt.Sprintf("%b", mask), "0")
	switch {
	case !p.point.Type.Integer() || p.point.FromText || p.point.Type.Part() || p.point.Type == mapping.Mod10:
		p.errorKey(m.at, "mask needs a whole number in registers; point %q is %s", p.name, p.point.Type)
	case m.V <= 0 && width < 64 || m.V == 0 || width < 64 && mask>>width != 0:
		p.errorAt(m.at, "mask is %d; it says which of the %d bits are the value: 0x00F0", m.V, width)
	case strings.Contains(run, "1"):
		p.errorAt(m.at, "mask %#x has gaps; it must be one run of bits like 0x00F0, and what lies apart two points", mask)
	case p.raw.Bits.set():
		p.errorKey(m.at, "point %q has both mask and bits; bits need no mask", p.name)
	case p.raw.Write.set():
		p.errorKey(m.at, "a point with a mask cannot be written, for it is a part of its register")
	case strings.HasPrefix(p.point.Type.String(), "bcd") && bits.OnesCount64(mask)%4 != 0:
		p.errorAt(m.at, "a mask of decimal digits has four bits for each")
	default:
		p.point.Mask = mask
	}
}

// readScaleFactor notes a point whose exponent is elsewhere; linkFactors finds
// it when all points are known.
func (p *pointBuilder) readScaleFactor() {
	n := p.raw.ScaleFactor.at
	switch {
	case n == nil:
	case !p.numeric():
		p.errorKey(n, "scale_factor needs a number; point %q is %s", p.name, p.point.Type)
	case p.raw.Enum.set() || p.raw.Bits.set():
		p.errorKey(n, "point %q has names; a name has no scale", p.name)
	case p.raw.Write.set() && p.raw.Write.at.value != false:
		p.errorKey(n, "a point whose scale is in another register cannot be written")
	case p.sentence != "" || p.framed:
		p.errorKey(n, "scale_factor is for registers")
	case p.model != nil:
		p.point.Factored = p.model.Factor > 0 // else it is reported
	default:
		p.factors = append(p.factors, factorUse{p.raw, p.point, p.register.Table})
	}
}

// A factorUse is a point whose exponent is in another register or point.
type factorUse struct {
	raw   *rawPoint
	point *mapping.Point
	table modbus.Table
}

// linkFactors finds the points that scale_factor names, and makes those it
// gives registers of.
func (d *deviceBuilder) linkFactors() {
	own := make(map[modbus.Register]*mapping.Point)
	for _, use := range d.factors {
		if use.point.Point == nil {
			continue // it has other faults
		}
		n := use.raw.ScaleFactor.at
		switch v := n.value.(type) {
		case string:
			use.point.ScaleFrom = d.factorNamed(n, v)
		case int64:
			if v < 0 || v > 65535 {
				d.errorAt(n, "%d is no register address: it is 0 to 65535", v)
				continue
			}
			r := modbus.Register{Table: use.table, Address: uint16(v), Count: 1}
			if own[r] == nil {
				own[r] = d.hiddenFactor(r, n)
			}
			own[r].Every = min(own[r].Every, use.point.Every)
			use.point.ScaleFrom = own[r]
		default:
			d.errorAt(n, "scale_factor is %s; it is the address of the register in the same table, or the name of a point", n.kind())
		}
	}
}

func (d *deviceBuilder) factorNamed(n *node, name string) *mapping.Point {
	var names []string
	for _, p := range d.dev.Points {
		if p.Name != name {
			names = append(names, p.Name)
			continue
		}
		if !p.Type.Integer() || p.ScaleFrom != nil || len(p.Enum)+len(p.Bits) > 0 {
			d.errorAt(n, "point %q is no exponent: a whole number, mostly i16", name)
			return nil
		}
		return p
	}
	d.errorAt(n, "device %q has no point %q%s", d.key, name, didYouMean(nearest(name, names)))
	return nil
}

// hiddenFactor makes a point of its own of a register that holds an exponent
// (SunSpec: sunssf).
func (d *deviceBuilder) hiddenFactor(r modbus.Register, n *node) *mapping.Point {
	p := &mapping.Point{
		Point: &devices.Point{Name: fmt.Sprintf("_scale_%d", r.Address), Source: r, Every: maxEvery},
		Type:  mapping.I16, Invalid: []int64{-0x8000}, Hidden: true,
	}
	d.dev.Points = append(d.dev.Points, p)
	d.dev.Device.Points = append(d.dev.Device.Points, p.Point)
	d.at[p.Point] = n
	return p
}

// maxEvery is longer than any interval.
const maxEvery = time.Duration(1<<63 - 1)

// sunSpec says which raw number of a type means that it is not implemented
// (SunSpec device information model specification, data types).
var sunSpec = map[mapping.Type]int64{
	mapping.U16: 0xffff, mapping.U32: 0xffffffff, mapping.U64: -1,
	mapping.I16: -1 << 15, mapping.I32: -1 << 31, mapping.I64: -1 << 63,
}

// readInvalid reads the raw values that mean "no value", or the name of those
// who say so for all types.
func (p *pointBuilder) readInvalid() {
	n := p.raw.Invalid.at
	if n == nil && p.model != nil {
		p.setSunSpec()
	}
	if n == nil {
		return
	}
	if n.value == "sunspec" && p.sentence == "" {
		p.readSunSpec(n)
		return
	}
	for _, i := range p.raw.Invalid.list() {
		v, ok := i.value.(int64)
		if !ok {
			p.errorAt(i, `invalid is %s; it lists raw values as whole numbers: [0x8000], or is "sunspec" (NaN is never a value)`, i.kind())
			continue
		}
		p.point.Invalid = append(p.point.Invalid, v)
	}
	if !p.numeric() && !p.point.Type.Unix() {
		p.errorKey(n, "invalid lists raw numbers; point %q is %s", p.name, p.point.Type)
	}
}

func (p *pointBuilder) readSunSpec(n *node) {
	if !p.setSunSpec() {
		p.errorAt(n, "SunSpec has no type %s", p.point.Type)
	}
}

// setSunSpec lets the point have what SunSpec's types hold when there is no
// value. It reports whether SunSpec has its type.
func (p *pointBuilder) setSunSpec() bool {
	t := p.point.Type
	if v, ok := sunSpec[t]; ok {
		p.point.Invalid = []int64{v}
		return true
	}
	p.point.ZeroIsNone = t == mapping.String || t.Address()
	return p.point.ZeroIsNone || t.Float()
}
