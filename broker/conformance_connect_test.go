package broker

import (
	"context"
	"io"
	"testing"
	"time"

	"edgegateway/broker/packet"
)

// CONNECT and CONNACK: who gets in, as whom, and what it is told.

func specFirstPacketIsConnect(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		watch := s.join("watch")
		watch.subscribe(qos(0, "#"))
		for _, pk := range []packet.Packet{
			&packet.Publish{Topic: "t", Payload: []byte("x")}, &packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(0, "t")}},
			packet.Ping{Kind: packet.PINGREQ}, &packet.Disconnect{}, &packet.Auth{Reason: 0x18},
		} {
			p := s.dial()
			p.push(encode(pk, v))
			if got, err := p.drain(time.Second); err != io.EOF || len(got) > 0 {
				t.Errorf("%v first: the broker sent %+v, then %v", pk.Type(), got, err)
			}
		}
		watch.wants("")
	})
}

func specSecondConnectCloses(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		reason := s.refuses("second CONNECT", encode(&packet.Connect{Version: v, ClientID: "refused", CleanStart: true}, v))
		if v >= packet.V5 && reason != packet.ProtocolError {
			t.Errorf("reason %v", reason)
		}
	})
}

func specProtocolName(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, name := range []string{"MQTX", "mqtt", "MQT", "MQTTT", "", "HTTP"} {
			body := str(name) + string([]byte{byte(v), 2, 0, 0, 0}) + str("c")
			if v < packet.V5 {
				body = str(name) + string([]byte{byte(v), 2, 0, 0}) + str("c")
			}
			s.refusesConnect("protocol "+name, append([]byte{0x10, byte(len(body))}, body...))
		}
	})
}

func specProtocolLevel(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, level := range []byte{0, 1, 2, 6, 7, 127} {
			raw := rawConnect(packet.V311, 2, str("c"))
			raw[8] = level
			p := s.dial()
			p.push(raw)
			p.r.Version = packet.V311
			got, err := p.drain(time.Second)
			if err != io.EOF {
				t.Errorf("level %d: not closed", level)
			}
			if v < packet.V5 {
				if ack, ok := first(got).(*packet.Connack); !ok || ack.Reason != packet.RefusedVersion || ack.SessionPresent {
					t.Errorf("level %d: got %+v", level, got)
				}
			} else if ack, ok := first(got).(*packet.Connack); ok && ack.Reason == packet.Success {
				t.Errorf("level %d: accepted", level)
			}
		}
	})
}

func first(list packetList) packet.Packet {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// propless is what stands before the will's topic: its properties, none.
func propless(v packet.Version) string {
	if v >= packet.V5 {
		return "\x00"
	}
	return ""
}

func specWillFlags(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		will := propless(v) + str("w") + str("gone")
		tests := []struct {
			name    string
			flags   byte
			payload string
		}{
			{"will QoS 1 without a will", 0x0A, str("c")},
			{"will QoS 2 without a will", 0x12, str("c")},
			{"will retain without a will", 0x22, str("c")},
			{"will QoS 3", 0x1E, str("c") + will},
			{"will without its fields", 0x06, str("c")},
			{"will without its payload", 0x06, str("c") + propless(v) + str("w")},
			{"fields of a will without one", 0x02, str("c") + will},
		}
		for _, test := range tests {
			if ack := s.refusesConnect(test.name, rawConnect(v, test.flags, test.payload)); ack != nil && v < packet.V5 {
				t.Errorf("%s: answered %v", test.name, ack.Reason)
			}
		}
		for _, flags := range []byte{0x06, 0x0E, 0x16, 0x26, 0x2E, 0x36} {
			p := s.dial()
			p.push(rawConnect(v, flags, str("c")+will))
			if ack := expect[*packet.Connack](p); ack.Reason != packet.Success {
				t.Errorf("flags %#x: %v", flags, ack.Reason)
			}
			p.send(&packet.Disconnect{})
			p.gone()
		}
	})
}

func specCredentialFlags(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		tests := []struct {
			name    string
			flags   byte
			payload string
			ok      bool
		}{
			{"a user without the flag", 0x02, str("c") + str("u"), false},
			{"the flag without a user", 0x82, str("c"), false},
			{"a password without the flag", 0x82, str("c") + str("u") + str("p"), false},
			{"the flag without a password", 0xC2, str("c") + str("u"), false},
			{"a password without a user", 0x42, str("c") + str("p"), v >= packet.V5},
			{"a user", 0x82, str("c") + str("u"), true},
			{"both", 0xC2, str("c") + str("u") + str("p"), true},
		}
		for _, test := range tests {
			raw := rawConnect(v, test.flags, test.payload)
			if !test.ok {
				s.refusesConnect(test.name, raw)
				continue
			}
			p := s.dial()
			p.push(raw)
			if ack := expect[*packet.Connack](p); ack.Reason != packet.Success {
				t.Errorf("%s: %v", test.name, ack.Reason)
			}
			s.lose(p)
		}
	})
}

func specOrderOfTheFields(t *testing.T, v packet.Version) {
	var user, password, id string
	cfg := Config{Authenticate: func(_ context.Context, l Login) (string, error) {
		user, password, id = l.User, string(l.Password), l.ClientID
		return user, nil
	}}
	onStage(t, v, cfg, func(t *testing.T, s *stage) {
		watch := s.join("watch")
		watch.subscribe(qos(0, "topic"))
		p := s.dial()
		p.push(rawConnect(v, 0xC6, str("client")+propless(v)+str("topic")+str("payload")+str("user")+str("password")))
		expect[*packet.Connack](p)
		if user != "user" || password != "password" || id != "client" {
			t.Errorf("user %q, password %q, client %q", user, password, id)
		}
		s.lose(p)
		watch.wants("payload")
		s.refusesConnect("no client id", rawConnect(v, 2, ""))
	})
}

func specPlainClientIDs(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for _, id := range []string{"0", "Z", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"} {
			s.join(id)
		}
	})
}

func specEmptyClientIDs(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		taken := map[string]bool{"": true}
		var all []*peer
		for range 3 {
			p := s.dial()
			ack := p.connect("")
			if ack.Reason != packet.Success {
				t.Fatal(ack.Reason)
			}
			all = append(all, p)
			if v < packet.V5 {
				continue
			}
			id, _ := ack.Props.Text(packet.AssignedClientID)
			if taken[id] {
				t.Errorf("client id %q was assigned", id)
			}
			taken[id] = true
		}
		for _, p := range all { // none took another's place
			p.pings()
		}
	})
}

func specAssignedClientIDIsOneLikeAny(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.dial()
		ack := p.connect("", keepSession)
		id, _ := ack.Props.Text(packet.AssignedClientID)
		p.subscribe(qos(1, "t"))
		s.lose(p)
		s.join("pub").put(1, "t", "1")
		s.back(id).wants("1")
	})
}

func specRefusedClientID(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		ack := s.refusesConnect("empty client id with a session", encode(&packet.Connect{Version: v}, v))
		if ack == nil || ack.Reason != packet.RefusedClientID {
			t.Errorf("got %+v", ack)
		}
	})
}

func specMalformedConnect(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		sound := rawConnect(v, 0xC6, str("c")+propless(v)+str("w")+str("gone")+str("u")+str("p"))
		for cut := 2; cut < len(sound); cut++ {
			raw := append([]byte{0x10, byte(cut - 2)}, sound[2:cut]...)
			if ack := s.refusesConnect("CONNECT cut short", raw); ack != nil && v < packet.V5 {
				t.Errorf("cut to %d bytes: answered %v", cut, ack.Reason)
			}
		}
		raw := append([]byte{0x10, sound[1] + 1}, append(sound[2:], 0)...)
		if ack := s.refusesConnect("CONNECT with a byte too many", raw); ack != nil && v < packet.V5 {
			t.Errorf("a byte too many: answered %v", ack.Reason)
		}
	})
}

func specTakeOver(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		old := s.keep("same")
		old.subscribe(qos(1, "t"))
		again := s.dial()
		again.send(&packet.Connect{Version: v, ClientID: "same"})
		if reason := old.gone(); v >= packet.V5 && reason != packet.SessionTakenOver {
			t.Errorf("reason %v", reason)
		}
		if ack := expect[*packet.Connack](again); ack.Reason != packet.Success || !ack.SessionPresent {
			t.Errorf("got %+v", ack)
		}
		s.join("pub").put(1, "t", "1")
		again.wants("1")
	})
}

func specCleanStart(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p")
		p.subscribe(qos(1, "t"))
		s.lose(p)
		pub.put(1, "t", "of the old session")
		p = s.join("p") // clean: fails if a session were present
		pub.put(1, "t", "of the old subscription")
		p.wants("")
		p.subscribe(qos(1, "t"))
		s.lose(p)
		pub.put(1, "t", "of a clean session")
		s.keep("p").wants("") // fails if the clean session were present
	})
}

func specConnackIsFirst(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		pub := s.join("pub")
		p := s.keep("p")
		p.subscribe(qos(1, "t"))
		for range 20 {
			s.lose(p)
			pub.put(1, "t", "queued")
			for i := range 3 { // these race with the connection
				pub.send(&packet.Publish{QoS: 1, ID: uint16(i + 1), Topic: "t", Payload: []byte("racing")})
			}
			p = s.back("p") // fails if the first packet were another
			for i := range 3 {
				pub.puback(uint16(i + 1))
			}
			p.wants("queued racing racing racing") // and nothing else: no second CONNACK
		}
	})
}

func specSessionPresent(t *testing.T, v packet.Version) {
	secret := func(c *packet.Connect) {
		c.HasUser, c.User, c.HasPassword, c.Password = true, "u", true, []byte("secret")
	}
	cfg := Config{Authenticate: admit(func(l *Login) bool { return string(l.Password) == "secret" })}
	onStage(t, v, cfg, func(t *testing.T, s *stage) {
		s.lose(s.keep("p", secret)) // fails if one were present
		s.lose(s.back("p", secret)) // fails if none were
		p := s.dial()
		if ack := p.connect("p", keepSession); ack.Reason == packet.Success || ack.SessionPresent {
			t.Errorf("without its password: %+v", ack)
		}
		s.lose(s.back("p", secret))
		s.lose(s.join("p", secret)) // clean: fails if one were present
		s.lose(s.keep("p", secret))
	})
}

func specConnackToTheByte(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		read := func(p *peer, c *packet.Connect) string {
			p.send(c)
			head := make([]byte, 2)
			if _, err := io.ReadFull(p.r.Src, head); err != nil {
				t.Fatal(err)
			}
			body := make([]byte, head[1]) // below 128 bytes
			io.ReadFull(p.r.Src, body)
			return string(head[:1]) + string(body[:2])
		}
		again := &packet.Connect{Version: v, ClientID: "p"}
		keepSession(again)
		for _, want := range []string{"\x20\x00\x00", "\x20\x01\x00"} {
			p := s.dial()
			if got := read(p, again); got != want {
				t.Errorf("got % x, want % x", got, want)
			}
			s.lose(p)
		}
	})
}

func specRefusalCloses(t *testing.T, v packet.Version) {
	cfg := Config{Authenticate: admit(func(*Login) bool { return false })}
	onStage(t, v, cfg, func(t *testing.T, s *stage) {
		c := &packet.Connect{Version: v, ClientID: "p", HasUser: true, User: "u", HasPassword: true, Password: []byte("wrong")}
		ack := s.refusesConnect("wrong password", encode(c, v))
		want := []packet.Reason{packet.RefusedCredentials, packet.RefusedAccess}
		if v >= packet.V5 {
			want = []packet.Reason{packet.BadUserOrPassword, packet.NotAuthorized}
		}
		if ack == nil || ack.Reason != want[0] && ack.Reason != want[1] {
			t.Errorf("got %+v", ack)
		}
	})
}

func specNothingAfterARefusal(t *testing.T, v packet.Version) {
	cfg := Config{Authenticate: admit(func(l *Login) bool { return l.User == "" })}
	onStage(t, v, cfg, func(t *testing.T, s *stage) {
		watch := s.join("watch")
		watch.subscribe(qos(0, "t"))
		raw := encode(&packet.Connect{Version: v, ClientID: "p", HasUser: true, User: "u"}, v)
		raw = append(raw, encode(&packet.Publish{Topic: "t", Retain: true, Payload: []byte("x")}, v)...)
		s.refusesConnect("a wrong user", raw)
		watch.wants("")
		watch.subscribe(qos(0, "t"))
		watch.wants("")
	})
}

func specKeepAlive(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		watch := s.join("watch")
		watch.subscribe(qos(0, "will"))
		p := s.dial()
		ack := p.connect("p", withWill(0, "lost"), func(c *packet.Connect) { c.KeepAlive = 10 })
		limit := time.Duration(ack.Props.Num(packet.ServerKeepAlive, 10)) * 1500 * time.Millisecond
		for range 3 { // any packet counts
			time.Sleep(limit - time.Second)
			p.pings()
			time.Sleep(limit - time.Second)
			p.put(1, "t", "x")
		}
		start := time.Now()
		if reason := p.gone(); v >= packet.V5 && reason != packet.Success && reason != packet.KeepAliveTimeout {
			t.Errorf("reason %v", reason)
		}
		if d := time.Since(start); d < limit || d > limit+time.Second {
			t.Errorf("closed after %v, not %v", d, limit)
		}
		watch.wants("lost")
	})
}

func specNoKeepAlive(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.join("p")
		time.Sleep(24 * time.Hour)
		p.pings()
	})
}

func specAllOfItIsOffered(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.dial()
		ack := p.connect("p", func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "w", QoS: 2, Retain: true}
		})
		for _, id := range []packet.PropertyID{packet.MaximumQoS, packet.AuthMethod, packet.AuthData, packet.ResponseInfo} {
			if ack.Props.Has(id) {
				t.Errorf("%v is %d", id, ack.Props.Num(id, 0))
			}
		}
		for _, id := range []packet.PropertyID{packet.RetainAvailable, packet.WildcardAvailable, packet.SubIDAvailable, packet.SharedAvailable} {
			if ack.Props.Num(id, 1) != 1 {
				t.Errorf("%v is 0", id)
			}
		}
		if reasons := p.subscribe(qos(0, "a"), qos(1, "b"), qos(2, "c")); reasons[0] != 0 || reasons[1] != 1 || reasons[2] != 2 {
			t.Errorf("granted %v", reasons)
		}
		for q := range byte(3) {
			if reason := p.put(q, "elsewhere", "x"); reason.Failed() {
				t.Errorf("QoS %d: %v", q, reason)
			}
		}
	})
}

func specUnknownAuthMethod(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		c := &packet.Connect{Version: v, ClientID: "p", Props: packet.Properties{{ID: packet.AuthMethod, Text: "SCRAM-SHA-1"}}}
		if ack := s.refusesConnect("an authentication method", encode(c, v)); ack != nil && ack.Reason != packet.BadAuthMethod && ack.Reason != packet.NotAuthorized {
			t.Errorf("reason %v", ack.Reason)
		}
		s.refuses("AUTH without a method in CONNECT", encode(&packet.Auth{Reason: 0x19, Props: packet.Properties{{ID: packet.AuthMethod, Text: "x"}}}, v))
	})
}

func specNoAuthUnasked(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		p := s.dial()
		ack := p.connect("p") // fails if AUTH came first
		if ack.Props.Has(packet.AuthMethod) || ack.Props.Has(packet.AuthData) {
			t.Errorf("properties %+v", ack.Props)
		}
		p.wants("")
	})
}

func specNoResponseInformationUnasked(t *testing.T, v packet.Version) {
	onStage(t, v, Config{}, func(t *testing.T, s *stage) {
		for i, ask := range [][]func(*packet.Connect){nil, {asking(packet.RequestResponse, 0)}} {
			if ack := s.dial().connect("p", ask...); ack.Reason != packet.Success || ack.Props.Has(packet.ResponseInfo) {
				t.Errorf("%d: got %+v", i, ack)
			}
		}
	})
}
