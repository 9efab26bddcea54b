package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
)

// The tail ring is a file on a tmpfs that outlives the process. It is written
// and never synced. Integers are little-endian.
//
//	0                table slot 0, 32 KiB
//	32 KiB           table slot 1
//	64 KiB           area 0
//	64 KiB + area    area 1
//
// The slots take the table of cursors in turns:
//
//	 0  4  magic "GWRT"
//	 4  4  length of header and cursors
//	 8  4  CRC32C of bytes 12 to length, seeded with log id and 0
//	12  8  number of the table, rising
//	20  8  last record number that its backlogs count
//	28  4  number of cursors
//	32  ..  cursors
//
// One area is in use, the one with the higher generation; it holds all records
// that are neither on the medium nor acknowledged. When it is full those few
// go to the other area, whose header, written last, puts that in use.
//
//	 0  4  magic "GWRA"
//	 4  4  generation
//	 8  4  CRC32C of bytes 12 to 64, seeded with log id and generation
//	12  4  epoch
//	16 16  boot id
//	32  8  wall time - boot time, ns
//	40  1  1: wall time synchronised
//	41  8  boot time at which that was so, ns
//	49 ..  0
//	64 ..  entries, each:
//	        0  4  length of what follows the checksum
//	        4  4  CRC32C of it, seeded with log id and generation
//	        8  8  number
//	       16  8  stamp
//	       24 ..  body
const (
	tableMagic  = "GWRT"
	areaMagic   = "GWRA"
	tableSlot   = 32 << 10
	tableHeader = 32
	areaStart   = 2 * tableSlot
	areaHeader  = 64
	ringEntry   = 24
)

var errRingFull = errors.New("tail ring is full")

// A ring is the tail ring. Only the front uses it after Open.
type ring struct {
	f      File // nil: it cannot be used
	logID  uint64
	area   int64  // bytes of an area
	gen    uint32 // of the area in use
	end    int64  // bytes used in it
	table  uint64 // number of the last table
	buf    []byte
	broken bool  // writing failed: each record is committed at once
	retry  int64 // when to try again then, by Log.now
}

func (r *ring) close() {
	if r.f != nil {
		r.f.Close()
	}
}

// unackedMax is how much unacknowledged tail starts a commit, bytes.
func (r *ring) unackedMax() int { return int(min(unackedBytes, r.area/2)) }

// base returns where the area of a generation begins.
func (r *ring) base(gen uint32) int64 { return areaStart + int64(gen%2)*r.area }

// openRing opens the ring file, and makes it when missing.
func openRing(d Dir, name string) (File, error) {
	f, err := d.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = d.Create(name)
	}
	return f, err
}

// append writes entries at the end of the area in use. errRingFull means that
// none was written; any other error that the ring cannot be used.
func (r *ring) append(entries []*entry) error {
	r.buf = r.appendEntries(r.buf[:0], r.gen, entries)
	if r.end+int64(len(r.buf)) > r.area {
		return errRingFull
	}
	if _, err := r.f.WriteAt(r.buf, r.base(r.gen)+r.end); err != nil {
		return fmt.Errorf("write tail ring: %w", err)
	}
	r.end += int64(len(r.buf))
	return nil
}

func (r *ring) appendEntries(dst []byte, gen uint32, entries []*entry) []byte {
	le := binary.LittleEndian
	sum := seed(r.logID, gen)
	for _, e := range entries {
		start := len(dst)
		dst = le.AppendUint32(dst, uint32(16+len(e.body)))
		dst = le.AppendUint32(dst, 0)
		dst = le.AppendUint64(dst, uint64(e.seq))
		dst = le.AppendUint64(dst, uint64(e.stamp))
		dst = append(dst, e.body...)
		le.PutUint32(dst[start+4:], crc32.Update(sum, castagnoli, dst[start+8:]))
	}
	return dst
}

// change puts the other area in use and begins it with live. It is
// errRingFull when these would fill half of it.
func (r *ring) change(live []*entry, epoch Seq, boot BootRef) error {
	gen := r.gen + 1
	r.buf = r.appendEntries(r.buf[:0], gen, live)
	if int64(len(r.buf)) > r.area/2 {
		return errRingFull
	}
	// A zero length ends what an earlier use of the area left behind.
	end := areaHeader + int64(len(r.buf))
	if _, err := r.f.WriteAt(append(r.buf, 0, 0, 0, 0), r.base(gen)+areaHeader); err != nil {
		return fmt.Errorf("write tail ring: %w", err)
	}
	if _, err := r.f.WriteAt(appendArea(nil, r.logID, gen, epoch, boot), r.base(gen)); err != nil {
		return fmt.Errorf("write tail ring: %w", err)
	}
	r.gen, r.end = gen, end
	return nil
}

func appendArea(dst []byte, logID uint64, gen uint32, epoch Seq, boot BootRef) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, areaMagic...)
	dst = le.AppendUint32(dst, gen)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, uint32(epoch))
	dst = append(dst, boot.ID[:]...)
	dst = le.AppendUint64(dst, uint64(boot.Offset))
	synced := byte(0)
	if boot.Synced {
		synced = 1
	}
	dst = append(dst, synced)
	dst = le.AppendUint64(dst, uint64(boot.At))
	dst = append(dst, make([]byte, areaHeader-(len(dst)-start))...)
	p := dst[start:]
	le.PutUint32(p[8:], crc32.Update(seed(logID, gen), castagnoli, p[12:]))
	return dst
}

// saveTable writes the cursors as of a number into the older slot.
func (r *ring) saveTable(cursors []cursor, asOf Seq) error {
	le := binary.LittleEndian
	r.table++
	p := append(r.buf[:0], tableMagic...)
	p = append(p, make([]byte, tableHeader-len(p))...)
	for i := range cursors {
		p = appendCursor(p, &cursors[i])
	}
	le.PutUint32(p[4:], uint32(len(p)))
	le.PutUint64(p[12:], r.table)
	le.PutUint64(p[20:], uint64(asOf))
	le.PutUint32(p[28:], uint32(len(cursors)))
	le.PutUint32(p[8:], crc32.Update(seed(r.logID, 0), castagnoli, p[12:]))
	r.buf = p[:0]
	if _, err := r.f.WriteAt(p, int64(r.table%2)*tableSlot); err != nil {
		return fmt.Errorf("write tail ring: %w", err)
	}
	return nil
}

// A ringState is what a ring file of an earlier run holds.
type ringState struct {
	gen     uint32 // 0: no valid area
	epoch   Seq
	boot    BootRef
	entries []stored

	table   uint64
	asOf    Seq
	cursors []cursor
}

// parseRing decodes the bytes of a ring file. What is not of this log or does
// not verify is left out.
func parseRing(p []byte, logID uint64, area int64) (s ringState) {
	for i := range int64(2) {
		if at := i * tableSlot; int64(len(p)) >= at+tableHeader {
			s.parseTable(p[at:min(at+tableSlot, int64(len(p)))], logID)
		}
	}
	for i := range int64(2) {
		if at := areaStart + i*area; int64(len(p)) >= at+areaHeader {
			s.parseArea(p[at:min(at+area, int64(len(p)))], logID, uint32(i))
		}
	}
	return s
}

func (s *ringState) parseTable(p []byte, logID uint64) {
	le := binary.LittleEndian
	n := le.Uint32(p[4:])
	if string(p[:4]) != tableMagic || n < tableHeader || int64(n) > int64(len(p)) ||
		le.Uint32(p[8:]) != crc32.Update(seed(logID, 0), castagnoli, p[12:n]) {
		return
	}
	number := le.Uint64(p[12:])
	if number <= s.table {
		return
	}
	var cursors []cursor
	rest := p[tableHeader:n]
	for range le.Uint32(p[28:]) {
		var c cursor
		var err error
		if c, rest, err = parseCursor(rest); err != nil {
			return
		}
		cursors = append(cursors, c)
	}
	s.table, s.asOf, s.cursors = number, Seq(le.Uint64(p[20:])), cursors
}

func (s *ringState) parseArea(p []byte, logID uint64, parity uint32) {
	le := binary.LittleEndian
	gen := le.Uint32(p[4:])
	sum := seed(logID, gen)
	if string(p[:4]) != areaMagic || gen <= s.gen || gen%2 != parity ||
		le.Uint32(p[8:]) != crc32.Update(sum, castagnoli, p[12:areaHeader]) {
		return
	}
	s.gen, s.epoch = gen, Seq(le.Uint32(p[12:]))
	copy(s.boot.ID[:], p[16:32])
	s.boot.Offset = int64(le.Uint64(p[32:]))
	s.boot.Synced = p[40] == 1
	s.boot.At = int64(le.Uint64(p[41:])) // 0 of programs that did not note it
	s.entries = nil
	for p = p[areaHeader:]; len(p) >= ringEntry; {
		n := int64(le.Uint32(p)) + 8
		if n < ringEntry || n > int64(len(p)) || le.Uint32(p[4:]) != crc32.Update(sum, castagnoli, p[8:n]) {
			return
		}
		s.entries = append(s.entries, stored{Seq(le.Uint64(p[8:])), int64(le.Uint64(p[16:])), p[ringEntry:n]})
		p = p[n:]
	}
}
