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

	// RetainedCommands has commands taken that are retained.
	RetainedCommands bool
}

// A Mapper turns batches into messages and commands into writes. It keeps
// the last value of each point, what waits to be published, and the buffers
// its messages lie in. One goroutine owns it; others may call Command, Write,
// Routes, Publishes and AppendCurrent at the same time, which read nothing that changes.
type Mapper struct {
	gateway  string
	zone     *time.Location
	publish  []*table
	retained bool // so may commands be
	devices  []*deviceState
	byDevice map[*devices.Device]*deviceState
	byName   map[string]*deviceState
	taken    map[string]string // who has which topic
	out      composer
	cycle    uint64        // counts what is published together; what was read for one carries its number
	batch    uint64        // counts batches
	fresh    []*pointState // that the batch at hand brought, or are computed from such; reused
	latest   devices.Stamp // of them
	next     devices.Stamp // when AppendDue has something to do; 0: nothing waits
	trouble  error         // not told yet; see Trouble
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
	routes  []route // one per publish table
	status  string  // topic
	state   devices.State
	stated  bool // state was published, with remark
	remark  Remark
	latest  devices.Stamp // of the readings so far; 0: none
	due     bool          // something of this cycle is to be published
	scaled  bool          // some points have their exponents from others

	computed  []*pointState
	histories []*history
}

type pointState struct {
	*Point
	routes []route     // one per publish table
	factor *pointState // of ScaleFrom; nil: none
	key    string      // `"name":`
	unit   string      // `,"unit":"V"`, "" for none

	field      string  // of InfluxDB lines
	whole      bool    // its values are integers there
	senml      string  // of SenML: its name
	senmlUnit  string  // `,"u":"V"`, "" for none
	senmlScale Decimal // to that unit; zero: 1

	current Current
	tally   *Tally        // of a counter; nil: it is none
	over    float64       // how far it rose when it wrapped
	told    devices.Stamp // when News last said that it has no value; 0: never
	batch   uint64        // in which it was read last
	out     output        // what is to be published of it in this cycle, if it is due
	cycle   uint64        // in which it was due last
	due     bool          // and that it is to be published
	pace

	histories []*history // that its readings go into
	formula   *formula   // nil: it is read
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
var reserved = []string{"time", "clock", "id", "replayed", "errors", "bad", "counters"}

// New returns a Mapper. Its error joins all that is wrong with names and
// templates, each with the place.
func New(cfg Config) (*Mapper, error) {
	m := &Mapper{
		gateway:  cfg.Gateway,
		zone:     cmp.Or(cfg.Zone, time.UTC),
		retained: cfg.RetainedCommands,
		byDevice: map[*devices.Device]*deviceState{},
		byName:   map[string]*deviceState{},
		taken:    map[string]string{},
	}
	publish := cfg.Publish
	if len(publish) == 0 {
		publish = DefaultPublish()
	}
	err := checkName("gateway", cfg.Gateway)
	for _, p := range publish {
		wrong := p.check()
		if wrong == nil {
			var t *table
			t, wrong = m.ready(p)
			m.publish = append(m.publish, t)
		}
		err = errors.Join(err, wrong)
	}
	if err != nil {
		return nil, err
	}
	for _, dev := range cfg.Devices {
		err = errors.Join(err, m.add(dev))
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// add takes in a device.
func (m *Mapper) add(dev *Device) error {
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
	errs := []error{m.have(d.status, "the state of device "+dev.ID)}
	for _, p := range dev.Points {
		errs = append(errs, m.addPoint(d, p))
	}
	for _, p := range dev.Computed {
		errs = append(errs, m.addPoint(d, p))
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
	d.routes = make([]route, len(m.publish))
	for i, t := range m.publish {
		if t.Per == "device" && t.wants(dev) {
			errs = append(errs, m.claim(&d.routes[i], t, dev, nil))
		}
		if t.kind == formatTemplate && t.wants(dev) {
			errs = append(errs, m.tryTemplate(t, d))
		}
	}
	return errors.Join(errs...)
}

func (m *Mapper) addPoint(d *deviceState, p *Point) error {
	if err := m.checkPoint(d, p); err != nil {
		return err
	}
	ps := &pointState{Point: p, routes: make([]route, len(m.publish)), current: Current{Point: p}}
	if p.Kind == Counter {
		ps.tally = new(Tally)
	}
	if p.Policy.Window > 0 || p.Policy.MinInterval > 0 {
		ps.waiting = new(waiting)
	}
	ps.name()
	d.points = append(d.points, ps)
	d.byPoint[p.Point], d.byName[p.Name] = ps, ps
	var errs []error
	for i, t := range m.publish {
		if !t.wants(d.Device) || p.Hidden {
			continue
		}
		if t.Per == "point" {
			errs = append(errs, m.claim(&ps.routes[i], t, d.Device, p))
		}
		if t.kind == formatSenML {
			errs = append(errs, m.claimSenML(t, d.Device, p, ps.senml))
		}
	}
	return errors.Join(errs...)
}

// name writes what p is called in the payloads of the formats.
func (p *pointState) name() {
	p.key = string(appendString(nil, p.Name)) + ":"
	p.field, p.whole = string(appendLineKey(nil, p.Name, ",= ")), wholeNumbers(p.Point)
	p.senml = senmlName(p.Name)
	if p.Unit == "" {
		return
	}
	p.unit = `,"unit":` + string(appendString(nil, p.Unit))
	if u, ok := senmlUnits[p.Unit]; ok {
		p.senmlUnit, p.senmlScale = `,"u":"`+u.name+`"`, u.factor
	}
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
	objects := slices.ContainsFunc(m.publish, func(t *table) bool { return t.kind == formatJSON && t.Per == "device" && t.wants(d.Device) })
	if objects && slices.Contains(reserved, p.Name) {
		return fmt.Errorf("%s: the device's object has a member %q of its own: rename the point", place(d.Device, p), p.Name)
	}
	if err := p.Policy.check(); err != nil {
		return fmt.Errorf("%s: %w", place(d.Device, p), err)
	}
	if p.Write != nil && slices.Contains(envelope, p.Name) {
		return fmt.Errorf("%s: %q has a meaning of its own in commands: rename the point", place(d.Device, p), p.Name)
	}
	return nil
}

// claim fills the route of t and makes sure that nobody else publishes there.
func (m *Mapper) claim(r *route, t *table, dev *Device, p *Point) (err error) {
	if r.topic, err = t.topic(m.gateway, dev, p); err != nil {
		return err
	}
	if _, _, verb := m.splitTopic(r.topic); verb != "" {
		return fmt.Errorf("publish %s: topic %q for %s: commands arrive there", t.Name, r.topic, place(dev, p))
	}
	if err := m.have(r.topic, place(dev, p)); err != nil {
		return fmt.Errorf("publish %s: topic %w", t.Name, err)
	}
	switch t.kind {
	case formatInflux:
		r.head, err = t.lineHead(m.gateway, dev, p)
	case formatSenML:
		r.head, _, err = t.senmlHead(m.gateway, dev, p)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %s: %w", t.Name, place(dev, p), err)
	}
	return nil
}

// claimSenML makes sure that no two points have the same name in SenML, which
// is to be unique everywhere.
func (m *Mapper) claimSenML(t *table, dev *Device, p *Point, name string) error {
	of := p
	if t.Per == "device" {
		of = nil
	}
	_, base, err := t.senmlHead(m.gateway, dev, of)
	if err != nil {
		return fmt.Errorf("publish %s: %s: %w", t.Name, place(dev, p), err)
	}
	if err := m.have(t.Name+"\x00"+base+name, place(dev, p)); err != nil {
		return fmt.Errorf("publish %s: the SenML name %q, in which other characters than letters, digits and - : . / _ become _, is not unique: set base_name, or rename one (%s)", t.Name, base+name, place(dev, p))
	}
	return nil
}

// have notes that what belongs to who, unless someone else has it.
func (m *Mapper) have(what, who string) error {
	if other, ok := m.taken[what]; ok {
		return fmt.Errorf("%q is both for %s and for %s", what, other, who)
	}
	m.taken[what] = who
	return nil
}

// A Route is where the readings of a point go by one table.
type Route struct {
	*Publish
	Topic string
}

// Routes returns where the readings of a point go, alone or in an object of
// its device, in the order of the tables. Anybody may call it.
func (m *Mapper) Routes(dev *Device, p *Point) (routes []Route) {
	d := m.byDevice[dev.Device]
	if d == nil || d.byPoint[p.Point] == nil {
		return nil
	}
	ps := d.byPoint[p.Point]
	for i, t := range m.publish {
		if topic := cmp.Or(ps.routes[i].topic, d.routes[i].topic); topic != "" {
			routes = append(routes, Route{&t.Publish, topic})
		}
	}
	return routes
}

// Publishes reports whether m publishes readings on topic. Anybody may call
// it.
func (m *Mapper) Publishes(topic string) bool { return m.taken[topic] != "" }

// A Remark is what a device's status says besides its state: who set the device
// aside, why, and until when (RFC 3339). Empty parts are left out.
type Remark struct{ By, Note, Until string }

// Remark has r be in the status of dev from the next batch on.
func (m *Mapper) Remark(dev *devices.Device, r Remark) {
	if d := m.byDevice[dev]; d != nil && d.remark != r {
		d.remark, d.stated = r, false
	}
}

// AppendMessages appends what b is to the world, its times as c has them: the
// device's status if it changed, the points that are worth it, and objects of
// them; before these what had waited and must not wait longer. The messages
// are valid until the next call. A batch of a device that m does not know,
// after a reload, is nothing.
func (m *Mapper) AppendMessages(dst []broker.Message, b *devices.Batch, c broker.Clock) []broker.Message {
	d := m.byDevice[b.Device]
	if d == nil {
		return dst
	}
	m.out.reset(c)
	m.news = m.news[:0]
	m.decode(d, b)
	dst = m.appendPassed(dst, d)
	m.cycle++
	at := m.take(d, c.Offset)
	if !d.stated || d.state != b.State {
		d.state, d.stated = b.State, true
		dst = append(dst, m.statusMessage(d))
	}
	return m.appendTables(dst, d, at)
}

// decode reads the batch. Exponents come first, wherever they stand.
func (m *Mapper) decode(d *deviceState, b *devices.Batch) {
	m.batch++
	m.fresh = m.fresh[:0]
	d.due = false
	m.latest = m.decodeSome(d, b, false)
	if d.scaled {
		m.decodeSome(d, b, true)
	}
	d.latest = max(d.latest, m.latest)
	m.compute(d)
}

// decodeSome reads those points that need an exponent, or not.
func (m *Mapper) decodeSome(d *deviceState, b *devices.Batch, scaled bool) (latest devices.Stamp) {
	for i := range b.Readings {
		r := &b.Readings[i]
		latest = max(latest, r.At)
		if p := d.byPoint[r.Point]; p != nil && scaled == (p.factor != nil) {
			before := p.current.Cause
			p.read(r)
			m.settle(d, p, before)
		}
	}
	return latest
}

// read decodes a reading, with the exponent that was read last.
func (p *pointState) read(r *devices.Reading) {
	p.current = Current{Point: p.Point, At: r.At}
	err := r.Err
	switch {
	case err != nil:
	case p.factor == nil:
		p.current.Value, err = Decode(p.Point, r.Raw)
	case !p.factor.current.Good():
		err = errNoFactor
	default:
		p.current.Value, err = p.decodeBy(r.Raw, p.factor.current.Value)
	}
	if err != nil {
		p.current.fail(err)
	}
}

// settle goes on with what p has got; before is the cause that it had.
func (m *Mapper) settle(d *deviceState, p *pointState, before string) {
	p.batch = m.batch
	m.fresh = append(m.fresh, p)
	if p.tally != nil && p.current.Good() {
		p.count()
	}
	if p.newsworthy(before) {
		m.news = append(m.news, p.tell(d.Device))
	}
	for _, h := range p.histories {
		h.update(m.out.clock, m.zone)
	}
}

// count compares a reading of a counter with those before it.
func (p *pointState) count() {
	before := *p.tally
	var err error
	if *p.tally, p.current.Counter, err = p.follow(before, p.current.Value, p.current.At); err != nil {
		p.current.fail(err)
	}
	if p.current.Counter == Wrapped {
		p.over, _, _ = p.overTop(before.last, p.tally.last, p.grain(before.last, p.tally.last))
	}
}

// appendPassed appends what waited and has to be published before the fresh
// readings are.
func (m *Mapper) appendPassed(dst []broker.Message, d *deviceState) []broker.Message {
	var at devices.Stamp
	for _, p := range m.fresh {
		if !p.dueBefore(&p.current) {
			continue
		}
		if !d.due {
			m.cycle++
		}
		at = max(at, m.flush(d, p, p.current.At))
	}
	return m.appendTables(dst, d, at)
}

// flush publishes what waits of p and returns the time of that, 0 if it is
// not worth it.
func (m *Mapper) flush(d *deviceState, p *pointState, now devices.Stamp) devices.Stamp {
	if !p.flush(now) {
		return 0
	}
	d.due, p.due, p.cycle = true, true, m.cycle
	return p.out.At
}

// take decides about the fresh readings and returns the latest of their times.
func (m *Mapper) take(d *deviceState, offset int64) devices.Stamp {
	d.due = false
	for _, p := range m.fresh {
		p.due = !p.Hidden && p.take(offset)
		p.cycle = m.cycle
		d.due = d.due || p.due
		m.await(p.until)
	}
	return m.latest
}

// await notes that something has to be published at that time; 0: nothing.
func (m *Mapper) await(at devices.Stamp) {
	if at != 0 && (m.next == 0 || at < m.next) {
		m.next = at
	}
}

// NextDue returns when AppendDue has to be called, 0 if nothing waits. It may
// be early, and is right after the call.
func (m *Mapper) NextDue() devices.Stamp { return m.next }

// AppendDue appends what had to wait until now, its times as c has them. The
// messages are valid until the next call.
func (m *Mapper) AppendDue(dst []broker.Message, now devices.Stamp, c broker.Clock) []broker.Message {
	if m.next == 0 || now < m.next {
		return dst
	}
	return m.appendWaiting(dst, now, now, c)
}

// AppendHeld appends all that waits, before its time: for the end.
func (m *Mapper) AppendHeld(dst []broker.Message, now devices.Stamp, c broker.Clock) []broker.Message {
	if m.next == 0 {
		return dst
	}
	return m.appendWaiting(dst, now, math.MaxInt64, c)
}

// appendWaiting appends, at now, what was to be published by until.
func (m *Mapper) appendWaiting(dst []broker.Message, now, until devices.Stamp, c broker.Clock) []broker.Message {
	m.out.reset(c)
	m.next = 0
	for _, d := range m.devices {
		m.cycle++
		d.due = false
		var at devices.Stamp
		for _, p := range d.points {
			if p.until != 0 && p.until <= until {
				at = max(at, m.flush(d, p, now))
			}
			m.await(p.until)
		}
		dst = m.appendTables(dst, d, at)
	}
	return dst
}

// appendTables appends what all tables make of the points of d that are due;
// at is the time of objects.
func (m *Mapper) appendTables(dst []broker.Message, d *deviceState, at devices.Stamp) []broker.Message {
	if !d.due {
		return dst
	}
	for i := range m.publish {
		dst = m.appendTable(dst, d, i, at)
	}
	return dst
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
	case c.Counter == Reset && p.Resets: // as it does each day
		return false
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
