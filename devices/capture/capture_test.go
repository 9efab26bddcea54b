package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

var start = time.Date(2026, 11, 20, 23, 6, 0, 123456000, time.UTC)

func header(framing string) Header {
	return Header{Bus: "rs485", Address: "/dev/ttyUSB0", Protocol: "modbus", Framing: framing, Baud: 9600, Format: "8N1",
		Start: start, Clock: "exact", Boot: devices.Stamp(12345678901 * time.Microsecond), Gateway: "1.2.3", Open: true}
}

const example = `gateway-capture 1
bus      rs485
address  /dev/ttyUSB0
protocol modbus
framing  rtu
line     9600 8N1
start    2026-11-20T23:06:00.123456Z
clock    exact
boot     12345.678901
gateway  1.2.3
port     open

0.001234 > 01 03 00 00 00 02 C4 0B
0.025678 < 01 03 04 00 E6 00 01 DA 04
9.300000 error "read serial port /dev/ttyUSB0: \"gone\"\n"
9.300100 close
10.000000 open
10.500000 speed 300
11.000000 missed 3 27
60.000000 end "its time of 1m is over"
`

// What is written is as the documentation of the package shows it, and what is
// read is what was written.
func TestFileIsReadAsItWasWritten(t *testing.T) {
	ms := func(n float64) time.Duration { return time.Duration(n*1000).Truncate(1) * time.Microsecond }
	c := &Capture{Header: header(RTU), Events: []Event{
		{At: ms(1.234), Kind: Sent, Data: []byte{1, 3, 0, 0, 0, 2, 0xC4, 0x0B}},
		{At: ms(25.678), Kind: Received, Data: []byte{1, 3, 4, 0, 0xE6, 0, 1, 0xDA, 4}},
		{At: ms(9300), Kind: Failed, Text: "read serial port /dev/ttyUSB0: \"gone\"\n"},
		{At: ms(9300.1), Kind: Closed}, {At: ms(10000), Kind: Opened}, {At: ms(10500), Kind: Speed, Baud: 300},
		{At: ms(11000), Kind: Missed, Count: 3, Bytes: 27}, {At: ms(60000), Kind: Ended, Text: "its time of 1m is over"},
	}}
	if got := written(t, c); got != example {
		t.Errorf("written:\n%s", got)
	}
	got, err := Read(strings.NewReader("" + strings.ReplaceAll(example, "9.300100", "# a remark\n\n9.300100")))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, c) {
		t.Errorf("read %+v", got)
	}
}

func written(t *testing.T, c *Capture) string {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, c.Header)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.Events {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// Characters are written as such where a line carries them, and come back as
// the same bytes whatever they are.
func TestTextIsLegible(t *testing.T) {
	c := &Capture{Header: header(Text), Events: []Event{
		{Kind: Received, Data: []byte("$WIMWV,214.8,R,0.1,K,A*28\r\n")}, {Kind: Received, Data: []byte{'$', 0xFF, 0}}, {Kind: Received, Data: []byte("say \"é\"\\")},
	}}
	text := written(t, c)
	if !strings.Contains(text, `0.000000 < "$WIMWV,214.8,R,0.1,K,A*28\r\n"`+"\n0.000000 < 24 FF 00\n") {
		t.Errorf("written:\n%s", text)
	}
	if got, err := Read(strings.NewReader(text)); err != nil || !reflect.DeepEqual(got.Events, c.Events) {
		t.Errorf("read %v, %v", got, err)
	}
}

// What is wrong with a file is said with its line and what to do.
func TestMalformedFilesAreExplained(t *testing.T) {
	head, _, _ := strings.Cut(example, "0.001234")
	for _, tt := range []struct{ text, want string }{
		{"", "line 1: it is no capture"},
		{"\x7fELF\x02", "line 1: it is no capture"},
		{"gateway-capture 2\n", "line 1: it is of version 2, and this gateway reads 1 at most: use the gateway that wrote it"},
		{"gateway-capture 1\nbus a\n", "line 3: the file ends within its header"},
		{strings.Replace(head, "rtu", "morse", 1), `line 12: the header says framing "morse"; it is one of rtu, ascii`},
		{strings.Replace(head, "start ", "began ", 1), "line 12: the header does not say when"},
		{strings.Replace(head, "9600", "fast", 1), `line 6: line "fast 8N1": it is the speed`},
		{strings.Replace(head, "2026-11-20", "yesterday", 1), "line 7: start"},
		{head + "soon > 01\n", `line 13: "soon" is no time`},
		{head + "-1 > 01\n", `line 13: "-1" is no time`},
		{head + "2 > 01\n1 > 01\n", "line 14: the time 1.000000 is before that of the event above, 2.000000"},
		{head + "1 ~ 01\n", `line 13: there is no event "~"`},
		{head + "1\n", `line 13: there is no event ""`},
		{head + "1 > 0\n", `line 13: "0" is neither bytes`},
		{head + "1 >\n", `line 13: "" is neither bytes`},
		{head + "1 < \"abc\n", `line 13: "\"abc" is neither bytes`},
		{head + "1 end of it\n", "line 13: after end stands a text in quotes"},
		{head + "1 open now\n", `line 13: after open stands nothing, not "now"`},
		{head + "1 speed x\n", "line 13: after speed"},
		{head + "1 missed 3\n", "line 13: after missed"},
		{head + "1 > " + strings.Repeat("00", maxLine) + "\n", "line 13: it is longer than"},
	} {
		_, err := Read(strings.NewReader(tt.text))
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%.60q: %v, want %s …", tt.text, err, tt.want)
		}
		if strings.Contains(tt.text, head) && err != nil && !strings.Contains(err.Error(), "put # before it") && !strings.Contains(err.Error(), "another file?") {
			t.Errorf("%v does not say what to do", err)
		}
	}
	c, err := Read(strings.NewReader(head + "1 > 01 02\n2 < 01"))
	if err != nil || len(c.Events) != 1 || !c.Cut {
		t.Errorf("a last line that was cut off: %+v, %v", c, err)
	}
}

// FuzzRead: any file is read or refused with a line, and what was read is the
// same when it is written and read again.
func FuzzRead(f *testing.F) {
	f.Add(example)
	f.Add(strings.Replace(example, "rtu", "text", 1))
	f.Add("gateway-capture 1\nframing text\nstart 2026-01-01T00:00:00Z\n\n0 < \"\\xff$A\\r\\n\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Read(strings.NewReader(text))
		if err != nil {
			if _, ok := errors.AsType[*FormatError](err); !ok {
				t.Fatalf("%v says no line", err)
			}
			return
		}
		c.Cut = false
		again, err := Read(strings.NewReader(written(t, c)))
		if err != nil || !reflect.DeepEqual(again.Events, c.Events) {
			t.Fatalf("read again: %v\n%+v\n%+v", err, again, c)
		}
	})
}

// A wire is a stream whose reads and writes are counted.
type wire struct {
	reads, writes int
	fail          error
}

func (w *wire) Read(b []byte) (int, error)      { w.reads++; return copy(b, "reply"), w.fail }
func (w *wire) Write(b []byte) (int, error)     { w.writes++; return len(b), w.fail }
func (w *wire) Close() error                    { return nil }
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// A tap tells of all that passes, and of what happens to the port.
func TestTapTellsAll(t *testing.T) {
	var tap Tap
	rec, err := tap.Record()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tap.Wrap(nil, errors.New("no such port")); err == nil {
		t.Error("the error of opening is gone")
	}
	w := new(wire)
	s, _ := tap.Wrap(w, nil)
	buf := make([]byte, 10)
	s.Write([]byte("ask"))
	s.Read(buf)
	w.fail = os.ErrDeadlineExceeded // no event
	s.Write(nil)
	w.fail = errors.New("unplugged")
	s.Read(buf)
	s.Close()
	s.Close()
	if second, err := tap.Record(); err != nil || second.Open {
		t.Errorf("a second recording: %+v, %v", second, err)
	}
	rec.Close()
	var got []string
	for e := range rec.Events() {
		got = append(got, strings.TrimSpace(words[e.Kind]+" "+string(e.Data)+e.Text))
	}
	if want := "error no such port|open|> ask|< reply|>|< reply|error unplugged|close"; strings.Join(got, "|") != want {
		t.Errorf("got %s\nwant %s", strings.Join(got, "|"), want)
	}
}

// A bus never waits for who records: without a reader each exchange is done, and
// what was left out is counted and told in its place.
func TestBusDoesNotWaitForWhoRecords(t *testing.T) {
	var tap Tap
	rec, err := tap.Record()
	if err != nil {
		t.Fatal(err)
	}
	w := new(wire)
	s, _ := tap.Wrap(w, nil)
	const exchanges = 10 * maxQueue
	buf := make([]byte, 10)
	for range exchanges {
		s.Write([]byte("ask"))
		s.Read(buf)
	}
	if w.reads != exchanges || w.writes != exchanges {
		t.Errorf("%d reads, %d writes", w.reads, w.writes)
	}
	rec.Close()
	var events, missed, bytes uint64
	for e := range rec.Events() {
		if e.Kind == Missed {
			missed, bytes = missed+e.Count, bytes+e.Bytes
		} else {
			events++
		}
	}
	if events+missed != 2*exchanges+1 || events > maxQueue || bytes < missed*3 {
		t.Errorf("%d events and %d missed with %d bytes, of %d", events, missed, bytes, 2*exchanges+1)
	}
}

// While nobody records a tap allocates nothing, and it can be recorded only so
// often at once.
func TestTapCostsNothingUnused(t *testing.T) {
	var tap Tap
	s, _ := tap.Wrap(new(wire), nil)
	buf := make([]byte, 10)
	if n := testing.AllocsPerRun(100, func() { s.Write(buf); s.Read(buf) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var all []*Recording
	for range maxRecordings {
		r, err := tap.Record()
		if err != nil || !r.Open {
			t.Fatalf("%+v, %v", r, err)
		}
		all = append(all, r)
	}
	if _, err := tap.Record(); err == nil {
		t.Error("one more is recorded")
	}
	for _, r := range all {
		r.Close()
		r.Close()
	}
	if tap.recordings.Load() != nil {
		t.Error("something is still recorded")
	}
	if plain, _ := (*Tap)(nil).Wrap(new(wire), nil); reflect.TypeOf(plain) != reflect.TypeFor[*wire]() {
		t.Errorf("a nil tap wraps: %T", plain)
	}
}

// client plays c to a client at the other end of a pipe.
func client(t *testing.T, c *Capture, speed float64) (net.Conn, *Player) {
	t.Helper()
	p, err := NewPlayer(c, speed)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	done := make(chan error)
	go func() { done <- p.Serve(t.Context(), far) }()
	t.Cleanup(func() {
		near.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return near, p
}

func exchange(t *testing.T, c net.Conn, ask string) string {
	t.Helper()
	if _, err := io.WriteString(c, ask); err != nil {
		t.Fatal(err)
	}
	var all []byte
	buf := make([]byte, 100)
	for {
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := c.Read(buf)
		if all = append(all, buf[:n]...); err != nil {
			return string(all)
		}
	}
}

// A player answers as it was answered, in turn, and with the same delays.
func TestPlayerAnswersAsRecorded(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	c := &Capture{Header: header(RTU), Events: []Event{
		{At: 0, Kind: Received, Data: []byte("noise")},
		{At: ms(10), Kind: Sent, Data: []byte("one")}, {At: ms(30), Kind: Received, Data: []byte("a")}, {At: ms(300), Kind: Received, Data: []byte("b")},
		{At: ms(1000), Kind: Sent, Data: []byte("two")},
		{At: ms(2000), Kind: Sent, Data: []byte("one")}, {At: ms(2050), Kind: Received, Data: []byte("c")},
	}}
	for _, speed := range []float64{1, 10, AtOnce} {
		synctest.Test(t, func(t *testing.T) {
			conn, p := client(t, c, speed)
			for _, x := range []struct{ ask, want string }{
				{"one", "ab"}, {"two", ""}, {"xxone", "c"}, {"on", ""}, {"oneone", "abc"}, {"three", ""},
			} {
				if got := exchange(t, conn, x.ask); got != x.want {
					t.Errorf("speed %v: %q is answered with %q, want %q", speed, x.ask, got, x.want)
				}
			}
			got := p.Strange()
			slices.Sort(got)
			if want := "[6F 6E 74 68 72 65 65 78 78]"; fmt.Sprint(got) != want {
				t.Errorf("strange is %v, want %s", got, want)
			}
			if p.Unplayed() != 0 {
				t.Errorf("%d not played", p.Unplayed())
			}
			if speed == AtOnce {
				return
			}
			began := time.Now()
			io.WriteString(conn, "one")
			buf := make([]byte, 1)
			for range 2 {
				conn.SetReadDeadline(time.Time{})
				conn.Read(buf)
			}
			if took, want := time.Since(began), time.Duration(float64(ms(290))/speed); took != want {
				t.Errorf("speed %v: the second piece after %v, want %v", speed, took, want)
			}
		})
	}
}

// Answers on Modbus TCP belong to their transaction, in any order.
func TestPlayerKeepsTransactions(t *testing.T) {
	frame := func(id byte, pdu ...byte) string {
		return string(append([]byte{9, id, 0, 0, 0, byte(1 + len(pdu)), 1}, pdu...))
	}
	c := &Capture{Header: header(TCP), Events: []Event{
		{At: 1, Kind: Sent, Data: []byte(frame(1, 3, 0, 0, 0, 1))}, {At: 2, Kind: Sent, Data: []byte(frame(2, 3, 0, 8, 0, 1))},
		{At: 5, Kind: Received, Data: []byte(frame(2, 3, 2, 0, 8) + frame(1, 3, 2, 0, 1)[:4])}, {At: 6, Kind: Received, Data: []byte(frame(1, 3, 2, 0, 1)[4:])},
	}}
	synctest.Test(t, func(t *testing.T) {
		conn, p := client(t, c, AtOnce)
		if got := exchange(t, conn, frame(77, 3, 0, 0, 0, 1)+frame(78, 3, 0, 9, 0, 1)+frame(79, 3, 0, 8, 0, 1)); got != frame(77, 3, 2, 0, 1)+frame(79, 3, 2, 0, 8) {
			t.Errorf("answered % x", got)
		}
		if got := p.Strange(); len(got) != 1 || got[0] != "00 00 00 06 01 03 00 09 00 01" {
			t.Errorf("strange is %q", got)
		}
	})
}

// What speaks by itself is heard again and again, at its speed.
func TestPlayerSpeaks(t *testing.T) {
	c := &Capture{Header: header(Text), Events: []Event{{At: time.Second, Kind: Received, Data: []byte("a")}, {At: 3 * time.Second, Kind: Received, Data: []byte("b")}}}
	synctest.Test(t, func(t *testing.T) {
		conn, _ := client(t, c, 2)
		began := time.Now()
		buf, got := make([]byte, 10), ""
		for range 4 {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprintf("%s %v,", buf[:n], time.Since(began))
		}
		if got != "a 500ms,b 1.5s,a 2.5s,b 3.5s," {
			t.Errorf("heard %s", got)
		}
	})
	if _, err := NewPlayer(&Capture{Header: header(Text)}, 1); err == nil {
		t.Error("there is nothing to play, and no error")
	}
}

// What Wireshark is given is to the byte what its format wants.
func TestPcapBytes(t *testing.T) {
	for framing, want := range map[string]string{
		RTU: "d4c3b2a1 0200 0400 00000000 00000000 00000100 fc000000" +
			" 58d2006b ecef0100 23000000 23000000" + // 23:06:00.126956
			" 000c0008 6d62727475000000 00140004 c0000201 00150004 c0000202 00000000 010203",
		TCP: "d4c3b2a1 0200 0400 00000000 00000000 00000100 01000000" +
			" 58d2006b ecef0100 39000000 39000000" +
			" 020000000002 020000000001 0800" +
			" 4500 002b 0001 4000 40 06 b6c8 c0000201 c0000202" +
			" c350 01f6 00000001 00000001 5018 ffff 627b 0000 010203",
	} {
		var out bytes.Buffer
		p, err := NewPcap(&out, header(framing))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Frame(3500*time.Microsecond, true, []byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		first := out.Len()
		if err := p.Frame(4*time.Millisecond, false, []byte{4}); err != nil {
			t.Fatal(err)
		}
		if second := out.Bytes()[first:]; framing == TCP && !bytes.Contains(second, []byte{0, 0, 0, 1, 0, 0, 0, 4, 0x50, 0x18}) {
			t.Errorf("the answer does not acknowledge the three bytes: % x", second) // sequence 1, next expected 4
		}
		out.Truncate(first)
		if got := fmt.Sprintf("%x", out.Bytes()); got != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%s: %s", framing, got)
		}
	}
}
