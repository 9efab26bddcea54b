package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"edgegateway/internal/config"
)

func newCheck(opts *options) *cobra.Command {
	var asJSON, quiet, diff bool
	cmd := &cobra.Command{
		Use:   "check [PATH]",
		Short: "Check the configuration: every mistake at once, with file, line and column",
		Long: `check reads the configuration as run would and prints everything that is wrong
with it. It opens no port and changes nothing. The exit code is 78 if there are
errors and 0 if there are none; warnings do not count.

With --diff it shows what a reload would do (systemctl reload gateway): which buses
and bridges would begin anew, and because of which settings.`,
		Example: `  gateway check
  gateway check --diff
  gateway check plant                  another folder or file`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := opts.config
			if len(args) == 1 {
				path = args[0]
			}
			return check(opts, path, asJSON, quiet, diff)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "print nothing but errors")
	cmd.Flags().BoolVar(&diff, "diff", false, "show what a reload of the running gateway would do")
	return cmd
}

func check(opts *options, path string, asJSON, quiet, diff bool) error {
	opt := config.Options{SecretsElsewhere: true}
	var settings []config.Setting
	if diff {
		opt.Settings = &settings
	}
	_, report := config.Load(path, opt)
	switch {
	case asJSON:
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		if err := out.Encode(report); err != nil {
			return err
		}
	case !quiet || report.Errors() > 0:
		report.WriteTo(os.Stdout)
		fmt.Println(report.Summary())
	}
	if report.Errors() > 0 {
		return &exitError{code: exitConfig}
	}
	if diff {
		return printDiff(os.Stdout, settings, places{state: opts.state, runtime: runtimeDir(opts.state)})
	}
	return nil
}
