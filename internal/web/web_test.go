package web

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func newServer(cfg Config) *Server {
	cfg.Log = slog.New(slog.DiscardHandler)
	if cfg.Metrics == nil {
		cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "up 1\n") })
	}
	if cfg.Status == nil {
		cfg.Status = func() any { return map[string]int{"buses": 2} }
	}
	well := func() error { return nil }
	if cfg.Live == nil {
		cfg.Live = well
	}
	if cfg.Ready == nil {
		cfg.Ready = well
	}
	return New(cfg)
}

func TestAnswers(t *testing.T) {
	var trouble atomic.Pointer[error]
	check := func() error {
		if p := trouble.Load(); p != nil {
			return *p
		}
		return nil
	}
	h := newServer(Config{Live: check, Ready: check}).Handler()
	get := func(method, path, host string) (int, string) {
		r := httptest.NewRequest(method, path, nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, test := range []struct {
		method, path, host string
		code               int
		want               string
	}{
		{"GET", "/metrics", "127.0.0.1:9273", 200, "up 1\n"},
		{"HEAD", "/metrics", "127.0.0.1:9273", 200, ""},
		{"GET", "/livez", "[::1]:9273", 200, "ok\n"},
		{"GET", "/readyz", "localhost", 200, "ok\n"},
		{"GET", "/status", "10.0.0.1", 200, "{\n  \"buses\": 2\n}\n"},
		{"GET", "/", "[::1]", 200, "/metrics"},
		{"GET", "/other", "localhost", 404, ""},
		{"POST", "/status", "localhost", 405, ""},
		{"GET", "/status", "evil.example:9273", 403, "evil.example"},
		{"GET", "/metrics", "localhost.evil.example", 403, "Host header"},
		{"GET", "/metrics", "", 403, "refused"},
	} {
		if code, body := get(test.method, test.path, test.host); code != test.code || !strings.Contains(body, test.want) {
			t.Errorf("%s %s of %q: %d %q, want %d %q", test.method, test.path, test.host, code, body, test.code, test.want)
		}
	}
	err := errors.New("bus rs485 has not come round for 2m0s")
	trouble.Store(&err)
	for _, path := range []string{"/livez", "/readyz"} {
		if code, body := get("GET", path, "localhost"); code != 503 || body != err.Error()+"\n" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
}

// run runs a server at an address of its choice and returns that.
func run(t *testing.T, s *Server) string {
	t.Helper()
	at := make(chan string, 1)
	s.cfg.bound = func(a net.Addr) { at <- a.String() }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return <-at
}

// Whoever asks too much is told so, and others are answered again afterwards.
func TestManyAnswersAtOnce(t *testing.T) {
	goOn := make(chan struct{})
	began := make(chan struct{}, maxAnswers)
	s := newServer(Config{Listen: "127.0.0.1:0", Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		began <- struct{}{}
		<-goOn
	})})
	url := "http://" + run(t, s)
	answers := make(chan int, maxAnswers)
	for range maxAnswers {
		go func() {
			resp, err := http.Get(url + "/metrics")
			if err != nil {
				t.Error(err)
				answers <- 0
				return
			}
			resp.Body.Close()
			answers <- resp.StatusCode
		}()
		<-began
	}
	resp, err := http.Get(url + "/status")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %s", resp.Status)
	}
	if resp, err = http.Get(url + "/livez"); err != nil || resp.StatusCode != 200 {
		t.Errorf("whether it is alive is not told while others ask much: %v, %v", resp, err)
	}
	close(goOn)
	for range maxAnswers {
		if code := <-answers; code != 200 {
			t.Errorf("one of those before it: %d", code)
		}
	}
	if resp, err = http.Get(url + "/status"); err != nil || resp.StatusCode != 200 {
		t.Errorf("afterwards: %v, %v", resp, err)
	}
}

// Connections beyond the bound are closed, and room comes back with those that end.
func TestManyConnections(t *testing.T) {
	s := newServer(Config{Listen: "127.0.0.1:0"})
	addr := run(t, s)
	ask := func(c net.Conn) error {
		fmt.Fprintf(c, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
		}
		return err
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var open []net.Conn
	for range maxConnections {
		c := dial()
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if ask(dial()) == nil {
		t.Error("one too many is answered")
	}
	open[0].Close()
	for late := time.After(time.Minute); s.conns.Load() >= maxConnections; runtime.Gosched() {
		select {
		case <-late:
			t.Fatal("the server does not notice that a connection has gone")
		default:
		}
	}
	if err := ask(dial()); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
}

// A taken address is told of once, and tried again until it is free.
func TestAddressIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		s := newServer(Config{Listen: l.Addr().String()})
		s.cfg.Log = slog.New(slog.NewTextHandler(&said, nil))
		at := make(chan net.Addr, 1)
		s.cfg.bound = func(a net.Addr) { at <- a }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		<-s.Ready()
		time.Sleep(3*relisten + time.Second) // of the time in here
		l.Close()
		<-at
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if out := said.String(); strings.Count(out, "cannot be shown") != 1 || strings.Count(out, "after all") != 1 {
			t.Error(out)
		}
	})
}
