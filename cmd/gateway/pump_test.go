package main

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/mapping"
)

type place string

func (p place) String() string { return string(p) }

// What waits for its time is published by the pump's own timer, without any
// further reading, and what still waits at the end then.
func TestPumpPublishesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		point := func(name string, policy mapping.Policy) *mapping.Point {
			return &mapping.Point{Point: &devices.Point{Name: name, Source: place("holding 0")}, Type: mapping.U16, Policy: policy}
		}
		dev := &mapping.Device{Device: &devices.Device{ID: "d", Name: "d"}, Points: []*mapping.Point{
			point("paced", mapping.Policy{MinInterval: 10 * time.Second}),
			point("mean", mapping.Policy{Window: time.Minute, Aggregate: mapping.Mean}),
			point("day", mapping.Policy{Window: 24 * time.Hour, Aggregate: mapping.Max}),
		}}
		for _, p := range dev.Points {
			dev.Device.Points = append(dev.Device.Points, p.Point)
		}
		m, err := mapping.New(mapping.Config{Gateway: "g", Devices: []*mapping.Device{dev}, Publish: []mapping.Publish{{Name: "v", Per: "point", Topic: "{point}", Format: "value"}}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var got []string
		p := newPump(m, func(msg *broker.Message) {
			if !strings.HasPrefix(msg.Topic, "g/") { // not the status
				got = append(got, time.Since(began).String()+" "+msg.Topic+" "+string(msg.Payload))
			}
		}, func() broker.Clock { return broker.Clock{} }, slog.New(slog.DiscardHandler))
		now := func() devices.Stamp { return devices.Stamp(time.Minute + time.Since(began)) }
		p.now = now
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.run(ctx) }()
		read := func(value byte) {
			b := devices.NewBatch(dev.Device)
			for _, pt := range dev.Device.Points {
				b.Add(pt, []byte{0, value}, now())
			}
			p.in <- b
			synctest.Wait()
		}
		read(1)
		time.Sleep(time.Second)
		read(2)
		time.Sleep(time.Second)
		read(6)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want := "0s paced 1, 0s mean 1, 0s day 1, 10s paced 6, 1m0s mean 3, 5m2s day 6"
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("got  %s\nwant %s", s, want)
		}
	})
}

// A template that fails is in the log once.
func TestPumpTellsOfAFailingTemplate(t *testing.T) {
	tmpl, err := mapping.ParseTemplate(`{{if gt .Number 100.0}}{{index .Tags 1}}{{end}}`, "point")
	if err != nil {
		t.Fatal(err)
	}
	pt := &mapping.Point{Point: &devices.Point{Name: "x", Source: place("holding 0")}, Type: mapping.U16}
	dev := &mapping.Device{Device: &devices.Device{ID: "d", Name: "d", Points: []*devices.Point{pt.Point}}, Points: []*mapping.Point{pt}}
	m, err := mapping.New(mapping.Config{Gateway: "g", Devices: []*mapping.Device{dev}, Publish: []mapping.Publish{{Name: "t", Per: "point", Topic: "t", Format: "template", Template: tmpl}}})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	p := newPump(m, func(*broker.Message) {}, func() broker.Clock { return broker.Clock{} }, slog.New(slog.NewTextHandler(&log, nil)))
	for range 3 {
		b := devices.NewBatch(dev.Device)
		b.Add(pt.Point, []byte{0, 200}, 1)
		p.take(b)
	}
	if n := strings.Count(log.String(), "publish t: the template fails for device d"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
}
