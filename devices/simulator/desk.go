package simulator

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
)

// A desk is where the requests of one client, or of one serial line, arrive:
// it finds their unit and remembers what is to be wrong with the answer until
// the carrier has it. It belongs to the goroutine of its carrier.
type desk struct {
	bus    *bus
	barred bool  // the client may do nothing here
	unit   *unit // of the request before, nil if there is none
	fault  Fault
}

// serial reports whether units are those of a serial line, wherever it ends.
func (d *desk) serial() bool { return d.bus.Kind != TCP }

// Read implements modbus.Store.
func (d *desk) Read(dst []byte, id byte, t modbus.Table, address, count uint16) ([]byte, error) {
	registers := int(count)
	if t.Bits() {
		registers = (registers + 15) / 16
	}
	err := d.ask(id, registers, func(u *unit) (err error) {
		dst, err = u.read(dst, t, int(address), int(count))
		return err
	})
	return dst, err
}

// FIFO implements modbus.FIFOStore.
func (d *desk) FIFO(id byte, address uint16) (values []uint16, err error) {
	err = d.ask(id, 0, func(u *unit) (err error) {
		values, err = u.queue(address)
		return err
	})
	return values, err
}

// Write implements modbus.Store.
func (d *desk) Write(id byte, t modbus.Table, address, count uint16, raw []byte) error {
	return d.change(id, func(u *unit) error { return u.write(t, int(address), int(count), raw) })
}

// Mask implements modbus.MaskStore.
func (d *desk) Mask(id byte, address, and, or uint16) error {
	return d.change(id, func(u *unit) error { return u.setBits(int(address), and, or) })
}

// change lets a unit do what changes it, and all units what is sent to unit 0
// of a serial line.
func (d *desk) change(id byte, do func(u *unit) error) error {
	if (d.serial() || d.bus.Behind) && id == 0 {
		for _, u := range d.bus.units {
			u.ask(0, func() error { return do(u) })
		}
		return modbus.ErrSilent
	}
	return d.ask(id, 0, do)
}

func (d *desk) ask(id byte, registers int, do func(u *unit) error) (err error) {
	if d.unit = d.find(id); d.unit == nil {
		return d.nobody()
	}
	if d.fault, err = d.unit.ask(registers, func() error { return do(d.unit) }); d.fault.Silent {
		d.fault = Fault{} // there is no answer to spoil
	}
	return err
}

// find returns the unit that answers to id. The only unit behind a TCP
// address also answers to 255 and 0, which mean the address itself (Modbus
// messaging on TCP/IP V1.0b, section 4.4.2.3).
func (d *desk) find(id byte) *unit {
	for _, u := range d.bus.units {
		if u.id == id || !d.serial() && (id == 0 || id == 255) && len(d.bus.units) == 1 {
			return u
		}
	}
	return nil
}

// nobody is what a unit that does not exist says: nothing on a serial line,
// and what its gateway says about it on TCP.
func (d *desk) nobody() error {
	if d.serial() {
		return modbus.ErrSilent
	}
	return &modbus.Exception{Code: modbus.GatewayTargetSilence}
}

// spoil returns the frame of an answer as it is to arrive, how much later, and
// forgets what was wrong.
func (d *desk) spoil(frame []byte) ([]byte, time.Duration) {
	fault := d.fault
	d.fault = Fault{}
	if d.unit == nil || !fault.bad() {
		return frame, 0
	}
	d.unit.mu.Lock()
	defer d.unit.mu.Unlock()
	if d.bus.Kind == TCP {
		return d.unit.faulty.spoilFrame(spoilTCP(frame, fault), tcpHeader, fault), fault.Latency
	}
	truth, wrong, answers := bytes.Clone(frame), spoilRTU, rtuAnswers
	if d.bus.Kind == ASCII {
		wrong, answers = spoilASCII, asciiAnswers
	}
	frame = wrong(frame, fault)
	frame = d.unit.faulty.spoilFrame(frame, len(frame), fault)
	if undetectable(truth, frame, answers) {
		d.unit.counter.Undetectable++
	}
	return frame, fault.Latency
}

const tcpHeader = 7 // transaction id, protocol, length, unit id

// spoilRTU makes the answer in frame wrong, with a right checksum.
func spoilRTU(frame []byte, fault Fault) []byte {
	body := spoilPDU(frame[1:len(frame)-2], fault)
	frame = frame[:1+len(body)]
	if fault.Wrong == WrongUnit || fault.Wrong == WrongTransaction {
		frame[0] = frame[0]%247 + 1
	}
	return binary.LittleEndian.AppendUint16(frame, crc16(frame))
}

// spoilASCII is spoilRTU for ASCII: a colon, unit id, PDU and LRC as digits, and
// CR LF.
func spoilASCII(frame []byte, fault Fault) []byte {
	raw, err := hex.DecodeString(string(frame[1 : len(frame)-2]))
	if err != nil {
		return frame
	}
	raw = raw[:1+len(spoilPDU(raw[1:len(raw)-1], fault))]
	if fault.Wrong == WrongUnit || fault.Wrong == WrongTransaction {
		raw[0] = raw[0]%247 + 1
	}
	raw = serial.Sum{Kind: "sum8", Negate: true}.Append(raw, raw, false)
	return fmt.Appendf(nil, ":%X\r\n", raw)
}

// spoilTCP makes the answer in frame wrong, with a right length.
func spoilTCP(frame []byte, fault Fault) []byte {
	body := spoilPDU(frame[tcpHeader:], fault)
	frame = frame[:tcpHeader+len(body)]
	binary.BigEndian.PutUint16(frame[4:], uint16(1+len(body)))
	switch fault.Wrong {
	case WrongUnit:
		frame[6] = frame[6]%247 + 1
	case WrongTransaction:
		frame[1]++
	}
	return frame
}

// crc16 is the checksum of an RTU frame (Modbus over serial line V1.02,
// section 6.2.2).
func crc16(p []byte) uint16 {
	crc := uint16(0xffff)
	for _, b := range p {
		crc ^= uint16(b)
		for range 8 {
			low := crc & 1
			crc >>= 1
			crc ^= 0xa001 * low
		}
	}
	return crc
}
