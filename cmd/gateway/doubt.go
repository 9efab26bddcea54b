package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"edgegateway/devices"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// A point is settled by as many readings as settleAfter that cannot be right, and
// then it is doubted, or by as many that look right, and then it is not: what
// is wrong with it later is another matter. Those between, as half of a number
// may look like anything, settle nothing, nor do more than maxNoted.
const (
	settleAfter = 3
	maxNoted    = 30
)

// A doubter looks at the first readings of each point of a bus. What cannot be
// right is said once, with what would make it right.
type doubter struct {
	plant *plant
	log   *slog.Logger
	in    chan doubt // room for a few; full: its point is not told of

	open map[*devices.Point]*doubt // not settled; note's alone

	mu   sync.Mutex
	told map[string][]string // by device ID
}

// A doubt is a point with what was read last.
type doubt struct {
	dev   *mapping.Device
	point *mapping.Point
	raw   []byte

	noted, absurd, right int // readings
}

func newDoubter(b *config.Bus, p *plant, log *slog.Logger) *doubter {
	d := &doubter{plant: p, log: log.With("bus", b.ID), in: make(chan doubt, 64), open: map[*devices.Point]*doubt{}, told: map[string][]string{}}
	if b.Protocol != config.Modbus {
		return d
	}
	for _, dev := range b.Devices {
		for _, point := range dev.Points {
			if _, known := limits[point.Unit]; known && point.Every != devices.Never {
				d.open[point.Point] = &doubt{dev: dev, point: point}
			}
		}
	}
	return d
}

// note looks at what was read. Only the bus's pump calls it.
func (d *doubter) note(b *devices.Batch) {
	if len(d.open) == 0 {
		return
	}
	for i := range b.Readings {
		r := &b.Readings[i]
		o := d.open[r.Point]
		switch {
		case o == nil || r.Err != nil:
			continue
		case beyond(o.point, r.Raw):
			o.absurd++
		case judgePoint(o.point, r.Raw) >= telltale:
			o.right++
		}
		if o.noted++; o.absurd < settleAfter && o.right < settleAfter && o.noted < maxNoted {
			continue
		}
		delete(d.open, r.Point)
		if o.absurd < settleAfter || !beyond(o.point, r.Raw) {
			continue
		}
		o.raw = slices.Clone(r.Raw)
		select {
		case d.in <- *o:
		default:
		}
	}
}

// run says what is doubted until ctx is done.
func (d *doubter) run(ctx context.Context) error {
	for {
		select {
		case o := <-d.in:
			d.tell(ctx, &o)
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *doubter) tell(ctx context.Context, o *doubt) {
	text := hintOf(o.dev, o.point, o.raw, d.plant.neighbours(ctx, o.dev, o.point), d.plant.cfg.Where(o.point.Point))
	if text == "" {
		return
	}
	d.log.Warn(text, "device", o.dev.ID, "point", o.point.Name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told[o.dev.ID] = append(d.told[o.dev.ID], text)
}

// of returns what was said of a device.
func (d *doubter) of(device string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.told[device])
}
