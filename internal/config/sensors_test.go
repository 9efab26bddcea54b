package config

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/configs"
	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

func bytesOf(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// crc16 of P1, reflected bit by bit, so that serial.Sum is not its own judge.
func crc16(s string) (crc uint16) {
	for i := range len(s) {
		crc ^= uint16(s[i])
		for range 8 {
			low := crc & 1
			if crc >>= 1; low != 0 {
				crc ^= 0xa001
			}
		}
	}
	return crc
}

const p1Lines = "1-0:1.8.1(001581.123*kWh)\r\n1-0:1.8.2(001435.706*kWh)\r\n1-0:2.8.1(000000.000*kWh)\r\n1-0:2.8.2(000012.500*kWh)\r\n" +
	"0-0:96.14.0(0002)\r\n1-0:1.7.0(02.027*kW)\r\n1-0:2.7.0(00.000*kW)\r\n0-1:24.2.1(161129200000W)(00981.443*m3)\r\n"

const p1Values = "energy_import_t1=1581.123 energy_import_t2=1435.706 energy_export_t1=0 energy_export_t2=12.5 tariff=2 power_import=2027 power_export=0"

func p1Telegram() string {
	s := "/ISk5\\2MT382-1000\r\n\r\n1-3:0.2.8(50)\r\n" + p1Lines + "!"
	return s + fmt.Sprintf("%04X\r\n", crc16(s))
}

func veText() string {
	s := "\r\nPID\t0xA053\r\nFW\t159\r\nSER#\tHQ2132QY2KR\r\nV\t12800\r\nI\t-15\r\nVPV\t3350\r\nPPV\t130\r\nCS\t3\r\nERR\t0\r\nH19\t456\r\nHSDS\t0\r\nChecksum\t"
	var sum byte
	for i := range len(s) {
		sum += s[i]
	}
	return s + string([]byte{-sum})
}

// sensors are frames built by hand from what is specified, for each profile
// that has frames.
var sensors = map[string]struct{ frame, want string }{
	"nova/sds011":       {bytesOf("AA C0 D4 04 3A 0A A1 60 1D AB"), "pm2_5=123.6 pm10=261.8"},
	"plantower/pms5003": {bytesOf("42 4D 00 1C 00 05 00 0A 00 0C 00 04 00 09 00 0B 03 E8 01 2C 00 50 00 0A 00 02 00 01 97 00 02 EA"), "pm1=4 pm2_5=9 pm10=11"},
	"winsen/mhz19":      {bytesOf("FF 86 02 60 47 00 00 00 D1"), "co2=608 temperature=31"},
	"dsmr/p1":           {p1Telegram(), p1Values},
	"dsmr/p1v2":         {"/ISk5\\2MT382-1004\r\n\r\n0-0:96.1.1(00000000000000)\r\n" + p1Lines + "!\r\n", p1Values},
	"victron/mppt":      {veText(), "voltage_battery=12.8 current_battery=0.015 voltage_solar=3.35 power_solar=130 energy_solar=4.56 state=bulk alarm=0"},
}

// A sensor plays the device of a profile to the reader that the configuration
// makes for it, and collects what comes out.
type sensor struct {
	far   net.Conn
	mu    sync.Mutex
	heard []string
	sent  []string // to it
}

func startSensor(t *testing.T, profile string) *sensor {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "gateway.toml"), "name = \"plant-a\"\n[bus.s]\naddress = \"tcp://127.0.0.1:4001\"\nprotocol = \"frames\"\n[device.s]\nbus = \"s\"\nprofile = \""+profile+"\"\nevery = \"10ms\"\ngroups.slow.every = \"10ms\"\n")
	cfg, report := Load(dir, Options{Profiles: configs.Profiles})
	if cfg == nil {
		t.Fatal(report.Summary())
	}
	near, far := net.Pipe()
	s := &sensor{far: far}
	bus := cfg.Buses[0]
	for i := range bus.Lines.Polls {
		bus.Lines.Polls[i].Every = 10 * time.Second
	}
	r, err := serial.NewReader(serial.ReaderConfig{
		Bus: "s", Devices: []*devices.Device{bus.Devices[0].Device}, Framing: bus.Lines.Framing, Polls: bus.Lines.Polls,
		Open: func() (serial.Stream, error) { return near, nil },
		Now:  func() devices.Stamp { return devices.Stamp(time.Now().UnixNano()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Listen(ctx, func(b *devices.Batch) { s.take(cfg.Devices[0], b) }) })
	wg.Go(func() { // what the reader asks
		b := make([]byte, 100)
		for {
			n, err := far.Read(b)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.sent = append(s.sent, fmt.Sprintf("% X", b[:n]))
			s.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); far.Close(); wg.Wait() })
	synctest.Wait()
	return s
}

func (s *sensor) take(dev *mapping.Device, b *devices.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range b.Readings {
		i := slices.IndexFunc(dev.Points, func(p *mapping.Point) bool { return p.Point == r.Point })
		what := r.Point.Name + "!"
		if r.Err == nil {
			v, err := mapping.Decode(dev.Points[i], r.Raw)
			what = r.Point.Name + "=" + strings.Trim(string(v.AppendJSON(nil)), `"`)
			if err != nil {
				what = r.Point.Name + "!" + err.Error()
			}
		}
		s.heard = append(s.heard, what)
	}
	b.Release()
}

// say sends a part and returns what was heard since the last call.
func (s *sensor) say(t *testing.T, text string) string {
	t.Helper()
	if _, err := io.WriteString(s.far, text); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	heard := strings.Join(s.heard, " ")
	s.heard = nil
	return heard
}

// asked returns what it was sent since the last call.
func (s *sensor) asked() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := s.sent
	s.sent = nil
	return sent
}

// Each profile with frames reads the values that were put into one by hand,
// between noise, and none from a frame with a wrong bit.
func TestSensorProfiles(t *testing.T) {
	for profile, c := range sensors {
		t.Run(profile, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startSensor(t, profile)
				if s.say(t, c.frame); profile == "victron/mppt" {
					time.Sleep(time.Second) // only after the first block is it known where blocks begin
				} else if profile == "winsen/mhz19" && fmt.Sprint(s.sent) != "[FF 01 86 00 00 00 00 00 79]" {
					t.Errorf("asked %q", s.sent)
				}
				time.Sleep(time.Second)
				if got := s.say(t, c.frame); got != c.want {
					t.Errorf("heard %q, want %q", got, c.want)
				}
				for i := range len(c.frame) * 8 {
					spoiled := []byte(c.frame)
					spoiled[i/8] ^= 1 << (i % 8)
					time.Sleep(time.Second)
					if got := s.say(t, string(spoiled)); got != "" && profile != "dsmr/p1v2" && !sameButForCase(spoiled, c.frame) {
						t.Fatalf("bit %d of byte %d: heard %q", i%8, i/8, got)
					}
					time.Sleep(time.Second)
					s.say(t, c.frame) // VE.Direct needs one to find its feet
				}
				time.Sleep(time.Second)
				s.say(t, "\x00\xffnoise\r\n")
				time.Sleep(time.Second)
				s.say(t, c.frame)
				time.Sleep(time.Second)
				if got := s.say(t, c.frame); got != c.want {
					t.Errorf("after all that heard %q, want %q", got, c.want)
				}
			})
		})
	}
}

// sameButForCase excepts the digits of a checksum, which may be small.
func sameButForCase(spoiled []byte, good string) bool {
	return strings.EqualFold(string(spoiled), good)
}

const meterProfile = "iec/meter"

// meterBlock is a data message by IEC 62056-21, 6.3.4, of an MT174, published
// with its check character by others.
const meterBlock = "\x021-0:0.9.2*255(0220127)\r\n1-0:0.9.1*255(105644)\r\n1-0:1.8.0*255(0000502.853*kWh)\r\n1-0:2.8.0*255(0098697.318*kWh)\r\n!\r\n\x03\x19"

// The profile of meters calls, agrees to stay at the speed of a converter, and
// reads what the block has; nothing from one with a wrong bit.
func TestMeterProfile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSensor(t, meterProfile)
		spoiled := strings.Replace(meterBlock, "502", "503", 1)
		for _, c := range []struct{ block, want string }{
			{meterBlock, "energy_import=502.853 energy_import_t1! energy_import_t2! energy_export=98697.318"},
			{spoiled, ""}, // and asks again
			{spoiled, "energy_import! energy_import_t1! energy_import_t2! energy_export!"},
			{meterBlock, "energy_import=502.853 energy_import_t1! energy_import_t2! energy_export=98697.318"},
		} {
			for fmt.Sprint(s.asked()) != "[2F 3F 21 0D 0A]" {
				time.Sleep(10 * time.Millisecond)
			}
			s.say(t, "/ISk5MT174-0002\r\n")
			time.Sleep(25 * time.Millisecond)
			if got := fmt.Sprint(s.asked()); got != "[06 30 30 30 0D 0A]" {
				t.Errorf("told %s", got)
			}
			if got := s.say(t, c.block); got != c.want {
				t.Errorf("heard %q, want %q", got, c.want)
			}
		}
	})
}

// TestSensorsAreComplete finds a profile with frames that is not tested here.
func TestSensorsAreComplete(t *testing.T) {
	names, err := filepath.Glob("../../configs/profiles/*/*.toml")
	if err != nil || len(names) < 10 {
		t.Fatal(names, err)
	}
	for _, file := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(file), "../../configs/profiles/"), ".toml")
		text, err := configs.Profiles.ReadFile("profiles/" + name + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		_, tested := sensors[name]
		tested = tested || name == meterProfile
		if tested != strings.Contains(string(text), "[frame]") {
			t.Errorf("%s: tested %v", name, tested)
		}
	}
}

// TestReadersAreConfigured looks at what the readers of buses are given.
func TestReadersAreConfigured(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "gateway.toml"), `name = "plant-a"
[bus.air]
address = "/dev/ttyS0"
baud = 9600
protocol = "frames"
timeout = "300ms"
rs485 = { before = "1ms" }
low_latency = true
[device.air]
bus = "air"
profile = "winsen/mhz19"
points.co2.every = "2s"
[bus.json]
address = "tcp://127.0.0.1:4001"
protocol = "lines"
[device.json]
bus = "json"
parse = "json"
line."*".t = { field = "a.t", type = "f64" }
`)
	cfg, report := Load(dir, Options{Profiles: configs.Profiles})
	if cfg == nil {
		t.Fatal(report.Summary())
	}
	air := cfg.Buses[0].Lines
	if p := air.Polls; len(p) != 1 || p[0].Every != 2*time.Second || p[0].Timeout != 300*time.Millisecond || len(p[0].Send) != 9 || p[0].Retries != 1 {
		t.Errorf("%+v", p)
	}
	if want := (serial.RS485{Direction: serial.DirectionAuto, Before: time.Millisecond}); air.Serial.RS485 != want || !air.Serial.LowLatency {
		t.Errorf("%+v", air.Serial)
	}
	if f := cfg.Buses[1].Lines.Framing; f != (serial.Lines{Parse: "json"}) {
		t.Errorf("%+v", f)
	}
	if p := cfg.Devices[0].Points[1]; p.Source != (serial.Span{At: 4, Len: 1, Pad: 1}) || p.Type != mapping.U16 || p.FromText {
		t.Errorf("%+v from %+v", p, p.Source)
	}
}
