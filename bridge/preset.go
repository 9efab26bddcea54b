package bridge

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"time"
)

// A Preset is what is known of one kind of far broker: defaults for what it
// does not say in CONNACK. The configuration may overrule each number, for
// operators change their limits.
type Preset struct {
	Title    string // for people
	Version  Version
	Limits   Limits
	ALPN     string        // at port 443; "": none
	Window   int           // 0: as without a preset
	Backoff  time.Duration // the least; 0: as without a preset
	Session  time.Duration // the longest that it keeps; 0: as without a preset
	Least    time.Duration // keep-alive; 0: any
	Most     time.Duration
	ClientID int // bytes; 0: any
	// IDForbidden are characters that client ids may not hold.
	IDForbidden string
	Open        bool // it may be without encryption
	Alike       bool // as Config.Alike
}

// Presets are the presets by name. The rates keep a twentieth below what the
// far broker counts, for its seconds are not ours.
var Presets = map[string]Preset{
	"aws": {
		Title: "AWS IoT Core", ALPN: "x-amzn-mqtt-ca", Window: 50, Backoff: time.Second, Session: time.Hour,
		Limits: Limits{Packet: 128 << 10, TopicBytes: 256, TopicLevels: 8, Rate: 95, ByteRate: 486 << 10},
		Least:  30 * time.Second, Most: 1200 * time.Second, ClientID: 128,
	},
	"azure-iot-hub": {
		Title: "Azure IoT Hub", Version: MQTT311, Backoff: time.Second,
		Limits: Limits{Packet: 256 << 10, NoRetain: true},
		Most:   1177 * time.Second, ClientID: 128,
	},
	"azure-event-grid": {
		Title: "Azure Event Grid", Backoff: time.Second, Session: 8 * time.Hour,
		Limits: Limits{Packet: 512 << 10, TopicBytes: 256, TopicLevels: 8, Rate: 95},
		Most:   1160 * time.Second, ClientID: 128,
	},
	"hivemq": {Title: "HiveMQ Cloud"}, // it says what it bears in CONNACK
	"emqx": {
		Title:   "EMQX Cloud",
		Limits:  Limits{Packet: 1 << 20, TopicLevels: 10, Rate: 9.5},
		Session: 2 * time.Hour, ClientID: 1024,
	},
	"mosquitto": {Title: "Mosquitto", Limits: Limits{Packet: 2_000_000}, Open: true},
	"nats": {
		Title: "NATS", Version: MQTT311, Open: true, Alike: true, IDForbidden: " \t\r\n\f.*>",
		// It counts a header of its own to the payload, ends the connection above
		// a MiB, and upon a space or a DEL in a topic.
		Limits: Limits{Packet: 1<<20 - 1<<10, Forbidden: " \t\r\n\f\x7f"},
	},
}

// A SAS makes passwords for Azure IoT Hub of a device's key.
type SAS struct {
	Resource string // HUB.azure-devices.net/devices/DEVICE
	Key      []byte
	Life     time.Duration // of each; 0: one hour
}

// token returns the password for the time until then.
func (s *SAS) token(until time.Time) string {
	resource := url.QueryEscape(s.Resource)
	mac := hmac.New(sha256.New, s.Key)
	fmt.Fprintf(mac, "%s\n%d", resource, until.Unix())
	return fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d", resource, url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))), until.Unix())
}

// refresh is the part of a token's life after which it is replaced.
const refresh = 0.9
