package bridge

import (
	"context"
	"errors"
	"time"
)

// A sender sends over one link, in one goroutine, that of Bridge.Run. It owns
// the window; what is in flight is known to the session.
type sender struct {
	b       *Bridge
	l       *link
	streams [numStreams]<-chan *flight // nil: not there
	broken  chan error                 // why a stream could not be read
	turns   turns
	aliases aliases

	inFlight int
	lastSent *flight
	passed   bool      // a message was accepted over this link that shows that messages pass
	proof    *flight   // goes before all others, to see whether it does; nil: none
	progress time.Time // of the last PUBACK, or when the first of those in flight was sent

	postponed []*flight // refused for lack of quota, in the order to be sent again
	resume    time.Time // nothing is sent before

	restatement bool // the status changed and was not told yet

	draining bool
	deadline time.Time // of draining
	timer    *time.Timer
}

func (b *Bridge) newSender(l *link, streams []*stream) *sender {
	s := &sender{b: b, l: l, broken: make(chan error, numStreams), timer: time.NewTimer(time.Hour), aliases: aliases{most: l.limits.aliases}}
	for _, st := range streams {
		s.streams[st.rank] = st.out
	}
	if b.suspect.prove {
		s.proof = b.repeated()
	}
	return s
}

// run sends until the link is lost, which is an error, or ctx is done and
// everything is sent or the time for that is over, which is not.
func (s *sender) run(ctx context.Context) error {
	defer s.timer.Stop()
	stop := ctx.Done()
	for {
		s.collect()
		s.restate()
		if f := s.next(); f != nil {
			s.l.hold()
			s.send(f)
			continue
		}
		s.l.flush()
		if s.draining && s.drained() {
			return nil
		}
		if s.inFlight == 0 && !s.draining && s.renewing(time.Now()) {
			return errRenewal
		}
		s.arm()
		select {
		case a := <-s.l.acks:
			s.settle(a)
		case <-s.b.turns:
		case f := <-s.open(critical):
			s.send(f)
		case f := <-s.open(live):
			s.send(f)
		case f := <-s.open(backlog):
			s.send(f)
		case <-s.b.changed:
			s.restatement = true
		case <-s.timer.C:
			if s.stalled() {
				return errAckStall
			}
		case err := <-s.broken:
			return err
		case <-s.l.down():
			return s.l.cause()
		case <-stop:
			stop = nil
			s.draining, s.deadline = true, time.Now().Add(s.b.cfg.DrainTime)
		}
	}
}

// restate tells of a status that changed, once there is room in the window.
func (s *sender) restate() {
	if s.restatement && !s.draining && s.inFlight < s.l.limits.window {
		s.restatement = false
		s.announce(s.b.status.Load().Online)
	}
}

// collect settles the answers that are there.
func (s *sender) collect() {
	for {
		select {
		case a := <-s.l.acks:
			s.settle(a)
		case <-s.b.turns:
		default:
			return
		}
	}
}

// ready reports whether one more message may be sent now.
func (s *sender) ready() bool {
	window := s.l.limits.window
	if s.b.careful > 0 {
		window = 1
	}
	now := time.Now()
	if s.renewing(now) {
		return false
	}
	return s.inFlight < window && !now.Before(s.resume) && s.l.err() == nil && s.b.pace.wait(now) == 0
}

// renewing reports whether the password is about to expire: what is in flight
// is waited for, and then connected anew.
func (s *sender) renewing(now time.Time) bool {
	return !s.b.renewal.IsZero() && !now.Before(s.b.renewal)
}

// may reports whether a stream may be sent from, if anything may: what piled up
// has a rate of its own, and only what is critical goes when the day's bytes
// are spent.
func (s *sender) may(rank int) bool {
	return rank == critical || !s.b.pace.spent() && (rank != backlog || s.b.pace.replay.wait(time.Now()) == 0)
}

// next returns what is to be sent now, nil if nothing is there or may be.
func (s *sender) next() *flight {
	if !s.ready() {
		return nil
	}
	if f := s.proof; f != nil {
		s.proof = nil
		return f
	}
	if len(s.postponed) > 0 && !s.wantsProof(s.postponed[0]) {
		return s.again()
	}
	var there [numStreams]bool
	for i, c := range s.streams {
		there[i] = len(c) > 0 && s.may(i)
	}
	if i := s.turns.next(there); i >= 0 {
		return <-s.streams[i] // only this goroutine takes from it
	}
	if len(s.postponed) > 0 {
		return s.again()
	}
	return nil
}

// again takes the first of those that were refused for lack of quota.
func (s *sender) again() *flight {
	f := s.postponed[0]
	s.postponed = s.postponed[1:]
	return f
}

// wantsProof reports whether f was refused so often that another message is to
// go before it, to show whether f itself is the cause. A far broker that
// answers at once would else never see another one.
func (s *sender) wantsProof(f *flight) bool {
	return f.tries >= maxTries && s.b.accepted == f.accepted && s.inFlight == 0
}

// open returns a stream's channel while it may be sent from, else nil.
func (s *sender) open(rank int) <-chan *flight {
	if s.ready() && s.may(rank) {
		return s.streams[rank]
	}
	return nil
}

// send sends f. When the connection breaks under it, f is forgotten here and
// read from the spool again.
func (s *sender) send(f *flight) {
	if words := s.b.cfg.Limits.CheckTopic(f.to); words != "" && f.source != nil {
		s.b.refuse(f, words)
		return
	}
	p := s.b.packet(f, s.l.limits)
	if !fits(p, s.l.limits.packet) {
		s.b.refuse(f, reasonWords(codeTooLarge))
		return
	}
	size := len(p.Topic) + len(p.Payload)
	if most := s.l.limits.packet; most == 0 || fits(p, most-aliasSize) {
		s.aliases.apply(p)
	}
	if f.sent = 0; p.QoS > 0 {
		f.sent = s.b.cfg.Now()
	}
	err := s.l.publish(f, p)
	switch {
	case errors.Is(err, errUnsendable):
		s.b.refuse(f, reasonWords(codeTopicInvalid))
		return
	case err != nil && p.QoS == 0:
		return
	}
	// Else with an error, too, it may be out, and be why the link went down.
	s.b.pace.take(size, f.replayed, time.Now())
	s.b.count.add(&s.b.count.Sent)
	if p.QoS == 0 && s.b.cfg.Version == MQTT5 { // for 3.1.1 the link says when it is out
		s.b.accept(f)
		return
	}
	if s.inFlight == 0 {
		s.progress = time.Now()
	}
	s.setInFlight(s.inFlight + 1)
	s.lastSent = f
}

func (s *sender) setInFlight(n int) {
	s.inFlight = n
	s.b.count.mu.Lock()
	s.b.count.InFlight = n
	s.b.count.mu.Unlock()
}

// Reason codes that the sender acts on (MQTT 5, 2.4).
const (
	codeTopicInvalid   = 0x90
	codeReceiveMaximum = 0x93
	codeTooLarge       = 0x95
	codeQuota          = 0x97
)

// settle takes the far broker's answer for a message.
func (s *sender) settle(a ack) {
	s.setInFlight(s.inFlight - 1)
	s.progress = time.Now()
	if s.b.careful > 0 {
		s.b.careful--
	}
	if a.code >= 0x80 {
		s.aliases.forget(a.to)
	}
	switch {
	case a.code < 0x80: // 0x10, no subscribers, is success, too
		s.passed = s.passed || a.source != nil || s.b.latest == nil
		s.b.accept(a.flight)
	case !a.again && (a.code == codeQuota || a.code == codeReceiveMaximum) && !s.hopeless(a.flight):
		s.postpone(a.flight)
	default:
		s.b.refuse(a.flight, reasonWords(a.code))
	}
}

// maxTries is how often a message is sent again for lack of quota before it is
// suspected to be the cause itself.
const maxTries = 16

// hopeless reports whether f was refused for long while others passed.
func (s *sender) hopeless(f *flight) bool {
	return f.tries >= maxTries && s.b.accepted > f.accepted
}

// postpone has f sent again, before all else, after a pause for everything.
func (s *sender) postpone(f *flight) {
	if f.tries == 0 {
		f.accepted = s.b.accepted
	}
	pause := min(s.b.cfg.MinBackoff<<min(f.tries, 16), s.b.cfg.MaxBackoff)
	if t := time.Now().Add(pause); t.After(s.resume) {
		s.resume = t
	}
	f.tries++
	s.b.count.add(&s.b.count.Postponed)
	i := len(s.postponed)
	for i > 0 && f.source == s.postponed[i-1].source && f.seq < s.postponed[i-1].seq {
		i--
	}
	s.postponed = append(s.postponed[:i], append([]*flight{f}, s.postponed[i:]...)...)
}

// arm sets the timer to the next moment at which something is to be done
// without anything happening.
func (s *sender) arm() {
	now := time.Now()
	wait := time.Hour
	if s.inFlight > 0 {
		wait = s.progress.Add(s.b.cfg.AckTimeout).Sub(now)
	}
	if d := s.resume.Sub(now); d > 0 {
		wait = min(wait, d)
	}
	if d := s.b.renewal.Sub(now); d > 0 && !s.b.renewal.IsZero() {
		wait = min(wait, d)
	}
	if d := s.b.pace.wait(now); d > 0 {
		wait = min(wait, d)
	}
	if d := s.b.pace.replay.wait(now); d > 0 { // also while nothing is there yet: nobody listens to it
		wait = min(wait, d)
	}
	if s.b.cfg.DailyBytes > 0 {
		wait = min(wait, budgetCheck)
	}
	if s.draining {
		wait = min(wait, drainCheck)
	}
	s.timer.Reset(max(wait, 0))
}

// stalled reports whether answers have been missing for too long.
func (s *sender) stalled() bool {
	return s.inFlight > 0 && time.Since(s.progress) >= s.b.cfg.AckTimeout
}

// drainCheck is how often it is looked whether all is sent. What is skipped
// is acknowledged by streams, of which the sender hears nothing.
const drainCheck = 50 * time.Millisecond

// drained reports whether nothing is left to send, or no time for it.
func (s *sender) drained() bool {
	if !time.Now().Before(s.deadline) {
		return true
	}
	if s.inFlight > 0 || len(s.postponed) > 0 {
		return false
	}
	return s.b.backlogRecords() <= uint64(s.b.hold.held.Load())
}

// announce sends the bridge's own status and counts it as in flight.
func (s *sender) announce(payload []byte) {
	f := newFlight()
	f.to = s.b.status.Load().Topic
	f.msg.QoS = 1
	f.msg.Payload = payload
	s.send(f)
}

// farewell publishes the offline status, waits a moment until it has arrived,
// and leaves politely.
func (s *sender) farewell() {
	over := time.AfterFunc(farewellTime, func() { s.l.drop() })
	defer over.Stop()
	defer s.l.leave()
	status := s.b.status.Load()
	if status == nil {
		return
	}
	s.announce(status.Offline)
	for s.inFlight > 0 {
		select {
		case a := <-s.l.acks:
			own := a.source == nil // settle recycles it
			if s.settle(a); own {
				return
			}
		case <-s.l.down():
			return
		}
	}
}
