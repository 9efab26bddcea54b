package serial

import (
	"fmt"
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
		poll := Poll{Send: unhex("FF 01 86 00 00 00 00 00 79"), Every: 2 * time.Second, Timeout: 5 * time.Second}
		k := startTalker(t, ReaderConfig{Framing: mhz19, Polls: []Poll{poll}, Devices: []*devices.Device{lineDevice("air", point)}})
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
		if s := k.lines.LineStats(); s.Bad != 0 || s.Timeouts != 1 || !strings.HasPrefix(s.LastBad, "no answer within 5s: check power") {
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
	for _, p := range []Poll{{Every: time.Second}, {Send: []byte{1}}} {
		if _, err := NewReader(ReaderConfig{Framing: mhz19, Polls: []Poll{p}}); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
}

// Several devices on one line are asked in turn, each at its interval, and what
// comes is of the one that was asked. What is late is nobody's.
func TestReaderAsksSeveral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := lineDevice("a", linePoint("a", Field{Index: 1}, 4*time.Second))
		b := lineDevice("b", linePoint("b", Field{Index: 1}, 8*time.Second))
		k := startTalker(t, ReaderConfig{Framing: Lines{Delimiter: "\r"}, Devices: []*devices.Device{a, b}, Polls: []Poll{
			{Device: a, Send: []byte("#01\r"), Every: 4 * time.Second},
			{Device: b, Send: []byte("#02\r"), Every: 8 * time.Second, Retries: 1},
		}})
		began := time.Now()
		var mu sync.Mutex
		asked := ""
		var wg sync.WaitGroup
		wg.Go(func() {
			b := make([]byte, 4)
			for {
				if _, err := io.ReadFull(k.far, b); err != nil {
					return
				}
				mu.Lock()
				asked += fmt.Sprintf("%v %s ", time.Since(began), strings.TrimSpace(string(b)))
				mu.Unlock()
			}
		})
		want := func(times, heard string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			if asked != times {
				t.Errorf("asked %q, want %q", asked, times)
			}
			asked = ""
			mu.Unlock()
			k.want(heard)
		}
		until := func(at time.Duration) { time.Sleep(at - time.Since(began)) }
		k.say("tail of something")
		until(20 * time.Millisecond)
		k.say("\r") // the line is not silent yet
		until(100 * time.Millisecond)
		want("70ms #01 ", "")
		k.say("#01\r", "1.5\r")
		until(140 * time.Millisecond)
		want("", "a=1.5")
		k.say("extra\r") // its second line puts the next question off
		until(200 * time.Millisecond)
		want("190ms #02 ", "")
		until(1300 * time.Millisecond) // not answered; asked again at 1.19 s
		want("1.19s #02 ", "")
		k.say("2.5\r") // whether to the first or the second
		until(1500 * time.Millisecond)
		k.say("2.6\r") // to the other
		until(4 * time.Second)
		want("", "b=2.5")
		until(4100 * time.Millisecond)
		want("4.07s #01 ", "")
		until(5200 * time.Millisecond)
		want("", "a!timeout") // at 5.07 s
		k.say("1.7\r")        // too late
		until(9 * time.Second)
		want("8.07s #01 ", "")
		until(11 * time.Second)
		want("10.07s #02 ", "a!timeout") // at 9.07 s, and then nobody until 10.07 s
		k.far.Close()
		wg.Wait()
		if s := k.lines.LineStats(); s.Good != 2 || !strings.Contains(s.LastBad, "no answer within") {
			t.Errorf("%+v", s)
		}
	})
}
