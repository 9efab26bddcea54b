package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// captureLog runs fn with what newLogger makes writing to a buffer.
func captureLog(t *testing.T, text string, fn func(log *slog.Logger, v *verbosity)) string {
	t.Helper()
	l, err := parseLevels(text)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = w
	read := make(chan string)
	go func() {
		all, _ := io.ReadAll(r)
		read <- string(all)
	}()
	v := newVerbosity(l)
	fn(newLogger(v), v)
	os.Stderr = stderr
	w.Close()
	return <-read
}

func TestLevelsOfParts(t *testing.T) {
	for text, want := range map[string]string{"info": "info", "warn,bridge=debug, spool=error": "warn,bridge=debug,spool=error", "gateway=debug": "info,gateway=debug"} {
		if l, err := parseLevels(text); err != nil || l.String() != want {
			t.Errorf("%q: %v, %v", text, l, err)
		}
	}
	for _, text := range []string{"", "loud", "bridge=", "bridge=loud"} {
		if _, err := parseLevels(text); err == nil || !strings.Contains(err.Error(), "is no log level") {
			t.Errorf("%q: %v", text, err)
		}
	}
	say := func(log *slog.Logger) { log.Debug("detail"); log.Info("news"); log.Warn("trouble") }
	for text, want := range map[string]string{"info": "news trouble", "error,gateway=warn": "trouble", "warn,gateway=debug": "detail news trouble", "debug,gateway=warn": "trouble", "info,bridge=debug": "news trouble"} {
		got := captureLog(t, text, func(log *slog.Logger, _ *verbosity) { say(log.With("bus", "x")) })
		for _, word := range []string{"detail", "news", "trouble"} {
			if strings.Contains(got, "msg="+word) != strings.Contains(want, word) {
				t.Errorf("%q: logged %q", text, got)
			}
		}
	}
}

// Other levels are for some time only.
func TestLevelsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		usual, more := &levels{all: slog.LevelWarn}, &levels{all: slog.LevelDebug}
		v := newVerbosity(usual)
		v.set(more, time.Minute)
		time.Sleep(30 * time.Second)
		v.set(more, time.Minute) // it begins anew
		time.Sleep(45 * time.Second)
		if v.now.Load() != more {
			t.Error("over too early")
		}
		time.Sleep(time.Minute)
		if v.now.Load() != usual {
			t.Error("not over")
		}
	})
}

// journald gets each line with its level and without a time.
func TestJournalGetsLevels(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "8:1")
	got := captureLog(t, "debug", func(log *slog.Logger, _ *verbosity) {
		log.Debug("a")
		log.Info("b level=ERROR")
		log.Warn("c")
		log.Error("d")
	})
	want := "<7>level=DEBUG msg=a\n<6>level=INFO msg=\"b level=ERROR\"\n<4>level=WARN msg=c\n<3>level=ERROR msg=d\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A place that has much to say says a part of it, and then how much it left
// out; another place is not held up by that.
func TestFloodsAreBounded(t *testing.T) {
	b := &logBounds{sites: map[uintptr]*logSite{}}
	now := time.Unix(1000, 0)
	said, told := 0, 0
	for range 10_000 {
		now = now.Add(10 * time.Millisecond)
		if n, ok := b.admit(1, now); ok {
			said++
			told += n
		}
	}
	if most := logBurst + int(100*time.Second/logEvery) + 1; said > most || said < most-2 {
		t.Errorf("said %d of 10000 in 100 s, want about %d", said, most)
	}
	if n, ok := b.admit(2, now); !ok || n != 0 {
		t.Error("another place is held up")
	}
	if n, ok := b.admit(1, now.Add(time.Hour)); !ok || said+told+n != 10_000 {
		t.Errorf("said %d, told %d left out", said, told+n)
	}
	out := captureLog(t, "info", func(log *slog.Logger, _ *verbosity) {
		for i := range 100 {
			log.Info("client connected", "n", i)
		}
		log.Log(context.Background(), slog.LevelInfo, "ready")
	})
	if n := strings.Count(out, "client connected"); n != logBurst || !strings.Contains(out, "msg=ready") {
		t.Errorf("%d of 100 lines, and %q", n, out[max(0, len(out)-100):])
	}
	out = captureLog(t, "debug", func(log *slog.Logger, _ *verbosity) {
		for i := range 100 {
			log.Debug(fmt.Sprint("packet ", i))
		}
	})
	if n := strings.Count(out, "packet"); n != 100 {
		t.Errorf("%d of 100 debug lines", n)
	}
}

// The running gateway logs more of one part when asked to.
func TestLogLevelAtRunTime(t *testing.T) {
	t.Parallel()
	s := newSite(t, "[bridge.far]\nurl = \"tcp://127.0.0.1:1\"\nclient_id = \"x\"\nsend = { \"{name}/#\" = \"x/#\" }\n", nil)
	s.run()
	if out, code := s.command("log"); code != 0 || out != "info\n" {
		t.Errorf("log: %q, exit code %d", out, code)
	}
	if _, code := s.command("log", "info,bridge=loud"); code != exitUsage {
		t.Errorf("exit code %d", code)
	}
	if out, code := s.command("log", "info,bridge=debug", "--for", "1h"); code != 0 || out != "info,bridge=debug\n" {
		t.Errorf("log: %q, exit code %d", out, code)
	}
	eventually(t, "the bridge says more", func() bool { return strings.Contains(s.out.String(), "level=DEBUG msg=\"no uplink, trying again\"") })
}
