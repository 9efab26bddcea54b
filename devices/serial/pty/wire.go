package pty

import (
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Faults spoil what comes from one end. Shares are chances for each
// character, 0 for never and 1 for always. The zero Faults are a clean line.
type Faults struct {
	Drop    float64       // share of characters that vanish
	Flip    float64       // share that arrive with one bit inverted
	Insert  float64       // share before which a random character appears
	Echo    bool          // the end hears itself, as on a two-wire adapter without echo suppression
	Latency time.Duration // added before each piece
}

const (
	step   = time.Millisecond       // of pacing
	spin   = 100 * time.Microsecond // see sleepUntil
	queued = 16                     // pieces that wait for the line
)

// A wire is one direction of a line.
type wire struct {
	char   time.Duration // for one character; 0: not paced
	speed  func() int    // char is for 1 baud, and this the speed; nil: char is right
	pieces chan piece    // full: the reader waits, and the terminal's buffer fills
	done   chan struct{} // closed when nobody takes pieces any more

	mu     sync.Mutex // guards what follows
	faults Faults
	tap    func([]byte) []byte
}

// A piece is bytes to carry. Noise is not tapped, spoiled or delayed.
type piece struct {
	bytes []byte
	noise bool
}

func newWire(char time.Duration) *wire {
	return &wire{char: char, pieces: make(chan piece, queued), done: make(chan struct{})}
}

func (w *wire) setFaults(f Faults) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = f
}

func (w *wire) setTap(fn func([]byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tap = fn
}

func (w *wire) close() { close(w.done) }

func (w *wire) inject(noise []byte) { w.send(piece{bytes: append([]byte(nil), noise...), noise: true}) }

// send hands p over unless the wire is closed.
func (w *wire) send(p piece) bool {
	select {
	case w.pieces <- p:
		return true
	case <-w.done:
		return false
	}
}

// read feeds the wire from a terminal until that is closed.
func (w *wire) read(master *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		if err != nil {
			return
		}
		if !w.send(piece{bytes: append([]byte(nil), buf[:n]...)}) {
			return
		}
	}
}

// run carries pieces to put until ctx is done.
func (w *wire) run(ctx context.Context, put func(b []byte, baud int, echo bool)) {
	free := time.Now() // when the line has carried all before
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-w.pieces:
			b, f := w.treat(p)
			if f.Latency > 0 && !sleep(ctx, f.Latency) {
				return
			}
			if now := time.Now(); free.Before(now) {
				free = now
			}
			char, baud := w.char, 0
			if w.speed != nil {
				baud = max(1, w.speed())
				char /= time.Duration(baud)
			}
			free = pace(ctx, char, free, b, func(b []byte) { put(b, baud, f.Echo) })
		}
	}
}

// pace puts b out character by character, the first of which begins at start,
// and returns when the last has ended.
func pace(ctx context.Context, char time.Duration, start time.Time, b []byte, put func([]byte)) time.Time {
	if char == 0 {
		put(b)
		return start
	}
	end := start.Add(time.Duration(len(b)) * char)
	for sent := 0; sent < len(b); {
		now := time.Now()
		if due := min(len(b), int(now.Sub(start)/char)); due > sent {
			put(b[sent:due])
			sent = due
			continue
		}
		next, exact := start.Add(time.Duration(sent+1)*char), time.Duration(0)
		if soon := now.Add(step); next.Before(soon) {
			next = soon
		}
		if !next.Before(end) {
			next, exact = end, spin // who waits for a frame waits for its end
		}
		if !sleepUntil(ctx, next, exact) {
			break
		}
	}
	return end
}

// treat applies tap and faults to p.
func (w *wire) treat(p piece) ([]byte, Faults) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.noise {
		return p.bytes, Faults{}
	}
	b := p.bytes
	if w.tap != nil {
		b = w.tap(b)
	}
	return w.faults.spoil(b), w.faults
}

// spoil returns b as it arrives.
func (f Faults) spoil(b []byte) []byte {
	if f.Drop == 0 && f.Flip == 0 && f.Insert == 0 {
		return b
	}
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		if happens(f.Insert) {
			out = append(out, byte(rand.Uint32()))
		}
		if happens(f.Drop) {
			continue
		}
		if happens(f.Flip) {
			c ^= 1 << rand.IntN(8)
		}
		out = append(out, c)
	}
	return out
}

func happens(share float64) bool { return share > 0 && rand.Float64() < share }

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool { return sleepUntil(ctx, time.Now().Add(d), 0) }

// sleepUntil waits for end. The runtime's timers are late by up to a
// millisecond, which at 115200 baud is eleven characters, so the kernel waits
// for the last of it, and is late by some tens of microseconds; for the last
// time spin nobody sleeps.
func sleepUntil(ctx context.Context, end time.Time, spin time.Duration) bool {
	if d := time.Until(end); d > 2*step {
		t := time.NewTimer(d - 2*step)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	for d := time.Until(end); d > 0; d = time.Until(end) {
		if d > spin {
			ts := unix.NsecToTimespec(int64(d - spin))
			unix.Nanosleep(&ts, nil)
		}
	}
	return ctx.Err() == nil
}
