package simulator

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// checkFraming finds what cannot be made up.
func checkFraming(f serial.Framing) error {
	if l, ok := f.(serial.Lines); ok && l.Parse == serial.ParseRegexp {
		return errors.New("lines that a pattern describes cannot be simulated: nobody can tell what else it matches")
	}
	return f.Check()
}

// frame returns what is sent at now in a framing other than lines of fields.
// The talker's device has moved there.
func (t *talker) frame() []byte {
	switch f := t.framing.(type) {
	case serial.Frames:
		return t.binary(f)
	case serial.Blocks:
		return t.block(f)
	case serial.VEDirect:
		return t.labels()
	case serial.Meter:
		return t.readout()
	}
	return nil
}

// binary makes a frame in which all that is no point is 0.
func (t *talker) binary(f serial.Frames) []byte {
	trailer := len(f.Sum.Append(nil, nil, false)) + len(f.End)
	size := f.Size
	if f.Length != nil {
		size = f.Length.At + f.Length.Size + trailer
		for _, p := range t.points {
			s := p.Source.(serial.Span)
			size = max(size, s.At+s.Len+trailer)
		}
	}
	frame := make([]byte, size-trailer, size)
	copy(frame, f.Start)
	for _, p := range t.points {
		s := p.Source.(serial.Span)
		p.text = t.pointRaw(p)
		copy(frame[s.At:s.At+s.Len], p.text[s.Pad:])
	}
	if l := f.Length; l != nil {
		n := size - l.Plus
		number := []byte{byte(n >> 8), byte(n)}
		if l.Little {
			slices.Reverse(number)
		}
		if l.Size == 1 {
			number = []byte{byte(n)}
		}
		copy(frame[l.At:], number)
	}
	frame = f.Sum.Append(frame, frame[f.SumFrom:], f.SumLittle)
	return append(frame, f.End...)
}

// pointRaw is what a point of a binary frame holds.
func (t *talker) pointRaw(p *point) (raw []byte) {
	var err error
	switch {
	case t.unit.check:
		p.advance()
		raw, err = p.marked()
	case p.variable():
		raw, err = p.encode(p.number)
	default:
		raw, err = p.constantRaw()
	}
	if err != nil {
		t.unit.err = err
		return make([]byte, p.RawLen())
	}
	return raw
}

// block makes a block of OBIS lines.
func (t *talker) block(f serial.Blocks) []byte {
	var b bytes.Buffer
	b.WriteString(f.Start + "SIM5\\gateway\r\n\r\n")
	t.obisLines(&b)
	b.WriteString(f.End)
	if f.Sum != nil {
		fmt.Fprintf(&b, "%04X", f.Sum.Of(b.Bytes()))
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// obisLines writes a line with code, value and unit for each point.
func (t *talker) obisLines(b *bytes.Buffer) {
	for _, p := range t.points {
		code, unit := serial.SplitUnit(p.Source.(serial.Field).Key)
		p.text = []byte(t.bracketed(p))
		fmt.Fprintf(b, "%s(%s", code, p.text)
		if unit != "" {
			b.WriteString("*" + unit)
		}
		b.WriteString(")\r\n")
	}
}

// bracketed is the text of a point with the three decimals that meters have.
func (t *talker) bracketed(p *point) string {
	if t.unit.check || !p.variable() || len(p.EnumText) > 0 || p.Type.Integer() || p.Type == mapping.Bool {
		return strings.NewReplacer("(", "_", ")", "_").Replace(t.pointText(p, ""))
	}
	return strconv.FormatFloat((p.number-p.off)/p.mul, 'f', 3, 64)
}

// labels makes a block of VE.Direct.
func (t *talker) labels() []byte {
	b := []byte("\r\nPID\t0xA053")
	for _, p := range t.points {
		text := strings.ReplaceAll(t.pointText(p, ""), ":", "_")
		p.text = []byte(text[:min(len(text), 32)])
		b = fmt.Appendf(b, "\r\n%s\t%s", p.Source.(serial.Field).Key, p.text)
	}
	b = append(b, "\r\nChecksum\t"...)
	return serial.Sum{Kind: "sum8", Negate: true}.Append(b, b, false)
}

// plain joins the fields of a line without a checksum as f wants it.
func (t *talker) plain(f serial.Lines, fields []string) []byte {
	if f.Parse == serial.ParseJSON {
		object := make(map[string]string)
		for i, x := range t.fields {
			object[x.key] = fields[i]
		}
		text, _ := json.Marshal(object) // strings always can be
		return finish(f, text)
	}
	sep := cmp.Or(f.Separator, ",")
	for i, x := range t.fields {
		switch {
		case x.key != "":
			fields[i] = x.key + "=" + fields[i]
		case sep == " " && fields[i] == "":
			fields[i] = "-" // or the fields behind it would move up
		}
	}
	if t.name != "" {
		fields = slices.Insert(fields, 0, t.name)
	}
	return finish(f, []byte(strings.Join(fields, sep)))
}

// finish appends checksum and end to a line.
func finish(f serial.Lines, line []byte) []byte {
	if f.Sum != nil {
		line = f.Sum.Append(append(bytes.Repeat([]byte{'$'}, f.Sum.From), line...))
	}
	return append(line, cmp.Or(f.Delimiter, "\r\n")...)
}

// answer sends what a device has to say each time it hears its question, or what
// all have to say at that for all.
func (b *bus) answer(ctx context.Context, port serial.Stream) error {
	heard := ear{port: port}
	for {
		var asked *serial.Poll
		ok, err := heard.wait(ctx, func(in []byte) (end int) {
			asked, end = b.question(in)
			return end
		})
		if err != nil || !ok {
			return err
		}
		for _, t := range b.talkers {
			if asked.Device != nil && asked.Device != t.dev.Device.Device {
				continue
			}
			if err := t.send(ctx, port); err != nil {
				return err
			}
		}
	}
}

// question finds the first in what was heard, and where it ends.
func (b *bus) question(in []byte) (asked *serial.Poll, end int) {
	for i := range b.Polls {
		p := &b.Polls[i]
		if at := bytes.Index(in, p.Send); at >= 0 && (asked == nil || at+len(p.Send) < end) {
			asked, end = p, at+len(p.Send)
		}
	}
	return asked, end
}

// An ear listens for what somebody is to say.
type ear struct {
	port serial.Stream
	in   []byte // heard last, at most some hundred bytes
}

// wait returns true once found says how many bytes of what was heard are what
// was waited for and all before it, and forgets these; false if ctx is done.
func (e *ear) wait(ctx context.Context, found func(in []byte) int) (bool, error) {
	var chunk [256]byte
	for ctx.Err() == nil {
		if n := found(e.in); n > 0 {
			e.in = append(e.in[:0], e.in[n:]...)
			return true, nil
		}
		if err := e.port.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return false, err
		}
		n, err := e.port.Read(chunk[:])
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return false, err
		}
		e.in = append(e.in, chunk[:n]...)
		e.in = e.in[max(0, len(e.in)-len(chunk)):]
	}
	return false, nil
}
