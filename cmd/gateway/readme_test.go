package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The messages that the walk through commissioning explains are those of the program.
func TestCommissioningTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/commissioning.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	var source strings.Builder
	for _, pattern := range []string{"*.go", "../../devices/*/*.go", "../../internal/*/*.go"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			code, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(code)
		}
	}
	_, table, _ := strings.Cut(text, "| It says |")
	said := regexp.MustCompile("`([^`]+)`")
	messages := 0
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) < 4 || strings.HasPrefix(cells[1], "---") {
			continue
		}
		for _, m := range said.FindAllStringSubmatch(cells[1], -1) {
			messages++
			// What a message fills in is not in the source.
			for _, part := range regexp.MustCompile(`…|minicom.*|mbpoll.*|rs485|139 %|CDAB`).Split(m[1], -1) {
				if part = strings.TrimSpace(part); part != "" && !strings.Contains(source.String(), part) {
					t.Errorf("no message of the program says %q", part)
				}
			}
		}
	}
	if messages < 15 {
		t.Errorf("only %d messages are explained", messages)
	}
}
