package broker

import (
	"sync"
	"time"

	"edgegateway/broker/packet"
	"edgegateway/broker/spool"
)

// A delivery is a message on its way to one subscriber.
type delivery struct {
	msg    *Message // shared: nobody changes it
	qos    byte
	retain bool
	subIDs []uint32
	group  *group     // nil, or the shared subscription that it was chosen for
	seq    spool.Seq  // in the log of sessions, 0: not there
	owed   *owedCount // nil, or those who have to get seq
	again  uint16     // not 0: it was sent before, under this identifier
}

// The states of a message that was sent.
type sentState uint8

const (
	sentPublish sentState = iota // PUBACK or PUBREC is to come
	sentRelease                  // PUBREC came: PUBCOMP is to come
)

// A sent is a delivery with the packet identifier it was given, 0 for QoS 0.
// Identifiers are the broker's own: the client's are another space.
type sent struct {
	id      uint16
	state   sentState
	counted bool   // against Receive Maximum
	serial  uint32 // identifiers given before it
	delivery
}

// A pendingAck answers one publish of the client once it is safe.
type pendingAck struct {
	kind   packet.Type // PUBACK or PUBREC
	id     uint16
	ready  bool
	reason packet.Reason
	why    string
}

const (
	maxControl = 64 << 10 // bytes of answers that a client may leave unread
	maxPending = 1000     // publishes of a client that are not answered yet; its Receive Maximum
	maxBatch   = 64       // messages taken at once
	batchBytes = 32 << 10 // of them, about: what has to leave for a queue to count as moving
)

// An outbox holds what goes to one session: answers, which come first, then
// messages in order, as many as the window has room for. Publishers push, the
// client's writer takes. That of a session that lasts is there while nobody is
// connected, too; what is in the log of sessions it then holds only there.
type outbox struct {
	limit    int // messages in queue; publishers see to it, see Broker.route
	maxBytes int // bytes in queue

	mu       sync.Mutex
	version  packet.Version
	problems bool   // the client wants to know reasons
	max      int    // messages sent and not acknowledged
	control  []byte // encoded answers
	queue    fifo[delivery]
	bytes    int        // cost of queue
	window   fifo[sent] // not acknowledged, in the order they were sent
	inflight int        // those of them that count against Receive Maximum
	lastID   uint16
	serial   uint32            // identifiers given
	acks     fifo[*pendingAck] // in the order the publishes came
	last     time.Time         // when the queue last moved, or began to fill
	moved    chan struct{}     // closed when anything leaves; nil: nobody waits
	writing  bool              // there is a writer
	again    bool              // it has to look again
	ended    bool              // there will be none
	corked   bool              // nothing leaves
	greeted  bool              // the CONNACK is on its way: nothing may go before it (MQTT 5, 3.2.0-1)
	unread   bool              // nothing is read of the client, so that it cannot acknowledge
	state    outboxState
	final    []byte   // the last packet, once closing
	received sentSet  // QoS 2 publishes of the client that are not released
	client   *client  // connected, or the last one that was
	backlog  *backlog // nil: the session ends with its connection
}

// A sentSet is the identifiers of QoS 2 publishes and whether they were
// answered.
type sentSet map[uint16]bool

type outboxState uint8

const (
	outboxAway     outboxState = iota // nobody is connected
	outboxOpen                        //
	outboxDraining                    // what is queued leaves, then final
	outboxClosing                     // answers leave, then final
	outboxClosed                      // nothing leaves any more
)

// open has the outbox serve a connection; nothing leaves before cork(false).
func (o *outbox) open(c *client, p *packet.Connect, max int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.client, o.version, o.max, o.state, o.corked, o.greeted = c, c.version, max, outboxOpen, true, false
	o.writing, o.again, o.ended = false, false, false
	o.problems = p.Props.Num(packet.RequestProblem, 1) == 1
	o.last = time.Now()
	if o.backlog != nil {
		o.backlog.reading = false
		o.catchUpLocked()
	}
}

// full says whether the queue has no room, for how long it has not moved, and
// returns a channel that is closed when it moves.
func (o *outbox) full(qos byte) (full bool, idle time.Duration, moved <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.fullLocked(qos) {
		return false, 0, nil
	}
	return true, time.Since(o.last), o.movedLocked()
}

// ready says whether somebody is connected, and whether the queue has no room.
func (o *outbox) ready(qos byte) (connected, full bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state == outboxOpen, o.fullLocked(qos)
}

// fullLocked says whether publishers should wait. A session that is behind
// reads its log: they need not wait for its queue, but the log's bounds are
// not to be reached as long as it is connected.
func (o *outbox) fullLocked(qos byte) bool {
	if o.state != outboxOpen {
		return false
	}
	if b := o.backlog; b != nil && b.behind && qos > 0 {
		return b.crowded()
	}
	return o.crampedLocked()
}

// crampedLocked says whether the queue is full. While nothing is read of the
// client, for what it published waits for others, to wait for its
// acknowledgements would be to wait in a circle: then the queue may be longer.
func (o *outbox) crampedLocked() bool {
	limit, maxBytes := o.limit, o.maxBytes
	if o.unread {
		limit, maxBytes = unreadFactor*limit, unreadFactor*maxBytes
	}
	return o.queue.len() >= limit || o.bytes >= maxBytes
}

const unreadFactor = 2

// setUnread notes that the client's publishes are not read for a while.
func (o *outbox) setUnread(unread bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.unread != unread {
		o.unread = unread
		o.signalMoved() // who waits for its queue looks again
	}
}

func (o *outbox) movedLocked() <-chan struct{} {
	if o.moved == nil {
		o.moved = make(chan struct{})
	}
	return o.moved
}

func (o *outbox) signalMoved() {
	if o.moved != nil {
		close(o.moved)
		o.moved = nil
	}
}

// push queues d. It is the caller that asks full first.
func (o *outbox) push(d delivery) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pushLocked(d)
}

func (o *outbox) pushLocked(d delivery) {
	if o.state != outboxOpen {
		return
	}
	if o.queue.len() == 0 {
		o.last = time.Now()
	}
	o.queue.push(d)
	o.bytes += cost(d.msg)
	o.poke()
}

// answer queues a packet that answers the client.
func (o *outbox) answer(p packet.Packet) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answerLocked(p)
}

// greet queues the CONNACK. It leaves even if the connection was ended since it
// was accepted, for nothing else may come first.
func (o *outbox) greet(p packet.Packet) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.control, _ = p.Append(o.control, o.version)
	o.greeted = true
	o.poke()
}

func (o *outbox) answerLocked(p packet.Packet) {
	if o.state >= outboxClosing || o.state == outboxAway {
		return
	}
	o.control, _ = p.Append(o.control, o.version) // answers are short: they always encode
	o.client.traffic.packetsOut.Add(1)
	o.poke()
}

// poke has a writer look, and starts one if there is none.
func (o *outbox) poke() {
	switch {
	case o.client == nil || o.ended:
	case o.writing:
		o.again = true
	default:
		o.writing = true
		go o.client.writeLoop()
	}
}

// rest says whether the writer may end, for there is nothing more to look at.
func (o *outbox) rest() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing, o.again = o.again, false
	return !o.writing
}

// writerEnds notes that the last writer of the connection ends.
func (o *outbox) writerEnds() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
}

// expect queues a place for the answer to a publish, to be filled by settle.
func (o *outbox) expect(kind packet.Type, id uint16) *pendingAck {
	a := &pendingAck{kind: kind, id: id}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.acks.push(a)
	return a
}

// ackOverhead is more than the bytes of an acknowledgement beside its reason
// string.
const ackOverhead = 16

// settle fills a's place. Answers leave in the order of their publishes.
func (o *outbox) settle(a *pendingAck, reason packet.Reason, why string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a.ready, a.reason, a.why = true, reason, why
	for o.acks.len() > 0 && (*o.acks.front()).ready {
		a := o.acks.pop()
		answer := packet.Ack{Kind: a.kind, ID: a.id, Reason: a.reason}
		if most := o.client.maxPacket; a.why != "" && o.problems && (most == 0 || len(a.why)+ackOverhead <= most) {
			answer.Props = answer.Props.AddText(packet.ReasonString, a.why)
		}
		o.answerLocked(&answer)
		if o.acks.len() == maxPending-1 {
			o.signalMoved()
		}
	}
}

// crowded returns a channel to wait for while the client has so many answers
// to read or to get that it should be asked for no more; nil if it has not.
func (o *outbox) crowded() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state != outboxOpen || len(o.control) < maxControl && o.acks.len() < maxPending {
		return nil
	}
	return o.movedLocked()
}

// cork keeps messages, not answers, from being taken until the next call with
// false.
func (o *outbox) cork(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.corked = on
	o.poke()
}

func (o *outbox) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queue.len()
}

// An ackResult is what follows from an acknowledgement of the client.
type ackResult struct {
	known   bool
	done    delivery // that is delivered; msg may be nil
	settled bool     // done is to be counted as delivered
}

// acknowledge takes note of a PUBACK, PUBREC or PUBCOMP.
func (o *outbox) acknowledge(kind packet.Type, id uint16, failed bool) (r ackResult) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := o.findLocked(id)
	if i < 0 {
		return r
	}
	s := o.window.at(i)
	switch {
	case kind == packet.PUBACK && s.qos == 1, kind == packet.PUBREC && failed && s.qos == 2 && s.state == sentPublish:
		r = ackResult{true, s.delivery, true}
		o.completeLocked(i)
	case kind == packet.PUBREC && s.qos == 2:
		r = ackResult{true, s.delivery, s.state == sentPublish}
		s.state = sentRelease
		s.msg, s.owed = nil, nil
	case kind == packet.PUBCOMP && s.state == sentRelease:
		r = ackResult{known: true, done: s.delivery}
		o.completeLocked(i)
	}
	return r
}

// findLocked returns the place of an identifier in the window, below 0 if it
// has none. Most acknowledgements are for the oldest.
func (o *outbox) findLocked(id uint16) int {
	for i := range o.window.len() {
		if o.window.at(i).id == id {
			return i
		}
	}
	return -1
}

// forget takes a message out of the window that will not be sent.
func (o *outbox) forget(id uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := o.findLocked(id); i >= 0 {
		o.completeLocked(i)
	}
}

// completeLocked ends the i-th message of the window.
func (o *outbox) completeLocked(i int) {
	if o.window.at(i).counted {
		o.inflight--
	}
	o.window.remove(i)
	o.poke()
}

// unreleased returns the identifiers of QoS 2 messages that a connection before
// this one has taken, but not completed.
func (o *outbox) unreleased() (ids []uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.window.len() {
		if s := o.window.at(i); s.state == sentRelease {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// take appends answers to buf and messages to batch, as much as may be sent
// now. Nothing and open false means that the outbox is closed.
func (o *outbox) take(buf []byte, batch []sent) (_ []byte, _ []sent, open bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	crowded := len(o.control) >= maxControl
	buf = append(buf, o.control...)
	o.control = o.control[:0]
	if o.state < outboxClosing && !o.corked {
		batch = o.takeBatch(batch)
	}
	if o.state == outboxClosing || o.state == outboxDraining && len(batch) == 0 && o.spent() {
		if o.greeted {
			buf = append(buf, o.final...)
		}
		o.state = outboxClosed
	}
	// Those who wait for room are called when there is room for many: else all
	// of them come for each place.
	if crowded || o.state != outboxOpen || o.queue.len() <= o.limit/2 && o.bytes <= o.maxBytes/2 {
		o.signalMoved()
	}
	return buf, batch, o.state != outboxClosed
}

// spent says whether a draining outbox has sent all that may be sent: with the
// window full, the client's acknowledgements are not read any more.
func (o *outbox) spent() bool {
	return o.acks.len() == 0 && (o.queue.len() == 0 || o.inflight >= o.max)
}

func (o *outbox) takeBatch(batch []sent) []sent {
	for size := 0; o.queue.len() > 0 && len(batch) < maxBatch && size < batchBytes; {
		s := sent{delivery: *o.queue.front()}
		if s.qos > 0 && !o.enterLocked(&s) {
			break
		}
		o.queue.pop()
		o.bytes -= cost(s.msg)
		size += cost(s.msg)
		if s.qos == 0 || s.id != 0 {
			batch = append(batch, s)
		}
	}
	if len(batch) > 0 {
		o.last = time.Now()
	}
	return batch
}

// enterLocked gives s an identifier and a place in the window and says whether
// there is room. What was sent before has both, unless it was acknowledged
// meanwhile: then s gets no identifier and is not sent.
func (o *outbox) enterLocked(s *sent) bool {
	if o.inflight >= o.max || s.again == 0 && o.window.len() >= maxWindow {
		return false
	}
	if s.again == 0 {
		s.id, s.counted, s.serial = o.nextID(), true, o.serial
		o.window.push(*s)
		o.inflight++
		return true
	}
	if i := o.findLocked(s.again); i >= 0 && o.window.at(i).state == sentPublish {
		w := o.window.at(i)
		s.id, w.counted, w.delivery = w.id, true, s.delivery
		o.inflight++
	}
	return true
}

// maxWindow leaves identifiers free.
const maxWindow = 65000

// nextID returns an identifier that no message in the window has. None can
// have it before they have gone round.
func (o *outbox) nextID() uint16 {
	o.serial++
	for {
		if o.lastID++; o.lastID == 0 {
			continue
		}
		if o.window.len() == 0 || o.serial-o.window.at(0).serial < maxWindow || o.findLocked(o.lastID) < 0 {
			return o.lastID
		}
	}
}

// close ends the outbox in the way that state says; final is the last packet.
// It is the first call that counts, but for outboxClosed.
func (o *outbox) close(state outboxState, final []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state == outboxOpen {
		o.state, o.final = state, final
	} else if o.state < state && o.state != outboxAway {
		o.state = state
	}
	o.signalMoved()
	o.poke()
}

// leave ends what concerns a connection only, whose goroutines have ended, and
// returns the messages that this session does not get any more.
func (o *outbox) leave() (lost []delivery) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.backlog != nil {
		lost = o.rewindLocked()
	} else {
		for o.queue.len() > 0 {
			lost = append(lost, o.queue.pop())
		}
		for o.window.len() > 0 {
			if s := o.window.pop(); s.msg != nil {
				lost = append(lost, s.delivery)
			}
		}
	}
	o.queue, o.bytes, o.inflight = fifo[delivery]{}, 0, 0
	o.control, o.acks, o.final = nil, fifo[*pendingAck]{}, nil
	o.state, o.unread = outboxAway, false
	o.signalMoved()
	return lost
}
