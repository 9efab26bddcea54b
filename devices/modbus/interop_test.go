package modbus

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/devices/serial/pty"
)

// pymodbus starts a server not written here and returns its first line of
// output, when it is ready.
func pymodbus(t *testing.T, args ...string) string {
	t.Helper()
	// Debian's own interpreter, for which python3-pymodbus is installed.
	return foreign(t, "Debian's python3-pymodbus, python3-serial-asyncio and python3-six", "/usr/bin/python3", append([]string{"testdata/server.py"}, args...)...)
}

// libmodbus is pymodbus for a server in C.
func libmodbus(t *testing.T, args ...string) string {
	t.Helper()
	server := filepath.Join(t.TempDir(), "libmodbus")
	cc := exec.CommandContext(t.Context(), "gcc", "-o", server, "testdata/libmodbus.c", "-I/usr/include/modbus", "-lmodbus")
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("this test needs gcc and Debian's libmodbus-dev: %v\n%s", err, out)
	}
	return foreign(t, "Debian's libmodbus5", server, args...)
}

// foreign starts a program and returns its first line of output.
func foreign(t *testing.T, needs, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("this test needs %s: %v", needs, err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		cmd.Wait()
		t.Fatalf("this test needs %s: %s", needs, stderr.String())
	}
	return strings.TrimSpace(line)
}

// onPTY returns a paced pair and the line's setting.
func onPTY(t testing.TB, baud int) (*pty.Pair, serial.Config) {
	t.Helper()
	pair, err := pty.Open(pty.Config{Baud: baud})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pair.Close() })
	return pair, serial.Config{Path: pair.A, Baud: baud, Format: "8N1"}
}

// TestPymodbus reads all tables of a foreign server, writes and reads back,
// and asks for what it does not have.
func TestPymodbus(t *testing.T) {
	t.Run("TCP", func(t *testing.T) {
		testForeignServer(t, Config{URL: "tcp://127.0.0.1:" + pymodbus(t, "tcp")})
	})
	t.Run("RTU", func(t *testing.T) {
		const baud = 38400
		pair, cfg := onPTY(t, baud)
		pymodbus(t, "rtu", pair.B, strconv.Itoa(baud))
		testForeignServer(t, Config{Serial: cfg, Timeout: time.Minute})
	})
	t.Run("ASCII", func(t *testing.T) {
		const baud = 38400
		pair, cfg := onPTY(t, baud)
		pymodbus(t, "ascii", pair.B, strconv.Itoa(baud))
		testForeignServer(t, Config{Serial: cfg, Framing: FramingASCII, Timeout: time.Minute})
	})
	t.Run("UDP", func(t *testing.T) {
		testForeignServer(t, Config{URL: "udp://127.0.0.1:" + pymodbus(t, "udp")})
	})
	t.Run("TLS", func(t *testing.T) {
		a := newAuthority(t)
		cert, key := writePEM(t, a.server("meter.example"))
		testForeignServer(t, Config{URL: "tls://127.0.0.1:" + pymodbus(t, "tls", cert, key),
			TLS: &tls.Config{RootCAs: a.pool, ServerName: "meter.example"}})
	})
}

// TestLibmodbus is TestPymodbus with another server.
func TestLibmodbus(t *testing.T) {
	t.Run("TCP", func(t *testing.T) {
		l := foreignLine(t, Config{URL: "tcp://127.0.0.1:" + libmodbus(t, "tcp")})
		testForeignReads(t, l, 1, 2)
		testForeignWrites(t, l)
	})
	t.Run("RTU", func(t *testing.T) {
		const baud = 38400
		pair, cfg := onPTY(t, baud)
		libmodbus(t, "rtu", pair.B, strconv.Itoa(baud), "1")
		l := foreignLine(t, Config{Serial: cfg, Timeout: time.Minute})
		testForeignReads(t, l, 1)
		testForeignWrites(t, l)
	})
}

func foreignLine(t *testing.T, cfg Config) *Line {
	t.Helper()
	l, err := NewLine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func testForeignServer(t *testing.T, cfg Config) {
	l := foreignLine(t, cfg)
	testForeignReads(t, l, 1, 2)
	testForeignWrites(t, l)
	who, err := l.Identify(meter(Unit{ID: 1}))
	if err != nil {
		t.Fatal(err)
	}
	if err := who.Do(t.Context(), devices.NewBatch(meter(Unit{ID: 1}))); err != nil {
		t.Fatal(err)
	}
	if got := who.Objects; got[VendorName] != "Maker" || got[ProductCode] != "M-1" || got[Revision] != "2.0" || got[ProductName] != "Meter" {
		t.Errorf("%q", got)
	}
}

func testForeignReads(t *testing.T, l *Line, units ...byte) {
	for _, unit := range units {
		dev := meter(Unit{ID: unit}, Register{Coil, 3, 30}, Register{Discrete, 0, 9}, Register{Input, 1, 125}, Register{Holding, 100, 2}, Register{Holding, 102, 1})
		b, err := read(t, l, dev)
		if err != nil || verify(b) != nil {
			t.Errorf("unit %d: %v, %v", unit, err, verify(b))
		}
	}
	b, err := read(t, l, meter(Unit{ID: 1}, Register{Holding, 290, 5}, Register{Holding, 295, 10}))
	if err != nil || verify(b) != nil || b.Readings[0].Err != nil || devices.Cause(b.Readings[1].Err) != "illegal data address" {
		t.Errorf("beyond the last register: %v, %v, %v", err, b.Readings[0].Err, b.Readings[1].Err)
	}
}

// testForeignWrites writes with each function, and sets bits.
func testForeignWrites(t *testing.T, l *Line) {
	dev := meter(Unit{ID: 1}, Register{Holding, 10, 1}, Register{Holding, 20, 3}, Register{Coil, 30, 1}, Register{Coil, 40, 11})
	for i, raw := range []string{"\x12\x34", "\x00\x01\xFF\xFE\x80\x00", "\x01", "\x01\x00\x01\x01\x01\x00\x00\x00\x01\x00\x01"} {
		q, err := l.Write(dev, dev.Points[i], []byte(raw), true)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := run(t, dev, q); err != nil || string(b.Readings[0].Raw) != raw {
			t.Errorf("%v: %v, read back % x", q, err, b.Readings[0].Raw)
		}
	}
	reg := Register{Holding, 50, 1}
	dev = meterOf(Unit{ID: 1}, Written{Register{Holding, 51, 2}, fnReadWrite}, Bit{Register: reg, N: 12},
		Bit{Register: reg, N: 0, Function: fnWriteHoldings}, Written{reg, fnWriteHoldings}, Register{Holding, 50, 3})
	b := devices.NewBatch(dev)
	for i, raw := range []string{"\x01\x02\x03\x04", "\x01", "\x01", "\x00\x06", "\x01"} {
		at := min(i, 3)
		if i == 4 {
			at = 1 // again
		}
		q, err := l.Write(dev, dev.Points[at], []byte(raw), true)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Do(t.Context(), b); err != nil || string(b.Readings[i].Raw) != raw {
			t.Fatalf("%v: %v, %v", q, err, b.Readings)
		}
	}
	after, err := l.Plan(dev, dev.Points[4:])
	if err != nil {
		t.Fatal(err)
	}
	if err := after[0].Do(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got := string(b.Readings[5].Raw); got != "\x10\x06\x01\x02\x03\x04" {
		t.Errorf("% x", got)
	}
}

// TestMbpoll lets a foreign client read from and write to this package's
// server over both carriers.
func TestMbpoll(t *testing.T) {
	t.Run("TCP", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		store := &plant{}
		done := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- ServeTCP(ctx, ln, store) }()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		testForeignClient(t, store, "-p", port, "127.0.0.1")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("RTU", func(t *testing.T) {
		pair, cfg := onPTY(t, 38400)
		port, err := serial.Open(serial.Config{Path: pair.B, Baud: 38400})
		if err != nil {
			t.Fatal(err)
		}
		defer port.Close()
		pair.Inject(pty.A, []byte{0, 0xFF, 1, 3}) // noise at the start
		store := &plant{}
		done := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- ServeRTU(ctx, port, cfg, store) }()
		testForeignClient(t, store, "-m", "rtu", "-b", "38400", "-P", "none", "-o", "5", pair.A)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func testForeignClient(t *testing.T, store *plant, where ...string) {
	mbpoll := func(what string, values ...string) string {
		args := append([]string{"-1", "-0", "-a", "7"}, strings.Fields(what)...)
		out, err := exec.CommandContext(t.Context(), "mbpoll", append(append(args, where...), values...)...).CombinedOutput()
		if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
			t.Fatalf("this test needs Debian's mbpoll: %v", err)
		}
		return string(out)
	}
	for typ, table := range map[string]Table{"0": Coil, "1": Discrete, "3:hex": Input, "4:hex": Holding} {
		out := mbpoll("-r 10 -c 5 -t " + typ)
		for a := 10; a < 15; a++ {
			want := fmt.Sprintf("[%d]: \t0x%04X", a, valueAt(7, table, a))
			if table.Bits() {
				want = fmt.Sprintf("[%d]: \t%d", a, valueAt(7, table, a))
			}
			if !strings.Contains(out, want) {
				t.Errorf("%v: %q is not in\n%s", table, want, out)
			}
		}
	}
	for what, values := range map[string][]string{"-t 4 -r 20": {"1234", "4321"}, "-t 4 -r 30": {"77"}, "-t 0 -r 5": {"1"}} {
		if out := mbpoll(what, values...); !strings.Contains(out, fmt.Sprintf("Written %d references", len(values))) {
			t.Errorf("write %s: %s", what, out)
		}
	}
	store.mu.Lock()
	defer store.mu.Unlock()
	for reg, want := range map[Register]uint16{{Holding, 20, 1}: 1234, {Holding, 21, 1}: 4321, {Holding, 30, 1}: 77, {Coil, 5, 1}: 1} {
		if got := store.written[reg]; got != want {
			t.Errorf("%v: %d was written, want %d", reg, got, want)
		}
	}
}
