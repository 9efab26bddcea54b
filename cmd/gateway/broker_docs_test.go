package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"edgegateway/broker"
	"edgegateway/internal/config"
)

// TestBrokerPageTellsTheTruth makes the certificates as docs/broker.md tells,
// takes its configurations, and connects as it does.
func TestBrokerPageTellsTheTruth(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/broker.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var subscribe string
	var b *broker.Broker
	for _, block := range regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		switch kind, body := block[1], block[2]; {
		case kind == "sh" && strings.HasPrefix(body, "openssl"):
			cmd := exec.CommandContext(t.Context(), "sh", "-ec", body)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s%v\n%s", body, err, out)
			}
		case kind == "toml":
			cfg := loadPage(t, dir, body)
			if cfg.Certificate != nil {
				b = runPage(t, cfg)
			}
		case kind == "sh":
			for line := range strings.Lines(body) {
				if strings.Contains(line, "--cafile") {
					subscribe = line
				}
			}
		}
	}
	if b == nil || subscribe == "" {
		t.Fatal("the page shows no listener with TLS, or nobody who comes to it")
	}
	_, port, _ := net.SplitHostPort(b.Addr(1).String())
	b.Publish(&broker.Message{Topic: "plant-a/boiler/pump", Payload: []byte("1"), Retain: true})
	subscribe = strings.NewReplacer("gateway.local", "127.0.0.1", "8883", port, " -v", " -v -C 1").Replace(subscribe)
	for _, test := range []struct{ command, want string }{
		{subscribe, "plant-a/boiler/pump 1\n"},
		// Without a certificate, and by a name that is not in the broker's.
		{regexp.MustCompile("--cert.*panel.key").ReplaceAllString(subscribe, ""), ""},
		{strings.ReplaceAll(subscribe, "127.0.0.1", "localhost"), ""},
	} {
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", test.command)
		cmd.Dir = dir
		out, err := cmd.Output()
		if string(out) != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: %q, %v", test.command, out, err)
		}
	}
}

// loadPage reads a configuration of the page, which has no devices.
func loadPage(t *testing.T, dir, body string) *config.Config {
	t.Helper()
	device := "\n[device.boiler]\nbus = \"tcp://192.168.10.5\"\nunit_id = 1\npoints.pump = { coil = 0 }\n"
	writeFile(t, filepath.Join(dir, "gateway.toml"), "name = \"plant-a\"\n"+body+device)
	cfg, report := config.Load(filepath.Join(dir, "gateway.toml"), config.Options{})
	if report.WriteTo(t.Output()); cfg == nil {
		t.Fatalf("%s\n%s", body, report.Summary())
	}
	return cfg
}

// runPage runs its broker where nobody else is disturbed.
func runPage(t *testing.T, cfg *config.Config) *broker.Broker {
	for i := range cfg.Listen {
		cfg.Listen[i].Address = "127.0.0.1:0"
	}
	b, err := broker.New(broker.Config{Listen: cfg.Listen, Certificate: cfg.Certificate})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return b
}
