package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"edgegateway/bridge"
	"edgegateway/internal/clock"
	"edgegateway/internal/config"
	ends "edgegateway/internal/expiry"
)

// endpoints looks whether the hosts of buses can be reached. Many devices take
// one connection only, so that those of a running gateway are not tried: it has
// told how it is with them.
func (d *doctor) endpoints(ctx context.Context) {
	const area = "devices by network"
	if d.cfg == nil {
		return
	}
	type endpoint struct {
		bus  *config.Bus
		host string
	}
	var list []endpoint
	for _, b := range d.cfg.Buses {
		u, err := url.Parse(b.Address)
		switch {
		case strings.HasPrefix(b.Address, "/") || err != nil || u.Host == "":
		case d.status != nil && slices.ContainsFunc(d.status.Buses, func(s BusStatus) bool { return s.Bus == b.ID && !s.PortDown }):
			d.say(area, fine, "bus "+b.ID, "", "the running gateway has %s", u.Host)
		case d.status != nil && slices.ContainsFunc(d.status.Buses, func(s BusStatus) bool { return s.Bus == b.ID }): // told above
		case d.locked:
			d.say(area, note, "bus "+b.ID, "sudo gateway doctor", "%s is not tried, as a gateway may have it, and many devices take one connection only", u.Host)
		case strings.Contains(u.Scheme, "udp"):
			d.say(area, note, "bus "+b.ID, "gateway scan "+b.ID, "%s is spoken to by UDP, which tells only with a request whether somebody is there", u.Host)
		default:
			list = append(list, endpoint{b, u.Host})
		}
	}
	errs := make([]error, len(list))
	each(len(list), func(i int) { errs[i] = d.dial(ctx, list[i].host) })
	for i, e := range list {
		if err := errs[i]; err != nil {
			host, _, _ := net.SplitHostPort(e.host)
			d.say(area, failure, "bus "+e.bus.ID, unreachable(host, err), "%s cannot be reached: %v", e.host, innermost(err))
			continue
		}
		d.say(area, fine, "bus "+e.bus.ID, "", "%s takes connections", e.host)
	}
	if len(d.cfg.Buses) > 0 && len(list) == 0 && !slices.ContainsFunc(d.findings, func(f finding) bool { return f.Area == area }) {
		d.say(area, fine, "", "", "none is tried")
	}
}

// innermost is the kernel's word in an error of net.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// unreachable says what to do about an address.
func unreachable(host string, err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "no such host"):
		return "the name in address; `getent hosts " + host + "` shows what this machine makes of it"
	case strings.Contains(text, "refused"):
		return "the machine is there, and nobody listens: is that its port, and is Modbus TCP switched on in its settings?"
	case strings.Contains(text, "no route"), strings.Contains(text, "unreachable"):
		return "this machine has no way to there: `ip route get " + host + "`; is it the same network?"
	}
	return "`ping " + host + "`: its power, its cable, its address; a firewall between"
}

// bridges walks the way to each far broker. While a bridge is up it is its own
// proof. While a gateway runs, or may run, nobody logs in beside it: many far
// brokers permit one client id, and the second one throws out the first.
func (d *doctor) bridges(ctx context.Context) {
	const area = "bridges"
	if d.cfg == nil {
		return
	}
	if len(d.cfg.Bridges) == 0 {
		d.say(area, fine, "", "", "the configuration has none")
		return
	}
	results := make([][]bridge.Step, len(d.cfg.Bridges))
	errs := make([]error, len(d.cfg.Bridges))
	login := d.status == nil && !d.locked && d.secrets
	each(len(d.cfg.Bridges), func(i int) {
		b := d.cfg.Bridges[i]
		if d.up(b.Name) {
			return
		}
		opts := bridge.ProbeOptions{NoLogin: !login, SameID: true, Clock: clock.New(d.cfg.TrustClock).Now}
		errs[i] = d.probe(ctx, b, opts, func(s bridge.Step) { results[i] = append(results[i], s) })
	})
	for i, b := range d.cfg.Bridges {
		about := "bridge " + b.Name
		if d.up(b.Name) {
			d.say(area, fine, about, "", "connected")
			continue
		}
		if errs[i] != nil {
			d.say(area, failure, about, "gateway bridge test "+b.Name, "%v", errs[i])
		}
		last, failed := bridge.Step{}, false
		for _, s := range results[i] {
			last = s
			if !s.OK {
				failed = true
				d.say(area, failure, about, s.Trouble, "%s: %s fails%s", s.URL, s.Name, withFound(s.Found))
			} else if s.Trouble != "" {
				d.say(area, note, about, s.Trouble, "%s: %s: %s", s.URL, s.Name, s.Found)
			}
		}
		switch {
		case failed || errs[i] != nil:
		case login:
			d.say(area, fine, about, "", "%s takes the login", last.URL)
		case d.status == nil && !d.secrets:
			d.say(area, note, about, "sudo gateway doctor; those that systemd encrypts only the service can read", "%s can be reached; the login was not tried, as its secrets cannot be read here", last.URL)
		default:
			d.say(area, note, about, "gateway bridge test "+b.Name+" logs in beside it", "%s can be reached; the login was not tried, as a gateway runs", last.URL)
		}
	}
}

func withFound(found string) string {
	if found == "" {
		return ""
	}
	return " (" + found + ")"
}

// up reports whether the running gateway has a bridge connected.
func (d *doctor) up(name string) bool {
	return d.status != nil && slices.ContainsFunc(d.status.Bridges, func(b bridge.Stats) bool { return b.Name == name && b.State == bridge.Up })
}

// certificates looks at how long those are good that the configuration names.
func (d *doctor) certificates() {
	const area = "certificates"
	if d.cfg == nil {
		return
	}
	before := len(d.findings)
	for _, b := range d.cfg.Bridges {
		if b.Cert != nil {
			leaf, file := b.Cert.Leaf()
			d.certificate(area, "bridge "+b.Name, file, leaf, "the far broker refuses it", "a new one in its place is used without a restart")
		}
	}
	if c := d.cfg.Certificate; c != nil {
		if tls, err := c.Config().GetConfigForClient(nil); err == nil && len(tls.Certificates) > 0 && tls.Certificates[0].Leaf != nil {
			d.certificate(area, "broker", "its certificate", tls.Certificates[0].Leaf, "clients refuse it", "a new one in its place is used without a restart")
		}
	}
	seen := map[string]bool{}
	for _, a := range d.cfg.Authorities {
		if key := a.File + string(a.Raw); !seen[key] {
			seen[key] = true
			d.certificate(area, "authority", a.File, a.Certificate, "what it signed is refused", "get the new one from who runs it, beside the old one in the same file; then sudo systemctl reload gateway")
		}
	}
	if len(d.findings) == before {
		d.say(area, fine, "", "", "the configuration names none")
	}
}

func (d *doctor) certificate(area, about, file string, c *x509.Certificate, then, remedy string) {
	now := d.now()
	left := c.NotAfter.Sub(now)
	text := fmt.Sprintf("%s (%s)", file, c.Subject)
	until := c.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case now.Before(c.NotBefore):
		d.say(area, failure, about, "the clock of this machine, and of the one that made it", "%s is good from %s on only: %s", text, c.NotBefore.UTC().Format(time.DateTime), then)
	case left <= 0:
		d.say(area, failure, about, remedy, "%s expired at %s: %s", text, until, then)
	case ends.Soon(c, now):
		d.say(area, warning, about, remedy, "%s expires at %s, in %s", text, until, count(int(left.Hours()/24), "day"))
	default:
		d.say(area, fine, about, "", "%s is good until %s", text, until)
	}
}

// broker looks at who can reach the broker, and what he may do there.
func (d *doctor) broker() {
	const area = "broker"
	if d.cfg == nil {
		return
	}
	p := &d.cfg.Access
	open := false
	for _, l := range d.cfg.Listen {
		url := l.Scheme() + "://" + l.Address
		host, _, _ := net.SplitHostPort(l.Address)
		ip := net.ParseIP(host)
		switch {
		case l.Network == "unix":
			if l.Mode&0o006 != 0 {
				d.say(area, note, url, "socket_mode = \"0660\" in [broker]", "every program of this machine may connect")
			}
		case host == "localhost" || ip != nil && ip.IsLoopback():
			d.say(area, fine, url, "", "this machine only")
		case l.TLS == nil:
			open = true
			d.say(area, warning, url, "tls:// with cert and key (docs/broker.md), or 127.0.0.1 where nobody else has to connect", "other machines reach it unencrypted: passwords and values go over the network for all to read")
		default:
			open = true
			d.say(area, fine, url, "", "other machines reach it, encrypted")
		}
	}
	switch {
	case !open:
	case p.Anonymous:
		d.say(area, warning, "", "passwords = \"passwd\" in [broker] and no anonymous (docs/security.md)", "whoever reaches it from another machine needs no password")
	case p.Rules == nil:
		d.say(area, note, "", "[broker.user.NAME] read and write (docs/security.md)", "each user may read everything and write to every device that takes writes")
	}
}
