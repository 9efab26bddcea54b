package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// A refusal is a reason code by which the far broker ended or never began a
// connection.
type refusal struct {
	packet string // CONNACK or DISCONNECT; of 3.1.1 with its return code
	code   byte   // MQTT 5, 2.4
	text   string // the server's own words, often ""
}

func (r *refusal) Error() string {
	s := fmt.Sprintf("the far broker says %s (%s 0x%02X)", reasonWords(r.code), r.packet, r.code)
	if strings.Contains(r.packet, " ") { // with a code of its own
		s = fmt.Sprintf("the far broker says %s (%s)", reasonWords(r.code), r.packet)
	}
	if r.text != "" {
		s += fmt.Sprintf(": %q", r.text)
	}
	return s
}

// content reports whether the server ended the connection because of what a
// message was, so that sending the same again will end it again.
func (r *refusal) content() bool {
	switch r.code {
	case 0x81, 0x82, 0x87, 0x90, 0x94, 0x95, 0x99, 0x9A, 0x9B:
		return r.packet == "DISCONNECT"
	}
	return false
}

// reasonWords says what a reason code means to whom it may concern.
func reasonWords(code byte) string {
	switch code {
	case 0x81:
		return "a packet was malformed"
	case 0x82:
		return "the protocol was broken"
	case 0x83:
		return "it does not accept this for a reason of its own"
	case 0x84, 0x01: // 0x01 comes from brokers that know MQTT 3.1.1 only
		return "it does not speak this version of MQTT: see version"
	case 0x85:
		return "it does not accept the client id: see client_id"
	case 0x86:
		return "user or password are wrong: see username and password"
	case 0x87:
		return "not authorised: check user, password or client certificate, and what the broker permits them"
	case 0x88:
		return "it is not available"
	case 0x89:
		return "it is busy"
	case 0x8A:
		return "this client is banned"
	case 0x8B:
		return "it is shutting down"
	case 0x8C:
		return "it wants another authentication method"
	case 0x8D:
		return "it heard nothing for too long"
	case 0x8E:
		return "another client took over with the same client id: every gateway needs its own client_id"
	case 0x90:
		return "it does not accept the topic"
	case 0x93:
		return "too many messages were in flight"
	case 0x95:
		return "the message is too large"
	case 0x96:
		return "messages came too fast"
	case 0x97:
		return "a quota is used up"
	case 0x98:
		return "an administrator ended it"
	case 0x99:
		return "the payload is not what its format property says"
	case 0x9A:
		return "it keeps no retained messages"
	case 0x9B:
		return "it does not support this QoS"
	case 0x9C, 0x9D:
		return "another server is to be used: see url"
	case 0x9F:
		return "connections came too fast"
	case 0xA0:
		return "the connection lasted as long as it may"
	}
	return "no, without a reason"
}

// person reports whether somebody has to do something about it.
func (r *refusal) person() bool {
	switch r.code {
	case 0x88, 0x89, 0x8B, 0x8D, 0x93, 0x96, 0x97, 0x98, 0x9F, 0xA0:
		return false
	}
	return true
}

var (
	errAckStall = errors.New("the far broker stopped acknowledging messages, though the connection looked alive")
	errPing     = errors.New("the far broker stopped answering (no PINGRESP)")
)

// explain turns what ended a connection, or with login set kept one from
// beginning, into words for people, and says whether it waits for one of them.
// host is where to.
func explain(err error, host string, login bool, now time.Time) (words string, person bool) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.Error(), r.person()
	}
	if p, ok := errors.AsType[*unreached](err); ok {
		return explain(p.err, "the proxy "+p.host, false, now)
	}
	if p, ok := errors.AsType[*proxyError](err); ok {
		return p.Error(), p.person
	}
	if w, ok := errors.AsType[*webRefusal](err); ok {
		return w.Error(), w.code < 500
	}
	if words, person = explainTLS(err, now); words != "" {
		return words, person
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return fmt.Sprintf("DNS knows no host %q: check url, or the network's name server", dns.Name), false
		}
		return fmt.Sprintf("no answer from DNS for %q: check the network", dns.Name), false
	}
	switch {
	case errors.Is(err, errAckStall), errors.Is(err, errPing):
		return err.Error(), false
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("%s refused the connection: no broker listens there, or it is stopped", host), false
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return fmt.Sprintf("no route to %s: check the network", host), false
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return fmt.Sprintf("no answer from %s in time: check the network, a firewall, the address", host), false
	case closedThere(err):
		if _, ok := errors.AsType[*handshakeError](err); ok {
			return fmt.Sprintf("%s closed the connection as TLS began: it speaks no TLS at this port (then tcp:// or ws://, or its TLS port), or does not take our certificate", host), false
		}
		if login {
			return fmt.Sprintf("%s closed the connection during login: no MQTT broker, one of another version (see version), one that wants tls:// or a client certificate, or a cluster without a majority of its servers", host), false
		}
		return fmt.Sprintf("%s closed the connection without a reason: broker stopped, network trouble, or another client with the same client id", host), false
	}
	return err.Error(), false
}

// closedThere reports whether the far end closed the connection, without a word.
func closedThere(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// explainTLS returns "" for what has nothing to do with TLS.
func explainTLS(err error, now time.Time) (words string, person bool) {
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("the server's certificate is not for %q but for %s: check url", e.Host, names(e.Certificate)), true
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		if now.Before(e.Cert.NotBefore) {
			return fmt.Sprintf("the server's certificate is not valid before %s, and here it is %s: is this clock right?", day(e.Cert.NotBefore), now.UTC().Format(time.DateOnly)), false // it comes right once it is synchronised
		}
		return fmt.Sprintf("the server's certificate expired at %s, and here it is %s: the server needs a new one, unless this clock is wrong", day(e.Cert.NotAfter), now.UTC().Format(time.DateOnly)), true
	}
	if e, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if e.Cert != nil {
			return fmt.Sprintf("the server's certificate is signed by an authority not trusted here (%s): name its certificate in ca", e.Cert.Issuer), true
		}
		return "the server's certificate is signed by an authority not trusted here: name its certificate in ca", true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the server does not speak TLS at this port: use tcp:// or ws://, or its TLS port", true
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return explainAlert(e.Err.Error()), true
	}
	if strings.Contains(err.Error(), "tls: server selected unsupported protocol version") || strings.Contains(err.Error(), "tls: no supported versions satisfy") {
		return "the server speaks no version of TLS that is permitted here: see min_tls", true // the package has no type for it
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("the server's certificate does not convince: %v", e.Err), true
	}
	return "", false
}

// explainAlert words what the server's side of TLS says (RFC 8446, 6.2). Over
// TCP crypto/tls gives it as text only.
func explainAlert(alert string) string {
	alert = strings.TrimPrefix(alert, "tls: ")
	switch {
	case alert == "certificate required":
		return "the server wants a client certificate: see cert and key"
	case alert == "no application protocol":
		return "the server speaks none of the protocols in alpn: see alpn"
	case alert == "protocol version not supported":
		return "the server speaks no version of TLS that is permitted here: see min_tls"
	case alert == "unrecognized name":
		return "the server knows no certificate for that name: see url and server_name"
	case alert == "expired certificate":
		return "the server says that our client certificate has expired: renew it, or check the clock here and there"
	case strings.Contains(alert, "certificate"), alert == "access denied":
		return fmt.Sprintf("the server does not accept our client certificate (%s): see cert and key", alert)
	}
	return fmt.Sprintf("the server ended TLS: %s", alert)
}

// names lists whom a certificate is for.
func names(c *x509.Certificate) string {
	var list []string
	list = append(list, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		return "nobody (it has no alternative names)"
	}
	return strings.Join(list[:min(len(list), 5)], ", ")
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
