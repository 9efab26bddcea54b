package spool

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"slices"
	"time"
)

// A candidate is a segment file as found in the folder.
type candidate struct {
	segment
	h     header
	valid bool // h verified
	size  int64
}

// segments finds the segment files, takes the state out of the newest ones and
// makes ready to go on writing.
func (r *recovery) segments(m *meta, names []string) error {
	var found []*candidate
	for _, name := range names {
		c, err := r.candidate(name, m)
		if err != nil {
			return err
		}
		if c != nil {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b *candidate) int { return cmp.Compare(a.gen, b.gen) })
	if m != nil {
		r.epoch = Seq(m.Epoch)
	}
	found = r.chain(found)
	r.positions(found)
	r.cursorFile(m)
	for _, c := range found {
		r.top = max(r.top, c.last)
		r.l.segs = append(r.l.segs, &c.segment)
	}
	return nil
}

// cursorFile takes the cursors that no segment had room for.
func (r *recovery) cursorFile(m *meta) {
	p, err := readFile(r.l.dir, cursorFile)
	var b block
	if m != nil && err == nil && b.parse(p, m.Log, 0) == nil {
		r.block(&b)
	}
}

// candidate looks at one file. nil: it is no segment with contents.
func (r *recovery) candidate(name string, m *meta) (*candidate, error) {
	after, gen, spare, ok := parseName(name)
	if !ok {
		return nil, nil
	}
	k := &r.l.card
	k.nextGen = max(k.nextGen, gen+1)
	page := make([]byte, pageSize)
	size, err := r.firstPage(name, page)
	if err != nil {
		r.l.log.Error("spool segment cannot be read now, it is kept as it is", "file", name, "err", err)
		if spare {
			return nil, nil
		}
		c := &candidate{size: r.l.cfg.Segment}
		c.segment = segment{name: name, gen: gen, after: after, logID: r.logID(m), size: c.size, blind: true}
		return c, nil
	}
	h, err := parseHeader(page)
	if err == nil && h.version > formatVersion {
		return nil, ErrNewer
	}
	if err == nil {
		r.l.format = max(r.l.format, int(h.version))
	}
	if spare {
		r.spare(name, size)
		return nil, nil
	}
	// The header of another generation is one that was not written over yet,
	// or not for good; what counts is the blocks.
	c := &candidate{h: h, valid: err == nil && h.gen == gen, size: size}
	c.segment = segment{name: name, gen: gen, after: after, logID: h.logID, size: size}
	if c.valid {
		c.after = h.after
	} else {
		c.logID = r.logID(m)
	}
	return c, nil
}

// logID is what blocks of the log are sealed with.
func (r *recovery) logID(m *meta) uint64 {
	if m != nil {
		return m.Log
	}
	return r.l.id
}

// firstPage reads the first page of a file, zeros where there is none, and
// returns the file's size.
func (r *recovery) firstPage(name string, page []byte) (size int64, err error) {
	f, err := openSegment(r.l.dir, name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if size, err = f.Size(); err != nil {
		return 0, err
	}
	for range readTries {
		if _, err = f.ReadAt(page, 0); err == nil || errors.Is(err, io.EOF) {
			return size, nil
		}
		time.Sleep(openPause)
	}
	return 0, err
}

// openSegment opens a segment. An error may be one of the moment, so it is
// tried a few times; and what cannot be opened is not to be taken for empty.
func openSegment(d Dir, name string) (f File, err error) {
	for range readTries {
		if f, err = d.Open(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		time.Sleep(openPause)
	}
	return nil, err
}

// openPause is between tries to read a segment when a log is opened.
const openPause = 20 * time.Millisecond

// spare keeps an unused file, or removes it when it was not completed.
func (r *recovery) spare(name string, size int64) {
	if size != r.l.cfg.Segment {
		r.l.discard(name)
		return
	}
	r.l.spares = append(r.l.spares, name)
}

// chain finds what each segment covers: as the next one's header says, or by
// reading it. Segments without any valid block are spares.
func (r *recovery) chain(found []*candidate) []*candidate {
	var kept []*candidate
	for i, c := range found {
		c.last, c.end, c.mask = c.after, c.size, ^uint64(0)
		newest, empty := i+1 == len(found), false
		switch {
		case !newest && found[i+1].valid && found[i+1].h.prevGen == c.gen:
			n := found[i+1].h
			c.last, c.mask = n.after, n.prevMask
			if n.inside {
				c.parts = n.after + 1
			}
			c.end, c.blind = min(max(n.prevEnd, pageSize), c.size), false
		case c.blind:
		case newest:
			empty = !r.tail(c) && !c.valid
		default:
			any, err := r.scan(c, found[i+1].after, func(b *block) { c.parts = b.unfinished() })
			empty, c.blind = !any && !c.valid, err != nil
		}
		switch {
		case c.blind && newest:
			c.last = (max(r.epoch, c.after>>counterBits)+1)<<counterBits - 1 // all that there can be until now
		case c.blind:
			c.last = found[i+1].after
		case empty:
			r.spare(c.name, c.size)
			continue
		}
		c.hole = len(kept) > 0 && c.after > kept[len(kept)-1].last
		kept = append(kept, c)
	}
	if n := len(kept); n > 0 {
		r.l.covered = kept[n-1].last
		r.l.card.prev = &kept[n-1].segment
	}
	return kept
}

// scan reads a segment that ends no later than limit and tells whether it
// holds a valid block.
func (r *recovery) scan(c *candidate, limit Seq, each func(*block)) (any bool, err error) {
	f, err := openSegment(r.l.dir, c.name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	sc := r.l.scanner(&c.segment, f, c.end)
	sc.heads = true
	for sc.next() {
		if sc.block.last <= limit {
			any = true
			c.last = max(c.last, sc.block.last)
			each(&sc.block)
		}
	}
	if sc.failed {
		return any, errUnread
	}
	return any, nil
}

var errUnread = errors.New("some of it could not be read")

// A tailBlock is a valid block of the newest segment.
type tailBlock struct {
	block
	off, end int64
	skipped  int64
	mask     uint64
}

// tail finds the end of the newest segment and opens it for writing when
// there is room. It tells whether there is a valid block.
func (r *recovery) tail(c *candidate) bool {
	f, err := openSegment(r.l.dir, c.name)
	if err != nil {
		c.blind = true
		return false
	}
	sc := r.l.scanner(&c.segment, f, c.size)
	sc.heads = true
	blocks := tailBlocks(sc)
	if sc.failed {
		r.l.log.Error("newest spool segment cannot be read to its end now, it is kept as it is", "file", c.name)
		f.Close()
		c.blind = true
		return false
	}
	n, damaged := durable(blocks)
	c.end, c.mask = pageSize, 0
	for _, b := range blocks[:n] {
		c.last, c.end = max(c.last, b.last), b.end
		c.mask |= b.mask
	}
	r.l.stats.DamagedBytes += uint64(damaged)
	// A process that was killed between write and sync leaves blocks that are
	// there to read and gone after a power cut. If a sync of them failed before,
	// another one says nothing: they are written again, as they are.
	if err := r.rewrite(f, blocks[:n]); err != nil {
		r.l.log.Error("newest spool segment cannot be synced", "file", c.name, "err", err)
		n = 0
	}
	k := &r.l.card
	if n == 0 || n < len(blocks) || !c.valid || c.logID != r.l.id ||
		c.size != r.l.cfg.Segment {
		f.Close()
		return len(blocks) > 0
	}
	k.active, k.f, k.end, k.no = &c.segment, f, c.end, blocks[n-1].no+1
	return true
}

// rewrite makes the last commit durable. Those before it were when it began.
func (r *recovery) rewrite(f File, blocks []tailBlock) error {
	n := len(blocks)
	if n == 0 || r.l.looking {
		return nil
	}
	i := n - 1
	for i > 0 && blocks[i-1].group == blocks[n-1].group {
		i--
	}
	p := make([]byte, blocks[n-1].end-blocks[i].off)
	if _, err := f.ReadAt(p, blocks[i].off); err != nil {
		return err
	}
	if _, err := f.WriteAt(p, blocks[i].off); err != nil {
		return err
	}
	return f.Sync()
}

func tailBlocks(sc *scanner) (blocks []tailBlock) {
	for sc.next() {
		b := tailBlock{block: sc.block, end: sc.off, off: sc.off - int64(padded(sc.block.length)), skipped: sc.skipped}
		b.cursors = slices.Clone(b.cursors)
		b.mask = sc.block.names()
		b.body = nil
		blocks = append(blocks, b)
	}
	return blocks
}

// durable returns how many of the blocks count, and the bytes of damage
// between them. A hole before a block of a later commit is damage, since that
// commit began when all before was synced. Any other hole is the torn last
// commit, which nobody was told about: with it the log ends.
func durable(blocks []tailBlock) (n int, damaged int64) {
	expect := uint32(0)
	for i, b := range blocks {
		if b.no < expect {
			return i, damaged
		}
		if b.no > expect {
			later := slices.ContainsFunc(blocks[i:], func(b tailBlock) bool { return b.group > expect })
			if !later {
				return i, damaged
			}
			damaged += b.skipped
		}
		expect = b.no + 1
	}
	return len(blocks), damaged
}

// positions takes the cursors of the segments before the newest, back to the
// one that begins with a table of all.
func (r *recovery) positions(found []*candidate) {
	for i := len(found) - 1; i >= 0; i-- {
		table := false
		r.scan(found[i], found[i].last, func(b *block) {
			table = table || b.table
			r.block(b)
		})
		if table {
			return
		}
	}
}
