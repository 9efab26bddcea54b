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
		leaf := &x509.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(60 * 24 * time.Hour)}
		for range 62 * 24 {
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
