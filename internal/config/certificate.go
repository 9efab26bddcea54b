package config

import (
	"bytes"
	"crypto/tls"
	"os"
)

// Read returns the certificate as it is on disk now. While its files cannot
// be read, or do not fit together because one is just being renewed, it
// returns the one read at start.
func (c *Certificate) Read() (*tls.Certificate, error) {
	cert, err1 := c.cert.again()
	key, err2 := c.key.again()
	if err1 != nil || err2 != nil || bytes.Equal(cert, c.cert.Data) {
		return c.first, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return c.first, nil
	}
	return &pair, nil
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

// checkKeyFile warns about a key that everyone may read.
func (l *loader) checkKeyFile(key pemFile) {
	if key.Path == "" {
		return
	}
	if info, err := os.Stat(key.Path); err == nil {
		l.checkMode(key.at, key.Path, info)
	}
}
