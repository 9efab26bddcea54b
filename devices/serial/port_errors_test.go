package serial

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"edgegateway/devices"
)

func TestPortStatsCountFromOpening(t *testing.T) {
	if size := unsafe.Sizeof(kernelCounters{}); size != 80 {
		t.Fatalf("serial_icounter_struct has %d bytes", size)
	}
	now := kernelCounters{frame: 7, parity: -1 << 31, overrun: 4, bufOverrun: 2, brk: 1}
	p := &Port{counts: true, began: kernelCounters{frame: 5, parity: 1<<31 - 1, overrun: 4}, ioctl: func(request uint, arg unsafe.Pointer) error {
		if request != unix.TIOCGICOUNT {
			t.Errorf("asked %#x", request)
		}
		*(*kernelCounters)(arg) = now
		return nil
	}}
	text, err := json.Marshal(p.Stats())
	if want := `{"frame_errors":2,"parity_errors":1,"overruns":2,"breaks":1,"latency_ms":0}`; err != nil || string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
	_, pseudo, _ := line(t, 9600)
	if s := pseudo.Stats(); s != nil {
		t.Errorf("a pseudo-terminal counts %+v", s)
	}
}

// A countingStream is one whose port counts a framing error with each read.
type countingStream struct {
	Stream
	stats devices.PortStats
}

func (s *countingStream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if n > 0 {
		s.stats.Frame++
	}
	return n, err
}

func (s *countingStream) Stats() *devices.PortStats {
	stats := s.stats
	return &stats
}

func TestReaderTellsWhatThePortCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := startCountingTalker(t)
		k.say("$WIMWV,1,R,2,N,A*00\r\n")
		s := k.lines.LineStats()
		if s.Bad != 1 || !strings.HasSuffix(s.LastBad, "; the port counted framing errors: is the baud rate right?") || s.Port.Frame != 1 {
			t.Errorf("%+v, %+v", s, s.Port)
		}
		k.say(nmea("WIMWV,214.8,R,12.6,N,A") + "\r\n")
		time.Sleep(2 * countEvery)
		if s := k.lines.LineStats(); s.Port.Frame != 2 {
			t.Errorf("%+v", s.Port)
		}
	})
}

func startCountingTalker(t *testing.T) *talker {
	var k *talker
	cfg := wind()
	k = &talker{t: t}
	cfg.Open = func() (Stream, error) {
		s, err := k.open()
		return &countingStream{Stream: s}, err
	}
	started := startTalker(t, cfg)
	started.far = k.far
	return started
}
