// Package devices talks to field devices: it asks, proves that an answer
// belongs to its question, and hands raw readings on. It knows no topics, no
// engineering units and no MQTT.
//
// # Vocabulary
//
// A bus is one serial line or one network endpoint. A device is one unit on a
// bus. A point is one thing to read on a device: some registers, a coil, a
// field of a sentence; where it is found is its Source, whose type belongs to
// the protocol. A Query is one exchange on the bus. A Reading is what a query
// found for one point: raw bytes with the time they arrived, or an error,
// never both. A Batch is all that one device yielded in one cycle.
//
// # Concurrency
//
// Each bus has one goroutine, its Poller's, and nobody else calls its Line;
// where a Line bears several queries at a time (Pipeliner), each but the Poller's
// own has a goroutine while it is under way.
// Others hand queries to Poller.Do, which runs them between two scheduled
// ones. A Batch is owned by whoever holds it; its receiver calls Release. A
// Poller never waits for a receiver: the newest batches are kept, the oldest
// dropped and counted.
//
// # Who is asked when
//
// The query whose interval ends first goes first, chosen anew after each one:
// on a line that carries one exchange at a time this meets all intervals
// whenever any order could, but for the one query under way. An interval that
// passed is skipped, never made up for, so that a full bus stays as late as
// one cycle.
//
// Intervals of one device that are multiples of each other end at the same
// moments. What is due together is read by the cheapest queries for all of it,
// unless that could make another interval late: a query that reads a quick
// point and a slow one has to be done by the quick one's time. On a full bus it
// is done nevertheless, as there is nothing to lose. Cycles of different devices
// are staggered, or all are aligned to multiples of their interval of wall time,
// so that their readings can be compared.
//
// What a query reads anyway, because it lies between the points it is for, is
// not asked for again: a slower point of that kind is read and handed on as
// often as its neighbours.
//
// A device that does not answer three times in a row is offline and is probed
// with one query now and then, after 2 s doubling to 60 s. A probe that took
// the bus for c is followed by 10·c without any, so that all silent devices
// together take less than a tenth of their bus, however many they are and
// however long its timeout is. Single queries that a device never answers are
// held to the same share. At its first answer a device is asked for all it
// has. A missing port is another matter: it costs the bus nothing, is tried
// after 1 s doubling to 10 s, and says nothing about any device.
//
// A bus can be lent to another program, which wants its port or other speeds on
// it: it is not asked meanwhile, and its devices are in maintenance, with no
// values. When it is back all is due at once, and nothing counts as missed. A
// device can be muted while somebody works on it: it is in maintenance, too, and
// its bus and the others on it go on as if it were not there.
package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Source says where on its device a point is found. Each protocol has its
// own type; String is what an electrician would say: "holding 100".
type Source interface{ String() string }

// A Point is one thing to read on a device. It is immutable once a Poller
// runs with it, and its address is its identity within a running plan.
type Point struct {
	Name   string        // within its device, as in the configuration
	Source Source        // where it is found
	Every  time.Duration // wanted interval; 0 on a bus that speaks by itself: each time it is heard; Never
}

// Never is the interval of a point that is written and not read.
const Never time.Duration = -1

// WrittenOnly reports whether no point of d is ever read: d is everybody on a
// line, who all listen and do not answer. It counts as online.
func (d *Device) WrittenOnly() bool {
	return len(d.Points) > 0 && !slices.ContainsFunc(d.Points, func(p *Point) bool { return p.Every != Never })
}

// A Device is one unit on a bus with its points. It is immutable.
type Device struct {
	ID     string       // the table key: its identity in metrics and learned facts
	Name   string       // its place in topics
	Bus    string       // the table key of its bus
	Unit   fmt.Stringer // how the protocol reaches it (modbus.Unit); nil where a line has one talker
	Points []*Point
	Stale  time.Duration // without a good reading for this long it is stale; 0: three times its longest interval, and at least 10 s on a bus that speaks by itself
}

// A State says how a device does.
type State uint8

const (
	Unknown     State = iota // not asked yet
	Online                   // answers; up to two queries in a row may have gone without
	Stale                    // late: no good reading for Device.Stale
	Offline                  // silent, probed now and then; or its port is missing
	Maintenance              // not asked, as its bus is lent (Poller.Lend) or it is muted; after that until it was asked again
)

func (s State) String() string {
	return [...]string{"unknown", "online", "stale", "offline", "maintenance"}[s]
}

// A Reading is what one query found for one point. Raw is nil exactly when
// Err is not. For registers Raw holds them as on the wire (big endian, two
// bytes each); for coils and discrete inputs one byte, 0 or 1, each; for a
// field of a line its text.
type Reading struct {
	Point *Point
	Raw   []byte
	At    Stamp // when the last byte of the answer arrived, or the error was known
	Err   error
}

// A Batch is what one device yielded in one cycle: all points that were due
// at the same moment, whether one query read them or ten, and slower ones that
// came along. Where the slower of these take so long that a quicker one is due
// again before, what was read until then is a batch, and the rest another. It is
// without readings when only the state of its device changed. Raw slices of its
// readings live as long as the batch.
type Batch struct {
	Device   *Device
	State    State // of the device after this cycle
	Readings []Reading
	arena    []byte
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

// NewBatch returns an empty batch for dev.
func NewBatch(dev *Device) *Batch {
	b := batches.Get().(*Batch)
	b.Device = dev
	return b
}

// Add appends a good reading; raw is copied.
func (b *Batch) Add(p *Point, raw []byte, at Stamp) {
	n := len(b.arena)
	b.arena = append(b.arena, raw...)
	b.Readings = append(b.Readings, Reading{Point: p, Raw: b.arena[n:len(b.arena):len(b.arena)], At: at})
}

// Fail appends an error in the place of a reading.
func (b *Batch) Fail(p *Point, err error, at Stamp) {
	b.Readings = append(b.Readings, Reading{Point: p, Err: err, At: at})
}

// take appends what o holds, and releases it.
func (b *Batch) take(o *Batch) {
	for _, r := range o.Readings {
		if r.Err != nil {
			b.Fail(r.Point, r.Err, r.At)
		} else {
			b.Add(r.Point, r.Raw, r.At)
		}
	}
	o.Release()
}

// Release gives the batch back; nothing of it may be used afterwards.
func (b *Batch) Release() {
	clear(b.Readings)
	*b = Batch{Readings: b.Readings[:0], arena: b.arena[:0]}
	batches.Put(b)
}

// The causes that a reading without a value can have, besides what a device
// itself answers (modbus.Exception). Errors wrap them; Cause finds them.
var (
	ErrTimeout = errors.New("timeout")                  // no answer in time
	ErrReply   = errors.New("bad reply")                // bytes came that do not answer the question
	ErrPort    = errors.New("port unavailable")         // the port or connection is not there
	ErrOffline = errors.New("offline")                  // not asked: its device is silent and waits for its next probe
	ErrLent    = errors.New("bus lent for maintenance") // not asked: another program has the bus
	ErrMuted   = errors.New("muted for maintenance")    // not asked: somebody works on its device
)

// A causer is an error that has a cause of its own.
type causer interface {
	error
	Cause() string
}

// Cause returns the few words that a payload says in place of a value:
// "timeout", "illegal data address", "bad reply".
func Cause(err error) string {
	if c, ok := errors.AsType[causer](err); ok {
		return c.Cause()
	}
	for _, e := range []error{ErrTimeout, ErrReply, ErrPort, ErrOffline, ErrLent, ErrMuted} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return "failed"
}

// Sleep waits for d and reports whether ctx is still alive.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
