package mapping

import (
	"encoding/json"
	"testing"
)

// A list is a JSON array of what its type makes of each value, and cannot be
// written.
func TestLists(t *testing.T) {
	for _, tt := range []struct {
		point Point
		raw   string
		want  string // JSON, "" for no value
	}{
		{Point{Type: U16}, "\x00\x01\xFF\xFF", "[1,65535]"},
		{Point{Type: U16}, "", "[]"},
		{Point{Type: I16, Scale: Decimal{1, -1}}, "\xFF\xFF\x00\x19", "[-0.1,2.5]"},
		{Point{Type: U16, Invalid: []int64{0xFFFF}}, "\xFF\xFF\x00\x01", "[null,1]"},
		{Point{Type: U32, Order: CDAB}, "\x00\x02\x00\x01", "[65538]"},
		{Point{Type: U16, Enum: map[int64]string{1: "on"}}, "\x00\x01\x00\x02", `["on",2]`},
		{Point{Type: U32}, "\x00\x02", ""},
		{Point{Type: U16}, "\x00", ""},
		{Point{Type: Text}, "\x00", ""},
	} {
		tt.point.List = true
		v, err := Decode(&tt.point, []byte(tt.raw))
		if (err == nil) != (tt.want != "") || err == nil && string(v.AppendJSON(nil)) != tt.want {
			t.Errorf("% x as %s: %s, %v, want %s", tt.raw, tt.point.Type, v, err, tt.want)
		}
		if err == nil && (!v.Equal(v) || v.String() != tt.want) {
			t.Errorf("%s as text: %s", tt.want, v)
		}
		if _, err := Encode(nil, &tt.point, IntValue(1)); err == nil {
			t.Errorf("a list of %s was encoded", tt.point.Type)
		}
	}
}

func FuzzDecodeList(f *testing.F) {
	f.Add(byte(U16), byte(ABCD), 0, int8(0), []byte{0, 1, 0xFF, 0xFF})
	f.Add(byte(F32), byte(CDAB), 0, int8(-1), []byte{0x19, 0x9A, 0x43, 0x66, 0, 0, 0x7F, 0xC0})
	f.Add(byte(String), byte(BADC), 3, int8(0), []byte("ab\xffd"))
	f.Fuzz(func(t *testing.T, typ, order byte, length int, exp int8, raw []byte) {
		if length < 0 || length > maxBytes {
			return // ParseType gives none
		}
		p := Point{Type: Type(typ), Order: Order(order % 4), Length: length, List: true, Scale: Decimal{1, max(exp, -127)}}
		v, err := Decode(&p, raw)
		if err != nil {
			return
		}
		var list []any
		if err := json.Unmarshal(v.AppendJSON(nil), &list); err != nil || len(raw) > 0 && len(list) == 0 {
			t.Fatalf("%s: %x: %s: %v", p.Type, raw, v, err)
		}
	})
}
