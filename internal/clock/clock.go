// Package clock says what time it is, what time it was, and how far that can
// be trusted.
//
// A gateway without a clock battery starts with a wall time that may be
// months off and is set right, by a step, once the network is there. So
// everything inside is stamped on CLOCK_BOOTTIME, which never steps, and wall
// time is computed where it is shown or sent, from the Clock that this package
// keeps.
//
// The kernel is asked whether it is synchronised, as systemd does it: by the
// estimated maximum error (below 16 s) and not by STA_UNSYNC, which chrony
// leaves set unless it is told rtcsync.
//
// # References
//
// A moment at which the kernel said so is a reference, with an error: what the
// kernel states, what it has still to turn the clock by, and something for what
// daemons do not state. Away from it the error grows by 100 ppm, which is what
// a crystal may be off. The time of a stamp comes from the references of its
// own boot, before and after it; two of them narrow each other's bounds. So
// what was read in ten minutes without a network gets its time from a
// synchronisation later in the same boot, and a network that is gone makes
// times slowly less exact instead of wrong.
//
// A boot without any reference has bounds: it began when the boot before it
// was still up, at the earliest, and had ended when the next one began. How
// long the computer was off in between nobody knows.
//
// # The file
//
// What a reboot must not forget is kept in the state folder, in a file of its
// own: at the start, at the first reference, after a step, each hour, and at
// the end; one page and one flush each. It is not in the spool, because blocks
// there come and go with what is buffered (connected, nothing is written at
// all), and there are three of them, whereas this must outlast the records of
// all. The spool notes with each block the clock as it was then, which counts
// besides. A file that is missing or damaged makes times less exact and
// nothing else; it is bounded by 64 boots.
package clock

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix" // adjtimex and CLOCK_BOOTTIME, which package time does not offer

	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/devices"
)

const (
	pollUnsynced = 2 * time.Second
	pollSynced   = time.Minute
	maxError     = 16 * time.Second // the kernel's value for "not synchronised"
	// leastError stands for the way to the time server: systemd-timesyncd
	// tells the kernel an error of 0 whatever that is worth.
	leastError = 50 * time.Millisecond
	// step is a change of the offset that is brought to the medium at once.
	step      = 500 * time.Millisecond
	saveEvery = time.Hour
)

// built is a moment that has certainly passed: a wall time before it is wrong
// whatever the kernel says. begun is the same for the first version of this
// program, and so for all that any version has recorded; it is never raised.
var (
	built = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	begun = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
)

// A Kernel tells the time. Its methods may be called from any goroutine.
type Kernel interface {
	Boot() int64 // CLOCK_BOOTTIME, ns
	Wall() int64 // CLOCK_REALTIME, ns
	Sync() Sync
}

// A Sync is what a kernel says of its wall time.
type Sync struct {
	OK       bool          // it is synchronised
	MaxError time.Duration // by how much it may be off
	Left     time.Duration // by how much it is still to be turned, slowly
}

// A Config says where a Source gets the time and keeps what it learns of it.
// Zero fields have defaults.
type Config struct {
	// Trusted takes the system's wall time as synchronised whatever the kernel
	// says: for containers and virtual machines whose host keeps the time.
	Trusted bool
	// OnChange is called by Run after the quality changed.
	OnChange func(broker.Quality)
	BootID   [16]byte
	Dir      string // where the history is; "": nowhere
	ReadOnly bool   // it is not written
	Log      *slog.Logger

	Kernel Kernel   // nil: this one
	FS     spool.FS // nil: the operating system's
}

// A Source follows the system clock. Its methods may be called from any
// goroutine.
type Source struct {
	cfg    Config
	kernel Kernel
	log    *slog.Logger

	quality atomic.Uint32
	offset  atomic.Int64  // of the system, as last found; see Now
	polled  atomic.Int64  // boot time of the last look at the kernel
	wake    chan struct{} // for Run: the quality changed, or something is to be saved

	mu      sync.Mutex
	history *history
	here    *boot // the last one in it
	moving  bool  // its last reference may be replaced by a later one
	left    time.Duration
	due     bool // something is to be saved
	savedAt int64

	file *file  // of Run and Open only; nil: none
	said string // why it is not saved, as logged
}

// New returns a source that keeps no history.
func New(trusted bool) *Source { return Open(Config{Trusted: trusted}) }

// Open returns a source that knows what earlier runs have learned. What is
// wrong with that is logged, and no reason not to start.
func Open(cfg Config) *Source {
	s := &Source{cfg: cfg, kernel: cfg.Kernel, log: cfg.Log, wake: make(chan struct{}, 1), history: &history{Version: fileVersion}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.kernel == nil {
		s.kernel = linux{}
	}
	if cfg.Dir != "" && cfg.BootID != [16]byte{} { // else boots cannot be told apart
		s.file = &file{fs: cfg.FS, dir: cfg.Dir}
		var err error
		if s.history, err = s.file.load(); err != nil {
			s.log.Warn("what was known of the time in earlier boots is lost: times from there may be less exact", "err", err)
		}
	}
	found, _ := s.systemOffset()
	s.offset.Store(found)
	s.enter(found)
	s.poll()
	s.save()
	return s
}

// enter makes this boot the last one of the history.
func (s *Source) enter(offset int64) {
	h := s.history
	if n := len(h.Boots); n > 0 && h.Boots[n-1].ID == s.cfg.BootID {
		s.here = h.Boots[n-1]
		if s.here.Seen <= s.kernel.Boot() {
			h.derive()
			return
		}
		h.Boots = h.Boots[:n-1] // that was another boot time, such as that of a container
	}
	s.here = &boot{ID: s.cfg.BootID, Offset: offset}
	h.add(s.here)
}

// Now returns the present relation of boot time to wall time. Both clocks run
// at the same rate between steps, so a difference below a millisecond is
// taken for the noise of measuring, and the same stamp gives the same wall
// time, to the digit, at each asking.
func (s *Source) Now() broker.Clock {
	kept := s.offset.Load()
	found, uncertain := s.systemOffset()
	switch change := max(found-kept, kept-found); {
	case change > int64(step), // by NTP, or by somebody who may be wrong
		s.kernel.Boot()-s.polled.Load() > int64(nearby): // the computer slept
		s.poll()
	case change > int64(time.Millisecond)+uncertain:
		s.offset.Store(found)
	}
	if s.Quality() == broker.Exact {
		return broker.Clock{Offset: s.offset.Load(), Quality: broker.Exact}
	}
	return s.At(spool.BootRef{ID: s.cfg.BootID}, s.kernel.Boot())
}

// Quality returns that of the present time.
func (s *Source) Quality() broker.Quality { return broker.Quality(s.quality.Load()) }

// At returns how a stamp of a boot relates to wall time, as far as that is
// known by now. It is a broker.ClockAt.
func (s *Source) At(boot spool.BootRef, stamp int64) broker.Clock {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.history.at(boot, stamp)
}

// Times returns both clocks at one moment and whether wall time is
// synchronised, as the spool notes it with each commit.
func (s *Source) Times() (boot, wall int64, synced bool) {
	c := s.Now()
	boot = s.kernel.Boot()
	return boot, boot + c.Offset, c.Quality == broker.Exact
}

// Run follows the quality until ctx is done.
func (s *Source) Run(ctx context.Context) error {
	told := s.Quality()
	for {
		wait := pollUnsynced
		if s.Quality() == broker.Exact {
			wait = pollSynced
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			s.poll()
			s.mu.Lock()
			s.due = true
			s.mu.Unlock()
			s.save()
			return nil
		case <-timer.C:
			s.poll()
		case <-s.wake:
			timer.Stop()
		}
		s.save()
		if q := s.Quality(); q != told {
			told = q
			if s.cfg.OnChange != nil {
				s.cfg.OnChange(q)
			}
		}
	}
}

// poll asks the kernel how it is, and notes a reference.
func (s *Source) poll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := s.ask()
	offset, uncertain := s.systemOffset()
	was := s.offset.Load()
	moved := max(offset-was, was-offset)
	if moved <= int64(time.Millisecond)+uncertain {
		offset, moved = was, 0
	}
	now := s.kernel.Boot()
	s.polled.Store(now)
	before := s.Quality()
	q := s.note(now, offset, moved, said)
	s.offset.Store(offset)
	s.quality.Store(uint32(q))
	s.here.Seen = max(s.here.Seen, now)
	if len(s.here.Refs) == 0 {
		s.here.Offset = offset
	}
	s.history.derive()
	if now-s.savedAt >= int64(saveEvery) {
		s.due, s.moving = true, false
	}
	if s.due || q != before {
		select {
		case s.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// note makes a reference of what the kernel said, and returns the quality of
// the present time.
func (s *Source) note(now, offset, moved int64, said Sync) broker.Quality {
	refs := s.here.Refs
	if !said.OK {
		s.moving = false
		if len(refs) == 0 {
			return broker.Unsynced
		}
		return broker.Interpolated
	}
	r := ref{At: now, Offset: offset, Error: int64(said.MaxError + said.Left.Abs() + leastError)}
	if len(refs) > 0 {
		last := &refs[len(refs)-1]
		if now <= last.At {
			return s.Quality()
		}
		turned := int64((said.Left - s.left).Abs())
		if s.moving && same(offset, last.Offset) { // it goes on, so that the last error holds, too
			r.Error = min(r.Error, last.Error+(now-last.At)/drift+turned)
		}
		r.Held = r.Error <= int64(exactLimit) && (s.moving && moved <= int64(step) && s.Quality() == broker.Exact || holds(last, &r))
		if s.moving && r.Held == last.Held && same(offset, last.Offset) && len(refs) > 1 {
			refs[len(refs)-2].Slew += last.Slew + turned
			refs = refs[:len(refs)-1]
		} else {
			last.Slew += turned
		}
	}
	s.due = s.due || len(refs) == 0 || moved > int64(step) || !r.Held && r.Error <= int64(exactLimit)
	s.left = said.Left
	s.here.Refs = thin(append(refs, r), maxRefs)
	s.moving = true
	if r.Error <= int64(exactLimit) {
		return broker.Exact
	}
	return broker.Interpolated
}

// holds tells whether the clock must have been exact from one reference to
// another, though nobody looked: it was not set, and cannot have drifted far.
func holds(from, to *ref) bool {
	return same(from.Offset, to.Offset) && from.Error+(to.At-from.At)/drift <= int64(exactLimit)
}

func (s *Source) ask() Sync {
	switch {
	case s.kernel.Wall() < built.UnixNano():
		return Sync{}
	case s.cfg.Trusted:
		return Sync{OK: true}
	}
	return s.kernel.Sync()
}

// save brings the history to the medium if it is due.
func (s *Source) save() {
	s.mu.Lock()
	if s.file == nil || s.cfg.ReadOnly || s.file.barred || !s.due && s.savedAt != 0 {
		s.mu.Unlock()
		return
	}
	slot, err := appendSlot(nil, s.history, s.file.number+1)
	s.due, s.savedAt = false, s.kernel.Boot()
	s.mu.Unlock()
	if err == nil {
		err = s.file.save(slot)
	}
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != s.said && said != "" {
		s.log.Warn("the history of the clock cannot be kept: after a reboot times from before it may be less exact", "err", err)
	} else if said != s.said {
		s.log.Info("the history of the clock is kept again")
	}
	s.said = said
}

// systemOffset returns wall time minus boot time and how uncertain that is,
// both in nanoseconds. Wall time is read between two readings of boot time; of
// five tries the tightest counts.
func (s *Source) systemOffset() (off, best int64) {
	best = 1 << 62
	for range 5 {
		before := s.kernel.Boot()
		wall := s.kernel.Wall()
		after := s.kernel.Boot()
		if d := after - before; d < best {
			best, off = d, wall-before-d/2
		}
		if best < 2000 {
			break
		}
	}
	return off, best
}

// linux is the kernel that this program runs on.
type linux struct{}

func (linux) Boot() int64 { return int64(devices.Now()) }

func (linux) Wall() int64 { return time.Now().UnixNano() }

func (linux) Sync() Sync {
	var tx unix.Timex
	if _, err := unix.Adjtimex(&tx); err != nil {
		return hint(timesyncd+"/synchronized", time.Now())
	}
	unit := time.Microsecond
	if tx.Status&unix.STA_NANO != 0 {
		unit = time.Nanosecond
	}
	most := time.Duration(tx.Maxerror) * time.Microsecond
	return Sync{OK: most < maxError, MaxError: most, Left: time.Duration(tx.Offset) * unit}
}

// timesyncd is where systemd-timesyncd leaves what a sandbox may see that
// forbids to ask the kernel.
const timesyncd = "/run/systemd/timesync"

// hint is for such a sandbox: systemd-timesyncd touches a file whenever it has
// set or checked the clock, at least each 34 minutes while it can.
func hint(path string, now time.Time) Sync {
	info, err := os.Stat(path)
	if err != nil {
		return Sync{}
	}
	age := now.Sub(info.ModTime())
	return Sync{OK: age >= 0 && age < 3*time.Hour, MaxError: 500*time.Millisecond + age/drift}
}

// Blind reports whether nobody here can tell if the clock is synchronised: the
// kernel may not be asked, and timesyncd does not run.
func Blind() bool {
	var tx unix.Timex
	if _, err := unix.Adjtimex(&tx); err == nil {
		return false
	}
	_, err := os.Stat(timesyncd)
	return err != nil
}
