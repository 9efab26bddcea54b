package access

import (
	"fmt"
	"testing"

	"edgegateway/broker"
)

func TestPlaceholdersStandForSafeNamesOnly(t *testing.T) {
	allow := func(f string) Rule { return Rule{Filter: f, Grant: Read, Pattern: true} }
	deny := func(f string) Rule { return Rule{Filter: f, Grant: Deny, Pattern: true} }
	tests := []struct {
		rule             Rule
		user, id, filter string
	}{
		{allow("a/%u/#"), "bob", "c", "a/bob/#"}, {allow("a/%c/%u"), "bob", "x-1", "a/x-1/bob"}, {allow("a/s-%c"), "", "7", "a/s-7"},
		{allow("a/%u"), "", "c", ""}, {deny("a/%u"), "", "c", ""},
		{allow("a/%u"), "+", "c", ""}, {allow("a/%u"), "a/b", "c", ""}, {allow("a/%c"), "bob", "#", ""}, {allow("a/%u"), "bob", "#", "a/bob"},
		{deny("a/%u/x"), "b/c", "c", "a/#"}, {deny("%c/x"), "bob", "+", "#"}, {deny("a/b-%c"), "bob", "c", "a/b-c"},
		{allow("%c/x"), "bob", "$SYS", ""}, {deny("%c/x"), "bob", "$SYS", "$SYS/x"}, {allow("$SYS/%c"), "bob", "x", "$SYS/x"},
		{allow("%u"), "%c", "#", "%c"}, {Rule{Filter: "a/%u", Grant: Read}, "bob", "c", "a/%u"},
	}
	for _, test := range tests {
		got, ok := test.rule.expand(test.user, test.id)
		if !ok {
			got = ""
		}
		if got != test.filter {
			t.Errorf("%+v for user %q, client %q: %q, not %q", test.rule, test.user, test.id, got, test.filter)
		}
	}
}

func TestRightsOfUsers(t *testing.T) {
	c := New(Policy{Rules: Rules{
		"panel":   {{"plant-a/#", Read, true}, {"plant-a/+/_set", Write, true}, {"plant-a/secret/#", Deny, true}},
		Anonymous: {{"public/#", Read, true}},
		Everybody: {{"home/%u/#", Read | Write, true}, {"home/+/private", Deny, true}, {"$SYS/broker/version", Read, true}},
	}})
	tests := []struct {
		user, topic         string
		read, write, listen bool
	}{
		{"panel", "plant-a/x", true, false, true}, {"panel", "plant-a/x/_set", true, true, true}, {"panel", "plant-a/secret/a", false, false, false},
		{"panel", "plant-a/secret/#", false, false, false}, {"panel", "plant-a/secret/_set", false, false, false},
		{"panel", "home/panel/a", true, true, true}, {"panel", "home/bob/a", false, false, false}, {"panel", "home/panel/private", false, false, false},
		{"panel", "public/a", false, false, false}, {"panel", "#", false, false, true}, {"panel", "other/#", false, false, false},
		{"", "public/a", true, false, true}, {"", "plant-a/x", false, false, false}, {"", "home/+/a", false, false, false},
		{"panel", "$SYS/broker/version", true, false, true}, {"panel", "$SYS/broker/uptime", false, false, false}, {"panel", "$SYS/#", false, false, true},
		{"panel", "$share/g/plant-a/x", false, false, true}, {"panel", "$share/g/other", false, false, false},
		{"bridge:cloud", "anything", true, true, true}, {"stranger", "home/stranger", true, true, true}, {"stranger", "plant-a/x", false, false, false},
	}
	for _, test := range tests {
		got := fmt.Sprint(c.Allow(test.user, "c", test.topic, broker.Read), c.Allow(test.user, "c", test.topic, broker.Write), c.Allow(test.user, "c", test.topic, broker.Subscribe))
		if want := fmt.Sprint(test.read, test.write, test.listen); got != want {
			t.Errorf("%q at %q: read, write, subscribe %s, not %s", test.user, test.topic, got, want)
		}
	}
	for filter, want := range map[string]bool{"plant-a/boiler/#": true, "plant-a/#": false, "home/panel/x": true, "home/panel/#": false, "#": false, "$share/g/plant-a/b": true} {
		if got := c.AllowAll("panel", "c", filter); got != want {
			t.Errorf("all of %q: %v", filter, got)
		}
	}
	if open := New(Policy{}); !open.Allow("", "c", "a", broker.Write) || !open.AllowAll("", "c", "#") {
		t.Error("without rules something is denied")
	}
	if shut := New(Policy{Rules: Rules{}}); shut.Allow("panel", "c", "a", broker.Read) || shut.AllowAll("panel", "c", "a") {
		t.Error("with empty rules something is allowed")
	}
}

func TestRightsByClientAreKeptApartAndBounded(t *testing.T) {
	c := New(Policy{Rules: Rules{Everybody: {{"of/%c", Read | Write, true}}}})
	for i := range maxSeats + 10 {
		id := fmt.Sprint("c", i)
		if !c.Allow("", id, "of/"+id, broker.Write) || c.Allow("", id, "of/c", broker.Write) {
			t.Fatal(id)
		}
	}
	if n := len(c.current.Load().seats); n > maxSeats {
		t.Errorf("%d remembered", n)
	}
}

// wide are rights as a large site has them: more than anybody would write.
func wide() *Control {
	rules := Rules{Everybody: {{"of/%c/#", Read | Write, true}}}
	for u := range 200 {
		name := fmt.Sprint("user", u)
		for i := range 20 {
			rules[name] = append(rules[name], Rule{Filter: fmt.Sprintf("plant-a/device-%d-%d/+", u, i), Grant: Read}, Rule{Filter: fmt.Sprintf("plant-a/device-%d-%d/x/_set", u, i), Grant: Write})
		}
		rules[name] = append(rules[name], Rule{Filter: "plant-a/+/secret", Grant: Deny})
	}
	return New(Policy{Rules: rules})
}

func TestDecidingAllocatesNothing(t *testing.T) {
	c := wide()
	c.Allow("user7", "panel-1", "x", broker.Read)
	if n := testing.AllocsPerRun(100, func() {
		c.Allow("user7", "panel-1", "plant-a/device-7-19/power", broker.Read)
		c.Allow("user7", "panel-1", "plant-a/device-7-3/x/_set", broker.Write)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAllow(b *testing.B) {
	few := New(Policy{Rules: Rules{"user7": {{"plant-a/#", Read, true}, {"plant-a/secret/#", Deny, true}}}})
	for name, c := range map[string]*Control{"few": few, "wide": wide(), "none": New(Policy{})} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				c.Allow("user7", "panel-1", "plant-a/device-7-19/power", broker.Read)
			}
		})
	}
}

func BenchmarkSubscribe(b *testing.B) {
	c := wide()
	for b.Loop() {
		c.Allow("user7", "panel-1", "plant-a/+/power/#", broker.Subscribe)
		c.AllowAll("user7", "panel-1", "plant-a/device-7-19/power")
	}
}
