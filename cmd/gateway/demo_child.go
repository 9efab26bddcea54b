package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A child is the gateway as a process of its own.
type child struct {
	cmd    *exec.Cmd
	socket string
	log    string
	exited chan struct{} // closed when it has ended; err is set then
	err    error
}

// startChild runs this program's run command on the configuration in dir. It is
// called by the name that this one was called by, which may be a script that has
// an emulator run it.
func startChild(dir string) (*child, error) {
	self, err := exec.LookPath(os.Args[0])
	if err != nil { // called by a name that leads nowhere
		if self, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	state := filepath.Join(dir, "state")
	c := &child{
		cmd:    exec.Command(self, "run", "--config", dir, "--state", state),
		socket: filepath.Join(state, "control.sock"),
		log:    filepath.Join(dir, "gateway.log"),
		exited: make(chan struct{}),
	}
	out, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c.cmd.Stderr = out
	// Ctrl-C is the demo's to handle, and the gateway does not outlive it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	for _, v := range os.Environ() {
		// What systemd gave to this process is not for that one.
		if name, _, _ := strings.Cut(v, "="); name != "RUNTIME_DIRECTORY" && name != "NOTIFY_SOCKET" && name != "CREDENTIALS_DIRECTORY" {
			c.cmd.Env = append(c.cmd.Env, v)
		}
	}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread ends that started the
		// child, so this one is kept for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the gateway: %w", err)
	}
	return c, nil
}

func (c *child) awaitReady(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		var s Status
		err := ask(ctx, c.socket, "/status", nil, &s)
		if err == nil {
			return nil
		}
		select {
		case <-c.exited:
			return c.died()
		case <-ctx.Done():
			c.kill()
			return fmt.Errorf("the gateway was not ready within %v: %w\n%s", patience, err, c.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop asks the gateway to end and waits for it.
func (c *child) stop() error {
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.exited:
	case <-time.After(30 * time.Second):
		c.kill()
		return fmt.Errorf("the gateway did not end within 30 s:\n%s", c.tail())
	}
	if c.err != nil {
		return c.died()
	}
	return nil
}

func (c *child) kill() {
	c.cmd.Process.Kill() // an error means that it has ended
	<-c.exited
}

func (c *child) died() error {
	return fmt.Errorf("the gateway ended unexpectedly (%v):\n%s", c.err, c.tail())
}

// tail returns the last lines of the gateway's log.
func (c *child) tail() []byte {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-12):], nil)
}
