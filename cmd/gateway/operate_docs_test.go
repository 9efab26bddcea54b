package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"edgegateway/devices"
)

// What docs/operating.md shows is right: each command line works on a running
// gateway and prints what stands below it, and the words it explains are those of
// the program.
func TestOperatingTellsTheTruth(t *testing.T) {
	t.Parallel()
	read, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	checkCommands(t, "docs/operating.md", text)
	s := newSite(t, "[bus.rs485]\naddress = \"/dev/ttyUSB0\"\nbaud = 38400\n", map[string]string{"a": `
[device.main]
bus = "rs485"
unit_id = 1
points.voltage_l1 = { holding = 1, unit = "V" }
[device.boiler]
bus = "rs485"
unit_id = 2
points.flow = { holding = 1 }
`})
	sim := start(t, binary, s.args("simulate", "--site", filepath.Join(s.config, "site.toml"))...)
	eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
	s.run()
	eventually(t, "all is read", func() bool { return s.deviceIs("main", devices.Online) && s.deviceIs("boiler", devices.Online) })

	word := regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
	same := func(text string) string { // but for times and the port
		text = regexp.MustCompile(`(?m)^/\S+ is free`).ReplaceAllString(text, "PORT is free")
		return regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`).ReplaceAllString(text, "TIME")
	}
	ran := 0
	for _, block := range regexp.MustCompile("(?s)```\n(.*?)```").FindAllStringSubmatch(text, -1) {
		for _, part := range regexp.MustCompile(`(?m)^gateway `).Split(block[1], -1)[1:] {
			line, want, _ := strings.Cut(part, "\n")
			var args []string
			for _, w := range word.FindAllString(line, -1) {
				args = append(args, strings.Trim(w, `"'`))
			}
			if args[0] == "monitor" && !strings.Contains(line, "--once") {
				args = append(args, "--once")
			}
			out, talk, code := s.talk(args[0], args[1:]...)
			ran++
			if code != exitOK || want != "" && same(out) != same(want) {
				t.Errorf("gateway %s: code %d\n%s%swant\n%s", line, code, out, talk, want)
			}
		}
	}
	if ran < 12 {
		t.Errorf("only %d command lines", ran)
	}
	source := goSource(t)
	_, table, _ := strings.Cut(text, "| Word | Means |")
	table, _, _ = strings.Cut(table, "\n\n")
	words := 0
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?`) \\w*.*?\\|").FindAllStringSubmatch(table, -1) {
		for _, w := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			words++
			if !strings.Contains(source, w[1]) {
				t.Errorf("the program does not say %q", w[1])
			}
		}
	}
	for _, said := range []string{"muted for\nmaintenance", "bus lent for\n  maintenance"} {
		if !strings.Contains(text, said) || !strings.Contains(source, strings.Join(strings.Fields(said), " ")) {
			t.Errorf("%q is not both in the page and in the program", said)
		}
	}
	if words < 7 {
		t.Errorf("only %d words are explained", words)
	}
}
