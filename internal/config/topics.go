package config

import (
	"cmp"
	"slices"
	"strings"

	"edgegateway/bridge"
	"edgegateway/broker"
)

// mapTopic returns where rules lead topic upstream, and false if they leave
// it out. The most specific filter wins, level by level.
func mapTopic(rules []bridge.Rule, topic string) (string, bool) {
	matching := slices.DeleteFunc(slices.Clone(rules), func(r bridge.Rule) bool { return !broker.Match(r.From, topic) })
	if len(matching) == 0 {
		return "", false
	}
	best := slices.MinFunc(matching, func(a, b bridge.Rule) int { return cmp.Compare(vagueness(a.From), vagueness(b.From)) })
	return rewrite(best, topic), true
}

// vagueness spells a filter so that a more specific one sorts before those
// that match the same topic.
func vagueness(filter string) string {
	var b strings.Builder
	for level := range strings.SplitSeq(filter, "/") {
		switch level {
		case "+":
			b.WriteByte('1')
		case "#":
			b.WriteByte('2')
		default:
			b.WriteByte('0')
		}
	}
	return b.String()
}

// rewrite lets the wildcards of r.From fill those of r.To. topic matches From.
func rewrite(r bridge.Rule, topic string) string {
	var captured []string
	levels := strings.Split(topic, "/")
	for i, level := range strings.Split(r.From, "/") {
		switch level {
		case "+":
			captured = append(captured, levels[i])
		case "#":
			captured = append(captured, strings.Join(levels[i:], "/"))
		}
	}
	out := strings.Split(r.To, "/")
	for i, level := range out {
		if (level == "+" || level == "#") && len(captured) > 0 {
			out[i], captured = captured[0], captured[1:]
		}
	}
	return strings.Join(out, "/")
}
