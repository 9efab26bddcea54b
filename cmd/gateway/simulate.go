package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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

	"edgegateway/devices/modbus"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

func newSimulate(opts *options) *cobra.Command {
	var only, faults []string
	var site, role string
	var seed uint64
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Serve the devices of a configuration over the real protocols",
		Long: `simulate reads a configuration and plays its devices as it says: on TCP, TLS or
UDP on loopback, or on pseudo-terminals paced to their baud rate; Modbus in each
of its framings, sensors that speak by themselves, meters that are called. Values
move plausibly and writes have an effect. Other programs can read it as well, on a
serial line at its speed alone; parity is not played, as pseudo-terminals have none.

A bus whose address is on this machine is served there. For any other, simulate
chooses an address and says what to put into site.toml, which --site writes.

For tls:// it makes certificates and says where they are; with --role a client
whose certificate does not carry that role is refused everything (exception 1).
With --fault the plant misbehaves, to show what a gateway makes of it.`,
		Example: `  gateway simulate --config plant --site plant/site.toml
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
			return simulate(ctx, cfg, wrong, only, site, role, seed)
		},
	}
	cmd.Flags().StringSliceVar(&only, "bus", nil, "serve only these buses")
	cmd.Flags().StringArrayVar(&faults, "fault", nil, faultHelp)
	cmd.Flags().StringVar(&site, "site", "", "write the addresses to this file, and remove it at the end")
	cmd.Flags().StringVar(&role, "role", "", "tls:// only: what the client's certificate must say (Modbus/TCP Security)")
	cmd.Flags().Uint64Var(&seed, "seed", 1, "another number, other values")
	return cmd
}

func simulate(ctx context.Context, cfg *config.Config, faults []simFault, only []string, site, role string, seed uint64) error {
	plan, err := simulatorConfig(cfg, only)
	if err != nil {
		return err
	}
	papers, err := issuePapers(&plan, cfg, role)
	if err != nil {
		return err
	}
	defer papers.remove()
	plan.Seed = seed
	plan.Log = plainLogger(slog.LevelInfo)
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
	if err := setFaults(ctx, sim, faults); err != nil { // once all buses are up: an unplugged one never would be
		return err
	}
	overlay := overlayFor(cfg, sim.Addresses(), papers)
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

// carriers are what a bus of the simulator speaks, and on what, by the scheme of
// its URL; "" is a serial port.
var carriers = map[string]struct {
	kind    simulator.Kind
	carrier simulator.Carrier
}{
	"":          {simulator.RTU, simulator.Line},
	"tcp":       {simulator.TCP, simulator.Socket},
	"tls":       {simulator.TCP, simulator.Encrypted},
	"udp":       {simulator.TCP, simulator.Datagrams},
	"rtu+tcp":   {simulator.RTU, simulator.Socket},
	"rtu+udp":   {simulator.RTU, simulator.Datagrams},
	"ascii+tcp": {simulator.ASCII, simulator.Socket},
}

func simulatorBus(b *config.Bus) simulator.Bus {
	scheme, _, isURL := strings.Cut(b.Address, "://")
	if !isURL {
		scheme = ""
	}
	as := carriers[scheme]
	s := simulator.Bus{Name: b.ID, Kind: as.kind, Carrier: as.carrier, Lenient: true}
	line := b.Modbus.Serial
	for _, dev := range b.Devices {
		s.Devices = append(s.Devices, withSetup(dev))
	}
	switch {
	case b.Protocol != config.Modbus:
		s.Kind, s.Framing, s.Polls = simulator.Lines, b.Lines.Framing, b.Lines.Polls
		line = b.Lines.Serial
	case scheme == "" && b.Modbus.Framing == modbus.FramingASCII:
		s.Kind = simulator.ASCII
	}
	s.Behind = b.Modbus.Behind != nil
	s.Baud, s.Format = line.Baud, line.Format
	if u, err := url.Parse(b.Address); err == nil && isURL {
		if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsLoopback() || u.Hostname() == "localhost" {
			s.Listen = u.Host
		}
	}
	if !isURL && linkable(b.Address) {
		s.Link = b.Address
	}
	return s
}

// papers are the certificates of simulated buses with TLS.
type papers struct {
	dir   string
	buses map[string]bool
}

// issuePapers makes a certificate for each such bus of plan, and one for their
// client that carries role if there is one.
func issuePapers(plan *simulator.Config, cfg *config.Config, role string) (*papers, error) {
	p := &papers{buses: map[string]bool{}}
	for i := range plan.Buses {
		b := &plan.Buses[i]
		if b.Carrier != simulator.Encrypted {
			continue
		}
		if err := p.issue(b, cfg, role); err != nil {
			p.remove()
			return nil, fmt.Errorf("certificate of bus %s: %w", b.Name, err)
		}
	}
	if role != "" && len(p.buses) == 0 {
		return nil, usageError("--role %s: the configuration has no bus with tls:// to ask for it", role)
	}
	return p, nil
}

func (p *papers) issue(b *simulator.Bus, cfg *config.Config, role string) (err error) {
	if p.dir == "" {
		if p.dir, err = os.MkdirTemp("", "gateway-simulate-"); err != nil {
			return err
		}
	}
	p.buses[b.Name] = true
	dir := p.of(b.Name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	ca, err := newPKI(dir)
	if err != nil {
		return err
	}
	if err := ca.issue("device", "simulated device", x509.ExtKeyUsageServerAuth, alsoFor(namesOfBus(cfg, b.Name)...)); err != nil {
		return err
	}
	if err := ca.issue("client", "gateway", x509.ExtKeyUsageClientAuth, withRole(role)); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "device.crt"), filepath.Join(dir, "device.key"))
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	b.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven}
	b.Role = role
	return nil
}

// namesOfBus are the names by which the gateway may want to know a bus.
func namesOfBus(cfg *config.Config, bus string) (names []string) {
	for _, b := range cfg.Buses {
		if b.ID != bus {
			continue
		}
		if u, err := url.Parse(b.Address); err == nil && u.Hostname() != "" {
			names = append(names, u.Hostname())
		}
		if b.Modbus.TLS != nil && b.Modbus.TLS.ServerName != "" {
			names = append(names, b.Modbus.TLS.ServerName)
		}
	}
	return names
}

// of is the folder with the papers of a bus: ca.crt, client.crt and client.key.
func (p *papers) of(bus string) string { return filepath.Join(p.dir, url.PathEscape(bus)) }

func (p *papers) remove() {
	if p.dir != "" {
		os.RemoveAll(p.dir)
	}
}

// overlay is what site.toml says of the papers of a bus.
func (p *papers) overlay(bus string) string {
	if !p.buses[bus] {
		return ""
	}
	dir := p.of(bus)
	return fmt.Sprintf("ca      = %q\ncert    = %q\nkey     = %q\n", filepath.Join(dir, "ca.crt"), filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
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
func overlayFor(cfg *config.Config, addresses map[string]string, papers *papers) string {
	var text strings.Builder
	for _, b := range cfg.Buses {
		address := addresses[b.ID]
		certs := papers.overlay(b.ID)
		if address == "" || address == b.Address && certs == "" {
			continue
		}
		if b.ID != b.Address {
			fmt.Fprintf(&text, "[bus.%q]\naddress = %q\n%s", b.ID, address, certs)
			continue
		}
		if certs != "" { // its devices name it by its URL, which has no place for certificates
			name := strings.NewReplacer(":", "-", "/", "").Replace(b.ID)
			fmt.Fprintf(&text, "[bus.%q]\naddress = %q\n%s", name, address, certs)
			address = name
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
