package broker

import (
	"errors"
	"testing"
)

// A publisher is acknowledged when the handler has its message safe, not
// before, and told when it cannot be.
func TestHandleSafeWithholdsTheAcknowledgement(t *testing.T) {
	b, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	var done func(error)
	var from string
	if err := b.HandleSafe("plant/+/set", func(msg *Message, d func(error)) { from, done = msg.From, d }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []error{nil, ErrQuota} {
		var acked bool
		var got error
		msg := &Message{Topic: "plant/x/set", QoS: 1, From: "bridge:far"}
		if err := b.PublishFrom(t.Context(), msg, func(err error) { acked, got = true, err }); err != nil {
			t.Fatal(err)
		}
		if acked || from != "bridge:far" {
			t.Fatalf("acknowledged before it was safe; handled one from %q", from)
		}
		done(want)
		if !acked || !errors.Is(got, want) {
			t.Errorf("acknowledged: %v, with %v, want %v", acked, got, want)
		}
	}
	b.Publish(&Message{Topic: "plant/x/set"}) // nobody waits for this one
	done(nil)
}

func TestRetainedAreThoseOfClients(t *testing.T) {
	b, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	b.Publish(&Message{Topic: "plant/own/set", Payload: []byte("1"), Retain: true})
	for _, topic := range []string{"plant/a/set", "plant/b/other"} {
		if err := b.PublishFrom(t.Context(), &Message{Topic: topic, Payload: []byte("2"), Retain: true, From: "anonymous"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Retained("plant/+/set"); len(got) != 1 || got[0].Topic != "plant/a/set" || !got[0].Retain {
		t.Errorf("got %+v", got)
	}
}
