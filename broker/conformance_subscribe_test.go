package broker

import (
	"fmt"
	"testing"
	"time"

	"edgegateway/broker/packet"
)

// SUBSCRIBE, UNSUBSCRIBE, filters and shared subscriptions.

func specFiltersAreNeeded(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		s.refuses("SUBSCRIBE without a filter", encode(&packet.Subscribe{ID: 1}, v))
		s.refuses("UNSUBSCRIBE without a filter", encode(&packet.Unsubscribe{ID: 1}, v))
	})
}

func specSubscriptionOptions(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		wrong := []byte{3, 0x40, 0x80, 0xC0}
		if v < packet.V5 {
			wrong = append(wrong, 4, 8, 0x10, 0x20)
		}
		for _, options := range wrong {
			raw := encode(&packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(0, "t")}}, v)
			raw[len(raw)-1] = options
			s.refuses(fmt.Sprintf("options %08b", options), raw)
		}
	})
}

func specNoLocal(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p, other := s.join("p"), s.join("other")
		p.subscribe(packet.Filter{Filter: "t", QoS: 2, NoLocal: true})
		for q := range byte(3) {
			p.put(q, "t", "own") // fails if a message came in between
			p.wants("")
			other.put(q, "t", "others")
			p.wants("others")
		}
	})
}

func specNoLocalOfAShared(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pk := &packet.Subscribe{ID: 1, Filters: []packet.Filter{{Filter: "$share/g/t", NoLocal: true}}}
		if r := s.refuses("a shared subscription with no local", encode(pk, v)); r != packet.ProtocolError {
			t.Errorf("reason %v", r)
		}
	})
}

func specSubscribeIsAnswered(t *testing.T, v packet.Version) {
	cfg := Config{Allow: func(_, _, topic string, a Access) bool { return a != Subscribe || topic != "no" }}
	onStage(t, v, cfg, func(t *testing.T, s *stage) {
		p, pub := s.join("p"), s.join("pub")
		got := p.subscribe(qos(2, "a"), qos(0, "no"), qos(1, "b/+"), qos(0, "c/#"), qos(1, "a"))
		refused := packet.NotAuthorized
		if v < packet.V5 {
			refused = packet.Unspecified
		}
		if want := []packet.Reason{2, refused, 1, 0, 1}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		for _, topic := range []string{"no", "b/x", "c", "a", "x"} {
			pub.put(2, topic, topic)
		}
		list := p.wants("b/x c a")
		for i, want := range []byte{1, 0, 1} { // the second subscription to a counts
			if i < len(list) && list[i].QoS != want {
				t.Errorf("%s came with QoS %d", list[i].Topic, list[i].QoS)
			}
		}
	})
}

func specSubscribeAgain(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p, pub := s.join("p"), s.join("pub")
		pub.put(2, "t", "retained", retained)
		for _, q := range []byte{0, 2, 1} {
			p.subscribe(qos(q, "t")) // replaces the one before, and sends what is retained again
			if m := p.wantsOne("retained"); m.QoS != q {
				t.Errorf("retained message with QoS %d, granted %d", m.QoS, q)
			}
			pub.put(2, "t", "new")
			if m := p.wantsOne("new"); m.QoS != q {
				t.Errorf("message with QoS %d, granted %d", m.QoS, q)
			}
		}
		for i := range 10 { // what is under way is not lost
			pub.send(&packet.Publish{QoS: 1, ID: uint16(i + 1), Topic: "t", Payload: []byte{byte('0' + i)}})
			p.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Filter: "t", QoS: 1}}})
		}
		seen := make(map[string]bool)
		for _, pk := range p.everything() {
			if m, ok := pk.(*packet.Publish); ok && !m.Retain {
				seen[string(m.Payload)] = true
			}
		}
		if len(seen) != 10 {
			t.Errorf("%d of 10 messages came: %v", len(seen), seen)
		}
	})
}

// everything reads all packets that come, and acknowledges QoS 1.
func (p *peer) everything() packetList {
	p.t.Helper()
	var all packetList
	for {
		pk, err := p.within(time.Second)
		if err != nil {
			return all
		}
		if m, ok := pk.(*packet.Publish); ok {
			p.acknowledge(m)
		}
		all = append(all, pk)
	}
}

func specQoSIsTheLesser(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		for granted := range byte(3) {
			p := s.join("p")
			if got := p.subscribe(qos(granted, "t")); got[0] != packet.Reason(granted) {
				t.Errorf("granted %v, wanted QoS %d", got[0], granted)
			}
			for published := range byte(3) {
				pub.put(published, "t", "x")
				if m := p.wantsOne("x"); m.QoS != min(granted, published) {
					t.Errorf("published %d, granted %d, sent %d", published, granted, m.QoS)
				}
			}
			s.lose(p)
		}
	})
}

func specUnsubscribe(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p, pub := s.join("p"), s.join("pub")
		p.subscribe(qos(1, "a/+"), qos(1, "a/b"), qos(1, "c"), qos(1, "d"))
		got := p.unsubscribe("a/b", "a/#", "c", "never", "+/b")
		if want := []packet.Reason{0, 0x11, 0, 0x11, 0x11}; v >= packet.V5 && fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		for _, topic := range []string{"a/b", "c", "d"} {
			pub.put(1, topic, topic)
		}
		p.wants("a/b d") // the first by its other filter
		p.unsubscribe("a/+", "d")
		p.unsubscribe("a/+", "d") // again, and answered again
		for _, topic := range []string{"a/b", "d"} {
			pub.put(1, topic, topic)
		}
		p.wants("")
	})
}

func specUnsubscribeCompletesWhatWasBegun(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p, pub := s.keep("p"), s.join("pub")
		p.subscribe(qos(2, "t"))
		pub.put(1, "t", "1")
		pub.put(2, "t", "2")
		if m := p.messages(); len(m) != 2 {
			t.Fatalf("got %+v", m)
		}
		p.unsubscribe("t")
		pub.put(1, "t", "3")
		s.lose(p)
		for _, m := range s.back("p").wants("1 2") {
			if !m.Dup {
				t.Errorf("%s came again without DUP", m.Payload)
			}
		}
	})
}

// grants says whether the broker takes the filter. It may refuse it or close
// the connection.
func (s *stage) grants(filter string) bool {
	p := s.join("grants")
	defer s.lose(p)
	p.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(0, filter)}})
	got, err := p.drain(time.Second)
	ack, ok := first(got).(*packet.SubAck)
	if err == nil && !ok {
		s.t.Errorf("%q was answered with %+v", filter, got)
	}
	return ok && !ack.Reasons[0].Failed()
}

func specPlacesOfWildcards(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, filter := range []string{"#", "+", "a/#", "a/+", "+/a", "+/+", "a/+/b", "+/#", "/#", "/+", "a//#"} {
			if !s.grants(filter) {
				t.Errorf("%q was refused", filter)
			}
		}
		for _, filter := range []string{"a#", "#a", "#/a", "a/#/b", "a/b#", "##", "+a", "a+", "a/+b", "a/b+/c", "++", "+#", "#+", "/#/"} {
			if s.grants(filter) {
				t.Errorf("%q was granted", filter)
			}
		}
	})
}

func specEmptyTopics(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		if s.grants("") {
			t.Error("an empty filter was granted")
		}
		s.refuses("an empty topic", encode(&packet.Publish{}, v))
		for _, one := range []string{"/", "a", " "} {
			if !s.grants(one) {
				t.Errorf("filter %q was refused", one)
			}
			if reason := s.join("p").put(1, one, "x"); reason.Failed() {
				t.Errorf("topic %q: %v", one, reason)
			}
		}
	})
}

// What begins with $ is the server's own. Clients may not publish there, so
// the gateway does.
func specDollarTopics(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		wild, plain := s.join("wild"), s.join("plain")
		wild.subscribe(qos(0, "#"), qos(0, "+"), qos(0, "+/#"), qos(0, "+/x"), qos(0, "+/+"))
		plain.subscribe(qos(0, "$own/+"), qos(0, "$own"))
		s.Publish(&Message{Topic: "$own/x", Payload: []byte("1"), Retain: true})
		s.Publish(&Message{Topic: "$own", Payload: []byte("2"), Retain: true})
		wild.wants("")
		plain.wants("1 2")
		for _, filter := range []string{"#", "+/x", "+"} { // nor what is retained
			for _, m := range s.join("late").subscribeAndTake(qos(0, filter)) {
				if m.Topic[0] == '$' {
					t.Errorf("%s came for %s", m.Topic, filter)
				}
			}
		}
	})
}

func specSharedFilters(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, filter := range []string{"$share/g/t", "$share/a b/+/x", "$share/g/#", "$share/g//", "$share/$g/t"} {
			if !s.grants(filter) {
				t.Errorf("%q was refused", filter)
			}
		}
		for _, filter := range []string{"$share/", "$share//t", "$share/g", "$share/g/", "$share/g+/t", "$share/#/t", "$share/+/t", "$share/g#/t", "$share/g/a#"} {
			if s.grants(filter) {
				t.Errorf("%q was granted", filter)
			}
		}
	})
}

func specSharedGoesToOne(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub, other := s.join("pub"), s.join("other")
		members := []*peer{s.join("m0"), s.join("m1"), s.join("m2")}
		for i, m := range members {
			m.subscribe(qos(byte(i), "$share/g/t/#"))
		}
		other.subscribe(qos(0, "t/+"))
		s.join("alone").subscribe(qos(0, "$share/h/t/+"))
		for i := range 30 {
			pub.put(byte(i%3), "t/x", fmt.Sprint(i))
		}
		total := 0
		for granted, member := range members {
			for _, m := range member.taken() {
				total++
				var n int
				fmt.Sscan(string(m.Payload), &n)
				if m.QoS != min(byte(granted), byte(n%3)) || m.Topic != "t/x" {
					t.Errorf("published %d, granted %d, sent %d to %s", n%3, granted, m.QoS, m.Topic)
				}
			}
		}
		if n := len(other.taken()); total != 30 || n != 30 {
			t.Errorf("%d of 30 messages came to the group, %d to a plain subscriber", total, n)
		}
	})
}

// inFlight gives a group of two a QoS 2 message and returns the member that
// has it, unanswered, the other one, and the name of the first.
func inFlight(t *testing.T, s *stage) (has, other *peer, name string, m *packet.Publish) {
	pub := s.join("pub")
	members := map[string]*peer{"a": s.keep("a"), "b": s.keep("b")}
	for _, p := range members {
		p.subscribe(qos(2, "$share/g/t"))
	}
	pub.put(2, "t", "x")
	for name, p := range members {
		if got := p.messages(); len(got) == 1 {
			m, has = got[0], p
			other = members[map[string]string{"a": "b", "b": "a"}[name]]
			return has, other, name, m
		}
	}
	t.Fatal("no member got the message")
	return nil, nil, "", nil
}

func specSharedIsCompleted(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		has, other, name, m := inFlight(t, s)
		has.answer(m)
		has.acked(packet.PUBREL, m.ID)
		s.lose(has)
		other.wants("")
		has = s.back(name)
		has.acked(packet.PUBREL, m.ID)
		has.send(&packet.Ack{Kind: packet.PUBCOMP, ID: m.ID})
		has.wants("")
		other.wants("")
	})
}

func specSharedEndsWithItsSession(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		has, other, name, m := inFlight(t, s)
		has.answer(m)
		has.acked(packet.PUBREL, m.ID)
		s.lose(has)
		s.join(name) // a clean start ends the session
		other.wants("")
		time.Sleep(2 * time.Hour)
		other.wants("")
	})
}

func specSharedRefusedIsDiscarded(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		has, other, name, m := inFlight(t, s)
		has.send(&packet.Ack{Kind: packet.PUBREC, ID: m.ID, Reason: packet.Unspecified})
		has.wants("")
		other.wants("")
		s.lose(has)
		s.back(name).wants("")
		other.wants("")
	})
}
