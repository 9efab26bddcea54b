package bridge

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"edgegateway/broker"
)

func receiver(t *testing.T) *rig {
	return newRig(t, func(c *Config) { c.Receive = []Rule{{"cmd/gw/+/_set", "p/+/_set"}} })
}

func command(id uint16, topic string) *packets.Publish {
	return &packets.Publish{Topic: topic, PacketID: id, QoS: 1, Payload: fmt.Append(nil, id), Properties: &packets.Properties{}}
}

func TestReceivedCommandsAreMappedAndAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := receiver(t)
		r.start()
		synctest.Wait()
		if s := r.up.subs[0].Subscriptions; len(s) != 1 || s[0].Topic != "cmd/gw/+/_set" || s[0].QoS != 1 || !s[0].NoLocal || s[0].RetainHandling != 2 {
			t.Errorf("subscribed %+v", s)
		}
		p := command(7, "cmd/gw/boiler/_set")
		p.Properties = &packets.Properties{MessageExpiry: new(uint32(30)), ResponseTopic: "answer", CorrelationData: []byte{1}, ContentType: "json",
			PayloadFormat: new(byte(1)), User: []packets.User{{Key: "id", Value: "1"}, {Key: "id", Value: "2"}}}
		r.up.conns[0].send(p)
		pass(time.Second)
		m := r.here.got[0]
		if m.Topic != "p/boiler/_set" || string(m.Payload) != "7" || m.QoS != 1 || m.From != "bridge:cloud" || m.Retain || m.Stamp == 0 {
			t.Errorf("published %+v", m)
		}
		if q := m.Props; !q.PayloadUTF8 || *q.Expiry != 30 || q.ResponseTopic != "answer" || q.ContentType != "json" || len(q.Correlation) != 1 || len(q.User) != 2 || q.User[1].Value != "2" {
			t.Errorf("properties %+v", q)
		}
		if len(r.up.acks) != 1 || r.up.acks[0].PacketID != 7 || r.up.acks[0].ReasonCode != 0 || r.Stats().Received != 1 {
			t.Errorf("acknowledged %v", r.up.acks)
		}
		r.end()
	})
}

func TestReceivedIsAcknowledgedOnlyWhenSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := receiver(t)
		r.here.hold = true
		r.start()
		synctest.Wait()
		for id := range uint16(3) {
			r.up.conns[0].send(command(id+1, "cmd/gw/a/_set"))
		}
		pass(time.Minute)
		if len(r.up.acks) != 0 || len(r.here.held) != 3 {
			t.Fatalf("acknowledged %v with %d held", r.up.acks, len(r.here.held))
		}
		r.here.held[2](nil)
		r.here.held[1](errors.New("disk failing"))
		pass(time.Second)
		if len(r.up.acks) != 0 {
			t.Fatalf("acknowledged %v before the first", r.up.acks)
		}
		r.here.held[0](nil)
		pass(time.Second)
		for i, code := range []byte{0, packets.PubackQuotaExceeded, 0} {
			if a := r.up.acks[i]; a.PacketID != uint16(i+1) || a.ReasonCode != code {
				t.Errorf("acknowledgement %d is %v", i, a)
			}
		}
		r.end()
	})
}

// Handlers survive reconnects, and what was not acknowledged is not
// acknowledged on another connection either.
func TestReceiveAfterReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := receiver(t)
		r.here.hold = true
		r.start()
		synctest.Wait()
		r.up.conns[0].send(command(1, "cmd/gw/a/_set"))
		pass(time.Second)
		r.up.conns[0].Close()
		pass(5 * time.Second)
		r.here.held[0](nil)
		pass(time.Second)
		if len(r.up.acks) != 0 {
			t.Errorf("acknowledged %v on another connection", r.up.acks)
		}
		r.up.conns[1].send(command(1, "cmd/gw/a/_set"))
		pass(time.Second)
		r.here.held[1](nil)
		pass(time.Second)
		if len(r.up.acks) != 1 || len(r.up.subs) != 2 {
			t.Errorf("acknowledged %v, subscribed %d times", r.up.acks, len(r.up.subs))
		}
		r.end()
	})
}

func TestNotEverythingReceivedIsACommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := receiver(t)
		r.start()
		synctest.Wait()
		retained := command(1, "cmd/gw/a/_set")
		retained.Retain = true
		r.up.conns[0].send(retained)
		r.up.conns[0].send(command(2, "cmd/gw/a/b/_set"))
		pass(time.Second)
		if len(r.here.got) != 0 || len(r.up.acks) != 2 || r.Stats().Rejected != 2 {
			t.Errorf("published %v, acknowledged %v", r.here.got, r.up.acks)
		}
		r.here.mu.Lock()
		r.here.refuse = broker.ErrRefused
		r.here.mu.Unlock()
		r.up.conns[0].send(command(3, "cmd/gw/a/_set"))
		exactlyOnce := command(4, "cmd/gw/a/_set")
		exactlyOnce.QoS = 2
		r.up.conns[0].send(exactlyOnce)
		pass(time.Second)
		if len(r.up.acks) != 3 || r.up.acks[2].ReasonCode != packets.PubackNotAuthorized {
			t.Errorf("acknowledged %v", r.up.acks)
		}
		if r.Stats().State != Up {
			t.Error("QoS 2 ended the link")
		}
		r.end()
	})
}
