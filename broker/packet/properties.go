package packet

import "fmt"

// A PropertyID names a property (section 2.2.2.2).
type PropertyID byte

const (
	PayloadFormat     PropertyID = 0x01
	MessageExpiry     PropertyID = 0x02 // seconds
	ContentType       PropertyID = 0x03
	ResponseTopic     PropertyID = 0x08
	CorrelationData   PropertyID = 0x09
	SubscriptionID    PropertyID = 0x0B
	SessionExpiry     PropertyID = 0x11 // seconds
	AssignedClientID  PropertyID = 0x12
	ServerKeepAlive   PropertyID = 0x13 // seconds
	AuthMethod        PropertyID = 0x15
	AuthData          PropertyID = 0x16
	RequestProblem    PropertyID = 0x17
	WillDelay         PropertyID = 0x18 // seconds
	RequestResponse   PropertyID = 0x19
	ResponseInfo      PropertyID = 0x1A
	ServerReference   PropertyID = 0x1C
	ReasonString      PropertyID = 0x1F
	ReceiveMaximum    PropertyID = 0x21
	TopicAliasMaximum PropertyID = 0x22
	TopicAlias        PropertyID = 0x23
	MaximumQoS        PropertyID = 0x24
	RetainAvailable   PropertyID = 0x25
	UserProperty      PropertyID = 0x26
	MaximumPacketSize PropertyID = 0x27
	WildcardAvailable PropertyID = 0x28
	SubIDAvailable    PropertyID = 0x29
	SharedAvailable   PropertyID = 0x2A
)

// A kind is how a property's value is written.
type kind byte

const (
	flag  kind = iota + 1 // one byte, 0 or 1
	short                 // two bytes
	long                  // four bytes
	multi                 // variable byte integer
	text                  // UTF-8 string
	data                  // binary
	pair                  // two UTF-8 strings
)

// will is the bit for the properties of a Will; a packet's bit is 1 << Type.
const will = 1

// properties says for each identifier what it is called, how its value is
// written and where it may stand (table 2-4).
var properties = [0x2B]struct {
	name    string
	kind    kind
	where   uint16
	nonzero bool
}{
	PayloadFormat:     {"payload format", flag, 1<<PUBLISH | will, false},
	MessageExpiry:     {"message expiry", long, 1<<PUBLISH | will, false},
	ContentType:       {"content type", text, 1<<PUBLISH | will, false},
	ResponseTopic:     {"response topic", text, 1<<PUBLISH | will, false},
	CorrelationData:   {"correlation data", data, 1<<PUBLISH | will, false},
	SubscriptionID:    {"subscription identifier", multi, 1<<PUBLISH | 1<<SUBSCRIBE, true},
	SessionExpiry:     {"session expiry", long, 1<<CONNECT | 1<<CONNACK | 1<<DISCONNECT, false},
	AssignedClientID:  {"assigned client identifier", text, 1 << CONNACK, false},
	ServerKeepAlive:   {"server keep alive", short, 1 << CONNACK, false},
	AuthMethod:        {"authentication method", text, 1<<CONNECT | 1<<CONNACK | 1<<AUTH, false},
	AuthData:          {"authentication data", data, 1<<CONNECT | 1<<CONNACK | 1<<AUTH, false},
	RequestProblem:    {"request problem information", flag, 1 << CONNECT, false},
	WillDelay:         {"will delay", long, will, false},
	RequestResponse:   {"request response information", flag, 1 << CONNECT, false},
	ResponseInfo:      {"response information", text, 1 << CONNACK, false},
	ServerReference:   {"server reference", text, 1<<CONNACK | 1<<DISCONNECT, false},
	ReasonString:      {"reason string", text, anyAck | 1<<CONNACK | 1<<DISCONNECT | 1<<AUTH, false},
	ReceiveMaximum:    {"receive maximum", short, 1<<CONNECT | 1<<CONNACK, true},
	TopicAliasMaximum: {"topic alias maximum", short, 1<<CONNECT | 1<<CONNACK, false},
	TopicAlias:        {"topic alias", short, 1 << PUBLISH, true},
	MaximumQoS:        {"maximum QoS", flag, 1 << CONNACK, false},
	RetainAvailable:   {"retain available", flag, 1 << CONNACK, false},
	UserProperty:      {"user property", pair, 0xFFFF, false},
	MaximumPacketSize: {"maximum packet size", long, 1<<CONNECT | 1<<CONNACK, true},
	WildcardAvailable: {"wildcard subscription available", flag, 1 << CONNACK, false},
	SubIDAvailable:    {"subscription identifiers available", flag, 1 << CONNACK, false},
	SharedAvailable:   {"shared subscription available", flag, 1 << CONNACK, false},
}

const anyAck = 1<<PUBACK | 1<<PUBREC | 1<<PUBREL | 1<<PUBCOMP | 1<<SUBACK | 1<<UNSUBACK

func (id PropertyID) kind() kind {
	if int(id) < len(properties) {
		return properties[id].kind
	}
	return 0
}

func (id PropertyID) String() string {
	if id.kind() != 0 {
		return properties[id].name
	}
	return fmt.Sprintf("property 0x%02X", byte(id))
}

// A Property is one property with its value.
type Property struct {
	ID    PropertyID
	Num   uint32 // of flags and numbers
	Text  string // of strings and binary data; the name of a user property
	Value string // of a user property
}

// Properties are a packet's, in the order they have on the wire; nil is none.
type Properties []Property

// maxProperties bounds what one packet can make its reader allocate, too.
const maxProperties = 1024

// Num returns the number or flag id, or def if it is absent.
func (p Properties) Num(id PropertyID, def uint32) uint32 {
	for i := range p {
		if p[i].ID == id {
			return p[i].Num
		}
	}
	return def
}

// Text returns the string or binary data id, and whether it is present.
func (p Properties) Text(id PropertyID) (string, bool) {
	for i := range p {
		if p[i].ID == id {
			return p[i].Text, true
		}
	}
	return "", false
}

// Lookup returns the number id and whether it is there.
func (p Properties) Lookup(id PropertyID) (uint32, bool) {
	for i := range p {
		if p[i].ID == id {
			return p[i].Num, true
		}
	}
	return 0, false
}

// Has says whether id is present.
func (p Properties) Has(id PropertyID) bool {
	_, ok := p.Text(id)
	return ok
}

// AddNum returns p with the number or flag id.
func (p Properties) AddNum(id PropertyID, n uint32) Properties {
	return append(p, Property{ID: id, Num: n})
}

// AddText returns p with the string or binary data id.
func (p Properties) AddText(id PropertyID, s string) Properties {
	return append(p, Property{ID: id, Text: s})
}

// props reads the properties of a packet (section 2.2.2); where is the bit
// of where they stand. Before MQTT 5 there are none.
func (c *cursor) props(where uint16) Properties {
	if c.v < V5 {
		return nil
	}
	list := &cursor{b: c.take(int(c.varint())), s: c.s}
	if len(list.b) == 0 {
		return nil
	}
	var props Properties
	if c.s != nil {
		props = c.s.props[:0]
	}
	var seen uint64
	for len(list.b) > 0 {
		if len(props) == maxProperties {
			list.fail(&Error{QuotaExceeded, fmt.Sprintf("more than %d properties", maxProperties)})
			break
		}
		p := list.property(where)
		if seen&(1<<p.ID) != 0 && p.ID != UserProperty && (p.ID != SubscriptionID || where != 1<<PUBLISH) {
			list.fail(protocolError("%v again", p.ID))
		}
		seen |= 1 << p.ID
		props = append(props, p)
	}
	if c.s != nil {
		c.s.props = props
	}
	if seen&(1<<AuthData) != 0 && seen&(1<<AuthMethod) == 0 {
		list.fail(protocolError("authentication data without a method"))
	}
	if list.err != nil {
		c.fail(list.err)
		return nil
	}
	return props
}

func (c *cursor) property(where uint16) Property {
	p := Property{ID: PropertyID(c.u8())}
	if p.ID.kind() == 0 || properties[p.ID].where&where == 0 {
		c.fail(malformed("%v is not allowed here", p.ID))
		return Property{}
	}
	switch p.ID.kind() {
	case flag:
		p.Num = uint32(c.u8())
	case short:
		p.Num = uint32(c.u16())
	case long:
		p.Num = c.u32()
	case multi:
		p.Num = c.varint()
	case text:
		p.Text = c.name()
	case data:
		p.Text = string(c.data())
	case pair:
		p.Text, p.Value = c.name(), c.text()
	}
	c.checkProperty(&p)
	return p
}

func (c *cursor) checkProperty(p *Property) {
	switch {
	case p.ID == TopicAlias && p.Num == 0:
		c.fail(&Error{TopicAliasInvalid, "topic alias is 0"})
	case p.ID.kind() == flag && p.Num > 1 || properties[p.ID].nonzero && p.Num == 0:
		c.fail(protocolError("%v is %d", p.ID, p.Num))
	case p.ID == ResponseTopic && (p.Text == "" || wildcards(p.Text)):
		c.fail(protocolError("response topic %.40q is no topic", p.Text))
	}
}

// props appends properties with their length; before MQTT 5, nothing.
func (e *encoder) props(props Properties) {
	if e.v < V5 {
		return
	}
	e.u8(0)
	mark := len(e.b)
	for i := range props {
		e.property(&props[i])
	}
	e.close(mark, 0)
}

func (e *encoder) property(p *Property) {
	e.u8(byte(p.ID))
	switch p.ID.kind() {
	case flag:
		e.u8(byte(p.Num))
	case short:
		e.u16(uint16(p.Num))
	case long:
		e.u32(p.Num)
	case multi:
		e.multi(p.Num)
	case text, data:
		e.text(p.Text)
	case pair:
		e.text(p.Text)
		e.text(p.Value)
	}
}

func (e *encoder) multi(n uint32) {
	if n > maxLength {
		e.fail("number", int(n), maxLength)
		return
	}
	var enc [4]byte
	k := putVarint(&enc, int(n))
	e.b = append(e.b, enc[:k]...)
}
