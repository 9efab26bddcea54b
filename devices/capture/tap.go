package capture

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"edgegateway/devices"
)

// A Kind is what an event is.
type Kind byte

const (
	Sent Kind = iota
	Received
	Opened
	Closed
	Failed // the port could not be opened, or was lost
	Speed
	Missed // events that were not recorded
	Ended
)

// An Event is one thing that happened on a port.
type Event struct {
	At    time.Duration // since the start of the capture
	Kind  Kind
	Data  []byte // sent or received
	Text  string // of Failed and Ended
	Baud  int    // of Speed
	Count uint64 // of Missed: how many
	Bytes uint64 // of Missed: that they held
}

// A Stream is what is recorded: a serial port or a connection.
type Stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

const (
	maxQueue      = 1024 // events that wait for who records; further ones are missed
	maxRecordings = 4    // of one tap
)

// A Tap lets what passes the ports of one bus be recorded. The zero Tap and nil
// are ready for use. Its methods may be called from any goroutine.
type Tap struct {
	open       atomic.Int32                 // ports
	recordings atomic.Pointer[[]*Recording] // nil: nobody records
	mu         sync.Mutex                   // guards changes of recordings
}

// A Recording is what one who records gets.
type Recording struct {
	Start devices.Stamp // of the capture
	Open  bool          // the port was at the start

	tap    *Tap
	events chan Event

	mu     sync.Mutex // guards what follows, and the order of events
	missed Event      // that was not told yet
	closed bool
}

// Record begins a recording, which the caller closes.
func (t *Tap) Record() (*Recording, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*Recording
	if p := t.recordings.Load(); p != nil {
		all = *p
	}
	if len(all) >= maxRecordings {
		return nil, fmt.Errorf("%d captures of it are under way already: end one of them", len(all))
	}
	r := &Recording{Start: devices.Now(), Open: t.open.Load() > 0, tap: t, events: make(chan Event, maxQueue)}
	all = append(slices.Clone(all), r)
	t.recordings.Store(&all)
	return r, nil
}

// Events are what happens, in its order. It is closed by Close.
func (r *Recording) Events() <-chan Event { return r.events }

// Since is the time of the capture now.
func (r *Recording) Since() time.Duration { return devices.Now().Sub(r.Start) }

// Close ends the recording. What was missed at last is among the events. It may
// be called twice.
func (r *Recording) Close() {
	r.tap.drop(r)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if r.closed = true; r.missed.Count > 0 {
		select {
		case r.events <- r.missed:
		default:
			<-r.events // a place for it: what goes is one more that was missed
			r.missed.Count++
			r.events <- r.missed
		}
	}
	close(r.events)
}

func (t *Tap) drop(r *Recording) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.recordings.Load()
	if p == nil {
		return
	}
	all := slices.DeleteFunc(slices.Clone(*p), func(o *Recording) bool { return o == r })
	if len(all) == 0 {
		t.recordings.Store(nil)
		return
	}
	t.recordings.Store(&all)
}

// note tells who records of e. It does not wait.
func (t *Tap) note(e Event) {
	all := t.recordings.Load()
	if all == nil {
		return
	}
	e.Data = slices.Clone(e.Data)
	for _, r := range *all {
		r.add(e)
	}
}

func (r *Recording) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	e.At = devices.Now().Sub(r.Start)
	if r.missed.Count > 0 {
		select {
		case r.events <- r.missed:
			r.missed = Event{}
		default:
		}
	}
	if r.missed.Count == 0 {
		select {
		case r.events <- e:
			return
		default:
		}
	}
	r.missed = Event{At: e.At, Kind: Missed, Count: r.missed.Count + 1, Bytes: r.missed.Bytes + uint64(len(e.Data))}
}

// Wrap returns s as it is recorded by t, unless there was an error in opening
// it. A nil Tap returns s.
func (t *Tap) Wrap(s Stream, err error) (Stream, error) {
	switch {
	case t == nil:
		return s, err
	case err != nil:
		t.note(Event{Kind: Failed, Text: err.Error()})
		return s, err
	}
	t.open.Add(1)
	t.note(Event{Kind: Opened})
	p := &tapped{Stream: s, tap: t}
	if term, ok := s.(terminal); ok {
		return &tappedTerminal{tapped: p, terminal: term}, nil
	}
	return p, nil
}

// A tapped is a stream that tells its tap.
type tapped struct {
	Stream
	tap    *Tap
	closed atomic.Bool
}

// A terminal is what a serial port is besides.
type terminal interface {
	Stats() *devices.PortStats
	Baud() int
	SetBaud(baud int) error
}

type tappedTerminal struct {
	*tapped
	terminal
}

func (p *tappedTerminal) SetBaud(baud int) error {
	err := p.terminal.SetBaud(baud)
	if err == nil {
		p.tap.note(Event{Kind: Speed, Baud: baud})
	}
	return err
}

// Write tells of b before it is sent, so that no answer can be told of before.
func (p *tapped) Write(b []byte) (int, error) {
	p.tap.note(Event{Kind: Sent, Data: b})
	n, err := p.Stream.Write(b)
	p.fail(err)
	return n, err
}

func (p *tapped) Read(b []byte) (int, error) {
	n, err := p.Stream.Read(b)
	if n > 0 {
		p.tap.note(Event{Kind: Received, Data: b[:n]})
	}
	p.fail(err)
	return n, err
}

func (p *tapped) fail(err error) {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) || p.closed.Load() {
		return
	}
	p.tap.note(Event{Kind: Failed, Text: err.Error()})
}

func (p *tapped) Close() error {
	err := p.Stream.Close()
	if p.closed.CompareAndSwap(false, true) {
		p.tap.open.Add(-1)
		p.tap.note(Event{Kind: Closed})
	}
	return err
}
