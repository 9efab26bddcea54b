package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix" // whether standard input is a terminal, and what this user may open

	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/internal/config"
)

// An initer leads a person from a port to the first value. What it finds out it
// leaves to scan, what it writes is what scan prints, and what it reads is read
// as by read; here are the questions between them.
type initer struct {
	dialogue
	opts *options
	host *host
	data io.Writer // values, and what a dry run would write

	name, bus, units, speeds, profile, device string
	points                                    []string
	dry, keepBus, reload                      bool
	scan                                      scanSettings

	finder  *busFinder
	cfg     *config.Config // what is there; nil: nothing
	named   bool           // by the configuration
	written bool
}

func newInit(opts *options) *cobra.Command {
	x := &initer{opts: opts, host: thisHost(), data: os.Stdout}
	x.out = os.Stderr
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Walk from a port to the first value: find the devices, write them down, read them",
		Long: `init asks for what it needs, with a default for most of it: the name of the
gateway, the serial port or address, and what to call the devices. It finds the
speed of a serial line, the units on it and what they are, shows what it would
write, and writes it after a yes. Then it checks the configuration, has the running
gateway take it, reads the devices once, and says where the values appear.

It adds to a configuration and replaces nothing in it. Until the yes nothing is
changed, and Ctrl-C ends it at any question. It never writes to a device, and works
while the gateway runs.

Each question is answered by a flag, too. With --yes, or where there is no terminal,
nothing is asked: what no flag says is as the default, and where there is none init
ends and names the flag.`,
		Example: `  sudo gateway init
  gateway init --name plant-a --bus tcp://192.168.10.5 --yes
  gateway init --bus /dev/ttyUSB0 --units 1-247 --speeds 9600,19200/8E1
  gateway init --dry-run                      shows what it would write`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err == nil && !x.scan.yes {
				x.in = bufio.NewReader(os.Stdin)
			}
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			return x.run(ctx)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&x.name, "name", "", "name of the gateway, the first level of all topics (default: the host's)")
	flags.StringVar(&x.bus, "bus", "", "serial port, address such as tcp://192.168.10.5, or bus of the configuration")
	flags.StringVar(&x.units, "units", "", "unit ids to ask, such as 1-20,100 (default: "+firstUnits+" on serial lines; 1, 255 and 0 on the network)")
	flags.StringVar(&x.speeds, "speeds", "", "speeds of a serial line to try, such as 9600,19200/8E1 (default: all usual ones until a unit answers)")
	flags.DurationVar(&x.scan.timeout, "timeout", 300*time.Millisecond, "how long to wait for each answer")
	flags.StringVar(&x.device, "device", "", "name of the device, if there is one (default: what it is and where)")
	flags.StringVar(&x.profile, "profile", "", "profile of the devices, whatever they look like")
	flags.StringArrayVar(&x.points, "point", nil, `a point of a device without a profile: 'power = { input = 52, type = "f32" }'`)
	flags.BoolVar(&x.keepBus, "keep-bus", false, "write the serial line also if nobody answers on it")
	flags.BoolVar(&x.reload, "reload", true, "have the running gateway take what was written")
	flags.BoolVar(&x.dry, "dry-run", false, "show what would be written, and write nothing")
	flags.BoolVarP(&x.scan.yes, "yes", "y", false, "ask nothing")
	for flag, complete := range map[string]cobra.CompletionFunc{"bus": completeBus(opts), "profile": nameProfiles(opts)} {
		cmd.RegisterFlagCompletionFunc(flag, complete)
	}
	return cmd
}

// firstUnits are asked on a serial line unless somebody says otherwise: most
// lines have few devices, and all 247 at ten speeds take a quarter of an hour.
const firstUnits = "1-16"

// run leads through it, and says whether anything was written where it ends
// before its end.
func (x *initer) run(ctx context.Context) error {
	err := x.lead(ctx)
	exit, ok := errors.AsType[*exitError](err)
	switch {
	case err == nil || x.written || ok && exit.code == exitUsage:
		return err
	case ok && exit.err == nil:
		x.say("Nothing was written.")
		return err
	}
	return fmt.Errorf("%w; nothing was written", err)
}

func (x *initer) lead(ctx context.Context) error {
	if err := x.survey(ctx); err != nil {
		return err
	}
	name, err := x.askName(ctx)
	if err != nil {
		return err
	}
	place, err := x.askPlace(ctx)
	if err != nil {
		return err
	}
	found, err := x.look(ctx, place)
	if nobody, ok := errors.AsType[*nobodyError](err); ok {
		return x.nobody(ctx, name, place, nobody)
	} else if err != nil {
		return err
	}
	if found, err = x.choose(ctx, found); err != nil || len(found) == 0 {
		return err
	}
	var text strings.Builder
	printFound(&text, found)
	cfg, err := x.write(ctx, x.plan(name, place.bus, text.String()))
	if err != nil || cfg == nil {
		return err
	}
	return x.finish(ctx, cfg, found)
}

// survey looks at what is there, and whether it may be added to.
func (x *initer) survey(ctx context.Context) (err error) {
	if x.speeds != "" {
		if x.scan.speeds, err = parseSpeeds(x.speeds); err != nil {
			return err
		}
	}
	if x.scan.timeout < time.Millisecond {
		return usageError("--timeout %v: it is a time, such as 300ms", x.scan.timeout)
	}
	if x.profile != "" {
		if err := x.wrongProfile(x.profile); err != nil {
			return usageError("--profile: %w", err)
		}
	}
	for _, line := range x.points {
		if err := wrongPoint(line); err != nil {
			return usageError("--point: %w", err)
		}
	}
	if err := x.access(); err != nil {
		return err
	}
	if x.finder, err = newBusFinder(ctx, x.opts); err != nil {
		return err
	}
	if _, err := os.Stat(mainFile(x.opts.config)); err != nil {
		x.say("There is no configuration in %s yet.", x.opts.config)
		return nil
	}
	if x.cfg = x.finder.cfg; x.cfg == nil {
		x.finder.report.WriteTo(x.out)
		return &exitError{exitConfig, fmt.Errorf("the configuration in %s has %s: correct that first, `gateway check` shows it", x.opts.config, count(x.finder.report.Errors(), "error"))}
	}
	var settings []config.Setting
	config.Load(x.opts.config, config.Options{SecretsElsewhere: true, Settings: &settings})
	x.named = slices.ContainsFunc(settings, func(s config.Setting) bool { return s.Key == "name" })
	x.tellWhatIsThere()
	return nil
}

func (x *initer) tellWhatIsThere() {
	if len(x.cfg.Devices) == 0 {
		x.say("The configuration in %s has no devices yet.", x.opts.config)
		return
	}
	x.say("The configuration in %s has %s, which stay as they are:", x.opts.config, count(len(x.cfg.Devices), "device"))
	for _, b := range x.cfg.Buses {
		var ids []string
		for _, dev := range b.Devices {
			ids = append(ids, dev.ID)
		}
		if n := len(ids); n > 8 {
			ids = append(ids[:8], fmt.Sprintf("%d more", n-8))
		}
		x.say("  bus %s: %s", b.ID, cmp.Or(strings.Join(ids, ", "), "none"))
	}
}

// askName asks for the name of the gateway. "" is to leave it as it is.
func (x *initer) askName(ctx context.Context) (string, error) {
	if x.named {
		if x.name != "" && x.name != x.cfg.Name {
			return "", usageError("--name %s: the configuration has a name, %q, and init changes nothing in it", x.name, x.cfg.Name)
		}
		return "", nil
	}
	host, err := os.Hostname()
	if err != nil || config.WrongName(host) != "" || config.FreshName(host) {
		host = ""
	}
	name, err := x.ask(ctx, question{
		text: "Name of this gateway, the first level of all topics", flag: "name", given: x.name, fallback: host,
		wrong: func(name string) error {
			if wrong := config.WrongName(name); wrong != "" {
				return fmt.Errorf("the name %q %s", name, wrong)
			}
			return nil
		},
	})
	if err == nil && x.cfg != nil && x.name == "" && name == x.cfg.Name {
		return "", nil // it is that without being written
	}
	return name, err
}

// askPlace asks where the devices are.
func (x *initer) askPlace(ctx context.Context) (*busPlace, error) {
	q := question{text: "Port, or an address such as tcp://192.168.10.5", flag: "bus", given: x.bus}
	var names []string
	if x.bus == "" {
		names = x.listPorts()
		if len(names) > 0 && (x.in != nil || len(names) == 1) {
			q.fallback = "1"
		}
	}
	nameOf := func(answer string) string {
		if n, err := strconv.Atoi(answer); err == nil && n >= 1 && n <= len(names) {
			return names[n-1]
		}
		return answer
	}
	q.wrong = func(answer string) error {
		_, err := x.placeOf(nameOf(answer))
		return err
	}
	answer, err := x.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	place, err := x.placeOf(nameOf(answer))
	if err != nil {
		return nil, err
	}
	x.examinePort(place)
	return place, nil
}

// listPorts shows the serial ports and returns their lasting names.
func (x *initer) listPorts() (names []string) {
	for _, name := range serial.PortsUnder(x.host.root) {
		tty := x.host.target(strings.TrimPrefix(name, "/"))
		name = cmp.Or(x.host.lastingName(tty), name)
		if slices.Contains(names, name) {
			continue
		}
		if names = append(names, name); len(names) == 1 {
			x.say("\nSerial ports:")
		}
		about := []string{tty}
		if kind, _ := x.host.usb(tty); kind != "" {
			about = append(about, "USB "+kind)
		}
		x.say("%3d  %s", len(names), name)
		x.say("     %s", strings.Join(append(about, x.usersOf(name)), ", "))
	}
	if len(names) == 0 {
		x.say(`
There is no serial port. If an adapter is plugged in: the cable, another USB
socket; "dmesg -w" shows, while it is plugged in, whether the kernel sees it.
A device on the network needs none: give its address.`)
	}
	return names
}

// usersOf says who uses a port, and whether this user may.
func (x *initer) usersOf(name string) string {
	if x.cfg != nil {
		if p := x.finder.find(name); p != nil {
			return "bus " + p.bus + " of the configuration"
		}
	}
	var who []string
	for _, h := range x.host.holders(x.host.path(name)) {
		who = append(who, h.String())
	}
	switch {
	case len(who) > 0:
		return "open in " + strings.Join(who, " and ")
	case unix.Access(x.host.path(name), unix.R_OK|unix.W_OK) != nil:
		return "not for this user to open: sudo gateway init"
	}
	return "nobody has it open"
}

// placeOf makes a place of what a person says.
func (x *initer) placeOf(answer string) (*busPlace, error) {
	if x.cfg != nil {
		if p := x.finder.find(answer); p != nil {
			return p, nil
		}
	}
	if strings.HasPrefix(answer, "/") {
		if _, err := os.Stat(answer); err != nil {
			return nil, fmt.Errorf("%s: %w", answer, plainError(err))
		}
		if tty, err := filepath.EvalSymlinks(answer); err == nil && tty == answer {
			answer = cmp.Or(x.host.lastingName(filepath.Base(tty)), answer)
		}
		return &busPlace{bus: x.freeBus("rs485"), cfg: modbus.Config{URL: answer}}, nil
	}
	address := answer
	if !strings.Contains(answer, "://") {
		hosts, err := hostsOf(answer)
		if err != nil || len(hosts) != 1 {
			return nil, fmt.Errorf("%q is neither a port such as /dev/ttyUSB0 nor one address such as tcp://192.168.10.5", answer)
		}
		address = "tcp://" + hosts[0]
	}
	url, err := config.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	if x.cfg != nil {
		if p := x.finder.find(url); p != nil {
			return p, nil
		}
	}
	return &busPlace{bus: url, cfg: modbus.Config{URL: url, ConnectTimeout: max(x.scan.timeout, time.Second)}}, nil
}

// freeBus is a name that no bus has.
func (x *initer) freeBus(name string) string {
	return free(name, func(name string) bool {
		return x.cfg != nil && slices.ContainsFunc(x.cfg.Buses, func(b *config.Bus) bool { return b.ID == name })
	})
}

// free appends a number to a name that is taken.
func free(name string, taken func(string) bool) string {
	try := name
	for n := 2; taken(try); n++ {
		try = fmt.Sprintf("%s-%d", name, n)
	}
	return try
}

// examinePort says what is wrong with a port before it is tried.
func (x *initer) examinePort(p *busPlace) {
	if !strings.HasPrefix(p.cfg.URL, "/") {
		return
	}
	d := &doctor{host: x.host, opts: x.opts, status: x.finder.status}
	d.port(&config.Bus{ID: p.bus, Protocol: config.Modbus, Address: p.cfg.URL})
	for _, f := range d.findings {
		if f.Level == warning || f.Level == failure {
			x.say("%s\n  remedy: %s", f.Text, f.Remedy)
		}
	}
}

// look finds out who is there. A serial line is tried at one speed after the
// other until somebody answers.
func (x *initer) look(ctx context.Context, p *busPlace) ([]foundUnit, error) {
	s := x.scan
	tty := strings.HasPrefix(p.cfg.URL, "/")
	units := x.units
	if scheme, _, _ := strings.Cut(p.cfg.URL, "://"); !slices.Contains([]string{"tcp", "tls", "udp"}, scheme) { // a line, here or behind a converter
		var err error
		if units, err = x.ask(ctx, question{
			text: "Unit ids to ask (the devices' displays show them; 1-247 are all)", flag: "units", given: x.units, fallback: firstUnits,
			wrong: func(text string) error { _, err := config.ParseUnitIDs(text); return err },
		}); err != nil {
			return nil, err
		}
		if s.first = true; s.speeds == nil && tty && !p.listed {
			s.speeds, _ = parseSpeeds("all")
		}
	}
	if units != "" {
		var err error
		if s.units, err = config.ParseUnitIDs(units); err != nil {
			return nil, usageError("--units: %w", err)
		}
	}
	profiles := config.Profiles(x.opts.config, config.Options{})
	host, isTCP := strings.CutPrefix(p.cfg.URL, "tcp://")
	if isTCP && !p.listed {
		if s.speeds != nil {
			return nil, usageError("--speeds is for serial lines; %s is on the network", p.cfg.URL)
		}
		return scanHosts(ctx, []string{host}, x.finder, s, profiles)
	}
	return scanBus(ctx, p, s, profiles)
}

// nobody says what to try where nobody answered.
func (x *initer) nobody(ctx context.Context, name string, p *busPlace, none *nobodyError) error {
	if !strings.HasPrefix(p.cfg.URL, "/") {
		return none
	}
	speeds := " " + x.speeds
	if x.speeds == "" || x.speeds == "all" {
		speeds = "\n     " + commonSpeeds
	}
	if x.speeds == "" && p.listed {
		speeds = " " + lineOf(p.cfg.Serial) + ", as the bus is configured;\n     --speeds all tries others"
	}
	causes := []string{
		"A and B are swapped: swap them, which harms nothing (makers do not\n     agree which is which)",
		"the device has no power, or Modbus is switched off in its menu",
		"the line is not terminated: 120 ohms at its two ends, nowhere else",
		"another speed or parity: tried was" + speeds,
		"another unit id: --units 1-247 asks all there are",
	}
	err := fmt.Errorf("nobody answers on %s", p.cfg.URL)
	if none.broken {
		err = fmt.Errorf("something answers on %s, but nothing whole", p.cfg.URL)
		causes = []string{causes[3], "two devices have the same unit id: take one off the line", causes[0], causes[2]}
	}
	x.say("\nWhat it may be, the likeliest first:")
	for i, cause := range causes {
		x.say("  %d. %s", i+1, cause)
	}
	if p.listed {
		return err
	}
	keep := x.keepBus
	if !keep && !x.dry && x.in != nil {
		var e error
		if keep, e = x.sure(ctx, fmt.Sprintf("Write the line as bus %s all the same, to go on with `gateway scan %s`?", p.bus, p.bus), false); e != nil {
			return e
		}
	}
	if !keep {
		return err
	}
	speed := serial.Config{Baud: 9600}
	if len(x.scan.speeds) > 0 {
		speed = x.scan.speeds[0]
	}
	var text strings.Builder
	(&foundUnit{Bus: p.bus, Address: p.cfg.URL, speed: speed}).printBus(&text)
	if _, e := x.write(ctx, x.plan(name, p.bus, text.String())); e != nil {
		return e
	}
	return err
}

// choose has a person choose among the units, and say what they are called and,
// where that is not known, what they are.
func (x *initer) choose(ctx context.Context, found []foundUnit) ([]foundUnit, error) {
	x.say("\nFound:")
	var fresh []foundUnit
	for _, u := range found {
		x.say("  unit %d: %s", u.Unit, u.what())
		if !u.Broken && len(u.Devices) == 0 {
			fresh = append(fresh, u)
		}
	}
	if len(fresh) == 0 {
		x.say("None of them is new: nothing is to be written.")
		return nil, nil
	}
	if len(fresh) > 1 && x.units == "" {
		picked, err := x.ask(ctx, question{text: "Unit ids to take, such as 1,3", flag: "units", fallback: "all", wrong: func(answer string) error {
			_, err := pick(fresh, answer)
			return err
		}})
		if err != nil {
			return nil, err
		}
		fresh, _ = pick(fresh, picked)
	}
	if x.device != "" && len(fresh) > 1 {
		return nil, usageError("--device names one device, and there are %d: choose one with --units", len(fresh))
	}
	taken := map[string]bool{}
	if x.cfg != nil {
		for _, dev := range x.cfg.Devices {
			taken[dev.ID], taken[dev.Name] = true, true
		}
	}
	for i := range fresh {
		u := &fresh[i]
		if err := x.describe(ctx, u); err != nil {
			return nil, err
		}
		key, err := x.ask(ctx, question{
			text: fmt.Sprintf("Name of unit %d, the next level of its topics", u.Unit), flag: "device", given: x.device,
			fallback: free(u.device(), func(name string) bool { return taken[name] }),
			wrong: func(name string) error {
				switch wrong := config.WrongName(name); {
				case wrong != "":
					return fmt.Errorf("the name %q %s", name, wrong)
				case taken[name]:
					return fmt.Errorf("there is a device %q already", name)
				}
				return nil
			},
		})
		if err != nil {
			return nil, err
		}
		u.key, taken[key] = key, true
	}
	return fresh, nil
}

// pick takes the units with some ids.
func pick(found []foundUnit, answer string) (list []foundUnit, err error) {
	if answer == "all" {
		return found, nil
	}
	ids, err := config.ParseUnitIDs(answer)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		i := slices.IndexFunc(found, func(u foundUnit) bool { return int(u.Unit) == id })
		if i < 0 {
			return nil, fmt.Errorf("unit %d is none of those that are new", id)
		}
		list = append(list, found[i])
	}
	return list, nil
}

// what says in a line what a unit is.
func (u *foundUnit) what() string {
	switch {
	case u.Broken:
		return "something answers, but broken: two devices with one unit id, or another parity"
	case len(u.Devices) > 0:
		return "is " + strings.Join(u.Devices, ", ") + " of the configuration"
	}
	text := cmp.Or(u.Profile, "no shipped profile fits")
	if u.SunSpec != nil {
		text = strings.TrimSpace(cmp.Or(u.Profile, "SunSpec") + " " + u.SunSpec.Maker + " " + u.SunSpec.Model)
	}
	if u.Perhaps {
		text += ", perhaps"
	}
	if u.Line != "" && !u.listed {
		text += " (" + u.Line + ")"
	}
	return text
}

// describe asks what a unit is that no profile fits.
func (x *initer) describe(ctx context.Context, u *foundUnit) error {
	switch {
	case x.profile != "":
		u.become(x.profile)
		return nil
	case len(u.Also) > 0:
		return x.tellApart(ctx, u)
	case u.Profile != "" || u.SunSpec != nil:
		return nil
	case len(x.points) > 0:
		u.points = x.points
		return nil
	case x.in == nil:
		return nil
	}
	x.say("\nUnit %d: no shipped profile fits. Type the name of one, a word to search for,\nor a point by hand, such as: power = { input = 52, type = \"f32\", unit = \"W\" }\nWithout one it is written down with no points; `gateway probe` finds them then.", u.Unit)
	for {
		answer, err := x.ask(ctx, question{text: "Profile, word or point (Enter: none)", flag: "profile", empty: true})
		switch {
		case err != nil || answer == "":
			return err
		case strings.Contains(answer, "="):
			if err := wrongPoint(answer); err != nil {
				x.say("%v", err)
				continue
			}
			u.points = append(u.points, answer)
		case x.wrongProfile(answer) == nil:
			u.become(answer)
			return nil
		default:
			x.search(answer)
		}
	}
}

// tellApart asks which of several profiles a unit is, as many meters have the
// registers of others.
func (x *initer) tellApart(ctx context.Context, u *foundUnit) error {
	profile, err := x.ask(ctx, question{
		text: fmt.Sprintf("Profile of unit %d, or %s", u.Unit, strings.Join(u.Also, ", ")), flag: "profile", fallback: u.Profile, wrong: x.wrongProfile,
	})
	if err == nil && profile != u.Profile {
		u.become(profile)
	}
	return err
}

// become makes the unit one of a profile that somebody named.
func (u *foundUnit) become(profile string) {
	u.Profile, u.Perhaps, u.SunSpec, u.Evidence, u.Lacks, u.Also = profile, false, nil, nil, nil, nil
}

func (x *initer) wrongProfile(name string) error {
	if !slices.Contains(config.ProfileNames(x.opts.config, config.Options{}), name) {
		return fmt.Errorf("there is no profile %q; `gateway profiles search WORD` finds them", name)
	}
	return nil
}

// maxSearched bounds how many profiles a search shows: what fits on a screen.
const maxSearched = 15

func (x *initer) search(words string) {
	found := slices.DeleteFunc(readProfiles(x.opts), func(p profileInfo) bool { return p.Errors > 0 || !p.has(strings.Fields(words)) })
	w := tabwriter.NewWriter(x.out, 0, 0, 2, ' ', 0)
	for _, p := range found[:min(maxSearched, len(found))] {
		fmt.Fprintf(w, "  %s\t%s\n", p.Name, strings.TrimSpace(p.Maker+" "+p.Model))
	}
	w.Flush()
	switch n := len(found); {
	case n == 0:
		x.say("No profile says %q.", words)
	case n > maxSearched:
		x.say("  … and %d more: another word narrows it", n-maxSearched)
	}
}

// wrongPoint says what is wrong with a point that somebody wrote.
func wrongPoint(line string) error {
	dir, err := os.MkdirTemp("", "gateway-init-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "point.toml")
	text := "name = \"x\"\n[device.x]\nbus = \"tcp://127.0.0.1\"\nunit_id = 1\npoints." + line + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	cfg, report := config.Load(file, config.Options{})
	if cfg == nil || len(cfg.Devices) != 1 || len(cfg.Devices[0].Points) != 1 || len(cfg.Buses) != 1 {
		for _, i := range report.Issues {
			if i.Severity == config.Error {
				return fmt.Errorf("%q: %s", line, i.Message)
			}
		}
		return fmt.Errorf("%q is no point: write it as power = { input = 52, type = \"f32\" }", line)
	}
	return nil
}
