package broker

import (
	"time"

	"edgegateway/broker/packet"
)

// writeWait is how long a client may take to take what is written to it;
// lastWait the same for what is written while its connection closes.
const (
	writeWait = 10 * time.Second
	lastWait  = 2 * time.Second
)

// writeLoop writes what the outbox has until it is closed or the connection
// fails, and closes the connection.
func (c *client) writeLoop() {
	defer close(c.written)
	defer c.conn.Close()
	defer c.out.close(outboxClosed, nil)
	defer c.recovered()
	w := messageWriter{client: c}
	var batch []sent
	for {
		buf, taken, open := c.out.take(w.buf[:0], batch[:0])
		w.buf, batch = buf, taken
		if !c.noteSent(batch) {
			return
		}
		for i := range batch {
			w.add(&batch[i])
		}
		if len(w.buf) > 0 && !c.write(w.buf) || !open {
			return
		}
		if len(w.buf) == 0 {
			<-c.out.wake // close sends a token too
		}
		clear(batch)
		w.shrink()
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

// A messageWriter encodes messages for one client; it belongs to its writer.
type messageWriter struct {
	*client
	buf     []byte
	props   packet.Properties
	pub     packet.Publish
	aliases map[string]uint16 // topic aliases that the client was told
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
		w.aliases[s.msg.Topic] = alias
	}
	w.buf = buf
	w.traffic.out.Add(1)
	w.traffic.packetsOut.Add(1)
	w.traffic.payloadOut.Add(uint64(len(s.msg.Payload)))
}

// alias puts an alias in the place of the topic, or returns a new one that the
// packet defines, to be remembered if it is sent. The first topics get one.
func (w *messageWriter) alias() uint16 {
	if a, ok := w.aliases[w.pub.Topic]; ok {
		w.pub.Topic = ""
		w.props = w.props.AddNum(packet.TopicAlias, uint32(a))
		return 0
	}
	if len(w.aliases) >= w.maxAliases {
		return 0
	}
	if w.aliases == nil {
		w.aliases = make(map[string]uint16)
	}
	a := uint16(len(w.aliases) + 1)
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
