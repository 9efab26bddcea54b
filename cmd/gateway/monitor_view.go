package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"edgegateway/bridge"
	"edgegateway/devices"
)

// A monitorView is what monitor shows, and where on it one looks.
type monitorView struct {
	status        *Status
	filter        string
	at            time.Time // when status came
	err           error     // why no newer one did
	failed        time.Time // since when
	width, height int
	top           int // the first line that is seen
	color         bool
}

// How a line is set off, besides by its words.
const (
	plain  = ""
	bold   = "1"
	red    = "31"
	yellow = "33"
	cyan   = "36"
)

// A monitorLine is a line of any length.
type monitorLine struct{ text, sgr string }

// show cuts a line to the width. What could steer the terminal is taken out: a
// device may say anything.
func (l monitorLine) show(width int, color bool) string {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, l.text)
	text = strings.TrimRight(clip(text, width), " ")
	if !color || l.sgr == plain {
		return text
	}
	return "\x1b[" + l.sgr + "m" + text + "\x1b[m"
}

// take takes what the gateway answered.
func (v *monitorView) take(s *Status, err error) {
	now := time.Now()
	switch {
	case err == nil:
		v.status, v.at, v.err = s, now, nil
	case v.err == nil:
		v.err, v.failed = err, now
	default:
		v.err = err
	}
}

// press does what a key says and reports whether that is to end.
func (v *monitorView) press(key string) (quit bool) {
	page := max(1, v.height-3)
	switch key {
	case "q", "Q":
		return true
	case "\x1b[A", "k":
		v.top--
	case "\x1b[B", "j":
		v.top++
	case "\x1b[5~", "b":
		v.top -= page
	case "\x1b[6~", " ", "f":
		v.top += page
	case "\x1b[H", "\x1b[1~", "g":
		v.top = 0
	case "\x1b[F", "\x1b[4~", "G":
		v.top = 1 << 30
	}
	return false
}

// frame draws the picture over the one before. It moves top to where there are
// lines.
func (v *monitorView) frame() string {
	lines := v.lines()
	room := max(1, v.height-2)
	v.top = max(0, min(v.top, len(lines)-room))
	seen := lines[v.top:min(len(lines), v.top+room)]
	picture := append([]monitorLine{v.title()}, seen...)
	for len(picture) < v.height-1 {
		picture = append(picture, monitorLine{})
	}
	keys := "q quits"
	if len(lines) > room {
		keys = fmt.Sprintf("q quits  arrows scroll  lines %d-%d of %d", v.top+1, v.top+len(seen), len(lines))
	}
	picture = append(picture, monitorLine{keys, bold})
	picture = picture[:min(len(picture), max(1, v.height))]
	var out strings.Builder
	out.WriteString("\x1b[H")
	for i, l := range picture {
		if i > 0 {
			out.WriteString("\r\n")
		}
		out.WriteString(l.show(v.width, v.color) + "\x1b[K")
	}
	out.WriteString("\x1b[J")
	return out.String()
}

func (v *monitorView) title() monitorLine {
	s := v.status
	if v.err != nil {
		return monitorLine{fmt.Sprintf("%s  NO ANSWER since %s: %s", s.Name, v.failed.Format(time.TimeOnly), v.err), red}
	}
	return monitorLine{fmt.Sprintf("%s  %s  up %s  clock %s", s.Name, v.at.Format(time.TimeOnly), brief(s.Uptime), s.Clock), bold}
}

// lines are all there are below the title: what is few first.
func (v *monitorView) lines() (lines []monitorLine) {
	lines = append(lines, monitorLine{v.summary(), plain})
	if s := v.status; s.Reload != nil && !s.Reload.OK {
		lines = v.wrap(lines, "reload failed, all is as before: "+s.Reload.Error, red)
	}
	if v.status.Writes != "" {
		lines = v.wrap(lines, "commands are refused: they cannot be logged: "+v.status.Writes, red)
	}
	lines = v.addBuses(append(lines, monitorLine{}))
	if len(v.status.Bridges) > 0 {
		lines = v.addBridges(append(lines, monitorLine{}))
		lines = v.addBuffers(append(lines, monitorLine{}))
	}
	return v.addDevices(append(lines, monitorLine{}))
}

// summary counts devices by state.
func (v *monitorView) summary() string {
	n := map[string]int{}
	for _, d := range v.status.Devices {
		n[d.State]++
	}
	var parts []string
	for state := devices.Unknown; state <= devices.Maintenance; state++ {
		if k := n[state.String()]; k > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", k, state))
		}
	}
	text := strings.Join(append([]string{count(len(v.status.Devices), "device")}, parts...), ", ")
	if v.filter != "" {
		text += fmt.Sprintf("  (filter %q)", v.filter)
	}
	return strings.Replace(text, ", ", ": ", 1)
}

// wrap adds text in as many lines as it takes, but no more than four, indented.
func (v *monitorView) wrap(lines []monitorLine, text, sgr string) []monitorLine {
	const indent = "    "
	line := indent
	most := len(lines) + 4
	for word := range strings.FieldsSeq(text) {
		if line != indent && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > v.width {
			if len(lines) == most-1 {
				return append(lines, monitorLine{line + " …", sgr})
			}
			lines, line = append(lines, monitorLine{line, sgr}), indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	return append(lines, monitorLine{line, sgr})
}

// cell makes text n columns wide.
func cell(text string, n int) string { return fmt.Sprintf("%-*s", n, clip(text, n)) }

func (v *monitorView) addBuses(lines []monitorLine) []monitorLine {
	lines = append(lines, monitorLine{cell("BUS", 14) + " STATE    BUSY REQUESTS TIMEOUTS ERRORS  ADDRESS", bold})
	for i := range v.status.Buses {
		b := &v.status.Buses[i]
		state, sgr := "ok", plain
		switch {
		case b.PortDown:
			state, sgr = "no port", red
		case b.Paused:
			state, sgr = "paused", cyan
		case b.Lent != "":
			state, sgr = "lent", cyan
		case b.Hint != "":
			state, sgr = "trouble", red
		}
		lines = append(lines, monitorLine{fmt.Sprintf("%s %-7s %3.0f %% %8d %8d %6d  %s", cell(b.Bus, 14), state, 100*b.Busy, b.Requests, b.Timeouts, b.Errors, short(b.Address, max(12, v.width-55))), sgr})
		if text := b.trouble(); text != "" {
			lines = v.wrap(lines, text, sgr)
		}
	}
	return lines
}

func (v *monitorView) addBridges(lines []monitorLine) []monitorLine {
	lines = append(lines, monitorLine{cell("BRIDGE", 14) + " STATE           FOR  WAITING  DELIVERED  TO", bold})
	for i := range v.status.Bridges {
		b := &v.status.Bridges[i]
		var waiting uint64
		for _, l := range b.Backlog {
			waiting += l.Records
		}
		sgr := plain
		if b.State != bridge.Up {
			sgr = red
		}
		lines = append(lines, monitorLine{fmt.Sprintf("%s %-10s %8s %8d %10d  %s", cell(b.Name, 14), b.State, brief(v.at.Sub(b.Since).Seconds()), waiting, b.Acked, b.URL), sgr})
		if text := bridgeTrouble(b); text != "" {
			lines = v.wrap(lines, text, cmp.Or(sgr, yellow))
		}
	}
	return lines
}

func (v *monitorView) addBuffers(lines []monitorLine) []monitorLine {
	lines = append(lines, monitorLine{cell("BUFFER", 14) + " STATE         ON DISK       OF   DROPPED", bold})
	for _, name := range slices.Sorted(maps.Keys(v.status.Spools)) {
		l := v.status.Spools[name]
		dropped := uint64(0)
		for _, n := range l.Dropped {
			dropped += n
		}
		sgr := plain
		if l.State != "ok" {
			sgr = red
		}
		const MiB = 1 << 20
		lines = append(lines, monitorLine{fmt.Sprintf("%s %-9s %7.1f MiB %4.0f MiB %9d", cell(name, 14), l.State, float64(l.Bytes)/MiB, float64(l.Size)/MiB, dropped), sgr})
	}
	return lines
}

// stateColor sets off what a word says already.
func stateColor(state string) string {
	switch state {
	case devices.Stale.String(), devices.Unknown.String():
		return yellow
	case devices.Offline.String():
		return red
	case devices.Maintenance.String():
		return cyan
	}
	return plain
}

// ageWidth is how wide a terminal has to be for ages.
const ageWidth = 60

// addDevices lists devices by bus, in the order of the configuration: a table
// whose lines move cannot be read.
func (v *monitorView) addDevices(lines []monitorLine) []monitorLine {
	name, value := len("DEVICE.POINT"), 8
	for _, d := range v.status.Devices {
		name = max(name, utf8.RuneCountInString(d.ID))
		for _, p := range d.Points {
			name = max(name, 2+utf8.RuneCountInString(p.Name))
			value = max(value, utf8.RuneCountInString(p.shown()))
		}
	}
	name, value = min(name, max(12, v.width*2/5)), min(value, max(8, v.width/4))
	row := func(label, shown, age, state, sgr string) monitorLine {
		if v.width < ageWidth { // the word is worth more
			return monitorLine{fmt.Sprintf("%s %*s  %s", cell(label, name), value, clip(shown, value), state), sgr}
		}
		return monitorLine{fmt.Sprintf("%s %*s %7s  %s", cell(label, name), value, clip(shown, value), age, state), sgr}
	}
	lines = append(lines, row("DEVICE.POINT", "VALUE", "AGE", "STATE", bold))
	for i := range v.status.Devices {
		d := &v.status.Devices[i]
		lines = append(lines, row(d.ID, "", agoOf(d.LastAnswer), d.State, stateColor(d.State)))
		if text := v.deviceTrouble(d); text != "" {
			lines = v.wrap(lines, text, cmp.Or(stateColor(d.State), yellow))
		}
		for _, p := range d.Points {
			state, sgr := p.Error, red
			if d.State != devices.Online.String() {
				state, sgr = cmp.Or(state, d.State), stateColor(d.State)
			}
			if state == "" {
				sgr = plain
			}
			lines = append(lines, row("  "+p.Name, p.shown(), agoOf(p.Age), state, sgr))
		}
	}
	return lines
}

// deviceTrouble is what to know of a device besides its state and its points,
// unless its bus says it.
func (v *monitorView) deviceTrouble(d *DeviceStatus) string {
	if d.State == devices.Online.String() && d.Muted == "" {
		if len(d.Doubts) > 0 {
			return d.Doubts[0]
		}
		return d.Hint
	}
	busTold := slices.ContainsFunc(v.status.Buses, func(b BusStatus) bool { return b.Bus == d.Bus && b.trouble() != "" })
	if busTold && d.Muted == "" && d.Hint == "" {
		return ""
	}
	return d.trouble()
}

// shown is the value with its unit; a dash where there is none.
func (p *PointStatus) shown() string {
	text := string(p.Value)
	var s string
	switch {
	case text == "" || text == "null":
		return "-"
	case json.Unmarshal(p.Value, &s) == nil:
		text = s
	}
	return strings.TrimSpace(text + " " + p.Unit)
}

func agoOf(seconds *float64) string {
	if seconds == nil {
		return "never"
	}
	return brief(*seconds)
}
