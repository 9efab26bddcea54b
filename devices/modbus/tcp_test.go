package modbus

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

// tcpReply is what s answers to a TCP frame.
func tcpReply(s Store, frame []byte) []byte { return tcpAnswer(frame, s) }

// patched returns b with some bytes replaced from offset on.
func patched(b []byte, offset int, with ...byte) []byte {
	b = slices.Clone(b)
	copy(b[offset:], with)
	return b
}

// TestTCPAnswers runs one read of four registers against each way in which a
// connection can be wrong, and then a good one.
func TestTCPAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		say    func(good []byte) []piece
		want   string // the cause; "" for right values
		opened uint64 // connections after a good read that follows
	}{
		{"whole", func(g []byte) []piece { return atOnce(g) }, "", 1},
		{"byte by byte", func(g []byte) []piece { return bytewise(g, time.Millisecond) }, "", 1},
		{"foreign transaction first", func(g []byte) []piece { return atOnce(joined(patched(g, 0, 0xEE, 0xEE), g)) }, "", 1},
		{"foreign transaction, other length", func(g []byte) []piece {
			return atOnce(joined([]byte{9, 9, 0, 0, 0, 3, 1, 0x83, 2}, g))
		}, "", 1},
		{"only a foreign transaction", func(g []byte) []piece { return atOnce(patched(g, 0, 0xEE, 0xEE)) }, "timeout", 1},
		{"silence", func([]byte) []piece { return nil }, "timeout", 1},
		{"late", func(g []byte) []piece { return []piece{{150 * time.Millisecond, g}} }, "timeout", 1},
		{"protocol 1", func(g []byte) []piece { return atOnce(patched(g, 3, 1)) }, "bad reply", 2},
		{"length 0", func(g []byte) []piece { return atOnce(patched(g, 4, 0, 0)) }, "bad reply", 2},
		{"length 1", func(g []byte) []piece { return atOnce(patched(g, 4, 0, 1)) }, "bad reply", 2},
		{"length 255", func(g []byte) []piece { return atOnce(joined(patched(g, 4, 0, 255), make([]byte, 300))) }, "bad reply", 2},
		{"length 65535", func(g []byte) []piece { return atOnce(patched(g, 4, 0xFF, 0xFF)) }, "bad reply", 2},
		{"length too long, then silence", func(g []byte) []piece { return atOnce(patched(g, 5, 40)) }, "timeout", 2},
		{"another unit", func(g []byte) []piece { return atOnce(patched(g, 6, 9)) }, "bad reply", 1},
		{"another function", func(g []byte) []piece { return atOnce(patched(g, 7, 4)) }, "bad reply", 1},
		{"another byte count", func(g []byte) []piece { return atOnce(patched(g, 8, 6)) }, "bad reply", 1},
		{"too few registers", func(g []byte) []piece { return atOnce(patched(g[:15], 4, 0, 9, 1, 3, 6)) }, "bad reply", 1},
		{"exception", func(g []byte) []piece { return atOnce(patched(g[:9], 4, 0, 3, 1, 0x83, 2)) }, "illegal data address", 1},
		{"exception of unit 255", func(g []byte) []piece { return atOnce(patched(g[:9], 4, 0, 3, 255, 0x83, 11)) }, "no answer behind the gateway", 1},
		{"exception without a code", func(g []byte) []piece { return atOnce(patched(g[:8], 4, 0, 2, 1, 0x83)) }, "bad reply", 1},
		{"vendor's exception", func(g []byte) []piece { return atOnce(patched(g[:9], 4, 0, 3, 1, 0x83, 0x80)) }, "exception 128", 1},
		{"close after accept", func([]byte) []piece { return atOnce(hangUp) }, "port unavailable", 2},
		{"close in the answer", func(g []byte) []piece { return []piece{{0, g[:9]}, {0, hangUp}} }, "port unavailable", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := true
				l := scripted(t, Config{URL: "tcp://plc"}, func(frame []byte) []piece {
					g := tcpReply(&plant{}, frame)
					if first {
						first = false
						return tt.say(g)
					}
					return atOnce(g)
				})
				dev := meter(Unit{ID: 1}, Register{Holding, 100, 4})
				b, err := read(t, l, dev)
				judge(t, b, err, tt.want)
				time.Sleep(time.Second)
				if b, err = read(t, l, dev); err != nil || verify(b) != nil {
					t.Errorf("afterwards: %v, %v", err, verify(b))
				}
				if s := l.Stats(); s.Opened != tt.opened {
					t.Errorf("%+v, want %d connections", s, tt.opened)
				}
			})
		})
	}
}

// TestTCPIdleClose: a device that closes an idle connection costs no reading,
// but a write is never sent twice.
func TestTCPIdleClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writes int
		l := scripted(t, Config{URL: "tcp://plc"}, func(frame []byte) []piece {
			if frame[7] == fnWriteRegister {
				writes++
				return atOnce(hangUp)
			}
			return append(atOnce(tcpReply(&plant{}, frame)), piece{time.Millisecond, hangUp})
		})
		dev := meter(Unit{ID: 1}, Register{Holding, 100, 1})
		for range 5 {
			if b, err := read(t, l, dev); err != nil || verify(b) != nil {
				t.Error(err, verify(b))
			}
			time.Sleep(time.Second)
		}
		l.Close()
		q, err := l.Write(dev, dev.Points[0], []byte{0, 1}, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = run(t, dev, q); !errors.Is(err, ErrUnanswered) || writes != 1 {
			t.Errorf("%v after %d writes", err, writes)
		}
	})
}

func TestTCPPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scripted(t, Config{URL: "tcp://plc"}, func(frame []byte) []piece { return atOnce(tcpReply(&plant{}, frame)) })
		start := time.Now()
		for range 3 {
			if _, err := read(t, l, meter(Unit{ID: 1, Pause: 50 * time.Millisecond}, Register{Holding, 1, 1})); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d != 100*time.Millisecond { // virtual time
			t.Errorf("three reads took %v", d)
		}
	})
}

// TestConnectDelay: a device that must not be asked at once is left alone for a
// while after each connect.
func TestConnectDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := scripted(t, Config{URL: "tcp://plc", ConnectDelay: time.Second}, func(frame []byte) []piece {
			return append(atOnce(tcpReply(&plant{}, frame)), piece{time.Millisecond, hangUp})
		})
		start := time.Now()
		for i := range 3 {
			if _, err := read(t, l, meter(Unit{ID: 1}, Register{Holding, 1, 1})); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if d := time.Since(start); d.Truncate(time.Second) != time.Duration(i+1)*(time.Minute+time.Second) { // virtual time
				t.Errorf("%d reads took %v", i+1, d)
			}
		}
		l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		dev := meter(Unit{ID: 1}, Register{Holding, 1, 1})
		qs, err := l.Plan(dev, dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		if err := qs[0].Do(ctx, devices.NewBatch(dev)); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestTCPGivesUpSilentConnection: after three exchanges without a byte the
// next one gets a new connection.
func TestTCPGivesUpSilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		l := scripted(t, Config{URL: "tcp://plc"}, func(frame []byte) []piece {
			if n++; n <= maxMissed {
				return nil
			}
			return atOnce(tcpReply(&plant{}, frame))
		})
		dev := meter(Unit{ID: 1}, Register{Holding, 100, 1})
		for range maxMissed {
			if _, err := read(t, l, dev); !errors.Is(err, devices.ErrTimeout) {
				t.Error(err)
			}
		}
		if _, err := read(t, l, dev); err != nil || l.Stats().Opened != 2 {
			t.Error(err, l.Stats())
		}
	})
}

// TestTCPLoopback runs against real sockets: a refused connection, a reset,
// and registers at the end of the address space.
func TestTCPLoopback(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	l, err := NewLine(Config{URL: "tcp://" + addr})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dev := meter(Unit{ID: 7}, Register{Holding, 65534, 2}, Register{Coil, 0, 2000}, Register{Input, 0, 125})

	go func() { // resets the first connection in the middle of the answer
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		conn.Read(make([]byte, 12))
		conn.Write([]byte{0, 1, 0})
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
		ServeTCP(t.Context(), ln, &plant{})
	}()
	if _, err := read(t, l, dev); !errors.Is(err, devices.ErrPort) {
		t.Errorf("after a reset: %v", err)
	}
	if b, err := read(t, l, dev); err != nil || verify(b) != nil {
		t.Error(err, verify(b))
	}
	ln.Close()
	l.Close()
	_, err = read(t, l, dev)
	if !errors.Is(err, devices.ErrPort) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "nothing listens") {
		t.Errorf("refused: %v", err)
	}
}

func TestNewLineSaysWhatIsWrong(t *testing.T) {
	for url, want := range map[string]string{
		"":                  "needs an address",
		"http://plc:502":    "rtu+tcp, ascii+tcp",
		"tls://":            ":802",
		"udp://plc":         "",
		"tls://plc":         "",
		"ascii+tcp://plc:7": "",
		"tcp://":            "a host and a port",
		"tcp://a:b":         "a host and a port",
		"tcp://plc:502/a":   "a host and a port",
		"/dev/ttyUSB0":      "baud rate",
		"tcp://plc":         "",
		"rtu+tcp://[::1]:7": "",
	} {
		_, err := NewLine(Config{URL: url})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", url, err, want)
		}
	}
}
