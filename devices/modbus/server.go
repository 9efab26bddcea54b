package modbus

import (
	"encoding/binary"
	"errors"
)

// A Store is what a server serves. Its methods are called by one goroutine
// for each line or connection.
//
// Raw values have the form of devices.Reading.Raw: two bytes for a register,
// high byte first; one byte, 0 or 1, for a bit. The methods see only requests
// within the limits of the protocol. Their error is what the client gets: an
// *Exception as it is, ErrSilent as no reply at all, any other as exception 4
// (device failure).
type Store interface {
	// Read appends count values from address on to dst.
	Read(dst []byte, unit byte, t Table, address, count uint16) ([]byte, error)
	// Write sets count values from address on. The table is Coil or Holding.
	Write(unit byte, t Table, address, count uint16, raw []byte) error
}

// ErrSilent makes a server not reply, as a unit that is not there.
var ErrSilent = errors.New("no reply")

// Serve carries out one request for unit and returns the reply, nil for none.
// It is a pure function of request and store: any bytes may come in.
func Serve(unit byte, req PDU, s Store) PDU {
	if len(req) == 0 {
		return nil
	}
	reply, err := serve(unit, req, s)
	if errors.Is(err, ErrSilent) {
		return nil
	}
	if err != nil {
		code := byte(DeviceFailure)
		if e, ok := errors.AsType[*Exception](err); ok {
			code = e.Code
		}
		return PDU{req.function() | exceptionBit, code}
	}
	return reply
}

func serve(unit byte, req PDU, s Store) (PDU, error) {
	refuse := func(code byte) (PDU, error) { return nil, &Exception{req.function(), code} }
	fn := req.function()
	table := map[byte]Table{
		fnReadCoils: Coil, fnReadDiscrete: Discrete, fnReadHolding: Holding, fnReadInput: Input,
		fnWriteCoil: Coil, fnWriteRegister: Holding, fnWriteCoils: Coil, fnWriteHoldings: Holding,
	}[fn]
	switch {
	case fn == fnDiagnostics && len(req) >= 3 && req[1] == 0 && req[2] == 0: // return query data
		return req, nil
	case table == 0:
		return serveSpecial(unit, req, s)
	case len(req) < 5:
		return refuse(IllegalValue)
	}
	address, count := binary.BigEndian.Uint16(req[1:]), binary.BigEndian.Uint16(req[3:])
	if fn == fnWriteCoil || fn == fnWriteRegister {
		count = 1
	}
	if count == 0 || int(count) > maxCount(fn) {
		return refuse(IllegalValue)
	}
	if int(address)+int(count) > 1<<16 {
		return refuse(IllegalAddress)
	}
	if fn <= fnReadInput {
		return serveRead(unit, req, s, Register{table, address, count})
	}
	return serveWrite(unit, req, s, Register{table, address, count})
}

// maxCount is how many values one request of function fn may carry.
func maxCount(fn byte) int {
	switch fn {
	case fnReadCoils, fnReadDiscrete:
		return maxReadBits
	case fnReadHolding, fnReadInput:
		return maxReadRegisters
	case fnWriteCoils:
		return maxWriteBits
	}
	return maxWriteRegisters
}

func serveRead(unit byte, req PDU, s Store, reg Register) (PDU, error) {
	if len(req) != 5 {
		return nil, &Exception{req.function(), IllegalValue}
	}
	raw, err := s.Read(nil, unit, reg.Table, reg.Address, reg.Count)
	switch {
	case err != nil:
		return nil, err
	case len(raw) != reg.Table.size(reg.count()):
		return nil, errLength
	case reg.Table.Bits():
		raw = packBits(nil, raw)
	}
	return append(PDU{req.function(), byte(len(raw))}, raw...), nil
}

func serveWrite(unit byte, req PDU, s Store, reg Register) (PDU, error) {
	raw, ok := writeValues(req, reg)
	if !ok {
		return nil, &Exception{req.function(), IllegalValue}
	}
	if err := s.Write(unit, reg.Table, reg.Address, reg.Count, raw); err != nil {
		return nil, err
	}
	return req[:5], nil
}

// writeValues returns the values that req carries in the form of a reading.
func writeValues(req PDU, reg Register) (raw []byte, ok bool) {
	switch req.function() {
	case fnWriteRegister:
		return req[3:], len(req) == 5
	case fnWriteCoil:
		return []byte{req[3] & 1}, len(req) == 5 && (req[3] == 0 || req[3] == 0xFF) && req[4] == 0
	}
	if len(req) < 6 || len(req) != 6+int(req[5]) {
		return nil, false
	}
	data := req[6:]
	if reg.Table.Bits() {
		if len(data) != (reg.count()+7)/8 {
			return nil, false
		}
		return unpackBits(nil, data, reg.count()), true
	}
	return data, len(data) == 2*reg.count()
}
