package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"edgegateway/bridge"
	"edgegateway/internal/clock"
	"edgegateway/internal/config"
)

func newBridge(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bridge",
		Short: "Try out a bridge, and show what its far broker refused",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBridgeTest(opts), newBridgeDead(opts))
	return cmd
}

// findBridge returns the bridge with a table key.
func findBridge(cfg *config.Config, name string) (*config.Bridge, error) {
	var names []string
	for _, b := range cfg.Bridges {
		if b.Name == name {
			return b, nil
		}
		names = append(names, b.Name)
	}
	if len(names) == 0 {
		return nil, usageError("there is no bridge %q: the configuration has none", name)
	}
	return nil, usageError("there is no bridge %q; there are: %s", name, strings.Join(names, ", "))
}

func newBridgeTest(opts *options) *cobra.Command {
	var probe bridge.ProbeOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "test NAME",
		ValidArgsFunction: completeBridge(opts),
		Short:             "Walk the way to the far broker step by step: what is wrong, and what to do",
		Long: `test goes the way that a bridge goes, step by step: the name's address, TCP, the
proxy, TLS with the chain, the name and the dates of the certificate, the login,
each subscription of receive and, where --publish asks for it, a message with the
time that its acknowledgement takes. For each step it says what it found, what is
wrong, and what to do. Each URL is tried.

It works beside a running gateway, and nothing of it lasts: it takes the client id
with -test behind it, and its session ends with it. Where the far broker permits
one client id only, --same-id takes that of the bridge itself, which is thrown out
for a moment and comes back by itself.

The exit code is 1 if a step failed.`,
		Example: `  gateway bridge test aws
  gateway bridge test aws --publish dt/plant-a/test`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := loadConfig(opts.config)
			if err != nil {
				return err
			}
			b, err := findBridge(cfg, args[0])
			if err != nil {
				return err
			}
			if b.Preset == "azure-iot-hub" && !probe.SameID {
				return usageError("Azure IoT Hub knows a device by its client id: add --same-id, which throws a running bridge out for a moment")
			}
			probe.Clock = clock.New(cfg.TrustClock).Now
			return testBridge(b, probe, asJSON, os.Stdout)
		},
	}
	cmd.Flags().BoolVar(&probe.SameID, "same-id", false, "take the bridge's own client id, which throws a running bridge out for a moment")
	cmd.Flags().StringArrayVar(&probe.Publish, "publish", nil, "publish a test message to this topic upstream; may be given several times")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object for each step")
	return cmd
}

// stepTime is how long a step may take. A bridge itself waits longer.
const stepTime = 10 * time.Second

func testBridge(b *config.Bridge, probe bridge.ProbeOptions, asJSON bool, out io.Writer) error {
	ctx, stop := withSignals(context.Background())
	defer stop()
	cfg := b.Config
	cfg.ConnectTimeout = stepTime
	encoder, last := json.NewEncoder(out), ""
	ok, err := bridge.Probe(ctx, cfg, probe, func(s bridge.Step) {
		if b.Preset == "nats" && s.OK && strings.HasPrefix(s.Name, "PUBLISH ") {
			s.Found += "; NATS says the same for what it does not permit and drops: its log tells (Publish Violation)"
		}
		if asJSON {
			_ = encoder.Encode(s)
			return
		}
		if s.URL != last {
			fmt.Fprintln(out, s.URL)
			last = s.URL
		}
		printStep(out, &s)
	})
	if err != nil {
		return err
	}
	if !ok {
		return &exitError{code: exitFailed}
	}
	return nil
}

// printStep writes what was found in one line and what is wrong in another.
func printStep(out io.Writer, s *bridge.Step) {
	word := "ok"
	if !s.OK {
		word = "FAIL"
	}
	fmt.Fprintf(out, "  %-4s  %-10s %7.1f ms  %s\n", word, s.Name, float64(s.Took.Microseconds())/1000, s.Found)
	if s.Trouble != "" {
		fmt.Fprintf(out, "        %s\n", s.Trouble)
	}
}

// deadSize bounds the dead letters of a bridge, in bytes.
const deadSize = 1 << 20

// deadLog returns the dead letters of a bridge, which lie in the state folder.
func deadLog(state, name string) *bridge.DeadLog {
	return bridge.NewDeadLog(filepath.Join(state, "dead-"+name+".jsonl"), deadSize)
}

func newBridgeDead(opts *options) *cobra.Command {
	var export, purge bool
	cmd := &cobra.Command{
		Use:               "dead NAME",
		ValidArgsFunction: completeBridge(opts),
		Short:             "Show the messages that the far broker refused and that were given up",
		Long: `dead lists the messages of a bridge that its far broker refused for what they are,
or that it would refuse: not permitted, too large, a topic that it does not take.
They were given up so that they do not hold up the others. The newest MiB of them
is kept, with the reason and as much of the payload as fits; a ? follows the time
if the clock was not synchronised. --export prints them as JSON lines; --purge
removes them. It works on a running gateway, too.`,
		Example: `  gateway bridge dead aws
  gateway bridge dead aws --export > refused.jsonl`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := loadDevices(opts.config)
			if err != nil {
				return err
			}
			if _, err := findBridge(cfg, args[0]); err != nil {
				return err
			}
			log := deadLog(opts.state, args[0])
			if purge {
				return log.Purge()
			}
			list, err := log.Read()
			if err != nil {
				return fmt.Errorf("read the dead letters: %w", err)
			}
			if export {
				return exportDead(os.Stdout, list)
			}
			return printDead(os.Stdout, list)
		},
	}
	cmd.Flags().BoolVar(&export, "export", false, "print them as JSON lines, with their payloads")
	cmd.Flags().BoolVar(&purge, "purge", false, "remove them")
	cmd.MarkFlagsMutuallyExclusive("export", "purge")
	return cmd
}

func exportDead(out io.Writer, list []bridge.Dead) error {
	encoder := json.NewEncoder(out)
	for _, d := range list {
		if err := encoder.Encode(d); err != nil {
			return err
		}
	}
	return nil
}

func printDead(out io.Writer, list []bridge.Dead) error {
	if len(list) == 0 {
		fmt.Fprintln(out, "nothing was refused")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tTOPIC UPSTREAM\tBYTES\tREASON")
	for _, d := range list {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", timeFor(d.Time, d.Clock == ""), d.To, d.Size, d.Reason)
	}
	return w.Flush()
}

// equip fills in what a bridge needs of its surroundings.
func equip(cfg *bridge.Config, settings *config.Bridge, at places) {
	cfg.BootID = bootID()
	cfg.Dead = deadLog(at.state, cfg.Name)
	cfg.DailyFile = filepath.Join(at.runtime, "day-"+cfg.Name+".json")
	if settings.Cert != nil {
		cfg.Certificate = settings.Cert.Leaf
	}
}

// bridgeTrouble says what about a bridge a person may want to know.
func bridgeTrouble(b *bridge.Stats) string {
	refused := uint64(0)
	for _, n := range b.Refused {
		refused += n
	}
	switch {
	case b.State != bridge.Up:
		return b.LastError
	case b.Held > 0:
		return fmt.Sprintf("%d readings wait for the clock to be set, at most %s longer (unsynced): does the computer reach a time server? See `timedatectl`", b.Held, b.HeldFor.Round(time.Second))
	case b.DayLimit > 0 && b.DayBytes >= b.DayLimit:
		return fmt.Sprintf("the day's bytes are spent (daily_bytes = %d): only critical messages go until midnight", b.DayLimit)
	case refused > 0:
		return fmt.Sprintf("%d messages refused and given up; see `gateway bridge dead %s`", refused, b.Name)
	}
	return ""
}
