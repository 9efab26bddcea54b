package main

import (
	"context"
	"errors"
	"fmt"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// Some devices say nothing where they should say that a request is too long, so
// that they look as if they were off. Whether that is so is found out by asking
// for less.

// maxRegisters is the most registers that one request may read (Modbus application
// protocol V1.1b3, section 6.3).
const maxRegisters = 125

// tooLong says how many registers a device that stays silent bears at once, ""
// if the length of the requests is not why it is silent.
func (p *plant) tooLong(ctx context.Context, dev *mapping.Device) string {
	least, most := lengths(dev)
	if most.Count <= least.Count {
		return ""
	}
	heard := func(reg modbus.Register, n uint16) bool {
		reg.Count = n
		return p.hears(ctx, dev, reg)
	}
	good, bad := least.Count, most.Count
	if !heard(least, good) || heard(least, bad) {
		return ""
	}
	for bad-good > 1 {
		if mid := (good + bad) / 2; heard(least, mid) {
			good = mid
		} else {
			bad = mid
		}
	}
	if heard(least, bad) || !heard(least, good) || ctx.Err() != nil { // one answer was lost by chance
		return ""
	}
	return fmt.Sprintf("device %s stays silent when it is asked for more than %d registers at once, and answers for that many: write max_read = %d for it", dev.ID, good, good)
}

// lengths returns the first point that lies in registers, and from there what one
// request for as many of its table as the device may be asked for reads.
func lengths(dev *mapping.Device) (least, most modbus.Register) {
	unit, ok := dev.Unit.(modbus.Unit)
	if !ok {
		return least, most
	}
	var regs []modbus.Register
	for _, point := range dev.Device.Points {
		reg, ok := modbus.RegisterOf(point.Source)
		if !ok || reg.Table.Bits() || point.Every == devices.Never || len(regs) > 0 && reg.Table != regs[0].Table {
			continue
		}
		reg.Count = max(1, reg.Count)
		regs = append(regs, reg)
	}
	limit := maxRegisters
	if unit.MaxRead > 0 {
		limit = int(unit.MaxRead)
	}
	for _, reg := range regs {
		if least.Table == 0 || reg.Address < least.Address {
			least = reg
		}
	}
	most = least
	for _, reg := range regs {
		span := int(reg.Address) + int(reg.Count) - int(least.Address)
		most.Count = max(most.Count, uint16(min(span, limit)))
	}
	return least, most
}

// hears reports whether a device says anything to a request for reg. That is not
// noted as an answer of the device.
func (p *plant) hears(ctx context.Context, dev *mapping.Device, reg modbus.Register) bool {
	bus, err := p.bus(dev)
	if err != nil {
		return false
	}
	other := &devices.Device{ID: dev.Bus + "/" + dev.Unit.String(), Bus: dev.Bus, Unit: dev.Unit}
	other.Points = []*devices.Point{{Name: reg.String(), Source: reg}}
	b := devices.NewBatch(other)
	defer b.Release()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := bus.do(ctx, bus.readQuery(other, other.Points), b); err != nil || len(b.Readings) == 0 {
		return false
	}
	return b.Readings[0].Err == nil || errors.As(b.Readings[0].Err, new(*modbus.Exception))
}
