package mapping

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// decodeString reads a String. NUL and space before and behind the text are no
// part of it.
func (p *Point) decodeString(raw []byte) (Value, error) {
	if p.ZeroIsNone && isZero(raw) {
		return Value{}, errNoValue
	}
	raw = p.ordered(raw)
	switch {
	case p.Encoding == UTF16:
		return StringValue(strings.Trim(utf16Text(raw), "\x00 ")), nil
	case p.Layout == Packed:
		raw = raw[:p.Length]
	default:
		raw = everySecond(raw, int(p.Layout-HighByte))
	}
	raw = bytes.Trim(raw, "\x00 ")
	switch {
	case p.Encoding == Latin1:
		return StringValue(latin1Text(raw)), nil
	case p.Encoding == ASCII && slices.ContainsFunc(raw, func(b byte) bool { return b >= utf8.RuneSelf }):
		return Value{}, errASCII
	}
	return StringValue(string(raw)), nil
}

func isZero(raw []byte) bool {
	return !slices.ContainsFunc(raw, func(b byte) bool { return b != 0 })
}

func everySecond(raw []byte, from int) []byte {
	chars := make([]byte, 0, len(raw)/2)
	for i := from; i < len(raw); i += 2 {
		chars = append(chars, raw[i])
	}
	return chars
}

func utf16Text(raw []byte) string {
	units := make([]uint16, len(raw)/2)
	for i := range units {
		units[i] = uint16(raw[2*i])<<8 | uint16(raw[2*i+1])
	}
	return string(utf16.Decode(units))
}

func latin1Text(raw []byte) string {
	runes := make([]rune, len(raw))
	for i, b := range raw {
		runes[i] = rune(b)
	}
	return string(runes)
}

func (p *Point) encodeString(dst []byte, v Value) ([]byte, error) {
	if v.kind != KindString {
		return dst, fmt.Errorf("%s is no %s", v, p.Type)
	}
	text, err := p.encoded(v.text)
	if err != nil {
		return dst, err
	}
	room, unit := p.Length, "bytes"
	if p.Encoding == UTF16 {
		room, unit = 2*p.Length, "bytes of UTF-16"
	}
	if len(text) > room {
		return dst, fmt.Errorf("%d %s are more than %s(%d) holds", len(text), unit, p.Type, p.Length)
	}
	if p.Layout != Packed && p.Encoding != UTF16 {
		text = spread(text, int(p.Layout-HighByte))
	}
	return p.appendOrdered(dst, text), nil
}

// encoded returns s in the bytes of p's encoding.
func (p *Point) encoded(s string) ([]byte, error) {
	var text []byte
	for _, r := range s {
		switch {
		case p.Encoding == UTF16:
			for _, unit := range utf16.Encode([]rune{r}) {
				text = append(text, byte(unit>>8), byte(unit))
			}
		case p.Encoding == Latin1 && r <= 0xff || p.Encoding == ASCII && r < utf8.RuneSelf:
			text = append(text, byte(r))
		case p.Encoding == UTF8:
			return []byte(s), nil
		default:
			return nil, fmt.Errorf("%q cannot be written in %s", r, [...]string{ASCII: "ASCII", Latin1: "Latin-1"}[p.Encoding])
		}
	}
	return text, nil
}

// spread puts each byte into one half of a register.
func spread(text []byte, half int) []byte {
	wide := make([]byte, 2*len(text))
	for i, b := range text {
		wide[2*i+half] = b
	}
	return wide
}

// decodeAddress reads an address as people write it.
func (p *Point) decodeAddress(raw []byte) (Value, error) {
	if p.ZeroIsNone && isZero(raw) {
		return Value{}, errNoValue
	}
	switch p.Type {
	case IPv4:
		n := p.Order.pattern(raw)
		return StringValue(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}).String()), nil
	case IPv6:
		return StringValue(netip.AddrFrom16([16]byte(p.ordered(raw))).String()), nil
	}
	mac := p.ordered(raw)
	mac = mac[len(mac)-6:]
	if p.ZeroIsNone && bytes.Equal(mac, []byte("\xff\xff\xff\xff\xff\xff")) {
		return Value{}, errNoValue
	}
	return StringValue(strings.ReplaceAll(fmt.Sprintf("% x", mac), " ", ":")), nil
}

func (p *Point) encodeAddress(dst []byte, v Value) ([]byte, error) {
	if v.kind != KindString {
		return dst, fmt.Errorf("%s is no address", v)
	}
	if p.Type == MAC || p.Type == EUI48 {
		return p.encodeMAC(dst, v.text)
	}
	a, err := netip.ParseAddr(v.text)
	switch {
	case err != nil || p.Type == IPv4 && !a.Is4() || p.Type == IPv6 && (!a.Is6() || a.Zone() != ""):
		return dst, fmt.Errorf("%q is no %s address", v.text, p.Type)
	case p.Type == IPv6:
		b := a.As16()
		return p.appendOrdered(dst, b[:]), nil
	}
	b := a.As4()
	return p.Order.appendPattern(dst, ABCD.pattern(b[:]), 4), nil
}

func (p *Point) encodeMAC(dst []byte, text string) ([]byte, error) {
	mac := make([]byte, p.RawLen()-6, p.RawLen())
	for part := range strings.SplitSeq(text, ":") {
		b, err := decodeHex([]byte(part))
		if err != nil || len(b.text) != 1 {
			return dst, fmt.Errorf("%q is no address like 00:1a:2b:3c:4d:5e", text)
		}
		mac = append(mac, b.text...)
	}
	if len(mac) != p.RawLen() {
		return dst, fmt.Errorf("%q is no address of six bytes", text)
	}
	return p.appendOrdered(dst, mac), nil
}
