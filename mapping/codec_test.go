package mapping

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
)

func decimal(s string) Decimal {
	d, err := ParseDecimal(s)
	if err != nil {
		panic(err)
	}
	return d
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var berlin = func() *time.Location {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		panic(err)
	}
	return zone
}()

func TestDecode(t *testing.T) {
	mode := map[int64]string{0: "off", 1: "auto", -1: "fault"}
	for _, c := range []struct {
		point Point
		raw   string // hexadecimal
		want  string // JSON, or "!" and the cause
	}{
		{Point{Type: Bool}, "01", "true"},
		{Point{Type: Bool}, "00", "false"},
		{Point{Type: Bool, Length: 2}, "0100", "true"},
		{Point{Type: Bool, Enum: mode}, "01", `"auto"`},
		{Point{Type: U16}, "ffff", "65535"},
		{Point{Type: U16, Order: BADC}, "0102", "513"},
		{Point{Type: U16, Order: CDAB}, "0102", "258"},
		{Point{Type: I16}, "8000", "-32768"},
		{Point{Type: I16, Scale: decimal("0.1")}, "08fd", "230.1"},
		{Point{Type: U16, Scale: decimal("0.1"), Offset: decimal("-40")}, "0190", "0"},
		{Point{Type: U16, Scale: decimal("1000")}, "0005", "5000"},
		{Point{Type: U32}, "01020304", "16909060"},
		{Point{Type: U32, Order: CDAB}, "03040102", "16909060"},
		{Point{Type: U32, Order: BADC}, "02010403", "16909060"},
		{Point{Type: U32, Order: DCBA}, "04030201", "16909060"},
		{Point{Type: I32}, "ffffffff", "-1"},
		{Point{Type: U64}, "0020000000000001", "9007199254740993"},
		{Point{Type: U64, Order: CDAB}, "0001 0000 0000 0020", "9007199254740993"},
		{Point{Type: U64, Order: BADC}, "2000 0000 0000 0100", "9007199254740993"},
		{Point{Type: U64, Order: DCBA}, "0100 0000 0000 2000", "9007199254740993"},
		{Point{Type: U64}, "ffffffffffffffff", "18446744073709551615"},
		{Point{Type: U64, Scale: decimal("10")}, "ffffffffffffffff", "184467440737095516150"},
		{Point{Type: U64, Scale: decimal("7")}, "ffffffffffffffff", "!scaled value out of range"},
		{Point{Type: I64}, "8000000000000000", "-9223372036854775808"},
		{Point{Type: I64, Scale: decimal("0.001")}, "0000000000bc614f", "12345.679"},
		{Point{Type: F32}, "4366199a", "230.1"},
		{Point{Type: F32, Scale: decimal("0.1")}, "450fd000", "230.1"},
		{Point{Type: F32, Scale: decimal("0.001")}, "3dcccccd", "0.0001"},
		{Point{Type: F32, Order: CDAB}, "199a4366", "230.1"},
		{Point{Type: F32}, "7fc00000", "!not a number"},
		{Point{Type: F32}, "ff800000", "!not a number"},
		{Point{Type: F32}, "80000000", "0"},
		{Point{Type: F32}, "7f7fffff", "3.4028235e+38"},
		{Point{Type: F32}, "00000001", "1e-45"},
		{Point{Type: F32, Invalid: []int64{-9999}}, "c61c3c00", "!no value"},
		{Point{Type: F64}, "406cc33333333333", "230.1"},
		{Point{Type: F64, Scale: decimal("0.1")}, "40a1fa0000000000", "230.1"},
		{Point{Type: F64, Scale: decimal("1000")}, "7fefffffffffffff", "!scaled value out of range"},
		{Point{Type: F64}, "7ff8000000000000", "!not a number"},
		{Point{Type: F16}, "3c00", "1"},
		{Point{Type: F16}, "2e66", "0.1"},
		{Point{Type: F16}, "7bff", "65500"}, // 65504, in the fewest digits that name it
		{Point{Type: F16}, "0001", "6e-08"},
		{Point{Type: F64}, "7ff0000000000000", "!not a number"},
		{Point{Type: F64, Order: DCBA}, "000000000000f0ff", "!not a number"},
		{Point{Type: F64, Invalid: []int64{-9999}}, "c0c3878000000000", "!no value"},
		{Point{Type: F64, Scale: decimal("0.1"), Invalid: []int64{0}}, "8000000000000000", "!no value"},
		{Point{Type: F32, Scale: decimal("0.1"), Offset: decimal("5")}, "7f800001", "!not a number"},
		{Point{Type: I64, Scale: decimal("3")}, "7fffffffffffffff", "!scaled value out of range"},
		{Point{Type: I64, Scale: decimal("3")}, "8000000000000000", "!scaled value out of range"},
		{Point{Type: I64, Offset: decimal("1")}, "7fffffffffffffff", "9223372036854775808"},
		{Point{Type: U64, Offset: decimal("1")}, "ffffffffffffffff", "!scaled value out of range"},
		{Point{Type: F16}, "7e00", "!not a number"},
		{Point{Type: F16}, "fc00", "!not a number"},
		{Point{Type: BCD16}, "1234", "1234"},
		{Point{Type: BCD16}, "12a4", "!not a decimal digit"},
		{Point{Type: BCD32, Scale: decimal("0.01")}, "00012345", "123.45"},
		{Point{Type: BCD16, Invalid: []int64{0xffff}}, "ffff", "!no value"},
		{Point{Type: BCD16}, "f000", "!not a decimal digit"},
		{Point{Type: BCD32, Order: CDAB}, "5678 12a4", "!not a decimal digit"},
		{Point{Type: BCD32, Invalid: []int64{0xffffffff}}, "ffffffff", "!no value"},
		{Point{Type: Mod10, Length: 4, Invalid: []int64{0xffff}}, "0001 ffff", "!no value"},
		{Point{Type: U16, Invalid: []int64{7}, Enum: mode}, "0007", "!no value"},
		{Point{Type: U16, Invalid: []int64{0xffff}, Bits: map[int]string{0: "on"}}, "ffff", "!no value"},
		{Point{Type: U32, Order: CDAB, Invalid: []int64{0x7fffffff, 0x80000000}}, "0000 8000", "!no value"},
		{Point{Type: I32, Scale: decimal("0.1"), Invalid: []int64{0x7fffffff, 0x80000000}}, "7fffffff", "!no value"},
		{Point{Type: Mod10, Length: 4}, "270f 0001", "19999"},
		{Point{Type: Mod10, Length: 4, Order: CDAB}, "270f 0001", "19999"},
		{Point{Type: Mod10, Length: 4, Order: BADC}, "0f27 0100", "19999"},
		{Point{Type: Mod10, Length: 4}, "2710 0001", "!not a decimal digit"},
		{Point{Type: Mod10, Length: 8}, "270f 270f 270f 270f", "9999999999999999"},
		{Point{Type: U16, Invalid: []int64{-1}}, "ffff", "!no value"},
		{Point{Type: I16, Invalid: []int64{0x8000}}, "8000", "!no value"},
		{Point{Type: I16, Invalid: []int64{-32768}}, "8000", "!no value"},
		{Point{Type: U64, Invalid: []int64{-1}}, "ffffffffffffffff", "!no value"},
		{Point{Type: U16, Enum: mode}, "0001", `"auto"`},
		{Point{Type: U16, Enum: mode}, "0007", "7"},
		{Point{Type: I16, Enum: mode}, "ffff", `"fault"`},
		{Point{Type: U16, Bits: map[int]string{0: "running", 3: "fault"}}, "0008", `{"running":false,"fault":true}`},
		{Point{Type: U32, Order: CDAB, Bits: map[int]string{31: "top"}}, "0000 8000", `{"top":true}`},
		{Point{Type: String, Length: 6}, "4142 4300 0000", `"ABC"`},
		{Point{Type: String, Length: 5}, "2041 4220 2020", `"AB"`},
		{Point{Type: String, Length: 4, Order: BADC}, "4241 4443", `"ABCD"`},
		{Point{Type: String, Length: 4, Order: CDAB}, "4142 4344", `"ABCD"`},
		{Point{Type: String, Length: 4}, "410a 22ff", `"A\n\"�"`},
		{Point{Type: Bytes, Length: 3}, "0a0b 0c00", `"0a0b0c"`},
		{Point{Type: U8H}, "12fe", "18"},
		{Point{Type: U8L}, "12fe", "254"},
		{Point{Type: I8H}, "fe12", "-2"},
		{Point{Type: I8L, Scale: decimal("0.5")}, "12fe", "-1"},
		{Point{Type: U8L, Order: BADC}, "12fe", "18"},
		{Point{Type: U8L, Invalid: []int64{0xff}}, "12ff", "!no value"},
		{Point{Type: I8L, Invalid: []int64{-128}}, "0080", "!no value"},
		{Point{Type: U24}, "ff800001", "8388609"},
		{Point{Type: I24}, "00800001", "-8388607"},
		{Point{Type: I24, Order: CDAB}, "0001 ff80", "-8388607"},
		{Point{Type: U48}, "800000000001", "140737488355329"},
		{Point{Type: I48}, "ffff fffffffe", "-2"},
		{Point{Type: U48, Order: CDAB}, "0003 0002 0001", "4295098371"},
		{Point{Type: U48, Order: DCBA}, "0300 0200 0100", "4295098371"},
		{Point{Type: SM16}, "8005", "-5"},
		{Point{Type: SM16}, "7fff", "32767"},
		{Point{Type: SM16}, "8000", "0"},
		{Point{Type: SM16, Invalid: []int64{0x8000}}, "8000", "!no value"},
		{Point{Type: SM32, Order: CDAB, Scale: decimal("0.1")}, "0005 8000", "-0.5"},
		{Point{Type: U16, Mask: 0x0ff0}, "abcd", "188"},
		{Point{Type: I16, Mask: 0x0ff0}, "abcd", "-68"},
		{Point{Type: U32, Mask: 0x00ff0000, Scale: decimal("0.1")}, "00640000", "10"},
		{Point{Type: U16, Mask: 0x00f0, Invalid: []int64{0xf}}, "12f4", "!no value"},
		{Point{Type: U16, Mask: 0x0003, Enum: map[int64]string{2: "auto"}}, "fffe", `"auto"`},
		{Point{Type: BCD16, Mask: 0xff00}, "2612", "26"},
		{Point{Type: U64, Mask: 1 << 63}, "8000000000000000", "1"},

		{Point{Type: String, Length: 4, Layout: LowByte}, "ff41 ff42 0043 0000", `"ABC"`},
		{Point{Type: String, Length: 3, Layout: HighByte}, "41ff 42ff 43ff", `"ABC"`},
		{Point{Type: String, Length: 3, Layout: HighByte, Order: BADC}, "ff41 ff42 ff43", `"ABC"`},
		{Point{Type: String, Length: 4, Encoding: Latin1}, "b0432020", `"°C"`},
		{Point{Type: String, Length: 4, Encoding: ASCII}, "b0432020", "!not ASCII"},
		{Point{Type: String, Length: 4}, "c2b04300", `"°C"`},
		{Point{Type: String, Length: 4, Encoding: UTF16}, "00b0 0043 0000 0000", `"°C"`},
		{Point{Type: String, Length: 2, Encoding: UTF16, Order: BADC}, "3dd8 00de", `"😀"`},
		{Point{Type: String, Length: 4, Encoding: UTF16}, "d83d 0041 0000 0000", `"�A"`},
		{Point{Type: String, Length: 4, ZeroIsNone: true}, "00000000", "!no value"},
		{Point{Type: String, Length: 4}, "00000000", `""`},

		{Point{Type: Unix32}, "6740a7f8", `"2024-11-22T15:49:12Z"`},
		{Point{Type: Unix32, Order: CDAB}, "a7f8 6740", `"2024-11-22T15:49:12Z"`},
		{Point{Type: Unix32, Invalid: []int64{0, -1}}, "00000000", "!no value"},
		{Point{Type: Unix32, Invalid: []int64{0, -1}}, "ffffffff", "!no value"},
		{Point{Type: Unix32}, "ffffffff", `"2106-02-07T06:28:15Z"`},
		{Point{Type: Unix32, Zone: berlin}, "6740a7f8", `"2024-11-22T14:49:12Z"`},
		{Point{Type: Unix64}, "000000006740a7f8", `"2024-11-22T15:49:12Z"`},
		{Point{Type: Unix64}, "000000ffffffffff", "!out of range"},
		{Point{Type: Unix64}, "ffffffffffffffff", "!out of range"},
		{Point{Type: Unix64ms}, "00000193548ae2c1", `"2024-11-22T15:43:28.449Z"`},
		{Point{Type: YMDHMS}, "07ea 000b 0014 0017 0006 003b", `"2026-11-20T23:06:59Z"`},
		{Point{Type: YMDHMS, Zone: berlin}, "001a 0007 0014 0017 0006 003b", `"2026-07-20T21:06:59Z"`},
		{Point{Type: YMDHMS}, "07ea 0002 001d 0000 0000 0000", "!not a date"},
		{Point{Type: YMDHMS}, "07ea 0002 001c 0018 0000 0000", "!not a date"},
		{Point{Type: YMDHMS}, "0000 0000 0000 0000 0000 0000", "!not a date"},
		{Point{Type: YMDHMS}, "ffff ffff ffff ffff ffff ffff", "!not a date"},
		{Point{Type: SchneiderTime}, "001a 0bd4 1706 e6bb", `"2026-11-20T23:06:59.067Z"`},
		{Point{Type: SchneiderTime, Order: CDAB}, "001a 0bd4 1706 e6bb", `"2026-11-20T23:06:59.067Z"`},
		{Point{Type: SchneiderTime}, "001a 0bd4 1786 e6bb", "!no value"},
		{Point{Type: SchneiderTime}, "ffff ffff ffff ffff", "!no value"},
		{Point{Type: SchneiderTime}, "001a 0bd4 1706 ea60", "!not a date"},
		{Point{Type: SchneiderTime}, "0000 0000 0000 0000", "!not a date"},
		// 2026-10-25 02:30 comes twice in Berlin.
		{Point{Type: SchneiderTime, Zone: berlin}, "001a 0a39 821e 0000", `"2026-10-25T00:30:00Z"`},
		{Point{Type: SchneiderTime, Zone: berlin}, "001a 0a39 021e 0000", `"2026-10-25T01:30:00Z"`},
		{Point{Type: YMDHMS, Zone: berlin}, "07ea 000a 0019 0002 001e 0000", `"2026-10-25T00:30:00Z"`},

		{Point{Type: IPv4}, "c0a8 0a05", `"192.168.10.5"`},
		{Point{Type: IPv4, Order: CDAB}, "0a05 c0a8", `"192.168.10.5"`},
		{Point{Type: IPv4}, "0000 0000", `"0.0.0.0"`},
		{Point{Type: IPv4, ZeroIsNone: true}, "0000 0000", "!no value"},
		{Point{Type: IPv6}, "fd00 0000 0000 0000 0000 0000 0000 0001", `"fd00::1"`},
		{Point{Type: IPv6, Order: BADC}, "00fd 0000 0000 0000 0000 0000 0000 0100", `"fd00::1"`},
		{Point{Type: MAC}, "001a 2b3c 4d5e", `"00:1a:2b:3c:4d:5e"`},
		{Point{Type: EUI48}, "0000 001a 2b3c 4d5e", `"00:1a:2b:3c:4d:5e"`},
		{Point{Type: EUI48, ZeroIsNone: true}, "0000 ffff ffff ffff", "!no value"},
		{Point{Type: U16, ScaleFrom: &Point{}}, "0001", "!no scale factor"},
		{Point{Type: I16, Factored: true}, "FFF7FFFF", "-0.9"},
		{Point{Type: U32, Factored: true, Scale: Decimal{Mant: 1, Exp: -3}}, "000102030001", "660.51"},
		{Point{Type: I16, Factored: true, Invalid: []int64{-0x8000}}, "8000FFFF", "!no value"},
		{Point{Type: I16, Factored: true}, "00018000", "!no scale factor"},
		{Point{Type: I16, Factored: true, Point: &devices.Point{Name: "power"}}, "0001000B", "!scale factor out of range"},
		{Point{Type: I16, Factored: true}, "0001", "!2 bytes for i16 and its exponent, which have 4"},
		{Point{Type: F32, Factored: true}, "3F8000000002", "100"},
		{Point{Type: U32}, "0102", "!2 bytes for u32, which has 4"},
		{Point{}, "0102", "!cannot decode type 0"},
	} {
		v, err := Decode(&c.point, unhex(t, c.raw))
		got := string(v.AppendJSON(nil))
		if err != nil {
			got = "!" + devices.Cause(err)
		}
		if got != c.want {
			t.Errorf("%s %s of %s = %s, want %s", c.point.Type, c.point.Order, c.raw, got, c.want)
		}
	}
}

func TestDecodeText(t *testing.T) {
	valid := map[string]string{"A": "valid", "V": "void"}
	for _, c := range []struct {
		point Point
		raw   string
		want  string
	}{
		{Point{Type: Text}, " as it came ", `" as it came "`},
		{Point{Type: F64, FromText: true}, "012.50", "12.5"},
		{Point{Type: F64, FromText: true}, " -0.001 ", "-0.001"},
		{Point{Type: F32, FromText: true, Scale: decimal("0.514444")}, "10", "5.14444"},
		{Point{Type: F64, FromText: true}, "", "!no value"},
		{Point{Type: F64, FromText: true}, "12..5", "!not a number"},
		{Point{Type: F64, FromText: true}, "NaN", "!not a number"},
		{Point{Type: F64, FromText: true}, "inf", "!not a number"},
		{Point{Type: F64, FromText: true}, "1e400", "!exponent out of range: 10^-127 to 10^127"},
		{Point{Type: I64, FromText: true}, "9223372036854775808", "!out of range"},
		{Point{Type: F64, FromText: true, Invalid: []int64{-999}}, "-999.0", "!no value"},
		{Point{Type: I16, FromText: true}, "-32768", "-32768"},
		{Point{Type: I16, FromText: true}, "32768", "!out of range"},
		{Point{Type: U16, FromText: true}, "1.5", "!out of range"},
		{Point{Type: U64, FromText: true}, "18446744073709551615", "18446744073709551615"},
		{Point{Type: U16, FromText: true, Enum: map[int64]string{2: "auto"}}, "02", `"auto"`},
		{Point{Type: String, FromText: true}, " x ", `"x"`},
		{Point{Type: String, FromText: true}, "", `""`},
		{Point{Type: Bool, FromText: true}, "ON", "true"},
		{Point{Type: Bool, FromText: true}, "perhaps", "!neither true nor false"},
		{Point{Type: Bytes, FromText: true}, "0aFF", `"0aff"`},
		{Point{Type: Bytes, FromText: true}, "xyz", "!not hexadecimal"},
		{Point{Type: Text, EnumText: valid}, "A", `"valid"`},
		{Point{Type: Text, EnumText: valid}, "X", `"X"`},
	} {
		v, err := Decode(&c.point, []byte(c.raw))
		got := string(v.AppendJSON(nil))
		if err != nil {
			got = "!" + devices.Cause(err)
		}
		if got != c.want {
			t.Errorf("%s of %q = %s, want %s", c.point.Type, c.raw, got, c.want)
		}
	}
}

// fixed are all types with the widths of their raw form.
func fixed() []Point {
	return []Point{
		{Type: Bool}, {Type: Bool, Length: 2}, {Type: U16}, {Type: I16}, {Type: U32}, {Type: I32}, {Type: U64}, {Type: I64},
		{Type: F16}, {Type: F32}, {Type: F64}, {Type: BCD16}, {Type: BCD32},
		{Type: Mod10, Length: 4}, {Type: Mod10, Length: 6}, {Type: Mod10, Length: 8},
		{Type: Bytes, Length: 7}, {Type: String, Length: 8},
		{Type: U8H}, {Type: U8L}, {Type: I8H}, {Type: I8L}, {Type: U24}, {Type: I24}, {Type: U48}, {Type: I48}, {Type: SM16}, {Type: SM32},
		{Type: U16, Mask: 0x0ff0}, {Type: I32, Mask: 0x7ffff000}, {Type: U64, Mask: 0xffff << 48}, {Type: BCD16, Mask: 0x0ff0},
		{Type: String, Length: 8, Layout: LowByte}, {Type: String, Length: 8, Layout: HighByte, Encoding: Latin1},
		{Type: String, Length: 8, Encoding: ASCII}, {Type: String, Length: 8, Encoding: UTF16},
		{Type: Unix32}, {Type: Unix32, Zone: berlin}, {Type: Unix64}, {Type: Unix64ms}, {Type: YMDHMS}, {Type: YMDHMS, Zone: berlin},
		{Type: SchneiderTime}, {Type: SchneiderTime, Zone: berlin}, {Type: IPv4}, {Type: IPv6}, {Type: MAC}, {Type: EUI48},
		{Type: U32, Bits: map[int]string{1: "a", 31: "b"}},
		{Type: I16, Enum: map[int64]string{-5: "minus", 7: "seven"}},
	}
}

// What Decode reads, Encode writes back to the same bytes: each type in each
// order at each scale, at its limits and in between.
func TestRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	scales := []Decimal{{}, decimal("0.1"), decimal("-0.01"), decimal("1000"), decimal("0.25"), decimal("3600")}
	offsets := []Decimal{{}, decimal("-40"), decimal("0.5")}
	for _, p := range fixed() {
		tried, rounds := 0, 4*80
		if p.Type.Integer() || p.Type.Float() {
			rounds = 3 * len(scales) * 4 * 20
		}
		for i := range rounds {
			p.Order = Order(i % 4)
			p.Scale = scales[i/4%len(scales)]
			p.Offset = Decimal{}
			if p.Type.Integer() {
				p.Offset = offsets[i/4/len(scales)%3]
			}
			if roundTrip(t, &p, sample(rnd, &p, i)) {
				tried++
			}
		}
		if tried < rounds/4 {
			t.Errorf("%s: only %d of %d values", p.Type, tried, rounds)
		}
	}
}

// sample returns raw bytes that p can hold: edges first.
func sample(rnd *rand.Rand, p *Point, i int) []byte {
	raw := make([]byte, p.RawLen())
	for k := range raw {
		raw[k] = byte(rnd.Uint32())
	}
	switch {
	case i < 24:
		copy(raw, bytes.Repeat([]byte{[]byte{0, 0xff, 0x7f, 0x80}[i%4]}, len(raw)))
	case p.Type == Bool && len(raw) == 1:
		return []byte{raw[0] & 1}
	case p.Type == String:
		text, _ := p.encodeString(nil, StringValue(fmt.Sprintf("%08x", rnd.Uint32())))
		return text
	case p.Type.Time(): // not the hour that comes twice
		at := time.Date(2000+rnd.IntN(100), time.Month(1+rnd.IntN(9)), 1+rnd.IntN(28), rnd.IntN(24), rnd.IntN(60), rnd.IntN(60), 0, time.UTC)
		text, _ := p.encodeTime(nil, timeValue(at))
		return text
	case p.Type == F64: // far from where the shortest form times the scale leaves 64 bits
		f := math.Round(rnd.Float64()*1e9) / 1e4
		return p.Order.appendPattern(nil, math.Float64bits(f), 8)
	case p.Type == F32:
		return p.Order.appendPattern(nil, uint64(math.Float32bits(rnd.Float32()*1e6-5e5)), 4)
	case p.Type == BCD16 || p.Type == BCD32 || p.Type == Mod10:
		_, high := p.limits()
		return p.appendInteger(nil, number{mant: rnd.Uint64() % (high.mant + 1)})
	case p.Type == U64 && i%3 == 0:
		return p.Order.appendPattern(nil, 1<<53+1, 8)
	}
	return raw
}

func roundTrip(t *testing.T, p *Point, raw []byte) bool {
	t.Helper()
	v, err := Decode(p, raw)
	if err != nil {
		return false
	}
	back, err := Encode([]byte("x"), p, v)
	if err != nil {
		t.Fatalf("%s %s × %s + %s: %x = %s does not encode: %v", p.Type, p.Order, p.Scale.orOne(), p.Offset, raw, v, err)
	}
	if !bytes.Equal(back[1:], raw) {
		again, err := Decode(p, back[1:]) // -0, padding, coils of 255
		if err != nil || !again.Equal(v) || !equivalent(p) {
			t.Fatalf("%s %s × %s + %s: %x = %s → %x", p.Type, p.Order, p.Scale.orOne(), p.Offset, raw, v, back[1:])
		}
	}
	if text := v.AppendJSON(nil); !json.Valid(text) {
		t.Fatalf("%s: %x: %s is not JSON", p.Type, raw, text)
	}
	return true
}

// equivalent tells whether several raw forms mean the same value of p.
func equivalent(p *Point) bool {
	mask, _ := p.field()
	whole := p.Type.Integer() && p.Type != Mod10 && bits.OnesCount64(mask) == 8*p.RawLen() && p.Type.info().class != magnitude
	return !whole && p.Type != Mod10
}

func TestHalfRoundTripsAll(t *testing.T) {
	p := Point{Type: F16}
	for h := range 1 << 16 {
		roundTrip(t, &p, []byte{byte(h >> 8), byte(h)})
	}
}

func TestEncodeErrorsNameTheLimit(t *testing.T) {
	for _, c := range []struct {
		point Point
		value Value
		want  string
	}{
		{Point{Type: U16}, IntValue(65536), "65536 is out of range: u16 holds 0 to 65535"},
		{Point{Type: U16, Scale: decimal("0.1")}, IntValue(-1), "-1 is out of range: u16 holds 0 to 6553.5"},
		{Point{Type: I16, Scale: decimal("-0.1")}, IntValue(4000), "4000 is out of range: i16 holds -3276.7 to 3276.8"},
		{Point{Type: U64}, FloatValue(1e300), "1e+300 is out of range: u64 holds 0 to 18446744073709551615"},
		{Point{Type: BCD16}, IntValue(10000), "10000 is out of range: bcd16 holds 0 to 9999"},
		{Point{Type: F32}, FloatValue(1e39), "1e+39 is more than f32 holds"},
		{Point{Type: F16}, FloatValue(70000), "70000 is more than f16 holds"},
		{Point{Type: String, Length: 2}, StringValue("abc"), "3 bytes are more than string(2) holds"},
		{Point{Type: U16}, StringValue("abc"), "abc is no number"},
		{Point{Type: U16}, Value{}, "null is no number"},
		{Point{Type: Bool}, IntValue(2), "2 is neither true nor false"},
		{Point{Type: U16, Enum: map[int64]string{0: "off", 2: "auto"}}, StringValue("on"), `"on" is none of off, auto`},
	} {
		raw, err := Encode(nil, &c.point, c.value)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s of %s: %x, %v; want %s", c.point.Type, c.value, raw, err, c.want)
		}
	}
}

func TestEncodeRoundsToTheNearest(t *testing.T) {
	p := Point{Type: I16, Scale: decimal("0.1")}
	for in, want := range map[float64]int64{21.54: 215, 21.55: 216, -21.55: -216, 230.1: 2301, 0.04: 0, -0.04: 0} {
		raw, err := Encode(nil, &p, FloatValue(in))
		if got := int64(int16(uint16(raw[0])<<8 | uint16(raw[1]))); err != nil || got != want {
			t.Errorf("%v: %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestEncodeRefusesWhatDoesNotFit(t *testing.T) {
	for _, c := range []struct {
		point Point
		value Value
		want  string
	}{
		{Point{Type: U16, Mask: 0xf0}, IntValue(16), "16 is out of range: u16 holds 0 to 15"},
		{Point{Type: I8H}, IntValue(128), "128 is out of range: i8h holds -128 to 127"},
		{Point{Type: SM16}, IntValue(-32768), "-32768 is out of range: sm16 holds -32767 to 32767"},
		{Point{Type: U48}, IntValue(1 << 48), "281474976710656 is out of range: u48 holds 0 to 281474976710655"},
		{Point{Type: String, Length: 4, Encoding: ASCII}, StringValue("°C"), "'°' cannot be written in ASCII"},
		{Point{Type: String, Length: 4, Encoding: Latin1}, StringValue("€"), "'€' cannot be written in Latin-1"},
		{Point{Type: String, Length: 2, Layout: LowByte}, StringValue("abc"), "3 bytes are more than string(2) holds"},
		{Point{Type: String, Length: 2, Encoding: UTF16}, StringValue("abc"), "6 bytes of UTF-16 are more than string(2) holds"},
		{Point{Type: Unix32}, StringValue("2107-01-01T00:00:00Z"), "2107-01-01T00:00:00Z is out of range: unix32 begins with 1970 and has 32 bits"},
		{Point{Type: Unix64}, StringValue("1969-01-01T00:00:00Z"), "1969-01-01T00:00:00Z is out of range: unix64 begins with 1970 and has 64 bits"},
		{Point{Type: SchneiderTime}, StringValue("1999-01-01T00:00:00Z"), "1999-01-01T00:00:00Z is out of range: schneider_time knows 2000 to 2127"},
		{Point{Type: YMDHMS}, StringValue("noon"), "noon is no time like 2026-11-20T23:06:00Z"},
		{Point{Type: IPv4}, StringValue("fd00::1"), `"fd00::1" is no ipv4 address`},
		{Point{Type: IPv6}, StringValue("10.0.0.1"), `"10.0.0.1" is no ipv6 address`},
		{Point{Type: MAC}, StringValue("00:1a:2b:3c:4d"), `"00:1a:2b:3c:4d" is no address of six bytes`},
		{Point{Type: EUI48}, StringValue("001a2b3c4d5e"), `"001a2b3c4d5e" is no address like 00:1a:2b:3c:4d:5e`},
	} {
		raw, err := Encode(nil, &c.point, c.value)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s of %s: %x, %v; want %s", c.point.Type, c.value, raw, err, c.want)
		}
	}
}

// The exponent may come before or after, in the same cycle or an earlier one;
// without it, and with one that cannot be, there is no number.
func TestScaleFactors(t *testing.T) {
	factor := named("_scale", Point{Type: I16, Invalid: []int64{-0x8000}, Hidden: true})
	power := named("power", Point{Type: I16, ScaleFrom: factor, Unit: "W"})
	f := newFeed(t, newDevice("d", "d", power, factor))
	if got := f.send(devices.Online, "power=0905")[1]; !strings.Contains(got, `"value":null,"unit":"W","time":"2026-11-20T23:06:00.123Z","quality":"bad","error":"no scale factor"`) {
		t.Error(got)
	}
	for _, c := range []struct{ power, factor, want string }{
		{"0905", "ffff", `"power":230.9`},
		{"0905", "0002", `"power":230900`},
		{"0905", "0000", `"power":2309`},
		{"0905", "", `"power":2309`}, // as before
		{"0905", "000b", `"power":null,"errors":{"power":"scale factor out of range"}`},
		{"0905", "8000", `"power":null,"errors":{"power":"no scale factor"}`},
		{"0905", "fff6", `"power":0.0000002309`},
	} {
		readings := []string{"power=" + c.power}
		if c.factor != "" {
			readings = append(readings, "_scale="+c.factor)
		}
		b := f.batch(devices.Online, readings...)
		lines := f.lines(f.m.AppendMessages(nil, b, f.clock))
		if got := lines[len(lines)-1]; !strings.HasSuffix(got, `Z",`+c.want+"}") {
			t.Errorf("%s × 10^%s: %s, want %s", c.power, c.factor, got, c.want)
		}
		if now := f.m.AppendCurrent(nil, b); len(now) != 1 || c.factor == "" && now[0].Cause != "no scale factor" {
			t.Errorf("AppendCurrent: %+v", now)
		}
		b.Release()
	}
	if len(f.m.Snapshot("d")) != 1 {
		t.Error("a hidden point is shown")
	}
}

func TestEncodeText(t *testing.T) {
	for _, c := range []struct {
		point Point
		value Value
		want  string
	}{
		{Point{Type: F64, FromText: true}, FloatValue(12.5), "12.5"},
		{Point{Type: F64, FromText: true, Scale: decimal("0.1")}, FloatValue(12.5), "125"},
		{Point{Type: F64, FromText: true, Scale: decimal("3")}, IntValue(1), "0.333333333"},
		{Point{Type: U16, FromText: true}, FloatValue(12.5), "13"},
		{Point{Type: Text, EnumText: map[string]string{"A": "valid"}}, StringValue("valid"), "A"},
		{Point{Type: Text}, StringValue("as is"), "as is"},
		{Point{Type: Bool, FromText: true}, BoolValue(true), "true"},
	} {
		if got, err := Encode(nil, &c.point, c.value); err != nil || string(got) != c.want {
			t.Errorf("%s of %s: %q, %v; want %q", c.point.Type, c.value, got, err, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(byte(U16), byte(BADC), 0, int64(1), int8(-1), int64(-40), []byte{8, 0xfd}, false)
	f.Add(byte(F32), byte(CDAB), 0, int64(0), int8(0), int64(0), []byte{0x19, 0x9a, 0x43, 0x66}, false)
	f.Add(byte(U64), byte(ABCD), 0, int64(3), int8(2), int64(7), []byte("\xff\xff\xff\xff\xff\xff\xff\xff"), false)
	f.Add(byte(String), byte(DCBA), 3, int64(0), int8(0), int64(0), []byte("ab\xffd"), false)
	f.Add(byte(Mod10), byte(ABCD), 6, int64(1), int8(-2), int64(0), []byte{0, 1, 0, 2, 0, 3}, false)
	f.Add(byte(F64), byte(ABCD), 0, int64(1), int8(-1), int64(0), []byte("1e-9"), true)
	f.Add(byte(SchneiderTime), byte(ABCD), 0, int64(1), int8(0), int64(0), []byte("\x00\x1a\x0b\xd4\x17\x06\xe6\xbb"), false)
	f.Add(byte(EUI48), byte(BADC), 0, int64(1), int8(0), int64(0), []byte("12345678"), false)
	f.Add(byte(I24), byte(CDAB), 0, int64(1), int8(0), int64(0), []byte("1234"), false)
	f.Fuzz(func(t *testing.T, typ, order byte, length int, mant int64, exp int8, offset int64, raw []byte, text bool) {
		if exp == math.MinInt8 {
			return // ParseDecimal gives none
		}
		p := Point{Type: Type(typ), Order: Order(order % 4), Length: length, FromText: text,
			Scale: Decimal{mant, exp}, Offset: Decimal{Mant: offset}}
		v, err := Decode(&p, raw)
		if err != nil {
			return
		}
		if out := v.AppendJSON(nil); !json.Valid(out) {
			t.Fatalf("%s: %x: %s is not JSON", p.Type, raw, out)
		}
		back, err := Encode(nil, &p, v)
		if !p.Type.Integer() || text {
			return
		}
		if again, derr := Decode(&p, back); err != nil || derr != nil || !again.Equal(v) || !bytes.Equal(back, raw) && !equivalent(&p) {
			t.Fatalf("%s: %x = %s → %x, %v", p.Type, raw, v, back, err)
		}
	})
}

func TestDecodeAllocatesNothing(t *testing.T) {
	points := []Point{
		{Type: Bool}, {Type: U16, Scale: decimal("0.1")}, {Type: I64}, {Type: F32}, {Type: F32, Scale: decimal("0.1")},
		{Type: U16, Enum: map[int64]string{0: "off"}}, {Type: U16, Bits: map[int]string{0: "on"}}, {Type: F32, Invalid: []int64{0}},
	}
	raw := make([]byte, 8)
	buf := make([]byte, 0, 100)
	for _, p := range points {
		in := raw[:p.RawLen()]
		if n := testing.AllocsPerRun(100, func() {
			v, _ := Decode(&p, in)
			buf = v.AppendJSON(buf[:0])
		}); n > 0 {
			t.Errorf("%s allocates %v times", p.Type, n)
		}
	}
}
