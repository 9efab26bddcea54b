package bridge

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// proxyPorts are the kinds of proxies, with the port of each.
var proxyPorts = map[string]string{"http": "3128", "https": "443", "socks5": "1080"}

// ParseProxy returns the parsed URL of a proxy with its port filled in, nil for
// none and for ProxyFromEnvironment. Its errors quote no password.
func ParseProxy(s string) (*url.URL, error) {
	if s == "" || s == ProxyFromEnvironment {
		return nil, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New(`the proxy is no URL: write "http://host:3128" or "socks5://host:1080"; a password with / or @ in it needs %2F or %40`)
	}
	port, ok := proxyPorts[u.Scheme]
	if !ok || u.Hostname() == "" || len(u.Path) > 1 || u.RawQuery != "" {
		return nil, fmt.Errorf(`proxy %q: write "http://host:3128", "https://host" or "socks5://host:1080", with user:password@ before the host if it wants them, or %q`, u.Redacted(), ProxyFromEnvironment)
	}
	u.Host = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
	return u, nil
}

// A proxyError is a proxy's no.
type proxyError struct {
	host   string
	words  string
	person bool // somebody has to do something about it
}

func (e *proxyError) Error() string { return fmt.Sprintf("proxy %s: %s", e.host, e.words) }

// An unreached proxy is one with which it did not come to a yes or no.
type unreached struct {
	host string
	err  error
}

func (e *unreached) Error() string { return fmt.Sprintf("proxy %s: %v", e.host, e.err) }
func (e *unreached) Unwrap() error { return e.err }

// tunnel asks the proxy at the other end of c to lead on to target. On an error
// c is closed.
func tunnel(ctx context.Context, c net.Conn, via *url.URL, target string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	out, err := c, error(nil)
	switch via.Scheme {
	case "socks5":
		err = socks(c, via, target)
	case "https":
		t := tls.Client(c, &tls.Config{ServerName: via.Hostname(), MinVersion: tls.VersionTLS12})
		if err = t.HandshakeContext(ctx); err == nil {
			out, err = httpConnect(t, via, target)
		}
	default:
		out, err = httpConnect(c, via, target)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		if _, ok := errors.AsType[*proxyError](err); !ok {
			err = &unreached{via.Host, err}
		}
		return nil, err
	}
	return out, nil
}

// httpConnect is CONNECT (RFC 9110, section 9.3.6).
func httpConnect(c net.Conn, via *url.URL, target string) (net.Conn, error) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if via.User != nil {
		password, _ := via.User.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(via.User.Username()+":"+password)))
	}
	if err := req.Write(c); err != nil {
		return nil, err
	}
	head := &io.LimitedReader{R: c, N: 16 << 10}
	in := bufio.NewReader(head)
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close() // of a 200 to CONNECT there is none
	switch resp.StatusCode {
	case http.StatusOK:
		head.N = 1 << 62 // what follows is the server's
		return &readAhead{c, in}, nil
	case http.StatusProxyAuthRequired:
		return nil, &proxyError{via.Host, "it wants a user and a password, or other ones: see proxy", true}
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		return nil, &proxyError{via.Host, fmt.Sprintf("it does not lead to %s (%s): who runs it must permit that host and port", target, resp.Status), true}
	}
	return nil, &proxyError{via.Host, fmt.Sprintf("it did not reach %s (%s)", target, resp.Status), false}
}

// A readAhead is a connection of which some has been read already.
type readAhead struct {
	net.Conn
	in *bufio.Reader
}

func (c *readAhead) Read(p []byte) (int, error) { return c.in.Read(p) }

// socksReplies are what SOCKS5 proxies answer (RFC 1928, section 6).
var socksReplies = []string{"", "it failed", "its rules do not permit it", "it has no route to the network", "it has no route to the host",
	"the host refused the connection", "the host did not answer", "it cannot connect", "it knows no such addresses"}

// socks is SOCKS5 (RFC 1928) with user and password (RFC 1929). The proxy looks
// the host's name up.
func socks(c net.Conn, via *url.URL, target string) error {
	host, portText, err := net.SplitHostPort(target)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || len(host) > 255 {
		return fmt.Errorf("%s cannot be asked of it", target)
	}
	method := byte(0)
	if via.User != nil {
		method = 2
	}
	if _, err := c.Write([]byte{5, 1, method}); err != nil {
		return err
	}
	var answer [4]byte
	if _, err := io.ReadFull(c, answer[:2]); err != nil {
		return err
	}
	switch {
	case answer[0] != 5:
		return &proxyError{via.Host, "it speaks no SOCKS5: see proxy", true}
	case answer[1] != method:
		return &proxyError{via.Host, "it wants a user and a password, or none: see proxy", true}
	}
	if method == 2 {
		if err := socksLogin(c, via); err != nil {
			return err
		}
	}
	ask := append([]byte{5, 1, 0, 3, byte(len(host))}, host...)
	if _, err := c.Write(append(ask, byte(port>>8), byte(port))); err != nil {
		return err
	}
	return socksAnswer(c, via, target)
}

func socksLogin(c net.Conn, via *url.URL) error {
	user := via.User.Username()
	password, _ := via.User.Password()
	if len(user) > 255 || len(password) > 255 {
		return &proxyError{via.Host, "user and password may have 255 bytes each: see proxy", true}
	}
	ask := append([]byte{1, byte(len(user))}, user...)
	ask = append(append(ask, byte(len(password))), password...)
	if _, err := c.Write(ask); err != nil {
		return err
	}
	var answer [2]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return err
	}
	if answer[1] != 0 {
		return &proxyError{via.Host, "user or password are wrong: see proxy", true}
	}
	return nil
}

func socksAnswer(c net.Conn, via *url.URL, target string) error {
	var head [5]byte // up to the length of a name
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	if code := int(head[1]); code != 0 {
		words := "it refused, without a reason"
		if code < len(socksReplies) {
			words = socksReplies[code]
		}
		return &proxyError{via.Host, fmt.Sprintf("to %s: %s", target, words), code == 2}
	}
	rest := map[byte]int{1: 4 - 1, 3: int(head[4]), 4: 16 - 1}[head[3]] + 2 // its own address, of no use here
	_, err := io.CopyN(io.Discard, c, int64(rest))
	return err
}
