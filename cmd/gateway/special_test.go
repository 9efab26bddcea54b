package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What is written with a chosen function, to one bit, and to everybody, from a
// command over MQTT to the registers that a foreign client finds; and a queue.
func TestSpecialPointsFromCommandToRegister(t *testing.T) {
	t.Parallel()
	plc, hall := freePort(t), freePort(t)
	tty := filepath.Join(t.TempDir(), "tty")
	s := newSite(t, fmt.Sprintf(`
[bus.rs485]
address = %q
baud = 115200
[bus.plc]
address = "tcp://127.0.0.1:%s"
[bus.hall]
address = "tcp://127.0.0.1:%s"
behind = { baud = 9600 }
`, tty, plc, hall), map[string]string{"all": `
[device.a]
bus = "rs485"
unit_id = 1
[device.a.points]
word = { holding = 10, write = { function = 16 } }
big  = { holding = 20, type = "u32", write = { function = 23 } }
b0   = { holding = 30, bit = 0, write = true }
b3   = { holding = 30, bit = 3, write = true }
b15  = { holding = 30, bit = 15, write = { function = 6 } }
hold = { holding = 40, write = true }
lamp = { coil = 2, write = { function = 15 } }
ev   = { fifo = 200 }
[device.everybody]
bus = "rs485"
unit_id = 0
points.hold = { holding = 40, write = { max = 500 } }
points.b3   = { holding = 30, bit = 3, write = true }
[device.p]
bus = "plc"
unit_id = 1
points.b1 = { holding = 41, bit = 1, write = true }
points.b2 = { holding = 41, bit = 2, write = true }
[device.h]
bus = "hall"
unit_id = 7
points.hold = { holding = 40, write = true }
[device.everyone]
bus = "hall"
unit_id = 0
points.hold = { holding = 40, write = true }
`})
	sim := start(t, binary, s.args("simulate")...)
	eventually(t, "the plant is there", func() bool { return strings.Contains(sim.out.String(), "All buses are where") })
	s.run()
	sub := start(t, "mosquitto_sub", "-p", s.broker, "-v", "-q", "1", "-t", "plant/+/+/set/result", "-t", "plant/+/_status", "-t", "plant/a/ev")
	for _, device := range []string{"a", "everybody", "everyone", "h", "p"} {
		eventually(t, device+" is online", func() bool { return strings.Contains(sub.out.String(), "plant/"+device+`/_status {"status":"online"`) })
	}
	eventually(t, "the queue is published", func() bool {
		return regexp.MustCompile(`plant/a/ev {"value":\[\d+(,\d+){7}\],`).MatchString(sub.out.String())
	})
	old := regexp.MustCompile(`"old":[^,}]+,`)
	answers := func() string { return old.ReplaceAllString(sub.out.String(), "") } // without what was there before
	for _, c := range []struct{ point, value, want string }{
		{"a/word", "77", `"status":"verified","value":77`}, {"a/big", "123456", `"status":"verified","value":123456`},
		{"a/b0", "false", `"status":"verified","value":false`}, {"a/b3", "false", `"status":"verified","value":false`}, {"a/b15", "on", `"status":"verified","value":true`},
		{"a/lamp", "true", `"status":"verified","value":true`}, {"a/ev", "1", `"status":"rejected"`},
		{"everybody/hold", "222", `"status":"written","reason":"sent to all`}, {"everybody/hold", "501", `"status":"rejected"`}, {"everybody/b3", "true", `"status":"written"`},
		{"p/b1", "true", `"status":"verified"`}, {"p/b2", "true", `"status":"verified"`}, {"p/b1", "false", `"status":"verified","value":false`},
		{"everyone/hold", "99", `"status":"written"`},
	} {
		topic := "plant/" + c.point + "/set"
		before := strings.Count(answers(), topic+"/result {"+c.want)
		if out, err := exec.Command("mosquitto_pub", "-p", s.broker, "-q", "1", "-t", topic, "-m", c.value).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_pub: %v: %s", err, out)
		}
		eventually(t, topic+" "+c.value+" is answered with "+c.want, func() bool {
			return strings.Count(answers(), topic+"/result {"+c.want) > before
		})
	}
	if out, _ := s.command("status"); !strings.Contains(out, "written only") || strings.Contains(out, "offline") {
		t.Errorf("status:\n%s", out)
	}
	if out, code := s.command("read", "rs485/1", "fifo:200", "i16"); code != exitOK || !strings.Contains(out, "queue at holding 200") {
		t.Errorf("read a queue: code %d\n%s", code, out)
	}
	if _, talk, code := s.talk("read", "everybody.hold"); code != exitFailed || !strings.Contains(talk, "broadcast") {
		t.Errorf("read everybody: code %d, %s", code, talk)
	}
	s.stop() // so that another may have the port

	for _, m := range []struct {
		args string
		want []string
	}{
		{"-m rtu -b 115200 -P none -a 1 -r 10 -c 1 " + tty, []string{"[10]: \t0x004D"}}, {"-m rtu -b 115200 -P none -a 1 -r 20 -c 2 " + tty, []string{"[20]: \t0x0001", "[21]: \t0xE240"}},
		{"-m rtu -b 115200 -P none -a 1 -r 30 -c 1 " + tty, []string{"[30]: \t0x8008"}}, {"-m rtu -b 115200 -P none -a 1 -r 40 -c 1 " + tty, []string{"[40]: \t0x00DE"}},
		{"-a 1 -r 41 -c 1 -p " + plc + " 127.0.0.1", []string{"[41]: \t0x0004"}}, {"-a 7 -r 40 -c 1 -p " + hall + " 127.0.0.1", []string{"[40]: \t0x0063"}},
	} {
		out, err := exec.Command("mbpoll", append([]string{"-1", "-0", "-t", "4:hex"}, strings.Fields(m.args)...)...).CombinedOutput()
		for _, want := range m.want {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("mbpoll %s: %v, no %q in\n%s", m.args, err, want, out)
			}
		}
	}
}
