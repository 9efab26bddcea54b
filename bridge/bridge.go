package bridge

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/internal/expiry"
)

// A Bridge carries messages to and from one upstream broker.
type Bridge struct {
	cfg     Config
	urls    []*url.URL
	user    string // as which it publishes locally
	local   local
	clock   func() broker.Clock
	clockAt broker.ClockAt
	log     *slog.Logger
	send    *table
	recv    *table
	sources []*source
	decode  func(*spool.Record, *broker.Message) error
	dial    func(context.Context, *url.URL) (net.Conn, error)
	random  func() float64
	count   counters
	hold    holding
	gaps    sync.Mutex // held while OnGap is called
	status  atomic.Pointer[Status]
	changed chan struct{} // room for one: status is another one
	barred  atomic.Bool   // what came from upstream last was not accepted here

	turns chan struct{} // without room: taken each time the loop of Run comes round

	// The rest belongs to the goroutine of Run.

	failed     int  // times in a row
	next       int  // of urls
	willQoS    byte // what the far broker supports, as far as known
	willRetain bool
	accepted   uint64  // messages acknowledged since the start
	fleeting   bool    // nothing of the session is to last; for Probe
	abrupt     int     // short connections that ended in silence, in a row
	careful    int     // so many messages go one at a time
	suspect    suspect // the message that went alone when the server ended the connection
	latest     *flight // accepted last, nil: none yet; for proof
	newest     map[topicOf]spool.Seq
	deaf       string            // why subscribing failed, "" if it did not
	told       map[string]bool   // reasons logged in this outage
	refused    map[string]string // topics refused, with the reason, as logged
	pace       pace
	renewed    bool      // the last connection was ended to renew the password
	renewal    time.Time // when to connect with a new password; zero: never
	deadErr    string    // why the last dead letter was not written, as logged
}

// local is what a bridge needs of a broker.Broker.
type local interface {
	PublishFrom(ctx context.Context, msg *broker.Message, done func(error)) error
}

// New returns a bridge that is subscribed at the local broker, so that from
// now on the spool keeps what its send rules match. clock relates the present
// boot to wall time; it and br may be called from several goroutines.
func New(cfg Config, br *broker.Broker, clock func() broker.Clock, log *slog.Logger) (*Bridge, error) {
	b, err := newBridge(cfg, br, clock, log)
	if err != nil || len(cfg.Send) == 0 {
		return b, err
	}
	d, err := br.Durable(cfg.Name, b.send.filters, b.cfg.QoS)
	if err != nil {
		return nil, fmt.Errorf("bridge %s: subscribe at the local broker: %w", cfg.Name, err)
	}
	for c := range broker.NumClasses {
		if l := d.Log(c); l != nil {
			b.sources = append(b.sources, &source{class: c, id: l.ID(), last: l.Last, consumer: spoolConsumer{d.Consumer(c)}})
		}
	}
	return b, nil
}

func newBridge(cfg Config, br local, clock func() broker.Clock, log *slog.Logger) (*Bridge, error) {
	cfg, urls, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.Alike {
		urls = turned(urls, cfg.ClientID)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Bridge{
		cfg:        cfg,
		urls:       urls,
		user:       "bridge:" + cfg.Name,
		local:      br,
		clock:      clock,
		clockAt:    cfg.ClockAt,
		log:        log.With("bridge", cfg.Name),
		send:       newTable(cfg.Send, false),
		recv:       newTable(cfg.Receive, true),
		decode:     broker.DecodeRecord,
		random:     rand.Float64,
		willQoS:    1,
		willRetain: true,
		turns:      make(chan struct{}),
		newest:     make(map[topicOf]spool.Seq),
		changed:    make(chan struct{}, 1),
		told:       make(map[string]bool),
		refused:    make(map[string]string),
	}
	if b.clockAt == nil {
		b.clockAt = broker.ClockAs(cfg.BootID, clock)
	}
	b.pace = pace{
		messages: bucket{rate: cfg.Limits.Rate}, bytes: bucket{rate: cfg.Limits.ByteRate}, replay: bucket{rate: cfg.ReplayRate},
		day: newBudget(cfg.DailyBytes, cfg.DailyFile, b.today),
	}
	if cfg.Limits.NoRetain {
		b.willRetain = false
	}
	b.status.Store(cfg.Status)
	b.dial = cfg.dialer().dial
	now := cfg.Now()
	b.count.Stats = Stats{Name: cfg.Name, State: Connecting, Refused: make(map[string]uint64), Skipped: make(map[string]uint64), LostBy: make(map[string]uint64)}
	b.count.changed, b.count.outage, b.count.rateFrom = now, now, now
	return b, nil
}

// turned returns urls beginning with another one for each client id, so that
// a fleet does not crowd at the first server of a cluster.
func turned(urls []*url.URL, id string) []*url.URL {
	h := fnv.New32a()
	h.Write([]byte(id))
	n := int(h.Sum32() % uint32(len(urls)))
	return slices.Concat(urls[n:], urls[:n])
}

// watchCertificate speaks of the client certificate's end in time.
func (b *Bridge) watchCertificate(ctx context.Context) {
	end := expiry.Watch{What: "the client certificate of this bridge", Who: "the far broker refuses"}
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	var last *x509.Certificate
	for {
		leaf, path := b.cfg.Certificate()
		if last != nil && !leaf.Equal(last) {
			end.Renewed()
			b.log.Info("the client certificate was read again and is used from the next connection on", "cert", path, "until", leaf.NotAfter.UTC())
		}
		last = leaf
		clock := b.clock()
		end.Speak(b.log, leaf, path, clock.Wall(b.cfg.Now()), clock.Quality != broker.Unsynced)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// SetStatus changes what a bridge that has a Status says, at once if it is
// connected. The Will is as before until it connects anew. It may be called at
// any time.
func (b *Bridge) SetStatus(online, offline []byte) {
	old := b.status.Load()
	if old == nil {
		return
	}
	b.status.Store(&Status{Topic: old.Topic, Online: online, Offline: offline})
	select {
	case b.changed <- struct{}{}:
	default: // it will be told with what waits
	}
}

// settled is how long a connection must last for the next failure to count as
// the first: two gateways with one client id would else throw each other out
// once a second for ever.
const settled = 30 * time.Second

// Run keeps the bridge connected until ctx is done. Then it sends what is left
// for at most DrainTime, publishes the offline status and disconnects. It
// returns nil.
func (b *Bridge) Run(ctx context.Context) error {
	var aside sync.WaitGroup
	defer aside.Wait()
	defer b.pace.day.store()
	if b.cfg.Certificate != nil {
		aside.Go(func() { b.watchCertificate(ctx) })
	}
	for wait := b.firstWait(); ; {
		if !b.pause(ctx, wait) {
			return nil
		}
		u := b.nextURL()
		b.count.trying(u.Host)
		lasted, login, err := b.try(ctx, u)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errRenewal) {
			b.failed, b.abrupt, b.renewed, wait = 0, 0, true, 0
			if !b.cfg.Alike {
				b.next = 0
			}
			continue
		}
		b.lost(err, u.Host, login)
		wait = b.nextWait(lasted)
	}
}

// try connects to u and serves the connection until it is lost, or ctx is
// done, and returns how long that took. login says that it never began.
func (b *Bridge) try(ctx context.Context, u *url.URL) (lasted time.Duration, login bool, err error) {
	l, err := b.connect(ctx, u)
	if err != nil {
		return 0, true, err
	}
	start := time.Now()
	err = b.serve(ctx, l)
	return time.Since(start), false, err
}

// pause waits for d and reports whether ctx is not done.
func (b *Bridge) pause(ctx context.Context, d time.Duration) bool {
	over := time.After(d)
	for {
		select {
		case <-b.turns:
		case <-over:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// Turn waits until the loop of Run comes round: between two messages, or while
// it waits for anything but a connection. It reports whether it did before ctx
// was done, for whoever restarts a program that hangs.
func (b *Bridge) Turn(ctx context.Context) bool {
	select {
	case b.turns <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// credentials returns user and password for the next connection.
func (b *Bridge) credentials() (user, password string) {
	s := b.cfg.SAS
	if s == nil {
		return b.cfg.Username, b.cfg.Password
	}
	life := cmp.Or(s.Life, time.Hour)
	b.renewal = time.Now().Add(time.Duration(refresh * float64(life)))
	return b.cfg.Username, s.token(b.clock().Wall(b.cfg.Now()).Add(life))
}

// errRenewal ends a link whose password is about to expire.
var errRenewal = errors.New("the password is renewed")

// justBooted is for how long after a boot a bridge that starts has not been
// started by a person, who would wait for it.
const justBooted = 3 * time.Minute

// herd is how wide, as a power of two of the least wait, all waits are spread at
// least: a thousand gateways that lose their far broker, or that boot when power
// returns to a town, are in the same moment, and would come back in the same
// second. So at most about an eighth of them does. One that is alone loses a few
// seconds, in which its messages lie in the spool.
const herd = 3

// firstWait returns how long to wait before the first connection.
func (b *Bridge) firstWait() time.Duration {
	if b.cfg.Now() > int64(justBooted) {
		return 0
	}
	return time.Duration(b.random() * float64(min(b.cfg.MinBackoff<<herd, b.cfg.MaxBackoff)))
}

// nextURL returns where to connect to next.
func (b *Bridge) nextURL() *url.URL { return b.urls[b.next%len(b.urls)] }

// nextWait returns how long to wait after a connection that lasted so long, 0 if
// there was none, and chooses the URL for then.
func (b *Bridge) nextWait(lasted time.Duration) time.Duration {
	if b.failed++; lasted >= settled {
		b.failed, b.abrupt = 0, 0
	}
	if b.next++; !b.cfg.Alike {
		b.next = b.failed
	}
	return b.backoff(b.failed)
}

// backoff returns how long to wait after so many failures in a row: at random
// between the least and a bound that doubles each time all URLs were tried.
func (b *Bridge) backoff(failed int) time.Duration {
	least, most := b.cfg.MinBackoff, b.cfg.MaxBackoff
	round := max(0, failed-1)/len(b.urls) + 1
	bound := min(most, least<<min(max(round, herd), 16))
	return least + time.Duration(b.random()*float64(max(0, bound-least)))
}

// serve uses a link until it is lost, which is an error, or ctx is done.
func (b *Bridge) serve(ctx context.Context, l *link) error {
	b.restored(l)
	b.connected()
	streams := b.newStreams()
	s := b.newSender(l, streams)
	if status := b.status.Load(); status != nil {
		s.announce(status.Online)
	}
	if err := l.subscribe(ctx, b.recv.filters); l.err() == nil && ctx.Err() == nil {
		b.subscribed(err)
	}

	// Streams outlive ctx, for draining.
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	var readers sync.WaitGroup
	for _, st := range streams {
		readers.Go(func() {
			if err := st.run(reading); err != nil {
				s.broken <- err // has room for one of each
			}
		})
	}
	err := s.run(ctx)
	stop()
	readers.Wait()
	if err == nil {
		s.farewell()
		b.log.Info("uplink closed", "n", b.backlogRecords())
		return nil
	}
	if errors.Is(err, errRenewal) {
		l.leave()
		return err
	}
	b.suspectContent(s, err)
	l.abort()
	return err
}

// subscribed logs when subscribing begins and ceases to fail.
func (b *Bridge) subscribed(err error) {
	words := ""
	if err != nil {
		words = err.Error()
	}
	if words != "" && words != b.deaf {
		b.log.Error("uplink works, but commands will not arrive", "err", words)
	}
	if words == "" && b.deaf != "" {
		b.log.Info("commands will arrive again")
	}
	b.deaf = words
}

// A suspect is a message after which the far broker ended the connection.
type suspect struct {
	source  *source
	seq     spool.Seq
	strikes int  // connections that it ended, alone in flight
	proven  int  // of them those over which another message had passed before
	prove   bool // on the next connection another one is to go first
	told    bool // that nothing passes
}

// strikes is how often the far broker must end the connection upon the same
// message, sent alone, for it to be given up: fewer if it says that it is about
// the content than if it says nothing, for a link may just be bad.
const (
	strikes       = 3
	silentStrikes = 5
)

// proofs is how many strikes must be proven. A server that ends the connection
// upon everything, for want of rights or while it is in trouble, would else
// have one message after the other thrown away.
const proofs = 2

// lasting is how many strikes without one that is proven are told.
const lasting = 5

// abrupt is how many short connections must end in silence, with messages in
// flight, for one of these to be suspected.
const abrupt = 3

// suspectContent looks for the message because of which the far broker ended
// the connection instead of refusing it: for a while messages go one at a
// time, and the one that ends several connections over which others pass is
// given up.
func (b *Bridge) suspectContent(s *sender, err error) {
	if s.inFlight == 0 {
		return
	}
	most, words := silentStrikes, "the far broker ends the connection upon it, and upon no other"
	closed, reset := endedBy(err)
	if r, ok := errors.AsType[*refusal](err); ok && r.content() {
		most, words = strikes, reasonWords(r.code)
	} else if !closed && !reset {
		return
	} else if b.abrupt++; b.abrupt < abrupt {
		return
	}
	f := s.lastSent
	switch {
	case b.careful == 0 || s.inFlight != 1:
	case f.again: // not even what it has accepted before
		b.suspect.prove = false
	case f.source != nil && !reset:
		b.strike(f, s.passed, most, words)
	}
	b.careful = 10 * b.cfg.Window // more than what was in flight, with live ones in between
}

// endedBy reports whether the far end closed the connection, or the network
// says that it is gone. The latter is what becomes of a close while more is on
// its way to the far broker; a message that goes alone sees which it was.
func endedBy(err error) (closed, reset bool) {
	closed = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	return closed, errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// strike notes that the connection ended upon f, and gives it up once that is
// proven to be because of f.
func (b *Bridge) strike(f *flight, passed bool, most int, words string) {
	x := &b.suspect
	if x.source != f.source || x.seq != f.seq {
		*x = suspect{source: f.source, seq: f.seq}
	}
	x.strikes++
	if passed {
		x.proven++
	}
	x.prove = !x.prove
	if x.strikes >= most && x.proven >= proofs {
		b.refuse(f, words)
		return
	}
	if x.strikes >= lasting && x.proven == 0 && !x.told {
		x.told = true
		b.log.Error("the far broker ends the connection upon every message; nothing is given up for that, it is tried again and again",
			"topic", f.to, "seq", uint64(f.seq), "err", "look whether this client may publish to this topic there, and into the far broker's log")
	}
}

// cleared ends the suspicion of f.
func (b *Bridge) cleared(f *flight) {
	if b.suspect.source == f.source && b.suspect.seq == f.seq {
		b.suspect = suspect{}
	}
}

// keepLatest keeps f, which was accepted, as what may be sent again for proof,
// in the place of the one before.
func (b *Bridge) keepLatest(f *flight) {
	if cap(f.data) > maxLatest {
		f.release()
		return
	}
	if b.latest != nil {
		b.latest.release()
	}
	b.latest = f
}

// repeated returns the message accepted last as it is to be sent once more,
// under the same id; nil if there is none.
func (b *Bridge) repeated() *flight {
	old := b.latest
	if old == nil {
		return nil
	}
	f := newFlight()
	data := append(f.data[:0], old.data...)
	*f = *old
	f.data, f.again = data, true
	if b.decode(&spool.Record{Seq: old.seq, Stamp: old.msg.Stamp, Boot: old.boot, Data: data}, &f.msg) != nil {
		f.release()
		return nil
	}
	return f
}

// maxLatest is the largest message that is kept for proof, in bytes.
const maxLatest = 64 << 10

// accept takes f out of the spool: the far broker has it.
func (b *Bridge) accept(f *flight) {
	if f.source != nil && !f.again {
		f.consumer.Ack(f.seq)
		b.accepted++
		b.cleared(f)
		b.count.ackedOne(b.cfg.Now(), f.sent)
		if _, ok := b.refused[f.to]; ok {
			delete(b.refused, f.to)
			b.log.Info("messages are accepted upstream again", "topic", f.to)
		}
		b.keepLatest(f)
		return
	}
	f.release()
}

// maxRefused bounds how many topics are followed in the log.
const maxRefused = 64

// refuse gives f up, counted, kept as a dead letter, and logged when it begins
// for a topic.
func (b *Bridge) refuse(f *flight, words string) {
	if f.again { // it was accepted once, but proves nothing any more
		b.latest = nil
		f.release()
		return
	}
	b.cleared(f)
	if old, ok := b.refused[f.to]; old != words && (ok || len(b.refused) < maxRefused) {
		b.refused[f.to] = words
		b.log.Error("message refused upstream and given up", "topic", f.to, "seq", uint64(f.seq), "err", words)
	}
	if f.source != nil {
		b.bury(f, words)
		f.consumer.Ack(f.seq)
		b.count.mu.Lock()
		b.count.Refused[words]++
		b.count.mu.Unlock()
	}
	f.release()
}

// bury keeps f as a dead letter.
func (b *Bridge) bury(f *flight, words string) {
	if b.cfg.Dead == nil {
		return
	}
	clock, now := b.clock(), b.cfg.Now()
	err := b.cfg.Dead.Add(Dead{
		Time: clock.Wall(now), ClockNote: clock.Note(now), Bridge: b.cfg.Name, ID: MessageID(f.source.id, f.seq),
		Topic: f.msg.Topic, To: f.to, Reason: words, Retain: f.msg.Retain,
	}, f.msg.Payload)
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != b.deadErr {
		b.log.Error("dead letters cannot be kept", "err", err)
	}
	b.deadErr = said
}

// today names the day it is in the bridge's time zone. While nobody knows, days
// are counted from the start of the computer, and known is false.
func (b *Bridge) today() (day string, known bool) {
	clock, now := b.clock(), b.cfg.Now()
	if clock.Quality == broker.Unsynced {
		return fmt.Sprintf("day %d", now/int64(24*time.Hour)), false
	}
	return clock.Wall(now).In(b.cfg.Zone).Format(time.DateOnly), true
}

// reportGap counts a hole and tells the gateway.
func (b *Bridge) reportGap(s *source, g spool.Gap) {
	b.count.mu.Lock()
	b.count.Gaps++
	if !wanted(g.Reason) {
		b.count.Lost += g.Count
		b.count.LostBy[g.Reason] += g.Count
	}
	b.count.mu.Unlock()
	if b.cfg.OnGap != nil {
		b.gaps.Lock()
		defer b.gaps.Unlock()
		b.cfg.OnGap(Gap{Bridge: b.cfg.Name, Class: s.class, Gap: g})
	}
}

// wanted reports whether a gap is as the configuration wants it.
func wanted(reason string) bool { return reason == ReasonThinned || reason == ReasonSuperseded }

// backlogRecords returns how many records the far broker has not acknowledged.
func (b *Bridge) backlogRecords() (n uint64) {
	for _, s := range b.sources {
		n += s.consumer.Backlog().Records
	}
	return n
}

// restored logs a new connection.
func (b *Bridge) restored(l *link) {
	outage, first := b.count.up(b.cfg.Now())
	if b.renewed {
		b.renewed = false
		b.log.Debug("uplink connected with a new password", "url", l.host)
		return
	}
	if first && len(b.told) == 0 {
		b.log.Info("uplink connected", "url", l.host, "n", b.backlogRecords())
	} else {
		b.log.Info("uplink restored", "url", l.host, "dur", outage, "n", b.backlogRecords())
	}
	clear(b.told)
}

// lost logs the end or the lack of a connection: once in an outage, and once
// more for each reason that waits for a person.
func (b *Bridge) lost(err error, host string, login bool) {
	words, person := explain(err, host, login, time.Now())
	if _, tls := errors.AsType[*handshakeError](err); login && !tls && closedThere(err) && b.count.known() {
		words = fmt.Sprintf("%s closed the connection during login, though logging in has worked before: it is starting or has trouble of its own (a cluster: no majority of its servers, or no leader yet)", host)
	}
	b.count.down(b.cfg.Now(), words)
	switch {
	case person && !b.told[words] && len(b.told) < 8:
		b.log.Error("no uplink until somebody helps", "url", host, "err", words)
	case len(b.told) == 0:
		b.log.Warn("no uplink, trying again", "url", host, "err", words)
	default:
		b.log.Debug("no uplink, trying again", "url", host, "err", words)
		return
	}
	b.told[words] = true
}
