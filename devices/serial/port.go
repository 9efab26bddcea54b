// Package serial opens serial ports for the gateway and reads sensors that
// speak by themselves over them.
//
// # Ports
//
// A Port is a tty opened by go.bug.st/serial, which knows how to set odd baud
// rates and to wake a reader on Close. What that package does not do, or does
// in a way a gateway cannot live with, is done here:
//
//   - A second descriptor, the control descriptor, is opened before the port.
//     It carries a lock (flock) that keeps two programs off one line even for
//     root, whom TIOCEXCL does not stop, and it is non-blocking: bytes are
//     written through it, because the package's Write blocks for ever when a
//     driver takes no more, and it does not go on after a short write.
//   - The package's Read answers a timeout with (0, nil), on which io.ReadFull
//     spins. Port.Read answers it with os.ErrDeadlineExceeded, as a net.Conn
//     does, and a deadline set from another goroutine takes effect at once (25
//     ms at most), so that a context can interrupt a read.
//   - A hang-up, however the driver words it, is devices.ErrPort: the owner
//     closes the port and opens it again later.
//   - The direction of an RS-485 line is switched by the kernel, where its driver
//     can (TIOCSRS485), or by RTS, as the configuration says. The present mode is
//     never asked for: TIOCGRS485 upsets some USB adapters.
//   - The package uses select(2) and panics on a descriptor of 1024 or more.
//     Reserve keeps low descriptors free for ports opened late; Open checks
//     that it got one, and Read turns a panic into an error all the same.
//
// Not done: opening a port pulses DTR and RTS, which resets an Arduino, whatever
// is wanted of them afterwards; and parity errors are visible only in Port.Stats,
// where the driver counts: it replaces the character by NUL, and the frame's
// checksum fails. The package opens its descriptors without O_CLOEXEC, so that
// the gateway must start no programs while a port is open.
//
// # Readers
//
// A Reader hears devices that speak by themselves, or answer to always the same
// few bytes (asker), or are called as meters are (call). How their messages are
// made is a Framing, and each kind is a type with its own idea of a proof. Between
// reads a decoder holds a bounded number of bytes and nothing else, so that what it
// makes of a stream does not depend on how it was cut into reads.
//
// A device that is asked and does not answer fails its points, as one on a Modbus
// bus does; of one that speaks by itself only the silence is noticed, by whoever
// listens.
package serial

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	bugst "go.bug.st/serial" // termios, any baud rate, a Close that wakes Read
	"golang.org/x/sys/unix"  // flock, poll and tcflush on the control descriptor

	"edgegateway/devices"
)

// Config names a port and how its line is set.
type Config struct {
	Path   string // /dev/serial/by-id/…, /dev/ttyAMA0
	Baud   int
	Format string // "8N1" (the default), "8E1", "7E1", "8O1", "8N2"

	RS485      RS485
	LowLatency bool // the driver hands on each byte at once, if it can
	DTR, RTS   Level
}

// A Level is how a modem line is held while the port is open. Many devices with
// a converter of their own take their power from one, or talk only with it on.
type Level uint8

const (
	LevelUsual Level = iota // as the driver has it after opening, mostly on
	LevelOn
	LevelOff
)

func (c Config) String() string {
	f := c.Format
	if f == "" {
		f = DefaultFormat
	}
	return fmt.Sprintf("%s %d %s", c.Path, c.Baud, f)
}

// A Port is an open serial port. One goroutine owns it; only SetReadDeadline
// may be called by others meanwhile.
type Port struct {
	cfg      Config
	tty      bugst.Port
	control  int   // descriptor: lock, writing, flushing, the driver's modes
	ioctl    ioctl // of control
	byRTS    bool  // RTS is raised for writing
	counts   bool  // the driver counts errors
	began    kernelCounters
	deadline atomic.Int64 // Unix nanoseconds; 0: none
	closed   bool
}

const (
	// slice is how long a read is deaf to a new deadline.
	slice = 25 * time.Millisecond
	// spin is how long before a deadline Read stops sleeping: the kernel
	// wakes a sleeper late by about as much, and who waits for the end of a
	// silence loses that with each request.
	spin = 150 * time.Microsecond
)

// Open opens the port of cfg and throws away what had arrived on it before.
// Errors that another attempt may cure wrap devices.ErrPort.
func Open(cfg Config) (*Port, error) {
	mode, err := cfg.mode()
	if err != nil {
		return nil, err
	}
	control, err := openControl(cfg.Path)
	if err != nil {
		return nil, err
	}
	p := &Port{cfg: cfg, control: control, ioctl: ioctlOf(control)}
	if err := p.openTTY(mode); err != nil {
		unix.Close(control)
		return nil, err
	}
	if p.byRTS, err = cfg.RS485.setUp(p.ioctl, cfg.Path, isPseudo(control)); err != nil {
		p.Close()
		return nil, err
	}
	if err := p.setLevels(); err != nil {
		p.Close()
		return nil, err
	}
	if cfg.LowLatency {
		_ = setLowLatency(p.ioctl) // at worst the line is as slow as it was
	}
	unix.IoctlSetInt(control, unix.TCFLSH, unix.TCIOFLUSH)
	p.began, p.counts = countersOf(p.ioctl)
	return p, nil
}

// setLevels holds the modem lines as they are wanted. A pseudo-terminal has none.
func (p *Port) setLevels() error {
	if isPseudo(p.control) {
		return nil
	}
	for _, l := range []struct {
		level Level
		bit   int32
		name  string
	}{{p.cfg.DTR, unix.TIOCM_DTR, "dtr"}, {p.cfg.RTS, unix.TIOCM_RTS, "rts"}} {
		if l.level == LevelUsual {
			continue
		}
		if err := setModem(p.ioctl, l.bit, l.level == LevelOn); err != nil {
			return fmt.Errorf("set %s of serial port %s: it has no such line; leave %s out: %w", l.name, p.cfg.Path, l.name, portError{err})
		}
	}
	return nil
}

// openControl opens the descriptor that carries the lock.
func openControl(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, openError(path, err)
	}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open serial port %s: it is no serial port: %w", path, portError{err})
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		who := held(path)
		unix.Close(fd)
		return -1, fmt.Errorf("open serial port %s: %s: %w", path, who, devices.ErrPort)
	}
	return fd, nil
}

// openTTY opens the port proper on a descriptor that select(2) can take.
func (p *Port) openTTY(mode *bugst.Mode) (err error) {
	reserve.lend()
	defer func() {
		if err != nil {
			reserve.restore()
		}
	}()
	for range 3 { // a goroutine may take a low descriptor in between
		if p.tty, err = bugst.Open(p.cfg.Path, mode); err != nil {
			return openError(p.cfg.Path, err)
		}
		if err = p.guard(func() error { return probe(p.tty) }); err == nil {
			return nil
		}
		p.tty.Close()
	}
	return err
}

// Close closes the port and gives up the lock. It may be called twice.
func (p *Port) Close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	err := errors.Join(p.tty.Close(), unix.Close(p.control))
	reserve.restore()
	return err
}

// Baud is its present speed.
func (p *Port) Baud() int { return p.cfg.Baud }

// SetBaud changes the speed at once, also for bytes that have not left.
func (p *Port) SetBaud(baud int) error {
	cfg := p.cfg
	cfg.Baud = baud
	mode, err := cfg.mode()
	if err != nil {
		return err
	}
	if err := p.tty.SetMode(mode); err != nil {
		return p.gone(fmt.Sprintf("set %d baud on", baud), err)
	}
	p.cfg = cfg
	return nil
}

// Drain waits until the n bytes written last have left, and no longer than
// twice the time that takes and a second.
func (p *Port) Drain(n int) error { return p.drain(n) }

// SetReadDeadline sets until when Read waits; the zero time means for ever.
func (p *Port) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		p.deadline.Store(0)
	} else {
		p.deadline.Store(t.UnixNano())
	}
	return nil
}

// Read reads what has arrived, at least one byte. Past the deadline the error
// is os.ErrDeadlineExceeded, mostly within some microseconds of it; after a
// hang-up it wraps devices.ErrPort.
func (p *Port) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for first := true; ; first = false {
		wait, left := slice, slice
		if d := p.deadline.Load(); d != 0 {
			left = time.Until(time.Unix(0, d))
			wait = max(0, min(slice, left-spin))
		}
		if left <= 0 && !first {
			return 0, os.ErrDeadlineExceeded
		}
		if err := p.tty.SetReadTimeout(wait); err != nil {
			return 0, p.gone("read", err)
		}
		if n, err := p.read(b); n > 0 || err != nil {
			return n, err
		}
	}
}

// read is one read of the package; (0, nil) is a timeout.
func (p *Port) read(b []byte) (n int, err error) {
	err = p.guard(func() (err error) {
		n, err = p.tty.Read(b)
		return err
	})
	if err != nil {
		return 0, p.gone("read", err)
	}
	return n, nil
}

// errHigh is what select(2) in the package makes of a descriptor above 1023.
var errHigh = errors.New("its descriptor is above 1023, because the program has many connections open")

// guard turns the panic of a high descriptor into an error.
func (p *Port) guard(call func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("serial port %s: %w", p.cfg.Path, portError{errHigh})
		}
	}()
	return call()
}

// Write writes all of b. It waits no longer than twice the time that b takes
// on the line and a second, for instance when a driver is dead.
func (p *Port) Write(b []byte) (int, error) {
	if p.closed { // its descriptor may be another file's by now
		return 0, fmt.Errorf("write to serial port %s: it is closed: %w", p.cfg.Path, devices.ErrPort)
	}
	if p.byRTS {
		return p.writeRTS(b)
	}
	return p.write(b)
}

// write hands b to the driver.
func (p *Port) write(b []byte) (int, error) {
	limit := time.Now().Add(time.Second + 2*time.Duration(len(b))*p.cfg.CharTime())
	for n := 0; ; {
		m, err := unix.Write(p.control, b[n:])
		n += max(m, 0)
		switch {
		case n == len(b):
			return n, nil
		case err == nil, err == unix.EINTR:
		case err == unix.EAGAIN:
			if time.Now().After(limit) {
				return n, fmt.Errorf("write to serial port %s: it takes no more bytes; the adapter hangs or waits for hardware flow control: %w",
					p.cfg.Path, devices.ErrPort)
			}
			unix.Poll([]unix.PollFd{{Fd: int32(p.control), Events: unix.POLLOUT}}, int(slice/time.Millisecond))
		default:
			return n, p.gone("write to", err)
		}
	}
}

// gone words the loss of the port.
func (p *Port) gone(doing string, err error) error {
	if errors.Is(err, errHigh) {
		return err
	}
	return fmt.Errorf("%s serial port %s: it was unplugged or its driver gave up: %w", doing, p.cfg.Path, portError{err})
}

// A portError is a cause that also is devices.ErrPort.
type portError struct{ error }

func (e portError) Unwrap() []error { return []error{e.error, devices.ErrPort} }

// openError says what to do about err.
func openError(path string, err error) error {
	var pe *bugst.PortError
	var code bugst.PortErrorCode = -1
	if errors.As(err, &pe) {
		code = pe.Code()
	}
	remedy := ""
	switch {
	case errors.Is(err, fs.ErrNotExist), code == bugst.PortNotFound:
		remedy = ": no such port; is the adapter plugged in? Just now " + wherePorts(PortNames())
	case errors.Is(err, fs.ErrPermission), code == bugst.PermissionDenied:
		remedy = ": the user of this program may not open it; add it to the group that owns the port (`ls -l " + path + "`), mostly dialout"
	case errors.Is(err, syscall.EBUSY), code == bugst.PortBusy:
		remedy = ": " + held(path)
	case errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENODEV):
		remedy = ": its hardware does not answer; replug the adapter, or choose a port that exists on this board"
	}
	return fmt.Errorf("open serial port %s%s: %w", path, remedy, portError{err})
}
