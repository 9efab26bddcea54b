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

// addHints says of absurd values what would make them right, and of a device that
// is silent whether it is asked for too much.
func (p *plant) addHints(ctx context.Context, dev *mapping.Device, results []pointResult, b *devices.Batch) {
	if len(results) > 1 && !slices.ContainsFunc(results, func(r pointResult) bool { return r.Error != devices.ErrTimeout.Error() }) {
		results[0].Hint = p.tooLong(ctx, dev)
		return
	}
	looks := 0
	for i := range results {
		r := &results[i]
		at := slices.IndexFunc(dev.Points, func(point *mapping.Point) bool { return point.Name == r.Point })
		if at < 0 || looks == maxLooks {
			continue
		}
		point := dev.Points[at]
		if r.Error == illegalAddress && tells(point) {
			looks++
			r.Hint = hintOfRefused(dev, point, p.neighbours(ctx, dev, point), p.cfg.Where(point.Point))
		}
		if r.Error != "" {
			continue
		}
		reading := slices.IndexFunc(b.Readings, func(x devices.Reading) bool { return x.Point == point.Point })
		if reading < 0 || !beyond(point, b.Readings[reading].Raw) {
			continue
		}
		looks++
		r.Hint = hintOf(dev, point, b.Readings[reading].Raw, p.neighbours(ctx, dev, point), p.cfg.Where(point.Point))
	}
}

// illegalAddress is what a device says that has not got a register.
var illegalAddress = (&modbus.Exception{Code: modbus.IllegalAddress}).Cause()

// tells reports whether a value of the point is known when it is seen: a mains
// voltage or frequency in registers.
func tells(p *mapping.Point) bool {
	reg, ok := modbus.RegisterOf(p.Source)
	return ok && !reg.Table.Bits() && ranges[p.Unit].is == typical
}

// hintOfRefused says where a point may be that is refused where it was looked
// for, "" if that is not known.
func hintOfRefused(dev *mapping.Device, p *mapping.Point, neighbours map[int][]byte, where string) string {
	shift, value := shiftFit(p, neighbours)
	if value == "" {
		return ""
	}
	return fmt.Sprintf("%s.%s is refused%s; %s", dev.ID, p.Name, inBrackets(where), shiftWords(dev, p, shift, value))
}

func inBrackets(where string) string {
	if where == "" {
		return ""
	}
	return " (" + where + ")"
}

// shiftWords say what the point is some registers on, and how to say so.
func shiftWords(dev *mapping.Device, p *mapping.Point, shift int, value string) string {
	there, write := shiftParts(dev, p, shift, value)
	return there + ": write " + write + ", as manuals count from 0 or from 1"
}

func shiftParts(dev *mapping.Device, p *mapping.Point, shift int, value string) (there, write string) {
	reg, _ := modbus.RegisterOf(p.Source)
	word := map[int]string{-1: "lower", 1: "higher"}[shift]
	write = fmt.Sprintf("%v = %d", reg.Table, int(reg.Address)+shift)
	if dev.Profile != "" { // whose file stays as it is
		write = fmt.Sprintf("points.%s.%s for device %s", tomlKey(p.Name), write, dev.ID)
	}
	return fmt.Sprintf("one register %s it would be %s", word, withUnit(value, p.Unit)), write
}

// limits are what no quantity exceeds, whatever is measured: a battery has 12 V
// and a transformer 20,000, which is odd of neither.
var limits = map[string]float64{"V": 1e5, "Hz": 1000, "°C": 2000, "%": 1000}

// beyond reports whether raw, of a point in registers, is no value that its
// quantity can have: nothing of that kind is as large, or as small as what
// other types look like as floats. Bit patterns that devices use for "no value"
// are none.
func beyond(p *mapping.Point, raw []byte) bool {
	limit, known := limits[p.Unit]
	none := bytes.Count(raw, []byte{0xFF}) == len(raw) || len(raw) > 0 && (raw[0] == 0x7F || raw[0] == 0x80) && onlyRest(raw)
	if _, ok := p.Source.(modbus.Queue); ok || !known || none || len(raw) < 2 || len(raw)%2 != 0 {
		return false
	}
	v, err := mapping.Decode(p, raw)
	number, ok := v.Float64()
	size := math.Abs(number)
	return err == nil && ok && number != 0 && (size < 1e-6 || size > limit)
}

// onlyRest reports whether raw is 7F FF FF … or 80 00 00 …
func onlyRest(raw []byte) bool {
	rest := raw[1:]
	return bytes.Count(rest, []byte{0xFF}) == len(rest) && raw[0] == 0x7F || bytes.Count(rest, []byte{0}) == len(rest) && raw[0] == 0x80
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
	order, inOrder := orderFit(p, raw)
	shift, shifted := shiftFit(p, neighbours)
	if inOrder != "" && shifted != "" && emptyWord(shift, neighbours[shift]) {
		shifted = "" // half of the value, in that order
	}
	wrong := fmt.Sprintf("%s.%s cannot be right%s; ", dev.ID, p.Name, inBrackets(where))
	inOtherOrder := fmt.Sprintf("in order %v it would be %s", order, withUnit(inOrder, p.Unit))
	write := fmt.Sprintf("order = %q for the device or the point", order)
	switch {
	case inOrder == "" && shifted == "":
		return ""
	case shifted == "":
		return wrong + inOtherOrder + ": write " + write
	}
	if inOrder == "" {
		return wrong + shiftWords(dev, p, shift, shifted)
	}
	there, at := shiftParts(dev, p, shift, shifted)
	return wrong + inOtherOrder + ", and " + there + ": write " + write + " if the other points of two registers are wrong, too, and " + at + " if they are right"
}

// emptyWord reports whether the register that only the shifted value has is 0.
func emptyWord(shift int, raw []byte) bool {
	at := 0
	if shift > 0 {
		at = len(raw) - 2
	}
	return raw[at]|raw[at+1] == 0
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
