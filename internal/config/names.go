package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// WrongName says what keeps a name from being that of a gateway, a bus or a
// device; "" is nothing.
func WrongName(name string) string { return checkName(name) }

// checkName says what keeps a name from being a level of a topic; "" is
// nothing.
func checkName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case strings.HasPrefix(name, "_"):
		return "begins with _, which is kept for the gateway's own topics"
	case strings.HasPrefix(name, "$"):
		return "begins with $, which is kept for the broker's own topics"
	case strings.ContainsAny(name, "/+#"):
		return "holds / or + or #, which mean something in topics"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "holds a control character"
	case len(name) > 256:
		return "is longer than 256 bytes"
	}
	return ""
}

// reservedPoints are the keys that the JSON of a device has besides its
// points.
var reservedPoints = []string{"time", "errors", "bad", "counters", "id", "clock", "replayed"}

func checkPointName(name string) string {
	if slices.Contains(reservedPoints, name) {
		return "is a key that the device's JSON has of its own"
	}
	return checkName(name)
}

// fill replaces the placeholders of s: {name}. It returns what is wrong with
// them in words, "" if nothing.
func fill(s string, vars map[string]string) (filled, wrong string) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "{")
		b.WriteString(before)
		if !found {
			return b.String(), ""
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", fmt.Sprintf("%q has no closing }", "{"+rest)
		}
		v, ok := vars[name]
		if !ok {
			known := sortedKeys(vars)
			return "", fmt.Sprintf("there is no placeholder {%s} here; there is {%s}%s", name,
				strings.Join(known, "}, {"), didYouMean(nearest(name, known)))
		}
		b.WriteString(v)
		s = after
	}
}
