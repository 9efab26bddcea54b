package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// A value that its quantity cannot have was mostly read in a wrong order of
// its registers or one register off, since manuals count from 0 or from 1.
// What would make it right is said only where it is told by the value itself:
// the one that was read is absurd, and the other one is within the narrow range
// of its quantity.

// maxLooks bounds for how many points of one request the neighbours are read.
const maxLooks = 3

// addHints says of absurd values what would make them right.
func (p *plant) addHints(ctx context.Context, dev *mapping.Device, results []pointResult, b *devices.Batch) {
	looks := 0
	for i := range results {
		r := &results[i]
		at := slices.IndexFunc(dev.Points, func(point *mapping.Point) bool { return point.Name == r.Point })
		if r.Error != "" || at < 0 || looks == maxLooks {
			continue
		}
		point := dev.Points[at]
		reading := slices.IndexFunc(b.Readings, func(x devices.Reading) bool { return x.Point == point.Point })
		if reading < 0 || !beyond(point, b.Readings[reading].Raw) {
			continue
		}
		looks++
		r.Hint = hintOf(dev, point, b.Readings[reading].Raw, p.neighbours(ctx, dev, point), p.cfg.Where(point.Point))
	}
}

// beyond reports whether raw, of a point in registers, is no value that its
// quantity can have. One register holds nothing that only another type would
// explain, so that it must be far beyond; and no bit pattern that devices use
// for "no value".
func beyond(p *mapping.Point, raw []byte) bool {
	if _, ok := p.Source.(modbus.Queue); ok || len(raw) < 2 || len(raw)%2 != 0 || judgePoint(p, raw) != absurd {
		return false
	}
	if len(raw) > 2 {
		return true
	}
	for _, none := range []string{"\x7F\xFF", "\x80\x00", "\xFF\xFF"} {
		if bytes.Equal(raw, []byte(none)) {
			return false
		}
	}
	limit, known := map[string]float64{"V": 2000, "Hz": 1000, "°C": 2000, "%": 1000}[p.Unit]
	v, err := mapping.Decode(p, raw)
	number, ok := v.Float64()
	return known && err == nil && ok && math.Abs(number) > limit
}

// neighbours reads the point one register lower and higher, as far as the
// device has them and bears it. They are not noted as points of the device.
func (p *plant) neighbours(ctx context.Context, dev *mapping.Device, point *mapping.Point) map[int][]byte {
	bus, err := p.bus(dev)
	reg, ok := modbus.RegisterOf(point.Source)
	if err != nil || !ok {
		return nil
	}
	found := map[int][]byte{}
	for _, by := range []int{-1, 1} {
		r := reg
		r.Address += uint16(by)
		if at := int(reg.Address) + by; at < 0 || at+max(1, int(reg.Count)) > 1<<16 {
			continue
		}
		other := &devices.Device{ID: dev.Bus + "/" + dev.Unit.String(), Bus: dev.Bus, Unit: dev.Unit}
		other.Points = []*devices.Point{{Name: r.String(), Source: r}}
		b := devices.NewBatch(other)
		asking, cancel := context.WithTimeout(ctx, askTimeout)
		if err := bus.do(asking, bus.readQuery(other, other.Points), b); err == nil && len(b.Readings) == 1 && b.Readings[0].Err == nil {
			found[by] = slices.Clone(b.Readings[0].Raw)
		}
		cancel()
		b.Release()
	}
	return found
}

// hintOf says what would make an absurd value plausible, "" if nothing would,
// or too much. neighbours is what was read so many registers on; where is the
// line of the configuration that says where the point is.
func hintOf(dev *mapping.Device, p *mapping.Point, raw []byte, neighbours map[int][]byte, where string) string {
	if !beyond(p, raw) {
		return ""
	}
	if where != "" {
		where = " (" + where + ")"
	}
	order, inOrder := orderFit(p, raw)
	shift, shifted := shiftFit(p, neighbours)
	wrong := fmt.Sprintf("%s.%s cannot be right%s; ", dev.ID, p.Name, where)
	inOtherOrder := fmt.Sprintf("in order %v it would be %s", order, withUnit(inOrder, p.Unit))
	write := fmt.Sprintf("order = %q for the device or the point", order)
	switch {
	case inOrder == "" && shifted == "":
		return ""
	case shifted == "":
		return wrong + inOtherOrder + ": write " + write
	}
	reg, _ := modbus.RegisterOf(p.Source)
	word := map[int]string{-1: "lower", 1: "higher"}[shift]
	at := fmt.Sprintf("%v = %d", reg.Table, int(reg.Address)+shift)
	if dev.Profile != "" { // whose file stays as it is
		at = fmt.Sprintf("points.%s.%s for device %s", tomlKey(p.Name), at, dev.ID)
	}
	there := fmt.Sprintf("one register %s it would be %s", word, withUnit(shifted, p.Unit))
	if inOrder == "" {
		return wrong + there + ": write " + at + ", as manuals count from 0 or from 1"
	}
	return wrong + inOtherOrder + ", and " + there + ": write " + write + " if the other points of two registers are wrong, too, and " + at + " if they are right"
}

func withUnit(value, unit string) string { return strings.TrimSpace(value + " " + unit) }

// orderFit returns the order in which raw is plausible, and the value; "" if
// there is none.
func orderFit(p *mapping.Point, raw []byte) (mapping.Order, string) {
	for _, order := range []mapping.Order{mapping.CDAB, mapping.ABCD, mapping.BADC, mapping.DCBA} {
		other := *p
		other.Order = order
		if len(raw) < 4 || judgePoint(&other, raw) < telltale {
			continue
		}
		if v, err := mapping.Decode(&other, raw); err == nil {
			return order, v.String()
		}
	}
	return 0, ""
}

// shiftFit returns how many registers on the point is plausible, and the value;
// "" if it is in no place or in more than one.
func shiftFit(p *mapping.Point, neighbours map[int][]byte) (by int, value string) {
	for shift, raw := range neighbours {
		v, err := mapping.Decode(p, raw)
		if err != nil || judgePoint(p, raw) < telltale {
			continue
		}
		if value != "" {
			return 0, ""
		}
		by, value = shift, v.String()
	}
	return by, value
}
