package main

import (
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// What docs/time.md shows of payloads is what the mapper writes, and its tables
// are a configuration.
func TestTimePageTellsTheTruth(t *testing.T) {
	text, err := os.ReadFile("../../docs/time.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(toml)?\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	toml, shown := "name = \"plant-a\"\n", ""
	for _, b := range blocks {
		if b[1] == "toml" {
			toml += b[2]
		} else {
			shown += b[2]
		}
	}
	toml += "[device.main]\nbus = \"tcp://192.168.10.5\"\nunit_id = 1\n[device.main.points]\nvoltage = { holding = 1, type = \"u16\", scale = 0.1, unit = \"V\" }\n"
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), toml)
	cfg, report := config.Load(dir, config.Options{})
	if cfg == nil || report.Warnings() > 0 {
		report.WriteTo(t.Output())
		t.Fatal(report.Summary())
	}
	if !cfg.TrustClock || cfg.Bridges[0].UnsyncedHold != 15*time.Minute {
		t.Errorf("trusted %t, held for %v", cfg.TrustClock, cfg.Bridges[0].UnsyncedHold)
	}
	m, err := mapping.New(cfg.Mapping())
	if err != nil {
		t.Fatal(err)
	}
	const boot = 1000e9
	wall := time.Date(2026, 11, 20, 23, 6, 0, 123e6, time.UTC)
	off := wall.AddDate(0, -4, 0)
	var got strings.Builder
	for _, c := range []broker.Clock{
		{Offset: wall.UnixNano() - boot, Quality: broker.Interpolated, Early: 57_100_000, Late: 57_100_000},
		{Offset: wall.UnixNano() - boot, Quality: broker.Bounded, Early: time.Hour, Late: 2 * time.Hour},
		{Offset: off.UnixNano() - boot, Quality: broker.Unsynced, Late: math.MaxInt64},
	} {
		dev := cfg.Devices[0]
		b := devices.NewBatch(dev.Device)
		b.State = devices.Online
		b.Add(dev.Points[0].Point, []byte{2301 >> 8, 2301 & 0xFF}, boot)
		for _, msg := range m.AppendMessages(nil, b, c) {
			if msg.Topic == "plant-a/main/voltage" {
				got.WriteString(string(msg.Payload) + "\n")
			}
		}
	}
	if got.String() != shown {
		t.Errorf("got\n%swant\n%s", got.String(), shown)
	}
}
