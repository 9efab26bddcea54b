package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// The bytes on the medium. All integers are little-endian.
//
// A segment file is a header page and then blocks, each at a multiple of 4096:
//
//	 0  8  magic "GWSPOOL\n"
//	 8  4  CRC32C of bytes 12 to 4096
//	12  2  format version
//	14  2  flags: 1 it begins with the rest of a record that the preceding one holds parts of
//	16  8  log id
//	24  4  generation: unique per use of a file, rising
//	28  4  generation of the preceding segment
//	32  8  last sequence number that the preceding segments cover
//	40  8  length of the preceding segment, bytes
//	48  8  bit set of the consumers that the preceding segment owes records
//	56  ..  0
//
// A block is one commit, or a part of one:
//
//	 0  4  magic "GWB1", or "GWB2" with a longer header
//	 4  4  length of header, cursors and records, bytes, without padding
//	 8  4  CRC32C of bytes 12 to length, seeded with log id and generation
//	12  4  generation of the segment
//	16  4  number of the block in the segment, from 0
//	20  4  number of the first block of its commit
//	24  8  first and
//	32  8  last sequence number covered; first > last: none
//	40 16  boot id
//	56  8  boot time at commit, ns
//	64  8  wall time - boot time at commit, ns
//	72  1  flags: 1 wall time synchronised, 2 the cursors are those of all
//	       consumers, 4 a part of a record, 8 the last one
//	73  1  0
//	74  2  number of cursors
//	76  4  number of records
//	80  ..  cursors, records
//
// A block whose records are compressed, or that holds a part of one, is of
// format 2, and a program that knows only format 1 takes it for damage:
//
//	 0  4  magic "GWB2"
//	80  4  length of the records before they became one zstd frame; 0: they did not
//	84  4  0
//	88  8  bit set of the consumers that the records name
//	96  ..  cursors, records
//
// Cursors are never compressed, so that they are found without unpacking.
//
// The seed makes a block of an earlier use of the file, or of another log,
// never match. Blocks cover all numbers without a hole, also those of records
// that were acknowledged before the commit and are not in any block: a missing
// range always means damage. A block is never written twice; a torn one ends
// the log or, in the middle, is a hole.
//
// A cursor, as in blocks and in the ring's table:
//
//	 0  2  consumer id
//	 2  1  number of ranges
//	 3  1  number of gaps
//	 4  8  version, rising with each change
//	12  8  all up to here is acknowledged
//	20  8  records, and
//	28  8  bytes of the backlog
//	36  8  number at which the consumer was made: ids are used again
//	44 16  each range acknowledged beyond: first, last
//	.. 33  each gap to report: its own number, first, last, count, reason (1 byte)
//
// A record:
//
//	uvarint  number - first number of the block
//	varint   stamp - boot time of the block, ns
//	uvarint  length of the body
//	body: uvarint number of targets; each: uvarint consumer id, QoS (1 byte),
//	      uvarint number of subscription ids, uvarint each; then the data
//
// A part of a record is alone in its block, and the parts of one follow each
// other, also across segments. Only the block of the last part covers the
// number, so that what was not written to its end never was:
//
//	uvarint  number - first number of the block
//	varint   stamp - boot time of the block, ns
//	uvarint  length of the whole body
//	uvarint  where in it the part belongs
//	..       the part
const (
	firstFormat   = 1
	formatVersion = 2 // the newest; a log that needs none of it stays at the first

	pageSize       = 4096
	segmentMagic   = "GWSPOOL\n"
	segmentHeader  = 56
	blockMagic     = "GWB1"
	blockMagic2    = "GWB2"
	blockHeader    = 80
	blockHeader2   = 96
	blockTarget    = 64 << 10 // a commit is cut into blocks of about this size
	cursorHeader   = 44
	rangeSize      = 16
	gapSize        = 33
	maxConsumers   = 64
	maxRanges      = 8
	maxGaps        = 4
	maxCursor      = cursorHeader + maxRanges*rangeSize + maxGaps*gapSize
	cursorRoom     = (blockHeader + maxConsumers*maxCursor + pageSize - 1) / pageSize * pageSize
	recordOverhead = 32 // bound of the bytes before a record's body
	partOverhead   = blockHeader2 + 40
)

const (
	flagSynced = 1 << iota
	flagTable
	flagPart
	flagEnds
)

const flagInside = 1 // of a segment

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errBlock = errors.New("no valid block here")

// seed returns what the checksums of one generation of one log start from.
func seed(logID uint64, gen uint32) uint32 {
	var b [12]byte
	binary.LittleEndian.PutUint64(b[:], logID)
	binary.LittleEndian.PutUint32(b[8:], gen)
	return crc32.Checksum(b[:], castagnoli)
}

func padded(n int) int { return (n + pageSize - 1) &^ (pageSize - 1) }

// A timeRef is when a commit was made.
type timeRef struct {
	boot BootRef
	at   int64 // boot time, ns
}

// A header is the first page of a segment.
type header struct {
	version  uint16
	logID    uint64
	gen      uint32
	prevGen  uint32
	after    Seq
	prevEnd  int64
	prevMask uint64
	inside   bool // begins inside a record
}

func appendHeader(dst []byte, h header) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, segmentMagic...)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint16(dst, h.version)
	flags := uint16(0)
	if h.inside {
		flags = flagInside
	}
	dst = le.AppendUint16(dst, flags)
	dst = le.AppendUint64(dst, h.logID)
	dst = le.AppendUint32(dst, h.gen)
	dst = le.AppendUint32(dst, h.prevGen)
	dst = le.AppendUint64(dst, uint64(h.after))
	dst = le.AppendUint64(dst, uint64(h.prevEnd))
	dst = le.AppendUint64(dst, h.prevMask)
	dst = append(dst, make([]byte, pageSize-segmentHeader)...)
	page := dst[start:]
	le.PutUint32(page[8:], crc32.Checksum(page[12:], castagnoli))
	return dst
}

func parseHeader(page []byte) (header, error) {
	le := binary.LittleEndian
	if len(page) < pageSize || string(page[:8]) != segmentMagic ||
		le.Uint32(page[8:]) != crc32.Checksum(page[12:pageSize], castagnoli) {
		return header{}, errors.New("no valid segment header")
	}
	return header{
		version:  le.Uint16(page[12:]),
		logID:    le.Uint64(page[16:]),
		gen:      le.Uint32(page[24:]),
		prevGen:  le.Uint32(page[28:]),
		after:    Seq(le.Uint64(page[32:])),
		prevEnd:  int64(le.Uint64(page[40:])),
		prevMask: le.Uint64(page[48:]),
		inside:   le.Uint16(page[14:])&flagInside != 0,
	}, nil
}

// A block is a decoded block header; cursors and records share the buffer that
// it was parsed from.
type block struct {
	length      int // without padding
	gen         uint32
	no, group   uint32
	first, last Seq
	time        timeRef
	table       bool
	part, ends  bool // a part of a record, the last one
	cursors     []cursor
	records     int
	zipped      int    // length of the records unpacked; 0: they are not packed
	mask        uint64 // of the consumers they name, in blocks of format 2
	body        []byte // the records
}

// format returns the version that b needs.
func (b *block) format() int {
	if b.part || b.zipped > 0 {
		return 2
	}
	return 1
}

// beginBlock appends the room of b's header; endBlock fills it in.
func beginBlock(dst []byte, b *block) []byte {
	if b.format() == 2 {
		return append(dst, make([]byte, blockHeader2)...)
	}
	return append(dst, make([]byte, blockHeader)...)
}

// endBlock completes the block that begins at start and pads it.
func endBlock(dst []byte, start int, b *block, logID uint64) []byte {
	le := binary.LittleEndian
	p := dst[start:]
	copy(p, blockMagic)
	le.PutUint32(p[4:], uint32(len(p)))
	le.PutUint32(p[12:], b.gen)
	le.PutUint32(p[16:], b.no)
	le.PutUint32(p[20:], b.group)
	le.PutUint64(p[24:], uint64(b.first))
	le.PutUint64(p[32:], uint64(b.last))
	copy(p[40:56], b.time.boot.ID[:])
	le.PutUint64(p[56:], uint64(b.time.at))
	le.PutUint64(p[64:], uint64(b.time.boot.Offset))
	p[72], p[73] = b.flags(), 0
	le.PutUint16(p[74:], uint16(len(b.cursors)))
	le.PutUint32(p[76:], uint32(b.records))
	if b.format() == 2 {
		copy(p, blockMagic2)
		le.PutUint32(p[80:], uint32(b.zipped))
		le.PutUint32(p[84:], 0)
		le.PutUint64(p[88:], b.mask)
	}
	le.PutUint32(p[8:], crc32.Update(seed(logID, b.gen), castagnoli, p[12:]))
	return append(dst, make([]byte, padded(len(p))-len(p))...)
}

func (b *block) flags() (f byte) {
	if b.time.boot.Synced {
		f |= flagSynced
	}
	if b.table {
		f |= flagTable
	}
	if b.part {
		f |= flagPart
	}
	if b.ends {
		f |= flagEnds
	}
	return f
}

// blockLength returns the length that the block at the start of p claims, for
// reading the rest of it; max bounds it.
func blockLength(p []byte, max int64) (int, error) {
	if len(p) < blockHeader {
		return 0, errBlock
	}
	least := uint32(blockHeader)
	switch string(p[:4]) {
	case blockMagic:
	case blockMagic2:
		least = blockHeader2
	default:
		return 0, errBlock
	}
	n := binary.LittleEndian.Uint32(p[4:])
	if n < least || int64(n) > max {
		return 0, errBlock
	}
	return int(n), nil
}

// parse decodes the block at the start of p, which must hold all of it. A
// block whose checksum does not match is errBlock. It reuses b.cursors. What
// is packed stays so: see unpack.
func (b *block) parse(p []byte, logID uint64, gen uint32) error {
	n, err := blockLength(p, int64(len(p)))
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	p = p[:n]
	if le.Uint32(p[12:]) != gen || le.Uint32(p[8:]) != crc32.Update(seed(logID, gen), castagnoli, p[12:]) {
		return errBlock
	}
	b.length, b.gen = n, gen
	b.no, b.group = le.Uint32(p[16:]), le.Uint32(p[20:])
	b.first, b.last = Seq(le.Uint64(p[24:])), Seq(le.Uint64(p[32:]))
	copy(b.time.boot.ID[:], p[40:56])
	b.time.at = int64(le.Uint64(p[56:]))
	b.time.boot.At = b.time.at
	b.time.boot.Offset = int64(le.Uint64(p[64:]))
	b.time.boot.Synced = p[72]&flagSynced != 0
	b.table = p[72]&flagTable != 0
	b.records = int(le.Uint32(p[76:]))
	b.part, b.ends, b.zipped, b.mask = false, false, 0, 0
	rest := p[blockHeader:]
	if string(p[:4]) == blockMagic2 {
		b.part = p[72]&flagPart != 0
		b.ends = b.part && p[72]&flagEnds != 0
		b.zipped, b.mask = int(le.Uint32(p[80:])), le.Uint64(p[88:])
		rest = p[blockHeader2:]
	}
	b.cursors = b.cursors[:0]
	for range le.Uint16(p[74:]) {
		var c cursor
		if c, rest, err = parseCursor(rest); err != nil {
			return err
		}
		b.cursors = append(b.cursors, c)
	}
	b.body = rest
	return nil
}

// names returns the bit set of the consumers that the records name. It uses
// up the records of a block of format 1.
func (b *block) names() (mask uint64) {
	if b.format() == 2 {
		return b.mask
	}
	for rec, ok := b.next(); ok; rec, ok = b.next() {
		mask |= owedMask(rec.body)
	}
	return mask
}

// A stored is a record as a block holds it.
type stored struct {
	seq   Seq
	stamp int64
	body  []byte
}

func appendStored(dst []byte, s *stored, first Seq, at int64) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.seq-first))
	dst = binary.AppendVarint(dst, s.stamp-at)
	dst = binary.AppendUvarint(dst, uint64(len(s.body)))
	return append(dst, s.body...)
}

// next takes the next record off the block. ok is false at its end; bytes
// that are no record end it, too. A part is no record.
func (b *block) next() (s stored, ok bool) {
	if b.records == 0 || b.part {
		return s, false
	}
	b.records--
	delta, p, ok1 := uvarint(b.body)
	stamp, n := binary.Varint(p)
	if !ok1 || n <= 0 {
		return s, false
	}
	size, p, ok2 := uvarint(p[n:])
	if !ok2 || size > uint64(len(p)) {
		return s, false
	}
	b.body = p[size:]
	return stored{b.first + Seq(delta), b.time.at + stamp, p[:size]}, true
}

// unfinished returns the number of the record that b holds a part of, unless
// it is the last one; 0: of none. It needs no unpacking.
func (b *block) unfinished() Seq {
	if b.part && !b.ends {
		return b.last + 1
	}
	return 0
}

// A part is a piece of the body of a record that no block can hold.
type part struct {
	stored     // body is the piece
	total, off int
}

func appendPart(dst []byte, p *part, first Seq, at int64) []byte {
	dst = binary.AppendUvarint(dst, uint64(p.seq-first))
	dst = binary.AppendVarint(dst, p.stamp-at)
	dst = binary.AppendUvarint(dst, uint64(p.total))
	dst = binary.AppendUvarint(dst, uint64(p.off))
	return append(dst, p.body...)
}

// piece returns the part that b holds, false when it holds none.
func (b *block) piece() (p part, ok bool) {
	if !b.part {
		return p, false
	}
	delta, rest, ok1 := uvarint(b.body)
	stamp, n := binary.Varint(rest)
	if !ok1 || n <= 0 {
		return p, false
	}
	total, rest, ok2 := uvarint(rest[n:])
	off, rest, ok3 := uvarint(rest)
	if !ok2 || !ok3 || total > maxLarge || off > total || uint64(len(rest)) > total-off ||
		len(rest) == 0 || b.ends != (uint64(len(rest)) == total-off) {
		return p, false
	}
	return part{stored{b.first + Seq(delta), b.time.at + stamp, rest}, int(total), int(off)}, true
}

func uvarint(p []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(p)
	if n <= 0 {
		return 0, nil, false
	}
	return v, p[n:], true
}

// appendBody appends targets and data of a record.
func appendBody(dst []byte, targets []Target, data []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(targets)))
	for _, t := range targets {
		dst = binary.AppendUvarint(dst, uint64(t.Consumer))
		dst = append(dst, t.QoS)
		dst = binary.AppendUvarint(dst, uint64(len(t.SubIDs)))
		for _, id := range t.SubIDs {
			dst = binary.AppendUvarint(dst, uint64(id))
		}
	}
	return append(dst, data...)
}

// parseBody calls each for the targets of a record and returns its data. The
// slice of subscription ids that each gets is sub, reused.
func parseBody(p []byte, sub []uint32, each func(Target)) ([]byte, error) {
	count, p, ok := uvarint(p)
	for ; ok && count > 0; count-- {
		var id, ids, v uint64
		if id, p, ok = uvarint(p); !ok || len(p) == 0 {
			return nil, errBlock
		}
		t := Target{Consumer: uint16(id), QoS: p[0]}
		ids, p, ok = uvarint(p[1:])
		sub = sub[:0]
		for ; ok && ids > 0; ids-- {
			v, p, ok = uvarint(p)
			sub = append(sub, uint32(v))
		}
		t.SubIDs = sub
		if ok {
			each(t)
		}
	}
	if !ok {
		return nil, errBlock
	}
	return p, nil
}

// owedMask returns the bit set of the consumers that a record names.
func owedMask(body []byte) (mask uint64) {
	parseBody(body, nil, func(t Target) {
		if t.Consumer < maxConsumers {
			mask |= 1 << t.Consumer
		}
	})
	return mask
}

// A cursor is the state of one consumer as it is stored.
type cursor struct {
	consumer uint16
	born     Seq
	version  uint64
	acked    seqSet
	records  uint64
	bytes    int64
	gaps     []gap
}

// A gap is a Gap with the number under which it is reported.
type gap struct {
	seq Seq
	Gap
	by *Reader // that has reported it, waiting for its acknowledgement
}

var reasons = [...]string{1: ReasonQuota, 2: ReasonDamage, 3: ReasonQueueFull, 4: ReasonPurged}

func reasonCode(s string) byte {
	for i, r := range reasons {
		if r == s {
			return byte(i)
		}
	}
	return 0
}

func appendCursor(dst []byte, c *cursor) []byte {
	le := binary.LittleEndian
	ranges := c.acked.widest(maxRanges)
	dst = le.AppendUint16(dst, c.consumer)
	dst = append(dst, byte(len(ranges)), byte(len(c.gaps)))
	dst = le.AppendUint64(dst, c.version)
	dst = le.AppendUint64(dst, uint64(c.acked.upto))
	dst = le.AppendUint64(dst, c.records)
	dst = le.AppendUint64(dst, uint64(c.bytes))
	dst = le.AppendUint64(dst, uint64(c.born))
	for _, r := range ranges {
		dst = le.AppendUint64(dst, uint64(r.lo))
		dst = le.AppendUint64(dst, uint64(r.hi))
	}
	for _, g := range c.gaps {
		dst = le.AppendUint64(dst, uint64(g.seq))
		dst = le.AppendUint64(dst, uint64(g.First))
		dst = le.AppendUint64(dst, uint64(g.Last))
		dst = le.AppendUint64(dst, g.Count)
		dst = append(dst, reasonCode(g.Reason))
	}
	return dst
}

func parseCursor(p []byte) (c cursor, rest []byte, err error) {
	le := binary.LittleEndian
	if len(p) < cursorHeader {
		return c, nil, errBlock
	}
	ranges, gaps := int(p[2]), int(p[3])
	if len(p) < cursorHeader+ranges*rangeSize+gaps*gapSize || le.Uint16(p) >= maxConsumers {
		return c, nil, errBlock
	}
	c.consumer = le.Uint16(p)
	c.version = le.Uint64(p[4:])
	c.acked.upto = Seq(le.Uint64(p[12:]))
	c.records = le.Uint64(p[20:])
	c.bytes = int64(le.Uint64(p[28:]))
	c.born = Seq(le.Uint64(p[36:]))
	p = p[cursorHeader:]
	for range ranges {
		c.acked.add(Seq(le.Uint64(p)), Seq(le.Uint64(p[8:])))
		p = p[rangeSize:]
	}
	for range gaps {
		g := gap{seq: Seq(le.Uint64(p)), Gap: Gap{First: Seq(le.Uint64(p[8:])), Last: Seq(le.Uint64(p[16:])), Count: le.Uint64(p[24:])}}
		if code := int(p[32]); code < len(reasons) {
			g.Reason = reasons[code]
		}
		c.gaps = append(c.gaps, g)
		p = p[gapSize:]
	}
	return c, p, nil
}
