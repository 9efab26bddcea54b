package modbus

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"edgegateway/devices/capture"
)

// dissected is what a dissector makes of events, a line each.
func dissected(t *testing.T, framing string, events []capture.Event) (lines []string) {
	t.Helper()
	kinds := map[FrameKind]string{FrameRequest: "request", FrameAnswer: "answer", FrameException: "exception", FrameEcho: "echo", FrameSpoiled: "spoiled", FrameStray: "stray", FrameNoise: "noise", FrameUnanswered: "unanswered"}
	var last time.Duration
	d, err := NewDissector(framing, func(f Frame) {
		text, _, _ := strings.Cut(f.Text, ":")
		lines = append(lines, fmt.Sprintf("%s %d %d %s", kinds[f.Kind], f.Unit, len(f.Data), text))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		d.Add(e)
		last = e.At
	}
	d.End(last + 2*time.Second)
	return lines
}

func sent(at time.Duration, b []byte) capture.Event {
	return capture.Event{At: at, Kind: capture.Sent, Data: b}
}

func came(at time.Duration, b []byte) capture.Event {
	return capture.Event{At: at, Kind: capture.Received, Data: b}
}

// Each way in which an answer can be there, be wrong or be missing is told, and
// every byte is told of once.
func TestDissectorTellsWhatIsOnTheLine(t *testing.T) {
	rtu := func(unit byte, pdu ...byte) []byte {
		b, err := encodeRTU(unit, pdu)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ascii := func(unit byte, pdu ...byte) []byte {
		b, err := asciiFraming{}.encode(unit, pdu)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tcp := func(id byte, unit byte, pdu ...byte) []byte {
		return append([]byte{0, id, 0, 0, 0, byte(1 + len(pdu)), unit}, pdu...)
	}
	const ms = time.Millisecond
	ask, good := rtu(1, 3, 0, 0, 0, 2), rtu(1, 3, 4, 0, 0xE6, 0, 1)
	bad := slices.Clone(good)
	bad[4] ^= 1
	for _, tt := range []struct {
		name, framing string
		events        []capture.Event
		want          string
	}{
		{"an answer in pieces", "rtu", []capture.Event{sent(0, ask), came(10*ms, good[:4]), came(12*ms, good[4:])},
			"request 1 8 read holding 0-1|answer 1 9 00E6 0001"},
		{"an exception", "rtu", []capture.Event{sent(0, ask), came(10*ms, rtu(1, 0x83, 2))},
			"request 1 8 read holding 0-1|exception 1 5 exception 2 to function 3"},
		{"noise around", "rtu", []capture.Event{sent(0, ask), came(10*ms, joined([]byte{0, 0xFF}, good, []byte{0}))},
			"request 1 8 read holding 0-1|noise 0 2 no frame|answer 1 9 00E6 0001|noise 0 1 no frame"},
		{"an echo", "rtu", []capture.Event{sent(0, ask), came(8*ms, joined(ask, good))},
			"request 1 8 read holding 0-1|echo 1 8 echo of the adapter|answer 1 9 00E6 0001"},
		{"a wrong checksum", "rtu", []capture.Event{sent(0, ask), came(10*ms, bad), sent(900*ms, ask)},
			"request 1 8 read holding 0-1|spoiled 1 9 the checksum is wrong|request 1 8 read holding 0-1|unanswered 1 0 no answer to read holding 0-1"},
		{"cut short", "rtu", []capture.Event{sent(0, ask), came(10*ms, good[:7]), sent(900*ms, ask), came(910*ms, good)},
			"request 1 8 read holding 0-1|noise 0 7 no frame|unanswered 1 0 no answer to read holding 0-1|request 1 8 read holding 0-1|answer 1 9 00E6 0001"},
		{"silence", "rtu", []capture.Event{sent(0, ask)},
			"request 1 8 read holding 0-1|unanswered 1 0 no answer to read holding 0-1"},
		{"late", "rtu", []capture.Event{sent(0, rtu(2, 4, 0, 7, 0, 1)), sent(900*ms, ask), came(901*ms, rtu(2, 4, 2, 1, 2)), came(920*ms, good)},
			"request 2 8 read input 7|unanswered 2 0 no answer to read input 7|request 1 8 read holding 0-1|stray 2 7 a good frame with function 4 that nobody here waits for|answer 1 9 00E6 0001"},
		{"another master", "rtu", []capture.Event{came(0, rtu(9, 3, 0, 1, 0, 1)), came(20*ms, rtu(9, 3, 2, 0, 5))},
			"stray 9 8 a good frame with function 3 that nobody here waits for|stray 9 7 a good frame with function 3 that nobody here waits for"},
		{"writes", "rtu", []capture.Event{sent(0, rtu(1, 6, 0, 5, 0, 9)), came(9*ms, rtu(1, 6, 0, 5, 0, 9)), sent(20*ms, rtu(0, 16, 0, 1, 0, 1, 2, 0xAB, 0xCD)), sent(300*ms, rtu(1, 5, 0, 3, 0xFF, 0)), came(310*ms, rtu(1, 5, 0, 3, 0xFF, 0))},
			"request 1 8 write holding 5|answer 1 8 done|request 0 11 write holding 1|request 1 8 write coil 3|answer 1 8 done"},
		{"a function of a vendor", "rtu", []capture.Event{sent(0, rtu(1, 0x41, 1)), came(9*ms, rtu(1, 0x41, 7, 7)), sent(50*ms, ask)},
			"request 1 5 function 65|answer 1 6 answered|request 1 8 read holding 0-1|unanswered 1 0 no answer to read holding 0-1"},
		{"unplugged", "rtu", []capture.Event{sent(0, ask), {At: 3 * time.Second, Kind: capture.Failed}, sent(4*time.Second, ask), came(4010*ms, good)},
			"request 1 8 read holding 0-1|unanswered 1 0 no answer to read holding 0-1|request 1 8 read holding 0-1|answer 1 9 00E6 0001"},
		{"bits in ASCII", "ascii", []capture.Event{sent(0, ascii(1, 1, 0, 0, 0, 3)), came(30*ms, joined([]byte{'x'}, ascii(1, 1, 1, 5)))},
			"request 1 17 read coil 0-2|noise 0 1 no frame|answer 1 13 1 0 1"},
		{"two on TCP, in another order", "tcp", []capture.Event{sent(0, tcp(1, 7, 3, 0, 0, 0, 1)), sent(1, tcp(2, 7, 4, 0, 0, 0, 1)), came(5*ms, joined(tcp(2, 7, 4, 2, 0, 8), tcp(1, 7, 3, 2, 0, 9)[:5])), came(6*ms, tcp(1, 7, 3, 2, 0, 9)[5:]), came(7*ms, tcp(1, 7, 3, 2, 0, 9))},
			"request 7 12 read holding 0|request 7 12 read input 0|answer 7 11 0008|answer 7 11 0009|stray 7 11 an answer with a transaction id that nobody waits for"},
		{"a wrong answer on TCP", "tcp", []capture.Event{sent(0, tcp(1, 7, 3, 0, 0, 0, 2)), came(5*ms, tcp(1, 7, 3, 2, 0, 8))},
			"request 7 12 read holding 0-1|spoiled 7 11 the answer is wrong (another length than asked for)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(dissected(t, tt.framing, tt.events), "|"); got != tt.want {
				t.Errorf("got  %s\nwant %s", strings.ReplaceAll(got, "|", "\n     "), strings.ReplaceAll(tt.want, "|", "\n     "))
			}
		})
	}
}

// FuzzDissector: whatever is recorded, every byte is told of once, in order.
func FuzzDissector(f *testing.F) {
	ask, _ := encodeRTU(1, PDU{3, 0, 0, 0, 2})
	f.Add(ask, []byte{1, 3, 4, 0, 1, 0, 2, 0x2A, 0x32}, uint8(3), uint8(0))
	f.Add([]byte(":010300000001FB\r\n"), []byte(":0103020005F5\r\n"), uint8(5), uint8(1))
	f.Add([]byte{0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, 1}, []byte{0, 1, 0, 0, 0, 5, 1, 3, 2, 0, 7}, uint8(2), uint8(2))
	f.Add([]byte{1, 43, 14, 1, 0}, []byte{1, 24, 0, 4, 0, 1, 0, 1}, uint8(1), uint8(0))
	f.Fuzz(func(t *testing.T, out, in []byte, n, which uint8) {
		framing := []string{capture.RTU, capture.ASCII, capture.TCP}[which%3]
		var all [2][]byte
		d, err := NewDissector(framing, func(f Frame) {
			at := 0
			if f.Sent {
				at = 1
			}
			all[at] = append(all[at], f.Data...)
			if f.Text == "" || f.Last < f.First {
				t.Errorf("%+v", f)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if fixed, err := encodeRTU(1, append(PDU{3}, out...)); err == nil && framing == capture.RTU && len(out) > 0 && len(out) < 200 {
			d.Add(sent(0, fixed))
			all[1] = nil
		}
		if len(out) > 0 {
			d.Add(sent(time.Second, out))
			if !slices.Equal(all[1], out) {
				t.Errorf("sent % x, told % x", out, all[1])
			}
		}
		at := time.Second
		for c := range slices.Chunk(in, 1+int(n)) {
			at += 30 * time.Millisecond
			d.Add(came(at, c))
		}
		d.End(at + time.Second)
		if !slices.Equal(all[0], in) {
			t.Errorf("came % x, told % x", in, all[0])
		}
	})
}
