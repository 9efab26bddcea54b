package access

import (
	"iter"
	"strings"

	"edgegateway/broker"
)

// A set is a number of filters, made to be asked quickly.
type set struct {
	exact  map[string]struct{} // those without wildcards
	wild   []string
	levels int // of the deepest
}

func (s *set) add(filter string) {
	s.levels = max(s.levels, strings.Count(filter, "/")+1)
	if strings.ContainsAny(filter, "+#") {
		s.wild = append(s.wild, filter)
		return
	}
	if s.exact == nil {
		s.exact = make(map[string]struct{})
	}
	s.exact[filter] = struct{}{}
}

// match says whether any of the filters selects topic.
func (s *set) match(topic string) bool {
	for _, f := range s.wild {
		if broker.Match(f, topic) {
			return true
		}
	}
	_, ok := s.exact[topic]
	return ok
}

// all are the filters in any order.
func (s *set) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, f := range s.wild {
			if !yield(f) {
				return
			}
		}
		for f := range s.exact {
			if !yield(f) {
				return
			}
		}
	}
}

// meets says whether any of the filters selects a topic that filter selects
// too.
func (s *set) meets(filter string) bool {
	for f := range s.all() {
		if _, ok := meet(f, filter); ok {
			return true
		}
	}
	return false
}

// covers says whether the filters together select every topic that filter
// selects. They may do so only together: "a" and "a/+/#" are all of "a/#".
func (s *set) covers(filter string) bool {
	for topic := range samples(filter, s.levels) {
		if !s.match(topic) {
			return false
		}
	}
	return true
}

// meet returns the filter that selects what both a and b select; there always
// is one, unless they have nothing in common.
func meet(a, b string) (common string, ok bool) {
	if plain(a) && b[0] == '$' || plain(b) && a[0] == '$' {
		return "", false
	}
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	var both []string
	for i := 0; ; i++ {
		aEnds, bEnds := i >= len(as), i >= len(bs)
		switch {
		case !aEnds && as[i] == "#":
			return strings.Join(append(both, bs[i:]...), "/"), true
		case !bEnds && bs[i] == "#":
			return strings.Join(append(both, as[i:]...), "/"), true
		case aEnds && bEnds:
			return strings.Join(both, "/"), true
		case aEnds || bEnds:
			return "", false
		case as[i] == bs[i] || bs[i] == "+":
			both = append(both, as[i])
		case as[i] == "+":
			both = append(both, bs[i])
		default:
			return "", false
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
		if len(base) > 0 && !yield(strings.Join(base, "/")) {
			return
		}
		for open && len(base) <= levels {
			base = append(base, unseen)
			if !yield(strings.Join(base, "/")) {
				return
			}
		}
	}
}
