package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/internal/writelog"
	"edgegateway/mapping"
)

// The audit is the log of writes as others see it: on NAME/_audit as it
// happens, and by `gateway audit`.

// thisBoot is the id of this boot, which is read once.
var thisBoot = sync.OnceValue(func() string {
	boot := bootID()
	return hex.EncodeToString(boot[:])
})

// writesDir is the folder of the log of writes, in the state folder.
const writesDir = "writes"

// momentNow returns the present moment as clock has it.
func momentNow(clock broker.Clock) writelog.Moment {
	now := int64(devices.Now())
	return writelog.Moment{Boot: thisBoot(), Stamp: now, Wall: clock.Wall(now), Exact: clock.Quality == broker.Exact}
}

// entryOf is what the log keeps of an order.
func (c *commander) entryOf(o *order) *writelog.Entry {
	cmd := &o.command
	e := &writelog.Entry{
		By: o.by, Client: cmd.Client, ID: cmd.ID, Scope: cmd.Scope(), Device: cmd.Device.ID,
		Reply: cmd.Reply.Topic, Correlation: cmd.Reply.Correlation,
	}
	for _, s := range cmd.Sets {
		e.Writes = append(e.Writes, writelog.Write{Point: s.Point.Name, Value: s.Value.AppendJSON(nil)})
	}
	return e
}

// logged is what the log keeps of what became of writes.
func logged(sets []mapping.Set, points []mapping.PointResult) (writes []writelog.Write) {
	for i, s := range sets {
		w := writelog.Write{Point: s.Point.Name, Value: s.Value.AppendJSON(nil)}
		if i < len(points) {
			p := &points[i]
			w.State, w.Reason = p.State.String(), p.Reason
			w.Old, w.New = known(p.Old), known(p.New)
		}
		writes = append(writes, w)
	}
	return writes
}

func known(v mapping.Value) json.RawMessage {
	if v.IsNull() {
		return nil
	}
	return v.AppendJSON(nil)
}

// audit publishes what became of each write of an entry.
func (c *commander) audit(dev *mapping.Device, e *writelog.Entry, sets []mapping.Set, points []mapping.PointResult, at devices.Stamp) {
	for i, p := range points {
		a := mapping.Audit{Seq: e.Seq, Device: dev, By: e.By, Client: e.Client, ID: e.ID, Result: p, Stamp: at}
		if i < len(sets) {
			a.Asked = sets[i].Value
		}
		level := c.log.Info
		if p.State != mapping.Verified && p.State != mapping.Written {
			level = c.log.Warn
		}
		level("write", "device", dev.ID, "point", p.Point.Name, "value", a.Asked.String(), "state", p.State.String(), "reason", p.Reason, "by", e.By, "client", e.Client)
		for _, msg := range mapping.AppendAudit(nil, c.plant().cfg.Name+"/_audit", &a, c.plant().clock()) {
			c.publish(&msg)
		}
	}
}

// crashed is what is said of a write that a process before did not finish.
const crashed = "the gateway ended (a crash or a power cut) while the command was under way, so that it may or may not have been carried out; it is not repeated. Look at the value"

// recover answers what the process before took and did not answer.
func (c *commander) recover() {
	for _, e := range c.writes.Unanswered() {
		if e.State == "" {
			e.State, e.Reason = mapping.Unknown.String(), crashed
			for i := range e.Writes {
				e.Writes[i].State, e.Writes[i].Reason = e.State, e.Reason
			}
			c.writes.Finish(e.Seq, e.Writes, e.State, e.Reason)
			e.Done = momentNow(c.plant().clock())
			if dev := c.plant().device(e.Device); dev != nil {
				sets, points := c.restore(dev, &e)
				c.audit(dev, &e, sets, points, c.now())
			}
		}
		if r := c.resultOf(&e); e.Reply != "" {
			r.Reply = mapping.Reply{Topic: e.Reply, Correlation: e.Correlation}
			if e.By == lossUser {
				r.By = lossUser
			}
			c.send(r)
		}
		c.writes.Told(e.Seq)
	}
}

// repeat answers a command that came before as it was answered then.
func (c *commander) repeat(o *order, first *writelog.Entry) {
	same := slices.EqualFunc(o.command.Sets, first.Writes, func(s mapping.Set, w writelog.Write) bool {
		return s.Point.Name == w.Point && string(s.Value.AppendJSON(nil)) == string(w.Value)
	})
	switch {
	case !same:
		c.reject(o, fmt.Errorf("the id %q was used before, for another value; each command needs an id of its own", o.command.ID))
	case first.State == "":
		c.answer(o, &mapping.Result{State: mapping.Accepted, Reason: "it is under way already; the result follows", Repeated: true})
	default:
		r := c.resultOf(first)
		r.Repeated = true
		c.answer(o, r)
	}
}

// restore makes the writes of an entry, and what became of them, from the log.
func (c *commander) restore(dev *mapping.Device, e *writelog.Entry) (sets []mapping.Set, points []mapping.PointResult) {
	for _, w := range e.Writes {
		p := &mapping.Point{Point: &devices.Point{Name: w.Point}, Type: mapping.Text, FromText: true}
		if i := slices.IndexFunc(dev.Points, func(p *mapping.Point) bool { return p.Name == w.Point }); i >= 0 {
			p = dev.Points[i]
		}
		sets = append(sets, mapping.Set{Point: p, Value: valueOf(p, w.Value)})
		points = append(points, mapping.PointResult{Point: p, State: stateOf(w.State), Reason: w.Reason, Old: valueOf(p, w.Old), New: valueOf(p, w.New)})
	}
	return sets, points
}

// resultOf makes the answer of an entry from the log.
func (c *commander) resultOf(e *writelog.Entry) *mapping.Result {
	dev := c.plant().device(e.Device)
	if dev == nil {
		dev = &mapping.Device{Device: &devices.Device{ID: e.Device, Name: e.Device}}
	}
	r := &mapping.Result{ID: e.ID, State: stateOf(e.State), Reason: e.Reason, Stamp: c.stampOf(e.Done)}
	_, r.Points = c.restore(dev, e)
	if len(r.Points) == 1 && !strings.HasSuffix(e.Scope, "/_set") {
		r.Old, r.New, r.Points = r.Points[0].Old, r.Points[0].New, nil
	}
	return r
}

// stampOf places a moment, perhaps of another boot, in this one.
func (c *commander) stampOf(m writelog.Moment) devices.Stamp {
	clock := c.plant().clock()
	if m.Boot == momentNow(clock).Boot {
		return devices.Stamp(m.Stamp)
	}
	return devices.Stamp(m.Wall.UnixNano() - clock.Offset)
}

func stateOf(s string) mapping.ResultState {
	for state := mapping.Accepted; state <= mapping.Unknown; state++ {
		if state.String() == s {
			return state
		}
	}
	return mapping.Unknown
}

func newAudit(opts *options) *cobra.Command {
	var n int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who wrote what to the devices, and what became of it",
		Long: `audit shows the last writes to devices, by commands, by the command line, and by
the gateway itself: who asked, what the point held before, and how it ended. The
gateway keeps the last 1000, and publishes each on NAME/_audit as it happens.`,
		Example: `  gateway audit
  gateway audit -n 0 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			entries, err := readAudit(cmd.Context(), opts)
			if err != nil {
				return err
			}
			if n > 0 && len(entries) > n {
				entries = entries[len(entries)-n:]
			}
			if asJSON {
				out := json.NewEncoder(os.Stdout)
				for _, e := range entries {
					if err := out.Encode(e); err != nil {
						return err
					}
				}
				return nil
			}
			return printAudit(os.Stdout, entries)
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", 20, "how many of the last writes; 0: all there are")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one line for each write")
	return cmd
}

// readAudit asks the running gateway, or reads its log if none runs.
func readAudit(ctx context.Context, opts *options) (entries []writelog.Entry, err error) {
	err = ask(ctx, controlPath(opts.state), "/audit", nil, &entries)
	if !errors.Is(err, errNotRunning) {
		return entries, err
	}
	dir := filepath.Join(opts.state, writesDir)
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("nothing was written yet, or --state names another folder: %w", err)
	}
	return writelog.Read(dir)
}

func printAudit(out io.Writer, entries []writelog.Entry) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tPOINT\tASKED\tOLD\tNOW\tBY\tID\tRESULT")
	for _, e := range entries {
		at := timeFor(e.At.Wall, e.At.Exact)
		by := e.By
		if e.Client != "" {
			by += " (" + e.Client + ")"
		}
		for _, p := range e.Writes {
			state := cmp.Or(p.State, e.State, "under way")
			if reason := cmp.Or(p.Reason, e.Reason); reason != "" {
				state += ": " + reason
			}
			fmt.Fprintf(w, "%s\t%s.%s\t%s\t%s\t%s\t%s\t%s\t%s\n", at, e.Device, p.Point, p.Value, dash(p.Old), dash(p.New), by, cmp.Or(e.ID, "–"), state)
		}
	}
	return w.Flush()
}

// timeFor writes a time for people, with a question mark if it is not certain.
func timeFor(t time.Time, exact bool) string {
	text := t.Local().Format(time.DateTime)
	if !exact {
		text += "?"
	}
	return text
}

func dash(v json.RawMessage) string { return cmp.Or(string(v), "–") }
