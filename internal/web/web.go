// Package web answers HTTP on this machine: /metrics for Prometheus, /livez and
// /readyz for whoever watches over the process, /status for people and programs.
//
// All of it is read-only and without a login, so that the configuration allows
// addresses of this machine only. A page in a browser on it could still be made
// to ask under a name of its own (DNS rebinding); so a request must name an
// address or localhost.
//
// Whoever asks is bounded: so many connections, so many answers that take work
// at once, and a time for each. Nothing is prepared while nobody asks.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	maxConnections = 64
	maxAnswers     = 4 // of /metrics and /status under way at once; others are told to come again
	relisten       = 5 * time.Second
)

// A Config says what is answered, and where. All functions may be called by any
// goroutine, several at once.
type Config struct {
	Listen  string         // host:port
	Metrics http.Handler   // of GET /metrics
	Status  func() any     // what /status shows as JSON
	Live    func() error   // nil: all parts come round; else what does not, in words
	Ready   func() error   // nil: all listeners listen; else which does not
	Log     *slog.Logger   // never nil
	bound   func(net.Addr) // told where it listens; for tests
}

// A Server is what Run runs.
type Server struct {
	cfg   Config
	conns atomic.Int32
	under chan struct{} // holds one for each answer under way
	ready chan struct{} // closed when listening was tried once
}

// New returns a server that does not listen yet.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, under: make(chan struct{}, maxAnswers), ready: make(chan struct{})}
}

// Run answers until ctx is done. While the address is taken it tries again: a
// gateway works without being watched.
func (s *Server) Run(ctx context.Context) error {
	for first := true; ; first = false {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.Listen)
		if first {
			close(s.ready)
		}
		if err == nil {
			if !first {
				s.cfg.Log.Info("metrics and health are shown after all", "addr", s.cfg.Listen)
			}
			return s.serve(ctx, l)
		}
		if first && ctx.Err() == nil {
			s.cfg.Log.Error("metrics and health cannot be shown, trying again; if another program has the address, stop it or choose another in [web] listen",
				"addr", s.cfg.Listen, "err", err)
		}
		select {
		case <-time.After(relisten):
		case <-ctx.Done():
			return nil
		}
	}
}

// Ready is closed when the server listens, or could not at its first try.
func (s *Server) Ready() <-chan struct{} { return s.ready }

func (s *Server) serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute, // longer than most scrape intervals
		MaxHeaderBytes:    16 << 10,
		ConnState:         s.countConnections,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if s.cfg.bound != nil {
		s.cfg.bound(l.Addr())
	}
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("web: %w", err)
	}
	return nil
}

// countConnections closes those that are too many.
func (s *Server) countConnections(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if s.conns.Add(1) > maxConnections {
			c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		s.conns.Add(-1)
	}
}

const index = `This gateway shows
/metrics  its figures, for Prometheus
/status   what gateway status --json shows
/livez    whether all its parts come round
/readyz   whether it listens
`

// Handler answers all there is.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, index) })
	mux.Handle("GET /metrics", s.few(s.cfg.Metrics))
	mux.HandleFunc("GET /livez", health(s.cfg.Live))
	mux.HandleFunc("GET /readyz", health(s.cfg.Ready))
	mux.Handle("GET /status", s.few(http.HandlerFunc(s.getStatus)))
	return guard(mux)
}

// guard lets in who may ask.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Type", "text/plain; charset=utf-8")
		if !ownName(r.Host) {
			http.Error(w, fmt.Sprintf("refused: asked for as %q; ask by address or as localhost, and have a proxy set the Host header to it", r.Host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// few bounds how many answers that take work are under way at once.
func (s *Server) few(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.under <- struct{}{}:
			defer func() { <-s.under }()
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests at once; ask again", http.StatusServiceUnavailable)
		}
	})
}

// ownName reports whether host is no name that somebody else may have given to
// this machine.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	return host == "localhost" || net.ParseIP(host) != nil
}

func health(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n")
	}
}

func (s *Server) getStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.Encode(s.cfg.Status()) // the connection is gone if this fails
}
