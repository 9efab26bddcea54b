package broker

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"edgegateway/broker/packet"
)

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mqtt.sock")
	for _, mode := range []os.FileMode{0, 0o600, 0o666} {
		b, err := New(Config{Listen: []Listen{{Network: "unix", Address: path, Mode: mode}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		if got := b.Addr(0).String(); got != path {
			t.Errorf("listens at %s", got)
		}
		if info, err := os.Stat(path); err != nil || mode == 0 && info.Mode().Perm() != 0o660 || mode != 0 && info.Mode().Perm() != mode {
			t.Errorf("mode %v of the socket: %v, %v", mode, info, err)
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		p := newPeer(t, conn, packet.V5)
		p.connect("p")
		if got := b.ClientStats()[0].Address; !strings.HasPrefix(got, "process ") || !strings.Contains(got, "of user") {
			t.Errorf("the client is at %q", got)
		}
		cancel()
		<-done
		left, _ := os.ReadDir(filepath.Dir(path))
		for _, e := range left {
			t.Errorf("left over: %s", e.Name())
		}
	}
}

// Only a socket that nobody listens at is replaced, and only one's own is
// removed.
func TestUnixSocketThatIsThere(t *testing.T) {
	listen := func(path string) (net.Listener, error) { return listenUnix(t.Context(), path, 0) }
	in := func(name string) string { return filepath.Join(t.TempDir(), name) }

	stale := in("stale")
	ln, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	ln, err = listen(stale)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	if conn, err := net.Dial("unix", stale); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	if _, err := listen(stale); err == nil || !strings.Contains(err.Error(), "another program listens") {
		t.Errorf("a socket in use: %v", err)
	}
	if err := os.Rename(stale, stale+".old"); err != nil {
		t.Fatal(err)
	}
	next, err := listen(stale)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if _, err := os.Stat(stale); err != nil {
		t.Errorf("the socket of another was removed: %v", err)
	}
	if next.Close(); exists(stale) {
		t.Error("the socket was not removed")
	}

	file := in("file")
	if err := os.WriteFile(file, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if text, _ := os.ReadFile(file); string(text) != "dear" {
		t.Errorf("the file holds %q", text)
	}
	if _, err := listen(filepath.Join(in("missing"), "x")); err == nil || !strings.Contains(err.Error(), "/run/gateway") {
		t.Errorf("no folder: %v", err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
