package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A part that hangs is warned of at half of its allowance and named at the end
// of it; from then on systemd is not fed, until it comes round again.
func TestWatchdogIsNotFedWhileAPartHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var log bytes.Buffer
		fed, hang := 0, make(chan struct{}, 1)
		hang <- struct{}{}
		turn := func(ctx context.Context) bool {
			select {
			case hang <- struct{}{}: // taken while the part hangs
				<-hang
				return true
			case <-ctx.Done():
				return false
			}
		}
		<-hang
		w := &watchdog{
			feed:  func() { mu.Lock(); defer mu.Unlock(); fed++ },
			every: 10 * time.Second,
			log:   slog.New(slog.NewTextHandler(&log, nil)),
			start: time.Now(),
		}
		w.follow("well", time.Minute, func(context.Context) bool { return true })
		w.follow("bus rs485", 2*time.Minute, turn)
		gone := w.follow("bus that a reload ends", time.Minute, func(ctx context.Context) bool { <-ctx.Done(); return false })
		gone()
		done := make(chan error)
		go func() { done <- w.run(ctx) }()
		feeds := func(d time.Duration) int {
			mu.Lock()
			before := fed
			mu.Unlock()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return fed - before
		}
		if n := feeds(10 * time.Minute); n < 60 {
			t.Errorf("fed %d times in ten minutes while all is well", n)
		}
		hang <- struct{}{}
		if n := feeds(2*time.Minute - 20*time.Second); n == 0 {
			t.Error("not fed within the allowance")
		}
		if text := log.String(); !strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
			t.Errorf("within the allowance the log says %q", text)
		}
		feeds(40 * time.Second)
		if n := feeds(10 * time.Minute); n != 0 {
			t.Errorf("fed %d times while a part hangs", n)
		}
		if text := log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, `part="bus rs485"`) || strings.Contains(text, "part=well") {
			t.Errorf("the log says %q", text)
		}
		if err := w.trouble(); err == nil || !strings.HasPrefix(err.Error(), "bus rs485 has not come round for 12m") {
			t.Errorf("trouble: %v", err)
		}
		<-hang
		feeds(20 * time.Second)
		if err := w.trouble(); err != nil {
			t.Errorf("trouble: %v", err)
		}
		if n := feeds(10 * time.Minute); n < 60 {
			t.Errorf("fed %d times in ten minutes after it came round again", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The binary as a service: it tells systemd that it is ready, how things are,
// and that it is alive.
func TestSystemdIsTold(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "gateway.toml"), "name = \"plant-a\"\n[broker]\nlisten = \"tcp://127.0.0.1:"+freePort(t)+"\"\n[bridge.far]\nurl = \"tcp://127.0.0.1:"+freePort(t)+"\"\nclient_id = \"x\"\nsend = { \"{name}/+\" = \"dt/+\" }\n"+
		"[bus.none]\naddress = \"/dev/not-there\"\nbaud = 9600\nformat = \"8N1\"\n[device.a]\nbus = \"none\"\nunit_id = 1\npoints.x = { holding = 1 }\n")
	socket := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "300000")
	os.Unsetenv("WATCHDOG_PID") // it is for everybody then
	gw := start(t, binary, "--config", dir, "--state", t.TempDir(), "run")
	seen, fed := "", 0
	conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	for buf := make([]byte, 4096); fed < 10 || !strings.Contains(seen, "READY=1") || !strings.Contains(seen, "(no port: none)"); {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("%v; systemd was told %q, the log says %s", err, seen, gw.out)
		}
		if string(buf[:n]) == "WATCHDOG=1" {
			fed++
			continue
		}
		seen += string(buf[:n]) + "\n"
	}
	if !strings.Contains(seen, "STATUS=1 bus") || !strings.Contains(seen, "1 device (1 offline), far down, buffer ") {
		t.Errorf("systemd was told %q", seen)
	}
}
