package packet

// A Connect opens a session (section 3.1).
type Connect struct {
	Version     Version
	Bridge      bool // the private bit that bridges set in the version before MQTT 5
	CleanStart  bool
	KeepAlive   uint16 // seconds, 0: none
	Props       Properties
	ClientID    string
	Will        *Will
	HasUser     bool
	User        string
	HasPassword bool
	Password    []byte
}

// A Will is the message that the broker sends for a client that went without
// a word.
type Will struct {
	QoS     byte
	Retain  bool
	Props   Properties
	Topic   string
	Payload []byte
}

func (p *Connect) Type() Type { return CONNECT }

// The connect flags (section 3.1.2.3).
const (
	flagClean      = 1 << 1
	flagWill       = 1 << 2
	flagWillRetain = 1 << 5
	flagPassword   = 1 << 6
	flagUser       = 1 << 7
)

func (c *cursor) connect() *Connect {
	p := &Connect{}
	c.protocol(p)
	flags := c.u8()
	c.checkFlags(flags)
	p.CleanStart = flags&flagClean != 0
	p.KeepAlive = c.u16()
	p.Props = c.props(1 << CONNECT)
	p.ClientID = c.text()
	if flags&flagWill != 0 {
		p.Will = &Will{QoS: flags >> 3 & 3, Retain: flags&flagWillRetain != 0}
		p.Will.Props = c.props(will)
		p.Will.Topic = c.text()
		p.Will.Payload = c.data()
	}
	if p.HasUser = flags&flagUser != 0 && !c.leftOut(); p.HasUser {
		p.User = c.text()
	}
	if p.HasPassword = flags&flagPassword != 0 && !c.leftOut(); p.HasPassword {
		p.Password = c.data()
	}
	return p
}

// leftOut says whether a field that the flags announce is missing, as 3.1
// allows.
func (c *cursor) leftOut() bool { return c.v == V31 && c.err == nil && len(c.b) == 0 }

// protocol reads the protocol's name and level.
func (c *cursor) protocol(p *Connect) {
	name, level := string(c.data()), c.u8()
	p.Version = Version(level)
	if p.Version == 0x83 || p.Version == 0x84 {
		p.Bridge, p.Version = true, p.Version&0x7F
	}
	if c.v = p.Version; c.err != nil {
		return
	}
	switch {
	case name != "MQTT" && name != "MQIsdp":
		c.fail(protocolError("protocol %.20q is not MQTT", name))
	case p.Version < V31 || p.Version > V5 || (name == "MQIsdp") != (p.Version == V31):
		c.fail(&Error{UnsupportedVersion, "protocol " + name + " " + p.Version.String()})
	}
}

func (c *cursor) checkFlags(flags byte) {
	qos := flags >> 3 & 3
	switch {
	case flags&1 != 0 && c.v > V31:
		c.fail(malformed("the reserved flag is set"))
	case c.v == V31 && flags&flagWill == 0: // nothing is said about a will
	case qos == 3:
		c.fail(malformed("will QoS 3"))
	case flags&flagWill == 0 && (qos != 0 || flags&flagWillRetain != 0):
		c.fail(malformed("will flags without a will"))
	}
	if c.v < V5 && flags&flagPassword != 0 && flags&flagUser == 0 {
		c.fail(malformed("a password without a user name"))
	}
}

// Append encodes with p's own version; v is not used.
func (p *Connect) Append(dst []byte, _ Version) ([]byte, error) {
	e := encoder{b: dst, v: p.Version}
	mark := e.open(byte(CONNECT) << 4)
	e.protocol(p)
	e.u8(p.flags())
	e.u16(p.KeepAlive)
	e.props(p.Props)
	e.text(p.ClientID)
	if w := p.Will; w != nil {
		e.props(w.Props)
		e.text(w.Topic)
		e.data(w.Payload)
	}
	if p.HasUser {
		e.text(p.User)
	}
	if p.HasPassword {
		e.data(p.Password)
	}
	e.close(mark, 0)
	return e.finish(dst)
}

func (e *encoder) protocol(p *Connect) {
	name, level := "MQTT", byte(p.Version)
	if p.Version == V31 {
		name = "MQIsdp"
	}
	if p.Bridge {
		level |= 0x80
	}
	e.text(name)
	e.u8(level)
}

func (p *Connect) flags() byte {
	var f byte
	if p.CleanStart {
		f |= flagClean
	}
	if w := p.Will; w != nil {
		f |= flagWill | w.QoS<<3
		if w.Retain {
			f |= flagWillRetain
		}
	}
	if p.HasPassword {
		f |= flagPassword
	}
	if p.HasUser {
		f |= flagUser
	}
	return f
}

// A Connack answers a Connect (section 3.2).
type Connack struct {
	SessionPresent bool
	Reason         Reason // before MQTT 5 a return code
	Props          Properties
}

func (p *Connack) Type() Type { return CONNACK }

func (c *cursor) connack() *Connack {
	flags := c.u8()
	if c.v == V31 {
		flags = 0 // it is reserved
	}
	if flags > 1 {
		c.fail(malformed("flags %08b", flags))
	}
	return &Connack{SessionPresent: flags == 1, Reason: c.reason(CONNACK), Props: c.props(1 << CONNACK)}
}

func (p *Connack) Append(dst []byte, v Version) ([]byte, error) {
	e := encoder{b: dst, v: v}
	mark := e.open(byte(CONNACK) << 4)
	var flags byte
	if p.SessionPresent && v > V31 {
		flags = 1
	}
	e.u8(flags)
	e.u8(byte(p.Reason))
	e.props(p.Props)
	e.close(mark, 0)
	return e.finish(dst)
}

// A Disconnect ends a connection (section 3.14); before MQTT 5 only a client
// sends it.
type Disconnect struct {
	Reason Reason
	Props  Properties
}

func (p *Disconnect) Type() Type { return DISCONNECT }

func (c *cursor) disconnect() *Disconnect {
	p := &Disconnect{}
	p.Reason, p.Props = c.reasonAndProps(DISCONNECT)
	return p
}

func (p *Disconnect) Append(dst []byte, v Version) ([]byte, error) {
	return appendReason(dst, v, DISCONNECT, p.Reason, p.Props)
}

// An Auth carries an extended authentication exchange (section 3.15).
type Auth struct {
	Reason Reason
	Props  Properties
}

func (p *Auth) Type() Type { return AUTH }

func (c *cursor) auth() *Auth {
	if c.v < V5 {
		c.fail(malformed("type 15 is reserved before MQTT 5"))
	}
	p := &Auth{}
	p.Reason, p.Props = c.reasonAndProps(AUTH)
	if (p.Reason != Success || len(p.Props) > 0) && !p.Props.Has(AuthMethod) {
		c.fail(protocolError("no authentication method"))
	}
	return p
}

func (p *Auth) Append(dst []byte, v Version) ([]byte, error) {
	return appendReason(dst, v, AUTH, p.Reason, p.Props)
}

// appendReason appends a packet that is a reason with properties.
func appendReason(dst []byte, v Version, t Type, r Reason, props Properties) ([]byte, error) {
	e := encoder{b: dst, v: v}
	mark := e.open(byte(t) << 4)
	e.reasonAndProps(r, props)
	e.close(mark, 0)
	return e.finish(dst)
}

// reasonAndProps reads the end of an acknowledgement, DISCONNECT or AUTH:
// both may be absent, and are before MQTT 5.
func (c *cursor) reasonAndProps(t Type) (Reason, Properties) {
	if c.v < V5 || len(c.b) == 0 {
		return Success, nil
	}
	reason := c.reason(t)
	if len(c.b) == 0 {
		return reason, nil
	}
	return reason, c.props(1 << t)
}

func (e *encoder) reasonAndProps(r Reason, props Properties) {
	if e.v < V5 || r == Success && len(props) == 0 {
		return
	}
	e.u8(byte(r))
	if len(props) > 0 {
		e.props(props)
	}
}
