package clients

import (
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// pahoV3 is paho.mqtt.golang, which speaks 3.1 and 3.1.1.
type pahoV3 struct {
	in      *inbox
	version uint
	conn    mqtt.Client
}

func newPahoV3(version uint) func(*testing.T, *inbox) client {
	return func(_ *testing.T, in *inbox) client { return &pahoV3{in: in, version: version} }
}

func (c *pahoV3) connect(o options) (bool, error) {
	opts := mqtt.NewClientOptions().AddBroker(o.URL).SetProtocolVersion(c.version).SetClientID(o.ID).
		SetUsername(o.User).SetPassword(o.Password).SetTLSConfig(keys.config(o.Certificate)).
		SetCleanSession(!o.Session).SetResumeSubs(o.Session).SetOrderMatters(true).SetStore(mqtt.NewOrderedMemoryStore()).
		SetAutoReconnect(o.Again).SetMaxReconnectInterval(50 * time.Millisecond).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			c.in.add(message{Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), Retain: m.Retained()})
		})
	if w := o.Will; w != nil {
		opts.SetBinaryWill(w.Topic, w.Payload, w.QoS, w.Retain)
	}
	c.conn = mqtt.NewClient(opts)
	token := c.conn.Connect().(*mqtt.ConnectToken)
	token.Wait()
	if code := token.ReturnCode(); code > 0 && code < 6 { // others are its own
		return false, refused(code)
	}
	return token.SessionPresent(), token.Error()
}

func (c *pahoV3) subscribe(s subscription) (byte, error) {
	token := c.conn.Subscribe(s.Filter, s.QoS, nil).(*mqtt.SubscribeToken)
	token.Wait()
	reason, ok := token.Result()[s.Filter]
	if !ok {
		return 0, token.Error()
	}
	return reason, nil
}

func (c *pahoV3) publish(all ...message) (reasons []byte, err error) {
	var tokens []mqtt.Token
	for _, m := range all {
		tokens = append(tokens, c.conn.Publish(m.Topic, m.QoS, m.Retain, m.Payload))
	}
	for _, token := range tokens {
		token.Wait()
		if err := token.Error(); err != nil {
			return reasons, err
		}
		reasons = append(reasons, 0) // the protocol has no other
	}
	return reasons, nil
}

func (c *pahoV3) disconnect() error {
	c.conn.Disconnect(1000)
	return nil
}
