package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"edgegateway/bridge"
	"edgegateway/broker"
	"edgegateway/devices/serial"
	"edgegateway/internal/clock"
	"edgegateway/internal/config"
)

func newDoctor(opts *options) *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at everything that a gateway needs, and say what is wrong and what to do",
		Long: `doctor looks at the configuration, the serial ports, the ways to devices and far
brokers, the disk, the clock, the memory, the certificates, who can reach the broker,
and asks the running gateway what troubles it. It changes nothing, opens no serial
port, and logs in to no far broker while a gateway runs.

What is well is told in one line for each part; --all tells all of it. The exit
code is 1 if anything fails, and 0 with warnings and notes.`,
		Example: `  gateway doctor
  sudo gateway doctor --all            sees also what other users' programs hold`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			d := examineHost(ctx, opts, thisHost())
			if asJSON {
				if err := printJSON(os.Stdout, d.findings); err != nil {
					return err
				}
			} else {
				d.print(os.Stdout, all)
			}
			if d.count(failure) > 0 {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all findings as JSON")
	cmd.Flags().BoolVar(&all, "all", false, "print also what is well, one by one")
	return cmd
}

// A level is how bad a finding is.
type level string

const (
	fine    level = "ok"
	note    level = "note" // to know
	warning level = "warn" // will be trouble, or may be
	failure level = "FAIL" // is trouble
)

// A finding is one thing that was looked at.
type finding struct {
	Area   string `json:"area"`
	Level  level  `json:"level"`
	About  string `json:"about,omitempty"` // a bus, bridge, file or the like; "": all of the area
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// A host is the machine that is looked at.
type host struct {
	root    string // where its files are
	uid     int    // who looks
	gids    []int
	now     func() time.Time
	holders func(port string) []serial.Holder
	statfs  func(path string) (unix.Statfs_t, error)
	dial    func(ctx context.Context, address string) error
	clock   func(trusted bool) (q broker.Quality, blind bool)
	probe   func(ctx context.Context, b *config.Bridge, opts bridge.ProbeOptions, tell func(bridge.Step)) error
}

// reachTime is how long one address may take to answer.
const reachTime = 4 * time.Second

func thisHost() *host {
	gids, _ := os.Getgroups()
	return &host{
		root: "/", uid: os.Geteuid(), gids: append(gids, os.Getegid()), now: time.Now, holders: serial.Holders,
		statfs: func(path string) (s unix.Statfs_t, err error) { return s, unix.Statfs(path, &s) },
		dial: func(ctx context.Context, address string) error {
			c, err := (&net.Dialer{Timeout: reachTime}).DialContext(ctx, "tcp", address)
			if err == nil {
				c.Close()
			}
			return err
		},
		clock: func(trusted bool) (broker.Quality, bool) { return clock.New(trusted).Quality(), clock.Blind() },
		probe: func(ctx context.Context, b *config.Bridge, opts bridge.ProbeOptions, tell func(bridge.Step)) error {
			cfg := b.Config
			cfg.ConnectTimeout = reachTime
			_, err := bridge.Probe(ctx, cfg, opts, tell)
			return err
		},
	}
}

func (h *host) path(name string) string { return filepath.Join(h.root, name) }

// read returns the text of a file without space around it, "" if there is none.
func (h *host) read(name string) string {
	text, _ := os.ReadFile(h.path(name))
	return strings.Trim(string(text), "\x00\n ")
}

func (h *host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// running returns which of some programs run, by the names that the kernel
// has of them, 15 characters at most.
func (h *host) running(programs ...string) (names []string) {
	files, _ := filepath.Glob(h.path("proc/[0-9]*/comm"))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if name := strings.TrimSpace(string(text)); slices.Contains(programs, name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// A doctor looks at one gateway and its machine.
type doctor struct {
	*host
	opts     *options
	cfg      *config.Config // nil: it has errors
	secrets  bool           // all of them can be had here
	status   *Status        // nil: no gateway runs, or it may not be asked
	locked   bool           // the state folder is in use all the same
	at       places
	findings []finding
}

// examineHost looks at everything.
func examineHost(ctx context.Context, opts *options, h *host) *doctor {
	d := &doctor{host: h, opts: opts, at: lookPlaces(opts.state)}
	d.configuration()
	d.ask(ctx)
	d.ports()
	d.endpoints(ctx)
	d.disk()
	d.time()
	d.memory()
	d.bridges(ctx)
	d.certificates()
	d.broker()
	return d
}

func (d *doctor) say(area string, l level, about, remedy, format string, args ...any) {
	d.findings = append(d.findings, finding{area, l, about, fmt.Sprintf(format, args...), remedy})
}

func (d *doctor) count(l level) (n int) {
	for _, f := range d.findings {
		if f.Level == l {
			n++
		}
	}
	return n
}

// print writes the findings by area, worst ones first. Of what is well it
// tells only where nothing else is to be told, unless all is wanted.
func (d *doctor) print(out io.Writer, all bool) {
	var areas []string
	of := map[string][]finding{}
	for _, f := range d.findings {
		if !slices.Contains(areas, f.Area) {
			areas = append(areas, f.Area)
		}
		of[f.Area] = append(of[f.Area], f)
	}
	order := []level{failure, warning, note, fine}
	for _, area := range areas {
		fmt.Fprintln(out, area)
		list := of[area]
		slices.SortStableFunc(list, func(a, b finding) int { return slices.Index(order, a.Level) - slices.Index(order, b.Level) })
		for i, f := range list {
			if f.Level == fine && !all && i > 0 {
				if rest := len(list) - i; list[0].Level == fine {
					fmt.Fprintf(out, "  ok    and %d more\n", rest)
				} else if rest > 0 {
					fmt.Fprintf(out, "  ok    all else: %d\n", rest)
				}
				break
			}
			f.print(out)
		}
	}
	fmt.Fprintf(out, "\n%s, %s, %s\n", count(d.count(failure), "failure"), count(d.count(warning), "warning"), count(d.count(note), "note"))
}

func (f *finding) print(out io.Writer) {
	text := f.Text
	if f.About != "" {
		text = f.About + ": " + text
	}
	fmt.Fprintf(out, "  %-4s  %s\n", f.Level, text)
	for line := range strings.Lines(f.Remedy) {
		fmt.Fprintf(out, "        → %s\n", strings.TrimSpace(line))
	}
}

// configuration reads it as check does, and finds out whether the secrets can
// be had here.
func (d *doctor) configuration() {
	const area = "configuration"
	cfg, report := config.Load(d.opts.config, config.Options{SecretsElsewhere: true})
	d.cfg = cfg
	if err := report.Err(); err != nil {
		if text := err.Error(); strings.Contains(text, unix.EACCES.Error()) {
			d.say(area, failure, "", "sudo gateway doctor", "%s: it is not for this user to read", text)
			return
		}
		d.say(area, failure, "", "gateway check --config "+d.opts.config, "%s: %s", count(report.Errors(), "error"), err)
		return
	}
	if n := report.Warnings(); n > 0 {
		d.say(area, warning, "", "gateway check --config "+d.opts.config, "%s, such as: %s", count(n, "warning"), report.Issues[0].Message)
	}
	strict, _ := config.Load(d.opts.config, config.Options{})
	d.secrets = strict != nil
	d.say(area, fine, "", "", "buses: %d, %s, %s in %s", len(cfg.Buses), count(len(cfg.Devices), "device"), count(len(cfg.Bridges), "bridge"), cfg.Dir)
}

// ask asks the gateway that runs what troubles it.
func (d *doctor) ask(ctx context.Context) {
	const area = "running gateway"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var s Status
	switch err := ask(ctx, controlPath(d.opts.state), "/status", nil, &s); {
	case errors.Is(err, errNotRunning):
		d.notRunning(area)
	case err != nil:
		d.locked = true // for all that is known
		d.say(area, warning, "", "sudo gateway doctor", "%v", err)
	default:
		d.status = &s
		d.versions(area)
		d.partsOf(area)
	}
}

func (d *doctor) notRunning(area string) {
	d.locked = d.cfg != nil && d.inUse()
	switch {
	case d.locked:
		d.say(area, failure, "", "name the folder that it runs with (--state), or wait until it has started",
			"the buffer in %s is in use, but no gateway answers at %s", d.at.state, controlPath(d.opts.state))
	case d.others():
		d.say(area, note, "", "gateway doctor --state DIR looks at that of another state folder", "none with the state folder %s; another one runs", d.opts.state)
	default:
		d.say(area, note, "", "sudo systemctl start gateway\njournalctl -u gateway -n 50 says why if it does not start", "no gateway runs: what only it can know is not told")
	}
}

// others reports whether another gateway runs, whichever it is.
func (h *host) others() bool {
	files, _ := filepath.Glob(h.path("proc/[0-9]*/comm"))
	return slices.ContainsFunc(files, func(file string) bool {
		text, _ := os.ReadFile(file)
		return strings.TrimSpace(string(text)) == "gateway" && filepath.Base(filepath.Dir(file)) != strconv.Itoa(os.Getpid())
	})
}

// inUse reports whether somebody has the buffers open.
func (d *doctor) inUse() bool {
	b, err := lookIntoBuffers(d.opts)
	if err == nil {
		b.close()
	}
	return err != nil && strings.Contains(err.Error(), "is in use")
}

// versions finds a gateway that is not what is installed or configured now.
func (d *doctor) versions(area string) {
	s := d.status
	exe, _ := os.Readlink(d.path(fmt.Sprintf("proc/%d/exe", s.PID)))
	switch {
	case s.Version != version():
		d.say(area, warning, "", "sudo systemctl restart gateway", "it is version %s, and this is %s", s.Version, version())
	case strings.HasSuffix(exe, " (deleted)"):
		d.say(area, warning, "", "sudo systemctl restart gateway", "its program was replaced since it was started")
	}
	if d.cfg != nil && s.Config != d.cfg.Hash() && (s.Reload == nil || len(s.Reload.Restart) == 0) {
		d.say(area, note, "", "gateway check --diff shows what it would do; sudo systemctl reload gateway", "the configuration was changed, and not reloaded since")
	}
	if r := s.Reload; r != nil && !r.OK {
		d.say(area, failure, "", "gateway check; then sudo systemctl reload gateway", "the last reload failed, all is as before it: %s", r.Error)
	} else if r != nil && len(r.Restart) > 0 {
		d.say(area, warning, "", "sudo systemctl restart gateway", "changed, but as before until a restart: %s", strings.Join(r.Restart, ", "))
	}
}

// partsOf tells of the parts that are in trouble.
func (d *doctor) partsOf(area string) {
	s := d.status
	const look = "docs/commissioning.md, \"What it says, and what to do\""
	var away, odd []string
	for i := range s.Buses {
		b := &s.Buses[i]
		switch trouble := b.trouble(); {
		case b.PortDown:
			d.say(area, failure, "bus "+b.Bus, look, "%s", trouble)
		case b.Lent != "":
			d.say(area, note, "bus "+b.Bus, "", "%s", trouble)
		case trouble != "":
			d.say(area, failure, "bus "+b.Bus, look, "%s", trouble)
		}
	}
	down := func(bus string) bool {
		return slices.ContainsFunc(s.Buses, func(b BusStatus) bool { return b.Bus == bus && (b.PortDown || b.Lent != "" || b.Hint != "") })
	}
	for i := range s.Devices {
		dev := &s.Devices[i]
		trouble := dev.trouble()
		switch {
		case down(dev.Bus):
			away = append(away, dev.ID)
		case dev.State == "offline":
			d.say(area, failure, "device "+dev.ID, look, "offline: %s", trouble)
		case trouble != "":
			odd = append(odd, dev.ID)
			if len(odd) <= 5 {
				d.say(area, warning, "device "+dev.ID, "gateway read "+dev.ID, "%s", trouble)
			}
		}
	}
	if len(odd) > 5 {
		d.say(area, warning, "", "gateway status", "%d more devices have trouble", len(odd)-5)
	}
	if len(away) > 0 {
		d.say(area, note, "", "", "%s of those buses cannot be asked", count(len(away), "device"))
	}
	for _, b := range s.Bridges {
		switch trouble := bridgeTrouble(&b); {
		case b.State != bridge.Up:
			d.say(area, failure, "bridge "+b.Name, "gateway bridge test "+b.Name, "%v for %s: %s", b.State, brief(d.now().Sub(b.Since).Seconds()), orNothing(trouble))
		case trouble != "":
			d.say(area, warning, "bridge "+b.Name, "", "%s", trouble)
		}
	}
	for _, name := range logOrder {
		l, ok := s.Spools[name]
		switch {
		case !ok:
		case l.State != "ok":
			d.say(area, failure, "buffer "+name, "the disk below; journalctl -u gateway has the error", "%s: the medium fails, and nothing is kept safe", l.State)
		case l.RingFailed:
			d.say(area, warning, "buffer "+name, "room in "+d.at.runtime, "its ring cannot be written, so that each message wears the disk")
		}
		for reason, n := range l.Dropped {
			if n > 0 {
				d.say(area, warning, "buffer "+name, "gateway buffer ls; a larger size in [spool] keeps longer outages", "%d messages lost by %s since the start", n, reason)
			}
		}
		if l.DamagedBytes > 0 {
			d.say(area, warning, "buffer "+name, "gateway buffer verify", "%d bytes were damaged, and skipped", l.DamagedBytes)
		}
	}
	if s.Writes != "" {
		d.say(area, failure, "", "room on the disk, and its health", "nothing is written to devices: %s", s.Writes)
	}
	for _, url := range s.Listen {
		if strings.HasPrefix(url, "cannot listen") {
			d.say(area, failure, "broker", "sudo ss -ltnp names the program that has the port; stop that, or write another one into listen of [broker]", "%s", url)
		}
	}
	d.say(area, fine, "", "", "%s, version %s, up %s, process %d", s.Name, s.Version, brief(s.Uptime), s.PID)
}

func orNothing(s string) string {
	if s == "" {
		return "no reason is known yet"
	}
	return s
}

// each calls fn for 0 to n-1, some at once, and returns when all are done.
func each(n int, fn func(i int)) {
	var wg sync.WaitGroup
	tokens := make(chan struct{}, 16)
	for i := range n {
		tokens <- struct{}{}
		wg.Go(func() {
			defer func() { <-tokens }()
			fn(i)
		})
	}
	wg.Wait()
}
