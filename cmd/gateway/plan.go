package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/devices"
	"edgegateway/internal/budget"
	"edgegateway/internal/config"
)

func newPlan(opts *options) *cobra.Command {
	var asJSON bool
	var thinking time.Duration
	cmd := &cobra.Command{
		Use:               "plan [BUS]",
		ValidArgsFunction: completeBus(opts),
		Short:             "Show what will be asked of each bus, how long it takes, and whether it fits",
		Long: `plan reads the configuration and shows, before anything runs, the requests of
each bus, the time each occupies it, how often it is asked, and the load of the
bus. It opens no port. Points of a device whose intervals end together are read
by the same requests where that takes less time and makes nothing late: 1s + 10s
stands for each tenth second, and 1s for the others. How long a device thinks before it answers is assumed:
20 ms on a serial line and 5 ms on the network, unless --thinking says otherwise.`,
		Example: `  gateway plan
  gateway plan rs485 --thinking 100ms   for meters that take their time`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if thinking < 0 {
				return usageError("--thinking %v: it is a time, such as 20ms", thinking)
			}
			cfg, err := loadDevices(opts.config)
			if err != nil {
				return err
			}
			plans, err := busPlans(cfg, args, thinking)
			if err != nil {
				return err
			}
			if asJSON {
				out := json.NewEncoder(os.Stdout)
				out.SetIndent("", "  ")
				return out.Encode(plans)
			}
			return printPlans(os.Stdout, plans)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the plan as JSON")
	cmd.Flags().DurationVar(&thinking, "thinking", 0, "how long each device is assumed to think before it answers, such as 100ms")
	return cmd
}

// A busPlan is the plan of one bus. Times are seconds.
type busPlan struct {
	Bus      string        `json:"bus"`
	Address  string        `json:"address"`
	Protocol string        `json:"protocol"`
	Line     string        `json:"line,omitempty"` // of the serial line: 9600 8N1
	Phase    string        `json:"phase"`          // staggered or aligned
	Pipeline int           `json:"pipeline"`       // requests outstanding at most
	Thinking float64       `json:"thinking"`       // assumed of each device
	Load     float64       `json:"load"`           // share of the bus's time; above 1 it cannot be had
	Fits     bool          `json:"fits"`           // every interval can be met
	Trouble  string        `json:"trouble,omitempty"`
	Requests []planRequest `json:"requests"`
}

// A planRequest is one request and how often it is sent.
type planRequest struct {
	Device   string    `json:"device"`
	Unit     byte      `json:"unit"`
	Table    string    `json:"table"`
	Address  uint16    `json:"address"`
	Count    int       `json:"count"`
	Points   []string  `json:"points"`
	Every    float64   `json:"every"`          // of the quickest of Points
	With     []float64 `json:"with,omitempty"` // asked when these intervals end too, in place of requests for each
	Rate     float64   `json:"rate"`           // per second
	Wire     float64   `json:"wire"`           // its bytes and silences
	Time     float64   `json:"time"`           // with the thinking
	Load     float64   `json:"load"`
	register string
	every    string
	time     time.Duration
}

// busPlans plans the buses that names name, all if it names none.
func busPlans(cfg *config.Config, names []string, thinking time.Duration) ([]busPlan, error) {
	var plans []busPlan
	var ids []string
	for _, b := range cfg.Buses {
		ids = append(ids, b.ID)
		if len(names) > 0 && b.ID != names[0] {
			continue
		}
		plan, err := planBus(b, thinking)
		if err != nil {
			return nil, fmt.Errorf("bus %s: %w", b.ID, err)
		}
		plans = append(plans, plan)
	}
	if len(plans) == 0 && len(names) > 0 {
		return nil, usageError("there is no bus %q; there are: %s", names[0], strings.Join(ids, ", "))
	}
	return plans, nil
}

func planBus(b *config.Bus, thinking time.Duration) (busPlan, error) {
	plan := busPlan{Bus: b.ID, Address: b.Address, Protocol: b.Protocol, Phase: config.Staggered, Fits: true, Requests: []planRequest{}}
	if b.Aligned {
		plan.Phase = config.Aligned
	}
	if b.Protocol != config.Modbus {
		return plan, nil // it speaks when it likes
	}
	var devs []*devices.Device
	for _, dev := range b.Devices {
		devs = append(devs, dev.Device)
	}
	of, err := budget.Of(b.Modbus, devs, thinking)
	if err != nil {
		return plan, err
	}
	if line := b.Modbus.Slowest(); line.Baud > 0 {
		plan.Line = fmt.Sprintf("%d %s", line.Baud, line.Format)
	}
	plan.Pipeline = of.Lanes()
	plan.Thinking, plan.Load = of.Thinking.Seconds(), of.Load
	plan.Fits, plan.Trouble = of.Load <= 1 && len(of.Late) == 0, of.Trouble(b.ID)
	for _, j := range of.Jobs {
		for _, r := range j.Requests {
			plan.add(newPlanRequest(&j, r, of.Lanes()))
		}
	}
	for i := range plan.Requests {
		plan.Requests[i].name()
	}
	slices.SortStableFunc(plan.Requests, func(a, b planRequest) int { return cmp.Compare(a.Every, b.Every) })
	return plan, nil
}

// add adds r, to the same request at other times if there is one.
func (p *busPlan) add(r planRequest) {
	for i := range p.Requests {
		o := &p.Requests[i]
		if o.Device == r.Device && o.register == r.register && slices.Equal(o.Points, r.Points) {
			o.Rate, o.Load = o.Rate+r.Rate, o.Load+r.Load
			return
		}
	}
	p.Requests = append(p.Requests, r)
}

// name says how often the request is sent: each time its quickest points are
// due, or only when others are due too.
func (r *planRequest) name() {
	r.every = budget.Brief(lasting(r.Every))
	if r.Rate*r.Every > 0.999 {
		r.With = nil
	}
	for _, every := range r.With {
		r.every += " + " + budget.Brief(lasting(every))
	}
}

func newPlanRequest(j *budget.Job, r budget.Request, lanes int) planRequest {
	p := planRequest{
		Device: j.Device.ID, Unit: r.Unit.ID, Table: r.Register.Table.String(), Address: r.Register.Address, Count: max(1, int(r.Register.Count)),
		Every: r.Points[0].Every.Seconds(), Rate: j.Rate, Wire: r.Wire.Seconds(), Time: r.Time.Seconds(), Load: r.Time.Seconds() * j.Rate / float64(lanes),
		register: r.Register.String(), time: r.Time,
	}
	for _, point := range r.Points {
		p.Points = append(p.Points, point.Name)
		p.Every = min(p.Every, point.Every.Seconds())
	}
	for _, every := range j.With {
		if every.Seconds() > p.Every {
			p.With = append(p.With, every.Seconds())
		}
	}
	return p
}

func printPlans(out io.Writer, plans []busPlan) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, p := range plans {
		if i > 0 {
			fmt.Fprintln(w)
		}
		p.print(w)
	}
	return w.Flush()
}

func (p *busPlan) print(w io.Writer) {
	if p.Protocol != config.Modbus {
		fmt.Fprintf(w, "bus %s  %s  speaks by itself: nothing is asked\n", p.Bus, p.Address)
		return
	}
	fmt.Fprintf(w, "bus %s  %s", p.Bus, p.Address)
	if p.Line != "" {
		fmt.Fprintf(w, "  %s", p.Line)
	}
	if p.Pipeline > 1 {
		fmt.Fprintf(w, "  %d requests at a time", p.Pipeline)
	}
	if p.Phase == config.Aligned {
		fmt.Fprint(w, "  aligned to the clock")
	}
	fmt.Fprintf(w, "  load %s\n", budget.Percent(p.Load))
	fmt.Fprintln(w, "EVERY\tDEVICE\tUNIT\tREGISTERS\tTIME\tLOAD\tPOINTS\t")
	for _, row := range alikes(p.Requests) {
		var devs, units []string
		var load float64
		for _, r := range row {
			devs, units, load = append(devs, r.Device), append(units, fmt.Sprint(r.Unit)), load+r.Load
		}
		r := row[0]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.every, fewNames(devs), fewNames(units), r.register,
			times(len(row))+budget.Brief(r.time), budget.Percent(load), fewNames(r.Points))
	}
	fmt.Fprintf(w, "%d requests, %s of thinking assumed in each.", len(p.Requests), budget.Brief(time.Duration(p.Thinking*float64(time.Second))))
	switch {
	case p.Trouble != "":
		fmt.Fprintf(w, "\nTROUBLE: %s.\n", p.Trouble)
	default:
		fmt.Fprintln(w, " Every interval can be met.")
	}
}

// alikes puts the same request to several devices into one row.
func alikes(requests []planRequest) (rows [][]planRequest) {
	same := func(a, b *planRequest) bool {
		return a.every == b.every && a.register == b.register && a.time == b.time && slices.Equal(a.Points, b.Points)
	}
	for _, r := range requests {
		i := slices.IndexFunc(rows, func(row []planRequest) bool { return same(&row[0], &r) })
		if i < 0 {
			i, rows = len(rows), append(rows, nil)
		}
		rows[i] = append(rows[i], r)
	}
	return rows
}

func times(n int) string {
	if n == 1 {
		return ""
	}
	return fmt.Sprintf("%d × ", n)
}

// fewNames lists names, the first and last of many.
func fewNames(names []string) string {
	if n := len(names); n > 4 {
		return fmt.Sprintf("%s, %s … %s (%d)", names[0], names[1], names[n-1], n)
	}
	return strings.Join(names, ", ")
}

// lasting is s seconds.
func lasting(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
