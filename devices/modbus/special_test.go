package modbus

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

// A rich plant has queues and says who it is.
type rich struct{ plant }

var richIdentity = map[byte]string{VendorName: "Maker & Sons", ProductCode: "M-1", Revision: "2.0",
	VendorURL: strings.Repeat("long/", 40), ProductName: strings.Repeat("x", 200), 0x80: "own"}

func (*rich) FIFO(_ byte, address uint16) ([]uint16, error) {
	if address > maxFIFO+1 {
		return nil, &Exception{Code: IllegalAddress}
	}
	return slices.Repeat([]uint16{address}, int(address)), nil
}

func (*rich) Identity(byte) (map[byte]string, error) { return richIdentity, nil }

// inEachFraming runs test with a line to a scripted device; answer is what a
// store answers to a frame, and turn changes its PDU.
func inEachFraming(t *testing.T, test func(t *testing.T, url string, answer func(s Store, frame []byte, turn func(PDU) PDU) []byte)) {
	t.Run("RTU", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, "rtu+tcp://device", func(s Store, frame []byte, turn func(PDU) PDU) []byte {
				pdu, _ := decodeRTU(frame)
				b, err := encodeRTU(frame[0], turn(Serve(frame[0], pdu, s)))
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
		})
	})
	t.Run("ASCII", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, "ascii+tcp://device", func(s Store, frame []byte, turn func(PDU) PDU) []byte {
				unit, pdu, _ := nextASCIIRequest(frame, true)
				return inASCII(unit, turn(Serve(unit, pdu, s))...)
			})
		})
	})
	t.Run("TCP", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, "tcp://device", func(s Store, frame []byte, turn func(PDU) PDU) []byte {
				pdu := turn(Serve(frame[6], PDU(frame[tcpHeader:]), s))
				return joined(patched(frame[:tcpHeader], 4, 0, byte(1+len(pdu))), pdu)
			})
		})
	})
}

func same(pdu PDU) PDU { return pdu }

// TestSpecialFunctions sets bits, writes and reads at once, reads a queue and
// asks who a device is.
func TestSpecialFunctions(t *testing.T) {
	inEachFraming(t, func(t *testing.T, url string, answer func(Store, []byte, func(PDU) PDU) []byte) {
		store := &rich{}
		l := scripted(t, Config{URL: url}, func(frame []byte) []piece { return atOnce(answer(store, frame, same)) })
		dev := meter(Unit{ID: 1}, Register{Holding, 5, 1}, Register{Holding, 5, 2}, Register{Holding, 6, 2})
		do := func(q devices.Query, err error) *devices.Batch {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			b := devices.NewBatch(dev)
			if err := q.Do(t.Context(), b); err != nil {
				t.Errorf("%v: %v", q, err)
			}
			return b
		}
		do(l.ReadWrite(dev, dev.Points[1], []byte{0, 0x12, 0xAA, 0xBB}, dev.Points[2]))
		do(l.MaskWrite(dev, dev.Points[0], 0xF2, 0x25)) // the example of the specification
		b := do(l.ReadWrite(dev, dev.Points[2], []byte{1, 2, 3, 4}, dev.Points[1]))
		if got := string(b.Readings[0].Raw); got != "\x00\x17\x01\x02" {
			t.Errorf("% x", got)
		}
		fifo, err := l.ReadFIFO(dev, 31)
		if do(fifo, err); len(fifo.Values) != 31 || fifo.Values[30] != 31 {
			t.Error(fifo.Values)
		}
		who, err := l.Identify(dev)
		want := maps.Clone(richIdentity)
		delete(want, 0x80)
		if do(who, err); !maps.Equal(who.Objects, want) {
			t.Errorf("%q, want %q", who.Objects, want)
		}
		fifo, err = l.ReadFIFO(dev, 32) // too long for an answer
		if err != nil {
			t.Fatal(err)
		}
		if err := fifo.Do(t.Context(), devices.NewBatch(dev)); devices.Cause(err) != "illegal data value" {
			t.Error(err)
		}
	})
}

// TestHostileSpecialAnswers: lengths and numbers that lie, and objects without
// end.
func TestHostileSpecialAnswers(t *testing.T) {
	set := func(i int, v ...byte) func(PDU) PDU {
		return func(p PDU) PDU { return PDU(patched(p, i, v...)) }
	}
	cut := func(p PDU) PDU { return p[:len(p)-1] }
	long := func(p PDU) PDU { return append(slices.Clone(p), 0) }
	for _, tt := range []struct {
		name string
		ask  byte // function
		turn func(PDU) PDU
	}{
		{"queue: bytes", fnReadFIFO, set(1, 0, 9)}, {"queue: bytes and registers", fnReadFIFO, set(1, 0, 4, 0, 1)},
		{"queue: registers", fnReadFIFO, set(4, 4)}, {"queue: 65535", fnReadFIFO, set(1, 0xFF, 0xFF, 0xFF, 0xFF)},
		{"queue: cut", fnReadFIFO, cut}, {"queue: long", fnReadFIFO, long}, {"queue: empty", fnReadFIFO, func(PDU) PDU { return PDU{fnReadFIFO} }},
		{"mask: other bits", fnMaskWrite, set(6, 1)}, {"mask: other address", fnMaskWrite, set(2, 9)}, {"mask: cut", fnMaskWrite, cut}, {"mask: long", fnMaskWrite, long},
		{"read and write: bytes", fnReadWrite, set(1, 2)}, {"read and write: cut", fnReadWrite, cut}, {"read and write: long", fnReadWrite, long},
		{"identity: type", fnEncapsulated, set(1, 13)}, {"identity: code", fnEncapsulated, set(2, 3)},
		{"identity: more objects", fnEncapsulated, set(6, 255)}, {"identity: fewer objects", fnEncapsulated, set(6, 1)},
		{"identity: object's length", fnEncapsulated, set(8, 255)}, {"identity: object's length 0", fnEncapsulated, set(8, 0)},
		{"identity: in a circle", fnEncapsulated, set(4, 0xFF, 0)}, {"identity: head only", fnEncapsulated, func(p PDU) PDU { return p[:6] }},
		{"identity: cut", fnEncapsulated, cut}, {"identity: long", fnEncapsulated, long},
		{"identity: without end", fnEncapsulated, func(p PDU) PDU { return PDU{p[0], p[1], p[2], p[3], 0xFF, 0xFF, 0} }},
		{"exception without a code", fnReadFIFO, func(PDU) PDU { return PDU{fnReadFIFO | exceptionBit} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inEachFraming(t, func(t *testing.T, url string, answer func(Store, []byte, func(PDU) PDU) []byte) {
				l := scripted(t, Config{URL: url}, func(frame []byte) []piece {
					return atOnce(answer(&rich{}, frame, func(p PDU) PDU {
						if p.function() == tt.ask {
							return tt.turn(p)
						}
						return p
					}))
				})
				dev := meter(Unit{ID: 1}, Register{Holding, 5, 1}, Register{Holding, 6, 2})
				var q devices.Query
				var err error
				switch tt.ask {
				case fnReadFIFO:
					q, err = l.ReadFIFO(dev, 3)
				case fnMaskWrite:
					q, err = l.MaskWrite(dev, dev.Points[0], 1, 2)
				case fnReadWrite:
					q, err = l.ReadWrite(dev, dev.Points[0], []byte{1, 2}, dev.Points[1])
				default:
					q, err = l.Identify(dev)
				}
				if err != nil {
					t.Fatal(err)
				}
				b := devices.NewBatch(dev)
				if err := q.Do(t.Context(), b); err == nil || len(b.Readings) > 0 {
					t.Errorf("error %v, readings %v", err, b.Readings)
				}
			})
		})
	}
}

// TestBroadcast: a write to all is answered by nobody, and the line rests
// before the next request.
func TestBroadcast(t *testing.T) {
	for _, url := range []string{"rtu+tcp://line", "ascii+tcp://line"} {
		synctest.Test(t, func(t *testing.T) {
			store := &plant{}
			l := scripted(t, Config{URL: url, Serial: at9600}, func(frame []byte) []piece {
				unit, req, _ := nextRequest(frame, true)
				if url[0] == 'a' {
					unit, req, _ = nextASCIIRequest(frame, true)
				}
				Serve(unit, req, store)
				return nil
			})
			dev := meter(Unit{}, Register{Holding, 5, 2}, Register{Coil, 1, 1})
			start := time.Now()
			for i, raw := range []string{"\x12\x34\x56\x78", "\x01"} {
				q, err := l.Write(dev, dev.Points[i], []byte(raw), false)
				if err != nil {
					t.Fatal(err)
				}
				b := devices.NewBatch(dev)
				if err := q.Do(t.Context(), b); err != nil || len(b.Readings) > 0 {
					t.Error(err, b.Readings)
				}
			}
			store.mu.Lock()
			defer store.mu.Unlock()
			if store.written[Register{Holding, 6, 1}] != 0x5678 || store.written[Register{Coil, 1, 1}] != 1 {
				t.Error(store.written)
			}
			if d := time.Since(start); d < 2*turnaround { // virtual time
				t.Errorf("two broadcasts in %v", d)
			}
			if _, err := l.Write(dev, dev.Points[0], []byte{1, 2, 3, 4}, true); err == nil {
				t.Error("a broadcast is to be read back")
			}
			if _, err := l.Plan(dev, dev.Points); err == nil {
				t.Error("a broadcast reads")
			}
		})
	}
}

// TestBusy: a device that is busy is asked again, at growing intervals, until
// the timeout is over. A write that it accepted is never repeated.
func TestBusy(t *testing.T) {
	for _, tt := range []struct {
		name  string
		code  byte
		times int // busy for so many requests
		write bool
		want  string
		asked int
	}{
		{"read, busy", Busy, 2, false, "", 3},
		{"read, accepted", Acknowledge, 2, false, "", 3},
		{"read, busy for long", Busy, 100, false, "device busy", 3}, // 20 and 40 ms, then the timeout would be over
		{"write, busy", Busy, 2, true, "", 3},
		{"write, accepted", Acknowledge, 2, true, "accepted, still working", 1},
		{"read, failure", DeviceFailure, 1, false, "device failure", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inEachFraming(t, func(t *testing.T, url string, answer func(Store, []byte, func(PDU) PDU) []byte) {
				asked, function := 0, byte(fnReadHolding)
				if tt.write {
					function = fnWriteHoldings
				}
				store := &plant{}
				l := scripted(t, Config{URL: url}, func(frame []byte) []piece {
					return atOnce(answer(store, frame, func(p PDU) PDU {
						if p.function() == function {
							if asked++; asked <= tt.times {
								return PDU{p.function() | exceptionBit, tt.code}
							}
						}
						return p
					}))
				})
				dev := meter(Unit{ID: 1}, Register{Holding, 100, 2})
				var b *devices.Batch
				var err error
				if tt.write {
					q, err2 := l.Write(dev, dev.Points[0], []byte{1, 2, 3, 4}, false)
					if err2 != nil {
						t.Fatal(err2)
					}
					b = devices.NewBatch(dev)
					err = q.Do(t.Context(), b)
					if errors.Is(err, ErrUnanswered) != (tt.code == Acknowledge) {
						t.Error(err)
					}
					if err == nil && tt.want == "" && len(b.Readings) > 0 {
						t.Error(b.Readings[0].Err)
					}
				} else {
					b, err = read(t, l, dev)
					judge(t, b, err, tt.want)
				}
				if asked != tt.asked {
					t.Errorf("asked %d times, want %d", asked, tt.asked)
				}
			})
		})
	}
}

// TestBusyEndsWithItsContext: the wait for a busy device does not outlive its
// context.
func TestBusyEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scripted(t, Config{URL: "tcp://device", Timeout: time.Hour}, func(frame []byte) []piece {
			return atOnce(joined(patched(frame[:tcpHeader], 4, 0, 3), []byte{frame[7] | exceptionBit, Busy}))
		})
		dev := meter(Unit{ID: 1}, Register{Holding, 1, 1})
		qs, err := l.Plan(dev, dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		qs[0].Do(ctx, devices.NewBatch(dev))
		if d := time.Since(start); d > time.Second+50*time.Millisecond { // virtual time
			t.Errorf("%v after a context of a second", d)
		}
	})
}
