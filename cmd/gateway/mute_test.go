package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
	"edgegateway/mapping"
)

func (d *desk) mute(req muteRequest) MuteStatus {
	d.t.Helper()
	s, err := d.c.mute(req, "root")
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

// Commands over MQTT to a muted device are refused with a reason that says who,
// why and until when; whoever is at the gateway reads and writes; on_loss waits;
// and after it what is held is written again.
func TestMuteRefusesCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.start()
		defer d.stop()
		d.believed(devices.Online, d.now())
		if r := d.hold("55", 10*time.Hour); r.State != "verified" {
			t.Fatalf("hold: %+v", r)
		}
		s := d.mute(muteRequest{Device: "boiler", For: 2 * time.Hour, Note: "fan, Anna"})
		until := d.clock().Wall(int64(d.now()) + int64(2*time.Hour)).Format(time.RFC3339)
		if s.Device != "boiler" || s.Left != 7200 || s.Until.Format(time.RFC3339) != until {
			t.Errorf("muted: %+v", s)
		}
		reason := `"reason":"muted by root until ` + until + " (fan, Anna); `gateway mute boiler --end` ends that\""
		d.send("gain/set", "2")
		d.want("boiler/gain/set/result", "{"+reason+`,"status":"rejected"}`)
		d.send("_get", "")
		d.want("boiler/_get/result", "{"+reason+`,"status":"rejected"}`)
		if r, err := d.c.write(t.Context(), writeRequest{Target: "boiler.gain", Value: "3"}, "uid 1000"); err != nil || r.State != "verified" {
			t.Errorf("a write at the gateway: %+v, %v", r, err)
		}
		if why := d.c.mutes.why("boiler"); why == nil || devices.Cause(why) != "muted for maintenance" || d.c.mutes.why("other") != nil {
			t.Errorf("why %v", why)
		}
		b := d.batch(devices.Online, d.now())
		if d.c.screen(b); b.State != devices.Maintenance || len(b.Readings) > 0 {
			t.Errorf("what a person reads is published: %+v", b)
		}
		time.Sleep(2 * time.Hour) // on_loss is due after 30 s
		d.wrote("setpoint=0226", "gain=40400000")
		synctest.Wait()
		if list := d.c.mutes.status(); len(list) > 0 || d.c.mutes.why("boiler") != nil {
			t.Errorf("after its time: %+v", list)
		}
		b = d.batch(devices.Online, d.now())
		if d.c.screen(b); b.State != devices.Online || len(b.Readings) != 1 {
			t.Errorf("after its time nothing is published: %+v", b)
		}
		d.wrote("setpoint=0226", "gain=40400000", "setpoint=0226")
		time.Sleep(29 * time.Second)
		d.wrote("setpoint=0226", "gain=40400000", "setpoint=0226")
		time.Sleep(2 * time.Second)
		d.wrote("setpoint=0226", "gain=40400000", "setpoint=0226", "limit=0006")
	})
}

func TestMuteOutlivesRestartsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		d.start()
		told := 0
		d.c.mutes.tell = func() { told++ }
		d.mute(muteRequest{Device: "boiler", For: time.Hour})
		if told != 1 {
			t.Errorf("pollers told %d times", told)
		}
		time.Sleep(10 * time.Minute)
		d.stop()
		d.crash()
		if list := d.c.mutes.status(); len(list) != 1 || list[0].Left != 3000 || list[0].Note != "" {
			t.Fatalf("after a restart: %+v", list)
		}
		if s := d.mute(muteRequest{Device: "boiler", End: true}); s.Device != "boiler" {
			t.Errorf("%+v", s)
		}
		if _, err := d.c.mute(muteRequest{Device: "boiler", End: true}, "root"); err == nil || err.Error() != "boiler is not muted" {
			t.Error(err)
		}
		d.crash()
		if list := d.c.mutes.status(); len(list) != 0 {
			t.Errorf("ended, and after a restart %+v", list)
		}
		for req, want := range map[muteRequest]string{
			{Device: "boiler", For: time.Millisecond}:                                    "1s to 90 days",
			{Device: "boiler", For: 91 * 24 * time.Hour}:                                 "1s to 90 days",
			{Device: "boiler.gain", For: time.Hour}:                                      "only a whole device",
			{Device: "x", For: time.Hour}:                                                "there is no device",
			{Device: "x", End: true}:                                                     "there is no device",
			{Device: "boiler", For: time.Hour, Note: "a\nb"}:                             "one line",
			{Device: "boiler", For: time.Hour, Note: strings.Repeat("n", longestNote+1)}: "at most 200",
		} {
			if _, err := d.c.mute(req, "root"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", req, err, want)
			}
		}
		// What cannot be saved is not in force.
		if err := os.RemoveAll(d.state); err != nil {
			t.Fatal(err)
		}
		if _, err := d.c.mute(muteRequest{Device: "boiler", For: time.Hour}, "root"); err == nil || d.c.mutes.why("boiler") != nil {
			t.Errorf("not saved, and %v", err)
		}
	})
}

// The status of a device says who muted it, and no more once it is back.
func TestStatusSaysWhoMutedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, "")
		m := d.c.plant().mapper
		status := func(state devices.State, r mapping.Remark) (payload string) {
			b := d.batch(state, d.now())
			defer b.Release()
			m.Remark(b.Device, r)
			for _, msg := range m.AppendMessages(nil, b, d.clock()) {
				if strings.HasSuffix(msg.Topic, "/_status") {
					payload = string(msg.Payload)
				}
			}
			return payload
		}
		r := mapping.Remark{By: "root", Note: `fan "2"`, Until: "2026-11-20T23:06:00Z"}
		if got := status(devices.Maintenance, r); got != `{"status":"maintenance","by":"root","note":"fan \"2\"","until":"2026-11-20T23:06:00Z"}` {
			t.Errorf("%s", got)
		}
		if got := status(devices.Maintenance, r); got != "" {
			t.Errorf("told again: %s", got)
		}
		r.Note, r.Until = "", "2026-11-20T23:59:00Z"
		if got := status(devices.Maintenance, r); got != `{"status":"maintenance","by":"root","until":"2026-11-20T23:59:00Z"}` {
			t.Errorf("%s", got)
		}
		if got := status(devices.Online, mapping.Remark{}); !strings.HasPrefix(got, `{"status":"online","time":"`) {
			t.Errorf("%s", got)
		}
	})
}

// The real thing: who subscribes is told, a reload of the bus and a kill -9 do not
// end a mute, its time does.
func TestMuteOfARunningGateway(t *testing.T) {
	t.Parallel()
	s := lentSite(t)
	retained := func() string {
		t.Helper()
		out, err := exec.Command("mosquitto_sub", "-p", s.broker, "-t", "plant/tank/_status", "-C", "1", "-W", "20").Output()
		if err != nil {
			t.Fatalf("mosquitto_sub: %v", err)
		}
		return string(out)
	}
	out, code := s.command("mute", "tank", "--for", "1h", "--note", "pump is out")
	if code != exitOK || !strings.HasPrefix(out, "tank is muted until ") {
		t.Fatalf("code %d: %s", code, out)
	}
	muted := func(when string) {
		t.Helper()
		eventually(t, when, func() bool {
			status := s.status()
			return s.deviceIs("tank", devices.Maintenance) && status.Buses[0].Requests <= 2 && len(status.Mutes) == 1 && strings.Contains(status.Devices[0].Muted, "(pump is out)")
		})
		if got := retained(); !strings.HasPrefix(got, `{"status":"maintenance","by":"`+peerName(uint32(os.Getuid()))+`","note":"pump is out","until":"`) {
			t.Errorf("%s: retained is %s", when, got)
		}
	}
	eventually(t, "it is muted", func() bool { return s.deviceIs("tank", devices.Maintenance) })
	if out, _, _ := s.talk("status"); !strings.Contains(out, "(pump is out); `gateway mute tank --end` ends that") || !strings.Contains(out, "MUTED") {
		t.Errorf("status:\n%s", out)
	}
	if out, talk, code := s.talk("read", "tank.level"); code != exitOK || !strings.Contains(out, "holding 10") {
		t.Errorf("a read: %d %s%s", code, out, talk)
	}
	if got := retained(); !strings.Contains(got, "maintenance") {
		t.Errorf("after a read: %s", got)
	}
	writeFile(t, filepath.Join(s.config, "devices.d", "b.toml"), "[device.other]\nbus = \"rs485\"\nunit_id = 99\nevery = \"1h\"\npoints.x = { holding = 1 }\n")
	s.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the reload", func() bool { return len(s.status().Devices) == 2 })
	muted("after a reload")
	s.process.kill()
	s.run()
	muted("after a kill")
	if out, code := s.command("mute", "tank", "--for", "1s"); code != exitOK {
		t.Error(out)
	}
	eventually(t, "its time is over", func() bool { return s.deviceIs("tank", devices.Online) })
	eventually(t, "who subscribes is told", func() bool { return strings.HasPrefix(retained(), `{"status":"online","time":`) })
	if out := s.out.String(); !strings.Contains(out, "device=tank") || regexp.MustCompile(`level=WARN.*device=tank`).MatchString(out) {
		t.Errorf("warned of a device that is muted:\n%s", out)
	}
}
