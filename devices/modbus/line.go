package modbus

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/capture"
	"edgegateway/devices/serial"
)

// Config says how a line is reached.
type Config struct {
	// URL is tcp://host:port, udp:// for the same in datagrams, tls:// for
	// the same encrypted, rtu+tcp://, ascii+tcp:// or rtu+udp:// for frames
	// of a serial line through a transparent converter, or the path of a
	// serial port. "" means Serial.Path.
	URL     string
	Serial  serial.Config // of a serial port; Path may be left to URL
	Framing string        // on a serial port: FramingRTU, which "" means too, or FramingASCII

	// TLS says how tls:// proves who is who; nil and an empty one are the
	// system's authorities and no certificate of one's own. The name to be
	// proven is the URL's host where it has none.
	TLS *tls.Config

	// Behind is the serial line behind a TCP gateway. It changes nothing on
	// the wire; it makes costs honest.
	Behind *serial.Config

	// Pipeline is how many requests may be outstanding on a connection that
	// carries Modbus TCP frames: 0 and 1 mean one, MaxPipeline is the most.
	// Where the device turns out not to bear it, it is one again.
	Pipeline int

	Timeout        time.Duration // from the end of a request to the beginning of its answer; 0 means 1 s
	ConnectTimeout time.Duration // 0 means 3 s
	ConnectDelay   time.Duration // from opening the port to the first request: some devices need it

	Notebook   Notebook    // of what is learned about devices; nil: it lasts as long as the line
	Unanswered *Unanswered // what lines before this one left unanswered at the same port; nil: there were none, nor other programs

	Tap *capture.Tap // by which what passes the port can be recorded; nil: it cannot
}

// Framings of a serial port.
const (
	FramingRTU   = "rtu"
	FramingASCII = "ascii" // mostly 7E1
)

const (
	defaultTimeout        = time.Second // a serial device may take as long (V1.02, 2.4.1)
	defaultConnectTimeout = 3 * time.Second
	leastHoldOff          = 100 * time.Millisecond // an attempt shorter than this may be repeated at once
	maxHoldOff            = 5 * time.Second
	firstBusyWait         = 20 * time.Millisecond // then twice as long each time
)

// A Line is one bus of Modbus devices: a serial line, or a TCP endpoint with
// what is behind it. It implements devices.Line: only its Poller calls it,
// except Stats, Pipeline and Address, which anyone may. With a pipeline it
// implements devices.Pipeliner: who works with the line takes its baton, and
// gives it away only while a query waits for an answer.
type Line struct {
	baton   baton
	crowd   *crowd // nil: one request at a time
	cfg     Config
	carrier carrier
	wire    wire
	cost    serial.Config // the slowest line a request travels
	stats   counters
	known   map[string]*known // by device ID

	port     Port // nil: not open
	used     bool // the port has carried an answer
	lent     bool // the port was in other hands since it was closed
	notUntil time.Time
	openErr  error // of the last attempt; holds until notUntil
}

// A wire is one way to frame requests. Its state belongs to its line.
type wire interface {
	// exchange asks r and returns its proven answer. An *Exception comes
	// with the answer's time.
	exchange(ctx context.Context, p Port, u Unit, r *request) (answer, error)
	// reset prepares for a port just opened.
	reset()
	// declare tells which registers the points of a unit need.
	declare(u Unit, regs []Register)
	// thinking is how long the unit takes to answer, as learned; 0: unknown.
	thinking(unit byte) time.Duration
}

// An answer is a proven reply with the time its last byte arrived.
type answer struct {
	pdu PDU
	at  devices.Stamp
}

var (
	_ devices.Pipeliner = (*Line)(nil)
)

// NewLine returns a line that opens its port with the first query.
func NewLine(cfg Config) (*Line, error) {
	cfg.Timeout = cmp.Or(cfg.Timeout, defaultTimeout)
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, defaultConnectTimeout)
	c, err := newCarrier(cfg)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.Pipeline < 0 || cfg.Pipeline > MaxPipeline:
		return nil, fmt.Errorf("%s: a pipeline of %d: it is between 1 and %d", c.address, cfg.Pipeline, MaxPipeline)
	case cfg.Pipeline > 1 && c.rtu:
		return nil, fmt.Errorf("%s: a pipeline of %d: answers in frames of a serial line do not say what they answer", c.address, cfg.Pipeline)
	case cfg.Pipeline > 1 && cfg.Behind != nil:
		return nil, fmt.Errorf("%s: a pipeline of %d: the line behind a gateway carries one request at a time", c.address, cfg.Pipeline)
	}
	return newLine(cfg, c), nil
}

func newLine(cfg Config, c carrier) *Line {
	l := &Line{cfg: cfg, carrier: c, known: map[string]*known{}}
	switch {
	case !c.rtu && cfg.Pipeline > 1:
		l.baton = make(baton, 1)
		l.crowd = newCrowd(l.baton, cfg.Pipeline)
		l.wire = newPipeWire(c.datagram, &l.stats, l.baton)
	case !c.rtu:
		l.wire = newTCPWire(c.datagram, &l.stats)
	case c.tty:
		l.cost = cfg.Serial
		l.wire = newSerialWire(c.framing, cfg.Serial, &l.stats)
	default:
		l.wire = newSerialWire(c.framing, serial.Config{}, &l.stats)
	}
	if cfg.Behind != nil {
		l.cost = *cfg.Behind
	}
	return l
}

// Address is the URL or path of the line.
func (l *Line) Address() string { return l.carrier.address }

// broadcast reports whether unit id is no unit but all of a serial line, also
// of one behind a gateway.
func (l *Line) broadcast(id byte) bool { return id == 0 && (l.carrier.rtu || l.cfg.Behind != nil) }

// size is how many characters a frame has, on the serial line that a request
// travels, whose PDU has n bytes.
func (l *Line) size(n int) int {
	if l.carrier.framing != nil {
		return l.carrier.framing.size(n)
	}
	return rtuFraming{}.size(n)
}

// Close closes the port. A query after it opens it again.
func (l *Line) Close() error {
	if l.port == nil {
		return nil
	}
	err := l.port.Close()
	l.port = nil
	if w, ok := l.wire.(*serialWire); ok {
		l.cfg.Unanswered.leave(l.carrier.address, w.late)
	}
	return err
}

// Lent tells that another program may have used the port.
func (l *Line) Lent() { l.lent = true }

// ask performs one exchange. While the device is busy it is asked again, until
// the timeout is over.
func (l *Line) ask(ctx context.Context, u Unit, r *request) (answer, error) {
	u.Timeout = cmp.Or(u.Timeout, l.cfg.Timeout)
	start, wait := time.Now(), firstBusyWait
	a, err := l.askKept(ctx, u, r)
	for r.busy(err) && time.Since(start)+wait < u.Timeout && l.sleep(ctx, wait) {
		a, err = l.askKept(ctx, u, r)
		wait *= 2
	}
	if err != nil {
		return a, fmt.Errorf("%v on %s: %w", r, l.Address(), l.carrier.secure.explain(err))
	}
	return a, nil
}

// sleep waits while others may work with the line.
func (l *Line) sleep(ctx context.Context, d time.Duration) bool {
	l.baton.give()
	defer l.baton.take()
	return devices.Sleep(ctx, d)
}

// askKept asks for a read on a kept connection that turns out to be closed once
// more on a new one, as many devices close idle ones.
func (l *Line) askKept(ctx context.Context, u Unit, r *request) (answer, error) {
	if l.crowd != nil {
		return l.askAmong(ctx, u, r)
	}
	kept := l.port != nil && l.used && !l.carrier.tty
	a, err := l.askOnce(ctx, u, r)
	if kept && !r.write && errors.Is(err, devices.ErrPort) && ctx.Err() == nil {
		a, err = l.askOnce(ctx, u, r)
	}
	return a, err
}

func (l *Line) askOnce(ctx context.Context, u Unit, r *request) (answer, error) {
	if err := l.open(ctx); err != nil {
		return answer{}, err
	}
	start, port := time.Now(), l.port
	if l.crowd != nil {
		defer func() { l.stats.busy(l.crowd.busy()) }()
	} else {
		defer func() { l.stats.busy(time.Since(start)) }()
		defer context.AfterFunc(ctx, func() { port.SetReadDeadline(time.Unix(1, 0)) })()
	}
	a, err := l.wire.exchange(ctx, port, u, r)
	var broken *brokenError
	switch {
	case err == nil:
		l.used = true
	case isException(err):
		l.used = true
		l.stats.exception()
	case l.port != port: // closed meanwhile, for another request
	case errors.Is(err, devices.ErrPort), errors.As(err, &broken):
		l.Close()
	default:
		l.stats.port(port)
	}
	return a, err
}

func (l *Line) dial(ctx context.Context) (Port, error) {
	p, err := l.carrier.dial(ctx)
	return l.cfg.Tap.Wrap(p, err)
}

// open opens the port if it is not. An attempt that took long is not repeated
// at once: an unreachable host costs at most half of the line's time.
func (l *Line) open(ctx context.Context) error {
	if l.port != nil {
		return nil
	}
	start := time.Now()
	if start.Before(l.notUntil) {
		return l.openErr
	}
	p, err := l.dial(ctx)
	if err != nil {
		if took := time.Since(start); ctx.Err() == nil && took > leastHoldOff {
			l.openErr, l.notUntil = err, time.Now().Add(min(took, maxHoldOff))
		}
		return err
	}
	l.port, l.used = p, false
	l.wire.reset()
	if w, ok := l.wire.(*serialWire); ok {
		known := l.cfg.Unanswered.recall(l.carrier.address, w.late)
		w.strange = time.Time{}
		if !known || l.lent {
			w.strange = time.Now()
		}
		l.lent = false
	}
	l.stats.opened()
	if !devices.Sleep(ctx, l.cfg.ConnectDelay) {
		l.Close() // the next one waits anew
		return context.Cause(ctx)
	}
	return nil
}
