package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// The command needs nothing beside it, as in the container of the documentation:
// in a root folder without anything else, as a user without rights, it starts,
// answers, and stops when asked.
func TestCommandNeedsNothingBesideIt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED HERE: the command in an empty root folder: only root may change it")
	}
	root := t.TempDir()
	b := &build{repo: "..", version: "1.0.0"}
	if err := b.compile(filepath.Join(root, "gateway"), pc[0]); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("gateway.toml")
	if err != nil {
		t.Fatal(err)
	}
	// At any port: the usual one may be taken here.
	config = bytes.Replace(config, []byte("127.0.0.1:1883"), []byte("127.0.0.1:0"), 1)
	for _, dir := range []string{"etc/gateway", "var/lib/gateway", "run/gateway"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(root, dir), 10002, 10002); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/gateway/gateway.toml"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	// Its parents are for root alone, which TempDir sees to.
	inside := &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 10002, Gid: 10002}, Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	gateway := exec.Command("/gateway", "run")
	gateway.SysProcAttr, gateway.Dir, gateway.Stderr, gateway.Env = inside, "/", &log, []string{}
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	answered := false
	for deadline := time.Now().Add(time.Minute); !answered && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		status := exec.Command("/gateway", "status")
		status.SysProcAttr, status.Dir, status.Env = inside, "/", []string{}
		answered = status.Run() == nil
	}
	gateway.Process.Signal(syscall.SIGTERM)
	if err := gateway.Wait(); err != nil || !answered {
		t.Errorf("answered %v, ended with %v\n%s", answered, err, log.Bytes())
	}
}
