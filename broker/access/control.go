// Package access says who may use the embedded broker, and for what: users
// with passwords or client certificates, client ids bound to users, and rights
// to topics. It reads the password and ACL files of mosquitto.
//
// # Decisions
//
// Passwords are hashed with what the standard library has and mosquitto reads,
// PBKDF2-HMAC-SHA512. Hashing is what a login costs, so it is bounded: two at
// once, none while a user has to wait at an address after wrong passwords, and
// none for a password that was right or wrong the last time, of which only a MAC
// with a key of this process is kept, until the next reload. An unknown user
// costs what a known one does.
//
// What is denied is denied, by whatever rule; what is not given is denied where
// there are rules at all. A rule covers topics that begin with $ only if its
// filter does. A subscription is refused if it selects nothing that may be
// read, and taken if it selects anything: the broker asks for each message then,
// unless the subscription is covered as a whole. These are decisions about sets
// of topics, exact for all filters (see filter.go).
package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/packet"
)

// A Policy is who may come in and what they may do. It is not changed once
// given to a Control.
type Policy struct {
	Passwords *Passwords // nil: a name proves nothing, and who gives one is anonymous
	Anonymous bool       // who gives no name may come in
	Rules     Rules      // nil: everybody may do everything
	// ClientIDs are the client ids of users, in which * stands for anything
	// and %u for the user: they may use no others, and nobody else may use
	// them. Those of Everybody are for users that have none of their own.
	ClientIDs map[string][]string
	// Subject makes the whole subject of a client certificate the user
	// (RFC 2253: "CN=panel,O=Site"), not its common name.
	Subject bool
}

// A Control decides by a Policy. Its methods may be called at any time, from
// any goroutine.
type Control struct {
	current  atomic.Pointer[state]
	attempts attempts
	hashing  chan struct{} // one token for each hash under way
}

// A state is a policy with what was learned under it.
type state struct {
	Policy
	byClient bool // rights depend on client ids
	key      [32]byte

	mu    sync.RWMutex
	seats map[who]*seat
	good  map[string]mac // MACs of passwords that were right
}

type who struct{ user, clientID string }

// maxSeats bounds the rights that are remembered.
const maxSeats = 4096

// New returns a Control by p.
func New(p Policy) *Control {
	c := &Control{hashing: make(chan struct{}, 2)}
	c.current.Store(newState(p))
	return c
}

func newState(p Policy) *state {
	s := &state{Policy: p, byClient: p.Rules.byClient(), seats: make(map[who]*seat), good: make(map[string]mac)}
	rand.Read(s.key[:]) // never fails
	return s
}

// Set decides by p from now on. It returns who may stay of those that are
// connected, for broker.Review: not those whose user or password is gone or
// changed, nor those that may not come in any more.
func (c *Control) Set(p Policy) (keep func(user, clientID string) bool) {
	now := newState(p)
	old := c.current.Swap(now)
	return func(user, clientID string) bool { return now.keeps(old, user, clientID) }
}

func (s *state) keeps(old *state, user, clientID string) bool {
	if s.checkID(user, clientID) != nil {
		return false
	}
	switch {
	case user == "":
		return s.Anonymous
	case old.Passwords.Has(user):
		return s.Passwords.Has(user) && old.Passwords.users[user].String() == s.Passwords.users[user].String()
	}
	return s.Subject == old.Subject // it came with a certificate
}

// Allow is for broker.Config. Bridges are not asked here what they may do.
func (c *Control) Allow(user, clientID, topic string, access broker.Access) bool {
	s := c.current.Load()
	if s.Rules == nil || strings.HasPrefix(user, "bridge:") {
		return true
	}
	return s.seat(user, clientID).allows(topic, access)
}

// AllowAll is for broker.Config.
func (c *Control) AllowAll(user, clientID, filter string) bool {
	s := c.current.Load()
	return s.Rules == nil || s.seat(user, clientID).allowsAll(filter)
}

func (s *state) seat(user, clientID string) *seat {
	if !s.byClient {
		clientID = ""
	}
	key := who{user, clientID}
	s.mu.RLock()
	seat := s.seats[key]
	s.mu.RUnlock()
	if seat != nil {
		return seat
	}
	seat = s.Rules.seat(user, clientID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seats) >= maxSeats {
		clear(s.seats)
	}
	s.seats[who{strings.Clone(user), strings.Clone(clientID)}] = seat
	return seat
}

// Authenticate is for broker.Config.
func (c *Control) Authenticate(ctx context.Context, l broker.Login) (user string, err error) {
	s := c.current.Load()
	switch {
	case l.Certificate != nil:
		user, err = s.certified(l.Certificate)
	case l.HasUser && s.Passwords != nil:
		user, err = l.User, c.check(ctx, s, l)
	case !s.Anonymous:
		err = refuse(packet.NotAuthorized, "it gives no user name, and anonymous clients are not let in")
	}
	if err == nil {
		err = s.checkID(user, l.ClientID)
	}
	if err != nil {
		return "", err
	}
	return user, nil
}

func refuse(reason packet.Reason, format string, args ...any) error {
	return &packet.Error{Reason: reason, What: fmt.Sprintf(format, args...)}
}

// certified returns the user that a verified client certificate is for.
func (s *state) certified(cert *x509.Certificate) (string, error) {
	user, part := cert.Subject.CommonName, "common name"
	if s.Subject {
		user, part = cert.Subject.String(), "subject"
	}
	if wrong := WrongName(user); wrong != "" {
		return "", refuse(packet.NotAuthorized, "the %s %q of its certificate is no user name: it %s", part, user, wrong)
	}
	return user, nil
}

// check returns nil if l's password proves its user.
func (c *Control) check(ctx context.Context, s *state, l broker.Login) error {
	from := attempt{l.User, network(l.Address)}
	if done, err := c.known(s, l, from); done {
		return err
	}
	select {
	case c.hashing <- struct{}{}:
	case <-ctx.Done():
		return refuse(packet.ServerBusy, "too many others are logging in")
	}
	defer func() { <-c.hashing }()
	// Others may have tried the same in the meantime.
	if done, err := c.known(s, l, from); done {
		return err
	}
	h, exists := s.hashOf(l.User)
	if !h.verify(l.Password) || !exists {
		c.attempts.note(from, s.mac(l))
		if !exists {
			return refuse(packet.BadUserOrPassword, "there is no user %q", l.User)
		}
		return refuse(packet.BadUserOrPassword, "wrong password for user %q", l.User)
	}
	c.attempts.clear(from)
	s.remember(l)
	return nil
}

// known decides about l without a hash, if it can.
func (c *Control) known(s *state, l broker.Login, from attempt) (decided bool, err error) {
	password := s.mac(l)
	if c.attempts.repeats(from, password) {
		return true, refuse(packet.BadUserOrPassword, "the same wrong password for user %q as before", l.User)
	}
	if wait := c.attempts.wait(from); wait > 0 {
		return true, refuse(packet.BadUserOrPassword, "wrong passwords for user %q from this address before; it may try again in %s", l.User, (wait + time.Second - 1).Truncate(time.Second))
	}
	s.mu.RLock()
	good, ok := s.good[l.User]
	s.mu.RUnlock()
	if !ok || !hmac.Equal(good[:], password[:]) {
		return false, nil
	}
	c.attempts.clear(from)
	return true, nil
}

func (s *state) remember(l broker.Login) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.good[strings.Clone(l.User)] = s.mac(l)
}

// mac stands for what l proves itself with, until the next reload.
func (s *state) mac(l broker.Login) (sum mac) {
	h := hmac.New(sha256.New, s.key[:])
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(l.User))))
	h.Write([]byte(l.User))
	h.Write(l.Password)
	h.Sum(sum[:0])
	return sum
}

// hashOf returns the hash of user. For an unknown one it is that of a known
// user, always the same, so that checking it takes as long.
func (s *state) hashOf(user string) (h hash, exists bool) {
	if h, ok := s.Passwords.users[user]; ok {
		return h, true
	}
	names := s.Passwords.names
	if len(names) == 0 {
		return hash{iterations: Iterations, salt: make([]byte, saltSize)}, false
	}
	sum := s.mac(broker.Login{User: user})
	return s.Passwords.users[names[binary.BigEndian.Uint64(sum[:])%uint64(len(names))]], false
}

// checkID returns nil if user may use a client id.
func (s *state) checkID(user, id string) error {
	own := user
	if user == "" {
		own = Anonymous
	}
	ids, bound := s.ClientIDs[own]
	if !bound {
		ids, bound = s.ClientIDs[Everybody]
		for other, theirs := range s.ClientIDs {
			if other != Everybody && matchesAny(theirs, other, id) {
				return refuse(packet.ClientIDNotValid, "the client id %q belongs to user %q, not to %q", id, other, own)
			}
		}
	}
	if bound && !matchesAny(ids, user, id) {
		return refuse(packet.ClientIDNotValid, "user %q may not use the client id %q, only %q", own, id, ids)
	}
	return nil
}

func matchesAny(patterns []string, user, id string) bool {
	for _, p := range patterns {
		if strings.Contains(p, userMark) && user == "" {
			continue
		}
		if glob(p, user, id) {
			return true
		}
	}
	return false
}

// glob says whether pattern is s, in which * stands for anything and %u for
// user.
func glob(pattern, user, s string) bool {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = strings.ReplaceAll(parts[i], userMark, user)
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return s == first
	}
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}
