package simulator

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// A unit is what answers to one unit id: one device, or several maps of it.
// On a bus that speaks by itself each device is a unit. Its methods may be
// called at once from any goroutine.
type unit struct {
	id      byte
	seed    uint64
	lenient bool
	check   bool
	history int
	now     func() time.Time

	mu      sync.Mutex // guards all that follows and points to
	devices []*device
	points  []*point // of all devices, those that can be written first
	banks   [modbus.Holding + 1]*bank
	faulty  faulty
	counter Counter
	err     error // the first value that could not be encoded, which New has tried
	chain   chain // of a SunSpec device
}

func newUnit(cfg *Config, bus *Bus, id byte) *unit {
	u := &unit{
		id: id, seed: hash(cfg.Seed, bus.Name), lenient: bus.Lenient, check: cfg.Check, history: cfg.History, now: cfg.Now,
		banks:  [...]*bank{modbus.Coil: newBank(1), modbus.Discrete: newBank(1), modbus.Input: newBank(2), modbus.Holding: newBank(2)},
		faulty: newFaulty(hash(cfg.Seed, bus.Name, "fault", string(rune(id)))),
	}
	u.counter = Counter{Bus: bus.Name, Unit: id}
	return u
}

// add makes dev part of the unit. Its points' places are known.
func (u *unit) add(dev *device) {
	u.devices = append(u.devices, dev)
	u.counter.Devices = append(u.counter.Devices, dev.ID)
	for _, p := range dev.points {
		at := len(u.points)
		if p.Write != nil {
			at = 0
		}
		u.points = slices.Insert(u.points, at, p)
	}
}

// place finds where a point lies in the tables.
func (p *point) place() error {
	r, ok := modbus.RegisterOf(p.Source)
	if _, modeled := p.Source.(modbus.ModelRegister); modeled || p.fifo != nil {
		return nil // see layModels
	}
	if !ok {
		return fmt.Errorf("device %s, point %s: %v is no register, so it cannot be on a Modbus bus", p.device, p.Name, p.Source)
	}
	p.table, p.addr, p.count = r.Table, int(r.Address), max(1, int(r.Count))
	if p.table < modbus.Coil || p.table > modbus.Holding || p.addr+p.count > 1<<16 {
		return fmt.Errorf("device %s, point %s: no device has %v", p.device, p.Name, r)
	}
	return nil
}

// start gives all points their first values.
func (u *unit) start() error {
	for _, p := range u.points {
		if p.sentence {
			continue
		}
		if err := u.settle(p); err != nil {
			return err
		}
	}
	u.fillChain()
	for _, dev := range u.devices {
		dev.start(u.seconds(), !u.check)
	}
	u.refresh()
	u.remember(u.points)
	return u.err
}

// settle declares a point's registers and fills them. Of points that lie on
// the same registers the first decides what these hold.
func (u *unit) settle(p *point) error {
	b := u.banks[p.table]
	p.owner = !b.any(p.addr, p.count) || p.bit != nil && u.onlyBits(p)
	b.declare(p.addr, p.count)
	if !p.owner {
		return nil
	}
	raw, err := u.first(p)
	if err != nil {
		return err
	}
	want := p.count * b.width
	if p.bit != nil {
		want = 1
	}
	if len(raw) != want {
		return fmt.Errorf("device %s, point %s: %v has %d bytes, its type %d", p.device, p.Name, p.Source, want, len(raw))
	}
	u.set(p, raw)
	p.number = p.numberOf(raw)
	return nil
}

// onlyBits reports whether the register of p, a bit, is declared by other bits
// of it only.
func (u *unit) onlyBits(p *point) bool {
	return !slices.ContainsFunc(u.points, func(o *point) bool {
		return !o.sentence && o.owner && o.table == p.table && o.addr <= p.addr && p.addr < o.addr+o.count && (o.bit == nil || o.bit.N == p.bit.N)
	})
}

// set lets p's registers hold raw.
func (u *unit) set(p *point, raw []byte) {
	if p.bit != nil {
		register := u.banks[p.table].appendTo(nil, p.addr, 1)
		p.bit.Set(register, raw[0] != 0)
		raw = register
	}
	u.banks[p.table].set(p.addr, raw)
}

// first is what p holds before anything has moved.
func (u *unit) first(p *point) ([]byte, error) {
	switch {
	case p.Write != nil && p.variable():
		return p.encode(p.initial())
	case u.check && p.unique():
		return p.marked()
	case !p.variable():
		return p.constantRaw()
	}
	return p.encode(0)
}

func (u *unit) seconds() float64 { return float64(u.now().UnixMilli()) / 1000 }

// refresh brings the registers to the present.
func (u *unit) refresh() {
	for _, dev := range u.devices {
		if u.check || !dev.move(u.seconds()) {
			continue
		}
		for _, p := range dev.points {
			if p.law == nil || p.sentence {
				continue
			}
			raw, err := p.encode(p.number)
			if err != nil {
				u.err = err
				continue
			}
			u.set(p, raw)
		}
		u.remember(u.points)
	}
}

// remember notes what points hold.
func (u *unit) remember(points []*point) {
	for _, p := range points {
		if raw := u.holds(p); raw != nil {
			p.past.add(p.asRead(raw), u.history)
		}
	}
}

// holds returns what p holds.
func (u *unit) holds(p *point) []byte {
	if p.sentence {
		return p.text
	}
	raw := u.banks[p.table].appendTo(nil, p.addr, p.count)
	if p.bit != nil {
		return p.bit.Raw(raw)
	}
	return raw
}

// read appends what count addresses hold. It refuses addresses that the map
// does not declare.
func (u *unit) read(dst []byte, t modbus.Table, addr, count int) ([]byte, error) {
	u.counter.Reads++
	if !u.banks[t].has(addr, count, u.lenient) {
		return dst, &modbus.Exception{Code: modbus.IllegalAddress}
	}
	if u.check {
		u.mark(t, addr, count)
	} else {
		u.refresh()
	}
	return u.banks[t].appendTo(dst, addr, count), nil
}

// mark moves each point that is about to be read whole on to its next number.
func (u *unit) mark(t modbus.Table, addr, count int) {
	for _, p := range u.points {
		if p.table != t || p.addr < addr || p.addr+p.count > addr+count {
			continue
		}
		if p.owner && p.Write == nil && p.unique() {
			p.advance()
			u.setMarked(p)
		}
		u.remember([]*point{p})
	}
}

func (u *unit) setMarked(p *point) {
	raw, err := p.marked()
	if err != nil {
		u.err = err
		return
	}
	u.set(p, raw)
}

// write sets addresses from addr on. It refuses those that no writable point
// declares and values that their points do not allow, and then writes nothing.
func (u *unit) write(t modbus.Table, addr, count int, raw []byte) error {
	u.counter.Writes++
	b, hit := u.banks[t], u.writable(t, addr, count)
	if !covered(hit, addr, count) {
		return &modbus.Exception{Code: modbus.IllegalAddress}
	}
	u.refresh()
	for _, p := range hit {
		if p.bit == nil && !p.accepts(overlay(u.holds(p), (addr-p.addr)*b.width, raw)) {
			return &modbus.Exception{Code: modbus.IllegalValue}
		}
	}
	b.set(addr, raw)
	for _, p := range hit {
		p.number = p.numberOf(u.holds(p))
	}
	u.remember(u.points)
	return nil
}

// setBits is write for a holding register that becomes (it AND and) OR or.
func (u *unit) setBits(addr int, and, or uint16) error {
	u.refresh()
	raw := u.banks[modbus.Holding].appendTo(nil, addr, 1)
	return u.write(modbus.Holding, addr, 1, binary.BigEndian.AppendUint16(nil, modbus.Masked(binary.BigEndian.Uint16(raw), and, or)))
}

// writable returns the points that can be written and lie at least in part in
// count addresses from addr on.
func (u *unit) writable(table modbus.Table, addr, count int) []*point {
	var hit []*point
	for _, p := range u.points {
		if p.Write != nil && p.table == table && p.addr < addr+count && addr < p.addr+p.count {
			hit = append(hit, p)
		}
	}
	return hit
}

// covered reports whether each of count addresses belongs to one of points.
func covered(points []*point, addr, count int) bool {
	for a := addr; a < addr+count; a++ {
		if !slices.ContainsFunc(points, func(p *point) bool { return p.addr <= a && a < p.addr+p.count }) {
			return false
		}
	}
	return true
}

// overlay returns raw with over laid on it from byte at on; what does not fit
// is cut off.
func overlay(raw []byte, at int, over []byte) []byte {
	if at < 0 {
		over, at = over[-at:], 0
	}
	copy(raw[at:], over)
	return raw
}

// ask carries out what do does, which reads so many registers, unless a fault of
// this request forbids it, and returns what else is to be wrong with the answer.
func (u *unit) ask(registers int, do func() error) (Fault, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fault := u.faulty.next(registers)
	u.counter.Requests++
	if fault.bad() {
		u.counter.Faults++
	}
	if fault.Silent {
		return fault, modbus.ErrSilent
	}
	err := error(&modbus.Exception{Code: fault.Exception})
	if fault.Exception == 0 {
		err = do()
	}
	if err != nil {
		u.counter.Exceptions++
	}
	return fault, err
}

// find returns the point of a device, nil if the unit has none.
func (u *unit) find(device, name string) *point {
	for _, p := range u.points {
		if p.device == device && p.Name == name {
			return p
		}
	}
	return nil
}

// look calls fn with what a point holds at present, and reports whether the
// unit has it.
func (u *unit) look(device, name string, fn func(p *point, raw []byte)) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.find(device, name)
	if p == nil {
		return false
	}
	if !p.sentence {
		u.refresh()
	}
	fn(p, u.holds(p))
	return true
}

// value decodes what a point holds.
func (p *point) value(raw []byte) mapping.Value {
	v, err := mapping.Decode(p.Point, raw)
	if err != nil {
		return mapping.Value{}
	}
	return v
}
