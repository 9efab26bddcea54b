package serial

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
)

// A sentence is one NMEA 0183 sentence whose checksum was verified:
// `$WIMWV,214.8,R,12.6,N,A*19` is address WIMWV and five data fields.
type sentence struct {
	address string
	fields  [][]byte // of the line it came from; fields[0] is data field 1
}

// parseNMEA finds the sentence in a line and proves it. It begins at the last
// `$` or `!`: neither may stand inside a sentence (NMEA 0183, reserved
// characters), so what stands before is noise or a sentence cut off. dst is
// the room for its fields.
func parseNMEA(line []byte, dst [][]byte) (sentence, error) {
	start := bytes.LastIndexAny(line, "$!")
	if start < 0 {
		return sentence{}, fmt.Errorf("no $ in %q", clip(line))
	}
	line = line[start+1:]
	star := len(line) - 3
	if star < 0 || line[star] != '*' {
		return sentence{}, fmt.Errorf("no checksum at the end of %q", clip(line))
	}
	body := line[:star]
	if err := verifyXOR(body, line[star+1:]); err != nil {
		return sentence{}, err
	}
	address, data, found := bytes.Cut(body, []byte{','})
	if !isAddress(address) {
		return sentence{}, fmt.Errorf("no address field in %q", clip(line))
	}
	s := sentence{address: string(address), fields: dst[:0]}
	if found {
		s.fields = appendFields(s.fields, data)
	}
	return s, nil
}

// CheckNMEA finds what is wrong with a line that should hold an NMEA 0183
// sentence.
func CheckNMEA(line []byte) error {
	_, err := parseNMEA(line, nil)
	return err
}

// verifyXOR compares the exclusive or of all bytes of body with two
// hexadecimal digits.
func verifyXOR(body, digits []byte) error {
	var want [1]byte
	if _, err := hex.Decode(want[:], digits); err != nil {
		return fmt.Errorf("checksum %q of %q is not hexadecimal", digits, clip(body))
	}
	var sum byte
	for _, c := range body {
		if c < ' ' || c > '~' || c == '*' {
			return fmt.Errorf("byte %#02x may not stand in a sentence: %q", c, clip(body))
		}
		sum ^= c
	}
	if sum != want[0] {
		return fmt.Errorf("checksum of %q is %02X, the line says %s", clip(body), sum, digits)
	}
	return nil
}

// isAddress reports whether b can be an address field: a talker and a
// formatter (five characters), or P, a maker and what the maker likes.
func isAddress(b []byte) bool {
	for _, c := range b {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return len(b) >= 3
}

// is reports whether the sentence is the one called name: its whole address,
// or its formatter from whichever talker. A maker's own sentence (P…) has no
// talker.
func (s sentence) is(name string) bool {
	return s.address == name || s.formatter() == name
}

func (s sentence) formatter() string {
	if len(s.address) == 5 && s.address[0] != 'P' {
		return s.address[2:]
	}
	return s.address
}

// Some sentences say in one field that others hold nothing to rely on: the
// wind sensor that is iced up, the receiver without a fix. Their last known
// values are still in the line.
type validity struct {
	status int    // field that says so
	bad    string // what it holds then
	covers string // fields meant, by one character each: 1 to 9, a is 10
}

var validities = map[string]validity{
	"MWV": {5, "V", "1234"},
	"RMC": {2, "V", "345678ab"}, // not its time and date
	"GLL": {6, "V", "1234"},
	"GGA": {6, "0", "234589b"},
	"VTG": {9, "N", "12345678"},
}

// invalid reports whether the sentence itself says that field i holds no
// valid value.
func (s sentence) invalid(i int) bool {
	v, ok := validities[s.formatter()]
	if !ok || len(s.fields) < v.status || string(s.fields[v.status-1]) != v.bad {
		return false
	}
	const digits = "0123456789abcdef"
	return i < len(digits) && strings.IndexByte(v.covers, digits[i]) >= 0
}
