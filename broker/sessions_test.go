package broker

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
	"edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

// A site is a broker whose sessions last, and what it keeps.
type site struct {
	t        *testing.T
	disk     *spooltest.Disk
	dir, run string
	cfg      Config
	start    time.Time

	*Broker
	log  *spool.Log
	stop func()
}

// inSite runs fn with a site in a bubble.
func inSite(t *testing.T, cfg Config, fn func(t *testing.T, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, disk: spooltest.NewDisk("run"), dir: t.TempDir(), run: t.TempDir(), cfg: cfg, start: time.Now()}
		s.open()
		defer func() { s.stop() }()
		fn(t, s)
	})
}

func (s *site) open() {
	s.t.Helper()
	now := func() int64 { return int64(time.Since(s.start)) + 1 }
	log, err := spool.Open(spool.Config{
		Dir: "card", RingDir: "run", Name: "sessions", Size: 8 << 20, Segment: 256 << 10, FS: s.disk, Log: testLog(s.t),
		Time: func() (int64, int64, bool) { return now(), now(), true }, BootID: [16]byte{1}, Sync: s.policy(),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	cfg := s.cfg
	cfg.StateDir, cfg.RuntimeDir, cfg.Sessions, cfg.Now, cfg.Log = s.dir, s.run, log, now, testLog(s.t)
	b, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	stopped := make(chan error)
	go func() { stopped <- b.Run(ctx) }()
	<-b.Ready()
	s.Broker, s.log = b, log
	s.stop = func() {
		cancel()
		if err := <-stopped; err != nil {
			s.t.Error(err)
		}
		log.Close()
	}
}

func (s *site) policy() spool.Policy { return spool.Policy{Mode: spool.Interval} }

// restart stops the broker as SIGTERM does and starts it again.
func (s *site) restart() {
	s.stop()
	s.open()
}

// kill ends the broker as kill -9 does and starts it again.
func (s *site) kill() {
	s.t.Helper()
	synctest.Wait() // what is under way becomes safe
	s.disk.Kill()
	dir, run := s.t.TempDir(), s.t.TempDir()
	for from, to := range map[string]string{s.dir: dir, s.run: run} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.stop() // writes to what nobody reads any more
	s.disk.Start()
	s.dir, s.run = dir, run
	s.open()
}

// away makes a session that is subscribed to filters and has no connection.
func (s *site) away(v packet.Version, id string, filters ...packet.Filter) {
	s.t.Helper()
	p := join(s.t, s.Broker, v, id, keepSession)
	p.subscribe(filters...)
	p.send(&packet.Disconnect{})
	p.gone()
	synctest.Wait()
}

func (s *site) say(topic string, qos byte, from, n int) {
	for i := range n {
		s.Publish(&Message{Topic: topic, Payload: fmt.Append(nil, from+i), QoS: qos})
	}
}

// takeAll acknowledges n messages, which must be those from first, in order.
func (p *peer) takeAll(first, n int) {
	p.t.Helper()
	for i := range n {
		p.message(fmt.Sprint(first + i))
	}
}

func TestSessionGetsWhatItMissed(t *testing.T) {
	for _, v := range versions {
		for name, between := range map[string]func(*site){"same run": func(*site) {}, "restart": (*site).restart, "kill": (*site).kill} {
			t.Run(fmt.Sprint(v, " ", name), func(t *testing.T) {
				inSite(t, Config{}, func(t *testing.T, s *site) {
					s.away(v, "p", qos(1, "t/+"))
					s.say("t/a", 1, 0, 300)
					s.say("t/a", 0, 1000, 5) // nobody is owed these
					pub := join(t, s.Broker, packet.V5, "pub")
					pub.publish(1, "t/b", "300")
					between(s)
					p := rejoin(t, s.Broker, v, "p")
					s.say("t/a", 1, 301, 10)
					p.takeAll(0, 311)
					if left := p.ask(); len(left) > 0 {
						t.Errorf("and %+v", left)
					}
					time.Sleep(3 * time.Second) // positions are kept
					between(s)
					if left := rejoin(t, s.Broker, v, "p").ask(); len(left) > 0 {
						t.Errorf("again: %+v", left)
					}
				})
			})
		}
	}
}

func TestUnacknowledgedComesAgainFirstUnderItsIdentifier(t *testing.T) {
	for _, v := range versions {
		for name, between := range map[string]func(*site){"same run": func(*site) {}, "restart": (*site).restart} {
			t.Run(fmt.Sprint(v, " ", name), func(t *testing.T) {
				inSite(t, Config{}, func(t *testing.T, s *site) {
					p := join(t, s.Broker, v, "p", keepSession)
					p.subscribe(qos(1, "t"))
					s.say("t", 1, 0, 5)
					ids := make(map[string]uint16)
					for i := range 5 {
						m := expect[*packet.Publish](p)
						if ids[fmt.Sprint(i)] = m.ID; i == 1 {
							p.acknowledge(m)
						}
					}
					p.ask()
					p.conn.Close()
					synctest.Wait()
					s.say("t", 1, 5, 2)
					between(s)
					p = rejoin(t, s.Broker, v, "p")
					for _, want := range []string{"0", "2", "3", "4", "5", "6"} {
						m := p.message(want)
						if id := ids[want]; m.Dup != (id != 0) || id != 0 && m.ID != id {
							t.Errorf("got %+v, first sent as %d", m, id)
						}
					}
				})
			})
		}
	}
}

// expectAck reads an acknowledgement of the given kind.
func (p *peer) expectAck(kind packet.Type) uint16 {
	p.t.Helper()
	ack := expect[*packet.Ack](p)
	if ack.Kind != kind {
		p.t.Fatalf("got %+v, want %v", ack, kind)
	}
	return ack.ID
}

func TestQoS2IsDeliveredOnce(t *testing.T) {
	for _, v := range versions {
		for name, between := range map[string]func(*site){"same run": func(*site) {}, "restart": (*site).restart, "kill": (*site).kill} {
			t.Run(fmt.Sprint(v, " ", name), func(t *testing.T) {
				inSite(t, Config{}, func(t *testing.T, s *site) {
					p := join(t, s.Broker, v, "p", keepSession)
					p.subscribe(qos(2, "t"))
					s.say("t", 2, 0, 3)
					var ids []uint16
					for i := range 3 {
						ids = append(ids, p.message(fmt.Sprint(i)).ID)
					}
					p.send(&packet.Ack{Kind: packet.PUBREC, ID: ids[0]})
					p.expectAck(packet.PUBREL)
					p.send(&packet.Ack{Kind: packet.PUBCOMP, ID: ids[0]})
					p.send(&packet.Ack{Kind: packet.PUBREC, ID: ids[1]})
					p.expectAck(packet.PUBREL)
					p.ask()
					p.conn.Close()
					synctest.Wait()
					between(s)
					p = rejoin(t, s.Broker, v, "p")
					if id := p.expectAck(packet.PUBREL); id != ids[1] {
						t.Errorf("PUBREL of %d, want %d", id, ids[1])
					}
					p.send(&packet.Ack{Kind: packet.PUBCOMP, ID: ids[1]})
					m := p.message("2")
					if !m.Dup || m.ID != ids[2] {
						t.Errorf("got %+v", m)
					}
					p.send(&packet.Ack{Kind: packet.PUBREC, ID: m.ID})
					p.expectAck(packet.PUBREL)
					p.send(&packet.Ack{Kind: packet.PUBCOMP, ID: m.ID})
					if left := p.ask(); len(left) > 0 {
						t.Errorf("and %+v", left)
					}
				})
			})
		}
	}
}

func TestQoS2PublishIsTakenOnce(t *testing.T) {
	for name, between := range map[string]func(*site){"same run": func(*site) {}, "restart": (*site).restart, "kill": (*site).kill} {
		t.Run(name, func(t *testing.T) {
			inSite(t, Config{}, func(t *testing.T, s *site) {
				s.away(packet.V5, "sub", qos(2, "t"))
				p := join(t, s.Broker, packet.V5, "pub", keepSession)
				pub := &packet.Publish{Topic: "t", QoS: 2, ID: 7, Payload: []byte("once")}
				p.send(pub)
				p.expectAck(packet.PUBREC)
				p.conn.Close()
				synctest.Wait()
				between(s)
				p = rejoin(t, s.Broker, packet.V5, "pub")
				pub.Dup = true
				p.send(pub)
				p.expectAck(packet.PUBREC)
				p.send(&packet.Ack{Kind: packet.PUBREL, ID: 7})
				p.expectAck(packet.PUBCOMP)
				between(s)
				p = rejoin(t, s.Broker, packet.V5, "pub")
				pub.Dup, pub.Payload = false, []byte("twice")
				p.send(pub) // its identifier was released: this is another one
				p.expectAck(packet.PUBREC)
				sub := rejoin(t, s.Broker, packet.V5, "sub")
				sub.message("once")
				sub.message("twice")
			})
		})
	}
}

func TestSlowSessionFallsBackOnItsLogAndLosesNothing(t *testing.T) {
	inSite(t, Config{Limits: Limits{Queue: 20}}, func(t *testing.T, s *site) {
		p := join(t, s.Broker, packet.V5, "p", keepSession)
		p.subscribe(qos(1, "t"))
		start := time.Now()
		s.say("t", 1, 0, 5000)
		if d := time.Since(start); d != 0 {
			t.Errorf("the gateway waited %v", d)
		}
		p.takeAll(0, 4000)
		s.say("t", 1, 5000, 100)
		p.takeAll(4000, 1100)
		if left := p.ask(); len(left) > 0 {
			t.Errorf("and %+v", left)
		}
		s.say("t", 1, 5100, 1)
		p.takeAll(5100, 1)
		time.Sleep(3 * time.Second)
		if st := s.log.Stats(); st.Queued != 0 {
			t.Errorf("%d records stay in the log's memory", st.Queued)
		}
	})
}

func TestConnectedSessionWritesNothingToTheMedium(t *testing.T) {
	inSite(t, Config{}, func(t *testing.T, s *site) {
		p := join(t, s.Broker, packet.V5, "p", keepSession)
		p.subscribe(qos(1, "t"))
		time.Sleep(10 * time.Second)
		before := s.log.Stats().BytesWritten
		for i := range 200 {
			s.say("t", 1, i, 1)
			p.takeAll(i, 1)
			time.Sleep(100 * time.Millisecond)
		}
		if n := s.log.Stats().BytesWritten - before; n != 0 {
			t.Errorf("%d bytes were written", n)
		}
	})
}

func TestSessionQueueIsBounded(t *testing.T) {
	inSite(t, Config{Limits: Limits{SessionQueue: 100}}, func(t *testing.T, s *site) {
		s.away(packet.V311, "p", qos(1, "t"))
		s.say("t", 1, 0, 1000)
		st := s.ClientStats()[0]
		if st.Queue > 100+6 || st.Queue < 90 || st.Dropped+uint64(st.Queue) != 1000 {
			t.Errorf("%+v", st)
		}
		if n := s.Stats().Dropped["session queue full"]; n != st.Dropped {
			t.Errorf("%d counted, %d dropped", n, st.Dropped)
		}
		s.kill()
		p := rejoin(t, s.Broker, packet.V311, "p")
		st = s.ClientStats()[0]
		n := st.Queue + st.InFlight
		p.takeAll(1000-n, n)
	})
	inSite(t, Config{Limits: Limits{SessionAge: time.Hour}}, func(t *testing.T, s *site) {
		s.away(packet.V311, "p", qos(1, "t"))
		s.say("t", 1, 0, 640)
		time.Sleep(50 * time.Minute)
		s.say("t", 1, 640, 64)
		time.Sleep(15 * time.Minute)
		if n := s.Stats().Dropped["too old for its session"]; n != 640 {
			t.Errorf("%d dropped for their age", n)
		}
	})
}

func TestSessionsEnd(t *testing.T) {
	inSite(t, Config{}, func(t *testing.T, s *site) {
		s.away(packet.V5, "expires", qos(1, "t"))
		s.away(packet.V5, "cleaned", qos(1, "t"))
		s.away(packet.V311, "stays", qos(1, "t"))
		s.say("t", 1, 0, 1)
		time.Sleep(59 * time.Minute)
		s.kill()
		time.Sleep(2 * time.Minute)
		if left := join(t, s.Broker, packet.V5, "expires", keepSession).ask(); len(left) > 0 {
			t.Errorf("an expired session got %+v", left)
		}
		join(t, s.Broker, packet.V5, "cleaned")
		if left := join(t, s.Broker, packet.V5, "cleaned", keepSession).ask(); len(left) > 0 {
			t.Errorf("a cleaned session got %+v", left)
		}
		rejoin(t, s.Broker, packet.V311, "stays").message("0")
		gone := join(t, s.Broker, packet.V5, "gone", keepSession)
		gone.send(&packet.Disconnect{Props: packet.Properties(nil).AddNum(packet.SessionExpiry, 0)})
		gone.gone()
		synctest.Wait()
		join(t, s.Broker, packet.V5, "gone", keepSession)
	})
}

func TestWillIsDelayed(t *testing.T) {
	will := func(delay uint32) func(*packet.Connect) {
		return func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "will", Payload: []byte(c.ClientID), QoS: 1, Props: packet.Properties(nil).AddNum(packet.WillDelay, delay)}
		}
	}
	for name, between := range map[string]func(*site){"same run": func(*site) {}, "kill": (*site).kill} {
		t.Run(name, func(t *testing.T) {
			inSite(t, Config{}, func(t *testing.T, s *site) {
				s.away(packet.V5, "watch", qos(1, "will"))
				for _, id := range []string{"late", "back", "bye"} {
					p := join(t, s.Broker, packet.V5, id, keepSession, will(60))
					if id == "bye" {
						p.send(&packet.Disconnect{})
						p.gone()
					}
					p.conn.Close()
				}
				synctest.Wait()
				between(s)
				watch := rejoin(t, s.Broker, packet.V5, "watch")
				time.Sleep(59 * time.Second)
				rejoin(t, s.Broker, packet.V5, "back", will(60))
				if got := watch.ask(); len(got) > 0 {
					t.Fatalf("too early: %+v", got)
				}
				time.Sleep(2 * time.Second)
				watch.message("late")
				time.Sleep(time.Hour)
				if got := watch.ask(); len(got) > 0 {
					t.Errorf("and %+v", got)
				}
			})
		})
	}
}

func TestSharedSubscription(t *testing.T) {
	inSite(t, Config{}, func(t *testing.T, s *site) {
		share := qos(1, "$share/g/t/#")
		s.away(packet.V5, "waits", share)
		s.say("t", 1, 0, 2) // nobody else: it waits for it
		a, c := join(t, s.Broker, packet.V5, "a"), join(t, s.Broker, packet.V311, "c")
		a.subscribe(share)
		c.subscribe(share)
		all := join(t, s.Broker, packet.V5, "all")
		all.subscribe(qos(1, "#"))
		s.say("t/x", 1, 2, 100)
		synctest.Wait()
		got := make(map[string]int)
		take := func(p *peer, n int) {
			for range n {
				got[string(expect[*packet.Publish](p).Payload)]++
			}
		}
		take(a, 50) // by turns
		take(c, 20) // its window, for it acknowledges nothing
		if left := append(a.ask(), c.ask()...); len(left) > 0 {
			t.Errorf("and %+v", left)
		}
		c.conn.Close() // its session ends, and what it has not acknowledged goes to another
		take(a, 50)
		if len(got) != 100 {
			t.Errorf("%d of 100 messages came", len(got))
		}
		w := rejoin(t, s.Broker, packet.V5, "waits")
		w.takeAll(0, 2)
		if left := w.ask(); len(left) > 0 {
			t.Errorf("and %+v", left)
		}
	})
}

func TestRetainedMessagesOfANewSubscriptionAreKept(t *testing.T) {
	inSite(t, Config{}, func(t *testing.T, s *site) {
		pub := join(t, s.Broker, packet.V5, "pub")
		for i := range 30 {
			pub.send(&packet.Publish{Topic: fmt.Sprint("t/", i), QoS: 1, ID: 1, Retain: true, Payload: []byte("x")})
			pub.puback(1)
		}
		p := join(t, s.Broker, packet.V5, "p", keepSession)
		p.subscribe(qos(1, "t/#"))
		first := p.message("x")
		p.ask()
		time.Sleep(2 * time.Second)
		s.kill()
		topics := map[string]bool{first.Topic: true}
		p = rejoin(t, s.Broker, packet.V5, "p")
		for range 29 {
			m := p.message("x")
			if !m.Retain {
				t.Errorf("without the flag: %+v", m)
			}
			topics[m.Topic] = true
		}
		if len(topics) != 30 {
			t.Errorf("%d topics", len(topics))
		}
	})
}

func TestClientIDBelongsToItsUser(t *testing.T) {
	cfg := Config{Authenticate: named}
	inSite(t, cfg, func(t *testing.T, s *site) {
		p := join(t, s.Broker, packet.V5, "p", keepSession, as("ann"))
		if ack := pipe(t, s.Broker, packet.V5).connect("p", as("bob")); ack.Reason != packet.NotAuthorized {
			t.Error("while connected:", ack.Reason)
		}
		p.conn.Close()
		synctest.Wait()
		if ack := pipe(t, s.Broker, packet.V311).connect("p", as("bob")); ack.Reason != packet.RefusedAccess {
			t.Error("while away:", ack.Reason)
		}
		rejoin(t, s.Broker, packet.V5, "p", as("ann"))
	})
}

func TestTopicAliasesOfTheBroker(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p", func(c *packet.Connect) { c.Props = c.Props.AddNum(packet.TopicAliasMaximum, 2) })
		p.subscribe(qos(0, "#"))
		names := make(map[uint32]string)
		for i, topic := range strings.Fields("a b c a b c a") {
			b.Publish(&Message{Topic: topic, Payload: fmt.Append(nil, i)})
			m := p.message(fmt.Sprint(i))
			if a := m.Props.Num(packet.TopicAlias, 0); a != 0 && m.Topic != "" {
				names[a] = m.Topic
			} else if a != 0 {
				m.Topic = names[a]
			}
			if m.Topic != topic || len(names) > 2 {
				t.Errorf("got %+v, want %s", m, topic)
			}
		}
		if len(names) != 2 {
			t.Errorf("aliases %v", names)
		}
	})
}

func TestPublisherIsToldThatNobodyListens(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p")
		for _, retain := range []bool{false, true} {
			p.send(&packet.Publish{Topic: "t", QoS: 1, ID: 1, Retain: retain, Payload: []byte("x")})
			want := packet.NoMatchingSubscribers
			if retain {
				want = packet.Success
			}
			if ack := expect[*packet.Ack](p); ack.Reason != want {
				t.Errorf("retain %v: %v", retain, ack.Reason)
			}
		}
	})
}
