package serial

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

// iskraBlock is the data message of an MT174, published with its check character
// by others.
const iskraBlock = "\x021-0:0.9.2*255(0220127)\r\n1-0:0.9.1*255(105644)\r\n1-0:1.8.0*255(0000502.853*kWh)\r\n1-0:2.8.0*255(0098697.318*kWh)\r\n!\r\n\x03\x19"

// meterMessage appends the check character, by the rule and not by Sum.
func meterMessage(lines string) string {
	body := lines + "!\r\n\x03"
	bcc := byte(0)
	for i := range len(body) {
		bcc ^= body[i]
	}
	return "\x02" + body + string(bcc)
}

var plainMeter = meterMessage("F.F(00)\r\n0.0.0(12345678)\r\n1.8.0(0012.5*kWh)1.8.1(1.5*kWh)(extra)\r\n1.8.0*01(11.0*kWh)\r\n2.8.0(3)\r\n16.7.0(1.2*kW)(7*W)\r\n(9*VA)\r\nC.1.0()\r\n1.8.0(7*kWh)\r\n")

func TestReadouts(t *testing.T) {
	for _, c := range []struct{ message, key, want string }{
		{iskraBlock, "1.8.0*kWh", "0000502.853"}, {iskraBlock, "1-0:1.8.0*255*kWh", "0000502.853"}, {iskraBlock, "1-0:1.8.0*kWh", "!no value"},
		{iskraBlock, "0.9.1", "105644"}, {iskraBlock, "8.0", "!no value"},
		{plainMeter, "1.8.0*kWh", "0012.5"}, {plainMeter, "1.8.0*01*kWh", "11.0"}, {plainMeter, "1.8.1", "extra"}, {plainMeter, "1.8.0*Wh", "!in another unit"},
		{plainMeter, "2.8.0*kWh", "!without a unit"}, {plainMeter, "2.8.0", "3"}, {plainMeter, "16.7.0*VA", "9"}, {plainMeter, "C.1.0", "!no value"}, {plainMeter, "9.9.9", "!no value"},
		{meterMessage("1-1:1.8.0(1)1-2:1.8.0(2)\r\n"), "1.8.0", "!no value"}, {meterMessage("1-1:1.8.0(1)1-2:1.8.0(2)\r\n"), "1-2:1.8.0", "2"}, // two channels
		{"\x02noise" + plainMeter, "2.8.0", "3"}, // light before the block
		{meterMessage(""), "1.8.0", "!no value"},
	} {
		values, bad := hear(Meter{}, Field{Key: c.key}, []byte(c.message))
		if len(values) != 1 || values[0] != c.want || bad != 0 {
			t.Errorf("%s of %q: %q, %d bad, want %q", c.key, c.message, values, bad, c.want)
		}
	}
	for _, message := range []string{
		plainMeter[:len(plainMeter)-1] + "?", meterMessage("1.8.0(1\r\n"), meterMessage("1.8.0)1(\r\n"), meterMessage("1.8.0((1))\r\n"), meterMessage("1.8.0(\x00)\r\n"),
		meterMessage("nothing\r\n"), meterMessage("1.8.0(1)\r\n!\r\n2.8.0(1)"), "\x02" + strings.Repeat("1", maxBlock+1),
	} {
		if values, bad := hear(Meter{}, Field{Key: "1.8.0"}, []byte(message)); len(values) != 0 || bad != 1 {
			t.Errorf("%q: %q, %d bad", clip([]byte(message)), values, bad)
		}
	}
	if values, bad := hear(Meter{}, Field{Key: "1.8.0"}, []byte(plainMeter[:20]), silent, []byte(plainMeter[20:])); len(values) != 0 || bad != 1 {
		t.Errorf("with a hole: %q, %d bad", values, bad)
	}
}

// Nothing is read from a message with any one bit wrong but in the noise around.
func TestReadoutsProveThemselves(t *testing.T) {
	for i := range len(iskraBlock) * 8 {
		spoiled := []byte(iskraBlock)
		spoiled[i/8] ^= 1 << (i % 8)
		if values, _ := hear(Meter{}, Field{Key: "1.8.0*kWh"}, spoiled); len(values) > 0 {
			t.Errorf("bit %d of byte %d: %q", i%8, i/8, values)
		}
	}
}

func TestIdentifications(t *testing.T) {
	for line, want := range map[string]string{
		"/ISk5MT174-0002":        "9600 true 20ms",
		"/ABC0X":                 "300 true 200ms",
		"/ABC6\\2X":              "19200 true 200ms",
		"\x00\x00\x7fx/LGZ4ZMR1": "4800 true 200ms",
		"/ABC8X":                 "0 true 200ms",
		"/ABCEX":                 "9600 false 200ms",
		"/ABCAX":                 "600 false 200ms",
		"/ABC X":                 "0 false 200ms",
		"/ABCHX":                 "!",
		"/?!":                    "none", "/AB15": "none", "/ABC": "none", "": "none", "/ABC5\x01": "none",
	} {
		id, ok := ParseIdentification([]byte(line))
		got := "none"
		if ok {
			baud, waits, err := id.Offer()
			got = fmt.Sprint(baud, waits, id.Reaction())
			if err != nil {
				got = "!"
			}
		}
		if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
	id, _ := ParseIdentification([]byte("/ABC5X"))
	for most, want := range map[int]string{19200: "050 9600", 9600: "050 9600", 9599: "040 4800", 300: "000 0", 0: "000 0"} {
		line, baud := id.option(most)
		if got := fmt.Sprintf("%s %d", line[1:4], baud); got != want || line[0] != ack || string(line[4:]) != "\r\n" {
			t.Errorf("at most %d baud: %q, want %s", most, got, want)
		}
	}
}

func TestMeterChecks(t *testing.T) {
	for _, m := range []Meter{{Address: "1/2"}, {Address: strings.Repeat("1", 33)}, {MaxBaud: 200}} {
		if m.Check() == nil {
			t.Errorf("%+v was taken", m)
		}
	}
	if (Meter{}).CheckSource(Field{Index: 1}) == nil || (Meter{}).CheckSource(Span{}) == nil {
		t.Error("what is no code was taken")
	}
	if _, err := NewReader(ReaderConfig{Framing: Meter{}}); err == nil {
		t.Error("a meter is called at no interval")
	}
}

// A fakeMeter answers what a reader on a connection says.
type fakeMeter struct {
	*talker
	mu      sync.Mutex
	answers map[string]string // by what was said
	said    []string          // with when
	began   time.Time
}

// startMeter reads a meter each minute through a converter, whose speed stays.
func startMeter(t *testing.T, m Meter, answers map[string]string) *fakeMeter {
	f := &fakeMeter{answers: answers, began: time.Now()}
	f.talker = startTalker(t, ReaderConfig{Framing: m, Polls: []Poll{{Every: time.Minute, Retries: 1}}, Devices: []*devices.Device{lineDevice("meter",
		linePoint("energy", Field{Key: "1.8.0*kWh"}, time.Minute))}})
	var running sync.WaitGroup
	running.Go(func() {
		b := make([]byte, 200)
		for {
			n, err := f.far.Read(b)
			if err != nil {
				return
			}
			said := string(b[:n])
			f.mu.Lock()
			f.said = append(f.said, fmt.Sprintf("%v %q", time.Since(f.began), said))
			answer := f.answers[said]
			f.mu.Unlock()
			running.Go(func() { io.WriteString(f.far, answer) }) // while the reader writes it does not read
		}
	})
	t.Cleanup(func() { f.far.Close(); running.Wait() })
	return f
}

func (f *fakeMeter) answer(answers map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers = answers
}

// A meter behind a converter is told to stay at its speed.
func TestMeterBehindAConverter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startMeter(t, Meter{Address: "12 34"}, map[string]string{"/?12 34!\r\n": "/ABC5X\r\n", "\x06000\r\n": plainMeter})
		time.Sleep(90 * time.Second)
		f.want("energy=0012.5 energy=0012.5")
		f.mu.Lock()
		defer f.mu.Unlock()
		want := `200ms "/?12 34!\r\n"|400ms "\x06000\r\n"|1m0.2s "/?12 34!\r\n"|1m0.4s "\x06000\r\n"`
		if got := strings.Join(f.said, "|"); got != want {
			t.Errorf("said %s, want %s", got, want)
		}
	})
}

// Meters of modes A and B send their data without being told; the second changes
// its speed, which a converter cannot. Echoes and noise are passed over.
func TestMeterModes(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"A":                 {"/ABC X\r\n" + plainMeter, "energy=0012.5"},
		"A with an echo":    {"/?!\r\n/ABC X\r\n" + plainMeter, "energy=0012.5"},
		"A behind noise":    {"\x00\x00\xff/ABC X\n\x00\x00" + plainMeter, "energy=0012.5"},
		"B":                 {"/ABCEX\r\n" + plainMeter, "energy!bad reply"},
		"C that hurries on": {"/ABC5X\r\n" + plainMeter, "energy=0012.5"},
		"C and noise":       {"/ABC5X\r\n\xfe\x00", "energy=0012.5"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startMeter(t, Meter{}, map[string]string{"/?!\r\n": c.answer, "\x06000\r\n": plainMeter})
				time.Sleep(50 * time.Second)
				f.want(c.want)
			})
		})
	}
}

// Each way to fail is told apart, counted, tried once more, and over at the next
// interval.
func TestMeterSaysWhatIsWrong(t *testing.T) {
	good := map[string]string{"/?!\r\n": "/ABC5X\r\n", "\x06000\r\n": plainMeter}
	but := func(said, answer string) map[string]string {
		m := maps.Clone(good)
		m[said] = answer
		return m
	}
	for name, c := range map[string]struct {
		answers map[string]string
		cause   string
		why     string
	}{
		"nobody":        {nil, "timeout", "no answer to the call within 2s: is the head on the meter"},
		"its own light": {but("/?!\r\n", "/?!\r\n"), "timeout", "only the call itself came back"},
		"garbled":       {but("/?!\r\n", "\xc1\xfe%&\r\n"), "bad reply", `"\xc1\xfe%&", which is no identification`},
		"endless":       {but("/?!\r\n", strings.Repeat("x", 300)), "bad reply", "which is no identification"},
		"then nothing":  {but("\x06000\r\n", ""), "timeout", "the meter answered its call (/ABC5X), but sent nothing at the same speed"},
		"then noise":    {but("\x06000\r\n", "\xfe\xfe\xfe"), "bad reply", "of the 3 bytes that came at the same speed none begins a block"},
		"check":         {but("\x06000\r\n", strings.Replace(plainMeter, "12.5", "12.4", 1)), "bad reply", "check character is"},
		"broke off":     {but("\x06000\r\n", plainMeter[:40]), "bad reply", "the block broke off after 39 bytes"},
		"mode B":        {but("/?!\r\n", "/ABCFX\r\n"), "bad reply", "changes to 19200 baud by itself, and the speed behind a converter"},
		"reserved":      {but("/?!\r\n", "/ABCGX\r\n"), "bad reply", "a speed that the standard does not know"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := startMeter(t, Meter{}, c.answers)
				time.Sleep(50 * time.Second)
				f.want("energy!" + c.cause)
				s := f.lines.LineStats()
				counts := map[string]uint64{"bad reply": s.Bad, "timeout": s.Timeouts}
				if s.Good != 0 || counts[c.cause] != 2 || s.Bad+s.Timeouts != 2 || !strings.Contains(s.LastBad, c.why) {
					t.Errorf("%d bad, %d missed, the last %q, want 2 of %s and %q", s.Bad, s.Timeouts, s.LastBad, c.cause, c.why)
				}
				f.answer(good)
				time.Sleep(30 * time.Second)
				f.want("energy=0012.5")
			})
		})
	}
}

// A sleeping meter gets NULs, a silence, and then its call.
func TestMeterIsWokenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startMeter(t, Meter{Wake: true}, map[string]string{"/?!\r\n": "/ABC X\r\n" + plainMeter})
		time.Sleep(30 * time.Second)
		f.want("energy=0012.5")
		want := fmt.Sprintf("200ms %q|1.8s %q", strings.Repeat("\x00", 65), "/?!\r\n")
		if got := strings.Join(f.said, "|"); got != want {
			t.Errorf("said %s, want %s", got, want)
		}
	})
}

// The port may go at any moment.
func TestMeterPortGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startMeter(t, Meter{}, map[string]string{"/?!\r\n": "/ABC X\r\n" + plainMeter})
		time.Sleep(30 * time.Second) // idle
		f.far.Close()
		synctest.Wait()
		f.want("energy=0012.5 energy!port unavailable")
	})
}

// errStream fails each read.
type errStream struct{ Stream }

func (errStream) SetReadDeadline(time.Time) error { return nil }
func (errStream) Write(b []byte) (int, error)     { return len(b), nil }
func (errStream) Read([]byte) (int, error)        { return 0, errors.New("broken") }
func (errStream) Close() error                    { return nil }

func TestMeterOnABrokenStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := startTalker(t, ReaderConfig{Framing: Meter{}, Polls: []Poll{{Every: time.Minute}}, Open: func() (Stream, error) { return errStream{}, nil },
			Devices: []*devices.Device{lineDevice("meter", linePoint("energy", Field{Key: "1.8.0"}, 0))}})
		k.want("energy!port unavailable")
	})
}

// FuzzMeter: whatever comes, cut as it may be, values come from a block whose
// check character is right.
func FuzzMeter(f *testing.F) {
	f.Add([]byte(iskraBlock), 3)
	f.Add([]byte("\x02"+plainMeter+iskraBlock), 1)
	f.Add([]byte("/ABC5X\r\n"), 100)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		ParseIdentification(in)
		src := Field{Key: "1.8.0*kWh"}
		whole, bad := hear(Meter{}, src, in)
		pieces, _ := hear(Meter{}, src, slices.Collect(slices.Chunk(in, max(1, n&0xff)))...)
		if !slices.Equal(whole, pieces) {
			t.Fatalf("in pieces %q, whole %q", pieces, whole)
		}
		if len(whole)+bad > bytes.Count(in, []byte{etx})+1 {
			t.Fatalf("%d values and %d errors from %q", len(whole), bad, in)
		}
	})
}
