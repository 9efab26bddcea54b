package packet

import (
	"bufio"
	"bytes"
	"errors"
	"hash/maphash"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// sources are the ways in which a Reader may get its bytes.
func sources(raw []byte) map[string]io.Reader {
	return map[string]io.Reader{
		"bytes":             bytes.NewReader(raw),
		"bytes one by one":  iotest.OneByteReader(bytes.NewReader(raw)),
		"bufio":             bufio.NewReader(bytes.NewReader(raw)),
		"bufio, small":      bufio.NewReaderSize(iotest.HalfReader(bytes.NewReader(raw)), 16),
		"Buffer":            NewBuffer(bytes.NewReader(raw)),
		"Buffer, halves":    NewBuffer(iotest.HalfReader(bytes.NewReader(raw))),
		"Buffer, with end":  NewBuffer(iotest.DataErrReader(bytes.NewReader(raw))),
		"Buffer, byte wise": NewBuffer(iotest.OneByteReader(bytes.NewReader(raw))),
	}
}

// keepCopy returns a packet that shares nothing with its reader.
func keepCopy(p Packet) Packet {
	switch p := p.(type) {
	case *Publish:
		c := *p
		c.Payload, c.Props = slices.Clone(p.Payload), slices.Clone(p.Props)
		return &c
	case *Ack:
		c := *p
		c.Props = slices.Clone(p.Props)
		return &c
	case *Connect:
		p.Password = slices.Clone(p.Password)
		if p.Will != nil {
			p.Will.Payload = slices.Clone(p.Will.Payload)
		}
	}
	return p
}

func readAll(r *Reader) (packets []Packet, sizes []int, err error) {
	for {
		p, n, err := r.Read()
		if err != nil {
			return packets, sizes, err
		}
		packets, sizes = append(packets, keepCopy(p)), append(sizes, n)
	}
}

func TestPacketsAreTheSameFromAllSources(t *testing.T) {
	for _, v := range []Version{V31, V311, V5} {
		stream := encodeAll(t, v)
		for _, size := range []int{1, 100, 250, 5000, pageSize, 3 * pageSize} {
			stream, _ = (&Publish{Topic: "large", Payload: bytes.Repeat([]byte{byte(size)}, size)}).Append(stream, v)
			stream, _ = (&Ack{Kind: PUBACK, ID: 1}).Append(stream, v)
		}
		want, sizes, _ := readAll(&Reader{Src: bytes.NewReader(stream), Version: v})
		for _, reuse := range []bool{false, true} {
			for name, src := range sources(stream) {
				got, n, err := readAll(&Reader{Src: src, Version: v, Reuse: reuse})
				if err != io.EOF || !reflect.DeepEqual(got, want) || !slices.Equal(n, sizes) {
					t.Errorf("%v from %s, reuse %v: %d packets and %v, want %d", v, name, reuse, len(got), err, len(want))
				}
			}
		}
	}
}

func TestSizeIsLimitedBeforeAnythingIsRead(t *testing.T) {
	raw := []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3}
	for name, src := range sources(raw) {
		before := allocated()
		_, _, err := (&Reader{Src: src, Version: V5, Max: 1000}).Read()
		var e *Error
		if !errors.As(err, &e) || e.Reason != PacketTooLarge {
			t.Errorf("from %s: %v", name, err)
		}
		if n := allocated() - before; n > 64<<10 {
			t.Errorf("from %s: %d bytes were allocated", name, n)
		}
	}
	src := bytes.NewReader(raw)
	(&Reader{Src: src, Version: V5, Max: 1000}).Read()
	if src.Len() != 3 {
		t.Errorf("%d bytes of the body were read", 3-src.Len())
	}
}

// allocated returns how many bytes were allocated so far.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func TestSizeUpToMaxIsRead(t *testing.T) {
	for _, size := range []int{2, 100, 1000, pageSize + 1} {
		raw, _ := (&Publish{Topic: "t", Payload: make([]byte, size)}).Append(nil, V311)
		for name, src := range sources(raw) {
			if _, n, err := (&Reader{Src: src, Version: V311, Max: len(raw)}).Read(); err != nil || n != len(raw) {
				t.Errorf("%d bytes from %s: %d, %v", len(raw), name, n, err)
			}
		}
		for name, src := range sources(raw) {
			_, _, err := (&Reader{Src: src, Version: V311, Max: len(raw) - 1}).Read()
			var e *Error
			if !errors.As(err, &e) || e.Reason != PacketTooLarge {
				t.Errorf("%d bytes from %s, one too many: %v", len(raw), name, err)
			}
		}
	}
}

func TestLengthAloneAllocatesLittle(t *testing.T) {
	for name, src := range sources(append([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, make([]byte, 10_000)...)) {
		before := allocated()
		if _, _, err := (&Reader{Src: src, Version: V5}).Read(); err != io.ErrUnexpectedEOF {
			t.Errorf("from %s: %v", name, err)
		}
		if n := allocated() - before; n > 64<<10 {
			t.Errorf("from %s: a length alone allocated %d bytes", name, n)
		}
	}
}

// TestLargePacketIsReadOnce reads the largest packet that there is: what it
// allocates grows with its size and not faster.
func TestLargePacketIsReadOnce(t *testing.T) {
	const size = 256<<20 - 8 // 256 MiB with the rest of the packet
	head, err := (&Publish{Topic: "t", Payload: make([]byte, size)}).AppendHead(nil, V311)
	if err != nil {
		t.Fatal(err)
	}
	src := NewBuffer(io.MultiReader(bytes.NewReader(head), io.LimitReader(zeros{}, size), bytes.NewReader([]byte{0xC0, 0})))
	r := &Reader{Src: src, Version: V311, Max: 256 << 20, Reuse: true}
	before := allocated()
	p, n, err := r.Read()
	if err != nil || len(p.(*Publish).Payload) != size || n != len(head)+size || !r.OwnsPayload() {
		t.Fatalf("%d bytes, %v", n, err)
	}
	p = nil
	if n := allocated() - before; n > 3*size {
		t.Errorf("%d bytes were allocated for one of %d", n, size)
	}
	if p, _, err = r.Read(); err != nil || p.Type() != PINGREQ {
		t.Fatal(p, err)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > size/2 {
		t.Errorf("%d bytes are held after it", m.HeapAlloc)
	}
	runtime.KeepAlive(r)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestMemoryIsASmallMultipleOfTheSize reads the packets that cost most for
// their size.
func TestMemoryIsASmallMultipleOfTheSize(t *testing.T) {
	pub := &Publish{Topic: "t"}
	for range maxProperties {
		pub.Props = pub.Props.AddNum(SubscriptionID, 1)
	}
	user := &Publish{Topic: "t"}
	for range maxProperties {
		user.Props = append(user.Props, Property{ID: UserProperty})
	}
	tests := map[string]Packet{
		"identifiers":       pub,
		"user properties":   user,
		"filters":           &Subscribe{ID: 1, Filters: make([]Filter, maxFilters)},
		"filters to remove": &Unsubscribe{ID: 1, Filters: make([]string, maxFilters)},
		"long topic":        &Publish{Topic: strings.Repeat("t", 65535)},
		"reasons":           &SubAck{Kind: SUBACK, ID: 1, Reasons: make([]Reason, 1<<20)},
		"payload":           &Publish{Topic: "t", Payload: make([]byte, 1<<20)},
	}
	for name, p := range tests {
		raw, err := p.Append(nil, V5)
		if err != nil {
			t.Fatal(err)
		}
		before := allocated()
		if _, _, err := (&Reader{Src: NewBuffer(bytes.NewReader(raw)), Version: V5}).Read(); err != nil {
			t.Fatal(name, err)
		}
		n := allocated() - before
		if limit := memoryLimit(len(raw)); n > limit {
			t.Errorf("%s: %d bytes for a packet of %d, more than %d", name, n, len(raw), limit)
		}
	}
}

// memoryLimit is what reading n bytes may allocate: a page, and for each byte
// what a property of two bytes takes, whose list grows by doubling.
func memoryLimit(n int) uint64 { return 2*pageSize + uint64(min(n, 2*maxProperties)*64+n*12) }

func TestTooManyFiltersAndPropertiesAreRefused(t *testing.T) {
	pub := &Publish{Topic: "t"}
	for range maxProperties + 1 {
		pub.Props = pub.Props.AddNum(SubscriptionID, 1)
	}
	for _, p := range []Packet{
		pub,
		&Subscribe{ID: 1, Filters: make([]Filter, maxFilters+1)},
		&Unsubscribe{ID: 1, Filters: make([]string, maxFilters+1)},
	} {
		raw, _ := p.Append(nil, V5)
		_, _, err := (&Reader{Src: bytes.NewReader(raw), Version: V5}).Read()
		var e *Error
		if !errors.As(err, &e) || e.Reason != QuotaExceeded {
			t.Errorf("%v: %v", p.Type(), err)
		}
	}
}

func TestReuseGivesTheSamePacketAgain(t *testing.T) {
	var stream []byte
	for i := range 3 {
		stream, _ = (&Publish{Topic: "t", QoS: 1, ID: uint16(i + 1), Payload: []byte{byte(i)}, Props: Properties{{ID: UserProperty, Text: "k", Value: "v"}}}).Append(stream, V5)
	}
	r := Reader{Src: NewBuffer(bytes.NewReader(stream)), Version: V5, Reuse: true}
	p, _, _ := r.Read()
	q, _, _ := r.Read()
	if p != q || q.(*Publish).ID != 2 || q.(*Publish).Payload[0] != 1 {
		t.Errorf("%p %+v", p, q)
	}
}

// TestNamesAreNotReadPastThePacket has a topic that came before reach over the
// end of a packet that is cut, into the next one.
func TestNamesAreNotReadPastThePacket(t *testing.T) {
	stream := unhex(t, "30 08 0006'abcdef' 30 05 0006'abc' 'def'")
	r := Reader{Src: NewBuffer(bytes.NewReader(stream)), Version: V311, Reuse: true}
	if _, _, err := r.Read(); err != nil {
		t.Fatal(err)
	}
	p, _, err := r.Read()
	var e *Error
	if !errors.As(err, &e) || e.Reason != MalformedPacket {
		t.Errorf("%+v, %v", p, err)
	}
}

// repeat gives the same bytes again and again.
type repeat struct {
	b []byte
	n int
}

func (r *repeat) Read(p []byte) (int, error) {
	k := copy(p, r.b[r.n:])
	r.n = (r.n + k) % len(r.b)
	return k, nil
}

func TestReadDoesNotAllocate(t *testing.T) {
	// Of the names in it, no three may share a place among those that are
	// remembered: which do is drawn anew for each process.
	for crowded := true; crowded; {
		seed, crowded = maphash.MakeSeed(), false
		var places [32]int
		for _, name := range []string{"plant/meter/power", "plant/meter/energy", "ä/ö", "application/json", "id"} {
			at := &places[maphash.String(seed, name)%uint64(len(places))]
			*at++
			crowded = crowded || *at > 2
		}
	}
	for _, v := range []Version{V31, V311, V5} {
		var stream []byte
		for _, topic := range []string{"plant/meter/power", "plant/meter/energy", "ä/ö"} {
			p := &Publish{QoS: 1, ID: 7, Topic: topic, Payload: make([]byte, 200)}
			if v == V5 {
				p.Props = Properties{{ID: MessageExpiry, Num: 60}, {ID: ContentType, Text: "application/json"}, {ID: UserProperty, Text: "id"}}
			}
			stream, _ = p.Append(stream, v)
		}
		stream, _ = (&Ack{Kind: PUBACK, ID: 7}).Append(stream, v)
		stream, _ = Ping{PINGREQ}.Append(stream, v)
		r := Reader{Src: NewBuffer(&repeat{b: stream}), Version: v, Reuse: true}
		n := testing.AllocsPerRun(100, func() {
			for range 5 {
				if _, _, err := r.Read(); err != nil {
					t.Fatal(err)
				}
			}
		})
		if n != 0 {
			t.Errorf("%v: %v allocations", v, n)
		}
	}
}

// TestBufferHoldsNoPageWhileItWaits reads what comes in pieces, as from a
// client that says something now and then.
func TestBufferHoldsNoPageWhileItWaits(t *testing.T) {
	ping := []byte{0xC0, 0}
	pub, _ := (&Publish{Topic: "t", Payload: make([]byte, 1000)}).Append(nil, V311)
	var b *Buffer
	pages := 0
	src := pieces{list: [][]byte{ping, ping, pub, ping, bytes.Repeat(pub, 10), bytes.Repeat(pub, 10), pub, ping, ping}, wait: func() {
		if b.page != nil && b.Buffered() == 0 {
			pages++
		}
	}}
	b = NewBuffer(&src)
	n := 0
	for r := (&Reader{Src: b, Version: V311}); ; n++ {
		if _, _, err := r.Read(); err != nil {
			break
		}
	}
	if n != 27 {
		t.Errorf("%d packets", n)
	}
	if b.page != nil {
		t.Error("a page is held at the end")
	}
	// While much comes it may wait with its page, here before each of the three
	// that follow a large read.
	if pages > 3 {
		t.Errorf("it waited %d times with a page", pages)
	}
}

// pieces gives one piece in each Read, or what fits of it.
type pieces struct {
	list [][]byte
	wait func()
}

func (s *pieces) Read(p []byte) (int, error) {
	s.wait()
	if len(s.list) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.list[0])
	if s.list[0] = s.list[0][n:]; len(s.list[0]) == 0 {
		s.list = s.list[1:]
	}
	return n, nil
}
