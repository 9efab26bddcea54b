package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"edgegateway/internal/homeassistant"
	"edgegateway/mapping"
)

func newHA(opts *options) *cobra.Command {
	ha := &cobra.Command{
		Use:   "ha",
		Short: "Home Assistant: what is announced to it",
		Args:  cobra.NoArgs,
	}
	ha.AddCommand(newHAPreview(opts))
	return ha
}

func newHAPreview(opts *options) *cobra.Command {
	var only []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "preview",
		Short: "Show the discovery messages, without publishing any",
		Long: `preview shows each discovery message as the service would publish it for the
configuration: its topic, and its payload. It asks no device and needs no service.
Without a [homeassistant] table it shows what one with nothing in it would do.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return previewHA(opts, only, asJSON) },
	}
	cmd.Flags().StringSliceVar(&only, "device", nil, "only these devices, by key or name")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON array of topics and payloads")
	return cmd
}

func previewHA(opts *options, only []string, asJSON bool) error {
	cfg, err := loadDevices(opts.config)
	if err != nil {
		return err
	}
	settings := cfg.HomeAssistant
	if settings == nil {
		fmt.Fprintln(os.Stderr, "gateway: nothing is announced yet: [homeassistant] in gateway.toml switches it on")
		settings = &homeassistant.Settings{Prefix: "homeassistant"}
	}
	mapper, err := mapping.New(cfg.Mapping())
	if err != nil {
		return err
	}
	list, problems := homeassistant.Discover(settings, cfg.Plant(version(), mapper))
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, "gateway:", p.Text)
	}
	if len(only) > 0 {
		names := map[string]string{}
		for _, d := range cfg.Devices {
			names[d.ID], names[d.Name] = d.ID, d.ID
		}
		var wanted []string
		for _, name := range only {
			if names[name] == "" {
				return usageError("--device %s: there is no such device; there are: %s", name, strings.Join(deviceIDs(cfg.Devices), ", "))
			}
			wanted = append(wanted, names[name])
		}
		list = slices.DeleteFunc(list, func(a homeassistant.Announcement) bool { return !slices.Contains(wanted, a.Device) })
	}
	return printAnnouncements(list, asJSON)
}

func printAnnouncements(list []homeassistant.Announcement, asJSON bool) error {
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	if asJSON {
		return out.Encode(list)
	}
	for i := range list {
		fmt.Println(list[i].Topic)
		if err := out.Encode(&list[i].Payload); err != nil {
			return err
		}
	}
	return nil
}
