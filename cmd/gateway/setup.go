package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"edgegateway/devices"
	"edgegateway/internal/writelog"
	"edgegateway/mapping"
)

const setupUser = "setup"

const (
	firstSetupRetry = 5 * time.Second // after a set-up that failed, doubling
	lastSetupRetry  = 5 * time.Minute
)

// A starter notices when a device comes, from a silence or a missing port, and
// then has it set up: what it has to hold is read, and written where it
// differs, so that memory that bears few writes is spared. Until that went well
// its values are not believed; they are published as errors that say why. After
// it, what is held is written again.
//
// A device that restarts within the three queries that a silence takes to be
// noticed is not set up again.
type starter struct {
	c *commander

	mu      sync.Mutex
	devices map[*devices.Device]*started
}

type started struct {
	dev     *mapping.Device
	state   devices.State // last seen of it, but for Stale
	round   int           // counts its comings
	ready   bool          // set up
	since   devices.Stamp // from when on its readings are believed, if it is
	done    int           // how many of its values it has, in this round
	trouble string        // why it is not ready; "" while that is under way
	backoff time.Duration
}

func newStarter(c *commander) *starter {
	return &starter{c: c, devices: map[*devices.Device]*started{}}
}

// adopt looks after the devices that there are now.
func (s *starter) adopt(devs []*mapping.Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := map[*devices.Device]*started{}
	for _, dev := range devs {
		writable := func(p *mapping.Point) bool { return p.Write != nil }
		if len(dev.Setup) > 0 || slices.ContainsFunc(dev.Points, writable) {
			now[dev.Device] = cmp.Or(s.devices[dev.Device], &started{dev: dev})
		}
	}
	s.devices = now
}

// errNotReady is why a reading is not believed.
type errNotReady struct{ trouble string }

func (e *errNotReady) Error() string { return e.Cause() }

// Cause is what the payload says.
func (e *errNotReady) Cause() string {
	if e.trouble == "" {
		return "not set up yet"
	}
	return "not set up: " + e.trouble
}

// screen looks at each batch before it is published, on its pump's goroutine.
func (s *starter) screen(b *devices.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[b.Device]
	if d == nil {
		return
	}
	if b.State != devices.Stale {
		came := b.State == devices.Online && d.state != devices.Online
		d.state = b.State
		if came || b.State == devices.Offline {
			d.ready = len(d.dev.Setup) == 0 || s.c.plant().readOnly
		}
		if came {
			s.came(d)
		}
	}
	for i := range b.Readings {
		r := &b.Readings[i]
		if r.Err == nil && (!d.ready || r.At < d.since) {
			r.Raw, r.Err = nil, &errNotReady{d.trouble}
		}
	}
}

// came has a device set up and its holds written.
func (s *starter) came(d *started) {
	d.round++
	d.done, d.trouble, d.backoff = 0, "", 0
	if d.ready {
		s.c.holdAgain(d.dev)
		return
	}
	s.again(d, d.round)
}

// again has a device set up before all else its bus is to do.
func (s *starter) again(d *started, round int) {
	lane := s.c.lane(d.dev.Bus)
	if lane == nil {
		return
	}
	lane.first(func(ctx context.Context) { s.setUp(ctx, d, round) })
}

// setUp sets a device up, on the goroutine of its lane.
func (s *starter) setUp(ctx context.Context, d *started, round int) {
	s.mu.Lock()
	over, done := d.round != round || d.ready || d.state != devices.Online, d.done
	s.mu.Unlock()
	if over {
		return
	}
	n, written, err := s.c.writeSetup(ctx, d.dev, d.dev.Setup[done:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.round != round || ctx.Err() != nil {
		return
	}
	d.done += n
	if err == nil {
		d.ready, d.since, d.trouble = true, s.c.now(), ""
		s.c.log.Info("device set up", "device", d.dev.ID, "values", len(d.dev.Setup), "written", written)
		s.c.holdAgain(d.dev)
		return
	}
	d.trouble = err.Error()
	d.backoff = min(max(2*d.backoff, firstSetupRetry), lastSetupRetry)
	s.c.log.Warn("device is not set up, its values are not believed; trying again", "device", d.dev.ID, "err", err, "wait", d.backoff)
	time.AfterFunc(d.backoff, func() { s.again(d, round) })
}

// hint says what is wrong with a device.
func (s *starter) hint(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.devices {
		if d.dev.ID == id && d.trouble != "" {
			return (&errNotReady{d.trouble}).Error()
		}
	}
	return ""
}

// writeSetup gives a device what it has to hold. It returns how many of the
// values it has, and how many of them had to be written.
func (c *commander) writeSetup(ctx context.Context, dev *mapping.Device, sets []mapping.Set) (n, written int, err error) {
	for ; n < len(sets); n++ {
		same, old, err := c.alreadyHolds(ctx, dev, sets[n])
		if err != nil {
			return n, written, fmt.Errorf("%s: %s", sets[n].Point.Name, devices.Cause(err))
		}
		if same {
			continue
		}
		if r := c.writeOne(ctx, dev, sets[n], old); !succeeded(r.State) {
			return n, written, fmt.Errorf("%s: %s", sets[n].Point.Name, r.Reason)
		}
		written++
	}
	return n, written, nil
}

// alreadyHolds reads what a set-up value is to be, if that can be read.
func (c *commander) alreadyHolds(ctx context.Context, dev *mapping.Device, set mapping.Set) (same bool, old mapping.Value, err error) {
	if set.Point.Write.NoVerify {
		return false, old, nil
	}
	b, _, err := c.plant().get(ctx, dev, []*devices.Point{set.Point.Point})
	if err != nil {
		return false, old, err
	}
	defer b.Release()
	if len(b.Readings) == 0 {
		return false, old, errors.New("not read")
	}
	r := &b.Readings[0]
	if r.Err != nil {
		return false, old, r.Err
	}
	old, _ = mapping.Decode(set.Point, r.Raw) // null if it means nothing
	return stands(set, r.Raw), old, nil
}

// writeOne writes a set-up value and enters it into the log.
func (c *commander) writeOne(ctx context.Context, dev *mapping.Device, set mapping.Set, old mapping.Value) mapping.PointResult {
	sets := []mapping.Set{set}
	e := &writelog.Entry{By: setupUser, Device: dev.ID, Writes: []writelog.Write{{Point: set.Point.Name, Value: json.RawMessage(set.Value.AppendJSON(nil))}}}
	unlogged := c.writes.Take(e) // it would be repeated in any case
	r, _ := c.plant().put(ctx, dev, set)
	r.Old = old
	points := []mapping.PointResult{r}
	if unlogged == nil {
		c.writes.Finish(e.Seq, logged(sets, points), r.State.String(), r.Reason)
		c.writes.Told(e.Seq)
	}
	c.audit(dev, e, sets, points, c.now())
	return r
}
