// Package expiry speaks of certificates whose end is near, early enough and
// not too often: the broker's own and those that bridges show upstream.
package expiry

import (
	"crypto/x509"
	"log/slog"
	"time"
)

// soon is how long before its end a certificate is spoken of, unless its whole
// life is so short that this would be most of it: then a third of that.
const soon = 30 * 24 * time.Hour

// Soon reports whether the end of leaf is near or has passed.
func Soon(leaf *x509.Certificate, wall time.Time) bool {
	return leaf.NotAfter.Sub(wall) <= min(soon, leaf.NotAfter.Sub(leaf.NotBefore)/3)
}

// A Watch remembers when it last spoke of one certificate. The zero Watch has
// never done so. It belongs to one goroutine at a time.
type Watch struct {
	What string // it is, as in "the broker's certificate"
	Who  string // refuses it once it is bad, as in "clients refuse"

	warned time.Time
}

// Renewed has the Watch speak at once, for there is another certificate now.
func (w *Watch) Renewed() { w.warned = time.Time{} }

// Speak logs that the end of leaf is near, has passed, or that it is not valid
// yet, once a day. known says whether wall is the time.
func (w *Watch) Speak(log *slog.Logger, leaf *x509.Certificate, path string, wall time.Time, known bool) {
	left := leaf.NotAfter.Sub(wall)
	early := wall.Before(leaf.NotBefore)
	if !Soon(leaf, wall) && !early || !w.warned.IsZero() && time.Since(w.warned) < 24*time.Hour {
		return
	}
	w.warned = time.Now()
	log = log.With("cert", path, "from", leaf.NotBefore.UTC(), "until", leaf.NotAfter.UTC())
	switch {
	case !known:
		log.Warn("whether "+w.What+" is good cannot be told, for the clock is not synchronised; by this machine's time it is not, or not for long", "time", wall)
	case early:
		log.Error(w.What+" is not valid yet: "+w.Who+" it; check the clock of the machine that made it", "time", wall)
	case left <= 0:
		log.Error(w.What + " has expired: " + w.Who + " it; put a new one in its place, it is used without a restart")
	default:
		log.Warn(w.What+" expires soon; put a new one in its place, it is used without a restart", "days", int(left.Hours()/24))
	}
}
