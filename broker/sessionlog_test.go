package broker

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
	"time"

	"edgegateway/broker/spool"
)

func emptySaved() *savedSessions {
	return &savedSessions{byNo: make(map[uint32]*savedSession), logID: "log", next: 1, same: true}
}

func TestSessionRecordsTellTheLastState(t *testing.T) {
	st := &sessionStore{boot: [16]byte{7}}
	s := &session{id: "p", no: 3, user: "ann", expiry: 60, willDelay: 5 * time.Second, will: &Message{Topic: "w", Payload: []byte("x"), From: "ann", QoS: 1}}
	o := &outbox{lastID: 9, backlog: &backlog{no: 3, pos: 40, lastOwed: 50, skip: map[spool.Seq]bool{45: true, 39: true}}}
	for _, x := range []struct {
		id    uint16
		state sentState
		seq   spool.Seq
	}{{8, sentPublish, 38}, {9, sentRelease, 0}, {7, sentRelease, 37}} {
		e := sent{id: x.id, state: x.state}
		e.seq = x.seq
		o.window.push(e)
	}
	saved := emptySaved()
	for _, body := range [][]byte{
		createdRecord(s),
		subscribedRecord(3, "a/#", options{qos: 2, noLocal: true, retainAsPublished: true, subID: 300}),
		subscribedRecord(3, "b", options{}),
		leftRecord(3, "b"),
		receivedRecord(3, 1, true), receivedRecord(3, 2, true), receivedRecord(3, 1, false),
		o.cursorRecordLocked(),
		sentRecord(3, 10, sentPublish, 41), sentRecord(3, 10, sentRelease, 41),
		sentRecord(3, 11, sentPublish, 42), sentRecord(3, 11, stateGone, 42),
		st.presenceRecord(s, true, 77),
		createdRecord(&session{id: "gone", no: 4}), sessionRecord(kindEnded, 4),
	} {
		if !saved.read(body) {
			t.Fatalf("refused: %x", body)
		}
	}
	got := saved.byNo[3]
	if len(saved.byNo) != 1 || saved.next != 5 || got.id != "p" || got.user != "ann" || got.expiry != 60 {
		t.Errorf("got %+v", got)
	}
	if want := map[string]options{"a/#": {qos: 2, noLocal: true, retainAsPublished: true, subID: 300}}; !reflect.DeepEqual(got.subs, want) {
		t.Errorf("subscriptions %+v", got.subs)
	}
	if !reflect.DeepEqual(got.received, sentSet{2: true}) || got.pos != 40 || got.lastID != 11 {
		t.Errorf("got %+v", got)
	}
	var window []uint16
	for _, w := range got.window {
		window = append(window, w.id)
	}
	if want := []uint16{8, 7, 10}; !slices.Equal(window, want) || got.window[2].state != sentRelease {
		t.Errorf("window %+v", got.window)
	}
	if want := map[spool.Seq]bool{45: true, 41: true, 42: true}; !reflect.DeepEqual(got.done, want) {
		t.Errorf("done %v", got.done)
	}
	if !got.present || got.boot != st.boot || got.since != 77 || got.willDelay != s.willDelay || got.will.Topic != "w" {
		t.Errorf("presence %+v", got)
	}
}

func TestPositionsOfAnotherLogDoNotCount(t *testing.T) {
	saved := emptySaved()
	saved.read(createdRecord(&session{id: "p", no: 1}))
	saved.read(append(sessionRecord(kindNumbers, 9), "\x05other"...))
	o := &outbox{backlog: &backlog{no: 1, pos: 40}}
	saved.read(o.cursorRecordLocked())
	saved.read(sentRecord(1, 10, sentPublish, 41))
	if s := saved.byNo[1]; s.pos != 0 || len(s.window) != 0 || saved.next != 9 {
		t.Errorf("got %+v, next %d", s, saved.next)
	}
}

// Whatever is read, what is made of it reads as the same.
func FuzzSessionRecords(f *testing.F) {
	s := &session{id: "p", no: 1, user: "u", expiry: 1}
	o := &outbox{backlog: &backlog{no: 1, pos: 4}}
	for _, body := range [][]byte{createdRecord(s), subscribedRecord(1, "a", options{qos: 1}), o.cursorRecordLocked(), sentRecord(1, 2, sentRelease, 3),
		receivedRecord(1, 2, true), (&sessionStore{}).presenceRecord(s, true, 5)} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		saved := emptySaved()
		saved.read(createdRecord(s))
		saved.read(body)
		for _, x := range saved.byNo {
			again := emptySaved()
			again.read(createdRecord(&session{id: x.id, no: x.no, user: x.user, expiry: x.expiry}))
			for filter, o := range x.subs {
				again.read(subscribedRecord(x.no, filter, o))
			}
			if y := again.byNo[x.no]; y.id != x.id || y.user != x.user || y.expiry != x.expiry || !reflect.DeepEqual(y.subs, x.subs) {
				t.Errorf("%+v became %+v", x, y)
			}
		}
	})
}

func FuzzTargets(f *testing.F) {
	f.Add(appendTargets(nil, []sessionTarget{{no: 3, qos: 1}, {no: 1, qos: 2, retain: true, subIDs: []uint32{1, 300}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, ok := parseTargets(data)
		if !ok {
			return
		}
		var targets []sessionTarget
		rest := l.rest
		for i := range l.len() {
			ids, message, ok := l.subIDs(i)
			if !ok {
				return
			}
			flags := l.flags(i)
			targets = append(targets, sessionTarget{l.no(i), flags & 3, flags&targetRetain != 0, ids})
			rest = message
		}
		again := append(appendTargets(nil, slices.Clone(targets)), rest...)
		l2, ok := parseTargets(again)
		if !ok || l2.len() != l.len() {
			t.Fatalf("%x became %x", data, again)
		}
		for _, want := range targets {
			if i := l2.find(want.no); i < 0 {
				t.Errorf("session %d is not found in %x", want.no, again)
			}
		}
		if l2.len() > 0 {
			if _, message, ok := l2.subIDs(0); !ok || !bytes.Equal(message, rest) {
				t.Errorf("the message became %x", message)
			}
		}
	})
}
