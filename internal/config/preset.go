package config

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"edgegateway/bridge"
	"edgegateway/devices"
	"edgegateway/mapping"
)

// number is a whole number or one with decimals.
type number struct {
	here
	V float64
}

func (x *number) bind(b *binder, n *node) {
	switch v := n.value.(type) {
	case int64:
		x.at, x.V = n, float64(v)
	case float64:
		x.at, x.V = n, v
	default:
		b.errorAt(n, "this is %s; it must be a number", n.kind())
	}
}

// rate reports a number that is no rate.
func (x number) rate(b *binder, what string) float64 {
	if x.set() && (x.V < 0 || x.V > 1e6 || x.V != x.V) {
		b.errorAt(x.at, "%s is %v; it is a number of messages in a second, up to a million, 0 for no limit", what, x.V)
		return 0
	}
	return x.V
}

type rawThin struct {
	here
	After duration `toml:"after"`
	Every duration `toml:"every"`
}

// rawPace is what a far broker or its link bears.
type rawPace struct {
	Preset      text     `toml:"preset"`
	Retain      boolean  `toml:"retain"`
	Packet      size     `toml:"max_packet"`
	TopicBytes  integer  `toml:"max_topic_bytes"`
	TopicLevels integer  `toml:"max_topic_levels"`
	Rate        number   `toml:"max_rate"`
	ByteRate    size     `toml:"max_byte_rate"`
	ReplayRate  number   `toml:"replay_rate"`
	Thin        rawThin  `toml:"thin"`
	Daily       size     `toml:"daily_bytes"`
	Backoff     duration `toml:"backoff"`
	Session     duration `toml:"session"`
	SASKey      secret   `toml:"sas_key"`
}

// readPreset lays down what is known of the far broker.
func (l *loader) readPreset(b *Bridge, t text) {
	if !t.set() {
		return
	}
	name := l.choice(t, "", slices.Sorted(maps.Keys(bridge.Presets))...)
	p, ok := bridge.Presets[name]
	if !ok {
		return
	}
	b.Preset = name
	b.Version, b.Limits = p.Version, p.Limits
	b.Window, b.MinBackoff, b.Session, b.Alike = p.Window, p.Backoff, p.Session, p.Alike
	if p.Most > 0 {
		b.KeepAlive = min(p.Most, time.Minute)
	}
}

// readPace reads limits; each key overrules the preset.
func (l *loader) readPace(b *Bridge, raw *rawBridge) {
	c, m := &b.Config, &b.Limits
	if raw.Retain.set() {
		m.NoRetain = !raw.Retain.V
	}
	if raw.Packet.set() {
		m.Packet = int(min(raw.Packet.V, 1<<30))
	}
	if raw.TopicBytes.within(l.binder, 0, 65535, "max_topic_bytes") && raw.TopicBytes.set() {
		m.TopicBytes = int(raw.TopicBytes.V)
	}
	if raw.TopicLevels.within(l.binder, 0, 65535, "max_topic_levels") && raw.TopicLevels.set() {
		m.TopicLevels = int(raw.TopicLevels.V)
	}
	if raw.Rate.set() {
		m.Rate = raw.Rate.rate(l.binder, "max_rate")
	}
	if raw.ByteRate.set() {
		m.ByteRate = float64(raw.ByteRate.V)
	}
	c.ReplayRate = raw.ReplayRate.rate(l.binder, "replay_rate")
	if raw.ReplayRate.set() && c.Replay == bridge.Strict {
		l.errorKey(raw.at.child("replay_rate"), `replay_rate has no use with replay = "strict", which sends what piled up and what is new in one stream; max_rate bounds both`)
	}
	if raw.Backoff.atLeast(l.binder, 100*time.Millisecond, "backoff"); raw.Backoff.set() {
		c.MinBackoff = raw.Backoff.V
	}
	if raw.Session.set() {
		c.Session = raw.Session.V
	}
	l.readThin(c, &raw.Thin)
	if raw.Daily.set() {
		c.DailyBytes, c.Zone = raw.Daily.V, l.cfg.Timezone
		if raw.Daily.V < 1000 {
			l.errorAt(raw.Daily.at, `daily_bytes is %d; a message takes more than a hundred: write "20MB"`, raw.Daily.V)
		}
	}
}

func (l *loader) readThin(c *bridge.Config, raw *rawThin) {
	if !raw.set() {
		return
	}
	raw.Every.atLeast(l.binder, time.Second, "every")
	if !raw.Every.set() {
		l.errorKey(raw.at, `thin needs every: thin = { after = "1h", every = "1m" }`)
	}
	c.Thin = bridge.Thin{After: raw.After.V, Every: raw.Every.V}
}

// checkPreset applies the rules of the far broker, as far as they are known,
// to the rest of the bridge.
func (l *loader) checkPreset(b *Bridge, raw *rawBridge, urls []text) {
	l.checkFlow(b, raw)
	if raw.SASKey.set() && b.Preset != "azure-iot-hub" {
		l.errorKey(raw.at.child("sas_key"), `sas_key is for preset = "azure-iot-hub"`)
	}
	p, ok := bridge.Presets[b.Preset]
	if !ok {
		return
	}
	for _, t := range urls {
		u, _ := bridge.ParseURL(t.V)
		if !p.Open && !bridge.Encrypted(u) && !loopback(u.Hostname()) {
			l.errorAt(t.at, "%s is reached by tls:// (or wss://) only", p.Title)
		}
		if p.ALPN != "" && u.Scheme == "tls" && u.Port() == "443" && b.TLS != nil && !raw.ALPN.set() {
			b.TLS.NextProtos = []string{p.ALPN}
		}
	}
	if p.ClientID > 0 && len(b.ClientID) > p.ClientID {
		l.errorKey(raw.at, "the client id %q has %d bytes; %s takes %d", b.ClientID, len(b.ClientID), p.Title, p.ClientID)
	}
	if i := strings.IndexAny(b.ClientID, p.IDForbidden); i >= 0 {
		l.errorKey(raw.at, "the client id %q holds %q, which %s does not take: write client_id", b.ClientID, b.ClientID[i], p.Title)
	}
	if k := b.KeepAlive; raw.KeepAlive.set() && (k < p.Least || p.Most > 0 && k > p.Most) {
		l.warnAt(raw.KeepAlive.at, "keepalive is %s; %s takes %s to %s", k, p.Title, p.Least, p.Most)
	}
	if b.Preset == "azure-iot-hub" {
		l.checkIoTHub(b, raw, urls)
	}
}

// checkIoTHub fills in and checks what Azure IoT Hub alone wants.
func (l *loader) checkIoTHub(b *Bridge, raw *rawBridge, urls []text) {
	sends := "devices/" + b.ClientID + "/messages/events/"
	for i, r := range b.Send {
		if !strings.HasPrefix(r.To, sends) && i < len(raw.Send.V) {
			l.errorAt(raw.Send.V[i].value.at, "Azure IoT Hub takes messages at %s only (with properties behind it), and ends the connection upon others", sends)
		}
	}
	takes := "devices/" + b.ClientID + "/messages/devicebound/#"
	for i, r := range b.Receive {
		if r.From != takes && !strings.HasPrefix(r.From, "$iothub/") && i < len(raw.Receive.V) {
			l.errorKey(raw.Receive.V[i].value.at, "Azure IoT Hub sends to %q and below $iothub/ only", takes)
		}
	}
	if len(urls) == 0 {
		return
	}
	u, _ := bridge.ParseURL(urls[0].V)
	b.Username = cmp.Or(b.Username, fmt.Sprintf("%s/%s/?api-version=2021-04-12", u.Hostname(), b.ClientID))
	switch {
	case raw.SASKey.set() && raw.Password.set():
		l.errorKey(raw.at.child("password"), "sas_key makes the passwords; leave out password")
	case raw.SASKey.set():
		key, err := base64.StdEncoding.DecodeString(raw.SASKey.V.Reveal())
		if err != nil || len(key) == 0 {
			l.errorAt(raw.SASKey.at, "this is no key of a device: it is base64, as the portal shows it")
			return
		}
		if raw.SASKey.literal {
			l.warnAt(raw.SASKey.at, `a key is written out here; better put it into a file that only the gateway reads, and write "${cred:NAME}"`)
		}
		b.SAS = &bridge.SAS{Resource: fmt.Sprintf("%s/devices/%s", u.Hostname(), url.PathEscape(b.ClientID)), Key: key}
	case !raw.Password.set() && b.Cert == nil && !l.secrets.optional:
		l.errorKey(raw.at, `bridge %q needs sas_key = "${cred:NAME}", the key of the device, or cert and key`, b.Name)
	}
}

// A flow is what the gateway publishes to one topic that a bridge is owed.
type flow struct {
	topic string
	rate  float64 // at most, messages in a second
}

// flows lists what the gateway publishes of devices. Points that are heard
// count as often as they are heard, which nobody knows: not at all.
func (l *loader) flows() (list []flow) {
	m, err := mapping.New(l.cfg.Mapping())
	if err != nil {
		return nil // reported
	}
	for _, dev := range l.cfg.Devices {
		list = append(list, flow{topic: l.cfg.Name + "/" + dev.Name + "/_status"})
		objects := make(map[string]float64)
		for _, p := range slices.Concat(dev.Points, dev.Computed) {
			rate := rateOf(dev, p)
			for _, r := range m.Routes(dev, p) {
				switch {
				case r.Per == "device":
					objects[r.Topic] = max(objects[r.Topic], rate)
				default:
					list = append(list, flow{r.Topic, rate})
				}
			}
		}
		for _, topic := range sortedKeys(objects) {
			list = append(list, flow{topic, objects[topic]})
		}
	}
	return append(list, flow{topic: l.cfg.Name + "/_gap"})
}

// rateOf returns how often p is published in a second, at most.
func rateOf(dev *mapping.Device, p *mapping.Point) float64 {
	every := time.Duration(0)
	if p.Point != nil && slices.Contains(dev.Points, p) {
		every = p.Every
	} else { // computed: as often as the quickest of the others
		for _, o := range dev.Points {
			if o.Every > 0 && (every == 0 || o.Every < every) {
				every = o.Every
			}
		}
	}
	if every == devices.Never {
		return 0
	}
	if every = max(every, p.Policy.MinInterval, p.Policy.Window); every == 0 {
		return 0
	}
	return 1 / every.Seconds()
}

// checkFlow tells which of the gateway's own topics the far broker will not
// take, and whether they come faster than it bears.
func (l *loader) checkFlow(b *Bridge, raw *rawBridge) {
	if l.published == nil && l.Errors() > 0 {
		return // devices are not whole
	}
	wrong, first, why := 0, "", ""
	var busy []flow
	for _, f := range l.allFlows() {
		to, ok := bridge.MapTopic(b.Send, f.topic)
		if !ok {
			continue
		}
		if words := b.Limits.CheckTopic(to); words != "" {
			if wrong++; wrong == 1 {
				first, why = to, words
			}
		}
		b.Rate += f.rate
		busy = append(busy, f)
	}
	who := "the far broker"
	if p, ok := bridge.Presets[b.Preset]; ok {
		who = p.Title
	}
	if wrong > 0 {
		l.errorKey(raw.at, "bridge %q: %d of its topics cannot be sent to %s, such as %q: %s; change send, or the limit (max_topic_levels, max_topic_bytes) if it has changed", b.Name, wrong, who, first, why)
	}
	if r := b.Limits.Rate; r > 0 && b.Rate > r {
		most := slices.MaxFunc(busy, func(x, y flow) int { return cmp.Compare(x.rate, y.rate) })
		l.warnKey(raw.at, `bridge %q has up to %s messages a second to send, and %s takes %s (max_rate): the rest piles up until the oldest are dropped; send fewer topics (per = "device" in a publish table), read them less often, or publish on change (deadband); the quickest is %s`,
			b.Name, rounded(b.Rate), who, rounded(r), most.topic)
	}
}

func rounded(x float64) string {
	if x < 10 {
		return fmt.Sprintf("%.3g", x)
	}
	return fmt.Sprintf("%.0f", x)
}

// allFlows is flows, found once.
func (l *loader) allFlows() []flow {
	if l.published == nil {
		l.published = l.flows()
	}
	return l.published
}
