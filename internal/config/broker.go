package config

import (
	"cmp"
	"fmt"
	"path"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool"
)

const (
	leastSpool     = 1 << 20
	leastSync      = 10 * time.Millisecond
	mostSync       = time.Hour
	telemetrySpool = 512 << 20
	criticalSpool  = 64 << 20
	sessionSpool   = 128 << 20
)

func (l *loader) readSpool(raw *rawSpool) {
	l.cfg.Spools = [broker.NumClasses]Spool{
		broker.Telemetry: {Size: telemetrySpool, Sync: spool.Policy{Mode: spool.Interval, Every: 5 * time.Second}},
		broker.Critical:  {Size: criticalSpool, Sync: spool.Policy{Mode: spool.Always}},
	}
	l.readClass(&raw.rawClass, &l.cfg.Spools[broker.Telemetry])
	l.readClass(&raw.Critical.rawClass, &l.cfg.Spools[broker.Critical])
	telemetry, critical := l.cfg.Spools[broker.Telemetry], &l.cfg.Spools[broker.Critical]
	l.cfg.SessionSpool = Spool{Size: sessionSpool, Sync: telemetry.Sync, Compress: telemetry.Compress}
	l.readClass(&raw.Sessions.rawClass, &l.cfg.SessionSpool)
	critical.Dir = cmp.Or(critical.Dir, telemetry.Dir)
	l.cfg.SessionSpool.Dir = cmp.Or(l.cfg.SessionSpool.Dir, telemetry.Dir)
}

// checkLargest warns when clients may send what a spool cannot take: it would
// be refused each time.
func (l *loader) checkLargest(packet size) {
	if !packet.set() {
		return
	}
	least := spool.SizeFor(packet.V)
	for _, s := range []struct {
		name string
		size int64
	}{
		{"[spool]", l.cfg.Spools[broker.Telemetry].Size},
		{"[spool.critical]", l.cfg.Spools[broker.Critical].Size},
		{"[spool.sessions]", l.cfg.SessionSpool.Size},
	} {
		if s.size < least {
			l.warnAt(packet.at, "a message of %d bytes is refused where it has to be kept in %s: none may fill more than half of it; give it a size of %dMiB or more", packet.V, s.name, least>>20)
		}
	}
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
	if raw.Compress.set() {
		s.Compress = l.choice(raw.Compress, "off", "off", "zstd") == "zstd"
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
