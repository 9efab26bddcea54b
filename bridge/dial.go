package bridge

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"golang.org/x/sys/unix" // TCP_USER_TIMEOUT, which the standard library lacks
)

// A dialer opens connections to upstream brokers: TCP, through a proxy if there
// is one, then TLS and WebSocket as the URL says. Its steps are methods of their
// own, so that `gateway bridge test` can tell which of them fails.
type dialer struct {
	tls     *tls.Config
	proxy   string // as Config.Proxy
	timeout time.Duration
}

// dialer returns one that follows c, which is valid.
func (c *Config) dialer() *dialer {
	return &dialer{tls: c.TLS, proxy: c.Proxy, timeout: c.WriteTimeout}
}

// dial connects to u. ctx bounds all steps together.
func (d *dialer) dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	c, err := d.reach(ctx, u)
	if err != nil {
		return nil, err
	}
	if Encrypted(u) {
		if c, err = d.secure(ctx, c, u); err != nil {
			return nil, err
		}
	}
	if webSocket(u) {
		return upgrade(ctx, c, u)
	}
	return c, nil
}

// reach returns a stream to the host of u, through the proxy if there is one.
func (d *dialer) reach(ctx context.Context, u *url.URL) (net.Conn, error) {
	via, err := d.via(u)
	if err != nil {
		return nil, err
	}
	if via == nil {
		return d.tcp(ctx, u.Host)
	}
	c, err := d.tcp(ctx, via.Host)
	if err != nil {
		return nil, &unreached{via.Host, err}
	}
	return tunnel(ctx, c, via, u.Host)
}

// tcp connects to host:port. Unacknowledged bytes end the connection after the
// timeout, so that a half-open link does not keep the sender waiting for the
// many minutes that TCP would.
func (d *dialer) tcp(ctx context.Context, host string) (net.Conn, error) {
	n := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: d.timeout, Interval: d.timeout / 4, Count: 3},
		ControlContext: func(_ context.Context, network, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				// An old kernel without it is no reason not to connect.
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.timeout.Milliseconds()))
			})
		},
	}
	return n.DialContext(ctx, "tcp", host)
}

// secure begins TLS and proves the server's name. On an error c is closed.
func (d *dialer) secure(ctx context.Context, c net.Conn, u *url.URL) (*tls.Conn, error) {
	t := tls.Client(c, d.tlsFor(u))
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, &handshakeError{err}
	}
	return t, nil
}

// A handshakeError is why TLS did not begin.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "begin TLS: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// tlsFor returns how TLS begins with the host of u.
func (d *dialer) tlsFor(u *url.URL) *tls.Config {
	conf := new(tls.Config)
	if d.tls != nil {
		conf = d.tls.Clone()
	}
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	if conf.ServerName == "" {
		conf.ServerName = u.Hostname()
	}
	return conf
}

// ProxyFromEnvironment as Config.Proxy means what HTTPS_PROXY and NO_PROXY say.
const ProxyFromEnvironment = "environment"

// via returns the proxy for u, nil if there is none. Without a configured one
// the environment has no say: a variable somebody set for apt must not lead a
// gateway elsewhere.
func (d *dialer) via(u *url.URL) (*url.URL, error) {
	switch d.proxy {
	case "":
		return nil, nil
	case ProxyFromEnvironment:
		via, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: u.Host}})
		if err != nil || via == nil {
			return nil, err
		}
		return ParseProxy(via.String())
	}
	return ParseProxy(d.proxy)
}
