package modbus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"edgegateway/devices/capture"
)

// A FrameKind says what was found in the bytes of a recorded line.
type FrameKind uint8

const (
	FrameRequest    FrameKind = iota
	FrameAnswer               // proven, as by a Line
	FrameException            // the unit says that it will not
	FrameEcho                 // the adapter hears what it sends
	FrameSpoiled              // an answer of the right shape with a wrong checksum, or one that is not to the request
	FrameStray                // whole and good, and not what was asked for: a late answer, or somebody else asks on the line
	FrameNoise                // no frame
	FrameUnanswered           // not a frame: none came
)

// A Frame is what was found. Its data is valid during the call of who gets it.
type Frame struct {
	Kind     FrameKind
	Sent     bool
	Data     []byte
	First    time.Duration // when the read or write returned its first byte, and its last, since the start of the capture
	Last     time.Duration
	Pause    time.Duration // the longest between two reads within it
	Unit     byte
	HasUnit  bool
	Text     string        // for people
	Question string        // what an answer, or its absence, belongs to
	Took     time.Duration // since that was asked
}

// A Dissector finds frames in what was recorded on a line, by the same rules as
// a Line: nothing counts as an answer that is not proven. It belongs to one
// goroutine.
type Dissector struct {
	framing framing // nil: frames of Modbus TCP
	tell    func(Frame)

	in      []byte
	chunks  []chunk   // of in
	open    *question // on a serial line
	echoes  bool      // the adapter does
	outward []byte
	waiting map[uint16]*question // on TCP
}

// A chunk is how many bytes came when.
type chunk struct {
	n  int
	at time.Duration
}

// A question is a request that was sent and not answered.
type question struct {
	*request
	frame []byte
	at    time.Duration
	bad   bool // something came that is a spoiled answer
	known bool // its function is
}

const (
	strayGap   = 50 * time.Millisecond // ends what nobody asked for
	longSilent = 10 * time.Second      // after which a request on TCP counts as not answered
	mostHeld   = 4096                  // bytes that are no frame
)

// NewDissector returns one for a framing of captures that is Modbus; tell is
// called with each frame.
func NewDissector(framing string, tell func(Frame)) (*Dissector, error) {
	d := &Dissector{tell: tell, waiting: map[uint16]*question{}}
	switch framing {
	case capture.RTU:
		d.framing = rtuFraming{}
	case capture.ASCII:
		d.framing = asciiFraming{}
	case capture.TCP:
	default:
		return nil, fmt.Errorf("framing %s is not one of Modbus", framing)
	}
	return d, nil
}

// Add takes the next event of the capture.
func (d *Dissector) Add(e capture.Event) {
	switch e.Kind {
	case capture.Sent:
		if d.framing == nil {
			d.sentTCP(e.At, e.Data)
		} else {
			d.sent(e.At, e.Data)
		}
	case capture.Received:
		if d.framing == nil {
			d.receivedTCP(e.At, e.Data)
		} else {
			d.received(e.At, e.Data)
		}
	case capture.Opened, capture.Closed, capture.Failed:
		d.End(e.At)
		d.echoes = false
	}
}

// End tells of what is left; at is when the capture ended. A request just sent
// does not count as unanswered.
func (d *Dissector) End(at time.Duration) {
	d.flush()
	if d.open != nil && at-d.open.at >= time.Second {
		d.unanswered(d.open, at)
	}
	d.open, d.outward = nil, nil
	d.overdue(at, time.Second)
	clear(d.waiting)
}

// sent takes a frame for a serial line, which is written in one piece.
func (d *Dissector) sent(at time.Duration, data []byte) {
	d.flush()
	if d.open != nil {
		d.unanswered(d.open, at)
	}
	d.open = nil
	unit, pdu, ok := d.decode(data)
	if !ok {
		d.tell(Frame{Kind: FrameNoise, Sent: true, Data: data, First: at, Last: at, Text: "sent, and no frame"})
		return
	}
	a := parseRequest(unit, pdu)
	a.frame, a.at = bytes.Clone(data), at
	f := Frame{Kind: FrameRequest, Sent: true, Data: data, First: at, Last: at, Unit: unit, HasUnit: true, Text: a.text()}
	if unit == 0 {
		f.Text += ", to all; nobody answers"
	} else {
		d.open = a
	}
	d.tell(f)
}

// decode returns what is in one whole frame.
func (d *Dissector) decode(frame []byte) (unit byte, pdu PDU, ok bool) {
	if len(frame) == 0 {
		return 0, nil, false
	}
	if _, ascii := d.framing.(asciiFraming); ascii {
		raw, n, v := scanASCII(frame)
		if v != whole || n != len(frame) {
			return 0, nil, false
		}
		return raw[0], PDU(raw[1 : len(raw)-1]), true
	}
	pdu, ok = decodeRTU(frame)
	return frame[0], pdu, ok
}

func (d *Dissector) unanswered(a *question, at time.Duration) {
	if !a.bad {
		d.tell(Frame{Kind: FrameUnanswered, First: at, Last: at, Unit: a.unit, HasUnit: true, Text: "no answer to " + a.text(), Question: a.text(), Took: at - a.at})
	}
}

// received takes what came on a serial line.
func (d *Dissector) received(at time.Duration, data []byte) {
	if n := len(d.chunks); n > 0 && (d.open == nil && at-d.chunks[n-1].at > strayGap || len(d.in) > mostHeld) {
		d.flush()
	}
	d.in = append(d.in, data...)
	d.chunks = append(d.chunks, chunk{len(data), at})
	for i := 0; i < len(d.in) && d.open != nil; {
		a, rest := d.open, d.in[i:]
		if bytes.HasPrefix(rest, a.frame) && (d.echoes || !a.echoes()) && d.outward == nil {
			d.echoes, d.outward = true, a.frame
			d.pass(i, nil)
			d.cut(len(a.frame), Frame{Kind: FrameEcho, Unit: a.unit, HasUnit: true, Text: "echo of the adapter"})
			i = 0
			continue
		}
		f, v := frame{}, nothing
		if unit, ok := d.framing.unit(rest); !ok {
			if _, ascii := d.framing.(asciiFraming); ascii {
				f, v = d.framing.look(rest, nil)
			}
		} else if unit == a.unit && a.known {
			f, v = d.framing.look(rest, a.request)
		}
		switch v {
		case incomplete:
			return
		case whole:
			d.pass(i, nil)
			answer := d.answer(a, f.pdu)
			answer.Took = at - a.at
			d.cut(f.size, answer)
			d.open, d.outward, i = nil, nil, 0
		default:
			i++
		}
	}
}

// answer says what a proven answer to a is.
func (d *Dissector) answer(a *question, pdu PDU) Frame {
	f := Frame{Kind: FrameAnswer, Unit: a.unit, HasUnit: true, Question: a.text()}
	if e, ok := errors.AsType[*Exception](a.check(pdu)); ok {
		f.Kind, f.Text = FrameException, e.Error()
		return f
	}
	f.Text = a.values(pdu)
	return f
}

// cut takes n bytes out of what came, and tells of them as f says.
func (d *Dissector) cut(n int, f Frame) {
	if n == 0 {
		return
	}
	f.Data = d.in[:n]
	f.First = d.chunks[0].at
	for left := n; left > 0; {
		c := &d.chunks[0]
		if f.Last > 0 || left < n {
			f.Pause = max(f.Pause, c.at-f.Last)
		}
		f.Last = c.at
		took := min(left, c.n)
		left -= took
		if c.n -= took; c.n == 0 {
			d.chunks = d.chunks[1:]
		}
	}
	if f.Kind == FrameNoise && f.Text == "" {
		f.Text = "no frame: noise, a wrong speed or format, or the pieces of one that was cut or hit by another"
	}
	d.tell(f)
	d.in = d.in[n:]
}

// flush tells of all that came and is no answer.
func (d *Dissector) flush() {
	d.pass(len(d.in), d.open)
	d.in, d.chunks, d.outward = nil, nil, nil
}

// pass tells of the next n bytes, which hold no answer; one to q may be spoiled.
func (d *Dissector) pass(n int, q *question) {
	for i := 0; i < n && d.framing != nil; {
		size, f := d.leftover(d.in[i:n], q)
		if size == 0 {
			i++
			continue
		}
		d.cut(i, Frame{Kind: FrameNoise})
		d.cut(size, f)
		n -= i + size
		i = 0
	}
	d.cut(n, Frame{Kind: FrameNoise}) // on TCP a frame that did not end
}

// leftover says what begins with b that is no answer to be proven, but may be a
// spoiled one to a, which may be nil.
func (d *Dissector) leftover(b []byte, a *question) (int, Frame) {
	if a != nil {
		if n, ok := d.spoiled(a, b); ok {
			a.bad = true
			return n, Frame{Kind: FrameSpoiled, Unit: a.unit, HasUnit: true, Question: a.text(), Text: "the checksum is wrong: noise, missing termination, or two units with one id"}
		}
		if unit, _, ok := d.decode(b); ok && unit == a.unit && !a.known {
			d.open = nil
			return len(b), Frame{Kind: FrameAnswer, Unit: unit, HasUnit: true, Question: a.text(), Text: "answered", Took: d.chunks[len(d.chunks)-1].at - a.at}
		}
	}
	for _, n := range d.lengths(b) {
		if n > len(b) {
			continue
		}
		if unit, pdu, ok := d.decode(b[:n]); ok {
			return n, Frame{Kind: FrameStray, Unit: unit, HasUnit: true, Text: fmt.Sprintf("a good frame with function %d that nobody here waits for: a late answer, or another master on the line", pdu.function()&^exceptionBit)}
		}
	}
	return 0, Frame{}
}

// spoiled reports whether b begins with an answer to a whose checksum is wrong,
// and how long that is.
func (d *Dissector) spoiled(a *question, b []byte) (int, bool) {
	unit, ok := d.framing.unit(b)
	if !ok || unit != a.unit || !a.known {
		return 0, false
	}
	if _, v := d.framing.look(b, a.request); v != spoiled {
		return 0, false
	}
	if _, ascii := d.framing.(asciiFraming); ascii {
		_, n, _ := scanASCII(b)
		return n, true
	}
	n, err := a.shape(PDU(b[1:]))
	return d.framing.size(n), err == nil
}

// lengths are those that a frame beginning with b may have.
func (d *Dissector) lengths(b []byte) (list []int) {
	if _, ascii := d.framing.(asciiFraming); ascii {
		if _, n, v := scanASCII(b); v == whole {
			list = append(list, n)
		}
		return list
	}
	if n, known := requestLen(b); known {
		list = append(list, n)
	}
	if len(b) > 2 && b[1]&exceptionBit != 0 {
		list = append(list, 5)
	}
	if len(b) > 2 {
		list = append(list, 5+int(b[2]))
	}
	return append(list, 8)
}

func (d *Dissector) sentTCP(at time.Duration, data []byte) {
	d.overdue(at, longSilent)
	if len(data) < tcpHeader+1 {
		d.tell(Frame{Kind: FrameNoise, Sent: true, Data: data, First: at, Last: at, Text: "sent, and no frame"})
		return
	}
	a := parseRequest(data[6], PDU(bytes.Clone(data[tcpHeader:])))
	a.at = at
	d.waiting[binary.BigEndian.Uint16(data)] = a
	d.tell(Frame{Kind: FrameRequest, Sent: true, Data: data, First: at, Last: at, Unit: a.unit, HasUnit: true, Text: a.text()})
}

// overdue tells of what was asked so long ago and not answered.
func (d *Dissector) overdue(at, after time.Duration) {
	for id, a := range d.waiting {
		if at-a.at >= after {
			d.unanswered(a, at)
			delete(d.waiting, id)
		}
	}
}

func (d *Dissector) receivedTCP(at time.Duration, data []byte) {
	d.in = append(d.in, data...)
	d.chunks = append(d.chunks, chunk{len(data), at})
	for len(d.in) >= tcpHeader {
		n, err := tcpFrameLen(d.in)
		switch {
		case err != nil:
			d.cut(len(d.in), Frame{Kind: FrameNoise, Text: err.Error()})
			return
		case n > len(d.in):
			return
		}
		id, unit, pdu := binary.BigEndian.Uint16(d.in), d.in[6], PDU(d.in[tcpHeader:n])
		a := d.waiting[id]
		delete(d.waiting, id)
		d.cut(n, d.replyTCP(a, unit, pdu, at))
	}
}

func (d *Dissector) replyTCP(a *question, unit byte, pdu PDU, at time.Duration) Frame {
	if a == nil {
		return Frame{Kind: FrameStray, Unit: unit, HasUnit: true, Text: "an answer with a transaction id that nobody waits for: it came too late, or twice"}
	}
	f := Frame{Kind: FrameAnswer, Unit: a.unit, HasUnit: true, Question: a.text(), Text: "answered", Took: at - a.at}
	if a.known {
		took := f.Took
		f = d.answer(a, pdu)
		f.Took = took
		if err := a.check(pdu); err != nil && f.Kind != FrameException {
			f.Kind, f.Text = FrameSpoiled, fmt.Sprintf("the answer is wrong (%v): the device or gateway mixes up requests", err)
		}
	}
	return f
}

// parseRequest reads a request, of any kind.
func parseRequest(unit byte, pdu PDU) *question {
	pdu = bytes.Clone(pdu)
	a := &question{request: &request{unit: unit, pdu: pdu}, known: true}
	word := func(i int) uint16 { return binary.BigEndian.Uint16(pdu[i:]) }
	fn, n := pdu.function(), len(pdu)
	table := map[byte]Table{
		fnReadCoils: Coil, fnReadDiscrete: Discrete, fnReadHolding: Holding, fnReadInput: Input,
		fnWriteCoil: Coil, fnWriteRegister: Holding, fnWriteCoils: Coil, fnWriteHoldings: Holding,
	}[fn]
	switch {
	case fn >= fnReadCoils && fn <= fnReadInput && n == 5 && word(3) > 0 && int(word(3)) <= maxCount(fn):
		a.reg = Register{table, word(1), word(3)}
	case (fn == fnWriteCoil || fn == fnWriteRegister) && n == 5:
		a.reg, a.write = Register{table, word(1), 1}, true
	case (fn == fnWriteCoils || fn == fnWriteHoldings) && n > 6 && word(3) > 0:
		a.reg, a.write = Register{table, word(1), word(3)}, true
	case fn == fnMaskWrite && n == 7:
		a.reg, a.write = Register{Holding, word(1), 1}, true
	case fn == fnReadWrite && n > 10 && word(3) > 0 && int(word(3)) <= maxReadRegisters && word(7) > 0:
		a.reg, a.write = Register{Holding, word(1), word(3)}, true
		a.name = fmt.Sprintf("write %v and read %v", Register{Holding, word(5), word(7)}, a.reg)
	case fn == fnReadFIFO && n == 3:
		a.request = fifoRequest(unit, word(1))
	case fn == fnEncapsulated && n == 4 && pdu[1] == meiIdentify:
		a.request = identityRequest(unit, pdu[2], pdu[3])
	default:
		a.name, a.known = fmt.Sprintf("function %d", fn), false
	}
	return a
}

// text says what is asked, without the unit: "read holding 0-1".
func (a *question) text() string {
	_, what, _ := strings.Cut(a.String(), ": ")
	switch {
	case a.name != "":
	case !a.write:
		what = "read " + what
	case a.pdu.function() == fnMaskWrite:
		what += fmt.Sprintf(", and-mask %X, or-mask %X", []byte(a.pdu[3:5]), []byte(a.pdu[5:7]))
	default:
		if raw, ok := writeValues(a.pdu, a.reg); ok {
			what += ": " + words(a.reg.Table, raw)
		}
	}
	return what
}

// values says what a proven answer holds.
func (a *question) values(pdu PDU) string {
	switch fn := a.pdu.function(); {
	case fn >= fnReadCoils && fn <= fnReadInput, fn == fnReadWrite:
		return words(a.reg.Table, a.appendRaw(nil, pdu))
	case fn == fnReadFIFO:
		return words(Holding, pdu[5:])
	case fn == fnEncapsulated:
		return fmt.Sprintf("% X", []byte(pdu[1:]))
	}
	return "done"
}

// words writes registers in hexadecimal, and bits as they are.
func words(t Table, raw []byte) string {
	if t.Bits() {
		return strings.Trim(fmt.Sprint(raw), "[]")
	}
	var list []string
	for b := range slices.Chunk(raw, 2) {
		list = append(list, fmt.Sprintf("%X", b))
	}
	return strings.Join(list, " ")
}
