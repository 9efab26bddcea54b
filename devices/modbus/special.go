package modbus

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"edgegateway/devices"
)

const (
	maxFIFO           = 31  // registers that a queue yields at once
	maxReadWriteWrite = 121 // registers that function 23 writes
	identityHead      = 7   // function, type, code, conformity, more, next, number
	maxIdentityAsks   = 64  // of one identification; three objects in each are plenty
)

// maskRequest asks to set register reg to (what it is AND and) OR (or AND NOT
// and), in one step.
func maskRequest(unit byte, reg Register, and, or uint16) (*request, error) {
	switch err := reg.check(); {
	case err != nil:
		return nil, err
	case reg.Table != Holding || reg.count() != 1:
		return nil, fmt.Errorf("%v: bits are set in one holding register", reg)
	}
	pdu := binary.BigEndian.AppendUint16(PDU{fnMaskWrite}, reg.Address)
	pdu = binary.BigEndian.AppendUint16(pdu, and)
	return &request{unit: unit, pdu: binary.BigEndian.AppendUint16(pdu, or), reg: reg, write: true}, nil
}

// readWriteRequest asks to set registers to raw and to read others after that,
// in one step.
func readWriteRequest(unit byte, read, write Register, raw []byte) (*request, error) {
	n := write.count()
	switch err := cmp.Or(read.check(), write.check()); {
	case err != nil:
		return nil, err
	case read.Table != Holding || write.Table != Holding:
		return nil, fmt.Errorf("read %v, write %v: only holding registers are read and written at once", read, write)
	case read.count() > maxReadRegisters || n > maxReadWriteWrite:
		return nil, fmt.Errorf("read %v, write %v: one request reads at most %d and writes at most %d registers", read, write, maxReadRegisters, maxReadWriteWrite)
	case len(raw) != 2*n:
		return nil, fmt.Errorf("%v: %d bytes are not its size, %d", write, len(raw), 2*n)
	}
	pdu := binary.BigEndian.AppendUint16(PDU{fnReadWrite}, read.Address)
	pdu = binary.BigEndian.AppendUint16(pdu, uint16(read.count()))
	pdu = binary.BigEndian.AppendUint16(pdu, write.Address)
	return &request{unit: unit, pdu: appendMany(pdu, n, raw), reg: read, write: true,
		name: fmt.Sprintf("write %v and read %v", write, read)}, nil
}

// fifoRequest asks for what the queue at address holds.
func fifoRequest(unit byte, address uint16) *request {
	return &request{unit: unit, pdu: binary.BigEndian.AppendUint16(PDU{fnReadFIFO}, address),
		reg: Register{Table: Holding, Address: address}, name: fmt.Sprintf("queue at holding %d", address)}
}

// shapeFIFO is shape for an answer to fifoRequest: function, number of bytes
// that follow, number of registers, registers.
func shapeFIFO(begin PDU) (int, error) {
	if len(begin) < 5 {
		return 5, nil
	}
	size, n := int(binary.BigEndian.Uint16(begin[1:])), int(binary.BigEndian.Uint16(begin[3:]))
	if n > maxFIFO || size != 2+2*n {
		return 0, errLength
	}
	return 3 + size, nil
}

// identityRequest asks for objects of the device's identity, from first on.
func identityRequest(unit, code, first byte) *request {
	return &request{unit: unit, pdu: PDU{fnEncapsulated, meiIdentify, code, first},
		reg: Register{Table: Holding}, name: "identification"}
}

// shapeIdentity is shape for an answer to an identityRequest, asked: a head,
// then each object with its id and length. The objects end where the number
// in the head says, within the longest PDU.
func shapeIdentity(begin, asked PDU) (int, error) {
	if n := min(len(begin), 3); string(begin[:n]) != string(asked[:n]) {
		return 0, errEcho
	}
	if len(begin) < identityHead {
		return identityHead, nil
	}
	end := identityHead
	for range begin[6] {
		if len(begin) < end+2 {
			end += 2
			break
		}
		end += 2 + int(begin[end+1])
	}
	if end > maxPDU {
		return 0, errLength
	}
	return end, nil
}

// A queueQuery reads one queue, with function 24. The device keeps what it
// yields.
type queueQuery struct {
	line   *Line
	unit   Unit
	ask    *request
	points []*devices.Point // that are this queue
}

// queueQueries makes one query of each queue among points, and returns the
// other points.
func (l *Line) queueQueries(u Unit, points []*devices.Point) (queries []devices.Query, rest []*devices.Point) {
	byAddress := map[Queue]*queueQuery{}
	for _, p := range points {
		queue, ok := p.Source.(Queue)
		if !ok {
			rest = append(rest, p)
			continue
		}
		q := byAddress[queue]
		if q == nil {
			q = &queueQuery{line: l, unit: u, ask: fifoRequest(u.ID, queue.Address)}
			byAddress[queue] = q
			queries = append(queries, q)
		}
		q.points = append(q.points, p)
	}
	return queries, rest
}

func (q *queueQuery) Points() []*devices.Point { return q.points }
func (q *queueQuery) String() string           { return q.ask.String() }

// Cost is as readQuery's, for a full queue.
func (q *queueQuery) Cost() time.Duration {
	q.line.baton.take()
	defer q.line.baton.give()
	return q.line.wireTime(q.ask) + q.line.wire.thinking(q.unit.ID)
}

// request is what Requests says of it.
func (q *queueQuery) request() Request {
	return Request{Unit: q.unit, Register: q.ask.reg, Points: q.points,
		Wire: q.line.wireTime(q.ask) + max(0, q.unit.Pause-q.line.cost.Silence35())}
}

func (q *queueQuery) Do(ctx context.Context, b *devices.Batch) error {
	q.line.baton.take()
	defer q.line.baton.give()
	a, err := q.line.ask(ctx, q.unit, q.ask)
	for _, p := range q.points {
		if err != nil {
			b.Fail(p, err, cmp.Or(a.at, devices.Now()))
		} else {
			b.Add(p, a.pdu[5:], a.at)
		}
	}
	if fromUnit(err) {
		return nil
	}
	return err
}

// Objects of a device's identity (V1.1b3, 6.21).
const (
	VendorName         = 0
	ProductCode        = 1
	Revision           = 2
	VendorURL          = 3
	ProductName        = 4
	ModelName          = 5
	UserApplication    = 6
	identifyBasic      = 1
	identifyRegular    = 2
	identifyRegularEnd = 0x80 // where a vendor's own objects begin
)

// An Identification asks a device who it is, with function 43. Its batch
// stays empty.
type Identification struct {
	line    *Line
	unit    Unit
	Objects map[byte]string // after Do, as they came, by VendorName and so on
}

// Identify returns the query that asks dev for the objects of its identity.
// Many devices know none and refuse with an illegal function.
func (l *Line) Identify(dev *devices.Device) (*Identification, error) {
	u, err := l.unitOf(dev)
	if err != nil {
		return nil, err
	}
	return &Identification{line: l, unit: u}, nil
}

func (q *Identification) Points() []*devices.Point { return nil }
func (q *Identification) String() string {
	return identityRequest(q.unit.ID, identifyBasic, 0).String()
}

// Cost is that of one request; a short identity takes no more.
func (q *Identification) Cost() time.Duration {
	q.line.baton.take()
	defer q.line.baton.give()
	return q.line.wireTime(identityRequest(q.unit.ID, identifyBasic, 0)) + q.line.wire.thinking(q.unit.ID)
}

// Do asks for all objects that the standard names, and if the device refuses
// that for the three that each must have.
func (q *Identification) Do(ctx context.Context, _ *devices.Batch) error {
	q.line.baton.take()
	defer q.line.baton.give()
	err := q.stream(ctx, identifyRegular)
	if refused(err) {
		err = q.stream(ctx, identifyBasic)
	}
	return err
}

// stream asks for the objects of a category until there are no more.
func (q *Identification) stream(ctx context.Context, code byte) error {
	q.Objects = map[byte]string{}
	first := 0
	for range maxIdentityAsks {
		a, err := q.line.ask(ctx, q.unit, identityRequest(q.unit.ID, code, byte(first)))
		if err != nil {
			return err
		}
		more, next := q.keep(a.pdu)
		switch {
		case !more:
			return nil
		case next <= first:
			return fmt.Errorf("%v on %s: the device goes in a circle: after object %d it sends on to %d: %w", q, q.line.Address(), first, next, devices.ErrReply)
		}
		first = next
	}
	return fmt.Errorf("%v on %s: the device's identity has no end: %w", q, q.line.Address(), devices.ErrReply)
}

// keep takes the objects out of pdu, which shapeIdentity has proven.
func (q *Identification) keep(pdu PDU) (more bool, next int) {
	for b := pdu[identityHead:]; len(b) > 0; b = b[2+int(b[1]):] {
		q.Objects[b[0]] = string(b[2 : 2+int(b[1])])
	}
	return pdu[4] == 0xFF, int(pdu[5])
}

// A FIFOStore is a Store that has queues of registers.
type FIFOStore interface {
	Store
	// FIFO returns what the queue at address holds; more than 31 registers
	// are refused.
	FIFO(unit byte, address uint16) ([]uint16, error)
}

// An IdentityStore is a Store whose units say who they are.
type IdentityStore interface {
	Store
	// Identity returns the objects of unit by their ids. What is longer than
	// 244 bytes is cut.
	Identity(unit byte) (map[byte]string, error)
}

// A MaskStore is a Store that sets bits by itself. Any other is read and
// written for that.
type MaskStore interface {
	Store
	// Mask makes a holding register (what it is AND and) OR (or AND NOT and).
	Mask(unit byte, address, and, or uint16) error
}

const maxObject = maxPDU - identityHead - 2

// serveSpecial carries out the functions that are more than one read or write.
func serveSpecial(unit byte, req PDU, s Store) (PDU, error) {
	switch fn := req.function(); fn {
	case fnMaskWrite:
		return serveMask(unit, req, s)
	case fnReadWrite:
		return serveReadWrite(unit, req, s)
	case fnReadFIFO:
		if f, ok := s.(FIFOStore); ok {
			return serveFIFO(unit, req, f)
		}
	case fnEncapsulated:
		if i, ok := s.(IdentityStore); ok && len(req) > 1 && req[1] == meiIdentify {
			return serveIdentity(unit, req, i)
		}
	}
	return nil, &Exception{req.function(), IllegalFunction}
}

// Masked is what function 22 makes of a register.
func Masked(held, and, or uint16) uint16 { return held&and | or&^and }

func serveMask(unit byte, req PDU, s Store) (PDU, error) {
	if len(req) != 7 {
		return nil, &Exception{fnMaskWrite, IllegalValue}
	}
	address, and, or := binary.BigEndian.Uint16(req[1:]), binary.BigEndian.Uint16(req[3:]), binary.BigEndian.Uint16(req[5:])
	if m, ok := s.(MaskStore); ok {
		if err := m.Mask(unit, address, and, or); err != nil {
			return nil, err
		}
		return req, nil
	}
	raw, err := s.Read(nil, unit, Holding, address, 1)
	switch {
	case err != nil:
		return nil, err
	case len(raw) != 2:
		return nil, errLength
	}
	binary.BigEndian.PutUint16(raw, Masked(binary.BigEndian.Uint16(raw), and, or))
	if err := s.Write(unit, Holding, address, 1, raw); err != nil {
		return nil, err
	}
	return req, nil
}

func serveReadWrite(unit byte, req PDU, s Store) (PDU, error) {
	if len(req) < 10 {
		return nil, &Exception{fnReadWrite, IllegalValue}
	}
	read := Register{Holding, binary.BigEndian.Uint16(req[1:]), binary.BigEndian.Uint16(req[3:])}
	write := Register{Holding, binary.BigEndian.Uint16(req[5:]), binary.BigEndian.Uint16(req[7:])}
	data := req[10:]
	switch {
	case read.Count == 0, read.Count > maxReadRegisters, write.Count == 0, write.Count > maxReadWriteWrite,
		int(req[9]) != 2*int(write.Count), len(data) != int(req[9]):
		return nil, &Exception{fnReadWrite, IllegalValue}
	case read.check() != nil, write.check() != nil:
		return nil, &Exception{fnReadWrite, IllegalAddress}
	}
	if err := s.Write(unit, Holding, write.Address, write.Count, data); err != nil {
		return nil, err
	}
	ask := readRequest(unit, read)
	reply, err := serveRead(unit, ask.pdu, s, read)
	if err != nil {
		return nil, err
	}
	reply[0] = fnReadWrite
	return reply, nil
}

func serveFIFO(unit byte, req PDU, s FIFOStore) (PDU, error) {
	if len(req) != 3 {
		return nil, &Exception{fnReadFIFO, IllegalValue}
	}
	values, err := s.FIFO(unit, binary.BigEndian.Uint16(req[1:]))
	switch {
	case err != nil:
		return nil, err
	case len(values) > maxFIFO:
		return nil, &Exception{fnReadFIFO, IllegalValue}
	}
	reply := binary.BigEndian.AppendUint16(PDU{fnReadFIFO}, uint16(2+2*len(values)))
	reply = binary.BigEndian.AppendUint16(reply, uint16(len(values)))
	for _, v := range values {
		reply = binary.BigEndian.AppendUint16(reply, v)
	}
	return reply, nil
}

func serveIdentity(unit byte, req PDU, s IdentityStore) (PDU, error) {
	if len(req) != 4 || req[2] < identifyBasic || req[2] > 4 {
		return nil, &Exception{fnEncapsulated, IllegalValue}
	}
	objects, err := s.Identity(unit)
	if err != nil {
		return nil, err
	}
	code, first := req[2], req[3]
	ids := slices.Sorted(maps.Keys(objects))
	if code == 4 { // one object
		if _, ok := objects[first]; !ok {
			return nil, &Exception{fnEncapsulated, IllegalAddress}
		}
		ids = []byte{first}
	} else {
		last := [...]byte{identifyBasic: Revision, identifyRegular: identifyRegularEnd - 1, 3: 0xFF}[code]
		ids = slices.DeleteFunc(ids, func(id byte) bool { return id < first || id > last })
	}
	return appendIdentity(code, ids, objects), nil
}

// appendIdentity puts as many objects into one reply as fit.
func appendIdentity(code byte, ids []byte, objects map[byte]string) PDU {
	const conformity = 0x83 // extended, as a stream or one by one
	reply := PDU{fnEncapsulated, meiIdentify, code, conformity, 0, 0, 0}
	for _, id := range ids {
		value := objects[id]
		value = value[:min(len(value), maxObject)]
		if len(reply)+2+len(value) > maxPDU {
			reply[4], reply[5] = 0xFF, id
			break
		}
		reply = append(append(reply, id, byte(len(value))), value...)
		reply[6]++
	}
	return reply
}
