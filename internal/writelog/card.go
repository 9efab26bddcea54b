package writelog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"edgegateway/broker/spool"
)

const (
	magic     = 0x31575747 // "GWW1"
	version   = 1
	block     = 4 << 10
	header    = 32
	frameFill = 48 << 10 // bytes of entries after which a frame of a snapshot ends
)

var (
	fileNames  = [2]string{"writes.0", "writes.1"}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errFull    = errors.New("the file is full")
)

// A card is the two files as they are written. Its Log's mutex guards it.
type card struct {
	dir        spool.Dir
	size       int64
	generation uint64     // the latest that was begun, whole or not: none is used twice
	at         int        // in which file it is
	file       spool.File // nil: there is none to append to
	next       int64      // where the next frame begins
	number     uint64     // and which it is
	dirty      bool       // frames were written since the last sync that was asked for
}

// frame returns text in a frame, filled up to whole blocks.
func frame(generation, number uint64, text []byte) []byte {
	b := make([]byte, (header+len(text)+block-1)/block*block)
	binary.LittleEndian.PutUint32(b, magic)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(text)))
	binary.LittleEndian.PutUint64(b[16:], generation)
	binary.LittleEndian.PutUint64(b[24:], number)
	copy(b[header:], text)
	binary.LittleEndian.PutUint32(b[8:], checksum(b[:header+len(text)]))
	return b
}

// checksum covers the length and all behind the checksum.
func checksum(b []byte) uint32 {
	sum := crc32.Checksum(b[4:8], castagnoli)
	return crc32.Update(sum, castagnoli, b[12:])
}

func (c *card) append(text []byte) error {
	b := frame(c.generation, c.number, text)
	if c.next+int64(len(b)) > c.size {
		return errFull
	}
	if _, err := c.file.WriteAt(b, c.next); err != nil {
		return fmt.Errorf("write %s: %w", fileNames[c.at], err)
	}
	c.next += int64(len(b))
	c.number++
	c.dirty = true
	return nil
}

// begin writes a generation that begins with texts to the other file. If it
// cannot, there is no file to append to until it could.
func (c *card) begin(texts [][]byte) error {
	c.drop()
	at := 1 - c.at
	f, err := c.open(fileNames[at])
	if err != nil {
		return err
	}
	c.generation++
	next := int64(0)
	for i, text := range texts {
		b := frame(c.generation, uint64(i), text)
		if next+int64(len(b)) > c.size {
			err = errFull
			break
		}
		if _, err = f.WriteAt(b, next); err != nil {
			break
		}
		next += int64(len(b))
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", fileNames[at], err)
	}
	c.at, c.file, c.next, c.number, c.dirty = at, f, next, uint64(len(texts)), false
	return nil
}

// open returns a file of full length: one that is shorter is filled up with
// zeros, so that appending to it never needs room.
func (c *card) open(name string) (spool.File, error) {
	f, err := c.dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = c.dir.Create(name)
	}
	if err != nil {
		return nil, err
	}
	have, err := f.Size()
	zeros := make([]byte, 64<<10)
	for err == nil && have < c.size {
		n := min(int64(len(zeros)), c.size-have)
		if _, err = f.WriteAt(zeros[:n], have); err == nil {
			have += n
		}
	}
	if err == nil {
		err = c.dir.Sync()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make room for %s: %w", name, err)
	}
	return f, nil
}

// reserve makes sure that there is room for the other file, too.
func (c *card) reserve() error {
	f, err := c.open(fileNames[1-c.at])
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// drop ends the present file.
func (c *card) drop() {
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

func readAll(dir spool.Dir, name string) ([]byte, error) {
	f, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	data := make([]byte, min(size, 64<<20))
	n, err := f.ReadAt(data, 0)
	if err == io.EOF {
		err = nil
	}
	return data[:n], err
}

// contents are what was found in a file.
type contents struct {
	file       int
	generation uint64 // 0: there is no whole one
	highest    uint64 // generation of which there is anything
	seq        uint64
	entries    []*Entry
	damaged    int // blocks before the end of the generation that cannot be read
}

// A chunk is a frame as it was found, or a block that is none.
type chunk struct {
	generation uint64 // 0: damaged
	number     uint64
	record     record
}

// decode finds the newest whole generation in data.
func decode(data []byte) (contents, error) {
	chunks := cut(data)
	var newest contents
	highest := uint64(0)
	for i, k := range chunks {
		highest = max(highest, k.generation)
		if k.generation <= newest.generation || k.number != 0 {
			continue
		}
		if k.record.Version > version {
			return contents{}, fmt.Errorf("%w: format %d, this program knows %d", errNewer, k.record.Version, version)
		}
		if c, whole := assemble(chunks[i:]); whole {
			newest = c
		}
	}
	newest.highest = highest
	return newest, nil
}

// cut takes data apart. A block of zeros is nothing.
func cut(data []byte) (chunks []chunk) {
	for len(data) >= header {
		n, k := cutFrame(data)
		if n == 0 {
			n = min(block, len(data))
			if len(bytes.Trim(data[:n], "\x00")) == 0 {
				data = data[n:]
				continue
			}
		}
		chunks = append(chunks, k)
		data = data[min(n, len(data)):]
	}
	return chunks
}

// cutFrame returns the frame that data begins with and how long it is, 0 for
// none.
func cutFrame(data []byte) (n int, k chunk) {
	length := uint64(binary.LittleEndian.Uint32(data[4:]))
	if binary.LittleEndian.Uint32(data) != magic || length > uint64(len(data)-header) {
		return 0, k
	}
	whole := data[:header+int(length)]
	if checksum(whole) != binary.LittleEndian.Uint32(data[8:]) || json.Unmarshal(whole[header:], &k.record) != nil {
		return 0, chunk{}
	}
	k.generation, k.number = binary.LittleEndian.Uint64(data[16:]), binary.LittleEndian.Uint64(data[24:])
	return (len(whole) + block - 1) / block * block, k
}

// assemble puts together the generation that chunks begin with. It is whole
// if all frames of its beginning are there.
func assemble(chunks []chunk) (c contents, whole bool) {
	first := chunks[0]
	c.generation, c.seq = first.generation, first.record.Last
	bySeq := map[uint64]*Entry{}
	var damaged, head int
	for _, k := range chunks {
		switch {
		case k.generation == 0:
			damaged++
			continue
		case k.generation != c.generation:
			continue
		}
		c.damaged, damaged = c.damaged+damaged, 0
		if k.number < uint64(first.record.Snapshot) {
			head++
		}
		c.apply(&k.record, bySeq)
	}
	return c, first.record.Snapshot > 0 && head == first.record.Snapshot
}

func (c *contents) apply(r *record, bySeq map[uint64]*Entry) {
	for _, e := range r.Taken {
		if e == nil || e.Seq == 0 || len(c.entries) > 0 && e.Seq <= c.entries[len(c.entries)-1].Seq {
			continue // none that we wrote
		}
		c.entries = append(c.entries, e)
		c.seq = max(c.seq, e.Seq)
		bySeq[e.Seq] = e
	}
	for _, f := range r.Finished {
		if e := bySeq[f.Seq]; e != nil {
			e.Writes, e.Outcome = f.Writes, f.Outcome
		}
	}
	for _, seq := range r.Told {
		if e := bySeq[seq]; e != nil {
			e.Told = true
		}
	}
}
