package bridge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho" // MQTT 5 client: the uplink that users of this project chose; see the package doc for what of it is used
)

const (
	inboundWindow  = 32              // our Receive Maximum; without one paho makes room for 65535 messages
	farewellTime   = 3 * time.Second // for the offline status and DISCONNECT
	subscribeBatch = 8               // filters in one SUBSCRIBE; AWS IoT takes no more
)

// A link is one connection to the upstream broker, from CONNACK to its end.
type link struct {
	client
	acks   <-chan ack
	limits limits
	host   string
}

// A client speaks one version of MQTT over one connection. The sender's
// goroutine alone calls publish; the rest may be called at any time.
type client interface {
	// publish hands one packet to the connection. It waits for the network at
	// most for the write timeout, and never for the answer, which comes to
	// link.acks. errUnsendable says that it is p's fault.
	publish(f *flight, p *paho.Publish) error
	// hold announces that more follows: until flush, packets that have an
	// answer may wait for each other.
	hold()
	flush()
	// subscribe asks for all filters. Answers below 0x80 are good whatever QoS
	// they grant. What the server does not grant is an error that names it.
	subscribe(ctx context.Context, filters []string) error
	// down is closed when the connection is gone.
	down() <-chan struct{}
	// err returns what ended the connection, nil while nothing has.
	err() error
	// cause returns why the link went down, once it has.
	cause() error
	// drop closes the connection; abort does so without DISCONNECT, so that
	// the far broker publishes the Will, and waits for what belongs to the
	// link; leave ends it politely.
	drop()
	abort()
	leave()
}

// errUnsendable is returned by publish for what no packet can hold.
var errUnsendable = errors.New("this cannot be sent")

// An inbound message is one from upstream. Its answer is the PUBACK, to be
// called once and at any time; a code of 0x80 or more refuses it where the
// version of MQTT has a way to say so.
type inbound struct {
	*paho.Publish
	answer func(code byte)
}

// limits are what the far broker said in CONNACK.
type limits struct {
	window int // in flight at most
	packet int // bytes of one packet; 0: no limit
	qos    byte
	retain bool

	aliases uint16 // of topics; 0: none
}

// connect opens a link to u. The error says how far it came.
func (b *Bridge) connect(ctx context.Context, u *url.URL) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConnectTimeout)
	defer cancel()
	raw, err := b.dial(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", u.Host, err)
	}
	acks := make(chan ack, b.cfg.Window+2) // and two for the status
	l := &link{acks: acks, host: u.Host}
	if b.cfg.Version == MQTT311 {
		l.client, l.limits, err = b.login3(ctx, raw, acks)
	} else {
		l.client, l.limits, err = b.login5(ctx, raw, acks)
	}
	if err != nil {
		return nil, fmt.Errorf("log in at %s: %w", u.Host, err)
	}
	return l, nil
}

// A client5 is a client of MQTT 5.
type client5 struct {
	paho *paho.Client
	conn *conn
	sess *session
	errs chan error // what paho and the pinger noticed
	done func()     // ends what handlers of inbound messages wait for
}

// login5 begins MQTT 5 over an open connection.
func (b *Bridge) login5(ctx context.Context, raw net.Conn, acks chan<- ack) (client, limits, error) {
	c := b.newClient5(raw, acks)
	ca, err := c.paho.Connect(ctx, b.connectPacket())
	if err == nil {
		go c.sess.acknowledge()
		return c, limitsOf(ca, b.cfg.Window).within(&b.cfg.Limits), nil
	}
	c.done()
	if ca != nil && ca.ReasonCode != 0 {
		b.adaptWill(ca.ReasonCode)
		err = &refusal{"CONNACK", ca.ReasonCode, ca.Properties.ReasonString}
	} else if e := c.conn.Err(); e != nil && !closedHere(e) {
		err = e
	}
	return nil, limits{}, err
}

func (b *Bridge) newClient5(raw net.Conn, acks chan<- ack) *client5 {
	ctx, done := context.WithCancel(context.Background())
	c := &client5{
		conn: newConn(raw, b.cfg.WriteTimeout, maxInbound),
		sess: newSession(acks),
		errs: make(chan error, 1),
		done: done,
	}
	c.conn.count = b.pace.day.add
	c.paho = paho.NewClient(paho.ClientConfig{
		Conn:               c.conn,
		Session:            c.sess,
		PacketTimeout:      b.cfg.ConnectTimeout,
		PingHandler:        &pinger{paho.NewDefaultPinger(), c.report},
		AuthHandler:        noAuth{},
		OnClientError:      c.report,
		OnServerDisconnect: func(*paho.Disconnect) {}, // the session knows it already
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(p paho.PublishReceived) (bool, error) {
				b.receive(ctx, inbound{p.Packet, func(code byte) { c.answer(p.Packet, code) }})
				return true, nil
			},
		},
	})
	return c
}

// answer acknowledges p or refuses it. After the end of the connection it does
// nothing, and p is delivered again.
func (c *client5) answer(p *paho.Publish, code byte) {
	if p.QoS > 0 {
		c.sess.answer(p.PacketID, code)
	}
}

// report keeps the first error.
func (c *client5) report(err error) {
	select {
	case c.errs <- err:
	default: // one is known already
	}
}

// A pinger is paho's with a note of why it gave up.
type pinger struct {
	*paho.DefaultPinger
	failed func(error)
}

func (p *pinger) Run(ctx context.Context, c net.Conn, keepAlive uint16) error {
	err := p.DefaultPinger.Run(ctx, c, keepAlive)
	if err != nil && ctx.Err() == nil {
		p.failed(errPing)
	}
	return err
}

// noAuth answers servers that begin an authentication nobody asked for;
// without a handler paho would dereference nil.
type noAuth struct{}

func (noAuth) Authenticate(*paho.Auth) *paho.Auth {
	return &paho.Auth{ReasonCode: packets.AuthContinueAuthentication, Properties: &paho.AuthProperties{}}
}
func (noAuth) Authenticated() {}

func (b *Bridge) connectPacket() *paho.Connect {
	user, password := b.credentials()
	c := &paho.Connect{
		ClientID:     b.cfg.ClientID,
		Username:     user,
		UsernameFlag: user != "",
		Password:     []byte(password),
		PasswordFlag: user != "" || password != "",
		KeepAlive:    uint16(b.cfg.KeepAlive / time.Second),
		CleanStart:   false, // subscriptions and commands on their way survive
		Properties: &paho.ConnectProperties{
			SessionExpiryInterval: new(uint32(min(b.cfg.Session/time.Second, math.MaxUint32))),
			ReceiveMaximum:        new(uint16(inboundWindow)),
			MaximumPacketSize:     new(uint32(maxInbound)),
			RequestProblemInfo:    true,
		},
	}
	if b.fleeting {
		c.CleanStart, c.Properties.SessionExpiryInterval = true, nil
	}
	if s := b.status.Load(); s != nil {
		c.WillMessage = &paho.WillMessage{Topic: s.Topic, Payload: s.Offline, QoS: b.willQoS, Retain: b.willRetain}
	}
	return c
}

// adaptWill lowers the Will to what the far broker supports, which it says
// only by refusing it.
func (b *Bridge) adaptWill(code byte) {
	switch code {
	case packets.ConnackRetainNotSupported:
		b.willRetain = false
	case packets.ConnackQoSNotSupported:
		b.willQoS = 0
	}
}

func limitsOf(ca *paho.Connack, window int) limits {
	l := limits{window: window, qos: 2, retain: true}
	p := ca.Properties
	if p == nil {
		return l
	}
	if p.ReceiveMaximum != nil {
		l.window = max(1, min(window, int(*p.ReceiveMaximum)))
	}
	if p.MaximumPacketSize != nil {
		l.packet = int(min(*p.MaximumPacketSize, 1<<30))
	}
	if p.MaximumQoS != nil {
		l.qos = *p.MaximumQoS
	}
	if p.TopicAliasMaximum != nil {
		l.aliases = *p.TopicAliasMaximum
	}
	l.retain = p.RetainAvailable
	return l
}

// within returns l lowered to what the far broker bears besides.
func (l limits) within(most *Limits) limits {
	if most.Packet > 0 && (l.packet == 0 || most.Packet < l.packet) {
		l.packet = most.Packet
	}
	l.retain = l.retain && !most.NoRetain
	return l
}

func (c *client5) publish(f *flight, p *paho.Publish) error {
	if p.QoS == 0 {
		c.conn.held.Store(false) // it is done when it is written
	}
	ctx := context.WithValue(context.Background(), flightKey{}, f)
	_, err := c.paho.PublishWithOptions(ctx, p, paho.PublishOptions{Method: paho.PublishMethod_AsyncSend})
	if errors.Is(err, paho.ErrInvalidArguments) {
		err = errUnsendable
	}
	return errors.Join(err, c.conn.Err())
}

func (c *client5) hold()  { c.conn.hold() }
func (c *client5) flush() { c.conn.flush() }

func (c *client5) subscribe(ctx context.Context, filters []string) error {
	var errs []error
	for len(filters) > 0 && c.conn.Err() == nil {
		part := filters[:min(len(filters), subscribeBatch)]
		filters = filters[len(part):]
		s := new(paho.Subscribe)
		for _, f := range part {
			// No retained messages (2): what was asked long ago is no command.
			s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{Topic: f, QoS: 1, NoLocal: true, RetainHandling: 2})
		}
		sa, err := c.paho.Subscribe(ctx, s)
		if sa == nil && err != nil {
			errs = append(errs, fmt.Errorf("subscribe to %q: %w", part, err))
			continue
		}
		for i, code := range sa.Reasons[:min(len(sa.Reasons), len(part))] {
			if code >= 0x80 {
				errs = append(errs, fmt.Errorf("subscribe to %q: the far broker says %s (SUBACK 0x%02X)", part[i], reasonWords(code), code))
			}
		}
	}
	return errors.Join(errs...)
}

// down is closed when the connection is gone. Paho's goroutines may still be
// there for a while, if a handler waits for the local broker.
func (c *client5) down() <-chan struct{} { return c.sess.lost }

func (c *client5) err() error { return c.conn.Err() }

func (c *client5) cause() error {
	c.sess.mu.Lock()
	goodbye := c.sess.goodbye
	c.sess.mu.Unlock()
	if goodbye != nil {
		r := &refusal{packet: "DISCONNECT", code: goodbye.ReasonCode}
		if goodbye.Properties != nil {
			r.text = goodbye.Properties.ReasonString
		}
		return r
	}
	if err := c.conn.Err(); err != nil && !closedHere(err) {
		return err
	}
	select {
	case err := <-c.errs:
		return err
	case <-time.After(time.Second): // paho reports in a goroutine of its own
		return errors.New("the connection ended")
	}
}

func (c *client5) drop() { c.conn.Close() }

func (c *client5) abort() {
	c.done()
	c.conn.Close()
	<-c.paho.Done()
}

func (c *client5) leave() {
	c.done()
	_ = c.paho.Disconnect(&paho.Disconnect{Properties: &paho.DisconnectProperties{}}) // it ends either way
}
