package modbus

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits of one request (Modbus application protocol V1.1b3, chapter 6).
const (
	maxReadBits       = 2000
	maxReadRegisters  = 125
	maxWriteBits      = 1968
	maxWriteRegisters = 123
	maxPDU            = 253
)

// Function codes.
const (
	fnReadCoils     = 1
	fnReadDiscrete  = 2
	fnReadHolding   = 3
	fnReadInput     = 4
	fnWriteCoil     = 5
	fnWriteRegister = 6
	fnDiagnostics   = 8
	fnWriteCoils    = 15
	fnWriteHoldings = 16
	fnMaskWrite     = 22
	fnReadWrite     = 23
	fnReadFIFO      = 24
	fnEncapsulated  = 43 // with the type below
	meiIdentify     = 14

	exceptionBit = 0x80
)

// A PDU is a function code with its data, without unit id and checksum.
type PDU []byte

func (p PDU) function() byte { return p[0] }

// readFunctions are the codes that read each table.
var readFunctions = [...]byte{Coil: fnReadCoils, Discrete: fnReadDiscrete, Input: fnReadInput, Holding: fnReadHolding}

// A request is one question to one unit, and what its answer must look like.
// It is immutable.
type request struct {
	unit  byte
	pdu   PDU
	reg   Register // what it reads or writes; with both (function 23) what it reads
	write bool     // it may change something
	all   bool     // a broadcast: nobody answers
	name  string   // for people, if reg does not say it
}

// readRequest asks for reg.
func readRequest(unit byte, reg Register) *request {
	pdu := PDU{readFunctions[reg.Table], 0, 0, 0, 0}
	binary.BigEndian.PutUint16(pdu[1:], reg.Address)
	binary.BigEndian.PutUint16(pdu[3:], uint16(reg.count()))
	return &request{unit: unit, pdu: pdu, reg: reg}
}

// writeRequest asks to set reg to raw, which has the form of a reading, with
// function, or with 0 the one that is for as many: 5 or 6, 15 or 16.
func writeRequest(unit byte, reg Register, raw []byte, function byte) (*request, error) {
	if err := cmp.Or(reg.check(), CheckFunction(reg, function)); err != nil {
		return nil, err
	}
	n := reg.count()
	if len(raw) != reg.Table.size(n) {
		return nil, fmt.Errorf("%v: %d bytes are not its size, %d", reg, len(raw), reg.Table.size(n))
	}
	r := &request{unit: unit, reg: reg, write: true}
	addr := binary.BigEndian.AppendUint16(nil, reg.Address)
	switch {
	case reg.Table == Coil && n == 1 && function != fnWriteCoils:
		r.pdu = append(append(PDU{fnWriteCoil}, addr...), 0, 0)
		if raw[0] != 0 {
			r.pdu[3] = 0xFF
		}
	case reg.Table == Holding && n == 1 && function != fnWriteHoldings:
		r.pdu = append(append(PDU{fnWriteRegister}, addr...), raw...)
	case reg.Table == Coil && n <= maxWriteBits:
		r.pdu = appendMany(append(PDU{fnWriteCoils}, addr...), n, packBits(nil, raw))
	case reg.Table == Holding && n <= maxWriteRegisters:
		r.pdu = appendMany(append(PDU{fnWriteHoldings}, addr...), n, raw)
	default:
		return nil, fmt.Errorf("%v: one request writes at most %d coils or %d registers", reg, maxWriteBits, maxWriteRegisters)
	}
	return r, nil
}

func appendMany(dst PDU, n int, data []byte) PDU {
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	return append(append(dst, byte(len(data))), data...)
}

// dataLen is how many bytes of values the answer to a read carries.
func (r *request) dataLen() int { return r.reg.Table.wireSize(r.reg.count()) }

// replyLen is the length of the answer's PDU if it is no exception, or its
// greatest where the device chooses it.
func (r *request) replyLen() int {
	switch n := r.echoed(); {
	case n > 0:
		return n
	case r.pdu.function() == fnReadFIFO:
		return 5 + 2*maxFIFO
	case r.pdu.function() == fnEncapsulated:
		return maxPDU
	}
	return 2 + r.dataLen()
}

// echoed is how much of r's PDU its answer repeats and consists of; 0 if the
// answer is another.
func (r *request) echoed() int {
	switch r.pdu.function() {
	case fnWriteCoil, fnWriteRegister, fnWriteCoils, fnWriteHoldings:
		return 5
	case fnMaskWrite:
		return 7
	}
	return 0
}

// same reports whether r and o are one question.
func (r *request) same(o *request) bool { return r.unit == o.unit && bytes.Equal(r.pdu, o.pdu) }

// alike reports whether an answer to o, but for its values, can also be one
// to r.
func (r *request) alike(o *request) bool {
	fn := r.pdu.function()
	switch n := r.echoed(); {
	case fn != o.pdu.function():
		return false
	case n > 0:
		return bytes.Equal(r.pdu[:n], o.pdu[:n])
	case fn == fnReadFIFO, fn == fnEncapsulated:
		return true
	}
	return r.dataLen() == o.dataLen()
}

// echoes reports whether the answer to r is equal to r.
func (r *request) echoes() bool { return r.echoed() == len(r.pdu) }

// String names r for people: "unit 1: input 0-79".
func (r *request) String() string {
	if r.name != "" {
		return fmt.Sprintf("unit %d: %s", r.unit, r.name)
	}
	if r.write {
		return fmt.Sprintf("unit %d: write %v", r.unit, r.reg)
	}
	return fmt.Sprintf("unit %d: %v", r.unit, r.reg)
}

var (
	errFunction = errors.New("another function code")
	errLength   = errors.New("another length than asked for")
	errEcho     = errors.New("another address or value than written")
)

// shape says whether the beginning of an answer's PDU can belong to r and how
// long that answer then is, or at least is. It judges the bytes there are, at
// least one.
func (r *request) shape(begin PDU) (length int, err error) {
	fn := r.pdu.function()
	switch echoed := r.echoed(); {
	case begin[0] == fn|exceptionBit:
		return 2, nil
	case begin[0] != fn:
		return 0, errFunction
	case echoed > 0:
		n := min(len(begin), echoed)
		if !bytes.Equal(begin[:n], r.pdu[:n]) {
			return 0, errEcho
		}
	case fn == fnReadFIFO:
		return shapeFIFO(begin)
	case fn == fnEncapsulated:
		return shapeIdentity(begin, r.pdu)
	case len(begin) > 1 && int(begin[1]) != r.dataLen():
		return 0, errLength
	}
	return r.replyLen(), nil
}

// fits reports whether pdu, a whole PDU with a good checksum whose length
// shape gave, can answer r.
func (r *request) fits(pdu PDU) bool {
	n, err := r.shape(pdu)
	return err == nil && n == len(pdu)
}

// check proves that reply, a whole PDU, answers r. An exception is returned
// as *Exception.
func (r *request) check(reply PDU) error {
	if len(reply) == 0 {
		return errLength
	}
	n, err := r.shape(reply)
	switch {
	case err != nil:
		return err
	case n != len(reply):
		return errLength
	case reply[0]&exceptionBit != 0:
		return &Exception{Function: reply[0] &^ exceptionBit, Code: reply[1]}
	}
	return nil
}

// appendRaw appends the values that reply holds, which check has proven, in
// the form of a reading.
func (r *request) appendRaw(dst []byte, reply PDU) []byte {
	data := reply[2:]
	if !r.reg.Table.Bits() {
		return append(dst, data...)
	}
	return unpackBits(dst, data, r.reg.count())
}

// unpackBits appends n bits, lowest first, as one byte each.
func unpackBits(dst, packed []byte, n int) []byte {
	for i := range n {
		dst = append(dst, packed[i/8]>>(i%8)&1)
	}
	return dst
}

// packBits appends bits, one byte each, eight to a byte, lowest first.
func packBits(dst, bits []byte) []byte {
	for i, b := range bits {
		if i%8 == 0 {
			dst = append(dst, 0)
		}
		if b != 0 {
			dst[len(dst)-1] |= 1 << (i % 8)
		}
	}
	return dst
}
