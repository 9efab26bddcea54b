package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

// A source is one class log as seen by this bridge.
type source struct {
	class    broker.Class
	id       string           // of the log
	last     func() spool.Seq // appended last
	consumer consumer
}

// A consumer is what a bridge needs of a spool.Consumer.
type consumer interface {
	Acked() spool.Seq
	Ack(spool.Seq)
	Backlog() spool.Backlog
	Reader(after, until spool.Seq) reader
}

type reader interface {
	Next(ctx context.Context, dst []byte) (spool.Record, error)
	Close()
}

type spoolConsumer struct{ *spool.Consumer }

func (c spoolConsumer) Reader(after, until spool.Seq) reader {
	return c.Consumer.Reader(after, until)
}

// A Gap is a hole in what a bridge sends: records that the spool lost or that
// grew older than MaxAge.
type Gap struct {
	Bridge string
	Class  broker.Class
	spool.Gap
}

// Reasons for gaps that a bridge itself makes; others are the spool's.
const (
	ReasonMaxAge     = "max_age"    // older than Config.MaxAge
	ReasonUnsynced   = "unsynced"   // nobody knew its time, and Config.Unsynced is DropUnsynced
	ReasonUnreadable = "unreadable" // the record holds no message
	ReasonThinned    = "thinned"    // as Config.Thin wants
	ReasonSuperseded = "superseded" // as Latest wants: a newer one of its topic was sent
)

// A flight is one message from the spool to its PUBACK.
type flight struct {
	*source  // nil: the bridge's own status
	seq      spool.Seq
	boot     spool.BootRef
	msg      broker.Message // shares data
	data     []byte
	to       string // topic upstream
	replayed bool
	again    bool  // accepted before, and sent to see whether anything passes
	sent     int64 // CLOCK_BOOTTIME of the last time, in ns; 0: with a QoS that has no answer

	tries    int    // refused so often for lack of quota
	accepted uint64 // how many messages had been accepted at the first time
}

var flights = sync.Pool{New: func() any { return new(flight) }}

func newFlight() *flight { return flights.Get().(*flight) }

// release gives f back once the far broker has answered for it.
func (f *flight) release() {
	*f = flight{data: f.data[:0]}
	flights.Put(f)
}

// streamBuffer is how many messages of each stream are read ahead.
const streamBuffer = 8

// The streams of a bridge, those that go first first.
const (
	critical = iota
	live     // the only one of its class under Strict
	backlog
	numStreams
)

// A stream reads a part of one log for one link. It reads ahead a few
// messages; a full channel makes it wait.
type stream struct {
	*source
	b            *Bridge
	rank         int // critical, live or backlog
	after, until spool.Seq
	out          chan *flight
	lost         []spool.Seq // skipped, not yet reported as a gap
	lostFor      string      // why
	thin         thinner

	heldFrom spool.Seq       // the first that waits for the clock; 0: none does
	held     int64           // how many do
	waiting  context.Context // done when they need not any more; nil: none does
	again    bool            // it reads what had to wait
}

// newStreams cuts the logs into streams for a new link.
func (b *Bridge) newStreams() (list []*stream) {
	add := func(s *source, rank int, after, until spool.Seq) {
		list = append(list, &stream{source: s, b: b, rank: rank, after: after, until: until, out: make(chan *flight, streamBuffer)})
	}
	for _, s := range b.sources {
		acked := s.consumer.Acked()
		switch {
		case s.class == broker.Critical:
			add(s, critical, acked, 0)
		case b.cfg.Replay == Strict:
			add(s, live, acked, 0)
		default:
			edge := max(s.last(), acked)
			if acked < edge {
				add(s, backlog, acked, edge)
			}
			add(s, live, edge, 0)
		}
	}
	return list
}

// run reads until ctx is done or the stream's end. What had to wait is read
// again when it need not any more, up to where the stream had come.
func (s *stream) run(ctx context.Context) error {
	if err := s.findLatest(ctx); err != nil {
		return fmt.Errorf("read the %s spool after %d: %w", s.class, s.after, err)
	}
	defer s.thin.report(s)
	defer s.reportLost()
	for {
		err := s.read(ctx, s.after, s.until)
		from, edge := s.heldFrom, s.after
		if s.waiting != nil && err == nil { // the end of the stream
			<-s.waiting.Done()
		}
		s.release()
		if ctx.Err() != nil {
			return nil
		}
		if from == 0 || err != nil && err != errHeld {
			return err
		}
		s.reportLost()
		s.thin.report(s)
		s.again = true
		again := s.read(ctx, from-1, edge)
		s.again, s.after = false, edge
		if again != nil || err == nil {
			return again
		}
	}
}

// read sends what is after a number up to another. It ends with nil there and
// when ctx is done, and with errHeld when what it passed over may be sent.
func (s *stream) read(ctx context.Context, after, until spool.Seq) error {
	r := s.consumer.Reader(after, until)
	defer r.Close()
	for {
		here := ctx
		if s.waiting != nil {
			here = s.waiting
		}
		f := newFlight()
		rec, err := r.Next(here, f.data[:0])
		if ctx.Err() != nil || errors.Is(err, io.EOF) {
			return nil
		}
		if here.Err() != nil {
			return errHeld
		}
		if err != nil {
			return fmt.Errorf("read the %s spool after %d: %w", s.class, s.after, err)
		}
		s.after = rec.Seq
		if rec.Data != nil {
			f.data = rec.Data
		}
		if !s.take(ctx, f, &rec) {
			f.release()
			continue
		}
		select {
		case s.out <- f:
		case <-ctx.Done():
			return nil
		}
	}
}

// take prepares f for sending and reports whether it is to be sent. What is
// not has been counted and acknowledged.
func (s *stream) take(ctx context.Context, f *flight, rec *spool.Record) bool {
	if rec.Gap != nil {
		s.reportLost()
		s.thin.report(s)
		s.b.reportGap(s.source, *rec.Gap)
		s.consumer.Ack(rec.Seq)
		return false
	}
	if err := s.b.decode(rec, &f.msg); err != nil {
		s.b.reportGap(s.source, spool.Gap{First: rec.Seq, Last: rec.Seq, Count: 1, Reason: ReasonUnreadable})
		s.consumer.Ack(rec.Seq)
		return false
	}
	reading := s.reading(f)
	if s.again && !reading {
		return false // it went before
	}
	f.source, f.seq, f.boot, f.replayed = s.source, rec.Seq, rec.Boot, s.rank == backlog
	why := s.b.route(f)
	if why == "" && reading {
		switch {
		case s.heldFrom != 0, !s.again && s.b.holds() && s.b.unsynced(f): // and all behind it, for their order
			s.hold(ctx, f)
			return false
		case s.b.cfg.Unsynced == DropUnsynced && s.b.unsynced(f):
			why = skipUnsynced
		}
	}
	if why == skipMaxAge || why == skipUnsynced {
		s.lose(rec.Seq, why)
		return false
	}
	s.reportLost()
	if why == "" {
		if why = s.thin.judge(s, f); why != "" {
			s.thin.skip(s, rec.Seq, why)
			return false
		}
	}
	if why != "" {
		s.b.count.skip(why)
		s.consumer.Ack(rec.Seq)
		return false
	}
	return true
}

// maxLost bounds how many skipped records wait to be reported together.
const maxLost = 256

// lose notes a record that is too old, or whose time nobody knows. Its run is
// reported as one gap.
func (s *stream) lose(seq spool.Seq, why string) {
	if why != s.lostFor {
		s.reportLost()
	}
	s.b.count.skip(why)
	s.lostFor = why
	if s.lost = append(s.lost, seq); len(s.lost) == maxLost {
		s.reportLost()
	}
}

// reportLost reports the run before it is acknowledged, so that a crash in
// between repeats the report rather than losing it.
func (s *stream) reportLost() {
	if len(s.lost) == 0 {
		return
	}
	first, last := s.lost[0], s.lost[len(s.lost)-1]
	s.b.reportGap(s.source, spool.Gap{First: first, Last: last, Count: uint64(len(s.lost)), Reason: s.lostFor})
	for _, seq := range s.lost {
		s.consumer.Ack(seq)
	}
	s.lost = s.lost[:0]
}

// A turns decides which stream sends next: the first that has something, but
// one that was passed over four times in a row before all others. So each of
// two gets at least a fifth, and three get 3:1:1.
type turns [numStreams]int // times passed over while ready

// next returns the index of a ready stream, -1 if none is.
func (t *turns) next(ready [numStreams]bool) int {
	pick := -1
	for i := numStreams - 1; i >= 0; i-- {
		if ready[i] && (pick < 0 || t[pick] < maxPassed) {
			pick = i
		}
	}
	for i := range t {
		if ready[i] && i != pick {
			t[i]++
		} else {
			t[i] = 0
		}
	}
	return pick
}

const maxPassed = 4
