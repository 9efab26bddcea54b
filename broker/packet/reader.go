package packet

import (
	"fmt"
	"io"
)

// keep is the largest buffer that a Reader holds on to between packets.
const keep = 64 << 10

// A Reader cuts a stream into packets. It belongs to one goroutine. Src
// should be buffered: headers are read byte by byte.
type Reader struct {
	Src     io.Reader
	Version Version // of all packets but CONNECT
	Max     int     // bytes of one packet; 0: what the protocol allows

	head [1]byte
	buf  []byte
}

// Read returns the next packet and its size in bytes. What the packet shares
// with the reader's buffer is valid until the next Read.
func (r *Reader) Read() (Packet, int, error) {
	first, body, size, err := r.frame()
	if err != nil {
		return nil, 0, err
	}
	p, err := Parse(r.Version, first, body)
	return p, size, err
}

// frame reads one packet and returns its first byte, body and whole size. A
// size above Max is refused before anything is read or allocated for it.
func (r *Reader) frame() (byte, []byte, int, error) {
	first, err := r.byte()
	if err != nil {
		return 0, nil, 0, err
	}
	n, k, err := r.length()
	if err != nil {
		return 0, nil, 0, unexpected(err)
	}
	size := 1 + k + n
	if r.Max > 0 && size > r.Max {
		return 0, nil, 0, &Error{PacketTooLarge, Type(first>>4).String() + ": " + tooLong(size, r.Max)}
	}
	body, err := r.body(n)
	return first, body, size, unexpected(err)
}

func (r *Reader) byte() (byte, error) {
	_, err := io.ReadFull(r.Src, r.head[:])
	return r.head[0], err
}

// length returns the remaining length and the number of bytes it took.
func (r *Reader) length() (int, int, error) {
	var enc [4]byte
	for i := range enc {
		b, err := r.byte()
		if err != nil {
			return 0, 0, err
		}
		enc[i] = b
		n, k := varint(enc[:i+1])
		if k > 0 {
			return int(n), k, nil
		}
		if k < 0 {
			break
		}
	}
	return 0, 0, malformed("bad remaining length")
}

// body reads n bytes. The buffer grows as bytes arrive, so that a length
// alone allocates little.
func (r *Reader) body(n int) ([]byte, error) {
	if cap(r.buf) > keep {
		r.buf = nil
	}
	b := r.buf[:0]
	for len(b) < n {
		have := len(b)
		if have == cap(b) {
			b = append(b, make([]byte, min(n-have, max(have, 4096)))...)
		} else {
			b = b[:min(n, cap(b))]
		}
		if _, err := io.ReadFull(r.Src, b[have:]); err != nil {
			return nil, err
		}
	}
	r.buf = b
	return b, nil
}

// unexpected turns an end in the middle of a packet into what it is.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func tooLong(n, limit int) string { return fmt.Sprintf("%d bytes are more than %d", n, limit) }
