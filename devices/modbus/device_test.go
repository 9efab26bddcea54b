package modbus

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// A plant is a Store in which each value tells where it is, so that a value
// of another register is known as wrong.
type plant struct {
	mu      sync.Mutex
	illegal map[Register]bool // of Count 1
	silent  map[byte]bool
	written map[Register]uint16
	reads   []Register
}

// valueAt is what a plant holds at an address before it is written.
func valueAt(unit byte, t Table, address int) uint16 {
	if t.Bits() {
		return uint16(address*7/3+int(unit)) & 1
	}
	return uint16(address) ^ uint16(unit)<<8 ^ uint16(t)<<13
}

func (p *plant) Read(dst []byte, unit byte, t Table, address, count uint16) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent[unit] {
		return nil, ErrSilent
	}
	p.reads = append(p.reads, Register{t, address, count})
	for i := range int(count) {
		reg := Register{t, address + uint16(i), 1}
		if p.illegal[reg] {
			return nil, &Exception{Code: IllegalAddress}
		}
		v, ok := p.written[reg]
		if !ok {
			v = valueAt(unit, t, int(reg.Address))
		}
		if !t.Bits() {
			dst = append(dst, byte(v>>8))
		}
		dst = append(dst, byte(v))
	}
	return dst, nil
}

func (p *plant) Write(unit byte, t Table, address, count uint16, raw []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent[unit] {
		return ErrSilent
	}
	if p.written == nil {
		p.written = map[Register]uint16{}
	}
	for i := range int(count) {
		reg := Register{t, address + uint16(i), 1}
		if p.illegal[reg] {
			return &Exception{Code: IllegalAddress}
		}
		v := uint16(raw[i*t.size(1)])
		if !t.Bits() {
			v = v<<8 | uint16(raw[2*i+1])
		}
		p.written[reg] = v
	}
	return nil
}

// asked returns what was read since the last call.
func (p *plant) asked() []Register {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.reads
	p.reads = nil
	return r
}

// A piece is bytes that a scripted device sends after a while.
type piece struct {
	after time.Duration
	bytes []byte
}

// hangUp as a piece's bytes closes the connection.
var hangUp = []byte("hang up")

// A script answers one request frame.
type script func(frame []byte) []piece

// atOnce answers with b at once.
func atOnce(b []byte) []piece { return []piece{{0, b}} }

// scripted returns a line whose device runs script, on connections made in
// memory. cfg.URL says the framing. Use it in a synctest bubble.
func scripted(t *testing.T, cfg Config, s script) *Line {
	t.Helper()
	cfg.URL = cmp.Or(cfg.URL, "rtu+tcp://device")
	if cfg.Timeout == 0 {
		cfg.Timeout = 100 * time.Millisecond
	}
	c, err := newCarrier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	frameLen := frameLenOf(c)
	var running sync.WaitGroup
	var mu sync.Mutex
	answer := func(frame []byte) []piece { // connections share s
		mu.Lock()
		defer mu.Unlock()
		return s(frame)
	}
	c.dial = func(context.Context) (Port, error) {
		near, far := net.Pipe()
		running.Go(func() { runScript(far, frameLen, answer) })
		return near, nil
	}
	l := newLine(cfg, c)
	if cfg.Serial.Baud > 0 {
		l.wire = newSerialWire(c.framing, cfg.Serial, &l.stats)
	}
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l
}

// frameLenOf returns what tells how long the frame is that begins with in,
// or the least that tells it.
func frameLenOf(c carrier) func(in []byte) int {
	switch c.framing {
	case rtuFraming{}:
		return func(in []byte) int { n, _ := requestLen(in); return n }
	case asciiFraming{}:
		return func(in []byte) int {
			if _, n, v := scanASCII(in); v == whole {
				return n
			}
			return len(in) + 1
		}
	}
	return func(in []byte) int {
		if len(in) < tcpHeader {
			return tcpHeader
		}
		n, _ := tcpFrameLen(in)
		return n
	}
}

// runScript answers the frames that come on conn one after the other, as a
// device does, and buffers what the line does not read yet, as a kernel does.
func runScript(conn net.Conn, frameLen func([]byte) int, s script) {
	out := make(chan []byte, 1024)
	go func() {
		for b := range out {
			if string(b) == string(hangUp) {
				conn.Close()
			}
			conn.Write(b)
		}
		conn.Close()
	}()
	defer close(out)
	var in []byte
	buf := make([]byte, 300)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		in = append(in, buf[:n]...)
		for len(in) > 0 && len(in) >= frameLen(in) {
			frame := in[:frameLen(in)]
			for _, p := range s(frame) {
				time.Sleep(p.after)
				out <- p.bytes
			}
			in = in[len(frame):]
		}
	}
}

// rtuReply is what s answers to an RTU frame.
func rtuReply(s Store, frame []byte) []byte {
	pdu, ok := decodeRTU(frame)
	if !ok {
		return nil
	}
	reply := Serve(frame[0], pdu, s)
	if reply == nil {
		return nil
	}
	b, err := encodeRTU(frame[0], reply)
	if err != nil {
		panic(err)
	}
	return b
}

// asciiReply is what s answers to an ASCII frame.
func asciiReply(s Store, frame []byte) []byte {
	unit, req, _ := nextASCIIRequest(frame, true)
	reply := Serve(unit, req, s)
	if reply == nil {
		return nil
	}
	return inASCII(unit, reply...)
}

// inASCII returns a frame with a good LRC.
func inASCII(unit byte, pdu ...byte) []byte {
	b, err := asciiFraming{}.encode(unit, pdu)
	if err != nil {
		panic(err)
	}
	return b
}

// meter returns a device with unit id and points, and the points.
func meter(u Unit, regs ...Register) *devices.Device {
	dev := &devices.Device{ID: "meter", Unit: u}
	for _, r := range regs {
		dev.Points = append(dev.Points, &devices.Point{Name: r.String(), Source: r})
	}
	return dev
}

// held is what the first unit holds in one register.
func (p *plant) held(reg Register) uint16 {
	raw, err := p.Read(nil, 1, reg.Table, reg.Address, 1)
	if err != nil {
		return 0
	}
	return binary.BigEndian.Uint16(raw)
}

// meterOf is meter for sources of any kind.
func meterOf(u Unit, sources ...devices.Source) *devices.Device {
	dev := &devices.Device{ID: "meter", Unit: u}
	for _, s := range sources {
		dev.Points = append(dev.Points, &devices.Point{Name: s.String(), Source: s})
	}
	return dev
}

// read plans and runs all points of dev once.
func read(t *testing.T, l *Line, dev *devices.Device) (*devices.Batch, error) {
	t.Helper()
	qs, err := l.Plan(dev, dev.Points)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, dev, qs...)
}

// run does queries and checks that each point got one reading or failure.
func run(t *testing.T, dev *devices.Device, qs ...devices.Query) (*devices.Batch, error) {
	t.Helper()
	b := devices.NewBatch(dev)
	var first error
	points := 0
	for _, q := range qs {
		points += len(q.Points())
		if err := q.Do(t.Context(), b); err != nil && first == nil {
			first = err
		}
	}
	if len(b.Readings) != points {
		t.Errorf("%d readings of %d points", len(b.Readings), points)
	}
	return b, first
}

// judge compares what one read of one point found with the cause of failure
// wanted, "" for the right values, and returns the error of query or reading.
func judge(t *testing.T, b *devices.Batch, err error, want string) error {
	t.Helper()
	err = cmp.Or(err, b.Readings[0].Err)
	got := ""
	if err != nil {
		got = devices.Cause(err)
	}
	if got != want {
		t.Errorf("error %v, want %q", err, want)
	}
	if err := verify(b); err != nil {
		t.Error(err)
	}
	return err
}

// verify says which good readings of b are not what a plant holds.
func verify(b *devices.Batch) error {
	unit := b.Device.Unit.(Unit).ID
	for _, r := range b.Readings {
		reg, registers := RegisterOf(r.Point.Source)
		if (r.Raw == nil) == (r.Err == nil) || r.At == 0 {
			return fmt.Errorf("%v: raw % x, error %v at %d", reg, r.Raw, r.Err, r.At)
		}
		if r.Err != nil {
			continue
		}
		var want []byte
		if queue, ok := r.Point.Source.(Queue); ok {
			want = slices.Repeat([]byte{byte(queue.Address >> 8), byte(queue.Address)}, int(queue.Address)) // as a rich plant's
		} else if registers {
			want, _ = new(plant).Read(nil, unit, reg.Table, reg.Address, uint16(reg.count()))
			want = rawOf(r.Point, want)
		}
		if string(want) != string(r.Raw) {
			return fmt.Errorf("%v: % x, want % x", reg, r.Raw, want)
		}
	}
	return nil
}

// at9600 is a line that takes time.
var at9600 = serial.Config{Baud: 9600, Format: "8N1"}
