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

// TestSpecialFunctions writes with each function, sets bits, reads queues and
// asks who a device is.
func TestSpecialFunctions(t *testing.T) {
	inEachFraming(t, func(t *testing.T, url string, answer func(Store, []byte, func(PDU) PDU) []byte) {
		store := &rich{}
		var asked []byte
		l := scripted(t, Config{URL: url}, func(frame []byte) []piece {
			return atOnce(answer(store, frame, func(p PDU) PDU {
				asked = append(asked, p.function())
				return p
			}))
		})
		reg := Register{Holding, 5, 1}
		dev := meterOf(Unit{ID: 1}, Written{Register{Holding, 5, 2}, fnReadWrite}, Written{reg, fnWriteHoldings}, Written{Register{Coil, 4, 1}, fnWriteCoils},
			Bit{Register: reg, N: 2}, Bit{Register: reg, N: 4, Function: fnMaskWrite}, Bit{Register: reg, N: 0, Function: fnWriteRegister},
			Bit{Register: reg, N: 15, Function: fnWriteHoldings}, Bit{Register: reg, N: 1, Swapped: true})
		for _, tt := range []struct {
			point  int
			raw    string
			asks   string // functions, with that which reads back
			holds  uint16 // holding 5
			verify bool
		}{
			{0, "\x12\x34\xAA\xBB", "\x17", 0x1234, true}, {1, "\x00\x12", "\x10\x03", 0x0012, true}, {2, "\x01", "\x0F\x01", 0x0012, true},
			{3, "\x01", "\x16\x03", 0x0016, true}, {4, "\x00", "\x16", 0x0006, false}, {5, "\x01", "\x03\x06\x03", 0x0007, true},
			{6, "\x01", "\x03\x10", 0x8007, false}, {7, "\x01", "\x16\x03", 0x8207, true}, {6, "\x00", "\x03\x10\x03", 0x0207, true},
		} {
			point := dev.Points[tt.point]
			if url == "tcp://device" || len(asked) > 0 { // else the line learns first whether it echoes
				asked = nil
			}
			q, err := l.Write(dev, point, []byte(tt.raw), tt.verify)
			if err != nil {
				t.Fatal(err)
			}
			b := devices.NewBatch(dev)
			if err := q.Do(t.Context(), b); err != nil {
				t.Errorf("%v: %v", q, err)
			}
			if !strings.HasSuffix(string(asked), tt.asks) || len(asked) > len(tt.asks)+1 {
				t.Errorf("%v took functions % d, want % d", point.Name, asked, []byte(tt.asks))
			}
			if tt.verify && string(b.Readings[0].Raw) != tt.raw {
				t.Errorf("%v: read back % x", point.Name, b.Readings[0].Raw)
			}
			if got := store.held(reg); got != tt.holds {
				t.Errorf("after %v the register is %04x, want %04x", point.Name, got, tt.holds)
			}
		}
		dev = meterOf(Unit{ID: 1}, Queue{31}, Queue{0}, Queue{32}, reg, Bit{Register: reg, N: 9}, Bit{Register: reg, N: 8})
		b, err := read(t, l, dev)
		if err != nil || len(b.Readings) != 6 {
			t.Fatal(err, b.Readings)
		}
		found := map[string]devices.Reading{}
		for _, r := range b.Readings {
			found[r.Point.Name] = r
		}
		if r := found["queue at holding 31"]; len(r.Raw) != 62 || r.Raw[61] != 31 {
			t.Errorf("%+v", r)
		}
		if r := found["queue at holding 0"]; r.Err != nil || len(r.Raw) != 0 {
			t.Errorf("%+v", r)
		}
		if r := found["queue at holding 32"]; devices.Cause(r.Err) != "illegal data value" { // too long for an answer
			t.Errorf("%+v", r)
		}
		if string(found["holding 5 bit 9"].Raw) != "\x01" || string(found["holding 5 bit 8"].Raw) != "\x00" {
			t.Error(b.Readings)
		}
		who, err := l.Identify(dev)
		if err != nil {
			t.Fatal(err)
		}
		want := maps.Clone(richIdentity)
		delete(want, 0x80)
		if err := who.Do(t.Context(), b); err != nil || !maps.Equal(who.Objects, want) {
			t.Errorf("%v, %q, want %q", err, who.Objects, want)
		}
	})
}

// TestBitOfADeviceThatSetsNone: function 22 is tried once, and what was
// learned is noted and outlasts the line.
func TestBitOfADeviceThatSetsNone(t *testing.T) {
	inEachFraming(t, func(t *testing.T, url string, answer func(Store, []byte, func(PDU) PDU) []byte) {
		store, book := &plant{}, &notes{}
		masks := 0
		device := func(frame []byte) []piece {
			before := maps.Clone(store.written)
			return atOnce(answer(store, frame, func(p PDU) PDU {
				if p.function() != fnMaskWrite {
					return p
				}
				masks++
				store.written = before // it does not carry it out
				return PDU{fnMaskWrite | exceptionBit, IllegalFunction}
			}))
		}
		reg := Register{Holding, 5, 1}
		dev := meterOf(Unit{ID: 1}, Bit{Register: reg, N: 15}, Bit{Register: reg, N: 14, Function: fnMaskWrite})
		before := store.held(reg)
		for i := range 3 {
			l := scripted(t, Config{URL: url, Notebook: book}, device)
			q, err := l.Write(dev, dev.Points[0], []byte{byte(1 - i%2)}, true)
			if err != nil {
				t.Fatal(err)
			}
			b := devices.NewBatch(dev)
			if err := q.Do(t.Context(), b); err != nil || b.Readings[0].Err != nil || b.Readings[0].Raw[0] != byte(1-i%2) {
				t.Fatal(err, b.Readings)
			}
			if got := store.held(reg); got != before&^(1<<15)|uint16(1-i%2)<<15 {
				t.Errorf("the register is %04x, it was %04x", got, before)
			}
		}
		if masks != 1 || !book.facts["meter"].NoMask || len(book.news) != 1 || !strings.Contains(book.news[0], "function = 6") {
			t.Errorf("%d masks, %+v, %q", masks, book.facts, book.news)
		}
		l := scripted(t, Config{URL: url, Notebook: book}, device)
		b, err := write(t, l, dev, 1, "\x01") // said to be the only way: no other is tried
		if err != nil || devices.Cause(b.Readings[0].Err) != "illegal function" {
			t.Error(err, b.Readings)
		}
	})
}

// write writes raw to one point and reads it back.
func write(t *testing.T, l *Line, dev *devices.Device, point int, raw string) (*devices.Batch, error) {
	t.Helper()
	q, err := l.Write(dev, dev.Points[point], []byte(raw), true)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, dev, q)
}

// TestCheckFunction: what does not fit is said, with what does.
func TestCheckFunction(t *testing.T) {
	one, two := Register{Holding, 1, 1}, Register{Holding, 1, 2}
	for _, tt := range []struct {
		source devices.Source
		fn     byte
		want   string // "" for none, else a part
	}{
		{one, 0, ""}, {one, 6, ""}, {one, 16, ""}, {one, 23, ""}, {two, 16, ""}, {two, 23, ""}, {Register{Coil, 1, 1}, 5, ""}, {Register{Coil, 1, 1}, 15, ""}, {Register{Coil, 1, 2}, 15, ""},
		{two, 6, "16 or 23"}, {one, 22, "bit = N"}, {one, 5, "6, 16 or 23"}, {one, 3, "6, 16 or 23"}, {Register{Coil, 1, 1}, 16, "5 or 15"}, {Register{Coil, 1, 2}, 5, "15 does"},
		{Register{Holding, 1, 122}, 23, "at most 121"}, {Register{Input, 1, 1}, 6, "only be read"}, {Queue{1}, 0, "only be read"},
		{Bit{Register: one}, 0, ""}, {Bit{Register: one}, 6, ""}, {Bit{Register: one}, 16, ""}, {Bit{Register: one}, 22, ""}, {Bit{Register: one}, 23, "22 does"}, {Bit{Register: Register{Input, 1, 1}}, 22, "only be read"},
	} {
		err := CheckFunction(tt.source, tt.fn)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("function %d for %v: %v, want %q", tt.fn, tt.source, err, tt.want)
		}
	}
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
				dev := meterOf(Unit{ID: 1}, Bit{Register: Register{Holding, 5, 1}, N: 2}, Written{Register{Holding, 6, 2}, fnReadWrite}, Queue{3})
				var q devices.Query
				var err error
				switch tt.ask {
				case fnReadFIFO:
					qs, err2 := l.Plan(dev, dev.Points[2:])
					q, err = qs[0], err2
				case fnMaskWrite:
					q, err = l.Write(dev, dev.Points[0], []byte{1}, false)
				case fnReadWrite:
					q, err = l.Write(dev, dev.Points[1], []byte{1, 2, 3, 4}, false)
				default:
					q, err = l.Identify(dev)
				}
				if err != nil {
					t.Fatal(err)
				}
				b := devices.NewBatch(dev)
				err = q.Do(t.Context(), b)
				good := slices.ContainsFunc(b.Readings, func(r devices.Reading) bool { return r.Err == nil })
				if err == nil || good {
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
