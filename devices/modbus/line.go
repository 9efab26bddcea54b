package modbus

import (
	"time"

	"edgegateway/devices/serial"
)

// Config says how a line is reached.
type Config struct {
	// URL is tcp://host:port, rtu+tcp://host:port for RTU frames through a
	// TCP connection, or the path of a serial port, which speaks RTU. ""
	// means Serial.Path.
	URL    string
	Serial serial.Config // of a serial port; Path may be left to URL

	// Behind is the serial line behind a TCP gateway. It changes nothing on
	// the wire; it makes costs honest.
	Behind *serial.Config

	Timeout        time.Duration // from the end of a request to the first byte of its answer; 0 means 1 s
	ConnectTimeout time.Duration // 0 means 3 s
}
