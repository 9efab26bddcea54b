package homeassistant

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgegateway/mapping"
)

// Settings are the [homeassistant] table.
type Settings struct {
	Prefix     string        // of discovery topics
	Birth      string        // where Home Assistant says that it is online
	Node       string        // of this gateway's ids, "" for Plant.Gateway
	Devices    []string      // patterns (path.Match) of device keys or names; none: all
	DeviceName string        // template of devices' names, "": {device}
	Area       string        // template of the area suggested for a device, "": none
	Expires    time.Duration // how long a command is valid, 0: for ever
	Hints      map[*mapping.Point]Hint
}

// A Hint is what a point says of itself to Home Assistant, over what is found
// out by itself. The zero Hint says nothing.
type Hint struct {
	Hide     bool
	Name     string
	Class    string // device class; see CheckClass
	Icon     string // "mdi:…"
	Category string // "config" or "diagnostic"
	Disabled bool   // there, but for people to switch on
}

// A Plant is what there is to tell of.
type Plant struct {
	Gateway string // its name
	Version string
	Devices []*mapping.Device
	Mapper  *mapping.Mapper
	Buses   []string // table keys
	Bridges []string
}

// An Announcement is one discovery message.
type Announcement struct {
	Topic   string `json:"topic"`
	Device  string `json:"device,omitempty"` // table key; "" for the gateway
	Payload Config `json:"payload"`
}

// A Config is the payload of a discovery message.
type Config struct {
	Device           Device                `json:"device"`
	Origin           Origin                `json:"origin"`
	Availability     []Availability        `json:"availability,omitempty"`
	AvailabilityMode string                `json:"availability_mode,omitempty"`
	Components       map[string]*Component `json:"components"`
}

// A Device is how Home Assistant shows what the entities belong to.
type Device struct {
	Identifiers  []string `json:"identifiers"`
	Name         string   `json:"name"`
	Manufacturer string   `json:"manufacturer,omitempty"`
	Model        string   `json:"model,omitempty"`
	SWVersion    string   `json:"sw_version,omitempty"`
	Area         string   `json:"suggested_area,omitempty"`
	Via          string   `json:"via_device,omitempty"`
}

// An Origin says which program announces.
type Origin struct {
	Name      string `json:"name"`
	SWVersion string `json:"sw_version,omitempty"`
}

// An Availability is where it is said whether an entity is available.
type Availability struct {
	Topic    string `json:"topic"`
	Template string `json:"value_template"`
}

// A Component is one entity. One with nothing but a platform takes the entity
// away that was there.
type Component struct {
	Platform         string         `json:"platform"`
	UniqueID         string         `json:"unique_id,omitempty"`
	EntityID         string         `json:"default_entity_id,omitempty"`
	Name             string         `json:"name,omitempty"`
	DeviceClass      string         `json:"device_class,omitempty"`
	StateClass       string         `json:"state_class,omitempty"`
	Unit             string         `json:"unit_of_measurement,omitempty"`
	Precision        *int           `json:"suggested_display_precision,omitempty"`
	Options          []string       `json:"options,omitempty"`
	Icon             string         `json:"icon,omitempty"`
	Category         string         `json:"entity_category,omitempty"`
	Enabled          *bool          `json:"enabled_by_default,omitempty"`
	StateTopic       string         `json:"state_topic,omitempty"`
	ValueTemplate    string         `json:"value_template,omitempty"`
	CommandTopic     string         `json:"command_topic,omitempty"`
	CommandTemplate  string         `json:"command_template,omitempty"`
	PayloadOn        string         `json:"payload_on,omitempty"`
	PayloadOff       string         `json:"payload_off,omitempty"`
	StateOn          string         `json:"state_on,omitempty"`
	StateOff         string         `json:"state_off,omitempty"`
	Min              *json.Number   `json:"min,omitempty"`
	Max              *json.Number   `json:"max,omitempty"`
	Step             *json.Number   `json:"step,omitempty"`
	Mode             string         `json:"mode,omitempty"`
	ExpireAfter      int            `json:"expire_after,omitempty"`
	Availability     []Availability `json:"availability,omitempty"`
	AvailabilityMode string         `json:"availability_mode,omitempty"`
}

// A Problem is something that cannot be announced.
type Problem struct {
	Device *mapping.Device
	Point  *mapping.Point // nil: all of the device
	Text   string
}

// Discover returns the messages of a plant, that of the gateway first, and
// what could not be put into them.
func Discover(s *Settings, p *Plant) (list []Announcement, problems []Problem) {
	d := &discoverer{Settings: s, Plant: p, node: s.Node}
	if d.node == "" {
		d.node = p.Gateway
	}
	d.origin = Origin{Name: "gateway", SWVersion: p.Version}
	list = append(list, d.gateway())
	for _, dev := range p.Devices {
		if !wanted(s.Devices, dev) {
			continue
		}
		if a := d.device(dev); len(a.Payload.Components) > 0 {
			list = append(list, a)
		}
	}
	return list, d.problems
}

func wanted(patterns []string, dev *mapping.Device) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		byKey, _ := path.Match(p, dev.ID)
		byName, _ := path.Match(p, dev.Name)
		return byKey || byName
	})
}

type discoverer struct {
	*Settings
	*Plant
	node     string
	origin   Origin
	problems []Problem
}

func (d *discoverer) topic(object string) string { return d.Prefix + "/device/" + object + "/config" }

// status is the availability that a status topic tells.
func status(topic string) Availability {
	return Availability{topic, `{{ 'online' if value_json.status == 'online' else 'offline' }}`}
}

func (d *discoverer) device(dev *mapping.Device) Announcement {
	object := id(d.node, dev.ID)
	a := Announcement{Topic: d.topic(object), Device: dev.ID, Payload: Config{
		Device: Device{
			Identifiers: []string{object}, Name: d.fill(d.DeviceName, dev, dev.Name),
			Manufacturer: dev.Maker, Model: dev.Model, Area: d.fill(d.Area, dev, ""), Via: id(d.node),
		},
		Origin:           d.origin,
		Availability:     []Availability{status(d.Plant.Gateway + "/_status"), status(d.Plant.Gateway + "/" + dev.Name + "/_status")},
		AvailabilityMode: "all",
		Components:       map[string]*Component{},
	}}
	missing, all := 0, dev.All()
	for _, p := range all {
		hint := d.Hints[p]
		if hint.Hide || p.Hidden {
			continue
		}
		s, ok := d.source(dev, p)
		if !ok {
			missing++
			continue
		}
		for key, c := range d.components(dev, p, s, cmp.Or(hint.Name, title(p.Name))) {
			hint.apply(c)
			c.UniqueID = object + "." + key
			c.EntityID = c.Platform + "." + slug(d.node+" "+dev.Name+" "+c.Name)
			a.Payload.Components[key] = c
		}
	}
	if missing > 0 {
		d.problems = append(d.problems, Problem{Device: dev, Text: fmt.Sprintf(
			`no table publishes %d of %d points of device %s in a form that Home Assistant can read: add [publish.NAME] with per = "point" and format = "json"`,
			missing, len(all), dev.ID)})
	}
	return a
}

func (d *discoverer) fill(template string, dev *mapping.Device, def string) string {
	if template == "" {
		return def
	}
	s, err := dev.Fill(template, d.Plant.Gateway)
	if err != nil {
		d.problems = append(d.problems, Problem{Device: dev, Text: fmt.Sprintf("device %s: %q: %v", dev.ID, template, err)})
		return def
	}
	return s
}

func (h *Hint) apply(c *Component) {
	if h.Icon != "" {
		c.Icon = h.Icon
	}
	if h.Category != "" && (h.Category != "config" || c.CommandTopic != "") { // what cannot be set is no configuration to Home Assistant
		c.Category = h.Category
	}
	if h.Disabled {
		c.Enabled = new(bool)
	}
}

// A source is where the state of a point is found.
type source struct {
	topic string
	value string // Jinja expression of the value; "": the payload is the value
	has   string // Jinja condition that it is there; "": always
}

// source finds the table whose messages tell most plainly what a point holds.
func (d *discoverer) source(dev *mapping.Device, p *mapping.Point) (s source, ok bool) {
	best := 0
	for _, r := range d.Mapper.Routes(dev, p) {
		rank := 0
		switch {
		case r.Format == "json" && r.Per == "point":
			rank = 3
		case r.Format == "value":
			rank = 2
		case r.Format == "json":
			rank = 1
		}
		if rank <= best {
			continue
		}
		best, s.topic = rank, r.Topic
		switch rank {
		case 3:
			s.value, s.has = "value_json.value", ""
		case 2:
			s.value, s.has = "", ""
		case 1:
			s.value, s.has = "value_json["+quoted(p.Name)+"]", quoted(p.Name)+" in value_json"
		}
	}
	return s, best > 0
}

// quoted writes s as a string of Jinja.
func quoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// template reads the value, or of an object member of it with member. Without
// the value, otherwise says what comes in its place.
func (s source) template(member, otherwise string) string {
	value := s.value
	switch {
	case value == "" && member == "":
		return ""
	case value == "":
		value = "value_json" // bits as a bare value are an object
	}
	if member != "" {
		value = value + "[" + quoted(member) + "] if " + value + " else None"
	}
	if s.has == "" {
		return "{{ " + value + " }}"
	}
	return "{% if " + s.has + " %}{{ " + value + " }}{% else %}" + otherwise + "{% endif %}"
}

// truths are how the two values of a bool come out of the template.
func (s source) truths() (on, off string) {
	if s.value == "" {
		return "true", "false"
	}
	return "True", "False"
}

// keep leaves an entity that shows text as it is; one that shows a number or on
// and off does so by itself when a template yields nothing.
const keep = "{{ this.state }}"

// components returns the entities of a point, which is called name, by their
// keys.
func (d *discoverer) components(dev *mapping.Device, p *mapping.Point, s source, name string) map[string]*Component {
	c := &Component{Name: name, StateTopic: s.topic, ValueTemplate: s.template("", "")}
	writable := p.Write != nil
	switch {
	case len(p.Bits) > 0:
		return d.bits(dev, p, s, name)
	case writable && d.press(dev, p, c):
	case p.Type == mapping.Bool && len(p.Enum) == 0:
		d.onOff(dev, p, c, s)
	case len(p.Enum) > 0:
		d.names(dev, p, c, s)
	case writable && p.Type == mapping.String:
		d.text(dev, p, c, s)
	case number(p) && writable:
		d.number(dev, p, c)
	case number(p):
		c.Platform = "sensor"
		c.DeviceClass, c.Unit = d.classOf(p)
		c.StateClass, c.Precision = stateClass(c.DeviceClass, p), precision(p)
	case p.Type.Time():
		c.Platform, c.DeviceClass = "sensor", "timestamp"
	default:
		c.Platform, c.ValueTemplate = "sensor", s.template("", keep)
	}
	return map[string]*Component{id(p.Name): c}
}

func number(p *mapping.Point) bool {
	return !p.List && (p.Type.Integer() || p.Type.Float())
}

// classOf is the class of the hint, else the one that is found out.
func (d *discoverer) classOf(p *mapping.Point) (name, unit string) {
	name, unit = classOf(p)
	if hint := d.Hints[p].Class; hint != "" {
		name = hint
	}
	return name, unit
}

// precision is how many decimals a scale yields, nil for a float that says
// nothing of that.
func precision(p *mapping.Point) *int {
	if !p.Type.Integer() {
		return nil
	}
	n := max(0, -int(p.Scale.Exp), -int(p.Offset.Exp))
	return &n
}

// command lets an entity write p: value is what it sends, as JSON.
func (d *discoverer) command(dev *mapping.Device, p *mapping.Point, c *Component, value string) {
	c.CommandTopic = d.Plant.Gateway + "/" + dev.Name + "/" + p.Name + "/set"
	c.CommandTemplate = `{"value": ` + value
	if d.Expires > 0 {
		c.CommandTemplate += `, "expires": {{ as_timestamp(now()) | int + ` + strconv.Itoa(int(d.Expires.Seconds())) + ` }}`
	}
	c.CommandTemplate += "}"
}

// press makes a button of a point that takes one value only.
func (d *discoverer) press(dev *mapping.Device, p *mapping.Point, c *Component) bool {
	var only string
	switch w := p.Write; {
	case len(p.Enum) == 1:
		for _, name := range p.Enum {
			text, _ := json.Marshal(name)
			only = string(text)
		}
	case len(p.Enum) == 0 && number(p) && w.Min != nil && w.Max != nil && *w.Min == *w.Max:
		only = w.Min.String()
	default:
		return false
	}
	c.Platform, c.StateTopic, c.ValueTemplate = "button", "", ""
	d.command(dev, p, c, only)
	return true
}

func (d *discoverer) onOff(dev *mapping.Device, p *mapping.Point, c *Component, s source) {
	on, off := s.truths()
	if p.Write == nil {
		c.Platform, c.PayloadOn, c.PayloadOff = "binary_sensor", on, off
		if c.DeviceClass = d.Hints[p].Class; c.DeviceClass == "" {
			c.DeviceClass = binaryClass(p.Name)
		}
		return
	}
	c.Platform, c.PayloadOn, c.PayloadOff, c.StateOn, c.StateOff = "switch", "true", "false", on, off
	d.command(dev, p, c, "{{ value }}")
}

// names makes a choice of names, or shows which one it is.
func (d *discoverer) names(dev *mapping.Device, p *mapping.Point, c *Component, s source) {
	c.ValueTemplate = s.template("", keep)
	keys := make([]int64, 0, len(p.Enum))
	for k := range p.Enum {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !slices.Contains(c.Options, p.Enum[k]) {
			c.Options = append(c.Options, p.Enum[k])
		}
	}
	if p.Write == nil {
		c.Platform, c.DeviceClass = "sensor", "enum"
		return
	}
	c.Platform = "select"
	d.command(dev, p, c, "{{ value | to_json }}")
}

func (d *discoverer) text(dev *mapping.Device, p *mapping.Point, c *Component, s source) {
	c.Platform, c.ValueTemplate = "text", s.template("", keep)
	low, high := json.Number("0"), json.Number(strconv.Itoa(min(p.Length, 255)))
	c.Min, c.Max = &low, &high
	d.command(dev, p, c, "{{ value | to_json }}")
}

func (d *discoverer) number(dev *mapping.Device, p *mapping.Point, c *Component) {
	c.Platform, c.Mode = "number", "box"
	c.DeviceClass, c.Unit = d.classOf(p)
	low, high, step := limits(p)
	c.Min, c.Max, c.Step = &low, &high, &step
	d.command(dev, p, c, "{{ value }}")
}

// limits are those of the point, else what its registers hold. Home Assistant
// wants both, and no step below 0.001.
func limits(p *mapping.Point) (low, high, step json.Number) {
	low, high, step = "-1000000000", "1000000000", "0.001"
	if p.Type.Integer() {
		step = "1"
		if p.Scale.Mant != 0 {
			step = json.Number(p.Scale.String())
		}
		low, high = rawLimits(p)
	}
	if w := p.Write; w.Step != nil {
		step = json.Number(w.Step.String())
	}
	if w := p.Write; w.Min != nil {
		low = json.Number(w.Min.String())
	}
	if w := p.Write; w.Max != nil {
		high = json.Number(w.Max.String())
	}
	if f, _ := step.Float64(); f < 0.001 {
		step = "0.001"
	}
	return low, high, step
}

// rawLimits finds the least and the greatest value of registers by decoding
// what they hold then.
func rawLimits(p *mapping.Point) (low, high json.Number) {
	low, high = "0", "0"
	bare := *p
	bare.Invalid, bare.Order = nil, mapping.ABCD
	var least, most *float64
	for _, first := range []byte{0x00, 0x7f, 0x80, 0x99, 0xff} {
		for _, rest := range []byte{0x00, 0x99, 0xff} {
			raw := slices.Repeat([]byte{rest}, p.RawLen())
			if len(raw) > 0 {
				raw[0] = first
			}
			v, err := mapping.Decode(&bare, raw)
			f, ok := v.Float64()
			if err != nil || !ok {
				continue
			}
			if least == nil || f < *least {
				least, low = &f, json.Number(v.String())
			}
			if most == nil || f > *most {
				most, high = &f, json.Number(v.String())
			}
		}
	}
	return low, high
}

// bits are an entity each: a switch where the gateway takes one bit alone.
func (d *discoverer) bits(dev *mapping.Device, p *mapping.Point, s source, of string) map[string]*Component {
	all := map[string]*Component{}
	for bit := range 64 {
		name, ok := p.Bits[bit]
		if !ok {
			continue
		}
		c := &Component{
			Platform: "binary_sensor", Name: of + " " + strings.ReplaceAll(name, "_", " "), DeviceClass: binaryClass(name),
			StateTopic: s.topic, ValueTemplate: s.template(name, ""), PayloadOn: "True", PayloadOff: "False",
		}
		key, _ := json.Marshal(name)
		alone := func(value string) string { return "{" + string(key) + ": " + value + "}" }
		if p.Write != nil {
			if _, err := d.Mapper.Write(dev.Name, p.Name, []byte(`{"value":`+alone("true")+`}`)); err == nil {
				c.Platform, c.DeviceClass, c.PayloadOn, c.PayloadOff, c.StateOn, c.StateOff = "switch", "", "true", "false", "True", "False"
				d.command(dev, p, c, alone("{{ value }}"))
			}
		}
		all[id(p.Name, name)] = c
	}
	return all
}
