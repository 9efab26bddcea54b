package broker

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The log of retained messages is one file:
//
//	"GWRETAIN" | version u32 | record*
//	record: length u32 | crc32c u32 | boot id 16 | stamp i64 | message
//
// Numbers are little endian; the length and the checksum are those of what
// follows them. The last record of a topic counts, and one without payload
// says that nothing is retained. Records are written before their publisher is
// acknowledged and synced each retainedSync, so kill -9 loses nothing and a
// power cut at most that. A torn or damaged record is skipped and the file
// written anew. When it has grown to twice what it was after it was last
// written anew, and by a megabyte, that is done again.
const (
	retainedFile    = "retained.log"
	retainedMagic   = "GWRETAIN"
	retainedVersion = 1
	retainedHeader  = len(retainedMagic) + 4
	retainedSync    = 5 * time.Second
	retainedPending = 16 << 20 // bytes waiting to be written; what is above is refused
	retainedGrowth  = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A retainedLog makes retained messages durable. Its run has the file; append
// may be called by anyone.
type retainedLog struct {
	path     string
	boot     [16]byte
	log      *slog.Logger
	snapshot func() []*Message // all that are to be in the file

	mu      sync.Mutex
	pending []byte
	done    []func(error)
	closed  bool
	wake    chan struct{} // one token: there is something to do

	// Owned by run.
	file   *os.File // nil: to be written anew
	size   int64    // of file, without what was written half
	base   int64    // size when it was last written anew
	dirty  bool     // not synced
	broken error    // why there is no file; nil at first
}

// openRetainedLog reads the log in dir. It fails only if a newer version wrote
// it; what cannot be read is logged, and refused when it is to be written.
func openRetainedLog(dir string, now int64, log *slog.Logger) (*retainedLog, []*Message, error) {
	l := &retainedLog{path: filepath.Join(dir, retainedFile), boot: bootID(), log: log, wake: make(chan struct{}, 1)}
	data, err := os.ReadFile(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return l, nil, nil
	case err != nil:
		log.Error("retained messages cannot be read, starting without them", "path", l.path, "err", err)
		l.setAside()
		return l, nil, nil
	}
	if len(data) >= retainedHeader && string(data[:len(retainedMagic)]) == retainedMagic {
		if v := binary.LittleEndian.Uint32(data[len(retainedMagic):]); v > retainedVersion {
			return nil, nil, fmt.Errorf("%s has version %d and this program knows %d: run the newer program, or move the file away", l.path, v, retainedVersion)
		}
	}
	msgs, damaged := decodeRetained(data, l.boot, now)
	if damaged > 0 {
		log.Warn("retained messages: damaged records skipped", "path", l.path, "n", damaged)
		return l, msgs, nil
	}
	l.reopen(int64(len(data)))
	return l, msgs, nil
}

// reopen continues a file that is sound.
func (l *retainedLog) reopen(size int64) {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		l.file, l.size, l.base = f, size, size
	}
}

// setAside keeps a file that cannot be read from being written over.
func (l *retainedLog) setAside() { os.Rename(l.path, l.path+".damaged") }

// bootID returns the kernel's id of this boot, zero if it has none.
func bootID() (id [16]byte) {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	digits := strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "")
	if raw, err := hex.DecodeString(digits); err == nil {
		copy(id[:], raw)
	}
	return id
}

// decodeRetained returns the messages of a log and how many records of it, or
// rests of one, were damaged. Stamps of another boot become now: their expiry
// starts again.
func decodeRetained(data []byte, boot [16]byte, now int64) (msgs []*Message, damaged int) {
	if len(data) < retainedHeader || string(data[:len(retainedMagic)]) != retainedMagic {
		return nil, 1
	}
	last := make(map[string]int)
	for data = data[retainedHeader:]; len(data) > 0; {
		if len(data) < 8 || uint64(binary.LittleEndian.Uint32(data)) > uint64(len(data)-8) {
			return msgs, damaged + 1
		}
		n, sum := int(binary.LittleEndian.Uint32(data)), binary.LittleEndian.Uint32(data[4:])
		body := data[8 : 8+n]
		data = data[8+n:]
		m := new(Message)
		if crc32.Checksum(body, castagnoli) != sum || n < 24 || decodeMessage(body[24:], m) != nil || ValidTopic(m.Topic) != nil {
			damaged++
			continue
		}
		m.Stamp = now
		if [16]byte(body) == boot {
			m.Stamp = int64(binary.LittleEndian.Uint64(body[16:]))
		}
		if at, ok := last[m.Topic]; ok {
			msgs[at] = m
			continue
		}
		last[m.Topic] = len(msgs)
		msgs = append(msgs, m)
	}
	return msgs, damaged
}

func appendRetained(dst []byte, m *Message, boot [16]byte) []byte {
	mark := len(dst)
	dst = append(dst, make([]byte, 8)...)
	dst = append(dst, boot[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(m.Stamp))
	dst = appendMessage(dst, m)
	body := dst[mark+8:]
	binary.LittleEndian.PutUint32(dst[mark:], uint32(len(body)))
	binary.LittleEndian.PutUint32(dst[mark+4:], crc32.Checksum(body, castagnoli))
	return dst
}

// append queues m and has done called when it is written, or cannot be.
func (l *retainedLog) append(m *Message, done func(error)) {
	l.mu.Lock()
	if l.closed || len(l.pending) > retainedPending {
		l.mu.Unlock()
		done(ErrQuota)
		return
	}
	l.pending = appendRetained(l.pending, m, l.boot)
	l.done = append(l.done, done)
	l.mu.Unlock()
	l.poke()
}

func (l *retainedLog) poke() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// close ends run once everything is written.
func (l *retainedLog) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.poke()
}

// run writes what is appended until close.
func (l *retainedLog) run() {
	tick := time.NewTicker(retainedSync)
	defer tick.Stop()
	for closed := false; !closed; {
		select {
		case <-l.wake:
		case <-tick.C:
			l.sync()
			if l.broken != nil {
				l.rewrite()
			}
		}
		closed = l.flush()
	}
	l.sync()
	if l.file != nil {
		l.file.Close()
	}
}

// flush writes what is pending and says whether the log was closed.
func (l *retainedLog) flush() (closed bool) {
	l.mu.Lock()
	pending, done, closed := l.pending, l.done, l.closed
	l.pending, l.done = nil, nil
	l.mu.Unlock()
	if len(pending) == 0 {
		return closed
	}
	err := l.write(pending)
	for _, fn := range done {
		fn(err)
	}
	return closed
}

// write appends records. Without a sound file it writes one anew: the
// snapshot has the records too.
func (l *retainedLog) write(records []byte) error {
	if l.broken != nil {
		return l.broken // run tries again at its next tick
	}
	if l.file == nil || l.size > 2*l.base+retainedGrowth {
		return l.rewrite()
	}
	if _, err := l.file.Write(records); err != nil {
		l.file.Truncate(l.size)
		return l.fail(fmt.Errorf("write retained messages to %s: %w", l.path, err))
	}
	l.size += int64(len(records))
	l.dirty = true
	return nil
}

// fail gives the file up, for run to write it anew at its next tick.
func (l *retainedLog) fail(err error) error {
	if l.broken == nil {
		l.log.Error("retained messages cannot be kept", "err", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.broken = nil, err
	return err
}

// rewrite puts a file with what is retained now in the place of the present
// one.
func (l *retainedLog) rewrite() error {
	data := binary.LittleEndian.AppendUint32([]byte(retainedMagic), retainedVersion)
	for _, m := range l.snapshot() {
		data = appendRetained(data, m, l.boot)
	}
	f, err := replaceFile(l.path, data)
	if err != nil {
		return l.fail(fmt.Errorf("rewrite retained messages: %w", err))
	}
	if l.file != nil {
		l.file.Close()
	}
	if l.broken != nil {
		l.log.Info("retained messages are kept again", "path", l.path)
	}
	l.file, l.broken, l.dirty = f, nil, false
	l.size, l.base = int64(len(data)), int64(len(data))
	return nil
}

// replaceFile writes data to path so that a power cut leaves the old file or
// the new one, and returns it open for appending.
func replaceFile(path string, data []byte) (_ *os.File, err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return nil, err
	}
	if err = f.Sync(); err != nil {
		return nil, err
	}
	if err = os.Rename(tmp, path); err != nil {
		return nil, err
	}
	return f, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (l *retainedLog) sync() {
	if !l.dirty || l.file == nil {
		return
	}
	if err := l.file.Sync(); err != nil {
		l.fail(fmt.Errorf("sync retained messages to %s: %w", l.path, err))
		return
	}
	l.dirty = false
}
