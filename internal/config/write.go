package config

import (
	"fmt"
	"math/big"
	"slices"

	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// readWrite reads `write = true` or `write = { min, max, step, verify, function }`.
func (p *pointBuilder) readWrite() {
	n := p.raw.Write.at
	if n == nil {
		return
	}
	if v, ok := n.value.(bool); ok && !v {
		return
	}
	if wrong := p.unwritable(); wrong != "" {
		p.errorKey(n, "%s", wrong)
		return
	}
	w := &mapping.Write{NoVerify: p.all}
	if v, ok := n.value.(bool); !ok || !v {
		if !n.isTable() {
			p.errorAt(n, "write is %s; it is true, or limits like { min = 0, max = 100 }", n.kind())
			return
		}
		p.readLimits(n, w)
	}
	p.point.Write = w
}

// commandKeys are the keys that a command in JSON has besides points.
var commandKeys = []string{"value", "id", "expires"}

// unwritable says why the point cannot be written, "" if it can.
func (p *pointBuilder) unwritable() string {
	switch {
	case p.sentence != "":
		return "a sentence cannot be written; it comes by itself"
	case p.framed:
		return "a frame cannot be written; it comes by itself"
	case p.queue != nil:
		return "a queue can only be read"
	case slices.Contains(commandKeys, p.name):
		return fmt.Sprintf("%q has a meaning of its own in commands; give a writable point another name", p.name)
	}
	return tableWrong(p.register.Table)
}

// tableWrong says why registers of a table cannot be written, "" if they can.
func tableWrong(t modbus.Table) string {
	switch t {
	case modbus.Input:
		return "input registers cannot be written; is it a holding register?"
	case modbus.Discrete:
		return "discrete inputs cannot be written; is it a coil?"
	}
	return ""
}

func (p *pointBuilder) readLimits(n *node, w *mapping.Write) {
	var raw rawWrite
	p.table(n, &raw, "write")
	p.readFunction(&raw, w)
	w.Each = raw.Coalesce.set() && !raw.Coalesce.V
	for _, x := range []struct {
		key string
		raw anything
		dst **mapping.Decimal
	}{{"min", raw.Min, &w.Min}, {"max", raw.Max, &w.Max}, {"step", raw.Step, &w.Step}} {
		if !x.raw.set() {
			continue
		}
		if !p.numeric() {
			p.errorKey(x.raw.at, "%s needs a number; point %q is %s", x.key, p.name, p.point.Type)
			continue
		}
		if d, ok := p.decimal(x.raw.at, x.key); ok {
			*x.dst = &d
		}
	}
	if w.Min != nil && w.Max != nil && compare(*w.Min, *w.Max) > 0 {
		p.errorAt(raw.Min.at, "min %s is above max %s", w.Min, w.Max)
		return
	}
	if w.Step != nil && w.Step.Mant <= 0 {
		p.errorAt(raw.Step.at, "step is %s; it must be above 0", w.Step)
	}
	p.checkLimit(raw.Min, w.Min)
	p.checkLimit(raw.Max, w.Max)
}

// readFunction reads how the point is written: with which function, and
// whether that is read back.
func (p *pointBuilder) readFunction(raw *rawWrite, w *mapping.Write) {
	if raw.Verify.set() {
		w.NoVerify = !raw.Verify.V
	}
	if p.all && !w.NoVerify {
		p.errorAt(raw.Verify.at, "unit_id 0 is a broadcast, which nobody answers, so that nothing can be read back")
	}
	f := raw.Function
	if !f.set() || !f.within(p.binder, 1, 127, "function") {
		return
	}
	source, fn := p.point.Source, byte(f.V)
	const writeAndRead, mask = 23, 22
	err := modbus.CheckFunction(source, fn)
	switch {
	case err != nil:
		p.errorAt(f.at, "%v", err)
	case fn == writeAndRead && p.all:
		p.errorAt(f.at, "function 23 reads back, and unit_id 0 is a broadcast, which nobody answers: 16 does")
	case fn == writeAndRead && w.NoVerify:
		p.errorAt(f.at, "function 23 reads back in the same request: leave verify out, or take 16")
	case p.bit != nil && p.all && fn != mask:
		p.errorAt(f.at, "function %d sets a bit after the register was read, and unit_id 0 is a broadcast, which nobody answers: 22 does", fn)
	case p.bit != nil:
		p.bit.Function = fn
		p.point.Point.Source = *p.bit
	default:
		p.point.Point.Source = modbus.Written{Register: p.register, Function: fn}
	}
}

// checkLimit reports a limit that the point's registers cannot hold.
func (p *pointBuilder) checkLimit(raw anything, limit *mapping.Decimal) {
	if limit == nil {
		return
	}
	bare := *p.point // without limits, so that only the type decides
	bare.Write, bare.Enum, bare.Bits = &mapping.Write{}, nil, nil
	if _, err := mapping.Encode(nil, &bare, mapping.DecimalValue(*limit)); err != nil {
		p.errorAt(raw.at, "%s cannot be written: %v", limit, err)
	}
}

// compare orders two decimals exactly.
func compare(a, b mapping.Decimal) int { return rational(a).Cmp(rational(b)) }

func rational(d mapping.Decimal) *big.Rat {
	r, _ := new(big.Rat).SetString(d.String())
	if r == nil {
		return new(big.Rat)
	}
	return r
}
