package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"edgegateway/internal/config"
)

func newCheck(opts *options) *cobra.Command {
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use:   "check [PATH]",
		Short: "Check the configuration: every mistake at once, with file, line and column",
		Long: `check reads the configuration as run would and prints everything that is wrong
with it. It opens no port and changes nothing. The exit code is 78 if there are
errors and 0 if there are none; warnings do not count.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := opts.config
			if len(args) == 1 {
				path = args[0]
			}
			return check(path, asJSON, quiet)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "print nothing but errors")
	return cmd
}

func check(path string, asJSON, quiet bool) error {
	_, report := config.Load(path, config.Options{SecretsElsewhere: true})
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
	return nil
}
