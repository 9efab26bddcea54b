package broker

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"edgegateway/broker/spool"
)

func ptr[T any](v T) *T { return &v }

func fullMessage() *Message {
	return &Message{
		Topic: "plant/meter/ä", Payload: []byte(`{"t":"2026-11-20T23:06:00.123Z"}`), QoS: 1, Retain: true, Class: Critical,
		Props: &Properties{PayloadUTF8: true, Expiry: ptr(uint32(0)), ContentType: "text/plain", ResponseTopic: "re/ply",
			Correlation: []byte{}, User: []UserProperty{{"a", "1"}, {"a", ""}}},
		Stamp: 12345, Slots: []Slot{{SlotTime, 6, 24}, {SlotClock, 31, 0}}, From: "bridge:aws",
	}
}

func TestRecordHoldsTheWholeMessage(t *testing.T) {
	newer := fullMessage()
	newer.Slots[1].Kind = SlotClockField
	if data := appendMessage(nil, newer); data[0] != 2 {
		t.Errorf("a message with a slot of version 2 has version %d", data[0])
	}
	for _, m := range []*Message{fullMessage(), newer, {Topic: "t", Payload: []byte{}}, {Topic: "t", Payload: []byte{}, Props: &Properties{}}} {
		rec := spool.Record{Stamp: m.Stamp, Data: appendMessage(nil, m)}
		var got Message
		if err := DecodeRecord(&rec, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got, m) {
			t.Errorf("got %+v\nwant %+v", got, m)
		}
	}
}

func TestRecordOfANewerVersionIsRefused(t *testing.T) {
	data := appendMessage(nil, fullMessage())
	if data[0] != 1 {
		t.Errorf("a message without slots of version 2 has version %d", data[0])
	}
	data[0] = recordVersion + 1
	if err := DecodeRecord(&spool.Record{Data: data}, new(Message)); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("got %v", err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(appendMessage(nil, fullMessage()))
	f.Add(appendMessage(nil, &Message{Topic: "t", From: "u", Payload: []byte("x")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m, again Message
		if decodeMessage(data, &m) != nil {
			return
		}
		m.Rebase(Clock{Offset: 1e18})
		if err := decodeMessage(appendMessage(nil, &m), &again); err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}

func TestRebaseRewritesSlotsInACopy(t *testing.T) {
	const stamp = int64(5e9)
	exact := Clock{Offset: 1_795_215_960_123_000_000 - stamp, Quality: Exact}
	payload := []byte(`{"time":"1970-01-01T00:00:05.000Z","ns":5000000000,"ms":5000,"s":5.000,"clock":"unsynced"}`)
	slots := []Slot{{SlotTime, 9, 24}, {SlotUnixNano, 40, 10}, {SlotUnixMilli, 56, 4}, {SlotUnixSec, 65, 5}, {SlotClock, 70, 19}}
	m := Message{Payload: payload, Slots: slots, Stamp: stamp}
	shared := m
	m.Rebase(exact)
	want := `{"time":"2026-11-20T23:06:00.123Z","ns":1795215960123000000,"ms":1795215960123,"s":1795215960.123}`
	if string(m.Payload) != want {
		t.Errorf("got  %s\nwant %s", m.Payload, want)
	}
	for _, c := range []struct {
		clock Clock
		want  string
	}{
		{Clock{Offset: exact.Offset, Quality: Interpolated, Early: 58e6, Late: 57_000_001}, `,"clock":"interpolated","clock_error":58}`},
		{Clock{Offset: exact.Offset, Quality: Bounded, Early: time.Minute, Late: time.Hour + 1}, `,"clock":"bounded","clock_error":3600001,"clock_from":"2026-11-20T23:05:00.123Z","clock_to":"2026-11-21T00:06:00.124Z"}`},
	} {
		if m.Rebase(c.clock); string(m.Payload) != want[:len(want)-1]+c.want {
			t.Errorf("got  %s\nwant %s", m.Payload, want[:len(want)-1]+c.want)
		}
		var note struct{ ClockNote }
		text, _ := json.Marshal(c.clock.Note(stamp))
		if again := "{" + c.want[1:]; string(text) != again || json.Unmarshal(m.Payload, &note) != nil || note.Clock == "" {
			t.Errorf("note %s, want %s", text, again)
		}
	}
	m.Rebase(Clock{})
	if !bytes.Equal(m.Payload, payload) || !reflect.DeepEqual(m.Slots, slots) {
		t.Errorf("back again: %s %+v", m.Payload, m.Slots)
	}
	if &shared.Payload[0] != &payload[0] || shared.Slots[1].Len != 10 {
		t.Error("the shared message changed")
	}
}

// Slots of lines and packs, and the place for the id, which only a bridge fills
// and which keeps its content when the times are written again.
func TestSlotsOfOtherFormats(t *testing.T) {
	m := Message{
		Payload: []byte(`a=1,clock="unsynced" 5|{"n":1}|`), Stamp: 5,
		Slots: []Slot{{SlotClockField, 3, 17}, {SlotUnixNano, 21, 1}, {SlotBaseTime, 29, 0}, {SlotID, 31, 0}},
	}
	if !validSlots(m.Slots, len(m.Payload)) {
		t.Fatal("the slots do not fit")
	}
	for _, c := range []struct {
		clock Clock
		want  string
	}{
		{Clock{Offset: 1_795_215_960_123_000_000, Quality: Exact}, `a=1 1795215960123000005|{"n":1,"bt":1795215960.123}|`},
		{Clock{Offset: 1 << 28 * 1e9, Quality: Bounded, Early: 7, Late: 3e6}, `a=1,clock="bounded",clock_error=3i,clock_from=268435455999999998i,clock_to=268435456003000005i 268435456000000005|{"n":1,"bt":268435456.000}|`},
		{Clock{Offset: 1 << 28 * 1e9, Quality: Interpolated, Early: 1, Late: 1}, `a=1,clock="interpolated",clock_error=1i 268435456000000005|{"n":1,"bt":268435456.000}|`},
		{Clock{}, `a=1,clock="unsynced" 5|{"n":1}|`},
	} {
		if m.Rebase(c.clock); string(m.Payload) != c.want {
			t.Errorf("got  %s\nwant %s", m.Payload, c.want)
		}
	}
	m.Identify("log-7", false)
	if want := `a=1,clock="unsynced" 5|{"n":1}|,"id":"log-7"`; string(m.Payload) != want {
		t.Errorf("got  %s\nwant %s", m.Payload, want)
	}
	m.Identify("log-8", true)
	if want := `a=1,clock="unsynced" 5|{"n":1}|,"id":"log-8","replayed":true`; string(m.Payload) != want {
		t.Errorf("got  %s\nwant %s", m.Payload, want)
	}
}

func TestRebaseLeavesSlotsThatDoNotFitAlone(t *testing.T) {
	for _, slots := range [][]Slot{{{SlotTime, 0, 24}}, {{SlotTime, -1, 0}}, {{SlotClock, 3, -1}}, {{9, 0, 0}}, {{SlotClock, 2, 1}, {SlotClock, 1, 0}}} {
		m := Message{Payload: []byte("short"), Slots: slots}
		if m.Rebase(Clock{}); string(m.Payload) != "short" {
			t.Errorf("%+v: %q", slots, m.Payload)
		}
	}
}
