package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"edgegateway/broker/packet"
)

// A Login is what a client says of itself to be let in.
type Login struct {
	User     string
	HasUser  bool // it gives a user name, be it an empty one
	Password []byte
	ClientID string
	Address  string // where it connects from, with its port

	// Certificate is the client's own, verified by the listener; nil: none.
	Certificate *x509.Certificate
}

// authorize proves who the client is and that it may leave its will.
func (c *client) authorize(ctx context.Context, p *packet.Connect) error {
	if c.b.cfg.Authenticate != nil {
		if err := c.logIn(ctx, p); err != nil {
			return err
		}
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

func (c *client) logIn(ctx context.Context, p *packet.Connect) error {
	c.b.mu.Lock()
	c.reviews = c.b.reviews
	c.b.mu.Unlock()
	patience, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	user, err := c.b.cfg.Authenticate(patience, Login{
		User: p.User, HasUser: p.HasUser, Password: p.Password, ClientID: c.id,
		Address: c.conn.RemoteAddr().String(), Certificate: certificate(c.conn),
	})
	switch {
	case ctx.Err() != nil:
		return errShutdown
	case err == nil && strings.HasPrefix(user, bridgeUser):
		return &packet.Error{Reason: packet.BadUserOrPassword, What: fmt.Sprintf("the user name %q is kept for bridges", user)}
	case err == nil:
		c.user = user
		return nil
	}
	if e, ok := errors.AsType[*packet.Error](err); ok {
		return &refusal{e}
	}
	return &refusal{&packet.Error{Reason: packet.BadUserOrPassword, What: err.Error()}}
}

// A refusal is why a client is not let in. The client itself is told the reason
// alone: who there is besides it is not for everybody who asks.
type refusal struct{ why *packet.Error }

func (r *refusal) Error() string { return r.why.Error() }
func (r *refusal) Unwrap() error { return r.why }

// certificate returns the certificate that a client has proved to be its own,
// nil if there is none.
func certificate(conn net.Conn) *x509.Certificate {
	c, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return nil
	}
	if state := c.ConnectionState(); len(state.VerifiedChains) > 0 {
		return state.PeerCertificates[0]
	}
	return nil
}

// Review disconnects the clients for which keep is false, and those that hold
// a subscription to something of which they may receive nothing any more; such
// subscriptions end. It is to be called when Authenticate, Allow or AllowAll
// begin to decide otherwise, and returns how many were disconnected. keep must
// neither block nor call the broker.
func (b *Broker) Review(keep func(user, clientID string) bool) (disconnected int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reviews++
	for _, s := range b.sessions {
		if s.client == nil {
			b.reviewLocked(s)
		}
	}
	for _, c := range b.clients {
		stays := b.reviewLocked(c.session)
		if !stays || !keep(c.user, c.id) {
			c.end(errReviewed)
			disconnected++
		}
	}
	return disconnected
}

// reviewLocked ends the subscriptions that s may not hold any more, and says
// whether there were none.
func (b *Broker) reviewLocked(s *session) bool {
	kept := true
	for filter, o := range s.subs {
		if inner, _ := cutShare(filter); b.allowed(s.user, s.id, inner, Subscribe) {
			b.joinLocked(s, filter, o)
			continue
		}
		kept = false
		b.leaveLocked(s, filter)
		if s.lasts() {
			b.sessionLog.kept.append(leftRecord(s.no, filter), nil)
		}
	}
	return kept
}

// sure says whether s may receive whatever filter selects.
func (b *Broker) sure(s *session, filter string) bool {
	if b.cfg.AllowAll == nil {
		return b.cfg.Allow == nil
	}
	return b.cfg.AllowAll(s.user, s.id, filter)
}
