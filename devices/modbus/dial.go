package modbus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"edgegateway/devices"
)

const writeTimeout = 3 * time.Second

// A connPort is a connection whose writes do not wait for ever.
type connPort struct{ net.Conn }

func (p connPort) Write(b []byte) (int, error) {
	p.SetWriteDeadline(time.Now().Add(writeTimeout))
	return p.Conn.Write(b)
}

func dialTCP(ctx context.Context, host string, timeout time.Duration) (Port, error) {
	conn, err := dial(ctx, "tcp", host, timeout)
	if err != nil {
		return nil, err
	}
	return connPort{conn}, nil
}

// dial connects and words what can go wrong.
func dial(ctx context.Context, network, host string, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, network, host)
	switch {
	case err == nil:
		return conn, nil
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
	case errors.Is(err, syscall.ECONNREFUSED):
		remedy = "the host is there but nothing listens; check the port, and that Modbus TCP is enabled in the device"
	}
	return nil, fmt.Errorf("connect to %s: %s: %w: %w", host, remedy, err, devices.ErrPort)
}

// dialUDP returns a socket that takes datagrams of host only.
func dialUDP(ctx context.Context, host string, timeout time.Duration) (Port, error) {
	conn, err := dial(ctx, "udp", host, timeout)
	if err != nil {
		return nil, err
	}
	return udpPort{connPort{conn}}, nil
}

// A udpPort says what a host means that has nothing at the port.
type udpPort struct{ connPort }

func (p udpPort) Read(b []byte) (int, error) {
	n, err := p.connPort.Read(b)
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = fmt.Errorf("the host is there but nothing listens; check the port, and that the device speaks Modbus over UDP: %w: %w", err, devices.ErrPort)
	}
	return n, err
}

// RoleOID is the extension of a client's certificate that says what its owner
// may do (Modbus/TCP Security, 8.4).
var RoleOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 50316, 802, 1}

// A security is what a line over TLS shows and asks for.
type security struct {
	config *tls.Config

	mu   sync.Mutex // guards role; a handshake may run in another goroutine
	role string     // of the certificate shown last, for messages
}

// newSecurity returns cfg, which may be nil, as a line needs it: host is the
// name to be proven where cfg has none.
func newSecurity(cfg *tls.Config, host string) *security {
	s := &security{config: &tls.Config{}, role: "no client certificate was shown"}
	if cfg != nil {
		s.config = cfg.Clone()
	}
	s.config.MinVersion = max(s.config.MinVersion, tls.VersionTLS12)
	if s.config.ServerName == "" {
		s.config.ServerName = host
	}
	get, certs := s.config.GetClientCertificate, s.config.Certificates
	if get == nil {
		get = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(certs) == 0 {
				return &tls.Certificate{}, nil
			}
			return &certs[0], nil
		}
	}
	s.config.GetClientCertificate = func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := get(i)
		if err == nil {
			s.note(cert)
		}
		return cert, err
	}
	return s
}

// note remembers which role cert carries.
func (s *security) note(cert *tls.Certificate) {
	role := "no client certificate was shown"
	if len(cert.Certificate) > 0 {
		role = "the client certificate carries no role"
		if leaf, err := x509.ParseCertificate(cert.Certificate[0]); err == nil {
			if r, ok := Role(leaf); ok {
				role = fmt.Sprintf("the client certificate's role is %q", r)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.role = role
}

// Role returns the role in cert. That it is there once only, as the
// specification demands, x509 sees to.
func Role(cert *x509.Certificate) (role string, ok bool) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(RoleOID) {
			rest, err := asn1.Unmarshal(e.Value, &role)
			return role, err == nil && len(rest) == 0
		}
	}
	return "", false
}

// explain adds to an illegal function what else it means over TLS.
func (s *security) explain(err error) error {
	e, ok := errors.AsType[*Exception](err)
	if s == nil || !ok || e.Code != IllegalFunction {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("%w; over TLS it also says \"not authorised\": %s (extension %v)", err, s.role, RoleOID)
}

// dialTLS connects and proves that the far side is who it should be.
func dialTLS(ctx context.Context, host string, s *security, timeout time.Duration) (Port, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := dial(ctx, "tcp", host, timeout)
	if err != nil {
		return nil, err
	}
	c := tls.Client(conn, s.config)
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to %s: %s: %w: %w", host, tlsRemedy(err, s.config.ServerName), err, devices.ErrPort)
	}
	return connPort{c}, nil
}

// tlsRemedy says what to do when a handshake failed.
func tlsRemedy(err error, name string) string {
	var unknown x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown):
		return "the device's certificate is of an authority that is not known here; name its file with ca"
	case errors.As(err, &wrongName):
		return fmt.Sprintf("the device's certificate is not for %q; give the name that is in it with server_name", name)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the device's certificate is not valid now; renew it, or set this machine's clock"
	case errors.As(err, &record):
		return "what listens there does not speak TLS; is it tcp:// on port 502?"
	case strings.Contains(err.Error(), "remote error"):
		return "the device refuses the encryption or the client certificate; give one it trusts with cert and key"
	}
	return "the encrypted connection was not made"
}
