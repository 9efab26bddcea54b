package broker

import (
	"log/slog"
	"strings"
	"testing"

	"edgegateway/broker/packet"
)

func TestMatch(t *testing.T) {
	tests := []struct {
		filter, topic string
		want          bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a/b", false}, {"a/b", "a", false},
		{"a/#", "a", true}, {"a/#", "a/b", true}, {"a/#", "a/b/c", true}, {"a/#", "ab", false}, {"a/#", "b/a", false},
		{"#", "a", true}, {"#", "a/b", true}, {"#", "/", true}, {"#", "$SYS", false}, {"#", "$SYS/a", false},
		{"+", "a", true}, {"+", "a/b", false}, {"+", "/a", false}, {"+/+", "/a", true}, {"+", "$SYS", false},
		{"+/#", "a", true}, {"+/#", "a/b", true}, {"+/#", "/", true}, {"+/#", "$SYS/a", false},
		{"x/+/#", "x/y", true}, {"x/+/#", "x", false}, {"x/+/#", "x/y/z", true},
		{"a/+/c", "a/b/c", true}, {"a/+/c", "a//c", true}, {"a/+/c", "a/b/d", false},
		{"$SYS/#", "$SYS", true}, {"$SYS/#", "$SYS/a", true}, {"a/+", "a/$b", true}, {"a/#", "a/$b", true},
		{"/a", "/a", true}, {"/a", "a", false}, {"a/", "a", false}, {"a/", "a/", true}, {"a/+", "a/", true},
		{"ä ö/+", "ä ö/ü", true},
	}
	for _, test := range tests {
		if got := Match(test.filter, test.topic); got != test.want {
			t.Errorf("Match(%q, %q) = %v", test.filter, test.topic, got)
		}
		if got := treeMatches(test.filter, test.topic); got != test.want {
			t.Errorf("tree with %q finds %q: %v", test.filter, test.topic, got)
		}
	}
}

func treeMatches(filter, topic string) bool {
	var tr tree
	tr.add(filter, subscription{&subscriber{}, options{}})
	return len(tr.match(nil, topic)) > 0
}

func TestCovers(t *testing.T) {
	tests := []struct {
		outer, inner string
		want         bool
	}{
		{"#", "a/b", true}, {"#", "#", true}, {"#", "+/a", true}, {"#", "$SYS/#", false}, {"$SYS/#", "$SYS/a", true},
		{"+/#", "#", true}, {"+", "#", false}, {"+", "+", true}, {"+", "a", true}, {"a", "+", false},
		{"a/+", "a/#", false}, {"a/#", "a/+", true}, {"a/#", "a", true}, {"a/#", "a/#", true}, {"a/b", "a/b/c", false},
		{"a/+/c", "a/+/c", true}, {"a/+/c", "a/+/+", false}, {"+/b", "a/b", true}, {"a/+/#", "a/#", false}, {"a/b/#", "a/#", false},
	}
	for _, test := range tests {
		if got := Covers(test.outer, test.inner); got != test.want {
			t.Errorf("Covers(%q, %q) = %v", test.outer, test.inner, got)
		}
	}
}

func TestValidFilterAndTopic(t *testing.T) {
	for filter, want := range map[string]bool{
		"a": true, "/": true, "#": true, "+": true, "a/+/b/#": true, "$share/g/a/#": true, "a b/ä": true, "$share": true,
		"": false, "a#": false, "a+": false, "+a": false, "#/a": false, "a/#/": false, "a+/b": false, "a\x00": false, "\xff": false,
		"$share//t": false, "$share/g": false, "$share/g/": false, "$share/+/t": false, "$share/": false,
		strings.Repeat("x", 65536): false,
	} {
		if err := ValidFilter(filter); (err == nil) != want {
			t.Errorf("filter %.20q: %v", filter, err)
		}
	}
	for topic, want := range map[string]bool{"a": true, "/": true, "$SYS": true, "a b": true, "": false, "a/+": false, "#": false, "a\x00": false} {
		if err := ValidTopic(topic); (err == nil) != want {
			t.Errorf("topic %q: %v", topic, err)
		}
	}
}

func TestTreeForgetsWhatIsRemoved(t *testing.T) {
	var tr tree
	s, other := &subscriber{}, &subscriber{}
	for _, f := range []string{"a/b/c", "a/+/#", "#", "a"} {
		tr.add(f, subscription{s, options{}})
		tr.add(f, subscription{s, options{qos: 1}})
		tr.add(f, subscription{other, options{}})
	}
	if tr.count != 8 || len(tr.match(nil, "a/b/c")) != 6 {
		t.Fatalf("%d subscriptions, %+v", tr.count, tr.match(nil, "a/b/c"))
	}
	for _, f := range []string{"a/b/c", "a/+/#", "#", "a"} {
		if !tr.remove(f, s) || tr.remove(f, s) || !tr.remove(f, other) {
			t.Errorf("remove %q", f)
		}
	}
	if tr.remove("x/y", s) || tr.count != 0 || len(tr.root.children) != 0 {
		t.Errorf("%d left, %d nodes", tr.count, len(tr.root.children))
	}
}

// FuzzMatch checks the tree against Match, and Covers against both.
func FuzzMatch(f *testing.F) {
	f.Add("a/+/#", "a/+", "a/b")
	f.Add("#", "+/a", "$a/b")
	f.Add("+/#", "#", "/")
	f.Fuzz(func(t *testing.T, outer, inner, topic string) {
		if ValidTopic(topic) != nil || ValidFilter(outer) != nil || ValidFilter(inner) != nil {
			return
		}
		if Match(outer, topic) != treeMatches(outer, topic) {
			t.Errorf("Match(%q, %q) and the tree differ", outer, topic)
		}
		if Covers(outer, inner) && Match(inner, topic) && !Match(outer, topic) {
			t.Errorf("%q covers %q, but selects %q not", outer, inner, topic)
		}
	})
}

// Topics may have as many levels as filters; deeper ones are refused where
// there is an answer for it, and never routed.
func TestDeepTopicsAreRefused(t *testing.T) {
	inBubble(t, Config{Limits: Limits{Levels: 3}, Log: slog.New(slog.DiscardHandler)}, func(t *testing.T, b *Broker) {
		for _, v := range versions {
			all, p := join(t, b, v, "all"), join(t, b, v, "p")
			if got := all.subscribe(qos(1, "#"), qos(1, "a/+/#"), qos(1, "a/b/c/+")); got[0] != 1 || got[1] != 1 || !got[2].Failed() {
				t.Errorf("subscribed: %v", got)
			}
			want := packet.Success
			if v >= packet.V5 {
				want = packet.NotAuthorized
			}
			if got := p.publish(1, "a/b/c/d", "deep"); got != want {
				t.Errorf("version %v: %v", v, got)
			}
			if got := p.publish(2, "a/b/c", "x"); got != packet.Success {
				t.Errorf("version %v: %v", v, got)
			}
			all.message("x")
		}
	})
}
