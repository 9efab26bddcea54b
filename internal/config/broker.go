package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

const (
	defaultListen  = "tcp://127.0.0.1:1883"
	leastPacket    = 1 << 10
	mostPacket     = 256 << 20 // MQTT 5, 2.1.4: the remaining length ends at 268435455
	leastSpool     = 1 << 20
	leastSync      = 10 * time.Millisecond
	mostSync       = time.Hour
	telemetrySpool = 512 << 20
	criticalSpool  = 64 << 20
	sessionSpool   = 128 << 20
)

func (l *loader) readBroker(raw *rawBroker) {
	if raw.MaxPacket.set() {
		if v := raw.MaxPacket.V; v < leastPacket || v > mostPacket {
			l.errorAt(raw.MaxPacket.at, "max_packet is %d bytes; it must be between 1KiB and 256MiB", v)
		}
		l.cfg.Limits.Packet = int(raw.MaxPacket.V)
	}
	if !raw.Listen.set() {
		a, _ := parseListen(defaultListen)
		l.cfg.Listen = []broker.Listen{a}
		return
	}
	for _, t := range raw.Listen.V {
		a, err := parseListen(t.V)
		switch {
		case err != nil:
			l.errorAt(t.at, "%v", err)
		case slices.Contains(l.cfg.Listen, a):
			l.errorAt(t.at, "%s is in the list twice", t.V)
		default:
			l.cfg.Listen = append(l.cfg.Listen, a)
		}
	}
}

// parseListen reads tcp://HOST:PORT of this machine.
func parseListen(s string) (broker.Listen, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Opaque != "" {
		return broker.Listen{}, fmt.Errorf(`%q is no address to listen at; write "%s"`, s, defaultListen)
	}
	if u.Scheme != "tcp" && u.Scheme != "mqtt" {
		return broker.Listen{}, fmt.Errorf("the broker cannot listen at %s://; there is tcp://", u.Scheme)
	}
	if u.Path != "" || u.User != nil || u.RawQuery != "" {
		return broker.Listen{}, fmt.Errorf("%q must be tcp://HOST:PORT and nothing more", s)
	}
	if !loopback(u.Hostname()) {
		return broker.Listen{}, fmt.Errorf("%s can be reached from other machines, which needs users or client certificates, and the broker has neither yet: listen at 127.0.0.1 or [::1]", s)
	}
	port := u.Port()
	if port == "" {
		port = "1883"
	}
	return broker.Listen{Network: "tcp", Address: net.JoinHostPort(u.Hostname(), port)}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (l *loader) readSpool(raw *rawSpool) {
	l.cfg.Spools = [broker.NumClasses]Spool{
		broker.Telemetry: {Size: telemetrySpool, Sync: spool.Policy{Mode: spool.Interval, Every: 5 * time.Second}},
		broker.Critical:  {Size: criticalSpool, Sync: spool.Policy{Mode: spool.Always}},
	}
	l.readClass(&raw.rawClass, &l.cfg.Spools[broker.Telemetry])
	l.readClass(&raw.Critical.rawClass, &l.cfg.Spools[broker.Critical])
	telemetry, critical := l.cfg.Spools[broker.Telemetry], &l.cfg.Spools[broker.Critical]
	l.cfg.SessionSpool = Spool{Size: sessionSpool, Sync: telemetry.Sync}
	l.readClass(&raw.Sessions.rawClass, &l.cfg.SessionSpool)
	critical.Dir = cmp.Or(critical.Dir, telemetry.Dir)
	l.cfg.SessionSpool.Dir = cmp.Or(l.cfg.SessionSpool.Dir, telemetry.Dir)
}

// readClass reads what is set of one class over its defaults.
func (l *loader) readClass(raw *rawClass, s *Spool) {
	if raw.Size.set() {
		s.Size = raw.Size.V
		if s.Size < leastSpool {
			l.errorAt(raw.Size.at, "a spool of %d bytes is too small to be of use; the least is 1MiB", s.Size)
		}
	}
	if raw.Sync.set() {
		p, err := parseSync(raw.Sync.V)
		if err != nil {
			l.errorAt(raw.Sync.at, "%v", err)
		}
		s.Sync = p
	}
	if raw.Dir.set() {
		s.Dir = raw.Dir.V
		if !path.IsAbs(s.Dir) {
			l.errorAt(raw.Dir.at, "%q is no whole path; write one that begins with /", raw.Dir.V)
		}
	}
}

func parseSync(s string) (spool.Policy, error) {
	switch s {
	case "always":
		return spool.Policy{Mode: spool.Always}, nil
	case "off":
		return spool.Policy{Mode: spool.Off}, nil
	}
	d, err := parseDuration(s)
	if err != nil {
		return spool.Policy{}, fmt.Errorf(`%q is no way to sync; write "always", "off" or an interval such as "5s"%s`, s,
			didYouMean(nearest(s, []string{"always", "off"})))
	}
	if d < leastSync || d > mostSync {
		return spool.Policy{}, fmt.Errorf("a sync interval of %s is out of range; it is %s to %s", s, leastSync, mostSync)
	}
	return spool.Policy{Mode: spool.Interval, Every: d}, nil
}
