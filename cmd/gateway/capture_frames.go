package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"edgegateway/devices/capture"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
)

// A framer finds frames in the events of a capture.
type framer interface {
	Add(capture.Event)
	End(at time.Duration)
}

// newFramer returns what finds the frames of a capture: those of Modbus, or what
// ends with a line feed or a pause.
func newFramer(h capture.Header, tell func(modbus.Frame)) framer {
	if d, err := modbus.NewDissector(h.Framing, tell); err == nil {
		return d
	}
	return &lineFramer{text: h.Framing == capture.Text, tell: tell}
}

// A lineFramer takes lines for frames, and of bytes what no pause interrupts.
type lineFramer struct {
	text        bool
	tell        func(modbus.Frame)
	in          []byte
	first, last time.Duration
	pause       time.Duration
}

const (
	linePause = 500 * time.Millisecond // within a line
	bytePause = 20 * time.Millisecond  // within what is no text
	mostLine  = 4096
)

func (l *lineFramer) Add(e capture.Event) {
	limit := bytePause
	if l.text {
		limit = linePause
	}
	if e.Kind != capture.Received || len(l.in) > 0 && e.At-l.last > limit {
		l.End(e.At)
	}
	switch e.Kind {
	case capture.Sent:
		l.tell(modbus.Frame{Kind: modbus.FrameRequest, Sent: true, Data: e.Data, First: e.At, Last: e.At, Text: legible(e.Data, l.text)})
	case capture.Received:
		if len(l.in) == 0 {
			l.first, l.pause = e.At, 0
		} else {
			l.pause = max(l.pause, e.At-l.last)
		}
		l.last = e.At
		l.in = append(l.in, e.Data...)
		for n := bytes.IndexByte(l.in, '\n') + 1; l.text && n > 0; n = bytes.IndexByte(l.in, '\n') + 1 {
			l.cut(n)
			l.first = e.At
		}
		if len(l.in) >= mostLine {
			l.End(e.At)
		}
	}
}

func (l *lineFramer) End(time.Duration) {
	if len(l.in) > 0 {
		l.cut(len(l.in))
	}
}

func (l *lineFramer) cut(n int) {
	f := modbus.Frame{Kind: modbus.FrameAnswer, Data: l.in[:n], First: l.first, Last: l.last, Pause: l.pause, Text: legible(l.in[:n], l.text)}
	if at := bytes.LastIndexAny(f.Data, "$!"); l.text && at >= 0 && bytes.IndexByte(f.Data[at:], '*') > 0 {
		if err := serial.CheckNMEA(bytes.TrimRight(f.Data, "\r\n")); err != nil {
			f.Kind = modbus.FrameSpoiled
			f.Text += "   " + err.Error()
		}
	}
	l.tell(f)
	l.in = append([]byte(nil), l.in[n:]...)
	l.pause = 0
}

// legible writes bytes for people.
func legible(b []byte, text bool) string {
	if !text {
		return fmt.Sprintf("% X", b)
	}
	s := fmt.Sprintf("%+q", strings.TrimRight(string(b), "\r\n"))
	return s[1 : len(s)-1]
}

// A frameSink writes frames for Wireshark.
type frameSink struct {
	framer
	err error // the first
}

func newFrameSink(w io.Writer, h capture.Header) (*frameSink, error) {
	p, err := capture.NewPcap(w, h)
	if err != nil {
		return nil, err
	}
	s := new(frameSink)
	s.framer = newFramer(h, func(f modbus.Frame) {
		if s.err == nil && len(f.Data) > 0 {
			s.err = p.Frame(f.Last, f.Sent, f.Data)
		}
	})
	return s, nil
}

// add takes the next event; the last one ends the file.
func (s *frameSink) add(e capture.Event) error {
	if e.Kind == capture.Ended {
		s.End(e.At)
	} else {
		s.Add(e)
	}
	return s.err
}
