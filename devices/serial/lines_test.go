package serial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

func lineDevice(id string, points ...*devices.Point) *devices.Device {
	return &devices.Device{ID: id, Name: id, Bus: "mast", Points: points}
}

func linePoint(name string, f Field, every time.Duration) *devices.Point {
	return &devices.Point{Name: name, Source: f, Every: every}
}

// A talker plays the port of a Lines in a synctest bubble and notes what it
// makes of what is sent: "speed=12.6", "angle!no value".
type talker struct {
	t     *testing.T
	lines *Reader
	far   net.Conn // our end while it is open

	mu    sync.Mutex
	fail  func(opens int) error // what the n-th Open says; nil: it works
	opens int
	heard []string
}

func startTalker(t *testing.T, cfg ReaderConfig) *talker {
	return startFailingTalker(t, cfg, nil)
}

func startFailingTalker(t *testing.T, cfg ReaderConfig, fail func(opens int) error) *talker {
	k := &talker{t: t, fail: fail}
	cfg.Bus = "mast"
	if cfg.Open == nil {
		cfg.Open = k.open
	}
	cfg.Now = func() devices.Stamp { return devices.Stamp(time.Now().UnixNano()) }
	l, err := NewReader(cfg)
	if err != nil {
		t.Fatal(err)
	}
	k.lines = l
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Listen(ctx, k.emit); err != nil {
			t.Errorf("Listen = %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	synctest.Wait()
	return k
}

func (k *talker) open() (Stream, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opens++
	if k.fail != nil {
		if err := k.fail(k.opens); err != nil {
			return nil, err
		}
	}
	near, far := net.Pipe()
	k.far = far
	return near, nil
}

func (k *talker) emit(b *devices.Batch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(b.Readings) == 0 {
		k.heard = append(k.heard, "open")
	}
	for _, r := range b.Readings {
		if r.Err != nil {
			k.heard = append(k.heard, r.Point.Name+"!"+devices.Cause(r.Err))
		} else {
			k.heard = append(k.heard, r.Point.Name+"="+string(r.Raw))
		}
	}
	b.Release()
}

func (k *talker) say(parts ...string) {
	k.t.Helper()
	for _, s := range parts {
		if _, err := io.WriteString(k.far, s); err != nil {
			k.t.Fatal(err)
		}
	}
	synctest.Wait()
}

func (k *talker) want(words string) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if got := strings.Join(k.heard, " "); got != words {
		k.t.Errorf("heard %q, want %q", got, words)
	}
	k.heard = nil
}

func wind() ReaderConfig {
	return ReaderConfig{Framing: Lines{Checksum: "nmea"}, Devices: []*devices.Device{lineDevice("mast",
		linePoint("angle", Field{Sentence: "MWV", Index: 1}, 0),
		linePoint("speed", Field{Sentence: "MWV", Index: 3}, 0),
		linePoint("gust", Field{Sentence: "WIXDR", Index: 2}, 0),
	)}}
}

func TestLinesReadSentences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := startTalker(t, wind())
		mwv := nmea("WIMWV,214.8,R,12.6,N,A")
		k.say(mwv + "\r\n")
		k.want("angle=214.8 speed=12.6")
		k.say(mwv[:9], mwv[9:], "\n") // in pieces, LF alone
		k.want("angle=214.8 speed=12.6")
		k.say(mwv+"\r\n"+nmea("WIXDR,A,20.1")+"\r\n", nmea("GPGLL,,")+"\r\n")
		k.want("angle=214.8 speed=12.6 gust=20.1")
		k.say(nmea("IIMWV,,R,1.0,N,A")+"\r\n", nmea("WIMWV,7")+"\r\n")
		k.want("angle!no value speed=1.0 angle=7 speed!no value")
		k.say(nmea("WIMWV,214.8,R,12.6,N,V") + "\r\n")
		k.want("angle!marked invalid speed!marked invalid")
		if s := k.lines.LineStats(); s.Good != 8 || s.Bad != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestLinesDropWhatIsNotProven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := startTalker(t, wind())
		good := nmea("WIMWV,214.8,R,12.6,N,A") + "\r\n"
		k.say("$WIMWV,999.9,R,99.9,N,A*25\r\n", "garbage\r\n")
		k.want("")
		k.say(strings.Repeat("$WIMWV,", 1000))
		k.say("\r\n", good)
		k.want("angle=214.8 speed=12.6")
		k.say("$WIMWV,99") // falls silent in the middle
		time.Sleep(2 * time.Second)
		k.say(good)
		k.want("angle=214.8 speed=12.6")
		if s := k.lines.LineStats(); s.Good != 2 || s.Bad != 4 || s.LastBad == "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestLinesWithoutChecksumTrustWholeLinesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := startTalker(t, ReaderConfig{Framing: Lines{MaxLine: 20}, Devices: []*devices.Device{
			lineDevice("tank", linePoint("level", Field{Index: 1}, 0), linePoint("temp", Field{Index: 2}, 0)),
			lineDevice("pump", linePoint("flow", Field{Sentence: "P1", Index: 1}, 0), linePoint("rpm", Field{Key: "rpm"}, 0)),
		}})
		k.say("4,20.5\n") // the end of a line that began before we listened
		k.want("")
		k.say("123.4, 20.5 \r\n\r\n")
		k.want("level=123.4 temp=20.5 rpm!no value")
		k.say("P1,7.5,rpm=1450\n")
		k.want("level=P1 temp=7.5 flow=7.5 rpm=1450")
		k.say("12")
		time.Sleep(5 * time.Second)
		k.say("3.4,20.5\n") // one line, but who knows
		k.want("")
		k.say("12345678901234567890,1\n", "\x00,1\n", "\xff,1\n")
		k.want("")
		k.say("1,2\n")
		k.want("level=1 temp=2 rpm!no value")
	})
}

func TestLinesLimitHowOftenAPointIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := startTalker(t, ReaderConfig{Framing: Lines{Checksum: "nmea"}, Devices: []*devices.Device{lineDevice("mast",
			linePoint("each", Field{Sentence: "MWV", Index: 3}, 0),
			linePoint("second", Field{Sentence: "MWV", Index: 3}, time.Second),
			linePoint("ten", Field{Sentence: "MWV", Index: 3}, 10*time.Second),
		)}})
		last := ""
		for i := range 600 {
			jitter := time.Duration(i%7-3) * 10 * time.Millisecond
			k.say(nmea(fmt.Sprintf("WIMWV,1,R,%d,N,A", i)) + "\r\n")
			time.Sleep(time.Second + jitter)
			last = fmt.Sprint("=", i)
		}
		n := map[string]int{}
		for _, h := range k.heard {
			name, _, _ := strings.Cut(h, "=")
			n[name]++
		}
		if n["each"] != 600 || n["second"] < 595 || n["ten"] < 59 || n["ten"] > 61 {
			t.Errorf("told %v of 600 sentences", n)
		}
		if !slices.Contains(k.heard, "each"+last) {
			t.Error("the last one is missing")
		}
	})
}

func TestLinesReopenTheirPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := startFailingTalker(t, wind(), func(opens int) error {
			if opens > 1 && opens <= 10 { // after 1, 3, 7, 15, 25 … 65 s
				return errors.New("no such file or directory")
			}
			return nil
		})
		good := nmea("WIMWV,214.8,R,12.6,N,A") + "\r\n"
		k.say(good)
		k.want("angle=214.8 speed=12.6")
		k.far.Close()
		time.Sleep(74 * time.Second)
		k.want("angle!port unavailable speed!port unavailable gust!port unavailable")
		time.Sleep(2 * time.Second)
		k.want("open")
		k.say(good)
		k.want("angle=214.8 speed=12.6")
	})
}

func TestLinesWaitForAPortMissingAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := startFailingTalker(t, wind(), func(opens int) error {
			if opens < 4 {
				return errors.New("no such file or directory")
			}
			return nil
		})
		time.Sleep(8 * time.Second)
		k.want("angle!port unavailable speed!port unavailable gust!port unavailable open")
	})
}

// A port that answers reads with nothing, as serial libraries do on hang-up,
// is given up rather than spun on.
func TestLinesGiveUpAPortThatReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens atomic.Int64
		cfg := wind()
		cfg.Open = func() (Stream, error) { opens.Add(1); return emptyStream{}, nil }
		k := startTalker(t, cfg)
		time.Sleep(16 * time.Second)
		k.want("angle!port unavailable speed!port unavailable gust!port unavailable")
		if n := opens.Load(); n != 5 { // at 0, 1, 3, 7, 15 s
			t.Errorf("opened %d times", n)
		}
	})
}

type emptyStream struct{ io.Writer }

func (emptyStream) Read([]byte) (int, error)        { return 0, nil }
func (emptyStream) Close() error                    { return nil }
func (emptyStream) SetReadDeadline(time.Time) error { return nil }

func TestLinesCheckPoints(t *testing.T) {
	dev := lineDevice("mast", linePoint("a", Field{Sentence: "MWV"}, 0), linePoint("b", Field{Index: 1, Key: "x"}, 0),
		&devices.Point{Name: "c", Source: otherSource{}})
	_, err := NewReader(ReaderConfig{Bus: "mast", Framing: Lines{}, Devices: []*devices.Device{dev}})
	for _, want := range []string{"point a: field 0", "point b: has both", "point c: holding 1 is not a field"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
	if _, err := NewReader(ReaderConfig{Framing: Lines{Checksum: "crc"}}); err == nil {
		t.Error("an unknown checksum")
	}
	if s := (Field{Sentence: "MWV", Index: 3}).String(); s != "MWV field 3" {
		t.Errorf("a field is called %q", s)
	}
}

type otherSource struct{}

func (otherSource) String() string { return "holding 1" }

// However a stream is split into reads, the same lines come out of it, none
// longer than allowed.
func FuzzCutter(f *testing.F) {
	f.Add([]byte("abc\r\ndef\n\nlonger than ten bytes\nok\n"), uint8(3))
	f.Add([]byte("\r\n\r\r\n\n"), uint8(1))
	f.Add([]byte("0123456789\r\n01234567890\n"), uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		whole, lost := cutAll(data, len(data)+1)
		split, lostToo := cutAll(data, int(size)+1)
		if !slices.Equal(whole, split) || lost != lostToo {
			t.Errorf("%q (%d lost) at once, %q (%d lost) in pieces of %d", whole, lost, split, lostToo, size+1)
		}
		for _, line := range whole {
			if len(line) > 11 || strings.Contains(line, "\n") || !bytes.Contains(data, []byte(line+"\n")) && !bytes.Contains(data, []byte(line+"\r\n")) {
				t.Errorf("%q from %q", line, data)
			}
		}
	})
}

func cutAll(data []byte, size int) (lines []string, lost uint64) {
	c := cutter{max: 10}
	for chunk := range slices.Chunk(data, size) {
		for line := range c.lines(chunk) {
			lines = append(lines, string(line))
		}
	}
	return lines, c.lost
}

// No line, however it is read, makes a panic or a reading from nothing.
func FuzzLines(f *testing.F) {
	f.Add([]byte(nmea("WIMWV,214.8,R,12.6,N,A")))
	f.Add([]byte("MWV,214.8,rpm=7,,"))
	f.Add([]byte(",:,=,rpm:"))
	f.Add([]byte(`"a;""b";2`))
	f.Add([]byte(`{"rpm":7,"a":{"b":[1,true,"x"]}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		for _, framing := range []Lines{{Checksum: "nmea"}, {}, {Parse: ParseCSV, Separator: ";"}, {Parse: ParseKeys}, {Parse: ParseJSON},
			{Parse: ParseRegexp, Pattern: regexp.MustCompile("(?P<rpm>[0-9.]*)x")}} {
			src := Field{Key: "rpm"}
			if framing.Parse == ParseCSV {
				src = Field{Index: 2}
			}
			d := framing.decoder(&outlet{
				good: func(m message) {
					if !m.holds(src) {
						t.Errorf("%q does not hold %v", line, src)
					}
					if raw, err := m.value(src); (err == nil) == (len(raw) == 0) {
						t.Errorf("%q yields %q, %v", line, raw, err)
					}
				},
				bad: func(why string) {
					if why == "" {
						t.Error("no reason")
					}
				},
			})
			d.feed([]byte("\n"))
			d.feed(line)
			d.silence()
			d.feed(append(line, '\n'))
		}
	})
}

func TestLinesInManyForms(t *testing.T) {
	for _, c := range []struct {
		framing Lines
		line    string
		want    string // of these fields
		fields  []Field
	}{
		{Lines{Parse: ParseCSV}, `1, "a,""b""" ,3`, `1 | a,"b" | 3 | !`, []Field{{Index: 1}, {Index: 2}, {Index: 3}, {Index: 4}}},
		{Lines{Parse: ParseCSV, Separator: ";"}, `T1; 20,5;`, `T1 | 20,5 | !`, []Field{{Index: 1}, {Sentence: "T1", Index: 1}, {Index: 3}}},
		{Lines{Parse: ParseCSV, Separator: " "}, "  1.5\t 2.5 kg", `1.5 | kg`, []Field{{Index: 1}, {Index: 3}}},
		{Lines{Parse: ParseCSV}, `"open,1`, ``, []Field{{Index: 1}}},
		{Lines{Parse: ParseCSV}, `"a"b,1`, ``, []Field{{Index: 1}}},
		{Lines{Parse: ParseKeys}, `T=21.5;H:40 P=`, `21.5 | 40 | ! | !`, []Field{{Key: "T"}, {Key: "H"}, {Key: "P"}, {Key: "x"}}},
		{Lines{Parse: ParseKeys, Separator: "|"}, `a b = 1 2 | c=3`, `1 2 | 3`, []Field{{Key: "a b"}, {Key: "c"}}},
		{Lines{Parse: ParseJSON}, `{"t":21.50,"a":{"b":[1,{"c":"x"}]},"on":true,"n":null,"o":{}, "d.e":5}`, `21.50 | x | true | ! | ! | 5 | ! | !`,
			[]Field{{Key: "t"}, {Key: "a.b.1.c"}, {Key: "on"}, {Key: "n"}, {Key: "o"}, {Key: "d.e"}, {Key: "a.b.2"}, {Key: "t.u"}}},
		{Lines{Parse: ParseJSON}, `{"t":9007199254740993}`, `9007199254740993`, []Field{{Key: "t"}}},
		{Lines{Parse: ParseJSON}, `{"t":21.5`, ``, []Field{{Key: "t"}}},
		{Lines{Parse: ParseJSON}, `{"t":1}{"t":2}`, ``, []Field{{Key: "t"}}},
		{Lines{Parse: ParseJSON}, `[1]`, ``, []Field{{Key: "t"}}},
		{Lines{Parse: ParseJSON}, `null`, ``, []Field{{Key: "t"}}},
		{Lines{Parse: ParseRegexp, Pattern: regexp.MustCompile(`T(?P<t>[-0-9.]+)C( H(?P<h>\d+))?`)}, `T-2.5C`, `-2.5 | !`, []Field{{Key: "t"}, {Key: "h"}}},
		{Lines{Parse: ParseRegexp, Pattern: regexp.MustCompile(`T(?P<t>[-0-9.]+)C`)}, `xT-2.5C`, ``, []Field{{Key: "t"}}},
	} {
		var got []string
		d := c.framing.decoder(&outlet{bad: func(string) {}, good: func(m message) {
			for _, f := range c.fields {
				if err := c.framing.CheckSource(f); err != nil && f.Key != "h" {
					t.Errorf("%v: %v", f, err)
				}
				raw, err := m.value(f)
				if err != nil {
					raw = []byte("!")
				}
				got = append(got, string(raw))
			}
		}})
		d.feed([]byte("\r\n" + c.line + "\r\n"))
		if s := strings.Join(got, " | "); s != c.want {
			t.Errorf("%q as %q: %q, want %q", c.line, c.framing.Parse, s, c.want)
		}
	}
}

func TestLinesCheckThemselves(t *testing.T) {
	pattern := regexp.MustCompile("(?P<t>.*)")
	for _, c := range []struct {
		framing Lines
		src     devices.Source
	}{
		{Lines{Parse: "xml"}, Field{Index: 1}}, {Lines{Checksum: "nmea", Parse: ParseJSON}, Field{Key: "t"}},
		{Lines{Parse: ParseRegexp}, Field{Key: "t"}}, {Lines{Pattern: pattern}, Field{Key: "t"}},
		{Lines{Parse: ParseJSON, Separator: ";"}, Field{Key: "t"}},
		{Lines{Parse: ParseRegexp, Pattern: pattern}, Field{Key: "u"}}, {Lines{Parse: ParseCSV}, Field{Key: "t"}},
		{Lines{Parse: ParseJSON}, Field{Index: 1}}, {Lines{Parse: ParseKeys}, Field{Sentence: "A", Key: "t"}},
	} {
		if c.framing.Check() == nil && c.framing.CheckSource(c.src) == nil {
			t.Errorf("%+v with %v was taken", c.framing, c.src)
		}
	}
}

// Checksums of lines, each computed elsewhere: DCON's and the CRC of a catalogue.
func TestLineSums(t *testing.T) {
	crc := Sum{Kind: "crc16", Poly: 0x8005, Init: 0xffff, RefIn: true, RefOut: true} // CRC-16/MODBUS: 4B37 of 123456789
	for _, c := range []struct {
		sum        LineSum
		line, want string
	}{
		{LineSum{Sum: sum8}, "!01200600AA", "!01200600"},
		{LineSum{Sum: sum8}, "!01200600aa", "!01200600"},
		{LineSum{Sum: sum8}, "!01200600AB", ""},
		{LineSum{Sum: sum8}, "AA", ""},
		{LineSum{Sum: sum8}, "6", ""},
		{LineSum{Sum: sum8}, "!01200600XX", ""},
		{LineSum{Sum: crc, From: 1, Behind: "*"}, "$123456789*4B37", "123456789"},
		{LineSum{Sum: crc, From: 1, Behind: "*", Little: true}, "$123456789*374B", "123456789"},
		{LineSum{Sum: crc, From: 1, Behind: "*"}, "$1234567894B37", ""},
		{LineSum{Sum: crc, From: 10, Behind: "*"}, "$123456789*4B37", ""},
	} {
		l := Lines{Sum: &c.sum, Delimiter: "\r"}
		if err := l.Check(); err != nil {
			t.Fatal(err)
		}
		values, bad := hear(l, Field{Index: 1}, []byte(c.line+"\r"))
		if got := strings.Join(values, ""); got != c.want || (bad == 1) != (c.want == "") {
			t.Errorf("%+v of %q: %q, %d bad", c.sum, c.line, values, bad)
		}
		if bare := "$"[:min(1, c.sum.From)] + c.want; c.want != "" && !strings.EqualFold(string(c.sum.Append([]byte(bare))), c.line) {
			t.Errorf("%q is made %q", bare, c.sum.Append([]byte(bare)))
		}
	}
	for _, l := range []Lines{
		{Checksum: "nmea", Sum: &LineSum{Sum: sum8}}, {Sum: &LineSum{Sum: sum8, From: -1}}, {Sum: &LineSum{}}, {Checksum: "nmea", Delimiter: "x"}, {MaxLine: -1},
	} {
		if l.Check() == nil {
			t.Errorf("%+v was taken", l)
		}
	}
}

// Lines end with what is said, wherever a read cuts it, also after one that is
// too long.
func TestDelimiters(t *testing.T) {
	for _, c := range []struct{ end, in, want string }{
		{"\r", "x\r1\r2\n\r3", "1,!"}, {"", "x\n1\n2\r\n3\r\r\n", "1,2,!"}, {";", "x;1;2;", "1,2"}, {"\r\n", "x\r\n1\r\n2\n\r\n\r3\r\n", "1,!,!"},
		{"END", "xEND1ENEND2END", "1EN,2"}, {"END", "xEND" + strings.Repeat("E", 40) + "END3END", "!,3"}, {"||", "x||1|2||3|||4||", "1|2,3,|4"},
	} {
		for n := 1; n < 5; n++ {
			var got []string
			d := Lines{Delimiter: c.end, MaxLine: 20}.decoder(&outlet{
				good: func(m message) { got = append(got, string(m.(fieldLine)[0])) },
				bad:  func(string) { got = append(got, "!") },
			})
			for part := range slices.Chunk([]byte(c.in), n) {
				d.feed(part)
			}
			if s := strings.Join(got, ","); s != c.want {
				t.Errorf("%q cut by %d at %q: %s, want %s", c.in, n, c.end, s, c.want)
			}
		}
	}
}

// The check values of catalogues.
func TestCRC8(t *testing.T) {
	for _, c := range []struct {
		want uint16
		sum  Sum
	}{
		{0xf4, Sum{Kind: "crc8", Poly: 7}}, {0xa1, Sum{Kind: "crc8", Poly: 0x31, RefIn: true, RefOut: true}},
		{0xf7, Sum{Kind: "crc8", Poly: 0x31, Init: 0xff}}, {0xa1, Sum{Kind: "crc8", Poly: 7, XorOut: 0x55}},
	} {
		if got := c.sum.Of([]byte("123456789")); got != c.want || c.sum.Check() != nil {
			t.Errorf("%+v: %02x, want %02x", c.sum, got, c.want)
		}
	}
	for _, s := range []Sum{{Kind: "crc8"}, {Kind: "crc8", Poly: 0x107}, {Kind: "xor", Poly: 7}} {
		if s.Check() == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
