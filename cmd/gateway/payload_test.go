package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A sub is mosquitto_sub on a filter; each line of it is a topic and a payload.
type sub struct{ *process }

func (s *site) subscribe(filter string, more ...string) *sub {
	s.t.Helper()
	return &sub{start(s.t, "mosquitto_sub", append([]string{"-h", "127.0.0.1", "-p", s.broker, "-q", "1", "-F", "%t\t%p", "-t", filter}, more...)...)}
}

// on returns the payloads that came on a topic.
func (s *sub) on(topic string) (payloads []string) {
	for line := range strings.Lines(s.out.String()) {
		if t, payload, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok && t == topic {
			payloads = append(payloads, payload)
		}
	}
	return payloads
}

// topics returns the topics that something came on.
func (s *sub) topics() (topics []string) {
	for line := range strings.Lines(s.out.String()) {
		if t, _, ok := strings.Cut(line, "\t"); ok && !slices.Contains(topics, t) {
			topics = append(topics, t)
		}
	}
	return topics
}

const kabin = `
[device.nem]
name    = "Nem-Sıcaklık"
bus     = "tcp://127.0.0.1:%s"
unit_id = 1
every   = "200ms"
tags    = { yer = "Türkiye/Trabzon/Orta Hisar/KTÜ/Kabin1" }
[device.nem.points]
Nem      = { holding = 0, type = "u16", scale = 0.1, unit = "%%" }
"Sıcaklık" = { holding = 16, type = "f64", unit = "°C" }
`

// Topics of any script, with spaces and as deep as one likes, come from tags.
func TestTopicsOfAnyScript(t *testing.T) {
	t.Parallel()
	plcPort := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	s := newSite(t, "[publish.yer]\ntopic = \"{yer}/{device}/{point}\"\n", map[string]string{"nem": fmt.Sprintf(kabin, plcPort)})
	s.run()
	const nem = "Türkiye/Trabzon/Orta Hisar/KTÜ/Kabin1/Nem-Sıcaklık/Nem"
	for _, filter := range []string{nem, "Türkiye/#", "Türkiye/+/Orta Hisar/KTÜ/+/Nem-Sıcaklık/+", "+/+/+/+/+/+/Nem", "#"} {
		sub := s.subscribe(filter)
		eventually(t, filter+" brings "+nem, func() bool {
			return slices.ContainsFunc(sub.on(nem), func(p string) bool { return strings.HasPrefix(p, `{"value":230.1,"unit":"%",`) })
		})
	}
	sub := s.subscribe("Türkiye/+")
	other := s.subscribe("Türkiye/Trabzon/Orta Hisar/KTÜ/Kabin1/+/Sıcaklık")
	eventually(t, "the other point", func() bool { return len(other.topics()) > 0 })
	if got := sub.topics(); len(got) > 0 {
		t.Errorf("Türkiye/+ brought %q", got)
	}
	if got := other.topics(); !slices.Equal(got, []string{"Türkiye/Trabzon/Orta Hisar/KTÜ/Kabin1/Nem-Sıcaklık/Sıcaklık"}) {
		t.Errorf("a filter for Sıcaklık brought %q", got)
	}
}

// All formats at once, through the broker; what waits for its time comes when
// the gateway stops, and nobody else can publish where values are.
func TestAllFormatsThroughTheBroker(t *testing.T) {
	t.Parallel()
	plcPort := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	s := newSite(t, `
[publish.json]
[publish.value]
format = "value"
topic  = "v/{point}"
[publish.template]
per      = "device"
format   = "template"
topic    = "t/{device}"
template = '{{unix_ms}}{{range .Points}};{{.Value}}{{end}}'
[publish.influx]
per    = "device"
format = "influx"
topic  = "i/{device}"
[publish.senml]
per    = "device"
format = "senml"
topic  = "s/{device}"
`, map[string]string{"plc": fmt.Sprintf(`
[device.plc]
bus     = "tcp://127.0.0.1:%s"
unit_id = 1
every   = "100ms"
[device.plc.points]
power = { holding = 0, type = "u16", scale = 0.1, unit = "kW", publish = "change", max_age = "300ms" }
held  = { holding = 100, type = "u32", window = "24h", aggregate = "max" }
`, plcPort)})
	s.run()
	sub := s.subscribe("#")
	for topic, want := range map[string]string{
		"plant/plc/power": `{"value":230.1,"unit":"kW",`, "v/power": "230.1", "v/held": "", "t/plc": ";230.1", "i/plc": "plant,device=plc power=230.1", "s/plc": `"n":"power","u":"W","v":230100}`,
	} {
		eventually(t, topic+" with "+want, func() bool {
			return slices.ContainsFunc(sub.on(topic), func(p string) bool { return strings.Contains(p, want) })
		})
	}
	if out, err := mosquittoPub(s.broker, "i/plc", "forged"); err != nil {
		t.Fatalf("mosquitto_pub: %v %s", err, out)
	}
	// A lasting session, for a stopping broker waits two seconds for those that
	// are connected, which may be short on a busy machine.
	lasting := []string{"-c", "-i", "lasting"}
	<-s.subscribe("plant/plc/held", append(lasting, "-E")...).done
	eventually(t, "more readings", func() bool {
		out, _ := s.command("status", "--json")
		var status Status
		return json.Unmarshal([]byte(out), &status) == nil && status.Readings > 40
	})
	if code := s.stop(); code != exitOK {
		t.Fatalf("exit code %d:\n%s", code, s.out)
	}
	s.run()
	kept := s.subscribe("plant/plc/held", lasting...)
	eventually(t, "the window that the stop cut short", func() bool {
		return slices.ContainsFunc(kept.on("plant/plc/held"), func(p string) bool {
			return strings.Contains(p, `"samples":`) && !strings.Contains(p, `"samples":1}`) // those of a start have one
		})
	})
	if slices.Contains(sub.on("i/plc"), "forged") {
		t.Error("a client published where a value is")
	}
}
