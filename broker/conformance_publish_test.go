package broker

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"edgegateway/broker/packet"
	"edgegateway/broker/spool"
)

// PUBLISH: flags, retained messages, properties, aliases, flow control, order.

func specDupIsNotPassedOn(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.join("sub"), s.join("pub")
		sub.subscribe(qos(2, "t"))
		for q := range byte(3) {
			pub.put(q, "t", "x", func(m *packet.Publish) { m.Dup = q > 0 })
			if m := sub.wantsOne("x"); m.Dup {
				t.Errorf("QoS %d: DUP is set", q)
			}
		}
	})
}

func specRetained(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub, old := s.join("pub"), s.join("old")
		old.subscribe(qos(2, "#"))
		fresh := func(want string) messageList { // what a new subscriber gets
			p := s.join("fresh")
			p.subscribe(qos(2, "t/#"))
			return p.wants(want)
		}
		for q := range byte(3) {
			payload := fmt.Sprint("kept", q)
			pub.put(q, "t/a", payload, retained)
			if m := old.wantsOne(payload); m.Retain {
				t.Error("RETAIN to a subscriber that was there")
			}
			if m := fresh(payload); len(m) == 1 && (!m[0].Retain || m[0].QoS != q) {
				t.Errorf("to a new subscriber: %+v", m[0])
			}
			pub.put(q, "t/a", "new")
			old.wants("new")
			fresh(payload)
		}
		pub.put(1, "t/b", "b", retained)
		if n := len(s.join("all").subscribeAndTake(qos(0, "#"))); n != 2 {
			t.Errorf("%d retained messages", n)
		}
		old.wants("b")
		pub.put(1, "t/b", "", retained)
		pub.put(1, "t/a", "", retained)
		if got := old.taken(); len(got) != 2 || len(got[0].Payload) > 0 || got[0].Retain {
			t.Errorf("what clears went on as %+v", got)
		}
		fresh("")
		if n := s.Stats().Retained; n != 0 {
			t.Errorf("%d messages are retained", n)
		}
	})
}

func (p *peer) subscribeAndTake(filters ...packet.Filter) messageList {
	p.t.Helper()
	p.subscribe(filters...)
	return p.taken()
}

func specRetainedOutlivesItsPublisher(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.join("p")
		p.put(1, "t", "x", retained)
		p.send(&packet.Disconnect{})
		p.gone()
		s.join("p").subscribe(qos(0, "none"))
		if m := s.join("q").subscribeAndTake(qos(0, "t")); m.payloads() != "x" {
			t.Errorf("got %q", m.payloads())
		}
	})
}

func specRetainHandling(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		s.join("pub").put(1, "t/a", "x", retained)
		for handling, want := range []string{"x x", "x", ""} {
			p := s.join("p")
			f := packet.Filter{Filter: "t/+", RetainHandling: byte(handling)}
			got := append(p.subscribeAndTake(f), p.subscribeAndTake(f)...)
			if got.payloads() != want {
				t.Errorf("retain handling %d, subscribed twice: got %q, want %q", handling, got.payloads(), want)
			}
		}
	})
}

func specRetainAsPublished(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		for _, asPublished := range []bool{false, true} {
			p := s.join("p")
			p.subscribe(packet.Filter{Filter: "t", RetainAsPublished: asPublished, RetainHandling: 2})
			pub.put(1, "t", "1", retained)
			pub.put(1, "t", "2")
			if got := p.wants("1 2"); got[0].Retain != asPublished || got[1].Retain {
				t.Errorf("as published %v: RETAIN %v, %v", asPublished, got[0].Retain, got[1].Retain)
			}
		}
	})
}

func specTopicsHaveNoWildcards(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, topic := range []string{"#", "+", "a/+", "a/#", "a/+/b", "a+", "#a"} {
			s.refuses("PUBLISH to "+topic, encode(&packet.Publish{Topic: topic, Payload: []byte("x")}, v))
		}
	})
}

func specTopicsMatchTheFilter(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		topics := []string{"a", "a/", "/a", "a/b", "a//b", "a/b/c", "a/x/c", "b", "b/c", "/", "$x", "a/$x", "A/B"}
		filters := []string{"a", "a/b", "a/+", "a/#", "+", "#", "+/+", "+/b", "/+", "a/+/c", "a/+/#", "+/#", "+/+/#", "a/b/#", "A/#"}
		sub, pub := s.join("sub"), s.join("pub")
		for _, filter := range filters {
			sub.subscribe(qos(0, filter))
			var want []string
			for _, topic := range topics {
				pub.put(1, topic, topic)
				if Match(filter, topic) { // TestMatch shows what that says
					want = append(want, topic)
				}
			}
			for _, m := range sub.wants(strings.Join(want, " ")) {
				if m.Topic != string(m.Payload) {
					t.Errorf("%s came with topic %s", m.Payload, m.Topic)
				}
			}
			sub.unsubscribe(filter)
		}
	})
}

func specPublishIsAnswered(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.join("p")
		for q, want := range []packet.Type{0, packet.PUBACK, packet.PUBREC} {
			m := &packet.Publish{QoS: byte(q), Topic: "t"}
			if q > 0 {
				m.ID = 7
			}
			p.send(m)
			got, _ := p.drain(time.Second)
			if want == 0 && len(got) > 0 || want > 0 && (len(got) != 1 || got[0].Type() != want) {
				t.Errorf("QoS %d was answered with %+v", q, got)
			}
		}
	})
}

// A message that several subscriptions of a client match may come once or once
// for each of them.
func specOverlappingSubscriptions(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.join("sub"), s.join("pub")
		sub.subscribe(qos(0, "a/#"), qos(2, "a/+"), qos(1, "a/b"))
		for q := range byte(3) {
			pub.put(q, "a/b", "x")
			got := sub.taken()
			var best byte
			for _, m := range got {
				best = max(best, m.QoS)
			}
			if len(got) == 0 || len(got) > 3 || best != q {
				t.Errorf("published with QoS %d: %d copies, the best with QoS %d", q, len(got), best)
			}
		}
	})
}

func specSubscriptionIdentifiers(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.join("sub"), s.join("pub")
		for i, filter := range []string{"a/#", "a/+", "a/b", "b"} {
			subscribe := &packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(byte(i%3), filter)}}
			if i != 1 {
				subscribe.Props = subscribe.Props.AddNum(packet.SubscriptionID, uint32(1000*i+1))
			}
			sub.send(subscribe)
			expect[*packet.SubAck](sub)
		}
		pub.put(2, "a/b", "x")
		got := sub.taken()
		seen := make(map[uint32]int)
		for _, m := range got {
			for _, p := range m.Props {
				if p.ID == packet.SubscriptionID {
					seen[p.Num]++
				}
			}
		}
		if len(got) == 0 || seen[1] != 1 || seen[2001] != 1 || len(seen) != 2 {
			t.Errorf("%d copies with the identifiers %v", len(got), seen)
		}
		pub.put(1, "a/c", "x")
		pub.put(1, "b", "x")
		if got := sub.taken(); len(got) < 2 || got[len(got)-1].Props.Num(packet.SubscriptionID, 0) != 3001 {
			t.Errorf("got %+v", got)
		}
	})
}

func specSubscriptionIdentifierFromAClient(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		s.refuses("PUBLISH with a subscription identifier", fromHex("3006 0001 61 02 0b01"))
	})
}

func specRefusedPublish(t *testing.T, v packet.Version) {
	cfg := Config{Allow: func(_, _, topic string, a Access) bool { return a != Write || topic != "no" }}
	onStage(t, v, cfg, func(t *testing.T, s *stage) {
		watch := s.join("watch")
		watch.subscribe(qos(2, "#"))
		for q := range byte(3) {
			p := s.join("p")
			m := &packet.Publish{QoS: q, Topic: "no"}
			if q > 0 {
				m.ID = 3
			}
			p.send(m)
			got, err := p.drain(time.Second)
			if err == nil && q > 0 {
				ack, ok := first(got).(*packet.Ack)
				if !ok || ack.ID != 3 || ack.Reason.Failed() != (v >= packet.V5) {
					t.Errorf("QoS %d: answered with %+v", q, got)
				}
			}
			s.lose(p)
			watch.wants("")
		}
	})
}

func specPropertiesAreUnaltered(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.join("sub"), s.join("pub")
		sub.subscribe(qos(2, "t"))
		sets := []packet.Properties{
			nil,
			{{ID: packet.PayloadFormat, Num: 1}},
			{{ID: packet.ResponseTopic, Text: "re/ply"}, {ID: packet.CorrelationData, Text: "\x00\xff\xfe"}},
			{{ID: packet.ContentType, Text: "application/json; charset=ü"}},
			{{ID: packet.UserProperty, Text: "z", Value: "1"}, {ID: packet.UserProperty, Text: "a", Value: ""},
				{ID: packet.UserProperty, Text: "z", Value: "1"}, {ID: packet.UserProperty, Text: "", Value: "0"},
				{ID: packet.UserProperty, Text: "m", Value: strings.Repeat("long", 100)}},
		}
		for _, props := range sets {
			for q := range byte(3) {
				pub.put(q, "t", "x", retained, func(m *packet.Publish) { m.Props = props })
				comparePropertiesOf(t, sub.wantsOne("x"), props)
			}
			late := s.join("late") // and what is retained is no different
			late.subscribe(qos(2, "t"))
			comparePropertiesOf(t, late.wantsOne("x"), props)
		}
	})
}

func mortal(seconds uint32) func(*packet.Publish) {
	return func(m *packet.Publish) { m.Props = m.Props.AddNum(packet.MessageExpiry, seconds) }
}

func specMessageExpiry(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p")
		p.subscribe(qos(2, "t"))
		s.lose(p)
		for q := range byte(2) {
			pub.put(q+1, "t", "short", mortal(20))
			pub.put(q+1, "t", "long", mortal(1000))
		}
		time.Sleep(30 * time.Second)
		for _, m := range s.back("p").wants("long long") {
			if left := m.Props.Num(packet.MessageExpiry, 0); left != 970 && left != 969 {
				t.Errorf("QoS %d has %d s left of 1000 after 30", m.QoS, left)
			}
		}
	})
}

func specResponseTopicHasNoWildcards(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, topic := range []string{"#", "a/+", "+"} {
			m := &packet.Publish{Topic: "t", Props: packet.Properties{{ID: packet.ResponseTopic, Text: topic}}}
			s.refuses("response topic "+topic, encode(m, v))
		}
	})
}

func aliased(n uint32) func(*packet.Publish) {
	return func(m *packet.Publish) { m.Props = m.Props.AddNum(packet.TopicAlias, n) }
}

func specAliasesOfClients(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub := s.join("sub")
		sub.subscribe(qos(0, "t/#"))
		p := s.dial()
		most := p.connect("p").Props.Num(packet.TopicAliasMaximum, 0)
		if most == 0 {
			t.Fatal("the broker takes no aliases")
		}
		for _, alias := range []uint32{1, 2, most - 1, most} {
			topic := fmt.Sprint("t/", alias)
			p.put(1, topic, "1", aliased(alias))
			p.put(2, "", "2", aliased(alias))
			for _, m := range sub.wants("1 2") {
				if m.Topic != topic || m.Props.Has(packet.TopicAlias) {
					t.Errorf("alias %d: got %+v", alias, m)
				}
			}
		}
		p.put(1, "t/new", "3", aliased(1)) // which changes it
		p.put(1, "", "4", aliased(1))
		if got := sub.wants("3 4"); got[1].Topic != "t/new" {
			t.Errorf("topic %q", got[1].Topic)
		}
		for _, alias := range []uint32{0, most + 1} {
			m := &packet.Publish{Topic: "t/x", Props: packet.Properties{{ID: packet.TopicAlias, Num: alias}}}
			if r := s.refuses(fmt.Sprint("alias ", alias), encode(m, v)); r != packet.TopicAliasInvalid && r != packet.ProtocolError {
				t.Errorf("alias %d: reason %v", alias, r)
			}
		}
		sub.wants("")
	})
}

func specAliasesEndWithTheConnection(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.keep("p")
		p.put(1, "t", "1", aliased(1))
		s.lose(p)
		p = s.back("p")
		p.push(encode(&packet.Publish{Props: packet.Properties{{ID: packet.TopicAlias, Num: 1}}}, v))
		if got, err := p.drain(time.Second); err == nil {
			t.Errorf("the alias of an earlier connection was taken; got %+v", got)
		}
	})
}

// resolver gives messages with an alias the topic that was sent with it first,
// and fails for aliases that the client has not allowed.
func resolver(t *testing.T, most uint32) func(messageList) {
	known := make(map[uint32]string)
	return func(list messageList) {
		for _, m := range list {
			if !m.Props.Has(packet.TopicAlias) {
				continue
			}
			alias := m.Props.Num(packet.TopicAlias, 0)
			if alias == 0 || alias > most {
				t.Errorf("alias %d of %d", alias, most)
			}
			if m.Topic != "" {
				known[alias] = m.Topic
			} else if m.Topic = known[alias]; m.Topic == "" {
				t.Errorf("alias %d is used before it is defined", alias)
			}
		}
	}
}

func specAliasesToClients(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		for _, most := range []uint32{0, 1, 3, 65535} {
			p := s.join("p", asking(packet.TopicAliasMaximum, most))
			p.subscribe(qos(2, "t/#"))
			resolve := resolver(t, most)
			for i := range 60 {
				topic := fmt.Sprint("t/a/topic/that/is/worth/an/alias/", i%7)
				pub.put(byte(i%3), topic, topic)
				got := p.taken()
				resolve(got)
				if len(got) != 1 || got[0].Topic != topic || string(got[0].Payload) != topic {
					t.Fatalf("with %d aliases: got %+v, want %s", most, got, topic)
				}
			}
			s.lose(p)
		}
		p := s.join("p") // without the property there are none
		p.subscribe(qos(2, "t/#"))
		for range 3 {
			pub.put(1, "t/long/long/long/topic", "x")
			if m := p.wantsOne("x"); m.Topic != "t/long/long/long/topic" || m.Props.Has(packet.TopicAlias) {
				t.Errorf("got %+v", m)
			}
		}
	})
}

func specReceiveMaximum(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		for _, most := range []int{1, 3} {
			p := s.join("p", asking(packet.ReceiveMaximum, uint32(most)))
			p.subscribe(qos(2, "t"))
			for i := range 10 {
				pub.put(byte(1+i%2), "t", fmt.Sprint(i))
			}
			under := p.messages()
			if len(under) != most {
				t.Fatalf("%d messages with a receive maximum of %d", len(under), most)
			}
			p.pings()
			if reasons := p.subscribe(qos(0, "u")); reasons[0].Failed() {
				t.Error(reasons)
			}
			if reason := p.put(1, "elsewhere", "x"); reason.Failed() {
				t.Error(reason)
			}
			for _, m := range under {
				p.answer(m)
			}
			rest := p.taken()
			if got := under.payloads() + " " + rest.payloads(); got != "0 1 2 3 4 5 6 7 8 9" {
				t.Errorf("got %q", got)
			}
			s.lose(p)
		}
	})
}

func specQuotaOfQoS2(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub, p := s.join("pub"), s.join("p", asking(packet.ReceiveMaximum, 1))
		p.subscribe(qos(2, "t"))
		for i := range 4 {
			pub.put(2, "t", fmt.Sprint(i))
		}
		m := p.messages()
		if len(m) != 1 {
			t.Fatalf("got %+v", m)
		}
		p.answer(m[0])
		p.acked(packet.PUBREL, m[0].ID)
		if m := p.messages(); len(m) > 0 {
			t.Errorf("%d more before PUBCOMP", len(m))
		}
		p.send(&packet.Ack{Kind: packet.PUBCOMP, ID: m[0].ID})
		if m = p.messages(); len(m) != 1 {
			t.Fatalf("after PUBCOMP: %+v", m)
		}
		p.send(&packet.Ack{Kind: packet.PUBREC, ID: m[0].ID, Reason: packet.Unspecified}) // which ends it too
		p.wants("2 3")
	})
}

func specMaximumPacketSize(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		const most = 60
		pub := s.join("pub")
		for q := range byte(3) {
			p := s.join("p", asking(packet.MaximumPacketSize, most), asking(packet.ReceiveMaximum, 1))
			p.subscribe(qos(q, "t"))
			fits := most - 6 // 2 and the length, 3 for the topic, and no properties
			if q > 0 {
				fits -= 2
			}
			for range 3 {
				pub.put(q, "t", strings.Repeat("x", 2*most))
				pub.put(q, "t", strings.Repeat("y", fits+1))
				pub.put(q, "t", strings.Repeat("z", fits))
				pub.put(q, "t", "small")
			}
			want := strings.Repeat("z", fits) + " small"
			p.wants(want + " " + want + " " + want)
			s.lose(p)
		}
	})
}

// talk lets p provoke all answers that there are, also refusals, and returns
// what came with the size of each.
func talk(t *testing.T, s *stage, p *peer) (got packetList, sizes []int) {
	long := strings.Repeat("no/", 30)
	for _, pk := range []packet.Packet{
		&packet.Publish{QoS: 1, ID: 1, Topic: long}, &packet.Publish{QoS: 2, ID: 2, Topic: long},
		&packet.Publish{QoS: 1, ID: 3, Topic: "yes"}, &packet.Publish{QoS: 2, ID: 4, Topic: "yes"},
		&packet.Ack{Kind: packet.PUBREL, ID: 4}, &packet.Ack{Kind: packet.PUBREL, ID: 99},
		&packet.Subscribe{ID: 5, Filters: []packet.Filter{qos(0, "a"), qos(1, "b"), qos(2, "c"), qos(0, long), qos(0, "a#"), qos(0, "$share//x")}},
		&packet.Unsubscribe{ID: 6, Filters: []string{"a", long, "b", "a#"}},
		packet.Ping{Kind: packet.PINGREQ},
	} {
		p.send(pk)
		for {
			p.conn.SetReadDeadline(time.Now().Add(time.Second))
			answer, size, err := p.r.Read()
			if err != nil {
				break
			}
			got, sizes = append(got, answer), append(sizes, size)
		}
	}
	p.conn.SetReadDeadline(time.Time{})
	p.push(fromHex("0000"))
	for {
		answer, size, err := p.r.Read()
		if err != nil {
			return got, sizes
		}
		got, sizes = append(got, answer), append(sizes, size)
	}
}

var talkAllows = Config{Allow: func(_, _, topic string, _ Access) bool { return !strings.HasPrefix(topic, "no/") }}

func specAnswersFit(t *testing.T, v packet.Version) {
	onStage(t, v, talkAllows, func(t *testing.T, s *stage) {
		const most = 40
		p := s.dial()
		p.send(&packet.Connect{Version: v, ClientID: "p", CleanStart: true, Props: packet.Properties{{ID: packet.MaximumPacketSize, Num: most}}})
		ack, size, err := p.r.Read()
		if err != nil || ack.(*packet.Connack).Reason != packet.Success || size > most {
			t.Fatalf("CONNACK of %d bytes: %+v, %v", size, ack, err)
		}
		got, sizes := talk(t, s, p)
		seen := make(map[packet.Type]bool)
		for i, pk := range got {
			seen[pk.Type()] = true
			if sizes[i] > most {
				t.Errorf("%v of %d bytes, more than %d: %+v", pk.Type(), sizes[i], most, pk)
			}
		}
		if len(seen) < 7 {
			t.Errorf("only %d kinds of packets came: %v", len(seen), seen)
		}
	})
}

func specProblemInformation(t *testing.T, v packet.Version) {
	onStage(t, v, talkAllows, func(t *testing.T, s *stage) {
		got, _ := talk(t, s, s.join("p", asking(packet.RequestProblem, 0)))
		for _, pk := range got {
			var props packet.Properties
			switch pk := pk.(type) {
			case *packet.Ack:
				props = pk.Props
			case *packet.SubAck:
				props = pk.Props
			}
			if props.Has(packet.ReasonString) || props.Has(packet.UserProperty) {
				t.Errorf("%v: %+v", pk.Type(), props)
			}
		}
	})
}

// reasonsOf are the reason codes that a server may use in each packet.
var reasonsOf = map[packet.Type]string{
	packet.CONNACK:    "\x00\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8A\x8C\x90\x95\x97\x99\x9A\x9B\x9C\x9D\x9F",
	packet.PUBACK:     "\x00\x10\x80\x83\x87\x90\x91\x97\x99",
	packet.PUBREC:     "\x00\x10\x80\x83\x87\x90\x91\x97\x99",
	packet.PUBREL:     "\x00\x92",
	packet.PUBCOMP:    "\x00\x92",
	packet.SUBACK:     "\x00\x01\x02\x80\x83\x87\x8F\x91\x97\x9E\xA1\xA2",
	packet.UNSUBACK:   "\x00\x11\x80\x83\x87\x8F\x91",
	packet.DISCONNECT: "\x00\x80\x81\x82\x83\x87\x89\x8B\x8D\x8E\x8F\x90\x93\x94\x95\x96\x97\x98\x99\x9A\x9B\x9C\x9D\x9E\x9F\xA0\xA1\xA2",
}

func specReasonCodes(t *testing.T, v packet.Version) {
	for _, err := range []error{nil, ErrRefused, ErrQuota, spool.ErrFull, spool.ErrTooLarge, spool.ErrDegraded, io.ErrUnexpectedEOF} {
		if r := publishReason(err); strings.IndexByte(reasonsOf[packet.PUBACK], byte(r)) < 0 {
			t.Errorf("PUBACK may not carry %v, which would answer %v", r, err)
		}
	}
	cfg := talkAllows
	cfg.Authenticate = admit(func(l *Login) bool { return l.User == "" })
	onStage(t, v, cfg, func(t *testing.T, s *stage) {
		got, _ := talk(t, s, s.join("p"))
		wrong := encode(&packet.Connect{Version: v, ClientID: "p", HasUser: true, User: "u"}, v)
		if ack := s.refusesConnect("wrong user", wrong); ack != nil {
			got = append(got, ack)
		}
		for _, pk := range got {
			var reasons []packet.Reason
			switch pk := pk.(type) {
			case *packet.Connack:
				reasons = []packet.Reason{pk.Reason}
			case *packet.Ack:
				reasons = []packet.Reason{pk.Reason}
			case *packet.SubAck:
				reasons = pk.Reasons
			case *packet.Disconnect:
				reasons = []packet.Reason{pk.Reason}
			}
			for _, r := range reasons {
				if strings.IndexByte(reasonsOf[pk.Type()], byte(r)) < 0 {
					t.Errorf("%v may not carry %v", pk.Type(), r)
				}
			}
		}
	})
}

func specOrder(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		one, two := s.join("one"), s.join("two")
		subs := []*peer{s.join("s0"), s.join("s1"), s.join("s2"), s.join("wild")}
		for q := range byte(3) {
			subs[q].subscribe(qos(q, "t"))
		}
		subs[3].subscribe(qos(2, "#"))
		for i := range 30 {
			one.put(byte(i/10), "t", fmt.Sprint("a", 100+i)) // 10 of each QoS
			two.put(byte(i/10), "t", fmt.Sprint("b", 100+i))
		}
		for i, sub := range subs {
			last := make(map[string]string) // by publisher and QoS
			got := sub.taken()
			for _, m := range got {
				of := fmt.Sprint(string(m.Payload[:1]), m.QoS)
				if string(m.Payload) <= last[of] {
					t.Errorf("subscriber %d: %s came after %s", i, m.Payload, last[of])
				}
				last[of] = string(m.Payload)
			}
			if len(got) != 60 {
				t.Errorf("subscriber %d got %d messages", i, len(got))
			}
		}
	})
}
