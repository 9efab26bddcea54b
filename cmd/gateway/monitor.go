package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix" // terminal modes
)

// monitorTimeout is how long the gateway may take to answer.
const monitorTimeout = 5 * time.Second

// A monitor shows the status of the running gateway again and again.
type monitor struct {
	socket string
	filter monitorFilter
	every  time.Duration
}

func newMonitor(opts *options) *cobra.Command {
	m := monitor{every: time.Second}
	var once, asJSON bool
	cmd := &cobra.Command{
		Use:   "monitor [FILTER]",
		Short: "Watch devices, points, buses, bridges and buffers live",
		Long: `monitor shows what the running gateway reads, with ages and errors, and how its
buses, bridges and buffers do. FILTER selects devices and points by a part of
DEVICE.POINT or of the name of their bus, or by a pattern with * and ?. Keys: q
quits, the arrows, Page Up and Page Down scroll.

Without a terminal, or with --json, it prints one JSON object a line, each with all
of "gateway status --json" and the time.`,
		Example: `  gateway monitor
  gateway monitor boiler
  gateway monitor '*.voltage*'
  gateway monitor --once
  gateway monitor --json --every 10s`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 1 {
				if m.filter, err = parseMonitorFilter(args[0]); err != nil {
					return err
				}
			}
			if m.every < 100*time.Millisecond || m.every > time.Hour {
				return usageError("--every %s: from 100ms to 1h", m.every)
			}
			m.socket = controlPath(opts.state)
			live := isTerminal(os.Stdout) && os.Getenv("TERM") != "dumb"
			switch {
			case once && !asJSON:
				return m.print(cmd.Context())
			case asJSON || !live:
				return m.stream(cmd.Context(), once)
			}
			return m.watch(cmd.Context())
		},
	}
	cmd.Flags().DurationVar(&m.every, "every", m.every, "how often to look: 100ms to 1h")
	cmd.Flags().BoolVar(&once, "once", false, "print all once, and end")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	return cmd
}

// A monitorFilter selects devices and points. The zero filter selects all.
type monitorFilter struct {
	text string // in lower case
	glob bool
}

func parseMonitorFilter(text string) (monitorFilter, error) {
	f := monitorFilter{strings.ToLower(text), strings.ContainsAny(text, "*?[")}
	if _, err := path.Match(f.text, ""); f.glob && err != nil {
		return f, usageError("%q is no pattern: [ wants its ]", text)
	}
	return f, nil
}

func (f monitorFilter) matches(name string) bool {
	name = strings.ToLower(name)
	if f.glob {
		ok, _ := path.Match(f.text, name) // no name has a /
		return ok
	}
	return strings.Contains(name, f.text)
}

// pick returns the devices that are selected, or whose bus is, with those of
// their points that are.
func (f monitorFilter) pick(all []DeviceStatus) []DeviceStatus {
	picked := []DeviceStatus{}
	for _, d := range all {
		if !f.matches(d.ID) && !f.matches(d.Name) && !f.matches(d.Bus) {
			d.Points = slices.DeleteFunc(slices.Clone(d.Points), func(p PointStatus) bool {
				return !f.matches(d.ID+"."+p.Name) && !f.matches(d.Name+"."+p.Name)
			})
			if len(d.Points) == 0 {
				continue
			}
		}
		picked = append(picked, d)
	}
	return picked
}

func (m *monitor) fetch(ctx context.Context) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	s := new(Status)
	if err := askRunning(ctx, m.socket, "/status", nil, s); err != nil {
		return nil, err
	}
	s.Devices = m.filter.pick(s.Devices)
	return s, nil
}

// print shows all once.
func (m *monitor) print(ctx context.Context) error {
	s, err := m.fetch(ctx)
	if err != nil {
		return err
	}
	v := monitorView{status: s, filter: m.filter.text, at: time.Now(), width: 132}
	if isTerminal(os.Stdout) {
		v.width, _ = terminalSize(os.Stdout)
		v.color = wantsColor()
	}
	for _, l := range append([]monitorLine{v.title()}, v.lines()...) {
		fmt.Println(l.show(v.width, v.color))
	}
	return nil
}

// A monitorSample is one line of JSON.
type monitorSample struct {
	Time time.Time `json:"time"`
	*Status
}

// stream prints a line of JSON for each look, until the gateway is gone.
func (m *monitor) stream(ctx context.Context, once bool) error {
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for out := json.NewEncoder(os.Stdout); ; {
		s, err := m.fetch(ctx)
		if err != nil {
			return err
		}
		if err := out.Encode(monitorSample{time.Now(), s}); err != nil || once {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// watch draws on the terminal until a key or a signal ends it.
func (m *monitor) watch(ctx context.Context) error {
	s, err := m.fetch(ctx)
	if err != nil {
		return err
	}
	ctx, stop := withSignals(ctx)
	defer stop()
	restore := takeTerminal()
	defer restore()
	sizes := make(chan os.Signal, 1)
	signal.Notify(sizes, syscall.SIGWINCH)
	defer signal.Stop(sizes)
	keys := readKeys(ctx)
	answers := make(chan func(*monitorView), 1)
	look := func() {
		s, err := m.fetch(ctx)
		answers <- func(v *monitorView) { v.take(s, err) }
	}

	v := monitorView{status: s, filter: m.filter.text, at: time.Now(), color: wantsColor()}
	next := time.NewTimer(m.every)
	defer next.Stop()
	for {
		v.width, v.height = terminalSize(os.Stdout)
		if _, err := os.Stdout.WriteString(v.frame()); err != nil {
			return err
		}
		select {
		case <-next.C:
			go look() // one at a time: next begins again with its answer
		case take := <-answers:
			take(&v)
			next.Reset(m.every)
		case <-sizes:
		case key := <-keys:
			if v.press(key) {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// wantsColor goes by https://no-color.org.
func wantsColor() bool { return os.Getenv("NO_COLOR") == "" }

// terminalSize returns columns and rows; 80 and 24 where they are not known.
func terminalSize(f *os.File) (cols, rows int) {
	cols, rows = 80, 24
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 && size.Row > 0 {
		cols, rows = int(size.Col), int(size.Row)
	}
	return cols, rows
}

// takeTerminal turns to the second screen of the terminal and has keys come one
// by one. restore undoes that. Ctrl-C still ends the program; suspending it would
// leave the terminal as it is, and is off.
func takeTerminal() (restore func()) {
	in := int(os.Stdin.Fd())
	before, err := unix.IoctlGetTermios(in, unix.TCGETS)
	if err == nil {
		now := *before
		now.Lflag &^= unix.ICANON | unix.ECHO
		now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
		now.Cc[unix.VSUSP], now.Cc[unix.VQUIT] = 0, 0
		unix.IoctlSetTermios(in, unix.TCSETS, &now)
	}
	os.Stdout.WriteString("\x1b[?1049h\x1b[?25l\x1b[?7l") // second screen, no cursor, no wrapping
	return func() {
		os.Stdout.WriteString("\x1b[?7h\x1b[?25h\x1b[?1049l")
		if before != nil {
			unix.IoctlSetTermios(in, unix.TCSETS, before)
		}
	}
}

// readKeys returns what is typed, a key at a time.
func readKeys(ctx context.Context) <-chan string {
	keys := make(chan string)
	go func() { // ends with the process
		buf := make([]byte, 64)
		for {
			n, err := os.Stdin.Read(buf)
			if err != nil || n == 0 {
				return
			}
			for _, key := range splitKeys(string(buf[:n])) {
				select {
				case keys <- key:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return keys
}

// splitKeys tells keys apart that came together: single characters, and those
// that send a sequence.
func splitKeys(s string) (keys []string) {
	for len(s) > 0 {
		n := 1
		if strings.HasPrefix(s, "\x1b[") || strings.HasPrefix(s, "\x1bO") {
			for n = 2; n < len(s) && (s[n] < '@' || s[n] > '~'); n++ {
			}
			n = min(n+1, len(s))
		}
		keys = append(keys, strings.Replace(s[:n], "\x1bO", "\x1b[", 1))
		s = s[n:]
	}
	return keys
}
