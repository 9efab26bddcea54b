package main

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// demoFiles is the configuration that the demo runs. It is an ordinary one:
// --keep leaves it as a start for one's own.
var demoFiles = map[string]string{
	"gateway.toml": `# The gateway of the demo. "gateway simulate --config DIR" plays the plant
# again, and "gateway run --config DIR --state DIR/state" the gateway.
name = "plant-a"

[bus.plc]
address = "tcp://{plc}"

[bus.rs485]                       # two meters on one line
address = "{dir}/rs485"           # on a real site: /dev/serial/by-id/...
baud    = 9600
format  = "8N1"

[bus.mast]                        # a wind sensor that speaks by itself
address  = "{dir}/mast"
baud     = 4800
protocol = "lines"

[broker]
listen = ["tcp://{broker}"]

[spool]
size = "64MiB"
sync = "5s"

[bridge.cloud]
url       = "tls://{cloud}"
client_id = "{name}"
username  = "plant-a"
password  = "${cred:password}"
ca        = "${cred:ca.crt}"      # a cloud with a public certificate needs none
cert      = "${cred:gateway.crt}"
key       = "${cred:gateway.key}"
qos       = 1
send      = { "{name}/#" = "dt/{name}/#" }
receive   = { "cmd/{name}/+/+/set" = "{name}/+/+/set" }
replay    = "strict"
unsynced  = "flag"                # without it values wait up to 15 minutes for a clock that is not set
`,
	"devices.d/boiler.toml": `# A PLC on Modbus TCP.
[device.boiler]
bus     = "plc"
unit_id = 1
every   = "200ms"
order   = "CDAB"

[device.boiler.groups.slow]
every = "2s"

[device.boiler.points]
flow_temp   = { input = 10, type = "i16", scale = 0.1, unit = "°C" }
return_temp = { input = 11, type = "i16", scale = 0.1, unit = "°C" }
pressure    = { input = 12, type = "f32", unit = "bar" }
setpoint    = { holding = 102, type = "i16", scale = 0.1, unit = "°C", write = { min = 30, max = 85, step = 0.5 } }
mode        = { holding = 100, type = "u16", enum = { 0 = "off", 1 = "auto", 2 = "manual" }, write = true }
status      = { holding = 101, type = "u16", bits = { 0 = "running", 3 = "fault" } }
pump        = { coil = 0, write = true }
heat        = { holding = 110, type = "u32", scale = 0.01, unit = "MWh", group = "slow", kind = "counter" }
`,
	"devices.d/meters.toml": `# Two meters that the profile library knows.
[device.main]
profile = "eastron/sdm630"
bus     = "rs485"
unit_id = 1

[device.heatpump]
profile = "eastron/sdm120"
bus     = "rs485"
unit_id = 2
points.power.deadband = 1
`,
	"devices.d/mast.toml": `# A wind sensor, NMEA 0183.
[device.mast]
bus      = "mast"
checksum = "nmea"

[device.mast.line.MWV]
wind_angle = { field = 1, type = "f64", unit = "°" }
wind_speed = { field = 3, type = "f64", unit = "kn" }
`,
}

// demoAddresses are what is free on this machine.
type demoAddresses struct{ plc, broker, cloud string }

// writeDemo writes the configuration and the credentials into dir and returns
// the password it made for the bridge.
func writeDemo(dir string, at demoAddresses) (password string, err error) {
	credentials := filepath.Join(dir, "credentials")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "devices.d"), 0o755), os.MkdirAll(credentials, 0o700)); err != nil {
		return "", err
	}
	fill := strings.NewReplacer("{dir}", dir, "{plc}", at.plc, "{broker}", at.broker, "{cloud}", at.cloud)
	for name, text := range demoFiles {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(fill.Replace(text)), 0o644); err != nil {
			return "", err
		}
	}
	password = rand.Text()
	return password, os.WriteFile(filepath.Join(credentials, "password"), []byte(password), 0o600)
}

// writeDemoKeys makes an authority and the certificates of both ends.
func writeDemoKeys(dir string) error {
	credentials := filepath.Join(dir, "credentials")
	if err := os.MkdirAll(credentials, 0o700); err != nil {
		return err
	}
	authority, err := newPKI(credentials)
	if err != nil {
		return err
	}
	return errors.Join(
		authority.issue("cloud", "cloud.example", x509.ExtKeyUsageServerAuth),
		authority.issue("gateway", "plant-a", x509.ExtKeyUsageClientAuth),
	)
}

// freeAddresses finds loopback ports that nobody listens on, all different.
func freeAddresses(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
