package packet

import (
	"io"
	"sync"
)

const (
	sip      = 256      // bytes that a Buffer reads while little comes
	pageSize = 16 << 10 // bytes that it reads while much does
)

var pages = sync.Pool{New: func() any { return new([pageSize]byte) }}

// A Buffer reads ahead for a Reader. It borrows a page while much comes and
// gives it back when it has waited for more, so that a thousand connections
// that say little hold little. It belongs to one goroutine.
type Buffer struct {
	src  io.Reader
	page *[pageSize]byte // nil: little holds what was read
	r, w int             // what was read and is not used yet
	last int             // bytes that the last read brought
	err  error           // of src, once what came before it is used

	little [sip]byte
}

// NewBuffer returns a Buffer that reads src.
func NewBuffer(src io.Reader) *Buffer { return &Buffer{src: src} }

func (b *Buffer) held() []byte {
	if b.page != nil {
		return b.page[:]
	}
	return b.little[:]
}

// Buffered returns how many bytes are there without waiting.
func (b *Buffer) Buffered() int { return b.w - b.r }

// Size returns how many bytes Peek can show.
func (b *Buffer) Size() int { return pageSize }

// Peek waits for n bytes and shows them. They are valid until the next Peek or
// Read. With fewer, it says why.
func (b *Buffer) Peek(n int) ([]byte, error) {
	if n > pageSize {
		return nil, io.ErrShortBuffer
	}
	for b.w-b.r < n && b.err == nil {
		b.fill(n)
	}
	have := b.held()[b.r:b.w]
	if len(have) < n {
		return have, b.err
	}
	return have[:n], nil
}

// Discard uses n bytes that Peek has shown.
func (b *Buffer) Discard(n int) (int, error) {
	n = min(n, b.w-b.r)
	b.r += n
	return n, nil
}

// Read gives what is there, and reads past the buffer when nothing is.
func (b *Buffer) Read(p []byte) (int, error) {
	if n := copy(p, b.held()[b.r:b.w]); n > 0 || len(p) == 0 {
		b.r += n
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.src.Read(p)
}

// fill reads once. What is held moves to the front, so that n bytes have room.
func (b *Buffer) fill(n int) {
	had := b.held()[b.r:b.w]
	switch {
	case b.page == nil && (n > sip || b.last == sip):
		b.page = pages.Get().(*[pageSize]byte)
	case b.page != nil && len(had) == 0 && b.last < pageSize/8:
		pages.Put(b.page)
		b.page = nil
	}
	b.r, b.w = 0, copy(b.held(), had)
	b.last, b.err = b.src.Read(b.held()[b.w:])
	b.w += b.last
}
