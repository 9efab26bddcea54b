package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// A Port is what a line or a server needs of a tty or a socket. After
// SetReadDeadline, also from another goroutine, Read returns within 25 ms of
// the deadline with os.ErrDeadlineExceeded.
type Port interface {
	io.ReadWriteCloser
	SetReadDeadline(t time.Time) error
}

// readBefore reads at least a byte, or returns os.ErrDeadlineExceeded, ctx's
// cause, or an error that wraps devices.ErrPort.
func readBefore(ctx context.Context, p Port, b []byte, deadline time.Time) (int, error) {
	for {
		if err := p.SetReadDeadline(deadline); err != nil {
			return 0, portLost("read", err)
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		n, err := p.Read(b)
		switch {
		case n > 0:
			return n, nil
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !time.Now().Before(deadline) {
				return 0, os.ErrDeadlineExceeded
			}
			// An interrupt of the exchange before came late.
		case err != nil:
			return 0, portLost("read", err)
		}
	}
}

// portLost words the loss of a port or connection.
func portLost(doing string, err error) error {
	switch {
	case errors.Is(err, devices.ErrPort):
		return err // the port has said it all
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s: the far side closed the connection (some devices serve one client at a time): %w", doing, devices.ErrPort)
	}
	return fmt.Errorf("%s: %w: %w", doing, err, devices.ErrPort)
}

// A carrier is how bytes get to a line: its address, and how it is opened.
type carrier struct {
	address  string
	rtu      bool    // unit ids and framing are those of a serial line
	framing  framing // of such
	tty      bool    // a serial port of this machine
	datagram bool    // each frame comes whole, in any order, or not at all
	tls      bool
	secure   *security // of a tls one
	dial     func(ctx context.Context) (Port, error)
}

// schemes are the URLs that a line may have.
var schemes = map[string]carrier{
	"tcp":       {},
	"tls":       {tls: true},
	"udp":       {datagram: true},
	"rtu+tcp":   {rtu: true, framing: rtuFraming{}},
	"rtu+udp":   {rtu: true, framing: rtuFraming{}, datagram: true},
	"ascii+tcp": {rtu: true, framing: asciiFraming{}},
}

// Schemes returns the URL schemes that a line may have.
func Schemes() []string { return []string{"tcp", "rtu+tcp", "ascii+tcp", "udp", "rtu+udp", "tls"} }

// DefaultPort is the port of a scheme where the URL has none.
func DefaultPort(scheme string) string {
	if scheme == "tls" {
		return "802"
	}
	return "502"
}

// newCarrier reads cfg.URL.
func newCarrier(cfg Config) (carrier, error) {
	addr := cmp.Or(cfg.URL, cfg.Serial.Path)
	scheme, _, isURL := strings.Cut(addr, "://")
	c, known := schemes[scheme]
	switch {
	case addr == "":
		return carrier{}, errors.New("a line needs an address: tcp://host:502, or the path of a serial port")
	case !isURL:
		return newTTY(addr, cfg)
	case !known:
		return carrier{}, fmt.Errorf("address %q: the scheme is one of %s, or it is the path of a serial port", addr, strings.Join(Schemes(), ", "))
	case cfg.Framing != "":
		return carrier{}, fmt.Errorf("address %q: the scheme says the framing; %q is for serial ports", addr, cfg.Framing)
	}
	u, err := url.Parse(addr)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return carrier{}, fmt.Errorf("address %q: it is a host and a port, such as %s://192.168.10.5:%s", addr, scheme, DefaultPort(scheme))
	}
	c.address = addr
	host := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), DefaultPort(scheme)))
	switch {
	case c.datagram:
		c.dial = func(ctx context.Context) (Port, error) { return dialUDP(ctx, host, cfg.ConnectTimeout) }
	case c.tls:
		c.secure = newSecurity(cfg.TLS, u.Hostname())
		c.dial = func(ctx context.Context) (Port, error) { return dialTLS(ctx, host, c.secure, cfg.ConnectTimeout) }
	default:
		c.dial = func(ctx context.Context) (Port, error) { return dialTCP(ctx, host, cfg.ConnectTimeout) }
	}
	return c, nil
}

func newTTY(path string, cfg Config) (carrier, error) {
	c := carrier{address: path, rtu: true, framing: rtuFraming{}, tty: true}
	sc := cfg.Serial
	sc.Path = path
	if _, err := serial.ParseFormat(sc.Format); err != nil {
		return carrier{}, err
	}
	switch {
	case sc.Baud <= 0:
		return carrier{}, fmt.Errorf("serial port %s: it needs the baud rate that its devices are set to, such as 9600", path)
	case cfg.Framing == FramingASCII:
		c.framing = asciiFraming{}
	case cfg.Framing != "" && cfg.Framing != FramingRTU:
		return carrier{}, fmt.Errorf("serial port %s: there is no framing %q; there is %q and %q", path, cfg.Framing, FramingRTU, FramingASCII)
	}
	if f, _ := serial.ParseFormat(sc.Format); c.framing == (rtuFraming{}) && f.DataBits < 8 {
		return carrier{}, fmt.Errorf("serial port %s: format %q: RTU needs eight data bits; seven are for framing = %q", path, sc.Format, FramingASCII)
	}
	c.dial = func(context.Context) (Port, error) { return serial.Open(sc) }
	return c, nil
}
