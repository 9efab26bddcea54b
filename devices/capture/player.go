package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"edgegateway/devices"
)

// A Player stands in for the devices of a capture: it answers each request with
// what came after the same bytes when the capture was made; the first time with
// what came the first time, and so on, and after the last with the first again.
// To a request after which nothing came it says nothing. Of Modbus TCP frames the
// transaction id does not count, and is that of the request in the answer.
//
// A capture in which nothing was sent is of devices that speak by themselves: it
// is played from its beginning, again and again.
//
// Its methods may be called from any goroutine.
type Player struct {
	speed   float64
	tcp     bool
	keys    []string // the requests, in the order in which they were first sent
	answers map[string][][]piece
	spoken  []piece       // of devices that speak by themselves; after counts from the beginning
	length  time.Duration // of spoken, with the pause that follows

	mu      sync.Mutex // guards what follows
	played  map[string]int
	strange map[string]int
}

// A piece is what came in one read.
type piece struct {
	after time.Duration // since the request was handed to the port
	data  []byte
}

// AtOnce is the speed at which nothing is waited for.
const AtOnce = 0

const (
	requestGap = 50 * time.Millisecond // a pause that ends what is no request of the capture
	idle       = time.Second           // before a capture is played again from its beginning
	maxStrange = 1000                  // requests that are told apart
)

// NewPlayer returns a player of c; speed 1 is as it was, 2 twice as fast.
func NewPlayer(c *Capture, speed float64) (*Player, error) {
	p := &Player{speed: speed, tcp: c.Framing == TCP, answers: map[string][][]piece{}, played: map[string]int{}, strange: map[string]int{}}
	if p.tcp {
		p.learnTCP(c.Events)
	} else {
		p.learn(c.Events)
	}
	if len(p.keys) == 0 && len(p.spoken) == 0 {
		return nil, errors.New("nothing was sent or received in it: there is nothing to play")
	}
	return p, nil
}

// Requests is how many different requests it can answer; 0 where the devices
// speak by themselves.
func (p *Player) Requests() int { return len(p.keys) }

// Strange returns the requests that are not in the capture, in hexadecimal.
func (p *Player) Strange() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.strange {
		list = append(list, s)
	}
	return list
}

// Unplayed returns how many recorded requests were not asked yet.
func (p *Player) Unplayed() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, all := range p.answers {
		n += max(0, len(all)-p.played[key])
	}
	return n
}

func (p *Player) ask(key string) {
	if p.answers[key] == nil {
		p.keys = append(p.keys, key)
	}
	p.answers[key] = append(p.answers[key], nil)
}

// learn takes all that came until the next request for the answer to one.
func (p *Player) learn(events []Event) {
	key, asked := "", time.Duration(0)
	for _, e := range events {
		switch {
		case e.Kind == Sent:
			key, asked = string(e.Data), e.At
			p.ask(key)
		case e.Kind == Received && key != "":
			all := p.answers[key]
			all[len(all)-1] = append(all[len(all)-1], piece{e.At - asked, e.Data})
		case e.Kind == Received:
			p.spoken = append(p.spoken, piece{e.At, e.Data})
			p.length = e.At + idle
		}
	}
	if len(p.keys) > 0 {
		p.spoken = nil // what came before the first request answers none that is known
	}
}

// learnTCP finds the answer to a request by its transaction id.
func (p *Player) learnTCP(events []Event) {
	type place struct {
		key string
		n   int
		at  time.Duration
	}
	open := map[uint16]place{}
	var sent, in []byte
	for _, e := range events {
		switch e.Kind {
		case Opened:
			sent, in = nil, nil
			clear(open)
		case Sent:
			sent = append(sent, e.Data...)
			for n := frameTCP(sent); n > 0; n = frameTCP(sent) {
				key := string(sent[2:n])
				p.ask(key)
				open[binary.BigEndian.Uint16(sent)] = place{key, len(p.answers[key]) - 1, e.At}
				sent = sent[n:]
			}
		case Received:
			in = append(in, e.Data...)
			for n := frameTCP(in); n > 0; n = frameTCP(in) {
				if to, ok := open[binary.BigEndian.Uint16(in)]; ok {
					p.answers[to.key][to.n] = append(p.answers[to.key][to.n], piece{e.At - to.at, in[:n:n]})
				}
				in = in[n:]
			}
		}
	}
}

// frameTCP returns the length of the frame at the beginning of b, 0 while it is
// not there whole. What is no frame is one of all there is.
func frameTCP(b []byte) int {
	if len(b) < 8 {
		return 0
	}
	n := 6 + int(binary.BigEndian.Uint16(b[4:]))
	switch {
	case b[2]|b[3] != 0 || n < 8 || n > 260:
		return len(b)
	case n > len(b):
		return 0
	}
	return n
}

// Serve plays to the client at the other end of s until that goes or ctx is
// done; the caller closes s. A client that goes is no error.
func (p *Player) Serve(ctx context.Context, s Stream) error {
	defer context.AfterFunc(ctx, func() { s.SetReadDeadline(time.Unix(1, 0)) })()
	if len(p.keys) == 0 {
		return p.speak(ctx, s)
	}
	var in []byte
	chunk := make([]byte, 1024)
	out := &answerer{ctx: ctx, s: s, speed: p.speed, several: p.tcp}
	defer out.wait()
	for {
		s.SetReadDeadline(time.Now().Add(requestGap))
		if ctx.Err() != nil {
			return nil
		}
		n, err := s.Read(chunk)
		silent := errors.Is(err, os.ErrDeadlineExceeded)
		if n == 0 && err != nil && !silent {
			return ended(err)
		}
		in = append(in, chunk[:n]...)
		for {
			key, id, rest, found := p.next(in, silent)
			if in = rest; !found {
				break
			}
			if err := out.answer(p.take(key), id); err != nil {
				return ended(err)
			}
		}
	}
}

// ended is err unless it says that the client is gone.
func ended(err error) error {
	for _, gone := range []error{io.EOF, io.ErrClosedPipe, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return fmt.Errorf("play: %w", err)
}

// take returns the answer to a request that comes next.
func (p *Player) take(key string) []piece {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.answers[key]
	n := p.played[key]
	p.played[key]++
	return all[n%len(all)]
}

func (p *Player) note(strange []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := fmt.Sprintf("% X", strange)
	if _, known := p.strange[s]; known || len(p.strange) < maxStrange {
		p.strange[s]++
	}
}

// next finds the first request of the capture in what has come, and returns what
// follows it. What is none is noted once something else, or silence, follows.
func (p *Player) next(in []byte, silent bool) (key string, id []byte, rest []byte, found bool) {
	if p.tcp {
		n := frameTCP(in)
		if n == 0 {
			return "", nil, in, false
		}
		key, id, rest = string(in[2:n]), in[:2:2], in[n:]
		if p.answers[key] == nil {
			p.note(in[2:n])
			return p.next(rest, silent)
		}
		return key, id, rest, true
	}
	for i := range in {
		begun := false
		for _, k := range p.keys {
			if len(k) > len(key) && bytes.HasPrefix(in[i:], []byte(k)) {
				key = k
			}
			begun = begun || strings.HasPrefix(k, string(in[i:]))
		}
		switch {
		case key != "":
			if i > 0 {
				p.note(in[:i])
			}
			return key, nil, in[i+len(key):], true
		case begun && !silent:
			return "", nil, in, false
		}
	}
	if len(in) > 0 && silent {
		p.note(in)
		in = nil
	}
	return "", nil, in[max(0, len(in)-maxData):], false
}

// An answerer sends answers, on connections that bear it several at a time.
type answerer struct {
	ctx     context.Context
	s       Stream
	speed   float64
	several bool
	under   sync.WaitGroup
	mu      sync.Mutex // of the stream
}

func (a *answerer) wait() { a.under.Wait() }

func (a *answerer) answer(pieces []piece, id []byte) error {
	if a.several && a.speed != AtOnce {
		a.under.Go(func() { a.send(pieces, id) }) // who reads finds out when the client is gone
		return nil
	}
	return a.send(pieces, id)
}

func (a *answerer) send(pieces []piece, id []byte) error {
	began := time.Now()
	for _, piece := range pieces {
		if !a.until(began, piece.after) {
			return nil
		}
		data := piece.data
		if id != nil {
			data = append(bytes.Clone(id), data[2:]...)
		}
		a.mu.Lock()
		_, err := a.s.Write(data)
		a.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// until waits until so long after began, and reports whether to go on.
func (a *answerer) until(began time.Time, after time.Duration) bool {
	if a.speed == AtOnce {
		return a.ctx.Err() == nil
	}
	return devices.Sleep(a.ctx, time.Until(began.Add(time.Duration(float64(after)/a.speed))))
}

// speak plays what was heard. Whoever cannot wait gets a second's in a
// millisecond at AtOnce, as there is no end to it.
func (p *Player) speak(ctx context.Context, s Stream) error {
	speed := p.speed
	if speed == AtOnce {
		speed = 1000
	}
	a := &answerer{ctx: ctx, s: s, speed: speed}
	for began := time.Now(); ; {
		for _, piece := range p.spoken {
			if !a.until(began, piece.after) {
				return nil
			}
			if _, err := s.Write(piece.data); err != nil {
				return ended(err)
			}
		}
		if !a.until(began, p.length) {
			return nil
		}
		began = began.Add(time.Duration(float64(p.length) / speed))
	}
}
