package access

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	leastWait   = time.Second
	mostWait    = time.Minute
	forgetAfter = 10 * time.Minute // of peace
	maxAttempts = 1000             // that are remembered
)

// attempts remember who gave wrong passwords. Each failure of a user at an
// address doubles the time for which that user is not let in from there. The
// same password again is no new guess and makes nobody wait: a client that was
// forgotten when a password was changed must not lock out the others beside it.
type attempts struct {
	mu     sync.Mutex
	failed map[attempt]failure
}

type attempt struct{ user, from string }

// A mac stands for a user and a password.
type mac [sha256.Size]byte

type failure struct {
	count int
	until time.Time
	wrong [4]mac // the last passwords
}

// wait returns how long an attempt has to wait, 0 if it may be made.
func (a *attempts) wait(who attempt) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(time.Until(a.failed[who].until), 0)
}

// repeats says whether a password was wrong the last times.
func (a *attempts) repeats(who attempt, password mac) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.failed[who]
	return slices.Contains(f.wrong[:], password)
}

// note notes a failure.
func (a *attempts) note(who attempt, password mac) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	f, known := a.failed[who]
	if !known && len(a.failed) >= maxAttempts {
		a.forgetOldest()
	}
	if now.Sub(f.until) > forgetAfter {
		f.count = 0
	}
	f.wrong[f.count%len(f.wrong)] = password
	f.count++
	f.until = now.Add(min(leastWait<<min(f.count-1, 10), mostWait))
	if a.failed == nil {
		a.failed = make(map[attempt]failure)
	}
	a.failed[who] = f
}

// forgetOldest makes room. That takes a look at all, for a failure that took
// a hash.
func (a *attempts) forgetOldest() {
	var oldest attempt
	var until time.Time
	for who, f := range a.failed {
		if oldest == (attempt{}) || f.until.Before(until) {
			oldest, until = who, f.until
		}
	}
	delete(a.failed, oldest)
}

// clear makes up for the failures of who has proved to be right.
func (a *attempts) clear(who attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f, ok := a.failed[who]; ok {
		f.count, f.until = 0, time.Time{}
		a.failed[who] = f
	}
}

// network returns what stands for whoever is at an address: the address
// without its port, of IPv6 the part that a site is given as a whole.
func network(address string) string {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return address // of a unix socket
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}
