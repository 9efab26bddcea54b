package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"edgegateway/devices"
)

// MaxPipeline is how many requests may be outstanding on one connection at most
// (Modbus messaging on TCP/IP V1.0b, 4.4.1.1: 1 to 16, by device).
const MaxPipeline = 16

// A baton is held by the one goroutine that works with a line, and passed on
// while that waits, where several are there. nil is for where there is one.
type baton chan struct{}

func (b baton) take() {
	if b != nil {
		b <- struct{}{}
	}
}

func (b baton) give() {
	if b != nil {
		<-b
	}
}

// Lock and Unlock are take and give, for sync.Cond.
func (b baton) Lock()   { b.take() }
func (b baton) Unlock() { b.give() }

// A crowd is the requests outstanding on a line. All but bearing belongs to who
// has the baton.
type crowd struct {
	*bearing
	changed *sync.Cond
	size    int
	lonely  int       // requests that want to be outstanding alone, waiting or outstanding
	entered uint64    // requests so far; shows whether one was alone all the time
	since   time.Time // when size last rose from 0
}

func newCrowd(b baton, n int) *crowd {
	return &crowd{bearing: &bearing{limit: n}, changed: sync.NewCond(b)}
}

// enter waits until one more request may be outstanding, alone if so wanted.
// leave, called when it is not any more, reports whether another was meanwhile.
func (c *crowd) enter(alone bool) (leave func() (company bool)) {
	if alone {
		c.lonely++
	}
	for alone && c.size > 0 || !alone && (c.lonely > 0 || c.size >= c.most()) {
		c.changed.Wait()
	}
	if c.size == 0 {
		c.since = time.Now()
	}
	c.size++
	c.entered++
	first, entered := c.size == 1, c.entered
	return func() bool {
		c.size--
		if alone {
			c.lonely--
		}
		c.changed.Broadcast()
		return !first || c.entered != entered
	}
}

// busy returns how long the line was taken since it was last asked, or since
// then when more requests are outstanding.
func (c *crowd) busy() time.Duration {
	now := time.Now()
	d := now.Sub(c.since)
	c.since = now
	return d
}

// A bearing is what was seen of how a device bears several requests at a time.
// Some close the connection, some drop all but one. So a read that fails in
// company is asked again, alone; if it is answered then, that is a strike, and
// after three of them with few good answers in between it is believed.
type bearing struct {
	mu      sync.Mutex // guards all; anyone may ask
	limit   int
	strikes int
	borne   int       // answers in company since the last strike
	struck  time.Time // when that was
	why     string
}

const (
	maxStrikes = 3
	wellBorne  = 100 // answers in company that make strikes forgotten
)

func (b *bearing) most() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limit
}

func (b *bearing) bore() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.borne++; b.borne >= wellBorne {
		b.strikes = 0
	}
}

// strike notes that a request which failed in company, for the reason err, when
// it was asked then, was answered alone.
func (b *bearing) strike(asked time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if asked.Before(b.struck) || b.limit == 1 {
		return // the others that failed with it
	}
	b.struck, b.borne = time.Now(), 0
	if b.strikes++; b.strikes < maxStrikes {
		return
	}
	does := "does not answer"
	if errors.Is(err, devices.ErrPort) {
		does = "closes the connection"
	}
	b.why = fmt.Sprintf("with %d outstanding the device %s, and with one it answers well; it would do so from the start with pipeline = 1", b.limit, does)
	b.limit = 1
}

// Pipeline returns how many requests may be outstanding now, and if these are
// fewer than configured, why. Anyone may call it.
func (l *Line) Pipeline() (n int, why string) {
	if l.crowd == nil {
		return 1, ""
	}
	l.crowd.mu.Lock()
	defer l.crowd.mu.Unlock()
	return l.crowd.limit, l.crowd.why
}

// askAmong asks r while others may be outstanding. A read is asked once more on a
// new connection if a kept one was lost, and once more alone if it failed in
// company, so that what the device does not bear costs no reading.
func (l *Line) askAmong(ctx context.Context, u Unit, r *request) (answer, error) {
	alone := r.write || u.Pause > 0
	kept := l.port != nil && l.used
	asked := time.Now()
	a, company, err := l.askIn(ctx, u, r, alone)
	if kept && !r.write && errors.Is(err, devices.ErrPort) && ctx.Err() == nil {
		a, company, err = l.askIn(ctx, u, r, alone)
	}
	switch {
	case err == nil || isException(err):
		if company {
			l.crowd.bore()
		}
	case company && !r.write && ctx.Err() == nil && (errors.Is(err, devices.ErrPort) || errors.Is(err, devices.ErrTimeout)):
		was := err
		if a, _, err = l.askIn(ctx, u, r, true); err == nil || isException(err) {
			l.crowd.strike(asked, was)
		}
	}
	return a, err
}

func (l *Line) askIn(ctx context.Context, u Unit, r *request, alone bool) (a answer, company bool, err error) {
	leave := l.crowd.enter(alone)
	a, err = l.askOnce(ctx, u, r)
	return a, leave(), err
}

// A pipeWire speaks Modbus TCP with several requests outstanding. A goroutine
// reads what comes and hands each answer to who waits for its transaction id.
type pipeWire struct {
	tcpWire  // its packager, latencies and figures
	baton    baton
	pipe     *pipe
	missedAt time.Time // when missed was last raised
}

func newPipeWire(datagram bool, stats *counters, b baton) *pipeWire {
	return &pipeWire{tcpWire: *newTCPWire(datagram, stats), baton: b}
}

func (w *pipeWire) reset() { w.pipe, w.missed = nil, 0 }

// exchange asks r and returns the proven answer. While it waits for that others
// have the baton.
func (w *pipeWire) exchange(ctx context.Context, p Port, u Unit, r *request) (answer, error) {
	if pause := time.Until(w.last.Add(u.Pause)); pause > 0 {
		w.baton.give()
		ok := devices.Sleep(ctx, pause)
		if w.baton.take(); !ok {
			return answer{}, context.Cause(ctx)
		}
	}
	a, err := w.send(ctx, p, u, r)
	w.last = time.Now()
	if err != nil && !isException(err) {
		err = unanswered(r, err)
	}
	return a, err
}

func (w *pipeWire) send(ctx context.Context, p Port, u Unit, r *request) (answer, error) {
	frame, err := w.encode(r)
	if err != nil {
		return answer{}, err
	}
	if w.pipe == nil {
		w.pipe = newPipe(p, w.datagram, w.stats)
	}
	pipe, id := w.pipe, binary.BigEndian.Uint16(frame)
	arrived := pipe.expect(id, r)
	w.stats.request(len(frame))
	if _, err := p.Write(frame); err != nil {
		pipe.forget(id)
		return answer{}, portLost("send", err)
	}
	sent := time.Now()
	w.baton.give()
	got := pipe.wait(ctx, id, arrived, u.Timeout)
	w.baton.take()
	switch {
	case got.err != nil && ctx.Err() != nil:
		return answer{}, context.Cause(ctx)
	case errors.Is(got.err, errNothing):
		return answer{}, w.missing(pipe, sent, u.Timeout)
	case got.err != nil:
		return answer{}, got.err
	}
	w.missed = 0
	pdu, err := w.open(r, frame, got.frame)
	if err == nil || isException(err) {
		entry(w.latency, u.ID).add(got.at.Sub(sent))
	}
	return answer{pdu: pdu, at: got.stamp}, err
}

// errNothing is that no answer came in time.
var errNothing = errors.New("nothing came")

// missing is the error of an answer that did not come, to a request sent then.
func (w *pipeWire) missing(p *pipe, sent time.Time, timeout time.Duration) error {
	w.stats.timeout()
	if n := p.stuck.Load(); n > 0 && !w.datagram && time.Since(time.Unix(0, n)) > stuckFor {
		return &brokenError{fmt.Errorf("an answer stopped in the middle, within %v: the device or gateway is overloaded or cuts answers: %w", timeout, devices.ErrTimeout)}
	}
	err := fmt.Errorf("no answer within %v: check the unit id, and what is behind a gateway: %w", timeout, devices.ErrTimeout)
	switch heard := time.Unix(0, p.heard.Load()); {
	case heard.After(sent):
		w.missed = 0
	case !sent.Before(w.missedAt): // of those outstanding at once one counts
		w.missed, w.missedAt = w.missed+1, time.Now()
	}
	if w.missed >= maxMissed {
		return &brokenError{err}
	}
	return err
}

// stuckFor is how long the beginning of a frame may wait for its end.
const stuckFor = 100 * time.Millisecond

// A pipe is one connection with several requests outstanding.
type pipe struct {
	port         Port
	stream       tcpStream    // of its goroutine
	heard, stuck atomic.Int64 // when the last byte came, and since when there has been the beginning of a frame; Unix time in ns, 0: not

	mu      sync.Mutex // guards what follows
	waiting map[uint16]expected
	err     error // why nothing will come any more
}

// An expected is an answer that is waited for.
type expected struct {
	unit, function byte
	to             chan<- arrival // has room for it
}

// An arrival is an answer, or why none will come.
type arrival struct {
	frame []byte
	at    time.Time
	stamp devices.Stamp
	err   error
}

// newPipe reads from port until that is closed.
func newPipe(port Port, datagram bool, stats *counters) *pipe {
	p := &pipe{port: port, stream: tcpStream{datagram: datagram, stats: stats}, waiting: map[uint16]expected{}}
	go p.read()
	return p
}

// expect returns where the answer with this id to r, or the end, will come.
func (p *pipe) expect(id uint16, r *request) <-chan arrival {
	c := make(chan arrival, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		c <- arrival{err: p.err}
		return c
	}
	p.waiting[id] = expected{r.unit, r.pdu[0], c}
	return c
}

func (p *pipe) forget(id uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id)
}

func (p *pipe) wait(ctx context.Context, id uint16, arrived <-chan arrival, timeout time.Duration) arrival {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case a := <-arrived:
		return a
	case <-timer.C:
	case <-ctx.Done():
	}
	p.forget(id)
	select {
	case a := <-arrived: // just now
		return a
	default:
		return arrival{err: errNothing}
	}
}

// read hands out what comes. What wakes it is the end of the connection.
func (p *pipe) read() {
	for {
		frame, err := p.stream.next(context.Background(), p.port, time.Time{}, p.note)
		if err != nil {
			p.end(err)
			return
		}
		p.note()
		a := arrival{frame: append([]byte(nil), frame...), at: time.Now(), stamp: devices.Now()}
		id := binary.BigEndian.Uint16(frame)
		p.mu.Lock()
		e, wanted := p.waiting[id]
		delete(p.waiting, id)
		mixed := !p.stream.datagram && p.mixed(frame)
		p.mu.Unlock()
		switch {
		case mixed:
			p.stream.stats.badReply()
			err = &brokenError{fmt.Errorf("an answer begins within another: the device or gateway cuts answers: %w", devices.ErrReply)}
			if wanted {
				e.to <- arrival{err: err}
			}
			p.end(err)
			return
		case !wanted:
			p.stream.stats.late()
		default:
			e.to <- a
		}
	}
}

// mixed reports whether frame seems to hold the beginning of another answer that
// is waited for, as it does when the device cut it short: its length is then made
// up by what follows. With one request outstanding nothing follows. Where fewer
// than five bytes were cut the rest of the other's head follows the frame, and is
// no head.
func (p *pipe) mixed(frame []byte) bool {
	if rest := p.stream.in; len(rest) >= tcpHeader {
		if _, err := tcpFrameLen(rest); err != nil {
			return true
		}
	}
	for b := frame[tcpHeader+1:]; len(b) >= 5; b = b[1:] {
		if b[2]|b[3] != 0 || b[4] > 1 {
			continue
		}
		if e, ok := p.waiting[binary.BigEndian.Uint16(b)]; ok &&
			(len(b) < 7 || b[6] == e.unit || b[6] == 0 || b[6] == 0xFF) && (len(b) < 8 || b[7]&^exceptionBit == e.function) {
			return true
		}
	}
	return false
}

// note tells those who wait what was heard.
func (p *pipe) note() {
	now := time.Now().UnixNano()
	p.heard.Store(now)
	switch {
	case len(p.stream.in) == 0:
		p.stuck.Store(0)
	case p.stuck.Load() == 0:
		p.stuck.Store(now)
	}
}

// end fails all that is outstanding.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	for id, e := range p.waiting {
		e.to <- arrival{err: err}
		delete(p.waiting, id)
	}
}
