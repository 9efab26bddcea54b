package config

import (
	"math"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
)

// maxBases bounds the places where the marker of one device is looked for.
const maxBases = 8

// sunSpec reads where the marker of a device's SunSpec models may be; nil is
// where the specification says.
func (l *loader) sunSpec(d *deviceBuilder) *modbus.SunSpec {
	n := d.raw.SunSpec.at
	if n == nil {
		return nil
	}
	var bases []uint16
	list := d.raw.SunSpec.list()
	for _, one := range list {
		switch v, ok := one.value.(int64); {
		case !ok:
			l.errorAt(one, "sunspec is %s; it lists addresses at which the marker of the models may be: [40000, 0, 50000]", one.kind())
			return nil
		case v < 0 || v > math.MaxUint16-3:
			l.errorAt(one, "%d is no address for SunSpec's marker: it is 0 to %d", v, math.MaxUint16-3)
		default:
			bases = append(bases, uint16(v))
		}
	}
	if len(list) == 0 || len(list) > maxBases {
		l.errorAt(n, "sunspec lists 1 to %d addresses at which the marker of the models may be: [40000, 0, 50000]", maxBases)
	}
	if len(bases) == 0 {
		return nil
	}
	return &modbus.SunSpec{Bases: bases}
}

// readModel reads in which model a point is, and where in it.
func (p *pointBuilder) readModel(n *node) bool {
	r := p.raw
	e, ok := p.parseModels(n)
	if r.Bit.set() {
		p.errorKey(r.Bit.at, "bit is of registers with an address; in a model, mask = 0x0004 makes one bit a number, and bits names them")
		ok = false
	}
	if !r.At.set() {
		if n := r.At.at; n == nil {
			p.errorKey(r.at, "point %q needs at = N, its place in the model: the offset in the tables of SunSpec, where the model's id is 0", p.name)
		}
		return false
	}
	ok = r.At.within(p.binder, 2, math.MaxUint16, "at, counted from the model's id, which is 0 as its length is 1,") && ok
	ok = r.Instance.within(p.binder, 1, math.MaxUint8, "instance, 1 the first such model,") && ok
	if r.Write.set() && r.Write.at.value != false {
		p.errorKey(r.Write.at, "a point in a model can only be read; give it its address (`gateway read` shows it) with holding = N to write it")
		ok = false
	}
	if !ok {
		return false
	}
	p.model = &modbus.ModelRegister{Models: e, Instance: uint8(r.Instance.V), At: uint16(r.At.V)}
	p.register.Table = modbus.Holding
	return p.readModelFactor(r.ScaleFactor.at)
}

// parseModels reads 160, or "101|102|103".
func (p *pointBuilder) parseModels(n *node) (e modbus.Either, ok bool) {
	var err error
	switch v := n.value.(type) {
	case int64:
		if v < 1 || v >= math.MaxUint16 {
			p.errorAt(n, "%d is no SunSpec model; they are 1 to %d", v, math.MaxUint16-1)
			return e, false
		}
		return modbus.Either{uint16(v)}, true
	case string:
		e, err = modbus.ParseModels(v)
	default:
		p.errorAt(n, "model is %s; it is a number, or several models that are alike: \"101|102|103\"", n.kind())
		return e, false
	}
	if err != nil {
		p.errorAt(n, "%v", err)
	}
	return e, err == nil
}

// readModelFactor reads where in the model the point's exponent is.
func (p *pointBuilder) readModelFactor(n *node) bool {
	if n == nil {
		return true
	}
	v, ok := n.value.(int64)
	if !ok || v < 2 || v > math.MaxUint16 {
		p.errorAt(n, "in a model, scale_factor is the offset of the register that holds the exponent, counted as at is, from 2 on")
		return false
	}
	p.model.Factor = uint16(v)
	return true
}

// refuseModelKeys reports what only a point in a model has.
func (p *pointBuilder) refuseModelKeys() {
	for _, k := range []integer{p.raw.At, p.raw.Instance} {
		if k.at != nil {
			p.errorKey(k.at, "%s belongs to model = N, a model of a SunSpec device", k.at.keyText())
		}
	}
}

// modelSource returns where the point is, checked for what one request can
// read.
func (p *pointBuilder) modelSource() devices.Source {
	m := *p.model
	m.Count = uint16(p.point.RawLen() / 2)
	if u, ok := p.dev.Unit.(modbus.Unit); ok {
		if err := m.Check(u); err != nil {
			p.errorKey(p.raw.at, "point %q: %v", p.name, err)
		}
	}
	return m
}
