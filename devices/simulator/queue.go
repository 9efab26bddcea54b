package simulator

import (
	"encoding/binary"

	"edgegateway/devices/modbus"
)

// queued is how many values a queue holds: one is added each second, and the
// oldest goes.
const queued = 8

// queue returns what the queue at address holds.
func (u *unit) queue(address uint16) ([]uint16, error) {
	u.counter.Reads++
	for _, p := range u.points {
		if p.fifo == nil || p.fifo.Address != address {
			continue
		}
		if err := p.fill(int64(u.seconds())); err != nil {
			return nil, err
		}
		u.remember([]*point{p})
		var values []uint16
		for raw := p.text; len(raw) > 1; raw = raw[2:] {
			values = append(values, binary.BigEndian.Uint16(raw))
		}
		return values, nil
	}
	return nil, &modbus.Exception{Code: modbus.IllegalAddress}
}

// fill puts the values of the last seconds into a queue.
func (p *point) fill(now int64) error {
	p.text = p.text[:0:0] // somebody may hold the old ones
	for second := now - queued + 1; second <= now; second++ {
		raw, err := p.encode(p.off + p.mul*float64(mix(p.seed+uint64(second))%100))
		if err != nil {
			return err
		}
		p.text = append(p.text, raw...)
	}
	return nil
}
