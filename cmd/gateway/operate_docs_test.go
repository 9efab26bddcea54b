package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The words that docs/operating.md explains are those of the program.
func TestOperatingTellsTheTruth(t *testing.T) {
	t.Parallel()
	read, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
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
