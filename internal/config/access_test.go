package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"edgegateway/broker"
	"edgegateway/broker/access"
)

// loadSecured loads a gateway with the given [broker] keys and a user panel.
func loadSecured(t *testing.T, keys string) (dir string, cfg *Config, report *Report) {
	t.Helper()
	dir = t.TempDir()
	passwords, err := access.SetPassword(nil, "panel", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "passwd"), string(passwords))
	write(t, filepath.Join(dir, "acl"), "user panel\ntopic write a\ntopic read plant-a/%u\n")
	write(t, filepath.Join(dir, "gateway.toml"), "name = \"plant-a\"\n[broker]\n"+keys)
	cfg, report = Load(dir, testOptions(nil))
	return dir, cfg, report
}

func TestAccess(t *testing.T) {
	_, cfg, report := loadSecured(t, `
passwords = "passwd"
acl_file = "acl"
certificate_user = "subject"
[broker.user.panel]
read = "{name}/#"
deny = ["of/{user}/{client_id}/%c"]
client_ids = ["panel-*", "{user}"]
[broker.user."*"]
read = []
[broker.user."CN=wall,O=Site"]
`)
	if cfg == nil {
		t.Fatal(report.Err())
	}
	p := cfg.Access
	if p.Anonymous || !p.Subject || !p.Passwords.Has("panel") || !reflect.DeepEqual(p.ClientIDs, map[string][]string{"panel": {"panel-*", "%u"}}) {
		t.Errorf("%+v", p)
	}
	want := access.Rules{"panel": {
		{Filter: "a", Grant: access.Write}, {Filter: "plant-a/%u", Grant: access.Read},
		{Filter: "of/%u/%c/%c", Grant: access.Deny, Pattern: true}, {Filter: "plant-a/#", Grant: access.Read, Pattern: true},
	}}
	if !reflect.DeepEqual(p.Rules, want) {
		t.Errorf("%+v", p.Rules)
	}
}

func TestWhoMayComeInByDefault(t *testing.T) {
	tests := []struct {
		keys             string
		anonymous, rules bool
	}{
		{"", true, false}, {`passwords = "passwd"`, false, false}, {"passwords = \"passwd\"\nanonymous = true", true, false},
		{"anonymous = false", false, false}, {`acl_file = "acl"`, true, true}, {`user."*".read = []`, true, true}, {`user."*".client_ids = ["a"]`, true, false},
	}
	for _, test := range tests {
		_, cfg, report := loadSecured(t, test.keys)
		if cfg == nil {
			t.Fatal(report.Err())
		}
		if p := cfg.Access; p.Anonymous != test.anonymous || (p.Rules != nil) != test.rules {
			t.Errorf("%q: anonymous %v, rules %v", test.keys, p.Anonymous, p.Rules)
		}
	}
	for at, want := range map[broker.Listen]bool{
		{Network: "tcp", Address: "127.0.0.1:1883"}: false, {Network: "tcp", Address: "[::1]:1"}: false, {Network: "tcp", Address: "localhost:1"}: false,
		{Network: "unix", Address: "/run/a:b"}: false, {Network: "tcp", Address: ":1883"}: true, {Network: "tcp", Address: "[::]:1883"}: true, {Network: "tcp", Address: "plant:1"}: true,
	} {
		if reachable(at) != want {
			t.Errorf("%+v: %v", at, !want)
		}
	}
}

// Where other machines can reach the broker, nobody comes in without a name
// unless that is written, and then only with rights.
func TestReachableBrokersAreNotOpen(t *testing.T) {
	for keys, want := range map[string]string{
		"": "false", "anonymous = true": "true error", "anonymous = true\nuser.anonymous.read = \"a\"": "true", "anonymous = false": "false",
	} {
		l := newLoader(testOptions(nil))
		l.cfg.Listen = []broker.Listen{{Network: "tcp", Address: "127.0.0.1:1883"}, {Network: "tcp", Address: "0.0.0.0:1883"}}
		root, ok := parse(&source{name: "gateway.toml", data: "[broker]\n" + keys}, l.Report)
		var raw rawGateway
		if !ok || !l.table(root, &raw, "gateway.toml") {
			t.Fatal(l.Err())
		}
		l.readAccess(&raw.Broker)
		got := fmt.Sprint(l.cfg.Access.Anonymous)
		if l.Errors() > 0 {
			got += " error"
		}
		if got != want {
			t.Errorf("%q: %s (%v)", keys, got, l.Err())
		}
	}
}

func TestFilesThatOthersMayChangeAreRefused(t *testing.T) {
	tests := []struct {
		file string
		mode os.FileMode
		want string
	}{
		{"passwd", 0o600, ""}, {"passwd", 0o640, ""}, {"passwd", 0o644, "everyone on this machine may read DIR/passwd, and guess passwords by it: chmod 640 DIR/passwd"},
		{"passwd", 0o660, "others may write DIR/passwd, and with it become any user: chmod 640 DIR/passwd"}, {"acl", 0o664, ""},
		{"acl", 0o666, "everyone on this machine may change DIR/acl, and with it their own rights: chmod o-w DIR/acl"},
	}
	for _, test := range tests {
		dir, _, _ := loadSecured(t, "passwords = \"passwd\"\nacl_file = \"acl\"\n")
		if err := os.Chmod(filepath.Join(dir, test.file), test.mode); err != nil {
			t.Fatal(err)
		}
		_, report := Load(dir, testOptions(nil))
		got := ""
		for _, i := range report.Issues {
			if i.Severity == Error {
				got += i.Message
			}
		}
		if got = strings.ReplaceAll(got, dir, "DIR"); got != test.want {
			t.Errorf("%s %v: %s", test.file, test.mode, got)
		}
	}
}

func TestPasswordsFile(t *testing.T) {
	for keys, want := range map[string]string{"": "DIR/passwd no", `passwords = "users"`: "DIR/users yes", `passwords = "/a/b"`: "/a/b yes", "passwords = 5": "DIR/passwd no"} {
		dir, _, _ := loadSecured(t, keys)
		file, given := PasswordsFile(dir, testOptions(nil))
		if got := strings.ReplaceAll(file, dir, "DIR") + map[bool]string{true: " yes", false: " no"}[given]; got != want {
			t.Errorf("%q: %s", keys, got)
		}
	}
}
