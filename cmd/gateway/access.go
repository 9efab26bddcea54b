package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/internal/clock"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

func newRead(opts *options) *cobra.Command {
	var req readRequest
	var every time.Duration
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:               "read DEVICE[.POINT] | BUS/UNIT TABLE:ADDRESS[-END] [TYPE]",
		ValidArgsFunction: completePoint(opts, false),
		Short:             "Read values now, with the raw registers beside them",
		Long: `read asks devices now and prints each value with the raw registers it was made of.
It goes through the gateway if that runs, which polls on, and opens the port itself
otherwise. TABLE is coil, discrete, input or holding with an address that counts from
0, or the manual's number stands alone: 30053. TYPE is as in the configuration, u16
without it. The exit code is 1 if nothing could be read.`,
		Example: `  gateway read main                    all points of a device
  gateway read main.power --every 1s   one point, again and again
  gateway read rs485/7 input:52 f32    registers of a unit that has no map yet
  gateway read rs485/7 30053 f32       the same by the manual's number
  gateway read rs485/7 holding:100-120 --all-types
                                       what each register and each pair can mean
  gateway read rs485/7 fifo:200        a queue of registers (function 24)
  gateway read rs485/7 identity        what the unit says of itself (function 43/14)`,
		Args: cobra.RangeArgs(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Target = args[0]
			if len(args) > 1 {
				req.Source = args[1]
			}
			if len(args) > 2 {
				req.Type = args[2]
			}
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			a, err := reach(ctx, opts)
			if err != nil {
				return err
			}
			defer a.close()
			if all {
				if asJSON || every > 0 {
					return usageError("--all-types goes with neither --json nor --every")
				}
				return readAllTypes(ctx, a, req, os.Stdout)
			}
			return readLoop(ctx, a, req, every, asJSON)
		},
	}
	cmd.Flags().StringVar(&req.Order, "order", "", "byte order of a raw read: ABCD, CDAB, BADC or DCBA")
	cmd.Flags().BoolVar(&all, "all-types", false, "show registers in all types and orders that give a number")
	cmd.Flags().DurationVar(&every, "every", 0, "read again and again at this interval, such as 1s, until Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one line for each reading of the target")
	return cmd
}

func newWrite(opts *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "write DEVICE.POINT VALUE",
		ValidArgsFunction: completePoint(opts, true),
		Short:             "Write a value, read it back, and say what became of it",
		Long: `write writes one point that the configuration declares writable, within its limits,
and reads it back. VALUE is what the point publishes: a number in its unit, true or
false, a name of its enum. It goes through the gateway if that runs and opens the port
itself otherwise. The exit code is 1 unless the device holds the value or said that it
took it.`,
		Example: `  gateway write boiler.setpoint 55.5
  gateway write boiler.mode auto
  gateway write boiler.pump true`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			a, err := reach(ctx, opts)
			if err != nil {
				return err
			}
			defer a.close()
			result, err := a.write(ctx, writeRequest{Target: args[0], Value: args[1]})
			if err != nil {
				return err
			}
			return printWrite(result, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return cmd
}

// An access is how a command reaches the devices: through the running gateway
// or by opening the ports itself.
type access struct {
	read  func(context.Context, readRequest) ([]pointResult, error)
	write func(context.Context, writeRequest) (writeResult, error)
	close func()
}

// reach asks the running gateway if there is one, so that nobody has to stop
// it to read a value.
func reach(ctx context.Context, opts *options) (*access, error) {
	socket := controlPath(opts.state)
	var running Status
	err := ask(ctx, socket, "/status", nil, &running)
	switch {
	case err == nil:
		return &access{
			read: func(ctx context.Context, req readRequest) (results []pointResult, err error) {
				return results, ask(ctx, socket, "/read", req, &results)
			},
			write: func(ctx context.Context, req writeRequest) (result writeResult, err error) {
				return result, ask(ctx, socket, "/write", req, &result)
			},
			close: func() {},
		}, nil
	case !errors.Is(err, errNotRunning):
		return nil, err
	}
	cfg, err := loadDevices(opts.config)
	if err != nil {
		return nil, err
	}
	p, closePorts, err := openPlant(cfg)
	if err != nil {
		return nil, err
	}
	return &access{read: p.read, write: p.write, close: closePorts}, nil
}

// openPlant makes a plant whose ports this process opens itself, each with
// the first request for it. It serves one request at a time.
func openPlant(cfg *config.Config) (*plant, func(), error) {
	mapper, err := mapping.New(cfg.Mapping())
	if err != nil {
		return nil, nil, err
	}
	now, ports := clock.New(cfg.TrustClock), new(modbus.Unanswered)
	p := &plant{
		cfg: cfg, mapper: mapper, buses: map[string]*plantBus{},
		clock: func() broker.Clock { return now.Now() },
		seen:  (*devices.Batch).Release,
	}
	for _, settings := range cfg.Buses {
		if settings.Protocol != config.Modbus {
			p.buses[settings.ID] = &plantBus{}
			continue
		}
		settings.Modbus.Unanswered = ports
		line, _, err := openBus(settings, nil, nil)
		if err != nil {
			return nil, nil, err
		}
		p.buses[settings.ID] = ownBus(line)
	}
	return p, func() {
		for _, b := range p.buses {
			if b.line != nil {
				b.line.Close()
			}
		}
	}, nil
}

// ownBus is a bus whose line only this command uses.
func ownBus(line devices.Line) *plantBus {
	b := &plantBus{line: line, do: func(ctx context.Context, q devices.Query, b *devices.Batch) error { return q.Do(ctx, b) }}
	if l, ok := line.(*modbus.Line); ok {
		b.do = warnOthers(l.Address(), b.do)
	}
	return b
}

func readLoop(ctx context.Context, a *access, req readRequest, every time.Duration, asJSON bool) error {
	for first := true; ; first = false {
		req.Hints = first
		results, err := a.read(ctx, req)
		if err != nil {
			return err
		}
		if err := printRead(results, asJSON, first); err != nil || every <= 0 {
			return errors.Join(err, errRead(results))
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return nil
		}
	}
}

// errRead makes the exit code tell whether anything could be read.
func errRead(results []pointResult) error {
	for _, r := range results {
		if r.Error == "" {
			return nil
		}
	}
	if len(results) == 0 {
		return errors.New("nothing was read")
	}
	return errors.New(results[0].Detail)
}

func printRead(results []pointResult, asJSON, header bool) error {
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(results)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	if header {
		fmt.Fprintln(w, "DEVICE\tPOINT\tREGISTER\tRAW\tVALUE\t")
	}
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", r.Device, r.Point, r.Source, r.Raw, r.text())
	}
	for _, r := range results {
		if header && r.Hint != "" {
			fmt.Fprintln(os.Stderr, r.Hint)
		}
	}
	return w.Flush()
}

// text is the value as people read it, or why there is none.
func (r *pointResult) text() string {
	switch {
	case r.Error == "":
		return withUnit(string(r.Value), r.Unit)
	case r.Raw != "" || r.Error == mapping.NotFromOneReading: // what a person can do with it
		return "– " + r.Detail
	}
	return "– " + r.Error
}

func printWrite(r writeResult, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
	} else {
		fmt.Printf("%s.%s: %s", r.Device, r.Point, r.State)
		if string(r.Value) != "null" {
			fmt.Printf(": %s", strings.TrimSpace(string(r.Value)+" "+r.Unit))
		}
		if r.Reason != "" {
			fmt.Printf(": %s", r.Reason)
		}
		fmt.Println()
	}
	if r.State != mapping.Verified.String() && r.State != mapping.Written.String() {
		return &exitError{code: exitFailed}
	}
	return nil
}
