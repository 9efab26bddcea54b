package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"
	"testing"
	"time"
)

// A replay is a port on which b arrives in pieces of n bytes, then silence.
type replay struct {
	b []byte
	n int
}

func (p *replay) Read(b []byte) (int, error) {
	n := copy(b[:min(len(b), p.n)], p.b)
	p.b = p.b[n:]
	if n == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return n, nil
}
func (p *replay) Write(b []byte) (int, error)     { return len(b), nil }
func (p *replay) Close() error                    { return nil }
func (p *replay) SetReadDeadline(time.Time) error { return nil }

// FuzzRTUReader: whatever arrives, the reader ends, and what it takes for the
// answer is in there as a frame with a good checksum that answers the request.
func FuzzRTUReader(f *testing.F) {
	ask, _ := encodeRTU(1, PDU{3, 0, 100, 0, 2})
	good := rtuReply(&plant{}, ask)
	f.Add(good, uint8(1))
	f.Add(joined(ask, good), uint8(3))
	f.Add(joined([]byte{0, 1, 3, 4}, good, []byte{0xFF}), uint8(100))
	f.Add([]byte{1, 0x83, 2, 0xC0, 0xF1}, uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, n uint8) {
		var stats counters
		w := newSerialWire(rtuFraming{}, at9600, &stats)
		r := readRequest(1, Register{Holding, 100, 2})
		late := readRequest(1, Register{Holding, 7, 5})
		w.unit(1).add(late, time.Now(), time.Second, true)
		frame, _ := encodeRTU(1, r.pdu)
		x := &exchanging{r: r, frame: frame, deadline: time.Now()}
		p := &replay{in, 1 + int(n)}
		for {
			if err := w.receive(context.Background(), p, x, time.Now()); err != nil {
				break
			}
			if len(w.in) > 2*maxRTU {
				t.Fatalf("%d bytes kept", len(w.in))
			}
			pdu, ok := w.understand(x)
			if !ok {
				continue
			}
			if err := r.check(pdu); err != nil && !isException(err) {
				t.Fatalf("% x does not answer: %v", pdu, err)
			}
			if b, _ := encodeRTU(1, pdu); !bytes.Contains(in, b) {
				t.Fatalf("% x is not in % x", b, in)
			}
			break
		}
	})
}

// FuzzTCPReader: as FuzzRTUReader, with the transaction id in the place of the
// checksum.
func FuzzTCPReader(f *testing.F) {
	good := []byte{0, 1, 0, 0, 0, 7, 1, 3, 4, 1, 2, 3, 4}
	f.Add(good, uint8(1))
	f.Add(joined(patched(good, 0, 9), good), uint8(7))
	f.Add([]byte{0, 1, 0, 0, 0, 3, 255, 0x83, 11}, uint8(3))
	f.Add([]byte{0, 1, 0, 0, 0, 2, 1, 3}, uint8(30))
	f.Add([]byte{0, 1, 0, 0, 0xFF, 0xFF, 1, 3}, uint8(30))
	f.Fuzz(func(t *testing.T, in []byte, n uint8) {
		var stats counters
		w := newTCPWire(false, &stats)
		r := readRequest(1, Register{Holding, 100, 2})
		u := Unit{ID: 1, Timeout: time.Nanosecond}
		a, err := w.exchange(context.Background(), &replay{in, 1 + int(n)}, u, r)
		if err != nil && !isException(err) {
			return
		}
		if e := r.check(a.pdu); e != nil && !isException(e) {
			t.Fatalf("% x does not answer: %v", a.pdu, e)
		}
		tail := append([]byte{0, byte(1 + len(a.pdu))}, 0)
		binary.BigEndian.PutUint16(tail, uint16(1+len(a.pdu)))
		if !bytes.Contains(in, append([]byte{0, 1, 0, 0}, tail[:2]...)) || !bytes.Contains(in, a.pdu) {
			t.Fatalf("% x is not in % x", a.pdu, in)
		}
	})
}

// FuzzServer: whatever arrives, the server's reply is a PDU within the limits.
func FuzzServer(f *testing.F) {
	f.Add([]byte("\x03\x00\x64\x00\x02"))
	f.Add([]byte("\x10\x00\x01\x00\x02\x04\x12\x34\x56\x78"))
	f.Add([]byte("\x0F\x00\x01\x00\x09\x02\xFF\x01"))
	f.Add([]byte("\x08\x00\x00\xAB\xCD"))
	f.Add([]byte("\x16\x00\x04\x00\xF2\x00\x25"))
	f.Add([]byte("\x17\x00\x01\x00\x02\x00\x02\x00\x01\x02\xAB\xCD"))
	f.Add([]byte("\x18\x00\x05"))
	f.Add([]byte("\x2B\x0E\x03\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		reply := Serve(1, PDU(in), &rich{})
		if len(in) == 0 != (reply == nil) || len(reply) > max(maxPDU, len(in)) {
			t.Fatalf("% x: % x", in, reply)
		}
		for rest := in; len(rest) > 0; {
			before := len(rest)
			_, req, next := nextRequest(rest, true)
			if req != nil && !bytes.Contains(in, req) || len(next) >= before {
				t.Fatalf("% x of % x, rest % x", req, in, next)
			}
			rest = next
		}
		nextRequest(in, false)
		if n, err := readTCPFrame(bytes.NewReader(in), make([]byte, maxTCP)); err == nil && n > len(in) {
			t.Fatal(io.ErrUnexpectedEOF)
		}
	})
}
