package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon" // the notify protocol, kept by those who define it
	"github.com/spf13/cobra"

	"edgegateway/devices/serial"
	"edgegateway/internal/clock"
	"edgegateway/internal/config"
)

// errSignal is why a gateway stops that was asked to.
var errSignal = errors.New("asked to stop")

func newRun(opts *options) *cobra.Command {
	var readOnly bool
	var level string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Poll the devices, serve the site and bridge to the clouds",
		Long: `run reads the configuration and works until it gets SIGTERM or SIGINT; then it
finishes what is under way and hands over what it can within ten seconds. What
is left stays in the state folder for the next start.

On SIGHUP it reads the configuration again. Buses and bridges that changed begin
anew, all others go on undisturbed; one with an error changes nothing. What needs a
restart, such as the broker's listeners, is told. ` + "`gateway check --diff`" + ` shows
beforehand what a reload would do.`,
		Example: `  gateway run
  gateway run --read-only --log-level info,modbus=debug`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := parseLevels(level)
			if err != nil {
				return err
			}
			return runGateway(opts, readOnly, newVerbosity(l))
		},
	}
	cmd.Flags().BoolVar(&readOnly, "read-only", false, "poll and publish, write nothing to any device")
	cmd.Flags().StringVar(&level, "log-level", "info", "from which level on: debug, info, warn or error; also for one part: info,bridge=debug")
	return cmd
}

func runGateway(opts *options, readOnly bool, v *verbosity) error {
	log := newLogger(v)
	followMemory("/", log)
	ctx, stop := withSignals(context.Background())
	defer stop()
	hangups, ignore := catchHangups()
	defer ignore()
	var settings []config.Setting
	cfg, report := config.Load(opts.config, config.Options{Settings: &settings})
	report.WriteTo(os.Stderr)
	if cfg == nil {
		return &exitError{code: exitConfig}
	}
	// Before anything listens: the serial package needs low descriptors.
	if err := serial.Reserve(len(cfg.Buses)); err != nil {
		log.Warn("serial ports opened late may not work", "err", err)
	}
	at, err := makePlaces(opts.state)
	if err != nil {
		return err
	}
	g, err := newGateway(cfg, at, readOnly, log)
	if err != nil {
		return err
	}
	g.reloads = &reloader{path: opts.config, gateway: g, log: log, hangups: hangups, asked: make(chan chan *ReloadStatus)}
	g.control.reload, g.control.verbosity = g.reloads.ask, v
	startApplied(settings, at, log)
	log.Info("starting", "name", cfg.Name, "version", version(), "config", cfg.Hash(),
		"buses", len(g.works.Load().buses), "devices", len(cfg.Devices), "bridges", len(cfg.Bridges))
	if !cfg.TrustClock && clock.Blind() {
		log.Warn("nobody here can tell whether the clock is synchronised, so values say \"clock\":\"unsynced\": the sandbox keeps the kernel from being asked and systemd-timesyncd does not run; where chrony or ntpd does, see \"Another keeper of the time\" in docs/install.md")
	}
	debug.FreeOSMemory() // reading a large configuration takes more than running it
	err = g.run(ctx, func() {
		log.Info("ready", "broker", g.listening(), "control", g.control.path)
		notify(log, daemon.SdNotifyReady+"\nSTATUS="+g.statusLine())
	})
	notify(log, daemon.SdNotifyStopping)
	return errors.Join(err, g.close())
}

// loadConfig reads a configuration, or prints what is wrong with it.
func loadConfig(path string) (*config.Config, error) {
	cfg, report := config.Load(path, config.Options{})
	report.WriteTo(os.Stderr)
	if cfg == nil {
		return nil, &exitError{code: exitConfig}
	}
	return cfg, nil
}

// loadDevices is loadConfig for commands that use no bridge: they want no
// secrets, and leave warnings to check.
func loadDevices(path string) (*config.Config, error) {
	cfg, report := config.Load(path, config.Options{SecretsElsewhere: true})
	if cfg == nil {
		report.WriteTo(os.Stderr)
		return nil, &exitError{code: exitConfig}
	}
	return cfg, nil
}

// makePlaces makes the folders a gateway writes into.
func makePlaces(state string) (places, error) {
	at := places{state: state, runtime: runtimeDir(state)}
	for _, dir := range []string{at.state, at.runtime} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return at, fmt.Errorf("make the state folder: %w; name one you may write to with --state", err)
		}
	}
	return at, nil
}

// withSignals ends ctx with errSignal when the process is asked to stop; a
// second signal ends the process at once.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(fmt.Errorf("%w by %v", errSignal, s))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { signal.Stop(signals); cancel(nil) }
}

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "err", err)
	}
}
