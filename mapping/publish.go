package mapping

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"
	"unicode/utf8"

	"edgegateway/broker"
)

// A Publish says which messages readings become. Its words are those of a
// [publish.NAME] table.
type Publish struct {
	Name    string // table key, for errors
	Per     string // "point" or "device"
	Topic   string // with {name} {device} {point} {unit_id} {unit} {bus} and the device's tags
	Format  string // one of Formats
	QoS     byte   // 0 or 1
	Retain  bool
	Class   broker.Class
	Devices []string // patterns (path.Match) of device ids or names; none: all

	Time        string            // of json: "rfc3339" (as without it), "unix" or "unix_ms"
	Integers    string            // of json: "number" (as without it), or "string" for those beyond 2^53; of influx: "integer" (as without it) or "float"
	ID          bool              // of json: has a bridge put the message's id into the payload
	Template    *Template         // of template
	Measurement string            // of influx: as Topic; "": {name}
	Tags        map[string]string // of influx: names and templates; nil: device and the device's tags
	BaseName    string            // of senml: as Topic; "": {name}/{device}/
}

// Formats lists the formats in the order in which people think of them.
//
//	json      an object
//	value     the bare value of a point, empty while there is none
//	template  what a Go template says
//	influx    InfluxDB line protocol
//	senml     SenML (RFC 8428) as JSON
var Formats = []string{"json", "value", "template", "influx", "senml"}

// A formatKind is a place in Formats.
type formatKind int

const (
	formatJSON formatKind = iota
	formatValue
	formatTemplate
	formatInflux
	formatSenML
)

// A table is a Publish that is ready to be worked with.
type table struct {
	Publish
	kind     formatKind
	slot     broker.SlotKind // of times in json
	quoteBig bool
	template *template.Template // bound to writer
	writer   templateWriter
	failed   bool // the template did, and Trouble was told
}

// timeSlots are the values of Publish.Time.
var timeSlots = map[string]broker.SlotKind{
	"": broker.SlotTime, "rfc3339": broker.SlotTime, "unix": broker.SlotUnixSec, "unix_ms": broker.SlotUnixMilli,
}

// ready makes a table of p for m.
func (m *Mapper) ready(p Publish) (*table, error) {
	t := &table{Publish: p, kind: formatKind(slices.Index(Formats, p.Format)), slot: timeSlots[p.Time], quoteBig: p.Integers == "string"}
	if t.kind != formatTemplate {
		return t, nil
	}
	t.writer.composer = &m.out
	bound, err := p.Template.bind(&t.writer)
	t.template = bound
	return t, err
}

// A route is where a point or device goes by one table, and how its payload
// begins there.
type route struct {
	topic string // "": nowhere
	head  string // of influx and senml
}

// DefaultPublish returns what holds without any publish table: each value
// retained on its own topic, and an object per device and cycle.
func DefaultPublish() []Publish {
	return []Publish{
		{Name: "point", Per: "point", Topic: "{name}/{device}/{point}", Format: "json", QoS: 1, Retain: true},
		{Name: "device", Per: "device", Topic: "{name}/{device}", Format: "json", QoS: 1},
	}
}

func (p *Publish) check() error {
	switch {
	case p.Per != "point" && p.Per != "device":
		return fmt.Errorf("publish %s: per = %q: one of point, device", p.Name, p.Per)
	case !slices.Contains(Formats, p.Format):
		return fmt.Errorf("publish %s: format = %q: one of %s", p.Name, p.Format, strings.Join(Formats, ", "))
	case p.Format == "value" && p.Per == "device":
		return fmt.Errorf(`publish %s: format = "value" is of one point: say per = "point", or format = "json"`, p.Name)
	case p.Format == "template" && p.Template == nil:
		return fmt.Errorf(`publish %s: format = "template" needs a template`, p.Name)
	case timeSlots[p.Time] == 0:
		return fmt.Errorf("publish %s: time = %q: one of rfc3339, unix, unix_ms", p.Name, p.Time)
	case p.QoS > 1:
		return fmt.Errorf("publish %s: qos = %d: the gateway publishes with 0 or 1", p.Name, p.QoS)
	case p.Class >= broker.NumClasses:
		return fmt.Errorf("publish %s: no such class", p.Name)
	}
	for _, pattern := range p.Devices {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("publish %s: devices: pattern %q: %w", p.Name, pattern, err)
		}
	}
	return nil
}

// wants reports whether p publishes dev.
func (p *Publish) wants(dev *Device) bool {
	return len(p.Devices) == 0 || slices.ContainsFunc(p.Devices, func(pattern string) bool {
		byID, _ := path.Match(pattern, dev.ID)
		byName, _ := path.Match(pattern, dev.Name)
		return byID || byName
	})
}

// topic fills p's template for a point, or for a device with point nil.
func (p *Publish) topic(gateway string, dev *Device, point *Point) (string, error) {
	topic, err := expand(p.Topic, placeholders(gateway, dev, point))
	if err == nil {
		err = checkTopic(topic)
	}
	if err != nil {
		return "", fmt.Errorf("publish %s: topic %q for %s: %w", p.Name, p.Topic, place(dev, point), err)
	}
	return topic, nil
}

// placeholders are what templates of topics can name. A unit (m³/h) or a bus
// (a URL) is one level of a topic, whatever it holds; a tag may be several.
func placeholders(gateway string, dev *Device, point *Point) map[string]string {
	fields := maps.Clone(dev.Tags)
	if fields == nil {
		fields = map[string]string{}
	}
	level := strings.NewReplacer("/", "_", "+", "_", "#", "_")
	fields["name"], fields["device"], fields["bus"] = gateway, dev.Name, level.Replace(dev.Bus)
	if dev.Unit != nil {
		fields["unit_id"] = unitID(dev)
	}
	if point != nil {
		fields["point"], fields["unit"] = point.Name, level.Replace(point.Unit)
	}
	return fields
}

// Fill replaces the placeholders of a template for a device of the gateway
// called gateway, as topics have them.
func (d *Device) Fill(template, gateway string) (string, error) {
	return expand(template, placeholders(gateway, d, nil))
}

// unitID is the number of a device on its bus, "" if it has none.
func unitID(dev *Device) string {
	if dev.Unit == nil {
		return ""
	}
	return strings.TrimPrefix(dev.Unit.String(), "unit ")
}

func place(dev *Device, point *Point) string {
	if point == nil {
		return "device " + dev.ID
	}
	return "device " + dev.ID + ", point " + point.Name
}

// expand replaces each {key} of template.
func expand(template string, fields map[string]string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(template, "{")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		key, after, found := strings.Cut(rest, "}")
		value, known := fields[key]
		switch {
		case !found:
			return "", errors.New("a { without its }")
		case !known:
			keys := slices.Sorted(maps.Keys(fields))
			return "", fmt.Errorf("{%s} is not known here: one of {%s}", key, strings.Join(keys, "} {"))
		}
		out.WriteString(value)
		template = after
	}
}

// checkTopic tells whether one can publish on topic (MQTT 5, section 4.7).
func checkTopic(topic string) error {
	switch {
	case topic == "":
		return errors.New("empty topic")
	case len(topic) > 65535:
		return errors.New("more than 65535 bytes")
	case !utf8.ValidString(topic):
		return errors.New("not UTF-8")
	case strings.ContainsAny(topic, "+#\x00"):
		return fmt.Errorf("%q holds + # or NUL", topic)
	case topic[0] == '$':
		return fmt.Errorf("%q begins with $, which belongs to the broker", topic)
	}
	return nil
}

// checkName tells whether name may be a level of a topic.
func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s: empty name", what)
	case name[0] == '_' || name[0] == '$':
		return fmt.Errorf("%s: the name %q begins with _ or $, which mark the gateway's own topics", what, name)
	case strings.ContainsAny(name, "/+#\x00"):
		return fmt.Errorf("%s: the name %q holds / + # or NUL, which topics cannot", what, name)
	case !utf8.ValidString(name):
		return fmt.Errorf("%s: the name %q is not UTF-8", what, name)
	}
	return nil
}
