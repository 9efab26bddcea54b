package spool

import (
	"fmt"
	"math/rand/v2"
	"time"
)

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

// NewReadings returns what appends one record after the other as the broker
// stores them.
func NewReadings() func(dst []byte) []byte { return newPlant().appendReading }

// A plant makes records as the broker stores them: the values of a device as
// one JSON object, that change a little from one to the next.
type plant struct {
	rng    *rand.Rand
	n      int
	values [40][4]float64
}

func newPlant() *plant {
	p := &plant{rng: rand.New(rand.NewPCG(1, 2))}
	for i := range p.values {
		for j := range p.values[i] {
			p.values[i][j] = 100 + 200*p.rng.Float64()
		}
	}
	return p
}

// appendReading appends a record of about 200 bytes.
func (p *plant) appendReading(dst []byte) []byte {
	d := p.n % len(p.values)
	v := &p.values[d]
	for j := range v {
		v[j] += p.rng.Float64() - 0.5
	}
	p.n++
	at := time.UnixMilli(1795647600000 + int64(p.n)*5).UTC().Format("2006-01-02T15:04:05.000Z")
	topic := fmt.Sprintf("plant-a/meter-%d", d)
	dst = append(dst, 1, 0x15, 0, byte(len(topic)))
	dst = append(dst, topic...)
	dst = append(dst, 0, 1, 0, 9, 24)
	return fmt.Appendf(dst, `{"time":"%s","voltage_l1":%.1f,"current_l1":%.2f,"power":%.0f,"frequency":%.2f,"energy_import":%.2f,"power_factor":0.9%d,"state":"running"}`,
		at, v[0], v[1]/10, v[2]*10, 49.9+v[3]/2000, 12345.67+float64(p.n)/100, p.n%10)
}
