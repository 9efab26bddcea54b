package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// dailyBus is a bus with a counter and what it rose by today, without a line.
func dailyBus(t *testing.T) *bus {
	t.Helper()
	energy := &mapping.Point{Point: &devices.Point{Name: "energy"}, Type: mapping.U16, Kind: mapping.Counter}
	dev := &mapping.Device{Device: &devices.Device{ID: "main", Name: "main", Points: []*devices.Point{energy.Point}}, Points: []*mapping.Point{energy}}
	program, err := mapping.Compile("daily(energy)", dev.Points)
	if err != nil {
		t.Fatal(err)
	}
	dev.Computed = []*mapping.Point{mapping.NewComputed("today", program)}
	m, err := mapping.New(mapping.Config{Gateway: "g", Devices: []*mapping.Device{dev}})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	return &bus{Bus: &config.Bus{Devices: []*mapping.Device{dev}}, pump: newPump(m, func(*broker.Message) {}, func() broker.Clock { return broker.Clock{Quality: broker.Exact} }, log)}
}

// readEnergy reads n and returns what came of today.
func (b *bus) readEnergy(n byte, second devices.Stamp) string {
	batch := devices.NewBatch(b.Devices[0].Device)
	batch.Add(b.Devices[0].Points[0].Point, []byte{0, n}, second*1e9)
	b.pump.take(batch)
	return b.pump.mapper.Snapshot("main")[1].Value.String()
}

func TestDailyEnergyOutlivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "computed.json")
	log := slog.New(slog.DiscardHandler)
	first := dailyBus(t)
	d := openDiary(path, nil, log)
	d.give(first)
	first.readEnergy(100, 1)
	if got := first.readEnergy(130, 2); got != "30" {
		t.Fatalf("today: %s", got)
	}
	d.finish(first)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}

	second := dailyBus(t)
	openDiary(path, nil, log).give(second)
	if got := second.readEnergy(150, 3); got != "50" {
		t.Errorf("today after a restart: %s", got)
	}

	// What did not change is not written.
	third := dailyBus(t)
	d = openDiary(path, nil, log)
	d.give(third)
	d.finish(third)
	if again, err := os.Stat(path); err != nil || !os.SameFile(info, again) {
		t.Errorf("the file was written again: %v", err)
	}

	if err := os.WriteFile(path, []byte(`{"version":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	fourth := dailyBus(t)
	var warned strings.Builder
	openDiary(path, nil, slog.New(slog.NewTextHandler(&warned, nil))).give(fourth)
	if got := fourth.readEnergy(150, 3); got != "0" || !strings.Contains(warned.String(), "format 99") {
		t.Errorf("with a file of the future: today is %s; %s", got, &warned)
	}
	if _, err := os.Stat(path + ".unreadable"); err != nil {
		t.Error(err)
	}
}
