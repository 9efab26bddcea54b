package serial

import (
	"fmt"
	"strings"
	"time"

	bugst "go.bug.st/serial"
)

// DefaultFormat is what "" means as a format: what most devices are set to.
const DefaultFormat = "8N1"

// A Format is the shape of a character.
type Format struct {
	DataBits int  // 5 to 8
	Parity   byte // 'N', 'E' or 'O'
	StopBits int  // 1 or 2
}

// ParseFormat reads a format such as "8N1"; "" is DefaultFormat.
func ParseFormat(s string) (Format, error) {
	if s == "" {
		s = DefaultFormat
	}
	u := strings.ToUpper(s)
	switch {
	case len(u) != 3:
		return Format{}, formatError(s, "it has three characters")
	case u[0] < '5' || u[0] > '8':
		return Format{}, formatError(s, "the first is the number of data bits, 5 to 8")
	case !strings.Contains("NEO", u[1:2]):
		return Format{}, formatError(s, "the second is the parity: N for none, E for even, O for odd")
	case u[2] != '1' && u[2] != '2':
		return Format{}, formatError(s, "the third is the number of stop bits, 1 or 2")
	}
	return Format{DataBits: int(u[0] - '0'), Parity: u[1], StopBits: int(u[2] - '0')}, nil
}

func formatError(s, why string) error {
	return fmt.Errorf("serial format %q: %s, as in 8N1, 8E1 or 7E1", s, why)
}

func (f Format) String() string { return fmt.Sprintf("%d%c%d", f.DataBits, f.Parity, f.StopBits) }

// Bits returns the length of a character on the line with its start bit.
func (f Format) Bits() int {
	n := 1 + f.DataBits + f.StopBits
	if f.Parity != 'N' {
		n++
	}
	return n
}

// CharTime returns how long one character takes on the line. Without a baud
// rate, or with a format that ParseFormat refuses, it is 0.
func (c Config) CharTime() time.Duration {
	f, err := ParseFormat(c.Format)
	if err != nil || c.Baud <= 0 {
		return 0
	}
	return time.Duration(f.Bits()) * time.Second / time.Duration(c.Baud)
}

// Silence35 returns the silence that separates two Modbus RTU frames: three
// and a half characters up to and including 19200 baud, above it 1.75 ms
// (Modbus over serial line V1.02, 2.5.1.1).
func (c Config) Silence35() time.Duration {
	if c.Baud > 19200 {
		return 1750 * time.Microsecond
	}
	return c.CharTime() * 7 / 2
}

// mode returns c as the serial package wants it.
func (c Config) mode() (*bugst.Mode, error) {
	f, err := ParseFormat(c.Format)
	if err != nil {
		return nil, err
	}
	if c.Baud <= 0 {
		return nil, fmt.Errorf("serial port %s: baud rate %d: it must be what the devices are set to, such as 9600", c.Path, c.Baud)
	}
	m := &bugst.Mode{BaudRate: c.Baud, DataBits: f.DataBits}
	switch f.Parity {
	case 'E':
		m.Parity = bugst.EvenParity
	case 'O':
		m.Parity = bugst.OddParity
	}
	if f.StopBits == 2 {
		m.StopBits = bugst.TwoStopBits
	}
	return m, nil
}
