package bridge

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"edgegateway/broker"
)

// A Rule maps the topics that From matches to the topics that To describes:
// the k-th wildcard of From fills the k-th wildcard of To. A To without any
// wildcard gathers all that From matches in one topic.
type Rule struct {
	From string // topic filter
	To   string // topic, or a pattern with the same wildcards as From
}

// A RuleError is one thing that is wrong with a list of rules.
type RuleError struct {
	Index int // of the rule at fault
	Other int // of the rule it collides with, -1 for none
	Err   error
}

func (e *RuleError) Error() string { return e.Err.Error() }
func (e *RuleError) Unwrap() error { return e.Err }

// Validate returns all that is wrong with send rules: filters and patterns
// that are none, wildcards that do not correspond, and true ties, of which
// there is only one kind left once placeholders are filled in: the same From
// twice. Wherever two different filters match one topic, one is more specific.
func Validate(rules []Rule) []*RuleError {
	var errs []*RuleError
	for i, r := range rules {
		if err := r.check(); err != nil {
			errs = append(errs, &RuleError{i, -1, err})
		}
		for j, earlier := range rules[:i] {
			if CanMatchBoth(r.From, earlier.From) && compareFilters(r.From, earlier.From) == 0 {
				errs = append(errs, &RuleError{i, j, fmt.Errorf("two rules for the filter %q (to %q and to %q): keep one", r.From, earlier.To, r.To)})
			}
		}
	}
	return errs
}

// ValidateReceive is Validate for receive rules. Their targets must be
// commands, for only the gateway publishes its values, states and results; and
// no two filters may overlap, for the far broker may then deliver a command
// once for each.
func ValidateReceive(rules []Rule) []*RuleError {
	errs := Validate(rules)
	for i, r := range rules {
		if !isCommand(lastLevel(r.To)) {
			errs = append(errs, &RuleError{i, -1, fmt.Errorf("a receive rule may only lead to commands: let %q end in /set, /_set or /_get", r.To)})
		}
		for j, earlier := range rules[:i] {
			if r.From != earlier.From && CanMatchBoth(r.From, earlier.From) {
				errs = append(errs, &RuleError{i, j, fmt.Errorf("the filters %q and %q overlap, so that a command could arrive twice: make them distinct", earlier.From, r.From)})
			}
		}
	}
	return errs
}

// check looks at one rule by itself.
func (r Rule) check() error {
	if err := errors.Join(validFilter(r.From), validFilter(r.To)); err != nil {
		return err
	}
	from, to := wildcards(r.From), wildcards(r.To)
	if to != "" && to != from {
		return fmt.Errorf("the wildcards of %q (%s) do not fill those of %q (%s): use the same ones in the same order, or none in the target",
			r.From, cmp.Or(from, "none"), r.To, to)
	}
	return nil
}

// validFilter is broker.ValidFilter without shared subscriptions.
func validFilter(filter string) error {
	if strings.HasPrefix(filter, "$share/") {
		return fmt.Errorf("filter %q: shared subscriptions do not fit a bridge", filter)
	}
	return broker.ValidFilter(filter)
}

// wildcards returns the wildcards of a valid filter in order: "++#".
func wildcards(filter string) string {
	return strings.Map(func(r rune) rune {
		if r == '+' || r == '#' {
			return r
		}
		return -1
	}, filter)
}

// compareFilters orders filters by how much they say, level by level: a name
// before +, + before #, the end before #. The more specific one comes first;
// of filters that match the same topic only equal ones compare as 0.
func compareFilters(a, b string) int {
	la, lb := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(la), len(lb)) {
		if c := cmp.Compare(vagueness(la[i]), vagueness(lb[i])); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(la), len(lb))
}

func vagueness(level string) int {
	switch level {
	case "#":
		return 2
	case "+":
		return 1
	}
	return 0
}

// CanMatchBoth reports whether some topic is matched by both filters.
func CanMatchBoth(a, b string) bool {
	if system(a) != system(b) && (wild(a) || wild(b)) {
		return false // a leading wildcard matches no topic that begins with $
	}
	for {
		la, restA, moreA := strings.Cut(a, "/")
		lb, restB, moreB := strings.Cut(b, "/")
		if la == "#" || lb == "#" {
			return true
		}
		if la != lb && la != "+" && lb != "+" {
			return false
		}
		if !moreA || !moreB {
			return moreA == moreB || restA == "#" || restB == "#"
		}
		a, b = restA, restB
	}
}

func system(filter string) bool { return strings.HasPrefix(filter, "$") }
func wild(filter string) bool {
	return strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")
}

// isCommand reports whether a last topic level asks the gateway to do
// something. Results end in /set/result and are none.
func isCommand(level string) bool {
	return level == "set" || level == "_set" || level == "_get"
}

func lastLevel(topic string) string { return topic[strings.LastIndexByte(topic, '/')+1:] }

// A table maps topics by rules, the most specific that matches. It is
// immutable.
type table struct {
	routes   []route  // most specific first
	filters  []string // their From
	commands bool     // wildcards match commands, too
}

// A route is a rule cut into levels.
type route struct{ from, to []string }

// newTable returns the table of valid rules. Unless commands is set a rule
// whose last level is a wildcard leaves out the commands it would match.
func newTable(rules []Rule, commands bool) *table {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b Rule) int { return compareFilters(a.From, b.From) })
	t := &table{commands: commands}
	for _, r := range rules {
		t.filters = append(t.filters, r.From)
		t.routes = append(t.routes, route{strings.Split(r.From, "/"), strings.Split(r.To, "/")})
	}
	return t
}

// MapTopic returns where send rules lead topic upstream, and false if they
// leave it out. Rules that Validate finds fault with count as absent.
func MapTopic(rules []Rule, topic string) (string, bool) {
	valid := slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return r.check() != nil })
	return newTable(valid, false).lookup(topic)
}

// lookup returns where topic leads to, and false if no rule matches it.
func (t *table) lookup(topic string) (string, bool) {
	levels := strings.Split(topic, "/")
	named := t.commands || !isCommand(levels[len(levels)-1])
	for _, r := range t.routes {
		if !named && !isCommand(r.from[len(r.from)-1]) {
			continue
		}
		if captured, ok := r.match(levels); ok {
			if to := r.fill(captured); to != "" && len(to) <= 65535 {
				return to, true
			}
		}
	}
	return "", false
}

// match returns the levels that the wildcards of r stand for in a topic.
func (r *route) match(levels []string) (captured [][]string, ok bool) {
	if strings.HasPrefix(levels[0], "$") && vagueness(r.from[0]) > 0 {
		return nil, false // MQTT 5, 4.7.2
	}
	for i, name := range r.from {
		switch {
		case name == "#":
			return append(captured, levels[i:]), true
		case i == len(levels):
			return nil, false
		case name == "+":
			captured = append(captured, levels[i:i+1])
		case name != levels[i]:
			return nil, false
		}
	}
	return captured, len(levels) == len(r.from)
}

// fill puts what was captured in the place of the target's wildcards. It
// returns "" where nothing is left: `a/#` to `#` with the topic `a`.
func (r *route) fill(captured [][]string) string {
	to := make([]string, 0, len(r.to)+len(captured))
	for _, name := range r.to {
		if vagueness(name) > 0 {
			to, captured = append(to, captured[0]...), captured[1:]
		} else {
			to = append(to, name)
		}
	}
	return strings.Join(to, "/")
}
