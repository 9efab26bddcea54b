package broker

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxTopic is the longest topic or filter in bytes (MQTT 5 section 1.5.4).
const maxTopic = 65535

// ValidTopic says whether a message can be published to topic.
func ValidTopic(topic string) error {
	if err := validText(topic); err != nil {
		return fmt.Errorf("topic %q: %w", topic, err)
	}
	if i := strings.IndexAny(topic, "+#"); i >= 0 {
		return fmt.Errorf("topic %q: wildcard %q is for filters only", topic, topic[i])
	}
	return nil
}

// ValidFilter says whether filter can be subscribed to. A shared filter must
// be whole: $share/GROUP/FILTER.
func ValidFilter(filter string) error {
	err := validText(filter)
	if err == nil {
		err = validLevels(filter)
	}
	if rest, shared := strings.CutPrefix(filter, "$share/"); err == nil && shared {
		group, inner, ok := strings.Cut(rest, "/")
		if !ok || group == "" || inner == "" || strings.ContainsAny(group, "+#") {
			err = errors.New("write a shared filter as $share/GROUP/FILTER")
		}
	}
	if err != nil {
		return fmt.Errorf("filter %q: %w", filter, err)
	}
	return nil
}

// tooDeep says whether a topic or filter has more levels than it may. They are
// bounded as a client makes the broker keep something for each.
func (l *Limits) tooDeep(s string) bool { return strings.Count(s, "/") >= l.Levels }

func validText(s string) error {
	switch {
	case s == "":
		return errors.New("it is empty")
	case len(s) > maxTopic:
		return fmt.Errorf("%d bytes are more than %d", len(s), maxTopic)
	case !utf8.ValidString(s):
		return errors.New("it is not UTF-8")
	case strings.IndexByte(s, 0) >= 0:
		return errors.New("it holds a NUL")
	}
	return nil
}

func validLevels(filter string) error {
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case level == "#" && more:
			return errors.New(`"#" must be the last level`)
		case len(level) > 1 && strings.ContainsAny(level, "+#"):
			return fmt.Errorf("level %q: a wildcard must stand alone", level)
		}
	}
	return nil
}

// Match says whether filter selects topic; both are valid. "#" includes the
// level above it, and a leading wildcard never selects a topic that begins
// with "$" (MQTT 5 section 4.7).
func Match(filter, topic string) bool {
	if topic != "" && topic[0] == '$' && filter != "" && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	return matchLevels(filter, topic, false)
}

// Covers says whether every topic that inner selects is selected by outer
// too; both are valid filters or topics.
func Covers(outer, inner string) bool {
	leading := outer != "" && (outer[0] == '+' || outer[0] == '#')
	if leading && inner != "" && inner[0] == '$' {
		return false
	}
	if outer == "+/#" {
		outer = "#" // the same topics
	}
	return matchLevels(outer, inner, true)
}

// matchLevels walks both level by level. With wild set, topic is itself a
// filter, whose wildcards only an equal or wider one selects.
func matchLevels(filter, topic string, wild bool) bool {
	fmore, tmore := true, true
	for fmore {
		var f, t string
		f, filter, fmore = strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		if !tmore {
			return false
		}
		t, topic, tmore = strings.Cut(topic, "/")
		if wild && t == "#" || f != "+" && f != t {
			return false
		}
		if !tmore && fmore {
			return filter == "#" // "a/#" selects "a"
		}
	}
	return !tmore
}
