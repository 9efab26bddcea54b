package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"edgegateway/devices/capture"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
)

// A decoding prints a capture for people.
type decoding struct {
	w        io.Writer
	h        capture.Header
	char     time.Duration // on the line; 0: not a serial one
	end      time.Duration // of the last frame on the line
	begun    bool
	units    map[byte]*unitTally
	requests int
	noise    int // bytes
	places   int // of noise
	bad      int // lines whose checksum is wrong
	frames   int // that were received
	strays   int
	lost     int // times that the port was
	missed   uint64
}

// A unitTally is how one unit did.
type unitTally struct {
	requests, answers, exceptions, silent, spoiled int
	took, slowest                                  time.Duration // all together, the longest
	what                                           string        // took that long
}

// decodeCapture prints c.
func decodeCapture(w io.Writer, c *capture.Capture) {
	line := serial.Config{Baud: c.Baud, Format: c.Format}
	d := &decoding{w: w, h: c.Header, char: line.CharTime(), units: map[byte]*unitTally{}}
	d.head(line)
	f := newFramer(c.Header, d.frame)
	var last time.Duration
	for _, e := range c.Events {
		last = e.At
		if f.Add(e); e.Kind == capture.Ended {
			f.End(e.At)
		}
		d.event(e)
	}
	f.End(last)
	d.sum(last)
}

func (d *decoding) head(line serial.Config) {
	fmt.Fprintf(d.w, "bus %s at %s, %s (%s)", d.h.Bus, d.h.Address, d.h.Protocol, d.h.Framing)
	if d.char > 0 {
		fmt.Fprintf(d.w, ", %d %s: a character takes %s, and at least %s of silence are between two frames", line.Baud, cmp.Or(line.Format, serial.DefaultFormat), millis(d.char), millis(line.Silence35()))
	}
	fmt.Fprintf(d.w, "\nfrom %s UTC (clock: %s), recorded by gateway %s\n\n", d.h.Start.Format("2006-01-02 15:04:05.000"), d.h.Clock, d.h.Gateway)
	fmt.Fprintf(d.w, "%12s  %9s     %4s\n", "SECONDS", "PAUSE", "UNIT")
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// pause is how long the line was silent before f, in characters where it has a
// speed.
func (d *decoding) pause(f *modbus.Frame) string {
	began, end := f.First, f.Last
	if wire := time.Duration(len(f.Data)) * d.char; f.Sent {
		end = f.First + wire
	} else {
		began = min(began, f.Last-wire)
	}
	gap, first := max(0, began-d.end), !d.begun
	d.begun, d.end = true, max(d.end, end)
	switch {
	case first:
		return ""
	case d.char > 0 && gap < 1000*d.char:
		return fmt.Sprintf("%.1f ch", float64(gap)/float64(d.char))
	}
	return millis(gap)
}

const oddPause = 20 * time.Millisecond // within a frame; shorter ones are made by adapters

func (d *decoding) frame(f modbus.Frame) {
	arrow, unit, pause, text := "<", "", "", f.Text
	if f.Sent {
		arrow = ">"
	}
	if f.HasUnit {
		unit = fmt.Sprint(f.Unit)
	}
	if f.Kind == modbus.FrameUnanswered {
		arrow = "-"
	} else {
		pause = d.pause(&f)
	}
	if f.Kind == modbus.FrameNoise || f.Kind == modbus.FrameSpoiled && f.HasUnit || f.Kind == modbus.FrameStray {
		text = fmt.Sprintf("%s   [% X%s]", text, f.Data[:min(len(f.Data), 32)], map[bool]string{true: " …"}[len(f.Data) > 32])
	}
	if f.Took > 0 {
		text += "   after " + millis(f.Took)
	}
	if f.Pause > oddPause {
		text += fmt.Sprintf("   with a pause of %s within", millis(f.Pause))
	}
	d.row(f.Last, pause, arrow, unit, text)
	d.count(&f)
}

func (d *decoding) row(at time.Duration, pause, arrow, unit, text string) {
	fmt.Fprintf(d.w, "%12.6f  %9s  %s  %4s  %s\n", at.Seconds(), pause, arrow, unit, text)
}

// event prints what is no data.
func (d *decoding) event(e capture.Event) {
	text := ""
	switch e.Kind {
	case capture.Opened:
		text = "the port was opened"
	case capture.Closed:
		text = "the port was closed"
	case capture.Failed:
		text = e.Text
		d.lost++
	case capture.Speed:
		text = fmt.Sprintf("the speed was changed to %d baud", e.Baud)
		d.char = serial.Config{Baud: e.Baud, Format: d.h.Format}.CharTime()
	case capture.Missed:
		text = fmt.Sprintf("%d events with %d bytes were not recorded: the capture was too slow", e.Count, e.Bytes)
		d.missed += e.Count
	case capture.Ended:
		text = "the capture ends: " + e.Text
	default:
		return
	}
	d.row(e.At, "", "*", "", text)
}

func (d *decoding) count(f *modbus.Frame) {
	switch f.Kind {
	case modbus.FrameNoise:
		d.noise, d.places = d.noise+len(f.Data), d.places+1
		return
	case modbus.FrameStray:
		d.strays++
		return
	}
	if !f.Sent && f.Kind != modbus.FrameUnanswered && f.Kind != modbus.FrameEcho {
		d.frames++
	}
	if !f.HasUnit {
		if f.Kind == modbus.FrameSpoiled {
			d.bad++
		}
		return
	}
	u := d.units[f.Unit]
	if u == nil {
		u = new(unitTally)
		d.units[f.Unit] = u
	}
	switch f.Kind {
	case modbus.FrameRequest:
		u.requests++
		d.requests++
	case modbus.FrameUnanswered:
		u.silent++
	case modbus.FrameSpoiled:
		u.spoiled++
	case modbus.FrameException, modbus.FrameAnswer:
		u.answers++
		if f.Kind == modbus.FrameException {
			u.exceptions++
		}
		if u.took += f.Took; f.Took > u.slowest {
			u.slowest, u.what = f.Took, f.Question
		}
	}
}

// sum prints how it went.
func (d *decoding) sum(length time.Duration) {
	what, n := "request", d.requests
	if len(d.units) == 0 {
		n, what = d.frames, map[bool]string{true: "line", false: "frame"}[d.h.Framing == capture.Text]
	}
	fmt.Fprintf(d.w, "\n%s in %.1f s", count(n, what), length.Seconds())
	for _, n := range []struct {
		n    int
		text string
	}{{d.bad, "with a wrong checksum"}, {d.noise, fmt.Sprintf("bytes of noise in %s", count(d.places, "place"))}, {d.strays, "frames that nobody waited for"},
		{d.lost, "times the port was lost or could not be opened"}, {int(d.missed), "events NOT RECORDED"}} {
		if n.n > 0 {
			fmt.Fprintf(d.w, ", %d %s", n.n, n.text)
		}
	}
	fmt.Fprintln(d.w)
	if len(d.units) == 0 {
		return
	}
	w := tabwriter.NewWriter(d.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nUNIT\tREQUESTS\tANSWERED\tEXCEPTIONS\tNO ANSWER\tWRONG\tMEAN\tSLOWEST\t")
	slowest, ids := -1, slices.Sorted(maps.Keys(d.units))
	for _, id := range ids {
		u := d.units[id]
		mean, most := "-", "-"
		if u.answers > 0 {
			mean, most = millis(u.took/time.Duration(u.answers)), fmt.Sprintf("%s (%s)", millis(u.slowest), u.what)
			if slowest < 0 || u.slowest > d.units[byte(slowest)].slowest {
				slowest = int(id)
			}
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t\n", id, u.requests, u.answers, u.exceptions, u.silent, u.spoiled, mean, most)
	}
	w.Flush()
	fmt.Fprintln(d.w)
	if slowest >= 0 && len(ids) > 1 {
		fmt.Fprintf(d.w, "The slowest is unit %d.\n", slowest)
	}
	for _, id := range ids {
		switch u := d.units[id]; {
		case u.requests > 0 && u.answers+u.spoiled == 0 && u.silent > 0:
			fmt.Fprintf(d.w, "Unit %d never answered: check its power, wiring (A and B), unit id, baud rate and format.\n", id)
		case u.spoiled > 0:
			fmt.Fprintf(d.w, "Unit %d: %s wrong: noise, missing termination, or two units with one id.\n", id, count(u.spoiled, "answer"))
		}
	}
}
