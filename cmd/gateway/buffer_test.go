package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// stateFiles returns what each file of the buffers holds.
func (s *site) stateFiles() map[string]string {
	s.t.Helper()
	files := make(map[string]string)
	for _, pattern := range []string{"*.ring", "spool/*/*"} {
		names, err := filepath.Glob(filepath.Join(s.state, pattern))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, name := range names {
			p, err := os.ReadFile(name)
			if err != nil {
				s.t.Fatal(err)
			}
			files[name] = fmt.Sprintf("%x", sha256.Sum256(p))
		}
	}
	return files
}

// waiting returns what `buffer ls` says of one consumer.
func (s *site) waiting(log, consumer string) (BufferConsumer, bool) {
	s.t.Helper()
	out, code := s.command("buffer", "ls", "--json")
	var list []BufferLog
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || len(list) != 3 {
		s.t.Fatalf("buffer ls: %d, %v, %s", code, err, out)
	}
	for _, l := range list {
		for _, c := range l.Consumers {
			if l.Name == log && c.Name == consumer {
				return c, true
			}
		}
	}
	return BufferConsumer{}, false
}

// exported returns the messages that `buffer export` writes.
func (s *site) exported(consumer string) (list []BufferMessage) {
	s.t.Helper()
	out, _, code := s.talk("buffer", "export", consumer)
	if code != 0 {
		s.t.Fatalf("buffer export: exit code %d", code)
	}
	for line := range strings.Lines(out) {
		var m BufferMessage
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		list = append(list, m)
	}
	return list
}

func ids(list []BufferMessage) (s []string) {
	for _, m := range list {
		s = append(s, m.ID)
	}
	return s
}

// TestBuffer looks into the buffers of a gateway whose cloud is away: while it
// runs, and after it was killed.
func TestBuffer(t *testing.T) {
	t.Parallel()
	bridge := func(name string) string {
		return fmt.Sprintf("[spool]\nsync = \"20ms\"\ncompress = \"zstd\"\n[bridge.%s]\nurl = \"tcp://127.0.0.1:%s\"\nsend = { \"meter/#\" = \"up/#\" }\n", name, freePort(t))
	}
	s := newSite(t, bridge("cloud"), nil)
	say := func(args ...string) {
		t.Helper()
		args = append([]string{"-p", s.broker, "-q", "1"}, args...)
		if out, err := exec.Command("mosquitto_pub", args...).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_pub: %v: %s", err, out)
		}
	}
	fails := func(what string, code int, args ...string) {
		t.Helper()
		out, talk, got := s.talk("buffer", args...)
		if got != code || !strings.Contains(talk, what) || out != "" {
			t.Errorf("buffer %v: exit code %d, %q, %q", args, got, out, talk)
		}
	}
	fails("there is no buffer in "+s.state, 1, "ls")
	s.run()
	for i := range 10 {
		if i == 5 { // what came until now is in blocks of its own, however slow the disk is
			s.stop()
			s.run()
		}
		say("-t", fmt.Sprint("meter/", i), "-m", fmt.Sprintf(`{"value":%d}`, i))
	}
	raw := filepath.Join(t.TempDir(), "raw")
	writeFile(t, raw, "\xff\x00\n")
	say("-t", "meter/raw", "-r", "-f", raw)
	large := filepath.Join(t.TempDir(), "large")
	writeFile(t, large, strings.Repeat("0123456789abcdef", 15000))
	say("-t", "meter/large", "-f", large)

	if c, ok := s.waiting("telemetry", "cloud"); !ok || c.Kind != "bridge" || c.Records != 12 || c.Oldest == nil {
		t.Errorf("waiting: %+v", c)
	}
	running := s.exported("cloud")
	if len(running) != 12 || running[3].Topic != "meter/3" || running[3].Payload == nil || *running[3].Payload != `{"value":3}` || running[3].QoS != 1 || running[3].Class != "telemetry" || running[3].Age == nil {
		t.Fatalf("exported: %+v", running)
	}
	if m := running[10]; string(m.Binary) != "\xff\x00\n" || m.Payload != nil {
		t.Errorf("a payload that is no text: %+v", m)
	}
	if out, code := s.command("buffer", "show", "cloud", "--limit", "2"); code != 0 || strings.Count(out, "\n") != 3 || !strings.Contains(out, `meter/0  {"value":0}`) {
		t.Errorf("show: %d\n%s", code, out)
	}
	if out, code := s.command("buffer", "verify"); code != 0 || strings.Count(out, "whole") != 3 {
		t.Errorf("verify: %d\n%s", code, out)
	}
	if out, code := s.command("buffer", "ls"); code != 0 || !strings.Contains(out, "cloud") || !strings.Contains(out, "512 MiB") {
		t.Errorf("ls: %d\n%s", code, out)
	}
	fails(`nobody is called "clod"; messages are buffered for: cloud, sessions`, 2, "show", "clod")
	fails("with --yes this is not asked for", 2, "purge", "cloud")
	fails("end a session by connecting with its client id", 2, "purge", "sessions", "--yes")

	s.kill()
	before := s.stateFiles()
	if got := s.exported("cloud"); !slices.Equal(ids(got), ids(running)) {
		t.Errorf("after kill -9: %d messages, %v", len(got), ids(got))
	}
	if c, ok := s.waiting("telemetry", "cloud"); !ok || c.Records != 12 {
		t.Errorf("waiting after kill -9: %+v", c)
	}
	if out, code := s.command("buffer", "show", "cloud", "--limit", "100"); code != 0 || !strings.Contains(out, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ab…") {
		t.Errorf("show: %d\n%s", code, out)
	}
	if out, code := s.command("buffer", "verify"); code != 0 || strings.Count(out, "whole") != 3 {
		t.Errorf("verify: %d\n%s", code, out)
	}
	if after := s.stateFiles(); fmt.Sprint(before) != fmt.Sprint(after) || len(after) < 8 {
		t.Errorf("looking changed files: %v, were %v", after, before)
	}
	damageBlock(t, s)
	out, code := s.command("buffer", "verify")
	if code != 1 || !strings.Contains(out, "no valid block") || !strings.Contains(out, ".seg at ") {
		t.Errorf("verify of damage: %d\n%s", code, out)
	}
	var lost int
	if got := s.exported("cloud"); len(got) >= 12 || len(got) == 0 {
		t.Errorf("%d messages after damage", len(got))
	} else {
		lost = 12 - len(got)
	}
	t.Logf("%d messages lost with one page", lost)

	// Purged while stopped, and running.
	if _, talk, code := s.talk("buffer", "purge", "cloud", "--yes"); code != 0 || !strings.Contains(talk, "12 messages were given up\n") {
		t.Errorf("purge: %d %s", code, talk)
	}
	if c, ok := s.waiting("telemetry", "cloud"); !ok || c.Records != 0 {
		t.Errorf("waiting after purge: %+v", c)
	}
	s.run()
	say("-t", "meter/new", "-m", "1")
	if got := s.exported("cloud"); len(got) != 1 || got[0].Topic != "meter/new" {
		t.Errorf("after purge: %+v", got)
	}
	if _, talk, code := s.talk("buffer", "purge", "cloud", "--yes"); code != 0 || !strings.Contains(talk, "1 messages were given up\n") {
		t.Errorf("purge: %d %s", code, talk)
	}
	say("-t", "meter/last", "-m", "1")
	s.stop()

	// A bridge that is in the configuration no more.
	writeFile(t, filepath.Join(s.config, "gateway.toml"), fmt.Sprintf("name = \"plant\"\n[broker]\nlisten = [\"tcp://127.0.0.1:%s\"]\n", s.broker))
	if c, ok := s.waiting("telemetry", "cloud"); !ok || c.Kind != "removed bridge" || c.Records != 1 {
		t.Errorf("removed: %+v", c)
	}
	s.run()
	if _, talk, code := s.talk("buffer", "purge", "cloud", "--yes"); code != 0 || !strings.Contains(talk, "1 messages were given up; it is forgotten") {
		t.Errorf("purge: %d %s", code, talk)
	}
	if c, ok := s.waiting("telemetry", "cloud"); ok {
		t.Errorf("it is still there: %+v", c)
	}
	s.stop()
}

// damageBlock flips a bit in the first block of the telemetry log that has
// records; which page that is depends on when its disk let it commit.
func damageBlock(t *testing.T, s *site) {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(s.state, "spool/telemetry/0*.seg"))
	if len(names) == 0 {
		t.Fatal("no segment")
	}
	p, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for at := 4096; at < len(p); at += 4096 {
		if bytes.HasPrefix(p[at:], []byte("GWB")) && p[at+76] > 0 {
			p[at+100] ^= 1
			if err := os.WriteFile(names[0], p, 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no block has records")
}
