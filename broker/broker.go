// Package broker is the embedded MQTT broker: versions 3.1, 3.1.1 and 5, over
// TCP, TLS, WebSocket and Unix sockets.
//
// # Decisions
//
// A PUBACK means that the message is safe. A message that a bridge is owed is
// appended to the spool log of its class, one that a lasting session is owed to
// the log of sessions, a retained one of an external client to the log of
// retained messages, and its publisher is acknowledged when all are done. Several publishes of a client may be under
// way; their acknowledgements leave in the order in which the publishes came.
//
// Routing happens once, when a message arrives, in one step under one mutex:
// match, append, retain, enqueue. That makes one order for all subscribers,
// for what is retained and for what is stored. Nobody does I/O holding that
// mutex: a socket belongs to its client's writer, a goroutine that is there as
// long as there is something to write, files to the goroutines of their logs.
// The order of locks is Broker.mu, outbox.mu.
//
// Nobody waits for a slow subscriber but network publishers. Each subscriber
// has a queue bounded by count and bytes. While it is full and moves, network
// publishers to it wait, and TCP makes their clients wait. If it does not
// move, its QoS 0 messages are dropped and counted, and when it has owed
// QoS 1 messages for Limits.Stuck it is disconnected. Publish, the gateway's
// own, never waits: what does not fit is dropped for that subscriber, and
// counted. While a client's publish waits, its next ones are held, within
// bounds, so that its acknowledgements are still read; when even that is too
// much, its own queue may be longer while nothing is read of it. So two clients
// that flood each other, or one that floods itself, do not wait in a circle.
//
// A session that outlives its connection is a consumer of a log of its own kind,
// Config.Sessions, whose records name the sessions that are owed them. What
// comes while its client is connected and keeps up goes to its queue too, and
// is forgotten by the log as soon as all have acknowledged it, without ever
// reaching the medium. A client that was away, or does not keep up, is served
// from the log until it has caught up; see backlog.go. The log is not one of
// those of bridges, so that a session that nobody fetches never costs a bridge
// its room; a message owed to both is in both. What else is known of sessions
// is in sessionlog.go. Without Config.Sessions all sessions end with their
// connections.
//
// Retained messages are in memory. Those of external clients are in a log
// besides; the gateway's own are rebuilt by its first poll.
//
// # Who may publish what
//
// No client may publish to a topic that begins with $; everything else is up
// to Config.Allow. What is refused is answered with 0x87 on MQTT 5; 3.1.1
// has no such answer, and a client whose connection is closed for it would
// come back and try again for ever, so it is acknowledged, dropped, counted
// and logged once for each connection.
package broker

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix" // CLOCK_BOOTTIME, which package time does not offer

	"edgegateway/broker/spool"
)

// An Access is what someone wants to do with a topic.
type Access uint8

const (
	Write     Access = iota // publish to a topic
	Read                    // receive a message of a topic
	Subscribe               // subscribe to a filter
)

func (a Access) String() string { return [...]string{"write", "read", "subscribe"}[a] }

// Limits bound what clients can take. A zero field means its default.
type Limits struct {
	Connections   int           // open at once: 500
	PerAddress    int           // of them from one address: 100, from this machine as many as there may be
	Sessions      int           // that outlive their connection: 1000
	SessionQueue  int           // messages that wait for one of them: 10000
	SessionBytes  int           // bytes of them: 16 MiB
	SessionAge    time.Duration // of them: 7 days
	SessionExpiry time.Duration // that a session lasts without a connection, at most: 30 days
	KeepAlive     time.Duration // that a client may ask for at most, MQTT 5 only; 0: any
	Packet        int           // bytes of a packet, once CONNECT is accepted: 256 KiB; the spool takes no more than 1 MiB
	Queue         int           // messages waiting for one subscriber: 10000
	QueueBytes    int           // bytes of them: 4 MiB
	Window        int           // messages sent to one subscriber and not acknowledged: 20 before MQTT 5, 100 since
	Subscriptions int           // of one client: 1000
	Levels        int           // of a topic or filter: 128
	Retained      int           // retained messages of external clients: 100000
	RetainedBytes int           // bytes of them: 64 MiB
	Stuck         time.Duration // without progress for this long, a subscriber is disconnected: 10 s
}

// A Config says how a broker is set up.
type Config struct {
	Listen      []Listen
	Origins     []string     // of pages whose scripts may connect by WebSocket, as "https://panel.example"; nil: of any
	Certificate *Certificate // whose Config the listeners have, to be kept an eye on; nil: none
	Limits      Limits
	StateDir    string                 // keeps retained messages of external clients and sessions; "": they end with the process
	Logs        [NumClasses]*spool.Log // nil: nothing of that class is durable
	// Sessions holds what sessions are owed that outlive their connection; nil:
	// none does. RuntimeDir keeps what changes with every message of theirs:
	// a folder on a tmpfs that is kept over restarts; "": StateDir.
	Sessions   *spool.Log
	RuntimeDir string

	// Allow says whether user (whose client is clientID, "" for a bridge) may
	// do that; nil allows everything. User is "" for anonymous clients and
	// "bridge:NAME" for a bridge. It is called with the broker locked: it must
	// neither block nor call the broker.
	Allow func(user, clientID, topic string, access Access) bool
	// AllowAll says that Allow lets user receive every message that filter
	// selects, so that it is not asked for each. Nil: it is. The same holds for
	// it as for Allow.
	AllowAll func(user, clientID, filter string) bool
	// Authenticate returns who logs in, "" for an anonymous client, or why not:
	// a *packet.Error says so to the client. It may take its time until ctx is
	// done; many may run at once. Nil: whoever connects is anonymous, whatever
	// name it gives.
	Authenticate func(ctx context.Context, l Login) (user string, err error)

	Version string        // of the gateway, for $SYS/broker/version
	Sys     time.Duration // between messages of $SYS: 10 s; below 0: there are none

	Now   func() int64 // CLOCK_BOOTTIME, nanoseconds; nil: the system's
	Clock func() Clock // nil: never synchronised
	// ClockAt does so for what waited, also since before a reboot. Nil: what
	// Clock tells, and of other boots what their records do.
	ClockAt ClockAt
	Log     *slog.Logger // nil: none
}

// A Broker routes messages between clients, the gateway and bridges. All its
// methods may be called at any time, from any goroutine.
type Broker struct {
	cfg    Config
	limits Limits
	log    *slog.Logger
	now    func() int64
	ready  chan struct{} // closed when all addresses were tried
	run    sync.WaitGroup
	// relisten is how often an address that cannot be had is tried again.
	relisten time.Duration
	counts   counters
	past     traffic // of clients that are gone, and of the gateway itself

	boot       [16]byte // this one, as the logs have it
	clockAt    ClockAt
	sessionLog *sessionStore // nil: no session lasts; its next field is guarded by mu

	hanging  sync.WaitGroup  // connections that have ended but for their last bytes
	stopping context.Context // done when a stopping broker waits no longer
	stopNow  context.CancelFunc
	conns    sync.Mutex        // guards the next four
	addrs    []net.Addr        // by the place in cfg.Listen; nil: does not listen
	open     map[net.Conn]bool // all connections: whether its CONNECT was accepted
	told     time.Time         // when it was last logged that there are too many
	sources  sources

	mu       sync.Mutex // guards all below; held for memory work only
	logs     [NumClasses]journal
	subs     tree
	clients  map[string]*client  // connected or ending, by client id
	sessions map[string]*session // that last, by client id
	groups   map[string]*group   // by filter with $share
	sys      sysState
	durables map[string]*Durable
	retained retainedStore
	urgent   [NumClasses]bool              // what sessions are owed of it is to be on the medium at once
	matched  []subscription                // scratch of route
	targets  []target                      // scratch of route
	handlers []func(*Message, func(error)) // scratch of route
	record   []byte                        // scratch of route
	lasting  []sessionTarget               // scratch of route
	routes   uint64                        // messages routed; marks clients met in the present one
	reviews  uint64                        // calls of Review
	stopped  bool
}

// A journal is what the broker needs of a spool.Log.
type journal interface {
	Append(rec spool.Record, done func(error)) (spool.Seq, error)
	Full(size int) bool
	Drop(rec spool.Record)
	Room() <-chan struct{}
}

// New returns a broker that has read its state and listens nowhere yet.
func New(cfg Config) (*Broker, error) {
	b := &Broker{
		cfg: cfg, limits: cfg.Limits.withDefaults(), log: cfg.Log, now: cfg.Now,
		ready: make(chan struct{}), open: make(map[net.Conn]bool), addrs: make([]net.Addr, len(cfg.Listen)),
		clients: make(map[string]*client), sessions: make(map[string]*session), groups: make(map[string]*group),
		durables: make(map[string]*Durable),
		relisten: 5 * time.Second,
	}
	b.stopping, b.stopNow = context.WithCancel(context.Background())
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.now == nil {
		b.now = BootTime
	}
	for c, l := range cfg.Logs {
		if l != nil {
			b.boot = l.BootID()
			b.logs[c] = l
			b.urgent[c] = l.Policy().Mode == spool.Always
		}
	}
	if cfg.Sessions != nil {
		b.boot = cfg.Sessions.BootID()
	}
	if b.clockAt = cfg.ClockAt; b.clockAt == nil {
		b.clockAt = ClockAs(b.boot, cfg.Clock)
	}
	if c := cfg.Certificate; c != nil {
		c.log = b.log
	}
	every := stateSync
	if cfg.Sessions != nil {
		every = stateEvery(cfg.Sessions.Policy())
	}
	if err := b.retained.load(cfg.StateDir, every, b.now(), b.log); err != nil {
		return nil, fmt.Errorf("load retained messages: %w", err)
	}
	if l := b.retained.log; l != nil {
		l.keep(b.externalRetained)
	}
	if err := b.loadSessions(); err != nil {
		return nil, fmt.Errorf("load sessions: %w", err)
	}
	return b, nil
}

func (b *Broker) externalRetained() []*Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.retained.external()
}

func (l Limits) withDefaults() Limits {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&l.Connections, 500)
	def(&l.Sessions, 1000)
	def(&l.SessionQueue, 10_000)
	def(&l.SessionBytes, 16<<20)
	def(&l.Packet, 256<<10)
	def(&l.Queue, 10_000)
	def(&l.QueueBytes, 4<<20)
	def(&l.Subscriptions, 1000)
	def(&l.Levels, 128)
	def(&l.Retained, 100_000)
	def(&l.RetainedBytes, 64<<20)
	age := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	age(&l.SessionAge, 7*24*time.Hour)
	age(&l.SessionExpiry, 30*24*time.Hour)
	age(&l.Stuck, 10*time.Second)
	return l
}

// BootTime returns CLOCK_BOOTTIME in nanoseconds, the clock of Message.Stamp.
func BootTime() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return ts.Nano()
}

// grace is how long a stopping broker waits for acknowledgements and queues.
const grace = 2 * time.Second

// Run listens and serves until ctx is done. Then it takes no more, gives what
// is queued a moment to leave, tells the clients, and returns nil. It does not
// fail: an address that cannot be had is tried again and again.
func (b *Broker) Run(ctx context.Context) error {
	stopSaving := b.startSaving()
	defer stopSaving()
	if c := b.cfg.Certificate; c != nil {
		b.run.Go(func() { c.watch(ctx, b.wallTime) })
	}
	var tried sync.WaitGroup
	for i := range b.cfg.Listen {
		tried.Add(1)
		b.run.Go(func() { b.listenLoop(ctx, i, tried.Done) })
	}
	tried.Wait()
	close(b.ready)
	if b.cfg.Sys >= 0 {
		b.run.Go(func() { b.sysLoop(ctx) })
	}
	<-ctx.Done()
	b.shutClients()
	defer b.stopNow()
	timer := time.AfterFunc(grace, b.stopNow)
	defer timer.Stop()
	b.run.Wait()
	b.stopNow()
	b.hanging.Wait()
	return nil
}

// startSaving runs what writes state, and returns what ends that once all is
// written.
func (b *Broker) startSaving() (stop func()) {
	var logs []*stateLog
	if l := b.retained.log; l != nil {
		logs = append(logs, &l.stateLog)
	}
	stopKeeping := func() {}
	if st := b.sessionLog; st != nil {
		logs = append(logs, st.kept)
		if st.run != st.kept {
			logs = append(logs, st.run)
		}
	}
	var saving sync.WaitGroup
	for _, l := range logs {
		saving.Go(l.loop)
	}
	if b.sessionLog != nil {
		stopKeeping = b.startKeeping()
	}
	return func() {
		stopKeeping()
		for _, l := range logs {
			l.close()
		}
		saving.Wait()
	}
}

// Ready is closed when the broker listens at all its addresses, or has found
// that it cannot yet.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// Addr returns where the broker listens for the i-th address, nil while it
// cannot. It waits until Ready.
func (b *Broker) Addr(i int) net.Addr {
	<-b.ready
	b.conns.Lock()
	defer b.conns.Unlock()
	return b.addrs[i]
}

// Handle has fn called with each message that filter selects, on the goroutine
// of its publisher: fn must not block. The message is as it was published,
// with Retain as its publisher set it. What was retained before is not given.
func (b *Broker) Handle(filter string, fn func(msg *Message)) error {
	return b.HandleSafe(filter, func(msg *Message, done func(error)) {
		fn(msg)
		done(nil)
	})
}

// HandleSafe is Handle for an fn that makes the message safe: its publisher is
// acknowledged only when done was called, and told so if that was with an
// error. fn must see to it that done is called once, by any goroutine, be it
// after fn has returned.
func (b *Broker) HandleSafe(filter string, fn func(msg *Message, done func(error))) error {
	if err := ValidFilter(filter); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs.add(filter, subscription{&subscriber{handle: fn}, options{qos: 2}})
	return nil
}

// The reasons for which messages are dropped.
type dropReason int

const (
	dropQueueFull dropReason = iota // a subscriber's queue was full
	dropStuck                       // waiting for a subscriber that was disconnected for being stuck
	dropEnded                       // waiting for a subscriber whose session ended
	dropSession                     // the queue of a session that lasts was full: its oldest
	dropAged                        // it waited for a session for too long
	dropExpired
	dropTooLarge // for a subscriber's Maximum Packet Size
	dropRefused  // published without permission
	dropDurable  // the spool took it not: only QoS 0 and the gateway's own; others are refused
	dropInvalid  // the gateway's own to an invalid topic
	numDropReasons
)

var dropNames = [numDropReasons]string{"queue full", "stuck", "session ended", "session queue full", "too old for its session", "expired", "too large", "refused", "not stored", "invalid"}

// counters count since the start.
type counters struct {
	connections, errors, expired atomic.Uint64
	dropped                      [numDropReasons]atomic.Uint64
}

func (b *Broker) drop(why dropReason, n int) { b.counts.dropped[why].Add(uint64(n)) }

// traffic counts what comes and goes. Each client has its own, so that they do
// not meet in one place for every message.
type traffic struct {
	in, out               atomic.Uint64 // messages
	payloadIn, payloadOut atomic.Uint64 // bytes of them
	packetsIn, packetsOut atomic.Uint64
	bytesIn, bytesOut     atomic.Uint64
}

// add adds what another one counted, which has to be at rest.
func (t *traffic) add(other *traffic) {
	for i, n := range other.all() {
		t.all()[i].Add(n.Load())
	}
}

func (t *traffic) all() [8]*atomic.Uint64 {
	return [...]*atomic.Uint64{&t.in, &t.out, &t.payloadIn, &t.payloadOut, &t.packetsIn, &t.packetsOut, &t.bytesIn, &t.bytesOut}
}

// trafficLocked returns the traffic of all clients there are and were.
func (b *Broker) trafficLocked() *traffic {
	sum := new(traffic)
	sum.add(&b.past)
	for _, c := range b.clients {
		sum.add(&c.traffic)
	}
	return sum
}

// Stats are counts since the start, and what there is now.
type Stats struct {
	Clients        int               `json:"clients"`
	Sessions       int               `json:"sessions"`        // that outlive their connection, of those connected and others
	Connections    uint64            `json:"connections"`     // accepted since the start
	ProtocolErrors uint64            `json:"protocol_errors"` // connections that ended with one
	MessagesIn     uint64            `json:"messages_in"`
	MessagesOut    uint64            `json:"messages_out"`
	BytesIn        uint64            `json:"bytes_in"`
	BytesOut       uint64            `json:"bytes_out"`
	Dropped        map[string]uint64 `json:"dropped"` // by reason; all reasons are there
	Retained       int               `json:"retained"`
	Subscriptions  int               `json:"subscriptions"`
}

// Stats returns the present figures.
func (b *Broker) Stats() Stats {
	c := &b.counts
	s := Stats{Connections: c.connections.Load(), ProtocolErrors: c.errors.Load(), Dropped: make(map[string]uint64, numDropReasons)}
	for i := range c.dropped {
		s.Dropped[dropNames[i]] = c.dropped[i].Load()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.trafficLocked()
	s.MessagesIn, s.MessagesOut, s.BytesIn, s.BytesOut = t.in.Load(), t.out.Load(), t.bytesIn.Load(), t.bytesOut.Load()
	s.Clients, s.Sessions = len(b.clients), len(b.sessions)
	s.Retained, s.Subscriptions = b.retained.len(), b.subs.count
	return s
}

// ClientStats are the figures of one client: one that is connected, or has a
// session that lasts.
type ClientStats struct {
	ID            string    `json:"id"`
	User          string    `json:"user,omitempty"`
	Connected     bool      `json:"connected"`
	Address       string    `json:"address,omitempty"`
	Version       string    `json:"version,omitempty"` // of the protocol
	Since         time.Time `json:"since,omitzero"`    // of the connection
	Lasts         bool      `json:"lasts"`             // its session outlives the connection
	Subscriptions int       `json:"subscriptions"`
	Queue         int       `json:"queue"` // messages waiting for it
	QueueBytes    int       `json:"queue_bytes"`
	InFlight      int       `json:"in_flight"` // sent and not acknowledged
	Dropped       uint64    `json:"dropped"`   // of its session, since the start
	In            uint64    `json:"in"`        // messages, of the connection
	Out           uint64    `json:"out"`
}

// ClientStats returns the figures of all clients, by client id.
func (b *Broker) ClientStats() []ClientStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]ClientStats, 0, len(b.clients)+len(b.sessions))
	for _, c := range b.clients {
		all = append(all, c.stats())
	}
	for _, s := range b.sessions {
		if b.clients[s.id] == nil {
			all = append(all, s.stats())
		}
	}
	slices.SortFunc(all, func(x, y ClientStats) int { return strings.Compare(x.ID, y.ID) })
	return all
}

func (s *session) stats() ClientStats {
	o := s.out
	o.mu.Lock()
	defer o.mu.Unlock()
	st := ClientStats{
		ID: s.id, User: s.user, Connected: s.client != nil, Lasts: s.lasts(), Subscriptions: len(s.subs),
		Queue: o.queue.len(), QueueBytes: o.bytes, InFlight: o.window.len(),
	}
	if b := o.backlog; b != nil {
		st.Queue += b.unread()
		st.QueueBytes += b.unreadSize()
		st.Dropped = b.dropped
	}
	return st
}
