// Package pty makes serial lines out of nothing: two pseudo-terminals joined
// by a pacer that lets bytes through at the speed of a real line, and spoils
// them on demand. Tests, the simulator and the demo run on it.
//
// Decisions:
//   - A pacer, because a plain pseudo-terminal delivers a frame in one piece
//     and at once, and hides every timing fault a serial line can have. It
//     copies one character time at a time, in steps of about a millisecond.
//   - Each end has a stable path, a symbolic link, because the number of a
//     pseudo-terminal changes when it is hung up and made again, as the name
//     of an unplugged adapter does. While an end is hung up its path is gone.
//   - The pair keeps a descriptor of each terminal open, so that programs may
//     come and go as they do on a real port. Bytes for an end that nobody
//     reads fill the terminal's buffer (4 kB); what does not fit is lost.
//   - ioctl by x/sys/unix instead of a package: it is two calls.
package pty

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix" // terminal ioctls, which package syscall lacks
)

// Config says what line a Pair is.
type Config struct {
	Baud   int    // 0: not paced
	Format string // "8N1", "8E1", …: sets the bits of a character; "" means 8N1
	Link   string // path that A gets in place of one in a folder for temporary files

	// Follow lets each end talk at the speed that the program there has set, as
	// a real line does, in place of Baud. What arrives at an end that is set
	// to another is garbage.
	Follow bool
}

// An End is one of the two ends of a Pair, or the direction away from it.
type End uint8

const (
	A End = iota
	B
)

func (e End) String() string { return [...]string{"A", "B"}[e] }

// A Pair is a serial line with two ends. Its methods may be called at once
// from any goroutine.
type Pair struct {
	A, B string // paths to open as serial ports

	dir   string
	stop  context.CancelFunc
	tasks sync.WaitGroup
	wires [2]*wire // by the end they lead away from

	mu   sync.Mutex // guards ends
	ends [2]*end
}

// Open makes a line. The caller closes it.
func Open(cfg Config) (*Pair, error) {
	if cfg.Follow {
		cfg.Baud = 1 // so that a character takes as many seconds as it has bits
	}
	char, err := charTime(cfg)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "serial-line-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the ends of a serial line: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Pair{A: filepath.Join(dir, "a"), B: filepath.Join(dir, "b"), dir: dir, stop: stop}
	if cfg.Link != "" {
		p.A = cfg.Link
	}
	for e := range End(2) {
		p.wires[e] = newWire(char)
		if cfg.Follow {
			p.wires[e].speed = func() int { return p.speed(e) }
		}
		p.tasks.Go(func() { p.carry(ctx, e) })
	}
	if err := errors.Join(p.Replug(A), p.Replug(B)); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close ends the line and removes its paths.
func (p *Pair) Close() error {
	p.stop()
	p.HangUp(A)
	p.HangUp(B)
	p.tasks.Wait()
	return os.RemoveAll(p.dir)
}

// HangUp takes end e away as if its adapter were unplugged: programs that
// have it open see a hang-up, and its path is gone.
func (p *Pair) HangUp(e End) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ends[e] == nil {
		return
	}
	os.Remove(p.path(e))
	p.ends[e].close()
	p.ends[e] = nil
}

// Replug brings end e back after HangUp.
func (p *Pair) Replug(e End) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ends[e] != nil {
		return nil
	}
	end, err := openEnd()
	if err != nil {
		return fmt.Errorf("make a pseudo-terminal for end %v: %w", e, err)
	}
	if err := link(end.name, p.path(e)); err != nil {
		end.close()
		return fmt.Errorf("name end %v: %w", e, err)
	}
	p.ends[e] = end
	p.tasks.Go(func() { p.wires[e].read(end.master) })
	return nil
}

// SetFaults says what happens from now on to bytes that come from end e.
func (p *Pair) SetFaults(e End, f Faults) { p.wires[e].setFaults(f) }

// Tap lets fn see and replace each piece of what comes from end e, before
// faults and pacing; nil ends that. A piece is what one read of the terminal
// returned, mostly one write of the program there; fn is called by one
// goroutine at a time and owns the slice during the call.
func (p *Pair) Tap(e End, fn func(piece []byte) []byte) { p.wires[e].setTap(fn) }

// Inject puts noise on the line as if it came from end e, after what is under
// way. When many pieces wait, it waits too.
func (p *Pair) Inject(e End, noise []byte) { p.wires[e].inject(noise) }

func (p *Pair) path(e End) string { return [...]string{p.A, p.B}[e] }

// put writes b to end e as far as its buffer has room; an end that is hung up
// or full loses it, as a line does.
func (p *Pair) put(e End, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ends[e] != nil {
		p.ends[e].put(b)
	}
}

// carry moves what comes from end e to the other until ctx is done.
func (p *Pair) carry(ctx context.Context, e End) {
	w := p.wires[e]
	w.run(ctx, func(b []byte, baud int, echo bool) {
		p.put(1-e, p.heard(1-e, b, baud))
		if echo {
			p.put(e, p.heard(e, b, baud))
		}
	})
	w.close()
}

// speed is what the program at end e has set, 0 while that is unplugged.
func (p *Pair) speed(e End) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ends[e] == nil {
		return 0
	}
	t, err := unix.IoctlGetTermios(int(p.ends[e].slave.Fd()), unix.TCGETS2)
	if err != nil {
		return 0
	}
	return int(t.Ospeed)
}

// heard is what end e makes of b, which was sent with a speed, 0 for none.
func (p *Pair) heard(e End, b []byte, baud int) []byte {
	if baud == 0 || p.speed(e) == baud {
		return b
	}
	garbage := make([]byte, len(b))
	for i, c := range b {
		garbage[i] = bits.RotateLeft8(c, 3) ^ 0x95
	}
	return garbage
}

// An end is one pseudo-terminal.
type end struct {
	master *os.File
	slave  *os.File // held so that the master never sees a hang-up of its own
	name   string
}

func openEnd() (*end, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	e := &end{master: os.NewFile(uintptr(fd), "/dev/ptmx")}
	if err := e.unlock(fd); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// unlock finds and opens the other side of master fd and makes it raw.
func (e *end) unlock(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("ask for the number: %w", err)
	}
	e.name = fmt.Sprintf("/dev/pts/%d", n)
	slave, err := unix.Open(e.name, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", e.name, err)
	}
	e.slave = os.NewFile(uintptr(slave), e.name)
	return makeRaw(slave)
}

func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read the terminal's mode: %w", err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD | unix.CLOCAL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return fmt.Errorf("make the terminal raw: %w", err)
	}
	return nil
}

// put writes b without waiting.
func (e *end) put(b []byte) {
	c, err := e.master.SyscallConn()
	if err != nil {
		return
	}
	c.Write(func(fd uintptr) bool {
		unix.Write(int(fd), b)
		return true
	})
}

func (e *end) close() {
	e.master.Close()
	if e.slave != nil {
		e.slave.Close()
	}
}

// link makes path a symbolic link to target. A left-over link is replaced,
// any other file is not.
func link(target, path string) error {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSymlink != 0 {
		os.Remove(path)
	}
	return os.Symlink(target, path)
}

// charTime returns how long one character of cfg takes on the line: a start
// bit, the data bits, a parity bit unless N, and the stop bits.
func charTime(cfg Config) (time.Duration, error) {
	f := cfg.Format
	if f == "" {
		f = "8N1"
	}
	if len(f) != 3 || f[0] < '5' || f[0] > '8' || f[2] < '1' || f[2] > '2' || cfg.Baud < 0 {
		return 0, fmt.Errorf("line %d %q: the format is data bits, parity, stop bits, such as 8N1", cfg.Baud, cfg.Format)
	}
	if cfg.Baud == 0 {
		return 0, nil
	}
	bits := 1 + int(f[0]-'0') + int(f[2]-'0')
	if f[1] != 'N' {
		bits++
	}
	return time.Duration(bits) * time.Second / time.Duration(cfg.Baud), nil
}
