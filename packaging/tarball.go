package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// tarball packs the same for systems without dpkg, with a script that installs it.
func (b *build) tarball(t target, binary []byte, c *contents) (name string, err error) {
	install, err := os.ReadFile(filepath.Join(b.repo, "packaging/install.sh"))
	if err != nil {
		return "", err
	}
	list := []file{
		{"install.sh", 0o755, install},
		{"gateway", 0o755, binary},
		{"gateway.service", 0o644, c.unit},
		{"gateway.sysusers", 0o644, c.sysusers},
		{"gateway.toml", 0o644, c.config},
		{"devices.d.README", 0o644, c.readme},
		{"gateway.1", 0o644, c.man},
		{"copyright", 0o644, c.copyright},
	}
	if c.completion != nil {
		list = append(list, file{"gateway.bash-completion", 0o644, c.completion})
	}
	list = append(list, c.docs...)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	top := fmt.Sprintf("gateway-%s-%s", b.version, t.name)
	for _, f := range list {
		h := &tar.Header{Name: top + "/" + f.path, Mode: int64(f.mode), Size: int64(len(f.data)), ModTime: b.time, Uname: "root", Gname: "root", Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return "", err
		}
		if _, err := w.Write(f.data); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	name = fmt.Sprintf("gateway_%s_linux_%s.tar.gz", b.version, t.name)
	return name, os.WriteFile(filepath.Join(b.out, name), zipped(archive.Bytes()), 0o644)
}
