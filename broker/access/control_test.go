package access

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/packet"
)

func login(user, password string) broker.Login {
	return broker.Login{User: user, HasUser: true, Password: []byte(password), ClientID: "c", Address: "192.0.2.7:5000"}
}

// try returns the user, or the reason of the refusal.
func try(t *testing.T, c *Control, l broker.Login) string {
	t.Helper()
	user, err := c.Authenticate(t.Context(), l)
	if err == nil {
		return "as " + user
	}
	var e *packet.Error
	if !errors.As(err, &e) || user != "" {
		t.Errorf("%q, %v: no packet.Error", user, err)
		return err.Error()
	}
	return e.Reason.String()
}

func expectTry(t *testing.T, c *Control, l broker.Login, want string) {
	t.Helper()
	if got := try(t, c, l); got != want {
		t.Errorf("user %q, client %q: %s, not %s", l.User, l.ClientID, got, want)
	}
}

const (
	badPassword   = "bad user name or password"
	notAuthorized = "not authorized"
	badID         = "client identifier not valid"
)

func TestLogin(t *testing.T) {
	nobody := broker.Login{ClientID: "c", Address: "192.0.2.7:5000"}
	c := New(Policy{Passwords: passwordsOf("panel", "right", "bob", "hops")})
	expectTry(t, c, login("panel", "right"), "as panel")
	expectTry(t, c, login("panel", "right"), "as panel") // by the MAC
	expectTry(t, c, login("panel", "hops"), badPassword)
	expectTry(t, c, login("bob", "right"), badPassword)
	expectTry(t, c, login("stranger", "right"), badPassword)
	expectTry(t, c, login("", ""), badPassword)
	expectTry(t, c, nobody, notAuthorized)

	expectTry(t, New(Policy{Passwords: passwordsOf("a", "b"), Anonymous: true}), nobody, "as ")
	expectTry(t, New(Policy{Passwords: passwordsOf("a", "b"), Anonymous: true}), login("a", "c"), badPassword)
	expectTry(t, New(Policy{Passwords: passwordsOf()}), login("a", ""), badPassword)
	expectTry(t, New(Policy{Anonymous: true}), login("admin", ""), "as ") // proves nothing, gives nothing
	expectTry(t, New(Policy{}), login("admin", ""), notAuthorized)
}

func TestCertificateNamesTheUser(t *testing.T) {
	l := login("someone", "wrong")
	l.Certificate = &x509.Certificate{Subject: pkix.Name{CommonName: "panel", Organization: []string{"Site"}}}
	expectTry(t, New(Policy{Passwords: passwordsOf("panel", "x")}), l, "as panel")
	expectTry(t, New(Policy{Subject: true}), l, "as CN=panel,O=Site")
	for _, name := range []string{"", Anonymous, Everybody, "bridge:cloud", "a\nb"} {
		l.Certificate = &x509.Certificate{Subject: pkix.Name{CommonName: name}}
		expectTry(t, New(Policy{Anonymous: true}), l, notAuthorized)
	}
}

func TestClientIDsBelongToUsers(t *testing.T) {
	c := New(Policy{Passwords: passwordsOf("panel", "x", "bob", "x", "eve*", "x"), Anonymous: true, ClientIDs: map[string][]string{
		"panel": {"panel-*", "wall"}, Everybody: {"%u", "%u:*", "open-*"},
	}})
	tests := []struct{ user, id, want string }{
		{"panel", "panel-7", "as panel"}, {"panel", "wall", "as panel"}, {"panel", "wall2", badID}, {"panel", "open-1", badID},
		{"bob", "panel-7", badID}, {"bob", "wall", badID}, {"bob", "bob", "as bob"}, {"bob", "bob:1", "as bob"}, {"bob", "bobby", badID},
		{"eve*", "evening", badID}, {"eve*", "eve*", "as eve*"}, {"", "panel-7", badID}, {"", "open-1", "as "}, {"", "", badID}, {"", ":x", badID},
	}
	for _, test := range tests {
		l := login(test.user, "x")
		l.HasUser, l.ClientID = test.user != "", test.id
		expectTry(t, c, l, test.want)
	}
}

func TestGlob(t *testing.T) {
	tests := []struct {
		pattern, s string
		want       bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"*", "", true}, {"*", "x/y", true}, {"a*", "a", true}, {"a*a", "a", false}, {"a*a", "aa", true},
		{"a*b*c", "aXbYc", true}, {"a*b*c", "aXcYb", false}, {"*b*", "abc", true}, {"*b*", "ac", false}, {"a**b", "ab", true},
	}
	for _, test := range tests {
		if got := glob(test.pattern, "", test.s); got != test.want {
			t.Errorf("%q is %q: %v", test.pattern, test.s, got)
		}
	}
}

func TestBackOffGrowsForOneUserAtOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Policy{Passwords: passwordsOf("panel", "right", "bob", "hops")})
		expectTry(t, c, login("panel", "right"), "as panel")
		elsewhere := login("panel", "right")
		elsewhere.Address = "192.0.2.8:5000"
		otherPort := login("panel", "right")
		otherPort.Address = "192.0.2.7:6000"
		for i, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			expectTry(t, c, login("panel", fmt.Sprint("wrong", i)), badPassword)
			time.Sleep(wait*time.Second - time.Millisecond)
			expectTry(t, c, login("panel", "right"), badPassword)
			expectTry(t, c, otherPort, badPassword)
			expectTry(t, c, elsewhere, "as panel")
			expectTry(t, c, login("bob", "hops"), "as bob")
			time.Sleep(time.Millisecond)
		}
		expectTry(t, c, login("panel", "right"), "as panel")
		expectTry(t, c, login("panel", "wrong"), badPassword)
		time.Sleep(time.Second)
		expectTry(t, c, login("panel", "right"), "as panel") // forgiven
		expectTry(t, c, login("panel", "wrong1"), badPassword)
		time.Sleep(2 * time.Second)
		expectTry(t, c, login("panel", "wrong2"), badPassword)
		time.Sleep(forgetAfter + 3*time.Second)
		expectTry(t, c, login("panel", "wrong3"), badPassword)
		time.Sleep(time.Second)
		expectTry(t, c, login("panel", "right"), "as panel") // forgotten
	})
}

// A client with a password that was changed tries it again and again. Those
// beside it, who know the new one, must get in.
func TestAnOldPasswordLocksNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Policy{Passwords: passwordsOf("panel", "new")})
		expectTry(t, c, login("panel", "old"), badPassword)
		time.Sleep(time.Second)
		for range 100 {
			expectTry(t, c, login("panel", "old"), badPassword)
			expectTry(t, c, login("panel", "new"), "as panel")
		}
		c.Set(Policy{Passwords: passwordsOf("panel", "old")})
		expectTry(t, c, login("panel", "old"), "as panel") // wrong then, right now
	})
}

// Guesses that come at once cost no more hashes than those that come one by
// one: all but the two under way find that they have to wait.
func TestGuessesAtOnceGainNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Policy{Passwords: passwordsOf("panel", "right")})
		c.hashing <- struct{}{} // somebody's
		results := make(chan error)
		for i := range 50 {
			go func() {
				_, err := c.Authenticate(t.Context(), login("panel", fmt.Sprint(i)))
				results <- err
			}()
		}
		told := 0
		for range 50 {
			if err := <-results; strings.Contains(err.Error(), "it may try again in") {
				told++
			}
		}
		if told != 49 {
			t.Errorf("%d of 50 guesses were refused without a hash", told)
		}
	})
}

func TestBusyHashingIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Policy{Passwords: passwordsOf("panel", "right")})
		expectTry(t, c, login("panel", "right"), "as panel")
		for range cap(c.hashing) {
			c.hashing <- struct{}{}
		}
		expectTry(t, c, login("panel", "right"), "as panel") // known: needs no hash
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Authenticate(ctx, login("panel", "wrong"))
		if e, ok := errors.AsType[*packet.Error](err); !ok || e.Reason != packet.ServerBusy {
			t.Error(err)
		}
	})
}

func TestAttemptsAreBounded(t *testing.T) {
	var a attempts
	for i := range maxAttempts + 100 {
		a.note(attempt{fmt.Sprint(i), "x"}, mac{})
	}
	if len(a.failed) != maxAttempts {
		t.Errorf("%d remembered", len(a.failed))
	}
	if a.wait(attempt{fmt.Sprint(maxAttempts + 99), "x"}) == 0 || a.wait(attempt{"0", "x"}) != 0 {
		t.Error("the newest were forgotten, not the oldest")
	}
}

func TestNetwork(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:5000": "192.0.2.7", "[2001:db8:1:2:3:4:5:6]:5000": "2001:db8:1:2::/64", "[::ffff:192.0.2.7]:1": "192.0.2.7", "@": "@", "": "", "[fe80::1%eth0]:1": "fe80::/64",
	} {
		if got := network(address); got != want {
			t.Errorf("%q is of %q", address, got)
		}
	}
}

// What a wrong password costs must not tell whether there is such a user.
func TestUnknownUsersCostWhatKnownOnesDo(t *testing.T) {
	s := newState(Policy{Passwords: passwordsOf("a", "x", "b", "y")})
	h, exists := s.hashOf("stranger")
	again, _ := s.hashOf("stranger")
	if exists || h.String() != again.String() || h.iterations != 2 {
		t.Errorf("%v %v", exists, h)
	}
	if h, exists := newState(Policy{Passwords: passwordsOf()}).hashOf("stranger"); exists || h.iterations != Iterations || h.verify(nil) {
		t.Errorf("%v %v", exists, h)
	}
	c := New(Policy{Passwords: passwordsOf("a", "x")})
	expectTry(t, c, login("stranger", "x"), badPassword) // a's password, by the hash it is compared with
}

func TestReloadKeepsWhoHasNotChanged(t *testing.T) {
	before := Policy{Passwords: passwordsOf("same", "x", "changed", "x", "gone", "x", "bound", "x"), Anonymous: true}
	after := Policy{Passwords: passwordsOf("same", "x", "changed", "y", "new", "x", "bound", "x"), ClientIDs: map[string][]string{"bound": {"b-*"}}}
	c := New(before)
	expectTry(t, c, login("changed", "x"), "as changed")
	keep := c.Set(after)
	for user, want := range map[string]bool{"same": true, "changed": false, "gone": false, "by-certificate": true, "": false, "bound": false} {
		if got := keep(user, "c"); got != want {
			t.Errorf("%q stays: %v", user, got)
		}
	}
	if keep("same", "b-1") || !keep("bound", "b-1") {
		t.Error("client ids are not looked at")
	}
	expectTry(t, c, login("changed", "x"), badPassword) // the MAC is forgotten
	after.Subject = true
	if keep := c.Set(after); keep("by-certificate", "c") || !keep("same", "c") {
		t.Error("another name for certificates")
	}
}
