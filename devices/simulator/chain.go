package simulator

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
)

// A chain is the SunSpec models of a unit: all that its maps name, as long as
// these need them. Real ones are longer, and there are more.
type chain struct {
	base   uint16 // of the marker
	models []modbus.Model
}

// layModels finds the places of the points in models, of all maps of the unit
// together.
func (u *unit) layModels() error {
	var points []*devices.Point
	for _, dev := range u.devices {
		if id, ok := dev.Unit.(modbus.Unit); ok && (u.chain.base == 0 || id.SunSpec != nil) {
			u.chain.base = id.Bases()[0]
		}
		for _, p := range dev.points {
			points = append(points, p.Point.Point)
		}
	}
	u.chain.models = modbus.LayModels(u.chain.base, points)
	for _, p := range u.points {
		m, ok := p.Source.(modbus.ModelRegister)
		if !ok {
			continue
		}
		at, err := m.Place(u.chain.models)
		if err != nil {
			return fmt.Errorf("device %s, point %s: %v does not fit behind address %d: %w", p.device, p.Name, m, u.chain.base, err)
		}
		p.table, p.addr, p.count = at.At.Table, int(at.At.Address), int(at.At.Count)
		if at.Factor != nil {
			p.exponent = int(at.Factor.Address)
		}
	}
	return nil
}

// fillChain lets the registers of the chain hold what no point has: marker, ids
// and lengths, exponents, and zeros, as a model has no holes.
func (u *unit) fillChain() {
	n := len(u.chain.models)
	if n == 0 {
		return
	}
	words := modbus.ChainRegisters(u.chain.base, u.chain.models)
	for _, p := range u.points {
		if p.exponent > 0 {
			words[uint16(p.exponent)] = uint16(p.exp)
		}
	}
	last := u.chain.models[n-1]
	end := int(last.Address) + 2 + int(last.Length) + 1 // of id 0xFFFF and its length
	b := u.banks[modbus.Holding]
	for a := int(u.chain.base); a <= min(end, math.MaxUint16); a++ {
		word, fixed := words[uint16(a)]
		if fixed || !b.declares(a) {
			b.declare(a, 1)
			b.set(a, binary.BigEndian.AppendUint16(nil, word))
		}
	}
}

// asRead returns raw, which p holds, as a reading has it: with its exponent
// behind it where it has one.
func (p *point) asRead(raw []byte) []byte {
	if p.exponent == 0 {
		return raw
	}
	return binary.BigEndian.AppendUint16(slices.Clip(raw), uint16(p.exp))
}
