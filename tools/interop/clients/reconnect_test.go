package clients

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
)

// TestReconnect kills the gateway while clients with sessions publish and
// subscribe. They come back by themselves; what was acknowledged arrives in
// its order.
func TestReconnect(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		for qos := byte(1); qos <= 2; qos++ {
			if qos == 2 && k.name == "paho.golang-5" {
				continue // its handling of PUBREC is not safe while it loses its connection (paho.golang issue 343)
			}
			t.Run(fmt.Sprintf("%s/qos %d", k.name, qos), func(t *testing.T) {
				t.Parallel()
				reconnect(t, k, k, qos)
			})
			if !k.inOrder { // as a subscriber it is
				t.Run(fmt.Sprintf("mqtt.js to %s/qos %d", k.name, qos), func(t *testing.T) {
					t.Parallel()
					reconnect(t, kinds[3], k, qos)
				})
			}
		}
	}
}

func reconnect(t *testing.T, publisher, k kind, qos byte) {
	g := newGateway(t, "")
	url := g.urls[k.transports[0]]
	if slices.Contains(k.transports, "wss") {
		url = g.urls[map[bool]string{true: "wss", false: "ws"}[k.v5]]
	}
	to, in := k.open(t, options{URL: url, ID: "to", Session: true, Again: true})
	subscribe(t, to, subscription{Filter: "log", QoS: qos})
	from, _ := publisher.open(t, options{URL: url, ID: "from", Session: true, Again: true})

	const total, batch = 400, 10
	var acked atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		all := numbered("log", qos, total)
		for n := 0; n < total; {
			reasons, _ := from.publish(all[n:min(n+batch, total)]...) // an error: the others again
			n += len(reasons)
			acked.Store(int64(n))
		}
	}()
	for _, at := range []int64{100, 200} {
		eventually(t, "messages are acknowledged", func() bool { return acked.Load() >= at })
		g.kill()
		g.run()
	}
	<-done
	var numbers, first []string
	eventually(t, "everything arrives", func() bool {
		numbers, first = nil, nil
		for _, m := range in.messages() {
			numbers = append(numbers, string(m.Payload))
			if !slices.Contains(first, string(m.Payload)) {
				first = append(first, string(m.Payload))
			}
		}
		return len(first) >= total
	})
	for i, n := range first {
		if publisher.inOrder && n != fmt.Sprint(i+1) {
			t.Fatalf("number %d is %s", i+1, n)
		}
	}
	// Killed between making a message safe and noting its identifier, the broker
	// takes it twice (docs/broker.md): that can be what was under way.
	if again := len(numbers) - len(first); qos == 2 && k.oncePerID && again > 2*batch {
		t.Errorf("%d messages of QoS 2 came again", again)
	}
}
