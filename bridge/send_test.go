package bridge

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

func TestStrictSendsInOrderWithIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.tele.fill(0, 100)
		r.start()
		synctest.Wait()
		r.tele.fill(100, 200)
		synctest.Wait()
		if got := r.up.payloads(); !slices.Equal(got, numbers(0, 200)) {
			t.Errorf("arrived %v", got)
		}
		first := r.up.got[0]
		if first.Topic != "dt/p/x" || first.QoS != 1 || !first.Retain || first.Duplicate || property(first, "mid") != "tele-1" || property(first, "replayed") != "" {
			t.Errorf("first is %v", first)
		}
		if r.tele.Acked() != 200 {
			t.Errorf("cursor at %d", r.tele.Acked())
		}
		if s := r.Stats(); s.State != Up || s.Sent != 200 || s.Acked != 200 || s.InFlight != 0 || s.Backlog["telemetry"].Records != 0 {
			t.Errorf("stats %+v", s)
		}
		r.end()
	})
}

// Answers come back in reverse; the window is never exceeded, and each answer
// belongs to its record (trap: AsyncSend tells of no PUBACK).
func TestWindowAndAcksInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Window = 10 })
		var open []*packets.Publish
		most := 0
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			open = append(open, p)
			most = max(most, len(open))
			if len(open) == 10 {
				for _, p := range slices.Backward(open) {
					c.ack(p, 0)
				}
				open = nil
			}
		}
		r.tele.fill(0, 100)
		r.start()
		synctest.Wait()
		if most != 10 || r.tele.Acked() != 100 || !slices.Equal(r.up.payloads(), numbers(0, 100)) {
			t.Errorf("most in flight %d, cursor %d, arrived %v", most, r.tele.Acked(), r.up.payloads())
		}
		r.end()
	})
}

// The Receive Maximum holds, also when it is smaller after a reconnect than
// what was in flight before (paho's own session then loses count).
func TestReceiveMaximumHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.connack = func(n int, _ *packets.Connect) *packets.Connack {
			return &packets.Connack{Properties: &packets.Properties{ReceiveMaximum: new(uint16(8 / n))}}
		}
		r.tele.fill(0, 20)
		r.up.publish = func(*serverConn, *packets.Publish) {}
		r.start()
		synctest.Wait()
		if got := len(r.up.payloads()); got != 8 {
			t.Errorf("%d in flight, want 8", got)
		}
		for n := 2; n <= 3; n++ {
			before := len(r.up.payloads())
			r.up.conns[len(r.up.conns)-1].Close()
			pass(2 * time.Second)
			if got := len(r.up.payloads()) - before; got != 8/n {
				t.Errorf("%d in flight on connection %d, want %d", got, n, 8/n)
			}
		}
		r.end()
	})
}

// Nothing is lost with the far session, and nobody waits for answers of an
// earlier connection.
func TestResentInOrderAfterLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			if c.n > 1 || len(r.up.got)%3 == 1 {
				c.ack(p, 0) // every third on the first connection
			}
		}
		r.tele.fill(0, 15)
		r.start()
		synctest.Wait()
		r.up.conns[0].send(nil) // closes
		pass(2 * time.Second)
		want := append(numbers(0, 15), "1", "2", "4", "5", "7", "8", "10", "11", "13", "14")
		if got := r.up.payloads(); !slices.Equal(got, want) {
			t.Errorf("arrived %v\nwant %v", got, want)
		}
		if again := r.up.got[15]; property(again, "mid") != "tele-2" {
			t.Errorf("repeated with mid %q", property(again, "mid"))
		}
		if s := r.Stats(); s.Reconnects != 1 || s.Backlog["telemetry"].Records != 0 || s.LongestOutage < time.Second {
			t.Errorf("stats %+v", s)
		}
		r.end()
	})
}

func TestLiveFirstSharesWithBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Replay = LiveFirst; c.Window = 1 })
		r.tele.fill(0, 100) // the backlog
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			time.Sleep(10 * time.Millisecond)
			c.ack(p, 0)
		}
		r.start()
		synctest.Wait()
		r.tele.fill(1000, 1400)
		pass(time.Minute)
		var old, fresh []string
		oldBefore := 0 // how many of the backlog came before the last live one
		for _, p := range r.up.got {
			if property(p, "replayed") == "1" {
				old = append(old, string(p.Payload))
				if p.Retain && len(fresh) > 0 {
					t.Fatalf("%s of the backlog is retained after something newer", p.Payload)
				}
				continue
			}
			fresh = append(fresh, string(p.Payload))
			oldBefore = len(old)
			if !p.Retain {
				t.Fatalf("live %s is not retained", p.Payload)
			}
		}
		if !slices.Equal(old, numbers(0, 100)) || !slices.Equal(fresh, numbers(1000, 1400)) {
			t.Errorf("backlog %v\nlive %v", old, fresh)
		}
		if oldBefore < 80 || r.up.got[20].Topic == "" {
			t.Errorf("only %d of the backlog went beside 400 live messages", oldBefore)
		}
		r.end()
	})
}

// The last word on each topic is retained, also if it comes from the backlog.
func TestNewestIsRetained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Replay = LiveFirst; c.Window = 1 })
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			time.Sleep(10 * time.Millisecond)
			c.ack(p, 0)
		}
		r.tele.fill(0, 20)
		r.tele.add(broker.Message{Topic: "p/meter/_status", Payload: []byte("offline"), Retain: true})
		r.start()
		synctest.Wait() // connected, and the first on its way
		r.tele.fill(100, 101)
		pass(time.Minute)
		retained := map[string]string{}
		for _, p := range r.up.got {
			if p.Retain {
				retained[p.Topic] = string(p.Payload)
			}
		}
		if len(r.up.got) != 22 || retained["dt/p/meter/_status"] != "offline" || retained["dt/p/x"] != "100" {
			t.Errorf("%d arrived, retained at the end: %v", len(r.up.got), retained)
		}
		r.end()
	})
}

func TestTurns(t *testing.T) {
	for _, c := range []struct {
		ready [numStreams]bool
		want  [numStreams]int // of 100
	}{
		{[numStreams]bool{true, false, false}, [numStreams]int{100, 0, 0}},
		{[numStreams]bool{false, true, true}, [numStreams]int{0, 80, 20}},
		{[numStreams]bool{true, true, false}, [numStreams]int{80, 20, 0}},
		{[numStreams]bool{true, true, true}, [numStreams]int{60, 20, 20}},
	} {
		var tn turns
		var got [numStreams]int
		for range 10 { // to get into step
			tn.next(c.ready)
		}
		for range 100 {
			got[tn.next(c.ready)]++
		}
		if got != c.want {
			t.Errorf("%v: %v, want %v", c.ready, got, c.want)
		}
	}
	if new(turns).next([numStreams]bool{}) != -1 {
		t.Error("something is picked of nothing")
	}
}

func TestCriticalGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Window = 1 })
		r.tele.fill(0, 50)
		r.crit.fill(100, 120)
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			time.Sleep(time.Millisecond)
			c.ack(p, 0)
		}
		r.start()
		pass(time.Second)
		place := slices.Index(r.up.payloads(), "119")
		if place < 19 || place > 27 {
			t.Errorf("the last of 20 critical messages came at place %d", place)
		}
		r.end()
	})
}

// What exceeds the far broker's Maximum Packet Size is not sent, for that
// would end each connection for ever.
func TestTooLargeIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.connack = func(int, *packets.Connect) *packets.Connack {
			return &packets.Connack{Properties: &packets.Properties{MaximumPacketSize: new(uint32(200))}}
		}
		r.tele.fill(0, 1)
		r.tele.add(broker.Message{Topic: "p/x", Payload: make([]byte, 200)})
		r.tele.fill(1, 2)
		r.start()
		synctest.Wait()
		if !slices.Equal(r.up.payloads(), numbers(0, 2)) || r.tele.Acked() != 3 || r.Stats().Refused[reasonWords(codeTooLarge)] != 1 {
			t.Errorf("arrived %v, cursor %d, stats %+v", r.up.payloads(), r.tele.Acked(), r.Stats())
		}
		r.end()
	})
}

func TestFitsIsExact(t *testing.T) {
	r := newRig(t, nil)
	f := newFlight()
	f.source, f.seq, f.to = r.sources[0], 77, "dt/p/x"
	for n := 0; n < 400; n++ {
		f.msg.Payload = make([]byte, n)
		p := r.packet(f, limits{qos: 1})
		size := packetSize(p.Packet())
		if !fits(p, size) || fits(p, size-1) || !fits(p, 0) {
			t.Fatalf("payload of %d: size %d", n, size)
		}
	}
}

// A far end that reads nothing any more, as behind a half-open link: the write
// deadline ends it, and the rest goes over a new connection.
func TestHalfOpenLinkEndsByWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.deaf = func(n int) bool { return n == 1 }
		r.tele.fill(0, 3)
		r.start()
		pass(25 * time.Second)
		if r.up.attempts() != 2 || !slices.Equal(r.up.payloads(), numbers(0, 3)) {
			t.Errorf("%d connections, arrived %v", r.up.attempts(), r.up.payloads())
		}
		if r.lines("no answer from up:1883 in time") != 1 {
			t.Errorf("log:\n%s", r.logged)
		}
		r.end()
		time.Sleep(time.Hour) // the deaf one
	})
}

// A far broker that answers pings but acknowledges nothing any more.
func TestMissingAcksForceReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.KeepAlive = 10 * time.Second })
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			if c.n > 1 {
				c.ack(p, 0)
			}
		}
		r.tele.fill(0, 3)
		r.start()
		pass(29 * time.Second)
		if r.up.attempts() != 1 {
			t.Fatalf("%d connections too early", r.up.attempts())
		}
		pass(3 * time.Second)
		if r.up.attempts() != 2 || r.tele.Acked() != 3 || r.Stats().LastError != errAckStall.Error() {
			t.Errorf("%d connections, cursor %d, %q", r.up.attempts(), r.tele.Acked(), r.Stats().LastError)
		}
		r.end()
	})
}

func TestRefusalsDoNotHoldUpTheRest(t *testing.T) {
	for _, code := range []byte{0x80, 0x83, 0x87, 0x90, 0x95, 0x99} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			r.up.publish = func(c *serverConn, p *packets.Publish) {
				if len(p.Payload) == 1 && p.Payload[0]%2 == 0 {
					c.ack(p, code)
				} else {
					c.ack(p, 0x10) // no subscribers is success
				}
			}
			r.tele.fill(0, 20)
			r.start()
			synctest.Wait()
			if r.tele.Acked() != 20 || r.Stats().Refused[reasonWords(code)] != 5 || r.Stats().Acked != 15 {
				t.Errorf("cursor %d, stats %+v", r.tele.Acked(), r.Stats())
			}
			r.end()
		})
	}
}

func TestRefusalIsLoggedWhenItBeginsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		code := byte(0x87)
		r.up.publish = func(c *serverConn, p *packets.Publish) { c.ack(p, code) }
		r.start()
		r.tele.fill(0, 20)
		synctest.Wait()
		r.up.mu.Lock()
		code = 0
		r.up.mu.Unlock()
		r.tele.fill(20, 40)
		synctest.Wait()
		if r.lines("given up") != 1 || r.lines("accepted upstream again") != 1 {
			t.Errorf("log:\n%s", r.logged)
		}
		r.end()
	})
}

// Refused for lack of quota: after a pause the same messages go again, before
// newer ones.
func TestQuotaIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Window = 4 })
		start := time.Now()
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			if time.Since(start) < 10*time.Second {
				c.ack(p, 0x97)
			} else {
				c.ack(p, 0)
			}
		}
		r.tele.fill(0, 8)
		r.start()
		pass(time.Minute)
		got := r.up.payloads()
		if n := len(got); n < 12 || n > 30 || !slices.Equal(got[n-8:], numbers(0, 8)) {
			t.Errorf("arrived %v", got)
		}
		if r.tele.Acked() != 8 || len(r.Stats().Refused) != 0 || r.Stats().Postponed == 0 {
			t.Errorf("cursor %d, stats %+v", r.tele.Acked(), r.Stats())
		}
		r.end()
	})
}

// One message is refused "for lack of quota" for ever while others pass.
func TestQuotaOfOneMessageIsHopeless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			if string(p.Payload) == "1" {
				c.ack(p, 0x97)
			} else {
				c.ack(p, 0)
			}
		}
		r.tele.fill(0, 30)
		r.start()
		pass(time.Hour)
		if r.tele.Acked() != 30 || r.Stats().Refused[reasonWords(codeQuota)] != 1 {
			t.Errorf("cursor %d, stats %+v", r.tele.Acked(), r.Stats())
		}
		r.end()
	})
}

// A far broker that ends the connection upon one topic, as AWS IoT does.
func TestPoisonIsFoundAndGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			if string(p.Payload) == "5" {
				c.send(&packets.Disconnect{ReasonCode: 0x87, Properties: &packets.Properties{}})
				c.send(nil)
			} else {
				c.ack(p, 0)
			}
		}
		r.tele.fill(0, 30)
		r.start()
		pass(10 * time.Minute)
		if r.tele.Acked() != 30 || r.Stats().Refused[reasonWords(0x87)] != 1 || r.up.attempts() < 1+2*proofs || r.up.attempts() > 1+2*proofs+1 { // every second one begins with what is known to pass; the first may do to show that something passes
			t.Errorf("cursor %d, %d connections, stats %+v", r.tele.Acked(), r.up.attempts(), r.Stats())
		}
		r.end()
	})
}

func TestQoS0IsDoneWhenWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.QoS = 0 })
		r.tele.fill(0, 50)
		r.start()
		synctest.Wait()
		if r.up.got[0].QoS != 0 || !slices.Equal(r.up.payloads(), numbers(0, 50)) || r.tele.Acked() != 50 {
			t.Errorf("arrived %v, cursor %d", r.up.payloads(), r.tele.Acked())
		}
		r.end()
	})
}

// Nothing written to a connection that is already closed counts as sent.
func TestQoS0SurvivesAClosedLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.QoS = 0 })
		r.start()
		synctest.Wait()
		r.up.conns[0].Close()
		r.tele.fill(0, 50)
		pass(5 * time.Second)
		if !slices.Equal(r.up.payloads(), numbers(0, 50)) {
			t.Errorf("arrived %v", r.up.payloads())
		}
		r.end()
	})
}

func TestLimitsOfTheFarBrokerLowerFlags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.connack = func(int, *packets.Connect) *packets.Connack {
			return &packets.Connack{Properties: &packets.Properties{RetainAvailable: new(byte(0)), MaximumQOS: new(byte(0))}}
		}
		r.tele.fill(0, 1)
		r.start()
		synctest.Wait()
		if p := r.up.got[0]; p.Retain || p.QoS != 0 {
			t.Errorf("sent %v", p)
		}
		r.end()
	})
}

func TestSkippedRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gaps []Gap
		r := newRig(t, func(c *Config) {
			c.MaxAge = time.Hour
			c.OnGap = func(g Gap) { gaps = append(gaps, g) }
		})
		old := spool.Record{Stamp: fakeNow() - int64(2*time.Hour)}
		wall := spool.BootRef{ID: [16]byte{9}, Offset: int64(time.Hour), Synced: true} // stamps of that boot are an hour smaller
		msg := func(payload string) broker.Message { return broker.Message{Topic: "p/x", Payload: []byte(payload)} }
		r.tele.add(broker.Message{Topic: "p/x", From: "bridge:cloud"})
		r.tele.add(broker.Message{Topic: "elsewhere"})
		r.tele.add(broker.Message{Topic: "p/x/set"})
		r.tele.addRecord(msg("old"), old)
		r.tele.addRecord(msg("old"), old)
		r.tele.addRecord(msg("other boot, too old"), spool.Record{Stamp: fakeNow() - int64(3*time.Hour), Boot: wall})
		r.tele.addRecord(msg("1"), spool.Record{Stamp: fakeNow() - int64(90*time.Minute), Boot: wall})
		r.tele.addRecord(msg("2"), spool.Record{Stamp: 5, Boot: spool.BootRef{ID: [16]byte{8}}}) // nobody knows how old
		r.tele.addRecord(broker.Message{Topic: "p/x", Props: &broker.Properties{Expiry: new(uint32(60))}}, spool.Record{Stamp: fakeNow() - int64(61*time.Second)})
		r.tele.addRecord(broker.Message{Topic: "p/x", Payload: []byte("3"), Props: &broker.Properties{Expiry: new(uint32(60))}}, spool.Record{Stamp: fakeNow() - int64(50*time.Second)})
		r.tele.addRecord(msg(""), spool.Record{Gap: &spool.Gap{First: 11, Last: 11, Count: 7, Reason: spool.ReasonQuota}})
		r.tele.addRecord(msg("4"), spool.Record{Stamp: fakeNow()})
		r.tele.records[11].Data = []byte("no message")
		r.start()
		synctest.Wait()
		if got := r.up.payloads(); !slices.Equal(got, []string{"1", "2", "3"}) || r.tele.Acked() != 12 {
			t.Errorf("arrived %q, cursor %d", got, r.tele.Acked())
		}
		if left := *r.up.got[2].Properties.MessageExpiry; left != 10 {
			t.Errorf("lifetime left %d s, want 10", left)
		}
		s := r.Stats()
		if s.Skipped[skipOwn] != 1 || s.Skipped[skipUnmatched] != 2 || s.Skipped[skipMaxAge] != 3 || s.Skipped[skipExpired] != 1 {
			t.Errorf("skipped %v", s.Skipped)
		}
		if len(gaps) != 3 || gaps[0].Reason != ReasonMaxAge || gaps[0].First != 4 || gaps[0].Last != 6 || gaps[0].Count != 3 ||
			gaps[1].Reason != spool.ReasonQuota || gaps[2].Reason != ReasonUnreadable || s.Lost != 11 ||
			s.LostBy[ReasonMaxAge] != 3 || s.LostBy[spool.ReasonQuota] != 7 || s.LostBy[ReasonUnreadable] != 1 {
			t.Errorf("gaps %+v, lost %d: %v", gaps, s.Lost, s.LostBy)
		}
		r.end()
	})
}

func TestClockForOtherBoots(t *testing.T) {
	r := newRig(t, func(c *Config) { c.BootID = [16]byte{1} })
	for _, c := range []struct {
		boot spool.BootRef
		want broker.Clock
	}{
		{spool.BootRef{ID: [16]byte{1}, Offset: 5}, testClock},
		{spool.BootRef{ID: [16]byte{2}, Offset: 5, Synced: true}, broker.Clock{Offset: 5, Quality: broker.Exact}},
		{spool.BootRef{ID: [16]byte{2}, Offset: 5}, broker.Clock{Offset: 5, Quality: broker.Unsynced, Late: math.MaxInt64}},
	} {
		if got := r.clockAt(c.boot, 0); got != c.want {
			t.Errorf("%+v: %+v, want %+v", c.boot, got, c.want)
		}
	}
}

// After the first message of a topic its alias goes in its place, as many as
// the far broker takes; a connection begins without any, and a refused topic
// is named again.
func TestTopicsAreAbbreviated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.up.connack = func(int, *packets.Connect) *packets.Connack {
			return &packets.Connack{Properties: &packets.Properties{TopicAliasMaximum: new(uint16(2))}}
		}
		topics := make(map[uint16]string)
		var got, bare []string
		n := 0
		r.up.publish = func(c *serverConn, p *packets.Publish) {
			if c.n > n {
				n, topics = c.n, make(map[uint16]string)
			}
			topic := p.Topic
			if a := p.Properties.TopicAlias; a != nil && topic == "" {
				topic = topics[*a]
				bare = append(bare, topic)
			} else if a != nil {
				topics[*a] = topic
			}
			got = append(got, topic+" "+string(p.Payload))
			code := byte(0)
			if string(p.Payload) == "2" {
				code = 0x87
			}
			c.ack(p, code)
		}
		var want []string
		for i := range 12 {
			topic := []string{"p/a", "p/b", "p/c"}[i%3]
			r.tele.add(broker.Message{Topic: topic, Payload: fmt.Append(nil, i)})
			want = append(want, fmt.Sprintf("dt/%s %d", topic, i))
		}
		r.start()
		pass(time.Second)
		r.up.conns[0].Close()
		for i := range 3 {
			r.tele.add(broker.Message{Topic: "p/c", Payload: fmt.Append(nil, "again ", i)})
			want = append(want, fmt.Sprintf("dt/p/c again %d", i))
		}
		pass(time.Minute)
		if !slices.Equal(got, want) {
			t.Errorf("arrived %q", got)
		}
		if !slices.Equal(bare, []string{"dt/p/a", "dt/p/b", "dt/p/a", "dt/p/b", "dt/p/a", "dt/p/b", "dt/p/c", "dt/p/c"}) {
			t.Errorf("abbreviated %q", bare)
		}
		r.end()
	})
}

func TestAliasOfARefusedTopicIsForgotten(t *testing.T) {
	a := aliases{most: 5}
	send := func() *paho.Publish {
		p := &paho.Publish{Topic: "t", Properties: new(paho.PublishProperties)}
		a.apply(p)
		return p
	}
	if p := send(); p.Topic != "t" || *p.Properties.TopicAlias != 1 {
		t.Errorf("first %+v", p)
	}
	if p := send(); p.Topic != "" {
		t.Errorf("second %+v", p)
	}
	a.forget("t")
	if p := send(); p.Topic != "t" || *p.Properties.TopicAlias != 2 {
		t.Errorf("after a refusal %+v", p)
	}
}

// A countedConn counts writes and their bytes.
type countedConn struct {
	net.Conn
	writes, bytes *int
}

func (c countedConn) Write(p []byte) (int, error) {
	*c.writes++
	*c.bytes += len(p)
	return c.Conn.Write(p)
}

// What is there at one moment goes in few writes, and none waits for what
// comes later. QoS 0, which has no answer, goes packet by packet.
func TestWhatIsThereGoesTogether(t *testing.T) {
	for qos, want := range []struct{ least, most int }{0: {101, 110}, 1: {1, 50}} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(c *Config) { c.QoS = byte(qos) })
				usual, writes, bytes := r.dial, 0, 0
				r.dial = func(ctx context.Context, u *url.URL) (net.Conn, error) {
					c, err := usual(ctx, u)
					return countedConn{c, &writes, &bytes}, err
				}
				r.tele.fill(0, 100)
				r.start()
				synctest.Wait()
				if got := r.up.payloads(); !slices.Equal(got, numbers(0, 100)) {
					t.Fatalf("arrived without time passing: %q", got)
				}
				t.Logf("100 messages in %d writes", writes)
				if writes < want.least || writes > want.most {
					t.Errorf("100 messages and a CONNECT took %d writes, want %d to %d", writes, want.least, want.most)
				}
				writes, bytes = 0, 0
				large := strings.Repeat("x", 10<<10)
				for range 8 {
					r.tele.add(broker.Message{Topic: "p/x", Payload: []byte(large)})
				}
				synctest.Wait()
				if writes < bytes/(burst+len(large)+1000) {
					t.Errorf("%d bytes in %d writes: a burst has no bound", bytes, writes)
				}
				r.end()
			})
		})
	}
}
