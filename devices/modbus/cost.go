package modbus

import (
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// A Request is one exchange that a planned query consists of, for people who
// want to know what is asked and what it costs.
type Request struct {
	Unit     Unit
	Register Register
	Points   []*devices.Point // that it reads
	// Wire is how long it occupies the bus before and after the device's
	// thinking: its bytes and those of the answer with the silences around
	// them, and the pause that the unit wants.
	Wire time.Duration
}

// Requests returns what a query of Line.Plan will send, nil for any other
// query.
func Requests(q devices.Query) []Request {
	if queue, ok := q.(*queueQuery); ok {
		return []Request{queue.request()}
	}
	read, ok := q.(*readQuery)
	if !ok {
		return nil
	}
	var list []Request
	for _, s := range read.spans {
		r := Request{Unit: read.unit, Register: s.reg}
		r.Wire = read.line.wireTime(readRequest(r.Unit.ID, s.reg)) + max(0, r.Unit.Pause-read.line.cost.Silence35())
		for p := range s.points() {
			r.Points = append(r.Points, p.point)
		}
		list = append(list, r)
	}
	return list
}

// Slowest returns the settings of the slowest line that requests of cfg
// travel: the port, or the line behind a TCP gateway. Its Baud is 0 where
// there is none.
func (cfg Config) Slowest() serial.Config {
	if cfg.Behind != nil {
		return *cfg.Behind
	}
	return cfg.Serial
}
