package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
)

const (
	metaFile = "META"
	metaCopy = "META.bak"
	metaTemp = "META.tmp"
	lockFile = "LOCK"
	// cursorFile has room for one block of cursors, for when no segment has.
	cursorFile = "CURSORS"
	maxName    = 1024 // bytes of a consumer's name
	maxMeta    = 1 << 20
	epochBits  = 24

	counterBits = 40
)

// A meta is what META holds: a line of JSON and a line with its CRC32C. It is
// replaced as a whole, and its predecessor's copy in META.bak after it.
type meta struct {
	Format    int            `json:"format"`
	Log       uint64         `json:"log,string"`
	Ring      uint64         `json:"ring,string,omitempty"` // id that the ring is written under; 0: that of the log
	Epoch     uint64         `json:"epoch"`                 // highest epoch in which numbers may have been given
	Machine   string         `json:"machine"`
	Consumers []metaConsumer `json:"consumers"`
}

type metaConsumer struct {
	ID   uint16 `json:"id"`
	Born Seq    `json:"born"`
	Name string `json:"name"`
}

var errMeta = errors.New("no valid META")

func (m *meta) marshal() []byte {
	line, _ := json.Marshal(m) // of plain fields: cannot fail
	return fmt.Appendf(line, "\n%08x\n", crc32.Checksum(line, castagnoli))
}

// parseMeta decodes META. A newer format is ErrNewer whatever else it holds.
func parseMeta(p []byte) (*meta, error) {
	line, sum, _ := bytes.Cut(p, []byte("\n"))
	m := new(meta)
	if err := json.Unmarshal(line, m); err != nil || string(sum) != fmt.Sprintf("%08x\n", crc32.Checksum(line, castagnoli)) {
		return nil, errMeta
	}
	if m.Format > formatVersion {
		return nil, ErrNewer
	}
	for _, c := range m.Consumers {
		if c.ID >= maxConsumers {
			return nil, errMeta
		}
	}
	return m, nil
}

// readMeta returns META or its copy, nil when there is neither.
func readMeta(d Dir) (*meta, error) {
	m, err := readMetaFile(d, metaFile)
	if m != nil || errors.Is(err, ErrNewer) {
		return m, err
	}
	if m, err = readMetaFile(d, metaCopy); m != nil {
		m.Epoch++ // the copy may be one behind
	}
	if errors.Is(err, ErrNewer) {
		return nil, err
	}
	return m, nil
}

func readMetaFile(d Dir, name string) (*meta, error) {
	p, err := readFile(d, name)
	if err != nil {
		return nil, err
	}
	return parseMeta(p)
}

func readFile(d Dir, name string) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, 0, maxMeta))
}

// writeMeta replaces META, then its copy. It returns nil when META is durable.
func writeMeta(d Dir, m *meta) error {
	if err := replace(d, metaFile, m.marshal()); err != nil {
		return fmt.Errorf("write %s: %w", metaFile, err)
	}
	_ = replace(d, metaCopy, m.marshal()) // the next one will do
	return nil
}

// replace puts a file in the place of another, durably.
func replace(d Dir, name string, p []byte) error {
	f, err := d.Create(metaTemp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(p, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := d.Rename(metaTemp, name); err != nil {
		return err
	}
	return d.Sync()
}

// exists tells whether a file is there, readable or not.
func exists(d Dir, name string) bool {
	f, err := d.Open(name)
	if err == nil {
		f.Close()
	}
	return !errors.Is(err, fs.ErrNotExist)
}

// saveMeta writes META as it is now; l.meta is held. On failure the log is
// degraded: the committer writes it before the next block.
func (l *Log) saveMeta() error {
	if l.unlisted {
		return errUnlisted
	}
	l.mu.Lock()
	m := meta{Format: l.format, Log: l.id, Epoch: uint64(l.epoch), Machine: l.cfg.Machine}
	if l.ringID != l.id {
		m.Ring = l.ringID
	}
	for _, c := range l.consumers {
		if c != nil {
			m.Consumers = append(m.Consumers, metaConsumer{c.id, c.born, c.name})
		}
	}
	l.mu.Unlock()
	err := writeMeta(l.dir, &m)
	l.metaStale.Store(err != nil)
	if err != nil {
		l.count(func(s *Stats) { s.IOErrors++ })
		l.degrade(err)
	}
	return err
}

// freshenMeta writes META if that failed before. Only the committer calls it.
func (l *Log) freshenMeta() error {
	if !l.metaStale.Load() {
		return nil
	}
	l.meta.Lock()
	defer l.meta.Unlock()
	return l.saveMeta()
}
