package broker

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

// P26 and its like: more retained messages than a queue holds all arrive.
func TestAllRetainedMessagesArrive(t *testing.T) {
	for _, q := range []byte{0, 1} {
		inBubble(t, Config{Limits: Limits{Queue: 10}}, func(t *testing.T, b *Broker) {
			const n = 500
			for i := range n {
				b.Publish(&Message{Topic: fmt.Sprint("t/", i), QoS: q, Retain: true, Payload: []byte("x")})
			}
			p := join(t, b, packet.V311, "p")
			p.subscribe(qos(1, "t/+"), qos(1, "none"))
			seen := make(map[string]bool)
			for range n {
				m := p.message("x")
				if !m.Retain || m.QoS != q {
					t.Fatalf("got %+v", m)
				}
				seen[m.Topic] = true
			}
			if len(seen) != n {
				t.Errorf("%d topics", len(seen))
			}
		})
	}
}

func TestEmptyPayloadClearsWhatIsRetained(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V311, "p")
		for _, payload := range []string{"1", "2", ""} {
			p.send(&packet.Publish{Topic: "t", Retain: true, Payload: []byte(payload)})
		}
		if p.ask(); b.Stats().Retained != 0 {
			t.Error("still there")
		}
	})
}

func TestRetainedMessagesOfClientsAreBounded(t *testing.T) {
	inBubble(t, Config{Limits: Limits{Retained: 2, RetainedBytes: 10_000}}, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p")
		retain := func(topic string, size int, expiry ...packet.Property) packet.Reason {
			p.send(&packet.Publish{Topic: topic, QoS: 1, ID: 1, Retain: true, Payload: make([]byte, size), Props: expiry})
			return p.puback(1)
		}
		got := []packet.Reason{
			retain("a", 1), retain("b", 1, packet.Property{ID: packet.MessageExpiry, Num: 10}),
			retain("c", 1), retain("a", 20_000), retain("a", 2),
		}
		time.Sleep(11 * time.Second)
		got = append(got, retain("c", 1)) // b has expired
		want := []packet.Reason{0, 0, packet.QuotaExceeded, packet.QuotaExceeded, 0, 0}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %v", got)
		}
		for i := range 5 {
			b.Publish(&Message{Topic: fmt.Sprint("own/", i), Retain: true, Payload: []byte("x")})
		}
		if n := b.Stats().Retained; n != 7 {
			t.Errorf("%d retained", n)
		}
	})
}

// retainedIn returns what a broker started in dir has retained.
func retainedIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	b, err := New(Config{StateDir: dir, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for topic, m := range b.retained.byTopic {
		got[topic] = string(m.Payload)
	}
	return got
}

func publishRetained(t *testing.T, b *Broker, pairs ...string) {
	t.Helper()
	p := join(t, b, packet.V5, "p")
	for i := 0; i < len(pairs); i += 2 {
		p.send(&packet.Publish{Topic: pairs[i], QoS: 1, ID: 1, Retain: true, Payload: []byte(pairs[i+1])})
		if reason := p.puback(1); reason != packet.Success {
			t.Fatal(reason)
		}
	}
	p.send(&packet.Disconnect{})
	p.gone()
}

func TestRetainedMessagesOfClientsSurvive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state") // made when needed
	inBubble(t, Config{StateDir: dir}, func(t *testing.T, b *Broker) {
		b.Publish(&Message{Topic: "own", Retain: true, Payload: []byte("x")})
		synctest.Wait()
		if _, err := os.Stat(dir); err == nil {
			t.Error("the gateway's own reached the disk")
		}
		publishRetained(t, b, "a", "1", "a", "2", "b", "1", "c", "1", "b", "", "taken", "1", "own", "by a client")
		b.Publish(&Message{Topic: "taken", Retain: true, Payload: []byte("by the gateway")})
		b.Publish(&Message{Topic: "own", Retain: true})
		// Acknowledged is written: this is what kill -9 would leave.
		want := map[string]string{"a": "2", "c": "1"}
		synctest.Wait()
		if got := retainedIn(t, dir); !reflect.DeepEqual(got, want) {
			t.Errorf("got %v", got)
		}
	})
	inBubble(t, Config{StateDir: dir}, func(t *testing.T, b *Broker) {
		publishRetained(t, b, "d", "1", "c", "")
	})
	if got := retainedIn(t, dir); !reflect.DeepEqual(got, map[string]string{"a": "2", "d": "1"}) {
		t.Errorf("after two runs: %v", got)
	}
}

func TestRetainedLogSurvivesDamage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, retainedFile)
	inBubble(t, Config{StateDir: dir}, func(t *testing.T, b *Broker) {
		publishRetained(t, b, "a", "first", "b", "second", "c", "third")
	})
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(sound) {
		if err := os.WriteFile(path, sound[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		for topic, payload := range retainedIn(t, dir) {
			if want := map[string]string{"a": "first", "b": "second", "c": "third"}[topic]; payload != want {
				t.Fatalf("cut to %d bytes: %q is %q", cut, topic, payload)
			}
		}
	}
	damaged := bytes.Replace(sound, []byte("second"), []byte("secund"), 1)
	os.WriteFile(path, damaged, 0o600)
	if got := retainedIn(t, dir); !reflect.DeepEqual(got, map[string]string{"a": "first", "c": "third"}) {
		t.Errorf("damaged in the middle: %v", got)
	}
	inBubble(t, Config{StateDir: dir}, func(t *testing.T, b *Broker) { publishRetained(t, b, "d", "fourth") })
	if data, _ := os.ReadFile(path); bytes.Contains(data, []byte("secund")) {
		t.Error("the damaged record is still in the file")
	}
	if got := retainedIn(t, dir); len(got) != 3 || got["d"] != "fourth" {
		t.Errorf("written anew: %v", got)
	}
}

func TestRetainedLogOfANewerVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, retainedFile), []byte(retainedMagic+"\x02\x00\x00\x00rest"), 0o600)
	if _, err := New(Config{StateDir: dir}); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("got %v", err)
	}
}

func TestRetainedLogIsWrittenAnewWhenItHasGrown(t *testing.T) {
	dir := t.TempDir()
	payload := strings.Repeat("x", 100_000)
	inBubble(t, Config{StateDir: dir}, func(t *testing.T, b *Broker) {
		for range 30 {
			publishRetained(t, b, "a", payload)
		}
	})
	if fi, err := os.Stat(filepath.Join(dir, retainedFile)); err != nil || fi.Size() > 15*100_000 {
		t.Errorf("%v, %v", fi.Size(), err)
	}
	if got := retainedIn(t, dir); got["a"] != payload {
		t.Errorf("%d topics", len(got))
	}
}

func TestRetainedMessageThatCannotBeKeptIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	os.WriteFile(dir, nil, 0o600) // no folder: nothing can be written there
	cfg := Config{StateDir: dir, Log: nil}
	inBubble(t, cfg, func(t *testing.T, b *Broker) {
		p := join(t, b, packet.V5, "p")
		p.send(&packet.Publish{Topic: "t", QoS: 1, ID: 1, Retain: true, Payload: []byte("x")})
		if reason := p.puback(1); reason != packet.Unspecified {
			t.Error(reason)
		}
		if reason := p.publish(2, "t", "live"); reason != packet.Success {
			t.Error(reason)
		}
		os.Remove(dir)
		time.Sleep(stateSync + time.Second)
		p.send(&packet.Publish{Topic: "u", QoS: 1, ID: 3, Retain: true, Payload: []byte("y")})
		if reason := p.puback(3); reason != packet.Success {
			t.Error(reason)
		}
	})
	if got := retainedIn(t, dir); len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestExpiryGoesOnWithinABootAndStartsAgainInAnother(t *testing.T) {
	m := &Message{Topic: "t", From: "u", Payload: []byte("x"), Stamp: 1000}
	body := appendRetained(nil, m, [16]byte{1})
	for boot, want := range map[[16]byte]int64{{1}: 1000, {2}: 5000} {
		r := retainedReader{boot: boot, now: 5000, last: make(map[string]int)}
		if !r.add(body) || r.msgs[0].Stamp != want {
			t.Errorf("boot %v: %+v", boot, r.msgs[0])
		}
	}
}

func FuzzDecodeRetained(f *testing.F) {
	head := []byte(retainedMagic + "\x01\x00\x00\x00")
	f.Add(appendState(head, appendRetained(nil, fullMessage(), [16]byte{1})))
	read := func(data []byte) (msgs []*Message, damaged int) {
		r := retainedReader{boot: [16]byte{1}, now: 1, last: make(map[string]int)}
		damaged = readState(data, retainedMagic, r.add)
		return r.msgs, damaged
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		msgs, _ := read(data)
		again := head
		for _, m := range msgs {
			again = appendState(again, appendRetained(nil, m, [16]byte{1}))
		}
		if got, damaged := read(again); damaged != 0 || len(got) != len(msgs) {
			t.Errorf("%d messages became %d, %d damaged", len(msgs), len(got), damaged)
		}
	})
}
