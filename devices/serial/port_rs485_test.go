package serial

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"edgegateway/devices"
)

// The layouts of linux/serial.h.
func TestDriverStructs(t *testing.T) {
	var k kernelRS485
	if unsafe.Sizeof(k) != 32 || unsafe.Offsetof(k.before) != 4 || unsafe.Offsetof(k.after) != 8 {
		t.Errorf("serial_rs485 has %d bytes, delays at %d and %d", unsafe.Sizeof(k), unsafe.Offsetof(k.before), unsafe.Offsetof(k.after))
	}
	var s serialStruct
	size := map[uintptr]uintptr{4: 60, 8: 72}[unsafe.Sizeof(uintptr(0))]
	if unsafe.Sizeof(s) != size || unsafe.Offsetof(s.flags) != 16 || unsafe.Offsetof(s.closeDelay) != 32 || unsafe.Offsetof(s.hub6) != 36 ||
		unsafe.Offsetof(s.closingWait) != 40 || unsafe.Offsetof(s.portHigh) != size-4-unsafe.Sizeof(s.iomapBase) {
		t.Errorf("serial_struct has %d bytes: %+v", unsafe.Sizeof(s), s)
	}
}

// A driver is the ioctl of a port that refuses some requests.
type driver struct {
	refuse map[uint]error
	asked  []uint
	rs485  kernelRS485
	flags  int32
}

func (d *driver) do(request uint, arg unsafe.Pointer) error {
	d.asked = append(d.asked, request)
	if err := d.refuse[request]; err != nil {
		return err
	}
	switch request {
	case unix.TIOCSRS485:
		d.rs485 = *(*kernelRS485)(arg)
	case unix.TIOCGSERIAL:
		(*serialStruct)(arg).flags = 0x40
	case unix.TIOCSSERIAL:
		d.flags = (*serialStruct)(arg).flags
	}
	return nil
}

func TestRS485SetUp(t *testing.T) {
	none := map[uint]error{unix.TIOCSRS485: unix.ENOTTY, unix.TIOCMBIC: unix.ENOTTY}
	for _, c := range []struct {
		direction Direction
		refuse    map[uint]error
		pseudo    bool
		want      string
	}{
		{DirectionAdapter, none, false, "false, []"},
		{DirectionKernel, nil, false, "false, [TIOCSRS485]"},
		{DirectionKernel, map[uint]error{unix.TIOCSRS485: unix.EINVAL}, false, "its driver has no such mode; use an adapter"},
		{DirectionKernel, none, false, "its driver has no such mode; use an adapter"},
		{DirectionKernel, map[uint]error{unix.TIOCSRS485: unix.EIO}, false, "to RS-485: input/output error"},
		{DirectionAuto, nil, false, "false, [TIOCSRS485]"},
		{DirectionAuto, map[uint]error{unix.TIOCSRS485: unix.ENOTTY}, false, "true, [TIOCSRS485 TIOCMBIC]"},
		{DirectionAuto, none, false, "it has no RTS line"},
		{DirectionRTS, nil, false, "true, [TIOCMBIC]"},
		{DirectionRTS, none, false, "it has no RTS line"},
		{DirectionRTS, none, true, "false, []"},
		{DirectionKernel, none, true, "false, []"},
	} {
		d := &driver{refuse: c.refuse}
		byRTS, err := RS485{Direction: c.direction, Before: time.Millisecond, After: 1500 * time.Microsecond}.setUp(d.do, "/dev/ttyS1", c.pseudo)
		var asked []string
		for _, r := range d.asked {
			asked = append(asked, map[uint]string{unix.TIOCSRS485: "TIOCSRS485", unix.TIOCMBIC: "TIOCMBIC"}[r])
		}
		got := fmt.Sprintf("%v, %v", byRTS, asked)
		if err != nil {
			got = err.Error()
			if !errors.Is(err, devices.ErrPort) {
				t.Errorf("%v: %v is not worth another attempt", c.direction, err)
			}
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%v: %s, want %s", c.direction, got, c.want)
		}
		if want := (kernelRS485{flags: 3, before: 1, after: 2}); d.rs485.flags != 0 && d.rs485 != want {
			t.Errorf("%v: the kernel is told %+v", c.direction, d.rs485)
		}
	}
}

func TestParseDirection(t *testing.T) {
	for _, d := range []Direction{DirectionAuto, DirectionKernel, DirectionRTS} {
		if got, err := ParseDirection(d.String()); got != d || err != nil {
			t.Errorf("%v became %v, %v", d, got, err)
		}
	}
	for _, s := range []string{"", "cts"} {
		if d, err := ParseDirection(s); err == nil {
			t.Errorf("%q is %v", s, d)
		}
	}
}

func TestLowLatencyKeepsOtherFlags(t *testing.T) {
	d := &driver{}
	if err := setLowLatency(d.do); err != nil || d.flags != 0x2040 {
		t.Errorf("flags %#x, %v", d.flags, err)
	}
	d = &driver{refuse: map[uint]error{unix.TIOCGSERIAL: unix.ENOTTY}}
	if err := setLowLatency(d.do); err == nil || len(d.asked) != 1 {
		t.Errorf("asked %v, %v", d.asked, err)
	}
}

// RTS is up exactly while bytes leave.
func TestRTSIsRaisedForWriting(t *testing.T) {
	_, p, far := line(t, 9600)
	var steps []string
	real := p.ioctl
	p.byRTS, p.ioctl = true, func(request uint, arg unsafe.Pointer) error {
		switch request {
		case unix.TIOCMBIS:
			steps = append(steps, "up")
		case unix.TIOCMBIC:
			steps = append(steps, "down")
		case unix.TIOCOUTQ:
			if err := real(request, arg); err != nil {
				return err
			}
			steps = append(steps, fmt.Sprint("queued ", *(*int32)(arg) > 0))
		}
		return nil
	}
	got := make([]byte, 5)
	if n, err := p.Write([]byte("hello")); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := far.Read(got); err != nil {
		t.Fatal(err)
	}
	if len(steps) < 3 || steps[0] != "up" || steps[len(steps)-2] != "queued false" || steps[len(steps)-1] != "down" {
		t.Errorf("%q", steps)
	}
	p.ioctl = func(uint, unsafe.Pointer) error { return unix.EIO }
	if _, err := p.Write([]byte("hello")); !errors.Is(err, devices.ErrPort) {
		t.Error(err)
	}
}

// On a pseudo-terminal there is nothing to set, and that is no error.
func TestModesOnATerminal(t *testing.T) {
	pair, p, _ := line(t, 9600)
	p.Close()
	for _, d := range []Direction{DirectionAuto, DirectionKernel, DirectionRTS} {
		p, err := Open(Config{Path: pair.A, Baud: 9600, LowLatency: true, RS485: RS485{Direction: d}})
		if err != nil {
			t.Fatalf("%v: %v", d, err)
		}
		if _, err := p.Write([]byte("x")); err != nil {
			t.Errorf("%v: %v", d, err)
		}
		p.Close()
	}
}

func TestPortNames(t *testing.T) {
	link := func(to string) *fstest.MapFile { return &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte(to)} }
	root := fstest.MapFS{
		"dev/ttyUSB0":                                {},
		"dev/ttyUSB1":                                {},
		"dev/serial/by-id/usb-FTDI_A-if00":           link("../../ttyUSB0"),
		"dev/serial/by-path/pci-1":                   link("../../ttyUSB0"),
		"dev/serial/by-path/pci-2":                   link("../../ttyUSB1"),
		"sys/class/tty/ttyUSB0/device/latency_timer": {Data: []byte("16\n")},
		"sys/class/tty/ttyUSB1/device/x":             {},
		"sys/class/tty/ttyS0/device/x":               {},
		"sys/class/tty/ttyS0/type":                   {Data: []byte("4\n")},
		"sys/class/tty/ttyS1/device/x":               {},
		"sys/class/tty/ttyS1/type":                   {Data: []byte("0\n")},
		"sys/class/tty/tty1/dev":                     {},
		"sys/class/tty/ttyAMA0/device/x":             {},
	}
	want := []string{"/dev/serial/by-id/usb-FTDI_A-if00", "/dev/serial/by-path/pci-2", "/dev/ttyAMA0", "/dev/ttyS0"}
	if got := portNames(root); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := wherePorts(want); !strings.HasPrefix(got, "there is /dev/serial/by-id/usb-FTDI_A-if00, ") {
		t.Error(got)
	}
	if got := wherePorts(slices.Repeat(want, 3)); !strings.HasSuffix(got, " and 4 more") {
		t.Error(got)
	}
	if got := wherePorts(portNames(fstest.MapFS{})); got != "this machine has no serial port at present" {
		t.Error(got)
	}
	if ms, ok := latencyTimer(root, "ttyUSB0"); ms != 16 || !ok {
		t.Error(ms, ok)
	}
	if _, ok := latencyTimer(root, "ttyS0"); ok {
		t.Error("a latency timer where none is")
	}
}
