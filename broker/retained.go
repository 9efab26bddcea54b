package broker

import (
	"log/slog"
	"strings"
	"time"
)

// A retainedStore has the last retained message of each topic. The broker's
// mutex guards it; its log has a goroutine of its own.
type retainedStore struct {
	byTopic map[string]*Message // shared: nobody changes them
	count   int                 // of those of external clients, which limits bound
	bytes   int
	log     *retainedLog // nil: nothing is durable
}

// load reads what dir has.
func (s *retainedStore) load(dir string, every time.Duration, now int64, log *slog.Logger) error {
	s.byTopic = make(map[string]*Message)
	if dir == "" {
		return nil
	}
	l, msgs, err := openRetainedLog(dir, every, now, log)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		s.put(m)
	}
	s.log = l
	return nil
}

func (s *retainedStore) len() int { return len(s.byTopic) }

// put keeps m, or forgets what was kept if m is empty, and says whether a
// message of an external client gave way.
func (s *retainedStore) put(m *Message) (external bool) {
	if old := s.byTopic[m.Topic]; old != nil && old.From != "" {
		external = true
		s.count--
		s.bytes -= cost(old)
	}
	if len(m.Payload) == 0 {
		delete(s.byTopic, m.Topic)
		return external
	}
	if m.From != "" {
		s.count++
		s.bytes += cost(m)
	}
	s.byTopic[m.Topic] = m
	return external
}

// set keeps m and calls done when that is as durable as it has to be. done
// may be called before set returns.
func (s *retainedStore) set(m *Message, done func(error)) {
	replaced := s.put(m)
	external := m.From != "" && len(m.Payload) > 0
	if s.log == nil || !external && !replaced {
		done(nil)
		return
	}
	if !external && len(m.Payload) > 0 {
		m = &Message{Topic: m.Topic} // the gateway's own takes its place: the log forgets it
	}
	s.log.append(m, done)
}

// room says whether m, of an external client, may be kept.
func (s *retainedStore) room(m *Message, limits Limits, now int64) bool {
	fits := func() bool {
		count, bytes := s.count+1, s.bytes+cost(m)
		if old := s.byTopic[m.Topic]; old != nil && old.From != "" {
			count, bytes = count-1, bytes-cost(old)
		}
		return count <= limits.Retained && bytes <= limits.RetainedBytes
	}
	if fits() {
		return true
	}
	for _, old := range s.byTopic {
		s.forgetExpired(old, now)
	}
	return fits()
}

// forgetExpired says whether m has expired, and then forgets it. The log drops
// it at its next compaction.
func (s *retainedStore) forgetExpired(m *Message, now int64) bool {
	if _, ok := m.left(now); ok {
		return false
	}
	s.put(&Message{Topic: m.Topic})
	return true
}

// matching returns the messages that filter selects.
func (s *retainedStore) matching(filter string, now int64) []*Message {
	var msgs []*Message
	add := func(m *Message) {
		if !s.forgetExpired(m, now) {
			msgs = append(msgs, m)
		}
	}
	if !strings.ContainsAny(filter, "+#") {
		if m := s.byTopic[filter]; m != nil {
			add(m)
		}
		return msgs
	}
	for topic, m := range s.byTopic {
		if Match(filter, topic) {
			add(m)
		}
	}
	return msgs
}

// external returns the messages of external clients.
func (s *retainedStore) external() []*Message {
	msgs := make([]*Message, 0, s.count)
	for _, m := range s.byTopic {
		if m.From != "" {
			msgs = append(msgs, m)
		}
	}
	return msgs
}

// left returns the seconds that m has to live at now, or false if none. A
// message without expiry has 0.
func (m *Message) left(now int64) (uint32, bool) {
	if m.Props == nil || m.Props.Expiry == nil {
		return 0, true
	}
	expiry := *m.Props.Expiry
	elapsed := max(now-m.Stamp, 0) / 1e9
	if elapsed >= max(int64(expiry), 1) {
		return 0, false
	}
	return expiry - uint32(elapsed), true
}

// cost is what a message counts for in bounds, in bytes.
func cost(m *Message) int {
	n := len(m.Topic) + len(m.Payload) + 100
	if m.Props != nil {
		n += len(m.Props.ContentType) + len(m.Props.ResponseTopic) + len(m.Props.Correlation)
		for _, u := range m.Props.User {
			n += len(u.Key) + len(u.Value) + 32
		}
	}
	return n
}

// Own returns the topics of what the gateway itself published to be retained.
func (b *Broker) Own() (topics []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for topic, m := range b.retained.byTopic {
		if m.From == "" {
			topics = append(topics, topic)
		}
	}
	return topics
}

// Retained returns copies of the messages that filter selects and that clients
// left to be retained.
func (b *Broker) Retained(filter string) (msgs []*Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.retained.matching(filter, b.now()) {
		if m.From != "" {
			msgs = append(msgs, m.clone())
		}
	}
	return msgs
}
