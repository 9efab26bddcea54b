package access

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
)

func TestMeet(t *testing.T) {
	tests := []struct{ a, b, want string }{
		{"a", "a", "a"}, {"a", "b", ""}, {"a/+", "+/b", "a/b"}, {"a/#", "+/b", "a/b"}, {"#", "+/b", "+/b"},
		{"a/#", "a", "a"}, {"a/#", "a/+", "a/+"}, {"a/#", "a/b/#", "a/b/#"}, {"a/b/#", "a", ""}, {"a", "a/b", ""},
		{"x/#", "+/y/#", "x/y/#"}, {"+/#", "#", "+/#"}, {"#", "$SYS/a", ""}, {"+/a", "$SYS/#", ""}, {"$SYS/#", "$SYS/+", "$SYS/+"},
		{"a/+/c", "a/b/+", "a/b/c"}, {"/", "+/+", "/"}, {"+", "/#", ""}, {"+/", "/#", "/"},
	}
	for _, test := range tests {
		for _, swap := range []bool{false, true} {
			a, b := test.a, test.b
			if swap {
				a, b = b, a
			}
			got, ok := meet(a, b)
			if got != test.want || ok != (test.want != "") {
				t.Errorf("meet(%q, %q) = %q, %v", a, b, got, ok)
			}
		}
	}
}

func TestSetsCoverTogether(t *testing.T) {
	tests := []struct {
		set    []string
		filter string
		want   bool
	}{
		{[]string{"a", "a/+/#"}, "a/#", true}, {[]string{"a", "a/+"}, "a/#", false}, {[]string{"a/+/#"}, "a/#", false},
		{[]string{"a/b", "a/c"}, "a/+", false}, {[]string{"a/+"}, "a/b", true}, {[]string{"+/#"}, "#", true}, {[]string{"+", "+/+/#"}, "#", true},
		{[]string{"#"}, "$SYS/#", false}, {[]string{"$SYS/#"}, "$SYS/#", true}, {nil, "a", false}, {[]string{"a/b/c/d/#", "a/+/+", "a/+", "a", "a/+/+/+/#"}, "a/#", true},
	}
	for _, test := range tests {
		var s set
		for _, f := range test.set {
			s.add(f)
		}
		if got := s.covers(test.filter); got != test.want {
			t.Errorf("%q covers %q: %v", test.set, test.filter, got)
		}
	}
}

// A model decides about sets of topics by looking at each topic: those of up
// to four levels of few names, one of which no filter holds, stand for all, for
// filters of up to three levels.
type model struct{ topics []string }

func newModel() *model {
	m := &model{}
	names := []string{"a", "b", "", "other", "$s"}
	level := names
	for range 4 {
		m.topics = append(m.topics, level...)
		var next []string
		for _, t := range level {
			for _, n := range names {
				next = append(next, t+"/"+n)
			}
		}
		level = next
	}
	return m
}

func matchAny(filters []string, topic string) bool {
	return slices.ContainsFunc(filters, func(f string) bool { return broker.Match(f, topic) })
}

func (m *model) decide(read, deny []string, filter string) (permits, allowsAll bool) {
	allowsAll = true
	for _, t := range m.topics {
		if t == "" || !broker.Match(filter, t) {
			continue
		}
		may := matchAny(read, t) && !matchAny(deny, t)
		permits, allowsAll = permits || may, allowsAll && may
	}
	return permits, allowsAll
}

func randomFilter(r *rand.Rand) string {
	for {
		levels := make([]string, 1+r.IntN(3))
		for i := range levels {
			levels[i] = []string{"a", "b", "", "+", "+", "#", "$s"}[r.IntN(7)]
		}
		if f := strings.Join(levels, "/"); broker.ValidFilter(f) == nil {
			return f
		}
	}
}

func TestDecisionsAgreeWithAModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m := newModel()
	counts := make(map[[2]bool]int)
	for range 600 {
		rules := Rules{"u": {}}
		var read, deny []string
		for range 1 + r.IntN(4) {
			rule := Rule{Filter: randomFilter(r), Grant: []Grant{Deny, Read, Read, Read | Write}[r.IntN(4)]}
			rules["u"] = append(rules["u"], rule)
			if rule.Grant == Deny {
				deny = append(deny, rule.Filter)
			} else {
				read = append(read, rule.Filter)
			}
		}
		s := rules.seat("u", "c")
		for range 4 {
			filter := randomFilter(r)
			permits, all := m.decide(read, deny, filter)
			if got := s.permits(filter); got != permits {
				t.Fatalf("read %q deny %q: permits %q: %v, not %v", read, deny, filter, got, permits)
			}
			if got := s.allowsAll(filter); got != all {
				t.Fatalf("read %q deny %q: allows all of %q: %v, not %v", read, deny, filter, got, all)
			}
			counts[[2]bool{permits, all}]++
		}
		for range 50 {
			topic := m.topics[r.IntN(len(m.topics))]
			if want := matchAny(read, topic) && !matchAny(deny, topic); s.allows(topic, broker.Read) != want {
				t.Fatalf("read %q deny %q: topic %q: not %v", read, deny, topic, want)
			}
		}
	}
	if len(counts) < 3 {
		t.Errorf("the decisions were all alike: %v", counts)
	}
}
