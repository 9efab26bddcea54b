package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
)

// A bus is one while it is being read.
type bus struct {
	key     string
	at      *node // nil: implied by a device's URL
	pub     *Bus
	line    serial.Config // of its port, or of the line behind a TCP gateway
	behind  bool          // it is the latter
	host    bool          // an endpoint of the network that may be a device itself
	users   []*deviceBuilder
	claimed map[byte]*deviceBuilder
}

// place is where the bus was written: its table, or the device that implies
// it.
func (b *bus) place() *node {
	if b.at == nil {
		return b.users[0].raw.Bus.at
	}
	return b.at
}

// readBuses makes the buses of the [bus] tables.
func (l *loader) readBuses(raw tables[rawBus]) {
	for _, e := range raw.V {
		if wrong := checkName(e.key); wrong != "" {
			l.errorKey(e.at, "the bus name %q %s", e.key, wrong)
		}
		b := &bus{key: e.key, at: e.at, pub: &Bus{ID: e.key}, claimed: make(map[byte]*deviceBuilder)}
		l.buses = append(l.buses, b)
		l.readBus(b, e.value)
		l.checkShared(b, e.value)
	}
}

func (l *loader) readBus(b *bus, raw *rawBus) {
	p := b.pub
	p.Protocol = Modbus
	switch raw.Protocol.V {
	case "", Modbus:
	case Lines, Frames:
		p.Protocol = raw.Protocol.V
	default:
		l.errorAt(raw.Protocol.at, "there is no protocol %q; there is %q, %q and %q%s", raw.Protocol.V, Modbus, Lines, Frames,
			didYouMean(nearest(raw.Protocol.V, []string{Modbus, Lines, Frames})))
	}
	raw.Timeout.atLeast(l.binder, time.Millisecond, "the timeout")
	p.Modbus.Timeout = raw.Timeout.V
	raw.Delay.atLeast(l.binder, 0, "the delay")
	p.Modbus.ConnectDelay = raw.Delay.V
	l.readPhase(b, &raw.Phase)
	if !raw.Address.set() {
		if raw.at.child("address") == nil {
			l.errorKey(raw.at, `bus %q needs an address: a port such as "/dev/serial/by-id/…" or a URL such as "tcp://192.168.10.5:502"`, b.key)
		}
		return
	}
	a, err := parseAddress(raw.Address.V)
	if err != nil {
		l.errorAt(raw.Address.at, "%v", err)
		return
	}
	p.Address = a.text
	if a.serial() {
		l.readPort(b, raw)
	} else {
		l.readEndpoint(b, raw, a)
	}
	l.readPipeline(b, raw, a)
	p.Modbus.TLS, _ = l.readEncryption(&raw.rawTLS, raw.at, a.scheme == "tls", "is the address tls://?")
}

// When the cycles of a bus begin.
const (
	Staggered = "staggered"
	Aligned   = "aligned"
)

func (l *loader) readPhase(b *bus, t *text) {
	known := []string{Staggered, Aligned}
	switch {
	case !t.set():
	case b.pub.Protocol != Modbus:
		l.errorKey(t.at, "phase is of a bus that is asked; on this one devices speak when they like")
	case !slices.Contains(known, t.V):
		l.errorAt(t.at, "there is no phase %q; there is %q and %q%s", t.V, known[0], known[1], didYouMean(nearest(t.V, known)))
	}
	b.pub.Aligned = t.V == Aligned
}

// readPipeline reads how many requests may be outstanding.
func (l *loader) readPipeline(b *bus, raw *rawBus, a address) {
	n := raw.Pipeline
	if !n.set() || !n.within(l.binder, 1, modbus.MaxPipeline, "pipeline") {
		return
	}
	b.pub.Modbus.Pipeline = int(n.V)
	switch {
	case b.pub.Protocol != Modbus:
		l.errorKey(n.at, "pipeline is of Modbus; this bus carries %s", b.pub.Protocol)
	case n.V == 1:
	case a.serial():
		l.errorKey(n.at, "pipeline is of connections that carry Modbus TCP; a serial line carries one request at a time")
	case !a.host():
		l.errorKey(n.at, "pipeline is of tcp://, tls:// and udp://; the answers in %s:// do not say which request they answer", a.scheme)
	case raw.Behind.set():
		l.errorKey(n.at, "pipeline does not go with behind: the serial line behind the gateway carries one request at a time")
	default:
		return
	}
	b.pub.Modbus.Pipeline = 0
}

// readPort reads a bus on a serial port of this machine.
func (l *loader) readPort(b *bus, raw *rawBus) {
	b.line = l.readLine(&raw.rawLine)
	b.line.Path = b.pub.Address
	b.line.RS485 = l.readRS485(b, &raw.RS485)
	b.line.LowLatency = raw.LowLatency.V
	b.line.DTR, b.line.RTS = level(raw.DTR), level(raw.RTS)
	if raw.RTS.set() && raw.RS485.set() {
		l.errorKey(raw.RTS.at, "with rs485 it is RTS that switches the direction, so that it cannot be held; keep one of the two")
	}
	l.readFraming(b, raw)
	if raw.at.child("baud") == nil {
		l.errorKey(raw.at, "bus %q needs baud, the speed its devices are set to, such as 9600", b.key)
	}
	if raw.Behind.set() {
		l.errorKey(raw.Behind.at, "behind is for a serial line behind a TCP gateway; this bus is a port of this machine: give it baud and format")
	}
}

// level is how a modem line is to be held.
func level(b boolean) serial.Level {
	switch {
	case !b.set():
		return serial.LevelUsual
	case b.V:
		return serial.LevelOn
	}
	return serial.LevelOff
}

// readRS485 reads who switches the direction of a line.
func (l *loader) readRS485(b *bus, raw *rawRS485) (r serial.RS485) {
	if !raw.set() {
		return r
	}
	r = serial.RS485{Direction: serial.DirectionAuto, Before: raw.Before.V, After: raw.After.V}
	if raw.RTS.set() {
		var err error
		if r.Direction, err = serial.ParseDirection(raw.RTS.V); err != nil {
			l.errorAt(raw.RTS.at, "%v", err)
		}
	}
	for _, d := range []duration{raw.Before, raw.After} {
		if d.set() && d.V > 100*time.Millisecond {
			l.errorAt(d.at, "%s is longer than 100ms; such a delay is a few milliseconds at most", d.at.value)
		}
	}
	if r.Direction == serial.DirectionRTS && b.line.Baud > 19200 {
		l.warnKey(raw.at, "above 19200 baud a program switches RTS too late for devices that answer at once; take an adapter that does so by itself, or rts = \"kernel\"")
	}
	return r
}

// readFraming reads how frames look on a serial port.
func (l *loader) readFraming(b *bus, raw *rawBus) {
	f := raw.Framing
	known := []string{modbus.FramingRTU, modbus.FramingASCII}
	switch {
	case !f.set():
	case b.pub.Protocol == Lines:
		l.errorKey(f.at, "framing is of Modbus; this bus carries lines")
	case !slices.Contains(known, f.V):
		l.errorAt(f.at, "there is no framing %q; there is %q and %q%s", f.V, known[0], known[1], didYouMean(nearest(f.V, known)))
	}
	b.pub.Modbus.Framing = f.V
}

// readEndpoint reads a bus on the network.
func (l *loader) readEndpoint(b *bus, raw *rawBus, a address) {
	for _, n := range []*node{raw.RS485.at, raw.LowLatency.at, raw.DTR.at, raw.RTS.at} {
		if n != nil {
			l.errorKey(n, "%s is of a serial port of this machine, not of an endpoint of the network", n.keyText())
		}
	}
	if n := raw.Framing.at; n != nil {
		l.errorKey(n, "framing is of a serial port; of a URL the scheme says it, such as rtu+tcp:// or ascii+tcp://")
	}
	for _, n := range []*node{raw.Baud.at, raw.Format.at} {
		if n != nil {
			l.errorKey(n, `%s is of a serial port; for a serial line behind a TCP gateway write behind = { baud = 9600, format = "8N1" }`, n.keyText())
		}
	}
	if b.pub.Protocol != Modbus && a.scheme != "tcp" {
		l.errorAt(raw.Address.at, "%s are read from serial ports and tcp:// only, not from %s://", b.pub.Protocol, a.scheme)
	}
	b.host = a.host()
	if !raw.Behind.set() {
		return
	}
	b.host, b.behind = false, true
	b.line = l.readLine(&raw.Behind.rawLine)
	if raw.Behind.at.child("baud") == nil {
		l.errorKey(raw.Behind.at, "behind needs baud, the speed of the line behind the gateway, such as 9600")
	}
}

// readLine reads speed and format of a serial line.
func (l *loader) readLine(raw *rawLine) serial.Config {
	raw.Baud.within(l.binder, 50, 4_000_000, "baud")
	c := serial.Config{Baud: int(raw.Baud.V), Format: serial.DefaultFormat}
	if !raw.Format.set() {
		return c
	}
	f, err := serial.ParseFormat(raw.Format.V)
	if err != nil {
		l.errorAt(raw.Format.at, "%v", err)
		return c
	}
	c.Format = f.String()
	return c
}

// checkShared finds another bus at the same address: two owners of one port
// disturb each other.
func (l *loader) checkShared(b *bus, raw *rawBus) {
	for _, other := range l.buses[:len(l.buses)-1] {
		if other.pub.Address != b.pub.Address || b.pub.Address == "" {
			continue
		}
		if b.line.Path != "" {
			l.errorAt(raw.Address.at, "bus %q has the same port; let the devices share one bus", other.key)
		} else {
			l.warnAt(raw.Address.at, "bus %q has the same address, so that there are two connections to it", other.key)
		}
	}
}

// An address says where a bus is.
type address struct {
	text   string // normal form
	scheme string // "" for a serial port
}

func (a address) serial() bool { return a.scheme == "" }

// host reports whether it may be that of a device itself, not of a converter
// to a serial line.
func (a address) host() bool { return a.scheme == "tcp" || a.scheme == "tls" || a.scheme == "udp" }

// busSchemes are the URLs that a bus may have.
var busSchemes = modbus.Schemes()

// ParseAddress reads the address of a bus, a port's path or a URL, and returns it
// in its normal form: with its port number.
func ParseAddress(s string) (string, error) {
	a, err := parseAddress(s)
	return a.text, err
}

// parseAddress reads a port's path or a URL.
func parseAddress(s string) (address, error) {
	if !strings.Contains(s, "://") {
		if !strings.HasPrefix(s, "/") {
			return address{}, fmt.Errorf(`%q is no address; write a port with its whole path such as "/dev/ttyUSB0", or a URL such as "tcp://%s"`, s, s)
		}
		return address{text: s}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return address{}, fmt.Errorf("%q is no URL: %w", s, plainURL(err))
	}
	if !slices.Contains(busSchemes, u.Scheme) {
		return address{}, fmt.Errorf("a bus cannot be reached by %s://; there is %s:// and the path of a port%s", u.Scheme,
			strings.Join(busSchemes, "://, "), didYouMean(nearest(u.Scheme, busSchemes)))
	}
	if u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" {
		return address{}, fmt.Errorf("%q must be %s://HOST:PORT and nothing more", s, u.Scheme)
	}
	port := u.Port()
	if port == "" {
		port = modbus.DefaultPort(u.Scheme)
	}
	return address{text: u.Scheme + "://" + net.JoinHostPort(u.Hostname(), port), scheme: u.Scheme}, nil
}

// plainURL is err without the URL, which the caller names already.
func plainURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// busOf finds the bus of a device, or makes the one that its URL implies. It
// is nil if there is none, which is reported.
func (l *loader) busOf(d *deviceBuilder, n *node) *bus {
	t := d.raw.Bus
	if !t.set() {
		if n.child("bus") == nil {
			l.errorKey(n, `device %q needs bus = "NAME", or a URL such as "tcp://192.168.10.5:502"`, d.key)
		}
		return nil
	}
	b := l.findBus(d, t)
	if b != nil {
		b.users = append(b.users, d)
		b.pub.Devices = append(b.pub.Devices, d.dev)
	}
	return b
}

func (l *loader) findBus(d *deviceBuilder, t text) *bus {
	for _, b := range l.buses {
		if b.key == t.V {
			return b
		}
	}
	if strings.HasPrefix(t.V, "/") {
		l.errorAt(t.at, "a serial port needs its speed too: write [bus.NAME] with address, baud and format, and bus = \"NAME\" here")
		return nil
	}
	if strings.Contains(t.V, "://") {
		return l.impliedBus(t)
	}
	if l.incomplete {
		return nil // it may be in the file that could not be read
	}
	var known []string
	for _, b := range l.buses {
		known = append(known, b.key)
	}
	hint := didYouMean(nearest(t.V, known))
	if hint == "" {
		hint = fmt.Sprintf("; write [bus.%s] with its address, or a URL here", t.V)
	}
	l.errorAt(t.at, "device %q names the bus %q, but there is no such bus%s", d.key, t.V, hint)
	return nil
}

// impliedBus returns the bus with the address of a URL. All devices with the
// same URL share it.
func (l *loader) impliedBus(t text) *bus {
	a, err := parseAddress(t.V)
	if err != nil {
		l.errorAt(t.at, "%v", err)
		return nil
	}
	for _, b := range l.buses {
		if b.pub.Address == a.text {
			return b
		}
	}
	b := &bus{key: a.text, host: a.host(), claimed: make(map[byte]*deviceBuilder),
		pub: &Bus{ID: a.text, Protocol: Modbus, Address: a.text}}
	l.buses = append(l.buses, b)
	return b
}

// setUnit reads how a device is reached on its bus.
func (l *loader) setUnit(d *deviceBuilder, n *node) {
	switch d.bus.pub.Protocol {
	case Lines:
		l.setLines(d)
		return
	case Frames:
		l.setFrames(d)
		return
	}
	for _, x := range append(d.raw.lineKeys(), d.raw.Line.at) {
		if x != nil {
			l.errorKey(x, "bus %q speaks Modbus; sentences come on a bus with protocol = %q", d.bus.key, Lines)
		}
	}
	if x := d.raw.Frame.at; x != nil {
		l.errorKey(x, "bus %q speaks Modbus; frames of other kinds come on a bus with protocol = %q", d.bus.key, Frames)
	}
	if !d.raw.UnitID.set() {
		if n.child("unit_id") == nil {
			l.errorKey(n, "device %q needs unit_id, the Modbus unit identifier (\"slave address\") it is set to", d.key)
		}
		return
	}
	id := d.raw.UnitID.V
	special := id == 0 || id == 255
	d.all = id == 0 && !d.bus.host
	if (id < 1 || id > 247) && !(special && d.bus.host) && !d.all {
		hint := ""
		if special {
			hint = ", and 0 or 255 only where a tcp://, tls:// or udp:// address is the device itself"
		}
		l.errorAt(d.raw.UnitID.at, "unit_id %d cannot be used: devices have 1 to 247%s", id, hint)
		return
	}
	d.raw.MaxRead.within(l.binder, 1, 125, "max_read")
	d.raw.Pause.atLeast(l.binder, 0, "the pause")
	d.raw.Delay.atLeast(l.binder, 0, "the delay")
	d.bus.pub.Modbus.ConnectDelay = max(d.bus.pub.Modbus.ConnectDelay, d.raw.Delay.V)
	d.dev.Unit = modbus.Unit{
		ID: byte(id), MaxRead: uint16(d.raw.MaxRead.V), Gaps: d.raw.Gaps.V,
		Timeout: d.raw.Timeout.V, Pause: d.raw.Pause.V, Quirks: l.quirks(d), SunSpec: l.sunSpec(d),
	}
	l.checkClaimed(d)
}

// quirks reads what a device does not bear; nil is none of it.
func (l *loader) quirks(d *deviceBuilder) *modbus.Quirks {
	q := &modbus.Quirks{Forbid: l.ranges(d.raw.Forbid), Blocks: l.ranges(d.raw.Blocks), Single: d.raw.Single.V}
	for _, t := range d.raw.FromZero.V {
		table, err := modbus.ParseTable(t.V)
		if err != nil {
			l.errorAt(t.at, "%v", err)
			continue
		}
		q.FromZero = append(q.FromZero, table)
	}
	if !q.Single && len(q.Forbid)+len(q.Blocks)+len(q.FromZero) == 0 {
		return nil
	}
	return q
}

func (l *loader) ranges(list texts) (all []modbus.Range) {
	for _, t := range list.V {
		r, err := modbus.ParseRange(t.V)
		if err != nil {
			l.errorAt(t.at, "%v", err)
			continue
		}
		all = append(all, r)
	}
	return all
}

func (l *loader) checkClaimed(d *deviceBuilder) {
	id := byte(d.raw.UnitID.V)
	if other, taken := d.bus.claimed[id]; taken {
		l.warnAt(d.raw.UnitID.at, "device %q on bus %q has unit_id %d too, so that it is read twice", other.key, d.bus.key, id)
	}
	d.bus.claimed[id] = d
}

// finishBuses completes what needs the devices, and finds unused buses.
func (l *loader) finishBuses() {
	for _, b := range l.buses {
		if len(b.users) == 0 && !l.incomplete && l.Errors() == 0 {
			l.warnKey(b.at, "no device is on bus %q", b.key)
		}
		b.finish()
		l.cfg.Buses = append(l.cfg.Buses, b.pub)
	}
}

// finish writes what was read of the bus in the form its protocol wants.
func (b *bus) finish() {
	p := b.pub
	if p.Protocol != Modbus {
		p.Modbus = modbus.Config{}
		b.finishPolls()
		p.Lines.Serial = b.line
		p.Lines.Address = strings.TrimPrefix(p.Address, "tcp://")
		if b.line.Path != "" {
			p.Lines.Address = ""
		}
		return
	}
	p.Modbus.URL, p.Modbus.Serial = p.Address, b.line
	if b.behind {
		p.Modbus.Behind, p.Modbus.Serial = &b.line, serial.Config{}
	}
}
