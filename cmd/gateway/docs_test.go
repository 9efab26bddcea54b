package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"edgegateway/broker"
	"edgegateway/mapping"
)

// TestCommandsPageTellsTheTruth sends each command that docs/commands.md shows
// and compares the answers, and looks for each reason in the source.
func TestCommandsPageTellsTheTruth(t *testing.T) {
	text, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```([a-z]*)\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	synctest.Test(t, func(t *testing.T) {
		d := newDeskOf(t, blocks[0][2])
		d.c.plant().last = func(_ *mapping.Device, p *mapping.Point) mapping.Value {
			d.mu.Lock()
			defer d.mu.Unlock()
			v, _ := mapping.Decode(p, d.held[p.Name])
			return v
		}
		d.start()
		defer d.stop()
		n := 0
		for _, b := range blocks {
			for line := range strings.Lines(b[2]) {
				mark, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
				topic, payload, _ := strings.Cut(rest, " ")
				switch mark {
				case ">":
					d.set(func() { d.messages = nil })
					d.c.handle(&broker.Message{Topic: topic, Payload: []byte(payload), QoS: 1, From: "anonymous", Client: "panel", Stamp: int64(d.now())}, func(error) {})
					synctest.Wait()
				case "<":
					n++
					d.answered(topic, payload)
				}
			}
		}
		if n < 10 {
			t.Errorf("%d answers in the page", n)
		}
	})

	source := goSource(t)
	for _, row := range regexp.MustCompile("(?m)^\\| (?:`[a-z]+` )?\\| `([^`]+)`").FindAllStringSubmatch(string(text), -1) {
		if reason := row[1]; !strings.Contains(source, reason) {
			t.Errorf("the page explains %q, which the gateway does not say", reason)
		}
	}
}

var anyTime = regexp.MustCompile(`"time":"[^"]*"`)

// answered looks for an answer as the page shows it.
func (d *desk) answered(topic, want string) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var got []string
	for _, m := range d.messages {
		text := anyTime.ReplaceAllString(string(m.Payload), `"time":"…"`)
		if m.Topic == topic && text == want {
			return
		}
		got = append(got, m.Topic+" "+text)
	}
	d.t.Errorf("the page shows %s %s, there came\n%s", topic, want, strings.Join(got, "\n"))
}

// goSource is the source of what answers commands, without tests.
func goSource(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{".", "../../mapping", "../../devices"} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
