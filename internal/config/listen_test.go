package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
)

// loadBroker reads a configuration with the given [broker] table.
func loadBroker(t *testing.T, table string) (*Config, *Report) {
	t.Helper()
	dir, pair := t.TempDir(), newPair(t)
	write(t, filepath.Join(dir, "broker.crt"), pair.cert)
	write(t, filepath.Join(dir, "broker.key"), pair.key)
	write(t, filepath.Join(dir, "gateway.toml"), "name = \"plant-a\"\n[bus.plc]\naddress = \"tcp://192.168.10.5\"\n[broker]\n"+table+
		"\n[device.boiler]\nbus = \"plc\"\nunit_id = 1\npoints.a = { holding = 1 }\n")
	return Load(dir, testOptions(nil))
}

const pairKeys = "\ncert = \"broker.crt\"\nkey = \"broker.key\"\n"

func TestListeners(t *testing.T) {
	for _, test := range []struct {
		url, keys string
		want      broker.Listen
		scheme    string
	}{
		{"tcp://127.0.0.1", "", broker.Listen{Network: "tcp", Address: "127.0.0.1:1883"}, "tcp"},
		{"mqtt://localhost:1884", "", broker.Listen{Network: "tcp", Address: "localhost:1884"}, "tcp"},
		{"tls://[::1]", pairKeys, broker.Listen{Network: "tcp", Address: "[::1]:8883"}, "tls"},
		{"mqtts://127.0.0.1", pairKeys, broker.Listen{Network: "tcp", Address: "127.0.0.1:8883"}, "tls"},
		{"ws://127.0.0.1", "", broker.Listen{Network: "tcp", Address: "127.0.0.1:8083", WebSocket: true}, "ws"},
		{"ws://127.0.0.1/mqtt", "", broker.Listen{Network: "tcp", Address: "127.0.0.1:8083", WebSocket: true, Path: "/mqtt"}, "ws"},
		{"wss://127.0.0.1", pairKeys, broker.Listen{Network: "tcp", Address: "127.0.0.1:8084", WebSocket: true}, "wss"},
		{"unix:///run/gateway/mqtt.sock", "", broker.Listen{Network: "unix", Address: "/run/gateway/mqtt.sock"}, "unix"},
		{"unix:///run/gateway/mqtt.sock", "socket_mode = \"0666\"", broker.Listen{Network: "unix", Address: "/run/gateway/mqtt.sock", Mode: 0o666}, "unix"},
		{"tls://0.0.0.0", pairKeys + "client_ca = \"broker.crt\"\nclient_certificates = \"require\"", broker.Listen{Network: "tcp", Address: "0.0.0.0:8883"}, "tls"},
	} {
		cfg, report := loadBroker(t, "listen = [\""+test.url+"\"]\n"+test.keys)
		if cfg == nil {
			report.WriteTo(t.Output())
			t.Errorf("%s: %s", test.url, report.Summary())
			continue
		}
		got := cfg.Listen[0]
		if s := got.Scheme(); s != test.scheme {
			t.Errorf("%s is %s", test.url, s)
		}
		if (got.TLS != nil) != (cfg.Certificate != nil) {
			t.Errorf("%s: TLS %v, certificate %v", test.url, got.TLS, cfg.Certificate)
		}
		if got.TLS = nil; got != test.want {
			t.Errorf("%s: got %+v", test.url, got)
		}
	}
}

// What other machines can reach asks who they are, or is refused.
func TestReachableListeners(t *testing.T) {
	const refused, clear, users = "nobody would have to prove", "for all to read", "passwords = \"passwd\"\n"
	optional := pairKeys + "client_ca = \"broker.crt\"\nclient_certificates = \"optional\"\n"
	required := strings.Replace(optional, "optional", "require", 1)
	for _, test := range []struct {
		url, keys, want string
	}{
		{"tcp://0.0.0.0", "", refused},
		{"tcp://", "", refused},
		{"tcp://[::]", "", refused},
		{"tcp://gateway.local", "", refused},
		{"ws://192.168.1.5", "", refused},
		{"tls://192.168.1.5", pairKeys, refused},
		{"wss://192.168.1.5", optional, refused},
		{"wss://192.168.1.5", required, ""},
		{"tls://192.168.1.5", pairKeys + users, ""},
		{"tls://192.168.1.5", optional + users, ""},
		{"tcp://192.168.1.5", users, clear},
		{"ws://192.168.1.5", users, clear},
		{"tcp://127.0.0.1", users, ""},
		{"tcp://127.8.8.8", "", ""},
		{"unix:///run/x.sock", "", ""},
	} {
		_, report := loadBroker(t, "listen = [\""+test.url+"\"]\n"+test.keys)
		var got string
		for _, i := range report.Issues {
			for _, s := range []string{refused, clear} {
				if strings.Contains(i.Message, s) {
					got = s
				}
			}
		}
		if got != test.want {
			t.Errorf("%s with %q: %q, want %q", test.url, test.keys, got, test.want)
		}
	}
}

func TestBrokerLimits(t *testing.T) {
	cfg, report := loadBroker(t, `max_connections = 2
max_connections_per_address = 3
max_packet = "4KiB"
max_queue = 5
max_queue_bytes = "6KiB"
max_in_flight = 7
max_subscriptions = 8
max_levels = 9
max_retained = 10
max_retained_bytes = "11KiB"
max_sessions = 12
max_session_queue = 13
max_session_bytes = "14KiB"
max_session_age = "15h"
max_session_expiry = "16d"
max_keepalive = "17s"`)
	want := broker.Limits{Connections: 2, PerAddress: 3, Packet: 4 << 10, Queue: 5, QueueBytes: 6 << 10, Window: 7, Subscriptions: 8, Levels: 9, Retained: 10, RetainedBytes: 11 << 10,
		Sessions: 12, SessionQueue: 13, SessionBytes: 14 << 10, SessionAge: 15 * time.Hour, SessionExpiry: 16 * 24 * time.Hour, KeepAlive: 17 * time.Second}
	if cfg == nil || cfg.Limits != want {
		report.WriteTo(t.Output())
		t.Errorf("got %+v", cfg)
	}
}
