package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
	"edgegateway/broker/spool"
)

func TestOverlappingSubscriptionsGiveOneMessage(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p")
		for id, f := range map[uint32]packet.Filter{7: qos(0, "a/#"), 300: qos(2, "a/+")} {
			p.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{f}, Props: packet.Properties{{ID: packet.SubscriptionID, Num: id}}})
			expect[*packet.SubAck](p)
		}
		b.Publish(&Message{Topic: "a/b", Payload: []byte("x"), QoS: 2})
		m := p.message("x")
		ids := []uint32{m.Props[0].Num, m.Props[1].Num}
		slices.Sort(ids)
		if m.QoS != 2 || !slices.Equal(ids, []uint32{7, 300}) {
			t.Errorf("got %+v", m)
		}
		if got := p.ask(); len(got) > 0 {
			t.Errorf("and %+v", got)
		}
	})
}

func TestSubscriptionOptions(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p")
		p.subscribe(packet.Filter{Filter: "local", NoLocal: true}, packet.Filter{Filter: "as", RetainAsPublished: true}, qos(0, "plain"))
		for _, topic := range []string{"local", "as", "plain"} {
			p.send(&packet.Publish{Topic: topic, Retain: true, Payload: []byte(topic)})
		}
		if m := p.message("as"); !m.Retain {
			t.Error("retain flag lost")
		}
		if m := p.message("plain"); m.Retain {
			t.Error("retain flag on a live message")
		}
		for handling, want := range []int{1, 0, 0} {
			p.send(&packet.Subscribe{ID: 2, Filters: []packet.Filter{{Filter: "plain", RetainHandling: byte(handling)}}})
			got := p.ask()
			if _, ok := got[0].(*packet.SubAck); !ok || len(got)-1 != want {
				t.Errorf("retain handling %d: %+v", handling, got)
			}
		}
		p.send(&packet.Subscribe{ID: 3, Filters: []packet.Filter{{Filter: "pl+", RetainHandling: 1}, {Filter: "+", RetainHandling: 1}}})
		if got := p.ask(); len(got) != 4 {
			t.Errorf("new subscription with retain handling 1: %+v", got)
		}
		p.send(&packet.Unsubscribe{ID: 4, Filters: []string{"plain", "plain"}})
		if got := expect[*packet.SubAck](p).Reasons; got[0] != packet.Success || got[1] != packet.NoSubscriptionExisted {
			t.Error(got)
		}
	})
}

func TestPropertiesTravelWithTheMessage(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		props := packet.Properties{{ID: packet.PayloadFormat, Num: 1}, {ID: packet.ContentType, Text: "text/plain"},
			{ID: packet.ResponseTopic, Text: "re/ply"}, {ID: packet.CorrelationData, Text: "\x00"},
			{ID: packet.UserProperty, Text: "a", Value: "1"}, {ID: packet.UserProperty, Text: "a", Value: "2"}}
		p, old := join(t, b, packet.V5, "p"), join(t, b, packet.V311, "old")
		p.subscribe(qos(1, "t"))
		old.subscribe(qos(1, "t"))
		p.send(&packet.Publish{Topic: "t", Payload: []byte("x"), Props: props})
		if m := p.message("x"); !slices.Equal(m.Props, props) {
			t.Errorf("got %+v", m.Props)
		}
		old.message("x")
	})
}

func TestReadPermissionHoldsForEachMessage(t *testing.T) {
	cfg := Config{Allow: func(_, _, topic string, a Access) bool { return a != Read || topic != "a/secret" }}
	inBubble(t, cfg, func(t *testing.T, b *Broker) {
		for _, topic := range []string{"a/secret", "a/open"} {
			b.Publish(&Message{Topic: topic, Retain: true, Payload: []byte(topic)})
		}
		p := join(t, b, packet.V5, "p")
		p.subscribe(qos(0, "a/#"))
		p.message("a/open")
		b.Publish(&Message{Topic: "a/secret", Payload: []byte("live")})
		if got := p.ask(); len(got) > 0 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestHandlerSeesTheMessageAsItWasPublished(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		var got []Message
		if err := b.Handle("+/set", func(m *Message) { got = append(got, *m.clone()) }); err != nil {
			t.Fatal(err)
		}
		if b.Handle("a#", nil) == nil {
			t.Error("an invalid filter was taken")
		}
		p := join(t, b, packet.V5, "p")
		p.send(&packet.Publish{Topic: "x/set", QoS: 1, ID: 1, Retain: true, Payload: []byte("1"),
			Props: packet.Properties{{ID: packet.ResponseTopic, Text: "r"}}})
		p.puback(1)
		b.PublishFrom(t.Context(), &Message{Topic: "y/set", From: "bridge:z"}, nil)
		if len(got) != 2 || !got[0].Retain || got[0].QoS != 1 || got[0].Props.ResponseTopic != "r" || got[0].Stamp == 0 || got[1].From != "bridge:z" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestQoS2IsTakenExactlyOnce(t *testing.T) {
	for _, v := range versions {
		inBubble(t, Config{}, func(t *testing.T, b *Broker) {
			p := join(t, b, v, "p")
			p.subscribe(qos(2, "t"))
			for dup := range 3 {
				p.send(&packet.Publish{Topic: "t", QoS: 2, ID: 5, Dup: dup > 0, Payload: []byte("x")})
			}
			got := p.ask()
			counts := map[packet.Type]int{}
			for _, pk := range got {
				counts[pk.Type()]++
			}
			if counts[packet.PUBREC] != 3 || counts[packet.PUBLISH] != 1 {
				t.Errorf("got %v", counts)
			}
			want := []packet.Reason{packet.Success, packet.Success}
			if v == packet.V5 {
				want[1] = packet.IDNotFound
			}
			for i := range want {
				p.send(&packet.Ack{Kind: packet.PUBREL, ID: 5})
				if ack := expect[*packet.Ack](p); ack.Kind != packet.PUBCOMP || ack.Reason != want[i] {
					t.Errorf("%d: %+v", i, ack)
				}
			}
			p.send(&packet.Publish{Topic: "t", QoS: 2, ID: 5, Payload: []byte("y")})
			if got := p.ask(); len(got) != 2 {
				t.Errorf("the identifier again: %+v", got)
			}
		})
	}
}

// A client that reads slowly slows its publisher down and loses nothing.
func TestSlowSubscriberSlowsNetworkPublishers(t *testing.T) {
	for _, q := range []byte{0, 1} {
		inBubble(t, Config{Limits: Limits{Queue: 5}}, func(t *testing.T, b *Broker) {
			sub, pub := join(t, b, packet.V5, "sub"), join(t, b, packet.V5, "pub")
			sub.subscribe(qos(q, "t"))
			const n = 3000
			go func() {
				for i := range n {
					pub.send(&packet.Publish{Topic: "t", Payload: fmt.Append(nil, i)})
				}
			}()
			for i := range n {
				if i%100 == 0 {
					time.Sleep(lossy / 2)
				}
				sub.message(fmt.Sprint(i))
			}
			if d := b.Stats().Dropped; d["queue full"] != 0 {
				t.Errorf("dropped %v", d)
			}
		})
	}
}

func TestStuckQoS0SubscriberLosesWhatIsCounted(t *testing.T) {
	inBubble(t, Config{Limits: Limits{Queue: 5}}, func(t *testing.T, b *Broker) {
		sub, pub := join(t, b, packet.V5, "sub"), join(t, b, packet.V5, "pub")
		sub.subscribe(qos(0, "t"))
		start := time.Now()
		for i := range 2000 {
			pub.send(&packet.Publish{Topic: "t", Payload: fmt.Append(nil, i)})
		}
		pub.ask()
		if d := time.Since(start); d > 2*lossy {
			t.Errorf("the publisher waited %v", d)
		}
		synctest.Wait()
		if n := b.Stats().Dropped["queue full"]; n < 1900 {
			t.Errorf("%d dropped", n)
		}
		sub.conn.Close()
	})
}

func TestOwnPublishNeverWaits(t *testing.T) {
	for _, q := range []byte{0, 1} {
		inBubble(t, Config{Limits: Limits{Queue: 5}}, func(t *testing.T, b *Broker) {
			sub := join(t, b, packet.V5, "sub")
			sub.subscribe(qos(1, "t"))
			start := time.Now()
			for range 200 {
				b.Publish(&Message{Topic: "t", QoS: q})
			}
			if n := b.Stats().Dropped["queue full"]; n < 100 || time.Since(start) != 0 {
				t.Errorf("%d dropped after %v", n, time.Since(start))
			}
			if n := b.Stats().Clients; n != 1 {
				t.Error("disconnected while it may still move")
			}
			time.Sleep(9 * time.Second) // less than a write may take
			b.Publish(&Message{Topic: "t", QoS: q})
			time.Sleep(2 * time.Second)
			b.Publish(&Message{Topic: "t", QoS: q})
			sub.gone()
		})
	}
}

// Each floods the other and reads nothing before all is sent but what it must.
func TestClientsThatFloodEachOtherDoNotStop(t *testing.T) {
	inBubble(t, Config{Limits: Limits{Queue: 10}}, func(t *testing.T, b *Broker) {
		const n = 500
		done := make(chan bool)
		play := func(p *peer, to string) {
			received, acked := 0, 0
			go func() {
				for i := range n {
					if p.trySend(&packet.Publish{Topic: to, QoS: 1, ID: uint16(i + 1)}) != nil {
						return
					}
				}
			}()
			for received < n || acked < n {
				pk, err := p.read()
				if err != nil {
					t.Errorf("after %d received, %d acknowledged: %v", received, acked, err)
					break
				}
				switch pk := pk.(type) {
				case *packet.Publish:
					received++
					if p.trySend(&packet.Ack{Kind: packet.PUBACK, ID: pk.ID}) != nil {
						t.Error("acknowledgement not taken")
					}
				case *packet.Ack:
					acked++
				}
			}
			done <- true
		}
		x, y := join(t, b, packet.V311, "x"), join(t, b, packet.V311, "y")
		x.subscribe(qos(1, "to/x"))
		y.subscribe(qos(1, "to/y"))
		start := time.Now()
		go play(x, "to/y")
		go play(y, "to/x")
		<-done
		<-done
		if d := time.Since(start); d != 0 {
			t.Errorf("it took %v", d)
		}
	})
}

// fakeJournal keeps what is appended; the test settles it.
type fakeJournal struct {
	recs    []spool.Record
	done    []func(error)
	dropped int
	err     error // of Append
	room    chan struct{}
}

func (j *fakeJournal) Append(rec spool.Record, done func(error)) (spool.Seq, error) {
	if j.err != nil {
		return 0, j.err
	}
	rec.Data = slices.Clone(rec.Data)
	j.recs, j.done = append(j.recs, rec), append(j.done, done)
	return spool.Seq(len(j.recs)), nil
}

func (j *fakeJournal) Full(int) bool { return errors.Is(j.err, spool.ErrFull) }

func (j *fakeJournal) Drop(spool.Record)     { j.dropped++ }
func (j *fakeJournal) Room() <-chan struct{} { return j.room }

// withJournal gives b a bridge called cloud that is owed what filter selects.
func withJournal(b *Broker, filter string) *fakeJournal {
	j := &fakeJournal{room: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logs[Telemetry] = j
	d := &Durable{name: "cloud", from: bridgeUser + "cloud", ids: [NumClasses]uint16{7, 8}}
	d.sub = &subscriber{durable: d}
	b.subs.add(filter, subscription{d.sub, options{qos: 1}})
	b.subs.add(filter+"/#", subscription{d.sub, options{qos: 1}}) // a second one must not store twice
	return j
}

func TestPubackComesWhenTheRecordIsSafeAndInOrder(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		j := withJournal(b, "t")
		live := join(t, b, packet.V5, "live")
		live.subscribe(qos(0, "#"))
		p := join(t, b, packet.V5, "p")
		for i := range 3 {
			p.send(&packet.Publish{Topic: "t/a", QoS: 1, ID: uint16(i + 1), Payload: fmt.Append(nil, i)})
		}
		if got := p.ask(); len(got) > 0 || len(j.recs) != 3 {
			t.Fatalf("answered %+v before %d records were safe", got, len(j.recs))
		}
		live.message("0") // who is here need not wait for the disk
		j.done[1](nil)
		j.done[2](spool.ErrFull)
		if got := p.ask(); len(got) > 0 {
			t.Fatalf("answered out of order: %+v", got)
		}
		j.done[0](errors.New("disk on fire"))
		for id, want := range []packet.Reason{packet.Unspecified, packet.Success, packet.QuotaExceeded} {
			if reason := p.puback(uint16(id + 1)); reason != want {
				t.Errorf("%d: %v", id, reason)
			}
		}
		var m Message
		if err := DecodeRecord(&j.recs[2], &m); err != nil || m.Topic != "t/a" || string(m.Payload) != "2" || m.From != anonymous || m.Stamp == 0 {
			t.Errorf("record %+v, %v", m, err)
		}
		if targets := j.recs[2].Targets; len(targets) != 1 || targets[0].Consumer != 7 || targets[0].QoS != 1 || j.recs[2].Volatile {
			t.Errorf("record %+v", j.recs[2])
		}
	})
}

func TestRefusalClosesOlderClientsWithoutPuback(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		j := withJournal(b, "t")
		p := join(t, b, packet.V311, "p")
		p.send(&packet.Publish{Topic: "t", QoS: 1, ID: 1})
		p.ask()
		j.done[0](spool.ErrDegraded)
		if pk, err := p.read(); err == nil {
			t.Errorf("got %+v", pk)
		}
	})
}

func TestFullLogSlowsThePublisherAndThenRefuses(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		j := withJournal(b, "t")
		j.err = spool.ErrFull
		p := join(t, b, packet.V5, "p")
		p.send(&packet.Publish{Topic: "t", QoS: 1, ID: 1})
		p.send(&packet.Publish{Topic: "t", QoS: 1, ID: 2})
		p.ask()
		b.mu.Lock()
		j.err = nil
		b.mu.Unlock()
		close(j.room)
		synctest.Wait()
		if len(j.done) != 2 {
			t.Fatalf("%d records", len(j.done))
		}
		j.done[0](nil)
		j.done[1](nil)
		p.puback(1)
		p.puback(2)

		b.mu.Lock()
		j.err, j.room = spool.ErrFull, make(chan struct{})
		b.mu.Unlock()
		start := time.Now()
		if reason := p.publish(3, "t", ""); reason != packet.QuotaExceeded || time.Since(start) != storeWait {
			t.Errorf("%v after %v", reason, time.Since(start))
		}
		b.Publish(&Message{Topic: "t"})
		if d := b.Stats().Dropped["not stored"]; d != 1 || j.dropped != 1 {
			t.Errorf("own message: %d dropped, %d gaps", d, j.dropped)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.PublishFrom(ctx, &Message{Topic: "t", From: "bridge:x"}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("bridge: %v", err)
		}
	})
}

func TestOnlyWhatSomeoneDurableIsOwedIsStored(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		j := withJournal(b, "t")
		var err error
		settled := func(e error) { err = e }
		send := func(m *Message) {
			if e := b.PublishFrom(t.Context(), m, settled); e != nil {
				t.Error(e)
			}
		}
		send(&Message{Topic: "t", From: "bridge:cloud", QoS: 1}) // its own
		send(&Message{Topic: "t", From: "bridge:other", QoS: 1, Class: Critical})
		if err != nil || len(j.recs) != 0 {
			t.Errorf("%d records, %v", len(j.recs), err)
		}
		b.Publish(&Message{Topic: "t", QoS: 2})
		p := join(t, b, packet.V5, "p")
		p.send(&packet.Publish{Topic: "t"})
		p.ask()
		if len(j.recs) != 2 || !j.recs[0].Volatile || !j.recs[1].Volatile || j.recs[0].Targets[0].QoS != 1 {
			t.Errorf("records %+v", j.recs)
		}
		if err := b.PublishFrom(t.Context(), &Message{Topic: "$SYS/x", From: "bridge:x"}, nil); !errors.Is(err, ErrRefused) {
			t.Errorf("got %v", err)
		}
	})
}

func TestResyncPublishesOwnRetainedTimesAgain(t *testing.T) {
	clock := Clock{}
	inBubble(t, Config{Clock: func() Clock { return clock }}, func(t *testing.T, b *Broker) {
		m := &Message{Topic: "t", Retain: true, Stamp: 1e9, Payload: AppendSlot(nil, SlotTime, 1e9, clock), Slots: []Slot{{SlotTime, 0, 24}}}
		b.Publish(m)
		b.Publish(&Message{Topic: "u", Retain: true, Payload: []byte("no time")})
		p := join(t, b, packet.V5, "p")
		p.subscribe(packet.Filter{Filter: "#", RetainHandling: 2})
		clock = Clock{Offset: 86400e9, Quality: Exact}
		b.Resync()
		p.message("1970-01-02T00:00:01.000Z")
		if got := p.ask(); len(got) > 0 {
			t.Errorf("and %+v", got)
		}
		p.subscribe(qos(0, "t"))
		p.message("1970-01-02T00:00:01.000Z")
	})
}
