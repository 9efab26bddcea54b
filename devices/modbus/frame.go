package modbus

import (
	"encoding/binary"
	"fmt"
	"io"

	goburrow "github.com/goburrow/modbus" // encodes and decodes frames; its transporters are not used, see the package comment

	"edgegateway/devices"
)

const (
	tcpHeader = 7 // transaction, protocol, length, unit
	maxTCP    = tcpHeader + maxPDU
	maxRTU    = 1 + maxPDU + 2
)

// rtu is only a packager here: the handler opens nothing until its own Send
// is called. Decode and Verify do not change it.
var rtu = goburrow.NewRTUClientHandler("")

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

// readTCPFrame reads one frame from r into buf, which holds maxTCP bytes, and
// returns its length. An error that wraps devices.ErrReply means that the
// peer broke the framing: nothing after it can be trusted.
func readTCPFrame(r io.Reader, buf []byte) (int, error) {
	if _, err := io.ReadFull(r, buf[:tcpHeader]); err != nil {
		return 0, err
	}
	n, err := tcpFrameLen(buf)
	if err != nil {
		return 0, err
	}
	_, err = io.ReadFull(r, buf[tcpHeader:n])
	return n, err
}

// tcpFrameLen returns the length of the frame that the header begins.
func tcpFrameLen(header []byte) (int, error) {
	protocol, length := binary.BigEndian.Uint16(header[2:]), int(binary.BigEndian.Uint16(header[4:]))
	if protocol != 0 || length < 2 || length > 1+maxPDU {
		return 0, fmt.Errorf("not Modbus TCP (protocol %d, length %d; is something else on this port?): %w", protocol, length, devices.ErrReply)
	}
	return tcpHeader - 1 + length, nil
}
