package clients

import (
	"fmt"
	"strings"
	"testing"
)

// many is how many messages a stream has.
const many = 300

// TestClients is what every library shows over each of its transports.
func TestClients(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "")
	for _, k := range kinds {
		for _, transport := range k.transports {
			t.Run(k.name+"/"+transport, func(t *testing.T) {
				t.Parallel()
				s := &suite{kind: k, url: g.urls[transport], name: k.name + " " + transport}
				t.Run("streams", s.streams)
				t.Run("retained", s.retained)
				t.Run("session", s.session)
				t.Run("large", s.large)
				if transport != "unix" {
					t.Run("will", s.will)
				}
				if k.v5 {
					t.Run("properties", s.properties)
					t.Run("aliases", s.aliases)
					t.Run("shared", s.shared)
				}
			})
		}
	}
}

// A suite is run for one kind over one transport.
type suite struct {
	kind
	url  string
	name string // begins its topics, with spaces
}

func (s *suite) topic(rest string) string { return s.name + "/Größe/" + rest }

func (s *suite) options(id string) options { return options{URL: s.url, ID: id + " of " + s.name} }

func (s *suite) streams(t *testing.T) {
	from, _ := s.open(t, s.options("from"))
	to, in := s.open(t, s.options("to"))
	for qos := range byte(3) {
		topic := s.topic(fmt.Sprint("stream ", qos))
		subscribe(t, to, subscription{Filter: topic, QoS: qos})
		want := numbered(topic, qos, many)
		publish(t, from, want...)
		same(t, in.take(t, many), want)
	}
}

func (s *suite) retained(t *testing.T) {
	from, _ := s.open(t, s.options("from"))
	kept := message{Topic: s.topic("retained"), Payload: []byte("kept"), QoS: 1, Retain: true}
	publish(t, from, kept)
	to, in := s.open(t, s.options("to"))
	subscribe(t, to, subscription{Filter: s.topic("#"), QoS: 1})
	same(t, in.take(t, 1), []message{kept})

	cleared, last := message{Topic: kept.Topic, QoS: 1, Retain: true}, message{Topic: s.topic("last"), Payload: []byte("last"), QoS: 1}
	publish(t, from, cleared, last)
	cleared.Retain = false // for who is subscribed already
	same(t, in.take(t, 2), []message{cleared, last})
	later, in := s.open(t, s.options("later"))
	subscribe(t, later, subscription{Filter: s.topic("#"), QoS: 1})
	publish(t, from, last)
	same(t, in.take(t, 1), []message{last})
}

// session misses messages while it is away and has them, in order, when it
// comes back.
func (s *suite) session(t *testing.T) {
	from, _ := s.open(t, s.options("from"))
	for qos := byte(1); qos <= 2; qos++ {
		o := s.options(fmt.Sprint("away ", qos)) // two, for some libraries disconnect without the last acknowledgements
		o.Session = true
		topic := s.topic(fmt.Sprint("missed ", qos))
		c := s.new(t, new(inbox))
		if _, err := c.connect(o); err != nil {
			t.Fatal(err)
		}
		subscribe(t, c, subscription{Filter: topic, QoS: qos})
		if err := c.disconnect(); err != nil {
			t.Fatal(err)
		}
		want := numbered(topic, qos, many)
		publish(t, from, want...)

		in := new(inbox)
		c = s.new(t, in)
		if present, err := c.connect(o); err != nil || present == s.v31 {
			t.Fatalf("session present: %v, %v", present, err)
		}
		last := message{Topic: topic, Payload: []byte("last"), QoS: qos}
		publish(t, from, last)
		same(t, in.take(t, many+1), append(want, last))
		c.disconnect()
	}
}

func (s *suite) large(t *testing.T) {
	c, in := s.open(t, s.options("large"))
	topic := s.topic("a topic with spaces/für große Nachrichten/日本")
	subscribe(t, c, subscription{Filter: topic, QoS: 2})
	var want []message
	for qos := range byte(3) {
		want = append(want, message{Topic: topic, Payload: []byte(strings.Repeat(fmt.Sprint(qos), 200<<10)), QoS: qos})
	}
	publish(t, c, want...)
	same(t, in.take(t, 3), want)
}

// will is published when the cable is cut, and not when the client says
// goodbye.
func (s *suite) will(t *testing.T) {
	watcher, in := s.open(t, s.options("watcher"))
	subscribe(t, watcher, subscription{Filter: s.topic("will"), QoS: 1})
	o := s.options("polite")
	o.Will = &message{Topic: s.topic("will"), Payload: []byte("polite"), QoS: 1}
	polite := s.new(t, new(inbox))
	if _, err := polite.connect(o); err != nil {
		t.Fatal(err)
	}
	if err := polite.disconnect(); err != nil {
		t.Fatal(err)
	}
	will := &message{Topic: s.topic("will"), Payload: []byte("gone"), QoS: 1, Retain: true}
	if s.v5 {
		will.User = [][2]string{{"why", "cut"}}
	}
	if s.wholeWill {
		will.ContentType = "text/plain"
	}
	r, url := newRelay(t, s.url)
	s.open(t, options{URL: url, ID: "mortal of " + s.name, Will: will})
	r.cut()
	live := *will
	live.Retain = false
	same(t, in.take(t, 1), []message{live})
	late, in := s.open(t, s.options("late"))
	subscribe(t, late, subscription{Filter: s.topic("will"), QoS: 1})
	same(t, in.take(t, 1), []message{*will})
}

func (s *suite) properties(t *testing.T) {
	from, answers := s.open(t, s.options("from"))
	to, in := s.open(t, s.options("to"))
	subscribe(t, from, subscription{Filter: s.topic("answer"), QoS: 1})
	subscribe(t, to, subscription{Filter: s.topic("question"), QoS: 2, ID: 268_435_455})
	want := message{
		Topic: s.topic("question"), Payload: []byte(`{"is":"it?"}`), QoS: 2, ContentType: "application/json",
		ResponseTopic: s.topic("answer"), Correlation: []byte{0, 255, 1}, Expiry: 1000,
		User: [][2]string{{"größe", "1"}, {"größe", "2"}, {"empty", ""}},
	}
	publish(t, from, want)
	want.Subscription = 268_435_455
	got := in.take(t, 1)
	if e := got[0].Expiry; e > 990 && e < 1000 {
		got[0].Expiry = 1000 // it waited some time
	}
	same(t, got, []message{want})
	answer := message{Topic: got[0].ResponseTopic, Payload: []byte("yes"), QoS: 1, Correlation: got[0].Correlation}
	publish(t, to, answer)
	same(t, answers.take(t, 1), []message{answer})
}

// aliases shows topics that are named once and known by a number then, and
// another that takes over the number.
func (s *suite) aliases(t *testing.T) {
	from, _ := s.open(t, s.options("from"))
	o := s.options("to")
	if s.readsAlias {
		o.Aliases = 2
	}
	to, in := s.open(t, o)
	subscribe(t, to, subscription{Filter: s.topic("alias/#"), QoS: 1})
	var want []message
	for _, topic := range []string{s.topic("alias/one"), s.topic("alias/two")} {
		for _, m := range numbered(topic, 1, 10) {
			want = append(want, m)
			if m.Alias = 3; string(m.Payload) != "1" {
				m.Topic = ""
			}
			publish(t, from, m)
		}
	}
	got := in.take(t, 20)
	same(t, got, want)
	if last := got[len(got)-1]; s.readsAlias && last.Alias == 0 {
		t.Errorf("the broker used no alias for %v", last)
	}
}

// shared subscriptions give each message to one of the two, in its order.
func (s *suite) shared(t *testing.T) {
	from, _ := s.open(t, s.options("from"))
	topic := s.topic("work")
	var workers [2]*inbox
	for i := range workers {
		var c client
		c, workers[i] = s.open(t, s.options(fmt.Sprint("worker ", i)))
		subscribe(t, c, subscription{Filter: "$share/group/" + topic, QoS: 1})
	}
	publish(t, from, numbered(topic, 1, many)...)
	eventually(t, "all work is given out", func() bool { return workers[0].len()+workers[1].len() >= many })
	seen := make(map[string]bool)
	for i, in := range workers {
		last := 0
		for _, m := range in.messages() {
			n := 0
			if fmt.Sscan(string(m.Payload), &n); n <= last {
				t.Errorf("worker %d got %d after %d", i, n, last)
			}
			last = n
			seen[string(m.Payload)] = true
		}
		if last == 0 {
			t.Errorf("worker %d got nothing", i)
		}
	}
	if n := workers[0].len() + workers[1].len(); n != many || len(seen) != many {
		t.Errorf("%d messages, %d different ones", n, len(seen))
	}
}
