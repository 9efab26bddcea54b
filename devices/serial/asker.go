package serial

import (
	"fmt"
	"time"

	"edgegateway/devices"
)

const (
	// defaultAnswer is how long an answer may take.
	defaultAnswer = time.Second

	// settle is the silence that ends all that one device has to say, before
	// the next one is asked.
	settle = 50 * time.Millisecond
)

// A phase says when intervals begin.
type phase struct {
	every time.Duration
	last  time.Time // beginning of the one under way; zero before the first
}

// after notes that something happens now, and returns when the next interval
// begins. Those missed are not made up for.
func (p *phase) after(now time.Time) time.Time {
	if p.last.IsZero() {
		p.last = now
	}
	p.last = p.last.Add(now.Sub(p.last) / p.every * p.every)
	return p.last.Add(p.every)
}

// An asker asks the questions of a bus, one at a time, each at its interval.
// Without one it does nothing.
//
// With several devices an answer does not say whose it is: it is taken to be of
// the one that was asked. So nobody is asked before the one asked before is
// silent; and after a question that was not answered in time, or only when it
// was asked again, for as long as an answer may take: what comes then is nobody's.
// What comes later still would be taken for another's.
type asker struct {
	questions []question
	stream    Stream
	open      *question // whose answer is awaited
	giveUp    time.Time // until when it must have come
	quiet     time.Time // nobody is asked before
	tries     int       // left for the open one
	bad       string    // what came in place of the answer

	first func() // called when the first question is sent; nil: nothing, or it was
}

type question struct {
	*Poll
	phase phase
	next  time.Time // when to send
}

func newAsker(polls []Poll, stream Stream) *asker {
	a := &asker{stream: stream}
	for i := range polls {
		a.questions = append(a.questions, question{Poll: &polls[i], phase: phase{every: polls[i].Every}})
	}
	return a
}

// begin puts the first question off until the line is silent, and calls first
// then: what comes before is the end of something that began before.
func (a *asker) begin(now time.Time, first func()) {
	a.first, a.quiet = first, now.Add(settle)
}

// overdue reports whether the answer should have come by now.
func (a *asker) overdue(now time.Time) bool { return a.open != nil && !now.Before(a.giveUp) }

// turn sends what is due at now. It returns an error for a question whose answer
// is overdue, and whom it was for if it is not asked again.
func (a *asker) turn(now time.Time) (failed error, whom *Poll, err error) {
	if a.overdue(now) {
		failed = a.trouble()
		if a.tries > 0 {
			a.tries--
			return failed, nil, a.send(a.open, now)
		}
		whom = a.open.Poll
		a.hush(now)
		a.open = nil
	}
	q := a.due()
	if q == nil || a.open != nil || now.Before(q.next) || now.Before(a.quiet) {
		return failed, whom, nil
	}
	q.next = q.phase.after(now)
	a.tries = q.Retries
	return failed, whom, a.send(q, now)
}

// due returns the question whose time comes first, nil without any.
func (a *asker) due() (first *question) {
	for i := range a.questions {
		if q := &a.questions[i]; first == nil || q.next.Before(first.next) {
			first = q
		}
	}
	return first
}

func (a *asker) send(q *question, now time.Time) error {
	if a.first != nil {
		a.first()
		a.first = nil
	}
	a.open, a.giveUp, a.bad = q, now.Add(q.timeout(defaultAnswer)), ""
	_, err := a.stream.Write(q.Send)
	return err
}

// hush lets a late answer to the open question pass before another is asked.
func (a *asker) hush(now time.Time) {
	if len(a.questions) > 1 {
		a.quiet = now.Add(a.open.timeout(defaultAnswer))
	}
}

// heard notes that bytes came.
func (a *asker) heard(now time.Time) {
	if end := now.Add(settle); (len(a.questions) > 1 || a.first != nil) && a.quiet.Before(end) {
		a.quiet = end
	}
}

// trouble says why there is no answer.
func (a *asker) trouble() error {
	if a.bad != "" {
		return fmt.Errorf("no answer in time, but %s: %w", a.bad, devices.ErrReply)
	}
	return fmt.Errorf("no answer within %v: check power, wiring, baud rate and format: %w", a.open.timeout(defaultAnswer), devices.ErrTimeout)
}

// until is when to stop reading: at t or before, when there is something to do.
func (a *asker) until(t time.Time) time.Time {
	q := a.due()
	if q == nil {
		return t
	}
	at := q.next
	if a.open != nil {
		at = a.giveUp
	} else if at.Before(a.quiet) {
		at = a.quiet
	}
	if at.Before(t) {
		return at
	}
	return t
}

// answered notes a good message and returns whose it is, nil for that of any;
// false if nobody was asked who could have said it.
func (a *asker) answered(now time.Time) (dev *devices.Device, ok bool) {
	if a.open == nil {
		return nil, len(a.questions) <= 1
	}
	if a.tries < a.open.Retries {
		a.hush(now)
	}
	dev, a.open = a.open.Device, nil
	return dev, true
}
