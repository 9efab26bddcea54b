package mapping

import "testing"

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
