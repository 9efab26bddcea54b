package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"edgegateway/bridge"
	"edgegateway/internal/config"
)

// TestCloudsPageTellsTheTruth loads each configuration that docs/clouds.md
// shows, without a fault and without a warning, and compares its table with
// the presets.
func TestCloudsPageTellsTheTruth(t *testing.T) {
	page, err := os.ReadFile("../../docs/clouds.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	keys := t.TempDir()
	if err := writeDemoKeys(keys); err != nil {
		t.Fatal(err)
	}
	ca, _ := os.ReadFile(filepath.Join(keys, "credentials/ca.crt"))
	cert, _ := os.ReadFile(filepath.Join(keys, "credentials/gateway.crt"))
	key, _ := os.ReadFile(filepath.Join(keys, "credentials/gateway.key"))
	shown := make(map[string]bool)
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(text, -1)
	for _, block := range blocks {
		dir := t.TempDir()
		put := func(name string, data []byte) {
			writeFile(t, filepath.Join(dir, name), string(data))
			if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for name, data := range map[string][]byte{
			"aws.crt": cert, "aws.key": key, "grid.crt": cert, "grid.key": key, "hub.key": []byte("YSBkZXZpY2Uga2V5"),
			"hivemq.password": []byte("x"), "emqx.password": []byte("x"), "office.password": []byte("x"), "nats.password": []byte("x"),
			"proxy": []byte("http://user:password@proxy.example.com:3128"),
		} {
			put("credentials/"+name, data)
		}
		put("office-ca.crt", ca)
		cfg := loadPage(t, dir, block[1])
		b := cfg.Bridges[0]
		shown[b.Preset] = true
		if _, report := config.Load(filepath.Join(dir, "gateway.toml"), config.Options{}); len(report.Issues) > 0 {
			t.Errorf("%s\n%s", block[1], report.Summary())
		}
		if b.Rate <= 0 {
			t.Errorf("nothing goes over bridge %s:\n%s", b.Name, block[1])
		}
	}
	for name, p := range bridge.Presets {
		if !shown[name] {
			t.Errorf("the page shows no bridge with the preset %q", name)
		}
		row := presetRow(name, &p)
		if !strings.Contains(text, row) {
			t.Errorf("the page does not hold the row\n%s", row)
		}
	}
}

// TestFleetPageTellsTheTruth loads the gateway's configuration of docs/fleet.md
// without a fault and without a warning. What it sets up NATS with is run by a
// test in tools/interop.
func TestFleetPageTellsTheTruth(t *testing.T) {
	page, err := os.ReadFile("../../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) != 1 {
		t.Fatalf("%d TOML blocks, this test knows one", len(blocks))
	}
	dir := t.TempDir()
	if err := writeDemoKeys(dir); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"ca.crt": "nats-ca.crt", "gateway.crt": "credentials/nats.crt", "gateway.key": "credentials/nats.key"} {
		if err := os.Rename(filepath.Join(dir, "credentials", from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	cfg := loadPage(t, dir, blocks[0][1])
	if _, report := config.Load(filepath.Join(dir, "gateway.toml"), config.Options{}); len(report.Issues) > 0 {
		t.Errorf("%s", report.Summary())
	}
	if b := cfg.Bridges[0]; b.Rate <= 0 || !b.Alike || len(b.URLs) != 3 {
		t.Errorf("bridge %+v", b)
	}
}

// presetRow is what the table says of a preset.
func presetRow(name string, p *bridge.Preset) string {
	or := func(yes bool, format string, args ...any) string {
		if !yes {
			return "–"
		}
		return fmt.Sprintf(format, args...)
	}
	packet := or(p.Limits.Packet > 0, "%d KiB", p.Limits.Packet>>10)
	switch {
	case p.Limits.Packet%1000 == 0 && p.Limits.Packet > 0:
		packet = "2,000,000 bytes"
	case p.Limits.Packet == 1<<20:
		packet = "1 MiB"
	}
	topic := or(p.Limits.TopicLevels > 0, "%d levels", p.Limits.TopicLevels)
	if p.Limits.TopicBytes > 0 {
		topic = fmt.Sprintf("%d bytes, %s", p.Limits.TopicBytes, topic)
	}
	if p.Limits.Forbidden != "" {
		topic = "no spaces"
	}
	if name == "azure-iot-hub" {
		topic = "its own"
	}
	rate := or(p.Limits.Rate > 0, "%v messages", p.Limits.Rate)
	if p.Limits.ByteRate > 0 {
		rate += fmt.Sprintf(", %v KiB", p.Limits.ByteRate/1024)
	}
	alive := "any"
	if p.Most > 0 {
		alive = fmt.Sprintf("to %d s", p.Most/time.Second)
	}
	if p.Least > 0 {
		alive = fmt.Sprintf("%d s %s", p.Least/time.Second, alive)
	}
	retained := map[bool]string{true: "no", false: "yes"}[p.Limits.NoRetain]
	return fmt.Sprintf("| `%s` | %v | %s | %s | %s | %s | %s |", name, p.Version, packet, topic, rate, alive, retained)
}
