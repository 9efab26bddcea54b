package bridge

import (
	"context"
	"io"
	"slices"
	"sync"

	"github.com/eclipse/paho.golang/packets"
	paholog "github.com/eclipse/paho.golang/paho/log"
	pahosession "github.com/eclipse/paho.golang/paho/session"
)

// A session is the session state of one connection: packet ids in use and
// whom their answers go to. It replaces paho's own, which keeps what is in
// flight over reconnects, sends it again by itself and tells nobody about
// PUBACKs. Here the spool is the truth: with the connection its session is
// thrown away, and what was in flight is read from the spool again.
//
// Paho calls its methods from several goroutines.
type session struct {
	acks chan<- ack    // has room for as many as may be in flight
	lost chan struct{} // closed by ConnectionLost

	mu      sync.Mutex
	conn    io.Writer // nil: before CONNACK and after the end
	last    uint16    // packet id given out last
	flights map[uint16]*flight
	waiting map[uint16]chan<- packets.ControlPacket // SUBSCRIBE; has room for its answer
	owed    []owed                                  // to inbound PUBLISH, in the order they came
	goodbye *packets.Disconnect                     // what the server sent, if it did

	answered chan struct{} // something in owed is; full: that is known already
}

// An owed is the PUBACK of an inbound message.
type owed struct {
	id    uint16
	ready bool
	code  byte
}

// An ack is the far broker's answer to a flight.
type ack struct {
	*flight
	code byte // MQTT 5, 3.4.2.1; below 0x80 the message is the far broker's
}

func newSession(acks chan<- ack) *session {
	return &session{
		acks:    acks,
		lost:    make(chan struct{}),
		flights: make(map[uint16]*flight),
		waiting: make(map[uint16]chan<- packets.ControlPacket),

		answered: make(chan struct{}, 1),
	}
}

// flightKey carries a flight through paho to AddToSession.
type flightKey struct{}

// ConAckReceived starts the session; paho calls it before anything is sent.
func (s *session) ConAckReceived(conn io.Writer, _ *packets.Connect, _ *packets.Connack) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return nil
}

// ConnectionLost ends the session; paho calls it at least once.
func (s *session) ConnectionLost(goodbye *packets.Disconnect) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	if goodbye != nil {
		s.goodbye = goodbye
	}
	select {
	case <-s.lost:
	default:
		close(s.lost)
	}
	for id, answer := range s.waiting {
		answer <- packets.ControlPacket{} // paho reads it as "connection lost"
		delete(s.waiting, id)
	}
	return nil
}

// AddToSession gives packet an id that is not in use. It never waits: the
// sender keeps to the window.
func (s *session) AddToSession(ctx context.Context, packet pahosession.Packet, answer chan<- packets.ControlPacket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return pahosession.ErrNoConnection
	}
	id, ok := s.freeID()
	if !ok {
		return pahosession.ErrPacketIdentifiersExhausted
	}
	if f, ok := ctx.Value(flightKey{}).(*flight); ok {
		s.flights[id] = f
	} else {
		s.waiting[id] = answer
	}
	packet.SetIdentifier(id)
	return nil
}

// freeID returns the next id after the last one, so that a late PUBACK of an
// earlier exchange does not meet a new one.
func (s *session) freeID() (uint16, bool) {
	for range 1 << 16 {
		s.last++
		_, flying := s.flights[s.last]
		_, waited := s.waiting[s.last]
		if s.last != 0 && !flying && !waited {
			return s.last, true
		}
	}
	return 0, false
}

// PacketReceived hands on what came in. Answers to nothing are ignored.
func (s *session) PacketReceived(recv *packets.ControlPacket, inbound chan<- *packets.Publish) error {
	switch p := recv.Content.(type) {
	case *packets.Puback:
		s.mu.Lock()
		f := s.flights[p.PacketID]
		delete(s.flights, p.PacketID)
		s.mu.Unlock()
		if f != nil {
			s.acks <- ack{f, p.ReasonCode}
		}
	case *packets.Suback, *packets.Unsuback:
		s.mu.Lock()
		answer := s.waiting[recv.PacketID()]
		delete(s.waiting, recv.PacketID())
		s.mu.Unlock()
		if answer != nil {
			answer <- *recv
		}
	case *packets.Publish:
		if p.QoS > 1 { // more than we subscribed with
			return s.write(&packets.Pubrec{PacketID: p.PacketID, ReasonCode: packets.PubrecImplementationSpecificError})
		}
		if p.QoS == 1 {
			s.owe(p.PacketID)
		}
		inbound <- p // has room for our Receive Maximum; reading waits for a server that sends more
	}
	return nil
}

// owe notes an inbound PUBLISH. One that comes again before it was answered is
// answered once.
func (s *session) owe(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.ContainsFunc(s.owed, func(o owed) bool { return o.id == id }) {
		s.owed = append(s.owed, owed{id: id})
	}
}

// answer has the PUBLISH with this id acknowledged once those before it are
// (MQTT 5, 4.6). It never waits.
func (s *session) answer(id uint16, code byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.owed {
		if o := &s.owed[i]; o.id == id && !o.ready {
			o.ready, o.code = true, code
			break
		}
	}
	select {
	case s.answered <- struct{}{}:
	default:
	}
}

// acknowledge sends what answer was called for until the connection ends. It
// takes the place of paho's manual acknowledgement, which looks twenty times a
// second whether there is anything to send.
func (s *session) acknowledge() {
	for {
		select {
		case <-s.answered:
		case <-s.lost:
			return
		}
		for {
			o, ok := s.nextAnswer()
			if !ok || s.write(&packets.Puback{PacketID: o.id, ReasonCode: o.code}) != nil {
				break
			}
		}
	}
}

// nextAnswer takes out the first that is owed, if it may be sent.
func (s *session) nextAnswer() (o owed, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.owed) == 0 || !s.owed[0].ready {
		return o, false
	}
	o, s.owed = s.owed[0], s.owed[1:]
	return o, true
}

// Ack is called by paho when a handler has returned, which is too early.
func (s *session) Ack(*packets.Publish) error { return nil }

func (s *session) write(packet io.WriterTo) error {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn == nil {
		return pahosession.ErrNoConnection
	}
	_, err := packet.WriteTo(conn)
	return err
}

func (s *session) Close() error                  { return nil }
func (s *session) SetErrorLogger(paholog.Logger) {}
func (s *session) SetDebugLogger(paholog.Logger) {}
