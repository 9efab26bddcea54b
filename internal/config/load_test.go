package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"edgegateway/bridge"
	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// plant is the configuration of the design page, on the profile of the tests.
const plant = `-- gateway.toml --
name = "plant-a"
timezone = "Europe/Berlin"
[bus.rs485]
address = "/dev/ttyUSB0"
baud    = 9600
format  = "8N1"
[bus.plc]
address = "tcp://192.168.10.5"
timeout = "300ms"
[bus.hall]
address = "tcp://10.0.0.5:502"
behind  = { baud = 9600, format = "8E1" }
[bus.mast]
address  = "/dev/serial0"
baud     = 4800
protocol = "lines"
[spool]
size = "1GiB"
[spool.critical]
sync = "1s"
[bridge.aws]
url       = "tls://ats.example.com"
client_id = "{name}-1"
cert      = "${cred:aws.crt}"
key       = "${cred:aws.key}"
ca        = "ca.crt"
send      = { "{name}/+" = "dt/{name}/+", "{name}/+/_status" = "dt/{name}/+/_status" }
receive   = { "cmd/{name}/+/_set" = "{name}/+/_set" }
replay    = "strict"
max_age   = "2w"
keepalive = "30s"
window    = 50
-- site.toml --
bus.rs485.address = "/dev/ttyS1"
device.main.unit_id = 7
device.boiler.points.pump.holding = 9
-- devices.d/meters.toml --
[device.main]
profile = "acme/meter"
bus     = "rs485"
unit_id = 1
points.power.deadband = "2%"
points.voltage = false
groups.slow.every = "2m"
[devices.floor1]
profile  = "acme/meter"
bus      = "hall"
unit_ids = "11-13"
name     = "f1-{unit_id}"
device.12 = { name = "lift", every = "500ms" }
-- devices.d/boiler.toml --
[device.boiler]
bus     = "plc"
unit_id = 255
order   = "CDAB"
max_read = 20
gaps = true
pause = "5ms"
tags = { building = "north" }
[device.boiler.points]
pump     = { coil = 0 }
mode     = { holding = 100, enum = { 0 = "off", 0x10 = "auto", -1 = "none" }, write = true }
status   = { holding = 101, bits = { 0 = "running", 3 = "fault" } }
setpoint = { ref = 40103, type = "i16", scale = 0.1, unit = "°C", write = { min = 30, max = 85, step = 0.5, verify = false } }
heat     = { holding = 110, type = "u32", order = "ABCD", scale = 1_0.25e-3, offset = -5, invalid = [0xFFFFFFFF] }
label    = { input = 5, type = "string(6)" }
run      = { holding = 7, type = "bool" }
[device.second]
bus = "tcp://192.168.10.6:1502"
unit_id = 1
points.x = { discrete = 3 }
[device.third]
bus = "tcp://192.168.10.6:1502"
unit_id = 2
points.x = { input = 3 }
-- devices.d/mast.toml --
[device.mast]
bus      = "mast"
checksum = "nmea"
[device.mast.line.MWV]
speed = { field = 3, type = "f64", unit = "kn" }
valid = { field = 5, enum = { A = "valid" } }
-- credentials/aws.crt --
CERT
-- credentials/aws.key --
KEY
-- ca.crt --
CERT
`

// pair is a certificate with its key, as PEM.
type pair struct{ cert, key string }

func newPair(t *testing.T) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "plant-a"}, IsCA: true}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}
}

// mustLoad loads an archive that has no faults.
func mustLoad(t *testing.T, archive string, env map[string]string) *Config {
	t.Helper()
	p := newPair(t)
	dir, _ := unpack(t, strings.NewReplacer("CERT\n", p.cert, "KEY\n", p.key).Replace(archive))
	cfg, report := Load(dir, testOptions(env))
	for _, i := range report.Issues {
		t.Error(i.String())
	}
	if cfg == nil {
		t.FailNow()
	}
	return cfg
}

func TestBusesBecomeConfigsOfTheirProtocol(t *testing.T) {
	cfg := mustLoad(t, plant, nil)
	behind := serial.Config{Baud: 9600, Format: "8E1"}
	for i, want := range []struct {
		id     string
		modbus modbus.Config
		lines  LinesBus
		users  int
	}{
		{"rs485", modbus.Config{URL: "/dev/ttyS1", Serial: serial.Config{Path: "/dev/ttyS1", Baud: 9600, Format: "8N1"}}, LinesBus{}, 1},
		{"plc", modbus.Config{URL: "tcp://192.168.10.5:502", Timeout: 300 * time.Millisecond}, LinesBus{}, 1},
		{"hall", modbus.Config{URL: "tcp://10.0.0.5:502", Behind: &behind}, LinesBus{}, 3},
		{"mast", modbus.Config{}, LinesBus{Serial: serial.Config{Path: "/dev/serial0", Baud: 4800, Format: "8N1"}, Framing: serial.Lines{Checksum: "nmea"}}, 1},
		{"tcp://192.168.10.6:1502", modbus.Config{URL: "tcp://192.168.10.6:1502"}, LinesBus{}, 2},
	} {
		b := cfg.Buses[i]
		if b.ID != want.id || !reflect.DeepEqual(b.Modbus, want.modbus) || !reflect.DeepEqual(b.Lines, want.lines) || len(b.Devices) != want.users {
			t.Errorf("bus %d: %+v with %d devices, want %+v", i, b, len(b.Devices), want)
		}
	}
}

func device(t *testing.T, cfg *Config, id string) *mapping.Device {
	t.Helper()
	for _, d := range cfg.Devices {
		if d.ID == id {
			return d
		}
	}
	t.Fatalf("no device %s", id)
	return nil
}

func point(t *testing.T, d *mapping.Device, name string) *mapping.Point {
	t.Helper()
	for i, p := range d.Points {
		if p.Name == name {
			if d.Device.Points[i] != p.Point {
				t.Errorf("point %d of %s is not the same in both lists", i, d.ID)
			}
			return p
		}
	}
	return nil
}

// TestNearerPolicyWins looks at each of the three parts of a policy, which come
// from the nearest table that says something of it.
func TestNearerPolicyWins(t *testing.T) {
	cfg := mustLoad(t, `-- gateway.toml --
name = "plant-a"
[bus.plc]
address = "tcp://192.168.10.5"
-- devices.d/a.toml --
[device.boiler]
bus = "plc"
unit_id = 1
deadband = 2
max_age = "10m"
window = "1m"
[device.boiler.groups.slow]
publish = "every"
aggregate = "max"
[device.boiler.groups.paced]
min_interval = "5s"
max_age = "0s"
[device.boiler.points]
plain = { holding = 1 }
word  = { holding = 2, enum = { 0 = "off" } }
count = { holding = 3, kind = "counter" }
slow  = { holding = 4, group = "slow" }
own   = { holding = 5, group = "slow", deadband = "1%", aggregate = "min", kind = "counter", window = "5s" }
paced = { holding = 6, group = "paced", deadband = 0 }
every = { holding = 7, publish = "every", window = "0s" }
`, nil)
	const minute = time.Minute
	two := mapping.Deadband{Abs: 2}
	for name, want := range map[string]mapping.Policy{
		"plain": {OnChange: true, Deadband: two, Window: minute, Aggregate: mapping.Mean, MaxAge: 10 * minute},
		"word":  {OnChange: true, Deadband: two, Window: minute, MaxAge: 10 * minute},
		"count": {OnChange: true, Deadband: two, Window: minute, MaxAge: 10 * minute},
		"slow":  {Window: minute, Aggregate: mapping.Max, MaxAge: 10 * minute},
		"own":   {OnChange: true, Deadband: mapping.Deadband{Percent: 1}, Window: 5 * time.Second, Aggregate: mapping.Min, MaxAge: 10 * minute},
		"paced": {OnChange: true, MinInterval: 5 * time.Second},
		"every": {MaxAge: 10 * minute},
	} {
		if got := point(t, device(t, cfg, "boiler"), name).Policy; got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func TestNearerWins(t *testing.T) {
	cfg := mustLoad(t, plant, nil)
	main := device(t, cfg, "main")
	if main.Unit != (modbus.Unit{ID: 7, MaxRead: 40}) {
		t.Errorf("unit is %+v, want 7 of site.toml with max_read of the profile", main.Unit)
	}
	if point(t, main, "voltage") != nil {
		t.Error("voltage was dropped but is there")
	}
	power, energy := point(t, main, "power"), point(t, main, "energy")
	if power.Type != mapping.F32 || power.Every != time.Second || power.Policy.Deadband != (mapping.Deadband{Percent: 2}) || power.Unit != "W" {
		t.Errorf("power: %+v every %v", power, power.Every)
	}
	if energy.Every != 2*time.Minute || energy.Group != "slow" || energy.Kind != mapping.Counter {
		t.Errorf("energy: %+v every %v", energy, energy.Every)
	}
	pump := point(t, device(t, cfg, "boiler"), "pump")
	if pump.Source != (modbus.Register{Table: modbus.Holding, Address: 9, Count: 1}) {
		t.Errorf("pump is at %v; site.toml says holding 9 in place of the coil", pump.Source)
	}
	for _, want := range []struct {
		id, name string
		every    time.Duration
	}{{"floor1-11", "f1-11", time.Second}, {"floor1-12", "lift", 500 * time.Millisecond}, {"floor1-13", "f1-13", time.Second}} {
		d := device(t, cfg, want.id)
		if d.Name != want.name || point(t, d, "power").Every != want.every || d.Profile != "acme/meter" {
			t.Errorf("%s is called %q and read every %v, want %+v", d.ID, d.Name, point(t, d, "power").Every, want)
		}
	}
}

func TestQuirksOfADevice(t *testing.T) {
	cfg := mustLoad(t, plant+`
-- devices.d/odd.toml --
[device.odd]
bus = "rs485"
unit_id = 99
forbid = ["11175", "input 200-210"]
blocks = "holding 40-50"
single = true
from_zero = ["coil"]
points.a = { holding = 45 }
`, nil)
	want := &modbus.Quirks{
		Forbid: []modbus.Range{{First: 11175, Last: 11175}, {Table: modbus.Input, First: 200, Last: 210}},
		Blocks: []modbus.Range{{Table: modbus.Holding, First: 40, Last: 50}},
		Single: true, FromZero: []modbus.Table{modbus.Coil},
	}
	if got := device(t, cfg, "odd").Unit.(modbus.Unit).Quirks; !reflect.DeepEqual(got, want) {
		t.Errorf("quirks are %+v, want %+v", got, want)
	}
}

func TestPointsMeanWhatWasWritten(t *testing.T) {
	cfg := mustLoad(t, plant, nil)
	boiler := device(t, cfg, "boiler")
	if boiler.Unit != (modbus.Unit{ID: 255, MaxRead: 20, Gaps: true, Pause: 5 * time.Millisecond}) || boiler.Tags["building"] != "north" {
		t.Errorf("boiler: %+v %v", boiler.Unit, boiler.Tags)
	}
	min, max, step := mapping.Decimal{Mant: 30}, mapping.Decimal{Mant: 85}, mapping.Decimal{Mant: 5, Exp: -1}
	register := func(table modbus.Table, address, count uint16) modbus.Register {
		return modbus.Register{Table: table, Address: address, Count: count}
	}
	for name, want := range map[string]mapping.Point{
		"mode":     {Type: mapping.U16, Order: mapping.CDAB, Enum: map[int64]string{0: "off", 16: "auto", -1: "none"}, Write: &mapping.Write{}},
		"status":   {Type: mapping.U16, Order: mapping.CDAB, Bits: map[int]string{0: "running", 3: "fault"}},
		"setpoint": {Type: mapping.I16, Order: mapping.CDAB, Scale: mapping.Decimal{Mant: 1, Exp: -1}, Unit: "°C", Write: &mapping.Write{Min: &min, Max: &max, Step: &step, NoVerify: true}},
		"heat":     {Type: mapping.U32, Scale: mapping.Decimal{Mant: 1025, Exp: -5}, Offset: mapping.Decimal{Mant: -5}, Invalid: []int64{0xFFFFFFFF}},
		"label":    {Type: mapping.String, Length: 6, Order: mapping.CDAB},
		"run":      {Type: mapping.Bool, Length: 2, Order: mapping.CDAB},
	} {
		got := *point(t, boiler, name)
		source := got.Source
		if got.Every != defaultEvery {
			t.Errorf("%s is read every %v", name, got.Every)
		}
		got.Point = nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		if at := map[string]modbus.Register{
			"mode": register(modbus.Holding, 100, 1), "status": register(modbus.Holding, 101, 1), "setpoint": register(modbus.Holding, 102, 1),
			"heat": register(modbus.Holding, 110, 2), "label": register(modbus.Input, 5, 3), "run": register(modbus.Holding, 7, 1),
		}[name]; source != at {
			t.Errorf("%s is at %v, want %v", name, source, at)
		}
	}
	mast := device(t, cfg, "mast")
	if p := point(t, mast, "speed"); p.Source != (serial.Field{Sentence: "MWV", Index: 3}) || !p.FromText || p.Type != mapping.F64 || p.Every != 0 {
		t.Errorf("speed: %+v at %v", p, p.Source)
	}
	if p := point(t, mast, "valid"); p.Type != mapping.Text || p.EnumText["A"] != "valid" || mast.Unit != nil {
		t.Errorf("valid: %+v", p)
	}
}

func TestBridgeTakesRulesAndCertificate(t *testing.T) {
	cfg := mustLoad(t, plant, nil)
	b := cfg.Bridges[0]
	want := bridge.Config{
		Name: "aws", URLs: []string{"tls://ats.example.com"}, ClientID: "plant-a-1", QoS: 1, TLS: b.TLS,
		Send:    []bridge.Rule{{From: "plant-a/+", To: "dt/plant-a/+"}, {From: "plant-a/+/_status", To: "dt/plant-a/+/_status"}},
		Receive: []bridge.Rule{{From: "cmd/plant-a/+/_set", To: "plant-a/+/_set"}},
		Replay:  bridge.Strict, MaxAge: 14 * 24 * time.Hour, KeepAlive: 30 * time.Second, Window: 50,
	}
	if !reflect.DeepEqual(b.Config, want) {
		t.Errorf("bridge: %+v\nwant %+v", b.Config, want)
	}
	if b.StatusTopic != "dt/plant-a/_status" {
		t.Errorf("the status goes to %q", b.StatusTopic)
	}
	if b.TLS.RootCAs == nil || b.TLS.MinVersion < 0x0303 {
		t.Errorf("TLS: %+v", b.TLS)
	}
	first, err := b.TLS.GetClientCertificate(nil)
	if err != nil || len(first.Certificate) != 1 {
		t.Fatalf("client certificate: %v %v", first, err)
	}
	renewed := newPair(t)
	write(t, filepath.Join(cfg.Dir, "credentials/aws.crt"), renewed.cert)
	if half, err := b.TLS.GetClientCertificate(nil); err != nil || !reflect.DeepEqual(half, first) {
		t.Errorf("with only one file renewed: %v, want the first certificate", err)
	}
	write(t, filepath.Join(cfg.Dir, "credentials/aws.key"), renewed.key)
	if second, err := b.TLS.GetClientCertificate(nil); err != nil || reflect.DeepEqual(second.Certificate, first.Certificate) {
		t.Errorf("after a renewal the old certificate is used (%v)", err)
	}
	second, _ := b.Cert.Leaf()
	write(t, filepath.Join(cfg.Dir, "credentials/aws.crt"), newPair(t).cert)
	if third, _ := b.Cert.Leaf(); !third.Equal(second) {
		t.Error("with half of the next renewal the one before is forgotten")
	}
}

func TestDefaults(t *testing.T) {
	cfg := mustLoad(t, "-- gateway.toml --\n[device.a]\nbus = \"tcp://10.0.0.1\"\nunit_id = 1\npoints.x = { input = 1 }\n", nil)
	if cfg.Name != "raspberrypi" || cfg.Timezone != time.Local || len(cfg.Bridges) != 0 {
		t.Errorf("name %q, zone %v, %d bridges", cfg.Name, cfg.Timezone, len(cfg.Bridges))
	}
	if want := []broker.Listen{{Network: "tcp", Address: "127.0.0.1:1883"}}; !reflect.DeepEqual(cfg.Listen, want) {
		t.Errorf("listens at %v", cfg.Listen)
	}
	if !reflect.DeepEqual(cfg.Publish, mapping.DefaultPublish()) {
		t.Errorf("publishes %+v", cfg.Publish)
	}
	if want := (Spool{Size: 512 << 20, Sync: spool.Policy{Mode: spool.Interval, Every: 5 * time.Second}}); cfg.Spools[broker.Telemetry] != want {
		t.Errorf("telemetry: %+v", cfg.Spools[broker.Telemetry])
	}
	if want := (Spool{Size: 64 << 20, Sync: spool.Policy{Mode: spool.Always}}); cfg.Spools[broker.Critical] != want {
		t.Errorf("critical: %+v", cfg.Spools[broker.Critical])
	}
}

// TestHashTellsWhatDiffers: layout and secrets do not change it, meaning does.
func TestHashTellsWhatDiffers(t *testing.T) {
	const head = "-- gateway.toml --\nname = \"a\"\n[bridge.b]\nurl = \"tcp://127.0.0.1\"\npassword = \"%s\"\nsend = { \"{name}/#\" = \"x/#\" }\n"
	const device = "-- devices.d/%s.toml --\n[device.d]\nbus = \"tcp://10.0.0.1\"\nunit_id = %s\npoints.x = { input = 1 }\n"
	hash := func(password, file, unit string) string {
		dir, _ := unpack(t, fmt.Sprintf(head, password)+fmt.Sprintf(device, file, unit))
		cfg, report := Load(dir, testOptions(nil))
		if cfg == nil {
			t.Fatal(report.Err())
		}
		return cfg.Hash()
	}
	one := hash("x", "a", "1")
	if len(one) != 12 || hash("yy", "other", "0x1") != one {
		t.Error("password, file name or notation change the hash")
	}
	if hash("x", "a", "2") == one {
		t.Error("another unit id does not change the hash")
	}
}

func TestSecretsAreFoundAndHidden(t *testing.T) {
	creds := t.TempDir()
	write(t, filepath.Join(creds, "pass"), "from systemd\n")
	archive := `-- gateway.toml --
name = "${env:NAME}"
[bridge.b]
url = "tls://example.com"
username = "${file:user.txt}"
password = "${cred:pass}"
send = { "{name}/#" = "x/#" }
[device.d]
bus = "tcp://10.0.0.1"
unit_id = 1
points.x = { input = 1 }
-- user.txt --
me
-- credentials/pass --
from the folder
`
	env := map[string]string{"NAME": "plant-a", "CREDENTIALS_DIRECTORY": creds}
	b := mustLoad(t, archive, env).Bridges[0]
	if b.Username != "me" || b.Password != "from systemd" || b.Send[0].From != "plant-a/#" {
		t.Errorf("%q %q %v", b.Username, b.Password, b.Send)
	}
	delete(env, "CREDENTIALS_DIRECTORY")
	if b := mustLoad(t, archive, env).Bridges[0]; b.Password != "from the folder" {
		t.Errorf("without systemd: %q", b.Password)
	}
	s := Secret("hunter2")
	text, _ := json.Marshal(s)
	shown := fmt.Sprintf("%v %s %+v %#v %q", s, s, s, s, s) + string(text) + slog.AnyValue(s).Resolve().String()
	if strings.Contains(shown, "hunter2") || s.Reveal() != "hunter2" {
		t.Errorf("shown as %s", shown)
	}
}

// TestMessagesShowReferences: what a reference stands for is in no message.
func TestMessagesShowReferences(t *testing.T) {
	dir, _ := unpack(t, "-- gateway.toml --\nname = \"${env:A}\"\ntimezone = \"${env:B}\"\n[bus.x]\naddress = \"${env:C}\"\n[broker]\nlisten = [\"${env:D}\"]\n")
	_, report := Load(dir, testOptions(map[string]string{"A": "hunter/2", "B": "hunter 2", "C": "ftp-hunter2", "D": "hunter\"2"}))
	var b strings.Builder
	report.WriteTo(&b)
	if strings.Contains(b.String(), "hunter") || report.Errors() != 4 {
		t.Errorf("reports:\n%s", b.String())
	}
}

// A secret that everyone may read or change is refused; what is no secret is
// only spoken of.
func TestOpenSecretsAreRefused(t *testing.T) {
	archive := "-- gateway.toml --\nname = \"a\"\n[bridge.b]\nurl = \"tls://example.com\"\nVALUE\nsend = { \"{name}/#\" = \"x/#\" }\n[device.d]\nbus = \"tcp://10.0.0.1\"\nunit_id = 1\npoints.x = { input = 1 }\n-- pass --\nCONTENT\n-- key --\nKEY\n-- crt --\nCERT\n"
	own := newPair(t)
	for _, step := range []struct {
		value, content, file string
		mode                 os.FileMode
		want                 string
		severity             Severity
	}{
		{`password = "${file:pass}"`, "hunter2", "pass", 0o640, "", 0},
		{`password = "${file:pass}"`, "hunter2", "pass", 0o644, "may read DIR/pass: chmod 640 DIR/pass", Error},
		{`password = "${file:pass}"`, "hunter2", "pass", 0o642, "may change DIR/pass: chmod 640 DIR/pass", Error},
		{"preset = \"azure-iot-hub\"\nclient_id = \"a\"\nsas_key = \"${file:pass}\"", "aHVudGVyMg==", "pass", 0o644, "may read DIR/pass: chmod 640", Error},
		{"cert = \"crt\"\nkey = \"key\"", "", "key", 0o644, "may read DIR/key: chmod 640", Error},
		{"cert = \"crt\"\nkey = \"key\"", "", "crt", 0o644, "", 0},
		{`proxy = "${file:pass}"`, "http://me:hunter2@proxy:3128", "pass", 0o644, "may read DIR/pass: chmod 640", Error},
		{`username = "${file:pass}"`, "me", "pass", 0o644, "may read DIR/pass: chmod 640", Warning},
	} {
		dir, _ := unpack(t, strings.NewReplacer("VALUE", step.value, "CONTENT", step.content, "KEY", own.key, "CERT", own.cert).Replace(archive))
		if err := os.Chmod(filepath.Join(dir, step.file), step.mode); err != nil {
			t.Fatal(err)
		}
		_, report := Load(dir, testOptions(nil))
		found := false
		for _, i := range report.Issues {
			found = found || step.want != "" && i.Severity == step.severity && strings.Contains(i.Message, strings.ReplaceAll(step.want, "DIR", dir))
			if step.want == "" && strings.Contains(i.Message, "everyone") {
				t.Errorf("%s in a file of mode %o: %s", step.value, step.mode, i.Message)
			}
		}
		if found != (step.want != "") {
			t.Errorf("%s in a file of mode %o: %+v", step.value, step.mode, report.Issues)
		}
	}
}

// What is shown of settings holds no secret, however it is written.
func TestSettingsHideSecrets(t *testing.T) {
	dir, _ := unpack(t, "-- gateway.toml --\nname = \"a\"\n[bridge.b]\nurl = \"tls://example.azure-devices.net\"\npreset = \"azure-iot-hub\"\nclient_id = \"a\"\nsas_key = \"aHVudGVyMg==\"\nproxy = \"http://me:hunter@hunter2@proxy:3128\"\n[bridge.c]\nurl = \"tls://example.com\"\nusername = \"u\"\npassword = \"hunter2\"\nsned = 1\n")
	opts := testOptions(nil)
	var settings []Setting
	opts.Settings = &settings
	cfg, report := Load(dir, opts)
	var b strings.Builder
	report.WriteTo(&b)
	if cfg != nil || strings.Contains(b.String(), "hunter") || strings.Contains(b.String(), "aHVud") {
		t.Errorf("%v\n%s", cfg, &b)
	}
	text, _ := os.ReadFile(filepath.Join(dir, "gateway.toml"))
	write(t, filepath.Join(dir, "gateway.toml"), strings.ReplaceAll(string(text), "sned = 1\n", ""))
	settings = nil
	cfg, report = Load(dir, opts)
	if cfg == nil {
		t.Fatal(report.Err())
	}
	shown := fmt.Sprint(settings)
	if strings.Contains(shown, "hunter") || strings.Contains(shown, "aHVud") || strings.Count(shown, hidden) != 3 || !strings.Contains(shown, "proxy:3128") {
		t.Error(shown)
	}
}

// TestCheckForgivesMissingSecrets: systemd gives them to the service only.
func TestCheckForgivesMissingSecrets(t *testing.T) {
	dir, _ := unpack(t, plant)
	if err := os.RemoveAll(filepath.Join(dir, "credentials")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca.crt"), newPair(t).cert)
	elsewhere := testOptions(nil)
	elsewhere.SecretsElsewhere = true
	if cfg, r := Load(dir, elsewhere); cfg == nil || r.Errors() != 0 || r.Warnings() != 2 {
		t.Errorf("check: %s", r.Summary())
	}
	if cfg, r := Load(dir, testOptions(nil)); cfg != nil || r.Errors() != 2 {
		t.Errorf("load: %s", r.Summary())
	}
}

func TestFilesAreThoseOfTheFolder(t *testing.T) {
	cfg := mustLoad(t, "-- gateway.toml --\nname = \"a\"\n-- devices.d/.hidden.toml --\n[\n-- devices.d/notes.txt --\n[\n-- profiles/acme/meter.toml --\n[points]\nx = { input = 1 }\n"+
		"-- devices.d/d.toml --\n[device.d]\nbus = \"tcp://10.0.0.1\"\nunit_id = 1\nprofile = \"acme/meter\"\n", nil)
	if want := []string{"gateway.toml", "devices.d/d.toml", "profiles/acme/meter.toml"}; !reflect.DeepEqual(cfg.Files, want) {
		t.Errorf("read %v, want %v", cfg.Files, want)
	}
	if d := device(t, cfg, "d"); len(d.Points) != 1 || d.Points[0].Name != "x" {
		t.Errorf("the folder's own profile is not over the built-in one: %v", d.Points)
	}
}

func TestMissingFolder(t *testing.T) {
	_, report := Load(filepath.Join(t.TempDir(), "none"), Options{})
	if err := report.Err(); err == nil || !strings.Contains(err.Error(), "gateway init") {
		t.Errorf("err: %v", err)
	}
}
