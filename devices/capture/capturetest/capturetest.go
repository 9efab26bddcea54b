// Package capturetest plays captures in tests: what happened in the field
// happens again, without the devices.
package capturetest

import (
	"net"
	"os"
	"slices"
	"sync"
	"testing"

	"edgegateway/devices/capture"
)

// Load reads a capture.
func Load(t testing.TB, path string) *capture.Capture {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := capture.Read(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return c
}

// Conn returns the gateway's end of a line on which the capture at path is
// played without delay. A request that is not in it fails the test, at the end.
func Conn(t testing.TB, path string) net.Conn {
	t.Helper()
	p := player(t, path)
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Serve(t.Context(), far); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}()
	t.Cleanup(func() {
		near.Close()
		<-done
		check(t, path, p)
	})
	return near
}

// Listen is Conn for whoever dials by itself: it returns the address, host and
// port, at which the capture is played to each client, on loopback.
func Listen(t testing.TB, path string) string {
	t.Helper()
	p := player(t, path)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			clients.Go(func() {
				defer conn.Close()
				if err := p.Serve(t.Context(), conn); err != nil {
					t.Errorf("%s: %v", path, err)
				}
			})
		}
	})
	t.Cleanup(func() { // the test's context is done
		l.Close()
		clients.Wait()
		check(t, path, p)
	})
	return l.Addr().String()
}

func player(t testing.TB, path string) *capture.Player {
	t.Helper()
	p, err := capture.NewPlayer(Load(t, path), capture.AtOnce)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return p
}

func check(t testing.TB, path string, p *capture.Player) {
	t.Helper()
	list := p.Strange()
	slices.Sort(list)
	for _, s := range list {
		t.Errorf("%s: asked, and not in it: %s", path, s)
	}
}
