package main

import (
	"context"
	"sync"
	"time"

	"edgegateway/devices"
	"edgegateway/mapping"
)

// lossUser is who writes what on_loss says.
const lossUser = "on_loss"

const (
	firstLossRetry = 10 * time.Second // after a write that failed, doubling
	lastLossRetry  = 10 * time.Minute
)

// A lossGuard writes a safe value to each point that has one and got no command
// for a while. What counts as a command is one that was taken: not one that was
// refused, and no repetition of an id, which shows that messages are repeated
// and not that anybody lives.
//
// A point is on guard from the start of the gateway, since nobody knows for how
// long there was no command before, unless what was last written to it is its
// safe value. It comes off guard once the safe value is written, and on again
// with the next command. While the point is held or its device muted nothing is
// written, and the time begins anew when that ends.
type lossGuard struct {
	c    *commander
	wake chan struct{} // one token: look again

	mu     sync.Mutex
	began  bool
	points map[*devices.Point]*guarded
}

type guarded struct {
	dev     *mapping.Device
	point   *mapping.Point
	due     devices.Stamp // 0: off guard, or under way
	heard   int           // counts commands
	backoff time.Duration
}

func newLossGuard(c *commander) *lossGuard {
	return &lossGuard{c: c, wake: make(chan struct{}, 1), points: map[*devices.Point]*guarded{}}
}

// adopt guards the points of the devices that there are now.
func (g *lossGuard) adopt(devs []*mapping.Device) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := map[*devices.Point]*guarded{}
	for _, dev := range devs {
		for _, p := range dev.Points {
			if p.Write == nil || p.Write.OnLoss == nil {
				continue
			}
			x := g.points[p.Point]
			if x == nil {
				x = &guarded{dev: dev, point: p}
				if g.began {
					g.startLocked(x)
				}
			}
			now[p.Point] = x
		}
	}
	g.points = now
	g.poke()
}

// heard notes that a command for some points was taken.
func (g *lossGuard) heard(dev *mapping.Device, sets []mapping.Set) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range sets {
		if p := g.points[s.Point.Point]; p != nil {
			p.arm(g.c.now())
			p.heard++
			p.backoff = 0
		}
	}
	g.poke()
}

// released begins the time of a point anew whose hold was ended.
func (g *lossGuard) released(p *mapping.Point) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if x := g.points[p.Point]; x != nil && x.due != 0 {
		x.arm(g.c.now())
		g.poke()
	}
}

func (p *guarded) arm(now devices.Stamp) {
	p.due = now + devices.Stamp(p.point.Write.OnLoss.After)
}

func (g *lossGuard) poke() {
	select {
	case g.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// run writes what is due until ctx is done.
func (g *lossGuard) run(ctx context.Context) {
	if g.c.plant().readOnly {
		return
	}
	g.start()
	for {
		timer := time.NewTimer(g.review(ctx))
		select {
		case <-timer.C:
		case <-g.wake:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (g *lossGuard) start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.began = true
	for _, p := range g.points {
		g.startLocked(p)
	}
}

func (g *lossGuard) startLocked(p *guarded) {
	e, ok := g.c.writes.Latest(p.dev.ID, p.point.Name)
	if p.heard == 0 && (!ok || e.By != lossUser || !succeeded(stateOf(e.State))) {
		p.arm(g.c.now())
	}
}

func succeeded(s mapping.ResultState) bool { return s == mapping.Verified || s == mapping.Written }

// review fires what is due and returns when to look again.
func (g *lossGuard) review(ctx context.Context) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	wait := time.Hour
	now := g.c.now()
	for _, p := range g.points {
		m, muted := g.c.mutes.shelf.get(p.dev.ID)
		switch h, held := g.c.holds.get(p.dev.ID, p.point.Name); {
		case p.due == 0:
			continue
		case held:
			p.arm(h.ends)
		case muted:
			p.arm(m.ends)
		case now >= p.due:
			g.fire(ctx, p)
			continue
		}
		wait = min(wait, p.due.Sub(now))
	}
	return wait
}

// fire has the safe value of p written. It is told what became of it on another
// goroutine.
func (g *lossGuard) fire(ctx context.Context, p *guarded) {
	heard := p.heard
	p.due = 0
	o := &order{
		kind: byLoss, by: lossUser,
		command: mapping.Command{
			Device: p.dev, Sets: []mapping.Set{p.point.Write.OnLoss.Set}, Received: g.c.now(),
			Reply: mapping.Reply{Topic: g.c.plant().cfg.Name + "/" + p.dev.Name + "/" + p.point.Name + "/set/result"},
		},
	}
	o.tell = func(r *mapping.Result) { g.fired(p, heard, r) }
	g.c.log.Warn("no command came any more; writing the safe value", "device", p.dev.ID, "point", p.point.Name,
		"value", o.command.Sets[0].Value.String(), "dur", p.point.Write.OnLoss.After)
	go func() {
		select {
		case g.c.in <- o:
		case <-ctx.Done():
		}
	}()
}

// fired tries again later what did not go well, unless a command came.
func (g *lossGuard) fired(p *guarded, heard int, r *mapping.Result) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if succeeded(r.State) || p.heard != heard {
		p.backoff = 0
		return
	}
	p.backoff = min(max(2*p.backoff, firstLossRetry), lastLossRetry)
	p.due = g.c.now() + devices.Stamp(p.backoff)
	g.poke()
}
