package serial

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"edgegateway/devices"
)

// A Stream is what Lines needs of a serial port or a connection. Read returns
// os.ErrDeadlineExceeded when its deadline passes.
type Stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// A Field is where in a line a point is found.
type Field struct {
	// Sentence is which line. With NMEA checksums: the formatter of a
	// sentence whoever talks ("MWV"), or a whole address field ("WIMWV").
	// Without: what the first field of the line must be. "" is any line.
	Sentence string

	// Index counts from 1: the data fields after the sentence's name, as the
	// NMEA documents do, or all fields of any line. It is 0 if Key is set.
	Index int

	// Key finds a field of the form key=value or key:value anywhere in the
	// line.
	Key string
}

func (f Field) String() string {
	where := "field " + strconv.Itoa(f.Index)
	if f.Key != "" {
		where = "field " + f.Key
	}
	if f.Sentence == "" {
		return where
	}
	return f.Sentence + " " + where
}

// LinesConfig is what Lines needs.
type LinesConfig struct {
	Bus      string
	Open     func() (Stream, error) // called again after a hang-up; its errors count as devices.ErrPort
	Devices  []*devices.Device      // their points have Fields
	Checksum string                 // "nmea", or "" for none
	MaxLine  int                    // longest line in bytes, without its end; 0: 512
	Now      func() devices.Stamp   // nil: devices.Now
}

const (
	defaultMaxLine = 512 // bytes; NMEA allows 82, real ones have up to 100

	// maxGap is the longest silence within a line. After a longer one what
	// came before it belongs to nothing.
	maxGap = 500 * time.Millisecond

	maxEmpty = 100 // reads in a row without a byte or an error before the port counts as broken

	firstReopen = time.Second // back-off of a missing port, doubling
	lastReopen  = 10 * time.Second
)

// Lines reads a bus on which devices speak by themselves in lines of text
// with separated fields. It implements devices.Listener and devices.LineCounter.
//
// A line ends with LF or CRLF. With checksums, only a line that proves itself
// yields readings. Without them nothing can be proven, so that what may be a
// part of a line is thrown away: all before the first line end after opening,
// a line with a hole of half a second in it and what follows the hole, one
// that is too long, and one that holds control characters or is no UTF-8.
type Lines struct {
	cfg   LinesConfig
	nmea  bool
	now   func() devices.Stamp
	slots []*slot

	good, bad atomic.Uint64
	lastBad   atomic.Pointer[string]

	// These belong to Listen's goroutine.
	missing bool     // the port, and everyone was told
	fields  [][]byte // room for those of one line
}

// A slot is one point with the time from which it is wanted again.
type slot struct {
	*devices.Point
	field Field
	dev   *devices.Device
	due   devices.Stamp
}

// NewLines checks the points. It opens nothing.
func NewLines(cfg LinesConfig) (*Lines, error) {
	if cfg.Checksum != "" && cfg.Checksum != "nmea" {
		return nil, fmt.Errorf("bus %s: checksum %q is not known: use \"nmea\" or leave it out", cfg.Bus, cfg.Checksum)
	}
	cfg.MaxLine = cmp.Or(cfg.MaxLine, defaultMaxLine)
	l := &Lines{cfg: cfg, nmea: cfg.Checksum == "nmea", now: cfg.Now}
	if l.now == nil {
		l.now = devices.Now
	}
	var errs []error
	for _, d := range cfg.Devices {
		for _, p := range d.Points {
			f, err := checkField(p.Source)
			if err != nil {
				errs = append(errs, fmt.Errorf("bus %s: device %s: point %s: %w", cfg.Bus, d.ID, p.Name, err))
			}
			l.slots = append(l.slots, &slot{Point: p, field: f, dev: d})
		}
	}
	return l, errors.Join(errs...)
}

func checkField(src devices.Source) (Field, error) {
	f, ok := src.(Field)
	switch {
	case !ok:
		return f, fmt.Errorf("%v is not a field of a line", src)
	case f.Key == "" && f.Index < 1:
		return f, fmt.Errorf("field %d: fields count from 1", f.Index)
	case f.Key != "" && f.Index != 0:
		return f, fmt.Errorf("has both a field number (%d) and a key (%s): use one", f.Index, f.Key)
	}
	return f, nil
}

// LineStats implements devices.LineCounter.
func (l *Lines) LineStats() devices.LineStats {
	s := devices.LineStats{Good: l.good.Load(), Bad: l.bad.Load()}
	if why := l.lastBad.Load(); why != nil {
		s.LastBad = *why
	}
	return s
}

// Listen reads lines and emits one batch for each line and device that wants
// something of it, until ctx is done. A port that cannot be opened or hangs
// up is tried again after 1 s doubling to 10 s; of that every device gets one
// batch that fails with devices.ErrPort, and once it is there again one of
// them a batch without readings.
func (l *Lines) Listen(ctx context.Context, emit func(*devices.Batch)) error {
	backoff := firstReopen
	for {
		good := l.good.Load()
		err := l.session(ctx, emit)
		if ctx.Err() != nil {
			return nil
		}
		if !l.missing {
			l.missing = true
			l.tellPort(err, emit)
		}
		if l.good.Load() > good {
			backoff = firstReopen
		}
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
		backoff = min(2*backoff, lastReopen)
	}
}

// tellPort fails all points of all devices.
func (l *Lines) tellPort(err error, emit func(*devices.Batch)) {
	if !errors.Is(err, devices.ErrPort) {
		err = fmt.Errorf("%w: %w", devices.ErrPort, err)
	}
	now := l.now()
	for _, d := range l.cfg.Devices {
		b := devices.NewBatch(d)
		for _, p := range d.Points {
			b.Fail(p, err, now)
		}
		emit(b)
	}
	for _, s := range l.slots {
		s.due = 0
	}
}

// session opens the port and reads it until it fails or ctx is done.
func (l *Lines) session(ctx context.Context, emit func(*devices.Batch)) error {
	stream, err := l.cfg.Open()
	if err != nil {
		return err
	}
	defer stream.Close()
	return l.read(ctx, stream, emit)
}

// works notes that the port can be read.
func (l *Lines) works(emit func(*devices.Batch)) {
	if l.missing && len(l.cfg.Devices) > 0 {
		emit(devices.NewBatch(l.cfg.Devices[0]))
	}
	l.missing = false
}

// read takes lines from stream until it fails or ctx is done, which it
// notices within maxGap.
func (l *Lines) read(ctx context.Context, stream Stream, emit func(*devices.Batch)) error {
	cut := cutter{max: l.cfg.MaxLine, skipping: !l.nmea, strict: !l.nmea}
	chunk := make([]byte, 1024)
	for empty := 0; ctx.Err() == nil && empty < maxEmpty; {
		if err := stream.SetReadDeadline(time.Now().Add(maxGap)); err != nil {
			return err
		}
		n, err := stream.Read(chunk)
		at := l.now()
		if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			l.works(emit)
		}
		for line := range cut.lines(chunk[:n]) {
			l.take(line, at, emit)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			cut.silence()
		} else if err != nil {
			return err
		}
		if cut.lost > 0 {
			l.reject(cut.lost, "a line was too long or broke off")
			cut.lost = 0
		}
		if empty++; n > 0 || err != nil {
			empty = 0
		}
	}
	return io.ErrNoProgress // unless ctx is done: then nobody asks
}

func (l *Lines) reject(n uint64, why string) {
	l.bad.Add(n)
	l.lastBad.Store(&why)
}

// take reads one line whose last byte arrived at at.
func (l *Lines) take(line []byte, at devices.Stamp, emit func(*devices.Batch)) {
	s, err := l.parse(line)
	if err != nil {
		l.reject(1, err.Error())
		return
	}
	l.good.Add(1)
	var b *devices.Batch
	for _, slot := range l.slots {
		if !l.speaks(s, slot.field) || !slot.wanted(at) {
			continue
		}
		if b != nil && b.Device != slot.dev {
			emit(b)
			b = nil
		}
		if b == nil {
			b = devices.NewBatch(slot.dev)
		}
		if raw, err := l.value(s, slot.field); err != nil {
			b.Fail(slot.Point, err, at)
		} else {
			b.Add(slot.Point, raw, at)
		}
	}
	if b != nil {
		emit(b)
	}
}

// parse splits a line, proven if it can be, into its fields.
func (l *Lines) parse(line []byte) (sentence, error) {
	if l.nmea {
		s, err := parseNMEA(line, l.fields)
		l.fields = s.fields
		return s, err
	}
	if !isText(line) {
		return sentence{}, fmt.Errorf("not text: %q", clip(line))
	}
	l.fields = appendFields(l.fields[:0], line)
	for i, f := range l.fields {
		l.fields[i] = bytes.TrimSpace(f)
	}
	return sentence{address: string(l.fields[0]), fields: l.fields}, nil
}

// speaks reports whether the field is one of this line.
func (l *Lines) speaks(s sentence, f Field) bool {
	switch {
	case f.Sentence == "":
		return true
	case l.nmea:
		return s.is(f.Sentence)
	default:
		return s.address == f.Sentence
	}
}

// value returns the text of a field, which lives as long as the line.
func (l *Lines) value(s sentence, f Field) ([]byte, error) {
	fields := s.fields
	if !l.nmea && f.Sentence != "" {
		fields = fields[1:]
	}
	var raw []byte
	switch {
	case f.Key != "":
		raw = byKey(fields, f.Key)
	case f.Index <= len(fields):
		raw = fields[f.Index-1]
	}
	if len(raw) == 0 {
		return nil, &NoValue{Field: f}
	}
	if l.nmea && s.invalid(f.Index) {
		return nil, &NoValue{Field: f, Invalid: true}
	}
	return raw, nil
}

func byKey(fields [][]byte, key string) []byte {
	for _, f := range fields {
		i := bytes.IndexAny(f, "=:")
		if i >= 0 && string(bytes.TrimSpace(f[:i])) == key {
			return bytes.TrimSpace(f[i+1:])
		}
	}
	return nil
}

// wanted reports whether the point is to be read at at, and if so puts it off
// to its next interval. Intervals keep their phase, and an eighth of one too
// early is in time, so that a sensor that speaks once a second on average
// yields a reading each second.
func (s *slot) wanted(at devices.Stamp) bool {
	every := devices.Stamp(s.Every)
	if at < s.due-every/8 {
		return false
	}
	if s.due += every; s.due <= at {
		s.due = at + every
	}
	return true
}

// A NoValue is the error of a field that a good line leaves empty or lacks.
type NoValue struct {
	Field   Field
	Invalid bool // there is a value, but the line itself says that it is not valid
}

func (e *NoValue) Error() string {
	if e.Invalid {
		return fmt.Sprintf("the device marks %v as invalid", e.Field)
	}
	return fmt.Sprintf("no value in %v", e.Field)
}

// Cause is what a payload says in place of the value.
func (e *NoValue) Cause() string {
	if e.Invalid {
		return "marked invalid"
	}
	return "no value"
}

// appendFields splits at commas.
func appendFields(dst [][]byte, line []byte) [][]byte {
	for {
		i := bytes.IndexByte(line, ',')
		if i < 0 {
			return append(dst, line)
		}
		dst, line = append(dst, line[:i]), line[i+1:]
	}
}

func isText(line []byte) bool {
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return utf8.Valid(line)
}

// clip shortens a line for an error.
func clip(line []byte) []byte { return line[:min(len(line), 60)] }
