package mapping

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"edgegateway/broker"
	"edgegateway/devices"
)

// A Template is the text of a message in the language of Go's text/template.
//
// Fields: .Name .Device .Bus .UnitID .Tags, and of a point .Point .Unit .Value
// .Number .Good .Error .Samples .Bad; those of a device's points are in
// .Points. Functions: json, lower, upper, replace, and those of the language.
//
// Time does not come as a field, for a message that waits until the clock is
// right has its times written again: {{time}} {{unix}} {{unix_ms}} {{unix_ns}}
// and {{clock}} leave a slot where they stand. For that they have to stand
// alone, and nothing can be done with what they write.
//
// A template cannot run away: it has no templates within, ranges over nothing
// but .Points and .Tags and not within another range, and writes no more than
// 64 KiB.
type Template struct {
	text string
	tree *template.Template
}

// maxTemplate is the longest payload of a template, bytes.
const maxTemplate = 64 << 10

// templateSlots are the functions that leave a slot.
var templateSlots = map[string]broker.SlotKind{
	"time": broker.SlotTime, "unix": broker.SlotUnixSec, "unix_ms": broker.SlotUnixMilli, "unix_ns": broker.SlotUnixNano, "clock": broker.SlotClock,
}

// A TemplateError says what is wrong with a template, and where.
type TemplateError struct {
	Start, End int // bytes of its text
	Message    string
}

func (e *TemplateError) Error() string { return e.Message }

// templatePoint is what a template sees of a point.
type templatePoint struct {
	Point, Unit  string
	Value        Value   // prints as it is; null without one
	Number       float64 // to compare and to format; 0 without one
	Good         bool
	Error        string
	Samples, Bad int // of a window
}

// templateData is what a template sees, by what its table is per.
type templateData struct {
	Name, Device, Bus, UnitID string
	Tags                      map[string]string
	templatePoint
}

type templateDevice struct {
	Name, Device, Bus, UnitID string
	Tags                      map[string]string
	Points                    []templatePoint
}

var templateFuncs = template.FuncMap{
	"json": templateJSON, "lower": strings.ToLower, "upper": strings.ToUpper,
	"replace": func(old, new, s string) string { return strings.ReplaceAll(s, old, new) },
}

func templateJSON(v any) (string, error) {
	switch v := v.(type) {
	case Value:
		return string(v.AppendJSON(nil)), nil
	case string:
		return string(appendString(nil, v)), nil
	case bool, int, float64, map[string]string:
		text, err := json.Marshal(v)
		return string(text), err
	}
	return "", errors.New("json takes a value, a text, a number, true or false, or .Tags")
}

// ParseTemplate reads the text of a template for a table that is per "point"
// or "device". Its error is a *TemplateError.
func ParseTemplate(text, per string) (*Template, error) {
	funcs := template.FuncMap{}
	for name := range templateSlots {
		funcs[name] = func() string { return "" }
	}
	tree, err := template.New("payload").Funcs(templateFuncs).Funcs(funcs).Parse(text)
	if err != nil {
		return nil, templateError(text, err, nil)
	}
	if strings.TrimSpace(text) == "" || len(tree.Templates()) > 1 || tree.Tree == nil {
		return nil, &TemplateError{0, len(text), "a template that is empty or defines others; write one text"}
	}
	check := templateCheck{text: text}
	check.list(tree.Tree.Root, false)
	if check.err != nil {
		return nil, check.err
	}
	t := &Template{text, tree}
	for _, v := range []Value{{}, IntValue(1), StringValue("a"), BoolValue(true)} { // what differs between devices is tried for each of them
		if err := t.try(per, v); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// try executes t once with a value.
func (t *Template) try(per string, v Value) error {
	var o composer
	w := templateWriter{composer: &o}
	p := newTemplatePoint(&Point{Point: &devices.Point{Name: "point"}}, &output{Current: &Current{Value: v}})
	var data any = &templateData{templatePoint: p}
	if per == "device" {
		data = &templateDevice{Points: []templatePoint{p}}
	}
	if err := t.tree.Execute(&w, data); err != nil {
		return templateError(t.text, err, data)
	}
	return nil
}

func newTemplatePoint(p *Point, out *output) templatePoint {
	number, _ := out.Value.Float64()
	return templatePoint{
		Point: p.Name, Unit: p.Unit, Value: out.Value, Number: number,
		Good: out.Cause == "", Error: out.Cause, Samples: out.samples, Bad: out.bad,
	}
}

// templateCheck walks a template and keeps the first thing that it may not do.
type templateCheck struct {
	text string
	err  *TemplateError
}

func (c *templateCheck) refuse(n parse.Node, format string, args ...any) {
	if c.err == nil {
		start := min(int(n.Position()), len(c.text))
		c.err = &TemplateError{start, min(start+max(len(n.String()), 1), len(c.text)), fmt.Sprintf(format, args...)}
	}
}

func (c *templateCheck) list(l *parse.ListNode, ranging bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			if !standsAlone(n.Pipe) {
				c.pipe(n.Pipe)
			}
		case *parse.IfNode:
			c.branch(&n.BranchNode, ranging)
		case *parse.WithNode:
			c.branch(&n.BranchNode, ranging)
		case *parse.RangeNode:
			if ranging {
				c.refuse(n, "a range within a range")
			}
			if !rangesOver(n.Pipe) {
				c.refuse(n.Pipe, "range goes over .Points and .Tags only, not %s", n.Pipe)
			}
			c.branch(&n.BranchNode, true)
		case *parse.TemplateNode:
			c.refuse(n, "a template cannot use others")
		}
	}
}

func (c *templateCheck) branch(b *parse.BranchNode, ranging bool) {
	c.pipe(b.Pipe)
	c.list(b.List, ranging)
	c.list(b.ElseList, ranging)
}

// standsAlone reports whether p is {{time}} or one of its kin and nothing more.
func standsAlone(p *parse.PipeNode) bool {
	if len(p.Decl) > 0 || len(p.Cmds) != 1 || len(p.Cmds[0].Args) != 1 {
		return false
	}
	id, ok := p.Cmds[0].Args[0].(*parse.IdentifierNode)
	return ok && templateSlots[id.Ident] != 0
}

// pipe refuses times that do not stand alone.
func (c *templateCheck) pipe(p *parse.PipeNode) {
	for _, cmd := range p.Cmds {
		for _, arg := range cmd.Args {
			switch n := arg.(type) {
			case *parse.IdentifierNode:
				if templateSlots[n.Ident] != 0 {
					c.refuse(n, "%s must stand alone, as {{%s}}: what it writes may be written again when the clock is set", n.Ident, n.Ident)
				}
			case *parse.PipeNode:
				c.pipe(n)
			case *parse.ChainNode:
				if inner, ok := n.Node.(*parse.PipeNode); ok {
					c.pipe(inner)
				}
			}
		}
	}
}

func rangesOver(p *parse.PipeNode) bool {
	if len(p.Cmds) != 1 || len(p.Cmds[0].Args) != 1 {
		return false
	}
	var path []string
	switch n := p.Cmds[0].Args[0].(type) {
	case *parse.FieldNode:
		path = n.Ident
	case *parse.VariableNode: // $.Points
		path = n.Ident[1:]
	}
	return len(path) == 1 && (path[0] == "Points" || path[0] == "Tags")
}

var templatePlace = regexp.MustCompile(`(?s)^template: payload:(\d+)(?::(\d+))?: (.*)$`)

// templateError turns an error of text/template into one of ours; data is what
// it was executed with, nil for an error of parsing.
func templateError(text string, err error, data any) *TemplateError {
	m := templatePlace.FindStringSubmatch(err.Error())
	if m == nil {
		return &TemplateError{0, len(text), err.Error()}
	}
	e := &TemplateError{Message: m[3]}
	line, _ := strconv.Atoi(m[1])
	for i, l := range slices.Collect(strings.Lines(text)) {
		if i+1 < line {
			e.Start += len(l)
		} else if i+1 == line {
			e.End = e.Start + len(strings.TrimRight(l, "\r\n"))
		}
	}
	if column, err := strconv.Atoi(m[2]); err == nil {
		e.Start = min(e.Start+column, len(text)) // counted in bytes, from 0
	}
	e.End = max(e.End, e.Start)
	if _, rest, ok := strings.Cut(e.Message, "at <"); ok && data != nil {
		if what, why, ok := strings.Cut(rest, ">: "); ok {
			e.End, e.Message = min(e.Start+len(what), len(text)), what+": "+why
		}
	}
	if before, key, ok := strings.Cut(e.Message, "map has no entry for key "); ok {
		e.Message = before + "there is no tag " + key
	}
	if _, field, ok := strings.Cut(e.Message, "can't evaluate field "); ok {
		field, _, _ = strings.Cut(field, " ")
		e.Message = fmt.Sprintf("there is no .%s here; there is .Name .Device .Bus .UnitID .Tags, and of a point .Point .Unit .Value .Number .Good .Error .Samples .Bad, which those in .Points of a device have", field)
	}
	return e
}

// A templateWriter lets a template write its payload into a composer.
type templateWriter struct {
	*composer
	at devices.Stamp
}

func (w *templateWriter) Write(b []byte) (int, error) {
	if len(w.buf)-w.start+len(b) > maxTemplate {
		return 0, fmt.Errorf("the payload is longer than %d bytes", maxTemplate)
	}
	w.buf = append(w.buf, b...)
	return len(b), nil
}

// place notes a slot where the template has come to, and returns what it will
// write there.
func (w *templateWriter) place(kind broker.SlotKind) string {
	text := broker.AppendSlot(nil, kind, int64(w.at), w.clock)
	w.slots = append(w.slots, broker.Slot{Kind: kind, At: len(w.buf) - w.start, Len: len(text)})
	return string(text)
}

// bind returns a copy of t that writes with w.
func (t *Template) bind(w *templateWriter) (*template.Template, error) {
	bound, err := t.tree.Clone()
	if err != nil {
		return nil, err
	}
	funcs := template.FuncMap{}
	for name, kind := range templateSlots {
		funcs[name] = func() string { return w.place(kind) }
	}
	return bound.Funcs(funcs).Option("missingkey=error"), nil
}

// writeTemplate writes what t's template makes of a point, or with p nil of a
// device's cycle. It returns false, and has written nothing, if that is empty
// or failed, which Trouble tells.
func (m *Mapper) writeTemplate(t *table, d *deviceState, p *pointState, at devices.Stamp) bool {
	t.writer.at = at
	err := t.template.Execute(&t.writer, m.templateData(t, d, p))
	if err != nil {
		m.out.drop()
		if !t.failed {
			t.failed = true
			m.trouble = fmt.Errorf("publish %s: the template fails for device %s: %w", t.Name, d.ID, err)
		}
	}
	return err == nil && len(m.out.buf) > m.out.start
}

func (m *Mapper) templateData(t *table, d *deviceState, p *pointState) any {
	if p != nil {
		return &templateData{m.gateway, d.Name, d.Bus, unitID(d.Device), d.Tags, newTemplatePoint(p.Point, &p.out)}
	}
	data := &templateDevice{m.gateway, d.Name, d.Bus, unitID(d.Device), d.Tags, nil}
	for _, p := range d.points {
		if p.tells(m.cycle) {
			data.Points = append(data.Points, newTemplatePoint(p.Point, &p.out))
		}
	}
	return data
}

// tryTemplate executes t's template as it will be for a device and, if the
// table is per point, each of its points.
func (m *Mapper) tryTemplate(t *table, d *deviceState) error {
	var o composer
	w := t.writer
	defer func() { t.writer = w }()
	t.writer.composer = &o
	for _, p := range d.points {
		var data any = &templateData{m.gateway, d.Name, d.Bus, unitID(d.Device), d.Tags, newTemplatePoint(p.Point, &output{Current: exampleOf(p.Point)})}
		if t.Per == "device" {
			data = &templateDevice{m.gateway, d.Name, d.Bus, unitID(d.Device), d.Tags, []templatePoint{newTemplatePoint(p.Point, &output{Current: exampleOf(p.Point)})}}
		}
		if err := t.template.Execute(&t.writer, data); err != nil {
			return fmt.Errorf("publish %s: %s: %s", t.Name, place(d.Device, p.Point), templateError(t.Template.text, err, data).Message)
		}
		o.reset(broker.Clock{})
	}
	return nil
}

// exampleOf is a reading of p with all its registers 0, or a result of 0.
func exampleOf(p *Point) *Current {
	if p.Program != nil {
		return &Current{Point: p, Value: FloatValue(0), At: 1}
	}
	c := current(p, &devices.Reading{Point: p.Point, Raw: make([]byte, p.RawLen()), At: 1}, nil)
	return &c
}

// Trouble returns what went wrong since the last call, nil if nothing. Each
// table tells once.
func (m *Mapper) Trouble() error {
	err := m.trouble
	m.trouble = nil
	return err
}
