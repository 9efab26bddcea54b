package mapping

import (
	"maps"
	"slices"
	"strings"

	"edgegateway/broker"
	"edgegateway/devices"
)

// InfluxDB line protocol: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
//
//	plant-a,device=main power=230.1,pf.error="timeout" 1795215960123000000
//
// A field keeps its type for ever, or the database refuses the line. So whole
// numbers that have no scale are integers always (unsigned of u64), all other
// numbers are floats, also 230, and names are strings, also of numbers that
// have none. There is no null: a bad value is a field NAME.error instead. Bits
// are a field each, NAME.BIT. A clock that is not exact is the field clock.

// lineHead returns the measurement and tags of t for a point, or for a device
// with point nil.
func (t *table) lineHead(gateway string, dev *Device, point *Point) (string, error) {
	fields := placeholders(gateway, dev, point)
	measurement, err := expand(t.measurement(), fields)
	if err != nil {
		return "", err
	}
	head := string(appendLineKey(nil, measurement, ", "))
	for _, key := range slices.Sorted(maps.Keys(t.tags(dev))) {
		value, err := expand(t.tags(dev)[key], fields)
		if err != nil {
			return "", err
		}
		if value != "" { // a tag without a value is an error to the database
			head += "," + string(appendLineKey(nil, key, ",= ")) + "=" + string(appendLineKey(nil, value, ",= "))
		}
	}
	return head, nil
}

func (t *table) measurement() string {
	if t.Measurement == "" {
		return "{name}"
	}
	return t.Measurement
}

// tags returns the templates of the line's tags: without any given, the device
// and its own tags.
func (t *table) tags(dev *Device) map[string]string {
	if t.Tags != nil {
		return t.Tags
	}
	tags := map[string]string{"device": "{device}"}
	for key := range dev.Tags {
		tags[key] = "{" + key + "}"
	}
	return tags
}

// appendLineKey appends a measurement, tag or field key with the characters of
// special escaped. Line ends and other control characters, which have no form
// there, become spaces, and so does a backslash at the end, which would
// swallow what follows.
func appendLineKey(dst []byte, s, special string) []byte {
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c == 0x7f || c == '\\' && i == len(s)-1 {
			c = ' '
		}
		if strings.IndexByte(special, c) >= 0 || c == '#' && len(dst) == 0 {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return dst
}

// writeLine writes the line of a cycle of a device.
func (m *Mapper) writeLine(t *table, d *deviceState, i int, at devices.Stamp) {
	m.out.text(d.routes[i].head)
	before := " "
	for _, p := range d.points {
		if p.tells(m.cycle) {
			m.writeField(t, p, before)
			before = ","
		}
	}
	m.endLine(at)
}

// endLine writes the quality of the clock, if it is not exact, and the time.
func (m *Mapper) endLine(at devices.Stamp) {
	m.out.slot(broker.SlotClockField, at)
	m.out.text(" ")
	m.out.slot(broker.SlotUnixNano, at)
}

// writeField writes the field of a point, or those of its bits, each after
// before or a comma.
func (m *Mapper) writeField(t *table, p *pointState, before string) {
	o := &m.out
	v := p.out.Value
	switch {
	case p.out.Cause != "":
		o.text(before)
		o.text(p.field)
		o.text(".error=")
		o.buf = appendLineString(o.buf, p.out.Cause)
	case v.kind == KindBits:
		m.writeBitFields(p, before)
	default:
		o.text(before)
		o.text(p.field)
		o.text("=")
		o.buf = t.appendFieldValue(o.buf, p, v)
	}
	if p.out.bad > 0 {
		o.text(",")
		o.text(p.field)
		o.count(".bad=", p.out.bad)
		o.text("i")
	}
}

func (m *Mapper) writeBitFields(p *pointState, before string) {
	o := &m.out
	for bit := range 64 {
		name, ok := p.out.Value.names[bit]
		if !ok {
			continue
		}
		o.text(before)
		o.text(p.field)
		o.text(".")
		o.buf = appendLineKey(o.buf, name, ",= ")
		o.text("=")
		if p.out.Value.num.mant>>bit&1 != 0 {
			o.text("true")
		} else {
			o.text("false")
		}
		before = ","
	}
}

func (t *table) appendFieldValue(dst []byte, p *pointState, v Value) []byte {
	switch {
	case v.kind == KindBool:
		return v.AppendJSON(dst)
	case v.kind == KindString || v.kind == KindName || v.kind == KindList:
		return appendLineString(dst, v.text)
	case v.kind == KindBytes || len(p.Enum) > 0: // hexadecimal, or a number that has no name
		dst = append(dst, '"')
		return append(v.AppendText(dst), '"')
	}
	dst = v.AppendJSON(dst)
	switch {
	case !p.whole || t.Integers == "float":
		return dst
	case p.Type == U64:
		return append(dst, 'u')
	}
	return append(dst, 'i')
}

// wholeNumbers reports whether all values of p are integers that the database
// can take as such.
func wholeNumbers(p *Point) bool {
	mean := p.Policy.Window > 0 && p.Policy.Aggregate == Mean
	return p.Type.Integer() && p.ScaleFrom == nil && !p.Factored && p.Scale == (Decimal{}) && p.Offset == (Decimal{}) && !mean
}

// appendLineString appends s as the string of a field.
func appendLineString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}
