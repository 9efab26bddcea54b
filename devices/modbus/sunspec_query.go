package modbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"edgegateway/devices"
)

// A chainState is what a line remembers of a device's models besides where they
// are.
type chainState struct {
	broken    error     // why there are none, from a walk that was long
	again     time.Time // when the next such walk may be
	confirmed time.Time // when the end of the chain was last seen, for points that the device lacks
	moved     time.Time // when it was last told that it changed
	told      map[string]bool
}

// doModels reads points of models. Where these are is found first if it is not
// known; if they are not where they were they are found anew, once, and the
// points read there.
func (q *readQuery) doModels(ctx context.Context, b *devices.Batch) error {
	before := len(b.Readings)
	for again := false; ; again = true {
		if err := q.locate(ctx); err != nil {
			return q.failAll(b, err)
		}
		err := q.do(ctx, b)
		moved := errors.Is(err, errMoved)
		if moved {
			err = nil // the device answered
		}
		if again || !moved {
			return err
		}
		clear(b.Readings[before:])
		b.Readings = b.Readings[:before]
	}
}

// locate finds the registers of q's points if what is known of the device has
// changed.
func (q *readQuery) locate(ctx context.Context) error {
	if q.known.facts.Models == nil {
		if err := q.walk(ctx); err != nil {
			return err
		}
	}
	if q.version == q.known.version {
		return nil
	}
	q.version = q.known.version
	places, lacks, err := q.place(q.points)
	if err != nil {
		return err
	}
	q.declare(q.line)
	q.atoms, q.lacks = atomsOf(places), lacks
	q.known.tellLacking(lacks)
	q.spans = q.line.spans(q.scope, q.atoms)
	q.readable = false
	for _, s := range q.spans {
		if !q.readable && !q.known.illegal(&s) {
			q.reg, q.readable = s.reg, true
		}
	}
	return nil
}

// walk finds the device's models. A device whose chain turned out to be broken
// far from its beginning is asked for the beginning only, for a while.
func (q *readQuery) walk(ctx context.Context) error {
	c, asked := &q.known.chain, 0
	resting := time.Now().Before(c.again)
	models, err := WalkModels(q.unit.Bases(), func(r Register) ([]byte, error) {
		if asked++; resting && asked > len(q.unit.Bases()) {
			return nil, c.broken
		}
		a, err := q.line.ask(ctx, q.unit, readRequest(q.unit.ID, r))
		switch {
		case fromUnit(err):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return readRequest(q.unit.ID, r).appendRaw(nil, a.pdu), nil
	})
	switch {
	case q.known.facts.Models != nil: // another query has found them meanwhile
	case err == nil:
		q.known.found(models)
	case isSunSpec(err) && asked > len(q.unit.Bases())+1 && !resting:
		c.broken, c.again = err, time.Now().Add(brokenRest)
		fallthrough
	default:
		return err
	}
	return nil
}

// brokenRest is how long a chain that is broken is not walked again.
const brokenRest = time.Minute

func isSunSpec(err error) bool {
	_, ok := errors.AsType[*SunSpecError](err)
	return ok
}

// failAll fails all points, and returns err if the device did not answer.
func (q *readQuery) failAll(b *devices.Batch, err error) error {
	for _, p := range q.points {
		b.Fail(p, err, devices.Now())
	}
	if isSunSpec(err) || fromUnit(err) {
		return nil
	}
	return err
}

// found notes where the models are.
func (k *known) found(models []Model) {
	k.facts.Models = models
	k.chain.confirmed, k.chain.again = time.Now(), time.Time{}
	k.changed("")
}

// moved notes that a model is not where it was.
func (r *reading) moved() {
	r.lost = errMoved
	k := r.known
	if k.facts.Models == nil {
		return // another query noticed it first
	}
	k.facts = Facts{NoMask: k.facts.NoMask} // what was refused was somewhere else
	clear(k.refusals)
	news := ""
	if now := time.Now(); now.Sub(k.chain.moved) > illegalRetry {
		k.chain.moved, news = now, errMoved.Error()
	}
	k.changed(news)
}

// headed reports whether the models of s, whose registers are raw, are in their
// places. Where raw does not hold their heads they are asked for now: behind the
// registers, as what was asked for before them could have moved by then.
func (r *reading) headed(s *span, raw []byte) bool {
	var seen Model
	for p := range s.points() {
		m := p.model
		if m.ID == 0 || m == seen {
			continue
		}
		seen = m
		if h := m.head(); !rangeOf(h).within(s.reg) {
			if !r.ahead(m) {
				return false
			}
		} else if !m.headed(h.cutFrom(s.reg, raw)) {
			r.moved()
			return false
		}
	}
	return true
}

// inPlace reports whether the models of s, which was refused, are in their
// places: then it was refused for another reason.
func (r *reading) inPlace(s *span) bool {
	for p := range s.points() {
		if p.model.ID != 0 && !r.prove(p.model) {
			return false
		}
	}
	return true
}

// prove asks for id and length of m, once.
func (r *reading) prove(m Model) bool {
	if slices.Contains(r.proven, m) {
		return true
	}
	if !r.ahead(m) {
		return false
	}
	r.proven = append(r.proven, m)
	return true
}

// ahead asks for id and length of m.
func (r *reading) ahead(m Model) bool {
	a, err := r.request(m.head())
	switch {
	case r.lost != nil:
		return false
	case err != nil || !m.headed(readRequest(r.unit.ID, m.head()).appendRaw(nil, a.pdu)):
		r.moved()
		return false
	}
	return true
}

// failLacking fails the points that the device has no register for. Now and
// then, and where there is nothing else to ask for, the end of the chain is
// looked at: behind it may be new models.
func (r *reading) failLacking() {
	if len(r.lacks) == 0 {
		return
	}
	if r.lost == nil && (len(r.spans) == 0 || time.Since(r.known.chain.confirmed) > illegalRetry) {
		r.confirmEnd()
	}
	for _, one := range r.lacks {
		err := one.err
		if r.lost != nil {
			err = r.lost
		}
		r.batch.Fail(one.point, err, devices.Now())
	}
}

// confirmEnd asks for the register behind the last model.
func (r *reading) confirmEnd() {
	models := r.known.facts.Models
	if len(models) == 0 {
		return
	}
	end := Register{Table: Holding, Address: uint16(models[len(models)-1].end()), Count: 1}
	a, err := r.request(end)
	switch {
	case r.lost != nil:
	case err == nil && string(readRequest(r.unit.ID, end).appendRaw(nil, a.pdu)) != "\xFF\xFF":
		r.moved()
	default: // its end, or refused, as it was when it was walked
		r.known.chain.confirmed = time.Now()
	}
}

// tellLacking tells once of points that the device has no register for, together
// of those that lack for the same reason.
func (k *known) tellLacking(lacks []lacking) {
	var reasons []string
	names := map[string][]string{}
	for _, one := range lacks {
		if k.chain.told[one.point.Name] {
			continue
		}
		if k.chain.told == nil {
			k.chain.told = map[string]bool{}
		}
		k.chain.told[one.point.Name] = true
		reason := errors.Unwrap(one.err).Error() // without the device and point
		if names[reason] == nil {
			reasons = append(reasons, reason)
		}
		names[reason] = append(names[reason], one.point.Name)
	}
	if k.notebook == nil {
		return
	}
	for _, reason := range reasons {
		of, drop := names[reason], "points.NAME = false for each"
		if len(of) == 1 {
			drop = fmt.Sprintf("points.%q = false", of[0])
		}
		k.notebook.Learned(k.device, k.facts.clone(), fmt.Sprintf("the device has no register for %s: %s; if it never will, write %s", strings.Join(of, ", "), reason, drop))
	}
}

// Locate returns where points of dev are that lie in models, as far as that is
// known. Who may call Plan may call it.
func (l *Line) Locate(dev *devices.Device, points []*devices.Point) map[*devices.Point]Place {
	l.baton.take()
	defer l.baton.give()
	places := map[*devices.Point]Place{}
	for _, p := range points {
		if m, ok := p.Source.(ModelRegister); ok {
			if at, err := m.Place(l.knownOf(dev.ID).facts.Models); err == nil {
				places[p] = at
			}
		}
	}
	return places
}
