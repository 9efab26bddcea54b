package config

import (
	"crypto/tls"
	"path/filepath"
	"testing"
	"time"

	"edgegateway/devices/modbus"
)

// TestBusCarriers reads buses on each kind of carrier.
func TestBusCarriers(t *testing.T) {
	dir, _ := unpack(t, `-- gateway.toml --
name = "plant-a"
[bus.turbine]
address = "tls://10.0.0.9"
ca = "ca.crt"
cert = "own.crt"
key = "own.key"
server_name = "turbine.example"
connect_delay = "1s"
[bus.plain]
address = "tls://10.0.0.10:8802"
[bus.old]
address = "/dev/ttyUSB0"
baud = 9600
format = "7E1"
framing = "ascii"
[bus.fast]
address = "udp://10.0.0.11"
phase = "aligned"
pipeline = 3
[device.a]
bus = "old"
unit_id = 1
points.a = { holding = 1 }
`)
	p := newPair(t)
	for name, data := range map[string]string{"ca.crt": p.cert, "own.crt": p.cert, "own.key": p.key} {
		write(t, filepath.Join(dir, name), data)
	}
	cfg, report := Load(dir, testOptions(nil))
	if cfg == nil {
		report.WriteTo(t.Output())
		t.Fatal(report.Summary())
	}
	buses := map[string]modbus.Config{}
	for _, b := range cfg.Buses {
		buses[b.ID] = b.Modbus
		if b.Aligned != (b.ID == "fast") {
			t.Errorf("bus %s is aligned: %v", b.ID, b.Aligned)
		}
	}
	turbine := buses["turbine"]
	if turbine.URL != "tls://10.0.0.9:802" || turbine.ConnectDelay != time.Second || turbine.TLS == nil ||
		turbine.TLS.ServerName != "turbine.example" || turbine.TLS.RootCAs == nil || turbine.TLS.MinVersion != tls.VersionTLS12 {
		t.Errorf("%+v", turbine)
	} else if cert, err := turbine.TLS.GetClientCertificate(nil); err != nil || len(cert.Certificate) != 1 {
		t.Errorf("client certificate: %v, %v", cert, err)
	}
	if plain := buses["plain"]; plain.URL != "tls://10.0.0.10:8802" || plain.TLS == nil || plain.TLS.RootCAs != nil {
		t.Errorf("%+v", plain)
	}
	if old := buses["old"]; old.Framing != modbus.FramingASCII || old.Serial.Format != "7E1" || old.TLS != nil {
		t.Errorf("%+v", old)
	}
	if fast := buses["fast"]; fast.URL != "udp://10.0.0.11:502" || fast.Pipeline != 3 {
		t.Errorf("%+v", fast)
	}
}
