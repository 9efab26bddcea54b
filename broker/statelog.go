package broker

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A stateLog keeps a state in one file, as records of which later ones undo or
// replace earlier ones:
//
//	magic, 8 bytes | version u32 | record*
//	record: length u32 | crc32c u32 | body
//
// Numbers are little endian; the length and the checksum are those of the
// body. Records are written before their done is called, so kill -9 loses
// nothing, and synced at once or from time to time: a power cut loses at most
// that time. A torn or damaged record is skipped and the file written anew from
// the state in memory. When it has grown to twice what it was after it was last
// written anew, and by a megabyte, that is done again.
//
// Its loop has the file; append may be called by anyone.
type stateLog struct {
	path     string
	what     string        // it keeps, for log lines
	magic    string        // 8 bytes
	version  uint32        // of the records
	every    time.Duration // between syncs; 0: before done is called, below 0: never
	log      *slog.Logger
	snapshot func() iter.Seq[[]byte] // the bodies that make the present state; each valid until the next

	mu      sync.Mutex
	pending []byte
	done    []func(error)
	closed  bool
	wake    chan struct{} // one token: there is something to do

	// Owned by loop.
	file   *os.File // nil: to be written anew
	size   int64    // of file, without what was written half
	base   int64    // size when it was last written anew
	dirty  bool     // not synced
	broken error    // why there is no file; nil at first
}

const (
	stateSync    = 5 * time.Second
	statePending = 16 << 20 // bytes waiting to be written; what is above is refused
	stateGrowth  = 1 << 20
	stateHead    = 8 + 4
	stateRecord  = 8 // bytes before a body
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// open reads the file and gives each body in it to each, which says whether it
// is sound. It fails only if a newer version wrote the file; what cannot be
// read is logged, and refused when it is to be written.
func (l *stateLog) open(each func(body []byte) bool) error {
	l.wake = make(chan struct{}, 1)
	data, err := os.ReadFile(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		l.log.Error(l.what+" cannot be read, starting without them", "path", l.path, "err", err)
		os.Rename(l.path, l.path+".damaged") // so that it is not written over
		return nil
	}
	if v := stateVersion(data, l.magic); v > l.version {
		return fmt.Errorf("%s has version %d and this program knows %d: run the newer program, or move the file away", l.path, v, l.version)
	}
	if damaged := readState(data, l.magic, each); damaged > 0 {
		l.log.Warn(l.what+": damaged records skipped", "path", l.path, "n", damaged)
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		l.file, l.size, l.base = f, int64(len(data)), int64(len(data))
	}
	return nil
}

// stateVersion returns the version of a file, 0 if it is none of that kind.
func stateVersion(data []byte, magic string) uint32 {
	if len(data) < stateHead || string(data[:len(magic)]) != magic {
		return 0
	}
	return binary.LittleEndian.Uint32(data[len(magic):])
}

// readState gives each the bodies of a file and returns how many records of
// it, or rests of one, are damaged.
func readState(data []byte, magic string, each func(body []byte) bool) (damaged int) {
	if stateVersion(data, magic) == 0 {
		return 1
	}
	for data = data[stateHead:]; len(data) > 0; {
		if len(data) < stateRecord || uint64(binary.LittleEndian.Uint32(data)) > uint64(len(data)-stateRecord) {
			return damaged + 1
		}
		n, sum := int(binary.LittleEndian.Uint32(data)), binary.LittleEndian.Uint32(data[4:])
		body := data[stateRecord : stateRecord+n]
		data = data[stateRecord+n:]
		if crc32.Checksum(body, castagnoli) != sum || !each(body) {
			damaged++
		}
	}
	return damaged
}

// appendState appends a body with its frame.
func appendState(dst, body []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(body, castagnoli))
	return append(dst, body...)
}

// append queues a record and has done, unless nil, called when it is written,
// or cannot be, by another goroutine.
func (l *stateLog) append(body []byte, done func(error)) {
	l.mu.Lock()
	if l.closed || len(l.pending) > statePending {
		l.mu.Unlock()
		if done != nil {
			go done(ErrQuota)
		}
		return
	}
	l.pending = appendState(l.pending, body)
	if done != nil {
		l.done = append(l.done, done)
	}
	l.mu.Unlock()
	l.poke()
}

func (l *stateLog) poke() {
	select {
	case l.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// close ends loop once everything is written.
func (l *stateLog) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.poke()
}

// loop writes what is appended until close.
func (l *stateLog) loop() {
	tick := time.NewTicker(stateSync)
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
func (l *stateLog) flush() (closed bool) {
	l.mu.Lock()
	pending, done, closed := l.pending, l.done, l.closed
	l.pending, l.done = nil, nil
	l.mu.Unlock()
	if len(pending) == 0 {
		return closed
	}
	err := l.write(pending)
	if err == nil && l.every == 0 {
		err = l.sync()
	}
	for _, fn := range done {
		fn(err)
	}
	return closed
}

// write appends records. Without a sound file it writes one anew: the
// snapshot has the records too.
func (l *stateLog) write(records []byte) error {
	if l.broken != nil {
		return l.broken // loop tries again at its next tick
	}
	if l.file == nil || l.size > 2*l.base+stateGrowth {
		return l.rewrite()
	}
	if _, err := l.file.Write(records); err != nil {
		l.file.Truncate(l.size)
		return l.fail(fmt.Errorf("write %s to %s: %w", l.what, l.path, err))
	}
	l.size += int64(len(records))
	l.dirty = true
	return nil
}

// fail gives the file up, for loop to write it anew at its next tick.
func (l *stateLog) fail(err error) error {
	if l.broken == nil {
		l.log.Error(l.what+" cannot be kept", "err", err)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.broken = nil, err
	return err
}

// rewrite puts a file with the present state in the place of the present one.
func (l *stateLog) rewrite() error {
	f, size, err := replaceFile(l.path, l.every >= 0, l.writeSnapshot)
	if err != nil {
		return l.fail(fmt.Errorf("rewrite %s: %w", l.what, err))
	}
	if l.file != nil {
		l.file.Close()
	}
	if l.broken != nil {
		l.log.Info(l.what+" are kept again", "path", l.path)
	}
	l.file, l.broken, l.dirty = f, nil, false
	l.size, l.base = size, size
	return nil
}

func (l *stateLog) writeSnapshot(w *bufio.Writer) (size int64, err error) {
	frame := binary.LittleEndian.AppendUint32([]byte(l.magic), l.version)
	for body := range l.snapshot() {
		size += int64(len(frame))
		if _, err = w.Write(frame); err != nil {
			return size, err
		}
		frame = appendState(frame[:0], body)
	}
	_, err = w.Write(frame)
	return size + int64(len(frame)), err
}

// replaceFile has fill write a file and puts it at path so that a power cut
// leaves the old one or the new one. It returns the file, open for appending.
func replaceFile(path string, sync bool, fill func(*bufio.Writer) (int64, error)) (_ *os.File, size int64, err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, 0, err
	}
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
		}
	}()
	w := bufio.NewWriterSize(f, 64<<10)
	if size, err = fill(w); err != nil {
		return nil, 0, err
	}
	if err = w.Flush(); err != nil {
		return nil, 0, err
	}
	if sync {
		if err = f.Sync(); err != nil {
			return nil, 0, err
		}
	}
	if err = os.Rename(tmp, path); err != nil || !sync {
		return f, size, err
	}
	return f, size, syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (l *stateLog) sync() error {
	if !l.dirty || l.file == nil || l.every < 0 {
		return nil
	}
	if err := l.file.Sync(); err != nil {
		return l.fail(fmt.Errorf("sync %s to %s: %w", l.what, l.path, err))
	}
	l.dirty = false
	return nil
}

// bootID returns the kernel's id of this boot, zero if it has none.
func bootID() (id [16]byte) {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	digits := strings.ReplaceAll(strings.TrimSpace(string(text)), "-", "")
	if raw, err := hex.DecodeString(digits); err == nil {
		copy(id[:], raw)
	}
	return id
}
