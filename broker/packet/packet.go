// Package packet encodes and decodes MQTT control packets: versions 3.1,
// 3.1.1 and 5, all of them, in both directions.
//
// # Decisions
//
// Decoding trusts nothing: every length is checked before it is used, a
// packet's size is limited before anything is allocated for it, and what a
// packet's flags or properties may not say is an *Error with the MQTT 5
// reason code that answers it. What parses re-encodes to the same packet.
//
// Properties are kept as the list they are on the wire, described by one
// table: their order survives, and a packet without any costs nothing.
//
// Parsed strings are copies; payloads, passwords and nothing else share the
// body they were parsed from. What a packet makes its reader allocate is a
// small multiple of its size.
//
// Both peers of a connection use this package, so it refuses what neither may
// send. What only a server may not get, such as a subscription identifier in
// a PUBLISH, is for the broker to refuse.
//
// Version 3.1 is read as its text allows, which is looser than 3.1.1: it sets
// DUP on what is sent again, disregards will flags without a will, and may
// leave out a user name that its flags announce. Client identifiers longer
// than its 23 characters are taken, as everybody does.
//
// References are to OASIS MQTT 5.0 unless they say 3.1.1.
package packet

import (
	"fmt"
)

// A Version is the protocol level of a connection.
type Version byte

const (
	V31  Version = 3
	V311 Version = 4
	V5   Version = 5
)

func (v Version) String() string {
	switch v {
	case V31:
		return "3.1"
	case V311:
		return "3.1.1"
	case V5:
		return "5"
	}
	return fmt.Sprintf("level %d", byte(v))
}

// A Type is the kind of a control packet (section 2.1.2).
type Type byte

const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

var typeNames = [16]string{"reserved packet", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
	"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}

func (t Type) String() string { return typeNames[t&15] }

// An Error says why bytes are no packet, or not one that may be sent here.
type Error struct {
	Reason Reason // what answers it on MQTT 5
	What   string
}

func (e *Error) Error() string { return e.What }

func malformed(format string, args ...any) error {
	return &Error{MalformedPacket, fmt.Sprintf(format, args...)}
}

func protocolError(format string, args ...any) error {
	return &Error{ProtocolError, fmt.Sprintf(format, args...)}
}

// A Packet is one control packet.
type Packet interface {
	Type() Type

	// Append appends the encoded packet to dst. It fails, leaving dst as it
	// was, if a string or the packet is longer than the protocol can say.
	Append(dst []byte, v Version) ([]byte, error)
}

// Parse decodes the packet with the given first byte and body. A Connect
// brings its own version; all others are read as v says.
func Parse(v Version, first byte, body []byte) (Packet, error) {
	return parse(v, first, body, nil)
}

func parse(v Version, first byte, body []byte, s *scratch) (Packet, error) {
	t, flags := Type(first>>4), first&15
	if t != PUBLISH && flags != fixedFlags(t) && (v != V31 || flags != fixedFlags(t)|flagDup || flags == flagDup) {
		return nil, malformed("%v with flags %04b", t, flags)
	}
	c := &cursor{b: body, v: v, s: s}
	p := c.packet(t, flags)
	if c.err == nil && len(c.b) > 0 {
		c.err = malformed("%d bytes after the end", len(c.b))
	}
	if e, ok := c.err.(*Error); ok {
		return nil, &Error{e.Reason, t.String() + ": " + e.What}
	}
	return p, nil
}

// fixedFlags are the flags that every packet of the type but PUBLISH has.
func fixedFlags(t Type) byte {
	if t == PUBREL || t == SUBSCRIBE || t == UNSUBSCRIBE {
		return 2
	}
	return 0
}

func (c *cursor) packet(t Type, flags byte) Packet {
	switch t {
	case CONNECT:
		return c.connect()
	case CONNACK:
		return c.connack()
	case PUBLISH:
		return c.publish(flags)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return c.ack(t)
	case SUBSCRIBE:
		return c.subscribe()
	case SUBACK, UNSUBACK:
		return c.subAck(t)
	case UNSUBSCRIBE:
		return c.unsubscribe()
	case PINGREQ:
		return pingreq
	case PINGRESP:
		return pingresp
	case DISCONNECT:
		return c.disconnect()
	case AUTH:
		return c.auth()
	}
	c.fail(malformed("type 0 is reserved"))
	return nil
}

// A Ping is a PINGREQ or a PINGRESP.
type Ping struct{ Kind Type }

// As a Packet, which costs memory each time it is made.
var pingreq, pingresp Packet = Ping{PINGREQ}, Ping{PINGRESP}

func (p Ping) Type() Type { return p.Kind }

func (p Ping) Append(dst []byte, _ Version) ([]byte, error) {
	return append(dst, byte(p.Kind)<<4, 0), nil
}
