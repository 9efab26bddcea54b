package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

func newSimulate(opts *options) *cobra.Command {
	var only, faults []string
	var site string
	var seed uint64
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Serve the devices of a configuration over the real protocols",
		Long: `simulate reads a configuration and plays its devices: Modbus TCP on loopback,
Modbus RTU and line sensors on pseudo-terminals paced to their baud rate, with
values that move plausibly and writes that have an effect. Other programs can
read it as well.

A bus whose address is on this machine is served there. For any other, simulate
chooses an address and says what to put into site.toml, which --site writes:

  gateway simulate --config DIR --site DIR/site.toml

A plant that misbehaves shows what the gateway makes of it:

  gateway simulate --fault rs485/7:silent --fault boiler:latency=2s,every=10`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			cfg, err := loadDevices(opts.config)
			if err != nil {
				return err
			}
			wrong, err := parseFaults(cfg, faults)
			if err != nil {
				return err
			}
			return simulate(ctx, cfg, wrong, only, site, seed)
		},
	}
	cmd.Flags().StringSliceVar(&only, "bus", nil, "serve only these buses")
	cmd.Flags().StringArrayVar(&faults, "fault", nil, faultHelp)
	cmd.Flags().StringVar(&site, "site", "", "write the addresses to this file, and remove it at the end")
	cmd.Flags().Uint64Var(&seed, "seed", 1, "another seed, another plant")
	return cmd
}

func simulate(ctx context.Context, cfg *config.Config, faults []simFault, only []string, site string, seed uint64) error {
	plan, err := simulatorConfig(cfg, only)
	if err != nil {
		return err
	}
	plan.Seed = seed
	plan.Log = newLogger(slog.LevelInfo)
	sim, err := simulator.New(plan)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { failed <- sim.Run(ctx) }()
	select {
	case <-sim.Ready():
	case err := <-failed:
		return err
	}
	if err := setFaults(sim, faults); err != nil { // once all buses are up: an unplugged one never would be
		return err
	}
	overlay := overlayFor(cfg, sim.Addresses())
	for _, b := range plan.Buses {
		fmt.Printf("bus %s: %d devices at %s\n", b.Name, len(b.Devices), sim.Addresses()[b.Name])
	}
	for _, f := range faults {
		fmt.Printf("fault %s\n", f.text)
	}
	if err := tellOverlay(os.Stdout, overlay, site); err != nil {
		return err
	}
	if site != "" && overlay != "" {
		defer os.Remove(site)
	}
	return <-failed
}

// simulatorConfig turns the buses of a configuration into those of a plant.
func simulatorConfig(cfg *config.Config, only []string) (simulator.Config, error) {
	var plan simulator.Config
	wanted := map[string]bool{}
	for _, name := range only {
		wanted[name] = true
	}
	for _, b := range cfg.Buses {
		if len(b.Devices) == 0 || len(only) > 0 && !wanted[b.ID] {
			continue
		}
		delete(wanted, b.ID)
		plan.Buses = append(plan.Buses, simulatorBus(b))
	}
	for name := range wanted {
		return plan, usageError("--bus %s: there is no such bus with devices", name)
	}
	if len(plan.Buses) == 0 {
		return plan, errors.New("simulate: the configuration has no devices")
	}
	return plan, nil
}

func simulatorBus(b *config.Bus) simulator.Bus {
	s := simulator.Bus{Name: b.ID, Lenient: true}
	for _, dev := range b.Devices {
		s.Devices = append(s.Devices, withSetup(dev))
	}
	u, err := url.Parse(b.Address)
	serial := err != nil || u.Host == ""
	switch {
	case b.Protocol != config.Modbus:
		s.Kind, s.Framing, s.Poll = simulator.Lines, b.Lines.Framing, b.Lines.Poll
		s.Baud, s.Format = b.Lines.Serial.Baud, b.Lines.Serial.Format
	case serial:
		s.Kind = simulator.RTU
		s.Baud, s.Format = b.Modbus.Serial.Baud, b.Modbus.Serial.Format
	default:
		s.Kind = simulator.TCP
		if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsLoopback() || u.Hostname() == "localhost" {
			s.Listen = u.Host
		}
	}
	if serial && linkable(b.Address) {
		s.Link = b.Address
	}
	return s
}

// withSetup returns dev with the registers of its set-up, which bear what is
// written there.
func withSetup(dev *mapping.Device) *mapping.Device {
	if len(dev.Setup) == 0 {
		return dev
	}
	far, seam := *dev, *dev.Device
	far.Device, far.Points, seam.Points = &seam, slices.Clone(dev.Points), slices.Clone(dev.Device.Points)
	for _, set := range dev.Setup {
		if i := slices.IndexFunc(far.Points, func(p *mapping.Point) bool { return p.Point == set.Point.Point }); i < 0 {
			far.Points, seam.Points = append(far.Points, set.Point), append(seam.Points, set.Point.Point)
		} else if far.Points[i].Write == nil {
			far.Points[i] = set.Point
		}
	}
	return &far
}

// linkable reports whether a pseudo-terminal may appear under this path: it
// is free, and not among the real devices.
func linkable(path string) bool {
	if strings.HasPrefix(path, "/dev/") {
		return false
	}
	info, err := os.Lstat(path)
	if err == nil {
		return info.Mode()&os.ModeSymlink != 0 // left by a simulator before
	}
	return writable(filepath.Dir(path))
}

// overlayFor returns the lines of site.toml that lead the gateway to the
// simulated buses, "" if all are where the configuration says.
func overlayFor(cfg *config.Config, addresses map[string]string) string {
	var text strings.Builder
	for _, b := range cfg.Buses {
		address := addresses[b.ID]
		if address == "" || address == b.Address || address == "tcp://"+strings.TrimPrefix(b.Address, "tcp://") {
			continue
		}
		if b.ID != b.Address {
			fmt.Fprintf(&text, "[bus.%q]\naddress = %q\n", b.ID, address)
			continue
		}
		for _, dev := range b.Devices { // a bus that only devices name, by its URL
			fmt.Fprintf(&text, "[device.%q]\nbus = %q\n", dev.ID, address)
		}
	}
	return text.String()
}

func tellOverlay(out io.Writer, overlay, site string) error {
	switch {
	case overlay == "":
		fmt.Fprintln(out, "All buses are where the configuration says.")
		return nil
	case site == "":
		fmt.Fprintf(out, "\nFor the gateway to find them, put this into site.toml beside gateway.toml:\n\n%s", overlay)
		return nil
	}
	f, err := os.OpenFile(site, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write the addresses: %w; an existing file is not replaced", err)
	}
	if _, err := f.WriteString(overlay); err != nil {
		f.Close()
		return fmt.Errorf("write the addresses: %w", err)
	}
	fmt.Fprintf(out, "The addresses are in %s while this runs.\n", site)
	return f.Close()
}
