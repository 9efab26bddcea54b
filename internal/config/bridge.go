package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"edgegateway/bridge"
	"edgegateway/broker"
	"edgegateway/mapping"
)

func (l *loader) readBridge(key string, raw *rawBridge) {
	if wrong := checkName(key); wrong != "" {
		l.errorKey(raw.at, "the bridge name %q %s", key, wrong)
	}
	b := &Bridge{}
	c := &b.Config
	c.Name, c.QoS = key, 1
	l.topics = map[string]string{"name": l.cfg.Name, "bridge": key}
	urls := l.readURLs(key, raw)
	l.readClientID(c, raw)
	l.readPreset(b, raw.Preset)
	c.Username, c.Password = raw.Username.V, raw.Password.V.Reveal()
	l.checkPassword(raw, urls)
	l.readTLS(b, raw, urls)
	l.readProxy(c, raw.Proxy)
	for _, u := range urls {
		c.URLs = append(c.URLs, u.V)
	}
	l.readQoS(c, raw.QoS)
	c.Replay = l.readReplay(raw.Replay)
	l.readBridgeLimits(c, raw)
	l.readRules(b, raw)
	l.readPace(b, raw)
	if raw.Version.set() {
		c.Version = bridge.MQTT5
		if l.choice(raw.Version, "5", "5", "3.1.1") == "3.1.1" {
			c.Version = bridge.MQTT311
		}
	}
	l.checkPreset(b, raw, urls)
	if c.Version == bridge.MQTT311 {
		l.checkOld(b, raw)
	}
	l.cfg.Bridges = append(l.cfg.Bridges, b)
}

// readURLs returns the URLs that are fine.
func (l *loader) readURLs(key string, raw *rawBridge) []text {
	list := raw.URLs.V
	switch {
	case raw.URL.set() && raw.URLs.set():
		l.errorKey(raw.URLs.at, "bridge %q has both url and urls; keep one", key)
	case raw.URL.set():
		list = []text{raw.URL}
	case len(list) == 0 && raw.at.child("url") == nil && raw.at.child("urls") == nil:
		l.errorKey(raw.at, `bridge %q needs url = "tls://HOST:8883"`, key)
	}
	var good []text
	for _, t := range list {
		scheme, _, found := strings.Cut(t.V, "://")
		if _, err := bridge.ParseURL(t.V); err == nil {
			good = append(good, t)
		} else if found && !slices.Contains(bridge.Schemes(), scheme) {
			l.errorAt(t.at, "a bridge cannot connect by %s://; there is tls:// (or mqtts://), wss:// (WebSocket) and, without encryption, tcp:// (or mqtt://), ws://", scheme)
		} else if _, broken := errors.AsType[*url.Error](err); broken {
			l.errorAt(t.at, "this is no URL; write tls://HOST:8883") // its error would quote a password in it
		} else {
			l.errorAt(t.at, "%v", err)
		}
	}
	return good
}

func encrypted(t text) bool {
	u, err := bridge.ParseURL(t.V)
	return err == nil && bridge.Encrypted(u)
}

func (l *loader) readClientID(c *bridge.Config, raw *rawBridge) {
	c.ClientID = l.cfg.Name
	if !raw.ClientID.set() {
		return
	}
	c.ClientID = l.filled(raw.ClientID.at, raw.ClientID.V)
	switch n := len(c.ClientID); {
	case n == 0 && raw.ClientID.V == "":
		l.errorAt(raw.ClientID.at, "client_id is empty; the far broker knows the gateway and its session by it")
	case n > 65535:
		l.errorAt(raw.ClientID.at, "client_id is longer than 65535 bytes")
	}
}

// filled replaces placeholders, and reports what is wrong with them.
func (l *loader) filled(at *node, s string) string {
	v, wrong := fill(s, l.topics)
	if wrong != "" {
		l.errorAt(at, "%s", wrong)
		return ""
	}
	return v
}

func (l *loader) checkPassword(raw *rawBridge, urls []text) {
	if !raw.Password.set() {
		return
	}
	if raw.Password.literal {
		l.warnAt(raw.Password.at, `a password is written out here; better put it into a file that only the gateway reads, and write "${cred:NAME}"`)
	}
	for _, u := range urls {
		if !encrypted(u) && !localURL(u.V) {
			l.warnAt(u.at, "the password goes over the network for all to read; use tls://")
		}
	}
}

func localURL(s string) bool {
	u, err := bridge.ParseURL(s)
	return err == nil && loopback(u.Hostname())
}

// readTLS reads the keys of encryption, if any URL needs them.
func (l *loader) readTLS(b *Bridge, raw *rawBridge, urls []text) {
	secure := false
	for _, u := range urls {
		secure = secure || encrypted(u)
	}
	maybe := secure || len(urls) == 0
	b.TLS, b.Cert = l.readEncryption(&raw.rawTLS, raw.at, maybe, "is the url tls:// or wss://?")
	for _, key := range []string{"min_tls", "alpn"} {
		if n := raw.at.child(key); n != nil && !maybe {
			l.errorKey(n, "%s has no use without encryption; is the url tls:// or wss://?", key)
		}
	}
	if !secure {
		b.TLS, b.Cert = nil, nil
		return
	}
	if l.choice(raw.MinTLS, "1.2", "1.2", "1.3") == "1.3" {
		b.TLS.MinVersion = tls.VersionTLS13
	}
	for _, t := range raw.ALPN.V {
		b.TLS.NextProtos = append(b.TLS.NextProtos, t.V)
		if len(t.V) == 0 || len(t.V) > 255 {
			l.errorAt(t.at, `%q is no name of a protocol, such as "x-amzn-mqtt-ca"`, t.V)
		}
	}
}

// readProxy reads through what the bridge connects. Its password may be read
// by whoever sees the line, so that the whole is better a secret.
func (l *loader) readProxy(c *bridge.Config, t text) {
	if !t.set() {
		return
	}
	u, err := bridge.ParseProxy(t.V)
	if err != nil {
		l.errorAt(t.at, "%v", err)
		return
	}
	c.Proxy = t.V
	if u != nil && u.User != nil {
		if _, has := u.User.Password(); has && t.isRef {
			l.checkProxyFile(t)
		} else if has {
			l.warnAt(t.at, `a password is written out here; better put the whole value into a file that only the gateway reads, and write "${cred:NAME}"`)
		}
	}
}

// checkProxyFile refuses the password of a proxy in a file that everyone may
// read.
func (l *loader) checkProxyFile(t text) {
	kind, name, _ := reference(t.at.value.(string))
	if kind == "env" {
		return
	}
	if path, ok := l.secrets.path(l.binder, t.at, kind, name); ok {
		l.checkMode(Error, t.at, path)
	}
}

// checkOld looks at what MQTT 3.1.1 cannot do.
func (l *loader) checkOld(b *Bridge, raw *rawBridge) {
	if raw.Password.set() && b.Username == "" {
		l.errorAt(raw.Password.at, "MQTT 3.1.1 has no password without a user: write username")
	}
	withID := func(p mapping.Publish) bool { return p.ID }
	if len(b.Send) > 0 && !slices.ContainsFunc(l.cfg.Publish, withID) {
		l.warnKey(raw.at, `MQTT 3.1.1 has no properties, so that nobody upstream can tell a repetition of bridge %q by its id: write id = true in a [publish.NAME] with format = "json"`, b.Name)
	}
	for _, w := range raw.Receive.V {
		from, _ := fill(w.key, l.topics)
		for _, s := range b.Send {
			if from != "" && meets(s, from) {
				l.warnKey(w.value.at, "over MQTT 3.1.1 the far broker sends back what goes to %q, and this takes it in again: keep the two apart", s.To)
			}
		}
	}
}

// meets reports whether what a send rule sends may be matched by a filter.
// Wildcards leave out commands.
func meets(s bridge.Rule, filter string) bool {
	if strings.HasSuffix(s.From, "#") || strings.HasSuffix(s.From, "+") {
		for _, verb := range []string{"/set", "/_set", "/_get"} {
			if strings.HasSuffix(filter, verb) {
				return false
			}
		}
	}
	return bridge.CanMatchBoth(s.To, filter)
}

func (l *loader) readQoS(c *bridge.Config, q integer) {
	switch {
	case !q.set():
	case q.V == 2:
		l.errorAt(q.at, "qos 2 is not for bridges: the MQTT library keeps what it needs in memory only and may answer over a connection that is gone, so that a crash would lose or double messages all the same, and AWS and Azure have no QoS 2; write qos = 1: each message carries an id (user property mid, over 3.1.1 id = true in [publish.NAME]), and the receiver drops the ids that it has seen")
	case q.within(l.binder, 0, 1, "qos"):
		c.QoS = byte(q.V)
	}
}

func (l *loader) readReplay(t text) bridge.Replay {
	return map[string]bridge.Replay{"live-first": bridge.LiveFirst, "strict": bridge.Strict, "latest": bridge.Latest}[l.choice(t, "live-first", "live-first", "strict", "latest")]
}

func (l *loader) readBridgeLimits(c *bridge.Config, raw *rawBridge) {
	raw.MaxAge.atLeast(l.binder, time.Second, "max_age")
	c.MaxAge = raw.MaxAge.V
	l.readUnsynced(c, raw)
	if k := raw.KeepAlive; k.set() && (k.V < time.Second || k.V > 65535*time.Second) {
		l.errorAt(k.at, `keepalive is %s; it is "1s" to "65535s"`, k.at.value)
	}
	if raw.KeepAlive.set() {
		c.KeepAlive = raw.KeepAlive.V
	}
	if raw.Window.within(l.binder, 1, 1024, "window") && raw.Window.set() {
		c.Window = int(raw.Window.V)
	}
}

// readUnsynced reads what becomes of readings while the clock was never set.
func (l *loader) readUnsynced(c *bridge.Config, raw *rawBridge) {
	c.Unsynced = map[string]bridge.Unsynced{"hold": bridge.HoldUnsynced, "flag": bridge.FlagUnsynced, "drop": bridge.DropUnsynced}[l.choice(raw.Unsynced, "hold", "hold", "flag", "drop")]
	h := raw.UnsyncedHold
	if !h.set() {
		return
	}
	switch {
	case c.Unsynced == bridge.FlagUnsynced:
		l.errorAt(h.at, `unsynced_hold has no use with unsynced = "flag", which holds nothing; keep one`)
	case h.V < time.Second || h.V > 7*24*time.Hour:
		l.errorAt(h.at, `unsynced_hold is %s; it is "1s" to "168h"; unsynced = "flag" holds nothing`, h.at.value)
	}
	c.UnsyncedHold = h.V
}

// readRules reads send and receive, and finds where the status goes.
func (l *loader) readRules(b *Bridge, raw *rawBridge) {
	if raw.at.child("send") == nil && raw.at.child("receive") == nil {
		l.warnKey(raw.at, `bridge %q has neither send nor receive, so that nothing goes over it: write send = { "{name}/#" = "{name}/#" }`, b.Name)
	}
	b.Send = l.rules(raw.Send, bridge.Validate)
	b.Receive = l.rules(raw.Receive, bridge.ValidateReceive)
	l.checkTargets(raw.Receive, b.Receive)
	b.StatusTopic, _ = bridge.MapTopic(b.Send, l.cfg.Name+"/_status")
}

// rules fills the placeholders of a table of rules and lets the bridge judge
// them.
func (l *loader) rules(w words, validate func([]bridge.Rule) []*bridge.RuleError) []bridge.Rule {
	var rules []bridge.Rule
	for _, x := range w.V {
		from, wrong := fill(x.key, l.topics)
		if wrong != "" {
			l.errorKey(x.value.at, "%s", wrong)
		}
		to := l.filled(x.value.at, x.value.V)
		if from == "" && x.key != "" || to == "" && x.value.V != "" {
			from, to = fmt.Sprintf("unusable/%d", len(rules)), fmt.Sprintf("unusable/%d/_set", len(rules)) // reported; keeps the places of the others
		}
		rules = append(rules, bridge.Rule{From: from, To: to})
	}
	for _, e := range validate(rules) {
		l.errorKey(w.V[e.Index].value.at, "%v", e.Err)
	}
	return rules
}

// checkTargets finds commands that lead to no gateway or another one.
func (l *loader) checkTargets(w words, rules []bridge.Rule) {
	for i, r := range rules {
		if !broker.Covers(l.cfg.Name+"/#", r.To) && !strings.HasPrefix(r.To, "unusable/") {
			l.warnAt(w.V[i].value.at, "%q is outside of %s/, where this gateway takes commands", r.To, l.cfg.Name)
		}
	}
}
