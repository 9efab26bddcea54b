package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"edgegateway/bridge"
	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/devices"
	"edgegateway/internal/clock"
	"edgegateway/internal/config"
)

// Buffers are what messages wait in, as `gateway buffer` shows them: those of
// the running gateway, or the files of a stopped one, in which nothing is
// changed by looking.
type buffers struct {
	logs    map[string]*spool.Log
	broken  map[string]error // those that cannot be opened
	bridges map[string]bool  // that the configuration has
	clock   func() broker.Clock
	clockAt broker.ClockAt
	running bool
}

// sessionsLog is the log of what the sessions of the broker are owed.
const sessionsLog = "sessions"

// logOrder is how logs are shown, and the order in which they are read.
var logOrder = []string{broker.Critical.String(), broker.Telemetry.String(), sessionsLog}

// A BufferLog is one log.
type BufferLog struct {
	Name      string            `json:"name"`
	ID        string            `json:"id,omitempty"`
	State     string            `json:"state"` // "ok", "degraded", "stopped" or "unusable"
	Error     string            `json:"error,omitempty"`
	Segments  int               `json:"segments"`
	Bytes     int64             `json:"bytes"` // of its files
	Size      int64             `json:"size"`  // their bound
	Unsynced  float64           `json:"unsynced"`
	Dropped   map[string]uint64 `json:"dropped"` // since the start, by reason
	Damaged   uint64            `json:"damaged"` // bytes skipped since the start
	Consumers []BufferConsumer  `json:"consumers"`
}

// A BufferConsumer is one who is owed messages of a log.
type BufferConsumer struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"` // "bridge", "removed bridge" or "sessions"
	Records uint64   `json:"records"`
	Bytes   int64    `json:"bytes"`
	Oldest  *float64 `json:"oldest"` // seconds; null: nothing waits, or nobody can know
}

// A BufferMessage is one message that waits. Its payload is a string if it is
// UTF-8.
type BufferMessage struct {
	ID      string  `json:"id"`
	Class   string  `json:"class"`
	Topic   string  `json:"topic"`
	Payload *string `json:"payload,omitempty"`
	Binary  []byte  `json:"payload_base64,omitempty"`
	QoS     byte    `json:"qos"`
	Retain  bool    `json:"retain"`
	Time    string  `json:"time"`
	broker.ClockNote
	Age *float64 `json:"age"` // seconds; null: of another boot, nobody knows
}

// A purged says what purge did.
type purged struct {
	Records uint64 `json:"records"`
	Removed bool   `json:"removed"` // the consumer is no more
}

// buffers returns those of the running gateway.
func (g *gateway) buffers() *buffers {
	return &buffers{logs: g.allLogs(), bridges: bridgeNames(g.cfg), clock: g.clock.Now, clockAt: g.clock.At, running: true}
}

func bridgeNames(cfg *config.Config) map[string]bool {
	names := make(map[string]bool)
	for _, b := range cfg.Bridges {
		names[b.Name] = true
	}
	return names
}

// spoolSettings returns those of all logs by name.
func spoolSettings(cfg *config.Config) map[string]*config.Spool {
	all := map[string]*config.Spool{sessionsLog: &cfg.SessionSpool}
	for class := range cfg.Spools {
		all[broker.Class(class).String()] = &cfg.Spools[class]
	}
	return all
}

// spoolConfig returns where and how a log is kept.
func spoolConfig(at places, name string, settings *config.Spool, c *clock.Source, log *slog.Logger) spool.Config {
	return spool.Config{
		Dir:      filepath.Join(cmp.Or(settings.Dir, filepath.Join(at.state, "spool")), name),
		RingDir:  at.runtime,
		Name:     name,
		Size:     settings.Size,
		Sync:     settings.Sync,
		Compress: settings.Compress,
		Machine:  machine(),
		Log:      log,
		Time:     c.Times,
		BootID:   bootID(),
	}
}

// lookPlaces is where a stopped gateway left things.
func lookPlaces(state string) places {
	at := places{state: state, runtime: runtimeDir(state)}
	if _, err := os.Stat("/run/gateway"); err == nil && state == defaultState && os.Getenv("RUNTIME_DIRECTORY") == "" {
		at.runtime = "/run/gateway" // though we may not write there
	}
	return at
}

// lookIntoBuffers opens those of a stopped gateway.
func lookIntoBuffers(opts *options) (*buffers, error) {
	cfg, err := loadDevices(opts.config)
	if err != nil {
		return nil, err
	}
	source := openClock(cfg, opts.state, true, nil, nil)
	b := &buffers{logs: map[string]*spool.Log{}, broken: map[string]error{}, bridges: bridgeNames(cfg), clock: source.Now, clockAt: source.At}
	at := lookPlaces(opts.state)
	for name, settings := range spoolSettings(cfg) {
		where := spoolConfig(at, name, settings, source, nil)
		l, err := spool.Look(where)
		switch {
		case err == nil:
			b.logs[name] = l
		case errors.Is(err, spool.ErrLocked):
			b.close()
			return nil, fmt.Errorf("the buffer in %s is in use, but no gateway answers at %s: was it started with another --state, or is it just starting?", where.Dir, controlPath(opts.state))
		case errors.Is(err, fs.ErrPermission):
			b.close()
			return nil, fmt.Errorf("%w; it belongs to the gateway's user: use sudo", err)
		case !errors.Is(err, fs.ErrNotExist):
			b.broken[name] = err
		}
	}
	if len(b.logs)+len(b.broken) == 0 {
		return nil, fmt.Errorf("there is no buffer in %s: no gateway ever ran with this --state and this configuration", filepath.Join(opts.state, "spool"))
	}
	return b, nil
}

func (b *buffers) close() {
	for _, l := range b.logs {
		l.Close()
	}
}

// list describes all logs.
func (b *buffers) list() (list []BufferLog) {
	for _, name := range logOrder {
		if err := b.broken[name]; err != nil {
			list = append(list, BufferLog{Name: name, State: "unusable", Error: err.Error()})
		}
		l := b.logs[name]
		if l == nil {
			continue
		}
		s := l.Stats()
		e := BufferLog{
			Name: name, ID: l.ID(), State: s.State, Segments: s.Segments, Bytes: s.Bytes, Size: s.Size,
			Unsynced: s.Unsynced.Seconds(), Dropped: s.Dropped, Damaged: s.DamagedBytes,
		}
		if !b.running {
			e.State, e.Unsynced = "stopped", 0
		}
		for _, c := range l.Consumers() {
			e.Consumers = append(e.Consumers, b.consumer(name, c))
		}
		list = append(list, e)
	}
	return list
}

func (b *buffers) consumer(log string, c *spool.Consumer) BufferConsumer {
	waiting := c.Backlog()
	e := BufferConsumer{Name: c.Name(), Kind: "removed bridge", Records: waiting.Records, Bytes: waiting.Bytes}
	switch {
	case log == sessionsLog:
		e.Kind = "sessions"
	case b.bridges[c.Name()]:
		e.Kind = "bridge"
	}
	if waiting.Records > 0 {
		e.Oldest = b.age(waiting.OldestStamp, waiting.OldestBoot)
	}
	return e
}

// age returns how long ago a stamp of a boot was, nil when nobody can know.
func (b *buffers) age(stamp int64, boot spool.BootRef) *float64 {
	now := int64(devices.Now())
	if boot.ID == bootID() {
		return new(time.Duration(now - stamp).Seconds())
	}
	here, then := b.clock(), b.clockAt(boot, stamp)
	if then.Quality == broker.Unsynced || here.Quality == broker.Unsynced {
		return nil
	}
	return new(max(0, here.Wall(now).Sub(then.Wall(stamp)).Seconds()))
}

// messages gives fn the messages that a consumer is owed, oldest first in each
// log, and no more than limit; 0 is no limit. Nothing is acknowledged.
func (b *buffers) messages(ctx context.Context, consumer string, limit int, fn func(*BufferMessage) error) error {
	found := false
	for _, name := range logOrder {
		l := b.logs[name]
		if l == nil || l.Find(consumer) == nil {
			continue
		}
		found = true
		n, err := b.scan(ctx, name, l.Find(consumer), limit, fn)
		if err != nil {
			return err
		}
		if limit > 0 {
			if limit -= n; limit <= 0 {
				return nil
			}
		}
	}
	if !found {
		return b.unknown(consumer)
	}
	return nil
}

// unknown says who there is instead.
func (b *buffers) unknown(consumer string) error {
	var names []string
	for _, l := range b.logs {
		for _, c := range l.Consumers() {
			if !slices.Contains(names, c.Name()) {
				names = append(names, c.Name())
			}
		}
	}
	if len(names) == 0 {
		return usageError("nobody is called %q; nothing is buffered for anybody", consumer)
	}
	slices.Sort(names)
	return usageError("nobody is called %q; messages are buffered for: %s", consumer, strings.Join(names, ", "))
}

func (b *buffers) scan(ctx context.Context, log string, c *spool.Consumer, limit int, fn func(*BufferMessage) error) (n int, err error) {
	l := b.logs[log]
	r := c.Scan(c.Acked(), l.Last())
	defer r.Close()
	var buf []byte
	for limit == 0 || n < limit {
		rec, err := r.Next(ctx, buf)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("read the %s buffer: %w", log, err)
		}
		buf = rec.Data
		if err := fn(b.message(log, l.ID(), &rec)); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// message describes one record, with its times as they would be sent now.
func (b *buffers) message(log, id string, rec *spool.Record) *BufferMessage {
	e := &BufferMessage{ID: bridge.MessageID(id, rec.Seq), Class: log, Age: b.age(rec.Stamp, rec.Boot)}
	var m broker.Message
	decode := broker.DecodeRecord
	if log == sessionsLog {
		decode = broker.DecodeOwed
	}
	if err := decode(rec, &m); err != nil {
		m = broker.Message{Payload: rec.Data, Topic: ""} // shown as it is
	}
	then := b.clockAt(rec.Boot, rec.Stamp)
	m.Stamp = rec.Stamp
	m.Rebase(then)
	e.Topic, e.QoS, e.Retain = m.Topic, m.QoS, m.Retain
	e.Time = then.Wall(rec.Stamp).Format(payloadTime)
	e.ClockNote = then.Note(rec.Stamp)
	if utf8.Valid(m.Payload) {
		e.Payload = new(string(m.Payload))
	} else {
		e.Binary = m.Payload
	}
	return e
}

// verify reads all that is there.
func (b *buffers) verify(ctx context.Context) (map[string]*spool.Report, error) {
	reports := make(map[string]*spool.Report)
	for name, l := range b.logs {
		r, err := l.Verify(ctx)
		if err != nil {
			return nil, err
		}
		reports[name] = r
	}
	for name, err := range b.broken {
		reports[name] = &spool.Report{Damage: []spool.Damage{{What: err.Error()}}}
	}
	return reports, nil
}

// purge gives up what a consumer is owed. One that is no bridge any more it
// forgets.
func (b *buffers) purge(consumer string) (p purged, err error) {
	found := false
	for _, name := range logOrder {
		l := b.logs[name]
		if l == nil || l.Find(consumer) == nil {
			continue
		}
		if name == sessionsLog {
			return p, usageError("%q is what the sessions of all clients are owed; end a session by connecting with its client id and a clean start, or bound them by max_session_age and max_session_queue in [broker]", consumer)
		}
		found = true
		c := l.Find(consumer)
		if b.bridges[consumer] {
			p.Records += c.Purge()
			continue
		}
		p.Records += c.Backlog().Records
		p.Removed = true
		if err := l.Remove(consumer); err != nil {
			return p, fmt.Errorf("forget %q in the %s buffer: %w", consumer, name, err)
		}
	}
	if !found {
		return p, b.unknown(consumer)
	}
	return p, nil
}

// purgeStopped purges in the files of a stopped gateway. Only their owner may:
// what another user wrote there the gateway could not read any more.
func purgeStopped(opts *options, consumer string) (p purged, err error) {
	cfg, err := loadDevices(opts.config)
	if err != nil {
		return p, err
	}
	at := lookPlaces(opts.state)
	source := openClock(cfg, opts.state, true, nil, nil)
	b := &buffers{logs: map[string]*spool.Log{}, bridges: bridgeNames(cfg), clock: source.Now, clockAt: source.At}
	defer func() {
		for name, l := range b.logs {
			if cerr := l.Close(); cerr != nil {
				err = errors.Join(err, fmt.Errorf("store what was purged of the %s buffer: %w", name, cerr))
			}
		}
	}()
	for name, settings := range spoolSettings(cfg) {
		where := spoolConfig(at, name, settings, source, plainLogger(slog.LevelWarn))
		if err := ownedByUs(where.Dir, consumer); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return p, err
		}
		if b.logs[name], err = spool.Open(where); err != nil {
			delete(b.logs, name)
			return p, err
		}
	}
	return b.purge(consumer)
}

func ownedByUs(dir, consumer string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to %s: run `sudo -u %[2]s gateway buffer purge %[3]s`, or the gateway could not read it any more", dir, peerName(s.Uid), consumer)
	}
	return nil
}
