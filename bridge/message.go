package bridge

import (
	"strconv"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

// User properties that a bridge adds. Those of the same name that a message
// came with are dropped.
const (
	propID       = "mid"      // LOG-SEQ: never used for another message
	propReplayed = "replayed" // "1": from the backlog
)

// Why a record is not sent. max_age and unsynced are losses, what is thinned or
// superseded a wanted one; all others are none.
const (
	skipOwn       = "own"       // this bridge received it
	skipUnmatched = "unmatched" // by any send rule as they are now
	skipExpired   = "expired"   // its publisher gave it a lifetime
	skipMaxAge    = ReasonMaxAge
	skipUnsynced  = ReasonUnsynced
	skipThinned   = ReasonThinned    // as Thin wants
	skipOld       = ReasonSuperseded // a newer one of its topic waits, and Replay is Latest
)

// SkipReasons are the keys that Stats.Skipped may have besides ReasonMaxAge.
var SkipReasons = []string{skipOwn, skipUnmatched, skipExpired, skipThinned, skipOld}

// route finds where f goes, and why it does not: "" if it does.
func (b *Bridge) route(f *flight) string {
	if f.msg.From == b.user {
		return skipOwn
	}
	to, ok := b.send.lookup(f.msg.Topic)
	if !ok {
		return skipUnmatched
	}
	f.to = to
	if b.cfg.MaxAge > 0 {
		if age, known := b.age(f); known && age > b.cfg.MaxAge {
			return skipMaxAge
		}
	}
	if p := f.msg.Props; p != nil && p.Expiry != nil {
		if age, known := b.age(f); known && age >= time.Duration(*p.Expiry)*time.Second {
			return skipExpired
		}
	}
	return ""
}

// age returns how old f is at the least: by boot time within this boot, else by
// the latest time at which it can have been read and the earliest that it can
// be now. Without such bounds nobody can know.
func (b *Bridge) age(f *flight) (time.Duration, bool) {
	now := b.cfg.Now()
	if f.boot.ID == b.cfg.BootID {
		return time.Duration(now - f.msg.Stamp), true
	}
	here, then := b.clock(), b.clockAt(f.boot, f.msg.Stamp)
	if here.Quality == broker.Unsynced || then.Quality == broker.Unsynced {
		return 0, false
	}
	return time.Duration(now+here.Offset-f.msg.Stamp-then.Offset) - here.Early - then.Late, true
}

// packet returns f as it goes upstream now.
func (b *Bridge) packet(f *flight, l limits) *paho.Publish {
	if f.source == nil { // our own status
		return &paho.Publish{Topic: f.to, Payload: f.msg.Payload, QoS: min(f.msg.QoS, l.qos), Retain: l.retain}
	}
	if len(f.msg.Slots) > 0 {
		f.msg.Rebase(b.clockAt(f.boot, f.msg.Stamp))
	}
	f.msg.Identify(MessageID(f.source.id, f.seq), f.replayed)
	p := &paho.Publish{
		Topic:   f.to,
		Payload: f.msg.Payload,
		QoS:     min(b.cfg.QoS, l.qos),
		Retain:  f.msg.Retain && l.retain && b.isNewest(f),
	}
	if b.cfg.Version == MQTT5 {
		p.Properties = b.properties(f)
	}
	return p
}

// maxNewest bounds how many topics isNewest follows. Of further ones only live
// messages are retained.
const maxNewest = 10000

// topicOf is a topic upstream within one log.
type topicOf struct {
	*source
	topic string
}

// isNewest reports whether nothing newer than f was sent to its topic, on this
// connection or an earlier one, and notes f if so.
func (b *Bridge) isNewest(f *flight) bool {
	key := topicOf{f.source, f.to}
	newest, known := b.newest[key]
	if !known && len(b.newest) >= maxNewest {
		return !f.replayed
	}
	if f.seq < newest {
		return false
	}
	b.newest[key] = f.seq
	return true
}

func (b *Bridge) properties(f *flight) *paho.PublishProperties {
	out := new(paho.PublishProperties)
	if in := f.msg.Props; in != nil {
		if in.PayloadUTF8 {
			out.PayloadFormat = new(byte(1))
		}
		out.MessageExpiry = b.remaining(f)
		out.ContentType = in.ContentType
		out.ResponseTopic = in.ResponseTopic
		out.CorrelationData = in.Correlation
		for _, u := range in.User {
			if u.Key != propID && u.Key != propReplayed {
				out.User.Add(u.Key, u.Value)
			}
		}
	}
	out.User.Add(propID, MessageID(f.source.id, f.seq))
	if f.replayed {
		out.User.Add(propReplayed, "1")
	}
	return out
}

// remaining returns what is left of a message's lifetime in seconds, at least
// one: what has run out since it was read goes all the same.
func (b *Bridge) remaining(f *flight) *uint32 {
	total := f.msg.Props.Expiry
	age, known := b.age(f)
	if total == nil || !known || age <= 0 {
		return total
	}
	return new(uint32(max(1, int64(*total)-int64(age/time.Second))))
}

// MessageID returns the id of a record that it keeps through all repetitions
// and that no other has: the id of its log and its number in base 32.
func MessageID(log string, seq spool.Seq) string {
	return log + "-" + strconv.FormatUint(uint64(seq), 32)
}

// fits reports whether p, with a packet id, is at most limit bytes long; 0 is
// no limit. Only near the limit is it worth encoding.
func fits(p *paho.Publish, limit int) bool {
	if limit == 0 {
		return true
	}
	if p.Properties == nil { // 3.1.1
		return 5+2+len(p.Topic)+2+len(p.Payload) <= limit
	}
	rough := 64 + len(p.Topic) + len(p.Payload)
	if q := p.Properties; q != nil {
		rough += len(q.ContentType) + len(q.ResponseTopic) + len(q.CorrelationData)
		for _, u := range q.User {
			rough += 5 + len(u.Key) + len(u.Value)
		}
	}
	return rough <= limit || packetSize(p.Packet()) <= limit
}

// packetSize returns the length of p on the wire.
func packetSize(p *packets.Publish) int {
	n := 0
	for _, b := range p.Buffers() {
		n += len(b)
	}
	header := 2
	for v := n >> 7; v > 0; v >>= 7 {
		header++
	}
	return header + n
}
