package config

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"edgegateway/broker"
	"edgegateway/mapping"
)

// readPublish reads the [publish] tables; without any there are the usual two.
func (l *loader) readPublish(raw tables[rawPublish]) {
	l.cfg.Publish = mapping.DefaultPublish()
	if len(raw.V) > 0 {
		l.cfg.Publish = nil
	}
	for _, e := range raw.V {
		l.cfg.Publish = append(l.cfg.Publish, l.readPublishTable(e.key, e.value))
	}
	if l.Errors() > 0 {
		return // the mapper would speak of faults that are reported already
	}
	for i, e := range raw.V {
		at := e.at
		if e.value.Topic.set() {
			at = e.value.Topic.at
		}
		l.checkMapping(l.cfg.Publish[i:i+1], at)
	}
	if l.Errors() == 0 {
		l.checkMapping(l.cfg.Publish, raw.at)
	}
}

func (l *loader) readPublishTable(key string, raw *rawPublish) mapping.Publish {
	p := mapping.Publish{Name: key, Retain: raw.Retain.V, QoS: 1}
	p.Per = l.choice(raw.Per, "point", "point", "device")
	p.Format = l.choice(raw.Format, "json", mapping.Formats...)
	if p.Per == "device" && p.Format == "value" {
		l.errorAt(raw.Format.at, `a bare value is of one point: per = "point", or format = "json"`)
	}
	p.Topic = mapping.DefaultPublish()[0].Topic
	if p.Per == "device" {
		p.Topic = mapping.DefaultPublish()[1].Topic
	}
	if raw.Topic.set() {
		p.Topic = raw.Topic.V
		l.checkTopic(raw.Topic, p.Per)
	}
	if raw.QoS.set() {
		p.QoS = byte(raw.QoS.V)
		raw.QoS.within(l.binder, 0, 1, "qos")
	}
	if !raw.Retain.set() {
		p.Retain = p.Per == "point"
	}
	if l.choice(raw.Class, "telemetry", "telemetry", "critical") == "critical" {
		p.Class = broker.Critical
	}
	for _, t := range raw.Devices.V {
		p.Devices = append(p.Devices, t.V)
		l.checkPattern(t)
	}
	l.readFormat(&p, raw)
	return p
}

// readFormat reads the keys that belong to one format only.
func (l *loader) readFormat(p *mapping.Publish, raw *rawPublish) {
	for _, k := range []struct {
		key     string
		at      *node
		formats []string
	}{
		{"template", raw.Template.at, []string{"template"}},
		{"time", raw.Time.at, []string{"json"}},
		{"id", raw.ID.at, []string{"json"}},
		{"integers", raw.Integers.at, []string{"json", "influx"}},
		{"measurement", raw.Measurement.at, []string{"influx"}},
		{"tags", raw.Tags.at, []string{"influx"}},
		{"base_name", raw.BaseName.at, []string{"senml"}},
	} {
		if k.at != nil && !slices.Contains(k.formats, p.Format) {
			l.errorKey(k.at, "%s belongs to format = %q; this table has %q", k.key, strings.Join(k.formats, `" or "`), p.Format)
			return
		}
	}
	p.ID = raw.ID.V
	switch p.Format {
	case "json":
		p.Time = l.choice(raw.Time, "", "rfc3339", "unix", "unix_ms")
		p.Integers = l.choice(raw.Integers, "", "number", "string")
	case "influx":
		p.Integers = l.choice(raw.Integers, "", "integer", "float")
		p.Measurement = l.placeIn(raw.Measurement, p.Per)
		for _, w := range raw.Tags.V {
			if p.Tags == nil {
				p.Tags = make(map[string]string)
			}
			p.Tags[w.key] = l.placeIn(w.value, p.Per)
		}
		if raw.Tags.set() && p.Tags == nil {
			p.Tags = map[string]string{} // none wanted
		}
	case "senml":
		p.BaseName = l.placeIn(raw.BaseName, p.Per)
	case "template":
		l.readTemplate(p, raw)
	}
}

// placeIn returns a text with placeholders after a look at these.
func (l *loader) placeIn(t text, per string) string {
	if t.set() {
		if _, wrong := fill(t.V, l.placeholders(per)); wrong != "" {
			l.errorAt(t.at, "%s", wrong)
		}
	}
	return t.V
}

func (l *loader) readTemplate(p *mapping.Publish, raw *rawPublish) {
	if !raw.Template.set() {
		l.errorKey(raw.at, `format = "template" needs a template = '{"v":{{json .Value}},"t":{{unix_ms}}}'`)
		return
	}
	t, err := mapping.ParseTemplate(raw.Template.V, p.Per)
	if err == nil {
		p.Template = t
		return
	}
	at := *raw.Template.at
	if e, ok := errors.AsType[*mapping.TemplateError](err); ok {
		at.val = at.inside(e.Start, e.End)
	}
	l.errorAt(&at, "template: %v", err)
}

// checkPattern looks at a pattern of devices: one that means none is likely
// a typing error.
func (l *loader) checkPattern(t text) {
	if _, err := path.Match(t.V, ""); err != nil {
		l.errorAt(t.at, "%q is no pattern of device names: %v", t.V, err)
		return
	}
	var names []string
	for _, d := range l.cfg.Devices {
		byKey, _ := path.Match(t.V, d.ID)
		byName, _ := path.Match(t.V, d.Name)
		if byKey || byName {
			return
		}
		names = append(names, d.ID)
	}
	if !l.incomplete {
		l.warnAt(t.at, "no device is called %q%s", t.V, didYouMean(nearest(t.V, names)))
	}
}

// checkMapping lets the mapper say what is wrong with publish tables on all
// devices, such as two values with the same topic. at is nil without tables.
func (l *loader) checkMapping(tables []mapping.Publish, at *node) {
	cfg := l.cfg.Mapping()
	cfg.Publish = tables
	_, err := mapping.New(cfg)
	if err == nil {
		return
	}
	first, more, _ := strings.Cut(err.Error(), "\n")
	if more != "" {
		first = fmt.Sprintf("%s (and %d more of the kind)", first, strings.Count(more, "\n")+1)
	}
	if at == nil {
		l.add(Error, nil, span{}, "%s", first)
		return
	}
	l.errorKey(at, "%s", first)
}

// placeholderNames are the placeholders that every device fills.
var placeholderNames = []string{"name", "device", "bus", "unit_id", "point", "unit"}

// placeholders are those that a template of a topic may have.
func (l *loader) placeholders(per string) map[string]string {
	vars := map[string]string{"name": "x", "device": "x", "bus": "x", "unit_id": "x"}
	if per == "point" {
		vars["point"], vars["unit"] = "x", "x"
	}
	for _, d := range l.cfg.Devices {
		for k := range d.Tags {
			vars[k] = "x"
		}
	}
	return vars
}

// checkTopic finds placeholders that no device can fill.
func (l *loader) checkTopic(t text, per string) {
	filled, wrong := fill(t.V, l.placeholders(per))
	if wrong == "" {
		if err := broker.ValidTopic(filled); err != nil {
			wrong = err.Error()
		}
	}
	if wrong != "" {
		l.errorAt(t.at, "%s", wrong)
	}
}
