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
	SharedNotSupported     Reason = 0x9E
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
	case NotAuthorized:
		return RefusedAccess
	}
	return RefusedUnavailable
}

var reasonNames = map[Reason]string{
	Success: "success", DisconnectWithWill: "disconnect with will",
	NoMatchingSubscribers: "no matching subscribers", NoSubscriptionExisted: "no subscription existed",
	Unspecified: "unspecified error", MalformedPacket: "malformed packet", ProtocolError: "protocol error",
	ImplementationSpecific: "implementation specific error", UnsupportedVersion: "unsupported protocol version",
	ClientIDNotValid: "client identifier not valid", BadUserOrPassword: "bad user name or password",
	NotAuthorized: "not authorized", ServerUnavailable: "server unavailable", ServerBusy: "server busy",
	ServerShuttingDown: "server shutting down", BadAuthMethod: "bad authentication method",
	KeepAliveTimeout: "keep alive timeout", SessionTakenOver: "session taken over",
	FilterInvalid: "topic filter invalid", TopicInvalid: "topic name invalid", IDInUse: "packet identifier in use",
	IDNotFound: "packet identifier not found", ReceiveMaximumExceeded: "receive maximum exceeded",
	TopicAliasInvalid: "topic alias invalid", PacketTooLarge: "packet too large",
	MessageRateTooHigh: "message rate too high", QuotaExceeded: "quota exceeded",
	AdministrativeAction: "administrative action", PayloadFormatInvalid: "payload format invalid",
	RetainNotSupported: "retain not supported", QoSNotSupported: "QoS not supported",
	SharedNotSupported: "shared subscriptions not supported", SubIDsNotSupported: "subscription identifiers not supported",
	WildcardsNotSupported: "wildcard subscriptions not supported",
}

func (r Reason) String() string {
	if s, ok := reasonNames[r]; ok {
		return s
	}
	return fmt.Sprintf("reason 0x%02X", byte(r))
}
