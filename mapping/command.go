package mapping

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strings"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
)

// A Command is what someone asks a device to do, checked in all that can be
// checked without asking it.
type Command struct {
	Device *Device
	Sets   []Set    // writes, in the order they were given
	Get    bool     // read now instead: Points, or all without any
	Points []*Point // of a Get

	// ID is the sender's, "" for none: a command whose ID was seen before is
	// a repetition.
	ID      string
	several bool // it came on _set
	// Deadline is when it expires by the MQTT 5 message expiry, and Expires
	// by what the payload says; zero: never. See Live.
	Deadline devices.Stamp
	Expires  time.Time
	From     string // user who sent it
	Client   string // id of the client that did, "" for others
	Received devices.Stamp
	Retained bool // it is the last of its kind, which may be older than this process
	Reply    Reply
}

// Scope is what IDs are told apart within: the topic, in the terms of the
// configuration.
func (c *Command) Scope() string {
	if len(c.Sets) == 1 && !c.several {
		return c.Device.ID + "/" + c.Sets[0].Point.Name
	}
	return c.Device.ID + "/_set"
}

// A Set is one value to write.
type Set struct {
	Point *Point
	Value Value
	Raw   []byte // as devices.Line.Write wants it
}

// A Reply says where a command is answered. Topic may have been chosen by the
// sender (the MQTT 5 response topic): whoever publishes there makes sure that
// the sender might have done so.
type Reply struct {
	Topic       string
	Correlation []byte
}

var (
	// ErrNoCommand means that a message is none for this gateway, by its
	// topic. It needs no answer.
	ErrNoCommand = errors.New("not a command")
	// ErrNoDevice means that a command names a device this Mapper does not
	// know; another one may.
	ErrNoDevice = errors.New("no such device")
	// ErrExpired means that a command came too late.
	ErrExpired = errors.New("expired")
)

// maxCommand is the longest payload of a command, in bytes.
const maxCommand = 64 << 10

// envelope are the members of a command's object that are no points.
var envelope = []string{"value", "id", "expires"}

// Command reads a message on one of
//
//	NAME/DEVICE/POINT/set   21.5, or {"value":21.5,"id":"a","expires":"2026-11-20T23:06:00Z"}
//	NAME/DEVICE/_set        {"mode":"auto","setpoint":21.5,"id":"a","expires":1795215960}
//	NAME/DEVICE/_get        nothing, or {"points":["mode"],"id":"a"}
//
// Any error other than ErrNoCommand is a rejection that says why in words fit
// for the answer; the Command then still has Reply and what else was read.
// Nothing of the message is kept.
func (m *Mapper) Command(msg *broker.Message) (Command, error) {
	device, point, verb := m.splitTopic(msg.Topic)
	if verb == "" {
		return Command{}, ErrNoCommand
	}
	c := Command{
		Get: verb == "_get", several: verb == "_set", From: msg.From, Client: msg.Client,
		Received: devices.Stamp(msg.Stamp), Retained: msg.Retain, Reply: m.reply(msg),
	}
	if p := msg.Props; p != nil && p.Expiry != nil {
		c.Deadline = devices.Stamp(msg.Stamp + int64(*p.Expiry)*int64(time.Second))
	}
	d := m.byName[device]
	switch {
	case d == nil:
		return c, fmt.Errorf("%w: %q", ErrNoDevice, device)
	case msg.Retain && !m.retained:
		return c, errors.New("retained: a command must not fire again later; send it without, or set retained = true in [commands]")
	case len(msg.Payload) > maxCommand:
		return c, fmt.Errorf("longer than %d bytes", maxCommand)
	}
	c.Device = d.Device
	switch verb {
	case "set":
		return c, c.readSet(d, point, msg.Payload)
	case "_set":
		return c, c.readSets(d, msg.Payload)
	}
	return c, c.readGet(d, msg.Payload)
}

// Write is Command for those who have no message: the command line. device is
// a name or an ID and text is as after …/set.
func (m *Mapper) Write(device, point string, text []byte) (Command, error) {
	d := m.byName[device]
	if d == nil {
		d = m.byID(device)
	}
	if d == nil {
		return Command{}, fmt.Errorf("%w: %q", ErrNoDevice, device)
	}
	c := Command{Device: d.Device}
	return c, c.readSet(d, point, text)
}

// splitTopic takes a command topic apart; verb is "" for any other topic.
func (m *Mapper) splitTopic(topic string) (device, point, verb string) {
	rest, ours := strings.CutPrefix(topic, m.gateway+"/")
	if !ours || strings.Count(rest, "/") > 2 {
		return "", "", ""
	}
	switch levels := strings.Split(rest, "/"); {
	case len(levels) == 3 && levels[2] == "set":
		return levels[0], levels[1], "set"
	case len(levels) == 2 && (levels[1] == "_set" || levels[1] == "_get"):
		return levels[0], "", levels[1]
	}
	return "", "", ""
}

// reply takes the sender's response topic unless it lies among the gateway's
// own or the broker's: no one gets the gateway to publish a value for him.
func (m *Mapper) reply(msg *broker.Message) Reply {
	r := Reply{Topic: msg.Topic + "/result"}
	if msg.Props == nil {
		return r
	}
	r.Correlation = bytes.Clone(msg.Props.Correlation)
	topic := msg.Props.ResponseTopic
	if checkTopic(topic) == nil && topic != m.gateway && !strings.HasPrefix(topic, m.gateway+"/") {
		r.Topic = strings.Clone(topic)
	}
	return r
}

func (c *Command) readSet(d *deviceState, name string, payload []byte) error {
	p := d.byName[name]
	if p == nil {
		return noPoint(d, name)
	}
	value, err := c.open(p.Point, payload)
	if err != nil {
		return err
	}
	return c.add(p.Point, value)
}

func noPoint(d *deviceState, name string) error {
	return fmt.Errorf("device %s has no point %q", d.Name, name)
}

// open takes the value out of its envelope, if it has one.
func (c *Command) open(p *Point, payload []byte) (value []byte, err error) {
	if text := bytes.TrimSpace(payload); len(text) == 0 || text[0] != '{' {
		return text, nil
	}
	all, err := members(payload)
	if err != nil {
		return nil, err
	}
	if len(p.Bits) > 0 && !slices.ContainsFunc(all, func(m member) bool { return m.name == "value" }) {
		return payload, nil
	}
	for _, m := range all {
		switch taken, err := c.takeEnvelope(m); {
		case err != nil:
			return nil, err
		case m.name == "value":
			value = m.value
		case !taken:
			return nil, fmt.Errorf("%q is not known: one of %s", m.name, strings.Join(envelope, ", "))
		}
	}
	if value == nil {
		return nil, errors.New(`without "value"`)
	}
	return value, nil
}

// takeEnvelope reads the members that come with any command.
func (c *Command) takeEnvelope(m member) (taken bool, err error) {
	switch m.name {
	case "id":
		c.ID, err = parseID(m.value)
	case "expires":
		c.Expires, err = parseExpires(m.value)
	default:
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("%s: %w", m.name, err)
	}
	return true, nil
}

// add checks value and appends it to the writes.
func (c *Command) add(p *Point, value []byte) error {
	if len(value) > 0 && (value[0] == '[' || value[0] == '{' && len(p.Bits) == 0) {
		return errors.New("want one value, not a list or an object")
	}
	v, err := ParseValue(p, value)
	if err != nil {
		return err
	}
	s, err := NewSet(p, v)
	if err != nil {
		return err
	}
	c.Sets = append(c.Sets, s)
	return nil
}

// NewSet returns the write of v to p, or why it may not be.
func NewSet(p *Point, v Value) (Set, error) {
	v = p.unblur(v)
	if err := p.CheckWrite(v); err != nil {
		return Set{}, err
	}
	raw, err := Encode(nil, p, v)
	if err != nil {
		return Set{}, err
	}
	if _, err := Decode(p, raw); err != nil {
		return Set{}, fmt.Errorf("%s means \"no value\" to this point", v)
	}
	return Set{Point: p, Value: v, Raw: raw}, nil
}

// blur is how far a program that counts in binary floats may be off: it says
// 21.700000000000003 where it means 21.7.
var blur = big.NewRat(1, 1e12)

// unblur returns the value that v was meant to be: the nearest of p's steps, if
// it is as near as only an error of a float is, else v.
func (p *Point) unblur(v Value) Value {
	r, ok := v.rat()
	if !ok || !v.quantity() || len(p.Enum)+len(p.Bits) > 0 || p.Write == nil {
		return v
	}
	base, step := p.Offset.number().rat(), p.Scale.orOne().number().rat()
	switch {
	case p.Write.Step != nil && p.Write.Step.Mant != 0:
		base, step = new(big.Rat), p.Write.Step.number().rat()
		if p.Write.Min != nil {
			base = p.Write.Min.number().rat()
		}
	case !p.Type.Integer():
		return v
	}
	n, ok := nearest(new(big.Rat).Quo(new(big.Rat).Sub(r, base), step))
	if !ok {
		return v
	}
	near := n.rat()
	near.Mul(near, step).Add(near, base)
	off := new(big.Rat).Sub(r, near)
	if off.Sign() == 0 || off.Abs(off).Cmp(new(big.Rat).Mul(blur, new(big.Rat).Abs(r))) > 0 {
		return v
	}
	places, exact := near.FloatPrec()
	if !exact {
		return v
	}
	if m, err := parseNumber([]byte(near.FloatString(places))); err == nil {
		return numberValue(m)
	}
	return v
}

// Last returns the value of p's last reading, null if that had none.
func (m *Mapper) Last(d *Device, p *Point) Value {
	if s := m.byDevice[d.Device]; s != nil {
		if ps := s.byPoint[p.Point]; ps != nil && ps.current.Good() {
			return ps.current.Value
		}
	}
	return Value{}
}

// readSets reads an object of several points. One that is refused refuses all,
// so that none is written alone.
func (c *Command) readSets(d *deviceState, payload []byte) error {
	all, err := members(payload)
	if err != nil {
		return err
	}
	var wrong []string
	for _, m := range all {
		taken, err := c.takeEnvelope(m)
		if !taken {
			err = c.addNamed(d, m)
		}
		if err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	switch {
	case len(wrong) > 0:
		return errors.New(strings.Join(wrong, "; "))
	case len(c.Sets) == 0:
		return errors.New("names no point")
	}
	return nil
}

func (c *Command) addNamed(d *deviceState, m member) error {
	p := d.byName[m.name]
	if p == nil {
		return noPoint(d, m.name)
	}
	if err := c.add(p.Point, m.value); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}

func (c *Command) readGet(d *deviceState, payload []byte) error {
	if len(bytes.TrimSpace(payload)) == 0 {
		return nil
	}
	all, err := members(payload)
	if err != nil {
		return err
	}
	for _, m := range all {
		taken, err := c.takeEnvelope(m)
		switch {
		case err != nil:
			return err
		case taken:
		case m.name != "points":
			return fmt.Errorf("%q is not known: one of points, id, expires", m.name)
		default:
			if err := c.readPoints(d, m.value); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Command) readPoints(d *deviceState, value []byte) error {
	var names []string
	if err := json.Unmarshal(value, &names); err != nil {
		return fmt.Errorf("points: want a list of names: %w", err)
	}
	for _, name := range names {
		p := d.byName[name]
		if p == nil {
			return noPoint(d, name)
		}
		if !slices.Contains(c.Points, p.Point) {
			c.Points = append(c.Points, p.Point)
		}
	}
	return nil
}

// Live reports whether c may still be carried out at now: ErrExpired, or that
// it cannot be told because wall time is not known.
func (c *Command) Live(now devices.Stamp, clock broker.Clock) error {
	if c.Deadline != 0 && now >= c.Deadline {
		return ErrExpired
	}
	switch {
	case c.Expires.IsZero():
		return nil
	case clock.Quality < broker.Interpolated:
		return errors.New("the clock is not synchronised, so expires means nothing; use the MQTT 5 message expiry")
	case !clock.Wall(int64(now)).Add(clock.Late).Before(c.Expires): // it may be so late
		return ErrExpired
	}
	return nil
}

// A member is one of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members reads a JSON object in its order. A name given twice is an error:
// readers differ on which one counts.
func members(text []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("want a JSON object")
	}
	var all []member
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, jsonError(err)
		}
		m := member{name: t.(string)} // Token returns nothing else before a colon
		if err := dec.Decode(&m.value); err != nil {
			return nil, jsonError(err)
		}
		if seen[m.name] {
			return nil, fmt.Errorf("%q is given twice", m.name)
		}
		seen[m.name] = true
		all = append(all, m)
	}
	if _, err := dec.Token(); err != nil {
		return nil, jsonError(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("more after the JSON object")
	}
	return all, nil
}

func jsonError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("JSON: it ends too early")
	}
	return fmt.Errorf("JSON: %w", err)
}

// parseID reads a string or a number, whose digits are taken as text.
func parseID(value []byte) (string, error) {
	if _, err := parseNumber(value); err == nil {
		return string(value), nil
	}
	var id string
	if err := json.Unmarshal(value, &id); err != nil || id == "" || len(id) > 128 {
		return "", errors.New("want a string of 1 to 128 bytes")
	}
	return id, nil
}

// parseExpires reads RFC 3339 or Unix seconds. Milliseconds, which programs
// also count in, would lie after the year 5000 and are refused.
func parseExpires(value []byte) (time.Time, error) {
	want := errors.New("want RFC 3339 (2026-11-20T23:06:00Z) or Unix seconds")
	var text string
	if json.Unmarshal(value, &text) == nil {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return time.Time{}, want
		}
		return t, nil
	}
	n, err := parseNumber(value)
	if err != nil || n.neg || n.mant == 0 || n.float() >= 1e11 {
		return time.Time{}, want
	}
	whole, fraction := math.Modf(n.float()) // well below 2^53: the rest is exact enough to a microsecond
	return time.Unix(int64(whole), int64(fraction*1e9)).UTC(), nil
}
