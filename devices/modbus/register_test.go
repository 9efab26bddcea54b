package modbus

import (
	"strings"
	"testing"
)

func TestParseRef(t *testing.T) {
	for ref, want := range map[string]string{
		"40001": "holding 0", "40103": "holding 102", "49999": "holding 9998",
		"400001": "holding 0", "465536": "holding 65535",
		"30001": "input 0", "300010": "input 9", "10001": "discrete 0", "00001": "coil 0", "000001": "coil 0",
		"40000": "count from 1", "465537": "count from 1", "20001": "first digit", "4001": "five digits",
		"4000001": "five digits", "": "five digits", "4x001": "only digits", "4-001": "only digits",
	} {
		reg, err := ParseRef(ref)
		got := reg.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || err == nil && got != want {
			t.Errorf("%q: %s, want %s", ref, got, want)
		}
	}
}

func TestExceptionWords(t *testing.T) {
	for code, want := range map[byte]string{2: "illegal data address", 11: "no answer behind the gateway", 0x80: "exception 128"} {
		e := &Exception{Function: 3, Code: code}
		if e.Cause() != want || !strings.Contains(e.Error(), want) {
			t.Errorf("%d: %s, %v", code, e.Cause(), e)
		}
	}
}

func TestWriteRequest(t *testing.T) {
	for _, tt := range []struct {
		reg  Register
		raw  string
		want string // the PDU, or a part of the error
	}{
		{Register{Coil, 0xAC, 1}, "\x01", "\x05\x00\xAC\xFF\x00"},
		{Register{Coil, 0xAC, 0}, "\x00", "\x05\x00\xAC\x00\x00"},
		{Register{Holding, 1, 1}, "\x00\x03", "\x06\x00\x01\x00\x03"},
		{Register{Holding, 1, 2}, "\x00\x0A\x01\x02", "\x10\x00\x01\x00\x02\x04\x00\x0A\x01\x02"},
		// The example of the specification, 6.11: CD 01 to ten coils.
		{Register{Coil, 0x13, 10}, "\x01\x00\x01\x01\x00\x00\x01\x01\x01\x00", "\x0F\x00\x13\x00\x0A\x02\xCD\x01"},
		{Register{Discrete, 0, 1}, "\x01", "can only be read"},
		{Register{Input, 0, 2}, "\x01\x02\x03\x04", "can only be read"},
		{Register{Holding, 0, 2}, "\x01\x02", "not its size"},
		{Register{Holding, 0, 124}, strings.Repeat("x", 248), "at most"},
		{Register{Holding, 65535, 2}, "abcd", "end at 65535"},
	} {
		r, err := writeRequest(1, tt.reg, []byte(tt.raw), 0)
		if err != nil {
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: %v, want %s", tt.reg, err, tt.want)
			}
			continue
		}
		if string(r.pdu) != tt.want {
			t.Errorf("%v: % x, want % x", tt.reg, r.pdu, tt.want)
		}
	}
}
