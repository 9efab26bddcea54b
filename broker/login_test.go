package broker

import (
	"context"
	"crypto/tls"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"edgegateway/broker/packet"
)

// named lets everybody in under the name that they give.
func named(_ context.Context, l Login) (string, error) { return l.User, nil }

func as(user string) func(*packet.Connect) {
	return func(c *packet.Connect) { c.HasUser, c.User = true, user }
}

func TestReasonOfARefusedLoginReachesTheClient(t *testing.T) {
	cfg := Config{Authenticate: func(_ context.Context, l Login) (string, error) {
		return "", &packet.Error{Reason: packet.ClientIDNotValid, What: "it belongs to ann"}
	}}
	inBubble(t, cfg, func(t *testing.T, b *Broker) {
		ack := pipe(t, b, packet.V5).connect("p")
		if text, _ := ack.Props.Text(packet.ReasonString); ack.Reason != packet.ClientIDNotValid || text != packet.ClientIDNotValid.String() {
			t.Errorf("%v, %q, which may tell too much", ack.Reason, text)
		}
		if ack := pipe(t, b, packet.V311).connect("p"); ack.Reason != packet.RefusedClientID {
			t.Error(ack.Reason)
		}
	})
}

func TestReviewDisconnectsOnlyWhomItMust(t *testing.T) {
	var open atomic.Bool
	open.Store(true)
	cfg := Config{
		Authenticate: named,
		Allow:        func(_, _, topic string, a Access) bool { return open.Load() || !strings.HasPrefix(topic, "secret") },
		AllowAll:     func(_, _, filter string) bool { return open.Load() || filter == "plain" },
	}
	inBubble(t, cfg, func(t *testing.T, b *Broker) {
		gone, stays := join(t, b, packet.V5, "gone", as("gone")), join(t, b, packet.V5, "stays", as("stays"))
		narrowed, old := join(t, b, packet.V5, "narrowed", as("narrowed")), join(t, b, packet.V311, "old", as("gone"))
		stays.subscribe(qos(1, "plain"), qos(1, "+"))
		narrowed.subscribe(qos(1, "secret"))
		open.Store(false)
		b.Review(func(user, _ string) bool { return user != "gone" })
		for name, p := range map[string]*peer{"gone": gone, "narrowed": narrowed} {
			if reason := p.gone(); reason != packet.AdministrativeAction {
				t.Errorf("%s: %v", name, reason)
			}
		}
		old.gone()
		b.Publish(&Message{Topic: "secret", QoS: 1, Payload: []byte("1")})
		b.Publish(&Message{Topic: "plain", QoS: 1, Payload: []byte("2")})
		stays.message("2")
		if more := stays.ask(); len(more) > 0 {
			t.Errorf("got %+v", more)
		}
		synctest.Wait()
		if s := b.Stats(); s.Clients != 1 || s.Subscriptions != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// What was let in by the old rules while they were changed must not stay.
func TestLoginDuringReviewIsRefused(t *testing.T) {
	inLogin, reviewed := make(chan struct{}), make(chan struct{})
	cfg := Config{Authenticate: func(_ context.Context, l Login) (string, error) {
		if l.User == "slow" {
			close(inLogin)
			<-reviewed
		}
		return l.User, nil
	}}
	b, addr := start(t, cfg)
	result := make(chan *packet.Connack)
	conn := dialRaw(t, addr, packet.V5)
	go func() { result <- conn.connect("p", as("slow")) }()
	<-inLogin
	b.Review(func(string, string) bool { return true })
	close(reviewed)
	if ack := <-result; ack.Reason != packet.ServerBusy {
		t.Error(ack.Reason)
	}
	if ack := dialRaw(t, addr, packet.V5).connect("p", as("quick")); ack.Reason != packet.Success {
		t.Error(ack.Reason)
	}
}

func TestReviewUnderLoad(t *testing.T) {
	b, addr := start(t, Config{Authenticate: named, Allow: func(string, string, string, Access) bool { return true }})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				b.Review(func(user, _ string) bool { return user != "odd" || i%2 == 0 })
				b.Publish(&Message{Topic: "t", QoS: 0})
			}
		}
	}()
	for range 50 {
		p := dialRaw(t, addr, packet.V5)
		c := &packet.Connect{Version: packet.V5, ClientID: "p", CleanStart: true}
		as("odd")(c)
		p.send(c)
		// It may be thrown out before it is answered, but is told nothing before CONNACK.
		if first, _, err := p.r.Read(); err == nil && first.Type() != packet.CONNACK {
			t.Errorf("the first packet is %+v", first)
		}
		p.trySend(&packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(1, "t"), qos(1, "#")}})
		p.conn.Close()
	}
	close(stop)
	<-stopped
}

// The filter is asked about once, when it is subscribed to, if it is covered;
// else each message is.
func TestCoveredSubscriptionIsNotAskedForAgain(t *testing.T) {
	asked := 0
	cfg := Config{
		Allow: func(_, _, topic string, a Access) bool {
			if a == Read {
				asked++
			}
			return true
		},
		AllowAll: func(_, _, filter string) bool { return filter == "covered" },
	}
	inBubble(t, cfg, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p")
		p.subscribe(qos(1, "covered"), qos(1, "open"))
		for _, topic := range []string{"covered", "open"} {
			for range 5 {
				b.Publish(&Message{Topic: topic, QoS: 1, Payload: []byte("x")})
				p.message("x")
			}
		}
		if asked != 5 {
			t.Errorf("asked %d times", asked)
		}
	})
}

func TestLoginHoldsTheVerifiedCertificate(t *testing.T) {
	ca := newAuthority(t)
	var got atomic.Pointer[Login]
	cfg := Config{
		Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0", TLS: &tls.Config{
			Certificates: []tls.Certificate{ca.pair("server")}, ClientCAs: ca.pool(), ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12,
		}}},
		Authenticate: func(_ context.Context, l Login) (string, error) {
			got.Store(&l)
			return "x", nil
		},
	}
	_, addr := start(t, cfg)
	for name, certs := range map[string][]tls.Certificate{"panel": {ca.pair("panel")}, "": nil} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.pool(), Certificates: certs})
		if err != nil {
			t.Fatal(err)
		}
		newPeer(t, conn, packet.V5).connect("p", as("u"))
		l := got.Load()
		cn := ""
		if l.Certificate != nil {
			cn = l.Certificate.Subject.CommonName
		}
		if cn != name || l.User != "u" || !l.HasUser || l.ClientID != "p" || l.Address != conn.LocalAddr().String() {
			t.Errorf("%q: certificate of %q, %+v", name, cn, l)
		}
	}
}

// A session that nobody is connected to loses the subscriptions that it may
// not have any more, for good, and gets of the others what it may.
func TestReviewOfSessionsWithoutConnection(t *testing.T) {
	var narrow atomic.Bool
	cfg := Config{
		Authenticate: named,
		Allow: func(user, _, topic string, a Access) bool {
			return user == "ann" && (!narrow.Load() || topic != "secret")
		},
		AllowAll: func(user, _, filter string) bool { return user == "ann" && !narrow.Load() },
	}
	inSite(t, cfg, func(t *testing.T, s *site) {
		p := join(t, s.Broker, packet.V5, "p", keepSession, as("ann"))
		p.subscribe(qos(1, "secret"), qos(1, "$share/g/secret"), qos(1, "+"), qos(1, "plain"))
		p.send(&packet.Disconnect{})
		p.gone()
		synctest.Wait()
		narrow.Store(true)
		if n := s.Review(func(string, string) bool { return false }); n != 0 {
			t.Errorf("%d were disconnected", n)
		}
		s.kill()
		s.say("secret", 1, 0, 3)
		s.say("plain", 1, 3, 1)
		narrow.Store(false)
		p = rejoin(t, s.Broker, packet.V5, "p", as("ann"))
		p.message("3")
		if more := p.ask(); len(more) > 0 {
			t.Errorf("got %+v", more)
		}
		if n := s.Stats().Subscriptions; n != 2 {
			t.Errorf("%d subscriptions", n)
		}
	})
}

// The rights of who takes over a session that was nobody's are theirs.
func TestSessionTakesTheRightsOfItsUser(t *testing.T) {
	cfg := Config{
		Authenticate: named,
		Allow:        func(user, _, topic string, a Access) bool { return user == "" || topic != "secret" },
		AllowAll:     func(user, _, filter string) bool { return user == "" },
	}
	inSite(t, cfg, func(t *testing.T, s *site) {
		s.away(packet.V5, "p", qos(1, "secret"), qos(1, "#"))
		p := rejoin(t, s.Broker, packet.V5, "p", as("ann"))
		s.say("secret", 1, 0, 1)
		s.say("plain", 1, 1, 1)
		p.message("1")
		if more := p.ask(); len(more) > 0 {
			t.Errorf("got %+v", more)
		}
	})
}
