package serial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"edgegateway/devices"
)

const (
	defaultCall = 2 * time.Second // a meter answers within 1.5 s (IEC 62056-21, 6.3.14, 12)

	// A meter that is still talking, because a reading before broke off, is
	// waited for this long.
	maxDrain = time.Minute
)

// A tunable stream can change its speed: a serial port of this machine.
type tunable interface {
	Baud() int
	SetBaud(baud int) error
	Drain(n int) error // waits until the last of n bytes written has left
}

// A call is one bus with a meter. It belongs to the goroutine that reads the
// stream.
type call struct {
	Meter
	r       *Reader
	stream  Stream
	line    tunable // nil: its speed is what it is
	baud    int     // at which the meter is called; 0 if that is not known
	timeout time.Duration
	in      []byte // arrived and not looked at
	at      devices.Stamp
	chunk   [512]byte
}

// readMeter reads the meter at its interval until the stream fails or ctx is
// done.
func (r *Reader) readMeter(ctx context.Context, m Meter, stream Stream, emit func(*devices.Batch)) error {
	c := &call{Meter: m, r: r, stream: stream, timeout: r.cfg.Polls[0].timeout(defaultCall)}
	if line, ok := stream.(tunable); ok {
		c.line, c.baud = line, line.Baud()
	}
	r.countPort(stream)
	phase := phase{every: r.cfg.Polls[0].Every}
	for next := time.Now(); ; {
		if err := c.rest(ctx, time.Until(next)); err != nil {
			return err
		}
		next = phase.after(time.Now())
		if err := c.read(ctx, emit); err != nil {
			return err
		}
	}
}

// read reads the meter once, again if that fails as often as the poll says, and
// emits what came of it. An error is one of the stream or of ctx.
func (c *call) read(ctx context.Context, emit func(*devices.Batch)) error {
	for tries := c.r.cfg.Polls[0].Retries; ; tries-- {
		err := c.once(ctx, emit)
		if c.line != nil && c.line.Baud() != c.baud {
			if back := c.line.SetBaud(c.baud); back != nil {
				return back
			}
		}
		c.r.countPort(c.stream)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, devices.ErrReply), errors.Is(err, devices.ErrTimeout):
			c.r.noAnswer(err)
		default:
			return err
		}
		if tries <= 0 {
			c.r.works(emit)
			c.r.fail(err, nil, emit)
			return nil
		}
	}
}

// once calls the meter and emits its block. An error that is neither
// devices.ErrReply nor devices.ErrTimeout is one of the stream or of ctx.
func (c *call) once(ctx context.Context, emit func(*devices.Batch)) error {
	if err := c.quieten(ctx); err != nil {
		return err
	}
	id, err := c.identify(ctx)
	if err != nil {
		return err
	}
	baud, err := c.agree(ctx, id)
	if err != nil {
		return err
	}
	return c.receive(ctx, id, baud, emit)
}

// quieten waits until the meter says nothing, and wakes it if it sleeps.
func (c *call) quieten(ctx context.Context) error {
	for end := time.Now().Add(maxDrain); time.Now().Before(end); {
		err := c.more(ctx, time.Now().Add(200*time.Millisecond))
		c.in = c.in[:0]
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return err
		}
	}
	if !c.Wake {
		return nil
	}
	if err := c.write(make([]byte, wakeNULs)); err != nil {
		return err
	}
	return c.rest(ctx, wakeRest)
}

// rest lets d pass. What comes meanwhile is dropped.
func (c *call) rest(ctx context.Context, d time.Duration) error {
	for end := time.Now().Add(d); ; {
		err := c.more(ctx, end)
		c.in = c.in[:0]
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// write sends b and returns when its last bit has left.
func (c *call) write(b []byte) error {
	if _, err := c.stream.Write(b); err != nil {
		return err
	}
	if c.line == nil {
		return nil
	}
	return c.line.Drain(len(b))
}

// more appends what comes before t to c.in: at least a byte, or an error.
func (c *call) more(ctx context.Context, t time.Time) error {
	for empty := 0; empty < maxEmpty; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		until := time.Now().Add(maxGap) // to look at ctx
		if t.Before(until) {
			until = t
		}
		if err := c.stream.SetReadDeadline(until); err != nil {
			return err
		}
		n, err := c.stream.Read(c.chunk[:])
		c.at = c.r.now()
		c.in = append(c.in, c.chunk[:n]...)
		switch {
		case n > 0:
			return nil
		case err == nil:
			empty++
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case !time.Now().Before(t):
			return os.ErrDeadlineExceeded
		}
	}
	return io.ErrNoProgress
}

// identify calls the meter and returns what it says it is.
func (c *call) identify(ctx context.Context) (id Identification, err error) {
	if err := c.write(c.Request()); err != nil {
		return id, err
	}
	var echo, other []byte
	for {
		err := c.more(ctx, time.Now().Add(c.timeout))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return id, c.nobody(echo, append(other, c.in...))
		}
		if err != nil {
			return id, err
		}
		for {
			line, rest, whole := bytes.Cut(c.in, []byte{'\n'})
			if !whole {
				break
			}
			c.in = rest
			line = bytes.TrimSuffix(line, []byte{'\r'})
			if id, ok := ParseIdentification(line); ok {
				return id, nil
			}
			if bytes.HasSuffix(line, bytes.TrimSpace(c.Request())) {
				echo = line
			} else {
				other = append(append(other, line...), '\r', '\n')
			}
		}
		if len(other)+len(c.in) > maxIdent {
			return id, c.nobody(echo, append(other, c.in...))
		}
	}
}

// nobody says why there is no identification.
func (c *call) nobody(echo, other []byte) error {
	other = bytes.Trim(other, "\x00\r\n")
	switch {
	case len(other) > 0:
		return fmt.Errorf("the meter answers its call with %q, which is no identification (such as /ABC5NAME): is it called at the right speed and format, mostly 300 baud 7E1, and does no light fall on the head?%s: %w",
			clip(other), c.r.portTrouble(c.stream), devices.ErrReply)
	case echo != nil:
		return fmt.Errorf("only the call itself came back: the head sees its own light and not the meter's; put it on the meter's window, its cable hanging down mostly: %w", devices.ErrTimeout)
	}
	who := "is the head on the meter and the right way round (its cable hangs down mostly), and has it power?"
	if c.Address != "" {
		who = fmt.Sprintf("is there a meter with the address %q? %s", c.Address, who)
	}
	return fmt.Errorf("no answer to the call within %v: %s: %w", c.timeout, who, devices.ErrTimeout)
}

// agree brings both sides to the speed at which the data come, and returns it;
// 0 if that is the speed before.
func (c *call) agree(ctx context.Context, id Identification) (baud int, err error) {
	baud, waits, err := id.Offer()
	if err != nil {
		return 0, err
	}
	if !waits {
		if c.line == nil && baud != 0 {
			return 0, fmt.Errorf("the meter (%s) changes to %d baud by itself, and the speed behind a converter stays as it is; connect its head to a serial port of this machine: %w", id.Text, baud, devices.ErrReply)
		}
		if c.MaxBaud != 0 && baud > c.MaxBaud {
			return 0, fmt.Errorf("the meter (%s) changes to %d baud by itself, baud_max allows %d; its speed is set in the meter: %w", id.Text, baud, c.MaxBaud, devices.ErrReply)
		}
		return baud, c.tune(baud)
	}
	// Each side leaves the other time to turn around. Some meters do not wait,
	// although their speed is a digit.
	for end := time.Now().Add(id.Reaction()); ; {
		if bytes.IndexByte(c.in, stx) >= 0 {
			return 0, nil
		}
		c.in = c.in[:0]
		err := c.more(ctx, end)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	most := c.MaxBaud
	switch {
	case c.line == nil:
		most = 0
	case most == 0:
		most = meterBauds[len(meterBauds)-1]
	}
	option, baud := id.option(most)
	if err := c.write(option); err != nil {
		return 0, err
	}
	if baud == 0 || baud == c.baud {
		return 0, nil
	}
	// The bytes may still stand in the adapter, and the meter does not begin
	// before its reaction time.
	if err := c.rest(ctx, id.Reaction()/2); err != nil {
		return 0, err
	}
	return baud, c.tune(baud)
}

// tune changes the speed, not for 0.
func (c *call) tune(baud int) error {
	if baud == 0 || c.line == nil {
		return nil
	}
	return c.line.SetBaud(baud)
}

// receive takes the block and emits what is in it.
func (c *call) receive(ctx context.Context, id Identification, baud int, emit func(*devices.Batch)) error {
	var good message
	var why error
	dec := &meterDecoder{out: &outlet{
		good: func(m message) { good = m },
		bad:  func(text string) { why = fmt.Errorf("%s%s: %w", text, c.r.portTrouble(c.stream), devices.ErrReply) },
	}}
	before := 0 // bytes that came before the block
	for {
		if !dec.open {
			before += len(c.in)
		}
		dec.feed(c.in)
		c.in = c.in[:0]
		switch {
		case good != nil:
			c.r.good.Add(1)
			c.r.works(emit)
			c.r.take(good, nil, c.at, emit)
			return nil
		case why != nil:
			return why
		case !dec.open && before > maxBlock:
			return c.silent(id, baud, before)
		}
		err := c.more(ctx, time.Now().Add(c.timeout))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if dec.silence(); why != nil {
				return why
			}
			return c.silent(id, baud, before)
		}
		if err != nil {
			return err
		}
	}
}

// silent says why a meter that answered its call has sent no block.
func (c *call) silent(id Identification, baud, came int) error {
	at := "at the same speed"
	if baud != 0 {
		at = fmt.Sprintf("at %d baud", baud)
	}
	remedy := ""
	if baud > meterBauds[0] {
		remedy = fmt.Sprintf("; if the head does not carry that speed, set baud_max = %d", meterBauds[0])
	}
	if came > 0 {
		return fmt.Errorf("the meter answered its call (%s), but of the %d bytes that came %s none begins a block%s%s: %w", id.Text, came, at, c.r.portTrouble(c.stream), remedy, devices.ErrReply)
	}
	return fmt.Errorf("the meter answered its call (%s), but sent nothing %s%s: %w", id.Text, at, remedy, devices.ErrTimeout)
}
