package broker

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

// Wills and DISCONNECT.

// watched returns a client that sees all wills of topic "will".
func (s *stage) watched() *peer {
	s.t.Helper()
	p := s.join("watch")
	p.subscribe(qos(2, "will"))
	return p
}

func specWillIsSent(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		watch := s.watched()
		for q := range byte(3) {
			s.lose(s.join("p", withWill(q, "lost")))
			if m := watch.wantsOne("lost"); m.QoS != q {
				t.Errorf("will of QoS %d came with %d", q, m.QoS)
			}
		}
		p := s.join("p", withWill(0, "broken"))
		p.push(fromHex("0000"))
		p.gone()
		watch.wants("broken")
		s.join("p", withWill(0, "taken over"))
		s.lose(s.join("p"))
		watch.wants("taken over")
	})
}

func specNoWillNoMessage(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		watch := s.join("watch")
		watch.subscribe(qos(0, "#"))
		s.lose(s.join("p"))
		watch.wants("")
	})
}

func specWillRetained(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		s.lose(s.join("p", withWill(1, "not retained")))
		p := s.watched()
		p.wants("")
		s.lose(s.join("p", withWill(1, "retained"), func(c *packet.Connect) { c.Will.Retain = true }))
		p.wants("retained")
		p.unsubscribe("will")
		p.subscribe(qos(1, "will"))
		if m := p.wantsOne("retained"); !m.Retain {
			t.Error("without RETAIN")
		}
	})
}

func specWillIsVoid(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		watch := s.watched()
		for _, keep := range []func(*packet.Connect){keepSession, func(*packet.Connect) {}} {
			p := s.dial()
			p.connect("p", withWill(1, "lost"), keep)
			p.send(&packet.Disconnect{})
			p.gone()
			synctest.Wait()
			watch.wants("")
			p = s.dial() // the session, if it was keepSession, has no will any more
			p.connect("p", keep)
			s.lose(p)
			watch.wants("")
		}
		s.lose(s.join("q", withWill(1, "once")))
		watch.wants("once")
		s.lose(s.join("q"))
		time.Sleep(time.Hour)
		watch.wants("")
	})
}

func specDisconnectWantingTheWill(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		watch := s.watched()
		for _, reason := range []packet.Reason{packet.DisconnectWithWill, packet.Unspecified, packet.AdministrativeAction} {
			p := s.join("p", withWill(1, "wanted"))
			p.send(&packet.Disconnect{Reason: reason})
			p.gone()
			watch.wants("wanted")
		}
	})
}

// delayed leaves a will that is due after delay seconds, of a session that
// ends after expiry seconds.
func delayed(delay, expiry uint32) func(*packet.Connect) {
	return func(c *packet.Connect) {
		withWill(1, "late")(c)
		c.Will.Props = c.Will.Props.AddNum(packet.WillDelay, delay)
		c.Props = c.Props.AddNum(packet.SessionExpiry, expiry)
	}
}

func specWillDelay(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		watch := s.watched()
		s.lose(s.join("p", delayed(30, 100)))
		time.Sleep(27 * time.Second)
		watch.wants("") // after 28
		time.Sleep(8 * time.Second)
		watch.wants("late")

		s.lose(s.join("q", delayed(100, 30))) // the session ends first
		time.Sleep(27 * time.Second)
		watch.wants("")
		time.Sleep(8 * time.Second)
		watch.wants("late")

		s.lose(s.join("r", delayed(100, 0))) // and here with the connection
		watch.wants("late")

		s.lose(s.join("s", delayed(30, 100)))
		s.join("s") // a clean start ends the session
		watch.wants("late")
	})
}

func specWillOfAClientThatCameBack(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		watch := s.watched()
		s.lose(s.join("p", delayed(30, 100)))
		time.Sleep(20 * time.Second)
		p := s.back("p")
		time.Sleep(time.Hour)
		watch.wants("")
		s.lose(p) // and now without a will
		time.Sleep(time.Hour)
		watch.wants("")

		s.join("q", delayed(30, 100))
		again := s.back("q", delayed(10, 100)) // takes over: the first will is void, the second counts
		time.Sleep(time.Hour)
		watch.wants("")
		s.lose(again)
		time.Sleep(11 * time.Second)
		watch.wants("late")
	})
}

func specWillProperties(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		watch := s.watched()
		props := packet.Properties{
			{ID: packet.PayloadFormat, Num: 1}, {ID: packet.ContentType, Text: "text/plain"},
			{ID: packet.ResponseTopic, Text: "re"}, {ID: packet.CorrelationData, Text: "\x00\xff"},
			{ID: packet.UserProperty, Text: "b", Value: "1"}, {ID: packet.UserProperty, Text: "a", Value: "2"},
			{ID: packet.UserProperty, Text: "b", Value: "0"}, {ID: packet.UserProperty, Text: "b", Value: "1"},
		}
		s.lose(s.join("p", withWill(1, "lost"), func(c *packet.Connect) { c.Will.Props = props }))
		m := watch.wantsOne("lost")
		comparePropertiesOf(t, m, props)
	})
}

// comparePropertiesOf fails unless m has these properties: user properties in
// their order, the others in any.
func comparePropertiesOf(t *testing.T, m *packet.Publish, want packet.Properties) {
	t.Helper()
	users := func(list packet.Properties) (users packet.Properties, others map[packet.PropertyID]packet.Property) {
		others = make(map[packet.PropertyID]packet.Property)
		for _, p := range list {
			if p.ID == packet.UserProperty {
				users = append(users, p)
			} else {
				others[p.ID] = p
			}
		}
		return users, others
	}
	gotUsers, gotOthers := users(m.Props)
	wantUsers, wantOthers := users(want)
	if !reflect.DeepEqual(gotUsers, wantUsers) || !reflect.DeepEqual(gotOthers, wantOthers) {
		t.Errorf("properties %+v, want %+v", m.Props, want)
	}
}

func specDisconnectEndsIt(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p")
		p.subscribe(qos(1, "t"))
		p.push(append(encode(&packet.Disconnect{}, v), encode(&packet.Publish{Topic: "t", Retain: true, Payload: []byte("late")}, v)...))
		if got, _ := p.drain(time.Second); len(got) > 0 {
			t.Errorf("answered with %+v", got)
		}
		synctest.Wait()
		pub.subscribe(qos(1, "t"))
		pub.wants("")
	})
}

// The broker's own DISCONNECT is its last packet, and tells no expiry.
func specOwnDisconnect(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		old := s.keep("same")
		old.subscribe(qos(1, "t"))
		pub.send(&packet.Publish{QoS: 1, ID: 1, Topic: "t", Payload: []byte("x")})
		again := s.dial()
		again.send(&packet.Connect{Version: v, ClientID: "same", CleanStart: true})
		got, err := old.drain(time.Minute)
		if err == nil || len(got) == 0 {
			t.Fatalf("got %+v, %v", got, err)
		}
		d, ok := got[len(got)-1].(*packet.Disconnect)
		if !ok || d.Reason != packet.SessionTakenOver || d.Props.Has(packet.SessionExpiry) {
			t.Errorf("the last packet was %+v", got[len(got)-1])
		}
		for _, pk := range got[:len(got)-1] {
			if pk.Type() == packet.DISCONNECT {
				t.Errorf("%+v was not the last packet", pk)
			}
		}
	})
}
