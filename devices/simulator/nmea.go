package simulator

import (
	"fmt"
	"strconv"
	"strings"
)

// forms are the sentences of NMEA 0183 whose other fields are known: talker,
// then the fields after the tag. `@` and a unit stands for a value in it,
// `@unit` for the letter of the unit of the field before. A sentence that is
// not here has its undeclared fields empty, which the standard calls a null
// field.
var forms = map[string]struct{ talker, fields string }{
	"DBT": {"SD", "@ft,f,@m,M,@fathom,F"},
	"DPT": {"SD", "@m,0.0"},
	"HDM": {"HC", "@°,M"},
	"HDT": {"HE", "@°,T"},
	"MMB": {"II", ",I,@bar,B"},
	"MTA": {"II", "@°C,C"},
	"MTW": {"YX", "@°C,C"},
	"MWD": {"WI", "@°,T,,M,@kn,N,@m/s,M"},
	"MWV": {"WI", "@°,R,@kn,@unit,A"},
	"VHW": {"VW", "@°,T,,M,@kn,N,@km/h,K"},
	"VTG": {"GP", "@°,T,,M,@kn,N,@km/h,K,A"},
}

// defaultTalker is what "integrated instrumentation" sends as.
const defaultTalker = "II"

// speedLetters are what MWV writes for the unit of its speed.
var speedLetters = map[string]string{"kn": "N", "kt": "N", "m/s": "M", "km/h": "K", "mph": "S"}

// splitTag returns the address that a sentence is sent with and the formatter
// in it: MWV is sent as WIMWV, WIMWV as it is.
func splitTag(sentence string) (tag, form string) {
	if len(sentence) != 3 {
		return sentence, sentence[max(0, len(sentence)-3):]
	}
	if f, ok := forms[sentence]; ok {
		return f.talker + sentence, sentence
	}
	return defaultTalker + sentence, sentence
}

// appendSentence appends a whole line: `$WIMWV,214.8,R,12.6,N,A*19` and CR LF.
func appendSentence(dst []byte, tag string, fields []string) []byte {
	start := len(dst) + 1
	dst = append(dst, '$')
	dst = append(dst, tag...)
	for _, f := range fields {
		dst = append(dst, ',')
		dst = append(dst, f...)
	}
	return fmt.Appendf(dst, "*%02X\r\n", xor(dst[start:]))
}

// xor is the checksum of NMEA 0183 over what stands between $ and *.
func xor(p []byte) (sum byte) {
	for _, c := range p {
		sum ^= c
	}
	return sum
}

// fieldText makes text fit to stand in a sentence: its reserved characters
// and all beyond ASCII become underscores.
func fieldText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '}' || strings.ContainsRune("$*,!\\^", r) {
			return '_'
		}
		return r
	}, s)
}

// fieldNumber writes x as instruments do: angles with three digits before the
// point.
func fieldNumber(x float64, q quantity) string {
	s := strconv.FormatFloat(x, 'f', 1, 64)
	if q == angle && x >= 0 && len(s) < 5 {
		s = strings.Repeat("0", 5-len(s)) + s
	}
	return s
}
