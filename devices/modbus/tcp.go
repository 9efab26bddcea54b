package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	goburrow "github.com/goburrow/modbus"

	"edgegateway/devices"
)

// maxMissed is after how many exchanges in a row without a single byte a
// connection is given up: the far side may have forgotten it.
const maxMissed = 3

// A tcpWire speaks Modbus TCP, over whatever carries it, one request at a time:
// many devices and all gateways to a serial line take no more (a pipeWire is for
// those that do). Answers carry the transaction id of their request, so that late
// ones are known and dropped.
type tcpWire struct {
	tcpStream
	packager *goburrow.TCPClientHandler // counts transactions, over all connections; opens nothing
	missed   int                        // exchanges in a row without a byte
	last     time.Time                  // end of the last exchange
	latency  map[byte]*latency          // by unit
}

// A tcpStream cuts what comes into frames.
type tcpStream struct {
	datagram bool   // each read is one whole frame
	in       []byte // arrived and not understood
	stats    *counters
	chunk    [maxTCP + 1]byte // a longer datagram is seen to be so
}

func newTCPWire(datagram bool, stats *counters) *tcpWire {
	return &tcpWire{tcpStream: tcpStream{datagram: datagram, stats: stats}, packager: goburrow.NewTCPClientHandler(""), latency: map[byte]*latency{}}
}

func (w *tcpWire) reset() { w.in, w.missed = w.in[:0], 0 }

func (w *tcpWire) thinking(unit byte) time.Duration {
	if l := w.latency[unit]; l != nil {
		return time.Duration(*l)
	}
	return 0
}

func (w *tcpWire) declare(Unit, []Register) {} // answers say what they answer

// exchange asks r and returns the proven answer.
func (w *tcpWire) exchange(ctx context.Context, p Port, u Unit, r *request) (answer, error) {
	if !devices.Sleep(ctx, time.Until(w.last.Add(u.Pause))) {
		return answer{}, context.Cause(ctx)
	}
	a, err := w.send(ctx, p, u, r)
	w.last = time.Now()
	if err != nil && !isException(err) {
		err = unanswered(r, err)
	}
	return a, err
}

// encode makes the frame of r, with a transaction id of its own.
func (w *tcpWire) encode(r *request) ([]byte, error) {
	w.packager.SlaveId = r.unit
	return w.packager.Encode(&goburrow.ProtocolDataUnit{FunctionCode: r.pdu[0], Data: r.pdu[1:]})
}

func (w *tcpWire) send(ctx context.Context, p Port, u Unit, r *request) (answer, error) {
	frame, err := w.encode(r)
	if err != nil {
		return answer{}, err
	}
	w.stats.request(len(frame))
	if _, err := p.Write(frame); err != nil {
		return answer{}, portLost("send", err)
	}
	sent, timeout := time.Now(), u.Timeout
	if r.all {
		timeout = turnaround // in which a gateway may say that it does not pass it on
	}
	for {
		reply, err := w.next(ctx, p, sent.Add(timeout), w.heard)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if r.all && len(w.in) == 0 {
				return answer{}, nil
			}
			return answer{}, w.silence(u.Timeout)
		}
		if err != nil {
			return answer{}, err
		}
		if binary.BigEndian.Uint16(reply) != binary.BigEndian.Uint16(frame) {
			w.stats.late()
			continue
		}
		at := devices.Now()
		pdu, err := w.open(r, frame, reply)
		if err == nil || isException(err) {
			entry(w.latency, u.ID).add(time.Since(sent))
		}
		return answer{pdu: pdu, at: at}, err
	}
}

// open proves that reply answers r, which was sent as frame, and returns its
// PDU.
func (w *tcpWire) open(r *request, frame, reply []byte) (PDU, error) {
	if unit := reply[6]; reply[7]&exceptionBit != 0 && (unit == 0xFF || unit == 0) {
		reply[6] = r.unit // a gateway answers for a unit that it cannot reach
	}
	err := w.packager.Verify(frame, reply)
	var pdu PDU
	if err == nil {
		var p *goburrow.ProtocolDataUnit
		if p, err = w.packager.Decode(reply); err == nil {
			pdu = append(PDU{p.FunctionCode}, p.Data...)
			err = r.check(pdu)
		}
	}
	if err == nil || isException(err) {
		return pdu, err
	}
	w.stats.badReply()
	return nil, fmt.Errorf("the answer is wrong (%w, % x …): the device or gateway mixes up requests: %w",
		err, reply[6:min(len(reply), 14)], devices.ErrReply)
}

func (w *tcpWire) heard() { w.missed = 0 }

// next returns the next whole frame; it is valid until the next call. What is
// wrong in a stream breaks it; a datagram that is wrong is dropped. heard is
// called whenever something came.
func (w *tcpStream) next(ctx context.Context, p Port, deadline time.Time, heard func()) ([]byte, error) {
	for {
		if len(w.in) >= tcpHeader {
			n, err := tcpFrameLen(w.in)
			if err != nil && !w.datagram {
				w.stats.badReply()
				return nil, &brokenError{err}
			}
			if err == nil && len(w.in) >= n && (len(w.in) == n || !w.datagram) {
				frame := append(w.chunk[:0], w.in[:n]...)
				w.in = append(w.in[:0], w.in[n:]...)
				return frame, nil
			}
		}
		if w.datagram && len(w.in) > 0 {
			w.stats.badReply()
			w.in = w.in[:0]
		}
		n, err := readBefore(ctx, p, w.chunk[:], deadline)
		if n == 0 {
			return nil, err
		}
		w.stats.received(n)
		w.in = append(w.in, w.chunk[:n]...)
		heard()
	}
}

// silence is the error of an answer that did not come.
func (w *tcpWire) silence(timeout time.Duration) error {
	w.stats.timeout()
	if len(w.in) > 0 && !w.datagram { // where the next frame begins is not known any more
		return &brokenError{fmt.Errorf("the answer stopped in the middle (% x …), within %v: the device or gateway is overloaded or cuts answers: %w",
			w.in[:min(len(w.in), 8)], timeout, devices.ErrTimeout)}
	}
	err := fmt.Errorf("no answer within %v: check the unit id, and what is behind a gateway: %w", timeout, devices.ErrTimeout)
	if w.missed++; w.missed >= maxMissed {
		return &brokenError{err}
	}
	return err
}

// A brokenError is an error after which the connection is of no use, though
// the port is there.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }
