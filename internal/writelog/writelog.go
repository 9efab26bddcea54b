// Package writelog remembers what was to be written to devices and what became
// of it, so that a write is never done twice and always answered: the intent
// is on the medium before a bus is touched, an id that was used is known again
// after a crash, and who wrote what can be looked up later.
//
// # Promises
//
// An Entry that Take returned nil for survives kill -9 and, unless Config.NoSync,
// a power cut. After either, Open returns it among the Open ones, or with its
// outcome: Finish survives kill -9 at once and a power cut a second later. What
// was taken and not finished may have been done; nobody but the one who asked
// can decide to do it again.
//
// The log keeps the last Keep entries and at most keepBytes of them, but never
// drops one that is not finished. It takes 2 × Size on the medium from the
// first start on, and no more: with the disk full it goes on.
//
// # Why not the spool
//
// The spool keeps messages until their receivers have acknowledged them, and
// drops the oldest when it is full. Here nobody acknowledges, entries are looked
// up by id, and one that is still open may never be dropped. Its policy, too,
// may be "off" for messages, which must not allow a write to be repeated.
//
// # The files
//
// Two files of fixed length, written with zeros when they are made, so that
// appending needs one flush and no room. Frames begin at multiples of 4 KiB and
// are filled up to the next, so that a torn write spoils nothing that was safe:
//
//	magic u32 | length u32 | crc32c u32 | 0 u32 | generation u64 | number u64 | length bytes of JSON
//
// Numbers are little endian; the checksum is that of all that follows it. A
// generation begins with frames that hold all entries there are. When a file
// is full the next generation is written to the other one and synced, and only
// then counts. Open takes the newest generation whose beginning is whole; a
// frame that is damaged is skipped, and one of another generation is a remnant.
//
// Frames are JSON because a person may have to read them, and entries come at
// the pace of people and controllers.
//
// After a failed sync the kernel may show data that the medium never got, so a
// file is given up then and the next generation written to the other one. If
// that fails, too, Take returns the error, and the next Take tries again.
package writelog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"edgegateway/broker/spool"
)

const (
	// Keep is how many entries are kept.
	Keep = 1000
	// MaxEntry is the longest entry in bytes of JSON.
	MaxEntry = 16 << 10

	keepBytes   = 512 << 10
	defaultSize = 1 << 20
	flushEvery  = time.Second
)

// ErrTooLong is returned for an entry of more than MaxEntry.
var ErrTooLong = errors.New("too long to be logged")

// A Moment is when something happened.
type Moment struct {
	Boot  string    `json:"boot"`  // the kernel's id of the boot
	Stamp int64     `json:"stamp"` // CLOCK_BOOTTIME in it, nanoseconds
	Wall  time.Time `json:"time"`  // as the gateway knew it
	Exact bool      `json:"exact"` // Wall was synchronised
}

// Since returns the time from m to now, false if that is not known: there was
// a reboot in between, and the clock was not synchronised on both sides of it.
func (m Moment) Since(now Moment) (time.Duration, bool) {
	switch {
	case m.Boot == now.Boot:
		return time.Duration(now.Stamp - m.Stamp), true
	case m.Exact && now.Exact:
		return now.Wall.Sub(m.Wall), true
	}
	return 0, false
}

// An Entry is one command: one write, or several of one device that belong
// together. Its Seq rises by one from entry to entry.
type Entry struct {
	Seq         uint64  `json:"seq"`
	At          Moment  `json:"at"` // when it was taken
	By          string  `json:"by"` // who: "anonymous", "bridge:aws", "uid 1000", "on_loss"
	Client      string  `json:"client,omitempty"`
	ID          string  `json:"id,omitempty"`    // that the sender gave it
	Scope       string  `json:"scope,omitempty"` // within which IDs are told apart
	Device      string  `json:"device"`          // table key
	Reply       string  `json:"reply,omitempty"` // topic of the answer, "" for nobody
	Correlation []byte  `json:"correlation,omitempty"`
	Writes      []Write `json:"writes"`

	Outcome      // without a State until it is finished
	Told    bool `json:"told,omitempty"` // the answer was published
}

// A Write is the part of an entry that tells of one point. Values are JSON.
type Write struct {
	Point  string          `json:"point"`
	Value  json.RawMessage `json:"value"` // what it was to be
	Old    json.RawMessage `json:"old,omitempty"`
	New    json.RawMessage `json:"new,omitempty"` // what it is
	State  string          `json:"state,omitempty"`
	Reason string          `json:"reason,omitempty"`
}

// An Outcome is what became of an entry.
type Outcome struct {
	State  string `json:"state,omitempty"` // "": it is not finished
	Reason string `json:"reason,omitempty"`
	Done   Moment `json:"done,omitzero"`
}

// Config says where a log lies.
type Config struct {
	FS     spool.FS // nil: the operating system's
	Dir    string
	Size   int64         // of each of its two files, bytes; 0: 1 MiB
	NoSync bool          // Take does not wait for the medium: a power cut may forget it
	Age    time.Duration // for how long an ID counts as used; 0: as long as its entry is kept
	Now    func() Moment
	Log    *slog.Logger
}

// A Log is open in one process only. Its methods may be called at once.
type Log struct {
	cfg  Config
	log  *slog.Logger
	dir  spool.Dir
	size int64

	mu      sync.Mutex
	entries []*Entry // by Seq
	sizes   map[uint64]int
	bytes   int               // all of sizes
	ids     map[string]*Entry // the latest by Scope and ID
	seq     uint64            // the last given
	told    []uint64          // not yet in the file
	card    card
	trouble error // why the last Take failed; nil: it did not
}

// A record is the contents of a frame.
type record struct {
	Version  int        `json:"version,omitempty"`  // of the format, in the first of a generation
	Snapshot int        `json:"snapshot,omitempty"` // how many frames the generation begins with, likewise
	Last     uint64     `json:"last,omitempty"`     // Seq given last, likewise
	Taken    []*Entry   `json:"taken,omitempty"`    // new, or as it is now
	Finished []finished `json:"finished,omitempty"`
	Told     []uint64   `json:"told,omitempty"`
}

type finished struct {
	Seq    uint64  `json:"seq"`
	Writes []Write `json:"writes"`
	Outcome
}

// Open reads what there is. It fails only if the folder cannot be had; files
// that are missing or cannot be read are logged, and tried again by Take.
func Open(cfg Config) (*Log, error) {
	if cfg.FS == nil {
		cfg.FS = spool.OS()
	}
	l := &Log{
		cfg: cfg, log: cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)), size: cmp.Or(cfg.Size, defaultSize),
		sizes: map[uint64]int{}, ids: map[string]*Entry{},
	}
	dir, err := cfg.FS.Dir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open the log of writes: %w", err)
	}
	l.dir = dir
	found, err := readFiles(dir)
	if err != nil {
		l.log.Error("the log of writes cannot be read: ids used before are not known, and what was under way is not answered", "path", cfg.Dir, "err", err)
	}
	if found.damaged > 0 {
		l.log.Warn("damaged parts of the log of writes are skipped", "path", cfg.Dir, "n", found.damaged)
	}
	l.card = card{dir: dir, size: l.size, generation: found.highest, at: found.file}
	l.seq = found.seq
	for _, e := range found.entries {
		l.addLocked(e)
	}
	// Frames that were written and not synced may not be on the medium, and
	// the old file may end in a torn one: begin a generation.
	err = l.switchLocked()
	if err == nil {
		err = l.card.reserve()
	}
	if err != nil {
		l.card.drop()
		l.trouble = err
		l.log.Error("writes to devices are refused until they can be logged", "err", err)
	}
	return l, nil
}

// Read returns the entries in a folder, oldest first, without changing
// anything: for those who look at what a gateway did that does not run.
func Read(path string) ([]Entry, error) {
	dir, err := spool.OS().Dir(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	found, err := readFiles(dir)
	entries := make([]Entry, len(found.entries))
	for i, e := range found.entries {
		entries[i] = *e
	}
	return entries, err
}

// Fits returns why an entry cannot be taken, nil if it can.
func Fits(e *Entry) error {
	text, err := json.Marshal(e)
	if err == nil && len(text) > MaxEntry {
		err = fmt.Errorf("%w: %d bytes, the most is %d", ErrTooLong, len(text), MaxEntry)
	}
	return err
}

func idKey(scope, id string) string { return scope + "\x00" + id }

// addLocked puts e into memory and lets the oldest go.
func (l *Log) addLocked(e *Entry) {
	l.entries = append(l.entries, e)
	l.measureLocked(e)
	if e.ID != "" {
		l.ids[idKey(e.Scope, e.ID)] = e
	}
	for i := 0; i < len(l.entries) && (len(l.entries) > Keep || l.bytes > keepBytes); {
		if l.entries[i].State == "" {
			i++
			continue
		}
		l.removeLocked(i)
	}
}

func (l *Log) measureLocked(e *Entry) int {
	text, _ := json.Marshal(e)
	l.bytes += len(text) - l.sizes[e.Seq]
	l.sizes[e.Seq] = len(text)
	return len(text)
}

func (l *Log) removeLocked(i int) {
	e := l.entries[i]
	l.entries = slices.Delete(l.entries, i, i+1)
	l.bytes -= l.sizes[e.Seq]
	delete(l.sizes, e.Seq)
	if key := idKey(e.Scope, e.ID); l.ids[key] == e {
		delete(l.ids, key)
	}
}

func (l *Log) findLocked(seq uint64) *Entry {
	i, ok := slices.BinarySearchFunc(l.entries, seq, func(e *Entry, seq uint64) int { return cmp.Compare(e.Seq, seq) })
	if !ok {
		return nil
	}
	return l.entries[i]
}

// Take logs entries and returns when they are safe. It gives them their Seq
// and At, and keeps copies. With an error nothing is taken.
func (l *Log) Take(entries ...*Entry) error {
	l.mu.Lock()
	now, seq := l.cfg.Now(), l.seq
	taken := make([]*Entry, len(entries))
	for i, e := range entries {
		l.seq++
		e.Seq, e.At = l.seq, now
		c := e.clone()
		taken[i] = &c
		if err := Fits(taken[i]); err != nil {
			l.seq = seq
			l.mu.Unlock()
			return err
		}
	}
	for _, e := range taken {
		l.addLocked(e)
	}
	err := l.appendLocked(&record{Taken: taken})
	file := l.card.file
	l.mu.Unlock()
	if err == nil && !l.cfg.NoSync {
		err = l.sync(file)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		if l.trouble != nil {
			l.log.Info("writes can be logged again")
		}
		l.trouble = nil
		return nil
	}
	for _, e := range taken {
		if i := slices.Index(l.entries, e); i >= 0 {
			l.removeLocked(i)
		}
	}
	if l.trouble == nil {
		l.log.Error("writes to devices are refused until they can be logged", "err", err)
	}
	l.trouble = err
	return err
}

// sync makes file durable. If it cannot, all goes to the other one.
func (l *Log) sync(file spool.File) error {
	if file == nil {
		return errors.New("no file")
	}
	err := file.Sync()
	if err == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.card.file != nil && l.card.file != file {
		return nil // a generation began since, which was synced
	}
	l.card.drop()
	if other := l.switchLocked(); other != nil {
		return errors.Join(err, other)
	}
	l.log.Warn("a file of the log of writes failed; going on in the other one", "err", err)
	return nil
}

// Finish notes what became of an entry. It does not wait for the medium.
func (l *Log) Finish(seq uint64, writes []Write, state, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.findLocked(seq)
	if e == nil {
		return
	}
	e.Writes, e.Outcome = slices.Clone(writes), Outcome{state, reason, l.cfg.Now()}
	l.measureLocked(e)
	l.note(l.appendLocked(&record{Finished: []finished{{seq, e.Writes, e.Outcome}}}))
}

// note logs that something that nobody waits for was not written. It is in
// memory, and in the next generation.
func (l *Log) note(err error) {
	if err != nil && l.trouble == nil {
		l.trouble = err
		l.log.Error("the log of writes cannot be written", "err", err)
	}
}

// Told notes that the answer to an entry was published.
func (l *Log) Told(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.findLocked(seq); e != nil {
		e.Told = true
		l.told = append(l.told, seq)
	}
}

// Seen returns the entry whose ID was the same within the same scope.
func (l *Log) Seen(scope, id string) (Entry, bool) {
	if id == "" {
		return Entry{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.ids[idKey(scope, id)]
	if e == nil {
		return Entry{}, false
	}
	if age, known := e.At.Since(l.cfg.Now()); known && l.cfg.Age > 0 && age > l.cfg.Age && e.State != "" {
		return Entry{}, false
	}
	return e.clone(), true
}

// Unanswered returns the entries that are not finished, or whose answer was
// not told: those of the process before, if asked first.
func (l *Log) Unanswered() []Entry {
	return l.collect(0, func(e *Entry) bool { return e.State == "" || !e.Told })
}

// Last returns the last n entries, oldest first; all if n is 0.
func (l *Log) Last(n int) []Entry {
	return l.collect(n, func(*Entry) bool { return true })
}

// Latest returns the newest entry that writes to a point.
func (l *Log) Latest(device, point string) (Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range slices.Backward(l.entries) {
		if e.Device == device && slices.ContainsFunc(e.Writes, func(w Write) bool { return w.Point == point }) {
			return e.clone(), true
		}
	}
	return Entry{}, false
}

func (l *Log) collect(n int, want func(*Entry) bool) (list []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if want(e) {
			list = append(list, e.clone())
		}
	}
	if n > 0 && len(list) > n {
		list = list[len(list)-n:]
	}
	return list
}

func (e *Entry) clone() Entry {
	c := *e
	c.Writes = slices.Clone(e.Writes)
	return c
}

// Trouble returns why nothing can be logged, nil if it can.
func (l *Log) Trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trouble
}

// Run makes outcomes durable until ctx is done.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.Flush()
		case <-ctx.Done():
			return nil
		}
	}
}

// Flush makes durable what is not yet.
func (l *Log) Flush() {
	l.mu.Lock()
	if len(l.told) > 0 && l.card.file != nil {
		l.note(l.appendLocked(&record{}))
	}
	file, dirty := l.card.file, l.card.dirty
	l.card.dirty = false
	l.mu.Unlock()
	if dirty && file != nil && !l.cfg.NoSync {
		if err := l.sync(file); err != nil {
			l.mu.Lock()
			l.note(err)
			l.mu.Unlock()
		}
	}
}

// Close makes everything durable.
func (l *Log) Close() error {
	l.Flush()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.card.drop()
	return l.dir.Close()
}

// appendLocked writes a frame, with what there is to tell besides.
func (l *Log) appendLocked(r *record) error {
	r.Told, l.told = l.told, nil
	if l.card.file != nil {
		text, err := json.Marshal(r)
		if err == nil {
			err = l.card.append(text)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, errFull) {
			l.card.drop()
		}
	}
	return l.switchLocked() // memory has it already
}

// switchLocked begins a generation in the other file with all that is in
// memory, and syncs it.
func (l *Log) switchLocked() error {
	groups := l.groupsLocked()
	texts := make([][]byte, len(groups))
	for i, g := range groups {
		r := record{Taken: g}
		if i == 0 {
			r.Version, r.Snapshot, r.Last = version, len(groups), l.seq
		}
		text, err := json.Marshal(&r)
		if err != nil {
			return err
		}
		texts[i] = text
	}
	l.told = nil
	return l.card.begin(texts)
}

// groupsLocked cuts the entries into what goes into one frame; there is at
// least one group.
func (l *Log) groupsLocked() [][]*Entry {
	groups, bytes := [][]*Entry{nil}, 0
	for _, e := range l.entries {
		if bytes > frameFill {
			groups, bytes = append(groups, nil), 0
		}
		last := &groups[len(groups)-1]
		*last = append(*last, e)
		bytes += l.sizes[e.Seq]
	}
	return groups
}

// What a newer program wrote is put aside, not written over.
var errNewer = errors.New("a newer program wrote it")

// readFiles returns what the newest whole generation in dir has.
func readFiles(dir spool.Dir) (found contents, err error) {
	for i, name := range fileNames {
		data, rerr := readAll(dir, name)
		switch {
		case errors.Is(rerr, fs.ErrNotExist):
			continue
		case rerr != nil:
			err = errors.Join(err, fmt.Errorf("read %s: %w", name, rerr))
			continue
		}
		c, derr := decode(data)
		if errors.Is(derr, errNewer) {
			aside := name + ".newer"
			err = errors.Join(err, fmt.Errorf("%s, now %s: %w", name, aside, derr), dir.Rename(name, aside))
			continue
		}
		highest := max(found.highest, c.highest)
		if c.generation > found.generation {
			c.file = i
			found = c
		}
		found.highest = highest
	}
	return found, err
}
