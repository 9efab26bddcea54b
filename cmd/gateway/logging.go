package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

// The log is for people: what changed, once, with the same keys everywhere. A
// place in the program that has much to say, such as clients that come and go
// in turns, says a part of it and how much it left out. Which packages say more
// can be changed while the gateway runs.

// Bounds of what one place in the program logs, but for debug messages.
const (
	logBurst = 30              // at once
	logEvery = 5 * time.Second // and then one in
)

// Levels say from which level on is logged. Packages are called by their last
// name: bridge, modbus, spool.
type levels struct {
	all    slog.Level
	of     map[string]slog.Level
	lowest slog.Level
}

// parseLevels reads "info" or "info,bridge=debug,modbus=warn".
func parseLevels(text string) (*levels, error) {
	l := &levels{of: map[string]slog.Level{}}
	for part := range strings.SplitSeq(text, ",") {
		name, word, named := strings.Cut(strings.TrimSpace(part), "=")
		if !named {
			word = name
		}
		var level slog.Level
		if err := level.UnmarshalText([]byte(word)); err != nil {
			return nil, usageError("%q is no log level: write debug, info, warn or error, and of a package bridge=debug", part)
		}
		if named {
			l.of[name] = level
		} else {
			l.all = level
		}
	}
	l.lowest = l.all
	for _, level := range l.of {
		l.lowest = min(l.lowest, level)
	}
	return l, nil
}

func (l *levels) String() string {
	words := []string{strings.ToLower(l.all.String())}
	for _, name := range slices.Sorted(maps.Keys(l.of)) {
		words = append(words, name+"="+strings.ToLower(l.of[name].String()))
	}
	return strings.Join(words, ",")
}

// A verbosity is the present levels. Its methods may be called at once.
type verbosity struct {
	now atomic.Pointer[levels]

	mu    sync.Mutex
	usual *levels     // as the command line has it
	back  *time.Timer // to usual; nil: they are in force
}

func newVerbosity(l *levels) *verbosity {
	v := &verbosity{usual: l}
	v.now.Store(l)
	return v
}

// set changes the levels for some time.
func (v *verbosity) set(l *levels, length time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.back != nil {
		v.back.Stop()
	}
	v.now.Store(l)
	v.back = time.AfterFunc(length, func() { v.now.Store(v.usual) })
}

// A logHandler leaves out what the levels and the bounds say, and writes as
// journald wants it where that listens.
type logHandler struct {
	slog.Handler
	*logBounds
	levels *verbosity
}

// logBounds are shared by all loggers.
type logBounds struct {
	mu    sync.Mutex
	sites map[uintptr]*logSite
}

// A logSite is one place in the program that logs.
type logSite struct {
	room    float64
	at      time.Time // as of
	leftOut int
}

// newLogger logs to standard error; journald gets the level as its prefix and
// adds the time itself.
func newLogger(v *verbosity) *slog.Logger {
	h := &logHandler{logBounds: &logBounds{sites: map[uintptr]*logSite{}}, levels: v}
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	out := io.Writer(os.Stderr)
	if os.Getenv("JOURNAL_STREAM") != "" {
		out = &journalWriter{out: out}
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	h.Handler = slog.NewTextHandler(out, options)
	return slog.New(h)
}

// plainLogger is for commands that are no service.
func plainLogger(level slog.Level) *slog.Logger {
	return newLogger(newVerbosity(&levels{all: level, lowest: level}))
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.levels.now.Load().lowest
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.Handler = h.Handler.WithAttrs(attrs)
	return &c
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.Handler = h.Handler.WithGroup(name)
	return &c
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	l := h.levels.now.Load()
	least := l.all
	if len(l.of) > 0 {
		if level, ok := l.of[packageOf(r.PC)]; ok {
			least = level
		}
	}
	if r.Level < least {
		return nil
	}
	if r.Level >= slog.LevelInfo {
		leftOut, ok := h.admit(r.PC, r.Time)
		if !ok {
			return nil
		}
		if leftOut > 0 {
			r.AddAttrs(slog.Int("left_out", leftOut))
		}
	}
	return h.Handler.Handle(ctx, r)
}

// admit reports whether a place may say something, and how much it left out
// before.
func (b *logBounds) admit(pc uintptr, now time.Time) (leftOut int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sites[pc]
	if s == nil {
		s = &logSite{room: logBurst, at: now}
		b.sites[pc] = s
	}
	s.room = min(logBurst, s.room+float64(max(0, now.Sub(s.at)))/float64(logEvery))
	s.at = now
	if s.room < 1 {
		s.leftOut++
		return 0, false
	}
	s.room--
	leftOut, s.leftOut = s.leftOut, 0
	return leftOut, true
}

// packageOf returns the last name of the package that logs.
func packageOf(pc uintptr) string {
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	name := path.Base(frame.Function) // bridge.(*Bridge).Run
	name, _, _ = strings.Cut(name, ".")
	if name == "main" {
		return "gateway"
	}
	return name
}

// A journalWriter puts the level before each line, as sd-daemon(3) has it. A
// line is one Write.
type journalWriter struct{ out io.Writer }

func (w *journalWriter) Write(p []byte) (int, error) {
	priority := "<6>"
	for level, prefix := range map[string]string{"level=ERROR": "<3>", "level=WARN": "<4>", "level=DEBUG": "<7>"} {
		if strings.HasPrefix(string(p), level) {
			priority = prefix
		}
	}
	_, err := w.out.Write(append([]byte(priority), p...))
	return len(p), err
}

// A logRequest asks for other levels for some time.
type logRequest struct {
	Levels string        `json:"levels"`
	For    time.Duration `json:"for"`
}

// postLog changes the levels, and says what they are now.
func (c *control) postLog(w http.ResponseWriter, r *http.Request) {
	var req logRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		answer(w, nil, usageError("log request: %w", err))
		return
	}
	if c.verbosity == nil {
		answer(w, nil, usageError("this gateway's log has one level"))
		return
	}
	if req.Levels != "" {
		l, err := parseLevels(req.Levels)
		if err != nil {
			answer(w, nil, err)
			return
		}
		c.verbosity.set(l, req.For)
		c.log.Info("the log says more or less for some time", "levels", l.String(), "dur", req.For)
	}
	answer(w, logRequest{Levels: c.verbosity.now.Load().String()}, nil)
}

func newLogLevel(opts *options) *cobra.Command {
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "log [LEVELS]",
		Short: "Have the running gateway log more for some time",
		Long: `log changes from which level on the running gateway logs, of all or of one part: info,
or info,bridge=debug. The parts are the packages of the program: bridge, broker,
spool, devices, modbus, serial, mapping, gateway and others. After the time it is as
before. Without LEVELS it says what they are.`,
		Example: `  gateway log info,bridge=debug --for 15m
  gateway log`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := logRequest{For: length}
			if len(args) == 1 {
				req.Levels = args[0]
				if _, err := parseLevels(req.Levels); err != nil {
					return err
				}
			}
			if length < time.Second || length > 24*time.Hour {
				return usageError("--for is %s, must be 1s to 24h", length)
			}
			var now logRequest
			if err := ask(cmd.Context(), controlPath(opts.state), "/log", req, &now); err != nil {
				return err
			}
			fmt.Println(now.Levels)
			return nil
		},
	}
	cmd.Flags().DurationVar(&length, "for", 15*time.Minute, "how long: 1s to 24h")
	return cmd
}
