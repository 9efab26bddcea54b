package simulator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// run serves a plant until the test ends.
func run(t testing.TB, s *Simulator) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatalf("run: %v", err)
	}
}

// TestStopsWithNothingLeft stops buses of all kinds in the middle of their
// work.
func TestStopsWithNothingLeft(t *testing.T) {
	t.Run("busy", func(t *testing.T) {
		b := buses(meter(1).device("bus"))
		lines := Bus{Name: "mast", Kind: Lines, Baud: 300, Framing: serial.Lines{Checksum: "nmea"}, Devices: []*mapping.Device{mast()}}
		plan := []Bus{lines}
		for name, bus := range b {
			bus.Name = name
			bus.Faults = map[byte]Fault{1: {Latency: time.Hour}}
			plan = append(plan, bus)
		}
		s := newPlant(t, nil, Config{Buses: plan})
		run(t, s)
		for name, bus := range b {
			readOne(t, line(t, s, name, 50*time.Millisecond), bus.Devices[0], "power")
		}
	})
	checkLeaks(t)
}

// checkLeaks looks for goroutines of this package. One that has done its last
// work may need a moment to be gone.
func checkLeaks(t testing.TB) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	left := ""
	for range 10000 {
		left = ""
		for _, g := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(g, "simulator.(*") || strings.Contains(g, "pty.(*") {
				left = g
			}
		}
		if left == "" {
			return
		}
		runtime.Gosched()
	}
	t.Errorf("left behind: %s", left)
}

// line connects to a bus as the gateway does.
func line(t testing.TB, s *Simulator, name string, timeout time.Duration) *modbus.Line {
	t.Helper()
	b, err := s.bus(name)
	if err != nil {
		t.Fatal(err)
	}
	cfg := modbus.Config{URL: s.Addresses()[name], Timeout: timeout}
	switch {
	case b.Carrier == Encrypted:
		pool := x509.NewCertPool()
		pool.AddCert(b.TLS.Certificates[0].Leaf)
		cfg.TLS = &tls.Config{RootCAs: pool}
	case b.Carrier == Line:
		cfg.Serial = serial.Config{Baud: b.Baud, Format: b.Format}
		if b.Kind == ASCII {
			cfg.Framing = modbus.FramingASCII
		}
	}
	l, err := modbus.NewLine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// ownCertificate is one that proves 127.0.0.1 to who has it.
func ownCertificate() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}}
}

// readAll reads all points of dev once and returns its readings by name.
func readAll(t testing.TB, l *modbus.Line, dev *mapping.Device) map[string]devices.Reading {
	t.Helper()
	queries, err := l.Plan(dev.Device, dev.Device.Points)
	if err != nil {
		t.Fatal(err)
	}
	b := devices.NewBatch(dev.Device)
	for _, q := range queries {
		q.Do(t.Context(), b) // the readings carry the error
	}
	got := map[string]devices.Reading{}
	for _, r := range b.Readings {
		got[r.Point.Name] = r
	}
	if len(got) != len(dev.Points) {
		t.Fatalf("%d readings of %d points", len(got), len(dev.Points))
	}
	return got
}

// readOne reads one point of dev.
func readOne(t testing.TB, l *modbus.Line, dev *mapping.Device, name string) devices.Reading {
	t.Helper()
	for _, p := range dev.Device.Points {
		if p.Name == name {
			return readAll(t, l, newTestDevice(&devices.Device{ID: dev.ID, Unit: dev.Unit}, []*mapping.Point{{Point: p}}))[name]
		}
	}
	t.Fatalf("no point %s", name)
	return devices.Reading{}
}

// buses are all ways on which registers travel.
func buses(devs ...*mapping.Device) map[string]Bus {
	return map[string]Bus{
		"tcp":       {Name: "bus", Kind: TCP, Devices: devs},
		"tls":       {Name: "bus", Kind: TCP, Carrier: Encrypted, TLS: ownCertificate(), Devices: devs},
		"udp":       {Name: "bus", Kind: TCP, Carrier: Datagrams, Devices: devs},
		"rtu":       {Name: "bus", Kind: RTU, Baud: 115200, Format: "8N1", Devices: devs},
		"rtu+tcp":   {Name: "bus", Kind: RTU, Carrier: Socket, Devices: devs},
		"rtu+udp":   {Name: "bus", Kind: RTU, Carrier: Datagrams, Devices: devs},
		"ascii":     {Name: "bus", Kind: ASCII, Baud: 115200, Format: "7E1", Devices: devs},
		"ascii+tcp": {Name: "bus", Kind: ASCII, Carrier: Socket, Devices: devs},
	}
}

// byKind chooses what holds for frames with a header, or on serial lines.
func byKind(b Bus, header, line string) string {
	if b.Kind == TCP {
		return header
	}
	return line
}

// TestReadsWhatIsHeld reads every type with the real line and compares it
// with what the simulator says it holds.
func TestReadsWhatIsHeld(t *testing.T) {
	for kind, b := range buses(everyType(t, 1).device("bus"), boiler(t, 2).device("bus")) {
		for _, check := range []bool{false, true} {
			t.Run(kind, func(t *testing.T) {
				s := newPlant(t, newClock(), Config{Buses: []Bus{b}, Check: check})
				run(t, s)
				l := line(t, s, "bus", 0)
				for range 3 {
					for _, dev := range b.Devices {
						for name, r := range readAll(t, l, dev) {
							if r.Err != nil || !s.Holds(dev.ID, name, r.Raw) {
								t.Errorf("%s: read %x, %v; held is never that", name, r.Raw, r.Err)
							}
						}
					}
				}
			})
		}
	}
}

func TestWritesAreKept(t *testing.T) {
	for kind, b := range buses(boiler(t, 2).device("bus")) {
		t.Run(kind, func(t *testing.T) {
			s := newPlant(t, newClock(), Config{Buses: []Bus{b}})
			run(t, s)
			l, dev := line(t, s, "bus", 0), b.Devices[0]
			for name, text := range map[string]string{"pump": "off", "mode": "manual", "setpoint": "71.5", "limit": "4000000000"} {
				if err := writeAndVerify(t, l, dev, name, text); err != nil {
					t.Errorf("write %s to %s: %v", text, name, err)
				}
				if v, _ := s.Value("boiler", name); v.String() != text && v.String() != "false" {
					t.Errorf("%s holds %v, written was %s", name, v, text)
				}
			}
			if err := writeAndVerify(t, l, dev, "setpoint", "85.5"); devices.Cause(err) != "illegal data value" {
				t.Errorf("setpoint above its maximum: %v", err)
			}
			if got := s.Counters()[0]; got.Writes != 5 || got.Exceptions != 1 || got.Requests != got.Reads+got.Writes {
				t.Errorf("counted %+v", got)
			}
		})
	}
}

// writeAndVerify writes text with the real line and reads it back.
func writeAndVerify(t *testing.T, l *modbus.Line, dev *mapping.Device, name, text string) error {
	t.Helper()
	p, raw := encode(t, dev, name, text)
	q, err := l.Write(dev.Device, p.Point, raw, true)
	if err != nil {
		t.Fatal(err)
	}
	b := devices.NewBatch(dev.Device)
	if err := q.Do(t.Context(), b); err != nil {
		return err
	}
	for _, r := range b.Readings {
		if r.Err == nil && string(r.Raw) != string(raw) {
			t.Errorf("%s: wrote %x, read back %x", name, raw, r.Raw)
		}
		err = errors.Join(err, r.Err)
	}
	return err
}

// TestOutsideTheMap: registers that the map does not declare are refused, and
// units that are not there are silent.
func TestOutsideTheMap(t *testing.T) {
	for kind, b := range buses(meter(3).device("bus")) {
		t.Run(kind, func(t *testing.T) {
			s := newPlant(t, newClock(), Config{Buses: []Bus{b}})
			run(t, s)
			l := line(t, s, "bus", 200*time.Millisecond)
			strange := &build{id: "strange", unit: 3}
			strange.add(modbus.Holding, "x", mapping.Point{Type: mapping.U16})
			if r := readOne(t, l, strange.device("bus"), "x"); devices.Cause(r.Err) != "illegal data address" {
				t.Errorf("a table without points: %v", r.Err)
			}
			strange.unit = 4
			want := byKind(b, "no answer behind the gateway", "timeout")
			if r := readOne(t, l, strange.device("bus"), "x"); devices.Cause(r.Err) != want {
				t.Errorf("a unit that is not there: %v", r.Err)
			}
		})
	}
}

// TestFaults: each fault is seen for what it is, and ends when it is taken
// away.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		fault    Fault
		tcp, rtu string // cause of the failed reading
	}{
		{Fault{Silent: true}, "timeout", "timeout"},
		{Fault{Exception: 6}, "device busy", "device busy"},
		{Fault{Wrong: WrongUnit}, "*", "*"},
		{Fault{Wrong: WrongFunction}, "*", "*"},
		{Fault{Wrong: WrongCount}, "*", "*"},
		{Fault{Wrong: WrongTransaction}, "timeout", "*"},
		{Fault{Drop: 1}, "*", "*"},
		{Fault{Flip: 1}, "*", "*"},
	} {
		for _, kind := range []string{"tcp", "udp", "rtu", "ascii"} { // of the others see TestNoWrongValueOnAnyPair
			b := buses(meter(1).device("bus"), boiler(t, 2).device("bus"))[kind]
			b.Faults = map[byte]Fault{1: test.fault}
			t.Run(kind, func(t *testing.T) {
				t.Parallel() // they mostly wait
				s := newPlant(t, newClock(), Config{Buses: []Bus{b}})
				run(t, s)
				l := line(t, s, "bus", 150*time.Millisecond)
				want := byKind(b, test.tcp, test.rtu)
				r := readOne(t, l, b.Devices[0], "energy")
				if r.Err == nil || want != "*" && devices.Cause(r.Err) != want {
					t.Errorf("%+v: read %x, %v, want %s", test.fault, r.Raw, r.Err, want)
				}
				if err := s.SetFault("bus", 1, Fault{}); err != nil {
					t.Fatal(err)
				}
				until(t, "good readings after the fault", func() bool {
					r = readOne(t, l, b.Devices[0], "energy")
					return r.Err == nil
				})
				if !s.Holds("meter", "energy", r.Raw) {
					t.Errorf("%+v: after it %x, which was never held", test.fault, r.Raw)
				}
				if got := s.Counters()[0]; got.Faults == 0 {
					t.Errorf("%+v: not counted", test.fault)
				}
			})
		}
	}
}

// TestNoiseIsSurvived: the real line finds the answer behind noise, wherever it
// can be told from it.
func TestNoiseIsSurvived(t *testing.T) {
	for _, kind := range []string{"rtu", "rtu+tcp", "ascii", "ascii+tcp"} {
		b := buses(meter(1).device("bus"))[kind]
		b.Faults = map[byte]Fault{0: {Noise: 3}}
		s := newPlant(t, newClock(), Config{Buses: []Bus{b}})
		run(t, s)
		l := line(t, s, "bus", 500*time.Millisecond)
		for range 5 {
			if r := readOne(t, l, b.Devices[0], "power"); r.Err != nil || !s.Holds("meter", "power", r.Raw) {
				t.Errorf("%s: read %x, %v", kind, r.Raw, r.Err)
			}
		}
	}
}

// TestLateAnswersAreNobodyElses: a unit slower than the timeout never gives
// its value to another point, while another unit answers all the time.
func TestLateAnswersAreNobodyElses(t *testing.T) {
	for kind, b := range buses(meter(1).device("bus"), boiler(t, 2).device("bus")) {
		b.Faults = map[byte]Fault{1: {Latency: 90 * time.Millisecond, Every: 2}}
		t.Run(kind, func(t *testing.T) {
			s := newPlant(t, newClock(), Config{Buses: []Bus{b}, Check: true})
			run(t, s)
			l := line(t, s, "bus", 60*time.Millisecond)
			good := 0
			for i := range 12 {
				for _, dev := range b.Devices {
					name := dev.Points[i%len(dev.Points)].Name
					r := readOne(t, l, dev, name)
					if r.Err != nil {
						continue
					}
					good++
					if !s.Holds(dev.ID, name, r.Raw) {
						t.Errorf("%s of %s: read %x, which it never held", name, dev.ID, r.Raw)
					}
				}
			}
			if good == 0 {
				t.Error("nothing was read")
			}
		})
	}
}

// TestFaultsComeAndGo: Every and Count say which requests are hit.
func TestFaultsComeAndGo(t *testing.T) {
	for _, test := range []struct {
		fault Fault
		want  string // x for each request that is hit
	}{
		{Fault{Exception: 4}, "xxxxxx"},
		{Fault{Exception: 4, Every: 3}, "..x..x"},
		{Fault{Exception: 4, Count: 2}, "xx...."},
		{Fault{Exception: 4, Every: 2, Count: 1}, ".x...."},
	} {
		s := newPlant(t, newClock(), Config{}, meter(1).device("plc"))
		if err := s.SetFault("plc", 0, test.fault); err != nil {
			t.Fatal(err)
		}
		got := ""
		for range test.want {
			if reply := serve(s, 1, readRequest(4, 0, 2)); reply[0] == 4 {
				got += "."
			} else {
				got += "x"
			}
		}
		if got != test.want {
			t.Errorf("%+v: %s, want %s", test.fault, got, test.want)
		}
	}
	s := newPlant(t, newClock(), Config{}, meter(1).device("plc"))
	if s.SetFault("plc", 2, Fault{}) == nil || s.SetFault("nowhere", 1, Fault{}) == nil {
		t.Error("a fault of a unit or bus that does not exist was taken")
	}
}

// TestUnplug: an unplugged bus fails, and is back at the same address.
func TestUnplug(t *testing.T) {
	for kind, b := range buses(meter(1).device("bus")) {
		t.Run(kind, func(t *testing.T) {
			if b.Baud > 0 {
				b.Link = filepath.Join(t.TempDir(), "tty")
			}
			s := newPlant(t, newClock(), Config{Buses: []Bus{b}})
			run(t, s)
			if b.Link != "" && s.Addresses()["bus"] != b.Link {
				t.Errorf("address %s, want the link", s.Addresses()["bus"])
			}
			l := line(t, s, "bus", 200*time.Millisecond)
			if r := readOne(t, l, b.Devices[0], "power"); r.Err != nil {
				t.Fatal(r.Err)
			}
			if err := s.Unplug("bus"); err != nil {
				t.Fatal(err)
			}
			until(t, "the bus is gone", func() bool {
				return errors.Is(readOne(t, l, b.Devices[0], "power").Err, devices.ErrPort)
			})
			if _, err := os.Lstat(b.Link); b.Link != "" && err == nil {
				t.Error("the path of an unplugged port is still there")
			}
			if err := s.Replug("bus"); err != nil {
				t.Fatal(err)
			}
			until(t, "the bus is back", func() bool { return readOne(t, l, b.Devices[0], "power").Err == nil })
		})
	}
	if newPlant(t, nil, Config{}, meter(1).device("plc")).Unplug("nowhere") == nil {
		t.Error("a bus that does not exist was unplugged")
	}
}

// until tries ok until it holds; the test's own deadline ends it.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		if deadline, has := t.Deadline(); t.Context().Err() != nil || has && time.Until(deadline) < time.Second {
			t.Fatalf("never: %s", what)
		}
		runtime.Gosched()
	}
}

func TestUnpluggedFromTheStart(t *testing.T) {
	b := buses(meter(1).device("bus"))["tcp"]
	s := newPlant(t, newClock(), Config{Buses: []Bus{b}})
	if err := s.Unplug("bus"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if err := s.Replug("bus"); err != nil {
		t.Fatal(err)
	}
	<-s.Ready()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWindSensor hears the wind sensor with the gateway's own reader.
func TestWindSensor(t *testing.T) {
	dev := mast()
	s := newPlant(t, nil, Config{Buses: []Bus{{Name: "mast", Kind: Lines, Baud: 4800, Framing: serial.Lines{Checksum: "nmea"}, Devices: []*mapping.Device{dev}}}})
	run(t, s)
	lines, err := serial.NewReader(serial.ReaderConfig{
		Bus: "mast", Devices: []*devices.Device{dev.Device}, Framing: serial.Lines{Checksum: "nmea"},
		Open: func() (serial.Stream, error) {
			return serial.Open(serial.Config{Path: s.Addresses()["mast"], Baud: 4800, Format: "8N1"})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var heard sync.WaitGroup
	heard.Go(func() {
		lines.Listen(ctx, func(b *devices.Batch) {
			defer b.Release()
			for i, r := range b.Readings {
				if r.Err != nil || !s.Holds("mast", r.Point.Name, r.Raw) {
					t.Errorf("%s: heard %q, %v", r.Point.Name, r.Raw, r.Err)
				}
				if v, err := mapping.Decode(dev.Points[i], r.Raw); err != nil || v.IsNull() {
					t.Errorf("%s: %q is %v, %v", r.Point.Name, r.Raw, v, err)
				}
			}
			cancel()
		})
	})
	heard.Wait()
	if got := lines.LineStats(); got.Good == 0 || got.Bad != 0 {
		t.Errorf("heard %+v", got)
	}
}

// mbpoll runs Debian's mbpoll and returns the values it prints.
func mbpoll(t *testing.T, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "mbpoll", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("mbpoll %s: %v\n%s\n(apt install mbpoll)", strings.Join(args, " "), err, out)
	}
	var values []string
	for _, m := range regexp.MustCompile(`(?m)^\[\d+\]:\s+(\S+)`).FindAllStringSubmatch(string(out), -1) {
		values = append(values, m[1])
	}
	return values
}

// TestAgainstMbpoll: a program not written here reads and writes both.
func TestAgainstMbpoll(t *testing.T) {
	for _, kind := range []string{"tcp", "rtu"} {
		t.Run(kind, func(t *testing.T) {
			b := buses(boiler(t, 7).device("bus"))[kind]
			b.Baud = 9600
			s := newPlant(t, newClock(), Config{Buses: []Bus{b}})
			run(t, s)
			address := s.Addresses()["bus"]
			host, port, _ := strings.Cut(strings.TrimPrefix(address, "tcp://"), ":")
			to := []string{host, "-0", "-1", "-a", "7", "-m", "tcp", "-p", port}
			if kind == "rtu" {
				to = []string{address, "-0", "-1", "-a", "7", "-m", "rtu", "-b", "9600", "-P", "none"}
			}
			mbpoll(t, slices.Concat(to, []string{"-t", "4", "-r", "0", "2", "655"})...)
			got := mbpoll(t, slices.Concat(to, []string{"-t", "4", "-r", "0", "-c", "4"})...)
			if len(got) != 4 || got[0] != "2" || got[1] != "655" {
				t.Errorf("mbpoll wrote 2 and 655, then read %q", got)
			}
			if v, _ := s.Value("boiler", "setpoint"); v.String() != "65.5" {
				t.Errorf("setpoint holds %v", v)
			}
			if got := mbpoll(t, slices.Concat(to, []string{"-t", "0", "-r", "0", "-c", "2"})...); len(got) != 2 || got[0] != "1" {
				t.Errorf("coils read as %q", got)
			}
		})
	}
}
