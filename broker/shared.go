package broker

import (
	"slices"
	"strings"
)

// sharePrefix begins the filters of shared subscriptions: $share/GROUP/FILTER
// (MQTT 5 section 4.8.2). Clients before MQTT 5 may use them too.
const sharePrefix = "$share/"

// cutShare returns what a subscription selects: of a shared one its filter
// without the group.
func cutShare(filter string) (inner string, shared bool) {
	rest, shared := strings.CutPrefix(filter, sharePrefix)
	if !shared {
		return filter, false
	}
	_, inner, _ = strings.Cut(rest, "/")
	return inner, true
}

// A group is a shared subscription: each message goes to one of its members.
// The broker's mutex guards it.
type group struct {
	members []member
	next    int // whose turn it is
	sub     *subscriber
}

type member struct {
	session *session
	options
}

func (g *group) set(s *session, o options) {
	for i := range g.members {
		if g.members[i].session == s {
			g.members[i].options = o
			return
		}
	}
	g.members = append(g.members, member{s, o})
}

// remove takes s out and says whether nobody is left.
func (g *group) remove(s *session) (empty bool) {
	g.members = slices.DeleteFunc(g.members, func(m member) bool { return m.session == s })
	return len(g.members) == 0
}

// pick returns the member that a message goes to, nil if nobody takes it: by
// turns one that is connected and has room, else one that is connected, else,
// with a QoS above 0, one whose session waits for it.
func (b *Broker) pick(g *group, p *publication) *member {
	var best *member
	rank, at := 0, 0
	for i := range g.members {
		i = (g.next + i) % len(g.members)
		m := &g.members[i]
		r := b.rank(m, p)
		if r > rank {
			best, rank, at = m, r, i
		}
	}
	if best != nil {
		g.next = at + 1
	}
	return best
}

func (b *Broker) rank(m *member, p *publication) int {
	s := m.session
	if s == p.not || !m.sure && !b.allowed(s.user, s.id, p.msg.Topic, Read) {
		return 0
	}
	qos := min(p.msg.QoS, m.qos)
	connected, full := s.out.ready(qos)
	switch {
	case connected && !full:
		return 3
	case connected:
		return 2
	case s.lasts() && qos > 0:
		return 1
	}
	return 0
}

// redistribute gives what a member of a group was sent with QoS 1 and has not
// acknowledged when its session ended to another one. What else the session
// leaves is lost.
func (b *Broker) redistribute(s *session, lost []delivery) {
	n := 0
	for i := range lost {
		d := &lost[i]
		if d.group == nil || d.qos != 1 {
			n++
			continue
		}
		b.route(&publication{msg: d.msg, owned: true, only: d.group, not: s})
	}
	b.drop(dropEnded, n)
}
