package config

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgegateway/broker"
)

const (
	defaultListen = "tcp://127.0.0.1:1883"
	leastPacket   = 1 << 10
	mostPacket    = 256 << 20 // MQTT 5, 2.1.4: the remaining length ends at 268435455
	longestSocket = 80        // bytes of a path; the kernel ends at 107, and a folder's name beside it has to fit too
)

// A listenKind is what a scheme stands for.
type listenKind struct {
	port     string
	tls, web bool
	safe     string // the scheme that does the same encrypted
}

// listenKinds are the schemes of the network. 1883 and 8883 are MQTT's own
// ports; WebSocket has none, and 8083 and 8084 are what many clients propose.
var listenKinds = map[string]listenKind{
	"tcp": {port: "1883", safe: "tls"},
	"tls": {port: "8883", tls: true},
	"ws":  {port: "8083", web: true, safe: "wss"},
	"wss": {port: "8084", tls: true, web: true},
}

// listenAliases are what other programs call them.
var listenAliases = map[string]string{"mqtt": "tcp", "mqtts": "tls", "ssl": "tls"}

// A listenPlace is one entry of the list while it is read.
type listenPlace struct {
	text
	broker.Listen
	kind listenKind // zero: a Unix socket
}

func (l *loader) readBroker(raw *rawBroker) {
	l.readLimits(&raw.rawLimits)
	list := []text{{V: defaultListen}}
	if raw.Listen.set() {
		list = raw.Listen.V
	}
	var places []*listenPlace
	for _, t := range list {
		if p := l.readListen(t, places); p != nil {
			places = append(places, p)
		}
	}
	l.readSocketMode(raw.SocketMode, places)
	l.readOrigins(raw.Origins, places)
	l.readServerTLS(raw, places)
	for _, p := range places {
		l.checkReach(raw, p)
		l.cfg.Listen = append(l.cfg.Listen, p.Listen)
	}
}

// readListen returns nil for what is no address, which is reported.
func (l *loader) readListen(t text, others []*listenPlace) *listenPlace {
	p := &listenPlace{text: t}
	err := p.parse()
	for _, o := range others {
		if err == nil && o.Network == p.Network && o.Address == p.Address && !strings.HasSuffix(p.Address, ":0") {
			err = fmt.Errorf("%s is in the list twice", p.Address)
		}
	}
	if err != nil {
		l.errorAt(t.at, "%v", err)
		return nil
	}
	return p
}

// parse reads an address of this machine.
func (p *listenPlace) parse() error {
	u, err := url.Parse(p.V)
	if err != nil || u.Scheme == "" || u.Opaque != "" {
		return fmt.Errorf(`%q is no address to listen at; write "%s"`, p.V, defaultListen)
	}
	if u.Scheme == "unix" {
		return p.parseSocket(u)
	}
	scheme := cmp.Or(listenAliases[u.Scheme], u.Scheme)
	kind, ok := listenKinds[scheme]
	switch {
	case !ok:
		return fmt.Errorf("the broker cannot listen at %s://; there is tcp://, tls://, ws://, wss:// and unix://", u.Scheme)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && !kind.web:
		return fmt.Errorf("%q must be %s://HOST:PORT%s and nothing more", p.V, u.Scheme, map[bool]string{true: "/PATH"}[kind.web])
	}
	port := cmp.Or(u.Port(), kind.port)
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%s is no port; there are 1 to 65535", port)
	}
	p.kind = kind
	p.Listen = broker.Listen{Network: "tcp", Address: net.JoinHostPort(u.Hostname(), port), WebSocket: kind.web, Path: u.Path}
	return nil
}

func (p *listenPlace) parseSocket(u *url.URL) error {
	if u.Host != "" || !path.IsAbs(u.Path) || path.Clean(u.Path) != u.Path || u.RawQuery != "" {
		return fmt.Errorf(`%q must be unix:// and the whole path of a socket, such as "unix:///run/gateway/mqtt.sock"`, p.V)
	}
	if len(u.Path) > longestSocket {
		return fmt.Errorf("the path of a socket may be %d bytes long, and this one has %d", longestSocket, len(u.Path))
	}
	p.Listen = broker.Listen{Network: "unix", Address: u.Path}
	return nil
}

// readSocketMode reads who may connect to Unix sockets.
func (l *loader) readSocketMode(mode text, places []*listenPlace) {
	if !mode.set() {
		return
	}
	bits, err := strconv.ParseUint(mode.V, 8, 32)
	if err != nil || bits > 0o777 || bits&0o600 != 0o600 {
		l.errorAt(mode.at, `%q is no mode of a socket; write "0660" (the gateway's user and group), "0600" (its user alone) or "0666" (everyone on this machine)`, mode.V)
		return
	}
	used := false
	for _, p := range places {
		if p.Network == "unix" {
			p.Mode, used = fs.FileMode(bits), true
		}
	}
	if !used {
		l.errorKey(mode.at, `socket_mode has no use without a socket; add "unix:///run/gateway/mqtt.sock" to listen`)
	}
}

// readOrigins reads whose pages may connect by WebSocket.
func (l *loader) readOrigins(origins texts, places []*listenPlace) {
	if !origins.set() {
		return
	}
	if !slices.ContainsFunc(places, func(p *listenPlace) bool { return p.WebSocket }) {
		l.errorKey(origins.at, "origins has no use without a listener for browsers; add ws:// or wss:// to listen")
	}
	l.cfg.Origins = []string{}
	for _, t := range origins.V {
		origin := strings.ToLower(t.V)
		if u, err := url.Parse(origin); err != nil || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			l.errorAt(t.at, `%q is no origin of a page; write its scheme, host and port (unless it is the usual one), as in "https://panel.example"`, t.V)
			continue
		}
		l.cfg.Origins = append(l.cfg.Origins, origin)
	}
}

// readServerTLS reads how the broker proves itself, and its clients to it.
func (l *loader) readServerTLS(raw *rawBroker, places []*listenPlace) {
	first := slices.IndexFunc(places, func(p *listenPlace) bool { return p.kind.tls })
	written := make(map[string]*node)
	for _, key := range []string{"cert", "key", "client_ca", "client_certificates"} {
		if raw.at == nil || raw.at.child(key) == nil {
			continue
		}
		if written[key] = raw.at.child(key); first < 0 {
			l.errorKey(written[key], "%s has no use without encryption; add tls:// or wss:// to listen", key)
		}
	}
	if first < 0 {
		return
	}
	if written["cert"] == nil || written["key"] == nil {
		l.errorAt(places[first].at, `encryption needs a certificate: write cert = "broker.crt" and key = "broker.key" in [broker] (docs/broker.md shows how to make them)`)
		return
	}
	cfg := l.certificateConfig(raw, written["client_certificates"])
	if !raw.Cert.set() || !raw.Key.set() { // reported; or they are elsewhere
		return
	}
	l.checkKeyFile(raw.Key)
	before := l.Errors()
	if l.readCA(new(tls.Config), raw.ClientCA); l.Errors() > before {
		return
	}
	certificate, err := broker.NewCertificate(cfg)
	if err != nil {
		l.errorAt(raw.Cert.at, "the broker's certificate cannot be used: %v", err)
		return
	}
	l.cfg.Certificate = certificate
	shared := certificate.Config()
	for _, p := range places {
		if p.kind.tls {
			p.TLS = shared
		}
	}
}

// certificateConfig reads which certificates clients need.
func (l *loader) certificateConfig(raw *rawBroker, written *node) broker.CertificateConfig {
	cfg := broker.CertificateConfig{Cert: raw.Cert.pem(), Key: raw.Key.pem(), ClientCA: raw.ClientCA.pem(), Optional: raw.ClientCert.V == "optional"}
	switch known := []string{"require", "optional"}; {
	case written == nil && raw.ClientCA.set():
		l.errorKey(raw.ClientCA.at, `client_ca needs client_certificates = "require" (whoever has none is turned away) or "optional" (who has one is known by it)`)
	case written != nil && raw.at.child("client_ca") == nil:
		l.errorKey(written, `client_certificates needs client_ca, the authority that signs them`)
	case raw.ClientCert.set() && !slices.Contains(known, raw.ClientCert.V):
		l.errorAt(written, `client_certificates is %q; write "require" or "optional"%s`, raw.ClientCert.V, didYouMean(nearest(raw.ClientCert.V, known)))
	}
	return cfg
}

func (f *pemFile) pem() broker.PEM { return broker.PEM{Path: f.Path, Data: f.Data} }

// reachable says whether other machines can reach a listener.
func reachable(at broker.Listen) bool {
	host, _, err := net.SplitHostPort(at.Address)
	return at.Network != "unix" && (err != nil || !loopback(host))
}

// withoutLogin says whether whoever comes to p need not prove who it is.
func (raw *rawBroker) withoutLogin(p *listenPlace) bool {
	return !raw.hasUsers() && !(p.kind.tls && raw.ClientCert.V == "require")
}

func (raw *rawBroker) hasUsers() bool { return raw.at != nil && raw.at.child("passwords") != nil }

// checkReach refuses what would be open to everybody, and warns where
// passwords can be read by others.
func (l *loader) checkReach(raw *rawBroker, p *listenPlace) {
	switch {
	case !reachable(p.Listen):
	case raw.withoutLogin(p):
		l.errorAt(p.at, `other machines can reach %s, and nobody would have to prove who it is: add users (passwords = "passwd" in [broker], and run gateway passwd NAME), or listen at tls:// with client_ca and client_certificates = "require", or at 127.0.0.1`, p.V)
	case p.kind.safe != "" && raw.hasUsers():
		l.warnAt(p.at, "passwords and all messages go over the network for all to read; %s:// encrypts them", p.kind.safe)
	}
}

// readLimits reads what clients can take.
func (l *loader) readLimits(raw *rawLimits) {
	limits := &l.cfg.Limits
	for _, v := range []struct {
		raw   integer
		name  string
		most  int64
		limit *int
	}{
		{raw.MaxConnections, "max_connections", 100_000, &limits.Connections},
		{raw.MaxPerAddress, "max_connections_per_address", 100_000, &limits.PerAddress},
		{raw.MaxQueue, "max_queue", 1_000_000, &limits.Queue},
		{raw.MaxInFlight, "max_in_flight", 65535, &limits.Window},
		{raw.MaxSubscriptions, "max_subscriptions", 1_000_000, &limits.Subscriptions},
		{raw.MaxLevels, "max_levels", 32768, &limits.Levels},
		{raw.MaxRetained, "max_retained", 100_000_000, &limits.Retained},
		{raw.MaxSessions, "max_sessions", 1_000_000, &limits.Sessions},
		{raw.MaxSessionQueue, "max_session_queue", 100_000_000, &limits.SessionQueue},
	} {
		if v.raw.set() && v.raw.within(l.binder, 1, v.most, v.name) {
			*v.limit = int(v.raw.V)
		}
	}
	l.readSizeLimit(raw.MaxPacket, "max_packet", mostPacket, &limits.Packet)
	l.readSizeLimit(raw.MaxQueueBytes, "max_queue_bytes", 1<<30, &limits.QueueBytes)
	l.readSizeLimit(raw.MaxRetainedBytes, "max_retained_bytes", 1<<30, &limits.RetainedBytes)
	l.readSizeLimit(raw.MaxSessionBytes, "max_session_bytes", 1<<30, &limits.SessionBytes)
	l.readTimeLimit(raw.MaxSessionAge, "max_session_age", 10*365*24*time.Hour, &limits.SessionAge)
	l.readTimeLimit(raw.MaxSessionExpiry, "max_session_expiry", 10*365*24*time.Hour, &limits.SessionExpiry)
	l.readTimeLimit(raw.MaxKeepAlive, "max_keepalive", 65535*time.Second, &limits.KeepAlive)
}

func (l *loader) readTimeLimit(d duration, name string, most time.Duration, limit *time.Duration) {
	switch {
	case !d.set():
	case d.V < time.Second || d.V > most:
		l.errorAt(d.at, "%s is %s; it must be between 1s and %s", name, d.V, most)
	default:
		*limit = d.V
	}
}

func (l *loader) readSizeLimit(z size, name string, most int64, limit *int) {
	switch {
	case !z.set():
	case z.V < leastPacket || z.V > most:
		l.errorAt(z.at, "%s is %d bytes; it must be between 1KiB and %dMiB", name, z.V, most>>20)
	default:
		*limit = int(z.V)
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
