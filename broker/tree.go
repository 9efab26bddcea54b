package broker

import "strings"

// A subscriber is who gets messages; exactly one field is set.
type subscriber struct {
	session *session
	group   *group
	durable *Durable
	handle  func(*Message, func(error))
}

// options are how a subscriber wants the messages of one filter.
type options struct {
	qos               byte
	noLocal           bool // not what it published itself
	retainAsPublished bool
	sure              bool   // all that the filter selects may be received
	subID             uint32 // 0: none
}

// subIDs returns the subscription identifiers to deliver.
func (o options) subIDs() []uint32 {
	if o.subID == 0 {
		return nil
	}
	return []uint32{o.subID}
}

// A subscription is a subscriber at one filter.
type subscription struct {
	*subscriber
	options
}

// A tree finds the subscriptions that match a topic. Its nodes are levels of
// filters; a wildcard is a level like any other. The broker's mutex guards it.
type tree struct {
	root  node
	count int // subscriptions
}

type node struct {
	children map[string]*node
	subs     []subscription
}

// add subscribes s to filter, which is valid; its options replace those it
// had.
func (t *tree) add(filter string, s subscription) {
	n := &t.root
	for level := range strings.SplitSeq(filter, "/") {
		child := n.children[level]
		if child == nil {
			child = &node{}
			if n.children == nil {
				n.children = make(map[string]*node)
			}
			n.children[strings.Clone(level)] = child
		}
		n = child
	}
	if i := n.find(s.subscriber); i >= 0 {
		n.subs[i] = s
		return
	}
	n.subs = append(n.subs, s)
	t.count++
}

// remove takes s off filter and says whether it was subscribed to it.
func (t *tree) remove(filter string, s *subscriber) bool {
	removed := t.root.remove(filter, true, s)
	if removed {
		t.count--
	}
	return removed
}

func (n *node) remove(filter string, more bool, s *subscriber) bool {
	if !more {
		i := n.find(s)
		if i < 0 {
			return false
		}
		last := len(n.subs) - 1
		copy(n.subs[i:], n.subs[i+1:])
		n.subs[last] = subscription{}
		n.subs = n.subs[:last]
		return true
	}
	level, rest, more := strings.Cut(filter, "/")
	child := n.children[level]
	if child == nil || !child.remove(rest, more, s) {
		return false
	}
	if len(child.subs) == 0 && len(child.children) == 0 {
		delete(n.children, level)
	}
	return true
}

func (n *node) find(s *subscriber) int {
	for i := range n.subs {
		if n.subs[i].subscriber == s {
			return i
		}
	}
	return -1
}

// match appends the subscriptions whose filter selects topic, as Match says.
// One subscriber may be there several times.
func (t *tree) match(dst []subscription, topic string) []subscription {
	return t.root.match(dst, topic, true, strings.HasPrefix(topic, "$"))
}

func (n *node) match(dst []subscription, topic string, more, plain bool) []subscription {
	if rest := n.children["#"]; rest != nil && !plain {
		dst = append(dst, rest.subs...)
	}
	if !more {
		return append(dst, n.subs...)
	}
	level, topic, more := strings.Cut(topic, "/")
	if child := n.children[level]; child != nil {
		dst = child.match(dst, topic, more, false)
	}
	if child := n.children["+"]; child != nil && !plain {
		dst = child.match(dst, topic, more, false)
	}
	return dst
}
