package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// A Secret is a string that no log, page or dump shows. Reveal is for the
// one who sends it.
type Secret string

const hidden = "•••"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

func (s Secret) GoString() string             { return s.String() }
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(s.String()) }

// Reveal returns what it holds.
func (s Secret) Reveal() string { return string(s) }

// maxSecret bounds what is read of a secret's file: a certificate chain fits.
const maxSecret = 1 << 20

// secrets finds what ${cred:}, ${env:} and ${file:} refer to. References are
// expanded after parsing, so that no secret can break the syntax of a file,
// and stand for whole values only, so that none ends up in a longer string
// that someone prints.
type secrets struct {
	dir      string // configuration folder
	credDir  string // $CREDENTIALS_DIRECTORY, "" if systemd gave none
	env      func(string) (string, bool)
	expanded map[*node]string // what references stand for, so that no message shows it
	contents map[*node]string // digests of the files that were read for a value
	optional bool             // a missing secret is a warning: someone checks what a service will run
}

// expand returns what s stands for and whether it was a reference. ok is
// false when it cannot be found, which is reported. open says how bad it is if
// everyone may read the file that it stands in.
func (x *secrets) expand(b *binder, n *node, s string, open Severity) (v string, isRef, ok bool) {
	v, isRef, ok = x.lookup(b, n, s, open)
	if isRef && ok {
		x.expanded[n] = v
	}
	return v, isRef, ok
}

func (x *secrets) lookup(b *binder, n *node, s string, open Severity) (v string, isRef, ok bool) {
	kind, name, isRef := reference(s)
	if !isRef {
		if strings.Contains(s, "${") {
			b.errorAt(n, "a reference stands for the whole value: \"${cred:NAME}\", \"${env:NAME}\" or \"${file:PATH}\" alone")
			return "", false, false
		}
		return s, false, true
	}
	if kind == "env" {
		v, ok := x.env(name)
		if !ok {
			x.missing(b, n, fmt.Sprintf("the environment variable %s is not set", name))
		}
		return v, true, ok
	}
	path, ok := x.path(b, n, kind, name)
	if !ok {
		return "", true, false
	}
	data, err := x.read(b, n, path)
	if err != nil {
		return "", true, false
	}
	b.checkMode(open, n, path)
	return strings.TrimRight(string(data), "\r\n"), true, true
}

// reference splits ${kind:name}.
func reference(s string) (kind, name string, ok bool) {
	inner, ok := strings.CutPrefix(s, "${")
	if !ok {
		return "", "", false
	}
	inner, ok = strings.CutSuffix(inner, "}")
	kind, name, colon := strings.Cut(inner, ":")
	known := kind == "cred" || kind == "env" || kind == "file"
	return kind, name, ok && colon && known && name != "" && !strings.ContainsAny(name, "{}")
}

// path returns the file that ${cred:NAME} or ${file:PATH} means.
func (x *secrets) path(b *binder, n *node, kind, name string) (string, bool) {
	if kind == "file" {
		return x.abs(name), true
	}
	if name != filepath.Base(name) || name == ".." || name == "." {
		b.errorAt(n, "%q is no name of a credential: it must be a plain file name", name)
		return "", false
	}
	for _, dir := range x.credentialDirs() {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			return p, true // what is there and cannot be read is told when it is read
		}
	}
	x.missing(b, n, fmt.Sprintf("the credential %q is neither in $CREDENTIALS_DIRECTORY (%s) nor in %s", name,
		orNone(x.credDir), filepath.Join(x.dir, "credentials")))
	return "", false
}

func orNone(s string) string {
	if s == "" {
		return "not set"
	}
	return s
}

func (x *secrets) credentialDirs() []string {
	own := filepath.Join(x.dir, "credentials")
	if x.credDir == "" {
		return []string{own}
	}
	return []string{x.credDir, own}
}

// missing reports a secret that is not there.
func (x *secrets) missing(b *binder, n *node, what string) {
	sev := Error
	if x.optional {
		sev = Warning
	}
	b.add(sev, n.src, n.val, "%s", what)
}

// abs resolves a path of the configuration from its folder.
func (x *secrets) abs(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(x.dir, path)
}

// read returns a file's content.
func (x *secrets) read(b *binder, n *node, path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err == nil && info.Size() > maxSecret {
		err = fmt.Errorf("it is larger than %d bytes", maxSecret)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		x.missing(b, n, fmt.Sprintf("read %s: %v", path, plain(err)))
		return nil, err
	}
	x.contents[n] += digest(string(data))
	return data, nil
}

// checkMode reports a file that everyone may read or change: an error where
// its content is secret, and else a warning.
func (b *binder) checkMode(open Severity, n *node, path string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
	case info.Mode().Perm()&0o002 != 0:
		b.report(open, n, n.val, "everyone on this machine may change %s: chmod 640 %[1]s", path)
	case info.Mode().Perm()&0o004 != 0:
		b.report(open, n, n.val, "everyone on this machine may read %s: chmod 640 %[1]s", path)
	}
}

// plain is err without the path that the caller names already.
func plain(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// secret is a password or the like.
type secret struct {
	here
	V Secret
	// literal: it is written out in the configuration.
	literal bool
}

func (s *secret) bind(b *binder, n *node) {
	var t text
	if t.read(b, n, Error); t.set() {
		s.at, s.V, s.literal = n, Secret(t.V), !t.isRef
	}
}

// pemFile is a certificate or key: the file it is in, or its text.
type pemFile struct {
	here
	Path string // "" when Data came without a file
	Data []byte
}

const pemBegin = "-----BEGIN "

func (f *pemFile) bind(b *binder, n *node) {
	s, ok := n.value.(string)
	if !ok {
		b.errorAt(n, "this is %s; it must be a path or a reference like \"${cred:NAME}\"", n.kind())
		return
	}
	kind, name, isRef := reference(s)
	if isRef && kind != "env" {
		path, ok := b.secrets.path(b, n, kind, name)
		if ok {
			f.load(b, n, path)
		}
		return
	}
	v, _, ok := b.secrets.expand(b, n, s, Error)
	switch {
	case !ok:
	case strings.Contains(v, pemBegin) && !isRef:
		b.errorAt(n, "this is the text of a certificate or key; put it into a file and write its path, or \"${cred:NAME}\"")
	case strings.Contains(v, pemBegin):
		f.at, f.Data = n, []byte(v)
	default:
		f.load(b, n, b.secrets.abs(v))
	}
}

func (f *pemFile) load(b *binder, n *node, path string) {
	data, err := b.secrets.read(b, n, path)
	switch {
	case err != nil:
	case !strings.Contains(string(data), pemBegin):
		b.errorAt(n, "%s is no PEM file: it holds no %q line", path, pemBegin+"…")
	default:
		f.at, f.Path, f.Data = n, path, data
	}
}
