package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const partsArchive = `-- gateway.toml --
name = "a"
[bus.one]
address = "tcp://10.0.0.1"
[bus.two]
address = "tcp://10.0.0.2"
[homeassistant]
[broker]
max_queue = 100
[broker.user.hall]
read = ["a/#"]
[publish.all]
per = "point"
[spool]
size = "64MiB"
[bridge.far]
url = "tcp://127.0.0.1"
username = "a"
password = "${file:pass}"
send = { "{name}/#" = "x/#" }
[bridge.near]
url = "tcp://127.0.0.1"
password = "plain"
send = { "{name}/#" = "y/#" }
-- pass --
secret
-- devices.d/a.toml --
[device.d]
bus = "one"
unit_id = 1
points.x = { input = 1 }
[device.e]
bus = "two"
profile = "own/meter"
unit_id = 2
[device."g h"]
bus = "tcp://10.0.0.3"
unit_id = 3
points.x = { input = 1 }
-- profiles/own/meter.toml --
points.x = { input = 1 }
`

// TestPartsTellWhatChanged: a change shows in its part and in no other.
func TestPartsTellWhatChanged(t *testing.T) {
	var settings []Setting
	load := func(old, by string) *Config {
		t.Helper()
		settings = nil
		dir, _ := unpack(t, partsArchive)
		if err := os.Chmod(filepath.Join(dir, "pass"), 0o600); err != nil {
			t.Fatal(err)
		}
		found := false
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				text, _ := os.ReadFile(path)
				if strings.Contains(string(text), old) && old != "" && !found {
					found = true
					write(t, path, strings.Replace(string(text), old, by, 1))
				}
			}
			return nil
		})
		if !found && old != "" {
			t.Fatalf("no file holds %q", old)
		}
		cfg, report := Load(dir, Options{Profiles: testOptions(nil).Profiles, Settings: &settings})
		if cfg == nil {
			t.Fatalf("%q to %q: %v", old, by, report.Err())
		}
		return cfg
	}
	before := load("", "")
	all := settings
	for _, c := range []struct{ old, by, want string }{
		{`[bus.one]`, "# a remark\n[bus.one]", ""},
		{`"tcp://10.0.0.1"`, `"tcp://10.0.0.9"`, "bus one"},
		{`unit_id = 1`, `unit_id = 0x1`, ""},
		{`unit_id = 1`, `unit_id = 7`, "bus one"},
		{`unit_id = 3`, `unit_id = 4`, "bus tcp://10.0.0.3:502"},
		{"name = \"a\"", "name = \"b\"", "general"},
		{"max_queue = 100", "max_queue = 101", "broker"},
		{`read = ["a/#"]`, `read = ["a/+"]`, "users"},
		{`per = "point"`, `per = "device"`, "publish"},
		{`"64MiB"`, `"65MiB"`, "spool"},
		{"[homeassistant]", "[homeassistant]\nprefix = \"ha\"", "homeassistant"},
		{"secret", "another", "bridge far"},
		{"plain", "plainer", "bridge near"},
		{`"y/#"`, `"z/#"`, "bridge near"},
	} {
		after := load(c.old, c.by)
		var got []string
		for _, part := range slices.Sorted(maps.Keys(before.Parts())) {
			if before.Parts()[part] != after.Parts()[part] {
				got = append(got, part)
			}
		}
		if s := strings.Join(got, ", "); s != c.want || len(before.Parts()) != len(after.Parts()) {
			t.Errorf("%q to %q: changed %q, want %q", c.old, c.by, s, c.want)
		}
	}
	var said []string
	for _, s := range all {
		said = append(said, s.Part+": "+s.String())
	}
	text := strings.Join(said, "\n")
	for _, want := range []string{
		"bus one: device.d.points.x.input = 1", `bus two: device.e.points.x.input = 1`, `bus tcp://10.0.0.3:502: device."g h".unit_id = 3`,
		`bridge near: bridge.near.password = ` + hidden, `bridge far: bridge.far.send."{name}/#" = "x/#"`, `users: broker.user.hall.read[0] = "a/#"`, "homeassistant: homeassistant = {}",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not among\n%s", want, text)
		}
	}
	if strings.Contains(text, "secret") || strings.Contains(text, "plain") {
		t.Errorf("a password is shown:\n%s", text)
	}
}
