package spool

import "github.com/klauspost/compress/zstd" // pure Go, and small with the options below

// Records compress well: names, topics and units come again and again. The
// fastest level with a window of a block takes most of it, for half a megabyte.
// A log has one encoder, the committer's, and one decoder that its readers
// share; both are made when first needed, and work for one caller at a time.

const (
	packWindow  = blockTarget
	maxUnpacked = maxRecord + blockTarget // of the records of one block
)

func newEncoder() *zstd.Encoder {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(packWindow), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false)) // the block has a checksum
	if err != nil {
		panic(err) // of these options, none of which comes from outside
	}
	return e
}

func newDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(2*maxUnpacked), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err)
	}
	return d
}

// encoder returns what packs the next commit, nil when nothing is to be packed.
// Only the committer calls it.
func (l *Log) encoder() *zstd.Encoder {
	if !l.cfg.Compress {
		return nil
	}
	if l.card.enc == nil {
		l.card.enc = newEncoder()
	}
	return l.card.enc
}

// unpack replaces packed records by what they were, in buf, which it returns
// grown if need be.
func (b *block) unpack(d *zstd.Decoder, buf []byte) ([]byte, error) {
	if b.zipped > maxUnpacked {
		return buf, errBlock
	}
	if cap(buf) < b.zipped {
		buf = make([]byte, 0, b.zipped)
	}
	out, err := d.DecodeAll(b.body, buf[:0:b.zipped])
	if err != nil || len(out) != b.zipped {
		return buf, errBlock
	}
	b.body = out
	return buf, nil
}
