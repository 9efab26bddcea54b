package packet

import "fmt"

// A Reason is a reason code of MQTT 5 (section 2.4), or the return code of a
// CONNACK or SUBACK of 3.1.1.
type Reason byte

const (
	Success                Reason = 0x00
	GrantedQoS1            Reason = 0x01
	GrantedQoS2            Reason = 0x02
	DisconnectWithWill     Reason = 0x04
	NoMatchingSubscribers  Reason = 0x10
	NoSubscriptionExisted  Reason = 0x11
	ContinueAuth           Reason = 0x18
	Reauthenticate         Reason = 0x19
	Unspecified            Reason = 0x80
	MalformedPacket        Reason = 0x81
	ProtocolError          Reason = 0x82
	ImplementationSpecific Reason = 0x83
	UnsupportedVersion     Reason = 0x84
	ClientIDNotValid       Reason = 0x85
	BadUserOrPassword      Reason = 0x86
	NotAuthorized          Reason = 0x87
	ServerUnavailable      Reason = 0x88
	ServerBusy             Reason = 0x89
	Banned                 Reason = 0x8A
	ServerShuttingDown     Reason = 0x8B
	BadAuthMethod          Reason = 0x8C
	KeepAliveTimeout       Reason = 0x8D
	SessionTakenOver       Reason = 0x8E
	FilterInvalid          Reason = 0x8F
	TopicInvalid           Reason = 0x90
	IDInUse                Reason = 0x91
	IDNotFound             Reason = 0x92
	ReceiveMaximumExceeded Reason = 0x93
	TopicAliasInvalid      Reason = 0x94
	PacketTooLarge         Reason = 0x95
	MessageRateTooHigh     Reason = 0x96
	QuotaExceeded          Reason = 0x97
	AdministrativeAction   Reason = 0x98
	PayloadFormatInvalid   Reason = 0x99
	RetainNotSupported     Reason = 0x9A
	QoSNotSupported        Reason = 0x9B
	UseAnotherServer       Reason = 0x9C
	ServerMoved            Reason = 0x9D
	SharedNotSupported     Reason = 0x9E
	ConnectionRateExceeded Reason = 0x9F
	MaximumConnectTime     Reason = 0xA0
	SubIDsNotSupported     Reason = 0xA1
	WildcardsNotSupported  Reason = 0xA2
)

// The return codes of a CONNACK before MQTT 5 (3.1.1 section 3.2.2.3).
const (
	RefusedVersion     Reason = 1
	RefusedClientID    Reason = 2
	RefusedUnavailable Reason = 3
	RefusedCredentials Reason = 4
	RefusedAccess      Reason = 5
)

// Failed says whether r tells of a failure.
func (r Reason) Failed() bool { return r >= 0x80 }

// Old returns the return code of 3.1.1 that says in a CONNACK what r says.
func (r Reason) Old() Reason {
	switch r {
	case Success:
		return Success
	case UnsupportedVersion:
		return RefusedVersion
	case ClientIDNotValid:
		return RefusedClientID
	case BadUserOrPassword:
		return RefusedCredentials
	case NotAuthorized, Banned:
		return RefusedAccess
	}
	return RefusedUnavailable
}

const (
	inPublish = 1<<PUBACK | 1<<PUBREC
	inRelease = 1<<PUBREL | 1<<PUBCOMP
	inFilter  = 1<<SUBACK | 1<<UNSUBACK
	inEnd     = 1 << DISCONNECT
	inStart   = 1 << CONNACK
)

// reasons says for each reason what it is called and where it may stand (table
// 2-6). Success is where most are; in SUBACK it grants QoS 0.
var reasons = [256]struct {
	name  string
	where uint16
}{
	Success:                {"success", 0xFFFF},
	GrantedQoS1:            {"granted QoS 1", 1 << SUBACK},
	GrantedQoS2:            {"granted QoS 2", 1 << SUBACK},
	DisconnectWithWill:     {"disconnect with will", inEnd},
	NoMatchingSubscribers:  {"no matching subscribers", inPublish},
	NoSubscriptionExisted:  {"no subscription existed", 1 << UNSUBACK},
	ContinueAuth:           {"continue authentication", 1 << AUTH},
	Reauthenticate:         {"re-authenticate", 1 << AUTH},
	Unspecified:            {"unspecified error", inStart | inPublish | inFilter | inEnd},
	MalformedPacket:        {"malformed packet", inStart | inEnd},
	ProtocolError:          {"protocol error", inStart | inEnd},
	ImplementationSpecific: {"implementation specific error", inStart | inPublish | inFilter | inEnd},
	UnsupportedVersion:     {"unsupported protocol version", inStart},
	ClientIDNotValid:       {"client identifier not valid", inStart},
	BadUserOrPassword:      {"bad user name or password", inStart},
	NotAuthorized:          {"not authorized", inStart | inPublish | inFilter | inEnd},
	ServerUnavailable:      {"server unavailable", inStart},
	ServerBusy:             {"server busy", inStart | inEnd},
	Banned:                 {"banned", inStart},
	ServerShuttingDown:     {"server shutting down", inEnd},
	BadAuthMethod:          {"bad authentication method", inStart | inEnd},
	KeepAliveTimeout:       {"keep alive timeout", inEnd},
	SessionTakenOver:       {"session taken over", inEnd},
	FilterInvalid:          {"topic filter invalid", inFilter | inEnd},
	TopicInvalid:           {"topic name invalid", inStart | inPublish | inEnd},
	IDInUse:                {"packet identifier in use", inPublish | inFilter},
	IDNotFound:             {"packet identifier not found", inRelease},
	ReceiveMaximumExceeded: {"receive maximum exceeded", inEnd},
	TopicAliasInvalid:      {"topic alias invalid", inEnd},
	PacketTooLarge:         {"packet too large", inStart | inEnd},
	MessageRateTooHigh:     {"message rate too high", inEnd},
	QuotaExceeded:          {"quota exceeded", inStart | inPublish | 1<<SUBACK | inEnd},
	AdministrativeAction:   {"administrative action", inEnd},
	PayloadFormatInvalid:   {"payload format invalid", inStart | inPublish | inEnd},
	RetainNotSupported:     {"retain not supported", inStart | inEnd},
	QoSNotSupported:        {"QoS not supported", inStart | inEnd},
	UseAnotherServer:       {"use another server", inStart | inEnd},
	ServerMoved:            {"server moved", inStart | inEnd},
	SharedNotSupported:     {"shared subscriptions not supported", 1<<SUBACK | inEnd},
	ConnectionRateExceeded: {"connection rate exceeded", inStart | inEnd},
	MaximumConnectTime:     {"maximum connect time", inEnd},
	SubIDsNotSupported:     {"subscription identifiers not supported", 1<<SUBACK | inEnd},
	WildcardsNotSupported:  {"wildcard subscriptions not supported", 1<<SUBACK | inEnd},
}

// In says whether r may stand in a packet of type t, on MQTT 5.
func (r Reason) In(t Type) bool { return reasons[r].where&(1<<t) != 0 }

// reason reads the reason of a packet of type t. Return codes of a CONNACK
// before MQTT 5 are anything; those of a SUBACK are a part of the reasons.
func (c *cursor) reason(t Type) Reason {
	r := Reason(c.u8())
	switch {
	case c.v >= V5 && !r.In(t), c.v < V5 && t == SUBACK && r > GrantedQoS2 && r != Unspecified:
		c.fail(protocolError("reason 0x%02X does not belong here", byte(r)))
	}
	return r
}

func (r Reason) String() string {
	if s := reasons[r].name; s != "" {
		return s
	}
	return fmt.Sprintf("reason 0x%02X", byte(r))
}
