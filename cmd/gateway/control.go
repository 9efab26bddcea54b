package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix" // SO_PEERCRED: who is at the other end of the control socket
)

// The control socket is HTTP on a Unix socket. Whoever the kernel lets
// connect is allowed: the socket belongs to the service's user and group and
// has mode 0660; beyond that only root and the service's own user are let in
// by their credentials. Who wrote is logged.

// maxRequest bounds the body of a control request, bytes.
const maxRequest = 64 << 10

// A control serves the commands of other processes while the gateway runs.
type control struct {
	path    string
	plant   func() *plant
	command *commander
	pauses  *pauses
	loan    time.Duration // how long a bus is lent at most
	// status is called from any goroutine.
	status    func() *Status
	buffers   func() *buffers
	reload    func(context.Context) (*ReloadStatus, error) // nil: nothing is ever reloaded
	verbosity *verbosity                                   // of the log; nil: it is what it is
	log       *slog.Logger
}

// listen makes the socket; an abandoned one of a gateway that was killed is
// replaced, one that answers is not.
func (c *control) listen() (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(c.path), 0o750); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if len(c.path) > 100 {
		return nil, fmt.Errorf("control socket: the path %s is longer than the 100 characters a socket may have; use a shorter --state", c.path)
	}
	if conn, err := net.Dial("unix", c.path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("control socket: another gateway is running and listens on %s", c.path)
	}
	if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", c.path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(c.path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// serve answers until ctx is done.
func (c *control) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", c.getStatus)
	mux.HandleFunc("POST /read", c.postRead)
	mux.HandleFunc("POST /write", c.postWrite)
	mux.HandleFunc("POST /hold", c.postHold)
	mux.HandleFunc("POST /release", c.postRelease)
	mux.HandleFunc("POST /lend", c.postLend)
	mux.HandleFunc("POST /reload", c.postReload)
	mux.HandleFunc("POST /log", c.postLog)
	mux.HandleFunc("POST /mute", c.postMute)
	mux.HandleFunc("POST /pause", c.postPause)
	mux.HandleFunc("POST /capture", c.postCapture)
	c.serveBuffers(mux)
	mux.HandleFunc("GET /audit", func(w http.ResponseWriter, _ *http.Request) { answer(w, c.command.writes.Last(0), nil) })
	server := &http.Server{
		Handler:           http.MaxBytesHandler(mux, maxRequest),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(c.log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

type peerKey struct{}

// withPeer notes who connected.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return ctx
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			ctx = context.WithValue(ctx, peerKey{}, cred)
		}
	})
	return ctx
}

func (c *control) getStatus(w http.ResponseWriter, _ *http.Request) {
	answer(w, c.status(), nil)
}

func (c *control) postRead(w http.ResponseWriter, r *http.Request) {
	var req readRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		answer(w, nil, usageError("read request: %w", err))
		return
	}
	results, err := c.plant().read(r.Context(), req)
	answer(w, results, err)
}

func (c *control) postWrite(w http.ResponseWriter, r *http.Request) {
	var req writeRequest
	by, err := request(r, "write", &req)
	if err != nil {
		answer(w, nil, err)
		return
	}
	result, err := c.command.write(r.Context(), req, by)
	answer(w, result, err)
}

func (c *control) postHold(w http.ResponseWriter, r *http.Request) {
	var req holdRequest
	by, err := request(r, "hold", &req)
	if err != nil {
		answer(w, nil, err)
		return
	}
	result, err := c.command.hold(r.Context(), req, by)
	answer(w, result, err)
}

func (c *control) postRelease(w http.ResponseWriter, r *http.Request) {
	var req writeRequest
	by, err := request(r, "release", &req)
	if err == nil {
		err = c.command.release(req.Target, by)
	}
	answer(w, struct{}{}, err)
}

func (c *control) postReload(w http.ResponseWriter, r *http.Request) {
	if c.reload == nil {
		answer(w, nil, errors.New("this gateway reloads nothing"))
		return
	}
	status, err := c.reload(r.Context())
	answer(w, status, err)
}

func (c *control) postMute(w http.ResponseWriter, r *http.Request) {
	var req muteRequest
	by, err := request(r, "mute", &req)
	if err != nil {
		answer(w, nil, err)
		return
	}
	status, err := c.command.mute(req, by)
	answer(w, status, err)
}

func (c *control) postPause(w http.ResponseWriter, r *http.Request) {
	var req pauseRequest
	by, err := request(r, "pause", &req)
	if err != nil {
		answer(w, nil, err)
		return
	}
	io.Copy(io.Discard, r.Body) // only then the end of the connection is noticed
	var status PauseStatus
	if req.End {
		status, err = c.pauses.take(req.Bus, by)
	} else {
		status, err = c.pauses.pause(r.Context(), req, by)
	}
	answer(w, status, err)
}

// request reads a request that changes something, and says who asks.
func request(r *http.Request, what string, req any) (by string, err error) {
	if err := json.NewDecoder(r.Body).Decode(req); err != nil {
		return "", usageError("%s request: %w", what, err)
	}
	return peer(r)
}

// peer names who asks; without that nothing is written.
func peer(r *http.Request) (string, error) {
	cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred)
	if !ok {
		return "", errors.New("refused: the kernel does not tell who asks")
	}
	return peerName(cred.Uid), nil
}

// A refusal is how an error travels over the socket.
type refusal struct {
	Error string `json:"error"`
	Code  int    `json:"code"` // exit code
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		code := exitFailed
		if exit, ok := errors.AsType[*exitError](err); ok {
			code = exit.code
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		v = refusal{err.Error(), code}
	}
	json.NewEncoder(w).Encode(v) // the connection is gone if this fails
}

// errNotRunning says that no gateway listens on the control socket.
var errNotRunning = errors.New("no gateway is running")

// ask sends one request to the running gateway and decodes its answer into
// result. A nil body is a GET.
func ask(ctx context.Context, socket, path string, body, result any) error {
	resp, err := send(ctx, socket, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	return json.Unmarshal(text, result)
}

// send sends one request to the running gateway and returns its answer, which
// is no refusal.
func send(ctx context.Context, socket, path string, body any) (*http.Response, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway"+path, nil)
	if body != nil {
		var text []byte
		if text, err = json.Marshal(body); err == nil {
			req, err = http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway"+path, bytes.NewReader(text))
		}
	}
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, errNotRunning
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("the control socket %s belongs to the gateway's user: use sudo, or join its group", socket)
	case err != nil:
		return nil, fmt.Errorf("ask the running gateway: %w", err)
	case resp.StatusCode == http.StatusOK:
		return resp, nil
	}
	defer resp.Body.Close()
	var no refusal
	if json.NewDecoder(resp.Body).Decode(&no) != nil || no.Error == "" {
		return nil, fmt.Errorf("the gateway answered %s", resp.Status)
	}
	return nil, &exitError{no.Code, errors.New(no.Error)}
}
