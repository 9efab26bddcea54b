package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// A Report is what Verify found.
type Report struct {
	Segments int    `json:"segments"`
	Blocks   int    `json:"blocks"`
	Records  uint64 `json:"records"` // acknowledged ones too
	Bytes    int64  `json:"bytes"`   // read
	Tail     int    `json:"tail"`    // records that are in memory or the tail ring only
	// Damage is what does not hold what was written, in order. The first
	// thousand are kept.
	Damage []Damage `json:"damage"`
	More   int      `json:"more"` // beyond these
}

// A Damage is one place that does not hold what was written.
type Damage struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"` // 0: it is not a matter of bytes
	What   string `json:"what"`
}

const maxDamage = 1000

func (r *Report) damage(file string, off, n int64, format string, args ...any) {
	if len(r.Damage) == maxDamage {
		r.More++
		return
	}
	r.Damage = append(r.Damage, Damage{file, off, n, fmt.Sprintf(format, args...)})
}

// Verify reads all that the segments should hold, and META. The log may be at
// work meanwhile: what is dropped or freed while it is read does not count.
func (l *Log) Verify(ctx context.Context) (*Report, error) {
	v := &verifier{l: l, Report: &Report{Damage: []Damage{}}}
	v.meta()
	l.mu.Lock()
	segs := append([]*segment(nil), l.segs...)
	v.Tail = len(l.tail)
	l.mu.Unlock()
	for _, s := range segs {
		if err := v.segment(ctx, s); err != nil {
			return nil, err
		}
	}
	return v.Report, nil
}

// A verifier reads one segment after the other.
type verifier struct {
	*Report
	l *Log

	seq Seq // of the large record that is being read; 0: none
	off int // what of it was there
}

func (v *verifier) meta() {
	for _, name := range []string{metaFile, metaCopy} {
		_, err := readMetaFile(v.l.dir, name)
		switch {
		case err == nil:
		case missing(err) && name == metaCopy:
		case missing(err):
			v.damage(name, 0, 0, "it is missing: nobody knows the names of the consumers")
		case errors.Is(err, errMeta):
			v.damage(name, 0, 0, "it is damaged")
		default:
			v.damage(name, 0, 0, "it cannot be read: %v", err)
		}
	}
}

func (v *verifier) segment(ctx context.Context, s *segment) error {
	l := v.l
	l.mu.Lock()
	end, last, before := s.end, s.last, len(v.Damage)
	l.mu.Unlock()
	if s.hole {
		v.damage(s.name, 0, 0, "a segment before it is missing")
	}
	f, err := l.dir.Open(s.name)
	if err == nil {
		defer f.Close()
		v.header(f, s)
		err = v.blocks(ctx, f, s, end, last)
	}
	l.mu.Lock()
	gone := s.gone
	l.mu.Unlock()
	switch {
	case gone:
		v.Damage = v.Damage[:min(before, len(v.Damage))]
		v.seq = 0
		return ctx.Err()
	case errors.Is(err, ctx.Err()) && err != nil:
		return err
	case err != nil && errors.Is(err, fs.ErrNotExist):
		v.damage(s.name, 0, 0, "it is missing")
	case err != nil:
		v.damage(s.name, 0, 0, "it cannot be opened: %v", err)
	}
	v.Segments++
	return nil
}

func (v *verifier) header(f File, s *segment) {
	page := make([]byte, pageSize)
	_, err := f.ReadAt(page, 0)
	if err == nil {
		var h header
		if h, err = parseHeader(page); err == nil && h.gen != s.gen {
			err = errors.New("the header is that of an earlier use of the file")
		}
	}
	if err != nil {
		v.damage(s.name, 0, pageSize, "%v", err)
	}
}

func (v *verifier) blocks(ctx context.Context, f File, s *segment, end int64, last Seq) error {
	sc := v.l.scanner(s, f, end)
	sc.patient = true
	var skipped int64
	for ctx.Err() == nil {
		found := sc.next()
		if !found && sc.err != nil {
			v.damage(s.name, sc.off, pageSize, "it cannot be read: %v", sc.err)
			sc.skip()
			continue
		}
		at := sc.off
		if found {
			at -= int64(padded(sc.block.length))
		}
		if skipped = sc.skipped; skipped > 0 {
			v.damage(s.name, at-skipped, skipped, "no valid block")
		}
		if !found {
			break
		}
		v.Blocks++
		v.Bytes += int64(padded(sc.block.length))
		if sc.block.last <= last { // else it is of a commit that was written again elsewhere
			v.records(s, at, &sc.block)
		}
	}
	return ctx.Err()
}

func (v *verifier) records(s *segment, at int64, b *block) {
	if b.part {
		v.part(s, at, b)
		return
	}
	want := b.records
	n := 0
	for rec, ok := b.next(); ok; rec, ok = b.next() {
		if _, err := parseBody(rec.body, nil, func(Target) {}); err != nil {
			break
		}
		n++
	}
	v.Records += uint64(n)
	if n < want {
		v.damage(s.name, at, int64(b.length), "%d of its %d records make no sense", want-n, want)
	}
}

func (v *verifier) part(s *segment, at int64, b *block) {
	p, ok := b.piece()
	if ok && p.off == 0 {
		v.seq, v.off = p.seq, 0
	}
	if !ok || v.seq != p.seq || v.off != p.off {
		v.seq = 0
		if b.ends {
			v.damage(s.name, at, int64(b.length), "the last part of a record of which others are missing")
		}
		return
	}
	v.off += len(p.body)
	if b.ends {
		v.Records++
		v.seq = 0
	}
}
