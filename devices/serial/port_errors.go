package serial

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"edgegateway/devices"
)

// kernelCounters is struct serial_icounter_struct of linux/serial.h.
type kernelCounters struct {
	cts, dsr, rng, dcd, rx, tx              int32
	frame, overrun, parity, brk, bufOverrun int32
	_                                       [9]int32
}

// countersOf asks the driver what it has counted since it was loaded. Many
// drivers, and pseudo-terminals, count nothing.
func countersOf(do ioctl) (c kernelCounters, ok bool) {
	ok = do(unix.TIOCGICOUNT, unsafe.Pointer(&c)) == nil
	return c, ok
}

// Stats returns what went wrong on the port since it was opened, nil if its
// driver does not count.
func (p *Port) Stats() *devices.PortStats {
	now, ok := countersOf(p.ioctl)
	if !ok || !p.counts {
		return nil
	}
	since := func(now, then int32) uint64 { return uint64(uint32(now - then)) } // they wrap
	s := &devices.PortStats{
		Frame: since(now.frame, p.began.frame), Parity: since(now.parity, p.began.parity), Break: since(now.brk, p.began.brk),
		Overrun: since(now.overrun, p.began.overrun) + since(now.bufOverrun, p.began.bufOverrun),
	}
	s.Latency, _ = LatencyTimer(p.cfg.Path)
	return s
}
