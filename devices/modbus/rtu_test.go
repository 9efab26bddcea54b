package modbus

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

func joined(parts ...[]byte) []byte { return slices.Concat(parts...) }

// echoing puts the request before the answer, as an adapter that hears itself.
func echoing(s script) script {
	return func(frame []byte) []piece { return append(atOnce(bytes.Clone(frame)), s(frame)...) }
}

func honest(frame []byte) []piece { return atOnce(rtuReply(&plant{}, frame)) }

// TestRTUAnswers runs one read of four registers against each way in which an
// answer can be wrong, late in parts or hidden.
func TestRTUAnswers(t *testing.T) {
	// reply builds a frame of unit 1 with a good checksum.
	reply := func(pdu ...byte) []byte {
		b, err := encodeRTU(1, pdu)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := rtuReply(&plant{}, reply(3, 0, 100, 0, 4))
	refusal := reply(0x83, 2)
	for _, tt := range []struct {
		name string
		say  func(frame []byte) []piece
		want string // the cause; "" for right values
	}{
		{"whole", honest, ""},
		{"leading NUL", func([]byte) []piece { return atOnce(joined([]byte{0}, good)) }, ""},
		{"leading unit id", func([]byte) []piece { return atOnce(joined([]byte{1, 1, 3}, good)) }, ""},
		{"leading begin of an answer", func([]byte) []piece { return atOnce(joined(good[:5], good)) }, ""},
		{"trailing 0xFF", func([]byte) []piece { return atOnce(joined(good, []byte{0xFF})) }, ""},
		{"byte by byte", func([]byte) []piece { return bytewise(good, 5*time.Millisecond) }, ""},
		{"echo", echoing(honest), ""},
		{"echo byte by byte", func(f []byte) []piece { return bytewise(joined(f, good), time.Millisecond) }, ""},
		{"answer of another unit first", func([]byte) []piece {
			other, _ := encodeRTU(2, good[1:len(good)-2])
			return atOnce(joined(other, good))
		}, ""},
		{"exception", func([]byte) []piece { return atOnce(refusal) }, "illegal data address"},
		{"split exception", func([]byte) []piece { return []piece{{0, refusal[:4]}, {20 * time.Millisecond, refusal[4:]}} }, "illegal data address"},
		{"echo and exception", echoing(func([]byte) []piece { return atOnce(refusal) }), "illegal data address"},
		{"silence", func([]byte) []piece { return nil }, "timeout"},
		{"only echo", echoing(func([]byte) []piece { return nil }), "timeout"},
		{"one register too few", func([]byte) []piece { return atOnce(reply(3, 6, 0, 1, 0, 2, 0, 3)) }, "bad reply"},
		{"one register too many", func([]byte) []piece { return atOnce(reply(append([]byte{3, 10}, make([]byte, 10)...)...)) }, "bad reply"},
		{"byte count that lies", func([]byte) []piece { return atOnce(reply(append([]byte{3, 8}, make([]byte, 6)...)...)) }, "bad reply"},
		{"another function", func([]byte) []piece { return atOnce(reply(append([]byte{4, 8}, make([]byte, 8)...)...)) }, "bad reply"},
		{"exception of another function", func([]byte) []piece { return atOnce(reply(0x84, 2)) }, "bad reply"},
		{"another unit", func([]byte) []piece { b, _ := encodeRTU(2, good[1:len(good)-2]); return atOnce(b) }, "bad reply"},
		{"short, then silence", func([]byte) []piece { return atOnce(good[:9]) }, "bad reply"},
		{"spew", func([]byte) []piece {
			return slices.Repeat([]piece{{time.Millisecond, bytes.Repeat([]byte{1, 3}, 40)}}, 300)
		}, "bad reply"},
		{"hang-up in the answer", func([]byte) []piece { return []piece{{0, good[:7]}, {0, hangUp}} }, "port unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := scripted(t, Config{Serial: at9600}, tt.say)
				b, err := read(t, l, meter(Unit{ID: 1}, Register{Holding, 100, 4}))
				err = judge(t, b, err, tt.want)
				if err != nil && !strings.Contains(err.Error(), "unit 1: holding 100-103 on rtu+tcp://device") {
					t.Errorf("%v names no place", err)
				}
			})
		})
	}
}

func bytewise(b []byte, gap time.Duration) []piece {
	var ps []piece
	for i := range b {
		ps = append(ps, piece{gap, b[i : i+1]})
	}
	return ps
}

// TestFlippedByteIsNeverAValue inverts each bit of each byte of an answer and
// of an exception.
func TestFlippedByteIsNeverAValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var spoil func([]byte)
		l := scripted(t, Config{Serial: at9600}, func(frame []byte) []piece {
			b := rtuReply(&plant{illegal: map[Register]bool{{Holding, 9, 1}: true}}, frame)
			if frame[1] == fnReadHolding {
				spoil(b)
			}
			return atOnce(b)
		})
		good, bad := 0, 0
		for _, address := range []uint16{100, 9} {
			for i := range 5 * 8 {
				spoil = func(b []byte) { b[i/8] ^= 1 << (i % 8) }
				b, err := read(t, l, meter(Unit{ID: 1}, Register{Holding, address, 2}))
				if err == nil {
					t.Errorf("bit %d of byte %d flipped: %+v", i%8, i/8, b.Readings[0])
				}
				bad++
				spoil = func([]byte) {}
				if b, err := read(t, l, meter(Unit{ID: 1}, Register{Holding, 100, 2})); err == nil && verify(b) == nil {
					good++
				}
			}
		}
		if good != bad {
			t.Errorf("after %d bad answers %d good ones", bad, good)
		}
	})
}

// TestWriteNeedsTheDevicesAnswer: an echo of the request, which is equal to
// the answer, confirms no write.
func TestWriteNeedsTheDevicesAnswer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		echo   bool
		deaf   bool // the device does not answer writes
		reg    Register
		raw    string
		unsure bool
	}{
		{"register", false, false, Register{Holding, 5, 1}, "\x12\x34", false},
		{"register, echo", true, false, Register{Holding, 5, 1}, "\x12\x34", false},
		{"register, deaf", false, true, Register{Holding, 5, 1}, "\x12\x34", true},
		{"register, echo, deaf", true, true, Register{Holding, 5, 1}, "\x12\x34", true},
		{"coil, echo", true, false, Register{Coil, 5, 1}, "\x01", false},
		{"coil, echo, deaf", true, true, Register{Coil, 5, 1}, "\x01", true},
		{"registers, echo", true, false, Register{Holding, 5, 3}, "\x12\x34\x56\x78\x9A\xBC", false},
		{"registers, echo, deaf", true, true, Register{Holding, 5, 3}, "\x12\x34\x56\x78\x9A\xBC", true},
		{"coils, echo", true, false, Register{Coil, 5, 11}, "\x01\x00\x01\x00\x01\x00\x01\x00\x01\x00\x01", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &plant{}
				say := func(frame []byte) []piece {
					if tt.deaf && frame[1] >= fnWriteCoil {
						return nil
					}
					return atOnce(rtuReply(store, frame))
				}
				if tt.echo {
					say = echoing(say)
				}
				l := scripted(t, Config{Serial: at9600}, say)
				dev := meter(Unit{ID: 1}, tt.reg)
				q, err := l.Write(dev, dev.Points[0], []byte(tt.raw), true)
				if err != nil {
					t.Fatal(err)
				}
				b, err := run(t, dev, q)
				if errors.Is(err, ErrUnanswered) != tt.unsure || (err != nil) != tt.unsure {
					t.Errorf("error %v", err)
				}
				if !tt.unsure && string(b.Readings[0].Raw) != tt.raw {
					t.Errorf("read back % x", b.Readings[0].Raw)
				}
			})
		})
	}
}

// TestWriteRefused: an exception is the device's answer, and no error of the
// bus.
func TestWriteRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scripted(t, Config{}, func(frame []byte) []piece {
			return atOnce(rtuReply(&plant{illegal: map[Register]bool{{Holding, 5, 1}: true}}, frame))
		})
		dev := meter(Unit{ID: 1}, Register{Holding, 5, 1})
		q, err := l.Write(dev, dev.Points[0], []byte{0, 1}, true)
		if err != nil {
			t.Fatal(err)
		}
		b, err := run(t, dev, q)
		if err != nil || devices.Cause(b.Readings[0].Err) != "illegal data address" {
			t.Errorf("error %v, reading %v", err, b.Readings[0].Err)
		}
	})
}

// TestEchoThatIsAnAnswer: the request to read coils 792-810 looks exactly like
// an answer to itself.
func TestEchoThatIsAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scripted(t, Config{Serial: at9600}, echoing(honest))
		b, err := read(t, l, meter(Unit{ID: 1}, Register{Coil, 0x0318, 19}))
		if err != nil || verify(b) != nil {
			t.Error(err, verify(b))
		}
	})
}

func TestCancelEndsExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scripted(t, Config{Timeout: time.Hour}, func([]byte) []piece { return nil })
		dev := meter(Unit{ID: 1}, Register{Holding, 1, 1})
		qs, err := l.Plan(dev, dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		b := devices.NewBatch(dev)
		if err := qs[0].Do(ctx, b); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if d := time.Since(start) - time.Second; d > 50*time.Millisecond { // virtual time
			t.Errorf("%v after the end of its context", d)
		}
	})
}

// TestReplug: a line whose port hangs up works again with the next query.
func TestReplug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		l := scripted(t, Config{Serial: at9600}, func(frame []byte) []piece {
			if n++; n == 1 {
				return []piece{{0, frame[:3]}, {0, hangUp}}
			}
			return honest(frame)
		})
		for i := range 3 {
			b, err := read(t, l, meter(Unit{ID: 1}, Register{Input, 1, 2}))
			if (i == 0) != errors.Is(err, devices.ErrPort) || verify(b) != nil {
				t.Errorf("read %d: %v, %v", i, err, verify(b))
			}
		}
		if s := l.Stats(); s.Opened != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// TestSilenceBeforeRequest: three and a half characters after the last byte.
func TestSilenceBeforeRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scripted(t, Config{Serial: at9600}, honest)
		for range 3 {
			if _, err := read(t, l, meter(Unit{ID: 1}, Register{Input, 1, 2})); err != nil {
				t.Fatal(err)
			}
		}
		// Eight characters take 8.3 ms, the silence 3.6 ms; the answer is in
		// no time. The first request waits for nothing but a glance.
		if busy := l.Stats().Busy; busy < 2*at9600.Silence35() {
			t.Errorf("three exchanges took %v", busy)
		}
	})
}
