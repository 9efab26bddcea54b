package clock

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"edgegateway/broker/spool"
)

// The file holds two slots, written in turn, so that one that is torn leaves
// the other:
//
//	magic u32 | length u32 | crc32c u32 | 0 u32 | number u64 | length bytes of JSON
//
// Numbers are little endian; the checksum is that of number and text. The slot
// with the higher number counts.
const (
	fileName    = "clock"
	fileMagic   = 0x314b4347 // "GCK1"
	fileVersion = 1
	fileHeader  = 24
	slotSize    = 64 << 10
	page        = 4 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errNewer = errors.New("it was written by a newer version of the gateway")

// A file keeps a history. It has its full length from the first write on, so
// that a later one needs no room and one flush.
type file struct {
	fs     spool.FS
	dir    string
	f      spool.File
	number uint64
	barred bool // nothing is written
}

// load returns the history in a folder: an empty one if there is none, and the
// error says why that is not as it should be.
func (c *file) load() (*history, error) {
	empty := &history{Version: fileVersion}
	data, err := c.read()
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, err
	}
	var best *history
	for i := range 2 {
		h, number, err := parseSlot(data[min(len(data), i*slotSize):])
		if errors.Is(err, errNewer) {
			c.barred = true
			return empty, fmt.Errorf("%s: %w: nothing is written to it until that is used again, or the file removed", filepath.Join(c.dir, fileName), err)
		}
		if err == nil && number > c.number {
			best, c.number = h, number
		}
	}
	if best == nil {
		return empty, fmt.Errorf("%s is damaged", filepath.Join(c.dir, fileName))
	}
	return best, nil
}

func (c *file) read() ([]byte, error) {
	if c.fs == nil {
		return os.ReadFile(filepath.Join(c.dir, fileName))
	}
	dir, err := c.fs.Dir(c.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := dir.Open(fileName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, 2*slotSize)
	n, err := f.ReadAt(data, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], err
}

var errSlot = errors.New("no history here")

func parseSlot(p []byte) (*history, uint64, error) {
	le := binary.LittleEndian
	if len(p) < fileHeader || le.Uint32(p) != fileMagic {
		return nil, 0, errSlot
	}
	n := le.Uint32(p[4:])
	if n > slotSize-fileHeader || int(n)+fileHeader > len(p) || le.Uint32(p[8:]) != crc32.Checksum(p[16:fileHeader+n], castagnoli) {
		return nil, 0, errSlot
	}
	h := new(history)
	err := json.Unmarshal(p[fileHeader:fileHeader+n], h)
	switch {
	case h.Version > fileVersion:
		return nil, 0, errNewer
	case err != nil || !h.sound():
		return nil, 0, errSlot
	}
	return h, le.Uint64(p[16:]), nil
}

// sound tells whether h can be worked with.
func (h *history) sound() bool {
	const most = 1 << 61 // ns, so that sums of two fit
	within := func(n int64) bool { return -most < n && n < most }
	if len(h.Boots) > maxBoots || !within(h.Floor) {
		return false
	}
	for _, b := range h.Boots {
		if b == nil || len(b.Refs) > maxRefs || !within(b.Offset) || !within(b.Seen) || b.Seen < 0 {
			return false
		}
		last := int64(-1)
		for _, r := range b.Refs {
			if r.At <= last || !within(r.At) || !within(r.Offset) || r.Error < 0 || !within(r.Error) || r.Slew < 0 || !within(r.Slew) {
				return false
			}
			last = r.At
		}
	}
	return true
}

func appendSlot(dst []byte, h *history, number uint64) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return dst, err
	}
	if len(text) > slotSize-fileHeader {
		return dst, fmt.Errorf("a history of %d bytes is too long", len(text))
	}
	le := binary.LittleEndian
	b := make([]byte, (fileHeader+len(text)+page-1)/page*page)
	le.PutUint32(b, fileMagic)
	le.PutUint32(b[4:], uint32(len(text)))
	le.PutUint64(b[16:], number)
	copy(b[fileHeader:], text)
	le.PutUint32(b[8:], crc32.Checksum(b[16:fileHeader+len(text)], castagnoli))
	return append(dst, b...), nil
}

// save brings slot, which appendSlot made for the next number, to the medium.
func (c *file) save(slot []byte) error {
	err := c.open()
	if err == nil {
		_, err = c.f.WriteAt(slot, int64(c.number+1)%2*slotSize)
	}
	if err == nil {
		err = c.f.Sync()
	}
	if err != nil {
		c.close() // what the medium has of it after an error nobody knows
		return fmt.Errorf("write %s: %w", filepath.Join(c.dir, fileName), err)
	}
	c.number++
	return nil
}

func (c *file) open() error {
	if c.f != nil {
		return nil
	}
	under := c.fs
	if under == nil {
		under = spool.OS()
	}
	dir, err := under.Dir(c.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	f, err := dir.Open(fileName)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = dir.Create(fileName)
	}
	if err != nil {
		return err
	}
	have, err := f.Size()
	if err == nil && have < 2*slotSize {
		if _, err = f.WriteAt(make([]byte, 2*slotSize-have), have); err == nil {
			err = dir.Sync()
		}
	}
	if err != nil {
		f.Close()
		return err
	}
	c.f = f
	return nil
}

func (c *file) close() {
	if c.f != nil {
		c.f.Close()
		c.f = nil
	}
}
