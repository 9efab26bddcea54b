package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"edgegateway/internal/config"
)

func newProfiles(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profiles",
		Short: "List, show, search and test device profiles",
		Long: `A profile is the map of one kind of device: with it a device takes three lines.
Profiles come with the program; those in the configuration's folder profiles/
are laid over them. docs/profiles.md says how to write one from a manual.`,
		Example: `  gateway profiles search growatt
  gateway profiles show eastron/sdm630
  gateway profiles test ./mymeter.toml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError("gateway profiles knows no %q; it knows list, search, show and test", args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newProfilesList(opts), newProfilesSearch(opts), newProfilesShow(opts), newProfilesTest(opts))
	return cmd
}

func newProfilesList(opts *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all profiles, and how far each was checked",
		Long: `list names all profiles with maker, model, the number of their points, and what
their facts rest on: one source, two sources that agree, or hardware.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return listProfiles(os.Stdout, readProfiles(opts), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

func newProfilesSearch(opts *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "search WORD...",
		Short: "Find profiles by maker, model, point or what their comment says",
		Example: `  gateway profiles search carlo gavazzi
  gateway profiles search soc_battery         those that tell the state of charge`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, words []string) error {
			found := slices.DeleteFunc(readProfiles(opts), func(p profileInfo) bool { return !p.has(words) })
			if len(found) == 0 {
				return fmt.Errorf("no profile says %s; see `gateway profiles list`, or `gateway probe` to make one for a device that is there", strings.Join(words, " and "))
			}
			return listProfiles(os.Stdout, found, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}

// A profileInfo is one row of the list.
type profileInfo struct {
	Name    string   `json:"name"`
	Maker   string   `json:"maker"`
	Model   string   `json:"model"`
	Checked string   `json:"checked"`        // "one source", "two sources", "hardware", or "" where it does not say
	File    string   `json:"file,omitempty"` // where it stands; without it: built in
	Points  []string `json:"points"`
	Errors  int      `json:"errors,omitempty"` // faults, for which it cannot be used

	comment string
}

// readProfiles reads all profiles there are, also those with faults.
func readProfiles(opts *options) (list []profileInfo) {
	for _, name := range config.ProfileNames(opts.config, config.Options{}) {
		p, report := config.LoadProfile(opts.config, name, config.Options{})
		if p == nil {
			file := ""
			if len(report.Issues) > 0 {
				file = report.Issues[0].File
			}
			list = append(list, profileInfo{Name: name, File: file, Errors: report.Errors(), Points: []string{}})
			continue
		}
		info := profileInfo{Name: name, Maker: p.Maker, Model: p.Model, Checked: p.Checked, File: p.File, Points: []string{}, comment: p.Comment}
		for _, point := range p.Device.Points {
			info.Points = append(info.Points, point.Name)
		}
		list = append(list, info)
	}
	return list
}

// has reports whether every word is in the profile's name, maker, model or
// comment, or is one of its points.
func (p *profileInfo) has(words []string) bool {
	text := strings.ToLower(strings.Join([]string{p.Name, p.Maker, p.Model, strings.ReplaceAll(p.comment, "\n", " ")}, "\n"))
	for _, w := range words {
		w = strings.ToLower(w)
		if !strings.Contains(text, w) && !slices.Contains(p.Points, w) {
			return false
		}
	}
	return true
}

func listProfiles(out io.Writer, list []profileInfo, asJSON bool) error {
	if asJSON {
		return encodeJSON(out, list)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROFILE\tMAKER\tMODEL\tCHECKED\tPOINTS\tFROM\t")
	for _, p := range list {
		if p.Errors > 0 {
			fmt.Fprintf(w, "%s\t\t\tFAULTY\t\t%s\t\n", p.Name, p.File)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t\n", p.Name, p.Maker, p.Model, cmp.Or(p.Checked, "-"), len(p.Points), cmp.Or(p.File, "built in"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	tellChecks(os.Stderr, list)
	return nil
}

// tellChecks says what the listed profiles rest on, and which cannot be used.
func tellChecks(out io.Writer, list []profileInfo) {
	checks := map[string]int{}
	for _, p := range list {
		checks[p.Checked]++
	}
	fmt.Fprintf(out, "%s rest on one source, %d on two sources that agree, %d on hardware: `gateway profiles show NAME` names them.\n",
		count(checks["one source"], "profile"), checks["two sources"], checks["hardware"])
	for _, p := range list {
		if p.Errors > 0 {
			fmt.Fprintf(out, "%s has faults: gateway profiles test %s\n", p.Name, p.Name)
		}
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "s") {
		noun += "e"
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func encodeJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// profileOf reads the profile that a person names, or whose file. What is wrong
// with it is said.
func profileOf(opts *options, name string) (*config.Profile, error) {
	var p *config.Profile
	var report *config.Report
	if strings.HasSuffix(name, ".toml") {
		if _, err := os.Stat(name); err != nil {
			return nil, usageError("read the profile: %w", err)
		}
		p, report = config.LoadProfileFile(name, config.Options{})
	} else {
		p, report = config.LoadProfile(opts.config, name, config.Options{})
	}
	report.WriteTo(os.Stderr)
	if p == nil {
		return nil, &exitError{code: exitConfig}
	}
	return p, nil
}

// nameProfiles completes the name of a profile.
func nameProfiles(opts *options) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return config.ProfileNames(opts.config, config.Options{}), cobra.ShellCompDirectiveDefault
	}
}
