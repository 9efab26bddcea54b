package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/internal/writelog"
	"edgegateway/mapping"
)

// A hold keeps a point at a value that somebody at the gateway set, against
// all commands, for some time. It is written again each time its device comes
// back, and outlives restarts.
type hold struct {
	Device string          `json:"device"` // table key
	Point  string          `json:"point"`
	Value  json.RawMessage `json:"value"`
	By     string          `json:"by"`
	Since  writelog.Moment `json:"since"`
	term
}

func (h *hold) key() string { return holdKey(h.Device, h.Point) }

func (h *hold) clone() *hold { c := *h; return &c }

// holds are all there are. Their methods may be called at once.
type holds struct {
	shelf   shelf[*hold]
	gateway string
	clock   func() broker.Clock
	publish func(*broker.Message)
	names   func(device string) string // in topics; "" for one that is gone
	log     *slog.Logger
	now     func() devices.Stamp // nil: devices.Now
}

func holdKey(device, point string) string { return device + "\x00" + point }

// openHolds reads the file. One that cannot be read is moved aside: then no
// point is held.
func openHolds(path string, h *holds) *holds {
	if h.now == nil {
		h.now = devices.Now
	}
	h.shelf = shelf[*hold]{name: "holds", lost: "no point is held any more", path: path, clock: h.clock, now: h.now, log: h.log, over: h.over}
	h.shelf.open()
	return h
}

// get returns the hold of a point.
func (h *holds) get(device, point string) (hold, bool) {
	one, ok := h.shelf.get(holdKey(device, point))
	if !ok {
		return hold{}, false
	}
	return *one, true
}

// list returns all holds by device and point.
func (h *holds) list() []*hold { return h.shelf.list() }

// describe says who holds a point until when, and how that ends.
func (h *holds) describe(one *hold) string {
	return fmt.Sprintf("held at %s by %s %s; `gateway release %s.%s` ends that", one.Value, one.By, one.end(h.clock(), h.now()), one.Device, one.Point)
}

// set begins a hold, or changes one. It counts once it is saved.
func (h *holds) set(device, point string, value json.RawMessage, by string, length time.Duration) error {
	one := &hold{Device: device, Point: point, Value: value, By: by, Since: momentAt(h.clock(), h.now())}
	err := h.shelf.put(one, length)
	h.tell(device)
	if err != nil {
		return fmt.Errorf("not held, for it cannot be saved and would end with a restart: %w", err)
	}
	return nil
}

// release ends a hold and reports whether there was one.
func (h *holds) release(device, point string) (bool, error) {
	held, err := h.shelf.drop(holdKey(device, point))
	if held {
		h.tell(device)
	}
	if err != nil {
		err = fmt.Errorf("released, but that is not saved: it will be held again after a restart: %w", err)
	}
	return held, err
}

// run ends holds in time, and saves what is left of them, until ctx is done.
func (h *holds) run(ctx context.Context) {
	for _, one := range h.list() {
		h.tell(one.Device)
	}
	h.shelf.run(ctx)
}

func (h *holds) over(one *hold) {
	h.log.Info("hold ended by itself", "device", one.Device, "point", one.Point, "value", string(one.Value), "by", one.By)
	h.tell(one.Device)
}

// A holdMessage is the payload of NAME/DEVICE/_hold.
type holdMessage struct {
	Points map[string]heldPoint `json:"points"`
	Time   string               `json:"time"`
	broker.ClockNote
}

type heldPoint struct {
	Value json.RawMessage `json:"value"`
	By    string          `json:"by"`
	Until string          `json:"until"`
}

// tell publishes which points of a device are held; nothing is retained when
// none is.
func (h *holds) tell(device string) {
	name := h.names(device)
	if name == "" {
		return
	}
	clock, now := h.clock(), int64(h.now())
	msg := &broker.Message{Topic: h.gateway + "/" + name + "/_hold", QoS: 1, Retain: true, Stamp: now}
	text := holdMessage{Points: map[string]heldPoint{}, Time: clock.Wall(now).Format(payloadTime), ClockNote: clock.Note(now)}
	for _, one := range h.list() {
		if one.Device == device {
			text.Points[one.Point] = heldPoint{one.Value, one.By, one.until(clock).Format(payloadTime)}
		}
	}
	if len(text.Points) > 0 {
		msg.Payload, _ = json.Marshal(text)
	}
	h.publish(msg)
}

// A holdRequest says which point to hold at which value for how long.
type holdRequest struct {
	writeRequest
	For time.Duration `json:"for"`
}

// longestHold is how long a point can be held: who forgets one shall not find
// it next year.
const longestHold = 90 * 24 * time.Hour

// hold has a point held and written. What is held stays so when the device
// could not be written to: it will be when it is back.
func (c *commander) hold(ctx context.Context, req holdRequest, by string) (writeResult, error) {
	if req.For < time.Second || req.For > longestHold {
		return writeResult{}, usageError("--for %s: a hold lasts from 1s to %d days", req.For, longestHold/24/time.Hour)
	}
	command, result, err := c.plant().prepare(req.writeRequest)
	if err != nil || result.State != "" {
		return result, err
	}
	if c.plant().readOnly {
		result.take(mapping.Rejected, errReadOnly.Error(), mapping.Value{})
		return result, nil
	}
	set := command.Sets[0]
	if err := c.holds.set(command.Device.ID, set.Point.Name, set.Value.AppendJSON(nil), by, req.For); err != nil {
		return result, err
	}
	c.log.Info("point held", "device", command.Device.ID, "point", set.Point.Name, "value", set.Value.String(), "by", by, "dur", req.For)
	return c.writeAs(ctx, &order{command: command, by: "hold by " + by, kind: byHold}, result)
}

// release ends a hold.
func (c *commander) release(target, by string) error {
	dev, point, err := c.plant().findPoint(target)
	for _, one := range c.holds.list() { // of a point that is gone, perhaps
		if one.Device+"."+one.Point == target || err == nil && one.Device == dev.ID && one.Point == point.Name {
			_, serr := c.holds.release(one.Device, one.Point)
			if err == nil {
				c.loss.released(point)
			}
			c.log.Info("hold released", "device", one.Device, "point", one.Point, "by", by)
			return serr
		}
	}
	if err == nil {
		err = fmt.Errorf("%s.%s is not held", dev.ID, point.Name)
	}
	return err
}

// holdAgain writes what is held on a device that has come back.
func (c *commander) holdAgain(dev *mapping.Device) {
	for _, one := range c.holds.list() {
		if one.Device != dev.ID {
			continue
		}
		command, err := c.plant().mapper.Write(dev.Name, one.Point, one.Value)
		if err != nil {
			c.log.Warn("what is held cannot be written", "device", dev.ID, "point", one.Point, "err", err)
			continue
		}
		o := &order{command: command, by: "hold by " + one.By, kind: byHold, tell: func(*mapping.Result) {}}
		o.command.Received = c.now()
		select {
		case c.in <- o:
		default: // a flood: it will be written when the device comes back next
		}
	}
}

// A HoldStatus is one hold as status shows it.
type HoldStatus struct {
	Device string          `json:"device"`
	Point  string          `json:"point"`
	Value  json.RawMessage `json:"value"`
	By     string          `json:"by"`
	Until  time.Time       `json:"until"`
	Left   float64         `json:"left"` // seconds
}

func (h *holds) status() (list []HoldStatus) {
	for _, one := range h.list() {
		list = append(list, HoldStatus{one.Device, one.Point, one.Value, one.By, one.until(h.clock()), one.ends.Sub(h.now()).Seconds()})
	}
	return list
}

func printHolds(out io.Writer, list []HoldStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HELD\tAT\tBY\tUNTIL\tLEFT\t")
	for _, h := range list {
		fmt.Fprintf(w, "%s.%s\t%s\t%s\t%s\t%s\t\n", h.Device, h.Point, h.Value, h.By, h.Until.Local().Format(time.DateTime), brief(h.Left))
	}
	return w.Flush()
}

func newHold(opts *options) *cobra.Command {
	var req holdRequest
	var list, asJSON bool
	var length string
	cmd := &cobra.Command{
		Use:               "hold DEVICE.POINT VALUE --for TIME",
		ValidArgsFunction: completePoint(opts, true),
		Short:             "Keep a point at a value, against all commands, for some time",
		Long: `hold writes a value and refuses all commands to that point, from wherever, until
the time is over or "gateway release" ends it. A hold outlives restarts and
reboots, and is written again each time the device comes back. When it ends, the
value stays until the next command.`,
		Example: `  gateway hold boiler.setpoint 55 --for 2h
  gateway hold --list`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			socket := controlPath(opts.state)
			if list || len(args) == 0 {
				var s Status
				if err := askRunning(cmd.Context(), socket, "/status", nil, &s); err != nil {
					return err
				}
				return printList(s.Holds, asJSON, "nothing is held", printHolds)
			}
			if len(args) != 2 {
				return usageError("hold needs DEVICE.POINT and VALUE")
			}
			var err error
			if req.For, err = parseHoldTime(length); err != nil {
				return err
			}
			req.Target, req.Value = args[0], args[1]
			var result writeResult
			if err := askRunning(cmd.Context(), socket, "/hold", req, &result); err != nil {
				return err
			}
			return printWrite(result, asJSON)
		},
	}
	cmd.Flags().StringVar(&length, "for", "", "how long: 1s to 90d, such as 30m, 2h, 1h30m or 3d")
	cmd.Flags().BoolVar(&list, "list", false, "show what is held")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// parseHoldTime takes days as well.
func parseHoldTime(s string) (time.Duration, error) {
	if s == "" {
		return 0, usageError("say for how long: --for 2h")
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		s = days + "h"
		if d, err := time.ParseDuration(s); err == nil {
			return 24 * d, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, usageError("--for %s: want a time such as 30m, 2h, 1h30m or 3d", s)
	}
	return d, nil
}

func newRelease(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:               "release DEVICE.POINT",
		ValidArgsFunction: completePoint(opts, true),
		Short:             "End a hold",
		Long: `release ends a hold: commands to the point are taken again. The value stays as it is
until the next one.`,
		Example: "  gateway release boiler.setpoint",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var done struct{}
			return askRunning(cmd.Context(), controlPath(opts.state), "/release", writeRequest{Target: args[0]}, &done)
		},
	}
}

// askRunning is ask for what only a running gateway can do.
func askRunning(ctx context.Context, socket, path string, body, result any) error {
	err := ask(ctx, socket, path, body, result)
	if errors.Is(err, errNotRunning) {
		return fmt.Errorf("%w (asked at %s); start it, or name its --state", err, socket)
	}
	return err
}

// holdsPath is where holds are kept.
func holdsPath(state string) string { return filepath.Join(state, "holds.json") }

// momentAt is momentNow for a stamp.
func momentAt(clock broker.Clock, at devices.Stamp) writelog.Moment {
	m := momentNow(clock)
	m.Stamp, m.Wall = int64(at), clock.Wall(int64(at))
	return m
}

// peerName names who is at the other end of the control socket.
func peerName(uid uint32) string {
	return cmp.Or(map[uint32]string{0: "root"}[uid], fmt.Sprintf("uid %d", uid))
}
