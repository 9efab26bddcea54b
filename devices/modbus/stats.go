package modbus

import (
	"sync"
	"time"

	"edgegateway/devices"
)

// Stats counts what a line has done since it was made.
type Stats struct {
	Requests   uint64        // sent, with those asked again and probes after a lost answer
	Timeouts   uint64        // no answer in time
	BadReplies uint64        // bytes came that were no answer
	CRCErrors  uint64        // an answer came with a wrong checksum
	Exceptions uint64        // answers that refused
	Late       uint64        // answers that came after their time, and were dropped
	Opened     uint64        // times the port or connection was opened
	Sent       uint64        // bytes
	Received   uint64        // bytes
	Busy       time.Duration // spent in exchanges: its growth per second is the load of the bus

	// Port is what the driver of a serial port had counted since it was last
	// opened, when an exchange last failed; nil: it counts nothing, or none did.
	Port *devices.PortStats
}

// counters are the Stats of a line that is in use.
type counters struct {
	mu sync.Mutex
	s  Stats
}

// Stats may be called by anyone at any time.
func (l *Line) Stats() Stats {
	l.stats.mu.Lock()
	defer l.stats.mu.Unlock()
	return l.stats.s
}

func (c *counters) do(f func(s *Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.s)
}

func (c *counters) request(n int) {
	c.do(func(s *Stats) { s.Requests++; s.Sent += uint64(n) })
}
func (c *counters) received(n int)       { c.do(func(s *Stats) { s.Received += uint64(n) }) }
func (c *counters) timeout()             { c.do(func(s *Stats) { s.Timeouts++ }) }
func (c *counters) badReply()            { c.do(func(s *Stats) { s.BadReplies++ }) }
func (c *counters) badCRC()              { c.do(func(s *Stats) { s.CRCErrors++ }) }
func (c *counters) exception()           { c.do(func(s *Stats) { s.Exceptions++ }) }
func (c *counters) late()                { c.do(func(s *Stats) { s.Late++ }) }
func (c *counters) opened()              { c.do(func(s *Stats) { s.Opened++; s.Port = nil }) }
func (c *counters) busy(d time.Duration) { c.do(func(s *Stats) { s.Busy += d }) }

// A portCounter is a Port whose driver may count what goes wrong. Stats is nil if
// it does not.
type portCounter interface{ Stats() *devices.PortStats }

// port notes what the driver of p has counted.
func (c *counters) port(p Port) {
	if counter, ok := p.(portCounter); ok {
		now := counter.Stats()
		c.do(func(s *Stats) { s.Port = now })
	}
}
