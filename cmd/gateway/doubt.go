package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

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
	plant func() *plant
	log   *slog.Logger
	in    chan doubt // room for a few; full: its point is not told of

	open  map[*devices.Point]*doubt           // not settled; note's alone
	fresh map[*devices.Device]*mapping.Device // that have neither answered nor been silent yet; note's alone

	asking atomic.Int32 // silent devices of which it is being found out

	mu      sync.Mutex
	told    map[string][]string // by device ID
	lengths map[string]string   // why a device is silent that is asked for too much, by its ID
}

// A doubt is a point with what was read last, or without a point a device that
// has been silent from the start.
type doubt struct {
	dev   *mapping.Device
	point *mapping.Point
	raw   []byte

	noted, absurd, right int // readings
}

func newDoubter(b *config.Bus, p func() *plant, log *slog.Logger) *doubter {
	d := &doubter{plant: p, log: log.With("bus", b.ID), in: make(chan doubt, 64), open: map[*devices.Point]*doubt{}, told: map[string][]string{},
		fresh: map[*devices.Device]*mapping.Device{}, lengths: map[string]string{}}
	if b.Protocol != config.Modbus {
		return d
	}
	for _, dev := range b.Devices {
		d.fresh[dev.Device] = dev
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
	d.noteSilent(b)
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

// noteSilent looks whether a device is silent that has not answered yet.
func (d *doubter) noteSilent(b *devices.Batch) {
	dev := d.fresh[b.Device]
	if dev == nil || len(b.Readings) == 0 {
		return
	}
	silent := b.State == devices.Offline && errors.Is(b.Readings[0].Err, devices.ErrOffline)
	if !silent && !slices.ContainsFunc(b.Readings, func(r devices.Reading) bool { return r.Err == nil }) {
		return
	}
	delete(d.fresh, b.Device)
	if silent {
		d.asking.Add(1)
		select {
		case d.in <- doubt{dev: dev}:
		default:
			d.asking.Add(-1)
		}
	}
}

// run says what is doubted until ctx is done.
func (d *doubter) run(ctx context.Context) error {
	for {
		select {
		case o := <-d.in:
			if o.point == nil {
				d.tellLength(ctx, o.dev)
			} else {
				d.tell(ctx, &o)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *doubter) tell(ctx context.Context, o *doubt) {
	text := hintOf(o.dev, o.point, o.raw, d.plant().neighbours(ctx, o.dev, o.point), d.plant().cfg.Where(o.point.Point))
	if text == "" {
		return
	}
	d.log.Warn(text, "device", o.dev.ID, "point", o.point.Name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told[o.dev.ID] = append(d.told[o.dev.ID], text)
}

// tellLength says of a silent device whether it is asked for too much.
func (d *doubter) tellLength(ctx context.Context, dev *mapping.Device) {
	defer d.asking.Add(-1)
	text := d.plant().tooLong(ctx, dev)
	if text == "" {
		return
	}
	d.log.Warn(text, "device", dev.ID)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lengths[dev.ID] = text
}

// undecided reports whether silence on the bus may have, or has, to do with the
// length of requests.
func (d *doubter) undecided() bool { return d.asking.Load() > 0 || d.length("") != "" }

// length returns why a silent device is that, "" if it is not known; with ""
// for any of its bus.
func (d *doubter) length(device string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, text := range d.lengths {
		if id == device || device == "" {
			return text
		}
	}
	return ""
}

// of returns what was said of a device.
func (d *doubter) of(device string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.told[device])
}
