package serial

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"edgegateway/devices"
	"edgegateway/devices/serial/pty"
)

func TestParseFormat(t *testing.T) {
	for s, want := range map[string]string{
		"8N1": "8N1", "8E1": "8E1", "7e1": "7E1", "8O1": "8O1", "8N2": "8N2", "": "8N1",
		"8N": "three characters", "9N1": "data bits", "8X1": "parity", "8N3": "stop bits",
	} {
		f, err := ParseFormat(s)
		got := f.String()
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != want || !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, tt := range []struct {
		cfg       Config
		char, t35 time.Duration
	}{
		{Config{Baud: 9600, Format: "8N1"}, 1041666, 3645831},
		{Config{Baud: 9600, Format: "8E1"}, 1145833, 4010415},
		{Config{Baud: 1200, Format: "7E1"}, 8333333, 29166665},
		{Config{Baud: 19200, Format: "8E1"}, 572916, 2005206}, // up to and including
		{Config{Baud: 19201, Format: "8E1"}, 572886, 1750000},
		{Config{Baud: 115200}, 86805, 1750000},
		{Config{}, 0, 0},
	} {
		if c, s := tt.cfg.CharTime(), tt.cfg.Silence35(); c != tt.char || s != tt.t35 {
			t.Errorf("%v: character %d, silence %d, want %d, %d", tt.cfg, c, s, tt.char, tt.t35)
		}
	}
}

// line opens a pair with a port on its A.
func line(t *testing.T, baud int) (*pty.Pair, *Port, *os.File) {
	t.Helper()
	pair, err := pty.Open(pty.Config{Baud: baud})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pair.Close() })
	p, err := Open(Config{Path: pair.A, Baud: max(baud, 9600)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	far, err := os.OpenFile(pair.B, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return pair, p, far
}

func TestReadAndWrite(t *testing.T) {
	_, p, far := line(t, 921600)
	want := bytes.Repeat([]byte("0123456789\x00\r\n\x11\x13\x03"), 1000)
	go p.Write(want)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("what was written arrives otherwise: %v", err)
	}
	go far.Write(want[:1000])
	p.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(p, got[:1000]); err != nil || !bytes.Equal(got[:1000], want[:1000]) {
		t.Fatalf("what was read is not what was sent: %v", err)
	}
}

// TestReadDeadline: past its deadline, also one set meanwhile, a read ends
// with an error that stops io.ReadFull, unless bytes are there.
func TestReadDeadline(t *testing.T) {
	_, p, far := line(t, 0)
	for _, d := range []time.Time{time.Unix(1, 0), time.Now().Add(40 * time.Millisecond)} {
		p.SetReadDeadline(d)
		if n, err := io.ReadFull(p, make([]byte, 8)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d, %v", n, err)
		}
	}
	p.SetReadDeadline(time.Time{})
	done := make(chan error)
	go func() {
		_, err := p.Read(make([]byte, 8))
		done <- err
	}()
	p.SetReadDeadline(time.Unix(1, 0))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("interrupted: %v", err)
	}
	if n, err := p.Read(nil); n != 0 || err != nil {
		t.Errorf("empty read: %d, %v", n, err)
	}
	p.SetReadDeadline(time.Time{})
	far.WriteString("x")
	if n, err := p.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestHangUpAndReplug(t *testing.T) {
	pair, p, far := line(t, 0)
	pair.HangUp(pty.A)
	for range 2 {
		if _, err := p.Read(make([]byte, 8)); !errors.Is(err, devices.ErrPort) {
			t.Errorf("read: %v", err)
		}
		if _, err := p.Write([]byte("x")); !errors.Is(err, devices.ErrPort) {
			t.Errorf("write: %v", err)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if n, err := p.Write([]byte("x")); n != 0 || !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), "is closed") {
		t.Errorf("write to a closed port: %d, %v", n, err)
	}
	_, err := Open(p.cfg)
	if !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), pair.A) || !strings.Contains(err.Error(), "Just now") {
		t.Errorf("open what is unplugged: %v", err)
	}
	if err := pair.Replug(pty.A); err != nil {
		t.Fatal(err)
	}
	again, err := Open(p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	far.WriteString("x")
	if n, err := again.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Errorf("after replug: %d, %v", n, err)
	}
}

// TestOneOwner: a port that is open is refused to others, root too, with the
// name of the program that has it.
func TestOneOwner(t *testing.T) {
	pair, p, _ := line(t, 0)
	_, err := Open(p.cfg)
	if !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), pair.A) || !strings.Contains(err.Error(), "serial.test (process "+strconv.Itoa(os.Getpid())+", user ") {
		t.Errorf("second: %v", err)
	}
	p.Close()
	p, err = Open(p.cfg)
	if err != nil {
		t.Fatalf("after the first was closed: %v", err)
	}
	p.Close()
}

// TestLevels holds DTR and RTS as they are wanted, and says if there are none.
func TestLevels(t *testing.T) {
	var did []string
	known := true
	p := &Port{cfg: Config{Path: "/dev/ttyX", DTR: LevelOn, RTS: LevelOff}, control: -1, ioctl: func(request uint, arg unsafe.Pointer) error {
		did = append(did, fmt.Sprintf("%#x %d", request, *(*int32)(arg)))
		if !known {
			return unix.ENOTTY
		}
		return nil
	}}
	if err := p.setLevels(); err != nil || fmt.Sprint(did) != fmt.Sprintf("[%#x %d %#x %d]", unix.TIOCMBIS, unix.TIOCM_DTR, unix.TIOCMBIC, unix.TIOCM_RTS) {
		t.Errorf("%v, %v", did, err)
	}
	known = false
	if err := p.setLevels(); !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), "leave dtr out") {
		t.Error(err)
	}
	did, p.cfg.DTR, p.cfg.RTS = nil, LevelUsual, LevelUsual
	if err := p.setLevels(); err != nil || did != nil {
		t.Errorf("%v, %v", did, err)
	}
	_, pseudo, _ := line(t, 0)
	pseudo.cfg.DTR = LevelOn
	if err := pseudo.setLevels(); err != nil {
		t.Error(err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Path: "/dev/null", Baud: 9600}, "no serial port"},
		{Config{Path: "/dev/ttyUSB0", Baud: 0}, "baud rate 0"},
		{Config{Path: "/dev/ttyUSB0", Baud: 9600, Format: "8Z1"}, "parity"},
		{Config{Path: "/nowhere", Baud: 9600}, "no such port"},
	} {
		if _, err := Open(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v, want %s", tt.cfg, err, tt.want)
		}
	}
}

// TestWriteGivesUp: a driver that takes no more does not hold a line up.
func TestWriteGivesUp(t *testing.T) {
	pair, p, _ := line(t, 0)
	hold := make(chan struct{})
	defer close(hold)
	pair.Tap(pty.A, func(b []byte) []byte { <-hold; return b })
	p.cfg.Baud = 4000000
	n, err := p.Write(make([]byte, 150000))
	if n == 0 || n == 150000 || !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), "flow control") {
		t.Errorf("%d, %v", n, err)
	}
}

// TestManyDescriptors opens and reopens a port when the program has more than
// a thousand files open.
func TestManyDescriptors(t *testing.T) {
	defer func() {
		for _, fd := range reserve.fds {
			unix.Close(fd)
		}
		reserve = reservation{}
	}()
	if err := Reserve(1); err != nil {
		t.Fatal(err)
	}
	pair, err := pty.Open(pty.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	for range 1100 {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatalf("this test needs 1200 file descriptors (ulimit -n): %v", err)
		}
		defer f.Close()
	}
	cfg := Config{Path: pair.A, Baud: 9600}
	for range 5 {
		p, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		p.SetReadDeadline(time.Unix(1, 0))
		if _, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		p.Close()
	}
	held := reserve.fds
	reserve.fds, reserve.want = nil, 0
	if _, err := Open(cfg); !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), "above 1023") {
		t.Errorf("without a reserve: %v", err)
	}
	if err := Reserve(1); err == nil {
		t.Error("there was nothing to reserve")
	}
	reserve.fds = held
}
