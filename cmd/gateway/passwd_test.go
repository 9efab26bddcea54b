package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	rights "edgegateway/broker/access"
	"edgegateway/devices/serial/pty"
)

// runPasswd runs `gateway passwd` and returns what it says, and its exit code.
func runPasswd(t *testing.T, dir, input string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"--config", dir, "passwd"}, args...)...)
	var out, talk strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &talk
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), talk.String(), cmd.ProcessState.ExitCode()
}

func TestPasswd(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	writeFile(t, filepath.Join(dir, "gateway.toml"), "[broker]\npasswords = \"users\"\n")
	steps := []struct {
		input, args, out, talk string
		code                   int
	}{
		{"", "--list", "", "gateway passwd USER makes it", 1},
		{"secret\nmore\n", "panel", "", "panel has a password, in " + file, 0},
		{"no line end", "bob", "", "sudo systemctl reload gateway", 0},
		{"", "--list", "bob\npanel\n", "", 0},
		{"x\n", "a:b", "", "holds a colon", 2},
		{"x\n", "anonymous", "", "means others", 2},
		{"\n", "panel", "", "an empty password is none", 1},
		{"a\x00b\n", "panel", "", "NUL", 1},
		{"", "-D eve", "", `holds no user "eve"`, 1},
		{"", "-D bob", "", "bob is out of " + file, 0},
		{"", "--list", "panel\n", "", 0},
		{"", "", "", "name one user", 2},
		{"", "--list panel", "", "name one user", 2},
		{"x\n", "--file " + file + ".2 other", "", "passwords = \"" + file + ".2\"", 0},
	}
	for _, step := range steps {
		out, talk, code := runPasswd(t, dir, step.input, strings.Fields(step.args)...)
		if out != step.out || !strings.Contains(talk, step.talk) || code != step.code {
			t.Errorf("passwd %s: exit code %d, %q, %q", step.args, code, out, talk)
		}
		if strings.Contains(talk, "passwords = ") != strings.Contains(step.args, "--file") {
			t.Errorf("passwd %s: what it says of the configuration: %q", step.args, talk)
		}
	}
	c := rights.New(rights.Policy{Passwords: readPasswords(t, file)})
	if user, err := c.Authenticate(t.Context(), loginOf("panel", "secret")); user != "panel" {
		t.Error(err)
	}
}

func readPasswords(t *testing.T, file string) *rights.Passwords {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, faults := rights.ParsePasswords(file, data)
	if faults != nil {
		t.Fatal(faults)
	}
	return p
}

func TestPasswdKeepsWhoMayReadTheFile(t *testing.T) {
	for was, want := range map[os.FileMode]os.FileMode{0o600: 0o600, 0o640: 0o640, 0o644: 0o640, 0o666: 0o640, 0o400: 0o600} {
		dir := t.TempDir()
		file := filepath.Join(dir, "passwd")
		writeFile(t, file, "# users\n")
		if err := os.Symlink(file, filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, was); err != nil {
			t.Fatal(err)
		}
		before := ownerOf(t, file)
		if _, talk, code := runPasswd(t, dir, "x\n", "--file", filepath.Join(dir, "link"), "panel"); code != 0 {
			t.Fatal(talk)
		}
		info, err := os.Lstat(file)
		if err != nil || info.Mode() != want || ownerOf(t, file) != before {
			t.Errorf("%v became %v (%v)", was, info.Mode(), err)
		}
		if link, err := os.Lstat(filepath.Join(dir, "link")); err != nil || link.Mode()&os.ModeSymlink == 0 {
			t.Error("the link was replaced")
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 2 {
			t.Errorf("left over: %v", entries)
		}
	}
}

func ownerOf(t *testing.T, file string) string {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	s := info.Sys().(*syscall.Stat_t)
	return fmt.Sprint(s.Uid, ":", s.Gid)
}

// On a terminal it asks twice, and shows nothing of what is typed.
func TestPasswdAsksOnATerminal(t *testing.T) {
	for _, second := range []string{"secret", "secrte"} {
		dir := t.TempDir()
		terminal, keyboard := openTerminal(t)
		cmd := exec.Command(binary, "--config", dir, "passwd", "panel")
		cmd.Stdin = terminal
		talk, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitText(t, talk, "Password for panel: ")
		if echo(t, terminal) {
			t.Error("the terminal shows what is typed")
		}
		fmt.Fprint(keyboard, "secret\n")
		awaitText(t, talk, "The same again: ")
		fmt.Fprint(keyboard, second+"\n")
		rest, _ := io.ReadAll(talk)
		cmd.Wait()
		if !echo(t, terminal) {
			t.Error("the terminal shows nothing any more")
		}
		_, missing := os.Stat(filepath.Join(dir, "passwd"))
		if ok := second == "secret"; (cmd.ProcessState.ExitCode() == 0) != ok || (missing == nil) != ok {
			t.Errorf("%q: %v, %v: %s", second, cmd.ProcessState, missing, rest)
		}
	}
}

// openTerminal returns a terminal that shows what is typed, as a program has it,
// and the keyboard and screen of who sits before it.
func openTerminal(t *testing.T) (terminal, keyboard *os.File) {
	t.Helper()
	line, err := pty.Open(pty.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { line.Close() })
	open := func(path string) *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	terminal, keyboard = open(line.A), open(line.B)
	setEcho(t, terminal, true)
	return terminal, keyboard
}

func awaitText(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var got []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(got), text); got = append(got, one...) {
		if _, err := r.Read(one); err != nil {
			t.Fatalf("%v after %q", err, got)
		}
	}
}

func echo(t *testing.T, f *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

func setEcho(t *testing.T, f *os.File, on bool) {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	state.Lflag &^= unix.ECHO
	if on {
		state.Lflag |= unix.ECHO
	}
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, state); err != nil {
		t.Fatal(err)
	}
}
