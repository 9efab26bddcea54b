package access

import (
	"iter"
	"strings"
)

// A set is a number of filters, made to be asked quickly.
type set struct {
	filters []string
	root    level
	deepest int // levels of the deepest
}

// A level is where some filters agree so far.
type level struct {
	next map[string]*level // by what comes next; nil: nothing does
	any  *level            // behind "+"
	rest bool              // "#" comes next
	ends bool
}

func (s *set) add(filter string) {
	s.filters = append(s.filters, filter)
	s.deepest = max(s.deepest, strings.Count(filter, "/")+1)
	at := &s.root
	for name := range strings.SplitSeq(filter, "/") {
		if name == "#" {
			at.rest = true
			return
		}
		at = at.down(name)
	}
	at.ends = true
}

func (l *level) down(name string) *level {
	if name == "+" {
		if l.any == nil {
			l.any = &level{}
		}
		return l.any
	}
	if l.next == nil {
		l.next = make(map[string]*level)
	}
	if l.next[name] == nil {
		l.next[name] = &level{}
	}
	return l.next[name]
}

// match says whether any of the filters selects topic, as broker.Match does.
func (s *set) match(topic string) bool {
	return s.root.match(topic, true, strings.HasPrefix(topic, "$"))
}

// match says so of what is left of a topic, if there is more. With plain set
// wildcards do not select it.
func (l *level) match(topic string, more, plain bool) bool {
	if l.rest && !plain {
		return true
	}
	if !more {
		return l.ends
	}
	name, topic, more := strings.Cut(topic, "/")
	if next := l.next[name]; next != nil && next.match(topic, more, false) {
		return true
	}
	return l.any != nil && !plain && l.any.match(topic, more, false)
}

// meets says whether any of the filters selects a topic that filter selects
// too.
func (s *set) meets(filter string) bool {
	for _, f := range s.filters {
		if _, ok := meet(f, filter); ok {
			return true
		}
	}
	return false
}

// covers says whether the filters together select every topic that filter
// selects. They may do so only together: "a" and "a/+/#" are all of "a/#".
func (s *set) covers(filter string) bool {
	for topic := range samples(filter, s.deepest) {
		if !s.match(topic) {
			return false
		}
	}
	return true
}

// meet returns the filter that selects what both a and b select; there always
// is one, unless they have nothing in common.
func meet(a, b string) (common string, ok bool) {
	common = join(a, b)
	return common, common != "" // "+" and "/#" have "" in common, which is no topic
}

// join is meet, "" for nothing.
func join(a, b string) string {
	if plain(a) && b[0] == '$' || plain(b) && a[0] == '$' {
		return ""
	}
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	var both []string
	for i := 0; ; i++ {
		aEnds, bEnds := i >= len(as), i >= len(bs)
		switch {
		case !aEnds && as[i] == "#":
			return strings.Join(append(both, bs[i:]...), "/")
		case !bEnds && bs[i] == "#":
			return strings.Join(append(both, as[i:]...), "/")
		case aEnds && bEnds:
			return strings.Join(both, "/")
		case aEnds || bEnds:
			return ""
		case as[i] == bs[i] || bs[i] == "+":
			both = append(both, as[i])
		case as[i] == "+":
			both = append(both, bs[i])
		default:
			return ""
		}
	}
}

// plain says that a filter begins with a wildcard, so that it selects no
// topics that begin with $.
func plain(filter string) bool { return filter[0] == '+' || filter[0] == '#' }

// unseen is a level that no filter names, for none may hold a NUL.
const unseen = "\x00"

// samples are topics that stand for all that filter selects: filters of at
// most so many levels select all of them only if they select everything that
// filter does. A level for which filter takes anything is one that nobody
// names, and what "#" stands for grows until only another "#" can select it.
func samples(filter string, levels int) iter.Seq[string] {
	return func(yield func(string) bool) {
		base := strings.Split(filter, "/")
		open := base[len(base)-1] == "#"
		if open {
			base = base[:len(base)-1]
		}
		for i, level := range base {
			if level == "+" {
				base[i] = unseen
			}
		}
		if topic := strings.Join(base, "/"); topic != "" && !yield(topic) {
			return
		}
		for more := open; more; more = len(base) <= levels {
			base = append(base, unseen)
			if !yield(strings.Join(base, "/")) {
				return
			}
		}
	}
}
