package simulator

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

func TestSpoil(t *testing.T) {
	read := []byte{3, 4, 0, 1, 0, 2}
	write := []byte{6, 0, 1, 0, 7}
	for _, test := range []struct {
		wrong    Wrong
		pdu      []byte
		unit     byte // of the spoiled answer; it was 1
		want     []byte
		wantTCP1 byte // low byte of the transaction id; it was 9
	}{
		{Right, read, 1, read, 9},
		{WrongUnit, read, 2, read, 9},
		{WrongFunction, read, 1, []byte{4, 4, 0, 1, 0, 2}, 9},
		{WrongFunction, write, 1, []byte{3, 0, 1, 0, 7}, 9},
		{WrongCount, read, 1, []byte{3, 2, 0, 1}, 9},
		{WrongCount, write, 1, []byte{6, 0, 1, 0}, 9},
		{WrongTransaction, read, 1, read, 10},
	} {
		tcp := spoilTCP(append([]byte{0, 9, 0, 0, 0, byte(1 + len(test.pdu)), 1}, test.pdu...), Fault{Wrong: test.wrong})
		if !bytes.Equal(tcp[7:], test.want) || tcp[1] != test.wantTCP1 || tcp[6] != test.unit ||
			int(binary.BigEndian.Uint16(tcp[4:])) != len(tcp)-6 {
			t.Errorf("%v: % x becomes % x", test.wrong, test.pdu, tcp)
		}
		unit := test.unit
		if test.wrong == WrongTransaction {
			unit = 2
		}
		rtu := spoilRTU(withCRC(append([]byte{1}, test.pdu...)), Fault{Wrong: test.wrong})
		if want := withCRC(append([]byte{unit}, test.want...)); !bytes.Equal(rtu, want) {
			t.Errorf("%v: % x becomes % x, want % x", test.wrong, test.pdu, rtu, want)
		}
		ascii := spoilASCII(withLRC(append([]byte{1}, test.pdu...)), Fault{Wrong: test.wrong})
		if want := withLRC(append([]byte{unit}, test.want...)); !bytes.Equal(ascii, want) {
			t.Errorf("%v: % x becomes %q, want %q", test.wrong, test.pdu, ascii, want)
		}
	}
}

// withLRC makes an ASCII frame of raw bytes.
func withLRC(raw []byte) []byte {
	lrc := byte(0)
	for _, c := range raw {
		lrc -= c
	}
	return fmt.Appendf(nil, ":%X%02X\r\n", raw, lrc)
}

func withCRC(frame []byte) []byte { return binary.LittleEndian.AppendUint16(frame, crc16(frame)) }

// TestCRC16 knows the example that every description of Modbus has.
func TestCRC16(t *testing.T) {
	if got := withCRC([]byte{1, 3, 0, 0, 0, 10}); !bytes.Equal(got[6:], []byte{0xc5, 0xcd}) {
		t.Errorf("checksum % x, want c5 cd", got[6:])
	}
}

func TestSpoilFrame(t *testing.T) {
	frame := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}
	f := newFaulty(1)
	for range 100 {
		if got := f.spoilFrame(bytes.Clone(frame), 9, Fault{Noise: 4}); len(got) != 13 || !bytes.Equal(got[4:], frame) {
			t.Fatalf("noise: % x", got)
		}
		if got := f.spoilFrame(bytes.Clone(frame), 9, Fault{Drop: 2}); len(got) != 7 {
			t.Fatalf("dropped: % x", got)
		}
		if got := f.spoilFrame(bytes.Clone(frame), 7, Fault{Flip: 1}); bytes.Equal(got, frame) || !bytes.Equal(got[7:], frame[7:]) {
			t.Fatalf("flipped: % x", got)
		}
		if got := f.spoilFrame(bytes.Clone(frame), 9, Fault{Drop: 20}); len(got) != 0 {
			t.Fatalf("all dropped: % x", got)
		}
	}
}

// FuzzAnswer: whatever arrives, and whatever is to be wrong with the answer,
// a unit answers what was asked or refuses, and never breaks.
func FuzzAnswer(f *testing.F) {
	f.Add(byte(2), []byte{3, 0, 0, 0, 8}, byte(0), byte(0), byte(0), byte(0))
	f.Add(byte(2), []byte{1, 0, 0, 0, 2}, byte(3), byte(1), byte(0), byte(0))
	f.Add(byte(2), []byte{16, 0, 0, 0, 2, 4, 0, 1, 1, 0xf4}, byte(1), byte(0), byte(1), byte(0))
	f.Add(byte(0), []byte{6, 0, 1, 1, 0xf4}, byte(4), byte(0), byte(0), byte(9))
	f.Add(byte(2), []byte{15, 0, 0, 0, 1, 1, 1}, byte(2), byte(0), byte(0), byte(0))
	f.Add(byte(2), []byte{0x83, 2}, byte(0), byte(0), byte(0), byte(0))
	kinds := []Kind{TCP, RTU, ASCII}
	var plants []*Simulator
	for _, kind := range kinds {
		plants = append(plants, newPlant(f, newClock(), Config{Buses: []Bus{{Name: "plc", Kind: kind, Devices: []*mapping.Device{boiler(f, 2).device("plc")}}}}))
	}
	f.Fuzz(func(t *testing.T, unit byte, req []byte, wrong, drop, flip, noise byte) {
		fault := Fault{Wrong: Wrong(wrong), Drop: int(drop), Flip: int(flip), Noise: int(noise)}
		for i, s := range plants {
			if err := s.SetFault("plc", 0, fault); err != nil {
				t.Fatal(err)
			}
			d := &desk{bus: s.buses[0]}
			reply := modbus.Serve(unit, req, d)
			if reply == nil {
				continue
			}
			if reply[0]&^0x80 != req[0]&^0x80 || len(reply) > 253 {
				t.Fatalf("asked % x, answered % x", req, []byte(reply))
			}
			body := append([]byte{unit}, reply...)
			switch kinds[i] {
			case TCP:
				d.spoil(append(make([]byte, 6), body...))
			case RTU:
				d.spoil(withCRC(body))
			case ASCII:
				d.spoil(withLRC(body))
			}
		}
	})
}

// A unit that bears only so much at once is hit by longer requests only.
func TestMaxReadHitsLongRequests(t *testing.T) {
	for _, c := range []struct {
		fault Fault
		want  error // of a request that is too long
	}{
		{Fault{MaxRead: 2}, &modbus.Exception{Code: modbus.IllegalValue}},
		{Fault{MaxRead: 2, Exception: 2}, &modbus.Exception{Code: modbus.IllegalAddress}},
		{Fault{MaxRead: 2, Silent: true}, modbus.ErrSilent},
	} {
		s := newPlant(t, newClock(), Config{Buses: []Bus{{Name: "plc", Kind: RTU, Lenient: true, Faults: map[byte]Fault{2: c.fault}, Devices: []*mapping.Device{boiler(t, 2).device("plc")}}}})
		d := &desk{bus: s.buses[0]}
		for _, read := range []struct {
			table modbus.Table
			count uint16
			hit   bool
		}{{modbus.Holding, 2, false}, {modbus.Holding, 3, true}, {modbus.Coil, 32, false}, {modbus.Coil, 33, true}} {
			_, err := d.Read(nil, 2, read.table, 0, read.count)
			if hit := s.Counters()[0].Faults > 0; read.hit && fmt.Sprint(err) != fmt.Sprint(c.want) || !read.hit && hit {
				t.Errorf("%+v: %d of %v: %v, hit %v", c.fault, read.count, read.table, err, hit)
			}
			s.buses[0].units[0].counter.Faults = 0
		}
	}
}
