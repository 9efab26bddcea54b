package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/bridge"
	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/devices"
	"edgegateway/mapping"
)

// A Status is what a running gateway says of itself, over the control socket.
type Status struct {
	Name     string  `json:"name"`
	Version  string  `json:"version"`
	Config   string  `json:"config"` // hash of the configuration
	PID      int     `json:"pid"`
	Uptime   float64 `json:"uptime"` // seconds
	Clock    string  `json:"clock"`
	Readings uint64  `json:"readings"` // since the start, failed ones too

	Reload *ReloadStatus `json:"reload,omitempty"`

	Buses   []BusStatus            `json:"buses"`
	Devices []DeviceStatus         `json:"devices"`
	Bridges []bridge.Stats         `json:"bridges"`
	Spools  map[string]spool.Stats `json:"spools"`
	Broker  broker.Stats           `json:"broker"`
	Clients []broker.ClientStats   `json:"clients"`
	Listen  []string               `json:"listen"`
	Holds   []HoldStatus           `json:"holds,omitempty"`
	Mutes   []MuteStatus           `json:"mutes,omitempty"`
	Pauses  []PauseStatus          `json:"pauses,omitempty"`
	Writes  string                 `json:"writes,omitempty"` // why nothing is written; "": it is
}

// A BusStatus is one bus with its figures.
type BusStatus struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
	Hint     string `json:"hint,omitempty"`   // what is wrong with all of it, and what to check
	Paused   bool   `json:"paused,omitempty"` // its port is lent by `gateway pause`
	devices.BusStats
}

// A DeviceStatus is one device with its points.
type DeviceStatus struct {
	ID         string        `json:"id"`
	Name       string        `json:"name"`
	Bus        string        `json:"bus"`
	State      string        `json:"state"`
	For        float64       `json:"for"`                 // seconds in this state
	LastAnswer *float64      `json:"last_answer"`         // seconds ago; null: never
	Broadcast  bool          `json:"broadcast,omitempty"` // it is all of its line, and never answers
	LastError  string        `json:"last_error,omitempty"`
	Muted      string        `json:"muted,omitempty"`  // by whom, until when and why
	Hint       string        `json:"hint,omitempty"`   // what that means, as others on the bus are well
	Doubts     []string      `json:"doubts,omitempty"` // points that cannot be right, and what would make them
	Points     []PointStatus `json:"points"`
}

// A PointStatus is the last known of a point.
type PointStatus struct {
	Name   string          `json:"name"`
	Value  json.RawMessage `json:"value"`
	Unit   string          `json:"unit,omitempty"`
	Error  string          `json:"error,omitempty"`
	Detail string          `json:"detail,omitempty"` // what a person may want to know besides the error: the number that is out of range
	Age    *float64        `json:"age"`              // seconds; null: not read yet
}

func (g *gateway) status() *Status {
	now, w := devices.Now(), g.works.Load()
	s := &Status{
		Name: g.cfg.Name, Version: version(), Config: w.cfg.Hash(), Reload: g.reloads.status(), PID: os.Getpid(),
		Uptime: now.Sub(g.started).Seconds(), Clock: g.clock.Now().Quality.String(),
		Spools: map[string]spool.Stats{}, Broker: g.broker.Stats(), Clients: g.broker.ClientStats(), Listen: g.listening(), Holds: g.command.holds.status(), Mutes: g.command.mutes.status(), Pauses: g.pauses.status(),
	}
	if err := g.writes.Trouble(); err != nil {
		s.Writes = err.Error()
	}
	for _, b := range w.buses {
		stats, hint := b.poller.Stats(), b.doctor.hint("")
		if b.doubts.length("") != "" {
			hint = "" // somebody is there
		}
		s.Buses = append(s.Buses, BusStatus{Protocol: b.Protocol, Address: b.Address, Hint: hint, Paused: slices.ContainsFunc(s.Pauses, func(p PauseStatus) bool { return p.Bus == b.ID }), BusStats: stats})
		list := b.deviceStatus(now, stats)
		for i := range list {
			list[i].Hint = cmp.Or(list[i].Hint, g.command.setup.hint(list[i].ID))
			list[i].Muted = g.command.mutes.shown(list[i].ID)
		}
		s.Devices = append(s.Devices, list...)
		s.Readings += b.pump.readings.Load()
	}
	for _, b := range w.bridges {
		s.Bridges = append(s.Bridges, b.Stats())
	}
	for name, l := range g.allLogs() {
		s.Spools[name] = l.Stats()
	}
	return s
}

// deviceStatus joins the poller's figures with the mapper's values.
func (b *bus) deviceStatus(now devices.Stamp, stats devices.BusStats) []DeviceStatus {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var list []DeviceStatus
	b.pump.call(ctx, func(m *mapping.Mapper) {
		for i, dev := range b.Devices {
			figures := stats.Devices[i]
			d := DeviceStatus{
				ID: dev.ID, Name: dev.Name, Bus: dev.Bus, State: figures.State.String(),
				For: now.Sub(figures.Since).Seconds(), LastAnswer: ago(now, figures.LastAnswer), LastError: figures.LastError, Hint: cmp.Or(b.doubts.length(dev.ID), b.doctor.hint(dev.ID)),
				Broadcast: dev.WrittenOnly(), Doubts: b.doubts.of(dev.ID),
			}
			if stats.LastBad != "" && figures.State != devices.Online && figures.State != devices.Maintenance {
				d.Hint = cmp.Or(d.Hint, "nothing good is heard; the last time: "+stats.LastBad)
			}
			for _, c := range m.Snapshot(dev.ID) {
				d.Points = append(d.Points, PointStatus{
					Name: c.Point.Name, Value: c.Value.AppendJSON(nil), Unit: c.Point.Unit, Error: c.Cause, Detail: c.Detail, Age: ago(now, c.At),
				})
			}
			list = append(list, d)
		}
	})
	return list
}

func ago(now, at devices.Stamp) *float64 {
	if at == 0 {
		return nil
	}
	s := now.Sub(at).Seconds()
	return &s
}

// listening returns where the broker listens, and where it cannot yet.
func (g *gateway) listening() (urls []string) {
	for i, l := range g.cfg.Listen {
		if addr := g.broker.Addr(i); addr != nil {
			urls = append(urls, l.URL(addr))
		} else {
			urls = append(urls, "cannot listen at "+l.Address)
		}
	}
	return urls
}

func newStatus(opts *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show buses, devices, bridges and buffers of the running gateway",
		Long: `status shows once what there is: each bus with its load and errors, each device with
its state and last answer, each bridge, each buffer. The last column says what is
wrong and what to do. It fails, with exit code 1, if no gateway is running.`,
		Example: `  gateway status
  gateway status --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s Status
			socket := controlPath(opts.state)
			if err := ask(cmd.Context(), socket, "/status", nil, &s); err != nil {
				return fmt.Errorf("%w (asked at %s)", err, socket)
			}
			if asJSON {
				out := json.NewEncoder(os.Stdout)
				out.SetIndent("", "  ")
				return out.Encode(s)
			}
			return s.print(os.Stdout)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	return cmd
}

func (s *Status) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s  up %s, clock %s, version %s, configuration %s\n", s.Name, brief(s.Uptime), s.Clock, s.Version, s.Config)
	fmt.Fprintf(w, "broker  %s, %d clients\n", strings.Join(s.Listen, " "), s.Broker.Clients)
	s.Reload.print(w)
	fmt.Fprintln(w, "\nBUS\tADDRESS\tBUSY\tREQUESTS\tTIMEOUTS\tERRORS\tLATE\t")
	for i := range s.Buses {
		b := &s.Buses[i]
		fmt.Fprintf(w, "%s\t%s\t%.0f %%\t%d\t%d\t%d\t%d\t%s\n", b.Bus, b.Address, 100*b.Busy, b.Requests, b.Timeouts, b.Errors, b.Overruns, b.trouble())
	}
	s.printOthers(w)
	fmt.Fprintln(w, "\nDEVICE\tBUS\tSTATE\tFOR\tPOINTS\tLAST ANSWER\t")
	for _, d := range s.Devices {
		trouble := d.trouble()
		if away := d.State == devices.Offline.String() || d.State == devices.Maintenance.String(); away && d.Muted == "" && (d.Hint == "" || d.State == devices.Maintenance.String()) && slices.ContainsFunc(s.Buses, func(b BusStatus) bool { return b.Bus == d.Bus && b.trouble() != "" }) {
			trouble = "see bus " + d.Bus
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", d.ID, d.Bus, d.State, brief(d.For), len(d.Points), d.answered(), trouble)
	}
	if len(s.Holds) > 0 {
		fmt.Fprintln(w)
		if err := errors.Join(w.Flush(), printHolds(out, s.Holds)); err != nil {
			return err
		}
	}
	if len(s.Pauses) > 0 {
		fmt.Fprintln(w)
		if err := errors.Join(w.Flush(), printPauses(out, s.Pauses)); err != nil {
			return err
		}
	}
	if len(s.Mutes) > 0 {
		fmt.Fprintln(w)
		if err := errors.Join(w.Flush(), printMutes(out, s.Mutes)); err != nil {
			return err
		}
	}
	if s.Writes != "" {
		fmt.Fprintf(w, "\nCommands are refused: they cannot be logged: %s\n", s.Writes)
	}
	fmt.Fprintln(w, "\nBRIDGE\tSTATE\tSINCE\tTO\tDELIVERED\tWAITING\t")
	for _, b := range s.Bridges {
		var waiting uint64
		for _, l := range b.Backlog {
			waiting += l.Records
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", b.Name, b.State, brief(time.Since(b.Since).Seconds()), b.URL, b.Acked, waiting, bridgeTrouble(&b))
	}
	s.printClients(w)
	return w.Flush()
}

// mostClients is how many clients are shown; those with most waiting come first.
const mostClients = 20

// printClients lists the clients of the broker.
func (s *Status) printClients(w io.Writer) {
	if len(s.Clients) == 0 {
		return
	}
	list := slices.Clone(s.Clients)
	slices.SortStableFunc(list, func(x, y broker.ClientStats) int {
		return cmp.Or(cmp.Compare(y.Dropped, x.Dropped), cmp.Compare(y.Queue, x.Queue))
	})
	fmt.Fprintln(w, "\nCLIENT\tUSER\tSTATE\tFROM\tSUBSCRIBED\tWAITING\tIN FLIGHT\tDROPPED\t")
	for _, c := range list[:min(len(list), mostClients)] {
		state := "away"
		if c.Connected {
			state = "connected " + brief(time.Since(c.Since).Seconds())
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t\n", c.ID, cmp.Or(c.User, "-"), state, cmp.Or(c.Address, "-"), c.Subscriptions, c.Queue, c.InFlight, c.Dropped)
	}
	if n := len(list) - mostClients; n > 0 {
		fmt.Fprintf(w, "and %d more; --json shows all\n", n)
	}
}

// printOthers names other programs that have a port open. It looks for them
// here, as the service's user cannot see those of others.
func (s *Status) printOthers(w io.Writer) {
	for i := range s.Buses {
		b := &s.Buses[i]
		if b.Lent != "" {
			continue
		}
		if text := othersOn(b.Address, s.PID); text != "" && !strings.Contains(b.trouble(), "(process ") {
			fmt.Fprintf(w, "bus %s: %s%s\n", b.Bus, text, throughGateway)
		}
	}
}

func (b *BusStatus) trouble() string {
	if b.PortDown {
		return b.PortError
	}
	if b.Paused && b.Lent != "" {
		return "paused: lent to " + b.Lent
	}
	if b.Lent != "" {
		return "lent to " + b.Lent + ": its devices are not asked until that ends"
	}
	return cmp.Or(b.Hint, b.Narrowed)
}

func (d *DeviceStatus) answered() string {
	if d.Broadcast {
		return "written only"
	}
	if d.LastAnswer == nil {
		return "never"
	}
	return brief(*d.LastAnswer) + " ago"
}

func (d *DeviceStatus) trouble() string {
	if d.Muted != "" {
		return d.Muted
	}
	if d.State == devices.Online.String() {
		if n := len(d.Doubts); n > 1 {
			return fmt.Sprintf("%s; and %d more, see `gateway read %s`", d.Doubts[0], n-1, d.ID)
		} else if n == 1 {
			return d.Doubts[0]
		}
		return d.pointTrouble()
	}
	return cmp.Or(d.Hint, d.LastError)
}

// pointTrouble says how many points of a device that answers have no value, and
// why the first has none.
func (d *DeviceStatus) pointTrouble() string {
	n, first := 0, ""
	for _, p := range d.Points {
		if p.Error != "" {
			n++
			first = cmp.Or(first, fmt.Sprintf("%s (%s)", p.Name, p.Error))
		}
	}
	switch {
	case n == 0:
		return ""
	case n == 1:
		return "no value of " + first
	}
	return fmt.Sprintf("no value of %d of %d points, such as %s; see `gateway read %s`", n, len(d.Points), first, d.ID)
}

// brief writes seconds as people say them: 0.3 s, 12 s, 5m10s, 3h2m0s.
func brief(s float64) string {
	if s < 10 {
		return fmt.Sprintf("%.1f s", s)
	}
	d := time.Duration(s * float64(time.Second))
	if d < time.Minute {
		return fmt.Sprintf("%.0f s", s)
	}
	return d.Round(time.Second).String()
}
