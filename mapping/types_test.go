package mapping

import (
	"strings"
	"testing"
)

func TestParseType(t *testing.T) {
	for _, c := range []struct {
		in        string
		want      Type
		length    int
		registers int
		err       string // part of it
	}{
		{"bool", Bool, 0, 1, ""}, {"u16", U16, 0, 1, ""}, {"I32", I32, 0, 2, ""}, {"f64", F64, 0, 4, ""},
		{"bcd32", BCD32, 0, 2, ""}, {"string(16)", String, 16, 8, ""}, {"string( 5 )", String, 5, 3, ""},
		{"bytes(3)", Bytes, 3, 2, ""}, {"mod10(4)", Mod10, 8, 4, ""}, {"text", Text, 0, 0, ""},
		{"u17", 0, 0, 0, "one of bool u16"}, {"", 0, 0, 0, "one of bool"}, {"string", 0, 0, 0, "string(4)"},
		{"u16(2)", 0, 0, 0, "has no size"}, {"string(0)", 0, 0, 0, "from 1 to 250 bytes"}, {"string(x)", 0, 0, 0, "want a number"},
		{"string(4", 0, 0, 0, "closing"}, {"bytes(251)", 0, 0, 0, "from 1 to 250"}, {"mod10(5)", 0, 0, 0, "2 to 4 registers"},
	} {
		got, length, err := ParseType(c.in)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("ParseType(%q): error %v, want one with %q", c.in, err, c.err)
			}
			continue
		}
		if err != nil || got != c.want || length != c.length || got.Registers(length) != c.registers {
			t.Errorf("ParseType(%q) = %s, %d, %v in %d registers", c.in, got, length, err, got.Registers(length))
		}
	}
}

func TestParseOrder(t *testing.T) {
	for in, want := range map[string]Order{"ABCD": ABCD, "cdab": CDAB, "BADCFEHG": BADC, "HGFEDCBA": DCBA, "GHEFCDAB": CDAB} {
		if got, err := ParseOrder(in); err != nil || got != want {
			t.Errorf("ParseOrder(%q) = %s, %v", in, got, err)
		}
	}
	if _, err := ParseOrder("ACBD"); err == nil || !strings.Contains(err.Error(), "CDAB (low register first)") {
		t.Errorf("ACBD: %v", err)
	}
}
