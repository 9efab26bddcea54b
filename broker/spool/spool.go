// Package spool is the durable log of one class of messages: what someone must
// get later is stored here once, and each consumer (a bridge, a persistent
// session) reads and acknowledges it at its own pace.
//
// # Promises
//
// A record whose done was called with nil survives kill -9, unless the policy
// is Off. A power cut costs nothing under Always; under Interval at most what
// was appended during the last interval and one commit. A record leaves when
// all its consumers have acknowledged it. What the quota, damage or a full
// queue costs a consumer comes to it as a Gap, and survives restarts until it
// is acknowledged. A consumer gets its records in the order of their numbers;
// after a crash some that it acknowledged last may come again, under the same
// numbers. No number is given twice under one log id.
//
// # Decisions
//
// The log is written here because no library offers checksums, a torn tail
// that is simply the end, skipping of damage in the middle, many cursors,
// dropping the oldest without rewriting, and writes that a memory card bears.
//
// A commit is a block, or some, at a multiple of 4 KiB in a segment file that
// was written with zeros before: such a write needs one flush and no journal.
// Segments that nobody needs are used again. The bytes are drawn in format.go.
//
// Cursors travel in the blocks, so no second file has to be synced, and a
// cursor is never ahead of the log that it belongs to.
//
// Under Interval a record is first written, not synced, to the tail ring, a
// file on a tmpfs that outlives the process; see ring.go. A commit is due when
// the oldest record that someone still waits for is an interval old. While the
// far side acknowledges sooner nothing is ever written to the card.
//
// After a failed sync the kernel may show data that the medium never got. So
// what failed is written again from memory to another file, and a process that
// finds blocks at Open syncs them before it counts on them.
//
// A record that no block can hold, more than 1 MiB, is a commit of its own,
// in parts, across segments if need be, and does not go through the ring; see
// large.go. It is read as a whole or lost as a whole.
//
// Compression (pack.go) is by block, so that damage still costs one, and leaves
// out headers and cursors, so that opening a log unpacks nothing. A log becomes
// one of format 2 when it first needs to, and stays it; until then an older
// program can take it over again.
//
// A Seq begins with an epoch that rises at each Open and is durable in META
// before the first record can be read. When META cannot be written or was
// lost, or says that another machine wrote it, the log gets a new id.
//
// # Goroutines
//
// Two per log: the front (front.go) owns the ring and tells publishers under
// Interval and Off, the committer (commit.go) owns the segments and tells the
// rest. All else is guarded by Log.mu, which is never held during I/O.
//
// # Limits
//
// A record has at most half the size of the log and 257 MiB. The queue in
// memory has 8 MiB or 20,000 records, and one large record beside; a log has 64
// consumers. With the medium failing only volatile records are taken, into that
// queue.
package spool

import (
	"errors"
	"log/slog"
	"time"
)

// A Seq numbers a record: epoch<<40 | counter. It rises strictly and is never
// used twice in one log, also across power cuts: the epoch rises at each Open
// and is durable before the first record of the epoch can be read.
type Seq uint64

// A Target is one consumer that is owed a record.
type Target struct {
	Consumer uint16   // Consumer.ID
	QoS      byte     // of the delivery
	SubIDs   []uint32 // MQTT 5 subscription identifiers to deliver with it
}

// A BootRef relates CLOCK_BOOTTIME of one boot to wall time, as known when the
// record was committed.
type BootRef struct {
	ID     [16]byte // boot id of the kernel
	Offset int64    // wall time in Unix nanoseconds = boot time + Offset
	Synced bool     // wall time was synchronised
	At     int64    // boot time at which that was so, ns; 0: not known
}

// A Gap stands for records that are lost. Count of the sequence numbers First
// to Last were owed to this consumer and are lost; others in the range may have
// been delivered. After damage Count is the most that it can be, and 0 when
// even that is not known.
type Gap struct {
	First, Last Seq
	Count       uint64
	Reason      string // one of the Reason constants
}

// Why records are lost.
const (
	ReasonQuota     = "quota"      // the oldest segment made room for new records
	ReasonDamage    = "damage"     // the medium returned something else than was written
	ReasonQueueFull = "queue full" // see Log.Drop
	ReasonPurged    = "purged"     // see Consumer.Purge
)

// A Record is one message as the log keeps it.
type Record struct {
	Seq   Seq   // given by the log; set when read
	Stamp int64 // CLOCK_BOOTTIME, nanoseconds
	Boot  BootRef
	// Targets are the consumers it is owed to. A Reader sets only its own,
	// valid until the next call of Next.
	Targets []Target
	Data    []byte // opaque
	// Volatile records are those of the gateway itself: with the disk failing
	// they are kept in memory where others are refused with ErrDegraded.
	Volatile bool
	// Urgent records are brought to the medium before done is called, whatever
	// the policy.
	Urgent bool
	// Gap is set when this is no record but a hole; then Seq is Gap.Last, and
	// acknowledging it says that the hole was reported.
	Gap *Gap
}

// A SyncMode says when an appended record counts as safe.
type SyncMode uint8

const (
	// Interval: the record is in the tail ring, which survives kill -9; a
	// power cut loses at most Policy.Every and one commit.
	Interval SyncMode = iota
	// Always: the record is on the medium.
	Always
	// Off: the record is in memory.
	Off
)

// A Policy is a SyncMode with its interval.
type Policy struct {
	Mode  SyncMode
	Every time.Duration // of Interval; 0 means 5 s
}

// A Config says where and how a log is kept. Zero fields have defaults.
type Config struct {
	Dir     string // the log's own folder, made when missing
	RingDir string // folder of the tail ring, best on a tmpfs kept over restarts; "" means Dir
	Name    string // of the class: names the ring file and the log lines
	Size    int64  // bound of the segment files, bytes; 0 means 256 MiB
	Segment int64  // bytes in one segment; 0 means 4 MiB
	Reserve int64  // bytes to leave free on the medium; 0 means 5 % but at least 64 MiB, below 0 none
	Sync    Policy
	// Compress packs the records of a block with zstd where that saves a page.
	// Programs that cannot read such blocks refuse the log from then on.
	Compress bool
	Machine  string // identity of this machine, "" when unknown
	FS       FS     // nil means the operating system's
	Log      *slog.Logger
	// Time returns CLOCK_BOOTTIME and wall time in nanoseconds and whether
	// wall time is synchronised; nil means time since Open, unsynchronised.
	Time   func() (boot, wall int64, synced bool)
	BootID [16]byte

	area int64 // of the ring, bytes; for tests
}

var (
	// ErrFull: the queue in memory is full; see Log.Room and Log.Drop.
	ErrFull = errors.New("spool queue in memory is full")
	// ErrDegraded: the medium fails and the record is not safe.
	ErrDegraded = errors.New("spool storage fails, nothing can be kept safe")
	// ErrTooLarge: the record does not fit into half of the log, or there is not
	// so much room left.
	ErrTooLarge = errors.New("record is too large for the spool")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("spool is closed")
	// ErrRemoved: the consumer was removed.
	ErrRemoved = errors.New("spool consumer was removed")
	// ErrLocked: another process has the log open.
	ErrLocked = errors.New("spool is in use by another process")
	// ErrNewer: the log was written by a newer version of this program.
	ErrNewer = errors.New("spool format is newer than this program")
)
