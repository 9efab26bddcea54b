package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/internal/budget"
	"edgegateway/internal/config"
)

// scanSettings are what the flags say.
type scanSettings struct {
	units   []int // nil: what is usual for the target
	speeds  []serial.Config
	timeout time.Duration
	yes     bool // the bus of a running gateway may be stopped
	first   bool // the first speed at which a unit answers is enough
}

func newScan(opts *options) *cobra.Command {
	var units, speeds string
	var s scanSettings
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "scan BUS | PORT | HOST[:PORT] | URL | NETWORK",
		ValidArgsFunction: completeBus(opts),
		Short:             "Find the units on a bus or a network, and what they are",
		Long: `scan asks each unit id for one register and lists those that answer, be it with
an exception. What they are it finds out by asking for their identity (function
43/14), from SunSpec's models, by the register in which some devices name
themselves, and by trying the shipped profiles and those in the configuration
folder: the registers of the right one answer, and what they hold is plausible. It prints TOML to save as a file in devices.d. It never
writes to a device.

A bus of the running gateway is scanned through it, at its speed, while it goes
on polling. For other speeds (--speeds) the gateway lends the bus: its devices
are not asked until the scan ends, which is asked for before. Only the addresses
that are named are asked.`,
		Example: `  gateway scan rs485                          a bus of the configuration
  gateway scan rs485 --units 1-20,100
  gateway scan /dev/ttyUSB0 --speeds 9600,19200/8E1
  gateway scan 192.168.10.5
  gateway scan rtu+tcp://192.168.10.7:4001 --units 1-20
  gateway scan 192.168.10.0/28 --units 1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if s.timeout < time.Millisecond {
				return usageError("--timeout %v: it is a time, such as 300ms", s.timeout)
			}
			if units != "" {
				if s.units, err = config.ParseUnitIDs(units); err != nil {
					return usageError("--units: %w", err)
				}
			}
			if s.speeds, err = parseSpeeds(speeds); err != nil {
				return err
			}
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			found, err := scan(ctx, opts, args[0], s)
			if err != nil && len(found) == 0 {
				return err
			}
			if asJSON {
				return errors.Join(json.NewEncoder(os.Stdout).Encode(found), err)
			}
			printFound(os.Stdout, found)
			return err
		},
	}
	cmd.Flags().StringVar(&units, "units", "", "unit ids to ask, such as 1-20,100 (without it: 1-247 on serial lines; 1, 255 and 0 on the network)")
	cmd.Flags().StringVar(&speeds, "speeds", "", "speeds of a serial line to try, such as 9600,19200/8E1, or all")
	cmd.Flags().DurationVar(&s.timeout, "timeout", 300*time.Millisecond, "how long to wait for each answer, from 1ms")
	cmd.Flags().BoolVarP(&s.yes, "yes", "y", false, "do not ask before the running gateway stops asking the bus for other speeds")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was found as JSON")
	return cmd
}

// commonSpeeds are what --speeds all tries, the most likely first.
const commonSpeeds = "9600,19200,9600/8E1,19200/8E1,38400,115200,57600,4800,2400,9600/8N2"

// parseSpeeds reads "9600,19200/8E1".
func parseSpeeds(text string) (list []serial.Config, err error) {
	if text == "" {
		return nil, nil
	}
	if text == "all" {
		text = commonSpeeds
	}
	for one := range strings.SplitSeq(text, ",") {
		speed, shape, _ := strings.Cut(strings.TrimSpace(one), "/")
		baud, err := strconv.Atoi(speed)
		if err != nil || baud < 50 || baud > 4_000_000 {
			return nil, usageError("--speeds: %q is no speed; write them like 9600,19200/8E1, or all", one)
		}
		format, err := serial.ParseFormat(shape)
		if err != nil {
			return nil, usageError("--speeds: %w", err)
		}
		list = append(list, serial.Config{Baud: baud, Format: format.String()})
	}
	return list, nil
}

// A foundUnit is a unit that answered.
type foundUnit struct {
	Bus      string   `json:"bus"`
	Address  string   `json:"address"`
	Line     string   `json:"line,omitempty"` // 9600 8N1, of a port
	Unit     byte     `json:"unit"`
	Devices  []string `json:"devices,omitempty"`  // that are configured with this unit id
	Answer   string   `json:"answer"`             // how it showed itself
	Broken   bool     `json:"broken,omitempty"`   // bytes came that are no answer
	Identity string   `json:"identity,omitempty"` // what it says of itself, by function 43/14
	Profile  string   `json:"profile,omitempty"`
	Perhaps  bool     `json:"perhaps,omitempty"` // the profile fits, but much else would look the same
	Evidence []string `json:"evidence,omitempty"`
	Also     []string `json:"also,omitempty"`    // other profiles that fit
	Lacks    []string `json:"lacks,omitempty"`   // points of the profile that it does not have
	Aliases  []int    `json:"aliases,omitempty"` // 255 or 0, which answer likewise: the address itself
	SunSpec  *sunSpec `json:"sunspec,omitempty"`

	listed bool // its bus stands in the configuration
	speed  serial.Config
	usual  string // how its bus is configured, "" for nothing or this speed

	key    string   // of its device; "": what it is and where
	points []string // TOML of points that somebody named
}

// scan finds units at target. What was found is returned with an error, too.
func scan(ctx context.Context, opts *options, target string, s scanSettings) ([]foundUnit, error) {
	finder, err := newBusFinder(ctx, opts)
	if err != nil {
		return nil, err
	}
	profiles := config.Profiles(opts.config, config.Options{})
	if place := finder.find(target); place != nil {
		return scanBus(ctx, place, s, profiles)
	}
	if strings.HasPrefix(target, "/") {
		return scanPort(ctx, target, s, profiles)
	}
	if scheme, host, ok := strings.Cut(target, "://"); ok && scheme != "tcp" {
		return scanURL(ctx, target, s, profiles)
	} else if ok {
		target = host
	}
	hosts, err := hostsOf(target)
	if err != nil {
		return nil, usageError("%q is no bus (there are: %s), no port such as /dev/ttyUSB0, and no address: %w", target, finder.names(), err)
	}
	if s.speeds != nil {
		return nil, usageError("--speeds is for serial lines; %s is on the network", target)
	}
	return scanHosts(ctx, hosts, finder, s, profiles)
}

// scanPort scans a serial port that is not in the configuration.
func scanPort(ctx context.Context, path string, s scanSettings, profiles []*config.Profile) ([]foundUnit, error) {
	if s.speeds == nil {
		s.speeds = []serial.Config{{Baud: 9600, Format: "8N1"}}
		fmt.Fprintf(os.Stderr, "No --speeds given: trying %s at 9600 8N1 only.\n", path)
	}
	return scanBus(ctx, &busPlace{bus: "rs485", cfg: modbus.Config{URL: path}}, s, profiles)
}

// scanURL scans a bus on the network that is not in the configuration, in
// another framing than Modbus TCP.
func scanURL(ctx context.Context, target string, s scanSettings, profiles []*config.Profile) ([]foundUnit, error) {
	url, err := config.ParseAddress(target)
	if err != nil {
		return nil, usageError("%w", err)
	}
	return scanBus(ctx, &busPlace{bus: url, cfg: modbus.Config{URL: url}}, s, profiles)
}

// scanBus scans one bus, at each speed that is asked for.
func scanBus(ctx context.Context, place *busPlace, s scanSettings, profiles []*config.Profile) (found []foundUnit, err error) {
	tty := !strings.Contains(place.cfg.URL, "://")
	if s.speeds != nil && !tty {
		return nil, usageError("--speeds is for serial ports; bus %s is at %s", place.bus, place.cfg.URL)
	}
	usual := "1-247"
	if !tty && place.cfg.Behind == nil {
		usual = "1,255,0"
	}
	if s.units == nil {
		s.units, _ = config.ParseUnitIDs(usual)
	}
	if tty {
		s.units = slices.DeleteFunc(slices.Clone(s.units), func(id int) bool { return id == 0 || id > 247 }) // no device has them
	}
	switch {
	case s.speeds == nil:
		s.speeds = []serial.Config{place.cfg.Serial}
		return place.scan(ctx, s, profiles)
	case place.socket == "":
		fmt.Fprintf(os.Stderr, "Bus %s (%s) is used by this scan alone, at speeds its devices may not know.\n", place.bus, place.cfg.URL)
		return place.scan(ctx, s, profiles)
	}
	err = place.borrow(ctx, "gateway scan", s.yes, s.most(), func(ctx context.Context, own *busPlace) error {
		found, err = own.scan(ctx, s, profiles)
		return err
	})
	return found, err
}

// most is how long it takes to ask all units at all speeds of a bus of one's own,
// after what others may have asked there.
func (s *scanSettings) most() time.Duration {
	return time.Duration((1+len(s.units))*len(s.speeds)) * s.timeout
}

// scan scans a bus at each speed.
func (p *busPlace) scan(ctx context.Context, s scanSettings, profiles []*config.Profile) ([]foundUnit, error) {
	tty, most := !strings.Contains(p.cfg.URL, "://"), s.most()
	if p.socket != "" {
		most *= 2
	}
	fmt.Fprintf(os.Stderr, "Asking %s at %s, which takes up to %s.\n", count(len(s.units), "unit id"), p.cfg.URL, budget.Brief(most.Round(time.Second)))
	var all []foundUnit
	var tally scanTally
	for _, speed := range s.speeds {
		at := *p
		if tty {
			speed.Path = at.cfg.Serial.Path
			at.cfg.Serial = speed
		}
		x := scanner{busPlace: &at, usual: lineOf(p.cfg.Serial), settings: s, profiles: profiles, tally: &tally, progress: newProgress()}
		found, err := x.run(ctx)
		all = append(all, found...)
		if err != nil {
			return all, err
		}
		if whole := wholeOf(all); s.first && len(whole) > 0 {
			p.tellMissing(whole, s.units)
			return whole, nil // what else came, came of asking at other speeds
		}
	}
	p.tellMissing(all, s.units)
	return all, tally.verdict(p, len(all), tty, s)
}

// wholeOf leaves out units of which only broken bytes came.
func wholeOf(found []foundUnit) (whole []foundUnit) {
	for _, u := range found {
		if !u.Broken {
			whole = append(whole, u)
		}
	}
	return whole
}

// tellMissing names the devices of the configuration that were asked and did
// not answer.
func (p *busPlace) tellMissing(found []foundUnit, asked []int) {
	for _, id := range slices.Sorted(maps.Keys(p.known)) {
		if !slices.Contains(asked, int(id)) || slices.ContainsFunc(found, func(u foundUnit) bool { return u.Unit == id || slices.Contains(u.Aliases, int(id)) }) {
			continue
		}
		for _, dev := range p.known[id] {
			if !dev.WrittenOnly() {
				fmt.Fprintf(os.Stderr, "Device %s is configured with unit id %d, which does not answer.\n", dev.ID, id)
			}
		}
	}
}

// A scanTally counts what came of the questions.
type scanTally struct{ silent, broken int }

// A nobodyError is that no unit answered, and what to do.
type nobodyError struct {
	error
	broken bool // bytes came
}

// verdict says what to do when no unit answered, and nil else.
func (t *scanTally) verdict(place *busPlace, found int, tty bool, s scanSettings) error {
	if found > t.broken {
		return nil
	}
	return &nobodyError{t.advice(place, tty, s), t.broken > 0}
}

func (t *scanTally) advice(place *busPlace, tty bool, s scanSettings) error {
	switch {
	case t.broken > 0:
		return fmt.Errorf("bus %s: bytes came, but no whole answer (%d times broken, %d silent): the speed or parity is another one; try --speeds all", place.bus, t.broken, t.silent)
	case tty:
		return fmt.Errorf("bus %s: nobody answers, not a byte came: check the power of the devices, A and B (swap them), the adapter's direction control, and the speed (--speeds all)", place.bus)
	}
	return fmt.Errorf("%s: the host is there, but no unit answers within %v: try other --units, such as 1-247 for a gateway to a serial line, or a longer --timeout", place.cfg.URL, s.timeout)
}

// A scanner scans one bus at one speed.
type scanner struct {
	*busPlace
	settings scanSettings
	profiles []*config.Profile
	tally    *scanTally
	progress *progress
	usual    string // how a listed bus is configured
}

// lineOf writes how a line is set, "" without a baud rate.
func lineOf(c serial.Config) string {
	if c.Baud == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", c.Baud, cmp.Or(c.Format, serial.DefaultFormat))
}

func (x *scanner) run(ctx context.Context) ([]foundUnit, error) {
	a, err := x.asker()
	if err != nil {
		return nil, err
	}
	defer a.close()
	defer x.progress.end()
	a.timeout = x.settings.timeout
	var found []foundUnit
	for i, id := range x.settings.units {
		x.progress.show("%s: unit %d, %d of %d asked, %d found", x.cfg.URL, id, i, len(x.settings.units), len(found))
		u, err := x.knock(ctx, a, byte(id))
		if err != nil {
			return found, err
		}
		if u == nil {
			continue
		}
		found = append(found, *u)
		if alike(a, x.cfg) && x.settings.units[0] == id && x.deaf(ctx, a) {
			break
		}
	}
	found = joinAliases(found, x.cfg)
	for i := range found {
		if u := &found[i]; !u.Broken && ctx.Err() == nil {
			x.progress.show("%s: what is unit %d?", x.cfg.URL, u.Unit)
			x.identify(ctx, a, u)
		}
	}
	return found, context.Cause(ctx)
}

// joinAliases leaves out the unit ids 255 and 0 of a host that answers to
// another one likewise: they mean the address itself (Modbus messaging on
// TCP/IP V1.0b, section 4.4.2.3). Those that are configured stay.
func joinAliases(found []foundUnit, cfg modbus.Config) []foundUnit {
	if !strings.Contains(cfg.URL, "://") || cfg.Behind != nil || len(found) == 0 {
		return found
	}
	first := &found[0]
	rest := found[:1]
	for _, u := range found[1:] {
		if (u.Unit == 255 || u.Unit == 0) && len(u.Devices) == 0 && u.Answer == first.Answer && u.Broken == first.Broken {
			first.Aliases = append(first.Aliases, int(u.Unit))
		} else {
			rest = append(rest, u)
		}
	}
	return rest
}

// alike reports whether units on this bus may be one and the same device: a
// host on the network that is no gateway to a serial line.
func alike(a *asker, cfg modbus.Config) bool {
	return strings.HasPrefix(cfg.URL, "tcp://") && cfg.Behind == nil && !a.live
}

// deaf reports whether the host answers whatever the unit id: then it is one
// device, and found.
func (x *scanner) deaf(ctx context.Context, a *asker) bool {
	for _, odd := range []byte{243, 171} { // that hardly a unit has
		_, err := a.registers(ctx, odd, modbus.Register{Table: modbus.Holding, Count: 1})
		if replyOf(err) != answered {
			return false
		}
	}
	return true
}

// knock asks a unit for one register. It returns nil if it does not answer.
// What came broken is asked for once more.
func (x *scanner) knock(ctx context.Context, a *asker, id byte) (*foundUnit, error) {
	u := &foundUnit{Bus: x.bus, Address: x.cfg.URL, Unit: id, listed: x.listed, speed: x.cfg.Serial}
	u.Line, u.usual = lineOf(u.speed), x.usual
	for _, dev := range x.known[id] {
		u.Devices = append(u.Devices, dev.ID)
	}
	for range 2 {
		raw, err := a.registers(ctx, id, modbus.Register{Table: modbus.Holding, Count: 1})
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		e, told := errors.AsType[*askError](err)
		if err != nil && !told {
			return nil, err
		}
		switch replyOf(err) {
		case noPort:
			return nil, err
		case silent:
			x.tally.silent++
			return nil, nil
		case broken:
			u.Broken, u.Answer = true, e.detail
			continue
		}
		u.Broken, u.Answer = false, "holding 0 is "+registers(raw)
		if err != nil {
			u.Answer = "holding 0: " + e.cause
		}
		return u, nil
	}
	x.tally.broken++
	return u, nil
}

func (x *scanner) identify(ctx context.Context, a *asker, u *foundUnit) {
	u.Identity = a.identity(ctx, u.Unit)
	e := examiner{asker: a, unit: u.Unit, seen: map[modbus.Register]answerOf{}}
	profiles := x.profiles
	if u.SunSpec = e.sunSpec(ctx); u.SunSpec != nil { // it has the registers of a model, not those of others
		profiles = slices.DeleteFunc(slices.Clone(profiles), func(p *config.Profile) bool { w, _ := e.fingerprint(ctx, p); return w != named })
	}
	fits := e.fits(ctx, profiles)
	if u.SunSpec != nil {
		fits = append(fits, u.SunSpec.fits(x.profiles)...)
	}
	if len(fits) == 0 {
		return
	}
	u.Profile, u.Evidence, u.Lacks = fits[0].profile, fits[0].evidence, fits[0].lacks
	u.Perhaps = u.SunSpec == nil && fits[0].perhaps()
	for _, f := range fits[1:] {
		u.Also = append(u.Also, f.profile)
	}
}

// maxHosts bounds how many addresses one scan asks, and atOnce how many of
// them at the same time.
const (
	maxHosts = 1024
	atOnce   = 32
)

// hostsOf reads HOST[:PORT] or a network such as 192.168.10.0/24[:PORT].
func hostsOf(target string) ([]string, error) {
	port := "502"
	if strings.HasPrefix(target, "[") { // [2001:db8::1]:502
		host, number, err := net.SplitHostPort(target)
		if err != nil {
			return nil, err
		}
		target, port = host, number
	} else if i := strings.LastIndexByte(target, ':'); i > 0 && strings.Count(target, ":") == 1 {
		target, port = target[:i], target[i+1:]
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return nil, fmt.Errorf("%q is no port number", port)
	}
	if !strings.Contains(target, "/") {
		if target == "" || strings.ContainsAny(target, " ") || !strings.ContainsAny(target, ".:") && target != "localhost" {
			return nil, errors.New("an address looks like 192.168.10.5, plc.example.com:502 or 192.168.10.0/28")
		}
		return []string{net.JoinHostPort(target, port)}, nil
	}
	network, err := netip.ParsePrefix(target)
	if err != nil {
		return nil, err
	}
	if size := network.Addr().BitLen() - network.Bits(); size > 10 {
		return nil, fmt.Errorf("a network of more than %d addresses is too much to ask; name a part of it, such as %s/24", maxHosts, network.Addr())
	}
	var hosts []string
	for addr := network.Masked().Addr(); network.Contains(addr); addr = addr.Next() {
		hosts = append(hosts, net.JoinHostPort(addr.String(), port))
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("%s is written as no network is", target)
	}
	if n := len(hosts); n > 2 && network.Addr().Is4() {
		hosts = hosts[1 : n-1] // the network's own address and its broadcast
	}
	return hosts, nil
}

// scanHosts scans Modbus TCP endpoints, some at a time.
func scanHosts(ctx context.Context, hosts []string, finder *busFinder, s scanSettings, profiles []*config.Profile) ([]foundUnit, error) {
	if s.units == nil {
		s.units = []int{1, 255, 0}
	}
	fmt.Fprintf(os.Stderr, "Asking %s for the unit ids %s.\n", count(len(hosts), "address"), fewIDs(s.units))
	found, errs := make([][]foundUnit, len(hosts)), make([]error, len(hosts))
	var done sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	line := newProgress()
	for i, host := range hosts {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return slices.Concat(found[:i]...), context.Cause(ctx)
		}
		line.show("%d of %d addresses", i, len(hosts))
		done.Go(func() {
			defer func() { <-slots }()
			found[i], errs[i] = scanHost(ctx, host, finder, s, profiles)
		})
	}
	done.Wait()
	line.end()
	all := slices.Concat(found...)
	switch {
	case ctx.Err() != nil:
		return all, context.Cause(ctx)
	case len(hosts) == 1:
		return all, errs[0]
	case len(all) == 0:
		return nil, fmt.Errorf("none of %d addresses has a Modbus TCP device that answers", len(hosts))
	}
	return all, nil
}

func scanHost(ctx context.Context, host string, finder *busFinder, s scanSettings, profiles []*config.Profile) ([]foundUnit, error) {
	place := finder.find(host)
	if place == nil {
		url := "tcp://" + host
		place = &busPlace{bus: url, cfg: modbus.Config{URL: url, ConnectTimeout: max(s.timeout, time.Second)}}
	}
	var tally scanTally
	x := scanner{busPlace: place, settings: s, profiles: profiles, tally: &tally, progress: new(progress)}
	found, err := x.run(ctx)
	if err != nil {
		return found, err
	}
	return found, tally.verdict(place, len(found), false, s)
}

func fewIDs(ids []int) string {
	if len(ids) > 5 {
		return fmt.Sprintf("%d … %d (%d)", ids[0], ids[len(ids)-1], len(ids))
	}
	return strings.Trim(fmt.Sprint(ids), "[]")
}

// printFound writes what was found as TOML that can be saved.
func printFound(out io.Writer, found []foundUnit) {
	buses := map[string]bool{}
	for i := range found {
		u := &found[i]
		u.name(found[:i])
		if u.Line != "" && !u.listed && !buses[u.Bus] {
			buses[u.Bus] = true
			u.printBus(out)
		}
		u.print(out)
	}
}

// printBus writes the line that a unit is on.
func (u *foundUnit) printBus(out io.Writer) {
	fmt.Fprintf(out, "[bus.%s]\naddress = %q\nbaud    = %d\nformat  = %q\n\n", u.Bus, u.Address, u.speed.Baud, cmp.Or(u.speed.Format, serial.DefaultFormat))
}

// name gives the bus of a unit another name if that is taken by another speed
// of the same port.
func (u *foundUnit) name(before []foundUnit) {
	if u.listed || u.Line == "" {
		return
	}
	for _, other := range before {
		if other.Address == u.Address && other.Line != u.Line {
			u.Bus = fmt.Sprintf("rs485-%d-%s", u.speed.Baud, u.speed.Format)
		}
	}
}

func (u *foundUnit) print(out io.Writer) {
	fmt.Fprintf(out, "# unit %d at %s: %s\n", u.Unit, strings.TrimSpace(u.Address+" "+u.Line), u.Answer)
	if u.Broken {
		fmt.Fprint(out, "# Something is there: probably two devices share this unit id, or speed or parity is another one.\n\n")
		return
	}
	if len(u.Devices) > 0 {
		fmt.Fprintf(out, "# It is configured as %s.\n", strings.Join(u.Devices, ", "))
	}
	if u.listed && u.usual != "" && u.Line != u.usual {
		fmt.Fprintf(out, "# Bus %s is configured with %s: write baud = %d, format = %q, or set the device to that.\n", u.Bus, u.usual, u.speed.Baud, cmp.Or(u.speed.Format, serial.DefaultFormat))
	}
	for _, id := range u.Aliases {
		fmt.Fprintf(out, "# Unit id %d answers likewise: it means whatever is at this address.\n", id)
	}
	if u.Identity != "" {
		fmt.Fprintf(out, "# It calls itself %s.\n", u.Identity)
	}
	for _, e := range u.Evidence {
		fmt.Fprintf(out, "# %s\n", e)
	}
	if len(u.Also) > 0 {
		fmt.Fprintf(out, "# Also possible: %s\n", strings.Join(u.Also, ", "))
	}
	if u.SunSpec != nil {
		u.SunSpec.print(out)
	}
	var lines []string
	switch {
	case u.SunSpec != nil && u.Profile == "":
		lines = []string{
			`points.maker = { model = 1, at = 2, type = "string(32)", every = "1h" }`,
			`points.model = { model = 1, at = 18, type = "string(32)", every = "1h" }`,
		}
	case u.Profile != "":
		lines = []string{fmt.Sprintf("profile = %q", u.Profile)}
		if u.Perhaps {
			lines[0] += " # perhaps: compare its values with the device"
		}
	case len(u.points) > 0:
	default:
		fmt.Fprintf(out, "# No shipped profile fits. To find values that its display shows:\n#   gateway probe %s --unit %d --like voltage_l1=230\n", u.Bus, u.Unit)
	}
	comment := ""
	if len(u.Devices) > 0 {
		comment = "# " // there already
	}
	lines = slices.Concat([]string{fmt.Sprintf("[device.%s]", tomlKey(u.device()))}, lines, []string{fmt.Sprintf("bus     = %q", u.Bus), fmt.Sprintf("unit_id = %d", u.Unit)})
	for _, name := range u.Lacks {
		lines = append(lines, fmt.Sprintf("points.%s = false # it has none", tomlKey(name)))
	}
	for _, point := range u.points {
		lines = append(lines, "points."+point)
	}
	for _, line := range lines {
		fmt.Fprintln(out, comment+line)
	}
	fmt.Fprintln(out)
}

// print says what a SunSpec device says of itself.
func (s *sunSpec) print(out io.Writer) {
	fmt.Fprintf(out, "# SunSpec at holding %d", s.Address)
	if name := strings.TrimSpace(s.Maker + " " + s.Model); name != "" {
		fmt.Fprintf(out, ": %s", name)
	}
	if len(s.Models) > 0 {
		fmt.Fprintf(out, "; models %s", s.ids())
	}
	fmt.Fprintln(out)
	if s.Broken != "" {
		fmt.Fprintf(out, "# %s\n", s.Broken)
	}
}

// device makes a key for the device: what it is and where.
func (u *foundUnit) device() string {
	if u.key != "" {
		return u.key
	}
	kind := u.Profile[strings.LastIndexByte(u.Profile, '/')+1:]
	if u.SunSpec != nil {
		kind = cmp.Or(kind, "sunspec")
	}
	where := u.Bus
	if _, host, isURL := strings.Cut(u.Bus, "://"); isURL {
		where = host
	}
	key := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, cmp.Or(kind, "unit")+"-"+where)
	return fmt.Sprintf("%s-%d", key, u.Unit)
}
