package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// What is wrong on a bus is in the figures: whether anything comes at all, of
// what kind, and from whom. A diagnosis says it in the words of whoever stands
// before the cabinet. Its sentences hold no numbers that move, so that they
// are logged when they change and not each time.

// A diagnosis is what is wrong on one bus; the zero diagnosis is nothing.
type diagnosis struct {
	bus     string            // of all of it
	devices map[string]string // by ID, of single ones while others are well
}

// symptoms are what happened on a bus within some time.
type symptoms struct {
	name    string
	tty     bool // a port of this machine
	behind  bool // a serial line behind a gateway
	line    modbus.Stats
	figures devices.BusStats
}

// undecided reports whether nobody has answered yet, and not everybody has been
// asked often enough.
func (s *symptoms) undecided() bool {
	answering, silent, asked := s.count()
	return !s.figures.PortDown && answering == 0 && silent < asked
}

// count returns how many devices answer, how many do not, and how many
// should.
func (s *symptoms) count() (answering, silent, asked int) {
	for _, d := range s.figures.Devices {
		switch d.State {
		case devices.Online, devices.Stale:
			answering++
		case devices.Offline:
			silent++
		}
		if d.State != devices.Maintenance {
			asked++
		}
	}
	return answering, silent, asked
}

// diagnose draws the conclusions.
func diagnose(s symptoms) diagnosis {
	answering, silent, _ := s.count()
	if s.figures.PortDown || silent == 0 || s.undecided() { // the port's own error says it
		return diagnosis{}
	}
	if answering == 0 {
		return diagnosis{bus: s.nobody()}
	}
	found := diagnosis{devices: map[string]string{}}
	for _, d := range s.figures.Devices {
		if d.State == devices.Offline {
			found.devices[d.Device] = s.one(d)
		}
	}
	return found
}

// nobody says what it means that no unit answers.
func (s *symptoms) nobody() string {
	bytes := s.line.CRCErrors + s.line.BadReplies
	scan := fmt.Sprintf("try `gateway scan %s --speeds all`", s.name)
	switch port := s.line.Port; {
	case port != nil && port.Parity > port.Frame:
		return "bytes come, but broken: the port counts parity errors, so the speed is right and the parity (format) is another one; " + scan
	case port != nil && port.Frame > 0:
		return "bytes come, but broken: the port counts framing errors, so the speed is another one, or A and B are swapped; " + scan
	case s.line.Exceptions > 0 && !s.tty:
		return "the gateway answers that it cannot reach any unit: check its serial settings, and A and B of the line behind it"
	case bytes > 0 && s.tty:
		return "bytes come, but no whole answer from anybody: speed or parity is another one, or A and B are swapped; " + scan
	case bytes > 0:
		return "answers come, but none is right: is it Modbus, and this kind of it?"
	case s.tty && s.line.Received > 0:
		return "nothing comes back but what is sent (echo): the line is open behind the adapter, or no device is on it"
	case s.tty:
		return "nobody answers, and not a byte comes: check the power of the devices, A and B (swap them), the adapter's direction control, and the speed"
	case s.behind:
		return "the gateway takes connections, but nothing comes back: check its serial settings, and A and B of the line behind it"
	}
	return "the host takes connections, but no unit answers: check the unit ids"
}

// one says what it means that a unit is away while others are not.
func (s *symptoms) one(d devices.DeviceStats) string {
	switch {
	case strings.HasSuffix(d.LastError, devices.ErrReply.Error()) && (s.tty || s.behind):
		return "it answers, but broken, while others on the bus are clean: probably two devices share its unit id, or its stub of the cable is bad"
	case s.tty || s.behind:
		return "it is silent while others on the bus answer, so port, speed and adapter are right: check its power, its unit id, and A and B at its terminals"
	}
	return "it is silent while other units of this address answer: check its unit id"
}

// A snapshot is the figures of a bus at one moment.
type snapshot struct {
	at      devices.Stamp
	figures devices.BusStats
	line    modbus.Stats
}

// since returns what has happened on a bus since then.
func (n *snapshot) since(then *snapshot, b *config.Bus) symptoms {
	line := n.line
	line.Requests -= then.line.Requests
	line.CRCErrors -= then.line.CRCErrors
	line.BadReplies -= then.line.BadReplies
	line.Exceptions -= then.line.Exceptions
	line.Received -= then.line.Received
	if p, before := line.Port, then.line.Port; p != nil && before != nil && line.Opened == then.line.Opened {
		line.Port = &devices.PortStats{Frame: p.Frame - before.Frame, Parity: p.Parity - before.Parity}
	}
	figures := n.figures
	figures.Devices = slices.DeleteFunc(slices.Clone(figures.Devices), func(d devices.DeviceStats) bool {
		return slices.ContainsFunc(b.Devices, func(dev *mapping.Device) bool { return dev.ID == d.Device && dev.WrittenOnly() })
	})
	return symptoms{
		name: b.ID, tty: !strings.Contains(b.Address, "://"), behind: b.Modbus.Behind != nil,
		line: line, figures: figures,
	}
}

// How much has to have happened before something is concluded: so many
// requests, or any in so long a time, as devices that are silent are hardly
// asked.
const (
	fewRequests = 3
	longTime    = 2 * time.Minute
)

// A diagnoser looks at the figures of one bus now and then.
type diagnoser struct {
	bus    *config.Bus
	figure func() devices.BusStats
	line   func() modbus.Stats
	log    *slog.Logger
	excuse func() bool               // nothing is concluded from silence; nil: never so
	found  atomic.Pointer[diagnosis] // for anyone
	then   *snapshot                 // run's alone, as what follows
	told   map[string]telling        // by device, "" for the bus
}

// A telling is what was logged, and when it was last found so.
type telling struct {
	text string
	last devices.Stamp
}

// newDiagnoser returns a diagnoser of a bus, nil if it speaks by itself.
func newDiagnoser(b *bus, line devices.Line, log *slog.Logger) *diagnoser {
	l, ok := line.(*modbus.Line)
	if !ok {
		return nil
	}
	d := &diagnoser{bus: b.Bus, figure: b.poller.Stats, line: l.Stats, log: log, told: map[string]telling{}}
	d.found.Store(&diagnosis{})
	return d
}

// run looks every two seconds until ctx is done.
func (d *diagnoser) run(ctx context.Context) error {
	d.then = d.snapshot()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			d.look(d.snapshot())
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *diagnoser) snapshot() *snapshot {
	return &snapshot{at: devices.Now(), figures: d.figure(), line: d.line()}
}

// look concludes, if enough has happened.
func (d *diagnoser) look(now *snapshot) {
	s := now.since(d.then, d.bus)
	if n := s.line.Requests; !now.figures.PortDown && n < fewRequests && (n == 0 || now.at.Sub(d.then.at) < longTime) {
		return
	}
	if s.undecided() || d.excuse != nil && d.excuse() {
		return // so that what happened until all have been asked counts together
	}
	d.then = now
	found := diagnose(s)
	if others := othersOn(d.bus.Address, os.Getpid()); found.bus != "" && others != "" {
		found.bus = others + throughGateway
	}
	d.found.Store(&found)
	texts := maps.Clone(found.devices)
	if found.bus != "" {
		texts = map[string]string{"": found.bus}
	}
	for device, text := range texts {
		d.tell(device, text, now.at)
	}
}

// tellAgain is for how long something must not have been found to be logged
// anew: what comes and goes is logged once.
const tellAgain = 10 * time.Minute

func (d *diagnoser) tell(device, text string, now devices.Stamp) {
	old := d.told[device]
	d.told[device] = telling{text, now}
	if old.text == text && now.Sub(old.last) < tellAgain {
		return
	}
	log := d.log.With("bus", d.bus.ID)
	if device == "" {
		log.Warn("trouble on the bus: " + text)
		return
	}
	for _, dev := range d.bus.Devices {
		if dev.ID == device && dev.Unit != nil {
			log = log.With("device", device, "unit", dev.Unit.String())
		}
	}
	log.Warn("trouble with one device: " + text)
}

// hint returns what is known of a device, or with "" of the bus.
func (d *diagnoser) hint(device string) string {
	if d == nil {
		return ""
	}
	found := d.found.Load()
	if device == "" {
		return found.bus
	}
	return found.devices[device]
}
