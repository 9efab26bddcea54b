package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// Another program on a port is named by `status`, by `read`, and in the log
// where it keeps the gateway out.
func TestAnotherProgramOnThePortIsNamed(t *testing.T) {
	tty := filepath.Join(t.TempDir(), "tty")
	s := newSite(t, fmt.Sprintf("[bus.rs485]\naddress = %q\nbaud = 115200\n", tty), map[string]string{
		"a": "[device.a]\nbus = \"rs485\"\nunit_id = 1\nevery = \"1s\"\npoints.x = { holding = 1 }\n",
	})
	sim := start(t, binary, s.args("simulate")...)
	eventually(t, "the plant is there", func() bool { return strings.Contains(sim.out.String(), "All buses are where") })
	if out, talk, _ := s.talk("read", "a.x"); talk != "" {
		t.Errorf("on a port that nobody else has, read says %s%s", out, talk)
	}

	other := start(t, "sh", "-c", `exec sleep 600 <>"$0"`, tty)
	name := fmt.Sprintf("sleep (process %d, user ", other.cmd.Process.Pid)
	eventually(t, "read names who has the port open, too", func() bool {
		_, talk, code := s.talk("read", "a.x")
		return code == exitOK && strings.Contains(talk, name)
	})
	s.run()
	eventually(t, "status names who has the port open, too", func() bool {
		out, _ := s.command("status")
		return strings.Contains(out, name) && strings.Contains(out, "`gateway read`")
	})
	if _, talk, code := s.talk("read", "a.x"); code != exitOK || talk != "" {
		t.Errorf("through the gateway: code %d, %s", code, talk)
	}
	other.kill()
	nowhere := *s // a command that does not find the running gateway
	nowhere.state = t.TempDir()
	if _, talk, code := nowhere.talk("read", "a.x"); code != exitFailed || !strings.Contains(talk, "held by gateway (process ") || !strings.Contains(talk, "--state") {
		t.Errorf("on the port of a running gateway: code %d, %s", code, talk)
	}
	s.stop()

	other = start(t, "flock", "--no-fork", tty, "sleep", "600")
	name = fmt.Sprintf("held by sleep (process %d, user ", other.cmd.Process.Pid)
	eventually(t, "read names who has locked the port", func() bool {
		_, talk, _ := s.talk("read", "a.x")
		return strings.Contains(talk, name)
	})
	s.run()
	eventually(t, "the log names who has locked the port", func() bool { return strings.Contains(s.out.String(), name) })
	out, _ := s.command("status")
	if strings.Count(out, name) != 1 {
		t.Errorf("status:\n%s", out)
	}
}
