package clients

import (
	"fmt"
	"sync"
	"testing"
)

// TestEachToEach has every library publish to all of them at once, each in its
// version of the protocol.
func TestEachToEach(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "")
	var inboxes []*inbox
	var publishers []client
	for i, k := range kinds {
		url := g.urls[k.transports[i%len(k.transports)]]
		c, in := k.open(t, options{URL: url, ID: "to " + k.name})
		subscribe(t, c, subscription{Filter: "from/#", QoS: 2})
		inboxes = append(inboxes, in)
		c, _ = k.open(t, options{URL: url, ID: "from " + k.name})
		publishers = append(publishers, c)
	}
	var wg sync.WaitGroup
	for i, c := range publishers {
		wg.Go(func() {
			for qos := range byte(3) {
				if _, err := c.publish(numbered(fmt.Sprintf("from/%s/%d", kinds[i].name, qos), qos, 50)...); err != nil {
					t.Errorf("%s: %v", kinds[i].name, err)
				}
			}
		})
	}
	wg.Wait()
	for i, in := range inboxes {
		got := make(map[string][]message)
		for _, m := range in.take(t, 50*3*len(kinds)) {
			got[m.Topic] = append(got[m.Topic], m)
		}
		for _, k := range kinds {
			for qos := range byte(3) {
				topic := fmt.Sprintf("from/%s/%d", k.name, qos)
				t.Run(kinds[i].name+" gets "+topic, func(t *testing.T) { same(t, got[topic], numbered(topic, qos, 50)) })
			}
		}
	}
}
