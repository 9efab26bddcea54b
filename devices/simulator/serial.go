package simulator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/devices/serial/pty"
)

// openLine makes the serial line of a bus. The devices are at its end B, at
// port; end A is for whom they are simulated.
func (b *bus) openLine() (*pty.Pair, *serial.Port, error) {
	pair, err := pty.Open(pty.Config{Baud: b.Baud, Format: b.Format, Link: b.Link, Follow: b.Baud > 0})
	if err != nil {
		return nil, nil, fmt.Errorf("bus %s: %w", b.Name, err)
	}
	port, err := serial.Open(serial.Config{Path: pair.B, Baud: cmp.Or(b.Baud, 115200), Format: b.Format})
	if err != nil {
		pair.Close()
		return nil, nil, fmt.Errorf("bus %s: %w", b.Name, err)
	}
	return pair, port, nil
}

// serveLine serves a serial bus until ctx is done; up is told the path of the
// end that the gateway opens.
func (b *bus) serveLine(ctx context.Context, up func(addr string)) error {
	pair, port, err := b.openLine()
	if err != nil {
		return err
	}
	defer pair.Close()
	defer port.Close()
	ctx, cancel := context.WithCancel(ctx)
	var plugging sync.WaitGroup
	defer plugging.Wait()
	defer cancel()
	plugging.Go(func() { b.followPlug(ctx, pair) })
	up(pair.A)
	if err := b.talk(ctx, port); err != nil && ctx.Err() == nil {
		return fmt.Errorf("bus %s: %w", b.Name, err)
	}
	return nil
}

// followPlug hangs end A up while the bus is unplugged.
func (b *bus) followPlug(ctx context.Context, pair *pty.Pair) {
	for {
		out, changed := b.plug.state()
		if out {
			pair.HangUp(pty.A)
		} else if err := pair.Replug(pty.A); err != nil {
			b.log.Error("replug", "bus", b.Name, "err", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// A faultyPort is the port of the devices' end: what is written to it is an
// answer, which it spoils and, if it is to be late, sends during a later
// Read, so that other units answer meanwhile. One goroutine owns it; only
// SetReadDeadline may be called by others.
type faultyPort struct {
	Port serial.Stream
	desk
	late []lateFrame // by rising time; at most maxLate, beyond which answers are lost

	mu       sync.Mutex
	deadline time.Time
}

type lateFrame struct {
	due   time.Time
	frame []byte
}

// SetReadDeadline implements modbus.Port.
func (p *faultyPort) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	return p.Port.SetReadDeadline(t)
}

// Read sends the late answers that fall due while it waits.
func (p *faultyPort) Read(b []byte) (int, error) {
	for {
		if err := p.sendDue(); err != nil {
			return 0, err
		}
		early := p.arm()
		n, err := p.Port.Read(b)
		if !early || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// arm lets the next Read end at the deadline or when a late answer falls due,
// and reports whether that is earlier.
func (p *faultyPort) arm() (early bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	until := p.deadline
	if len(p.late) > 0 && (until.IsZero() || p.late[0].due.Before(until)) {
		until, early = p.late[0].due, true
	}
	p.Port.SetReadDeadline(until)
	return early
}

func (p *faultyPort) sendDue() error {
	for len(p.late) > 0 && !p.late[0].due.After(time.Now()) {
		frame := p.late[0].frame
		p.late = p.late[1:]
		if _, err := p.Port.Write(frame); err != nil {
			return err
		}
	}
	return nil
}

// Close implements modbus.Port.
func (p *faultyPort) Close() error { return p.Port.Close() }

// Write sends an answer, or puts it off.
func (p *faultyPort) Write(frame []byte) (int, error) {
	spoiled, delay := p.spoil(frame)
	if delay == 0 {
		_, err := p.Port.Write(spoiled)
		return len(frame), err
	}
	if len(p.late) < maxLate {
		l := lateFrame{time.Now().Add(delay), slices.Clone(spoiled)}
		at, _ := slices.BinarySearchFunc(p.late, l, func(a, b lateFrame) int { return a.due.Compare(b.due) })
		p.late = slices.Insert(p.late, at, l)
	}
	return len(frame), nil
}

// speak sends the sentences of the bus's devices as they fall due.
func (b *bus) speak(ctx context.Context, port serial.Stream) error {
	for {
		for _, t := range b.talkers.due(b.now()) {
			if err := t.send(ctx, port); err != nil {
				return err
			}
		}
		if !devices.Sleep(ctx, b.talkers.wait(b.now())) {
			return nil
		}
	}
}
