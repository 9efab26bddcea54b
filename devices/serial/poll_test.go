package serial

import (
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

// A device that is polled is asked at its interval, never while an answer may
// still come, and again after one that did not.
func TestReaderPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		point := &devices.Point{Name: "co2", Source: Span{At: 2, Len: 2}}
		poll := &Poll{Send: unhex("FF 01 86 00 00 00 00 00 79"), Every: 2 * time.Second, Timeout: 5 * time.Second}
		k := startTalker(t, ReaderConfig{Framing: mhz19, Poll: poll, Devices: []*devices.Device{lineDevice("air", point)}})
		began := time.Now()
		var mu sync.Mutex
		var asked []string // when
		var wg sync.WaitGroup
		wg.Go(func() {
			b := make([]byte, 9)
			for {
				if _, err := io.ReadFull(k.far, b); err != nil {
					return
				}
				mu.Lock()
				asked = append(asked, time.Since(began).String())
				mu.Unlock()
			}
		})
		want := func(times, heard string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(asked, " "); got != times {
				t.Errorf("asked at %s, want %s", got, times)
			}
			asked = nil
			k.want(heard)
		}
		good := string(unhex("FF 86 02 60 47 00 00 00 D1"))
		want("0s", "")
		time.Sleep(time.Second)
		k.say(good[:5], good[5:])
		want("", "co2=\x02`")
		time.Sleep(1100 * time.Millisecond)
		k.say(good)
		want("2s", "co2=\x02`")
		time.Sleep(6 * time.Second) // 4 s: no answer until 9 s, then at once
		want("4s", "")
		time.Sleep(time.Second)
		want("9s", "co2!timeout")
		if s := k.lines.LineStats(); s.Bad != 1 || !strings.HasPrefix(s.LastBad, "no answer within 5s: check power") {
			t.Errorf("%+v", s)
		}
		k.say(good)
		want("", "co2=\x02`")
		time.Sleep(time.Second)
		want("10s", "") // the phase is kept
		k.far.Close()
		wg.Wait()
	})
}

func TestReaderChecksItsPoll(t *testing.T) {
	for _, p := range []*Poll{{Every: time.Second}, {Send: []byte{1}}} {
		if _, err := NewReader(ReaderConfig{Framing: mhz19, Poll: p}); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
}
