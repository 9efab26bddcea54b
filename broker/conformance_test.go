package broker

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"edgegateway/broker/packet"
)

// The two tables mqtt311 and mqtt5, each in a file of its own, list every
// normative statement of the standards of MQTT 3.1.1 and 5 by its number
// (their appendices B), with the tests that show that this broker keeps it, or
// the reason why it is none of this broker's. The tests are in the files
// conformance_*_test.go, by chapter; each is run with the version of the table
// that names it:
//
//	go test ./broker -run 'TestMQTT5/WillDelay'
//
// MQTT 3.1 has no numbered statements; see TestMQTT31.

// A specTest shows some statements with clients of version v. Its name begins
// with spec.
type specTest func(t *testing.T, v packet.Version)

func (fn specTest) name() string {
	name := runtime.FuncForPC(reflect.ValueOf(fn).Pointer()).Name()
	return name[strings.LastIndex(name, ".spec")+len(".spec"):]
}

// A statement is one sentence of a standard: what it says, in short, and
// either the tests that show it or why there are none.
type statement struct {
	number string // 3.1.2-24 is [MQTT-3.1.2-24]
	says   string
	tests  []specTest
	none   string
}

// shown is a statement that tests show.
func shown(number, says string, tests ...specTest) statement {
	return statement{number: number, says: says, tests: tests}
}

// exempt is a statement that is none of this broker's.
func exempt(number, says, why string) statement {
	return statement{number: number, says: says, none: why}
}

// Why a statement is none of this broker's.
const (
	forClients = "binds clients only"
	noAuth     = "this broker offers no extended authentication: see 4.12.0-1"
	notLimited = "this broker does all that the statement is about"
)

func TestMQTT311(t *testing.T) {
	checkComplete(t, mqtt311, sections311)
	runSpec(t, packet.V311, mqtt311)
}

func TestMQTT5(t *testing.T) {
	checkComplete(t, mqtt5, sections5)
	runSpec(t, packet.V5, mqtt5)
}

// sections311 and sections5 say how many statements each section has; those
// of 2.2.1 of MQTT 5 begin with 2.
const (
	sections311 = `1.5.3:3 2.2.2:2 2.3.1:7 3.1.0:2 3.1.2:24 3.1.3:11 3.1.4:5 3.2.0:1 3.2.2:6 3.3.1:12 3.3.2:3 3.3.4:1 3.3.5:2
		3.6.1:1 3.8.1:1 3.8.3:4 3.8.4:6 3.9.3:2 3.10.1:1 3.10.3:2 3.10.4:6 3.12.4:1 3.14.1:1 3.14.4:3
		4.1.0:2 4.3.1:1 4.3.2:2 4.3.3:2 4.4.0:1 4.5.0:2 4.6.0:6 4.7.1:3 4.7.2:1 4.7.3:4 4.8.0:2 6.0.0:4 7.0.0:2 7.1.1:1 7.1.2:1`
	sections5 = `1.5.4:3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:6 2.2.2:1 3.1.0:2 3.1.2:30 3.1.3:12 3.1.4:6 3.2.0:2 3.2.2:22
		3.3.1:13 3.3.2:20 3.3.4:10 3.4.2:3 3.5.2:3 3.6.1:1 3.6.2:3 3.7.2:3 3.8.1:1 3.8.3:5 3.8.4:8 3.9.2:2 3.9.3:2
		3.10.1:1 3.10.3:2 3.10.4:6 3.11.2:2 3.11.3:2 3.12.4:1 3.14.0:1 3.14.1:1 3.14.2:4 3.14.4:3 3.15.1:1 3.15.2:3
		4.1.0:2 4.2.0:1 4.3.1:1 4.3.2:5 4.3.3:13 4.4.0:2 4.5.0:2 4.6.0:6 4.7.0:1 4.7.1:2 4.7.2:1 4.7.3:4 4.8.2:6 4.9.0:3
		4.12.0:7 4.12.1:2 4.13.1:1 4.13.2:1 6.0.0:4`
)

// checkComplete fails for each statement that is missing, out of order, or has
// neither tests nor a reason.
func checkComplete(t *testing.T, table []statement, sections string) {
	var want []string
	for section := range strings.FieldsSeq(sections) {
		name, n, _ := strings.Cut(section, ":")
		var last int
		fmt.Sscan(n, &last)
		for i := range last {
			if number := fmt.Sprintf("%s-%d", name, i+1); number != "2.2.1-1" {
				want = append(want, number)
			}
		}
	}
	for i, s := range table {
		if i >= len(want) || s.number != want[i] {
			t.Fatalf("statement %d of the table is %s, not as the standard has them: %v", i+1, s.number, want[min(i, len(want)-1)])
		}
		if s.says == "" || (len(s.tests) > 0) == (s.none != "") {
			t.Errorf("%s: needs what it says, and either tests or a reason", s.number)
		}
	}
	if len(table) < len(want) {
		t.Errorf("%d statements are missing, from %s on", len(want)-len(table), want[len(table)])
	}
}

// runSpec runs each test of the table once.
func runSpec(t *testing.T, v packet.Version, table []statement) {
	var order []specTest
	shows := make(map[string][]string) // statements by test
	for _, s := range table {
		for _, fn := range s.tests {
			if shows[fn.name()] == nil {
				order = append(order, fn)
			}
			shows[fn.name()] = append(shows[fn.name()], "MQTT-"+s.number)
		}
	}
	for _, fn := range order {
		t.Run(fn.name(), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("with MQTT %v, this was to show %s", v, strings.Join(shows[fn.name()], ", "))
				}
			})
			fn(t, v)
		})
	}
}
