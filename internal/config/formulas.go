package config

import (
	"errors"
	"slices"
	"strings"

	"edgegateway/mapping"
)

// computedKeys are what a computed point can have besides its expression.
var computedKeys = []string{"compute", "unit", "range", "kind", "max_rate", "resets", "publish", "deadband", "max_age", "min_interval", "window", "aggregate", "homeassistant"}

// readFormulas makes the computed points, each behind those it uses.
func (d *deviceBuilder) readFormulas() {
	pending := slices.Clone(d.formulas)
	for progress := true; progress; {
		progress = false
		for _, p := range slices.Clone(pending) {
			program, err := mapping.Compile(p.raw.Compute.V, d.operands(nil))
			if err != nil {
				continue // it may use one that comes later
			}
			d.addComputed(p, program)
			pending = slices.DeleteFunc(pending, func(q *pointBuilder) bool { return q == p })
			progress = true
		}
	}
	d.reportPending(pending)
}

// reportPending says why expressions do not compile: each has a fault of its
// own, or uses one that has, or they need each other.
func (d *deviceBuilder) reportPending(pending []*pointBuilder) {
	faulty := make(map[string]bool)
	inputs := make(map[*pointBuilder][]string)
	for _, p := range pending {
		others := slices.DeleteFunc(slices.Clone(pending), func(q *pointBuilder) bool { return q == p })
		program, err := mapping.Compile(p.raw.Compute.V, d.operands(others))
		if e, ok := errors.AsType[*mapping.ExpressionError](err); ok {
			d.reportExpression(p, e)
			faulty[p.name] = true
			continue
		}
		inputs[p] = program.Inputs()
	}
	for n := -1; n != len(faulty); {
		n = len(faulty)
		for p, names := range inputs {
			if slices.ContainsFunc(names, func(name string) bool { return faulty[name] }) {
				faulty[p.name] = true
			}
		}
	}
	for _, p := range pending {
		if !faulty[p.name] {
			d.errorKey(p.raw.at, "point %q is computed in a circle, by way of %s", p.name, strings.Join(inputs[p], ", "))
		}
	}
}

// operands are the points that an expression may use: those that are known,
// and something for each of more.
func (d *deviceBuilder) operands(more []*pointBuilder) []*mapping.Point {
	var list []*mapping.Point
	for _, p := range append(slices.Clone(d.dev.Points), d.dev.Computed...) {
		if !p.Hidden {
			list = append(list, p)
		}
	}
	for _, p := range more {
		stand := mapping.NewComputed(p.name, nil)
		stand.Type, stand.Kind = mapping.F64, mapping.Counter
		list = append(list, stand)
	}
	return list
}

func (d *deviceBuilder) addComputed(p *pointBuilder, program *mapping.Program) {
	for _, key := range p.raw.at.order {
		if !slices.Contains(computedKeys, key) && slices.Contains(keysOf[rawPoint](), key) {
			d.errorKey(p.raw.at.child(key), "point %q is computed, so that it has no %s; it may have %s", p.name, key, strings.Join(computedKeys[1:], ", "))
		}
	}
	p.point = mapping.NewComputed(p.name, program)
	p.readUnit()
	p.readKind()
	p.readPolicy()
	p.readRange()
	p.readHint()
	d.dev.Computed = append(d.dev.Computed, p.point)
	d.at[p.point.Point] = p.raw.at
}

// reportExpression shows where in the expression a fault is, unless it is
// written with escapes or came from elsewhere.
func (d *deviceBuilder) reportExpression(p *pointBuilder, e *mapping.ExpressionError) {
	n := p.raw.Compute.at
	at := n.val
	if begin := strings.Index(n.written(), p.raw.Compute.V); begin >= 0 && !p.raw.Compute.isRef {
		at = span{n.val.start + begin + e.At, n.val.start + begin + e.End}
	}
	hint := ""
	if e.Unknown != "" {
		names := []string{"abs", "min", "max", "round", "floor", "ceil", "sqrt", "hysteresis", "rate", "daily", "hourly", "last_day", "last_hour"}
		for _, q := range d.operands(nil) {
			names = append(names, q.Name)
		}
		hint = didYouMean(nearest(e.Unknown, names))
	}
	d.report(Error, n, at, "compute: %s%s", e.Message, hint)
}
