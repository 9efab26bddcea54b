package broker

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

var versions = []packet.Version{packet.V311, packet.V5}

func TestMalformedPacketEndsOnlyItsConnection(t *testing.T) {
	tests := []struct{ name, hex string }{
		{"P1 truncated SUBSCRIBE", "8206 0001 00 0001 61"},
		{"PUBLISH with QoS 3", "3605 0001 61 0001"},
		{"remaining length of five bytes", "30ffffffff01"},
		{"type 0", "0000"},
		{"second CONNECT", "100d 0004 4d515454 05 02 0000 00 0000"},
		{"CONNACK from a client", "2003 0000 00"},
		{"AUTH", "f000"},
		{"unknown property", "3006 0001 61 02 7f00"},
		{"alias that was not defined", "3006 0000 03 230001"},
		{"alias 0", "3007 0001 61 03 230000"},
	}
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		other := join(t, b, packet.V5, "other")
		for _, test := range tests {
			raw, err := hex.DecodeString(strings.ReplaceAll(test.hex, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			p := join(t, b, packet.V5, "bad")
			p.sendRaw(raw)
			if reason := p.gone(); !reason.Failed() {
				t.Errorf("%s: disconnected with %v", test.name, reason)
			}
		}
		other.ask()
		if n := b.Stats().ProtocolErrors; n != uint64(len(tests)) {
			t.Errorf("%d protocol errors counted", n)
		}
	})
}

// P2
func TestReceiveMaximumBoundsTheWindowAndKeepsOrder(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		sub := join(t, b, packet.V5, "sub", func(c *packet.Connect) {
			c.Props = c.Props.AddNum(packet.ReceiveMaximum, 2)
		})
		sub.subscribe(qos(1, "t"))
		for i := range 20 {
			b.Publish(&Message{Topic: "t", Payload: fmt.Append(nil, i), QoS: 1})
		}
		first, second := expect[*packet.Publish](sub), expect[*packet.Publish](sub)
		if more := sub.ask(); len(more) > 0 {
			t.Fatalf("beyond the receive maximum: %+v", more)
		}
		sub.acknowledge(second)
		sub.message("2")
		sub.acknowledge(first)
		for i := 3; i < 20; i++ {
			sub.message(fmt.Sprint(i))
		}
	})
}

// P3, P5
func TestPacketIdentifiersOfBothSidesAreSeparate(t *testing.T) {
	for _, v := range versions {
		inBubble(t, Config{}, func(t *testing.T, b *Broker) {
			p := join(t, b, v, "p")
			p.subscribe(qos(1, "t"))
			b.Publish(&Message{Topic: "t", Payload: []byte("1"), QoS: 1})
			m := expect[*packet.Publish](p)
			if reason := p.publish(m.ID, "other", "x"); reason != packet.Success {
				t.Error(reason)
			}
			p.send(&packet.Subscribe{ID: m.ID, Filters: []packet.Filter{qos(1, "u")}})
			if got := expect[*packet.SubAck](p).Reasons; got[0] != packet.GrantedQoS1 {
				t.Error(got)
			}
			if n := b.ClientStats()[0].InFlight; n != 1 {
				t.Errorf("%d in flight", n)
			}
			p.acknowledge(m)
			p.ask()
			if n := b.ClientStats()[0].InFlight; n != 0 {
				t.Errorf("%d in flight after the acknowledgement", n)
			}
		})
	}
}

// P6
func TestStuckSubscriberStopsNobodyForLong(t *testing.T) {
	inBubble(t, Config{Limits: Limits{Queue: 10}}, func(t *testing.T, b *Broker) {
		stuck := join(t, b, packet.V311, "stuck")
		stuck.subscribe(qos(1, "t/#")) // and reads no more
		well := join(t, b, packet.V311, "well")
		well.subscribe(qos(1, "t/#"))
		other := join(t, b, packet.V311, "other")

		start := time.Now()
		for i := range 500 {
			b.Publish(&Message{Topic: "t/x", Payload: fmt.Append(nil, i), QoS: 0})
			well.message(fmt.Sprint(i))
			other.publish(1, "elsewhere", "x")
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the gateway and others waited %v", d)
		}
		pub := join(t, b, packet.V311, "pub")
		for i := range 100 {
			pub.send(&packet.Publish{Topic: "t/y", QoS: 1, ID: uint16(i + 1), Payload: fmt.Append(nil, i)})
		}
		for i := range 100 {
			well.message(fmt.Sprint(i))
			pub.puback(uint16(i + 1))
		}
		if d := time.Since(start); d > 11*time.Second {
			t.Errorf("the publisher waited %v", d)
		}
		stuck.gone()
		synctest.Wait()
		if n := b.Stats().Clients; n != 3 {
			t.Errorf("%d clients", n)
		}
	})
}

// P12
func TestPublishToSystemTopicIsAnsweredAndDropped(t *testing.T) {
	want := map[packet.Version]packet.Reason{packet.V311: packet.Success, packet.V5: packet.NotAuthorized}
	for _, v := range versions {
		inBubble(t, Config{}, func(t *testing.T, b *Broker) {
			p := join(t, b, v, "p")
			p.subscribe(qos(1, "$SYS/x"))
			if reason := p.publish(9, "$SYS/x", "x"); reason != want[v] {
				t.Errorf("%v: %v", v, reason)
			}
			p.send(&packet.Publish{Topic: "$x"})
			if got := p.ask(); len(got) > 0 {
				t.Errorf("got %+v", got)
			}
			if n := b.Stats().Dropped["refused"]; n != 2 {
				t.Errorf("%d refused", n)
			}
		})
	}
}

// Mosquitto's bridges say below $SYS whether they are connected. That is not
// taken and not worth a warning each time; the first of anything else is.
func TestBridgeStateIsNoWarning(t *testing.T) {
	var log bytes.Buffer
	inBubble(t, Config{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "site")
		if reason := p.publish(1, "$SYS/broker/connection/site/state", "1"); reason != packet.NotAuthorized || log.Len() > 0 {
			t.Errorf("reason %v, logged: %s", reason, &log)
		}
		p.publish(2, "$SYS/broker/uptime", "1")
		p.publish(3, "$SYS/broker/uptime", "2")
		if n := strings.Count(log.String(), "may not publish there"); n != 1 {
			t.Errorf("logged %d times: %s", n, &log)
		}
	})
}

// P13
func TestWillIsCheckedWhenLeftAndWhenSent(t *testing.T) {
	allowed := true
	cfg := Config{Allow: func(_, _, topic string, a Access) bool { return a != Write || topic == "ok" && allowed }}
	inBubble(t, cfg, func(t *testing.T, b *Broker) {
		will := func(topic string) func(*packet.Connect) {
			return func(c *packet.Connect) { c.Will = &packet.Will{Topic: topic, Payload: []byte("gone")} }
		}
		if ack := pipe(t, b, packet.V5).connect("a", will("no")); ack.Reason != packet.NotAuthorized {
			t.Error(ack.Reason)
		}
		if ack := pipe(t, b, packet.V311).connect("a", will("no")); ack.Reason != packet.RefusedAccess {
			t.Error(ack.Reason)
		}
		if ack := pipe(t, b, packet.V5).connect("a", will("a/#")); ack.Reason != packet.TopicInvalid {
			t.Error(ack.Reason)
		}
		watch := join(t, b, packet.V5, "watch")
		watch.subscribe(qos(0, "ok"))
		join(t, b, packet.V5, "a", will("ok")).conn.Close()
		watch.message("gone")
		p := join(t, b, packet.V5, "a", will("ok"))
		synctest.Wait()
		allowed = false
		p.conn.Close()
		synctest.Wait()
		if got := watch.ask(); len(got) > 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// P14
func TestAliasIsResolvedBeforePermission(t *testing.T) {
	cfg := Config{Allow: func(_, _, topic string, a Access) bool { return a != Write || topic == "ok" }}
	inBubble(t, cfg, func(t *testing.T, b *Broker) {
		watch := join(t, b, packet.V5, "watch")
		watch.subscribe(qos(0, "#"))
		p := join(t, b, packet.V5, "p")
		alias := packet.Properties{{ID: packet.TopicAlias, Num: 1}}
		p.send(&packet.Publish{Topic: "ok", Payload: []byte("1"), Props: alias})
		p.send(&packet.Publish{Payload: []byte("2"), Props: alias})
		p.send(&packet.Publish{Topic: "no", Payload: []byte("3"), Props: alias})
		p.send(&packet.Publish{Payload: []byte("4"), Props: alias})
		p.send(&packet.Publish{Topic: "ok", Payload: []byte("5")})
		for _, want := range []string{"1", "2", "5"} {
			m := watch.message(want)
			if m.Topic != "ok" || len(m.Props) > 0 {
				t.Errorf("got %+v", m)
			}
		}
	})
}

// P19
func TestInvalidFiltersAreRefused(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		filters := []packet.Filter{qos(1, "a+/b"), qos(1, "a#"), qos(1, "+a"), qos(1, "a/#/b"), qos(1, "$share//t"),
			qos(1, "$share/g/t"), qos(1, ""), qos(1, strings.Repeat("/", 128)), qos(2, "ok")}
		want := []packet.Reason{0x8F, 0x8F, 0x8F, 0x8F, 0x8F, 1, 0x8F, 0x97, 2}
		if got := join(t, b, packet.V5, "p").subscribe(filters...); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		want = []packet.Reason{0x80, 0x80, 0x80, 0x80, 0x80, 1, 0x80, 0x80, 2}
		if got := join(t, b, packet.V311, "p").subscribe(filters...); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("3.1.1: got %v, want %v", got, want)
		}
	})
}

// P21
func TestEmptyWillAndPasswordAreTaken(t *testing.T) {
	for _, v := range versions {
		var user, password string
		cfg := Config{Authenticate: func(_ context.Context, l Login) (string, error) {
			user, password = l.User, "<"+string(l.Password)+">"
			return user, nil
		}}
		inBubble(t, cfg, func(t *testing.T, b *Broker) {
			watch := join(t, b, v, "watch")
			watch.subscribe(qos(0, "will"))
			p := join(t, b, v, "p", func(c *packet.Connect) {
				c.Will = &packet.Will{Topic: "will"}
				c.HasUser, c.User, c.HasPassword = true, "u", true
			})
			if user != "u" || password != "<>" {
				t.Errorf("user %q, password %s", user, password)
			}
			p.conn.Close()
			watch.message("")
		})
	}
}

// P25
func TestExpiryIsCountedDownAndNeverInvented(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p")
		expiry := packet.Properties{{ID: packet.MessageExpiry, Num: 60}}
		p.send(&packet.Publish{Topic: "plain", Retain: true, Payload: []byte("1")})
		p.send(&packet.Publish{Topic: "mortal", Retain: true, Payload: []byte("2"), Props: expiry})
		p.ask()
		time.Sleep(25 * time.Second)
		p.subscribe(qos(0, "plain"))
		if m := p.message("1"); len(m.Props) > 0 {
			t.Errorf("properties %+v", m.Props)
		}
		p.subscribe(qos(0, "mortal"))
		if m := p.message("2"); m.Props.Num(packet.MessageExpiry, 0) != 35 {
			t.Errorf("properties %+v", m.Props)
		}
		time.Sleep(35 * time.Second)
		p.subscribe(qos(0, "mortal"))
		if got := p.ask(); len(got) > 0 {
			t.Errorf("got %+v after its expiry", got)
		}
		if n := b.Stats().Retained; n != 1 {
			t.Errorf("%d retained", n)
		}
	})
}

func TestMessageExpiresInTheQueue(t *testing.T) {
	inBubble(t, Config{Limits: Limits{Window: 1}}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p")
		p.subscribe(qos(1, "t"))
		expiry := uint32(5)
		b.Publish(&Message{Topic: "t", Payload: []byte("1"), QoS: 1})
		b.Publish(&Message{Topic: "t", Payload: []byte("2"), QoS: 1, Props: &Properties{Expiry: &expiry}})
		b.Publish(&Message{Topic: "t", Payload: []byte("3"), QoS: 1})
		m := expect[*packet.Publish](p)
		time.Sleep(6 * time.Second)
		p.acknowledge(m)
		p.message("3")
		if n := b.Stats().Dropped["expired"]; n != 1 {
			t.Errorf("%d expired", n)
		}
	})
}

func TestTakeOverSendsReasonAndWillBeforeTheNewConnack(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		watch := join(t, b, packet.V5, "watch")
		watch.subscribe(qos(0, "will"))
		old := join(t, b, packet.V5, "same", func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "will", Payload: []byte("gone")}
		})
		old.subscribe(qos(0, "t"))
		p := pipe(t, b, packet.V5)
		p.send(&packet.Connect{Version: packet.V5, ClientID: "same"})
		if reason := old.gone(); reason != packet.SessionTakenOver {
			t.Error(reason)
		}
		if ack := expect[*packet.Connack](p); ack.SessionPresent {
			t.Error("the session of the old connection is present")
		}
		watch.message("gone")
		b.Publish(&Message{Topic: "t"})
		if got := p.ask(); len(got) > 0 {
			t.Errorf("subscriptions of the old connection: %+v", got)
		}
	})
}

func TestDisconnectVoidsTheWill(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		watch := join(t, b, packet.V5, "watch")
		watch.subscribe(qos(1, "will"))
		will := func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "will", QoS: 1, Payload: []byte(c.ClientID)}
		}
		join(t, b, packet.V5, "polite", will).send(&packet.Disconnect{})
		join(t, b, packet.V5, "wanting", will).send(&packet.Disconnect{Reason: packet.DisconnectWithWill})
		watch.message("wanting")
	})
}

func TestSilentClientIsDisconnected(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p", func(c *packet.Connect) { c.KeepAlive = 10 })
		time.Sleep(14 * time.Second)
		start := time.Now()
		p.ask()
		if reason := p.gone(); reason != packet.KeepAliveTimeout {
			t.Error(reason)
		}
		if d := time.Since(start); d != 15*time.Second {
			t.Errorf("after %v", d)
		}
		start = time.Now()
		pipe(t, b, packet.V5).gone()
		if d := time.Since(start); d != connectWait {
			t.Errorf("without CONNECT after %v", d)
		}
	})
}

func TestConnackTellsWhatIsGiven(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		ack := pipe(t, b, packet.V5).connect("", func(c *packet.Connect) {
			c.CleanStart, c.Props = false, c.Props.AddNum(packet.SessionExpiry, 3600)
		})
		if id, _ := ack.Props.Text(packet.AssignedClientID); id == "" {
			t.Error("no client id")
		}
		for id, want := range map[packet.PropertyID]uint32{packet.SessionExpiry: 0, packet.MaximumPacketSize: 256 << 10, packet.ReceiveMaximum: maxPending} {
			if got := ack.Props.Num(id, 99); got != want {
				t.Errorf("%v is %d", id, got)
			}
		}
		if ack := pipe(t, b, packet.V311).connect(""); ack.Reason != packet.Success {
			t.Error(ack.Reason)
		}
		kept := func(c *packet.Connect) { c.CleanStart = false }
		if ack := pipe(t, b, packet.V311).connect("", kept); ack.Reason != packet.RefusedClientID {
			t.Error(ack.Reason)
		}
	})
}

func TestUnknownVersionIsToldSo(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := pipe(t, b, packet.V311)
		p.sendRaw([]byte("\x10\x0c\x00\x04MQTT\x06\x02\x00\x00\x00\x00"))
		if ack := expect[*packet.Connack](p); ack.Reason != packet.RefusedVersion {
			t.Error(ack.Reason)
		}
	})
}

func TestPacketsAreBounded(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		pipe := pipe(t, b, packet.V5)
		big := make([]byte, 17<<10)
		raw, _ := (&packet.Connect{Version: packet.V5, HasUser: true, HasPassword: true, Password: big}).Append(nil, 0)
		pipe.sendRaw(raw[:8]) // the length is enough
		pipe.gone()
		p := join(t, b, packet.V5, "p")
		raw, _ = (&packet.Publish{Topic: "t", Payload: make([]byte, 256<<10)}).Append(nil, packet.V5)
		p.sendRaw(raw[:4])
		if reason := p.gone(); reason != packet.PacketTooLarge {
			t.Error(reason)
		}
	})
}

func TestMessageTooLargeForTheClientIsDropped(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p", func(c *packet.Connect) {
			c.Props = packet.Properties{{ID: packet.MaximumPacketSize, Num: 50}, {ID: packet.ReceiveMaximum, Num: 1}}
		})
		p.subscribe(qos(1, "t"))
		b.Publish(&Message{Topic: "t", QoS: 1, Payload: make([]byte, 100)})
		b.Publish(&Message{Topic: "t", QoS: 1, Payload: []byte("small")})
		p.message("small")
		if n := b.Stats().Dropped["too large"]; n != 1 {
			t.Errorf("%d too large", n)
		}
	})
}

func TestAuthentication(t *testing.T) {
	cfg := Config{
		Authenticate: func(_ context.Context, l Login) (string, error) {
			if string(l.Password) != "secret" {
				return "", errors.New("wrong password")
			}
			return l.User, nil
		},
		Allow: func(u, _, topic string, a Access) bool { return a != Write || topic == u },
	}
	inBubble(t, cfg, func(t *testing.T, b *Broker) {
		as := func(user, password string) func(*packet.Connect) {
			return func(c *packet.Connect) {
				c.HasUser, c.User, c.HasPassword, c.Password = true, user, true, []byte(password)
			}
		}
		if ack := pipe(t, b, packet.V5).connect("p", as("u", "wrong")); ack.Reason != packet.BadUserOrPassword {
			t.Error(ack.Reason)
		}
		if ack := pipe(t, b, packet.V311).connect("p", as("u", "wrong")); ack.Reason != packet.RefusedCredentials {
			t.Error(ack.Reason)
		}
		if ack := pipe(t, b, packet.V5).connect("p", as("bridge:x", "secret")); ack.Reason != packet.BadUserOrPassword {
			t.Error(ack.Reason)
		}
		p := join(t, b, packet.V5, "p", as("u", "secret"))
		if got := []packet.Reason{p.publish(1, "u", ""), p.publish(2, "v", "")}; got[0] != packet.Success || got[1] != packet.NotAuthorized {
			t.Error(got)
		}
	})
}

func TestUnprovenNamesAreAnonymous(t *testing.T) {
	cfg := Config{Allow: func(user, _, _ string, _ Access) bool { return user == "" }}
	inBubble(t, cfg, func(t *testing.T, b *Broker) {
		var from string
		b.Handle("t", func(m *Message) { from = m.From })
		p := join(t, b, packet.V5, "p", func(c *packet.Connect) { c.HasUser, c.User = true, "admin" })
		if reason := p.publish(1, "t", ""); reason != packet.Success || from != anonymous {
			t.Errorf("%v, from %q", reason, from)
		}
	})
}

func TestConnectionCap(t *testing.T) {
	inBubble(t, Config{Limits: Limits{Connections: 2}}, func(t *testing.T, b *Broker) {
		join(t, b, packet.V5, "a")
		p := join(t, b, packet.V5, "b")
		pipe(t, b, packet.V5).gone()
		p.send(&packet.Disconnect{})
		p.gone()
		synctest.Wait()
		join(t, b, packet.V5, "c")
	})
}

// A client that publishes very much to itself before it reads anything waits
// for nobody but itself.
func TestClientThatFloodsItselfIsServed(t *testing.T) {
	for _, v := range versions {
		inBubble(t, Config{}, func(t *testing.T, b *Broker) {
			const n = 7000
			p := join(t, b, v, "p")
			p.subscribe(qos(1, "t"))
			ids := make(chan uint16, n)
			go func() { // it says all before it acknowledges anything
				for i := range n {
					p.trySend(&packet.Publish{Topic: "t", QoS: 1, ID: uint16(i + 1), Payload: []byte(strings.Repeat("x", 1000))})
				}
				for id := range ids {
					p.trySend(&packet.Ack{Kind: packet.PUBACK, ID: id})
				}
			}()
			start := time.Now()
			for got, acked := 0, 0; got < n || acked < n; {
				switch x := expect[packet.Packet](p).(type) {
				case *packet.Publish:
					got++
					ids <- x.ID
				case *packet.Ack:
					acked++
				}
			}
			close(ids)
			if d := time.Since(start); d > time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
}
