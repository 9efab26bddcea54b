package bridge

import "github.com/eclipse/paho.golang/paho"

// maxAliases bounds the topics that are abbreviated on one connection.
const maxAliases = 256

// aliasSize is what an alias adds to the packet that brings it.
const aliasSize = 3

// aliases abbreviate topics on one connection (MQTT 5, 3.3.2.3.4): after the
// first message of a topic two bytes stand for it. They belong to the sender,
// whose messages go in order, and end with the connection, after which all that
// was not acknowledged is sent anew.
type aliases struct {
	most  uint16 // that the far broker takes; 0: none
	last  uint16
	known map[string]uint16
}

// apply replaces the topic of p by its alias, or gives it one.
func (a *aliases) apply(p *paho.Publish) {
	if p.Properties == nil || a.most == 0 {
		return
	}
	if alias, ok := a.known[p.Topic]; ok {
		p.Properties.TopicAlias, p.Topic = new(alias), ""
		return
	}
	if a.last == min(a.most, maxAliases) {
		return // the first ones keep theirs
	}
	if a.known == nil {
		a.known = make(map[string]uint16)
	}
	a.last++
	a.known[p.Topic] = a.last
	p.Properties.TopicAlias = new(a.last)
}

// forget is for a topic of which a message was refused: whether the far broker
// took the alias with it, nobody knows.
func (a *aliases) forget(topic string) { delete(a.known, topic) }
