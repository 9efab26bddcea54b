package spool

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	defaultSize    = 256 << 20
	defaultSegment = 4 << 20
	minSegment     = 64 << 10
	defaultEvery   = 5 * time.Second
	ringArea       = 1 << 20
	maxRecord      = 1 << 20
	damagedMeta    = "META.damaged"
)

func (cfg *Config) setDefaults() error {
	if cfg.Size == 0 {
		cfg.Size = defaultSize
	}
	if cfg.Segment == 0 {
		cfg.Segment = defaultSegment
	}
	if cfg.Segment < minSegment || cfg.Segment%pageSize != 0 || cfg.Segment > 1<<30 {
		return fmt.Errorf("spool segment size %d: it must be a multiple of %d from %d to 1 GiB", cfg.Segment, pageSize, minSegment)
	}
	cfg.Size = max(cfg.Size, 2*cfg.Segment) // one to write and one to drop
	if cfg.Sync.Every <= 0 {
		cfg.Sync.Every = defaultEvery
	}
	if cfg.RingDir == "" {
		cfg.RingDir = cfg.Dir
	}
	if cfg.Name == "" {
		cfg.Name = "spool"
	}
	if cfg.FS == nil {
		cfg.FS = osFS{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Time == nil {
		start := time.Now()
		cfg.Time = func() (int64, int64, bool) { return int64(time.Since(start)), time.Now().UnixNano(), false }
	}
	if cfg.area == 0 {
		cfg.area = ringArea
	}
	return nil
}

// Open opens a log and starts its two goroutines; Close ends them. It fails
// only when another process has the log (ErrLocked), when a newer version of
// this program wrote it (ErrNewer), or when the folder cannot be made. Damage
// costs what it hit, and a medium that cannot be written makes a log that
// keeps the gateway's own records in memory.
func Open(cfg Config) (*Log, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	l := newLog(cfg)
	var err error
	if l.dir, err = cfg.FS.Dir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open spool %s: %w", cfg.Name, err)
	}
	if err := l.open(); err != nil {
		l.release()
		return nil, fmt.Errorf("open spool %s in %s: %w", cfg.Name, cfg.Dir, err)
	}
	l.loops.Go(l.commitLoop)
	l.loops.Go(l.frontLoop)
	return l, nil
}

// newLog returns a log that knows its bounds only.
func newLog(cfg Config) *Log {
	l := &Log{
		cfg: cfg, start: time.Now(),
		log:     cfg.Log.With("spool", cfg.Name),
		decoder: sync.OnceValue(newDecoder),
		kick:    make(chan struct{}, 1), frontKick: make(chan struct{}, 1), turns: make(chan struct{}),
	}
	room := int(cfg.Segment) - pageSize - 2*cursorRoom
	l.recordMax = min(maxRecord, room-2*pageSize)
	l.groupMax = min(maxRecord/2, room/2)
	l.largest = max(l.recordMax, largestBody(&cfg))
	return l
}

func (l *Log) open() (err error) {
	if l.lock, err = l.dir.Lock(lockFile); errors.Is(err, ErrLocked) {
		return fmt.Errorf("%w: stop the other gateway first", ErrLocked)
	} else if err != nil {
		l.log.Warn("spool folder cannot be locked", "err", err)
	}
	m, err := readMeta(l.dir)
	if err == nil {
		var names []string
		if names, err = listed(l.dir); err == nil {
			err = l.recover(m, names)
		} else if err = fmt.Errorf("%w: %w", errUnlisted, err); !l.looking {
			l.goWithout(m, err)
			err = nil
		}
	}
	if errors.Is(err, ErrNewer) {
		return fmt.Errorf("%w: install the version that wrote it again, or move the folder away to start an empty one", err)
	}
	return err
}

// errUnlisted is why a log leaves its folder alone.
var errUnlisted = errors.New("its folder cannot be read, so that nobody knows what is in it: nothing there is touched, and it is not used until the gateway is started again")

// listed lists the files of a folder. An error may be one of the moment.
func listed(d Dir) (names []string, err error) {
	for range readTries {
		if names, err = d.List(); err == nil {
			return names, nil
		}
		time.Sleep(openPause)
	}
	return nil, err
}

// goWithout makes a log that keeps the gateway's own records in memory and
// never writes: into files that are there and that it does not know it might
// write over what consumers are owed, and move positions past it. What is there
// is found again when the folder can be read.
func (l *Log) goWithout(m *meta, err error) {
	l.unlisted = true
	l.id = newID()
	l.ring.broken = true
	l.format = firstFormat
	if m != nil {
		l.epoch = Seq(m.Epoch)
	}
	l.epoch++
	l.last = l.epoch << counterBits
	l.fronted = l.last
	l.restoreConsumers(m, &recovery{l: l})
	l.degrade(err)
}

// recover rebuilds the state of the log from META, segments and ring.
func (l *Log) recover(m *meta, names []string) error {
	fresh := l.identify(m)
	l.ringID = l.id
	if !fresh {
		l.ringID = cmp.Or(m.Ring, m.Log)
	}
	rec := recovery{l: l, cursors: make(map[uint16]*found), born: make(map[uint16]Seq)}
	if m != nil {
		for _, c := range m.Consumers {
			rec.born[c.ID] = c.Born
		}
	}
	if err := rec.segments(m, names); err != nil {
		return err
	}
	var ring ringState
	l.ring = ring0(l)
	if l.ring.f != nil {
		ring = l.ring.read()
		rec.table(&ring)
	}
	l.epoch = max(rec.top>>counterBits, ring.epoch)
	if m != nil {
		l.epoch = max(l.epoch, Seq(m.Epoch))
	}
	l.epoch++
	l.last = l.epoch << counterBits
	l.fronted = l.last
	l.restoreConsumers(m, &rec)
	if m == nil && len(l.segs) > 0 {
		l.orphans = &Gap{First: l.segs[0].after + 1, Last: l.covered, Reason: ReasonDamage}
	}
	if l.looking {
		l.replay(&rec, &ring)
		return nil
	}
	l.meta.Lock()
	err := l.saveMeta()
	l.meta.Unlock()
	if err != nil && !fresh { // numbers of this epoch may have been given already
		l.id = newID() // the ring stays under the old one, which is what META says until it can be written
		l.card.close()
		l.card.active = nil // its blocks are under the old one, too
	}
	l.makeCursorFile()
	l.replay(&rec, &ring)
	l.beginRing(&ring)
	return nil
}

// identify sets the log id and tells whether it is new. A log that META says
// belongs to another machine is on a cloned card: both would give the same
// ids to different messages.
func (l *Log) identify(m *meta) (fresh bool) {
	l.format = firstFormat
	if m != nil {
		l.format = max(l.format, m.Format)
	}
	switch {
	case m == nil:
		l.id = newID()
		if exists(l.dir, metaFile) {
			l.log.Error("spool META is damaged: the log goes on under a new id and its consumers begin anew")
			_ = l.dir.Rename(metaFile, damagedMeta)
		}
		return true
	case m.Machine != "" && l.cfg.Machine != "" && m.Machine != l.cfg.Machine:
		l.id = newID()
		l.log.Warn("spool comes from another machine, a cloned card most likely: the log goes on under a new id", "id", l.ID())
		return true
	}
	l.id = m.Log
	if l.cfg.Machine == "" {
		l.cfg.Machine = m.Machine
	}
	return false
}

func newID() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// ring0 opens the ring file; a ring that cannot be opened has no file.
func ring0(l *Log) ring {
	r := ring{logID: l.ringID, area: l.cfg.area}
	d, err := l.cfg.FS.Dir(l.cfg.RingDir)
	if err == nil {
		r.f, err = openRing(d, l.cfg.Name+".ring")
		d.Close()
	}
	if err != nil {
		l.log.Warn("tail ring cannot be opened: each record is committed at once", "err", err)
		r.broken = true
		l.stats.RingFailed = l.cfg.Sync.Mode == Interval
	}
	return r
}

// read decodes what an earlier run left in the file.
func (r *ring) read() ringState {
	p, _ := io.ReadAll(io.NewSectionReader(r.f, 0, areaStart+2*r.area)) // what cannot be read does not verify
	return parseRing(p, r.logID, r.area)
}

// restoreConsumers makes the consumers of META with the newest position that
// segments or ring know.
func (l *Log) restoreConsumers(m *meta, rec *recovery) {
	if m == nil {
		return
	}
	for _, mc := range m.Consumers {
		c := &Consumer{l: l, name: mc.Name, id: mc.ID, born: mc.Born, savedTo: mc.Born}
		c.acked.upto = mc.Born
		if f := rec.cursors[mc.ID]; f != nil {
			f.apply(c)
		}
		for _, s := range l.segs {
			if s.mask&c.bit() != 0 {
				c.lastOwed, c.written = s.last, s.last
			}
		}
		if c.idleLocked() {
			c.records, c.bytes = 0, 0
		}
		l.consumers[mc.ID] = c
	}
}

// replay appends the ring's records that are not on the medium again, under
// their old numbers, and commits them.
func (l *Log) replay(rec *recovery, ring *ringState) {
	var boot *BootRef
	if ring.boot.ID != l.cfg.BootID {
		boot = &ring.boot
	}
	counts := make(map[*Consumer]cursor)
	l.mu.Lock()
	for _, s := range ring.entries {
		if s.seq <= l.covered || s.seq > l.last || len(l.tail) > 0 && s.seq <= l.tail[len(l.tail)-1].seq {
			continue
		}
		e := &entry{stored: s, boot: boot, told: true}
		l.eachLocked(owedMask(s.body), func(c *Consumer) {
			if c.acked.contains(s.seq) {
				return
			}
			if _, ok := counts[c]; !ok {
				counts[c] = cursor{records: c.records, bytes: c.bytes}
			}
			if n := counts[c]; s.seq > rec.asOf(c.id) {
				counts[c] = cursor{records: n.records + 1, bytes: n.bytes + int64(len(s.body))}
			}
			e.owed |= c.bit()
		})
		if e.owed != 0 {
			l.pushLocked(e)
		}
	}
	for c, n := range counts {
		c.records, c.bytes = n.records, n.bytes
	}
	l.mu.Unlock()
	for len(l.tail) > 0 && !l.degraded && !l.looking {
		l.commit()
	}
}

// beginRing puts a new area in use, so that no entry of an earlier run can
// follow those of this one.
func (l *Log) beginRing(s *ringState) {
	l.ring.gen, l.ring.table = s.gen, s.table
	if l.ring.f == nil {
		return
	}
	if err := l.changeArea(); err != nil {
		l.breakRing(err)
	}
}

// A recovery collects what the segments tell.
type recovery struct {
	l       *Log
	top     Seq // highest number seen
	epoch   Seq // of the life before this one
	cursors map[uint16]*found
	born    map[uint16]Seq // of the consumers
}

// A found is the newest stored state of a consumer.
type found struct {
	cursor
	asOf   Seq
	onCard *cursor // newest in a segment; nil: only in the ring
}

// wants tells whether a stored state as of n replaces what is known of its
// consumer. An earlier owner of the id was made at another number.
func (r *recovery) wants(c *cursor, n Seq) bool {
	born, ok := r.born[c.consumer]
	f := r.cursors[c.consumer]
	return ok && c.born == born && (f == nil || c.version > f.version || c.version == f.version && n >= f.asOf)
}

func (f *found) apply(c *Consumer) {
	c.restore(&f.cursor)
	c.saved, c.savedTo, c.gapsNew = 0, c.born, len(f.gaps) > 0
	if f.onCard != nil {
		c.saved, c.savedTo = f.onCard.version, max(f.onCard.acked.upto, c.born)
		c.gapsNew = f.version != f.onCard.version
	}
}

func (r *recovery) asOf(id uint16) Seq {
	if f := r.cursors[id]; f != nil {
		return f.asOf
	}
	return 0
}

// table takes the cursors of the ring.
func (r *recovery) table(s *ringState) {
	for _, c := range s.cursors {
		if !r.wants(&c, s.asOf) {
			continue
		}
		n := &found{cursor: c, asOf: s.asOf}
		if f := r.cursors[c.consumer]; f != nil {
			n.onCard = f.onCard
		}
		r.cursors[c.consumer] = n
	}
	for _, e := range s.entries {
		r.top = max(r.top, e.seq)
	}
}

// block takes the cursors of a block.
func (r *recovery) block(b *block) {
	r.top = max(r.top, b.last)
	for _, c := range b.cursors {
		if r.wants(&c, b.last) {
			r.cursors[c.consumer] = &found{cursor: c, asOf: b.last, onCard: &c}
		}
	}
}
