package broker

import (
	"fmt"
	"testing"
	"time"

	"edgegateway/broker/packet"
	"edgegateway/broker/spool/spooltest"
)

// Sessions, and the delivery of QoS 1 and 2 across connections.

func specSessionIsKept(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p")
		p.subscribe(qos(1, "a"), qos(2, "b/+"))
		for _, polite := range []bool{false, true} {
			if polite {
				p.send(&packet.Disconnect{})
				p.gone()
			}
			s.lose(p)
			for i := range 5 {
				pub.put(byte(1+i%2), "a", fmt.Sprint(2*i))
				pub.put(byte(1+i%2), "b/x", fmt.Sprint(2*i+1))
			}
			p = s.back("p")
			for i, m := range p.wants("0 1 2 3 4 5 6 7 8 9") {
				if m.QoS != byte(1+i/2%2) && m.Topic != "a" || m.QoS == 0 || m.Dup {
					t.Errorf("got %s of %s with QoS %d, DUP %v", m.Payload, m.Topic, m.QoS, m.Dup)
				}
			}
			pub.put(1, "a", "live")
			p.wants("live")
		}
	})
}

func specSessionLastsWithItsConnection(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		var short []func(*packet.Connect)
		if v >= packet.V5 {
			short = append(short, asking(packet.SessionExpiry, 1))
		}
		p := s.join("p", short...)
		p.subscribe(qos(1, "t"))
		time.Sleep(24 * time.Hour)
		s.join("pub").put(1, "t", "x")
		p.wants("x")
	})
}

func specSessionExpires(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		ten := asking(packet.SessionExpiry, 10)
		p := s.keep("p", ten)
		p.subscribe(qos(1, "t"))
		s.lose(p)
		time.Sleep(8 * time.Second)
		p = s.back("p", ten)
		s.lose(p)
		pub.put(1, "t", "of a session that ends")
		time.Sleep(12 * time.Second)
		pub.put(1, "t", "of nobody")
		p = s.keep("p", ten) // fails if the session were present
		pub.put(1, "t", "of a subscription that ended")
		p.wants("")

		p.send(&packet.Disconnect{Props: packet.Properties{{ID: packet.SessionExpiry, Num: 0}}}) // which ends it now
		p.gone()
		p = s.keep("p")
		s.lose(p)
		p = s.back("p", asking(packet.SessionExpiry, 0)) // ends with this connection
		s.lose(p)
		s.keep("p")
	})
}

func specSessionsAreByClientID(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		for _, id := range []string{"a", "A", "a ", "ä", "a/b"} {
			p := s.keep(id)
			p.subscribe(qos(1, "t/"+id))
			s.lose(p)
			pub.put(1, "t/"+id, "of-"+id)
		}
		for _, id := range []string{"a", "A", "a ", "ä", "a/b"} {
			s.back(id).wants("of-" + id)
		}
	})
}

func specRedelivery(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p")
		p.subscribe(qos(2, "t"))
		for i := range 6 {
			pub.put(byte(1+i%2), "t", fmt.Sprint(i))
		}
		before := p.messages()
		if before.payloads() != "0 1 2 3 4 5" {
			t.Fatalf("got %q", before.payloads())
		}
		s.lose(p)
		pub.put(1, "t", "new")
		p = s.back("p")
		after := p.messages()
		if after.payloads() != "0 1 2 3 4 5 new" {
			t.Fatalf("got %q", after.payloads())
		}
		for i, m := range after[:6] {
			if !m.Dup || m.ID != before[i].ID || m.QoS != before[i].QoS || m.Topic != "t" {
				t.Errorf("message %d came again as %+v", i, m)
			}
		}
		if after[6].Dup {
			t.Error("DUP on a message that is new")
		}
		p.answer(after[2])
		p.answer(after[0])
		s.lose(p)
		p = s.back("p")
		p.wants("1 3 4 5 new") // what was acknowledged is not sent again
		s.lose(p)
		s.back("p").wants("")
	})
}

func specNothingIsResentOnAnOpenConnection(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub, p := s.join("pub"), s.keep("p")
		p.subscribe(qos(2, "t"))
		pub.put(1, "t", "1")
		pub.put(2, "t", "2")
		if m := p.messages(); m.payloads() != "1 2" {
			t.Fatalf("got %q", m.payloads())
		}
		if got, err := p.drain(24 * time.Hour); len(got) > 0 || err != nil {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func specRefusedIsNotSentAgain(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub, p := s.join("pub"), s.keep("p")
		p.subscribe(qos(2, "t"))
		pub.put(1, "t", "1")
		pub.put(2, "t", "2")
		for _, m := range p.messages() {
			kind := map[byte]packet.Type{1: packet.PUBACK, 2: packet.PUBREC}[m.QoS]
			p.send(&packet.Ack{Kind: kind, ID: m.ID, Reason: packet.ImplementationSpecific})
		}
		p.wants("")
		s.lose(p)
		s.back("p").wants("")
	})
}

// QoS 1, what comes in.
func specAnsweredIdentifierIsNew(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.join("sub"), s.join("pub")
		sub.subscribe(qos(1, "t"))
		for _, dup := range []bool{false, true, false} {
			pub.put(1, "t", "x", func(m *packet.Publish) { m.Dup = dup })
		}
		sub.wants("x x x")
	})
}

// QoS 1, what goes out: it is owed until PUBACK.
func specQoS1Out(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.keep("p")
		p.subscribe(qos(1, "t"))
		s.join("pub").put(1, "t", "x")
		m := p.messages()
		if len(m) != 1 || m[0].QoS != 1 || m[0].Dup || m[0].ID == 0 {
			t.Fatalf("got %+v", m)
		}
		s.lose(p)
		p = s.back("p")
		again := p.wantsOne("x")
		if !again.Dup || again.ID != m[0].ID {
			t.Errorf("came again as %+v", again)
		}
		s.lose(p)
		s.back("p").wants("")
	})
}

// QoS 2, what comes in.
func specQoS2In(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.join("sub"), s.join("pub")
		sub.subscribe(qos(0, "t"))
		m := &packet.Publish{QoS: 2, ID: 5, Topic: "t", Payload: []byte("x")}
		for range 2 {
			m.Dup = false
			for range 3 { // until PUBREL they are one message
				pub.send(m)
				if reason := pub.acked(packet.PUBREC, 5); reason.Failed() {
					t.Error(reason)
				}
				m.Dup = true
			}
			pub.send(&packet.Ack{Kind: packet.PUBREL, ID: 5})
			pub.acked(packet.PUBCOMP, 5)
			sub.wants("x")
		}
		pub.send(&packet.Ack{Kind: packet.PUBREL, ID: 5}) // again: its PUBCOMP may have been lost
		pub.acked(packet.PUBCOMP, 5)
	})
}

func specQoS2InAcrossConnections(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub := s.join("sub")
		sub.subscribe(qos(0, "t"))
		pub := s.keep("pub")
		m := &packet.Publish{QoS: 2, ID: 5, Topic: "t", Payload: []byte("x")}
		pub.send(m)
		pub.acked(packet.PUBREC, 5)
		s.lose(pub)
		pub = s.back("pub")
		m.Dup = true
		pub.send(m)
		pub.acked(packet.PUBREC, 5)
		s.lose(pub)
		pub = s.back("pub")
		pub.send(&packet.Ack{Kind: packet.PUBREL, ID: 5})
		pub.acked(packet.PUBCOMP, 5)
		sub.wants("x")
	})
}

func specRefusedQoS2IsForgotten(t *testing.T, v packet.Version) {
	allowed := false
	cfg := Config{Allow: func(_, _, _ string, a Access) bool { return a != Write || allowed }}
	onStage(t, v, cfg, func(t *testing.T, s *stage) {
		sub, pub := s.join("sub"), s.join("pub")
		sub.subscribe(qos(0, "t"))
		m := &packet.Publish{QoS: 2, ID: 5, Topic: "t", Payload: []byte("x")}
		pub.send(m)
		if reason := pub.acked(packet.PUBREC, 5); !reason.Failed() {
			t.Error(reason)
		}
		allowed = true
		pub.send(m)
		if reason := pub.acked(packet.PUBREC, 5); reason.Failed() {
			t.Error(reason)
		}
		sub.wants("x")
	})
}

func specQoS2InGoesOnAfterExpiry(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		m := &packet.Publish{QoS: 2, ID: 5, Topic: "t"}
		mortal(2)(m)
		pub.send(m)
		pub.acked(packet.PUBREC, 5)
		time.Sleep(10 * time.Second)
		pub.send(m)
		pub.acked(packet.PUBREC, 5)
		pub.send(&packet.Ack{Kind: packet.PUBREL, ID: 5})
		if reason := pub.acked(packet.PUBCOMP, 5); reason.Failed() {
			t.Error(reason)
		}
	})
}

// QoS 2, what goes out: the message is owed until PUBREC, PUBREL until PUBCOMP.
func specQoS2Out(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.keep("p")
		p.subscribe(qos(2, "t"))
		s.join("pub").put(2, "t", "x")
		list := p.messages()
		if len(list) != 1 || list[0].QoS != 2 || list[0].Dup || list[0].ID == 0 {
			t.Fatalf("got %+v", list)
		}
		id := list[0].ID
		for _, kind := range []packet.Type{packet.PUBACK, packet.PUBCOMP} { // neither is its PUBREC
			p.push(encode(&packet.Ack{Kind: kind, ID: id}, v))
		}
		s.lose(p)
		p = s.back("p")
		list = p.messages()
		if len(list) != 1 || !list[0].Dup || list[0].ID != id {
			t.Fatalf("came again as %+v", list)
		}
		p.answer(list[0])
		for range 2 {
			p.acked(packet.PUBREL, id) // and never the message again
			s.lose(p)
			p = s.back("p")
		}
		p.acked(packet.PUBREL, id)
		p.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
		p.wants("")
		s.lose(p)
		s.back("p").wants("")
	})
}

func specWhatWasSentDoesNotExpire(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.keep("p")
		p.subscribe(qos(2, "t"))
		s.join("pub").put(2, "t", "x", mortal(5))
		if m := p.messages(); m.payloads() != "x" {
			t.Fatalf("got %q", m.payloads())
		}
		s.lose(p)
		time.Sleep(time.Minute)
		s.back("p").wants("x")
	})
}

func specQoS0IsSentOnce(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.keep("p")
		p.subscribe(qos(0, "t"))
		s.join("pub").put(2, "t", "x")
		if m := p.wantsOne("x"); m.QoS != 0 || m.Dup || m.ID != 0 {
			t.Errorf("got %+v", m)
		}
		s.lose(p)
		s.back("p").wants("")
	})
}

func specOwnPubrel(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		const most = 30
		p := s.join("p", asking(packet.MaximumPacketSize, most))
		p.subscribe(qos(2, "t"))
		s.join("pub").put(2, "t", "x")
		list := p.messages()
		if len(list) != 1 || list[0].QoS != 2 {
			t.Fatalf("got %+v", list)
		}
		p.answer(list[0])
		pk, size, err := p.r.Read()
		if err != nil {
			t.Fatal(err)
		}
		ack, ok := pk.(*packet.Ack)
		if !ok || ack.Kind != packet.PUBREL || ack.Reason != packet.Success || size > most {
			t.Errorf("got %+v of %d bytes", pk, size)
		}
	})
}

func specAnswersKeepTheirOrder(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.keep("sub"), s.join("pub")
		sub.subscribe(qos(1, "t"))
		go func() {
			for i := range uint16(20) {
				pub.push(encode(&packet.Publish{QoS: byte(1 + i%2), ID: 100 - i, Topic: []string{"t", "elsewhere"}[i%3%2]}, v))
			}
		}()
		got, err := pub.drain(time.Second)
		if err != nil || len(got) != 20 {
			t.Fatalf("%d answers, %v", len(got), err)
		}
		for i, pk := range got {
			if ack, ok := pk.(*packet.Ack); !ok || ack.ID != uint16(100-i) {
				t.Errorf("answer %d is %+v", i, pk)
			}
		}
	})
}

func specPubrelsKeepTheirOrder(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sub, pub := s.keep("sub"), s.join("pub")
		sub.subscribe(qos(2, "t"))
		for range 5 {
			pub.put(2, "t", "x")
		}
		list := sub.messages()
		if len(list) != 5 || list[0].QoS != 2 {
			t.Fatalf("got %+v", list)
		}
		order := []int{3, 0, 4, 1, 2}
		go func() {
			for _, i := range order {
				sub.push(encode(&packet.Ack{Kind: packet.PUBREC, ID: list[i].ID}, v))
			}
		}()
		for _, i := range order {
			sub.acked(packet.PUBREL, list[i].ID)
		}
	})
}

// Before MQTT 5 there is no other way to refuse a message.
func specWhatCannotBeStoredCloses(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		s.away(v, "p", qos(1, "t"))
		pub := s.join("pub")
		pub.put(1, "t", "stored")
		s.disk.Fail(func(op spooltest.Op) error {
			if op.Kind == "write" || op.Kind == "sync" || op.Kind == "create" {
				return spooltest.ErrDead
			}
			return nil
		})
		pub.push(encode(&packet.Publish{QoS: 1, ID: 1, Topic: "t", Payload: []byte("not stored")}, v))
		if got, err := pub.drain(time.Minute); err == nil || len(got) > 0 {
			t.Errorf("the connection is open; the broker sent %+v", got)
		}
	})
}
