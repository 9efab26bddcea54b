package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSimulateSpeaksAsTheConfigurationSays serves a bus of each kind and reads
// each through site.toml.
func TestSimulateSpeaksAsTheConfigurationSays(t *testing.T) {
	var gateway, devices strings.Builder
	for name, keys := range map[string]string{
		"tcp": `address = "tcp://192.0.2.1"`, "udp": `address = "udp://192.0.2.2"`,
		"tls":     "address = \"tls://192.0.2.3\"\nserver_name = \"turbine.example\"",
		"rtu-tcp": `address = "rtu+tcp://192.0.2.4"`, "rtu-udp": `address = "rtu+udp://192.0.2.5"`, "ascii-tcp": `address = "ascii+tcp://192.0.2.6"`,
		"rtu":   "address = \"/dev/ttyRTU\"\nbaud = 38400\nformat = \"8E1\"",
		"ascii": "address = \"/dev/ttyASCII\"\nbaud = 38400\nformat = \"7E1\"\nframing = \"ascii\"",
	} {
		fmt.Fprintf(&gateway, "[bus.%s]\n%s\n", name, keys)
		fmt.Fprintf(&devices, "[device.%s]\nbus = %q\nunit_id = 3\npoints.a = { holding = 0, type = \"u32\" }\n", name, name)
	}
	gateway.WriteString("[bus.wind]\naddress = \"tcp://192.0.2.7:4001\"\nprotocol = \"lines\"\n")
	devices.WriteString("[device.wind]\nbus = \"wind\"\nline.\"*\".a = { field = 1 }\n[device.implied]\nbus = \"tls://192.0.2.8\"\nunit_id = 3\npoints.a = { holding = 0 }\n")
	s := newSite(t, gateway.String(), map[string]string{"a": devices.String()})
	site := filepath.Join(s.config, "site.toml")
	sim := start(t, binary, s.args("simulate", "--site", site, "--role", "operator")...)
	eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
	overlay, err := os.ReadFile(site)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"[bus.\"wind\"]\naddress = \"tcp://127.0.0.1:", "[bus.\"tls\"]\naddress = \"tls://127.0.0.1:", "[bus.\"rtu-udp\"]\naddress = \"rtu+udp://127.0.0.1:",
		"[device.\"implied\"]\nbus = \"tls-192.0.2.8-802\"\n",
	} {
		if !strings.Contains(string(overlay), want) {
			t.Errorf("site.toml lacks %q:\n%s", want, overlay)
		}
	}
	for _, device := range []string{"tcp", "udp", "tls", "rtu-tcp", "rtu-udp", "ascii-tcp", "rtu", "ascii", "implied"} {
		if out, code := s.command("read", device); code != exitOK {
			t.Errorf("read %s: code %d\n%s", device, code, out)
		}
	}
	// Without the certificate all is refused, and it is said why.
	stripped := ""
	for line := range strings.Lines(string(overlay)) {
		if !strings.HasPrefix(line, "cert ") && !strings.HasPrefix(line, "key ") {
			stripped += line
		}
	}
	writeFile(t, site, stripped)
	if out, code := s.command("read", "tls", "--json"); code != exitFailed || !strings.Contains(out, "no client certificate was shown") {
		t.Errorf("without a certificate: code %d\n%s", code, out)
	}
	if code := sim.stop(); code != exitOK {
		t.Errorf("simulate ended with code %d", code)
	}
	_, rest, _ := strings.Cut(string(overlay), "ca      = \"")
	ca, _, _ := strings.Cut(rest, `"`)
	if _, err := os.Stat(ca); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", ca, err)
	}
	if out, code := s.command("simulate", "--bus", "tcp", "--role", "x"); code != exitUsage {
		t.Errorf("a role without TLS: code %d\n%s", code, out)
	}
}

func TestRoleInACertificate(t *testing.T) {
	var c x509.Certificate
	if withRole("")(&c); len(c.ExtraExtensions) != 0 {
		t.Error("an empty role was written")
	}
	alsoFor("10.0.0.9", "turbine.example")(&c)
	if len(c.IPAddresses) != 2 || len(c.DNSNames) != 1 {
		t.Errorf("%v, %v", c.IPAddresses, c.DNSNames)
	}
}
