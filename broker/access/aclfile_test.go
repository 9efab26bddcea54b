package access

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"edgegateway/broker"
)

func TestACLFile(t *testing.T) {
	file := "# rights\ntopic read public/#\n\nuser panel\r\ntopic plant-a/x\r\ntopic readwrite plant a/y\ntopic  deny  plant-a/secret/#\n" +
		"user  Ädam of the hall \ntopic write b\ntopic read\npattern read of/%u/%c\npattern deny of/+/private\nuser panel\ntopic read $SYS/#"
	rules, faults := ParseACL("acl", []byte(file))
	want := Rules{
		Anonymous:          {{"public/#", Read, false}},
		"panel":            {{"plant-a/x", Read | Write, false}, {"plant a/y", Read | Write, false}, {"plant-a/secret/#", Deny, false}, {"$SYS/#", Read, false}},
		"Ädam of the hall": {{"b", Write, false}, {"read", Read | Write, false}},
		Everybody:          {{"of/%u/%c", Read, true}, {"of/+/private", Deny, true}},
	}
	if faults != nil || !reflect.DeepEqual(rules, want) {
		t.Errorf("%v\n%v", faults, rules)
	}
	if rules, faults := ParseACL("acl", nil); rules == nil || faults != nil {
		t.Error("an empty file must deny everything, not allow it")
	}
}

func TestFaultsOfAnACLFile(t *testing.T) {
	file := "topic\nuser\nuser *\ntopic red a/b\n  topic read a/#/b\ngrant x\npattern\ntopic read $share/g/a\ntopic read a+"
	_, faults := ParseACL("acl", []byte(file))
	var got strings.Builder
	for _, f := range faults {
		fmt.Fprintln(&got, f)
	}
	want := `acl:1:1: the filter is missing
acl:2:1: the user name "" is empty
acl:3:1: the user name "*" means others here: anonymous is who gives no name, * is everybody
acl:4:7: "red" is neither read, write, readwrite nor deny; of a filter with spaces say which: topic readwrite red a/b
acl:5:14: filter "a/#/b": "#" must be the last level
acl:6:1: "grant" begins no line of an ACL file; there is "user NAME", "topic [read|write|readwrite|deny] FILTER" and "pattern [read|write|readwrite|deny] FILTER"
acl:7:1: the filter is missing
acl:8:12: a right is one to topics; leave $share/GROUP/ out
acl:9:12: filter "a+": level "a+": a wildcard must stand alone
`
	if got.String() != want {
		t.Errorf("got:\n%s", got.String())
	}
}

func FuzzACL(f *testing.F) {
	f.Add([]byte("topic read a/#\nuser u\ntopic deny a/+/b\npattern readwrite of/%u/%c\n"), "u", "c", "a/b", "a/#")
	f.Add([]byte("pattern deny %c\npattern read #\nuser *"), "+", "#", "$SYS/x", "+/x")
	f.Fuzz(func(t *testing.T, data []byte, user, id, topic, filter string) {
		rules, faults := ParseACL("f", data)
		if (rules == nil) != (faults != nil) {
			t.Fatal("neither rules nor faults, or both")
		}
		if rules == nil || broker.ValidTopic(topic) != nil || broker.ValidFilter(filter) != nil || broker.ValidFilter(filter+"/"+id) != nil || len(topic) > 200 || len(filter) > 200 {
			return
		}
		c := New(Policy{Rules: rules})
		reads, permits, all := c.Allow(user, id, topic, broker.Read), c.Allow(user, id, filter, broker.Subscribe), c.AllowAll(user, id, filter)
		if all && !permits {
			t.Errorf("%q: all, but not any", filter)
		}
		if broker.Match(filter, topic) && (reads && !permits || all && !reads) {
			t.Errorf("%q of %q: reads %v, permits %v, all %v", topic, filter, reads, permits, all)
		}
	})
}
