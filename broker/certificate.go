package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"edgegateway/internal/expiry"
)

// A PEM is a certificate or a key: the file it is in, or its text.
type PEM struct {
	Path string // "": Data came without a file and stays as it is
	Data []byte // as it was first read
}

func (p *PEM) set() bool { return p.Path != "" || p.Data != nil }

// read returns what it holds now.
func (p *PEM) read() ([]byte, error) {
	if p.Path == "" {
		return p.Data, nil
	}
	return os.ReadFile(p.Path)
}

func (p *PEM) name() string { return cmp.Or(p.Path, "the given text") }

// A fileMark tells one content of a file from another without reading it.
type fileMark struct {
	size     int64
	modified time.Time
	info     os.FileInfo
}

func (p *PEM) mark() fileMark {
	info, err := os.Stat(p.Path)
	if err != nil {
		return fileMark{}
	}
	return fileMark{info.Size(), info.ModTime(), info}
}

func (m fileMark) same(n fileMark) bool {
	if m.info == nil || n.info == nil {
		return m.info == nil && n.info == nil
	}
	return m.size == n.size && m.modified.Equal(n.modified) && os.SameFile(m.info, n.info)
}

// CertificateConfig says how the broker proves itself, and its clients to it.
type CertificateConfig struct {
	Cert, Key PEM
	ClientCA  PEM  // signs the clients' certificates; not set: none is asked for
	Optional  bool // clients need not have one
}

// A Certificate is what the broker's encrypted listeners show. Its files are
// read again when they change; while they cannot be used, as in the middle of
// a renewal, the last good ones stay. Connections that are open keep theirs.
type Certificate struct {
	cfg CertificateConfig

	mu      sync.Mutex
	log     *slog.Logger
	checked time.Time   // when the files were last looked at
	marks   [3]fileMark // what they were then
	present *tls.Config
	leaf    *x509.Certificate
	end     expiry.Watch
}

// NewCertificate reads the files a first time.
func NewCertificate(cfg CertificateConfig) (*Certificate, error) {
	c := &Certificate{cfg: cfg, log: slog.New(slog.DiscardHandler), checked: time.Now(), marks: cfg.marks(), end: expiry.Watch{What: "the broker's certificate", Who: "clients refuse"}}
	return c, c.load()
}

func (cfg *CertificateConfig) marks() (m [3]fileMark) {
	for i, p := range []*PEM{&cfg.Cert, &cfg.Key, &cfg.ClientCA} {
		if p.Path != "" {
			m[i] = p.mark()
		}
	}
	return m
}

// Config returns what a listener needs; all may share one.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.now(), nil },
	}
}

// Leaf returns the certificate that is shown now.
func (c *Certificate) Leaf() *x509.Certificate {
	c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaf
}

// lookEvery is how often the files may be looked at.
const lookEvery = 2 * time.Second

// now returns what holds for a connection that begins now.
func (c *Certificate) now() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) >= lookEvery {
		c.lookLocked()
	}
	return c.present
}

// lookLocked takes over files that have changed. What is wrong with them is
// logged once for each change.
func (c *Certificate) lookLocked() {
	c.checked = time.Now()
	marks := c.cfg.marks()
	same := true
	for i := range marks {
		same = same && marks[i].same(c.marks[i])
	}
	if same {
		return
	}
	c.marks = marks
	if err := c.load(); err != nil {
		c.log.Error("the broker's new certificate cannot be used, the old one stays", "cert", c.cfg.Cert.Path, "err", err)
		return
	}
	c.end.Renewed()
	c.log.Info("the broker's certificate was read again", "cert", c.cfg.Cert.Path, "until", c.leaf.NotAfter.UTC())
}

// load reads the files. Sessions are not resumed where clients show
// certificates: whether theirs is still good is asked at each connection.
func (c *Certificate) load() error {
	cert, err1 := c.cfg.Cert.read()
	key, err2 := c.cfg.Key.read()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", c.cfg.Cert.name(), c.cfg.Key.name(), err)
	}
	next := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if c.cfg.ClientCA.set() {
		if next.ClientCAs, err = c.cfg.ClientCA.pool(); err != nil {
			return err
		}
		next.SessionTicketsDisabled = true
		next.ClientAuth = tls.RequireAndVerifyClientCert
		if c.cfg.Optional {
			next.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	c.present, c.leaf = next, pair.Leaf
	return nil
}

func (p *PEM) pool() (*x509.CertPool, error) {
	data, err := p.read()
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate of an authority", p.name())
	}
	return pool, nil
}

// warnLocked speaks of an end that is near, once a day.
func (c *Certificate) warnLocked(wall time.Time, known bool) {
	c.end.Speak(c.log, c.leaf, c.cfg.Cert.Path, wall, known)
}

// watch looks at the files and at the end of the certificate until ctx is
// done. clock is asked each time.
func (c *Certificate) watch(ctx context.Context, clock func() (wall time.Time, known bool)) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		wall, known := clock()
		c.mu.Lock()
		c.lookLocked()
		c.warnLocked(wall, known)
		c.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// wallTime returns what time it is, and whether that is known.
func (b *Broker) wallTime() (time.Time, bool) {
	if b.cfg.Clock == nil {
		return time.Now().UTC(), false
	}
	clock := b.cfg.Clock()
	return clock.Wall(b.now()), clock.Quality != Unsynced
}
