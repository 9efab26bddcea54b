package serial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"edgegateway/devices"
)

// A Stream is what a Reader needs of a serial port or a connection. Read
// returns os.ErrDeadlineExceeded when its deadline passes.
type Stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// A Framing says how a stream is cut into messages, how these prove
// themselves, and what they hold: Lines, Blocks, Frames, VEDirect or Meter. It
// is immutable.
type Framing interface {
	// Check finds what is wrong with the framing itself.
	Check() error

	// CheckSource finds a point that no message could hold.
	CheckSource(devices.Source) error

	decoder(out *outlet) decoder
}

// A decoder finds the messages of one stream and hands them to its outlet. It
// belongs to the goroutine that reads the stream, and holds a bounded number
// of bytes.
type decoder interface {
	feed(data []byte)
	silence() // nothing came for maxGap: what was begun is not going to be finished
}

// A message is one whole and proven unit of a stream, valid until the next.
type message interface {
	// holds reports whether the source is to be found in a message like this.
	holds(devices.Source) bool

	// value returns what the source is in a form like that of
	// devices.Reading.Raw, valid until the next call.
	value(devices.Source) ([]byte, error)
}

// An outlet takes what a decoder found.
type outlet struct {
	good func(message)
	bad  func(why string) // once for each message that did not prove itself
}

// A Poll is what a device wants to hear before it says something.
type Poll struct {
	Device  *devices.Device // nil: all of the bus, be it with several messages
	Send    []byte          // none for a Meter, which knows what to say
	Every   time.Duration
	Timeout time.Duration // until its answer is there whole; 0: 1 s. For a Meter: until it goes on; 0: 2 s
	Retries int           // how often a question without a good answer is asked again before its points fail
}

// timeout is how long to wait; usual is what holds without one.
func (p *Poll) timeout(usual time.Duration) time.Duration {
	if p.Timeout > 0 {
		return p.Timeout
	}
	return usual
}

// ReaderConfig is what a Reader needs.
type ReaderConfig struct {
	Bus     string
	Open    func() (Stream, error) // called again after a hang-up; its errors count as devices.ErrPort
	Devices []*devices.Device      // their points are where Framing has them
	Framing Framing
	Polls   []Poll               // none: the devices speak by themselves. One for all, or one for each
	Now     func() devices.Stamp // nil: devices.Now
}

const (
	// maxGap is the longest silence within a message. After a longer one what
	// came before it belongs to nothing.
	maxGap = 500 * time.Millisecond

	countEvery = 10 * time.Second // between looks at the counters of a port

	maxEmpty = 100 // reads in a row without a byte or an error before the port counts as broken

	firstReopen = time.Second // back-off of a missing port, doubling
	lastReopen  = 10 * time.Second
)

// A Reader reads a bus on which devices speak by themselves, or each time they
// are sent the same few bytes. It implements devices.Listener and
// devices.LineCounter.
//
// Only a message that proves itself yields readings, as far as its framing
// lets it: each Framing says what it takes for a proof.
type Reader struct {
	cfg   ReaderConfig
	now   func() devices.Stamp
	slots []*slot

	good, bad atomic.Uint64
	missed    atomic.Uint64 // answers that did not come
	lastBad   atomic.Pointer[string]
	port      atomic.Pointer[devices.PortStats] // nil: nothing is counted

	// These belong to Listen's goroutine.
	missing bool // the port, and everyone was told
}

// A slot is one point with the time from which it is wanted again.
type slot struct {
	*devices.Point
	dev *devices.Device
	due devices.Stamp
}

// NewReader checks the framing and the points. It opens nothing.
func NewReader(cfg ReaderConfig) (*Reader, error) {
	if err := cfg.Framing.Check(); err != nil {
		return nil, fmt.Errorf("bus %s: %w", cfg.Bus, err)
	}
	r := &Reader{cfg: cfg, now: cfg.Now}
	if r.now == nil {
		r.now = devices.Now
	}
	_, meter := cfg.Framing.(Meter)
	if meter && len(cfg.Polls) != 1 {
		return nil, fmt.Errorf("bus %s: a meter is called alone", cfg.Bus)
	}
	for _, p := range cfg.Polls {
		if p.Every <= 0 || len(p.Send) == 0 && !meter || p.Device == nil && len(cfg.Polls) > 1 {
			return nil, fmt.Errorf("bus %s: what is sent, to whom and how often, must be known", cfg.Bus)
		}
	}
	var errs []error
	for _, d := range cfg.Devices {
		for _, p := range d.Points {
			if err := cfg.Framing.CheckSource(p.Source); err != nil {
				errs = append(errs, fmt.Errorf("bus %s: device %s: point %s: %w", cfg.Bus, d.ID, p.Name, err))
			}
			r.slots = append(r.slots, &slot{Point: p, dev: d})
		}
	}
	return r, errors.Join(errs...)
}

// LineStats implements devices.LineCounter.
func (r *Reader) LineStats() devices.LineStats {
	s := devices.LineStats{Good: r.good.Load(), Bad: r.bad.Load(), Timeouts: r.missed.Load(), Port: r.port.Load()}
	if why := r.lastBad.Load(); why != nil {
		s.LastBad = *why
	}
	return s
}

// Listen reads messages and emits one batch for each message and device that
// wants something of it, until ctx is done. A port that cannot be opened or
// hangs up is tried again after 1 s doubling to 10 s; of that every device gets
// one batch that fails with devices.ErrPort, and once it is there again one of
// them a batch without readings.
func (r *Reader) Listen(ctx context.Context, emit func(*devices.Batch)) error {
	backoff := firstReopen
	for {
		good := r.good.Load()
		err := r.session(ctx, emit)
		if ctx.Err() != nil {
			return nil
		}
		if !r.missing {
			r.missing = true
			r.tellPort(err, emit)
		}
		if r.good.Load() > good {
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
func (r *Reader) tellPort(err error, emit func(*devices.Batch)) {
	switch {
	case errors.Is(err, devices.ErrPort):
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("the far side closed the connection; many converters serve one client at a time: %w", devices.ErrPort)
	case errors.Is(err, io.ErrNoProgress):
		err = fmt.Errorf("the port says again and again that something has come, but there is nothing; its driver is broken: %w", devices.ErrPort)
	default:
		err = fmt.Errorf("%w: %w", devices.ErrPort, err)
	}
	now := r.now()
	for _, d := range r.cfg.Devices {
		b := devices.NewBatch(d)
		for _, p := range d.Points {
			b.Fail(p, err, now)
		}
		emit(b)
	}
	for _, s := range r.slots {
		s.due = 0
	}
}

// session opens the port and reads it until it fails or ctx is done.
func (r *Reader) session(ctx context.Context, emit func(*devices.Batch)) error {
	stream, err := r.cfg.Open()
	if err != nil {
		return err
	}
	defer stream.Close()
	if m, ok := r.cfg.Framing.(Meter); ok {
		return r.readMeter(ctx, m, stream, emit)
	}
	return r.read(ctx, stream, emit)
}

// works notes that the port can be read.
func (r *Reader) works(emit func(*devices.Batch)) {
	if r.missing && len(r.cfg.Devices) > 0 {
		emit(devices.NewBatch(r.cfg.Devices[0]))
	}
	r.missing = false
}

// read takes messages from stream until it fails or ctx is done, which it
// notices within maxGap.
func (r *Reader) read(ctx context.Context, stream Stream, emit func(*devices.Batch)) error {
	var at devices.Stamp // of the bytes that are being decoded
	ask := newAsker(r.cfg.Polls, stream)
	dec := r.cfg.Framing.decoder(&outlet{
		good: func(m message) {
			dev, ok := ask.answered(time.Now())
			if !ok {
				r.reject("something came when nobody was asked, so that it is not known whose it is")
				return
			}
			r.good.Add(1)
			r.take(m, dev, at, emit)
		},
		bad: func(why string) {
			ask.bad = why + r.portTrouble(stream)
			r.reject(ask.bad)
		},
	})
	if d, ok := dec.(*lineDecoder); ok && len(r.cfg.Polls) > 0 {
		d.ignore(r.cfg.Polls)
		ask.begin(time.Now(), func() { d.cut.skipping = false })
	}
	r.countPort(stream)
	counted := time.Now()
	chunk := make([]byte, 1024)
	heard := time.Now() // when the last bytes came
	for empty := 0; ctx.Err() == nil && empty < maxEmpty; {
		if ask.overdue(time.Now()) {
			dec.silence()
		}
		failed, whom, err := ask.turn(time.Now())
		if failed != nil {
			r.noAnswer(failed)
		}
		if whom != nil {
			r.works(emit)
			r.fail(failed, whom.Device, emit)
		}
		if err != nil {
			return err
		}
		if err := stream.SetReadDeadline(ask.until(time.Now().Add(maxGap))); err != nil {
			return err
		}
		n, err := stream.Read(chunk)
		at = r.now()
		if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			r.works(emit)
		}
		dec.feed(chunk[:n])
		switch {
		case n > 0:
			heard = time.Now()
			ask.heard(heard)
		case time.Since(heard) >= maxGap:
			dec.silence()
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if time.Since(counted) >= countEvery {
			r.countPort(stream)
			counted = time.Now()
		}
		if empty++; n > 0 || err != nil {
			empty = 0
		}
	}
	return io.ErrNoProgress // unless ctx is done: then nobody asks
}

// A counter is a stream that knows what went wrong on its line. Stats is nil if
// it does not.
type counter interface{ Stats() *devices.PortStats }

// countPort notes what the port has counted.
func (r *Reader) countPort(stream Stream) {
	if c, ok := stream.(counter); ok {
		r.port.Store(c.Stats())
	}
}

// portTrouble says what the port noticed since it was last asked.
func (r *Reader) portTrouble(stream Stream) string {
	before := r.port.Load()
	r.countPort(stream)
	now := r.port.Load()
	switch {
	case before == nil || now == nil:
		return ""
	case now.Frame > before.Frame:
		return "; the port counted framing errors: is the baud rate right?"
	case now.Parity > before.Parity:
		return "; the port counted parity errors: is the format right?"
	case now.Overrun > before.Overrun:
		return "; the port counted overruns: bytes came faster than they were fetched"
	}
	return ""
}

// noAnswer counts a question to which nothing came that proved itself.
func (r *Reader) noAnswer(err error) {
	if !errors.Is(err, devices.ErrTimeout) {
		r.reject(err.Error())
		return
	}
	r.missed.Add(1)
	why := err.Error()
	r.lastBad.Store(&why)
}

// reject counts a message that did not prove itself.
func (r *Reader) reject(why string) {
	r.bad.Add(1)
	r.lastBad.Store(&why)
}

// take hands on what is wanted of a message whose last byte arrived at at, and
// which is from dev, nil for all.
func (r *Reader) take(m message, dev *devices.Device, at devices.Stamp, emit func(*devices.Batch)) {
	var b *devices.Batch
	for _, s := range r.slots {
		if dev != nil && s.dev != dev || !m.holds(s.Source) || !s.wanted(at) {
			continue
		}
		if b != nil && b.Device != s.dev {
			emit(b)
			b = nil
		}
		if b == nil {
			b = devices.NewBatch(s.dev)
		}
		if raw, err := m.value(s.Source); err != nil {
			b.Fail(s.Point, err, at)
		} else {
			b.Add(s.Point, raw, at)
		}
	}
	if b != nil {
		emit(b)
	}
}

// fail hands on that nothing is known of the points of dev, nil for all, that are
// wanted now, after the last question has failed.
func (r *Reader) fail(err error, dev *devices.Device, emit func(*devices.Batch)) {
	now := r.now()
	for _, d := range r.cfg.Devices {
		if dev != nil && d != dev {
			continue
		}
		b := devices.NewBatch(d)
		for _, s := range r.slots {
			if s.dev == d && s.wanted(now) {
				b.Fail(s.Point, err, now)
			}
		}
		if len(b.Readings) == 0 {
			b.Release()
			continue
		}
		emit(b)
	}
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
