package main

import (
	"bytes"
	"sync"
	"time"
)

// A tally compares what a subscriber at the site saw with what arrived in the
// cloud. Both sides are told message by message; the verdict is a Summary.
//
// A message is known by its topic and payload, which holds the time of its
// reading to the millisecond, so that equal values are told apart. Its clock
// quality may change between the two sides and does not count.
type tally struct {
	mu        sync.Mutex
	seen      map[string]int // at the site: key to place in order
	order     int
	arrived   map[string]bool   // in the cloud, by key
	ids       map[string]bool   // in the cloud, by message id
	last      map[string]string // in the cloud: topic to the last id
	delivered int
	duplicate int
	disorder  int
}

func newTally() *tally {
	return &tally{
		seen: map[string]int{}, arrived: map[string]bool{},
		ids: map[string]bool{}, last: map[string]string{},
	}
}

// site notes a live message that a local subscriber received.
func (t *tally) site(topic string, payload []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.order++
	t.seen[tallyKey(topic, payload)] = t.order
}

// cloud notes a message that the far broker received.
func (t *tally) cloud(topic, id string, payload []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ids[id] {
		t.duplicate++
		return
	}
	t.ids[id] = true
	t.delivered++
	t.arrived[tallyKey(topic, payload)] = true
	if older(id, t.last[topic]) {
		t.disorder++
	} else {
		t.last[topic] = id
	}
}

// older compares ids of one spool, whose numbers rise with the order of
// appending and are written without leading zeros.
func older(a, b string) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

func tallyKey(topic string, payload []byte) string {
	if i := bytes.Index(payload, []byte(`,"clock":"`)); i >= 0 {
		if j := bytes.IndexByte(payload[i+10:], '"'); j >= 0 {
			payload = append(payload[:i:i], payload[i+10+j+1:]...)
		}
	}
	return topic + "\x00" + string(payload)
}

// A Summary is what a demo proves.
type Summary struct {
	Readings      uint64  `json:"readings"`       // taken from the devices
	Delivered     int     `json:"delivered"`      // messages that the cloud received, each counted once
	Lost          int     `json:"lost"`           // seen at the site, never in the cloud
	Duplicated    int     `json:"duplicated"`     // came twice, told apart by their id
	OutOfOrder    int     `json:"out_of_order"`   // came after a later one of the same topic
	Outages       int     `json:"outages"`        // times the uplink was cut
	LongestOutage seconds `json:"longest_outage"` // in seconds, from cut to the first message after it
	MaxBacklog    uint64  `json:"max_backlog"`    // most messages waiting at once
}

type seconds float64

func inSeconds(d time.Duration) seconds { return seconds(d.Round(10 * time.Millisecond).Seconds()) }

// counts returns the present figures.
func (t *tally) counts() (local, delivered, duplicated, disorder int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.seen), t.delivered, t.duplicate, t.disorder
}

// missing returns the topics of the messages that the site saw and the cloud
// did not.
func (t *tally) missing() (topics []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.seen {
		if !t.arrived[key] {
			topics = append(topics, key[:bytes.IndexByte([]byte(key), 0)])
		}
	}
	return topics
}
