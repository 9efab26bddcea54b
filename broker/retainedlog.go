package broker

import (
	"encoding/binary"
	"iter"
	"log/slog"
	"path/filepath"
	"time"
)

// The log of retained messages is a stateLog. The body of a record is
//
//	boot id 16 | stamp i64 | message
//
// The last record of a topic counts, and one without payload says that nothing
// is retained.
const (
	retainedFile    = "retained.log"
	retainedMagic   = "GWRETAIN"
	retainedVersion = 1
)

// A retainedLog makes retained messages durable.
type retainedLog struct {
	stateLog
	boot [16]byte
}

// openRetainedLog reads the log in dir. It fails only if a newer version wrote
// it.
func openRetainedLog(dir string, every time.Duration, now int64, log *slog.Logger) (*retainedLog, []*Message, error) {
	l := &retainedLog{boot: bootID(), stateLog: stateLog{
		path: filepath.Join(dir, retainedFile), what: "retained messages",
		magic: retainedMagic, version: retainedVersion, every: every, log: log,
	}}
	r := retainedReader{boot: l.boot, now: now, last: make(map[string]int)}
	err := l.open(r.add)
	return l, r.msgs, err
}

// keep has the log hold the messages that all returns, each time it is asked.
func (l *retainedLog) keep(all func() []*Message) {
	l.snapshot = func() iter.Seq[[]byte] {
		return func(yield func([]byte) bool) {
			var body []byte
			for _, m := range all() {
				if body = appendRetained(body[:0], m, l.boot); !yield(body) {
					return
				}
			}
		}
	}
}

// append queues m and has done called when it is written, or cannot be.
func (l *retainedLog) append(m *Message, done func(error)) {
	l.stateLog.append(appendRetained(nil, m, l.boot), done)
}

func appendRetained(dst []byte, m *Message, boot [16]byte) []byte {
	dst = append(dst, boot[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(m.Stamp))
	return appendMessage(dst, m)
}

// A retainedReader collects the messages of a log. Stamps of another boot
// become now: their expiry starts again.
type retainedReader struct {
	boot [16]byte
	now  int64
	msgs []*Message
	last map[string]int // place of a topic's message in msgs
}

func (r *retainedReader) add(body []byte) bool {
	m := new(Message)
	if len(body) < 24 || decodeMessage(body[24:], m) != nil || ValidTopic(m.Topic) != nil {
		return false
	}
	m.Stamp = r.now
	if [16]byte(body) == r.boot {
		m.Stamp = int64(binary.LittleEndian.Uint64(body[16:]))
	}
	if at, ok := r.last[m.Topic]; ok {
		r.msgs[at] = m
		return true
	}
	r.last[m.Topic] = len(r.msgs)
	r.msgs = append(r.msgs, m)
	return true
}
