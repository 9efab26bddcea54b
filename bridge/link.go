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
	client *paho.Client
	conn   *conn
	sess   *session
	acks   <-chan ack
	limits limits
	errs   chan error // what paho and the pinger noticed
	done   func()     // ends what handlers of inbound messages wait for
	host   string
}

// limits are what the far broker said in CONNACK.
type limits struct {
	window int // in flight at most
	packet int // bytes of one packet; 0: no limit
	qos    byte
	retain bool
}

// connect opens a link to u. The error says how far it came.
func (b *Bridge) connect(ctx context.Context, u *url.URL) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConnectTimeout)
	defer cancel()
	raw, err := b.dial(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", u.Host, err)
	}
	l := b.newLink(raw, u.Host)
	ca, err := l.client.Connect(ctx, b.connectPacket())
	if err != nil {
		l.done()
		if ca != nil && ca.ReasonCode != 0 {
			b.adaptWill(ca.ReasonCode)
			err = &refusal{"CONNACK", ca.ReasonCode, ca.Properties.ReasonString}
		} else if e := l.conn.Err(); e != nil && !closedHere(e) {
			err = e
		}
		return nil, fmt.Errorf("log in at %s: %w", u.Host, err)
	}
	l.limits = limitsOf(ca, b.cfg.Window)
	return l, nil
}

// newLink prepares a link over an open connection.
func (b *Bridge) newLink(raw net.Conn, host string) *link {
	acks := make(chan ack, b.cfg.Window+2) // and two for the status
	ctx, done := context.WithCancel(context.Background())
	l := &link{
		conn: newConn(raw, b.cfg.WriteTimeout, maxInbound),
		sess: newSession(acks),
		acks: acks,
		errs: make(chan error, 1),
		done: done,
		host: host,
	}
	l.client = paho.NewClient(paho.ClientConfig{
		Conn:               l.conn,
		Session:            l.sess,
		PacketTimeout:      b.cfg.ConnectTimeout,
		PingHandler:        &pinger{paho.NewDefaultPinger(), l.report},
		AuthHandler:        noAuth{},
		OnClientError:      l.report,
		OnServerDisconnect: func(*paho.Disconnect) {}, // the session knows it already
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(p paho.PublishReceived) (bool, error) { b.receive(ctx, l, p.Packet); return true, nil },
		},
		EnableManualAcknowledgment: true,
	})
	return l
}

// report keeps the first error.
func (l *link) report(err error) {
	select {
	case l.errs <- err:
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
	c := &paho.Connect{
		ClientID:     b.cfg.ClientID,
		Username:     b.cfg.Username,
		UsernameFlag: b.cfg.Username != "",
		Password:     []byte(b.cfg.Password),
		PasswordFlag: b.cfg.Username != "" || b.cfg.Password != "",
		KeepAlive:    uint16(b.cfg.KeepAlive / time.Second),
		CleanStart:   false, // subscriptions and commands on their way survive
		Properties: &paho.ConnectProperties{
			SessionExpiryInterval: new(uint32(min(b.cfg.Session/time.Second, math.MaxUint32))),
			ReceiveMaximum:        new(uint16(inboundWindow)),
			MaximumPacketSize:     new(uint32(maxInbound)),
			RequestProblemInfo:    true,
		},
	}
	if s := b.cfg.Status; s != nil {
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
	l.retain = p.RetainAvailable
	return l
}

// publish hands one packet to the connection. It waits for the network at most
// for the write timeout, and never for the answer, which comes to l.acks.
func (l *link) publish(f *flight, p *paho.Publish) error {
	ctx := context.WithValue(context.Background(), flightKey{}, f)
	_, err := l.client.PublishWithOptions(ctx, p, paho.PublishOptions{Method: paho.PublishMethod_AsyncSend})
	return errors.Join(err, l.conn.Err())
}

// subscribe asks for all filters. Answers below 0x80 are good whatever QoS
// they grant. What the server does not grant is an error that names it.
func (l *link) subscribe(ctx context.Context, filters []string) error {
	var errs []error
	for len(filters) > 0 && l.conn.Err() == nil {
		part := filters[:min(len(filters), subscribeBatch)]
		filters = filters[len(part):]
		s := new(paho.Subscribe)
		for _, f := range part {
			// No retained messages (2): what was asked long ago is no command.
			s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{Topic: f, QoS: 1, NoLocal: true, RetainHandling: 2})
		}
		sa, err := l.client.Subscribe(ctx, s)
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
func (l *link) down() <-chan struct{} { return l.sess.lost }

// cause returns why the link went down.
func (l *link) cause() error {
	l.sess.mu.Lock()
	goodbye := l.sess.goodbye
	l.sess.mu.Unlock()
	if goodbye != nil {
		r := &refusal{packet: "DISCONNECT", code: goodbye.ReasonCode}
		if goodbye.Properties != nil {
			r.text = goodbye.Properties.ReasonString
		}
		return r
	}
	if err := l.conn.Err(); err != nil && !closedHere(err) {
		return err
	}
	select {
	case err := <-l.errs:
		return err
	case <-time.After(time.Second): // paho reports in a goroutine of its own
		return errors.New("the connection ended")
	}
}

// abort ends the link without DISCONNECT, so that the far broker publishes the
// Will, and waits for paho's goroutines.
func (l *link) abort() {
	l.done()
	l.conn.Close()
	<-l.client.Done()
}

// leave ends the link politely.
func (l *link) leave() {
	l.done()
	_ = l.client.Disconnect(&paho.Disconnect{Properties: &paho.DisconnectProperties{}}) // it ends either way
}
