// Command gateway bridges serial and Modbus devices to MQTT.
//
// This package is the wiring and the commands; what the gateway does is in
// devices (asking), mapping (meaning), broker and broker/spool (safe keeping)
// and bridge (handing on). Standard output is data, standard error is talk.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra" // commands, suggestions and shell completion
)

// Exit codes, the same for every command.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78 // EX_CONFIG: systemd does not restart on it
)

// An exitError ends the program with a code. A nil err means that everything
// has been said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// Where things are unless a flag says otherwise.
const (
	defaultConfig = "/etc/gateway"
	defaultState  = "/var/lib/gateway"
)

// options are the flags that every command knows.
type options struct {
	config string
	state  string
}

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	code := exitFailed
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
		if exit.err == nil {
			return code
		}
	} else if isUsage(err) {
		code = exitUsage
	}
	fmt.Fprintf(os.Stderr, "gateway: %v\n", err)
	return code
}

// isUsage tells cobra's own complaints, which have no type, from ours.
func isUsage(err error) bool {
	for _, s := range []string{"unknown command", "unknown flag", "unknown shorthand", "accepts ", "requires ", "invalid argument", "flag needs"} {
		if strings.HasPrefix(err.Error(), s) {
			return true
		}
	}
	return false
}

func newRoot() *cobra.Command {
	var opts options
	root := &cobra.Command{
		Use:   "gateway",
		Short: "Bridge serial and Modbus devices to MQTT",
		Long: `gateway reads Modbus and serial devices, serves their values on an MQTT broker
of its own, and carries them to other brokers through outages.

See it work, with nothing to connect or configure:  gateway demo`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetVersionTemplate("gateway {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&opts.config, "config", defaultConfig, "configuration: a folder, or one file")
	flags.StringVar(&opts.state, "state", defaultState, "state folder: buffers and learned facts")
	root.AddCommand(
		newRun(&opts), newCheck(&opts), newApply(&opts), newDemo(), newSimulate(&opts),
		newInit(&opts), newPlan(&opts), newScan(&opts), newProbe(&opts), newRead(&opts), newWrite(&opts), newHold(&opts), newRelease(&opts), newPause(&opts), newMute(&opts), newAudit(&opts),
		newStatus(&opts), newMonitor(&opts), newCapture(&opts), newReplay(), newBridge(&opts), newBuffer(&opts), newLogLevel(&opts), newPasswd(&opts), newSecret(&opts), newDoctor(&opts), newDump(&opts), newProfiles(&opts), newHA(&opts), newVersion(),
	)
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Println("gateway", version())
			return nil
		},
	}
}

// release is the version of a package, which its build sets.
var release string

// version is what the build knows of itself: the release, the module version or
// the commit.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}
