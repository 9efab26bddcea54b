package serial

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"edgegateway/devices"
)

// An RS485 says who switches the transceiver of a two-wire line between
// sending and receiving. The zero RS485 leaves that to the adapter, as most can
// and all should.
type RS485 struct {
	Direction Direction
	Before    time.Duration // from switching to the first bit
	After     time.Duration // from the last bit to switching back
}

// A Direction is who switches.
type Direction uint8

const (
	DirectionAdapter Direction = iota // the adapter by itself
	DirectionAuto                     // the kernel if it can, else RTS by this program
	DirectionKernel                   // the kernel (TIOCSRS485), to the microsecond
	DirectionRTS                      // this program by RTS, a millisecond late or so
)

var directions = [...]string{"", "auto", "kernel", "rts"}

func (d Direction) String() string {
	if int(d) < len(directions) {
		return directions[d]
	}
	return fmt.Sprintf("direction %d", uint8(d))
}

// ParseDirection reads "auto", "kernel" or "rts".
func ParseDirection(s string) (Direction, error) {
	for d, name := range directions {
		if s == name && s != "" {
			return Direction(d), nil
		}
	}
	return 0, fmt.Errorf(`rts is %q; it is "kernel", "rts" (by this program), or "auto" for the first that works`, s)
}

// kernelRS485 is struct serial_rs485 of linux/serial.h; delays are in
// milliseconds.
type kernelRS485 struct {
	flags, before, after uint32
	_                    [5]uint32
}

const (
	rs485Enabled   = 1 << 0
	rs485RTSOnSend = 1 << 1
)

// serialStruct is struct serial_struct of linux/serial.h.
type serialStruct struct {
	typ, line                       int32
	port                            uint32
	irq, flags, fifo, divisor, base int32
	closeDelay                      uint16
	ioType, _                       uint8
	hub6                            int32
	closingWait, closingWait2       uint16
	iomemBase                       uintptr
	iomemRegShift                   uint16
	portHigh                        uint32
	iomapBase                       uintptr
}

const asyncLowLatency = 1 << 13 // ASYNC_LOW_LATENCY

// An ioctl is a call to the driver of a port.
type ioctl func(request uint, arg unsafe.Pointer) error

func ioctlOf(fd int) ioctl {
	return func(request uint, arg unsafe.Pointer) error {
		for {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
			switch errno {
			case 0:
				return nil
			case unix.EINTR:
			default:
				return errno
			}
		}
	}
}

// notOffered reports whether a driver says that it does not know a request.
func notOffered(err error) bool {
	return errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// setUp lets the kernel switch the direction, and reports whether this program
// is to do so by RTS. A pseudo-terminal has no direction.
func (r RS485) setUp(do ioctl, path string, pseudo bool) (byRTS bool, err error) {
	if r.Direction == DirectionAdapter || pseudo {
		return false, nil
	}
	if r.Direction != DirectionRTS {
		k := kernelRS485{flags: rs485Enabled | rs485RTSOnSend, before: millis(r.Before), after: millis(r.After)}
		err = do(unix.TIOCSRS485, unsafe.Pointer(&k))
		if err == nil {
			return false, nil
		}
	}
	if r.Direction == DirectionKernel {
		if !notOffered(err) {
			return false, fmt.Errorf("set serial port %s to RS-485: %w", path, portError{err})
		}
		return false, fmt.Errorf("set serial port %s to RS-485: its driver has no such mode; use an adapter that switches direction by itself and leave rs485 out, or rts = \"rts\": %w",
			path, portError{err})
	}
	if err := setRTS(do, false); err != nil {
		return false, fmt.Errorf("set serial port %s to RS-485: it has no RTS line; use an adapter that switches direction by itself and leave rs485 out: %w", path, portError{err})
	}
	return true, nil
}

// millis rounds up to what the kernel counts in.
func millis(d time.Duration) uint32 {
	return uint32((d + time.Millisecond - 1) / time.Millisecond)
}

func setRTS(do ioctl, on bool) error { return setModem(do, unix.TIOCM_RTS, on) }

// setModem switches the modem lines in bits.
func setModem(do ioctl, bits int32, on bool) error {
	request := uint(unix.TIOCMBIC)
	if on {
		request = unix.TIOCMBIS
	}
	return do(request, unsafe.Pointer(&bits))
}

// isPseudo reports whether fd is one end of a pseudo-terminal (major numbers
// 136 to 143, devices.txt of Linux).
func isPseudo(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return false
	}
	major := unix.Major(uint64(st.Rdev))
	return major >= 136 && major <= 143
}

// setLowLatency asks the driver to hand on bytes at once. Many do so anyway,
// and those that know no such mode are left as they are.
func setLowLatency(do ioctl) error {
	var s serialStruct
	if err := do(unix.TIOCGSERIAL, unsafe.Pointer(&s)); err != nil {
		return err
	}
	s.flags |= asyncLowLatency
	return do(unix.TIOCSSERIAL, unsafe.Pointer(&s))
}

// writeRTS writes b with RTS raised until its last bit has left.
func (p *Port) writeRTS(b []byte) (n int, err error) {
	if err := setRTS(p.ioctl, true); err != nil {
		return 0, p.gone("write to", err)
	}
	defer func() {
		if e := setRTS(p.ioctl, false); e != nil && err == nil {
			err = p.gone("write to", e)
		}
	}()
	time.Sleep(p.cfg.RS485.Before)
	if n, err = p.write(b); err != nil {
		return n, err
	}
	if err = p.drain(len(b)); err == nil {
		time.Sleep(p.cfg.RS485.After)
	}
	return n, err
}

// drain waits until n bytes written have left, no longer than twice the time
// that takes and a second.
func (p *Port) drain(n int) error {
	left := time.Duration(n) * p.cfg.CharTime()
	limit := time.Now().Add(time.Second + 2*left)
	for {
		time.Sleep(max(left, 100*time.Microsecond))
		var queued int32
		if err := p.ioctl(unix.TIOCOUTQ, unsafe.Pointer(&queued)); err != nil {
			return p.gone("write to", err)
		}
		if queued == 0 {
			break
		}
		if time.Now().After(limit) {
			return fmt.Errorf("write to serial port %s: its bytes do not leave; the adapter hangs: %w", p.cfg.Path, devices.ErrPort)
		}
		left = time.Duration(queued) * p.cfg.CharTime()
	}
	// The driver's own buffer is empty; what the chip holds is a few characters.
	var err error = unix.EINTR
	for err == unix.EINTR { // the runtime's signals reach a thread that waits here
		err = unix.IoctlSetInt(p.control, unix.TCSBRK, 1)
	}
	if err != nil {
		return p.gone("write to", err)
	}
	return nil
}
