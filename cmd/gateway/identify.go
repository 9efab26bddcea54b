package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// A unit is identified by what it says of itself where it does (SunSpec, or a
// register whose content a profile knows as its fingerprint), and else by trying
// the profiles: the registers of the right one answer, and what they hold is
// plausible.

// A fit is how well a profile describes a unit.
type fit struct {
	profile  string
	points   int      // that have a plausible value
	strong   int      // of them: voltages and frequencies, which little else looks like
	word     word     // what the unit itself says of it
	evidence []string // a few of the values
	lacks    []string // points of models that it does not have
}

// sunSpec is what a SunSpec device says of itself.
type sunSpec struct {
	Address uint16         `json:"address"` // of the marker
	Maker   string         `json:"maker"`
	Model   string         `json:"model"`
	Models  []modbus.Model `json:"models,omitempty"` // none: the chain is broken
	Broken  string         `json:"broken,omitempty"` // how
}

// maxBlock is how many registers an identification reads at once: few enough
// for any device.
const maxBlock = 40

// An examiner finds out what one unit is. It asks for nothing twice.
type examiner struct {
	*asker
	unit byte
	seen map[modbus.Register]answerOf
	mute int // first questions that were never answered: some units are silent where others refuse
}

// oftenMute is how many of these show that a unit is so, and need not be asked
// twice whether it has a register.
const oftenMute = 3

type answerOf struct {
	raw []byte
	err error
}

// ask asks for a register, a second time if no whole answer came.
func (x *examiner) ask(ctx context.Context, r modbus.Register) ([]byte, error) {
	return x.once(r, func() ([]byte, error) { return x.insist(ctx, x.unit, r) })
}

// wonder asks for a register that the unit likely does not have.
func (x *examiner) wonder(ctx context.Context, r modbus.Register) ([]byte, error) {
	return x.once(r, func() (raw []byte, err error) {
		if x.mute >= oftenMute {
			return x.registers(ctx, x.unit, r)
		}
		if raw, err = x.insist(ctx, x.unit, r); err != nil && replyOf(err) == silent {
			x.mute++
		}
		return raw, err
	})
}

// once returns the answer of before, if r was asked for.
func (x *examiner) once(r modbus.Register, ask func() ([]byte, error)) ([]byte, error) {
	if a, ok := x.seen[r]; ok {
		return a.raw, a.err
	}
	raw, err := ask()
	x.seen[r] = answerOf{raw, err}
	return raw, err
}

// sunSpec looks for the marker where the specification allows it, and reads
// the common model after it: maker and model of 16 registers each.
func (x *examiner) sunSpec(ctx context.Context) *sunSpec {
	for _, at := range modbus.SunSpecBases {
		raw, err := x.ask(ctx, modbus.Register{Table: modbus.Holding, Address: at, Count: 2})
		if err != nil || string(raw) != "SunS" {
			continue
		}
		s := &sunSpec{Address: at}
		if raw, err := x.ask(ctx, modbus.Register{Table: modbus.Holding, Address: at + 2, Count: 34}); err == nil && raw[0] == 0 && raw[1] == 1 {
			s.Maker, s.Model = plainText(raw[4:36]), plainText(raw[36:68])
		}
		if s.Models, err = modbus.WalkModels([]uint16{at}, x.chain(ctx)); err != nil {
			s.Broken = err.Error()
		}
		return s
	}
	return nil
}

// chain asks as a walk along models does. A unit that is silent where others
// refuse has nothing there.
func (x *examiner) chain(ctx context.Context) func(modbus.Register) ([]byte, error) {
	return func(r modbus.Register) ([]byte, error) {
		raw, err := x.ask(ctx, r)
		if answer := replyOf(err); err != nil && (answer == answered || answer == silent) {
			return nil, nil
		}
		return raw, err
	}
}

// ids lists the models, each once.
func (s *sunSpec) ids() string {
	var ids []string
	for _, m := range s.Models {
		if id := fmt.Sprint(m.ID); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return strings.Join(ids, ", ")
}

// fits returns the profiles of models that the unit has, best first: those of
// the model that it names first, as that is what it is in the main, and of these
// the one of which it has most points.
func (s *sunSpec) fits(profiles []*config.Profile) (list []fit) {
	first := map[string]uint16{}
	for _, p := range profiles {
		f := fit{profile: p.Name}
		first[p.Name] = math.MaxUint16
		for _, point := range p.Device.Points {
			m, ok := point.Source.(modbus.ModelRegister)
			if !ok || !m.Models.Among(s.Models) {
				f.points, f.lacks = 0, nil
				break
			}
			at, err := m.Place(s.Models)
			if err != nil {
				f.lacks = append(f.lacks, point.Name)
				continue
			}
			if at.Model.ID != commonModel {
				f.points++
				first[p.Name] = min(first[p.Name], at.Model.Address)
			}
		}
		if f.points > len(f.lacks) {
			list = append(list, f)
		}
	}
	slices.SortStableFunc(list, func(a, b fit) int {
		return cmp.Or(cmp.Compare(first[a.profile], first[b.profile]), cmp.Compare(b.points, a.points), cmp.Compare(len(a.lacks), len(b.lacks)))
	})
	return list
}

// commonModel is the one that all SunSpec devices have.
const commonModel = 1

// plainText is text that a device holds, without what no terminal should get.
func plainText(raw []byte) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(raw))
	return strings.TrimSpace(text)
}

// A word is what a unit says of a profile that knows a fingerprint.
type word int8

const (
	denied word = iota - 1 // the register holds what such devices do not
	unsaid                 // there is no such register, or nothing in it
	named
)

// perhaps reports that much else would look the same.
func (f *fit) perhaps() bool { return f.word == denied || f.word == unsaid && f.strong == 0 }

// fits returns the profiles that describe the unit, best first.
func (x *examiner) fits(ctx context.Context, profiles []*config.Profile) []fit {
	var list []fit
	for _, p := range profiles {
		if ctx.Err() != nil {
			return nil
		}
		if !p.RegistersOnly() {
			continue
		}
		word, says := x.fingerprint(ctx, p)
		if word != named && !x.opens(ctx, p.Device) {
			continue
		}
		f, ok := x.try(ctx, p.Device)
		if f.word = word; says != "" {
			f.evidence = append([]string{says}, f.evidence...)
		}
		if ok || word == named {
			list = append(list, f)
		}
	}
	slices.SortStableFunc(list, func(a, b fit) int {
		return cmp.Or(cmp.Compare(b.word, a.word), cmp.Compare(b.strong, a.strong), cmp.Compare(b.points, a.points))
	})
	// Many meters have the registers of smaller ones, too.
	return slices.DeleteFunc(list, func(f fit) bool { return f.word < list[0].word || f.strong < list[0].strong })
}

// fingerprint looks at the register by which the devices of a profile are
// known.
func (x *examiner) fingerprint(ctx context.Context, p *config.Profile) (w word, says string) {
	if p.Fingerprint == nil {
		return unsaid, ""
	}
	r := registerOf(p.Fingerprint.Point)
	raw, err := x.wonder(ctx, r)
	if err != nil || len(strings.Trim(string(raw), "\x00")) == 0 {
		return unsaid, ""
	}
	text, ok := p.Fingerprint.Matches(raw)
	if !ok {
		return denied, fmt.Sprintf("%v is %s, which is none of those that %s knows", r, plainText([]byte(text)), p.Name)
	}
	return named, fmt.Sprintf("%v is %s, which names it", r, plainText([]byte(text)))
}

// opens asks for the one point of the profile that tells most: it spares the
// rest for most profiles.
func (x *examiner) opens(ctx context.Context, dev *mapping.Device) bool {
	best := slices.MaxFunc(dev.Points, func(a, b *mapping.Point) int { return cmp.Compare(rank(a), rank(b)) })
	raw, err := x.wonder(ctx, registerOf(best))
	return err == nil && judgePoint(best, raw) > absurd
}

func rank(p *mapping.Point) int {
	if direct(p) {
		return 0
	}
	return map[string]int{"Hz": 3, "V": 2, "°C": 1}[p.Unit]
}

// direct reports whether p is of a battery or of solar panels, where the
// voltage may be anything.
func direct(p *mapping.Point) bool {
	return strings.HasPrefix(p.Name, "voltage_battery") || strings.HasPrefix(p.Name, "voltage_solar")
}

func registerOf(p *mapping.Point) modbus.Register {
	r, _ := modbus.RegisterOf(p.Source)
	r.Count = max(1, r.Count)
	return r
}

// try reads all points of a profile. One that is refused counts against it as
// much as an absurd value: of either there may be one in ten.
func (x *examiner) try(ctx context.Context, dev *mapping.Device) (fit, bool) {
	f := fit{profile: dev.Profile}
	x.readAhead(ctx, dev)
	wrong, asked := 0, 0
	telling := map[string]bool{} // different ones
	for _, p := range dev.Points {
		r := registerOf(p)
		if r.Table.Bits() {
			continue
		}
		asked++
		raw, err := x.ask(ctx, r)
		if replyOf(err) != answered {
			return f, false // it fell silent: no way to tell
		}
		if err != nil {
			wrong++
			continue
		}
		switch judgePoint(p, raw) {
		case absurd:
			wrong++
		case typical:
			f.strong++
			f.note(p, raw)
			fallthrough
		case telltale:
			telling[string(raw)] = true
			fallthrough
		case plausible:
			f.points++
		}
	}
	if f.strong == 0 { // small numbers are everywhere: then all must fit
		return f, wrong == 0 && len(telling) >= 2
	}
	return f, 10*wrong <= asked
}

func (f *fit) note(p *mapping.Point, raw []byte) {
	if v, err := mapping.Decode(p, raw); err == nil && len(f.evidence) < 3 {
		f.evidence = append(f.evidence, fmt.Sprintf("%s %s %s", p.Name, v, p.Unit))
	}
}

// readAhead reads neighbouring points of a profile together.
func (x *examiner) readAhead(ctx context.Context, dev *mapping.Device) {
	var list []modbus.Register
	for _, p := range dev.Points {
		if r := registerOf(p); !r.Table.Bits() {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b modbus.Register) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Address, b.Address))
	})
	for len(list) > 0 {
		block, n := list[0], 1
		for ; n < len(list) && adjoins(block, list[n]); n++ {
			block.Count = max(block.Count, list[n].Address+list[n].Count-block.Address)
		}
		if n > 1 {
			x.readBlock(ctx, block, list[:n])
		}
		list = list[n:]
	}
}

func adjoins(block, r modbus.Register) bool {
	end := int(block.Address) + int(block.Count)
	return r.Table == block.Table && int(r.Address) <= end && int(r.Address)+int(r.Count)-int(block.Address) <= maxBlock
}

func (x *examiner) readBlock(ctx context.Context, block modbus.Register, parts []modbus.Register) {
	if !slices.ContainsFunc(parts, func(r modbus.Register) bool { _, ok := x.seen[r]; return !ok }) {
		return
	}
	raw, err := x.ask(ctx, block)
	if err != nil {
		return // each part is asked by itself
	}
	for _, r := range parts {
		from := 2 * int(r.Address-block.Address)
		x.seen[r] = answerOf{raw: raw[from : from+2*int(r.Count)]}
	}
}

// A judgement says how much a value looks like what its point is to hold.
type judgement int8

const (
	absurd    judgement = iota - 1
	empty               // no value, or 0, which a meter without load shows
	plausible           // nothing speaks against it
	telltale            // within the range of a quantity that has a narrow one
	typical             // a mains voltage or frequency
)

// ranges are those of quantities by their unit: beyond them is absurd.
var ranges = map[string]struct {
	low, high float64
	is        judgement
}{
	"V": {80, 520, typical}, "Hz": {45, 65, typical}, "°C": {-50, 150, telltale}, "%": {0, 100, telltale},
	"A": {-10_000, 10_000, plausible}, "W": {-1e8, 1e8, plausible}, "kW": {-1e5, 1e5, plausible},
	"var": {-1e8, 1e8, plausible}, "VA": {-1e8, 1e8, plausible}, "kWh": {0, 1e9, plausible}, "°": {-360, 360, plausible},
}

func judgePoint(p *mapping.Point, raw []byte) judgement {
	v, err := mapping.Decode(p, raw)
	if err != nil || v.IsNull() {
		return empty
	}
	number, ok := v.Float64()
	if !ok {
		return plausible
	}
	size := math.Abs(number)
	r, known := ranges[p.Unit]
	switch {
	case number == 0:
		return empty
	case size < 1e-6 || size > 1e12: // what other types look like as floats
		return absurd
	case direct(p) && number > 0 && number <= 1500:
		return plausible
	case !known:
		return plausible
	case number < r.low || number > r.high:
		return absurd
	}
	return r.is
}
