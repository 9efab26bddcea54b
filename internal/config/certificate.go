package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"strings"
)

// readEncryption reads the keys of TLS in the table at. Where there is no
// encryption they have no use, which remedy may explain.
func (l *loader) readEncryption(raw *rawTLS, at *node, secure bool, remedy string) (*tls.Config, *Certificate) {
	cert, key := at.child("cert"), at.child("key")
	if (cert != nil) != (key != nil) {
		one := cert
		if one == nil {
			one = key
		}
		l.errorKey(one, "cert and key belong together: the client certificate and its private key")
	}
	if !secure {
		for _, k := range []string{"cert", "key", "ca", "server_name"} {
			if n := at.child(k); n != nil {
				l.errorKey(n, "%s has no use without encryption; %s", k, remedy)
			}
		}
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: raw.ServerName.V}
	l.readCA(c, raw.CA)
	if !raw.Cert.set() || !raw.Key.set() {
		return c, nil
	}
	own := l.readCertificate(raw)
	if own != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.Read() }
	}
	return c, own
}

func (l *loader) readCA(c *tls.Config, ca pemFile) {
	if !ca.set() {
		return
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(ca.Data) {
		l.errorAt(ca.at, "%s holds no certificate of an authority", ca.name())
	}
	for rest := ca.Data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			l.cfg.Authorities = append(l.cfg.Authorities, Authority{ca.name(), cert})
		}
	}
}

// readCertificate returns nil if certificate and key are of no use, which is
// reported.
func (l *loader) readCertificate(raw *rawTLS) *Certificate {
	l.checkKeyFile(raw.Key)
	pair, err := tls.X509KeyPair(raw.Cert.Data, raw.Key.Data)
	if err != nil {
		l.errorAt(raw.Cert.at, "the certificate in %s and the key in %s cannot be used: %s", raw.Cert.name(), raw.Key.name(),
			strings.TrimPrefix(err.Error(), "tls: "))
		return nil
	}
	return &Certificate{cert: raw.Cert, key: raw.Key, last: &pair}
}

// Read returns the certificate as it is on disk now. While its files cannot
// be read, or do not fit together because one is just being renewed, it
// returns the last good one.
func (c *Certificate) Read() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err1 := c.cert.again()
	key, err2 := c.key.again()
	if err1 != nil || err2 != nil || bytes.Equal(cert, c.cert.Data) {
		return c.last, nil
	}
	if pair, err := tls.X509KeyPair(cert, key); err == nil {
		c.last, c.cert.Data = &pair, cert
	}
	return c.last, nil
}

// Leaf returns what Read would, without its chain and key, and the file it is
// in.
func (c *Certificate) Leaf() (*x509.Certificate, string) {
	pair, _ := c.Read()
	return pair.Leaf, c.cert.Path
}

// again reads the file once more.
func (f *pemFile) again() ([]byte, error) {
	if f.Path == "" {
		return f.Data, nil
	}
	return os.ReadFile(f.Path)
}

// name is how messages call it.
func (f *pemFile) name() string {
	if f.Path == "" {
		return "the given text"
	}
	return f.Path
}

// checkKeyFile refuses a key that everyone may read.
func (l *loader) checkKeyFile(key pemFile) {
	if key.Path != "" {
		l.checkMode(Error, key.at, key.Path)
	}
}
