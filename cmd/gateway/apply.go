package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/bridge"
	"edgegateway/internal/config"
)

// A bundle is the part of a configuration that many sites share: a folder or an
// archive of it. What it has at its top replaces what is called the same in the
// configuration folder, as a whole; all else there stays.
//
// The bundle is unpacked beside what it replaces, and checked there together
// with what stays. What it replaces is kept until the next one.

const (
	stagedDir  = ".apply-new"
	beforeDir  = ".apply-old"
	recordFile = ".apply.json" // in beforeDir
)

// ofTheSite are names that no bundle may have.
var ofTheSite = []string{"site.toml", "credentials", "passwd"}

// Bounds of a bundle.
const (
	maxBundle      = 64 << 20 // bytes, unpacked
	maxBundleFiles = 10_000
)

// An applied is what an apply replaced.
type applied struct {
	Bundle string    `json:"bundle"`
	Time   time.Time `json:"time"`
	New    []string  `json:"new"` // names at the top that the bundle brought
	Old    []string  `json:"old"` // those that were there before
}

func newApply(opts *options) *cobra.Command {
	var confirm time.Duration
	var restart, back bool
	cmd := &cobra.Command{
		Use:   "apply BUNDLE | --back",
		Short: "Replace the configuration by a bundle, and go back by itself if a bridge does not come up",
		Long: `apply takes the configuration that many sites share, as a folder or a .tar or
.tar.gz file of it, checks it together with what belongs to this site (site.toml,
passwd, credentials), puts it in place and has the running gateway reload.

With --confirm it then waits for the bridges: each that was up before, and each new
one. When all are up the bundle stays; if they are not in time, or on Ctrl-C, the
configuration before is put back and reloaded. A connection that breaks under the
command, such as one of SSH through the very uplink, does not end it.`,
		Example: `  gateway apply plant-2026-11.tar.gz --confirm 10m
  gateway apply --back`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a := &applier{config: opts.config, socket: controlPath(opts.state), restart: restart, out: os.Stdout}
			switch {
			case back && len(args) == 0:
				return a.back(cmd.Context())
			case back || len(args) == 0:
				return usageError("name a bundle: a folder or a .tar.gz file; or --back alone")
			}
			return a.apply(cmd.Context(), args[0], confirm)
		},
	}
	cmd.Flags().DurationVar(&confirm, "confirm", 0, "go back unless all bridges are up within this time, such as 10m")
	cmd.Flags().BoolVar(&restart, "restart", false, "restart the service instead of reloading, for what needs that")
	cmd.Flags().BoolVar(&back, "back", false, "put back what the last bundle replaced")
	return cmd
}

// An applier replaces the configuration of one site.
type applier struct {
	config, socket string
	restart        bool
	out            io.Writer
}

func (a *applier) say(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }

func (a *applier) apply(ctx context.Context, bundle string, confirm time.Duration) error {
	if info, err := os.Stat(a.config); err != nil || !info.IsDir() {
		return fmt.Errorf("a bundle replaces what is in a configuration folder, and %s is none", a.config)
	}
	names, err := a.stage(bundle)
	defer os.RemoveAll(filepath.Join(a.config, stagedDir))
	if err != nil {
		return fmt.Errorf("bundle %s: %w; nothing was changed", bundle, err)
	}
	cfg, report := config.Load(filepath.Join(a.config, stagedDir), config.Options{SecretsElsewhere: true})
	report.WriteTo(os.Stderr)
	if cfg == nil {
		return &exitError{exitConfig, fmt.Errorf("the bundle does not fit: %s; nothing was changed", report.Summary())}
	}
	ctx, stop := a.unhindered(ctx)
	defer stop()
	needed := a.needed(ctx, cfg)
	if err := a.swap(bundle, names); err != nil {
		return err
	}
	a.say("%s is in place: configuration %s", strings.Join(names, ", "), cfg.Hash())
	err = a.activate(ctx)
	if errors.Is(err, errNotRunning) {
		a.say("No gateway is running here; it will start with this configuration.")
		return nil
	}
	if err == nil && confirm > 0 {
		err = a.await(ctx, needed, confirm)
	}
	if err == nil {
		return nil
	}
	if _, backErr := a.restore(); backErr != nil {
		return fmt.Errorf("%w; and the configuration before could not be put back: %w", err, backErr)
	}
	if backErr := a.activate(context.WithoutCancel(ctx)); backErr != nil {
		return fmt.Errorf("%w; the configuration before is in its place again, but not in force: %w", err, backErr)
	}
	return fmt.Errorf("%w; the configuration before is in force again", err)
}

// back puts back what the last bundle replaced.
func (a *applier) back(ctx context.Context) error {
	was, err := a.restore()
	if err != nil {
		return err
	}
	a.say("%s is as before %s of %s", strings.Join(was.New, ", "), was.Bundle, was.Time.Local().Format(time.DateTime))
	if err := a.activate(ctx); !errors.Is(err, errNotRunning) {
		return err
	}
	return nil
}

// unhindered keeps a lost terminal from ending the command; Ctrl-C ends ctx.
func (a *applier) unhindered(ctx context.Context) (context.Context, func()) {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	return ctx, func() { stop(); signal.Reset(syscall.SIGHUP, syscall.SIGPIPE) }
}

// stage unpacks the bundle into a folder in which all that stays is there, too,
// as links, and returns the names at its top.
func (a *applier) stage(bundle string) (names []string, err error) {
	staged := filepath.Join(a.config, stagedDir)
	if err := os.RemoveAll(staged); err != nil {
		return nil, err
	}
	if err := os.Mkdir(staged, 0o700); err != nil {
		return nil, fmt.Errorf("%w; use sudo", err)
	}
	info, err := os.Stat(bundle)
	switch {
	case err != nil:
		return nil, plainError(err)
	case info.IsDir():
		err = copyTree(os.DirFS(bundle), staged)
	default:
		err = untar(bundle, staged)
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(staged)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	for _, name := range names {
		if slices.Contains(ofTheSite, name) {
			return nil, fmt.Errorf("it has %s, which belongs to each site", name)
		}
	}
	if !slices.Contains(names, "gateway.toml") {
		return nil, errors.New("it has no gateway.toml at its top")
	}
	if err := a.likeBefore(staged); err != nil {
		return nil, err
	}
	there, err := os.ReadDir(a.config)
	if err != nil {
		return nil, err
	}
	for _, e := range there {
		if strings.HasPrefix(e.Name(), ".apply") || slices.Contains(names, e.Name()) {
			continue
		}
		if err := os.Symlink(filepath.Join("..", e.Name()), filepath.Join(staged, e.Name())); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// likeBefore gives what was unpacked the owner and the mode of what is there.
func (a *applier) likeBefore(staged string) error {
	file, dir := fs.FileMode(0o644), fs.FileMode(0o755)
	uid, gid := -1, -1
	if info, err := os.Stat(filepath.Join(a.config, "gateway.toml")); err == nil {
		file = info.Mode().Perm()
		if s, ok := info.Sys().(*syscall.Stat_t); ok && os.Getuid() == 0 {
			uid, gid = int(s.Uid), int(s.Gid)
		}
	}
	if info, err := os.Stat(a.config); err == nil {
		dir = info.Mode().Perm()
	}
	return filepath.WalkDir(staged, func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == staged {
			return err
		}
		mode := file
		if e.IsDir() {
			mode = dir
		}
		return errors.Join(os.Chmod(name, mode), os.Lchown(name, uid, gid))
	})
}

// A bundleWriter writes the files of a bundle within bounds.
type bundleWriter struct {
	root         *os.Root
	files, bytes int64
}

func (w *bundleWriter) dir(name string) error {
	if name == "." {
		return nil
	}
	return w.root.MkdirAll(name, 0o755)
}

func (w *bundleWriter) file(name string, from io.Reader) error {
	if w.files++; w.files > maxBundleFiles {
		return fmt.Errorf("it has more than %d files", maxBundleFiles)
	}
	if err := w.dir(path.Dir(name)); err != nil {
		return err
	}
	f, err := w.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(from, maxBundle-w.bytes+1))
	if w.bytes += n; w.bytes > maxBundle {
		err = fmt.Errorf("it is larger than %d bytes", maxBundle)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

func copyTree(from fs.FS, to string) error {
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &bundleWriter{root: root}
	return fs.WalkDir(from, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			if name != "." && strings.HasPrefix(e.Name(), ".") { // such as .git
				return fs.SkipDir
			}
			return w.dir(name)
		case !e.Type().IsRegular():
			return fmt.Errorf("%s is neither a file nor a folder", name)
		}
		f, err := from.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return w.file(name, f)
	})
}

// untar unpacks an archive. If all of it is in one folder, that folder is the
// bundle.
func untar(archive, to string) error {
	f, err := os.Open(archive)
	if err != nil {
		return plainError(err)
	}
	defer f.Close()
	in := io.Reader(f)
	if strings.HasSuffix(archive, "gz") {
		if in, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("it is no gzip file: %w", err)
		}
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	w := &bundleWriter{root: root}
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("it is no tar archive, or a part of one: %w", err)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = w.dir(name)
		case tar.TypeReg:
			err = w.file(name, r)
		case tar.TypeXGlobalHeader: // git archive writes one
		default:
			err = errors.New("it is neither a file nor a folder")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	return lift(to)
}

// lift brings what is in the only folder of dir up into dir.
func lift(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || !entries[0].IsDir() || entries[0].Name() == "devices.d" {
		return err
	}
	inner := dir + "-inner"
	if err := os.Rename(filepath.Join(dir, entries[0].Name()), inner); err != nil {
		return err
	}
	return errors.Join(os.Remove(dir), os.Rename(inner, dir))
}

// swap puts what is staged in place, and what it replaces aside.
func (a *applier) swap(bundle string, names []string) error {
	before := filepath.Join(a.config, beforeDir)
	if err := errors.Join(os.RemoveAll(before), os.Mkdir(before, 0o700)); err != nil {
		return err
	}
	was := applied{Bundle: filepath.Base(bundle), Time: time.Now().UTC().Truncate(time.Second), New: names}
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(a.config, name)); err == nil {
			was.Old = append(was.Old, name)
		}
	}
	if err := writeWhole(filepath.Join(before, recordFile), was); err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if slices.Contains(was.Old, name) {
			errs = append(errs, os.Rename(filepath.Join(a.config, name), filepath.Join(before, name)))
		}
		errs = append(errs, os.Rename(filepath.Join(a.config, stagedDir, name), filepath.Join(a.config, name)))
	}
	if err := errors.Join(errs...); err != nil {
		_, backErr := a.restore()
		return errors.Join(err, backErr)
	}
	return syncDir(a.config)
}

// restore puts back what the last bundle replaced.
func (a *applier) restore() (applied, error) {
	before := filepath.Join(a.config, beforeDir)
	var was applied
	text, err := os.ReadFile(filepath.Join(before, recordFile))
	if err == nil {
		err = json.Unmarshal(text, &was)
	}
	if err != nil {
		return was, fmt.Errorf("there is nothing to go back to: %w", plainError(err))
	}
	var errs []error
	for _, name := range was.New {
		old, now := filepath.Join(before, name), filepath.Join(a.config, name)
		if slices.Contains(was.Old, name) {
			if _, err := os.Lstat(old); err != nil {
				continue // it was not replaced
			}
		}
		if errs = append(errs, os.RemoveAll(now)); slices.Contains(was.Old, name) {
			errs = append(errs, os.Rename(old, now))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return was, err
	}
	return was, errors.Join(os.RemoveAll(before), syncDir(a.config))
}

// plainError is err without the path that is named anyhow.
func plainError(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// activate has the running gateway go by what is in place.
func (a *applier) activate(ctx context.Context) error {
	if a.restart {
		out, err := exec.CommandContext(ctx, "systemctl", "restart", "gateway").CombinedOutput()
		if err != nil {
			return fmt.Errorf("restart the service: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	var s ReloadStatus
	if err := ask(ctx, a.socket, "/reload", struct{}{}, &s); err != nil {
		return err
	}
	if !s.OK {
		return errors.New(s.Error)
	}
	if len(s.Restart) > 0 {
		a.say("Reloaded; changed, but as before until a restart (systemctl restart gateway): %s", strings.Join(s.Restart, ", "))
	}
	return nil
}

// needed returns the bridges of cfg that have to come up: those that are up
// now, and new ones.
func (a *applier) needed(ctx context.Context, cfg *config.Config) (names []string) {
	var s Status
	if ask(ctx, a.socket, "/status", nil, &s) != nil {
		return nil
	}
	for _, b := range cfg.Bridges {
		i := slices.IndexFunc(s.Bridges, func(old bridge.Stats) bool { return old.Name == b.Name })
		if i < 0 || s.Bridges[i].State == bridge.Up {
			names = append(names, b.Name)
		}
	}
	return names
}

// await waits until the bridges are up, and says which are not.
func (a *applier) await(ctx context.Context, names []string, most time.Duration) error {
	if len(names) == 0 {
		a.say("No bridge is to be waited for.")
		return nil
	}
	a.say("Waiting up to %s for: %s", most, strings.Join(names, ", "))
	ctx, cancel := context.WithTimeoutCause(ctx, most, errors.New("not in time"))
	defer cancel()
	down := map[string]string{}
	for _, name := range names {
		down[name] = "the gateway does not answer"
	}
	for {
		var s Status
		if err := ask(ctx, a.socket, "/status", nil, &s); err == nil {
			down = map[string]string{}
			for _, name := range names {
				down[name] = "it is not there"
			}
			for _, b := range s.Bridges {
				if b.State == bridge.Up {
					delete(down, b.Name)
				} else if down[b.Name] != "" {
					down[b.Name] = b.LastError
				}
			}
			if len(down) == 0 {
				a.say("All are up: the bundle stays.")
				return nil
			}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			var why []string
			for _, name := range names {
				if words, ok := down[name]; ok {
					why = append(why, fmt.Sprintf("bridge %s is not up: %s", name, words))
				}
			}
			return fmt.Errorf("the bundle is not confirmed (%v): %s", context.Cause(ctx), strings.Join(why, "; "))
		}
	}
}
