package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"edgegateway/bridge"
)

const oneBoiler = "\n[device.boiler]\nbus = \"tcp://127.0.0.1:1\"\nunit_id = 1\npoints.pump = { coil = 0, write = true }\n"

// TestBridgeTestExplains tries a bridge out as a user does, while a gateway
// runs with it, and with all that is commonly wrong.
func TestBridgeTestExplains(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	writeFile(t, filepath.Join(c.dir, "acl"), "user gateway\ntopic readwrite sites/#\ntopic read cmd/#\n")
	conf, _ := os.ReadFile(filepath.Join(c.dir, "mosquitto.conf"))
	writeFile(t, filepath.Join(c.dir, "mosquitto.conf"), string(conf)+"acl_file "+filepath.Join(c.dir, "acl")+"\n")
	c.start()
	table := c.bridge("send = { \"{name}/#\" = \"sites/{name}/#\", \"panel/#\" = \"secret/#\" }\nreceive = { \"cmd/{name}/+/_set\" = \"{name}/+/_set\" }\n")
	s := newSite(t, table, map[string]string{"boiler": oneBoiler})
	s.run()
	eventually(t, "the bridge is up", func() bool { return strings.Contains(s.out.String(), "uplink connected") })

	other := newCloud(t) // with an authority of its own
	closed := freePort(t)
	for _, test := range []struct {
		name, from, to string
		args           []string
		code           int
		want           []string
	}{
		{"all well", "", "", []string{"--publish", "sites/plant/test"}, 0, []string{"ok    DNS", "ok    TCP", "TLS 1.3, certificate for localhost", "our certificate is valid until", `MQTT 5 as "plant-test"; 20 messages in flight`, "ok    SUBSCRIBE cmd/plant/+/_set", "PUBACK after"}},
		{"over 3.1.1", "client_id", "version = \"3.1.1\"\nclient_id", []string{"--publish", "sites/plant/test"}, 0, []string{`MQTT 3.1.1 as "plant-test"`, "PUBACK after"}},
		{"not permitted", "", "", []string{"--publish", "secret/x"}, 1, []string{"FAIL  PUBLISH secret/x", "not authorised"}},
		{"wrong CA", c.dir + "/credentials/ca.crt", other.dir + "/credentials/ca.crt", nil, 1, []string{"FAIL  TLS", "signed by an authority not trusted here", "name its certificate in ca", "the server shows a certificate for localhost"}},
		{"wrong name", "client_id", "server_name = \"other.example\"\nclient_id", nil, 1, []string{"FAIL  TLS", `not for "other.example" but for localhost`}},
		{"wrong password", "password  =", "password = \"wrong\"\n#", nil, 1, []string{"FAIL  CONNECT", "check user, password", "--same-id"}},
		{"closed port", ":" + c.port, ":" + closed, nil, 1, []string{"ok    DNS", "FAIL  TCP", "refused the connection"}},
		{"unknown name", "tls://localhost:", "tls://nobody.invalid:", nil, 1, []string{"FAIL  DNS", `DNS`, "nobody.invalid"}},
		{"no TLS there", "tls://localhost:" + c.port, "tls://localhost:" + s.broker, nil, 1, []string{"FAIL  TLS", "it speaks no TLS at this port"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tried := newSite(t, strings.Replace(table, test.from, test.to, 1), map[string]string{"boiler": oneBoiler})
			out, talk, code := tried.talk("bridge", append([]string{"test", "cloud"}, test.args...)...)
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s%s", want, out, talk)
				}
			}
			if code != test.code || strings.Contains(out, "secret-of") {
				t.Errorf("exit code %d\n%s%s", code, out, talk)
			}
		})
	}
	if out := s.out.String(); strings.Contains(out, "no uplink") {
		t.Errorf("the tests disturbed the bridge:\n%s", out)
	}

	out, code := s.command("bridge", "test", "cloud", "--same-id", "--json")
	var steps []string
	for line := range strings.Lines(out) {
		var step bridge.Step
		if err := json.Unmarshal([]byte(line), &step); err != nil || !step.OK {
			t.Errorf("%s: %v", line, err)
		}
		steps = append(steps, step.Name)
	}
	if got := strings.Join(steps, ", "); code != 0 || got != "DNS, TCP, TLS, CONNECT, SUBSCRIBE cmd/plant/+/_set" {
		t.Errorf("exit code %d, steps %s", code, got)
	}
	eventually(t, "the bridge is back", func() bool { return strings.Contains(s.out.String(), "uplink restored") })
	if _, talk, code := s.talk("bridge", "test", "clod"); code != exitUsage || !strings.Contains(talk, "there are: cloud") {
		t.Errorf("exit code %d, %s", code, talk)
	}

	// What the cloud refuses is kept and shown.
	if out, code := s.command("bridge", "dead", "cloud"); code != 0 || out != "nothing was refused\n" {
		t.Errorf("exit code %d, %s", code, out)
	}
	if out, err := mosquittoPub(s.broker, "panel/x", "hello", "-q", "1"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually(t, "it is refused", func() bool {
		out, code := s.command("bridge", "dead", "cloud")
		return code == 0 && strings.Contains(out, "secret/x") && strings.Contains(out, "not authorised")
	})
	out, _ = s.command("bridge", "dead", "cloud", "--export")
	var dead bridge.Dead
	if err := json.Unmarshal([]byte(out), &dead); err != nil || dead.Text != "hello" || dead.Topic != "panel/x" || dead.ID == "" {
		t.Errorf("%s: %v", out, err)
	}
	eventually(t, "the status tells of it", func() bool { // mosquitto ends the connection, too
		out, _ := s.command("status")
		return strings.Contains(out, "1 messages refused and given up; see `gateway bridge dead cloud`")
	})
	if out, code := s.command("bridge", "dead", "cloud", "--purge"); code != 0 || out != "" {
		t.Errorf("exit code %d, %s", code, out)
	}
	if out, _ := s.command("bridge", "dead", "cloud"); out != "nothing was refused\n" {
		t.Errorf("after a purge: %s", out)
	}
}

// TestOldAndWrappedUplinks bridges to mosquitto by MQTT 3.1.1 and to another
// gateway's broker over wss, through an outage, and shows what is refused.
func TestOldAndWrappedUplinks(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	writeFile(t, filepath.Join(c.dir, "acl"), "user gateway\ntopic readwrite sites/#\nuser watcher\ntopic readwrite #\n")
	conf, _ := os.ReadFile(filepath.Join(c.dir, "mosquitto.conf"))
	writeFile(t, filepath.Join(c.dir, "mosquitto.conf"), string(conf)+"acl_file "+filepath.Join(c.dir, "acl")+"\n")
	c.start()
	w := c.watch()
	web := freePort(t)
	far := farSite(t, web, c.dir)
	far.run()
	s := newSite(t, c.bridge("version = \"3.1.1\"\nsend = { \"up/#\" = \"sites/#\", \"up/no/#\" = \"secret/#\" }\n")+fmt.Sprintf(`
[bridge.web]
url = "wss://localhost:%s/mqtt"
ca = "${file:%s/credentials/ca.crt}"
send = { "up/#" = "from-plant/#" }
`, web, c.dir), map[string]string{"boiler": oneBoiler})
	s.run()
	eventually(t, "both are up", func() bool { return strings.Count(s.out.String(), "uplink connected") == 2 })
	send := func(topic, payload string) {
		t.Helper()
		if out, err := mosquittoPub(s.broker, topic, payload, "-q", "1"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	var want []string
	for i := range 5 {
		send("up/a", fmt.Sprint(i))
		want = append(want, fmt.Sprint(i))
	}
	c.kill()
	far.kill()
	eventually(t, "both have noticed", func() bool { return strings.Count(s.out.String(), "no uplink, trying") >= 2 })
	for i := range 5 {
		send("up/a", fmt.Sprint(5+i))
		want = append(want, fmt.Sprint(5+i))
	}
	c.start()
	far.run()
	eventually(t, "all have arrived by 3.1.1", func() bool { return inOrder(w.on("sites/a"), want) })
	eventually(t, "all are acknowledged", func() bool {
		st := statusOf(t, s)
		return st.Bridges[0].State == bridge.Up && st.Bridges[1].State == bridge.Up &&
			st.Bridges[0].Backlog["telemetry"].Records == 0 && st.Bridges[1].Backlog["telemetry"].Records == 0
	})
}

// farSite is a gateway whose broker serves wss for others.
func farSite(t *testing.T, web, dir string) *site {
	s := newSite(t, "", map[string]string{"boiler": oneBoiler})
	text := fmt.Sprintf("name = \"far\"\n[broker]\nlisten = [\"tcp://127.0.0.1:%s\", \"wss://127.0.0.1:%s\"]\ncert = \"${file:%s/credentials/cloud.crt}\"\nkey = \"${file:%[3]s/credentials/cloud.key}\"\n", s.broker, web, dir)
	writeFile(t, filepath.Join(s.config, "gateway.toml"), text)
	return s
}

// inOrder reports whether got is want, but for repetitions.
func inOrder(got, want []string) bool {
	n := 0
	for _, p := range got {
		if n < len(want) && p == want[n] {
			n++
		}
	}
	return n == len(want)
}

func statusOf(t *testing.T, s *site) (st Status) {
	t.Helper()
	out, _ := s.command("status", "--json")
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return st
}
