package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/reference-commands.md")

// TestCommandReference compares docs/reference-commands.md with what the
// commands say of themselves.
func TestCommandReference(t *testing.T) {
	const page = "../../docs/reference-commands.md"
	want := commandReference(newRoot())
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(page); err != nil || string(got) != want {
		t.Errorf("%s is not what the commands say (%v): go test ./cmd/gateway -run TestCommandReference -update", page, err)
	}
}

// commandReference is the page of all commands.
func commandReference(root *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Command reference

Made from the program by `+"`go test ./cmd/gateway -run TestCommandReference -update`"+`; the words
are changed there. `+"`gateway COMMAND --help`"+` shows the same.

Standard output is data, standard error is talk. Exit codes: %d ok, %d failed, %d wrong usage,
%d an error in the configuration. While the gateway runs, commands ask it over its control
socket, as root or as a member of the group `+"`gateway`"+`.

Every command has these flags:

`, exitOK, exitFailed, exitUsage, exitConfig)
	flagTable(&b, root.PersistentFlags())
	all := commandsBelow(root)
	b.WriteString("\n| Command | |\n|---|---|\n")
	for _, c := range all {
		fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", c.CommandPath(), strings.ReplaceAll(c.CommandPath(), " ", "-"), tableCell(c.Short))
	}
	for _, c := range all {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```usage\n%s\n```\n", c.CommandPath(), sentenceOf(c.Short), strings.TrimSuffix(c.UseLine(), " [flags]"))
		if c.Long != "" {
			b.WriteString("\n" + strings.TrimSpace(c.Long) + "\n")
		}
		if c.Example != "" {
			fmt.Fprintf(&b, "\n```\n%s```\n", unindented(c.Example))
		}
		if c.LocalNonPersistentFlags().HasAvailableFlags() {
			b.WriteString("\n")
			flagTable(&b, c.LocalNonPersistentFlags())
		}
	}
	return b.String()
}

// commandsBelow lists the commands that do something, in the order of their names.
func commandsBelow(c *cobra.Command) (all []*cobra.Command) {
	for _, sub := range c.Commands() {
		if sub.Hidden || sub.Name() == "help" || sub.Name() == "completion" {
			continue
		}
		if sub.HasSubCommands() {
			all = append(all, commandsBelow(sub)...)
			continue
		}
		all = append(all, sub)
	}
	return all
}

// valueWords are what people call the types of flags.
var valueWords = map[string]string{
	"string": "TEXT", "stringArray": "TEXT", "strings": "LIST", "duration": "TIME", "int": "N", "uint": "N", "float": "N",
}

func flagTable(b *strings.Builder, flags *pflag.FlagSet) {
	b.WriteString("| Flag | Without it | |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		spelled := "--" + f.Name
		if f.Shorthand != "" {
			spelled = "-" + f.Shorthand + ", " + spelled
		}
		if name != "" {
			spelled += " " + cmp.Or(valueWords[name], name)
		}
		def := ""
		if !slices.Contains([]string{"", "0", "false", "[]", "0s"}, f.DefValue) {
			def = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", spelled, def, tableCell(usage))
	})
}

// tableCell is a text for a table of Markdown.
func tableCell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

func sentenceOf(s string) string { return strings.TrimSuffix(s, ".") + "." }

// unindented takes the two blanks off that stand before each example.
func unindented(s string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.Trim(s, "\n") + "\n") {
		b.WriteString(strings.TrimPrefix(line, "  "))
	}
	return b.String()
}
