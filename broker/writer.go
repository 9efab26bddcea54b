package broker

import (
	"context"
	"sync"
	"time"

	"edgegateway/broker/packet"
)

// writeWait is how long a client may take to take what is written to it;
// lastWait the same for what is written while its connection closes.
const (
	writeWait = 10 * time.Second
	lastWait  = 2 * time.Second
)

// writeLoop writes what the outbox has until there is nothing more: what comes
// next starts another one, so that an idle client has no writer. When the
// outbox is closed or the connection fails it ends the connection.
func (c *client) writeLoop() {
	w := writers.Get().(*messageWriter)
	w.client = c
	defer func() {
		if r := recover(); r != nil {
			c.crashed(r)
			c.hangUp(false)
		}
	}()
	for {
		wrote, open := w.writeSome()
		if !open {
			c.hangUp(wrote)
			break
		}
		if !wrote && c.out.rest() {
			break
		}
	}
	w.shrink()
	w.client = nil
	writers.Put(w)
}

// writers lends the writers of clients their buffers.
var writers = sync.Pool{New: func() any { return new(messageWriter) }}

// writeSome writes what may leave now. It says whether there was anything and
// whether the connection is still open: not, when all has left that was to, or
// when the connection failed.
func (w *messageWriter) writeSome() (wrote, open bool) {
	w.buf, w.batch, open = w.out.take(w.buf[:0], w.batch[:0])
	defer clear(w.batch)
	if !w.noteSent(w.batch) {
		return false, false
	}
	for i := range w.batch {
		w.add(&w.batch[i])
	}
	if len(w.buf) == 0 {
		return false, open
	}
	if !w.write(w.buf) {
		return false, false
	}
	return true, open
}

// linger is how long a connection that the broker ends stays open for what the
// client still sends: to close it at once would take from the client what was
// sent last, the reason.
const linger = time.Second

// hangUp ends the connection for good; told says that the client was told why.
func (c *client) hangUp(told bool) {
	c.out.close(outboxClosed, nil)
	c.out.writerEnds()
	c.b.hanging.Add(1) // before finish goes on, and with it a broker that stops
	defer c.b.hanging.Done()
	close(c.written)
	defer c.conn.Close()
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !told || !ok || half.CloseWrite() != nil {
		return
	}
	c.conn.SetReadDeadline(time.Now().Add(linger))
	stop := context.AfterFunc(c.b.stopping, func() { c.conn.Close() })
	defer stop()
	var sink [512]byte
	for range 1 << 20 / len(sink) {
		if _, err := c.conn.Read(sink[:]); err != nil {
			return
		}
	}
}

// noteSent stores the identifiers of QoS 2 messages before they are sent, if
// the session lasts, and says whether the connection is still to be served.
func (c *client) noteSent(batch []sent) bool {
	var stored chan error
	for i := len(batch) - 1; i >= 0; i-- { // the last one is stored last
		if s := &batch[i]; s.qos == 2 && s.seq != 0 && s.again == 0 {
			stored = make(chan error, 1)
			break
		}
	}
	if stored == nil {
		return true
	}
	var body []byte
	for i := range batch {
		if s := &batch[i]; s.qos == 2 && s.seq != 0 && s.again == 0 {
			if body != nil {
				c.b.sessionLog.run.append(body, nil)
			}
			body = sentRecord(c.session.no, s.id, sentPublish, s.seq)
		}
	}
	c.b.sessionLog.run.append(body, func(err error) { stored <- err })
	select {
	case <-stored: // with an error it may come twice after kill -9
		return true
	case <-c.ctx.Done():
		return false
	}
}

func (c *client) write(buf []byte) bool {
	wait := writeWait
	if c.ctx.Err() != nil {
		wait = lastWait
	}
	c.conn.SetWriteDeadline(time.Now().Add(wait))
	_, err := c.conn.Write(buf)
	c.traffic.bytesOut.Add(uint64(len(buf)))
	return err == nil
}

// A messageWriter encodes messages for one client at a time; it belongs to its
// writer.
type messageWriter struct {
	*client
	buf   []byte
	batch []sent
	props packet.Properties
	pub   packet.Publish
}

// add appends s, unless it has expired or is too large for the client: then it
// is dropped, which frees its place in the window.
func (w *messageWriter) add(s *sent) {
	left, alive := s.msg.left(w.b.now())
	if !alive && s.again == 0 { // what was sent once does not expire
		w.skip(s, dropExpired)
		return
	}
	w.pub = packet.Publish{Dup: s.again != 0, QoS: s.qos, Retain: s.retain, Topic: s.msg.Topic, ID: s.id, Payload: s.msg.Payload}
	alias := uint16(0)
	if w.version >= packet.V5 {
		w.props = appendWireProperties(w.props[:0], s, left)
		alias = w.alias()
		w.pub.Props = w.props
	}
	mark := len(w.buf)
	buf, err := w.pub.Append(w.buf, w.version)
	if err != nil || w.maxPacket > 0 && len(buf)-mark > w.maxPacket {
		w.skip(s, dropTooLarge)
		return
	}
	if alias != 0 {
		w.told[s.msg.Topic] = alias
	}
	w.buf = buf
	w.traffic.out.Add(1)
	w.traffic.packetsOut.Add(1)
	w.traffic.payloadOut.Add(uint64(len(s.msg.Payload)))
}

// alias puts an alias in the place of the topic, or returns a new one that the
// packet defines, to be remembered if it is sent. The first topics get one.
func (w *messageWriter) alias() uint16 {
	if a, ok := w.told[w.pub.Topic]; ok {
		w.pub.Topic = ""
		w.props = w.props.AddNum(packet.TopicAlias, uint32(a))
		return 0
	}
	if len(w.told) >= w.maxAliases {
		return 0
	}
	if w.told == nil {
		w.told = make(map[string]uint16)
	}
	a := uint16(len(w.told) + 1)
	w.props = w.props.AddNum(packet.TopicAlias, uint32(a))
	return a
}

func (w *messageWriter) skip(s *sent, why dropReason) {
	w.b.drop(why, 1)
	if s.id != 0 {
		w.out.forget(s.id)
		s.owed.got()
		if s.qos == 2 {
			w.note(s.id, stateGone, s.seq, nil)
		}
	}
}

// shrink gives up buffers that one large message has made large.
func (w *messageWriter) shrink() {
	if cap(w.buf) > 4*batchBytes {
		w.buf = nil
	}
}

// appendWireProperties appends the properties that s is delivered with; left
// is what remains of its expiry.
func appendWireProperties(dst packet.Properties, s *sent, left uint32) packet.Properties {
	if p := s.msg.Props; p != nil {
		if p.PayloadUTF8 {
			dst = dst.AddNum(packet.PayloadFormat, 1)
		}
		if p.Expiry != nil {
			dst = dst.AddNum(packet.MessageExpiry, left)
		}
		if p.ContentType != "" {
			dst = dst.AddText(packet.ContentType, p.ContentType)
		}
		if p.ResponseTopic != "" {
			dst = dst.AddText(packet.ResponseTopic, p.ResponseTopic)
		}
		if p.Correlation != nil {
			dst = dst.AddText(packet.CorrelationData, string(p.Correlation))
		}
		for _, u := range p.User {
			dst = append(dst, packet.Property{ID: packet.UserProperty, Text: u.Key, Value: u.Value})
		}
	}
	for _, id := range s.subIDs {
		dst = dst.AddNum(packet.SubscriptionID, id)
	}
	return dst
}

// messageProperties returns what travels on of a publish's properties, nil if
// nothing does.
func messageProperties(props packet.Properties) *Properties {
	var p Properties
	for i := range props {
		switch v := &props[i]; v.ID {
		case packet.PayloadFormat:
			p.PayloadUTF8 = v.Num == 1
		case packet.MessageExpiry:
			p.Expiry = &v.Num
		case packet.ContentType:
			p.ContentType = v.Text
		case packet.ResponseTopic:
			p.ResponseTopic = v.Text
		case packet.CorrelationData:
			p.Correlation = []byte(v.Text)
		case packet.UserProperty:
			p.User = append(p.User, UserProperty{v.Text, v.Value})
		default:
			continue
		}
	}
	if !p.PayloadUTF8 && p.Expiry == nil && p.ContentType == "" && p.ResponseTopic == "" && p.Correlation == nil && p.User == nil {
		return nil
	}
	return &p
}
