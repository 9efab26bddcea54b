package main

import (
	"bytes"
	"context"
	endian "encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
	"edgegateway/devices/capture"
	"edgegateway/internal/config"
)

const captureDevices = `
[device.a]
bus = "rs485"
unit_id = 1
every = "100ms"
points.v = { holding = 10, type = "u16" }
[device.p]
bus = "plc"
unit_id = 1
every = "100ms"
points.y = { holding = 4, type = "f32" }
[device.m]
bus = "mast"
checksum = "nmea"
[device.m.line.MWV]
wind = { field = 3, type = "f64", unit = "kn" }
`

func captureBuses(tty, plc, mast string) string {
	return fmt.Sprintf("[bus.rs485]\naddress = %q\nbaud = 115200\n[bus.plc]\naddress = %q\n[bus.mast]\naddress = %q\nbaud = 115200\nprotocol = \"lines\"\n", tty, plc, mast)
}

// values are those of one topic in what mosquitto_sub printed, null left out.
func values(out, topic string) (list []string) {
	for _, m := range regexp.MustCompile(`(?m)^`+topic+` \{"value":([0-9.eE+-]+),`).FindAllStringSubmatch(out, -1) {
		if !slices.Contains(list, m[1]) {
			list = append(list, m[1])
		}
	}
	return list
}

// What passes the buses of a running gateway is recorded, while it goes on, and
// a second gateway that has only the captures publishes the same values.
func TestCaptureIsPlayedToAnotherGateway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	s := newSite(t, captureBuses(at("tty"), "tcp://127.0.0.1:"+freePort(t), at("mast")), map[string]string{"all": captureDevices})
	sim := start(t, binary, s.args("simulate")...)
	eventually(t, "the plant is there", func() bool { return strings.Contains(sim.out.String(), "All buses are where") })
	s.run()
	topics := []string{"plant/a/v", "plant/p/y", "plant/m/wind"}
	sub := start(t, "mosquitto_sub", "-p", s.broker, "-v", "-t", "plant/+/+")
	for _, topic := range topics {
		eventually(t, topic, func() bool { return len(values(sub.out.String(), topic)) > 0 })
	}
	var recorders []*process
	for _, bus := range []string{"rs485", "plc", "mast"} {
		recorders = append(recorders, start(t, binary, s.args("capture", bus, "--for", "1h", "-o", at(bus+".capture"), "--pcap", at(bus+".pcap"))...))
	}
	for _, bus := range []string{"rs485", "plc", "mast"} {
		eventually(t, "something of "+bus+" is recorded", func() bool {
			text, _ := os.ReadFile(at(bus + ".capture"))
			return bytes.Count(text, []byte(" < ")) > 12 && (bus != "mast" || bytes.Count(text, []byte(`\n`)) > 2)
		})
	}
	for _, p := range recorders {
		p.cmd.Process.Signal(syscall.SIGINT)
		<-p.done
		if code := p.cmd.ProcessState.ExitCode(); code != exitOK || !strings.Contains(p.out.String(), "--decode") {
			t.Errorf("after Ctrl-C: code %d, %s", code, p.out)
		}
	}
	if _, talk, code := s.talk("capture", "rs485", "-o", at("rs485.capture")); code != exitFailed || !strings.Contains(talk, "is not replaced") {
		t.Errorf("a file that exists: code %d, %s", code, talk)
	}
	if _, talk, code := s.talk("capture", "attic"); code != exitUsage || !strings.Contains(talk, `no bus "attic"; it has mast, plc, rs485`) {
		t.Errorf("an unknown bus: code %d, %s", code, talk)
	}
	seen := sub.out.String()
	s.stop()
	sim.stop()

	for bus, want := range map[string]string{"rs485": `(?m)^ +[0-9.]+ +([0-9.]+ (ch|ms))? +>  +1  read holding 10\n +[0-9.]+ +[0-9.]+ (ch|ms) +<  +1  [0-9A-F]{4}   after [0-9.]+ ms`, "plc": `>  +1  read holding 4-5\n`, "mast": `<  +\$WIMWV,[^ ]+\n`} {
		out, code := s.command("replay", at(bus+".capture"), "--decode")
		if code != exitOK || !regexp.MustCompile(want).MatchString(out) || !strings.Contains(out, "the capture ends: stopped by who started it") || strings.Contains(out, "noise") {
			t.Errorf("%s decoded, code %d:\n%s", bus, code, out)
		}
		if n := pcapFrames(t, at(bus+".pcap")); n < 3 {
			t.Errorf("%s: %d frames for Wireshark", bus, n)
		}
	}

	// The three are played, and nothing of the plant is there any more.
	var players []*process
	played := map[string]string{}
	for _, bus := range []string{"rs485", "plc", "mast"} {
		args := []string{"replay", at(bus + ".capture")}
		if bus != "plc" {
			args = append(args, "--pty", at("far-"+bus))
		}
		p := start(t, binary, args...)
		players = append(players, p)
		address := regexp.MustCompile(`(?m)^address = "(.*)"$`)
		eventually(t, bus+" is played", func() bool { return address.MatchString(p.out.String()) })
		played[bus] = address.FindStringSubmatch(p.out.String())[1]
	}
	far := newSite(t, captureBuses(played["rs485"], played["plc"], played["mast"]), map[string]string{"all": captureDevices})
	far.run()
	farSub := start(t, "mosquitto_sub", "-p", far.broker, "-v", "-t", "plant/+/+")
	for _, topic := range topics {
		eventually(t, topic+" is played", func() bool { return len(values(farSub.out.String(), topic)) > 0 })
		for _, v := range values(farSub.out.String(), topic) {
			if had := values(seen, topic); !slices.Contains(had, v) {
				t.Errorf("%s is %s, which it never was: %v", topic, v, had)
			}
		}
	}
	far.stop()
	for _, p := range players {
		if code := p.stop(); code != exitOK || strings.Contains(p.out.String(), "not in the capture") {
			t.Errorf("played with code %d: %s", code, p.out)
		}
	}
}

// pcapFrames reads a pcap file strictly and counts its packets.
func pcapFrames(t *testing.T, path string) (n int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 24 || endian.LittleEndian.Uint32(b) != 0xA1B2C3D4 {
		t.Fatalf("%s is no pcap: %v, % x", path, err, b[:min(len(b), 24)])
	}
	link := endian.LittleEndian.Uint32(b[20:])
	last := uint64(0)
	for b = b[24:]; len(b) > 0; n++ {
		if len(b) < 16 {
			t.Fatalf("%s ends within the head of packet %d", path, n)
		}
		at := uint64(endian.LittleEndian.Uint32(b))*1e6 + uint64(endian.LittleEndian.Uint32(b[4:]))
		size := int(endian.LittleEndian.Uint32(b[8:]))
		if b = b[16:]; size > len(b) || at < last {
			t.Fatalf("%s: packet %d has %d bytes of %d, at %d after %d", path, n, size, len(b), at, last)
		}
		packet := b[:size]
		b, last = b[size:], at
		switch {
		case link == 1 && (size < 54+8 || endian.BigEndian.Uint16(packet[12:]) != 0x0800 || int(endian.BigEndian.Uint16(packet[16:])) != size-14 || packet[23] != 6):
			t.Errorf("%s: packet %d is no TCP: % x", path, n, packet)
		case link == 252 && !bytes.HasPrefix(packet, []byte{0, 12, 0}):
			t.Errorf("%s: packet %d names no dissector: % x", path, n, packet)
		}
	}
	return n
}

// A capture ends with its time, its size or its bus, and says so; one whose
// reader is stuck keeps nobody waiting.
func TestCaptureEnds(t *testing.T) {
	bus := &config.Bus{ID: "b", Protocol: config.Modbus, Address: "rtu+tcp://10.0.0.1:4001"}
	for _, tt := range []struct {
		name  string
		req   captureRequest
		gone  bool
		lines int
		want  string
	}{
		{"time", captureRequest{For: 10 * time.Second, MiB: 1}, false, 10, `10.000000 end "its time of 10s is over"`},
		{"size", captureRequest{For: time.Hour, MiB: 1}, false, 1 << 20, `end "it has its size of 1 MiB"`},
		{"reload", captureRequest{For: time.Hour, MiB: 1}, true, 0, `1.000000 end "a reload of the configuration changed the bus or removed it"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tap capture.Tap
				rec, err := tap.Record()
				if err != nil {
					t.Fatal(err)
				}
				stream, _ := tap.Wrap(new(chatter), nil)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() {
					for range tt.lines {
						stream.Write(make([]byte, 100))
						select {
						case <-time.After(time.Millisecond):
						case <-ctx.Done():
							return
						}
					}
				}()
				var out bytes.Buffer
				record(ctx, &out, func() {}, captureHeader(bus, rec, broker.Clock{}), rec, &tt.req, func() bool { return !tt.gone })
				cancel()
				c, err := capture.Read(&out)
				if err != nil || c.Framing != capture.RTU {
					t.Fatalf("%+v, %v", c, err)
				}
				last := c.Events[len(c.Events)-1]
				if last.Kind != capture.Ended || !strings.Contains(tt.want, fmt.Sprintf("%q", last.Text)) {
					t.Errorf("it ends with %+v, want %s", last, tt.want)
				}
			})
		})
	}
}

// A chatter is a stream that takes everything.
type chatter struct{}

func (*chatter) Read([]byte) (int, error)        { return 0, errors.New("nothing") }
func (*chatter) Write(b []byte) (int, error)     { return len(b), nil }
func (*chatter) Close() error                    { return nil }
func (*chatter) SetReadDeadline(time.Time) error { return nil }

// Without a gateway a bus that speaks by itself is recorded, and any other not.
func TestCaptureWithoutAGateway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newSite(t, captureBuses(filepath.Join(dir, "tty"), "tcp://127.0.0.1:"+freePort(t), filepath.Join(dir, "mast")), map[string]string{"all": captureDevices})
	sim := start(t, binary, s.args("simulate")...)
	eventually(t, "the plant is there", func() bool { return strings.Contains(sim.out.String(), "All buses are where") })
	out, talk, code := s.talk("capture", "mast", "--for", "2500ms", "-o", "-")
	if c, err := capture.Read(strings.NewReader(out)); err != nil || code != exitOK || c.Framing != capture.Text || !strings.Contains(out, `$`) || !strings.Contains(out, "its time of 2.5s is over") {
		t.Errorf("code %d, %v, %s\n%s", code, err, talk, out)
	}
	if _, talk, code := s.talk("capture", "rs485"); code != exitFailed || !strings.Contains(talk, "start it first") {
		t.Errorf("code %d, %s", code, talk)
	}
	if _, talk, code := s.talk("capture", "rs485", "--for", "25h"); code != exitUsage || !strings.Contains(talk, "at most") {
		t.Errorf("code %d, %s", code, talk)
	}
	bad := filepath.Join(dir, "bad.capture")
	writeFile(t, bad, "gateway-capture 1\nframing rtu\nstart 2026-11-20T23:06:00Z\n\n0.1 > 01 0\n")
	if _, talk, code := s.talk("replay", bad, "--decode"); code != exitFailed || !strings.Contains(talk, "bad.capture: line 5:") || !strings.Contains(talk, "put # before it") {
		t.Errorf("a malformed capture: code %d, %s", code, talk)
	}
}
