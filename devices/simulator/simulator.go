// Package simulator is a plant that is not there: it serves the registers and
// sentences of device maps over the real protocols, with values that move as
// a plant's do. Users commission with it, the demo runs on it, and tests
// prove with it that no wrong value is ever published.
//
// # What is simulated
//
// Each unit answers for what its maps declare. It refuses all other addresses
// with exception 2, and values that may not be written with exception 3. What
// is written stays, and moves what depends on it: a temperature goes to its
// setpoint; flow, speed and load follow the coil that switches them. What a
// point measures is guessed from its unit, else from its name (quantity.go);
// the voltages, currents and powers of a device fit together.
//
// # Decisions
//
//   - Values are a pure function of seed, clock and what was written (wave.go),
//     and a process moves in fixed steps when somebody looks at it. There is no
//     goroutine that moves the plant, and a test with a clock of its own gets
//     the same plant each time.
//   - What a unit holds are the raw bytes that travel, encoded once by package
//     mapping. What the simulator says it holds is decoded from them, so it is
//     exactly what a right reading yields.
//   - In check mode values are not plausible but unique (check.go): no two
//     points ever hold the same number where their types have room for that.
//   - Faults are drawn for each request by its unit and done to the answer's
//     bytes on their way out (fault.go, desk.go), so that what answers is the
//     same code with and without them.
//   - How a bus speaks (Kind) and what it speaks on (Carrier) are separate, as
//     in package modbus, so that there is every pair that the gateway speaks.
//   - Serial lines are pairs of pseudo-terminals paced to their baud rate; that
//     of a meter changes when both ends change it, and what is sent at another
//     arrives as garbage.
package simulator

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

// Config says what is simulated.
type Config struct {
	Buses   []Bus
	Log     *slog.Logger     // nil: none
	Now     func() time.Time // nil: time.Now. Any goroutine calls it
	Seed    uint64           // another seed, another plant
	Check   bool             // unique values in place of plausible ones
	History int              // how many values of each point Holds knows; 0: 4096
}

// A Kind is how a bus speaks.
type Kind uint8

const (
	TCP   Kind = iota // Modbus, each frame with a header, as on TCP
	RTU               // Modbus RTU
	Lines             // devices that speak by themselves, in lines of text or otherwise
	ASCII             // Modbus ASCII
)

func (k Kind) String() string { return name(k, "tcp", "rtu", "lines", "ascii") }

// A Carrier is what a bus speaks on.
type Carrier uint8

const (
	Usual     Carrier = iota // a socket for TCP, a serial line for the others
	Line                     // a pair of pseudo-terminals
	Socket                   // TCP; lines have one client at a time, as converters do
	Encrypted                // TCP with TLS
	Datagrams                // UDP
)

func (c Carrier) String() string { return name(c, "usual", "line", "socket", "encrypted", "datagrams") }

func name[T ~uint8](i T, names ...string) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%T %d", i, i)
}

// schemes are the pairs of kind and carrier that there are, with what their
// addresses begin with.
var schemes = map[Kind]map[Carrier]string{
	TCP:   {Socket: "tcp://", Encrypted: "tls://", Datagrams: "udp://"},
	RTU:   {Line: "", Socket: "rtu+tcp://", Datagrams: "rtu+udp://"},
	ASCII: {Line: "", Socket: "ascii+tcp://"},
	Lines: {Line: "", Socket: "tcp://"},
}

// A Bus is one line or one address with its devices.
type Bus struct {
	Name    string
	Kind    Kind
	Carrier Carrier
	Listen  string         // of all carriers but a line: address; "" means 127.0.0.1:0
	TLS     *tls.Config    // Encrypted: certificate, and whom to ask for one
	Role    string         // Encrypted: what a client's certificate must say, or all is refused with exception 1; "": nothing
	Baud    int            // line; 0: not paced
	Format  string         // line: 8N1
	Link    string         // line: path that leads to the gateway's end; "": one in a folder for temporary files
	Framing serial.Framing // Lines: what these are made like; nil: fields between commas, without a checksum
	Polls   []serial.Poll  // Lines: what the devices are sent to say something; none: they speak by themselves
	Devices []*mapping.Device
	Behind  bool           // TCP: a gateway to a serial line, which passes unit 0 on to all and answers nothing
	Lenient bool           // holes between declared addresses read as 0, as on many real devices
	Faults  map[byte]Fault // by unit id, 0 for all units, from the start
}

// A Simulator is a plant. Its methods may be called at once from any
// goroutine, Run once.
type Simulator struct {
	cfg   Config
	buses []*bus
	ready chan struct{}

	mu      sync.Mutex // guards what follows
	missing int        // buses that are not up yet
	address map[string]string
}

// A bus is one bus of the plant.
type bus struct {
	Bus
	units   []*unit
	talkers talkers
	plug    plug
	now     func() time.Time
	log     *slog.Logger
}

// New builds the plant. It opens nothing. An error names the device and point
// that cannot be simulated.
func New(cfg Config) (*Simulator, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if len(cfg.Buses) == 0 {
		return nil, errors.New("there is nothing to simulate: the configuration has no bus with devices")
	}
	cfg.History = cmp.Or(cfg.History, 4096)
	s := &Simulator{cfg: cfg, ready: make(chan struct{}), missing: len(cfg.Buses), address: map[string]string{}}
	var errs []error
	for i := range cfg.Buses {
		b, err := newBus(&s.cfg, &s.cfg.Buses[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("bus %s: %w", cfg.Buses[i].Name, err))
		}
		s.buses = append(s.buses, b)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	s.mark()
	for _, b := range s.buses {
		for _, u := range b.units {
			errs = append(errs, u.start())
		}
	}
	return s, errors.Join(errs...)
}

func newBus(cfg *Config, as *Bus) (*bus, error) {
	b := &bus{Bus: *as, now: cfg.Now, log: cfg.Log}
	b.Listen = cmp.Or(b.Listen, "127.0.0.1:0")
	b.plug.init()
	if b.Carrier == Usual {
		b.Carrier = Line
		if b.Kind == TCP {
			b.Carrier = Socket
		}
	}
	if _, ok := schemes[b.Kind][b.Carrier]; !ok {
		return b, fmt.Errorf("nobody speaks %v on %v", b.Kind, b.Carrier)
	}
	if b.Carrier == Encrypted && b.TLS == nil {
		return b, errors.New("it needs a certificate")
	}
	if b.Framing == nil {
		b.Framing = serial.Lines{}
	}
	if err := checkFraming(b.Framing); err != nil {
		return b, err
	}
	for i, d := range as.Devices {
		if err := b.add(cfg, d, i); err != nil {
			return b, err
		}
	}
	for _, u := range b.units {
		if err := u.layModels(); err != nil {
			return b, err
		}
	}
	for id, f := range as.Faults {
		if err := b.setFault(id, f); err != nil {
			return b, err
		}
	}
	return b, nil
}

// add puts the i-th device on its bus.
func (b *bus) add(cfg *Config, d *mapping.Device, i int) error {
	dev := newDevice(cfg.Seed, d)
	if b.Kind == Lines {
		u := b.unit(cfg, byte(i+1))
		u.add(dev)
		ts, err := newTalkers(u, dev, b.Framing)
		b.talkers = append(b.talkers, ts...)
		return err
	}
	id, ok := d.Unit.(modbus.Unit)
	if ok && d.WrittenOnly() {
		return nil // it is all units of its line
	}
	if !ok || id.ID == 0 && b.Kind != TCP {
		return fmt.Errorf("device %s: it has no unit id", d.ID)
	}
	for _, p := range dev.points {
		if err := p.place(); err != nil {
			return err
		}
	}
	b.unit(cfg, id.ID).add(dev)
	return nil
}

// unit returns the unit with an id, a new one if there was none.
func (b *bus) unit(cfg *Config, id byte) *unit {
	for _, u := range b.units {
		if u.id == id {
			return u
		}
	}
	u := newUnit(cfg, &b.Bus, id)
	b.units = append(b.units, u)
	return u
}

// mark gives each point of the plant its numbers for check mode.
func (s *Simulator) mark() {
	var points []*point
	for _, b := range s.buses {
		for _, u := range b.units {
			points = append(points, u.points...)
		}
	}
	for i, p := range points {
		p.mark = newMarker(p.Point, i, len(points))
	}
}

// Run serves the plant until ctx is done and returns nil, or the error of a
// bus that could not be opened.
func (s *Simulator) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make(chan error, len(s.buses)) // room for all: nobody waits
	for _, b := range s.buses {
		go func() {
			err := b.run(ctx, func(addr string) { s.up(b, addr) })
			cancel(err)
			errs <- err
		}()
	}
	var all []error
	for range s.buses {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func (b *bus) run(ctx context.Context, up func(addr string)) error {
	switch b.Carrier {
	case Line:
		return b.serveLine(ctx, up)
	case Datagrams:
		return b.servePackets(ctx, up)
	}
	return b.serveTCP(ctx, up)
}

// talk speaks on one line or connection, which it does not close, until ctx is
// done or the line fails.
func (b *bus) talk(ctx context.Context, port serial.Stream) error {
	line := serial.Config{Baud: b.Baud, Format: b.Format}
	if b.Carrier != Line {
		line = serial.Config{}
	}
	meter, isMeter := b.Framing.(serial.Meter)
	switch p := (&faultyPort{Port: port, desk: desk{bus: b}}); {
	case b.Kind == RTU:
		return modbus.ServeRTU(ctx, p, line, &p.desk)
	case b.Kind == ASCII:
		return modbus.ServeASCII(ctx, p, line, &p.desk)
	case isMeter:
		return b.answerCalls(ctx, meter, port)
	case len(b.Polls) > 0:
		return b.answer(ctx, port)
	}
	return b.speak(ctx, port)
}

// up notes where a bus can be reached.
func (s *Simulator) up(b *bus, addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, again := s.address[b.Name]; again {
		return
	}
	s.address[b.Name] = addr
	s.cfg.Log.Info("simulated bus is up", "bus", b.Name, "kind", b.Kind.String(), "carrier", b.Carrier.String(), "address", addr)
	if s.missing--; s.missing == 0 {
		close(s.ready)
	}
}

// Ready is closed when all buses are up for the first time.
func (s *Simulator) Ready() <-chan struct{} { return s.ready }

// Addresses returns what to put into a configuration as the address of each
// bus that is up: tcp://127.0.0.1:41093 or the path of a port.
func (s *Simulator) Addresses() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.address)
}

// Value returns what a point holds, null if that means "no value"; ok is
// false if there is no such point.
func (s *Simulator) Value(device, name string) (v mapping.Value, ok bool) {
	ok = s.look(device, name, func(p *point, raw []byte) { v = p.value(raw) })
	return v, ok
}

// Held returns the raw bytes of what a point holds, as a devices.Reading has
// them; ok is false if there is no such point.
func (s *Simulator) Held(device, name string) (raw []byte, ok bool) {
	ok = s.look(device, name, func(p *point, held []byte) { raw = slices.Clone(p.asRead(held)) })
	return raw, ok
}

// Holds reports whether a point holds raw or was one of the last
// Config.History values that it held.
func (s *Simulator) Holds(device, name string, raw []byte) (was bool) {
	s.look(device, name, func(p *point, _ []byte) { was = p.past.has(raw) })
	return was
}

func (s *Simulator) look(device, name string, fn func(p *point, raw []byte)) bool {
	for _, b := range s.buses {
		for _, u := range b.units {
			if u.look(device, name, fn) {
				return true
			}
		}
	}
	return false
}

// A Counter counts what happened to one unit.
type Counter struct {
	Bus        string
	Unit       byte // id; on a bus of lines the place of the device, from 1
	Devices    []string
	Requests   uint64 // that reached the unit's registers, or lines that were due
	Reads      uint64
	Writes     uint64
	Exceptions uint64
	Faults     uint64 // requests that a fault hit
	// Undetectable are answers in frames of a serial line that a fault
	// changed so that their checksum happens to be right again, and what
	// arrives looks like the answer: nobody can tell. A value that comes of one
	// is no fault of who reads it.
	Undetectable uint64
}

// Counters returns the counts of all units, in the order of the
// configuration.
func (s *Simulator) Counters() []Counter {
	var all []Counter
	for _, b := range s.buses {
		for _, u := range b.units {
			u.mu.Lock()
			all = append(all, u.counter)
			u.mu.Unlock()
		}
	}
	return all
}

// SetFault lets a unit misbehave from now on; 0 means all units of the bus,
// and the zero Fault ends it. On a bus of lines units count from 1.
func (s *Simulator) SetFault(name string, unit byte, f Fault) error {
	b, err := s.bus(name)
	if err != nil {
		return err
	}
	return b.setFault(unit, f)
}

func (b *bus) setFault(unit byte, f Fault) error {
	found := unit == 0
	for _, u := range b.units {
		if unit == 0 || u.id == unit {
			found = true
			u.mu.Lock()
			u.faulty.set(f)
			u.mu.Unlock()
		}
	}
	if !found {
		return fmt.Errorf("fault of bus %s: it has no unit %d", b.Name, unit)
	}
	return nil
}

// Unplug takes a bus away: connections are closed and refused, a serial port
// hangs up and its path is gone. Replug brings it back.
func (s *Simulator) Unplug(name string) error { return s.setPlug(name, true) }

// Replug brings a bus back after Unplug, at the same address.
func (s *Simulator) Replug(name string) error { return s.setPlug(name, false) }

func (s *Simulator) setPlug(name string, out bool) error {
	b, err := s.bus(name)
	if err != nil {
		return err
	}
	b.plug.set(out)
	return nil
}

func (s *Simulator) bus(name string) (*bus, error) {
	for _, b := range s.buses {
		if b.Name == name {
			return b, nil
		}
	}
	return nil, fmt.Errorf("no simulated bus is called %q", name)
}
