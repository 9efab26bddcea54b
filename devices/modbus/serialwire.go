package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// badFrameGrace is how much longer an exchange waits after a frame of the
// right shape with a wrong checksum: the answer has come and was spoiled.
const badFrameGrace = 50 * time.Millisecond

// turnaround follows a broadcast (V1.02, 2.4.1: 100 to 200 ms).
const turnaround = 200 * time.Millisecond

// glance is how long to look for bytes that may have arrived already: a
// socket with a deadline in the past does not give them out.
const glance = 500 * time.Microsecond

// A serialWire speaks a framing of serial lines, RTU or ASCII, whose answers
// carry unit id and checksum but do not say what they answer. It finds the
// answer at any offset by unit, function, length and checksum.
type serialWire struct {
	framing framing
	cfg     serial.Config // character time and silences; the zero Config has none (not on a port of this machine)
	in      []byte        // arrived and not understood
	last    time.Time     // when the line was last in use, as far as known
	echo    echo
	late    map[byte]*lateReplies
	strange time.Time // when a port was opened at which others may have asked; zero: none did
	stats   *counters
	chunk   [maxRTU]byte
}

// An echo says whether the adapter hears its own requests. The answer to
// writing one coil or register is equal to the request, so that it proves
// nothing before this is known.
type echo uint8

const (
	echoUnknown echo = iota
	echoAbsent
	echoPresent
)

func newSerialWire(f framing, cfg serial.Config, stats *counters) *serialWire {
	return &serialWire{framing: f, cfg: cfg, late: map[byte]*lateReplies{}, stats: stats}
}

// reset forgets what holds for one opened port only. Requests that were never
// answered stay: the device may answer on the new port.
func (w *serialWire) reset() {
	w.in, w.echo = w.in[:0], echoUnknown
}

func (w *serialWire) thinking(unit byte) time.Duration {
	if l := w.late[unit]; l != nil {
		return time.Duration(l.latency)
	}
	return 0
}

func (w *serialWire) declare(u Unit, regs []Register) { w.unit(u.ID).declared = regs }

// exchange asks r and returns the proven answer.
func (w *serialWire) exchange(ctx context.Context, p Port, u Unit, r *request) (answer, error) {
	if r.unit == 0 {
		return answer{}, w.broadcast(ctx, p, u, r)
	}
	late := w.unit(u.ID)
	late.expire(time.Now())
	if err := w.letPass(ctx, p, late.wait(u.Timeout)); err != nil {
		return answer{}, err
	}
	if err := w.clearWay(ctx, p, u, r); err != nil {
		return answer{}, err
	}
	if r.echoes() && w.echo == echoUnknown {
		if err := w.learnEcho(ctx, p, u, r); err != nil {
			return answer{}, err
		}
	}
	return w.send(ctx, p, u, r)
}

// broadcast sends r, which nobody answers, and gives the devices the time that
// the specification leaves them to carry it out. What comes meanwhile is its
// echo, or a late answer.
func (w *serialWire) broadcast(ctx context.Context, p Port, u Unit, r *request) error {
	frame, err := w.framing.encode(r.unit, r.pdu)
	if err != nil {
		return err
	}
	if err := w.quieten(ctx, p, u.Pause); err != nil {
		return err
	}
	w.stats.request(len(frame))
	_, err = p.Write(frame)
	w.last = time.Now().Add(time.Duration(len(frame)) * w.cfg.CharTime())
	if err != nil {
		return unanswered(r, portLost("send", err))
	}
	if err := w.overhear(ctx, p, w.last.Add(turnaround)); err != nil {
		return unanswered(r, err)
	}
	return nil
}

// clearWay returns when an answer to r cannot be mistaken for a late one to
// an earlier request. It waits for the late one as long as it is likely to
// come, and then asks for something whose answer tells (see lateReplies).
func (w *serialWire) clearWay(ctx context.Context, p Port, u Unit, r *request) error {
	late := w.unit(u.ID)
	for late.confuses(r) && time.Now().Before(late.quiet) {
		if err := w.hear(ctx, p, late.quiet); err != nil {
			return err
		}
	}
	if !late.confuses(r) {
		return nil
	}
	probe, err := late.probe(u, r), error(devices.ErrTimeout)
	if probe != nil {
		_, err = w.send(ctx, p, u, probe)
	}
	if !late.confuses(r) {
		return nil
	}
	late.nextProbe++
	if errors.Is(err, devices.ErrTimeout) {
		return err // it is silent, which is what there is to say
	}
	if err == nil || isException(err) {
		err = devices.ErrReply
	}
	return fmt.Errorf("an earlier answer is missing, and a late one could be taken for the answer to this: %w", err)
}

// letPass waits for answers to what others may have asked at a port that was
// opened just now, for as long as a unit may take for them.
func (w *serialWire) letPass(ctx context.Context, p Port, wait time.Duration) error {
	if w.strange.IsZero() {
		return nil
	}
	return w.overhear(ctx, p, w.strange.Add(wait))
}

// overhear takes all that comes unasked until end.
func (w *serialWire) overhear(ctx context.Context, p Port, end time.Time) error {
	for time.Now().Before(end) {
		if err := w.hear(ctx, p, end); err != nil {
			return err
		}
	}
	return nil
}

// hear takes what comes next unasked, if anything does until end.
func (w *serialWire) hear(ctx context.Context, p Port, end time.Time) error {
	err := w.receive(ctx, p, nil, end)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err == nil {
		w.understand(nil)
	}
	return err
}

// learnEcho reads what r is going to write, because the answer to a read
// shows whether the adapter echoes.
func (w *serialWire) learnEcho(ctx context.Context, p Port, u Unit, r *request) error {
	read := readRequest(r.unit, r.reg)
	if err := w.clearWay(ctx, p, u, read); err != nil {
		return err
	}
	if _, err := w.send(ctx, p, u, read); err != nil && !isException(err) {
		return fmt.Errorf("read before the first write: %w", err)
	}
	if w.echo == echoUnknown {
		return fmt.Errorf("noise hides whether the adapter echoes, so that a write would prove nothing; check wiring and termination: %w", devices.ErrReply)
	}
	return nil
}

// send sends r and waits for its answer, which nothing outstanding can be
// mistaken for.
func (w *serialWire) send(ctx context.Context, p Port, u Unit, r *request) (answer, error) {
	frame, err := w.framing.encode(r.unit, r.pdu)
	if err != nil {
		return answer{}, err
	}
	if err := w.quieten(ctx, p, u.Pause); err != nil {
		return answer{}, err
	}
	w.stats.request(len(frame))
	late := w.unit(u.ID)
	timeout := late.wait(u.Timeout)
	_, err = p.Write(frame)
	sent := time.Now().Add(time.Duration(len(frame)) * w.cfg.CharTime()) // its last bit
	w.last = sent
	if err != nil {
		late.add(r, sent, timeout, false)
		return answer{}, unanswered(r, portLost("send", err))
	}
	deadline := sent.Add(timeout + time.Duration(w.framing.size(r.replyLen()))*w.cfg.CharTime())
	x := &exchanging{r: r, frame: frame, sent: sent, deadline: deadline, limit: deadline.Add(2 * w.framing.hesitation())}
	a, err := w.await(ctx, p, x)
	if err == nil || isException(err) {
		late.latency.add(x.first.Sub(sent))
		return a, err
	}
	late.add(r, sent, timeout, x.seen > 0)
	return answer{}, unanswered(r, err)
}

// quieten takes what comes unasked, until the silence that must precede a
// request. On a line that never stops it goes on after the longest frame.
func (w *serialWire) quieten(ctx context.Context, p Port, pause time.Duration) error {
	pause = max(pause, w.framing.silence(w.cfg))
	limit := time.Now().Add(pause + time.Duration(w.framing.size(maxPDU))*w.cfg.CharTime() + badFrameGrace)
	for {
		now := time.Now()
		silent := later(w.last.Add(pause), now.Add(glance))
		if now.After(limit) {
			break
		}
		err := w.receive(ctx, p, nil, silent)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
		w.understand(nil)
	}
	w.in = w.in[:0]
	return nil
}

// An exchanging is one exchange while its answer is awaited.
type exchanging struct {
	r        *request
	frame    []byte    // as sent
	sent     time.Time // end of transmission
	deadline time.Time
	limit    time.Time // how far a hesitant answer can move the deadline
	first    time.Time // when the first byte came that was no echo
	seen     int       // bytes, without echoes
	echoed   bool      // its echo has passed
	bad      bool      // a frame of the right shape had a wrong checksum
	head     []byte    // the first bytes, for the message
}

// await reads until the answer to x is there or can no longer come.
func (w *serialWire) await(ctx context.Context, p Port, x *exchanging) (answer, error) {
	for {
		err := w.receive(ctx, p, x, x.deadline)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return answer{}, w.silence(x)
		}
		if err != nil {
			return answer{}, err
		}
		at := devices.Now()
		pdu, ok := w.understand(x)
		if ok {
			return answer{pdu: pdu, at: at}, x.r.check(pdu)
		}
		if !time.Now().Before(x.deadline) { // bytes without end
			return answer{}, w.silence(x)
		}
		if x.bad {
			x.deadline = earlier(x.deadline, w.last.Add(badFrameGrace))
		} else if len(w.in) > 0 { // a frame is under way
			x.deadline = later(x.deadline, earlier(x.limit, w.last.Add(w.framing.hesitation())))
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// silence says what went wrong when the deadline passed.
func (w *serialWire) silence(x *exchanging) error {
	switch {
	case x.bad:
		w.stats.badCRC()
		return fmt.Errorf("the answer's checksum is wrong (% x …): noise, missing termination, or two units with one id: %w", x.head, devices.ErrReply)
	case x.seen > 0:
		w.stats.badReply()
		return fmt.Errorf("%d bytes came that do not answer (% x …): noise, a wrong baud rate or format, or two units with one id: %w",
			x.seen, x.head, devices.ErrReply)
	}
	w.stats.timeout()
	return fmt.Errorf("no answer within %v: check power, wiring (A and B), unit id, baud rate and format: %w",
		x.deadline.Sub(x.sent).Round(time.Millisecond), devices.ErrTimeout)
}

// receive appends what arrives before the deadline to w.in: at least a byte,
// or an error. x is nil when nothing is asked.
func (w *serialWire) receive(ctx context.Context, p Port, x *exchanging, deadline time.Time) error {
	n, err := readBefore(ctx, p, w.chunk[:], deadline)
	if n == 0 {
		return err
	}
	w.last = time.Now()
	w.stats.received(n)
	w.in = append(w.in, w.chunk[:n]...)
	if x != nil {
		x.note(w.chunk[:n], w.last)
	}
	return nil
}

// note keeps what messages and learning need of bytes that came.
func (x *exchanging) note(b []byte, now time.Time) {
	if x.seen == 0 {
		x.first = now
	}
	x.seen += len(b)
	x.head = append(x.head, b[:min(len(b), 8-min(8, len(x.head)))]...)
}

// understand looks for whole frames in w.in, and takes them and all before
// them out. It returns the answer to x once that is there; late answers to
// others are noted. A frame that may be going on hides what follows it, so
// that nothing inside an answer is ever taken for one; since the true answer
// always follows in full length, that cannot hide it for good.
func (w *serialWire) understand(x *exchanging) (PDU, bool) {
	for i := 0; i < len(w.in); {
		rest := w.in[i:]
		if x != nil && !x.echoed && bytes.HasPrefix(rest, x.frame) && w.takeEcho(x) {
			w.in, i = w.in[i+len(x.frame):], 0
			continue
		}
		f, v := w.judge(x, rest)
		switch v {
		case incomplete:
			w.in = rest
			return nil, false
		case whole:
			pdu := bytes.Clone(f.pdu)
			mine := w.settle(x, f.unit, pdu)
			if mine && w.echo == echoUnknown && x.seen == f.size {
				w.echo = echoAbsent
			}
			w.in, i = rest[f.size:], 0
			if mine {
				return pdu, true
			}
		default:
			i++
		}
	}
	w.in = w.in[:0]
	return nil, false
}

// takeEcho says whether what looks like the request is its echo, and learns
// from the echo of a read. The answer to writing one coil or register looks
// the same.
func (w *serialWire) takeEcho(x *exchanging) bool {
	if w.echo == echoAbsent || x.r.echoes() && w.echo == echoUnknown {
		return false
	}
	w.echo = echoPresent
	x.echoed = true
	x.seen -= len(x.frame)
	return true
}

// judge says whether b begins with a frame that answers x or an earlier
// request, and which.
func (w *serialWire) judge(x *exchanging, b []byte) (frame, verdict) {
	if x != nil && w.echo == echoPresent && !x.echoed && bytes.HasPrefix(x.frame, b) {
		return frame{}, incomplete
	}
	unit, ok := w.framing.unit(b)
	if !ok {
		return w.framing.look(b, nil)
	}
	found := nothing
	if x != nil && x.r.unit == unit {
		f, v := w.framing.look(b, x.r)
		if v == whole {
			return f, v
		}
		x.bad = x.bad || v == spoiled
		found = v
	}
	if late := w.late[unit]; late != nil {
		for _, o := range late.open {
			f, v := w.framing.look(b, o.r)
			if v == whole {
				return f, v
			}
			if v == incomplete {
				found = v
			}
		}
	}
	return frame{}, found
}

// settle decides what a good frame from unit answers and reports whether it
// is x.
func (w *serialWire) settle(x *exchanging, unit byte, pdu PDU) bool {
	if x != nil && x.r.unit != unit {
		x = nil
	}
	late := w.late[unit]
	if late == nil {
		return x != nil
	}
	mine, wasLate := late.settle(x, pdu, w.last)
	if wasLate {
		w.stats.late()
	}
	return mine
}

func (w *serialWire) unit(id byte) *lateReplies { return entry(w.late, id) }

// entry returns what m holds for id, a zero T if nothing yet.
func entry[T any](m map[byte]*T, id byte) *T {
	if m[id] == nil {
		m[id] = new(T)
	}
	return m[id]
}
