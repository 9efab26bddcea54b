package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

func TestTopicOwnership(t *testing.T) {
	allow := owns("plant", func(topic string) bool { return topic == "influx/boiler" })
	for _, c := range []struct {
		user, topic string
		access      broker.Access
		want        bool
	}{
		{"", "plant/boiler/setpoint/set", broker.Write, true},
		{"", "plant/boiler/_set", broker.Write, true},
		{"", "plant/boiler/_get", broker.Write, true},
		{"", "plant/boiler/setpoint", broker.Write, false},
		{"", "plant/boiler/setpoint/set/result", broker.Write, false},
		{"", "plant/boiler/_status", broker.Write, false},
		{"", "plant/_status", broker.Write, false},
		{"", "plant", broker.Write, false},
		{"", "plants/boiler", broker.Write, true},
		{"", "influx/boiler", broker.Write, false},
		{"", "influx/boiler", broker.Read, true},
		{"", "influx/other", broker.Write, true},
		{"", "anything/else", broker.Write, true},
		{"", "plant/boiler/setpoint", broker.Read, true},
		{"", "plant/#", broker.Subscribe, true},
		{"bridge:cloud", "plant/boiler/setpoint/set", broker.Write, true},
		{"bridge:cloud", "plant/boiler/setpoint", broker.Write, false},
		{"bridge:cloud", "anything/else", broker.Write, false},
	} {
		if got := allow(c.user, "", c.topic, c.access); got != c.want {
			t.Errorf("%q %v %s: got %v, want %v", c.user, c.access, c.topic, got, c.want)
		}
	}
}

func TestTallyFindsWhatIsWrong(t *testing.T) {
	x := newTally()
	for i := range 4 {
		x.site("plant/a", fmt.Appendf(nil, `{"value":%d,"time":"T%d"}`, i, i))
	}
	x.cloud("plant/a", "log-v1", []byte(`{"value":0,"time":"T0","clock":"unsynced"}`)) // the clock's quality does not count
	x.cloud("plant/a", "log-v3", []byte(`{"value":2,"time":"T2"}`))
	x.cloud("plant/a", "log-v2", []byte(`{"value":1,"time":"T1"}`))
	x.cloud("plant/a", "log-v2", []byte(`{"value":1,"time":"T1"}`))
	x.cloud("plant/a", "log-10", []byte(`{"value":9,"time":"T9"}`)) // nobody at the site saw it: no loss
	if local, delivered, duplicated, disorder := x.counts(); local != 4 || delivered != 4 || duplicated != 1 || disorder != 2 {
		t.Errorf("site %d, delivered %d, duplicated %d, out of order %d", local, delivered, duplicated, disorder)
	}
	if missing := x.missing(); len(missing) != 1 || missing[0] != "plant/a" {
		t.Errorf("missing %v, want the one with value 3", missing)
	}
}

func TestUplinkIsCutInTheMiddle(t *testing.T) {
	for _, c := range []struct {
		at, length time.Duration
		want       bool
	}{
		{2 * time.Second, 30 * time.Second, false},
		{10 * time.Second, 30 * time.Second, true},
		{19 * time.Second, 30 * time.Second, false},
		{14 * time.Second, 0, false},
		{20 * time.Second, 0, true},
		{50 * time.Second, 0, false},
		{65 * time.Second, 0, true},
	} {
		if got := cutAt(c.at, c.length); got != c.want {
			t.Errorf("at %v of %v: cut %v", c.at, c.length, got)
		}
	}
}

func TestParseSource(t *testing.T) {
	for _, c := range []struct {
		source, typ string
		want        string // registers, or a part of the error
	}{
		{"input:52", "f32", "input 52-53"},
		{"holding:100-103", "", "holding 100 holding 101 holding 102 holding 103"},
		{"holding:100-103", "u32", "holding 100-101 holding 102-103"},
		{"holding:0x10", "u16", "holding 16"},
		{"coil:3", "", "coil 3"},
		{"40103", "i16", "holding 102"},
		{"input:65535", "f32", "addresses end at 65535"},
		{"input:70000", "", "0 to 65535"},
		{"input:9-3", "", "from 9 to 65535"},
		{"inputs:1", "", "not a register table"},
		{"zap", "", "neither TABLE:ADDRESS"},
		{"input:1", "f31", "f31"},
	} {
		list, _, _, err := parseSource(c.source, c.typ)
		var got []string
		for _, r := range list {
			got = append(got, r.String())
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != c.want && (err == nil || !strings.Contains(text, c.want)) {
			t.Errorf("%s %s: got %q, want %q", c.source, c.typ, text, c.want)
		}
	}
}

// What became of a write is told from the query's error and what was read
// back, and is never better than what is proven.
func TestJudge(t *testing.T) {
	point := &mapping.Point{Point: &devices.Point{Name: "setpoint"}}
	set := mapping.Set{Point: point, Raw: []byte{0, 7}}
	held := func(raw ...byte) *devices.Batch {
		b := devices.NewBatch(&devices.Device{})
		if raw != nil {
			b.Add(point.Point, raw, 1)
		}
		return b
	}
	refused := devices.NewBatch(&devices.Device{})
	refused.Fail(point.Point, &modbus.Exception{Function: 6, Code: 3}, 1)
	for _, c := range []struct {
		name  string
		err   error
		batch *devices.Batch
		want  mapping.ResultState
	}{
		{"read back the same", nil, held(0, 7), mapping.Verified},
		{"read back another", nil, held(0, 8), mapping.Failed},
		{"not to be read back", nil, held(), mapping.Written},
		{"refused by the device", nil, refused, mapping.Failed},
		{"no answer", fmt.Errorf("%w: %w", modbus.ErrUnanswered, devices.ErrTimeout), held(), mapping.Unknown},
		{"no answer to the reading back", fmt.Errorf("%w: %w", modbus.ErrReadBack, devices.ErrTimeout), held(), mapping.Written},
		{"no port", fmt.Errorf("open: %w", devices.ErrPort), held(), mapping.Failed},
		{"bus busy", errors.New("busy"), held(), mapping.Failed},
	} {
		if got, reason := judge(c.err, c.batch, set); got != c.want || (got != mapping.Verified && c.batch == refused && reason == "") {
			t.Errorf("%s: got %v (%s), want %v", c.name, got, reason, c.want)
		}
	}
}
