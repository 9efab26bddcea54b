package bridge

import (
	"encoding/json"
	"os"
	"sync"
	"time"
)

// A bucket lets rate units pass in a second, evenly but for a tenth of a
// second's worth at once. The zero bucket lets everything pass.
type bucket struct {
	rate  float64
	level float64
	at    time.Time
}

// burst is how much may pass at once.
func (b *bucket) burst() float64 { return max(1, b.rate/10) }

// wait returns how long it takes until something may pass, 0 for now. What
// passes may be larger than what is there: the next waits the longer.
func (b *bucket) wait(now time.Time) time.Duration {
	if b.rate == 0 {
		return 0
	}
	b.fill(now)
	if b.level >= min(1, b.burst()) {
		return 0
	}
	return time.Duration((min(1, b.burst())-b.level)/b.rate*float64(time.Second)) + 1
}

func (b *bucket) fill(now time.Time) {
	if b.at.IsZero() {
		b.level = b.burst()
	}
	b.level = min(b.burst(), b.level+b.rate*max(0, now.Sub(b.at).Seconds()))
	b.at = now
}

// take notes that n units have passed.
func (b *bucket) take(n float64, now time.Time) {
	if b.rate > 0 {
		b.fill(now)
		b.level -= n
	}
}

// overhead is what TCP, IP and TLS add to a packet, about, in bytes.
const overhead = 60

// A budget counts the bytes of a day on a link that is paid by them. It is
// kept in a file, so that a restart does not begin the day anew.
type budget struct {
	limit int64  // 0: none
	file  string // "": it is not kept
	day   func() (name string, known bool)

	mu     sync.Mutex
	today  string
	known  bool // today is one of the calendar
	spent  int64
	stored int64 // of spent
}

// budgetFile is what the file of a budget holds.
type budgetFile struct {
	Day   string `json:"day"`
	Bytes int64  `json:"bytes"`
	Known bool   `json:"known"`
}

func newBudget(limit int64, file string, day func() (string, bool)) *budget {
	b := &budget{limit: limit, file: file, day: day}
	var was budgetFile
	if text, err := os.ReadFile(file); limit > 0 && err == nil && json.Unmarshal(text, &was) == nil {
		b.today, b.known, b.spent, b.stored = was.Day, was.Known, was.Bytes, was.Bytes
	}
	return b
}

// add counts one packet of n bytes.
func (b *budget) add(n int) {
	if b.limit == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turnLocked()
	b.spent += int64(n + overhead)
	if b.spent-b.stored >= b.limit/100 {
		b.storeLocked()
	}
}

// turnLocked begins a new day. When the clock is set, what was spent is of the
// day that it turns out to be: it gives nobody a second budget.
func (b *budget) turnLocked() {
	day, known := b.day()
	if day != b.today && known == b.known {
		b.spent, b.stored = 0, 0
	}
	b.today, b.known = day, known
}

// storeLocked writes the file. It is in memory, and what is wrong with it only
// lets a restart forget what was spent.
func (b *budget) storeLocked() {
	b.stored = b.spent
	if b.file != "" {
		text, _ := json.Marshal(budgetFile{b.today, b.spent, b.known})
		_ = os.WriteFile(b.file, text, 0o600)
	}
}

// used returns how much of the day's bytes is spent, and whether all is.
func (b *budget) used() (int64, bool) {
	if b.limit == 0 {
		return 0, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turnLocked()
	return b.spent, b.spent >= b.limit
}

// store is for the end.
func (b *budget) store() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spent != b.stored {
		b.storeLocked()
	}
}

// A pace is how fast a bridge may send, and how much. It belongs to the sender,
// but for the day's bytes.
type pace struct {
	messages, bytes, replay bucket
	day                     *budget
}

// wait returns how long it takes until a message may be sent.
func (p *pace) wait(now time.Time) time.Duration {
	return max(p.messages.wait(now), p.bytes.wait(now))
}

// take notes that a message of n bytes was sent.
func (p *pace) take(n int, replayed bool, now time.Time) {
	p.messages.take(1, now)
	p.bytes.take(float64(n), now)
	if replayed {
		p.replay.take(1, now)
	}
}

// spent reports whether the day's bytes are.
func (p *pace) spent() bool {
	_, all := p.day.used()
	return all
}

// budgetCheck is how often it is looked whether a new day has begun.
const budgetCheck = time.Minute
