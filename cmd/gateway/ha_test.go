package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
	"edgegateway/internal/homeassistant"
)

// announcement is a message with one component for each of the platforms.
func announcement(device string, platforms ...string) homeassistant.Announcement {
	a := homeassistant.Announcement{Topic: "homeassistant/device/" + device + "/config", Payload: homeassistant.Config{Components: map[string]*homeassistant.Component{}}}
	for i, p := range platforms {
		a.Payload.Components[fmt.Sprint("c", i)] = &homeassistant.Component{Platform: p, UniqueID: "x"}
	}
	return a
}

// announced runs an announcer for a moment and returns what it published, as
// "device: components", where c is one and -c one that is taken away.
func announced(t *testing.T, path string, births int, list ...homeassistant.Announcement) (sent []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := newAnnouncer(list, path, func(msg *broker.Message) {
			if msg.QoS != 1 || !msg.Retain {
				t.Errorf("%+v", msg)
			}
			var c homeassistant.Config
			text := "removed"
			if len(msg.Payload) > 0 {
				if err := json.Unmarshal(msg.Payload, &c); err != nil {
					t.Error(err)
				}
				var keys []string
				for key, x := range c.Components {
					if x.UniqueID == "" {
						key = "-" + key
					}
					keys = append(keys, key)
				}
				slices.Sort(keys)
				text = strings.Join(keys, " ")
			}
			sent = append(sent, strings.Split(msg.Topic, "/")[2]+": "+text)
		}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.run(ctx) }()
		synctest.Wait()
		for range births {
			a.handle(&broker.Message{Payload: []byte("offline")})
			a.handle(&broker.Message{Payload: []byte("online")})
			a.handle(&broker.Message{Payload: []byte("online")}) // while it is being answered
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return sent
}

func TestAnnouncer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "homeassistant.json")
	want := func(got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	want(announced(t, path, 0, announcement("a", "sensor", "switch"), announcement("b", "sensor")), "a: c0 c1", "b: c0")
	want(announced(t, path, 1, announcement("a", "sensor", "switch"), announcement("b", "sensor")), "a: c0 c1", "b: c0", "a: c0 c1", "b: c0", "a: c0 c1", "b: c0")
	// A point that is gone is taken away for as long as this run lasts, and is
	// not there any more in the next.
	want(announced(t, path, 0, announcement("a", "sensor"), announcement("b", "sensor")), "a: -c1 c0", "b: c0")
	want(announced(t, path, 0, announcement("a", "sensor"), announcement("b", "sensor")), "a: c0", "b: c0")
	// So is a device.
	want(announced(t, path, 0, announcement("b", "sensor")), "a: removed", "b: c0")
	want(announced(t, path, 0), "b: removed")
	want(announced(t, path, 0))
	// A file that cannot be read costs no start.
	if err := os.WriteFile(path, []byte(`{"version":9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	want(announced(t, path, 0, announcement("a", "sensor")), "a: c0")
	want(announced(t, path, 0), "a: removed")
}

// What waited to be taken back when the gateway was killed is taken back at
// its next start: the file is written before anything is published.
func TestAnnouncerNotesBeforeItPublishes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "homeassistant.json")
	a := newAnnouncer([]homeassistant.Announcement{announcement("a", "sensor")}, path, func(msg *broker.Message) {
		if known, err := readAnnounced(path); err != nil || known[msg.Topic]["c0"] != "sensor" {
			t.Errorf("when %s is published the file holds %v, %v", msg.Topic, known, err)
		}
	}, slog.New(slog.DiscardHandler))
	if err := a.start(); err != nil {
		t.Error(err)
	}
}

// The whole way, with mosquitto_pub and mosquitto_sub in Home Assistant's
// place: devices are announced retained, again upon its birth, commands made by
// the templates are carried out, and what is gone is taken back.
func TestHomeAssistant(t *testing.T) {
	t.Parallel()
	plcPort := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	device := func(points string) map[string]string {
		return map[string]string{"plc": fmt.Sprintf("[device.plc]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\nevery = \"200ms\"\n[device.plc.points]\n%s", plcPort, points)}
	}
	s := newSite(t, "[homeassistant]\n", device(plcPoints))
	out, code := s.command("ha", "preview", "--json")
	var list []homeassistant.Announcement
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != exitOK || len(list) != 2 {
		t.Fatalf("preview: code %d, %v\n%s", code, err, out)
	}
	if out, code := s.command("ha", "preview", "--device", "plc"); code != exitOK || !strings.HasPrefix(out, "homeassistant/device/plant_plc/config\n{\n") || strings.Contains(out, "_health") {
		t.Errorf("preview of a device: code %d\n%s", code, out)
	}
	if _, code := s.command("ha", "preview", "--device", "plx"); code != exitUsage {
		t.Errorf("preview of no device: code %d", code)
	}
	s.run()
	ha := s.subscribe("homeassistant/#")
	const topic = "homeassistant/device/plant_plc/config"
	eventually(t, "the announcement", func() bool { return len(ha.on(topic)) == 1 })
	if got, want := ha.on(topic)[0], mustJSON(t, list[1].Payload); got != want {
		t.Errorf("announced %s\npreview   %s", got, want)
	}
	values := s.subscribe("plant/#")
	c := list[1].Payload.Components
	eventually(t, "all states", func() bool {
		for key, x := range c {
			if x.StateTopic != "" && len(values.on(x.StateTopic)) == 0 {
				t.Log("still without", key)
				return false
			}
		}
		return true
	})
	if out, err := mosquittoPub(s.broker, c["setpoint"].CommandTopic, strings.ReplaceAll(c["setpoint"].CommandTemplate, "{{ value }}", "21.5")); err != nil {
		t.Fatalf("mosquitto_pub: %v %s", err, out)
	}
	eventually(t, "the new setpoint", func() bool {
		return slices.ContainsFunc(values.on(c["setpoint"].StateTopic), func(p string) bool { return strings.HasPrefix(p, `{"value":21.5,`) })
	})
	eventually(t, "the gateway's own figures", func() bool {
		return slices.ContainsFunc(values.on("plant/_health"), func(p string) bool { return strings.Contains(p, `"devices":{"offline":0,"online":1,"stale":0}`) })
	})
	mosquittoPub(s.broker, "homeassistant/status", "online")
	eventually(t, "the announcement after the birth", func() bool { return len(ha.on(topic)) == 2 })
	mosquittoPub(s.broker, topic, "forged", "-r")
	if code := s.stop(); code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	if slices.Contains(ha.on(topic), "forged") {
		t.Error("a client announced in the gateway's place")
	}
	// A point less, and then no Home Assistant.
	writeFile(t, filepath.Join(s.config, "devices.d", "plc.toml"), device(strings.Replace(plcPoints, "text    =", "# text =", 1))["plc"])
	s.run()
	ha = s.subscribe("homeassistant/#")
	eventually(t, "the announcement without a point", func() bool { return len(ha.on(topic)) > 0 })
	if got := ha.on(topic)[0]; !strings.Contains(got, `"text":{"platform":"sensor"}`) {
		t.Errorf("the point that is gone is not taken back: %s", got)
	}
	s.stop()
	toml, err := os.ReadFile(filepath.Join(s.config, "gateway.toml"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(s.config, "gateway.toml"), strings.Replace(string(toml), "[homeassistant]", "", 1))
	s.run()
	eventually(t, "the log tells of the removal", func() bool { return countLines(s.out.String(), "removed from Home Assistant") == 2 })
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Home Assistant with a broker of its own, behind a bridge: what it is told and
// its commands, which say until when they are valid, go over it, and payloads
// that ask for it bear their id there.
func TestHomeAssistantBehindABridge(t *testing.T) {
	far := newCloud(t)
	far.start()
	w := far.watch()
	plcPort := freePort(t)
	pymodbus(t, "tcp", "127.0.0.1", plcPort)
	s := newSite(t, "[homeassistant]\n[publish.point]\nid = true\n"+far.bridge(`
send    = { "{name}/#" = "{name}/#", "homeassistant/#" = "homeassistant/#" }
receive = { "{name}/+/+/set" = "{name}/+/+/set" }`), map[string]string{
		"plc": fmt.Sprintf("[device.plc]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\nevery = \"200ms\"\n[device.plc.points]\n%s", plcPort, plcPoints),
	})
	writeFile(t, filepath.Join(s.config, "site.toml"), "clock = \"trusted\"\n")
	s.run()
	const topic = "homeassistant/device/plant_plc/config"
	eventually(t, "the announcement at the far broker", func() bool { return len(w.on(topic)) > 0 })
	var config homeassistant.Config
	if err := json.Unmarshal([]byte(w.on(topic)[0]), &config); err != nil {
		t.Fatal(err)
	}
	c := config.Components["setpoint"]
	eventually(t, "the state, with its id", func() bool {
		return slices.ContainsFunc(w.on(c.StateTopic), func(p string) bool { return strings.Contains(p, `","id":"`) })
	})
	command := strings.ReplaceAll(c.CommandTemplate, "{{ value }}", "33.5")
	const expiry = "{{ as_timestamp(now()) | int + 30 }}"
	if !strings.Contains(command, expiry) {
		t.Fatalf("a command over the bridge does not say how long it is valid: %s", command)
	}
	far.publish(c.CommandTopic, strings.ReplaceAll(command, expiry, fmt.Sprint(time.Now().Unix()+30)))
	eventually(t, "the new setpoint at the far broker", func() bool {
		return slices.ContainsFunc(w.on(c.StateTopic), func(p string) bool { return strings.HasPrefix(p, `{"value":33.5,`) })
	})
}
