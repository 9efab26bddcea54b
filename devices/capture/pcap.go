package capture

import (
	"encoding/binary"
	"io"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Link types of pcap files.
const (
	linkEthernet = 1
	linkUpperPDU = 252 // each packet names the dissector that it is for
)

// Tags of upper PDUs (wireshark: epan/exported_pdu.h).
const (
	tagEnd       = 0
	tagDissector = 12
	tagIPv4From  = 20
	tagIPv4To    = 21
)

const modbusPort = 502 // by which Wireshark knows Modbus TCP

// The addresses of who has none: those that are for documentation.
var (
	gatewayAddr = netip.MustParseAddr("192.0.2.1")
	devicesAddr = netip.MustParseAddr("192.0.2.2")
)

// A Pcap writes frames for Wireshark, so that it shows them without being told
// anything: Modbus TCP in packets of IP with made-up headers, frames of a serial
// line with the name of the dissector. ASCII frames, for which it has none, and
// lines are shown as text.
type Pcap struct {
	w         io.Writer
	start     time.Time
	dissector string // "": packets of IP
	udp       bool
	peers     [2]netip.Addr // the gateway's, the devices'
	seq       [2]uint32     // of who sends, the same order
	id        uint16
	buf       []byte
}

// NewPcap writes the header of a file.
func NewPcap(w io.Writer, h Header) (*Pcap, error) {
	p := &Pcap{w: w, start: h.Start, peers: [2]netip.Addr{gatewayAddr, devicesAddr}, seq: [2]uint32{1, 1}}
	link := uint32(linkUpperPDU)
	switch h.Framing {
	case TCP:
		link = linkEthernet
		p.udp = strings.HasPrefix(h.Address, "udp://")
	case RTU:
		p.dissector = "mbrtu"
	case ASCII, Text:
		p.dissector = "data-text-lines"
	default:
		p.dissector = "data"
	}
	if u, err := url.Parse(h.Address); err == nil {
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.Is4() {
			p.peers[1] = a
		}
	}
	b := binary.LittleEndian.AppendUint32(nil, 0xA1B2C3D4)
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint32(b, 1<<16) // no packet is longer
	b = binary.LittleEndian.AppendUint32(b, link)
	_, err := w.Write(b)
	return p, err
}

// Frame writes one frame, at most 16 KiB.
func (p *Pcap) Frame(at time.Duration, sent bool, data []byte) error {
	from, to := 0, 1
	if !sent {
		from, to = 1, 0
	}
	const head = 16
	b := append(p.buf[:0], make([]byte, head)...)
	if p.dissector != "" {
		b = appendTag(b, tagDissector, []byte(p.dissector))
		b = appendTag(b, tagIPv4From, p.peers[from].AsSlice())
		b = appendTag(b, tagIPv4To, p.peers[to].AsSlice())
		b = append(appendTag(b, tagEnd, nil), data...)
	} else {
		b = p.appendPacket(b, from, to, data)
	}
	t := p.start.Add(at)
	binary.LittleEndian.PutUint32(b, uint32(t.Unix()))
	binary.LittleEndian.PutUint32(b[4:], uint32(t.Nanosecond()/1000))
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-head))
	binary.LittleEndian.PutUint32(b[12:], uint32(len(b)-head))
	p.buf = b
	_, err := p.w.Write(b)
	return err
}

// appendTag appends a tag, whose value is padded to four bytes.
func appendTag(dst []byte, tag uint16, value []byte) []byte {
	padded := (len(value) + 3) &^ 3
	dst = binary.BigEndian.AppendUint16(dst, tag)
	dst = binary.BigEndian.AppendUint16(dst, uint16(padded))
	return append(append(dst, value...), make([]byte, padded-len(value))...)
}

const localPort = 50000 // of the gateway's end

// appendPacket appends Ethernet, IPv4 and TCP or UDP.
func (p *Pcap) appendPacket(dst []byte, from, to int, data []byte) []byte {
	ports := [2]uint16{localPort, modbusPort}
	mac := [2][]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}} // locally administered
	dst = append(append(append(dst, mac[to]...), mac[from]...), 0x08, 0x00)

	seg := binary.BigEndian.AppendUint16(nil, ports[from])
	seg = binary.BigEndian.AppendUint16(seg, ports[to])
	sum, protocol := 16, byte(6)
	if p.udp {
		sum, protocol = 6, 17
		seg = binary.BigEndian.AppendUint16(seg, uint16(8+len(data)))
		seg = append(seg, 0, 0)
	} else {
		seg = binary.BigEndian.AppendUint32(seg, p.seq[from])
		seg = binary.BigEndian.AppendUint32(seg, p.seq[to])
		seg = append(seg, 5<<4, 0x18, 0xFF, 0xFF, 0, 0, 0, 0) // PSH, ACK
		p.seq[from] += uint32(len(data))
	}
	seg = append(seg, data...)
	pseudo := append(append([]byte{}, p.peers[from].AsSlice()...), p.peers[to].AsSlice()...)
	pseudo = append(pseudo, 0, protocol)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(seg)))
	binary.BigEndian.PutUint16(seg[sum:], checksum(append(pseudo, seg...)))

	p.id++
	ip := []byte{0x45, 0}
	ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(seg)))
	ip = binary.BigEndian.AppendUint16(ip, p.id)
	ip = append(ip, 0x40, 0, 64, protocol, 0, 0) // not fragmented
	ip = append(append(ip, p.peers[from].AsSlice()...), p.peers[to].AsSlice()...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	return append(append(dst, ip...), seg...)
}

// checksum is that of IP, TCP and UDP (RFC 1071).
func checksum(b []byte) uint16 {
	var s uint32
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	for s > 0xFFFF {
		s = s>>16 + s&0xFFFF
	}
	return ^uint16(s)
}
