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
	address string
	rtu     bool // the framing on it
	tty     bool // a serial port of this machine
	dial    func(ctx context.Context) (Port, error)
}

// newCarrier reads cfg.URL.
func newCarrier(cfg Config) (carrier, error) {
	addr := cfg.URL
	if addr == "" {
		addr = cfg.Serial.Path
	}
	scheme, _, isURL := strings.Cut(addr, "://")
	switch {
	case addr == "":
		return carrier{}, errors.New("a line needs an address: tcp://host:502, or the path of a serial port")
	case !isURL:
		return newTTY(addr, cfg)
	case scheme != "tcp" && scheme != "rtu+tcp":
		return carrier{}, fmt.Errorf("address %q: the scheme is tcp:// or rtu+tcp://, or it is the path of a serial port", addr)
	}
	u, err := url.Parse(addr)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return carrier{}, fmt.Errorf("address %q: it is a host and a port, such as %s://192.168.10.5:502", addr, scheme)
	}
	host := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "502"))
	return carrier{address: addr, rtu: scheme != "tcp", dial: func(ctx context.Context) (Port, error) {
		return dialTCP(ctx, host, cfg.ConnectTimeout)
	}}, nil
}

func newTTY(path string, cfg Config) (carrier, error) {
	sc := cfg.Serial
	sc.Path = path
	if _, err := serial.ParseFormat(sc.Format); err != nil {
		return carrier{}, err
	}
	if sc.Baud <= 0 {
		return carrier{}, fmt.Errorf("serial port %s: it needs the baud rate that its devices are set to, such as 9600", path)
	}
	return carrier{address: path, rtu: true, tty: true, dial: func(context.Context) (Port, error) { return serial.Open(sc) }}, nil
}

func dialTCP(ctx context.Context, host string, timeout time.Duration) (Port, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, "tcp", host)
	switch {
	case err == nil:
		return tcpPort{conn}, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	remedy := "check the address"
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		remedy = "the name is not known; check it, or use the IP address"
	case errors.Is(err, os.ErrDeadlineExceeded):
		remedy = fmt.Sprintf("no answer within %v; is the device on, and on this network?", timeout)
	case strings.Contains(err.Error(), "refused"):
		remedy = "the host is there but nothing listens; check the port, and that Modbus TCP is enabled in the device"
	}
	return nil, fmt.Errorf("connect to %s: %s: %w: %w", host, remedy, err, devices.ErrPort)
}

// A tcpPort is a connection whose writes do not wait for ever.
type tcpPort struct{ net.Conn }

const writeTimeout = 3 * time.Second

func (p tcpPort) Write(b []byte) (int, error) {
	p.SetWriteDeadline(time.Now().Add(writeTimeout))
	return p.Conn.Write(b)
}
