package modbus

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"edgegateway/devices"
)

// SunSpec devices do not put their registers at fixed places. Behind a marker
// lies a chain of models: an id that says what its registers mean, their
// number, and the registers; then the next. Id 0xFFFF ends it.

// A SunSpec says where the chain of a device is looked for. It is immutable.
type SunSpec struct {
	Bases []uint16 // addresses that the marker may have, one at least
}

// SunSpecBases are the addresses at which the specification allows the marker,
// the usual one first.
var SunSpecBases = []uint16{40000, 0, 50000}

const (
	sunSpecMarker = "SunS"
	sunSpecEnd    = 0xFFFF
	modelHead     = 2  // registers of id and length
	maxModels     = 64 // of one device; the richest inverters have about 30
	maxEither     = 8  // models of which a point may be in any
)

// A Model is a link of a device's chain.
type Model struct {
	ID      uint16 `json:"id"`
	Address uint16 `json:"at"`     // of its id
	Length  uint16 `json:"length"` // registers behind id and length
}

func (m Model) end() int { return int(m.Address) + modelHead + int(m.Length) }

// head is where its id and length are.
func (m Model) head() Register {
	return Register{Table: Holding, Address: m.Address, Count: modelHead}
}

// headed reports whether raw begins with m's id and length.
func (m Model) headed(raw []byte) bool {
	return len(raw) >= 2*modelHead && binary.BigEndian.Uint16(raw) == m.ID && binary.BigEndian.Uint16(raw[2:]) == m.Length
}

// A SunSpecError is why a device that answers cannot be read by its models.
type SunSpecError struct{ cause, detail string }

func (e *SunSpecError) Error() string { return e.detail }

// Cause is what a payload says.
func (e *SunSpecError) Cause() string { return e.cause }

func brokenChain(format string, args ...any) error {
	return &SunSpecError{"broken SunSpec models", fmt.Sprintf("the device's chain of SunSpec models is broken: "+format, args...)}
}

// errMoved is why points have no value whose model is not where it was.
var errMoved = &SunSpecError{"SunSpec models moved", "the device's SunSpec models are not where they were, as after an update of its firmware; they are looked for anew"}

// WalkModels finds the models of a device by asking for registers: the chain
// behind the first of bases at which the marker is. ask returns nil without an
// error where the device refuses, and an error if it does not answer, which
// ends the walk. A chain without models, without an end, or with what cannot be
// is a *SunSpecError; one that ends where the device refuses the next register
// is taken as it is.
func WalkModels(bases []uint16, ask func(Register) ([]byte, error)) ([]Model, error) {
	for _, base := range bases {
		if int(base) > 1<<16-2-modelHead {
			continue // there is no room for a chain
		}
		raw, err := ask(Register{Table: Holding, Address: base, Count: 2})
		if err != nil {
			return nil, err
		}
		if string(raw) == sunSpecMarker {
			return walkFrom(int(base)+2, ask)
		}
	}
	var at []string
	for _, base := range bases {
		at = append(at, strconv.Itoa(int(base)))
	}
	return nil, &SunSpecError{"no SunSpec", fmt.Sprintf("there is no SunSpec marker at holding %s: switch SunSpec on in the device's menu, check its unit id, or write sunspec = [N] with the address its manual names", strings.Join(at, ", "))}
}

func walkFrom(at int, ask func(Register) ([]byte, error)) ([]Model, error) {
	var models []Model
	for {
		raw, err := nextModel(at, ask)
		switch {
		case err != nil:
			return nil, err
		case len(models) == 0 && (raw == nil || raw[0]&raw[1] == 0xFF):
			return nil, brokenChain("there is no model at holding %d, behind the marker", at)
		case raw == nil || raw[0]&raw[1] == 0xFF:
			return models, nil
		case len(raw) < 2*modelHead:
			return nil, brokenChain("model %d at holding %d has no length", binary.BigEndian.Uint16(raw), at)
		case len(models) == maxModels:
			return nil, brokenChain("it has no end after %d models", maxModels)
		}
		m := Model{ID: binary.BigEndian.Uint16(raw), Address: uint16(at), Length: binary.BigEndian.Uint16(raw[2:])}
		if m.ID == 0 || m.Length == 0 {
			return nil, brokenChain("at holding %d is model %d with %d registers", at, m.ID, m.Length)
		}
		if at = m.end(); at >= 1<<16 {
			return nil, brokenChain("model %d at holding %d has %d registers and goes beyond the last, 65535", m.ID, m.Address, m.Length)
		}
		models = append(models, m)
	}
}

// nextModel asks for id and length at an address; some devices have an id
// without a length at the end.
func nextModel(at int, ask func(Register) ([]byte, error)) ([]byte, error) {
	r := Register{Table: Holding, Address: uint16(at), Count: modelHead}
	if at+modelHead <= 1<<16 {
		if raw, err := ask(r); raw != nil || err != nil {
			return raw, err
		}
	}
	r.Count = 1
	return ask(r)
}

// checkModels reports whether models can be what a walk found, for those that
// were kept in a file.
func checkModels(models []Model) bool {
	for i, m := range models {
		if m.ID == 0 || m.ID == sunSpecEnd || m.Length == 0 || m.end() >= 1<<16 || i > 0 && models[i-1].end() != int(m.Address) {
			return false
		}
	}
	return len(models) <= maxModels
}

// Either is models of which a point may be in any: alternatives that are laid
// out alike, such as those of inverters with one and with three phases. Zeros
// are none.
type Either [maxEither]uint16

// ParseModels reads "101|102|103".
func ParseModels(s string) (e Either, err error) {
	ids := strings.Split(s, "|")
	if len(ids) > maxEither {
		return e, fmt.Errorf("%q: a point is in one of %d models at most", s, maxEither)
	}
	for i, id := range ids {
		n, err := strconv.ParseUint(strings.TrimSpace(id), 10, 16)
		if err != nil || n == 0 || n == sunSpecEnd {
			return e, fmt.Errorf("%q is no SunSpec model; write its number, or several that are alike: \"101|102|103\"", strings.TrimSpace(id))
		}
		if e.has(uint16(n)) {
			return e, fmt.Errorf("%q: model %d stands there twice", s, n)
		}
		e[i] = uint16(n)
	}
	return e, nil
}

func (e Either) String() string {
	var ids []string
	for _, id := range e.ids() {
		ids = append(ids, strconv.Itoa(int(id)))
	}
	return strings.Join(ids, "|")
}

func (e Either) ids() []uint16 {
	return slices.DeleteFunc(e[:], func(id uint16) bool { return id == 0 })
}

func (e Either) has(id uint16) bool { return id != 0 && slices.Contains(e[:], id) }

// Among reports whether one of them is among models.
func (e Either) Among(models []Model) bool {
	return slices.ContainsFunc(models, func(m Model) bool { return e.has(m.ID) })
}

// Last is the last of them.
func (e Either) Last() uint16 {
	ids := e.ids()
	return ids[len(ids)-1]
}

// A ModelRegister is where a point is found in a SunSpec device: Count
// registers of a model, from At on, counted from the model's id, which is 0.
// Its raw form is that of a Register, and with a Factor the register that holds
// its exponent behind it: both are read in one request, so that a device that
// changes its exponents is not read wrongly.
type ModelRegister struct {
	Models   Either
	Instance uint8 // which of these models, 1 the first; 0 means 1
	At       uint16
	Count    uint16 // 0 means 1
	Factor   uint16 // counted as At; 0: none
}

// String says it as "model 103 at 14", "model 101|102|103 at 24-25".
func (m ModelRegister) String() string {
	s := fmt.Sprintf("model %v", m.Models)
	if m.Instance > 1 {
		s += fmt.Sprintf(" no. %d", m.Instance)
	}
	s += fmt.Sprintf(" at %d", m.At)
	if m.Count > 1 {
		s += fmt.Sprintf("-%d", m.At+m.Count-1)
	}
	return s
}

// needs is how many registers of its model must be read, from its id on.
func (m ModelRegister) needs() int {
	return max(int(m.At)+max(1, int(m.Count)), int(m.Factor)+1)
}

// Check says why u cannot be asked for m, whichever device it is.
func (m ModelRegister) Check(u Unit) error {
	from := int(m.At)
	if m.Factor > 0 {
		from = min(from, int(m.Factor))
	}
	switch n, limit := m.needs()-from, u.limit(Holding); {
	case from < modelHead:
		return fmt.Errorf("%v: 0 and 1 are the model's id and length; its points begin at 2, as the tables of SunSpec count", m)
	case n > limit && m.Factor > 0:
		return fmt.Errorf("%v and its scale factor at %d are %d registers, and one request reads %d; a factor that is read apart could be another by then: write scale in place of scale_factor if the device never changes it", m, m.Factor, n, limit)
	case n > limit:
		return fmt.Errorf("%v is longer than the %d registers that one request may read, and a point is never split", m, limit)
	}
	return nil
}

// in finds m among the models of a device.
func (m ModelRegister) in(models []Model) (Model, error) {
	left, found := max(1, int(m.Instance)), 0
	for _, one := range models {
		if !m.Models.has(one.ID) {
			continue
		}
		found++
		if left--; left > 0 {
			continue
		}
		if has := modelHead + int(one.Length); m.needs() > has {
			return one, &SunSpecError{"not in its model", fmt.Sprintf("model %d of this device has registers up to %d only, and the point needs %d", one.ID, has-1, m.needs()-1)}
		}
		return one, nil
	}
	if found > 0 {
		return Model{}, &SunSpecError{"no such model", fmt.Sprintf("this device has model %v only %d times, not %d", m.Models, found, m.Instance)}
	}
	var have []string
	for _, one := range models {
		have = append(have, strconv.Itoa(int(one.ID)))
	}
	return Model{}, &SunSpecError{"no such model", fmt.Sprintf("this device has no SunSpec model %v; it has %s", m.Models, strings.Join(have, ", "))}
}

// commonModel is the first of all devices: who made it, and what it is.
var commonModel = Model{ID: 1, Length: 66}

// LayModels returns a chain, its marker at base, with all models that points
// need, as long as these need them: of several that are alike the last. There
// are none without such points.
func LayModels(base uint16, points []*devices.Point) []Model {
	type link struct {
		id       uint16
		instance int
	}
	lengths := map[link]int{}
	for _, p := range points {
		m, ok := p.Source.(ModelRegister)
		if !ok {
			continue
		}
		for n := 1; n <= max(1, int(m.Instance)); n++ { // those before it are there, too
			l := link{m.Models.Last(), n}
			need := modelHead + 1
			if n == max(1, int(m.Instance)) {
				need = m.needs()
			}
			lengths[l] = max(lengths[l], need-modelHead)
		}
	}
	if len(lengths) == 0 {
		return nil
	}
	first := link{commonModel.ID, 1}
	lengths[first] = max(lengths[first], int(commonModel.Length))
	links := make([]link, 0, len(lengths))
	for l := range lengths {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b link) int {
		if a.id != b.id {
			return int(a.id) - int(b.id)
		}
		return a.instance - b.instance
	})
	at := int(base) + 2
	var models []Model
	for _, l := range links {
		m := Model{ID: l.id, Address: uint16(at), Length: uint16(lengths[l])}
		if at = m.end(); at >= 1<<16 {
			break
		}
		models = append(models, m)
	}
	return models
}

// A Presumed is a Notebook of devices that are not asked, for plans: their
// models are as LayModels lays them. It keeps nothing.
type Presumed []*devices.Device

// Facts are those of a device that lies so.
func (p Presumed) Facts(device string) (f Facts, ok bool) {
	for _, dev := range p {
		if dev.ID == device {
			u, _ := dev.Unit.(Unit)
			f.Models = LayModels(u.Bases()[0], dev.Points)
		}
	}
	return f, true
}

// Learned is never called: nothing is asked.
func (p Presumed) Learned(string, Facts, string) {}

// Bases are the addresses at which u's marker is looked for.
func (u Unit) Bases() []uint16 {
	if u.SunSpec != nil {
		return u.SunSpec.Bases
	}
	return SunSpecBases
}

// A Place is where a point was found in a chain.
type Place struct {
	Model  Model
	At     Register
	Factor *Register // nil: none
}

// Place finds m in a device with models.
func (m ModelRegister) Place(models []Model) (Place, error) {
	model, err := m.in(models)
	if err != nil {
		return Place{}, err
	}
	p := Place{Model: model, At: Register{Table: Holding, Address: model.Address + m.At, Count: max(1, m.Count)}}
	if m.Factor > 0 {
		p.Factor = &Register{Table: Holding, Address: model.Address + m.Factor, Count: 1}
	}
	return p, nil
}

// ChainRegisters are those that the chain with its marker at base consists of
// besides the points of its models: marker, ids, lengths and end, by address.
func ChainRegisters(base uint16, models []Model) map[uint16]uint16 {
	m := map[uint16]uint16{base: 0x5375, base + 1: 0x6E53}
	end := base + 2
	for _, one := range models {
		m[one.Address], m[one.Address+1] = one.ID, one.Length
		end = uint16(one.end())
	}
	m[end], m[end+1] = sunSpecEnd, 0
	return m
}
