package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/internal/budget"
	"edgegateway/mapping"
)

// A pause is a bus that was lent for some time to whatever a person does with its
// port. No connection has to stay open for it, and no reload ends it, for the
// port was promised to be free; it ends when its time is over, by command, or
// with the process: then nobody would be left to take the port back.
type pause struct {
	bus, by, note string
	term
	loan  context.Context // of the bus
	end   context.CancelCauseFunc
	timer *time.Timer
}

const (
	shortestPause = time.Minute
	longestPause  = 24 * time.Hour
)

var (
	errPauseEnded = errors.New("the pause was ended")
	errPauseOver  = errors.New("the time of the pause is over")
)

// pauses are all there are. Their methods may be called at once.
type pauses struct {
	plant func() *plant // as it is now
	clock func() broker.Clock
	now   func() devices.Stamp
	log   *slog.Logger

	mu    sync.Mutex
	byBus map[string]*pause
}

func newPauses(p func() *plant, clock func() broker.Clock, log *slog.Logger) *pauses {
	return &pauses{plant: p, clock: clock, now: devices.Now, log: log, byBus: map[string]*pause{}}
}

// to says to whom the bus is lent, and how that ends.
func (p *pauses) to(one *pause) string {
	text := one.by
	if clock := p.clock(); clock.Quality == broker.Exact {
		text += " " + one.term.end(clock, p.now())
	}
	if one.note != "" {
		text += " (" + one.note + ")"
	}
	return fmt.Sprintf("%s; `gateway pause %s --end` takes it back", text, one.bus)
}

// A pauseRequest says which bus to pause for how long, or no longer.
type pauseRequest struct {
	Bus  string        `json:"bus"`
	For  time.Duration `json:"for,omitempty"`
	Note string        `json:"note,omitempty"`
	End  bool          `json:"end,omitempty"`
}

// pause lends a bus, or gives a pause another end. When it returns, the port is
// closed.
func (p *pauses) pause(ctx context.Context, req pauseRequest, by string) (PauseStatus, error) {
	if req.For < shortestPause || req.For > longestPause {
		return PauseStatus{}, usageError("--for %s: a bus is paused for %s to %s", req.For, budget.Brief(shortestPause), budget.Brief(longestPause))
	}
	if err := checkNote(req.Note); err != nil {
		return PauseStatus{}, err
	}
	if _, err := p.bus(req.Bus); err != nil {
		return PauseStatus{}, err
	}
	p.mu.Lock()
	one := p.byBus[req.Bus]
	fresh := one == nil || !one.timer.Stop() // one whose time is over just now is on its way out
	if fresh {
		one = &pause{bus: req.Bus}
		one.loan, one.end = context.WithCancelCause(context.Background())
		one.timer = time.AfterFunc(req.For, func() { p.over(one, errPauseOver) })
		p.byBus[req.Bus] = one
	}
	one.by, one.note = by, req.Note
	p.lastLocked(one, req.For)
	to := p.to(one)
	p.mu.Unlock()
	if fresh {
		defer context.AfterFunc(ctx, func() { p.over(one, context.Cause(ctx)) })() // nobody wants it any more
	}
	if err := p.lend(one, to); err != nil {
		if fresh {
			p.over(one, err)
		}
		return PauseStatus{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byBus[req.Bus] == one {
		p.lastLocked(one, req.For) // whoever waited for the bus has all of the time
	}
	return p.statusLocked(one), nil
}

// lastLocked lets a pause last for some time from now on.
func (p *pauses) lastLocked(one *pause, length time.Duration) {
	one.ends = p.now() + devices.Stamp(length)
	one.timer.Reset(length)
}

// bus returns a bus that there is.
func (p *pauses) bus(name string) (*plantBus, error) {
	if b := p.plant().buses[name]; b != nil && b.lend != nil {
		return b, nil
	}
	return nil, usageError("the running gateway has no bus %q with devices; there are: %s", name, strings.Join(slices.Sorted(maps.Keys(p.plant().buses)), ", "))
}

// lend lends the bus, again if a reload put another in its place meanwhile.
func (p *pauses) lend(one *pause, to string) error {
	for {
		b, err := p.bus(one.bus)
		if err == nil {
			err = b.lend(one.loan, to)
		}
		if now, gone := p.bus(one.bus); gone != nil || now == b {
			return err
		}
	}
}

// over ends a pause, and reports whether it was one still.
func (p *pauses) over(one *pause, why error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byBus[one.bus] != one {
		return false
	}
	delete(p.byBus, one.bus)
	one.timer.Stop()
	one.end(why)
	return true
}

// take takes a bus back before its time.
func (p *pauses) take(bus, by string) (PauseStatus, error) {
	p.mu.Lock()
	one := p.byBus[bus]
	var s PauseStatus
	if one != nil {
		s = p.statusLocked(one)
	}
	p.mu.Unlock()
	if one != nil && p.over(one, fmt.Errorf("%w by %s", errPauseEnded, by)) {
		return s, nil
	}
	if _, err := p.bus(bus); err != nil {
		return s, err
	}
	return s, fmt.Errorf("bus %s is not paused", bus)
}

// keep has a bus that a reload begins anew begin paused, if it was, and ends the
// pauses of buses that are gone.
func (p *pauses) keep(begun []*bus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range begun {
		if one := p.byBus[b.ID]; one != nil {
			b.poller.LendFirst(one.loan, p.to(one))
		}
	}
	for name, one := range p.byBus {
		if p.plant().buses[name] == nil {
			delete(p.byBus, name)
			one.timer.Stop()
			one.end(errors.New("the bus is gone from the configuration"))
			p.log.Info("pause ended: the bus is gone from the configuration", "bus", name)
		}
	}
}

// remark is what the status of a device on a paused bus says besides.
func (p *pauses) remark(bus string) (r mapping.Remark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.byBus[bus]; one != nil {
		r = mapping.Remark{By: one.by, Note: one.note, Until: one.until(p.clock()).Format(time.RFC3339)}
	}
	return r
}

// A PauseStatus is one pause as status shows it.
type PauseStatus struct {
	Bus     string    `json:"bus"`
	Address string    `json:"address"` // that is free
	By      string    `json:"by"`
	Note    string    `json:"note,omitempty"`
	Until   time.Time `json:"until"`
	Left    float64   `json:"left"` // seconds
}

func (p *pauses) statusLocked(one *pause) PauseStatus {
	s := PauseStatus{Bus: one.bus, By: one.by, Note: one.note, Until: one.until(p.clock()), Left: one.ends.Sub(p.now()).Seconds()}
	for _, b := range p.plant().cfg.Buses {
		if b.ID == one.bus {
			s.Address = b.Address
		}
	}
	return s
}

func (p *pauses) status() (list []PauseStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, bus := range slices.Sorted(maps.Keys(p.byBus)) {
		list = append(list, p.statusLocked(p.byBus[bus]))
	}
	return list
}

func printPauses(out io.Writer, list []PauseStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PAUSED\tFREE\tBY\tUNTIL\tLEFT\tNOTE\t")
	for _, s := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", s.Bus, s.Address, s.By, s.Until.Local().Format(time.DateTime), brief(s.Left), s.Note)
	}
	return w.Flush()
}

func newPause(opts *options) *cobra.Command {
	req := pauseRequest{For: 15 * time.Minute}
	var asJSON bool
	var length string
	cmd := &cobra.Command{
		Use:               "pause [BUS [--for TIME] [--note TEXT] | BUS --end]",
		ValidArgsFunction: completeBus(opts),
		Short:             "Free the port of a bus for another program, for some time",
		Long: `pause has the running gateway close the port of a bus, so that a vendor's tool can
have it. Its devices count as in maintenance meanwhile. The gateway takes the port
back by itself when the time is over, by "--end", and when it is restarted; a
reload leaves it paused. Pausing again gives the pause another end. Close the
other program before that: a port that is still in use is tried again until it is
free. Without BUS all pauses are listed.`,
		Example: `  gateway pause rs485 --for 30m --note "meter is configured, Anna"
  gateway pause rs485 --end
  gateway pause`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			socket := controlPath(opts.state)
			if len(args) == 0 {
				if req.End || length != "" || req.Note != "" {
					return usageError("say which bus: gateway pause BUS")
				}
				var s Status
				if err := askRunning(cmd.Context(), socket, "/status", nil, &s); err != nil {
					return err
				}
				return printList(s.Pauses, asJSON, "no bus is paused", printPauses)
			}
			var err error
			if req.Bus = args[0]; req.End && (length != "" || req.Note != "") {
				return usageError("--end takes no --for and no --note")
			} else if length != "" {
				if req.For, err = parseHoldTime(length); err != nil {
					return err
				}
			}
			var s PauseStatus
			err = ask(cmd.Context(), socket, "/pause", req, &s)
			switch {
			case errors.Is(err, errNotRunning):
				return fmt.Errorf("%w (asked at %s): it has no port open that could be in your way", err, socket)
			case err != nil:
				return err
			case asJSON:
				return json.NewEncoder(os.Stdout).Encode(s)
			case req.End:
				fmt.Printf("The gateway has bus %s again.\n", s.Bus)
			default:
				fmt.Printf("%s is free until %s (%s). The gateway takes it back by itself then; sooner with `gateway pause %s --end`, and if it is restarted.\n",
					s.Address, s.Until.Local().Format(time.DateTime), brief(s.Left), s.Bus)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&length, "for", "", "how long: 1m to 24h, such as 30m (without it: 15m)")
	cmd.Flags().StringVar(&req.Note, "note", "", "why, for whoever wonders")
	cmd.Flags().BoolVar(&req.End, "end", false, "take the port back")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
