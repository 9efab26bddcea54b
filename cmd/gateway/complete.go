package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"edgegateway/internal/config"
)

// What the shell completes: the names of the configuration, in the place of the
// first argument. A configuration with errors completes nothing, and says
// nothing, as it would stand in the middle of the line that is typed.

// completeFirst completes the first argument by names.
func completeFirst(names func() []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, typed string) (list []string, _ cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		for _, name := range names() {
			if strings.HasPrefix(name, typed) && !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// quietConfig is an empty one where there is none without errors.
func quietConfig(opts *options) *config.Config {
	if cfg, _ := config.Load(opts.config, config.Options{SecretsElsewhere: true}); cfg != nil {
		return cfg
	}
	return new(config.Config)
}

// completeBus completes the name of a bus.
func completeBus(opts *options) cobra.CompletionFunc {
	return completeFirst(func() (names []string) {
		for _, b := range quietConfig(opts).Buses {
			names = append(names, b.ID)
		}
		return names
	})
}

// completeBridge completes the name of a bridge.
func completeBridge(opts *options) cobra.CompletionFunc {
	return completeFirst(func() (names []string) {
		for _, b := range quietConfig(opts).Bridges {
			names = append(names, b.Name)
		}
		return names
	})
}

// completeDevice completes the name of a device.
func completeDevice(opts *options) cobra.CompletionFunc {
	return completeFirst(func() (names []string) {
		for _, d := range quietConfig(opts).Devices {
			names = append(names, d.ID)
		}
		return names
	})
}

// completePoint completes DEVICE, and behind its dot the points that are wanted.
// Only writable ones are of use where something is written, and no device alone.
func completePoint(opts *options, writable bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		list, directive := completeFirst(func() (names []string) {
			for _, d := range quietConfig(opts).Devices {
				inside := strings.HasPrefix(typed, d.ID+".")
				if !inside {
					names = append(names, d.ID+map[bool]string{true: "."}[writable])
				}
				for _, p := range d.All() {
					if inside && (!writable || p.Write != nil) {
						names = append(names, d.ID+"."+p.Name)
					}
				}
			}
			return names
		})(cmd, args, typed)
		return list, directive | cobra.ShellCompDirectiveNoSpace
	}
}
