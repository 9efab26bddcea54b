package access

import (
	"strings"

	"edgegateway/broker"
)

// The names of a policy that are no users.
const (
	Anonymous = "anonymous" // clients without a user
	Everybody = "*"         // all users, and clients without one
)

// A Grant is what a Rule gives.
type Grant uint8

const (
	Deny  Grant = 0 // neither, whatever else is given
	Read  Grant = 1 << 0
	Write Grant = 1 << 1
)

// A Rule is a right to the topics that a filter selects.
type Rule struct {
	Filter string
	Grant  Grant
	// Pattern makes %u stand for the user and %c for the client id.
	Pattern bool
}

// Rules are the rights by user, Anonymous and Everybody. Nil rules allow
// everything; where there are any, what is not given is denied.
type Rules map[string][]Rule

// Add adds more to r.
func (r Rules) Add(more Rules) {
	for user, rules := range more {
		r[user] = append(r[user], rules...)
	}
}

// byClient says whether any right depends on the client id.
func (r Rules) byClient() bool {
	for _, rules := range r {
		for _, rule := range rules {
			if rule.Pattern && strings.Contains(rule.Filter, clientMark) {
				return true
			}
		}
	}
	return false
}

// seat returns the rights of one client.
func (r Rules) seat(user, clientID string) *seat {
	s := &seat{}
	own := user
	if user == "" {
		own = Anonymous
	}
	for _, rules := range [][]Rule{r[own], r[Everybody]} {
		for _, rule := range rules {
			filter, ok := rule.expand(user, clientID)
			if !ok {
				continue
			}
			if rule.Grant == Deny {
				s.deny.add(filter)
			}
			if rule.Grant&Read != 0 {
				s.read.add(filter)
			}
			if rule.Grant&Write != 0 {
				s.write.add(filter)
			}
		}
	}
	return s
}

const userMark, clientMark = "%u", "%c"

// expand fills in who it is for; ok is false if the rule says nothing of
// them. A name that holds + # or / could stretch a right, and so gives none;
// what is denied by such a name is denied from its level on.
func (r Rule) expand(user, clientID string) (filter string, ok bool) {
	if !r.Pattern {
		return r.Filter, true
	}
	byUser, byClient := strings.Contains(r.Filter, userMark), strings.Contains(r.Filter, clientMark)
	if byUser && user == "" || byClient && clientID == "" {
		return "", false
	}
	wild := byUser && strings.ContainsAny(user, "+#/") || byClient && strings.ContainsAny(clientID, "+#/")
	if wild && r.Grant == Deny {
		return before(r.Filter), true
	}
	filter = strings.NewReplacer(userMark, user, clientMark, clientID).Replace(r.Filter)
	return filter, !wild && (filter[0] != '$' || r.Filter[0] == '$' || r.Grant == Deny)
}

// before returns what lies under the levels before the first placeholder.
func before(pattern string) string {
	levels := strings.Split(pattern, "/")
	for i, level := range levels {
		if strings.Contains(level, userMark) || strings.Contains(level, clientMark) {
			return strings.Join(append(levels[:i:i], "#"), "/")
		}
	}
	return pattern
}

// A seat is what one client may do. It does not change.
type seat struct{ read, write, deny set }

// allows decides about a topic, or about a filter for broker.Subscribe.
func (s *seat) allows(topic string, access broker.Access) bool {
	switch access {
	case broker.Write:
		return s.write.match(topic) && !s.deny.match(topic)
	case broker.Read:
		return s.read.match(topic) && !s.deny.match(topic)
	}
	return s.permits(unshared(topic))
}

// permits says whether filter selects any topic that may be read.
func (s *seat) permits(filter string) bool {
	for _, f := range s.read.filters {
		if common, ok := meet(f, filter); ok && !s.deny.covers(common) {
			return true
		}
	}
	return false
}

// allowsAll says whether every topic that filter selects may be read.
func (s *seat) allowsAll(filter string) bool {
	filter = unshared(filter)
	return s.read.covers(filter) && !s.deny.meets(filter)
}

// unshared returns the filter of a shared subscription, $share/GROUP/FILTER.
func unshared(filter string) string {
	rest, shared := strings.CutPrefix(filter, "$share/")
	if _, inner, ok := strings.Cut(rest, "/"); shared && ok && inner != "" {
		return inner
	}
	return filter
}
