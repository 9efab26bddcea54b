package modbus

import (
	"encoding/hex"
	"time"

	goburrow "github.com/goburrow/modbus"

	"edgegateway/devices/serial"
)

// maxASCII is the length of the longest frame: a colon, unit id, PDU and LRC
// in hexadecimal, carriage return and line feed.
const maxASCII = 1 + 2*(1+maxPDU+1) + 2

// asciiHesitation is how long a sender may pause between two characters
// (Modbus over serial line V1.02, 2.5.2.1).
const asciiHesitation = time.Second

// asciiFraming is ":", unit id, PDU and LRC as hexadecimal digits, and CR LF.
// A colon always begins a frame, so that the reader is in step again with the
// next one, whatever came before.
type asciiFraming struct{}

// size is that of a colon, the digits of unit id, PDU and LRC, and CR LF.
func (asciiFraming) size(n int) int                      { return 1 + 2*(1+n+1) + 2 }
func (asciiFraming) silence(serial.Config) time.Duration { return 0 }
func (asciiFraming) hesitation() time.Duration           { return asciiHesitation }

func (asciiFraming) encode(unit byte, pdu PDU) ([]byte, error) {
	h := goburrow.NewASCIIClientHandler("")
	h.SlaveId = unit
	return h.Encode(&goburrow.ProtocolDataUnit{FunctionCode: pdu[0], Data: pdu[1:]})
}

func (asciiFraming) unit(b []byte) (byte, bool) {
	var id [1]byte
	if b[0] != ':' || len(b) < 3 {
		return 0, false
	}
	_, err := hex.Decode(id[:], b[1:3])
	return id[0], err == nil
}

func (f asciiFraming) look(b []byte, r *request) (frame, verdict) {
	raw, n, v := scanASCII(b)
	if v == nothing || r == nil || len(raw) < 1 {
		return frame{}, v
	}
	if raw[0] != r.unit {
		return frame{}, nothing
	}
	if len(raw) < 2 {
		return frame{}, v
	}
	length, err := r.shape(PDU(raw[1:]))
	switch size := 1 + length + 1; {
	case err != nil, len(raw) > size, v != incomplete && len(raw) < size:
		return frame{}, nothing
	case v == incomplete:
		return frame{}, incomplete
	case v == spoiled:
		return frame{}, spoiled
	default:
		return frame{unit: raw[0], pdu: PDU(raw[1 : size-1]), size: n}, whole
	}
}

// scanASCII decodes the frame that b, which is not empty, begins, as far as it
// is there: unit id, PDU and, if it is not incomplete, LRC. n is its length.
func scanASCII(b []byte) (raw []byte, n int, v verdict) {
	if b[0] != ':' {
		return nil, 0, nothing
	}
	end := 1
	for end < len(b) && isHex(b[end]) {
		end++
	}
	if end > maxASCII-2 {
		return nil, 0, nothing
	}
	raw, _ = hex.DecodeString(string(b[1 : 1+(end-1)/2*2]))
	switch rest := b[end:]; {
	case len(rest) == 0, len(rest) == 1 && rest[0] == '\r' && end%2 == 1:
		return raw, 0, incomplete
	case end%2 == 0, len(raw) < 3, len(rest) < 2, rest[0] != '\r', rest[1] != '\n':
		return nil, 0, nothing
	case sum(raw) != 0:
		return raw, end + 2, spoiled
	}
	return raw, end + 2, whole
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' || c >= 'a' && c <= 'f'
}

// sum adds all bytes. With the LRC, which is its two's complement, the sum of
// a frame is 0 (V1.02, 6.2.1).
func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}
