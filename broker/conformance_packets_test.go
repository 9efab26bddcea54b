package broker

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"edgegateway/broker/packet"
)

// What packets are made of: text, lengths, flags, identifiers, properties.

func specMalformedText(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, bad := range []string{"\xff", "a\xed\xa0\x80", "\x00", "a\x00b", "\xc0\xaf"} {
			for what, c := range map[string]*packet.Connect{
				"client id":  {Version: v, ClientID: bad},
				"will topic": {Version: v, ClientID: "c", Will: &packet.Will{Topic: bad}},
				"user name":  {Version: v, ClientID: "c", HasUser: true, User: bad},
			} {
				s.refusesConnect(fmt.Sprintf("%s %q", what, bad), encode(c, v))
			}
			packets := map[string]packet.Packet{
				"topic":              &packet.Publish{Topic: bad},
				"filter":             &packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(0, bad)}},
				"filter to be ended": &packet.Unsubscribe{ID: 1, Filters: []string{bad}},
			}
			if v >= packet.V5 {
				for what, prop := range map[string]packet.Property{
					"response topic": {ID: packet.ResponseTopic, Text: bad},
					"content type":   {ID: packet.ContentType, Text: bad},
					"user key":       {ID: packet.UserProperty, Text: bad, Value: "v"},
					"user value":     {ID: packet.UserProperty, Text: "k", Value: bad},
				} {
					packets[what] = &packet.Publish{Topic: "t", Props: packet.Properties{prop}}
				}
			}
			for what, pk := range packets {
				s.refuses(fmt.Sprintf("%s %q", what, bad), encode(pk, v))
			}
		}
	})
}

func specByteOrderMarkIsText(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		marked, plain, pub := s.join("marked"), s.join("plain"), s.join("pub")
		marked.subscribe(qos(0, "\uFEFFa"))
		plain.subscribe(qos(0, "a"))
		pub.put(1, "\uFEFFa", "1")
		pub.put(1, "a", "2")
		if m := marked.wantsOne("1"); m.Topic != "\uFEFFa" {
			t.Errorf("topic %q", m.Topic)
		}
		plain.wants("2")
	})
}

func specTopicsAreNotNormalised(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		topics := []string{"caf\u00e9", "cafe\u0301", "CAF\u00c9", "a/b", "a//b", "/a/b", "a/b/", "a/ b", "a/./b", "%61/b", "\u00c5", "\u212b"}
		sub, pub := s.join("sub"), s.join("pub")
		for i, topic := range topics {
			sub.subscribe(qos(0, topic))
			for _, other := range topics {
				pub.put(1, other, fmt.Sprint(i))
			}
			if m := sub.wantsOne(fmt.Sprint(i)); m.Topic != topic {
				t.Errorf("%q came for %q", m.Topic, topic)
			}
			sub.unsubscribe(topic)
		}
	})
}

func specLengthsAreShort(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, n := range []int{0, 50, 120, 121, 122, 123, 124, 125, 126, 127, 200, 16375, 16383, 17000} {
			sub, pub := s.join("sub"), s.join("pub")
			subscribe := &packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(0, "t")}}
			subscribe.Props = subscribe.Props.AddNum(packet.SubscriptionID, uint32(n+1))
			sub.send(subscribe)
			expect[*packet.SubAck](sub)
			pub.put(0, "t", strings.Repeat("x", n))
			pk, size, err := sub.r.Read() // refuses integers that are longer than need be
			if err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
			if want := len(encode(pk, v)); size != want {
				t.Errorf("%d bytes were sent where %d will do", size, want)
			}
		}
	})
}

func specReservedFlags(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		packets := []packet.Packet{
			&packet.Ack{Kind: packet.PUBACK, ID: 1}, &packet.Ack{Kind: packet.PUBREC, ID: 1},
			&packet.Ack{Kind: packet.PUBREL, ID: 1}, &packet.Ack{Kind: packet.PUBCOMP, ID: 1},
			&packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(0, "t")}}, &packet.Unsubscribe{ID: 1, Filters: []string{"t"}},
			packet.Ping{Kind: packet.PINGREQ}, &packet.Disconnect{},
		}
		if v >= packet.V5 {
			packets = append(packets, &packet.Auth{Reason: 0x19})
		}
		for _, pk := range packets {
			raw := encode(pk, v)
			for flags := range byte(16) {
				if flags == raw[0]&15 {
					continue
				}
				wrong := bytes.Clone(raw)
				wrong[0] = raw[0]&0xF0 | flags
				reason := s.refuses(fmt.Sprintf("%v with flags %04b", pk.Type(), flags), wrong)
				if v >= packet.V5 && pk.Type() == packet.DISCONNECT && reason != packet.MalformedPacket {
					t.Errorf("DISCONNECT with flags %04b: reason %v", flags, reason)
				}
			}
		}
		raw := encode(&packet.Connect{Version: v, ClientID: "c", CleanStart: true}, v)
		raw[0] |= 2
		s.refusesConnect("CONNECT with flags 0010", raw)
	})
}

func specPublishFlags(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, first := range []string{"36", "37", "3e", "3f"} {
			s.refuses("PUBLISH with QoS 3: "+first, fromHex(first+"06 0001 61 0001 00"))
		}
	})
}

func specIdentifierIsNotZero(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, pk := range []packet.Packet{
			&packet.Subscribe{Filters: []packet.Filter{qos(0, "t")}}, &packet.Unsubscribe{Filters: []string{"t"}},
			&packet.Publish{Topic: "t", QoS: 1}, &packet.Publish{Topic: "t", QoS: 2},
		} {
			s.refuses(fmt.Sprintf("%v with identifier 0", pk.Type()), encode(pk, v))
		}
	})
}

func specAnswersCarryTheIdentifier(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.join("p")
		for _, id := range []uint16{1, 777, 65535} {
			p.send(&packet.Publish{Topic: "t", QoS: 1, ID: id})
			p.acked(packet.PUBACK, id)
			p.send(&packet.Publish{Topic: "t", QoS: 2, ID: id})
			p.acked(packet.PUBREC, id)
			p.send(&packet.Ack{Kind: packet.PUBREL, ID: id})
			p.acked(packet.PUBCOMP, id)
			p.send(&packet.Subscribe{ID: id, Filters: []packet.Filter{qos(0, "u")}})
			if ack := expect[*packet.SubAck](p); ack.Kind != packet.SUBACK || ack.ID != id {
				t.Errorf("got %+v for SUBSCRIBE %d", ack, id)
			}
			p.send(&packet.Unsubscribe{ID: id, Filters: []string{"u"}})
			if ack := expect[*packet.SubAck](p); ack.Kind != packet.UNSUBACK || ack.ID != id {
				t.Errorf("got %+v for UNSUBSCRIBE %d", ack, id)
			}
		}
	})
}

func specOwnIdentifiersAreFree(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.join("sub"), s.join("pub")
		sub.subscribe(qos(2, "t"))
		under := make(map[uint16]*packet.Publish)
		for range 5 {
			for i := range 4 { // fewer in all than any window
				pub.put(byte(1+i%2), "t", "x")
			}
			for _, m := range sub.messages() {
				if m.ID == 0 || under[m.ID] != nil || m.Dup {
					t.Errorf("identifier %d of a new message, DUP %v", m.ID, m.Dup)
				}
				under[m.ID] = m
			}
			for id, m := range under { // some are answered in each round
				if id%3 == 0 {
					sub.answer(m)
					delete(under, id)
					if m.QoS == 2 {
						sub.acked(packet.PUBREL, id)
						sub.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
					}
				}
			}
		}
	})
}

func specPlainMessageToTheByte(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.join("sub"), s.join("pub")
		sub.subscribe(qos(2, "a"))
		want := "\x30\x04\x00\x01ax" // no identifier
		if v >= packet.V5 {
			want = "\x30\x05\x00\x01a\x00x" // and no properties, which takes a length of 0
		}
		pub.push([]byte(want))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(sub.r.Src, got); err != nil || string(got) != want {
			t.Errorf("got % x, %v", got, err)
		}
	})
}

func specLongestTopic(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		long := strings.Repeat("x", 65535)
		sub, pub := s.join("sub"), s.join("pub")
		if reasons := sub.subscribe(qos(0, long)); reasons[0].Failed() {
			t.Fatal(reasons)
		}
		pub.put(1, long, "1")
		if m := sub.wantsOne("1"); m.Topic != long {
			t.Errorf("%d bytes of topic", len(m.Topic))
		}
	})
}

func specProtocolErrorCloses(t *testing.T, v packet.Version) {
	tests := []struct{ name, hex, hex5 string }{
		{"type 0", "0000", "0000"},
		{"remaining length of five bytes", "30ffffffff01", "30ffffffff01"},
		{"PUBLISH cut in its topic", "3003 0004 61", "3003 0004 61"},
		{"PUBLISH cut before its identifier", "3203 0001 61", "3203 0001 61"},
		{"SUBSCRIBE cut before its options", "8205 0001 0001 61", "8206 0001 00 0001 61"},
		{"PUBACK of one byte", "4001 00", "4001 00"},
		{"PINGREQ with a body", "c001 00", "c001 00"},
		{"CONNACK from a client", "2002 0000", "2003 0000 00"},
		{"SUBACK from a client", "9003 0001 00", "9004 0001 00 00"},
		{"UNSUBACK from a client", "b002 0001", "b004 0001 00 00"},
		{"PINGRESP from a client", "d000", "d000"},
		{"AUTH without a method", "f000", "f000"},
		{"unknown property", "", "3006 0001 61 02 7f00"},
		{"property of another packet", "", "3009 0001 61 05 1100000001"},
		{"property twice", "", "3008 0001 61 04 0100 0100"},
		{"payload format 2", "", "3006 0001 61 02 0102"},
		{"properties longer than the packet", "", "3005 0001 61 05 01"},
		{"subscription identifier 0", "", "8209 0001 02 0b00 0001 61 00"},
	}
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		other := s.join("other")
		for _, test := range tests {
			raw := fromHex(test.hex)
			if v >= packet.V5 {
				raw = fromHex(test.hex5)
			}
			if len(raw) > 0 {
				s.refuses(test.name, raw)
			}
		}
		other.pings()
	})
}

func specReservedConnectFlag(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		s.refusesConnect("reserved flag", rawConnect(v, 3, str("c")))
	})
}

func specPing(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.join("p")
		for range 3 {
			p.pings()
			time.Sleep(time.Hour)
		}
	})
}
