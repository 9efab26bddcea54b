package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// command runs the gateway and returns what it says, and its exit code.
func command(t *testing.T, env []string, input string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	var out, talk strings.Builder
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), strings.NewReader(input), &out, &talk
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), talk.String(), cmd.ProcessState.ExitCode()
}

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), "name = \"a\"\n")
	for _, step := range []struct {
		input, args, out, talk string
		code                   int
	}{
		{"", "ls", "", "", 0},
		{"hunter2\n", "set far.password", "", `"${cred:far.password}"`, 0},
		{"-----BEGIN X-----\nabc\n-----END X-----\n", "set aws.key", "", "reload gateway", 0},
		{"", "ls", "aws.key\nfar.password\n", "", 0},
		{"\n", "set empty", "", "an empty secret is none", 1},
		{"a\x00b", "set nul", "", "NUL", 1},
		{"x", "set ../passwd", "", "is no name of a secret", 2},
		{"x", "set .hidden", "", "is no name of a secret", 2},
		{strings.Repeat("x", maxSecret+1), "set long", "", "nothing was changed", 1},
		{"", "ls", "aws.key\nfar.password\n", "", 0},
	} {
		out, talk, code := command(t, nil, step.input, append([]string{"--config", filepath.Join(dir, "gateway.toml"), "secret"}, strings.Fields(step.args)...)...)
		if out != step.out || !strings.Contains(talk, step.talk) || code != step.code {
			t.Errorf("secret %s: exit code %d, %q, %q", step.args, code, out, talk)
		}
		if strings.Contains(out+talk, "hunter2") {
			t.Errorf("secret %s shows it: %q %q", step.args, out, talk)
		}
	}
	file := filepath.Join(dir, "credentials", "far.password")
	data, err := os.ReadFile(file)
	info, err2 := os.Stat(file)
	if err != nil || err2 != nil || string(data) != "hunter2\n" || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("%q %v %v, %v", data, info.Mode(), err, err2)
	}
}

// On a terminal it asks twice and shows nothing.
func TestSecretOnATerminal(t *testing.T) {
	dir := t.TempDir()
	terminal, keyboard := openTerminal(t)
	out := new(buffer)
	cmd := exec.Command(binary, "--config", dir, "secret", "set", "x")
	cmd.Stdin, cmd.Stderr = terminal, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	echoed := new(buffer)
	go io.Copy(echoed, keyboard) // ends when it is closed
	for _, prompt := range []string{"Secret x: ", "The same again: "} {
		eventually(t, prompt, func() bool { return strings.Contains(out.String(), prompt) })
		if _, err := keyboard.Write([]byte("hunter2\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, _ := os.ReadFile(filepath.Join(dir, "credentials", "x"))
	if string(data) != "hunter2" || strings.Contains(echoed.String(), "hunter2") {
		t.Errorf("%q; the terminal showed %q", data, echoed)
	}
}

// systemd-creds gets the secret by its input, for arguments are for all to see.
func TestSecretEncrypted(t *testing.T) {
	bin, dir := t.TempDir(), filepath.Join(t.TempDir(), "credstore.encrypted")
	tool := "#!/bin/sh\n[ \"$1 $2 $3\" = 'encrypt --name=far.password -' ] || exit 1\ntr a-z b-za >\"$4\"\n"
	if err := os.WriteFile(filepath.Join(bin, "systemd-creds"), []byte(tool), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if err := encryptSecret(t.Context(), dir, "far.password", []byte("hunter2")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "far.password"))
	info, err2 := os.Stat(dir)
	if err != nil || err2 != nil || string(data) != "ivoufs2" || info.Mode().Perm() != 0o700 {
		t.Errorf("%q %v %v %v", data, info.Mode(), err, err2)
	}
	if err := encryptSecret(t.Context(), dir, "other", nil); err == nil || !strings.Contains(err.Error(), "sudo gateway secret set other --encrypt") {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := encryptSecret(t.Context(), dir, "x", nil); err == nil || !strings.Contains(err.Error(), "leave --encrypt out") {
		t.Error(err)
	}
}

// refusing listens for what answers each connection in its own way.
func refusing(t *testing.T, answer func(c net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				answer(c)
			}()
		}
	}()
	return l.Addr().String()
}

// TestNothingShowsSecrets plants secrets of every kind in a gateway, has it fail
// with each of them, and looks for them in all that it says and writes.
func TestNothingShowsSecrets(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir, state, runtime, creds := filepath.Join(base, "etc"), filepath.Join(base, "state"), filepath.Join(base, "run"), filepath.Join(base, "creds")
	planted := map[string]string{
		"literal": "planted-literal-11", "file": "planted-file-22", "env": "planted-env-33", "cred": "planted-cred-44",
		"proxy": "planted-proxy-55", "sas": base64.StdEncoding.EncodeToString([]byte("planted-sas-key-66")),
		"unknown": "planted-unknown-77", "comment": "planted-comment-88", "typed": "planted-typed-99", "changed": "planted-changed-00",
	}
	far := refusing(t, func(c net.Conn) { // CONNACK: bad user name or password
		io.ReadFull(c, make([]byte, 20))
		c.Write([]byte{0x20, 0x03, 0x00, 0x86, 0x00})
	})
	proxy := refusing(t, func(c net.Conn) {
		bufio.NewReader(c).ReadString('\n')
		io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
	})
	port, pages := freePort(t), freePort(t)
	toml := strings.NewReplacer("FAR", far, "PROXY", proxy, "PORT", port, "WEB", pages).Replace(`name = "plant-a"
[broker]
listen = ["tcp://127.0.0.1:PORT"]
passwords = "passwd"
[web]
listen = "127.0.0.1:WEB"
values = true
# the old password was planted-comment-88
[bridge.literal]
url = "tcp://FAR"
username = "me"
password = "planted-literal-11"
send = { "{name}/#" = "a/#" }
[bridge.file]
url = "tcp://FAR"
username = "me"
password = "${file:pw}"
send = { "{name}/#" = "b/#" }
[bridge.env]
url = "tcp://FAR"
username = "me"
password = "${env:PLANTED}"
send = { "{name}/#" = "c/#" }
[bridge.cred]
url = "tcp://FAR"
username = "me"
password = "${cred:pw}"
send = { "{name}/#" = "d/#" }
[bridge.proxy]
url = "tcp://far.example.com"
proxy = "http://me:planted-proxy-55@PROXY"
send = { "{name}/#" = "e/#" }
[bridge.sas]
preset = "azure-iot-hub"
url = "tls://FAR"
client_id = "plant-a"
sas_key = "` + planted["sas"] + `"
send = { "{name}/#" = "devices/plant-a/messages/events/" }
[bridge.key]
url = "tls://FAR"
cert = "credentials/gateway.crt"
key = "credentials/gateway.key"
send = { "{name}/#" = "f/#" }
`)
	if err := writeDemoKeys(dir); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "credentials", "gateway.key"))
	if err != nil {
		t.Fatal(err)
	}
	planted["key"] = strings.Split(string(key), "\n")[1]
	secret := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	secret(filepath.Join(dir, "gateway.toml"), toml)
	secret(filepath.Join(dir, "pw"), planted["file"]+"\n")
	secret(filepath.Join(creds, "pw"), planted["cred"]+"\n")
	if _, talk, code := runPasswd(t, dir, planted["typed"]+"\n", "panel"); code != 0 {
		t.Fatal(talk)
	}
	hash, err := os.ReadFile(filepath.Join(dir, "passwd"))
	if err != nil {
		t.Fatal(err)
	}
	planted["hash"] = strings.Split(strings.TrimSpace(string(hash)), "$")[4]
	planted["basic"] = base64.StdEncoding.EncodeToString([]byte("me:" + planted["proxy"]))

	env := []string{"RUNTIME_DIRECTORY=" + runtime, "CREDENTIALS_DIRECTORY=" + creds, "PLANTED=" + planted["env"]}
	var said strings.Builder
	say := func(args ...string) string {
		out, talk, _ := command(t, env, "", append([]string{"--config", dir, "--state", state}, args...)...)
		fmt.Fprintf(&said, "== %v\n%s%s", args, out, talk)
		return out
	}
	cmd := exec.Command(binary, "--config", dir, "--state", state, "run", "--log-level", "debug")
	log := new(buffer)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-done })
	eventually(t, "all bridges have failed", func() bool {
		out, _, _ := command(t, env, "", "--config", dir, "--state", state, "status", "--json")
		select {
		case <-done:
			t.Fatalf("the gateway ended:\n%s", log)
		default:
		}
		return strings.Count(out, `"last_error": "`) == 7
	})
	if out, err := exec.Command("mosquitto_pub", "-p", port, "-u", "panel", "-P", planted["unknown"], "-t", "x", "-m", "y").CombinedOutput(); err == nil {
		t.Errorf("a wrong password was let in: %s", out)
	}
	for _, path := range []string{"/metrics", "/status", "/readyz", "/livez"} {
		body, _ := get(t, pages, path)
		fmt.Fprintf(&said, "== %s\n%s", path, body)
	}
	say("status")
	say("status", "--json")
	say("check")
	say("check", "--json")
	say("doctor", "--all")
	say("doctor", "--json")
	for _, name := range []string{"literal", "file", "env", "cred", "proxy", "key"} {
		say("bridge", "test", name)
	}
	say("bridge", "test", "sas", "--same-id")
	say("buffer", "ls")
	dumped := filepath.Join(base, "dump.tar.gz")
	say("dump", dumped)
	said.WriteString(unpackDump(t, dumped))

	// Broken in every way, at work and at rest: another password, a key that is
	// none, an unknown key, a syntax error.
	for i, broken := range []string{
		strings.Replace(toml, planted["literal"], planted["changed"], 1),
		strings.Replace(toml, `password = "planted-literal-11"`, `passwort = "planted-unknown-77"`, 1),
		strings.Replace(toml, `"planted-literal-11"`, `"planted-literal-11`, 1),
		strings.Replace(toml, "key = \"credentials/gateway.key\"", "key = \"credentials/cloud.key\"", 1),
		strings.Replace(toml, "key = \"credentials/gateway.key\"", "key = \"pw\"", 1),
		strings.Replace(toml, "http://me:planted-proxy-55@PROXY", "nonsense://me:planted-proxy-55@PROXY", 1),
		strings.Replace(toml, planted["sas"], "planted-literal-11!", 1),
		strings.Replace(toml, `[bridge.literal]`, `[bridge.inline]`, 1) + "[bridge]\nx = { url = \"tcp://FAR\", password = \"planted-literal-11\", sned = 1 }\n",
	} {
		secret(filepath.Join(dir, "gateway.toml"), broken)
		say("check")
		say("check", "--diff")
		say("doctor")
		file := filepath.Join(base, fmt.Sprintf("dump%d.tar.gz", i))
		say("dump", file)
		text := unpackDump(t, file)
		said.WriteString(text)
		if i == 1 && !strings.Contains(text, "bridge.literal.passwort = •••") {
			t.Error("the dump does not hide the value of a key that is called like a password")
		}
	}
	reloads := strings.Count(log.String(), "reload")
	cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the reload is refused", func() bool { return strings.Count(log.String(), "reload") > reloads })
	cmd.Process.Signal(syscall.SIGTERM)
	<-done
	said.WriteString(log.String())
	for _, root := range []string{state, runtime} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			fmt.Fprintf(&said, "== %s\n%s\n", path, data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	text := said.String()
	for kind, value := range planted {
		if at := strings.Index(text, value); at >= 0 {
			from := strings.LastIndex(text[:at], "\n== ") + 1
			head, _, _ := strings.Cut(text[from:], "\n")
			t.Errorf("%s is shown by %q: …%s…", kind, head, text[max(at-100, 0):at+len(value)])
		}
	}
	for _, shown := range []string{"${file:pw}", "${env:PLANTED}", "•••", "applied.json", "gateway_bridge_up", "planted"} {
		if want := shown != "planted"; strings.Contains(text, shown) != want {
			t.Errorf("%q is shown: %v", shown, !want)
		}
	}
}

// unpackDump returns all that is in a dump.
func unpackDump(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pack, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for r := tar.NewReader(pack); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "== %s:%s\n", filepath.Base(file), h.Name)
		if _, err := io.Copy(&all, r); err != nil {
			t.Fatal(err)
		}
	}
}

// A dump is for its owner alone, takes the place of nothing, has its bounds, and
// of what is too long holds the end.
func TestDump(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), "name = \"plant/ä\"\n")
	state := t.TempDir()
	writeFile(t, filepath.Join(state, "learned.json"), "first"+strings.Repeat("x", maxDumpFile)+"last")
	cmd := exec.Command(binary, "--config", dir, "--state", state, "dump")
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(cmd.Dir, strings.TrimSpace(string(out)))
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	text := unpackDump(t, file)
	for _, want := range []string{"about.txt\ngateway " + version(), "doctor.txt\nconfiguration", "check.txt\n", "buffers.txt\n", "bytes are left out)\n", "xlast"} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %q in it", want)
		}
	}
	if strings.Contains(text, "firstx") || len(text) > maxDumpFile+1<<20 {
		t.Errorf("%d bytes", len(text))
	}
	_, talk, code := command(t, nil, "", "--config", dir, "dump", file)
	if after, err := os.Stat(file); err != nil || code != 1 || !after.ModTime().Equal(info.ModTime()) || !strings.Contains(talk, "exists") {
		t.Errorf("a second one: %d %q", code, talk)
	}
}

// The shell completes names of the configuration.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), "name = \"a\"\n[bus.hall]\naddress = \"tcp://10.0.0.5\"\n[bus.plc]\naddress = \"tcp://10.0.0.6\"\n"+
		"[bridge.far]\nurl = \"tls://far\"\nsend = { \"{name}/#\" = \"x/#\" }\n"+
		"[device.main]\nbus = \"hall\"\nunit_id = 1\npoints.x = { input = 1 }\npoints.y = { holding = 1, write = true }\n[device.meter]\nbus = \"plc\"\nunit_id = 1\npoints.x = { input = 1 }\n")
	for args, want := range map[string]string{
		"read m": "main meter", "read main.": "main.x main.y", "write ma": "main.", "write main.": "main.y", "hold main.": "main.y",
		"scan ": "hall plc", "probe h": "hall", "plan p": "plc", "bridge test ": "far", "bridge dead f": "far", "buffer show ": "far", "read main ": "",
	} {
		words := strings.Split(args, " ")
		out, _, code := command(t, nil, "", append([]string{"__complete", "--config", dir}, words...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if got := strings.Join(lines[:len(lines)-1], " "); got != want || code != 0 {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
	writeFile(t, filepath.Join(dir, "gateway.toml"), "name = 1\n")
	if out, talk, _ := command(t, nil, "", "__complete", "--config", dir, "read", ""); strings.Contains(out+talk, "error:") {
		t.Errorf("with a faulty configuration it says %q %q", out, talk)
	}
}
