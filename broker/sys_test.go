package broker

import (
	"fmt"
	"testing"
	"time"

	"edgegateway/broker/packet"
)

func TestSystemTopicsTellOfTheBroker(t *testing.T) {
	inBubble(t, Config{Version: "1.2"}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p")
		watch := join(t, b, packet.V311, "watch")
		values := func() map[string]string {
			got := make(map[string]string)
			watch.conn.SetReadDeadline(time.Now().Add(time.Millisecond)) // of the bubble: all others wait
			for {
				pk, err := watch.read()
				if err != nil {
					return got
				}
				if m, ok := pk.(*packet.Publish); ok {
					got[m.Topic] = string(m.Payload)
				}
			}
		}
		for i := range 600 {
			p.send(&packet.Publish{Topic: "t", Payload: fmt.Append(nil, i%10)})
		}
		time.Sleep(10*time.Second + time.Millisecond)
		watch.send(&packet.Subscribe{ID: 1, Filters: []packet.Filter{qos(1, "$SYS/broker/#")}})
		got := values()
		for topic, want := range map[string]string{
			"version": "gateway 1.2", "uptime": "10 seconds", "clients/connected": "2", "clients/total": "2",
			"subscriptions/count": "1", "publish/messages/received": "600", "publish/bytes/received": "600",
			"load/publish/received/1min": "552.67", // 3600 a minute for a sixth of one: 3600 (1 - e^(-1/6))
		} {
			if v := got["$SYS/broker/"+topic]; v != want {
				t.Errorf("%s is %q, want %q", topic, v, want)
			}
		}
		join(t, b, packet.V5, "third")
		time.Sleep(10 * time.Second)
		got = values()
		if got["$SYS/broker/clients/connected"] != "3" || got["$SYS/broker/uptime"] != "20 seconds" {
			t.Errorf("got %v", got)
		}
		if _, again := got["$SYS/broker/version"]; again {
			t.Error("the version was sent again, unchanged")
		}
	})
}
