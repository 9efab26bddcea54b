package packet

import (
	"fmt"
	"io"
)

// A Reader cuts a stream into packets. It belongs to one goroutine.
//
// From a *Buffer or *bufio.Reader it reads packets where they lie; from any
// other source it reads byte by byte, and nothing that is not the packet's.
type Reader struct {
	Src     io.Reader
	Version Version // of all packets but CONNECT
	Max     int     // bytes of one packet; 0: what the protocol allows

	// Reuse has Read return the same *Publish, with the same Props, and the
	// same *Ack each time: they are valid until the next Read.
	Reuse bool

	head    [1]byte
	owned   bool
	scratch *scratch // with Reuse, from the first PUBLISH or acknowledgement on
}

// A source shows what is next in a stream, as *Buffer and *bufio.Reader do.
type source interface {
	io.Reader
	Peek(n int) ([]byte, error)
	Discard(n int) (int, error)
	Buffered() int
	Size() int
}

// Read returns the next packet and its size in bytes. What the packet shares
// with the buffer of Src is valid until the next Read.
func (r *Reader) Read() (Packet, int, error) {
	if r.scratch != nil {
		r.scratch.reset()
	}
	first, body, size, err := r.frame()
	if err != nil {
		return nil, 0, err
	}
	var s *scratch
	if t := Type(first >> 4); r.Reuse && PUBLISH <= t && t <= PUBCOMP {
		if r.scratch == nil {
			r.scratch = new(scratch)
		}
		s = r.scratch
	}
	p, err := parse(r.Version, first, body, s)
	return p, size, err
}

// OwnsPayload says whether the payload of the packet just read is in memory of
// its own, which whoever read it may keep: so it is with large ones.
func (r *Reader) OwnsPayload() bool { return r.owned }

// frame reads one packet and returns its first byte, body and whole size. A
// size above Max is refused before anything is read or allocated for it.
func (r *Reader) frame() (byte, []byte, int, error) {
	src, ok := r.Src.(source)
	if !ok {
		return r.frameSlowly()
	}
	first, n, k, err := peekHeader(src)
	size := 1 + k + n
	if err == nil {
		err = r.checkSize(first, size)
	}
	if err != nil {
		return 0, nil, 0, err
	}
	if r.owned = size > src.Size(); r.owned {
		src.Discard(1 + k)
		body, err := r.body(n)
		return first, body, size, err
	}
	whole, err := src.Peek(size)
	if err != nil {
		return 0, nil, 0, unexpected(err)
	}
	src.Discard(size)
	return first, whole[1+k:], size, nil
}

// peekHeader returns the first byte, the remaining length, and the number of
// bytes that it takes.
func peekHeader(src source) (first byte, n, k int, err error) {
	for need := 2; ; need++ {
		head, err := src.Peek(max(need, min(5, src.Buffered())))
		switch {
		case err != nil && len(head) > 0:
			return 0, 0, 0, unexpected(err)
		case err != nil:
			return 0, 0, 0, err
		}
		n, k := varint(head[1:])
		if k > 0 {
			return head[0], int(n), k, nil
		}
		if k < 0 {
			return 0, 0, 0, malformed("bad remaining length")
		}
		need = len(head)
	}
}

func (r *Reader) checkSize(first byte, size int) error {
	if r.Max > 0 && size > r.Max {
		return &Error{PacketTooLarge, Type(first>>4).String() + ": " + tooLong(size, r.Max)}
	}
	return nil
}

// frameSlowly is frame for a source that cannot show what is next.
func (r *Reader) frameSlowly() (byte, []byte, int, error) {
	first, err := r.byte()
	if err != nil {
		return 0, nil, 0, err
	}
	n, k, err := r.length()
	if err != nil {
		return 0, nil, 0, unexpected(err)
	}
	size := 1 + k + n
	if err := r.checkSize(first, size); err != nil {
		return 0, nil, 0, err
	}
	r.owned = true
	body, err := r.body(n)
	return first, body, size, err
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

// body reads n bytes into memory of their own. It grows as bytes arrive, so
// that a length alone allocates little, to twice what has come.
func (r *Reader) body(n int) ([]byte, error) {
	const least = 4096
	b := make([]byte, min(n, least))
	for have := 0; ; {
		k, err := io.ReadFull(r.Src, b[have:])
		if have += k; have == n {
			return b, nil
		}
		if err != nil {
			return nil, unexpected(err)
		}
		larger := make([]byte, min(n, 2*have))
		copy(larger, b)
		b = larger
	}
}

// unexpected turns an end in the middle of a packet into what it is.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func tooLong(n, limit int) string { return fmt.Sprintf("%d bytes are more than %d", n, limit) }
