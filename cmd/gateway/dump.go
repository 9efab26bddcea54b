package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"edgegateway/broker/spool"
	"edgegateway/internal/config"
)

func newDump(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "dump [FILE]",
		Short: "Write all that a helper far away wants to know into one file, without secrets",
		Long: `dump writes a tar.gz with what doctor found, the status of the running gateway, the
configuration, the state of the buffers, what was learned of devices, facts of the
machine and the last lines of the log. It prints what is in it.

Passwords and keys are not in it. The configuration is written anew from what was
understood of it: comments and files with a syntax error are left out, references
stay references. Names, addresses and the last values of points are in it: look
before you pass it on.`,
		Example: `  sudo gateway dump
  sudo gateway dump /tmp/plant-a.tar.gz`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			return dump(ctx, opts, append(args, "")[0])
		},
	}
}

// Bounds of a dump, bytes before it is packed.
const (
	maxDumpFile = 2 << 20
	maxDump     = 24 << 20
)

// A dumper collects what goes into a dump.
type dumper struct {
	opts     *options
	hide     *strings.Replacer
	cfg      *config.Config   // nil: it has errors
	settings []config.Setting // of cfg
	files    []dumpFile
	total    int
}

type dumpFile struct {
	name, about string
	data        []byte
}

// add takes a file. Of what is too long the end is kept, for what happened last
// is there. Secrets that are known are hidden once more, whoever wrote them.
func (d *dumper) add(name, about string, data []byte) {
	text := d.hide.Replace(strings.ToValidUTF8(string(data), "\uFFFD"))
	if room := min(maxDumpFile, maxDump-d.total); len(text) > room {
		text = fmt.Sprintf("(the first %d bytes are left out)\n%s", len(text)-room, text[len(text)-max(0, room):])
	}
	d.total += len(text)
	d.files = append(d.files, dumpFile{name, about, []byte(text)})
}

func dump(ctx context.Context, opts *options, file string) error {
	now := time.Now()
	d := &dumper{opts: opts, hide: strings.NewReplacer()}
	d.cfg, _ = config.Load(opts.config, config.Options{SecretsElsewhere: true, Settings: &d.settings})
	name := "gateway"
	if d.cfg != nil {
		name = d.cfg.Name
		var pairs []string
		for _, s := range d.cfg.Secrets() {
			quoted, _ := json.Marshal(s)
			pairs = append(pairs, s, "•••", strings.Trim(string(quoted), `"`), "•••")
		}
		d.hide = strings.NewReplacer(pairs...)
	}
	if file == "" {
		file = fmt.Sprintf("gateway-dump-%s-%s.tar.gz", strings.Map(plainRune, name), now.UTC().Format("20060102-150405"))
	}
	d.collect(ctx)
	if err := d.write(file, now); err != nil {
		return err
	}
	for _, f := range d.files {
		fmt.Fprintf(os.Stderr, "  %-28s %9s  %s\n", f.name, bytesText(int64(len(f.data))), f.about)
	}
	fmt.Fprintln(os.Stderr, "Passwords and keys are not in it; names, addresses and last values are.")
	fmt.Println(file)
	return nil
}

// plainRune keeps a name to what every file system takes.
func plainRune(r rune) rune {
	if r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
		return r
	}
	return '_'
}

func (d *dumper) collect(ctx context.Context) {
	h := thisHost()
	d.add("about.txt", "version, machine and system", d.about(h))
	doc := examineHost(ctx, d.opts, h)
	var text bytes.Buffer
	doc.print(&text, true)
	d.add("doctor.txt", "what `gateway doctor --all` says", text.Bytes())
	d.configuration()
	if doc.status != nil {
		status, _ := json.MarshalIndent(doc.status, "", "  ")
		d.add("status.json", "what the running gateway says of itself", status)
	}
	d.buffers(ctx)
	for _, name := range []string{"learned.json", "holds.json"} {
		if data, err := os.ReadFile(filepath.Join(d.opts.state, name)); err == nil {
			d.add(name, "from the state folder", data)
		}
	}
	if out, err := output(ctx, "journalctl", "--unit=gateway", "--lines=2000", "--no-pager", "--output=short-iso"); err == nil {
		d.add("journal.txt", "the last lines of the service's log", out)
	} else {
		d.add("journal.txt", "the log cannot be read: "+err.Error(), []byte(err.Error()+"\n"))
	}
}

// configuration adds the files as they were understood, what all of it comes
// to, and what is wrong with it. The lines that check shows are left out: one
// with a syntax error may hold anything.
func (d *dumper) configuration() {
	_, report := config.Load(d.opts.config, config.Options{SecretsElsewhere: true})
	var text strings.Builder
	for i := range report.Issues {
		head, _, _ := strings.Cut(report.Issues[i].String(), "\n")
		fmt.Fprintln(&text, head)
	}
	fmt.Fprintln(&text, report.Summary())
	d.add("check.txt", "what `gateway check` says", []byte(text.String()))
	for _, f := range config.Redact(d.opts.config, config.Options{SecretsElsewhere: true}) {
		d.add("configuration/"+f.Name+".txt", "as it was understood, without comments", []byte(f.Text))
	}
	if d.cfg != nil {
		text.Reset()
		for _, s := range d.settings {
			fmt.Fprintf(&text, "%s: %v\n", s.Part, s)
		}
		d.add("settings.txt", "all of it laid over each other", []byte(text.String()))
	}
	names, _ := secretNames(d.opts.config)
	d.add("secrets.txt", "names of what lies in credentials", []byte(strings.Join(append(names, ""), "\n")))
}

// verifyTime bounds reading the buffers, which may be large.
const verifyTime = 30 * time.Second

func (d *dumper) buffers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	var text bytes.Buffer
	socket := controlPath(d.opts.state)
	var list []BufferLog
	var reports map[string]*spool.Report
	err := ask(ctx, socket, "/buffer", nil, &list)
	if err == nil {
		err = ask(ctx, socket, "/buffer/verify", nil, &reports)
	} else if errors.Is(err, errNotRunning) && d.cfg != nil {
		var b *buffers
		if b, err = lookIntoBuffers(d.opts); err == nil {
			defer b.close()
			list = b.list()
			reports, err = b.verify(ctx)
		}
	}
	if len(list) > 0 {
		_ = printBuffers(&text, list)
	}
	for _, name := range logOrder {
		if r := reports[name]; r != nil {
			fmt.Fprintf(&text, "\n%s: %d segments, %d records, %d bytes read, %d places damaged\n", name, r.Segments, r.Records, r.Bytes, len(r.Damage)+r.More)
			for _, bad := range r.Damage[:min(len(r.Damage), 50)] {
				line, _ := json.Marshal(bad)
				fmt.Fprintf(&text, "  %s\n", line)
			}
		}
	}
	if err != nil {
		fmt.Fprintf(&text, "\n%v\n", err)
	}
	d.add("buffers.txt", "who is owed how much, and whether it can be read", text.Bytes())
}

// about is what is known of program, machine and system.
func (d *dumper) about(h *host) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "gateway %s, %s, %s/%s\ntime %s\nuser %d\nconfiguration %s, state %s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, time.Now().UTC().Format(time.RFC3339), h.uid, d.opts.config, d.opts.state)
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		fmt.Fprintf(&b, "%s %s %s\n", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]))
	}
	for _, file := range []string{"proc/device-tree/model", "etc/os-release", "proc/cmdline", "proc/uptime", "proc/loadavg", "proc/meminfo", "proc/self/mountinfo", "sys/fs/cgroup/cgroup.controllers"} {
		fmt.Fprintf(&b, "\n== /%s\n%s\n", file, cmp.Or(h.read(file), "-"))
	}
	for _, dir := range []string{"dev/serial/by-id", "dev/serial/by-path"} {
		fmt.Fprintf(&b, "\n== /%s\n", dir)
		entries, _ := os.ReadDir(h.path(dir))
		for _, e := range entries {
			fmt.Fprintf(&b, "%s is %s\n", e.Name(), h.target(dir+"/"+e.Name()))
		}
	}
	fmt.Fprintf(&b, "\n== other ttys with hardware\n")
	ttys, _ := os.ReadDir(h.path("sys/class/tty"))
	for _, e := range ttys {
		if kind, number := h.usb(e.Name()); kind != "" {
			fmt.Fprintf(&b, "%s usb %s, serial number %s\n", e.Name(), kind, cmp.Or(number, "none"))
		}
	}
	return b.Bytes()
}

// output runs a program that only tells.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var talk strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil && talk.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(talk.String()))
	}
	return out, err
}

// write makes the file, which only its owner may read, and none in the place of
// another.
func (d *dumper) write(file string, now time.Time) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(file)
		}
	}()
	pack := gzip.NewWriter(f)
	w := tar.NewWriter(pack)
	slices.SortStableFunc(d.files, func(a, b dumpFile) int { return strings.Compare(a.name, b.name) })
	for _, e := range d.files {
		if err := w.WriteHeader(&tar.Header{Name: "gateway-dump/" + e.name, Mode: 0o600, Size: int64(len(e.data)), ModTime: now}); err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(e.data)); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), pack.Close())
}
