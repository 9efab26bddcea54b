package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// A pointBuilder makes one point. Its methods report what is wrong and leave
// their part of the point as it is, so that all faults of a point are found.
type pointBuilder struct {
	*deviceBuilder
	raw      *rawPoint
	name     string
	sentence string // "" for registers
	group    *rawGroup
	point    *mapping.Point // of its own: it outlives its builder
	register modbus.Register
	bit      *modbus.Bit           // nil: it is no bit of a register
	queue    *modbus.Queue         // nil: it is none
	model    *modbus.ModelRegister // nil: it is in no model of SunSpec
	field    serial.Field
	framed   bool // it is in a binary frame
	span     serial.Span
}

// build returns the point, nil if it is not known where it is or what.
func (p *pointBuilder) build() *mapping.Point {
	p.checkDefaults(&p.raw.rawDefaults)
	p.findGroup()
	p.point.Group = p.raw.Group.V
	located := p.locate()
	typed := p.readType(located)
	if !located || !typed {
		return nil
	}
	p.readText()
	source := p.source()
	p.point.Point = &devices.Point{Name: p.name, Source: source, Every: p.every()}
	p.readOrder()
	p.readZone()
	p.readScale()
	p.readScaleFactor()
	p.readUnit()
	p.readEnum()
	p.readBits()
	p.readInvalid()
	p.readKind()
	p.readPolicy()
	p.readWrite()
	p.readMask()
	p.readRange()
	p.readOnLoss()
	p.readHint()
	return p.point
}

func (p *pointBuilder) findGroup() {
	name := p.raw.Group
	if !name.set() {
		return
	}
	if g, ok := p.groups[name.V]; ok {
		p.group = g
		return
	}
	known := sortedKeys(p.groups)
	hint := didYouMean(nearest(name.V, known))
	if len(known) == 0 {
		hint = fmt.Sprintf("; write [device.%s.groups.%s]", p.key, name.V)
	}
	p.errorAt(name.at, "device %q has no group %q%s", p.key, name.V, hint)
}

// defaults returns the tables a point inherits from, nearest first.
func (p *pointBuilder) defaults() []*rawDefaults {
	levels := []*rawDefaults{&p.raw.rawDefaults}
	if p.group != nil {
		levels = append(levels, &p.group.rawDefaults)
	}
	return append(levels, &p.deviceBuilder.raw.rawDefaults)
}

// every is the wanted interval; a bus that speaks by itself sets its own.
func (p *pointBuilder) every() time.Duration {
	if p.all {
		return devices.Never
	}
	for _, d := range p.defaults() {
		if d.Every.set() {
			return d.Every.V
		}
	}
	if p.deviceBuilder.raw.Frame.Send.set() || p.deviceBuilder.raw.Send.set() {
		return defaultEvery
	}
	if p.deviceBuilder.raw.Frame.Kind.V == frameMeter {
		return meterEvery
	}
	if p.sentence != "" || p.framed {
		return 0
	}
	return defaultEvery
}

// locate finds out which register or field the point is.
func (p *pointBuilder) locate() bool {
	r := p.raw
	given := r.places()
	switch {
	case len(given) == 0:
		p.reportNowhere()
		return false
	case len(given) > 1:
		p.errorKey(given[1].at, "point %q has both %s and %s; keep one: they say where it is", p.name, given[0].key, given[1].key)
		return false
	}
	one := given[0]
	if one.key != "model" {
		p.refuseModelKeys()
	}
	if (one.key == "field" || one.key == "byte") && p.raw.Bit.set() {
		p.errorKey(p.raw.Bit.at, "bit is of input and holding registers")
		return false
	}
	switch {
	case (one.key == "field") != (p.sentence != "") || (one.key == "byte") != p.binary():
		p.reportWrongPlace(one.key, one.at)
		return false
	case one.key == "field":
		return p.readField(one.at)
	case one.key == "byte":
		p.framed = p.raw.Byte.within(p.binder, 0, 1023, "a byte of a frame")
		p.span.At = int(one.address)
		return p.framed
	case one.key == "ref":
		return p.readRef(one.at)
	case one.key == "model":
		return p.readModel(one.at)
	case one.address < 0 || one.address > math.MaxUint16:
		p.errorAt(one.at, "%s %d is no register address: it is 0 to 65535, counted from 0 as on the wire%s", one.key, one.address, refHint(one.address))
		return false
	}
	p.register = modbus.Register{Table: one.table, Address: uint16(one.address)}
	if one.key == "fifo" {
		p.queue = &modbus.Queue{Address: uint16(one.address)}
	}
	return p.readBit()
}

// readBit reads which bit of its register the point is.
func (p *pointBuilder) readBit() bool {
	b := p.raw.Bit
	switch {
	case !b.set():
		return true
	case p.register.Table.Bits():
		p.errorKey(b.at, "a %v is one bit already; bit is of input and holding registers", p.register.Table)
	case p.queue != nil:
		p.errorKey(b.at, "bit is of input and holding registers, not of a queue")
	case b.within(p.binder, 0, 15, "the bit, 0 the least significant,"):
		p.bit = &modbus.Bit{N: uint8(b.V)}
		return true
	}
	return false
}

// binary reports whether the point is one of a device with binary frames.
func (p *pointBuilder) binary() bool {
	return p.sentence == "" && p.deviceBuilder.raw.Frame.Kind.V == frameBinary
}

// A pointPlace is one way of saying where a point is.
type pointPlace struct {
	key     string
	at      *node
	table   modbus.Table
	address int64
}

// places returns those that were given.
func (r *rawPoint) places() []pointPlace {
	all := []pointPlace{
		{"coil", r.Coil.at, modbus.Coil, r.Coil.V}, {"discrete", r.Discrete.at, modbus.Discrete, r.Discrete.V},
		{"input", r.Input.at, modbus.Input, r.Input.V}, {"holding", r.Holding.at, modbus.Holding, r.Holding.V},
		{"fifo", r.FIFO.at, modbus.Holding, r.FIFO.V}, {"model", r.Model.at, modbus.Holding, 0}, {"ref", r.Ref.at, 0, 0}, {"field", r.Field.at, 0, 0}, {"byte", r.Byte.at, 0, r.Byte.V},
	}
	return slices.DeleteFunc(all, func(x pointPlace) bool { return x.at == nil })
}

// readField takes the number of a field, or the key in front of its value.
func (p *pointBuilder) readField(n *node) bool {
	p.field.Sentence = p.sentence
	if p.sentence == anySentence {
		p.field.Sentence = ""
	}
	switch v := n.value.(type) {
	case int64:
		if v < 1 || v > 255 {
			p.errorAt(n, "field %d cannot be: fields count from 1", v)
			return false
		}
		p.field.Index = int(v)
	case string:
		p.field.Key = v
	default:
		p.errorAt(n, `field is %s; it is a number from 1, or the word in front of the value: "TEMP" for TEMP=21.5`, n.kind())
		return false
	}
	return n.value != ""
}

func refHint(v int64) string {
	if _, err := modbus.ParseRef(strconv.FormatInt(v, 10)); err == nil {
		return fmt.Sprintf("; if the manual says %d, write ref = %d", v, v)
	}
	return ""
}

// reportNowhere complains of a point without a place, unless one of its keys
// was meant as such and is reported already.
func (p *pointBuilder) reportNowhere() {
	if p.raw.at.unplaced {
		return
	}
	for _, k := range p.raw.at.order {
		if slices.Contains(placeKeys, k) || slices.Contains(placeKeys, nearest(k, keysOf[rawPoint]())) || k == "address" {
			return
		}
	}
	switch {
	case p.binary():
		p.errorKey(p.raw.at, "point %q needs byte = N, the place of its first byte in the frame, from 0", p.name)
		return
	case p.textFrames():
		p.errorKey(p.raw.at, "point %q needs field = \"…\", the name of its value in the frame", p.name)
		return
	case p.sentence != "":
		p.errorKey(p.raw.at, "point %q needs field = N, the position of its value in sentence %s", p.name, p.sentence)
		return
	}
	hint := ""
	if p.deviceBuilder.raw.Profile.set() {
		known := make([]string, 0, len(p.deviceBuilder.raw.Points.V))
		for _, e := range p.deviceBuilder.raw.Points.V {
			if e.key != p.name && e.value.at.hasAny(placeKeys) {
				known = append(known, e.key)
			}
		}
		hint = didYouMean(nearest(p.name, known))
	}
	p.errorKey(p.raw.at, "point %q does not say where it is: give it coil, discrete, input, holding or ref%s", p.name, hint)
}

func (p *pointBuilder) reportWrongPlace(key string, at *node) {
	switch {
	case p.binary():
		p.errorKey(at, "a point of a binary frame has byte = N, not %s", key)
		return
	case p.textFrames():
		p.errorKey(at, "a point of these frames has field = \"…\", not %s", key)
		return
	case key == "byte":
		p.errorKey(at, "byte belongs to a device with binary frames, which [device.%s.frame] describes", p.key)
		return
	case key == "field":
		p.errorKey(at, "field belongs to a sentence: [device.%s.line.SENTENCE]", p.key)
		return
	}
	p.errorKey(at, "a point of sentence %s has field = N, not %s", p.sentence, key)
}

func (p *pointBuilder) readRef(n *node) bool {
	var s string
	switch v := n.value.(type) {
	case int64:
		s = strconv.FormatInt(v, 10)
	case string:
		s = v
	default:
		p.errorAt(n, "ref is %s; it must be a reference number such as 40001", n.kind())
		return false
	}
	r, err := modbus.ParseRef(s)
	if err != nil {
		p.errorAt(n, "%v", err)
		return false
	}
	p.register = r
	return p.readBit()
}

// coil reports whether the point is a coil or discrete input.
func (p *pointBuilder) coil() bool {
	return p.sentence == "" && !p.framed && (p.register.Table == modbus.Coil || p.register.Table == modbus.Discrete)
}

// readType sets type and length. A type inherited by a coil does not count.
func (p *pointBuilder) readType(located bool) bool {
	var written text
	for _, d := range p.defaults() {
		if d.Type.set() {
			written = d.Type
			break
		}
	}
	if located && (p.coil() || p.bit != nil) {
		p.point.Type = mapping.Bool
		own := p.raw.Type
		switch {
		case !own.set() || strings.TrimSpace(strings.ToLower(own.V)) == "bool":
		case p.bit != nil:
			p.errorAt(own.at, "one bit of a register is bool, not %s; keep bit or type", own.V)
		default:
			p.errorAt(own.at, "a %s is one bit: its type is bool, not %s", p.register.Table, own.V)
		}
		return true
	}
	if !written.set() {
		p.point.Type = mapping.U16
		if p.sentence != "" {
			p.point.Type, p.point.FromText = mapping.Text, true
		}
		return true
	}
	t, length, ok := p.parseType(written)
	if !ok {
		return false
	}
	if length == oneByte && t.Integer() {
		if length = 0; !p.binary() {
			p.errorAt(written.at, `type %[1]s is for bytes of frames; in a register it is "%[1]sl", its low byte, or "%[1]sh", its high byte`, strings.ToLower(written.V))
			return false
		}
		p.span.Len = 1
	}
	p.point.Type, p.point.Length = t, length
	if p.queue != nil && !p.numeric() {
		p.errorAt(written.at, "a queue holds a list of numbers, and %s is none; u16 without a type", written.V)
		return false
	}
	p.point.FromText = p.sentence != ""
	if t == mapping.Bool && !p.point.FromText && !p.framed {
		p.point.Length = 2
	}
	if (t.Part() || t.Address()) && p.sentence != "" || t.Part() && p.framed || p.sentence != "" && t.Time() && !t.Unix() {
		p.errorAt(written.at, "type %s is for registers", written.V)
		return false
	}
	if t == mapping.Text && !p.point.FromText {
		p.errorAt(written.at, "type text is for fields of sentences; registers hold string(n)")
		return false
	}
	return true
}

// oneByte is the length that parseType gives to u8 and i8, which travel as one
// byte and are read as u16 and i16.
const oneByte = 1

var typeWords = strings.Fields("bool u8 i8 u16 i16 u32 i32 u64 i64 f16 f32 f64 bcd16 bcd32 string bytes mod10 text " +
	"u8h u8l i8h i8l u24 i24 u48 i48 sm16 sm32 unix32 unix64 unix64ms ymdhms schneider_time ipv4 ipv6 mac eui48")

// parseType reads a type that was set, and reports what is wrong with it.
func (b *binder) parseType(t text) (typ mapping.Type, length int, ok bool) {
	if !t.set() {
		return 0, 0, false
	}
	switch strings.ToLower(strings.TrimSpace(t.V)) {
	case "u8":
		return mapping.U16, oneByte, true
	case "i8":
		return mapping.I16, oneByte, true
	}
	typ, length, err := mapping.ParseType(t.V)
	if err != nil {
		b.errorAt(t.at, "%v%s", err, didYouMean(nearestType(t.V)))
	}
	return typ, length, err == nil
}

func (b *binder) parseOrder(t text) mapping.Order {
	if !t.set() {
		return mapping.ABCD
	}
	o, err := mapping.ParseOrder(t.V)
	if err != nil {
		b.errorAt(t.at, "%v", err)
	}
	return o
}

// typeAliases are what other programs call our types.
var typeAliases = map[string]string{
	"uint16": "u16", "word": "u16", "ushort": "u16", "int16": "i16", "short": "i16", "s16": "i16",
	"uint32": "u32", "dword": "u32", "int32": "i32", "s32": "i32", "int": "i32", "uint64": "u64", "int64": "i64", "s64": "i64",
	"float": "f32", "float32": "f32", "real": "f32", "single": "f32", "double": "f64", "float64": "f64", "lreal": "f64", "float16": "f16",
	"boolean": "bool", "bit": "bool", "uint24": "u24", "int24": "i24", "uint48": "u48", "int48": "i48", "uint8l": "u8l", "uint8h": "u8h", "int8l": "i8l", "int8h": "i8h",
	"acc16": "u16", "acc32": "u32", "acc64": "u64", "enum16": "u16", "enum32": "u32", "bitfield16": "u16", "bitfield32": "u32", "sunssf": "i16",
	"ipaddr": "ipv4", "ipv6addr": "ipv6", "datetime": "schneider_time", "timestamp": "unix32", "unix": "unix32",
}

func nearestType(word string) string {
	word = strings.ToLower(word)
	if a := typeAliases[word]; a != "" {
		return a
	}
	if slices.Contains(typeWords, word) {
		return "" // the name is right, so that something else is wrong
	}
	return nearest(word, typeWords)
}

// source returns where the point is, checked for the end of its table.
func (p *pointBuilder) source() devices.Source {
	if p.sentence != "" {
		return p.field
	}
	if p.framed {
		return p.spanOf()
	}
	if p.queue != nil {
		p.point.List = true
		return *p.queue
	}
	if p.model != nil {
		return p.modelSource()
	}
	if p.bit != nil {
		p.bit.Register = p.register
		p.bit.Count = 1
		p.bit.Swapped = p.point.Order == mapping.BADC || p.point.Order == mapping.DCBA
		return *p.bit
	}
	count := 1
	if !p.coil() {
		count = p.point.RawLen() / 2
	}
	p.register.Count = uint16(count)
	if last := int(p.register.Address) + count - 1; last > math.MaxUint16 {
		p.errorKey(p.raw.at, "point %q takes %d registers from %d on, beyond the last, 65535", p.name, count, p.register.Address)
	}
	return p.register
}

// spanOf returns the bytes of the point, filled up to what its type needs.
func (p *pointBuilder) spanOf() serial.Span {
	s := p.span
	need := p.point.RawLen()
	switch {
	case s.Len == 1:
		s.Pad, s.Signed = need-1, p.point.Type == mapping.I16
	case p.point.Length > 0:
		s.Len, s.Tail = p.point.Length, need-p.point.Length
	default:
		s.Len = need
	}
	return s
}

func (p *pointBuilder) readOrder() {
	for _, d := range p.defaults() {
		if d.Order.set() {
			p.point.Order = p.parseOrder(d.Order)
			return
		}
	}
}

// numeric reports whether the point is a number, which scales and limits need.
func (p *pointBuilder) numeric() bool {
	t := p.point.Type
	return t.Integer() || t.Float()
}

// decimal reads a number exactly as it is written.
func (b *binder) decimal(n *node, what string) (mapping.Decimal, bool) {
	var s string
	switch v := n.value.(type) {
	case int64:
		s = strconv.FormatInt(v, 10)
	case float64:
		s = strings.ReplaceAll(n.written(), "_", "")
	default:
		b.errorAt(n, "%s is %s; it must be a number", what, n.kind())
		return mapping.Decimal{}, false
	}
	d, err := mapping.ParseDecimal(strings.TrimPrefix(s, "+"))
	if err != nil {
		b.errorAt(n, "%s: %v", what, err)
		return mapping.Decimal{}, false
	}
	return d, true
}

func (p *pointBuilder) readScale() {
	for _, x := range []struct {
		key string
		raw anything
		dst *mapping.Decimal
	}{{"scale", p.raw.Scale, &p.point.Scale}, {"offset", p.raw.Offset, &p.point.Offset}} {
		if !x.raw.set() {
			continue
		}
		d, ok := p.decimal(x.raw.at, x.key)
		switch {
		case !ok:
		case !p.numeric():
			p.errorKey(x.raw.at, "%s needs a number; point %q is %s", x.key, p.name, p.point.Type)
		case x.key == "scale" && d.Mant == 0:
			p.errorAt(x.raw.at, "scale is 0, which makes every value 0")
		default:
			*x.dst = d
		}
	}
}

func (p *pointBuilder) readUnit() {
	u := p.raw.Unit
	if !u.set() {
		return
	}
	p.point.Unit = u.V
	switch right, known := respell(u.V); {
	case right != "":
		p.warnAt(u.at, "the unit %q is usually written %q", u.V, right)
	case !known && u.V != "":
		p.warnAt(u.at, "the unit %q is not among those in docs/units.md, so that other programs may not know it%s", u.V, didYouMean(nearestUnit(u.V)))
	}
}

func (p *pointBuilder) readEnum() {
	e := p.raw.Enum
	if !e.set() {
		return
	}
	switch {
	case p.point.FromText:
		p.point.EnumText = make(map[string]string)
		for _, w := range e.V {
			p.point.EnumText[w.key] = w.value.V
		}
		return
	case !p.point.Type.Integer():
		p.errorKey(e.at, "enum names whole numbers; point %q is %s", p.name, p.point.Type)
	case p.raw.Scale.set() || p.raw.Offset.set():
		p.errorKey(e.at, "point %q has both enum and scale or offset; a name has no scale", p.name)
	}
	p.point.Enum = make(map[int64]string)
	names := make(map[string]string)
	for _, w := range e.V {
		k, err := strconv.ParseInt(w.key, 0, 64)
		if err != nil {
			p.errorKey(w.value.at, "%q is no whole number; an enum gives numbers names: { 0 = \"off\" }", w.key)
			continue
		}
		if other, twice := names[w.value.V]; twice && p.raw.Write.set() {
			p.errorAt(w.value.at, "both %s and %s are %q, so that a write could mean either", other, w.key, w.value.V)
		}
		names[w.value.V] = w.key
		p.point.Enum[k] = w.value.V
	}
}

func (p *pointBuilder) readBits() {
	bits := p.raw.Bits
	if !bits.set() {
		return
	}
	switch {
	case p.raw.Enum.set():
		p.errorKey(bits.at, "point %q has both enum and bits; keep one", p.name)
	case !p.point.Type.Integer() || p.point.FromText:
		p.errorKey(bits.at, "bits are those of a whole number; point %q is %s", p.name, p.point.Type)
		return
	}
	width := p.point.Width()
	p.point.Bits = make(map[int]string)
	for _, w := range bits.V {
		k, err := strconv.Atoi(w.key)
		if err != nil || k < 0 || k >= width {
			p.errorKey(w.value.at, "%q is no bit of %s; they are 0 to %d, 0 the least significant", w.key, p.point.Type, width-1)
			continue
		}
		if slices.Contains(slices.Collect(maps.Values(p.point.Bits)), w.value.V) {
			p.errorAt(w.value.at, "two bits are called %q", w.value.V)
		}
		p.point.Bits[k] = w.value.V
	}
}
