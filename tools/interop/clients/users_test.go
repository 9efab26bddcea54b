package clients

import (
	"errors"
	"path/filepath"
	"testing"
)

// TestUsers shows passwords, client certificates and rights to every library.
func TestUsers(t *testing.T) {
	t.Parallel()
	passwords := filepath.Join(t.TempDir(), "passwd")
	for _, user := range []string{"panel", "watcher", "forgetful"} {
		passwd(t, passwords, user, "secret of "+user)
	}
	g := newGateway(t, `
passwords = "`+passwords+`"
client_ca = "`+keys.path("ca.crt")+`"
client_certificates = "optional"
[broker.user.panel]
read  = ["open/#"]
write = ["open/#"]
[broker.user.watcher]
read  = ["#"]
`)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			for _, transport := range k.transports {
				t.Run("password/"+transport, func(t *testing.T) {
					o := options{URL: g.urls[transport], ID: k.name + transport, User: "panel", Password: "secret of panel"}
					passwordNeeded(t, k, o)
					rights(t, k, o)
				})
				if transport == "tls" || transport == "wss" {
					t.Run("certificate/"+transport, func(t *testing.T) {
						rights(t, k, options{URL: g.urls[transport], ID: k.name + transport, Certificate: true})
					})
				}
			}
		})
	}
}

// is returns the reason code of v5 or its counterpart before.
func (k kind) is(v5, v3 byte) byte {
	if k.v5 {
		return v5
	}
	return v3
}

// refuse fails unless the broker says no to a client, and why.
func (k kind) refuse(t *testing.T, o options, why byte) {
	t.Helper()
	c := k.new(t, new(inbox))
	_, err := c.connect(o)
	if reason, ok := errors.AsType[refused](err); !ok || byte(reason) != why {
		t.Errorf("%+v: %v, want reason %#x", o, err, why)
	}
	if err == nil {
		c.disconnect()
	}
}

func passwordNeeded(t *testing.T, k kind, o options) {
	wrong := o
	wrong.User, wrong.Password = "forgetful", "wrong"
	k.refuse(t, wrong, k.is(0x86, 4))
	wrong.User, wrong.Password = "", ""
	k.refuse(t, wrong, k.is(0x87, 5))
	o.Will = &message{Topic: "closed/will", Payload: []byte("no"), QoS: 1}
	k.refuse(t, o, k.is(0x87, 5))
}

// rights shows what panel may do, and what it is told otherwise.
func rights(t *testing.T, k kind, o options) {
	c, in := k.open(t, o)
	o.ID, o.User, o.Password, o.Certificate = "watcher "+o.ID, "watcher", "secret of watcher", false
	watcher, seen := k.open(t, o)
	subscribe(t, watcher, subscription{Filter: "+/" + o.ID, QoS: 2})
	subscribe(t, c, subscription{Filter: "+/" + o.ID, QoS: 2}) // broader than its right
	want := k.is(0x87, 0x80)
	if k.v31 {
		want = 0
	}
	if reason, err := c.subscribe(subscription{Filter: "closed/#", QoS: 1}); err != nil || reason != want {
		t.Errorf("subscribed to what is closed: reason %#x, %v", reason, err)
	}
	var allowed []message
	for qos := byte(1); qos <= 2; qos++ {
		no, yes := message{Topic: "closed/" + o.ID, Payload: []byte("no"), QoS: qos}, message{Topic: "open/" + o.ID, Payload: []byte("yes"), QoS: qos}
		reasons, err := c.publish(no, yes)
		if err != nil || len(reasons) != 2 || reasons[0] != k.is(0x87, 0) || reasons[1] != 0 {
			t.Errorf("QoS %d: reasons %#x, %v", qos, reasons, err)
		}
		allowed = append(allowed, yes)
	}
	same(t, seen.take(t, 2), allowed)
	same(t, in.take(t, 2), allowed)
}
