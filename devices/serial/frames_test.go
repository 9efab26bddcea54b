package serial

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"edgegateway/devices"
)

// unhex reads "AA C0 …".
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

var (
	sum8   = Sum{Kind: "sum8"}
	arc    = Sum{Kind: "crc16", Poly: 0x8005, RefIn: true, RefOut: true}
	sds011 = Frames{Start: unhex("AA C0"), End: unhex("AB"), Size: 10, Sum: sum8, SumFrom: 2}
	pms    = Frames{Start: unhex("42 4D"), Length: &LengthField{At: 2, Size: 2, Plus: 4}, Sum: Sum{Kind: "sum16"}}
	mhz19  = Frames{Start: unhex("FF 86"), Size: 9, Sum: Sum{Kind: "sum8", Negate: true}, SumFrom: 1}
	p1     = Blocks{Start: "/", End: "!", Sum: &arc}
)

// A kaifaTelegram is one of a meter, published with its checksum by others.
const kaifaTelegram = "/KFM5KAIFA-METER\r\n\r\n1-3:0.2.8(42)\r\n0-0:1.0.0(161113205757W)\r\n" +
	"0-0:96.1.1(3960221976967177082151037881335713)\r\n1-0:1.8.1(001581.123*kWh)\r\n1-0:1.8.2(001435.706*kWh)\r\n" +
	"1-0:2.8.1(000000.000*kWh)\r\n1-0:2.8.2(000000.000*kWh)\r\n0-0:96.14.0(0002)\r\n1-0:1.7.0(02.027*kW)\r\n" +
	"1-0:2.7.0(00.000*kW)\r\n0-0:96.7.21(00015)\r\n0-0:96.7.9(00007)\r\n" +
	"1-0:99.97.0(3)(0-0:96.7.19)(000104180320W)(0000237126*s)(000101000001W)(2147583646*s)(000102000003W)(2317482647*s)\r\n" +
	"1-0:32.32.0(00000)\r\n1-0:52.32.0(00000)\r\n1-0:72.32.0(00000)\r\n1-0:32.36.0(00000)\r\n1-0:52.36.0(00000)\r\n" +
	"1-0:72.36.0(00000)\r\n0-0:96.13.1()\r\n0-0:96.13.0()\r\n1-0:31.7.0(000*A)\r\n1-0:51.7.0(006*A)\r\n1-0:71.7.0(002*A)\r\n" +
	"1-0:21.7.0(00.170*kW)\r\n1-0:22.7.0(00.000*kW)\r\n1-0:41.7.0(01.247*kW)\r\n1-0:42.7.0(00.000*kW)\r\n" +
	"1-0:61.7.0(00.209*kW)\r\n1-0:62.7.0(00.000*kW)\r\n0-1:24.1.0(003)\r\n0-1:96.1.0(4819243993373755377509728609491464)\r\n" +
	"0-1:24.2.1(161129200000W)(00981.443*m3)\r\n!6796\r\n"

// pmsFrame is one of a PMS5003.
func pmsFrame() []byte {
	b := unhex("42 4D 00 1C 00 05 00 0A 00 0C 00 04 00 09 00 0B 03 E8 01 2C 00 50 00 0A 00 02 00 01 97 00")
	return Sum{Kind: "sum16"}.Append(b, b, false)
}

// veBlock appends the checksum to the lines of a block of VE.Direct.
func veBlock(lines ...string) []byte {
	b := []byte("\r\n" + strings.Join(lines, "\r\n") + "\r\nChecksum\t")
	return Sum{Kind: "sum8", Negate: true}.Append(b, b, false)
}

var mpptBlock = veBlock("PID\t0xA053", "FW\t159", "SER#\tHQ2132QY2KR", "V\t12800", "I\t-15", "VPV\t3350", "PPV\t130", "CS\t3", "ERR\t0", "H19\t456")

// framings are all kinds, each with a good message, a source in it and what
// that holds.
var framings = []struct {
	name    string
	framing Framing
	good    []byte
	src     devices.Source
	want    string
}{
	{"sds011", sds011, unhex("AA C0 D4 04 3A 0A A1 60 1D AB"), Span{At: 2, Len: 2}, "\xd4\x04"},
	{"pms", pms, pmsFrame(), Span{At: 12, Len: 2}, "\x00\x09"},
	{"pms with a fixed size", Frames{Start: unhex("42 4D 00 1C"), Size: 32, Sum: Sum{Kind: "sum16"}}, pmsFrame(), Span{At: 12, Len: 2}, "\x00\x09"},
	{"mh-z19", mhz19, unhex("FF 86 02 60 47 00 00 00 D1"), Span{At: 4, Len: 1, Pad: 1}, "\x00\x47"},
	{"crc little", Frames{Start: []byte{2}, Length: &LengthField{At: 1, Size: 1, Plus: 1}, Sum: arc, SumLittle: true},
		arc.Append(unhex("02 07 FE FF 11 22"), unhex("02 07 FE FF 11 22"), true), Span{At: 2, Len: 1, Pad: 1, Signed: true}, "\xff\xfe"},
	{"p1", p1, []byte(kaifaTelegram), Field{Key: "0-1:24.2.1*m3"}, "00981.443"},
	{"ve.direct", VEDirect{}, mpptBlock, Field{Key: "V"}, "12800"},
	{"iec 62056-21", Meter{}, []byte(iskraBlock), Field{Key: "1.8.0*kWh"}, "0000502.853"},
	{"lines with a sum", Lines{Sum: &LineSum{Sum: arc, From: 1, Behind: "*", Little: true}}, append((&LineSum{Sum: arc, From: 1, Behind: "*", Little: true}).Append([]byte("$7,21.5")), "\r\n"...), Field{Index: 2}, "21.5"},
	{"lines with an end", Lines{Sum: &LineSum{Sum: sum8}, Delimiter: "END"}, append((&LineSum{Sum: sum8}).Append([]byte("x=21.5")), "END"...), Field{Key: "x"}, "21.5"},
}

// hear feeds parts to a new decoder, which falls silent after each "", and
// returns what it makes of them.
func hear(framing Framing, src devices.Source, parts ...[]byte) (values []string, bad int) {
	d := framing.decoder(&outlet{
		good: func(m message) {
			if !m.holds(src) {
				return
			}
			raw, err := m.value(src)
			if err != nil {
				raw = []byte("!" + devices.Cause(err))
			}
			values = append(values, string(raw))
		},
		bad: func(string) { bad++ },
	})
	for _, part := range parts {
		if d.feed(part); len(part) == 0 {
			d.silence()
		}
	}
	return values, bad
}

// silent falls between two messages.
var silent = []byte{}

// Each message is heard however it is split, and with noise around it.
func TestFramingsHearWhatIsGood(t *testing.T) {
	for _, c := range framings {
		t.Run(c.name, func(t *testing.T) {
			if err := c.framing.Check(); err != nil {
				t.Fatal(err)
			}
			if err := c.framing.CheckSource(c.src); err != nil {
				t.Fatal(err)
			}
			// VE.Direct has no mark that a block begins with.
			first := c.good
			values, _ := hear(c.framing, c.src, first, c.good, c.good)
			if slices.Index(values, c.want) < 0 || len(slices.Compact(values)) != 1 || len(values) < 2 {
				t.Fatalf("whole: %q", values)
			}
			for i := range c.good {
				values, bad := hear(c.framing, c.src, first, c.good[:i], c.good[i:])
				if len(values) == 0 || values[len(values)-1] != c.want || bad > 0 {
					t.Fatalf("split at %d: %q, %d bad", i, values, bad)
				}
			}
			for _, noise := range []string{"\x00", "\xff\xfe", "garbage\r\n", "\xaa\xaa", "BB", "/half\r\n", "\xaa\xc0\x01", "\r", string(c.good[:len(c.good)/2])} {
				values, _ := hear(c.framing, c.src, first, []byte(noise), silent, c.good, c.good)
				if len(values) == 0 || values[len(values)-1] != c.want {
					t.Errorf("after %q: %q", noise, values)
				}
				for _, v := range values {
					if v != c.want {
						t.Errorf("after %q: heard %q", noise, v)
					}
				}
			}
		})
	}
}

// No change of one byte yields another value, nor does one lost or one more;
// and afterwards good messages are heard.
func TestFramingsRefuseAnyChangedByte(t *testing.T) {
	for _, c := range framings {
		t.Run(c.name, func(t *testing.T) {
			check := func(spoiled []byte, what string) {
				t.Helper()
				values, _ := hear(c.framing, c.src, c.good, spoiled, silent, c.good, c.good)
				for _, v := range values {
					if v != c.want {
						t.Fatalf("%s: heard %q", what, v)
					}
				}
				if len(values) == 0 {
					t.Fatalf("%s: heard nothing afterwards", what)
				}
			}
			for i := range c.good {
				for x := 1; x < 256; x++ {
					if len(c.good) > 100 && x != 1 && x != 0x10 {
						continue // of long ones two bits only
					}
					spoiled := slices.Clone(c.good)
					spoiled[i] ^= byte(x)
					check(spoiled, fmt.Sprintf("byte %d xor %#x", i, x))
				}
				check(slices.Delete(slices.Clone(c.good), i, i+1), fmt.Sprintf("without byte %d", i))
				check(c.good[:i], fmt.Sprintf("cut at %d", i))
			}
		})
	}
}

// A message with a wrong byte yields nothing, whatever follows.
func TestFramesWithAWrongByteYieldNothing(t *testing.T) {
	for _, c := range framings {
		if _, ok := c.framing.(Frames); !ok {
			continue
		}
		for i := range c.good {
			for x := 1; x < 256; x++ {
				spoiled := slices.Clone(c.good)
				spoiled[i] ^= byte(x)
				if values, bad := hear(c.framing, c.src, spoiled, silent); len(values) > 0 || bad == 0 {
					t.Fatalf("%s: byte %d xor %#x: %q, %d bad", c.name, i, x, values, bad)
				}
			}
		}
	}
}

func TestFramesFindOneBehindAFalseStart(t *testing.T) {
	good := framings[1].good
	// A start whose length covers the good frame and more: found at silence.
	values, bad := hear(pms, Span{At: 12, Len: 2}, unhex("42 4D 03 00"), good, silent)
	if len(values) != 1 || bad != 1 {
		t.Errorf("%q, %d bad", values, bad)
	}
	// A length that cannot be.
	values, _ = hear(pms, Span{At: 12, Len: 2}, unhex("42 4D FF FF"), good)
	if len(values) != 1 {
		t.Errorf("%q", values)
	}
	// A point beyond the end of a short frame.
	short := unhex("42 4D 00 04 01 02")
	short = Sum{Kind: "sum16"}.Append(short, short, false)
	if values, _ := hear(pms, Span{At: 12, Len: 2}, short); fmt.Sprint(values) != "[!no value]" {
		t.Errorf("%q", values)
	}
}

func TestSums(t *testing.T) {
	check := []byte("123456789") // the check values of the catalogue of CRCs
	for _, c := range []struct {
		sum  Sum
		want uint16
	}{
		{arc, 0xbb3d},
		{Sum{Kind: "crc16", Poly: 0x8005, Init: 0xffff, RefIn: true, RefOut: true}, 0x4b37},                 // Modbus
		{Sum{Kind: "crc16", Poly: 0x1021}, 0x31c3},                                                          // XMODEM
		{Sum{Kind: "crc16", Poly: 0x1021, Init: 0xffff, RefIn: true, RefOut: true, XorOut: 0xffff}, 0x906e},
		{sum8, 0xdd}, {Sum{Kind: "sum16"}, 0x1dd}, {Sum{Kind: "xor"}, 0x31}, {Sum{Kind: "sum8", Negate: true}, 0x23},
	} {
		if err := c.sum.Check(); err != nil {
			t.Error(err)
		}
		if got := c.sum.Of(check); got != c.want {
			t.Errorf("%+v: %04x, want %04x", c.sum, got, c.want)
		}
	}
	for _, s := range []Sum{{}, {Kind: "crc16"}, {Kind: "xor", Init: 1}} {
		if s.Check() == nil {
			t.Errorf("%+v was taken", s)
		}
	}
	if got := (Sum{Kind: "crc16", Poly: 0x1021}).Of([]byte("000A")); got != 0xb43c { // Plugwise
		t.Errorf("%04x", got)
	}
}

func TestFramesCheckThemselves(t *testing.T) {
	length := &LengthField{At: 2, Size: 1}
	for _, f := range []Frames{
		{Size: 10, Sum: sum8}, {Start: []byte{1}, Sum: sum8}, {Start: []byte{1}, Size: 10, Length: length, Sum: sum8},
		{Start: []byte{1}, Size: 2, Sum: sum8}, {Start: []byte{1}, Size: 2000, Sum: sum8}, {Start: []byte{1}, Size: 10},
		{Start: []byte{1, 2, 3}, Length: length, Sum: sum8}, {Start: []byte{1}, Length: &LengthField{At: 2, Size: 3}, Sum: sum8},
		{Start: []byte{1}, Size: 10, Sum: sum8, SumFrom: 9}, {Start: []byte{1}, Size: 10, Sum: sum8, SumFrom: -1},
	} {
		if f.Check() == nil {
			t.Errorf("%+v was taken", f)
		}
	}
	for _, s := range []devices.Source{Span{At: 8, Len: 1}, Span{At: 7, Len: 2}, Span{At: -1, Len: 1}, Span{At: 2}, Field{Index: 1}} {
		if sds011.CheckSource(s) == nil {
			t.Errorf("%+v was taken", s)
		}
	}
	for _, b := range []Blocks{{}, {Start: "/"}, {Start: "/", End: "!", Sum: &sum8}, {Start: "/\n", End: "!"}} {
		if b.Check() == nil {
			t.Errorf("%+v was taken", b)
		}
	}
	for _, f := range []Framing{p1, VEDirect{}} {
		for _, s := range []devices.Source{Field{Index: 1}, Span{}, Field{Sentence: "A", Key: "V"}, Field{Key: ""}} {
			if f.CheckSource(s) == nil {
				t.Errorf("%T: %+v was taken", f, s)
			}
		}
	}
}

func TestBlocksReadOBISLines(t *testing.T) {
	old := "/ISk5\\2MT382-1004\r\n\r\n0-0:96.1.1(00000000000000)\r\n1-0:1.8.1(00001.001*kWh)\r\n0-0:96.13.1()\r\n1-0:16.7.0(0.5)(7*W)\r\n" +
		"0-1:24.3.0(121030140000)(00)(60)(1)(0-1:24.2.1)(m3)\r\n(00024.123)\r\n1-0:1.8.0*255(17)\r\n!\r\n"
	plain := Blocks{Start: "/", End: "!"}
	for key, want := range map[string]string{
		"1-0:1.8.1*kWh": "00001.001", "1-0:1.8.1": "00001.001", "1-0:1.8.1*Wh": "!in another unit", "0-1:24.3.0": "00024.123",
		"0-0:96.13.1": "!no value", "9.9.9": "!no value", "1-0:1.8.0*255": "17", "1-0:1.8.0*255*kWh": "!without a unit", "1-0:16.7.0*W": "7",
	} {
		if values, bad := hear(plain, Field{Key: key}, []byte(old)); len(values) != 1 || values[0] != want || bad > 0 {
			t.Errorf("%s: %q, want %q; %d bad", key, values, want, bad)
		}
	}
	if values, _ := hear(plain, Field{Key: "1-0:16.7.0", Index: 1}, []byte(old)); fmt.Sprint(values) != "[0.5]" {
		t.Errorf("first of two: %q", values)
	}
	for _, spoiled := range []string{
		strings.Replace(old, "00001", "000\x001", 1), strings.Replace(old, "1-0:1.8.1(", "1-0:1.8.1", 1), strings.Replace(old, "*kWh)", "*kWh", 1),
		strings.Replace(old, "(7*W)", "(7*W)\r\n1-0:16.7.0(8*W)", 1), strings.Replace(old, "!", "!1234", 1), "/a\r\n" + strings.Repeat("1(2)\r\n", 5000) + "!\r\n",
	} {
		if values, bad := hear(plain, Field{Key: "1-0:1.8.1"}, []byte(spoiled)); len(values) > 0 || bad == 0 {
			t.Errorf("%.60q…: %q, %d bad", spoiled, values, bad)
		}
	}
	if values, _ := hear(plain, Field{Key: "1-0:1.8.1"}, []byte(kaifaTelegram)); len(values) > 0 {
		t.Errorf("a telegram with a checksum where none is expected: %q", values)
	}
	if values, _ := hear(p1, Field{Key: "1-0:1.8.1"}, []byte(old)); len(values) > 0 {
		t.Errorf("a telegram without the checksum: %q", values)
	}
}

func TestVEDirectPassesOverHexadecimalMessages(t *testing.T) {
	const ping = ":154\n" // command 1, the byte 54: 01 + 54 = 55
	src := Field{Key: "PPV"}
	cut := bytes.Index(mpptBlock, []byte("\r\nPPV"))
	for name, parts := range map[string][][]byte{
		"between blocks": {mpptBlock, []byte(ping), mpptBlock},
		"between lines":  {mpptBlock, mpptBlock[:cut], []byte(ping), mpptBlock[cut:]},
		"within a line":  {mpptBlock, mpptBlock[:cut+7], []byte(ping), mpptBlock[cut+7:]},
	} {
		if values, bad := hear(VEDirect{}, src, parts...); fmt.Sprint(values) != "[130]" || bad > 0 {
			t.Errorf("%s: %q, %d bad", name, values, bad)
		}
	}
	for _, wrong := range []string{":155\n", ":1\n", ":1x4\n", ":" + strings.Repeat("00", 500) + "\n"} {
		if values, bad := hear(VEDirect{}, src, mpptBlock, mpptBlock[:cut], []byte(wrong), mpptBlock[cut:]); len(values) > 0 || bad == 0 {
			t.Errorf("%.20q: %q, %d bad", wrong, values, bad)
		}
	}
	// The checksum itself may be any byte, a colon and a line end too.
	for sum := range 256 {
		block := veBlock("V\t1", "X\t ")
		const fromEnd = 5 + len("Checksum") // of the value of X
		block[len(block)-fromEnd] += block[len(block)-1] - byte(sum)
		block[len(block)-1] = byte(sum)
		pad := block[len(block)-fromEnd]
		values, _ := hear(VEDirect{}, Field{Key: "V"}, mpptBlock, block)
		if wantNone := pad < ' ' || pad > '~' || pad == ':'; wantNone != (len(values) == 0) {
			t.Errorf("checksum %#02x: %q", sum, values)
		}
	}
	if values, _ := hear(VEDirect{}, Field{Key: "V"}, mpptBlock, veBlock("V\t1", "V\t2"), veBlock("I\t1"), veBlock("V\t---")); fmt.Sprint(values) != "[!no value]" {
		t.Errorf("%q", values)
	}
}

// Whatever comes, in whatever pieces, nothing panics, pieces make no
// difference, and little is held.
func FuzzFramings(f *testing.F) {
	for i, c := range framings {
		f.Add(uint8(i), uint8(5), append(append(slices.Clone(c.good), "noise"...), c.good...))
	}
	f.Fuzz(func(t *testing.T, which, size uint8, data []byte) {
		c := framings[int(which)%len(framings)]
		whole, bad := hear(c.framing, c.src, data, silent)
		var parts [][]byte
		if len(data) > 0 {
			parts = slices.Collect(slices.Chunk(data, int(size)+1))
		}
		split, badToo := hear(c.framing, c.src, append(parts, silent)...)
		if !slices.Equal(whole, split) {
			t.Errorf("%q at once, %q in pieces of %d (%d and %d bad)", whole, split, int(size)+1, bad, badToo)
		}
	})
}
