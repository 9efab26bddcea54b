package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	mqtt3 "github.com/eclipse/paho.mqtt.golang" // MQTT 3.1.1, for upstreams that speak no 5; see the package doc for what of it is used
)

// inbox is how many messages from upstream wait for the local broker, as 3.1.1
// has no Receive Maximum. While it is full nothing is read, and TCP makes the
// server wait.
const inbox = 128

// A client3 is a client of MQTT 3.1.1: a new one of paho's for each
// connection, with an empty store, which neither reconnects nor repeats.
type client3 struct {
	paho mqtt3.Client
	conn *conn3
	acks chan<- ack
	jobs chan job
	errs chan error // why paho gave up
	done func()     // ends what handlers of inbound messages wait for
	busy sync.WaitGroup
}

// A job is one PUBLISH on its way to paho.
type job struct {
	f *flight
	p *paho.Publish
}

// login3 begins MQTT 3.1.1 over an open connection.
func (b *Bridge) login3(ctx context.Context, raw net.Conn, acks chan<- ack) (client, limits, error) {
	handling, done := context.WithCancel(context.Background())
	c := &client3{
		conn: &conn3{conn: newConn(raw, b.cfg.WriteTimeout, maxInbound)},
		acks: acks,
		jobs: make(chan job, b.cfg.Window+2),
		errs: make(chan error, 1),
		done: done,
	}
	c.conn.count = b.pace.day.add
	messages := make(chan mqtt3.Message, inbox)
	c.paho = mqtt3.NewClient(c.options(b, messages))
	stop := context.AfterFunc(ctx, c.drop)
	token := c.paho.Connect()
	<-token.Done()
	err := errors.Join(token.Error(), c.conn.refused())
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		done()
		c.drop()
		c.paho.Disconnect(0)
		return nil, limits{}, c.explain(ctx, err)
	}
	go c.feed()
	c.busy.Go(func() { c.handle(handling, b, messages) })
	return c, limits{window: b.cfg.Window, qos: 1, retain: true}.within(&b.cfg.Limits), nil
}

// explain returns why logging in failed: what the server said, else what the
// connection met, else what paho makes of it.
func (c *client3) explain(ctx context.Context, err error) error {
	if no := c.conn.refused(); no != nil {
		return no
	}
	if e := c.conn.Err(); e != nil && !closedHere(e) {
		return e
	}
	return errors.Join(context.Cause(ctx), err)
}

// A conn3 is a conn as paho's client of 3.1.1 needs it, which writes each
// packet at once. It looks at two kinds of packets before paho does.
type conn3 struct {
	*conn
	head []byte // of CONNACK, as far as it has come
}

func (c *conn3) Write(p []byte) (int, error) {
	c.Lock()
	n, err := c.conn.Write(p)
	c.Unlock()
	return n, errors.Join(err, c.Err())
}

// Deadlines for writing are ours.
func (c *conn3) SetWriteDeadline(time.Time) error { return nil }
func (c *conn3) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }

// subackSize is the length of a SUBACK for one filter (MQTT 3.1.1, 3.9).
const subackSize = 3

func (c *conn3) Read(p []byte) (int, error) {
	n, err := c.conn.Read(p)
	if len(c.head) < 4 {
		c.head = append(c.head, p[:n]...)
	}
	if c.kind>>4 == packets.SUBACK && c.left > 0 && c.size > subackSize {
		return 0, c.noted(fmt.Errorf("the server answered for several subscriptions where it was asked for one"))
	}
	return n, err
}

// connackReasons are the return codes of 3.1.1 as reason codes of 5.
var connackReasons = [...]byte{0, 0x84, 0x85, 0x88, 0x86, 0x87}

// refused returns the no of a CONNACK of MQTT 3.1.1, once paho has read it:
// paho takes a code that the standard does not have for success.
func (c *conn3) refused() error {
	if len(c.head) < 4 || c.head[0]>>4 != packets.CONNACK || c.head[3] == 0 {
		return nil
	}
	code := c.head[3]
	r := &refusal{packet: fmt.Sprintf("CONNACK return code %d", code), code: 0x80}
	if int(code) < len(connackReasons) {
		r.code = connackReasons[code]
	}
	return r
}

// options have paho do nothing that is not asked of it.
func (c *client3) options(b *Bridge, messages chan<- mqtt3.Message) *mqtt3.ClientOptions {
	user, password := b.credentials()
	o := mqtt3.NewClientOptions().
		AddBroker("tcp://upstream"). // without one it connects to nothing
		SetCustomOpenConnectionFn(func(*url.URL, mqtt3.ClientOptions) (net.Conn, error) { return c.conn, nil }).
		SetTLSConfig(&tls.Config{}). // not used; the default would read authorities
		SetProtocolVersion(4).       // else it tries 3.1 after a no
		SetClientID(b.cfg.ClientID).
		SetUsername(user).SetPassword(password).
		SetCleanSession(b.fleeting). // subscriptions and commands on their way survive
		SetStore(mqtt3.NewMemoryStore()).
		SetAutoReconnect(false).SetConnectRetry(false).SetResumeSubs(false).
		SetConnectTimeout(b.cfg.ConnectTimeout).SetWriteTimeout(b.cfg.WriteTimeout).
		SetKeepAlive(b.cfg.KeepAlive).SetPingTimeout(b.cfg.WriteTimeout).
		SetOrderMatters(true).SetAutoAckDisabled(true).
		SetDefaultPublishHandler(func(_ mqtt3.Client, m mqtt3.Message) {
			select { // paho reads nothing meanwhile, no PUBACK either
			case messages <- m:
			case <-c.conn.dead:
			}
		}).
		SetConnectionLostHandler(func(_ mqtt3.Client, err error) { c.errs <- err }) // once
	if s := b.status.Load(); s != nil {
		o.SetBinaryWill(s.Topic, s.Offline, b.willQoS, b.willRetain)
	}
	return o
}

// publish never waits: paho's Publish would, for half a minute if the
// connection has just gone. The answer to QoS 0 comes when the kernel has it.
func (c *client3) publish(f *flight, p *paho.Publish) error {
	if len(p.Topic) > 65535 {
		return errUnsendable
	}
	c.jobs <- job{f, p} // has room for the window
	return c.conn.Err()
}

// Paho writes each packet by itself.
func (c *client3) hold()  {}
func (c *client3) flush() {}

// feed hands messages to paho, in their order, until the connection is gone.
func (c *client3) feed() {
	for {
		select {
		case j := <-c.jobs:
			token := c.paho.Publish(j.p.Topic, j.p.QoS, j.p.Retain, j.p.Payload)
			go c.await(j.f, token)
		case <-c.conn.dead:
			return
		}
	}
}

// await hands on the answer for f. Tokens of a lost connection never come to
// an end.
func (c *client3) await(f *flight, token mqtt3.Token) {
	select {
	case <-token.Done():
	case <-c.conn.dead:
	}
	select {
	case <-token.Done(): // the last answers before an end count, too
		if token.Error() == nil {
			c.acks <- ack{f, 0} // has room for as many as may be in flight
		}
	default:
	}
}

// handle takes messages from upstream, in their order.
func (c *client3) handle(ctx context.Context, b *Bridge, messages <-chan mqtt3.Message) {
	for {
		select {
		case m := <-messages:
			p := &paho.Publish{Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), Retain: m.Retained()}
			// There is no way to refuse: what is not taken is acknowledged
			// too, or it would come for ever.
			b.receive(ctx, inbound{p, func(byte) { m.Ack() }})
		case <-c.conn.dead:
			return
		case <-ctx.Done():
			return
		}
	}
}

// subscribe asks for one filter after the other: a server that answers with
// more codes than filters makes paho panic, and one is what can be checked.
func (c *client3) subscribe(ctx context.Context, filters []string) error {
	var errs []error
	for _, f := range filters {
		if c.conn.Err() != nil {
			break
		}
		if err := c.subscribeTo(ctx, f); err != nil {
			errs = append(errs, fmt.Errorf("subscribe to %q: %w", f, err))
		}
	}
	return errors.Join(errs...)
}

func (c *client3) subscribeTo(ctx context.Context, filter string) error {
	token := c.paho.Subscribe(filter, 1, nil)
	wait := time.NewTimer(subscribeTime)
	defer wait.Stop()
	select {
	case <-token.Done():
	case <-wait.C:
		return errors.New("the far broker does not answer")
	case <-c.conn.dead:
		return c.conn.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := token.Error(); err != nil {
		return err
	}
	code, ok := token.(*mqtt3.SubscribeToken).Result()[filter]
	if !ok || code >= 0x80 {
		return errors.New("the far broker says no, and 3.1.1 has no reasons: check what it permits this user (SUBACK 0x80)")
	}
	return nil
}

// subscribeTime is how long an answer to SUBSCRIBE may take.
const subscribeTime = 30 * time.Second

func (c *client3) down() <-chan struct{} { return c.conn.dead }

func (c *client3) err() error { return c.conn.Err() }

func (c *client3) cause() error {
	if err := c.conn.Err(); err != nil && !closedHere(err) {
		return err
	}
	select {
	case err := <-c.errs:
		if strings.Contains(err.Error(), "pingresp not received") { // it has no name
			return errPing
		}
		return err
	case <-time.After(time.Second):
		return errors.New("the connection ended")
	}
}

func (c *client3) drop() { c.conn.Close() }

func (c *client3) abort() {
	c.done()
	c.drop()
	c.paho.Disconnect(0) // else its goroutines stay, as it takes no notice of a connection closed here
	c.busy.Wait()
}

func (c *client3) leave() {
	c.done()
	c.paho.Disconnect(uint(farewellTime.Milliseconds()))
	c.drop()
	c.busy.Wait()
}
