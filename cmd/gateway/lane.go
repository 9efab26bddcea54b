package main

import (
	"context"
	"slices"
	"sync"

	"edgegateway/mapping"
)

// maxWaiting is how many writes, and how many reads, wait for a bus.
const maxWaiting = 32

// A lane is what waits for one bus. What has to be done before all else goes
// first, then writes, then reads. Its methods may be called at once; next by
// its worker only.
type lane struct {
	mu     sync.Mutex
	urgent []func(context.Context)
	writes []*order
	gets   []*order
	wake   chan struct{} // one token: there is something

	open  context.Context // done once its bus is left by a reload
	close func()
	ended chan struct{} // closed by its worker
}

// A task is one thing to do.
type task func(context.Context, *commander, *lane)

func newLane() *lane {
	l := &lane{wake: make(chan struct{}, 1), ended: make(chan struct{})}
	l.open, l.close = context.WithCancel(context.Background())
	return l
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// put adds a write and returns those that it takes the place of: they wrote
// nothing else than it does, and wait. It goes to the end, so that the writes
// that remain keep their order.
func (l *lane) put(o *order) (superseded []*order) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes = slices.DeleteFunc(l.writes, func(old *order) bool {
		if !o.supersedes(old) {
			return false
		}
		superseded = append(superseded, old)
		return true
	})
	l.writes = append(l.writes, o)
	l.poke()
	return superseded
}

// supersedes reports whether o, which is later, writes all that old does.
func (o *order) supersedes(old *order) bool {
	if o.command.Device != old.command.Device || old.kind == byHold && o.kind != byHold {
		return false
	}
	for _, s := range old.command.Sets {
		later := func(t mapping.Set) bool { return t.Point == s.Point }
		if s.Point.Write.Each || !slices.ContainsFunc(o.command.Sets, later) {
			return false
		}
	}
	return true
}

// room reports whether a write may wait, too, while so many others will.
func (l *lane) room(o *order, others int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return o.kind != byCommand || len(l.writes)+others < maxWaiting || slices.ContainsFunc(l.writes, o.supersedes)
}

func (l *lane) putGet(o *order) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.gets) >= maxWaiting {
		return false
	}
	l.gets = append(l.gets, o)
	l.poke()
	return true
}

// putBack returns a write to its place; next will give it again, unless
// another has superseded it by then.
func (l *lane) putBack(o *order) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes = slices.Insert(l.writes, 0, o)
	l.poke()
}

// first has something done before all that waits.
func (l *lane) first(do func(context.Context)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.urgent = append(l.urgent, do)
	l.poke()
}

// next returns what is to be done next; nil when ctx is done.
func (l *lane) next(ctx context.Context) task {
	for {
		if t := l.take(); t != nil {
			return t
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *lane) take() task {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.urgent) > 0 {
		do := l.urgent[0]
		l.urgent = l.urgent[1:]
		return func(ctx context.Context, _ *commander, _ *lane) { do(ctx) }
	}
	for _, queue := range []*[]*order{&l.writes, &l.gets} {
		if len(*queue) > 0 {
			o := (*queue)[0]
			*queue = slices.Delete(*queue, 0, 1)
			return func(ctx context.Context, c *commander, l *lane) { c.carryOut(ctx, l, o) }
		}
	}
	return nil
}

// rest empties the lane.
func (l *lane) rest() []*order {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Concat(l.writes, l.gets)
	l.urgent, l.writes, l.gets = nil, nil, nil
	return all
}
