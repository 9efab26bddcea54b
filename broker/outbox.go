package broker

import (
	"sync"
	"time"

	"edgegateway/broker/packet"
)

// A delivery is a message on its way to one subscriber.
type delivery struct {
	msg    *Message // shared: nobody changes it
	qos    byte
	retain bool
	subIDs []uint32
}

// A sent is a delivery with the packet identifier it was given, 0 for QoS 0.
// Identifiers are the broker's own: the client's are another space.
type sent struct {
	id uint16
	delivery
}

// A pendingAck answers one publish of the client once it is safe.
type pendingAck struct {
	kind   packet.Type // PUBACK or PUBREC
	id     uint16
	ready  bool
	reason packet.Reason
}

const (
	maxControl = 64 << 10 // bytes of answers that a client may leave unread
	maxPending = 1000     // publishes of a client that are not answered yet
	maxBatch   = 64       // messages taken at once
	batchBytes = 32 << 10 // of them, about: what has to leave for a queue to count as moving
)

// An outbox holds what goes to one client: answers, which come first, then
// messages in order, as many as the window has room for. Publishers push, the
// client's writer takes.
type outbox struct {
	version  packet.Version
	limit    int // messages in queue; publishers see to it, see Broker.route
	maxBytes int // bytes in queue
	max      int // messages in window

	mu      sync.Mutex
	control []byte // encoded answers
	queue   fifo[delivery]
	bytes   int    // cost of queue
	window  []sent // QoS 1 not acknowledged, in the order they were sent
	lastID  uint16
	acks    fifo[*pendingAck] // in the order the publishes came
	last    time.Time         // when the queue last moved, or began to fill
	moved   chan struct{}     // closed when anything leaves; nil: nobody waits
	wake    chan struct{}     // one token: there is something to take
	corked  bool              // no messages leave
	state   outboxState
	final   []byte // the last packet, once closing
}

type outboxState uint8

const (
	outboxOpen     outboxState = iota
	outboxDraining             // what is queued leaves, then final
	outboxClosing              // answers leave, then final
	outboxClosed               // nothing leaves any more
)

// full says whether the queue has no room, for how long it has not moved, and
// returns a channel that is closed when it moves.
func (o *outbox) full() (full bool, idle time.Duration, moved <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.fullLocked() {
		return false, 0, nil
	}
	return true, time.Since(o.last), o.movedLocked()
}

func (o *outbox) fullLocked() bool {
	return o.state == outboxOpen && (o.queue.len() >= o.limit || o.bytes >= o.maxBytes)
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

func (o *outbox) answerLocked(p packet.Packet) {
	if o.state >= outboxClosing {
		return
	}
	o.control, _ = p.Append(o.control, o.version) // answers are short: they always encode
	o.poke()
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default: // the writer will look anyway
	}
}

// expect queues a place for the answer to a publish, to be filled by settle.
func (o *outbox) expect(kind packet.Type, id uint16) *pendingAck {
	a := &pendingAck{kind: kind, id: id}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.acks.push(a)
	return a
}

// settle fills a's place. Answers leave in the order of their publishes.
func (o *outbox) settle(a *pendingAck, reason packet.Reason) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a.ready, a.reason = true, reason
	for o.acks.len() > 0 && (*o.acks.front()).ready {
		a := o.acks.pop()
		o.answerLocked(&packet.Ack{Kind: a.kind, ID: a.id, Reason: a.reason})
		o.signalMoved()
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

// acked takes the message with the given id out of the window and says
// whether it was there.
func (o *outbox) acked(id uint16) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.window {
		if o.window[i].id == id {
			o.forget(i)
			return true
		}
	}
	return false
}

func (o *outbox) forget(i int) {
	last := len(o.window) - 1
	copy(o.window[i:], o.window[i+1:])
	o.window[last] = sent{}
	o.window = o.window[:last]
	o.poke()
}

// take appends answers to buf and messages to batch, as much as may be sent
// now. Nothing and open false means that the outbox is closed.
func (o *outbox) take(buf []byte, batch []sent) (_ []byte, _ []sent, open bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	buf = append(buf, o.control...)
	o.control = o.control[:0]
	if o.state < outboxClosing && !o.corked {
		batch = o.takeBatch(batch)
	}
	if o.state == outboxClosing || o.state == outboxDraining && len(batch) == 0 && o.spent() {
		buf = append(buf, o.final...)
		o.state = outboxClosed
	}
	if len(buf) > 0 || len(batch) > 0 {
		o.signalMoved()
	}
	return buf, batch, o.state != outboxClosed
}

// spent says whether a draining outbox has sent all that may be sent: with the
// window full, the client's acknowledgements are not read any more.
func (o *outbox) spent() bool {
	return o.acks.len() == 0 && (o.queue.len() == 0 || len(o.window) >= o.max)
}

func (o *outbox) takeBatch(batch []sent) []sent {
	for size := 0; o.queue.len() > 0 && len(batch) < maxBatch && size < batchBytes; {
		s := sent{delivery: *o.queue.front()}
		if s.qos > 0 {
			if len(o.window) >= o.max {
				break
			}
			s.id = o.nextID()
			o.window = append(o.window, s)
		}
		o.queue.pop()
		o.bytes -= cost(s.msg)
		size += cost(s.msg)
		batch = append(batch, s)
	}
	if len(batch) > 0 {
		o.last = time.Now()
	}
	return batch
}

// nextID returns an identifier that no message in the window has.
func (o *outbox) nextID() uint16 {
	for {
		o.lastID++
		if o.lastID != 0 && !o.inWindow(o.lastID) {
			return o.lastID
		}
	}
}

func (o *outbox) inWindow(id uint16) bool {
	for i := range o.window {
		if o.window[i].id == id {
			return true
		}
	}
	return false
}

// close ends the outbox in the way that state says; final is the last packet.
// It is the first call that counts, but for outboxClosed.
func (o *outbox) close(state outboxState, final []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state == outboxOpen {
		o.state, o.final = state, final
	} else if o.state < state {
		o.state = state
	}
	o.signalMoved()
	o.poke()
}

// left empties the outbox and returns how many messages nobody got.
func (o *outbox) left() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.queue.len() + len(o.window)
	o.queue, o.window, o.bytes, o.control = fifo[delivery]{}, nil, 0, nil
	return n
}
