package broker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"edgegateway/broker/packet"
)

// authorize proves who the client is and that it may leave its will.
func (c *client) authorize(ctx context.Context, p *packet.Connect) error {
	if c.b.cfg.Authenticate != nil {
		select {
		case c.b.auth <- struct{}{}:
		case <-ctx.Done():
			return errShutdown
		}
		ok := c.b.cfg.Authenticate(p.User, p.Password, p.ClientID)
		<-c.b.auth
		if !ok || strings.HasPrefix(p.User, bridgeUser) {
			return &packet.Error{Reason: packet.BadUserOrPassword, What: fmt.Sprintf("bad user name or password for %q", p.User)}
		}
		c.user = p.User
	}
	if c.from = c.user; c.from == "" {
		c.from = anonymous
	}
	if w := p.Will; w != nil {
		c.willDelay = time.Duration(w.Props.Num(packet.WillDelay, 0)) * time.Second
		c.will = (&Message{
			Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain,
			Props: messageProperties(w.Props), From: c.from, Client: c.id,
		}).clone()
		// Mosquitto's bridges leave their state under $SYS; that will is let in,
		// and dropped when it is due.
		if w.Topic[0] != '$' && !c.mayPublish(w.Topic) {
			return &packet.Error{Reason: packet.NotAuthorized, What: fmt.Sprintf("not allowed to leave a will at %q", w.Topic)}
		}
	}
	return nil
}

// anonymous is Message.From of clients without a user.
const anonymous = "anonymous"
