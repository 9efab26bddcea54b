package main

import (
	"cmp"
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

	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/internal/budget"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

func newProfilesShow(opts *options) *cobra.Command {
	var asJSON, file bool
	cmd := &cobra.Command{
		Use:   "show NAME|FILE",
		Short: "Show a profile's points, the requests they cost, and the lines to save",
		Long: `show prints what a profile says of itself, the lines that make a device of it, its
points with register, type and unit, and the requests that read them with their
time on the wire at the factory's speed (9600 8N1 where that is not known).`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: nameProfiles(opts),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := profileOf(opts, args[0])
			if err != nil {
				return err
			}
			if file {
				_, err := io.WriteString(os.Stdout, p.Text)
				return err
			}
			s, err := newProfileSheet(p)
			if err != nil {
				return err
			}
			if asJSON {
				return encodeJSON(os.Stdout, s)
			}
			return s.print(os.Stdout)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the profile as JSON")
	cmd.Flags().BoolVar(&file, "file", false, "print the file as it is, as a start for one's own")
	return cmd
}

// A profileSheet is all there is to say of a profile.
type profileSheet struct {
	Name     string         `json:"name"`
	Maker    string         `json:"maker"`
	Model    string         `json:"model"`
	Checked  string         `json:"checked"`
	File     string         `json:"file,omitempty"` // without it: built in
	About    string         `json:"about"`
	Protocol string         `json:"protocol"`
	Factory  config.Factory `json:"factory"`
	Quirks   []string       `json:"quirks"` // lines of the profile
	Points   []pointRow     `json:"points"`
	Plan     busPlan        `json:"plan"`

	profile *config.Profile
}

// A pointRow is one point as its profile has it.
type pointRow struct {
	Name   string  `json:"name"`
	Source string  `json:"source"` // holding 100-101
	Type   string  `json:"type"`
	Order  string  `json:"order,omitempty"` // of more than one register
	Scale  string  `json:"scale,omitempty"`
	Factor uint16  `json:"factor,omitempty"` // where in its model the exponent is
	Offset string  `json:"offset,omitempty"`
	Unit   string  `json:"unit,omitempty"`
	Kind   string  `json:"kind"`
	Group  string  `json:"group,omitempty"`
	Every  float64 `json:"every"` // seconds; 0: each time it is heard
	Write  bool    `json:"write,omitempty"`

	every time.Duration
}

func newProfileSheet(p *config.Profile) (*profileSheet, error) {
	s := &profileSheet{
		Name: p.Name, Maker: p.Maker, Model: p.Model, Checked: p.Checked, File: p.File, About: p.Comment,
		Protocol: p.Bus.Protocol, Factory: p.Factory, Quirks: quirksOf(p), Points: []pointRow{}, profile: p,
	}
	for _, point := range p.Device.Points {
		s.Points = append(s.Points, newPointRow(point))
	}
	var err error
	if s.Plan, err = planBus(p.Bus, 0); err != nil {
		return nil, fmt.Errorf("profile %s: %w", p.Name, err)
	}
	return s, nil
}

func newPointRow(p *mapping.Point) pointRow {
	row := pointRow{
		Name: p.Name, Source: p.Source.String(), Type: p.Type.String(), Unit: p.Unit, Group: p.Group,
		Kind: "measurement", Every: p.Every.Seconds(), Write: p.Write != nil, every: p.Every,
	}
	if p.Kind == mapping.Counter {
		row.Kind = "counter"
	}
	if p.Length > 0 && p.Type != mapping.Bool {
		row.Type = fmt.Sprintf("%v(%d)", p.Type, p.Length)
	}
	if !p.FromText && p.Type.Registers(p.Length) > 1 && p.Type != mapping.String && p.Type != mapping.Bytes || p.Order != mapping.ABCD {
		row.Order = p.Order.String()
	}
	if p.Scale.Mant != 0 {
		row.Scale = p.Scale.String()
	}
	if m, ok := p.Source.(modbus.ModelRegister); ok {
		row.Factor = m.Factor
	}
	if p.Offset.Mant != 0 {
		row.Offset = p.Offset.String()
	}
	return row
}

// quirksOf returns what a device does not bear, as its profile says it.
func quirksOf(p *config.Profile) []string {
	lines := []string{}
	add := func(key string, value any) { lines = append(lines, fmt.Sprintf("%s = %v", key, value)) }
	if d := p.Bus.Modbus.ConnectDelay; d > 0 {
		add("connect_delay", strconv.Quote(d.String()))
	}
	u, ok := p.Device.Unit.(modbus.Unit)
	if !ok {
		return lines
	}
	if u.Timeout > 0 {
		add("timeout", strconv.Quote(u.Timeout.String()))
	}
	if u.Pause > 0 {
		add("pause", strconv.Quote(u.Pause.String()))
	}
	if u.MaxRead > 0 {
		add("max_read", u.MaxRead)
	}
	if u.Gaps {
		add("gaps", true)
	}
	if q := u.Quirks; q != nil {
		for key, ranges := range map[string][]modbus.Range{"blocks": q.Blocks, "forbid": q.Forbid} {
			if len(ranges) > 0 {
				add(key, fmt.Sprintf("%q", ranges))
			}
		}
		if q.Single {
			add("single", true)
		}
		if len(q.FromZero) > 0 {
			add("from_zero", fmt.Sprintf("%q", q.FromZero))
		}
	}
	slices.Sort(lines)
	return lines
}

// device returns the lines that make a device of the profile, as TOML.
func (s *profileSheet) device() string {
	key := strings.ReplaceAll(s.Name[strings.LastIndexByte(s.Name, '/')+1:], ".", "-")
	unit, modbusUnit := s.profile.Device.Unit.(modbus.Unit)
	bus, text := "rs485", ""
	switch {
	case s.Factory.Port > 0:
		bus = fmt.Sprintf("tcp://HOST:%d", s.Factory.Port)
	case !modbusUnit:
		bus = key
		fallthrough
	default:
		text = s.busLines(bus) + "\n"
	}
	if s.File != "" && !strings.HasSuffix(filepath.ToSlash(s.File), "profiles/"+s.Name+".toml") {
		text += fmt.Sprintf("# once it is saved as profiles/%s.toml\n", s.Name)
	}
	text += fmt.Sprintf("[device.%s]\nprofile = %q\nbus     = %q\n", key, s.Name, bus)
	if modbusUnit {
		text += fmt.Sprintf("unit_id = %d\n", unit.ID)
	}
	return text
}

// busLines returns those of a serial line.
func (s *profileSheet) busLines(name string) string {
	known := ""
	if s.Factory.Baud == 0 {
		known = " # what the device is set to"
	}
	text := fmt.Sprintf("[bus.%s]\naddress  = \"/dev/serial/by-id/…\"\nbaud     = %d%s\nformat   = %q\n",
		name, cmp.Or(s.Factory.Baud, 9600), known, cmp.Or(s.Factory.Format, serial.DefaultFormat))
	if s.Protocol != config.Modbus {
		return text + fmt.Sprintf("protocol = %q\n", s.Protocol)
	}
	return strings.NewReplacer("address  =", "address =", "baud     =", "baud    =", "format   =", "format  =").Replace(text)
}

func (s *profileSheet) print(out io.Writer) error {
	var b strings.Builder
	where := "built in"
	if s.File != "" {
		where = s.File
	}
	fmt.Fprintf(&b, "%s: %s %s, checked against %s, %s\n\n%s\n\n", s.Name, s.Maker, s.Model, cmp.Or(s.Checked, "nothing it tells"), where, cmp.Or(s.About, "It says nothing of itself."))
	for line := range strings.Lines(s.device()) {
		b.WriteString(strings.TrimRight("    "+line, " \n") + "\n")
	}
	if len(s.Quirks) > 0 {
		fmt.Fprintf(&b, "\nIt brings along: %s\n", strings.Join(s.Quirks, ", "))
	}
	b.WriteByte('\n')
	s.printPoints(&b)
	b.WriteByte('\n')
	s.printPlan(&b)
	_, err := io.WriteString(out, b.String())
	return err
}

func (s *profileSheet) printPoints(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POINT\tREGISTER\tTYPE\tSCALE\tUNIT\tEVERY\tGROUP\t")
	for _, p := range s.Points {
		every := "heard"
		if p.every > 0 {
			every = budget.Brief(p.every)
		}
		scale := p.Scale
		if p.Factor > 0 {
			scale = strings.TrimSpace(fmt.Sprintf("%s factor at %d", scale, p.Factor))
		}
		if p.Offset != "" {
			scale = cmp.Or(scale, "1") + " " + strings.Replace("+"+p.Offset, "+-", "−", 1)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", p.Name, p.Source, strings.TrimSpace(p.Type+" "+p.Order), scale, p.Unit, every, p.Group)
	}
	w.Flush()
}

func (s *profileSheet) printPlan(out io.Writer) {
	if s.Protocol != config.Modbus {
		fmt.Fprintln(out, "It speaks by itself: nothing is asked.")
		return
	}
	if len(s.Plan.Requests) == 0 {
		fmt.Fprintln(out, "It has no points: nothing is asked.")
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "EVERY\tREQUEST\tTIME\tPOINTS\t")
	for _, r := range s.Plan.Requests {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", r.every, r.register, budget.Brief(r.time), fewNames(r.Points))
	}
	w.Flush()
	line := "the network"
	if s.Plan.Line != "" {
		line = s.Plan.Line
	}
	fmt.Fprintf(out, "One such device takes %s of a bus at %s, with %s of thinking assumed in each request.\n",
		budget.Percent(s.Plan.Load), line, budget.Brief(time.Duration(s.Plan.Thinking*float64(time.Second))))
	if s.Plan.Trouble != "" {
		fmt.Fprintf(out, "TROUBLE: %s.\n", s.Plan.Trouble)
	}
}
