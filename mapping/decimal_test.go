package mapping

import (
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

func TestParseDecimal(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // canonical, or "" for an error
	}{
		{"0", "0"}, {"-0", "0"}, {"0.000", "0"}, {"1", "1"}, {"-1", "-1"}, {"+5", "5"},
		{"0.1", "0.1"}, {"230.10", "230.1"}, {"1e-3", "0.001"}, {"1E3", "1000"}, {"012.5", "12.5"},
		{".5", "0.5"}, {"12.", "12"}, {"1000", "1000"}, {"1e30", "1e30"},
		{"9223372036854775807", "9223372036854775807"}, {"-9223372036854775807", "-9223372036854775807"},
		{"0.0000000001", "0.0000000001"}, {"1e-30", "1e-30"}, {"3600000.0000", "3600000"},
		{"100000000000000000000000000000000000e-35", "1"},
		{"", ""}, {".", ""}, {"-", ""}, {"1e", ""}, {"1e+", ""}, {"1x", ""}, {" 1", ""}, {"1.2.3", ""}, {"0x10", ""}, {"NaN", ""},
		{"9223372036854775808", ""}, {"123456789012345678901", ""}, {"1e200", ""}, {"1e-200", ""}, {"1e99999999999", ""},
	} {
		d, err := ParseDecimal(c.in)
		switch {
		case (err != nil) != (c.want == ""):
			t.Errorf("ParseDecimal(%q) = %v, %v", c.in, d, err)
		case err == nil && d.String() != c.want:
			t.Errorf("ParseDecimal(%q) = %s, want %s", c.in, d, c.want)
		}
	}
}

func TestAffineIsExact(t *testing.T) {
	for _, c := range []struct{ n, scale, offset, want string }{
		{"2301", "0.1", "0", "230.1"},
		{"2300", "0.1", "0", "230"},
		{"2301", "0", "0", "2301"}, // the zero Scale is 1
		{"-400", "0.1", "-10", "-50"},
		{"100", "0.1", "-10", "0"},
		{"9007199254740993", "0.1", "0", "900719925474099.3"},
		{"18446744073709551615", "1", "0", "18446744073709551615"},
		{"18446744073709551615", "-1", "0", "-18446744073709551615"},
		{"18446744073709551615", "0.001", "0", "18446744073709551.615"},
		{"18446744073709551615", "10", "0", "184467440737095516150"},
		{"18446744073709551615", "7", "0", ""},
		{"18446744073709551610", "0.1", "0", "1844674407370955161"},
		{"5", "1000", "0", "5000"},
		{"1", "1e-100", "1e100", ""},
		{"-1", "0.3", "0.3", "0"},
	} {
		n, _ := parseNumber([]byte(c.n))
		scale, _ := ParseDecimal(c.scale)
		offset, _ := ParseDecimal(c.offset)
		got, ok := n.affine(scale, offset)
		switch {
		case ok != (c.want != ""):
			t.Errorf("%s × %s + %s = %s, ok %v", c.n, c.scale, c.offset, got.append(nil), ok)
		case ok && string(got.append(nil)) != c.want:
			t.Errorf("%s × %s + %s = %s, want %s", c.n, c.scale, c.offset, got.append(nil), c.want)
		}
	}
}

// The reference is math/big.
func TestAffineAgreesWithFractions(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	fits := 0
	for range 20000 {
		n := number{mant: rnd.Uint64() >> rnd.IntN(64), neg: rnd.IntN(2) == 0}
		scale := Decimal{Mant: rnd.Int64() >> rnd.IntN(64), Exp: int8(rnd.IntN(12) - 6)}
		offset := Decimal{Mant: rnd.Int64() >> rnd.IntN(64), Exp: int8(rnd.IntN(12) - 6)}
		got, ok := n.affine(scale, offset)
		if !ok {
			continue
		}
		fits++
		want := n.rat()
		want.Mul(want, scale.orOne().number().rat())
		want.Add(want, offset.number().rat())
		if got.rat().Cmp(want) != 0 {
			t.Fatalf("%v × %v + %v = %v, want %v", n, scale, offset, got, want)
		}
	}
	if fits < 2000 {
		t.Errorf("only %d results fit", fits)
	}
}

func TestNumberFloatIsNearest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		n := number{mant: rnd.Uint64() >> rnd.IntN(64), exp: int8(rnd.IntN(60) - 30), neg: rnd.IntN(2) == 0}
		want, _ := n.rat().Float64()
		if got := n.float(); got != want && math.Abs(got) != math.Abs(want) { // -0
			t.Fatalf("%v: %v, want %v", n, got, want)
		}
	}
}

func TestNumberTextReadsBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 20000 {
		n, ok := normal(rnd.IntN(2) == 0, wide{lo: rnd.Uint64() >> rnd.IntN(64)}, rnd.IntN(250)-125)
		if !ok {
			continue
		}
		text := n.append(nil)
		back, err := parseNumber(text)
		if err != nil || back != n {
			t.Fatalf("%v → %s → %v, %v", n, text, back, err)
		}
		if !json.Valid(text) {
			t.Fatalf("%s is not JSON", text)
		}
	}
}

func FuzzParseNumber(f *testing.F) {
	for _, s := range []string{"230.1", "-0.5e-3", "1e999", "00012.500", "+.5", "18446744073709551615", "1" + strings.Repeat("0", 40)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseNumber([]byte(s))
		if err != nil {
			return
		}
		if n == (number{}) {
			return // math/big refuses some exponents of zero
		}
		want, ok := new(big.Rat).SetString(s)
		if !ok {
			t.Fatalf("%q is no number, but gave %v", s, n)
		}
		if n.rat().Cmp(want) != 0 {
			t.Fatalf("%q = %v, want %v", s, n.rat(), want)
		}
		if _, err := strconv.ParseFloat(string(n.append(nil)), 64); err != nil {
			t.Fatal(err)
		}
	})
}
