package packet

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"testing"
)

func seedFuzz(f *testing.F) {
	for _, v := range []Version{V31, V311, V5} {
		for _, p := range samples(v) {
			raw, _ := p.Append(nil, v)
			f.Add(byte(v), raw)
		}
		f.Add(byte(v), encodeAll(f, v))
	}
}

// FuzzRoundTrip checks that what parses re-encodes to the same bytes, or to
// fewer that parse to the same packet: the standard lets some be left out.
func FuzzRoundTrip(f *testing.F) {
	seedFuzz(f)
	f.Fuzz(func(t *testing.T, level byte, raw []byte) {
		v := 3 + Version(level%3)
		p, n, err := (&Reader{Src: bytes.NewReader(raw), Version: v, Max: 1 << 16}).Read()
		if err != nil {
			return
		}
		if c, ok := p.(*Connect); ok {
			v = c.Version
		}
		again, err := p.Append(nil, v)
		if err != nil {
			t.Fatalf("%+v does not encode: %v", p, err)
		}
		q, _, err := (&Reader{Src: bytes.NewReader(again), Version: v}).Read()
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%+v became %+v, %v", p, q, err)
		}
		if len(again) > n || len(again) == n && v > V31 && !bytes.Equal(again, raw[:n]) {
			t.Fatalf("% x became % x", raw[:n], again)
		}
		if head, _ := appendHead(p, v); !bytes.HasPrefix(again, head) {
			t.Fatalf("% x begins not with % x", again, head)
		}
	})
}

func appendHead(p Packet, v Version) ([]byte, error) {
	if p, ok := p.(*Publish); ok {
		return p.AppendHead(nil, v)
	}
	return nil, nil
}

// FuzzStream checks that a stream gives the same packets and the same error
// however its bytes come and with what is used again.
func FuzzStream(f *testing.F) {
	seedFuzz(f)
	f.Fuzz(func(t *testing.T, level byte, raw []byte) {
		v := 3 + Version(level%3)
		want, sizes, wantErr := readAll(&Reader{Src: bytes.NewReader(raw), Version: v, Max: 1 << 16})
		for name, src := range sources(raw) {
			got, n, err := readAll(&Reader{Src: src, Version: v, Max: 1 << 16, Reuse: true})
			if !reflect.DeepEqual(got, want) || !slices.Equal(n, sizes) || err.Error() != wantErr.Error() {
				t.Fatalf("from %s: %+v, %v, want %+v, %v", name, got, err, want, wantErr)
			}
		}
	})
}

// FuzzMemory checks that what a stream makes its reader allocate is bounded by
// its length, and that its errors say how to answer them.
func FuzzMemory(f *testing.F) {
	seedFuzz(f)
	f.Add(byte(2), append([]byte{0x82, 0xFF, 0xFF, 0x03, 0, 1, 0}, make([]byte, 65532)...))
	f.Fuzz(func(t *testing.T, level byte, raw []byte) {
		r := Reader{Src: NewBuffer(bytes.NewReader(raw)), Version: 3 + Version(level%3)}
		before := allocated()
		packets := 0
		var err error
		for ; err == nil; packets++ {
			_, _, err = r.Read()
		}
		if n, limit := allocated()-before, memoryLimit(len(raw))+uint64(packets*256); n > 2*limit+64<<10 {
			t.Fatalf("%d bytes for %d", n, len(raw))
		}
		var e *Error
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && (!errors.As(err, &e) || !e.Reason.Failed()) {
			t.Fatalf("%T %v", err, err)
		}
	})
}
