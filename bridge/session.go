package bridge

import (
	"context"
	"io"
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
	refused map[uint16]byte                         // inbound PUBLISH to be answered with this reason code
	goodbye *packets.Disconnect                     // what the server sent, if it did
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
		refused: make(map[uint16]byte),
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
		inbound <- p // has room for our Receive Maximum; reading waits for a server that sends more
	}
	return nil
}

// refuse has the PUBLISH with this id answered with a reason code when it is
// acknowledged next.
func (s *session) refuse(id uint16, code byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[id] = code
}

// Ack answers an inbound PUBLISH; paho calls it in the order they came.
func (s *session) Ack(p *packets.Publish) error {
	s.mu.Lock()
	code := s.refused[p.PacketID]
	delete(s.refused, p.PacketID)
	s.mu.Unlock()
	return s.write(&packets.Puback{PacketID: p.PacketID, ReasonCode: code})
}

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
