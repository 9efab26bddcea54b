package modbus

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"edgegateway/devices"
)

// A Table is one of the four address spaces of a device.
type Table uint8

const (
	Coil     Table = iota + 1 // bits that can be written
	Discrete                  // bits that can only be read
	Input                     // registers that can only be read
	Holding                   // registers that can be written
)

var tableNames = [...]string{Coil: "coil", Discrete: "discrete", Input: "input", Holding: "holding"}

func (t Table) String() string {
	if t.valid() {
		return tableNames[t]
	}
	return "table " + strconv.Itoa(int(t))
}

func (t Table) valid() bool { return t >= Coil && t <= Holding }

// Bits reports whether the table holds bits rather than registers.
func (t Table) Bits() bool { return t == Coil || t == Discrete }

// size returns how many bytes n raw entries of the table have in a
// devices.Reading: two for a register, one for a bit.
func (t Table) size(n int) int {
	if t.Bits() {
		return n
	}
	return 2 * n
}

// wireSize returns how many bytes n entries take in a reply.
func (t Table) wireSize(n int) int {
	if t.Bits() {
		return (n + 7) / 8
	}
	return 2 * n
}

// A Register is where a point is found: Count registers, or bits, from
// Address on. Address is what travels on the wire, from 0.
type Register struct {
	Table   Table
	Address uint16
	Count   uint16 // 0 means 1
}

// String says it as an electrician would: "holding 100", "input 0-1".
func (r Register) String() string {
	if r.count() == 1 {
		return fmt.Sprintf("%v %d", r.Table, r.Address)
	}
	return fmt.Sprintf("%v %d-%d", r.Table, r.Address, r.end()-1)
}

func (r Register) count() int { return max(1, int(r.Count)) }

// end is the address after the last.
func (r Register) end() int { return int(r.Address) + r.count() }

// compare orders registers by table, address and end.
func (r Register) compare(o Register) int {
	return cmp.Or(cmp.Compare(r.Table, o.Table), cmp.Compare(r.Address, o.Address), cmp.Compare(r.end(), o.end()))
}

// with returns the shortest range that holds r and o, which are of one table.
// All 65536 addresses count as 65535, which no request can read either.
func (r Register) with(o Register) Register {
	from, end := min(r.Address, o.Address), max(r.end(), o.end())
	return Register{Table: r.Table, Address: from, Count: uint16(min(end-int(from), 1<<16-1))}
}

// cutFrom returns the part of raw, which holds whole, that is r.
func (r Register) cutFrom(whole Register, raw []byte) []byte {
	from := r.Table.size(int(r.Address) - int(whole.Address))
	return raw[from : from+r.Table.size(r.count())]
}

// A Written is a register, or several, whose device takes only one function
// for writing it: CheckFunction says which may be.
type Written struct {
	Register
	Function byte
}

// A Bit is one bit of an input or holding register. Its raw form is that of a
// coil: one byte, 0 or 1.
type Bit struct {
	Register
	N        uint8 // 0 the least significant
	Swapped  bool  // the device has the two bytes of the register the other way round
	Function byte  // sets it: 22, 6 or 16; 0: 22 and, where the device does not know that, 6
}

func (b Bit) String() string { return fmt.Sprintf("%v bit %d", b.Register, b.N) }

// Raw is the raw form of the bit in its register, two bytes as they travel.
// Nobody changes it.
func (b Bit) Raw(register []byte) []byte {
	if binary.BigEndian.Uint16(register)&b.mask() != 0 {
		return bitOn
	}
	return bitOff
}

// Set changes the bit in its register.
func (b Bit) Set(register []byte, on bool) {
	v := binary.BigEndian.Uint16(register) &^ b.mask()
	if on {
		v |= b.mask()
	}
	binary.BigEndian.PutUint16(register, v)
}

var bitOn, bitOff = []byte{1}, []byte{0}

// mask is the bit in its register as it travels.
func (b Bit) mask() uint16 {
	if b.Swapped {
		return 1 << (b.N ^ 8)
	}
	return 1 << b.N
}

// A Queue is a first-in-first-out queue of registers that function 24 reads,
// at most 31 at once. Its raw form is what it held: two bytes each, the oldest
// first, or none.
type Queue struct {
	Address uint16 // of its pointer, a holding register
}

func (q Queue) String() string { return fmt.Sprintf("queue at holding %d", q.Address) }

func (r Register) register() Register { return r }

// RegisterOf returns where a point lies that is read with its neighbours: in
// registers or coils, whatever more its source says.
func RegisterOf(s devices.Source) (Register, bool) {
	if r, ok := s.(interface{ register() Register }); ok {
		return r.register(), true
	}
	return Register{}, false
}

// CheckFunction says why function does not write what lies at s; 0 is any
// that does.
func CheckFunction(s devices.Source, function byte) error {
	reg, ok := RegisterOf(s)
	_, bit := s.(Bit)
	n := reg.count()
	switch {
	case !ok || reg.Table == Input || reg.Table == Discrete:
		return fmt.Errorf("%v can only be read", s)
	case function == 0:
		return nil
	case bit && function != fnMaskWrite && function != fnWriteRegister && function != fnWriteHoldings:
		return fmt.Errorf("function %d does not set a bit of a register: 22 does, or 6 or 16 after the register was read", function)
	case bit:
		return nil
	case function == fnMaskWrite:
		return fmt.Errorf("function 22 sets single bits: it needs bit = N with the register")
	case reg.Table == Coil && function != fnWriteCoil && function != fnWriteCoils:
		return fmt.Errorf("function %d does not write coils: 5 or 15 does", function)
	case reg.Table == Coil && function == fnWriteCoil && n > 1:
		return fmt.Errorf("function 5 writes one coil, and these are %d: 15 does", n)
	case reg.Table == Coil:
		return nil
	case function != fnWriteRegister && function != fnWriteHoldings && function != fnReadWrite:
		return fmt.Errorf("function %d does not write holding registers: 6, 16 or 23 does", function)
	case function == fnWriteRegister && n > 1:
		return fmt.Errorf("function 6 writes one register, and this point has %d: 16 or 23 does", n)
	case function == fnReadWrite && n > maxReadWriteWrite:
		return fmt.Errorf("function 23 writes at most %d registers, and this point has %d: 16 does", maxReadWriteWrite, n)
	}
	return nil
}

// check says what no device can have.
func (r Register) check() error {
	switch {
	case !r.Table.valid():
		return fmt.Errorf("%v: the tables are coil, discrete, input and holding", r.Table)
	case r.end() > 1<<16:
		return fmt.Errorf("%v: addresses end at 65535", r)
	}
	return nil
}

// ParseRef reads a reference number as manuals print it, with five digits
// (40001 is holding 0, up to 49999) or six (400001 is holding 0, up to
// 465536). The first digit is the table: 0 coil, 1 discrete, 3 input,
// 4 holding; the rest counts from 1.
func ParseRef(ref string) (Register, error) {
	tables := map[byte]Table{'0': Coil, '1': Discrete, '3': Input, '4': Holding}
	if len(ref) != 5 && len(ref) != 6 {
		return Register{}, fmt.Errorf("reference number %q: it has five digits, such as 40103, or six, such as 400103", ref)
	}
	n, err := strconv.ParseUint(ref[1:], 10, 32)
	table, ok := tables[ref[0]]
	switch {
	case err != nil:
		return Register{}, fmt.Errorf("reference number %q: it has only digits", ref)
	case !ok:
		return Register{}, fmt.Errorf("reference number %q: the first digit is 0 for coils, 1 for discrete inputs, 3 for input and 4 for holding registers", ref)
	case n == 0 || n > 1<<16:
		return Register{}, fmt.Errorf("reference number %q: the digits after the first count from 1 to 65536", ref)
	}
	return Register{Table: table, Address: uint16(n - 1), Count: 1}, nil
}

// A Unit is how a device is reached on its bus, and what it bears.
type Unit struct {
	ID      byte
	MaxRead uint16        // registers in one request; 0 means 125. Bits: sixteen times as many, at most 2000
	Gaps    bool          // registers between those wanted may be read along, where that is quicker
	Timeout time.Duration // 0: the line's
	Pause   time.Duration // least silence before each request to it
	Quirks  *Quirks       // nil: none
	SunSpec *SunSpec      // where its models are looked for; nil: at SunSpecBases
}

func (u Unit) String() string { return "unit " + strconv.Itoa(int(u.ID)) }

// limit returns how many entries of t one request may ask u for.
func (u Unit) limit(t Table) int {
	n := int(u.MaxRead)
	if n == 0 || n > maxReadRegisters {
		n = maxReadRegisters
	}
	if t.Bits() {
		return min(16*n, maxReadBits)
	}
	return n
}
