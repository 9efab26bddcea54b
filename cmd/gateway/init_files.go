package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"edgegateway/internal/config"
)

// A draft is a file of the configuration as it is to become.
type draft struct {
	path  string
	text  string
	added string // what it has more than before; all of a new file
	fresh bool   // it is not there yet
}

// mainFile is the file of a configuration that everything begins with.
func mainFile(path string) string {
	if isFile(path) {
		return path
	}
	return filepath.Join(path, "gateway.toml")
}

// isFile reports whether the configuration at path is one file, also one that
// is not there yet.
func isFile(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return strings.HasSuffix(path, ".toml")
	}
	return !info.IsDir()
}

// access says whether the configuration can be read and added to.
func (x *initer) access() error {
	main := mainFile(x.opts.config)
	sudo := func(err error) error {
		return fmt.Errorf("%s: %w; as root it can: sudo gateway init", x.opts.config, plainError(err))
	}
	if f, err := os.Open(main); err == nil {
		f.Close()
	} else if errors.Is(err, fs.ErrPermission) {
		return sudo(err)
	}
	if x.dry {
		return nil
	}
	dirs := []string{filepath.Dir(main)}
	if devices := filepath.Join(x.opts.config, "devices.d"); !isFile(x.opts.config) {
		if _, err := os.Stat(devices); err == nil {
			dirs = append(dirs, devices)
		}
	}
	for _, dir := range dirs {
		for { // the folder that is there
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
				break
			}
			dir = filepath.Dir(dir)
		}
		f, err := os.CreateTemp(dir, ".init-*")
		if err != nil {
			return sudo(err)
		}
		f.Close()
		os.Remove(f.Name())
	}
	return nil
}

// plan makes files of what is to be added: a new one in devices.d, or more of a
// configuration that is one file. A name of "" is not written.
func (x *initer) plan(name, bus, text string) (list []draft) {
	main := mainFile(x.opts.config)
	was, err := os.ReadFile(main)
	first := draft{path: main, text: string(was), fresh: err != nil}
	if first.fresh {
		first.text = bareGateway
	}
	if name != "" {
		first.added = fmt.Sprintf("name = %s\n", strconv.Quote(name))
		first.text = withName(first.text, first.added)
	}
	if isFile(x.opts.config) {
		first.added = strings.TrimPrefix(first.added+"\n"+text, "\n")
		first.text = strings.TrimRight(first.text, "\n") + "\n\n" + text
		text = ""
	}
	if text != "" {
		file := strings.Map(func(r rune) rune {
			if strings.ContainsRune("/:. ", r) {
				return '-'
			}
			return r
		}, bus[strings.LastIndex(bus, "://")+1:])
		file = strings.Trim(file, "-")
		path := func(name string) string { return filepath.Join(x.opts.config, "devices.d", name+".toml") }
		file = free(file, func(name string) bool { _, err := os.Lstat(path(name)); return err == nil })
		list = append(list, draft{path: path(file), text: text, added: text, fresh: true})
	}
	if first.fresh {
		first.added = first.text
	}
	if first.added != "" {
		list = append(list, first)
	}
	return list
}

// bareGateway is what gateway.toml begins with where there was none.
const bareGateway = `# The first level of all topics.
#name = "plant-a"

# Whoever is on this machine may use the broker. For others, see docs/security.md.
[broker]
listen = ["tcp://127.0.0.1:1883"]
`

// withName puts the line of a name where the file speaks of one, else at its
// top: below a table it would belong to that.
func withName(text, line string) string {
	at := 0
	for rest := range strings.Lines(text) {
		trimmed := strings.TrimSpace(rest)
		if strings.HasPrefix(trimmed, "[") {
			break
		}
		at += len(rest)
		bare := strings.TrimSpace(strings.TrimLeft(trimmed, "#"))
		if key, _, ok := strings.Cut(bare, "="); ok && strings.TrimSpace(key) == "name" && strings.HasSuffix(rest, "\n") {
			return text[:at] + line + text[at:]
		}
	}
	return line + "\n" + text
}

// write checks the drafts, shows them, and writes them after a yes. Without one
// there is no configuration and no error.
func (x *initer) write(ctx context.Context, drafts []draft) (*config.Config, error) {
	cfg, report, err := x.rehearse(drafts)
	if err != nil {
		return nil, err
	}
	if cfg == nil {
		report.WriteTo(x.out)
		return nil, &exitError{exitConfig, errors.New("with this the configuration would have errors")}
	}
	for _, d := range drafts {
		what := map[bool]string{true: "is new", false: "gets"}[d.fresh]
		if x.dry {
			fmt.Fprintf(x.data, "# %s %s:\n\n%s\n", d.path, what, d.added)
			continue
		}
		x.say("\n%s %s:\n", d.path, what)
		for line := range strings.Lines(strings.TrimRight(d.added, "\n")) {
			x.say("%s", strings.TrimRight("    "+line, " \n"))
		}
	}
	if x.dry {
		x.say("Nothing was written.")
		return nil, nil
	}
	x.say("")
	if yes, err := x.sure(ctx, "Write this?", true); err != nil {
		return nil, err
	} else if !yes {
		x.say("Nothing was written.")
		return nil, nil
	}
	if err := x.put(drafts); err != nil {
		return nil, err
	}
	x.written = true
	cfg, report = config.Load(x.opts.config, config.Options{SecretsElsewhere: true})
	report.WriteTo(x.out)
	x.say("Written. The check finds %s.", report.Summary())
	if cfg == nil {
		return nil, &exitError{code: exitConfig}
	}
	return cfg, nil
}

// rehearse loads the configuration as it would be, from a folder in which all
// that stays is linked.
func (x *initer) rehearse(drafts []draft) (*config.Config, *config.Report, error) {
	dir := filepath.Dir(mainFile(x.opts.config))
	stage, err := os.MkdirTemp("", "gateway-init-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(stage)
	if err := os.Mkdir(filepath.Join(stage, "devices.d"), 0o700); err != nil {
		return nil, nil, err
	}
	for _, d := range drafts {
		below, err := filepath.Rel(dir, d.path)
		if err == nil {
			err = os.WriteFile(filepath.Join(stage, below), []byte(d.text), 0o600)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	for _, folder := range []string{".", "devices.d"} {
		if err := linkAll(filepath.Join(dir, folder), filepath.Join(stage, folder)); err != nil {
			return nil, nil, err
		}
	}
	path := stage
	if isFile(x.opts.config) {
		path = filepath.Join(stage, filepath.Base(x.opts.config))
	}
	cfg, report := config.Load(path, config.Options{SecretsElsewhere: true})
	return cfg, report, nil
}

// linkAll links in a folder what is in another, but for what is there already.
func linkAll(from, to string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	from, err = filepath.Abs(from)
	for _, e := range entries {
		if err == nil {
			err = os.Symlink(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
		}
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	return err
}

// put writes the drafts. If one cannot be written, none is.
func (x *initer) put(drafts []draft) error {
	mode, owner := x.modeOfNew()
	for i, d := range drafts {
		err := x.putOne(d, mode, owner)
		if err == nil {
			continue
		}
		for _, before := range drafts[:i] { // new ones, as gateway.toml comes last
			os.Remove(before.path)
		}
		return err
	}
	return nil
}

// modeOfNew is the mode and owner of new files: those of gateway.toml.
func (x *initer) modeOfNew() (fs.FileMode, *syscall.Stat_t) {
	if info, err := os.Stat(mainFile(x.opts.config)); err == nil {
		return info.Mode().Perm(), ownerFor(info)
	}
	return 0o644, nil
}

// ownerFor is the owner of a file if this user can give files to others.
func ownerFor(info fs.FileInfo) *syscall.Stat_t {
	if s, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return s
	}
	return nil
}

func (x *initer) putOne(d draft, mode fs.FileMode, owner *syscall.Stat_t) error {
	base := filepath.Dir(mainFile(x.opts.config))
	if err := os.MkdirAll(base, 0o755); err != nil {
		return err
	}
	if dir := filepath.Dir(d.path); dir != base { // with its mode, so that the service may read it also where new files are for nobody else
		info, err := os.Stat(base)
		if err == nil {
			err = os.Mkdir(dir, 0o700)
		}
		if err == nil {
			err = os.Chmod(dir, info.Mode().Perm())
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	path := d.path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return putFile(path, []byte(d.text), mode, owner)
}
