package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb" // of nfpm only this: its rpm part wants a module that cannot be had
	"github.com/goreleaser/nfpm/v2/files"
)

const maintainer = "Gateway maintainers <maintainers@gateway.invalid>"

const description = `bridge serial and Modbus devices to MQTT
 Polls meters, inverters, PLCs and sensors over Modbus TCP, RTU and ASCII, hears
 sensors that speak by themselves, serves their values on an MQTT broker of its
 own, and carries them to other brokers through outages.`

// deb builds the Debian package.
func (b *build) deb(t target, binary []byte, c *contents) (name string, err error) {
	changelog := fmt.Sprintf("gateway (%s-1) stable; urgency=medium\n\n  * See /usr/share/doc/gateway/README.md.\n\n -- %s  %s\n",
		b.version, maintainer, b.time.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	list := []file{
		{"/usr/bin/gateway", 0o755, binary},
		{"/usr/lib/systemd/system/gateway.service", 0o644, c.unit},
		{"/usr/lib/sysusers.d/gateway.conf", 0o644, c.sysusers},
		{"/etc/gateway/gateway.toml", 0o644, c.config},
		{"/etc/gateway/devices.d/README", 0o644, c.readme},
		{"/usr/share/man/man1/gateway.1.gz", 0o644, zipped(c.man)},
		{"/usr/share/doc/gateway/copyright", 0o644, c.copyright},
		{"/usr/share/doc/gateway/changelog.Debian.gz", 0o644, zipped([]byte(changelog))},
	}
	overrides, err := os.ReadFile(filepath.Join(b.repo, "packaging/debian/lintian-overrides"))
	if err != nil {
		return "", err
	}
	list = append(list, file{"/usr/share/lintian/overrides/gateway", 0o644, overrides})
	if c.completion != nil {
		list = append(list, file{"/usr/share/bash-completion/completions/gateway", 0o644, c.completion})
	}
	for _, f := range c.docs {
		f.path = "/usr/share/doc/gateway/" + f.path
		list = append(list, f)
	}

	dir := filepath.Join(b.work, t.name)
	info := &nfpm.Info{
		Name: "gateway", Arch: t.debian, Platform: "linux",
		Version: b.version, VersionSchema: "none", Release: "1",
		Section: "net", Priority: "optional", Maintainer: maintainer, Description: description,
		MTime: b.time, DisableGlobbing: true,
	}
	info.Deb.Arch = t.debian
	info.Deb.Compression = "xz"
	info.Depends = []string{"init-system-helpers (>= 1.54~)", "procps", "systemd | systemd-standalone-sysusers"} // procps has kill
	info.Recommends = []string{"ca-certificates"}
	scripts := filepath.Join(b.repo, "packaging/debian")
	info.Scripts.PostInstall = filepath.Join(scripts, "postinst")
	info.Scripts.PreRemove = filepath.Join(scripts, "prerm")
	info.Scripts.PostRemove = filepath.Join(scripts, "postrm")
	for _, f := range list {
		content, err := b.stage(dir, f)
		if err != nil {
			return "", err
		}
		if f.path == "/etc/gateway/gateway.toml" {
			content.Type = files.TypeConfigNoReplace
		}
		info.Contents = append(info.Contents, content)
	}
	for _, empty := range []struct {
		path string
		mode fs.FileMode
	}{{"/etc/gateway/profiles", 0o755}, {"/etc/gateway/credentials", 0o750}} {
		info.Contents = append(info.Contents, &files.Content{Destination: empty.path, Type: files.TypeDir, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: empty.mode, MTime: b.time}})
	}

	if err := nfpm.PrepareForPackager(info, "deb"); err != nil {
		return "", err
	}
	name = fmt.Sprintf("gateway_%s-1_%s.deb", b.version, t.debian)
	out, err := os.Create(filepath.Join(b.out, name))
	if err != nil {
		return "", err
	}
	return name, errors.Join(deb.Default.Package(info, out), out.Close())
}

// stage puts a file where nfpm reads it.
func (b *build) stage(dir string, f file) (*files.Content, error) {
	path := filepath.Join(dir, f.path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, f.data, f.mode); err != nil {
		return nil, err
	}
	return &files.Content{Source: path, Destination: f.path, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: f.mode, MTime: b.time}}, nil
}
