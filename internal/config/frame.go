package config

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// The kinds of frames.
const (
	frameBinary   = "binary"
	frameBlock    = "block"
	frameVEDirect = "vedirect"
	frameMeter    = "iec62056"
)

var frameKinds = []string{frameBinary, frameBlock, frameVEDirect, frameMeter}

const (
	// A question that fails is asked once more before its points fail.
	defaultRetries = 1

	// A meter's call alone takes seconds, and its whole block up to minutes.
	meterEvery = time.Minute
)

// setLines reads how the lines of a device are made.
func (l *loader) setLines(d *deviceBuilder) {
	if n := d.raw.UnitID.at; n != nil {
		l.errorKey(n, "bus %q carries lines; its devices have no unit_id", d.bus.key)
	}
	if n := d.raw.Points.at; n != nil && len(n.keys) > 0 {
		l.errorKey(n, "bus %q carries lines; its points are in [device.%s.line.SENTENCE]", d.bus.key, d.key)
	}
	if n := d.raw.Frame.at; n != nil {
		l.errorKey(n, "bus %q carries lines; frames of other kinds come on a bus with protocol = %q", d.bus.key, Frames)
	}
	f, ok := l.linesOf(d)
	if !ok {
		return
	}
	if first, others := d.bus.pub.Lines.Framing.(serial.Lines); others && !sameLines(first, f) {
		l.reportOtherLines(d, first, f)
	}
	d.bus.pub.Lines.Framing, d.framing = f, f
	l.setPoll(d, []byte(d.raw.Send.V), d.raw.Retries, false)
	l.checkAllAsked(d)
}

// checkAllAsked finds a bus on which some devices are asked and others are not:
// of what these say nobody would know whose it is.
func (l *loader) checkAllAsked(d *deviceBuilder) {
	first := d.bus.users[0]
	if (len(first.raw.Send.V) > 0) != (len(d.raw.Send.V) > 0) {
		l.errorKey(d.raw.at, "of the devices %q and %q on one bus only one has send; either all are asked or none", first.key, d.key)
	}
}

func sameLines(a, b serial.Lines) bool {
	same := (a.Pattern == nil) == (b.Pattern == nil) && (a.Pattern == nil || a.Pattern.String() == b.Pattern.String()) && a.Sum.Equal(b.Sum)
	a.Pattern, b.Pattern, a.Sum, b.Sum = nil, nil, nil, nil
	return same && a == b
}

// lineKeys are what says how the lines of a device are made.
func (r *rawDevice) lineKeys() []*node {
	return []*node{r.Checksum.at, r.Parse.at, r.Separator.at, r.Pattern.at, r.Delimiter.at, r.MaxLine.at, r.Send.at, r.Retries.at}
}

// reportOtherLines complains of a device whose lines differ from those of the
// first on its bus.
func (l *loader) reportOtherLines(d *deviceBuilder, first, f serial.Lines) {
	other := d.bus.users[0].key
	if first.Checksum == f.Checksum && first.Sum.Equal(f.Sum) {
		l.errorKey(d.raw.at, "device %q on the same bus has other lines; parse, separator, pattern, delimiter and max_line must be the same for all", other)
		return
	}
	at := d.raw.Checksum.at
	if at == nil {
		at = d.raw.at
	}
	has := "another checksum"
	if first.Sum == nil {
		has = fmt.Sprintf("checksum %q", first.Checksum)
	}
	l.errorKey(at, "device %q on the same bus has %s; it must be the same for all", other, has)
}

func (l *loader) linesOf(d *deviceBuilder) (f serial.Lines, ok bool) {
	before := l.Errors()
	c := d.raw.Checksum
	switch c.name.V {
	case "nmea":
		f.Checksum = c.name.V
	case "", "none":
		f.Sum = l.lineSumOf(&c)
	default:
		l.errorAt(c.at, `there is no checksum %q; there is "nmea" and "none", and tables such as { kind = "xor", behind = "*" }`, c.name.V)
	}
	f.Delimiter = d.raw.Delimiter.V
	if d.raw.MaxLine.within(l.binder, 1, 1<<16, "max_line") {
		f.MaxLine = int(d.raw.MaxLine.V)
	}
	if p := d.raw.Parse; p.set() {
		if f.Parse = p.V; !slices.Contains(serial.Parses, p.V) {
			l.errorAt(p.at, "lines cannot be parsed as %q; there is %s%s", p.V, strings.Join(serial.Parses, ", "), didYouMean(nearest(p.V, serial.Parses)))
		}
	}
	f.Separator = d.raw.Separator.V
	if p := d.raw.Pattern; p.set() {
		re, err := regexp.Compile("^(?:" + p.V + ")$")
		if err != nil {
			l.errorAt(p.at, "the pattern is no regular expression: %v", err)
		}
		f.Pattern = re
	}
	if l.Errors() > before {
		return f, false
	}
	if err := f.Check(); err != nil {
		l.errorKey(d.raw.at, "device %q: %v", d.key, err)
	}
	return f, l.Errors() == before
}

// setFrames reads how the frames of a device are made.
func (l *loader) setFrames(d *deviceBuilder) {
	if n := d.raw.UnitID.at; n != nil {
		l.errorKey(n, "bus %q carries frames; its device has no unit_id", d.bus.key)
	}
	for _, n := range append(d.raw.lineKeys(), d.raw.Line.at) {
		switch {
		case n == nil:
		case n == d.raw.Send.at, n == d.raw.Retries.at:
			l.errorKey(n, "bus %q carries frames; write this in [device.%s.frame]", d.bus.key, d.key)
		default:
			l.errorKey(n, "bus %q carries frames; lines come on a bus with protocol = %q", d.bus.key, Lines)
		}
	}
	if len(d.bus.users) > 1 {
		l.errorKey(d.raw.at, "bus %q carries the frames of device %q already; there is one device on such a bus", d.bus.key, d.bus.users[0].key)
		return
	}
	if !d.raw.Frame.set() {
		l.errorKey(d.raw.at, "bus %q carries frames: device %q needs a profile that says how they are made, or [device.%s.frame]", d.bus.key, d.key, d.key)
		return
	}
	before := l.Errors()
	f := l.frameOf(&d.raw.Frame)
	if l.Errors() > before {
		return
	}
	if err := f.Check(); err != nil {
		l.errorKey(d.raw.Frame.at, "%v", err)
		return
	}
	d.bus.pub.Lines.Framing, d.framing = f, f
	send := l.bytes(d.raw.Frame.Send, d.textFrames())
	m, meter := f.(serial.Meter)
	if meter {
		l.checkMeter(d, m)
	}
	l.setPoll(d, send, d.raw.Frame.Retries, meter)
}

// setPoll makes the question that a device is asked: what is sent, or what its
// protocol says.
func (l *loader) setPoll(d *deviceBuilder, send []byte, retries integer, asked bool) {
	if len(send) == 0 && !asked {
		if retries.set() {
			l.errorKey(retries.at, "retries are of a question; device %q is sent nothing", d.key)
		}
		return
	}
	poll := serial.Poll{Send: send, Timeout: cmp.Or(d.raw.Timeout.V, d.bus.pub.Modbus.Timeout), Retries: defaultRetries}
	if retries.set() && retries.within(l.binder, 0, 10, "retries") {
		poll.Retries = int(retries.V)
	}
	d.bus.pub.Lines.Polls = append(d.bus.pub.Lines.Polls, poll)
}

// checkMeter finds what a meter cannot do on its bus.
func (l *loader) checkMeter(d *deviceBuilder, m serial.Meter) {
	if d.bus.line.Path == "" {
		if m.MaxBaud != 0 {
			l.errorKey(d.raw.Frame.MaxBaud.at, "the speed behind a converter stays as it is, so that a meter on %s sends its data at the speed it is called at; leave baud_max out, or connect its head to a serial port of this machine", d.bus.pub.Address)
		}
		return
	}
	if d.bus.line.Format != "7E1" {
		l.warnKey(d.bus.place(), "bus %q is set to %s, and meters of this kind speak 7E1; write format = \"7E1\"", d.bus.key, d.bus.line.Format)
	}
}

// textFrames reports whether the frames of the device hold fields of text.
func (d *deviceBuilder) textFrames() bool {
	k := d.raw.Frame.Kind.V
	return k == frameBlock || k == frameVEDirect || k == frameMeter
}

func (l *loader) frameOf(raw *rawFrame) serial.Framing {
	if raw.Kind.V != frameMeter && slices.Contains(frameKinds, raw.Kind.V) {
		l.refuse(raw.Kind.V, raw.Address.at, raw.MaxBaud.at, raw.Wake.at)
	}
	switch raw.Kind.V {
	case frameMeter:
		l.refuse(frameMeter, raw.Size.at, raw.Length.at, raw.Start.at, raw.End.at, raw.Checksum.at, raw.Send.at)
		return serial.Meter{Address: raw.Address.V, MaxBaud: int(raw.MaxBaud.V), Wake: raw.Wake.V}
	case frameBinary:
		return l.binaryOf(raw)
	case frameBlock:
		l.refuse("block", raw.Size.at, raw.Length.at)
		b := serial.Blocks{Start: raw.Start.V, End: raw.End.V}
		if raw.Checksum.set() {
			s := l.sumOf(&raw.Checksum)
			b.Sum = &s
			for _, n := range []*node{raw.Checksum.From.at, raw.Checksum.Order.at} {
				if n != nil {
					l.errorKey(n, "the checksum of a block covers all of it, and is written high byte first")
				}
			}
		}
		return b
	case frameVEDirect:
		l.refuse("vedirect", raw.Size.at, raw.Length.at, raw.Start.at, raw.End.at, raw.Checksum.at, raw.Send.at)
		return serial.VEDirect{}
	case "":
		if raw.at.child("kind") == nil {
			l.errorKey(raw.at, "a frame needs its kind: %s", strings.Join(frameKinds, ", "))
		}
		return nil
	}
	l.errorAt(raw.Kind.at, "there is no kind of frame %q; there is %s%s", raw.Kind.V, strings.Join(frameKinds, ", "), didYouMean(nearest(raw.Kind.V, frameKinds)))
	return nil
}

// refuse reports keys that another kind of frame has.
func (l *loader) refuse(kind string, nodes ...*node) {
	for _, n := range nodes {
		if n != nil {
			l.errorKey(n, "frames of kind %q have no %s", kind, n.keyText())
		}
	}
}

func (l *loader) binaryOf(raw *rawFrame) serial.Frames {
	f := serial.Frames{
		Start: l.bytes(raw.Start, false), End: l.bytes(raw.End, false), Size: int(raw.Size.V),
		Sum: l.sumOf(&raw.Checksum), SumFrom: int(raw.Checksum.From.V), SumLittle: l.little(raw.Checksum.Order),
	}
	raw.Size.within(l.binder, 1, 1024, "the size of a frame")
	raw.Checksum.From.within(l.binder, 0, 1024, "the first byte of the checksum")
	if !raw.Checksum.set() && raw.at.child("checksum") == nil {
		l.errorKey(raw.at, "a frame needs its checksum: what does not prove itself is not read")
	}
	if !raw.Length.set() {
		return f
	}
	n := raw.Length
	n.Byte.within(l.binder, 0, 1024, "the place of the length")
	n.Plus.within(l.binder, -1024, 1024, "plus")
	f.Length = &serial.LengthField{At: int(n.Byte.V), Size: 1, Plus: int(n.Plus.V), Little: l.little(n.Order)}
	switch n.Type.V {
	case "", "u8":
	case "u16":
		f.Length.Size = 2
	default:
		l.errorAt(n.Type.at, `a length is of type "u8" or "u16"`)
	}
	return f
}

// little reports whether an order has the low byte first.
func (l *loader) little(order text) bool {
	o := l.parseOrder(order)
	return o == mapping.DCBA || o == mapping.BADC
}

// lineSumOf reads the checksum of lines, nil for none.
func (l *loader) lineSumOf(raw *rawLineSum) *serial.LineSum {
	if raw.at == nil || !raw.at.isTable() {
		return nil
	}
	raw.From.within(l.binder, 0, 1024, "the first byte of the checksum")
	return &serial.LineSum{Sum: l.sumOf(&raw.rawSum), From: int(raw.From.V), Behind: raw.Behind.V, Little: l.little(raw.Order)}
}

func (l *loader) sumOf(raw *rawSum) serial.Sum {
	for _, x := range []struct {
		integer
		what string
	}{{raw.Poly, "poly"}, {raw.Init, "init"}, {raw.XorOut, "xorout"}} {
		x.within(l.binder, 0, math.MaxUint16, x.what)
	}
	s := serial.Sum{
		Kind: raw.Kind.V, Negate: raw.Negate.V, Poly: uint16(raw.Poly.V), Init: uint16(raw.Init.V), XorOut: uint16(raw.XorOut.V),
		RefIn: raw.RefIn.V, RefOut: raw.RefOut.V,
	}
	if !raw.set() {
		return s
	}
	if err := s.Check(); err != nil {
		l.errorKey(raw.at, "%v", err)
	}
	return s
}

// bytes reads bytes in hexadecimal, or text as it is.
func (l *loader) bytes(t text, plain bool) []byte {
	if plain {
		return []byte(t.V)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(t.V), ""))
	if err != nil {
		l.errorAt(t.at, `%q are no bytes; they are written in hexadecimal, like "AA C0"`, t.V)
	}
	return b
}

// finishPolls decides whom each question is for and how often it is asked: as
// often as the quickest point wants. Of several devices each has one.
func (b *bus) finishPolls() {
	polls := b.pub.Lines.Polls
	for i := range polls {
		if i >= len(b.pub.Devices) {
			return // what is wrong was reported
		}
		dev := b.pub.Devices[i]
		if len(polls) > 1 {
			polls[i].Device = dev.Device
		}
		every := time.Duration(math.MaxInt64)
		for _, p := range dev.Points {
			every = min(every, p.Every)
		}
		if polls[i].Every = every; every == math.MaxInt64 {
			polls[i].Every = defaultEvery
		}
	}
}
