package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// finish has the running gateway take what was written, reads the devices, and
// says where the values are.
func (x *initer) finish(ctx context.Context, cfg *config.Config, found []foundUnit) error {
	taken, err := x.activate(ctx, cfg)
	if err != nil {
		return err
	}
	err = x.readFirst(ctx, cfg, found, taken)
	x.tellNext(cfg, taken)
	return err
}

// activate has the running gateway go by what was written, and reports whether
// it does.
func (x *initer) activate(ctx context.Context, cfg *config.Config) (bool, error) {
	was := x.finder.status
	if was == nil || !x.reload {
		return false, nil
	}
	a := &applier{config: x.opts.config, socket: x.finder.socket, out: x.out}
	text := "Have the running gateway take it?"
	if a.restart = cfg.Name != was.Name; a.restart { // which no reload changes
		if !isService(ctx, was.PID) {
			return false, nil
		}
		text = fmt.Sprintf("The running gateway is called %q until it starts again. Restart it now?", was.Name)
	}
	yes, err := x.sure(ctx, text, true)
	if err != nil || !yes {
		return false, err
	}
	if err := a.activate(ctx); err != nil {
		return false, fmt.Errorf("the files are written, but the running gateway goes on as before: %w", err)
	}
	now, err := x.awaitGateway(ctx, a.restart, was.PID)
	if err != nil {
		return false, err
	}
	for _, dev := range cfg.Devices {
		if !slices.ContainsFunc(now.Devices, func(d DeviceStatus) bool { return d.ID == dev.ID }) {
			return false, fmt.Errorf("the files are written, but the running gateway (process %d) goes by another configuration than %s", now.PID, x.opts.config)
		}
	}
	x.say("The running gateway has taken it.")
	return true, nil
}

// restartTime bounds how long a restart may take.
const restartTime = 30 * time.Second

// awaitGateway returns the state of the running gateway, after a restart that of
// another process than before.
func (x *initer) awaitGateway(ctx context.Context, restarted bool, pid int) (*Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, restartTime, fmt.Errorf("it does not answer %s after its restart: systemctl status gateway", restartTime))
	defer cancel()
	for {
		var s Status
		err := ask(ctx, x.finder.socket, "/status", nil, &s)
		if err == nil && (!restarted || s.PID != pid) {
			return &s, nil
		}
		if !restarted {
			return nil, err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// isService reports whether a process is that of the service.
func isService(ctx context.Context, pid int) bool {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=MainPID", "--value", "gateway").Output()
	return err == nil && strings.TrimSpace(string(out)) == strconv.Itoa(pid)
}

// readFirst reads each device once and shows the first values: through the
// running gateway if that has taken it, else on lines of its own.
func (x *initer) readFirst(ctx context.Context, cfg *config.Config, found []foundUnit, taken bool) error {
	if _, busy := x.finder.running[found[0].Bus]; busy && !taken {
		x.say("The running gateway has the bus, and does not know the new devices yet.")
		return nil
	}
	var a *access
	if taken {
		var err error
		if a, err = reach(ctx, x.opts); err != nil {
			return err
		}
	} else {
		p, closePorts, err := openPlant(cfg)
		if err != nil {
			return err
		}
		a = &access{read: p.read, close: closePorts}
	}
	defer a.close()
	var errs []error
	for _, u := range found {
		dev := deviceOn(cfg, u.device())
		if dev == nil || len(dev.All()) == 0 {
			x.say("\n%s has no points yet. To find the value that its display shows:\n  %s", u.device(), x.line("probe %s --unit %d --like voltage_l1=230", u.Bus, u.Unit))
			continue
		}
		results, err := a.read(ctx, readRequest{Target: dev.ID, Hints: true})
		if err == nil {
			err = errRead(results)
			x.show(dev, results)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", dev.ID, err))
		}
	}
	return errors.Join(errs...)
}

func deviceOn(cfg *config.Config, id string) *mapping.Device {
	i := slices.IndexFunc(cfg.Devices, func(d *mapping.Device) bool { return d.ID == id })
	if i < 0 {
		return nil
	}
	return cfg.Devices[i]
}

// maxShown is how many values of a device are shown: more would push the first
// ones off the screen.
const maxShown = 8

// show prints the first values of a device, those that cannot be right before
// all others.
func (x *initer) show(dev *mapping.Device, results []pointResult) {
	odd := func(r *pointResult) bool {
		p := dev.Point(r.Point)
		raw, err := parseRegisters(r.Raw)
		return r.Hint != "" || p != nil && err == nil && r.Error == "" && beyond(p, raw)
	}
	good := 0
	rank := func(r *pointResult) int {
		switch {
		case odd(r):
			return 0
		case r.Error == "" && string(r.Value) != "null":
			return 1
		}
		return 2
	}
	for i := range results {
		if rank(&results[i]) == 1 {
			good++
		}
	}
	slices.SortStableFunc(results, func(a, b pointResult) int { return cmp.Compare(rank(&a), rank(&b)) })
	x.say("\n%s: %d of %s read", dev.ID, good, count(len(results), "point"))
	w := tabwriter.NewWriter(x.data, 0, 0, 2, ' ', 0)
	for i := range results[:min(maxShown, len(results))] {
		r := &results[i]
		text := r.text()
		if r.Error == "" && odd(r) {
			text += "  (cannot be right)"
		}
		fmt.Fprintf(w, "  %s\t%s\n", r.Point, text)
	}
	w.Flush()
	for _, r := range results {
		if r.Hint != "" {
			x.say("%s", r.Hint)
		}
	}
	if len(results) > maxShown {
		x.say("  … and %d more: %s", len(results)-maxShown, x.line("read %s", dev.ID))
	}
}

// tellNext says where the values appear, and what is to be done for it.
func (x *initer) tellNext(cfg *config.Config, taken bool) {
	service := x.opts.config == defaultConfig && x.host.exists("run/systemd/system")
	switch {
	case taken:
	case x.finder.status != nil && cfg.Name != x.finder.status.Name:
		x.say("\nThe running gateway goes by it after a restart:\n  sudo systemctl restart gateway")
	case x.finder.status != nil:
		x.say("\nThe running gateway goes by it after a reload:\n  sudo systemctl reload gateway")
	case service:
		x.say("\nThe gateway does not run. To start it, now and after each boot:\n  sudo systemctl enable --now gateway")
	default:
		x.say("\nThe gateway does not run. To start it:\n  %s", x.line("run"))
	}
	x.say("The values are in:\n  %s\n  mosquitto_sub%s -t '%s/#' -v", x.line("monitor"), brokerFlags(cfg), cfg.Name)
}

// brokerFlags lead mosquitto_sub to the gateway's broker if it is not where
// everybody looks.
func brokerFlags(cfg *config.Config) string {
	for _, l := range cfg.Listen {
		if l.Network != "tcp" || l.TLS != nil || l.WebSocket {
			continue
		}
		if _, port, ok := strings.Cut(l.Address[strings.LastIndexByte(l.Address, ':'):], ":"); ok && port != "1883" {
			return " -p " + port
		}
		return ""
	}
	return ""
}

// line is a command as it is to be typed for this configuration.
func (x *initer) line(format string, args ...any) string {
	text := "gateway " + fmt.Sprintf(format, args...)
	if x.opts.config != defaultConfig {
		text += " --config " + x.opts.config
	}
	if x.opts.state != defaultState {
		text += " --state " + x.opts.state
	}
	return text
}
