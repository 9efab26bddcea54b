package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

// samples are packets of all types with most of their fields in use.
func samples(v Version) []Packet {
	user := Property{ID: UserProperty, Text: "k", Value: "v"}
	with := func(p Properties) Properties {
		if v < V5 {
			return nil
		}
		return p
	}
	pubProps := with(Properties{{ID: PayloadFormat, Num: 1}, {ID: MessageExpiry, Num: 60}, {ID: TopicAlias, Num: 3},
		{ID: ResponseTopic, Text: "re/ply"}, {ID: CorrelationData, Text: "\x00\xff"}, user, user,
		{ID: SubscriptionID, Num: 300}, {ID: SubscriptionID, Num: 1}, {ID: ContentType, Text: "text/plain"}})
	connectProps := with(Properties{{ID: SessionExpiry, Num: 5}, {ID: ReceiveMaximum, Num: 2}, {ID: MaximumPacketSize, Num: 1000},
		{ID: TopicAliasMaximum, Num: 9}, {ID: RequestResponse, Num: 1}, {ID: RequestProblem}, user,
		{ID: AuthMethod, Text: "m"}, {ID: AuthData, Text: "d"}})
	connackProps := with(Properties{{ID: ServerKeepAlive, Num: 60}, {ID: AssignedClientID, Text: "a"}, {ID: ResponseInfo, Text: "r"},
		{ID: MaximumQoS, Num: 1}, {ID: RetainAvailable}, {ID: WildcardAvailable, Num: 1}, {ID: SubIDAvailable, Num: 1},
		{ID: SharedAvailable}, {ID: ServerReference, Text: "s"}, {ID: ReasonString, Text: "why"}})
	reason := with(Properties{{ID: ReasonString, Text: "why"}, user})
	var failure Reason
	if v == V5 {
		failure = QuotaExceeded
	}
	filters := []Filter{{Filter: "a/+/#", QoS: 1}, {Filter: "ä ö", QoS: 2}}
	if v == V5 {
		filters[0].NoLocal, filters[1].RetainAsPublished, filters[1].RetainHandling = true, true, 2
	}
	list := []Packet{
		&Connect{Version: v, ClientID: "c", CleanStart: true, KeepAlive: 30, Props: connectProps,
			Will:    &Will{QoS: 1, Retain: true, Topic: "w", Payload: []byte("gone"), Props: with(Properties{{ID: WillDelay, Num: 4}, user})},
			HasUser: true, User: "u", HasPassword: true, Password: []byte{0, 1}},
		&Connect{Version: v, Will: &Will{Topic: "w", Payload: []byte{}}, HasUser: true, HasPassword: true, Password: []byte{}},
		&Connack{SessionPresent: true, Reason: Success, Props: connackProps},
		&Publish{Topic: "a/b", Payload: []byte("x")},
		&Publish{Dup: true, QoS: 2, Retain: true, Topic: "ä", ID: 65535, Props: pubProps, Payload: bytes.Repeat([]byte("p"), 300)},
		&Ack{Kind: PUBACK, ID: 1}, &Ack{Kind: PUBREC, ID: 2, Reason: failure},
		&Ack{Kind: PUBREL, ID: 3, Reason: failure, Props: reason}, &Ack{Kind: PUBCOMP, ID: 4},
		&Subscribe{ID: 7, Filters: filters, Props: with(Properties{{ID: SubscriptionID, Num: 268435455}})},
		&SubAck{Kind: SUBACK, ID: 7, Reasons: []Reason{GrantedQoS1, Unspecified}, Props: reason},
		&Unsubscribe{ID: 8, Filters: []string{"a", "b"}, Props: with(Properties{user})},
		Ping{PINGREQ}, Ping{PINGRESP},
		&Disconnect{Reason: failure, Props: reason},
	}
	if v == V5 {
		list = append(list, &SubAck{Kind: UNSUBACK, ID: 8, Reasons: []Reason{Success}},
			&Auth{Reason: 0x18, Props: Properties{{ID: AuthMethod, Text: "m"}}}, &Disconnect{})
	} else {
		list = append(list, &SubAck{Kind: UNSUBACK, ID: 8})
	}
	return list
}

func TestEncodedPacketsParseToTheSame(t *testing.T) {
	for _, v := range []Version{V31, V311, V5} {
		var stream []byte
		for _, p := range samples(v) {
			var err error
			if stream, err = p.Append(stream, v); err != nil {
				t.Fatal(err)
			}
		}
		r := Reader{Src: iotest(stream), Version: v}
		for _, want := range samples(v) {
			got, _, err := r.Read()
			if err != nil {
				t.Fatalf("%v %v: %v", v, want.Type(), err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%v\n got %+v\nwant %+v", v, got, want)
			}
		}
		if _, _, err := r.Read(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
	}
}

// iotest gives its bytes one by one, as a network might.
func iotest(b []byte) io.Reader { return &oneByOne{b} }

type oneByOne struct{ b []byte }

func (r *oneByOne) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], r.b)
	r.b = r.b[n:]
	return n, nil
}

func TestMalformedPacketsAreErrors(t *testing.T) {
	tests := []struct {
		name, hex string
		v         Version
		want      Reason
	}{
		{"SUBSCRIBE cut before its options", "8206 0001 00 0001 61", V5, MalformedPacket},
		{"SUBSCRIBE without filters", "8203 0001 00", V5, ProtocolError},
		{"SUBSCRIBE with flags 0", "8006 0001 0001 61 00", V311, MalformedPacket},
		{"SUBSCRIBE with reserved options before 5", "8206 0001 0001 61 04", V311, ProtocolError},
		{"SUBSCRIBE with retain handling 3", "8207 0001 00 0001 61 30", V5, ProtocolError},
		{"SUBSCRIBE with identifier 0", "8206 0000 0001 61 00", V311, ProtocolError},
		{"PUBLISH with QoS 3", "3605 0001 61 0001", V311, MalformedPacket},
		{"PUBLISH with DUP and QoS 0", "3803 0001 61", V311, MalformedPacket},
		{"PUBLISH with wildcard", "3003 0001 23", V311, TopicInvalid},
		{"PUBLISH without topic or alias", "3003 0000 00", V5, ProtocolError},
		{"PUBLISH with NUL in its topic", "3003 0001 00", V311, MalformedPacket},
		{"PUBLISH with a surrogate in its topic", "3005 0003 eda080", V311, MalformedPacket},
		{"PUBLISH whose properties are cut", "3005 0001 61 05 01", V5, MalformedPacket},
		{"PUBLISH with a property twice", "3008 0001 61 04 0100 0100", V5, ProtocolError},
		{"PUBLISH with a property of CONNECT", "3009 0001 61 05 1100000001", V5, MalformedPacket},
		{"PUBLISH with an unknown property", "3006 0001 61 02 7f00", V5, MalformedPacket},
		{"PUBLISH with payload format 2", "3006 0001 61 02 0102", V5, ProtocolError},
		{"PUBLISH with subscription identifier 0", "3006 0001 61 02 0b00", V5, ProtocolError},
		{"PUBACK too long before 5", "4003 0001 00", V311, MalformedPacket},
		{"PINGREQ with a body", "c001 00", V311, MalformedPacket},
		{"type 0", "0000", V311, MalformedPacket},
		{"AUTH before 5", "f000", V311, MalformedPacket},
		{"remaining length of five bytes", "30ffffffff01", V311, MalformedPacket},
		{"remaining length longer than need be", "c08000", V311, MalformedPacket},
		{"CONNECT with reserved flag", "100c 0004 4d515454 04 03 0000 0000", 0, MalformedPacket},
		{"CONNECT with will QoS and no will", "100c 0004 4d515454 04 0a 0000 0000", 0, MalformedPacket},
		{"CONNECT with a password only", "100e 0004 4d515454 04 42 0000 0000 0000", 0, MalformedPacket},
		{"CONNECT of level 6", "100c 0004 4d515454 06 02 0000 0000", 0, UnsupportedVersion},
		{"CONNECT of another protocol", "100c 0004 48545450 04 02 0000 0000", 0, ProtocolError},
	}
	for _, test := range tests {
		raw, err := hex.DecodeString(strings.ReplaceAll(test.hex, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		r := Reader{Src: bytes.NewReader(raw), Version: test.v}
		p, _, err := r.Read()
		var e *Error
		if !errors.As(err, &e) || e.Reason != test.want {
			t.Errorf("%s: got %+v, %v, want %v", test.name, p, err, test.want)
		}
	}
}

func TestBridgeBitIsAcceptedBeforeVersion5(t *testing.T) {
	for level, want := range map[byte]Version{0x84: V311, 0x83: V31} {
		want := &Connect{Version: want, Bridge: true, CleanStart: true, ClientID: "b"}
		raw, _ := want.Append(nil, 0)
		if !bytes.Contains(raw, []byte{level}) {
			t.Errorf("level %#x is not in % x", level, raw)
		}
		got, _, err := (&Reader{Src: bytes.NewReader(raw)}).Read()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func TestSizeIsLimitedBeforeAnythingIsRead(t *testing.T) {
	src := bytes.NewReader([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3})
	_, _, err := (&Reader{Src: src, Version: V5, Max: 1000}).Read()
	var e *Error
	if !errors.As(err, &e) || e.Reason != PacketTooLarge {
		t.Errorf("got %v", err)
	}
	if src.Len() != 3 {
		t.Errorf("%d bytes of the body were read", 3-src.Len())
	}
}

func TestBodyGrowsOnlyAsBytesArrive(t *testing.T) {
	r := Reader{Src: bytes.NewReader([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3}), Version: V5}
	if _, _, err := r.Read(); err != io.ErrUnexpectedEOF {
		t.Errorf("got %v", err)
	}
	if cap(r.buf) > 1<<20 {
		t.Errorf("a length alone allocated %d bytes", cap(r.buf))
	}
}

func TestStringsTooLongAreNotEncoded(t *testing.T) {
	dst := []byte("before")
	got, err := (&Publish{Topic: strings.Repeat("x", 65536)}).Append(dst, V5)
	if err == nil || string(got) != "before" {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	p := &Publish{QoS: 1, ID: 7, Topic: "plant/meter/power", Payload: make([]byte, 200),
		Props: Properties{{ID: MessageExpiry, Num: 60}, {ID: UserProperty, Text: "id", Value: "x"}}}
	ack := &Ack{Kind: PUBACK, ID: 7}
	buf := make([]byte, 0, 1024)
	n := testing.AllocsPerRun(100, func() {
		b, _ := p.Append(buf, V5)
		ack.Append(b, V5)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzRoundTrip checks that what parses re-encodes to a packet that parses to
// the same.
func FuzzRoundTrip(f *testing.F) {
	for _, v := range []Version{V31, V311, V5} {
		for _, p := range samples(v) {
			raw, _ := p.Append(nil, v)
			f.Add(byte(v), raw)
		}
	}
	f.Fuzz(func(t *testing.T, level byte, raw []byte) {
		v := 3 + Version(level%3)
		p, n, err := (&Reader{Src: bytes.NewReader(raw), Version: v, Max: 1 << 16}).Read()
		if err != nil {
			return
		}
		again, err := p.Append(nil, v)
		if err != nil {
			t.Fatalf("%+v does not encode: %v", p, err)
		}
		q, _, err := (&Reader{Src: bytes.NewReader(again), Version: v}).Read()
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%+v became %+v, %v", p, q, err)
		}
		if len(again) == n && !bytes.Equal(again, raw[:n]) {
			t.Fatalf("% x became % x", raw[:n], again)
		}
	})
}
