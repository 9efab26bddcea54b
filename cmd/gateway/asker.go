package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix" // whether standard error is a terminal

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// An asker reads registers of units that need not be configured, through the
// running gateway or on a line of its own. One goroutine uses it.
type asker struct {
	bus     string // how the TOML that is printed names it
	read    func(context.Context, readRequest) ([]pointResult, error)
	timeout time.Duration // 0: the line's
	live    bool          // the bus is in use by the running gateway
	close   func()
}

// An askError is why registers could not be read.
type askError struct{ cause, detail string }

func (e *askError) Error() string { return e.detail }

// silentCauses are those of which no unit is behind.
var silentCauses = map[string]bool{
	devices.ErrTimeout.Error():                                     true,
	(&modbus.Exception{Code: modbus.GatewayPath}).Cause():          true,
	(&modbus.Exception{Code: modbus.GatewayTargetSilence}).Cause(): true,
}

// A reply is what came of one question.
type reply uint8

const (
	answered reply = iota // with registers or an exception
	silent
	broken // bytes came that are no answer
	noPort
	unasked // the question was not sent
)

// replyOf tells what err, of registers, says of the unit.
func replyOf(err error) reply {
	e, ok := errors.AsType[*askError](err)
	switch {
	case !ok:
		return map[bool]reply{true: answered, false: unasked}[err == nil]
	case silentCauses[e.cause]:
		return silent
	case e.cause == devices.ErrReply.Error():
		return broken
	case e.cause == devices.ErrPort.Error():
		return noPort
	}
	return answered
}

// registers reads r of a unit in one request. Its error is an *askError, or
// says that nothing could be asked.
func (a *asker) registers(ctx context.Context, unit byte, r modbus.Register) ([]byte, error) {
	start := time.Now()
	results, err := a.read(ctx, readRequest{
		Target: fmt.Sprintf("%s/%d", a.bus, unit), Source: fmt.Sprintf("%v:%d", r.Table, r.Address),
		Type: fmt.Sprintf("bytes(%d)", 2*max(1, int(r.Count))), Timeout: a.timeout,
	})
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("bus %s: no result", a.bus)
	}
	if e := results[0].Error; e != "" {
		err = &askError{e, results[0].Detail}
		if a.live && replyOf(err) != answered { // leave half of the time to those who answer
			devices.Sleep(ctx, time.Since(start))
		}
		return nil, err
	}
	return parseRegisters(results[0].Raw)
}

// insist is registers, asked a second time if nothing or nothing whole came:
// one spoiled byte is no reason to think that a unit is gone.
func (a *asker) insist(ctx context.Context, unit byte, r modbus.Register) ([]byte, error) {
	raw, err := a.registers(ctx, unit, r)
	if answer := replyOf(err); err != nil && (answer == silent || answer == broken) && ctx.Err() == nil {
		return a.registers(ctx, unit, r)
	}
	return raw, err
}

// liveAsker asks on a bus of the running gateway.
func liveAsker(socket, bus string) *asker {
	return &asker{bus: bus, live: true, close: func() {}, read: func(ctx context.Context, req readRequest) (results []pointResult, err error) {
		return results, ask(ctx, socket, "/read", req, &results)
	}}
}

// lineAsker asks on a line that nobody else uses any more.
func lineAsker(bus string, cfg modbus.Config) (*asker, error) {
	cfg.Unanswered = new(modbus.Unanswered)
	line, err := modbus.NewLine(cfg)
	if err != nil {
		return nil, fmt.Errorf("bus %s: %w", bus, err)
	}
	p := &plant{
		cfg: new(config.Config), buses: map[string]*plantBus{bus: ownBus(line)},
		clock: func() broker.Clock { return broker.Clock{} }, seen: (*devices.Batch).Release,
	}
	return &asker{bus: bus, read: p.read, close: func() { line.Close() }}, nil
}

// A busPlace is a bus that a command names, and how it can be reached.
type busPlace struct {
	bus    string                     // of the configuration, or made up of its address
	cfg    modbus.Config              // to open it
	socket string                     // of the gateway that uses it; "": none does
	known  map[byte][]*mapping.Device // that are configured on it
	listed bool                       // it stands in the configuration
}

func (p *busPlace) asker() (*asker, error) {
	if p.socket != "" {
		return liveAsker(p.socket, p.bus), nil
	}
	return lineAsker(p.bus, p.cfg)
}

// A busFinder finds buses by their name or address, in the configuration and
// in the running gateway.
type busFinder struct {
	cfg     *config.Config       // nil: there is none that can be used
	report  *config.Report       // of the configuration
	status  *Status              // of the running gateway; nil: none runs
	running map[string]BusStatus // that it has
	socket  string
}

func newBusFinder(ctx context.Context, opts *options) (*busFinder, error) {
	f := &busFinder{running: map[string]BusStatus{}, socket: controlPath(opts.state)}
	var status Status
	err := ask(ctx, f.socket, "/status", nil, &status)
	if err != nil && !errors.Is(err, errNotRunning) {
		return nil, err
	}
	if err == nil {
		f.status = &status
	}
	for _, b := range status.Buses {
		f.running[b.Bus] = b
	}
	f.cfg, f.report = config.Load(opts.config, config.Options{SecretsElsewhere: true})
	return f, nil
}

// names lists the buses that can be named.
func (f *busFinder) names() string {
	if f.cfg == nil {
		return "none, as there is no configuration without errors; see `gateway check`"
	}
	var ids []string
	for _, b := range f.cfg.Buses {
		if b.Protocol == config.Modbus {
			ids = append(ids, b.ID)
		}
	}
	return strings.Join(ids, ", ")
}

// find returns the Modbus bus with this name or address, nil if there is none.
func (f *busFinder) find(name string) *busPlace {
	if f.cfg == nil { // not for the eyes of this user, perhaps
		if b, ok := f.running[name]; ok && b.Protocol == config.Modbus {
			return &busPlace{bus: name, cfg: modbus.Config{URL: b.Address}, socket: f.socket, listed: true}
		}
		return nil
	}
	for _, b := range f.cfg.Buses {
		if b.Protocol != config.Modbus || b.ID != name && !sameAddress(b.Address, name) {
			continue
		}
		p := &busPlace{bus: b.ID, cfg: b.Modbus, known: map[byte][]*mapping.Device{}, listed: true}
		if now, ok := f.running[b.ID]; ok && now.Address == b.Address { // else a reload is yet to come
			p.socket = f.socket
		}
		for _, dev := range b.Devices {
			if u, ok := dev.Unit.(modbus.Unit); ok {
				p.known[u.ID] = append(p.known[u.ID], dev)
			}
		}
		return p
	}
	return nil
}

// sameAddress reports whether name is the address of a bus, a host of it, or
// another name of its port.
func sameAddress(address, name string) bool {
	if address == name || address == "tcp://"+name {
		return true
	}
	if !strings.HasPrefix(address, "/") || !strings.HasPrefix(name, "/") {
		return false
	}
	a, err := filepath.EvalSymlinks(address)
	b, err2 := filepath.EvalSymlinks(name)
	return err == nil && err2 == nil && a == b
}

// A progress is a line on the terminal that is written again and again; it is
// nothing where standard error is no terminal.
type progress struct {
	on   bool
	last time.Time
}

func newProgress() *progress {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return &progress{on: err == nil && os.Getenv("TERM") != "dumb"}
}

func (p *progress) show(format string, args ...any) {
	if p.on && time.Since(p.last) > 100*time.Millisecond {
		p.last = time.Now()
		fmt.Fprintf(os.Stderr, "\r"+format+"\x1b[K", args...)
	}
}

func (p *progress) end() {
	if p.on {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}
