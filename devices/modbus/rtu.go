package modbus

import (
	"time"

	goburrow "github.com/goburrow/modbus" // encodes and decodes frames; its transporters are not used, see the package comment

	"edgegateway/devices/serial"
)

// rtu is only a packager here: the handler opens nothing until its own Send
// is called. Decode does not change it.
var rtu = goburrow.NewRTUClientHandler("")

// rtuFraming is unit id, PDU, CRC, told apart by silence. It does not look at
// silence, which adapters and kernels break: what is a frame is found by its
// length and CRC.
type rtuFraming struct{}

func (rtuFraming) encode(unit byte, pdu PDU) ([]byte, error) { return encodeRTU(unit, pdu) }
func (rtuFraming) size(n int) int                            { return 1 + n + 2 }
func (rtuFraming) unit(b []byte) (byte, bool)                { return b[0], true }
func (rtuFraming) silence(cfg serial.Config) time.Duration   { return cfg.Silence35() }
func (rtuFraming) hesitation() time.Duration                 { return 0 }

func (f rtuFraming) look(b []byte, r *request) (frame, verdict) {
	switch {
	case r.unit != b[0]:
		return frame{}, nothing
	case len(b) < 2:
		return frame{}, incomplete
	}
	length, err := r.shape(PDU(b[1:]))
	n := f.size(length)
	switch {
	case err != nil:
		return frame{}, nothing
	case n > len(b):
		return frame{}, incomplete
	}
	pdu, ok := decodeRTU(b[:n])
	if !ok {
		return frame{}, spoiled
	}
	return frame{unit: b[0], pdu: pdu, size: n}, whole
}

// encodeRTU returns the frame of pdu for, or from, unit.
func encodeRTU(unit byte, pdu PDU) ([]byte, error) {
	h := goburrow.NewRTUClientHandler("")
	h.SlaveId = unit
	return h.Encode(&goburrow.ProtocolDataUnit{FunctionCode: pdu[0], Data: pdu[1:]})
}

// decodeRTU returns the PDU of frame, as a part of it, if its checksum is
// right.
func decodeRTU(frame []byte) (PDU, bool) {
	if len(frame) < 4 || len(frame) > maxRTU {
		return nil, false
	}
	if _, err := rtu.Decode(frame); err != nil {
		return nil, false
	}
	return PDU(frame[1 : len(frame)-2]), true
}
