package devices

import "context"

// A Line is one bus as its protocol sees it. It opens its port by itself when
// a query needs it and closes it on errors that call for that, so that a
// query after a replug just works. Only the bus's Poller calls it, one query at a
// time.
type Line interface {
	// Plan returns queries that together read points of dev, each point in
	// exactly one of them. An error names the point that cannot be read.
	Plan(dev *Device, points []*Point) ([]Query, error)

	// Write returns the query that writes raw (of the form that Reading.Raw
	// has) to p's Source and, if verify is set, reads it back, so that the
	// batch it is run with holds the value the device has afterwards.
	Write(dev *Device, p *Point, raw []byte, verify bool) (Query, error)

	// Close closes the port; a query after it opens it again.
	Close() error
}

// A Query is one exchange on a bus, or a few that belong together.
type Query interface {
	// Do performs the exchange and appends to b one reading or failure for
	// each of the query's points. The error is the same that the failures
	// carry; it is nil if the device answered, be it with an exception for
	// some point. It returns within a few of the line's timeouts, or soon after ctx
	// is done.
	Do(ctx context.Context, b *Batch) error

	// Points are those that Do reads. The caller does not change them.
	Points() []*Point

	// String names it for people: `unit 1: input 0-79`.
	String() string
}

// A Carrier is a Query that can read more for nothing.
type Carrier interface {
	Query

	// Carry lets the query read those of points that come along with what
	// it reads anyway, and returns them; they are among its Points then.
	Carry(points []*Point) []*Point
}

// A Pipeliner is a Line on which several queries can be under way at a time:
// their Do may be called in several goroutines at once, beside Plan.
type Pipeliner interface {
	Line

	// Pipeline returns how many queries may be under way now, and if these
	// are fewer than configured, why. What it first returned is the most that
	// it ever returns.
	Pipeline() (n int, why string)
}

// A Listener is a bus that speaks by itself: Listen calls emit with each
// batch heard until ctx is done, reopening its port as needed.
type Listener interface {
	Listen(ctx context.Context, emit func(*Batch)) error
}
