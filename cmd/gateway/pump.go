package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/mapping"
)

// A pump carries the batches of one bus through its mapper to the broker. It
// owns the mapper: whoever wants something of it sends a call.
type pump struct {
	in       chan *devices.Batch // of the bus's poller; full: the poller drops its oldest and counts it
	calls    chan func(*mapping.Mapper)
	mapper   *mapping.Mapper
	publish  func(*broker.Message)
	clock    func() broker.Clock
	now      func() devices.Stamp
	log      *slog.Logger
	messages []broker.Message     // reused for each batch
	readings atomic.Uint64        // good and bad ones alike
	screen   func(*devices.Batch) // sees each batch first and may take readings back
	note     func(*devices.Batch) // sees what screen left; keeps nothing of it
	remark   func(*devices.Batch) mapping.Remark
}

func newPump(m *mapping.Mapper, publish func(*broker.Message), clock func() broker.Clock, log *slog.Logger) *pump {
	return &pump{
		in:      make(chan *devices.Batch, 8),
		calls:   make(chan func(*mapping.Mapper)),
		mapper:  m,
		publish: publish,
		clock:   clock,
		now:     devices.Now,
		log:     log,
		screen:  func(*devices.Batch) {},
		note:    func(*devices.Batch) {},
		remark:  func(*devices.Batch) mapping.Remark { return mapping.Remark{} },
	}
}

// run works until ctx is done and what had been handed in is published, and
// what waited for its time.
func (p *pump) run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p.wait(timer)
		select {
		case b := <-p.in:
			p.take(b)
		case <-timer.C:
			p.messages = p.mapper.AppendDue(p.messages[:0], p.now(), p.clock())
			p.send()
		case call := <-p.calls:
			call(p.mapper)
		case <-ctx.Done():
			p.drain()
			return nil
		}
	}
}

// wait sets timer to when something has to be published that waits.
func (p *pump) wait(timer *time.Timer) {
	wait := time.Hour
	if due := p.mapper.NextDue(); due != 0 {
		wait = max(0, due.Sub(p.now()))
	}
	timer.Reset(wait)
}

func (p *pump) drain() {
	for {
		select {
		case b := <-p.in:
			p.take(b)
		default:
			p.messages = p.mapper.AppendHeld(p.messages[:0], p.now(), p.clock())
			p.send()
			return
		}
	}
}

func (p *pump) take(b *devices.Batch) {
	p.readings.Add(uint64(len(b.Readings)))
	p.screen(b)
	p.note(b)
	p.mapper.Remark(b.Device, p.remark(b))
	p.messages = p.mapper.AppendMessages(p.messages[:0], b, p.clock())
	p.send()
	p.tell()
	b.Release()
}

// tell logs what the mapper found.
func (p *pump) tell() {
	for _, n := range p.mapper.News() {
		level := slog.LevelInfo
		if n.Bad {
			level = slog.LevelWarn
		}
		p.log.Log(context.Background(), level, n.Text, "bus", n.Device.Bus, "device", n.Device.ID, "point", n.Point.Name)
	}
}

func (p *pump) send() {
	for i := range p.messages {
		p.publish(&p.messages[i])
	}
	clear(p.messages)
	if err := p.mapper.Trouble(); err != nil {
		p.log.Error("message not published; further ones of this table are left out without a word", "err", err)
	}
}

// hand gives the pump a batch that was read on demand; while the pump is
// behind, what it will read by itself is as good.
func (p *pump) hand(b *devices.Batch) {
	select {
	case p.in <- b:
	default:
		b.Release()
	}
}

// remap has m, a mapper of the same devices, take the place of the present one.
func (p *pump) remap(ctx context.Context, m *mapping.Mapper) {
	p.call(ctx, func(old *mapping.Mapper) {
		p.messages = old.AppendHeld(p.messages[:0], p.now(), p.clock())
		p.send()
		m.Remember(old.Memories())
		p.mapper = m
	})
}

// turn waits until the pump comes round, and reports whether it did before ctx
// was done.
func (p *pump) turn(ctx context.Context) (did bool) {
	p.call(ctx, func(*mapping.Mapper) { did = true })
	return did
}

// call runs f in the pump's goroutine and waits for it; f is not run if ctx
// is done first.
func (p *pump) call(ctx context.Context, f func(*mapping.Mapper)) {
	done := make(chan struct{})
	select {
	case p.calls <- func(m *mapping.Mapper) { defer close(done); f(m) }:
		<-done
	case <-ctx.Done():
	}
}
