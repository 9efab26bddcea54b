package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"edgegateway/broker"
	"edgegateway/internal/expiry"
)

// A Step is one thing on the way upstream that was tried.
type Step struct {
	URL     string        `json:"url"` // host and port
	Name    string        `json:"step"`
	OK      bool          `json:"ok"`
	Found   string        `json:"found,omitempty"`   // what there is
	Trouble string        `json:"trouble,omitempty"` // what is wrong or will be, and what to do
	Took    time.Duration `json:"took_ns"`
}

// ProbeOptions say how a bridge is tried out.
type ProbeOptions struct {
	NoLogin bool     // go as far as the connection only
	SameID  bool     // as the bridge itself, which throws it out; else with -test behind the client id
	Publish []string // topics to publish to
	Clock   func() broker.Clock
}

// probeID follows the client id, so that the bridge can stay connected.
const probeID = "-test"

// A prober walks one bridge's way.
type prober struct {
	b    *Bridge
	opts ProbeOptions
	tell func(Step)
	host string
	bad  bool
}

// Probe tries each URL of a bridge step by step, telling each as it is done,
// and reports whether all went well. Nothing of it lasts: there is no Will,
// what is sent to us stays unacknowledged, and the session ends with the test,
// unless it is the bridge's own.
func Probe(ctx context.Context, cfg Config, opts ProbeOptions, tell func(Step)) (bool, error) {
	cfg.Status, cfg.Dead, cfg.DailyBytes, cfg.Certificate = nil, nil, 0, nil
	if !opts.SameID {
		cfg.ClientID += probeID
	}
	b, err := newBridge(cfg, nobody{}, opts.Clock, nil)
	if err != nil {
		return false, err
	}
	b.fleeting = !opts.SameID
	p := &prober{b: b, opts: opts, tell: tell}
	for _, u := range b.urls {
		p.host = u.Host
		p.walk(ctx, u)
	}
	return !p.bad, nil
}

// nobody is a local broker that takes nothing and says nothing.
type nobody struct{}

func (nobody) PublishFrom(context.Context, *broker.Message, func(error)) error { return nil }

// try does one step, with the time that all of a connection may take, and
// reports whether it went well.
func (p *prober) try(ctx context.Context, name string, do func(context.Context) (found string, err error)) bool {
	ctx, cancel := context.WithTimeout(ctx, p.b.cfg.ConnectTimeout)
	defer cancel()
	start := time.Now()
	found, err := do(ctx)
	s := Step{URL: p.host, Name: name, OK: err == nil, Found: found, Took: time.Since(start)}
	if err != nil {
		s.Trouble, _ = explain(err, p.host, name == "CONNECT", time.Now())
		s.Trouble += p.hint(name, err)
		p.bad = true
	}
	p.tell(s)
	return s.OK
}

// hint says what of the test itself may be the cause.
func (p *prober) hint(step string, err error) string {
	r, ok := errors.AsType[*refusal](err)
	if step != "CONNECT" || p.opts.SameID || ok && r.code != 0x85 && r.code != 0x87 {
		return ""
	}
	return fmt.Sprintf("; the test uses the client id %q, and some brokers permit one only: try --same-id, which throws a running bridge out for a moment", p.b.cfg.ClientID)
}

// walk goes as far as it gets.
func (p *prober) walk(ctx context.Context, u *url.URL) {
	d := p.b.cfg.dialer()
	via, err := d.via(u)
	first := u
	if via != nil {
		first = via
	}
	ok := p.try(ctx, "DNS", func(ctx context.Context) (string, error) {
		if err != nil {
			return "", err
		}
		return lookUp(ctx, first.Hostname())
	})
	var c net.Conn
	ok = ok && p.try(ctx, "TCP", func(ctx context.Context) (string, error) {
		c, err = d.tcp(ctx, first.Host)
		if err != nil {
			if via != nil {
				err = &unreached{via.Host, err}
			}
			return "", err
		}
		return "connected to " + c.RemoteAddr().String(), nil
	})
	if via != nil && ok {
		ok = p.try(ctx, "proxy", func(ctx context.Context) (string, error) {
			c, err = tunnel(ctx, c, via, u.Host)
			return fmt.Sprintf("%s leads on to %s", via.Host, u.Host), err
		})
	}
	if Encrypted(u) && ok {
		ok = p.try(ctx, "TLS", func(ctx context.Context) (string, error) {
			t, err := d.secure(ctx, c, u)
			if err != nil {
				return presented(err), err
			}
			c = t
			return p.encrypted(t, d)
		})
	}
	if webSocket(u) && ok {
		ok = p.try(ctx, "WebSocket", func(ctx context.Context) (string, error) {
			c, err = upgrade(ctx, c, u)
			return "at " + u.Path, err
		})
	}
	switch {
	case ok && p.opts.NoLogin:
		_ = c.Close()
	case ok:
		p.talk(ctx, c)
	}
}

func lookUp(ctx context.Context, host string) (string, error) {
	if net.ParseIP(host) != nil {
		return host + " is an address", nil
	}
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is %s", host, strings.Join(addrs[:min(4, len(addrs))], ", ")), nil
}

// presented tells of the certificate that a server showed in vain.
func presented(err error) string {
	e, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok || len(e.UnverifiedCertificates) == 0 {
		return ""
	}
	c := e.UnverifiedCertificates[0]
	return fmt.Sprintf("the server shows a certificate for %s, signed by %q, valid from %s to %s", names(c), c.Issuer, day(c.NotBefore), day(c.NotAfter))
}

// encrypted tells of a TLS connection, and what will be wrong with it.
func (p *prober) encrypted(t *tls.Conn, d *dialer) (string, error) {
	s := t.ConnectionState()
	c := s.PeerCertificates[0]
	found := fmt.Sprintf("%s, certificate for %s, signed by %q, valid until %s", tls.VersionName(s.Version), names(c), c.Issuer, day(c.NotAfter))
	if expiry.Soon(c, time.Now()) {
		found += fmt.Sprintf(" (in %d days: who runs the server has to renew it)", int(time.Until(c.NotAfter).Hours()/24))
	}
	if s.NegotiatedProtocol != "" {
		found += fmt.Sprintf(", ALPN %s", s.NegotiatedProtocol)
	} else if d.tls != nil && len(d.tls.NextProtos) > 0 {
		found += fmt.Sprintf(", and it does not answer to ALPN %q: is this its port?", d.tls.NextProtos)
	}
	if d.tls == nil || d.tls.GetClientCertificate == nil {
		return found, nil
	}
	own, err := d.tls.GetClientCertificate(nil)
	if err == nil && own.Leaf != nil {
		found += "; our certificate is valid until " + day(own.Leaf.NotAfter)
		if time.Now().After(own.Leaf.NotAfter) {
			err = fmt.Errorf("our client certificate expired at %s: renew it (cert and key)", day(own.Leaf.NotAfter))
		}
	}
	return found, err
}

// talk speaks MQTT over an open connection.
func (p *prober) talk(ctx context.Context, c net.Conn) {
	acks := make(chan ack, p.b.cfg.Window+2)
	l := &link{acks: acks, host: p.host}
	ok := p.try(ctx, "CONNECT", func(ctx context.Context) (_ string, err error) {
		if p.b.cfg.Version == MQTT311 {
			l.client, l.limits, err = p.b.login3(ctx, c, acks)
		} else {
			l.client, l.limits, err = p.b.login5(ctx, c, acks)
		}
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("MQTT %v as %q; %v", p.b.cfg.Version, p.b.cfg.ClientID, l.limits), nil
	})
	if !ok {
		return
	}
	defer l.leave()
	for _, f := range p.b.recv.filters {
		p.try(ctx, "SUBSCRIBE "+f, func(ctx context.Context) (string, error) {
			return "permitted", l.subscribe(ctx, []string{f})
		})
	}
	for _, topic := range p.opts.Publish {
		p.try(ctx, "PUBLISH "+topic, func(ctx context.Context) (string, error) { return p.publish(ctx, l, topic) })
	}
}

// String says it to people.
func (l limits) String() string {
	s := fmt.Sprintf("%d messages in flight", l.window)
	if l.packet > 0 {
		s += fmt.Sprintf(", packets of up to %d bytes", l.packet)
	}
	if l.qos == 0 {
		s += ", QoS 0 only"
	}
	if !l.retain {
		s += ", nothing is retained"
	}
	return s
}

// publish sends one message and waits for its PUBACK.
func (p *prober) publish(ctx context.Context, l *link, topic string) (string, error) {
	if words := p.b.cfg.Limits.CheckTopic(topic); words != "" {
		return "", errors.New(words)
	}
	if err := broker.ValidTopic(topic); err != nil {
		return "", err
	}
	start := time.Now()
	m := &paho.Publish{Topic: topic, QoS: min(1, l.limits.qos), Payload: []byte(`{"test":"gateway bridge test"}`)}
	err := l.publish(newFlight(), m)
	switch {
	case errors.Is(err, errUnsendable), err != nil && m.QoS == 0:
		return "", err
	case m.QoS == 0:
		return "sent; with QoS 0 nobody says whether it arrived", nil
	}
	// Some refuse a topic and close the connection in one breath, so that the
	// loss may be seen first, and even before publish returns.
	var answer ack
	select {
	case answer = <-l.acks:
	case <-l.down():
		select {
		case answer = <-l.acks:
		default:
			words, _ := explain(l.cause(), p.host, false, time.Now())
			return "", fmt.Errorf("the far broker ended the connection upon it, as some do with topics that they do not permit: %s", words)
		}
	case <-ctx.Done():
		return "", errors.New("no PUBACK came: the far broker does not take it, and says nothing")
	}
	if answer.code >= 0x80 {
		return "", fmt.Errorf("the far broker says %s (PUBACK 0x%02X)", reasonWords(answer.code), answer.code)
	}
	found := fmt.Sprintf("PUBACK after %s", time.Since(start).Round(100*time.Microsecond))
	if answer.code == 0x10 {
		found += "; nobody is subscribed there"
	}
	return found, nil
}
