package spool

import "fmt"

// WithRingArea returns cfg with a ring of another size.
func WithRingArea(cfg Config, area int64) Config {
	cfg.area = area
	return cfg
}

// State describes what a consumer has acknowledged, for traces.
func (c *Consumer) State() string {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return fmt.Sprintf("version %d saved %d tabled %d upto %x ranges %x broken=%t", c.version, c.saved, c.tabled, c.acked.upto, c.acked.ranges, c.l.stats.RingFailed)
}

// NewerMeta returns META as the next version of the format would write it.
func NewerMeta(p []byte) []byte {
	m, err := parseMeta(p)
	if err != nil {
		panic(err)
	}
	m.Format = formatVersion + 1
	return m.marshal()
}
