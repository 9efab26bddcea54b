package main

import (
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

// The examples in docs/payloads.md are what the gateway publishes: each block
// of publish tables, with the devices of the first block, makes the messages of
// the block behind it.
func TestPayloadExamplesAreTrue(t *testing.T) {
	text, err := os.ReadFile("../../docs/payloads.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(toml)?\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 13 || len(blocks)%2 == 0 {
		t.Fatalf("%d blocks, want one with devices and pairs of tables and messages", len(blocks))
	}
	base := blocks[0][2]
	for i := 1; i < len(blocks); i += 2 {
		if blocks[i][1] != "toml" || blocks[i+1][1] == "toml" {
			t.Fatalf("block %d is no table followed by messages: %s", i, blocks[i][2])
		}
		if got, want := examples(t, base+blocks[i][2]), blocks[i+1][2]; got != want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", blocks[i][2], got, want)
		}
	}
}

// examples publishes one cycle of the devices of a configuration and returns
// the messages as "topic payload" lines.
func examples(t *testing.T, toml string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), toml)
	cfg, report := config.Load(dir, config.Options{})
	if cfg == nil || report.Warnings() > 0 {
		report.WriteTo(t.Output())
		t.Fatal(report.Summary())
	}
	m, err := mapping.New(cfg.Mapping())
	if err != nil {
		t.Fatal(err)
	}
	const boot = 1000e9
	clock := broker.Clock{Offset: time.Date(2026, 11, 20, 23, 6, 0, 123e6, time.UTC).UnixNano() - boot, Quality: broker.Exact}
	dev := cfg.Devices[0]
	b := devices.NewBatch(dev.Device)
	b.State = devices.Online
	for _, p := range dev.Points {
		text, good := map[string]string{"power": "230.1", "count": "9007199254740993", "mode": "auto", "status": "1"}[p.Name]
		if !good {
			b.Fail(p.Point, devices.ErrTimeout, boot)
			continue
		}
		v, err := mapping.ParseValue(p, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := mapping.Encode(nil, p, v)
		if err != nil {
			t.Fatal(err)
		}
		b.Add(p.Point, raw, boot)
	}
	var lines strings.Builder
	for _, msg := range m.AppendMessages(nil, b, clock)[1:] { // the first is the device's status
		lines.WriteString(msg.Topic + " " + string(msg.Payload) + "\n")
	}
	return lines.String()
}

// Every key that the page shows in its table of policies is one, and what
// docs/homeassistant.md says of commands over a bridge holds.
func TestPayloadPageTellsTheTruth(t *testing.T) {
	text, err := os.ReadFile("../../docs/payloads.md")
	if err != nil {
		t.Fatal(err)
	}
	keys := regexp.MustCompile("(?m)^\\|[^|]*\\| `([a-z_]+ = [^`]+)`").FindAllStringSubmatch(string(text), -1)
	if len(keys) != 6 {
		t.Fatalf("%d keys in the table of policies, this test knows 6", len(keys))
	}
	ha, err := os.ReadFile("../../docs/homeassistant.md")
	if err != nil {
		t.Fatal(err)
	}
	bridge := regexp.MustCompile(`(?m)^((?:send|receive) = \{ .+ \})$`).FindAllStringSubmatch(strings.ReplaceAll(string(ha), "    =", " ="), -1)
	if len(bridge) != 2 || !strings.Contains(string(ha), "valid for 30 seconds") {
		t.Fatalf("%d lines of a bridge, want send and receive", len(bridge))
	}
	toml := "name = \"plant-a\"\n[homeassistant]\n[bridge.ha]\nurl = \"tcp://127.0.0.1:1884\"\n" + bridge[0][1] + "\n" + bridge[1][1] + "\n"
	toml += "[device.main]\nbus = \"tcp://192.168.10.5\"\nunit_id = 1\n[device.main.points]\n"
	for i, k := range keys {
		key, _, _ := strings.Cut(k[1], " or ")
		if strings.HasPrefix(key, "aggregate") {
			key += ", window = \"1m\""
		}
		toml += string(rune('a'+i)) + " = { holding = 1, " + key + " }\n"
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), toml)
	cfg, report := config.Load(dir, config.Options{})
	if cfg == nil || report.Warnings() > 0 {
		report.WriteTo(t.Output())
		t.Fatal(report.Summary())
	}
	if cfg.HomeAssistant.Expires != 30*time.Second {
		t.Errorf("commands over the bridge are valid for %v, the page says 30 s", cfg.HomeAssistant.Expires)
	}
}
