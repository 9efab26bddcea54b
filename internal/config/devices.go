package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

const (
	defaultEvery = 5 * time.Second
	leastEvery   = 10 * time.Millisecond
)

// deviceKeys belong to a device at its place; a profile has none of them.
var deviceKeys = []string{"bus", "unit_id", "name", "tags", "profile", "points_file"}

// addDevices makes the devices of one [device] or [devices] entry.
func (l *loader) addDevice(key string, n *node) {
	if !n.isTable() {
		l.errorAt(n, "a device is a table of keys, not %s", n.kind())
		return
	}
	if far, ok := l.profileOf(n); ok {
		far = l.withList(far, n)
		l.checkDropped(far, n)
		l.buildDevice(key, overlayDevice(far, n))
	}
}

// addTemplate makes one device for each unit id of a [devices.X] table.
func (l *loader) addTemplate(key string, n *node) {
	if !n.isTable() {
		l.errorAt(n, "[devices.%s] is a table of keys, not %s", key, n.kind())
		return
	}
	own, common := n.split("unit_ids", "device")
	var t templateKeys
	l.table(own, &t, "a devices table")
	if t.UnitIDs.at == nil {
		if n.child("unit_ids") == nil {
			l.errorKey(n, `[devices.%s] needs unit_ids = "1-5,8", one device for each`, key)
		}
		return
	}
	ids, err := ParseUnitIDs(t.UnitIDs.V)
	if err != nil {
		l.errorAt(t.UnitIDs.at, "%v", err)
		return
	}
	if c := n.child("unit_id"); c != nil {
		l.errorKey(c, "unit_id belongs to a single device; unit_ids makes these")
		common = common.with("unit_id", nil)
	}
	overrides := l.overrides(t, ids)
	far, ok := l.profileOf(n)
	if !ok {
		return
	}
	far = l.withList(far, common)
	l.checkDropped(far, common)
	for _, id := range ids {
		near := common.with("unit_id", t.UnitIDs.at.as(int64(id)))
		near = overlayDevice(near, overrides[id])
		near = l.nameFromTemplate(key, near, id, t.UnitIDs.at)
		l.buildDevice(fmt.Sprintf("%s-%d", key, id), overlayDevice(far, near))
	}
}

// checkDropped finds points to be dropped that the profile does not have.
func (l *loader) checkDropped(profile, n *node) {
	points := n.child("points")
	if !points.isTable() {
		return
	}
	have := profile.child("points")
	for _, name := range points.order {
		if drop := points.keys[name]; drop.value == false && have.child(name) == nil {
			var known []string
			if have.isTable() {
				known = have.order
			}
			l.warnKey(drop, "there is no point %q to drop%s", name, didYouMean(nearest(name, known)))
		}
	}
}

// overrides returns the device.N tables of a template by unit id.
func (l *loader) overrides(t templateKeys, ids []int) map[int]*node {
	m := make(map[int]*node)
	for _, e := range t.Device.V {
		id, err := strconv.Atoi(e.key)
		switch {
		case err != nil || !slices.Contains(ids, id):
			l.errorKey(e.value.at, "device.%s is none of the unit ids %s", e.key, t.UnitIDs.V)
		case !e.value.at.isTable():
			l.errorAt(e.value.at, "device.%s is a table of keys, not %s", e.key, e.value.at.kind())
		default:
			m[id] = e.value.at
		}
	}
	return m
}

// nameFromTemplate fills {unit_id} in the device's name; without a name it
// is KEY-ID.
func (l *loader) nameFromTemplate(key string, n *node, id int, ids *node) *node {
	name := n.child("name")
	if name == nil {
		return n.with("name", ids.as(fmt.Sprintf("%s-%d", key, id)))
	}
	s, ok := name.value.(string)
	if !ok {
		return n // to be reported as any name
	}
	filled, wrong := fill(s, map[string]string{"unit_id": strconv.Itoa(id)})
	if wrong != "" {
		l.errorAt(name, "%s", wrong)
		filled = fmt.Sprintf("%s-%d", key, id)
	}
	return n.with("name", name.as(filled))
}

// ParseUnitIDs reads "11-25,30".
func ParseUnitIDs(s string) ([]int, error) {
	var ids []int
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.Atoi(strings.TrimSpace(low))
		b, err2 := a, error(nil)
		if isRange {
			b, err2 = strconv.Atoi(strings.TrimSpace(high))
		}
		if err != nil || err2 != nil || a < 0 || b > 255 || a > b {
			return nil, fmt.Errorf("%q are no unit ids; write them like \"11-25,30\"", strings.TrimSpace(part))
		}
		for id := a; id <= b; id++ {
			if slices.Contains(ids, id) {
				return nil, fmt.Errorf("unit id %d is in the list twice", id)
			}
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// overlayDevice lays a device over its profile. A point that says where it is
// replaces what the profile says about that, whichever keys either uses.
func overlayDevice(far, near *node) *node {
	if near == nil {
		return far
	}
	farPoints, nearPoints := far.child("points"), near.child("points")
	if farPoints.isTable() && nearPoints.isTable() {
		for name, p := range nearPoints.keys {
			if q := farPoints.keys[name]; q.isTable() && p.hasAny(placeKeys) {
				_, rest := q.split(placeWords(q)...)
				farPoints = farPoints.replace(name, rest)
			}
		}
		far = far.replace("points", farPoints)
	}
	return overlay(far, near)
}

// placeWords are the keys of a point that go with the one that says where it is.
func placeWords(n *node) []string {
	words := append([]string{"bit", "at", "instance"}, placeKeys...)
	if n.child("model") != nil { // it is in the model, too
		words = append(words, "scale_factor")
	}
	return words
}

// placeKeys say where a point is found.
var placeKeys = append([]string{"ref", "fifo", "model", "field", "byte", "compute"}, registerKeys...)

// A deviceBuilder makes one device from its raw form.
type deviceBuilder struct {
	*loader
	raw      *rawDevice
	bus      *bus
	framing  serial.Framing // of a bus that speaks by itself; nil if it is not known
	key      string
	groups   map[string]*rawGroup
	dev      *mapping.Device
	factors  []factorUse
	all      bool // it is no unit but all of a serial line: a broadcast
	formulas []*pointBuilder
}

// buildDevice makes a device of an effective table, and files it.
func (l *loader) buildDevice(key string, n *node) {
	raw := new(rawDevice)
	l.table(n, raw, "a device")
	l.effective = append(l.effective, effective{key, n})
	d := &deviceBuilder{loader: l, raw: raw, key: key, groups: make(map[string]*rawGroup)}
	d.dev = &mapping.Device{
		Device:  &devices.Device{ID: key, Name: key, Stale: raw.Stale.V},
		Profile: raw.Profile.V,
		Maker:   raw.Maker.V,
		Model:   raw.Model.V,
	}
	d.checkIdentity(n)
	d.checkDefaults(&raw.rawDefaults)
	d.raw.Timeout.atLeast(d.binder, time.Millisecond, "the timeout")
	d.raw.Stale.atLeast(d.binder, leastEvery, "stale")
	d.readGroups()
	d.readTags()
	d.bus = l.busOf(d, n)
	if d.bus != nil {
		d.dev.Bus = d.bus.key
		l.setUnit(d, n)
	}
	d.readPoints(n)
	d.readSetup()
	d.readAbout()
	l.cfg.Devices = append(l.cfg.Devices, d.dev)
}

// checkIdentity finds keys and names that another device has.
func (d *deviceBuilder) checkIdentity(n *node) {
	if other, taken := d.ids[d.key]; taken {
		d.errorKey(n, "there are two devices %q; the other is at %s", d.key, other.where())
	}
	d.ids[d.key] = n
	if d.raw.Name.set() {
		d.dev.Name = d.raw.Name.V
	}
	at := n
	if d.raw.Name.set() {
		at = d.raw.Name.at
	}
	report := d.errorKey
	if at != n {
		report = d.errorAt
	}
	if wrong := checkName(d.dev.Name); wrong != "" {
		report(at, "the device name %q %s", d.dev.Name, wrong)
	}
	if other, taken := d.names[d.dev.Name]; taken && other != n {
		report(at, "the device name %q is taken by the device at %s; names make topics and must differ", d.dev.Name, other.where())
	}
	d.names[d.dev.Name] = n
}

// checkDefaults looks at what points inherit, whether or not one does.
func (b *binder) checkDefaults(d *rawDefaults) {
	d.Every.atLeast(b, leastEvery, "the interval")
	b.parseOrder(d.Order)
	b.parseType(d.Type)
	b.checkPolicy(&d.rawPolicy)
}

func (d *deviceBuilder) readGroups() {
	for _, g := range d.raw.Groups.V {
		d.groups[g.key] = g.value
		d.checkDefaults(&g.value.rawDefaults)
	}
}

func (d *deviceBuilder) readTags() {
	if len(d.raw.Tags.V) == 0 {
		return
	}
	d.dev.Tags = make(map[string]string)
	for _, t := range d.raw.Tags.V {
		for level := range strings.SplitSeq(t.value.V, "/") { // a tag may be several levels of a topic
			if wrong := checkName(level); wrong != "" {
				d.errorAt(t.value.at, "the tag %q %s; tags may stand in topics", level, wrong)
			}
		}
		if slices.Contains(placeholderNames, t.key) {
			d.errorKey(t.value.at, "{%s} is a placeholder already; give the tag another name", t.key)
		}
		d.dev.Tags[t.key] = t.value.V
	}
}

// readPoints makes all points of the device.
func (d *deviceBuilder) readPoints(n *node) {
	sentence := ""
	if d.textFrames() {
		sentence = anySentence
	}
	for _, e := range d.raw.Points.V {
		d.readPoint(e.key, sentence, e.value)
	}
	for _, s := range d.raw.Line.V {
		if wrong := checkSentence(s.key); wrong != "" {
			d.errorKey(s.at, "%s", wrong)
		}
		for _, e := range s.value.V {
			d.readPoint(e.key, s.key, e.value)
		}
	}
	d.linkFactors()
	if d.all {
		d.checkBroadcast()
	}
	d.readFormulas()
	if len(d.dev.Points) == 0 && !d.raw.PointsFile.set() && d.raw.Points.at == nil && d.raw.Line.at == nil {
		d.warnKey(n, "device %q has no points: give it a profile, or [device.%s.points]", d.key, d.key)
	}
}

// checkBroadcast reports points that could only be read.
func (d *deviceBuilder) checkBroadcast() {
	var names []string
	for _, p := range d.dev.Points {
		if p.Write == nil {
			names = append(names, p.Name)
		}
	}
	switch n := len(names); {
	case n > 3:
		names = append(names[:3], fmt.Sprintf("%d more", n-3))
		fallthrough
	case n > 0:
		d.errorAt(d.raw.UnitID.at, "unit_id 0 on a serial line is a broadcast, which all devices carry out and none answers, so that nothing can be read: %s must have write, or go", strings.Join(names, ", "))
	}
}

// anySentence stands for whatever line comes.
const anySentence = "*"

func checkSentence(id string) string {
	if id == anySentence {
		return ""
	}
	if id == "" || strings.ContainsAny(id, ",*$! ") {
		return fmt.Sprintf("%q is no sentence; write its formatter like MWV, or talker and formatter like WIMWV", id)
	}
	return ""
}

func (d *deviceBuilder) readPoint(name, sentence string, raw *rawPoint) {
	if raw.at == nil || raw.off {
		return
	}
	if wrong := checkPointName(name); wrong != "" {
		d.errorKey(raw.at, "the point name %q %s", name, wrong)
	}
	if slices.ContainsFunc(d.dev.Points, func(p *mapping.Point) bool { return p.Name == name }) ||
		slices.ContainsFunc(d.formulas, func(p *pointBuilder) bool { return p.name == name }) {
		d.errorKey(raw.at, "there are two points %q on this device", name)
	}
	p := &pointBuilder{deviceBuilder: d, point: new(mapping.Point), raw: raw, name: name, sentence: sentence}
	if raw.Compute.set() {
		d.formulas = append(d.formulas, p)
		return
	}
	if mp := p.build(); mp != nil {
		d.dev.Points = append(d.dev.Points, mp)
		d.dev.Device.Points = append(d.dev.Device.Points, mp.Point)
		d.at[mp.Point] = raw.at
		if d.framing == nil || sentence == "" && d.raw.Frame.at == nil {
			return // not known, or reported
		}
		if err := d.framing.CheckSource(mp.Source); err != nil {
			d.errorKey(raw.at, "point %q: %v", name, err)
		}
	}
}
