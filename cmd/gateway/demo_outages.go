package main

import (
	"sync"
	"time"
)

// outages keeps account of when the uplink was cut. An outage lasts until the
// first message after it has arrived.
type outages struct {
	mu      sync.Mutex
	cut     bool
	began   time.Time // zero: none that is not bridged yet
	count   int
	longest time.Duration
}

func (o *outages) now() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.cut
}

func (o *outages) begin(at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cut, o.count = true, o.count+1
	if o.began.IsZero() {
		o.began = at
	}
}

func (o *outages) restored() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cut = false
}

// bridged notes that a message arrived.
func (o *outages) bridged(at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cut || o.began.IsZero() {
		return
	}
	o.longest = max(o.longest, at.Sub(o.began))
	o.began = time.Time{}
}

func (o *outages) total() int {
	count, _ := o.figures()
	return count
}

func (o *outages) figures() (count int, longest time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count, o.longest
}
