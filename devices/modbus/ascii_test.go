package modbus

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// TestASCIIFrame compares with frames whose LRC was computed by hand (V1.02,
// 6.2.1).
func TestASCIIFrame(t *testing.T) {
	for want, pdu := range map[string]PDU{
		":010300000001FB\r\n": {3, 0, 0, 0, 1},
		":F7031389000A60\r\n": {3, 0x13, 0x89, 0, 0x0A},
	} {
		unit := byte(1)
		if want[1] == 'F' {
			unit = 0xF7
		}
		got := inASCII(unit, pdu...)
		if string(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
		if n := (asciiFraming{}).size(len(pdu)); n != len(want) {
			t.Errorf("%d characters, want %d", n, len(want))
		}
		if raw, n, v := scanASCII(got); v != whole || n != len(want) || !bytes.Equal(raw[1:len(raw)-1], pdu) {
			t.Errorf("% x, %d, %v", raw, n, v)
		}
	}
}

// TestASCIIAnswers runs one read of four registers against each way in which
// an ASCII answer can be wrong, halting or hidden, and then a good one.
func TestASCIIAnswers(t *testing.T) {
	good := asciiReply(&plant{}, inASCII(1, 3, 0, 100, 0, 4))
	refusal := inASCII(1, 0x83, 2)
	say := func(parts ...[]byte) script { return func([]byte) []piece { return atOnce(joined(parts...)) } }
	honest := func(frame []byte) []piece { return atOnce(asciiReply(&plant{}, frame)) }
	halting := func(d time.Duration) script {
		return func([]byte) []piece { return []piece{{0, good[:9]}, {d, good[9:]}} }
	}
	for _, tt := range []struct {
		name string
		say  script
		want string // the cause; "" for right values
	}{
		{"whole", honest, ""},
		{"lower case", say(bytes.ToLower(good)), ""},
		{"noise first", say([]byte{0, 0xFF, 'A', '\r', '\n'}, good), ""},
		{"begin of an answer first", say(good[:9], good), ""},
		{"colons first", say([]byte(":::"), good), ""},
		{"noise after", say(good, []byte{0, ':'}), ""},
		{"another unit's answer first", say(inASCII(2, 3, 2, 0, 0), good), ""},
		{"byte by byte", func([]byte) []piece { return bytewise(good, 5*time.Millisecond) }, ""},
		{"echo", echoing(honest), ""},
		{"a halt of 0.9 s", halting(900 * time.Millisecond), ""},
		{"a halt of 1.1 s", halting(1100 * time.Millisecond), "bad reply"},
		{"a halt at each character", func([]byte) []piece {
			return append(atOnce(good[:1]), bytewise(good[1:], 900*time.Millisecond)...)
		}, "bad reply"},
		{"exception", say(refusal), "illegal data address"},
		{"split exception", func([]byte) []piece { return []piece{{0, refusal[:4]}, {20 * time.Millisecond, refusal[4:]}} }, "illegal data address"},
		{"silence", func([]byte) []piece { return nil }, "timeout"},
		{"only echo", echoing(func([]byte) []piece { return nil }), "timeout"},
		{"wrong LRC", say(patched(good, 12, good[12]^1)), "bad reply"},
		{"no line feed", say(good[:len(good)-1]), "bad reply"},
		{"line feed only", say(patched(good, len(good)-2, '\n')), "bad reply"},
		{"a digit too few", say(good[:10], good[11:]), "bad reply"},
		{"no digit", say(patched(good, 12, 'G')), "bad reply"},
		{"one register too few", say(inASCII(1, 3, 6, 0, 1, 0, 2, 0, 3)), "bad reply"},
		{"byte count that lies", say(inASCII(1, 3, 8, 0, 1, 0, 2, 0, 3)), "bad reply"},
		{"another function", say(inASCII(1, append([]byte{4, 8}, make([]byte, 8)...)...)), "bad reply"},
		{"another unit", say(inASCII(2, append([]byte{3, 8}, make([]byte, 8)...)...)), "bad reply"},
		{"digits without end", func([]byte) []piece {
			return slices.Repeat([]piece{{time.Millisecond, bytes.Repeat([]byte(":01030800"), 9)}}, 300)
		}, "bad reply"},
		{"hang-up in the answer", func([]byte) []piece { return []piece{{0, good[:7]}, {0, hangUp}} }, "port unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := true
				l := scripted(t, Config{URL: "ascii+tcp://device", Serial: serial.Config{Baud: 9600, Format: "7E1"}}, func(frame []byte) []piece {
					if first {
						first = false
						return tt.say(frame)
					}
					return honest(frame)
				})
				dev := meter(Unit{ID: 1}, Register{Holding, 100, 4})
				b, err := read(t, l, dev)
				judge(t, b, err, tt.want)
				time.Sleep(time.Minute) // beyond what is left of the answer
				for range 2 {           // the first may find what is left of it
					b, err = read(t, l, dev)
				}
				if err != nil || verify(b) != nil {
					t.Errorf("afterwards: %v, %v", err, verify(b))
				}
			})
		})
	}
}

// TestServeASCII puts requests on a line as they come.
func TestServeASCII(t *testing.T) {
	good := inASCII(1, 3, 0, 100, 0, 2)
	answer := asciiReply(&plant{}, good)
	for _, tt := range []struct {
		name string
		in   []piece
		want []byte
	}{
		{"whole", atOnce(good), answer},
		{"character by character", bytewise(good, 900*time.Millisecond), answer},
		{"two at once", atOnce(joined(good, good)), joined(answer, answer)},
		{"cut short, then whole", atOnce(joined(good[:7], good)), answer},
		{"a halt, then whole", []piece{{0, good[:7]}, {1100 * time.Millisecond, good[7:]}, {0, good}}, answer},
		{"noise", atOnce(joined([]byte("\x00:A:G1\r\n"), good)), answer},
		{"wrong LRC", atOnce(joined(patched(good, 8, 'F'), good)), answer},
		{"function 17", atOnce(inASCII(1, 17)), inASCII(1, 0x91, 1)},
		{"broadcast", atOnce(joined(inASCII(0, 6, 0, 100, 0, 2), good)), inASCII(1, 3, 4, 0, 2, 0x81, 0x65)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- ServeASCII(ctx, far, serial.Config{Baud: 9600}, &plant{}) }()
				go func() {
					for _, p := range tt.in {
						time.Sleep(p.after)
						near.Write(p.bytes)
					}
				}()
				var got bytes.Buffer
				near.SetReadDeadline(time.Now().Add(time.Minute))
				got.ReadFrom(near)
				if !bytes.Equal(got.Bytes(), tt.want) {
					t.Errorf("%q, want %q", got.Bytes(), tt.want)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				far.Close()
			})
		})
	}
}

// FuzzASCIIReader: whatever arrives, the reader ends, and what it takes for
// the answer is in there as a frame with a good LRC that answers the request.
func FuzzASCIIReader(f *testing.F) {
	ask := inASCII(1, 3, 0, 100, 0, 2)
	good := asciiReply(&plant{}, ask)
	f.Add(good, uint8(1))
	f.Add(joined(ask, good), uint8(3))
	f.Add(joined([]byte(":01:\r\n"), good, []byte{0xFF}), uint8(100))
	f.Add(inASCII(1, 0x83, 2), uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, n uint8) {
		var stats counters
		w := newSerialWire(asciiFraming{}, at9600, &stats)
		r := readRequest(1, Register{Holding, 100, 2})
		w.unit(1).add(readRequest(1, Register{Holding, 7, 5}), time.Now(), time.Second, true)
		frame := inASCII(1, r.pdu...)
		x := &exchanging{r: r, frame: frame, deadline: time.Now()}
		p := &replay{in, 1 + int(n)}
		for {
			if err := w.receive(context.Background(), p, x, time.Now()); err != nil {
				break
			}
			if len(w.in) > 2*maxASCII {
				t.Fatalf("%d bytes kept", len(w.in))
			}
			pdu, ok := w.understand(x)
			if !ok {
				continue
			}
			if err := r.check(pdu); err != nil && !isException(err) {
				t.Fatalf("% x does not answer: %v", pdu, err)
			}
			if !bytes.Contains(bytes.ToUpper(in), inASCII(1, pdu...)) {
				t.Fatalf("% x is not in %q", pdu, in)
			}
			break
		}
		for rest := in; len(rest) > 0; {
			unit, req, next := nextASCIIRequest(rest, true)
			if req != nil && !bytes.Contains(bytes.ToUpper(in), inASCII(unit, req...)) || len(next) >= len(rest) {
				t.Fatalf("% x of %q, rest %q", req, in, next)
			}
			rest = next
		}
		nextASCIIRequest(in, false)
	})
}

// TestASCIIEchoConfirmsNoWrite: as TestWriteNeedsTheDevicesAnswer.
func TestASCIIEchoConfirmsNoWrite(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := &plant{}
			l := scripted(t, Config{URL: "ascii+tcp://device"}, echoing(func(frame []byte) []piece {
				if _, req, _ := nextASCIIRequest(frame, true); deaf && req.function() == fnWriteRegister {
					return nil
				}
				return atOnce(asciiReply(store, frame))
			}))
			dev := meter(Unit{ID: 1}, Register{Holding, 5, 1})
			q, err := l.Write(dev, dev.Points[0], []byte{1, 2}, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Do(t.Context(), devices.NewBatch(dev)); errors.Is(err, ErrUnanswered) != deaf {
				t.Errorf("deaf %v: %v", deaf, err)
			}
		})
	}
}
