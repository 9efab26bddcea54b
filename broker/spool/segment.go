package spool

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// A segment is one file of blocks. Its fields from last on are guarded by
// Log.mu; the others never change.
type segment struct {
	name  string
	gen   uint32
	logID uint64
	after Seq   // last number that the segments before cover
	hole  bool  // a segment before this one is missing
	blind bool  // it could not be read when the log was opened: last is the most that it can cover
	size  int64 // of the file, bytes

	last  Seq    // last number covered
	parts Seq    // of the record whose last part is in a later segment; 0: none. Then the segment is complete
	end   int64  // bytes that readers may look at
	mask  uint64 // consumers that it owes records
	marks []mark // where some blocks begin, for those written since Open
	gone  bool   // the file serves another purpose now
}

// reach returns the last number that something here is about.
func (s *segment) reach() Seq { return max(s.last, s.parts) }

// A mark says that the block at off begins no later than after+1.
type mark struct {
	after Seq
	off   int64
}

const markDistance = 64 << 10

func segmentName(after Seq, gen uint32) string {
	return fmt.Sprintf("%016x-%08x.seg", uint64(after)+1, gen)
}

func spareName(gen uint32) string { return fmt.Sprintf("spare-%08x.seg", gen) }

// parseName tells what a file of the folder is.
func parseName(name string) (after Seq, gen uint32, spare, ok bool) {
	var base uint64
	if n, _ := fmt.Sscanf(name, "spare-%08x.seg", &gen); n == 1 && name == spareName(gen) {
		return 0, gen, true, true
	}
	n, _ := fmt.Sscanf(name, "%016x-%08x.seg", &base, &gen)
	after = Seq(base) - 1
	return after, gen, false, n == 2 && name == segmentName(after, gen)
}

// startLocked returns where to begin to read what comes after n.
func (s *segment) startLocked(n Seq) int64 {
	i, _ := slices.BinarySearchFunc(s.marks, n, func(m mark, n Seq) int {
		if m.after <= n {
			return -1
		}
		return 1
	})
	if i == 0 {
		return pageSize
	}
	return s.marks[i-1].off
}

// A scanner walks the blocks of one segment file. What does not verify it
// skips by pages: a damaged block costs no other.
type scanner struct {
	f     File
	gen   uint32
	logID uint64
	off   int64 // where to look next
	end   int64 // where to stop
	buf   []byte
	raw   []byte // what was unpacked
	dec   func() *zstd.Decoder
	block block
	heads bool // records are of no interest: leave them packed

	skipped int64 // bytes skipped since the last block
	patient bool  // stop where reading fails, so that the caller can try again
	err     error // of the last read
	failed  bool  // some read failed
}

// next finds the next valid block; its contents are valid until the following
// call. false means the end, or s.err when patient.
func (s *scanner) next() bool {
	for s.skipped = 0; s.off+pageSize <= s.end; s.skip() {
		s.err = nil
		if s.read() {
			s.off += int64(padded(s.block.length))
			return true
		}
		if s.err != nil && s.patient {
			return false
		}
	}
	return false
}

func (s *scanner) skip() {
	s.off += pageSize
	s.skipped += pageSize
}

// read takes the block at s.off.
func (s *scanner) read() bool {
	if len(s.buf) < pageSize {
		s.buf = make([]byte, blockTarget+2*pageSize)
	}
	if !s.fill(0, pageSize) {
		return false
	}
	n, err := blockLength(s.buf[:pageSize], s.end-s.off)
	if err != nil {
		return false
	}
	if n > len(s.buf) {
		s.buf = append(make([]byte, 0, padded(n)), s.buf[:pageSize]...)[:padded(n)]
	}
	if n > pageSize && !s.fill(pageSize, n) {
		return false
	}
	if s.block.parse(s.buf[:n], s.logID, s.gen) != nil {
		return false
	}
	if s.block.zipped > 0 && !s.heads {
		if s.raw == nil {
			s.raw = *buffers.Get().(*[]byte)
		}
		s.raw, err = s.block.unpack(s.dec(), s.raw)
	}
	return err == nil
}

// fill reads the bytes from to to of the block at s.off.
func (s *scanner) fill(from, to int) bool {
	_, err := s.f.ReadAt(s.buf[from:to], s.off+int64(from))
	if err != nil && !errors.Is(err, io.EOF) {
		s.err, s.failed = err, true
	}
	return err == nil
}

func (l *Log) scanner(s *segment, f File, end int64) *scanner {
	return &scanner{f: f, gen: s.gen, logID: s.logID, off: pageSize, end: end, dec: l.decoder}
}
