package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/internal/writelog"
	"edgegateway/mapping"
)

// A mute sets a device aside on which somebody works: it is not asked, nothing is
// logged of it, and nobody but who is at the gateway writes to it. It outlives
// restarts, and ends like a hold.
type mute struct {
	Device string          `json:"device"` // table key
	By     string          `json:"by"`
	Note   string          `json:"note,omitempty"`
	Since  writelog.Moment `json:"since"`
	term
}

func (m *mute) key() string { return m.Device }

func (m *mute) clone() *mute { c := *m; return &c }

// mutes are all there are. Their methods may be called at once.
type mutes struct {
	shelf shelf[*mute]
	clock func() broker.Clock
	now   func() devices.Stamp // nil: devices.Now
	log   *slog.Logger
	tell  func() // has all pollers look who is muted; never waits
}

func mutesPath(state string) string { return filepath.Join(state, "mutes.json") }

// openMutes reads the file. One that cannot be read is moved aside: then no
// device is muted.
func openMutes(path string, m *mutes) *mutes {
	if m.now == nil {
		m.now = devices.Now
	}
	m.shelf = shelf[*mute]{
		name: "mutes", lost: "no device is muted any more", path: path, clock: m.clock, now: m.now, log: m.log,
		over: func(*mute) { m.tell() }, moved: m.tell,
	}
	m.shelf.open()
	return m
}

// describe says who muted a device until when, and how that ends.
func (m *mutes) describe(one *mute) string {
	note := ""
	if one.Note != "" {
		note = " (" + one.Note + ")"
	}
	return fmt.Sprintf("muted by %s %s%s; `gateway mute %s --end` ends that", one.By, one.end(m.clock(), m.now()), note, one.Device)
}

// why says why a device is not asked, nil if it is.
func (m *mutes) why(device string) error {
	one, ok := m.shelf.get(device)
	if !ok {
		return nil
	}
	return fmt.Errorf("%w: %s", devices.ErrMuted, strings.TrimPrefix(m.describe(one), "muted "))
}

// screen keeps what a person reads of a muted device from being published: who
// works on it sees it, and the device stays in maintenance for everybody else.
func (m *mutes) screen(b *devices.Batch) {
	if b.State == devices.Maintenance {
		return
	}
	if _, muted := m.shelf.get(b.Device.ID); muted {
		b.State, b.Readings = devices.Maintenance, b.Readings[:0]
	}
}

// remark is what the status of a device in maintenance says besides.
func (m *mutes) remark(device string) (r mapping.Remark) {
	if one, ok := m.shelf.get(device); ok {
		r = mapping.Remark{By: one.By, Note: one.Note, Until: one.until(m.clock()).Format(time.RFC3339)}
	}
	return r
}

// A muteRequest says which device to mute for how long, or to mute no longer.
type muteRequest struct {
	Device string        `json:"device"`
	For    time.Duration `json:"for,omitempty"`
	Note   string        `json:"note,omitempty"`
	End    bool          `json:"end,omitempty"`
}

// longestNote is how long a note may be: it is in payloads and reasons.
const longestNote = 200

func checkNote(note string) error {
	if utf8.RuneCountInString(note) > longestNote {
		return usageError("--note: at most %d characters", longestNote)
	}
	if !utf8.ValidString(note) || strings.ContainsFunc(note, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return usageError("--note: one line of plain text")
	}
	return nil
}

// mute mutes a device, or ends that.
func (c *commander) mute(req muteRequest, by string) (MuteStatus, error) {
	if req.End {
		return c.unmute(req.Device, by)
	}
	if req.For < time.Second || req.For > longestHold {
		return MuteStatus{}, usageError("--for %s: a device is muted for 1s to %d days", req.For, longestHold/24/time.Hour)
	}
	if err := checkNote(req.Note); err != nil {
		return MuteStatus{}, err
	}
	dev, point, err := c.plant().find(req.Device)
	if err == nil && point != nil {
		err = usageError("%q names a point: only a whole device is muted", req.Device)
	}
	if err != nil {
		return MuteStatus{}, err
	}
	one := &mute{Device: dev.ID, By: by, Note: req.Note, Since: momentAt(c.mutes.clock(), c.mutes.now())}
	if err := c.mutes.shelf.put(one, req.For); err != nil {
		return MuteStatus{}, fmt.Errorf("not muted, for it cannot be saved and would end with a restart: %w", err)
	}
	c.mutes.tell()
	return c.mutes.statusOf(one), nil
}

func (c *commander) unmute(device, by string) (MuteStatus, error) {
	id, there := device, c.plant().device(device)
	if there != nil {
		id = there.ID
	}
	one, muted := c.mutes.shelf.get(id) // of a device that is gone, perhaps
	if !muted {
		if there == nil {
			_, _, err := c.plant().find(device)
			return MuteStatus{}, cmp.Or(err, fmt.Errorf("%s is not muted", device))
		}
		return MuteStatus{}, fmt.Errorf("%s is not muted", id)
	}
	_, err := c.mutes.shelf.drop(id)
	c.log.Info("mute ended", "device", id, "by", by)
	c.mutes.tell()
	if err != nil {
		err = fmt.Errorf("%s is asked again, but that is not saved: it will be muted again after a restart: %w", id, err)
	}
	return c.mutes.statusOf(one), err
}

// screen looks at each batch before it is published.
func (c *commander) screen(b *devices.Batch) {
	c.mutes.screen(b)
	c.setup.screen(b)
}

// errMuted says why an order for a muted device is not carried out, nil if it is:
// whoever stands at the gateway may do with the device what has to be done.
func (c *commander) errMuted(o *order) error {
	if one, ok := c.mutes.shelf.get(o.command.Device.ID); ok && !o.here {
		return errors.New(c.mutes.describe(one))
	}
	return nil
}

// A MuteStatus is one mute as status shows it.
type MuteStatus struct {
	Device string    `json:"device"`
	By     string    `json:"by"`
	Note   string    `json:"note,omitempty"`
	Until  time.Time `json:"until"`
	Left   float64   `json:"left"` // seconds
}

func (m *mutes) statusOf(one *mute) MuteStatus {
	return MuteStatus{one.Device, one.By, one.Note, one.until(m.clock()), one.ends.Sub(m.now()).Seconds()}
}

func (m *mutes) status() (list []MuteStatus) {
	for _, one := range m.shelf.list() {
		list = append(list, m.statusOf(one))
	}
	return list
}

// shown is what status says of a muted device.
func (m *mutes) shown(device string) string {
	if one, ok := m.shelf.get(device); ok {
		return m.describe(one)
	}
	return ""
}

func printMutes(out io.Writer, list []MuteStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MUTED\tBY\tUNTIL\tLEFT\tNOTE\t")
	for _, m := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", m.Device, m.By, m.Until.Local().Format(time.DateTime), brief(m.Left), m.Note)
	}
	return w.Flush()
}

func newMute(opts *options) *cobra.Command {
	var req muteRequest
	var asJSON bool
	var length string
	cmd := &cobra.Command{
		Use:               "mute [DEVICE --for TIME [--note TEXT] | DEVICE --end]",
		ValidArgsFunction: completeDevice(opts),
		Short:             "Set a device aside that is under repair, for some time",
		Long: `mute has the gateway not ask a device while somebody works on it. Its status is
"maintenance", with the note; its values are null; nothing is logged of it; and
commands to it over MQTT are refused with a reason that names who muted it. The
others on its bus are read as if it were not there. "gateway read" and "gateway
write" reach it all the same.

A mute outlives restarts and reboots. When its time is over, or "--end" ends it,
the device is read at once, set up, and what is held is written again. Without
DEVICE all that are muted are listed.`,
		Example: `  gateway mute boiler --for 2h --note "fan is replaced, Anna"
  gateway mute boiler --end
  gateway mute`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			socket := controlPath(opts.state)
			if len(args) == 0 {
				if req.End || length != "" || req.Note != "" {
					return usageError("say which device: gateway mute DEVICE --for 2h")
				}
				var s Status
				if err := askRunning(cmd.Context(), socket, "/status", nil, &s); err != nil {
					return err
				}
				return printList(s.Mutes, asJSON, "no device is muted", printMutes)
			}
			var err error
			if req.Device = args[0]; req.End && (length != "" || req.Note != "") {
				return usageError("--end takes no --for and no --note")
			} else if !req.End {
				if req.For, err = parseHoldTime(length); err != nil {
					return err
				}
			}
			var m MuteStatus
			if err := askRunning(cmd.Context(), socket, "/mute", req, &m); err != nil {
				return err
			}
			switch {
			case asJSON:
				return json.NewEncoder(os.Stdout).Encode(m)
			case req.End:
				fmt.Printf("%s is asked again.\n", m.Device)
			default:
				fmt.Printf("%s is muted until %s: it is not asked, and commands over MQTT are refused. `gateway mute %[1]s --end` ends that sooner.\n", m.Device, m.Until.Local().Format(time.DateTime))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&length, "for", "", "how long: 1s to 90d, such as 30m, 2h, 1h30m or 3d")
	cmd.Flags().StringVar(&req.Note, "note", "", "why, for whoever wonders")
	cmd.Flags().BoolVar(&req.End, "end", false, "ask the device again")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printList prints what there is, or says that there is nothing.
func printList[T any](list []T, asJSON bool, none string, print func(io.Writer, []T) error) error {
	switch {
	case asJSON:
		return json.NewEncoder(os.Stdout).Encode(append([]T{}, list...))
	case len(list) == 0:
		fmt.Fprintln(os.Stderr, none)
		return nil
	}
	return print(os.Stdout, list)
}
