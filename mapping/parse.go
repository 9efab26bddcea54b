package mapping

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// ParseValue reads a value for p as people and programs write it: JSON, or
// bare: 21.5, on, auto. It knows the names of p's Enum and the words for true
// and false; Bytes are hexadecimal; Bits are an object that names them all, or
// a number. It checks the kind, not the limits: see CheckWrite.
func ParseValue(p *Point, text []byte) (Value, error) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return Value{}, errors.New("empty")
	}
	if text[0] == '"' {
		var s string
		if err := json.Unmarshal(text, &s); err != nil {
			return Value{}, fmt.Errorf("JSON string: %w", err)
		}
		return p.parseString(s)
	}
	switch {
	case string(text) == "null":
		return Value{}, errors.New("null cannot be written")
	case text[0] == '{' && len(p.Bits) > 0:
		return p.parseBits(text)
	case len(p.Enum) > 0 || len(p.EnumText) > 0 || p.Type == Bytes || p.texts():
		if n, err := parseNumber(text); err == nil && len(p.Enum) > 0 {
			return p.named(n), nil
		}
		return p.parseString(string(text))
	case p.Type == Bool:
		return p.parseBool(text)
	}
	return p.parseQuantity(text)
}

// texts reports whether p's values are texts.
func (p *Point) texts() bool {
	return p.Type == String || p.Type == Text || p.Type.Time() || p.Type.Address()
}

// parseString reads what is text: names, strings and bytes.
func (p *Point) parseString(s string) (Value, error) {
	switch {
	case len(p.Enum) > 0:
		return p.parseName(s)
	case p.Type == Bytes:
		b, err := hex.DecodeString(s)
		if err != nil {
			return Value{}, fmt.Errorf("%q is not hexadecimal", s)
		}
		return BytesValue(b), nil
	case p.texts() || len(p.EnumText) > 0:
		return StringValue(s), nil
	case p.Type == Bool:
		return p.parseBool([]byte(s))
	}
	return Value{}, fmt.Errorf("%q is text; %s wants a number", s, p.Type)
}

// parseName reads a name of p's Enum. A named bit also takes the words for
// true and false.
func (p *Point) parseName(s string) (Value, error) {
	if n, ok := p.rawOf(StringValue(s)); ok {
		return Value{kind: KindName, num: n, text: s}, nil
	}
	if b, ok := parseBool([]byte(s)); ok && p.Type == Bool {
		return p.named(BoolValue(b).num), nil
	}
	return Value{}, fmt.Errorf("%q is none of %s", s, p.names())
}

func (p *Point) parseBool(text []byte) (Value, error) {
	b, ok := parseBool(text)
	if !ok {
		return Value{}, fmt.Errorf("%q is neither true nor false", text)
	}
	return BoolValue(b), nil
}

func (p *Point) parseQuantity(text []byte) (Value, error) {
	n, err := parseNumber(text)
	if err == nil {
		if len(p.Bits) > 0 && !n.neg && n.exp == 0 {
			return Value{kind: KindBits, num: n, names: p.Bits}, nil
		}
		return numberValue(n), nil
	}
	if p.Type.Float() && !errors.Is(err, errNotNumber) { // 1e200, or more digits than a float has
		if f, ferr := strconv.ParseFloat(string(text), 64); ferr == nil && !math.IsInf(f, 0) {
			return FloatValue(f), nil
		}
	}
	return Value{}, fmt.Errorf("%q: %w", text, err)
}

// parseBits reads an object of bools. All named bits must be there: what is
// left out would be cleared without anyone having said so.
func (p *Point) parseBits(text []byte) (Value, error) {
	var object map[string]*bool
	if err := json.Unmarshal(text, &object); err != nil {
		return Value{}, fmt.Errorf("bits: want an object of true and false: %w", err)
	}
	v := Value{kind: KindBits, names: p.Bits}
	for bit := range 64 {
		name, ok := p.Bits[bit]
		if !ok {
			continue
		}
		set := object[name]
		if set == nil {
			return Value{}, fmt.Errorf("bit %q is missing: all are written at once", name)
		}
		if *set {
			v.num.mant |= 1 << bit
		}
		delete(object, name)
	}
	for name := range object {
		return Value{}, fmt.Errorf("no bit is called %q", name)
	}
	return v, nil
}
