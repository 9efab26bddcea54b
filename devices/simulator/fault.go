package simulator

import (
	"fmt"
	"math/rand/v2"
	"time"

	"edgegateway/devices/modbus"
)

// A Fault is how a unit misbehaves. The zero Fault is good behaviour. Several
// things can be wrong at once; Silent beats the others.
type Fault struct {
	Latency   time.Duration // the answer comes this much later; other units of the bus answer meanwhile
	Silent    bool          // no answer, and nothing is written
	Exception byte          // the answer is this exception, and nothing is written; 0: none
	Wrong     Wrong         // the answer is to another question
	Noise     int           // random bytes in front of the answer
	Drop      int           // bytes that get lost, anywhere in the answer
	// Flip is how many bits arrive inverted. Modbus TCP has no checksum that
	// could tell, so there only the header's are, where it can be noticed.
	Flip int

	// MaxRead is the most registers, or sixteen times as many bits, that one
	// request may read; 0: any. Only longer ones are hit, and refused with
	// exception 3 where nothing else is said.
	MaxRead int

	Every int // only each n-th request is hit; 0 and 1: each
	Count int // heals after so many hits; 0: never
}

// Wrong is a way in which an answer, whole and with a right checksum, does
// not belong to its request.
type Wrong uint8

const (
	Right            Wrong = iota
	WrongUnit              // from another unit
	WrongFunction          // of another function
	WrongCount             // with another number of bytes
	WrongTransaction       // with another transaction id; on serial lines, which have none, from another unit
)

func (w Wrong) String() string {
	if int(w) < 5 {
		return [...]string{"right", "wrong unit", "wrong function", "wrong count", "wrong transaction"}[w]
	}
	return fmt.Sprintf("wrong %d", uint8(w))
}

// bad reports whether anything is wrong at all.
func (f Fault) bad() bool { return f != Fault{} }

// A faulty draws the faults of one unit. Its unit locks it.
type faulty struct {
	fault Fault
	seen  int // requests since it was set
	hits  int
	rand  *rand.Rand
}

func newFaulty(seed uint64) faulty {
	return faulty{rand: rand.New(rand.NewPCG(seed, mix(seed)))}
}

func (f *faulty) set(fault Fault) {
	if fault == (Fault{MaxRead: fault.MaxRead, Every: fault.Every, Count: fault.Count}) && fault.MaxRead > 0 {
		fault.Exception = modbus.IllegalValue
	}
	f.fault, f.seen, f.hits = fault, 0, 0
}

// next returns what is wrong with the answer to the next request, which reads
// so many registers.
func (f *faulty) next(registers int) Fault {
	if f.fault.MaxRead > 0 && registers <= f.fault.MaxRead {
		return Fault{}
	}
	f.seen++
	if f.fault.Every > 1 && f.seen%f.fault.Every != 0 {
		return Fault{}
	}
	if f.fault.Count > 0 && f.hits >= f.fault.Count {
		return Fault{}
	}
	f.hits++
	return f.fault
}

// spoilPDU makes the body of an answer wrong as fault says.
func spoilPDU(pdu []byte, fault Fault) []byte {
	switch {
	case fault.Wrong == WrongFunction && pdu[0] == 3:
		pdu[0] = 4
	case fault.Wrong == WrongFunction:
		pdu[0] = 3
	case fault.Wrong == WrongCount && pdu[0] <= 4: // one register or byte less than was asked for, and it says so
		cut := min(2, len(pdu)-2)
		pdu = pdu[:len(pdu)-cut]
		pdu[1] -= byte(cut)
	case fault.Wrong == WrongCount && len(pdu) > 2:
		pdu = pdu[:len(pdu)-1]
	}
	return pdu
}

// spoilFrame makes the bytes of a frame wrong as fault says; only the first
// flippable ones have bits inverted.
func (f *faulty) spoilFrame(frame []byte, flippable int, fault Fault) []byte {
	for range fault.Flip {
		frame[f.rand.IntN(flippable)] ^= 1 << f.rand.IntN(8)
	}
	for range min(fault.Drop, len(frame)) {
		at := f.rand.IntN(len(frame))
		frame = append(frame[:at], frame[at+1:]...)
	}
	if fault.Noise > 0 {
		noise := make([]byte, fault.Noise, fault.Noise+len(frame))
		for i := range noise {
			noise[i] = byte(f.rand.Uint32())
		}
		frame = append(noise, frame...)
	}
	return frame
}
