package bridge

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"time"

	"edgegateway/broker"
)

// A Config describes one bridge. Zero values mean the default named.
type Config struct {
	Name string   // table key: identity of its cursors and of its user "bridge:NAME"
	URLs []string // tcp://host[:1883], tls://host[:8883], ws://host[:80][/mqtt] or wss://host[:443][/mqtt], tried in turn; the first is preferred
	// Alike says that all URLs lead to the same, as those of a cluster: each
	// client id prefers another one, and the next one follows when one is lost.
	Alike    bool
	ClientID string
	Version  Version
	Username string
	Password string      // sent if either it or Username is set
	SAS      *SAS        // makes the password; nil: it is Password
	TLS      *tls.Config // for tls and wss URLs; nil: the system's authorities. ServerName "": the URL's host
	Proxy    string      // http://, https:// or socks5://[user:password@]host:port; ProxyFromEnvironment; "": none

	// Certificate, if not nil, returns the client certificate as it is now and
	// its file, so that its end is spoken of in time.
	Certificate func() (*x509.Certificate, string)

	QoS     byte // 0 or 1, upstream; the package doc says what 0 means
	Send    []Rule
	Receive []Rule
	Replay  Replay
	Thin    Thin          // of what is old; critical messages never are
	MaxAge  time.Duration // older records are skipped and become a gap; 0: kept for ever
	// Unsynced says what becomes of readings while nobody knows their time, and
	// UnsyncedHold how long they wait for it once there is a connection: 15 min.
	Unsynced     Unsynced
	UnsyncedHold time.Duration

	Limits     Limits
	ReplayRate float64 // messages of the backlog in a second, with LiveFirst and Latest; 0: no limit but theirs
	// DailyBytes bounds what goes over the link in a day, both ways, with an
	// estimate of what TCP and TLS add; 0: nothing does. When it is spent only
	// critical messages go until midnight in Zone.
	DailyBytes int64
	DailyFile  string // where it is noted; "": a restart begins anew
	Zone       *time.Location

	Dead *DeadLog // of what is given up; nil: none is kept

	Status     *Status       // nil: none
	KeepAlive  time.Duration // 60 s; whole seconds
	Window     int           // messages in flight, at most 1024: 20; the far broker may lower it
	Session    time.Duration // how long the far broker keeps our subscriptions: 24 h
	MinBackoff time.Duration // 1 s
	MaxBackoff time.Duration // 60 s

	ConnectTimeout time.Duration // for name, connection, TLS and CONNACK together: 30 s
	WriteTimeout   time.Duration // for one packet, and for unacknowledged bytes in the kernel: 20 s
	AckTimeout     time.Duration // with messages in flight and none acknowledged for so long: reconnect: 30 s
	DrainTime      time.Duration // for the backlog once Run is to end: 5 s; negative: none

	BootID [16]byte // of this boot, as given to the spool
	// ClockAt tells the time of what waited, also since before a reboot. Nil:
	// what New's clock tells, and of other boots what their records do.
	ClockAt broker.ClockAt
	Now     func() int64 // CLOCK_BOOTTIME in ns; nil: the kernel's

	// OnGap, if not nil, is told of each hole in what is sent, so that the
	// gateway can publish it. It is called from the bridge's goroutines, one
	// call at a time, and must not block.
	OnGap func(Gap)
}

// A Version is one of MQTT.
type Version uint8

const (
	MQTT5   Version = iota
	MQTT311         // 3.1.1: no properties, and so no ids and no expiry outside of payloads
)

func (v Version) String() string { return [...]string{"5", "3.1.1"}[v] }

// Replay says in which order a bridge sends after an outage.
type Replay uint8

const (
	// LiveFirst sends what is new at once, and what piled up beside it, with
	// the user property replayed=1 and not retained.
	LiveFirst Replay = iota
	// Strict sends everything in one stream in its order.
	Strict
	// Latest is LiveFirst with only the latest message of each topic of what
	// piled up; the others become a gap.
	Latest
)

func (r Replay) String() string { return [...]string{"live-first", "strict", "latest"}[r] }

// Unsynced says what becomes of readings while the clock was never set.
type Unsynced uint8

const (
	// HoldUnsynced keeps them until it is set, and sends them flagged when it
	// was not for too long.
	HoldUnsynced Unsynced = iota
	// FlagUnsynced sends them at once, flagged.
	FlagUnsynced
	// DropUnsynced is HoldUnsynced, but in the end they become a gap.
	DropUnsynced
)

func (u Unsynced) String() string { return [...]string{"hold", "flag", "drop"}[u] }

// A Status is a retained message upstream that says whether the gateway is
// connected. Offline is its Will and is published at a polite end.
type Status struct {
	Topic           string // upstream, not mapped
	Online, Offline []byte
}

// withDefaults returns c with defaults in place of zero values, and all that
// is wrong with it.
func (c Config) withDefaults() (Config, []*url.URL, error) {
	c.KeepAlive = cmp.Or(c.KeepAlive, 60*time.Second)
	c.Window = cmp.Or(c.Window, 20)
	c.Session = cmp.Or(c.Session, 24*time.Hour)
	c.MinBackoff = cmp.Or(c.MinBackoff, time.Second)
	c.MaxBackoff = max(cmp.Or(c.MaxBackoff, time.Minute), c.MinBackoff)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 30*time.Second)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, 20*time.Second)
	c.AckTimeout = cmp.Or(c.AckTimeout, 30*time.Second)
	c.UnsyncedHold = cmp.Or(c.UnsyncedHold, 15*time.Minute)
	c.DrainTime = cmp.Or(c.DrainTime, 5*time.Second)
	if c.Zone == nil {
		c.Zone = time.Local
	}
	if c.Now == nil {
		c.Now = broker.BootTime
	}
	urls, err := c.check()
	if err != nil {
		return c, nil, fmt.Errorf("bridge %s: %w", c.Name, err)
	}
	return c, urls, nil
}

func (c *Config) check() ([]*url.URL, error) {
	var errs []error
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(c.Name == "", "it has no name")
	refuse(c.ClientID == "", "client_id is missing: the far broker knows the gateway by it")
	refuse(c.QoS > 1, "qos is %d, but the MQTT library cannot keep QoS 2 over a crash: use 1, with which the receiver knows repetitions by the mid property", c.QoS)
	refuse(c.Window < 1 || c.Window > 1024, "window is %d, must be 1 to 1024", c.Window)
	refuse(c.KeepAlive < time.Second || c.KeepAlive > 65535*time.Second, "keep-alive is %v, must be 1 s to 65535 s", c.KeepAlive)
	refuse(len(c.URLs) == 0, "url is missing")
	for _, e := range Validate(c.Send) {
		errs = append(errs, fmt.Errorf("send: %w", e))
	}
	for _, e := range ValidateReceive(c.Receive) {
		errs = append(errs, fmt.Errorf("receive: %w", e))
	}
	if _, err := ParseProxy(c.Proxy); err != nil {
		errs = append(errs, err)
	}
	var urls []*url.URL
	for _, s := range c.URLs {
		u, err := ParseURL(s)
		if err != nil {
			errs = append(errs, err)
		}
		urls = append(urls, u)
	}
	return urls, errors.Join(errs...)
}

// schemes reduces what a URL may begin with to tcp, tls, ws or wss, and says
// which port each has.
var schemes = map[string]struct{ name, port string }{
	"tcp": {"tcp", "1883"}, "mqtt": {"tcp", "1883"},
	"tls": {"tls", "8883"}, "ssl": {"tls", "8883"}, "mqtts": {"tls", "8883"},
	"ws": {"ws", "80"}, "wss": {"wss", "443"},
}

// Schemes lists what a URL may begin with.
func Schemes() []string { return slices.Sorted(maps.Keys(schemes)) }

// ParseURL returns the parsed URL of an upstream broker, with its port filled
// in and its scheme reduced to tcp, tls, ws or wss. Those of WebSockets have a
// path.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if e, ok := errors.AsType[*url.Error](err); ok {
		return nil, &url.Error{Op: e.Op, URL: "upstream", Err: e.Err} // without s, which may hold a password
	}
	scheme, ok := schemes[u.Scheme]
	if !ok {
		return nil, fmt.Errorf("upstream %q: write tls://host:8883 or wss://host/mqtt, or without encryption tcp://host:1883 or ws://host/mqtt", u.Redacted())
	}
	u.Scheme = scheme.name
	switch {
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("upstream %s://%s: it must hold a host and a port only; user and password have keys of their own", u.Scheme, u.Host)
	case webSocket(u):
		u.Path = cmp.Or(u.Path, "/mqtt")
	case u.Path != "":
		return nil, fmt.Errorf("upstream %s://%s: it has a path, which only WebSockets have: write %s://%s, or ws:// or wss://", u.Scheme, u.Host, u.Scheme, u.Host)
	}
	u.Host = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), scheme.port))
	return u, nil
}

func webSocket(u *url.URL) bool { return u.Scheme == "ws" || u.Scheme == "wss" }

// Encrypted reports whether what ParseURL returned is over TLS.
func Encrypted(u *url.URL) bool { return u.Scheme == "tls" || u.Scheme == "wss" }
