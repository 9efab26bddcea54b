package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"edgegateway/devices/modbus"
)

// pki is a certificate authority that lives as long as a demo or simulation.
type pki struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

// newPKI makes an authority and writes ca.crt into dir.
func newPKI(dir string) (*pki, error) {
	p := &pki{dir: dir, next: 1}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := p.template("gateway demo CA")
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &p.key.PublicKey, p.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return p, writePEM(filepath.Join(dir, "ca.crt"), "CERTIFICATE", der, 0o644)
}

// issue writes NAME.crt and NAME.key: a server's certificate for localhost
// and 127.0.0.1, or a client's for the common name; change adds to it.
func (p *pki) issue(name, commonName string, usage x509.ExtKeyUsage, change ...func(*x509.Certificate)) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := p.template(commonName)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	if usage == x509.ExtKeyUsageServerAuth {
		template.DNSNames = []string{"localhost"}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	for _, c := range change {
		c(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, &key.PublicKey, p.key)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", name, err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(p.dir, name+".key"), "PRIVATE KEY", pkcs8, 0o600); err != nil {
		return err
	}
	return writePEM(filepath.Join(p.dir, name+".crt"), "CERTIFICATE", der, 0o644)
}

// alsoFor lets a server's certificate be good for more names or addresses.
func alsoFor(hosts ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.IPAddresses = append(c.IPAddresses, net.IPv6loopback)
		for _, h := range hosts {
			if ip := net.ParseIP(h); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, h)
			}
		}
	}
}

// withRole writes a role of Modbus/TCP Security into a client's certificate, not
// an empty one.
func withRole(role string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		if role == "" {
			return
		}
		value, _ := asn1.MarshalWithParams(role, "utf8") // a string always can be
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: modbus.RoleOID, Value: value})
	}
}

func (p *pki) template(commonName string) *x509.Certificate {
	now := time.Now()
	p.next++
	return &x509.Certificate{
		SerialNumber: big.NewInt(p.next),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(0, 0, 30),
	}
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
