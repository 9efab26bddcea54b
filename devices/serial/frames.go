package serial

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"edgegateway/devices"
)

// A Span is where in a binary frame a point is found.
type Span struct {
	At  int // of its first byte, counted from 0 with the first of the frame
	Len int // bytes
	Pad int // zero bytes, or the sign of a number, that stand before what was read: a reading has whole registers

	Signed bool // Pad repeats the sign
	Tail   int  // zero bytes behind it
}

func (s Span) String() string { return "byte " + strconv.Itoa(s.At) }

// A LengthField is where a frame says how long it is.
type LengthField struct {
	At     int
	Size   int // 1 or 2 bytes
	Little bool
	Plus   int // what to add for the length of the whole frame
}

// Frames are binary frames: Start, content, checksum, End. Each has Size bytes,
// or says how many it has in a field.
//
// A frame is taken if its first bytes, its length, its checksum and its last
// bytes are right. After one that is not, the search goes on one byte further;
// after half a second without a byte a frame that was begun is not waited for.
// All that a weak checksum misses in a frame of the right form is missed: of
// random bytes one in 256, and no single wrong byte.
type Frames struct {
	Start     []byte
	End       []byte // behind the checksum; often none
	Size      int    // of the whole frame; 0: Length says it
	Length    *LengthField
	Sum       Sum
	SumFrom   int  // the first byte that the checksum covers; the last is the one before it
	SumLittle bool // low byte first
}

const maxFrame = 1024 // bytes

// Check implements Framing.
func (f Frames) Check() error {
	if err := f.Sum.Check(); err != nil {
		return err
	}
	least := f.least()
	switch {
	case len(f.Start) == 0:
		return errors.New("frames need a start: the bytes that each begins with")
	case (f.Size == 0) == (f.Length == nil):
		return errors.New("frames need either a size or a length field")
	case f.Size != 0 && (f.Size < least || f.Size > maxFrame):
		return fmt.Errorf("a frame with this start, checksum and end has %d to %d bytes, not %d", least, maxFrame, f.Size)
	case f.SumFrom < 0 || f.SumFrom >= least-f.Sum.size()-len(f.End):
		return fmt.Errorf("the checksum cannot begin at byte %d, where it covers nothing", f.SumFrom)
	case f.Length == nil:
		return nil
	case f.Length.Size != 1 && f.Length.Size != 2:
		return errors.New("a length field has one or two bytes")
	case f.Length.At < len(f.Start):
		return fmt.Errorf("a length field at byte %d lies in the start", f.Length.At)
	}
	return nil
}

// least is the size of the shortest frame there can be.
func (f Frames) least() int {
	n := len(f.Start)
	if f.Length != nil {
		n = max(n, f.Length.At+f.Length.Size)
	} else {
		n++
	}
	return n + f.Sum.size() + len(f.End)
}

// CheckSource implements Framing.
func (f Frames) CheckSource(src devices.Source) error {
	s, ok := src.(Span)
	if !ok {
		return fmt.Errorf("%v is not a byte of a frame", src)
	}
	content := maxFrame
	if f.Size > 0 {
		content = f.Size - f.Sum.size() - len(f.End)
	}
	if s.At < 0 || s.Len < 1 || s.Pad < 0 || s.Tail < 0 || s.At+s.Len > content {
		return fmt.Errorf("%d bytes from byte %d on do not lie in the frame, whose content ends with byte %d", s.Len, s.At, content-1)
	}
	return nil
}

func (f Frames) decoder(out *outlet) decoder { return &frameDecoder{Frames: f, out: out} }

// A frameDecoder finds the frames of one stream.
type frameDecoder struct {
	Frames
	out   *outlet
	buf   []byte // begins with a frame, or what may be one
	noise bool   // what was skipped was counted
}

func (d *frameDecoder) feed(data []byte) {
	d.buf = append(d.buf, data...)
	for d.next() {
	}
}

// next takes the first frame in the buffer and reports whether there may be
// another.
func (d *frameDecoder) next() bool {
	d.seek()
	size, ok := d.size()
	if !ok || len(d.buf) < size {
		return false
	}
	if err := d.verify(size); err != nil {
		d.out.bad(err.Error())
		d.noise = true
		d.buf = d.buf[1:]
		return true
	}
	d.noise = false
	d.out.good(frame(d.buf[:size-d.Sum.size()-len(d.End)]))
	d.buf = d.buf[size:]
	return true
}

// seek drops what stands before the next start, or the beginning of one.
func (d *frameDecoder) seek() {
	at := bytes.Index(d.buf, d.Start)
	if at < 0 {
		for at = max(0, len(d.buf)-len(d.Start)+1); !bytes.HasPrefix(d.Start, d.buf[at:]); at++ {
		}
	}
	if at > 0 && !d.noise {
		d.noise = true
		d.out.bad(fmt.Sprintf("% X is no beginning of a frame", clip(d.buf[:at])))
	}
	d.buf = append(d.buf[:0], d.buf[at:]...)
}

// size returns how long the frame is that the buffer begins with, once that is
// known. A length that cannot be gives the least, which verify refuses.
func (d *frameDecoder) size() (int, bool) {
	if d.Length == nil {
		return d.Size, true
	}
	l := d.Length
	if len(d.buf) < l.At+l.Size {
		return 0, false
	}
	n := int(d.buf[l.At])
	if l.Size == 2 && l.Little {
		n |= int(d.buf[l.At+1]) << 8
	} else if l.Size == 2 {
		n = n<<8 | int(d.buf[l.At+1])
	}
	if n += l.Plus; n > maxFrame {
		n = 0
	}
	return max(n, l.At+l.Size), true
}

// verify proves the first size bytes of the buffer.
func (d *frameDecoder) verify(size int) error {
	frame := d.buf[:size]
	if size < d.least() {
		return fmt.Errorf("the length in % X cannot be", clip(frame))
	}
	body, tail := frame[:size-len(d.End)-d.Sum.size()], frame[size-len(d.End):]
	sum := frame[len(body) : size-len(d.End)]
	if !bytes.Equal(tail, d.End) {
		return fmt.Errorf("% X does not end with % X", clip(frame), d.End)
	}
	if want := d.Sum.Append(nil, body[d.SumFrom:], d.SumLittle); !bytes.Equal(sum, want) {
		return fmt.Errorf("checksum of % X is % X, the frame says % X", clip(frame), want, sum)
	}
	return nil
}

// silence gives the frame up that was begun, but not one that may have begun
// within it.
func (d *frameDecoder) silence() {
	for len(d.buf) > 0 {
		if !d.noise {
			d.noise = true
			d.out.bad(fmt.Sprintf("% X broke off", clip(d.buf)))
		}
		d.buf = d.buf[1:]
		for d.next() {
		}
	}
	d.noise = false
}

// A frame is the content of one that was proven, with its start.
type frame []byte

func (frame) holds(devices.Source) bool { return true }

func (f frame) value(src devices.Source) ([]byte, error) {
	s := src.(Span)
	if s.At+s.Len > len(f) {
		return nil, &Short{Span: s}
	}
	var sign byte
	if s.Signed && f[s.At] >= 0x80 {
		sign = 0xff
	}
	raw := bytes.Repeat([]byte{sign}, s.Pad)
	raw = append(raw, f[s.At:s.At+s.Len]...)
	return append(raw, make([]byte, s.Tail)...), nil
}

// A Short is the error of a point beyond the end of a frame whose length is
// not always the same.
type Short struct{ Span Span }

func (e *Short) Error() string { return fmt.Sprintf("the frame ends before %v", e.Span) }

// Cause is what a payload says in place of the value.
func (e *Short) Cause() string { return "no value" }
