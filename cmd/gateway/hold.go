package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
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

// A hold keeps a point at a value that somebody at the gateway set, against
// all commands, for some time. It is written again each time its device comes
// back, and outlives restarts.
//
// It ends by boot time, which no setting of the clock moves. After a reboot
// boot time begins anew: then the hold ends by wall time if that was exact when
// the hold was saved and is so again. Until it is, and where it never was, the
// time that the computer was off does not count, and a hold may last longer by
// that and by up to a minute; it never ends early.
type hold struct {
	Device string          `json:"device"` // table key
	Point  string          `json:"point"`
	Value  json.RawMessage `json:"value"`
	By     string          `json:"by"`
	Since  writelog.Moment `json:"since"`
	Left   time.Duration   `json:"left"`  // when it was saved
	Saved  writelog.Moment `json:"saved"` // when that was

	ends devices.Stamp // in this boot
}

// holdSave is how often what is left of holds is saved.
const holdSave = time.Minute

// holds are all there are. Their methods may be called at once.
type holds struct {
	path    string
	gateway string
	clock   func() broker.Clock
	publish func(*broker.Message)
	names   func(device string) string // in topics; "" for one that is gone
	log     *slog.Logger
	now     func() devices.Stamp // nil: devices.Now
	wake    chan struct{}        // one token: look again

	mu    sync.Mutex
	byKey map[string]*hold
	exact bool // their ends were fitted to a clock that is exact
}

// A holdsFile is the file.
type holdsFile struct {
	Version int     `json:"version"`
	Holds   []*hold `json:"holds"`
}

const holdsVersion = 1

func holdKey(device, point string) string { return device + "\x00" + point }

// openHolds reads the file. One that cannot be read is moved aside: then no
// point is held.
func openHolds(path string, h *holds) *holds {
	h.path, h.byKey, h.wake = path, map[string]*hold{}, make(chan struct{}, 1)
	if h.now == nil {
		h.now = devices.Now
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return h
	}
	var file holdsFile
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err == nil && file.Version > holdsVersion {
		err = fmt.Errorf("it has format %d, this program knows %d", file.Version, holdsVersion)
	}
	if err != nil {
		h.log.Error("holds cannot be read: no point is held any more", "err", errors.Join(err, os.Rename(path, path+".unreadable")))
		return h
	}
	for _, one := range file.Holds {
		if one != nil {
			h.byKey[holdKey(one.Device, one.Point)] = one
		}
	}
	h.fit()
	return h
}

// fit places the ends of holds in this boot.
func (h *holds) fit() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := momentAt(h.clock(), h.now())
	h.exact = now.Exact
	for _, one := range h.byKey {
		gone, known := one.Saved.Since(now)
		if !known {
			if one.ends == 0 {
				one.ends = devices.Stamp(now.Stamp) + devices.Stamp(one.Left)
			}
			continue
		}
		one.ends = devices.Stamp(now.Stamp) + devices.Stamp(one.Left-gone)
	}
}

// get returns the hold of a point.
func (h *holds) get(device, point string) (hold, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.byKey[holdKey(device, point)]
	if one == nil || h.now() >= one.ends {
		return hold{}, false
	}
	return *one, true
}

// list returns all holds by device and point.
func (h *holds) list() (all []hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(h.byKey)) {
		if one := h.byKey[key]; h.now() < one.ends {
			all = append(all, *one)
		}
	}
	return all
}

// until is when a hold ends, as the clock is now.
func (h *holds) until(one *hold) time.Time {
	return h.clock().Wall(int64(one.ends)).Truncate(time.Second)
}

// describe says who holds a point until when, and how that ends.
func (h *holds) describe(one *hold) string {
	until := "until " + h.until(one).Format(time.RFC3339)
	if h.clock().Quality != broker.Exact {
		until = fmt.Sprintf("for another %s", max(time.Second, one.ends.Sub(h.now()).Round(time.Second)))
	}
	return fmt.Sprintf("held at %s by %s %s; `gateway release %s.%s` ends that", one.Value, one.By, until, one.Device, one.Point)
}

// set begins a hold, or changes one. It counts once it is saved.
func (h *holds) set(device, point string, value json.RawMessage, by string, length time.Duration) error {
	h.mu.Lock()
	now := momentAt(h.clock(), h.now())
	key := holdKey(device, point)
	old := h.byKey[key]
	h.byKey[key] = &hold{
		Device: device, Point: point, Value: value, By: by, Since: now,
		ends: devices.Stamp(now.Stamp) + devices.Stamp(length),
	}
	err := h.saveLocked()
	if err != nil {
		h.byKey[key] = old
		if old == nil {
			delete(h.byKey, key)
		}
	}
	h.mu.Unlock()
	h.changed(device)
	if err != nil {
		return fmt.Errorf("not held, for it cannot be saved and would end with a restart: %w", err)
	}
	return nil
}

// release ends a hold and reports whether there was one.
func (h *holds) release(device, point string) (bool, error) {
	h.mu.Lock()
	key := holdKey(device, point)
	_, held := h.byKey[key]
	delete(h.byKey, key)
	var err error
	if held {
		err = h.saveLocked()
	}
	h.mu.Unlock()
	if held {
		h.changed(device)
	}
	if err != nil {
		err = fmt.Errorf("released, but that is not saved: it will be held again after a restart: %w", err)
	}
	return held, err
}

func (h *holds) changed(device string) {
	h.tell(device)
	select {
	case h.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (h *holds) saveLocked() error {
	file := holdsFile{Version: holdsVersion, Holds: []*hold{}}
	now := momentAt(h.clock(), h.now())
	for _, key := range slices.Sorted(maps.Keys(h.byKey)) {
		one := h.byKey[key]
		one.Left, one.Saved = one.ends.Sub(devices.Stamp(now.Stamp)), now
		file.Holds = append(file.Holds, one)
	}
	return writeWhole(h.path, file)
}

// run ends holds in time, and saves what is left of them, until ctx is done.
func (h *holds) run(ctx context.Context) {
	for _, one := range h.list() {
		h.tell(one.Device)
	}
	for {
		wait := h.review()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-h.wake:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// review ends holds that are over, fits the rest to a clock that has become
// exact, and returns when to look again.
func (h *holds) review() time.Duration {
	if h.clock().Quality == broker.Exact && !h.exact {
		h.fit()
	}
	h.mu.Lock()
	now := h.now()
	var over []*hold
	wait := 24 * time.Hour
	for key, one := range h.byKey {
		if now >= one.ends {
			over = append(over, one)
			delete(h.byKey, key)
			continue
		}
		wait = min(wait, holdSave, one.ends.Sub(now))
	}
	due := len(over) > 0
	for _, one := range h.byKey {
		due = due || now.Sub(one.ends)+one.Left >= holdSave // so much of it went by since it was saved
	}
	var err error
	if due {
		err = h.saveLocked()
	}
	h.mu.Unlock()
	if err != nil {
		h.log.Warn("what is left of holds is not saved", "err", err)
	}
	for _, one := range over {
		h.log.Info("hold ended by itself", "device", one.Device, "point", one.Point, "value", string(one.Value), "by", one.By)
		h.tell(one.Device)
	}
	return wait
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
			text.Points[one.Point] = heldPoint{one.Value, one.By, h.until(&one).Format(payloadTime)}
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
		list = append(list, HoldStatus{one.Device, one.Point, one.Value, one.By, h.until(&one), one.ends.Sub(h.now()).Seconds()})
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
  gateway hold --list
  gateway release boiler.setpoint`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			socket := controlPath(opts.state)
			if list || len(args) == 0 {
				var s Status
				if err := askRunning(cmd.Context(), socket, "/status", nil, &s); err != nil {
					return err
				}
				if asJSON {
					return json.NewEncoder(os.Stdout).Encode(append([]HoldStatus{}, s.Holds...))
				}
				if len(s.Holds) == 0 {
					fmt.Fprintln(os.Stderr, "nothing is held")
					return nil
				}
				return printHolds(os.Stdout, s.Holds)
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
	cmd.Flags().StringVar(&length, "for", "", "how long: 30m, 2h, 1h30m, 3d")
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
		Args:              cobra.ExactArgs(1),
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
