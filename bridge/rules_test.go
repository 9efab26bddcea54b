package bridge

import (
	"strings"
	"testing"
)

func TestLookupFollowsTheMostSpecificRule(t *testing.T) {
	rules := []Rule{
		{"plant/#", "all/#"},
		{"plant/+/+", "point/+/+"},
		{"plant/+", "dt/plant/+"},
		{"plant/+/_status", "dt/plant/+/_status"},
		{"plant/main/power", "power"},
		{"other/+/set", "cmd/+/set"},
		{"bare/#", "#"},
		{"funnel/#", "events"},
	}
	for _, c := range []struct{ topic, want string }{
		{"plant/main", "dt/plant/main"},
		{"plant/main/_status", "dt/plant/main/_status"},
		{"plant/main/power", "power"},
		{"plant/main/volts", "point/main/volts"},
		{"plant", "all"},
		{"plant/a/b/c", "all/a/b/c"},
		{"plant/a//c", "all/a//c"},
		{"plant//", "point//"},
		{"plant/main/volts/set", ""},
		{"plant/main/_set", ""},
		{"plant/main/_get", ""},
		{"plant/main/volts/set/result", "all/main/volts/set/result"},
		{"plant/main/_set/result", "all/main/_set/result"},
		{"other/x/set", "cmd/x/set"},
		{"other/x", ""},
		{"bare", ""},
		{"bare/x/y", "x/y"},
		{"funnel/a/b", "events"},
		{"funnel/set", ""},
		{"$SYS/x", ""},
		{"", ""},
	} {
		got, ok := newTable(rules, false).lookup(c.topic)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%q leads to %q, %t; want %q", c.topic, got, ok, c.want)
		}
	}
}

func TestReceivedCommandsPassWildcards(t *testing.T) {
	got, ok := newTable([]Rule{{"cmd/#", "plant/#"}}, true).lookup("cmd/boiler/pump/set")
	if !ok || got != "plant/boiler/pump/set" {
		t.Errorf("got %q, %t", got, ok)
	}
}

func TestLeadingWildcardsLeaveSystemTopicsAlone(t *testing.T) {
	for _, from := range []string{"#", "+/x"} {
		if _, ok := newTable([]Rule{{from, from}}, false).lookup("$SYS/x"); ok {
			t.Errorf("%q matched $SYS/x", from)
		}
	}
	if _, ok := newTable([]Rule{{"$SYS/#", "sys/#"}}, false).lookup("$SYS/x"); !ok {
		t.Error("$SYS/# did not match $SYS/x")
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name    string
		receive bool
		rules   []Rule
		want    []string // a part of each error, in order
	}{
		{"good", false, []Rule{{"a/+", "b/+"}, {"a/+/#", "x/+/#"}, {"a/b", "c"}, {"q/+", "fixed"}}, nil},
		{"too many in target", false, []Rule{{"a/+", "b/+/+"}}, []string{"do not fill"}},
		{"too few in target", false, []Rule{{"a/+/+", "b/+"}}, []string{"do not fill"}},
		{"other kind", false, []Rule{{"a/+", "b/#"}}, []string{"do not fill"}},
		{"none to fill", false, []Rule{{"a", "b/#"}}, []string{"(none)"}},
		{"tie", false, []Rule{{"a/+", "b/+"}, {"x", "y"}, {"a/+", "c/+"}}, []string{"two rules"}},
		{"no tie", false, []Rule{{"a/+", "b/+"}, {"+/a", "c/+"}}, nil},
		{"bad filters", false, []Rule{{"", "b"}, {"a#", "b"}, {"#/a", "b"}, {"a", "b+"}, {"$share/g/a", "x"}, {"a\x00", "b"}},
			[]string{"empty", "alone", "last level", "alone", "shared", "NUL"}},
		{"receive", true, []Rule{{"cmd/+/_set", "p/+/_set"}, {"cmd/+/+/set", "p/+/+/set"}}, nil},
		{"receive to a value", true, []Rule{{"cmd/+", "p/+"}}, []string{"only lead to commands"}},
		{"receive to a result", true, []Rule{{"cmd", "p/set/result"}}, []string{"only lead to commands"}},
		{"receive overlap", true, []Rule{{"cmd/+/_set", "p/+/_set"}, {"cmd/a/+", "p/+/_set"}}, []string{"overlap"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Validate(c.rules)
			if c.receive {
				got = ValidateReceive(c.rules)
			}
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %q", got, c.want)
			}
			for i, e := range got {
				if !strings.Contains(e.Error(), c.want[i]) {
					t.Errorf("error %d is %q, want %q in it", i, e, c.want[i])
				}
			}
		})
	}
}

func TestCanMatchBoth(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a/+", "+/b", true}, {"a/+", "b/+", false},
		{"a/#", "a", true}, {"a/+/#", "a", false}, {"a/#", "a/b/c", true}, {"#", "a/b", true},
		{"a/b", "a/b/c", false}, {"a/+", "a", false}, {"#", "$SYS/x", false}, {"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true}, {"+/b/#", "a/+/c", true}, {"a//b", "a/+/b", true},
	} {
		if CanMatchBoth(c.a, c.b) != c.want || CanMatchBoth(c.b, c.a) != c.want {
			t.Errorf("CanMatchBoth(%q, %q) is not %t both ways", c.a, c.b, c.want)
		}
	}
}

// FuzzRules proves that lookup survives anything, that no target holds a
// wildcard, that two rules matching one topic are seen by CanMatchBoth, and
// that mapping there and back with the reversed rule yields the topic again.
func FuzzRules(f *testing.F) {
	f.Add("a/+/#", "x/+/#", "a/+/c", "a/b/c")
	f.Add("#", "up/#", "+", "$x")
	f.Add("a/#", "#", "a", "a")
	f.Add("+/+", "+/q/+", "/", "/")
	f.Fuzz(func(t *testing.T, from, to, other, topic string) {
		rule := Rule{from, to}
		if topic == "" || strings.ContainsAny(topic, "+#\x00") || len(topic) > 1000 || rule.check() != nil {
			return
		}
		got, ok := newTable([]Rule{rule}, true).lookup(topic)
		if !ok {
			return
		}
		if strings.ContainsAny(got, "+#") || got == "" {
			t.Errorf("%q by %v leads to %q", topic, rule, got)
		}
		if wildcards(to) == wildcards(from) {
			if back, ok := newTable([]Rule{{to, from}}, true).lookup(got); ok && back != topic {
				t.Errorf("%q by %v leads to %q and back to %q", topic, rule, got, back)
			}
		}
		if validFilter(other) == nil {
			if _, both := newTable([]Rule{{other, "x"}}, true).lookup(topic); both && !CanMatchBoth(from, other) {
				t.Errorf("%q and %q both match %q", from, other, topic)
			}
		}
	})
}

func TestMapTopic(t *testing.T) {
	rules := []Rule{{From: "#", To: "all/#"}, {From: "p/+", To: "dt/+/x"}, {From: "p/_status", To: "state"}, {From: "q/#", To: "one"}}
	for topic, want := range map[string]string{
		"p/_status": "state", "p/other": "dt/other/x", "p/a/b": "all/p/a/b", "q/_status": "one",
	} {
		if got, ok := MapTopic(rules, topic); got != want || !ok {
			t.Errorf("%s goes to %q, want %q", topic, got, want)
		}
	}
	if got, ok := MapTopic(rules[1:3], "r/_status"); ok {
		t.Errorf("a topic that no rule matches goes to %q", got)
	}
}
