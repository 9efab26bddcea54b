package simulator

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// A talker is one line that a device sends by itself, again and again. Its
// device's unit locks it.
type talker struct {
	unit    *unit
	dev     *device
	framing serial.Framing
	nmea    bool
	name    string   // of the sentence, as the map has it
	points  []*point // in the line
	fields  []filler // by index, from 0
	every   time.Duration
	due     time.Time
}

// A filler gives the text of one field: of a point, or of what stands beside
// it.
type filler struct {
	point *point
	law   law // of a field that is no point but a quantity
	scale scale
	text  string // of a field that is always the same
	key   string // written before it: key=
}

// newTalkers returns the lines of a unit's device: one for each sentence that
// its points name, or the one message of another framing.
func newTalkers(u *unit, dev *device, framing serial.Framing) ([]*talker, error) {
	var talkers []*talker
	lines, _ := framing.(serial.Lines)
	for _, p := range dev.points {
		err := framing.CheckSource(p.Source)
		f, _ := p.Source.(serial.Field)
		if err == nil && f.Index > 80 {
			err = fmt.Errorf("a line of %d fields is too long", f.Index)
		}
		if err != nil {
			return nil, fmt.Errorf("device %s, point %s: %w", p.device, p.Name, err)
		}
		p.owner = true
		at := slices.IndexFunc(talkers, func(t *talker) bool { return t.name == f.Sentence })
		if at < 0 {
			at = len(talkers)
			talkers = append(talkers, &talker{unit: u, dev: dev, framing: framing, nmea: lines.Checksum == "nmea", name: f.Sentence})
		}
		talkers[at].points = append(talkers[at].points, p)
	}
	for _, t := range talkers {
		t.lay()
	}
	return talkers, nil
}

// lay decides what stands in each field, and how often the line is sent.
func (t *talker) lay() {
	_, form := splitTag(t.name)
	if f, ok := forms[form]; ok && t.nmea {
		for _, what := range strings.Split(f.fields, ",") {
			t.fields = append(t.fields, t.filler(what))
		}
	}
	for _, p := range t.points {
		f, _ := p.Source.(serial.Field)
		p.seed = hash(t.seed(), string(rune('0'+p.scale.quantity)))
		for len(t.fields) < f.Index {
			t.fields = append(t.fields, filler{})
		}
		if p.Every > 0 && (t.every == 0 || p.Every < t.every) {
			t.every = p.Every
		}
		if f.Key != "" {
			t.fields = append(t.fields, filler{point: p, key: f.Key})
		}
		if f.Key != "" || f.Index == 0 {
			continue
		}
		t.fields[f.Index-1] = filler{point: p, text: t.fields[f.Index-1].text}
	}
	t.every = cmp.Or(t.every, time.Second)
	t.letter()
}

// seed makes what one sentence says in several units one thing.
func (t *talker) seed() uint64 { return hash(t.unit.seed, t.dev.ID, t.name) }

// filler reads one field of a form.
func (t *talker) filler(what string) filler {
	unit, isUnit := strings.CutPrefix(what, "@")
	if !isUnit || unit == "unit" {
		return filler{text: what}
	}
	s := unitScales[strings.ToLower(unit)]
	return filler{law: measure(hash(t.seed(), string(rune('0'+s.quantity))), nil, s.quantity), scale: s}
}

// letter writes the letter of a unit behind the field that is in it.
func (t *talker) letter() {
	for i := range t.fields {
		if t.fields[i].text != "@unit" {
			continue
		}
		t.fields[i].text = "N"
		if before := t.fields[i-1].point; before != nil {
			t.fields[i].text = cmp.Or(speedLetters[strings.ToLower(before.Unit)], "N")
		}
	}
}

// line returns what is sent at now.
func (t *talker) line(now float64) []byte {
	t.dev.move(now)
	lines, isLines := t.framing.(serial.Lines)
	if !isLines {
		frame := t.frame()
		t.unit.remember(t.points)
		return frame
	}
	fields := make([]string, len(t.fields))
	for i, f := range t.fields {
		fields[i] = t.text(f)
	}
	t.unit.remember(t.points)
	if t.nmea {
		tag, _ := splitTag(cmp.Or(t.name, "PSIM"))
		return appendSentence(nil, tag, fields)
	}
	return t.plain(lines, fields)
}

// text returns what stands in a field.
func (t *talker) text(f filler) string {
	switch {
	case f.point != nil:
		f.point.text = []byte(t.pointText(f.point, f.text))
		return string(f.point.text)
	case f.law != nil:
		return fieldNumber(f.law.step(t.dev.process)*f.scale.per+f.scale.plus, f.scale.quantity)
	}
	return f.text
}

// pointText is what a point says; usual is what its field says as a rule.
func (t *talker) pointText(p *point, usual string) string {
	switch {
	case len(p.EnumText) > 0:
		if _, ok := p.EnumText[usual]; ok {
			return usual
		}
		return slices.Min(slices.Collect(maps.Keys(p.EnumText)))
	case !p.variable():
		return fieldText(cmp.Or(usual, p.device))
	case t.unit.check:
		p.advance()
		raw, _ := p.marked()
		return string(raw)
	}
	low, high := limits(p.raw)
	x := max(low, min(high, (p.number-p.off)/p.mul))
	if p.Type.Integer() || p.Type == mapping.Bool {
		return fmt.Sprintf("%.0f", x)
	}
	return fieldNumber(x, p.scale.quantity)
}

// talkers are all lines of a bus. They belong to the goroutine of its line.
type talkers []*talker

// wait is how long after now the next of them is due.
func (ts talkers) wait(now time.Time) time.Duration {
	wait := time.Second
	for _, t := range ts {
		wait = min(wait, t.due.Sub(now))
	}
	return max(wait, 0)
}

// due returns those that are due at now.
func (ts talkers) due(now time.Time) talkers {
	var due talkers
	for _, t := range ts {
		if now.Before(t.due) {
			continue
		}
		if t.due = t.due.Add(t.every); !t.due.After(now) {
			t.due = now.Add(t.every)
		}
		due = append(due, t)
	}
	return due
}

// say returns the line with its faults and how much later it comes, nil if it
// is not to be heard.
func (t *talker) say() ([]byte, time.Duration) {
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	fault := u.faulty.next(0)
	u.counter.Requests++
	if fault.bad() {
		u.counter.Faults++
	}
	if fault.Silent {
		return nil, 0
	}
	line := t.line(u.seconds())
	return u.faulty.spoilFrame(line, len(line), fault), fault.Latency
}

// send writes what the talker says.
func (t *talker) send(ctx context.Context, w io.Writer) error {
	line, delay := t.say()
	if line == nil || !devices.Sleep(ctx, delay) {
		return nil
	}
	_, err := w.Write(line)
	return err
}
