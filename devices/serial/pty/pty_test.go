package pty

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// join opens a pair and both its ends.
func join(t *testing.T, cfg Config) (p *Pair, a, b *os.File) {
	t.Helper()
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, openTTY(t, p.A), openTTY(t, p.B)
}

func openTTY(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func send(t *testing.T, f *os.File, s string) {
	t.Helper()
	if _, err := f.WriteString(s); err != nil {
		t.Fatal(err)
	}
}

// expect reads as many bytes as want has.
func expect(t *testing.T, f *os.File, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(f, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func TestBothWays(t *testing.T) {
	_, a, b := join(t, Config{})
	every := make([]byte, 256) // a terminal that is not raw eats some of these
	for i := range every {
		every[i] = byte(i)
	}
	send(t, a, string(every))
	expect(t, b, string(every))
	send(t, b, string(every))
	expect(t, a, string(every))
}

func TestPace(t *testing.T) {
	for format, bits := range map[string]int{"8N1": 10, "8E1": 11, "7E1": 10, "8N2": 11, "": 10} {
		_, a, b := join(t, Config{Baud: 9600, Format: format})
		const n = 48
		start := time.Now()
		send(t, a, string(make([]byte, n)))
		expect(t, b, string(make([]byte, n)))
		if d, wire := time.Since(start), n*time.Duration(bits)*time.Second/9600; d < wire-time.Millisecond {
			t.Errorf("%q: %d characters took %v, less than the line needs: %v", format, n, d, wire)
		}
	}
	for _, format := range []string{"8X", "9N1", "8N3", "eight"} {
		if _, err := Open(Config{Baud: 9600, Format: format}); err == nil {
			t.Errorf("%q: no error", format)
		}
	}
}

func TestFaults(t *testing.T) {
	p, a, b := join(t, Config{})
	p.SetFaults(A, Faults{Drop: 1})
	treated := make(chan bool)
	p.Tap(A, func(b []byte) []byte { treated <- true; return b })
	send(t, a, "lost")
	<-treated
	p.Tap(A, nil)
	p.Inject(A, []byte("noise"))
	expect(t, b, "noise")

	p.SetFaults(A, Faults{Echo: true, Latency: time.Millisecond})
	send(t, a, "echo")
	expect(t, b, "echo")
	expect(t, a, "echo")

	p.SetFaults(A, Faults{Insert: 1})
	send(t, a, "xyz")
	got := make([]byte, 6)
	if _, err := io.ReadFull(b, got); err != nil || got[1] != 'x' || got[3] != 'y' || got[5] != 'z' {
		t.Errorf("with insertions: %q, %v", got, err)
	}

	p.SetFaults(A, Faults{Flip: 1})
	send(t, a, "\x00")
	if _, err := io.ReadFull(b, got[:1]); err != nil || got[0] == 0 || got[0]&(got[0]-1) != 0 {
		t.Errorf("flipped: %x, %v", got[0], err)
	}

	p.SetFaults(A, Faults{})
	p.Tap(A, func(b []byte) []byte { return bytes.ToUpper(b) })
	send(t, a, "tapped")
	expect(t, b, "TAPPED")
	p.Tap(A, nil)
	send(t, a, "clean")
	expect(t, b, "clean")
}

// TestReplug hangs an end up under a program that reads it, and brings it
// back under the same name.
func TestReplug(t *testing.T) {
	link := filepath.Join(t.TempDir(), "usb-adapter")
	p, a, b := join(t, Config{Link: link})
	if p.A != link {
		t.Errorf("A is %s", p.A)
	}
	p.HangUp(A)
	p.HangUp(A)
	if n, err := a.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read after a hang-up: %d, %v", n, err)
	}
	if _, err := os.Stat(link); !os.IsNotExist(err) {
		t.Errorf("the path of an unplugged port: %v", err)
	}
	send(t, b, "to nobody")
	for i := range 2 {
		if err := p.Replug(A); err != nil {
			t.Fatal(i, err)
		}
	}
	a = openTTY(t, p.A)
	send(t, a, "back")
	expect(t, b, "back")
}

func TestCloseRemovesPaths(t *testing.T) {
	p, err := Open(Config{Baud: 300})
	if err != nil {
		t.Fatal(err)
	}
	send(t, openTTY(t, p.B), string(make([]byte, 1000))) // half a minute's worth
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{p.A, p.B, p.dir} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
	p.Inject(A, []byte("after the end"))
}
