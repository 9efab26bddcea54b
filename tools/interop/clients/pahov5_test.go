package clients

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
)

// pahoV5 is autopaho, which keeps a client of paho.golang connected.
type pahoV5 struct {
	t    *testing.T
	in   *inbox
	conn *autopaho.ConnectionManager
}

func newPahoV5(t *testing.T, in *inbox) client { return &pahoV5{t: t, in: in} }

func (c *pahoV5) connect(o options) (bool, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return false, err
	}
	type result struct {
		present bool
		err     error
	}
	first := make(chan result, 1) // later ones are nobody's
	report := func(r result) {
		select {
		case first <- r:
		default:
		}
	}
	cfg := autopaho.ClientConfig{
		ServerUrls: []*url.URL{u}, TlsCfg: keys.config(o.Certificate), KeepAlive: 30,
		CleanStartOnInitialConnection: !o.Session,
		ConnectUsername:               o.User, ConnectPassword: []byte(o.Password),
		ReconnectBackoff: autopaho.NewConstantBackoff(20 * time.Millisecond),
		OnConnectionUp:   func(_ *autopaho.ConnectionManager, ack *paho.Connack) { report(result{ack.SessionPresent, nil}) },
		OnConnectionDown: func() bool { return o.Again },
		OnConnectError: func(err error) {
			if ack, ok := errors.AsType[*autopaho.ConnackError](err); ok {
				err = refused(ack.ReasonCode)
			}
			report(result{err: err})
		},
		ClientConfig: paho.ClientConfig{
			ClientID: o.ID, PacketTimeout: time.Minute,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){
				func(r paho.PublishReceived) (bool, error) { c.in.add(fromPahoV5(r.Packet)); return true, nil },
			},
		},
	}
	if o.Session {
		cfg.SessionExpiryInterval = 3600
	}
	if w := o.Will; w != nil {
		cfg.WillMessage = &paho.WillMessage{Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain}
		cfg.WillProperties = &paho.WillProperties{ContentType: w.ContentType, User: toPahoV5(*w).Properties.User}
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.t.Cleanup(cancel)
	if c.conn, err = autopaho.NewConnection(ctx, cfg); err != nil {
		return false, err
	}
	r := <-first
	if r.err != nil {
		cancel()
		<-c.conn.Done()
	}
	return r.present, r.err
}

func (c *pahoV5) subscribe(s subscription) (byte, error) {
	p := &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: s.Filter, QoS: s.QoS}}}
	if s.ID != 0 {
		p.Properties = &paho.SubscribeProperties{SubscriptionIdentifier: &s.ID}
	}
	ack, err := c.conn.Subscribe(context.Background(), p)
	if ack == nil {
		return 0, err
	}
	return ack.Reasons[0], nil
}

// publish waits for each acknowledgement: several calls of Publish at once
// have no order.
func (c *pahoV5) publish(all ...message) (reasons []byte, err error) {
	for _, m := range all {
		r, err := c.conn.Publish(context.Background(), toPahoV5(m))
		switch {
		case r != nil:
			reasons = append(reasons, r.ReasonCode)
		case err != nil:
			return reasons, fmt.Errorf("%v: %w", m, err)
		default:
			reasons = append(reasons, 0)
		}
	}
	return reasons, nil
}

func (c *pahoV5) disconnect() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return c.conn.Disconnect(ctx)
}

func toPahoV5(m message) *paho.Publish {
	p := &paho.Publish{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Properties: &paho.PublishProperties{
		ContentType: m.ContentType, ResponseTopic: m.ResponseTopic, CorrelationData: m.Correlation,
	}}
	if m.Expiry != 0 {
		p.Properties.MessageExpiry = &m.Expiry
	}
	if m.Alias != 0 {
		p.Properties.TopicAlias = &m.Alias
	}
	for _, kv := range m.User {
		p.Properties.User.Add(kv[0], kv[1])
	}
	return p
}

func fromPahoV5(p *paho.Publish) message {
	m := message{
		Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain,
		ContentType: p.Properties.ContentType, ResponseTopic: p.Properties.ResponseTopic, Correlation: p.Properties.CorrelationData,
	}
	if e := p.Properties.MessageExpiry; e != nil {
		m.Expiry = *e
	}
	if id := p.Properties.SubscriptionIdentifier; id != nil {
		m.Subscription = *id
	}
	for _, kv := range p.Properties.User {
		m.User = append(m.User, [2]string{kv.Key, kv.Value})
	}
	return m
}
