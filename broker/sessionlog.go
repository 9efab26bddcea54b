package broker

import (
	"encoding/binary"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"edgegateway/broker/spool"
)

// What lasts of sessions is in two stateLogs. One, beside the retained
// messages, has what changes seldom: that there is a session and what it is
// subscribed to. The other has what changes with every message, and lies in the
// runtime folder, on a tmpfs that is kept over restarts: kill -9 loses none of
// it. A power cut does; then QoS 2 may deliver twice, and what was delivered
// shortly before is delivered again. Cursors are copied to the first one when
// the program ends and, while a backlog is read from the medium, now and then.
// When the medium is to be current always there is only the first one.
//
// The body of a record is its kind, the number of the session (uvarint) and
// then
//
//	created     client id | user | expiry u32
//	ended
//	subscribed  options (1 byte) | subscription id uvarint | filter
//	left        filter
//	cursor      pos u64 | last identifier u16 | n uvarint, each: identifier u16, state (1 byte), number u64;
//	            what is complete, but beyond pos, has no identifier
//	received    identifier u16 | 1: yes, 0: released
//	sent        identifier u16 | state (1 byte) | number u64
//	presence    1: connected | boot id 16 | since i64 | delay of the will u32 | will: a message, or nothing
//	numbers     id of the log of sessions: the numbers above are its; the session number is the next one
//
// Strings have a uvarint length before them.
const (
	sessionsFile    = "sessions.log"
	sessionsRun     = "sessions.run"
	sessionsMagic   = "GWSESSNS"
	sessionsVersion = 1
)

type sessionKind byte

const (
	kindCreated sessionKind = iota + 1
	kindEnded
	kindSubscribed
	kindLeft
	kindCursor
	kindReceived
	kindSent
	kindPresence
	kindNumbers
)

// stateGone is the state of a QoS 2 message whose exchange is complete.
const stateGone sentState = 255

// A sessionStore keeps sessions that last.
type sessionStore struct {
	limits   *Limits
	log      *spool.Log
	consumer *spool.Consumer // all sessions together
	kept     *stateLog
	run      *stateLog // kept, if that is to be current always
	next     uint32    // number of the next session; guarded by Broker.mu
	readers  chan struct{}
	boot     [16]byte
}

// openSessions opens the log of sessions and what is kept of them. It returns
// nil when nothing lasts.
func openSessions(cfg *Config, limits *Limits, log *slog.Logger) (*sessionStore, *savedSessions, error) {
	if cfg.Sessions == nil || cfg.StateDir == "" {
		return nil, nil, nil
	}
	consumer, err := cfg.Sessions.Consumer("sessions")
	if err != nil {
		return nil, nil, err
	}
	consumer.Silence()
	st := &sessionStore{
		limits: limits, log: cfg.Sessions, consumer: consumer, next: 1,
		readers: make(chan struct{}, 4), boot: cfg.Sessions.BootID(),
	}
	saved := &savedSessions{byNo: make(map[uint32]*savedSession), logID: st.log.ID(), next: 1}
	policy := cfg.Sessions.Policy()
	st.kept = &stateLog{
		path: filepath.Join(cfg.StateDir, sessionsFile), what: "sessions", every: stateEvery(policy),
		magic: sessionsMagic, version: sessionsVersion, log: log,
	}
	if err := st.kept.open(saved.read); err != nil {
		return nil, nil, err
	}
	sameKept, sameRun := saved.same, true
	st.run = st.kept
	if policy.Mode != spool.Always {
		dir := cfg.RuntimeDir
		if dir == "" {
			dir = cfg.StateDir
		}
		st.run = &stateLog{
			path: filepath.Join(dir, sessionsRun), what: "positions of sessions", every: -1,
			magic: sessionsMagic, version: sessionsVersion, log: log,
		}
		saved.same = false
		if err := st.run.open(saved.read); err != nil {
			return nil, nil, err
		}
		sameRun = saved.same
	}
	st.next = saved.next
	if !sameKept {
		st.kept.append(st.numbersRecord(), nil)
	}
	if !sameRun {
		st.run.append(st.numbersRecord(), nil)
	}
	return st, saved, nil
}

// withSnapshots has the logs hold all that bodies returns, each time they are
// asked: what changes seldom, and what changes often.
func (st *sessionStore) withSnapshots(bodies func(seldom bool) [][]byte) {
	st.kept.snapshot = func() iter.Seq[[]byte] { return slices.Values(bodies(true)) }
	st.run.snapshot = st.kept.snapshot
	if st.run != st.kept {
		st.run.snapshot = func() iter.Seq[[]byte] { return slices.Values(bodies(false)) }
	}
}

// stateEvery returns how often state is synced under a policy.
func stateEvery(p spool.Policy) time.Duration {
	switch p.Mode {
	case spool.Always:
		return 0
	case spool.Off:
		return -1
	}
	return stateSync
}

func sessionRecord(kind sessionKind, no uint32) []byte {
	return binary.AppendUvarint([]byte{byte(kind)}, uint64(no))
}

func createdRecord(s *session) []byte {
	dst := sessionRecord(kindCreated, s.no)
	dst = appendString(appendString(dst, s.id), s.user)
	return binary.LittleEndian.AppendUint32(dst, s.expiry)
}

func subscribedRecord(no uint32, filter string, o options) []byte {
	flags := o.qos
	if o.noLocal {
		flags |= 4
	}
	if o.retainAsPublished {
		flags |= 8
	}
	dst := append(sessionRecord(kindSubscribed, no), flags)
	return appendString(binary.AppendUvarint(dst, uint64(o.subID)), filter)
}

func leftRecord(no uint32, filter string) []byte {
	return appendString(sessionRecord(kindLeft, no), filter)
}

func receivedRecord(no uint32, id uint16, there bool) []byte {
	dst := binary.LittleEndian.AppendUint16(sessionRecord(kindReceived, no), id)
	if there {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendSent(dst []byte, id uint16, state sentState, seq spool.Seq) []byte {
	dst = append(binary.LittleEndian.AppendUint16(dst, id), byte(state))
	return binary.LittleEndian.AppendUint64(dst, uint64(seq))
}

func sentRecord(no uint32, id uint16, state sentState, seq spool.Seq) []byte {
	return appendSent(sessionRecord(kindSent, no), id, state, seq)
}

// cursorRecordLocked returns where the outbox stands in the log.
func (o *outbox) cursorRecordLocked() []byte {
	dst := sessionRecord(kindCursor, o.backlog.no)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(o.posLocked()))
	dst = binary.LittleEndian.AppendUint16(dst, o.lastID)
	var list []byte
	n := 0
	for i := range o.window.len() {
		if s := o.window.at(i); s.seq != 0 {
			list = appendSent(list, s.id, s.state, s.seq)
			n++
		}
	}
	for seq := range o.backlog.skip {
		if seq > o.posLocked() {
			list = appendSent(list, 0, stateGone, seq)
			n++
		}
	}
	return append(binary.AppendUvarint(dst, uint64(n)), list...)
}

func (st *sessionStore) presenceRecord(s *session, connected bool, now int64) []byte {
	dst := sessionRecord(kindPresence, s.no)
	if connected {
		dst = append(dst, 1)
	} else {
		dst = append(dst, 0)
	}
	dst = append(dst, st.boot[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(now))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(s.willDelay/time.Second))
	if s.will != nil {
		dst = appendMessage(dst, s.will)
	}
	return dst
}

func (st *sessionStore) numbersRecord() []byte {
	return appendString(sessionRecord(kindNumbers, st.next), st.log.ID())
}

// A savedSession is what the logs tell of one session.
type savedSession struct {
	no        uint32
	id, user  string
	expiry    uint32
	subs      map[string]options
	pos       spool.Seq
	lastID    uint16
	window    []sent
	done      map[spool.Seq]bool // beyond pos
	received  sentSet
	present   bool
	boot      [16]byte
	since     int64
	will      *Message
	willDelay time.Duration
}

// savedSessions collects what the logs tell.
type savedSessions struct {
	byNo  map[uint32]*savedSession
	next  uint32
	logID string // of the log of sessions now
	same  bool   // the numbers that are read are its
}

// read takes one record and says whether it is sound.
func (ss *savedSessions) read(body []byte) bool {
	if len(body) == 0 {
		return false
	}
	kind, c := sessionKind(body[0]), recordCursor{b: body[1:]}
	no := uint32(c.uvarint(1<<32 - 1))
	if kind == kindNumbers {
		ss.next = max(ss.next, no)
		ss.same = string(c.data()) == ss.logID
		return !c.bad
	}
	s := ss.byNo[no]
	if kind == kindCreated {
		if s == nil {
			s = &savedSession{no: no, subs: make(map[string]options), received: make(sentSet), done: make(map[spool.Seq]bool)}
			ss.byNo[no] = s
		}
		s.id, s.user, s.expiry = string(c.data()), string(c.data()), c.u32()
		ss.next = max(ss.next, no+1)
		return !c.bad
	}
	if s == nil { // it has ended
		return !c.bad
	}
	if kind == kindEnded {
		delete(ss.byNo, no)
		return !c.bad
	}
	return s.read(kind, &c, ss.same)
}

func (s *savedSession) read(kind sessionKind, c *recordCursor, sameLog bool) bool {
	switch kind {
	case kindSubscribed:
		flags, subID, filter := c.u8(), uint32(c.uvarint(1<<28)), string(c.data())
		if c.bad || ValidFilter(filter) != nil || flags&3 == 3 {
			return false
		}
		s.subs[filter] = options{qos: flags & 3, noLocal: flags&4 != 0, retainAsPublished: flags&8 != 0, subID: subID}
	case kindLeft:
		delete(s.subs, string(c.data()))
	case kindCursor:
		s.readCursor(c, sameLog)
	case kindReceived:
		id, there := c.u16(), c.u8() == 1
		if delete(s.received, id); there && !c.bad {
			s.received[id] = true
		}
	case kindSent:
		id, state, seq := c.u16(), sentState(c.u8()), spool.Seq(c.u64())
		if !c.bad && sameLog {
			s.noteSent(id, state, seq)
		}
	case kindPresence:
		s.readPresence(c)
	default:
		return false
	}
	return !c.bad
}

func (s *savedSession) readCursor(c *recordCursor, sameLog bool) {
	pos, lastID := spool.Seq(c.u64()), c.u16()
	var window []sent
	done := make(map[spool.Seq]bool)
	for range c.count() {
		e := sent{id: c.u16(), state: sentState(c.u8())}
		e.seq = spool.Seq(c.u64())
		switch {
		case c.bad || e.state > sentRelease && e.state != stateGone:
			c.fail()
			return
		case e.state == stateGone:
			done[e.seq] = true
			continue
		case e.state == sentRelease:
			e.qos = 2
		}
		window = append(window, e)
	}
	if c.bad || !sameLog || pos < s.pos {
		return
	}
	s.pos, s.lastID, s.window, s.done = pos, lastID, window, done
}

// noteSent follows a QoS 2 message from its sending to its end.
func (s *savedSession) noteSent(id uint16, state sentState, seq spool.Seq) {
	s.lastID = id
	at := -1
	for i := range s.window {
		if s.window[i].id == id {
			at = i
		}
	}
	switch {
	case state == stateGone && at >= 0:
		s.window = append(s.window[:at:at], s.window[at+1:]...)
	case state <= sentRelease && at < 0:
		e := sent{id: id, state: state}
		e.seq, e.qos = seq, 2
		s.window = append(s.window, e)
	case state <= sentRelease:
		s.window[at].state, s.window[at].seq, s.window[at].qos = state, seq, 2
	}
	if seq > s.pos {
		s.done[seq] = true
	}
}

func (s *savedSession) readPresence(c *recordCursor) {
	s.present = c.u8() == 1
	copy(s.boot[:], c.take(16))
	s.since = int64(c.u64())
	s.willDelay = time.Duration(c.u32()) * time.Second
	s.will = nil
	if rest := c.b; len(rest) > 0 && !c.bad {
		m := new(Message)
		if decodeMessage(rest, m) != nil || ValidTopic(m.Topic) != nil {
			c.fail()
			return
		}
		m.Client = s.id
		s.will = m.clone()
	}
}
