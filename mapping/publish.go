package mapping

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"edgegateway/broker"
)

// A Publish says which messages readings become. Its words are those of a
// [publish.NAME] table.
type Publish struct {
	Name    string // table key, for errors
	Per     string // "point" or "device"
	Topic   string // with {name} {device} {point} {unit_id} {unit} {bus} and the device's tags
	Format  string // "json", or "value": the bare value, empty while there is none
	QoS     byte   // 0 or 1
	Retain  bool
	Class   broker.Class
	Devices []string // patterns (path.Match) of device ids or names; none: all
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
	case p.Format != "json" && p.Format != "value":
		return fmt.Errorf("publish %s: format = %q: one of json, value", p.Name, p.Format)
	case p.Format == "value" && p.Per == "device":
		return fmt.Errorf(`publish %s: format = "value" is of one point: say per = "point", or format = "json"`, p.Name)
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
	fields := maps.Clone(dev.Tags)
	if fields == nil {
		fields = map[string]string{}
	}
	fields["name"], fields["device"], fields["bus"] = gateway, dev.Name, dev.Bus
	if dev.Unit != nil {
		fields["unit_id"] = strings.TrimPrefix(dev.Unit.String(), "unit ")
	}
	if point != nil {
		fields["point"], fields["unit"] = point.Name, point.Unit
	}
	topic, err := expand(p.Topic, fields)
	if err == nil {
		err = checkTopic(topic)
	}
	if err != nil {
		return "", fmt.Errorf("publish %s: topic %q for %s: %w", p.Name, p.Topic, place(dev, point), err)
	}
	return topic, nil
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
