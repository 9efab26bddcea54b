package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/internal/writelog"
)

// A term is what is left of a time that was given to something.
//
// It ends by boot time, which no setting of the clock moves. After a reboot
// boot time begins anew: then it ends by wall time if that was exact when it was
// saved and is so again. Until it is, and where it never was, the time that the
// computer was off does not count, and a term may last longer by that and by up
// to a minute; it never ends early.
type term struct {
	Left  time.Duration   `json:"left"`  // when it was saved
	Saved writelog.Moment `json:"saved"` // when that was

	ends devices.Stamp // in this boot
}

func (t *term) span() *term { return t }

// fit places the end in this boot.
func (t *term) fit(now writelog.Moment) {
	gone, known := t.Saved.Since(now)
	switch {
	case known:
		t.ends = devices.Stamp(now.Stamp) + devices.Stamp(t.Left-gone)
	case t.ends == 0:
		t.ends = devices.Stamp(now.Stamp) + devices.Stamp(t.Left)
	}
}

// until is when a term ends, as the clock is now.
func (t *term) until(clock broker.Clock) time.Time {
	return clock.Wall(int64(t.ends)).Truncate(time.Second)
}

// end says for people when it ends.
func (t *term) end(clock broker.Clock, now devices.Stamp) string {
	if clock.Quality != broker.Exact {
		return fmt.Sprintf("for another %s", max(time.Second, t.ends.Sub(now).Round(time.Second)))
	}
	return "until " + t.until(clock).Format(time.RFC3339)
}

// shelved is what a shelf can keep: a pointer to something with a term.
type shelved[T any] interface {
	key() string
	span() *term
	clone() T
}

// A shelf keeps things in a file of the state folder, so that they outlive
// restarts and reboots, until the time of each is over. Its methods may be called
// at once.
type shelf[T shelved[T]] struct {
	name  string // of what it keeps: "holds"
	lost  string // what it means that they cannot be read
	path  string
	clock func() broker.Clock
	now   func() devices.Stamp
	log   *slog.Logger
	over  func(T) // told of each whose time is over
	moved func()  // told that ends were fitted to a clock that has become exact
	wake  chan struct{}

	mu    sync.Mutex
	byKey map[string]T
	exact bool // their ends were fitted to a clock that is exact
}

// shelfSave is how often what is left of times is saved.
const shelfSave = time.Minute

const shelfVersion = 1

// open reads the file. One that cannot be read is moved aside.
func (s *shelf[T]) open() {
	s.byKey, s.wake = map[string]T{}, make(chan struct{}, 1)
	var file map[string]json.RawMessage
	err := readKept(s.path, shelfVersion, &file)
	var all []*T
	if text := file[s.name]; err == nil && text != nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		s.log.Error(s.name+" cannot be read: "+s.lost, "err", err)
		return
	}
	for _, one := range all {
		if one != nil {
			s.byKey[(*one).key()] = *one
		}
	}
	s.fit()
}

func (s *shelf[T]) fit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := momentAt(s.clock(), s.now())
	s.exact = now.Exact
	for _, one := range s.byKey {
		one.span().fit(now)
	}
}

// get returns a copy of what is kept under key.
func (s *shelf[T]) get(key string) (one T, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, ok := s.byKey[key]
	if !ok || s.now() >= kept.span().ends {
		return one, false
	}
	return kept.clone(), true
}

// list returns copies of all, by key.
func (s *shelf[T]) list() (all []T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(s.byKey)) {
		if one := s.byKey[key]; s.now() < one.span().ends {
			all = append(all, one.clone())
		}
	}
	return all
}

// put keeps one for some time, in place of what had its key. It counts once it
// is saved.
func (s *shelf[T]) put(one T, length time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := one.key()
	old, had := s.byKey[key]
	one.span().ends = s.now() + devices.Stamp(length)
	s.byKey[key] = one
	err := s.saveLocked()
	if err != nil {
		delete(s.byKey, key)
		if had {
			s.byKey[key] = old
		}
	}
	s.poke()
	return err
}

// drop keeps what has key no longer, and reports whether there was something. It
// is gone also if that could not be saved.
func (s *shelf[T]) drop(key string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, had := s.byKey[key]; !had {
		return false, nil
	}
	delete(s.byKey, key)
	s.poke()
	return true, s.saveLocked()
}

func (s *shelf[T]) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (s *shelf[T]) saveLocked() error {
	list := []T{}
	now := momentAt(s.clock(), s.now())
	for _, key := range slices.Sorted(maps.Keys(s.byKey)) {
		one := s.byKey[key]
		t := one.span()
		t.Left, t.Saved = t.ends.Sub(devices.Stamp(now.Stamp)), now
		list = append(list, one)
	}
	return writeWhole(s.path, map[string]any{"version": shelfVersion, s.name: list})
}

// run ends what is over in time, and saves what is left, until ctx is done.
func (s *shelf[T]) run(ctx context.Context) {
	for {
		timer := time.NewTimer(s.review())
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// review ends what is over, fits the rest to a clock that has become exact, and
// returns when to look again.
func (s *shelf[T]) review() time.Duration {
	if s.clock().Quality == broker.Exact && !s.exact {
		s.fit()
		if s.moved != nil {
			s.moved()
		}
	}
	s.mu.Lock()
	now := s.now()
	var over []T
	wait := 24 * time.Hour
	for key, one := range s.byKey {
		if ends := one.span().ends; now >= ends {
			over = append(over, one)
			delete(s.byKey, key)
		} else {
			wait = min(wait, shelfSave, ends.Sub(now))
		}
	}
	due := len(over) > 0
	for _, one := range s.byKey {
		t := one.span()
		due = due || now.Sub(t.ends)+t.Left >= shelfSave // so much of it went by since it was saved
	}
	var err error
	if due {
		err = s.saveLocked()
	}
	s.mu.Unlock()
	if err != nil {
		s.log.Warn("what is left of "+s.name+" is not saved", "err", err)
	}
	for _, one := range over {
		s.over(one)
	}
	return wait
}
