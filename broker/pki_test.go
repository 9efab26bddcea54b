package broker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An authority signs certificates for a test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.cert, a.key, a.pem, _ = a.issue("authority", time.Hour)
	return a
}

// issue returns a certificate for name that ends after life, its key, and
// both as PEM. The first one of an authority is its own.
func (a *authority) issue(name string, life time.Duration) (*x509.Certificate, *ecdsa.PrivateKey, []byte, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.ExtKeyUsage = true, true, nil
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// pair returns a certificate as a TLS client shows it.
func (a *authority) pair(name string) tls.Certificate {
	cert, key, _, _ := a.issue(name, time.Hour)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// pool trusts the authority.
func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// serverFiles are a broker's certificate, its key and its clients' authority
// on disk.
type serverFiles struct {
	dir string
	a   *authority
}

func newServerFiles(a *authority) *serverFiles {
	f := &serverFiles{a.t.TempDir(), a}
	f.renew("first", time.Hour)
	f.write("ca.crt", a.pem)
	return f
}

func (f *serverFiles) path(name string) string { return filepath.Join(f.dir, name) }

func (f *serverFiles) write(name string, data []byte) {
	if err := os.WriteFile(f.path(name), data, 0o600); err != nil {
		f.a.t.Fatal(err)
	}
}

// renew puts a certificate of that name in place.
func (f *serverFiles) renew(name string, life time.Duration) {
	_, _, cert, key := f.a.issue(name, life)
	f.write("broker.crt", cert)
	f.write("broker.key", key)
}

func (f *serverFiles) config() CertificateConfig {
	return CertificateConfig{Cert: PEM{Path: f.path("broker.crt")}, Key: PEM{Path: f.path("broker.key")}}
}

func (f *serverFiles) certificate(change ...func(*CertificateConfig)) *Certificate {
	f.a.t.Helper()
	cfg := f.config()
	for _, fn := range change {
		fn(&cfg)
	}
	c, err := NewCertificate(cfg)
	if err != nil {
		f.a.t.Fatal(err)
	}
	return c
}
