package broker

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

// The session probes P1 to P26: what brokers get wrong that pass the public
// suites. Each was written for a defect that was seen.
var probes = []struct {
	defect string
	tests  []func(*testing.T)
}{
	1:  {"a SUBSCRIBE cut short ends the process", by(TestMalformedPacketEndsOnlyItsConnection)},
	2:  {"a small Receive Maximum stalls delivery", by(TestReceiveMaximumBoundsTheWindowAndKeepsOrder)},
	3:  {"a client's identifier drops the broker's message of the same", by(TestPacketIdentifiersOfBothSidesAreSeparate)},
	4:  {"the queue of a session comes in another order", by(TestQueueOfASessionKeepsItsOrder)},
	5:  {"an identifier under way cannot be used to subscribe", by(TestPacketIdentifiersOfBothSidesAreSeparate)},
	6:  {"one stuck subscriber stops all publishers", by(TestStuckSubscriberStopsNobodyForLong)},
	7:  {"publishing to a client while its backlog leaves blocks both for ever", by(TestBacklogLeavesWhileMoreComes)},
	8:  {"subscriptions outlive their session", by(TestSubscriptionsEndWithTheirSession)},
	9:  {"each packet sorts the whole backlog", by(TestAllThatWasAcknowledgedArrives)},
	10: {"PUBACK leaves before the message is safe", by(TestAcknowledgementWaitsForTheHandler, TestHandleSafeWithholdsTheAcknowledgement)},
	11: {"a refused message goes out all the same", by(TestRefusedMessagesGoNowhere)},
	12: {"PUBLISH to $SYS is never answered", by(TestPublishToSystemTopicIsAnsweredAndDropped)},
	13: {"wills pass by the access rules", by(TestWillIsCheckedWhenLeftAndWhenSent)},
	14: {"access is checked before the alias is resolved", by(TestAliasIsResolvedBeforePermission)},
	15: {"a/+ gives access to a/#", by(TestAccessIsByContainment, TestCovers)},
	16: {"what was under way is lost with the process", by(TestSessionSurvivesARestart)},
	17: {"no bound before CONNECT, none for the size, and an Accept error ends the listener",
		by(TestSilentClientIsDisconnected, TestPacketsAreBounded, TestAcceptSurvivesTheLackOfDescriptors)},
	18: {"PUBLISH before CONNACK", by(TestConnackComesBeforeMessages)},
	19: {"invalid filters are granted", by(TestInvalidFiltersAreRefused)},
	20: {"+/# does not match the level above", by(TestHashIncludesTheLevelAbove, TestMatch)},
	21: {"an empty will or password is refused", by(TestEmptyWillAndPasswordAreTaken)},
	22: {"an alias of one connection is sent on the next", by(TestRedeliveryNeedsNoOldAlias)},
	23: {"QoS 0 and what goes out count against the client's quota", by(TestQuotaCountsOnlyWhatIsUnderWay)},
	24: {"a bridge of mosquitto cannot connect", by(TestBridgeBit)},
	25: {"an expiry is invented", by(TestExpiryIsCountedDownAndNeverInvented)},
	26: {"acknowledged messages beyond a limit are dropped", by(TestAllThatWasAcknowledgedArrives, TestAllRetainedMessagesArrive)},
}

func by(tests ...func(*testing.T)) []func(*testing.T) { return tests }

func TestProbesAreComplete(t *testing.T) {
	for i, p := range probes[1:] {
		if p.defect == "" || len(p.tests) == 0 {
			t.Errorf("P%d has no test", i+1)
		}
	}
	if len(probes) != 27 {
		t.Errorf("%d probes", len(probes)-1)
	}
}

// onStages runs fn with each version.
func onStages(t *testing.T, cfg Config, fn func(t *testing.T, s *stage)) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) { onStage(t, v, cfg, fn) })
	}
}

// P4
func TestQueueOfASessionKeepsItsOrder(t *testing.T) {
	onStages(t, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p")
		p.subscribe(qos(2, "t/#"))
		s.lose(p)
		var want []string
		for i := range 300 {
			pub.put(byte(1+i%2), fmt.Sprint("t/", i%3), fmt.Sprint(i))
			want = append(want, fmt.Sprint(i))
			if i%100 == 50 { // redelivered first, and not between those that wait
				s.lose(s.back("p"))
			}
		}
		s.back("p").wants(strings.Join(want, " "))
	})
}

// P7
func TestBacklogLeavesWhileMoreComes(t *testing.T) {
	onStages(t, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		var few []func(*packet.Connect)
		if s.v >= packet.V5 {
			few = append(few, asking(packet.ReceiveMaximum, 2))
		}
		p := s.keep("p", few...)
		p.subscribe(qos(1, "t"))
		s.lose(p)
		n := 0
		put := func() { pub.put(1, "t", fmt.Sprint(n)); n++ }
		for range 200 {
			put()
		}
		p = s.back("p", few...)
		for i := range 400 { // each acknowledgement meets a message that comes
			if i < 200 {
				put()
			}
			p.message(fmt.Sprint(i))
		}
		p.wants("")
	})
}

// P8
func TestSubscriptionsEndWithTheirSession(t *testing.T) {
	onStages(t, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		var short []func(*packet.Connect)
		if s.v >= packet.V5 {
			short = append(short, asking(packet.SessionExpiry, 5))
		}
		p := s.join("p", short...)
		p.subscribe(qos(1, "t"), qos(1, "t/#"))
		s.lose(p)
		time.Sleep(10 * time.Second)
		p = s.keep("p") // fails if the session were present
		pub.put(1, "t", "x")
		p.wants("")
		if n := s.Stats().Subscriptions; n != 0 {
			t.Errorf("%d subscriptions are left", n)
		}
	})
}

// P9, P26
func TestAllThatWasAcknowledgedArrives(t *testing.T) {
	const n = 10_000
	cfg := Config{Limits: Limits{SessionQueue: 2 * n, SessionBytes: 64 << 20}}
	onStage(t, packet.V5, cfg, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p")
		p.subscribe(qos(1, "t"))
		s.lose(p)
		for i := range n {
			pub.put(1, "t", fmt.Sprint(i))
		}
		p = s.back("p")
		began := BootTime() // the bubble's own clock stands still
		for i := range n {
			p.message(fmt.Sprint(i))
		}
		if d := time.Duration(BootTime() - began); d > 20*time.Second {
			t.Errorf("a backlog of %d took %v", n, d)
		}
	})
}

// P10
func TestAcknowledgementWaitsForTheHandler(t *testing.T) {
	onStages(t, Config{}, func(t *testing.T, s *stage) {
		safe := make(chan func(error), 1)
		if err := s.HandleSafe("t", func(_ *Message, done func(error)) { safe <- done }); err != nil {
			t.Fatal(err)
		}
		p := s.join("p")
		for q, kind := range []packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
			if q == 0 {
				continue
			}
			p.send(&packet.Publish{QoS: byte(q), ID: 9, Topic: "t"})
			if got, _ := p.drain(time.Minute); len(got) > 0 {
				t.Errorf("QoS %d: answered before it was safe: %+v", q, got)
			}
			(<-safe)(nil)
			p.acked(kind, 9)
		}
	})
}

// P11
func TestRefusedMessagesGoNowhere(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) { specRefusedPublish(t, v) })
	}
}

// P15
func TestAccessIsByContainment(t *testing.T) {
	cfg := Config{Allow: func(_, _, topic string, a Access) bool {
		switch a {
		case Subscribe:
			return Covers("a/+", topic) || Covers("b/#", topic)
		case Read:
			return topic != "b/secret"
		}
		return true
	}}
	onStages(t, cfg, func(t *testing.T, s *stage) {
		p, pub := s.join("p"), s.join("pub")
		pub.put(1, "b/secret", "old", retained)
		filters := map[string]bool{"a/+": true, "a/b": true, "b/#": true, "b": true, "b/+/c": true,
			"a/#": false, "#": false, "+/b": false, "a/b/c": false, "+": false, "$SYS/#": false, "a": false}
		for filter, want := range filters {
			if r := p.subscribe(qos(1, filter)); r[0].Failed() == want {
				t.Errorf("%s: %v", filter, r)
			}
		}
		pub.put(1, "b/secret", "x")
		pub.put(1, "b/open", "y")
		p.wants("y")
	})
}

// P16
func TestSessionSurvivesARestart(t *testing.T) {
	for name, again := range map[string]func(*site){"restart": (*site).restart, "kill": (*site).kill} {
		t.Run(name, func(t *testing.T) {
			onStages(t, Config{}, func(t *testing.T, s *stage) {
				pub := s.join("pub")
				p := s.keep("p")
				p.subscribe(qos(2, "t"))
				for i := range 20 {
					pub.put(byte(1+i%2), "t", fmt.Sprint(i))
				}
				sent := p.messages()
				if len(sent) != 20 {
					t.Fatalf("%d messages under way", len(sent))
				}
				s.lose(p)
				for i := range 20 {
					pub.put(byte(1+i%2), "t", fmt.Sprint(20+i))
				}
				again(s.site)
				var full []func(*packet.Connect) // what was under way fills the window, as it does before MQTT 5
				if s.v >= packet.V5 {
					full = append(full, asking(packet.ReceiveMaximum, 20))
				}
				p = s.back("p", full...)
				s.join("pub").put(1, "t", "40")
				var want []string
				for i := range 41 {
					want = append(want, fmt.Sprint(i))
				}
				for i, m := range p.wants(strings.Join(want, " ")) {
					if i < 20 && (!m.Dup || m.ID != sent[i].ID || m.QoS != sent[i].QoS) {
						t.Errorf("%+v came again as %+v", sent[i], m)
					}
				}
				s.lose(p)
				s.back("p").wants("") // for all of it was acknowledged
			})
		})
	}
}

// P18
func TestConnackComesBeforeMessages(t *testing.T) {
	onStages(t, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p")
		p.subscribe(qos(1, "t"))
		for range 300 {
			p.conn.Close()
			pub.send(&packet.Publish{QoS: 1, ID: 1, Topic: "t", Payload: []byte("x")}) // races with both
			p = s.back("p")                                                            // fails if its first packet is no CONNACK
			pub.puback(1)
			p.message("x")
		}
	})
}

// P20
func TestHashIncludesTheLevelAbove(t *testing.T) {
	onStages(t, Config{}, func(t *testing.T, s *stage) {
		p, pub := s.join("p"), s.join("pub")
		own := 0
		s.Handle("h/#", func(*Message) { own++ })
		for filter, want := range map[string]string{"x/+/#": "x/y x/y/z", "+/#": "x x/y x/y/z h h/i", "h/#": "h h/i", "#": "x x/y x/y/z h h/i"} {
			p.subscribe(qos(0, filter))
			for _, topic := range []string{"x", "x/y", "x/y/z", "h", "h/i"} {
				pub.put(1, topic, topic)
			}
			p.wants(want)
			p.unsubscribe(filter)
		}
		synctest.Wait()
		if own != 8 {
			t.Errorf("the handler of h/# was called %d times", own)
		}
	})
}

// P22
func TestRedeliveryNeedsNoOldAlias(t *testing.T) {
	onStage(t, packet.V5, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p", asking(packet.TopicAliasMaximum, 5))
		p.subscribe(qos(2, "t/#"))
		topic := "t/a/topic/that/is/worth/an/alias"
		for i := range 4 {
			pub.put(byte(1+i%2), topic, fmt.Sprint(i))
		}
		resolver(t, 5)(p.messages())
		s.lose(p)
		for _, most := range []uint32{5, 1, 0} { // each connection has its own
			p = s.back("p", asking(packet.TopicAliasMaximum, most))
			again := p.messages()
			resolver(t, most)(again)
			if again.payloads() != "0 1 2 3" {
				t.Errorf("got %q", again.payloads())
			}
			for _, m := range again {
				if m.Topic != topic {
					t.Errorf("%s came with topic %q", m.Payload, m.Topic)
				}
			}
			s.lose(p)
		}
	})
}

// P23
func TestQuotaCountsOnlyWhatIsUnderWay(t *testing.T) {
	onStages(t, Config{}, func(t *testing.T, s *stage) {
		p := s.dial()
		quota := int(p.connect("p").Props.Num(packet.ReceiveMaximum, 65535))
		for range 300 { // more QoS 0 than any quota
			p.put(0, "elsewhere", "x")
		}
		p.subscribe(qos(2, "t"))
		for range 50 { // what goes out takes nothing of the client's quota
			for range 20 {
				s.Publish(&Message{Topic: "t", QoS: 2, Payload: []byte("x")})
			}
			if n := len(p.taken()); n != 20 {
				t.Fatalf("%d of 20 messages", n)
			}
		}
		for i := range min(quota, 200) { // and as many may be under way as it says
			m := &packet.Publish{QoS: 2, ID: uint16(i + 1), Topic: "elsewhere"}
			for range 2 {
				p.send(m)
				if r := p.acked(packet.PUBREC, m.ID); r.Failed() {
					t.Fatalf("PUBREC %d: %v", m.ID, r)
				}
				m.Dup = true
			}
		}
	})
}

// P24
func TestBridgeBit(t *testing.T) {
	for _, v := range []packet.Version{packet.V31, packet.V311} {
		onStage(t, v, Config{}, func(t *testing.T, s *stage) {
			p := s.join("bridge", func(c *packet.Connect) { c.Bridge = true })
			p.subscribe(qos(1, "t"))
			p.put(1, "t", "own", retained) // fails if it came back
			s.join("pub").put(1, "t", "others", retained)
			if m := p.wantsOne("others"); !m.Retain {
				t.Errorf("%v: without RETAIN", v)
			}
			s.join("plain").put(1, "t", "x")
			p.wants("x")
		})
	}
}
