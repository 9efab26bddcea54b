package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
)

// A Config says what a Mapper knows.
type Config struct {
	Gateway string         // {name} of topics
	Zone    *time.Location // of days and hours; nil: UTC
	Devices []*Device      // all, or those of one bus
	Publish []Publish      // none: DefaultPublish
}

// A Mapper turns batches into messages and commands into writes. It keeps
// the last value of each point, for deadbands and Snapshot, and the buffers
// its messages lie in. One goroutine owns it; others may call Command, Write
// and AppendCurrent at the same time, which read nothing that changes.
type Mapper struct {
	gateway  string
	zone     *time.Location
	publish  []Publish
	devices  []*deviceState
	byDevice map[*devices.Device]*deviceState
	byName   map[string]*deviceState
	out      composer
	cycle    uint64 // counts batches; what was read in one carries its number
	news     []News
}

// News is something about a point that a person should read in the log: its
// bytes came and are no value, or its counter began anew.
type News struct {
	Device *Device
	Point  *Point
	Text   string
	Bad    bool // it has no value
}

// quiet is how long a point that said something is not heard again, so that a
// value at the edge of its range does not fill the log.
const quiet = devices.Stamp(10 * time.Minute)

type deviceState struct {
	*Device
	points  []*pointState
	byPoint map[*devices.Point]*pointState
	byName  map[string]*pointState
	topics  []string // one per publish table; "" if it publishes no objects of this device
	status  string   // topic
	state   devices.State
	stated  bool          // state was published
	latest  devices.Stamp // of the readings so far; 0: none
	due     bool          // something of this cycle is to be published
	scaled  bool          // some points have their exponents from others

	computed  []*pointState
	histories []*history
}

type pointState struct {
	*Point
	topics []string    // one per publish table; "" if it does not publish this point
	factor *pointState // of ScaleFrom; nil: none
	key    string      // `"name":`
	unit   string      // `,"unit":"V"`, "" for none

	current   Current
	tally     Tally         // of a counter
	over      float64       // how far it rose when it wrapped
	histories []*history    // that its readings go into
	formula   *formula      // nil: it is read
	told      devices.Stamp // when News last said that it has no value; 0: never
	sent      Value         // last published
	sentCause string        // likewise, "" for a good value
	everSent  bool
	cycle     uint64 // in which it was read last
	due       bool   // and that it is to be published
}

// A Current is the last thing known of a point.
type Current struct {
	Point *Point
	Value Value         // null when Cause is given
	Cause string        // why there is no value: "timeout"; "" for a good one
	At    devices.Stamp // 0: not read yet

	// Detail says more about Cause to a person, where Decode knows more: the
	// number that is out of range.
	Detail  string
	Counter CounterEvent // of a counter: what happened to it
}

// Good reports whether c has a value.
func (c *Current) Good() bool { return c.Cause == "" && c.At != 0 }

// reserved are the members of a device object that are no points.
var reserved = []string{"time", "clock", "id", "replayed", "errors", "counters"}

// New returns a Mapper. Its error joins all that is wrong with names and
// templates, each with the place.
func New(cfg Config) (*Mapper, error) {
	m := &Mapper{
		gateway:  cfg.Gateway,
		zone:     cmp.Or(cfg.Zone, time.UTC),
		publish:  cfg.Publish,
		byDevice: map[*devices.Device]*deviceState{},
		byName:   map[string]*deviceState{},
	}
	if len(m.publish) == 0 {
		m.publish = DefaultPublish()
	}
	err := checkName("gateway", cfg.Gateway)
	for i := range m.publish {
		err = errors.Join(err, m.publish[i].check())
	}
	if err != nil {
		return nil, err
	}
	taken := map[string]string{}
	for _, dev := range cfg.Devices {
		err = errors.Join(err, m.add(dev, taken))
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// add takes in a device. taken says who has which topic.
func (m *Mapper) add(dev *Device, taken map[string]string) error {
	if err := checkName("device "+dev.ID, dev.Name); err != nil {
		return err
	}
	if other := m.byName[dev.Name]; other != nil {
		return fmt.Errorf("devices %s and %s both have the name %q: topics need different ones", other.ID, dev.ID, dev.Name)
	}
	d := &deviceState{
		Device:  dev,
		byPoint: map[*devices.Point]*pointState{},
		byName:  map[string]*pointState{},
		status:  m.gateway + "/" + dev.Name + "/_status",
	}
	m.devices = append(m.devices, d)
	m.byDevice[dev.Device], m.byName[dev.Name] = d, d
	var errs []error
	for _, p := range dev.Points {
		errs = append(errs, m.addPoint(d, p, taken))
	}
	for _, p := range dev.Computed {
		errs = append(errs, m.addPoint(d, p, taken))
	}
	if errors.Join(errs...) == nil {
		d.link()
	}
	for _, p := range d.points {
		if p.ScaleFrom != nil {
			p.factor = d.byPoint[p.ScaleFrom.Point]
			d.scaled = true
		}
	}
	d.topics = make([]string, len(m.publish))
	for i := range m.publish {
		if t := &m.publish[i]; t.Per == "device" && t.wants(dev) {
			errs = append(errs, claim(&d.topics[i], t, m.gateway, dev, nil, taken))
		}
	}
	return errors.Join(errs...)
}

func (m *Mapper) addPoint(d *deviceState, p *Point, taken map[string]string) error {
	if err := m.checkPoint(d, p); err != nil {
		return err
	}
	ps := &pointState{Point: p, topics: make([]string, len(m.publish)), current: Current{Point: p}}
	ps.key = string(appendString(nil, p.Name)) + ":"
	if p.Unit != "" {
		ps.unit = `,"unit":` + string(appendString(nil, p.Unit))
	}
	d.points = append(d.points, ps)
	d.byPoint[p.Point], d.byName[p.Name] = ps, ps
	var errs []error
	for i := range m.publish {
		if t := &m.publish[i]; t.Per == "point" && t.wants(d.Device) && !p.Hidden {
			errs = append(errs, claim(&ps.topics[i], t, m.gateway, d.Device, p, taken))
		}
	}
	return errors.Join(errs...)
}

func (m *Mapper) checkPoint(d *deviceState, p *Point) error {
	if p.Hidden {
		return nil
	}
	if err := checkName(place(d.Device, p), p.Name); err != nil {
		return err
	}
	if d.byName[p.Name] != nil {
		return fmt.Errorf("%s: the name is given twice", place(d.Device, p))
	}
	objects := slices.ContainsFunc(m.publish, func(t Publish) bool { return t.Per == "device" && t.wants(d.Device) })
	if objects && slices.Contains(reserved, p.Name) {
		return fmt.Errorf("%s: the device's object has a member %q of its own: rename the point", place(d.Device, p), p.Name)
	}
	if p.Write != nil && slices.Contains(envelope, p.Name) {
		return fmt.Errorf("%s: %q has a meaning of its own in commands: rename the point", place(d.Device, p), p.Name)
	}
	return nil
}

// claim fills *topic and makes sure that nobody else publishes there.
func claim(topic *string, t *Publish, gateway string, dev *Device, p *Point, taken map[string]string) error {
	filled, err := t.topic(gateway, dev, p)
	if err != nil {
		return err
	}
	who := place(dev, p)
	if other, ok := taken[filled]; ok {
		return fmt.Errorf("publish %s: topic %q is both for %s and for %s", t.Name, filled, other, who)
	}
	taken[filled], *topic = who, filled
	return nil
}

// AppendMessages appends what b is to the world, its times as c has them: the
// device's status if it changed, the points that are worth it, and objects of
// them. The messages are valid until the next call. A batch of a device that m
// does not know, after a reload, is nothing.
func (m *Mapper) AppendMessages(dst []broker.Message, b *devices.Batch, c broker.Clock) []broker.Message {
	d := m.byDevice[b.Device]
	if d == nil {
		return dst
	}
	m.out.reset(c)
	m.cycle++
	m.news = m.news[:0]
	at := m.take(d, b)
	if !d.stated || d.state != b.State {
		d.state, d.stated = b.State, true
		dst = append(dst, m.statusMessage(d))
	}
	if !d.due {
		return dst
	}
	for i := range m.publish {
		dst = m.appendTable(dst, d, i, at)
	}
	return dst
}

// take keeps the readings of b, marks which points are due, and returns the
// latest time. Exponents come first, wherever they stand.
func (m *Mapper) take(d *deviceState, b *devices.Batch) (latest devices.Stamp) {
	d.due = false
	latest = m.takeSome(d, b, false)
	if d.scaled {
		m.takeSome(d, b, true)
	}
	d.latest = max(d.latest, latest)
	m.compute(d)
	return latest
}

// takeSome keeps the readings of those points that need an exponent, or not.
func (m *Mapper) takeSome(d *deviceState, b *devices.Batch, scaled bool) (latest devices.Stamp) {
	for i := range b.Readings {
		r := &b.Readings[i]
		latest = max(latest, r.At)
		if p := d.byPoint[r.Point]; p != nil && scaled == (p.factor != nil) {
			before := p.current.Cause
			p.take(r, m.cycle)
			m.taken(d, p, before)
		}
	}
	return latest
}

// taken goes on with what p has got; before is the cause that it had.
func (m *Mapper) taken(d *deviceState, p *pointState, before string) {
	d.due = d.due || p.due
	if p.newsworthy(before) {
		m.news = append(m.news, p.tell(d.Device))
	}
	for _, h := range p.histories {
		h.update(m.out.clock, m.zone)
	}
}

func (p *pointState) take(r *devices.Reading, cycle uint64) {
	p.current = Current{Point: p.Point, At: r.At}
	err := r.Err
	switch {
	case err != nil:
	case p.factor == nil:
		p.current.Value, err = Decode(p.Point, r.Raw)
	case !p.factor.current.Good():
		err = errNoFactor
	default: // with the exponent that was read last
		p.current.Value, err = p.decodeBy(r.Raw, p.factor.current.Value)
	}
	if err != nil {
		p.current.fail(err)
	}
	p.settle(cycle)
}

// settle judges the current value by those before it.
func (p *pointState) settle(cycle uint64) {
	if now := &p.current; p.Kind == Counter && now.Good() {
		before := p.tally
		var err error
		if p.tally, now.Counter, err = p.follow(p.tally, now.Value, now.At); err != nil {
			now.fail(err)
		}
		if now.Counter == Wrapped {
			p.over, _, _ = p.overTop(before.last, p.tally.last, p.grain(before.last, p.tally.last))
		}
	}
	p.cycle = cycle
	p.due = p.worth()
	if p.due {
		p.sent, p.sentCause, p.everSent = p.current.Value, p.current.Cause, true
	}
}

// current decodes a reading. all are those of the same moment.
func current(p *Point, r *devices.Reading, all []devices.Reading) Current {
	c := Current{Point: p, At: r.At}
	err := r.Err
	if err == nil {
		c.Value, err = DecodeWith(p, r.Raw, all)
	}
	if err != nil {
		c.fail(err)
	}
	return c
}

// fail makes c one without a value.
func (c *Current) fail(err error) {
	c.Value, c.Cause = Value{}, devices.Cause(err)
	if e, ok := errors.AsType[*Invalid](err); ok {
		c.Detail = e.Detail
	}
}

// newsworthy tells whether the current reading is news after one with the
// cause before: not what the poller knows, such as a timeout.
func (p *pointState) newsworthy(before string) bool {
	c := &p.current
	switch {
	case c.Counter != Continues:
		return true
	case c.Detail == "" || c.Cause == before:
		return false
	}
	return p.told == 0 || c.At-p.told >= quiet
}

func (p *pointState) tell(dev *Device) News {
	n := News{Device: dev, Point: p.Point, Bad: p.current.Cause != ""}
	switch p.current.Counter {
	case Wrapped:
		n.Text = "the counter wrapped and goes on from " + withUnitText(p.current.Value.String(), p.Unit)
	case Reset:
		n.Text = "the counter was reset, or is another device's: it goes on from " + withUnitText(p.current.Value.String(), p.Unit)
	default:
		n.Text = p.current.Cause + ": " + p.current.Detail
		p.told = p.current.At
	}
	return n
}

// News returns what the last AppendMessages found worth a line in the log; it
// is valid until the next. That a point has no value is said once in ten minutes.
func (m *Mapper) News() []News { return m.news }

// worth tells whether the current value is to be published: the first, each
// change of quality, each event of a counter, and what has moved by the
// deadband since the last.
func (p *pointState) worth() bool {
	switch {
	case p.Hidden:
		return false
	case !p.everSent || p.current.Cause != p.sentCause || p.current.Counter != Continues:
		return true
	case p.current.Cause != "":
		return false
	}
	return p.Deadband.passes(p.sent, p.current.Value)
}

// passes compares the change with the greater of the two thresholds, so that
// an absolute one is a floor for a percentage near zero.
func (d Deadband) passes(last, now Value) bool {
	if d == (Deadband{}) {
		return true
	}
	a, aok := last.Float64()
	b, bok := now.Float64()
	if !aok || !bok {
		return !last.Equal(now)
	}
	const slack = 1 + 1e-9 // so that 230.1 to 230.6 is a change of 0.5
	change := math.Abs(b - a)
	return change > 0 && change*slack >= max(d.Abs, math.Abs(a)*d.Percent/100)
}

// Snapshot returns the last known of each point of a device that is not
// hidden, in the order of the configuration; nil if there is no such device. id
// is its ID.
func (m *Mapper) Snapshot(id string) []Current {
	d := m.byID(id)
	if d == nil {
		return nil
	}
	all := make([]Current, 0, len(d.points))
	for _, p := range d.points {
		if !p.Hidden {
			all = append(all, p.current)
		}
	}
	return all
}

// State returns the state that the last batch of a device brought.
func (m *Mapper) State(id string) devices.State {
	if d := m.byID(id); d != nil {
		return d.state
	}
	return devices.Unknown
}

func (m *Mapper) byID(id string) *deviceState {
	for _, d := range m.devices {
		if d.ID == id {
			return d
		}
	}
	return nil
}

// AppendCurrent appends what the readings of b mean, and what can be computed
// of them alone, without keeping or publishing any: for those who asked for a
// reading of their own.
func (m *Mapper) AppendCurrent(dst []Current, b *devices.Batch) []Current {
	d := m.byDevice[b.Device]
	if d == nil {
		return dst
	}
	for i := range b.Readings {
		if p := d.byPoint[b.Readings[i].Point]; p != nil && !p.Hidden {
			dst = append(dst, current(p.Point, &b.Readings[i], b.Readings))
		}
	}
	for _, p := range d.Computed {
		needs := d.Needs([]*Point{p})
		if !slices.ContainsFunc(needs, func(p *Point) bool { return !holds(b.Readings, p) }) {
			dst = append(dst, d.Now(p, b.Readings))
		}
	}
	return dst
}

func holds(all []devices.Reading, p *Point) bool {
	return slices.ContainsFunc(all, func(r devices.Reading) bool { return r.Point == p.Point })
}
