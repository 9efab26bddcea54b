package expiry

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSpeaksOnceADayOfAnEndThatIsNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		w := &Watch{What: "the certificate", Who: "others refuse"}
		leaf := &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(90 * 24 * time.Hour)}
		for range 92 * 24 {
			w.Speak(log, leaf, "x.crt", time.Now(), true)
			time.Sleep(time.Hour)
		}
		if soon, over := strings.Count(out.String(), "expires soon"), strings.Count(out.String(), "has expired: others refuse it"); soon != 30 || over != 2 {
			t.Errorf("%d times that it expires soon, %d that it has expired", soon, over)
		}
		out.Reset()
		w.Renewed()
		w.Speak(log, leaf, "x.crt", leaf.NotBefore.Add(-time.Hour), true)
		w.Renewed()
		w.Speak(log, leaf, "x.crt", leaf.NotBefore.Add(-time.Hour), false)
		if text := out.String(); !strings.Contains(text, "not valid yet") || !strings.Contains(text, "cannot be told") || !strings.Contains(text, "cert=x.crt") {
			t.Errorf("said %s", text)
		}
	})
}

// Short-lived certificates are not spoken of all their life.
func TestSoonIsShorterForShortLives(t *testing.T) {
	day := 24 * time.Hour
	begin := time.Now()
	for _, c := range []struct {
		life, age time.Duration
		want      bool
	}{
		{365 * day, 334 * day, false}, {365 * day, 336 * day, true}, {30 * day, time.Hour, false}, {30 * day, 21 * day, true}, {6 * day, 5 * day, true}, {6 * day, 7 * day, true},
	} {
		leaf := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(c.life)}
		if got := Soon(leaf, begin.Add(c.age)); got != c.want {
			t.Errorf("life %v, age %v: %t", c.life, c.age, got)
		}
	}
}
