package main

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"edgegateway/broker/packet"
)

// patience is how long nothing may arrive before the rest counts as lost.
const patience = 4 * time.Second

const payloadSize = 200

// Options are how a client connects.
type options struct {
	id      string
	version packet.Version // 0: 3.1.1
	keep    bool           // its session
	source  string         // its own address, "": any
}

// A conn is a client. What is sent waits for flush.
type conn struct {
	net.Conn
	r       packet.Reader
	in      *packet.Buffer
	w       *bufio.Writer
	version packet.Version
	present bool // its session was there
	buf     []byte
}

func dial(addr string, o options) (*conn, error) {
	var d net.Dialer
	if o.source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(o.source)}
	}
	d.Timeout = 10 * time.Second
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if o.version == 0 {
		o.version = packet.V311
	}
	cl := newConn(c, o.version)
	p := &packet.Connect{Version: o.version, ClientID: o.id, CleanStart: !o.keep}
	if o.keep && o.version >= packet.V5 {
		p.Props = p.Props.AddNum(packet.SessionExpiry, 3600)
	}
	answer, err := cl.ask(p)
	if ack, ok := answer.(*packet.Connack); err == nil && (!ok || ack.Reason != packet.Success) {
		err = fmt.Errorf("connect %q: %+v", o.id, answer)
	} else if ok {
		cl.present = ack.SessionPresent
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return cl, nil
}

func newConn(c net.Conn, v packet.Version) *conn {
	in := packet.NewBuffer(c)
	return &conn{Conn: c, in: in, version: v, r: packet.Reader{Src: in, Version: v, Reuse: true}, w: bufio.NewWriterSize(c, 16<<10)}
}

func (c *conn) send(p packet.Packet) error {
	var err error
	if c.buf, err = p.Append(c.buf[:0], c.version); err != nil {
		return err
	}
	_, err = c.w.Write(c.buf)
	return err
}

// ask sends p and returns what comes next.
func (c *conn) ask(p packet.Packet) (packet.Packet, error) {
	if err := c.send(p); err != nil {
		return nil, err
	}
	if err := c.w.Flush(); err != nil {
		return nil, err
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	defer c.SetReadDeadline(time.Time{})
	answer, _, err := c.r.Read()
	return answer, err
}

func (c *conn) subscribe(filter string, qos byte) error {
	answer, err := c.ask(&packet.Subscribe{ID: 1, Filters: []packet.Filter{{Filter: filter, QoS: qos}}})
	if err != nil {
		return err
	}
	if ack, ok := answer.(*packet.SubAck); !ok || ack.Reasons[0] != packet.Reason(qos) {
		return fmt.Errorf("subscribe to %q with QoS %d: %+v", filter, qos, answer)
	}
	return nil
}

// disconnect says goodbye.
func (c *conn) disconnect() {
	c.send(&packet.Disconnect{})
	c.w.Flush()
	c.Close()
}

// A publisher sends numbered messages, with at most window of them
// unacknowledged. It belongs to one goroutine.
type publisher struct {
	*conn
	topic  string
	qos    byte
	retain bool
	window int
	bytes  int    // of each payload; 0: payloadSize
	index  uint32 // its own
	sent   int
	open   int
	id     uint16
	msg    packet.Publish
}

// start is what times in payloads count from.
var start = time.Now()

func (p *publisher) publish() error {
	if p.msg.Payload == nil {
		p.msg = packet.Publish{Topic: p.topic, QoS: p.qos, Retain: p.retain, Payload: make([]byte, cmp.Or(p.bytes, payloadSize))}
	}
	if p.qos > 0 {
		if p.id++; p.id == 0 {
			p.id = 1
		}
		p.msg.ID = p.id
		p.open++
	}
	p.sent++
	binary.BigEndian.PutUint32(p.msg.Payload, p.index)
	binary.BigEndian.PutUint32(p.msg.Payload[4:], uint32(p.sent))
	binary.BigEndian.PutUint64(p.msg.Payload[8:], uint64(time.Since(start)))
	return p.send(&p.msg)
}

// flood publishes as fast as it may until the time, then waits for its
// acknowledgements.
func (p *publisher) flood(until time.Time) error {
	for time.Now().Before(until) {
		for n := 0; n < 64 && (p.qos == 0 || p.open < p.window); n++ {
			if err := p.publish(); err != nil {
				return err
			}
		}
		if err := p.collect(p.window - 1); err != nil {
			return err
		}
	}
	return p.collect(0)
}

// collect reads acknowledgements until at most n are outstanding.
func (p *publisher) collect(n int) error {
	if p.qos == 0 {
		return p.w.Flush()
	}
	for p.open > n || p.in.Buffered() > 0 {
		if p.in.Buffered() == 0 && p.w.Flush() != nil {
			break
		}
		p.SetReadDeadline(time.Now().Add(10 * patience))
		in, _, err := p.r.Read()
		if err != nil {
			return fmt.Errorf("wait for %d acknowledgements: %w", p.open, err)
		}
		if err := p.acked(in); err != nil {
			return err
		}
	}
	return p.w.Flush()
}

func (p *publisher) acked(in packet.Packet) error {
	ack, ok := in.(*packet.Ack)
	switch {
	case !ok || ack.Reason.Failed():
		return fmt.Errorf("publish was answered with %+v", in)
	case ack.Kind == packet.PUBREC:
		return p.send(&packet.Ack{Kind: packet.PUBREL, ID: ack.ID})
	}
	p.open--
	return nil
}

// A subscriber takes numbered messages.
type subscriber struct {
	*conn
	got   atomic.Int64
	last  map[uint32]uint32 // of each publisher
	again int               // numbers that were not larger than the one before
	took  func(sent time.Duration)
}

// run takes messages until the connection ends.
func (s *subscriber) run() {
	s.last = make(map[uint32]uint32)
	for {
		in, _, err := s.r.Read()
		if err != nil {
			return
		}
		switch in := in.(type) {
		case *packet.Publish:
			s.take(in)
		case *packet.Ack:
			s.send(&packet.Ack{Kind: packet.PUBCOMP, ID: in.ID})
		}
		if s.in.Buffered() == 0 && s.w.Flush() != nil {
			return
		}
	}
}

func (s *subscriber) take(m *packet.Publish) {
	switch m.QoS {
	case 1:
		s.send(&packet.Ack{Kind: packet.PUBACK, ID: m.ID})
	case 2:
		s.send(&packet.Ack{Kind: packet.PUBREC, ID: m.ID})
	}
	if len(m.Payload) < 16 {
		return
	}
	from, n := binary.BigEndian.Uint32(m.Payload), binary.BigEndian.Uint32(m.Payload[4:])
	if n <= s.last[from] {
		s.again++
	}
	s.last[from] = n
	if s.took != nil {
		s.took(time.Duration(binary.BigEndian.Uint64(m.Payload[8:])))
	}
	s.got.Add(1)
}
