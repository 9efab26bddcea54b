package spool

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// slowCRC32C is the textbook form, bit by bit.
func slowCRC32C(crc uint32, p []byte) uint32 {
	crc = ^crc
	for _, b := range p {
		crc ^= uint32(b)
		for range 8 {
			crc = crc>>1 ^ 0x82f63b78&-(crc&1)
		}
	}
	return ^crc
}

func TestChecksumIsCRC32C(t *testing.T) {
	if got := slowCRC32C(0, []byte("123456789")); got != 0xe3069283 {
		t.Fatalf("check value %x", got)
	}
	id := []byte{8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0}
	if got, want := seed(0x0102030405060708, 9), slowCRC32C(0, id); got != want {
		t.Errorf("seed %x, want %x", got, want)
	}
}

// goldenBatch is one record of this boot with two targets and one cursor.
func goldenBatch() (*batch, place) {
	body := appendBody(nil, []Target{{Consumer: 1, QoS: 1, SubIDs: []uint32{300}}, {Consumer: 2}}, []byte("hello"))
	b := &batch{
		entries: []*entry{{stored: stored{seq: 1<<40 | 5, stamp: 990, body: body}}},
		after:   1<<40 | 2, last: 1<<40 | 5, changed: 2,
		cursors: []cursor{{consumer: 1, born: 7, version: 3, acked: seqSet{4, []span{{6, 8}}}, records: 1, bytes: 12,
			gaps: []gap{{seq: 10, Gap: Gap{1, 2, 2, ReasonDamage}}}}},
	}
	return b, place{gen: 9, no: 4, logID: 0x0102030405060708, time: timeRef{BootRef{[16]byte{0xaa}, -1, true, 1000}, 1000}, targets: blockTarget}
}

func TestBlockLayout(t *testing.T) {
	b, p := goldenBatch()
	got, no := appendBlocks(nil, b, p)
	head := strings.Join([]string{ // length and checksum are checked below
		"47574231", "--------", "--------", "09000000", "04000000", "04000000",
		"0300000000010000", "0500000000010000", "aa000000000000000000000000000000",
		"e803000000000000", "ffffffffffffffff", "01", "00", "0100", "01000000",
		// cursor
		"0100", "01", "01", "0300000000000000", "0400000000000000", "0100000000000000", "0c00000000000000", "0700000000000000",
		"0600000000000000", "0800000000000000", // range
		"0a00000000000000", "0100000000000000", "0200000000000000", "0200000000000000", "02", // gap
		// record: number - first, zigzag(990-1000), length, body
		"02", "13", "0e", "02", "01", "01", "01", "ac02", "02", "00", "00", hex.EncodeToString([]byte("hello")),
	}, "")
	n := len(head) / 2
	if len(got) != pageSize || no != 5 {
		t.Fatalf("%d bytes, next block %d", len(got), no)
	}
	text := hex.EncodeToString(got[:n])
	if text[:8] != head[:8] || text[24:] != head[24:] {
		t.Errorf("got\n%s\nwant\n%s", text, head)
	}
	if length := uint32(got[4]) | uint32(got[5])<<8; length != uint32(n) {
		t.Errorf("length %d, want %d", length, n)
	}
	sum := uint32(got[8]) | uint32(got[9])<<8 | uint32(got[10])<<16 | uint32(got[11])<<24
	if want := slowCRC32C(seed(p.logID, p.gen), got[12:n]); sum != want {
		t.Errorf("checksum %08x, want %08x", sum, want)
	}
	if !bytes.Equal(got[n:], make([]byte, pageSize-n)) {
		t.Error("padding is not zero")
	}
}

func TestBlockComesBack(t *testing.T) {
	b, p := goldenBatch()
	buf, _ := appendBlocks(nil, b, p)
	var got block
	if err := got.parse(buf, p.logID, p.gen); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.cursors, b.cursors) || got.time != p.time || got.first != b.after+1 || got.last != b.last {
		t.Errorf("%+v", got)
	}
	rec, ok := got.next()
	if !ok || !reflect.DeepEqual(rec, b.entries[0].stored) {
		t.Errorf("record %+v, want %+v", rec, b.entries[0].stored)
	}
	if _, ok := got.next(); ok {
		t.Error("a second record")
	}
	for name, err := range map[string]error{
		"other generation": got.parse(buf, p.logID, p.gen+1),
		"other log":        got.parse(buf, p.logID+1, p.gen),
		"cut":              got.parse(buf[:100], p.logID, p.gen),
	} {
		if !errors.Is(err, errBlock) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCursorFitsItsRoom(t *testing.T) {
	c := cursor{}
	for i := range Seq(maxRanges) {
		c.acked.ranges = append(c.acked.ranges, span{10 * i, 10*i + 1})
	}
	c.gaps = make([]gap, maxGaps)
	if n := len(appendCursor(nil, &c)); n != maxCursor {
		t.Errorf("%d bytes, want %d", n, maxCursor)
	}
	if maxConsumers*maxCursor+blockHeader > cursorRoom || maxConsumers*maxCursor+tableHeader > tableSlot {
		t.Error("the cursors of all consumers do not fit")
	}
}

func TestHeaderComesBack(t *testing.T) {
	h := header{version: 1, logID: 2, gen: 3, prevGen: 4, after: 5, prevEnd: 6, prevMask: 7}
	page := appendHeader(nil, h)
	if got, err := parseHeader(page); err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
	page[100] ^= 1
	if _, err := parseHeader(page); err == nil {
		t.Error("damaged header accepted")
	}
}

func TestDurableEndOfSegment(t *testing.T) {
	b := func(no, group uint32) tailBlock {
		return tailBlock{block: block{no: no, group: group}, skipped: pageSize}
	}
	for name, test := range map[string]struct {
		blocks  []tailBlock
		n       int
		damaged int64
	}{
		"empty":                {nil, 0, 0},
		"whole":                {[]tailBlock{b(0, 0), b(1, 1), b(2, 1)}, 3, 0},
		"torn last commit":     {[]tailBlock{b(0, 0), b(2, 1)}, 1, 0},
		"damage":               {[]tailBlock{b(0, 0), b(2, 2)}, 2, pageSize},
		"damage in a commit":   {[]tailBlock{b(0, 0), b(2, 1), b(3, 3)}, 3, pageSize},
		"first block damaged":  {[]tailBlock{b(1, 1), b(2, 2)}, 2, pageSize},
		"left from before":     {[]tailBlock{b(0, 0), b(1, 1), b(1, 1)}, 2, 0},
		"torn, then left over": {[]tailBlock{b(0, 0), b(3, 1), b(2, 1)}, 1, 0},
	} {
		if n, damaged := durable(test.blocks); n != test.n || damaged != test.damaged {
			t.Errorf("%s: %d blocks, %d damaged; want %d, %d", name, n, damaged, test.n, test.damaged)
		}
	}
}

func TestSeqSet(t *testing.T) {
	s := seqSet{upto: 10}
	for _, r := range []span{{20, 22}, {30, 30}, {24, 24}, {23, 23}, {12, 12}} {
		if !s.add(r.lo, r.hi) || s.add(r.lo, r.hi) {
			t.Errorf("add %v", r)
		}
	}
	if want := (seqSet{10, []span{{12, 12}, {20, 24}, {30, 30}}}); !reflect.DeepEqual(s, want) {
		t.Errorf("%v, want %v", s, want)
	}
	if got, want := s.widest(2), []span{{12, 12}, {20, 24}}; !reflect.DeepEqual(got, want) {
		t.Errorf("widest %v, want %v", got, want)
	}
	for n, want := range map[Seq]bool{10: true, 11: false, 12: true, 19: false, 20: true, 24: true, 25: false, 31: false} {
		if s.contains(n) != want {
			t.Errorf("contains %d: %t", n, !want)
		}
	}
	s.add(11, 29)
	if s.upto != 30 || len(s.ranges) != 0 {
		t.Errorf("%v", s)
	}
}

func TestMetaComesBack(t *testing.T) {
	m := &meta{Format: formatVersion, Log: 1 << 63, Epoch: 3, Machine: "x", Consumers: []metaConsumer{{1, 2, "a\"b"}}}
	got, err := parseMeta(m.marshal())
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%+v, %v", got, err)
	}
	m.Format = formatVersion + 1
	if _, err := parseMeta(m.marshal()); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
}

func TestRingComesBack(t *testing.T) {
	const area = 4096
	var f memFile
	r := ring{f: &f, logID: 5, area: area}
	entries := func(n ...Seq) (list []*entry) {
		for _, n := range n {
			list = append(list, &entry{stored: stored{n, int64(n) * 10, bytes.Repeat([]byte{byte(n)}, 100)}})
		}
		return list
	}
	check := func(what string, want ...Seq) {
		t.Helper()
		s := parseRing(f, 5, area)
		var got []Seq
		for _, e := range s.entries {
			if len(e.body) != 100 || e.body[0] != byte(e.seq) || e.stamp != int64(e.seq)*10 {
				t.Errorf("%s: entry %+v", what, e)
			}
			got = append(got, e.seq)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	if err := r.change(nil, 1, BootRef{}); err != nil {
		t.Fatal(err)
	}
	if err := r.append(entries(1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	check("one area", 1, 2, 3)
	if err := r.append(make([]*entry, 0)); err != nil {
		t.Fatal(err)
	}
	var many []Seq
	for n := range Seq(60) {
		many = append(many, n)
	}
	if err := r.append(entries(many...)); !errors.Is(err, errRingFull) {
		t.Fatal(err)
	}
	if err := r.change(entries(3), 1, BootRef{}); err != nil {
		t.Fatal(err)
	}
	r.append(entries(4))
	check("second area", 3, 4)
	if err := r.change(entries(many...), 1, BootRef{}); !errors.Is(err, errRingFull) {
		t.Fatal(err)
	}
	f[areaStart+10] ^= 1 // the header of the area in use: the older one counts
	check("damaged area", 1, 2, 3)
	if s := parseRing(f, 6, area); s.gen != 0 || s.table != 0 {
		t.Error("the ring of another log was read")
	}
	for i := range 3 {
		if err := r.saveTable([]cursor{{consumer: 3, version: uint64(i)}}, Seq(i)); err != nil {
			t.Fatal(err)
		}
	}
	if s := parseRing(f, 5, area); s.asOf != 2 || len(s.cursors) != 1 || s.cursors[0].version != 2 {
		t.Errorf("table %+v", s)
	}
}

// A memFile is a File in memory.
type memFile []byte

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(*f).ReadAt(p, off)
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if n := int(off) + len(p); n > len(*f) {
		*f = append(*f, make([]byte, n-len(*f))...)
	}
	return copy((*f)[off:], p), nil
}

func (f *memFile) Close() error         { return nil }
func (f *memFile) Size() (int64, error) { return int64(len(*f)), nil }
func (f *memFile) Sync() error          { return nil }

func FuzzBlock(f *testing.F) {
	b, p := goldenBatch()
	buf, _ := appendBlocks(nil, b, p)
	f.Add(buf[:300])
	b.entries[0].body = bytes.Repeat(b.entries[0].body, 500)
	p.enc = newEncoder()
	buf, _ = appendBlocks(nil, b, p)
	f.Add(buf[:500])
	f.Add(partBlock([]byte("hello"), 5, 3))
	dec := newDecoder()
	f.Fuzz(func(t *testing.T, data []byte) {
		// The checksum would keep the fuzzer out: give it one that fits.
		if n, err := blockLength(data, int64(len(data))); err == nil {
			data = endChecked(bytes.Clone(data[:n]), 1, 1)
		}
		var b block
		if b.parse(data, 1, 1) != nil {
			return
		}
		for i := range b.cursors {
			appendCursor(nil, &b.cursors[i])
		}
		if b.zipped > 0 {
			if _, err := b.unpack(dec, nil); err != nil {
				return
			}
			if len(b.body) != b.zipped {
				t.Errorf("%d bytes unpacked, %d promised", len(b.body), b.zipped)
			}
		}
		if p, ok := b.piece(); ok {
			again := appendPart(nil, &p, b.first, b.time.at)
			if p.off+len(p.body) > p.total || len(again) > len(b.body) {
				t.Errorf("part %+v", p)
			}
		}
		b.unfinished()
		for rec, ok := b.next(); ok; rec, ok = b.next() {
			owedMask(rec.body)
		}
	})
}

// partBlock is a block of the last bytes of a body.
func partBlock(body []byte, total, off int) []byte {
	w := blockWriter{p: place{gen: 1, logID: 1}}
	w.begin(7, timeRef{})
	w.body = appendPart(nil, &part{stored{8, 3, body[off:]}, total, off}, 8, 0)
	w.blk.part, w.blk.ends, w.blk.records, w.blk.mask = true, true, 1, 2
	w.end(8)
	return w.dst
}

func TestPartComesBack(t *testing.T) {
	var b block
	if err := b.parse(partBlock([]byte("hello"), 5, 3), 1, 1); err != nil {
		t.Fatal(err)
	}
	p, ok := b.piece()
	if want := (part{stored{8, 3, []byte("lo")}, 5, 3}); !ok || !reflect.DeepEqual(p, want) || b.names() != 2 || b.unfinished() != 0 {
		t.Errorf("%+v, want %+v", p, want)
	}
	for name, total := range map[string]int{"not the last": 6, "too long": 4, "absurd": maxLarge + 1} {
		if err := b.parse(partBlock([]byte("hello"), total, 3), 1, 1); err != nil {
			t.Fatal(err)
		}
		if p, ok := b.piece(); ok {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// A block of format 2, byte by byte.
func TestPackedBlockLayout(t *testing.T) {
	b, p := goldenBatch()
	b.entries[0].body = appendBody(nil, []Target{{Consumer: 1}, {Consumer: 3}}, bytes.Repeat([]byte("hello"), 2000))
	p.enc = newEncoder()
	buf, _ := appendBlocks(nil, b, p)
	length := binary.LittleEndian.Uint32(buf[4:])
	if string(buf[:4]) != "GWB2" || len(buf) != pageSize || int(length) > 400 {
		t.Fatalf("%q, %d bytes in %d", buf[:4], length, len(buf))
	}
	raw := binary.LittleEndian.Uint32(buf[80:])
	if text := hex.EncodeToString(buf[84:96]); text != "00000000"+"0a00000000000000" {
		t.Errorf("rest of the header: %s", text)
	}
	cursorLength := len(appendCursor(nil, &b.cursors[0]))
	body, err := newDecoder().DecodeAll(buf[blockHeader2+cursorLength:length], make([]byte, 0, raw))
	if err != nil || len(body) != int(raw) || !bytes.HasSuffix(body, b.entries[0].body) {
		t.Errorf("%d bytes unpacked of %d: %v", len(body), raw, err)
	}
	var got block
	if err := got.parse(buf, p.logID, p.gen); err != nil || got.names() != 10 || !reflect.DeepEqual(got.cursors, b.cursors) {
		t.Fatalf("%+v %v", got, err)
	}
	if _, err := got.unpack(newDecoder(), nil); err != nil {
		t.Fatal(err)
	}
	if rec, ok := got.next(); !ok || !reflect.DeepEqual(rec, b.entries[0].stored) {
		t.Errorf("record %d", rec.seq)
	}
	got.zipped = maxUnpacked + 1
	if _, err := got.unpack(newDecoder(), nil); !errors.Is(err, errBlock) {
		t.Error(err)
	}
}

// endChecked puts generation and checksum into a block.
func endChecked(p []byte, logID uint64, gen uint32) []byte {
	p[12], p[13], p[14], p[15] = byte(gen), 0, 0, 0
	sum := slowCRC32C(seed(logID, gen), p[12:])
	p[8], p[9], p[10], p[11] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
	return p
}

func FuzzRing(f *testing.F) {
	var m memFile
	r := ring{f: &m, logID: 1, area: 512}
	r.change(nil, 1, BootRef{})
	r.append([]*entry{{stored: stored{1, 2, []byte("abc")}}})
	r.saveTable([]cursor{{consumer: 1}}, 1)
	f.Add([]byte(m[tableSlot : tableSlot+100]))
	f.Add([]byte(m[areaStart+512:]))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < areaHeader {
			return
		}
		var s ringState
		s.parseArea(data, 1, 1)
		if n := binary.LittleEndian.Uint32(data[4:]); n >= tableHeader && int(n) <= len(data) {
			data = bytes.Clone(data)
			binary.LittleEndian.PutUint32(data[8:], slowCRC32C(seed(1, 0), data[12:n]))
			s.parseTable(data, 1)
		}
	})
}

func FuzzMeta(f *testing.F) {
	f.Add((&meta{Format: 1, Consumers: []metaConsumer{{1, 2, "x"}}}).marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseMeta(data); err == nil {
			if again, err := parseMeta(m.marshal()); err != nil || !reflect.DeepEqual(again, m) {
				t.Errorf("%+v came back as %+v, %v", m, again, err)
			}
		}
	})
}

// BenchmarkPack packs and unpacks blocks of readings as a commit brings them.
func BenchmarkPack(b *testing.B) {
	for _, size := range []int{4 << 10, 16 << 10, 64 << 10} {
		raw := readings(size)
		enc, dec := newEncoder(), newDecoder()
		packed := enc.EncodeAll(raw, nil)
		b.Run(fmt.Sprintf("pack/%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				dst = enc.EncodeAll(raw, dst[:0])
			}
			b.ReportMetric(float64(len(raw))/float64(len(packed)), "ratio")
			b.ReportMetric(float64(padded(len(raw)))/float64(padded(len(packed)+blockHeader2)), "pages/page")
		})
		b.Run(fmt.Sprintf("unpack/%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			blk := block{zipped: len(raw)}
			buf := make([]byte, 0, len(raw))
			for b.Loop() {
				blk.body = packed
				if _, err := blk.unpack(dec, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestPackingTakesLittleMemory: what a log takes that packs, once.
func TestPackingTakesLittleMemory(t *testing.T) {
	raw := readings(blockTarget)
	heap := func(fn func()) int64 {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		fn()
		runtime.GC()
		runtime.ReadMemStats(&after)
		return int64(after.HeapAlloc) - int64(before.HeapAlloc)
	}
	enc, dec := newEncoder(), newDecoder()
	var packed []byte
	packing := heap(func() {
		enc = newEncoder()
		packed = enc.EncodeAll(raw, nil)
	})
	unpacking := heap(func() {
		dec = newDecoder()
		if _, err := dec.DecodeAll(packed, make([]byte, 0, len(raw))); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d KiB to pack, %d KiB to unpack; %d bytes become %d", packing>>10, unpacking>>10, len(raw), len(packed))
	if packing > 2<<20 || unpacking > 1<<20 {
		t.Errorf("%d bytes to pack, %d to unpack", packing, unpacking)
	}
	runtime.KeepAlive(enc)
	runtime.KeepAlive(dec)
}

// readings are records as a block holds them, of about size bytes.
func readings(size int) (raw []byte) {
	p := NewReadings()
	for n := Seq(0); len(raw) < size-200; n++ {
		s := stored{n, int64(n) * 5e6, appendBody(nil, []Target{{Consumer: 1, QoS: 1}}, p(nil))}
		raw = appendStored(raw, &s, 0, 0)
	}
	return raw
}
