package modbus

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// Unanswered is what was asked at the ports of a process and may still be
// answered. A line that takes the place of another, because the configuration of
// its bus changed, so knows which answers may come that it did not ask for: the
// device does not notice the change. And it knows at which ports none of these
// lines was yet, so that another program may have asked there just before, or an
// earlier run of this one. The zero value is ready; its methods may be called at
// once.
type Unanswered struct {
	mu    sync.Mutex
	ports map[string]map[byte]lateReplies // by address and unit; without what points declare
	ours  map[string]bool                 // addresses that lines have opened
}

// leave notes what a line that closes its port leaves behind there.
func (u *Unanswered) leave(address string, late map[byte]*lateReplies) {
	if u == nil {
		return
	}
	now := time.Now()
	units := make(map[byte]lateReplies)
	for id, l := range late {
		if l.expire(now); len(l.open) > 0 {
			units[id] = lateReplies{open: slices.Clone(l.open), quiet: l.quiet, raised: l.raised}
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ports == nil {
		u.ports = make(map[string]map[byte]lateReplies)
	}
	u.ports[address] = units
	for address, units := range u.ports { // so that ports that nobody opens any more go
		maps.DeleteFunc(units, func(_ byte, l lateReplies) bool { l.expire(now); return len(l.open) == 0 })
		if len(units) == 0 {
			delete(u.ports, address)
		}
	}
}

// recall has a line that opens its port expect what was left behind there, and
// reports whether that is all that was asked, as far as is known. What it has
// left itself is among it.
func (u *Unanswered) recall(address string, late map[byte]*lateReplies) (all bool) {
	if u == nil {
		return true
	}
	for _, l := range late {
		l.open = nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, left := range u.ports[address] {
		l := entry(late, id)
		l.open, l.quiet, l.raised = slices.Clone(left.open), left.quiet, max(l.raised, left.raised)
	}
	if u.ours == nil {
		u.ours = make(map[string]bool)
	}
	all = u.ours[address]
	u.ours[address] = true
	return all
}
