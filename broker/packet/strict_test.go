package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// fine is what a packet that has to be accepted is answered with.
const fine = Success

// unhex decodes hex with blanks, in which 'text' stands for itself.
func unhex(t testing.TB, s string) []byte {
	var b []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		raw, err := hex.DecodeString(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		b = append(b, raw...)
	}
	return b
}

// checkStrict reads a packet of first and body, whose length is put between.
func checkStrict(t *testing.T, v Version, name, first, body string, want Reason) {
	t.Helper()
	b := unhex(t, body)
	raw := append(unhex(t, first), byte(len(b)))
	if len(b) > 127 {
		t.Fatalf("%s: too long for this test", name)
	}
	_, _, err := (&Reader{Src: bytes.NewReader(append(raw, b...)), Version: v}).Read()
	got := fine
	if err != nil {
		var e *Error
		if got = 0xFF; errors.As(err, &e) {
			got = e.Reason
		}
	}
	if got != want {
		t.Errorf("%s, version %v: %v (%v), want %v", name, v, got, err, want)
	}
}

// TestStrictInBothVersions holds what 3.1.1 and 5 say alike; v5 is the body of
// version 5, which has a length of properties.
func TestStrictInBothVersions(t *testing.T) {
	tests := []struct {
		name, first, v311, v5 string
		want                  Reason
	}{
		{"PUBLISH", "30", "0001'a' 'x'", "0001'a' 00 'x'", fine},
		{"PUBLISH with an empty payload", "30", "0001'a'", "0001'a' 00", fine},
		{"PUBLISH with QoS 3", "36", "0001'a' 0001", "0001'a' 0001 00", MalformedPacket},
		{"PUBLISH with DUP and QoS 0", "38", "0001'a'", "0001'a' 00", MalformedPacket},
		{"PUBLISH with identifier 0", "32", "0001'a' 0000", "0001'a' 0000 00", ProtocolError},
		{"PUBLISH without its identifier", "32", "0001'a' 00", "0001'a' 00", MalformedPacket},
		{"PUBLISH to a/+", "30", "0003'a/+'", "0003'a/+' 00", TopicInvalid},
		{"PUBLISH to #", "30", "0001'#'", "0001'#' 00", TopicInvalid},
		{"PUBLISH without topic or alias", "30", "0000", "0000 00", ProtocolError},
		{"PUBLISH whose topic is cut", "30", "0005'a'", "0005'a'", MalformedPacket},
		{"PUBLISH with a space and a script", "30", "0007 'a ' e6b8a9 'b/'", "0007 'a ' e6b8a9 'b/' 00", fine},

		{"topic with U+0000", "30", "0003'a' 00 'b'", "0003'a' 00 'b' 00", MalformedPacket},
		{"topic with a surrogate", "30", "0003 eda080", "0003 eda080 00", MalformedPacket},
		{"topic with a pair of surrogates", "30", "0006 eda080edb080", "0006 eda080edb080 00", MalformedPacket},
		{"topic with an overlong NUL", "30", "0002 c080", "0002 c080 00", MalformedPacket},
		{"topic with an overlong slash", "30", "0003 e080af", "0003 e080af 00", MalformedPacket},
		{"topic beyond U+10FFFF", "30", "0004 f4908080", "0004 f4908080 00", MalformedPacket},
		{"topic cut within a character", "30", "0002 e6b8", "0002 e6b8 00", MalformedPacket},
		{"topic with a byte of Latin-1", "30", "0001 e4", "0001 e4 00", MalformedPacket},
		{"topic with a byte order mark", "30", "0004 efbbbf 'a'", "0004 efbbbf 'a' 00", fine},
		{"topic with U+FFFF and a control character", "30", "0004 efbfbf 01", "0004 efbfbf 01 00", fine},
		{"topic with U+10FFFF", "30", "0004 f48fbfbf", "0004 f48fbfbf 00", fine},

		{"SUBSCRIBE", "82", "0001 0001'a' 02", "0001 00 0001'a' 02", fine},
		{"SUBSCRIBE with flags 0", "80", "0001 0001'a' 00", "0001 00 0001'a' 00", MalformedPacket},
		{"SUBSCRIBE with DUP", "8a", "0001 0001'a' 00", "0001 00 0001'a' 00", MalformedPacket},
		{"SUBSCRIBE with identifier 0", "82", "0000 0001'a' 00", "0000 00 0001'a' 00", ProtocolError},
		{"SUBSCRIBE without filters", "82", "0001", "0001 00", ProtocolError},
		{"SUBSCRIBE cut before its options", "82", "0001 0001'a'", "0001 00 0001'a'", MalformedPacket},
		{"SUBSCRIBE with a reserved option", "82", "0001 0001'a' 40", "0001 00 0001'a' 40", MalformedPacket},
		{"SUBSCRIBE with a NUL in its filter", "82", "0001 0002'a' 00 00", "0001 00 0002'a' 00 00", MalformedPacket},

		{"UNSUBSCRIBE", "a2", "0001 0001'a'", "0001 00 0001'a'", fine},
		{"UNSUBSCRIBE with flags 0", "a0", "0001 0001'a'", "0001 00 0001'a'", MalformedPacket},
		{"UNSUBSCRIBE with identifier 0", "a2", "0000 0001'a'", "0000 00 0001'a'", ProtocolError},
		{"UNSUBSCRIBE without filters", "a2", "0001", "0001 00", ProtocolError},
		{"UNSUBSCRIBE whose filter is cut", "a2", "0001 0002'a'", "0001 00 0002'a'", MalformedPacket},

		{"PUBACK", "40", "0001", "0001", fine},
		{"PUBACK with identifier 0", "40", "0000", "0000", ProtocolError},
		{"PUBACK with flags", "42", "0001", "0001", MalformedPacket},
		{"PUBREC", "50", "ffff", "ffff", fine},
		{"PUBREC with flags", "51", "0001", "0001", MalformedPacket},
		{"PUBREL", "62", "0001", "0001", fine},
		{"PUBREL with flags 0", "60", "0001", "0001", MalformedPacket},
		{"PUBREL with DUP", "6a", "0001", "0001", MalformedPacket},
		{"PUBCOMP", "70", "0001", "0001", fine},
		{"PUBCOMP with identifier 0", "70", "0000", "0000", ProtocolError},
		{"PUBACK cut", "40", "00", "00", MalformedPacket},
		{"SUBACK with reason 3", "90", "0001 03", "0001 00 03", ProtocolError},
		{"SUBACK without reasons", "90", "0001", "0001 00", ProtocolError},

		{"PINGREQ", "c0", "", "", fine},
		{"PINGREQ with a body", "c0", "00", "00", MalformedPacket},
		{"PINGREQ with flags", "c1", "", "", MalformedPacket},
		{"PINGRESP with flags", "d8", "", "", MalformedPacket},
		{"DISCONNECT", "e0", "", "", fine},
		{"DISCONNECT with flags", "e2", "", "", MalformedPacket},
		{"CONNACK with reserved flags", "20", "02 00", "02 00 00", MalformedPacket},
		{"type 0", "00", "", "", MalformedPacket},
	}
	for _, test := range tests {
		checkStrict(t, V311, test.name, test.first, test.v311, test.want)
		checkStrict(t, V5, test.name, test.first, test.v5, test.want)
	}
}

// TestStrictConnect holds CONNECT, which brings its version: rest is what
// follows the level, but for the empty properties of version 5, %s.
func TestStrictConnect(t *testing.T) {
	tests := []struct {
		name, rest     string
		v31, v311, v5_ Reason
	}{
		{"plain", "02 0000 %s 0001'c'", fine, fine, fine},
		{"client id of more than 23 bytes", "02 0000 %s 0020'0123456789abcdef0123456789abcdef'", fine, fine, fine},
		{"client id with NUL", "02 0000 %s 0001 00", MalformedPacket, MalformedPacket, MalformedPacket},
		{"reserved flag", "03 0000 %s 0000", fine, MalformedPacket, MalformedPacket},
		{"will", "0e 0000 %s 0000 %s 0001'w' 0001'x'", fine, fine, fine},
		{"will with an empty payload", "06 0000 %s 0000 %s 0001'w' 0000", fine, fine, fine},
		{"will QoS 3", "1e 0000 %s 0000 %s 0001'w' 0000", MalformedPacket, MalformedPacket, MalformedPacket},
		{"will QoS without will", "0a 0000 %s 0000", fine, MalformedPacket, MalformedPacket},
		{"will retain without will", "22 0000 %s 0000", fine, MalformedPacket, MalformedPacket},
		{"will payload cut", "06 0000 %s 0000 %s 0001'w' 0002'x'", MalformedPacket, MalformedPacket, MalformedPacket},
		{"user and password", "c2 0000 %s 0000 0001'u' 0001'p'", fine, fine, fine},
		{"user and an empty password", "c2 0000 %s 0000 0001'u' 0000", fine, fine, fine},
		{"password that is not UTF-8", "c2 0000 %s 0000 0001'u' 0002 ff00", fine, fine, fine},
		{"password without user", "42 0000 %s 0000 0001'p'", MalformedPacket, MalformedPacket, fine},
		{"user left out", "82 0000 %s 0000", fine, MalformedPacket, MalformedPacket},
		{"password left out", "c2 0000 %s 0000 0001'u'", fine, MalformedPacket, MalformedPacket},
		{"user cut", "82 0000 %s 0000 0002'u'", MalformedPacket, MalformedPacket, MalformedPacket},
		{"something after the end", "02 0000 %s 0000 00", MalformedPacket, MalformedPacket, MalformedPacket},
		{"keep alive cut", "02 00", MalformedPacket, MalformedPacket, MalformedPacket},
	}
	for _, test := range tests {
		old := strings.ReplaceAll(test.rest, "%s", "")
		checkStrict(t, 0, "3.1: "+test.name, "10", "0006'MQIsdp' 03"+old, test.v31)
		checkStrict(t, 0, "3.1.1: "+test.name, "10", "0004'MQTT' 04"+old, test.v311)
		checkStrict(t, 0, "5: "+test.name, "10", "0004'MQTT' 05"+strings.ReplaceAll(test.rest, "%s", "00"), test.v5_)
	}
	for body, want := range map[string]Reason{
		"0004'MQTT' 06 02 0000 0000":    UnsupportedVersion,
		"0004'MQTT' 03 02 0000 0000":    UnsupportedVersion,
		"0006'MQIsdp' 04 02 0000 0000":  UnsupportedVersion,
		"0004'MQTT' 84 02 0000 0000":    fine,
		"0006'MQIsdp' 83 02 0000 0000":  fine,
		"0004'MQTT' 85 02 0000 00 0000": UnsupportedVersion,
		"0004'HTTP' 04 02 0000 0000":    ProtocolError,
		"0004'mqtt' 04 02 0000 0000":    ProtocolError,
		"0000 04 02 0000 0000":          ProtocolError,
		"0004'MQTT'":                    MalformedPacket,
		"":                              MalformedPacket,
	} {
		checkStrict(t, 0, "CONNECT "+body, "10", body, want)
	}
	checkStrict(t, 0, "CONNECT with flags", "12", "0004'MQTT' 04 02 0000 0000", MalformedPacket)
}

func TestStrictInOneVersion(t *testing.T) {
	tests := []struct {
		v                 Version
		name, first, body string
		want              Reason
	}{
		// 3.1 sets DUP on what is sent again.
		{V31, "SUBSCRIBE with DUP", "8a", "0001 0001'a' 00", fine},
		{V31, "UNSUBSCRIBE with DUP", "aa", "0001 0001'a'", fine},
		{V31, "PUBREL with DUP", "6a", "0001", fine},
		{V31, "PUBACK with DUP", "48", "0001", MalformedPacket},
		{V31, "SUBSCRIBE with flags 0", "80", "0001 0001'a' 00", MalformedPacket},
		{V31, "PUBLISH with DUP and QoS 0", "38", "0001'a'", fine},
		{V31, "CONNACK with its reserved byte set", "20", "01 00", fine},

		{V311, "SUBSCRIBE with QoS 3", "82", "0001 0001'a' 03", MalformedPacket},
		{V311, "SUBSCRIBE with no-local", "82", "0001 0001'a' 04", MalformedPacket},
		{V311, "PUBACK with a reason", "40", "0001 00", MalformedPacket},
		{V311, "DISCONNECT with a reason", "e0", "00", MalformedPacket},
		{V311, "AUTH", "f0", "", MalformedPacket},
		{V311, "UNSUBACK", "b0", "0001", fine},
		{V311, "UNSUBACK with a reason", "b0", "0001 00", MalformedPacket},
		{V311, "SUBACK with 0x80", "90", "0001 80", fine},
		{V311, "SUBACK with 0x87", "90", "0001 87", ProtocolError},

		{V5, "SUBSCRIBE with QoS 3", "82", "0001 00 0001'a' 03", ProtocolError},
		{V5, "SUBSCRIBE with retain handling 2", "82", "0001 00 0001'a' 2e", fine},
		{V5, "SUBSCRIBE with retain handling 3", "82", "0001 00 0001'a' 30", ProtocolError},
		{V5, "SUBSCRIBE with the other reserved option", "82", "0001 00 0001'a' 80", MalformedPacket},
		{V5, "SUBSCRIBE with no-local, shared", "82", "0001 00 000a'$share/g/a' 04", ProtocolError},
		{V5, "SUBSCRIBE shared", "82", "0001 00 000a'$share/g/a' 08", fine},
		{V5, "SUBSCRIBE with subscription identifier", "82", "0001 02 0b01 0001'a' 00", fine},
		{V5, "SUBSCRIBE with subscription identifier 0", "82", "0001 02 0b00 0001'a' 00", ProtocolError},
		{V5, "SUBSCRIBE with the largest subscription identifier", "82", "0001 05 0bffffff7f 0001'a' 00", fine},
		{V5, "SUBSCRIBE with a larger one", "82", "0001 06 0bffffffff01 0001'a' 00", MalformedPacket},
		{V5, "SUBSCRIBE with two of them", "82", "0001 04 0b01 0b02 0001'a' 00", ProtocolError},
		{V5, "SUBSCRIBE with a topic alias", "82", "0001 03 230001 0001'a' 00", MalformedPacket},
		{V5, "SUBSCRIBE with user properties alike", "82", "0001 0e 260001'k'0001'v' 260001'k'0001'v' 0001'a' 00", fine},
		{V5, "SUBSCRIBE with properties longer than it", "82", "0001 7f", MalformedPacket},
		{V5, "UNSUBSCRIBE with a subscription identifier", "a2", "0001 02 0b01 0001'a'", MalformedPacket},

		{V5, "PUBLISH with an alias and no topic", "30", "0000 03 230001", fine},
		{V5, "PUBLISH with alias 0", "30", "0001'a' 03 230000", TopicAliasInvalid},
		{V5, "PUBLISH with two aliases", "30", "0001'a' 06 230001 230001", ProtocolError},
		{V5, "PUBLISH with several subscription identifiers", "30", "0001'a' 04 0b01 0b02", fine},
		{V5, "PUBLISH with subscription identifier 0", "30", "0001'a' 02 0b00", ProtocolError},
		{V5, "PUBLISH with payload format 1", "30", "0001'a' 02 0101 ff", fine}, // it is the broker's to look
		{V5, "PUBLISH with payload format 2", "30", "0001'a' 02 0102", ProtocolError},
		{V5, "PUBLISH with two payload formats", "30", "0001'a' 04 0100 0100", ProtocolError},
		{V5, "PUBLISH with two expiries", "30", "0001'a' 0a 0200000001 0200000001", ProtocolError},
		{V5, "PUBLISH with two content types", "30", "0001'a' 06 030000 030000", ProtocolError},
		{V5, "PUBLISH with two correlations", "30", "0001'a' 06 090000 090000", ProtocolError},
		{V5, "PUBLISH with a response topic", "30", "0001'a' 04 080001'r'", fine},
		{V5, "PUBLISH with two response topics", "30", "0001'a' 08 080001'r' 080001'r'", ProtocolError},
		{V5, "PUBLISH with a wildcard in its response topic", "30", "0001'a' 06 080003'a/+'", ProtocolError},
		{V5, "PUBLISH with an empty response topic", "30", "0001'a' 03 080000", ProtocolError},
		{V5, "PUBLISH with a NUL in its response topic", "30", "0001'a' 04 08000100", MalformedPacket},
		{V5, "PUBLISH with a surrogate in a user property", "30", "0001'a' 09 260001'k'0003eda080", MalformedPacket},
		{V5, "PUBLISH with a user property cut", "30", "0001'a' 05 260001'k'00", MalformedPacket},
		{V5, "PUBLISH with a session expiry", "30", "0001'a' 05 1100000001", MalformedPacket},
		{V5, "PUBLISH with an unknown property", "30", "0001'a' 02 7f00", MalformedPacket},
		{V5, "PUBLISH with property 0", "30", "0001'a' 02 0000", MalformedPacket},
		{V5, "PUBLISH with property 0x80", "30", "0001'a' 02 8001", MalformedPacket},
		{V5, "PUBLISH without a length of properties", "30", "0001'a'", MalformedPacket},
		{V5, "PUBLISH whose properties are cut", "30", "0001'a' 05 01", MalformedPacket},
		{V5, "PUBLISH whose length of properties is longer than need be", "30", "0001'a' 8000", MalformedPacket},

		{V5, "PUBACK with success", "40", "0001 00", fine},
		{V5, "PUBACK with success and no properties", "40", "0001 00 00", fine},
		{V5, "PUBACK with a reason string", "40", "0001 10 04 1f0001'x'", fine},
		{V5, "PUBACK with two reason strings", "40", "0001 10 08 1f0001'x' 1f0001'x'", ProtocolError},
		{V5, "PUBACK with a server reference", "40", "0001 10 04 1c0001'x'", MalformedPacket},
		{V5, "PUBACK with a reason of PUBREL", "40", "0001 92", ProtocolError},
		{V5, "PUBACK with an unknown reason", "40", "0001 42", ProtocolError},
		{V5, "PUBREC that refuses", "50", "0001 97", fine},
		{V5, "PUBREL that knows nothing of it", "62", "0001 92", fine},
		{V5, "PUBREL with a reason of PUBREC", "62", "0001 97", ProtocolError},
		{V5, "PUBCOMP that knows nothing of it", "70", "0001 92 00", fine},
		{V5, "PUBCOMP with bytes after its properties", "70", "0001 92 00 00", MalformedPacket},
		{V5, "UNSUBACK", "b0", "0001 00 11", fine},
		{V5, "UNSUBACK without reasons", "b0", "0001 00", ProtocolError},

		{V5, "DISCONNECT with will", "e0", "04", fine},
		{V5, "DISCONNECT with a session expiry", "e0", "00 05 1100000001", fine},
		{V5, "DISCONNECT with all it may have", "e0", "9c 0c 1c0001'x' 1f0001'x' 260001'k'0000", MalformedPacket},
		{V5, "DISCONNECT with all it may have, rightly counted", "e0", "9c 0e 1c0001'x' 1f0001'x' 260001'k'0000", fine},
		{V5, "DISCONNECT with two session expiries", "e0", "00 0a 1100000001 1100000001", ProtocolError},
		{V5, "DISCONNECT with a reason of CONNACK", "e0", "86", ProtocolError},
		{V5, "DISCONNECT with a topic alias maximum", "e0", "00 03 220001", MalformedPacket},

		{V5, "AUTH", "f0", "18 04 150001'm'", fine},
		{V5, "AUTH without anything", "f0", "", fine},
		{V5, "AUTH with a reason only", "f0", "18", ProtocolError},
		{V5, "AUTH without a method", "f0", "18 04 160001'd'", ProtocolError},
		{V5, "AUTH with two methods", "f0", "18 08 150001'm' 150001'm'", ProtocolError},
		{V5, "AUTH with a reason of DISCONNECT", "f0", "8e 04 150001'm'", ProtocolError},
		{V5, "AUTH with flags", "f1", "18 04 150001'm'", MalformedPacket},

		{V5, "CONNACK with receive maximum 0", "20", "00 00 03 210000", ProtocolError},
		{V5, "CONNACK with maximum packet size 0", "20", "00 00 05 2700000000", ProtocolError},
		{V5, "CONNACK with maximum QoS 2", "20", "00 00 02 2402", ProtocolError},
		{V5, "CONNACK with a reason of DISCONNECT", "20", "00 8e 00", ProtocolError},
		{V5, "CONNACK with a will delay", "20", "00 00 05 1800000001", MalformedPacket},
	}
	for _, test := range tests {
		checkStrict(t, test.v, test.name, test.first, test.body, test.want)
	}
}

// TestStrictConnectProperties holds the properties of CONNECT and of its will.
func TestStrictConnectProperties(t *testing.T) {
	tests := []struct {
		name, props string
		will        bool
		want        Reason
	}{
		{"session expiry", "1100000001", false, fine},
		{"session expiry twice", "1100000001 1100000001", false, ProtocolError},
		{"receive maximum 0", "210000", false, ProtocolError},
		{"receive maximum twice", "210001 210001", false, ProtocolError},
		{"maximum packet size 0", "2700000000", false, ProtocolError},
		{"maximum packet size twice", "2700000001 2700000001", false, ProtocolError},
		{"topic alias maximum 0", "220000", false, fine},
		{"topic alias maximum twice", "220000 220000", false, ProtocolError},
		{"request response information 2", "1902", false, ProtocolError},
		{"request problem information 2", "1702", false, ProtocolError},
		{"request problem information twice", "1701 1701", false, ProtocolError},
		{"method", "150001'm'", false, fine},
		{"data without method", "160001'd'", false, ProtocolError},
		{"a server's property", "130001", false, MalformedPacket},
		{"a will's property", "1800000001", false, MalformedPacket},
		{"topic alias", "230001", false, MalformedPacket},

		{"delay", "1800000001", true, fine},
		{"delay twice", "1800000001 1800000001", true, ProtocolError},
		{"format, expiry, type, response, correlation, user", "0101 0200000001 030001't' 080001'r' 090001 ff 260001'k'0001'v'", true, fine},
		{"wildcard in the response topic", "080001'#'", true, ProtocolError},
		{"topic alias", "230001", true, MalformedPacket},
		{"subscription identifier", "0b01", true, MalformedPacket},
		{"session expiry", "1100000001", true, MalformedPacket},
	}
	for _, test := range tests {
		props := fmt.Sprintf("%02x %s", len(unhex(t, test.props)), test.props)
		if test.will {
			checkStrict(t, 0, "will: "+test.name, "10", "0004'MQTT' 05 06 0000 00 0000 "+props+" 0001'w' 0000", test.want)
		} else {
			checkStrict(t, 0, "CONNECT: "+test.name, "10", "0004'MQTT' 05 02 0000 "+props+" 0000", test.want)
		}
	}
}

func TestStrictRemainingLength(t *testing.T) {
	tests := []struct {
		name, hex string
		want      error
	}{
		{"of five bytes", "30ffffffff01", &Error{Reason: MalformedPacket}},
		{"longer than need be", "c08000", &Error{Reason: MalformedPacket}},
		{"cut", "30ff", io.ErrUnexpectedEOF},
		{"none", "30", io.ErrUnexpectedEOF},
		{"of a body that is cut", "3005 0001'a'", io.ErrUnexpectedEOF},
		{"nothing at all", "", io.EOF},
	}
	for _, test := range tests {
		for name, src := range sources(unhex(t, test.hex)) {
			_, _, err := (&Reader{Src: src, Version: V311}).Read()
			var got, want *Error
			if errors.As(test.want, &want) && errors.As(err, &got) && got.Reason == want.Reason {
				continue
			}
			if err != test.want {
				t.Errorf("%s, from %s: %v, want %v", test.name, name, err, test.want)
			}
		}
	}
}

func TestReasonsOfRefusalsHaveNamesAndPlaces(t *testing.T) {
	for r := range reasons {
		if (reasons[r].name == "") != (reasons[r].where == 0) {
			t.Errorf("reason %#x: %+v", r, reasons[r])
		}
	}
	if !QuotaExceeded.In(PUBACK) || QuotaExceeded.In(PUBREL) || Reason(0x42).In(PUBACK) {
		t.Error("places of reasons")
	}
}

func TestPayloadFormatIsChecked(t *testing.T) {
	utf := Properties{{ID: PayloadFormat, Num: 1}}
	for _, test := range []struct {
		props   Properties
		payload string
		want    bool
	}{
		{nil, "\xff", true}, {utf, "\xff", false}, {utf, "grün", true}, {utf, "", true}, {utf, "\x00", true},
		{Properties{{ID: PayloadFormat}}, "\xff", true}, {utf, "\xed\xa0\x80", false},
	} {
		if got := ValidFormat(test.props, []byte(test.payload)); got != test.want {
			t.Errorf("%v, % x: %v", test.props, test.payload, got)
		}
	}
}
