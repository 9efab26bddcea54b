package simulator

// pageBits is the size of a page, as a power of two of addresses.
const pageBits = 8

// A bank is one register table of a unit: 65536 addresses of width bytes
// each, of which some are declared. Its memory grows by pages of 256
// addresses. The unit that owns it locks it.
type bank struct {
	width int // bytes of an address: 2 for registers, 1 for coils and discrete inputs
	pages [1 << (16 - pageBits)]*page
	first uint16 // lowest and highest declared address; first > last while nothing is
	last  uint16
}

type page struct {
	data     []byte
	declared [1 << pageBits]bool
}

func newBank(width int) *bank { return &bank{width: width, first: 0xffff} }

// declare makes count addresses answer. They hold zero.
func (b *bank) declare(addr, count int) {
	for a := addr; a < addr+count; a++ {
		p := b.pages[a>>pageBits]
		if p == nil {
			p = &page{data: make([]byte, b.width<<pageBits)}
			b.pages[a>>pageBits] = p
		}
		p.declared[a&(1<<pageBits-1)] = true
	}
	b.first, b.last = min(b.first, uint16(addr)), max(b.last, uint16(addr+count-1))
}

// any reports whether one of count addresses is declared.
func (b *bank) any(addr, count int) bool {
	for a := addr; a < addr+count; a++ {
		if b.declares(a) {
			return true
		}
	}
	return false
}

func (b *bank) declares(addr int) bool {
	p := b.pages[addr>>pageBits]
	return p != nil && p.declared[addr&(1<<pageBits-1)]
}

// has reports whether every address is declared or, if holes is set, lies
// between declared ones.
func (b *bank) has(addr, count int, holes bool) bool {
	if addr < int(b.first) || addr+count-1 > int(b.last) {
		return false
	}
	for a := addr; a < addr+count && !holes; a++ {
		if !b.declares(a) {
			return false
		}
	}
	return true
}

// appendTo appends what count addresses hold; holes hold zero.
func (b *bank) appendTo(dst []byte, addr, count int) []byte {
	for count > 0 {
		at, n := addr&(1<<pageBits-1), min(count, 1<<pageBits-addr&(1<<pageBits-1))
		if p := b.pages[addr>>pageBits]; p != nil {
			dst = append(dst, p.data[at*b.width:(at+n)*b.width]...)
		} else {
			dst = append(dst, make([]byte, n*b.width)...)
		}
		addr, count = addr+n, count-n
	}
	return dst
}

// set stores raw from addr on. Addresses that are not declared are passed
// over: a hole never holds anything.
func (b *bank) set(addr int, raw []byte) {
	for ; len(raw) >= b.width; addr, raw = addr+1, raw[b.width:] {
		if b.declares(addr) {
			copy(b.pages[addr>>pageBits].data[addr&(1<<pageBits-1)*b.width:], raw[:b.width])
		}
	}
}
