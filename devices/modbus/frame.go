package modbus

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

const (
	tcpHeader = 7 // transaction, protocol, length, unit
	maxTCP    = tcpHeader + maxPDU
	maxRTU    = 1 + maxPDU + 2
)

// A framing is one way to put PDUs on a serial line. It has no state.
type framing interface {
	encode(unit byte, pdu PDU) ([]byte, error)
	// size is how many characters a frame has whose PDU has n bytes.
	size(n int) int
	// unit returns whose frame b, which is not empty, begins, if that can be
	// told and it may be one.
	unit(b []byte) (byte, bool)
	// look says whether b begins with a frame that can answer r. Without r
	// it says whether b may be too short to tell the unit. The frame's PDU
	// is a part of b, or valid until the next call.
	look(b []byte, r *request) (frame, verdict)
	// silence precedes each request.
	silence(cfg serial.Config) time.Duration
	// hesitation is how long a sender may pause between two characters.
	hesitation() time.Duration
}

// A frame is one with a good checksum.
type frame struct {
	unit byte
	pdu  PDU
	size int // characters
}

// A verdict is what bytes can be the beginning of.
type verdict uint8

const (
	nothing    verdict = iota
	incomplete         // perhaps a frame that goes on
	spoiled            // a frame of the right shape with a wrong checksum
	whole              // a frame with a good checksum
)

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
