package bridge

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// openssl dgst -hmac made the same of the same.
func TestSASToken(t *testing.T) {
	s := &SAS{Resource: "hub.azure-devices.net/devices/plant-a", Key: []byte("a device key of thirty-two bytes!")}
	want := "SharedAccessSignature sr=hub.azure-devices.net%2Fdevices%2Fplant-a&sig=wtqaEYBZBrF%2FBA5p1S5RXFPuwNYLoazP3IGdhoYqe4E%3D&se=946688400"
	if got := s.token(time.Unix(946688400, 0)); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// A password is replaced before it expires, with nothing lost or repeated, no
// Will, and not a word in the log.
func TestPasswordIsRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, up := newRig3(t, func(c *Config) {
			c.SAS = &SAS{Resource: "h/devices/gw", Key: []byte("k"), Life: 10 * time.Minute}
			c.Username = "h/gw/"
		})
		r.start()
		for i := range 30 {
			r.tele.fill(i, i+1)
			pass(time.Minute)
		}
		if !slices.Equal(up.got, numbers(0, 30)) || r.tele.Acked() != 30 {
			t.Errorf("arrived %q", up.got)
		}
		if len(up.connects) != 4 || up.goodbyes != 3 || r.lines("no uplink") != 0 || r.lines("uplink restored") != 0 {
			t.Errorf("%d connections, %d polite ends: %s", len(up.connects), up.goodbyes, r.logged)
		}
		seen := make(map[string]bool)
		for _, c := range up.connects {
			_, until, _ := strings.Cut(string(c.Password), "&se=")
			seen[until] = true
		}
		if len(seen) != 4 {
			t.Errorf("expiries %v", seen)
		}
		end3(r, up)
	})
}

func TestTopicLimits(t *testing.T) {
	l := Limits{TopicBytes: 12, TopicLevels: 3, Forbidden: " "}
	for topic, want := range map[string]string{"a/b/c": "", "a/b/c/d": "4 levels", "abcdefghijklm": "13 bytes", "a b": "does not take"} {
		if got := l.CheckTopic(topic); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", topic, got)
		}
	}
	if got := new(Limits).CheckTopic(strings.Repeat("/", 1000) + " "); got != "" {
		t.Errorf("without limits: %q", got)
	}
}
