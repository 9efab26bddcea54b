package broker

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker/packet"
)

// A stage is a site for clients of one version.
type stage struct {
	*site
	v packet.Version
}

// onStage runs fn with a broker that has kept nothing yet, in a bubble.
func onStage(t *testing.T, v packet.Version, cfg Config, fn func(t *testing.T, s *stage)) {
	t.Helper()
	inSite(t, cfg, func(t *testing.T, s *site) { fn(t, &stage{s, v}) })
}

// dial connects a client that has sent nothing yet.
func (s *stage) dial() *peer {
	near, far := net.Pipe()
	s.admit(s.t.Context(), far)
	return newPeer(s.t, &bounded{Conn: near}, s.v)
}

// join connects a client that is accepted and has no session yet.
func (s *stage) join(id string, change ...func(*packet.Connect)) *peer {
	s.t.Helper()
	return s.accepted(false, id, change)
}

// keep is join with a session that outlives the connection.
func (s *stage) keep(id string, change ...func(*packet.Connect)) *peer {
	s.t.Helper()
	return s.accepted(false, id, append(change, keepSession))
}

// back connects a client that has a session, and takes it up.
func (s *stage) back(id string, change ...func(*packet.Connect)) *peer {
	s.t.Helper()
	return s.accepted(true, id, append(change, keepSession))
}

func (s *stage) accepted(present bool, id string, change []func(*packet.Connect)) *peer {
	s.t.Helper()
	p := s.dial()
	if ack := p.connect(id, change...); ack.Reason != packet.Success || ack.SessionPresent != present {
		s.t.Fatalf("CONNACK of %s: reason %v, session present %v, want %v", id, ack.Reason, ack.SessionPresent, present)
	}
	return p
}

// lose cuts the connection of p, which the broker notices before lose returns.
func (s *stage) lose(p *peer) {
	p.conn.Close()
	synctest.Wait()
}

// refuses fails unless the broker closes the connection of a client that sends
// the packet; then it returns the reason that it gave.
func (s *stage) refuses(what string, raw []byte) packet.Reason {
	s.t.Helper()
	p := s.join("refused")
	p.push(raw)
	got, err := p.drain(time.Second)
	if err == nil {
		s.t.Errorf("%s: the connection was not closed; the broker sent %+v", what, got)
		s.lose(p)
		return packet.Success
	}
	for _, pk := range got {
		if d, ok := pk.(*packet.Disconnect); ok {
			if !d.Reason.Failed() {
				s.t.Errorf("%s: disconnected with %v", what, d.Reason)
			}
			return d.Reason
		}
	}
	return packet.Success
}

// refusesConnect fails unless the broker closes the connection of a client
// that begins like that; then it returns the CONNACK, nil if there was none.
func (s *stage) refusesConnect(what string, raw []byte) *packet.Connack {
	s.t.Helper()
	p := s.dial()
	p.push(raw)
	got, err := p.drain(time.Second)
	if err == nil {
		s.t.Errorf("%s: the connection was not closed; the broker sent %+v", what, got)
		s.lose(p)
		return nil
	}
	if len(got) == 0 {
		return nil
	}
	ack, ok := got[0].(*packet.Connack)
	if !ok || len(got) > 1 || ack.Reason == packet.Success || ack.SessionPresent {
		s.t.Errorf("%s: the broker sent %+v", what, got)
		return nil
	}
	return ack
}

// asking adds a number to the properties of a CONNECT.
func asking(id packet.PropertyID, n uint32) func(*packet.Connect) {
	return func(c *packet.Connect) { c.Props = c.Props.AddNum(id, n) }
}

// withWill leaves a will with the topic "will".
func withWill(qos byte, payload string) func(*packet.Connect) {
	return func(c *packet.Connect) {
		c.Will = &packet.Will{Topic: "will", QoS: qos, Payload: []byte(payload)}
	}
}

// bounded is a connection on which nothing takes longer than a minute, so that
// a broker that does not answer fails one test and does not hang them all.
type bounded struct {
	net.Conn
	set bool // a deadline was set for the next reads
}

func (c *bounded) SetReadDeadline(t time.Time) error {
	c.set = !t.IsZero()
	return c.Conn.SetReadDeadline(t)
}

func (c *bounded) Read(b []byte) (int, error) {
	if !c.set {
		c.Conn.SetReadDeadline(time.Now().Add(time.Minute))
	}
	return c.Conn.Read(b)
}

func (c *bounded) Write(b []byte) (int, error) {
	c.Conn.SetWriteDeadline(time.Now().Add(time.Minute))
	return c.Conn.Write(b)
}

// push sends bytes whether the broker still wants them or not.
func (p *peer) push(raw []byte) { p.conn.Write(raw) }

// A packetList says in a test's log what they are.
type packetList []packet.Packet

func (list packetList) String() string {
	var texts []string
	for _, pk := range list {
		texts = append(texts, fmt.Sprintf("%v%+v", pk.Type(), reflect.Indirect(reflect.ValueOf(pk))))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// A messageList is the messages that came, in their order.
type messageList []*packet.Publish

func (list messageList) String() string {
	var texts []string
	for _, m := range list {
		texts = append(texts, fmt.Sprintf("%+v", *m))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// payloads are those of the messages, parted by blanks.
func (list messageList) payloads() string {
	var texts []string
	for _, m := range list {
		texts = append(texts, string(m.Payload))
	}
	return strings.Join(texts, " ")
}

// drain reads without answering until the broker has sent nothing for d, or
// until the connection ends: then it returns io.EOF.
func (p *peer) drain(d time.Duration) (packetList, error) {
	p.t.Helper()
	var got packetList
	for {
		pk, err := p.within(d)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return got, nil
		case err == io.EOF || errors.Is(err, io.ErrClosedPipe):
			return got, io.EOF
		case err != nil:
			p.t.Fatalf("read: %v", err)
		}
		got = append(got, pk)
	}
}

// within reads a packet that comes within d; it shares nothing with the reader.
func (p *peer) within(d time.Duration) (packet.Packet, error) {
	p.conn.SetReadDeadline(time.Now().Add(d))
	defer p.conn.SetReadDeadline(time.Time{})
	pk, err := p.read()
	if m, ok := pk.(*packet.Publish); ok {
		m.Payload = bytes.Clone(m.Payload)
	}
	return pk, err
}

// messages is drain for a client that has only messages to expect, and does
// not answer them.
func (p *peer) messages() messageList {
	p.t.Helper()
	got, err := p.drain(time.Second)
	if err != nil {
		p.t.Fatalf("the connection ended")
	}
	var list messageList
	for _, pk := range got {
		m, ok := pk.(*packet.Publish)
		if !ok {
			p.t.Fatalf("got %T %+v", pk, pk)
		}
		list = append(list, m)
	}
	return list
}

// taken reads all messages that come, and answers as their QoS demands.
func (p *peer) taken() messageList {
	p.t.Helper()
	var list messageList
	for {
		pk, err := p.within(time.Second)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return list
		}
		if err != nil {
			p.t.Fatalf("read: %v", err)
		}
		switch pk := pk.(type) {
		case *packet.Publish:
			list = append(list, pk)
			p.answer(pk)
			continue
		case *packet.Ack:
			if pk.Kind == packet.PUBREL {
				p.send(&packet.Ack{Kind: packet.PUBCOMP, ID: pk.ID})
				continue
			}
		}
		p.t.Fatalf("got %T %+v", pk, pk)
	}
}

// answer sends the first answer to a message.
func (p *peer) answer(m *packet.Publish) {
	p.t.Helper()
	switch m.QoS {
	case 1:
		p.send(&packet.Ack{Kind: packet.PUBACK, ID: m.ID})
	case 2:
		p.send(&packet.Ack{Kind: packet.PUBREC, ID: m.ID})
	}
}

// wants takes all messages that come, whose payloads must be these, in this
// order, parted by blanks.
func (p *peer) wants(payloads string) messageList {
	p.t.Helper()
	list := p.taken()
	if got := list.payloads(); got != payloads {
		p.t.Errorf("got messages %q, want %q", got, payloads)
	}
	return list
}

// wantsOne is wants for one message, which it returns.
func (p *peer) wantsOne(payload string) *packet.Publish {
	p.t.Helper()
	list := p.taken()
	if len(list) != 1 || string(list[0].Payload) != payload {
		p.t.Fatalf("got messages %q, want %q", list.payloads(), payload)
	}
	return list[0]
}

// put publishes, through to the last answer, and returns the reason of the
// first.
func (p *peer) put(qos byte, topic, payload string, change ...func(*packet.Publish)) packet.Reason {
	p.t.Helper()
	m := &packet.Publish{QoS: qos, Topic: topic, Payload: []byte(payload)}
	if qos > 0 {
		m.ID = 1000
	}
	for _, fn := range change {
		fn(m)
	}
	p.send(m)
	if qos == 0 {
		return packet.Success
	}
	reason := p.acked(map[byte]packet.Type{1: packet.PUBACK, 2: packet.PUBREC}[qos], m.ID)
	if qos == 2 && !reason.Failed() {
		p.send(&packet.Ack{Kind: packet.PUBREL, ID: m.ID})
		p.acked(packet.PUBCOMP, m.ID)
	}
	return reason
}

// acked reads the acknowledgement of that kind and identifier.
func (p *peer) acked(kind packet.Type, id uint16) packet.Reason {
	p.t.Helper()
	ack := expect[*packet.Ack](p)
	if ack.Kind != kind || ack.ID != id {
		p.t.Fatalf("got %v %d, want %v %d", ack.Kind, ack.ID, kind, id)
	}
	return ack.Reason
}

func retained(m *packet.Publish) { m.Retain = true }

func (p *peer) unsubscribe(filters ...string) []packet.Reason {
	p.t.Helper()
	p.send(&packet.Unsubscribe{ID: 2, Filters: filters})
	ack := expect[*packet.SubAck](p)
	if ack.Kind != packet.UNSUBACK || ack.ID != 2 {
		p.t.Fatalf("got %+v", ack)
	}
	return ack.Reasons
}

// pings fails unless the broker answers.
func (p *peer) pings() {
	p.t.Helper()
	p.send(packet.Ping{Kind: packet.PINGREQ})
	if pong := expect[packet.Ping](p); pong.Kind != packet.PINGRESP {
		p.t.Errorf("got %v", pong.Kind)
	}
}

// encode returns the packet's bytes; its strings may be any bytes.
func encode(pk packet.Packet, v packet.Version) []byte {
	raw, _ := pk.Append(nil, v)
	return raw
}

// fromHex reads bytes written as hex digits and blanks.
func fromHex(s string) []byte {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err) // the test's own mistake
	}
	return raw
}

// rawConnect returns a CONNECT with any flags and any bytes as its payload.
func rawConnect(v packet.Version, flags byte, payload string) []byte {
	body := "\x00\x04MQTT" + string([]byte{byte(v), flags}) + "\x00\x00"
	if v >= packet.V5 {
		body += "\x00" // no properties
	}
	body += payload
	return append([]byte{0x10, byte(len(body))}, body...)
}

// str is a string as it is on the wire.
func str(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// admit lets in under their own name those for whom ok is true.
func admit(ok func(*Login) bool) func(context.Context, Login) (string, error) {
	return func(_ context.Context, l Login) (string, error) {
		if !ok(&l) {
			return "", errors.New("not let in")
		}
		return l.User, nil
	}
}
