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
	again    bool // accepted before, and sent to see whether anything passes

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
	expired      []spool.Seq // skipped, not yet reported as a gap
	thin         thinner
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

// run reads until ctx is done or the stream's end.
func (s *stream) run(ctx context.Context) error {
	if err := s.findLatest(ctx); err != nil {
		return fmt.Errorf("read the %s spool after %d: %w", s.class, s.after, err)
	}
	r := s.consumer.Reader(s.after, s.until)
	defer r.Close()
	defer s.thin.report(s)
	defer s.reportExpired()
	for {
		f := newFlight()
		rec, err := r.Next(ctx, f.data[:0])
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the %s spool after %d: %w", s.class, s.after, err)
		}
		s.after = rec.Seq
		if rec.Data != nil {
			f.data = rec.Data
		}
		if !s.take(f, &rec) {
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
func (s *stream) take(f *flight, rec *spool.Record) bool {
	if rec.Gap != nil {
		s.reportExpired()
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
	f.source, f.seq, f.boot, f.replayed = s.source, rec.Seq, rec.Boot, s.rank == backlog
	why := s.b.route(f)
	if why == skipMaxAge {
		s.expire(rec.Seq)
		return false
	}
	s.reportExpired()
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

// maxExpired bounds how many skipped records wait to be reported together.
const maxExpired = 256

// expire notes a record that is too old. Its run is reported as one gap.
func (s *stream) expire(seq spool.Seq) {
	s.b.count.skip(skipMaxAge)
	if s.expired = append(s.expired, seq); len(s.expired) == maxExpired {
		s.reportExpired()
	}
}

// reportExpired reports the run before it is acknowledged, so that a crash in
// between repeats the report rather than losing it.
func (s *stream) reportExpired() {
	if len(s.expired) == 0 {
		return
	}
	first, last := s.expired[0], s.expired[len(s.expired)-1]
	s.b.reportGap(s.source, spool.Gap{First: first, Last: last, Count: uint64(len(s.expired)), Reason: ReasonMaxAge})
	for _, seq := range s.expired {
		s.consumer.Ack(seq)
	}
	s.expired = s.expired[:0]
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
