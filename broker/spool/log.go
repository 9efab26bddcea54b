package spool

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"io"
	"log/slog"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	queueRecords  = 20000
	queueBytes    = 8 << 20
	entryOverhead = 128 // bytes that a record costs in memory beside its body

	groupWindow    = 2 * time.Millisecond // how long a commit under Always waits for company
	cursorInterval = 5 * time.Second      // between blocks that hold cursors only
	retryInterval  = time.Minute          // between attempts on a failing medium
	unackedBytes   = 64 << 10             // of unacknowledged tail that start a commit
)

// A Log is one class's durable log. All methods may be called at once.
type Log struct {
	cfg   Config
	log   *slog.Logger
	dir   Dir
	lock  io.Closer // nil when the medium does not even take a lock file
	start time.Time
	id    uint64
	// ringID is what the ring is written under: that of the log, or the one
	// it had before.
	ringID uint64
	epoch  Seq // highest bits of the numbers given since Open
	// format is the version that the log needs; only the committer raises it,
	// under mu.
	format int

	// Bounds that follow from Config.Segment, bytes.
	groupMax  int // of the bodies in one commit
	recordMax int // of one body in a block
	largest   int // of one body

	meta      sync.Mutex  // held while META is written; taken before mu
	metaStale atomic.Bool // META on the medium is not as it should be
	decoder   func() *zstd.Decoder
	card      card // what only the committer uses
	ring      ring // what only the front uses

	mu        sync.Mutex
	last      Seq      // last number given
	fronted   Seq      // up to here the front is through: told as safe, or left to the committer
	covered   Seq      // up to here blocks on the medium cover all
	tail      []*entry // what is neither on the medium nor acknowledged by all, in order
	tailBytes int      // of all the tail
	large     int      // of these, the bytes of the one large record that there may be
	unacked   int      // weight of the tail's records that someone is still owed
	untold    int      // records up to fronted whose done waits for the committer
	consumers [maxConsumers]*Consumer
	orphans   *Gap       // what consumers lost that nobody knows the names of any more
	segs      []*segment // oldest first; the last one may be active
	spares    []string   // pre-written files, unused
	ringFull  bool       // the front waits for a commit
	syncs     []syncWaiter
	news      chan struct{} // closed when readers should look again; nil: none waits
	room      chan struct{} // closed when the queue has room; nil: nobody asked
	looking   bool          // opened by Look
	unlisted  bool          // the folder could not be read, so that it is left alone
	closing   bool
	frontDone bool
	degraded  bool
	lastTry   bool  // the commit of a failing medium at Close was tried
	retryAt   int64 // when degraded
	savedAt   int64 // when cursors were last written to the medium
	stats     Stats

	kick      chan struct{} // wakes the committer
	frontKick chan struct{} // wakes the front
	turns     chan struct{} // without room: taken each time the committer comes round
	loops     sync.WaitGroup
}

// An entry is a record in the tail. What is not marked stays as appended.
type entry struct {
	stored
	at   int64       // when appended, ns since Open
	boot *BootRef    // of an earlier boot; nil: this one
	owed uint64      // bit set of the consumers still owed it; guarded by mu
	done func(error) // nil: nobody asked
	told bool        // done was called; guarded by mu

	urgent bool // is to be on the medium before done
}

func (e *entry) size() int { return len(e.body) + entryOverhead }

// weight is about what it adds to a commit and to the ring.
func (e *entry) weight() int { return len(e.body) + ringEntry }

type syncWaiter struct {
	upto Seq
	done chan error // of capacity 1
}

// ID names the log in message ids: 13 characters of base32. It never names
// two logs.
func (l *Log) ID() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], l.id)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// Last returns the last number given.
func (l *Log) Last() Seq {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// now returns nanoseconds since Open, by the clock that timers follow.
func (l *Log) now() int64 { return int64(time.Since(l.start)) }

// Append takes a record over and never waits. It copies Data and Targets.
// Targets of consumers that do not exist are left out.
//
// done, unless nil, is called once from a goroutine of the log, in the order
// of Append, and must not block: with nil when the record is safe under the
// log's policy or acknowledged by all it is owed to, with ErrDegraded when the
// medium fails; it may still be delivered then. When Append returns an error
// done is not called and nothing was kept; else it returns the record's number.
func (l *Log) Append(rec Record, done func(error)) (Seq, error) {
	if len(rec.Data) > l.largest {
		return 0, ErrTooLarge
	}
	body := appendBody(make([]byte, 0, len(rec.Data)+16*len(rec.Targets)+8), rec.Targets, rec.Data)
	if len(body) > l.largest {
		return 0, ErrTooLarge
	}
	e := &entry{stored: stored{stamp: rec.Stamp, body: body}, done: done, urgent: rec.Urgent || l.isLarge(len(body))}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.looking:
		return 0, ErrLookOnly
	case l.closing:
		return 0, ErrClosed
	case l.degraded && !rec.Volatile:
		return 0, ErrDegraded
	case l.fullLocked(e.size()):
		return 0, ErrFull
	}
	l.last++
	e.seq, e.at = l.last, l.now()
	for _, t := range rec.Targets {
		if t.Consumer < maxConsumers && l.consumers[t.Consumer] != nil {
			e.owed |= 1 << t.Consumer
		}
	}
	l.pushLocked(e)
	wake(l.frontKick)
	return e.seq, nil
}

// BootID is that of the boot which the log was opened in.
func (l *Log) BootID() [16]byte { return l.cfg.BootID }

// Full says whether a record of that many bytes would be refused with ErrFull.
func (l *Log) Full(size int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fullLocked(size + entryOverhead)
}

// fullLocked tells whether a record that costs so much has to wait. One large
// record may be there beside the others, whatever its size.
func (l *Log) fullLocked(cost int) bool {
	if l.isLarge(cost - entryOverhead) {
		return len(l.tail) >= queueRecords || l.large > 0
	}
	return len(l.tail) >= queueRecords || l.tailBytes-l.large+cost > queueBytes
}

// Policy is the one that the log was opened with.
func (l *Log) Policy() Policy { return l.cfg.Sync }

// pushLocked puts e at the end of the tail and on the account of those it is
// owed to.
func (l *Log) pushLocked(e *entry) {
	l.tail = append(l.tail, e)
	l.tailBytes += e.size()
	if l.isLarge(len(e.body)) {
		l.large = e.size()
	}
	if e.owed != 0 {
		l.unacked += e.weight()
	}
	for m := e.owed; m != 0; m &= m - 1 {
		l.consumers[bits.TrailingZeros64(m)].oweLocked(e.seq, len(e.body))
	}
	l.newsLocked()
}

// Drop records that rec could not be appended: each of its targets gets a gap
// of one, with those that follow before it is reported.
func (l *Log) Drop(rec Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	for _, t := range rec.Targets {
		if t.Consumer < maxConsumers && l.consumers[t.Consumer] != nil {
			l.consumers[t.Consumer].loseLocked(Gap{l.last, l.last, 1, ReasonQueueFull})
		}
	}
	wake(l.frontKick)
}

var ready = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Room returns a channel that is closed when Append may be tried again after
// ErrFull.
func (l *Log) Room() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.roomyLocked() || l.closing {
		return ready
	}
	if l.room == nil {
		l.room = make(chan struct{})
	}
	return l.room
}

// roomyLocked leaves an eighth of the queue free, so that those who wait are
// not woken for each record.
func (l *Log) roomyLocked() bool {
	return len(l.tail) < queueRecords/8*7 && l.tailBytes < queueBytes/8*7 && l.large == 0
}

// Sync returns when all that was appended is on the medium or acknowledged.
func (l *Log) Sync(ctx context.Context) error {
	l.mu.Lock()
	if l.settledLocked() >= l.last || l.looking {
		l.mu.Unlock()
		return nil
	}
	w := syncWaiter{l.last, make(chan error, 1)}
	l.syncs = append(l.syncs, w)
	l.mu.Unlock()
	wake(l.frontKick)
	wake(l.kick)
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close commits what is unacknowledged and ends the log. Readers return
// ErrClosed. The error is that of the commit: what then is not on the medium
// still is in the ring, unless the policy is Off.
func (l *Log) Close() error {
	l.mu.Lock()
	first := !l.closing
	l.closing = true
	l.newsLocked()
	l.roomLocked(true)
	l.mu.Unlock()
	if !first {
		return nil
	}
	wake(l.frontKick)
	l.loops.Wait()
	l.mu.Lock()
	degraded := l.degraded
	l.mu.Unlock()
	l.release()
	if degraded {
		return ErrDegraded
	}
	return nil
}

// release gives back what Open took. Its errors say nothing about records.
func (l *Log) release() {
	l.card.close()
	l.ring.close()
	if l.lock != nil {
		l.lock.Close()
	}
	l.dir.Close()
}

// wake makes the loop that waits on c look again. A full channel means that
// it will anyway.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// newsLocked makes the readers look again.
func (l *Log) newsLocked() {
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}

func (l *Log) roomLocked(force bool) {
	if l.room != nil && (force || l.roomyLocked()) {
		close(l.room)
		l.room = nil
	}
}

// settledLocked returns the number up to which all is on the medium or
// acknowledged by all.
func (l *Log) settledLocked() Seq {
	if len(l.tail) == 0 {
		return l.last
	}
	return l.tail[0].seq - 1
}

// afterLocked returns the part of the tail beyond n.
func (l *Log) afterLocked(n Seq) []*entry {
	i, _ := slices.BinarySearchFunc(l.tail, n+1, func(e *entry, n Seq) int {
		switch {
		case e.seq < n:
			return -1
		case e.seq > n:
			return 1
		}
		return 0
	})
	return l.tail[i:]
}

// popLocked takes the first n entries off the tail.
func (l *Log) popLocked(n int) {
	for i, e := range l.tail[:n] {
		l.tailBytes -= e.size()
		if l.isLarge(len(e.body)) {
			l.large = 0
		}
		if e.owed != 0 {
			l.unacked -= e.weight()
		}
		l.tail[i] = nil
	}
	l.tail = l.tail[n:]
	l.roomLocked(false)
}

// ackedLocked says that consumer id got the record n, wherever it is. It
// takes from the tail what all have got.
func (l *Log) ackedLocked(n Seq, bit uint64) {
	if t := l.afterLocked(n - 1); len(t) > 0 && t[0].seq == n {
		l.clearLocked(t[0], bit)
	}
	l.trimLocked()
}

func (l *Log) clearLocked(e *entry, bit uint64) {
	if e.owed&bit == 0 {
		return
	}
	if e.owed &^= bit; e.owed == 0 {
		l.unacked -= e.weight()
		l.stats.Elided++
	}
}

// trimLocked pops what all have got, so that the oldest entry always is one
// that someone waits for. Those whose done is still to be called stay.
func (l *Log) trimLocked() {
	n := 0
	for n < len(l.tail) && l.tail[n].owed == 0 && l.tail[n].told {
		n++
	}
	if n > 0 {
		l.popLocked(n)
	}
}

// timeRef returns the present time and how this boot relates to wall time.
func (l *Log) timeRef() timeRef {
	boot, wall, synced := l.cfg.Time()
	return timeRef{BootRef{l.cfg.BootID, wall - boot, synced, boot}, boot}
}

// Stats are the figures of a log. Counters count since Open.
type Stats struct {
	Last    Seq    `json:"last"`    // last number given
	Durable Seq    `json:"durable"` // up to here all is on the medium or acknowledged
	State   string `json:"state"`   // "ok" or "degraded"

	Queued      int           `json:"queued"`       // records in memory
	QueuedBytes int           `json:"queued_bytes"` // bytes they cost
	Unsynced    time.Duration `json:"unsynced_ns"`  // age of the oldest record that a power cut would lose

	Commits      uint64            `json:"commits"`       // groups of blocks written
	Syncs        uint64            `json:"syncs"`         // of files of the log; not of the ring
	BytesWritten uint64            `json:"bytes_written"` // to the medium, with padding and pre-writing
	Elided       uint64            `json:"elided"`        // records acknowledged before they had to be written
	DamagedBytes uint64            `json:"damaged_bytes"` // skipped
	IOErrors     uint64            `json:"io_errors"`
	Dropped      map[string]uint64 `json:"dropped"` // records lost by reason, once per consumer
	Segments     int               `json:"segments"`
	Bytes        int64             `json:"bytes"`   // of all files of the log
	Size         int64             `json:"size"`    // their bound
	LargestBytes int               `json:"largest"` // of one record
	Spares       int               `json:"spares"`
	RingFailed   bool              `json:"ring_failed"` // the ring cannot be written: each record is committed at once
	Consumers    []ConsumerStats   `json:"consumers"`
}

// ConsumerStats are the figures of one consumer.
type ConsumerStats struct {
	Name    string `json:"name"`
	Acked   Seq    `json:"acked"`
	Records uint64 `json:"records"` // owed and not acknowledged
	Bytes   int64  `json:"bytes"`
}

// Stats returns the present figures.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Last, s.Durable, s.State = l.last, l.settledLocked(), "ok"
	if l.degraded {
		s.State = "degraded"
	}
	s.Queued, s.QueuedBytes = len(l.tail), l.tailBytes
	if len(l.tail) > 0 {
		s.Unsynced = time.Duration(l.now() - l.tail[0].at)
	}
	s.Segments, s.Spares = len(l.segs), len(l.spares)
	s.Bytes, s.Size, s.LargestBytes = int64(len(l.spares))*l.cfg.Segment, l.cfg.Size, l.largest
	for _, seg := range l.segs {
		s.Bytes += seg.size
	}
	s.Dropped = make(map[string]uint64, len(l.stats.Dropped))
	for reason, n := range l.stats.Dropped {
		s.Dropped[reason] = n
	}
	for _, c := range l.consumers {
		if c != nil {
			s.Consumers = append(s.Consumers, ConsumerStats{c.name, c.ackedLocked(), c.records, c.bytes})
		}
	}
	return s
}
