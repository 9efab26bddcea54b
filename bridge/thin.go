package bridge

import (
	"context"
	"errors"
	"io"
	"time"

	"edgegateway/broker/spool"
)

// A thinner finds what of a stream need not be sent, by Config.Thin and Latest.
// It belongs to the stream's goroutine.
type thinner struct {
	latest  map[string]spool.Seq // the last of each topic upstream; nil: all are sent
	sent    map[string]moment    // when what was sent of a topic as old was made
	skipped []spool.Seq          // not yet reported as a gap
	why     string               // they were
}

// A moment is a boot-time stamp with its boot.
type moment struct {
	boot  [16]byte
	stamp int64
}

// maxThinned bounds how many skipped records are reported together. There are
// many between those that are sent, and a report for each run would cost the
// link what skipping saves.
const maxThinned = 4096

// maxTopics bounds how many topics are followed. Of further ones all is sent.
const maxTopics = 50000

// findLatest reads a backlog once to find the last message of each topic.
func (s *stream) findLatest(ctx context.Context) error {
	if s.b.cfg.Replay != Latest || s.rank != backlog {
		return nil
	}
	s.thin.latest = make(map[string]spool.Seq)
	r := s.consumer.Reader(s.after, s.until)
	defer r.Close()
	var data []byte
	var f flight
	for {
		rec, err := r.Next(ctx, data[:0])
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if rec.Data != nil {
			data = rec.Data
		}
		if rec.Gap != nil || s.b.decode(&rec, &f.msg) != nil {
			continue
		}
		f.boot = rec.Boot
		if s.b.route(&f) != "" {
			continue
		}
		if _, known := s.thin.latest[f.to]; known || len(s.thin.latest) < maxTopics {
			s.thin.latest[f.to] = rec.Seq
		}
	}
}

// judge returns why f is not sent, "" if it is.
func (t *thinner) judge(s *stream, f *flight) string {
	if s.rank == critical {
		return ""
	}
	if last, known := t.latest[f.to]; known && last != f.seq {
		return skipOld
	}
	every := s.b.cfg.Thin.Every
	if every == 0 {
		return ""
	}
	if age, known := s.b.age(f); !known || age <= s.b.cfg.Thin.After {
		t.report(s) // what is old is over
		return ""
	}
	last, known := t.sent[f.to]
	if known && last.boot == f.boot.ID && time.Duration(f.msg.Stamp-last.stamp) < every {
		return skipThinned
	}
	if known || len(t.sent) < maxTopics {
		if t.sent == nil {
			t.sent = make(map[string]moment)
		}
		t.sent[f.to] = moment{f.boot.ID, f.msg.Stamp}
	}
	return ""
}

// skip notes a record that is not sent.
func (t *thinner) skip(s *stream, seq spool.Seq, why string) {
	if why != t.why {
		t.report(s)
		t.why = why
	}
	s.b.count.skip(why)
	if t.skipped = append(t.skipped, seq); len(t.skipped) == maxThinned {
		t.report(s)
	}
}

// report reports what was skipped before it is acknowledged, as reportLost
// does. Between the first and the last of a report some were sent.
func (t *thinner) report(s *stream) {
	if len(t.skipped) == 0 {
		return
	}
	s.b.reportGap(s.source, spool.Gap{First: t.skipped[0], Last: t.skipped[len(t.skipped)-1], Count: uint64(len(t.skipped)), Reason: t.why})
	for _, seq := range t.skipped {
		s.consumer.Ack(seq)
	}
	t.skipped = t.skipped[:0]
}
