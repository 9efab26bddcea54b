package modbus

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

// A dialect is a framing as a device speaks it.
type dialect struct {
	url    string
	open   func(frame []byte) (unit byte, req PDU)
	seal   func(asked []byte, unit byte, pdu PDU) []byte
	head   int  // bytes before the PDU
	proven bool // each byte of a frame, by a checksum
}

var dialects = map[string]dialect{
	"RTU": {
		"rtu+tcp://device",
		func(frame []byte) (byte, PDU) { return frame[0], PDU(frame[1 : len(frame)-2]) },
		func(_ []byte, unit byte, pdu PDU) []byte { b, _ := encodeRTU(unit, pdu); return b }, 1, true,
	},
	"ASCII": {
		"ascii+tcp://device",
		func(frame []byte) (byte, PDU) { unit, req, _ := nextASCIIRequest(frame, true); return unit, req },
		func(_ []byte, unit byte, pdu PDU) []byte { return inASCII(unit, pdu...) }, 3, true,
	},
	"TCP": {"tcp://device", openTCP, sealTCP, tcpHeader, false},
	"UDP": {"udp://device", openTCP, sealTCP, tcpHeader, false},
}

func openTCP(frame []byte) (byte, PDU) { return frame[6], PDU(frame[tcpHeader:]) }

func sealTCP(asked []byte, unit byte, pdu PDU) []byte {
	return joined(patched(asked[:tcpHeader], 4, 0, byte(1+len(pdu)), unit), pdu)
}

// A hostile is one way to answer.
type hostile struct {
	name string
	say  []piece
	good bool // it is right all the same
	shut bool // it closes the connection, so that a read is asked again
}

// hostiles are all ways to spoil the answer reply of unit to asked. fields are
// the bytes of its PDU that are no values.
func (d dialect) hostiles(asked []byte, unit byte, reply PDU, fields []int) []hostile {
	var all []hostile
	add := func(good bool, say []piece, format string, args ...any) {
		all = append(all, hostile{name: fmt.Sprintf(format, args...), say: say, good: good})
	}
	frame := d.seal(asked, unit, reply)
	for _, u := range []byte{0, unit + 1, 247, 255} {
		add(false, atOnce(d.seal(asked, u, reply)), "unit %d", u)
	}
	for _, i := range fields {
		for _, v := range []byte{reply[i] ^ 1, reply[i] ^ 0x80, reply[i] + 2, 0, 0xFF} {
			if v != reply[i] {
				add(false, atOnce(d.seal(asked, unit, PDU(patched(reply, i, v)))), "byte %d of the PDU is %d", i, v)
			}
		}
	}
	for n := 1; n < len(reply); n++ {
		add(false, atOnce(d.seal(asked, unit, reply[:n])), "%d bytes of PDU", n)
	}
	for n := 1; n < 5; n++ {
		add(false, atOnce(d.seal(asked, unit, append(slices.Clone(reply), make([]byte, n)...))), "%d bytes too many", n)
	}
	for i := range frame {
		if d.proven || i < d.head-1 { // the unit was above
			for _, v := range []byte{frame[i] ^ 1, frame[i] ^ 0x80, 0, 0xFF} {
				if v != frame[i] {
					add(false, atOnce(patched(frame, i, v)), "byte %d of the frame is %d", i, v)
				}
			}
		}
		add(false, atOnce(frame[:i]), "%d bytes of frame", i)
		add(false, []piece{{0, frame[:i]}, {0, hangUp}}, "closed at %d", i)
		all[len(all)-1].shut = true
		datagram := d.url == "udp://device"
		add(!datagram || i == 0, []piece{{0, frame[:i]}, {time.Millisecond, frame[i:]}}, "split at %d", i)
	}
	return all
}

// An errand is one query of each kind with what in its answer is no value.
type errand struct {
	name   string
	fn     byte
	writes bool
	fields []int
	query  func(l *Line) (*devices.Device, devices.Query, error)
}

var errands = []errand{
	{"registers", fnReadInput, false, []int{0, 1}, planned(Register{Input, 7, 2})},
	{"bits", fnReadCoils, false, []int{0, 1}, planned(Register{Coil, 7, 11})},
	{"write a register", fnWriteRegister, true, []int{0, 1, 2, 3, 4}, written(Register{Holding, 300, 1}, 2)},
	{"write a coil", fnWriteCoil, true, []int{0, 1, 2, 3, 4}, written(Register{Coil, 300, 1}, 1)},
	{"write registers", fnWriteHoldings, true, []int{0, 1, 2, 3, 4}, written(Register{Holding, 300, 2}, 4)},
	{"mask", fnMaskWrite, true, []int{0, 1, 2, 3, 4, 5, 6}, func(l *Line) (*devices.Device, devices.Query, error) {
		dev := meterOf(Unit{ID: 1}, Bit{Register: Register{Holding, 300, 1}, N: 3, Function: fnMaskWrite})
		q, err := l.Write(dev, dev.Points[0], []byte{1}, false)
		return dev, q, err
	}},
	{"write and read", fnReadWrite, true, []int{0, 1}, func(l *Line) (*devices.Device, devices.Query, error) {
		dev := meterOf(Unit{ID: 1}, Written{Register{Holding, 300, 2}, fnReadWrite})
		raw, _ := new(plant).Read(nil, 1, Holding, 300, 2)
		q, err := l.Write(dev, dev.Points[0], raw, true)
		return dev, q, err
	}},
	{"queue", fnReadFIFO, false, []int{0, 1, 2, 3, 4}, func(l *Line) (*devices.Device, devices.Query, error) {
		dev := meterOf(Unit{ID: 1}, Queue{3})
		qs, err := l.Plan(dev, dev.Points)
		return dev, qs[0], err
	}},
	{"identity", fnEncapsulated, false, []int{0, 1, 2, 6}, func(l *Line) (*devices.Device, devices.Query, error) {
		dev := meter(Unit{ID: 1})
		q, err := l.Identify(dev)
		return dev, q, err
	}},
}

func planned(reg Register) func(l *Line) (*devices.Device, devices.Query, error) {
	return func(l *Line) (*devices.Device, devices.Query, error) {
		dev := meter(Unit{ID: 1}, reg)
		qs, err := l.Plan(dev, dev.Points)
		return dev, qs[0], err
	}
}

func written(reg Register, n int) func(l *Line) (*devices.Device, devices.Query, error) {
	return func(l *Line) (*devices.Device, devices.Query, error) {
		dev := meter(Unit{ID: 1}, reg)
		q, err := l.Write(dev, dev.Points[0], make([]byte, n), false)
		return dev, q, err
	}
}

// A brief plant has an identity that fits into one answer.
type brief struct{ rich }

func (*brief) Identity(byte) (map[byte]string, error) {
	return map[byte]string{VendorName: "a", ProductCode: "b", Revision: "c"}, nil
}

// TestHostileServer: with each field of each answer wrong, at every length,
// split at every byte and closed at every byte, there is never a value, and
// the line works afterwards.
func TestHostileServer(t *testing.T) {
	for name, d := range dialects {
		for _, e := range errands {
			t.Run(name+"/"+e.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testHostile(t, d, e) })
			})
		}
	}
}

func testHostile(t *testing.T, d dialect, e errand) {
	const honest = -1
	at, cases, done := honest, 1, false
	var now hostile
	l := scripted(t, Config{URL: d.url}, func(frame []byte) []piece {
		unit, req := d.open(frame)
		answer := Serve(unit, req, &brief{})
		if req.function() != e.fn || at == honest || done {
			return atOnce(d.seal(frame, unit, answer))
		}
		all := d.hostiles(frame, unit, answer, e.fields) // each carries this request's transaction
		cases, now, done = len(all), all[at], true
		return now.say
	})
	for i := 0; i < cases; i++ {
		at, done = i, false
		start := time.Now()
		err := e.run(t, l)
		if good := now.good || now.shut && !e.writes; (err == nil) != good {
			t.Errorf("%s: error %v", now.name, err)
		}
		if d := time.Since(start); d > 5*time.Second { // virtual time
			t.Errorf("%s: took %v", now.name, d)
		}
		at = honest
		for range 3 { // the first may find what is left of the bad one
			time.Sleep(10 * time.Minute) // beyond all late answers
			err = e.run(t, l)
		}
		if err != nil {
			t.Fatalf("after %s: %v", now.name, err)
		}
	}
	if t.Logf("%d cases", cases); cases < 40 {
		t.Error("too few")
	}
}

// run does the query once and looks at the values that it yields.
func (e errand) run(t *testing.T, l *Line) error {
	t.Helper()
	dev, q, err := e.query(l)
	if err != nil {
		t.Fatal(err)
	}
	b := devices.NewBatch(dev)
	err = q.Do(t.Context(), b)
	if wrong := verify(b); wrong != nil {
		t.Errorf("a wrong value: %v", wrong)
	}
	for _, r := range b.Readings {
		if err == nil {
			err = r.Err
		}
	}
	return err
}
