package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"edgegateway/broker"
	"edgegateway/internal/config"
)

func loginOf(user, password string) broker.Login {
	return broker.Login{User: user, HasUser: true, Password: []byte(password), ClientID: "c", Address: "127.0.0.1:1"}
}

// The binary with users: who is let in, what they may do, and what a SIGHUP
// changes for whom.
func TestUsersFromPasswdToReload(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	cfg := func(rights string) {
		writeFile(t, filepath.Join(dir, "gateway.toml"), fmt.Sprintf("name = \"plant-a\"\n[broker]\nlisten = \"tcp://127.0.0.1:%s\"\npasswords = \"passwd\"\n%s", port, rights))
	}
	set := func(user, password string) {
		if _, talk, code := runPasswd(t, dir, password+"\n", user); code != 0 {
			t.Fatal(talk)
		}
	}
	const rights = "[broker.user.panel]\nread = [\"hall/#\"]\nwrite = [\"hall/+\", \"{name}/#\"]\ndeny = [\"hall/secret\"]\n"
	const bob = "[broker.user.bob]\nread = [\"#\"]\n"
	cfg(rights + bob)
	set("panel", "one")
	set("bob", "two")
	gw := start(t, binary, "--config", dir, "--state", t.TempDir(), "run")
	logged := func(text string, n int) {
		t.Helper()
		eventually(t, text, func() bool { return strings.Count(gw.out.String(), text) >= n })
	}
	logged("msg=ready", 1)
	client := func(program string, args ...string) string {
		out, err := exec.Command(program, append([]string{"-V", "5", "-h", "127.0.0.1", "-p", port}, args...)...).CombinedOutput()
		return fmt.Sprint(strings.TrimSpace(string(out)), err)
	}
	expectClient := func(want string, program string, args ...string) {
		t.Helper()
		if got := client(program, args...); !strings.Contains(got, want) {
			t.Errorf("%s %q: %s", program, args, got)
		}
	}
	panel, pub := []string{"-u", "panel", "-P", "one", "-q", "1", "-t"}, "mosquitto_pub"
	expectClient("<nil>", pub, append(panel, "hall/a", "-m", "x", "-r")...)
	expectClient("Not authorized", pub, append(panel, "cellar/a", "-m", "x")...)
	expectClient("Not authorized", pub, append(panel, "plant-a/_status", "-m", "x")...) // the gateway's own
	expectClient("hall/a x", "mosquitto_sub", append(panel, "hall/#", "-v", "-C", "1")...)
	expectClient("denied", "mosquitto_sub", append(panel, "hall/secret", "-C", "1")...)
	expectClient("Not authorized", pub, "-t", "hall/a", "-m", "x")
	expectClient("Bad User Name or Password", pub, "-u", "eve", "-P", "x", "-t", "hall/a", "-m", "x")

	for _, user := range []string{"panel one", "bob two"} {
		name, password, _ := strings.Cut(user, " ")
		start(t, "mosquitto_sub", "-h", "127.0.0.1", "-p", port, "-i", name+"s", "-u", name, "-P", password, "-t", "hall/#")
		logged("client="+name+"s ", 1)
	}
	set("panel", "three")
	gw.cmd.Process.Signal(syscall.SIGHUP)
	logged("msg=reloaded", 1)
	logged("client=panels addr", 1)
	expectClient("<nil>", pub, "-u", "panel", "-P", "three", "-q", "1", "-t", "hall/b", "-m", "x")

	cfg(rights + bob + "[broker.user.panle]\nread = \"a/#/b\"\n") // a fault changes nothing
	gw.cmd.Process.Signal(syscall.SIGHUP)
	logged("gateway.toml:12:8", 1)
	expectClient("hall/b", "mosquitto_sub", "-u", "bob", "-P", "two", "-t", "hall/#", "-C", "1", "-W", "5", "-F", "%t hall/b")
	if strings.Contains(gw.out.String(), "client=bobs addr") {
		t.Error("bob was disconnected, whom nothing of this concerned")
	}

	cfg(rights) // nothing for bob
	gw.cmd.Process.Signal(syscall.SIGHUP)
	logged("msg=reloaded", 2)
	logged("client=bobs addr", 1)
	if out := gw.out.String(); strings.Contains(out, "$7$") || strings.Contains(out, "three") {
		t.Error("the log shows what is secret")
	}
}

// The configuration that docs/security.md builds up is right, and its commands
// exist.
func TestSecurityTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	dir, text := t.TempDir(), ""
	for _, block := range regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(read), -1) {
		text += block[1]
	}
	writeFile(t, filepath.Join(dir, "gateway.toml"), text)
	if _, talk, code := runPasswd(t, dir, "x\n", "panel"); code != 0 {
		t.Fatal(talk)
	}
	cfg, report := config.Load(dir, config.Options{})
	if cfg == nil || len(cfg.Access.Rules) != 2 || !cfg.Access.Passwords.Has("panel") || cfg.Access.Anonymous {
		t.Errorf("%d of two users: %v", strings.Count(text, "[broker.user."), report.Err())
	}
}
