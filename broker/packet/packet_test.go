package packet

import (
	"bytes"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
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
		{ID: SessionExpiry, Num: 0xFFFFFFFF}, {ID: ReceiveMaximum, Num: 65535}, {ID: MaximumPacketSize, Num: 1},
		{ID: TopicAliasMaximum}, {ID: AuthMethod, Text: "m"}, {ID: AuthData, Text: "d"}, user,
		{ID: MaximumQoS, Num: 1}, {ID: RetainAvailable}, {ID: WildcardAvailable, Num: 1}, {ID: SubIDAvailable, Num: 1},
		{ID: SharedAvailable}, {ID: ServerReference, Text: "s"}, {ID: ReasonString, Text: "why"}})
	reason := with(Properties{{ID: ReasonString, Text: "why"}, user})
	var failure Reason
	release := failure
	if v == V5 {
		failure, release = QuotaExceeded, IDNotFound
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
		&Connack{SessionPresent: v > V31, Reason: Success, Props: connackProps},
		&Publish{Topic: "a/b", Payload: []byte("x")},
		&Publish{Dup: true, QoS: 2, Retain: true, Topic: "ä", ID: 65535, Props: pubProps, Payload: bytes.Repeat([]byte("p"), 300)},
		&Ack{Kind: PUBACK, ID: 1}, &Ack{Kind: PUBREC, ID: 2, Reason: failure},
		&Ack{Kind: PUBREL, ID: 3, Reason: release, Props: reason}, &Ack{Kind: PUBCOMP, ID: 4},
		&Subscribe{ID: 7, Filters: filters, Props: with(Properties{{ID: SubscriptionID, Num: 268435455}})},
		&SubAck{Kind: SUBACK, ID: 7, Reasons: []Reason{GrantedQoS1, Unspecified}, Props: reason},
		&Unsubscribe{ID: 8, Filters: []string{"a", "b"}, Props: with(Properties{user})},
		Ping{PINGREQ}, Ping{PINGRESP},
		&Disconnect{Reason: failure, Props: reason},
	}
	if v == V5 {
		list = append(list, &SubAck{Kind: UNSUBACK, ID: 8, Reasons: []Reason{Success}},
			&Auth{Reason: ContinueAuth, Props: Properties{{ID: AuthMethod, Text: "m"}, {ID: AuthData, Text: "\x00"}, user}}, &Auth{},
			&Disconnect{}, &Disconnect{Reason: ServerMoved, Props: Properties{{ID: ServerReference, Text: "there"}, {ID: SessionExpiry, Num: 9}}})
	} else {
		list = append(list, &SubAck{Kind: UNSUBACK, ID: 8})
	}
	return list
}

func TestEncodedPacketsParseToTheSame(t *testing.T) {
	for _, v := range []Version{V31, V311, V5} {
		r := Reader{Src: iotest.OneByteReader(bytes.NewReader(encodeAll(t, v))), Version: v}
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

func encodeAll(t testing.TB, v Version) []byte {
	var stream []byte
	for _, p := range samples(v) {
		var err error
		if stream, err = p.Append(stream, v); err != nil {
			t.Fatal(err)
		}
	}
	return stream
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

func TestConnackBefore311SaysNothingOfSessions(t *testing.T) {
	for v, want := range map[Version]string{V31: "\x20\x02\x00\x00", V311: "\x20\x02\x01\x00", V5: "\x20\x03\x01\x00\x00"} {
		if got, err := (&Connack{SessionPresent: true}).Append(nil, v); string(got) != want || err != nil {
			t.Errorf("%v: % x, %v", v, got, err)
		}
	}
}
